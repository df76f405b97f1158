"""Compares what an order says it cost with what the suppliers charged and paid back, by purchase and in all."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from google.type.money_pb2 import Money

from rewardservice.v1 import order_pb2

TELLS_PRICES = frozenset({"kaquan91_card", "kaquan91_recharge", "kasushou"})
"""Suppliers that name the price of everything they deliver. Dushu names it in looks, Kuaiduibao nowhere."""

NO_EXCUSE = frozenset(
    {
        order_pb2.REVIEW_REASON_OVERCHARGED,
        order_pb2.REVIEW_REASON_DISPUTED,
        order_pb2.REVIEW_REASON_REVERSED,
    }
)
"""Things for a person that leave what was charged beyond doubt; with any other a person finds out about the money."""


def yuan(money: Money) -> Decimal:
    """As a number."""
    return Decimal(money.units) + Decimal(money.nanos) / 1_000_000_000


def differences(explained: order_pb2.Order, entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where an order's costs aren't what the books say; `entries` are the suppliers' books, of other orders as well.

    Of a delivered purchase the cost is what was charged; a dead one cost nothing in the end. An order that says what it
    cost says the sum. What a person has to look at is excused, but only as long as it is open.
    """
    entries = list(entries)
    wrong: list[str] = []
    known: list[Decimal] = []
    paid = Decimal(0)
    for purchase in explained.purchases:
        booked = [entry for entry in entries if entry["number"] == purchase.number]
        charged = sum((Decimal(entry["charged"]) for entry in booked), Decimal(0))
        back = sum((Decimal(entry["refunded"]) for entry in booked), Decimal(0))
        cost = yuan(purchase.cost) if purchase.HasField("cost") else None
        name = f"{purchase.number} at {purchase.supplier}"
        if purchase.state == order_pb2.PURCHASE_STATE_DELIVERED:
            paid += charged
            known.extend([] if cost is None else [cost])
            if cost is None and purchase.supplier in TELLS_PRICES:
                wrong.append(f"{name} is delivered for {charged}, and doesn't say so")
        if purchase.state == order_pb2.PURCHASE_STATE_DEAD and charged != back:
            wrong.append(f"{name} is dead, and {charged - back} was paid for it")
        if cost is not None and cost != charged:
            wrong.append(f"{name} says {cost}, charged was {charged}")
    total = yuan(explained.total_cost) if explained.HasField("total_cost") else None
    if total != (sum(known) if known else None):
        wrong.append(f"the order says {total}, its purchases {known}")
    if len(known) == sum(p.state == order_pb2.PURCHASE_STATE_DELIVERED for p in explained.purchases) and known:
        wrong.extend([f"the order says {total}, charged was {paid}"] if total != paid else [])
    return [] if set(explained.review_reasons) - NO_EXCUSE else wrong
