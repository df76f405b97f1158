"""After the delivery: watched as long as something may become of it, looked at once more, then left alone."""

import asyncio
import time

import pytest

from reward_adapters.contract import AfterSale
from reward_server.domain.order import Order, OrderState, PurchaseState, ReviewReason

from .rig import (
    Asked,
    Reply,
    Rigged,
    a_card,
    accepts_it,
    after,
    answers,
    delivered,
    hangs_up,
    outcomes,
    refunded,
    traits,
    until,
)


def settled(order: Order) -> bool:
    return order.settled_at > 0


@pytest.mark.rule("O6")
async def test_a_delivery_is_watched_and_then_settled(rigged: Rigged) -> None:
    """Looked at until its time is over, then one version says so, and nobody looks any more."""
    rig = await rigged(a=traits(aftersale_watch=0.3, aftersale_every=0.05))
    rig.script.place = rig.script.query = answers(delivered("C"))
    order = await rig.order("a")
    now = await rig.when(order, settled)
    assert len(rig.script.queries) > 1
    assert [(seen.state, settled(seen)) for seen in await rig.updates(order)][-2:] == [
        (OrderState.FULFILLED, False),
        (OrderState.FULFILLED, True),
    ]
    assert [seen.version for seen in await rig.updates(order)] == list(range(1, now.version + 1))
    assert outcomes(now.purchases[0]) == ["Delivered", "WatchOver"]
    await until(lambda: not rig.engine._looks._watches)
    assert await rig.store.adopt("", 10) == []


@pytest.mark.rule("O6")
async def test_there_is_one_last_look_when_the_time_is_over(rigged: Rigged) -> None:
    """However long the usual pause between two looks."""
    rig = await rigged(a=traits(aftersale_watch=0.1, aftersale_every=3600.0))
    rig.script.place = answers(delivered(a_card("C", number="1")))
    rig.script.query = answers(delivered(a_card("C", number="1", sale=AfterSale.DISPUTED)))
    now = await rig.when(await rig.order("a"), settled)
    assert len(rig.script.queries) == 1
    assert (now.after_sale, now.reviews) == (AfterSale.DISPUTED, (ReviewReason.DISPUTED,))
    assert now.version == 3


async def test_a_last_look_that_cannot_be_made_is_tried_five_times(rigged: Rigged) -> None:
    """A supplier that is gone doesn't keep an order unsettled for ever."""
    rig = await rigged(a=traits(aftersale_watch=0.05, aftersale_every=3600.0, look_delays=(0.02,)))
    rig.script.place = answers(delivered("C"))
    rig.script.query = hangs_up
    await rig.when(await rig.order("a"), settled)
    assert len(rig.script.queries) == 5


async def test_what_is_final_is_not_watched(rigged: Rigged) -> None:
    """Neither where the supplier says so, nor where nothing can become of its deliveries: one version, no look."""
    rig = await rigged(a=traits(aftersale_watch=3600.0), b=traits())
    rig.script.place = answers(delivered("C", settled=True))
    for product in ("a", "b"):
        now = await rig.when_state(await rig.order(product, product), OrderState.FULFILLED)
        assert now.settled_at == now.updated_at
    assert not rig.engine._looks._watches
    assert not rig.script.queries


@pytest.mark.rule("O6")
async def test_a_warranty_is_watched_to_its_end(rigged: Rigged) -> None:
    """It counts before the supplier's usual time; what happens in it reaches the client as one update each."""
    rig = await rigged(a=traits(aftersale_watch=3600.0, aftersale_every=0.03))
    ends = time.time() + 60.0
    in_warranty = a_card("C", number="1", sale=AfterSale.WARRANTY, warranty=ends)
    rig.script.place = rig.script.query = answers(delivered(in_warranty))
    order = await rig.order("a")
    await until(lambda: len(rig.script.queries) > 1)
    rig.script.query = answers(delivered(a_card("C", number="1", sale=AfterSale.DISPUTED)))
    await rig.when(order, lambda now: now.after_sale is AfterSale.DISPUTED)
    rig.script.query = answers(delivered(a_card(number="1", sale=AfterSale.REVERSED), complete=False))
    now = await rig.when(order, settled)
    assert [seen.after_sale for seen in await rig.updates(order)][-3:] == [
        AfterSale.WARRANTY,
        AfterSale.DISPUTED,
        AfterSale.REVERSED,
    ]
    assert (now.state, now.reviews) == (OrderState.FULFILLED, (ReviewReason.REVERSED,))
    assert await rig.shown_cards(order) == ["C"]
    await until(lambda: (rig.alerts("disputed"), rig.alerts("reversed")) == (1, 1))


@pytest.mark.rule("O6")
async def test_a_refund_after_the_delivery_is_found_and_kept(rigged: Rigged) -> None:
    """The card stays with the client and says REVERSED; the answer is kept whole for a person."""
    rig = await rigged(a=traits(aftersale_watch=3600.0, aftersale_every=0.03))
    rig.script.place = answers(delivered("C"))
    rig.script.query = answers(refunded(10_000))
    order = await rig.order("a")
    now = await rig.when(order, settled)
    assert (now.state, now.after_sale, now.reviews) == (
        OrderState.FULFILLED,
        AfterSale.REVERSED,
        (ReviewReason.REVERSED,),
    )
    assert await rig.shown_cards(order) == ["C"]
    assert len(await rig.kept_answers(order)) == 1


