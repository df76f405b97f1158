"""`order`: the whole path beside a naive proxy, for a supplier that answers with the card and for one that calls back.

The whole path: durable order → supplier → durable, sealed card → pushed to the client's stream. The proxy takes the
same call, buys at the same supplier with the same adapter and answers with the card, and keeps nothing. Both have the
same number of orders under way: the next one begins when somebody has the card of one before.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from reward_bench.create import CALLERS, CREATE, a_request
from reward_bench.figures import Aim, Figure, Plan, Series, in_turns
from reward_bench.machine import free_port
from reward_bench.serving import ASYNC, IN_FLIGHT, SYNC, Running, Service, counted, helper
from reward_bench.supplier import Supplier
from reward_bench.wire import SERVICE, Calls, CallsFailedError, Subscriber
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb

STREAM = SERVICE + "StreamOrderUpdates"
PATIENCE = 120.0
DONE = order_pb2.ORDER_STATE_FULFILLED
FROM_NOW = pb.StreamOrderUpdatesRequest(start=pb.STREAM_START_NOW).SerializeToString()


class Buyers:
    """Buys at our server: each of so many buyers orders again when the card of its last order was pushed."""

    def __init__(self) -> None:
        self.calls = Calls()
        self.delivered: dict[str, float] = {}
        """When each card came, of the last run."""
        self._subscriber = Subscriber(self._told)
        self._names: Iterator[str] = iter(())
        self._left = 0
        self._product = ""
        self._all_came = asyncio.Event()

    async def connect(self, port: int) -> None:
        """Opens connections and the stream."""
        await self.calls.connect(port)
        await self._subscriber.open(port, STREAM, FROM_NOW)

    async def buy(self, orders: int, product: str, buyers: int = CALLERS) -> float:
        """Buys so much; returns the seconds until the last card came. Raises CallsFailedError."""
        run = f"{time.time_ns():x}"
        self.delivered.clear()
        self._product, self._left = product, orders
        self._names = iter([f"{run}-{number}" for number in range(orders)])
        self._all_came.clear()
        begun = time.perf_counter()
        for _ in range(buyers):
            self._next()
        try:
            await asyncio.wait_for(self._all_came.wait(), PATIENCE)
        except TimeoutError:
            raise CallsFailedError(f"{self._left} of {orders} cards didn't come, {self.calls.failed} failed") from None
        return time.perf_counter() - begun

    def _next(self) -> None:
        name = next(self._names, None)
        if name is not None:
            self.calls.start(CREATE, a_request(name, self._product))

    def _told(self, raw: bytes) -> None:
        order = pb.StreamOrderUpdatesResponse.FromString(raw).update.order
        if order.state != DONE or not order.cards:
            return
        self.delivered[order.client_order_id] = time.perf_counter()
        self._left -= 1
        if self._left:
            self._next()
        else:
            self._all_came.set()

    def close(self) -> None:
        """Leaves."""
        self.calls.close()
        self._subscriber.close()


@dataclass(frozen=True, slots=True)
class Pair:
    """Our server and the naive proxy, both running at the same supplier."""

    supplier: Supplier
    service: Service
    ours: Running
    proxy: Running
    buyers: Buyers
    calls: Calls
    """To the proxy."""


@asynccontextmanager
async def pair(folder: Path, service: Service) -> AsyncIterator[Pair]:
    """Runs both."""
    supplier = Supplier()
    await supplier.start()
    service.supplier = supplier.port
    port, http = free_port(), free_port()
    buyers, calls = Buyers(), Calls()
    try:
        async with (
            service.run() as ours,
            helper(folder, "bare", "proxy", str(port), str(http), str(supplier.port)) as proxy,
        ):
            await buyers.connect(service.grpc)
            await calls.connect(port)
            yield Pair(supplier, service, ours, proxy, buyers, calls)
            buyers.close()
            calls.close()
    finally:
        await supplier.close()


async def whole(one: Pair, orders: int, product: str) -> Mapping[str, float]:
    """One round of ours."""
    before = await counted(one.service.http, ["reward_store_commits_total"])
    cpu, own = one.ours.cpu(), time.process_time()
    seconds = await one.buyers.buy(orders, product)
    figures = {
        "per_second": orders / seconds,
        "server_us": 1e6 * (one.ours.cpu() - cpu) / orders,
        "load_share": (time.process_time() - own) / seconds,
    }
    after = await counted(one.service.http, ["reward_store_commits_total"])
    commits = after["reward_store_commits_total"] - before["reward_store_commits_total"]
    return {**figures, "commits": commits / orders}


async def naive(one: Pair, orders: int, product: str) -> Mapping[str, float]:
    """One round of the proxy."""
    run = f"{time.time_ns():x}"
    made = [a_request(f"{run}-{number}", product) for number in range(orders)]
    cpu, own = one.proxy.cpu(), time.process_time()
    seconds = await one.calls.run(CREATE, made, CALLERS)
    return {
        "per_second": orders / seconds,
        "server_us": 1e6 * (one.proxy.cpu() - cpu) / orders,
        "load_share": (time.process_time() - own) / seconds,
    }


async def measure(folder: Path, plan: Plan, products: tuple[str, ...] = (SYNC, ASYNC)) -> list[Figure]:
    """Both figures."""
    async with pair(folder, Service(folder / "order")) as one:
        return [await compare(one, plan, product) for product in products]


async def compare(one: Pair, plan: Plan, product: str) -> Figure:
    """One figure."""
    orders = plan.number(3_000 if product == SYNC else 2_000)
    found = await in_turns(
        plan, {"ours": lambda: whole(one, orders, product), "naive": lambda: naive(one, orders, product)}
    )
    ours = Series("the whole path", "/s", found["ours"]["per_second"])
    other = Series("naive proxy", "/s", found["naive"]["per_second"])
    supplier = "in the supplier's answer" if product == SYNC else "after the supplier's callback"
    return Figure(
        key=f"order-{product}",
        title=f"The whole path to a pushed card, beside a naive proxy: card {supplier}",
        series=(ours, other),
        ratio=ours.over(other, "of the proxy"),
        aim=Aim("≥", 0.60),
        guarded=True,
        note=f"The supplier takes {IN_FLIGHT} requests at a time (max_in_flight; the default is 16).",
        facts={
            "server CPU per order, µs": Series("", "", found["ours"]["server_us"]).median,
            "proxy's CPU per order, µs": Series("", "", found["naive"]["server_us"]).median,
            "load's share of its core, ours": max(found["ours"]["load_share"]),
            "load's share of its core, proxy": max(found["naive"]["load_share"]),
            "commits per order": Series("", "", found["ours"]["commits"]).median,
        },
    )
