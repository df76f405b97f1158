"""Old log entries go, orders stay."""

from pathlib import Path

from reward_server.clock import Clock
from reward_server.pruning import DAY_MS, Pruner
from reward_server.store.open import open_store

from .samples import START, an_order


class LaterClock(Clock):
    """A clock that stands some days after the sample orders."""

    def __init__(self, days: float) -> None:
        self._now = START + int(days * DAY_MS)

    def now_ms(self) -> int:
        return self._now


async def test_entries_older_than_the_retention_go_and_their_orders_stay(tmp_path: Path) -> None:
    """After the retention the log begins later; the order itself is still read."""
    store = await open_store(f"sqlite:///{tmp_path}/reward.db")
    order = (await store.create(an_order())).order
    young = Pruner(store, [order.client_id], retention_days=90, clock=LaterClock(89))
    old = Pruner(store, [order.client_id], retention_days=90, clock=LaterClock(91))
    assert await young.prune() == 0
    assert await old.prune() == 1
    assert (await store.head(order.client_id)).pruned_through == 1
    assert await store.updates(order.client_id, 0, 10) == []
    assert await store.order(order.client_id, order.order_id) == order
    await store.close()
