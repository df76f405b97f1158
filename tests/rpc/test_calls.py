"""What is true of every call: keys, permissions, request ids, and how errors arrive."""

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from reward_server.access import Permission
from reward_server.rpc.interceptor import ALLOWED
from reward_server.store import StoreUnavailable
from rewardservice.v1 import catalog_service_pb2, operator_service_pb2, reward_service_pb2

from .world import CLIENTS, Api, World, refused, until

METHODS = [
    method
    for file in (reward_service_pb2.DESCRIPTOR, catalog_service_pb2.DESCRIPTOR, operator_service_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
]


def short(method: MethodDescriptor) -> str:
    """As in "RewardService/CreateOrder"."""
    return f"{method.containing_service.name}/{method.name}"


async def outcome(api: Api, method: MethodDescriptor, request: bytes = b"") -> grpc.aio.AioRpcError | None:
    """How a call with an empty request ends."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    channel: Any = api.channel
    try:
        if method.server_streaming:
            stream = channel.unary_stream(path)(request, metadata=api.metadata)
            await stream.read()
            stream.cancel()
        else:
            await channel.unary_unary(path)(request, metadata=api.metadata)
    except grpc.aio.AioRpcError as error:
        return error
    return None


def test_every_method_names_its_permissions() -> None:
    """No RPC enters the contract without a decision on who may call it."""
    assert set(ALLOWED) == {short(method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS, ids=short)
@pytest.mark.parametrize("client", [None, "stranger", *CLIENTS])
async def test_keys_and_permissions(served: World, method: MethodDescriptor, client: str | None) -> None:
    """Without one of our keys a call is UNAUTHENTICATED, without the permission PERMISSION_DENIED, else it runs."""
    error = await outcome(served.api(client and f"{client}-key"), method)
    if client not in CLIENTS:
        assert error is not None
        assert refused(error).reason == "UNAUTHENTICATED"
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    elif CLIENTS[client].isdisjoint(ALLOWED[short(method)]):
        assert error is not None
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert refused(error).reason == "PERMISSION_DENIED"
        assert refused(error).metadata["permission"] == " or ".join(ALLOWED[short(method)])
    else:
        # An empty request may be wrong, but whoever may call is told what is wrong with it.
        assert error is None or refused(error).reason == "INVALID_REQUEST"


@pytest.mark.parametrize("method", METHODS, ids=short)
async def test_bytes_that_are_no_message_are_refused(served: World, method: MethodDescriptor) -> None:
    """A request that can't be decoded is the caller's error, with details like any other."""
    key = "operator-key" if ALLOWED[short(method)] == (Permission.OPERATE,) else "shop-key"
    error = await outcome(served.api(key), method, b"\xff\xff\xff")
    assert error is not None
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused(error).reason == "INVALID_REQUEST"


@pytest.mark.parametrize("header", ["shop-key", "Basic shop-key", "Bearer", "Bearer  shop-key"])
async def test_a_malformed_key_is_refused(served: World, header: str) -> None:
    """Only `Bearer KEY` is read, and what was sent is never repeated."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.api(None, authorization=header).get("x")
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "shop-key" not in str(raised.value)


async def test_an_unknown_method_is_unimplemented(served: World) -> None:
    """A method that doesn't exist is refused with details too, key or not."""
    channel: Any = served.api(None).channel
    for path in ("/rewardservice.v1.RewardService/Nope", "/nowhere.Service/Nope"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary(path)(b"")
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert refused(raised.value).reason == "UNIMPLEMENTED"


async def test_the_request_id_is_echoed(served: World) -> None:
    """A caller's own request id comes back in the trailers of an answer and in the details of an error."""
    api = served.api(x_request_id="trace-1")
    call = api.rewards.ListOrders(reward_service_pb2.ListOrdersRequest(), metadata=api.metadata)
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "trace-1"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await api.get("x")
    assert dict(raised.value.trailing_metadata())["x-request-id"] == "trace-1"
    assert refused(raised.value).metadata["request_id"] == "trace-1"


@pytest.mark.parametrize("sent", [None, "x" * 65, "a b", ""])
async def test_a_request_id_is_made_where_there_is_no_sane_one(served: World, sent: str | None) -> None:
    """What can't be written into a log as it stands isn't used; the call gets an id all the same."""
    api = served.api(**({} if sent is None else {"x_request_id": sent}))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await api.get("x")
    made = refused(raised.value).metadata["request_id"]
    assert made
    assert made != sent


@pytest.mark.parametrize(
    "sent",
    ["{key}", "req-{key}", "Bearer", "shop@example.com", "13800138000", "+86-138-0013-8000", "6222.0000.1111.2222"],
)
async def test_no_key_and_no_number_of_a_person_is_a_request_id(served: World, sent: str) -> None:
    """It would stand in the log: the call's own key, a part of what it shows, an e-mail address, a phone number."""
    api = served.api()
    [shown] = [value for key, value in api.metadata if key == "authorization"]
    sent = sent.format(key=shown.removeprefix("Bearer "))
    api.metadata = (*api.metadata, ("x-request-id", sent))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await api.get("x")
    made = refused(raised.value).metadata["request_id"]
    assert dict(raised.value.trailing_metadata())["x-request-id"] == made
    assert made
    assert made != sent


async def test_a_defect_shows_nothing_but_its_request_id(served: World, capsys: pytest.CaptureFixture[str]) -> None:
    """An error of our own is INTERNAL; its text is logged with the request id, not answered."""
    served.shop.fail_with = KeyError("CANARY")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.api(x_request_id="trace-2").create()
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert refused(raised.value).reason == "INTERNAL"
    assert "CANARY" not in str(raised.value)
    logged = capsys.readouterr().out
    assert "CANARY" in logged
    assert "trace-2" in logged


@pytest.mark.rule("D12")
async def test_a_store_that_cannot_write_asks_for_a_retry(served: World) -> None:
    """UNAVAILABLE with RetryInfo: nothing was stored, the same ids may be sent again."""
    served.shop.fail_with = StoreUnavailable("disk full")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.api().create()
    error = refused(raised.value)
    assert (error.code, error.reason, error.retry_after) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", 1.0)


async def test_calls_are_counted(served: World) -> None:
    """Every call is measured by its method and how it ended."""
    api = served.api()
    await api.create()
    with pytest.raises(grpc.aio.AioRpcError):
        await api.get("x")
    expected = (
        b'reward_rpc_finished_total{code="OK",method="RewardService/CreateOrder"} 1.0',
        b'reward_rpc_finished_total{code="NOT_FOUND",method="RewardService/GetOrder"} 1.0',
    )
    # The answer may arrive before the server has counted it.
    await until(lambda: all(line in served.metrics.render() for line in expected))


async def test_a_large_request_is_refused(served: World) -> None:
    """A request above the limit is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.api().create(metadata={"k": "x" * 300_000})
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_cards_are_a_permission_of_their_own() -> None:
    """No method is opened by the permission to read cards alone."""
    assert all(Permission.READ_CARDS not in allowed for allowed in ALLOWED.values())
