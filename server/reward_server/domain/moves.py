"""How orders change: one complete table of moves, and the one function that makes a move.

`advance(order, number, event, …)` takes what was learned about one purchase and returns the order as it is after it.
Dispatcher, looks, callbacks, recovery and operators all go through it. Nothing else changes a purchase but `intend`,
which notes the intention to send before the first byte leaves, `request_cancel`, which ends what was never sent,
`dismiss`, which closes what a person looked at, and the three that only note something: `note_callback`,
`note_cancel_ask` and `note_cancel_answer`.

The table says what each event means in each state. Three thoughts shape it:

* *Evidence is never refused.* A late answer counts as much as a punctual one, whoever holds it.
* *Doubt is a state.* What isn't proven is UNKNOWN, and UNKNOWN is left only by evidence.
* *Dead is dead.* Only a dead purchase makes room for another one for the same units; a success that comes after all
  is kept hidden and shown to the operator, never delivered beside its replacement. Only an operator's decision brings
  a dead purchase back, and only where nothing was bought in its place.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import TypeAlias

from reward_adapters.contract import (
    Absent,
    Accepted,
    AfterSale,
    Card,
    Delivered,
    Doubt,
    NotSent,
    NotSentCause,
    Outcome,
    Refunded,
    Refused,
    RefusedFor,
    Unclear,
)
from reward_adapters.money import Money, show_yuan
from reward_adapters.scrubbing import beside
from reward_server.domain import aftersale
from reward_server.domain.copies import replace
from reward_server.domain.order import (
    EVIDENCE_LIMIT,
    FIRST_ATTEMPTS,
    LATEST_ATTEMPTS,
    Attempt,
    CardPrint,
    Evidence,
    Failure,
    FailureReason,
    Order,
    OrderState,
    PurchaseRecord,
    PurchaseState,
    ReviewReason,
    Source,
)

# --- Events: the seven outcomes and what else can happen to a purchase ------------------------------------------------


@dataclass(frozen=True, slots=True)
class SenderLost:
    """The process that was sending is gone; nobody knows how far it came."""


@dataclass(frozen=True, slots=True)
class AbsenceProven:
    """Two looks found nothing, the later one a full grace period after the last possible write."""

    may_resend: bool = False
    """The supplier's rules let the same number be sent again."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """Not sent, or not settled, in time; for a sent purchase a look was made after the deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelConfirmed:
    """The supplier took the purchase down at our wish."""

    refund: Money | None = None
    """What came back, where the supplier says so."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class WatchOver:
    """The time in which something could still become of a delivered purchase is over, and one last look was made."""


@dataclass(frozen=True, slots=True)
class OperatorDead:
    """An operator says that it was not bought or that the money came back, as far as its cards weren't handed over."""

    reason: str
    again: int | None = None
    """The offer at which its units are bought again; None: they fail."""
    detail: str = ""
    """Who says so, and why."""


@dataclass(frozen=True, slots=True)
class OperatorDelivered:
    """An operator says it was delivered: with these cards, with those that were kept hidden, or with both."""

    cards: tuple[Card, ...] = ()
    """Entered by hand."""
    kept: bool = False
    """Whether the client gets the cards that were kept from it so far."""
    detail: str = ""
    """Who says so, and why."""
    rest: OperatorDead | None = None
    """What becomes of the units that no card came for; None: there are none."""


Event: TypeAlias = (
    Outcome
    | SenderLost
    | AbsenceProven
    | DeadlinePassed
    | CancelConfirmed
    | WatchOver
    | OperatorDelivered
    | OperatorDead
)


# --- The table --------------------------------------------------------------------------------------------------------


class Move(Enum):
    """What an event does to a purchase."""

    STAY = auto()
    """No news."""
    ALERT = auto()
    """No move, but an operator should know: the supplier contradicts what it said before."""
    WAIT = auto()
    """Proven unsent: back to WAITING."""
    ACCEPT = auto()
    DELIVER = auto()
    """DELIVERED, or ACCEPTED while cards are missing."""
    COMPARE = auto()
    """Delivered before: the cards must be the same, and what became of them since is taken over."""
    REVERSE = auto()
    """Delivered before, and all of it taken back: the state stays, the items say so, a person looks."""
    SETTLE = auto()
    """Delivered, and not watched any more."""
    REFUSE = auto()
    """Dead if the refusal is certain; else the next look that finds nothing kills."""
    REFUND = auto()
    """Dead if all money came back, else a person looks."""
    DOUBT = auto()
    """UNKNOWN; with a doubt that only a person can settle, into review."""
    QUESTION = auto()
    """No move; with a doubt that only a person can settle, into review."""
    COUNT_ABSENCE = auto()
    """One look found nothing."""
    RESEND_OR_DIE = auto()
    KILL = auto()
    REVIEW = auto()
    """A person has to look."""
    LATE_SUCCESS = auto()
    """A dead purchase lives: keep what came, hidden, and let a person look."""
    HAND_OVER = auto()
    """DELIVERED by the word of an operator, with cards for all of its units, or those without given up."""
    GIVE_UP = auto()
    """DEAD by the word of an operator; what the client has of it stays delivered."""


_S = PurchaseState
TABLE: dict[PurchaseState, dict[type[Event], Move]] = {
    _S.WAITING: {
        Accepted: Move.ACCEPT,
        Delivered: Move.DELIVER,
        Refused: Move.REFUSE,
        NotSent: Move.WAIT,
        Refunded: Move.REFUND,
        Absent: Move.STAY,
        Unclear: Move.QUESTION,
        SenderLost: Move.STAY,
        AbsenceProven: Move.STAY,
        DeadlinePassed: Move.KILL,
        CancelConfirmed: Move.KILL,
        WatchOver: Move.STAY,
        OperatorDelivered: Move.HAND_OVER,
        OperatorDead: Move.GIVE_UP,
    },
    _S.SUBMITTING: {
        Accepted: Move.ACCEPT,
        Delivered: Move.DELIVER,
        Refused: Move.REFUSE,
        NotSent: Move.WAIT,
        Refunded: Move.REFUND,
        # While the request is on its way "not found" is to be expected.
        Absent: Move.STAY,
        Unclear: Move.DOUBT,
        SenderLost: Move.DOUBT,
        AbsenceProven: Move.STAY,
        # The read time-out ends this state long before any deadline.
        DeadlinePassed: Move.STAY,
        CancelConfirmed: Move.KILL,
        WatchOver: Move.STAY,
        OperatorDelivered: Move.HAND_OVER,
        OperatorDead: Move.GIVE_UP,
    },
    _S.ACCEPTED: {
        Accepted: Move.ACCEPT,
        Delivered: Move.DELIVER,
        # Only a refusal that is certain, as in "unpaid": the supplier took the number and then not the order.
        Refused: Move.REFUSE,
        NotSent: Move.STAY,
        Refunded: Move.REFUND,
        # It was there before: a supplier that forgets is no proof of anything.
        Absent: Move.ALERT,
        Unclear: Move.QUESTION,
        SenderLost: Move.STAY,
        AbsenceProven: Move.ALERT,
        DeadlinePassed: Move.REVIEW,
        CancelConfirmed: Move.KILL,
        WatchOver: Move.STAY,
        OperatorDelivered: Move.HAND_OVER,
        OperatorDead: Move.GIVE_UP,
    },
    _S.UNKNOWN: {
        Accepted: Move.ACCEPT,
        Delivered: Move.DELIVER,
        Refused: Move.REFUSE,
        # From the exchange itself, when its answer came late (a look that couldn't be made is no event).
        NotSent: Move.WAIT,
        Refunded: Move.REFUND,
        Absent: Move.COUNT_ABSENCE,
        Unclear: Move.QUESTION,
        SenderLost: Move.STAY,
        AbsenceProven: Move.RESEND_OR_DIE,
        DeadlinePassed: Move.REVIEW,
        CancelConfirmed: Move.KILL,
        WatchOver: Move.STAY,
        OperatorDelivered: Move.HAND_OVER,
        OperatorDead: Move.GIVE_UP,
    },
    _S.DELIVERED: {
        # Older news than what we have.
        Accepted: Move.STAY,
        Delivered: Move.COMPARE,
        Refused: Move.ALERT,
        NotSent: Move.STAY,
        Refunded: Move.REVERSE,
        Absent: Move.ALERT,
        Unclear: Move.STAY,
        SenderLost: Move.STAY,
        AbsenceProven: Move.ALERT,
        DeadlinePassed: Move.STAY,
        CancelConfirmed: Move.REVERSE,
        WatchOver: Move.SETTLE,
        OperatorDelivered: Move.STAY,
        OperatorDead: Move.STAY,
    },
    _S.DEAD: {
        Accepted: Move.LATE_SUCCESS,
        Delivered: Move.LATE_SUCCESS,
        Refused: Move.STAY,
        NotSent: Move.STAY,
        Refunded: Move.STAY,
        Absent: Move.STAY,
        Unclear: Move.STAY,
        SenderLost: Move.STAY,
        AbsenceProven: Move.STAY,
        DeadlinePassed: Move.STAY,
        CancelConfirmed: Move.STAY,
        WatchOver: Move.STAY,
        OperatorDelivered: Move.HAND_OVER,
        OperatorDead: Move.STAY,
    },
}

