"""The SQLite store when the power is cut: what was acknowledged is there, and nothing torn is believed."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from reward_server.domain.order import Order, OrderState, PurchaseState, Source
from reward_server.store import CallbackQuery, CallbackRecord, KeptAnswer, SealedCard, SealedToken, Update
from reward_server.store.sqlite import SqliteStore, open_sqlite

from .power import Event, Left, Mark, RecordingDisk, Synced, Write, after_a_cut, marks, moments, put, recording
from .power_rig import Asked, Handler, Reply, accepted, delivered, rigs, traits
from .samples import an_order, moved, touched
from .samples import delivered as settled

CUTS = 200
WRITERS = 8
ORDERS = 6
"""Per writer."""
RUNS = 3
"""The database is closed and opened again so many times in a history."""
SEED = 20_260_401


@dataclass(frozen=True, slots=True)
class Handed:
    """An order as it was handed to the store, for an update or without one."""

    order: Order


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A write of an order that the store said is on disk."""

    order: Order
    position: int = 0
    """Of the update, where the answer named it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Something beside orders that the store said is on disk."""

    token: SealedToken | None = None
    callback: CallbackRecord | None = None
    card: SealedCard | None = None
    answer: KeptAnswer | None = None
    order_id: str = ""


async def write_orders(store: SqliteStore, disk: RecordingDisk, chance: random.Random) -> None:
    """One writer: orders, their changes, cards, kept answers, callbacks, a token; each acknowledgement is marked."""
    for _ in range(ORDERS):
        order = an_order(metadata={"padding": "x" * chance.randrange(3_000)})
        disk.mark(Handed(order))
        created = await store.create(order)
        disk.mark(Acknowledged(order, created.head.position))
        change = touched(order)
        disk.mark(Handed(change.order))
        assert await store.save(change)
        disk.mark(Acknowledged(change.order))
        if chance.random() < 0.3:
            continue
        number = order.purchases[0].number
        card = SealedCard(1, order.version + 1, number, chance.randbytes(400))
        answer = KeptAnswer(number, 1, Source.PLACE, chance.randbytes(800))
        last = settled(change.order, cards=(card,), answers=(answer,))
        if chance.random() < 0.3:
            last = moved(change.order, PurchaseState.UNKNOWN, change.order.state, cards=(card,), answers=(answer,))
        disk.mark(Handed(last.order))
        assert await store.save(last)
        disk.mark(Acknowledged(last.order))
        disk.mark(Kept(card=card, answer=answer, order_id=order.order_id))
        callback = CallbackRecord("kss_a", number, order.order_id, chance.randbytes(32), 1, chance.randbytes(100))
        assert await store.keep_callback(callback)
        disk.mark(Kept(callback=callback))
        token = SealedToken(f"account {number}", chance.randbytes(64), 1, 2)
        await store.save_token(token)
        disk.mark(Kept(token=token))


async def a_history(folder: Path, *weakened: str) -> list[Event]:
    """Everything that a store does to its files in some runs, from the first migration on.

    `weakened` are settings of the database that replace the store's own.
    """
    chance = random.Random(SEED)
    with recording("power") as disk:
        for _ in range(RUNS):
            store = open_sqlite(folder / "rewards.db", vfs=disk.name)
            for setting in weakened:
                store._writer.execute(f"PRAGMA {setting}").fetchall()
            # Far more often than usual, so that many cuts hit a checkpoint or a log that begins anew.
            store._writer.execute("PRAGMA wal_autocheckpoint = 40").fetchall()
            await asyncio.gather(*(write_orders(store, disk, chance) for _ in range(WRITERS)))
            await store.close()
        return disk.history


async def losses(history: list[Event], at: int, left: Left, folder: Path) -> list[str]:
    """What is missing or wrong after a cut; nothing, if all is well."""
    wrong: list[str] = []
    put(after_a_cut(history, at, left, random.Random(at)), folder)
    store = open_sqlite(folder / "rewards.db")
    try:
        check = store._reader.execute("PRAGMA integrity_check").get
        if check != "ok":
            wrong.append(f"the file is damaged: {check}")
        log = await store.updates("shop", 0, 100_000)
        if [update.position for update in log] != list(range(1, len(log) + 1)):
            wrong.append("positions have a gap")
        if (await store.head("shop")).position != len(log):
            wrong.append("the head isn't the last position")
        handed = {(h.order.order_id, h.order.revision): h.order for h in marks(history, at, Handed)}
        wrong += [
            f"update {update.position} was never written like this"
            for update in log
            if handed.get((update.order.order_id, update.order.revision)) != update.order
        ]
        acknowledged = marks(history, at, Acknowledged)
        for order in {done.order.order_id: done.order for done in acknowledged}.values():
            stored = await store.order("shop", order.order_id)
            if stored is None or stored.revision < order.revision:
                wrong.append(f"an acknowledged order is lost: {order.order_id}")
            elif handed.get((stored.order_id, stored.revision)) != stored:
                wrong.append(f"an order was never written like this: {stored.order_id}")
        at_position = {update.position: update.order for update in log}
        wrong += [
            f"position {done.position} isn't what was acknowledged"
            for done in acknowledged
            if done.position and at_position.get(done.position) != done.order
        ]
        callbacks = await store.callbacks(CallbackQuery(account="kss_a", limit=10_000))
        for kept in marks(history, at, Kept):
            if not (kept.callback in callbacks if kept.callback else await is_kept(store, kept)):
                wrong.append(f"lost: {kept}")
        # And it goes on: the next order has the next position.
        if (await store.create(an_order())).head.position != len(log) + 1:
            wrong.append("the log doesn't go on behind its end")
    finally:
        await store.close()
    return wrong


