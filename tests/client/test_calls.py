"""Unary calls: what is sent, what is tried again, and what errors become."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import grpc
import pytest

from rewardservice import (
    AlreadyExistsError,
    AuthenticationError,
    Backoff,
    ClosedError,
    DeadlineError,
    FieldViolation,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    ResourceExhaustedError,
    ResumeError,
    RewardClient,
    RewardError,
    ServerError,
    TlsOptions,
    UnavailableError,
    UnimplementedError,
    account,
    decimal_yuan,
    phone,
    qq,
    yuan,
)
from rewardservice._channel import is_loopback
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb

from .scripted import Refusal, Scripted, fulfilled, order, product


async def test_create_sends_the_whole_order(script: Scripted, client: RewardClient) -> None:
    """Every argument reaches the server in the contract's form."""
    script.creates.append(pb.CreateOrderResponse(order=order("A"), resume_token="t1"))

    created = await client.create_order(
        "jd-100",
        2,
        client_order_id="campaign-7:user-42",
        recipient=phone("+86", "13800138000"),
        max_unit_price=Decimal("98.5"),
        supplier_parameters={"area": "北京"},
        metadata={"user": "42"},
        wait=2.5,
        view=order_pb2.ORDER_VIEW_FULL,
    )

    assert (created.order.order_id, created.replayed, created.resume_token) == ("A", False, "t1")
    sent = script.create_requests[0]
    assert sent.client_order_id == "campaign-7:user-42"
    assert (sent.product_id, sent.quantity) == ("jd-100", 2)
    assert (sent.recipient.phone.area_code, sent.recipient.phone.number) == ("+86", "13800138000")
    assert (sent.max_unit_price.currency_code, sent.max_unit_price.units, sent.max_unit_price.nanos) == (
        "CNY",
        98,
        500_000_000,
    )
    assert dict(sent.supplier_parameters) == {"area": "北京"}
    assert dict(sent.metadata) == {"user": "42"}
    assert sent.wait.ToMilliseconds() == 2500
    assert sent.view == order_pb2.ORDER_VIEW_FULL


@pytest.mark.parametrize(
    "trouble",
    [
        Refusal(grpc.StatusCode.UNAVAILABLE),
        Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after=0.001),
        Refusal(grpc.StatusCode.CANCELLED),
        Refusal(grpc.StatusCode.INTERNAL),
    ],
)
async def test_create_retries_with_the_same_id(script: Scripted, client: RewardClient, trouble: Refusal) -> None:
    """A retry carries the id of the first try, also when the client made it up."""
    script.creates += [trouble, trouble, pb.CreateOrderResponse(order=order("A"))]

    await client.create_order("jd-100")

    ids = [request.client_order_id for request in script.create_requests]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert ids[0]


async def test_orders_made_without_id_are_different(script: Scripted, client: RewardClient) -> None:
    """Two calls without an id are two orders."""
    script.creates += [pb.CreateOrderResponse(), pb.CreateOrderResponse()]

    await client.create_order("jd-100")
    await client.create_order("jd-100")

    assert script.create_requests[0].client_order_id != script.create_requests[1].client_order_id


async def test_retries_are_bounded_and_name_the_id(script: Scripted, client: RewardClient) -> None:
    """After the last try the error is raised, with the id under which the order may exist."""
    script.creates += [Refusal(grpc.StatusCode.UNAVAILABLE)] * 9

    with pytest.raises(UnavailableError) as caught:
        await client.create_order("jd-100")

    assert len(script.create_requests) == 4
    assert caught.value.client_order_id == script.create_requests[0].client_order_id
    assert caught.value.client_order_id in str(caught.value)


async def test_no_server_is_unavailable(backoff: Backoff) -> None:
    """A server that isn't there is said to be out of reach, in words."""
    async with RewardClient("127.0.0.1:1", timeout=60.0, backoff=backoff) as nobody:
        with pytest.raises(UnavailableError, match="the server can't be reached"):
            await nobody.get_order("A")