CANCEL_ASKS = 5
"""How often a supplier is asked to cancel a purchase while it can't be reached."""

LONGEST_WAIT_MS = 300_000
"""How long a supplier may ask one purchase to wait before it is sent: a slip of its pen must not cost days."""

RESOLVED_BY_EVIDENCE = frozenset({ReviewReason.DEADLINE, ReviewReason.CARD_MISSING})
"""Reviews that clean evidence ends without a person; all others need one."""

NEVER_WRITTEN = frozenset(
    {NotSentCause.UNREACHABLE, NotSentCause.TOO_LATE, NotSentCause.OWN_LIMIT, NotSentCause.NO_TOKEN}
)
"""Causes in which not a byte of the request was written; in the others the supplier read and refused it."""

TRY_NEXT_OFFER = frozenset({RefusedFor.PRODUCT, RefusedFor.STOCK, RefusedFor.PRICE, RefusedFor.BALANCE})
"""Refusals that say nothing against the order itself: another offer may be tried."""

HOLD_BACK_REST = TRY_NEXT_OFFER | {RefusedFor.RECIPIENT}
"""Refusals that the order's other units would meet as well: they are not sent to this offer any more."""

_REFUSAL_REASONS = {
    RefusedFor.PRODUCT: FailureReason.PRODUCT_UNAVAILABLE,
    RefusedFor.STOCK: FailureReason.OUT_OF_STOCK,
    RefusedFor.PRICE: FailureReason.PRICE_ABOVE_LIMIT,
    RefusedFor.BALANCE: FailureReason.SUPPLIER_BALANCE,
    RefusedFor.RECIPIENT: FailureReason.RECIPIENT_REFUSED,
    RefusedFor.OTHER: FailureReason.REFUSED,
}

_DOUBTS = {Doubt.CONTRADICTION: ReviewReason.CONTRADICTION, Doubt.CARD_MISSING: ReviewReason.CARD_MISSING}


# --- Making a move ----------------------------------------------------------------------------------------------------


class AlertKind(StrEnum):
    """What an operator should know at once."""

    CONTRADICTION = "contradiction"
    LATE_SUCCESS = "late_success"
    OVERCHARGED = "overcharged"
    DISPUTED = "disputed"
    REVERSED = "reversed"
    REVIEW = "review"
    UNEXPECTED_ANSWER = "unexpected_answer"
    SUPPLIER_BALANCE = "supplier_balance"
    SUPPLIER_PRICE = "supplier_price"
    SUPPLIER_REFUSES_US = "supplier_refuses_us"
    LEASE_LOST = "lease_lost"
    DEFECT = "defect"


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing for an operator; scrubbed."""

    kind: AlertKind
    message: str


_REFUSAL_ALERTS = {
    RefusedFor.BALANCE: (Alert(AlertKind.SUPPLIER_BALANCE, "the supplier says that our balance is too low"),),
    RefusedFor.PRICE: (
        Alert(AlertKind.SUPPLIER_PRICE, "the supplier's price isn't the one of our catalogue any more"),
    ),
}
"""Refusals that more orders will meet until somebody does something."""

_ITEM_ALERTS = {
    ReviewReason.LATE_SUCCESS: AlertKind.LATE_SUCCESS,
    ReviewReason.OVERCHARGED: AlertKind.OVERCHARGED,
    ReviewReason.DISPUTED: AlertKind.DISPUTED,
    ReviewReason.REVERSED: AlertKind.REVERSED,
}
"""Alerts of review items; all others contradict a delivery."""


@dataclass(frozen=True, slots=True)
class NewCard:
    """A card to be sealed and stored."""

    card_no: int
    card: Card
    hidden: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What an event needs besides itself."""

    at: int
    """Now, in milliseconds."""
    source: Source
    new_number: Callable[[], str]
    """Makes supplier-side numbers for new purchases."""
    print_card: Callable[[Card], CardPrint]
    """Makes a card recognisable without its secrets."""
    asked_at: int | None = None
    """When the look was begun that brought the event."""
    written_until: int | None = None
    """Set when it is known until when the request may have been written: the exchange is over, or its process is."""
    send: int = 0
    """Which of the purchase's requests the event answers or was weighed against, counted like `PurchaseRecord.sends`;
    0 where it is about all.
    """
    watch_ms: int = 0
    """How long after delivery something may still become of the purchase, where no card says so itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """An order after an event."""

    order: Order
    news: bool
    """Whether anything changed that must be stored."""
    visible: bool
    """Whether the client sees a new version."""
    cards: tuple[NewCard, ...] = ()
    alerts: tuple[Alert, ...] = ()
    released: tuple[int, ...] = ()
    """Places of cards that were hidden and aren't any more."""


@dataclass(frozen=True, slots=True)
class _Moved:
    """A purchase after an event."""

    purchase: PurchaseRecord
    cards: tuple[NewCard, ...] = ()
    alerts: tuple[Alert, ...] = ()
    released: tuple[int, ...] = ()
    rest: PurchaseRecord | None = None
    """What was given up of a purchase that is delivered in part."""
    note: str = ""
    """What the evidence says, where the event's own words don't say it."""


