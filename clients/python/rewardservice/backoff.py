"""How long to wait before trying again."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

_MOST_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter, so that clients cut off together don't come back together.

    `initial` and `maximum` are seconds; `attempts` bounds how often a unary call is made in all (streams go on).
    `jitter` returns numbers from 0 to 1; `sleep` waits for so many seconds.
    """

    initial: float = 0.5
    maximum: float = 10.0
    attempts: int = 30
    jitter: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    def delay(self, failures: int, at_least: float | None = None) -> float:
        """Seconds to wait after so many failures in a row (from 1), never less than what the server asked for."""
        span = min(self.maximum, self.initial * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
        return (at_least or 0.0) + span * self.jitter()
