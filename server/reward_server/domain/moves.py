"""How orders change: one complete table of moves, and the one function that makes a move.

`advance(order, number, event, …)` takes what was learned about one purchase and returns the order as it is after it.
Dispatcher, looks, callbacks, recovery and operators all go through it; nothing else changes a purchase but `intend`,
which notes the intention to send before the first byte leaves.

The table says what each event means in each state. Three thoughts shape it:

* *Evidence is never refused.* A late answer counts as much as a punctual one, whoever holds it.
* *Doubt is a state.* What isn't proven is UNKNOWN, and UNKNOWN is left only by evidence.
* *Dead is dead.* Only a dead purchase makes room for another one for the same units; a success that comes after all
  is kept hidden and shown to the operator, never delivered beside its replacement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import TypeAlias

from reward_adapters.contract import (
    Absent,
    Accepted,
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
from reward_adapters.money import Money
from reward_server.domain.order import (
    EVIDENCE_LIMIT,
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


@dataclass(frozen=True, slots=True)
class CancelConfirmed:
    """The supplier confirmed a cancellation, or nothing was sent yet."""


@dataclass(frozen=True, slots=True)
class OperatorDelivered:
    """An operator says it was delivered, with these cards."""

    cards: tuple[Card, ...] = ()


@dataclass(frozen=True, slots=True)
class OperatorDead:
    """An operator says it was not bought."""

    reason: str


Event: TypeAlias = (
    Outcome | SenderLost | AbsenceProven | DeadlinePassed | CancelConfirmed | OperatorDelivered | OperatorDead
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
    """Delivered before: the cards must be the same."""
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
    """A dead purchase lives: keep what came, hidden, and alert."""


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
        OperatorDelivered: Move.DELIVER,
        OperatorDead: Move.KILL,
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
        OperatorDelivered: Move.DELIVER,
        OperatorDead: Move.KILL,
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
        OperatorDelivered: Move.DELIVER,
        OperatorDead: Move.KILL,
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
        OperatorDelivered: Move.DELIVER,
        OperatorDead: Move.KILL,
    },
    _S.DELIVERED: {
        # Older news than what we have.
        Accepted: Move.STAY,
        Delivered: Move.COMPARE,
        Refused: Move.ALERT,
        NotSent: Move.STAY,
        Refunded: Move.ALERT,
        Absent: Move.ALERT,
        Unclear: Move.STAY,
        SenderLost: Move.STAY,
        AbsenceProven: Move.ALERT,
        DeadlinePassed: Move.STAY,
        CancelConfirmed: Move.ALERT,
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
        OperatorDelivered: Move.LATE_SUCCESS,
        OperatorDead: Move.STAY,
    },
}

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
    REVIEW = "review"
    REVERSED = "reversed"
    UNEXPECTED_ANSWER = "unexpected_answer"
    SUPPLIER_BALANCE = "supplier_balance"
    SUPPLIER_REFUSES_US = "supplier_refuses_us"
    DEFECT = "defect"


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing for an operator; scrubbed."""

    kind: AlertKind
    message: str


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


@dataclass(frozen=True, slots=True)
class _Moved:
    """A purchase after an event."""

    purchase: PurchaseRecord
    cards: tuple[NewCard, ...] = ()
    alerts: tuple[Alert, ...] = ()


def advance(order: Order, number: str, event: Event, circumstances: Circumstances) -> Step:
    """The order after `event` happened to its purchase `number`. Raises KeyError for a number of another order."""
    before = order.purchase(number)
    event = _check_reference(before, event)
    moved = _move(order, before, event, circumstances)
    after = moved.purchase
    if circumstances.written_until is not None and after.written_until == 0 and after.state is PurchaseState.UNKNOWN:
        after = replace(after, written_until=circumstances.written_until)
    if after == before and not moved.cards:
        return Step(order, news=False, visible=False, alerts=moved.alerts)
    if after.state is not before.state:
        after = replace(after, updated_at=circumstances.at, owner=after.owner if after.state.is_open else "")
    after = _with_evidence(after, event, circumstances)
    changed = replace(order.with_purchase(after), card_count=order.card_count + len(moved.cards))
    if before.state is not PurchaseState.DEAD and after.state is PurchaseState.DEAD:
        changed = _after_death(changed, after, circumstances)
    settled, visible = _settle(order, changed, circumstances.at)
    return Step(settled, news=True, visible=visible, cards=moved.cards, alerts=moved.alerts)


