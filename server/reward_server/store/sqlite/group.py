"""Group commit: whoever wants to write while a commit is under way shares the next one.

The statements run in the event loop's thread (they take microseconds, less than a hop to a thread and back); only the
COMMIT, which waits for the disk, runs elsewhere. While it does, nobody touches the connection.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import apsw

from reward_server import probes
from reward_server.store import StoreBroken, StoreError, StoreUnavailable, Update, UpdateListener
from reward_server.store.sqlite.failures import store_error

T = TypeVar("T")

Work = Callable[[apsw.Connection, list[Update]], T]
"""One writer's statements, run inside the transaction that it shares; appends the updates it logged.

It may run again in a transaction of its own, so it keeps nothing from one run to the next.
"""

Commit = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs a blocking commit away from the event loop."""

BATCH_LIMIT = 512
"""Writers per commit: some 20 ms of statements, the longest that the loop may be kept from everything else."""

PENDING_LIMIT = 20_000
"""Writers waiting. More than the server takes calls, so only a fault reaches it."""


@dataclass(slots=True)
class _Member:
    work: Work[Any]
    done: asyncio.Future[Any]
    result: Any = None
    updates: list[Update] = field(default_factory=list)

    def run(self, connection: apsw.Connection) -> None:
        self.updates = []
        self.result = self.work(connection, self.updates)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def succeed(self) -> None:
        # A caller that gave up cancelled its own waiting, never the write.
        if not self.done.done():
            self.done.set_result(self.result)


class GroupCommit:
    """The only writer of a connection."""

    def __init__(self, connection: apsw.Connection, commit: Commit) -> None:
        self.commits = 0
        """Commits so far, for metrics and tests."""
        self.on_commit: Callable[[int, float], None] = lambda _writes, _seconds: None
        """Told how many writes shared each commit, and how long it took."""
        self.broken = asyncio.Event()
        """Set when the store must not be used any more."""
        self._connection = connection
        self._commit = commit
        self._broken_by: StoreBroken | None = None
        self._closing = False
        self._listeners: list[UpdateListener] = []
        self._pending: list[_Member] = []
        self._runner: asyncio.Task[None] | None = None

    def listen(self, listener: UpdateListener) -> None:
        """Adds a listener."""
        self._listeners.append(listener)

    def check(self) -> None:
        """Raises StoreBroken after a failure of the disk, StoreError when closed."""
        if self._broken_by is not None:
            raise StoreBroken(str(self._broken_by))
        if self._closing:
            raise StoreError("the store is closed")

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Hands over statements; the future is done when they are on disk."""
        self.check()
        if len(self._pending) >= PENDING_LIMIT:
            raise StoreUnavailable(f"{PENDING_LIMIT} writes wait already")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._pending.append(_Member(work, done))
        if self._runner is None:
            self._runner = loop.create_task(self._run())
        return done

    def failed(self, error: BaseException) -> StoreError | None:
        """The store's error for one of SQLite's; one that means a broken disk ends the store."""
        translated = store_error(error)
        if isinstance(translated, StoreBroken) and self._broken_by is None:
            self._broken_by = translated
            self.broken.set()
        return translated

    async def close(self) -> None:
        """Refuses further writes and waits for those handed over."""
        self._closing = True
        if self._runner is not None:
            await asyncio.wait([self._runner])

    async def _run(self) -> None:
        batch: list[_Member] = []
        try:
            while self._pending:
                batch = self._pending[:BATCH_LIMIT]
                del self._pending[:BATCH_LIMIT]
                await self._run_batch(batch)
        except BaseException:
            # Cancelled in the middle, as when the loop is torn down: what the commit became is unknown.
            stopped = StoreBroken("the writer was stopped in the middle")
            self.failed(stopped)
            self._fail([*batch, *self._pending], stopped)
            self._pending.clear()
            raise
        finally:
            self._runner = None

    async def _run_batch(self, batch: list[_Member]) -> None:
        if self._broken_by is not None:
            return self._fail(batch, self._broken_by)
        began = time.perf_counter()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            probes.probe("commit.begun")
            for member in batch:
                member.run(self._connection)
        except Exception as error:
            self._roll_back()
            translated = self.failed(error)
            if translated is not None:
                return self._fail(batch, translated)
            if len(batch) == 1:
                return batch[0].fail(error)
            # One of them is at fault and SQLite can't say which: each alone, so that it fails alone.
            for member in batch:
                await self._run_batch([member])
            return None
        try:
            await self._commit(self._commit_now)
        except Exception as error:
            self._roll_back()
            # A commit that fails for a reason we don't know is no better than a failed disk.
            broken = StoreBroken(f"the commit failed: {error}")
            return self._fail(batch, self.failed(error) or self.failed(broken) or broken)
        self.commits += 1
        self.on_commit(len(batch), time.perf_counter() - began)
        # Listeners first: whoever waits for the write finds the streams already told.
        self._announce([update for member in batch for update in member.updates])
        probes.probe("commit.told")
        for member in batch:
            member.succeed()
        return None

    def _commit_now(self) -> None:
        probes.probe("commit.ready")
        self._connection.execute("COMMIT")
        probes.probe("commit.done")

    def _roll_back(self) -> None:
        # SQLite ends the transaction by itself on some errors.
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except apsw.Error as error:
                self.failed(StoreBroken(f"a rollback failed: {error}"))

    def _fail(self, batch: list[_Member], error: StoreError) -> None:
        for member in batch:
            # An exception of its own for each: a shared one would gather everybody's traceback.
            member.fail(type(error)(str(error)))

    def _announce(self, updates: list[Update]) -> None:
        if not updates:
            return
        for listener in self._listeners:
            try:
                listener(updates)
            except Exception as error:
                # The write stands. A listener's defect must neither undo it nor keep the others from hearing.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a listener of the store failed", "exception": error}
                )
