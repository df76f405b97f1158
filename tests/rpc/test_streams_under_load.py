"""Streams whose reader is slow or stuck, and streams of a server that goes away."""

import asyncio
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from reward_server.domain.order import OrderState
from reward_server.store import Update
from rewardservice.v1 import reward_service_pb2 as pb

from .world import Stream, World, refused, until, world

SMALL_WINDOW = (("grpc.http2.lookahead_bytes", 1_024), ("grpc.http2.bdp_probe", 0))
"""A reader that asks for little, so that few messages block the writer."""
HEAVY = {str(n): "x" * 512 for n in range(20)}
"""10 KB in every update."""
STUCK_SECONDS = 3.0
"""How long a write may be blocked where a test waits for that to be too long: a machine that is only busy isn't."""


async def end_of(stream: Stream) -> tuple[list[pb.StreamOrderUpdatesResponse], grpc.aio.AioRpcError]:
    """Reads a stream to its end, which must be an error."""
    messages = []
    try:
        while (message := await stream.next()) is not None:
            messages.append(message)
    except grpc.aio.AioRpcError as error:
        return messages, error
    raise AssertionError("the stream ended without an error")


async def test_a_stuck_reader_ends_with_its_token_and_harms_nobody(tmp_path: Path) -> None:
    """One blocked write ends the stream with READER_TOO_SLOW and a token that loses nothing; others go on."""
    async with world(tmp_path, stall_seconds=STUCK_SECONDS) as served:
        api = served.api()
        order = (await api.create(metadata=HEAVY)).order
        stuck, healthy = served.api(options=SMALL_WINDOW).stream(), api.stream()
        await stuck.skip_to("snapshot_end")
        await healthy.skip_to("snapshot_end")
        reading = asyncio.create_task(healthy.updates(100))
        for _ in range(100):
            await served.change(order.order_id)
        seen = await reading
        assert [update.order.version for update in seen] == list(range(2, 102))
        await until(lambda: served.metrics.streams._value.get() == 1)
        messages, error = await end_of(stuck)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused(error).reason == "READER_TOO_SLOW"
        versions = [message.update.order.version for message in messages]
        assert len(versions) < 100
        rest = api.stream(resume_token=refused(error).metadata["resume_token"])
        while versions[-1] < 101:
            versions.append((await rest.skip_to("update")).order.version)
        # The update whose write was blocked may come twice, nothing is missing.
        assert sorted(set(versions)) == list(range(2, 102))
        assert len(versions) <= 101
        healthy.cancel()
        rest.cancel()


async def test_the_token_of_a_stuck_reader_is_that_of_the_last_update_written(tmp_path: Path) -> None:
    """Also when many updates were read from the log at once: what was written isn't written again."""
    async with world(tmp_path, stall_seconds=STUCK_SECONDS) as served:
        api = served.api()
        created = await api.create()
        for _ in range(90):
            await served.change(created.order.order_id)
        stuck = served.api(options=SMALL_WINDOW).stream(resume_token=created.resume_token)
        await stuck.skip_to("heartbeat")
        await until(lambda: served.metrics.streams._value.get() == 0)
        messages, error = await end_of(stuck)
        last = messages[-1].update.order.version
        assert 3 < last < 91
        rest = await api.updates(after=refused(error).metadata["resume_token"], limit=1_000)
        # The one whose write was blocked may have come through all the same.
        assert rest.updates[0].order.version in (last, last + 1)


async def test_a_reader_stuck_in_a_snapshot_has_no_token_to_continue_with(tmp_path: Path) -> None:
    """The token of the head would skip what is left of the snapshot."""
    async with world(tmp_path, stall_seconds=STUCK_SECONDS) as served:
        for _ in range(60):
            await served.api().create(metadata=HEAVY)
        stuck = served.api(options=SMALL_WINDOW).stream(start=pb.STREAM_START_SNAPSHOT)
        await stuck.skip_to("snapshot")
        await until(lambda: served.metrics.streams._value.get() == 0)
        messages, error = await end_of(stuck)
        assert not any(message.HasField("snapshot_end") for message in messages)
        assert refused(error).reason == "READER_TOO_SLOW"
        assert "resume_token" not in refused(error).metadata


async def test_a_slow_reader_is_not_ended(tmp_path: Path) -> None:
    """A reader far behind, but reading, gets everything: the server reads the log again instead of keeping it."""
    async with world(tmp_path, tail_updates=16, pending_updates=8) as served:
        api = served.api()
        order = (await api.create(metadata=HEAVY)).order
        slow = served.api(options=SMALL_WINDOW).stream()
        await slow.skip_to("snapshot_end")
        for _ in range(300):
            await served.change(order.order_id)
        updates = await slow.updates(300)
        assert [update.order.version for update in updates] == list(range(2, 302))
        assert served.store.log_reads > 0  # type: ignore[attr-defined]
        slow.cancel()


