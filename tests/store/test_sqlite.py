"""The SQLite store: the conformance suite, and what only an embedded database has to stand."""

import asyncio
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from reward_server.domain.order import OrderState, Source
from reward_server.store import KeptAnswer, OrderQuery, SnapshotQuery, Store, StoreError, StoreRefused, Update
from reward_server.store.open import open_store as open_url
from reward_server.store.sqlite import SqliteStore, open_sqlite
from reward_server.store.sqlite import store as sqlite_store
from reward_server.store.sqlite.opening import refuse_bad_sqlite
from reward_server.store.sqlite.sql import STATEMENTS

from .conformance import StoreConformance, all_orders, all_updates, ids, whole_snapshot
from .samples import START, an_order, delivered, touched


@pytest.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[Store]]]:
    opened: list[Store] = []

    async def opening() -> Store:
        opened.append(await open_url(f"sqlite:///{tmp_path}/rewards.db"))
        return opened[-1]

    yield opening
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: Callable[[], Awaitable[Store]]) -> Store:
    return await open_store()


@pytest.fixture
def successor(store: Store) -> Callable[[], Awaitable[Store]]:
    """The next process finds what this one does: there is only one at a time."""

    async def opening() -> Store:
        return store

    return opening


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = open_sqlite(tmp_path / "rewards.db")
    yield store
    await store.close()


class TestSqliteStore(StoreConformance):
    """The SQLite store keeps the promises of every store."""


# --- Group commit -----------------------------------------------------------------------------------------------------


@pytest.mark.rule("D3")
async def test_writers_share_commits(sqlite: SqliteStore) -> None:
    """Writers that wait at the same time wait for the same commits."""

    async def one() -> None:
        order = an_order()
        await sqlite.create(order)
        await sqlite.save(delivered(order))

    await asyncio.gather(*(one() for _ in range(200)))
    assert (await sqlite.head("shop")).position == 400
    assert sqlite.commits <= 10


async def test_a_failing_listener_harms_nobody(sqlite: SqliteStore) -> None:
    """A listener that raises is reported; the write stands and the next listener hears of it."""
    heard: list[Update] = []
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["exception"]))
    fault = ValueError("a defect in the listener")

    def failing(_updates: object) -> None:
        raise fault

    sqlite.listen(failing)
    sqlite.listen(heard.extend)
    created = await sqlite.create(an_order())
    assert not created.existed
    assert (len(heard), reported) == (1, [fault])


async def test_commits_can_be_run_by_a_simulation(tmp_path: Path) -> None:
    """With a commit function of one's own nothing runs in a thread."""
    runs = 0

    async def commit(work: Callable[[], None]) -> None:
        nonlocal runs
        runs += 1
        work()

    store = open_sqlite(tmp_path / "rewards.db", commit=commit)
    await store.create(an_order())
    await store.close()
    assert runs == 1


# --- Reading ----------------------------------------------------------------------------------------------------------


