"""Runs the real server against the real sandbox, inside the test process or as a process of its own."""

import asyncio
import contextlib
import datetime
import ipaddress
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc.aio import Channel, insecure_channel, secure_channel

from ports import free_port
from reward_sandbox import Sandbox, SandboxSettings, catalogue
from reward_server.app import App
from reward_server.clock import Clock
from reward_server.config import load_settings
from reward_server.sealing import create_master_key_file
from rewardservice.v1 import catalog_service_pb2_grpc, order_pb2, reward_service_pb2, reward_service_pb2_grpc
from rewardservice.v1.reward_service_pb2 import CreateOrderRequest, CreateOrderResponse, StreamOrderUpdatesRequest

DEV = "dev-key"
OTHER = "dev-key-2"
OPERATOR = "dev-operator-key"

START_SECONDS = 100.0
"""How long a server may take until it takes calls; on a calm machine it takes two."""

State = order_pb2.OrderState
TERMINAL = frozenset(
    {
        State.ORDER_STATE_FULFILLED,
        State.ORDER_STATE_PARTIALLY_FULFILLED,
        State.ORDER_STATE_FAILED,
        State.ORDER_STATE_CANCELLED,
    }
)

QUICK = {
    # Durations that a test would otherwise wait for; everything else is as shipped.
    "read_timeout": 1.0,
    "answer_patience": 3.0,
    "not_found_grace_seconds": 0.5,
    "poll_plan": [0.1, 0.2],
}

USUAL = (
    "dushu/membership",
    "kaquan91_card/type-1",
    "kaquan91_recharge/topup",
    "kasushou/card",
    "kuaiduibao/card",
)
"""One product of each supplier: to read all five hundred takes a server a quarter of a second."""


def toml_value(value: object) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    return repr(value) if isinstance(value, int | float) else f'"{value}"'


@dataclass(kw_only=True)
class Place:
    """Where a server of a test lives: its folder, its ports, its configuration."""

    folder: Path
    sandbox_url: str
    grpc_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    account: Mapping[str, object] = field(default_factory=lambda: dict(QUICK))
    """Keys added to every supplier account."""
    accounts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Keys added to single accounts."""
    extra: str = ""
    kinds: tuple[str, ...] = ()
    """Only these suppliers; none named: all."""
    products: tuple[str, ...] = ()
    """Only these products; none named: all."""
    store: str = ""
    """The lines of `[store]`; none: a SQLite file in the folder."""

    def write(self) -> Path:
        """Writes the configuration and, once, the master key."""
        key = self.folder / "master.key"
        if not key.exists():
            create_master_key_file(key)
        lines = []
        keys: dict[str, object] = {}
        for line in catalogue(self.sandbox_url, self.kinds, self.products).splitlines():
            if line.startswith("["):
                keys = {}
            if line.partition(" = ")[0] not in keys:
                # Else the account has it set otherwise.
                lines.append(line)
            if line.startswith("[suppliers."):
                name = line.removeprefix("[suppliers.").rstrip("]")
                keys = {**self.account, **self.accounts.get(name, {})}
                lines.extend(f"{k} = {toml_value(v)}" for k, v in keys.items())
        sqlite = f'url = "sqlite:///{self.folder}/reward.db"'
        config = self.folder / "reward.toml"
        config.write_text(
            f'[grpc]\nbind = "127.0.0.1:{self.grpc_port}"\n[http]\nbind = "127.0.0.1:{self.http_port}"\n'
            f"[store]\n{self.store or sqlite}\n"
            f'[secrets]\nmaster_key_file = "{key}"\n{self.extra}\n' + "\n".join(lines)
        )
        return config

    @property
    def kuaiduibao_callback(self) -> str:
        """What would be entered in that supplier's console."""
        return f"http://127.0.0.1:{self.http_port}/callbacks/kuaiduibao"


