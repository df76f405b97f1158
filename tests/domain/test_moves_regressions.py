"""Sequences of events that once led astray: to a second purchase, a lost card, or alerts without end."""

import pytest

from reward_adapters.contract import (
    Absent,
    Accepted,
    Card,
    Delivered,
    Doubt,
    NotSent,
    NotSentCause,
    ProductKind,
    Refunded,
    Refused,
    RefusedFor,
    Unclear,
)
from reward_adapters.money import Money
from reward_server.domain.moves import (
    Alert,
    AlertKind,
    CancelConfirmed,
    DeadlinePassed,
    Event,
    NewCard,
    OperatorDelivered,
    advance,
)
from reward_server.domain.order import Order, OrderState, PurchaseState, ReviewReason

from .test_moves import Numbers, around, card, in_state, submitting

DOUBTFUL = Refused(code="0", message="out of stock", certain=False, about=RefusedFor.STOCK)
CERTAIN = Refused(code="-1", message="unpaid", certain=True, about=RefusedFor.BALANCE)


class Told:
    """What came of several events in a row at the first purchase of an order."""

    def __init__(self, order: Order, numbers: Numbers, *events: Event) -> None:
        self.order = order
        self.cards: list[NewCard] = []
        self.alerts: list[Alert] = []
        number = order.purchases[0].number
        for event in events:
            step = advance(self.order, number, event, around(numbers))
            self.order = step.order
            self.cards.extend(step.cards)
            self.alerts.extend(step.alerts)
        self.purchase = self.order.purchase(number)

    def alerts_of(self, kind: AlertKind) -> int:
        return sum(alert.kind is kind for alert in self.alerts)


@pytest.mark.parametrize("end", [Refunded(cost=Money(980_000)), CancelConfirmed()])
@pytest.mark.rule("P7")
def test_refusal_that_was_overcome_opens_no_other_offer(end: Event) -> None:
    """A doubtful refusal before the acceptance says nothing about how the purchase ended."""
    numbers = Numbers()
    order = submitting(numbers, kind=ProductKind.TOPUP, offers=2)
    told = Told(order, numbers, DOUBTFUL, Accepted(supplier_reference="S1"), end)
    assert told.purchase.state is PurchaseState.DEAD
    assert len(told.order.purchases) == 1


def test_refusal_before_a_proven_non_send_is_forgotten() -> None:
    """A purchase that waits again waits without the refusal of its first send."""
    numbers = Numbers()
    told = Told(submitting(numbers), numbers, DOUBTFUL, NotSent(cause=NotSentCause.TOKEN_REFUSED))
    assert (told.purchase.state, told.purchase.refusal, told.purchase.refused_for) == (
        PurchaseState.WAITING,
        None,
        None,
    )


@pytest.mark.rule("P7", "P11")
def test_doubtful_refusal_confirmed_by_a_look_opens_the_next_offer() -> None:
    """A doubtful refusal that nothing overcame and a look confirmed says what the purchase died of."""
    numbers = Numbers()
    told = Told(submitting(numbers, offers=2), numbers, DOUBTFUL, Absent())
    assert told.purchase.refused_for is RefusedFor.STOCK
    assert [p.offer for p in told.order.purchases] == [0, 1]


@pytest.mark.parametrize("end", [CERTAIN, Refunded(), CancelConfirmed()])
def test_purchase_whose_cards_were_handed_over_is_reviewed(end: Event) -> None:
    """Whatever the supplier says afterwards: units whose cards the client has aren't bought again."""
    numbers = Numbers()
    order = submitting(numbers, quantity=2, max_units=2, offers=2)
    told = Told(order, numbers, Delivered(cards=(card(1),), complete=False), end)
    assert told.purchase.review is ReviewReason.CONTRADICTION
    assert told.purchase.state is PurchaseState.ACCEPTED
    assert len(told.order.purchases) == 1
    assert told.order.delivered_quantity == 1


@pytest.mark.parametrize("arrives", [(card(1),), (card(1), card(2))])
@pytest.mark.rule("O8")
def test_cards_during_a_review_are_hidden(arrives: tuple[Card, ...]) -> None:
    """Cards that come while only a person may go on are new, hidden, and not counted as delivered."""
    numbers = Numbers()
    order = submitting(numbers, quantity=2, max_units=2)
    told = Told(order, numbers, Unclear("?", Doubt.CONTRADICTION), Delivered(cards=arrives), Delivered(cards=arrives))
    assert [(new.card, new.hidden) for new in told.cards] == [(each, True) for each in arrives]
    assert all(print_.hidden for print_ in told.purchase.cards)
    assert told.purchase.review is ReviewReason.CONTRADICTION
    assert told.order.delivered_quantity == 0
    assert told.order.card_count == len(arrives)


