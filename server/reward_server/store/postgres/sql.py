"""The statements of `queries.sql`."""

from importlib.resources import files

from reward_server.store.statements import load_statements

STATEMENTS = load_statements(files(__package__).joinpath("queries.sql"))
