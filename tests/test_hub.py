"""The hub: every selected update reaches every watcher once and in order, whatever is dropped on the way."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from reward_adapters.contract import Card, CardKind, ProductKind
from reward_server.domain.order import Order, OrderState
from reward_server.hub import Cards, Entry, Hub, LogPruned, Watcher
from reward_server.store import Change, Head, Store, Update
from reward_server.store.open import open_store


class Plain:
    """Encodes updates as text and counts what it is asked for."""

    def __init__(self) -> None:
        self.encoded: list[tuple[int, bool]] = []
        self.loaded: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail = False

    async def cards(self, orders: Sequence[Order]) -> list[Cards]:
        """One card each."""
        self.loaded.append([order.order_id for order in orders])
        await self.gate.wait()
        if self.fail:
            raise OSError("no key")
        return [((1, Card(kind=CardKind.CODE, secret="secret")),) for _ in orders]

    def encode(self, update: Update, cards: Cards, *, epoch: int, full: bool) -> bytes:
        """Position, version and cards."""
        self.encoded.append((update.position, full))
        return f"{epoch} {update.position} {len(cards)} {full}".encode()


@dataclass
class Log:
    """A store with its hub."""

    store: Store
    hub: Hub
    encoder: Plain
    reads: list[int]

    async def order(self, name: str, client_id: str = "shop", **fields: Any) -> Order:
        """A new order."""
        order = Order(
            client_id=client_id,
            order_id=name,
            client_order_id=f"co-{name}",
            product_id="card",
            product_kind=ProductKind.CARD,
            quantity=1,
            recipient=None,
            max_unit_price=None,
            supplier_parameters={},
            metadata={},
            offers=(),
            created_at=1,
            updated_at=1,
        )
        order = replace(order, **fields)
        await self.store.create(order)
        return order

    async def change(self, order: Order, times: int = 1, state: OrderState = OrderState.PROCESSING) -> Order:
        """So many visible changes."""
        for _ in range(times):
            order = replace(order, version=order.version + 1, revision=order.revision + 1, state=state)
            assert await self.store.save(Change(order=order, visible=True))
        return order


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    store = await open_store(f"sqlite:///{tmp_path}/rewards.db")
    reads: list[int] = []
    read = store.updates

    async def updates(client_id: str, after: int, limit: int) -> list[Update]:
        reads.append(after)
        return await read(client_id, after, limit)

    store.updates = updates  # type: ignore[method-assign]
    encoder = Plain()
    yield Log(store, Hub(store, encoder, tail_updates=8, pending_updates=4), encoder, reads)
    await store.close()


def positions(entries: Sequence[Entry]) -> list[int]:
    """Their positions."""
    return [entry.update.position for entry in entries]


async def everything(watcher: Watcher, through: int) -> list[int]:
    """What a watcher reads until it has searched up to a position."""
    found: list[int] = []
    while watcher.position < through:
        found += positions(await watcher.read())
    return found


async def begin(log: Log, watcher: Watcher, after: int | None = None) -> Head:
    """Starts a watcher at the head or after a position."""
    head = await log.store.head("shop")
    watcher.start(head.position if after is None else after, head)
    return head


async def test_live_updates_come_without_reading_the_store(log: Log) -> None:
    """Who keeps up gets every update from the tail."""
    with log.hub.watch("shop") as watcher:
        await begin(log, watcher)
        order = await log.order("A")
        await watcher.wait()
        assert positions(await watcher.read()) == [1]
        await log.change(order, 3)
        assert await everything(watcher, 4) == [2, 3, 4]
    assert log.reads == []


async def test_what_is_committed_between_watching_and_starting_is_not_lost(log: Log) -> None:
    """Whether a commit falls before or after the head is read, its update comes once."""
    with log.hub.watch("shop") as watcher:
        order = await log.order("A")
        head = await log.store.head("shop")
        await log.change(order)
        watcher.start(head.position, head)
        assert await everything(watcher, 2) == [2]


async def test_the_log_is_read_from_the_own_position(log: Log) -> None:
    """Who begins in the past reads the log up to now, then goes on live, each update once."""
    order = await log.change(await log.order("A"), 250)
    with log.hub.watch("shop") as watcher:
        await begin(log, watcher, after=0)
        found = positions(await watcher.read())
        await log.change(order, 2)
        found += await everything(watcher, 253)
        assert found == list(range(1, 254))


async def test_an_overflow_reads_the_log_again(log: Log) -> None:
    """More hints than fit are forgotten, not the updates."""
    with log.hub.watch("shop") as watcher:
        await begin(log, watcher)
        order = await log.change(await log.order("A"), 6)
        assert await everything(watcher, 7) == list(range(1, 8))
        assert log.reads == []
        await log.change(order, 20)
        assert await everything(watcher, 27) == list(range(8, 28))
        assert log.reads == [7]


async def test_a_hint_at_what_the_tail_has_lost_reads_the_log(log: Log) -> None:
    """One wanted update, then so many others that the tail has lost it by the time it is read."""
    wanted, other = await log.order("A"), await log.order("B")
    with log.hub.watch("shop", order_ids=["A"]) as watcher:
        await begin(log, watcher)
        await log.change(wanted)
        await log.change(other, 10)
        assert await everything(watcher, 13) == [3]
        assert log.reads == [2]


async def test_a_lost_hint_is_noticed(log: Log) -> None:
    """A hole in the positions makes everybody read the log."""
    with log.hub.watch("shop") as watcher:
        await begin(log, watcher)
        order = await log.order("A")
        assert await everything(watcher, 1) == [1]
        listening, log.hub._tails = log.hub._tails, {}
        order = await log.change(order, 2)
        log.hub._tails = listening
        await log.change(order)
        assert await everything(watcher, 4) == [2, 3, 4]


async def test_the_very_first_hint_may_be_lost(log: Log) -> None:
    """Also when nothing was heard of the log before, whoever watches notices the hole."""
    order = await log.order("A")
    with log.hub.watch("shop") as watcher:
        await begin(log, watcher)
        listening, log.hub._tails = log.hub._tails, {}
        order = await log.change(order)
        log.hub._tails = listening
        await log.change(order)
        assert await everything(watcher, 3) == [2, 3]


@pytest.mark.parametrize("is_late", [True, False])
async def test_who_starts_last_hears_of_what_others_found_in_the_log(log: Log, is_late: bool) -> None:
    """Of two who come at the same time one finds a longer log; whether the hint for the rest comes late or never."""
    order = await log.order("A")
    with log.hub.watch("shop") as one, log.hub.watch("shop") as two:
        early = await log.store.head("shop")
        listening, log.hub._tails = log.hub._tails, {}
        order = await log.change(order)
        log.hub._tails = listening
        late = await log.store.head("shop")
        two.start(late.position, late)
        one.start(early.position, early)
        if is_late:
            log.hub._on_updates(await log.store.updates("shop", 1, 1))
        await log.change(order)
        assert await everything(one, 3) == [2, 3]
        assert await everything(two, 3) == [3]


async def test_a_hint_lost_before_anybody_has_started_is_noticed(log: Log) -> None:
    """The first hint that is heard says how long the log was before it."""
    order = await log.order("A")
    with log.hub.watch("shop") as watcher:
        head = await log.store.head("shop")
        listening, log.hub._tails = log.hub._tails, {}
        order = await log.change(order)
        log.hub._tails = listening
        await log.change(order)
        watcher.start(head.position, head)
        assert await everything(watcher, 3) == [2, 3]


async def test_what_is_committed_while_the_log_is_read_is_not_lost(log: Log) -> None:
    """A store that takes its time answers with the log as it was; the hint that came meanwhile still counts."""
    order = await log.change(await log.order("A"), 2)
    read = log.store.updates

    async def slow(client_id: str, after: int, limit: int) -> list[Update]:
        page = await read(client_id, after, limit)
        log.store.updates = read  # type: ignore[method-assign]
        await log.change(order)
        return page

    log.store.updates = slow  # type: ignore[method-assign]
    with log.hub.watch("shop") as watcher:
        await begin(log, watcher, after=0)
        assert positions(await watcher.read()) == [1, 2, 3]
        await asyncio.wait_for(watcher.wait(), 60)
        assert positions(await watcher.read()) == [4]


async def test_only_selected_updates_wake(log: Log) -> None:
    """A watcher of some orders isn't woken by others, and still knows how far it has searched."""
    with log.hub.watch("shop", order_ids=["B"], client_order_ids=["co-C", "co-B"]) as watcher:
        await begin(log, watcher)
        await log.order("A")
        assert not watcher._changed.is_set()
        assert positions(await watcher.read()) == []
        assert watcher.position == 1
        await log.order("B")
        await log.order("C")
        await log.order("D")
        assert positions(await watcher.read()) == [2, 3]
        assert watcher.position == 4


