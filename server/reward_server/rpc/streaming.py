"""One stream of order updates, from its first message to its end."""

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import time_ns
from typing import Any, Protocol

import grpc.aio

from reward_server.domain.order import Order
from reward_server.errors import OrderNotFound, ReaderTooSlow, ResumeTokenExpired, ServerDraining
from reward_server.hub import Entry, Hub, LogPruned, Watcher, shown
from reward_server.metrics import StreamEnd
from reward_server.resume import Tokens
from reward_server.rpc.cards import CardReader
from reward_server.rpc.messages import stream_heartbeat, stream_snapshot, stream_snapshot_end
from reward_server.rpc.ports import Audit, Count, RpcMetrics
from reward_server.rpc.validation import Selector, Start, StreamRequest
from reward_server.store import Head, SnapshotQuery, Store, StoreUnavailable
from reward_server.tracing import current_rpc

SNAPSHOT_PAGE = 100
STALL_SECONDS = 60.0
"""One write blocked for so long ends the stream."""
RETRY_SECONDS = (0.2, 2.0)
"""Clients of a draining server come back spread over this time, not all at once."""
SPREAD = 0.2
"""The share of `stream_seconds` by which streams end earlier than others: those that began together don't end so."""
BEAT_SECONDS = 0.25
"""Heartbeats are up to so much late, so that those of thousands of silent streams share one timer."""
AUDIT_SECONDS = 60.0
"""Between two entries of the audit for what one stream has shown."""
NAMED_ORDERS = 10
"""Selected orders that such an entry names."""
BEATS_AT_ONCE = 100
"""Streams woken before others have their turn: some milliseconds of work, also when all came back at once."""


class Timed(Protocol):
    """Somebody whose time comes again and again."""

    slot: int
    """Where `Beats` keeps it."""

    def look(self, now: float) -> float | None:
        """Does what is due; says when to look again, if at all."""


