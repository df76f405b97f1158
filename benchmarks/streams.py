"""Streams of order updates against bare gRPC streams of the same messages, and what many idle streams cost.

    .venv/bin/python benchmarks/streams.py [--rounds 5] [--streams 10000] [--json FILE]

The server is as shipped: keys, interceptor, metrics, SQLite with fsync, sealed cards. It has one core and the load, a
process that only counts HTTP/2 frames, another. Messages out are counted from the first commit to the last byte: our
server makes, commits, reads and encodes the updates in that time; the bare one has the finished bytes in its memory.
Both run in turns, and the figure is the median of the rounds' ratios. Use a calm machine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import uvloop
from google.protobuf import duration_pb2

from reward_adapters.contract import Card, CardKind, ProductKind
from reward_server.app import App
from reward_server.config import load_settings
from reward_server.domain.ids import IdSource
from reward_server.domain.order import Order, OrderState
from reward_server.hub import Hub
from reward_server.logs import configure_logs
from reward_server.sealing import Vault, create_master_key_file
from reward_server.store import Change, SealedCard
from rewardservice.v1 import reward_service_pb2 as pb

METHOD = "/rewardservice.v1.RewardService/StreamOrderUpdates"
KEY = "Bearer dev-key"
CLIENT = "dev"
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
AT_ONCE = 64
"""Orders that are changed in the same breath: about what a busy group commit holds."""
PER_ORDER = 3
"""Updates of one order: made, sent to the supplier, delivered with a card."""
CONNECTIONS = 4
BEAT_SECONDS = 4
"""Between two heartbeats where they are measured."""


def process_memory_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise LookupError(pid)


def process_cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, all its threads."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


# --- The servers: processes of their own, told by lines on their input what to do -------------------------------------


async def commands() -> AsyncIterator[list[str]]:
    """What the load tells the server."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().split()


