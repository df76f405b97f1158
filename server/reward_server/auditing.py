"""Writes down who read which cards. What is answered at once waits for its record; streams are recorded beside."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import structlog

from reward_server.store import AuditEntry, Store, StoreBroken, StoreError, StoreUnavailable

BATCH = 200
"""Entries written at once."""
MAX_NOTES = 10_000
"""Notes that wait for a store that can't write; beyond that the oldest go, and an alert tells."""
MAX_TOLD = 1_000
"""Dropped entries that the log names."""
BEHIND_MS = 60_000
"""Streams show no more cards once a note has waited so long."""
RETRY_SECONDS = 1.0
CLOSE_SECONDS = 10.0
"""How long the last entries may take: a store that doesn't answer must not keep the process from its end."""

SERVER = "server"
"""Who did what nobody asked for."""

Waiting: TypeAlias = tuple[AuditEntry, asyncio.Future[None] | None]
"""An entry, and who waits for it: nobody, if it is a note."""

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
        self._waiting: list[Waiting] = []
        self._some = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def behind(self) -> bool:
        """Whether what streams showed a minute ago couldn't be written down yet."""
        oldest = next((entry for entry, done in self._waiting if done is None), None)
        return oldest is not None and self._now_ms() > oldest.at + BEHIND_MS

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
        if self._writer is None or self._closing.is_set():
            return
        self._closing.set()
        self._some.set()
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._writer
                await self._store.record([self._own("stop")])
        if lost := [entry for entry, done in self._waiting if done is None]:
            self._lost(lost)

    def _own(self, what: str, *, reason: str = "", cards: int = 0) -> AuditEntry:
        return AuditEntry(at=self._now_ms(), by=SERVER, what=what, reason=reason, cards=cards)

    async def _write(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            # What failed before the end is tried once more.
            ends = self._closing.is_set()
            while self._waiting:
                batch = self._waiting[:BATCH]
                del self._waiting[:BATCH]
                # Who gave up meanwhile shows no cards.
                batch = [(entry, done) for entry, done in batch if done is None or not done.done()]
                if batch and not await self._written(batch):
                    break
            if ends:
                return

    async def _written(self, batch: list[Waiting]) -> bool:
        """Whether the next batch may follow at once."""
        try:
            await self._store.record([entry for entry, _ in batch])
        except (StoreUnavailable, StoreBroken) as error:
            # Whoever waits is told, and shows nothing. What streams have shown already is written when it can be.
            _settle(batch, error)
            self._keep([one for one in batch if one[1] is None])
            if not self._closing.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await self._closing.wait()
                self._some.set()
            return False
        except asyncio.CancelledError:
            self._keep([one for one in batch if one[1] is None])
            raise
        except Exception as error:
            if len(batch) > 1:
                # One of them is at fault: each alone, so that it fails alone.
                for n, one in enumerate(batch, 1):
                    if not await self._written([one]):
                        self._waiting = [*batch[n:], *self._waiting]
                        return False
                return True
            log.error("an entry of the audit can't be written", why=repr(error))
            if batch[0][1] is None:
                self._lost([batch[0][0]])
            _settle(batch, StoreError(f"the audit can't be written: {error}"))
            return True
        _settle(batch, None)
        return True

    def _keep(self, notes: list[Waiting]) -> None:
        self._waiting = [*notes, *self._waiting]
        kept = [one for one in self._waiting if one[1] is None]
        if (beyond := len(kept) - MAX_NOTES) > 0:
            dropped = {id(one) for one in kept[:beyond]}
            self._waiting = [one for one in self._waiting if id(one) not in dropped]
            self._lost([entry for entry, _ in kept[:beyond]])

    def _lost(self, entries: Sequence[AuditEntry]) -> None:
        self._metrics.alert("audit_lost")
        log.error("audit entries of streams were dropped", count=len(entries))
        for entry in entries[:MAX_TOLD]:
            # The log is what is left of them.
            log.error(
                "an audit entry was dropped",
                client=entry.by,
                what=entry.what,
                positions=f"{entry.first_position}-{entry.last_position}",
                card_count=entry.cards,
                why=entry.reason,
            )


def _settle(batch: list[Waiting], error: StoreError | None) -> None:
    for _, done in batch:
        if done is None or done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            # One of its own for each: a shared one would gather everybody's traceback.
            done.set_exception(type(error)(str(error)))