def advance(order: Order, number: str, event: Event, circumstances: Circumstances) -> Step:
    """The order after `event` happened to its purchase `number`. Raises KeyError for a number of another order."""
    before = order.purchase(number)
    event = _check_reference(order, before, event)
    moved = _move(order, before, event, circumstances)
    after = moved.purchase
    if (
        circumstances.written_until is not None
        and after.written_until == 0
        and after.state is PurchaseState.UNKNOWN
        and not _sent_again(before, circumstances)
    ):
        after = replace(after, written_until=circumstances.written_until)
    if order.cancel_requested_at and after.state is PurchaseState.WAITING and after.review is None:
        # Proven unsent, and the client doesn't want it any more.
        after = _dead(after, None, None)
    if after == before and not moved.cards:
        return Step(order, news=False, visible=False, alerts=moved.alerts)
    if after.state is not before.state:
        after = replace(after, updated_at=circumstances.at, owner=after.owner if after.state.is_open else "")
    if after.review is not before.review:
        after = replace(after, review_at=circumstances.at if after.review is not None else 0)
    after = _with_evidence(after, event, circumstances, moved.note)
    changed = replace(order.with_purchase(after), card_count=order.card_count + len(moved.cards))
    given_up = event.rest if isinstance(event, OperatorDelivered) else event
    if isinstance(given_up, OperatorDead):
        changed = _after_giving_up(changed, after, moved.rest, given_up, circumstances)
    elif before.state is not PurchaseState.DEAD and after.state is PurchaseState.DEAD:
        changed = _after_death(changed, after, circumstances)
    settled, visible = _settle(order, changed, circumstances.at)
    opened = tuple(
        Alert(_ITEM_ALERTS.get(item.reason, AlertKind.CONTRADICTION), item.detail)
        for item in aftersale.opened(before, after)
    )
    return Step(
        settled,
        news=True,
        visible=visible,
        cards=moved.cards,
        alerts=moved.alerts + opened,
        released=moved.released,
    )


def intend(order: Order, number: str, *, owner: str, at: int, waited_since: int = 0, waited_for: str = "") -> Order:
    """The order with the intention to send noted: WAITING → SUBMITTING. No update: nothing the client sees changes.

    `waited_since` and `waited_for` tell why it wasn't sent before, see `order.Attempt`.
    """
    purchase = order.purchase(number)
    if purchase.state is not PurchaseState.WAITING:
        raise ValueError(f"purchase {number} is {purchase.state}, not waiting")
    purchase = replace(
        purchase,
        state=PurchaseState.SUBMITTING,
        owner=owner,
        sends=purchase.sends + 1,
        intent_at=purchase.intent_at or at,
        written_until=0,
        absent_looks=0,
        attempts=_with_attempt(purchase.attempts, Attempt(at, waited_since, waited_for)),
        updated_at=at,
    )
    return replace(order.with_purchase(purchase), revision=order.revision + 1)


def _with_attempt(attempts: tuple[Attempt, ...], attempt: Attempt) -> tuple[Attempt, ...]:
    """The attempts with one more: of many the first and the latest."""
    return (*attempts[:FIRST_ATTEMPTS], *(*attempts[FIRST_ATTEMPTS:], attempt)[-LATEST_ATTEMPTS:])


def note_callback(order: Order, number: str, *, at: int) -> Order:
    """The order with the fact noted that a verified callback named its purchase; the same order when that is no news.

    Such a callback moves nothing: what it says is asked for by a look.
    """
    purchase = order.purchase(number)
    if purchase.called_back:
        return order
    noted = replace(purchase, called_back=True)
    if purchase.state is PurchaseState.WAITING and purchase.sends > 0:
        # It was sent and refused, or so it seemed: what became of it is asked before anything is sent again.
        noted = replace(noted, state=PurchaseState.UNKNOWN, written_until=at, updated_at=at)
    return _with_note(order, noted, Evidence(at, Source.CALLBACK, "CalledBack", "verified; a look follows"), at=at)


def dismiss(order: Order, number: str, *, detail: str, at: int) -> Step:
    """The order with everything closed that stands beside the state of one purchase: an operator has dealt with it."""
    purchase = order.purchase(number)
    if not purchase.items:
        return Step(order, news=False, visible=False)
    names = ", ".join(item.reason for item in purchase.items)
    closed = replace(
        purchase,
        items=(),
        dismissed=(*purchase.dismissed, *purchase.items)[-EVIDENCE_LIMIT:],
        evidence=(*purchase.evidence, Evidence(at, Source.OPERATOR, "Dismissed", f"{names}: {detail}"))[
            -EVIDENCE_LIMIT:
        ],
    )
    changed, visible = _settle(order, order.with_purchase(closed), at)
    return Step(changed, news=True, visible=visible)


def request_cancel(order: Order, *, at: int) -> Step:
    """The order with the client's wish to cancel noted, once: what waits to be sent never is, and what was sent goes on
    until there is evidence.
    """
    if order.cancel_requested_at:
        return Step(order, news=False, visible=False)
    wish = Evidence(at, Source.CANCEL, "CancelConfirmed", "cancelled by the client before it was sent")
    purchases = tuple(
        replace(
            _dead(purchase, None, None), updated_at=at, owner="", evidence=(*purchase.evidence, wish)[-EVIDENCE_LIMIT:]
        )
        if purchase.state is PurchaseState.WAITING and purchase.review is None
        else purchase
        for purchase in order.purchases
    )
    changed, visible = _settle(order, replace(order, purchases=purchases, cancel_requested_at=at), at)
    return Step(changed, news=True, visible=visible)


def may_ask_to_cancel(order: Order, purchase: PurchaseRecord) -> bool:
    """Whether a supplier that offers it should be asked to take a purchase down.

    Not when a part of it was handed over: what remains of it couldn't end as cancelled.
    """
    return (
        order.cancel_requested_at > 0
        and purchase.state is PurchaseState.ACCEPTED
        and not purchase.cards
        and (purchase.review is None or purchase.review in RESOLVED_BY_EVIDENCE)
        and not purchase.cancel_answered
        and purchase.cancel_asks < CANCEL_ASKS
    )


def note_cancel_ask(order: Order, number: str, *, at: int) -> Order:
    """The order with the fact noted that the supplier is about to be asked to take a purchase down."""
    purchase = order.purchase(number)
    return _with_note(
        order,
        replace(purchase, cancel_asks=purchase.cancel_asks + 1),
        Evidence(at, Source.CANCEL, "CancelAsked", "the supplier is asked to cancel"),
    )


def note_cancel_answer(order: Order, number: str, *, outcome: str, detail: str, answered: bool, at: int) -> Order:
    """The order with the supplier's words noted that settle nothing by themselves. `answered`: it isn't asked again."""
    purchase = order.purchase(number)
    return _with_note(
        order,
        replace(purchase, cancel_answered=purchase.cancel_answered or answered),
        Evidence(at, Source.CANCEL, outcome, detail),
    )


def _with_note(order: Order, purchase: PurchaseRecord, note: Evidence, *, at: int = 0) -> Order:
    """The order with a note. With `at` the note may have moved the purchase: what the client sees is derived anew."""
    noted = order.with_purchase(replace(purchase, evidence=(*purchase.evidence, note)[-EVIDENCE_LIMIT:]))
    return _settle(order, noted, at)[0] if at else replace(noted, revision=order.revision + 1)


def sendable(order: Order) -> list[PurchaseRecord]:
    """The purchases that may be sent now. To one recipient they go one after another: the next only when no other is
    under way, so that a supplier that takes the second for a repetition of the first does no harm.
    """
    if order.cancel_requested_at:
        return []
    waiting = [p for p in order.purchases if p.state is PurchaseState.WAITING and p.review is None]
    if order.recipient is None:
        return waiting
    busy = any(p.state.is_open and p.state is not PurchaseState.WAITING for p in order.purchases)
    return [] if busy else waiting[:1]


def plan(
    order: Order, offer: int, units: Sequence[int], new_number: Callable[[], str], *, ordered_at: int = 0
) -> tuple[PurchaseRecord, ...]:
    """Purchases at one offer for consecutive units of an order, as large as the offer allows.

    `ordered_at` is set where an operator had them bought again.
    """
    size = order.offers[offer].max_units
    chunks = [units[i : i + size] for i in range(0, len(units), size)]
    return tuple(
        PurchaseRecord(
            number=new_number(),
            offer=offer,
            first_unit=chunk[0],
            quantity=len(chunk),
            ordered_at=ordered_at,
            updated_at=ordered_at or order.created_at,
        )
        for chunk in chunks
    )


