"""What a store holds, table by table: for moving all of it from one engine to another."""

from dataclasses import dataclass
from typing import Any

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table, whose rows are read in the order of their keys."""

    name: str
    key: tuple[str, ...]
    """The first columns."""
    others: tuple[str, ...]
    truths: frozenset[str] = frozenset()
    """Columns that one engine stores as numbers and another as truth values."""
    counted: bool = False
    """Whether the engine counts the key, so that it has to know where to go on."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All that is moved."""
        return (*self.key, *self.others)

    def key_of(self, row: Row) -> Row:
        """The values of a row's key."""
        return row[: len(self.key)]


@dataclass(frozen=True, slots=True)
class TableMoved:
    """What is in both stores now."""

    name: str
    rows: int
    sha256: str
    """Of all rows in the order of their keys, the same on both sides."""


def _table(name: str, key: str, others: str, *, truths: str = "", counted: bool = False) -> Table:
    return Table(name, tuple(key.split()), tuple(others.split()), frozenset(truths.split()), counted)


TABLES = (
    _table("secrets", "name", "sealed"),
    _table("data_keys", "client_id place", "key_id master_key_id wrapped"),
    _table("tokens", "account", "sealed fetched_at expires_at"),
    _table("holds", "account", "at by reason"),
    _table("audit", "entry_id", "at by what account order_id number reason", counted=True),
    _table("heads", "client_id", "position pruned_through"),
    _table(
        "orders",
        "client_id order_id",
        "client_order_id product_id accounts state open listed created_at last_position review_since revision body",
        truths="open listed",
    ),
    _table("spending", "client_id day", "amount"),
    _table("updates", "client_id position", "order_id version at body"),
    _table("cards", "client_id order_id card_no", "version number hidden sealed", truths="hidden"),
    _table("purchases", "number", "account client_id order_id state open watch_until", truths="open"),
    _table("answers", "answer_id", "client_id order_id number at source sealed", counted=True),
    _table("callbacks", "account digest", "number order_id at sealed"),
)
"""Everything but facts about the database itself, and who works on it at the moment."""


def page_of(table: Table, placeholders: tuple[str, ...], *, first: bool) -> str:
    """The statement that reads one page by key: its values are the key after which it begins, then how many rows.

    The first page has no such key. `placeholders` are the engine's, one for each value.
    """
    key = ", ".join(table.key)
    *after, limit = placeholders
    beyond = "" if first else f"WHERE ({key}) > ({', '.join(after)})"
    return f"SELECT {', '.join(table.columns)} FROM {table.name} {beyond} ORDER BY {key} LIMIT {limit}"  # noqa: S608
