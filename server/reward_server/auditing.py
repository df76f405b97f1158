"""Writes down who read which cards. What is answered at once waits for its record; streams are recorded beside."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

import structlog

from reward_server.store import AuditEntry, Store, StoreError, StoreUnavailable

BATCH = 200
"""Entries written at once."""
MAX_NOTES = 10_000
"""Notes that wait for a store that can't write; beyond that the oldest go, and an alert tells."""
RETRY_SECONDS = 1.0

SERVER = "server"
"""Who did what nobody asked for."""

log = structlog.get_logger(__name__)


class Alerts(Protocol):
    """Where operators look."""

    def alert(self, kind: str) -> None:
        """Counts something that an operator should look at."""


class AuditLog:
    """This process's part of the audit."""

    def __init__(self, store: Store, metrics: Alerts, *, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._metrics = metrics
        self._now_ms = now_ms
        self._waiting: list[tuple[AuditEntry, asyncio.Future[None] | None]] = []
        self._some = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._closing = False

    def start(self, release: str) -> None:
        """Begins this process's chain."""
        self.note(self._own("start", reason=release))
        self._writer = asyncio.create_task(self._write())

    async def record(self, entry: AuditEntry) -> None:
        """Returns when the entry is on disk. Raises StoreError when it can't be written."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, done))
        self._some.set()
        await done

    def note(self, entry: AuditEntry) -> None:
        """Writes the entry soon. While the store can't write it waits in memory."""
        self._waiting.append((entry, None))
        self._some.set()

    def read(
        self, by: str, *, how: str, cards: int, order_id: str = "", positions: tuple[int, int] = (0, 0)
    ) -> AuditEntry:
        """The entry for cards that a client read of its own orders."""
        first, last = positions
        return AuditEntry(
            at=self._now_ms(),
            by=by,
            what="read",
            reason=how,
            client_id=by,
            order_id=order_id,
            first_position=first,
            last_position=last,
            cards=cards,
        )

    def streamed(self, by: str, *, how: str, cards: int, positions: tuple[int, int]) -> AuditEntry:
        """The entry for what a stream has shown since the one before."""
        first, last = positions
        return AuditEntry(
            at=self._now_ms(),
            by=by,
            what="stream",
            reason=how,
            client_id=by,
            first_position=first,
            last_position=last,
            cards=cards,
        )

    def erased(self, cards: int, reason: str) -> AuditEntry:
        """The entry for cards whose time was over."""
        return self._own("erase", reason=reason, cards=cards)

    async def close(self) -> None:
        """Writes what waits, and ends the chain."""
        if self._writer is None or self._closing:
            return
        self._closing = True
        self._some.set()
        await self._writer
        with contextlib.suppress(StoreError):
            await self._store.record([self._own("stop")])

    def _own(self, what: str, *, reason: str = "", cards: int = 0) -> AuditEntry:
        return AuditEntry(at=self._now_ms(), by=SERVER, what=what, reason=reason, cards=cards)

    async def _write(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                batch = self._waiting[:BATCH]
                del self._waiting[:BATCH]
                if not await self._written(batch):
                    break
            if self._closing:
                return

    async def _written(self, batch: list[tuple[AuditEntry, asyncio.Future[None] | None]]) -> bool:
        try:
            await self._store.record([entry for entry, _ in batch])
        except StoreError as error:
            # Whoever waits is told, and shows nothing. What streams have shown already is written when it can be.
            _settle(batch, error)
            self._keep([one for one in batch if one[1] is None])
            if not isinstance(error, StoreUnavailable):
                log.error("the audit can't be written", why=str(error))
            if not self._closing:
                await asyncio.sleep(RETRY_SECONDS)
                self._some.set()
            return False
        _settle(batch, None)
        return True

    def _keep(self, notes: list[tuple[AuditEntry, asyncio.Future[None] | None]]) -> None:
        self._waiting = [*notes, *self._waiting]
        if (beyond := len(self._waiting) - MAX_NOTES) > 0:
            dropped = [one for one in self._waiting[:beyond] if one[1] is None]
            self._waiting = [one for one in self._waiting[:beyond] if one[1] is not None] + self._waiting[beyond:]
            self._metrics.alert("audit_lost")
            log.error("audit entries of streams were dropped", count=len(dropped))


def _settle(batch: list[tuple[AuditEntry, asyncio.Future[None] | None]], error: StoreError | None) -> None:
    for _, done in batch:
        if done is None or done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            # One of its own for each: a shared one would gather everybody's traceback.
            done.set_exception(type(error)(str(error)))
