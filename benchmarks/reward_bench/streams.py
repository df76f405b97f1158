"""`streams`: StreamOrderUpdates beside bare gRPC streams of the same messages, with 100 and with 1,000 subscribers.

Messages out are counted from the first commit to the last byte: our server makes, commits, reads and encodes the
updates in that time; the bare one has the finished bytes in its memory.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc.aio

from reward_bench.figures import Aim, Figure, Plan, Series, at, columns
from reward_bench.machine import free_port
from reward_bench.publisher import PER_ORDER
from reward_bench.serving import Service, helper
from reward_bench.wire import KEY, SERVICE, CallsFailedError, Crowd
from rewardservice.v1 import reward_service_pb2 as pb

METHOD = SERVICE + "StreamOrderUpdates"
NOW = pb.StreamOrderUpdatesRequest(start=pb.STREAM_START_NOW).SerializeToString()
SUBSCRIBERS = (100, 1_000)
MESSAGES = 150_000
"""Of one round, over all subscribers."""
CALM_PER_SECOND = 30.0
CALM_SECONDS = 10


async def record(folder: Path, service: Service, updates: int) -> Path:
    """Writes down the messages of one stream, for the bare server."""
    file = folder / "messages"
    config = service.configure()
    async with (
        helper(folder, "publisher", str(config)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{service.grpc}") as channel,
    ):
        open_stream: Any = channel.unary_stream(METHOD)
        call = open_stream(NOW, metadata=(("authorization", KEY),))
        await call.read()
        server.tell(f"publish {updates // PER_ORDER} 0")
        with file.open("wb") as out:
            for _ in range(updates):
                message = await call.read()
                out.write(len(message).to_bytes(4, "big") + message)
        call.cancel()
    return file


async def throughput(
    folder: Path, command: tuple[str, ...], port: int, subscribers: int, updates: int
) -> Mapping[str, float]:
    """One round: messages per second out, and the CPU of the server for each. Each with a fresh server."""
    async with helper(folder, *command) as server:
        crowd = Crowd()
        await crowd.connect(port)
        crowd.open(METHOD, subscribers, NOW)
        await crowd.until_open(subscribers)
        messages = subscribers * updates
        cpu, own, begun = server.cpu(), time.process_time(), time.monotonic()
        server.tell(f"publish {updates // PER_ORDER} 0" if command[0] == "publisher" else "go")
        came = await crowd.until(messages)
        seconds = time.monotonic() - begun
        found = {
            "per_second": came / seconds,
            "server_us": 1e6 * (server.cpu() - cpu) / messages,
            "load_share": (time.process_time() - own) / seconds,
        }
        await server.heard()
        crowd.close()
    if came != messages:
        raise CallsFailedError(f"{came} of {messages} messages came")
    return found


async def calm(folder: Path, service: Service, subscribers: int) -> Mapping[str, float]:
    """From the commit of an update to its receipt by each subscriber, at a calm rate, in milliseconds."""
    async with helper(folder, "publisher", str(service.configure())) as server:
        crowd = Crowd()
        await crowd.connect(service.grpc)
        crowd.open(METHOD, subscribers, NOW)
        await crowd.until_open(subscribers)
        crowd.times = []
        updates = int(CALM_SECONDS * CALM_PER_SECOND) // PER_ORDER * PER_ORDER
        server.tell(f"publish {updates // PER_ORDER} {CALM_PER_SECOND}")
        committed = await server.heard()
        await crowd.until(updates * subscribers)
        crowd.close()
    # Every subscriber gets every update and the next one comes later than all of them: the nth hundred is the nth.
    took = [came - committed[place // subscribers] for place, came in enumerate(sorted(crowd.times))]
    return {"p50": 1000 * at(took, 0.5), "p99": 1000 * at(took, 0.99)}


async def measure(folder: Path, plan: Plan, counts: tuple[int, ...] = SUBSCRIBERS) -> list[Figure]:
    """A figure for each number of subscribers, and the time from commit to receipt."""
    service = Service(folder / "streams")
    service.folder.mkdir()
    figures = []
    for subscribers in counts:
        updates = plan.number(MESSAGES // subscribers, step=PER_ORDER)
        file = await record(service.folder, service, updates)
        port = free_port()
        sides = {
            "ours": (("publisher", str(service.configure())), service.grpc),
            "bare": (("bare", "stream", str(port), str(file)), port),
        }
        found: dict[str, list[Mapping[str, float]]] = {"ours": [], "bare": []}
        for turn in range(plan.rounds):
            for name in list(sides)[:: -1 if turn % 2 else 1]:
                command, at_port = sides[name]
                found[name].append(await throughput(service.folder, command, at_port, subscribers, updates))
        figures.append(_figure(subscribers, file.stat().st_size // updates - 4, found))
    if len(counts) > 1:
        figures.append(await _receipt(service, plan))
    return figures


def _figure(subscribers: int, size: int, found: Mapping[str, list[Mapping[str, float]]]) -> Figure:
    mine, other = columns(found["ours"]), columns(found["bare"])
    ours, bare = (
        Series("StreamOrderUpdates", "/s", mine["per_second"]),
        Series("bare stream", "/s", other["per_second"]),
    )
    return Figure(
        key=f"streams-{subscribers}",
        title=f"Messages out to {subscribers:,} subscribers, beside bare streams of finished bytes",
        series=(ours, bare),
        ratio=ours.over(bare, "of the bare stream"),
        aim=Aim("≥", 0.80),
        guarded=True,
        facts={
            "bytes per message": size,
            "server CPU per message, µs": Series("", "", mine["server_us"]).median,
            "bare server's CPU per message, µs": Series("", "", other["server_us"]).median,
            "load's share of its core, ours": max(mine["load_share"]),
            "load's share of its core, bare": max(other["load_share"]),
        },
    )


async def _receipt(service: Service, plan: Plan) -> Figure:
    rounds = columns([await calm(service.folder, service, 100) for _ in range(max(1, plan.rounds // 2))])
    return Figure(
        key="streams-receipt",
        title="From the commit of an update to its receipt by 100 subscribers, 30 updates a second",
        series=(Series("p50", "ms", rounds["p50"]), Series("p99", "ms", rounds["p99"])),
    )