def answer(what: Any) -> None:
    """What the server tells the load."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Publisher:
    """Makes updates in the server's own store, as the engine's commits would."""

    def __init__(self, app: App, vault: Vault) -> None:
        self._store = app.store
        self._vault = vault
        self._new_id = IdSource(lambda: time.time_ns() // 1_000_000)
        self.committed: list[float] = []
        """When each update was committed, by the monotonic clock."""
        self._store.listen(lambda updates: self.committed.extend([time.monotonic()] * len(updates)))

    async def publish(self, orders: int, per_second: float = 0.0) -> None:
        """So many orders of three updates each, as fast as the store takes them or at a rate of updates."""
        sealer = await self._vault.client(CLIENT)
        self.committed.clear()
        begun = time.monotonic()
        at_once = 1 if per_second else AT_ONCE
        for done in range(0, orders, at_once):
            count = min(at_once, orders - done)
            await asyncio.gather(*(self._life_of_an_order(sealer) for _ in range(count)))
            if per_second:
                await asyncio.sleep(max(0.0, begun + (done + 1) * PER_ORDER / per_second - time.monotonic()))

    async def _life_of_an_order(self, sealer: Any) -> None:
        order_id, now = self._new_id(), time.time_ns() // 1_000_000
        order = Order(
            client_id=CLIENT,
            order_id=order_id,
            client_order_id=f"co-{order_id}",
            product_id="jd-100",
            product_kind=ProductKind.CARD,
            quantity=1,
            recipient=None,
            max_unit_price=None,
            supplier_parameters={},
            metadata={"campaign": "spring", "user": "u-1234567"},
            offers=(),
            created_at=now,
            updated_at=now,
        )
        await self._store.create(order)
        order = replace(order, version=2, revision=2, state=OrderState.PROCESSING)
        await self._store.save(Change(order=order, visible=True))
        card = Card(kind=CardKind.NUMBER_AND_SECRET, number="6220123412341234", secret="1234-5678-9012")  # noqa: S106 - made up
        sealed = SealedCard(1, 3, order_id, sealer.seal_card(card, order_id, 1))
        order = replace(order, version=3, revision=3, state=OrderState.FULFILLED, card_count=1, delivered_quantity=1)
        await self._store.save(Change(order=order, visible=True, cards=(sealed,)))


async def serve_ours(folder: Path, port: int) -> None:
    """The server as shipped, with somebody inside who changes orders."""
    key, config = folder / "key", folder / "reward.toml"
    if not key.exists():
        create_master_key_file(key)
    config.write_text(
        f'[grpc]\nbind = "127.0.0.1:{port}"\n[http]\nbind = "127.0.0.1:{port + 1}"\n'
        f'[store]\nurl = "sqlite:///{folder}/reward.db"\n[secrets]\nmaster_key_file = "{key}"\n'
    )
    settings = load_settings(config, {})
    configure_logs("info", "json", sys.stderr)
    app = App(settings)
    await app.start()
    publisher = Publisher(app, await Vault.unlock(app.store, settings.master_keys))
    answer("ready")
    async for command in commands():
        match command:
            case ["publish", orders, rate]:
                await publisher.publish(int(orders), float(rate))
                answer(publisher.committed)
            case ["watchers"]:
                answer(_watchers(app.hub))
    await app.close()


def _watchers(hub: Hub) -> int:
    return sum(len(tail.watchers()) for tail in hub._tails.values())  # noqa: SLF001 - there is no other way to know


async def serve_bare(folder: Path, port: int) -> None:
    """A gRPC server that writes finished messages, and nothing else."""
    raw = (folder / "messages").read_bytes()
    messages = []
    while raw:
        size = int.from_bytes(raw[:4], "big")
        messages.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    go = asyncio.Event()
    streams = 0

    async def stream(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        nonlocal streams
        streams += 1
        await context.write(messages[0])
        await go.wait()
        for message in messages:
            await context.write(message)
        await asyncio.Event().wait()

    service, method = METHOD[1:].split("/")
    server = grpc.aio.server(
        options=[
            ("grpc.max_concurrent_streams", 10_000),
            ("grpc.server.max_pending_requests", 100_000),
            ("grpc.server.max_pending_requests_hard_limit", 200_000),
        ]
    )
    # It writes to the context instead of yielding, as ours does.
    handler: Any = stream
    handlers: dict[str, Any] = {method: grpc.unary_stream_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    answer("ready")
    async for command in commands():
        if command == ["go"]:
            go.set()
        answer(streams)
    await server.stop(0)


class Server:
    """One of the two in its own process, on its own core."""

    def __init__(self, kind: str, folder: Path, port: int) -> None:
        self._arguments = [sys.executable, __file__, "--serve", kind, str(folder), str(port)]
        self._folder = folder
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> "Server":
        with (self._folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments, stdin=-1, stdout=-1, stderr=log, limit=1 << 28
            )
        await self.heard()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.wait()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def tell(self, command: str) -> None:
        """One line."""
        cast(asyncio.StreamWriter, self._process.stdin).write(command.encode() + b"\n")

    async def heard(self) -> Any:
        """The next answer."""
        line = await cast(asyncio.StreamReader, self._process.stdout).readline()
        if not line:
            raise SystemExit((self._folder / "log").read_text()[-3000:])
        return json.loads(line)


# --- The load: as little HTTP/2 as it takes to open streams and count what comes --------------------------------------

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
LARGEST = 2**31 - 1


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header that nobody remembers; both shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


class Connection(asyncio.Protocol):
    """One connection with many streams; counts messages and says when each came, if asked to."""

    def __init__(self, note: Callable[[bool], None]) -> None:
        self.streams: set[int] = set()
        """Those that said something."""
        self.ended = 0
        self._note = note
        self._buffer = bytearray()
        self._next_stream = 1
        self._partial: dict[int, bytearray] = {}
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins with windows so wide that nothing needs to be said again."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, LARGEST))
            + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST - 65_535))
        )

    def open(self, request: bytes) -> None:
        """One more stream."""
        headers = b"".join(
            literal(name, value)
            for name, value in (
                (":method", "POST"), (":scheme", "http"), (":path", METHOD), (":authority", "127.0.0.1"),
                ("content-type", "application/grpc"), ("te", "trailers"), ("authorization", KEY),
            )
        )  # fmt: skip
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        body = b"\x00" + len(request).to_bytes(4, "big") + request
        self._transport.write(frame(HEADERS, 4, stream, headers) + frame(DATA, 1, stream, body))

    def data_received(self, data: bytes) -> None:
        """Takes whole frames."""
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        while end - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if end - at < 9 + size:
                break
            kind, flags, stream = struct.unpack_from(">BBI", buffer, at + 3)
            if kind == DATA:
                self._count(stream, buffer, at + 9, at + 9 + size)
            else:
                self._control(kind, flags, bytes(buffer[at + 9 : at + 9 + size]))
            at += 9 + size
        del buffer[:at]

    def _count(self, stream: int, buffer: bytearray, at: int, end: int) -> None:
        partial = self._partial.get(stream)
        if partial is not None:
            partial += buffer[at:end]
            buffer, at, end = partial, 0, len(partial)
        while end - at >= 5:
            size = 5 + int.from_bytes(buffer[at + 1 : at + 5], "big")
            if end - at < size:
                break
            at += size
            self._note(stream not in self.streams)
            self.streams.add(stream)
        if at < end:
            self._partial[stream] = bytearray(buffer[at:end])
        elif partial is not None:
            del self._partial[stream]

    def _control(self, kind: int, flags: int, payload: bytes) -> None:
        if kind in (SETTINGS, PING) and not flags & 1:
            self._transport.write(frame(kind, 1, 0, payload if kind == PING else b""))
        elif kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & 1):
            self.ended += 1

    def close(self) -> None:
        """Leaves at once."""
        self._transport.abort()


class Load:
    """Some connections, and how many messages came over all of them."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.times: list[float] | None = None
        """When each message came, if somebody wants to know."""
        self._count = 0
        self._streams = 0
        self._enough: Callable[[], bool] = lambda: False
        self._reached = asyncio.Event()

    async def connect(self, port: int, connections: int = CONNECTIONS) -> None:
        """Opens connections."""
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, one = await loop.create_connection(lambda: Connection(self._note), "127.0.0.1", port)
            self.connections.append(one)

    def open(self, streams: int, **request: Any) -> None:
        """Opens streams, all at once."""
        raw = pb.StreamOrderUpdatesRequest(**request).SerializeToString()
        for n in range(streams):
            self.connections[n % len(self.connections)].open(raw)

    async def until(self, messages: int, patience: float = 120) -> int:
        """Waits for so many messages since the last time, but not for ever; how many came."""
        await self._until(lambda: self._count >= messages, patience)
        count, self._count = self._count, 0
        return count

    async def until_open(self, streams: int, patience: float = 120) -> int:
        """Waits until so many streams said something, but not for ever; how many did."""
        await self._until(lambda: self._streams >= streams, patience)
        self._count = 0
        return self._streams

    async def _until(self, reached: Callable[[], bool], patience: float) -> None:
        self._enough = reached
        self._reached.clear()
        with contextlib.suppress(TimeoutError):
            if not reached():
                await asyncio.wait_for(self._reached.wait(), patience)
        self._enough = lambda: False

    def _note(self, is_first: bool) -> None:
        self._count += 1
        self._streams += is_first
        if self.times is not None:
            self.times.append(time.monotonic())
        if self._enough():
            self._reached.set()

    def close(self) -> None:
        """Leaves."""
        for connection in self.connections:
            connection.close()


