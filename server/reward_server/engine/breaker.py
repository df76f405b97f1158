"""The breaker of an account: a supplier that swallows purchases is given no more of them than it takes to see that.

Every purchase that isn't answered, or not in a way that can be read, may have been bought: sending more of them makes
more doubts. So while the last answers were doubts only a few purchases are under way, after `DOUBTS_IN_ROW` of them the
account rests, and after each rest one purchase alone is tried. The first one that is answered well ends all of it.
"""

from collections.abc import Callable

from reward_server.clock import Clock

DOUBTS_IN_ROW = 3
"""One time-out happens; so many purchases in a row seldom meet one by chance, and as many doubts can be borne."""


class Breaker:
    """Counts doubts in a row. Asks nobody and sends nothing; times are monotonic seconds."""

    def __init__(self, clock: Clock, rest_seconds: Callable[[int], float]) -> None:
        """`rest_seconds` says how long a rest lasts that comes after so many others in a row."""
        self._clock = clock
        self._rest_seconds = rest_seconds
        self._rests = 0
        self._until = 0.0
        self._last = ""
        self.doubts = 0
        """Purchases in a row that left a doubt."""

    @property
    def is_open(self) -> bool:
        """Whether there were too many doubts: the account rests, or one purchase at a time is tried."""
        return self.doubts >= DOUBTS_IN_ROW

    @property
    def why(self) -> str:
        """What opened it, for people."""
        return f"{self.doubts} purchases in a row weren't answered clearly"

    @property
    def detail(self) -> str:
        """What became of the last of them, for operators: it may be anybody's."""
        return f"the last: {self._last}"

    @property
    def room(self) -> int | None:
        """How many purchases may be under way; None: as many as the account has slots.

        After the first doubt no more than could end as the doubts that are still to be borne. Whatever a supplier that
        hangs had got when it began to, it gets no more than one for each rest.
        """
        return max(1, DOUBTS_IN_ROW - self.doubts) if self.doubts else None

    @property
    def resting_until(self) -> float:
        """When the rest is over; 0 when there is none."""
        return self._until

    def doubt(self, reason: str, *, sent_at: float) -> float | None:
        """A purchase sent at this time left a doubt. The seconds of the rest that begins by it, if one does."""
        self.doubts += 1
        self._last = reason
        if not self.is_open or sent_at < self._until:
            # What was under way when the last rest began says nothing about how the supplier does after it.
            return None
        rest = self._rest_seconds(self._rests)
        self._rests += 1
        self._until = self._clock.monotonic() + rest
        return rest

    def answered(self) -> int:
        """A purchase was answered well: everything is forgotten. How many doubts there had been."""
        doubts, self.doubts = self.doubts, 0
        self._rests, self._until, self._last = 0, 0.0, ""
        return doubts