def weigh_absence(purchase: PurchaseRecord, *, looked_at: int, grace_ms: int, resends: int) -> Absent | AbsenceProven:
    """What "not found" is worth for an UNKNOWN purchase: proof only as the second look, and only a full grace period
    after the request could last have been written. Of a purchase that the supplier called back about it is worth
    nothing: the supplier knew it, so its deadline brings it to a person.
    """
    proven = (
        purchase.state is PurchaseState.UNKNOWN
        and not purchase.called_back
        and purchase.absent_looks >= 1
        and purchase.written_until > 0
        and looked_at >= purchase.written_until + grace_ms
    )
    return AbsenceProven(may_resend=purchase.absence_resends < resends) if proven else Absent()


def order_state(purchases: Sequence[PurchaseRecord], quantity: int) -> OrderState:
    """The order's state: a pure function of what became of its units."""
    current = _by_unit(purchases, quantity)
    if any(p.review is not None for p in current):
        return OrderState.NEEDS_REVIEW
    states = {p.state for p in current}
    if PurchaseState.UNKNOWN in states:
        return OrderState.OUTCOME_UNKNOWN
    if any(state.is_open for state in states):
        begun = PurchaseState.ACCEPTED in states or PurchaseState.DELIVERED in states
        return OrderState.PROCESSING if begun else OrderState.ACCEPTED
    if states == {PurchaseState.DELIVERED}:
        return OrderState.FULFILLED
    if PurchaseState.DELIVERED in states:
        return OrderState.PARTIALLY_FULFILLED
    # Only a cancelled purchase is dead without a failure. Nothing was delivered: the client got what it wished.
    return OrderState.CANCELLED if any(p.failure is None for p in current) else OrderState.FAILED


# --- Moves, one function each -----------------------------------------------------------------------------------------


def _check_reference(order: Order, purchase: PurchaseRecord, event: Event) -> Event:
    """A supplier that names another order of its own under our number contradicts itself."""
    known = purchase.supplier_reference
    told = event.supplier_reference if isinstance(event, Accepted | Delivered) else None
    if purchase.state is not PurchaseState.DEAD and known is not None and told is not None and known != told:
        personal = (order.recipient.value if order.recipient else None, *order.supplier_parameters.values())
        changed = f"the supplier's own order number was {known} and is now {beside(told, known, *personal)}"
        return Unclear(changed, Doubt.CONTRADICTION, alert=True)
    return event


def _move(order: Order, purchase: PurchaseRecord, event: Event, around: Circumstances) -> _Moved:
    move = TABLE[purchase.state][type(event)]
    if (
        purchase.review is not None
        and purchase.review not in RESOLVED_BY_EVIDENCE
        and not isinstance(event, OperatorDelivered | OperatorDead)
        and move is not Move.STAY
    ):
        # Only a person ends this review; what comes in the meantime is kept for that person, cards hidden.
        if isinstance(event, Delivered) and event.cards:
            return _hide(order, purchase, event.cards, around)
        return _noted(purchase, event)
    if move in MAY_COME_TOO_LATE and _sent_again(purchase, around):
        # That a former request came to nothing, or to nothing clear, says nothing about the one that followed it.
        return _noted(purchase, event)
    match move:
        case Move.STAY:
            if isinstance(event, Unclear) and event.doubt is not None and purchase.state is PurchaseState.DELIVERED:
                return _contradicted(purchase, event, ReviewReason.CONTRADICTION, event.reason, around)
            if isinstance(event, Unclear) and around.source is Source.PLACE and purchase.state is PurchaseState.DEAD:
                return _answered_late(purchase, event, around)
            return _Moved(purchase)
        case Move.ALERT:
            told = f"{purchase.state} purchase, but the supplier says {_name(event)}"
            return _alerted(purchase, event, AlertKind.CONTRADICTION, told)
        case Move.WAIT:
            return _wait(purchase, event, around)
        case Move.ACCEPT:
            return _accept(purchase, event)
        case Move.DELIVER:
            return _deliver(order, purchase, event, around)
        case Move.COMPARE:
            return _compare(order, purchase, event, around)
        case Move.REVERSE:
            return _reverse(purchase, event, around)
        case Move.SETTLE:
            return _Moved(aftersale.settle(purchase, around.at))
        case Move.REFUSE:
            return _refuse(purchase, event, around)
        case Move.REFUND:
            return _refund(order, purchase, event)
        case Move.DOUBT | Move.QUESTION:
            return _doubt(purchase, event, move)
        case Move.COUNT_ABSENCE:
            if _sent_again(purchase, around):
                return _Moved(purchase)
            # A look that was begun before the refusal came confirms nothing.
            stale = around.asked_at is not None and around.asked_at < purchase.written_until
            if purchase.refusal is not None and stale:
                return _Moved(purchase)
            if purchase.refusal is not None and not purchase.called_back:
                return _end(purchase, purchase.refusal, purchase.refused_for)
            return _Moved(replace(purchase, absent_looks=1))
        case Move.RESEND_OR_DIE:
            too_early = around.asked_at is not None and around.asked_at < purchase.written_until
            if too_early or _sent_again(purchase, around):
                # Another process sent the number again since that look was begun: it proves nothing any more.
                return _Moved(purchase)
            return _absent(order, purchase, event)
        case Move.KILL:
            return _kill(purchase, event)
        case Move.GIVE_UP:
            return _give_up(order, purchase, event, around)
        case Move.HAND_OVER:
            return _hand_over(order, purchase, event, around)
        case Move.REVIEW:
            return _review(purchase, ReviewReason.DEADLINE)
        case Move.LATE_SUCCESS:
            return _late_success(order, purchase, event, around)


MAY_COME_TOO_LATE = frozenset({Move.WAIT, Move.DOUBT, Move.QUESTION, Move.REFUSE, Move.REFUND})
"""What the answer to a former request can't do to a purchase that was sent again."""


def _sent_again(purchase: PurchaseRecord, around: Circumstances) -> bool:
    """Whether the number was sent again since the request that an event answers: by this process, after what looked
    like absence, or by another one that took over.
    """
    return 0 < around.send < purchase.sends


def _wait(purchase: PurchaseRecord, event: Event, around: Circumstances) -> _Moved:
    if not isinstance(event, NotSent):
        raise TypeError(event)
    wait_ms = min(int(1000 * (event.retry_after or 0)), LONGEST_WAIT_MS)
    not_before = around.at + wait_ms if wait_ms else purchase.not_before
    token_refused = event.cause is NotSentCause.TOKEN_REFUSED
    if purchase.state is PurchaseState.WAITING:
        return _Moved(replace(purchase, not_before=not_before))
    if purchase.called_back:
        # Refused, or so it seems, and yet the supplier knows the number: what became of it is asked, not tried again.
        return _Moved(replace(purchase, state=PurchaseState.UNKNOWN))
    return _Moved(
        replace(
            purchase,
            state=PurchaseState.WAITING,
            not_before=not_before,
            sends=purchase.sends - (event.cause in NEVER_WRITTEN),
            token_resent=purchase.token_resent or token_refused,
            review=None,
            absent_looks=0,
            refusal=None,
            refused_for=None,
        )
    )


def _accept(purchase: PurchaseRecord, event: Event) -> _Moved:
    if not isinstance(event, Accepted):
        raise TypeError(event)
    changed = replace(
        purchase,
        state=PurchaseState.ACCEPTED,
        supplier_reference=purchase.supplier_reference or event.supplier_reference,
        cost=purchase.cost if event.cost is None else event.cost,
        absent_looks=0,
        refusal=None,
        refused_for=None,
    )
    # Clean evidence from before the deadline doesn't undo it: only an end does.
    return _Moved(changed)


