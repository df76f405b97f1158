"""What becomes of deliveries afterwards: shown, told once, and never a change of state."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_adapters.contract import Absent, AfterSale, Card, CardKind, Delivered, ProductKind, Refunded, Unclear
from reward_adapters.money import Money
from reward_server.domain.moves import AlertKind, CancelConfirmed, Event, Step, WatchOver, advance
from reward_server.domain.order import Order, OrderState, ReviewReason

from .test_moves import NOW, Numbers, around, submitting

HOUR = 3_600_000


def numbered(n: int, sale: AfterSale | None = None, *, hours: int = 0, secret: str = "") -> Card:
    """A card with the supplier's number for it, and a warranty of some hours."""
    until = datetime.fromtimestamp((NOW + hours * HOUR) / 1000, UTC) if hours else None
    return Card(
        kind=CardKind.CODE,
        secret=secret or f"secret{n}",
        supplier_card_number=f"card{n}",
        after_sale=sale,
        warranty_until=until,
    )


def taken_back(n: int) -> Card:
    """A card as a supplier lists it that took it back: nothing but its number."""
    return Card(kind=CardKind.CODE, supplier_card_number=f"card{n}", after_sale=AfterSale.REVERSED)


def said(order: Order, event: Event, at: int = NOW, *, watch: int = 24 * HOUR) -> Step:
    """The order after an event at its first purchase, at a supplier whose deliveries are watched for a while."""
    return advance(order, order.purchases[0].number, event, around(Numbers(), at, watch_ms=watch))


def a_delivery(*cards: Card, kind: ProductKind = ProductKind.CARD, **more: Any) -> Order:
    quantity = max(len(cards), 1)
    order = submitting(Numbers(), quantity=quantity, max_units=quantity, kind=kind)
    return said(order, Delivered(cards=cards, **more)).order


@pytest.mark.rule("O5", "O6")
def test_a_dispute_is_shown_told_once_and_ends_by_itself() -> None:
    """Card and order say DISPUTED, a person is asked to look; when the card is fine again nothing is open."""
    order = a_delivery(numbered(1, AfterSale.WARRANTY, hours=48))
    assert (order.after_sale, order.reviews, order.state) == (AfterSale.WARRANTY, (), OrderState.FULFILLED)
    disputed = said(order, Delivered(cards=(numbered(1, AfterSale.DISPUTED),)))
    assert (disputed.order.after_sale, disputed.order.reviews) == (AfterSale.DISPUTED, (ReviewReason.DISPUTED,))
    assert (disputed.visible, disputed.order.version) == (True, order.version + 1)
    assert [alert.kind for alert in disputed.alerts] == [AlertKind.DISPUTED]
    again = said(disputed.order, Delivered(cards=(numbered(1, AfterSale.DISPUTED),)))
    assert (again.news, again.alerts) == (False, ())
    fine = said(disputed.order, Delivered(cards=(numbered(1),)))
    assert (fine.order.after_sale, fine.order.reviews, fine.visible) == (None, (), True)


def test_a_dispute_that_ended_nobody_knows_how_stays_open() -> None:
    """CLOSED_UNCLEAR is no all-clear: the item stays, as it was opened, and there is no second alert."""
    order = said(a_delivery(numbered(1)), Delivered(cards=(numbered(1, AfterSale.DISPUTED),))).order
    closed = said(order, Delivered(cards=(numbered(1, AfterSale.CLOSED_UNCLEAR),)), NOW + HOUR)
    assert (closed.order.after_sale, closed.order.reviews) == (AfterSale.CLOSED_UNCLEAR, (ReviewReason.DISPUTED,))
    assert [item.opened_at for item in closed.order.purchases[0].items] == [NOW]
    assert closed.alerts == ()


def test_a_dispute_that_we_only_hear_the_end_of_is_opened() -> None:
    """Looks are hours apart: a whole dispute may fit in between."""
    step = said(a_delivery(numbered(1)), Delivered(cards=(numbered(1, AfterSale.CLOSED_UNCLEAR),)))
    assert step.order.reviews == (ReviewReason.DISPUTED,)


