"""The judge of money itself: what it says when costs and books differ."""

from typing import Any

import pytest
from google.type.money_pb2 import Money

from rewardservice.v1 import order_pb2

from .money import differences

DELIVERED, DEAD = order_pb2.PURCHASE_STATE_DELIVERED, order_pb2.PURCHASE_STATE_DEAD


def entry(number: str, charged: str, refunded: str = "0.00") -> dict[str, Any]:
    return {"number": number, "charged": charged, "refunded": refunded}


def purchase(number: str, state: order_pb2.PurchaseState.ValueType, cost: int | None = None) -> order_pb2.Purchase:
    money = None if cost is None else Money(currency_code="CNY", units=cost)
    return order_pb2.Purchase(number=number, supplier="kasushou", state=state, cost=money)


def order(*purchases: order_pb2.Purchase, total: int | None = None, **fields: Any) -> order_pb2.Order:
    money = None if total is None else Money(currency_code="CNY", units=total)
    return order_pb2.Order(purchases=purchases, total_cost=money, **fields)


BOUGHT = purchase("N1", DELIVERED, 5)
BOOKED = entry("N1", "5.00")


def test_an_order_that_says_what_was_charged_is_right() -> None:
    """A dead purchase that was paid back in full cost nothing; other orders' bookings don't count."""
    refunded = purchase("N2", DEAD, 5)
    books = [BOOKED, entry("N2", "5.00", "5.00"), entry("N9", "7.00")]
    assert differences(order(BOUGHT, refunded, total=5), books) == []


@pytest.mark.parametrize(
    ("told", "books"),
    [
        (order(BOUGHT, total=5), [entry("N1", "6.00")]),
        (order(BOUGHT, total=5), [BOOKED, BOOKED]),
        (order(BOUGHT, total=6), [BOOKED]),
        (order(BOUGHT), [BOOKED]),
        (order(purchase("N1", DELIVERED)), [BOOKED]),
        (order(purchase("N1", DEAD)), [entry("N1", "5.00", "4.00")]),
        (order(BOUGHT, purchase("N2", DEAD, 5), total=5), [BOOKED]),
        (order(BOUGHT, total=5, review_reasons=[order_pb2.REVIEW_REASON_OVERCHARGED]), [entry("N1", "6.00")]),
    ],
)
def test_what_differs_is_named(told: order_pb2.Order, books: list[dict[str, Any]]) -> None:
    """Per purchase and in all; an overcharge is no excuse for a wrong sum."""
    assert differences(told, books)


def test_what_a_person_has_to_look_at_is_excused() -> None:
    """It is said that something is wrong."""
    told = order(BOUGHT, total=5, review_reasons=[order_pb2.REVIEW_REASON_CONTRADICTION])
    assert differences(told, [BOOKED, BOOKED]) == []
