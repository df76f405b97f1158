"""A client written straight from the documentation over bare gRPC, and the habits that it can be given."""

import asyncio
import random
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from reward_client_kit import Reported
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb
from rewardservice.v1.reward_service_pb2_grpc import RewardServiceStub

TERMINAL = range(order_pb2.ORDER_STATE_FULFILLED, order_pb2.ORDER_STATE_CANCELLED + 1)
FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
}


class Habit(Enum):
    """How a client may differ from the documentation. All but the first are mistakes."""

    HOLDS_SNAPSHOTS_BACK = auto()
    NO_RESUME = auto()
    NO_DEDUPLICATION = auto()
    TRUSTS_SILENCE = auto()
    DIES_OF_UNKNOWN_STATE = auto()
    DIES_OF_UNKNOWN_MESSAGE = auto()
    NO_BACK_OFF = auto()
    IGNORES_RETRY_INFO = auto()
    CANCELLED_IS_FINAL = auto()
    OK_IS_FINAL = auto()
    TRUSTS_HALF_A_SNAPSHOT = auto()
    IGNORES_HEARTBEATS = auto()
    HIDES_RESETS = auto()
    REMEMBERS_AFTER_RESTORE = auto()
    REVIEW_IS_THE_END = auto()
    FORGETS_ENDED_ORDERS = auto()
    FORGETS_SELECTOR = auto()
    NEVER_STOPS = auto()
    SLOW_READER_STOPS = auto()