async def test_a_restart_goes_on_watching_without_reading_the_orders(rigged: Rigged) -> None:
    """What is watched may be much: at start only its number and the end of its watch are read."""
    rig = await rigged(a=traits(aftersale_watch=3600.0))
    rig.script.place = rig.script.query = answers(delivered("C"))
    order = await rig.order("a")
    await rig.when_state(order, OrderState.FULFILLED)
    await rig.restart({"a": traits(aftersale_watch=3600.0, aftersale_every=3600.0)})
    assert list(rig.engine._looks._watches) == [order.purchases[0].number]
    assert not rig.engine.ledger._orders
    rig.script.query = answers(refunded())
    await rig.restart({"a": traits(aftersale_watch=3600.0, aftersale_every=0.05)})
    await rig.when(order, lambda now: now.after_sale is AfterSale.REVERSED)


async def test_last_looks_that_fell_into_a_stop_are_made_together(rigged: Rigged) -> None:
    """At suppliers that answer for many purchases at once; the order is settled in one version."""
    many = traits(aftersale_watch=60.0, aftersale_every=3600.0, query_batch=10)
    rig = await rigged(a=many)

    async def query(asked: Asked) -> Reply:
        return {number: delivered(f"card of {number}") for number in asked.number.split(",")}

    rig.script.query = query
    order = await rig.order("a", quantity=3)
    before = await rig.when_state(order, OrderState.FULFILLED)
    rig.clock.ahead_ms = 120_000
    await rig.restart({"a": many})
    now = await rig.when(order, settled)
    assert [len(asked.number.split(",")) for asked in rig.script.queries] == [3]
    assert now.version == before.version + 1


async def test_watches_of_an_account_that_is_gone_end(rigged: Rigged) -> None:
    """Nobody can be asked any more: the order is settled at the first start after its time."""
    rig = await rigged(a=traits(aftersale_watch=60.0))
    order = await rig.order("a")
    await rig.when_state(order, OrderState.FULFILLED)
    rig.clock.ahead_ms = 120_000
    await rig.restart({"b": traits()})
    assert settled(await rig.stored(order))


@pytest.mark.rule("P8")
async def test_a_callback_after_the_end_is_followed_by_one_look(rigged: Rigged) -> None:
    """Late news opens an item; the order isn't watched again."""
    rig = await rigged(a=traits())
    rig.script.place = answers(delivered(a_card("C", number="1")))
    rig.script.query = answers(delivered(a_card("C", number="1", sale=AfterSale.DISPUTED)))
    order = await rig.order("a")
    first = await rig.when(order, settled)
    await rig.callback("a", order.purchases[0].number)
    now = await rig.when(order, lambda now: now.reviews)
    assert (now.reviews, now.settled_at) == ((ReviewReason.DISPUTED,), first.settled_at)
    await until(lambda: not rig.engine._looks._watches)
    assert len(rig.script.queries) == 1


async def test_a_callback_while_watched_is_followed_by_a_look_at_once(rigged: Rigged) -> None:
    """It doesn't wait for the plan, and the plan goes on."""
    rig = await rigged(a=traits(aftersale_watch=3600.0, aftersale_every=3600.0))
    rig.script.place = answers(delivered("C"))
    rig.script.query = answers(refunded())
    order = await rig.order("a")
    await rig.when_state(order, OrderState.FULFILLED)
    await rig.callback("a", order.purchases[0].number)
    await rig.when(order, lambda now: now.after_sale is AfterSale.REVERSED)


async def test_a_callback_during_the_look_that_settles_is_followed_by_another(rigged: Rigged) -> None:
    """The supplier changed its mind while its last word was on the way."""
    rig = await rigged(a=traits(aftersale_watch=0.05, aftersale_every=3600.0))
    answering = asyncio.Event()
    rig.script.place = answers(delivered(a_card("C", number="1")))
    rig.script.query = after(answering, delivered(a_card("C", number="1"), settled=True))
    order = await rig.order("a")
    await until(lambda: rig.script.queries)
    await rig.callback("a", order.purchases[0].number)
    rig.script.query = answers(delivered(a_card("C", number="1", sale=AfterSale.DISPUTED)))
    answering.set()
    now = await rig.when(order, lambda now: now.reviews)
    assert now.reviews == (ReviewReason.DISPUTED,)
    await until(lambda: not rig.engine._looks._watches)
    assert len(rig.script.queries) == 2


@pytest.mark.rule("O4", "O5")
async def test_a_late_success_is_an_item_beside_the_end(rigged: Rigged) -> None:
    """A purchase given up as dead that is delivered after all: hidden, shown as a reason, told once."""
    rig = await rigged(a=traits())
    rig.script.place = accepts_it
    rig.script.query = answers(refunded())
    order = await rig.order("a")
    await rig.when_state(order, OrderState.FAILED)
    rig.script.query = answers(delivered("LATE"))
    await rig.callback("a", order.purchases[0].number)
    now = await rig.when(order, lambda now: now.reviews)
    assert (now.state, now.reviews) == (OrderState.FAILED, (ReviewReason.LATE_SUCCESS,))
    assert [p.state for p in now.purchases] == [PurchaseState.DEAD]
    assert await rig.shown_cards(order) == []
    await until(lambda: rig.alerts("late_success") == 1)
