"""Resume tokens and page tokens: places in a client's log or list that only this service can have written.

A resume token is version ‖ epoch ‖ position ‖ MAC: 33 bytes, 44 characters. The MAC covers the client, so that a token
is worth nothing to another client; whatever the selector, any token of the client will do. A page token is
version ‖ place ‖ MAC, and its MAC covers the query as well: it continues the query that it came from.
"""

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Sequence

from reward_server.errors import LogRewound, ResumeTokenExpired, ResumeTokenInvalid
from reward_server.store import Head

KEY_BYTES = 32
"""The least a key may have."""
_VERSION = 1
_MAC_BYTES = 16
_PLACE = struct.Struct(">BQQ")
_RESUME_CHARACTERS = 44
_MAX_PAGE_TOKEN = 512
"""The longest place, an id of 128 characters, takes fewer."""


class PageTokenInvalid(ValueError):
    """Not a token of this query."""


class Tokens:
    """Writes and reads both kinds of token. All replicas share the key."""

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_BYTES:
            raise ValueError(f"the token key must have at least {KEY_BYTES} bytes")
        self._key = key

    def resume_token(self, client_id: str, epoch: int, position: int) -> str:
        """The token of a place in a client's log."""
        place = _PLACE.pack(_VERSION, epoch, position)
        return base64.urlsafe_b64encode(place + self._mac(b"resume", place, [client_id])).decode()

    def position(self, client_id: str, token: str, head: Head) -> int:
        """The position that a token stands for.

        Raises ResumeTokenInvalid, LogRewound or ResumeTokenExpired.
        """
        raw = _decoded(token) if len(token) == _RESUME_CHARACTERS else None
        if raw is None:
            raise ResumeTokenInvalid("not a resume_token of this server; use one exactly as it was received")
        place, mac = raw[: _PLACE.size], raw[_PLACE.size :]
        if not hmac.compare_digest(mac, self._mac(b"resume", place, [client_id])):
            raise ResumeTokenInvalid("this resume_token was not issued to this client; use one exactly as received")
        version, epoch, position = _PLACE.unpack(place)
        if version != _VERSION:
            raise ResumeTokenInvalid("this resume_token was written by another version of the server")
        if epoch != head.epoch or position > head.position:
            raise LogRewound(self.oldest(client_id, head))
        if position < head.pruned_through:
            raise ResumeTokenExpired(self.oldest(client_id, head))
        return int(position)

    def oldest(self, client_id: str, head: Head) -> str:
        """The token before the oldest update the log still has."""
        return self.resume_token(client_id, head.epoch, head.pruned_through)

    def page_token(self, query: Sequence[str], place: str) -> str:
        """The token of a place in the list that `query` describes: the method, the client and every filter."""
        raw = bytes([_VERSION]) + place.encode()
        return base64.urlsafe_b64encode(raw + self._mac(b"page", raw, query)).decode().rstrip("=")

    def place(self, query: Sequence[str], token: str) -> str:
        """The place that a page token stands for; "" for no token. Raises PageTokenInvalid."""
        if not token:
            return ""
        raw = _decoded(token) if len(token) <= _MAX_PAGE_TOKEN else None
        if raw is None or len(raw) <= _MAC_BYTES:
            raise PageTokenInvalid
        signed, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(b"page", signed, query)) or signed[0] != _VERSION:
            raise PageTokenInvalid
        return signed[1:].decode()

    def _mac(self, purpose: bytes, content: bytes, bound_to: Sequence[str]) -> bytes:
        # Every part is preceded by its length: no two lists of parts make the same text.
        parts = [purpose, content, *(text.encode() for text in bound_to)]
        message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        # Keyed BLAKE2b is a MAC by design, and a tenth of the time that OpenSSL 3 takes to set up an HMAC.
        return hashlib.blake2b(message, key=self._key, digest_size=_MAC_BYTES).digest()


def _decoded(token: str) -> bytes | None:
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        return None
    # Python skips characters that aren't base64 and spare bits: only the one true spelling of a token counts.
    return raw if base64.urlsafe_b64encode(raw).decode().rstrip("=") == token else None
