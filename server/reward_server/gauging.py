"""Looks into the store every few seconds for what no event tells: how long the oldest orders have waited."""

import asyncio

import structlog

from reward_server.clock import Clock
from reward_server.metrics import Metrics
from reward_server.store import Store, StoreError

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 5.0
SHARE = 0.01
"""With very many open orders a look takes longer; then it is taken less often, so that it costs no more than this."""


class Gauging:
    """Keeps the ages in the metrics up to date."""

    def __init__(self, store: Store, metrics: Metrics, *, clock: Clock) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock

    async def run(self) -> None:
        """Looks now and again and again, until cancelled."""
        while True:
            began = self._clock.monotonic()
            try:
                await self.look()
            except StoreError as error:
                # The ages stay as they were; that the store can't be read is told by others.
                log.debug("ages can't be read", why=str(error))
            await asyncio.sleep(max(INTERVAL_SECONDS, (self._clock.monotonic() - began) / SHARE))

    async def look(self) -> None:
        """One look. Raises StoreError."""
        oldest = await self._store.oldest()
        self._metrics.oldest_found(
            {state: self._age(made) for state, made in oldest.made.items()},
            oldest.reviews,
            self._age(oldest.review_since) if oldest.reviews else 0.0,
        )

    def _age(self, since: int) -> float:
        return max(0.0, (self._clock.now_ms() - since) / 1000)
