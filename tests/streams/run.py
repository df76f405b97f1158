"""Orders at all five suppliers, subscribers behind a bad network, and the judge who compares what they were told.

The server is a process of its own; suppliers, network and subscribers live in this one.
"""

import asyncio
import contextlib
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from crash.world import PHONE, World
from ports import free_port
from reward_sandbox import Sandbox, SandboxSettings
from rewardservice.v1 import order_pb2, reward_service_pb2_grpc
from rewardservice.v1 import reward_service_pb2 as pb
from rpc.world import refused
from service.harness import DEV, QUICK, TERMINAL, Caller, Place

from .proxy import Proxy, proxy
from .subscriber import AFTER, BASIC, FULL, NOW, OPTIONS, RETRIED, SNAPSHOT, Subscriber, Told, Wanted, told

PRODUCTS = (
    "kuaiduibao/card",
    "kuaiduibao/topup",
    "kaquan91_card/type-1",
    "kaquan91_recharge/topup",
    "kasushou/card",
    "kasushou/card-delayed",
    "dushu/membership",
)
"""At once, after a while, and by callback: over all five suppliers."""
CALLERS = 24
"""Orders that are made at the same time."""
CALLERS_BEHIND_NETWORK = 4
"""Those of them whose connection may be cut; what they order is what the others would."""
ANSWER_SECONDS = 2.0
"""Without an answer for so long the call is made again on a new connection."""
MOST_IDS = 300
"""Ids in a selector; the server would take a thousand."""
STALL_SECONDS = 5.0
"""The server's patience with a reader that takes nothing."""
ENVIRONMENT = {"REWARD_LOGGING__FORMAT": "json", "REWARD_GRPC__DRAIN_SECONDS": "2"}
"""Connections that rot don't end by themselves: a stopping server would wait ten seconds for them."""
PAGE = 500
SMALL_WINDOW = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.lookahead_bytes", 1_024),
    ("grpc.http2.bdp_probe", 0),
)


class StreamServer:
    """The server as a process, less patient with stuck readers than it is as shipped."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._config = place.write()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it and waits until it takes calls."""
        program = Path(__file__).with_name("launch.py")
        output = self._place.folder / "server.log"
        with output.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(program), "--config", str(self._config), "--stall", str(STALL_SECONDS)),
                stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT},
            )  # fmt: skip
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._place.grpc_port}") as channel:
            ready = asyncio.ensure_future(channel.channel_ready())
            ended = asyncio.ensure_future(self._process.wait())
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
            assert not ended.done(), output.read_text()[-4000:]
            ended.cancel()

    async def stop(self) -> None:
        """SIGTERM: the streams are ended with their tokens."""
        assert self._process is not None
        self._process.terminate()
        await self._process.wait()

    async def kill(self) -> None:
        """The end of the test."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    @property
    def memory_kib(self) -> int:
        """Its resident memory, where the system tells."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status")
        if not status.exists():
            return 0
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1])


class StreamCaller(Caller):
    """A caller with a connection of its own, made anew at once when it is cut."""

    def __init__(self, port: int, options: Sequence[tuple[str, int]] = OPTIONS) -> None:
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        self.orders = reward_service_pb2_grpc.RewardServiceStub(self.channel)
        self.metadata = (("authorization", f"Bearer {DEV}"),)


class StuckReader:
    """Opens a stream and reads nothing until it is told to."""

    def __init__(self, port: int, view: order_pb2.OrderView.ValueType = FULL) -> None:
        self._caller = StreamCaller(port, SMALL_WINDOW)
        self._call = self._caller.stream(start=NOW, view=view)

    async def begin(self) -> str:
        """Waits for the first message, and for nothing more; its token."""
        token: str = (await self._call.read()).heartbeat.resume_token
        return token

    async def rest(self) -> tuple[list[Told], grpc.aio.AioRpcError]:
        """What had been sent, and how the stream ended."""
        # Who begins to read before the server's patience is over isn't stuck, and nothing tells a reader when it is.
        await asyncio.sleep(STALL_SECONDS + 2.0)
        updates = []
        try:
            while True:
                message = await self._call.read()
                if message.HasField("update"):
                    updates.append(told(message.update))
        except grpc.aio.AioRpcError as error:
            return updates, error

    async def close(self) -> None:
        """Leaves."""
        self._call.cancel()
        await self._caller.close()


