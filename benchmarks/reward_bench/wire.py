"""The load's side of gRPC: as little HTTP/2 as it takes to call, to open streams and to take what comes.

A load made with a gRPC library would cost more per call than the servers that it measures. This one knows the frames,
sends headers as literals and never decodes any: a unary answer with a message in it is a success, one without is an
error, because a server sends either a message or an error.
"""

import asyncio
import contextlib
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import cast

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
LARGEST = 2**31 - 1
FIRST_WINDOW = 65_535
CONNECTIONS = 4

KEY = "Bearer dev-key"
SERVICE = "/rewardservice.v1.RewardService/"

Heard = Callable[["Connection", int, bytearray, int, int], None]
"""Told of a message: its connection and stream, and where it stands in a buffer that is only lent."""
Ended = Callable[["Connection", int], None]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header that nobody remembers; both shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


@lru_cache
def headers(path: str) -> bytes:
    """Those of a call of a method."""
    return b"".join(
        literal(name, value)
        for name, value in (
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "127.0.0.1"),
            ("content-type", "application/grpc"), ("te", "trailers"), ("authorization", KEY),
        )
    )  # fmt: skip


class Connection(asyncio.Protocol):
    """One connection with many calls."""

    def __init__(self, heard: Heard, ended: Ended) -> None:
        self._heard = heard
        self._ended = ended
        self._buffer = bytearray()
        self._next_stream = 1
        self._window = FIRST_WINDOW
        self._waiting: deque[bytes] = deque()
        self._partial: dict[int, bytearray] = {}
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins with receiving windows so wide that nothing needs to be said again."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, LARGEST))
            + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST - FIRST_WINDOW))
        )

    def open(self, path: str, request: bytes) -> int:
        """Sends one call; returns its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        body = b"\x00" + len(request).to_bytes(4, "big") + request
        frames = frame(HEADERS, 4, stream, headers(path)) + frame(DATA, 1, stream, body)
        if self._waiting or len(body) > self._window:
            # What counts against the window is the body; the order of calls is kept.
            self._waiting.append(frames)
        else:
            self._window -= len(body)
            self._transport.write(frames)
        return stream

    def _send_waiting(self) -> None:
        while self._waiting:
            head = len(self._waiting[0]) - 18 - int.from_bytes(self._waiting[0][:3], "big")
            if head > self._window:
                return
            self._window -= head
            self._transport.write(self._waiting.popleft())

    def data_received(self, data: bytes) -> None:
        """Takes whole frames."""
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        while end - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if end - at < 9 + size:
                break
            kind, flags, stream = struct.unpack_from(">BBI", buffer, at + 3)
            if kind == DATA:
                self._messages(stream, buffer, at + 9, at + 9 + size)
            else:
                self._control(kind, flags, stream, bytes(buffer[at + 9 : at + 9 + size]))
            at += 9 + size
        del buffer[:at]

    def _messages(self, stream: int, buffer: bytearray, at: int, end: int) -> None:
        partial = self._partial.get(stream)
        if partial is not None:
            partial += buffer[at:end]
            buffer, at, end = partial, 0, len(partial)
        while end - at >= 5:
            size = 5 + int.from_bytes(buffer[at + 1 : at + 5], "big")
            if end - at < size:
                break
            self._heard(self, stream, buffer, at + 5, at + size)
            at += size
        if at < end:
            self._partial[stream] = bytearray(buffer[at:end])
        elif partial is not None:
            del self._partial[stream]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (SETTINGS, PING) and not flags & 1:
            self._transport.write(frame(kind, 1, 0, payload if kind == PING else b""))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
            self._send_waiting()
        elif kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & 1):
            self._ended(self, stream)

    def close(self) -> None:
        """Leaves at once."""
        self._transport.abort()


async def connect(port: int, heard: Heard, ended: Ended, connections: int) -> list[Connection]:
    """Opens connections."""
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(connections):
        _, one = await loop.create_connection(lambda: Connection(heard, ended), "127.0.0.1", port)
        made.append(one)
    return made


class CallsFailedError(Exception):
    """A call was answered with an error, where none is expected."""


class Calls:
    """Makes unary calls, so many at a time."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        """Seconds from call to answer, of the last run."""
        self._open: dict[tuple[int, int], float] = {}
        self._answered: set[tuple[int, int]] = set()
        self._connections: list[Connection] = []
        self._requests: Iterator[tuple[str, bytes]] = iter(())
        self._take: Callable[[bytes], None] | None = None
        self._done = asyncio.Event()
        self._failed = 0
        self._turn = 0

    async def connect(self, port: int, connections: int = CONNECTIONS) -> None:
        """Opens connections."""
        self._connections = await connect(port, self._heard, self._ended, connections)

    async def run(
        self,
        path: str,
        requests: Iterable[bytes],
        callers: int,
        *,
        take: Callable[[bytes], None] | None = None,
        patience: float = 120.0,
    ) -> float:
        """Makes all these calls, as many at a time as there are callers; returns the seconds that it took.

        `take` gets each answer. Raises CallsFailedError.
        """
        return await self.run_mixed(((path, request) for request in requests), callers, take=take, patience=patience)

    async def run_mixed(
        self,
        requests: Iterable[tuple[str, bytes]],
        callers: int,
        *,
        take: Callable[[bytes], None] | None = None,
        patience: float = 120.0,
    ) -> float:
        """The same of several methods."""
        self.waits = []
        self._requests, self._take, self._failed = iter(requests), take, 0
        self._done.clear()
        begun = time.perf_counter()
        for _ in range(callers):
            self._next()
        if self._open:
            await asyncio.wait_for(self._done.wait(), patience)
        seconds = time.perf_counter() - begun
        if self._failed:
            raise CallsFailedError(f"{self._failed} of {self._failed + len(self.waits)} calls failed")
        return seconds

    async def call(self, path: str, request: bytes) -> bytes:
        """One call."""
        answers: list[bytes] = []
        await self.run(path, [request], 1, take=answers.append)
        return answers[0]

    def _next(self) -> None:
        following = next(self._requests, None)
        if following is not None:
            self.start(*following)

    def _heard(self, connection: Connection, stream: int, buffer: bytearray, at: int, end: int) -> None:
        key = (id(connection), stream)
        self.waits.append(time.perf_counter() - self._open[key])
        self._answered.add(key)
        if self._take is not None:
            self._take(bytes(buffer[at:end]))

    def _ended(self, connection: Connection, stream: int) -> None:
        key = (id(connection), stream)
        if self._open.pop(key, None) is None:
            return
        if key in self._answered:
            self._answered.discard(key)
        else:
            self._failed += 1
        self._next()
        if not self._open:
            self._done.set()

    def start(self, path: str, request: bytes) -> None:
        """Begins one call and doesn't wait for it; `failed` counts those that end badly."""
        self._turn = (self._turn + 1) % len(self._connections)
        connection = self._connections[self._turn]
        began = time.perf_counter()
        self._open[id(connection), connection.open(path, request)] = began

    @property
    def failed(self) -> int:
        """Calls that were answered with an error since the last `run`."""
        return self._failed

    def close(self) -> None:
        """Leaves."""
        for connection in self._connections:
            connection.close()


