"""Takes a whole store that comes from another engine into an empty database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from reward_server.store import StoreError, StoreRefused
from reward_server.store.postgres.connecting import CONNECT_SECONDS, Hosts
from reward_server.store.postgres.failures import store_error
from reward_server.store.postgres.opening import STATEMENT_SECONDS, migrate_postgres
from reward_server.store.postgres.sql import STATEMENTS
from reward_server.store.tables import TABLES, Row, Table, page_of

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

LONG_SECONDS = 3_600.0
"""For what goes through a whole table."""

LOCK_TRIES, LOCK_REST_SECONDS = 20, 0.25
"""The session of one that was killed ends as soon as the database notices."""


class ArrivingStore:
    """A database that a store moves into. Until it has arrived no server opens the database."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    async def arrived_from(self, epoch: int) -> bool:
        """Whether the store of this epoch is here already, in full. Raises StoreRefused for a database that holds
        anything else, or a part of another store.
        """
        facts = {key: value for key, value in await self._connection.fetch(STATEMENTS["facts"])}  # noqa: C416
        if facts.get("arrived") == epoch:
            return True
        if "arriving" in facts:
            if facts["arriving"] != epoch:
                raise StoreRefused("another store is being moved into this database: finish that, or take an empty one")
            return False
        for table in TABLES:
            if await self._connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table.name})"):  # noqa: S608
                raise StoreRefused(
                    f"the database has {table.name} of its own, not of this store: take an empty one, in which no"
                    " server was ever started"
                )
        await self._connection.execute(STATEMENTS["set_fact"], "arriving", epoch)
        return False

    async def last_key(self, table: Table) -> Row | None:
        """The key of the last row that is here: pages come whole and in order, so what follows it isn't."""
        order = ", ".join(f"{column} DESC" for column in table.key)
        statement = f"SELECT {', '.join(table.key)} FROM {table.name} ORDER BY {order} LIMIT 1"  # noqa: S608
        row = await self._connection.fetchrow(statement)
        return None if row is None else tuple(row)

    async def page(self, table: Table, after: Row | None, limit: int) -> list[Row]:
        """The rows of a table behind a key, in the order of keys."""
        places = tuple(f"${n}" for n, _ in enumerate((*(after or ()), limit), 1))
        rows = await self._connection.fetch(page_of(table, places, first=after is None), *(after or ()), limit)
        return [tuple(row) for row in rows]

    async def count(self, table: Table) -> int:
        """How many rows it has."""
        statement = f"SELECT count(*) FROM {table.name}"  # noqa: S608
        return int(await self._connection.fetchval(statement, timeout=LONG_SECONDS))

    async def add(self, table: Table, rows: Sequence[Row]) -> None:
        """Stores a page, all of it or nothing."""
        columns = list(table.columns)
        if table.name == "purchases":
            # Nobody works on them: the first server that starts takes them up.
            columns, rows = [*columns, "owner"], [(*row, "") for row in rows]
        await self._connection.copy_records_to_table(table.name, records=rows, columns=columns)

    async def arrived(self, epoch: int) -> None:
        """The store goes on here: under its epoch, so that its clients' resume tokens stay good."""
        # The planner knows nothing of what has come by COPY.
        await self._connection.execute("ANALYZE", timeout=LONG_SECONDS)
        async with self._connection.transaction():
            for table in TABLES:
                if table.counted:
                    await self._connection.execute(_count_on(table))
            for name, value in (("epoch", epoch), ("arrived", epoch)):
                await self._connection.execute(STATEMENTS["set_fact"], name, value)
            await self._connection.execute(STATEMENTS["forget_fact"], "arriving")


@contextlib.asynccontextmanager
async def arriving_store(url: str) -> AsyncIterator[ArrivingStore]:
    """Opens a database, brings its schema up to date, and keeps other movers out. Raises StoreError."""
    await migrate_postgres(url)
    try:
        settings = {"application_name": "reward-server migrate-store"}
        connection = await Hosts(url).connect(command_timeout=STATEMENT_SECONDS, server_settings=settings)
        try:
            await _alone(connection)
            yield ArrivingStore(connection)
        finally:
            await connection.close(timeout=CONNECT_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise store_error(error) or StoreError(f"the database refused: {error}") from error


async def _alone(connection: "Connection") -> None:
    for _ in range(LOCK_TRIES):
        if await connection.fetchval(STATEMENTS["try_lock_arriving"]):
            break
        await asyncio.sleep(LOCK_REST_SECONDS)
    else:
        raise StoreRefused("another `migrate-store` is moving a store into this database")
    if await connection.fetchval(STATEMENTS["count_replicas"]):
        raise StoreRefused("a server works on this database: stop it, and take an empty database")


def _count_on(table: Table) -> str:
    [key] = table.key
    return (
        f"SELECT setval(pg_get_serial_sequence('{table.name}', '{key}'), max({key})) FROM {table.name}"  # noqa: S608
        f" HAVING max({key}) IS NOT NULL"
    )