@dataclass
class Findings:
    """What the judge found."""

    violations: list[str] = field(default_factory=list)
    orders: int = 0
    updates: int = 0
    """In the log."""
    told: int = 0
    """To all subscribers."""
    too_slow: int = 0
    """Streams that the server ended because their readers were held up."""
    connections: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    memory_kib: int = 0
    """Of the server, at the end."""


class Run:
    """One server with its suppliers, its subscribers and what they are to be told. Made by `run`."""

    def __init__(self, place: Place, server: StreamServer, network: Proxy) -> None:
        self.server = server
        self.network = network
        self.beginning = ""
        """The token of the log's beginning."""
        self.ids: dict[str, str] = {}
        """Our ids of the client's."""
        self.tokens: list[str] = []
        """Those that came with created orders."""
        self.subscribers: list[Subscriber] = []
        self.caller = StreamCaller(place.grpc_port)
        self.port = place.grpc_port
        self._through_network = StreamCaller(network.port)
        self._given_up: list[StreamCaller] = []
        self._following: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()

    async def begin(self) -> None:
        """Starts the server."""
        await self.server.start()
        request = pb.ListOrderUpdatesRequest(limit=1)
        self.beginning = (
            await self.caller.orders.ListOrderUpdates(request, metadata=self.caller.metadata)
        ).resume_token

    def subscribe(self, wanted: Wanted) -> Subscriber:
        """Opens one more subscription behind the network."""
        one = Subscriber(wanted, self.network.port, on_token=self._news.set)
        self.subscribers.append(one)
        self._following.append(asyncio.create_task(one.run()))
        return one

    async def order(self, names: Iterable[str], *, metadata: dict[str, str] | None = None) -> None:
        """Orders, some at a time, however often a connection is cut: the same id is the same order."""
        waiting = iter(names)

        async def call(direct: bool) -> None:
            for name in waiting:
                product = PRODUCTS[hash_of(name) % len(PRODUCTS)]
                recipient = PHONE if World.takes_phone(product) else None
                created = await self._insist(direct, product, name, recipient, metadata or {})
                self.ids[name] = created.order.order_id
                self.tokens.append(created.resume_token)

        await asyncio.gather(*(call(n >= CALLERS_BEHIND_NETWORK) for n in range(CALLERS)))

    async def _insist(self, direct: bool, product: str, name: str, recipient: Any, metadata: dict[str, str]) -> Any:
        while True:
            caller = self.caller if direct else self._through_network
            try:
                async with asyncio.timeout(None if direct else ANSWER_SECONDS):
                    return await caller.create(product, name, recipient=recipient, metadata=metadata)
            except TimeoutError:
                # Nobody said so, but the connection is dead.
                if caller is self._through_network:
                    self._through_network = StreamCaller(self.network.port)
                    # Others may still wait on it.
                    self._given_up.append(caller)
            except grpc.aio.AioRpcError as error:
                if error.code() not in RETRIED:
                    raise
            await asyncio.sleep(0.05)

    async def settled(self) -> None:
        """Waits until every order has come to its end."""
        remaining = set(self.ids.values())
        call = self.caller.stream(start=SNAPSHOT, view=BASIC)
        async for message in call:
            kind = message.WhichOneof("message")
            if kind in ("snapshot", "update"):
                order = getattr(message, kind).order
                if order.state in TERMINAL:
                    remaining.discard(order.order_id)
            if not remaining:
                break
        call.cancel()

    async def judge(self) -> Findings:
        """Waits until every subscriber has searched the whole log, and compares what each was told with it."""
        self.network.calm()
        logs = {view: await self.log(view) for view in (FULL, BASIC)}
        places = {self.beginning: 0} | {entry.token: place for place, entry in enumerate(logs[FULL], 1)}
        last = logs[FULL][-1].token
        while not all(one.violations or one.token == last for one in self.subscribers):
            self._news.clear()
            await self._news.wait()
        found = Findings(orders=len(self.ids), updates=len(logs[FULL]))
        names = {order_id: name for name, order_id in self.ids.items()}
        for one in self.subscribers:
            found.violations += one.violations or _differences(one, logs[one.wanted.view], places, names)
            found.told += len(one.updates)
            found.too_slow += one.too_slow
            found.connections += one.connections
        found.cuts = Counter({str(fate): times for fate, times in self.network.struck.items()})
        found.memory_kib = self.server.memory_kib
        return found

    async def log(self, view: order_pb2.OrderView.ValueType, **selector: Any) -> list[Told]:
        """The log as the stream's unary twin tells it."""
        entries: list[Told] = []
        after = ""
        while True:
            request = pb.ListOrderUpdatesRequest(after=after, limit=PAGE, view=view, **selector)
            page = await self.caller.orders.ListOrderUpdates(request, metadata=self.caller.metadata)
            entries.extend(map(told, page.updates))
            after = page.resume_token
            if not page.more:
                return entries

    async def end(self) -> None:
        """Ends everything that follows."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        for caller in (*self._given_up, self._through_network, self.caller):
            await caller.close()


LONG_RUN = 1_000
"""Orders that take several times `STALL_SECONDS`: a reader that begins to read before that isn't stuck."""


