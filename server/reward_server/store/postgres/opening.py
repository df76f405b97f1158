"""Opens the database: reachable, durable, and with a schema that this program may run on."""

import time
from importlib.resources import files
from typing import Any

import asyncpg

from reward_server.store import StoreRefused, StoreUnavailable
from reward_server.store.epochs import random_epoch
from reward_server.store.migrations import Applied, Migration, load_migrations, pending
from reward_server.store.postgres.connecting import CONNECT_SECONDS, Hosts
from reward_server.store.postgres.failures import store_error
from reward_server.store.postgres.sql import STATEMENTS
from reward_server.store.postgres.store import PostgresStore

MIGRATIONS = load_migrations(files(__package__))

OLDEST_SERVER = 140_000

IDLE_IN_TRANSACTION_MS = 5_000
"""A process that is frozen in the middle of a write keeps others from that client's log no longer than this."""

STATEMENT_SECONDS = 30.0
"""A connection that says nothing for so long is given up."""


async def open_postgres(
    url: str,
    *,
    lease_seconds: float = 15.0,
    poll_seconds: float = 1.0,
    connections: int = 10,
    behind_pooler: bool = False,
    migrations: tuple[Migration, ...] = MIGRATIONS,
) -> PostgresStore:
    """Opens a database that `migrate_postgres` has prepared. Raises StoreRefused."""
    options = _options(behind_pooler=behind_pooler)
    hosts = Hosts(url)
    try:
        pool = await asyncpg.create_pool(
            connect=hosts.connect,
            min_size=1,
            max_size=connections,
            max_inactive_connection_lifetime=60.0,
            reset=_keep_as_it_is,
            **options,
        )
    except Exception as error:
        raise _refused(error) from None
    try:
        async with pool.acquire() as connection:
            await _check(connection)
            if not await connection.fetchval(STATEMENTS["has_schema"]):
                raise StoreRefused("the database is empty: run `reward-server migrate` with this configuration once")
            missing = pending(migrations, await _applied(connection))
            if missing:
                names = ", ".join(migration.name for migration in missing)
                raise StoreRefused(f"the database lacks {names}: run `reward-server migrate`, then start this program")
            facts = dict(await connection.fetch(STATEMENTS["facts"]))
            if "arriving" in facts:
                raise StoreRefused(
                    "a store is being moved into this database: run `reward-server migrate-store` to its end"
                )
    except Exception as error:
        pool.terminate()
        raise _refused(error) from None
    lease_pool = await asyncpg.create_pool(
        connect=hosts.connect, min_size=0, max_size=1, reset=_keep_as_it_is, **options
    )
    return PostgresStore(
        pool,
        lease_pool,
        connect=lambda: hosts.connect(**options),
        epoch=facts["epoch"],
        lease_seconds=lease_seconds,
        poll_seconds=poll_seconds,
    )


async def migrate_postgres(url: str, *, migrations: tuple[Migration, ...] = MIGRATIONS) -> list[str]:
    """Brings the schema up to date and says which files were applied. Raises StoreRefused; two at once take turns."""
    try:
        connection = await Hosts(url).connect()
    except Exception as error:
        raise _refused(error) from None
    try:
        await _check(connection)
        await connection.execute(STATEMENTS["lock_migrations"])
        await connection.execute(STATEMENTS["create_schema"])
        applied = []
        for migration in pending(migrations, await _applied(connection)):
            # All of a migration or nothing: a process that dies in between leaves the former schema.
            async with connection.transaction():
                await connection.execute(migration.sql)
                row = (migration.number, migration.sha256, int(time.time() * 1000), migration.oldest_program_schema)
                await connection.execute(STATEMENTS["record_migration"], *row)
            applied.append(migration.name)
        await connection.execute(STATEMENTS["set_epoch"], random_epoch())
        return applied
    except Exception as error:
        raise _refused(error) from None
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


def _options(*, behind_pooler: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"timeout": CONNECT_SECONDS, "command_timeout": STATEMENT_SECONDS}
    if behind_pooler:
        # A pooler hands the same connection to others: neither settings nor prepared statements may outlive a
        # transaction.
        return {**options, "statement_cache_size": 0}
    settings = {
        "application_name": "reward-server",
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
    }
    return {**options, "server_settings": settings}


async def _keep_as_it_is(_connection: object) -> None:
    """We set nothing on a connection that the next user of it could trip over: no round trip is needed to undo it."""


async def _check(connection: Any) -> None:
    version = connection.get_server_version()
    if version.major * 10_000 < OLDEST_SERVER:
        raise StoreRefused(f"PostgreSQL {version.major} is too old: it takes {OLDEST_SERVER // 10_000} or newer")
    fsync, full_pages, synchronous = await connection.fetchrow(STATEMENTS["durability"])
    if not (fsync and full_pages) or synchronous == "off":
        raise StoreRefused(
            "the database may lose what it has acknowledged: fsync, full_page_writes and synchronous_commit must be on"
            f" (they are {_on(fsync)}, {_on(full_pages)} and {synchronous})"
        )


async def _applied(connection: Any) -> list[Applied]:
    return [Applied(*row) for row in await connection.fetch(STATEMENTS["applied_migrations"])]


def _on(setting: bool) -> str:
    return "on" if setting else "off"


def _refused(error: Exception) -> StoreRefused:
    """Why the database can't be opened. The URL may hold a password and is never shown."""
    if isinstance(error, StoreRefused):
        return error
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidCatalogNameError):
        return StoreRefused(f"the database refuses us: {error}")
    translated = store_error(error)
    if isinstance(translated, StoreUnavailable):
        return StoreRefused(f"{translated}; is it running, and is store.url right?")
    return StoreRefused(f"the database can't be opened: {error}")
