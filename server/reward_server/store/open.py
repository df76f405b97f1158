"""Opens the store that the configuration names."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reward_server.store import Store, StoreRefused
from reward_server.store.sqlite import open_sqlite
from reward_server.store.tables import TableMoved

_SQLITE = "sqlite:///"
_POSTGRES = "postgresql://"


async def open_store(url: str, **shared: Any) -> Store:
    """Opens `sqlite:///relative/path`, `sqlite:////absolute/path` or `postgresql://…`. Raises StoreRefused.

    `shared` are the options of `open_postgres`; a SQLite file belongs to one process and needs none of them.
    """
    if not url.startswith(_POSTGRES):
        return open_sqlite(_file(url))
    with _extra():
        from reward_server.store.postgres import open_postgres  # noqa: PLC0415 - SQLite doesn't need the extra
    return await open_postgres(url, **shared)


async def migrate_store(url: str) -> list[str]:
    """Brings a store to this program's schema and says which files were applied to PostgreSQL. Raises StoreRefused."""
    if not url.startswith(_POSTGRES):
        # It does so whenever it is opened.
        await open_sqlite(_file(url)).close()
        return []
    with _extra():
        from reward_server.store.postgres import migrate_postgres  # noqa: PLC0415
    return await migrate_postgres(url)


async def move_store(source: str, target: str, *, tell: Callable[[str], None]) -> list[TableMoved]:
    """Moves all of a SQLite store into an empty PostgreSQL database. Raises StoreError; `tell` hears how it goes."""
    if not source.startswith(_SQLITE):
        raise StoreRefused(
            "--from must be sqlite:///PATH: stores move from SQLite to PostgreSQL. There is no way back, and from one"
            " PostgreSQL to another lead its own tools (pg_dump, replication)"
        )
    if not target.startswith(_POSTGRES):
        raise StoreRefused("--to must be postgresql://USER@HOST/DATABASE")
    with _extra():
        from reward_server.store.moving import move  # noqa: PLC0415
    return await move(_file(source), target, tell=tell)


@contextlib.contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise StoreRefused(
            f"PostgreSQL needs a package that isn't there ({error.name}): pip install 'reward-service[server,postgres]'"
        ) from None


def _file(url: str) -> Path:
    if not url.startswith(_SQLITE):
        # The URL may hold a password: only what stands before it is shown.
        scheme = url.split(":", 1)[0] if ":" in url else ""
        raise StoreRefused(
            "store.url must be sqlite:///PATH or postgresql://USER@HOST/DATABASE;"
            f" {scheme or 'a value without a scheme'} isn't known"
        )
    path = url.removeprefix(_SQLITE)
    if not path or "?" in path or "\0" in path or path.endswith("/") or path.startswith(":memory:"):
        raise StoreRefused("store.url must name a file: sqlite:///relative/path or sqlite:////absolute/path")
    return Path(path)
