"""The tests of replicas use the world of the crash tests."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
# The database is started again by a process in which gRPC has threads, and which has no use for gRPC after a fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from crash.stores import fresh_databases
from postgres_server import Server


@pytest.fixture
def new_database(postgres: Server) -> Iterator[Callable[[], str]]:
    """Makes a database with today's schema and gives its DSN."""
    with fresh_databases(postgres) as fresh:
        yield fresh