def intend(order: Order, number: str, *, owner: str, at: int) -> Order:
    """The order with the intention to send noted: WAITING → SUBMITTING. No update: nothing the client sees changes."""
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
        updated_at=at,
    )
    return replace(order.with_purchase(purchase), revision=order.revision + 1)


def note_callback(order: Order, number: str, *, at: int) -> Order:
    """The order with the fact noted that a verified callback named its purchase; the same order when that is no news.

    Such a callback moves nothing: what it says is asked for by a look.
    """
    purchase = order.purchase(number)
    if purchase.called_back:
        return order
    entry = Evidence(at, Source.CALLBACK, "CalledBack", "verified; a look follows")
    purchase = replace(purchase, called_back=True, evidence=(*purchase.evidence, entry)[-EVIDENCE_LIMIT:])
    return replace(order.with_purchase(purchase), revision=order.revision + 1)


def sendable(order: Order) -> list[PurchaseRecord]:
    """The purchases that may be sent now. To one recipient they go one after another: the next only when no other is
    under way, so that a supplier that takes the second for a repetition of the first does no harm.
    """
    waiting = [p for p in order.purchases if p.state is PurchaseState.WAITING and p.review is None]
    if order.recipient is None:
        return waiting
    busy = any(p.state.is_open and p.state is not PurchaseState.WAITING for p in order.purchases)
    return [] if busy else waiting[:1]


