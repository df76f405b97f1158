"""Tokens of an issuer, its keys served by a real web server."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from reward_server.clock import Clock
from reward_server.errors import Unauthenticated
from reward_server.jwts import UNKNOWN_KEY_SECONDS, Issuer, Verifier, read_jwks

RSA = rsa.generate_private_key(65_537, 2_048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(65_537, 2_048)


def now() -> int:
    """Seconds since 1970."""
    return Clock().now_ms() // 1000


def jwk(key: Any, kid: str) -> dict[str, Any]:
    """The public half as an issuer publishes it."""
    kinds: dict[type, Any] = {rsa.RSAPublicKey: RSAAlgorithm, ec.EllipticCurvePublicKey: ECAlgorithm}
    public = key.public_key()
    algorithm = next((made for kind, made in kinds.items() if isinstance(public, kind)), OKPAlgorithm)
    return {**algorithm.to_jwk(public, as_dict=True), "kid": kid, "use": "sig"}


def token(key: Any = RSA, alg: str = "RS256", kid: str | None = "rsa", **claims: Any) -> str:
    """A good token of the issuer unless told otherwise; a claim that is None is left out."""
    body = {"iss": "https://issuer.example", "aud": "rewards", "sub": "shop", "exp": now() + 600, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, key, algorithm=alg, headers={"kid": kid} if kid else None)


class StoppedClock(Clock):
    """A clock whose monotonic time is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


class IssuerSite:
    """Publishes keys, and counts who asks."""

    def __init__(self) -> None:
        self.keys = [jwk(RSA, "rsa"), jwk(EC, "ec"), jwk(ED, "ed")]
        self.asked = 0
        self.status = 200
        self.headers: dict[str, str] = {}
        self.url = ""

    async def answer(self, _request: web.Request) -> web.Response:
        """The key set, or what is wrong with it today."""
        self.asked += 1
        await asyncio.sleep(0)
        return web.json_response({"keys": self.keys}, status=self.status, headers=self.headers)


