"""What Kuaiduibao's scenarios show beyond how an order ends: tokens, cards to the letter, what is kept and said."""

import asyncio
import hashlib
import hmac
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from reward_sandbox import CANARY, SandboxSettings, catalogue, kuaiduibao
from reward_sandbox.scenario import Scenario
from reward_sandbox.scenarios.kuaiduibao import SCENARIOS
from reward_server.config import ConfigError, load_settings
from reward_server.sealing import ClientSealer, create_master_key_file
from rewardservice.v1 import order_pb2

from .harness import Service, State, service
from .stage import Played, expectation, outcome, play
from .timelapse import LeapingClock, LeapingLoop, run

KIND = "kuaiduibao"
Days = tuple[tuple[int, int, int] | None, tuple[int, int, int] | None]
"""First and last day of a card."""
CODE = order_pb2.CARD_KIND_CODE
PAIR = order_pb2.CARD_KIND_NUMBER_AND_SECRET


def scenario(name: str) -> Scenario:
    return next(one for one in SCENARIOS if one.name == name)


@asynccontextmanager
async def played(name: str, folder: Path) -> AsyncIterator[Played]:
    """The scenario, at its end; it came out as declared."""
    one = scenario(name)
    async with play(KIND, one, folder) as result:
        assert outcome(result) == expectation(one)
        yield result


def rows(folder: Path, query: str) -> list[Any]:
    """Reads the store that a service left behind."""
    with sqlite3.connect(folder / "reward.db") as database:
        return database.execute(query).fetchall()


# --- Access tokens ----------------------------------------------------------------------------------------------------


async def buy_at_once(running: Service, name: str, count: int = 8) -> list[order_pb2.Order]:
    """Orders of one card each, all under way together."""
    created = await asyncio.gather(*(running.client.create("kuaiduibao/card", f"{name}-{i}") for i in range(count)))
    orders = await asyncio.gather(*(running.client.until(one.order.order_id) for one in created))
    assert all(order.state == State.ORDER_STATE_FULFILLED for order in orders)
    return orders


def test_a_token_is_renewed_before_its_end_and_once_for_all(tmp_path: Path) -> None:
    """Of a token that lives for 60 s, a renewal at 50 s; orders go on with the old one meanwhile."""

    async def live() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LeapingLoop)
        clock = LeapingClock(loop)
        settings = SandboxSettings(token_seconds=60, clock=clock.seconds)
        async with service(tmp_path, sandbox=settings, clock=clock) as running:
            desk = running.sandbox.desk(KIND)
            await buy_at_once(running, "first")
            assert desk.tokens.issued == 1
            loop.leap(50)
            await buy_at_once(running, "second")
            loop.leap(20)
            await buy_at_once(running, "third")
            assert desk.tokens.issued == 2
            assert "HTTP 401" not in desk.codes_sent
            assert len(running.books(KIND)) == 24

    run(live)


async def test_orders_that_meet_a_dead_token_together_share_its_renewal(tmp_path: Path) -> None:
    """Each is sent at most once more, under its own number, and bought once."""
    async with service(tmp_path) as running:
        desk = running.sandbox.desk(KIND)
        await buy_at_once(running, "first", 1)
        await running.sandbox.order(KIND, "tokens")
        await buy_at_once(running, "second")
        assert desk.tokens.issued == 2
        assert desk.codes_sent["HTTP 401"] >= 1
        books = running.books(KIND)
        assert len({order["number"] for order in books}) == len(books) == 9
        assert all(order["requests"] <= 2 for order in books)


@pytest.mark.rule("P6")
async def test_a_second_send_after_a_renewal_uses_the_same_number(tmp_path: Path) -> None:
    """As books and explanation agree."""
    async with played("token-expired", tmp_path) as result:
        (bought,) = result.books["orders"]
        (purchase,) = result.explained.purchases
        assert (bought["number"], bought["requests"]) == (purchase.number, 2)
        assert purchase.sends == 2
        assert result.running.sandbox.desk(KIND).tokens.issued == 2


