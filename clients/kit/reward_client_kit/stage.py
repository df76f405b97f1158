"""The server of a scenario: it tells the truth of its log, ends its streams as the script says, and notes the calls."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from reward_client_kit.client import Reported
from reward_client_kit.relay import Relay
from reward_client_kit.world import Log, Unusable, Version
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb

KEY = "kit-key"
_LEAST_HEARTBEAT = 0.2
_DEFAULT_HEARTBEAT = 1.0
_ARRIVAL = 2.0
"""Seconds that a client gets to show what it was sent before its connection is torn. A client may show it later."""

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    # What the service allows: pings without calls, 10 s apart.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


@dataclass(slots=True)
class Record:
    """One call of the client, as the server saw it. Times are seconds of one clock."""

    number: int
    request: pb.StreamOrderUpdatesRequest
    arrived: float
    key: str
    seconds_left: float | None
    """The call's deadline; None without one."""
    sent: list[Version] = field(default_factory=list)
    updates: list[tuple[Version, str]] = field(default_factory=list)
    """The updates among what was sent, with their tokens."""
    snapshot: list[Version] = field(default_factory=list)
    snapshot_position: int | None = None
    """Where the log goes on, once the snapshot was complete."""
    tokens: list[str] = field(default_factory=list)
    """Every token that counts, in the order of the messages: none from inside a snapshot."""
    inside: list[str] = field(default_factory=list)
    """Tokens from inside a snapshot that wasn't complete."""
    refused: str = ""
    """Reason of the OUT_OF_RANGE that answered its token."""
    orderly: bool = True
    """Whether everything that was sent reached the client."""
    retry_after: float | None = None
    is_outage: bool = False
    ended: float | None = None


@dataclass(slots=True)
class Call:
    """One stream under way, and the words that scripts are made of."""

    stage: "Stage"
    request: pb.StreamOrderUpdatesRequest
    context: Any
    record: Record
    position: int = 0
    """Everything up to here was sent, or left out by the selector."""
    in_snapshot: bool = False

    @property
    def log(self) -> Log:
        return self.stage.log

    def selects(self, order: order_pb2.Order) -> bool:
        """Whether the client asked for this order."""
        ours, theirs = self.request.order_ids, self.request.client_order_ids
        return not (ours or theirs) or order.order_id in ours or order.client_order_id in theirs

    async def send(self, message: pb.StreamOrderUpdatesResponse) -> None:
        """Writes one message."""
        await self.context.write(message)

    async def open(self, snapshots: int | None) -> None:
        """The snapshot (only so many orders of it, and then no end), or a heartbeat and what the client missed."""
        if self._wants_snapshot:
            self.in_snapshot = True
            self.position = self.log.head
            for number, order in enumerate(filter(self.selects, self.log.snapshot().values())):
                if number == snapshots:
                    return
                self.record.snapshot.append((order.order_id, order.version))
                self.record.sent.append((order.order_id, order.version))
                await self.send(pb.StreamOrderUpdatesResponse(snapshot=pb.OrderSnapshot(order=order)))
            self.in_snapshot = False
            self.record.snapshot_position = self.position
            end = pb.SnapshotEnd(resume_token=self.token(self.position))
            await self.send(pb.StreamOrderUpdatesResponse(snapshot_end=end))
            return
        if self.request.start == pb.STREAM_START_NOW:
            self.position = self.log.head
        else:
            self.position = await self._resumed()
        await self.beat()
        await self.catch_up()

    async def catch_up(self) -> None:
        """Sends everything that has happened and that the client lacks."""
        for position, order in self.log.after(self.position):
            self.position = position
            if self.selects(order):
                await self._update(position, order)

    async def repeat(self, count: int) -> None:
        """Sends the last so many updates before the current position again, as the promise allows on a new stream."""
        for position in range(max(0, self.position - count), self.position):
            order = self.log.entries[position]
            if self.selects(order):
                await self._update(position + 1, order)

    async def beat(self) -> None:
        """A heartbeat; its token covers what the selector left out."""
        beat = pb.Heartbeat(resume_token=self.token(self.position))
        beat.time.GetCurrentTime()
        await self.send(pb.StreamOrderUpdatesResponse(heartbeat=beat))

    def lose(self) -> None:
        """From here on nobody knows what of it arrives."""
        self.record.orderly = False
        self.record.ended = time.monotonic()

    async def refuse(
        self, code: grpc.StatusCode, reason: str = "", *, retry_after: float | None = None, **metadata: str
    ) -> None:
        """Ends the stream with an error as the service words it; without a reason it is a proxy's."""
        self.record.ended = time.monotonic()
        self.record.retry_after = retry_after
        trailers = () if not reason else (("grpc-status-details-bin", _details(code, reason, retry_after, metadata)),)
        await self.context.abort(code, f"the kit says {reason or code.name}", trailers)

    @property
    def _wants_snapshot(self) -> bool:
        start = self.request.start
        return start == pb.STREAM_START_SNAPSHOT or (
            start == pb.STREAM_START_UNSPECIFIED and not self.request.resume_token
        )

    async def _resumed(self) -> int:
        try:
            return self.log.position(self.request.resume_token)
        except Unusable as error:
            if error.reason == "RESUME_TOKEN_INVALID":
                await self.refuse(grpc.StatusCode.INVALID_ARGUMENT, error.reason)
            self.record.refused = error.reason
            oldest = self.log.token(self.log.pruned)
            await self.refuse(grpc.StatusCode.OUT_OF_RANGE, error.reason, oldest_resume_token=oldest)
            raise

    async def _update(self, position: int, order: order_pb2.Order) -> None:
        token = self.token(position)
        self.record.sent.append((order.order_id, order.version))
        self.record.updates.append(((order.order_id, order.version), token))
        update = pb.OrderUpdate(order=order, resume_token=token)
        await self.send(pb.StreamOrderUpdatesResponse(update=update))

    def token(self, position: int) -> str:
        """The token of a position, noted as given to the client."""
        token = self.log.token(position)
        (self.record.inside if self.in_snapshot else self.record.tokens).append(token)
        return token


