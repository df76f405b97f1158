"""The statements of `queries.sql` and how they are run."""

from importlib.resources import files
from typing import Any

import apsw

from reward_server.store.statements import load_statements

STATEMENTS = load_statements(files(__package__).joinpath("queries.sql"))

Row = tuple[Any, ...]


def run(connection: apsw.Connection, name: str, *values: Any) -> list[Row]:
    """Runs a named statement to its end: a reader that stopped half-way would keep its transaction open."""
    return connection.execute(STATEMENTS[name], values).fetchall()
