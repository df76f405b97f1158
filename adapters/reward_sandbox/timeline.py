"""The sandbox's own time, which can be moved forward by hand."""

import asyncio
from collections.abc import Callable
from contextlib import suppress


class Timeline:
    """Time that runs like the given clock and can skip ahead; who sleeps wakes as if it had passed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._skipped = 0.0
        self._moved = asyncio.Event()

    def now(self) -> float:
        """Unix seconds as the suppliers' books see them."""
        return self._clock() + self._skipped

    def forward(self, seconds: float) -> None:
        """Skip ahead. Raises ValueError for a negative time."""
        if seconds < 0:
            raise ValueError("time can't go back")
        self._skipped += seconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep(self, seconds: float) -> float:
        """Wait until so much time has passed, measured by the event loop: the given clock may stand still.

        Returns by how much more: who sleeps again and again takes it off the next time, so that one leap forward brings
        everything that was due in it.
        """
        loop = asyncio.get_running_loop()
        begun, skipped = loop.time(), self._skipped
        while (left := seconds - (loop.time() - begun) - (self._skipped - skipped)) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), left)
        return -left
