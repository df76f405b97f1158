"""A real server without suppliers, for tests about who may call; and the certificates that such tests need."""

import asyncio
import contextlib
import datetime
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError, Channel, insecure_channel, secure_channel

from ports import free_port
from reward_server.app import App
from reward_server.clock import Clock
from reward_server.config import Settings, load_settings
from reward_server.sealing import create_master_key_file
from rewardservice.v1 import reward_service_pb2_grpc
from rewardservice.v1.reward_service_pb2 import ListOrdersRequest

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def client_toml(client_id: str, *lines: str, permissions: str = "order read") -> str:
    """One [[clients]] entry."""
    allowed = ", ".join(f'"{word}"' for word in permissions.split())
    return "\n".join(["[[clients]]", f'id = "{client_id}"', f"permissions = [{allowed}]", *lines, ""])


def write_config(folder: Path, rest: str, *, grpc_lines: str = "", port: int = 0) -> Path:
    """A configuration; written again it replaces the former one as a whole."""
    key = folder / "master.key"
    if not key.exists():
        create_master_key_file(key)
    fresh, config = folder / "reward.toml.new", folder / "reward.toml"
    fresh.write_text(
        f'[grpc]\nbind = "127.0.0.1:{port}"\n{grpc_lines}\n[http]\nbind = "127.0.0.1:0"\n'
        f'[store]\nurl = "sqlite:///{folder}/reward.db"\n[secrets]\nmaster_key_file = "{key}"\n{rest}'
    )
    fresh.rename(config)
    return config


@dataclass
class Bare:
    """The running server."""

    folder: Path
    app: App
    settings: Settings
    port: int

    def rewrite(self, rest: str, *, grpc_lines: str = "") -> None:
        """Changes its configuration; nothing is said to the server."""
        write_config(self.folder, rest, grpc_lines=grpc_lines, port=self.port)


@contextlib.asynccontextmanager
async def bare(folder: Path, rest: str, *, grpc_lines: str = "", clock: Clock | None = None) -> AsyncIterator[Bare]:
    """Starts it and stops it."""
    port = free_port()
    settings = load_settings(write_config(folder, rest, grpc_lines=grpc_lines, port=port), {})
    app = App(settings, clock=clock)
    await app.start()
    try:
        yield Bare(folder, app, settings, port)
    finally:
        await app.close()


class Authority:
    """Signs certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        signed = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        self.file = folder / f"{name}.crt"
        self.file.write_bytes(signed.sign(self._key, hashes.SHA256()).public_bytes(PEM))

    def issue(self, name: str, *names: x509.GeneralName) -> tuple[Path, Path]:
        """A certificate for a common name and others, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), key)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        certificate_file, key_file = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        certificate_file.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(PEM))
        key_file.write_bytes(key.private_bytes(PEM, PKCS8, serialization.NoEncryption()))
        return certificate_file, key_file

    def issue_for_server(self, name: str = "server") -> tuple[Path, Path]:
        """One for 127.0.0.1."""
        return self.issue(name, x509.IPAddress(ipaddress.ip_address("127.0.0.1")))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )


class Line:
    """One client's connection."""

    def __init__(self, channel: Channel, key: str | None) -> None:
        self.channel = channel
        self.orders = reward_service_pb2_grpc.RewardServiceStub(channel)
        self.metadata = (("authorization", f"Bearer {key}"),) if key else ()

    async def call(self) -> None:
        """A call that every client with `read` may make."""
        await self.orders.ListOrders(ListOrdersRequest(), metadata=self.metadata, timeout=60)

    async def refusal(self) -> "Refusal":
        """How that call is refused."""
        try:
            await self.call()
        except AioRpcError as error:
            return Refusal(error)
        raise AssertionError("the call was answered OK")


class Refusal:
    """An error with its details."""

    def __init__(self, error: AioRpcError) -> None:
        self.code = error.code()
        self.text = error.details() or ""
        self.details: dict[str, Any] = {}
        raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
        for packed in status_pb2.Status.FromString(raw if isinstance(raw, bytes) else b"").details:
            name = packed.TypeName().rpartition(".")[2]
            self.details[name] = getattr(error_details_pb2, name)()
            packed.Unpack(self.details[name])

    @property
    def reason(self) -> str:
        """The word for programs; "" when gRPC itself refused."""
        return str(self.details["ErrorInfo"].reason) if "ErrorInfo" in self.details else ""


def pem(file: Path) -> bytes:
    """What is in a certificate's file or a key's."""
    return file.read_bytes()


@contextlib.asynccontextmanager
async def line(
    port: int, key: str | None = None, *, ca: Path | None = None, certificate: tuple[Path, Path] | None = None
) -> AsyncIterator[Line]:
    """A connection of its own: over TLS with `ca`, showing a certificate if there is one."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    if ca is None:
        channel = insecure_channel(f"127.0.0.1:{port}", options=options)
    else:
        own, private = (pem(file) for file in certificate) if certificate else (None, None)
        credentials = grpc.ssl_channel_credentials(pem(ca), private, own)
        channel = secure_channel(f"127.0.0.1:{port}", credentials, options=options)
    try:
        yield Line(channel, key)
    finally:
        await channel.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Asks until it holds; the test's time limit is the end of patience."""
    while not await condition():  # noqa: ASYNC110 - what is waited for has no event of its own
        await asyncio.sleep(0.05)


def answered(one: Line) -> Callable[[], Awaitable[bool]]:
    """Whether the client's calls are answered."""

    async def ask() -> bool:
        try:
            await one.call()
        except AioRpcError:
            return False
        return True

    return ask


def refused(one: Line) -> Callable[[], Awaitable[bool]]:
    """Whether they are refused."""
    ask = answered(one)

    async def turned() -> bool:
        return not await ask()

    return turned
