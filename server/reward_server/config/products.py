"""`[[products]]` and their offers."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from reward_adapters.contract import ProductKind, RecipientKind
from reward_adapters.money import Money, yuan
from reward_server.catalogue import FormField, Product, ProductOffer
from reward_server.config.accounts import AccountSettings
from reward_server.config.problems import Path, suggestion, unusable
from reward_server.config.sections import Section
from reward_server.config.sources import Sources

S = TypeVar("S", bound=Section)

PRODUCT_ID = r"^[A-Za-z0-9._/-]{1,64}$"


def _money(value: Any) -> Money:
    if isinstance(value, float | int):
        raise unusable("an amount without quotes", 'write yuan in quotes, as in "98.50"')
    try:
        money = yuan(value) if isinstance(value, str) else Money(-1)
    except ValueError:
        money = Money(-1)
    if money <= 0:
        raise unusable("not an amount", 'write yuan with up to 4 decimals, as in "98.50"')
    return money


Yuan = Annotated[int, BeforeValidator(_money)]


class FormEntry(Section):
    """One field of a product's form."""

    key: str = Field(pattern=r"^[A-Za-z0-9_]{1,40}$")
    label: str = Field(min_length=1, max_length=100)
    required: bool = True
    options: tuple[str, ...] = ()


class OfferEntry(Section):
    """One `[[products.offers]]` entry."""

    supplier: str
    supplier_product: str = Field(min_length=1, max_length=100)
    unit_cost: Yuan
    max_unit_cost: Yuan | None = None
    max_units_per_purchase: int | None = Field(None, ge=1, le=100)
    allow_unguarded: bool = False
    parameters: dict[str, str] = Field(default_factory=dict)


class ProductEntry(Section):
    """One `[[products]]` entry."""

    id: str = Field(pattern=PRODUCT_ID)
    kind: ProductKind
    name: str = Field(min_length=1, max_length=200)
    face_value: Yuan
    recipient: RecipientKind | None = None
    form: tuple[FormEntry, ...] = ()
    offers: tuple[OfferEntry, ...] = ()


def read_products(sources: Sources, accounts: Mapping[str, AccountSettings]) -> tuple[Product, ...]:
    """All products that can be used; problems with the others are added to the list."""
    problems = sources.problems
    entries = sources.values.get("products", [])
    if not isinstance(entries, list):
        problems.add(("products",), "not a list", "write [[products]] with double brackets")
        return ()
    suppliers = sources.values.get("suppliers", {})
    known = frozenset(suppliers) if isinstance(suppliers, dict) else frozenset()
    products: dict[str, Product] = {}
    for index, raw in enumerate(entries):
        path: Path = ("products", index)
        product, raw_offers = _split(raw)
        offers = [_read(sources, (*path, "offers", at), OfferEntry, offer) for at, offer in enumerate(raw_offers)]
        entry = _read(sources, path, ProductEntry, product)
        for at, offer in enumerate(offers):
            if offer is not None:
                account = accounts.get(offer.supplier)
                _check_offer(sources, (*path, "offers", at), entry, offer, account=account, known=known)
        if entry is None:
            continue
        if entry.id in products:
            problems.add((*path, "id"), f"a second product {entry.id!r}", "ids are unique")
        if not raw_offers:
            problems.add((*path, "offers"), "no offer", "add [[products.offers]] with a supplier")
        products[entry.id] = _product(entry, [offer for offer in offers if offer is not None], accounts)
    return tuple(products.values())


def _split(raw: Any) -> tuple[Any, list[Any]]:
    """The offers apart, so that a fault in one hides none in another."""
    offers = raw.get("offers", []) if isinstance(raw, dict) else []
    return ({**raw, "offers": []}, offers) if isinstance(raw, dict) and isinstance(offers, list) else (raw, [])


def _read(sources: Sources, path: Path, model: type[S], raw: Any) -> S | None:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        sources.problems.add_invalid(path, error, PRODUCT_KEYS)
        return None


PRODUCT_KEYS = sorted({*ProductEntry.model_fields, *OfferEntry.model_fields, *FormEntry.model_fields})


def _check_offer(
    sources: Sources,
    path: Path,
    product: ProductEntry | None,
    offer: OfferEntry,
    *,
    account: AccountSettings | None,
    known: frozenset[str],
) -> None:
    problems = sources.problems
    if offer.max_unit_cost is not None and offer.max_unit_cost < offer.unit_cost:
        problems.add((*path, "max_unit_cost"), "less than unit_cost", "no purchase could be made")
    if offer.supplier not in known:
        problems.add((*path, "supplier"), f"unknown supplier {offer.supplier!r}", suggestion(offer.supplier, known))
    if account is None:
        return
    if product is not None and product.kind not in account.traits.send_by:
        kinds = ", ".join(sorted(account.traits.send_by))
        problems.add((*path, "supplier"), f"{account.adapter} doesn't sell the kind {product.kind!r}", f"only: {kinds}")
    if not account.traits.price_guard and not offer.allow_unguarded:
        what = f"{account.adapter} has no price guard: a purchase may cost more than max_unit_cost"
        problems.add((*path, "supplier"), what, "set allow_unguarded = true in this offer to accept that")


def _product(entry: ProductEntry, offers: Sequence[OfferEntry], accounts: Mapping[str, AccountSettings]) -> Product:
    return Product(
        product_id=entry.id,
        kind=entry.kind,
        name=entry.name,
        face_value=Money(entry.face_value),
        recipient_kind=entry.recipient or default_recipient(entry.kind),
        form=tuple(
            FormField(key=field.key, label=field.label, required=field.required, options=field.options)
            for field in entry.form
        ),
        offers=tuple(_offer(offer, accounts.get(offer.supplier)) for offer in offers),
    )


def default_recipient(kind: ProductKind) -> RecipientKind:
    """The recipient of a product that names none."""
    return RecipientKind.NONE if kind.delivers_cards else RecipientKind.PHONE


def _offer(entry: OfferEntry, account: AccountSettings | None) -> ProductOffer:
    default_units = account.traits.max_units_per_purchase if account else 1
    return ProductOffer(
        account=entry.supplier,
        supplier_product=entry.supplier_product,
        unit_cost=Money(entry.unit_cost),
        max_unit_cost=Money(entry.unit_cost if entry.max_unit_cost is None else entry.max_unit_cost),
        max_units_per_purchase=entry.max_units_per_purchase or default_units,
        parameters=entry.parameters,
    )
