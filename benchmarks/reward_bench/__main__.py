"""`python -m reward_bench PART…`: measures, prints a table and writes the figures beside it.

    all                  every part, and the pages in docs/benchmarks/ (`make bench`)
    create, order, …     one part; its figures go to .build/bench/PART.json (`make bench-PART`)
    quick                the guarded ratios in two minutes, compared with the committed ones (`make bench-quick`)
    growth-large         10⁷ stored orders: an hour and some 30 GiB of disk (`make bench-growth`)

Use a calm machine with two cores at least: the load is on one of them, what is measured on the other one.
"""

import argparse
import asyncio
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from reward_bench import (
    create,
    idle,
    latency,
    machine,
    order,
    page,
    replicas,
    restart,
    rival,
    sqlite,
    stages,
    stored,
    streams,
)
from reward_bench.figures import Figure, Plan, figure_from, shown
from reward_bench.serving import SYNC
from reward_bench.wire import CallsFailedError

Part = Callable[[Path, Plan], Awaitable[list[Figure]]]

PARTS: Mapping[str, Part] = {
    "create": create.measure,
    "order": order.measure,
    "streams": streams.measure,
    "rivals": rival.measure,
    "latency": latency.measure,
    "stored": stored.measure,
    "restart": restart.measure,
    "idle": idle.measure,
    "sqlite": sqlite.measure,
    "replicas": replicas.measure,
    "stages": stages.measure,
}
QUICK: Mapping[str, Part] = {
    "create": create.measure,
    "order": partial(order.measure, products=(SYNC,)),
    "streams": partial(streams.measure, counts=(100,)),
}
LARGE = (1_000, 10_000_000)
QUICK_PLAN = Plan(rounds=3, scale=0.5)
FELL = 0.90
"""A guarded ratio below this share of the committed one is reported."""

RESULTS = machine.PROJECT / "docs" / "benchmarks"
PERFORMANCE = machine.PROJECT / "docs" / "performance.md"
BEGIN, END = "<!-- stages, written by make bench -->", "<!-- end of stages -->"
SINGLE = machine.PROJECT / ".build" / "bench"


def measure(name: str, part: Part, plan: Plan) -> dict[str, Any]:
    """Measures one part in a folder of its own, and prints it."""
    print(f"── {name} ".ljust(78, "─"), flush=True)
    begun, load = time.monotonic(), machine.load_average()
    with (
        tempfile.TemporaryDirectory(prefix="reward-bench-", dir=os.environ.get("BENCH_FOLDER")) as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        figures = runner.run(_measure(part, Path(folder), plan))
    print(page.text_table(figures), flush=True)
    return {
        "seconds": round(time.monotonic() - begun),
        "load_average": load,
        "figures": [figure.to_json() for figure in figures],
    }


async def _measure(part: Part, folder: Path, plan: Plan) -> list[Figure]:
    return await part(folder, plan)


def result_of(parts: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Everything that is written down."""
    return {
        "taken": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rounds": plan.rounds,
        "scale": plan.scale,
        "load_average": next(iter(parts.values()))["load_average"],
        "machine": machine.facts(),
        "parts": parts,
    }


def write(result: Mapping[str, Any], folder: Path) -> None:
    """The JSON, the table and the page."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: [figure_from(one) for one in part["figures"]] for name, part in result["parts"].items()}
    (folder / "figures.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (folder / "README.md").write_text(page.markdown(result, parts))
    (folder / "index.html").write_text(page.page(result, parts))
    if folder == RESULTS and "stages" in parts:
        fill_in(PERFORMANCE, page.stages_table(parts["stages"], stages.LIMITS))
    print(f"written: {folder}/figures.json, README.md and index.html")


def fill_in(file: Path, table: str) -> None:
    """Puts a table between its two marks in a page."""
    before, begin, rest = file.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        file.write_text(f"{before}{begin}\n{table}\n{end}{after}")


def every(plan: Plan, folder: Path) -> int:
    """All parts. One that fails leaves the others, and what was there before stays if anything failed."""
    begun = time.monotonic()
    found: dict[str, Any] = {}
    failed = []
    for name, part in PARTS.items():
        try:
            found[name] = measure(name, part, plan)
        except (CallsFailedError, OSError, TimeoutError, SystemExit) as error:
            failed.append(name)
            print(f"{name} failed: {error}", file=sys.stderr, flush=True)
    print(f"{(time.monotonic() - begun) / 60:.0f} minutes")
    if failed:
        print(f"nothing was written, since these failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    write(result_of(found, plan), folder)
    return 0


def one(name: str, part: Part, plan: Plan, folder: Path) -> int:
    """One part."""
    found = measure(name, part, plan)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps(result_of({name: found}, plan), indent=1, ensure_ascii=False) + "\n")
    print(f"written: {file}")
    return 0


def quick(plan: Plan) -> int:
    """The guard. 1 when a ratio fell by more than a tenth."""
    committed = RESULTS / "figures.json"
    if not committed.exists():
        print("there are no committed figures to compare with; make bench writes them", file=sys.stderr)
        return 1
    before = _ratios(json.loads(committed.read_text())["parts"].values())
    now = _ratios([measure(name, part, plan) for name, part in QUICK.items()])
    print("── compared with the committed figures ".ljust(78, "─"))
    fell = [key for key, ratio in now.items() if key in before and ratio < FELL * before[key]]
    for key, ratio in now.items():
        was = f"{shown(before[key], '×')} before" if key in before else "not there before"
        print(f"{key:<16} {shown(ratio, '×'):>8}   {was}{'   ← fell by more than 10 %' if key in fell else ''}")
    return 1 if fell else 0


def _ratios(parts: Any) -> dict[str, float]:
    found = [figure_from(figure) for part in parts for figure in part["figures"]]
    return {figure.key: figure.ratio.median for figure in found if figure.guarded and figure.ratio is not None}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="reward_bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("all", "quick", "growth-large", *PARTS))
    parser.add_argument("--rounds", type=int, help="of each measurement (5)")
    parser.add_argument("--scale", type=float, help="factor on the numbers of orders and messages (1.0)")
    parser.add_argument(
        "--into", type=Path, help="where the figures go (docs/benchmarks, a single part's .build/bench)"
    )
    options = parser.parse_args(arguments)
    base = QUICK_PLAN if options.part == "quick" else Plan()
    plan = Plan(options.rounds or base.rounds, options.scale or base.scale)
    if machine.SERVER_CORE == machine.LOAD_CORE:
        print("there is only one core: load and server fight for it, so no figure means anything", file=sys.stderr)
    os.sched_setaffinity(0, {machine.LOAD_CORE})
    match options.part:
        case "all":
            return every(plan, options.into or RESULTS)
        case "quick":
            return quick(plan)
        case "growth-large":
            return one("growth-large", partial(stored.measure, stored=LARGE), plan, options.into or SINGLE)
        case name:
            return one(name, PARTS[name], plan, options.into or SINGLE)


if __name__ == "__main__":
    sys.exit(main())
