"""`restart`: starting with 100,000 orders in flight: the time until the server is ready, and its memory.

The orders were taken by a supplier that is asked about each of them; it goes on saying that they are under way.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from reward_bench.figures import Figure, Plan, Series, columns
from reward_bench.machine import SERVER_CORE, python
from reward_bench.serving import Service, running
from reward_bench.stored import filled
from reward_bench.supplier import Supplier

IN_FLIGHT = 100_000
SETTLING_SECONDS = 5.0
"""After it is ready, before its memory is read again: looks have begun by then."""


async def start(service: Service) -> Mapping[str, float]:
    """One start, as the operator's supervisor would see it."""
    config = service.configure()
    begun = time.perf_counter()
    command = python(SERVER_CORE, "reward_server", "serve", "--config", str(config))
    async with running(command, service.folder / "log") as program:
        await service.until_ready(program)
        seconds = time.perf_counter() - begun
        memory = program.memory()
        await asyncio.sleep(SETTLING_SECONDS)
        return {"seconds": seconds, "memory": memory, "later": program.memory()}


async def measure(folder: Path, plan: Plan) -> list[Figure]:
    """Beside the start of an empty server."""
    orders = plan.number(IN_FLIGHT, step=100)
    supplier = Supplier()
    supplier.busy = True
    await supplier.start()
    full = Service(folder / "restart", supplier=supplier.port)
    empty = Service(folder / "empty", supplier=supplier.port)
    await filled(full, orders, "open")
    rounds = max(1, plan.rounds // 2)
    loaded = columns([await start(full) for _ in range(rounds)])
    nothing = columns([await start(empty) for _ in range(rounds)])
    await supplier.close()
    return [
        Figure(
            key="restart-ready",
            title=f"From the start of the process to ready, with {orders:,} orders in flight",
            series=(Series(f"{orders:,} in flight", "s", loaded["seconds"]), Series("none", "s", nothing["seconds"])),
        ),
        Figure(
            key="restart-memory",
            title=f"Memory when ready, with {orders:,} orders in flight",
            series=(Series(f"{orders:,} in flight", "MiB", loaded["memory"]), Series("none", "MiB", nothing["memory"])),
            facts={f"MiB {SETTLING_SECONDS:.0f} s later": Series("", "", loaded["later"]).median},
        ),
    ]
