"""The store over SQLite: one connection that writes, one that reads."""

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apsw
import msgspec

from reward_server.domain.order import Order, OrderState, PurchaseState, Source
from reward_server.errors import LimitReached
from reward_server.store import (
    AuditEntry,
    CallbackPlace,
    CallbackQuery,
    CallbackRecord,
    Change,
    Created,
    Erased,
    Head,
    Hold,
    KeptAnswer,
    Lease,
    Oldest,
    OpenPurchase,
    OrderQuery,
    PurchaseKey,
    Resealed,
    ReviewPlace,
    Rotation,
    SealedCard,
    SealedRow,
    SealedToken,
    SnapshotQuery,
    StoreError,
    Update,
    UpdateListener,
    WrappedKey,
    oldest_of,
)
from reward_server.store.chain import COLUMNS, new_chain
from reward_server.store.codec import decode_order, encode_order
from reward_server.store.epochs import random_epoch
from reward_server.store.quotas import NO_QUOTA, Quota
from reward_server.store.rotating import place_of, rotation_of, rotation_row, sealed_row
from reward_server.store.sqlite import writing
from reward_server.store.sqlite.group import Commit, GroupCommit
from reward_server.store.sqlite.sql import Row, run
from reward_server.store.tables import sealed_table

_STRETCH = 1_000
"""Orders that a filtered list goes through before it lets others run: about a millisecond."""

_ANSWERS_LIMIT = 200
"""An order under dispute has a handful; more come only from a supplier gone mad."""

_AFTER_EVERY_ID = "\U0010ffff"
_AFTER_EVERY_CALLBACK = CallbackPlace(2**62, b"")
_AFTER_EVERY_ENTRY = 2**62


