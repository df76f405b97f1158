"""The hub: one tail per client, shared by everybody who watches that client's log.

The store carries the truth, the hub carries hints. A watcher reads the log from its own position; a hint tells it that
there is something to read, and usually saves the reading because the tail still holds the update. A hint that is lost
or dropped costs a look into the store, never an update.

What keeps it cheap: watchers are indexed by what they select, so an update touches those that want it and no others;
an update is encoded at most once per view, whoever sends it; what waits for a slow reader is a bounded list of numbers.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TypeAlias

from reward_adapters.contract import Card
from reward_server.domain.order import Order
from reward_server.store import Head, Store, Update

TAIL_UPDATES = 512
"""Updates kept per watched client: some seconds of a busy client, a few megabytes."""
PENDING_UPDATES = 256
"""Hints kept per watcher; a reader further behind reads the log instead."""
PAGE_UPDATES = 100
"""Updates read from the log at once."""


@dataclass(frozen=True, slots=True)
class ErasedCard:
    """What is left of a card whose contents were erased."""

    at: int
    """When, milliseconds."""


@dataclass(frozen=True, slots=True)
class ClosedCard:
    """A card that is stored and doesn't open: its key is gone, or it was changed. The log says which."""


Cards: TypeAlias = Sequence[tuple[int, Card | ErasedCard | ClosedCard]]
"""Cards of an order with their places in it."""


def shown(cards: Cards) -> int:
    """How many of them there is something to see of."""
    return sum(not isinstance(card, ErasedCard | ClosedCard) for _, card in cards)


class LogPruned(Exception):
    """The log lost its oldest updates while a watcher was still reading them."""


class Encoder(Protocol):
    """Makes the bytes that streams send."""

    async def cards(self, orders: Sequence[Order]) -> list[Cards]:
        """The opened cards of each order, as of its version."""

    def encode(self, update: Update, cards: Cards, *, epoch: int, full: bool) -> bytes:
        """The message for an update of the log of that epoch, with its cards in full or masked."""


class Entry:
    """An update, and what was made of it for all who send it."""

    __slots__ = ("cards", "loading", "messages", "update")

    def __init__(self, update: Update) -> None:
        self.update = update
        self.cards: Cards | None = None if update.order.card_count else ()
        self.loading: asyncio.Future[None] | None = None
        self.messages: list[bytes | None] = [None, None]


class Tail:
    """The latest updates of one client, and who watches for which of its orders."""

    __slots__ = (
        "_latest",
        "_replayed",
        "_size",
        "beginning",
        "epoch",
        "everything",
        "of_client_order",
        "of_order",
        "position",
    )

    def __init__(self, size: int) -> None:
        self.epoch = 0
        self.position: int | None = None
        """The last position we heard of; None as long as we know nothing of the log."""
        self.beginning = 0
        """What we heard of begins behind this position."""
        self.everything: set[Watcher] = set()
        self.of_order: dict[str, set[Watcher]] = {}
        self.of_client_order: dict[str, set[Watcher]] = {}
        self._size = size
        self._latest: dict[int, Entry] = {}
        # What readers far behind read again has a place of its own, so that it can't push out the latest.
        self._replayed: dict[int, Entry] = {}

    def begin(self, position: int) -> None:
        """Notes how long the log was, if we have heard of nothing yet: what is lost from now on leaves a hole."""
        if self.position is None:
            self.position = self.beginning = position

    def add(self, update: Update) -> None:
        """Takes an update that was just committed and hints at it."""
        self.begin(update.position - 1)
        if self.position is None or update.position <= self.position:
            return
        missed = update.position != self.position + 1
        self.position = update.position
        self._keep(self._latest, Entry(update))
        if missed:
            for watcher in self.watchers():
                watcher.fall_behind()
            return
        order = update.order
        for watcher in self.everything:
            watcher.hint(update.position)
        for watcher in self.of_order.get(order.order_id, ()):
            watcher.hint(update.position)
        for watcher in self.of_client_order.get(order.client_order_id, ()):
            watcher.hint(update.position)

    def entry(self, position: int) -> Entry | None:
        """The update at a position, if it is still here."""
        return self._latest.get(position) or self._replayed.get(position)

    def replay(self, update: Update) -> Entry:
        """The entry for an update that was read from the log."""
        entry = self.entry(update.position)
        if entry is None:
            entry = Entry(update)
            self._keep(self._replayed, entry)
        return entry

    def after(self, position: int, limit: int) -> list[Entry]:
        """The unbroken run of updates after a position that is still here."""
        run: list[Entry] = []
        while len(run) < limit:
            entry = self.entry(position + len(run) + 1)
            if entry is None:
                break
            run.append(entry)
        return run

    def forget_cards(self) -> None:
        """Has cards loaded anew; who is sending them at this moment keeps what it has."""
        for where in (self._latest, self._replayed):
            for position, entry in where.items():
                if entry.update.order.card_count:
                    where[position] = Entry(entry.update)

    def watchers(self) -> set["Watcher"]:
        """Everybody who watches this client."""
        return self.everything.union(*self.of_order.values(), *self.of_client_order.values())

    def _keep(self, where: dict[int, Entry], entry: Entry) -> None:
        where[entry.update.position] = entry
        if len(where) > self._size:
            del where[next(iter(where))]


