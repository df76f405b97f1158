"""A SQLite store moves to PostgreSQL: everything is there, whatever interrupts it on the way."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from postgres_server import execute
from reward_server import __main__ as program
from reward_server.domain.order import CardPrint, OrderState, PurchaseState, Source
from reward_server.store import (
    CallbackQuery,
    CallbackRecord,
    Hold,
    KeptAnswer,
    OrderQuery,
    ReviewPlace,
    Rotation,
    SealedCard,
    SealedToken,
    SnapshotQuery,
    Store,
    StoreError,
    StoreRefused,
    WrappedKey,
)
from reward_server.store.migrations import Migration
from reward_server.store.moving import MoveFailed, move
from reward_server.store.open import open_store
from reward_server.store.postgres import PostgresStore, migrate_postgres, open_postgres
from reward_server.store.sqlite import open_sqlite
from reward_server.store.sqlite.opening import MIGRATIONS
from reward_server.store.tables import TABLES

from .conformance import an_entry, assert_chained, in_review
from .samples import START, an_order, delivered, moved, new_id, touched

CLIENTS = ("shop", "other", "商店")
NOT_MOVED = {"meta", "schema", "replicas", "batches"}
SQLITE_COLUMNS = "SELECT m.name, c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c WHERE m.type = 'table'"
POSTGRES_COLUMNS = (
    "SELECT string_agg(table_name || '.' || column_name, ' ') FROM information_schema.columns"
    " WHERE table_schema = 'public'"
)
NUMBERS: list[str] = []


@pytest.fixture
async def source(tmp_path: Path) -> Path:
    """A SQLite store with rows of every kind, of several clients, and a log that was pruned."""
    path = tmp_path / "reward.db"
    store = open_sqlite(path)
    NUMBERS.clear()
    for client_id in CLIENTS:
        for n in range(3):
            await _fill(store, client_id, n)
        await store.prune(client_id, START + 1, 2)
    for account in ("kss_a", "kdb_b"):
        await store.hold(Hold(account, START, "operator (Li)", "they said:\0 wait"), an_entry(account=account))
        await store.save_token(SealedToken(account, b"sealed token\0", START, START + 9))
        for n in range(3):
            record = CallbackRecord(account, f"n\0{n}", "" if n else "01JD", bytes([n]) * 32, START + n, b"sealed \xff")
            await store.keep_callback(record)
    key = WrappedKey(b"new key\xff", CLIENTS[0], "k-1", b"wrapped")
    rotation = Rotation(
        client_id=key.client_id,
        key_id=key.key_id,
        table="cards",
        after=b"\0",
        resealed=1,
        unopened=0,
        began_at=START,
    )
    await store.rotate(key, rotation, an_entry("rotate_keys", reason="by the book"))
    await store.end_hold(an_entry("resume", account="kdb_b", reason="all\0right"))
    await store.named_secret("resume tokens", b"sealed secret")
    await store.erase(START, START + 9, 2)
    await store.close()
    return path


async def _fill(store: Store, client_id: str, n: int) -> None:
    if n == 0:
        await store.add_data_key(WrappedKey(client_id.encode()[:8], client_id, "k-1", b"wrapped"))
    open_one, done = an_order(client_id), an_order(client_id, product_id="qq-10", created_at=START + n)
    NUMBERS.append(open_one.purchases[0].number)
    await store.create(open_one)
    await store.create(done)
    number = done.purchases[0].number
    cards = (SealedCard(1, 2, number, b"sealed card"), SealedCard(2, 2, number, b"kept from the client", True))
    prints = (CardPrint("identity", "content", 1),) if n else ()
    change = delivered(done, cards=cards, audit=an_entry("delivered", order_id=done.order_id, number=number))
    purchase = replace(change.order.purchases[0], cards=prints)
    await store.save(replace(change, order=change.order.with_purchase(purchase)))
    doubtful = moved(open_one, PurchaseState.UNKNOWN, OrderState.OUTCOME_UNKNOWN)
    answers = (KeptAnswer(open_one.purchases[0].number, START, Source.QUERY, b"sealed answer"),)
    await store.save(replace(doubtful, answers=answers))
    if n == 2:
        await store.save(in_review(doubtful.order, START + 5))


async def answers_of(store: Store) -> dict[str, Any]:
    """What the store answers to every question, about everything it holds."""
    said: dict[str, Any] = {
        "counts": await store.open_order_counts(),
        "reviews": await store.reviews(ReviewPlace(), 99),
        "holds": [(hold.account, hold.at, hold.by) for hold in await store.holds()],
        "audit": await store.audit(0, 99),
        "rotations": await store.rotations(),
        "keys": await store.all_data_keys(),
        "secret": await store.named_secret("resume tokens", b"another one"),
        "tokens": [await store.token(account) for account in ("kss_a", "kdb_b", "dushu")],
        "purchases": [await store.purchase("kss_a", number) for number in NUMBERS],
    }
    for account in ("kss_a", "kdb_b"):
        records = await store.callbacks(CallbackQuery(account=account))
        said[f"callbacks {account}"] = [replace(record, number="") for record in records]
        unknown = await store.callbacks(CallbackQuery(account=account, only_unknown=True))
        said[f"unknown callbacks {account}"] = len(unknown)
    for client_id in CLIENTS:
        head = await store.head(client_id)
        orders = await store.orders(OrderQuery(client_id=client_id))
        ids = [order.order_id for order in orders]
        said[client_id] = {
            "head": head,
            "orders": orders,
            "each": [await store.order(client_id, order_id) for order_id in ids],
            "owners": [await store.owner(order_id) for order_id in ids],
            "by their ids": [await store.order_by_client_order_id(client_id, o.client_order_id) for o in orders],
            "log": await store.updates(client_id, 0, 99),
            "snapshot": await store.snapshot(SnapshotQuery(client_id=client_id, up_to=head.position)),
            "of an account": await store.orders(OrderQuery(client_id=client_id, account="kss_a", product_id="qq-10")),
            "cards": await store.cards(client_id, ids),
            "answers": [await store.answers(client_id, order_id) for order_id in ids],
            "keys": await store.data_keys(client_id),
        }
    return said


@asynccontextmanager
async def arrived(dsn: str) -> AsyncIterator[PostgresStore]:
    """The store in the database, opened as by a server."""
    store = await open_postgres(dsn, poll_seconds=0.05)
    try:
        await store.join(new_id())
        yield store
    finally:
        await store.close()


async def answers_before(source: Path, folder: Path) -> dict[str, Any]:
    """What the SQLite store says, of a copy: the file itself isn't opened any more once it was moved."""
    store = open_sqlite(Path(shutil.copy(source, folder / "copy.db")))
    try:
        return await answers_of(store)
    finally:
        await store.close()


