"""What can be ordered: products and the offers to buy them, as configured, with the forms that suppliers ask for."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reward_adapters.contract import FormEntry, ProductKind, RecipientKind
from reward_adapters.money import Money

RECIPIENT_KEY = "recharge_account"
"""The entry of a supplier's form that the order's recipient fills in."""

MAX_KEY = 64
MAX_OPTION = 256
"""Characters that clients may give, see `CreateOrderRequest.supplier_parameters`."""
MAX_LABEL = 200


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
    form_complete: bool = True
    """Whether `form` is all that may be filled in: not while a supplier still has to say what it asks for."""
    offers: tuple[ProductOffer, ...]
    """In the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class FormSource:
    """Whose form it is: an account and its product number."""

    account: str
    supplier_product: str


class Catalogue:
    """All products by id."""

    def __init__(self, products: Iterable[Product]) -> None:
        self._configured = {product.product_id: product for product in sorted(products, key=lambda p: p.product_id)}
        self._products = dict(self._configured)
        self._users: dict[FormSource, list[Product]] = defaultdict(list)
        for product in self._configured.values():
            for source in dict.fromkeys(_sources(product)):
                self._users[source].append(product)
        self._forms: dict[FormSource, tuple[FormEntry, ...] | None] = {}

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

    # --- The suppliers' forms

    def expect_forms(self, account: str) -> list[FormSource]:
        """The account's supplier tells what it asks for with products that aren't cards; returns whose it has to tell.

        Until `learn_form` the form of such a product isn't complete.
        """
        found = [source for source in self._users if source.account == account]
        for source in found:
            self._forms.setdefault(source, None)
            self._complete(source)
        return found

    def learn_form(self, source: FormSource, entries: Sequence[FormEntry]) -> bool:
        """The supplier said what it asks for; tells whether that is news."""
        entries = tuple(entries)
        if self._forms.get(source) == entries:
            return False
        self._forms[source] = entries
        self._complete(source)
        return True

    def _complete(self, source: FormSource) -> None:
        """Makes the products anew that can be bought there."""
        for product in self._users[source]:
            forms = [self._forms.get(each, ()) for each in _sources(product)]
            self._products[product.product_id] = _with_forms(product, forms)


def _sources(product: Product) -> list[FormSource]:
    if product.kind.delivers_cards:
        return []
    return [FormSource(offer.account, offer.supplier_product) for offer in product.offers]


def _with_forms(product: Product, forms: Sequence[tuple[FormEntry, ...] | None]) -> Product:
    """The product with what its suppliers ask for behind the configured fields.

    A field that any of them requires is required, so that each offer can be tried. Of a field that is configured too,
    the configured words and values count.
    """
    fields = {field.key: field for field in product.form}
    for entry in (entry for form in forms for entry in form or ()):
        if entry.key == RECIPIENT_KEY or not _is_text(entry.key, MAX_KEY):
            continue
        label = entry.label[:MAX_LABEL] if _is_text(entry.label[:MAX_LABEL], MAX_LABEL) else entry.key
        options = tuple(option for option in entry.options if _is_text(option, MAX_OPTION))
        asked = FormField(key=entry.key, label=label, required=False, options=options)
        known = fields.get(entry.key, asked)
        required = known.required or entry.required
        fields[entry.key] = replace(known, required=required, options=known.options or options)
    return replace(product, form=tuple(fields.values()), form_complete=None not in forms)


def _is_text(text: str, longest: int) -> bool:
    """Whether clients can be shown it and give it back: what no message can hold isn't asked for."""
    return 0 < len(text) <= longest and not any("\ud800" <= c <= "\udfff" for c in text)
