"""The store over PostgreSQL, for any number of processes."""

from reward_server.store.postgres.opening import migrate_postgres, open_postgres
from reward_server.store.postgres.store import PostgresStore

__all__ = ["PostgresStore", "migrate_postgres", "open_postgres"]
