"""From domain to protobuf: values keep their meaning, secrets stay out of every view but FULL."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from reward_adapters.contract import AfterSale, Card, CardKind, ProductKind, Recipient, RecipientKind
from reward_adapters.money import Money, yuan
from reward_server.domain.order import (
    EVIDENCE_LIMIT,
    CardPrint,
    Evidence,
    Failure,
    FailureReason,
    Offer,
    Order,
    OrderState,
    PurchaseRecord,
    PurchaseState,
    ReviewItem,
    ReviewReason,
    Source,
)
from reward_server.engine.looks import LookPlan
from reward_server.engine.outlook import Outlook
from reward_server.rpc import messages
from reward_server.rpc.messages import View, card_message, masked_number, money_message, order_message
from rewardservice.v1 import catalog_service_pb2, order_pb2

SECRETS = Card(
    kind=CardKind.NUMBER_AND_SECRET,
    number="6220998877665544",
    secret="CANARY-secret",
    link="https://CANARY-link",
    qr_image_url="https://CANARY-image",
    qr_content="CANARY-content",
    instructions="CANARY-words",
    valid_from=date(2026, 1, 2),
    valid_until=date(2027, 1, 1),
    warranty_until=datetime(2026, 5, 1, 12, tzinfo=UTC),
    unit_cost=yuan("98.5"),
    supplier_card_number="CANARY-supplier",
)

ORDER = Order(
    client_id="shop",
    order_id="O1",
    client_order_id="c1",
    product_id="card",
    product_kind=ProductKind.CARD,
    quantity=2,
    recipient=Recipient(RecipientKind.PHONE, "13800138000", "+86"),
    max_unit_price=yuan("99.1234"),
    supplier_parameters={"zone": "a"},
    metadata={"k": "v"},
    offers=(Offer(account="kss_a", supplier_product="2909", unit_cost=Money(1), unit_limit=Money(2), max_units=1),),
    created_at=1_780_000_000_123,
    updated_at=1_780_000_000_456,
    card_count=1,
    purchases=(
        PurchaseRecord(
            number="N1",
            offer=0,
            first_unit=0,
            quantity=1,
            state=PurchaseState.DELIVERED,
            supplier_reference="S1",
            sends=1,
            intent_at=1_780_000_000_200,
            cost=yuan("98.5"),
            evidence=tuple(Evidence(n, Source.QUERY, "Delivered", f"code {n}") for n in range(60)),
        ),
        PurchaseRecord(number="N2", offer=0, first_unit=1, quantity=1, review=ReviewReason.DEADLINE),
    ),
    state=OrderState.NEEDS_REVIEW,
    reviews=(ReviewReason.DEADLINE,),
    delivered_quantity=1,
    total_cost=yuan("98.5"),
    version=3,
)
CARDS = ((1, SECRETS),)


@pytest.mark.parametrize("view", [View.BASIC, View.EXPLAINED])
def test_secrets_are_shown_in_full_only(view: View) -> None:
    """No view but FULL carries a secret, a link, a QR code or the instructions."""
    message = order_message(ORDER, CARDS, view)
    assert "CANARY" not in str(message)
    [card] = message.cards
    assert card.masked
    assert card.number == "****5544"
    assert card.valid_until.year == 2027


def test_the_full_view_shows_everything() -> None:
    """FULL has the whole card, but not the supplier's own bookkeeping."""
    [card] = order_message(ORDER, CARDS, View.FULL).cards
    assert not card.masked
    assert (card.card_id, card.number, card.secret) == ("O1/1", SECRETS.number, SECRETS.secret)
    assert (card.link, card.instructions) == (SECRETS.link, SECRETS.instructions)
    assert (card.qr.image_url, card.qr.content) == (SECRETS.qr_image_url, SECRETS.qr_content)
    assert card.warranty_end_time.ToDatetime(UTC) == SECRETS.warranty_until
    assert "supplier" not in str(card)