async def is_kept(store: SqliteStore, kept: Kept) -> bool:
    """Whether a token, or a card and an answer, are there, to the last byte."""
    if kept.token is not None:
        return await store.token(kept.token.account) == kept.token
    cards = (await store.cards("shop", [kept.order_id])).get(kept.order_id, [])
    return cards == [kept.card] and await store.answers("shop", kept.order_id) == [kept.answer]


@pytest.mark.timeout(600)
@pytest.mark.rule("D1")
async def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """At 200 random moments, in migrations, commits and checkpoints, whatever is left of what wasn't synced."""
    history = await a_history(tmp_path)
    chance = random.Random(SEED)
    at_all = moments(history, CUTS, chance)
    for nth, at in enumerate(at_all):
        left = list(Left)[nth % len(Left)]
        wrong = await losses(history, at, left, tmp_path / str(nth))
        assert not wrong, (f"cut {nth} before event {at} of {len(history)}", left, wrong)
    # The cuts were where they can hurt: between writes that nobody had synced, with orders acknowledged before.
    assert sum(bool(marks(history, at, Acknowledged)) for at in at_all) > CUTS / 2


@pytest.mark.parametrize("left", list(Left))
@pytest.mark.rule("D1")
async def test_the_same_cuts_find_a_store_that_does_not_sync_its_commits(tmp_path: Path, left: Left) -> None:
    """A test of the test: with synchronous=NORMAL acknowledged orders are lost, and the file is sound all the same."""
    history = await a_history(tmp_path, "synchronous = NORMAL")
    found: list[str] = []
    for nth, at in enumerate(moments(history, 10, random.Random(SEED))):
        found += await losses(history, at, left, tmp_path / str(nth))
    assert any("an acknowledged order is lost" in wrong for wrong in found)
    assert not any("damaged" in wrong or "gap" in wrong or "never written" in wrong for wrong in found)


@pytest.mark.rule("D1")
async def test_a_second_cut_while_the_store_recovers_from_the_first_loses_nothing(tmp_path: Path) -> None:
    """The power comes back, and fails again during the next start, its first write or its end."""
    history = await a_history(tmp_path)
    chance = random.Random(SEED)
    for nth, at in enumerate(moments(history, 6, chance)):
        files = after_a_cut(history, at, Left.TORN, chance)
        put(files, tmp_path / f"first-{nth}")
        with recording(f"again-{nth}") as disk:
            store = open_sqlite(tmp_path / f"first-{nth}" / "rewards.db", vfs=disk.name)
            await store.create(an_order(client_id="another"))
            await store.close()
        # What the first cut left is on the medium; what was promised before it holds still.
        known: list[Event] = [event for event in history[:at] if isinstance(event, Mark)]
        for name, content in files.items():
            known += [Write(name, 0, content), Synced(name)]
        both = known + disk.history
        for again, then in enumerate(moments(disk.history, 6, chance)):
            wrong = await losses(both, len(known) + then, Left.TORN, tmp_path / f"second-{nth}-{again}")
            assert not wrong, (nth, at, then, wrong)


# --- Under the engine -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Requested:
    """A purchase that reached the supplier."""

    number: str


@dataclass(frozen=True, slots=True)
class Answered:
    """An order that its client was told of."""

    order_id: str


@dataclass(frozen=True, slots=True)
class Pushed:
    """An update that the streams were told of."""

    update: Update


def shop(books: set[str], disk: RecordingDisk | None) -> tuple[Handler, Handler]:
    """A supplier that takes everything: some of it is delivered at once, the rest found by a look; and its query."""

    async def place(asked: Asked) -> Reply:
        if disk is not None:
            disk.mark(Requested(asked.number))
        assert asked.number not in books, "asked for twice"
        books.add(asked.number)
        return delivered(f"card of {asked.number}") if len(books) % 2 else accepted()

    async def query(asked: Asked) -> Reply:
        return delivered(f"card of {asked.number}") if asked.number in books else {"said": "absent"}

    return place, query


