"""Looks: they don't end, don't prove too much, and come at once when something happened."""

import asyncio

import pytest

from reward_server.domain.order import Order, OrderState, PurchaseState
from reward_server.engine import looks
from reward_server.store import StoreUnavailable

from .rig import (
    Rigged,
    accepted,
    accepts_it,
    after,
    answers,
    delivered,
    hangs_up,
    outcomes,
    traits,
    until,
)


async def test_looks_go_on_after_the_store_could_not_be_read(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look for which the order can't be loaded isn't the last one."""
    rig = await rigged(a=traits())
    rig.script.place = accepts_it
    rig.script.query = accepts_it
    order = await rig.order("a")
    await until(lambda: rig.script.queries)
    failures = 0

    async def fails(*_args: object) -> Order:
        nonlocal failures
        failures += 1
        raise StoreUnavailable("locked")

    monkeypatch.setattr(rig.store, "order", fails)
    rig.forget()
    await until(lambda: failures)
    monkeypatch.undo()
    rig.script.query = answers(delivered("C"))
    await rig.when_state(order, OrderState.FULFILLED)
    assert not rig.failures


@pytest.mark.rule("P5")
async def test_wall_clock_that_jumps_proves_no_absence(rigged: Rigged) -> None:
    """The grace period has to pass on the monotonic clock: a wall clock set right says nothing about a supplier."""
    rig = await rigged(a=traits(not_found_grace=3600.0, settle_by=86_400.0))
    rig.script.place = hangs_up
    order = await rig.order("a")
    await until(lambda: len(rig.script.queries) >= 2)
    rig.clock.ahead_ms = 2 * 3600 * 1000
    seen = len(rig.script.queries)
    await until(lambda: len(rig.script.queries) >= seen + 3)
    now = await rig.stored(order)
    assert now.purchases[0].state is PurchaseState.UNKNOWN
    assert outcomes(now.purchases[0]) == ["Unclear", "Absent"]


@pytest.mark.rule("P5")
async def test_absence_is_proven_after_the_grace_period(rigged: Rigged) -> None:
    """Without a jump the same looks do prove it."""
    rig = await rigged(a=traits(not_found_grace=0.1))
    rig.script.place = hangs_up
    now = await rig.when_state(await rig.order("a"), OrderState.FAILED)
    assert outcomes(now.purchases[0]) == ["Unclear", "Absent", "AbsenceProven"]


@pytest.mark.rule("P9")
async def test_deadline_waits_for_an_answered_look(rigged: Rigged) -> None:
    """A supplier that can't be asked gets some more looks before the deadline calls a person."""
    rig = await rigged(a=traits(settle_by=0.001))
    rig.script.place = accepts_it
    rig.script.query = hangs_up
    order = await rig.order("a")
    await rig.when_state(order, OrderState.NEEDS_REVIEW)
    assert len(rig.script.queries) >= 5


@pytest.mark.rule("P9")
async def test_deadline_acts_after_an_answered_look(rigged: Rigged) -> None:
    """One look that was answered after the deadline is enough."""
    rig = await rigged(a=traits(settle_by=0.001, look_delays=(0.03, 60.0)))
    rig.script.place = accepts_it
    rig.script.query = accepts_it
    await rig.when_state(await rig.order("a"), OrderState.NEEDS_REVIEW)
    assert len(rig.script.queries) == 1


async def test_schedule_forgets_settled_purchases(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks planned for purchases that were settled meanwhile don't pile up."""
    monkeypatch.setattr(looks, "STALE_ENTRIES", 10, raising=False)
    rig = await rigged(a=traits(queryable=False, settle_by=86_400.0, look_delays=(3600.0,)))
    rig.script.place = accepts_it
    for wave in range(4):
        orders = [await rig.order("a", f"{wave}-{i}") for i in range(15)]
        for order in orders:
            number = order.purchases[0].number
            await rig.when(order, lambda now: now.purchases[0].state is PurchaseState.ACCEPTED)
            await rig.callback("a", number, delivered(number))
    assert not rig.engine._looks._watches
    assert len(rig.engine._looks._due) <= 2 * 15 + 10


async def test_callback_during_a_look_leads_to_another_look(rigged: Rigged) -> None:
    """What a look says that was on its way may be older than the callback: one more look follows at once."""
    rig = await rigged(a=traits(look_delays=(60.0,)))
    looking = asyncio.Event()
    rig.script.place = accepts_it
    rig.script.query = after(looking, accepted())
    order = await rig.order("a")
    number = order.purchases[0].number
    await rig.when(order, lambda now: now.purchases[0].state is PurchaseState.ACCEPTED)
    await rig.callback("a", number)
    await until(lambda: len(rig.script.queries) == 1)
    await rig.callback("a", number)
    rig.script.query = answers(delivered("C"))
    looking.set()
    await rig.when_state(order, OrderState.FULFILLED)
    assert len(rig.script.queries) == 2


async def test_callback_during_a_look_that_settles_a_doubt_leads_to_another_look(rigged: Rigged) -> None:
    """The callback counts even if the look it met changes the purchase's state."""
    rig = await rigged(a=traits(look_delays=(60.0,)))
    looking = asyncio.Event()
    rig.script.place = hangs_up
    rig.script.query = after(looking, accepted())
    order = await rig.order("a")
    await until(lambda: len(rig.script.queries) == 1)
    await rig.callback("a", order.purchases[0].number)
    rig.script.query = answers(delivered("C"))
    looking.set()
    await rig.when_state(order, OrderState.FULFILLED)
