"""Many units in one order, and what they may cost: each sentence of the rules, from order to card."""

import asyncio

import pytest

from reward_adapters.contract import RefusedFor
from reward_adapters.money import Money
from reward_server.domain.order import OrderState, PurchaseState, ReviewReason
from reward_server.errors import PriceAboveLimit

from .rig import (
    ABSENT,
    BOTH,
    CLIENT,
    PACK,
    PHONE,
    TOPUP,
    Asked,
    Reply,
    Rigged,
    accepts_it,
    answers,
    delivered,
    hangs_up,
    rate_limited,
    refused,
    traits,
    until,
)


@pytest.mark.rule("O8")
async def test_cards_reach_the_client_as_they_arrive(rigged: Rigged) -> None:
    """Each list that holds new cards is an update with them, before the purchase is complete."""
    rig = await rigged(a=traits())
    rig.script.place = accepts_it
    rig.script.query = answers(delivered("A", complete=False))
    order = await rig.order(PACK, quantity=3)
    now = await rig.when(order, lambda now: now.delivered_quantity == 1)
    assert (now.state, await rig.shown_cards(order)) == (OrderState.PROCESSING, ["A"])
    rig.script.query = answers(delivered("A", "B", complete=False))
    await rig.when(order, lambda now: now.delivered_quantity == 2)
    rig.script.query = answers(delivered("A", "B", "C"))
    await rig.when_state(order, OrderState.FULFILLED)
    assert await rig.shown_cards(order) == ["A", "B", "C"]
    seen = [(update.version, update.delivered_quantity) for update in await rig.updates(order)]
    assert seen[-3:] == [(seen[-3][0], 1), (seen[-3][0] + 1, 2), (seen[-3][0] + 2, 3)]


@pytest.mark.rule("O8")
async def test_short_deliveries_are_shown_and_go_to_a_person_in_the_end(rigged: Rigged) -> None:
    """Success with fewer cards: those there are belong to the client; the rest is asked after until the deadline."""
    rig = await rigged(a=traits(settle_by=0.2))
    rig.script.place = rig.script.query = answers(delivered("A", complete=False))
    order = await rig.order(PACK, quantity=2)
    now = await rig.when_state(order, OrderState.NEEDS_REVIEW)
    assert (now.delivered_quantity, now.reviews) == (1, (ReviewReason.DEADLINE,))
    assert await rig.shown_cards(order) == ["A"]


@pytest.mark.rule("O8", "O9")
async def test_new_cards_of_a_purchase_in_review_are_not_shown(rigged: Rigged) -> None:
    """A list with too many cards isn't believed, and neither is what follows; what the client has stays."""
    rig = await rigged(a=traits())
    rig.script.place = answers(delivered("A", complete=False))
    rig.script.query = answers(delivered("A", "B", "C"))
    order = await rig.order(PACK, quantity=2)
    now = await rig.when_state(order, OrderState.NEEDS_REVIEW)
    assert (now.reviews, now.delivered_quantity) == ((ReviewReason.TOO_MANY_CARDS,), 1)
    assert await rig.shown_cards(order) == ["A"]


@pytest.mark.parametrize("listed", [("B", "C"), ("B",)])
@pytest.mark.rule("O9")
async def test_a_list_that_lacks_or_changes_a_card_overwrites_nothing(rigged: Rigged, listed: tuple[str, ...]) -> None:
    """A person looks, and the card that was handed over stays what it was."""
    rig = await rigged(a=traits())
    rig.script.place = answers(delivered("A", complete=False))
    rig.script.query = answers(delivered(*listed))
    order = await rig.order(PACK, quantity=2)
    now = await rig.when_state(order, OrderState.NEEDS_REVIEW)
    assert now.reviews == (ReviewReason.CARDS_CHANGED,)
    assert await rig.shown_cards(order) == ["A"]


@pytest.mark.rule("O2")
async def test_some_units_are_missing_only_when_they_are_proven_dead(rigged: Rigged) -> None:
    """One delivered and one unknown isn't a part of the order: it is a doubt, until the other is known never to be."""
    rig = await rigged(a=traits())

    async def place(asked: Asked) -> Reply:
        return delivered("A") if len(rig.script.places()) == 1 else await hangs_up(asked)

    rig.script.place = place
    rig.script.query = hangs_up
    order = await rig.order("a", quantity=2)
    now = await rig.when(order, lambda now: now.delivered_quantity == 1 and now.state is OrderState.OUTCOME_UNKNOWN)
    assert now.failure is None
    rig.script.query = answers(ABSENT)
    now = await rig.when_state(order, OrderState.PARTIALLY_FULFILLED)
    assert {p.state for p in now.purchases} == {PurchaseState.DELIVERED, PurchaseState.DEAD}