# --- The measurements -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    rounds: int
    subscribers: int
    updates: int
    streams: int
    idle_seconds: float


async def record(folder: Path, port: int, plan: Plan) -> None:
    """Writes down the messages of one stream, for the bare server."""
    async with Server("ours", folder, port) as server, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        open_stream: Any = channel.unary_stream(METHOD)
        call = open_stream(
            pb.StreamOrderUpdatesRequest(start=pb.STREAM_START_NOW).SerializeToString(),
            metadata=(("authorization", KEY),),
        )
        await call.read()
        server.tell(f"publish {plan.updates // PER_ORDER} 0")
        with (folder / "messages").open("wb") as file:
            for _ in range(plan.updates):
                message = await call.read()
                file.write(len(message).to_bytes(4, "big") + message)
        call.cancel()


async def throughput(kind: str, folder: Path, port: int, plan: Plan) -> dict[str, float]:
    """Messages per second out, and the CPU of the server for each."""
    async with Server(kind, folder, port) as server:
        load = Load()
        await load.connect(port)
        load.open(plan.subscribers, start=pb.STREAM_START_NOW)
        await load.until_open(plan.subscribers)
        messages = plan.subscribers * plan.updates
        cpu, load_cpu, begun = process_cpu_seconds(server.pid), time.process_time(), time.monotonic()
        server.tell(f"publish {plan.updates // PER_ORDER} 0" if kind == "ours" else "go")
        came = await load.until(messages)
        seconds = time.monotonic() - begun
        figures = {
            "messages_per_second": came / seconds,
            "server_cpu_us_per_message": 1e6 * (process_cpu_seconds(server.pid) - cpu) / came,
            "load_cpu_share": (time.process_time() - load_cpu) / seconds,
        }
        await server.heard()
        load.close()
        if came != messages:
            raise SystemExit(f"{came} of {messages} messages came")
        return figures


