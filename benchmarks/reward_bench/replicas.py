"""`replicas`: PostgreSQL with one process and with two behind one port: orders per second, commits per order, the way
across.

Database, processes, supplier and load share this machine's cores and nobody is pinned, so on two cores two processes
can't be faster than one; on more they can. The database is a real one (tests/postgres_server.py says which), with
fsync on, on this disk. The store alone is measured without a server, straight on the store.
"""

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from postgres_server import Cluster
from reward_bench.create import CALLERS, CREATE, a_request
from reward_bench.figures import Figure, Plan, Series, at, columns, in_turns
from reward_bench.machine import CORES, LOAD_CORE, free_port
from reward_bench.order import FROM_NOW, STREAM
from reward_bench.serving import READY_SECONDS, SYNC, Running, Service, counted, ready
from reward_bench.supplier import Supplier
from reward_bench.wire import CONNECTIONS, Calls, CallsFailedError, Subscriber
from reward_server.store.postgres import migrate_postgres, open_postgres
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb
from store.samples import an_order, delivered

STORE_CALLERS = (1, 8, 64)
COMMITS = "reward_store_commits_total"
CALLS = "reward_rpc_started_total"
STREAMS = "reward_streams"
LIST = "/rewardservice.v1.CatalogService/ListProducts"
MOST = 2
"""Processes."""
ACROSS_ORDERS = 300
GAP = 0.02

_numbers = itertools.count()


async def store_alone(dsn: str, callers: int, orders: int) -> Mapping[str, float]:
    """One round: creates and deliveries, straight on the store, of one client."""
    store = await open_postgres(dsn)
    await store.join(f"bench-{next(_numbers)}")
    made = [an_order("shop") for _ in range(orders)]
    left: Iterator[Any] = iter([(order, delivered(order)) for order in made])

    async def caller() -> None:
        for created, delivery in left:
            await store.create(created)
            await store.save(delivery)

    trips, commits = store.round_trips, store.commits
    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    seconds = time.perf_counter() - begun
    figures = {
        "per_second": orders / seconds,
        "commits": (store.commits - commits) / orders,
        "trips": (store.round_trips - trips) / orders,
    }
    await store.close()
    return figures


@dataclass(slots=True)
class Processes(Service):
    """So many processes behind one port (`grpc.processes`)."""

    count: int = 1
    ops: int = field(default_factory=lambda: ports_in_a_row(MOST))

    def configure(self) -> Path:
        """The usual configuration and their number."""
        config = Service.configure(self)
        if self.count > 1:
            more = f"[grpc]\nprocesses = {self.count}\n"
            text = config.read_text().replace("[grpc]\n", more, 1)
            config.write_text(f'{text}\n[ops]\nbind = "127.0.0.1:{self.ops}"\n')
        return config

    @property
    def metrics(self) -> list[int]:
        """Where each process shows its own."""
        return [self.ops + number for number in range(self.count)] if self.count > 1 else [self.http]

    async def until_ready(self, program: Running) -> float:
        """Waits until all say that they are; returns the seconds since this was called."""
        begun = time.perf_counter()
        for port in self.metrics:
            while not await ready(port):
                if program.process.returncode is not None or time.perf_counter() - begun > READY_SECONDS:
                    raise SystemExit(f"the server didn't start:\n{program.log.read_text()[-3000:]}")
                await asyncio.sleep(0.02)
        return time.perf_counter() - begun

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Runs them until the end of the block, and until they gave their work back: the next ones begin afresh."""
        async with self.run(core=None) as program:
            yield
            program.process.terminate()
            await program.process.wait()


def ports_in_a_row(count: int) -> int:
    """The first of so many."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError), contextlib.ExitStack() as probes:
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


class Fleet:
    """Some processes on one database: orders go to each in turn, the client's stream is at the last one."""

    def __init__(self, service: Processes) -> None:
        self.service = service
        self.came: dict[str, float] = {}
        """When each order was delivered."""
        self.first: dict[str, float] = {}
        """When something of each order was first heard."""
        self.calls: list[Calls] = []
        """As many connections as there are to each process, process by process."""
        self._subscriber = Subscriber(self._told)
        self._next: Iterator[str] = iter(())
        self._left = 0
        self._turns: Iterator[Calls] = iter(())
        self._news = asyncio.Event()

    async def connect(self) -> None:
        """Opens connections and the stream. Where one leads is for the kernel to choose, so some are closed again."""
        await self._subscriber.open(self.service.grpc, STREAM, FROM_NOW)
        last = len(self.service.metrics) - 1
        while not (await self._each(STREAMS))[last]:
            self._subscriber.close()
            self._subscriber = Subscriber(self._told)
            await self._subscriber.open(self.service.grpc, STREAM, FROM_NOW)
        seats: list[list[Calls]] = [[] for _ in self.service.metrics]
        while any(len(seat) < CONNECTIONS for seat in seats):
            one = Calls()
            await one.connect(self.service.grpc, 1)
            before = await self._each(CALLS)
            await one.call(LIST, b"")
            after = await self._each(CALLS)
            [there] = [number for number, (then, now) in enumerate(zip(before, after, strict=True)) if now > then]
            if len(seats[there]) < CONNECTIONS:
                seats[there].append(one)
            else:
                one.close()
        self.calls = [one for seat in seats for one in seat]
        # Process by process in turn, not one after the other.
        self._turns = itertools.cycle(one for row in zip(*seats, strict=True) for one in row)

    async def buy(self, orders: int) -> float:
        """Buys so much, with as many orders under way as there are callers; seconds until the last card came."""
        run = f"bench-{next(_numbers)}-{time.time_ns():x}"
        self.came.clear()
        self._next, self._left = iter([f"{run}-{n}" for n in range(orders)]), orders
        begun = time.perf_counter()
        for _ in range(CALLERS):
            self._order()
        while self._left:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), 60)
            except TimeoutError:
                raise CallsFailedError(f"{self._left} of {orders} cards didn't come") from None
        return time.perf_counter() - begun

    async def across(self, orders: int) -> list[float]:
        """Seconds from the answer of the first process to the order's first update on the last one's stream."""
        waits: list[float] = []
        run = f"across-{next(_numbers)}-{time.time_ns():x}"
        for n in range(orders):
            name = f"{run}-{n}"
            await self.calls[0].run(CREATE, [a_request(name, SYNC)], 1)
            answered = time.perf_counter()
            while name not in self.first:
                self._news.clear()
                await asyncio.wait_for(self._news.wait(), 60)
            waits.append(max(0.0, self.first[name] - answered))
            await asyncio.sleep(GAP)
        return waits

    async def commits(self) -> float:
        """Of all processes together, so far."""
        return sum(await self._each(COMMITS))

    async def _each(self, name: str) -> list[float]:
        """A figure of each process."""
        return [(await counted(port, [name]))[name] for port in self.service.metrics]

    def _order(self) -> None:
        name = next(self._next, None)
        if name is not None:
            next(self._turns).start(CREATE, a_request(name, SYNC))

    def _told(self, raw: bytes) -> None:
        order = pb.StreamOrderUpdatesResponse.FromString(raw).update.order
        now = time.perf_counter()
        self.first.setdefault(order.client_order_id, now)
        if order.state == order_pb2.ORDER_STATE_FULFILLED and order.client_order_id not in self.came:
            self.came[order.client_order_id] = now
            self._left -= 1
            self._order()
        self._news.set()

    def close(self) -> None:
        """Leaves."""
        self._subscriber.close()
        for calls in self.calls:
            calls.close()


