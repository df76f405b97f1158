"""Orders to store."""

import itertools
from dataclasses import replace
from typing import Any

from reward_adapters.contract import ProductKind, Recipient, RecipientKind
from reward_adapters.money import Money
from reward_server.domain.ids import IdSource
from reward_server.domain.order import Offer, Order, OrderState, PurchaseRecord, PurchaseState
from reward_server.store import Change

START = 1_780_000_000_000
"""The time of the first order, milliseconds."""

_times = itertools.count(START)
new_id = IdSource(_times.__next__)


def an_order(client_id: str = "shop", **fields: Any) -> Order:
    """A new order of one unit, bought from account `kss_a`, whose purchase is about to be sent."""
    order_id = new_id()
    offers = tuple(
        Offer(
            account=account,
            supplier_product="2909",
            unit_cost=Money(985_000),
            unit_limit=Money(990_000),
            max_units=1,
            parameters={"goods_type": "1"},
        )
        for account in ("kss_a", "kdb_b")
    )
    purchase = PurchaseRecord(number=new_id(), offer=0, first_unit=0, quantity=1, state=PurchaseState.SUBMITTING)
    order = Order(
        client_id=client_id,
        order_id=order_id,
        client_order_id=f"co-{order_id}",
        product_id="jd-100",
        product_kind=ProductKind.CARD,
        quantity=1,
        recipient=Recipient(RecipientKind.PHONE, "13800138000", "+86"),
        max_unit_price=None,
        supplier_parameters={},
        metadata={"campaign": "spring"},
        offers=offers,
        created_at=START,
        purchases=(purchase,),
        state=OrderState.PROCESSING,
        updated_at=START,
    )
    return replace(order, **fields)


def moved(order: Order, state: PurchaseState, order_state: OrderState, **change: Any) -> Change:
    """A visible change: the order's first purchase and the order itself move to these states."""
    purchase = replace(order.purchases[0], state=state, settled_at=START if state is PurchaseState.DELIVERED else 0)
    after = replace(
        order.with_purchase(purchase), state=order_state, version=order.version + 1, revision=order.revision + 1
    )
    return Change(order=after, visible=True, **change)


def delivered(order: Order, **change: Any) -> Change:
    """The change that delivers and settles an order."""
    return moved(order, PurchaseState.DELIVERED, OrderState.FULFILLED, **change)


def touched(order: Order) -> Change:
    """A change that the client doesn't see."""
    return Change(order=replace(order, revision=order.revision + 1), visible=False)
