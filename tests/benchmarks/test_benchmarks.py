"""The benchmarks run, and what they measure is told truly. How fast anything is, isn't tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reward_bench.figures import Aim, Figure, Series, figure_from
from reward_bench.page import PARTS, markdown, page, text_table

PROJECT = Path(__file__).parents[2]
BENCHMARKS = PROJECT / "benchmarks"

OURS = Series("CreateOrder, durable", "/s", (900.0, 1000.0, 1200.0))
ECHO = Series("bare echo", "/s", (2000.0, 2500.0, 2500.0))
RESULT = {
    "taken": "2026-11-22",
    "rounds": 3,
    "load_average": 0.1,
    "machine": {
        "cpu": "a processor", "cores": 2, "memory_gib": 8, "system": "Linux 6", "python": "3.11.7", "packages": {},
        "commit": "abc",
    },
}  # fmt: skip


def a_figure(aim: float = 0.5) -> Figure:
    """Ours is at 0.45, 0.40 and 0.48 of the echo."""
    return Figure(
        key="create",
        title="CreateOrder beside an echo",
        series=(OURS, ECHO),
        ratio=OURS.over(ECHO, "of the echo"),
        aim=Aim("≥", aim),
        facts={"server CPU per order, µs": 812.0},
    )


def test_a_figure_is_read_as_it_was_written() -> None:
    written = json.loads(json.dumps(a_figure().to_json()))
    assert figure_from(written).to_json() == written


@pytest.mark.parametrize(("aim", "says"), [(0.4, "met"), (0.5, "missed by 10\u00a0%")])
def test_every_table_says_whether_the_aim_is_met_or_by_how_much_it_is_missed(aim: float, says: str) -> None:
    parts = {"create": [a_figure(aim)]}
    assert says in text_table(parts["create"])
    assert says in markdown(RESULT, parts)
    assert says in page(RESULT, parts)


def test_the_page_needs_nothing_from_elsewhere() -> None:
    drawn = page(RESULT, {"create": [a_figure()]})
    assert "<svg" in drawn
    assert not [word for word in ("http://", "https://", "src=", "<link", "@import") if word in drawn]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the benchmarks pin processes to cores, as Linux can")
def test_a_part_measures_and_writes_its_figures(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "reward_bench", "create", "--rounds", "1", "--scale", "0.01", "--into", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), str(PROJECT / "tests")])},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    [figure] = json.loads((tmp_path / "create.json").read_text())["parts"]["create"]["figures"]
    assert figure["ratio"]["values"][0] > 0
    assert "create" in PARTS
