"""Erases the contents of cards, and of what suppliers said, after a configured time."""

import asyncio

import structlog

from reward_server.auditing import AuditLog
from reward_server.clock import Clock
from reward_server.store import Erased, Store, StoreUnavailable

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 3_600.0
"""The time is counted in days."""
BATCH = 200
"""Rows of a table that are emptied in one write: about a millisecond."""
REST_SECONDS = 0.02
"""Between two such writes: orders come first."""
DAY_MS = 86_400_000


class Eraser:
    """Empties what is older than the configured time; the rows stay, and say when that was."""

    def __init__(self, store: Store, audit: AuditLog, *, after_days: int, clock: Clock) -> None:
        self._store = store
        self._audit = audit
        self._after_days = after_days
        self._clock = clock

    async def run(self) -> None:
        """Erases now and every hour, until cancelled."""
        while True:
            await self.erase()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def erase(self) -> Erased:
        """One round; says how much was erased."""
        before = self._clock.now_ms() - self._after_days * DAY_MS
        total = Erased()
        try:
            while erased := await self._store.erase(before, self._clock.now_ms(), BATCH):
                total = Erased(
                    total.cards + erased.cards, total.answers + erased.answers, total.callbacks + erased.callbacks
                )
                self._audit.note(self._audit.erased(erased.cards, f"older than {self._after_days} days"))
                await asyncio.sleep(REST_SECONDS)
        except StoreUnavailable as error:
            log.warning("erasing waits for the store", why=str(error))
        if total:
            log.info("old contents erased", cards=total.cards, answers=total.answers, callbacks=total.callbacks)
        return total