def _deliver(order: Order, purchase: PurchaseRecord, event: Event, around: Circumstances) -> _Moved:
    if not isinstance(event, Delivered):
        raise TypeError(event)
    known = replace(
        purchase,
        state=PurchaseState.ACCEPTED,
        supplier_reference=purchase.supplier_reference or event.supplier_reference,
        cost=purchase.cost if event.cost is None else event.cost,
        absent_looks=0,
        refusal=None,
        refused_for=None,
    )
    needs_cards = order.product_kind.delivers_cards
    cards, prints, of_cards = _listed(event.cards, around)
    wrong = _wrong_cards(purchase, prints, of_cards)
    if wrong is not None:
        return replace(_review(known, wrong), note=_wrong_words(purchase, prints, of_cards, wrong))
    if needs_cards and not prints and event.complete:
        if purchase.state is PurchaseState.SUBMITTING:
            # A callback overtook the answer, which brings the card.
            return _Moved(replace(purchase, supplier_reference=known.supplier_reference, called_back=True))
        told = f"success, but no card is listed, {_cards(purchase.quantity)} ordered"
        if purchase.review is not None:
            # A person looks at it already, and should know what the supplier says.
            return _noted(known, event, told)
        return replace(_review(known, ReviewReason.CARD_MISSING), note=told)
    new = _new_cards(order, purchase, cards, prints, hidden=False)
    stored = purchase.cards + tuple(
        replace(print_, card_no=card.card_no) for print_, card in zip(_unknown(purchase, prints), new, strict=True)
    )
    changed = _told_after(replace(known, cards=stored), event, of_cards, around)
    complete = event.complete and (not needs_cards or len(stored) >= purchase.quantity)
    if not complete:
        return _Moved(changed, new)
    changed = replace(changed, state=PurchaseState.DELIVERED, review=None)
    changed = _with_overcharge(order, changed, around)
    changed = aftersale.watch(changed, around.at, watch_ms=around.watch_ms)
    return _Moved(aftersale.settle_if_final(changed, around.at, final=event.settled), new)


def _compare(order: Order, purchase: PurchaseRecord, event: Event, around: Circumstances) -> _Moved:
    if not isinstance(event, Delivered):
        raise TypeError(event)
    _, prints, of_cards = _listed(event.cards, around)
    wrong = _wrong_cards(purchase, prints, of_cards)
    if wrong is None and prints and _unknown(purchase, prints):
        wrong = ReviewReason.TOO_MANY_CARDS
    if wrong is not None:
        # A list that differs and the list that was delivered are the same event in the same words.
        told = f"after the delivery {_wrong_words(purchase, prints, of_cards, wrong)}"
        return _contradicted(purchase, event, wrong, told, around)
    changed = _told_after(purchase, event, of_cards, around)
    if changed.cost is None and event.cost is not None:
        changed = _with_overcharge(order, replace(changed, cost=event.cost), around)
    return _Moved(aftersale.settle_if_final(changed, around.at, final=event.settled))


def _contradicted(
    purchase: PurchaseRecord, event: Event, reason: ReviewReason, told: str, around: Circumstances
) -> _Moved:
    """What speaks against a delivery: nothing is undone, a person looks."""
    if any((item.reason, item.detail) == (reason, told) for item in purchase.dismissed):
        return _Moved(purchase)
    noted = _noted(purchase, event, told)
    if noted.purchase == purchase:
        return noted
    return replace(noted, purchase=aftersale.with_item(noted.purchase, reason, around.at, told))


def _reverse(purchase: PurchaseRecord, event: Event, around: Circumstances) -> _Moved:
    match event:
        case Refunded(amount=back) | CancelConfirmed(refund=back):
            if back is not None and back < (purchase.cost or 0):
                part = f"the supplier returned {show_yuan(back)} of {show_yuan(purchase.cost or Money(0))} yuan"
                changed = aftersale.with_item(purchase, ReviewReason.PARTIAL_REFUND, around.at, part)
                return _Moved(changed if changed is purchase else replace(changed, refunded=back))
            told = "the supplier returned the money after the delivery"
            detail = told if back is None else f"{told}: {show_yuan(back)} yuan"
            changed = aftersale.reversed_whole(purchase, around.at, detail)
            return _Moved(changed if changed is purchase else replace(changed, refunded=back))
        case _:
            raise TypeError(event)


def _refuse(purchase: PurchaseRecord, event: Event, around: Circumstances) -> _Moved:
    if not isinstance(event, Refused):
        raise TypeError(event)
    told_of_success = purchase.review is ReviewReason.CARD_MISSING or purchase.called_back
    if event.certain and told_of_success and around.source is Source.PLACE:
        # The supplier called back about it before its own answer refused it: it may well be bought.
        unsent = purchase.state in (PurchaseState.WAITING, PurchaseState.SUBMITTING)
        doubtful = replace(purchase, state=PurchaseState.UNKNOWN if unsent else purchase.state, review=None)
        before = "called back about it" if purchase.called_back else "told of success"
        told = f"the supplier {before}, and now refuses it: {_detail(event)}"
        return replace(_review(doubtful, ReviewReason.CONTRADICTION), note=told)
    failure = Failure(_REFUSAL_REASONS[event.about], f"{event.code}: {event.message}".strip(": "))
    alerts = _REFUSAL_ALERTS.get(event.about, ())
    if event.certain:
        ended = _end(purchase, failure, event.about)
        if ended.purchase.state is PurchaseState.DEAD:
            # Never taken, or never paid: a price that was told before wasn't charged.
            ended = replace(ended, purchase=replace(ended.purchase, cost=None))
        return replace(ended, alerts=ended.alerts + alerts)
    if purchase.state is PurchaseState.ACCEPTED:
        return _alerted(purchase, event, AlertKind.CONTRADICTION, "accepted before, now refused")
    return _Moved(
        replace(purchase, state=PurchaseState.UNKNOWN, refusal=failure, refused_for=event.about), alerts=alerts
    )


def _refund(order: Order, purchase: PurchaseRecord, event: Event) -> _Moved:
    if not isinstance(event, Refunded):
        raise TypeError(event)
    # What was charged is the more that was ever told: a shop that returns nothing may call the order worth nothing.
    costs = [cost for cost in (event.cost, purchase.cost) if cost is not None]
    cost = Money(max(costs)) if costs else None
    changed = replace(purchase, cost=cost, refunded=event.amount)
    if event.amount is not None and cost is not None and event.amount < cost:
        told = f"{show_yuan(event.amount)} of {show_yuan(cost)} yuan came back"
        partial = _review(replace(changed, state=PurchaseState.ACCEPTED), ReviewReason.PARTIAL_REFUND)
        return replace(partial, note=f"{event.detail}: {told}" if event.detail else told)
    detail = event.detail or "the supplier couldn't deliver and returned the money"
    return _end(changed, _unless_cancelled(order, Failure(FailureReason.REFUNDED, detail)))


def _unless_cancelled(order: Order, failure: Failure) -> Failure | None:
    """Why units failed; nothing when the client wished it so."""
    return None if order.cancel_requested_at else failure


def _doubt(purchase: PurchaseRecord, event: Event, move: Move) -> _Moved:
    changed = replace(purchase, state=PurchaseState.UNKNOWN) if move is Move.DOUBT else purchase
    if not isinstance(event, Unclear):
        return _Moved(changed)
    if event.doubt is not None:
        return _review(changed, _DOUBTS[event.doubt])
    if event.alert:
        return _alerted(changed, event, AlertKind.UNEXPECTED_ANSWER, event.reason)
    return _Moved(changed)


