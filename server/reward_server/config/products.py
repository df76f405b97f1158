"""`[[products]]` and their offers."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from reward_adapters.contract import (
    Context,
    ProductKind,
    Purchase,
    Recipient,
    RecipientKind,
    Refused,
    RefusedFor,
)
from reward_adapters.money import Money, yuan
from reward_server.catalogue import FormField, Product, ProductOffer
from reward_server.config.accounts import Seller
from reward_server.config.problems import Path, suggestion, unusable
from reward_server.config.sections import Entry, S, Section, read_entry, spelled
from reward_server.config.sources import Sources


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

    key: Annotated[str, spelled(r"[A-Za-z0-9_]{1,40}", "write 1 to 40 of A-Z a-z 0-9 _")]
    """Name of the field in `supplier_parameters`."""
    label: str = Field(min_length=1, max_length=100)
    """For people."""
    required: bool = True
    """Whether it has to be filled in."""
    options: tuple[str, ...] = ()
    """The allowed values; empty: any text."""


class OfferEntry(Section):
    """One `[[products.offers]]` entry."""

    supplier: str
    """Name of a supplier account."""
    supplier_product: str = Field(min_length=1, max_length=100)
    """The supplier's number of it, in quotes."""
    unit_cost: Yuan
    """What one unit costs, all-in: quoted yuan with up to 4 decimals."""
    max_unit_cost: Yuan | None = None
    """The most that one unit may cost; unless set `unit_cost`."""
    max_units_per_purchase: int | None = Field(None, ge=1, le=100)
    """How many units one request may buy; unless set as the adapter says."""
    allow_unguarded: bool = False
    """Needed where the supplier has no price guard (Kuaiduibao): the price may exceed `max_unit_cost`."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """What the adapter needs for this product, as in { card_type = "1" }; texts."""


class ProductEntry(Section):
    """One `[[products]]` entry."""

    id: Annotated[str, spelled(r"[A-Za-z0-9._/-]{1,64}", "write 1 to 64 of A-Z a-z 0-9 . _ / -")]
    """1 to 64 of A-Z a-z 0-9 . _ / -; unique."""
    kind: ProductKind
    """card, coupon, topup, membership."""
    name: str = Field(min_length=1, max_length=200)
    """For people."""
    face_value: Yuan
    """What it is worth to the one who gets it: quoted yuan."""
    recipient: RecipientKind | None = None
    """none, phone, qq, account; unless set by kind: none for cards and coupons, else phone."""
    form: tuple[FormEntry, ...] = ()
    """What clients fill in beyond the recipient."""
    offers: tuple[OfferEntry, ...] = ()
    """Where it is bought, tried in this order; at least one."""


OFFER_STAND_INS: dict[str, Any] = {"supplier": "x", "supplier_product": "1", "unit_cost": "1"}
PRODUCT_STAND_INS: dict[str, Any] = {"id": "x", "kind": "card", "name": "x", "face_value": "1"}


def read_products(sources: Sources, sellers: Mapping[str, Seller]) -> tuple[Product, ...]:
    """All products; they can be used when no problem was added to the list."""
    problems = sources.problems
    entries = sources.values.get("products", [])
    if not isinstance(entries, list):
        problems.add(("products",), "not a list", "write [[products]] with double brackets")
        return ()
    products: dict[str, Product] = {}
    for index, raw in enumerate(entries):
        path: Path = ("products", index)
        bare, raw_offers = _split(raw)
        product = _read(sources, path, ProductEntry, bare, PRODUCT_STAND_INS)
        offers = []
        for at, raw_offer in enumerate(raw_offers):
            offer_path = (*path, "offers", at)
            offer = _read(sources, offer_path, OfferEntry, raw_offer, OFFER_STAND_INS)
            if offer is not None:
                _check_offer(sources, offer_path, product, offer, sellers)
                offers.append(offer.values)
        if product is None:
            continue
        entry = product.values
        if product.knows("id") and entry.id in products:
            problems.add((*path, "id"), f"a second product {entry.id!r}", "ids are unique")
        if product.knows("offers") and not raw_offers:
            problems.add((*path, "offers"), "no offer", "add [[products.offers]] with a supplier")
        if product.knows("id"):
            products[entry.id] = _product(entry, tuple(_offer(o, sellers.get(o.supplier)) for o in offers))
    return tuple(products.values())


def _split(raw: Any) -> tuple[Any, list[Any]]:
    """The offers apart, so that a fault in one hides none in another."""
    offers = raw.get("offers", []) if isinstance(raw, dict) else []
    return ({**raw, "offers": []}, offers) if isinstance(raw, dict) and isinstance(offers, list) else (raw, [])


def _read(sources: Sources, path: Path, model: type[S], raw: Any, stand_ins: dict[str, Any]) -> Entry[S] | None:
    return read_entry(model, raw, stand_ins, partial(sources.problems.add_invalid, path, known=PRODUCT_KEYS))


PRODUCT_KEYS = sorted({*ProductEntry.model_fields, *OfferEntry.model_fields, *FormEntry.model_fields})


def _check_offer(
    sources: Sources,
    path: Path,
    product: Entry[ProductEntry] | None,
    entry: Entry[OfferEntry],
    sellers: Mapping[str, Seller],
) -> None:
    problems, offer = sources.problems, entry.values
    limit = offer.unit_cost if offer.max_unit_cost is None else offer.max_unit_cost
    if limit < offer.unit_cost and entry.knows("unit_cost", "max_unit_cost"):
        problems.add((*path, "max_unit_cost"), "less than unit_cost", "no purchase could be made")
    if not entry.knows("supplier"):
        return
    suppliers = sources.values.get("suppliers", {})
    known = suppliers if isinstance(suppliers, dict) else {}
    if offer.supplier not in known:
        problems.add((*path, "supplier"), f"unknown supplier {offer.supplier!r}", suggestion(offer.supplier, known))
    seller = sellers.get(offer.supplier)
    if seller is None:
        return
    traits = seller.supplier.traits
    if product is not None and product.knows("kind") and product.values.kind not in traits.send_by:
        what = f"{seller.adapter} doesn't sell the kind {str(product.values.kind)!r}"
        problems.add((*path, "supplier"), what, f"only: {', '.join(sorted(traits.send_by))}")
    elif product is not None and not product.wrong and entry.knows("supplier_product", "unit_cost", "parameters"):
        refusal = _refusal(product.values, offer, seller)
        if refusal is not None:
            problems.add(path, f"{seller.adapter} can't buy this: {refusal}", "mend supplier_product or parameters")
    if not traits.price_guard and entry.knows("allow_unguarded") and not offer.allow_unguarded:
        what = f"{seller.adapter} has no price guard: a purchase may cost more than max_unit_cost"
        problems.add((*path, "supplier"), what, "set allow_unguarded = true in this offer to accept that")


_SAMPLE_VALUES = {RecipientKind.PHONE: "13800000000", RecipientKind.QQ: "10001", RecipientKind.ACCOUNT: "10001"}


def _refusal(product: ProductEntry, offer: OfferEntry, seller: Seller) -> str | None:
    """Why the adapter could build no request for the offer, whoever orders; None when it can. Nothing is sent."""
    kind = product.recipient or default_recipient(product.kind)
    recipient = Recipient(kind, _SAMPLE_VALUES[kind], "+86") if kind in _SAMPLE_VALUES else None
    purchase = Purchase(
        number="0" * 26,
        product_kind=product.kind,
        supplier_product=offer.supplier_product,
        quantity=1,
        recipient=recipient,
        unit_cost=Money(offer.unit_cost),
        unit_limit=Money(offer.unit_cost if offer.max_unit_cost is None else offer.max_unit_cost),
        parameters=offer.parameters,
        form={field.key: next(iter(field.options), "1") for field in product.form},
    )
    try:
        built = seller.supplier.place(purchase, Context(datetime.now(UTC), "token"))
    except Exception:
        # A defect of the adapter, which the engine survives; no fault of the configuration.
        return None
    return built.message if isinstance(built, Refused) and built.about is RefusedFor.PRODUCT else None


def _product(entry: ProductEntry, offers: tuple[ProductOffer, ...]) -> Product:
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
        offers=offers,
    )


def default_recipient(kind: ProductKind) -> RecipientKind:
    """The recipient of a product that names none."""
    return RecipientKind.NONE if kind.delivers_cards else RecipientKind.PHONE


def _offer(entry: OfferEntry, seller: Seller | None) -> ProductOffer:
    default_units = seller.supplier.traits.max_units_per_purchase if seller else 1
    return ProductOffer(
        account=entry.supplier,
        supplier_product=entry.supplier_product,
        unit_cost=Money(entry.unit_cost),
        max_unit_cost=Money(entry.unit_cost if entry.max_unit_cost is None else entry.max_unit_cost),
        max_units_per_purchase=entry.max_units_per_purchase or default_units,
        parameters=entry.parameters,
    )
