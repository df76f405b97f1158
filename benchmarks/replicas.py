"""What PostgreSQL and a second replica cost and bring, in one run.

    .venv/bin/python benchmarks/replicas.py [--orders 2000] [--rounds 5]

Three parts. The store alone: orders per second, commits and round trips per order as callers grow. The whole path with
one and with two replicas, in alternating rounds: CreateOrder → supplier → sealed card → pushed. And the time from one
replica's answer to CreateOrder until the update is on a stream of the other. Database, replicas, sandbox and load share
this machine's cores, so two replicas can't be faster than one here; on machines of their own they can.

The database is a real one (tests/postgres_server.py says which), with fsync on, on this disk.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from reward_server.store.postgres import migrate_postgres, open_postgres
from rewardservice.v1 import order_pb2, reward_service_pb2, reward_service_pb2_grpc

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from end_to_end import KEY, free_port
from store_sqlite import a_course

from postgres_server import Cluster

PRODUCT = "kaquan91_card/type-1"
READY_SECONDS = 30.0
CALLERS = (1, 8, 64)

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Replica:
    """One running server."""

    channel: grpc.aio.Channel
    http_port: int

    @property
    def stub(self) -> Any:
        """Its orders."""
        return reward_service_pb2_grpc.RewardServiceStub(self.channel)

    def counted(self, name: str) -> float:
        """A counter of it, all its labels together."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics") as page:
            text = page.read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


async def store_alone(dsn: str, callers: int, orders: int) -> dict[str, float]:
    """Creates and deliveries, straight on the store, of one client."""
    store = await open_postgres(dsn)
    await store.join(f"bench-{next(_numbers)}")
    courses = [a_course("shop") for _ in range(orders)]
    left: Iterator[Any] = iter(courses)

    async def caller() -> None:
        for created, delivery in left:
            await store.create(created.order)
            await store.save(delivery)

    trips = store.round_trips
    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    seconds = time.perf_counter() - begun
    figures = {
        "callers": callers,
        "orders_per_second": round(orders / seconds),
        "commits_per_order": round(store.commits / orders, 3),
        "round_trips_per_order": round((store.round_trips - trips) / orders, 2),
    }
    await store.close()
    return figures


def _python(*command: str) -> str:
    return subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True, text=True).stdout


@contextlib.asynccontextmanager
async def replicas(folder: Path, dsn: str, count: int) -> AsyncIterator[list[Replica]]:
    """So many servers on one database, and a sandbox."""
    sandbox_port = free_port()
    sandbox_url = f"http://127.0.0.1:{sandbox_port}"
    key = folder / "key"
    if not key.exists():
        _python("reward_server", "new-master-key", str(key))
    products = _python("reward_sandbox", "products", "--sandbox-url", sandbox_url)
    products = products.replace("adapter = ", "max_in_flight = 64\nadapter = ")
    log = (folder / "log").open("ab")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "reward_sandbox", "serve", "--port", str(sandbox_port)], stdout=log, stderr=log
        )
    ]
    made: list[Replica] = []
    try:
        for number in range(count):
            grpc_port, http_port = free_port(), free_port()
            config = folder / f"replica-{number}.toml"
            config.write_text(
                f'[grpc]\nbind = "127.0.0.1:{grpc_port}"\n[http]\nbind = "127.0.0.1:{http_port}"\n'
                f'[store]\nurl = "{dsn}"\n[secrets]\nmaster_key_file = "{key}"\n{products}'
            )
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "reward_server", "serve", "--config", str(config)],
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "REWARD_LOGGING__FORMAT": "json"},
                )
            )
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}")
            await asyncio.wait_for(channel.channel_ready(), READY_SECONDS)
            made.append(Replica(channel, http_port))
        yield made
    finally:
        for replica in made:
            await replica.channel.close()
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(60)


async def whole_path(made: list[Replica], orders: int, callers: int) -> dict[str, float]:
    """Orders created at all replicas in turn; the client's stream is at the last one."""
    run = next(_numbers)
    stream: Any = made[-1].stub.StreamOrderUpdates(
        reward_service_pb2.StreamOrderUpdatesRequest(start=reward_service_pb2.STREAM_START_NOW), metadata=KEY
    )
    await stream.read()
    delivered: set[str] = set()

    async def follow() -> None:
        while len(delivered) < orders:
            order = (await stream.read()).update.order
            if order.state == order_pb2.ORDER_STATE_FULFILLED:
                delivered.add(order.client_order_id)

    names = iter([f"bench-{run}-{n}" for n in range(orders)])
    turns = itertools.cycle(made)

    async def call() -> None:
        for name in names:
            request = reward_service_pb2.CreateOrderRequest(client_order_id=name, product_id=PRODUCT, quantity=1)
            await next(turns).stub.CreateOrder(request, metadata=KEY)

    commits = sum(replica.counted("reward_store_commits_total") for replica in made)
    begun = time.perf_counter()
    following = asyncio.create_task(follow())
    await asyncio.gather(*(call() for _ in range(callers)))
    await asyncio.wait_for(following, 120)
    seconds = time.perf_counter() - begun
    stream.cancel()
    commits = sum(replica.counted("reward_store_commits_total") for replica in made) - commits
    return {"orders_per_second": orders / seconds, "commits_per_order": commits / orders}


