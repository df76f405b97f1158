"""A subscriber that goes on with its last token whatever happens to its connection, and remembers all it was told.

Straight on the generated stub: the promise of the stream is judged here, not the skill of a client.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import duration_pb2
from grpc.aio import Channel, insecure_channel

from rewardservice.v1 import order_pb2, reward_service_pb2_grpc
from rewardservice.v1 import reward_service_pb2 as pb

BEAT = duration_pb2.Duration(seconds=1)
SILENCE_SECONDS = 3.5
"""Without a word for so long the connection is given up: three heartbeats and what they may be late."""
RETRIED = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)
"""What a cut connection ends a call with."""
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    # How long an attempt to connect may take, whatever its name says: a busy machine needs a while.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 200),
)
FULL, BASIC = order_pb2.ORDER_VIEW_FULL, order_pb2.ORDER_VIEW_BASIC
NOW, SNAPSHOT, AFTER = pb.STREAM_START_NOW, pb.STREAM_START_SNAPSHOT, pb.STREAM_START_AFTER


@dataclass(frozen=True, slots=True)
class Told:
    """One update as it was told."""

    order_id: str
    version: int
    digest: int
    """Of all of it, cards included."""
    token: str


def told(update: pb.OrderUpdate) -> Told:
    """What is kept of an update."""
    digest = hash(update.SerializeToString(deterministic=True))
    return Told(update.order.order_id, update.order.version, digest, update.resume_token)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a subscriber asks for."""

    name: str
    start: pb.StreamStart.ValueType
    view: order_pb2.OrderView.ValueType = FULL
    order_ids: tuple[str, ...] = ()
    client_order_ids: tuple[str, ...] = ()
    token: str = ""

    def selects(self, order_id: str, client_order_id: str) -> bool:
        """Whether an order is asked for."""
        everything = not self.order_ids and not self.client_order_ids
        return everything or order_id in self.order_ids or client_order_id in self.client_order_ids


@dataclass
class Subscriber:
    """One subscriber, from its first connection to the end of the log."""

    wanted: Wanted
    port: int
    key: str = "dev-key"
    begun_at: str = ""
    """The token from which on it was promised every update."""
    snapshot: dict[str, int] = field(default_factory=dict)
    """The versions of the snapshot that was complete."""
    updates: list[Told] = field(default_factory=list)
    """Each once, as they came."""
    token: str = ""
    """The last one."""
    tokens: list[str] = field(default_factory=list)
    """Those of heartbeats, as they came."""
    connections: int = 0
    too_slow: int = 0
    """How often the server lost patience with us."""
    violations: list[str] = field(default_factory=list)
    on_token: Callable[[], None] = lambda: None
    """Told of every heartbeat's token."""
    _versions: dict[str, int] = field(default_factory=dict)

    async def run(self) -> None:
        """Until cancelled."""
        rng = random.Random(self.wanted.name)
        channel = self._channel()
        try:
            while True:
                call = self._open(channel)
                try:
                    await self._read(call)
                    self.violations.append(f"{self.wanted.name}: the stream ended by itself")
                except TimeoutError:
                    # The connection may be dead without either side knowing.
                    await channel.close()
                    channel = self._channel()
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                        self.too_slow += 1
                    elif error.code() not in RETRIED:
                        self.violations.append(f"{self.wanted.name}: {error.code().name} {error.details()}")
                        return
                finally:
                    call.cancel()
                await asyncio.sleep(rng.uniform(0, 0.1))
        finally:
            await channel.close()

    def _channel(self) -> Channel:
        return insecure_channel(f"127.0.0.1:{self.port}", options=OPTIONS)

    def _open(self, channel: Channel) -> Any:
        wanted = self.wanted
        self.connections += 1
        token = self.token or wanted.token
        request = pb.StreamOrderUpdatesRequest(
            start=AFTER if token else wanted.start,
            resume_token=token,
            view=wanted.view,
            order_ids=wanted.order_ids,
            client_order_ids=wanted.client_order_ids,
            heartbeat_interval=BEAT,
        )
        stub = reward_service_pb2_grpc.RewardServiceStub(channel)
        return stub.StreamOrderUpdates(request, metadata=(("authorization", f"Bearer {self.key}"),))

    async def _read(self, call: Any) -> None:
        inside: dict[str, int] = {}
        snapshot: dict[str, int] = {}
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                message = await call.read()
            if message is grpc.aio.EOF:
                return
            match message.WhichOneof("message"):
                case "snapshot":
                    order = message.snapshot.order
                    if order.order_id in snapshot:
                        self.violations.append(f"{self.wanted.name}: {order.order_id} twice in one snapshot")
                    snapshot[order.order_id] = order.version
                case "snapshot_end":
                    self.snapshot = snapshot
                    self._versions.update(snapshot)
                    self.begun_at = self.token = message.snapshot_end.resume_token
                    self.on_token()
                case "update":
                    self._take(message.update, inside)
                case "heartbeat":
                    self.token = message.heartbeat.resume_token
                    self.begun_at = self.begun_at or self.token
                    self.tokens.append(self.token)
                    self.on_token()

    def _take(self, update: pb.OrderUpdate, inside: dict[str, int]) -> None:
        order = update.order
        who = f"{self.wanted.name}: {order.order_id}"
        if order.version <= inside.get(order.order_id, 0):
            self.violations.append(f"{who}: version {order.version} after {inside[order.order_id]} in one stream")
        if order.order_id in inside and order.version > inside[order.order_id] + 1:
            self.violations.append(f"{who}: version {order.version} right after {inside[order.order_id]}")
        inside[order.order_id] = order.version
        self.token = update.resume_token
        known = self._versions.get(order.order_id, 0)
        # We continue from the last token that we had, so nothing may come again.
        if known and order.version != known + 1:
            self.violations.append(f"{who}: version {order.version} after {known}")
        self._versions[order.order_id] = order.version
        self.updates.append(told(update))
