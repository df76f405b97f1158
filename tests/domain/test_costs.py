"""What a purchase and an order say that they cost."""

from reward_adapters.contract import Accepted, Delivered, Refunded, Refused, RefusedFor
from reward_adapters.money import Money
from reward_server.domain.moves import Event, advance
from reward_server.domain.order import Order, PurchaseState

from .test_moves import Numbers, around, card, submitting

UNPAID = Refused(code="-1", message="not paid", certain=True, about=RefusedFor.BALANCE)


def after(*events: Event) -> Order:
    order = submitting(Numbers())
    for event in events:
        order = advance(order, "N1", event, around(Numbers())).order
    return order


def test_a_price_that_was_told_and_never_charged_is_no_cost() -> None:
    """A shop that names its price as it takes an order, and then refuses it as unpaid, took nothing."""
    [purchase] = after(Accepted(cost=Money(50)), UNPAID).purchases
    assert (purchase.state, purchase.cost) == (PurchaseState.DEAD, None)


def test_a_refusal_of_what_has_cards_leaves_its_cost() -> None:
    """A person looks: it was charged, perhaps."""
    [purchase] = after(Delivered(cards=(card(1),), complete=False, cost=Money(50)), UNPAID).purchases
    assert (purchase.state, purchase.cost) == (PurchaseState.ACCEPTED, Money(50))


def test_money_that_came_back_stands_beside_the_cost() -> None:
    """What was charged stays what was charged; an order's sum is about what was delivered."""
    order = after(Accepted(cost=Money(50)), Refunded(amount=Money(50)))
    assert (order.purchases[0].cost, order.purchases[0].refunded, order.total_cost) == (Money(50), Money(50), None)
    order = after(Delivered(cards=(card(1),), cost=Money(50)), Refunded(amount=Money(50)))
    assert (order.purchases[0].cost, order.purchases[0].refunded, order.total_cost) == (Money(50), Money(50), Money(50))
