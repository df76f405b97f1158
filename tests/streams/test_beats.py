"""One timer for all streams: who is due is told, never early, and who has left isn't."""

import asyncio
from dataclasses import dataclass, field

from reward_server.rpc.streaming import BEATS_AT_ONCE, Beats

STREAMS = 5 * BEATS_AT_ONCE


@dataclass(eq=False)
class Listener:
    """Wants to be told twice."""

    every: float
    slot: int = 0
    times: list[float] = field(default_factory=list)
    told_twice: asyncio.Event = field(default_factory=asyncio.Event)

    def look(self, now: float) -> float | None:
        """Notes the time."""
        self.times.append(now)
        if len(self.times) == 2:
            self.told_twice.set()
            return None
        return now + self.every


async def test_everybody_is_told_when_due_and_not_before() -> None:
    """More than are told in one go, with different intervals: each is told again and again, never early."""
    beats, loop = Beats(), asyncio.get_running_loop()
    begun = loop.time()
    listeners = [Listener(0.1 + 0.3 * (n % 2)) for n in range(STREAMS)]
    for listener in listeners:
        beats.add(listener, begun + listener.every)
    await asyncio.gather(*(listener.told_twice.wait() for listener in listeners))
    for listener in listeners:
        first, second = listener.times
        # A millisecond is what the loop's own clock may be off.
        assert first >= begun + listener.every - 0.001
        assert second >= first + listener.every - 0.001


async def test_those_who_are_due_at_about_the_same_time_share_one_moment() -> None:
    """A thousand streams, silent for about as long as each other, are kept in few places."""
    beats, now = Beats(), asyncio.get_running_loop().time()
    for n in range(1_000):
        beats.add(Listener(15), now + 15 + n / 1_000)
    assert len(beats._slots) <= 5


async def test_who_has_left_is_not_told() -> None:
    """Neither is it told, nor does anything of it stay behind."""
    beats, now = Beats(), asyncio.get_running_loop().time()
    gone, here = Listener(0.1), Listener(0.1)
    for listener in (gone, here):
        beats.add(listener, now + 0.1)
    beats.discard(gone)
    await here.told_twice.wait()
    assert not gone.times
    assert not beats._slots


async def test_an_earlier_time_is_not_missed() -> None:
    """Whoever comes later with less patience is told first."""
    beats, now = Beats(), asyncio.get_running_loop().time()
    patient, hasty = Listener(30), Listener(0.1)
    beats.add(patient, now + 30)
    beats.add(hasty, now + 0.1)
    await hasty.told_twice.wait()
    assert not patient.times
