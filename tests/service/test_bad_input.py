"""What is wrong is said clearly, all at once, and nothing is stored or bought."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from google.type import money_pb2
from grpc_status import rpc_status

from rewardservice.v1 import order_pb2, reward_service_pb2

from .harness import OTHER, USUAL, Service, caller, refused, service

SHORT_PHONE = order_pb2.Recipient(phone=order_pb2.PhoneNumber(number="1380013"))
PHONE = order_pb2.Recipient(phone=order_pb2.PhoneNumber(area_code="+86", number="13800138000"))


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Service]:
    async with service(tmp_path, products=USUAL) as one:
        yield one


def detail(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    """The detail message of that kind; every error carries an ErrorInfo."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            unpacked = kind()
            packed.Unpack(unpacked)
            return unpacked
    raise AssertionError(f"no {kind.DESCRIPTOR.name} in {status}")


def reason(error: grpc.aio.AioRpcError) -> str:
    info = detail(error, error_details_pb2.ErrorInfo)
    assert info.domain == "rewardservice.v1"
    return str(info.reason)


def fields(error: grpc.aio.AioRpcError) -> set[str]:
    return {violation.field for violation in detail(error, error_details_pb2.BadRequest).field_violations}


async def test_an_unknown_product_is_not_found(running: Service) -> None:
    """NOT_FOUND with the product's id."""
    error = await refused(running.client.create("no/such", "order-1"))
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND")


async def test_every_wrong_field_is_named_at_once(running: Service) -> None:
    """One BadRequest with all violations, and nothing stored."""
    error = await refused(
        running.client.create(
            "kuaiduibao/card",
            "",
            quantity=101,
            recipient=order_pb2.Recipient(qq="12"),
            max_unit_price=money_pb2.Money(currency_code="USD", units=1),
            metadata={f"k{n}": "v" for n in range(21)},
        )
    )
    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert {"client_order_id", "quantity", "recipient.qq", "max_unit_price.currency_code", "metadata"} <= fields(error)
    assert running.books("kuaiduibao") == []


@pytest.mark.parametrize("quantity", [0, 101, -1])
async def test_a_quantity_outside_1_to_100_is_refused(running: Service, quantity: int) -> None:
    """Both ends."""
    error = await refused(running.client.create("kuaiduibao/card", "order-1", quantity=quantity))
    assert fields(error) == {"quantity"}


@pytest.mark.parametrize(
    ("product", "recipient", "field"),
    [
        ("dushu/membership", None, "recipient.phone"),
        ("dushu/membership", order_pb2.Recipient(qq="123456"), "recipient.qq"),
        ("dushu/membership", SHORT_PHONE, "recipient.phone.number"),
        ("kuaiduibao/card", PHONE, "recipient"),
    ],
)
async def test_a_recipient_must_fit_the_product(
    running: Service, product: str, recipient: order_pb2.Recipient | None, field: str
) -> None:
    """Missing, of another kind, malformed, or given for a card: refused by field, without repeating the number."""
    error = await refused(running.client.create(product, "order-1", recipient=recipient))
    assert fields(error) == {field}
    assert "1380013" not in str(error)


@pytest.mark.rule("O10")
async def test_a_price_limit_below_every_offer_is_refused_before_anything_is_stored(running: Service) -> None:
    """FAILED_PRECONDITION with price and limit; the client_order_id stays free."""
    low = money_pb2.Money(currency_code="CNY", units=1)
    error = await refused(running.client.create("kuaiduibao/card", "order-1", max_unit_price=low))
    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "PRICE_ABOVE_LIMIT")
    created = await running.client.create("kuaiduibao/card", "order-1")
    assert not created.replayed


async def test_an_unknown_order_is_not_found(running: Service) -> None:
    """By id, and on a stream."""
    unknown = "01M80Z68GYESEBGR9M4VBW37TH"
    error = await refused(running.client.get(unknown))
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")
    error = await refused(running.client.stream(order_ids=[unknown]).read())
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")


async def test_forged_and_foreign_resume_tokens_are_refused(running: Service) -> None:
    """A changed token, junk, and another client's token are all INVALID_ARGUMENT."""
    created = await running.client.create("kuaiduibao/card", "order-1")
    token = created.resume_token
    flipped = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    async with caller(running.place.grpc_port, OTHER) as other:
        for client, bad in ((running.client, flipped), (running.client, "junk"), (other, token)):
            stream = client.stream(start=reward_service_pb2.STREAM_START_AFTER, resume_token=bad)
            error = await refused(stream.read())
            assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")


@pytest.mark.parametrize("key", [None, "wrong-key", ""])
async def test_without_a_valid_key_nothing_is_answered(running: Service, key: str | None) -> None:
    """UNAUTHENTICATED, and the message says how to send a key."""
    async with caller(running.place.grpc_port, key) as nobody:
        error = await refused(nobody.create("kuaiduibao/card", "order-1"))
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


async def test_an_oversized_message_is_refused(running: Service) -> None:
    """Larger than the server takes: refused with all details, and far larger by gRPC itself; the server lives on."""
    error = await refused(running.client.create("kuaiduibao/card", "order-1", metadata={"k": "v" * 300_000}))
    assert (error.code(), reason(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    error = await refused(running.client.create("kuaiduibao/card", "order-1", metadata={"k": "v" * 3_000_000}))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await running.client.create("kuaiduibao/card", "order-1")).order.order_id