def plan(order: Order, offer: int, units: Sequence[int], new_number: Callable[[], str]) -> tuple[PurchaseRecord, ...]:
    """Purchases at one offer for consecutive units of an order, as large as the offer allows."""
    size = order.offers[offer].max_units
    chunks = [units[i : i + size] for i in range(0, len(units), size)]
    return tuple(
        PurchaseRecord(
            number=new_number(), offer=offer, first_unit=chunk[0], quantity=len(chunk), updated_at=order.created_at
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
    return OrderState.CANCELLED if all(p.failure is None for p in current) else OrderState.FAILED


# --- Moves, one function each -----------------------------------------------------------------------------------------


def _check_reference(purchase: PurchaseRecord, event: Event) -> Event:
    """A supplier that names another order of its own under our number contradicts itself."""
    known = purchase.supplier_reference
    told = event.supplier_reference if isinstance(event, Accepted | Delivered) else None
    if purchase.state is not PurchaseState.DEAD and known is not None and told is not None and known != told:
        return Unclear("the supplier's own order number changed", Doubt.CONTRADICTION, alert=True)
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
    match move:
        case Move.STAY:
            if isinstance(event, Unclear) and event.doubt is not None and purchase.state is PurchaseState.DELIVERED:
                return _alerted(purchase, event, AlertKind.CONTRADICTION, event.reason)
            return _Moved(purchase)
        case Move.ALERT:
            kind = AlertKind.REVERSED if isinstance(event, Refunded | CancelConfirmed) else AlertKind.CONTRADICTION
            return _alerted(purchase, event, kind, f"{purchase.state} purchase, but the supplier says {_name(event)}")
        case Move.WAIT:
            return _wait(purchase, event, around)
        case Move.ACCEPT:
            return _accept(purchase, event)
        case Move.DELIVER:
            return _deliver(order, purchase, event, around)
        case Move.COMPARE:
            return _compare(purchase, event, around)
        case Move.REFUSE:
            return _refuse(purchase, event)
        case Move.REFUND:
            return _refund(purchase, event)
        case Move.DOUBT | Move.QUESTION:
            return _doubt(purchase, event, move)
        case Move.COUNT_ABSENCE:
            # A look that was begun before the refusal came confirms nothing.
            stale = around.asked_at is not None and around.asked_at < purchase.written_until
            if purchase.refusal is not None and stale:
                return _Moved(purchase)
            if purchase.refusal is not None and not purchase.called_back:
                return _end(purchase, purchase.refusal, purchase.refused_for)
            return _Moved(replace(purchase, absent_looks=1))
        case Move.RESEND_OR_DIE:
            return _absent(purchase, event)
        case Move.KILL:
            return _kill(purchase, event)
        case Move.REVIEW:
            return _review(purchase, ReviewReason.DEADLINE)
        case Move.LATE_SUCCESS:
            return _late_success(order, purchase, event, around)


def _wait(purchase: PurchaseRecord, event: Event, around: Circumstances) -> _Moved:
    if not isinstance(event, NotSent):
        raise TypeError(event)
    wait_ms = min(int(1000 * (event.retry_after or 0)), LONGEST_WAIT_MS)
    not_before = around.at + wait_ms if wait_ms else purchase.not_before
    token_refused = event.cause is NotSentCause.TOKEN_REFUSED
    if purchase.state is PurchaseState.WAITING:
        return _Moved(replace(purchase, not_before=not_before))
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
    shown = isinstance(event, OperatorDelivered)
    if isinstance(event, OperatorDelivered):
        event = Delivered(cards=event.cards)
    if not isinstance(event, Delivered):
        raise TypeError(event)
    if shown:
        # What was hidden for a person is stored once more, for the client.
        purchase = replace(purchase, cards=tuple(card for card in purchase.cards if not card.hidden))
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
    prints = [around.print_card(card) for card in event.cards]
    wrong = _wrong_cards(purchase, prints)
    if wrong is not None:
        return _review(known, wrong)
    if needs_cards and not prints and event.complete:
        if purchase.state is PurchaseState.SUBMITTING:
            # A callback overtook the answer, which brings the card.
            return _Moved(replace(purchase, supplier_reference=known.supplier_reference))
        return _review(known, ReviewReason.CARD_MISSING)
    cards = _new_cards(order, purchase, event.cards, prints, hidden=False)
    stored = purchase.cards + tuple(
        replace(print_, card_no=card.card_no) for print_, card in zip(_unknown(purchase, prints), cards, strict=True)
    )
    complete = event.complete and (not needs_cards or len(stored) >= purchase.quantity)
    changed = replace(known, cards=stored)
    if not complete:
        return _Moved(changed, cards)
    changed = replace(changed, state=PurchaseState.DELIVERED, review=None)
    return _Moved(changed, cards, _overcharged(order, changed))


def _compare(purchase: PurchaseRecord, event: Event, around: Circumstances) -> _Moved:
    if not isinstance(event, Delivered):
        raise TypeError(event)
    prints = [around.print_card(card) for card in event.cards]
    if not prints:
        return _Moved(purchase)
    wrong = _wrong_cards(purchase, prints)
    if wrong is None and _unknown(purchase, prints):
        wrong = ReviewReason.TOO_MANY_CARDS
    if wrong is None:
        return _Moved(purchase)
    return _alerted(purchase, event, AlertKind.CONTRADICTION, f"cards listed after delivery don't match: {wrong}")


def _refuse(purchase: PurchaseRecord, event: Event) -> _Moved:
    if not isinstance(event, Refused):
        raise TypeError(event)
    failure = Failure(_REFUSAL_REASONS[event.about], f"{event.code}: {event.message}".strip(": "))
    alerts = (
        (Alert(AlertKind.SUPPLIER_BALANCE, "the supplier says that our balance is too low"),)
        if event.about is RefusedFor.BALANCE
        else ()
    )
    if event.certain:
        ended = _end(purchase, failure, event.about)
        return replace(ended, alerts=ended.alerts + alerts)
    if purchase.state is PurchaseState.ACCEPTED:
        return _alerted(purchase, event, AlertKind.CONTRADICTION, "accepted before, now refused")
    return _Moved(
        replace(purchase, state=PurchaseState.UNKNOWN, refusal=failure, refused_for=event.about), alerts=alerts
    )


def _refund(purchase: PurchaseRecord, event: Event) -> _Moved:
    if not isinstance(event, Refunded):
        raise TypeError(event)
    cost = event.cost if event.cost is not None else purchase.cost
    changed = replace(purchase, cost=cost, refunded=event.amount)
    if event.amount is not None and cost is not None and event.amount < cost:
        return _review(replace(changed, state=PurchaseState.ACCEPTED), ReviewReason.PARTIAL_REFUND)
    detail = event.detail or "the supplier couldn't deliver and returned the money"
    return _end(changed, Failure(FailureReason.REFUNDED, detail))


def _doubt(purchase: PurchaseRecord, event: Event, move: Move) -> _Moved:
    changed = replace(purchase, state=PurchaseState.UNKNOWN) if move is Move.DOUBT else purchase
    if not isinstance(event, Unclear):
        return _Moved(changed)
    if event.doubt is not None:
        return _review(changed, _DOUBTS[event.doubt])
    if event.alert:
        return _alerted(changed, event, AlertKind.UNEXPECTED_ANSWER, event.reason)
    return _Moved(changed)


def _absent(purchase: PurchaseRecord, event: Event) -> _Moved:
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
    return _end(purchase, failure)


def _kill(purchase: PurchaseRecord, event: Event) -> _Moved:
    match event:
        case DeadlinePassed():
            failure = Failure(FailureReason.NOT_SENT_IN_TIME, "not sent to the supplier before its sending deadline")
        case OperatorDead():
            failure = Failure(FailureReason.OPERATOR, event.reason)
        case _:
            # A cancelled purchase has no failure: the order shows CANCELLED.
            return _end(purchase, None)
    return _Moved(_dead(purchase, failure, None))


def _late_success(order: Order, purchase: PurchaseRecord, event: Event, around: Circumstances) -> _Moved:
    kept = _hide(order, purchase, event.cards if isinstance(event, Delivered | OperatorDelivered) else (), around)
    told = _alerted(kept.purchase, event, AlertKind.LATE_SUCCESS, "a purchase given up as dead was delivered after all")
    return replace(told, cards=kept.cards)


def _hide(order: Order, purchase: PurchaseRecord, cards: Sequence[Card], around: Circumstances) -> _Moved:
    """Keeps cards that aren't for the client: paid for, perhaps, but of a purchase that isn't simply delivered."""
    prints = [around.print_card(card) for card in cards]
    new = _new_cards(order, purchase, cards, prints, hidden=True)
    stored = tuple(
        replace(print_, card_no=card.card_no, hidden=True)
        for print_, card in zip(_unknown(purchase, prints), new, strict=True)
    )
    return _Moved(replace(purchase, cards=purchase.cards + stored), new)


def _review(purchase: PurchaseRecord, reason: ReviewReason) -> _Moved:
    if purchase.review is not None:
        return _Moved(purchase)
    return _Moved(replace(purchase, review=reason), alerts=(Alert(AlertKind.REVIEW, f"needs review: {reason}"),))


def _end(purchase: PurchaseRecord, failure: Failure | None, about: RefusedFor | None = None) -> _Moved:
    """Death by what the supplier says; a purchase whose cards were handed over can't simply be dead."""
    if purchase.cards:
        return _review(purchase, ReviewReason.CONTRADICTION)
    return _Moved(_dead(purchase, failure, about))


def _dead(purchase: PurchaseRecord, failure: Failure | None, about: RefusedFor | None) -> PurchaseRecord:
    return replace(purchase, state=PurchaseState.DEAD, failure=failure, refused_for=about, refusal=None, review=None)


def _noted(purchase: PurchaseRecord, event: Event) -> _Moved:
    """Adds nothing if the same was noted last: evidence of a review isn't a log."""
    last = purchase.evidence[-1] if purchase.evidence else None
    if last is not None and (last.outcome, last.detail) == (_name(event), _detail(event)):
        return _Moved(purchase)
    # The evidence itself is added by `advance`, because the purchase isn't the same object any more.
    return _Moved(replace(purchase, updated_at=purchase.updated_at + 1))


def _alerted(purchase: PurchaseRecord, event: Event, kind: AlertKind, message: str) -> _Moved:
    """An alert, noted once: the same contradiction told again is no news."""
    noted = _noted(purchase, event)
    return _Moved(noted.purchase, alerts=(Alert(kind, message),) if noted.purchase != purchase else ())


# --- Cards ------------------------------------------------------------------------------------------------------------


def _wrong_cards(purchase: PurchaseRecord, prints: Sequence[CardPrint]) -> ReviewReason | None:
    """Why a list of cards can't be believed: nothing is overwritten, a person looks."""
    listed = {print_.identity: print_.content for print_ in prints}
    if len(listed) < len(prints):
        return ReviewReason.CONTRADICTION
    if len(prints) > purchase.quantity:
        return ReviewReason.TOO_MANY_CARDS
    if any(listed.get(stored.identity) != stored.content for stored in purchase.cards):
        return ReviewReason.CARDS_CHANGED if prints else None
    return None


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


def _after_death(order: Order, dead: PurchaseRecord, around: Circumstances) -> Order:
    """Tries the next offer where that is allowed, and holds back what would meet the same refusal."""
    # A refund whose amount nobody named isn't known to be a full one: no second purchase on that.
    refunded = dead.refunded is not None and dead.cost is not None
    may_try_next = dead.refused_for in TRY_NEXT_OFFER or refunded
    units = list(dead.units()) if may_try_next else []
    purchases = list(order.purchases)
    if dead.refused_for in HOLD_BACK_REST:
        for i, other in enumerate(purchases):
            if other.state is PurchaseState.WAITING and other.sends == 0 and other.offer == dead.offer:
                held = replace(other, state=PurchaseState.DEAD, failure=dead.failure, updated_at=around.at)
                purchases[i] = _with_evidence(held, None, around, "held back: another unit was refused")
                if may_try_next:
                    units.extend(other.units())
    order = replace(order, purchases=tuple(purchases))
    if units and dead.offer + 1 < len(order.offers):
        added = (
            record
            for run in _consecutive(sorted(units))
            for record in plan(order, dead.offer + 1, run, around.new_number)
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
    """The purchase that counts for each unit: the latest one."""
    current: dict[int, PurchaseRecord] = {}
    for purchase in purchases:
        for unit in purchase.units():
            current[unit] = purchase
    return [current[unit] for unit in range(quantity)]


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
    failures = [p.failure for p in purchases if p.failure is not None]
    costs = [p.cost for p in purchases if p.state is PurchaseState.DELIVERED and p.cost is not None]
    failed = state in (OrderState.FAILED, OrderState.PARTIALLY_FULFILLED)
    order = replace(
        order,
        state=state,
        delivered_quantity=delivered,
        failure=failures[0] if failed and failures else None,
        reviews=tuple(dict.fromkeys(p.review for p in purchases if p.review is not None)),
        total_cost=Money(sum(costs)) if costs else None,
        revision=before.revision + 1,
    )
    visible = _seen(order) != _seen(before)
    if visible:
        order = replace(order, version=before.version + 1, updated_at=at)
    return order, visible


def _seen(order: Order) -> tuple[object, ...]:
    return (order.state, order.delivered_quantity, order.failure, order.reviews, order.total_cost)


def _overcharged(order: Order, purchase: PurchaseRecord) -> tuple[Alert, ...]:
    limit = order.offers[purchase.offer].unit_limit * purchase.quantity
    if purchase.cost is None or purchase.cost <= limit:
        return ()
    return (Alert(AlertKind.OVERCHARGED, "the supplier charged more than the limit"),)


# --- Evidence ---------------------------------------------------------------------------------------------------------


def _with_evidence(
    purchase: PurchaseRecord, event: Event | None, around: Circumstances, detail: str = ""
) -> PurchaseRecord:
    name = _name(event) if event is not None else "NotSent"
    entry = Evidence(around.at, around.source, name, detail or _detail(event))
    return replace(purchase, evidence=(*purchase.evidence, entry)[-EVIDENCE_LIMIT:])


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
        case Accepted(detail=detail) | Delivered(detail=detail) | Refunded(detail=detail) | Absent(detail=detail):
            return detail
        case AbsenceProven(may_resend=may_resend):
            return "will be sent again under the same number" if may_resend else "two looks after grace"
        case OperatorDead(reason=reason):
            return reason
        case _:
            return ""
