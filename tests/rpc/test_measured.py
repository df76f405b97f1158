"""What the metrics tell of streams: why they ended, how late their updates are, and how far behind readers are."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reward_server.domain.order import OrderState
from reward_server.metrics import Metrics, StreamEnd
from rewardservice.v1 import reward_service_pb2 as pb

from .test_streams_under_load import HEAVY, SMALL_WINDOW, STUCK_SECONDS, end_of
from .world import World, until, world


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """One sample."""
    families = text_string_to_metric_families(metrics.render().decode())
    [found] = [s.value for family in families for s in family.samples if (s.name, s.labels) == (name, labels)]
    return found


def ended(served: World) -> dict[str, float]:
    """How many streams ended, by cause; causes without any left out."""
    counts = {cause: value(served.metrics, "reward_streams_ended_total", cause=cause) for cause in StreamEnd}
    return {str(cause): count for cause, count in counts.items() if count}


async def test_a_stream_that_is_complete(served: World) -> None:
    """Its orders are terminal."""
    api = served.api()
    order_id = (await api.create()).order.order_id
    stream = api.stream(order_ids=[order_id], until_terminal=True)
    await stream.skip_to("snapshot_end")
    await served.change(order_id, OrderState.FAILED)
    await stream.rest()
    await until(lambda: ended(served) == {"complete": 1})


async def test_a_stream_whose_reader_left(served: World) -> None:
    """Nothing to look at."""
    stream = served.api().stream()
    await stream.skip_to("snapshot_end")
    stream.cancel()
    await until(lambda: ended(served) == {"cancelled": 1})
    assert value(served.metrics, "reward_streams") == 0


async def test_streams_of_a_server_that_ends(served: World) -> None:
    """They are told to go elsewhere."""
    stream = served.api().stream()
    await stream.skip_to("snapshot_end")
    draining = asyncio.create_task(served.server.drain(30))
    await end_of(stream)
    assert await draining
    assert ended(served) == {"draining": 1}


async def test_a_reader_who_takes_nothing(tmp_path: Path) -> None:
    """While it is stuck the lag says how far behind it is; then it counts as too slow."""
    async with world(tmp_path, stall_seconds=STUCK_SECONDS, tail_updates=16, pending_updates=8) as served:
        served.metrics.watch_streams(served.hub.lag)
        order = (await served.api().create(metadata=HEAVY)).order
        stuck = served.api(options=SMALL_WINDOW).stream()
        await stuck.skip_to("snapshot_end")
        furthest_behind = 0.0
        for _ in range(100):
            await served.change(order.order_id)
            furthest_behind = max(furthest_behind, value(served.metrics, "reward_stream_lag_updates"))
        assert furthest_behind > 8
        await until(lambda: ended(served) == {"too_slow": 1})
        assert value(served.metrics, "reward_stream_lag_updates") == 0


async def test_a_reader_whom_pruning_overtook(tmp_path: Path) -> None:
    """It was further behind than the log reaches."""
    async with world(tmp_path, tail_updates=4, pending_updates=2) as served:
        order = (await served.api().create(metadata=HEAVY)).order
        slow = served.api(options=SMALL_WINDOW).stream()
        await slow.skip_to("snapshot_end")
        for _ in range(100):
            await served.change(order.order_id)
        await served.store.prune("shop", 1 << 60, 1_000)
        await end_of(slow)
        assert ended(served) == {"log_pruned": 1}


@pytest.mark.parametrize("there", [True, False])
async def test_the_delay_is_that_of_readers_who_were_there(served: World, there: bool) -> None:
    """What waited for its reader to come back isn't late."""
    api = served.api()
    created = await api.create()
    if there:
        stream = api.stream()
        await stream.skip_to("snapshot_end")
        await served.change(created.order.order_id)
    else:
        await served.change(created.order.order_id)
        stream = api.stream(resume_token=created.resume_token, start=pb.STREAM_START_AFTER)
    await stream.skip_to("update")
    stream.cancel()
    await until(lambda: ended(served) == {"cancelled": 1})
    assert value(served.metrics, "reward_stream_delay_seconds_count") == there
