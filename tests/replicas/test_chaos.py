"""Three replicas on one PostgreSQL buy for a client while they are killed and frozen and the database is killed."""

from pathlib import Path

import pytest

from postgres_server import Cluster

from .fleet import storm

ORDERS = 500
FAULTS = 6
SECONDS = 24.0


@pytest.mark.timeout(600)
async def test_replicas_that_die_and_stand_still_buy_nothing_twice_and_lose_nothing(
    tmp_path: Path, cluster: Cluster
) -> None:
    """Orders at all of them, callbacks to any of them; three followers, who go to another replica with their last
    token, are told the whole log.
    """
    found = await storm(tmp_path, cluster, seed=1, orders=ORDERS, faults=FAULTS, restarts=1, over=SECONDS)
    verdict = found.verdict
    assert verdict.violations == []
    assert verdict.orders == sum(verdict.states.values()) == ORDERS
    assert found.done["kill"] + found.done["freeze"] == FAULTS
    assert min(found.done["kill"], found.done["freeze"], found.done["crash"]) > 0
    assert verdict.caught > FAULTS, "the faults came when nothing was under way"
    assert verdict.bought_for_them == verdict.fulfilled_units > 0
    assert verdict.most_under_one_number == 1
    assert verdict.told_costs == verdict.charged > 0