def quiet(_line: str) -> None:
    """Nobody looks on."""


async def test_no_table_and_no_column_is_left_behind(database: str, tmp_path: Path) -> None:
    """What moves is all that either schema has, but for facts about the database itself and who works on it."""
    await migrate_postgres(database)
    await open_sqlite(tmp_path / "reward.db").close()
    connection = apsw.Connection(str(tmp_path / "reward.db"))
    in_sqlite = set(connection.execute(SQLITE_COLUMNS))
    connection.close()
    in_postgres = set(execute(database, POSTGRES_COLUMNS).split())
    moved = {f"{table.name}.{column}" for table in TABLES for column in table.columns}
    assert {f"{table}.{column}" for table, column in in_sqlite if table not in NOT_MOVED} == moved
    others = {column for column in in_postgres if column.partition(".")[0] not in NOT_MOVED}
    assert others == moved | {"purchases.owner"}


async def test_everything_answers_the_same_after_the_move(source: Path, database: str, tmp_path: Path) -> None:
    """Every read of the interface: orders, logs, positions, epoch, sealed cards, keys, pauses, decisions, callbacks."""
    before = await answers_before(source, tmp_path)
    result = await move(source, database, tell=quiet, page=4)
    async with arrived(database) as store:
        assert await answers_of(store) == before
        assert_chained(await store.audit(0, 99))
        taken = await store.adopt("", 99, thorough=True)
        assert [found.number for found in taken] == sorted(NUMBERS)
        assert {found.abandoned_for for found in taken} == {None}, "the process that followed them is known to be dead"
    assert [table.name for table in result] == [table.name for table in TABLES]
    for table in result:
        assert table.rows == execute(database, f"SELECT count(*) FROM {table.name}") > 0  # noqa: S608