async def bought(folder: Path) -> list[Event]:
    """What the engine does to its store's files while it buys, with what left it marked in between."""
    with recording("power-engine", by_default=True) as disk:
        async with rigs(folder) as make:
            rig = await make(max_in_flight=4, a=traits())
            rig.script.place, rig.script.query = shop(set(), disk)

            def pushed(updates: Sequence[Update]) -> None:
                for update in updates:
                    disk.mark(Pushed(update))

            rig.store.listen(pushed)

            async def order(nth: int) -> None:
                created = await rig.order("a", str(nth), quantity=1 + nth % 2)
                disk.mark(Answered(created.order_id))
                await rig.when_state(created, OrderState.FULFILLED)

            await asyncio.gather(*map(order, range(40)))
        return disk.history


@pytest.mark.rule("P1", "D1")
async def test_nothing_has_left_that_a_power_cut_can_take_back(tmp_path: Path) -> None:
    """Before a request reaches a supplier its intention is on disk; before a client hears of an order, or a stream of
    an update, so is that.
    """
    history = await bought(tmp_path)
    for nth, at in enumerate(moments(history, 60, random.Random(SEED))):
        folder = tmp_path / f"cut-{nth}"
        put(after_a_cut(history, at, list(Left)[nth % len(Left)], random.Random(at)), folder)
        store = open_sqlite(folder / "reward.db")
        for requested in marks(history, at, Requested):
            key = await store.purchase("a", requested.number)
            assert key is not None
            order = await store.order(key.client_id, key.order_id)
            assert order is not None
            assert order.purchase(requested.number).state is not PurchaseState.WAITING
        assert all([await store.order("shop", answered.order_id) for answered in marks(history, at, Answered)])
        log = await store.updates("shop", 0, 10_000)
        for pushed in marks(history, at, Pushed):
            assert log[pushed.update.position - 1] == pushed.update
        await store.close()


@pytest.mark.rule("O1", "D1")
async def test_after_a_power_cut_clients_have_what_was_sold_and_it_was_sold_once(tmp_path: Path) -> None:
    """A new start on what a cut left asks after what was being sent, buys what waited, and nothing a second time: what
    the supplier sold is what clients have. What never reached it is proven absent, and fails.
    """
    history = await bought(tmp_path)
    for nth, at in enumerate(moments(history, 6, random.Random(SEED + 1))):
        folder = tmp_path / f"life-{nth}"
        put(after_a_cut(history, at, Left.TORN, random.Random(at)), folder)
        books = {requested.number for requested in marks(history, at, Requested)}
        async with rigs(folder) as make:
            rig = await make(max_in_flight=4, a=traits())
            # It has begun already; until now the supplier sold to everybody.
            sold = [asked.number for asked in rig.script.places()]
            assert len(set(sold)) == len(sold)
            assert not books.intersection(sold), "asked for twice"
            books.update(sold)
            rig.script.place, rig.script.query = shop(books, None)
            orders = {update.order.order_id for update in await rig.store.updates("shop", 0, 10_000)}
            assert {answered.order_id for answered in marks(history, at, Answered)} <= orders
            numbers = []
            for order_id in orders:
                order = await rig.store.order("shop", order_id)
                assert order is not None
                order = await rig.when(order, lambda now: now.state.is_terminal)
                live = [p.number for p in order.purchases if p.state is PurchaseState.DELIVERED]
                assert len(await rig.shown_cards(order)) == order.delivered_quantity == len(live)
                numbers += live
        assert sorted(numbers) == sorted(books)


@pytest.mark.rule("D1")
async def test_what_a_restart_finds_is_on_the_medium_before_it_is_told(tmp_path: Path) -> None:
    """A process is killed between the write of a commit and the sync of it; the next one finds the order in the
    system's memory and would tell so; then the power is cut.
    """
    order, chance = an_order(), random.Random(SEED)
    with recording("killed") as disk:
        store = open_sqlite(tmp_path / "killed" / "rewards.db", vfs="killed")
        await store.create(order)
        synced = max(n for n, event in enumerate(disk.history) if event == Synced("rewards.db-wal"))
        before = disk.history[:synced]
        await store.close()
    everything = [*before, *(Synced(name) for name in ("rewards.db", "rewards.db-wal"))]
    put(after_a_cut(everything, len(everything), Left.NOTHING, chance), tmp_path / "restarted")
    with recording("restarted") as disk:
        store = open_sqlite(tmp_path / "restarted" / "rewards.db", vfs="restarted")
        found, _ = await store.order_by_client_order_id(order.client_id, order.client_order_id)
        assert found == order
        history = [*before, *disk.history]
        await store.close()
    put(after_a_cut(history, len(history), Left.NOTHING, chance), tmp_path / "cut")
    store = open_sqlite(tmp_path / "cut" / "rewards.db")
    found, _ = await store.order_by_client_order_id(order.client_id, order.client_order_id)
    await store.close()
    assert found == order
