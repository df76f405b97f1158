"""Nothing of a callback is verified before it is read, so little is read."""

import json
from urllib.parse import urlencode

import pytest

from reward_adapters._wire import callback_fields
from reward_adapters.contract import Callback


def nested(depth: int) -> bytes:
    """JSON with so many brackets inside each other, as deep in a text as outside of one."""
    return b'{"text":"' + b"[{" * 50 + b'\\"","list":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize("depth", [2, 16])
def test_what_a_supplier_could_send_is_read(depth: int) -> None:
    """Brackets inside of texts don't count."""
    assert callback_fields(Callback(nested(depth))) == json.loads(nested(depth))
    assert callback_fields(Callback(urlencode({f"f{n}": "1" for n in range(500)}).encode()))


@pytest.mark.parametrize(
    "body",
    [
        nested(17),
        nested(50_000),
        urlencode({f"f{n}": "1" for n in range(501)}).encode(),
        b'{"a":"' + b"x" * 1_048_576 + b'"}',
    ],
)
def test_what_no_supplier_sends_is_not(body: bytes) -> None:
    """Deeper, more, or larger than any callback."""
    assert callback_fields(Callback(body)) is None


@pytest.mark.parametrize(
    "body", [b'{"a":"' + b'\\"' * 500_000, b'{"a":' + b"[]," * 300_000, b'{"' * 300_000, b"{" + b'"\\' * 300_000]
)
def test_what_is_made_to_be_read_again_and_again_is_read_once(body: bytes) -> None:
    """A megabyte of it takes a moment; read from every character on, it would take longer than a test may."""
    assert callback_fields(Callback(body)) is None
