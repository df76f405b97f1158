"""Reads a SQLite store from end to end, for moving it to another engine. Cards stay sealed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from reward_server.store import StoreError, StoreRefused
from reward_server.store.sqlite.failures import store_error
from reward_server.store.sqlite.opening import open_alone
from reward_server.store.sqlite.sql import run
from reward_server.store.tables import Row, Table, page_of

T = TypeVar("T")


class LeavingStore:
    """A SQLite store that nobody works on: it is locked, as a server locks it, until it is closed."""

    def __init__(self, path: Path) -> None:
        """Raises StoreRefused: no file, one in use, or one of a newer program."""
        if not path.is_file():
            raise StoreRefused(f"{path} isn't there")
        self._connection, self._lock, self.epoch = open_alone(path)

    def page(self, table: Table, after: Row | None, limit: int) -> list[Row]:
        """The rows of a table behind a key, in the order of keys."""
        values = (*(after or ()), limit)
        statement = page_of(table, tuple("?" for _ in values), first=after is None)
        return self._try(lambda: self._connection.execute(statement, values).fetchall())

    def count(self, table: Table) -> int:
        """How many rows it has."""
        return int(self._try(lambda: self._connection.execute(f"SELECT count(*) FROM {table.name}").get))  # noqa: S608

    def moved(self, at: int) -> None:
        """No server may go on with this store: its orders are bought elsewhere now."""
        self._try(lambda: run(self._connection, "mark_moved", at))

    def close(self) -> None:
        """Lets others have it."""
        self._connection.close()
        os.close(self._lock)

    def _try(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except apsw.Error as error:
            raise store_error(error) or StoreError(f"the SQLite store can't be read: {error}") from error
