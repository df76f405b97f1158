"""Time as a parameter: one object for the wall clock and the monotonic clock, so that tests can bring their own."""

import time
from datetime import UTC, datetime


class Clock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Wall clock: whole milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000

    def now(self) -> datetime:
        """Wall clock, with time zone."""
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC)

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps; the event loop's own time."""
        return time.monotonic()
