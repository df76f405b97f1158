"""From CreateOrder to the card, over real sockets, for every supplier and every shape of card."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.type import date_pb2

from reward_sandbox import CANARY
from rewardservice.v1 import order_pb2, reward_service_pb2

from .harness import OTHER, Service, State, caller, refused, service

PHONE = order_pb2.Recipient(phone=order_pb2.PhoneNumber(area_code="+86", number="13800138000"))
CardKind = order_pb2.CardKind


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Service]:
    async with service(tmp_path) as one:
        yield one


def date(year: int, month: int, day: int) -> date_pb2.Date:
    return date_pb2.Date(year=year, month=month, day=day)


CARDS = {
    "kuaiduibao/coupon": ("CARD_KIND_CODE", {"number", "link", "valid_from", "valid_until"}),
    "kuaiduibao/card": ("CARD_KIND_NUMBER_AND_SECRET", {"number", "secret", "valid_until"}),
    "kuaiduibao/card-pwd": ("CARD_KIND_NUMBER_AND_SECRET", {"number", "secret"}),
    "kaquan91_card/type-0": ("CARD_KIND_CODE", {"secret", "warranty_end_time", "after_sale", "unit_cost"}),
    "kaquan91_card/type-1": (
        "CARD_KIND_NUMBER_AND_SECRET",
        {"number", "secret", "warranty_end_time", "after_sale", "unit_cost"},
    ),
    "kaquan91_card/type-2": ("CARD_KIND_QR", {"qr", "warranty_end_time", "after_sale", "unit_cost"}),
    "kaquan91_card/type-3": (
        "CARD_KIND_LINK_AND_SECRET",
        {"secret", "link", "warranty_end_time", "after_sale", "unit_cost"},
    ),
    "kaquan91_card/type-4": (
        "CARD_KIND_LINK",
        {"link", "instructions", "warranty_end_time", "after_sale", "unit_cost"},
    ),
    "kasushou/card": ("CARD_KIND_NUMBER_AND_SECRET", {"number", "secret"}),
    "kasushou/card-delayed": ("CARD_KIND_NUMBER_AND_SECRET", {"number", "secret"}),
}


@pytest.mark.parametrize("product", CARDS)
async def test_a_card_arrives_typed_and_is_bought_once(running: Service, product: str) -> None:
    """Every card shape of every supplier: all its fields in their places, and one charge in the supplier's books."""
    created = await running.client.create(product, "order-1")
    order = await running.client.until(created.order.order_id)
    kind, fields = CARDS[product]
    assert State.Name(order.state) == "ORDER_STATE_FULFILLED"
    (card,) = order.cards
    assert CardKind.Name(card.kind) == kind
    present = {field.name for field, _ in card.ListFields()} - {"card_id", "kind"}
    assert present == fields
    (bought,) = running.books(product.split("/", maxsplit=1)[0])
    (delivered,) = bought["delivered"]
    shown = f"{card.number} {card.secret} {card.link} {card.qr.image_url} {card.qr.content} {card.instructions}"
    for name in ("card_no", "card_pws", "card_pwd", "card_num", "card_pass", "card_password", "link"):
        assert delivered.get(name, "") in shown
    assert bought["requests"] == 1


TOPUPS = ["kuaiduibao/topup", "kaquan91_recharge/topup", "kasushou/topup", "dushu/membership", "dushu/slow-recharge"]


@pytest.mark.parametrize("product", TOPUPS)
async def test_a_topup_reaches_the_recipient_once(running: Service, product: str) -> None:
    """Without a card: synchronous, by callback, or by looks, whatever the supplier offers."""
    created = await running.client.create(product, "order-1", recipient=PHONE)
    order = await running.client.until(created.order.order_id)
    assert State.Name(order.state) == "ORDER_STATE_FULFILLED"
    assert list(order.cards) == []
    (bought,) = running.books(product.split("/", maxsplit=1)[0])
    assert (bought["requests"], bought["recipient"]) == (1, "13800138000")


