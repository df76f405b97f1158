"""Between the program's words and protobuf's. Nothing else in the server makes or reads a message."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from google.protobuf import timestamp_pb2
from google.type import date_pb2, money_pb2

from reward_adapters.contract import AfterSale, Card, CardKind, ProductKind, Recipient, RecipientKind
from reward_adapters.money import UNITS_PER_YUAN, Money
from reward_server.catalogue import FormField, Product
from reward_server.domain.choosing import Choice, OfferUse, choices
from reward_server.domain.order import (
    EVIDENCE_LIMIT,
    Attempt,
    Evidence,
    Failure,
    FailureReason,
    Order,
    OrderState,
    PurchaseRecord,
    PurchaseState,
    ReviewItem,
    ReviewReason,
)
from reward_server.engine.ordering import NotOrderable
from reward_server.engine.outlook import Outlook
from reward_server.hub import Cards, ClosedCard, ErasedCard
from reward_server.outline import outline
from reward_server.store import KeptAnswer
from rewardservice.v1 import catalog_service_pb2 as catalog_pb
from rewardservice.v1 import order_pb2 as pb
from rewardservice.v1 import reward_service_pb2 as reward_pb

CURRENCY = "CNY"
NANOS_PER_UNIT = 100_000
"""Billionths of a yuan in the 1/10,000 yuan that the program counts in."""
UNKNOWN = Outlook()
"""Of a purchase that nobody here waits for."""
MASK = "****"
"""Of one length, whatever it hides."""
SHOWN_CHARACTERS = 4
SHOWN_FROM_LENGTH = 8
"""Of shorter numbers, four characters would be too much to show."""

K = TypeVar("K", bound=StrEnum)
V = TypeVar("V", bound=int)


def _table(kind: type[K], prefix: str, values: Iterable[tuple[str, V]]) -> dict[K, V]:
    """The protobuf value of every member; KeyError at import when the contract lacks one."""
    numbers = dict(values)
    return {member: numbers[f"{prefix}_{member.name}"] for member in kind}


ORDER_STATES = _table(OrderState, "ORDER_STATE", pb.OrderState.items())
PRODUCT_KINDS = _table(ProductKind, "PRODUCT_KIND", pb.ProductKind.items())
FAILURE_REASONS = _table(FailureReason, "FAILURE_REASON", pb.FailureReason.items())
REVIEW_REASONS = _table(ReviewReason, "REVIEW_REASON", pb.ReviewReason.items())
PURCHASE_STATES = _table(PurchaseState, "PURCHASE_STATE", pb.PurchaseState.items())
OFFER_USES = _table(OfferUse, "OFFER_USE", pb.OfferUse.items())
AFTER_SALES = _table(AfterSale, "AFTER_SALE", pb.AfterSale.items())
CARD_KINDS = _table(CardKind, "CARD_KIND", pb.CardKind.items())
RECIPIENT_KINDS = _table(RecipientKind, "RECIPIENT_KIND", catalog_pb.RecipientKind.items())
NOT_ORDERABLE = _table(NotOrderable, "NOT_ORDERABLE_REASON", catalog_pb.NotOrderableReason.items())

STATE_OF: Mapping[int, OrderState] = {number: state for state, number in ORDER_STATES.items()}
REASON_OF: Mapping[int, ReviewReason] = {number: reason for reason, number in REVIEW_REASONS.items()}
KIND_OF: Mapping[int, ProductKind] = {number: kind for kind, number in PRODUCT_KINDS.items()}


class View(StrEnum):
    """How much of an order is shown."""

    BASIC = "basic"
    FULL = "full"
    EXPLAINED = "explained"


# --- Values -----------------------------------------------------------------------------------------------------------


def money_message(money: Money) -> money_pb2.Money:
    """An amount; the sign of both parts agrees, as google.type.Money wants it."""
    units, rest = divmod(abs(money), UNITS_PER_YUAN)
    sign = -1 if money < 0 else 1
    return money_pb2.Money(currency_code=CURRENCY, units=sign * units, nanos=sign * rest * NANOS_PER_UNIT)


def timestamp(milliseconds: int) -> timestamp_pb2.Timestamp:
    """A time."""
    seconds, rest = divmod(milliseconds, 1000)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=rest * 1_000_000)


def _time(milliseconds: int) -> timestamp_pb2.Timestamp | None:
    """A time that 0 stands for "never"."""
    return timestamp(milliseconds) if milliseconds else None


def _date(day: date | None) -> date_pb2.Date | None:
    return None if day is None else date_pb2.Date(year=day.year, month=day.month, day=day.day)


def _money(money: Money | None) -> money_pb2.Money | None:
    return None if money is None else money_message(money)


def _recipient(recipient: Recipient | None) -> pb.Recipient | None:
    if recipient is None:
        return None
    match recipient.kind:
        case RecipientKind.PHONE:
            return pb.Recipient(phone=pb.PhoneNumber(area_code=recipient.area_code, number=recipient.value))
        case RecipientKind.QQ:
            return pb.Recipient(qq=recipient.value)
        case RecipientKind.ACCOUNT:
            return pb.Recipient(account=recipient.value)
        case RecipientKind.NONE:
            return None


def _after_sale(sale: AfterSale | None) -> pb.AfterSale.ValueType:
    return pb.AFTER_SALE_UNSPECIFIED if sale is None else AFTER_SALES[sale]


# --- Cards ------------------------------------------------------------------------------------------------------------


def masked_number(card: Card) -> str:
    """A card's number as people without the permission to read cards may see it.

    The last characters of a long number, and only where a secret beside it is needed: a number that redeems alone is
    itself the secret.
    """
    if not card.number:
        return ""
    beside_secret = card.kind in (CardKind.NUMBER_AND_SECRET, CardKind.LINK_AND_SECRET) and card.secret
    if beside_secret and len(card.number) >= SHOWN_FROM_LENGTH:
        return MASK + card.number[-SHOWN_CHARACTERS:]
    return MASK


def card_message(
    order_id: str,
    card_no: int,
    card: Card | ErasedCard | ClosedCard,
    *,
    full: bool,
    after_sale: AfterSale | None = None,
) -> pb.Card:
    """A card, in full or with everything left out that redeems it; `after_sale` is what became of it since."""
    if isinstance(card, ClosedCard):
        # Masked also in FULL: there is a card, and it can't be shown.
        return pb.Card(card_id=f"{order_id}/{card_no}", masked=True, after_sale=_after_sale(after_sale))
    if isinstance(card, ErasedCard):
        card_id, erased = f"{order_id}/{card_no}", timestamp(card.at)
        return pb.Card(card_id=card_id, masked=not full, after_sale=_after_sale(after_sale), erase_time=erased)
    message = pb.Card(
        card_id=f"{order_id}/{card_no}",
        kind=CARD_KINDS[card.kind],
        masked=not full,
        number=card.number if full else masked_number(card),
        valid_from=_date(card.valid_from),
        valid_until=_date(card.valid_until),
        unit_cost=_money(card.unit_cost),
        after_sale=_after_sale(after_sale),
    )
    if card.warranty_until is not None:
        message.warranty_end_time.FromDatetime(card.warranty_until)
    if full:
        message.secret = card.secret
        message.link = card.link
        message.instructions = card.instructions
        if card.qr_image_url or card.qr_content:
            message.qr.image_url = card.qr_image_url
            message.qr.content = card.qr_content
    return message


# --- Orders -----------------------------------------------------------------------------------------------------------


def order_message(
    order: Order, cards: Cards, view: View, outlook: Mapping[str, Outlook] = MappingProxyType({})
) -> pb.Order:
    """An order with its cards as of its version. `outlook` tells for view EXPLAINED what its purchases wait for."""
    full = view is View.FULL
    after_sales = {card.card_no: card.after_sale for purchase in order.purchases for card in purchase.cards}
    message = pb.Order(
        order_id=order.order_id,
        client_order_id=order.client_order_id,
        product_id=order.product_id,
        product_kind=PRODUCT_KINDS[order.product_kind],
        quantity=order.quantity,
        recipient=_recipient(order.recipient),
        max_unit_price=_money(order.max_unit_price),
        supplier_parameters=order.supplier_parameters,
        metadata=order.metadata,
        state=ORDER_STATES[order.state],
        version=order.version,
        create_time=timestamp(order.created_at),
        update_time=timestamp(order.updated_at),
        delivered_quantity=order.delivered_quantity,
        cards=[
            card_message(order.order_id, number, card, full=full, after_sale=after_sales.get(number))
            for number, card in cards
        ],
        review_reasons=[REVIEW_REASONS[reason] for reason in order.reviews],
        total_cost=_money(order.total_cost),
        after_sale=_after_sale(order.after_sale),
        settled_time=_time(order.settled_at),
        cancel_requested_time=_time(order.cancel_requested_at),
    )
    if order.failure is not None:
        message.failure.CopyFrom(_failure(order.failure))
    if view is View.EXPLAINED:
        message.offers.extend(_offer(choice) for choice in choices(order))
        message.purchases.extend(_purchase(order, each, outlook.get(each.number, UNKNOWN)) for each in order.purchases)
    return message


def for_operators(order: Order) -> Order:
    """A client's order as operators see it: they answer for the money, but whom it is for isn't their business."""
    if order.recipient is None:
        return order
    return replace(order, recipient=replace(order.recipient, value=order.recipient.masked()))


def _failure(failure: Failure) -> pb.Failure:
    return pb.Failure(reason=FAILURE_REASONS[failure.reason], message=failure.message)


def _offer(choice: Choice) -> pb.Offer:
    return pb.Offer(
        supplier=choice.account,
        supplier_product=choice.supplier_product,
        unit_cost=money_message(choice.unit_cost),
        unit_limit=money_message(choice.unit_limit),
        use=OFFER_USES[choice.use],
        why=choice.why,
        purchase_numbers=choice.numbers,
    )


def _purchase(order: Order, purchase: PurchaseRecord, outlook: Outlook) -> pb.Purchase:
    offer = order.offers[purchase.offer]
    review = pb.REVIEW_REASON_UNSPECIFIED if purchase.review is None else REVIEW_REASONS[purchase.review]
    return pb.Purchase(
        number=purchase.number,
        supplier=offer.account,
        supplier_product=offer.supplier_product,
        quantity=purchase.quantity,
        state=PURCHASE_STATES[purchase.state],
        supplier_reference=purchase.supplier_reference or "",
        sends=purchase.sends,
        intent_time=_time(purchase.intent_at),
        cost=_money(purchase.cost),
        evidence=[_evidence(piece) for piece in purchase.evidence[-EVIDENCE_LIMIT:]],
        review_reason=review,
        review_items=[_review_item(item) for item in purchase.items],
        settled_time=_time(purchase.settled_at),
        send_deadline=_time(outlook.send_deadline),
        settle_deadline=_time(outlook.settle_deadline),
        looks=outlook.looks.made,
        last_look_time=_time(outlook.looks.last_at),
        last_look=outlook.looks.last,
        next_look_time=_time(outlook.looks.next_at),
        waits_for=outlook.waits_for,
        failure=None if purchase.failure is None else _failure(purchase.failure),
        refunded=_money(purchase.refunded),
        attempts=[_attempt(attempt) for attempt in purchase.attempts],
    )


def _attempt(attempt: Attempt) -> pb.Attempt:
    return pb.Attempt(
        time=timestamp(attempt.at), waited_since=_time(attempt.waited_since), waited_for=attempt.waited_for
    )


def _review_item(item: ReviewItem) -> pb.ReviewItem:
    return pb.ReviewItem(reason=REVIEW_REASONS[item.reason], open_time=timestamp(item.opened_at), detail=item.detail)


def _evidence(piece: Evidence) -> pb.Evidence:
    return pb.Evidence(time=timestamp(piece.at), source=piece.source, outcome=piece.outcome, detail=piece.detail)


def add_answer(message: pb.Order, kept: KeptAnswer, opened: bytes | Exception) -> None:
    """Adds a supplier's kept answer to its purchase of an explained order: in outline, never as it is.

    It comes opened, or with the reason why it can't be.
    """
    purchase = next((purchase for purchase in message.purchases if purchase.number == kept.number), None)
    if purchase is None:
        return
    shown = purchase.answers.add(time=timestamp(kept.at), source=kept.source)
    if kept.erased_at:
        shown.erase_time.CopyFrom(timestamp(kept.erased_at))
    elif isinstance(opened, bytes):
        shown.size, shown.outline = len(opened), outline(opened)
    else:
        shown.outline = f"can't be opened: {opened}"


# --- Streams ----------------------------------------------------------------------------------------------------------


def update_message(order: Order, cards: Cards, resume_token: str, *, full: bool) -> reward_pb.OrderUpdate:
    """An update of the log."""
    view = View.FULL if full else View.BASIC
    return reward_pb.OrderUpdate(order=order_message(order, cards, view), resume_token=resume_token)


def stream_update(update: reward_pb.OrderUpdate) -> bytes:
    """The stream's message for an update."""
    return reward_pb.StreamOrderUpdatesResponse(update=update).SerializeToString()


