"""Who may call: clients, what shows that a call is theirs, what they may do, and how much of it.

A client shows itself by a key, by a token of the configured issuer, or by the certificate of its connection. A key is
32 random bytes, shown once. Only its SHA-256 is configured: with so much randomness a slow password hash would add
nothing but time to every RPC.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from reward_adapters.money import Money
from reward_server.clock import Clock
from reward_server.errors import Unauthenticated

HASH_PREFIX = "sha256:"
KEY_PREFIX = "rk_"
KEY_BYTES = 32
MAX_KEY_LENGTH = 256
MAX_TOKEN_LENGTH = 8_192
"""gRPC takes no longer metadata anyway."""


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
class Limits:
    """How much a client may do; None: as much as it wants."""

    calls_per_second: float | None = None
    """At one replica; a second's worth may come at once."""
    open_streams: int | None = None
    """At one replica."""
    orders_in_flight: int | None = None
    """Orders that haven't ended, over all replicas."""
    spend_per_day: Money | None = None
    """What the orders of one UTC day may cost at worst, over all replicas."""


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    client_id: str
    permissions: frozenset[Permission]
    limits: Limits = NO_LIMITS
    proof: str = field(default="", repr=False, compare=False)
    """What showed it: the hash of a key, a name in a certificate, or a token of the issuer."""

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
    key_ends: Mapping[str, int] = field(default_factory=dict, repr=False)
    """When keys expire, by hash, in milliseconds since 1970; a key that isn't there lasts."""
    certificate_names: frozenset[str] = frozenset()
    """Names that its certificates carry."""
    limits: Limits = NO_LIMITS


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


class TokenVerifier(Protocol):
    """Checks the tokens of an issuer."""

    async def client_of(self, token: str, /) -> str:
        """The client that a token names. Raises Unauthenticated."""


@dataclass(frozen=True, slots=True)
class _Known:
    """Something that shows who calls."""

    caller: Caller
    ends: int | None = None


class Access:
    """Finds the caller by what it shows. What is known can be exchanged while calls go on."""

    def __init__(
        self,
        clients: Iterable[Client],
        *,
        tokens: TokenVerifier | None = None,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._now_ms = now_ms or Clock().now_ms
        self.use(clients, tokens)

    def use(self, clients: Iterable[Client], tokens: TokenVerifier | None = None) -> None:
        """From now on only these clients are known."""
        known: dict[str, _Known] = {}
        for client in clients:
            caller = Caller(client.client_id, client.permissions, client.limits)
            for hash_ in client.key_hashes:
                proof = _KEY + hash_
                known[proof] = _Known(replace(caller, proof=proof), client.key_ends.get(hash_))
            for name in client.certificate_names:
                proof = _CERTIFICATE + name
                known[proof] = _Known(replace(caller, proof=proof))
            if tokens is not None:
                proof = _TOKEN + client.client_id
                known[proof] = _Known(replace(caller, proof=proof))
        self._known = known
        self._tokens = tokens
        self._reads_certificates = any(proof.startswith(_CERTIFICATE) for proof in known)

    def authenticate(self, authorization_header: str | bytes | None) -> Caller:
        """The caller of `authorization: Bearer <key>`. Raises Unauthenticated without repeating what was sent."""
        key = _bearer(authorization_header)
        if len(key) > MAX_KEY_LENGTH:
            raise Unauthenticated(_NOT_BEARER)
        proof = _KEY + hashlib.sha256(key).hexdigest()
        # The time of a dict look-up tells at most how the *hash* of a guess lies among ours; who can choose keys by
        # their hash prefix without the key has broken SHA-256. The comparison proper takes constant time.
        found = self._known.get(proof)
        if found is None or not hmac.compare_digest(found.caller.proof, proof):
            raise Unauthenticated("unknown client key; it may be mistyped or withdrawn")
        if self._is_over(found):
            raise Unauthenticated("this client key has expired; ask the operator for another one")
        return found.caller

    async def identify(
        self, authorization_header: str | bytes | None, certificate_names: Callable[[], Iterable[str]]
    ) -> Caller:
        """The caller by its key or token, or else by the names in its connection's verified certificate.

        A key or token that is sent has to be good, whatever the certificate says, and both must not be two clients'.
        Raises Unauthenticated.
        """
        shown = self._by_certificate(certificate_names()) if self._reads_certificates else None
        if not authorization_header and shown is not None:
            return shown
        if self._tokens is not None and _is_token(authorization_header):
            caller = await self._by_token(self._tokens, authorization_header)
        else:
            caller = self.authenticate(authorization_header)
        if shown is not None and shown.client_id != caller.client_id:
            raise Unauthenticated("the authorization metadata and the certificate belong to different clients")
        return caller

    def admits(self, caller: Caller) -> bool:
        """Whether what the caller showed when its call began still counts, and it may still do what it may do then."""
        found = self._known.get(caller.proof)
        return (
            found is not None
            and not self._is_over(found)
            and found.caller.client_id == caller.client_id
            and found.caller.permissions >= caller.permissions
        )

    def _is_over(self, known: _Known) -> bool:
        return known.ends is not None and self._now_ms() >= known.ends

    def _by_certificate(self, names: Iterable[str]) -> Caller | None:
        found = {
            known.caller.client_id: known.caller for name in names if (known := self._known.get(_CERTIFICATE + name))
        }
        if len(found) > 1:
            raise Unauthenticated("the certificate carries the names of several clients")
        return next(iter(found.values()), None)

    async def _by_token(self, tokens: TokenVerifier, header: str | bytes | None) -> Caller:
        try:
            token = _bearer(header).decode("ascii")
        except UnicodeDecodeError:
            raise Unauthenticated(_NOT_BEARER) from None
        found = self._known.get(_TOKEN + await tokens.client_of(token))
        if found is None:
            raise Unauthenticated("the token is good, but what it names is no client of this service")
        return found.caller


_KEY, _CERTIFICATE, _TOKEN = "key:", "certificate:", "token:"
_NOT_BEARER = "the authorization metadata isn't written as `Bearer <key>`"


def _bearer(header: str | bytes | None) -> bytes:
    if not header:
        raise Unauthenticated("no client key; send the metadata `authorization: Bearer <key>`")
    if isinstance(header, str):
        header = header.encode(errors="replace")
    scheme, _, key = header.partition(b" ")
    if scheme.lower() != b"bearer" or not 0 < len(key) <= MAX_TOKEN_LENGTH:
        raise Unauthenticated(_NOT_BEARER)
    return key


def _is_token(header: str | bytes | None) -> bool:
    """Whether it is written as a signed token is: three parts with dots between them, which no key has."""
    return header is not None and (header.count(".") if isinstance(header, str) else header.count(b".")) == 2