def test_a_card_that_arrives_in_dispute_opens_the_item_at_once() -> None:
    """The first list of cards may say it already."""
    order = a_delivery(numbered(1, AfterSale.DISPUTED))
    assert (order.after_sale, order.reviews) == (AfterSale.DISPUTED, (ReviewReason.DISPUTED,))


@pytest.mark.rule("O6")
def test_the_order_shows_the_worst_of_its_cards() -> None:
    """REVERSED before DISPUTED before CLOSED_UNCLEAR before WARRANTY; each card keeps its own."""
    order = a_delivery(*(numbered(n) for n in (1, 2, 3, 4)))
    listed = (
        numbered(1, AfterSale.WARRANTY),
        numbered(2, AfterSale.CLOSED_UNCLEAR),
        numbered(3, AfterSale.DISPUTED),
        taken_back(4),
    )
    seen = []
    for count in range(1, 5):
        cards = (*listed[:count], *(numbered(n) for n in range(count + 1, 5)))
        order = said(order, Delivered(cards=cards)).order
        seen.append(order.after_sale)
    assert seen == [AfterSale.WARRANTY, AfterSale.CLOSED_UNCLEAR, AfterSale.DISPUTED, AfterSale.REVERSED]
    assert [card.after_sale for card in order.purchases[0].cards] == seen


@pytest.mark.rule("O5", "O6")
def test_a_card_taken_back_is_marked_by_its_number_alone() -> None:
    """It lacks its secrets and contradicts nothing; the other card is as before, and no card is new."""
    order = a_delivery(numbered(1), numbered(2))
    step = said(order, Delivered(cards=(numbered(1), taken_back(2)), complete=False))
    assert [card.after_sale for card in step.order.purchases[0].cards] == [None, AfterSale.REVERSED]
    assert (step.order.state, step.order.reviews) == (OrderState.FULFILLED, (ReviewReason.REVERSED,))
    assert [alert.kind for alert in step.alerts] == [AlertKind.REVERSED]
    assert (step.cards, step.order.delivered_quantity) == ((), 2)
    without = said(step.order, Delivered(cards=(numbered(1),), complete=False))
    assert (without.news, without.alerts) == (False, ())


def test_a_card_taken_back_before_it_was_delivered_never_is() -> None:
    """Neither as a new card nor as a contradiction, before and after the delivery of the others."""
    order = submitting(Numbers(), quantity=2, max_units=2)
    short = said(order, Delivered(cards=(numbered(1), taken_back(9)), complete=False))
    assert [new.card.supplier_card_number for new in short.cards] == ["card1"]
    assert (short.order.state, short.order.reviews) == (OrderState.PROCESSING, ())
    whole = said(short.order, Delivered(cards=(numbered(1), taken_back(9), numbered(2))))
    assert whole.order.state is OrderState.FULFILLED
    after = said(whole.order, Delivered(cards=(numbered(1), numbered(2), taken_back(9))))
    assert (after.news, after.alerts) == (False, ())


def test_a_list_of_nothing_but_cards_taken_back_brings_no_dead_purchase_to_life() -> None:
    """A late success needs something that lives."""
    order = said(submitting(Numbers()), Refunded()).order
    assert not said(order, Delivered(cards=(taken_back(1),))).news


@pytest.mark.parametrize("event", [Refunded(amount=Money(980_000)), CancelConfirmed(refund=Money(980_000))])
@pytest.mark.rule("O5", "O6")
def test_money_returned_after_the_delivery_reverses_all_of_it(event: Event) -> None:
    """Cards stay visible and say REVERSED, the state stays, a person looks, and nothing is watched any more."""
    order = a_delivery(numbered(1, AfterSale.DISPUTED), numbered(2))
    step = said(order, event, NOW + HOUR)
    assert (step.order.state, step.order.after_sale) == (OrderState.FULFILLED, AfterSale.REVERSED)
    assert [card.after_sale for card in step.order.purchases[0].cards] == [AfterSale.REVERSED] * 2
    assert step.order.reviews == (ReviewReason.REVERSED,)
    assert [alert.kind for alert in step.alerts] == [AlertKind.REVERSED]
    assert (step.order.delivered_quantity, step.order.settled_at) == (2, NOW + HOUR)
    assert "98.00 yuan" in step.order.purchases[0].items[0].detail
    again = said(step.order, event, NOW + 2 * HOUR)
    assert (again.news, again.alerts) == (False, ())


