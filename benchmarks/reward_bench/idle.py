"""`idle`: what thousands of streams cost on which nothing happens, and how long it takes to open them all at once."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import duration_pb2

from reward_bench.figures import Aim, Figure, Plan, Series, columns
from reward_bench.machine import free_port
from reward_bench.serving import Running, Service, helper
from reward_bench.streams import METHOD, record
from reward_bench.wire import Crowd
from rewardservice.v1 import reward_service_pb2 as pb

STREAMS = 10_000
BEAT_SECONDS = 4
"""Between two heartbeats where they are measured."""
SILENCE = 60
"""Where none are wanted."""
REST_SECONDS = 8.0


def _request(heartbeat: int) -> bytes:
    interval = duration_pb2.Duration(seconds=heartbeat)
    return pb.StreamOrderUpdatesRequest(start=pb.STREAM_START_NOW, heartbeat_interval=interval).SerializeToString()


async def open_all(server: Running, port: int, streams: int, heartbeat: int) -> tuple[Crowd, dict[str, float]]:
    """Opens all streams at once, and waits for the first message of each."""
    warm = Crowd()
    await warm.connect(port)
    warm.open(METHOD, 100, _request(SILENCE))
    await warm.until_open(100)
    warm.close()
    memory = server.memory()
    crowd = Crowd()
    await crowd.connect(port)
    begun = time.monotonic()
    crowd.open(METHOD, streams, _request(heartbeat))
    opened = await crowd.until_open(streams, 60)
    return crowd, {"opened": opened, "seconds": time.monotonic() - begun, "memory": memory}


async def idle_cpu(server: Running) -> float:
    """The share of a core that the server takes while nothing happens, in percent."""
    await asyncio.sleep(2)
    cpu, begun = server.cpu(), time.monotonic()
    await asyncio.sleep(REST_SECONDS)
    return 100 * (server.cpu() - cpu) / (time.monotonic() - begun)


async def silent(service: Service, streams: int) -> Mapping[str, float]:
    """One round: streams that say nothing."""
    async with helper(service.folder, "publisher", str(service.configure())) as server:
        nobody = await idle_cpu(server)
        crowd, found = await open_all(server, service.grpc, streams, SILENCE)
        server.tell("watchers")
        opened = min(found["opened"], await server.heard())
        memory = server.memory()
        cpu = await idle_cpu(server)
        crowd.close()
    return {
        "opened": opened,
        "seconds": found["seconds"],
        "kib": 1024 * (memory - found["memory"]) / streams,
        "cpu": cpu,
        "cpu_nobody": nobody,
    }


async def beating(service: Service, streams: int) -> Mapping[str, float]:
    """One round: streams with heartbeats, opened at once as after a restart."""
    async with helper(service.folder, "publisher", str(service.configure())) as server:
        crowd, found = await open_all(server, service.grpc, streams, BEAT_SECONDS)
        # From the second heartbeat on: the first one follows the opening.
        await crowd.until(1 << 60, 1.5 * BEAT_SECONDS)
        cpu = server.cpu()
        beats = await crowd.until(1 << 60, REST_SECONDS)
        per_beat = 1e6 * (server.cpu() - cpu) / max(1, beats)
        crowd.close()
    return {"reopened": found["opened"], "us": per_beat}


async def bare(service: Service, file: Path, streams: int) -> Mapping[str, float]:
    """One round of the bare server."""
    port = free_port()
    async with helper(service.folder, "bare", "stream", str(port), str(file)) as server:
        crowd, found = await open_all(server, port, streams, SILENCE)
        memory = server.memory()
        crowd.close()
    return {"seconds": found["seconds"], "kib": 1024 * (memory - found["memory"]) / streams}


async def measure(folder: Path, plan: Plan) -> list[Figure]:
    """Memory, time to open, CPU. The rounds take long and spread little: half as many."""
    service = Service(folder / "idle")
    service.folder.mkdir()
    file = await record(service.folder, service, 3)
    streams = plan.number(STREAMS, step=100)
    rounds = max(1, plan.rounds // 2)
    ours = columns([await silent(service, streams) for _ in range(rounds)])
    other = columns([await bare(service, file, streams) for _ in range(rounds)])
    beats = columns([await beating(service, streams) for _ in range(rounds)])
    opened = Series("StreamOrderUpdates", "s", ours["seconds"])
    return [
        Figure(
            key="idle-memory",
            title=f"Memory of one idle stream, of {streams:,}",
            series=(Series("StreamOrderUpdates", "KiB", ours["kib"]), Series("bare stream", "KiB", other["kib"])),
            aim=Aim("≤", 32.0),
        ),
        Figure(
            key="idle-open",
            title=f"Opening {streams:,} streams at once",
            series=(opened, Series("bare stream", "s", other["seconds"])),
            facts={
                "streams open, fewest": min(ours["opened"]),
                "streams open after a restart, fewest": min(beats["reopened"]),
            },
        ),
        Figure(
            key="idle-cpu",
            title=f"CPU of {streams:,} silent streams, percent of a core",
            series=(Series("with them", "%", ours["cpu"]), Series("without", "%", ours["cpu_nobody"])),
            facts={"CPU per heartbeat, µs": Series("", "", beats["us"]).median},
        ),
    ]
