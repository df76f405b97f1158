"""The store: one interface, two engines (SQLite for one process, PostgreSQL for any number).

What every engine promises:

* A write that returned is on disk.
* `create` and `save` are conditional: the loser of a race is told so and nothing of its write exists.
* Each client has one log. Its positions have no gap, rise in commit order, and are read in that order; listeners hear
  of updates only after the commit, in the order of positions.
* Several changes handed over together may share a commit; none can make another fail.
* Every process that works on orders holds a lease. Without it nothing is stored that lets a request go out; what is
  learned of a request is stored whoever brings it.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from reward_server.domain.order import Order, OrderState, PurchaseState, Source
from reward_server.store.quotas import NO_QUOTA, Quota


class StoreError(Exception):
    """Something is wrong with the store."""


class StoreUnavailable(StoreError):
    """The store can't write at the moment (disk full, locked). Nothing was written; trying again may help."""


class LeaseLost(StoreUnavailable):
    """This process's lease was over when it wanted to write the intention of a request. Nothing was written."""


class StoreBroken(StoreError):
    """The disk lied or failed (I/O error, failed fsync, corruption). The process must stop acknowledging and end."""


class StoreRefused(StoreError):
    """The store can't be opened: in use by another process, not writable, or made by a newer program."""


@dataclass(frozen=True, slots=True)
class Head:
    """The ends of a client's log."""

    position: int
    """The last position, 0 when nothing was ever written."""
    pruned_through: int
    """Updates up to here are gone."""
    epoch: int
    """Changes when the store was restored from a backup: tokens of another epoch point into another history."""


@dataclass(frozen=True, slots=True)
class Update:
    """One entry of a client's log: the whole order as of its version."""

    client_id: str
    position: int
    order: Order


@dataclass(frozen=True, slots=True)
class SealedCard:
    """One card as stored."""

    card_no: int
    """The card's place in its order, from 1."""
    version: int
    """The order's version that brought it."""
    number: str
    """The purchase that brought it."""
    sealed: bytes = field(repr=False)
    hidden: bool = False
    """Not for the client: a card of a purchase that was given up before it arrived."""
    erased_at: int = 0
    """When `sealed` was emptied, milliseconds; 0: it wasn't."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A supplier's answer that wasn't understood, sealed whole: a paid card may be inside."""

    number: str
    at: int
    source: Source
    sealed: bytes = field(repr=False)
    erased_at: int = 0
    """When `sealed` was emptied, milliseconds; 0: it wasn't."""


@dataclass(frozen=True, slots=True)
class Hold:
    """An operator's pause of a supplier account."""

    account: str
    at: int
    by: str
    """Who paused it."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One decision of an operator, or one reading of cards."""

    at: int
    by: str
    """Who decided or read: the client id of the key, and the person if it was named; "server" for the program."""
    what: str
    """Decided: "delivered", "fail", "buy_again", "dismiss", "pause", "resume" or "rotate_keys". Read: "read" or
    "stream". Of the program itself: "start", "stop" or "erase"."""
    reason: str
    account: str = ""
    client_id: str = ""
    """Whose cards were read or keys changed."""
    order_id: str = ""
    number: str = ""
    """The purchase."""
    first_position: int = 0
    last_position: int = 0
    """What was read of the client's log: from position to position. From 0: the orders as of the last one."""
    cards: int = 0
    """How many were shown or erased."""
    entry_id: int = 0
    """Its place among all, from 1; 0 until it is stored."""
    chain: str = ""
    """The chain that it belongs to, one for each start of a process; "" until it is stored, as with what follows."""
    place: int = 0
    """Its place in its chain, from 1."""
    hash: bytes = b""
    """Over the entry and the hash before it; see `chain`."""


@dataclass(frozen=True, slots=True)
class Erased:
    """How much was emptied."""

    cards: int = 0
    answers: int = 0
    callbacks: int = 0

    def __bool__(self) -> bool:
        return bool(self.cards or self.answers or self.callbacks)


