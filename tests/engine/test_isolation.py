"""One supplier that misbehaves hurts nobody else, and no account is called more often than it may be.

Everything here is told by counts and states: how often a supplier was called, and where the orders stand.
"""

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from reward_adapters.contract import (
    Absent,
    Accepted,
    Delivered,
    NotSent,
    NotSentCause,
    Outcome,
    Refunded,
    Refused,
    Traits,
    Unclear,
)
from reward_server.clock import Clock
from reward_server.config.accounts import EngineKeys
from reward_server.domain.order import FailureReason, Order, OrderState, PurchaseState
from reward_server.engine import account as account_module
from reward_server.engine.account import (
    CALM_LOOKS_AT_ONCE,
    FIRST_HOLD_SECONDS,
    LONGEST_HOLD_SECONDS,
    LOOKS_AT_ONCE,
    SHORTEST_SHARE,
    UNANSWERED,
    Account,
    AccountPlan,
    AccountState,
    Turns,
    rest_seconds,
)
from reward_server.engine.breaker import DOUBTS_IN_ROW, Breaker
from reward_server.metrics import Metrics

from .rig import (
    Asked,
    Handler,
    Reply,
    Rig,
    Rigged,
    Script,
    ScriptedSupplier,
    accepted,
    accepts_it,
    after,
    answers,
    delivered,
    hangs_up,
    refused,
    takes_it,
    traits,
    until,
)

HEALTHY = ("b", "c")
EACH = 20
"""Orders per account: more than one account has slots for."""
SLOTS = 4


@contextmanager
def nobody() -> Iterator[str]:
    """The URL of a port that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def only(account: str, handler: Handler) -> Handler:
    """One account's supplier does something; the others deliver."""

    async def handle(asked: Asked) -> Reply:
        return await (handler if asked.account == account else takes_it)(asked)

    return handle


async def orders_of(rig: Rig, *accounts: str, count: int = EACH) -> list[Order]:
    """So many orders for each of the accounts, mixed."""
    return [await rig.order(account, f"{account}-{n}") for n in range(count) for account in accounts]


async def all_fulfilled(rig: Rig, orders: list[Order]) -> None:
    """Waits for the end of these orders."""
    for order in orders:
        await rig.when_state(order, OrderState.FULFILLED)


async def states_of(rig: Rig, orders: list[Order]) -> dict[OrderState, int]:
    """How many of the orders stand in which state."""
    found = [(await rig.stored(order)).state for order in orders]
    return {state: found.count(state) for state in set(found)}


# --- One of three suppliers is dead -----------------------------------------------------------------------------------


@pytest.mark.rule("P13")
async def test_a_supplier_that_is_down_holds_up_its_own_orders_only(rigged: Rigged) -> None:
    """The others deliver everything, one call an order; the dead one's orders wait, proven unsent."""
    rig = await rigged(a=traits(), b=traits(), c=traits(), max_in_flight=SLOTS)
    with nobody() as url:
        rig.suppliers["a"]._url = url
        stuck = await orders_of(rig, "a")
        await all_fulfilled(rig, await orders_of(rig, *HEALTHY))
        assert await states_of(rig, stuck) == {OrderState.ACCEPTED: EACH}
        assert [len(rig.script.places(account)) for account in ("a", *HEALTHY)] == [0, EACH, EACH]
        assert rig.accounts["a"].standing().state is AccountState.RESTING
        assert [rig.accounts[account].standing().state for account in HEALTHY] == [AccountState.READY] * 2


@pytest.mark.rule("P13")
async def test_a_supplier_that_never_answers_holds_up_its_own_orders_only(rigged: Rigged) -> None:
    """It gets as many requests as it has slots, the rest of its orders isn't sent; the others deliver everything. Once
    it answers, everything it was asked for is delivered, and nothing was asked for twice.
    """
    rig = await rigged(a=traits(), b=traits(), c=traits(), max_in_flight=SLOTS)
    gate = asyncio.Event()

    async def hangs(asked: Asked) -> Reply:
        await gate.wait()
        return await takes_it(asked)

    rig.script.place = only("a", hangs)
    stuck = await orders_of(rig, "a")
    await all_fulfilled(rig, await orders_of(rig, *HEALTHY))
    assert [len(rig.script.places(account)) for account in ("a", *HEALTHY)] == [SLOTS, EACH, EACH]
    waiting = [(await rig.stored(order)).purchases[0].state for order in stuck]
    assert (waiting.count(PurchaseState.SUBMITTING), waiting.count(PurchaseState.WAITING)) == (SLOTS, EACH - SLOTS)
    # A slot is given back a moment after what it brought is stored.
    await until(lambda: rig.accounts["b"].in_flight == 0)
    assert rig.accounts["a"].in_flight == SLOTS
    gate.set()
    await all_fulfilled(rig, stuck)
    assert len({asked.number for asked in rig.script.places("a")}) == len(rig.script.places("a")) == EACH