async def test_a_supplier_that_refuses_every_token_is_not_asked_in_a_loop(tmp_path: Path) -> None:
    """Two tokens, two sends."""
    async with played("token-always-refused", tmp_path) as result:
        assert result.running.sandbox.desk(KIND).tokens.issued == 2
        assert {refusal["number"] for refusal in result.books["refusals"]} == {result.explained.purchases[0].number}


# --- Cards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "secret", "days"),
    [
        ("coupon", CODE, None, ((2026, 3, 11), (2029, 7, 31))),
        ("card", PAIR, "card_pws", (None, (2029, 4, 28))),
        ("card-pwd", PAIR, "card_pwd", (None, None)),
        ("card-both-passwords", PAIR, "card_pws", (None, (2029, 4, 28))),
        ("card-empty-pws", PAIR, "card_pwd", (None, None)),
        ("card-number-only", CODE, None, (None, None)),
        ("card-odd-dates", PAIR, "card_pws", (None, None)),
        ("cards-as-object", PAIR, "card_pws", (None, (2029, 4, 28))),
    ],
)
async def test_a_card_is_handed_over_to_the_letter(
    name: str, kind: int, secret: str | None, days: Days, tmp_path: Path
) -> None:
    """Number, secret, link and days are those in the supplier's books."""
    async with played(name, tmp_path) as result:
        (card,) = result.order.cards
        (listed,) = result.books["orders"][0]["delivered"]
        assert int(card.kind) == kind
        assert card.number == listed["card_no"]
        assert card.secret == (listed[secret] if secret else "")
        assert card.link == listed.get("link", "")
        told = [(day.year, day.month, day.day) for day in (card.valid_from, card.valid_until)]
        assert told == [day or (0, 0, 0) for day in days]


@pytest.mark.parametrize(
    "name", ["duplicate-replayed", "duplicate-doubled", "card-callback-first", "card-after-callback"]
)
async def test_one_unit_has_one_card(name: str, tmp_path: Path) -> None:
    """Sealed and stored once, however often the supplier was asked for it or told of it."""
    async with played(name, tmp_path):
        pass
    assert rows(tmp_path, "SELECT card_no, hidden FROM cards") == [(1, 0)]


async def test_an_order_number_told_as_a_number_keeps_every_digit(tmp_path: Path) -> None:
    """20 digits are more than a float holds; the callback has them as text and must fit."""
    async with played("order-no-as-number", tmp_path) as result:
        (bought,) = result.books["orders"]
        assert len(bought["supplier_number"]) == 20
        assert result.explained.purchases[0].supplier_reference == bought["supplier_number"]


# --- What is kept and what is said ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "out-of-stock",
        "no-such-product",
        "off-shelf",
        "low-balance",
        "bad-recipient",
        "field-missing",
        "risk-control",
        "object-missing",
    ],
)
async def test_the_text_of_a_refusal_is_kept(name: str, tmp_path: Path) -> None:
    """Code and text, for the client and in the evidence."""
    async with played(name, tmp_path) as result:
        code, _, words = result.books["refusals"][0]["reason"].removeprefix("refused ").partition(" ")
        if fault := scenario(name).behaviour.faults.get("create"):
            assert fault[0].refusal is not None
            code, words = fault[0].refusal.code, fault[0].refusal.text
        assert result.order.failure.message == f"{code}: {words}"
        assert result.explained.purchases[0].evidence[-1].detail == f"{code}: {words}"


