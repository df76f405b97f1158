"""`create`: durable CreateOrder beside a unary echo of the same messages on bare gRPC.

Everything is on: keys, validation, fsync, metrics, one log line per order. Nothing is sent to the supplier: a request
that it never answers has its account's only slot. (A paused account would refuse the orders.)
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from reward_bench.figures import Aim, Figure, Plan, Series, in_turns
from reward_bench.machine import free_port
from reward_bench.serving import HELD, Running, Service, counted, helper
from reward_bench.supplier import Supplier
from reward_bench.wire import SERVICE, Calls
from rewardservice.v1 import reward_service_pb2 as pb

CREATE = SERVICE + "CreateOrder"
CALLERS = 64
TITLE = "CreateOrder, durable, beside a bare echo of its messages"


def requests(run: str, count: int, product: str) -> Iterator[bytes]:
    """So many orders."""
    for number in range(count):
        yield a_request(f"{run}-{number}", product)


def a_request(client_order_id: str, product: str) -> bytes:
    """One order, as wire bytes."""
    return pb.CreateOrderRequest(
        client_order_id=client_order_id,
        product_id=product,
        quantity=1,
        metadata={"campaign": "spring", "user": "u-1234567"},
    ).SerializeToString()


async def load(calls: Calls, server: Running, orders: int, product: str) -> Mapping[str, float]:
    """One round: all orders, as fast as they are taken."""
    # Made before the clock runs.
    made = list(requests(f"{time.time_ns():x}", orders, product))
    cpu, own = server.cpu(), time.process_time()
    seconds = await calls.run(CREATE, made, CALLERS)
    return {
        "per_second": orders / seconds,
        "server_us": 1e6 * (server.cpu() - cpu) / orders,
        "load_share": (time.process_time() - own) / seconds,
    }


async def measure(folder: Path, plan: Plan) -> list[Figure]:
    """The figure."""
    supplier = Supplier()
    await supplier.start()
    service = Service(folder / "create", supplier=supplier.port)
    echo_port = free_port()
    ours, bare = Calls(), Calls()
    orders = plan.number(8_000)
    async with service.run() as server:
        await ours.connect(service.grpc)
        response = await ours.call(CREATE, a_request("first", HELD))
        await asyncio.sleep(0.5)
        async with helper(folder, "bare", "echo", str(echo_port), response.hex()) as echo:
            await bare.connect(echo_port)
            before = await counted(service.http, ["reward_store_commits_total"])
            found = await in_turns(
                plan,
                {
                    "ours": lambda: load(ours, server, orders, HELD),
                    "echo": lambda: load(bare, echo, orders, HELD),
                },
            )
            after = await counted(service.http, ["reward_store_commits_total"])
    await supplier.close()
    created = Series("CreateOrder, durable", "/s", found["ours"]["per_second"])
    echoed = Series("bare echo", "/s", found["echo"]["per_second"])
    commits = after["reward_store_commits_total"] - before["reward_store_commits_total"]
    return [
        Figure(
            key="create",
            title=TITLE,
            series=(created, echoed),
            ratio=created.over(echoed, "of the echo"),
            aim=Aim("≥", 0.50),
            guarded=True,
            note="Nothing is sent: a request that the supplier doesn't answer has its account's only slot.",
            facts={
                "server CPU per order, µs": Series("", "", found["ours"]["server_us"]).median,
                "echo's CPU per call, µs": Series("", "", found["echo"]["server_us"]).median,
                "load's share of its core, ours": max(found["ours"]["load_share"]),
                "load's share of its core, echo": max(found["echo"]["load_share"]),
                "commits per order": commits / (orders * (plan.rounds + 1)),
            },
        )
    ]
