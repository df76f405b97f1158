"""Migrations, and programs older than the database."""

import hashlib
from importlib.resources import files
from pathlib import Path

import pytest

from reward_server.store import StoreRefused
from reward_server.store.migrations import Migration, load_migrations
from reward_server.store.sqlite import open_sqlite
from reward_server.store.sqlite.opening import MIGRATIONS

from .samples import an_order

RELEASED = {"0001_orders.sql": "33fadc857a4f4d0cbd203903ef52d300bf187d199ae09742a0597a7192d38c5e"}
"""Digests of the migrations as they stand. A released file never changes; only add to this table."""


def later(number: int, oldest_program_schema: int, sql: str = "CREATE TABLE later (n INTEGER) STRICT") -> Migration:
    """A migration that doesn't exist yet."""
    digest = hashlib.sha256(sql.encode()).hexdigest()
    return Migration(number, f"{number:04}_later.sql", oldest_program_schema, digest, sql)


@pytest.mark.rule("D11")
def test_released_migrations_stand_as_they_were() -> None:
    """Each file is the one that databases out there were made with."""
    assert {migration.name: migration.sha256 for migration in MIGRATIONS} == RELEASED


@pytest.mark.rule("D11")
async def test_a_database_is_brought_up_to_date(tmp_path: Path) -> None:
    """A newer program applies what is missing and keeps what is there."""
    path, order = tmp_path / "rewards.db", an_order()
    store = open_sqlite(path)
    await store.create(order)
    await store.close()
    for _ in range(2):
        store = open_sqlite(path, migrations=(*MIGRATIONS, later(2, 1)))
        assert await store.order("shop", order.order_id) == order
        await store.close()


@pytest.mark.rule("D11")
async def test_an_older_program_stops_before_a_newer_schema(tmp_path: Path) -> None:
    """A migration that names a newer program than this one keeps this one out, with a message saying which."""
    path = tmp_path / "rewards.db"
    await open_sqlite(path, migrations=(*MIGRATIONS, later(2, 2))).close()
    with pytest.raises(StoreRefused, match=r"schema 2, made by a newer program.*this one is of schema 1"):
        open_sqlite(path)
    await open_sqlite(path, migrations=(*MIGRATIONS, later(2, 2))).close()


@pytest.mark.rule("D11")
async def test_an_older_program_runs_where_it_may(tmp_path: Path) -> None:
    """A newer schema that names this program as old enough is no obstacle."""
    path = tmp_path / "rewards.db"
    await open_sqlite(path, migrations=(*MIGRATIONS, later(2, 1))).close()
    store = open_sqlite(path)
    await store.create(an_order())
    await store.close()


@pytest.mark.rule("D11")
async def test_a_changed_migration_stops_the_start(tmp_path: Path) -> None:
    """A file that differs from what was applied is named."""
    path = tmp_path / "rewards.db"
    await open_sqlite(path, migrations=(*MIGRATIONS, later(2, 1))).close()
    changed = later(2, 1, "CREATE TABLE other (n INTEGER) STRICT")
    with pytest.raises(StoreRefused, match=r"0002_later\.sql isn't the file"):
        open_sqlite(path, migrations=(*MIGRATIONS, changed))


@pytest.mark.rule("D11")
async def test_a_failing_migration_leaves_the_former_schema(tmp_path: Path) -> None:
    """A migration is applied whole or not at all."""
    path = tmp_path / "rewards.db"
    broken = later(2, 1, "CREATE TABLE later (n INTEGER) STRICT; INSERT INTO nowhere VALUES (1)")
    with pytest.raises(StoreRefused, match="no such table"):
        open_sqlite(path, migrations=(*MIGRATIONS, broken))
    await open_sqlite(path, migrations=(*MIGRATIONS, later(2, 1))).close()


@pytest.mark.parametrize(
    ("names", "text", "message"),
    [
        (["0001_a.sql", "0003_c.sql"], "-- oldest-program-schema: 1\n", "without a gap"),
        (["0001_a.sql", "0001_b.sql"], "-- oldest-program-schema: 1\n", "without a gap"),
        (["0001_a.sql"], "CREATE TABLE a (n INTEGER)", "must begin with"),
        (["0001_a.sql"], "-- oldest-program-schema: 2\n", "from 1 to 1"),
    ],
)
def test_defective_files_are_found(tmp_path: Path, names: list[str], text: str, message: str) -> None:
    """A gap, a number used twice and a missing or impossible header stop the program."""
    for name in names:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_migrations(tmp_path)


def test_the_files_ship_with_the_program() -> None:
    """Migrations and statements are found as resources of the installed package."""
    names = {file.name for file in files("reward_server.store.sqlite").iterdir()}
    assert {"0001_orders.sql", "queries.sql"} <= names
