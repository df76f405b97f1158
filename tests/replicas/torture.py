"""Kills and freezes three replicas and restarts their PostgreSQL at random while 5,000 orders run, and judges what came
of it.

`make torture-replicas`, or `python -m replicas.torture --orders 5000 --faults 20 --restarts 3 --seed 1` with `tests` on
the path. A seed decides the orders and what happens to whom; the machine decides the rest.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

# The database is started again by a process in which gRPC has threads, and which has no use for gRPC after a fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from crash.torture import say, table
from postgres_server import Cluster

from .fleet import Findings, storm


def figures(found: Findings, seconds: float) -> str:
    """What a run was."""
    rows: list[tuple[str, int | str]] = [
        *((f"of these: {name}", times) for name, times in sorted(found.done.items())),
        ("replicas that found no database", found.turned_away),
        ("updates in the log", found.updates),
        ("streams that the followers opened", found.streams),
        ("seconds", f"{seconds:.0f}"),
    ]
    return "\n".join(f"{name:<38}{value:>10}" for name, value in rows)


def main() -> int:
    """0 when everything held, else 1."""
    parser = argparse.ArgumentParser(description="Kill and freeze replicas while they buy, and judge what came of it.")
    parser.add_argument("--orders", type=int, default=5_000)
    parser.add_argument("--faults", type=int, default=20, help="kills and freezes of replicas (default: 20)")
    parser.add_argument("--restarts", type=int, default=3, help="of PostgreSQL, every other one by a kill (default: 3)")
    parser.add_argument("--seconds", type=float, default=None, help="over which orders come (default: 25 a second)")
    parser.add_argument("--seed", type=int, default=None, help="default: by the clock")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(time.time())
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    say(f"{options.orders} orders, {options.faults} faults, {options.restarts} restarts, seed {seed}, in {folder}")
    begun = time.monotonic()
    with Cluster() as cluster:
        over = options.seconds or options.orders / 25
        found = asyncio.run(
            storm(
                folder,
                cluster,
                seed=seed,
                orders=options.orders,
                faults=options.faults,
                restarts=options.restarts,
                over=over,
            )
        )
    say(table(found.verdict))
    say(figures(found, time.monotonic() - begun))
    for violation in found.verdict.violations:
        say(f"  {violation}")
    if found.verdict.violations:
        say(f"violated with seed {seed}; everything is kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
