"""What the PostgreSQL store promises beyond what every store does: order of commits, leases, lost answers, failures."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from urllib.parse import SplitResult, urlsplit, urlunsplit

import asyncpg
import pytest

from postgres_server import Cluster, Server, execute
from reward_server import probes
from reward_server.domain.order import Order, OrderState, PurchaseState
from reward_server.store import (
    AuditEntry,
    Head,
    Hold,
    LeaseLost,
    OrderQuery,
    StoreRefused,
    StoreUnavailable,
    Update,
)
from reward_server.store.codec import encode_order
from reward_server.store.postgres import PostgresStore, migrate_postgres, open_postgres, opening, tailing
from reward_server.store.postgres.deciding import Batch, Write
from reward_server.store.postgres.sql import STATEMENTS

from .conformance import all_updates
from .samples import START, an_order, delivered, moved, new_id, touched

PATIENCE = 60.0
"""How long a test waits for what must come."""

_names = itertools.count(1)

Opening = Callable[..., Awaitable[PostgresStore]]


@pytest.fixture
async def replica(store_url: str) -> AsyncIterator[Opening]:
    """Opens the database as one more process, whose listeners hear of the logs of `shop` and `other`."""
    opened: list[PostgresStore] = []

    async def opening_one(
        dsn: str = store_url, *, poll_seconds: float = 60.0, lease_seconds: float = 60.0
    ) -> PostgresStore:
        store = await open_postgres(dsn, poll_seconds=poll_seconds, lease_seconds=lease_seconds)
        await store.join(f"replica-{next(_names)}")
        opened.append(store)
        return store

    yield opening_one
    for store in opened:
        await store.close()


@dataclass
class Ear:
    """What a listener hears, per client."""

    heard: dict[str, list[int]] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, updates: Sequence[Update]) -> None:
        for update in updates:
            self.heard.setdefault(update.client_id, []).append(update.position)
        self.news.set()

    async def until(self, client_id: str, position: int) -> list[int]:
        """Waits until a position was heard; what was heard of that client."""
        async with asyncio.timeout(PATIENCE):
            while position not in self.heard.get(client_id, []):
                self.news.clear()
                await self.news.wait()
        return self.heard[client_id]


def listening(store: PostgresStore, *client_ids: str) -> Ear:
    """A listener that follows these clients."""
    ear = Ear()
    store.listen(ear)
    for client_id in client_ids:
        store.follow(client_id)
    return ear


async def ordered(store: PostgresStore, client_id: str = "shop") -> Order:
    """A stored order."""
    order = an_order(client_id)
    assert not (await store.create(order)).existed
    return order


def over(store: PostgresStore, dsn: str, since: str = "0 seconds") -> None:
    """The lease of a process has been over for so long."""
    execute(dsn, f"UPDATE replicas SET until = now() - interval '{since}' WHERE owner = '{store._owner}'")  # noqa: S608


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    """Asks the database again and again, which tells nobody when it changes."""
    async with asyncio.timeout(PATIENCE):
        while not await what():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


# --- Group commit and positions ---------------------------------------------------------------------------------------


@pytest.mark.rule("D3")
async def test_one_clients_writers_share_commits(replica: Opening) -> None:
    """Whoever writes while a commit is under way shares the next: commits per order fall as load rises."""
    store = await replica()
    await ordered(store)
    before = store.commits
    await asyncio.gather(*(store.create(an_order()) for _ in range(100)))
    assert store.commits - before <= 3
    assert [update.position for update in await all_updates(store)] == list(range(1, 102))


@pytest.mark.rule("D3")
async def test_clients_do_not_wait_for_each_other(replica: Opening, store_url: str) -> None:
    """While one client's log is locked, by any process, others commit."""
    store = await replica()
    await ordered(store, "shop")
    async with locked_head(store_url, "shop") as free:
        waiting = asyncio.create_task(store.create(an_order("shop")))
        await ordered(store, "other")
        assert not waiting.done()
        await free()
        assert (await waiting).head.position == 2


