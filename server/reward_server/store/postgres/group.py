"""Group commit: one client's writes share transactions, several clients commit in parallel.

A transaction is five round trips whatever it holds: begin, lock the client's head, read what the writes depend on,
write all of it in one statement, commit. The lock is held until the commit, so positions have no gap and rise in the
order of commits, on whichever process they are made.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import asyncpg

from reward_server import probes
from reward_server.errors import LimitReached
from reward_server.store import Created, Head, StoreBroken, StoreError, StoreUnavailable, Update
from reward_server.store.postgres.deciding import Batch, Write
from reward_server.store.postgres.failures import store_error
from reward_server.store.postgres.sql import STATEMENTS
from reward_server.store.quotas import day_of

BATCH_LIMIT = 256
"""Writers per transaction: some milliseconds of one client's lock."""

PENDING_LIMIT = 20_000
"""Writers waiting. More than the server takes calls, so only a fault reaches it."""

ACQUIRE_SECONDS = 10.0
"""How long a batch waits for a connection."""

FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 2.0
"""Between two questions about a commit whose answer was lost."""

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Result: TypeAlias = Created | bool
_Member: TypeAlias = tuple[Write, "asyncio.Future[Any]"]


class GroupCommit:
    """Writes orders for all clients."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        *,
        owner: Callable[[], str],
        chain: str,
        epoch: int,
        committed: Callable[[str, int, float, list[Update]], None],
    ) -> None:
        """`committed` hears of the client, the number of writes, the seconds and the updates of every commit."""
        self._pool = pool
        self._owner = owner
        self._chain = chain
        self._epoch = epoch
        self._committed = committed
        self._pending: dict[str, list[_Member]] = {}
        self._waiting = 0
        self._runners: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        self._numbers = itertools.count(1)
        self.round_trips = 0
        """To the database and back, for benchmarks."""

    def submit(self, client_id: str, write: Write) -> "asyncio.Future[Any]":
        """Hands over a write; the future is done when it is on disk."""
        if self._closing:
            raise StoreError("the store is closed")
        if self._waiting >= PENDING_LIMIT:
            raise StoreUnavailable(f"{PENDING_LIMIT} writes wait already")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._pending.setdefault(client_id, []).append((write, done))
        self._waiting += 1
        if client_id not in self._runners:
            self._runners[client_id] = loop.create_task(self._run(client_id))
        return done

    async def close(self, seconds: float) -> None:
        """Refuses further writes and waits for those handed over, but for no database that doesn't answer."""
        self._closing = True
        if self._runners:
            _, late = await asyncio.wait(self._runners.values(), timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _run(self, client_id: str) -> None:
        batch: list[_Member] = []
        try:
            while pending := self._pending.get(client_id):
                batch = pending[:BATCH_LIMIT]
                del pending[:BATCH_LIMIT]
                await self._run_batch(client_id, batch)
                self._waiting -= len(batch)
                batch = []
        except BaseException:
            # Cancelled in the middle, as when the loop is torn down: what the commit became is unknown.
            left = [*batch, *self._pending.get(client_id, ())]
            self._waiting -= len(left)
            _fail(left, StoreBroken("the writer was stopped in the middle"))
            raise
        finally:
            self._pending.pop(client_id, None)
            del self._runners[client_id]

    async def _run_batch(self, client_id: str, members: list[_Member]) -> None:
        try:
            decided = await self._transact(client_id, [write for write, _ in members])
        except Exception as error:
            translated = store_error(error)
            if isinstance(translated, StoreUnavailable):
                return _fail(members, translated)
            if len(members) == 1:
                return _fail(members, error)
            # One of them is at fault and the database can't say which: each alone, so that it fails alone.
            for member in members:
                await self._run_batch(client_id, [member])
            return None
        for (_, done), result in zip(members, decided, strict=True):
            # A caller that gave up cancelled its own waiting, never the write.
            if done.done():
                continue
            if isinstance(result, StoreError | LimitReached):
                done.set_exception(result)
            else:
                done.set_result(result)
        return None

    async def _transact(self, client_id: str, writes: list[Write]) -> list[Result | StoreError | LimitReached]:
        began = time.perf_counter()
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
            batch = await self._begin(connection, client_id, writes)
            try:
                probes.probe("commit.begun")
                decided = [_decide(batch, write) for write in writes]
                if not batch.is_empty:
                    self.round_trips += 1
                    [counts] = await connection.fetch(STATEMENTS["write"], *batch.rows())
                    batch.check(*counts)
            except BaseException:
                await _roll_back(connection)
                raise
            self.round_trips += 1
            lost = await _commit(connection)
        if lost is not None and not batch.is_empty and not await self._was_committed(batch):
            raise StoreUnavailable(f"the database didn't commit: {lost}")
        if not batch.is_empty:
            # Listeners first: whoever waits for the write finds the streams already told.
            self._committed(client_id, len(writes), time.perf_counter() - began, batch.updates)
        probes.probe("commit.told")
        return decided

    async def _begin(self, connection: Connection, client_id: str, writes: list[Write]) -> Batch:
        owner = self._owner()
        self.round_trips += 3
        await connection.execute("BEGIN")
        try:
            heads = await connection.fetch(STATEMENTS["lock_head"], client_id)
            if not heads:
                # A client's first write: the row has to be there before it can be locked.
                self.round_trips += 2
                await connection.execute(STATEMENTS["add_head"], client_id)
                heads = await connection.fetch(STATEMENTS["lock_head"], client_id)
            [(position, pruned_through)] = heads
            head = Head(position, pruned_through, self._epoch)
            batch = Batch(client_id, owner, self._chain, next(self._numbers), False, head)
            new = [write for write in writes if write.change is None]
            created = [write.order.client_order_id for write in new]
            days = list({day_of(write.order) for write in new if write.quota.spend_per_day is not None})
            counts = any(write.quota.orders_in_flight is not None for write in new)
            saved = list({write.order.order_id for write in writes if write.change is not None})
            values = (client_id, created, saved, owner, days, counts)
            for row in await connection.fetch(STATEMENTS["look_before"], *values):
                batch.found(*row)
        except BaseException:
            await _roll_back(connection)
            raise
        return batch

    async def _was_committed(self, batch: Batch) -> bool:
        """Asks until the database knows what became of a batch. Nobody is told anything before."""
        retry = FIRST_RETRY_SECONDS
        while True:
            try:
                async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection, connection.transaction():
                    # Waits for the end of what may still be under way there.
                    await connection.fetch(STATEMENTS["lock_head"], batch.client_id)
                    last = await connection.fetchval(STATEMENTS["last_batch"], batch.client_id, batch.owner)
                    return bool(last == batch.number)
            except Exception as error:
                if not isinstance(store_error(error), StoreUnavailable):
                    raise
            await asyncio.sleep(retry)
            retry = min(2 * retry, LONGEST_RETRY_SECONDS)


def _decide(batch: Batch, write: Write) -> Result | StoreError | LimitReached:
    try:
        return batch.decide(write)
    except (StoreError, LimitReached) as error:
        # This writer's own: the others of the batch go on.
        return error


async def _commit(connection: Connection) -> Exception | None:
    """Commits; what comes back means that the answer to it was lost. Raises StoreUnavailable when it was a no."""
    probes.probe("commit.ready")
    try:
        answer = await connection.execute("COMMIT")
    except Exception as error:
        return error
    if answer != "COMMIT":
        # What had failed before is answered with ROLLBACK.
        raise StoreUnavailable(f"the database didn't commit: {answer}")
    probes.probe("commit.done")
    return None


async def _roll_back(connection: Connection) -> None:
    try:
        if not connection.is_closed() and connection.is_in_transaction():
            await connection.execute("ROLLBACK")
    except Exception as error:
        # The connection is of no use any more, and without it the transaction isn't either.
        if store_error(error) is None:
            raise


def _fail(members: list[_Member], error: BaseException) -> None:
    for _, done in members:
        if not done.done():
            # An exception of its own for each: a shared one would gather everybody's traceback.
            done.set_exception(type(error)(str(error)) if isinstance(error, StoreError) else error)
