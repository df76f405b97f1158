"""The store over PostgreSQL: a pool of connections, a lease, and the logs of other processes' commits."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import structlog

from reward_server.domain.order import Order, OrderState, PurchaseState, Source
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
    StoreUnavailable,
    Update,
    UpdateListener,
    WrappedKey,
    oldest_of,
)
from reward_server.store.chain import new_chain
from reward_server.store.codec import decode_order, encode_order
from reward_server.store.epochs import random_epoch
from reward_server.store.postgres.deciding import Write, audit_row, text
from reward_server.store.postgres.failures import store_error
from reward_server.store.postgres.group import ACQUIRE_SECONDS, GroupCommit
from reward_server.store.postgres.sql import STATEMENTS
from reward_server.store.postgres.tailing import Connect, Tailing
from reward_server.store.quotas import NO_QUOTA, Quota
from reward_server.store.rotating import place_of, rotation_of, rotation_row, sealed_row
from reward_server.store.tables import sealed_table

log = structlog.get_logger(__name__)

CLOSE_SECONDS = 5.0
"""How long connections may take to say goodbye."""

_ANSWERS_LIMIT = 200
"""An order under dispute has a handful; more come only from a supplier gone mad."""

_AFTER_EVERY_ID = "\U0010ffff"
_AFTER_EVERY_CALLBACK = CallbackPlace(2**62, b"")
_AFTER_EVERY_ENTRY = 2**62


class PostgresStore:
    """One process's part of a database. Made by `open_postgres`."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        lease_pool: "asyncpg.Pool[asyncpg.Record]",
        *,
        connect: Connect,
        epoch: int,
        lease_seconds: float,
        poll_seconds: float,
    ) -> None:
        self.commits = 0
        self.broken = asyncio.Event()
        """Never set: what happens to the disk is the database's to mend, and it answers when it has."""
        self.trouble = ""
        """Why it couldn't be used the last time that it was asked something; it is asked several times a lease."""
        self._heard_at = time.monotonic()
        self._pool = pool
        self._lease_pool = lease_pool
        """One connection: writers that wait for somebody's lock must not cost us the lease."""
        self._epoch = epoch
        self._lease_seconds = lease_seconds
        self._owner = ""
        self._unheard = False
        """An adoption whose answer was lost: what it took is looked for among our own."""
        self._adopting = asyncio.Lock()
        self._listeners: list[UpdateListener] = []
        self._observe: Callable[[int, float], None] = lambda _writes, _seconds: None
        self.chain = new_chain()
        """Of the audit."""
        self._group = GroupCommit(
            pool, owner=lambda: self._owner, chain=self.chain, epoch=epoch, committed=self._committed
        )
        self._tailing = Tailing(
            read=self.updates,
            ends=self._ends,
            notify=self._notify,
            connect=connect,
            tell=self._announce,
            poll_seconds=poll_seconds,
        )
        self._tailing.start()
        self._closed = False

    @property
    def cut_off(self) -> bool:
        """Whether the database hasn't answered for as long as a lease lasts; it is asked three times in that time."""
        return time.monotonic() > self._heard_at + self._lease_seconds

    def on_commit(self, observer: Callable[[int, float], None]) -> None:
        """Who is told how many writes shared each commit, and how many seconds it took."""
        self._observe = observer

    def listen(self, listener: UpdateListener) -> None:
        """Adds a listener."""
        self._listeners.append(listener)

    def follow(self, client_id: str) -> None:
        """From now on listeners hear of everything that is committed to this client's log."""
        self._tailing.follow(client_id)

    def unfollow(self, client_id: str) -> None:
        """Nobody here needs to hear of other processes' updates of this client any more."""
        self._tailing.unfollow(client_id)

    @property
    def notices(self) -> int:
        """Notifications of other processes' commits that came."""
        return self._tailing.notices

    @property
    def round_trips(self) -> int:
        """To the database and back, of orders written, for benchmarks."""
        return self._group.round_trips

    # --- The lease --------------------------------------------------------------------------------------------------

    @property
    def lease_seconds(self) -> float | None:
        """How long a lease lasts unless it is renewed."""
        return self._lease_seconds

    async def join(self, owner: str) -> None:
        """Begins a lease under a name that was never used before."""
        # The former one, if there was one, isn't told goodbye: a request that it let out may still be on its way.
        self._owner = owner
        await self._of_lease("join", owner, timedelta(seconds=self._lease_seconds))

    async def renew(self) -> Lease:
        """Makes the lease last from now on; one that was over stays over."""
        held = bool(await self._of_lease("renew", self._owner, timedelta(seconds=self._lease_seconds)))
        [(replicas,)] = await self._of_lease("count_replicas")
        await self._of_lease("forget_replicas")
        return Lease(held=held, replicas=max(1, replicas))

    async def adopt(self, after_number: str, limit: int, *, thorough: bool = False) -> list[OpenPurchase]:
        """One page of the purchases that no process with a lease follows; from now on this one does."""
        name = "adopt_thoroughly" if thorough else "adopt"
        async with self._adopting:
            unheard, self._unheard = self._unheard, True
            rows = await self._fetch(name, self._owner, after_number, limit, unheard)
            # Only when a round came to its end has everything been heard of.
            self._unheard = unheard and bool(rows)
        adopted = [
            OpenPurchase(client_id, order_id, number, account, PurchaseState(state), watch_until, abandoned_for)
            for client_id, order_id, number, account, state, watch_until, abandoned_for in rows
        ]
        return sorted(adopted, key=lambda one: one.number)

    # --- Orders -----------------------------------------------------------------------------------------------------

    async def create(self, order: Order, quota: Quota = NO_QUOTA) -> Created:
        """Stores a new order with its purchases and logs its first update, or gives back the existing one."""
        created: Created = await self._group.submit(
            order.client_id, Write(order, encode_order(order), self._owner, quota=quota)
        )
        return created

    async def save(self, change: Change) -> bool:
        """Stores a change if the stored revision is exactly one below."""
        order = change.order
        saved: bool = await self._group.submit(order.client_id, Write(order, encode_order(order), self._owner, change))
        return saved

    async def order(self, client_id: str, order_id: str) -> Order | None:
        """Reads an order."""
        rows = await self._fetch("order", client_id, order_id)
        return decode_order(rows[0][0]) if rows else None

    async def owner(self, order_id: str) -> str | None:
        """The client of an order, for operators."""
        rows = await self._fetch("owner", order_id)
        return rows[0][0] if rows else None

    async def order_by_client_order_id(self, client_id: str, client_order_id: str) -> tuple[Order | None, Head]:
        """Reads an order and the head of the log in one statement."""
        [(position, pruned_through, body)] = await self._fetch("order_and_head", client_id, client_order_id)
        head = Head(position or 0, pruned_through or 0, self._epoch)
        return (None if body is None else decode_order(body)), head

    async def known_order_ids(self, client_id: str, order_ids: Sequence[str]) -> frozenset[str]:
        """Those of the ids that are orders of this client."""
        return frozenset(row[0] for row in await self._fetch("known_order_ids", client_id, list(order_ids)))

    async def orders(self, query: OrderQuery) -> list[Order]:
        """One page of orders, newest first."""
        rows = await self._fetch(
            "newest_orders",
            query.client_id,
            query.before_order_id or _AFTER_EVERY_ID,
            sorted(query.states),
            query.product_id,
            query.account,
            query.created_from,
            query.created_before,
            query.limit,
        )
        return [decode_order(row[0]) for row in rows]

    async def open_order_counts(self) -> dict[OrderState, int]:
        """How many orders stand in each state that isn't terminal."""
        return {OrderState(state): count for state, count in await self._fetch("open_order_counts")}

    async def oldest(self) -> Oldest:
        """Since when the oldest orders wait."""
        return oldest_of(await self._fetch("oldest"))

    async def cards(self, client_id: str, order_ids: Sequence[str]) -> dict[str, list[SealedCard]]:
        """The cards of several orders, hidden ones left out, by place."""
        cards: dict[str, list[SealedCard]] = {}
        for order_id, card_no, version, number, erased_at, sealed in await self._fetch(
            "cards", client_id, list(order_ids)
        ):
            card = SealedCard(card_no, version, number, sealed, erased_at=erased_at)
            cards.setdefault(order_id, []).append(card)
        return cards

    async def answers(self, client_id: str, order_id: str) -> list[KeptAnswer]:
        """The answers kept for an order, the oldest first."""
        rows = await self._fetch("answers", client_id, order_id, _ANSWERS_LIMIT)
        return [KeptAnswer(number, at, Source(source), *rest) for number, at, source, *rest in rows]

    # --- Operators --------------------------------------------------------------------------------------------------

    async def reviews(self, after: ReviewPlace, limit: int) -> list[Order]:
        """One page of the orders that a person should look at: who waits longest comes first."""
        return [decode_order(row[0]) for row in await self._fetch("reviews", after.since, after.order_id, limit)]

    async def hold(self, hold: Hold, audit: AuditEntry) -> None:
        """Stores an operator's pause of an account with its record."""
        paused = (hold.account, hold.at, text(hold.by), text(hold.reason))
        await self._together(("put_hold", paused), ("add_audit", audit_row(self.chain, audit)))

    async def end_hold(self, audit: AuditEntry) -> None:
        """Ends the pause of the record's account, if there is one, with its record."""
        await self._together(("end_hold", (audit.account,)), ("add_audit", audit_row(self.chain, audit)))

    async def holds(self) -> list[Hold]:
        """The accounts that operators paused."""
        return [Hold(*row) for row in await self._fetch("holds")]

    async def audit(
        self, before: int, limit: int, *, only_decisions: bool = False, order_id: str = ""
    ) -> list[AuditEntry]:
        """One page of the audit, newest first."""
        place = (before or _AFTER_EVERY_ENTRY, limit)
        if order_id:
            rows = await self._fetch("audit_of_order", *place, order_id, only_decisions)
        else:
            rows = await self._fetch("decisions" if only_decisions else "audit", *place)
        return [AuditEntry(**dict(row)) for row in rows]

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        """Adds entries to this process's chain of the audit."""
        rows = [audit_row(self.chain, entry) for entry in entries]
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection, connection.transaction():
                # Sent together: the chain is locked for one round trip, not for one per entry.
                await connection.executemany(STATEMENTS["add_audit"], rows)
        except Exception as error:
            raise self._translated(error) from error

    async def erase(self, before: int, at: int, limit: int) -> Erased:
        """Empties what is sealed of cards, answers and callbacks from before a time, up to `limit` of each."""
        names = ("erase_cards", "erase_answers", "erase_callbacks")
        return Erased(*[len(await self._fetch(name, before, at, limit)) for name in names])

    # --- The log ----------------------------------------------------------------------------------------------------

    async def head(self, client_id: str) -> Head:
        """The ends of the client's log."""
        rows = await self._fetch("head", client_id)
        position, pruned_through = rows[0] if rows else (0, 0)
        return Head(position, pruned_through, self._epoch)

    async def updates(self, client_id: str, after: int, limit: int) -> list[Update]:
        """Updates with a position above `after`, oldest first."""
        rows = await self._fetch("updates", client_id, after, limit)
        return [Update(client_id, position, decode_order(body)) for position, body in rows]

    async def snapshot(self, query: SnapshotQuery) -> list[Order]:
        """One page of a snapshot, by order id."""
        page = (query.client_id, query.after_order_id, query.up_to, query.limit)
        if query.order_ids is None and query.client_order_ids is None:
            rows = await self._fetch("snapshot_all", *page)
        else:
            ids = sorted(query.order_ids or ())
            rows = await self._fetch("snapshot_some", *page, ids, sorted(query.client_order_ids or ()))
        return [decode_order(row[0]) for row in rows]

    async def prune(self, client_id: str, before: int, limit: int) -> int:
        """Drops up to `limit` updates, from the start of the log, made before that time; says how many."""
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection, connection.transaction():
                await connection.fetchrow(STATEMENTS["lock_head"], client_id)
                through, dropped = 0, 0
                for position, at in await connection.fetch(STATEMENTS["oldest_updates"], client_id, limit):
                    if at >= before:
                        break
                    through, dropped = position, dropped + 1
                if dropped:
                    for name in ("unlist_orders", "drop_updates", "mark_pruned"):
                        await connection.execute(STATEMENTS[name], client_id, through)
                return dropped
        except Exception as error:
            raise self._translated(error) from error

    # --- Purchases and callbacks ------------------------------------------------------------------------------------

    async def purchase(self, account: str, number: str) -> PurchaseKey | None:
        """Finds a purchase by its number at a supplier account."""
        if "\0" in number or "\0" in account:
            # No text here holds it, so no number does.
            return None
        rows = await self._fetch("purchase", account, number)
        return PurchaseKey(rows[0][0], rows[0][1], number) if rows else None

    async def keep_callback(self, record: CallbackRecord) -> bool:
        """Keeps a callback; False when the same one was kept before."""
        row = (record.account, record.digest, text(record.number), record.order_id, record.at, record.sealed)
        return bool(await self._fetch("keep_callback", *row))

    async def callbacks(self, query: CallbackQuery) -> list[CallbackRecord]:
        """One page of the callbacks that were kept, newest first."""
        before = query.before or _AFTER_EVERY_CALLBACK
        name = "unknown_callbacks" if query.only_unknown else "callbacks"
        rows = await self._fetch(name, query.account, before.at, before.digest, query.limit)
        return [
            CallbackRecord(query.account, number, order_id, digest, at, *rest)
            for number, order_id, digest, at, *rest in rows
        ]

    # --- Keys, secrets, tokens --------------------------------------------------------------------------------------

    async def data_keys(self, client_id: str) -> list[WrappedKey]:
        """The client's data keys, the newest last."""
        rows = await self._fetch("data_keys", client_id)
        return [WrappedKey(key_id, client_id, master, wrapped) for key_id, master, wrapped in rows]

    async def add_data_key(self, key: WrappedKey) -> WrappedKey:
        """Adds a client's first data key and returns it, or the one that another process added first."""
        await self._execute("add_first_data_key", key.client_id, key.key_id, key.master_key_id, key.wrapped)
        return (await self.data_keys(key.client_id))[-1]

    async def all_data_keys(self) -> list[WrappedKey]:
        """The data keys of all clients and of the service, by client, the newest of each last."""
        rows = await self._fetch("all_data_keys")
        return [WrappedKey(key_id, client_id, master, wrapped) for client_id, key_id, master, wrapped in rows]

    async def rewrap(self, former: WrappedKey, key: WrappedKey) -> bool:
        """Stores the same data key wrapped by another master key."""
        row = (former.key_id, former.wrapped, key.master_key_id, key.wrapped)
        return bool(await self._fetch("rewrap", *row))

    async def rotate(self, key: WrappedKey, rotation: Rotation, audit: AuditEntry) -> None:
        """Adds a client's newest data key, with its record."""
        await self._together(
            ("lock_data_keys", (key.client_id,)),
            ("add_data_key", (key.client_id, key.key_id, key.master_key_id, key.wrapped)),
            ("put_rotation", rotation_row(rotation)),
            ("add_audit", audit_row(self.chain, audit)),
        )

    async def rotations(self) -> list[Rotation]:
        """How far the newest keys have got, by client."""
        return [rotation_of(tuple(row)) for row in await self._fetch("rotations")]

    async def sealed_rows(self, rotation: Rotation, limit: int) -> list[SealedRow]:
        """The next rows of a rotation's table, empty ones left out."""
        table = sealed_table(rotation.table)
        client = (rotation.client_id,) if table.of_clients else ()
        values = (*client, *place_of(rotation), limit)
        rows = await self._query(self._pool, table.page(_places(len(values)), first=not rotation.after), *values)
        return [sealed_row(table, tuple(row)) for row in rows]

    async def reseal(self, former: Rotation, now: Rotation, rows: Sequence[Resealed]) -> bool:
        """Stores rows under another key and how far this has got."""
        table = sealed_table(former.table)
        client = (former.client_id,) if table.of_clients else ()
        values = [(each.sealed, each.row.sealed, *client, *each.row.place) for each in rows]
        stands_at = (former.key_id, former.table, former.after, former.ended_at)
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection, connection.transaction():
                stands = await connection.fetchrow(STATEMENTS["lock_rotation"], former.client_id)
                if stands is None or tuple(stands) != stands_at:
                    return False
                if values:
                    await connection.executemany(table.put(_places(len(values[0]))), values)
                await connection.execute(STATEMENTS["put_rotation"], *rotation_row(now))
                return True
        except Exception as error:
            raise self._translated(error) from error

    async def named_secret(self, name: str, sealed: bytes) -> bytes:
        """Stores a sealed secret under a name unless there is one, and returns the stored one."""
        await self._execute("add_secret", name, sealed)
        [(stored,)] = await self._fetch("secret", name)
        return bytes(stored)

    async def token(self, account: str) -> SealedToken | None:
        """Reads an account's access token."""
        rows = await self._fetch("token", account)
        return SealedToken(account, *rows[0]) if rows else None

    async def save_token(self, token: SealedToken) -> None:
        """Stores an account's access token."""
        await self._execute("save_token", token.account, token.sealed, token.fetched_at, token.expires_at)

    async def new_epoch(self) -> None:
        """From the next opening on, tokens of the present history are refused."""
        await self._execute("new_epoch", random_epoch())

    async def close(self) -> None:
        """Finishes what was handed over, gives the lease back and closes the connections."""
        if self._closed:
            return
        self._closed = True
        await self._group.close(CLOSE_SECONDS)
        await self._tailing.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._owner:
                    await self._of_lease("leave", self._owner)
                await self._lease_pool.close()
                await self._pool.close()
        except (StoreError, TimeoutError) as error:
            log.warning("the database wasn't told that this process leaves", why=str(error) or "no answer in time")
            self._lease_pool.terminate()
            self._pool.terminate()

    # --- Inside -----------------------------------------------------------------------------------------------------

    async def _fetch(self, name: str, *values: Any) -> Sequence["asyncpg.Record"]:
        return await self._ask(self._pool, name, *values)

    async def _of_lease(self, name: str, *values: Any) -> Sequence["asyncpg.Record"]:
        return await self._ask(self._lease_pool, name, *values)

    async def _ask(self, pool: "asyncpg.Pool[asyncpg.Record]", name: str, *values: Any) -> Sequence["asyncpg.Record"]:
        return await self._query(pool, STATEMENTS[name], *values)

    async def _query(
        self, pool: "asyncpg.Pool[asyncpg.Record]", statement: str, *values: Any
    ) -> Sequence["asyncpg.Record"]:
        try:
            async with asyncio.timeout(ACQUIRE_SECONDS):
                rows = await pool.fetch(statement, *values)
        except Exception as error:
            raise self._translated(error) from error
        self._heard()
        return rows

    async def _execute(self, name: str, *values: Any) -> None:
        await self._fetch(name, *values)

    async def _together(self, *statements: tuple[str, Sequence[Any]]) -> None:
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection, connection.transaction():
                for name, values in statements:
                    await connection.execute(STATEMENTS[name], *values)
        except Exception as error:
            raise self._translated(error) from error

    def _heard(self) -> None:
        self.trouble = ""
        self._heard_at = time.monotonic()

    def _translated(self, error: Exception) -> StoreError:
        translated = store_error(error) or StoreError(f"the database refused: {error}")
        if isinstance(translated, StoreUnavailable):
            self.trouble = str(translated)
        return translated

    async def _ends(self, client_ids: Sequence[str]) -> Mapping[str, int]:
        rows = await self._fetch("positions", list(client_ids))
        return {row["client_id"]: row["position"] for row in rows}

    async def _notify(self, payload: str) -> None:
        await self._execute("notify", payload)

    def _committed(self, client_id: str, writes: int, seconds: float, updates: list[Update]) -> None:
        self.commits += 1
        self._heard()
        self._observe(writes, seconds)
        self._tailing.committed(client_id, updates)

    def _announce(self, updates: Sequence[Update]) -> None:
        for listener in self._listeners:
            try:
                listener(updates)
            except Exception as error:
                # The write stands. A listener's defect must neither undo it nor keep the others from hearing.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a listener of the store failed", "exception": error}
                )


def _places(count: int) -> tuple[str, ...]:
    return tuple(f"${n}" for n in range(1, count + 1))