Step: TypeAlias = Callable[[Call], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Leg:
    """What one call of the client meets; with `lasts`, what every call meets for so many seconds from the first."""

    steps: tuple[Step, ...]
    lasts: float = 0.0


class Stage:
    """Plays one scenario's legs to one client. Calls beyond the last leg get `last`."""

    def __init__(self, log: Log, legs: tuple[Leg, ...], last: Leg, reported: Reported) -> None:
        self.log = log
        self.reported = reported
        self.records: list[Record] = []
        self.logs = [log]
        """The log, and what became of it after each restore."""
        self._legs = list(legs)
        self._last = last
        self._outage_until: float | None = None
        self._relay: Relay | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def relay(self) -> Relay:
        if self._relay is None:
            raise RuntimeError("the stage isn't open yet")
        return self._relay

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Serves on a fresh port of 127.0.0.1, and yields the target for the client."""
        server = aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._service(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._relay = Relay(port)
        try:
            async with self._relay.running():
                yield f"127.0.0.1:{self._relay.port}"
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.stop(None)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs something that outlives the call it was begun in."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def rewind(self, log: Log) -> None:
        """The server was restored from a backup."""
        self.log = log
        self.logs.append(log)

    def _service(self) -> grpc.GenericRpcHandler:
        """The one method that is played; the others are UNIMPLEMENTED."""
        method = grpc.unary_stream_rpc_method_handler(
            self._stream,
            request_deserializer=pb.StreamOrderUpdatesRequest.FromString,
            response_serializer=pb.StreamOrderUpdatesResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler("rewardservice.v1.RewardService", {"StreamOrderUpdates": method})

    async def _stream(self, request: pb.StreamOrderUpdatesRequest, context: Any) -> None:
        leg = self._next_leg()
        headers = dict(context.invocation_metadata() or ())
        record = Record(
            number=len(self.records) + 1,
            request=request,
            arrived=time.monotonic(),
            key=str(headers.get("authorization", "")),
            seconds_left=context.time_remaining(),
            is_outage=leg.lasts > 0,
        )
        self.records.append(record)
        call = Call(self, request, context, record)
        try:
            if record.key != f"Bearer {KEY}":
                await call.refuse(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
            for step in leg.steps:
                await step(call)
        finally:
            record.ended = record.ended or time.monotonic()

    def _next_leg(self) -> Leg:
        if not self._legs:
            return self._last
        leg = self._legs[0]
        if not leg.lasts:
            return self._legs.pop(0)
        now = time.monotonic()
        if self._outage_until is None:
            self._outage_until = now + leg.lasts
        if now < self._outage_until:
            return leg
        self._outage_until = None
        self._legs.pop(0)
        return self._next_leg()


async def opening(call: Call) -> None:
    """The beginning of every stream that gets so far."""
    await call.open(None)


def half_a_snapshot(orders: int) -> Step:
    """A snapshot that breaks off after so many orders (a stream that resumes gets its whole beginning)."""

    async def step(call: Call) -> None:
        await call.open(orders)

    return step


def publish(count: int) -> Step:
    """So many further entries of the log happen, and are sent."""

    async def step(call: Call) -> None:
        call.log.head = min(len(call.log.entries), call.log.head + count)
        if not call.in_snapshot:
            await call.catch_up()

    return step


def unseen(count: int) -> Step:
    """So many further entries of the log happen while the client can't see them."""

    async def step(call: Call) -> None:
        call.log.head = min(len(call.log.entries), call.log.head + count)

    return step


def repeat(count: int) -> Step:
    """The last so many updates come again."""

    async def step(call: Call) -> None:
        await call.repeat(count)

    return step


async def beat(call: Call) -> None:
    """A heartbeat."""
    await call.beat()


def say(message: pb.StreamOrderUpdatesResponse) -> Step:
    """Any message."""

    async def step(call: Call) -> None:
        await call.send(message)

    return step


def refuse(code: grpc.StatusCode, reason: str = "", *, retry_after: float | None = None) -> Step:
    """The stream ends with an error."""

    async def step(call: Call) -> None:
        await call.refuse(code, reason, retry_after=retry_after)

    return step


async def too_slow(call: Call) -> None:
    """The stream ends because it was read too slowly, with the token of where it stands."""
    token = call.token(call.position)
    await call.refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "READER_TOO_SLOW", resume_token=token)


