"""What becomes of the writes of one batch: decided in memory under the lock on the client's log, written at once.

Nobody else can change an order of the client, or add one, while the lock is held. So the losers of a race are known
before anything is written, and a batch fails as a whole only for a defect.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from reward_server.domain.order import Order, PurchaseRecord, PurchaseState
from reward_server.store import AuditEntry, Change, Created, Head, LeaseLost, StoreError, Update
from reward_server.store.codec import decode_order
from reward_server.store.quotas import NO_QUOTA, Quota, day_of, refusal, reserved

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """One writer's wish: a new order, or a change."""

    order: Order
    body: bytes = field(repr=False)
    owner: str
    """The name under which this process held its lease when the write was handed over."""
    change: Change | None = None
    """None: the order is new."""
    quota: Quota = NO_QUOTA
    """Of a new order: what its client may have."""

    @property
    def fenced(self) -> bool:
        """Whether it lets a request go out."""
        if self.change is not None:
            return self.change.fenced
        return any(purchase.state is PurchaseState.SUBMITTING for purchase in self.order.purchases)


@dataclass(frozen=True, slots=True)
class _Standing:
    """An order as it stands in the database, or will after the batch."""

    order_id: str
    revision: int
    body: bytes = field(repr=False)


@dataclass(slots=True)
class Batch:
    """The writes of one client, one after the other."""

    client_id: str
    owner: str
    chain: str
    """Of the audit."""
    number: int
    """Counts the batches of this process."""
    lease_holds: bool
    head: Head
    known: dict[str, _Standing] = field(default_factory=dict)
    """By client_order_id."""
    revisions: dict[str, int] = field(default_factory=dict)
    """By order id, as stored before the batch."""
    updates: list[Update] = field(default_factory=list)
    """What was logged."""
    spent: dict[int, int] = field(default_factory=dict)
    """What the client's orders could cost, by day: as stored and with what was decided so far, where it was asked."""
    in_flight: int = 0
    """The client's orders that haven't ended, likewise. One that ends in this batch counts on until the next."""
    _created: dict[str, tuple[Order, bytes, int]] = field(default_factory=dict, repr=False)
    _saved: dict[str, tuple[Order, bytes, int]] = field(default_factory=dict, repr=False)
    """The last state of each order, and its last position, 0 = nothing was logged."""
    _logged: list[Row] = field(default_factory=list)
    _purchases: dict[str, Row] = field(default_factory=dict)
    _cards: list[Row] = field(default_factory=list)
    _cards_at: list[int] = field(default_factory=list)
    """When each of them came."""
    _released: list[Row] = field(default_factory=list)
    _released_at: list[int] = field(default_factory=list)
    _answers: list[Row] = field(default_factory=list)
    _audits: list[Row] = field(default_factory=list)
    _spending: dict[int, int] = field(default_factory=dict)
    """What is added, by day."""
    _now: dict[str, int] = field(default_factory=dict)
    """Revisions after what was decided so far."""

    def found(self, kind: str, order_id: str, client_order_id: str, revision: int, body: bytes | None) -> None:
        """Takes a row of what the database knows."""
        if kind == "lease":
            self.lease_holds = True
        elif kind == "spent":
            self.spent[int(order_id)] = revision
        elif kind == "in_flight":
            self.in_flight = revision
        elif kind == "known":
            self.known[client_order_id] = _Standing(order_id, revision, body or b"")
        else:
            self.revisions[order_id] = revision

    def decide(self, write: Write) -> Created | bool:
        """What the writer is told once the batch is stored. Raises LeaseLost or LimitReached."""
        if write.change is None:
            return self._create(write)
        return self._save(write, write.change)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self._created or self._saved)

    def rows(self) -> list[Any]:
        """The values of the statement `write`, in its order."""
        created = [
            (
                order.order_id,
                order.client_order_id,
                order.product_id,
                accounts_of(order),
                order.state,
                not order.state.is_terminal,
                True,
                order.created_at,
                position,
                order.review_since,
                order.revision,
                body,
            )
            for order, body, position in self._created.values()
        ]
        saved = [
            (
                order.order_id,
                self.revisions[order.order_id],
                accounts_of(order),
                order.state,
                not order.state.is_terminal,
                position,
                order.review_since,
                order.revision,
                body,
            )
            for order, body, position in self._saved.values()
        ]
        return [
            self.client_id,
            self.head.position,
            *_columns(created, 12),
            *_columns(saved, 9),
            *_columns(self._logged, 5),
            *_columns(self._purchases.values(), 7),
            *_columns(self._cards, 6),
            *_columns(self._released, 3),
            *_columns(self._answers, 5),
            *_columns(self._audits, 7),
            self.owner,
            self.number,
            *_columns(self._spending.items(), 2),
            self._cards_at,
            self._released_at,
            self.chain,
        ]

    def check(self, created: int, saved: int, released: int) -> None:
        """Compares what was written with what was handed over. Raises StoreError."""
        if (created, saved, released) != (len(self._created), len(self._saved), len(self._released)):
            raise StoreError(
                f"of {len(self._created)} orders {created} were created, of {len(self._saved)} {saved} saved,"
                f" of {len(self._released)} hidden cards {released} released"
            )

    def _create(self, write: Write) -> Created:
        order = write.order
        known = self.known.get(order.client_order_id)
        if known is not None:
            return Created(decode_order(known.body), True, self.head)
        day, cost = day_of(order), reserved(order)
        if refused := refusal(order, write.quota, self.in_flight, self.spent.get(day, 0)):
            raise refused
        self._fence(write)
        self.in_flight += not order.state.is_terminal
        self.spent[day] = self.spent.get(day, 0) + cost
        self._spending[day] = self._spending.get(day, 0) + cost
        position = self._log(order, write.body)
        self._created[order.order_id] = (order, write.body, position)
        self.known[order.client_order_id] = _Standing(order.order_id, order.revision, write.body)
        self._now[order.order_id] = order.revision
        self._put_purchases(order)
        return Created(order, False, self.head)

    def _save(self, write: Write, change: Change) -> bool:
        order = write.order
        stands_at = self._now.get(order.order_id, self.revisions.get(order.order_id, 0))
        if stands_at != order.revision - 1:
            return False
        self._fence(write)
        # In a batch an order may be created and changed, or changed twice: the last state is stored, each is logged.
        where = self._created if order.order_id in self._created else self._saved
        _, _, position = where.get(order.order_id, (order, b"", 0))
        if change.visible:
            position = self._log(order, write.body)
        where[order.order_id] = (order, write.body, position)
        known = self.known.get(order.client_order_id)
        if known is not None:
            self.known[order.client_order_id] = _Standing(order.order_id, order.revision, write.body)
        self._now[order.order_id] = order.revision
        self._put_purchases(order)
        order_id = order.order_id
        for card in change.cards:
            self._cards.append((order_id, card.card_no, card.version, card.number, card.hidden, card.sealed))
            self._cards_at.append(order.updated_at)
        for card_no in change.released:
            self._released.append((order_id, card_no, order.version))
            self._released_at.append(order.updated_at)
        self._answers += [(order_id, kept.number, kept.at, kept.source, kept.sealed) for kept in change.answers]
        if change.audit is not None:
            self._audits.append(decision_row(change.audit))
        return True

    def _fence(self, write: Write) -> None:
        # What was intended under a former name isn't let out under a new one: its purchase would stay the dead name's.
        if write.fenced and (write.owner != self.owner or not self.lease_holds):
            raise LeaseLost("the lease of this process was over; it begins another one by itself")

    def _log(self, order: Order, body: bytes) -> int:
        position = self.head.position + 1
        self.head = Head(position, self.head.pruned_through, self.head.epoch)
        self._logged.append((position, order.order_id, order.version, order.updated_at, body))
        self.updates.append(Update(self.client_id, position, order))
        return position

    def _put_purchases(self, order: Order) -> None:
        for purchase in order.purchases:
            account = order.offers[purchase.offer].account
            row = (purchase.number, account, order.order_id, purchase.state, not purchase.is_settled)
            self._purchases[purchase.number] = (*row, purchase.watch_until, follower(purchase, self.owner))


