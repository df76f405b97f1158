"""The broom sweeps beside the writers: between two of their commits goes a bounded piece of the log."""

import asyncio
from itertools import groupby
from pathlib import Path

import grpc
import pytest

from reward_server.clock import Clock
from reward_server.pruning import BATCH, DAY_MS, Pruner
from reward_server.store.open import open_store
from rpc.world import Stream, refused, world
from store.samples import START, an_order

ENTRIES = 20 * BATCH
LATER = START + 200 * DAY_MS


class LaterClock(Clock):
    """A clock that stands long after the sample orders."""

    def now_ms(self) -> int:
        return LATER


async def test_pruning_a_long_log_never_pauses_writers(tmp_path: Path) -> None:
    """However much is to go, a writer waits for two small steps at most: the one under way and the one beside it."""
    store = await open_store(f"sqlite:///{tmp_path}/rewards.db")
    await asyncio.gather(*(store.create(an_order()) for _ in range(ENTRIES)))
    happened: list[int] = []
    prune = store.prune

    async def counted(client_id: str, before: int, limit: int) -> int:
        happened.append(await prune(client_id, before, limit))
        return happened[-1]

    store.prune = counted  # type: ignore[method-assign]
    pruning = asyncio.create_task(Pruner(store, ["shop"], retention_days=90, clock=LaterClock()).prune())
    written = 0
    while not pruning.done():
        await store.create(an_order(updated_at=LATER))
        written += 1
        happened.append(-1)
    assert await pruning == ENTRIES
    between = [list(steps) for is_step, steps in groupby(happened, lambda size: size >= 0) if is_step]
    assert max(map(len, between)) <= 2
    assert max(map(max, between)) <= BATCH
    head = await store.head("shop")
    assert (head.pruned_through, head.position) == (ENTRIES, ENTRIES + written)
    await store.close()


async def test_who_comes_back_too_late_is_told_where_the_log_begins(tmp_path: Path) -> None:
    """The oldest token is the one to begin with: from there to the end nothing is missing, on streams too."""
    async with world(tmp_path) as served:
        api = served.api()
        created = await api.create()
        for _ in range(9):
            await served.change(created.order.order_id)
        await served.store.prune("shop", 1 << 60, 6)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await api.stream(resume_token=created.resume_token).next()
        error = refused(raised.value)
        assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED")
        stream = api.stream(resume_token=error.metadata["oldest_resume_token"])
        assert [update.order.version for update in await stream.updates(4)] == [7, 8, 9, 10]
        stream.cancel()


async def test_a_stream_that_the_broom_overtakes_says_so(tmp_path: Path) -> None:
    """A reader so slow that the log is pruned before it was read ends with OUT_OF_RANGE, never with a gap."""
    small = (("grpc.http2.lookahead_bytes", 1_024), ("grpc.http2.bdp_probe", 0))
    async with world(tmp_path, tail_updates=4, pending_updates=2) as served:
        api = served.api()
        order = (await api.create(metadata={str(n): "x" * 512 for n in range(20)})).order
        slow = served.api(options=small).stream()
        await slow.skip_to("snapshot_end")
        for _ in range(300):
            await served.change(order.order_id)
        await served.store.prune("shop", 1 << 60, 290)
        versions: list[int] = []
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await note_versions(slow, versions)
        error = refused(raised.value)
        assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED")
        assert versions == list(range(2, 2 + len(versions)))
        rest = api.stream(resume_token=error.metadata["oldest_resume_token"])
        assert (await rest.updates(1))[0].order.version == 291
        rest.cancel()


async def note_versions(stream: Stream, versions: list[int]) -> None:
    """Those of all updates, to the end of the stream."""
    while True:
        versions.append((await stream.skip_to("update")).order.version)
