"""The SQLite engine: one process, one file, no server."""

from reward_server.store.sqlite.opening import open_sqlite
from reward_server.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore", "open_sqlite"]