@pytest.mark.parametrize(
    ("kind", "number", "secret", "shown"),
    [
        (CardKind.NUMBER_AND_SECRET, "12345678", "s", "****5678"),
        (CardKind.NUMBER_AND_SECRET, "1234567", "s", "****"),
        (CardKind.NUMBER_AND_SECRET, "12345678", "", "****"),
        (CardKind.NUMBER_AND_SECRET, "", "s", ""),
        (CardKind.LINK_AND_SECRET, "12345678", "s", "****5678"),
        (CardKind.CODE, "12345678", "", "****"),
        (CardKind.CODE, "12345678", "s", "****"),
        (CardKind.LINK, "12345678", "", "****"),
        (CardKind.QR, "12345678", "", "****"),
    ],
)
def test_a_number_that_redeems_alone_is_hidden_whole(kind: CardKind, number: str, secret: str, shown: str) -> None:
    """The last four characters are shown only of a long number that is worthless without its secret."""
    assert masked_number(Card(kind=kind, number=number, secret=secret)) == shown


def test_an_order_keeps_its_values() -> None:
    """Every field of an order arrives."""
    message = order_message(ORDER, CARDS, View.BASIC)
    assert (message.order_id, message.client_order_id, message.product_id) == ("O1", "c1", "card")
    assert message.product_kind == order_pb2.PRODUCT_KIND_CARD
    assert (message.recipient.phone.area_code, message.recipient.phone.number) == ("+86", "13800138000")
    assert (message.max_unit_price.units, message.max_unit_price.nanos) == (99, 123_400_000)
    assert dict(message.supplier_parameters) == {"zone": "a"}
    assert dict(message.metadata) == {"k": "v"}
    assert message.state == order_pb2.ORDER_STATE_NEEDS_REVIEW
    assert message.create_time.ToMilliseconds() == ORDER.created_at
    assert message.update_time.ToMilliseconds() == ORDER.updated_at
    assert list(message.review_reasons) == [order_pb2.REVIEW_REASON_DEADLINE]
    assert (message.version, message.delivered_quantity) == (3, 1)
    assert not message.HasField("failure")
    assert not message.purchases


def test_what_is_unset_stays_unset() -> None:
    """None is a field that isn't there, not a zero."""
    bare = replace(ORDER, recipient=None, max_unit_price=None, total_cost=None)
    message = order_message(bare, (), View.BASIC)
    assert not any(message.HasField(field) for field in ("recipient", "max_unit_price", "total_cost"))


def test_the_explained_view_has_the_purchases() -> None:
    """EXPLAINED tells which supplier, when, how often, and the latest evidence."""
    first, second = order_message(ORDER, CARDS, View.EXPLAINED).purchases
    assert (first.number, first.supplier, first.supplier_product) == ("N1", "kss_a", "2909")
    assert first.state == order_pb2.PURCHASE_STATE_DELIVERED
    assert len(first.evidence) == EVIDENCE_LIMIT
    assert first.evidence[-1].detail == "code 59"
    assert first.evidence[-1].source == "query"
    assert first.intent_time.ToMilliseconds() == 1_780_000_000_200
    assert not second.HasField("intent_time")
    assert second.review_reason == order_pb2.REVIEW_REASON_DEADLINE


def test_the_explained_view_tells_what_is_awaited_and_what_was_chosen() -> None:
    """What the engine knows stands at its purchase; the offers stand at the order, and nowhere but in this view."""
    looks = LookPlan(made=3, last_at=1_780_000_000_500, last="Absent", next_at=1_780_000_000_600)
    late = Outlook(waits_for="a look", send_deadline=1_780_000_001_000, settle_deadline=1_780_000_002_000, looks=looks)
    died = Failure(FailureReason.OUT_OF_STOCK, "sold out")
    order = ORDER.with_purchase(replace(ORDER.purchases[1], failure=died, refunded=Money(10_000)))
    message = order_message(order, CARDS, View.EXPLAINED, {"N1": late})
    first, second = message.purchases
    assert (first.waits_for, first.looks, first.last_look) == ("a look", 3, "Absent")
    times = (first.send_deadline, first.settle_deadline, first.last_look_time, first.next_look_time)
    assert [time.ToMilliseconds() - 1_780_000_000_000 for time in times] == [1_000, 2_000, 500, 600]
    assert (second.waits_for, second.HasField("next_look_time")) == ("", False)
    assert (second.failure.reason, second.failure.message) == (order_pb2.FAILURE_REASON_OUT_OF_STOCK, "sold out")
    assert second.refunded == money_message(Money(10_000))
    assert [(offer.supplier, offer.use) for offer in message.offers] == [("kss_a", order_pb2.OFFER_USE_USED)]
    assert [number for offer in message.offers for number in offer.purchase_numbers] == ["N1", "N2"]
    assert not order_message(order, CARDS, View.FULL).offers


