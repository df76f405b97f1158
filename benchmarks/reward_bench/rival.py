"""`rivals`: the same order on what a team would write instead: a durable-workflow library, and a plain web service.

Each has the same core, the same supplier, the same number of orders under way, and syncs every commit to disk. They
answer over HTTP and JSON, and they seal, validate, authenticate, log and measure nothing: whatever they leave out
counts for them.
"""

import asyncio
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from reward_bench.create import CALLERS
from reward_bench.figures import Aim, Figure, Plan, Round, Series, in_turns
from reward_bench.machine import PROJECT, SERVER_CORE, free_port, pinned
from reward_bench.order import pair, whole
from reward_bench.serving import READY_SECONDS, SYNC, Running, Service, running
from reward_bench.supplier import HttpClient
from reward_bench.wire import CallsFailedError

ENVIRONMENT = PROJECT / ".venv-bench"
FOLDER = Path(__file__).parent / "rivals"
CREATED, ACCEPTED = 200, 202
PATIENCE = 120.0
RIVALS = {
    "dbos": ("dbos_service.py", ("default",), 150, "DBOS, SQLite as it comes"),
    "dbos-wal": ("dbos_service.py", ("wal",), 300, "DBOS, SQLite with a write-ahead log"),
    "plain": ("plain_service.py", (), 600, "FastAPI, SQLAlchemy, background task"),
}
"""Program, arguments, orders of a round, name."""


class Shopper:
    """Buys at a web service: an order is done when it answers 200, or else when its event comes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._client = HttpClient(port, CALLERS)
        self._names: Iterator[str] = iter(())
        self._left = 0
        self._failed: list[int] = []
        self._done = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self._events: asyncio.StreamWriter | None = None
        """Kept: without it the connection is closed."""

    async def buy(self, orders: int, buyers: int = CALLERS) -> float:
        """Buys so much; returns the seconds until the last card came."""
        run = f"{time.time_ns():x}"
        self._names, self._left = iter([f"{run}-{n}" for n in range(orders)]), orders
        self._done.clear()
        begun = time.perf_counter()
        for _ in range(buyers):
            self._next()
        await asyncio.wait_for(self._done.wait(), PATIENCE)
        if self._failed:
            raise CallsFailedError(f"orders were answered with {sorted(set(self._failed))}")
        return time.perf_counter() - begun

    async def listen(self) -> None:
        """Takes events from now on."""
        reader, self._events = await asyncio.open_connection("127.0.0.1", self._port)
        self._events.write(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while not (await reader.readline()).startswith(b": welcome"):
            pass
        self._listening = asyncio.create_task(self._take(reader))

    async def _take(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            if line.startswith(b"data: "):
                self._came()

    def _next(self) -> None:
        name = next(self._names, None)
        if name is not None:
            body = json.dumps({"client_order_id": name, "product": "card", "quantity": 1}).encode()
            self._client.post("/orders", body, self._answered)

    def _answered(self, status: int, _body: bytes) -> None:
        if status != ACCEPTED:
            if status != CREATED:
                self._failed.append(status)
            self._came()

    def _came(self) -> None:
        self._left -= 1
        if self._left:
            self._next()
        else:
            self._done.set()

    def close(self) -> None:
        """Leaves."""
        self._client.close()
        if self._listening is not None and self._events is not None:
            self._listening.cancel()
            self._events.close()


async def _reachable(port: int) -> None:
    begun = time.perf_counter()
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if time.perf_counter() - begun > READY_SECONDS:
                raise
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


async def _round(shopper: Shopper, program: Running, orders: int) -> Mapping[str, float]:
    cpu = program.cpu()
    seconds = await shopper.buy(orders)
    return {"per_second": orders / seconds, "server_us": 1e6 * (program.cpu() - cpu) / orders}


async def measure(folder: Path, plan: Plan) -> list[Figure]:
    """Ours over each of them."""
    if not ENVIRONMENT.exists():
        raise SystemExit("their environment isn't there; make bench-rivals sets it up")
    sides: dict[str, Round] = {}
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(pair(folder, Service(folder / "order")))
        for name, (file, arguments, full, _) in RIVALS.items():
            port, home = free_port(), folder / name
            home.mkdir()
            python = str(ENVIRONMENT / "bin" / "python")
            command = [python, str(FOLDER / file), str(port), str(one.supplier.port), str(home), *arguments]
            program = await stack.enter_async_context(
                running(pinned(SERVER_CORE, command), home / "log", {"PATH": os.environ["PATH"]})
            )
            await _reachable(port)
            shopper = Shopper(port)
            stack.callback(shopper.close)
            if name == "plain":
                await shopper.listen()
            sides[name] = _side(shopper, program, plan.number(full, step=CALLERS))
        sides["ours"] = lambda: whole(one, plan.number(3_000), SYNC)
        found = await in_turns(plan, sides)
    ours = Series("this service", "/s", found["ours"]["per_second"])
    figures = []
    for name, (_, _, _, title) in RIVALS.items():
        other = Series(title, "/s", found[name]["per_second"])
        figures.append(
            Figure(
                key=f"rivals-{name}",
                title=f"The whole path, beside {title}",
                series=(ours, other),
                ratio=ours.over(other, "times theirs"),
                aim=Aim("≥", 10.0) if name == "dbos" else None,
                facts={
                    "server CPU per order, µs": Series("", "", found["ours"]["server_us"]).median,
                    "theirs, µs": Series("", "", found[name]["server_us"]).median,
                },
            )
        )
    return figures


def _side(shopper: Shopper, program: Running, orders: int) -> Round:
    return partial(_round, shopper, program, orders)