async def test_a_list_goes_on_over_stretches(sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that passes few orders finds them however far apart they stand."""
    monkeypatch.setattr(sqlite_store, "_STRETCH", 3)
    orders = [an_order(product_id="rare" if n in (0, 7, 8, 17) else "jd-100") for n in range(18)]
    for order in orders:
        await sqlite.create(order)
    found = await all_orders(sqlite, OrderQuery(client_id="shop", product_id="rare"))
    assert found == [orders[n].order_id for n in (17, 8, 7, 0)]
    assert await all_orders(sqlite, OrderQuery(client_id="shop")) == ids(reversed(orders))


def searches(text: str) -> bool:
    """Whether a statement looks for rows, apart from its comments."""
    return text.startswith(("SELECT", "UPDATE", "DELETE"))


SEARCHES = {
    name: code
    for name, text in STATEMENTS.items()
    if searches(code := "\n".join(line for line in text.splitlines() if not line.startswith("--")))
}


@pytest.mark.parametrize("name", sorted(SEARCHES.keys() - {"applied_migrations"}))
async def test_no_statement_goes_through_a_whole_table(sqlite: SqliteStore, name: str) -> None:
    """Statements find their rows, in their order, by an index: none grows dearer with the number of settled orders."""
    code = SEARCHES[name]
    values = [None for number in range(1, 20) if f"?{number}" in code]
    plan = [str(row[3]) for row in sqlite._writer.execute(f"EXPLAIN QUERY PLAN {code}", values).fetchall()]
    tables = {row[0] for row in sqlite._writer.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    scans = [step for step in plan if step.startswith("SCAN") and step.split()[1] in tables]
    assert all("_open" in step for step in scans), plan
    sorts = [step for step in plan if "TEMP B-TREE FOR ORDER BY" in step]
    assert name == "snapshot_some" or not sorts, plan


async def test_a_snapshot_of_all_uses_the_index_made_for_it(sqlite: SqliteStore) -> None:
    """A snapshot passes over settled orders whose updates were pruned."""
    plan = sqlite._writer.execute(f"EXPLAIN QUERY PLAN {SEARCHES['snapshot_all']}", (None,) * 4).fetchall()
    assert "orders_listed" in str(plan[0][3])


async def test_reviews_use_the_index_made_for_them(sqlite: SqliteStore) -> None:
    """Who looks for what waits passes over everything that was settled."""
    plan = sqlite._writer.execute(f"EXPLAIN QUERY PLAN {SEARCHES['reviews']}", (None,) * 3).fetchall()
    assert "orders_in_review" in str(plan[0][3])


async def test_a_card_that_is_not_hidden_cannot_be_released(sqlite: SqliteStore) -> None:
    """A defect fails loudly, and nothing of the change exists."""
    order = an_order()
    await sqlite.create(order)
    with pytest.raises(StoreError, match="no hidden card"):
        await sqlite.save(delivered(order, released=(1,)))
    assert await sqlite.order("shop", order.order_id) == order


async def test_pruning_takes_settled_orders_from_the_snapshot(sqlite: SqliteStore) -> None:
    """What is pruned is gone from the start of the log; open orders stay in the snapshot all the same."""
    orders = [an_order(updated_at=START + n) for n in range(4)]
    for order in orders:
        await sqlite.create(order)
    change = delivered(orders[0])
    await sqlite.save(replace(change, order=replace(change.order, updated_at=START + 4)))
    change = delivered(orders[3])
    await sqlite.save(replace(change, order=replace(change.order, updated_at=START + 5)))
    assert [await sqlite.prune("shop", before=START + 5, limit=3) for _ in range(3)] == [3, 2, 0]
    assert (await sqlite.head("shop")).pruned_through == 5
    assert [update.position for update in await all_updates(sqlite)] == [6]
    query = SnapshotQuery(client_id="shop", up_to=6)
    assert await whole_snapshot(sqlite, query) == ids(orders[1:])
    assert await whole_snapshot(sqlite, replace(query, order_ids=frozenset(ids(orders)))) == ids(orders)
    await sqlite.save(touched(change.order))
    assert (await sqlite.create(an_order())).head.pruned_through == 5
    assert await sqlite.open_order_counts() == {OrderState.PROCESSING: 3}


async def test_kept_answers_are_read_back(sqlite: SqliteStore) -> None:
    """What came with a change is found under its order."""
    order = an_order()
    await sqlite.create(order)
    answer = KeptAnswer(order.purchases[0].number, START, Source.CALLBACK, b"sealed")
    await sqlite.save(replace(touched(order), answers=(answer, answer)))
    assert await sqlite.answers("shop", order.order_id) == [answer, answer]
    assert await sqlite.answers("other", order.order_id) == []


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """After closing, reads and writes fail clearly; closing twice is fine."""
    store = open_sqlite(tmp_path / "rewards.db")
    await asyncio.gather(store.close(), store.close())
    with pytest.raises(StoreError, match="closed"):
        await store.create(an_order())
    with pytest.raises(StoreError, match="closed"):
        await store.head("shop")


# --- Opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.rule("D9")
def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """While one process has the database, another is told which file is in use; afterwards it may open it."""
    path = tmp_path / "rewards.db"
    program = (
        "import sys; from pathlib import Path; from reward_server.store.sqlite import open_sqlite;"
        "open_sqlite(Path(sys.argv[1])); print('opened', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "opened\n"
        second = subprocess.run(command, capture_output=True, text=True, check=False, input="")
        assert second.returncode != 0
        assert f"{path} is in use by another process" in second.stderr
        first.communicate("")
    assert subprocess.run(command, capture_output=True, text=True, check=True, input="").stdout == "opened\n"


async def test_files_are_private(tmp_path: Path) -> None:
    """Database, log and lock are readable by their owner only, the folder too when it was missing."""
    folder = tmp_path / "state"
    store = open_sqlite(folder / "rewards.db")
    await store.create(an_order())
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes == dict.fromkeys(("rewards.db", "rewards.db-wal", "rewards.db-shm", "rewards.db.lock"), 0o600)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await store.close()


@pytest.mark.rule("D1")
async def test_every_setting_is_in_force(sqlite: SqliteStore) -> None:
    """Commits are synced, the log and the caches are bounded, and the reading connection can't write."""
    expected = {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1, "journal_size_limit": 64 << 20}
    assert {name: sqlite._writer.execute(f"PRAGMA {name}").get for name in expected} == expected
    assert sqlite._writer.execute("PRAGMA cache_size").get == -65536
    assert sqlite._reader.execute("PRAGMA cache_size").get == -16384
    with pytest.raises(apsw.ReadOnlyError):
        sqlite._reader.execute("DELETE FROM orders")


def test_a_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A folder that can't be created, and a folder in the place of the file, are named in the refusal."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreRefused, match=r"file/rewards\.db can't be created"):
        open_sqlite(tmp_path / "file" / "rewards.db")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreRefused, match="folder can't be created"):
        open_sqlite(tmp_path / "folder")