def test_what_became_of_a_delivery_is_told_as_of_the_version() -> None:
    """A card says what became of it even where the stored card doesn't; the order says the worst, and when it ended."""
    first = replace(
        ORDER.purchases[0],
        cards=(CardPrint("i", "c", card_no=1, after_sale=AfterSale.REVERSED),),
        items=(ReviewItem(ReviewReason.REVERSED, 1_780_000_000_300, "taken back"),),
        settled_at=1_780_000_000_400,
    )
    order = replace(
        ORDER.with_purchase(first),
        after_sale=AfterSale.REVERSED,
        settled_at=1_780_000_000_400,
        cancel_requested_at=1_780_000_000_100,
    )
    message = order_message(order, CARDS, View.EXPLAINED)
    assert (message.after_sale, message.cards[0].after_sale) == (order_pb2.AFTER_SALE_REVERSED,) * 2
    assert message.settled_time.ToMilliseconds() == 1_780_000_000_400
    assert message.cancel_requested_time.ToMilliseconds() == 1_780_000_000_100
    [item] = message.purchases[0].review_items
    assert (item.reason, item.detail) == (order_pb2.REVIEW_REASON_REVERSED, "taken back")
    assert item.open_time.ToMilliseconds() == 1_780_000_000_300
    assert message.purchases[0].settled_time.ToMilliseconds() == 1_780_000_000_400


def test_what_never_happened_has_no_time() -> None:
    """An order that isn't settled, and that nobody wished to cancel, has neither time; its cards are fine."""
    message = order_message(ORDER, CARDS, View.EXPLAINED)
    assert not message.HasField("settled_time")
    assert not message.HasField("cancel_requested_time")
    assert (message.after_sale, message.cards[0].after_sale) == (order_pb2.AFTER_SALE_UNSPECIFIED,) * 2
    assert not message.purchases[0].HasField("settled_time")


def test_a_failure_is_told() -> None:
    """A failed order says why, in a type and in words."""
    message = order_message(replace(ORDER, failure=Failure(FailureReason.OUT_OF_STOCK, "none left")), (), View.BASIC)
    assert message.failure.reason == order_pb2.FAILURE_REASON_OUT_OF_STOCK
    assert message.failure.message == "none left"


@pytest.mark.parametrize(
    ("money", "units", "nanos"),
    [(0, 0, 0), (1, 0, 100_000), (985_123, 98, 512_300_000), (-1, 0, -100_000), (-15_000, -1, -500_000_000)],
)
def test_money_keeps_its_sign_and_decimals(money: int, units: int, nanos: int) -> None:
    """Both parts of an amount have one sign."""
    message = money_message(Money(money))
    assert (message.currency_code, message.units, message.nanos) == ("CNY", units, nanos)


@pytest.mark.parametrize(
    ("table", "enum", "never_sent"),
    [
        (messages.ORDER_STATES, order_pb2.OrderState, 0),
        (messages.PRODUCT_KINDS, order_pb2.ProductKind, 0),
        (messages.FAILURE_REASONS, order_pb2.FailureReason, 0),
        (messages.REVIEW_REASONS, order_pb2.ReviewReason, 0),
        (messages.PURCHASE_STATES, order_pb2.PurchaseState, 0),
        (messages.CARD_KINDS, order_pb2.CardKind, 0),
        (messages.AFTER_SALES, order_pb2.AfterSale, 0),
        (messages.RECIPIENT_KINDS, catalog_service_pb2.RecipientKind, 0),
        (messages.NOT_ORDERABLE, catalog_service_pb2.NotOrderableReason, 0),
    ],
)
def test_the_contract_has_no_word_of_its_own(table: dict[str, int], enum: type, never_sent: int) -> None:
    """Every value of the contract's enums but the unspecified one means something to the program."""
    assert {never_sent, *table.values()} == {*enum.values()}  # type: ignore[attr-defined]


def test_a_qr_code_is_left_out_when_there_is_none() -> None:
    """An empty QR code isn't sent."""
    assert not card_message("O1", 1, Card(kind=CardKind.CODE, secret="s"), full=True).HasField("qr")