class Caller:
    """A client with one key, straight on the generated stubs."""

    def __init__(self, port: int, key: str | None = DEV) -> None:
        self.channel: Channel = insecure_channel(f"127.0.0.1:{port}")
        self.orders = reward_service_pb2_grpc.RewardServiceStub(self.channel)
        self.products = catalog_service_pb2_grpc.CatalogServiceStub(self.channel)
        self.metadata = (("authorization", f"Bearer {key}"),) if key else ()

    async def create(self, product_id: str, client_order_id: str, **fields: Any) -> CreateOrderResponse:
        """Orders one of a product unless told otherwise."""
        fields.setdefault("quantity", 1)
        request = CreateOrderRequest(product_id=product_id, client_order_id=client_order_id, **fields)
        return await self.orders.CreateOrder(request, metadata=self.metadata)

    async def get(self, order_id: str, view: str = "FULL") -> order_pb2.Order:
        """Reads an order."""
        request = reward_service_pb2.GetOrderRequest(
            order_id=order_id, view=order_pb2.OrderView.Value(f"ORDER_VIEW_{view}")
        )
        return (await self.orders.GetOrder(request, metadata=self.metadata)).order

    async def cancel(self, order_id: str) -> order_pb2.Order:
        """Asks to cancel an order."""
        request = reward_service_pb2.CancelOrderRequest(order_id=order_id)
        return (await self.orders.CancelOrder(request, metadata=self.metadata)).order

    def stream(self, **fields: Any) -> Any:
        """Opens a stream of updates."""
        return self.orders.StreamOrderUpdates(StreamOrderUpdatesRequest(**fields), metadata=self.metadata)

    async def until(self, order_id: str, enough: Callable[[order_pb2.Order], bool] | None = None) -> order_pb2.Order:
        """Watches an order until it is terminal, or as told, and returns it with its cards."""
        enough = enough or (lambda order: order.state in TERMINAL)
        call = self.stream(order_ids=[order_id], start=reward_service_pb2.STREAM_START_SNAPSHOT)
        try:
            async for message in call:
                kind = message.WhichOneof("message")
                if kind in ("snapshot", "update"):
                    order: order_pb2.Order = getattr(message, kind).order
                    if enough(order):
                        return order
        finally:
            call.cancel()
        raise AssertionError("the stream ended by itself")

    async def close(self) -> None:
        """Closes the channel."""
        await self.channel.close()


@contextlib.asynccontextmanager
async def caller(port: int, key: str | None = DEV) -> AsyncIterator[Caller]:
    """A caller that is closed afterwards."""
    one = Caller(port, key)
    try:
        yield one
    finally:
        await one.close()


@dataclass
class Service:
    """The server and the sandbox, running in the test process."""

    place: Place
    app: App
    sandbox: Sandbox
    client: Caller

    def books(self, kind: str) -> list[dict[str, Any]]:
        """What the supplier says was bought."""
        orders: list[dict[str, Any]] = self.sandbox.books(kind)["orders"]
        return orders


@contextlib.asynccontextmanager
async def service(
    folder: Path, *, sandbox: SandboxSettings | None = None, clock: Clock | None = None, **place: Any
) -> AsyncIterator[Service]:
    """Starts both on free ports and stops them afterwards."""
    http_port = free_port()
    settings = sandbox or SandboxSettings()
    settings = SandboxSettings(
        **{
            **{name: getattr(settings, name) for name in settings.__dataclass_fields__},
            "port": 0,
            "step_seconds": 0.05,
            "callback_url": f"http://127.0.0.1:{http_port}/callbacks/kuaiduibao",
        }
    )
    async with Sandbox(settings) as suppliers:
        where = Place(folder=folder, sandbox_url=suppliers.url, http_port=http_port, **place)
        app = App(load_settings(where.write(), {}), clock=clock)
        await app.start()
        client = Caller(where.grpc_port)
        try:
            yield Service(where, app, suppliers, client)
        finally:
            await client.close()
            await app.close()


class ServerProcess:
    """The server as a process, so that it can be killed."""

    def __init__(self, place: Place, *, certificate: Path | None = None) -> None:
        """`certificate` is the one that it speaks TLS with, if it does."""
        self.place = place
        self._certificate = certificate
        self.process: asyncio.subprocess.Process | None = None
        self.output = place.folder / "server.log"

    async def __aenter__(self) -> "ServerProcess":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process is not None and self.process.returncode is None:
            await self.kill()

    async def start(self, config: Path | None = None, *, probe: bool = True) -> None:
        """Starts it and, with `probe`, waits until it takes calls."""
        config = config or self.place.write()
        with self.output.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "reward_server", "serve", "--config", str(config),
                stdout=output, stderr=output, env={**os.environ, "REWARD_LOGGING__FORMAT": "json"},
            )  # fmt: skip
        if probe:
            await self._ready()

    def _channel(self) -> Channel:
        target = f"127.0.0.1:{self.place.grpc_port}"
        if self._certificate is None:
            return insecure_channel(target)
        return secure_channel(target, grpc.ssl_channel_credentials(self._certificate.read_bytes()))

    async def _ready(self) -> None:
        assert self.process is not None
        channel = self._channel()
        ready = asyncio.create_task(channel.channel_ready())
        ended = asyncio.create_task(self.process.wait())
        try:
            await asyncio.wait({ready, ended}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            assert ready.done(), self.output.read_text()[-4000:]
        finally:
            ready.cancel()
            ended.cancel()
            await channel.close(grace=None)

    async def kill(self) -> None:
        """SIGKILL: nothing is finished, nothing is flushed."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        return await self.process.wait()


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call that must fail."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call was answered OK")


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "reward test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "tls.crt", folder / "tls.key"
    certificate_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file