async def across(here: Replica, there: Replica, orders: int) -> dict[str, float]:
    """From the answer of one replica to the update on a stream of the other, at low load, in milliseconds."""
    stream: Any = there.stub.StreamOrderUpdates(
        reward_service_pb2.StreamOrderUpdatesRequest(start=reward_service_pb2.STREAM_START_NOW), metadata=KEY
    )
    await stream.read()
    came: dict[str, float] = {}
    news = asyncio.Event()

    async def follow() -> None:
        while True:
            name = (await stream.read()).update.order.client_order_id
            came.setdefault(name, time.perf_counter())
            news.set()

    following = asyncio.create_task(follow())
    waits: list[float] = []
    run = next(_numbers)
    for n in range(orders):
        name = f"across-{run}-{n}"
        request = reward_service_pb2.CreateOrderRequest(client_order_id=name, product_id=PRODUCT, quantity=1)
        await here.stub.CreateOrder(request, metadata=KEY)
        answered = time.perf_counter()
        while name not in came:
            news.clear()
            await news.wait()
        waits.append(max(0.0, came[name] - answered))
        await asyncio.sleep(0.02)
    following.cancel()
    stream.cancel()
    waits.sort()
    return {
        "p50_ms": round(1000 * waits[len(waits) // 2], 2),
        "p99_ms": round(1000 * waits[int(len(waits) * 0.99)], 2),
    }


async def run(folder: Path, cluster: Cluster, orders: int, rounds: int) -> dict[str, Any]:
    """All three parts."""
    dsn = cluster.create_database("alone")
    await migrate_postgres(dsn)
    alone = [await store_alone(dsn, callers, orders if callers > 1 else orders // 10) for callers in CALLERS]
    dsn = cluster.create_database("service")
    await migrate_postgres(dsn)
    one: list[dict[str, float]] = []
    two: list[dict[str, float]] = []
    latency: dict[str, float] = {}
    for number in range(rounds):
        for count, figures in ((1, one), (2, two)) if number % 2 else ((2, two), (1, one)):
            async with replicas(folder, dsn, count) as made:
                await whole_path(made, 200, 32)
                figures.append(await whole_path(made, orders, 64))
                if count > 1 and not latency:
                    latency = await across(made[0], made[1], 300)
    return {
        "postgres": f"{cluster.programs.version} ({cluster.programs.source})",
        "store_alone": alone,
        "one_replica": one,
        "two_replicas": two,
        "answer_to_the_other_replicas_stream": latency,
        "load_average": os.getloadavg()[0],
    }


def told(result: dict[str, Any]) -> Iterator[str]:
    """The figures for people."""
    yield f"PostgreSQL {result['postgres']}, fsync on"
    yield "the store alone, one client, create and deliver:"
    for one in result["store_alone"]:
        yield (
            f"  {one['callers']:3} callers {one['orders_per_second']:7,} orders/s"
            f"  {one['commits_per_order']:6.3f} commits and {one['round_trips_per_order']:6.2f} round trips per order"
        )
    yield "the whole path, 64 callers (median, and its range over the rounds):"
    for name, title in (("one_replica", "1 replica"), ("two_replicas", "2 replicas")):
        rates = [figures["orders_per_second"] for figures in result[name]]
        commits = statistics.median(figures["commits_per_order"] for figures in result[name])
        yield (
            f"  {title:10} {statistics.median(rates):7,.0f} orders/s  ({min(rates):,.0f} to {max(rates):,.0f})"
            f"  {commits:.3f} commits per order"
        )
    latency = result["answer_to_the_other_replicas_stream"]
    yield f"one replica's answer to the other's stream: p50 {latency['p50_ms']} ms, p99 {latency['p99_ms']} ms"
    yield f"load average {result['load_average']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Cluster() as cluster:
        result = asyncio.run(run(Path(name), cluster, args.orders, args.rounds))
    print("\n".join(told(result)))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
