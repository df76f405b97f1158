"""Wall clocks that jump neither end orders nor keep them waiting."""

import pytest

from reward_server.domain.order import OrderState
from reward_server.engine import dispatch

from .rig import Rigged, answers, rate_limited, takes_it, traits

DAY_MS = 86_400_000


@pytest.mark.rule("P9")
async def test_a_clock_a_day_ahead_ends_nothing_that_waits(rigged: Rigged) -> None:
    """The sending deadline is counted, not read off the wall."""
    rig = await rigged(a=traits())
    rig.rest("a", 0.3)
    order = await rig.order("a")
    rig.clock.ahead_ms = DAY_MS
    await rig.when_state(order, OrderState.FULFILLED)


@pytest.mark.rule("P9")
async def test_a_start_with_the_clock_a_day_behind_delays_nothing_for_a_day(
    rigged: Rigged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a supplier asked one purchase to wait for is bounded, however far in the future it seems to be."""
    rig = await rigged(a=traits())
    rig.script.place = answers(rate_limited(0.2))
    order = await rig.order("a")
    await rig.when(order, lambda now: now.purchases[0].evidence)
    await rig.close()
    rig.script.place = takes_it
    rig.clock.ahead_ms = -DAY_MS
    monkeypatch.setattr(dispatch, "LONGEST_WAIT_MS", 300)
    await rig.open({"a": traits()})
    await rig.engine.start()
    rig.clock.ahead_ms = 0
    await rig.when_state(order, OrderState.FULFILLED)
