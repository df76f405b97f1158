"""Erases the contents of cards, and of what suppliers said, after a configured time."""

import asyncio
from collections.abc import Callable

import structlog

from reward_server.auditing import AuditLog
from reward_server.clock import Clock
from reward_server.metrics import Sealed
from reward_server.sealing import Counted, uncounted
from reward_server.store import Erased, Store, StoreError

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 3_600.0
"""The time is counted in days."""
BATCH = 200
"""Rows of a table that are emptied in one write: about a millisecond."""
REST_SECONDS = 0.02
"""Between two such writes: orders come first."""
TOLERATED_MS = 60_000
"""A clock is corrected by so much now and then."""
DAY_MS = 86_400_000


class Eraser:
    """Empties what is older than the configured time; the rows stay, and say when that was."""

    def __init__(
        self,
        store: Store,
        audit: AuditLog,
        *,
        after_days: int,
        clock: Clock,
        forget: Callable[[], None],
        counted: Counted = uncounted,
    ) -> None:
        """`forget` is called after each round: whoever holds opened cards in memory lets go of them."""
        self._store = store
        self._forget = forget
        self._counted = counted
        self._audit = audit
        self._after_days = after_days
        self._clock = clock
        self._looked: tuple[int, float] | None = None
        """What both clocks showed at the last round."""

    async def run(self) -> None:
        """Erases now and every hour, until cancelled."""
        while True:
            await self.erase()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def erase(self) -> Erased:
        """One round; says how much was erased."""
        before = self._now_ms() - self._after_days * DAY_MS
        total = Erased()
        try:
            # Shielded: what is erased is recorded, also when the process is about to end.
            while erased := await asyncio.shield(self._batch(before)):
                total = Erased(
                    total.cards + erased.cards, total.answers + erased.answers, total.callbacks + erased.callbacks
                )
                await asyncio.sleep(REST_SECONDS)
        except StoreError as error:
            log.warning("erasing waits for the store", why=str(error))
        # Another process may have erased as well.
        self._forget()
        if total:
            log.info("old contents erased", card_count=total.cards, answers=total.answers, callbacks=total.callbacks)
        return total

    async def _batch(self, before: int) -> Erased:
        erased = await self._store.erase(before, self._clock.now_ms(), BATCH)
        if erased:
            for kind, times in (("card", erased.cards), ("answer", erased.answers), ("callback", erased.callbacks)):
                self._counted(Sealed.ERASED, kind, times=times)
            self._audit.note(self._audit.erased(erased.cards, f"older than {self._after_days} days"))
        return erased

    def _now_ms(self) -> int:
        """The wall clock, but never further ahead since the last round than the time that passed: a clock that is wrong
        for less than an hour must not cost what nobody can bring back.
        """
        wall, monotonic = self._clock.now_ms(), self._clock.monotonic()
        last, self._looked = self._looked, (wall, monotonic)
        if last is None:
            return wall
        return min(wall, last[0] + int(1000 * (monotonic - last[1])) + TOLERATED_MS)