@pytest.mark.rule("D10")
async def test_orders_created_and_changed_in_one_batch_keep_every_version(replica: Opening) -> None:
    """Of an order that is created, and changed twice, before anything was committed each version is in the log."""
    store = await replica()
    order = an_order()
    second = moved(order, PurchaseState.UNKNOWN, OrderState.OUTCOME_UNKNOWN)
    third = touched(second.order)
    fourth = delivered(third.order)
    created, *saved = await asyncio.gather(
        store.create(order), store.save(second), store.save(third), store.save(fourth), store.save(second)
    )
    assert (created.existed, saved, store.commits) == (False, [True, True, True, False], 1)
    assert [(update.position, update.order) for update in await all_updates(store)] == [
        (1, order),
        (2, second.order),
        (3, fourth.order),
    ]
    assert await store.order("shop", order.order_id) == fourth.order
    # As stored, not as it was handed in.
    assert (await store.create(an_order(client_order_id=order.client_order_id))).order == fourth.order


@pytest.mark.rule("D4")
async def test_a_reader_misses_nothing_of_commits_that_overtake_each_other(replica: Opening, store_url: str) -> None:
    """A transaction that has its position and is held open keeps later ones of that client from committing, on every
    process; so a reader that goes on from the last position it saw has seen all before it.
    """
    first, second, reading = await replica(), await replica(), await replica()
    ear = listening(reading, "shop", "other")
    await ordered(first, "shop")
    await ear.until("shop", 1)
    held = an_order("shop")
    async with locked_head(store_url, "shop", held) as free:
        waiting = [asyncio.create_task(store.create(an_order("shop"))) for store in (first, second) for _ in range(25)]
        # The load on the other client goes on meanwhile, and what it commits is read.
        await asyncio.gather(*(store.create(an_order("other")) for store in (first, second) for _ in range(50)))
        await ear.until("other", 100)
        assert ear.heard["shop"] == [1]
        assert not any(task.done() for task in waiting)
        await free()
        await asyncio.gather(*waiting)
    await ear.until("shop", 52)
    assert ear.heard == {"shop": list(range(1, 53)), "other": list(range(1, 101))}
    [second_update] = await reading.updates("shop", 1, 1)
    assert second_update.order == held


async def test_a_plain_sequence_would_have_lost_one(database: str) -> None:
    """The same with numbers from a sequence: the reader passes over the one that is committed late."""
    execute(database, "CREATE TABLE log (position BIGINT GENERATED ALWAYS AS IDENTITY, what TEXT)")
    early, late, reader = [await asyncpg.connect(database) for _ in range(3)]
    append, read = (
        "INSERT INTO log (what) VALUES ($1)",
        "SELECT position FROM log WHERE position > $1 ORDER BY position",
    )
    await early.execute("BEGIN")
    await early.execute(append, "held open")
    await late.execute(append, "overtakes")
    seen = [row[0] for row in await reader.fetch(read, 0)]
    await early.execute("COMMIT")
    seen += [row[0] for row in await reader.fetch(read, seen[-1])]
    assert seen == [2]
    assert await reader.fetchval("SELECT count(*) FROM log") == 2
    for connection in (early, late, reader):
        await connection.close()


