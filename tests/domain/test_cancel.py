"""The wish to cancel: what was never sent never is, and what was sent ends by evidence."""

import pytest

from reward_adapters.contract import (
    Accepted,
    Delivered,
    NotSent,
    NotSentCause,
    ProductKind,
    Refunded,
    Refused,
    RefusedFor,
)
from reward_adapters.money import Money
from reward_server.domain.moves import (
    AbsenceProven,
    AlertKind,
    CancelConfirmed,
    Event,
    advance,
    intend,
    may_ask_to_cancel,
    note_cancel_answer,
    note_cancel_ask,
    request_cancel,
    sendable,
)
from reward_server.domain.order import FailureReason, Order, OrderState, PurchaseState, ReviewReason, Source

from .test_moves import NOW, Numbers, around, card, in_state, new_order, submitting


def cancelled(order: Order, at: int = NOW) -> Order:
    return request_cancel(order, at=at).order


def after(order: Order, event: Event, number: str = "") -> Order:
    return advance(order, number or order.purchases[0].number, event, around(Numbers())).order


@pytest.mark.rule("O15")
def test_an_order_of_which_nothing_was_sent_is_cancelled_at_once() -> None:
    """In one visible version, with no failure, and settled."""
    order = new_order(Numbers(), quantity=3)
    step = request_cancel(order, at=NOW + 9)
    assert (step.order.state, step.order.failure, step.order.version) == (OrderState.CANCELLED, None, 2)
    assert {p.state for p in step.order.purchases} == {PurchaseState.DEAD}
    assert (step.order.cancel_requested_at, step.order.settled_at) == (NOW + 9, NOW + 9)
    assert not request_cancel(step.order, at=NOW + 10).news


@pytest.mark.rule("O15")
def test_what_is_under_way_goes_on_and_nothing_new_is_sent() -> None:
    """Units that wait end as cancelled; the one that is being sent keeps its answer."""
    order = cancelled(submitting(Numbers(), quantity=2))
    assert [p.state for p in order.purchases] == [PurchaseState.SUBMITTING, PurchaseState.DEAD]
    assert (order.state, order.version, sendable(order)) == (OrderState.ACCEPTED, 2, [])
    order = after(order, Delivered(cards=(card(1),)))
    assert (order.state, order.delivered_quantity) == (OrderState.PARTIALLY_FULFILLED, 1)
    assert order.failure is not None
    assert order.failure.reason is FailureReason.CANCELLED


@pytest.mark.rule("O15")
@pytest.mark.parametrize(
    "event",
    [
        NotSent(cause=NotSentCause.UNREACHABLE),
        NotSent(cause=NotSentCause.TOKEN_REFUSED),
        Refunded(),
        Refunded(amount=Money(980_000), cost=Money(980_000)),
        CancelConfirmed(refund=Money(980_000), detail="taken down"),
    ],
)
def test_what_proves_that_nothing_was_bought_ends_it_as_cancelled(event: Event) -> None:
    """Proven unsent, refunded, or taken down: dead without a failure, and no other offer is tried."""
    order = after(cancelled(submitting(Numbers(), offers=2)), event)
    assert (order.state, order.failure) == (OrderState.CANCELLED, None)
    assert [p.state for p in order.purchases] == [PurchaseState.DEAD]


@pytest.mark.rule("O15")
@pytest.mark.parametrize("may_resend", [True, False])
def test_proven_absence_ends_it_as_cancelled(may_resend: bool) -> None:
    """The number isn't sent again for an order that nobody wants."""
    order = after(cancelled(in_state(PurchaseState.UNKNOWN, Numbers())), AbsenceProven(may_resend=may_resend))
    assert (order.state, sendable(order)) == (OrderState.CANCELLED, [])


@pytest.mark.rule("O15")
def test_a_refusal_after_the_wish_tries_no_other_offer() -> None:
    """What the supplier refused has its own reason, and that is the end of it."""
    refused = Refused(code="1", message="sold out", certain=True, about=RefusedFor.STOCK)
    order = after(cancelled(submitting(Numbers(), offers=2)), refused)
    assert (order.state, len(order.purchases)) == (OrderState.FAILED, 1)