OPEN_AS_NOBODY = """
import os, pathlib, sys
from reward_server.store import StoreRefused
from reward_server.store.sqlite import open_sqlite
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everywhere
try:
    open_sqlite(pathlib.Path(sys.argv[1]))
except StoreRefused as error:
    print(error)
"""


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    """A folder without write permission is named in the refusal."""
    tmp_path.chmod(0o500)
    path = str(tmp_path / "rewards.db")
    opened = subprocess.run([sys.executable, "-c", OPEN_AS_NOBODY, path], capture_output=True, text=True, check=True)
    assert "rewards.db can't be created or written" in opened.stdout


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """Another file under the configured name isn't touched, and the refusal leaves no lock behind."""
    path = tmp_path / "rewards.db"
    path.write_text("not a database" * 1000)
    for _ in range(2):
        with pytest.raises(StoreRefused, match=r"rewards\.db can't be used as a database"):
            open_sqlite(path)
    assert path.read_text() == "not a database" * 1000


@pytest.mark.parametrize("version", ["3.7.0", "3.44.6", "3.51.2"])
@pytest.mark.rule("D8")
def test_versions_that_corrupt_are_refused(version: str) -> None:
    """The whole range of SQLite versions with the fault is refused by name."""
    with pytest.raises(StoreRefused, match=version):
        refuse_bad_sqlite(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.54.1", "4.0.0", apsw.sqlite_lib_version()])
@pytest.mark.rule("D8")
def test_sound_versions_are_taken(version: str) -> None:
    """Versions with the repair pass, the installed one among them."""
    refuse_bad_sqlite(version)


@pytest.mark.parametrize(
    "url",
    ["", "rewards.db", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///a.db?mode=ro", "mysql://u:pw@h/d"],
)
async def test_other_urls_are_refused(url: str) -> None:
    """Only a SQLite file is taken, and a password in a URL isn't repeated."""
    with pytest.raises(StoreRefused, match=r"store\.url") as refused:
        await open_url(url)
    assert "pw" not in str(refused.value)


async def test_relative_and_absolute_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes begin a path from the working directory, four one from the root."""
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///state/a.db", f"sqlite:///{tmp_path}/state/b.db"):
        await (await open_url(url)).close()
    assert {"a.db", "b.db"} <= {file.name for file in (tmp_path / "state").iterdir()}
