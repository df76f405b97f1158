"""The server is killed at every crash point of an order's life and started again: nothing is bought twice or lost."""

import ast
import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import reward_server
from reward_sandbox import faults
from reward_sandbox.books import Order
from reward_sandbox.scenario import GENUINE
from reward_server import probes

from .launch import ANSWER_PARTS, REQUEST_PARTS
from .world import FEW, GIVE_UP_SECONDS, KINDS, ONE_EACH, POINTS, Wish, World, world

AT_ONCE = 5
"""Most of a run is waiting."""

CALLING = (
    # Its word counts, since it can't be asked; the other two's word is noted and followed by a look.
    Wish("kuaiduibao/topup", "called-1"),
    Wish("kaquan91_recharge/topup", "called-2"),
    Wish("kasushou/card", "called-3"),
)
"""One order at each supplier that calls back."""

UNKNOWN = "unknown-number"
"""The sandbox's name for a genuine callback about a number that nobody gave it."""

HEARS_ALL = "kasushou"
"""The one to which such a callback is acknowledged as well, unless its account is configured otherwise."""

DRIP_SECONDS = 0.005
"""Between two bytes of an answer that is to be met in its middle."""

FIRST = ("cancel.", "intend.", "migrate.", "note.", "send.late", "send.timeout")
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
    wishes: tuple[Wish, ...] = FEW
    """What was ordered."""
    callback: str = ""
    """The callback that makes it pass the point, after everything has come to its end."""
    part: str = ""
    """Not at a point but when so much of every supplier's request to buy, or of its answer, is on the wire."""

    @property
    def folder(self) -> str:
        """A name for the files."""
        return f"{self.point or 'part'}-{self.nth}"


def cases() -> Iterator[Case]:
    """Every point once, some also at other times; those that only an operator makes it pass stand in
    `test_decisions`.
    """
    for point in POINTS:
        if not point.startswith("callback."):
            yield Case(point, 1 if point.startswith(FIRST) else 2, restarted=point == "recover.begin")
            continue
        for wish in CALLING:
            yield Case(point, 1, wishes=(wish,))
    for wish in CALLING:
        yield Case("callback.acknowledging", 1, wishes=(wish,), callback=UNKNOWN)
    for point in POINTS:
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


def parts() -> Iterator[Case]:
    """The byte ranges of what is sent to suppliers and of what they answer."""
    for part in (*REQUEST_PARTS, *ANSWER_PARTS):
        yield Case("", len(ONE_EACH), wishes=ONE_EACH, part=part)


async def play(case: Case, folder: Path, *, store: str = "", **account: float) -> list[str]:
    """What went wrong when the server died there; `store` and `account` are those of `world`."""
    async with world(folder, products=[wish.product for wish in case.wishes], store=store, **account) as one:
        one.order(case.wishes)
        if case.restarted:
            await one.start()
            assert await one.until(lambda: one.taken >= 4, GIVE_UP_SECONDS), one.last_words()
            await one.kill()
        if case.callback:
            await one.start()
            assert await one.until(lambda: one.settled() and _heard(one), GIVE_UP_SECONDS), one.last_words()
            await one.kill()
            await die_of_callback(case, one)
        else:
            await die(case, one)
        await one.start()
        found = await one.judge()
        if case.point.startswith("callback.") and len(case.wishes) == 1:
            found.violations += await called_again(case, one)
        return found.violations


async def die(case: Case, one: World) -> None:
    """Starts the server and waits for its death."""
    await one.start(kill=case.point, nth=case.nth, after_ms=case.after_ms, later_program=case.later_program)
    if not await one.died(GIVE_UP_SECONDS):
        one.violations.append("the point wasn't passed")
        await one.kill()


# --- Callbacks


def _sold(one: World) -> list[Order]:
    return [order for kind in KINDS for order in one.sandbox.desk(kind).book.orders]


def _heard(one: World) -> bool:
    """Whether every supplier that called back was told that it was heard: it won't call again by itself."""
    return all(any(call.accepted for call in order.callbacks) for order in _sold(one))


async def die_of_callback(case: Case, one: World) -> None:
    """Starts the server and waits for its death by a callback that it gets."""
    await one.start(kill=case.point, nth=case.nth)
    await one.serving()
    [order] = _sold(one)
    call = await one.sandbox.desk(case.wishes[0].kind).call_back_now(order, case.callback)
    if not await one.died(GIVE_UP_SECONDS):
        one.violations.append("the point wasn't passed")
        await one.kill()
    if call is None or call.status is not None:
        one.violations.append(f"the callback was answered {call}")


async def called_again(case: Case, one: World) -> list[str]:
    """What is wrong with the answer to the same callback after all that: it is the documented one, and the order stays
    as it is.
    """
    wish = case.wishes[0]
    [order] = _sold(one)
    before = await one.client.get(one.acknowledged[wish])
    call = await one.sandbox.desk(wish.kind).call_back_now(order, case.callback or GENUINE)
    after = await one.client.get(one.acknowledged[wish])
    wrong = []
    taken = not case.callback or wish.kind == HEARS_ALL
    if call is None or call.status != 200 or call.accepted != taken:
        wrong.append(f"the callback was answered {call}")
    if (before.state, before.cards, before.failure) != (after.state, after.cards, after.failure):
        wrong.append(f"the callback moved {before} to {after}")
    if case.callback and before.version != after.version:
        wrong.append("somebody else's callback was told to the client")
    return wrong


