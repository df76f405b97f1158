"""Rows of rotations and of what is sealed, as both engines read and write them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from reward_server.store import Rotation, SealedRow
from reward_server.store.tables import SealedTable

Row = tuple[Any, ...]


def rotation_of(row: Sequence[Any]) -> Rotation:
    """A row of the table."""
    client_id, key_id, table, after, resealed, unopened, began_at, ended_at = row
    return Rotation(
        client_id=client_id,
        key_id=bytes(key_id),
        table=table,
        after=bytes(after),
        resealed=resealed,
        unopened=unopened,
        began_at=began_at,
        ended_at=ended_at,
    )


def rotation_row(rotation: Rotation) -> Row:
    """The columns of a rotation."""
    how_far = (rotation.table, rotation.after, rotation.resealed, rotation.unopened)
    return (rotation.client_id, rotation.key_id, *how_far, rotation.began_at, rotation.ended_at)


def sealed_row(table: SealedTable, row: Sequence[Any]) -> SealedRow:
    """A row of a table with something sealed."""
    width = len(table.place)
    place, about, sealed = tuple(row[:width]), tuple(row[width:-1]), bytes(row[-1])
    return SealedRow(place, about, sealed)


def encode_place(place: Sequence[str | int | bytes]) -> bytes:
    """Where a rotation stands in a table."""
    return msgspec.msgpack.encode(list(place))


def place_of(rotation: Rotation) -> Row:
    """Where it stands; nothing before the first row."""
    return tuple(msgspec.msgpack.decode(rotation.after)) if rotation.after else ()
