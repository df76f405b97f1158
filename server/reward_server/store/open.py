"""Opens the store that the configuration names."""

from pathlib import Path

from reward_server.store import StoreRefused
from reward_server.store.sqlite import SqliteStore, open_sqlite

_SQLITE = "sqlite:///"


async def open_store(url: str) -> SqliteStore:
    """Opens `sqlite:///relative/path` or `sqlite:////absolute/path`. Raises StoreRefused."""
    if not url.startswith(_SQLITE):
        # The URL may hold a password: only what stands before it is shown.
        scheme = url.split(":", 1)[0] if ":" in url else ""
        raise StoreRefused(f"store.url must be sqlite:///PATH; {scheme or 'a value without a scheme'} isn't known")
    path = url.removeprefix(_SQLITE)
    if not path or "?" in path or "\0" in path or path.endswith("/") or path.startswith(":memory:"):
        raise StoreRefused("store.url must name a file: sqlite:///relative/path or sqlite:////absolute/path")
    return open_sqlite(Path(path))
