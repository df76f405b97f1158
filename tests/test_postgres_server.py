"""The PostgreSQL servers that other tests rest on: real, durable, killed without loss, and gone afterwards."""

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from postgres_server import OLDEST, WHEELS, Cluster, Server, alive, execute, wait_until

ENOUGH = 200
"""Acknowledged rows, before the server is killed."""

LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What asyncpg says of a connection that was cut; the third when it was cut between two statements."""

ABANDONED = """
import sys
from postgres_server import Cluster, programs_of
cluster = Cluster(programs_of(sys.argv[1]), in_memory=True)
cluster.start()
print(cluster.dsn(), cluster.pid, cluster._guard.pid, cluster.folder.parent, flush=True)
sys.stdin.read()
"""
"""A test process that is killed in the midst of it all."""


async def rows(dsn: str) -> set[int]:
    """The numbers in the table."""
    connection = await asyncpg.connect(dsn)
    try:
        return {row["n"] for row in await connection.fetch("SELECT n FROM written")}
    finally:
        await connection.close()


async def write(dsn: str, numbers: Iterator[int], acknowledged: set[int], enough: asyncio.Event) -> None:
    """Writes rows until the server is gone, each in a transaction of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        for number in numbers:
            await connection.execute("INSERT INTO written VALUES ($1)", number)
            acknowledged.add(number)
            if len(acknowledged) >= ENOUGH:
                enough.set()
    except LOST:
        return
    finally:
        connection.terminate()


async def killed_under_load(cluster: Cluster) -> set[int]:
    """Kills it while four connections write, and returns what was acknowledged."""
    execute(cluster.dsn(), "CREATE TABLE written (n int PRIMARY KEY)")
    acknowledged: set[int] = set()
    enough = asyncio.Event()
    numbers = itertools.count()
    async with asyncio.TaskGroup() as writers:
        for _ in range(4):
            writers.create_task(write(cluster.dsn(), numbers, acknowledged, enough))
        await enough.wait()
        await asyncio.to_thread(cluster.kill)
    return acknowledged


async def test_the_server_is_real_and_its_commits_are_durable(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        assert connection.get_server_version().major >= OLDEST
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert await connection.fetchval(f"SHOW {setting}") == "on"
    finally:
        await connection.close()


async def test_two_databases_do_not_see_each_other(postgres: Server) -> None:
    with postgres.database() as one, postgres.database() as other:
        execute(one, "CREATE TABLE written (n int)", "INSERT INTO written VALUES (1)")
        assert await rows(one) == {1}
        with pytest.raises(asyncpg.UndefinedTableError):
            await rows(other)


async def test_a_database_can_be_copied_and_is_dropped_under_its_users(postgres: Server) -> None:
    with postgres.database() as one:
        execute(one, "CREATE TABLE written (n int)", "INSERT INTO written VALUES (1)")
        with postgres.database(template=one.rpartition("/")[2].partition("?")[0]) as copy:
            assert await rows(copy) == {1}
            idle = await asyncpg.connect(copy)
        with pytest.raises((*LOST, asyncpg.AdminShutdownError)):
            await idle.fetchval("SELECT 1")
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await rows(copy)


async def test_a_killed_server_comes_back_on_its_port_with_all_that_it_acknowledged(cluster: Cluster) -> None:
    before = cluster.dsn()
    family = [psutil.Process(cluster.pid), *psutil.Process(cluster.pid).children()]
    acknowledged = await killed_under_load(cluster)
    assert not any(map(alive, family))
    cluster.restart()
    assert cluster.dsn() == before
    assert acknowledged <= await rows(before)
    assert len(acknowledged) >= ENOUGH


async def test_a_frozen_server_answers_nothing_until_it_is_thawed_and_can_be_closed() -> None:
    with Cluster(in_memory=True) as cluster:
        connection = await asyncpg.connect(cluster.socket_dsn())
        family = [psutil.Process(cluster.pid), *psutil.Process(cluster.pid).children()]
        cluster.freeze()
        answer = asyncio.create_task(connection.fetchval("SELECT 1"))
        _, unanswered = await asyncio.wait({answer}, timeout=0.2)
        assert unanswered == {answer}
        cluster.thaw()
        assert await answer == 1
        connection.terminate()
        cluster.freeze()
    assert not any(map(alive, family))
    assert not cluster.folder.exists()


async def test_a_synchronous_standby_has_all_that_its_killed_primary_acknowledged(cluster: Cluster) -> None:
    with cluster.standby("second") as standby:
        # From now on nothing is acknowledged without it.
        cluster.configure(synchronous_standby_names="second")
        acknowledged = await killed_under_load(cluster)
        standby.promote()
        # Takes writes, which nothing has to confirm.
        execute(standby.dsn(), "INSERT INTO written VALUES (-1)")
        assert acknowledged | {-1} <= await rows(standby.dsn())


@pytest.mark.parametrize("wheel", WHEELS)
def test_each_wheel_brings_a_server_which_ends_with_the_process_that_started_it(wheel: str) -> None:
    tests = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", ABANDONED, wheel], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=tests
    ) as starter:
        assert starter.stdout is not None
        dsn, postmaster, guard, folder = starter.stdout.readline().split()
        left = [psutil.Process(int(pid)) for pid in (postmaster, guard)]
        left += left[0].children()
        assert execute(dsn, "SELECT 1") == 1
        starter.kill()
    assert wait_until(lambda: not any(map(alive, left)), 30)
    assert not Path(folder).exists()