class Plain:
    """One run of the client; `habits` are what it does in its own way."""

    def __init__(self, habits: frozenset[Habit], environment: Mapping[str, str], reported: Reported) -> None:
        self._habits = habits
        self._env = environment
        self._reported = reported
        self._token = environment["REWARD_RESUME_TOKEN"]
        self._versions: dict[str, int] = {}
        self._ended: set[str] = set()
        self._failures = 0
        self._connections = 0
        self._in_snapshot = False
        self._held: list[order_pb2.Order] = []

    async def run(self) -> int:
        """The loop of the documentation. Returns the exit code."""
        while True:
            async with aio.insecure_channel(
                self._env["REWARD_TARGET"], options=(("grpc.use_local_subchannel_pool", 1),)
            ) as channel:
                try:
                    if await self._read(channel):
                        return 0
                    if Habit.OK_IS_FINAL in self._habits:
                        return 0
                    retry_after = None
                except TimeoutError:
                    retry_after = None
                except aio.AioRpcError as error:
                    details = _details(error)
                    if self._is_final(error, details.get("reason", "")):
                        self._print(f'{{"error": "{error.code().name}"}}')
                        return 1
                    retry_after = details.get("retry_after")
            await self._pause(retry_after)

    async def _read(self, channel: aio.Channel) -> bool:
        """Whether the run is over."""
        call: Any = RewardServiceStub(channel).StreamOrderUpdates(
            self._request(), metadata=(("authorization", f"Bearer {self._env['REWARD_KEY']}"),)
        )
        self._connections += 1
        patience = None if self._has(Habit.TRUSTS_SILENCE) else 3 * float(self._env["REWARD_HEARTBEAT_SECONDS"])
        while True:
            async with asyncio.timeout(patience):
                message = await call.read()
            if not isinstance(message, pb.StreamOrderUpdatesResponse):
                return False
            self._failures = 0
            if self._take(message):
                return True

    def _request(self) -> pb.StreamOrderUpdatesRequest:
        forgets = self._has(Habit.NO_RESUME) and self._connections
        token = "" if forgets else self._token
        self._in_snapshot = not token
        self._held.clear()
        request = pb.StreamOrderUpdatesRequest(
            start=pb.STREAM_START_AFTER if token else pb.STREAM_START_SNAPSHOT, resume_token=token
        )
        if not (self._has(Habit.FORGETS_SELECTOR) and self._connections):
            request.order_ids.extend(filter(None, self._env["REWARD_ORDER_IDS"].split(",")))
        request.heartbeat_interval.FromSeconds(int(self._env["REWARD_HEARTBEAT_SECONDS"]))
        return request

    def _take(self, message: pb.StreamOrderUpdatesResponse) -> bool:
        match message.WhichOneof("message"):
            case "snapshot" if self._has(Habit.HOLDS_SNAPSHOTS_BACK):
                self._held.append(message.snapshot.order)
            case "snapshot":
                return self._show(message.snapshot.order)
            case "snapshot_end":
                self._in_snapshot = False
                self._keep(message.snapshot_end.resume_token)
                shown = [self._show(order) for order in self._held]
                return any(shown)
            case "update":
                self._keep(message.update.resume_token)
                return self._show(message.update.order)
            case "heartbeat" if not self._has(Habit.IGNORES_HEARTBEATS):
                self._keep(message.heartbeat.resume_token)
            case None if self._has(Habit.DIES_OF_UNKNOWN_MESSAGE):
                raise ValueError("an unknown kind of message")
        return False

    def _keep(self, token: str) -> None:
        if not self._in_snapshot or self._has(Habit.TRUSTS_HALF_A_SNAPSHOT):
            self._token = token

    def _show(self, order: order_pb2.Order) -> bool:
        if order.version <= self._versions.get(order.order_id, 0) and not self._has(Habit.NO_DEDUPLICATION):
            return False
        self._versions[order.order_id] = order.version
        if self._has(Habit.DIES_OF_UNKNOWN_STATE):
            order_pb2.OrderState.Name(order.state)
        if order.order_id in self._ended and self._has(Habit.FORGETS_ENDED_ORDERS):
            return False
        self._print(f'{{"order_id": "{order.order_id}", "version": {order.version}, "state": {order.state}}}')
        is_over = order.state in TERMINAL or (
            order.state == order_pb2.ORDER_STATE_NEEDS_REVIEW and self._has(Habit.REVIEW_IS_THE_END)
        )
        if is_over:
            self._ended.add(order.order_id)
        return is_over and order.client_order_id == self._env["REWARD_UNTIL"]

    def _is_final(self, error: aio.AioRpcError, reason: str) -> bool:
        if error.code() is grpc.StatusCode.OUT_OF_RANGE:
            self._token = ""
            if not self._has(Habit.REMEMBERS_AFTER_RESTORE):
                self._versions.clear()
            if not self._has(Habit.HIDES_RESETS):
                self._print(f'{{"reset": "{reason}"}}')
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            if self._has(Habit.SLOW_READER_STOPS):
                return True
            if self._has(Habit.TRUSTS_HALF_A_SNAPSHOT):
                self._token = str(_details(error)["resume_token"])
        if error.code() is grpc.StatusCode.CANCELLED and self._has(Habit.CANCELLED_IS_FINAL):
            return True
        return error.code() in FINAL and not self._has(Habit.NEVER_STOPS)

    async def _pause(self, retry_after: float | None) -> None:
        span = min(10.0, float(self._env["REWARD_BACKOFF_SECONDS"]) * 2.0**self._failures)
        self._failures += 1
        pause = 0.01 if self._has(Habit.NO_BACK_OFF) else span * random.random()
        if retry_after is not None and not self._has(Habit.IGNORES_RETRY_INFO):
            pause += retry_after
        await asyncio.sleep(pause)

    def _has(self, habit: Habit) -> bool:
        return habit in self._habits

    def _print(self, line: str) -> None:
        self._reported.take(line)


class PlainClient:
    """The client for the kit, in this process."""

    def __init__(self, *habits: Habit) -> None:
        self._habits = frozenset(habits)

    async def __call__(self, environment: Mapping[str, str], reported: Reported) -> int:
        try:
            return await Plain(self._habits, environment, reported).run()
        except ValueError:
            return 1


def _details(error: aio.AioRpcError) -> dict[str, Any]:
    """Reason, metadata and `retry_after` (seconds) of an error, as far as it has them."""
    found: dict[str, Any] = {}
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin" or isinstance(value, str):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                found |= {**info.metadata, "reason": info.reason}
            elif detail.Unpack(retry):
                found["retry_after"] = retry.retry_delay.ToTimedelta().total_seconds()
    return found
