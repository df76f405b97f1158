"""A TCP proxy that treats connections as bad networks do: it cuts them at any byte, holds them up, or lets them rot."""

import asyncio
import contextlib
import math
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum

CHUNK = 65_536


class Fate(StrEnum):
    """What becomes of a connection."""

    RESET = "reset"
    """Both sides get an RST."""
    CLOSED = "closed"
    """Both sides get a FIN."""
    HALF_CLOSED = "half-closed"
    """The client gets a FIN, the server hears nothing of it until the client leaves."""
    HELD_UP = "held up"
    """Nothing passes for a while, then everything."""
    SILENT = "silent"
    """Nothing passes any more, and nobody is told; not even that the other side left."""


FATES = (Fate.RESET, Fate.RESET, Fate.CLOSED, Fate.HALF_CLOSED, Fate.HELD_UP, Fate.HELD_UP, Fate.SILENT)


@dataclass(frozen=True, slots=True)
class Blow:
    """A fate, and after how many bytes from the server it strikes."""

    fate: Fate
    after_bytes: int
    seconds: float
    """How long it holds up."""


class Proxy:
    """Stands before one port of this machine. A seed decides the fate of each connection, by its number."""

    def __init__(self, target: int, *, seed: int, least_bytes: int = 60, most_bytes: int = 2_000_000) -> None:
        self.port = 0
        self.struck: Counter[Fate] = Counter()
        """How often each fate struck."""
        self._target = target
        self._seed = seed
        self._span = (math.log(least_bytes), math.log(most_bytes))
        self._connections = 0
        self._calm = False
        self._left = asyncio.Event()

    def calm(self) -> None:
        """Strikes no more: connections that are still whole stay so."""
        self._calm = True

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Carries one connection to its end."""
        rng = random.Random(f"{self._seed} {self._connections}")
        self._connections += 1
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                await self._carry(client, to_client, server, to_server, rng)
            finally:
                await _drop(to_server)
        except OSError:
            # Nobody listens there at the moment.
            pass
        finally:
            await _drop(to_client)

    async def _carry(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
        rng: random.Random,
    ) -> None:
        silent = asyncio.Event()
        up = asyncio.create_task(self._up(client, to_server, silent))
        down = asyncio.create_task(self._down(server, to_client, to_server, rng, silent))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if silent.is_set():
                # The server must find out by itself; the proxy's end is the end of the test.
                await self._left.wait()
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    def leave(self) -> None:
        """Lets go of connections that nobody was told about."""
        self._left.set()

    def _blow(self, rng: random.Random) -> Blow:
        return Blow(rng.choice(FATES), int(math.exp(rng.uniform(*self._span))), rng.uniform(0.1, 1.5))

    async def _up(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await client.read(CHUNK):
                if not silent.is_set():
                    to_server.write(data)
                    await to_server.drain()

    async def _down(
        self,
        server: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        to_server: asyncio.StreamWriter,
        rng: random.Random,
        silent: asyncio.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            blow = self._blow(rng)
            left = blow.after_bytes
            while data := await server.read(CHUNK):
                while not self._calm and len(data) >= left:
                    to_client.write(data[:left])
                    data = data[left:]
                    if not await self._strike(blow, to_client, to_server, silent):
                        return
                    blow = self._blow(rng)
                    left = blow.after_bytes
                left -= len(data)
                to_client.write(data)
                await to_client.drain()

    async def _strike(
        self, blow: Blow, to_client: asyncio.StreamWriter, to_server: asyncio.StreamWriter, silent: asyncio.Event
    ) -> bool:
        """Whether the connection lives on."""
        self.struck[blow.fate] += 1
        await to_client.drain()
        match blow.fate:
            case Fate.RESET:
                for writer in (to_client, to_server):
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            case Fate.CLOSED:
                for writer in (to_client, to_server):
                    writer.close()
            case Fate.HALF_CLOSED:
                to_client.write_eof()
                await self._left.wait()
            case Fate.HELD_UP:
                await asyncio.sleep(blow.seconds)
                return True
            case Fate.SILENT:
                silent.set()
                await self._left.wait()
        return False


async def _drop(writer: asyncio.StreamWriter) -> None:
    """Ends one side for good."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def proxy(target: int, *, seed: int, most_bytes: int = 2_000_000) -> AsyncIterator[Proxy]:
    """A proxy that listens on a port of its own."""
    one = Proxy(target, seed=seed, most_bytes=most_bytes)
    carrying: set[asyncio.Task[None]] = set()

    def accept(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(one.serve(client, to_client))
        carrying.add(task)
        task.add_done_callback(carrying.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        server.close()
        one.leave()
        for task in list(carrying):
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)
