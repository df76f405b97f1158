"""What passes over the wire of the gRPC port: with TLS nothing that a listener could read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc.aio import secure_channel

from reward_sandbox import Sandbox, SandboxSettings
from rewardservice.v1 import order_pb2, reward_service_pb2_grpc

from .canaries import MARK, PHONE, Search, marked_cards, phone
from .harness import DEV, Caller, Place, ServerProcess, certificate

SECRETS = {"a card": MARK, "a phone number": PHONE, "the client's key": f"Bearer {DEV}"}
ORDERED = {"kasushou/card": None, "kaquan91_card/type-2": None, "dushu/membership": phone(PHONE)}


@dataclass
class Listener:
    """Stands between client and server and keeps every byte that passes, as a wire would show it."""

    server_port: int
    port: int = 0
    heard: bytearray = field(default_factory=bytearray)

    async def carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        server, to_server = await asyncio.open_connection("127.0.0.1", self.server_port)
        sides = [
            asyncio.create_task(self._pass(client, to_server)),
            asyncio.create_task(self._pass(server, to_client)),
        ]
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for side in sides:
                side.cancel()
            for writer in (to_server, to_client):
                writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                self.heard += data
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def listening(server_port: int) -> AsyncIterator[Listener]:
    """A listener on a port of its own."""
    listener = Listener(server_port)
    carrying: set[asyncio.Task[None]] = set()

    def accept(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(listener.carry(client, to_client))
        carrying.add(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)


async def test_a_listener_learns_nothing_from_tls_and_everything_without(tmp_path: Path) -> None:
    """Orders with cards and a recipient, followed on a stream and read in full, once over TLS and once in the clear;
    what passed is searched for cards, recipient and key.
    """
    with marked_cards():
        async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
            folders = [tmp_path / "encrypted", tmp_path / "clear"]
            for folder in folders:
                await asyncio.to_thread(folder.mkdir)
            encrypted = await overheard(folders[0], sandbox.url, tls=True)
            clear = await overheard(folders[1], sandbox.url, tls=False)
    search = Search(SECRETS)
    assert search.found_in(clear) == set(SECRETS)
    assert search.found_in(encrypted) == set()
    # Each side has said as much as in the clear, and more.
    assert len(encrypted) > len(clear)
    assert b"\x16\x03\x01" in encrypted[:16], "a handshake of TLS begins it"


async def overheard(folder: Path, sandbox_url: str, *, tls: bool) -> bytes:
    """Every byte between a client and the server while it orders and gets its cards."""
    place = Place(folder=folder, sandbox_url=sandbox_url)
    config = place.write()
    authority = None
    if tls:
        authority, key = certificate(folder)
        lines = f'tls_certificate_file = "{authority}"\ntls_key_file = "{key}"\n'
        config.write_text(config.read_text().replace("[http]", f"{lines}[http]", 1))
    server = ServerProcess(place, certificate=authority)
    try:
        await server.start(config)
        async with listening(place.grpc_port) as listener:
            client = Caller(listener.port)
            if authority is not None:
                await client.close()
                credentials = grpc.ssl_channel_credentials(authority.read_bytes())
                client.channel = secure_channel(f"127.0.0.1:{listener.port}", credentials)
                client.orders = reward_service_pb2_grpc.RewardServiceStub(client.channel)
            for product, recipient in ORDERED.items():
                created = await client.create(product, product, recipient=recipient)
                order = await client.until(created.order.order_id)
                assert order.state == order_pb2.ORDER_STATE_FULFILLED
                assert await client.get(order.order_id) == order
            await client.close()
            return bytes(listener.heard)
    finally:
        await server.kill()