def _absent(order: Order, purchase: PurchaseRecord, event: Event) -> _Moved:
    if not isinstance(event, AbsenceProven):
        raise TypeError(event)
    if event.may_resend:
        return _Moved(
            replace(
                purchase,
                state=PurchaseState.WAITING,
                absence_resends=purchase.absence_resends + 1,
                absent_looks=0,
                review=None,
            )
        )
    failure = Failure(FailureReason.NEVER_RECEIVED, "the supplier never received the order (two looks after grace)")
    return _end(purchase, _unless_cancelled(order, failure))


def _kill(purchase: PurchaseRecord, event: Event) -> _Moved:
    match event:
        case DeadlinePassed():
            failure = Failure(FailureReason.NOT_SENT_IN_TIME, "not sent to the supplier before its sending deadline")
        case CancelConfirmed(refund=refund) if refund is not None and (purchase.cost or 0) > refund:
            told = f"{show_yuan(refund)} of {show_yuan(purchase.cost or Money(0))} yuan came back"
            return replace(_review(replace(purchase, refunded=refund), ReviewReason.PARTIAL_REFUND), note=told)
        case CancelConfirmed(refund=refund):
            # A cancelled purchase has no failure: the order shows CANCELLED.
            return _end(replace(purchase, refunded=refund), None)
        case _:
            raise TypeError(event)
    return _Moved(_dead(purchase, failure, None))


def _late_success(order: Order, purchase: PurchaseRecord, event: Event, around: Circumstances) -> _Moved:
    listed = event.cards if isinstance(event, Delivered) else ()
    if listed and all(card.after_sale is AfterSale.REVERSED for card in listed):
        # Taken back already: it is as dead as before.
        return _Moved(purchase)
    if isinstance(event, Accepted) and around.asked_at is not None and around.asked_at <= purchase.updated_at:
        # The look was begun before the end came: older news.
        return _Moved(purchase)
    given_back = purchase.failure is None or purchase.failure.reason is FailureReason.REFUNDED
    if isinstance(event, Accepted) and around.source is Source.PLACE and given_back:
        # The answer to the purchase itself, late: it was taken, and taken down since.
        return _Moved(purchase)
    kept = _hide(order, purchase, listed, around)
    noted = _noted(kept.purchase, event).purchase
    if noted == purchase:
        return _Moved(purchase)
    told = "a purchase given up as dead was taken or delivered after all"
    if not kept.cards and any(item.reason is ReviewReason.LATE_SUCCESS for item in purchase.dismissed):
        # A person knows already.
        return replace(kept, purchase=noted)
    return replace(kept, purchase=aftersale.with_item(noted, ReviewReason.LATE_SUCCESS, around.at, told))


def _answered_late(purchase: PurchaseRecord, event: Unclear, around: Circumstances) -> _Moved:
    """The answer to a purchase given up as dead came after all and can't be read: a paid card may be in it."""
    noted = _noted(purchase, event)
    if noted.purchase == purchase:
        return noted
    told = f"a purchase given up as dead was answered after all: {event.reason}"
    return replace(noted, purchase=aftersale.with_item(noted.purchase, ReviewReason.LATE_SUCCESS, around.at, told))


def _hide(order: Order, purchase: PurchaseRecord, cards: Sequence[Card], around: Circumstances) -> _Moved:
    """Keeps cards that aren't for the client: paid for, perhaps, but of a purchase that isn't simply delivered."""
    cards, prints, _ = _listed(cards, around)
    new = _new_cards(order, purchase, cards, prints, hidden=True)
    stored = tuple(
        replace(print_, card_no=card.card_no, hidden=True)
        for print_, card in zip(_unknown(purchase, prints), new, strict=True)
    )
    return _Moved(replace(purchase, cards=purchase.cards + stored), new)


def _review(purchase: PurchaseRecord, reason: ReviewReason) -> _Moved:
    known = purchase.review
    if known is not None and (known not in RESOLVED_BY_EVIDENCE or reason in RESOLVED_BY_EVIDENCE):
        return _Moved(purchase)
    # What evidence alone may end gives way to what only a person ends: a contradiction must not wait unseen.
    return _Moved(replace(purchase, review=reason), alerts=(Alert(AlertKind.REVIEW, f"needs review: {reason}"),))


def _end(purchase: PurchaseRecord, failure: Failure | None, about: RefusedFor | None = None) -> _Moved:
    """Death by what the supplier says; a purchase whose cards were handed over can't simply be dead."""
    if purchase.cards:
        ended = failure.message if failure is not None else "it was taken down"
        told = f"{len(purchase.cards)} of {_cards(purchase.quantity)} came before, and now: {ended}"
        return replace(_review(purchase, ReviewReason.CONTRADICTION), note=told)
    return _Moved(_dead(purchase, failure, about))


def _dead(purchase: PurchaseRecord, failure: Failure | None, about: RefusedFor | None) -> PurchaseRecord:
    return replace(purchase, state=PurchaseState.DEAD, failure=failure, refused_for=about, refusal=None, review=None)


def _noted(purchase: PurchaseRecord, event: Event, note: str = "") -> _Moved:
    """Adds nothing if the same was noted last: evidence of a review isn't a log."""
    last = purchase.evidence[-1] if purchase.evidence else None
    if last is not None and (last.outcome, last.detail) == (_name(event), note or _detail(event)):
        return _Moved(purchase)
    # The evidence itself is added by `advance`, because the purchase isn't the same object any more.
    return _Moved(replace(purchase, updated_at=purchase.updated_at + 1), note=note)


def _alerted(purchase: PurchaseRecord, event: Event, kind: AlertKind, message: str, *, note: str = "") -> _Moved:
    """An alert, noted once: the same contradiction told again is no news."""
    noted = _noted(purchase, event, note)
    return replace(noted, alerts=(Alert(kind, message),) if noted.purchase != purchase else ())


# --- What operators decide --------------------------------------------------------------------------------------------


def replaced(order: Order, purchase: PurchaseRecord) -> bool:
    """Whether something else was bought, or is being bought, for a unit of the purchase."""
    units = set(purchase.units())
    return any(
        other.number != purchase.number and other.state is not PurchaseState.DEAD and units.intersection(other.units())
        for other in order.purchases
    )


@dataclass(frozen=True, slots=True)
class HandOver:
    """What an operator's word that a purchase was delivered comes to."""

    released: tuple[int, ...]
    """Places of kept cards that the client gets."""
    new: tuple[tuple[Card, CardPrint], ...]
    """Cards that weren't known before."""
    shown: int
    """How many cards of the purchase the client has then."""


def hand_over(purchase: PurchaseRecord, event: OperatorDelivered, print_card: Callable[[Card], CardPrint]) -> HandOver:
    """Which cards the client gets by an operator's word.

    Cards are recognised by what redeems them: who enters one by hand doesn't know the supplier's number for it. One
    that was taken back isn't handed over, and the same card entered twice is one card.
    """
    entered = {print_.content: (card, print_) for card in event.cards for print_ in (print_card(card),)}
    known = {card.content for card in purchase.cards}
    released = tuple(
        card.card_no
        for card in purchase.cards
        if card.hidden and (card.content in entered or event.kept) and card.after_sale is not AfterSale.REVERSED
    )
    new = tuple(pair for content, pair in entered.items() if content not in known)
    return HandOver(released, new, purchase.shown_cards + len(released) + len(new))