async def test_the_store_counts_on_after_the_move(source: Path, database: str) -> None:
    """New orders get the next positions, new records and answers the next numbers, and text without PostgreSQL's
    forbidden character is what people wrote.
    """
    await move(source, database, tell=quiet)
    async with arrived(database) as store:
        position = (await store.head("shop")).position
        order = an_order()
        assert (await store.create(order)).head.position == position + 1
        kept = KeptAnswer(order.purchases[0].number, START, Source.PLACE, b"sealed")
        assert await store.save(replace(touched(order), answers=(kept,)))
        assert await store.answers("shop", order.order_id) == [kept]
        newest = (await store.audit(0, 1))[0].entry_id
        await store.end_hold(an_entry("resume", account="kss_a"))
        assert (await store.audit(0, 1))[0].entry_id == newest + 1
        assert (await store.audit(newest + 1, 1))[0].reason == "all\N{REPLACEMENT CHARACTER}right"


class Interrupted(Exception):
    """Stops a move in the middle."""


def stop_at(words: str) -> Callable[[str], None]:
    """A listener that ends the move when it is told this."""

    def tell(line: str) -> None:
        if line == words:
            raise Interrupted

    return tell


@pytest.mark.parametrize(
    "words", ["audit: 4 rows copied", "orders: 6 rows copied", "callbacks: 6 rows", "orders: 6 rows compared"]
)
async def test_an_interrupted_move_goes_on_where_it_ended(
    source: Path, database: str, tmp_path: Path, words: str
) -> None:
    """In the middle of any table, and while both sides are compared. No server opens the half of a store."""
    before = await answers_before(source, tmp_path)
    with pytest.raises(Interrupted):
        await move(source, database, tell=stop_at(words), page=2, tell_seconds=0.0)
    with pytest.raises(StoreRefused, match="migrate-store"):
        await open_postgres(database)
    there = execute(database, "SELECT count(*) FROM orders")
    told: list[str] = []
    await move(source, database, tell=told.append, page=2)
    assert (f"orders: goes on behind {there} rows" in told) == (there > 0)
    async with arrived(database) as store:
        assert await answers_of(store) == before


CHILD = """
import asyncio, sys
from pathlib import Path
from reward_server.store.moving import move
def tell(line):
    print(line, flush=True)
    sys.stdin.readline()
asyncio.run(move(Path(sys.argv[1]), sys.argv[2], tell=tell, page=2, tell_seconds=0.0))
"""


async def test_a_killed_move_goes_on_where_it_ended(source: Path, database: str, tmp_path: Path) -> None:
    """SIGKILL in the middle of the orders; whoever tries meanwhile is kept out by the lock on the file."""
    before = await answers_before(source, tmp_path)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(source), database, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    async for line in child.stdout:
        if line.startswith(b"orders: 6 "):
            break
        child.stdin.write(b"\n")
    with pytest.raises(StoreRefused, match="in use by another process"):
        await move(source, database, tell=quiet)
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    told: list[str] = []
    await move(source, database, tell=told.append, page=2)
    assert "orders: goes on behind 6 rows" in told
    async with arrived(database) as store:
        assert await answers_of(store) == before


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (["UPDATE orders SET body = body || '\\x20' WHERE order_id = (SELECT max(order_id) FROM orders)"], "orders: "),
        (["UPDATE cards SET sealed = 'x' WHERE card_no = 2"], "cards: the row "),
        (["DELETE FROM purchases WHERE number = (SELECT min(number) FROM purchases)"], "purchases: the row "),
        (["INSERT INTO holds VALUES ('zzz', 1, '', '')"], "holds: the source has 1 rows, the target 2"),
        (["UPDATE heads SET pruned_through = 0"], "heads: the row "),
    ],
)
async def test_what_differs_is_found(source: Path, database: str, statements: Sequence[str], named: str) -> None:
    """A row that was changed, added or lost while it was moved ends the move, and the target stays closed."""
    with pytest.raises(Interrupted):
        await move(source, database, tell=stop_at("callbacks: 6 rows"))
    execute(database, *statements)
    with pytest.raises(MoveFailed, match=named):
        await move(source, database, tell=quiet, page=2)
    with pytest.raises(StoreRefused):
        await open_postgres(database)
    store = open_sqlite(source)
    assert await store.head("shop") is not None, "the source is as it was, and goes on"
    await store.close()


