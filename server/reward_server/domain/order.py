"""What a client ordered, what we buy for it, and what became of it.

Plain values: every change makes a new `Order` (see `moves.py`). Times are whole milliseconds since 1970 (UTC), money
is whole 1/10,000 yuan.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from reward_adapters.contract import AfterSale, ProductKind, Recipient, RefusedFor
from reward_adapters.money import Money
from reward_server.domain.copies import replace

EVIDENCE_LIMIT = 50
"""Pieces of evidence kept per purchase: enough for every path that isn't a flood of equal answers."""


FIRST_ATTEMPTS = 3
LATEST_ATTEMPTS = 7
"""Attempts kept per purchase: how it began, and how it went on of late."""


class PurchaseState(StrEnum):
    """Where a purchase stands. `moves.TABLE` decides every move."""

    WAITING = "waiting"
    """Not sent, or proven unsent."""
    SUBMITTING = "submitting"
    """The intention to send is on disk; the request may be on its way."""
    ACCEPTED = "accepted"
    """The supplier took it and will deliver."""
    DELIVERED = "delivered"
    DEAD = "dead"
    """Proven not bought, or refunded."""
    UNKNOWN = "unknown"
    """It may or may not have been taken."""

    @property
    def is_open(self) -> bool:
        """Whether there is still something to do."""
        return self not in (PurchaseState.DELIVERED, PurchaseState.DEAD)


class OrderState(StrEnum):
    """Where an order stands: a function of its purchases, see `moves.order_state`."""

    ACCEPTED = "accepted"
    PROCESSING = "processing"
    OUTCOME_UNKNOWN = "outcome_unknown"
    NEEDS_REVIEW = "needs_review"
    FULFILLED = "fulfilled"
    PARTIALLY_FULFILLED = "partially_fulfilled"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing but an operator's decision changes it any more."""
        return self in _TERMINAL


_TERMINAL = frozenset({OrderState.FULFILLED, OrderState.PARTIALLY_FULFILLED, OrderState.FAILED, OrderState.CANCELLED})


class FailureReason(StrEnum):
    """Why units were not delivered."""

    PRODUCT_UNAVAILABLE = "product_unavailable"
    OUT_OF_STOCK = "out_of_stock"
    PRICE_ABOVE_LIMIT = "price_above_limit"
    SUPPLIER_BALANCE = "supplier_balance"
    RECIPIENT_REFUSED = "recipient_refused"
    REFUSED = "refused"
    REFUNDED = "refunded"
    NOT_SENT_IN_TIME = "not_sent_in_time"
    NEVER_RECEIVED = "never_received"
    OPERATOR = "operator"
    CANCELLED = "cancelled"
    """By the client's wish, beside units that were delivered; an order without any is CANCELLED instead."""


class ReviewReason(StrEnum):
    """Why a person has to look. The first six keep an order open; the others stand beside any state (`ReviewItem`)."""

    DEADLINE = "deadline"
    PARTIAL_REFUND = "partial_refund"
    CARDS_CHANGED = "cards_changed"
    TOO_MANY_CARDS = "too_many_cards"
    CONTRADICTION = "contradiction"
    CARD_MISSING = "card_missing"
    LATE_SUCCESS = "late_success"
    OVERCHARGED = "overcharged"
    DISPUTED = "disputed"
    REVERSED = "reversed"


class Source(StrEnum):
    """Where a piece of evidence came from."""

    PLACE = "place"
    QUERY = "query"
    CALLBACK = "callback"
    DEADLINE = "deadline"
    RECOVERY = "recovery"
    OPERATOR = "operator"
    CANCEL = "cancel"
    """The client's wish to cancel, and what the supplier said to it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One piece of evidence: when, where from, what was understood, and the scrubbed words of it."""

    at: int
    source: Source
    outcome: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One intention to send a purchase, and why it wasn't sent before."""

    at: int
    """When the intention was committed."""
    waited_since: int = 0
    """Since when it had waited to be sent; 0 = it was sent at once."""
    waited_for: str = ""
    """What for, in scrubbed words for people; "" = it was sent at once."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why units failed, in a type and in words."""

    reason: FailureReason
    message: str


