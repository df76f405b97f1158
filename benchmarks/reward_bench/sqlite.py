"""`sqlite`: the SQLite store alone: orders created and delivered, and what the commits of this disk cost.

Each caller creates an order and delivers it (a sealed card, the second commit), over and over, straight on the store.
"""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import apsw

from reward_adapters.contract import Card, CardKind
from reward_bench.figures import Figure, Plan, Series, in_turns
from reward_server.sealing import ClientSealer
from reward_server.store import SealedCard
from reward_server.store.sqlite import open_sqlite
from store.samples import an_order, delivered

CALLERS = (1, 32, 256)
SEALER = ClientSealer("shop", {b"data-key": b"k" * 32}, {}, b"identity")
CARD = Card(kind=CardKind.NUMBER_AND_SECRET, number="6688123412341234", secret="PIN-98765432")  # noqa: S106 - a sample


async def store_alone(folder: Path, callers: int, orders: int) -> Mapping[str, float]:
    """One round, on a file that grows from round to round."""
    store = open_sqlite(folder / f"{callers}.db")
    courses = []
    for _ in range(orders):
        order = an_order("shop")
        sealed = SEALER.seal_card(CARD, order.order_id, 1)
        courses.append((order, delivered(order, cards=(SealedCard(1, 2, order.purchases[0].number, sealed),))))
    left = iter(courses)

    async def caller() -> None:
        for created, delivery in left:
            await store.create(created)
            await store.save(delivery)

    commits, begun = store.commits, time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    seconds = time.perf_counter() - begun
    found = {"per_second": orders / seconds, "commits": (store.commits - commits) / orders}
    await store.close()
    return found


async def bare_commits(folder: Path, commits: int) -> Mapping[str, float]:
    """Commits of one small row each, one after the other: what the disk can do."""
    connection = apsw.Connection(str(folder / "bare.db"))
    for statement in (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "CREATE TABLE IF NOT EXISTS t (n INTEGER)",
    ):
        connection.execute(statement).fetchall()
    begun = time.perf_counter()
    for _ in range(commits):
        connection.execute("INSERT INTO t VALUES (1)")
    seconds = time.perf_counter() - begun
    connection.close()
    return {"per_second": commits / seconds}


async def measure(folder: Path, plan: Plan) -> list[Figure]:
    """All callers, and the disk."""
    folder.mkdir(exist_ok=True)
    found = await in_turns(
        plan,
        {
            **{
                str(callers): partial(store_alone, folder, callers, plan.number(4_000 if callers > 1 else 400))
                for callers in CALLERS
            },
            "bare": partial(bare_commits, folder, plan.number(500)),
        },
    )
    stored = [Series(f"{callers} callers", "/s", found[str(callers)]["per_second"]) for callers in reversed(CALLERS)]
    return [
        Figure(
            key="sqlite-store",
            title="SQLite, the store alone: orders created and delivered, two commits each",
            series=(*stored, Series("bare commits, one by one", "/s", found["bare"]["per_second"])),
            facts={
                f"commits per order, {callers} callers": Series("", "", found[str(callers)]["commits"]).median
                for callers in CALLERS
            },
        )
    ]
