"""Limits below the calls: pings and metadata that no honest client sends, and connections that grow old."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import grpc
import pytest

from reward_server.rpc import server
from rewardservice import RewardClient, Update
from rewardservice.v1 import reward_service_pb2 as pb

from .world import Refused, Stream, World, refused, world

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE = 3, 6
ENHANCE_YOUR_CALM = 11


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One HTTP/2 frame of the whole connection."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload


class Wire:
    """A connection that speaks HTTP/2 frame by frame: real clients keep the rules that are to be broken here."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def until(self, kind: int) -> bytes:
        """What the next frame of a kind says. Raises IncompleteReadError when the connection ends before."""
        while True:
            head = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == kind:
                return payload

    async def rest(self) -> bytes:
        """Everything until the other side closes."""
        return await self._reader.read()


@asynccontextmanager
async def wire(served: World, greeting: bytes = PREFACE + frame(SETTINGS)) -> AsyncIterator[Wire]:
    """A connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    writer.write(greeting)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


async def test_a_connection_hears_how_much_it_may_do(served: World) -> None:
    """So many calls at a time, so much metadata; more calls wait at the client."""
    async with wire(served) as connection:
        said = dict(struct.iter_unpack(">HI", await connection.until(SETTINGS)))
    assert said[MAX_CONCURRENT_STREAMS] == server.STREAMS_PER_CONNECTION
    assert said[MAX_HEADER_LIST_SIZE] == server.METADATA_BYTES_HARD


async def test_who_pings_without_end_is_sent_away_and_others_are_served(served: World) -> None:
    """The connection ends with ENHANCE_YOUR_CALM after a few pings."""
    api = served.api()
    stream = api.stream(start=pb.STREAM_START_NOW)
    await stream.next()
    async with wire(served) as connection:
        connection.writer.write(frame(PING, bytes(8)) * 20)
        last, code = struct.unpack_from(">II", await connection.until(GOAWAY))
    assert (last, code) == (0, ENHANCE_YOUR_CALM)
    order_id = (await api.create()).order.order_id
    assert [update.order.order_id for update in await stream.updates(1)] == [order_id]
    stream.cancel()


async def test_metadata_beyond_the_limit_is_refused_and_the_server_lives_on(served: World) -> None:
    """A key and a long trace fit; 20 KB don't, whoever sends them."""
    await served.api(x_trace="t" * 4_000).create()
    for key in ("shop-key", None):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await served.api(key, x_trace="t" * 20_000).get("x")
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "tttt" not in str(raised.value.details())
    await served.api().create()


async def test_who_connects_and_says_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody holds a connection without speaking HTTP/2."""
    monkeypatch.setattr(server, "HANDSHAKE_MS", 200)
    async with world(tmp_path) as served, wire(served, b"") as silent, wire(served, PREFACE[:5]) as half:
        await silent.rest()
        await half.rest()
        await served.api().create()


async def test_a_connection_grows_old_and_its_client_goes_on_over_another(tmp_path: Path) -> None:
    """It is told to go; its stream ends as in a drain, with the last token; nothing is lost on the way."""
    async with world(tmp_path, connection_age=1.0, stream_seconds=1.0, heartbeat=1.0) as served:
        api = served.api()
        order_id = (await api.create()).order.order_id
        async with wire(served) as idle, RewardClient(f"127.0.0.1:{served.server.port}", "shop-key") as client:
            stream = api.stream(start=pb.STREAM_START_NOW)
            token, ended = await last_words(stream)
            assert (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
            assert ended.retry_after is not None
            assert struct.unpack_from(">II", await idle.until(GOAWAY))[1] == 0
            await served.change(order_id)
            resumed = api.stream(resume_token=token)
            assert [update.order.version for update in await resumed.updates(1)] == [2]
            versions = []
            async with aclosing(client.watch(resume_token=token, heartbeat_interval=1)) as events:
                async for event in events:
                    if isinstance(event, Update):
                        versions.append(event.order.version)
                        if len(versions) == 4:
                            break
                        # From stream to stream, since each ends after a second or two.
                        asyncio.get_running_loop().call_later(1.0, change, served, order_id)
            assert versions == [2, 3, 4, 5]


async def last_words(stream: Stream) -> tuple[str, Refused]:
    """The last token of a quiet stream, and how it was ended."""
    token = ""
    try:
        while (message := await stream.next()) is not None:
            token = message.heartbeat.resume_token
    except grpc.aio.AioRpcError as error:
        return token, refused(error)
    raise AssertionError("the stream ended without a word")


_changing: set[asyncio.Task[object]] = set()


def change(served: World, order_id: str) -> None:
    """Lets an order change in the background."""
    task: asyncio.Task[object] = asyncio.create_task(served.change(order_id))
    _changing.add(task)
    task.add_done_callback(_changing.discard)
