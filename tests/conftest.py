"""What holds for all tests."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

# Before anything imports grpc: its handlers of a fork may crash the process that starts a PostgreSQL server.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
sys.path.insert(0, str(Path(__file__).parent))

from postgres_server import VARIABLE, Cluster, Server, execute, given_dsn, server
from reward_server.store.postgres import migrate_postgres

# How long an example takes says more about the machine than about the code; timings belong in benchmarks.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


LONG = ("mutants", "simulation", "crash", "replicas", "streams", "kit", "fuzz", "service", "docs", "store")
"""Folders whose files take long, the longest first. Begun last, as those with the fewest tests are by default, one of
them would keep one process busy while the others have nothing left to do.
"""


def pytest_configure(config: pytest.Config) -> None:
    """Several processes take the files in the order that is given below."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long ones first."""
    here = Path(__file__).parent
    turns = {folder: turn for turn, folder in enumerate(LONG)}
    items.sort(key=lambda item: turns.get(item.path.relative_to(here).parts[0], len(LONG)))


@pytest.fixture(autouse=True)
def logs_go_where_they_went() -> Iterator[None]:
    """A program that a test runs in this process sends all logs into what pytest captures of that one test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)


def _configure_for_one_test(configure: Callable[..., None]) -> Callable[..., None]:
    # A logger that keeps what it found at its first line would write there for ever.
    return lambda **given: configure(**{**given, "cache_logger_on_first_use": False})


structlog.configure = _configure_for_one_test(structlog.configure)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server that all tests of this process share: nobody kills it or changes its settings."""
    with server() as running:
        yield running


@pytest.fixture
def database(postgres: Server) -> Iterator[str]:
    """The DSN of an empty database of the test's own."""
    with postgres.database() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def _prepared(postgres: Server) -> Iterator[str]:
    """The name of a database with today's schema, to be copied."""
    with postgres.database() as dsn:
        asyncio.run(migrate_postgres(dsn))
        execute(dsn, "DELETE FROM meta")
        yield dsn.partition("?")[0].rpartition("/")[2]


@pytest.fixture
def store_url(postgres: Server, _prepared: str) -> Iterator[str]:
    """A PostgreSQL store of the test's own: today's schema, an epoch of its own, and nothing else."""
    with postgres.database(template=_prepared) as dsn:
        execute(dsn, "INSERT INTO meta VALUES ('epoch', 1 + (random() * 1e9)::bigint)")
        yield dsn


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server of the test's own, running, with its data on disk: to kill, freeze and copy."""
    if given_dsn() is not None:
        pytest.skip(f"the server that {VARIABLE} gives can't be killed")
    with Cluster() as running:
        yield running
