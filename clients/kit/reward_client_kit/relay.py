"""The wire between a client and the kit's server: it can be cut in every way a real one is."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_CHUNK = 65_536
_LINGER_NOTHING = struct.pack("ii", 1, 0)


class Relay:
    """Passes bytes on between a client and a server on this machine. `port` stays the same for the relay's life."""

    def __init__(self, to: int) -> None:
        self.port = 0
        self._to = to
        self.is_down = False
        """Whether new connections are reset at once. Closing the port instead would let others take it."""
        self._flows = asyncio.Event()
        self._flows.set()
        self._silent_next = False
        self._writers: set[asyncio.StreamWriter] = set()
        """The ends that `reset` and its like act on."""
        self._ever: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        """Listens on 127.0.0.1 and yields itself."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in self._ever:
                writer.transport.abort()
            await asyncio.gather(*(writer.wait_closed() for writer in self._ever), return_exceptions=True)

    def reset(self) -> None:
        """Every connection ends with a TCP reset, whatever was under way."""
        for writer in self._forget():
            _reset(writer)

    def close(self) -> None:
        """Every connection ends as when a proxy closes it: what was passed on arrives, no word of gRPC's follows."""
        for writer in self._forget():
            writer.close()

    def silence(self) -> None:
        """What is connected stays open and carries nothing any more, not even answers to pings; new ones work."""
        self._forget()
        self._flows.clear()
        self._flows = asyncio.Event()
        self._flows.set()

    def silence_next(self) -> None:
        """The next connection is taken and then carries nothing."""
        self._silent_next = True

    def _forget(self) -> list[asyncio.StreamWriter]:
        former, self._writers = list(self._writers), set()
        return former

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ever.add(writer)
        if self.is_down:
            _reset(writer)
            return
        flows = self._flows
        if self._silent_next:
            self._silent_next = False
            flows = asyncio.Event()
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            # The run is over.
            writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        self._ever |= {writer, there_writer}
        for source, target in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(self._pump(source, target, flows))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, flows: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await source.read(_CHUNK):
                await flows.wait()
                target.write(data)
                await target.drain()
        await flows.wait()
        self._writers.discard(target)
        target.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        handle = writer.get_extra_info("socket")
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
    writer.transport.abort()
