"""Why a purchase that waits to be sent wasn't sent yet, remembered until it is stored with the intention to send it.

Words come from `outlook`; nothing is decided here. What stands in the way of all purchases of an account is noted once
for all of them, so that a long queue costs nothing. A restart forgets: what it finds waiting says that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from reward_server.clock import Clock

OBSTACLES = 4
"""Different obstacles of one account that are remembered, the latest seen."""

LONGEST_WORDS = 600
"""Characters that are stored of what one attempt waited for."""

NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(slots=True)
class _Wait:
    """One purchase that waits."""

    since: int
    """Milliseconds since 1970."""
    queued_at: float = 0.0
    """When it was last put into the queue of its account; monotonic seconds."""
    reasons: dict[str, str] = field(default_factory=dict)
    """By kind, each in its latest words."""


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """What kept purchases of an account from being sent, and when that was last seen; monotonic seconds."""

    words: str
    seen: float


class Waits:
    """What each purchase waits for, from its first wait to its next attempt. One that is sent at once isn't here."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waits: dict[str, _Wait] = {}
        self._obstacles: dict[str, dict[str, _Obstacle]] = {}

    def note(self, number: str, reasons: Mapping[str, str] = NOTHING, *, since: int = 0) -> None:
        """A purchase waits, for these reasons by kind; `since` is 0 where it began now, or is known."""
        wait = self._waits.get(number)
        if wait is None:
            wait = self._waits[number] = _Wait(since or self._clock.now_ms())
        wait.since = min(wait.since, since or wait.since)
        wait.reasons.update(reasons)

    def queued(self, number: str, reasons: Mapping[str, str] = NOTHING) -> None:
        """A purchase is in the queue of its account: what stands in the way there is its reason from now on."""
        self.note(number, reasons)
        self._waits[number].queued_at = self._clock.monotonic()

    def blocked(self, account: str, kind: str, words: str) -> None:
        """Something stands in the way of everything that is queued for an account."""
        obstacles = self._obstacles.setdefault(account, {})
        obstacles.pop(kind, None)
        obstacles[kind] = _Obstacle(words, self._clock.monotonic())
        if len(obstacles) > OBSTACLES:
            del obstacles[next(iter(obstacles))]

    def taken(self, number: str, account: str) -> None:
        """A purchase left the queue of its account: what stood in the way meanwhile was its reason."""
        wait = self._waits.get(number)
        if wait is None:
            return
        for kind, obstacle in self._obstacles.get(account, {}).items():
            if obstacle.seen >= wait.queued_at:
                wait.reasons[kind] = obstacle.words

    def told(self, number: str) -> tuple[int, str]:
        """Since when a purchase waits, in milliseconds since 1970, and what for; 0 and "" when for nothing."""
        wait = self._waits.get(number)
        if wait is None or not wait.reasons:
            return 0, ""
        words = "; ".join(wait.reasons.values())
        return wait.since, words if len(words) <= LONGEST_WORDS else f"{words[: LONGEST_WORDS - 1]}…"

    def end(self, number: str) -> None:
        """A purchase doesn't wait any more."""
        self._waits.pop(number, None)
