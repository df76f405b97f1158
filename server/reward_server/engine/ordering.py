"""From what a client asks to an order that can be stored: the product's own rules, prices and offers. Pure."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from reward_adapters.contract import Recipient, RecipientKind
from reward_adapters.money import Money
from reward_server.catalogue import RECIPIENT_KEY, FormField, Product
from reward_server.domain import moves
from reward_server.domain.copies import replace
from reward_server.domain.order import LeftOut, LeftOutFor, Offer, Order
from reward_server.errors import InvalidRequest, PriceAboveLimit, ProductNotOrderable, Violation

MAX_SHOWN = 500
"""Characters of allowed values that an error lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """What a client asks for, its shape checked and defaults filled in."""

    client_id: str
    client_order_id: str
    product_id: str
    quantity: int
    recipient: Recipient | None
    max_unit_price: Money | None
    supplier_parameters: dict[str, str]
    metadata: dict[str, str]


class NotOrderable(StrEnum):
    """Why a product can't be ordered."""

    SUPPLIER_PAUSED = "supplier_paused"
    PRICE_ABOVE_LIMIT = "price_above_limit"


def differing_fields(order: Order, request: OrderRequest) -> list[str]:
    """The fields in which a request differs from the order that has its client_order_id."""
    return [name for name, value in order.content().items() if getattr(request, name) != value]


def check_against_product(request: OrderRequest, product: Product) -> None:
    """Raises InvalidRequest with everything that the product itself doesn't allow."""
    violations = [*_check_recipient(request.recipient, product.recipient_kind)]
    form = {field.key: field for field in product.form}
    for key in request.supplier_parameters:
        # What a supplier didn't tell yet can't be held against the client; the recipient isn't its to override.
        if key not in form and (product.form_complete or key == RECIPIENT_KEY):
            known = ", ".join(sorted(form)) or "none"
            violations.append(
                Violation(f"supplier_parameters[{key!r}]", f"not a field of this product's form; it has: {known}")
            )
    for field in product.form:
        violations.extend(_check_form_field(field, request.supplier_parameters.get(field.key)))
    if violations:
        raise InvalidRequest(violations)


def _check_recipient(recipient: Recipient | None, needed: RecipientKind) -> list[Violation]:
    if needed is RecipientKind.NONE:
        if recipient is None:
            return []
        return [Violation("recipient", "this product is delivered as a card and takes no recipient; leave it out")]
    if recipient is None:
        return [Violation(f"recipient.{needed}", "this product needs it")]
    if recipient.kind is not needed:
        return [Violation(f"recipient.{recipient.kind}", f"this product needs recipient.{needed} instead")]
    return []


def _check_form_field(field: FormField, value: str | None) -> list[Violation]:
    where = f"supplier_parameters[{field.key!r}]"
    if not value:
        return [Violation(where, f"this product needs it ({field.label})")] if field.required else []
    if field.options and value not in field.options:
        return [Violation(where, f"must be one of: {_some(field.options)}")]
    return []


def _some(options: Sequence[str]) -> str:
    """As many of the values as an error has room for: suppliers have lists of game zones with hundreds."""
    shown = list(itertools.takewhile(lambda total: total <= MAX_SHOWN, itertools.accumulate(map(len, options))))
    more = len(options) - len(shown)
    return ", ".join(options[: len(shown)]) + (f" and {more} more; GetProduct lists them all" if more else "")


def make_order(
    request: OrderRequest,
    product: Product,
    *,
    at: int,
    new_id: Callable[[], str],
    paused_for: Callable[[str], str],
    traceparent: str = "",
) -> Order:
    """The new order with its purchases at the first offer that can be used, and a note of every offer that can't.

    `paused_for` tells why a supplier account takes no purchases now, "" when it does. Raises ProductNotOrderable or
    PriceAboveLimit; nothing was stored then.
    """
    offers: list[Offer] = []
    left_out: list[LeftOut] = []
    for place, offer in enumerate(product.offers):
        limit = offer.max_unit_cost
        if request.max_unit_price is not None:
            limit = min(limit, request.max_unit_price)
        paused = paused_for(offer.account)
        if not paused and offer.unit_cost <= limit:
            offers.append(
                Offer(
                    account=offer.account,
                    supplier_product=offer.supplier_product,
                    unit_cost=offer.unit_cost,
                    unit_limit=limit,
                    max_units=offer.max_units_per_purchase,
                    parameters=dict(offer.parameters),
                )
            )
            continue
        left_out.append(
            LeftOut(
                place=place,
                account=offer.account,
                supplier_product=offer.supplier_product,
                unit_cost=offer.unit_cost,
                unit_limit=limit,
                reason=LeftOutFor.PAUSED if paused else LeftOutFor.PRICE_ABOVE_LIMIT,
                detail=paused,
            )
        )
    if not offers:
        raise _unusable(request, product, left_out)
    order = Order(
        client_id=request.client_id,
        order_id=new_id(),
        client_order_id=request.client_order_id,
        product_id=product.product_id,
        product_kind=product.kind,
        quantity=request.quantity,
        recipient=request.recipient,
        max_unit_price=request.max_unit_price,
        supplier_parameters=request.supplier_parameters,
        metadata=request.metadata,
        offers=tuple(offers),
        left_out=tuple(left_out),
        created_at=at,
        updated_at=at,
        traceparent=traceparent,
    )
    return replace(order, purchases=moves.plan(order, 0, range(request.quantity), new_id))


def _unusable(
    request: OrderRequest, product: Product, left_out: Sequence[LeftOut]
) -> ProductNotOrderable | PriceAboveLimit:
    """Why none of a product's offers can be used."""
    too_dear = [offer for offer in left_out if offer.reason is LeftOutFor.PRICE_ABOVE_LIMIT]
    if not too_dear:
        return ProductNotOrderable(product.product_id, "every supplier account that offers it is paused; try later")
    cheapest = min(too_dear, key=lambda offer: offer.unit_cost)
    limit = product.offers[cheapest.place].max_unit_cost if request.max_unit_price is None else request.max_unit_price
    return PriceAboveLimit(product.product_id, cheapest.unit_cost, limit)