def stream_snapshot(order: Order, cards: Cards, *, full: bool) -> bytes:
    """The stream's message for an order as it is."""
    message = order_message(order, cards, View.FULL if full else View.BASIC)
    return reward_pb.StreamOrderUpdatesResponse(snapshot=reward_pb.OrderSnapshot(order=message)).SerializeToString()


def stream_snapshot_end(resume_token: str) -> bytes:
    """The stream's message after the last snapshot."""
    end = reward_pb.SnapshotEnd(resume_token=resume_token)
    return reward_pb.StreamOrderUpdatesResponse(snapshot_end=end).SerializeToString()


def stream_heartbeat(resume_token: str, now_ms: int) -> bytes:
    """The stream's message after a silence."""
    beat = reward_pb.Heartbeat(resume_token=resume_token, time=timestamp(now_ms))
    return reward_pb.StreamOrderUpdatesResponse(heartbeat=beat).SerializeToString()


# --- The catalogue ----------------------------------------------------------------------------------------------------


def product_message(product: Product, not_orderable: NotOrderable | None) -> catalog_pb.Product:
    """A product, and whether it can be ordered now."""
    usable = [offer for offer in product.offers if offer.unit_cost <= offer.max_unit_cost]
    offers = usable or product.offers
    reason = catalog_pb.NOT_ORDERABLE_REASON_UNSPECIFIED if not_orderable is None else NOT_ORDERABLE[not_orderable]
    return catalog_pb.Product(
        product_id=product.product_id,
        kind=PRODUCT_KINDS[product.kind],
        name=product.name,
        face_value=money_message(product.face_value),
        price=money_message(offers[0].unit_cost) if offers else None,
        recipient_kind=RECIPIENT_KINDS[product.recipient_kind],
        form=[_form_field(field) for field in product.form],
        orderable=not_orderable is None,
        not_orderable_reason=reason,
    )


def _form_field(field: FormField) -> catalog_pb.FormField:
    return catalog_pb.FormField(key=field.key, label=field.label, required=field.required, options=field.options)