@pytest.mark.parametrize(
    "name",
    [
        "cut-body",
        "half-json",
        "server-error-with-card",
        "single-quotes",
        "full-width-comma",
        "trailing-comma",
        "bad-utf8",
        "cards-unreadable",
        "two-cards",
        "topup-with-cards",
    ],
)
@pytest.mark.rule("P10")
async def test_an_answer_that_may_hold_a_paid_card_is_kept_sealed(name: str, tmp_path: Path) -> None:
    """Whole, for a person; no view shows any of it."""
    async with played(name, tmp_path) as result:
        sealer: ClientSealer = await result.running.app.engine._vault.client("dev")
        assert CANARY not in str(result.explained)
    kept = rows(tmp_path, "SELECT order_id, number, sealed FROM answers WHERE source = 'place' ORDER BY answer_id")
    answers = [sealer.open(sealed, "answer", order_id, number) for order_id, number, sealed in kept]
    assert any(CANARY.encode() in answer for answer in answers)
    assert not any(CANARY.encode() in sealed for _, _, sealed in kept)


# --- Callbacks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["topup", "callback-thrice", "callback-forged", "callback-unknown-number"])
async def test_every_genuine_callback_is_answered_with_a_signature(name: str, tmp_path: Path) -> None:
    """Whatever the answer is; the rule of the signature is written here once more. Others get nothing."""
    async with played(name, tmp_path) as result:
        attempts = result.books["orders"][0]["callbacks"]
        assert attempts
        assert (name == "callback-forged") == all(attempt["status"] == 404 for attempt in attempts)
        for attempt in attempts:
            if attempt["status"] == 404:
                assert (attempt["answer"], attempt["accepted"]) == ("", False)
                continue
            answer = json.loads(attempt["answer"])
            text = f"message={answer['message']}&status={answer['status']}"
            assert (
                answer["_sign"] == hmac.new(kuaiduibao.APP_SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()
            )
            assert (attempt["status"], answer["status"]) == (200, int(attempt["accepted"]))


async def test_a_repeated_callback_changes_an_order_once(tmp_path: Path) -> None:
    """The same versions as with a single callback."""
    versions = []
    for name in ("topup", "callback-thrice"):
        folder = tmp_path / name
        folder.mkdir()
        async with played(name, folder) as result:
            versions.append(result.order.version)
    assert versions[0] == versions[1]


async def test_a_forged_callback_leaves_no_trace(tmp_path: Path) -> None:
    """Neither on the order nor among the callbacks that are kept."""
    async with played("callback-forged", tmp_path) as result:
        assert [entry.source for entry in result.explained.purchases[0].evidence] == ["place"]
    assert rows(tmp_path, "SELECT number FROM callbacks") == []


async def test_a_callback_for_nobodys_number_is_kept(tmp_path: Path) -> None:
    """Once, beside the one that is ours; that without a number isn't."""
    async with played("callback-unknown-number", tmp_path) as result:
        number = result.explained.purchases[0].number
    kept = rows(tmp_path, "SELECT number, order_id = '' FROM callbacks ORDER BY at")
    assert kept == [("NOBODYS-ORDER-000000000001", 1), (number, 0)]


# --- Choosing a course, and what is never sent ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bad-recipient", "callback-other-order"])
async def test_a_magic_recipient_chooses_the_course_of_another_top_up(name: str, tmp_path: Path) -> None:
    """The product stays the one ordered, what becomes of it is the other scenario's."""
    one = scenario(name)
    async with play(KIND, one, tmp_path, product="kuaiduibao/topup", recipient=one.magic) as result:
        assert outcome(result) == expectation(one)
        assert all(order["product"] == scenario("topup").product for order in result.books["orders"])
        assert result.order.product_id == "kuaiduibao/topup"


def test_a_product_number_that_is_no_number_is_refused_with_the_configuration(tmp_path: Path) -> None:
    """Long before an order: its wire has no way to say it."""
    create_master_key_file(tmp_path / "master.key")
    products = catalogue("http://127.0.0.1:1").replace('supplier_product = "10002"', 'supplier_product = "JD-CARD"')
    config = tmp_path / "reward.toml"
    config.write_text(f'[secrets]\nmaster_key_file = "{tmp_path}/master.key"\n{products}')
    with pytest.raises(ConfigError, match="product_no is a whole number"):
        load_settings(config, {})
