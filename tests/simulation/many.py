"""`python -m simulation --seeds 0-1999 --orders 50`: plays seeds, sums up what came of them, fails if a promise broke.

A seed that broke one replays exactly: `python -m simulation --seeds 1234 --orders 50 --history FILE` plays it alone and
writes down what the store was asked, for `tests/store/histories/`.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from store.history import History

from .disk import Disks
from .play import Result, play

SEEDS_PER_PROCESS = 100
"""A process that has played so many ends, and its memory with it."""

TOLD_EVERY = 100
"""Seeds between two words about how far it is."""

_disks: list[Disks] = []


def _play(seed: int, orders: int, keep_history: bool) -> Result:
    if not _disks:
        _disks.append(Disks())
    result = play(seed, orders, _disks[0])
    if not keep_history:
        result.history = History()
    return result


@dataclass
class Total:
    """All seeds together."""

    seeds: int = 0
    orders: int = 0
    fulfilled: int = 0
    bought: int = 0
    seconds: float = 0.0
    broken: list[int] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        """One more."""
        self.seeds += 1
        self.orders += result.orders
        self.fulfilled += result.units_fulfilled
        self.bought += result.units_bought
        self.seconds += result.seconds
        self.broken += [result.seed] if result.violations else []
        self.states.update(result.states)
        self.faults.update(result.faults)
        self.counts.update(result.counts)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.seeds} seeds, {self.orders} orders, {self.seconds / 86_400:.1f} days of simulated time"
        per_unit = self.bought / max(1, self.fulfilled)
        yield f"purchases per fulfilled unit: {per_unit:.4f} ({self.bought}/{self.fulfilled})"
        for title, counted in (("orders by state", self.states), ("faults", self.faults), ("seen", self.counts)):
            yield f"{title}:"
            yield from (f"  {count:>9,}  {name}" for name, count in counted.most_common())
        yield f"promises broken in {len(self.broken)} seeds{': ' if self.broken else ''}{self.broken or ''}"


def say(text: str) -> None:
    """Tells whoever runs it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _results(seeds: range, orders: int, keep_history: bool, jobs: int) -> Iterator[Result]:
    """In the order of the seeds."""
    if jobs == 1:
        yield from (_play(seed, orders, keep_history) for seed in seeds)
        return
    # Not a ProcessPoolExecutor: it forgets to start others when its processes end after so many tasks.
    with get_context("spawn").Pool(jobs, maxtasksperchild=SEEDS_PER_PROCESS) as pool:
        yield from pool.imap(partial(_play, orders=orders, keep_history=keep_history), seeds)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seeds", default="0-39", help="one, or FIRST-LAST")
    parser.add_argument("--orders", type=int, default=50, help="orders per seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds at a time")
    parser.add_argument("--history", type=Path, help="where to write what the store of the (last) seed was asked")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON for programs")
    parser.add_argument("--until-broken", action="store_true", help="stop at the first seed that breaks a promise")
    parser.add_argument("--digests", action="store_true", help="tell of each seed what tells two runs apart")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets is part of what a seed decides.
        os.execve(  # noqa: S606 - this very program again
            sys.executable,
            [sys.executable, "-m", "simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    first, _, last = arguments.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    total = Total()
    for result in _results(seeds, arguments.orders, arguments.history is not None, arguments.jobs):
        total.add(result)
        if arguments.digests:
            say(f"seed {result.seed}: {result.digest} {result.steps} steps")
        for violation in result.violations:
            say(f"seed {result.seed}: {violation}")
        if arguments.history is not None:
            result.history.told = f"seed {result.seed}, {arguments.orders} orders: {result.violations or 'green'}"
            result.history.write(arguments.history)
        if total.seeds % TOLD_EVERY == 0:
            sys.stderr.write(f"{total.seeds} of {len(seeds)} seeds, broken: {total.broken or 'none'}\n")
        if arguments.until_broken and result.violations:
            break
    say("\n".join(total.lines()))
    if arguments.json:
        say(json.dumps(vars(total)))
    return 1 if total.broken else 0