class Watcher:
    """One reader of a client's log, from the moment it is entered to the moment it is left.

    First watch, then read where the log stands, then `start`: what is committed in between is hinted at.
    """

    __slots__ = (
        "_behind",
        "_changed",
        "_head",
        "_hub",
        "_pending",
        "_tail",
        "client_id",
        "client_order_ids",
        "order_ids",
        "position",
    )

    def __init__(self, hub: "Hub", client_id: str, order_ids: frozenset[str], client_order_ids: frozenset[str]) -> None:
        self.client_id = client_id
        self.order_ids = order_ids
        self.client_order_ids = client_order_ids
        self.position = 0
        """Everything up to here was searched."""
        self._hub = hub
        self._tail: Tail | None = None
        self._changed = asyncio.Event()
        self._head = 0
        """Where the log ended when we started, at least."""
        self._pending: list[int] = []
        self._behind = False

    def __enter__(self) -> "Watcher":
        self._tail = self._hub.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hub.leave(self)
        self._tail = None

    def start(self, position: int, head: Head) -> None:
        """Begins after `position`; `head` was read after this watcher was entered."""
        tail = self._entered()
        tail.epoch = head.epoch
        tail.begin(head.position)
        # Somebody else may have found a longer log at the same time: no hint will come for what is between.
        self._head = max(head.position, tail.beginning)
        self.position = position
        if position < self._head:
            self.fall_behind()

    def wants(self, order: Order) -> bool:
        """Whether the order is selected."""
        if not self.order_ids and not self.client_order_ids:
            return True
        return order.order_id in self.order_ids or order.client_order_id in self.client_order_ids

    @property
    def lag(self) -> int:
        """How many updates it hasn't gone through; of those whose hints were dropped also what it doesn't want."""
        if self._tail is None:
            return 0
        if self._behind:
            return max(0, max(self._head, self._tail.position or 0) - self.position)
        return len(self._pending)

    def hint(self, position: int) -> None:
        """There is an update at that position."""
        # An order may be selected by both of its ids.
        if not self._behind and not (self._pending and self._pending[-1] == position):
            self._pending.append(position)
            if len(self._pending) > self._hub.pending_limit:
                self.fall_behind()
        self._changed.set()

    def fall_behind(self) -> None:
        """Hints don't suffice: the log must be read."""
        self._behind = True
        self._pending.clear()
        self._changed.set()

    def wake(self) -> None:
        """Ends the current `wait`."""
        self._changed.set()

    async def wait(self) -> None:
        """Waits until there may be something to read."""
        await self._changed.wait()

    async def read(self) -> list[Entry]:
        """The next selected updates, oldest first; `position` then stands behind everything that was searched.

        Raises LogPruned.
        """
        self._changed.clear()
        if not self._behind:
            entries = self._take_pending()
            if entries is not None:
                return entries
        return await self._read_log()

    async def load(self, entries: Iterable[Entry]) -> None:
        """Loads the cards of updates, each once however many readers ask."""
        missing = [entry for entry in entries if entry.cards is None]
        fresh = [entry for entry in missing if entry.loading is None]
        if fresh:
            # A task of its own: the reader that began it may go away while others wait for it.
            loading = asyncio.ensure_future(_load(self._hub.encoder, fresh))
            for entry in fresh:
                entry.loading = loading
            loading.add_done_callback(_noted)
        for begun in {entry.loading for entry in missing if entry.loading is not None}:
            await asyncio.shield(begun)

    def message(self, entry: Entry, *, full: bool) -> bytes:
        """The encoded update; its cards must have been loaded."""
        message = entry.messages[full]
        if message is None:
            if entry.cards is None:
                raise RuntimeError("the cards of an update are loaded before it is encoded")
            message = self._hub.encoder.encode(entry.update, entry.cards, epoch=self._entered().epoch, full=full)
            entry.messages[full] = message
        return message

    def _take_pending(self) -> list[Entry] | None:
        tail = self._entered()
        pending, self._pending = self._pending, []
        entries: list[Entry] = []
        for position in pending:
            if position > self.position:
                entry = tail.entry(position)
                if entry is None:
                    return None
                entries.append(entry)
        # Whoever isn't behind has heard of everything the tail has, and wanted no more than this.
        if tail.position is not None and tail.position > self.position:
            self.position = tail.position
        return entries

    async def _read_log(self) -> list[Entry]:
        # Cleared before reading: what is committed while we read is hinted at anew.
        self._behind = False
        self._pending.clear()
        tail = self._entered()
        page = tail.after(self.position, PAGE_UPDATES)
        if page:
            # Later positions than the tail's own are still to be hinted at.
            more = tail.position is None or page[-1].update.position < tail.position
        else:
            newest = max(self._head, tail.position or 0)
            updates = await self._hub.store.updates(self.client_id, self.position, PAGE_UPDATES)
            # Nothing at all where there was something is a log that was pruned to its end.
            if (updates[0].position != self.position + 1) if updates else (newest > self.position):
                raise LogPruned
            page = [tail.replay(update) for update in updates]
            more = len(page) == PAGE_UPDATES
        if page:
            self.position = page[-1].update.position
        if more:
            self.fall_behind()
        return [entry for entry in page if self.wants(entry.update.order)]

    def _entered(self) -> Tail:
        if self._tail is None:
            raise RuntimeError("a watcher reads between entering and leaving only")
        return self._tail


