"""What can be ordered: products and the offers to buy them, as configured."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from reward_adapters.contract import ProductKind, RecipientKind
from reward_adapters.money import Money


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductOffer:
    """One way to buy a product."""

    account: str
    """Name of the supplier account."""
    supplier_product: str
    unit_cost: Money
    """What one unit costs, all-in."""
    max_unit_cost: Money
    """The most one unit may cost, all-in."""
    max_units_per_purchase: int
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormField:
    """One field of a product's form."""

    key: str
    label: str
    required: bool = True
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Something that can be ordered."""

    product_id: str
    kind: ProductKind
    name: str
    face_value: Money
    recipient_kind: RecipientKind
    form: tuple[FormField, ...] = ()
    offers: tuple[ProductOffer, ...]
    """In the order in which they are tried."""


class Catalogue:
    """All products by id."""

    def __init__(self, products: Iterable[Product]) -> None:
        self._products = {product.product_id: product for product in sorted(products, key=lambda p: p.product_id)}

    def get(self, product_id: str) -> Product | None:
        """The product of that id."""
        return self._products.get(product_id)

    def page(self, after: str, limit: int, kind: ProductKind | None = None) -> list[Product]:
        """At most `limit` products with an id above `after`, by id."""
        return [
            product
            for product_id, product in self._products.items()
            if product_id > after and kind in (None, product.kind)
        ][:limit]
