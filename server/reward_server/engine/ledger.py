"""The one writer of changes: loads an order, lets the domain move it, stores what came of it, and says so.

Everything that happens to a purchase comes through `apply`: from dispatch, looks, callbacks and recovery alike; what
an operator decides comes through `decide`, with its record in the same commit. A write is conditional on the revision
it was made from; who loses the race reads again and applies the same evidence to what is there now. So evidence counts
whoever holds it, and two changes can't overwrite each other.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakValueDictionary

import structlog

from reward_adapters.contract import Unclear
from reward_server import probes
from reward_server.clock import Clock
from reward_server.domain import moves
from reward_server.domain.copies import replace
from reward_server.domain.moves import Alert, AlertKind, Circumstances, Event, NewCard, Step
from reward_server.domain.order import Order, OrderState, PurchaseRecord, PurchaseState, Source
from reward_server.engine.waits import Waits
from reward_server.errors import OrderNotCancellable
from reward_server.metrics import Metrics
from reward_server.sealing import ClientSealer, Vault
from reward_server.store import (
    AuditEntry,
    Change,
    Created,
    KeptAnswer,
    PurchaseKey,
    SealedCard,
    Store,
    StoreUnavailable,
)
from reward_server.store.quotas import NO_QUOTA, Quota

log = structlog.get_logger(__name__)

CACHED_ORDERS = 20_000
"""Orders kept in memory (about 3 KB each) so that the answer of a supplier needs no read before its write."""

FRESH_SECONDS = 2.0
"""How long an order in memory is good for where other processes may change it: from an intention to its answer, mostly.
Nothing rests on it: a write that was made from an older state loses, and starts over from what is stored."""

SPEAKS_AGAINST_DELIVERY = frozenset({AlertKind.CONTRADICTION, AlertKind.DISPUTED, AlertKind.REVERSED})

FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One event of one purchase, and where it came from."""

    number: str
    event: Event
    source: Source
    written_until: int | None = None
    """Milliseconds; see `moves.Circumstances`."""
    asked_at: int | None = None
    """Milliseconds; when a look was begun."""
    send: int = 0
    """Which of the purchase's requests this answers, or is about; see `moves.Circumstances`."""
    raw: bytes | None = field(default=None, repr=False)
    """The supplier's answer, to be kept (sealed) if it leaves a doubt."""


class OrderGone(Exception):
    """The store has no such order; it was there when its purchase was found."""