@pytest.mark.rule("O7")
async def test_purchases_to_one_recipient_go_one_after_another(rigged: Rigged) -> None:
    """However many slots are free: the next is sent when the one before has ended."""
    rig = await rigged(a=traits())
    under_way = most = 0

    async def place(_asked: Asked) -> Reply:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1
        return delivered()

    rig.script.place = place
    order = await rig.order(TOPUP, quantity=4, recipient=PHONE)
    await rig.when_state(order, OrderState.FULFILLED)
    assert (len(rig.script.places()), most) == (4, 1)


@pytest.mark.parametrize("about", [RefusedFor.PRODUCT, RefusedFor.STOCK, RefusedFor.BALANCE])
@pytest.mark.rule("O7")
async def test_after_a_refusal_the_remaining_units_are_not_sent(rigged: Rigged, about: RefusedFor) -> None:
    """They would meet the same refusal; the next offer gets all of them."""
    rig = await rigged(a=traits(), b=traits(), max_in_flight=1)

    async def place(asked: Asked) -> Reply:
        return refused(about=about) if asked.account == "a" else delivered(asked.number)

    rig.script.place = place
    now = await rig.when_state(await rig.order(BOTH, quantity=5), OrderState.FULFILLED)
    assert (len(rig.script.places("a")), len(rig.script.places("b"))) == (1, 5)
    assert now.delivered_quantity == 5


@pytest.mark.rule("O7")
async def test_a_unit_that_the_supplier_asked_to_wait_is_held_back_as_well(rigged: Rigged) -> None:
    """Proven unsent is unsent, whether or not a request for it was ever written."""
    rig = await rigged(a=traits(), max_in_flight=2)
    gate = asyncio.Event()

    async def place(asked: Asked) -> Reply:
        if asked.number == order.purchases[0].number:
            await gate.wait()
            return refused()
        return rate_limited(0.05)

    rig.script.place = place
    order = await rig.order("a", quantity=2)
    await rig.when(order, lambda now: now.purchases[1].state is PurchaseState.WAITING and now.purchases[1].sends)
    gate.set()
    now = await rig.when_state(order, OrderState.FAILED)
    assert now.failure is not None
    assert len(rig.script.places()) == 2


# --- Price ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked_for", "limit"), [(None, 20_000), (15_000, 15_000), (30_000, 20_000)])
@pytest.mark.rule("O10")
async def test_the_limit_is_the_lower_of_the_clients_and_the_offers(
    rigged: Rigged, asked_for: int | None, limit: int
) -> None:
    """What the client accepts never raises what the offer allows."""
    rig = await rigged(a=traits())
    order = await rig.order("a", max_unit_price=None if asked_for is None else Money(asked_for))
    assert [offer.unit_limit for offer in order.offers] == [limit]


@pytest.mark.rule("O10")
async def test_an_offer_above_the_limit_stores_nothing(rigged: Rigged) -> None:
    """Refused before anything is on disk or sent."""
    rig = await rigged(a=traits())
    with pytest.raises(PriceAboveLimit) as refusal:
        await rig.order("a", max_unit_price=Money(9_999))
    assert (refusal.value.price, refusal.value.limit) == (10_000, 9_999)
    assert await rig.store.order_by_client_order_id(CLIENT, "1") == (None, await rig.store.head(CLIENT))
    assert (await rig.store.head(CLIENT)).position == 0
    assert not rig.script.asked


@pytest.mark.rule("O11")
async def test_a_charge_above_the_limit_is_delivered_and_told(rigged: Rigged) -> None:
    """The card is the client's; the item and the alert are the operator's. The limit counts for all units together."""
    rig = await rigged(a=traits())
    rig.script.place = answers(delivered("A", "B", cost=40_000))
    fair = await rig.when_state(await rig.order(PACK, "fair", 2), OrderState.FULFILLED)
    assert (fair.reviews, fair.total_cost) == ((), 40_000)
    rig.script.place = answers(delivered("A", "B", cost=40_001))
    order = await rig.order(PACK, "dear", 2)
    now = await rig.when_state(order, OrderState.FULFILLED)
    assert now.reviews == (ReviewReason.OVERCHARGED,)
    assert await rig.shown_cards(order) == ["A", "B"]
    await until(lambda: rig.alerts("overcharged") == 1)
