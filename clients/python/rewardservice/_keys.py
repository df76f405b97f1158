"""`rewardctl keys …`."""

from collections.abc import Iterable
from datetime import datetime

from cyclopts import App
from google.protobuf.timestamp_pb2 import Timestamp
from rich.text import Text

from rewardservice._options import Exit, Given
from rewardservice._output import Output, clean
from rewardservice._tables import Column, Fitted
from rewardservice.v1 import operator_service_pb2 as pb

keys_app = App(name="keys", help="Show and rotate the keys that seal cards. Needs an operator's key.")


@keys_app.default
async def list_keys(*, options: Given) -> int:
    """List the data keys by client, the master keys that wrap them, and how far rotations have got."""
    output = Output(options.output)
    async with options.client() as client:
        listed = await client.keys()
    if output.json:
        output.message(listed)
    else:
        output.table(keys_table(listed.keys))
        output.text(Text(f"new keys are wrapped by {clean(listed.master_key_id)}"))
    return Exit.OK


@keys_app.command
async def rotate(client: str = "", /, *, reason: str, only_wrap: bool = False, actor: str = "", options: Given) -> int:
    """Give a client, or everybody, a new data key, and wrap all keys by the current master key.

    What former keys sealed is sealed again in the background; `rewardctl keys` shows how far that has got.

    Parameters
    ----------
    client
        The client's id; everybody and the service itself if not given.
    reason
        Why.
    only_wrap
        Make no new data keys: only wrap them by the current master key, so that a former one can go.
    actor
        The person who decides, where several share a key.
    """
    output = Output(options.output)
    async with options.client() as connection:
        keys = await connection.rotate_keys(client, reason=reason, only_wrap=only_wrap, actor=actor)
    if output.json:
        for ring in keys:
            output.message(ring)
    else:
        output.table(keys_table(keys))
    return Exit.OK


def keys_table(keys: Iterable[pb.KeyRing]) -> Fitted:
    """One row per client."""
    table = Fitted(
        Column("CLIENT"),
        Column("KEY"),
        Column("KEYS", leaves=2),
        Column("WRAPPED BY"),
        Column("ROTATED", leaves=1),
        Column("SEALED AGAIN"),
    )
    for ring in keys:
        rotated = ring.HasField("rotation")
        table.add_row(
            clean(ring.client_id) or "(the service)",
            ring.key_id,
            str(ring.count),
            clean(", ".join(ring.master_key_ids)),
            _time(ring.rotation.begin_time) if rotated else "",
            _progress(ring.rotation) if rotated else "",
        )
    return table


def _progress(rotation: pb.Rotation) -> str:
    values = f"{rotation.resealed} values"
    if rotation.unopened:
        values += f", {rotation.unopened} don't open"
    return f"{values}, done" if rotation.HasField("end_time") else f"{values} so far"


def _time(time: Timestamp) -> str:
    return datetime.fromtimestamp(time.seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