def test_a_top_up_has_its_after_sale_as_a_whole() -> None:
    """Without cards the purchase carries it; later words without it are the all-clear."""
    order = a_delivery(kind=ProductKind.TOPUP)
    disputed = said(order, Delivered(after_sale=AfterSale.DISPUTED)).order
    assert (disputed.after_sale, disputed.reviews) == (AfterSale.DISPUTED, (ReviewReason.DISPUTED,))
    fine = said(disputed, Delivered()).order
    assert (fine.after_sale, fine.reviews) == (None, ())
    back = said(fine, Refunded()).order
    assert (back.after_sale, back.state) == (AfterSale.REVERSED, OrderState.FULFILLED)


def test_a_delivery_that_nothing_can_become_of_is_settled_in_its_own_version() -> None:
    """Without a watch the terminal version is the settled one."""
    order = submitting(Numbers())
    step = said(order, Delivered(cards=(numbered(1),)), NOW + 5, watch=0)
    assert (step.order.state, step.order.settled_at, step.order.updated_at) == (OrderState.FULFILLED, NOW + 5, NOW + 5)
    assert step.order.version == order.version + 1


def test_a_supplier_that_calls_it_final_settles_at_once() -> None:
    """With the delivery, or later."""
    assert a_delivery(numbered(1), settled=True).settled_at == NOW
    watched = a_delivery(numbered(1, AfterSale.WARRANTY, hours=48))
    assert watched.settled_at == 0
    final = said(watched, Delivered(cards=(numbered(1),), settled=True), NOW + HOUR)
    assert (final.order.settled_at, final.visible) == (NOW + HOUR, True)


@pytest.mark.rule("O6")
def test_the_longest_warranty_says_how_long_we_watch() -> None:
    """Cards with a warranty count before the supplier's usual time, whether that is longer or shorter."""
    assert a_delivery(numbered(1, hours=2), numbered(2, hours=30)).purchases[0].watch_until == NOW + 30 * HOUR
    assert a_delivery(numbered(1, hours=2)).purchases[0].watch_until == NOW + 2 * HOUR
    assert a_delivery(numbered(1)).purchases[0].watch_until == NOW + 24 * HOUR


def test_a_warranty_that_cannot_be_is_not_believed() -> None:
    """One that was over before the delivery, or ends in a thousand years: watched as long as any purchase."""
    for hours in (1, 24 * 365 * 900):
        order = submitting(Numbers())
        at = NOW + 2 * HOUR
        step = said(order, Delivered(cards=(numbered(1, hours=hours),)), at)
        assert (step.order.settled_at, step.order.purchases[0].watch_until) == (0, at + 24 * HOUR)


def test_an_order_is_settled_with_its_last_purchase() -> None:
    """One purchase settled isn't the order; a dead one counts as settled."""
    numbers = Numbers()
    order = submitting(numbers, kind=ProductKind.TOPUP, quantity=2)
    first, second = (purchase.number for purchase in order.purchases)
    order = advance(order, first, Delivered(settled=True), around(numbers)).order
    assert (order.settled_at, order.state) == (0, OrderState.PROCESSING)
    order = advance(order, second, Delivered(), around(numbers, NOW + 1, watch_ms=HOUR)).order
    assert (order.settled_at, order.state) == (0, OrderState.FULFILLED)
    over = advance(order, second, WatchOver(), around(numbers, NOW + HOUR))
    assert (over.order.settled_at, over.visible) == (NOW + HOUR, True)
    assert said(submitting(Numbers()), Refunded(), NOW + 7).order.settled_at == NOW + 7


