"""Client keys: made, hashed, and recognised."""

import hashlib

import pytest

from reward_server.access import DEV_CLIENTS, Access, Client, Permission, new_key
from reward_server.errors import Unauthenticated

ORDER = frozenset({Permission.ORDER})


def test_new_key() -> None:
    """A key is 32 random bytes in base64url; what is configured is its hash."""
    key, configured = new_key()
    assert key.startswith("rk_")
    assert len(key) == 3 + 43
    assert configured == f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    assert new_key()[0] != key


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_caller_is_found(scheme: str) -> None:
    """A key finds its client, as text and as bytes, whatever the case of the scheme."""
    key, configured = new_key()
    access = Access([Client("shop", (configured.removeprefix("sha256:"),), ORDER)])
    caller = access.authenticate(f"{scheme} {key}")
    assert (caller.client_id, caller.permissions) == ("shop", ORDER)
    assert access.authenticate(f"{scheme} {key}".encode()) is caller


def test_two_keys_while_one_is_replaced() -> None:
    """A client may have two keys, so that one can be replaced without a gap."""
    keys = [new_key(), new_key()]
    access = Access([Client("shop", tuple(hashed.removeprefix("sha256:") for _, hashed in keys), ORDER)])
    assert {access.authenticate(f"Bearer {key}").client_id for key, _ in keys} == {"shop"}


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        b"",
        "Bearer",
        "Bearer ",
        "rk_secret-guess",
        "Basic rk_secret-guess",
        "Bearer rk_secret-guess",
        "Bearer  dev-key",
        "Bearer dev-key ",
        "Bearer " + "rk_secret-guess" * 1000,
        "Bearer rk_secret-guessé",
        "Bearer rk_secret-guess\ud800",
        b"Bearer \xff\xfe",
    ],
)
def test_nobody(header: str | bytes | None) -> None:
    """Everything else is refused, with words that don't repeat what was sent."""
    with pytest.raises(Unauthenticated) as caught:
        Access(DEV_CLIENTS).authenticate(header)
    assert "secret-guess" not in str(caught.value)
    assert "key" in str(caught.value) or "Bearer" in str(caught.value)


def test_hash_is_no_key() -> None:
    """Who reads the configuration can't call with what stands there."""
    hashed = DEV_CLIENTS[0].key_hashes[0]
    for guess in (hashed, f"sha256:{hashed}"):
        with pytest.raises(Unauthenticated):
            Access(DEV_CLIENTS).authenticate(f"Bearer {guess}")


@pytest.mark.parametrize(
    ("key", "client", "permissions"),
    [
        ("dev-key", "dev", {"order", "read", "read_cards"}),
        ("dev-key-2", "dev-2", {"order", "read", "read_cards"}),
        ("dev-operator-key", "dev-operator", {"operate", "read"}),
    ],
)
def test_dev_clients(key: str, client: str, permissions: set[str]) -> None:
    """The development keys and what they may do; the operator never sees cards."""
    caller = Access(DEV_CLIENTS).authenticate(f"Bearer {key}")
    assert (caller.client_id, set(caller.permissions)) == (client, permissions)


def test_permissions() -> None:
    """A caller may do what it was given, and nothing else."""
    caller = Access(DEV_CLIENTS).authenticate("Bearer dev-key")
    assert caller.may(Permission.ORDER)
    assert not caller.may(Permission.OPERATE)


def test_repr_shows_no_hash() -> None:
    """Clients can be printed."""
    assert DEV_CLIENTS[0].key_hashes[0] not in repr(DEV_CLIENTS)


class Issued:
    """Stands for an issuer: what is signed for a client is written `client.of.CLIENT`."""

    async def client_of(self, token: str) -> str:
        """The third part."""
        return token.split(".")[2]


def nameless() -> list[str]:
    """A connection without a certificate."""
    return []


def test_a_key_expires() -> None:
    """It works until its time, and then is refused with words of its own that tell nothing of its client."""
    key, configured = new_key()
    hashed = configured.removeprefix("sha256:")
    now = 1_000_000
    access = Access([Client("shop", (hashed,), ORDER, key_ends={hashed: 1_000_001})], now_ms=lambda: now)
    caller = access.authenticate(f"Bearer {key}")
    assert access.admits(caller)
    now += 1
    with pytest.raises(Unauthenticated, match="expired") as caught:
        access.authenticate(f"Bearer {key}")
    assert "shop" not in str(caught.value)
    assert not access.admits(caller)


def test_who_is_admitted_still() -> None:
    """A caller whose key, client or permission is gone isn't; one that may do more now is."""
    key, configured = new_key()
    hashed = configured.removeprefix("sha256:")
    both = ORDER | {Permission.READ}
    access = Access([Client("shop", (hashed,), both)])
    caller = access.authenticate(f"Bearer {key}")
    for clients, admitted in (
        ([Client("shop", (hashed,), both | {Permission.READ_CARDS})], True),
        ([Client("shop", (hashed,), ORDER)], False),
        ([Client("shop", (), both)], False),
        ([Client("other", (hashed,), both)], False),
        ([], False),
    ):
        access.use(clients)
        assert access.admits(caller) == admitted, clients


async def test_certificate_and_authorization_together() -> None:
    """What is sent has to be good, whatever the certificate says; both must not be two clients'."""
    key, configured = new_key()
    clients = [
        Client("shop", (configured.removeprefix("sha256:"),), ORDER, certificate_names=frozenset({"shop.internal"})),
        Client("other", (), ORDER, certificate_names=frozenset({"other.internal"})),
    ]
    access = Access(clients, tokens=Issued())

    async def who(header: str | None, *names: str) -> str:
        try:
            return (await access.identify(header, lambda: names)).client_id
        except Unauthenticated:
            return ""

    assert await who(None, "x", "shop.internal") == "shop"
    assert await who(f"Bearer {key}") == "shop"
    assert await who(f"Bearer {key}", "x") == "shop"
    assert await who(f"Bearer {key}", "shop.internal") == "shop"
    assert await who("Bearer client.of.other", "other.internal") == "other"
    assert await who("Bearer client.of.nobody") == ""
    assert await who("Bearer client.of.other", "shop.internal") == ""
    assert await who(f"Bearer {key}", "other.internal") == ""
    assert await who("Bearer rk_wrong", "shop.internal") == ""
    assert await who("nonsense", "shop.internal") == ""
    assert await who(None, "shop.internal", "other.internal") == ""
    assert await who(None) == ""


async def test_without_an_issuer_a_token_is_no_key() -> None:
    """It is looked up like any other text, and found nowhere."""
    with pytest.raises(Unauthenticated, match="unknown client key"):
        await Access(DEV_CLIENTS).identify("Bearer client.of.dev", nameless)
    with pytest.raises(Unauthenticated):
        await Access(DEV_CLIENTS, tokens=Issued()).identify("Bearer client.of.dévé", nameless)


def test_proof_stays_out_of_repr() -> None:
    """Callers can be printed, too."""
    caller = Access(DEV_CLIENTS).authenticate("Bearer dev-key")
    assert DEV_CLIENTS[0].key_hashes[0] not in repr(caller)
