"""Connections whose other end is gone without a word: pings notice it on both sides, with the settings as shipped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from reward_client_kit.relay import Relay
from rewardservice import RewardClient, Update
from rewardservice.v1 import reward_service_pb2 as pb
from rpc.world import Api, World, world

NOTICED_SECONDS = 60
"""The promise. Pings every 20 s that wait 10 s for an answer notice it after 30 s."""
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
pytestmark = pytest.mark.timeout(300)


@asynccontextmanager
async def a_vanished_client(folder: Path) -> AsyncIterator[World]:
    """A server with one stream, whose client is gone.

    The system takes every byte for it, nobody ends the connection, and the client doesn't ping: nothing but the server
    itself can notice.
    """
    async with (
        world(folder) as served,
        Relay(served.server.port).running() as network,
        grpc.aio.insecure_channel(f"127.0.0.1:{network.port}", options=OWN_CONNECTION) as channel,
    ):
        await Api(channel, "shop-key").stream(start=pb.STREAM_START_NOW).skip_to("heartbeat")
        assert served.metrics.streams._value.get() == 1
        network.silence()
        yield served


async def the_server_gives_it_up(folder: Path) -> None:
    """Its stream is forgotten."""
    async with a_vanished_client(folder) as served:
        async with asyncio.timeout(NOTICED_SECONDS):
            await served.hub._nobody.wait()
        assert served.metrics.streams._value.get() == 0
        assert not served.hub._tails


async def a_stopping_server_does_not_wait_for_it(folder: Path) -> None:
    """However patient it is with others."""
    async with a_vanished_client(folder) as served, asyncio.timeout(NOTICED_SECONDS):
        assert await served.server.drain(600)
        await served.server.stop(600)


async def the_client_goes_on_over_a_new_connection(folder: Path) -> None:
    """`watch` shows what was written while its connection was dead, long before it has missed three heartbeats."""
    async with world(folder) as served, Relay(served.server.port).running() as network:
        order_id = (await served.api().create()).order.order_id
        async with RewardClient(f"127.0.0.1:{network.port}", "shop-key") as client:
            events = client.watch(start=pb.STREAM_START_NOW, heartbeat_interval=60)
            async with aclosing(events):
                await anext(events)
                network.silence()
                await served.change(order_id)
                async with asyncio.timeout(NOTICED_SECONDS):
                    event = await anext(events)
                    while not isinstance(event, Update):
                        event = await anext(events)
                assert (event.order.order_id, event.order.version) == (order_id, 2)


async def test_a_half_open_connection_is_noticed_on_both_sides_within_a_minute(tmp_path: Path) -> None:
    """All at the same time, since there is nothing to do but to wait."""
    checks = (
        the_server_gives_it_up,
        a_stopping_server_does_not_wait_for_it,
        the_client_goes_on_over_a_new_connection,
    )
    async with asyncio.TaskGroup() as together:
        for check in checks:
            folder = tmp_path / check.__name__
            folder.mkdir()
            together.create_task(check(folder))
