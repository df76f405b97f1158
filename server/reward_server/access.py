"""Who may call: client keys, the clients they belong to, and what these may do.

A key is 32 random bytes, shown once. Only its SHA-256 is configured: with so much randomness a slow password hash
would add nothing but time to every RPC.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from reward_server.errors import Unauthenticated

HASH_PREFIX = "sha256:"
KEY_PREFIX = "rk_"
KEY_BYTES = 32
MAX_KEY_LENGTH = 256


class Permission(StrEnum):
    """What a client may do."""

    ORDER = "order"
    """Create orders, and read the catalogue."""
    READ = "read"
    """Read and stream its orders, and the catalogue."""
    READ_CARDS = "read_cards"
    """See the cards of its orders in full."""
    OPERATE = "operate"
    """See how the supplier accounts do, and read any client's order by its id, without cards."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    client_id: str
    permissions: frozenset[Permission]

    def may(self, permission: Permission) -> bool:
        """Whether the caller has the permission."""
        return permission in self.permissions


@dataclass(frozen=True, slots=True)
class Client:
    """A client as configured."""

    client_id: str
    key_hashes: tuple[str, ...] = field(repr=False)
    """SHA-256 of its keys in hex; two while a key is being replaced."""
    permissions: frozenset[Permission]


def key_hash(key: str) -> str:
    """The SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> tuple[str, str]:
    """A new key and how it is written into the configuration."""
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    return key, HASH_PREFIX + key_hash(key)


_USER = frozenset({Permission.ORDER, Permission.READ, Permission.READ_CARDS})

DEV_CLIENTS = (
    Client("dev", (key_hash("dev-key"),), _USER),
    Client("dev-2", (key_hash("dev-key-2"),), _USER),
    Client("dev-operator", (key_hash("dev-operator-key"),), frozenset({Permission.OPERATE, Permission.READ})),
)
"""Clients with published keys. They exist on loopback only, and only while no client is configured."""


class Access:
    """Finds the caller by its key."""

    def __init__(self, clients: Iterable[Client]) -> None:
        self._callers: dict[bytes, tuple[bytes, Caller]] = {}
        for client in clients:
            caller = Caller(client.client_id, client.permissions)
            for hash_ in client.key_hashes:
                digest = bytes.fromhex(hash_)
                self._callers[digest] = (digest, caller)

    def authenticate(self, authorization_header: str | bytes | None) -> Caller:
        """The caller of `authorization: Bearer <key>`. Raises Unauthenticated without repeating what was sent."""
        if not authorization_header:
            raise Unauthenticated("no client key; send the metadata `authorization: Bearer <key>`")
        header = authorization_header
        if isinstance(header, str):
            header = header.encode(errors="replace")
        scheme, _, key = header.partition(b" ")
        if scheme.lower() != b"bearer" or not 0 < len(key) <= MAX_KEY_LENGTH:
            raise Unauthenticated("the authorization metadata isn't written as `Bearer <key>`")
        digest = hashlib.sha256(key).digest()
        # The time of a dict look-up tells at most how the *hash* of a guess lies among ours; who can choose keys by
        # their hash prefix without the key has broken SHA-256. The comparison proper takes constant time.
        found = self._callers.get(digest)
        if found is None or not hmac.compare_digest(found[0], digest):
            raise Unauthenticated("unknown client key; it may be mistyped or withdrawn")
        return found[1]
