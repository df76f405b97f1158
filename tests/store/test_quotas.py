"""Quotas where several processes share a database: nobody gets more by asking everywhere at once."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from reward_adapters.money import Money
from reward_server.domain.order import Order
from reward_server.errors import LimitReached
from reward_server.store import Store
from reward_server.store.postgres import open_postgres
from reward_server.store.quotas import Quota

from .samples import an_order

_names = itertools.count(1)


@asynccontextmanager
async def replica(url: str) -> AsyncIterator[Store]:
    """One more process."""
    store = await open_postgres(url, poll_seconds=0.05)
    try:
        await store.join(f"of-quotas-{next(_names)}")
        yield store
    finally:
        await store.close()


async def stored(stores: list[Store], quota: Quota) -> list[Order]:
    """Asks for twenty orders at each, all at once; returns what was stored."""
    tries = [(store, an_order()) for _ in range(20) for store in stores]
    made = await asyncio.gather(*(store.create(order, quota) for store, order in tries), return_exceptions=True)
    assert all(isinstance(one, LimitReached) for one in made if isinstance(one, BaseException))
    return [order for (_, order), one in zip(tries, made, strict=True) if not isinstance(one, BaseException)]


async def test_orders_in_flight_are_counted_over_all_processes(store_url: str) -> None:
    """Three of them give no more than one, and a retry is answered by any of them."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(replica(store_url)) for _ in range(3)]
        quota = Quota(orders_in_flight=7)
        orders = await stored(stores, quota)
        assert len(orders) == 7
        for store in stores:
            again = await asyncio.gather(*(store.create(order, quota) for order in orders))
            assert all(created.existed for created in again)


async def test_a_days_money_is_counted_over_all_processes(store_url: str) -> None:
    """To the last unit."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(replica(store_url)) for _ in range(3)]
        assert len(await stored(stores, Quota(spend_per_day=Money(11 * 990_000)))) == 11
        assert await stored(stores, Quota(spend_per_day=Money(12 * 990_000 - 1))) == []
        assert len(await stored(stores, Quota(spend_per_day=Money(12 * 990_000)))) == 1
