"""`stored`: what an order costs when 10³, 10⁵ and 10⁶ orders are stored, with random client_order_ids.

Three servers on three files run side by side and take turns: CreateOrder, GetOrder by random client_order_ids, and the
next 20 updates after a random place in the log, which is what a resuming stream reads. `make bench-growth`
does it with 10⁷.
"""

import random
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from reward_bench.create import CALLERS, CREATE, a_request
from reward_bench.figures import Aim, Figure, Plan, Round, Series, in_turns
from reward_bench.machine import python
from reward_bench.serving import HELD, PATH, Service, running
from reward_bench.supplier import Supplier
from reward_bench.wire import SERVICE, Calls
from rewardservice.v1 import reward_service_pb2 as pb

STORED = (1_000, 100_000, 1_000_000)
LOGGED = 1_000_000
"""Orders whose log is kept: of more the older ones count as pruned."""
BYTES_PER_ORDER, BYTES_PER_LOG = 3_500, 5_500
"""A generous guess, for the question whether the disk has room."""
SPARE = 10 << 30
UPDATES = 20
WHAT = {
    "create": "CreateOrder",
    "get": "GetOrder by client_order_id",
    "resume": f"Resuming, {UPDATES} updates",
}


async def filled(service: Service, count: int, state: str = "delivered", logged: int = LOGGED) -> dict[str, Any]:
    """Fills a store that no server works on; returns what can be asked for."""
    config = service.configure()
    # It may use what cores there are: nothing is measured meanwhile.
    command = python(None, "reward_bench.filling", str(config), str(count), state, str(min(count, logged)))
    async with running(command, service.folder / "log", PATH) as program:
        return await program.heard()  # type: ignore[no-any-return]


async def one_round(calls: Calls, asked: Mapping[str, Any], plan: Plan) -> Mapping[str, float]:
    """Calls per second of each kind."""
    source = random.Random()  # another selection each time: what was asked for before is in every cache
    creates = [a_request(secrets.token_hex(16), HELD) for _ in range(plan.number(3_000))]
    gets = [
        pb.GetOrderRequest(client_order_id=name).SerializeToString()
        for name in source.choices(asked["client_order_ids"], k=plan.number(3_000))
    ]
    resumes = [
        pb.ListOrderUpdatesRequest(after=token, limit=UPDATES).SerializeToString()
        for token in source.choices(asked["tokens"], k=plan.number(600))
    ]
    return {
        "create": len(creates) / await calls.run(CREATE, creates, CALLERS),
        "get": len(gets) / await calls.run(SERVICE + "GetOrder", gets, CALLERS),
        "resume": len(resumes) / await calls.run(SERVICE + "ListOrderUpdates", resumes, CALLERS),
    }


async def measure(folder: Path, plan: Plan, stored: tuple[int, ...] = STORED) -> list[Figure]:
    """Three figures for each number of stored orders."""
    counts = sorted({stored[0], *(plan.number(count) for count in stored[1:])})
    _check_room(folder, counts)
    supplier = Supplier()
    await supplier.start()
    sides: dict[str, Round] = {}
    services = {count: Service(folder / f"stored-{count}", supplier=supplier.port) for count in counts}
    told = {count: await filled(service, count) for count, service in services.items()}
    async with AsyncExitStack() as stack:
        for count, service in services.items():
            await stack.enter_async_context(service.run())
            calls = Calls()
            await calls.connect(service.grpc)
            # Its only slot is taken from here on.
            await calls.call(CREATE, a_request(secrets.token_hex(16), HELD))
            sides[str(count)] = partial(one_round, calls, told[count], plan)
        found = await in_turns(plan, sides)
    await supplier.close()
    least = str(counts[0])
    figures = []
    for count in counts[1:]:
        for name, title in WHAT.items():
            few = Series(f"{counts[0]:,} stored", "/s", found[least][name])
            many = Series(f"{count:,} stored", "/s", found[str(count)][name])
            figures.append(
                Figure(
                    key=f"stored-{name}-{count}",
                    title=f"{title}: {count:,} orders stored, beside {counts[0]:,}",
                    series=(many, few),
                    ratio=few.over(many, "times the cost"),
                    aim=Aim("≤", 1.20),
                    facts={"GiB on disk": told[count]["bytes"] / 2**30},
                )
            )
    return figures


def _check_room(folder: Path, counts: Sequence[int]) -> None:
    needed = sum(count * BYTES_PER_ORDER + min(count, LOGGED) * BYTES_PER_LOG for count in counts) + SPARE
    folder.mkdir(exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(f"{needed >> 30} GiB of disk are needed, {free >> 30} are free")
