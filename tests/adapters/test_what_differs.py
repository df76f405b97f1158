"""An answer about something else than our purchase: a person reads what it says beside what is ours, and no secret."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from reward_adapters import adapter_kinds
from reward_adapters.contract import Call, Context, Doubt, HttpReply, Purchase, Recipient, RecipientKind, Unclear
from reward_adapters.kuaiduibao import Config, Kuaiduibao
from reward_adapters.scrubbing import beside

from .laws import NOW, Specimen, json_reply, outcomes, paths, put
from .test_laws import specimen_of

CARD = "CNRY-7F3K-22QX-9ZTB"
PHONE = "13812345678"
ASKED = [kind for kind in adapter_kinds() if specimen_of(kind).dealer.traits.queryable]


def other(ours: str) -> str:
    """Another number of the same kind."""
    return ours[:-1] + ("1" if ours[-1] != "1" else "2")


def told(specimen: Specimen, purchase: Purchase, reply: HttpReply) -> Iterator[str]:
    """Why a look's answer can't be true, if it can't."""
    call = specimen.dealer.query([purchase], specimen.context)
    assert isinstance(call, Call)
    for outcome in outcomes(call.read(reply)):
        if isinstance(outcome, Unclear) and outcome.doubt is Doubt.CONTRADICTION:
            yield outcome.reason


def spoilt(specimen: Specimen, planted: str | None) -> Iterator[tuple[str, str, str]]:
    """Every contradiction that comes of one number that isn't ours: ours, what stands in its place, what is told."""
    for _, reply in specimen.found:
        [purchase] = specimen.purchases[:1]
        call = specimen.dealer.query([purchase], specimen.context)
        assert isinstance(call, Call)
        for outcome in outcomes(call.read(reply)):
            reference = getattr(outcome, "supplier_reference", None)
            known = replace(purchase, supplier_reference=reference)
            for ours in filter(None, (purchase.number, purchase.supplier_product, reference)):
                theirs = planted or other(ours)
                for changed in put_in_place(reply, ours, theirs):
                    yield from ((ours, theirs, reason) for reason in told(specimen, known, changed))


def put_in_place(reply: HttpReply, ours: str, theirs: str) -> Iterator[HttpReply]:
    """An answer with another number wherever ours stands."""
    try:
        whole = json.loads(reply.body)
    except ValueError:
        return
    for path in paths(whole):
        if str(_at(whole, path)) == ours:
            yield replace(reply, body=json.dumps(put(whole, path, theirs), ensure_ascii=False).encode())


def _at(whole: Any, path: tuple[str | int, ...]) -> object:
    for key in path:
        whole = whole[key]
    return whole


@pytest.mark.parametrize("kind", ASKED)
def test_a_contradiction_names_both_numbers(kind: str) -> None:
    """Ours and the supplier's: an operator has to search for both."""
    found = list(spoilt(specimen_of(kind), None))
    assert found
    lacking = [reason for ours, theirs, reason in found if not (ours in reason and theirs in reason)]
    assert lacking == []


@pytest.mark.rule("O14")
@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("planted", [CARD, PHONE])
def test_a_secret_in_the_place_of_a_number_is_not_shown(kind: str, planted: str) -> None:
    """A card or a recipient that stands where an order's number should be."""
    specimen = specimen_of(kind)
    recipient = Recipient(RecipientKind.PHONE, PHONE, "+86")
    to_a_phone = replace(specimen, purchases=[replace(specimen.purchases[0], recipient=recipient)])
    found = list(spoilt(to_a_phone, planted))
    assert found
    assert [reason for _, _, reason in found if planted in reason] == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"out_trade_no": "NUMBER0000000000000000002"},
            "the answer's out_trade_no is NUMBER0000000000000000002, expected",
        ),
        ({"order_no": "T2"}, "the answer's order_no is T2, expected T1"),
    ],
)
def test_a_granted_query_names_both_numbers(data: dict[str, str], words: str) -> None:
    """Kuaiduibao's query is a matter of agreement."""
    specimen = specimen_of("kuaiduibao")
    supplier = Kuaiduibao(Config(**{**specimen.config, "order_query_path": "/query"}))
    purchase = replace(specimen.purchases[0], number="NUMBER0000000000000000001", supplier_reference="T1")
    call = supplier.query([purchase], Context(NOW, "token"))
    assert isinstance(call, Call)
    [outcome] = outcomes(call.read(json_reply({"code": 0, "data": {"order_no": "T1", "status": "1", **data}})))
    assert isinstance(outcome, Unclear)
    assert outcome.reason.startswith(words)


@pytest.mark.parametrize(
    ("theirs", "ours", "shown"),
    [
        ("01JD0000000000000000000002", "01JD0000000000000000000001", "01JD0000000000000000000002"),
        ("2910", "2909", "2910"),
        (PHONE, "12345678901", "***"),
        (CARD, "01JD0000000000000000000001", "***"),
        ("AB12-CD34", "TO-011566", "***"),
        ("TO-011567", "TO-011566", "TO-011567"),
        ("https://cards.example/x", "12345", "***"),
        ("", "12345", "nothing"),
    ],
)
def test_a_number_is_shown_where_it_is_like_ours(theirs: str, ours: str, shown: str) -> None:
    """Everything else is scrubbed, and a value that must be hidden is hidden in any case."""
    assert beside(theirs, ours, PHONE, "1", None) == shown
