"""A server that other machines can reach: no reflection and no published keys unless somebody asked for them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ports import free_port
from reward_server.access import new_key
from reward_server.app import App
from reward_server.config import ConfigError, load_settings
from rewardservice.v1 import reward_service_pb2, reward_service_pb2_grpc

from .harness import DEV, OPERATOR, OTHER, Place, certificate, refused


@asynccontextmanager
async def reachable(folder: Path, **environ: str) -> AsyncIterator[tuple[grpc.aio.Channel, str]]:
    """A server on all addresses, with TLS and one client; a channel to it and the client's key."""
    certificate_file, key_file = certificate(folder)
    key, key_hash = new_key()
    extra = f'[[clients]]\nid = "shop"\nkeys = ["{key_hash}"]\npermissions = ["order", "read"]\n'
    place = Place(folder=folder, sandbox_url="http://127.0.0.1:9", kinds=("kasushou",), extra=extra)
    port = free_port()
    tls = {"REWARD_GRPC__TLS_CERTIFICATE_FILE": str(certificate_file), "REWARD_GRPC__TLS_KEY_FILE": str(key_file)}
    app = App(load_settings(place.write(), {"REWARD_GRPC__BIND": f"0.0.0.0:{port}", **tls, **environ}))
    await app.start()
    credentials = grpc.ssl_channel_credentials(certificate_file.read_bytes())
    try:
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            yield channel, key
    finally:
        await app.close()


async def services(channel: grpc.aio.Channel) -> list[str]:
    """What reflection lists. Raises AioRpcError."""
    connect: Any = reflection_pb2_grpc.ServerReflectionStub
    stub = connect(channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    await call.done_writing()
    answer = await call.read()
    if answer is grpc.aio.EOF:
        raise AssertionError(await call.code())
    return [service.name for service in answer.list_services_response.service]


async def test_reflection_is_off_unless_switched_on(tmp_path: Path) -> None:
    """Nobody lists what there is; with `grpc.reflection = true` everybody does."""
    async with reachable(tmp_path) as (channel, _):
        assert (await refused(services(channel))).code() is grpc.StatusCode.UNIMPLEMENTED
    async with reachable(tmp_path, REWARD_GRPC__REFLECTION="true") as (channel, _):
        assert "rewardservice.v1.RewardService" in await services(channel)


async def test_published_keys_open_nothing(tmp_path: Path) -> None:
    """Only the keys of configured clients do."""
    async with reachable(tmp_path) as (channel, key):
        orders = reward_service_pb2_grpc.RewardServiceStub(channel)

        async def code(known: str | None) -> grpc.StatusCode:
            metadata = (("authorization", f"Bearer {known}"),) if known else ()
            request = reward_service_pb2.GetOrderRequest(order_id="x")
            return (await refused(orders.GetOrder(request, metadata=metadata))).code()

        for published in (DEV, OTHER, OPERATOR, None):
            assert await code(published) is grpc.StatusCode.UNAUTHENTICATED
        assert await code(key) is grpc.StatusCode.NOT_FOUND


def test_without_clients_of_its_own_it_does_not_start(tmp_path: Path) -> None:
    """The published keys would be the only ones."""
    certificate_file, key_file = certificate(tmp_path)
    place = Place(folder=tmp_path, sandbox_url="http://127.0.0.1:9", kinds=("kasushou",))
    tls = {"REWARD_GRPC__TLS_CERTIFICATE_FILE": str(certificate_file), "REWARD_GRPC__TLS_KEY_FILE": str(key_file)}
    with pytest.raises(ConfigError, match="no client is configured"):
        load_settings(place.write(), {"REWARD_GRPC__BIND": "0.0.0.0:50051", **tls})