# --- Parts of requests and answers


async def play_part(case: Case, folder: Path) -> list[str]:
    """What went wrong when the server died while a part of a request to every supplier, or of every answer, was
    there.
    """
    products = [wish.product for wish in case.wishes]
    # An answer in single bytes takes as long as it takes on a busy machine.
    async with world(folder, products=products, answer_patience=GIVE_UP_SECONDS) as one:
        answers = case.part in ANSWER_PARTS
        if answers:
            for kind in KINDS:
                one.sandbox.gate(kind).order("create", faults.drip(DRIP_SECONDS))
        one.order(case.wishes)
        await one.start(part=case.part, nth=case.nth)
        if not await one.died(GIVE_UP_SECONDS):
            one.violations.append(f"it didn't come so far: {one.last_words()}")
            await one.kill()
        there = one.partial()
        if len(there) != len(case.wishes) or not all(0 < had < of for had, of in there):
            one.violations.append(f"there was {there}")
        # What arrived in part isn't an order; what is being answered is one.
        sold = {kind: len(one.sandbox.desk(kind).book.orders) for kind in KINDS}
        if sold != dict.fromkeys(KINDS, 1 if answers else 0):
            one.violations.append(f"the suppliers sold {sold}")
        await one.start()
        found = await one.judge()
        return found.violations


@pytest.mark.timeout(600)
@pytest.mark.rule("P1", "P6", "O1", "D1")
async def test_killed_at_any_point_it_buys_nothing_twice_and_loses_nothing(tmp_path: Path) -> None:
    """Judged by the suppliers' books and the client's stream: one purchase per unit and as many cards as were sold, no
    acknowledged order or callback forgotten, versions without a gap. Every point is really passed.
    """
    await everywhere(cases(), play, tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.rule("P1", "P6", "O1", "D1")
async def test_killed_in_the_middle_of_requests_and_answers_it_buys_nothing_twice(tmp_path: Path) -> None:
    """At every supplier the first bytes of a request to buy have been sent, or the first bytes of its answer been read,
    and then nobody is there any more. Evidence settles what became of it.
    """
    await everywhere(parts(), play_part, tmp_path)


@pytest.mark.timeout(600)
@pytest.mark.rule("P1", "P6", "O1", "D1")
async def test_killed_when_all_of_the_request_was_sent_and_nothing_answered_it_buys_nothing_twice(
    tmp_path: Path,
) -> None:
    """Every supplier has sold, and its answer meets nobody."""
    async with world(tmp_path, products=[wish.product for wish in ONE_EACH]) as one:
        for kind in KINDS:
            one.sandbox.gate(kind).hold()
        one.order(ONE_EACH)
        await one.start()
        assert await one.until(lambda: one.taken == len(ONE_EACH), GIVE_UP_SECONDS), one.last_words()
        await one.kill()
        for kind in KINDS:
            one.sandbox.gate(kind).release()
        await one.start()
        assert (await one.judge()).violations == []


async def everywhere(
    all_cases: Iterable[Case], play_one: Callable[[Case, Path], Awaitable[list[str]]], folder: Path
) -> None:
    """Plays all cases, some at a time."""
    turns = asyncio.Semaphore(AT_ONCE)
    wrong: dict[Case, list[str]] = {}

    async def in_turn(place: int, case: Case) -> None:
        home = folder / f"{place:02}-{case.folder}"
        home.mkdir()
        async with turns:
            violations = await play_one(case, home)
        if violations:
            wrong[case] = violations

    await asyncio.gather(*(in_turn(place, case) for place, case in enumerate(all_cases)))
    assert wrong == {}


def test_the_program_passes_each_point_in_one_place_and_no_others() -> None:
    """Names in the program and in the list of points are the same; each store passes those of a write in its own
    place.
    """
    package = Path(reward_server.__file__).parent
    files = set(package.rglob("*.py"))
    of_postgres = set((package / "store" / "postgres").rglob("*.py"))
    assert passed(files - of_postgres) == Counter(dict.fromkeys(probes.POINTS, 1))
    commits = [point for point in probes.POINTS if point.startswith("commit.")]
    assert passed(of_postgres) == Counter(dict.fromkeys(commits, 1))


def passed(files: Iterable[Path]) -> Counter[str]:
    """The points that some files of the program pass, and in how many places."""
    trees = [ast.parse(file.read_text()) for file in files]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return Counter(
        str(call.args[0].value)
        for call in calls
        if ast.unparse(call.func) == "probes.probe" and isinstance(call.args[0], ast.Constant)
    )


def test_the_shipped_probe_does_nothing() -> None:
    """A docstring and no statement: there is no switch."""
    source = ast.parse(Path(probes.__file__).read_text())
    (function,) = [node for node in ast.walk(source) if isinstance(node, ast.FunctionDef)]
    assert [type(statement) for statement in function.body] == [ast.Expr]