class SqliteStore:
    """One database file. Made by `open_sqlite`."""

    def __init__(
        self, writer: apsw.Connection, reader: apsw.Connection, lock: int, *, epoch: int, commit: Commit | None
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._lock: int | None = lock
        self._epoch = epoch
        self.chain = new_chain()
        """Of the audit."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-commit")
        self._group = GroupCommit(writer, commit or self._commit_in_thread)

    @property
    def broken(self) -> asyncio.Event:
        """Set when the disk failed: the process must stop acknowledging and end."""
        return self._group.broken

    @property
    def trouble(self) -> str:
        """Every write tells by itself."""
        return ""

    @property
    def cut_off(self) -> bool:
        """There is nobody else to take over."""
        return False

    @property
    def commits(self) -> int:
        """Commits so far."""
        return self._group.commits

    def on_commit(self, observer: Callable[[int, float], None]) -> None:
        """Who is told how many writes shared each commit, and how many seconds it took."""
        self._group.on_commit = observer

    def listen(self, listener: UpdateListener) -> None:
        """Adds a listener."""
        self._group.listen(listener)

    # --- The lease: the lock on the file, which nobody else can have while this process lives ------------------------

    @property
    def lease_seconds(self) -> float | None:
        """It doesn't end."""
        return None

    def follow(self, client_id: str) -> None:
        """Nothing to do: nobody else writes."""

    def unfollow(self, client_id: str) -> None:
        """Nothing to do: nobody else writes."""

    async def join(self, owner: str) -> None:
        """Nothing to do: this process has the file."""

    async def renew(self) -> Lease:
        """It holds, and nobody else has one."""
        return Lease(held=True, replicas=1)

    # --- Orders -----------------------------------------------------------------------------------------------------

    async def create(self, order: Order, quota: Quota = NO_QUOTA) -> Created:
        """Stores a new order with its purchases and logs its first update, or gives back the existing one."""
        body = encode_order(order)
        created = await self._group.submit(
            lambda c, updates: writing.create(c, updates, order, body, epoch=self._epoch, quota=quota)
        )
        if isinstance(created, LimitReached):
            raise created
        return created

    async def save(self, change: Change) -> bool:
        """Stores a change if the stored revision is exactly one below."""
        body = encode_order(change.order)
        return await self._group.submit(lambda c, updates: writing.save(c, updates, change, body, chain=self.chain))

    async def order(self, client_id: str, order_id: str) -> Order | None:
        """Reads an order."""
        rows = self._read("order", client_id, order_id)
        return decode_order(rows[0][0]) if rows else None

    async def owner(self, order_id: str) -> str | None:
        """The client of an order, for operators."""
        rows = self._read("owner", order_id)
        return rows[0][0] if rows else None

    async def order_by_client_order_id(self, client_id: str, client_order_id: str) -> tuple[Order | None, Head]:
        """Reads an order and the head of the log in one transaction."""
        [(position, pruned_through, body)] = self._read("order_and_head", client_id, client_order_id)
        head = Head(position or 0, pruned_through or 0, self._epoch)
        return (None if body is None else decode_order(body)), head

    async def known_order_ids(self, client_id: str, order_ids: Sequence[str]) -> frozenset[str]:
        """Those of the ids that are orders of this client."""
        return frozenset(row[0] for row in self._read("known_order_ids", client_id, _json(order_ids)))

    async def orders(self, query: OrderQuery) -> list[Order]:
        """One page of orders, newest first."""
        found: list[Order] = []
        states = _json(sorted(query.states))
        before = query.before_order_id or _AFTER_EVERY_ID
        while True:
            end = self._read("newest_orders_end", query.client_id, before, _STRETCH)
            rows = self._read(
                "newest_orders",
                query.client_id,
                before,
                end[0][0] if end else "",
                states,
                query.product_id,
                query.account,
                query.created_from,
                query.created_before,
                query.limit - len(found),
            )
            found.extend(decode_order(row[0]) for row in rows)
            if not end or len(found) >= query.limit:
                return found
            before = end[0][0]
            # A filter that hardly anything passes may go through millions of orders.
            await asyncio.sleep(0)

    async def open_order_counts(self) -> dict[OrderState, int]:
        """How many orders stand in each state that isn't terminal."""
        return {OrderState(state): count for state, count in self._read("open_order_counts")}

    async def oldest(self) -> Oldest:
        """Since when the oldest orders wait."""
        return oldest_of(self._read("oldest"))

    async def cards(self, client_id: str, order_ids: Sequence[str]) -> dict[str, list[SealedCard]]:
        """The cards of several orders, hidden ones left out, by place."""
        cards: dict[str, list[SealedCard]] = {}
        for order_id, card_no, version, number, erased_at, sealed in self._read("cards", client_id, _json(order_ids)):
            card = SealedCard(card_no, version, number, sealed, erased_at=erased_at)
            cards.setdefault(order_id, []).append(card)
        return cards

    async def answers(self, client_id: str, order_id: str) -> list[KeptAnswer]:
        """The answers kept for an order, the oldest first."""
        rows = self._read("answers", client_id, order_id, _ANSWERS_LIMIT)
        return [KeptAnswer(number, at, Source(source), *rest) for number, at, source, *rest in rows]

    # --- Operators --------------------------------------------------------------------------------------------------

    async def reviews(self, after: ReviewPlace, limit: int) -> list[Order]:
        """One page of the orders that a person should look at: who waits longest comes first."""
        return [decode_order(row[0]) for row in self._read("reviews", after.since, after.order_id, limit)]

    async def hold(self, hold: Hold, audit: AuditEntry) -> None:
        """Stores an operator's pause of an account with its record."""

        def work(connection: apsw.Connection, _updates: list[Update]) -> None:
            run(connection, "put_hold", hold.account, hold.at, hold.by, hold.reason)
            writing.add_audit(connection, self.chain, audit)

        await self._group.submit(work)

    async def end_hold(self, audit: AuditEntry) -> None:
        """Ends the pause of the record's account, if there is one, with its record."""

        def work(connection: apsw.Connection, _updates: list[Update]) -> None:
            run(connection, "end_hold", audit.account)
            writing.add_audit(connection, self.chain, audit)

        await self._group.submit(work)

    async def holds(self) -> list[Hold]:
        """The accounts that operators paused."""
        return [Hold(*row) for row in self._read("holds", "")]

    async def audit(
        self, before: int, limit: int, *, only_decisions: bool = False, order_id: str = ""
    ) -> list[AuditEntry]:
        """One page of the audit, newest first."""
        place = (before or _AFTER_EVERY_ENTRY, limit)
        if order_id:
            rows = self._read("audit_of_order", *place, order_id, only_decisions)
        else:
            rows = self._read("decisions" if only_decisions else "audit", *place)
        columns = ("entry_id", *COLUMNS)
        return [AuditEntry(**dict(zip(columns, row, strict=True))) for row in rows]

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        """Adds entries to this process's chain of the audit."""
        await self._group.submit(lambda c, _updates: writing.add_audit(c, self.chain, *entries))

    async def erase(self, before: int, at: int, limit: int) -> Erased:
        """Empties what is sealed of cards, answers and callbacks from before a time, up to `limit` of each."""

        def work(connection: apsw.Connection, _updates: list[Update]) -> Erased:
            names = ("erase_cards", "erase_answers", "erase_callbacks")
            return Erased(*(len(run(connection, name, before, at, limit)) for name in names))

        return await self._group.submit(work)

    # --- The log ----------------------------------------------------------------------------------------------------

    async def head(self, client_id: str) -> Head:
        """The ends of the client's log."""
        rows = self._read("head", client_id)
        position, pruned_through = rows[0] if rows else (0, 0)
        return Head(position, pruned_through, self._epoch)

    async def updates(self, client_id: str, after: int, limit: int) -> list[Update]:
        """Updates with a position above `after`, oldest first."""
        rows = self._read("updates", client_id, after, limit)
        return [Update(client_id, position, decode_order(body)) for position, body in rows]

    async def snapshot(self, query: SnapshotQuery) -> list[Order]:
        """One page of a snapshot, by order id."""
        page = (query.client_id, query.after_order_id, query.up_to, query.limit)
        if query.order_ids is None and query.client_order_ids is None:
            rows = self._read("snapshot_all", *page)
        else:
            ids = _json(sorted(query.order_ids or ()))
            rows = self._read("snapshot_some", *page, ids, _json(sorted(query.client_order_ids or ())))
        return [decode_order(row[0]) for row in rows]

    async def prune(self, client_id: str, before: int, limit: int) -> int:
        """Drops up to `limit` updates, from the start of the log, made before that time; says how many."""
        return await self._group.submit(lambda c, _updates: writing.prune(c, client_id, before, limit))

    # --- Purchases and callbacks ------------------------------------------------------------------------------------

    async def purchase(self, account: str, number: str) -> PurchaseKey | None:
        """Finds a purchase by its number at a supplier account."""
        rows = self._read("purchase", account, number)
        return PurchaseKey(rows[0][0], rows[0][1], number) if rows else None

    async def adopt(self, after_number: str, limit: int, *, thorough: bool = False) -> list[OpenPurchase]:
        """One page of all unsettled purchases, by number: the process that followed them is dead."""
        rows = self._read("open_purchases", after_number, limit)
        return [
            OpenPurchase(client_id, order_id, number, account, PurchaseState(state), watch_until)
            for client_id, order_id, number, account, state, watch_until in rows
        ]

    async def keep_callback(self, record: CallbackRecord) -> bool:
        """Keeps a callback; False when the same one was kept before."""
        row = (record.account, record.digest, record.number, record.order_id, record.at, record.sealed)
        return await self._group.submit(lambda c, _updates: bool(run(c, "keep_callback", *row)))

    async def callbacks(self, query: CallbackQuery) -> list[CallbackRecord]:
        """One page of the callbacks that were kept, newest first."""
        before = query.before or _AFTER_EVERY_CALLBACK
        name = "unknown_callbacks" if query.only_unknown else "callbacks"
        rows = self._read(name, query.account, before.at, before.digest, query.limit)
        return [
            CallbackRecord(query.account, number, order_id, digest, at, *rest)
            for number, order_id, digest, at, *rest in rows
        ]

    # --- Keys, secrets, tokens --------------------------------------------------------------------------------------

    async def data_keys(self, client_id: str) -> list[WrappedKey]:
        """The client's data keys, the newest last."""
        rows = self._read("data_keys", client_id)
        return [WrappedKey(key_id, client_id, master, wrapped) for key_id, master, wrapped in rows]

    async def add_data_key(self, key: WrappedKey) -> WrappedKey:
        """Adds a client's first data key and returns it, or the one that another process added first."""

        def work(connection: apsw.Connection, _updates: list[Update]) -> WrappedKey:
            run(connection, "add_first_data_key", key.client_id, key.key_id, key.master_key_id, key.wrapped)
            [*_, (key_id, master, wrapped)] = run(connection, "data_keys", key.client_id)
            return WrappedKey(key_id, key.client_id, master, wrapped)

        return await self._group.submit(work)

    async def all_data_keys(self) -> list[WrappedKey]:
        """The data keys of all clients and of the service, by client, the newest of each last."""
        rows = self._read("all_data_keys")
        return [WrappedKey(key_id, client_id, master, wrapped) for client_id, key_id, master, wrapped in rows]

    async def rewrap(self, former: WrappedKey, key: WrappedKey) -> bool:
        """Stores the same data key wrapped by another master key."""
        row = (former.key_id, former.wrapped, key.master_key_id, key.wrapped)
        return await self._group.submit(lambda c, _updates: bool(run(c, "rewrap", *row)))

    async def rotate(self, key: WrappedKey, rotation: Rotation, audit: AuditEntry) -> None:
        """Adds a client's newest data key, with its record."""

        def work(connection: apsw.Connection, _updates: list[Update]) -> None:
            run(connection, "add_data_key", key.client_id, key.key_id, key.master_key_id, key.wrapped)
            run(connection, "put_rotation", *rotation_row(rotation))
            writing.add_audit(connection, self.chain, audit)

        await self._group.submit(work)

    async def rotations(self) -> list[Rotation]:
        """How far the newest keys have got, by client."""
        return [rotation_of(row) for row in self._read("rotations")]

    async def sealed_rows(self, rotation: Rotation, limit: int) -> list[SealedRow]:
        """The next rows of a rotation's table, empty ones left out."""
        table = sealed_table(rotation.table)
        client = (rotation.client_id,) if table.of_clients else ()
        values = (*client, *place_of(rotation), limit)
        statement = table.page(writing.places(len(values)), first=not rotation.after)
        return [sealed_row(table, row) for row in self._run(lambda: self._reader.execute(statement, values).fetchall())]

    async def reseal(self, former: Rotation, now: Rotation, rows: Sequence[Resealed]) -> bool:
        """Stores rows under another key and how far this has got."""
        return await self._group.submit(lambda c, _updates: writing.reseal(c, former, now, rows))

    async def named_secret(self, name: str, sealed: bytes) -> bytes:
        """Stores a sealed secret under a name unless there is one, and returns the stored one."""

        def work(connection: apsw.Connection, _updates: list[Update]) -> bytes:
            run(connection, "add_secret", name, sealed)
            [(stored,)] = run(connection, "secret", name)
            return bytes(stored)

        return await self._group.submit(work)

    async def token(self, account: str) -> SealedToken | None:
        """Reads an account's access token."""
        rows = self._read("token", account)
        return SealedToken(account, *rows[0]) if rows else None

    async def save_token(self, token: SealedToken) -> None:
        """Stores an account's access token."""
        row = (token.account, token.sealed, token.fetched_at, token.expires_at)
        await self._group.submit(lambda c, _updates: run(c, "save_token", *row))

    async def new_epoch(self) -> None:
        """From the next opening on, tokens of the present history are refused."""
        epoch = random_epoch()
        await self._group.submit(lambda c, _updates: run(c, "new_epoch", epoch))

    async def close(self) -> None:
        """Finishes what was handed over and closes the database."""
        await self._group.close()
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        # Closing the last connection writes the log back into the database: a disk's work, not the loop's.
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close_connections)
        self._thread.shutdown()
        os.close(lock)

    # --- Inside -----------------------------------------------------------------------------------------------------

    async def _commit_in_thread(self, commit: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, commit)

    def _close_connections(self) -> None:
        for connection in (self._reader, self._writer):
            try:
                connection.close()
            except apsw.Error:
                # The log keeps what couldn't be written back; the next start does it.
                continue

    def _read(self, name: str, *values: Any) -> list[Row]:
        return self._run(lambda: run(self._reader, name, *values))

    def _run(self, read: Callable[[], list[Row]]) -> list[Row]:
        self._group.check()
        try:
            return read()
        except apsw.Error as error:
            raise self._group.failed(error) or StoreError(f"reading failed: {error}") from error


def _json(texts: Iterable[str]) -> str:
    return msgspec.json.encode(list(texts)).decode()