async def latency(folder: Path, port: int, plan: Plan, per_second: float = 30) -> dict[str, float]:
    """From the commit of an update to its receipt by each subscriber, at a calm rate."""
    async with Server("ours", folder, port) as server:
        load = Load()
        await load.connect(port)
        load.open(plan.subscribers, start=pb.STREAM_START_NOW)
        await load.until_open(plan.subscribers)
        load.times = []
        updates = int(10 * per_second) // PER_ORDER * PER_ORDER
        server.tell(f"publish {updates // PER_ORDER} {per_second}")
        committed = await server.heard()
        await load.until(updates * plan.subscribers)
        load.close()
        # Every subscriber gets every update and the next one comes later than all of them: the nth hundred is the nth.
        took = sorted(
            came - committed[place // plan.subscribers]
            for place, came in enumerate(sorted(load.times))
        )  # fmt: skip
        return {"p50_ms": 1000 * took[len(took) // 2], "p99_ms": 1000 * took[int(len(took) * 0.99)]}


async def crowd(folder: Path, port: int, plan: Plan) -> dict[str, float]:
    """Thousands of idle streams: their memory, their CPU, and the time to open them all, also after a restart."""
    async with Server("ours", folder, port) as server:
        nobody = await idle_cpu(server, plan.idle_seconds)
        load, opened = await open_all(server, port, plan, 60)
        before, load_memory = opened.pop("memory_kib"), process_memory_kib(server.pid)
        silent = await idle_cpu(server, plan.idle_seconds)
        load.close()
    async with Server("ours", folder, port) as server:
        load, reopened = await open_all(server, port, plan, BEAT_SECONDS)
        # From the second round on: the first one follows the opening.
        await load.until(1 << 60, 1.5 * BEAT_SECONDS)
        cpu = process_cpu_seconds(server.pid)
        beats = await load.until(1 << 60, plan.idle_seconds)
        per_beat = (process_cpu_seconds(server.pid) - cpu) / beats
        load.close()
    async with Server("bare", folder, port) as server:
        load, bare = await open_all(server, port, plan, 60)
        bare_memory = process_memory_kib(server.pid) - bare["memory_kib"]
        load.close()
    return {
        "streams": plan.streams,
        "bare_seconds_to_open": bare["seconds"],
        "bare_kib_per_stream": bare_memory / plan.streams,
        "opened": opened["opened"],
        "seconds_to_open": opened["seconds"],
        "reopened": reopened["opened"],
        "seconds_to_reopen": reopened["seconds"],
        "kib_per_stream": (load_memory - before) / plan.streams,
        "cpu_percent_without_streams": 100 * nobody,
        "cpu_percent_with_silent_streams": 100 * silent,
        "cpu_us_per_heartbeat": 1e6 * per_beat,
    }


async def open_all(server: Server, port: int, plan: Plan, heartbeat: int) -> tuple[Load, dict[str, float]]:
    """Opens all streams at once, and waits for the first message of each."""
    warm = Load()
    await warm.connect(port)
    warm.open(100, start=pb.STREAM_START_NOW)
    await warm.until_open(100)
    warm.close()
    memory = process_memory_kib(server.pid)
    load = Load()
    await load.connect(port)
    begun = time.monotonic()
    load.open(plan.streams, start=pb.STREAM_START_NOW, heartbeat_interval=duration_pb2.Duration(seconds=heartbeat))
    opened = await load.until_open(plan.streams, 60)
    seconds = time.monotonic() - begun
    server.tell("watchers")
    opened = min(opened, await server.heard())
    return load, {"opened": opened, "seconds": seconds, "memory_kib": memory}


async def idle_cpu(server: Server, seconds: float) -> float:
    """The share of a core that the server takes while nothing happens."""
    await asyncio.sleep(2)
    cpu, begun = process_cpu_seconds(server.pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (process_cpu_seconds(server.pid) - cpu) / (time.monotonic() - begun)


async def measure(plan: Plan) -> dict[str, Any]:
    """Everything."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), 40_000 + os.getpid() % 10_000 * 2
        await record(folder, port, plan)
        ours, bare = [], []
        for _ in range(plan.rounds):
            ours.append(await throughput("ours", folder, port, plan))
            bare.append(await throughput("bare", folder, port, plan))
        return {
            "load_average": os.getloadavg()[0],
            "subscribers": plan.subscribers,
            "updates": plan.updates,
            "bytes_per_message": (folder / "messages").stat().st_size // plan.updates - 4,
            "ours": ours,
            "bare": bare,
            "ratios": [a["messages_per_second"] / b["messages_per_second"] for a, b in zip(ours, bare, strict=True)],
            "latency": await latency(folder, port, plan),
            "crowd": await crowd(folder, port, plan),
        }


def table(found: dict[str, Any]) -> str:
    """The figures for people."""

    def spread(of: str, key: str) -> str:
        values = [figures[key] for figures in found[of]]
        return f"{statistics.median(values):>9,.0f}   ({min(values):,.0f} to {max(values):,.0f})"

    ratios, crowd_found = found["ratios"], found["crowd"]
    rows = [
        (f"messages/s out, {found['subscribers']} subscribers", spread("ours", "messages_per_second")),
        ("  a bare grpc.aio stream of the same", spread("bare", "messages_per_second")),
        ("  ratio", f"{statistics.median(ratios):>9.2f}   ({min(ratios):.2f} to {max(ratios):.2f}), aim 0.80"),
        ("server CPU per message, µs", spread("ours", "server_cpu_us_per_message")),
        ("  bare", spread("bare", "server_cpu_us_per_message")),
        ("commit to receipt, ms, p50", f"{found['latency']['p50_ms']:>9.1f}"),
        ("commit to receipt, ms, p99", f"{found['latency']['p99_ms']:>9.1f}"),
        ("memory per idle stream, KiB", f"{crowd_found['kib_per_stream']:>9.1f}   aim 32"),
        ("  bare", f"{crowd_found['bare_kib_per_stream']:>9.1f}"),
        ("CPU without streams, % of a core", f"{crowd_found['cpu_percent_without_streams']:>9.2f}"),
        ("CPU with all silent, % of a core", f"{crowd_found['cpu_percent_with_silent_streams']:>9.2f}"),
        ("CPU per heartbeat, µs", f"{crowd_found['cpu_us_per_heartbeat']:>9.0f}"),
        (f"seconds to open {crowd_found['streams']:,} streams", f"{crowd_found['seconds_to_open']:>9.1f}"),
        ("  opened", f"{crowd_found['opened']:>9,}"),
        ("seconds to open them after a restart", f"{crowd_found['seconds_to_reopen']:>9.1f}"),
        ("  opened", f"{crowd_found['reopened']:>9,}"),
        ("  bare server, seconds", f"{crowd_found['bare_seconds_to_open']:>9.1f}"),
        ("load average", f"{found['load_average']:>9.1f}"),
    ]
    return "\n".join(f"{name:<40}{value}" for name, value in rows)


def main() -> None:
    """Measures, or serves for the one who measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--subscribers", type=int, default=100)
    parser.add_argument("--updates", type=int, default=1_500)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--idle-seconds", type=float, default=15)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        kind, folder, port = options.serve
        os.sched_setaffinity(0, {SERVER_CORE})
        serve = serve_ours if kind == "ours" else serve_bare
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(Path(folder), int(port)))
        return
    updates = options.updates // PER_ORDER * PER_ORDER
    plan = Plan(options.rounds, options.subscribers, updates, options.streams, options.idle_seconds)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        os.sched_setaffinity(0, {LOAD_CORE})
        found = runner.run(measure(plan))
    print(table(found))
    print(json.dumps(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
