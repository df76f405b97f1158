"""The PostgreSQL store: the conformance suite, and what only a shared database has to stand."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from postgres_server import execute
from reward_server.store import Store
from reward_server.store.postgres import PostgresStore, open_postgres

from .conformance import StoreConformance

_names = itertools.count(1)


@pytest.fixture
async def open_store(store_url: str) -> AsyncIterator[Callable[[], Awaitable[PostgresStore]]]:
    """Opens the same database as one more process."""
    opened: list[PostgresStore] = []

    async def opening() -> PostgresStore:
        store = await open_postgres(store_url, poll_seconds=0.05)
        await store.join(f"replica-{next(_names)}")
        opened.append(store)
        return store

    yield opening
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: Callable[[], Awaitable[PostgresStore]]) -> Store:
    return await open_store()


@pytest.fixture
def successor(store_url: str, open_store: Callable[[], Awaitable[PostgresStore]]) -> Callable[[], Awaitable[Store]]:
    """Another process, after the leases of all others were over."""

    async def opening() -> Store:
        execute(store_url, "UPDATE replicas SET until = now() - interval '1 second'")
        return await open_store()

    return opening


class TestPostgresStore(StoreConformance):
    """The PostgreSQL store keeps the promises of every store."""
