"""Plays scenarios in processes of their own, several at a time: most of each is waiting.

As a program: `PYTHONPATH=tests python -m tests.service.troupe kind/name …` prints one line of JSON per scenario as it
ends. A name like `kind/name@other` orders the product `kind/other` for the magic recipient of the scenario.
"""

import asyncio
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import structlog

from reward_sandbox import shops
from reward_sandbox.scenario import Scenario
from reward_server.app import StartError

from .stage import expectation, outcome, play, story
from .timelapse import run

PROCESSES = 2
AT_ONCE = 6
"""Per process."""

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one scenario."""

    outcome: dict[str, Any]
    """As `stage.outcome` has it."""
    codes: frozenset[str]
    timed_out: bool
    story: str


class Troupe:
    """Plays what it is told to in the background; ask it for results."""

    def __init__(self, names: Sequence[str]) -> None:
        self._results: dict[str, Result] = {}
        self._arrived = threading.Condition()
        # Dealt out in turn, long ones first, so that both processes end at about the same time.
        ordered = sorted(names, key=lambda name: -find(name)[1].lapse)
        self._left = 0
        self._noise = ""
        self._readers: list[threading.Thread] = []
        self._processes = [self._start(ordered[i::PROCESSES]) for i in range(PROCESSES) if ordered[i::PROCESSES]]

    def _start(self, names: Sequence[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, *names],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        self._left += 1
        reader = threading.Thread(target=self._collect, args=(process.stdout,))
        reader.start()
        self._readers.append(reader)
        return process

    def _collect(self, output: TextIO) -> None:
        noise = []
        with output:
            for line in output:
                if not line.startswith("{"):
                    noise.append(line)
                    continue
                told = json.loads(line)
                result = Result(told["outcome"], frozenset(told["codes"]), told["timed_out"], told["story"])
                with self._arrived:
                    self._results[told["name"]] = result
                    self._arrived.notify_all()
        with self._arrived:
            self._left -= 1
            self._noise = "".join(noise[-50:])
            self._arrived.notify_all()

    def result(self, name: str) -> Result:
        """Waits for a scenario to end."""
        with self._arrived:
            self._arrived.wait_for(lambda: name in self._results or not self._left)
            assert name in self._results, self._noise
            return self._results[name]

    def dismiss(self) -> None:
        """Ends what still plays."""
        for process in self._processes:
            process.terminate()
            process.wait()
        for reader in self._readers:
            reader.join()


def find(name: str) -> tuple[str, Scenario]:
    """`kind/name` or `kind/name@other`."""
    kind, _, scenario_name = name.partition("@")[0].partition("/")
    return kind, next(scenario for scenario in shops()[kind].scenarios if scenario.name == scenario_name)


async def perform(name: str, *, last: bool) -> bool:
    """Plays one scenario, prints what came of it and tells whether it did.

    Before the last try a moment that was missed doesn't count; anything more than declared does (a charge, a create
    call, a card), and so does every error but a port that somebody else took.
    """
    kind, scenario = find(name)
    other = name.partition("@")[2]
    ordered = {"product": f"{kind}/{other}", "recipient": scenario.magic} if other else {}
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        try:
            async with play(kind, scenario, Path(folder), **ordered) as played:
                came = outcome(played)
                told = {"codes": sorted(played.codes), "timed_out": played.timed_out, "story": story(played)}
                declared = expectation(scenario)
                missed = (came != declared or played.timed_out) and not too_much(came, declared)
        except Exception as error:
            came, told = {"error": repr(error)}, {"codes": [], "timed_out": False, "story": ""}
            missed = isinstance(error, StartError)
    if missed and not last:
        return False
    sys.stdout.write(json.dumps({"name": name, "outcome": came, **told}) + "\n")
    sys.stdout.flush()
    return True


def too_much(came: dict[str, Any], declared: dict[str, Any]) -> bool:
    """Whether money was spent or a card shown that the scenario doesn't declare: no busy machine excuses that."""
    counted = ("charges", "requests", "cards", "cards nobody sold", "cards told to the operator")
    return any(came[what] > declared[what] for what in counted)


async def perform_all(names: Sequence[str]) -> None:
    """Several at a time; what didn't end as declared once more, alone: on a busy machine the short moment that a
    scenario is about can pass between two looks.
    """
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(name: str) -> bool:
        async with turns:
            return await perform(name, last=False)

    done = await asyncio.gather(*map(in_turn, names))
    for name, ended in zip(names, done, strict=True):
        if not ended:
            await perform(name, last=True)


def main(names: Sequence[str]) -> None:
    """Those that take hours one by one, on a loop that can leap; then the others."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for name in names:
        if find(name)[1].lapse and not run(partial(perform, name, last=False)):
            run(partial(perform, name, last=True))
    asyncio.run(perform_all([name for name in names if not find(name)[1].lapse]))


if __name__ == "__main__":
    main(sys.argv[1:])