async def test_clients_never_meet(log: Log) -> None:
    """Nobody hears of another client's orders, even under equal ids."""
    with log.hub.watch("shop", client_order_ids=["co-X"]) as one, log.hub.watch("shop") as all_of_them:
        await begin(log, one)
        await begin(log, all_of_them)
        await log.order("X", client_id="other")
        assert not one._changed.is_set()
        assert not all_of_them._changed.is_set()


async def test_an_update_is_encoded_once_per_view(log: Log) -> None:
    """However many streams send an update, it is encoded twice at most, and its cards are loaded once."""
    with log.hub.watch("shop") as one, log.hub.watch("shop") as two, log.hub.watch("shop", ["A"]) as three:
        for watcher in (one, two, three):
            await begin(log, watcher)
        await log.order("A", card_count=1)
        log.encoder.gate.clear()
        read = [await watcher.read() for watcher in (one, two, three)]
        loading = [
            asyncio.create_task(watcher.load(entries)) for watcher, entries in zip((one, two, three), read, strict=True)
        ]
        await asyncio.sleep(0)
        # The one that began to load goes away; the others still get their cards.
        loading[0].cancel()
        await asyncio.sleep(0)
        log.encoder.gate.set()
        await asyncio.gather(*loading, return_exceptions=True)
        messages = {
            watcher.message(entry, full=full)
            for watcher, entries in zip((one, two, three), read, strict=True)
            for entry in entries
            for full in (True, False)
        }
        assert len(messages) == 2
        assert log.encoder.encoded == [(1, True), (1, False)]
        assert log.encoder.loaded == [["A"]]


