"""The tests of replicas use the world of the crash tests."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from crash.stores import fresh_databases
from postgres_server import Server


@pytest.fixture
def new_database(postgres: Server) -> Iterator[Callable[[], str]]:
    """Makes a database with today's schema and gives its DSN."""
    with fresh_databases(postgres) as fresh:
        yield fresh
