"""An event loop whose time can leap, so that days pass in seconds for server and sandbox alike, over real sockets."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from reward_server.clock import Clock

T = TypeVar("T")


class LeapingLoop(asyncio.SelectorEventLoop):
    """Runs like any loop, until it is told to skip ahead: then every timer that would have ended meanwhile ends."""

    def __init__(self) -> None:
        super().__init__()
        self._leapt = 0.0

    def time(self) -> float:
        """Monotonic, leaps included."""
        return super().time() + self._leapt

    def leap(self, seconds: float) -> None:
        """Skips ahead."""
        self._leapt += seconds


class LeapingClock(Clock):
    """The server's and the sandbox's clock: the loop's time, begun at the present."""

    def __init__(self, loop: LeapingLoop) -> None:
        self._loop = loop
        self._begin = time.time() - loop.time()

    def seconds(self) -> float:
        """Unix seconds."""
        return self._begin + self._loop.time()

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return int(1000 * self.seconds())

    def now(self) -> datetime:
        """With time zone."""
        return datetime.fromtimestamp(self.seconds(), UTC)

    def monotonic(self) -> float:
        """The loop's own time."""
        return self._loop.time()


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine on a loop that can leap."""
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(main())
