"""What a client may order: decided by the store in the transaction that stores the order."""

from dataclasses import dataclass

from reward_adapters.money import Money
from reward_server.domain.order import Order
from reward_server.errors import SpendLimitReached, TooManyOrders

DAY_MS = 86_400_000
ORDERS_RETRY_SECONDS = 5.0
"""Orders end when suppliers answer, not after a time that could be told."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a client may have; None: as much as it wants."""

    orders_in_flight: int | None = None
    """Orders that haven't ended."""
    spend_per_day: Money | None = None
    """What the orders of one UTC day may cost at worst."""


NO_QUOTA = Quota()


def day_of(order: Order) -> int:
    """The UTC day on which an order was made, counted from 1970."""
    return order.created_at // DAY_MS


def reserved(order: Order) -> Money:
    """What an order could cost at worst: all its units at the highest limit among its offers.

    It counts for its day whatever becomes of the order: what is given back would let a client whose orders fail
    try for ever.
    """
    return Money(order.quantity * max((offer.unit_limit for offer in order.offers), default=0))


def refusal(order: Order, quota: Quota, in_flight: int, spent: int) -> TooManyOrders | SpendLimitReached | None:
    """Why a new order isn't stored, with so many orders in flight and so much spent on its day; None: it is."""
    limit, budget = quota.orders_in_flight, quota.spend_per_day
    if limit is not None and in_flight >= limit:
        return TooManyOrders(order.client_id, limit, ORDERS_RETRY_SECONDS)
    if budget is not None and spent + reserved(order) > budget:
        until_tomorrow = ((day_of(order) + 1) * DAY_MS - order.created_at) / 1000
        return SpendLimitReached(order.client_id, budget, Money(max(0, budget - spent)), until_tomorrow)
    return None
