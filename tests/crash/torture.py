"""Kills the server hundreds of times at random while it buys from all five suppliers, and judges what came of it.

`make torture`, or `python -m crash.torture --kills 500 --seed 1 --minutes 30` with `tests` on the path. The work is cut
into storms of ten kills with a server of their own each and seeds that follow each other: a storm is played again with
`--seed THE-SEED --kills 10`. With `--store postgres` the orders are in a real PostgreSQL instead of SQLite files. A
seed decides orders, crash points and lifetimes; the machine decides the rest.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

# Before anything imports grpc: its handlers of a fork may crash the process that starts a PostgreSQL server.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from postgres_server import server

from .stores import fresh_databases, shared_store
from .world import Verdict, storm

KILLS_PER_STORM = 10
AT_ONCE = 4


def say(text: str, to: TextIO = sys.stdout) -> None:
    """Prints at once."""
    to.write(text + "\n")
    to.flush()


class Torture:
    """A run of storms, a few at a time."""

    def __init__(
        self, folder: Path, *, kills: int, seed: int, minutes: float, new_store: Callable[[], str] | None
    ) -> None:
        """`new_store` makes what stands in `[store]` of a storm; None: a SQLite file."""
        self.total = Verdict()
        self.bad_seeds: list[int] = []
        self._folder = folder
        self._kills_left = kills
        self._next_seed = seed
        self._end = time.monotonic() + 60 * minutes
        self._new_store = new_store

    async def run(self) -> None:
        """Until there were enough kills or the time is over; storms that have begun are judged to their end."""
        await asyncio.gather(*(self._one_after_another() for _ in range(AT_ONCE)))

    async def _one_after_another(self) -> None:
        while self._kills_left > 0 and time.monotonic() < self._end:
            kills, seed = min(KILLS_PER_STORM, self._kills_left), self._next_seed
            self._kills_left -= kills
            self._next_seed += 1
            home = self._folder / f"seed-{seed}"
            home.mkdir()
            store = await asyncio.to_thread(self._new_store) if self._new_store is not None else ""
            found = await storm(home, seed=seed, kills=kills, store=store)
            self.total.add(found)
            say(f"seed {seed}: {found.kills} kills, {found.orders} orders, {len(found.violations)} violations")
            for violation in found.violations:
                say(f"  {violation}")
            if found.violations:
                self.bad_seeds.append(seed)
            else:
                shutil.rmtree(home)


def table(total: Verdict) -> str:
    """The figures."""
    per_unit = total.bought_for_them / total.fulfilled_units if total.fulfilled_units else 0.0
    rows: list[tuple[str, int | str]] = [
        ("kills", total.kills),
        ("orders under way when it was killed", total.caught),
        ("orders", total.orders),
        *((f"  {state}", count) for state, count in sorted(total.states.items())),
        *((f"purchases at {kind}", count) for kind, count in sorted(total.suppliers.items())),
        ("units of FULFILLED orders", total.fulfilled_units),
        ("purchases per such unit", f"{per_unit:.4f}"),
        ("most purchases under one number", total.most_under_one_number),
        ("charged, yuan", f"{total.charged:.2f}"),
        ("what the orders say they cost", f"{total.told_costs:.2f}"),
        ("violations", len(total.violations)),
    ]
    return "\n".join(f"{name:<38}{value:>10}" for name, value in rows)


@contextlib.contextmanager
def stores() -> Iterator[Callable[[], str]]:
    """A PostgreSQL server for as long as it is needed, and what makes a store on it."""
    with server() as running, fresh_databases(running) as new_database:
        yield lambda: shared_store(new_database())


def main() -> int:
    """0 when everything held, else 1."""
    parser = argparse.ArgumentParser(description="Kill the server at random while it buys, and judge what came of it.")
    parser.add_argument("--kills", type=int, default=500, help="how often (default: 500)")
    parser.add_argument("--seed", type=int, default=None, help="of the first storm (default: by the clock)")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing new after this (default: 60)")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite", help="where orders are kept")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(time.time())
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    say(f"{options.kills} kills over {options.store}, seeds from {seed}, in {folder}")
    with contextlib.ExitStack() as servers:
        new_store = servers.enter_context(stores()) if options.store == "postgres" else None
        torture = Torture(folder, kills=options.kills, seed=seed, minutes=options.minutes, new_store=new_store)
        asyncio.run(torture.run())
    say(table(torture.total))
    if torture.bad_seeds:
        say(f"violated with seeds {torture.bad_seeds}; everything is kept in {folder}")
        return 1
    folder.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
