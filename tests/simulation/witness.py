"""Whoever stands beside the store and the suppliers' books and checks every step of both."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar, cast

from reward_sandbox import Sandbox
from reward_server.domain.order import Order, PurchaseRecord, PurchaseState
from reward_server.store import Change, Created, Store, Update
from reward_server.store.codec import decode_order
from reward_server.store.quotas import NO_QUOTA, Quota
from reward_server.store.sqlite import SqliteStore
from store.history import Asked, History

from .loop import Party

T = TypeVar("T")

NUMBER = re.compile(r"(?<![0-9A-Z])[0-9A-Z]{26}(?![0-9A-Z])")


@dataclass(frozen=True, slots=True)
class Heard:
    """A card reached a process whole."""

    number: str
    at: float
    party: Party


class Witness:
    """Knows what the store promised to remember, and what suppliers sold."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.violations: list[str] = []
        self.orders: dict[str, Order] = {}
        """As last acknowledged by the store."""
        self.numbers: dict[str, str] = {}
        """The order of each number."""
        self.history = History()
        """Every write, for other stores to be asked the same."""
        self._watched: list[_Watched] = []
        self.counts: Counter[str] = Counter()
        self._now = now
        self._digest = hashlib.sha256()
        self._revisions: dict[tuple[str, int], Order] = {}
        """Every order as of every revision."""
        self.delivered: set[str] = set()
        """Numbers whose goods left a supplier."""
        self.taken_back: dict[str, float] = {}
        """When goods were paid back after they had left, by number."""
        self.settled: dict[str, float] = {}
        """When nobody watched an order any more."""
        self.heard: list[Heard] = []
        """Cards in answers to purchases that were read whole."""
        self._sandbox: Sandbox | None = None

    def say(self, what: str) -> None:
        """Something must never happen and did."""
        self.violations.append(f"at {self._now():.3f} s: {what}")

    def note(self, *what: object) -> None:
        """Something happened: part of what tells two runs apart."""
        self._digest.update(f"{self._now():.6f} {what}\n".encode())

    @property
    def digest(self) -> str:
        """Equal for two runs in which the same happened at the same times."""
        return self._digest.hexdigest()[:16]

    # --- The store

    def watching(self, store: SqliteStore, party: Party) -> Store:
        """The same store, watched, as a process uses it."""
        self._remember_all(store)
        store.listen(partial(self._heard, {}, {}))
        watched = _Watched(store, self, party)
        self._watched.append(watched)
        return cast(Store, watched)

    def _remember_all(self, store: SqliteStore) -> None:
        """What a restart finds: everything that was acknowledged, at least."""
        found = [row[0] for row in store._reader.execute("SELECT body FROM orders")]
        orders = {order.order_id: order for order in map(decode_order, found)}
        for order_id, known in self.orders.items():
            order = orders.get(order_id)
            if order is None or order.revision < known.revision:
                was = f"revision {known.revision}, {known.state}"
                self.say(f"{order_id} was acknowledged at {was} and is lost: {order and order.revision}")
        first: Any = store._reader.execute("SELECT order_id, position FROM updates WHERE version = 1")
        places: dict[str, int] = dict(first.fetchall())
        for watched in [watched for watched in self._watched if not watched.party.alive]:
            self._watched.remove(watched)
            for asked in watched.unanswered:
                self._find(asked, orders, places)
        for order in orders.values():
            self._keep(order)
        self.orders = orders
        self.numbers = {p.number: order.order_id for order in orders.values() for p in order.purchases}

    def _find(self, asked: Order | Change, orders: dict[str, Order], places: dict[str, int]) -> None:
        """Whether a write whose answer was lost in a crash was done."""
        if isinstance(asked, Order):
            if asked.order_id in orders:
                self.counts["writes done whose answer was lost"] += 1
                self.history.asked.append(Asked(create=asked, position=places[asked.order_id]))
        elif orders.get(asked.order.order_id) == asked.order:
            self.counts["writes done whose answer was lost"] += 1
            self.history.asked.append(Asked(save=asked, saved=True))

    def created(self, asked: Order, created: Created) -> None:
        """A create was acknowledged."""
        self.history.asked.append(Asked(create=asked, existed=created.existed, position=created.head.position))
        if created.existed:
            return
        self.note("created", asked.order_id)
        self._check(asked)
        self._keep(asked)

    def saved(self, change: Change, saved: bool) -> None:
        """A save was answered."""
        self.history.asked.append(Asked(save=change, saved=saved))
        if not saved:
            self.counts["writes that lost a race"] += 1
            return
        order, before = change.order, self.orders.get(change.order.order_id)
        self.note("saved", order.order_id, order.revision, order.state)
        self.counts["writes"] += 1
        stored = self._revisions.get((order.order_id, order.revision))
        if stored == order:
            # Another process found it on disk before its writer, which stood still, heard of its own success.
            return
        if stored is not None:
            self.say(f"{order.order_id}: two writers stored revision {order.revision}")
        if before is not None:
            self._check_step(before, change)
        self._check(order)
        if before is None or order.revision > before.revision:
            self._keep(order)

    def _keep(self, order: Order) -> None:
        self.orders[order.order_id] = order
        self._revisions[order.order_id, order.revision] = order
        if order.settled_at:
            self.settled.setdefault(order.order_id, self._now())
        for purchase in order.purchases:
            self.numbers[purchase.number] = order.order_id

    def _check(self, order: Order) -> None:
        units: Counter[int] = Counter()
        for purchase in order.purchases:
            if purchase.state is not PurchaseState.DEAD:
                units.update(purchase.units())
        twice = sorted(unit for unit, count in units.items() if count > 1)
        if twice:
            self.say(f"{order.order_id}: units {twice} have more than one live purchase")

    def _check_step(self, before: Order, change: Change) -> None:
        order = change.order
        if order.revision == before.revision + 1:
            if order.version != before.version + change.visible:
                self.say(f"{order.order_id}: version {before.version} became {order.version}")
        elif order.revision <= before.revision:
            self.say(f"{order.order_id}: revision {order.revision} was stored over {before.revision}")
        by_operator = change.audit is not None
        if before.state.is_terminal and order.state is not before.state and not by_operator:
            self.say(f"{order.order_id} left {before.state} for {order.state}")
        if before.cancel_requested_at:
            self._check_cancelled(before, order, by_operator)
        for was in before.purchases:
            self._check_purchase(order, was, by_operator)

    def _check_cancelled(self, before: Order, order: Order, by_operator: bool) -> None:
        """What the client doesn't want any more is neither begun nor bought elsewhere."""
        known = {purchase.number: purchase.state for purchase in before.purchases}
        for now in order.purchases:
            begun = now.state is PurchaseState.SUBMITTING and known.get(now.number) is not now.state
            if begun or (now.number not in known and now.state is not PurchaseState.DEAD and not by_operator):
                self.say(f"{order.order_id}: purchase {now.number} is {now.state} after the client's wish to cancel")

    def _check_purchase(self, order: Order, was: PurchaseRecord, by_operator: bool) -> None:
        now = next((p for p in order.purchases if p.number == was.number), None)
        if now is None:
            self.say(f"{order.order_id}: purchase {was.number} vanished")
            return
        final = was.state in (PurchaseState.DELIVERED, PurchaseState.DEAD)
        if final and now.state is not was.state and not by_operator:
            self.say(f"{order.order_id}: purchase {was.number} left {was.state} for {now.state}")
        if now.state is PurchaseState.DELIVERED and not final and not by_operator and now.number not in self.delivered:
            self.say(f"{order.order_id}: purchase {was.number} became delivered, and its supplier delivered nothing")
        paid_for = [sale for sale in self._under(order, was) if paid(sale)]
        if now.state is PurchaseState.DEAD and not final and not by_operator and paid_for:
            self.say(f"{order.order_id}: purchase {was.number} was given up, and its supplier has the money")
        kept = {card.identity for card in now.cards}
        lost = [card.card_no for card in was.cards if card.identity not in kept]
        if lost and not by_operator:
            self.say(f"{order.order_id}: cards {lost} of {was.number} vanished")

    def _heard(self, told: dict[str, int], positions: dict[str, int], updates: Sequence[Update]) -> None:
        """What one process's streams hear: `told` are the last versions by order, `positions` the last by client."""
        for update in updates:
            order = update.order
            last = told.get(order.order_id)
            if last is not None and order.version <= last:
                self.say(f"{order.order_id}: version {order.version} was told after {last}")
            told[order.order_id] = order.version
            position = positions.get(update.client_id)
            if position is not None and update.position <= position:
                self.say(f"{update.client_id}: position {update.position} was told after {position}")
            positions[update.client_id] = update.position

    # --- The suppliers

    def watch(self, sandbox: Sandbox, kinds: Sequence[str]) -> None:
        """Looks over the shoulder of who keeps the books."""
        self._sandbox = sandbox
        for kind in kinds:
            book: Any = sandbox.desk(kind).book
            book.buy = self._selling(kind, book.buy)
            book.enter = self._entering(book.enter)

    def _entering(self, enter: Callable[..., None]) -> Callable[..., None]:
        def entering(sale: Any, stage: Any) -> None:
            enter(sale, stage)
            if sale.refunded and sale.number in self.delivered:
                self.taken_back.setdefault(sale.number, self._now())
            if stage.outcome == "delivered":
                self.delivered.add(sale.number)

        return entering

    def _selling(self, kind: str, buy: Callable[..., Any]) -> Callable[..., Any]:
        def selling(*args: Any, **fields: Any) -> Any:
            sale = buy(*args, **fields)
            self._sold(kind, sale.number, sale.quantity)
            return sale

        return selling

    def _sold(self, kind: str, number: str, quantity: int) -> None:
        self.note("sold", kind, number, quantity)
        self.counts["units sold"] += quantity
        order_id = self.numbers.get(number)
        if order_id is None:
            self.say(f"{kind} sold under {number}, which stands in no order on disk")
            return
        order = self.orders[order_id]
        purchase = order.purchase(number)
        if purchase.intent_at == 0:
            self.say(f"{kind} sold under {number} of {order_id} before the intention was on disk")
        if purchase.state is PurchaseState.DEAD:
            self.say(f"{kind} sold under {number} of {order_id}, which was dead")
        units = Counter(unit for p in order.purchases for unit in p.units() if any(map(paid, self._under(order, p))))
        if max(units.values(), default=0) > 1 or self.live_units(order) > order.quantity:
            self.say(f"{kind} sold under {number} of {order_id}: {self.live_units(order)} of {order.quantity} units")

    def sales(self, order: Order) -> list[Any]:
        """What suppliers sold for an order."""
        return [sale for purchase in order.purchases for sale in self._under(order, purchase)]

    def _under(self, order: Order, purchase: PurchaseRecord) -> list[Any]:
        assert self._sandbox is not None
        found: list[Any] = self._sandbox.desk(order.offers[purchase.offer].account).book.under(purchase.number)
        return found

    def read(self, party: Party, request: bytes, answer: bytes) -> None:
        """A process has the whole answer to a purchase. Cards in it are noted."""
        for number in set(NUMBER.findall(request.decode(errors="replace"))):
            order = self.orders.get(self.numbers.get(number, ""))
            if order is None:
                continue
            for sale in self._under(order, order.purchase(number)):
                values = [value.encode() for card in sale.cards for value in card.values() if len(value) >= 8]
                if any(value in answer for value in values):
                    self.heard.append(Heard(number, self._now(), party))

    def live_units(self, order: Order) -> int:
        """Units sold for an order whose money wasn't paid back."""
        return sum(sale.quantity for sale in self.sales(order) if paid(sale))

    def delivered_units(self, order: Order) -> int:
        """Units that suppliers sold under the numbers of its delivered purchases."""
        numbers = {purchase.number for purchase in order.purchases if purchase.state is PurchaseState.DELIVERED}
        return sum(sale.quantity for sale in self.sales(order) if sale.number in numbers)


class _Watched:
    """The store, with its writes seen."""

    def __init__(self, store: SqliteStore, witness: Witness, party: Party) -> None:
        self.party = party
        self.unanswered: list[Order | Change] = []
        self._store = store
        self._witness = witness

    async def create(self, order: Order, quota: Quota = NO_QUOTA) -> Created:
        created = await self._asking(order, self._store.create(order, quota))
        self._witness.created(order, created)
        return created

    async def save(self, change: Change) -> bool:
        saved = await self._asking(change, self._store.save(change))
        self._witness.saved(change, saved)
        return saved

    async def _asking(self, what: Order | Change, answer: Coroutine[Any, Any, T]) -> T:
        self.unanswered.append(what)
        try:
            return await answer
        finally:
            if self.party.alive:
                self.unanswered = [one for one in self.unanswered if one is not what]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def paid(sale: Any) -> Decimal:
    """What the supplier kept."""
    return Decimal(sale.charged - sale.refunded)
