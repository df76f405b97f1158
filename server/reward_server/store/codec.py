"""Orders as bytes: a format number, then JSON.

JSON of the plain values, so that a database can be read by eye. A field that is added to `Order` with a default needs
no new format; a renamed or reshaped one does, and the old format keeps its decoder for as long as rows of it may exist.
"""

from typing import Any

import msgspec

from reward_server.domain.order import Order
from reward_server.store import StoreError

_FORMAT = 1

_encoder = msgspec.json.Encoder()
_decoders = {1: msgspec.json.Decoder(Order)}


class OrderUnreadable(StoreError):
    """A stored order can't be read by this program."""


def encode_order(order: Order) -> bytes:
    """The order as it is stored. Half surrogate pairs, which some suppliers send in messages, become U+FFFD."""
    buffer = bytearray([_FORMAT])
    try:
        _encoder.encode_into(order, buffer, 1)
    except UnicodeEncodeError:
        # A remark that no text encoding can hold must not keep an order from being stored.
        _encoder.encode_into(_without_surrogates(msgspec.to_builtins(order)), buffer, 1)
    return bytes(buffer)


def decode_order(body: bytes) -> Order:
    """Reads a stored order. Raises OrderUnreadable."""
    decoder = _decoders.get(body[0]) if body else None
    if decoder is None:
        raise OrderUnreadable(f"format {body[:1].hex() or 'none'} of a stored order isn't known to this program")
    try:
        return decoder.decode(memoryview(body)[1:])
    except msgspec.DecodeError as error:
        # The error names the field and the kind of fault; the value stays out of it.
        raise OrderUnreadable(f"a stored order can't be read: {error}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        # These would quote what they stumbled over.
        raise OrderUnreadable(f"a stored order can't be read: {type(error).__name__}") from None


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
        case list() | tuple():
            return [_without_surrogates(item) for item in value]
    return value
