"""Moves a store from SQLite to PostgreSQL: everything, with its positions, its epoch and its keys; cards stay sealed.

Table by table and page by page, in the order of keys. A page comes whole or not at all, so what is there already is
always a beginning: a move that was interrupted goes on behind it. In the end both sides are read again and compared.
Until then no server opens the target, and after that none opens the source.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from reward_server.store import StoreError
from reward_server.store.postgres.arriving import ArrivingStore, arriving_store
from reward_server.store.postgres.deciding import text
from reward_server.store.sqlite.leaving import LeavingStore
from reward_server.store.tables import TABLES, Row, Table, TableMoved

PAGE = 1_000
"""Rows at once: a few megabytes."""

TELL_SECONDS = 5.0
"""Between two lines about the same table."""


class MoveFailed(StoreError):
    """The two sides differ. The source is as it was, and no server opens the target."""


async def move(
    source: Path,
    target: str,
    *,
    tell: Callable[[str], None],
    page: int = PAGE,
    tell_seconds: float = TELL_SECONDS,
) -> list[TableMoved]:
    """Moves it, or goes on where a move ended; says what was compared, nothing if it had arrived before.

    Raises StoreError, MoveFailed among them. `tell` hears how far it came.
    """
    leaving = LeavingStore(source)
    try:
        async with arriving_store(target) as arriving:
            if await arriving.arrived_from(leaving.epoch):
                leaving.moved(_now_ms())
                return []
            teller = _Teller(tell, tell_seconds)
            for table in TABLES:
                await _copy(table, leaving, arriving, page, teller)
            moved = [await _compare(table, leaving, arriving, page, teller) for table in TABLES]
            # In this order: dead between the two, no server goes on with either until this has come to its end.
            leaving.moved(_now_ms())
            await arriving.arrived(leaving.epoch)
            return moved
    finally:
        leaving.close()


async def _copy(table: Table, leaving: LeavingStore, arriving: ArrivingStore, page: int, teller: "_Teller") -> None:
    after = await arriving.last_key(table)
    there = await arriving.count(table) if after else 0
    if there:
        teller.tell(f"{table.name}: goes on behind {there} rows")
    while rows := leaving.page(table, after, page):
        await arriving.add(table, [as_stored(table, row) for row in rows])
        after = table.key_of(rows[-1])
        there += len(rows)
        teller.now_and_then(f"{table.name}: {there} rows copied")
    teller.tell(f"{table.name}: {there} rows")


async def _compare(
    table: Table, leaving: LeavingStore, arriving: ArrivingStore, page: int, teller: "_Teller"
) -> TableMoved:
    digests = hashlib.sha256(), hashlib.sha256()
    after: Row | None = None
    count = 0
    while rows := [as_stored(table, row) for row in leaving.page(table, after, page)]:
        arrived = await arriving.page(table, after, len(rows))
        for digest, side in zip(digests, (rows, arrived), strict=True):
            for row in side:
                digest.update(msgspec.msgpack.encode(row))
        if digests[0].digest() != digests[1].digest():
            raise MoveFailed(_difference(table, rows, arrived))
        after = table.key_of(rows[-1])
        count += len(rows)
        teller.now_and_then(f"{table.name}: {count} rows compared")
    there = await arriving.count(table)
    if there != count:
        raise MoveFailed(f"{table.name}: the source has {count} rows, the target {there}. {MEND}")
    return TableMoved(table.name, count, digests[0].hexdigest())


MEND = "Something else wrote to one of them: take a new, empty database and begin again"


def _difference(table: Table, rows: list[Row], arrived: list[Row]) -> str:
    pairs = zip(rows, [*arrived, *(() for _ in rows)], strict=False)
    row = next(row for row, other in pairs if row != other)
    key = ", ".join(value.hex() if isinstance(value, bytes) else str(value) for value in table.key_of(row))
    return f"{table.name}: the row {key} isn't the same in the target. {MEND}"


def as_stored(table: Table, row: Row) -> Row:
    """A row of SQLite as PostgreSQL has it: with truth values, and without the one character its text can't hold."""
    return tuple(
        bool(value) if column in table.truths else text(value) if isinstance(value, str) else value
        for column, value in zip(table.columns, row, strict=True)
    )


class _Teller:
    def __init__(self, tell: Callable[[str], None], seconds: float) -> None:
        self.tell = tell
        self._seconds = seconds
        self._told_at = time.monotonic()

    def now_and_then(self, line: str) -> None:
        """Tells, unless something was told a moment ago."""
        if time.monotonic() >= self._told_at + self._seconds:
            self._told_at = time.monotonic()
            self.tell(line)


def _now_ms() -> int:
    return int(time.time() * 1000)
