"""Chance does to the whole service what it can, and no promise breaks. See `play` for what chance can.

Each run is a process of its own, so that the order of sets is the same everywhere.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

HALVES = ("0-19", "20-39")
ORDERS = 50
"""Per seed: 2,000 in all. `make simulate` plays many more."""

FAULTS = (
    *("bad answers to create calls", "bad answers to query calls", "a supplier was down", "connection refused"),
    *("bytes came late", "a connection went silent", "connection broke, bytes lost"),
    *("connection broke, bytes in part", "connection broke, bytes whole and late"),
    *("callbacks: twice", "callbacks: hold", "callbacks: again", "callbacks: lie"),
    *("killed at a random moment", "power cut at a random moment", "killed at a crash point"),
    *("killed between the write and the sync of a commit", "frozen and thawed", "frozen, taken over and thawed"),
    *("stood still between an intention and its first byte", "wall clock jumped", "a write met a full disk"),
    *("a sync failed", "an operator decided", "an operator paused an account", "cancelled by the client"),
)
"""What has to have happened in 2,000 orders, by the beginning of its name."""

SEEN = {
    "writes that lost a race": 1,
    "writes done whose answer was lost": 1,
    "cards that reached a process which lived on": 100,
    "orders whose cost equals the books": 500,
}
"""What has to have been compared, and how often at least."""


def simulate(*options: str, extra: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts `python -m simulation`."""
    return subprocess.Popen(
        [sys.executable, "-m", "simulation", "--jobs", "1", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), **(extra or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@dataclass(frozen=True, slots=True)
class Ran:
    """One run that has ended."""

    code: int
    output: str

    @property
    def total(self) -> dict[str, Any]:
        """What it says of all its seeds."""
        told: dict[str, Any] = json.loads(self.output.splitlines()[-1])
        return told


@pytest.fixture(scope="module")
def halves() -> Iterator[list[Ran]]:
    """Both halves of the seeds, played at the same time."""
    started = [simulate("--seeds", seeds, "--orders", str(ORDERS), "--json") for seeds in HALVES]
    try:
        outputs = [one.communicate(timeout=580)[0] for one in started]
        yield [Ran(one.returncode, output) for one, output in zip(started, outputs, strict=True)]
    finally:
        for one in started:
            one.kill()


@pytest.mark.timeout(600)
@pytest.mark.rule("P1", "P5", "P7", "O1", "O3", "D1", "D4")
def test_whatever_chance_does_no_promise_breaks(halves: list[Ran]) -> None:
    """Bought once, nothing lost, nothing overwritten, every order ends or waits for a person, and all sums fit."""
    for half in halves:
        assert half.code == 0, half.output[-6000:]
        assert half.total["broken"] == []
        assert half.total["bought"] == half.total["fulfilled"] > 0


@pytest.mark.timeout(600)
def test_chance_did_everything_that_it_can(halves: list[Ran]) -> None:
    """A simulation in which nothing happens proves nothing."""
    faults = [name for half in halves for name in half.total["faults"]]
    assert [kind for kind in FAULTS if not any(name.startswith(kind) for name in faults)] == []
    seen = {what: sum(half.total["counts"].get(what, 0) for half in halves) for what in SEEN}
    assert {what: count for what, count in seen.items() if count < SEEN[what]} == {}
    assert sum(half.total["orders"] for half in halves) > 1_900


def test_a_seed_replays_exactly() -> None:
    """Alone or behind others, with another salt of the machine: the same happens at the same times."""
    behind_another = simulate("--seeds", "7-8", "--orders", "15", "--digests", extra={"PYTHONHASHSEED": "17"})
    alone = simulate("--seeds", "8", "--orders", "15", "--digests")
    outputs = [one.communicate(timeout=280)[0] for one in (behind_another, alone)]
    told = [[line for line in output.splitlines() if line.startswith("seed 8: ")] for output in outputs]
    assert len(told[0]) == 1, outputs
    assert told[0] == told[1]