REFUSALS = {
    "kuaiduibao/out-of-stock": "FAILURE_REASON_OUT_OF_STOCK",
    "kaquan91_card/out-of-stock": "FAILURE_REASON_OUT_OF_STOCK",
    "kaquan91_recharge/refused": "FAILURE_REASON_PRODUCT_UNAVAILABLE",
    "kaquan91_recharge/failed": "FAILURE_REASON_REFUNDED",
    "kasushou/out-of-stock": "FAILURE_REASON_OUT_OF_STOCK",
    "kasushou/refunded": "FAILURE_REASON_REFUNDED",
    "dushu/locked-phone": "FAILURE_REASON_RECIPIENT_REFUSED",
}


@pytest.mark.parametrize("product", REFUSALS)
async def test_a_refusal_fails_the_order_with_a_typed_reason(running: Service, product: str) -> None:
    """The supplier's own words come along, and nothing is charged in the end."""
    needs_phone = not product.endswith("out-of-stock") and product != "kasushou/refunded"
    created = await running.client.create(product, "order-1", recipient=PHONE if needs_phone else None)
    order = await running.client.until(created.order.order_id)
    assert State.Name(order.state) == "ORDER_STATE_FAILED"
    assert order_pb2.FailureReason.Name(order.failure.reason) == REFUSALS[product]
    assert order.failure.message
    for bought in running.books(product.split("/", maxsplit=1)[0]):
        assert bought["charged"] == bought["refunded"]


SILENT = ["kaquan91_card/slow", "kaquan91_recharge/silent", "kasushou/silent", "dushu/silent"]


@pytest.mark.parametrize("product", SILENT)
async def test_a_supplier_that_never_answers_is_asked_and_not_sent_again(running: Service, product: str) -> None:
    """Taken but not answered: a look finds it, after a callback or after the read time-out. One charge."""
    needs_phone = "card" not in product and product != "kasushou/silent"
    created = await running.client.create(product, "order-1", recipient=PHONE if needs_phone else None)
    order = await running.client.until(created.order.order_id)
    assert State.Name(order.state) == "ORDER_STATE_FULFILLED"
    (bought,) = running.books(product.split("/", maxsplit=1)[0])
    assert bought["requests"] == 1
    explained = await running.client.get(order.order_id, "EXPLAINED")
    assert ("query", "Delivered") in [(piece.source, piece.outcome) for piece in explained.purchases[0].evidence]


@pytest.mark.rule("P8")
async def test_a_lost_answer_without_a_query_is_settled_by_the_callback(running: Service) -> None:
    """Kuaiduibao has no query: OUTCOME_UNKNOWN until its callback comes, then FULFILLED; bought once."""
    created = await running.client.create("kuaiduibao/topup-silent", "order-1", recipient=PHONE)
    order = await running.client.until(created.order.order_id)
    assert State.Name(order.state) == "ORDER_STATE_FULFILLED"
    assert [bought["requests"] for bought in running.books("kuaiduibao")] == [1]


@pytest.mark.rule("P9")
async def test_a_lost_answer_that_nothing_settles_goes_to_a_person_at_its_deadline(tmp_path: Path) -> None:
    """Kuaiduibao, no callback either: OUTCOME_UNKNOWN, then NEEDS_REVIEW; never a second purchase."""
    quick = {"read_timeout": 0.3, "settle_by_seconds": 1.0, "answer_patience": 30.0}
    async with service(tmp_path, account=quick) as running:
        created = await running.client.create("kuaiduibao/card-lost", "order-1")
        needs_review = State.ORDER_STATE_NEEDS_REVIEW
        order = await running.client.until(created.order.order_id, lambda order: order.state == needs_review)
        assert [order_pb2.ReviewReason.Name(r) for r in order.review_reasons] == ["REVIEW_REASON_DEADLINE"]
        assert [bought["requests"] for bought in running.books("kuaiduibao")] == [1]