class Hub:
    """All tails. Belongs to one event loop."""

    def __init__(
        self,
        store: Store,
        encoder: Encoder,
        *,
        tail_updates: int = TAIL_UPDATES,
        pending_updates: int = PENDING_UPDATES,
    ) -> None:
        self.store = store
        self.pending_limit = pending_updates
        self.draining = False
        """Whether everybody who watches shall come to an end."""
        self.encoder = encoder
        self._tail_updates = tail_updates
        self._tails: dict[str, Tail] = {}
        self._watching = 0
        self._nobody = asyncio.Event()
        self._nobody.set()
        store.listen(self._on_updates)

    def watch(self, client_id: str, order_ids: Iterable[str] = (), client_order_ids: Iterable[str] = ()) -> Watcher:
        """A watcher of these orders, or of all of the client's; to be entered with `with`."""
        return Watcher(self, client_id, frozenset(order_ids), frozenset(client_order_ids))

    async def wait_for(self, watcher: Watcher, fulfilled: Callable[[Order], bool], timeout: float) -> Update | None:
        """Waits until an update of the watched orders fulfils a condition, or for `timeout` seconds.

        Returns the last update that came, whether or not it fulfils; None when none came.
        """
        latest: Update | None = None
        try:
            async with asyncio.timeout(timeout):
                while not self.draining:
                    for entry in await watcher.read():
                        latest = entry.update
                        if fulfilled(latest.order):
                            return latest
                    await watcher.wait()
        except (TimeoutError, LogPruned):
            pass
        return latest

    def lag(self) -> int:
        """How many updates the reader furthest behind hasn't gone through."""
        return max((watcher.lag for tail in self._tails.values() for watcher in tail.watchers()), default=0)

    def forget_cards(self) -> None:
        """What was loaded may be erased by now, by whatever process: from here on it is loaded anew."""
        for tail in self._tails.values():
            tail.forget_cards()

    def send_away(self, away: bool) -> None:
        """Whether whoever watches shall go elsewhere for now: streams end with their tokens, none begins."""
        self.draining = away
        if away:
            self._wake_all()

    def _wake_all(self) -> None:
        for tail in self._tails.values():
            for watcher in tail.watchers():
                watcher.wake()

    async def drain(self, timeout: float) -> bool:
        """Tells everybody who watches to come to an end; False when some still haven't after `timeout` seconds."""
        self.draining = True
        self._wake_all()
        try:
            async with asyncio.timeout(timeout):
                await self._nobody.wait()
        except TimeoutError:
            return False
        return True

    def enter(self, watcher: Watcher) -> Tail:
        """Adds a watcher."""
        tail = self._tails.get(watcher.client_id)
        if tail is None:
            tail = self._tails[watcher.client_id] = Tail(self._tail_updates)
            self.store.follow(watcher.client_id)
        for order_id in watcher.order_ids:
            tail.of_order.setdefault(order_id, set()).add(watcher)
        for client_order_id in watcher.client_order_ids:
            tail.of_client_order.setdefault(client_order_id, set()).add(watcher)
        if not watcher.order_ids and not watcher.client_order_ids:
            tail.everything.add(watcher)
        self._watching += 1
        self._nobody.clear()
        return tail

    def leave(self, watcher: Watcher) -> None:
        """Removes a watcher; the last one takes the client's tail along."""
        tail = self._tails[watcher.client_id]
        tail.everything.discard(watcher)
        for index, keys in ((tail.of_order, watcher.order_ids), (tail.of_client_order, watcher.client_order_ids)):
            for key in keys:
                index[key].discard(watcher)
                if not index[key]:
                    del index[key]
        if not (tail.everything or tail.of_order or tail.of_client_order):
            del self._tails[watcher.client_id]
            self.store.unfollow(watcher.client_id)
        self._watching -= 1
        if not self._watching:
            self._nobody.set()

    def _on_updates(self, updates: Sequence[Update]) -> None:
        for update in updates:
            tail = self._tails.get(update.client_id)
            if tail is not None:
                tail.add(update)


async def _load(encoder: Encoder, entries: list[Entry]) -> None:
    # The cards are there before the task is done: whoever finds it done doesn't wait for anything any more.
    try:
        loaded = await encoder.cards([entry.update.order for entry in entries])
        for entry, cards in zip(entries, loaded, strict=True):
            entry.cards = cards
    finally:
        # After a failure the next reader tries again.
        for entry in entries:
            entry.loading = None


def _noted(loading: asyncio.Future[None]) -> None:
    # Those who wait are told of a failure; when they have all left, nobody needs to be.
    if not loading.cancelled():
        loading.exception()
