"""PostgreSQL databases for servers that are killed."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from postgres_server import Server
from reward_server.store.postgres import migrate_postgres


@contextlib.contextmanager
def fresh_databases(server: Server) -> Iterator[Callable[[], str]]:
    """Makes databases with today's schema, each by a call that gives its DSN; all are dropped in the end."""
    with server.database() as migrated, contextlib.ExitStack() as databases:
        asyncio.run(migrate_postgres(migrated))
        template = migrated.partition("?")[0].rpartition("/")[2]
        yield lambda: databases.enter_context(server.database(template))


def shared_store(dsn: str, *, lease_seconds: float = 1.0) -> str:
    """What is to stand in `[store]`: a short lease, so that what a killed server leaves is soon taken up."""
    return f'url = "{dsn}"\nlease_seconds = {lease_seconds}\npoll_seconds = 0.2'