@pytest.mark.rule("P13")
async def test_a_slow_supplier_takes_its_own_time_only(rigged: Rigged) -> None:
    """Each of its answers lets it have one more request; meanwhile the others deliver everything."""
    rig = await rigged(a=traits(), b=traits(), c=traits(), max_in_flight=SLOTS)
    answered = asyncio.Semaphore(0)

    async def slowly(asked: Asked) -> Reply:
        await answered.acquire()
        return await takes_it(asked)

    rig.script.place = only("a", slowly)
    slow = await orders_of(rig, "a")
    await all_fulfilled(rig, await orders_of(rig, *HEALTHY))
    for more in range(1, EACH + 1):
        answered.release()
        await until(lambda more=more: len(rig.script.places("a")) == min(EACH, SLOTS + more))  # type: ignore[misc]
    await all_fulfilled(rig, slow)
    assert len({asked.number for asked in rig.script.places("a")}) == EACH


@pytest.mark.rule("P13")
async def test_a_supplier_that_times_out_leaves_doubts_at_its_own_orders_only(
    rigged: Rigged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It swallows what it had slots for and gets nothing more; the others deliver everything, one call an order."""
    monkeypatch.setattr(account_module, "FIRST_HOLD_SECONDS", LONG)
    its = traits(read_timeout=0.05, not_found_grace=LONG)
    rig = await rigged(a=its, b=traits(), c=traits(), max_in_flight=SLOTS)
    rig.script.place = only("a", never)
    stuck = await orders_of(rig, "a")
    await all_fulfilled(rig, await orders_of(rig, *HEALTHY))
    await until(lambda: rig.accounts["a"].in_flight == 0)
    await until(lambda: unanswered(rig, "a") == 1)
    assert [len(rig.script.places(account)) for account in ("a", *HEALTHY)] == [SLOTS, EACH, EACH]
    assert await states_of(rig, stuck) == {OrderState.OUTCOME_UNKNOWN: SLOTS, OrderState.ACCEPTED: EACH - SLOTS}
    states = [rig.accounts[account].standing().state for account in ("a", *HEALTHY)]
    assert states == [AccountState.RESTING, AccountState.READY, AccountState.READY]


@pytest.mark.rule("P13")
async def test_questions_that_hang_hold_up_nobody_elses_looks(rigged: Rigged) -> None:
    """A supplier that takes orders and answers no question is asked by a few looks at a time; other looks go on."""
    rig = await rigged(a=traits(), b=traits(), c=traits(), max_in_flight=SLOTS)
    gate = asyncio.Event()

    async def hangs(asked: Asked) -> Reply:
        await gate.wait()
        return await takes_it(asked)

    rig.script.place = accepts_it
    rig.script.query = only("a", hangs)
    stuck = await orders_of(rig, "a")
    await all_fulfilled(rig, await orders_of(rig, *HEALTHY))
    await until(lambda: sum(asked.account == "a" for asked in rig.script.queries) == LOOKS_AT_ONCE)
    assert await states_of(rig, stuck) == {OrderState.PROCESSING: EACH}
    assert len(rig.script.places("a")) == EACH
    gate.set()
    await all_fulfilled(rig, stuck)


@pytest.mark.rule("P13")
async def test_looks_at_open_purchases_do_not_wait_for_those_at_delivered_ones(rigged: Rigged) -> None:
    """However many questions about deliveries hang, a purchase that was only accepted is asked after and delivered."""
    its = traits(aftersale_watch=600.0, aftersale_every=0.03, read_timeout=60.0)
    rig = await rigged(a=its, max_in_flight=SLOTS)
    rig.script.query = never
    await all_fulfilled(rig, await orders_of(rig, "a"))
    await until(lambda: len(rig.script.queries) >= CALM_LOOKS_AT_ONCE)
    sold = {asked.number for asked in rig.script.places("a")}

    async def knows_new_ones(asked: Asked) -> Reply:
        return await (never if asked.number in sold else takes_it)(asked)

    rig.script.place = accepts_it
    rig.script.query = knows_new_ones
    await all_fulfilled(rig, [await rig.order("a", f"late-{n}") for n in range(SLOTS)])
    assert sum(asked.number in sold for asked in rig.script.queries) == CALM_LOOKS_AT_ONCE


@pytest.mark.rule("P13", "P15")
async def test_one_account_that_is_refused_pauses_alone(rigged: Rigged) -> None:
    """Suppliers that refuse one account (limits, signature) go on with another account of the same kind."""
    rig = await rigged(a=traits(), b=traits())
    rig.accounts["a"].heard(NotSent(cause=NotSentCause.CONFIGURATION, detail="signature"))
    rig.rest("b", 0.0)
    assert rig.accounts["a"].standing().state is AccountState.PAUSED
    [order] = await orders_of(rig, "b", count=1)
    await rig.when_state(order, OrderState.FULFILLED)


# --- Rests ------------------------------------------------------------------------------------------------------------


class StillClock(Clock):
    """A clock that stands until it is told to go on; the one of an account that nobody's tasks work with."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now_ms(self) -> int:
        return int(1000 * self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class Nowhere:
    """Stands for a store and a sealer that are never asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} isn't needed here")


@pytest.fixture
async def still() -> AsyncIterator[tuple[Account, StillClock]]:
    """An account whose time stands still."""
    clock = StillClock()
    supplier = ScriptedSupplier("a", "http://127.0.0.1:9", traits())
    plan = AccountPlan(name="a", traits=supplier.traits)
    account = Account(plan, supplier, store=Nowhere(), sealer=Nowhere(), clock=clock, metrics=Metrics())
    yield account, clock
    await account.close()


DOWN = NotSent(cause=NotSentCause.UNREACHABLE, detail="ClientConnectorError")


@pytest.mark.rule("P14")
def test_rests_get_longer_and_never_too_long(still: tuple[Account, StillClock]) -> None:
    """Each failure in a row doubles the rest, up to the longest, and an answer of whatever sort forgets them."""
    account, clock = still
    for nth in range(12):
        account.heard(DOWN)
        longest = min(FIRST_HOLD_SECONDS * 2**nth, LONGEST_HOLD_SECONDS)
        assert SHORTEST_SHARE * longest <= account.ready_in() <= longest
        assert not account.take_slot()
        clock.seconds += account.ready_in() + 0.001
        assert account.take_slot()
        account.give_slot()
    account.heard(None)
    account.heard(DOWN)
    assert account.ready_in() <= FIRST_HOLD_SECONDS


@pytest.mark.rule("P14")
def test_what_was_under_way_when_a_rest_began_counts_once(still: tuple[Account, StillClock]) -> None:
    """All slots fail together when a supplier goes down: that is one failure, not sixteen in a row."""
    account, clock = still
    for _ in range(16):
        account.heard(DOWN)
    assert account.ready_in() <= FIRST_HOLD_SECONDS
    clock.seconds += account.ready_in() + 0.001
    account.heard(DOWN)
    assert FIRST_HOLD_SECONDS < account.ready_in() <= 2 * FIRST_HOLD_SECONDS
    account.heard(NotSent(cause=NotSentCause.RATE_LIMITED, retry_after=100.0))
    assert account.ready_in() == pytest.approx(100.0)


@pytest.mark.rule("P14")
async def test_accounts_that_lost_the_same_supplier_do_not_come_back_in_step(rigged: Rigged) -> None:
    """Rests have jitter."""
    rig = await rigged(a=traits(), b=traits(), c=traits(), d=traits(), e=traits(), f=traits())
    for account in rig.accounts.values():
        account.heard(DOWN)
    assert len({round(account.ready_in(), 4) for account in rig.accounts.values()}) > 1


@pytest.mark.rule("P14")
@given(rests=st.integers(0, 100_000))
def test_every_rest_is_between_its_share_and_its_length(rests: int) -> None:
    """Whatever chance says: never shorter than promised, never longer than the longest."""
    longest = min(FIRST_HOLD_SECONDS * 2.0 ** min(rests, 16), LONGEST_HOLD_SECONDS)
    assert SHORTEST_SHARE * longest <= rest_seconds(rests) <= longest


# --- Purchases that nobody answers ------------------------------------------------------------------------------------

SILENCE = Unclear("no answer within 30 s")
LONG = 3_600.0
"""A rest that outlasts its test."""


async def never(asked: Asked) -> Reply:
    """Takes the request and says nothing."""
    await asyncio.Event().wait()
    raise AssertionError(asked)


def unanswered(rig: Rig, name: str) -> int:
    """How often an account rested because purchases weren't answered, as the metrics tell."""
    line = f'reward_account_rests_total{{account="{name}",cause="{UNANSWERED}"}} '
    [value] = [text.removeprefix(line) for text in rig.metrics.render().decode().splitlines() if text.startswith(line)]
    return int(float(value))


def swallow(account: Account, clock: StillClock, count: int) -> None:
    """So many purchases that were sent now are left unanswered."""
    for _ in range(count):
        account.purchase_ended(SILENCE, sent_at=clock.seconds)


def wake_up(account: Account, clock: StillClock) -> None:
    """The rest ends."""
    clock.seconds += account.ready_in() + 0.001


@pytest.mark.rule("P14")
def test_doubts_in_a_row_make_an_account_rest(still: tuple[Account, StillClock]) -> None:
    """Not one or two of them; and the operator reads how many there were, what the last one was and when it is tried
    again.
    """
    account, clock = still
    swallow(account, clock, DOUBTS_IN_ROW - 1)
    assert (account.ready_in(), account.standing().state) == (0.0, AccountState.READY)
    swallow(account, clock, 1)
    assert not account.take_slot()
    standing = account.standing()
    assert standing.state is AccountState.RESTING
    assert standing.why == "3 purchases in a row weren't answered clearly"
    assert standing.detail == "the last: no answer within 30 s"
    assert standing.until == pytest.approx(1000 * (clock.seconds + account.ready_in()), abs=1)


@pytest.mark.rule("P14")
def test_after_a_rest_one_purchase_is_tried(still: tuple[Account, StillClock]) -> None:
    """Alone, and meanwhile the account is still called resting; without one that is tried it is ready."""
    account, clock = still
    swallow(account, clock, DOUBTS_IN_ROW)
    wake_up(account, clock)
    assert account.standing().state is AccountState.READY
    assert (account.take_slot(), account.take_slot()) == (True, False)
    standing = account.standing()
    assert (standing.state, standing.until) == (AccountState.RESTING, clock.now_ms())
    assert standing.why.endswith("; one is being tried")


@pytest.mark.rule("P14")
def test_every_trial_that_fails_makes_the_rest_longer(still: tuple[Account, StillClock]) -> None:
    """Twice as long each time, up to the longest. An answer brings back all slots, and the shortest rest next time."""
    account, clock = still
    swallow(account, clock, DOUBTS_IN_ROW)
    for nth in range(12):
        longest = min(FIRST_HOLD_SECONDS * 2**nth, LONGEST_HOLD_SECONDS)
        assert SHORTEST_SHARE * longest <= account.ready_in() <= longest
        wake_up(account, clock)
        assert account.slots == 1
        swallow(account, clock, 1)
    assert account.purchase_ended(Accepted(), sent_at=clock.seconds)
    assert (account.slots, account.ready_in()) == (account.plan.max_in_flight, 0.0)
    swallow(account, clock, DOUBTS_IN_ROW)
    assert account.ready_in() <= FIRST_HOLD_SECONDS


@pytest.mark.rule("P14")
def test_what_was_sent_before_a_rest_does_not_make_it_longer(still: tuple[Account, StillClock]) -> None:
    """All slots time out one after the other, also after the rest: that is one failure of the supplier."""
    account, clock = still
    sent_at = clock.seconds
    swallow(account, clock, DOUBTS_IN_ROW)
    wake_up(account, clock)
    for _ in range(13):
        account.purchase_ended(SILENCE, sent_at=sent_at)
    assert account.ready_in() == 0.0
    swallow(account, clock, 1)
    assert FIRST_HOLD_SECONDS < account.ready_in() <= 2 * FIRST_HOLD_SECONDS


@pytest.mark.rule("P14")
@pytest.mark.parametrize(
    "good",
    [Accepted(), Delivered(), Refused(code="1", message="", certain=False), Refunded(), Absent()],
    ids=lambda outcome: type(outcome).__name__,
)
def test_every_answer_that_tells_what_became_of_a_purchase_ends_the_doubts(
    good: Outcome, still: tuple[Account, StillClock]
) -> None:
    """Also a bad one, also during a rest: the supplier answers."""
    account, clock = still
    swallow(account, clock, DOUBTS_IN_ROW)
    assert account.purchase_ended(good, sent_at=clock.seconds)
    assert account.standing().state is AccountState.READY
    assert account.slots == account.plan.max_in_flight


@pytest.mark.rule("P14")
@pytest.mark.parametrize("cause", list(NotSentCause))
def test_what_was_not_sent_says_nothing_about_doubts(cause: NotSentCause, still: tuple[Account, StillClock]) -> None:
    """Nothing can have been bought by it, and nothing was answered."""
    account, clock = still
    swallow(account, clock, DOUBTS_IN_ROW - 1)
    assert not account.purchase_ended(NotSent(cause=cause), sent_at=clock.seconds)
    assert account.slots == 1
    swallow(account, clock, 1)
    assert account.ready_in() > 0


@pytest.mark.rule("P14")
def test_answers_to_questions_say_nothing_about_doubts(still: tuple[Account, StillClock]) -> None:
    """A supplier that answers questions and swallows purchases gets no more of them for it."""
    account, clock = still
    swallow(account, clock, DOUBTS_IN_ROW)
    account.heard(None)
    assert account.ready_in() > 0
    wake_up(account, clock)
    account.heard(None)
    assert account.slots == 1


@pytest.mark.rule("P14")
def test_a_doubt_does_not_shorten_the_rests_of_a_supplier_that_cannot_be_reached(
    still: tuple[Account, StillClock],
) -> None:
    """It takes an answer for that."""
    account, clock = still
    account.heard(DOWN)
    wake_up(account, clock)
    account.heard(SILENCE)
    account.heard(DOWN)
    assert account.ready_in() > FIRST_HOLD_SECONDS


@pytest.mark.rule("P14")
def test_the_longer_rest_is_the_one_that_is_told(still: tuple[Account, StillClock]) -> None:
    """An account may rest for two reasons at a time."""
    account, clock = still
    swallow(account, clock, DOUBTS_IN_ROW)
    account.heard(NotSent(cause=NotSentCause.RATE_LIMITED, retry_after=60.0))
    assert account.standing().why == "rate_limited"
    assert account.ready_in() == pytest.approx(60.0)


@pytest.mark.rule("P14")
@given(slots=st.integers(1, 20), data=st.data())
def test_a_supplier_that_hangs_gets_its_slots_once_and_one_more_for_each_rest(slots: int, data: st.DataObject) -> None:
    """In whatever order and however late its purchases time out, and however long each rest is."""
    clock = StillClock()
    breaker = Breaker(clock, rest_seconds)
    under_way: list[float] = []
    sent = rests = 0
    for _ in range(40):
        room = slots if breaker.room is None else min(breaker.room, slots)
        while len(under_way) < room and clock.seconds >= breaker.resting_until:
            under_way.append(clock.seconds)
            sent += 1
        if data.draw(st.booleans()) and under_way:
            sent_at = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            rests += breaker.doubt("silence", sent_at=sent_at) is not None
        clock.seconds += data.draw(st.sampled_from([0.001, 0.4, 40.0]))
        assert sent <= max(slots, DOUBTS_IN_ROW) + rests


@pytest.mark.rule("P14")
async def test_each_rest_costs_a_supplier_that_hangs_one_purchase(
    rigged: Rigged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One slot only: it swallows three in a row, then one alone after each rest. When it answers again everything is
    delivered, the swallowed ones by looks, and nothing was asked for twice.
    """
    monkeypatch.setattr(account_module, "FIRST_HOLD_SECONDS", 0.02)
    monkeypatch.setattr(account_module, "LONGEST_HOLD_SECONDS", 0.02)
    rig = await rigged(a=traits(read_timeout=0.05), b=traits(), max_in_flight=1)
    beside: list[int] = []

    async def swallows(asked: Asked) -> Reply:
        beside.append(rig.accounts["a"].in_flight - 1)
        return await never(asked)

    rig.script.place = only("a", swallows)
    rig.script.query = only("a", never)
    stuck = await orders_of(rig, "a")
    await all_fulfilled(rig, await orders_of(rig, "b"))
    await until(lambda: len(rig.script.places("a")) >= DOUBTS_IN_ROW + 5)
    assert len(rig.script.places("a")) <= DOUBTS_IN_ROW + unanswered(rig, "a")
    assert set(beside) == {0}
    rig.script.place = rig.script.query = takes_it
    await all_fulfilled(rig, stuck)
    assert rig.accounts["a"].standing().state is AccountState.READY
    assert rig.accounts["a"].slots == 1
    assert len({asked.number for asked in rig.script.places("a")}) == len(rig.script.places("a")) == EACH


async def breaks_off(asked: Asked) -> Reply:
    """Half an answer, then the connection is gone."""
    response = web.StreamResponse(headers={"Content-Length": "500"})
    await response.prepare(asked.request)
    await response.write(b'{"said": "deliv')
    return await hangs_up(asked)


async def a_gateway_speaks(_asked: Asked) -> Reply:
    """An error page of somebody in between."""
    return web.Response(status=502, text="<html>Bad Gateway</html>", content_type="text/html")


@pytest.mark.rule("P14")
@pytest.mark.parametrize("breaks", [hangs_up, breaks_off, a_gateway_speaks, answers(b"junk")])
async def test_cut_answers_and_junk_count_like_silence(
    breaks: Handler, rigged: Rigged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may have bought something; a supplier that breaks quickly would leave a doubt in no time for each order."""
    monkeypatch.setattr(account_module, "FIRST_HOLD_SECONDS", LONG)
    rig = await rigged(a=traits(not_found_grace=LONG), max_in_flight=1)
    rig.script.place = breaks
    orders = await orders_of(rig, "a")
    await until(lambda: unanswered(rig, "a") == 1)
    await until(lambda: rig.accounts["a"].in_flight == 0)
    assert len(rig.script.places()) == DOUBTS_IN_ROW
    doubts = {OrderState.OUTCOME_UNKNOWN: DOUBTS_IN_ROW, OrderState.ACCEPTED: EACH - DOUBTS_IN_ROW}
    assert await states_of(rig, orders) == doubts


@pytest.mark.rule("P14")
async def test_one_product_that_is_not_understood_stops_no_other(rigged: Rigged) -> None:
    """An answer in good form with an unknown word: a doubt each, and one in the row however many there are."""
    rig = await rigged(a=traits(not_found_grace=LONG), max_in_flight=1)
    rig.script.place = answers({"said": "something new"})
    orders = await orders_of(rig, "a", count=2 * DOUBTS_IN_ROW)
    for order in orders:
        await rig.when_state(order, OrderState.OUTCOME_UNKNOWN)
    assert (unanswered(rig, "a"), len(rig.script.places())) == (0, len(orders))


@pytest.mark.rule("P14")
def test_a_supplier_that_puzzles_us_about_several_products_rests(still: tuple[Account, StillClock]) -> None:
    """It changed its wire: what it does with our purchases nobody knows."""
    account, clock = still
    for product in map(str, range(DOUBTS_IN_ROW)):
        assert account.standing().state is AccountState.READY
        account.purchase_ended(Unclear("state 9 isn't known"), sent_at=clock.seconds, puzzle=product)
        account.purchase_ended(Unclear("state 9 isn't known"), sent_at=clock.seconds, puzzle=product)
    assert account.standing().state is AccountState.RESTING


@pytest.mark.rule("P14")
async def test_what_waits_for_an_account_that_swallows_is_proven_unsent(
    rigged: Rigged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So its sending deadline ends it like any other that wasn't sent: no doubt is left behind."""
    monkeypatch.setattr(account_module, "FIRST_HOLD_SECONDS", LONG)
    rig = await rigged(a=traits(read_timeout=0.05, send_by=0.6), max_in_flight=1)
    rig.script.place = never
    orders = await orders_of(rig, "a", count=DOUBTS_IN_ROW + 2)
    for order in orders[DOUBTS_IN_ROW:]:
        now = await rig.when_state(order, OrderState.FAILED)
        assert now.failure is not None
        assert now.failure.reason is FailureReason.NOT_SENT_IN_TIME
        assert now.purchases[0].sends == 0
    assert len(rig.script.places()) == DOUBTS_IN_ROW


@pytest.mark.rule("P14")
async def test_looks_go_on_while_an_account_rests(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was swallowed is found and delivered, and that sends nothing more: questions aren't purchases."""
    monkeypatch.setattr(account_module, "FIRST_HOLD_SECONDS", LONG)
    rig = await rigged(a=traits(read_timeout=0.05), max_in_flight=SLOTS)
    rig.script.place = never
    gate = asyncio.Event()
    rig.script.query = after(gate, accepted())
    orders = await orders_of(rig, "a")
    await until(lambda: unanswered(rig, "a") == 1)
    rig.script.query = takes_it
    gate.set()
    await all_fulfilled(rig, orders[:SLOTS])
    assert rig.accounts["a"].standing().state is AccountState.RESTING
    assert len(rig.script.places()) == SLOTS


@pytest.mark.rule("P14")
async def test_a_late_answer_settles_its_order_and_leaves_the_account_resting(
    rigged: Rigged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is evidence like any other, and says that the supplier is slow."""
    monkeypatch.setattr(account_module, "FIRST_HOLD_SECONDS", LONG)
    rig = await rigged(a=traits(read_timeout=0.05, queryable=False), max_in_flight=SLOTS)
    gate = asyncio.Event()
    rig.script.place = after(gate, delivered("late"))
    orders = await orders_of(rig, "a")
    await until(lambda: unanswered(rig, "a") == 1)
    # The last of them has timed out as well: an answer in time would end the rest.
    await until(lambda: rig.accounts["a"].in_flight == 0)
    gate.set()
    await all_fulfilled(rig, orders[:SLOTS])
    assert rig.accounts["a"].standing().state is AccountState.RESTING
    assert await states_of(rig, orders[SLOTS:]) == {OrderState.ACCEPTED: EACH - SLOTS}


@pytest.mark.rule("P14")
async def test_an_answer_lets_the_others_go_before_it_is_weighed(rigged: Rigged) -> None:
    """After two doubts one purchase at a time is sent, and nobody wakes up in vain meanwhile. What a refusal needs
    beside, a look, holds up no other.
    """
    rig = await rigged(a=traits(), max_in_flight=SLOTS)
    for _ in range(DOUBTS_IN_ROW - 1):
        rig.accounts["a"].purchase_ended(SILENCE, sent_at=rig.clock.monotonic())
    gate = asyncio.Event()

    async def refuses_the_first(asked: Asked) -> Reply:
        if len(rig.script.places()) > 1:
            return await takes_it(asked)
        await gate.wait()
        return refused(certain=False)

    rig.script.place = refuses_the_first
    rig.script.query = never
    first, *others = await orders_of(rig, "a", count=4)
    assert len(rig.script.places()) <= 1
    assert not rig.engine._dispatcher._timers
    gate.set()
    await all_fulfilled(rig, others)
    assert (await rig.stored(first)).purchases[0].state is PurchaseState.SUBMITTING


@pytest.mark.rule("P14")
async def test_a_restart_begins_with_all_slots(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubts in a row aren't kept: whoever starts the server again tries again, and what waited is sent."""
    monkeypatch.setattr(account_module, "FIRST_HOLD_SECONDS", LONG)
    its = traits(read_timeout=0.05, not_found_grace=LONG)
    rig = await rigged(a=its, max_in_flight=SLOTS)
    rig.script.place = never
    orders = await orders_of(rig, "a")
    await until(lambda: unanswered(rig, "a") == 1)
    rig.script.place = rig.script.query = takes_it
    await rig.restart({"a": traits(not_found_grace=LONG)})
    await all_fulfilled(rig, orders)
    assert len(rig.script.places()) == EACH


# --- So many calls a second -------------------------------------------------------------------------------------------


@pytest.mark.rule("P13")
@pytest.mark.parametrize("limit", [0.5, 3.0, 10.0])
async def test_no_stretch_of_time_has_more_calls_than_allowed(limit: float) -> None:
    """Whenever purchases try, what is let through never exceeds the limit in any second, nor over a longer stretch."""
    clock = StillClock()
    turns = Turns(clock, limit)
    taken: list[float] = []
    for _ in range(2_000):
        if turns.take():
            taken.append(clock.seconds)
        clock.seconds += 0.01
    assert len(taken) >= 0.8 * 20 * limit
    for first in taken:
        for stretch in (1.0, 3.0, 7.0):
            assert sum(first <= t < first + stretch for t in taken) <= max(1, math.ceil(stretch * limit))


@pytest.mark.rule("P13")
async def test_without_a_limit_every_call_has_its_turn() -> None:
    """The default."""
    turns = Turns(StillClock(), None)
    assert all(turns.take() for _ in range(1_000))
    await turns.wait()
    assert turns.ready_in() == 0.0


@pytest.mark.rule("P13")
async def test_purchases_and_questions_take_turns() -> None:
    """With both waiting all the time each has about half: neither starves the other."""
    turns = Turns(Clock(), 200.0)
    had: list[str] = []

    async def ask() -> None:
        while len(had) < 60:
            await turns.wait()
            had.append("question")

    async def send() -> None:
        while len(had) < 60:
            if turns.take():
                had.append("purchase")
            await asyncio.sleep(max(0.001, turns.ready_in()))

    await asyncio.gather(ask(), ask(), ask(), ask(), send())
    assert had.count("purchase") >= 15
    assert had.count("question") >= 15


@pytest.mark.rule("P13")
async def test_a_question_does_not_wait_for_a_purchase_that_is_gone() -> None:
    """A purchase that wanted a turn and never came back costs a question a moment, not its turn."""
    clock = StillClock()
    turns = Turns(clock, 1.0)
    assert turns.take()
    assert not turns.take()
    clock.seconds += 1.0
    await turns.wait()
    assert not turns.take()
    clock.seconds += 1.0
    await turns.wait()
    assert turns.ready_in() == 1.0


class LimitedRig(Rig):
    """A rig whose account "a" has a limit."""

    limit = 20.0

    def _account(self, supplier: ScriptedSupplier) -> Account:
        plan = AccountPlan(name=supplier.name, traits=supplier.traits, max_in_flight=self._max_in_flight)
        return Account(
            replace(plan, max_calls_per_second=self.limit if supplier.name == "a" else None),
            supplier,
            store=self.store,
            sealer=self.vault.system,
            clock=self.clock,
            metrics=self.metrics,
        )


@asynccontextmanager
async def limited(folder: Path, **accounts: Traits) -> AsyncIterator[LimitedRig]:
    """A running one."""
    script = Script()
    app = web.Application()
    app.router.add_post("/{account}/{what}", script.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    rig = LimitedRig(folder, f"http://127.0.0.1:{runner.addresses[0][1]}", script, 16)
    await rig.open(accounts)
    await rig.engine.start()
    try:
        yield rig
    finally:
        await rig.close()
        await runner.cleanup()


class Stopwatch:
    """When an account let calls through, by the clock that its limit goes by."""

    def __init__(self, rig: Rig, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: list[float] = []
        turns = rig.accounts[account]._turns
        used: Callable[..., None] = turns._use

        def use(*, sent: bool) -> None:
            self.at.append(rig.clock.monotonic())
            used(sent=sent)

        monkeypatch.setattr(turns, "_use", use)

    def most_in_a_second(self) -> int:
        """The most calls that any second has."""
        return max(sum(first <= t < first + 1.0 for t in self.at) for first in self.at)


@pytest.mark.rule("P13")
async def test_an_account_is_not_called_more_often_than_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Purchases and looks together keep to the limit, and nothing is lost. An account without one isn't held up."""
    async with limited(tmp_path, a=traits(), b=traits()) as rig:
        rig.script.place = accepts_it
        rig.script.query = takes_it
        watch = Stopwatch(rig, "a", monkeypatch)
        slow = await orders_of(rig, "a", count=25)
        await all_fulfilled(rig, await orders_of(rig, "b", count=25))
        await all_fulfilled(rig, slow)
        calls = [asked for asked in rig.script.asked if asked.account == "a"]
        assert watch.most_in_a_second() <= rig.limit
        assert len(calls) <= len(watch.at)
        assert len({asked.number for asked in rig.script.places("a")}) == len(rig.script.places("a")) == 25


@pytest.mark.rule("P13")
async def test_what_has_no_turn_yet_waits_unsent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call in ten seconds: the first order is sent, the others are WAITING with no intention stored."""
    monkeypatch.setattr(LimitedRig, "limit", 0.1)
    async with limited(tmp_path, a=traits()) as rig:
        first, *others = await orders_of(rig, "a", count=3)
        await all_fulfilled(rig, [first])
        for order in others:
            [purchase] = (await rig.stored(order)).purchases
            assert (purchase.state, purchase.intent_at) == (PurchaseState.WAITING, 0)
        assert await states_of(rig, others) == {OrderState.ACCEPTED: 2}
        assert len(rig.script.asked) == 1


@pytest.mark.rule("P13")
async def test_tokens_count_as_calls_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request that an account makes has a turn."""
    async with limited(tmp_path, a=traits(needs_token=True)) as rig:
        rig.script.place = accepts_it
        rig.script.query = takes_it
        watch = Stopwatch(rig, "a", monkeypatch)
        await all_fulfilled(rig, await orders_of(rig, "a", count=3))
        assert rig.script.token_calls == 1
        assert len(rig.script.asked) <= len(watch.at)


@pytest.mark.rule("P13")
def test_the_limit_is_a_key_of_every_account() -> None:
    """None unless configured; fractions are fine."""
    assert EngineKeys.model_validate({}).max_calls_per_second is None
    assert EngineKeys.model_validate({"max_calls_per_second": 2.5}).max_calls_per_second == 2.5