def hash_of(name: str) -> int:
    """The same in every process."""
    return sum(name.encode())


def _differences(one: Subscriber, log: list[Told], places: dict[str, int], names: dict[str, str]) -> Iterable[str]:
    """How what a subscriber was told differs from the log restricted to its selector."""
    wanted = one.wanted
    start = places[wanted.token or one.begun_at]
    due = [entry for entry in log[start:] if wanted.selects(entry.order_id, names[entry.order_id])]
    if one.updates != due:
        missing = len(set(due) - set(one.updates))
        alien = len(set(one.updates) - set(due))
        yield f"{wanted.name}: {missing} of {len(due)} updates missing, {alien} that aren't due, or out of order"
    beats = [places.get(token, -1) for token in one.tokens]
    if min(beats, default=0) < 0 or beats != sorted(beats):
        yield f"{wanted.name}: the tokens of heartbeats aren't places of the log, one after the other"
    if wanted.start is SNAPSHOT:
        yield from _snapshot_differences(one, log, start, names)


def _snapshot_differences(one: Subscriber, log: list[Told], start: int, names: dict[str, str]) -> Iterable[str]:
    wanted = one.wanted
    versions = {
        entry.order_id: entry.version
        for entry in log[:start]
        if wanted.selects(entry.order_id, names[entry.order_id])
    }  # fmt: skip
    later = {entry.order_id for entry in log[start:]}
    for order_id, version in versions.items():
        shown = one.snapshot.get(order_id)
        if shown != version and not (shown is None and order_id in later):
            yield f"{wanted.name}: the snapshot has version {shown} of {order_id}, it was {version}"
    for order_id in one.snapshot.keys() - versions.keys():
        yield f"{wanted.name}: the snapshot has {order_id}, which isn't due"


def early(rng: random.Random, count: int, names: list[str]) -> Iterable[Wanted]:
    """Subscribers that come before the first order, so that they can name orders by the client's ids only."""
    for n in range(count):
        start, view = rng.choice([NOW, SNAPSHOT]), rng.choice([FULL, BASIC])
        chosen = () if n % 2 else tuple(rng.sample(names, min(len(names), rng.randint(1, MOST_IDS))))
        yield Wanted(f"early {n}", start, view, client_order_ids=chosen)