def follower(purchase: PurchaseRecord, writer: str) -> str:
    """Who is responsible for a purchase once `writer` has stored it: whose exchange is open, as long as it is; else
    who changed the order last and so knows how it stands.
    """
    exchange_is_open = purchase.state is PurchaseState.SUBMITTING or (
        purchase.state is PurchaseState.UNKNOWN and purchase.written_until == 0
    )
    return purchase.owner if exchange_is_open and purchase.owner else writer


def accounts_of(order: Order) -> str:
    """The accounts bought from, each between line feeds: searching for one name finds no longer one."""
    names = {order.offers[purchase.offer].account for purchase in order.purchases}
    return "".join(f"\n{name}\n" for name in sorted(names))


def decision_row(entry: AuditEntry) -> Row:
    """The columns of a decision about an order."""
    where = (entry.account, entry.order_id, entry.number)
    return (entry.at, text(entry.by), entry.what, *where, text(entry.reason))


def audit_row(chain: str, entry: AuditEntry) -> Row:
    """The columns of any entry, but for those that the database makes."""
    where = (entry.account, entry.client_id, entry.order_id, entry.number)
    what_of_it = (entry.first_position, entry.last_position, entry.cards)
    return (chain, entry.at, text(entry.by), entry.what, *where, *what_of_it, text(entry.reason))


def text(value: str) -> str:
    """What people wrote, without the one character that PostgreSQL's text can't hold."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _columns(rows: Iterable[Row], width: int) -> list[list[Any]]:
    columns: list[list[Any]] = [[] for _ in range(width)]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns
