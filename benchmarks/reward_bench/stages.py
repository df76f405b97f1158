"""`stages`: where the CPU time of an order goes, microseconds by stage, for CreateOrder alone and for the whole path.

The service as shipped with a stopwatch at the entrance of each stage (`staged.py`); what no stage names is gRPC, HTTP,
the event loop and the glue, and beside it stands what the bare servers need for theirs.
"""

from collections.abc import Mapping
from pathlib import Path

from reward_bench.create import CREATE, a_request, load
from reward_bench.figures import Figure, Plan, Series, columns
from reward_bench.machine import free_port
from reward_bench.order import Buyers, naive, pair
from reward_bench.serving import HELD, SYNC, Running, Service, helper
from reward_bench.supplier import Supplier
from reward_bench.wire import Calls

REST = "gRPC, event loop, the rest"
LIMITS = {
    "read metadata": "the key and the request id out of the call's metadata",
    "find the caller": "SHA-256 of the key, one look into a dict, one comparison in constant time",
    "metrics": "a lock and an addition for each counter; four counters and a histogram for a call, two for a commit",
    "check its shape": "each field of the request; to read a field of a message costs as much as to check it",
    "make the order": "offers, prices, two time-ordered ids and two values of thirty fields each",
    "encode the order": "JSON of the whole order, about 1 kB, once for each version",
    "hand over to the store": "a future and a place in the next batch",
    "statements": "five for a new order, four for a version: its row, its log entry, the log's head, its purchase",
    "commit, in its thread": "one write and one fsync for all writers of a batch: the disk's time isn't in it",
    "tell the hub": "one call for a batch; streams read what they were told of from the log",
    "log lines": "one line of JSON for a new order and one for each change; redaction looks at every value",
    "queue the purchase": "a place in the account's queue, or a watch on what is under way",
    "build the answer": "the order as protobuf, field by field",
    "resume token": "one keyed BLAKE2 over forty bytes, for the answer and for each update",
    "adapter": "the supplier's signature and the reading of its answer",
    "table of moves": "what each event means: pure values, copied with every change",
    "sealing": "AES-GCM and two keyed hashes for a card",
    "opening for the stream": "AES-GCM, once for all streams of a client",
    "encode the update": "the update as protobuf, once for all streams in one view",
    "around the call": "the handler between its stages, and a task of its own so that no cancelled call tears it apart",
    "around the engine": "the steps of an order's task between the stages: locks, timers, accounts, what is remembered",
    "around a batch": "a transaction's BEGIN, the hand-over to the thread that commits and back",
    "HTTP to the supplier": "aiohttp: a request, a connection where none is fresh, an answer",
    "write to streams": "gRPC's writer, once for each stream and version",
    REST: "what the bare servers below spend on the same wire, the interceptor, tasks, hand-overs between threads",
}
"""What each stage does, which is what limits it."""


async def on_the_watch(server: Running) -> Mapping[str, float]:
    """What is on the stopwatch, which is empty from then on; seconds by stage."""
    server.tell("stages")
    found: Mapping[str, float] = await server.heard()
    return found


async def measure(folder: Path, plan: Plan) -> list[Figure]:
    """Both tables."""
    supplier = Supplier()
    await supplier.start()
    service = Service(folder / "stages", supplier=supplier.port)
    calls, buyers = Calls(), Buyers()
    created: list[Mapping[str, float]] = []
    bought: list[Mapping[str, float]] = []
    orders = plan.number(3_000)
    async with helper(folder, "staged", str(service.configure())) as server:
        await calls.connect(service.grpc)
        response = await calls.call(CREATE, a_request("first", HELD))
        for _ in range(plan.rounds + 1):
            cpu = server.cpu()
            await on_the_watch(server)
            await load(calls, server, orders, HELD)
            created.append(_per_order(await on_the_watch(server), server.cpu() - cpu, orders))
        await buyers.connect(service.grpc)
        for _ in range(plan.rounds + 1):
            cpu = server.cpu()
            await on_the_watch(server)
            await buyers.buy(orders // 2, SYNC)
            bought.append(_per_order(await on_the_watch(server), server.cpu() - cpu, orders // 2))
        buyers.close()
    await supplier.close()
    echo, proxy = await _bare(folder, plan, response)
    return [
        _figure("stages-create", "CreateOrder", created[1:], "a bare echo's CPU per call, µs", echo),
        _figure("stages-order", "The whole path", bought[1:], "the naive proxy's CPU per order, µs", proxy),
    ]


def _per_order(watch: Mapping[str, float], cpu: float, orders: int) -> Mapping[str, float]:
    found = {stage: 1e6 * seconds / orders for stage, seconds in watch.items()}
    total = 1e6 * cpu / orders
    return {**found, REST: total - sum(found.values()), "all": total}


async def _bare(folder: Path, plan: Plan, response: bytes) -> tuple[float, float]:
    """CPU per call of the echo and of the proxy, in microseconds."""
    port = free_port()
    calls = Calls()
    orders = plan.number(3_000)
    async with helper(folder, "bare", "echo", str(port), response.hex()) as server:
        await calls.connect(port)
        echo = columns([await load(calls, server, orders, HELD) for _ in range(plan.rounds)])
    async with pair(folder, Service(folder / "order")) as one:
        proxy = columns([await naive(one, orders // 2, SYNC) for _ in range(plan.rounds)])
    return Series("", "", echo["server_us"]).median, Series("", "", proxy["server_us"]).median


def _figure(key: str, title: str, rounds: list[Mapping[str, float]], bare: str, bare_us: float) -> Figure:
    found = columns(rounds)
    total = Series("CPU per order", "µs", found.pop("all"))
    stages = {stage: Series(stage, "µs", values).median for stage, values in found.items()}
    rest = stages.pop(REST)
    named = {stage: value for stage, value in sorted(stages.items(), key=lambda item: -item[1]) if value >= 0.05}
    return Figure(
        key=key,
        title=f"{title}: where the server's CPU time goes, µs per order",
        series=(total,),
        facts={**named, REST: rest, bare: bare_us},
    )
