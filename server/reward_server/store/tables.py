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
    _table("rotations", "client_id", "key_id of_table after resealed unopened began_at ended_at"),
    _table(
        "audit",
        "entry_id",
        "chain place at by what account client_id order_id number first_position last_position cards reason hash",
        counted=True,
    ),
    _table("heads", "client_id", "position pruned_through"),
    _table(
        "orders",
        "client_id order_id",
        "client_order_id product_id accounts state open listed created_at last_position review_since revision body",
        truths="open listed",
    ),
    _table("spending", "client_id day", "amount"),
    _table("updates", "client_id position", "order_id version at body"),
    _table("cards", "client_id order_id card_no", "version number hidden at erased_at sealed", truths="hidden"),
    _table("purchases", "number", "account client_id order_id state open watch_until", truths="open"),
    _table("answers", "answer_id", "client_id order_id number at source erased_at sealed", counted=True),
    _table("callbacks", "account digest", "number order_id at erased_at sealed"),
)
"""Everything but facts about the database itself, and who works on it at the moment."""


@dataclass(frozen=True, slots=True)
class SealedTable:
    """A table whose rows hold something sealed."""

    name: str
    place: tuple[str, ...]
    """What tells its rows of one client apart, and in which order they are gone through."""
    about: tuple[str, ...] = ()
    """Columns besides that belong to what the value is bound to."""
    of_clients: bool = False
    """Whether the values are the clients' own; else the service's."""

    def page(self, placeholders: tuple[str, ...], *, first: bool) -> str:
        """The statement that reads the next rows: its values are the client if the rows are the clients', the place
        after which it begins unless it is the first page, and how many rows.
        """
        *values, limit = placeholders
        client = [f"client_id = {values.pop(0)}"] if self.of_clients else []
        beyond = [] if first else [f"({', '.join(self.place)}) > ({', '.join(values)})"]
        where = " AND ".join([*client, *beyond, "length(sealed) > 0"])
        columns = ", ".join([*self.place, *self.about, "sealed"])
        return f"SELECT {columns} FROM {self.name} WHERE {where} ORDER BY {', '.join(self.place)} LIMIT {limit}"  # noqa: S608

    def put(self, placeholders: tuple[str, ...]) -> str:
        """The statement that stores one row under another key: its values are the new one, the former one, the client
        if the rows are the clients', and the place.
        """
        new, former, *values = placeholders
        columns = ["client_id", *self.place] if self.of_clients else [*self.place]
        where = " AND ".join(f"{column} = {value}" for column, value in zip(columns, values, strict=True))
        return f"UPDATE {self.name} SET sealed = {new} WHERE sealed = {former} AND {where}"  # noqa: S608


SEALED_OF_CLIENTS = (
    SealedTable("cards", ("order_id", "card_no"), of_clients=True),
    SealedTable("answers", ("order_id", "answer_id"), ("number",), of_clients=True),
)
SEALED_OF_SERVICE = (
    SealedTable("callbacks", ("account", "digest")),
    SealedTable("tokens", ("account",)),
    SealedTable("secrets", ("name",)),
)


def sealed_table(name: str) -> SealedTable:
    """The table of that name. Raises KeyError."""
    return {table.name: table for table in (*SEALED_OF_CLIENTS, *SEALED_OF_SERVICE)}[name]


def page_of(table: Table, placeholders: tuple[str, ...], *, first: bool) -> str:
    """The statement that reads one page by key: its values are the key after which it begins, then how many rows.

    The first page has no such key. `placeholders` are the engine's, one for each value.
    """
    key = ", ".join(table.key)
    *after, limit = placeholders
    beyond = "" if first else f"WHERE ({key}) > ({', '.join(after)})"
    return f"SELECT {', '.join(table.columns)} FROM {table.name} {beyond} ORDER BY {key} LIMIT {limit}"  # noqa: S608
