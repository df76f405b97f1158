"""The one HTTP exchange, against peers that count every connection and byte."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeAlias

import aiohttp
import pytest
from aiohttp import web

from reward_adapters.contract import HttpReply, HttpRequest, NotSent, NotSentCause
from reward_server.clock import Clock
from reward_server.domain.order import Order, OrderState
from reward_server.engine import account
from reward_server.engine.exchange import (
    IDLE_SECONDS_LOOK,
    IDLE_SECONDS_PLACE,
    MAX_ANSWER_BYTES,
    Broken,
    Exchanges,
    Pending,
)
from reward_server.store import Created, PurchaseKey
from reward_server.store.quotas import NO_QUOTA, Quota

from .rig import PATIENCE, Rigged, WallClock, answers, outcomes, traits, until

BODY = b"{body}"
"""What every request here carries: a peer counts requests by it."""

Answering: TypeAlias = Callable[[asyncio.StreamWriter], Awaitable[None]]


def says(body: bytes, status: str = "200 OK", *headers: str) -> Answering:
    """Answers and keeps the connection."""
    head = "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""))

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + body)
        await writer.drain()

    return answer


async def closes(writer: asyncio.StreamWriter) -> None:
    """Ends the connection in order, without an answer."""
    writer.close()


async def resets(writer: asyncio.StreamWriter) -> None:
    """Tears the connection down."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Peer:
    """A TCP server that keeps all it is sent, connection by connection, and answers every request as a test says."""

    def __init__(self) -> None:
        self.answer: Answering = says(b"fine")
        self.greet: Answering | None = None
        """What it does with a connection before anything was sent."""
        self.received: list[bytearray] = []
        self.ended = 0
        """How many connections the other side ended."""
        self.ports: list[int] = []
        """The other side's port, by request."""
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0

    def request(self, scheme: str = "http") -> HttpRequest:
        return HttpRequest(f"{scheme}://127.0.0.1:{self.port}/place", BODY)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._tasks.append(asyncio.create_task(self._serve(reader, writer)))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = bytearray()
        self.received.append(got)
        answered = 0
        try:
            if self.greet is not None:
                await self.greet(writer)
            while chunk := await reader.read(65_536):
                got += chunk
                while answered < got.count(BODY):
                    answered += 1
                    self.ports.append(writer.get_extra_info("peername")[1])
                    await self.answer(writer)
            self.ended += 1
        except ConnectionError:
            self.ended += 1
        finally:
            writer.close()


class Sides(Protocol):
    """Makes the HTTP side of an account."""

    def __call__(
        self,
        *,
        clock: Clock = ...,
        read_timeout: float = ...,
        answer_patience: float = ...,
        idle_seconds: float = ...,
    ) -> Exchanges:
        """Short times where a test doesn't care."""


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    made: list[Exchanges] = []

    def make(
        *,
        clock: Clock | None = None,
        read_timeout: float = PATIENCE,
        answer_patience: float = PATIENCE,
        idle_seconds: float = 30.0,
    ) -> Exchanges:
        side = Exchanges(
            clock=clock or Clock(),
            connect_timeout=PATIENCE,
            read_timeout=read_timeout,
            answer_patience=answer_patience,
            idle_seconds=idle_seconds,
        )
        made.append(side)
        return side

    yield make
    for side in made:
        await side.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    it = Peer()
    async with it.listening():
        yield it


@pytest.fixture
async def target() -> AsyncIterator[Peer]:
    """Another server, to which the first one sends its callers."""
    it = Peer()
    async with it.listening():
        yield it


def is_not_sent(result: object, cause: NotSentCause) -> bool:
    return isinstance(result, NotSent) and result.cause is cause


# --- The last moment --------------------------------------------------------------------------------------------------


@pytest.mark.rule("P2")
async def test_nothing_is_written_after_the_last_moment(peer: Peer, sides: Sides) -> None:
    """A request whose last moment has passed is not sent: a connection may be made, but not one byte goes over it."""
    clock = Clock()
    result = await sides(clock=clock).send(peer.request(), last_moment=clock.monotonic() - 1.0)
    assert is_not_sent(result, NotSentCause.TOO_LATE)
    await until(lambda: peer.ended == len(peer.received))
    assert not any(peer.received)


