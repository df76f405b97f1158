"""Fills a SQLite store with orders, straight into its tables: a process of its own.

    python -m reward_bench.filling CONFIG COUNT delivered|open LOGGED

An order of the service itself is stored by the store's own code first; the rows of all others are copies of its rows
with other numbers and random client_order_ids, in the order of time, as if they had come over some weeks. Cards are
sealed one by one. Of the last LOGGED orders the log is there, as after pruning. Prints tokens and ids to ask for.
"""

import asyncio
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw

from reward_adapters.contract import Card, CardKind, ProductKind
from reward_adapters.money import Money
from reward_bench.publisher import CLIENT
from reward_bench.serving import ASYNC, answer
from reward_server.app import RESUME_KEY
from reward_server.config import load_settings
from reward_server.domain.ids import IdSource
from reward_server.domain.order import Offer, Order, OrderState, PurchaseRecord, PurchaseState
from reward_server.resume import Tokens
from reward_server.sealing import ClientSealer, Vault
from reward_server.store import Change, SealedCard, Store
from reward_server.store.open import open_store

ASKED = 2_000
"""Orders and places in the log that are told."""
STEP_MS = 100
"""Between two orders: a million take a little more than a day."""
PAGE = 5_000
CACHE_KIB = 2 << 20
TABLES = ("orders", "updates", "purchases", "cards")
CARD = Card(kind=CardKind.NUMBER_AND_SECRET, number="6688123412341234", secret="PIN-98765432")  # noqa: S106 - made up
ORDER_ID, NUMBER, NAME = "0" * 25 + "A", "0" * 25 + "B", "benchmark-order-0000000000000000"
"""What copies replace, wherever it stands; of the length of what replaces it."""


async def a_life(store: Store, sealer: ClientSealer, at: int, *, delivered: bool) -> None:
    """One order as the engine would have stored it: made, taken by the supplier, and perhaps delivered."""
    purchase = PurchaseRecord(
        number=NUMBER,
        offer=0,
        first_unit=0,
        quantity=1,
        state=PurchaseState.SUBMITTING,
        sends=1,
        intent_at=at,
        updated_at=at,
    )
    order = Order(
        client_id=CLIENT,
        order_id=ORDER_ID,
        client_order_id=NAME,
        product_id=ASYNC,
        product_kind=ProductKind.CARD,
        quantity=1,
        recipient=None,
        max_unit_price=None,
        supplier_parameters={},
        metadata={"campaign": "spring", "user": "u-1234567"},
        offers=(
            Offer(
                account="async",
                supplier_product="2909",
                unit_cost=Money(985_000),
                unit_limit=Money(990_000),
                max_units=100,
            ),
        ),
        created_at=at,
        updated_at=at,
        purchases=(purchase,),
    )
    await store.create(order)
    taken = replace(purchase, state=PurchaseState.ACCEPTED, supplier_reference=f"API{NUMBER}", written_until=at)
    order = replace(order.with_purchase(taken), version=2, revision=2, state=OrderState.PROCESSING)
    await store.save(Change(order=order, visible=True))
    if not delivered:
        return
    done = replace(taken, state=PurchaseState.DELIVERED, settled_at=at, cost=Money(985_000))
    order = replace(
        order.with_purchase(done), version=3, revision=3, state=OrderState.FULFILLED, card_count=1,
        delivered_quantity=1, settled_at=at, total_cost=Money(985_000),
    )  # fmt: skip
    sealed = SealedCard(1, 3, NUMBER, sealer.seal_card(CARD, ORDER_ID, 1))
    await store.save(Change(order=order, visible=True, cards=(sealed,)))