def _hand_over(order: Order, purchase: PurchaseRecord, event: Event, around: Circumstances) -> _Moved:
    if not isinstance(event, OperatorDelivered):
        raise TypeError(event)
    handed = hand_over(purchase, event, around.print_card)
    short = event.rest is not None
    enough = 0 < handed.shown < purchase.quantity if short else handed.shown == purchase.quantity
    wrong = not enough if order.product_kind.delivers_cards else short
    if wrong or (purchase.state is PurchaseState.DEAD and replaced(order, purchase)):
        return _Moved(purchase)
    new = tuple(NewCard(order.card_count + i, card, hidden=False) for i, (card, _) in enumerate(handed.new, start=1))
    cards = tuple(replace(card, hidden=card.hidden and card.card_no not in handed.released) for card in purchase.cards)
    entered = tuple(replace(print_, card_no=card.card_no) for card, (_, print_) in zip(new, handed.new, strict=True))
    changed = replace(
        purchase,
        state=PurchaseState.DELIVERED,
        cards=cards + entered,
        review=None,
        items=tuple(item for item in purchase.items if item.reason is not ReviewReason.LATE_SUCCESS),
        failure=None,
        refusal=None,
        refused_for=None,
        absent_looks=0,
    )
    changed = _with_overcharge(order, changed, around)
    if event.rest is not None:
        kept, rest = _split(order, changed, event.rest, around)
        return _Moved(kept, new, released=handed.released, rest=rest)
    changed = aftersale.watch(changed, around.at, watch_ms=around.watch_ms)
    # The supplier would list what was entered by hand under numbers that we don't know: watching brought false alarms.
    return _Moved(aftersale.settle_if_final(changed, around.at, final=bool(new)), new, released=handed.released)


def _give_up(order: Order, purchase: PurchaseRecord, event: Event, around: Circumstances) -> _Moved:
    """Dead, as far as the client has no card of it: what was handed over is never bought again."""
    if not isinstance(event, OperatorDead):
        raise TypeError(event)
    shown = purchase.shown_cards
    if shown == 0:
        return _Moved(_dead(purchase, _given_up(order, event), None))
    if shown >= purchase.quantity:
        return _Moved(purchase)
    delivered = replace(purchase, state=PurchaseState.DELIVERED, review=None, refusal=None, refused_for=None)
    kept, rest = _split(order, delivered, event, around)
    return _Moved(kept, rest=rest)


def _given_up(order: Order, event: OperatorDead) -> Failure | None:
    return _unless_cancelled(order, Failure(FailureReason.OPERATOR, event.reason))


def _split(
    order: Order, purchase: PurchaseRecord, event: OperatorDead, around: Circumstances
) -> tuple[PurchaseRecord, PurchaseRecord]:
    """A delivered purchase as far as the client has cards of it, not watched any more, and the rest of it, dead.

    The rest becomes a purchase of its own that was never sent: every unit belongs to exactly one that counts.
    """
    shown = purchase.shown_cards
    rest = PurchaseRecord(
        number=around.new_number(),
        offer=purchase.offer,
        first_unit=purchase.first_unit + shown,
        quantity=purchase.quantity - shown,
        state=PurchaseState.DEAD,
        failure=_given_up(order, event),
        ordered_at=purchase.ordered_at,
        updated_at=around.at,
    )
    rest = _with_evidence(rest, event, around, f"the rest of {purchase.number}: {event.detail or event.reason}")
    return aftersale.settle(replace(purchase, quantity=shown), around.at), rest


def _after_giving_up(
    order: Order, purchase: PurchaseRecord, rest: PurchaseRecord | None, event: OperatorDead, around: Circumstances
) -> Order:
    """Adds what was given up of a delivered purchase, and buys the units again where the operator says so."""
    dead = rest or purchase
    if rest is not None:
        order = replace(order, purchases=(*order.purchases, rest))
    if event.again is None or dead.state is not PurchaseState.DEAD or order.cancel_requested_at:
        return order
    added = plan(order, event.again, dead.units(), around.new_number, ordered_at=around.at)
    return replace(order, purchases=(*order.purchases, *added))


# --- Cards ------------------------------------------------------------------------------------------------------------


def _listed(
    cards: Sequence[Card], around: Circumstances
) -> tuple[list[Card], list[CardPrint], dict[str, AfterSale | None]]:
    """What a list of cards holds: the cards to hand over with their prints, and what became of each, by identity.

    A card that was taken back is only marked where it was handed over before: it may lack its secrets, and it never
    is a new one.
    """
    of_cards: dict[str, AfterSale | None] = {}
    good: list[Card] = []
    prints: list[CardPrint] = []
    for card in cards:
        print_ = around.print_card(card)
        of_cards.setdefault(print_.identity, card.after_sale)
        if card.after_sale is not AfterSale.REVERSED:
            good.append(card)
            prints.append(print_)
    return good, prints, of_cards


def _wrong_cards(
    purchase: PurchaseRecord, prints: Sequence[CardPrint], of_cards: Mapping[str, AfterSale | None]
) -> ReviewReason | None:
    """Why a list of cards can't be believed: nothing is overwritten, a person looks."""
    listed = {print_.identity: print_.content for print_ in prints}
    if len(listed) < len(prints):
        return ReviewReason.CONTRADICTION
    if len(prints) > purchase.quantity:
        return ReviewReason.TOO_MANY_CARDS
    for stored in purchase.cards:
        taken_back = of_cards.get(stored.identity, stored.after_sale) is AfterSale.REVERSED
        if of_cards and not taken_back and listed.get(stored.identity) != stored.content:
            return ReviewReason.CARDS_CHANGED
    return None


def _wrong_words(
    purchase: PurchaseRecord,
    prints: Sequence[CardPrint],
    of_cards: Mapping[str, AfterSale | None],
    wrong: ReviewReason,
) -> str:
    """What is wrong with a list of cards, in numbers: what it lists beside what was ordered or is known."""
    ordered = f"{_cards(len(prints))} listed, {purchase.quantity} ordered"
    listed = {print_.identity: print_.content for print_ in prints}
    match wrong:
        case ReviewReason.CARDS_CHANGED:
            known = [
                card
                for card in purchase.cards
                if of_cards.get(card.identity, card.after_sale) is not AfterSale.REVERSED
            ]
            lacking = sum(card.identity not in listed for card in known)
            changed = sum(listed.get(card.identity, card.content) != card.content for card in known)
            return f"{ordered}: of {len(purchase.cards)} known before {lacking} are missing and {changed} changed"
        case ReviewReason.CONTRADICTION:
            return f"{ordered}: only {len(listed)} of those listed differ"
        case _:
            new = len(_unknown(purchase, prints))
            return f"{ordered}, {len(purchase.cards)} known before and {new} new" if purchase.cards else ordered


def _cards(count: int) -> str:
    return f"{count} card{'' if count == 1 else 's'}"


def _told_after(
    purchase: PurchaseRecord, event: Delivered, of_cards: Mapping[str, AfterSale | None], around: Circumstances
) -> PurchaseRecord:
    """The purchase with what became of its items, and how long more may become of them."""
    of_all = event.after_sale if event.after_sale is not None or not purchase.cards else purchase.after_sale
    until = max(purchase.watch_until, aftersale.warranty_end(event.cards, around.at))
    return aftersale.told(replace(purchase, watch_until=until), of_cards, of_all, around.at)


def _unknown(purchase: PurchaseRecord, prints: Sequence[CardPrint]) -> list[CardPrint]:
    stored = {print_.identity for print_ in purchase.cards}
    return [print_ for print_ in prints if print_.identity not in stored]


def _new_cards(
    order: Order, purchase: PurchaseRecord, cards: Sequence[Card], prints: Sequence[CardPrint], *, hidden: bool
) -> tuple[NewCard, ...]:
    stored = {print_.identity for print_ in purchase.cards}
    new = [card for card, print_ in zip(cards, prints, strict=True) if print_.identity not in stored]
    return tuple(NewCard(order.card_count + i, card, hidden) for i, card in enumerate(new, start=1))