@pytest.fixture
async def site() -> AsyncIterator[IssuerSite]:
    """On a port of its own."""
    one = IssuerSite()
    app = web.Application()
    app.router.add_get("/keys", one.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = "http://{}:{}/keys".format(*runner.addresses[0])
    yield one
    await runner.cleanup()


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def verifier(site: IssuerSite, clock: StoppedClock) -> Verifier:
    """Asks the site."""
    issuer = Issuer(
        issuer="https://issuer.example",
        audience="rewards",
        jwks_file=None,
        jwks_url=site.url,
        client_claim="sub",
        leeway=30,
        refresh=300,
    )
    return Verifier(issuer, clock=clock)


async def test_good_tokens_name_their_client(verifier: Verifier) -> None:
    """Signed with any of the three algorithms; a moment too early or too late is forgiven."""
    for good in (
        token(),
        token(EC, "ES256", "ec"),
        token(ED, "EdDSA", "ed"),
        token(exp=now() - 10, nbf=now() + 10),
        token(aud=["other", "rewards"]),
    ):
        assert await verifier.client_of(good) == "shop"


def forged_with_the_public_key() -> str:
    """HMAC with what everybody can read: taken for good by verifiers that believe a token's own word."""
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head = _part({"alg": "HS256", "typ": "JWT", "kid": "rsa"})
    body = _part({"iss": "https://issuer.example", "aud": "rewards", "sub": "shop", "exp": now() + 600})
    mac = hmac.new(pem, f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "bad",
    [
        lambda: token(exp=now() - 31),
        lambda: token(exp=None),
        lambda: token(nbf=now() + 60),
        lambda: token(aud="others"),
        lambda: token(aud=None),
        lambda: token(iss="https://issuer.example.evil"),
        lambda: token(iss=None),
        lambda: token(sub=None),
        lambda: token(STRANGER),
        lambda: token(STRANGER, kid="unknown"),
        lambda: token(kid=None),
        lambda: token(EC, "ES256", "rsa"),
        lambda: token(RSA, "RS512"),
        lambda: token(RSA, "PS256"),
        lambda: token("x" * 64, "HS256"),
        lambda: jwt.encode({"sub": "shop", "exp": now() + 600}, "", algorithm="none"),
        forged_with_the_public_key,
        lambda: token()[:-4] + "AAAA",
        lambda: "a.b.c",
        lambda: "..",
        lambda: "",
    ],
)
async def test_other_tokens_are_refused(verifier: Verifier, bad: Callable[[], str]) -> None:
    """Expired, not yet good, for others, of others, unsigned, or signed in a way that anybody could."""
    with pytest.raises(Unauthenticated) as caught:
        await verifier.client_of(bad())
    assert "shop" not in str(caught.value)


async def test_another_claim_may_name_the_client(verifier: Verifier) -> None:
    """It has to be a text."""
    other = Verifier(replace(verifier.issuer, client_claim="azp"))
    assert await other.client_of(token(azp="stall")) == "stall"
    for claims in ({}, {"azp": ["stall"]}, {"azp": 7}):
        with pytest.raises(Unauthenticated):
            await other.client_of(token(**claims))


async def test_a_new_key_is_looked_up_once_for_all_who_wait(
    verifier: Verifier, site: IssuerSite, clock: StoppedClock
) -> None:
    """The issuer goes over to another key: the first tokens under it bring one question, not one each."""
    await asyncio.gather(*(verifier.client_of(token()) for _ in range(20)))
    assert site.asked == 1
    site.keys = [jwk(STRANGER, "next")]
    clock.seconds += UNKNOWN_KEY_SECONDS
    named = await asyncio.gather(*(verifier.client_of(token(STRANGER, kid="next")) for _ in range(20)))
    assert (set(named), site.asked) == ({"shop"}, 2)
    with pytest.raises(Unauthenticated):
        await verifier.client_of(token())


async def test_made_up_keys_do_not_bring_questions(verifier: Verifier, site: IssuerSite, clock: StoppedClock) -> None:
    """One look in half a minute, however many tokens name keys that don't exist."""
    await verifier.client_of(token())
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await verifier.client_of(token(STRANGER, kid=f"made-up-{number}"))
    assert site.asked == 1
    clock.seconds += UNKNOWN_KEY_SECONDS
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await verifier.client_of(token(STRANGER, kid=f"made-up-{number}"))
    assert site.asked == 2


async def test_an_issuer_that_is_away_locks_nobody_out(verifier: Verifier, site: IssuerSite) -> None:
    """The former keys stay when it answers with an error, with nothing usable, or sends us elsewhere."""
    await verifier.client_of(token())
    site.status = 503
    await verifier.refresh()
    site.status, site.headers = 302, {"Location": site.url}
    await verifier.refresh()
    site.status, site.keys = 200, []
    await verifier.refresh()
    site.keys = [{"kty": "oct", "kid": "rsa", "k": "c2VjcmV0"}]
    await verifier.refresh()
    assert site.asked == 5, "a redirect isn't followed"
    assert await verifier.client_of(token()) == "shop"


async def test_keys_are_read_from_a_file_too(verifier: Verifier, tmp_path: Path) -> None:
    """And again in the background."""
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk(RSA, "rsa")]}))
    one = Verifier(replace(verifier.issuer, jwks_file=file, jwks_url=None, refresh=0.01))
    one.start()
    assert await one.client_of(token()) == "shop"
    file.write_text(json.dumps({"keys": [jwk(STRANGER, "rsa")]}))
    while True:
        try:
            await one.client_of(token(STRANGER))
        except Unauthenticated:
            await asyncio.sleep(0.01)
            continue
        break
    await one.close()


def test_only_keys_that_can_verify_count() -> None:
    """Short RSA keys, shared secrets, keys for encryption and other curves are left out."""
    weak = rsa.generate_private_key(65_537, 1_024)  # noqa: S505 - that is the point
    others = [
        jwk(weak, "weak"),
        {**jwk(RSA, "enc"), "use": "enc"},
        {"kty": "oct", "kid": "oct", "k": "c2VjcmV0"},
        jwk(ec.generate_private_key(ec.SECP384R1()), "p384"),
        {"kty": "RSA", "kid": "broken"},
        "no key",
    ]
    assert list(read_jwks(json.dumps({"keys": [*others, jwk(ED, "ed")]}).encode())) == ["ed"]
    for text in (b"", b"[]", b"{}", b"{", json.dumps({"keys": others}).encode(), b" " * 300_000):
        with pytest.raises(ValueError, match=r"key|Key"):
            read_jwks(text)