@dataclass(frozen=True, slots=True)
class ReviewPlace:
    """Where an order stands among those that a person should look at."""

    since: int = 0
    order_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One order changed."""

    order: Order
    """After the change; its revision is one above the stored one."""
    visible: bool
    """Whether the version rose, so that an update is logged."""
    cards: tuple[SealedCard, ...] = ()
    answers: tuple[KeptAnswer, ...] = ()
    released: tuple[int, ...] = ()
    """Places of hidden cards that the client has from this version on."""
    audit: AuditEntry | None = None
    """The decision that made the change."""
    fenced: bool = False
    """The change lets a request go out: only a process whose lease holds may store it."""


@dataclass(frozen=True, slots=True)
class Created:
    """What became of `create`."""

    order: Order
    """The new order, or the one that had the client_order_id before."""
    existed: bool
    head: Head
    """The client's log as of the same transaction."""


@dataclass(frozen=True, slots=True)
class OpenPurchase:
    """A purchase that isn't settled, as the engine finds it at start."""

    client_id: str
    order_id: str
    number: str
    account: str
    state: PurchaseState
    watch_until: int = 0
    """Of a delivered one, until when something may still become of it."""
    abandoned_for: int | None = None
    """How long ago, in milliseconds, the lease of the process ended that followed it; None: that process is dead."""


@dataclass(frozen=True, slots=True)
class Lease:
    """How a process's lease stands."""

    held: bool
    """False: it was over before it was renewed, and others may have taken up the work."""
    replicas: int
    """Processes that hold one now, this one included."""


@dataclass(frozen=True, slots=True)
class PurchaseKey:
    """Where a supplier-side number belongs."""

    client_id: str
    order_id: str
    number: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderQuery:
    """A filter over one client's orders, newest first."""

    client_id: str
    states: frozenset[OrderState] = frozenset()
    product_id: str = ""
    account: str = ""
    created_from: int | None = None
    """Inclusive, milliseconds."""
    created_before: int | None = None
    """Exclusive, milliseconds."""
    before_order_id: str = ""
    """Only older orders: the last one of the page before."""
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotQuery:
    """The orders of one client that are unsettled or were changed inside the log's retention, oldest first."""

    client_id: str
    up_to: int
    """Only orders whose last update stands at or before this position, as read now."""
    after_order_id: str = ""
    limit: int = 100
    order_ids: frozenset[str] | None = None
    """Only these (with `client_order_ids`: the union), whether settled or not."""
    client_order_ids: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A client's data key, wrapped by a master key."""

    key_id: bytes
    client_id: str
    master_key_id: str
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """How far what was sealed under a client's former data keys has been sealed again under its newest."""

    client_id: str
    """"" is the service itself."""
    key_id: bytes
    """The newest key."""
    table: str
    """The table that is gone through."""
    after: bytes
    """The place in it of the last row that was looked at, encoded; b"" before the first."""
    resealed: int
    unopened: int
    """Rows that don't open under any key: left as they are."""
    began_at: int
    ended_at: int = 0
    """Milliseconds; 0: it goes on."""


@dataclass(frozen=True, slots=True)
class SealedRow:
    """Anything that is stored sealed."""

    place: tuple[str | int | bytes, ...]
    """Where it stands in its table."""
    about: tuple[str, ...]
    """What else of the row belongs to what it is bound to."""
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resealed:
    """A sealed row under another key."""

    row: SealedRow
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SealedToken:
    """A supplier account's access token."""

    account: str
    sealed: bytes = field(repr=False)
    fetched_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class CallbackRecord:
    """A verified callback, kept whether or not its number is ours."""

    account: str
    number: str
    order_id: str
    """"" when the number is none of ours."""
    digest: bytes
    """SHA-256 of the body: the same callback is kept once."""
    at: int
    sealed: bytes = field(repr=False)
    erased_at: int = 0
    """When `sealed` was emptied, milliseconds; 0: it wasn't."""


