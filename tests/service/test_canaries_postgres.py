"""What must not be read in anything that a PostgreSQL store leaves: data files, write-ahead log, server log."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from postgres_server import Cluster, execute
from reward_server.store.postgres import migrate_postgres

from .canaries import (
    assert_found_where_they_belong,
    assert_hidden,
    assert_recipients_hidden,
    play,
    running,
    scenarios,
)

TALKATIVE: dict[str, str | int] = {
    "log_statement": "all",
    "log_min_messages": "debug1",
    "log_parameter_max_length_on_error": -1,
}
"""A database whose log has every statement with its values, which no operator should set."""

PLAIN = """
SELECT string_agg(format('ALTER TABLE %I ALTER COLUMN %I SET STORAGE EXTERNAL', table_name, column_name), ';')
FROM information_schema.columns WHERE table_schema = 'public' AND data_type IN ('bytea', 'text')
"""
"""A compressed value could hide what is sought."""


def files(folder: Path) -> dict[str, bytes]:
    """Every file below, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files that aren't as they were, without the room that was kept for what is to come."""
    return {name: content.replace(bytes(64), b"") for name, content in after.items() if before.get(name) != content}


@pytest.mark.timeout(600)
async def test_no_secret_is_left_in_a_database_its_log_or_its_write_ahead_log(cluster: Cluster, tmp_path: Path) -> None:
    """The half of all scenarios that isn't played over SQLite: what lies on the database server's disk afterwards, and
    what the service told by the way, holds no card, key or token in the clear.
    """
    await asyncio.to_thread(lambda: cluster.configure(**TALKATIVE))
    before = files(cluster.folder)
    dsn = await asyncio.to_thread(cluster.create_database, "rewards")
    await migrate_postgres(dsn)
    await asyncio.to_thread(lambda: execute(dsn, *execute(dsn, PLAIN).split(";")))
    async with running(tmp_path, played := scenarios(1, 2), store=f'url = "{dsn}"') as run:
        await play(run, played)
        told = await run.told()
        await run.server.kill()
    await asyncio.to_thread(execute, dsn, "CHECKPOINT")
    left = changed(before, files(cluster.folder))
    parts = {
        "the tables": [content for name, content in left.items() if name.startswith("data/base/")],
        "the write-ahead log": [content for name, content in left.items() if name.startswith("data/pg_wal/")],
        "the server's log": [left["log"]],
    }
    assert_hidden(run, told, {**left, **run.temporary_files()})
    assert_found_where_they_belong(run, {name: b"".join(contents) for name, contents in parts.items()})
    assert_recipients_hidden(run, told)
