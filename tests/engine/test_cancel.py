"""Cancelling: what was never sent never is, suppliers are asked about the rest, and evidence decides."""

import asyncio

import pytest

from reward_server.domain.order import FailureReason, Order, OrderState, PurchaseState
from reward_server.errors import OrderNotCancellable

from .rig import (
    BOTH,
    CANCEL_REFUSED,
    CANCEL_TAKEN,
    CANCELLED,
    PHONE,
    TOPUP,
    Asked,
    Reply,
    Rig,
    Rigged,
    accepted,
    accepts_it,
    after,
    answers,
    delivered,
    hangs_up,
    outcomes,
    rate_limited,
    refunded,
    refused,
    traits,
    until,
)


async def accepted_order(rig: Rig, product: str = "a") -> Order:
    """An order that the supplier took."""
    rig.script.place = rig.script.query = accepts_it
    order = await rig.order(product)
    return await rig.when(order, lambda now: now.purchases[0].state is PurchaseState.ACCEPTED)


@pytest.mark.rule("O15")
async def test_what_was_not_sent_is_cancelled_at_once(rigged: Rigged) -> None:
    """An order that waits for its supplier ends with the answer to the call; nothing is ever sent."""
    rig = await rigged(a=traits())
    rig.rest("a", 0.3)
    order = await rig.order("a", quantity=2)
    now = await rig.engine.cancel(order)
    assert (now.state, now.failure, now.settled_at) == (OrderState.CANCELLED, None, now.updated_at)
    assert (await rig.updates(order))[-1] == now
    await until(lambda: rig.accounts["a"].ready_in() == 0)
    await rig.when_state(await rig.order("a", "next"), OrderState.FULFILLED)
    assert len(rig.script.places()) == 1
    assert not rig.script.cancels


@pytest.mark.rule("O15")
async def test_a_cancel_while_sending_loses_no_answer(rigged: Rigged) -> None:
    """The purchase under way keeps its card; the units behind it are never sent."""
    rig = await rigged(a=traits(), max_in_flight=1)
    gate = asyncio.Event()
    rig.script.place = after(gate, delivered("C"))
    order = await rig.order("a", quantity=3)
    await until(rig.script.places)
    now = await rig.engine.cancel(order)
    assert (now.state.is_terminal, now.cancel_requested_at > 0) == (False, True)
    gate.set()
    now = await rig.when(order, lambda now: now.state.is_terminal)
    assert (now.state, now.delivered_quantity) == (OrderState.PARTIALLY_FULFILLED, 1)
    assert now.failure is not None
    assert now.failure.reason is FailureReason.CANCELLED
    assert await rig.shown_cards(order) == ["C"]
    assert len(rig.script.places()) == 1


@pytest.mark.rule("O15")
async def test_a_supplier_that_takes_it_down_ends_it(rigged: Rigged) -> None:
    """That it is about to be asked is stored before it is."""
    rig = await rigged(a=traits(look_delays=(60.0,)))
    order = await accepted_order(rig)
    noted: list[int] = []

    async def cancel(_asked: Asked) -> Reply:
        noted.append((await rig.stored(order)).purchases[0].cancel_asks)
        return CANCELLED

    rig.script.cancel = cancel
    await rig.engine.cancel(order)
    now = await rig.when_state(order, OrderState.CANCELLED)
    assert noted == [1]
    assert outcomes(now.purchases[0]) == ["Accepted", "CancelAsked", "CancelConfirmed"]
    assert now.failure is None


@pytest.mark.rule("O15")
@pytest.mark.parametrize("said", [CANCEL_TAKEN, CANCEL_REFUSED, {"said": "odd"}])
async def test_evidence_decides_where_the_supplier_settles_nothing(rigged: Rigged, said: dict[str, str]) -> None:
    """A wish taken, refused or not understood leads to a look at once, and isn't repeated."""
    rig = await rigged(a=traits(look_delays=(60.0,)))
    for name, found, end in (("1", refunded(), OrderState.CANCELLED), ("2", delivered("C"), OrderState.FULFILLED)):
        rig.script.place = accepts_it
        order = await rig.order("a", name)
        await rig.when(order, lambda now: now.purchases[0].state is PurchaseState.ACCEPTED)
        rig.script.cancel = answers(said)
        rig.script.query = answers(found)
        await rig.engine.cancel(order)
        await rig.when_state(order, end)
        assert [asked.number for asked in rig.script.cancels] == [order.purchases[0].number]
        rig.script.asked.clear()


@pytest.mark.rule("O15")
async def test_a_supplier_that_cannot_be_reached_is_asked_five_times(rigged: Rigged) -> None:
    """After the looks that follow; then the looks go on alone."""
    rig = await rigged(a=traits())
    order = await accepted_order(rig)
    rig.script.cancel = answers(rate_limited(0))
    await rig.engine.cancel(order)
    await until(lambda: len(rig.script.cancels) == 5)
    seen = len(rig.script.queries)
    await until(lambda: len(rig.script.queries) > seen + 3)
    assert len(rig.script.cancels) == 5
    rig.script.query = answers(delivered("C"))
    await rig.when_state(order, OrderState.FULFILLED)


@pytest.mark.rule("O15")
async def test_a_crash_while_asking_leads_to_another_question(rigged: Rigged) -> None:
    """The next start doesn't know what became of the first one."""
    rig = await rigged(a=traits(look_delays=(60.0,)))
    order = await accepted_order(rig)
    rig.script.cancel = after(asyncio.Event(), CANCELLED)
    await rig.engine.cancel(order)
    await until(lambda: rig.script.cancels)
    rig.script.cancel = answers(CANCELLED)
    await rig.restart({"a": traits(look_delays=(60.0,))})
    await rig.when_state(order, OrderState.CANCELLED)
    assert len(rig.script.cancels) == 2