async def test_a_store_that_was_moved_is_not_used_any_more(source: Path, database: str) -> None:
    """Two servers on the two halves would buy everything twice. Moving it once more changes nothing."""
    await move(source, database, tell=quiet)
    with pytest.raises(StoreRefused, match="was moved to PostgreSQL on 20"):
        open_sqlite(source)
    async with arrived(database) as store:
        await store.create(an_order())
    assert await move(source, database, tell=quiet) == []
    connection = apsw.Connection(str(source))
    connection.execute("DELETE FROM meta WHERE key = 'moved'")
    connection.close()
    assert await move(source, database, tell=quiet) == [], "whatever is told to the file, it is closed again"
    with pytest.raises(StoreRefused, match="was moved"):
        open_sqlite(source)


async def test_killed_at_the_very_end_it_is_brought_to_its_end(source: Path, database: str) -> None:
    """The file is closed and the target isn't open yet: run again, both are compared once more."""
    compared = await move(source, database, tell=quiet)
    execute(database, "DELETE FROM meta WHERE key = 'epoch'", "UPDATE meta SET key = 'arriving' WHERE key = 'arrived'")
    assert await move(source, database, tell=quiet) == compared
    async with arrived(database) as store:
        assert (await store.head("shop")).position > 0


async def test_a_database_with_something_else_is_refused(source: Path, database: str, tmp_path: Path) -> None:
    """One that a server was started on, one with another store's half, one that is in use."""
    await migrate_postgres(database)
    async with arrived(database):
        with pytest.raises(StoreRefused, match="a server works on this database"):
            await move(source, database, tell=quiet)
    execute(database, "INSERT INTO secrets VALUES ('resume tokens', 'x')")
    with pytest.raises(StoreRefused, match="secrets of its own"):
        await move(source, database, tell=quiet)
    execute(database, "DELETE FROM secrets")
    other = tmp_path / "other.db"
    await open_sqlite(other).close()
    with pytest.raises(Interrupted):
        await move(other, database, tell=stop_at("secrets: 0 rows"))
    with pytest.raises(StoreRefused, match="another store is being moved"):
        await move(source, database, tell=quiet)


async def test_a_store_of_a_newer_program_is_refused(source: Path, database: str) -> None:
    """And is not changed."""
    newer = Migration(2, "0002_newer.sql", 2, "0" * 64, "CREATE TABLE newer (a INTEGER) STRICT;")
    await open_sqlite(source, migrations=(*MIGRATIONS, newer)).close()
    with pytest.raises(StoreRefused, match="made by a newer program"):
        await move(source, database, tell=quiet)


async def test_a_file_that_is_not_there_is_not_made(database: str, tmp_path: Path) -> None:
    """A wrong path is told, nothing is created."""
    with pytest.raises(StoreRefused, match="isn't there"):
        await move(tmp_path / "typo.db", database, tell=quiet)
    assert os.listdir(tmp_path) == []


def test_the_command(source: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`migrate-store` prints what was compared, tells on standard error how it goes, and ends with 0 or 1."""
    command = ["migrate-store", "--from", f"sqlite:///{source}", "--to", database]
    assert program.run_cli(command) == 0
    said = capsys.readouterr()
    assert "orders             18 rows  sha256 " in said.out
    assert "both sides are the same" in said.out
    assert "orders: 18 rows" in said.err
    assert program.run_cli(command) == 0
    assert "moved before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("postgresql://h/a", "sqlite:///b.db", "There is no way back"),
        ("postgresql://h/a", "postgresql://h/b", "its own tools"),
        ("sqlite:///a.db", "sqlite:///b.db", "--to must be postgresql://"),
        ("sqlite:///nowhere/a.db", "postgresql://h/b", "isn't there"),
    ],
)
def test_other_ways_are_refused(source: str, target: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In a sentence, with exit code 1."""
    assert program.run_cli(["migrate-store", "--from", source, "--to", target]) == 1
    assert words in capsys.readouterr().err


async def test_a_database_that_is_not_there(source: Path, database: str) -> None:
    """Is told without the password."""
    with pytest.raises(StoreError) as refused:
        await move(source, f"{database}_not", tell=quiet)
    assert "does not exist" in str(refused.value)


async def test_a_moved_store_is_opened_by_its_url(source: Path, database: str) -> None:
    """The only change for the server is `store.url`."""
    await move(source, database, tell=quiet)
    store = await open_store(database)
    assert (await store.head("shop")).position > 0
    await store.close()