@contextlib.asynccontextmanager
async def locked_head(
    dsn: str, client_id: str, order: Order | None = None
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Another process in the middle of its commit to a client's log, with an order in it or not; `free` commits."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("BEGIN")
    [(position, pruned)] = await connection.fetch(STATEMENTS["lock_head"], client_id)
    if order is not None:
        batch = Batch(client_id, "somebody", "its chain", 1, True, Head(position, pruned, 1))
        batch.decide(Write(order, encode_order(order), "somebody"))
        await connection.fetchrow(STATEMENTS["write"], *batch.rows())

    async def free() -> None:
        await connection.execute("COMMIT")

    try:
        yield free
    finally:
        await connection.close()


# --- What other processes commit --------------------------------------------------------------------------------------


async def test_what_one_process_commits_the_listeners_of_others_hear(replica: Opening) -> None:
    """By a notification, in the order of positions, with their own commits in between in their places."""
    here, there = await replica(), await replica()
    ear = listening(here, "shop")
    await ordered(there)
    await ear.until("shop", 1)
    for position in range(2, 40):
        await ordered(here if position % 3 else there)
    assert await ear.until("shop", 39) == list(range(1, 40))
    assert here.notices > 0


async def test_a_log_that_nobody_follows_here_is_not_read(replica: Opening) -> None:
    """Other processes' commits to it are nobody's business; our own are told all the same."""
    here, there = await replica(), await replica()
    ear = listening(here, "shop")
    await ordered(there, "other")
    await ordered(there, "shop")
    await ear.until("shop", 1)
    await ordered(here, "other")
    assert ear.heard == {"shop": [1], "other": [2]}
    here.unfollow("shop")
    await ordered(there, "shop")
    await ordered(here, "shop")
    assert ear.heard["shop"] == [1, 3]


async def test_who_begins_to_follow_hears_of_the_last_update(replica: Opening) -> None:
    """And so knows that there are others before it; then of all that come."""
    here, there = await replica(), await replica()
    for _ in range(5):
        await ordered(there)
    ear = listening(here, "shop")
    await ear.until("shop", 5)
    await ordered(there)
    assert await ear.until("shop", 6) == [5, 6]


async def test_without_notifications_the_log_is_looked_at(replica: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a pooler that drops them every update comes all the same, by looking."""
    monkeypatch.setitem(STATEMENTS, "notify", "SELECT $1::text")
    here, there = await replica(poll_seconds=0.05), await replica()
    ear = listening(here, "shop")
    for _ in range(20):
        await ordered(there)
    assert (await ear.until("shop", 20))[-1] == 20
    assert sorted(set(ear.heard["shop"])) == ear.heard["shop"]
    assert here.notices == 0


async def test_others_updates_are_told_before_our_own_that_follow_them(
    replica: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody notified us: what we commit next shows that they are there."""
    monkeypatch.setitem(STATEMENTS, "notify", "SELECT $1::text")
    here, there = await replica(), await replica()
    ear = listening(here, "shop")
    await ordered(here)
    await ear.until("shop", 1)
    await ordered(there)
    await ordered(here)
    assert await ear.until("shop", 3) == [1, 2, 3]


class Reading:
    """The reading of a store's logs, which can be held up once the log was read."""

    def __init__(self, store: PostgresStore) -> None:
        self._read = store._tailing._read
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, client_id: str, after: int, limit: int) -> list[Update]:
        page = await self._read(client_id, after, limit)
        self.begun.set()
        await self.go_on.wait()
        return page


async def test_our_own_update_that_is_being_read_is_told_once(
    replica: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody saw the end of the log before we heard that our commit was done."""
    here = await replica()
    ear = listening(here, "shop")
    await ordered(here)
    await ear.until("shop", 1)
    reading = Reading(here)
    monkeypatch.setattr(here._tailing, "_read", reading)
    committed = here._tailing.committed

    def seen_before(client_id: str, updates: list[Update]) -> None:
        here._tailing._hear(client_id, updates[-1].position)
        committed(client_id, updates)

    monkeypatch.setattr(here._tailing, "committed", seen_before)
    await ordered(here)
    reading.go_on.set()
    await ear.until("shop", 2)
    await ordered(here)
    assert await ear.until("shop", 3) == [1, 2, 3]


async def test_who_follows_again_hears_nothing_of_a_reading_from_before(
    replica: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that was under way when the last watcher left is nobody's any more."""
    here, there = await replica(), await replica()
    ear = listening(here, "shop")
    await ordered(there)
    await ear.until("shop", 1)
    former = Reading(here)
    with monkeypatch.context() as patched:
        patched.setattr(here._tailing, "_read", former)
        await ordered(there)
        async with asyncio.timeout(PATIENCE):
            await former.begun.wait()
    here.unfollow("shop")
    here.follow("shop")
    await ordered(there)
    await ear.until("shop", 3)
    former.go_on.set()
    await ordered(there)
    heard = await ear.until("shop", 4)
    assert heard == sorted(set(heard))


async def test_of_a_log_that_is_far_ahead_only_the_end_is_told(
    replica: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who watches reads the log from its own place: a million updates needn't pass through here for that."""
    monkeypatch.setattr(tailing, "FAR_BEHIND", 20)
    monkeypatch.setitem(STATEMENTS, "notify", "SELECT $1::text")
    here, there = await replica(), await replica()
    ear = listening(here, "shop")
    await ordered(here)
    await ear.until("shop", 1)
    await asyncio.gather(*(ordered(there) for _ in range(50)))
    here._tailing._look.set()
    assert await ear.until("shop", 51) == [1, 51]


async def test_a_notification_is_never_longer_than_the_database_takes(
    replica: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many clients at once several are sent, and each client is in one of them."""
    here, there = await replica(), await replica()
    names = [f"client-{n:03}-{'x' * 60}" for n in range(200)]
    ear = listening(here, *names)
    lost: list[object] = []
    monkeypatch.setattr(tailing.log, "warning", lambda *words, **_: lost.append(words))
    # The first is notified alone, the others together when that is done.
    await asyncio.gather(*(ordered(there, name) for name in names))
    await asyncio.gather(*(ear.until(name, 1) for name in names))
    assert lost == []


@pytest.mark.rule("D18")
async def test_after_a_restart_of_the_database_it_listens_again(cluster: Cluster) -> None:
    """Its connections are made anew, and what was committed meanwhile is told."""
    dsn = cluster.create_database("reward")
    await migrate_postgres(dsn)
    here, there = await open_postgres(dsn, poll_seconds=0.2), await open_postgres(dsn)
    ear = listening(here, "shop")
    await there.join("there")
    await ordered(there)
    await ear.until("shop", 1)
    await asyncio.to_thread(cluster.kill)
    with pytest.raises(StoreUnavailable):
        await here.order("shop", "x")
    await asyncio.to_thread(cluster.start)
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(StoreUnavailable):
                await ordered(there)
                break
            await asyncio.sleep(0.05)
    await ear.until("shop", 2)
    notices = here.notices
    async with asyncio.timeout(PATIENCE):
        while here.notices == notices:
            await ordered(there)
            await asyncio.sleep(0.05)
    await here.close()
    await there.close()


# --- Leases -----------------------------------------------------------------------------------------------------------


@pytest.mark.rule("D10", "D16")
async def test_without_its_lease_a_process_intends_nothing_and_reports_everything(
    replica: Opening, store_url: str
) -> None:
    """What lets a request go out is refused, evidence isn't; a new lease makes all well."""
    store = await replica()
    order = await ordered(store)
    execute(store_url, "UPDATE replicas SET until = now()")
    with pytest.raises(LeaseLost):
        await store.create(an_order())
    with pytest.raises(LeaseLost):
        await store.save(replace(touched(order), fenced=True))
    assert await store.save(moved(order, PurchaseState.UNKNOWN, OrderState.OUTCOME_UNKNOWN))
    lease = await store.renew()
    assert (lease.held, lease.replicas) == (False, 1)
    await store.join("another name")
    assert (await store.renew()).held
    await ordered(store)


@pytest.mark.rule("D16")
async def test_a_batch_goes_on_without_those_that_need_a_lease(replica: Opening, store_url: str) -> None:
    """One that is refused for it takes nobody with it."""
    store = await replica()
    order = await ordered(store)
    execute(store_url, "UPDATE replicas SET until = now()")
    refused, saved = await asyncio.gather(
        store.create(an_order()), store.save(delivered(order)), return_exceptions=True
    )
    assert isinstance(refused, LeaseLost)
    assert saved is True
    assert [update.order.order_id for update in await all_updates(store)] == [order.order_id] * 2


@pytest.mark.rule("D16")
async def test_a_living_process_keeps_its_purchases_and_a_dead_one_leaves_them_once(
    replica: Opening, store_url: str
) -> None:
    """Of two that look at the same time each purchase goes to one."""
    dying, one, two = [await replica() for _ in range(3)]
    mine = [await ordered(dying) for _ in range(30)]
    assert await one.adopt("", 100) == []
    over(dying, store_url, "3 seconds")
    adopted = []
    while pages := [page for page in await asyncio.gather(one.adopt("", 5), two.adopt("", 5)) if page]:
        adopted += [found for page in pages for found in page]
    assert sorted(found.order_id for found in adopted) == sorted(order.order_id for order in mine)
    assert all(found.abandoned_for is not None and found.abandoned_for >= 3_000 for found in adopted)
    assert await one.adopt("", 100) == []
    assert (await one.renew()).replicas == 2


@pytest.mark.rule("D16")
async def test_who_has_no_lease_takes_nothing_up(replica: Opening, store_url: str) -> None:
    """Others would take it from there at once, and both would work on it."""
    dying, frozen = await replica(), await replica()
    order = await ordered(dying)
    for store in (dying, frozen):
        over(store, store_url)
    assert await frozen.adopt("", 10) == await frozen.adopt("", 10, thorough=True) == []
    await frozen.join("another name")
    assert [found.order_id for found in await frozen.adopt("", 10)] == [order.order_id]


async def test_who_leaves_in_good_order_is_known_to_be_gone(replica: Opening) -> None:
    """What it left is taken up at once, and nobody waits for what it may still send."""
    leaving, staying = await replica(), await replica()
    order = await ordered(leaving)
    await leaving.close()
    [found] = await staying.adopt("", 10)
    assert (found.order_id, found.abandoned_for) == (order.order_id, None)


@pytest.mark.parametrize("state", [PurchaseState.SUBMITTING, PurchaseState.UNKNOWN])
async def test_a_purchase_whose_request_is_under_way_stays_its_senders(
    replica: Opening, store_url: str, state: PurchaseState
) -> None:
    """Whoever changes the order meanwhile, also while only a late answer is awaited; everything else of the order is
    the last writer's.
    """
    sender, other = await replica(), await replica()
    order = an_order()
    sending = replace(order.purchases[0], state=state, owner=sender._owner)
    waiting = replace(sending, number=new_id(), first_unit=1, state=PurchaseState.WAITING, owner="")
    order = replace(order, quantity=2, purchases=(sending, waiting))
    await sender.create(order)
    await other.save(touched(order))
    over(sender, store_url)
    assert [found.number for found in await other.adopt("", 10)] == [sending.number]


async def test_an_adoption_whose_answer_was_lost_is_heard_of_with_the_next(
    replica: Opening, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is ours by then and nobody follows comes again."""
    dying, heir = await replica(), await replica()
    order = await ordered(dying)
    over(dying, store_url)
    fetch = heir._fetch

    async def losing(name: str, *values: object) -> object:
        await fetch(name, *values)
        raise StoreUnavailable("the answer was lost")

    monkeypatch.setattr(heir, "_fetch", losing)
    with pytest.raises(StoreUnavailable):
        await heir.adopt("", 10)
    monkeypatch.undo()
    assert [found.order_id for found in await heir.adopt("", 10)] == [order.order_id]
    assert await heir.adopt(order.purchases[0].number, 10) == []
    assert await heir.adopt("", 10) == []


async def test_a_process_frozen_in_the_middle_of_a_write_is_not_waited_for(
    replica: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database ends its transaction after a while, and with it its lock on a client's log."""
    monkeypatch.setattr(opening, "IDLE_IN_TRANSACTION_MS", 300)
    frozen, going_on = await replica(), await replica()
    order = await ordered(frozen)
    async with frozen._pool.acquire() as connection:
        await connection.execute("BEGIN")
        await connection.fetchrow(STATEMENTS["lock_head"], "shop")
        async with asyncio.timeout(PATIENCE):
            assert await going_on.save(delivered(order))
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await connection.execute("COMMIT")


# --- Lost answers and failures ----------------------------------------------------------------------------------------


class Line:
    """A connection to the database that can be cut in the middle: what one side says doesn't arrive any more."""

    def __init__(self, dsn: str) -> None:
        self._target = urlsplit(dsn)
        self.requests_pass = self.answers_pass = True
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        user = self._target.netloc.rpartition("@")[0]
        return urlunsplit(self._target._replace(netloc=f"{user}@127.0.0.1:{port}"))

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Ends all connections; new ones are whole."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self.requests_pass = self.answers_pass = True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, out = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._writers += [writer, out]
        with contextlib.suppress(ConnectionError, OSError):
            await asyncio.gather(
                self._pass(reader, out, lambda: self.requests_pass),
                self._pass(there, writer, lambda: self.answers_pass),
            )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Callable[[], bool]
    ) -> None:
        while data := await reader.read(65_536):
            if passes():
                writer.write(data)
        writer.close()


@pytest.fixture
def at_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Does something once, immediately before the next commit is asked for."""

    def setting(act: Callable[[], None]) -> None:
        waiting = [act]

        def probe(name: str) -> None:
            if name == "commit.ready" and waiting:
                waiting.pop()()

        monkeypatch.setattr(probes, "probe", probe)

    return setting


@pytest.mark.rule("D17")
async def test_a_commit_whose_answer_was_lost_is_asked_after(
    replica: Opening, store_url: str, at_commit: Callable[[Callable[[], None]], None]
) -> None:
    """It was done: the writer hears so, and listeners too; nobody is told anything before it is known."""
    line = Line(store_url)
    async with line as dsn:
        store, elsewhere = await replica(dsn), await replica()
        ear = listening(store, "shop")
        await ordered(store)

        def lose_answers() -> None:
            line.answers_pass = False

        at_commit(lose_answers)
        writing = asyncio.create_task(store.create(an_order()))

        async def committed() -> bool:
            return (await elsewhere.head("shop")).position == 2

        await until(committed)
        assert not writing.done()
        line.cut()
        created = await writing
        assert (created.existed, created.head.position) == (False, 2)
        assert 2 in await ear.until("shop", 2)


@pytest.mark.rule("D17")
async def test_a_commit_that_never_arrived_was_none(
    replica: Opening, store_url: str, at_commit: Callable[[Callable[[], None]], None]
) -> None:
    """The writer hears that nothing was written, which is so."""
    line = Line(store_url)
    async with line as dsn:
        store = await replica(dsn)
        order = await ordered(store)

        def lose_requests() -> None:
            line.requests_pass = False
            asyncio.get_running_loop().call_later(0.05, line.cut)

        at_commit(lose_requests)
        with pytest.raises(StoreUnavailable, match="didn't commit"):
            await store.save(delivered(order))
        assert await store.order("shop", order.order_id) == order
        assert await store.save(delivered(order))


@pytest.mark.rule("D1", "D17")
async def test_a_commit_that_waits_for_a_standby_is_neither_acknowledged_nor_denied(cluster: Cluster) -> None:
    """The standby is gone, so the commit comes to no end, and then its connection breaks. What became of it is asked
    under the lock that it still holds, and nobody is told anything before.
    """
    dsn = cluster.create_database("reward")
    await migrate_postgres(dsn)
    line = Line(dsn)
    async with line as through:
        store, watching = await open_postgres(through), await asyncpg.connect(dsn)
        await store.join("writer")
        await ordered(store)
        await asyncio.to_thread(cluster.configure, synchronous_standby_names="nobody")
        writing = asyncio.create_task(store.create(an_order()))

        async def somebody_waits_for(event: str) -> bool:
            asked = "SELECT count(*) FROM pg_stat_activity WHERE $1 IN (wait_event, wait_event_type)"
            return bool(await watching.fetchval(asked, event))

        await until(lambda: somebody_waits_for("SyncRep"))
        line.cut()
        await until(lambda: somebody_waits_for("Lock"))
        assert not writing.done()
        await asyncio.to_thread(cluster.configure, synchronous_standby_names="")
        created = await asyncio.wait_for(writing, PATIENCE)
        assert (created.existed, created.head.position) == (False, 2)
        await watching.close()
        await store.close()


@pytest.mark.rule("D1", "D17", "D18")
async def test_killed_again_and_again_the_database_keeps_what_was_acknowledged(cluster: Cluster) -> None:
    """Writers hear yes, or that it can't be used at the moment; every yes is there, and each log is whole."""
    dsn = cluster.create_database("reward")
    await migrate_postgres(dsn)
    store = await open_postgres(dsn)
    await store.join("writer")
    stored: list[Order] = []
    refused = 0
    stop, more = asyncio.Event(), asyncio.Event()

    async def write(client_id: str) -> None:
        nonlocal refused
        while not stop.is_set():
            order = an_order(client_id)
            try:
                await store.create(order)
                stored.append(order)
                more.set()
            except StoreUnavailable:
                refused += 1
                await asyncio.sleep(0.02)

    async def stored_more(count: int) -> None:
        enough = len(stored) + count
        async with asyncio.timeout(PATIENCE):
            while len(stored) < enough:
                more.clear()
                await more.wait()

    writers = [asyncio.create_task(write(client_id)) for client_id in ("shop", "other") for _ in range(8)]
    for _ in range(2):
        await stored_more(200)
        await asyncio.to_thread(cluster.kill)
        await asyncio.to_thread(cluster.start)
    await stored_more(50)
    stop.set()
    await asyncio.gather(*writers)
    assert refused > 0
    for client_id in ("shop", "other"):
        log = await store.updates(client_id, 0, 1_000_000)
        assert [update.position for update in log] == list(range(1, len(log) + 1))
        ids = [order.order_id for order in stored if order.client_id == client_id]
        assert sorted(ids) == sorted(update.order.order_id for update in log)
    await store.close()


# --- Opening ----------------------------------------------------------------------------------------------------------


async def test_an_empty_database_is_refused_with_what_to_do(database: str) -> None:
    """The schema is made by an operator's word, not by whichever process starts first."""
    with pytest.raises(StoreRefused, match="run `reward-server migrate`"):
        await open_postgres(database)


@pytest.mark.rule("D11")
async def test_two_that_migrate_at_once_take_turns(database: str) -> None:
    """One of them applies each file, and both end well."""
    applied = await asyncio.gather(*(migrate_postgres(database) for _ in range(4)))
    assert sorted(applied, key=len) == [[], [], [], [migration.name for migration in opening.MIGRATIONS]]
    store = await open_postgres(database)
    assert (await store.head("shop")).epoch > 0
    await store.close()


@pytest.mark.rule("D11")
async def test_a_database_behind_or_ahead_of_the_program_is_refused(database: str) -> None:
    """A lacking file names the command; one of a newer program that this one can't work with, the newer program."""
    await migrate_postgres(database)
    later = replace(opening.MIGRATIONS[-1], number=2, name="0002_later.sql", sql="SELECT 1", oldest_program_schema=2)
    with pytest.raises(StoreRefused, match=r"lacks 0002_later\.sql: run `reward-server migrate`"):
        await open_postgres(database, migrations=(*opening.MIGRATIONS, later))
    await migrate_postgres(database, migrations=(*opening.MIGRATIONS, later))
    with pytest.raises(StoreRefused, match="newer program"):
        await open_postgres(database)


@pytest.mark.rule("D1")
async def test_a_database_that_may_forget_is_refused(postgres: Server, store_url: str) -> None:
    """Each of the settings that make a commit durable must be on."""
    name = store_url.partition("?")[0].rpartition("/")[2]
    execute(postgres.dsn(), f"ALTER DATABASE {name} SET synchronous_commit = off")
    with pytest.raises(StoreRefused, match="synchronous_commit must be on"):
        await open_postgres(store_url)


@pytest.mark.rule("D1")
@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_database_whose_server_may_forget_is_refused(cluster: Cluster, setting: str) -> None:
    """What only the server as a whole can switch off counts as well."""
    dsn = cluster.create_database("reward")
    await migrate_postgres(dsn)
    await asyncio.to_thread(cluster.configure, **{setting: "off"})
    with pytest.raises(StoreRefused, match="fsync, full_page_writes and synchronous_commit must be on"):
        await open_postgres(dsn)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda url: url._replace(path="/nowhere"), "the database refuses us"),
        (lambda url: url._replace(netloc=f"nobody:hunter2@127.0.0.1:{url.port}"), "the database refuses us"),
        (lambda url: url._replace(netloc=url.netloc.replace(str(url.port), "1")), "is it running"),
    ],
    ids=["no such database", "wrong password", "nobody listens"],
)
async def test_a_database_that_cannot_be_reached_is_told_without_the_password(
    store_url: str, change: Callable[[SplitResult], SplitResult], told: str
) -> None:
    """What is wrong, and nothing of the URL's secrets."""
    wrong = urlunsplit(change(urlsplit(store_url)))
    with pytest.raises(StoreRefused, match=told) as refused:
        await open_postgres(wrong)
    assert "hunter2" not in str(refused.value)
    assert str(urlsplit(store_url).password) not in str(refused.value)


async def test_behind_a_pooler_nothing_outlives_a_transaction(store_url: str) -> None:
    """No statement is prepared under a name, so it doesn't matter which connection runs it."""
    store = await open_postgres(store_url, behind_pooler=True, connections=2)
    await store.join("pooled")
    order = await ordered(store)
    assert await store.save(delivered(order))
    async with store._pool.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
    await store.close()


async def test_what_people_write_is_stored_whatever_is_in_it(replica: Opening) -> None:
    """PostgreSQL's text holds every character but one."""
    store = await replica()
    entry = AuditEntry(at=START, by="a\0b", what="pause", reason="why\0not 上海", account="kss_a")
    await store.hold(Hold("kss_a", START, "a\0b", "why\0not 上海"), entry)
    [hold] = await store.holds()
    assert (hold.by, hold.reason) == ("a\ufffdb", "why\ufffdnot 上海")
    [stored] = await store.audit(0, 10)
    assert (stored.by, stored.reason) == ("a\ufffdb", "why\ufffdnot 上海")
    assert await store.purchase("kss_a", "\0") is None


async def test_a_filter_that_hardly_anything_passes_finds_it(replica: Opening) -> None:
    """An account is found by its whole name among the accounts of an order."""
    store = await replica()
    await ordered(store)
    assert await store.orders(OrderQuery(client_id="shop", account="kss")) == []
    assert len(await store.orders(OrderQuery(client_id="shop", account="kss_a"))) == 1


async def test_the_traces_of_the_dead_are_swept_once_nothing_is_left_of_them(replica: Opening, store_url: str) -> None:
    """After a month, and not while there is something to take up."""
    store, dead = await replica(), await replica()
    order = await ordered(dead)
    over(dead, store_url, "31 days")
    await store.renew()
    [found] = await store.adopt("", 10)
    assert found.abandoned_for is not None
    assert found.abandoned_for >= timedelta(days=31).total_seconds() * 1000
    await store.save(delivered(order))
    await store.renew()
    connection = await asyncpg.connect(store_url)
    assert await connection.fetchval("SELECT count(*) FROM replicas") == 1
    await connection.close()
