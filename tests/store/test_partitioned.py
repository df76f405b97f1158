"""PostgreSQL with partitioned tables, made by the statements that docs/scaling.md gives: the same promises."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from postgres_server import Server, execute
from reward_server.store import Store
from reward_server.store.postgres import migrate_postgres, open_postgres

from .conformance import OrdersConformance
from .samples import an_order, delivered

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"

INDEXES = (
    "SELECT string_agg(replace(indexdef, ' ONLY ', ' '), ' ' ORDER BY indexname) FROM pg_indexes"
    " WHERE schemaname = 'public' AND indexname !~ '_[0-9]+_'"
)
"""All of them, whether their tables have parts or not."""

_names = itertools.count(1)


@pytest.fixture(scope="module")
def partitioned(postgres: Server) -> Iterator[str]:
    """The name of a database with partitions, to be copied."""
    [statements] = re.findall(r"```sql\n(-- Once, in an empty database.*?)```", PAGE.read_text(), re.DOTALL)
    with postgres.database() as dsn:
        asyncio.run(migrate_postgres(dsn))
        execute(dsn, "DELETE FROM meta")
        # What a partitioned table can't promise: that ids are unique over all clients.
        before = execute(dsn, INDEXES).replace("CREATE UNIQUE INDEX orders_by_id", "CREATE INDEX orders_by_id")
        execute(dsn, *_statements(statements))
        assert execute(dsn, INDEXES) == before, "the page gives the indexes that the schema has"
        yield dsn.partition("?")[0].rpartition("/")[2]


def _statements(text: str) -> list[str]:
    """One by one; the block in `$$` is one."""
    text = re.sub(r"^(BEGIN|COMMIT);\n", "", text, flags=re.MULTILINE)
    block, rest = text.split("END $$;\n")
    return [f"{block}END $$;", *(part for part in rest.split(";\n") if part.strip())]


@pytest.fixture
async def open_store(postgres: Server, partitioned: str) -> AsyncIterator[Callable[[], Awaitable[Store]]]:
    """Opens the same database as one more process."""
    with postgres.database(template=partitioned) as dsn:
        execute(dsn, "INSERT INTO meta VALUES ('epoch', 7)")
        opened: list[Store] = []

        async def opening() -> Store:
            store = await open_postgres(dsn, poll_seconds=0.05)
            await store.join(f"replica-{next(_names)}")
            opened.append(store)
            return store

        yield opening
        for store in opened:
            await store.close()


@pytest.fixture
async def store(open_store: Callable[[], Awaitable[Store]]) -> Store:
    return await open_store()


class TestPartitionedStore(OrdersConformance):
    """Orders, changes, lists and races."""


async def test_purchases_and_the_log_are_found_in_their_parts(store: Store) -> None:
    """By number, by position, by order; and pruning takes them from there."""
    orders = [an_order(client_id) for client_id in ("shop", "other", "third") for _ in range(5)]
    for order in orders:
        await store.create(order)
        assert await store.save(delivered(order))
        assert await store.purchase("kss_a", order.purchases[0].number) is not None
        assert await store.owner(order.order_id) == order.client_id
    for client_id in ("shop", "other", "third"):
        assert [update.position for update in await store.updates(client_id, 0, 99)] == list(range(1, 11))
        assert await store.prune(client_id, 2**62, 4) == 4
        assert (await store.head(client_id)).pruned_through == 4
