"""The audit's chains: each entry's hash is over the entry and the hash before it, so that none can be changed, taken
out or slipped in without every later hash of its chain being another.

One chain for each start of a process, so that processes don't wait for one another.
"""

import hashlib
import secrets
import time
from dataclasses import replace

from reward_server.store import AuditEntry

COLUMNS = (
    "chain",
    "place",
    "at",
    "by",
    "what",
    "account",
    "client_id",
    "order_id",
    "number",
    "first_position",
    "last_position",
    "cards",
    "reason",
    "hash",
)
"""Of an entry, in the order in which they are hashed; the hash is the last."""

BEFORE_FIRST = bytes(32)
"""What stands for the hash before the first entry of a chain."""


def new_chain() -> str:
    """A name that was never used before; names sort by time."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"


def chained(entry: AuditEntry, chain: str, last: tuple[int, bytes] | None) -> AuditEntry:
    """The entry as the next one of a chain whose last one has this place and hash."""
    place, before = last or (0, BEFORE_FIRST)
    by, reason = _storable(entry.by), _storable(entry.reason)
    entry = replace(entry, chain=chain, place=place + 1, by=by, reason=reason)
    return replace(entry, hash=hashlib.sha256(before + content(entry)).digest())


def content(entry: AuditEntry) -> bytes:
    """What an entry says, as its hash is made of it: numbers of 8 bytes, texts as UTF-8 behind their length in 4 bytes,
    the highest byte first.
    """
    return b"".join(
        value.to_bytes(8, "big", signed=True) if isinstance(value, int) else _text(value)
        for value in (getattr(entry, name) for name in COLUMNS[:-1])
    )


def _storable(text: str) -> str:
    """Without the one character that PostgreSQL's text can't hold: the hash has to stay right when a store moves."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(4, "big") + encoded
