"""Chance does to the whole service what it can, and no promise breaks. See `play` for what chance can.

Each run is a process of its own, so that the order of sets is the same everywhere.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SEEDS = ("0-9", "10-19", "20-29", "30-39")
ORDERS = 50
"""Per seed: 2,000 in all. `make simulate` plays many more."""


def simulate(*options: str, extra: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `python -m simulation`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), **(extra or {})}
    return subprocess.run(
        [sys.executable, "-m", "simulation", "--jobs", "1", *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


@pytest.mark.rule("P1", "P5", "P7", "O1", "O3", "D1", "D4")
@pytest.mark.parametrize("seeds", SEEDS)
def test_whatever_chance_does_no_promise_breaks(seeds: str) -> None:
    """Bought once, nothing lost, nothing overwritten, every order ends or waits for a person, and all sums fit."""
    run = simulate("--seeds", seeds, "--orders", str(ORDERS))
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert "purchases per fulfilled unit: 1.0000" in run.stdout
    assert "promises broken in 0 seeds" in run.stdout


def test_a_seed_replays_exactly() -> None:
    """Alone or behind others, with another salt of the machine: the same happens at the same times."""
    behind_another = simulate("--seeds", "7-8", "--orders", "15", "--digests", extra={"PYTHONHASHSEED": "17"})
    alone = simulate("--seeds", "8", "--orders", "15", "--digests")
    [told] = [line for line in behind_another.stdout.splitlines() if line.startswith("seed 8: ")]
    assert told in alone.stdout.splitlines(), alone.stdout + alone.stderr
