"""The supplier of the measurements: two suppliers' wire with as little behind it as possible.

It runs with the load, on the load's core, so what it costs must be little: it reads what it has to know from the
request, believes everything and remembers nothing but the numbers that it will call back about. The sandbox checks,
keeps books and would be the slowest part of every figure.
"""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable
from typing import cast

from reward_bench.serving import APP_SECRET

_LENGTH = re.compile(rb"[Cc]ontent-[Ll]ength: *([0-9]+)")
_SYNC_NUMBER = re.compile(rb"out_order_id=([0-9A-Za-z]+)")
_ASYNC_NUMBER = re.compile(rb'"external_orderno":"([0-9A-Za-z]+)"')
_CALLBACK = re.compile(rb'"url":"http://127\.0\.0\.1:([0-9]+)(/[^"]*)"')
_CARD_TIME = time.strftime("%Y-%m-%d %H:%M:%S")

ANSWERED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "


def http_answer(body: bytes) -> bytes:
    """An answer with its head."""
    return ANSWERED + str(len(body)).encode() + b"\r\n\r\n" + body


def sync_answer(number: str) -> bytes:
    """91: the card is in the answer, and its warranty runs."""
    card = {
        "card_num": "6688123412341234", "card_pass": "PIN-98765432", "type": "1", "status": 2, "order_id": f"c{number}",
        "money": "98.50", "create_time": _CARD_TIME,
    }  # fmt: skip
    said = {"pay_order_id": f"p{number}", "out_order_id": number, "card_id": "2909", "create_time": _CARD_TIME}
    return json.dumps({"code": 1, "msg": "success", "result": [card], "other": said}).encode()


def taken(number: str) -> bytes:
    """Kasushou: only taken."""
    data = {"ordersn": f"API{number}", "external_orderno": number, "total_price": "98.50"}
    return json.dumps({"code": 200, "msg": "ok", "data": data}).encode()


def details(numbers: list[str], *, busy: bool) -> bytes:
    """Kasushou: done, with a card each, or still at it."""
    cards = [] if busy else [{"card_no": "6688123412341234", "card_password": "PIN-98765432"}]
    data = [
        {
            "ordersn": f"API{number}", "external_orderno": number, "status": 2 if busy else 3, "total_price": "98.50",
            "quantity": 1, "card_list": cards,
        }
        for number in numbers
    ]  # fmt: skip
    return json.dumps({"code": 200, "msg": "ok", "data": data}).encode()


def callback(number: str) -> bytes:
    """Kasushou: a signed notice that there is news."""
    now = str(int(time.time()))
    said = {"external_orderno": number, "ordersn": f"API{number}", "status": 3, "time": now}
    covered = json.dumps(dict(sorted(said.items())), separators=(",", ":"))
    sign = hashlib.sha1(f"{now}{covered}{APP_SECRET}".encode()).hexdigest()  # noqa: S324 - the supplier's
    return json.dumps({**said, "sign": sign}).encode()


class Supplier:
    """Listens on a port, answers, and calls back."""

    def __init__(self) -> None:
        self.port = 0
        self.busy = False
        """Whether orders stay under way for ever."""
        self._server: asyncio.Server
        self._callers: dict[int, HttpClient] = {}
        self.answered: Callable[[bytes], None] | None = None
        """Told of each number whose news went out, for measurements of what follows."""

    async def start(self) -> None:
        """Listens."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Ends."""
        self._server.close()
        for caller in self._callers.values():
            caller.close()

    def reply(self, path: bytes, body: bytes) -> bytes | None:
        """The answer to a request; None: none ever comes."""
        if path.startswith(b"/silent/"):
            return None
        if path.startswith(b"/sync/"):
            if found := _SYNC_NUMBER.search(body):
                return self._told(found[1], sync_answer(found[1].decode()))
            return b'{"code": 1, "msg": "success", "result": "1000000.00"}'
        if path.endswith(b"/order/buy") and (found := _ASYNC_NUMBER.search(body)):
            number = found[1].decode()
            if url := _CALLBACK.search(body):
                asyncio.get_running_loop().call_soon(self._call_back, int(url[1]), url[2].decode(), number)
            return taken(number)
        if path.endswith(b"/order/info"):
            asked = json.loads(body)["external_orderno"].split(",")
            return self._told(asked[0].encode(), details(asked, busy=self.busy))
        return b'{"code": 200, "msg": "ok", "data": {"balance": "1000000.00"}}'

    def _told(self, number: bytes, body: bytes) -> bytes:
        if self.answered is not None:
            self.answered(number)
        return body

    def _call_back(self, port: int, path: str, number: str) -> None:
        caller = self._callers.setdefault(port, HttpClient(port))
        caller.post(path, callback(number))


class _Side(asyncio.Protocol):
    """One connection of somebody who buys."""

    def __init__(self, supplier: Supplier) -> None:
        self._supplier = supplier
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(said[1]) if (said := _LENGTH.search(head)) else 0
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            path = head.split(b" ", 2)[1]
            answer = self._supplier.reply(path, rest[:length])
            if answer is not None:
                self._transport.write(http_answer(answer))


class HttpClient:
    """Posts over a few connections that stay open, each answer before the next request."""

    def __init__(self, port: int, connections: int = 16) -> None:
        self._port = port
        self._most = connections
        self._made = 0
        self._idle: list[_Post] = []
        self._waiting: list[tuple[bytes, Callable[[int, bytes], None] | None]] = []
        self._all: list[_Post] = []
        self._connecting: set[asyncio.Task[None]] = set()

    def post(self, path: str, body: bytes, done: Callable[[int, bytes], None] | None = None) -> None:
        """Sends it as soon as a connection is free; `done` gets the status and the body of the answer."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._send(head.encode() + body, done)

    def get(self, path: str, done: Callable[[int, bytes], None] | None = None) -> None:
        """The same without a body."""
        self._send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n\r\n".encode(), done)

    def _send(self, request: bytes, done: Callable[[int, bytes], None] | None) -> None:
        if self._idle:
            self._idle.pop().send(request, done)
            return
        self._waiting.append((request, done))
        if self._made < self._most:
            self._made += 1
            task = asyncio.create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: _Post(self._free, self._lost), "127.0.0.1", self._port)
        self._all.append(made)
        self._free(made)

    def _lost(self, connection: "_Post") -> None:
        """The other side closes what idles for some seconds."""
        self._made -= 1
        self._all.remove(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _free(self, connection: "_Post") -> None:
        if self._waiting:
            connection.send(*self._waiting.pop(0))
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Leaves."""
        for connection in list(self._all):
            connection.close()


class _Post(asyncio.Protocol):
    """One connection that sends one request at a time."""

    def __init__(self, free: Callable[["_Post"], None], lost: Callable[["_Post"], None]) -> None:
        self._free = free
        self._lost = lost
        self._done: Callable[[int, bytes], None] | None = None
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(self)

    def send(self, request: bytes, done: Callable[[int, bytes], None] | None) -> None:
        """Sends one request; the last one was answered."""
        self._done = done
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(said[1]) if (said := _LENGTH.search(head)) else 0
        if len(rest) < length:
            return
        self._buffer = b""
        done, self._done = self._done, None
        if done is not None:
            done(int(head.split(b" ", 2)[1]), rest)
        self._free(self)

    def close(self) -> None:
        """Leaves at once."""
        self._transport.abort()
