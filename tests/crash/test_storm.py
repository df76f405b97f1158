"""Forty kills at random moments under load."""

import asyncio
from pathlib import Path

import pytest

from .world import Verdict, storm

SEEDS = (1, 2, 3, 4)
KILLS_EACH = 10


@pytest.mark.timeout(600)
@pytest.mark.rule("P1", "P6", "O1", "D1")
async def test_forty_random_kills_under_load(tmp_path: Path) -> None:
    """Four servers, ten kills each: a unit is bought once, and everything that was acknowledged is there."""
    homes = [tmp_path / str(seed) for seed in SEEDS]
    for home in homes:
        home.mkdir()
    storms = [storm(home, seed=seed, kills=KILLS_EACH) for seed, home in zip(SEEDS, homes, strict=True)]
    total = Verdict()
    for found in await asyncio.gather(*storms):
        total.add(found)
    assert total.violations == []
    assert total.kills == KILLS_EACH * len(SEEDS)
    assert total.caught > total.kills, "the kills came when nothing was under way"
    assert total.bought_for_them == total.fulfilled_units > 0
    assert total.most_under_one_number == 1
    assert total.told_costs == total.charged > 0
