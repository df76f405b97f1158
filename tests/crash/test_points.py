"""The server is killed at every crash point of an order's life and started again: nothing is bought twice or lost."""

import ast
import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import reward_server
from reward_server import probes

from .world import FEW, GIVE_UP_SECONDS, World, world

AT_ONCE = 5
"""Most of a run is waiting."""

FIRST = ("callback.", "cancel.", "intend.", "migrate.", "note.", "send.late", "send.timeout")
"""Points that few of the orders pass: the first time; all others the second, when something is under way already."""


@dataclass(frozen=True, slots=True)
class Case:
    """Where the server dies."""

    point: str
    nth: int
    after_ms: float = 0.0
    restarted: bool = False
    """Not in its first run, but when it starts again with orders under way."""
    later_program: bool = False
    """While it is a program of tomorrow, with one more migration."""


def cases() -> Iterator[Case]:
    """Every point once, some also at other times."""
    for point in probes.POINTS:
        yield Case(point, 1 if point.startswith(FIRST) else 2, restarted=point == "recover.begin")
    for point in probes.POINTS:
        if point.startswith("migrate."):
            yield Case(point, 1, restarted=True, later_program=True)
        if point.startswith("exchange."):
            yield Case(point, 9)
    # What was handed over is on the wire and the supplier is at it.
    yield Case("exchange.written", 3, after_ms=20)
    yield Case("exchange.written", 8, after_ms=60)
    yield Case("callback.acknowledged", 1, after_ms=20)
    yield Case("commit.done", 20)
    yield Case("recover.begin", 5, restarted=True)


async def play(case: Case, folder: Path) -> list[str]:
    """What went wrong when the server died there."""
    async with world(folder, products=[wish.product for wish in FEW]) as one:
        one.order(FEW)
        if case.restarted:
            await one.start()
            assert await one.until(lambda: one.taken >= 4, GIVE_UP_SECONDS), one.last_words()
            await one.kill()
        await die(case, one)
        await one.start()
        found = await one.judge()
        return found.violations


async def die(case: Case, one: World) -> None:
    """Starts the server and waits for its death."""
    await one.start(kill=case.point, nth=case.nth, after_ms=case.after_ms, later_program=case.later_program)
    if not await one.died(GIVE_UP_SECONDS):
        one.violations.append("the point wasn't passed")
        await one.kill()


@pytest.mark.timeout(600)
async def test_killed_at_any_point_it_buys_nothing_twice_and_loses_nothing(tmp_path: Path) -> None:
    """Judged by the suppliers' books and the client's stream: one purchase per unit and as many cards as were sold, no
    acknowledged order or callback forgotten, versions without a gap. Every point is really passed.
    """
    await everywhere(play, tmp_path)


async def everywhere(play_one: Callable[[Case, Path], Awaitable[list[str]]], folder: Path) -> None:
    """Plays all cases, some at a time."""
    turns = asyncio.Semaphore(AT_ONCE)
    wrong: dict[Case, list[str]] = {}

    async def in_turn(place: int, case: Case) -> None:
        home = folder / f"{place:02}-{case.point}"
        home.mkdir()
        async with turns:
            violations = await play_one(case, home)
        if violations:
            wrong[case] = violations

    await asyncio.gather(*(in_turn(place, case) for place, case in enumerate(cases())))
    assert wrong == {}


def test_the_program_passes_each_point_in_one_place_and_no_others() -> None:
    """Names in the program and in the list of points are the same."""
    package = Path(reward_server.__file__).parent
    trees = [ast.parse(file.read_text()) for file in package.rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    passed = Counter(
        call.args[0].value
        for call in calls
        if ast.unparse(call.func) == "probes.probe" and isinstance(call.args[0], ast.Constant)
    )
    assert passed == Counter(dict.fromkeys(probes.POINTS, 1))


def test_the_shipped_probe_does_nothing() -> None:
    """A docstring and no statement: there is no switch."""
    source = ast.parse(Path(probes.__file__).read_text())
    (function,) = [node for node in ast.walk(source) if isinstance(node, ast.FunctionDef)]
    assert [type(statement) for statement in function.body] == [ast.Expr]
