"""Keeps the logs inside their retention. Orders and cards stay for ever; only old log entries go."""

import asyncio
from collections.abc import Iterable

import structlog

from reward_server.clock import Clock
from reward_server.store import Store, StoreUnavailable

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 3_600.0
"""Retention is counted in days: an hour more or less is nothing, and each round finds little to do."""
BATCH = 500
"""Entries dropped in one write: a few milliseconds, so that no order waits for the broom."""
DAY_MS = 86_400_000


class Pruner:
    """Drops log entries older than the retention, a batch at a time."""

    def __init__(self, store: Store, client_ids: Iterable[str], *, retention_days: int, clock: Clock) -> None:
        self._store = store
        self._client_ids = tuple(client_ids)
        self._retention_ms = retention_days * DAY_MS
        self._clock = clock

    def use(self, client_ids: Iterable[str]) -> None:
        """From the next round on prunes the logs of these clients."""
        self._client_ids = tuple(client_ids)

    async def run(self) -> None:
        """Prunes now and every hour, until cancelled."""
        while True:
            await self.prune()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def prune(self) -> int:
        """One round over all clients; says how many entries went."""
        before = self._clock.now_ms() - self._retention_ms
        dropped = 0
        try:
            for client_id in self._client_ids:
                while pruned := await self._store.prune(client_id, before, BATCH):
                    dropped += pruned
        except StoreUnavailable as error:
            log.warning("pruning waits for the store", why=str(error))
        if dropped:
            log.info("log entries pruned", count=dropped)
        return dropped