async def test_a_long_search_leaves_time_for_others(served: World) -> None:
    """A stream far behind that wants next to nothing of the log lets others run between any two pages of it."""
    api = served.api()
    wanted, other = (await api.create()).order.order_id, (await api.create()).order.order_id
    beginning = (await api.updates(limit=1)).resume_token
    for _ in range(1_000):
        await served.change(other)
    await served.change(wanted)
    happened: list[str] = []
    read = served.store.updates

    async def noted(client_id: str, after: int, limit: int) -> list[Update]:
        happened.append("page")
        return await read(client_id, after, limit)

    async def live() -> None:
        while True:
            happened.append("turn")
            await asyncio.sleep(0)

    served.store.updates = noted  # type: ignore[method-assign]
    living = asyncio.create_task(live())
    stream = api.stream(resume_token=beginning, order_ids=[wanted])
    assert [update.order.version for update in await stream.updates(1)] == [2]
    living.cancel()
    assert happened.count("page") > 10
    assert ("page", "page") not in pairwise(happened)
    stream.cancel()


async def test_a_reader_that_leaves_is_forgotten(served: World) -> None:
    """A cancelled stream leaves nothing behind in the hub."""
    api = served.api()
    streams = [api.stream() for _ in range(10)]
    for stream in streams:
        await stream.skip_to("snapshot_end")
    assert served.metrics.streams._value.get() == 10
    for stream in streams:
        stream.cancel()
    await until(lambda: served.metrics.streams._value.get() == 0 and not served.hub._tails)


async def test_draining_ends_every_stream_with_its_token(served: World) -> None:
    """The last message is a heartbeat, the end UNAVAILABLE with RetryInfo, and the token continues."""
    api = served.api()
    order_id = (await api.create()).order.order_id
    streams = [api.stream(), api.stream(order_ids=[order_id]), served.api("other-key").stream()]
    for stream in streams:
        await stream.skip_to("snapshot_end")
    draining = asyncio.create_task(served.server.drain(30))
    pauses = set()
    for stream in streams:
        messages, error = await end_of(stream)
        assert [message.WhichOneof("message") for message in messages] == ["heartbeat"]
        end = refused(error)
        assert (end.code, end.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
        assert end.retry_after is not None
        assert 0 < end.retry_after <= 2
        pauses.add(end.retry_after)
        token = messages[0].heartbeat.resume_token
        client_id = "other" if stream is streams[2] else "shop"
        head = await served.store.head(client_id)
        assert served.place(token, head, client_id) == head.position
    assert await draining
    assert len(pauses) > 1, "they would all come back at once"


async def test_a_draining_server_takes_no_new_streams(served: World) -> None:
    """Who comes while the server drains is sent elsewhere at once."""
    await served.server.drain(1)
    messages, error = await end_of(served.api().stream())
    assert not messages
    assert refused(error).reason == "SERVER_DRAINING"
    assert refused(error).retry_after is not None


async def test_draining_waits_for_no_snapshot(tmp_path: Path) -> None:
    """A stream in the middle of a long snapshot is ended there, without a token: none stands for half of it."""
    async with world(tmp_path) as served:
        for _ in range(350):
            await served.api().create(metadata=HEAVY)
        slow = served.api(options=SMALL_WINDOW).stream(start=pb.STREAM_START_SNAPSHOT)
        await slow.skip_to("snapshot")
        draining = asyncio.create_task(served.server.drain(60))
        messages, error = await end_of(slow)
        assert len(messages) < 349
        assert {message.WhichOneof("message") for message in messages} == {"snapshot"}
        assert (refused(error).reason, "resume_token" in refused(error).metadata) == ("SERVER_DRAINING", False)
        assert await draining


async def test_a_stuck_reader_gets_no_second_patience_from_a_stopping_server(tmp_path: Path) -> None:
    """Draining and stopping share one time: what the first used up isn't waited for again."""
    async with world(tmp_path) as served:
        order = (await served.api().create(metadata=HEAVY)).order
        stuck = served.api(options=SMALL_WINDOW).stream()
        await stuck.skip_to("snapshot_end")
        for _ in range(100):
            await served.change(order.order_id)
        assert not await served.server.drain(0.5)
        async with asyncio.timeout(30):
            await served.server.stop(600)


async def test_draining_answers_who_waits_for_an_order(served: World) -> None:
    """CreateOrder with `wait` answers with the order as it is."""
    api = served.api()
    follower = await api.awaiting("a-1")
    waiting = asyncio.ensure_future(api.create("a-1", wait={"seconds": 30}))
    await follower.skip_to("update")
    await served.server.drain(1)
    assert (await waiting).order.client_order_id == "a-1"


@pytest.mark.rule("D2")
async def test_a_client_that_gives_up_waiting_loses_nothing(served: World) -> None:
    """A cancelled CreateOrder leaves its order, to be found under the same id."""
    api = served.api()
    follower = await api.awaiting("a-1")
    waiting = asyncio.ensure_future(api.create("a-1", wait={"seconds": 30}))
    order = (await follower.skip_to("update")).order
    waiting.cancel()
    await served.change(order.order_id, OrderState.FULFILLED)
    again = await api.create("a-1")
    assert (again.replayed, again.order.version) == (True, 2)