class Copies:
    """Rows of the template, renamed."""

    def __init__(self, connection: apsw.Connection, sealer: ClientSealer) -> None:
        self._connection = connection
        self._sealer = sealer
        self._columns: dict[str, list[str]] = {}
        self._rows: dict[str, list[tuple[Any, ...]]] = {}
        for table in TABLES:
            self._columns[table] = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            self._rows[table] = connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - ours
        self.per_order = len(self._rows["updates"])

    def store(self, ids: list[tuple[str, str, str]], position: int, *, logged: bool) -> None:
        """Stores an order for each (order id, number, client_order_id); the first update comes after `position`."""
        for table, columns in self._columns.items():
            if table == "updates" and not logged:
                continue
            marks = ", ".join("?" * len(columns))
            statement = f"INSERT INTO {table} VALUES ({marks})"  # noqa: S608 - ours
            self._connection.executemany(statement, self._renamed(table, ids, position))

    def _renamed(self, table: str, ids: list[tuple[str, str, str]], position: int) -> Iterator[tuple[Any, ...]]:
        columns = self._columns[table]
        for place, (order_id, number, name) in enumerate(ids):
            first = position + place * self.per_order
            for row in self._rows[table]:
                values = dict(zip(columns, (_renamed(value, order_id, number, name) for value in row), strict=True))
                if "position" in values:
                    values["position"] = first + row[columns.index("position")]
                if "last_position" in values:
                    values["last_position"] = first + self.per_order
                if "sealed" in values:
                    values["sealed"] = self._sealer.seal_card(CARD, order_id, 1)
                yield tuple(values.values())


def _renamed(value: Any, order_id: str, number: str, name: str) -> Any:
    if isinstance(value, str):
        return value.replace(ORDER_ID, order_id).replace(NUMBER, number).replace(NAME, name)
    if isinstance(value, bytes):
        body = value.replace(ORDER_ID.encode(), order_id.encode()).replace(NUMBER.encode(), number.encode())
        return body.replace(NAME.encode(), name.encode())
    return value


async def fill(config: Path, count: int, state: str, logged: int) -> dict[str, Any]:
    """Fills; returns what can be asked for."""
    settings = load_settings(config, {})
    path = Path(settings.store.url.removeprefix("sqlite:///"))
    store = await open_store(settings.store.url)
    vault = await Vault.unlock(store, settings.master_keys)
    sealer = await vault.client(CLIENT)
    tokens = Tokens(await vault.secret(RESUME_KEY))
    began = time.time_ns() // 1_000_000 - (count * STEP_MS if state == "delivered" else 60_000)
    await a_life(store, sealer, began, delivered=state == "delivered")
    epoch = (await store.head(CLIENT)).epoch
    await store.close()

    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE_KIB}; PRAGMA wal_autocheckpoint = 20000")
    copies = Copies(connection, sealer)
    for table in TABLES:
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - ours
    clock = iter(range(began, began + count * STEP_MS + 1, STEP_MS))
    new_id = IdSource(lambda: next(clock, 0))
    source = random.Random(1)
    asked: list[str] = []
    for done in range(0, count, PAGE):
        ids = [
            (new_id(), new_id(), f"{source.getrandbits(128):032x}")
            for _ in range(min(PAGE, count - done))
        ]  # fmt: skip
        with connection:
            copies.store(ids, done * copies.per_order, logged=done + PAGE > count - logged)
        asked.extend(name for _, _, name in source.sample(ids, min(len(ids), max(1, ASKED * PAGE // count))))
    head = count * copies.per_order
    pruned = max(0, (count - logged) // PAGE * PAGE) * copies.per_order
    connection.execute("UPDATE heads SET position = ?, pruned_through = ?", (head, pruned))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    source.shuffle(asked)
    places = [source.randrange(pruned, max(pruned + 1, head - 100)) for _ in range(ASKED)]
    return {
        "client_order_ids": asked[:ASKED],
        "tokens": [tokens.resume_token(CLIENT, epoch, place) for place in places],
        "bytes": path.stat().st_size,
    }


def main() -> None:
    """Fills a store."""
    config, count, state, logged = sys.argv[1:]
    answer(asyncio.run(fill(Path(config), int(count), state, int(logged))))


if __name__ == "__main__":
    main()