class Subscriber:
    """One stream whose messages somebody takes."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._begun = asyncio.Event()

    async def open(self, port: int, path: str, request: bytes) -> None:
        """Opens it and waits for the first message."""
        [self._connection] = await connect(port, self._heard, self._ended, 1)
        self._connection.open(path, request)
        await asyncio.wait_for(self._begun.wait(), 30)

    def _heard(self, _connection: Connection, _stream: int, buffer: bytearray, at: int, end: int) -> None:
        self._begun.set()
        self._take(bytes(buffer[at:end]))

    def _ended(self, _connection: Connection, _stream: int) -> None:
        raise CallsFailedError("the stream ended")

    def close(self) -> None:
        """Leaves."""
        self._connection.close()


class Crowd:
    """Many streams of which only the number of messages counts, and perhaps when each came."""

    def __init__(self) -> None:
        self.times: list[float] | None = None
        """When each message came, if somebody wants to know."""
        self._connections: list[Connection] = []
        self._spoke: set[tuple[int, int]] = set()
        self._count = 0
        self._enough: Callable[[], bool] = lambda: False
        self._reached = asyncio.Event()

    async def connect(self, port: int, connections: int = CONNECTIONS) -> None:
        """Opens connections."""
        self._connections = await connect(port, self._heard, lambda _connection, _stream: None, connections)

    def open(self, path: str, streams: int, request: bytes) -> None:
        """Opens streams, all at once."""
        for n in range(streams):
            self._connections[n % len(self._connections)].open(path, request)

    async def until(self, messages: int, patience: float = 120) -> int:
        """Waits for so many messages since the last time, but not for ever; how many came."""
        await self._until(lambda: self._count >= messages, patience)
        count, self._count = self._count, 0
        return count

    async def until_open(self, streams: int, patience: float = 120) -> int:
        """Waits until so many streams said something, but not for ever; how many did."""
        await self._until(lambda: len(self._spoke) >= streams, patience)
        self._count = 0
        return len(self._spoke)

    async def _until(self, reached: Callable[[], bool], patience: float) -> None:
        self._enough = reached
        self._reached.clear()
        with contextlib.suppress(TimeoutError):
            if not reached():
                await asyncio.wait_for(self._reached.wait(), patience)
        self._enough = lambda: False

    def _heard(self, connection: Connection, stream: int, _buffer: bytearray, _at: int, _end: int) -> None:
        self._count += 1
        self._spoke.add((id(connection), stream))
        if self.times is not None:
            self.times.append(time.monotonic())
        if self._enough():
            self._reached.set()

    def close(self) -> None:
        """Leaves."""
        for connection in self._connections:
            connection.close()
