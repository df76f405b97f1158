"""Start and drain: what another process left, what this one began, and accounts that are gone."""

import asyncio

import pytest

from reward_server.domain.order import FailureReason, Order, OrderState, PurchaseState, Source
from reward_server.engine import engine
from reward_server.store import Created, OpenPurchase
from reward_server.store.quotas import NO_QUOTA, Quota

from .rig import (
    BOTH,
    Asked,
    Reply,
    Rigged,
    accepts_it,
    after,
    answers,
    delivered,
    rate_limited,
    refused,
    takes_it,
    traits,
    until,
)


@pytest.mark.rule("D10")
async def test_recovery_leaves_alone_what_this_process_began(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purchase that is sent while open purchases are still being listed isn't taken for one of a dead process."""
    monkeypatch.setattr(engine, "RECOVERY_PAGE", 1)
    rig = await rigged(a=traits(), b=traits())
    rig.rest("a", 60.0)
    order = await rig.order(BOTH)
    gate = asyncio.Event()

    async def place(asked: Asked) -> Reply:
        if asked.account == "a":
            return refused()
        await gate.wait()
        return delivered("B")

    rig.script.place = place
    await rig.close()
    await rig.open({"a": traits(), "b": traits()})
    adopt = rig.store.adopt

    async def slow(after_number: str, limit: int, *, thorough: bool = False) -> list[OpenPurchase]:
        if after_number:
            # The first page's purchase was refused, and its successor is being sent.
            await until(lambda: rig.script.places("b"))
        return await adopt(after_number, limit, thorough=thorough)

    monkeypatch.setattr(rig.store, "adopt", slow)
    await rig.engine.start()
    now = await rig.stored(order)
    assert now.purchases[1].state is PurchaseState.SUBMITTING
    gate.set()
    now = await rig.when_state(order, OrderState.FULFILLED)
    assert Source.RECOVERY not in {evidence.source for p in now.purchases for evidence in p.evidence}


async def test_start_without_an_account_that_has_open_purchases(rigged: Rigged) -> None:
    """Purchases of an account that was removed don't keep the service from starting: what was never sent is dead,
    what was sent stays in doubt, and all others go on."""
    rig = await rigged(gone=traits(), b=traits(), max_in_flight=1)
    rig.script.place = after(asyncio.Event(), delivered("never"))
    sent = await rig.order("gone", "sent")
    await until(rig.script.places)
    waiting = await rig.order("gone", "waiting")
    rig.rest("b", 60.0)
    other = await rig.order("b", "other")
    rig.script.place = takes_it
    await rig.restart({"b": traits()})
    await rig.when_state(other, OrderState.FULFILLED)
    now = await rig.when_state(waiting, OrderState.FAILED)
    assert now.failure is not None
    assert now.failure.reason is FailureReason.NOT_SENT_IN_TIME
    assert (await rig.stored(sent)).state is OrderState.OUTCOME_UNKNOWN
    assert rig.alerts("defect") == 2


async def test_order_goes_on_beside_a_removed_account(rigged: Rigged) -> None:
    """An order one of whose offers belongs to an account that is gone is bought at the others."""
    rig = await rigged(gone=traits(), b=traits())

    async def place(asked: Asked) -> Reply:
        return refused() if asked.account == "gone" else rate_limited(0.0)

    rig.script.place = place
    order = await rig.order(BOTH)
    await rig.when(order, lambda now: now.purchases[-1].offer == 1 and now.purchases[-1].evidence)
    rig.script.place = takes_it
    await rig.restart({"b": traits()})
    now = await rig.when_state(order, OrderState.FULFILLED)
    assert [p.state for p in now.purchases] == [PurchaseState.DEAD, PurchaseState.DELIVERED]


async def test_failover_to_a_removed_account_fails(rigged: Rigged) -> None:
    """An order whose next offer belongs to an account that is gone comes to an end all the same."""
    rig = await rigged(a=traits(), gone=traits())
    rig.script.place = accepts_it
    rig.script.query = accepts_it
    order = await rig.order(BOTH)
    await rig.when(order, lambda now: now.purchases[0].state is PurchaseState.ACCEPTED)
    await rig.restart({"a": traits()})
    rig.script.query = answers(refused())
    now = await rig.when_state(order, OrderState.FAILED)
    assert now.purchases[0].state is PurchaseState.DEAD


async def test_drain_waits_for_an_order_that_is_being_stored(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order whose commit was under way is sent, and its answer awaited: it may be the only copy of a card."""
    rig = await rigged(a=traits(queryable=False))
    create = rig.store.create
    stored, answered = asyncio.Event(), asyncio.Event()

    async def slow(order: Order, quota: Quota = NO_QUOTA) -> Created:
        created = await create(order, quota)
        await stored.wait()
        return created

    monkeypatch.setattr(rig.store, "create", slow)
    rig.script.place = after(answered, delivered("ONLY COPY"))
    creating = asyncio.create_task(rig.order("a"))
    await until(lambda: rig.accounts["a"].in_flight)
    draining = asyncio.create_task(rig.engine.drain())
    await until(lambda: rig.engine._dispatcher.stopped)
    stored.set()
    order = await creating
    await until(rig.script.places)
    assert not draining.done()
    answered.set()
    await draining
    assert (await rig.stored(order)).state is OrderState.FULFILLED


async def test_a_purchase_whose_writer_was_not_told_yet_is_left_to_it(rigged: Rigged) -> None:
    """The list of open purchases may show one that this process stored a moment ago and doesn't know yet itself."""
    rig = await rigged(a=traits())
    rig.script.place = accepts_it
    order = await rig.order("a")
    await rig.engine._recover(OpenPurchase(order.client_id, order.order_id, "NEW", "a", PurchaseState.WAITING))
    assert rig.failures == []
