"""One HTTP exchange with a supplier: the only code that talks to suppliers.

What counts is to know how far a request came. `NotSent` means that not one byte of it was written; whatever goes wrong
after the first byte is `Broken` (the outcome is unknown), and a read time-out doesn't end the exchange: it stays open
for `answer_patience`, because its late answer may be the only copy of a paid card.
"""

import asyncio
import contextlib
from contextvars import ContextVar
from dataclasses import dataclass, field

import aiohttp
import structlog
from aiohttp.abc import AbstractStreamWriter
from aiohttp.tracing import Trace
from yarl import URL

from reward_adapters.contract import HttpReply, HttpRequest, NotSent, NotSentCause
from reward_server import probes
from reward_server.clock import Clock

log = structlog.get_logger(__name__)

MAX_ANSWER_BYTES = 1_048_576
"""The largest documented answer (a product list) is far below; 100 cards with links take some 50 KB."""

IDLE_SECONDS_PLACE = 1.0
"""A POST on a connection that the other side is just closing is a false unknown: none that idled longer is used."""

IDLE_SECONDS_LOOK = 30.0
"""A look may be repeated, so a connection may idle longer."""

CONNECTIONS_PER_ACCOUNT = 512
"""Above what slots allow, since exchanges that wait for a late answer keep theirs. A bound, not a limit to reach."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The exchange ended without a readable answer, after something may have been written."""

    reason: str
    raw: bytes = field(default=b"", repr=False)
    """What was read of the answer: a paid card may be in it."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The read time-out passed; the exchange goes on and `answer` will say how it ended."""

    answer: "asyncio.Task[HttpReply | NotSent | Broken]" = field(repr=False)


@dataclass(slots=True)
class _Progress:
    """How far one request came."""

    clock: Clock
    last_moment: float
    """Monotonic time after which nothing may be written any more."""
    connected: bool = False


class _TooLate(Exception):
    """The last moment passed before the first byte."""


_progress: ContextVar[_Progress] = ContextVar("progress")


class _PunctualConnector(aiohttp.TCPConnector):
    """Looks at the clock between having a connection and writing the first byte to it."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        progress = _progress.get()
        if progress.clock.monotonic() > progress.last_moment:
            connection.close()
            raise _TooLate
        progress.connected = True
        probes.probe("exchange.connected")
        return connection


class _Request(aiohttp.ClientRequest):
    """A request that passes a crash point once its body is out of our hands."""

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: aiohttp.connector.Connection, content_length: int | None = None
    ) -> None:
        await super().write_bytes(writer, conn, content_length)
        probes.probe("exchange.written")


class Exchanges:
    """The HTTP side of one supplier account."""

    def __init__(
        self,
        *,
        clock: Clock,
        connect_timeout: float,
        read_timeout: float,
        answer_patience: float,
        idle_seconds: float,
        base_url: str | None = None,
    ) -> None:
        """`base_url`: where the supplier lives; nothing is sent to another site. None: wherever requests point."""
        self._clock = clock
        self._site = None if base_url is None else URL(base_url, encoded=True).origin()
        self._read_timeout = read_timeout
        self._session = aiohttp.ClientSession(
            connector=_PunctualConnector(limit=CONNECTIONS_PER_ACCOUNT, keepalive_timeout=idle_seconds),
            request_class=_Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=answer_patience, connect=connect_timeout),
            # A compressed answer wasn't asked for; unpacking one could fill the memory.
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers={"User-Agent", "Content-Type"},
        )
        self._open: set[asyncio.Task[HttpReply | NotSent | Broken]] = set()

    async def send(
        self, request: HttpRequest, *, last_moment: float = float("inf")
    ) -> HttpReply | NotSent | Broken | Pending:
        """Writes a request unless `last_moment` (monotonic) has passed, and waits for the answer up to the time-out."""
        task = asyncio.create_task(self._exchange(request, last_moment))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        # Cancelling the caller doesn't end an exchange that may have bought something.
        done, _ = await asyncio.wait({task}, timeout=self._read_timeout)
        return task.result() if done else Pending(task)

    async def ask(self, request: HttpRequest) -> HttpReply | NotSent | Broken:
        """Like `send` for a question that may be asked again: after the time-out the exchange is over."""
        answer = await self.send(request)
        if isinstance(answer, Pending):
            answer.answer.cancel()
            return Broken("no answer in time")
        return answer

    async def _exchange(self, request: HttpRequest, last_moment: float) -> HttpReply | NotSent | Broken:
        progress = _Progress(self._clock, last_moment)
        _progress.set(progress)
        body = bytearray()
        headers = {"Accept-Encoding": "identity", "User-Agent": "RewardService", **request.headers}
        if self._site is not None and not _is_at(request.url, self._site):
            log.error("an adapter wrote to another site than its account's", url=request.safe_url)
            return NotSent(cause=NotSentCause.CONFIGURATION, detail="the request was for another site than base_url's")
        try:
            async with self._session.request(
                request.method,
                URL(request.url, encoded=True),
                data=request.body or None,
                headers=headers,
                allow_redirects=False,
            ) as response:
                probes.probe("exchange.answering")
                async for chunk in response.content.iter_any():
                    body += chunk
                    probes.probe("exchange.chunk")
                    if len(body) > MAX_ANSWER_BYTES:
                        return Broken(f"HTTP {response.status} with more than {MAX_ANSWER_BYTES} bytes", bytes(body))
                probes.probe("exchange.answered")
                names = {name.lower(): value for name, value in response.headers.items()}
                return HttpReply(response.status, bytes(body), names)
        except _TooLate:
            return NotSent(cause=NotSentCause.TOO_LATE, detail="the submit window passed before the first byte")
        except Exception as error:
            if not isinstance(error, TimeoutError | aiohttp.ClientError | OSError):
                log.exception("an exchange failed in a way nobody thought of", url=request.safe_url)
            # Never the exception's text: it may hold the URL, whose query carries tokens and signatures.
            what = type(error).__name__
            if progress.connected:
                return Broken(f"{what} after the connection was made", bytes(body))
            return NotSent(cause=NotSentCause.UNREACHABLE, detail=what)

    async def close(self) -> None:
        """Ends every exchange and closes the connections."""
        for task in list(self._open):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._open, return_exceptions=True)
        await self._session.close()


def _is_at(url: str, site: URL) -> bool:
    """Whether scheme, host and port are the site's."""
    try:
        return URL(url, encoded=True).origin() == site
    except ValueError:
        return False