@pytest.mark.rule("O15")
def test_a_refused_unit_beside_cancelled_ones_is_a_cancelled_order() -> None:
    """Nothing was delivered, and the client wished it so."""
    numbers = Numbers()
    order = submitting(numbers, quantity=2)
    order = after(order, Refused(code="1", message="odd", certain=True, about=RefusedFor.OTHER))
    assert cancelled(order).state is OrderState.CANCELLED


@pytest.mark.rule("O15")
def test_a_delivery_after_the_wish_is_delivered() -> None:
    """The evidence decides, not the wish."""
    order = after(cancelled(in_state(PurchaseState.ACCEPTED, Numbers())), Delivered(cards=(card(1),)))
    assert (order.state, order.cancel_requested_at) == (OrderState.FULFILLED, NOW)


@pytest.mark.rule("O15")
def test_a_part_of_the_money_back_is_for_a_person() -> None:
    """Taken down, says the supplier, but it keeps some of the money."""
    order = after(in_state(PurchaseState.ACCEPTED, Numbers()), Accepted(supplier_reference="S1", cost=Money(980_000)))
    order = after(cancelled(order), CancelConfirmed(refund=Money(900_000)))
    assert (order.state, order.reviews) == (OrderState.NEEDS_REVIEW, (ReviewReason.PARTIAL_REFUND,))


@pytest.mark.rule("O15")
def test_an_acceptance_from_before_the_end_is_no_late_success() -> None:
    """A look that was under way when the supplier took the order down brings old news, and so does the answer to the
    purchase itself; a later look doesn't.
    """
    numbers = Numbers()
    order = after(cancelled(in_state(PurchaseState.ACCEPTED, numbers)), CancelConfirmed())
    taken = Accepted(supplier_reference="S1")
    old = advance(order, "N1", taken, around(numbers, NOW + 5, asked_at=NOW - 5))
    assert (old.news, old.alerts) == (False, ())
    late = advance(order, "N1", taken, around(numbers, NOW + 5, Source.PLACE))
    assert (late.news, late.alerts) == (False, ())
    fresh = advance(order, "N1", taken, around(numbers, NOW + 5, Source.QUERY, asked_at=NOW + 1))
    assert [alert.kind for alert in fresh.alerts] == [AlertKind.LATE_SUCCESS]
    assert (fresh.order.state, fresh.order.reviews) == (OrderState.CANCELLED, (ReviewReason.LATE_SUCCESS,))


@pytest.mark.rule("O15")
def test_a_supplier_is_asked_about_what_it_took_and_only_so_often() -> None:
    """Not before the wish, not about what isn't taken, not after an answer, and at most five times without one."""
    order = in_state(PurchaseState.ACCEPTED, Numbers())
    assert not may_ask_to_cancel(order, order.purchases[0])
    order = cancelled(order)
    assert may_ask_to_cancel(order, order.purchases[0])
    answered = note_cancel_answer(order, "N1", outcome="CancelRefused", detail="late", answered=True, at=NOW)
    assert not may_ask_to_cancel(answered, answered.purchases[0])
    for _ in range(5):
        assert may_ask_to_cancel(order, order.purchases[0])
        order = note_cancel_ask(order, "N1", at=NOW)
    assert not may_ask_to_cancel(order, order.purchases[0])
    for state in (PurchaseState.SUBMITTING, PurchaseState.UNKNOWN):
        other = cancelled(in_state(state, Numbers()))
        assert not may_ask_to_cancel(other, other.purchases[0])


@pytest.mark.rule("O15")
def test_a_purchase_whose_cards_were_handed_over_in_part_is_not_asked_about() -> None:
    """It couldn't end as cancelled."""
    order = submitting(Numbers(), quantity=2, max_units=2)
    order = cancelled(after(order, Delivered(cards=(card(1),), complete=False)))
    assert not may_ask_to_cancel(order, order.purchases[0])


@pytest.mark.rule("O15")
def test_the_second_top_up_of_a_cancelled_order_is_never_sent() -> None:
    """Purchases to one recipient go one after another: those behind end with the wish."""
    numbers = Numbers()
    order = new_order(numbers, kind=ProductKind.TOPUP, quantity=3)
    order = intend(order, order.purchases[0].number, owner="me", at=NOW)
    order = after(cancelled(order), Delivered())
    assert (order.state, order.delivered_quantity, sendable(order)) == (OrderState.PARTIALLY_FULFILLED, 1, [])
