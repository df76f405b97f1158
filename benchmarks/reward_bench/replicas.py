"""`replicas`: PostgreSQL with one and with two replicas: orders per second, commits per order, the way across.

Database, replicas, supplier and load share this machine's cores and nobody is pinned, so two replicas can't be faster
than one here; on machines of their own they can. The database is a real one (tests/postgres_server.py says which), with
fsync on, on this disk. The store alone is measured without a server, straight on the store.
"""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from postgres_server import Cluster
from reward_bench.create import CALLERS, CREATE, a_request
from reward_bench.figures import Figure, Plan, Series, at, columns, in_turns
from reward_bench.machine import CORES, LOAD_CORE
from reward_bench.order import FROM_NOW, STREAM
from reward_bench.serving import SYNC, Service, counted
from reward_bench.supplier import Supplier
from reward_bench.wire import Calls, CallsFailedError, Subscriber
from reward_server.store.postgres import migrate_postgres, open_postgres
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb
from store.samples import an_order, delivered

STORE_CALLERS = (1, 8, 64)
COMMITS = "reward_store_commits_total"
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


class Fleet:
    """Some replicas on one database: orders go to each in turn, the client's stream is at the last one."""

    def __init__(self, services: list[Service]) -> None:
        self.services = services
        self.came: dict[str, float] = {}
        """When each order was delivered."""
        self.first: dict[str, float] = {}
        """When something of each order was first heard."""
        self.calls: list[Calls] = []
        self._subscriber = Subscriber(self._told)
        self._next: Iterator[str] = iter(())
        self._left = 0
        self._turns: Iterator[Calls] = iter(())
        self._news = asyncio.Event()

    async def connect(self) -> None:
        """Opens connections and the stream."""
        for service in self.services:
            calls = Calls()
            await calls.connect(service.grpc)
            self.calls.append(calls)
        self._turns = itertools.cycle(self.calls)
        await self._subscriber.open(self.services[-1].grpc, STREAM, FROM_NOW)

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
        """Seconds from the answer of the first replica to the order's first update on the last one's stream."""
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
        """Of all replicas together, so far."""
        return sum([(await counted(service.http, [COMMITS]))[COMMITS] for service in self.services])

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
    """So many replicas with one master key."""
    async with AsyncExitStack() as stack:
        services = []
        for number in range(count):
            service = Service(folder / f"replica-{number}", supplier=supplier.port, store=dsn)
            service.folder.mkdir(exist_ok=True)
            key = service.folder / "key"
            if number and not key.exists():
                key.write_bytes((folder / "replica-0" / "key").read_bytes())
                key.chmod(0o600)
            await stack.enter_async_context(service.run(core=None))
            services.append(service)
        made = Fleet(services)
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
    both = Series("2 replicas", "/s", two["per_second"])
    single = Series("1 replica", "/s", one["per_second"])
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
            title=f"{version}: the whole path with 2 replicas, beside 1, on the same two cores",
            series=(both, single),
            ratio=both.over(single, "of one replica"),
            facts={
                "commits per order, 1 replica": Series("", "", one["commits"]).median,
                "commits per order, 2 replicas": Series("", "", two["commits"]).median,
            },
        ),
        Figure(
            key="replicas-across",
            title="One replica's answer → the update on a stream of the other, low load",
            series=(
                Series("p50", "ms", tuple(1000 * at(wait, 0.5) for wait in waits)),
                Series("p99", "ms", tuple(1000 * at(wait, 0.99) for wait in waits)),
            ),
        ),
    ]