async def test_several_units_in_one_purchase_bring_as_many_cards(running: Service) -> None:
    """Three cards, one supplier number where the offer allows it, three different cards."""
    created = await running.client.create("kaquan91_card/type-1", "order-1", quantity=3)
    order = await running.client.until(created.order.order_id)
    assert len({card.secret for card in order.cards}) == 3
    assert [card.card_id for card in order.cards] == [f"{order.order_id}/{n}" for n in (1, 2, 3)]
    assert len(running.books("kaquan91_card")) == 1


async def test_units_that_cannot_share_a_purchase_are_bought_one_by_one(running: Service) -> None:
    """Kuaiduibao sells one card a call: three purchases, three numbers, three cards."""
    created = await running.client.create("kuaiduibao/card", "order-1", quantity=3)
    order = await running.client.until(created.order.order_id)
    assert len({card.secret for card in order.cards}) == 3
    assert sorted(bought["requests"] for bought in running.books("kuaiduibao")) == [1, 1, 1]


async def test_fifty_calls_with_one_id_at_once_make_one_purchase(running: Service) -> None:
    """Idempotent replay: one order, one charge, and exactly one caller hears that it was new."""
    answers = await asyncio.gather(*(running.client.create("kaquan91_card/type-1", "same") for _ in range(50)))
    assert len({answer.order.order_id for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 49
    await running.client.until(answers[0].order.order_id)
    assert [bought["requests"] for bought in running.books("kaquan91_card")] == [1]


async def test_the_same_id_with_other_content_names_the_fields(running: Service) -> None:
    """ALREADY_EXISTS, and what differs."""
    await running.client.create("kaquan91_card/type-1", "same", metadata={"campaign": "a"})
    error = await refused(running.client.create("kaquan91_card/type-0", "same", quantity=2))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    details = error.details() or ""
    assert all(name in details for name in ("product_id", "quantity", "metadata"))


async def test_a_replay_after_the_end_returns_the_order_as_it_is_now(running: Service) -> None:
    """The same call again, later: replayed, terminal, and with the cards if the view shows them."""
    created = await running.client.create("kuaiduibao/card", "order-1")
    await running.client.until(created.order.order_id)
    again = await running.client.create("kuaiduibao/card", "order-1", view=order_pb2.ORDER_VIEW_FULL)
    assert again.replayed
    assert again.order.state == State.ORDER_STATE_FULFILLED
    assert CANARY in again.order.cards[0].secret


async def test_another_client_sees_nothing_of_an_order(running: Service) -> None:
    """Another client's order is not found, whatever it is asked by; the same client_order_id is free for it."""
    created = await running.client.create("kuaiduibao/card", "order-1")
    async with caller(running.place.grpc_port, OTHER) as other:
        error = await refused(other.get(created.order.order_id))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        theirs = await other.create("kuaiduibao/card", "order-1")
        assert not theirs.replayed
        assert theirs.order.order_id != created.order.order_id


async def test_an_order_waits_while_its_supplier_is_down(running: Service) -> None:
    """No access token can be had, so nothing was sent: the order stays ACCEPTED, and is bought when one can."""
    running.sandbox.gate("kuaiduibao").down = True
    created = await running.client.create("kuaiduibao/card", "order-1")
    order = await running.client.get(created.order.order_id)
    assert order.state == State.ORDER_STATE_ACCEPTED
    running.sandbox.gate("kuaiduibao").down = False
    order = await running.client.until(created.order.order_id)
    assert order.state == State.ORDER_STATE_FULFILLED


async def test_the_token_of_create_shows_every_later_update(running: Service) -> None:
    """AFTER(token of CreateOrder): no gap between creating and watching."""
    created = await running.client.create("kasushou/card", "order-1")
    stream = running.client.stream(
        start=reward_service_pb2.STREAM_START_AFTER,
        resume_token=created.resume_token,
        order_ids=[created.order.order_id],
        until_terminal=True,
    )
    messages = [message async for message in stream]
    versions = [message.update.order.version for message in messages if message.WhichOneof("message") == "update"]
    assert versions == list(range(created.order.version + 1, versions[-1] + 1))
    assert versions