async def test_retry_later_than_the_time_out_is_not_awaited(
    script: Scripted, client: RewardClient, naps: list[float]
) -> None:
    """A server that asks for more patience than the call has gets its error raised at once."""
    script.creates += [Refusal(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", retry_after=60)]

    with pytest.raises(UnavailableError) as caught:
        await client.create_order("jd-100")

    assert caught.value.retry_after == 60
    assert naps == []


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", InvalidRequestError),
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", AuthenticationError),
        (grpc.StatusCode.PERMISSION_DENIED, "CARDS_NOT_PERMITTED", PermissionDeniedError),
        (grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND", NotFoundError),
        (grpc.StatusCode.ALREADY_EXISTS, "CLIENT_ORDER_ID_REUSED", AlreadyExistsError),
        (grpc.StatusCode.FAILED_PRECONDITION, "PRICE_ABOVE_LIMIT", PreconditionError),
        (grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED", ResumeError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", ResourceExhaustedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", DeadlineError),
        (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED", UnimplementedError),
        (grpc.StatusCode.INTERNAL, "INTERNAL", ServerError),
        (grpc.StatusCode.DATA_LOSS, "", ServerError),
    ],
)
async def test_errors_by_code(
    script: Scripted, client: RewardClient, code: grpc.StatusCode, reason: str, kind: type[RewardError]
) -> None:
    """Every code has its exception, which carries code and reason, and is raised after one try."""
    script.creates.append(Refusal(code, reason))

    with pytest.raises(kind) as caught:
        await client.create_order("jd-100")

    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert len(script.create_requests) == 1


async def test_error_carries_all_that_was_said(script: Scripted, client: RewardClient) -> None:
    """Violations, metadata and request id of an error are on the exception, and its text names them."""
    script.refusal = Refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "2 fields are wrong",
        violations={"quantity": "must be 1 to 100", "recipient": "is missing"},
        metadata={"hint": "read the contract"},
    )

    with pytest.raises(InvalidRequestError) as caught:
        await client.get_order("A")

    error = caught.value
    assert error.message == "2 fields are wrong"
    assert error.violations == (
        FieldViolation("quantity", "must be 1 to 100"),
        FieldViolation("recipient", "is missing"),
    )
    assert error.metadata == {"hint": "read the contract"}
    assert error.request_id == "request-1"
    assert str(error) == (
        "2 fields are wrong; quantity: must be 1 to 100; recipient: is missing (INVALID_REQUEST, request request-1)"
    )


async def test_broken_details_leave_the_plain_error(script: Scripted, client: RewardClient) -> None:
    """Details that can't be read don't hide the code and the message."""

    class Broken(Refusal):
        def trailers(self) -> tuple[tuple[str, str | bytes], ...]:
            return (("grpc-status-details-bin", b"\xff\xff\xff"),)

    script.refusal = Broken(grpc.StatusCode.NOT_FOUND, message="no order A")

    with pytest.raises(NotFoundError, match="no order A"):
        await client.get_order("A")


async def test_key_travels_as_bearer(script: Scripted, client: RewardClient) -> None:
    """Every call carries the key, and says which client calls."""
    script.orders["A"] = order("A")

    await client.get_order("A")

    assert script.metadata[0]["authorization"] == "Bearer a-key"
    assert str(script.metadata[0]["user-agent"]).startswith("reward-service-python/")


async def test_reads_order_by_either_id(script: Scripted, client: RewardClient) -> None:
    """An order is found by our id and by the client's."""
    script.orders = {"A": order("A"), "c-B": order("B")}

    assert (await client.get_order("A")).order_id == "A"
    assert (await client.get_order(client_order_id="c-B")).order_id == "B"
    with pytest.raises(ValueError, match="either"):
        await client.get_order()


async def test_cancels_order_by_either_id(script: Scripted, client: RewardClient) -> None:
    """A cancel answers with the order as it is then; one that comes too late is an error with its reason."""
    script.orders = {"A": order("A"), "c-B": order("B")}

    assert (await client.cancel_order("A")).state == order_pb2.ORDER_STATE_CANCELLED
    assert (await client.cancel_order(client_order_id="c-B")).order_id == "B"
    with pytest.raises(ValueError, match="either"):
        await client.cancel_order("A", client_order_id="c-B")
    script.refusal = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "ORDER_NOT_CANCELLABLE", "it is fulfilled")
    with pytest.raises(RewardError) as caught:
        await client.cancel_order("A")
    assert caught.value.reason == "ORDER_NOT_CANCELLABLE"


async def test_lists_every_page(script: Scripted, client: RewardClient) -> None:
    """Listing goes through all pages with the same filters."""
    script.orders = {name: order(name) for name in "ABCDE"}

    listed = [
        o.order_id
        async for o in client.list_orders(
            page_size=2, product_id="jd-100", created_after=datetime(2026, 1, 1, tzinfo=UTC)
        )
    ]

    assert listed == list("ABCDE")
    assert [(r.product_id, r.page_token) for r in script.list_requests] == [
        ("jd-100", ""),
        ("jd-100", "2"),
        ("jd-100", "4"),
    ]
    assert script.list_requests[2].created_after.ToDatetime(UTC) == datetime(2026, 1, 1, tzinfo=UTC)


async def test_time_without_zone_is_refused(client: RewardClient) -> None:
    """A time without a zone would mean another moment on every machine."""
    with pytest.raises(ValueError, match="time zone"):
        await anext(client.list_orders(created_after=datetime(2026, 1, 1)))  # noqa: DTZ001


async def test_pages_of_updates(script: Scripted, client: RewardClient) -> None:
    """The unary twin of the stream gives a page, a token to go on with, and whether there is more."""
    script.orders = {"A": order("A"), "B": fulfilled("B"), "C": order("C")}

    first = await client.list_order_updates(limit=2)
    second = await client.list_order_updates(after=first.resume_token, limit=2)

    assert [u.order.order_id for u in (*first.updates, *second.updates)] == ["A", "B", "C"]
    assert (first.more, second.more) == (True, False)


async def test_reads_products(script: Scripted, client: RewardClient) -> None:
    """Products are listed and read one by one."""
    script.products = [product("a/1"), product("b/2")]

    assert [p.product_id async for p in client.products()] == ["a/1", "b/2"]
    assert decimal_yuan((await client.get_product("b/2")).price) == Decimal("98.5")
    with pytest.raises(NotFoundError):
        await client.get_product("c/3")


async def test_cancelled_caller_is_cancelled(script: Scripted, client: RewardClient) -> None:
    """A call whose own task is cancelled isn't tried again."""
    script.creates.append(Refusal(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", retry_after=5))
    napping = asyncio.create_task(client.create_order("jd-100"))
    await script.created.wait()
    napping.cancel()

    with pytest.raises(asyncio.CancelledError):
        await napping
    assert len(script.create_requests) == 1


async def test_closed_client_says_so(client: RewardClient) -> None:
    """A call on a closed client is refused."""
    await client.close()

    with pytest.raises(ClosedError):
        await client.get_order("A")


@pytest.mark.parametrize(
    ("text", "units", "nanos"),
    [("98.50", 98, 500_000_000), ("0.0001", 0, 100_000), ("-1.5", -1, -500_000_000), ("100", 100, 0)],
)
def test_yuan(text: str, units: int, nanos: int) -> None:
    """Amounts are exact, and come back as they went."""
    money = yuan(text)

    assert (money.units, money.nanos) == (units, nanos)
    assert decimal_yuan(money) == Decimal(text)


@pytest.mark.parametrize("text", ["", "abc", "NaN", "Infinity", "1e400", "0.0000000001", "1" * 50])
def test_no_yuan(text: str) -> None:
    """What is no amount of money is refused."""
    with pytest.raises(ValueError, match=r"yuan|decimals"):
        yuan(text)


def test_no_floats() -> None:
    """A float isn't money."""
    with pytest.raises(TypeError, match="never a float"):
        yuan(0.1)  # type: ignore[arg-type]


def test_recipients() -> None:
    """Each helper fills its own field."""
    assert phone("+86", "13800138000").WhichOneof("recipient") == "phone"
    assert qq("10001").qq == "10001"
    assert account("someone").account == "someone"


@pytest.mark.parametrize(
    ("target", "loopback"),
    [
        ("127.0.0.1:50051", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("ipv6:[::1]:50051", True),
        ("dns:///localhost:50051", True),
        ("unix:/run/reward.sock", True),
        ("127.0.0.1.example.com:50051", False),
        ("10.0.0.1:50051", False),
        ("dns:///rewards.internal:50051", False),
    ],
)
def test_loopback(target: str, loopback: bool) -> None:
    """The development key is for servers on this machine."""
    assert is_loopback(target) is loopback


def test_key_is_needed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on another machine needs a key of its own, from the argument or the environment."""
    monkeypatch.delenv("REWARDSERVICE_KEY", raising=False)
    with pytest.raises(ValueError, match="no API key"):
        RewardClient("rewards.internal:50051")

    monkeypatch.setenv("REWARDSERVICE_KEY", "from-the-environment")
    RewardClient("rewards.internal:50051")


def test_bad_key_is_not_repeated() -> None:
    """A key that can't be a key is refused without being shown."""
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        RewardClient(key="sécret\n")
    assert "cret" not in str(caught.value)


def test_certificate_and_key_go_together() -> None:
    """A certificate without its key is refused."""
    with pytest.raises(ValueError, match="together"):
        TlsOptions(cert_file="client.pem")