@dataclass(frozen=True, slots=True)
class CallbackPlace:
    """Where a callback stands among those of its account: by time, and by digest within a millisecond."""

    at: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackQuery:
    """The callbacks of one account, newest first."""

    account: str
    only_unknown: bool = False
    """Only those whose number is none of ours."""
    before: CallbackPlace | None = None
    """Only older ones: the last one of the page before."""
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Oldest:
    """Since when the oldest orders wait, milliseconds."""

    made: Mapping[OrderState, int]
    """When the oldest order in each state that isn't terminal was made; lacks states that no order is in."""
    reviews: int
    """Orders that a person should look at."""
    review_since: int
    """Since when the one waits that waits longest; 0 when there is none."""


def oldest_of(rows: Iterable[Any]) -> Oldest:
    """From rows `state, count, milliseconds`; that of the reviews has no state."""
    found = {state: (count, since) for state, count, since in rows}
    reviews, since = found.pop("", (0, 0))
    return Oldest({OrderState(state): made for state, (_, made) in found.items()}, reviews, since)


UpdateListener = Callable[[Sequence[Update]], None]
"""Called on the event loop after a commit with its updates, per client in the order of positions."""


class Store(Protocol):
    """One database."""

    @property
    def lease_seconds(self) -> float | None:
        """How long a lease lasts unless it is renewed; None: no other process can use this database."""

    @property
    def broken(self) -> asyncio.Event:
        """Set when the store failed for good: the process must stop acknowledging and end."""

    @property
    def chain(self) -> str:
        """The name of this process's chain of the audit."""

    @property
    def trouble(self) -> str:
        """Why it can't be used at the moment, as far as is known; "" when it can."""

    @property
    def cut_off(self) -> bool:
        """Whether it hasn't answered for as long as a lease lasts, so that others have taken over."""

    @property
    def commits(self) -> int:
        """Commits so far."""

    def on_commit(self, observer: Callable[[int, float], None]) -> None:
        """Who is told how many writes shared each commit, and how many seconds it took."""

    def listen(self, listener: UpdateListener) -> None:
        """Adds a listener. It hears of the updates that this process commits, and of those that others commit to the
        logs that are followed; an update that it heard of by both ways comes once, in its place.
        """

    def follow(self, client_id: str) -> None:
        """From now on listeners hear of everything that is committed to this client's log, by whomever."""

    def unfollow(self, client_id: str) -> None:
        """Nobody here needs to hear of other processes' updates of this client any more."""

    async def join(self, owner: str) -> None:
        """Begins a lease under a name that was never used before."""

    async def renew(self) -> Lease:
        """Makes the lease last from now on; one that was over stays over, and `join` begins another."""

    async def create(self, order: Order, quota: Quota = NO_QUOTA) -> Created:
        """Stores a new order (version 1, revision 1) with its purchases and logs its first update.

        When the client_order_id exists nothing is written and the existing order comes back. Raises TooManyOrders or
        SpendLimitReached when the client has used up its quota; nothing is written then.
        """

    async def save(self, change: Change) -> bool:
        """Stores a change if the stored revision is exactly one below; False when it isn't, and nothing is written."""

    async def order(self, client_id: str, order_id: str) -> Order | None:
        """Reads an order."""

    async def owner(self, order_id: str) -> str | None:
        """The client of an order, for operators."""

    async def order_by_client_order_id(self, client_id: str, client_order_id: str) -> tuple[Order | None, Head]:
        """Reads an order and the head of the log in one transaction."""

    async def known_order_ids(self, client_id: str, order_ids: Sequence[str]) -> frozenset[str]:
        """Those of the ids that are orders of this client."""

    async def orders(self, query: OrderQuery) -> list[Order]:
        """One page of orders, newest first."""

    async def head(self, client_id: str) -> Head:
        """The ends of the client's log."""

    async def updates(self, client_id: str, after: int, limit: int) -> list[Update]:
        """Updates with a position above `after`, oldest first."""

    async def snapshot(self, query: SnapshotQuery) -> list[Order]:
        """One page of a snapshot, by order id."""

    async def prune(self, client_id: str, before: int, limit: int) -> int:
        """Drops up to `limit` updates, from the start of the log, made before that time; says how many."""

    async def cards(self, client_id: str, order_ids: Sequence[str]) -> dict[str, list[SealedCard]]:
        """The cards of several orders, hidden ones left out, by place."""

    async def answers(self, client_id: str, order_id: str) -> list[KeptAnswer]:
        """The answers kept for an order, the oldest first, up to a bound."""

    async def purchase(self, account: str, number: str) -> PurchaseKey | None:
        """Finds a purchase by its number at a supplier account."""

    async def adopt(self, after_number: str, limit: int, *, thorough: bool = False) -> list[OpenPurchase]:
        """One page, by number, of the unsettled purchases that no process with a lease follows; from now on this one
        does. `thorough` also finds those whose process left no trace; it reads all unsettled ones.
        """

    async def open_order_counts(self) -> dict[OrderState, int]:
        """How many orders stand in each state that isn't terminal."""

    async def oldest(self) -> Oldest:
        """Since when the oldest orders wait."""

    async def reviews(self, after: ReviewPlace, limit: int) -> list[Order]:
        """One page of the orders, of all clients, that a person should look at: who waits longest comes first."""

    async def hold(self, hold: Hold, audit: AuditEntry) -> None:
        """Stores an operator's pause of an account, in the place of a former one, with its record."""

    async def end_hold(self, audit: AuditEntry) -> None:
        """Ends the pause of the record's account, if there is one, with its record."""

    async def holds(self) -> list[Hold]:
        """The accounts that operators paused."""

    async def audit(
        self, before: int, limit: int, *, only_decisions: bool = False, order_id: str = ""
    ) -> list[AuditEntry]:
        """One page of the audit, newest first: the entries before that one, 0 = from the newest on. `only_decisions`:
        only what people decided; with an order, only the entries that name it.
        """

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        """Adds entries to this process's chain of the audit, in this order."""

    async def erase(self, before: int, at: int, limit: int) -> Erased:
        """Empties what is sealed of cards, answers and callbacks from before a time, up to `limit` of each. Of orders
        that a person should look at, answers, callbacks and hidden cards stay: they are what the decision is about.
        """

    async def keep_callback(self, record: CallbackRecord) -> bool:
        """Keeps a callback; False when the same one was kept before."""

    async def callbacks(self, query: CallbackQuery) -> list[CallbackRecord]:
        """One page of the callbacks that were kept, newest first."""

    async def data_keys(self, client_id: str) -> list[WrappedKey]:
        """The client's data keys, the newest last."""

    async def add_data_key(self, key: WrappedKey) -> WrappedKey:
        """Adds a client's first data key and returns it, or the one that another process added first."""

    async def all_data_keys(self) -> list[WrappedKey]:
        """The data keys of all clients and of the service, by client, the newest of each last."""

    async def rewrap(self, former: WrappedKey, key: WrappedKey) -> bool:
        """Stores the same data key wrapped by another master key; False if it isn't wrapped as it was any more."""

    async def rotate(self, key: WrappedKey, rotation: Rotation, audit: AuditEntry) -> None:
        """Adds a client's newest data key, with its record; what goes through the older values begins anew."""

    async def rotations(self) -> list[Rotation]:
        """How far the newest keys have got, by client; of those that only ever had one key, nothing."""

    async def sealed_rows(self, rotation: Rotation, limit: int) -> list[SealedRow]:
        """The next rows of a rotation's table, empty ones left out."""

    async def reseal(self, former: Rotation, now: Rotation, rows: Sequence[Resealed]) -> bool:
        """Stores rows under another key and how far this has got; False, and nothing is written, if another process was
        faster. A row that was changed meanwhile stays as it is.
        """

    async def named_secret(self, name: str, sealed: bytes) -> bytes:
        """Stores a sealed secret under a name unless there is one, and returns the stored one."""

    async def token(self, account: str) -> SealedToken | None:
        """Reads an account's access token."""

    async def save_token(self, token: SealedToken) -> None:
        """Stores an account's access token."""

    async def new_epoch(self) -> None:
        """Begins another history, as after a restore: after the next opening tokens of the present one are refused."""

    async def close(self) -> None:
        """Finishes what was handed over and closes the database."""
