"""`rewardctl review`."""

import io
from pathlib import Path

import grpc
import pytest

from rewardservice.v1 import operator_service_pb2 as pb
from rewardservice.v1 import order_pb2

from .scripted import Refusal
from .test_suppliers import Rewardctl, Scripted, operator, operator_target, rewardctl

__all__ = ["operator", "operator_target", "rewardctl"]

CARDS = '{"number": "NO-1", "secret": "S-1"}\n\n{"qr": {"content": "Q"}}\n'


async def test_reviews_as_a_table(operator: Scripted, rewardctl: Rewardctl) -> None:
    """One row for each open thing, and below it what happened; nothing in it can steer the terminal."""
    ended = await rewardctl("list", "--limit", "1", "--output", "table", command="review")

    assert ended.code == 0
    header, first, second, *below = ended.out.splitlines()
    assert header.split() == ["ORDER", "PURCHASE", "REASON", "STATE", "SINCE", "SUPPLIER", "CLIENT", "CARDS"]
    assert first.split()[:4] == ["ORDER1", "N1", "CONTRADICTION", "NEEDS_REVIEW"]
    assert first.endswith("kss_a     shop    1/2, 1 kept")
    assert second.split()[:3] == ["ORDER1", "N2", "OVERCHARGED"]
    assert below == ["N1  another [2J number"]


async def test_reviews_are_filtered_and_come_page_by_page(operator: Scripted, rewardctl: Rewardctl) -> None:
    """One order a line as JSON."""
    ended = await rewardctl("list", "--supplier", "kss_a", "--reason", "late-success", "--limit", "2", command="review")

    assert [line["order_id"] for line in ended.lines] == ["ORDER1", "ORDER1"]
    assert ended.lines[0]["open"][0]["keeps_open"] is True
    first, second = operator.asked
    assert (first.supplier, first.reason, first.page_size) == ("kss_a", order_pb2.REVIEW_REASON_LATE_SUCCESS, 2)
    assert second.page_token == "page 2"


@pytest.mark.parametrize(
    ("name", "decision"),
    [("fail", pb.DECISION_FAIL), ("buy-again", pb.DECISION_BUY_AGAIN), ("dismiss", pb.DECISION_DISMISS)],
)
async def test_a_decision(operator: Scripted, rewardctl: Rewardctl, name: str, decision: pb.Decision.ValueType) -> None:
    """With its reason; the order as it is then is shown."""
    words = ("resolve", "ORDER1", "N1", "--decision", name, "--reason", "refunded", "--actor", "Li")
    table = await rewardctl(*words, "--output", "table", command="review")
    as_json = await rewardctl(*words, command="review")

    assert operator.asked[0] == pb.ResolveOrderRequest(
        order_id="ORDER1", purchase_number="N1", decision=decision, reason="refunded", actor="Li"
    )
    assert "FULFILLED" in table.out
    assert as_json.lines[0]["order_id"] == "ORDER1"


@pytest.mark.parametrize(("name", "rest"), [("fail", pb.REST_FAIL), ("buy-again", pb.REST_BUY_AGAIN)])
async def test_what_becomes_of_the_rest(
    operator: Scripted, rewardctl: Rewardctl, name: str, rest: pb.Rest.ValueType
) -> None:
    """Of a purchase that was delivered in part."""
    words = ("resolve", "ORDER1", "N1", "--decision", "delivered", "--kept-cards", "--reason", "two of three")
    ended = await rewardctl(*words, "--rest", name, command="review")

    assert ended.code == 0, ended.err
    assert operator.asked[0].rest == rest


@pytest.mark.parametrize("by_standard_input", [False, True])
async def test_cards_come_from_a_file(
    operator: Scripted,
    rewardctl: Rewardctl,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    by_standard_input: bool,
) -> None:
    """Never from the command line, which others can read."""
    file = tmp_path / "cards"
    file.write_text(CARDS)
    monkeypatch.setattr("sys.stdin", io.StringIO(CARDS))
    where = "-" if by_standard_input else str(file)
    words = ("resolve", "ORDER1", "N1", "--decision", "delivered", "--reason", "sent by mail", "--kept-cards")
    ended = await rewardctl(*words, "--cards-file", where, command="review")

    assert ended.code == 0, ended.err
    [asked] = operator.asked
    assert asked.deliver_kept_cards
    assert list(asked.cards) == [
        pb.EnteredCard(number="NO-1", secret="S-1"),
        pb.EnteredCard(qr=order_pb2.QrCode(content="Q")),
    ]


@pytest.mark.parametrize("text", ['{"number": "SECRET"', '{"numbr": "SECRET"}', '"SECRET"', '{"number": 5}'])
async def test_a_file_that_holds_no_cards_is_refused(
    operator: Scripted, rewardctl: Rewardctl, tmp_path: Path, text: str
) -> None:
    """By line, without a word of what stands there."""
    file = tmp_path / "cards"
    file.write_text(f"\n{text}")
    words = ("resolve", "ORDER1", "N1", "--decision", "delivered", "--reason", "x", "--cards-file", str(file))
    ended = await rewardctl(*words, command="review")

    assert (ended.code, operator.asked) == (2, [])
    assert "line 2: not a card" in ended.err
    assert "SECRET" not in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("resolve", "ORDER1", "N1", "--decision", "fail"),
        ("resolve", "ORDER1", "N1", "--decision", "perhaps", "--reason", "x"),
        ("resolve", "ORDER1", "N1", "--decision", "fail", "--reason", "x", "--kept-cards"),
        ("resolve", "ORDER1", "N1", "--decision", "fail", "--reason", "x", "--rest", "fail"),
        ("resolve", "ORDER1", "N1", "--decision", "delivered", "--reason", "x", "--rest", "perhaps"),
        ("resolve", "ORDER1", "--decision", "fail", "--reason", "x"),
        ("list", "--limit", "0"),
    ],
)
async def test_wrong_usage(operator: Scripted, rewardctl: Rewardctl, arguments: tuple[str, ...]) -> None:
    """Answered on standard error with code 2, and nothing is asked: least of all without a reason."""
    ended = await rewardctl(*arguments, command="review")

    assert (ended.code, ended.out, operator.asked) == (2, "", [])


async def test_a_refused_decision(operator: Scripted, rewardctl: Rewardctl) -> None:
    """In the server's own words."""
    operator.refusal = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "DECISION_REFUSED", "not for purchase N1: dead")
    ended = await rewardctl("resolve", "O", "N1", "--decision", "fail", "--reason", "x", command="review")

    assert (ended.code, ended.err) == (4, "rewardctl: not for purchase N1: dead (DECISION_REFUSED)\n")
