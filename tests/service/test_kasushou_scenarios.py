"""What Kasushou's scenarios show beyond how an order ends: cards to the letter, looks counted, callbacks answered."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reward_sandbox.scenario import Scenario
from reward_sandbox.scenarios.kasushou import SCENARIOS
from rewardservice.v1 import order_pb2

from .stage import Played, expectation, looks_made, outcome, play, state
from .timelapse import run

KIND = "kasushou"


def scenario(name: str) -> Scenario:
    return next(one for one in SCENARIOS if one.name == name)


@asynccontextmanager
async def played(name: str, folder: Path, **changed: Any) -> AsyncIterator[Played]:
    """The scenario, at its end; it came out as declared."""
    one = replace(scenario(name), **changed)
    async with play(KIND, one, folder) as result:
        assert outcome(result) == expectation(one)
        yield result


def secrets(order: order_pb2.Order) -> list[tuple[str, str]]:
    """What the client got, in the order it got it."""
    return [(card.number, card.secret) for card in order.cards]


def listed(played: Played) -> list[tuple[str, str]]:
    """What stands in the site's books, order by order."""
    return [(card["card_no"], card["card_password"]) for order in played.books["orders"] for card in order["delivered"]]


def evidence(played: Played) -> list[tuple[str, str]]:
    """Source and outcome of everything that was learned, purchase by purchase."""
    return [(entry.source, entry.outcome) for purchase in played.explained.purchases for entry in purchase.evidence]


def looks_of(played: Played) -> list[int]:
    """How many detail calls named each order."""
    return [order.calls["query"] for order in played.running.sandbox.desk(KIND).book.orders]


# --- Cards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["card", "card-short", "card-passwords", "card-bare", "callback-form", "callback-cards-replaced"]
)
async def test_cards_are_those_of_the_order_detail_to_the_letter(name: str, tmp_path: Path) -> None:
    """Whatever a callback listed, and each only once."""
    async with played(name, tmp_path) as result:
        assert secrets(result.order) == listed(result)
        assert len(set(secrets(result.order))) == result.order.quantity
        assert "FORGED" not in str(result.order)


async def test_a_card_in_plain_text_is_passed_on_as_it_stands(tmp_path: Path) -> None:
    """Nobody guesses which part of it is the number."""
    async with played("card-texts", tmp_path) as result:
        texts = [f"卡号:{number} 卡密:{password}" for number, password in listed(result)]
        assert secrets(result.order) == [("", text) for text in texts]


async def test_a_card_without_a_number_is_a_code(tmp_path: Path) -> None:
    """Its password is all there is."""
    async with played("card-passwords", tmp_path) as result:
        assert {card.kind for card in result.order.cards} == {order_pb2.CARD_KIND_CODE}


async def test_cards_of_a_refunded_order_are_stored_nowhere(tmp_path: Path) -> None:
    """Not delivered, and not kept as cards either."""
    async with played("refunded-with-cards", tmp_path) as result:
        assert result.books["orders"][0]["delivered"]
        assert not result.order.cards
    with sqlite3.connect(tmp_path / "reward.db") as database:
        assert database.execute("SELECT count(*) FROM cards").fetchone() == (0,)


async def test_a_card_taken_back_stays_and_is_marked(tmp_path: Path) -> None:
    """The client has it already; that the money came back is said beside it."""
    async with played("reversed", tmp_path) as result:
        assert secrets(result.order) == listed(result)
        assert [card.after_sale for card in result.order.cards] == [order_pb2.AFTER_SALE_REVERSED]


@pytest.mark.rule("O6")
def test_an_order_is_settled_after_a_week(tmp_path: Path) -> None:
    """So long its site may take it back; it is looked at twice a day meanwhile."""

    async def watch() -> None:
        async with played("card", tmp_path, lapse=8 * 86400.0) as result:
            settled, done = result.order.settled_time.ToSeconds(), result.order.update_time.ToSeconds()
            assert settled
            assert done - result.order.create_time.ToSeconds() >= 7 * 86400
            # One more to deliver it, and sometimes one for the callback.
            assert 14 <= looks_of(result)[0] <= 20

    run(watch)


# --- Looks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out-of-stock", "out-of-stock-text", "product-unknown", "price-risen"])
@pytest.mark.rule("P11")
async def test_a_refusal_is_looked_up_once_and_nothing_is_sent_again(name: str, tmp_path: Path) -> None:
    """The text alone settles nothing; one look that finds nothing does."""
    async with played(name, tmp_path) as result:
        assert looks_made(result.running.app.metrics, KIND) == 1
        assert evidence(result) == [("place", "Refused"), ("query", "Absent")]


async def test_a_refusal_of_us_is_no_reason_to_look(tmp_path: Path) -> None:
    """Nothing was taken, so there is nothing to find."""
    async with played("key-wrong", tmp_path) as result:
        assert looks_made(result.running.app.metrics, KIND) == 0
        (purchase,) = result.explained.purchases
        assert "签名错误" in purchase.evidence[0].detail