class Beats:
    """Tells streams when their time has come, with one timer for all of them.

    Whoever is due within the same quarter of a second is told together; between these moments nothing runs. Belongs
    to one event loop.
    """

    __slots__ = ("_due", "_slots", "_timer", "_timer_slot")

    def __init__(self) -> None:
        self._slots: dict[int, set[Timed]] = {}
        """Who is due by the end of which quarter of a second of the loop's time: at most 240 of them."""
        self._due: deque[Timed] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_slot = 0

    def add(self, stream: Timed, when: float) -> None:
        """Calls `stream.look` at a time of the loop or up to BEAT_SECONDS later, and again as it answers."""
        slot = stream.slot = math.ceil(when / BEAT_SECONDS)
        self._slots.setdefault(slot, set()).add(stream)
        if self._timer is None or slot < self._timer_slot:
            self._arm(slot)

    def discard(self, stream: Timed) -> None:
        """Forgets a stream that has ended; one that is about to be told must know by itself."""
        slot = self._slots.get(stream.slot)
        if slot is not None:
            slot.discard(stream)
            if not slot:
                del self._slots[stream.slot]

    def _arm(self, slot: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_slot = slot
        self._timer = asyncio.get_running_loop().call_at(slot * BEAT_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        idle = not self._due
        for slot in [slot for slot in self._slots if slot * BEAT_SECONDS <= now]:
            self._due.extend(self._slots.pop(slot))
        if self._due and idle:
            self._tell()
        if self._slots and self._timer is None:
            self._arm(min(self._slots))

    def _tell(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for _ in range(min(len(self._due), BEATS_AT_ONCE)):
            stream = self._due.popleft()
            again = stream.look(now)
            if again is not None:
                self.add(stream, again)
        if self._due:
            loop.call_soon(self._tell)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamParts:
    """What every stream uses."""

    store: Store
    hub: Hub
    tokens: Tokens
    cards: CardReader
    audit: Audit
    metrics: RpcMetrics
    now_ms: Callable[[], int]
    stall_seconds: float = STALL_SECONDS
    audit_seconds: float = AUDIT_SECONDS
    stream_seconds: float = math.inf
    """The server ends a stream after so long, some earlier: its client goes on over another connection."""
    beats: Beats = field(default_factory=Beats)


class _Stalled(Exception):
    """A write was blocked for too long."""


class _Writer:
    """Writes to one reader, notices silence and a blocked write.

    A busy stream pays one assignment per message for it: how long it was silent is looked at only now and then.
    """

    __slots__ = (
        "_beats",
        "_closed",
        "_context",
        "_heartbeat",
        "_loop",
        "_sent",
        "_stall",
        "_stalled",
        "_task",
        "_wake",
        "_writing",
        "_written",
        "slot",
    )

    def __init__(
        self,
        context: grpc.aio.ServicerContext[Any, bytes],
        beats: Beats,
        *,
        heartbeat: float,
        stall: float,
        wake: Callable[[], None],
        sent: Count,
    ) -> None:
        self.slot = 0
        """Where `Beats` keeps it."""
        self._context = context
        self._beats = beats
        self._heartbeat = heartbeat
        self._stall = stall
        self._wake = wake
        self._sent = sent
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._written = self._loop.time()
        self._writing: float | None = None
        self._stalled = False
        self._closed = False
        beats.add(self, self._written + min(heartbeat, stall))

    @property
    def is_silent(self) -> bool:
        """Whether a heartbeat is due."""
        return self._loop.time() - self._written >= self._heartbeat

    async def write(self, messages: Iterable[bytes]) -> None:
        """Writes one message after the other; waits while the reader's window is full. Raises _Stalled.

        A message is taken from `messages` once the one before it was written.
        """
        write, now, count = self._context.write, self._loop.time, 0
        try:
            for message in messages:
                self._writing = now()
                await write(message)
                count += 1
        except asyncio.CancelledError:
            if not self._stalled or self._task is None:
                raise
            self._task.uncancel()
            raise _Stalled from None
        finally:
            self._writing = None
            if count:
                self._written = now()
                self._sent.inc(count)

    def close(self) -> None:
        """Stops watching the time."""
        self._closed = True
        self._beats.discard(self)

    def look(self, now: float) -> float | None:
        """Wakes a stream that owes a heartbeat, ends one whose write is stuck; says when to look again, if at all."""
        if self._closed:
            return None
        if self._writing is not None:
            again = self._writing + self._stall
            if now >= again and self._task is not None:
                self._stalled = True
                self._task.cancel()
                return None
        else:
            again = self._written + self._heartbeat
            if now >= again:
                self._wake()
                again = now + self._heartbeat
        return min(again, now + self._stall)


class _Remaining:
    """Which of the named orders are not terminal yet."""

    def __init__(self, selector: Selector) -> None:
        self._ours = frozenset(selector.order_ids)
        self._theirs = frozenset(selector.client_order_ids)
        self._open = {("ours", order_id) for order_id in self._ours}
        self._open |= {("theirs", client_order_id) for client_order_id in self._theirs}

    def saw(self, order: Order) -> None:
        """Notes where an order stands; an operator's decision may open one again."""
        names = {("ours", order.order_id)} if order.order_id in self._ours else set()
        if order.client_order_id in self._theirs:
            names.add(("theirs", order.client_order_id))
        if order.state.is_terminal:
            self._open -= names
        else:
            self._open |= names

    @property
    def none(self) -> bool:
        """Whether all are terminal."""
        return not self._open


class _Shown:
    """What a stream in view FULL has shown since its last entry in the audit.

    An entry begins where the one before it ended: what lies between them was nothing to see.
    """

    __slots__ = ("_audit", "_cards", "_client_id", "_due", "_first", "_how", "_last", "_now", "_seconds")

    def __init__(self, audit: Audit, client_id: str, how: str, now: Callable[[], float], seconds: float) -> None:
        self._audit = audit
        self._client_id = client_id
        self._how = how
        self._now = now
        self._seconds = seconds
        self._first, self._last, self._cards = 0, 0, 0
        self._due = now() + seconds

    def begin(self, position: int) -> None:
        """Notes that everything up to a position isn't shown. Raises StoreUnavailable as `check`."""
        self.check()
        self._first, self._last = position + 1, position

    def check(self) -> None:
        """Raises StoreUnavailable when nothing may be shown: what was shown a minute ago isn't written down yet."""
        if self._audit.behind:
            raise StoreUnavailable("the audit can't be written: streams show no cards until it can")

    def add(self, position: int, cards: int) -> None:
        """Takes an update that is about to be written."""
        self.look()
        self._last = position
        self._cards += cards

    def add_snapshot(self, head: int, cards: int) -> None:
        """Takes orders as of the head that are about to be written."""
        self.look()
        self._first, self._last = 0, head
        self._cards += cards

    def look(self) -> None:
        """Writes an entry if a minute is over."""
        if self._now() >= self._due:
            self.end()

    def end(self) -> None:
        """Writes an entry, if cards were shown."""
        if self._cards:
            positions = (self._first, self._last)
            entry = self._audit.streamed(self._client_id, how=self._how, cards=self._cards, positions=positions)
            self._audit.note(entry)
            self._first, self._cards = self._last + 1, 0
        self._due = self._now() + self._seconds


class UpdateStream:
    """One call of StreamOrderUpdates."""

    def __init__(
        self,
        parts: StreamParts,
        client_id: str,
        request: StreamRequest,
        context: grpc.aio.ServicerContext[Any, bytes],
        *,
        call: str = "StreamOrderUpdates",
    ) -> None:
        """`call` is how the audit names it."""
        self._parts = parts
        self._client_id = client_id
        self._request = request
        self._context = context
        self._remaining = _Remaining(request.selector) if request.until_terminal else None
        self._head = Head(0, 0, 0)
        self._loop = asyncio.get_running_loop()
        how = call + _selected(request.selector)
        self._shown = (
            _Shown(parts.audit, client_id, how, self._loop.time, parts.audit_seconds) if request.full else None
        )
        self._ends_at = self._loop.time() + parts.stream_seconds * random.uniform(1 - SPREAD, 1)
        """Looked at whenever something is written, a heartbeat at the latest."""
        self._position = 0
        """Everything up to here was written or left out by the selector: where the reader may continue."""
        self._has_place = request.start is not Start.SNAPSHOT
        """Whether it may: not inside of a snapshot."""

    async def run(self) -> None:
        """Streams until the reader goes, or all named orders are terminal, or the server drains or ends it.

        Raises RewardError.
        """
        request, parts = self._request, self._parts
        if parts.hub.draining:
            raise _draining()
        with parts.hub.watch(self._client_id, request.selector.order_ids, request.selector.client_order_ids) as watcher:
            self._head = await parts.store.head(self._client_id)
            await check_orders(parts.store, self._client_id, request.selector)
            self._position = self._first_position()
            if self._shown is not None:
                self._shown.begin(self._position)
            watcher.start(self._position, self._head)
            writer = _Writer(
                self._context,
                parts.beats,
                heartbeat=request.heartbeat,
                stall=parts.stall_seconds,
                wake=watcher.wake,
                sent=parts.metrics.stream_messages,
            )
            parts.metrics.streams.inc()
            end = StreamEnd.FAILED
            try:
                await self._begin(writer)
                await self._follow(watcher, writer)
                end = StreamEnd.COMPLETE
            except (asyncio.CancelledError, grpc.aio.BaseError):
                end = StreamEnd.CANCELLED
                raise
            except ServerDraining:
                end = StreamEnd.DRAINING if parts.hub.draining else StreamEnd.AGED
                raise
            except _Stalled:
                end = StreamEnd.TOO_SLOW
                # A snapshot that was cut off has no place to continue at: what is left of it stands before the head.
                raise ReaderTooSlow(self._token() if self._has_place else "") from None
            except LogPruned:
                end = StreamEnd.LOG_PRUNED
                head = await parts.store.head(self._client_id)
                raise ResumeTokenExpired(parts.tokens.oldest(self._client_id, head)) from None
            finally:
                writer.close()
                parts.metrics.streams.dec()
                parts.metrics.stream_ended(end)
                if self._shown is not None:
                    self._shown.end()

    def _first_position(self) -> int:
        if self._request.start is Start.AFTER:
            return self._parts.tokens.position(self._client_id, self._request.resume_token, self._head)
        return self._head.position

    async def _begin(self, writer: _Writer) -> None:
        """The first messages: the snapshot, or a heartbeat at once."""
        if self._request.start is Start.SNAPSHOT:
            async for page in self._pages():
                if self._parts.hub.draining:
                    # Half a snapshot has no place to continue at, so there is no last token either.
                    raise _draining()
                cards = await self._parts.cards.read(page)
                pairs = zip(page, cards, strict=True)
                full = self._request.full
                if self._shown is not None:
                    self._shown.add_snapshot(self._head.position, sum(map(shown, cards)))
                await writer.write(stream_snapshot(order, its_cards, full=full) for order, its_cards in pairs)
            await writer.write([stream_snapshot_end(self._token())])
            self._has_place = True
        else:
            await self._beat(writer)
            if self._remaining is not None:
                async for _ in self._pages():
                    pass

    async def _pages(self) -> AsyncIterator[list[Order]]:
        """The selected orders as of the head. What changed since leaves the set: the log brings it."""
        selector = self._request.selector
        after = ""
        while True:
            page = await self._parts.store.snapshot(
                SnapshotQuery(
                    client_id=self._client_id,
                    up_to=self._head.position,
                    after_order_id=after,
                    limit=SNAPSHOT_PAGE,
                    order_ids=None if selector.is_all else frozenset(selector.order_ids),
                    client_order_ids=None if selector.is_all else frozenset(selector.client_order_ids),
                )
            )
            if self._remaining is not None:
                for order in page:
                    self._remaining.saw(order)
            if page:
                yield page
            if len(page) < SNAPSHOT_PAGE:
                return
            after = page[-1].order_id

    async def _follow(self, watcher: Watcher, writer: _Writer) -> None:
        while True:
            entries = await watcher.read()
            if entries:
                await watcher.load(entries)
                await writer.write(self._messages(watcher, entries))
                if entries[0].update.position > self._head.position:
                    # Older ones waited for their reader to come back.
                    self._parts.metrics.stream_delayed(self._parts.now_ms() - entries[0].update.order.updated_at)
            else:
                # Writing gives way to others, searching doesn't: a store in this process answers at once.
                await asyncio.sleep(0)
            self._position = watcher.position
            if self._is_complete:
                return
            if self._parts.hub.draining or self._loop.time() >= self._ends_at:
                await self._beat(writer)
                raise _draining()
            if self._shown is not None:
                self._shown.look()
                self._shown.check()
            if writer.is_silent:
                await self._beat(writer)
            await watcher.wait()

    def _messages(self, watcher: Watcher, entries: Iterable[Entry]) -> Iterator[bytes]:
        span = current_rpc()
        for entry in entries:
            if self._shown is not None:
                self._shown.add(entry.update.position, shown(entry.cards or ()))
            began = 0 if span is None else time_ns()
            try:
                yield watcher.message(entry, full=self._request.full)
            finally:
                # A reader that has it may leave before we hear that it was written.
                if span is not None:
                    span.pushed(entry.update, began)
            # We come back here once it was written.
            self._position = entry.update.position
            if self._remaining is not None:
                # Updates up to the head are older than what `_pages` saw.
                if entry.update.position > self._head.position:
                    self._remaining.saw(entry.update.order)
                if self._is_complete:
                    return

    @property
    def _is_complete(self) -> bool:
        return self._remaining is not None and self._remaining.none and self._position >= self._head.position

    async def _beat(self, writer: _Writer) -> None:
        await writer.write([stream_heartbeat(self._token(), self._parts.now_ms())])

    def _token(self) -> str:
        return self._parts.tokens.resume_token(self._client_id, self._head.epoch, self._position)


def _selected(selector: Selector) -> str:
    if selector.is_all:
        return ""
    names = [*selector.order_ids, *selector.client_order_ids]
    more = "…" if len(names) > NAMED_ORDERS else ""
    return f", of {len(names)} orders: {', '.join(names[:NAMED_ORDERS])}{more}"


async def check_orders(store: Store, client_id: str, selector: Selector) -> None:
    """Raises OrderNotFound when a named order isn't one of the client's. Client order ids may be unknown yet."""
    if selector.order_ids:
        known = await store.known_order_ids(client_id, selector.order_ids)
        for order_id in selector.order_ids:
            if order_id not in known:
                raise OrderNotFound(order_id)


def _draining() -> ServerDraining:
    return ServerDraining(random.uniform(*RETRY_SECONDS))
