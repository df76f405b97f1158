"""Sending: slots, tokens, waits and deadlines."""

import asyncio

import pytest

from reward_server.domain.order import FailureReason, Order, OrderState
from reward_server.engine import account
from reward_server.store import Created, StoreUnavailable
from reward_server.store.quotas import NO_QUOTA, Quota

from .rig import (
    PATIENCE,
    TOKEN_REFUSED,
    Asked,
    Reply,
    Rigged,
    after,
    answers,
    delivered,
    hangs_up,
    outcomes,
    rate_limited,
    traits,
    until,
)


async def test_slot_of_a_failed_create_wakes_the_queue(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slot that an order had taken which then couldn't be stored goes to the purchase that waits for it."""
    rig = await rigged(a=traits(), max_in_flight=1)
    create = rig.store.create
    gate = asyncio.Event()

    async def fails(order: Order, quota: Quota = NO_QUOTA) -> Created:
        if order.client_order_id != "unlucky":
            return await create(order, quota)
        await gate.wait()
        raise StoreUnavailable("disk full")

    monkeypatch.setattr(rig.store, "create", fails)
    unlucky = asyncio.create_task(rig.order("a", "unlucky"))
    await until(lambda: rig.accounts["a"].in_flight)
    waiting = await rig.order("a", "waiting")
    gate.set()
    with pytest.raises(StoreUnavailable):
        await unlucky
    await rig.when_state(waiting, OrderState.FULFILLED)


async def test_units_of_one_order_are_sent_at_once(rigged: Rigged) -> None:
    """Units that waited in the queue don't wait for each other's answers."""
    rig = await rigged(a=traits(), max_in_flight=16)
    gate = asyncio.Event()

    async def place(asked: Asked) -> Reply:
        await gate.wait()
        return delivered(asked.number)

    rig.script.place = place
    rig.rest("a", 0.05)
    order = await rig.order("a", quantity=8)
    await until(lambda: len(rig.script.places()) == 8)
    gate.set()
    await rig.when_state(order, OrderState.FULFILLED)
    assert len(rig.script.places()) == 8


async def test_nothing_is_sent_without_a_token(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token refused between the commit of an intention and its request is fetched anew before anything is sent."""
    rig = await rigged(a=traits(needs_token=True))
    await rig.when_state(await rig.order("a", "first"), OrderState.FULFILLED)
    create = rig.store.create

    async def slow(order: Order, quota: Quota = NO_QUOTA) -> Created:
        created = await create(order, quota)
        rig.accounts["a"].drop_token(rig.accounts["a"].context().token)
        return created

    monkeypatch.setattr(rig.store, "create", slow)
    await rig.when_state(await rig.order("a", "second"), OrderState.FULFILLED)
    assert [place.token for place in rig.script.places()] == ["token1", "token2"]


@pytest.mark.rule("P6", "P15")
async def test_token_refused_again_is_renewed_after_the_pause(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purchase that met two dead tokens pauses the account, which comes back with a third."""
    monkeypatch.setattr(account, "CONFIGURATION_PAUSE_SECONDS", 0.05)
    rig = await rigged(a=traits(needs_token=True))

    async def place(asked: Asked) -> Reply:
        return TOKEN_REFUSED if asked.token in ("token1", "token2") else delivered("C")

    rig.script.place = place
    now = await rig.when_state(await rig.order("a"), OrderState.FULFILLED)
    assert outcomes(now.purchases[0]) == ["NotSent", "NotSent", "Delivered"]
    assert [place.token for place in rig.script.places()] == ["token1", "token2", "token3"]


@pytest.mark.rule("P14")
async def test_wait_that_a_supplier_asks_for_is_bounded(rigged: Rigged) -> None:
    """A Retry-After of days holds neither the account nor the purchase back for longer than minutes."""
    rig = await rigged(a=traits())
    rig.script.place = answers(rate_limited(999_999))
    order = await rig.order("a")
    now = await rig.when(order, lambda now: now.purchases[0].evidence)
    assert 0 < rig.accounts["a"].ready_in() <= 300
    assert 0 < now.purchases[0].not_before - rig.clock.now_ms() <= 300_000


@pytest.mark.rule("P9")
async def test_sending_deadline_acts_while_the_account_rests(rigged: Rigged) -> None:
    """A purchase whose account can't take it fails at its deadline, not when the account wakes up."""
    rig = await rigged(a=traits(send_by=0.2))
    rig.rest("a", 60.0)
    order = await rig.order("a")
    now = await rig.when_state(order, OrderState.FAILED)
    assert now.failure is not None
    assert now.failure.reason is FailureReason.NOT_SENT_IN_TIME
    assert now.updated_at >= order.created_at + 200
    assert not rig.script.places()


@pytest.mark.rule("P9")
async def test_sending_deadline_acts_while_every_slot_is_taken(rigged: Rigged) -> None:
    """The same where the account is only busy."""
    rig = await rigged(a=traits(send_by=0.2), max_in_flight=1)
    gate = asyncio.Event()
    rig.script.place = after(gate, delivered("C"))
    busy = await rig.order("a", "busy")
    await rig.when_state(await rig.order("a", "waiting"), OrderState.FAILED)
    gate.set()
    await rig.when_state(busy, OrderState.FULFILLED)
    assert len(rig.script.places()) == 1


async def test_sending_deadline_acts_after_a_token_could_not_be_had(
    rigged: Rigged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadline that passes while the purchase waits for a token acts as soon as that has failed."""
    monkeypatch.setattr(account, "FIRST_HOLD_SECONDS", 10 * PATIENCE)
    rig = await rigged(a=traits(needs_token=True, send_by=0.05))
    gate = asyncio.Event()

    async def hangs(_asked: Asked) -> Reply:
        await gate.wait()
        return await hangs_up(_asked)

    monkeypatch.setattr(rig.script, "token", hangs)
    order = await rig.order("a")
    await until(lambda: rig.clock.now_ms() > order.created_at + 60)
    gate.set()
    now = await rig.when_state(order, OrderState.FAILED)
    assert now.failure is not None
    assert now.failure.reason is FailureReason.NOT_SENT_IN_TIME
    assert rig.accounts["a"].ready_in()
