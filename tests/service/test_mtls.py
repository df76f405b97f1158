"""TLS as other programs see it: which versions, who has to show a certificate, and whose it is."""

import asyncio
import socket
import ssl
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc.aio import AioRpcError

from ports import free_port
from reward_server.access import new_key

from .bare import Authority, Bare, bare, client_toml, line

KEY, KEY_HASH = new_key()
OTHER, OTHER_HASH = new_key()

CLIENTS = (
    client_toml("shop", f'keys = ["{KEY_HASH}"]', 'certificate_names = ["spiffe://example.org/shop"]')
    + client_toml("other", f'keys = ["{OTHER_HASH}"]', 'certificate_names = ["other.internal"]')
    + client_toml("plain", 'certificate_names = ["only-a-common-name"]')
    + client_toml("orderer", 'certificate_names = ["orderer.internal"]', permissions="order")
)


class Pki:
    """An authority for the server and one for the clients."""

    def __init__(self, folder: Path) -> None:
        self.servers = Authority(folder, "servers-ca")
        self.clients = Authority(folder, "clients-ca")
        self.stranger = Authority(folder, "strangers-ca")
        certificate, key = self.servers.issue_for_server()
        self.server_lines = f'tls_certificate_file = "{certificate}"\ntls_key_file = "{key}"'
        self.asking = f'{self.server_lines}\ntls_client_ca_file = "{self.clients.file}"'

    @property
    def ca(self) -> Path:
        """What clients trust."""
        return self.servers.file


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    """Fresh authorities."""
    return Pki(tmp_path)


async def test_a_certificate_says_who_calls(tmp_path: Path, pki: Pki) -> None:
    """By a SPIFFE id, a DNS name or a common name; no key is needed, and permissions are the client's."""
    shown = [
        pki.clients.issue("some pod", x509.UniformResourceIdentifier("spiffe://example.org/shop")),
        pki.clients.issue("some host", x509.DNSName("elsewhere"), x509.DNSName("other.internal")),
        pki.clients.issue("only-a-common-name"),
    ]
    async with bare(tmp_path, CLIENTS, grpc_lines=pki.asking) as server:
        for certificate in shown:
            async with line(server.port, ca=pki.ca, certificate=certificate) as one:
                await one.call()
        certificate = pki.clients.issue("x", x509.DNSName("orderer.internal"))
        async with line(server.port, ca=pki.ca, certificate=certificate) as orderer:
            assert (await orderer.refusal()).reason == "PERMISSION_DENIED"


async def test_certificates_of_others_say_nothing(tmp_path: Path, pki: Pki) -> None:
    """None, or one that another authority signed, ends in the handshake; a good one without our names needs a key."""
    name = x509.DNSName("other.internal")
    unknown = pki.clients.issue("unknown", x509.DNSName("unknown.internal"))
    async with bare(tmp_path, CLIENTS, grpc_lines=pki.asking) as server:
        for certificate in (None, pki.stranger.issue("a", name), pki.servers.issue("b", name)):
            async with line(server.port, KEY, ca=pki.ca, certificate=certificate) as stranger:
                assert (await stranger.refusal()).code is grpc.StatusCode.UNAVAILABLE
        async with line(server.port, ca=pki.ca, certificate=unknown) as nobody:
            assert (await nobody.refusal()).reason == "UNAUTHENTICATED"
        async with line(server.port, KEY, ca=pki.ca, certificate=unknown) as shop:
            await shop.call()


async def test_two_identities_at_once_are_none(tmp_path: Path, pki: Pki) -> None:
    """Key and certificate of one client go together; those of two don't, nor does a wrong key with a good one."""
    certificate = pki.clients.issue("shop", x509.UniformResourceIdentifier("spiffe://example.org/shop"))
    both = pki.clients.issue(
        "both", x509.UniformResourceIdentifier("spiffe://example.org/shop"), x509.DNSName("other.internal")
    )
    async with bare(tmp_path, CLIENTS, grpc_lines=pki.asking) as server:
        async with line(server.port, KEY, ca=pki.ca, certificate=certificate) as shop:
            await shop.call()
        for key, shown in ((OTHER, certificate), ("rk_wrong", certificate), (None, both), (KEY, both)):
            async with line(server.port, key, ca=pki.ca, certificate=shown) as mixed:
                assert (await mixed.refusal()).reason == "UNAUTHENTICATED"


async def test_certificates_may_be_asked_for_at_a_port_of_their_own(tmp_path: Path, pki: Pki) -> None:
    """Then the ordinary port takes keys alone, and a certificate shown there counts for nothing."""
    port = free_port()
    lines = f'{pki.asking}\ntls_client_bind = "127.0.0.1:{port}"'
    certificate = pki.clients.issue("o", x509.DNSName("other.internal"))
    async with bare(tmp_path, CLIENTS, grpc_lines=lines) as server:
        async with line(server.port, KEY, ca=pki.ca) as shop:
            await shop.call()
        async with line(server.port, ca=pki.ca, certificate=certificate) as nobody:
            assert (await nobody.refusal()).reason == "UNAUTHENTICATED"
        async with line(port, ca=pki.ca, certificate=certificate) as other:
            await other.call()
        async with line(port, KEY, ca=pki.ca) as without:
            assert (await without.refusal()).code is grpc.StatusCode.UNAVAILABLE


def handshake(server: Bare, ca: Path, version: ssl.TLSVersion) -> str | None:
    """Offers exactly one version and returns what was agreed on."""
    context = ssl.create_default_context(cafile=str(ca))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as secured,
    ):
        return secured.version()


def client_hello(version: bytes) -> bytes:
    """A first message of an older TLS, written by hand: today's libraries won't."""
    ciphers = bytes.fromhex("c02b c02c c009 c00a")
    # Groups X25519 and P-256, ECDSA with SHA-256: enough for a server with a P-256 key.
    extensions = bytes.fromhex("000a 0006 0004 001d 0017  000d 0004 0002 0403  000b 0002 0100")
    body = version + bytes(range(32)) + b"\0" + len(ciphers).to_bytes(2, "big") + ciphers + b"\1\0"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


async def answer_to(server: Bare, hello: bytes) -> bytes:
    """The first byte of the server's answer: 22 begins a handshake; nothing when it hung up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(hello)
        return await reader.read(1)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_only_modern_versions_are_spoken(tmp_path: Path, pki: Pki) -> None:
    """TLS 1.2 and 1.3 are; to 1.0 and 1.1 the server hangs up, where the same message for 1.2 is answered."""
    async with bare(tmp_path, CLIENTS, grpc_lines=pki.server_lines) as server:
        for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
            assert await asyncio.to_thread(handshake, server, pki.ca, version) == name
        assert await answer_to(server, client_hello(b"\x03\x03")) == b"\x16"
        for old in (b"\x03\x01", b"\x03\x02"):
            assert await answer_to(server, client_hello(old)) == b""


async def test_in_the_clear_nobody_is_answered(tmp_path: Path, pki: Pki) -> None:
    """With TLS on, a client without it isn't served."""
    async with bare(tmp_path, CLIENTS, grpc_lines=pki.server_lines) as server, line(server.port, KEY) as plain:
        with pytest.raises(AioRpcError):
            await plain.call()
