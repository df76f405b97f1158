"""The SQLite store when the disk is full, the disk fails, or the process is killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from enum import StrEnum
from pathlib import Path

import apsw
import pytest

from reward_server.domain.order import Order
from reward_server.store import StoreBroken, StoreUnavailable
from reward_server.store.sqlite import SqliteStore, open_sqlite

from .conformance import all_updates
from .samples import an_order


class FaultyDisk(apsw.VFS):  # type: ignore[misc, unused-ignore]
    """The system's files, with reads, and writes and syncs of the log, failing on demand."""

    def __init__(self) -> None:
        self.write_error: apsw.Error | None = None
        self.sync_error: apsw.Error | None = None
        self.read_error: apsw.Error | None = None
        super().__init__("faulty", "")

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> "FaultyFile":
        return FaultyFile(self, name, flags)


class FaultyFile(apsw.VFSFile):  # type: ignore[misc, unused-ignore]
    """One of its files."""

    def __init__(self, disk: FaultyDisk, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self._disk = disk
        self._is_log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        if self._disk.read_error is not None:
            raise self._disk.read_error
        read: bytes = super().xRead(amount, offset)
        return read

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._is_log and self._disk.write_error is not None:
            raise self._disk.write_error
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if self._is_log and self._disk.sync_error is not None:
            raise self._disk.sync_error
        super().xSync(flags)


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    disk = FaultyDisk()
    yield disk
    disk.unregister()


@pytest.fixture
async def store(disk: FaultyDisk, tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = open_sqlite(tmp_path / "rewards.db", vfs="faulty")
    yield store
    disk.write_error = disk.sync_error = disk.read_error = None
    await store.close()


async def outcomes(store: SqliteStore, writers: int) -> list[object]:
    """What so many concurrent creations come to."""
    return list(await asyncio.gather(*(store.create(an_order()) for _ in range(writers)), return_exceptions=True))


@pytest.mark.rule("D12")
async def test_a_full_disk_passes(store: SqliteStore, disk: FaultyDisk) -> None:
    """When the log can't grow every writer is told, nothing is written, and with space again all is well."""
    await store.create(an_order())
    disk.write_error = apsw.FullError("no space left on device")
    assert all(isinstance(outcome, StoreUnavailable) for outcome in await outcomes(store, 5))
    assert [update.position for update in await all_updates(store)] == [1]
    disk.write_error = None
    assert (await store.create(an_order())).head.position == 2
    assert not store.broken.is_set()


@pytest.mark.rule("D12")
async def test_a_full_database_passes(store: SqliteStore) -> None:
    """When the statements themselves find no page left every writer is told, and with room again all is well."""
    await store.create(an_order())
    store._writer.execute("PRAGMA max_page_count = 60")
    told: list[object] = []
    while not any(isinstance(outcome, BaseException) for outcome in told):
        told = await outcomes(store, 20)
    assert all(isinstance(outcome, StoreUnavailable) for outcome in told)
    position = (await store.head("shop")).position
    assert [update.position for update in await all_updates(store)] == list(range(1, position + 1))
    store._writer.execute("PRAGMA max_page_count = 1000000")
    assert (await store.create(an_order())).head.position == position + 1


@pytest.mark.rule("D12")
async def test_a_foreign_lock_passes(store: SqliteStore, tmp_path: Path) -> None:
    """While a foreign program holds the database writers are told so, and reads go on."""
    order = an_order()
    await store.create(order)
    foreign = apsw.Connection(str(tmp_path / "rewards.db"))
    foreign.execute("BEGIN IMMEDIATE")
    assert all(isinstance(outcome, StoreUnavailable) for outcome in await outcomes(store, 2))
    assert await store.order("shop", order.order_id) == order
    foreign.execute("ROLLBACK")
    foreign.close()
    assert (await store.create(an_order())).head.position == 2


@pytest.mark.parametrize("step", ["write_error", "sync_error"])
@pytest.mark.rule("D13")
async def test_a_failing_disk_ends_the_store(store: SqliteStore, disk: FaultyDisk, step: str) -> None:
    """After a failed write or sync nothing is acknowledged any more, not even when the disk seems well again."""
    await store.create(an_order())
    setattr(disk, step, apsw.IOError("input/output error"))
    assert all(isinstance(outcome, StoreBroken) for outcome in await outcomes(store, 5))
    assert store.broken.is_set()
    setattr(disk, step, None)
    with pytest.raises(StoreBroken):
        await store.create(an_order())
    with pytest.raises(StoreBroken):
        await store.head("shop")


@pytest.mark.rule("D13")
async def test_a_read_that_fails_ends_the_store(store: SqliteStore, disk: FaultyDisk) -> None:
    """What can't be read isn't guessed: the caller is told, and nothing is acknowledged any more."""
    order = an_order()
    await store.create(order)
    disk.read_error = apsw.IOError("input/output error")
    # As after a start: nothing of the file is in memory.
    store._reader.release_memory()
    with pytest.raises(StoreBroken):
        await store.order("shop", order.order_id)
    assert store.broken.is_set()
    with pytest.raises(StoreBroken):
        await store.create(an_order())


class Call(StrEnum):
    """How one call of the system goes wrong."""

    FULL = "there is no space"
    SHORT = "there is space for half of it"
    BROKEN = "the medium fails"


class OneBadCall(apsw.VFS):  # type: ignore[misc, unused-ignore]
    """The system's files, where one write, sync or cut goes wrong: the nth from now, of whatever file."""

    def __init__(self) -> None:
        self.left = -1
        self.how = Call.FULL
        super().__init__("one-bad-call", "")

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> "FileWithABadCall":
        return FileWithABadCall(self, name, flags)

    def goes_wrong(self, writes_log: bool = False) -> bool:
        """Whether this call is the one."""
        if self.how is not Call.BROKEN and not writes_log:
            # Space is what writes find missing. A checkpoint without space is made again later, and SQLite says nothing
            # of it; an exception of ours would come out of the COMMIT before it all the same.
            return False
        self.left -= 1
        return self.left == 0

    def error(self) -> apsw.Error:
        """As SQLite gets it from the system."""
        failed: apsw.Error = apsw.IOError("i/o error") if self.how is Call.BROKEN else apsw.FullError("no space")
        return failed


class FileWithABadCall(apsw.VFSFile):  # type: ignore[misc, unused-ignore]
    """One of its files."""

    def __init__(self, disk: OneBadCall, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self._disk = disk
        self._is_log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._disk.goes_wrong(self._is_log):
            if self._disk.how is Call.SHORT:
                super().xWrite(bytes(data)[: len(data) // 2], offset)
            raise self._disk.error()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if self._disk.goes_wrong():
            raise self._disk.error()
        super().xSync(flags)

    def xTruncate(self, newsize: int) -> None:
        if self._disk.goes_wrong():
            raise self._disk.error()
        super().xTruncate(newsize)


@pytest.fixture
def bad() -> Iterator[OneBadCall]:
    disk = OneBadCall()
    yield disk
    disk.unregister()


CALLS = (*range(1, 41), *range(50, 150, 10))
"""The first commits call by call, then on through checkpoints and logs that begin anew."""


@pytest.mark.parametrize("how", list(Call))
@pytest.mark.rule("D1", "D13")
async def test_whichever_call_of_the_system_fails_nothing_acknowledged_is_lost(
    bad: OneBadCall, tmp_path: Path, how: Call
) -> None:
    """Each of the first 40 calls in turn, and more: writers are told, or nothing was lost by it; after a full disk they
    go on with the same store, after a failed one with a new start. Every order is there once.
    """
    bad.how = how
    told = 0
    for nth in CALLS:
        path = tmp_path / str(nth) / "rewards.db"
        orders = [an_order() for _ in range(15)]
        acknowledged, refused = await create_through_a_fault(bad, nth, path, orders)
        told += bool(refused)
        again = open_sqlite(path)
        stored = {update.order.order_id: update.position for update in await again.updates("shop", 0, 1_000)}
        assert sorted(stored.values()) == list(range(1, len(stored) + 1)), nth
        assert acknowledged.items() <= stored.items(), nth
        known = [created.existed for created in await asyncio.gather(*map(again.create, orders))]
        assert known == [order.order_id in stored for order in orders], nth
        assert (await again.head("shop")).position == len(orders)
        assert again._reader.execute("PRAGMA integrity_check").get == "ok"
        await again.close()
    assert told >= len(CALLS) / 2


async def create_through_a_fault(
    bad: OneBadCall, nth: int, path: Path, orders: list[Order]
) -> tuple[dict[str, int], list[BaseException]]:
    """Creates orders, some together, while the nth call goes wrong: positions by order id, and what writers were told.

    Those that were told to try again do so; after a failed disk nobody does.
    """
    bad.left = -1
    store = open_sqlite(path, vfs="one-bad-call")
    # Often, so that checkpoints are among the calls.
    store._writer.execute("PRAGMA wal_autocheckpoint = 20").fetchall()
    bad.left = nth
    acknowledged: dict[str, int] = {}
    told: list[BaseException] = []
    waiting = list(orders)
    while waiting and not store.broken.is_set():
        together, waiting = waiting[:3], waiting[3:]
        for order, outcome in zip(
            together, await asyncio.gather(*map(store.create, together), return_exceptions=True), strict=True
        ):
            if isinstance(outcome, BaseException):
                told.append(outcome)
                waiting.append(order)
            else:
                assert not outcome.existed
                acknowledged[order.order_id] = outcome.head.position
    expected = StoreBroken if bad.how is Call.BROKEN else StoreUnavailable
    assert all(isinstance(error, expected) for error in told), (nth, told)
    bad.left = -1
    await store.close()
    return acknowledged, told


CREATING = """
import asyncio, sys
from pathlib import Path
from reward_server.store.sqlite import open_sqlite
from tests.store.samples import an_order

async def create_forever(store):
    while True:
        created = await store.create(an_order())
        print(created.order.order_id, created.head.position, flush=True)

async def main():
    store = open_sqlite(Path(sys.argv[1]))
    await asyncio.gather(*(create_forever(store) for _ in range(16)))

asyncio.run(main())
"""


def acknowledgements_until_killed(path: Path, number: int) -> dict[int, str]:
    """What a process acknowledged, order ids by position, that was killed after so many acknowledgements."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", CREATING, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(number)]
        process.send_signal(signal.SIGKILL)
        # Those still in the pipe were acknowledged as well; the last one may be cut.
        lines += [line for line in process.stdout if line.endswith("\n")]
    return {int(position): order_id for order_id, position in map(str.split, lines)}


@pytest.mark.rule("D1")
async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """A process killed while it writes leaves every order that it acknowledged, at the position it named."""
    path = tmp_path / "rewards.db"
    acknowledged = acknowledgements_until_killed(path, 300)
    assert len(acknowledged) >= 300
    store = open_sqlite(path)
    log = await all_updates(store)
    assert [update.position for update in log] == list(range(1, len(log) + 1))
    stored = {update.position: update.order.order_id for update in log}
    assert acknowledged.items() <= stored.items()
    assert (await store.head("shop")).position == len(log)
    await store.close()
