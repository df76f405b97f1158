"""Clients that show a token of an issuer, over a real connection."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from jwt import encode
from jwt.algorithms import ECAlgorithm

from reward_server.access import new_key
from reward_server.clock import Clock

from .bare import answered, bare, client_toml, line, refused, until

KEY, KEY_HASH = new_key()


def issue(key: ec.EllipticCurvePrivateKey, client: str) -> str:
    """A token for a client."""
    claims = {"iss": "https://issuer", "aud": "rewards", "sub": client, "exp": Clock().now_ms() // 1000 + 60}
    return encode(claims, key, algorithm="ES256", headers={"kid": "1"})


def publish(file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Writes the key set."""
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": [{**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "1"}]}))
    fresh.rename(file)


async def test_a_token_shows_a_configured_client(tmp_path: Path) -> None:
    """Its permissions stand in the configuration; keys work beside it; one for somebody else is nobody's."""
    key, file = ec.generate_private_key(ec.SECP256R1()), tmp_path / "jwks.json"
    publish(file, key)
    issuer = f'[jwt]\nissuer = "https://issuer"\naudience = "rewards"\njwks_file = "{file}"\n'
    clients = (
        client_toml("by-token")
        + client_toml("orderer", permissions="order")
        + client_toml("by-key", f'keys = ["{KEY_HASH}"]')
    )
    async with bare(tmp_path, issuer + clients) as server:
        for shown in (KEY, issue(key, "by-token"), issue(key, "by-key")):
            async with line(server.port, shown) as one:
                await one.call()
        async with line(server.port, issue(key, "orderer")) as orderer:
            assert (await orderer.refusal()).reason == "PERMISSION_DENIED"
        stranger = ec.generate_private_key(ec.SECP256R1())
        for shown in (issue(key, "nobody"), issue(stranger, "by-token")):
            async with line(server.port, shown) as one:
                assert (await one.refusal()).reason == "UNAUTHENTICATED"


async def test_the_issuers_keys_and_settings_are_taken_over(tmp_path: Path) -> None:
    """A key set that was exchanged, and then an issuer that is no longer trusted."""
    old, new = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    file = tmp_path / "jwks.json"
    publish(file, old)
    issuer = f'[jwt]\nissuer = "https://issuer"\naudience = "rewards"\njwks_file = "{file}"\n'
    clients = client_toml("shop", f'keys = ["{KEY_HASH}"]')
    async with (
        bare(tmp_path, issuer + clients) as server,
        line(server.port, issue(old, "shop")) as one,
        line(server.port, issue(new, "shop")) as two,
    ):
        await one.call()
        publish(file, new)
        server.app.reload()
        await until(answered(two))
        assert (await one.refusal()).reason == "UNAUTHENTICATED"
        server.rewrite(clients)
        server.app.reload()
        await until(refused(two))
