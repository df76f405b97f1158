"""What becomes of a purchase after it was delivered: warranties, disputes, reversals, and the end of our watching.

None of it changes a state. What a person should look at becomes a `ReviewItem` beside it.
"""

from collections.abc import Collection, Mapping

from reward_adapters.contract import AfterSale, Card
from reward_server.domain.copies import replace
from reward_server.domain.order import PurchaseRecord, ReviewItem, ReviewReason

LONGEST_WATCH_MS = 90 * 86_400_000
"""A warranty said to end later than this after the delivery isn't believed."""

WORST_FIRST = (AfterSale.REVERSED, AfterSale.DISPUTED, AfterSale.CLOSED_UNCLEAR, AfterSale.WARRANTY)

_DOUBTFUL = frozenset({AfterSale.DISPUTED, AfterSale.CLOSED_UNCLEAR})


def worst(sales: Collection[AfterSale]) -> AfterSale | None:
    """The worst of them; None of none."""
    return next((sale for sale in WORST_FIRST if sale in sales), None)


def with_item(purchase: PurchaseRecord, reason: ReviewReason, at: int, detail: str) -> PurchaseRecord:
    """The purchase with an item open. Each reason once: what is open already stays as it was opened."""
    if any(item.reason is reason for item in purchase.items):
        return purchase
    return replace(purchase, items=(*purchase.items, ReviewItem(reason, at, detail)))


def opened(before: PurchaseRecord, after: PurchaseRecord) -> tuple[ReviewItem, ...]:
    """The items that were opened between the two."""
    known = {item.reason for item in before.items}
    return tuple(item for item in after.items if item.reason not in known)


def told(
    purchase: PurchaseRecord, of_cards: Mapping[str, AfterSale | None], of_all: AfterSale | None, at: int
) -> PurchaseRecord:
    """The purchase with what a supplier says of its items: of cards by their identity, and of it as a whole.

    Items open and close with news only: what an operator put aside isn't opened again by the same words.
    """
    cards = tuple(replace(card, after_sale=of_cards.get(card.identity, card.after_sale)) for card in purchase.cards)
    after = replace(purchase, cards=cards, after_sale=of_all)
    if after == purchase:
        return purchase
    if _reversed(after) > _reversed(purchase):
        after = with_item(after, ReviewReason.REVERSED, at, f"taken back: {_share(after, {AfterSale.REVERSED})}")
    doubtful = _DOUBTFUL & after.after_sales()
    if doubtful - purchase.after_sales():
        after = with_item(after, ReviewReason.DISPUTED, at, f"in dispute: {_share(after, _DOUBTFUL)}")
    if not doubtful:
        after = replace(after, items=tuple(item for item in after.items if item.reason is not ReviewReason.DISPUTED))
    return after


def reversed_whole(purchase: PurchaseRecord, at: int, detail: str) -> PurchaseRecord:
    """The purchase with everything of it taken back."""
    if _all_reversed(purchase):
        return purchase
    of_cards: dict[str, AfterSale | None] = {card.identity: AfterSale.REVERSED for card in purchase.cards}
    # Opened here, for the words that the supplier has for it.
    after = with_item(purchase, ReviewReason.REVERSED, at, detail)
    return settle(told(after, of_cards, None if purchase.cards else AfterSale.REVERSED, at), at)


def watch(purchase: PurchaseRecord, at: int, *, watch_ms: int) -> PurchaseRecord:
    """A purchase that was just delivered, with the end of our watching fixed: settled if that is past.

    `watch_ms` counts where no card has a warranty.
    """
    purchase = replace(purchase, watch_until=purchase.watch_until or at + watch_ms)
    return settle(purchase, at) if purchase.watch_until <= at else purchase


def settle_if_final(purchase: PurchaseRecord, at: int, *, final: bool) -> PurchaseRecord:
    """A delivered purchase, settled if nothing more can become of it: the supplier says so, or took all of it back."""
    return settle(purchase, at) if final or _all_reversed(purchase) else purchase


def settle(purchase: PurchaseRecord, at: int) -> PurchaseRecord:
    """The purchase no longer watched."""
    return purchase if purchase.settled_at else replace(purchase, settled_at=at)


def warranty_end(cards: Collection[Card], at: int) -> int:
    """The latest end of a warranty among cards, in milliseconds; 0 when none has one that can be believed.

    One that ended before we heard of it, or ends later than any that is sold, has a wrong date.
    """
    ends = [int(1000 * card.warranty_until.timestamp()) for card in cards if card.warranty_until]
    return max((end for end in ends if at < end <= at + LONGEST_WATCH_MS), default=0)


def _reversed(purchase: PurchaseRecord) -> int:
    """How much of it is taken back."""
    cards = sum(card.after_sale is AfterSale.REVERSED for card in purchase.cards if not card.hidden)
    return cards + (purchase.after_sale is AfterSale.REVERSED)


def _all_reversed(purchase: PurchaseRecord) -> bool:
    shown = [card for card in purchase.cards if not card.hidden]
    if shown:
        return all(card.after_sale is AfterSale.REVERSED for card in shown)
    return purchase.after_sale is AfterSale.REVERSED


def _share(purchase: PurchaseRecord, sales: Collection[AfterSale]) -> str:
    shown = [card for card in purchase.cards if not card.hidden]
    if not shown:
        return "the whole purchase"
    return f"{sum(card.after_sale in sales for card in shown)} of {len(shown)} cards"