async def end(call: Call) -> None:
    """The stream ends with OK though it has no end."""
    call.record.ended = time.monotonic()


async def reset(call: Call) -> None:
    """The connection is reset."""
    await _sever(call, call.stage.relay.reset)


async def close(call: Call) -> None:
    """The connection is closed by something on the way."""
    await _sever(call, call.stage.relay.close)


async def silence(call: Call) -> None:
    """The connection stays open and carries nothing any more."""
    await _sever(call, call.stage.relay.silence)


async def silence_twice(call: Call) -> None:
    """The connection goes silent, and so is the next one from its beginning."""
    call.stage.relay.silence_next()
    await _sever(call, call.stage.relay.silence)


async def hang(call: Call) -> None:
    """The connection lives and answers pings, but the stream says nothing any more."""
    await asyncio.Event().wait()


def restart(seconds: float) -> Step:
    """The server goes, and is back on its port after so many seconds."""

    async def away(relay: Relay) -> None:
        await asyncio.sleep(seconds)
        relay.is_down = False

    async def step(call: Call) -> None:
        relay = call.stage.relay

        def go() -> None:
            relay.is_down = True
            relay.reset()
            call.stage.spawn(away(relay))

        await _sever(call, go)

    return step


async def forget(call: Call) -> None:
    """The log is pruned up to its head."""
    call.log.pruned = call.log.head


def restore(entries: tuple[order_pb2.Order, ...], head: int) -> Step:
    """The server is restored from a backup, and its log goes another way."""

    async def step(call: Call) -> None:
        call.stage.rewind(call.log.rewound(entries, head))

    return step


async def rest(call: Call) -> None:
    """Everything that is left happens, then heartbeats until the client goes."""
    await publish(len(call.log.entries))(call)
    asked = call.request.heartbeat_interval.ToTimedelta().total_seconds()
    while True:
        await asyncio.sleep(max(_LEAST_HEARTBEAT, asked or _DEFAULT_HEARTBEAT))
        await call.beat()


async def _sever(call: Call, how: Callable[[], None]) -> None:
    reported, sent = call.stage.reported, set(call.record.sent)
    with suppress(TimeoutError):
        async with asyncio.timeout(_ARRIVAL):
            while not sent <= reported.shown:
                reported.news.clear()
                await reported.news.wait()
    call.lose()
    how()
    await asyncio.Event().wait()


def _details(code: grpc.StatusCode, reason: str, retry_after: float | None, metadata: dict[str, str]) -> bytes:
    details = [_any(error_details_pb2.ErrorInfo(reason=reason, domain="rewardservice.v1", metadata=metadata))]
    if retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(retry_after * 1000))
        details.append(_any(error_details_pb2.RetryInfo(retry_delay=delay)))
    number: int = code.value[0]
    status: Message = status_pb2.Status(code=number, message=f"the kit says {reason}", details=details)
    return status.SerializeToString()


def _any(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
