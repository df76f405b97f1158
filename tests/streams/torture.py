"""Cuts the connections of fifty subscribers at random while 10,000 orders run, and compares what each was told.

`make torture-streams`, or `python -m streams.torture --orders 10000 --seed 1` with `tests` on the path. The server is
restarted a few times on the way. A seed decides selectors and after how many bytes a connection is cut; the machine
decides the rest.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from .run import Findings, whole


def table(found: Findings) -> str:
    """The figures."""
    rows: list[tuple[str, int | str]] = [
        ("orders", found.orders),
        ("updates in the log", found.updates),
        ("updates told to subscribers", found.told),
        ("connections", found.connections),
        *((f"  {fate}", times) for fate, times in sorted(found.cuts.items())),
        ("readers that were too slow", found.too_slow),
        ("memory of the server, MB", f"{found.memory_kib / 1024:.0f}"),
        ("violations", len(found.violations)),
    ]
    return "\n".join(f"{name:<38}{value:>10}" for name, value in rows)


def main() -> int:
    """0 when everything held, else 1."""
    parser = argparse.ArgumentParser(description="Cut streams at random while orders run, and compare with the log.")
    parser.add_argument("--orders", type=int, default=10_000)
    parser.add_argument("--subscribers", type=int, default=50)
    parser.add_argument("--restarts", type=int, default=3, help="of the server (default: 3)")
    parser.add_argument("--seed", type=int, default=None, help="default: by the clock")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(time.time())
    sys.stdout.write(f"{options.orders} orders, {options.subscribers} subscribers, seed {seed}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        found = asyncio.run(
            whole(
                Path(folder),
                seed=seed,
                orders=options.orders,
                subscribers=options.subscribers,
                restarts=options.restarts,
            )
        )
    sys.stdout.write("\n".join([table(found), *found.violations]) + "\n")
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
