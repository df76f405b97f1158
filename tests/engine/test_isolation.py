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

from reward_adapters.contract import NotSent, NotSentCause, Traits
from reward_server.clock import Clock
from reward_server.config.accounts import EngineKeys
from reward_server.domain.order import Order, OrderState, PurchaseState
from reward_server.engine.account import (
    FIRST_HOLD_SECONDS,
    LONGEST_HOLD_SECONDS,
    LOOKS_AT_ONCE,
    SHORTEST_SHARE,
    Account,
    AccountPlan,
    AccountState,
    Turns,
)
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
    assert (rig.accounts["a"].in_flight, rig.accounts["b"].in_flight) == (SLOTS, 0)
    gate.set()
    await all_fulfilled(rig, stuck)
    assert len({asked.number for asked in rig.script.places("a")}) == len(rig.script.places("a")) == EACH


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


async def test_a_supplier_that_times_out_leaves_doubts_at_its_own_orders_only(rigged: Rigged) -> None:
    """Its purchases become unknown one slot after the other; the others' orders know nothing of it."""
    rig = await rigged(a=traits(read_timeout=0.05), b=traits(), c=traits(), max_in_flight=SLOTS)
    gate = asyncio.Event()

    async def hangs(_asked: Asked) -> Reply:
        await gate.wait()
        return accepted()

    rig.script.place = only("a", hangs)
    rig.script.query = only("a", hangs)
    stuck = await orders_of(rig, "a")
    await all_fulfilled(rig, await orders_of(rig, *HEALTHY))
    for order in stuck:
        await rig.when_state(order, OrderState.OUTCOME_UNKNOWN)
    assert [len(rig.script.places(account)) for account in ("a", *HEALTHY)] == [EACH] * 3
    gate.set()


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


async def test_accounts_that_lost_the_same_supplier_do_not_come_back_in_step(rigged: Rigged) -> None:
    """Rests have jitter."""
    rig = await rigged(a=traits(), b=traits(), c=traits(), d=traits(), e=traits(), f=traits())
    for account in rig.accounts.values():
        account.heard(DOWN)
    assert len({round(account.ready_in(), 4) for account in rig.accounts.values()}) > 1


# --- So many calls a second -------------------------------------------------------------------------------------------


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


async def test_without_a_limit_every_call_has_its_turn() -> None:
    """The default."""
    turns = Turns(StillClock(), None)
    assert all(turns.take() for _ in range(1_000))
    await turns.wait()
    assert turns.ready_in() == 0.0


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


async def test_tokens_count_as_calls_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request that an account makes has a turn."""
    async with limited(tmp_path, a=traits(needs_token=True)) as rig:
        rig.script.place = accepts_it
        rig.script.query = takes_it
        watch = Stopwatch(rig, "a", monkeypatch)
        await all_fulfilled(rig, await orders_of(rig, "a", count=3))
        assert rig.script.token_calls == 1
        assert len(rig.script.asked) <= len(watch.at)


def test_the_limit_is_a_key_of_every_account() -> None:
    """None unless configured; fractions are fine."""
    assert EngineKeys.model_validate({}).max_calls_per_second is None
    assert EngineKeys.model_validate({"max_calls_per_second": 2.5}).max_calls_per_second == 2.5
