"""The crash tests use the harness of the service tests."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from postgres_server import Server

from .stores import fresh_databases, shared_store


@pytest.fixture
def new_store(postgres: Server) -> Iterator[Callable[[], str]]:
    """Makes a PostgreSQL database and says what is to stand in `[store]` for it."""
    with fresh_databases(postgres) as fresh:
        yield lambda: shared_store(fresh())
