"""Readers that take nothing: the server holds a bounded little for each, however much there is to say."""

import asyncio
from pathlib import Path

import pytest

from reward_server.hub import Hub
from rpc.world import Stream, world

from .run import StuckReader, run
from .subscriber import BASIC, FULL

HEAVY = {str(n): "x" * 512 for n in range(20)}
"""10 KB in every update."""
STUCK = 40
TAIL, PENDING = 32, 16


def held(hub: Hub) -> tuple[int, int, int]:
    """What a hub keeps of one client's log: updates, bytes encoded of them, the most hints for one reader."""
    [tail] = hub._tails.values()
    entries = [*tail._latest.values(), *tail._replayed.values()]
    encoded = sum(len(message) for entry in entries for message in entry.messages if message is not None)
    return len(entries), encoded, max(len(watcher._pending) for watcher in tail.watchers())


async def test_what_the_hub_keeps_is_bounded_whatever_readers_do(tmp_path: Path) -> None:
    """Twenty readers that take nothing leave no more than the tail, and a reader that takes everything gets it."""
    small = (("grpc.http2.lookahead_bytes", 1_024), ("grpc.http2.bdp_probe", 0))
    async with world(tmp_path, tail_updates=TAIL, pending_updates=PENDING) as served:
        api = served.api()
        order_id = (await api.create(metadata=HEAVY)).order.order_id
        stuck = [served.api(options=small).stream() for _ in range(20)]
        healthy = api.stream()
        for stream in (*stuck, healthy):
            await stream.skip_to("snapshot_end")
        reading = asyncio.create_task(versions(healthy, 1_000))
        for _ in range(1_000):
            await served.change(order_id)
            updates, encoded, hints = held(served.hub)
            assert updates <= 2 * TAIL
            assert encoded <= 2 * TAIL * 2 * 12_000
            assert hints <= PENDING
        assert await reading == list(range(2, 1_002))
        for stream in (*stuck, healthy):
            stream.cancel()


async def versions(stream: Stream, count: int) -> list[int]:
    """Those of the next updates."""
    return [update.order.version for update in await stream.updates(count)]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system doesn't tell what memory is in use")
async def test_stuck_readers_dont_fill_the_memory_of_the_server(tmp_path: Path) -> None:
    """Each of forty readers leaves some 8 MB unread: 320 MB, of which the server keeps next to nothing."""
    async with run(tmp_path, seed=1) as one:
        await one.order([f"first-{n}" for n in range(50)], metadata=HEAVY)
        await one.settled()
        before = one.server.memory_kib
        stuck = [StuckReader(one.port, FULL if n % 2 else BASIC) for n in range(STUCK)]
        await asyncio.gather(*(reader.begin() for reader in stuck))
        await one.order([f"then-{n}" for n in range(300)], metadata=HEAVY)
        await one.settled()
        assert one.server.memory_kib - before < 100 * 1024
        for _, error in await asyncio.gather(*(reader.rest() for reader in stuck)):
            assert error.code().name == "RESOURCE_EXHAUSTED"
        for reader in stuck:
            await reader.close()