async def test_cards_are_there_for_whoever_comes_as_they_arrive(log: Log) -> None:
    """A reader that comes in the moment in which loading ends finds the cards, not just the end of the loading."""
    with log.hub.watch("shop") as one, log.hub.watch("shop") as two:
        for watcher in (one, two):
            await begin(log, watcher)
        await log.order("A", card_count=1)
        log.encoder.gate.clear()
        [entry], [same] = await one.read(), await two.read()
        assert same is entry
        loading = asyncio.create_task(one.load([entry]))
        await asyncio.sleep(0)
        assert entry.loading is not None
        log.encoder.gate.set()
        begun = entry.loading
        while not begun.done():  # noqa: ASYNC110 - the very turn of the loop is what matters
            await asyncio.sleep(0)
        await two.load([entry])
        assert two.message(entry, full=True)
        await loading


async def test_a_failure_to_load_cards_is_not_kept(log: Log) -> None:
    """Cards that couldn't be loaded are asked for again."""
    with log.hub.watch("shop") as watcher:
        await begin(log, watcher)
        await log.order("A", card_count=1)
        entries = await watcher.read()
        log.encoder.fail = True
        with pytest.raises(OSError, match="no key"):
            await watcher.load(entries)
        log.encoder.fail = False
        await watcher.load(entries)
        assert watcher.message(entries[0], full=True)