class Ledger:
    """Loads, changes and stores orders."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        metrics: Metrics,
        watch_ms: Callable[[str], int],
    ) -> None:
        """`watch_ms` tells for an account how long after delivery something may still become of a purchase there."""
        self._store = store
        self._vault = vault
        self._clock = clock
        self._new_id = new_id
        self._metrics = metrics
        self._watch_ms = watch_ms
        self._shared = store.lease_seconds is not None
        self._orders: OrderedDict[str, Order] = OrderedDict()
        self._remembered: dict[str, float] = {}
        """Since when each is in memory, where the store is shared."""
        self.owner = new_id()
        """The name under which this process sends; another one when its lease was lost."""
        self._listeners: list[Callable[[Order], None]] = []
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.waits = Waits(clock)
        """Why what waits wasn't sent yet: stored with the intention to send it."""

    def listen(self, listener: Callable[[Order], None]) -> None:
        """Adds a listener, called after every stored change."""
        self._listeners.append(listener)

    async def create(self, order: Order, quota: Quota = NO_QUOTA) -> Created:
        """Stores a new order, or finds the one that has its client_order_id. Raises LimitReached or StoreError."""
        probes.probe("create.storing")
        created = await self._store.create(order, quota)
        probes.probe("create.stored")
        if not created.existed:
            self._remember(created.order)
            self._metrics.order_moved(None, created.order.state)
            recipient = {"recipient": order.recipient.masked()} if order.recipient else {}
            log.info(
                "order created",
                product=order.product_id,
                quantity=order.quantity,
                supplier=order.offers[0].account,
                **recipient,
                order_id=order.order_id,
                client=order.client_id,
                client_order_id=order.client_order_id,
            )
            self._tell(created.order)
        return created

    async def load(self, key: PurchaseKey) -> Order:
        """The order of a purchase, as last stored. Raises OrderGone."""
        return await self._load(key.client_id, key.order_id)

    async def _load(self, client_id: str, order_id: str) -> Order:
        cached = self._orders.get(order_id)
        if cached is not None and self._is_fresh(order_id):
            return cached
        order = await self._store.order(client_id, order_id)
        if order is None:
            raise OrderGone(order_id)
        self._remember(order)
        return order

    def _is_fresh(self, order_id: str) -> bool:
        return not self._shared or self._clock.monotonic() < self._remembered[order_id] + FRESH_SECONDS

    def _forget(self, order_id: str) -> None:
        self._orders.pop(order_id, None)
        self._remembered.pop(order_id, None)

    async def intend(self, key: PurchaseKey) -> Order | None:
        """Stores the intention to send; None when the purchase isn't waiting any more. Raises StoreUnavailable."""
        async with self._turn(key.order_id):
            return await self._intend(key)

    def _turn(self, order_id: str) -> asyncio.Lock:
        """Changes of one order take turns: a hundred purchases of it would else make each other start over."""
        return self._turns.setdefault(order_id, asyncio.Lock())

    async def _intend(self, key: PurchaseKey) -> Order | None:
        while True:
            order = await self.load(key)
            if order.purchase(key.number) not in moves.sendable(order):
                return None
            since, why = self.waits.told(key.number)
            intended = moves.intend(
                order, key.number, owner=self.owner, at=self._clock.now_ms(), waited_since=since, waited_for=why
            )
            probes.probe("intend.storing")
            if await self._store.save(Change(order=intended, visible=False, fenced=True)):
                probes.probe("intend.stored")
                self.waits.end(key.number)
                self._remember(intended)
                return intended
            # Another purchase of the same order moved meanwhile; that is no reason to wait for its end.
            self._forget(key.order_id)

    async def note(self, key: PurchaseKey, note: Callable[[Order], Order], *, fenced: bool = False) -> Order:
        """Stores what is noted of a purchase; a note that returns the same order is no news. Raises StoreUnavailable.

        `fenced`: what is noted is that a request is about to go out; only a process whose lease holds may.

        Listeners hear of it only where the client does: when it changed what the client sees.
        """
        async with self._turn(key.order_id):
            while True:
                order = await self.load(key)
                noted = note(order)
                if noted is order:
                    return order
                visible = noted.version > order.version
                probes.probe("note.storing")
                if await self._store.save(Change(order=noted, visible=visible, fenced=fenced)):
                    probes.probe("note.stored")
                    self._remember(noted)
                    if visible:
                        self._metrics.order_moved(order.state, noted.state)
                        self._tell(noted)
                    return noted
                self._forget(key.order_id)

    async def request_cancel(self, client_id: str, order_id: str) -> Order:
        """Stores the client's wish to cancel, once. Raises OrderNotCancellable, OrderGone or StoreUnavailable."""
        async with self._turn(order_id):
            self._look_again(order_id)
            return await self._request_cancel(client_id, order_id)

    def _look_again(self, order_id: str) -> None:
        """What people are told must not rest on what another process may have changed since."""
        if self._shared:
            self._forget(order_id)

    async def _request_cancel(self, client_id: str, order_id: str) -> Order:
        while True:
            order = await self._load(client_id, order_id)
            if order.state.is_terminal and order.state is not OrderState.CANCELLED:
                raise OrderNotCancellable(order_id, order.state)
            step = moves.request_cancel(order, at=self._clock.now_ms())
            if order.state is OrderState.CANCELLED or not step.news:
                return order
            probes.probe("cancel.storing")
            if await self._store.save(Change(order=step.order, visible=step.visible)):
                probes.probe("cancel.stored")
                self._remember(step.order)
                if step.order.state is not order.state:
                    self._metrics.order_moved(order.state, step.order.state)
                state = str(step.order.state)
                log.info("order cancelled", order_state=state, order_id=order_id, client=client_id)
                self._tell(step.order)
                return step.order
            self._forget(order_id)

    async def decide(
        self, key: PurchaseKey, decide: Callable[[Order, Circumstances], Step], audit: AuditEntry
    ) -> Order:
        """Stores an operator's decision and the record of it. `decide` is asked anew when somebody else was faster.

        Raises what `decide` raises, OrderGone or StoreUnavailable; nothing was stored then.
        """
        sealer = await self._vault.client(key.client_id)
        async with self._turn(key.order_id):
            self._look_again(key.order_id)
            while True:
                order = await self.load(key)
                step = decide(order, self._around(order, key.number, Source.OPERATOR, sealer))
                change = Change(
                    order=step.order,
                    visible=step.visible,
                    cards=_sealed_cards(step.order, zip(step.cards, itertools.repeat(key.number)), sealer),
                    released=step.released,
                    audit=audit,
                )
                probes.probe("decide.storing")
                if await self._store.save(change):
                    probes.probe("decide.stored")
                    self._remember(step.order)
                    if step.order.state is not order.state:
                        self._metrics.order_moved(order.state, step.order.state)
                    self._warn(order, step.alerts)
                    self._tell(step.order)
                    return step.order
                self._forget(key.order_id)

    async def apply(self, key: PurchaseKey, *happenings: Happening) -> Order:
        """Applies what was learned about purchases of one order, in one commit and at most one new version.

        Doesn't give up: while the store can't write, the evidence is held here and tried again.
        """
        async with self._turn(key.order_id):
            return await self._apply(key, happenings)

    async def _apply(self, key: PurchaseKey, happenings: Sequence[Happening]) -> Order:
        retry = FIRST_RETRY_SECONDS
        while True:
            try:
                applied = await self._try_to_apply(key, happenings)
            except StoreUnavailable as error:
                log.error("evidence waits for the store", order_id=key.order_id, why=str(error), retry_in=retry)
                await asyncio.sleep(retry)
                retry = min(2 * retry, LONGEST_RETRY_SECONDS)
                continue
            if applied is not None:
                return applied
            self._forget(key.order_id)

    async def _try_to_apply(self, key: PurchaseKey, happenings: Sequence[Happening]) -> Order | None:
        """None when someone else changed the order first."""
        sealer = await self._vault.client(key.client_id)
        order = await self.load(key)
        change, alerts = self._change(order, happenings, sealer)
        if change is not None:
            probes.probe("apply.storing")
            if not await self._store.save(change):
                return None
            probes.probe("apply.stored")
            self._remember(change.order)
            self._report(order, change.order, happenings)
        after = order if change is None else change.order
        self._warn(order, alerts)
        if change is not None:
            self._tell(after)
        return after

    def _warn(self, order: Order, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            self._metrics.alert(alert.kind)
            log.warning("alert", kind=str(alert.kind), order_id=order.order_id, why=alert.message)

    def _change(
        self, order: Order, happenings: Sequence[Happening], sealer: ClientSealer
    ) -> tuple[Change | None, list[Alert]]:
        """Folds several events into one change of the order."""
        changed = order
        cards: list[tuple[NewCard, str]] = []
        answers: list[KeptAnswer] = []
        alerts: list[Alert] = []
        for happening in happenings:
            around = self._around(
                order,
                happening.number,
                happening.source,
                sealer,
                written_until=happening.written_until,
                asked_at=happening.asked_at,
                send=happening.send,
            )
            step = moves.advance(changed, happening.number, happening.event, around)
            alerts.extend(step.alerts)
            if happening.raw and _leaves_doubt(changed, step, happening):
                sealed = sealer.seal(happening.raw, "answer", order.order_id, happening.number)
                answers.append(KeptAnswer(happening.number, self._clock.now_ms(), happening.source, sealed))
            cards.extend((card, happening.number) for card in step.cards)
            changed = step.order
        if changed is order and not answers:
            return None, alerts
        visible = changed.version > order.version
        changed = replace(changed, revision=order.revision + 1, version=order.version + visible)
        sealed_cards = _sealed_cards(changed, cards, sealer)
        return Change(order=changed, visible=visible, cards=sealed_cards, answers=tuple(answers)), alerts

    def _around(
        self,
        order: Order,
        number: str,
        source: Source,
        sealer: ClientSealer,
        *,
        written_until: int | None = None,
        asked_at: int | None = None,
        send: int = 0,
    ) -> Circumstances:
        return Circumstances(
            at=self._clock.now_ms(),
            source=source,
            new_number=self._new_id,
            print_card=partial(sealer.card_print, order.order_id),
            written_until=written_until,
            asked_at=asked_at,
            send=send,
            watch_ms=self._watch_ms(order.offers[order.purchase(number).offer].account),
        )

    def _remember(self, order: Order) -> None:
        self._orders[order.order_id] = order
        self._orders.move_to_end(order.order_id)
        if self._shared:
            self._remembered[order.order_id] = self._clock.monotonic()
        if len(self._orders) > CACHED_ORDERS:
            self._forget(next(iter(self._orders)))

    def _tell(self, order: Order) -> None:
        for listener in self._listeners:
            try:
                listener(order)
            except Exception:
                # What is stored is stored: a defect in who listens must not look like a failed write.
                log.exception("a listener failed", order_id=order.order_id)
                self._metrics.alert("defect")

    def _report(self, before: Order, after: Order, happenings: Sequence[Happening]) -> None:
        if before.state is not after.state:
            self._metrics.order_moved(before.state, after.state)
        for happening in happenings:
            was, purchase = before.purchase(happening.number), after.purchase(happening.number)
            doubtful = purchase.state is PurchaseState.UNKNOWN or purchase.review is not None
            say = log.warning if doubtful else log.info
            detail = purchase.evidence[-1].detail if purchase.evidence else ""
            say(
                "purchase moved" if was.state is not purchase.state else "purchase evidence",
                outcome=type(happening.event).__name__,
                **({"detail": detail} if detail else {}),
                order_state=str(after.state),
                purchase_state=str(purchase.state),
                supplier=after.offers[purchase.offer].account,
                source=str(happening.source),
                order_id=after.order_id,
                number=happening.number,
                client=after.client_id,
                version=after.version,
            )


def _sealed_cards(order: Order, cards: Iterable[tuple[NewCard, str]], sealer: ClientSealer) -> tuple[SealedCard, ...]:
    """New cards with the numbers of their purchases, sealed for their places in the order."""
    return tuple(
        SealedCard(
            new.card_no,
            order.version,
            number,
            sealer.seal_card(new.card, order.order_id, new.card_no),
            new.hidden,
        )
        for new, number in cards
    )


def _leaves_doubt(before: Order, step: Step, happening: Happening) -> bool:
    """Whether an answer has to be kept whole: it left its purchase unknown or in review, or speaks against a delivery.

    Of what the purchase itself was answered all is kept; of looks, which come again and again, what brought the doubt.
    """
    was: PurchaseRecord = before.purchase(happening.number)
    now: PurchaseRecord = step.order.purchase(happening.number)
    if happening.source is Source.PLACE and isinstance(happening.event, Unclear):
        return True
    if was.state is PurchaseState.DELIVERED:
        return any(alert.kind in SPEAKS_AGAINST_DELIVERY for alert in step.alerts)
    doubtful = now.state is PurchaseState.UNKNOWN or now.review is not None
    if happening.source is Source.PLACE:
        return doubtful
    return doubtful and (was.state, was.review) != (now.state, now.review)