@pytest.mark.rule("O15")
async def test_a_purchase_taken_after_the_wish_is_asked_about(rigged: Rigged) -> None:
    """The wish came while it was being sent."""
    rig = await rigged(a=traits(look_delays=(60.0,)))
    gate = asyncio.Event()
    rig.script.place = after(gate, accepted("S1"))
    order = await rig.order("a")
    await until(rig.script.places)
    await rig.engine.cancel(order)
    assert not rig.script.cancels
    gate.set()
    await rig.when_state(order, OrderState.CANCELLED)
    assert len(rig.script.cancels) == 1


@pytest.mark.rule("O15")
async def test_a_doubt_is_asked_about_once_it_is_known_to_be_taken(rigged: Rigged) -> None:
    """An unknown purchase is looked at first: what was never received needs no cancel."""
    rig = await rigged(a=traits(not_found_grace=60.0))
    rig.script.place = hangs_up
    order = await rig.order("a")
    await rig.when_state(order, OrderState.OUTCOME_UNKNOWN)
    await rig.engine.cancel(order)
    seen = len(rig.script.queries)
    await until(lambda: len(rig.script.queries) > seen + 1)
    assert not rig.script.cancels
    rig.script.query = accepts_it
    await rig.when_state(order, OrderState.CANCELLED)


@pytest.mark.rule("O15")
async def test_a_supplier_without_a_cancel_is_not_asked(rigged: Rigged) -> None:
    """The wish is kept; the purchase ends as it ends."""
    rig = await rigged(a=traits())
    rig.suppliers["a"].cancels = False
    order = await accepted_order(rig)
    now = await rig.engine.cancel(order)
    assert (now.state, now.cancel_requested_at > 0, now.version) == (OrderState.PROCESSING, True, order.version + 1)
    rig.script.query = answers(delivered("C"))
    await rig.when_state(order, OrderState.FULFILLED)
    assert not rig.script.cancels


@pytest.mark.rule("O15")
async def test_no_other_offer_is_tried_after_the_wish(rigged: Rigged) -> None:
    """Neither after a refusal, nor is a purchase that was proven unsent sent again."""
    rig = await rigged(a=traits(), b=traits())
    for name, said, end in (
        ("1", refused(), OrderState.FAILED),
        ("2", rate_limited(0), OrderState.CANCELLED),
    ):
        gate = asyncio.Event()
        rig.script.asked.clear()
        rig.script.place = after(gate, said)
        order = await rig.order(BOTH, name)
        await until(rig.script.places)
        await rig.engine.cancel(order)
        gate.set()
        await rig.when_state(order, end)
        assert len(rig.script.places()) == 1


@pytest.mark.rule("O3", "O15")
async def test_the_wish_is_idempotent_and_comes_too_late_for_what_has_ended(rigged: Rigged) -> None:
    """Cancelled again it is the order as it is; an order that ended otherwise can't be cancelled."""
    rig = await rigged(a=traits(), b=traits())
    rig.rest("a", 60.0)
    order = await rig.order("a")
    first = await rig.engine.cancel(order)
    assert await rig.engine.cancel(order) == first
    done = await rig.when_state(await rig.order("b", "2"), OrderState.FULFILLED)
    with pytest.raises(OrderNotCancellable) as refusal:
        await rig.engine.cancel(done)
    assert refusal.value.state == "fulfilled"
    assert await rig.stored(done) == done


@pytest.mark.rule("O15")
async def test_many_cancels_at_once_are_one(rigged: Rigged) -> None:
    """The wish is stored once, in one version, and the supplier is asked once."""
    rig = await rigged(a=traits(look_delays=(60.0,)))
    order = await accepted_order(rig)
    rig.script.cancel = answers(CANCEL_TAKEN)
    await asyncio.gather(*(rig.engine.cancel(order) for _ in range(10)))
    await until(lambda: len(rig.script.queries) == 1)
    assert len(rig.script.cancels) == 1
    assert (await rig.stored(order)).version == order.version + 1


@pytest.mark.rule("O15")
async def test_top_ups_behind_the_one_under_way_are_never_sent(rigged: Rigged) -> None:
    """Purchases to one recipient go one after another: the rest ends with the wish."""
    rig = await rigged(a=traits())
    gate = asyncio.Event()
    rig.script.place = after(gate, delivered())
    order = await rig.order(TOPUP, quantity=3, recipient=PHONE)
    await until(rig.script.places)
    await rig.engine.cancel(order)
    gate.set()
    now = await rig.when_state(order, OrderState.PARTIALLY_FULFILLED)
    assert (now.delivered_quantity, len(rig.script.places())) == (1, 1)


@pytest.mark.rule("O15")
async def test_a_defect_in_cancelling_costs_nothing_but_the_cancel(rigged: Rigged) -> None:
    """An adapter that fails to build the question leaves the order to its looks."""
    rig = await rigged(a=traits())
    rig.suppliers["a"].defects.add("cancel")
    order = await accepted_order(rig)
    await rig.engine.cancel(order)
    rig.script.query = answers(delivered("C"))
    await rig.when_state(order, OrderState.FULFILLED)
    assert rig.alerts("defect")
    assert not rig.failures
