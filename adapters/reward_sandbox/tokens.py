"""Access tokens of the two suppliers that have them."""

from collections.abc import Callable
from typing import Any, Literal


class Tokens:
    """Issued tokens and when each one ends."""

    def __init__(self, *, lifetime: float, clock: Callable[[], float]) -> None:
        self.lifetime = lifetime
        self.issued = 0
        """How many there were so far."""
        self._clock = clock
        self._ends: dict[str, float] = {}

    def issue(self, token: str, *, older_live_for: float | None = None) -> float:
        """Enter a new token and return when it ends; older ones end after `older_live_for` seconds at the latest."""
        self.issued += 1
        now = self._clock()
        if older_live_for is not None:
            self._ends = {known: min(end, now + older_live_for) for known, end in self._ends.items()}
        self._ends[token] = now + self.lifetime
        return self._ends[token]

    def check(self, token: str) -> Literal["good", "expired", "unknown"]:
        """Whether a token may be used now."""
        end = self._ends.get(token)
        if end is None:
            return "unknown"
        return "good" if self._clock() < end else "expired"

    def expire(self) -> int:
        """End all tokens; returns how many were good."""
        now = self._clock()
        good = sum(end > now for end in self._ends.values())
        self._ends = {token: min(end, now) for token, end in self._ends.items()}
        return good

    def forget(self) -> None:
        """Know none of the tokens any more."""
        self._ends.clear()

    def as_state(self) -> dict[str, object]:
        """What `restore` takes; tokens that ended long ago are left out."""
        longest = self._clock() - self.lifetime
        return {"issued": self.issued, "ends": {token: end for token, end in self._ends.items() if end > longest}}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the tokens of a former run."""
        self.issued = int(state["issued"])
        self._ends = {token: float(end) for token, end in state["ends"].items()}
