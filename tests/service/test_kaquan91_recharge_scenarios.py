"""What the scenarios of 91's recharges show beyond how an order ends: the wire to the letter, what is kept and said."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from reward_sandbox.kaquan91_recharge import CALLBACK_GAPS
from reward_sandbox.scenario import Control, Scenario
from reward_sandbox.scenarios.kaquan91_recharge import NAME, SCENARIOS
from rewardservice.v1 import order_pb2

from .harness import Service
from .stage import ORDINARY, Played, expectation, outcome, play
from .timelapse import run

KIND = "kaquan91_recharge"


def scenario(name: str) -> Scenario:
    return next(one for one in SCENARIOS if one.name == name)


@asynccontextmanager
async def played(name: str, folder: Path, **changes: Any) -> AsyncIterator[Played]:
    """The scenario, at its end; it came out as declared."""
    one = replace(scenario(name), **changes)
    async with play(KIND, one, folder) as result:
        assert outcome(result) == expectation(one)
        yield result


def sent(running: Service) -> dict[str, str]:
    """The fields of the one order in the books that the supplier keeps for later."""
    (order,) = running.sandbox.desk(KIND).book.orders
    return order.details


def evidence(result: Played) -> list[tuple[str, str]]:
    """Of the one purchase: where from, and what it said."""
    (purchase,) = result.explained.purchases
    return [(entry.source, entry.outcome) for entry in purchase.evidence]


# --- What goes out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "money_type", "money"),
    [
        ("topup", "2", "49.50"),
        ("limit-in-fen", "1", "4950"),
        ("several", "2", "148.50"),
        ("limit-of-one", "2", "49.50"),
    ],
)
async def test_the_limit_arrives_in_the_unit_it_is_meant_in(
    tmp_path: Path, name: str, money_type: str, money: str
) -> None:
    """49.50 yuan for one: never a hundred times as much, never a hundredth."""
    async with played(name, tmp_path) as result:
        assert (sent(result.running)["money_type"], sent(result.running)["money"]) == (money_type, money)


@pytest.mark.parametrize(("name", "check"), [("topup", ""), ("stock-checked", "1")])
async def test_the_stock_check_is_sent_when_it_is_wanted(tmp_path: Path, name: str, check: str) -> None:
    async with played(name, tmp_path) as result:
        assert sent(result.running)["check"] == check


@pytest.mark.parametrize("name", ["topup", "account-name-pre-encoded"])
async def test_the_supplier_reads_our_callback_address_as_it_is(tmp_path: Path, name: str) -> None:
    """However often it was encoded on its way."""
    async with played(name, tmp_path) as result:
        port = result.running.place.http_port
        assert sent(result.running)["notify_url"] == f"http://127.0.0.1:{port}/callbacks/{KIND}"


@pytest.mark.parametrize("name", ["account-name", "account-name-encoded"])
async def test_an_account_arrives_letter_by_letter(tmp_path: Path, name: str) -> None:
    async with played(name, tmp_path) as result:
        (order,) = result.books["orders"]
        assert order["recipient"] == NAME


@pytest.mark.parametrize("name", ["too-frequent", "rate-limited"])
async def test_after_too_many_requests_the_same_number_is_sent_again(tmp_path: Path, name: str) -> None:
    async with played(name, tmp_path) as result:
        (order,) = result.books["orders"]
        (purchase,) = result.explained.purchases
        assert order["number"] == purchase.number
        assert purchase.sends == 2
        assert evidence(result)[0] == ("place", "NotSent")


# --- What comes back --------------------------------------------------------------------------------------------------


async def test_a_number_told_as_a_number_keeps_every_digit(tmp_path: Path) -> None:
    async with played("number-as-number", tmp_path) as result:
        (order,) = result.books["orders"]
        (purchase,) = result.explained.purchases
        assert purchase.supplier_reference == order["supplier_number"]
        assert int(order["supplier_number"]) > 2**53


async def test_a_refusal_is_believed_after_one_look(tmp_path: Path) -> None:
    """The look comes at once; after it nobody asks any more."""
    async with played("busy", tmp_path) as result:
        assert evidence(result) == [("place", "Refused"), ("query", "Absent")]


async def test_the_recipient_is_cut_out_of_what_a_refusal_says(tmp_path: Path) -> None:
    number = ORDINARY["phone"]
    quoting = Control("answer", {"call": "create", "refuse": {"text": f"充值账号{number}错误"}})
    expect = scenario("bad-account").expect
    async with played("topup", tmp_path, controls=(quoting,), expect=expect) as result:
        assert "充值账号" in result.order.failure.message
        assert number not in str(result.explained.purchases)
        assert number not in result.order.failure.message


async def test_what_never_arrived_is_given_up_after_two_looks(tmp_path: Path) -> None:
    """The later one a full grace period after the connection ended."""
    async with played("lost", tmp_path) as result:
        assert evidence(result)[-1] == ("query", "AbsenceProven")
        (purchase,) = result.explained.purchases
        assert purchase.sends == 1
        assert len(result.books["refusals"]) == 1


async def test_a_late_answer_is_evidence_like_any_other(tmp_path: Path) -> None:
    """It brings the supplier's number after the callback and the query told the rest."""
    async with played("late", tmp_path) as result:
        assert evidence(result)[0][0] in {"callback", "place", "query"}
        (order,) = result.books["orders"]
        (purchase,) = result.explained.purchases
        assert purchase.supplier_reference == order["supplier_number"]
        assert purchase.sends == 1


