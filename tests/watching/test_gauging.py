"""Ages come from the store: how long the oldest have waited."""

from pathlib import Path

from reward_server.clock import Clock
from reward_server.gauging import Gauging
from reward_server.metrics import Metrics
from reward_server.store.open import open_store
from store.conformance import in_review
from store.samples import START, an_order


class StillClock(Clock):
    """Ten minutes after the samples were made."""

    def now_ms(self) -> int:
        return START + 600_000


def sample(metrics: Metrics, series: str) -> float:
    """One line of the page."""
    [line] = [line for line in metrics.render().decode().splitlines() if line.startswith(f"{series} ")]
    return float(line.rpartition(" ")[2])


async def test_ages_are_those_of_the_oldest(tmp_path: Path) -> None:
    """By state, and of what waits for a person; they fall when there is nothing left."""
    store = await open_store(f"sqlite:///{tmp_path}/reward.db")
    metrics = Metrics()
    gauging = Gauging(store, metrics, clock=StillClock())
    await gauging.look()
    assert sample(metrics, 'reward_oldest_order_seconds{state="processing"}') == 0
    orders = [an_order(created_at=START + after) for after in (0, 60_000, 120_000)]
    for order in orders:
        await store.create(order)
    await store.save(in_review(orders[0], START + 300_000))
    await gauging.look()
    states = {order.state for order in orders}
    assert len(states) == 1
    assert sample(metrics, f'reward_oldest_order_seconds{{state="{states.pop()}"}}') == 540
    assert sample(metrics, 'reward_oldest_order_seconds{state="needs_review"}') == 600
    assert (sample(metrics, "reward_reviews"), sample(metrics, "reward_oldest_review_seconds")) == (1, 300)
    await store.close()
