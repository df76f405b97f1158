"""The service as shipped, with somebody inside who changes orders as the engine's commits would; a process of its own.

Told on its input: `publish ORDERS RATE` (updates a second, 0 as fast as the store takes them) and `watchers`.
"""

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from reward_adapters.contract import Card, CardKind, ProductKind
from reward_bench.serving import answer, commands
from reward_server.app import App
from reward_server.config import load_settings
from reward_server.domain.ids import IdSource
from reward_server.domain.order import Order, OrderState
from reward_server.hub import Hub
from reward_server.logs import configure_logs
from reward_server.sealing import Vault
from reward_server.store import Change, SealedCard

CLIENT = "dev"
AT_ONCE = 64
"""Orders that are changed in the same breath: about what a busy group commit holds."""
PER_ORDER = 3
"""Updates of one order: made, sent to the supplier, delivered with a card."""


class Publisher:
    """Makes updates in the server's own store."""

    def __init__(self, app: App, vault: Vault) -> None:
        self._store = app.store
        self._vault = vault
        self._new_id = IdSource(lambda: time.time_ns() // 1_000_000)
        self.committed: list[float] = []
        """When each update was committed, by the monotonic clock."""
        self._store.listen(lambda updates: self.committed.extend([time.monotonic()] * len(updates)))

    async def publish(self, orders: int, per_second: float = 0.0) -> None:
        """So many orders of three updates each, as fast as the store takes them or at a rate of updates."""
        sealer = await self._vault.client(CLIENT)
        self.committed.clear()
        begun = time.monotonic()
        at_once = 1 if per_second else AT_ONCE
        for done in range(0, orders, at_once):
            count = min(at_once, orders - done)
            await asyncio.gather(*(self._life_of_an_order(sealer) for _ in range(count)))
            if per_second:
                await asyncio.sleep(max(0.0, begun + (done + 1) * PER_ORDER / per_second - time.monotonic()))

    async def _life_of_an_order(self, sealer: Any) -> None:
        order_id, now = self._new_id(), time.time_ns() // 1_000_000
        order = Order(
            client_id=CLIENT,
            order_id=order_id,
            client_order_id=f"co-{order_id}",
            product_id="jd-100",
            product_kind=ProductKind.CARD,
            quantity=1,
            recipient=None,
            max_unit_price=None,
            supplier_parameters={},
            metadata={"campaign": "spring", "user": "u-1234567"},
            offers=(),
            created_at=now,
            updated_at=now,
        )
        await self._store.create(order)
        order = replace(order, version=2, revision=2, state=OrderState.PROCESSING)
        await self._store.save(Change(order=order, visible=True))
        card = Card(kind=CardKind.NUMBER_AND_SECRET, number="6220123412341234", secret="1234-5678-9012")  # noqa: S106 - made up
        sealed = SealedCard(1, 3, order_id, sealer.seal_card(card, order_id, 1))
        order = replace(order, version=3, revision=3, state=OrderState.FULFILLED, card_count=1, delivered_quantity=1)
        await self._store.save(Change(order=order, visible=True, cards=(sealed,)))


async def serve(config: Path) -> None:
    """Serves until it is killed."""
    settings = load_settings(config, {})
    configure_logs("info", "json", sys.stderr)
    app = App(settings)
    await app.start()
    publisher = Publisher(app, await Vault.unlock(app.store, settings.master_keys))
    answer("ready")
    async for command in commands():
        match command:
            case ["publish", orders, rate]:
                await publisher.publish(int(orders), float(rate))
                answer(publisher.committed)
            case ["watchers"]:
                answer(_watchers(app.hub))


def _watchers(hub: Hub) -> int:
    return sum(len(tail.watchers()) for tail in hub._tails.values())  # noqa: SLF001 - there is no other way to know


def main() -> None:
    """Serves."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