# --- The order around a purchase --------------------------------------------------------------------------------------


def lets_next_try(dead: PurchaseRecord) -> bool:
    """Whether a dead purchase lets the next offer be tried: it was refused for a reason that says nothing against the
    order itself, or all money came back.
    """
    # A refund whose amount nobody named isn't known to be a full one: no second purchase on that.
    refunded = dead.cost is not None and dead.refunded is not None and dead.refunded >= dead.cost > 0
    return dead.refused_for in TRY_NEXT_OFFER or refunded


def _after_death(order: Order, dead: PurchaseRecord, around: Circumstances) -> Order:
    """Tries the next offer where that is allowed, and holds back what would meet the same refusal."""
    may_try_next = lets_next_try(dead) and not order.cancel_requested_at
    units = list(dead.units()) if may_try_next else []
    purchases = list(order.purchases)
    if dead.refused_for in HOLD_BACK_REST:
        for i, other in enumerate(purchases):
            # One that the supplier called back about is no proven non-send: it is sent again, under its own number.
            unsent = other.state is PurchaseState.WAITING and other.review is None and not other.called_back
            if unsent and other.offer == dead.offer:
                held = replace(other, state=PurchaseState.DEAD, failure=dead.failure, updated_at=around.at)
                purchases[i] = _with_evidence(held, None, around, "held back: another unit was refused")
                if may_try_next:
                    units.extend(other.units())
    order = replace(order, purchases=tuple(purchases))
    if units and dead.offer + 1 < len(order.offers):
        added = (
            record
            for run in _consecutive(sorted(units))
            for record in plan(order, dead.offer + 1, run, around.new_number, ordered_at=dead.ordered_at)
        )
        order = replace(order, purchases=(*order.purchases, *added))
    return order


def _consecutive(units: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for unit in units:
        if runs and runs[-1][-1] == unit - 1:
            runs[-1].append(unit)
        else:
            runs.append([unit])
    return runs


def _by_unit(purchases: Sequence[PurchaseRecord], quantity: int) -> list[PurchaseRecord]:
    """The purchase that counts for each unit: the one that isn't dead, else the latest."""
    current: dict[int, PurchaseRecord] = {}
    for purchase in purchases:
        for unit in purchase.units():
            known = current.get(unit)
            if known is None or known.state is PurchaseState.DEAD or purchase.state is not PurchaseState.DEAD:
                current[unit] = purchase
    return [current[unit] for unit in range(quantity)]


def current(order: Order) -> list[PurchaseRecord]:
    """The purchases that count for the order's units, each once."""
    return list({p.number: p for p in _by_unit(order.purchases, order.quantity)}.values())


def _settle(before: Order, order: Order, at: int) -> tuple[Order, bool]:
    """Derives what the client sees; a new version only if that changed."""
    current = list(dict.fromkeys(p.number for p in _by_unit(order.purchases, order.quantity)))
    purchases = [order.purchase(number) for number in current]
    state = order_state(order.purchases, order.quantity)
    delivered = sum(
        p.quantity if p.state is PurchaseState.DELIVERED else sum(not card.hidden for card in p.cards)
        for p in purchases
        if p.state is not PurchaseState.DEAD
    )
    costs = [p.cost for p in purchases if p.state is PurchaseState.DELIVERED and p.cost is not None]
    order = replace(
        order,
        state=state,
        delivered_quantity=delivered,
        failure=_failure(state, purchases),
        reviews=_reviews(order.purchases, purchases),
        after_sale=aftersale.worst({sale for p in purchases for sale in p.after_sales()}),
        total_cost=Money(sum(costs)) if costs else None,
        settled_at=_settled_at(order, state, at),
        revision=before.revision + 1,
    )
    visible = _seen(order) != _seen(before)
    if visible:
        order = replace(order, version=before.version + 1, updated_at=at)
    return order, visible


def _failure(state: OrderState, current: Sequence[PurchaseRecord]) -> Failure | None:
    if state not in (OrderState.FAILED, OrderState.PARTIALLY_FULFILLED):
        return None
    failures = (p.failure for p in current if p.failure is not None)
    return next(failures, Failure(FailureReason.CANCELLED, "the units not delivered were cancelled"))


def _reviews(purchases: Sequence[PurchaseRecord], current: Sequence[PurchaseRecord]) -> tuple[ReviewReason, ...]:
    """What keeps the order open first, then what stands beside it, also at purchases that were replaced since."""
    blocking = [p.review for p in current if p.review is not None]
    beside = [item.reason for p in purchases for item in p.items]
    return tuple(dict.fromkeys([*blocking, *beside]))


def _settled_at(order: Order, state: OrderState, at: int) -> int:
    if not state.is_terminal or not all(p.is_settled for p in order.purchases):
        return 0
    return order.settled_at or at


def _seen(order: Order) -> tuple[object, ...]:
    """What the client sees of an order, as far as it can change."""
    return (
        order.state,
        order.delivered_quantity,
        order.failure,
        order.reviews,
        order.total_cost,
        order.after_sale,
        order.settled_at,
        order.cancel_requested_at,
        [(card.card_no, card.after_sale) for p in order.purchases for card in p.cards if not card.hidden],
    )


def _with_overcharge(order: Order, purchase: PurchaseRecord, around: Circumstances) -> PurchaseRecord:
    limit = Money(order.offers[purchase.offer].unit_limit * purchase.quantity)
    if purchase.cost is None or purchase.cost <= limit:
        return purchase
    told = f"charged {show_yuan(purchase.cost)} yuan, the limit was {show_yuan(limit)} yuan"
    if purchase.quantity > 1:
        told += f" ({purchase.quantity} units at {show_yuan(order.offers[purchase.offer].unit_limit)})"
    return aftersale.with_item(purchase, ReviewReason.OVERCHARGED, around.at, told)


# --- Evidence ---------------------------------------------------------------------------------------------------------


def _with_evidence(
    purchase: PurchaseRecord, event: Event | None, around: Circumstances, detail: str = ""
) -> PurchaseRecord:
    name = _name(event) if event is not None else "NotSent"
    entry = Evidence(around.at, around.source, name, detail or _detail(event))
    return replace(purchase, evidence=(*purchase.evidence, entry)[-EVIDENCE_LIMIT:])


def in_words(event: Event) -> str:
    """An event as evidence tells it: its name, and what was said."""
    return f"{_name(event)}: {_detail(event)}".removesuffix(": ")


def _name(event: Event) -> str:
    return type(event).__name__


def _detail(event: Event | None) -> str:
    match event:
        case Refused(code=code, message=message, certain=certain):
            return f"{code}: {message}" + ("" if certain else " (not certain)")
        case NotSent(cause=cause, detail=detail):
            return f"{cause}: {detail}" if detail else str(cause)
        case Unclear(reason=reason):
            return reason
        case Accepted(detail=detail) | Refunded(detail=detail) | Absent(detail=detail) | CancelConfirmed(detail=detail):
            return detail
        case Delivered(detail=detail):
            return detail or _after_sale_words(event)
        case AbsenceProven(may_resend=may_resend):
            return "will be sent again under the same number" if may_resend else "two looks after grace"
        case OperatorDelivered(detail=detail):
            return detail
        case OperatorDead(reason=reason, detail=detail):
            return detail or reason
        case _:
            return ""


def _after_sale_words(event: Delivered) -> str:
    sales = [event.after_sale, *(card.after_sale for card in event.cards)]
    return ", ".join(dict.fromkeys(str(sale) for sale in sales if sale is not None))
