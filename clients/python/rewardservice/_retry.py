"""Unary calls that are tried again, and which errors allow it."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import grpc
from grpc import aio

from rewardservice._credentials import Credentials, as_metadata
from rewardservice.backoff import Backoff
from rewardservice.errors import (
    ClosedError,
    DeadlineError,
    ResourceExhaustedError,
    RewardError,
    UnavailableError,
    from_rpc_error,
)

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

# Every error of the service itself has a reason; without one these codes come from a proxy or a torn connection.
_DOUBTFUL = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


def is_retryable(error: RewardError) -> bool:
    """Whether the same request may succeed a little later. Safe for every call: creating is idempotent by its id."""
    return (
        isinstance(error, UnavailableError)
        or (isinstance(error, ResourceExhaustedError) and error.retry_after is not None)
        or is_doubtful(error)
    )


def is_doubtful(error: RewardError) -> bool:
    """Whether the error came from the way rather than from the service, so that it's worth a few more tries."""
    return error.code in _DOUBTFUL and not error.reason


def cancelled_from_inside() -> bool:
    """Whether someone asked the running task to stop, as opposed to gRPC cancelling a call under it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def call(
    method: aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
    request: RequestT,
    *,
    credentials: Credentials,
    timeout: float,
    backoff: Backoff,
    closed: Callable[[], bool],
) -> ResponseT:
    """Calls until an answer comes, within `timeout` seconds in all. Raises RewardError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    failures = 0
    while True:
        try:
            metadata = as_metadata(await _in_time(credentials, deadline))
            return await method(request, timeout=max(0.0, deadline - loop.time()), metadata=metadata)
        except RewardError as unanswered:
            error = unanswered
        except aio.AioRpcError as failure:
            error = from_rpc_error(failure)
            error.__cause__ = failure
        except asyncio.CancelledError:
            if closed() and not cancelled_from_inside():
                raise ClosedError from None
            raise
        failures += 1
        delay = backoff.delay(failures, error.retry_after)
        if not is_retryable(error) or failures >= backoff.attempts or loop.time() + delay >= deadline:
            raise error
        await backoff.sleep(delay)


async def _in_time(credentials: Credentials, deadline: float) -> str:
    """The key or token to send. Raises DeadlineError at the loop's time `deadline`."""
    if not credentials.can_change:
        return await credentials.current()
    try:
        async with asyncio.timeout_at(deadline):
            return await credentials.current()
    except TimeoutError:
        raise DeadlineError("no key or token in time", code=grpc.StatusCode.DEADLINE_EXCEEDED) from None