@asynccontextmanager
async def fleet(folder: Path, dsn: str, count: int, supplier: Supplier) -> AsyncIterator[Fleet]:
    """So many processes behind one port."""
    # All rounds have one folder: the master key seals what is in the database.
    service = Processes(folder / "service", supplier=supplier.port, store=dsn, count=count)
    async with service.serving():
        made = Fleet(service)
        await made.connect()
        try:
            yield made
        finally:
            made.close()


async def whole_path(folder: Path, dsn: str, count: int, supplier: Supplier, orders: int) -> Mapping[str, float]:
    """One round with fresh servers."""
    async with fleet(folder, dsn, count, supplier) as made:
        await made.buy(200)
        commits = await made.commits()
        seconds = await made.buy(orders)
        return {"per_second": orders / seconds, "commits": (await made.commits() - commits) / orders}


async def measure(folder: Path, plan: Plan) -> list[Figure]:
    """All of it, on a database of its own."""
    folder.mkdir(exist_ok=True)
    os.sched_setaffinity(0, CORES)
    supplier = Supplier()
    await supplier.start()
    try:
        with Cluster() as cluster:
            return await _measure(folder, plan, cluster, supplier)
    finally:
        os.sched_setaffinity(0, {LOAD_CORE})
        await supplier.close()


async def _measure(folder: Path, plan: Plan, cluster: Cluster, supplier: Supplier) -> list[Figure]:
    version = f"PostgreSQL {cluster.programs.version}"
    alone_dsn = cluster.create_database("alone")
    await migrate_postgres(alone_dsn)
    alone = await in_turns(
        plan,
        {
            str(callers): partial(store_alone, alone_dsn, callers, plan.number(1_000 if callers > 1 else 150))
            for callers in STORE_CALLERS
        },
    )
    dsn = cluster.create_database("service")
    await migrate_postgres(dsn)
    orders = plan.number(1_500)
    rounds: dict[int, list[Mapping[str, float]]] = {1: [], 2: []}
    for turn in range(plan.rounds):
        for count in (1, 2)[:: -1 if turn % 2 else 1]:
            rounds[count].append(await whole_path(folder, dsn, count, supplier, orders))
    async with fleet(folder, dsn, 2, supplier) as made:
        await made.buy(100)
        waits = [await made.across(plan.number(ACROSS_ORDERS // plan.rounds)) for _ in range(plan.rounds)]
    one, two = columns(rounds[1]), columns(rounds[2])
    both = Series("2 processes", "/s", two["per_second"])
    single = Series("1 process", "/s", one["per_second"])
    stored = [Series(f"{callers} callers", "/s", alone[str(callers)]["per_second"]) for callers in STORE_CALLERS]
    facts = {
        f"{what} per order, {callers} callers": Series("", "", alone[str(callers)][name]).median
        for name, what in (("commits", "commits"), ("trips", "round trips"))
        for callers in STORE_CALLERS
    }
    return [
        Figure(
            key="replicas-store",
            title=f"{version}, the store alone: orders created and delivered for one client",
            series=tuple(reversed(stored)),
            facts=facts,
        ),
        Figure(
            key="replicas-path",
            title=f"{version}: the whole path with 2 processes behind one port, beside 1, on the same two cores",
            series=(both, single),
            ratio=both.over(single, "of one process"),
            facts={
                "commits per order, 1 process": Series("", "", one["commits"]).median,
                "commits per order, 2 processes": Series("", "", two["commits"]).median,
            },
        ),
        Figure(
            key="replicas-across",
            title="One process's answer → the update on a stream of the other, low load",
            series=(
                Series("p50", "ms", tuple(1000 * at(wait, 0.5) for wait in waits)),
                Series("p99", "ms", tuple(1000 * at(wait, 0.99) for wait in waits)),
            ),
        ),
    ]
