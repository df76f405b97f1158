"""What an operator may decide about a purchase, and what stands open for one. The moves themselves are in `moves`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from reward_adapters.contract import Card
from reward_server.domain import moves
from reward_server.domain.moves import Circumstances, OperatorDead, OperatorDelivered, Step
from reward_server.domain.order import CardPrint, Order, PurchaseRecord, PurchaseState, ReviewReason


class Decision(StrEnum):
    """What an operator decides about one purchase."""

    DELIVERED = "delivered"
    """It was delivered; the client gets its cards."""
    FAIL = "fail"
    """It wasn't bought or the money came back; its units fail."""
    BUY_AGAIN = "buy_again"
    """It wasn't bought or the money came back; its units are bought anew."""
    DISMISS = "dismiss"
    """What stands beside its state was dealt with."""


class Rest(StrEnum):
    """What becomes of the units of a purchase that was delivered in part."""

    FAIL = "fail"
    BUY_AGAIN = "buy_again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision with all that belongs to it."""

    decision: Decision
    reason: str
    """In the operator's words; the client sees it where units fail."""
    by: str
    """Who decided."""
    cards: tuple[Card, ...] = ()
    kept: bool = False
    """Whether the client gets the cards that were kept from it."""
    rest: Rest | None = None
    """With DELIVERED: what becomes of the units that no card came for; None: there are none."""

    @property
    def what(self) -> str:
        """What the record says was decided."""
        return self.decision if self.rest is None else f"{self.decision}_rest_{self.rest}"

    @property
    def words(self) -> str:
        """What the evidence says."""
        return f"{self.by}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Situation:
    """What counts for a decision beside the order itself."""

    overdue: bool
    """Whether the settling deadline is past, or there is nobody to ask about the purchase any more."""
    offer: int | None
    """The first offer of the order that can be used now; None: there is none."""


@dataclass(frozen=True, slots=True)
class OpenReview:
    """One thing that a person should look at."""

    purchase: PurchaseRecord
    account: str
    reason: ReviewReason
    at: int
    detail: str
    keeps_open: bool
    """Whether it keeps the order in review; else it stands beside the state."""


def open_reviews(order: Order) -> Iterator[OpenReview]:
    """Everything about an order that a person should look at."""
    for purchase in order.purchases:
        account = order.offers[purchase.offer].account
        if purchase.review is not None:
            told = (piece.detail for piece in purchase.evidence if piece.at == purchase.review_at and piece.detail)
            yield OpenReview(purchase, account, purchase.review, purchase.review_at, next(told, ""), keeps_open=True)
        for item in purchase.items:
            yield OpenReview(purchase, account, item.reason, item.opened_at, item.detail, keeps_open=False)


def objection(
    order: Order,
    number: str,
    verdict: Verdict,
    situation: Situation,
    print_card: Callable[[Card], CardPrint],
) -> str:
    """Why a decision can't be taken as things stand; empty when it can. Raises KeyError for another order's number."""
    purchase = order.purchase(number)
    match verdict.decision:
        case Decision.DISMISS:
            return _against_dismissing(purchase)
        case Decision.DELIVERED:
            return (
                _undecidable(purchase, situation)
                or _against_delivering(order, purchase, verdict, print_card)
                or (_against_buying_again(order, situation) if verdict.rest is Rest.BUY_AGAIN else "")
            )
        case Decision.FAIL:
            return _undecidable(purchase, situation) or _against_giving_up(purchase)
        case Decision.BUY_AGAIN:
            return (
                _undecidable(purchase, situation)
                or _against_giving_up(purchase)
                or _against_buying_again(order, situation)
            )


def decide(order: Order, number: str, verdict: Verdict, situation: Situation, around: Circumstances) -> Step:
    """The order after a decision that nothing speaks against."""
    match verdict.decision:
        case Decision.DISMISS:
            return moves.dismiss(order, number, detail=verdict.words, at=around.at)
        case Decision.DELIVERED:
            rest = None if verdict.rest is None else _dead(verdict, situation, again=verdict.rest is Rest.BUY_AGAIN)
            delivered = OperatorDelivered(cards=verdict.cards, kept=verdict.kept, detail=verdict.words, rest=rest)
            return moves.advance(order, number, delivered, around)
        case Decision.FAIL | Decision.BUY_AGAIN:
            dead = _dead(verdict, situation, again=verdict.decision is Decision.BUY_AGAIN)
            return moves.advance(order, number, dead, around)


def _dead(verdict: Verdict, situation: Situation, *, again: bool) -> OperatorDead:
    return OperatorDead(verdict.reason, again=situation.offer if again else None, detail=verdict.words)


def _against_dismissing(purchase: PurchaseRecord) -> str:
    if purchase.items:
        return ""
    if purchase.review is not None:
        return f"its review ({purchase.review}) keeps the order open: decide whether it was delivered or is dead"
    return "nothing about it is open"


def _undecidable(purchase: PurchaseRecord, situation: Situation) -> str:
    if purchase.state is PurchaseState.DEAD:
        late = any(item.reason is ReviewReason.LATE_SUCCESS for item in purchase.items)
        return "" if late else "it is dead, and nothing says that it was delivered after all"
    if purchase.state is PurchaseState.DELIVERED:
        return "it is delivered; DISMISS closes what is open about it"
    if purchase.may_be_on_its_way:
        return "its request may still be on its way; wait until that exchange has ended"
    if purchase.review is not None:
        return ""
    if purchase.state is PurchaseState.WAITING:
        return "it was never sent; cancel the order, or wait for its sending deadline"
    return (
        "" if situation.overdue else "it isn't in review, and its deadline hasn't passed: evidence may still settle it"
    )


def _against_delivering(
    order: Order, purchase: PurchaseRecord, verdict: Verdict, print_card: Callable[[Card], CardPrint]
) -> str:
    if purchase.state is PurchaseState.DEAD and moves.replaced(order, purchase):
        return "its units were bought again since: delivering both would be one too many; claim the money, then DISMISS"
    if not order.product_kind.delivers_cards:
        of_cards = verdict.cards or verdict.kept or verdict.rest is not None
        return "its product is delivered without cards" if of_cards else ""
    event = OperatorDelivered(cards=verdict.cards, kept=verdict.kept)
    shown = moves.hand_over(purchase, event, print_card).shown
    if verdict.rest is not None and shown == 0:
        return "not a card of it would be delivered: decide FAIL or BUY_AGAIN"
    if verdict.rest is not None and shown == purchase.quantity:
        return "cards came for all of its units: there is no rest"
    if shown == purchase.quantity or (verdict.rest is not None and shown < purchase.quantity):
        return ""
    hidden = sum(card.hidden for card in purchase.cards)
    missing = "; say what becomes of the rest" if 0 < shown < purchase.quantity else ""
    return (
        f"the client would have {shown} cards of this purchase, and it is for {purchase.quantity}"
        f" (handed over before: {purchase.shown_cards}, kept: {hidden}){missing}"
    )


def _against_giving_up(purchase: PurchaseRecord) -> str:
    if purchase.state is PurchaseState.DEAD:
        return "it is dead already; DISMISS closes what is open about it"
    if purchase.cards and purchase.shown_cards >= purchase.quantity:
        return "the client has all of its cards: it can only be DELIVERED"
    return ""


def _against_buying_again(order: Order, situation: Situation) -> str:
    if order.cancel_requested_at:
        return "the client cancelled the order: nothing is bought for it any more"
    return "" if situation.offer is not None else "no supplier account of the order's offers can be used now"
