"""Stands between two programs: spreads connections over several servers, or lets nothing pass for a while."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence

CHUNK = 65_536


class Relay:
    """One port before several others of this machine. A connection goes to one of those that take it."""

    def __init__(self, targets: Sequence[int], *, seed: int = 0) -> None:
        self.port = 0
        self._targets = list(targets)
        self._rng = random.Random(seed)
        self._open = asyncio.Event()
        self._open.set()

    def cut(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self._open.clear()

    def mend(self) -> None:
        """What was held up passes, and all that follows."""
        self._open.set()

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Carries one connection to its end."""
        try:
            with contextlib.suppress(OSError):
                await self._open.wait()
                server, to_server = await self._connect()
                try:
                    await self._carry(client, to_client, server, to_server)
                finally:
                    await _drop(to_server)
        finally:
            await _drop(to_client)

    async def _carry(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        sides = {asyncio.create_task(self._pass(client, to_server)), asyncio.create_task(self._pass(server, to_client))}
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for port in self._rng.sample(self._targets, len(self._targets)):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        raise ConnectionRefusedError

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._open.wait()
            writer.write(data)
            await writer.drain()


async def _drop(writer: asyncio.StreamWriter) -> None:
    """Ends one side for good."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def relay(*targets: int, seed: int = 0) -> AsyncIterator[Relay]:
    """A relay that listens on a port of its own."""
    one = Relay(targets, seed=seed)
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
        for task in list(carrying):
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)
