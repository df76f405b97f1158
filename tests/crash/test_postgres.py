"""The server is killed while its orders are in PostgreSQL: what it leaves is taken up when its lease is over."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest

from .test_points import CALLING, Case, everywhere, play
from .world import FEW, GIVE_UP_SECONDS, POINTS, Verdict, storm, world

OF_THE_STORE = ("commit.", "intend.", "create.", "apply.", "note.", "cancel.stor", "recover.", "callback.")
"""Points whose meaning rests on what is in the database at that moment, and on whose lease holds."""

SUBMIT_WINDOW = 1.0
"""Seconds: what was being sent may have been written for so long after the lease was over."""

SEEDS = (11, 12)
KILLS_EACH = 3


def cases() -> Iterator[Case]:
    """Every point of the store once; callbacks by one supplier after the other."""
    callers = cycle(CALLING)
    for point in POINTS:
        if point.startswith("callback."):
            yield Case(point, 1, wishes=(next(callers),))
        elif point.startswith(OF_THE_STORE):
            yield Case(point, 2 if point.startswith(("commit.", "apply.")) else 1, restarted=point == "recover.begin")


@pytest.mark.timeout(600)
async def test_killed_at_any_point_of_the_store_it_buys_nothing_twice_and_loses_nothing(
    tmp_path: Path, new_store: Callable[[], str]
) -> None:
    """The same as with a SQLite file. Every point is really passed."""

    async def play_one(case: Case, folder: Path) -> list[str]:
        store = await asyncio.to_thread(new_store)
        return await play(case, folder, store=store, submit_window=SUBMIT_WINDOW)

    await everywhere(cases(), play_one, tmp_path)


@pytest.mark.timeout(600)
async def test_six_random_kills_under_load(tmp_path: Path, new_store: Callable[[], str]) -> None:
    """Two servers, three kills each: a unit is bought once, and everything that was acknowledged is there."""
    storms = []
    for seed in SEEDS:
        home = tmp_path / str(seed)
        home.mkdir()
        store = await asyncio.to_thread(new_store)
        storms.append(storm(home, seed=seed, kills=KILLS_EACH, store=store))
    total = Verdict()
    for found in await asyncio.gather(*storms):
        total.add(found)
    assert total.violations == []
    assert total.kills == KILLS_EACH * len(SEEDS)
    assert total.caught > total.kills, "the kills came when nothing was under way"
    assert total.bought_for_them == total.fulfilled_units > 0
    assert total.most_under_one_number == 1
    assert total.told_costs == total.charged > 0


async def test_a_server_that_is_started_again_takes_up_what_it_left_when_its_lease_is_over(
    tmp_path: Path, new_store: Callable[[], str]
) -> None:
    """It comes back under another name, and nobody else is there who could."""
    store = new_store()
    async with world(
        tmp_path, products=[wish.product for wish in FEW], store=store, submit_window=SUBMIT_WINDOW
    ) as one:
        one.order(FEW)
        await one.start()
        assert await one.until(lambda: one.taken >= 4, GIVE_UP_SECONDS), one.last_words()
        await one.kill()
        assert one.caught > 0
        await one.start()
        assert (await one.judge()).violations == []