def late(rng: random.Random, count: int, one: Run, names: list[str]) -> Iterable[Wanted]:
    """Subscribers that come when there are orders already, with or without a token of one of them."""
    known = list(one.ids.values())
    for n in range(count):
        start, view = rng.choice([NOW, SNAPSHOT, AFTER, AFTER]), rng.choice([FULL, BASIC])
        ours: tuple[str, ...] = ()
        theirs: tuple[str, ...] = ()
        if n % 3:
            ours = tuple(rng.sample(known, min(len(known), rng.randint(1, MOST_IDS))))
        if n % 3 == 2:
            theirs = tuple(rng.sample(names, min(len(names), rng.randint(1, MOST_IDS))))
        token = rng.choice(one.tokens) if start is AFTER else ""
        yield Wanted(f"late {n}", start, view, ours, theirs, token)


@contextlib.asynccontextmanager
async def run(folder: Path, *, seed: int, most_bytes: int = 2_000_000) -> AsyncIterator[Run]:
    """A run in an empty folder, with nothing ordered yet."""
    http_port = free_port()
    settings = SandboxSettings(
        port=0,
        step_seconds=0.1,
        callback_scale=0.05,
        callback_url=f"http://127.0.0.1:{http_port}/callbacks/kuaiduibao",
    )
    async with Sandbox(settings) as sandbox:
        place = Place(
            folder=folder,
            sandbox_url=sandbox.url,
            grpc_port=free_port(),
            http_port=http_port,
            # Suppliers that share two cores with everything else may be slow without being asked again for it.
            account={**QUICK, "read_timeout": 10.0, "answer_patience": 30.0, "max_in_flight": 64},
            products=PRODUCTS,
        )
        server = StreamServer(place)
        async with proxy(place.grpc_port, seed=seed, most_bytes=most_bytes) as network:
            one = Run(place, server, network)
            try:
                await one.begin()
                yield one
            finally:
                await one.end()
                await server.kill()


async def whole(
    folder: Path, *, seed: int, orders: int, subscribers: int, restarts: int = 0, most_bytes: int = 2_000_000
) -> Findings:
    """Half of the subscribers come before the orders, the others meanwhile; connections are cut all the time.

    After the last restart, or from the beginning, one more reader is stuck, if the run is long enough for the server to
    notice it.
    """
    rng = random.Random(seed)
    names = [f"{seed}-{n}" for n in range(orders)]
    parts = [names[part :: restarts + 2] for part in range(restarts + 2)]
    async with run(folder, seed=seed, most_bytes=most_bytes) as one:
        for wanted in early(rng, subscribers // 2, names):
            one.subscribe(wanted)
        for part in parts[:restarts]:
            ordering = asyncio.create_task(one.order(part))
            await one.server.stop()
            await one.server.start()
            await ordering
        stuck = StuckReader(one.port) if orders >= LONG_RUN else None
        stuck_from = await stuck.begin() if stuck else ""
        await one.order(parts[-2])
        for wanted in late(rng, subscribers - subscribers // 2, one, names):
            one.subscribe(wanted)
        await one.order(parts[-1])
        await one.settled()
        found = await one.judge()
        if stuck:
            found.violations += _stuck_differences(stuck_from, *await stuck.rest(), await one.log(FULL))
            await stuck.close()
        return found


def _stuck_differences(
    begun_at: str, updates: list[Told], error: grpc.aio.AioRpcError, log: list[Told]
) -> Iterable[str]:
    """How the end of a reader that read nothing isn't what it should be."""
    tokens = [entry.token for entry in log]
    start = tokens.index(begun_at) + 1 if begun_at in tokens else 0
    if updates != log[start : start + len(updates)]:
        yield "stuck: what it had been sent isn't the log"
    if len(updates) > len(log[start:]) // 2:
        yield f"stuck: {len(updates)} updates of {len(log[start:])} were sent to it all the same"
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        yield f"stuck: ended with {error.code().name}"
        return
    end = refused(error)
    # The message whose write was blocked may still have come through.
    if end.reason != "READER_TOO_SLOW" or end.metadata["resume_token"] not in [entry.token for entry in updates[-2:]]:
        yield f"stuck: ended with {end.reason}, and its token doesn't continue what it had been sent"
