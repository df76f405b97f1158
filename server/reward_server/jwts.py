"""Tokens of an issuer (JWT): verified with the keys that it publishes (JWKS), from a file or a URL.

Only asymmetric algorithms count: with a shared secret whoever can verify could also issue. The keys are renewed in the
background; a token under a key that isn't known has them looked up at once, though not more often than every half
minute, so that made-up tokens can't have us ask the issuer again and again.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import structlog
from jwt.exceptions import ExpiredSignatureError, PyJWTError

from reward_server.clock import Clock
from reward_server.errors import Unauthenticated

ALGORITHMS = ("RS256", "ES256", "EdDSA")
KEY_TYPES = frozenset({"RSA", "EC", "OKP"})
MIN_RSA_BITS = 2_048
MAX_JWKS_BYTES = 262_144
FETCH_SECONDS = 5.0
UNKNOWN_KEY_SECONDS = 30.0
"""The shortest time between two looks for a key that isn't known."""

log = structlog.get_logger(__name__)

_NOT_OURS = "the token isn't one that this service's issuer made for it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Whose tokens count, and for what."""

    issuer: str
    audience: str
    jwks_file: Path | None
    jwks_url: str | None
    """One of the two is set."""
    client_claim: str
    """The claim that names the client."""
    leeway: float
    """Seconds by which the issuer's clock and ours may differ."""
    refresh: float
    """Seconds between two looks at the keys."""


def read_jwks(text: bytes) -> dict[str, jwt.PyJWK]:
    """The keys that can verify tokens, by key id. Raises ValueError when there is none."""
    if len(text) > MAX_JWKS_BYTES:
        raise ValueError("too large for a set of keys")
    try:
        entries = json.loads(text)["keys"]
    except (RecursionError, ValueError, TypeError, KeyError):
        raise ValueError("not a JSON Web Key Set") from None
    keys: dict[str, jwt.PyJWK] = {}
    for entry in entries if isinstance(entries, list) else ():
        key = _usable_key(entry)
        if key is not None:
            keys[key.key_id or ""] = key
    if not keys:
        raise ValueError(f"holds no key for {', '.join(ALGORITHMS)}")
    return keys


def _usable_key(entry: Any) -> jwt.PyJWK | None:
    """The key, unless it is of a kind that doesn't count: an issuer may publish others for other uses."""
    if not isinstance(entry, Mapping) or entry.get("use", "sig") != "sig":
        return None
    if str(entry.get("kty")) not in KEY_TYPES or not isinstance(entry.get("kid", ""), str):
        return None
    try:
        key = jwt.PyJWK(dict(entry))
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    if key.algorithm_name not in ALGORITHMS or getattr(key.key, "key_size", MIN_RSA_BITS) < _min_bits(key):
        return None
    return key


def _min_bits(key: jwt.PyJWK) -> int:
    return MIN_RSA_BITS if key.key_type == "RSA" else 0


class Verifier:
    """Verifies the tokens of one issuer."""

    def __init__(self, issuer: Issuer, *, clock: Clock | None = None) -> None:
        self.issuer = issuer
        self._clock = clock or Clock()
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._looked_at: float | None = None
        self._looking: asyncio.Task[None] | None = None
        self._runner: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Looks for the keys now and from time to time."""
        self._runner = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Ends the looking."""
        tasks = [task for task in (self._runner, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def client_of(self, token: str) -> str:
        """The client that a token names. Raises Unauthenticated; what was sent isn't repeated."""
        try:
            key = await self._key_of(token)
            claims = jwt.decode(
                token,
                key,
                # Of this key alone: what the token says of itself chooses nothing.
                algorithms=[key.algorithm_name],
                audience=self.issuer.audience,
                issuer=self.issuer.issuer,
                leeway=self.issuer.leeway,
                options={"require": ["exp", "iss", "aud", self.issuer.client_claim]},
            )
        except ExpiredSignatureError:
            raise Unauthenticated("the token has expired; get another one from its issuer") from None
        except PyJWTError:
            raise Unauthenticated(_NOT_OURS) from None
        client_id = claims[self.issuer.client_claim]
        if not isinstance(client_id, str):
            raise Unauthenticated(_NOT_OURS)
        return client_id

    async def refresh(self) -> None:
        """Looks at the keys. Whoever asks while a look is under way waits for that one."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        # A caller that goes away leaves the look to the others.
        await asyncio.shield(self._looking)

    async def _key_of(self, token: str) -> jwt.PyJWK:
        header = jwt.get_unverified_header(token)
        if header.get("alg") not in ALGORITHMS:
            raise Unauthenticated(_NOT_OURS)
        key = self._known(header.get("kid"))
        if key is None and self._may_look():
            await self.refresh()
            key = self._known(header.get("kid"))
        if key is None:
            raise Unauthenticated(_NOT_OURS if self._keys else "the keys of the token's issuer can't be read now")
        return key

    def _known(self, kid: object) -> jwt.PyJWK | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(str(kid or ""))

    def _may_look(self) -> bool:
        if self._looking is not None or self._looked_at is None:
            return True
        return self._clock.monotonic() - self._looked_at >= UNKNOWN_KEY_SECONDS

    async def _run(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(self.issuer.refresh)

    async def _look(self) -> None:
        self._looked_at = self._clock.monotonic()
        try:
            self._keys = read_jwks(await self._read())
        except (OSError, ValueError, aiohttp.ClientError, TimeoutError) as error:
            # The former keys stay: an issuer that is away for a while must not lock everybody out.
            log.warning("the issuer's keys can't be read; the former ones stay", why=str(error) or type(error).__name__)
        finally:
            self._looking = None

    async def _read(self) -> bytes:
        if self.issuer.jwks_file is not None:
            return await asyncio.to_thread(self.issuer.jwks_file.read_bytes)
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self.issuer.jwks_url or "", allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"answered with HTTP status {response.status}")
            text = b""
            async for chunk in response.content.iter_any():
                text += chunk
                if len(text) > MAX_JWKS_BYTES:
                    break
            return text
