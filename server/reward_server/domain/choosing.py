"""Why an order was bought where it was: every offer of its product, in the order in which they are tried, and what
became of each. Derived from the order alone, for people.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from reward_adapters.money import Money, show_yuan
from reward_server.domain import moves
from reward_server.domain.order import (
    FailureReason,
    LeftOut,
    LeftOutFor,
    Offer,
    Order,
    PurchaseRecord,
    PurchaseState,
)


class OfferUse(StrEnum):
    """What became of an offer."""

    USED = "used"
    NOT_NEEDED = "not_needed"
    """It comes after those that were used, and none of them made it necessary so far."""
    NOT_TRIED = "not_tried"
    """What came before it failed in a way that doesn't let another offer be tried."""
    PAUSED = "paused"
    PRICE_ABOVE_LIMIT = "price_above_limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One offer, and why it was used or not."""

    account: str
    supplier_product: str
    unit_cost: Money
    unit_limit: Money
    use: OfferUse
    why: str
    numbers: tuple[str, ...] = ()
    """Of its purchases, oldest first."""


_LEFT_OUT = {LeftOutFor.PAUSED: OfferUse.PAUSED, LeftOutFor.PRICE_ABOVE_LIMIT: OfferUse.PRICE_ABOVE_LIMIT}

_ENDS_IT = {
    FailureReason.RECIPIENT_REFUSED: "the recipient was refused, and would be elsewhere",
    FailureReason.REFUSED: "it was refused for no reason that another offer could mend",
    FailureReason.REFUNDED: "it isn't known that all money came back",
    FailureReason.NOT_SENT_IN_TIME: "the time to send it was over",
    FailureReason.NEVER_RECEIVED: "only a refusal or a full refund lets another offer be tried",
    FailureReason.OPERATOR: "an operator decided that its units fail",
}
"""Why a death doesn't let the next offer be tried."""


def choices(order: Order) -> list[Choice]:
    """Every offer of the product as it was when the order was made, in the configured order."""
    places = {left.place: left for left in order.left_out}
    usable = iter(range(len(order.offers)))
    every = range(len(order.offers) + len(order.left_out))
    return [
        _not_usable(places[place]) if place in places else _usable(order, next(usable), skipped=_before(order, place))
        for place in every
    ]


def _before(order: Order, place: int) -> int:
    """How many offers before a place couldn't be used."""
    return sum(left.place < place for left in order.left_out)


def _not_usable(left: LeftOut) -> Choice:
    if left.reason is LeftOutFor.PAUSED:
        why = f"its account was paused when the order was made: {left.detail}".removesuffix(": ")
    else:
        why = f"a unit costs {show_yuan(left.unit_cost)} yuan there, the limit is {show_yuan(left.unit_limit)} yuan"
    return Choice(
        account=left.account,
        supplier_product=left.supplier_product,
        unit_cost=left.unit_cost,
        unit_limit=left.unit_limit,
        use=_LEFT_OUT[left.reason],
        why=why,
    )


def _usable(order: Order, place: int, *, skipped: int) -> Choice:
    offer = order.offers[place]
    bought = [purchase for purchase in order.purchases if purchase.offer == place]
    if bought:
        use, why = OfferUse.USED, "; then ".join(dict.fromkeys(_reasons(order, bought, skipped)))
    else:
        use, why = _not_used(order, place)
    return _choice(offer, use, why, tuple(purchase.number for purchase in bought))


def _choice(offer: Offer, use: OfferUse, why: str, numbers: tuple[str, ...]) -> Choice:
    return Choice(
        account=offer.account,
        supplier_product=offer.supplier_product,
        unit_cost=offer.unit_cost,
        unit_limit=offer.unit_limit,
        use=use,
        why=why,
        numbers=numbers,
    )


def _reasons(order: Order, bought: list[PurchaseRecord], skipped: int) -> Iterator[str]:
    """Why each of the purchases at one offer was made there."""
    for purchase in bought:
        led = _led_to(order, purchase)
        if led is not None:
            yield f"after {_ended(order, led)}"
        elif purchase.ordered_at:
            yield "bought again by an operator's decision, at the first offer whose account could be used"
        else:
            yield "the first offer that could be used" if skipped else "the first offer"


def _led_to(order: Order, purchase: PurchaseRecord) -> PurchaseRecord | None:
    """The dead purchase at the offer before that let this one be tried."""
    for dead in order.purchases:
        was_before = dead.offer == purchase.offer - 1 and dead.ordered_at == purchase.ordered_at
        if was_before and dead.state is PurchaseState.DEAD and moves.lets_next_try(dead):
            return dead
    return None


def _ended(order: Order, dead: PurchaseRecord) -> str:
    """A dead purchase and its end."""
    end = f"{dead.failure.reason}: {dead.failure.message}" if dead.failure is not None else "cancelled"
    return f"purchase {dead.number} at {order.offers[dead.offer].account} ended ({end})".replace(": )", ")")


def _not_used(order: Order, place: int) -> tuple[OfferUse, str]:
    stuck = [purchase for purchase in moves.current(order) if purchase.state is PurchaseState.DEAD]
    if not stuck:
        accounts = dict.fromkeys(order.offers[purchase.offer].account for purchase in moves.current(order))
        return (
            OfferUse.NOT_NEEDED,
            f"not needed so far: the units are bought, or being bought, at {', '.join(accounts)}",
        )
    if all(purchase.offer > place for purchase in stuck):
        return OfferUse.NOT_NEEDED, "passed over when an operator had the units bought again"
    dead = stuck[0]
    if order.cancel_requested_at:
        return OfferUse.NOT_TRIED, "the client wished to cancel: nothing more is bought"
    reason = dead.failure.reason if dead.failure is not None else None
    words = _ENDS_IT.get(reason, "that lets no other offer be tried") if reason else "it was taken down"
    return OfferUse.NOT_TRIED, f"{_ended(order, dead)}: {words}"
