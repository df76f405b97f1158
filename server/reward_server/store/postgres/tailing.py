"""Tells this process's listeners what was committed to the logs that are watched here, by whichever process.

The log is the truth: it is read from where the listeners stand. A notification only says that there is something to
read; whether it comes or not, the ends of the watched logs are looked at every so often. Notifications are sent after
the commit, on another connection, and several commits share one: inside the transaction they would make commits wait
for each other.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
import msgspec
import structlog

from reward_server.store import StoreError, Update
from reward_server.store.postgres.failures import store_error

log = structlog.get_logger(__name__)

CHANNEL = "reward_updates"

PAGE = 500
"""Updates read at once."""

FAR_BEHIND = 2_000
"""Of more updates than this only the last is told: who watches reads the log from its own place."""

NOTICE_BYTES = 7_000
"""PostgreSQL takes payloads below 8,000 bytes."""

RECONNECT_SECONDS = 1.0

LISTENING_CHECK_SECONDS = 15.0
"""How often the connection that listens is tried, and how long that may take."""

_positions = msgspec.json.Decoder(dict[str, int])

Connect: TypeAlias = Callable[[], Awaitable["asyncpg.Connection[asyncpg.Record]"]]


@dataclass(slots=True)
class _Log:
    """A client's log that is watched here."""

    told: int | None = None
    """Listeners heard of everything up to here; None: nobody knows yet where they stand."""
    heard: int = 0
    """There is something up to here."""
    reading: bool = False


class Tailing:
    """The watched logs."""

    def __init__(
        self,
        *,
        read: Callable[[str, int, int], Awaitable[list[Update]]],
        ends: Callable[[Sequence[str]], Awaitable[Mapping[str, int]]],
        notify: Callable[[str], Awaitable[None]],
        connect: Connect,
        tell: Callable[[Sequence[Update]], None],
        poll_seconds: float,
    ) -> None:
        self._read = read
        self._ends = ends
        self._notify = notify
        self._connect = connect
        self._tell = tell
        self._poll_seconds = poll_seconds
        self._logs: dict[str, _Log] = {}
        self._unsent: dict[str, int] = {}
        self._sending = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._look = asyncio.Event()
        self.notices = 0
        """Notifications that came, for metrics and tests."""

    def start(self) -> None:
        """Begins to listen and to look."""
        self._spawn(self._listen())
        self._spawn(self._poll())

    async def close(self) -> None:
        """Ends everything."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def follow(self, client_id: str) -> None:
        """Watches a client's log from where it ends now."""
        if client_id not in self._logs:
            self._logs[client_id] = _Log()
            self._look.set()

    def unfollow(self, client_id: str) -> None:
        """Doesn't watch it any more."""
        self._logs.pop(client_id, None)

    def committed(self, client_id: str, updates: list[Update]) -> None:
        """This process committed these: told at once, unless others' updates stand before them."""
        if not updates:
            return
        first, last = updates[0].position, updates[-1].position
        followed = self._logs.get(client_id)
        if followed is None or (not followed.reading and followed.told == first - 1):
            if followed is not None:
                followed.told = followed.heard = last
            self._tell(updates)
        else:
            self._hear(client_id, last)
        self._unsent[client_id] = last
        if not self._sending:
            self._sending = True
            self._spawn(self._send())

    # --- Inside

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("tailing failed", exc_info=error)

    def _hear(self, client_id: str, position: int) -> None:
        """There is something up to `position` in a client's log."""
        followed = self._logs.get(client_id)
        if followed is None:
            return
        followed.heard = max(followed.heard, position)
        if not followed.reading and followed.told is not None and followed.told < followed.heard:
            followed.reading = True
            self._spawn(self._catch_up(client_id, followed))

    async def _catch_up(self, client_id: str, followed: _Log) -> None:
        try:
            while followed.told is not None and followed.told < followed.heard:
                if followed.heard - followed.told > FAR_BEHIND:
                    followed.told = followed.heard - 1
                page = await self._read(client_id, followed.told, PAGE)
                if self._logs.get(client_id) is not followed:
                    return
                # Nothing at all: pruned meanwhile, and there is nothing to tell of it.
                followed.told = page[-1].position if page else followed.heard
                followed.heard = max(followed.heard, followed.told)
                if page:
                    self._tell(page)
        except StoreError as error:
            log.warning("a log can't be read; it is looked at again", client=client_id, why=str(error))
        finally:
            followed.reading = False

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._look.wait()
            self._look.clear()
            try:
                await self._look_at_ends()
            except StoreError as error:
                log.warning("the logs' ends can't be read", why=str(error))
                await asyncio.sleep(self._poll_seconds)
                self._look.set()

    async def _look_at_ends(self) -> None:
        watched = list(self._logs)
        if not watched:
            return
        ends = await self._ends(watched)
        for client_id in watched:
            followed, end = self._logs.get(client_id), ends.get(client_id, 0)
            if followed is None:
                continue
            if followed.told is None:
                # Who began to watch before we knew the end hears of the last update, and so finds those before it.
                followed.told = max(0, max(end, followed.heard) - 1)
            self._hear(client_id, end)

    async def _send(self) -> None:
        try:
            while self._unsent:
                positions: dict[str, int] = {}
                size = 0
                for client_id, position in list(self._unsent.items()):
                    size += len(client_id.encode()) + 30
                    if positions and size > NOTICE_BYTES:
                        break
                    positions[client_id] = position
                    del self._unsent[client_id]
                try:
                    await self._notify(msgspec.json.encode(positions).decode())
                except StoreError as error:
                    # Only a hint: everybody looks by himself as well.
                    log.warning("other processes weren't notified", why=str(error))
        finally:
            self._sending = False

    async def _listen(self) -> None:
        while True:
            connection = None
            try:
                connection = await self._connected()
                gone = asyncio.Event()
                connection.add_termination_listener(lambda _connection, gone=gone: gone.set())
                await connection.add_listener(CHANNEL, self._notified)
                # What was notified while nobody listened.
                self._look.set()
                while not gone.is_set():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LISTENING_CHECK_SECONDS):
                            await gone.wait()
                    # A host that went silent doesn't say that it did.
                    await connection.execute("SELECT 1", timeout=LISTENING_CHECK_SECONDS)
            except Exception as error:
                if store_error(error) is None:
                    log.error("listening to the database failed", exc_info=error)
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _connected(self) -> "asyncpg.Connection[asyncpg.Record]":
        """Connects; one that we don't wait for any more is ended, not left to the garbage collector."""
        connecting = asyncio.ensure_future(self._connect())
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            await asyncio.wait({connecting}, timeout=RECONNECT_SECONDS)
            if not connecting.cancel() and not connecting.cancelled() and connecting.exception() is None:
                connecting.result().terminate()
            raise

    def _notified(self, _connection: object, _process: int, _channel: str, payload: object) -> None:
        try:
            positions = _positions.decode(payload if isinstance(payload, str) else "")
        except msgspec.DecodeError:
            log.warning("a notification wasn't understood")
            return
        self.notices += 1
        for client_id, position in positions.items():
            self._hear(client_id, position)