@pytest.mark.rule("O6")
def test_news_after_the_end_of_the_watch_still_opens_an_item() -> None:
    """Settled means that we stopped asking, not that we stopped listening."""
    order = a_delivery(numbered(1), settled=True)
    step = said(order, Delivered(cards=(numbered(1, AfterSale.DISPUTED),)), NOW + HOUR)
    assert (step.order.reviews, step.order.settled_at) == ((ReviewReason.DISPUTED,), NOW)


def test_a_cost_that_is_told_after_the_delivery_is_weighed_too() -> None:
    """An overcharge that the supplier mentions late is an overcharge."""
    step = said(a_delivery(numbered(1)), Delivered(cards=(numbered(1),), cost=Money(1_000_000)))
    assert (step.order.reviews, step.order.total_cost) == ((ReviewReason.OVERCHARGED,), 1_000_000)
    assert [alert.kind for alert in step.alerts] == [AlertKind.OVERCHARGED]


@pytest.mark.rule("O9")
def test_other_cards_after_the_delivery_overwrite_nothing() -> None:
    """A list that changes a card, lacks one, or holds one too many: the order stays as it is, and a person looks."""
    order = a_delivery(numbered(1), numbered(2))
    for reason, listed in (
        (ReviewReason.CARDS_CHANGED, (numbered(1, AfterSale.DISPUTED, secret="another"), numbered(2))),
        (ReviewReason.CARDS_CHANGED, (numbered(1, AfterSale.DISPUTED),)),
        (ReviewReason.TOO_MANY_CARDS, (numbered(1), numbered(2), numbered(3))),
    ):
        step = said(order, Delivered(cards=listed))
        assert [alert.kind for alert in step.alerts] == [AlertKind.CONTRADICTION]
        assert (step.order.after_sale, step.order.state, step.cards) == (None, order.state, ())
        assert step.order.reviews == (reason,)
        again = said(step.order, Delivered(cards=listed))
        assert (again.news, again.alerts) == (False, ())


sales = st.sampled_from([None, *AfterSale])


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([ProductKind.CARD, ProductKind.TOPUP]),
    script=st.lists(
        st.one_of(
            st.builds(lambda a, b: ("cards", a, b), sales, sales),
            st.builds(lambda a: ("whole", a), sales),
            st.sampled_from(
                [Refunded(), CancelConfirmed(), WatchOver(), Absent(), Unclear("?"), Delivered(settled=True)]
            ),
        ),
        max_size=12,
    ),
)
@pytest.mark.rule("O3", "O6")
def test_nothing_after_a_delivery_changes_its_state(kind: ProductKind, script: list[Any]) -> None:
    """Whatever comes: the state stays, cards stay, versions have no gap, and what is settled stays settled."""
    order = a_delivery(*((numbered(1), numbered(2)) if kind.delivers_cards else ()), kind=kind)
    versions = [order.version]
    for place, entry in enumerate(script, 1):
        event: Event
        match entry:
            case ("cards", a, b):
                pair = (
                    taken_back(n) if sale is AfterSale.REVERSED else numbered(n, sale) for n, sale in ((1, a), (2, b))
                )
                event = Delivered(cards=tuple(pair) if kind.delivers_cards else ())
            case ("whole", sale):
                event = Delivered(after_sale=sale)
            case _:
                event = entry
        step = said(order, event, NOW + place * HOUR)
        assert step.order.state is OrderState.FULFILLED
        assert step.order.delivered_quantity == order.delivered_quantity
        assert step.cards == ()
        assert not order.settled_at or step.order.settled_at == order.settled_at
        assert len({item.reason for item in step.order.purchases[0].items}) == len(step.order.purchases[0].items)
        versions.append(step.order.version)
        order = step.order
    assert all(later - earlier in (0, 1) for earlier, later in pairwise(versions))
