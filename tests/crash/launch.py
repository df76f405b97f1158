"""Runs the real server and kills it, with SIGKILL, when it passes a crash point for the nth time, or when so many
requests to buy, or answers to them, are on the wire in part. Or freezes it there, with SIGSTOP.

`python launch.py --config FILE [--kill POINT --nth N --after-ms M --armed-by POINT] [--later-program]`, or `serve` in a
process of its own that was forked from one which has imported all there is to import: that saves a second per start.
"""

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import aiohttp
from aiohttp.tracing import Trace

from reward_server import probes
from reward_server.__main__ import run_cli
from reward_server.engine import exchange
from reward_server.store.migrations import Migration
from reward_server.store.sqlite import opening

LATER_SQL = "CREATE TABLE later (n INTEGER) STRICT; INSERT INTO later SELECT length(body) FROM orders"


def kill() -> None:
    """Nothing is finished, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def freeze() -> None:
    """Stands still, with every thread, until somebody sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


def set_trap(point: str, nth: int, after_ms: float, armed_by: str = "", *, strike: Callable[[], None] = kill) -> None:
    """Puts a deadly function in the place of the harmless one; every part of the server calls it by its module.

    With `armed_by` counting begins when that point is passed.
    """
    for name in filter(None, (point, armed_by)):
        if name not in probes.POINTS:
            raise SystemExit(f"no such point: {name}")
    passed = itertools.count(1)
    armed = not armed_by

    def deadly(name: str) -> None:
        nonlocal armed
        armed = armed or name == armed_by
        if armed and name == point and next(passed) == nth:
            if after_ms:
                # The server goes on meanwhile: what it had only handed over is on the wire by then.
                threading.Timer(after_ms / 1000, strike).start()
            else:
                strike()

    probes.probe = deadly


# --- Requests and answers in part

REQUEST_PARTS: Mapping[str, Callable[[int, int], int]] = {
    "the first byte of the request": lambda head, body: 1,
    "half of the request's head": lambda head, body: head // 2,
    "the request's head": lambda head, body: head,
    "half of the request's body": lambda head, body: head + body // 2,
    "all but a byte of the request": lambda head, body: head + body - 1,
}
"""How many bytes are written, by the lengths of head and body."""

ANSWER_PARTS: Mapping[str, float] = {
    "the first bytes of the answer": 0.0,
    "half of the answer": 0.5,
    "most of the answer": 0.75,
}
"""Which share of the answer's body has been read at least."""

PARTIAL = "partial.jsonl"
"""The file beside the log with what was there of each request or answer: a line of `{"had": bytes, "of": bytes}`."""

_buying: ContextVar[bool] = ContextVar("buying", default=False)
"""Whether what is exchanged is a request to buy and its answer; exchanges take the context of who begins them."""


class Parts:
    """Lets requests to buy, or their answers, stop in the middle; the process dies when so many of them have."""

    def __init__(self, part: str, nth: int, record: Path) -> None:
        self._part = part
        self._left = nth
        self._record = record

    def set(self) -> None:
        """Puts itself in the place of the harmless function, and before the connections to suppliers."""
        probes.probe = self._pass
        if self._part in REQUEST_PARTS:
            stop_requests(REQUEST_PARTS[self._part], self._stopped)

    def _pass(self, name: str) -> None:
        match name:
            case "send.begin":
                _buying.set(True)
            case "send.timeout" | "send.answered":
                _buying.set(False)
            case "exchange.chunk" if _buying.get() and self._part in ANSWER_PARTS:
                self._read(sys._getframe(1).f_locals)

    def _read(self, there: Mapping[str, Any]) -> None:
        """Keeps the rest of an answer from us once enough of it was read."""
        had, response = len(there["body"]), there["response"]
        if had >= ANSWER_PARTS[self._part] * response.content_length:
            if response.connection is not None:
                # Else it was the end already, which the test is told like everything else.
                response.connection.transport.pause_reading()
            self._stopped(had, response.content_length)

    def _stopped(self, had: int, of: int) -> None:
        with self._record.open("a") as record:
            record.write(json.dumps({"had": had, "of": of}) + "\n")
        self._left -= 1
        if not self._left:
            kill()


def stop_requests(part: Callable[[int, int], int], stopped: Callable[[int, int], None]) -> None:
    """Lets only a part of each request to buy out; everything else that is sent to suppliers is left alone."""
    connect = exchange._PunctualConnector.connect

    async def with_short_transport(
        self: exchange._PunctualConnector,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.connector.Connection:
        connection = await connect(self, req, traces, timeout)
        if _buying.get():
            protocol = connection.protocol
            assert protocol is not None
            assert protocol.transport is not None
            protocol.transport = cast(asyncio.Transport, ShortTransport(protocol.transport, part, stopped))
        return connection

    exchange._PunctualConnector.connect = with_short_transport  # type: ignore[method-assign]


class ShortTransport:
    """A connection's transport that writes the first bytes of one request and forgets the rest."""

    def __init__(
        self, transport: asyncio.Transport, part: Callable[[int, int], int], stopped: Callable[[int, int], None]
    ) -> None:
        self._transport = transport
        self._part = part
        self._stopped = stopped
        self._left = self._had = self._of = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Straight into the socket: by the return of it the bytes are out of the process."""
        if not self._of:
            # The head is written whole, alone or with the body.
            head = data.index(b"\r\n\r\n") + 4
            length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", data[:head])
            body = int(length[1]) if length else 0
            self._of = head + body
            self._left = self._part(head, body)
        if self._left:
            socket = self._transport.get_extra_info("socket")
            sent = os.write(socket.fileno(), data[: self._left])
            self._left -= sent
            self._had += sent
            if not self._left:
                self._stopped(self._had, self._of)

    def writelines(self, chunks: Iterable[bytes]) -> None:
        """As one."""
        self.write(b"".join(chunks))


# --- Begin


def become_a_later_program() -> None:
    """Adds a migration that the program of today lacks, and that today's program may run beside."""
    number = len(opening.MIGRATIONS) + 1
    digest = hashlib.sha256(LATER_SQL.encode()).hexdigest()
    later = Migration(number, f"{number:04}_later.sql", 1, digest, LATER_SQL)
    defaults = opening.open_sqlite.__kwdefaults__
    assert defaults is not None
    defaults["migrations"] = (*opening.MIGRATIONS, later)


def serve(
    config: str,
    log: str,
    *,
    kill: str,
    stop: str,
    nth: int,
    after_ms: float,
    armed_by: str,
    part: str,
    later_program: bool,
) -> None:
    """Serves, or dies, or stands still; what the server says goes to the end of a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["REWARD_LOGGING__FORMAT"] = "json"
    if kill:
        set_trap(kill, nth, after_ms, armed_by)
    if stop:
        set_trap(stop, nth, after_ms, armed_by, strike=freeze)
    if part:
        Parts(part, nth, Path(log).with_name(PARTIAL)).set()
    if later_program:
        become_a_later_program()
    sys.exit(run_cli(["serve", "--config", config]))


def main() -> int:
    """Serves, or dies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--kill", default="")
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--after-ms", type=float, default=0.0)
    parser.add_argument("--armed-by", default="")
    parser.add_argument("--later-program", action="store_true")
    options = parser.parse_args()
    if options.kill:
        set_trap(options.kill, options.nth, options.after_ms, options.armed_by)
    if options.later_program:
        become_a_later_program()
    return run_cli(["serve", "--config", options.config])


if __name__ == "__main__":
    sys.exit(main())