@pytest.mark.parametrize("kept", [0, 3])
async def test_what_was_pruned_before_it_was_read_is_told(log: Log, kept: int) -> None:
    """A reader whose next updates went, all of them or the oldest, hears of it instead of skipping them."""
    await log.change(await log.order("A"), 9)
    with log.hub.watch("shop") as watcher:
        await begin(log, watcher, after=2)
        await log.store.prune("shop", 1 << 60, 10 - kept)
        with pytest.raises(LogPruned):
            await watcher.read()


async def test_who_has_read_everything_minds_no_pruning(log: Log) -> None:
    """Pruning what a watcher has behind it changes nothing for it."""
    order = await log.change(await log.order("A"), 9)
    with log.hub.watch("shop") as watcher:
        await begin(log, watcher)
        await log.store.prune("shop", 1 << 60, 10)
        watcher.fall_behind()
        assert await watcher.read() == []
        await log.change(order)
        assert await everything(watcher, 11) == [11]


async def test_readers_of_the_past_share_what_they_read(log: Log) -> None:
    """A crowd that comes back with one token reads the log once and encodes once."""
    await log.change(await log.order("A"), 5)
    with log.hub.watch("shop") as one, log.hub.watch("shop") as two:
        await begin(log, one, after=0)
        await begin(log, two, after=0)
        for watcher in (one, two):
            for entry in await watcher.read():
                watcher.message(entry, full=False)
    assert log.reads == [0]
    assert len(log.encoder.encoded) == 6


async def test_what_others_read_is_only_the_beginning(log: Log) -> None:
    """What others have read is taken from the tail; the rest comes from the store."""
    await log.change(await log.order("A"), 149)
    with log.hub.watch("shop") as one, log.hub.watch("shop") as two:
        await begin(log, one, after=0)
        await one.read()
        await begin(log, two, after=95)
        assert await everything(two, 150) == list(range(96, 151))


async def test_nothing_is_kept_for_nobody(log: Log) -> None:
    """The tail of a client goes with its last watcher."""
    with log.hub.watch("shop", ["A"]), log.hub.watch("shop"):
        assert log.hub._tails
    assert not log.hub._tails


async def test_wait_for_returns_with_the_update_that_fulfils(log: Log) -> None:
    """Waiting ends with the first update that fulfils the condition."""
    with log.hub.watch("shop", client_order_ids=["co-A"]) as watcher:
        order = await log.order("A")
        await begin(log, watcher, after=1)
        waiting = asyncio.create_task(log.hub.wait_for(watcher, lambda o: o.state.is_terminal, 30))
        await log.change(await log.change(order), state=OrderState.FAILED)
        update = await waiting
        assert update is not None
        assert (update.position, update.order.state) == (3, OrderState.FAILED)


async def test_wait_for_gives_up_with_the_latest(log: Log) -> None:
    """When time is up, the latest update comes back, or nothing when there was none."""
    with log.hub.watch("shop", client_order_ids=["co-A"]) as watcher:
        order = await log.order("A")
        await begin(log, watcher)
        assert await log.hub.wait_for(watcher, lambda o: o.state.is_terminal, 0.01) is None
        await log.change(order)
        latest = await log.hub.wait_for(watcher, lambda o: o.state.is_terminal, 0.01)
        assert latest is not None
        assert latest.position == 2


async def test_drain_ends_waiting(log: Log) -> None:
    """Draining wakes everybody, and ends when all have left."""
    with log.hub.watch("shop") as watcher:
        await begin(log, watcher)
        waiting = asyncio.create_task(log.hub.wait_for(watcher, lambda _: False, 60))
        assert not await log.hub.drain(0.01)
        assert await waiting is None
    assert await log.hub.drain(60)
