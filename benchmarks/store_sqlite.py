"""How many orders the SQLite store takes, and how many commits they cost.

    python benchmarks/store_sqlite.py [--folder DIR] [--orders 20000]

Each caller creates an order and waits for it, over and over; then the same with a delivery (a sealed card, the second
commit of an order) behind each creation. The orders are made before the clock runs. Beside it, the bare rate of commits
of this disk, and what the parts cost.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import apsw

from reward_adapters.contract import Card, CardKind
from reward_server.sealing import ClientSealer
from reward_server.store import Change, SealedCard
from reward_server.store.codec import decode_order, encode_order
from reward_server.store.sqlite import SqliteStore, open_sqlite

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from store.samples import an_order, delivered

SEALER = ClientSealer("shop", {b"data-key": b"k" * 32}, {}, b"identity")
CARD = Card(kind=CardKind.NUMBER_AND_SECRET, number="6688123412341234", secret="PIN-98765432")  # noqa: S106 - a sample


def a_course(client_id: str) -> tuple[Change, Change]:
    """An order as it is created and as it is delivered."""
    order = an_order(client_id)
    sealed = SEALER.seal_card(CARD, order.order_id, 1)
    cards = (SealedCard(1, 2, order.purchases[0].number, sealed),)
    return Change(order=order, visible=True), delivered(order, cards=cards)


async def create(store: SqliteStore, course: tuple[Change, Change]) -> None:
    """One order."""
    await store.create(course[0].order)


async def create_and_deliver(store: SqliteStore, course: tuple[Change, Change]) -> None:
    """One order and its card."""
    await store.create(course[0].order)
    await store.save(course[1])


Step = Callable[[SqliteStore, tuple[Change, Change]], Awaitable[None]]


async def rate(folder: Path, step: Step, callers: int, clients: int, orders: int) -> str:
    """Runs the callers until all orders are through."""
    path = folder / f"{step.__name__}-{callers}-{clients}.db"
    store = open_sqlite(path)
    courses = iter([a_course(f"client-{number % clients}") for number in range(orders)])
    waits: list[float] = []

    async def caller(courses: Iterator[tuple[Change, Change]]) -> None:
        for course in courses:
            before = time.perf_counter()
            await step(store, course)
            waits.append(time.perf_counter() - before)

    before = time.perf_counter()
    await asyncio.gather(*(caller(courses) for _ in range(callers)))
    elapsed = time.perf_counter() - before
    commits = store.commits
    await store.close()
    waits.sort()
    return (
        f"{step.__name__:18} {callers:3} callers {clients:2} clients: {orders / elapsed:6,.0f} orders/s,"
        f" {commits / orders:.3f} commits/order, median {waits[orders // 2] * 1e3:5.1f} ms,"
        f" p99 {waits[orders * 99 // 100] * 1e3:5.1f} ms, {path.stat().st_size / orders:,.0f} bytes/order"
    )


def bare_commits(folder: Path) -> float:
    """Commits of one small row each, one after the other: what the disk can do."""
    connection = apsw.Connection(str(folder / "bare.db"))
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "CREATE TABLE t (n INTEGER)"):
        connection.execute(statement).fetchall()
    rounds = 5_000
    before = time.perf_counter()
    for _ in range(rounds):
        connection.execute("INSERT INTO t VALUES (1)")
    elapsed = time.perf_counter() - before
    connection.close()
    return rounds / elapsed


def microseconds(what: Callable[[], object]) -> float:
    """What a call costs."""
    rounds = 20_000
    before = time.perf_counter()
    for _ in itertools.repeat(None, rounds):
        what()
    return (time.perf_counter() - before) / rounds * 1e6


def parts() -> None:
    """Prints what encoding and sealing cost."""
    order = an_order()
    body = encode_order(order)
    sealed = SEALER.seal_card(CARD, "order", 1)
    print(f"encode an order   {microseconds(lambda: encode_order(order)):5.1f} µs, {len(body)} bytes")
    print(f"decode an order   {microseconds(lambda: decode_order(body)):5.1f} µs")
    print(f"seal a card       {microseconds(lambda: SEALER.seal_card(CARD, 'order', 1)):5.1f} µs, {len(sealed)} bytes")
    print(f"open a card       {microseconds(lambda: SEALER.open_card(sealed, 'order', 1)):5.1f} µs")
    print(f"print of a card   {microseconds(lambda: SEALER.card_print('order', CARD)):5.1f} µs")


def main() -> None:
    """Runs everything and prints a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    parser.add_argument("--orders", type=int, default=20_000, help="how many each measurement takes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        parts()
        print(f"bare commits, one row each: {bare_commits(folder):,.0f}/s")
        for step, callers, clients in itertools.product((create, create_and_deliver), (1, 32, 256), (1, 16)):
            if clients <= callers:
                print(asyncio.run(rate(folder, step, callers, clients, arguments.orders)), flush=True)


if __name__ == "__main__":
    main()
