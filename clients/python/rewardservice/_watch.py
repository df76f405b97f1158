"""One stream of updates for the caller, over as many connections as it takes."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable

from grpc import aio

from rewardservice._credentials import Credentials, as_metadata
from rewardservice._retry import cancelled_from_inside, is_doubtful, is_retryable
from rewardservice.backoff import Backoff
from rewardservice.errors import (
    AuthenticationError,
    ClosedError,
    DeadlineError,
    ResourceExhaustedError,
    ResumeError,
    RewardError,
    UnavailableError,
    from_rpc_error,
)
from rewardservice.events import Event, Heartbeat, Reset, Snapshot, SnapshotEnd, Update
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb
from rewardservice.v1.reward_service_pb2_grpc import RewardServiceStub

log = logging.getLogger("rewardservice")

_REMEMBERED = 65_536
"""Orders whose version is remembered. A token resumes exactly, so repeats come from the last connection only."""

_Call = aio.UnaryStreamCall[pb.StreamOrderUpdatesRequest, pb.StreamOrderUpdatesResponse]


class Watch:
    """What has to be remembered from one connection to the next: the last token, and the versions already shown."""

    def __init__(
        self,
        request: pb.StreamOrderUpdatesRequest,
        *,
        shared: Callable[[], aio.Channel],
        unshared: Callable[[], aio.Channel],
        closed: Callable[[], bool],
        credentials: Credentials,
        backoff: Backoff,
        silence: float,
        give_up_after: float | None,
    ) -> None:
        self._request = request
        self._shared = shared
        self._unshared = unshared
        self._closed = closed
        self._credentials = credentials
        self._backoff = backoff
        self._silence = silence
        self._give_up_after = give_up_after
        self._token = request.resume_token if request.start in _CONTINUES else ""
        self._versions: OrderedDict[str, int] = OrderedDict()
        self._in_snapshot = False
        self._failures = 0
        self._failing_since = 0.0
        self._shown = ""
        self._refusal: AuthenticationError | None = None
        self._own_channel: aio.Channel | None = None

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yields until the server ends the stream for good, or an error comes that a new connection can't mend."""
        call: _Call | None = None
        try:
            while True:
                try:
                    call = call or await self._open()
                    message = await self._receive(call)
                except RewardError as error:
                    if call is not None:
                        call.cancel()
                    call = None
                    if self._may_show_another(error):
                        log.info("the key or token was refused; asking for another", extra={"stream": "refused"})
                    elif self._must_start_over(error):
                        log.warning("the log can't be continued (%s); a snapshot follows", error)
                        yield Reset(error.reason)
                    else:
                        await self._pause(error)
                    continue
                if message is None:
                    return
                self._refusal = None
                if self._failures:
                    self._failures = 0
                    log.info("stream is back", extra={"stream": "back"})
                event = self._take(message)
                if event is not None:
                    yield event
        finally:
            if call is not None:
                call.cancel()
            if self._own_channel is not None:
                await self._own_channel.close()

    async def _open(self) -> _Call:
        shown = await self._credentials.current()
        if self._refusal is not None and shown == self._shown:
            raise self._refusal
        self._shown = shown
        request = pb.StreamOrderUpdatesRequest()
        request.CopyFrom(self._request)
        if self._token:
            request.start = pb.STREAM_START_AFTER
            request.resume_token = self._token
        self._in_snapshot = not self._token and request.start in _BEGINS_WITH_SNAPSHOT
        channel = self._own_channel or self._shared()
        return RewardServiceStub(channel).StreamOrderUpdates(request, metadata=as_metadata(shown))

    async def _receive(self, call: _Call) -> pb.StreamOrderUpdatesResponse | None:
        """The next message; None when the stream is complete. Raises RewardError, also for silence."""
        try:
            async with asyncio.timeout(self._silence):
                message = await call.read()
        except TimeoutError:
            # The connection may be dead without either side knowing: the next stream gets a new one, not this one.
            await self._leave_connection()
            raise UnavailableError(f"nothing came for {self._silence:g} s, not even a heartbeat") from None
        except aio.AioRpcError as failure:
            raise from_rpc_error(failure) from failure
        except asyncio.CancelledError:
            if self._closed() and not cancelled_from_inside():
                raise ClosedError from None
            raise
        if isinstance(message, pb.StreamOrderUpdatesResponse):
            return message
        if self._request.until_terminal:
            return None
        raise UnavailableError("the stream was ended on the way")

    async def _leave_connection(self) -> None:
        former, self._own_channel = self._own_channel, self._unshared()
        if former is not None:
            await former.close()

    def _may_show_another(self, error: RewardError) -> bool:
        """Whether the key or token was refused that there may be a newer one of; once until the server takes one."""
        by_server = isinstance(error.__cause__, aio.AioRpcError)
        if not (isinstance(error, AuthenticationError) and by_server and self._credentials.can_change):
            return False
        if self._refusal is not None:
            return False
        self._refusal = error
        return True

    def _must_start_over(self, error: RewardError) -> bool:
        """Whether the token is lost; then the next stream begins with a snapshot."""
        if not isinstance(error, ResumeError) or not self._token:
            return False
        self._token = ""
        self._request.start = pb.STREAM_START_SNAPSHOT
        self._request.resume_token = ""
        # After a restore from a backup versions count again from an earlier one.
        self._versions.clear()
        return True

    async def _pause(self, error: RewardError) -> None:
        """Waits before the next connection. Raises the error when there should be none."""
        now = asyncio.get_running_loop().time()
        if self._failures == 0:
            self._failing_since = now
        self._failures += 1
        delay = self._backoff.delay(self._failures, error.retry_after)
        if (
            not _is_mendable(error)
            or (is_doubtful(error) and self._failures >= self._backoff.attempts)
            or (self._give_up_after is not None and now - self._failing_since + delay > self._give_up_after)
        ):
            raise error
        extra = {"stream": "lost", "error": error}
        log.info("stream lost: %s; connecting again in %.1f s", error.message, delay, extra=extra)
        await self._backoff.sleep(delay)

    def _take(self, message: pb.StreamOrderUpdatesResponse) -> Event | None:
        """The event for a message; None for repeats and for kinds that this version doesn't know."""
        kind = message.WhichOneof("message")
        if kind == "update":
            update = message.update
            self._advance(update.resume_token)
            return Update(update.order, update.resume_token) if self._is_new(update.order) else None
        if kind == "snapshot":
            return Snapshot(message.snapshot.order) if self._is_new(message.snapshot.order) else None
        if kind == "snapshot_end":
            self._in_snapshot = False
            self._advance(message.snapshot_end.resume_token)
            return SnapshotEnd(message.snapshot_end.resume_token)
        if kind == "heartbeat" and not self._in_snapshot:
            self._advance(message.heartbeat.resume_token)
            return Heartbeat(message.heartbeat.resume_token)
        return None

    def _advance(self, token: str) -> None:
        # Until the snapshot is complete no token stands for it: continuing there would skip the rest of it.
        if token and not self._in_snapshot:
            self._token = token

    def _is_new(self, order: order_pb2.Order) -> bool:
        if order.version <= self._versions.get(order.order_id, 0):
            return False
        self._versions[order.order_id] = order.version
        self._versions.move_to_end(order.order_id)
        if len(self._versions) > _REMEMBERED:
            self._versions.popitem(last=False)
        return True


_CONTINUES = {pb.STREAM_START_UNSPECIFIED, pb.STREAM_START_AFTER}
_BEGINS_WITH_SNAPSHOT = {pb.STREAM_START_UNSPECIFIED, pb.STREAM_START_SNAPSHOT}


def _is_mendable(error: RewardError) -> bool:
    """Whether a new connection may mend it. A stream has no deadline of ours, so a deadline is a proxy's."""
    return (
        is_retryable(error)
        or isinstance(error, DeadlineError)
        or (isinstance(error, ResourceExhaustedError) and error.reason == "READER_TOO_SLOW")
    )