def test_retry_after_is_bounded() -> None:
    """A supplier that asks to wait for days is believed for minutes."""
    numbers = Numbers()
    order = submitting(numbers)
    told = Told(order, numbers, NotSent(cause=NotSentCause.RATE_LIMITED, retry_after=999_999.0))
    assert told.purchase.not_before == around(numbers).at + 300_000


@pytest.mark.parametrize(
    ("state", "event", "kind"),
    [
        (PurchaseState.UNKNOWN, Unclear("odd", alert=True), AlertKind.UNEXPECTED_ANSWER),
        (PurchaseState.ACCEPTED, Unclear("odd", alert=True), AlertKind.UNEXPECTED_ANSWER),
        (PurchaseState.ACCEPTED, Absent(), AlertKind.CONTRADICTION),
        (PurchaseState.DELIVERED, Refunded(), AlertKind.REVERSED),
        (PurchaseState.DELIVERED, Accepted(supplier_reference="S2"), AlertKind.CONTRADICTION),
        (PurchaseState.DELIVERED, Unclear("odd", Doubt.CONTRADICTION), AlertKind.CONTRADICTION),
        (PurchaseState.DEAD, Delivered(cards=(card(1),)), AlertKind.LATE_SUCCESS),
    ],
)
def test_what_is_told_again_alerts_once(state: PurchaseState, event: Event, kind: AlertKind) -> None:
    """The same odd answer, look after look, is one alert and one piece of evidence."""
    numbers = Numbers()
    order = in_state(state, numbers)
    before = len(order.purchases[0].evidence)
    told = Told(order, numbers, event, event, event)
    assert told.alerts_of(kind) == 1
    assert len(told.purchase.evidence) == before + 1
    assert told.purchase.state is state


def test_another_oddity_alerts_again() -> None:
    """Evidence with other words is news."""
    numbers = Numbers()
    told = Told(in_state(PurchaseState.ACCEPTED, numbers), numbers, Unclear("a", alert=True), Unclear("b", alert=True))
    assert told.alerts_of(AlertKind.UNEXPECTED_ANSWER) == 2
    assert [e.detail for e in told.purchase.evidence[-2:]] == ["a", "b"]


def test_late_success_under_another_reference_is_a_late_success() -> None:
    """A dead purchase that is delivered after all keeps its cards, whatever number the supplier gives it now."""
    numbers = Numbers()
    order = in_state(PurchaseState.ACCEPTED, numbers)
    told = Told(order, numbers, Refunded(), Delivered(cards=(card(1),), supplier_reference="S2"))
    assert [new.hidden for new in told.cards] == [True]
    assert told.alerts_of(AlertKind.LATE_SUCCESS) == 1


def test_cards_that_were_hidden_are_shown_once_an_operator_delivers_them() -> None:
    """An operator who settles a review with the cards that came meanwhile hands them to the client."""
    numbers = Numbers()
    told = Told(
        submitting(numbers),
        numbers,
        Unclear("?", Doubt.CONTRADICTION),
        Delivered(cards=(card(1),)),
        OperatorDelivered(cards=(card(1),)),
    )
    assert told.purchase.state is PurchaseState.DELIVERED
    assert [new.card_no for new in told.cards] == [1], "the kept card is released, not stored twice"
    assert not any(print_.hidden for print_ in told.purchase.cards)


CONTRADICTIONS: tuple[tuple[Event, ReviewReason], ...] = (
    (Delivered(cards=(card(1), card(2)), supplier_reference="S1"), ReviewReason.TOO_MANY_CARDS),
    (Unclear("it contradicts itself", Doubt.CONTRADICTION), ReviewReason.CONTRADICTION),
    (Accepted(supplier_reference="S2"), ReviewReason.CONTRADICTION),
)


@pytest.mark.rule("P9")
@pytest.mark.parametrize(("event", "reason"), CONTRADICTIONS)
def test_a_contradiction_is_not_hidden_by_a_review_that_evidence_may_end(event: Event, reason: ReviewReason) -> None:
    """In review for its deadline only: what needs a person is seen, told, and not ended by the next clean look."""
    numbers = Numbers()
    order = submitting(numbers)
    overdue = Told(order, numbers, Accepted(supplier_reference="S1"), DeadlinePassed())
    assert overdue.purchase.review is ReviewReason.DEADLINE
    told = Told(overdue.order, numbers, event)
    assert told.purchase.review is reason
    assert told.alerts_of(AlertKind.REVIEW) == 1
    clean = Told(told.order, numbers, Delivered(cards=(card(1),), supplier_reference="S1"))
    assert clean.order.state is OrderState.NEEDS_REVIEW
    # And the deadline, when it comes again, says nothing new.
    assert Told(told.order, numbers, DeadlinePassed()).purchase.review is reason
