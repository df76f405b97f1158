"""What an adapter is told about a purchase."""

from reward_adapters.contract import Purchase
from reward_server.domain.order import Order
from reward_server.engine.account import Account


def facts(order: Order, number: str, account: Account) -> Purchase:
    """The facts of one purchase for its adapter."""
    record = order.purchase(number)
    offer = order.offers[record.offer]
    return Purchase(
        number=record.number,
        product_kind=order.product_kind,
        supplier_product=offer.supplier_product,
        quantity=record.quantity,
        recipient=order.recipient,
        unit_cost=offer.unit_cost,
        unit_limit=offer.unit_limit,
        parameters=offer.parameters,
        form=order.supplier_parameters,
        supplier_reference=record.supplier_reference,
        sends=max(record.sends, 1),
        notify_url=account.plan.notify_url,
    )