@pytest.mark.rule("P2")
async def test_request_in_time_is_written(peer: Peer, sides: Sides) -> None:
    """A last moment that is still to come holds nothing back."""
    clock = Clock()
    result = await sides(clock=clock).send(peer.request(), last_moment=clock.monotonic() + PATIENCE)
    assert isinstance(result, HttpReply)
    assert (result.status, result.body) == (200, b"fine")


@pytest.mark.rule("P2")
async def test_last_moment_that_passes_while_connecting(
    peer: Peer, sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the time of the first byte: a connection that took too long to make stays empty."""
    clock = WallClock()
    connect = aiohttp.TCPConnector.connect

    async def slow(self: aiohttp.TCPConnector, *args: Any) -> aiohttp.connector.Connection:
        connection = await connect(self, *args)
        clock.advance(6.0)
        return connection

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", slow)
    result = await sides(clock=clock).send(peer.request(), last_moment=clock.monotonic() + 5.0)
    assert is_not_sent(result, NotSentCause.TOO_LATE)
    await until(lambda: peer.ended == 1)
    assert peer.received == [b""]


@pytest.mark.rule("P2")
async def test_last_moment_holds_on_a_kept_connection(peer: Peer, sides: Sides) -> None:
    """A connection that is there already is no way round the last moment."""
    clock = Clock()
    side = sides(clock=clock)
    await side.send(peer.request())
    result = await side.send(peer.request(), last_moment=clock.monotonic() - 1.0)
    assert is_not_sent(result, NotSentCause.TOO_LATE)
    await until(lambda: peer.ended == len(peer.received))
    assert len(peer.ports) == 1
    assert sum(got.count(b"POST") for got in peer.received) == 1


@pytest.mark.rule("P2")
async def test_stale_intention_of_a_new_order_is_not_sent(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order whose commit took longer than the submit window isn't sent on that intention, but on a fresh one."""
    rig = await rigged(a=traits())
    create = rig.store.create

    async def slow(order: Order, quota: Quota = NO_QUOTA) -> Created:
        created = await create(order, quota)
        rig.clock.advance(rig.accounts["a"].plan.submit_window + 1.0)
        return created

    monkeypatch.setattr(rig.store, "create", slow)
    now = await rig.when_state(await rig.order("a"), OrderState.FULFILLED)
    assert outcomes(now.purchases[0]) == ["NotSent", "Delivered"]
    assert len(rig.script.places()) == 1


@pytest.mark.rule("P2")
async def test_stale_intention_of_a_queued_purchase_is_not_sent(
    rigged: Rigged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for a purchase that waited for a slot: the submit window begins before its intention is stored."""
    rig = await rigged(a=traits())
    intend = rig.engine.ledger.intend
    slow_commits = [True]

    async def slow(key: PurchaseKey) -> Order | None:
        intended = await intend(key)
        if slow_commits:
            slow_commits.clear()
            rig.clock.advance(rig.accounts["a"].plan.submit_window + 1.0)
        return intended

    monkeypatch.setattr(rig.engine.ledger, "intend", slow)
    rig.rest("a", 0.05)
    now = await rig.when_state(await rig.order("a"), OrderState.FULFILLED)
    assert outcomes(now.purchases[0]) == ["NotSent", "Delivered"]
    assert len(rig.script.places()) == 1


# --- Redirects --------------------------------------------------------------------------------------------------------

REDIRECTS = ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.rule("P4")
async def test_redirect_is_an_answer(peer: Peer, target: Peer, sides: Sides, status: str) -> None:
    """A redirect is handed back as it came; where it points to nobody goes."""
    peer.answer = says(b"", status, f"Location: http://127.0.0.1:{target.port}/place")
    result = await sides().send(peer.request())
    assert isinstance(result, HttpReply)
    assert result.status == int(status[:3])
    assert len(peer.ports) == 1
    assert not target.received


@pytest.mark.rule("P4")
async def test_redirected_purchase_is_in_doubt(rigged: Rigged, target: Peer) -> None:
    """A purchase that is answered with a redirect was asked for once, and nobody knows what became of it."""
    rig = await rigged(a=traits(queryable=False))
    away = web.Response(status=307, headers={"Location": f"http://127.0.0.1:{target.port}/place"})
    rig.script.place = answers(away)
    now = await rig.when_state(await rig.order("a"), OrderState.OUTCOME_UNKNOWN)
    assert outcomes(now.purchases[0]) == ["Unclear"]
    assert len(rig.script.places()) == 1
    assert not target.received


# --- Connections ------------------------------------------------------------------------------------------------------


@pytest.mark.rule("P4")
async def test_connection_that_idled_too_long_is_not_used(peer: Peer, sides: Sides) -> None:
    """A request after the idle time gets a connection of its own: the old one may be closing on the other side."""
    side = sides(idle_seconds=0.05)
    await side.send(peer.request())
    await asyncio.sleep(0.08)
    assert isinstance(await side.send(peer.request()), HttpReply)
    assert len(set(peer.ports)) == 2


async def test_connection_is_kept_for_the_idle_time(peer: Peer, sides: Sides) -> None:
    """Within the idle time the connection is used again."""
    side = sides()
    await side.send(peer.request())
    await side.send(peer.request())
    assert len(peer.ports) == 2
    assert len(set(peer.ports)) == 1


@pytest.mark.rule("P4")
async def test_idle_times_of_an_account(rigged: Rigged) -> None:
    """Purchases never go over a connection that idled for more than a second; questions, which may be repeated, may."""

    def idle_seconds(side: Exchanges) -> object:
        connector = side._session.connector
        assert connector is not None
        return connector._keepalive_timeout

    its = (await rigged(a=traits())).accounts["a"]
    assert (IDLE_SECONDS_PLACE, IDLE_SECONDS_LOOK) == (1.0, 30.0)
    assert idle_seconds(its.place_side) == IDLE_SECONDS_PLACE
    assert idle_seconds(its.look_side) == IDLE_SECONDS_LOOK


@pytest.mark.parametrize("drops", [closes, resets])
@pytest.mark.rule("P4", "P6")
async def test_dropped_kept_connection_repeats_nothing(peer: Peer, sides: Sides, drops: Answering) -> None:
    """A purchase that a kept connection swallowed is in doubt; it is never written a second time."""
    side = sides()
    await side.send(peer.request())
    peer.answer = drops
    assert isinstance(await side.send(peer.request()), Broken)
    assert len(peer.ports) == 2
    assert len(peer.received) == 1


@pytest.mark.parametrize("drops", [closes, resets])
async def test_connection_lost_after_the_request(peer: Peer, sides: Sides, drops: Answering) -> None:
    """A connection that ends after the request was written leaves the outcome open: it is not "not sent"."""
    peer.answer = drops
    assert isinstance(await sides().send(peer.request()), Broken)
    assert len(peer.ports) == 1


@pytest.mark.rule("P6")
async def test_connection_lost_before_the_request_was_read(peer: Peer, sides: Sides) -> None:
    """Once connected, no failure proves that nothing was written."""
    peer.greet = resets
    assert isinstance(await sides().send(peer.request()), Broken)
    assert not peer.ports


async def test_refused_connection(sides: Sides) -> None:
    """Where nobody listens nothing was sent."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        request = HttpRequest(f"http://127.0.0.1:{nobody.getsockname()[1]}/place?sign=SECRET", BODY)
        result = await sides().send(request)
    assert is_not_sent(result, NotSentCause.UNREACHABLE)
    assert "SECRET" not in repr(result)


async def test_name_that_does_not_resolve(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address nothing was sent."""

    def fails(*_args: object, **_named: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown name")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    result = await sides().send(HttpRequest("http://supplier.invalid/place", BODY))
    assert is_not_sent(result, NotSentCause.UNREACHABLE)


async def test_failed_tls_handshake(peer: Peer, sides: Sides) -> None:
    """Where no TLS session came to be, nothing of the request was written."""
    peer.greet = closes
    result = await sides().send(peer.request("https"))
    assert is_not_sent(result, NotSentCause.UNREACHABLE)
    assert not peer.ports


# --- Answers ----------------------------------------------------------------------------------------------------------


def gated(gate: asyncio.Event, body: bytes) -> Answering:
    """Answers as soon as the gate opens."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await says(body)(writer)

    return answer


@pytest.mark.rule("P3")
async def test_late_answer_arrives(peer: Peer, sides: Sides) -> None:
    """After the read time-out the exchange goes on, and its answer, whenever it comes, is the answer."""
    gate = asyncio.Event()
    peer.answer = gated(gate, b"ONLY COPY")
    side = sides(read_timeout=0.05)
    result = await side.send(peer.request())
    assert isinstance(result, Pending)
    [exchange] = side._open
    assert not exchange.done()
    gate.set()
    late = await result.answer
    assert isinstance(late, HttpReply)
    assert late.body == b"ONLY COPY"
    await until(lambda: not side._open)
    assert len(peer.ports) == 1


@pytest.mark.rule("P3")
async def test_patience_with_a_late_answer_ends(peer: Peer, sides: Sides) -> None:
    """An exchange that was never answered ends with the answer patience, in doubt."""
    peer.answer = gated(asyncio.Event(), b"never")
    result = await sides(read_timeout=0.02, answer_patience=0.06).send(peer.request())
    assert isinstance(result, Pending)
    assert isinstance(await result.answer, Broken)


@pytest.mark.rule("P3", "D2")
async def test_cancelled_caller_does_not_end_the_exchange(peer: Peer, sides: Sides) -> None:
    """An exchange that may have bought something outlives whoever waited for it."""
    gate = asyncio.Event()
    peer.answer = gated(gate, b"card")
    side = sides()
    sending = asyncio.create_task(side.send(peer.request()))
    await until(lambda: peer.ports)
    [exchange] = side._open
    sending.cancel()
    await asyncio.wait({sending})
    assert sending.cancelled()
    gate.set()
    await asyncio.wait({exchange})
    assert not exchange.cancelled()
    result = exchange.result()
    assert isinstance(result, HttpReply)
    assert result.body == b"card"


async def test_question_is_given_up_after_the_time_out(peer: Peer, sides: Sides) -> None:
    """A question that isn't answered in time is over at once: its connection is closed, and it may be asked again."""
    peer.answer = gated(gate := asyncio.Event(), b"too late")
    side = sides(read_timeout=0.05)
    assert isinstance(await side.ask(peer.request()), Broken)
    # Long before the answer patience would end it.
    await until(lambda: not side._open, patience=PATIENCE / 2)
    gate.set()
    await until(lambda: peer.ended == 1)


async def test_question_is_answered(peer: Peer, sides: Sides) -> None:
    """A question that is answered in time has its answer."""
    result = await sides().ask(peer.request())
    assert isinstance(result, HttpReply)
    assert result.body == b"fine"


async def test_largest_answer_is_read(peer: Peer, sides: Sides) -> None:
    """An answer of exactly the largest size is an answer."""
    peer.answer = says(b"x" * MAX_ANSWER_BYTES)
    result = await sides().send(peer.request())
    assert isinstance(result, HttpReply)
    assert len(result.body) == MAX_ANSWER_BYTES


@pytest.mark.rule("P10")
async def test_answer_that_is_too_large_is_kept_as_far_as_it_was_read(peer: Peer, sides: Sides) -> None:
    """A larger answer is in doubt, not lost: a paid card may be at its beginning; the rest is never read."""
    peer.answer = says(b"CARD" + b"x" * 8 * MAX_ANSWER_BYTES)
    result = await sides().send(peer.request())
    assert isinstance(result, Broken)
    assert result.raw.startswith(b"CARD")
    assert MAX_ANSWER_BYTES < len(result.raw) < 4 * MAX_ANSWER_BYTES
    assert "CARD" not in repr(result)


async def test_half_an_answer_is_handed_over(peer: Peer, sides: Sides) -> None:
    """An answer that breaks off is in doubt, and what came of it is kept."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nCARD")
        await writer.drain()
        writer.close()

    peer.answer = answer
    result = await sides().send(peer.request())
    assert isinstance(result, Broken)
    assert result.raw == b"CARD"


@pytest.mark.rule("P6")
async def test_refused_connection_is_tried_again(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purchase whose request couldn't be written is sent once the supplier is there; only what was written counts."""
    monkeypatch.setattr(account, "FIRST_HOLD_SECONDS", 0.02)
    rig = await rigged(a=traits())
    supplier = rig.suppliers["a"]
    url = supplier._url
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        supplier._url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        order = await rig.order("a")
        await rig.when(order, lambda now: now.purchases[0].evidence)
        supplier._url = url
    now = await rig.when_state(order, OrderState.FULFILLED)
    assert set(outcomes(now.purchases[0])) == {"NotSent", "Delivered"}
    assert now.purchases[0].sends == len(rig.script.places()) == 1