@dataclass(frozen=True, slots=True)
class CardPrint:
    """How a stored card is recognised without its secrets: keyed hashes, made by the sealer."""

    identity: str
    """Equal for two listings of the same card."""
    content: str
    """Equal only if every field is equal."""
    card_no: int = 0
    """The card's place in its order, from 1; 0 until it is stored."""
    hidden: bool = False
    """Kept, but not for the client: see `moves`."""
    after_sale: AfterSale | None = None
    """What the supplier said last of what became of the card."""


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """Something a person has to look at that leaves the order's state alone. Open as long as it is kept."""

    reason: ReviewReason
    opened_at: int
    detail: str = ""
    """Scrubbed; for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One way to buy the product, as configured when the order was made."""

    account: str
    supplier_product: str
    unit_cost: Money
    unit_limit: Money
    """min(the client's max_unit_price, the offer's max_unit_cost)."""
    max_units: int
    """The most units one purchase may ask for."""
    parameters: dict[str, str] = field(default_factory=dict)


class LeftOutFor(StrEnum):
    """Why an offer of the product can't be used for an order."""

    PAUSED = "paused"
    PRICE_ABOVE_LIMIT = "price_above_limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An offer of the product that couldn't be used when the order was made, kept to explain the choice."""

    place: int
    """Its place among all offers of the product, from 0."""
    account: str
    supplier_product: str
    unit_cost: Money
    unit_limit: Money
    reason: LeftOutFor
    detail: str = ""
    """Why the account was paused; scrubbed, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchaseRecord:
    """What we know of one purchase. Never leaves the engine except in view EXPLAINED."""

    number: str
    offer: int
    """Index into `Order.offers`."""
    first_unit: int
    """The first of its units, counted from 0 over the order."""
    quantity: int
    state: PurchaseState = PurchaseState.WAITING
    owner: str = ""
    """The server process that may send and look; "" = none. Part of the fence: every take-over changes the revision."""
    sends: int = 0
    """How often an intention to send was committed, proven non-sends taken back."""
    absence_resends: int = 0
    token_resent: bool = False
    not_before: int = 0
    """Don't send before this time (a supplier asked us to wait)."""
    intent_at: int = 0
    """When the first intention to send was committed, 0 = never; the settling deadline counts from here."""
    written_until: int = 0
    """The latest time at which the request may still have been written; 0 while the sender may still be at it."""
    absent_looks: int = 0
    called_back: bool = False
    """A verified callback named it: the supplier knows it, whatever a look may say."""
    refusal: Failure | None = None
    """An uncertain refusal, waiting for a look that confirms it."""
    refused_for: RefusedFor | None = None
    """What the refusal was about that killed it, or that waits for a look."""
    supplier_reference: str | None = None
    cost: Money | None = None
    refunded: Money | None = None
    failure: Failure | None = None
    """Why it is dead."""
    review: ReviewReason | None = None
    """Why the order can't go on without a person, or without better evidence."""
    review_at: int = 0
    """Since when it is in review."""
    items: tuple[ReviewItem, ...] = ()
    """What a person should look at beside its state; each reason at most once."""
    dismissed: tuple[ReviewItem, ...] = ()
    """Items that an operator closed: the same words don't open them again."""
    ordered_at: int = 0
    """When an operator had its units bought again: its sending deadline counts from here; 0 = from the order's
    creation."""
    cards: tuple[CardPrint, ...] = ()
    after_sale: AfterSale | None = None
    """Of the whole purchase; where there are cards, each has its own."""
    watch_until: int = 0
    """How long something may still become of what was delivered: the cards' longest warranty, else by the supplier."""
    settled_at: int = 0
    """When we stopped watching what was delivered; 0 = not yet."""
    cancel_asks: int = 0
    """How often it was noted that the supplier is about to be asked to cancel it."""
    cancel_answered: bool = False
    """The supplier said something to the wish: it isn't asked again, and evidence decides."""
    evidence: tuple[Evidence, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    """Every intention to send it, also those proven unsent; of many the first and the latest."""
    updated_at: int = 0
    """When its state last changed."""

    def units(self) -> range:
        """The units of the order it buys."""
        return range(self.first_unit, self.first_unit + self.quantity)

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to do and nothing left to watch."""
        return self.state is PurchaseState.DEAD or (self.state is PurchaseState.DELIVERED and self.settled_at > 0)

    @property
    def is_watched(self) -> bool:
        """Whether it was delivered and something may still become of it."""
        return self.state is PurchaseState.DELIVERED and self.settled_at == 0

    @property
    def shown_cards(self) -> int:
        """How many of its cards the client has."""
        return sum(not card.hidden for card in self.cards)

    @property
    def may_be_on_its_way(self) -> bool:
        """Whether a request to buy it may still be written."""
        return self.state is PurchaseState.SUBMITTING or (
            self.state is PurchaseState.UNKNOWN and self.written_until == 0
        )

    def after_sales(self) -> frozenset[AfterSale]:
        """What became of its items: those that the client has."""
        told = {card.after_sale for card in self.cards if not card.hidden} | {self.after_sale}
        return frozenset(sale for sale in told if sale is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order with everything that is bought for it: the one thing that is stored and changed as a whole."""

    client_id: str
    order_id: str
    client_order_id: str
    product_id: str
    product_kind: ProductKind
    quantity: int
    recipient: Recipient | None
    max_unit_price: Money | None
    supplier_parameters: dict[str, str]
    metadata: dict[str, str]
    offers: tuple[Offer, ...]
    created_at: int
    purchases: tuple[PurchaseRecord, ...] = ()
    state: OrderState = OrderState.ACCEPTED
    delivered_quantity: int = 0
    card_count: int = 0
    failure: Failure | None = None
    reviews: tuple[ReviewReason, ...] = ()
    """Everything a person should look at: what keeps the order open, and the items beside its state."""
    after_sale: AfterSale | None = None
    """The worst of its items."""
    total_cost: Money | None = None
    cancel_requested_at: int = 0
    """When the client wished to cancel it; 0 = never."""
    settled_at: int = 0
    """When it was terminal and nothing of it was watched any more; 0 = not yet."""
    version: int = 1
    """Counts the changes that the client sees."""
    revision: int = 1
    """Counts all changes: the condition of every write."""
    updated_at: int = 0
    """When `version` came to be."""
    left_out: tuple[LeftOut, ...] = ()
    """Offers of the product that aren't among `offers`."""
    traceparent: str = ""
    """The call that created it, in the form of W3C Trace Context: whatever is done for it later joins that trace.

    "" = it isn't traced.
    """

    def purchase(self, number: str) -> PurchaseRecord:
        """The purchase of that number. Raises KeyError when it isn't one of this order's."""
        for purchase in self.purchases:
            if purchase.number == number:
                return purchase
        raise KeyError(number)

    @property
    def review_since(self) -> int:
        """Since when a person should look at it, because of any of its purchases; 0 = nobody needs to."""
        blocking = [max(p.review_at, 1) for p in self.purchases if p.review is not None]
        beside = [max(item.opened_at, 1) for p in self.purchases for item in p.items]
        return min([*blocking, *beside], default=0)

    def with_purchase(self, changed: PurchaseRecord) -> "Order":
        """The order with one purchase replaced."""
        return replace(self, purchases=tuple(changed if p.number == changed.number else p for p in self.purchases))

    def content(self) -> dict[str, Any]:
        """What the client asked for, field by field as in the contract: a replay must be equal in all of it."""
        return {
            "product_id": self.product_id,
            "quantity": self.quantity,
            "recipient": self.recipient,
            "max_unit_price": self.max_unit_price,
            "supplier_parameters": self.supplier_parameters,
            "metadata": self.metadata,
        }