@pytest.mark.parametrize("name", ["html", "half", "no-result"])
async def test_an_answer_that_left_a_doubt_is_kept(tmp_path: Path, name: str) -> None:
    async with played(name, tmp_path) as result:
        (purchase,) = result.explained.purchases
        assert [answer.source for answer in purchase.answers] == ["place"]


async def test_a_cancel_is_told_with_what_proved_it(tmp_path: Path) -> None:
    async with played("cancelled", tmp_path) as result:
        assert ("cancel", "CancelAsked") in evidence(result)
        assert result.order.delivered_quantity == 0
        assert not result.order.HasField("failure")


# --- Callbacks --------------------------------------------------------------------------------------------------------


async def test_genuine_callbacks_are_answered_in_one_word_and_forged_ones_refused(tmp_path: Path) -> None:
    async with played("forged-then-genuine", tmp_path) as result:
        *forged, genuine = result.books["orders"][0]["callbacks"]
        assert (genuine["status"], genuine["answer"]) == (200, "success")
        assert {attempt["status"] for attempt in forged} == {404}
        assert not any("success" in attempt["answer"] for attempt in forged)


async def test_a_callback_for_a_number_of_nobody_is_not_acknowledged(tmp_path: Path) -> None:
    async with played("unknown-number", tmp_path) as result:
        unknown, _ = result.books["orders"][0]["callbacks"]
        assert (unknown["status"], unknown["answer"]) == (200, "unknown")


async def test_repeated_callbacks_change_the_state_once(tmp_path: Path) -> None:
    async with played("unheard", tmp_path) as result:
        told = evidence(result)
        assert told.count(("query", "Delivered")) == 1
        assert told.count(("callback", "CalledBack")) == 1


def test_callbacks_are_repeated_by_the_documented_plan(tmp_path: Path) -> None:
    """Ten repeats in four and a half minutes, and the order is fulfilled by the first."""

    async def live() -> None:
        async with played("never-heard", tmp_path) as result:
            times = [attempt["at"] for attempt in result.books["orders"][0]["callbacks"]]
            assert len(times) == 11
            # A leap may bring several that were due in it; none comes before its time.
            due = accumulate(CALLBACK_GAPS, initial=0.0)
            assert all(at - times[0] >= seconds for at, seconds in zip(times, due, strict=True))

    run(live)


# --- After the sale ---------------------------------------------------------------------------------------------------


async def test_a_dispute_leaves_the_state_and_tells_the_operator(tmp_path: Path) -> None:
    async with played("dispute-open", tmp_path) as result:
        (purchase,) = result.explained.purchases
        assert [item.reason for item in purchase.review_items] == [order_pb2.REVIEW_REASON_DISPUTED]
        assert result.order.delivered_quantity == 1
        assert not result.order.HasField("settled_time")


async def test_nothing_is_bought_again_after_a_reversal(tmp_path: Path) -> None:
    async with played("dispute-lost", tmp_path) as result:
        assert len(result.explained.purchases) == 1
        assert result.order.HasField("settled_time")


def test_a_success_is_watched_until_it_confirmed_itself(tmp_path: Path) -> None:
    """24 hours and one more: then nobody asks any more."""

    async def live() -> None:
        async with played("confirmed-after-a-day", tmp_path) as result:
            assert "status 4" in result.codes
            assert result.order.HasField("settled_time")

    run(live)


# --- Choosing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("product", "course"), [("topup", "failed"), ("account-name", "account-name-encoded")])
async def test_a_magic_recipient_gives_any_product_the_course_of_another(
    tmp_path: Path, product: str, course: str
) -> None:
    wanted = scenario(course)
    async with play(KIND, wanted, tmp_path, product=f"{KIND}/{product}", recipient=wanted.magic) as result:
        assert outcome(result) == expectation(wanted)
        (order,) = result.books["orders"]
        assert (order["product"], order["scenario"]) == (scenario(product).product, course)