async def test_every_malformed_answer_was_given(tmp_path: Path) -> None:
    """Ten looks in vain, and the eleventh delivers."""
    async with played("detail-malformed", tmp_path) as result:
        assert looks_of(result) == [11]


@pytest.mark.parametrize("name", ["batch", "batch-incomplete"])
def test_orders_asked_for_together_are_told_apart_by_number(name: str, tmp_path: Path) -> None:
    """Not by their place in the list, which is turned around, too short or too long."""

    async def watch() -> None:
        async with played(name, tmp_path) as result:
            orders = result.running.sandbox.desk(KIND).book.orders
            assert {order.details["asked_together"] for order in orders} == {"2"}
            by_number = {order.number: order for order in orders}
            for purchase in result.explained.purchases:
                assert purchase.supplier_reference == by_number[purchase.number].supplier_number
            assert sorted(secrets(result.order)) == sorted(listed(result))

    run(watch)


@pytest.mark.rule("P5")
async def test_absence_is_proven_by_two_looks_after_the_grace_period(tmp_path: Path) -> None:
    """And the number is never sent again."""
    async with played("dropped-before", tmp_path) as result:
        assert evidence(result)[-1] == ("query", "AbsenceProven")
        assert looks_made(result.running.app.metrics, KIND) >= 2
        assert result.creates == 1


# --- Callbacks --------------------------------------------------------------------------------------------------------


async def test_a_genuine_callback_is_answered_ok_and_followed_by_a_look(tmp_path: Path) -> None:
    """Exactly `ok`: anything else is repeated."""
    async with played("callback-form", tmp_path) as result:
        (attempt,) = result.books["orders"][0]["callbacks"]
        assert (attempt["status"], attempt["answer"]) == (200, "ok")
        assert looks_of(result) == [1]


async def test_forged_callbacks_are_refused_without_a_look(tmp_path: Path) -> None:
    """The genuine one before them made the service ask the site; of the forged ones none does."""
    async with played("callback-forged-after", tmp_path) as result:
        genuine, *forged = result.books["orders"][0]["callbacks"]
        assert {(attempt["status"], attempt["answer"]) for attempt in forged} == {(404, "")}
        assert genuine["answer"] == "ok"
        assert looks_of(result) == [1]
        assert [source for source, _ in evidence(result)].count("callback") == 1


@pytest.mark.parametrize("name", ["replayed", "stale-2", "stale-5", "replaced-cards", "other-reference"])
async def test_a_callback_after_the_delivery_changes_nothing(name: str, tmp_path: Path) -> None:
    """It is acknowledged, and the look that follows finds the order as it was."""
    async with played("card", tmp_path) as result:
        running, before = result.running, result.order
        looked = looks_of(result)[0]
        told = await running.sandbox.order(KIND, "callback", name=name)
        assert told["callback"]["answer"] == "ok"  # type: ignore[index]
        order = running.sandbox.desk(KIND).book.orders[0]
        while order.calls["query"] == looked:
            await running.client.get(before.order_id)
        # The look's answer is on its way; the next one begins when it was applied.
        await running.sandbox.order(KIND, "callback", name="replayed")
        while order.calls["query"] == looked + 1:
            await running.client.get(before.order_id)
        assert await running.client.get(before.order_id) == before


async def test_a_product_notice_is_no_callback_about_an_order(tmp_path: Path) -> None:
    """Its price isn't signed, and nobody takes it."""
    async with played("card", tmp_path) as result:
        told = await result.running.sandbox.order(KIND, "callback", name="product-notice")
        assert told["callback"]["answer"] == ""  # type: ignore[index]
        assert await result.running.client.get(result.order.order_id) == result.order


async def test_the_answer_to_buying_may_come_after_everything_else(tmp_path: Path) -> None:
    """The callback came first, a look delivered the card, and the answer is no second order."""
    async with played("callback-first", tmp_path) as result:
        (bought,) = result.books["orders"]
        assert bought["callbacks"][0]["at"] < bought["times"]["answered"]
        assert ("callback", "CalledBack") in evidence(result)
        assert result.creates == 1


# --- Cancels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cancel", "cancel-forgotten", "cancel-refused"])
async def test_the_site_is_asked_to_cancel_once(name: str, tmp_path: Path) -> None:
    """Whatever it answers: a cancel that it took note of, or refused, isn't asked for again."""
    async with played(name, tmp_path) as result:
        (order,) = result.running.sandbox.desk(KIND).book.orders
        assert order.calls["cancel"] == 1
        assert result.order.HasField("cancel_requested_time")


# --- Magic recipients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["account-refused", "topup-refunded"])
async def test_a_magic_number_chooses_the_course_of_any_topup(name: str, tmp_path: Path) -> None:
    """The product ordered is the usual one."""
    one = scenario(name)
    async with play(KIND, one, tmp_path, product="kasushou/topup", recipient=one.magic) as result:
        assert outcome(result) == expectation(one)
        assert {order["product"] for order in result.books["orders"]} <= {scenario("topup").product}
        assert state(result.order) == "failed"
