"""What the supplier told by itself, or told too late, is never forgotten: regressions of a review."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from reward_adapters.contract import (
    Accepted,
    AfterSale,
    Delivered,
    Doubt,
    NotSent,
    NotSentCause,
    Refunded,
    Refused,
    RefusedFor,
    Unclear,
)
from reward_adapters.money import Money
from reward_server.domain import moves
from reward_server.domain.moves import AlertKind, advance
from reward_server.domain.order import FailureReason, OrderState, PurchaseState, ReviewReason, Source

from .test_moves import NOW, Numbers, around, card, submitting

NO_STOCK = Refused(code="1", message="no stock", certain=True, about=RefusedFor.STOCK)


@pytest.mark.parametrize("waits", [True, False], ids=["answered in time", "answered after the time-out"])
@pytest.mark.rule("P8")
def test_a_refusal_after_the_callback_of_a_success_is_for_a_person(waits: bool) -> None:
    """The card was bought, says the callback: neither dead nor bought again at the next offer."""
    numbers = Numbers()
    order = submitting(numbers, offers=2)
    if not waits:
        order = advance(order, "N1", Unclear("no answer within 1 s"), around(numbers, ended=False)).order
    called = advance(order, "N1", Delivered(), around(numbers, source=Source.CALLBACK, ended=False))
    assert called.news
    step = advance(called.order, "N1", NO_STOCK, around(numbers))
    assert len(step.order.purchases) == 1
    assert step.order.purchases[0].state in (PurchaseState.UNKNOWN, PurchaseState.ACCEPTED)
    assert step.order.reviews == (ReviewReason.CONTRADICTION,)
    assert step.order.state is OrderState.NEEDS_REVIEW


@pytest.mark.rule("P8", "P6")
def test_a_purchase_the_supplier_called_back_about_is_not_sent_again_but_asked_after() -> None:
    """Whatever the answer to the request itself says; so neither a cancel nor a deadline ends it unlooked-at."""
    too_many = NotSent(cause=NotSentCause.RATE_LIMITED)
    before = moves.note_callback(submitting(Numbers()), "N1", at=NOW)
    before = advance(before, "N1", too_many, around(Numbers())).order
    after = advance(submitting(Numbers()), "N1", too_many, around(Numbers())).order
    after = moves.note_callback(after, "N1", at=NOW)
    for order in (before, after):
        assert order.purchases[0].state is PurchaseState.UNKNOWN
        assert order.purchases[0].written_until > 0
        assert order.state is OrderState.OUTCOME_UNKNOWN
        assert moves.request_cancel(order, at=NOW).order.state is OrderState.OUTCOME_UNKNOWN


@pytest.mark.rule("P7")
def test_money_that_did_not_come_back_buys_nothing_new() -> None:
    """Zero of zero is no full refund, whatever the shop calls the order worth."""
    nothing = Refunded(amount=Money(0), cost=Money(0))
    numbers = Numbers()
    order = advance(submitting(numbers, offers=2), "N1", Accepted(cost=Money(985_000)), around(numbers)).order
    step = advance(order, "N1", nothing, around(numbers, source=Source.QUERY))
    assert (step.order.state, step.order.reviews) == (OrderState.NEEDS_REVIEW, (ReviewReason.PARTIAL_REFUND,))
    numbers = Numbers()
    step = advance(submitting(numbers, offers=2), "N1", nothing, around(numbers, source=Source.QUERY))
    assert len(step.order.purchases) == 1
    assert step.order.failure is not None
    assert step.order.failure.reason is FailureReason.REFUNDED


def test_a_part_paid_back_after_the_delivery_takes_no_card_back() -> None:
    """Which of the cards it was for isn't said: a person looks, and they are watched on."""
    numbers = Numbers()
    cards = (card(1), card(2))
    order = submitting(numbers, quantity=2, max_units=2)
    order = advance(order, "N1", Delivered(cards=cards, cost=Money(1_960_000)), around(numbers, watch_ms=1_000)).order
    half = Refunded(amount=Money(980_000), cost=Money(1_960_000))
    step = advance(order, "N1", half, around(numbers, source=Source.QUERY, watch_ms=1_000))
    assert step.order.reviews == (ReviewReason.PARTIAL_REFUND,)
    assert (step.order.after_sale, step.order.settled_at) == (None, 0)
    assert step.order.state is OrderState.FULFILLED
    again = advance(step.order, "N1", half, around(numbers, source=Source.QUERY, watch_ms=1_000))
    assert (again.visible, again.alerts) == (False, ())


@pytest.mark.rule("O4")
def test_an_unreadable_answer_to_a_purchase_given_up_as_dead_is_for_a_person() -> None:
    """A paid card may be in it."""
    numbers = Numbers()
    dead = advance(submitting(numbers), "N1", NO_STOCK, around(numbers)).order
    late = Unclear("the cards aren't readable", Doubt.CARD_MISSING)
    step = advance(dead, "N1", late, around(numbers))
    assert [alert.kind for alert in step.alerts] == [AlertKind.LATE_SUCCESS]
    assert (step.order.state, step.order.reviews) == (OrderState.FAILED, (ReviewReason.LATE_SUCCESS,))
    assert not advance(step.order, "N1", late, around(numbers)).news
    assert not advance(dead, "N1", Unclear("a look"), around(numbers, source=Source.QUERY)).news


def test_a_warranty_without_end_is_not_watched_without_end() -> None:
    """The supplier's date is wrong."""
    numbers = Numbers()
    endless = replace(card(1), warranty_until=datetime(2999, 1, 1, tzinfo=UTC), after_sale=AfterSale.WARRANTY)
    step = advance(submitting(numbers), "N1", Delivered(cards=(endless,)), around(numbers, watch_ms=5_000))
    assert step.order.purchases[0].watch_until == NOW + 5_000
