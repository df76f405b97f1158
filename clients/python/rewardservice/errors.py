"""What can go wrong, as exceptions.

    RewardError
    ├── InvalidRequestError         INVALID_ARGUMENT     mend the request; `violations` names every field
    ├── AuthenticationError         UNAUTHENTICATED      no key, or a wrong one; or the function for it failed
    ├── PermissionDeniedError       PERMISSION_DENIED    the key may not do this
    ├── NotFoundError               NOT_FOUND            no such order or product
    ├── AlreadyExistsError          ALREADY_EXISTS       the client_order_id belongs to an order with other content
    ├── PreconditionError           FAILED_PRECONDITION  not orderable now, or dearer than the limit
    ├── ResumeError                 OUT_OF_RANGE         the resume token can't be continued; take a snapshot
    ├── ResourceExhaustedError      RESOURCE_EXHAUSTED   too large, too many, or read too slowly
    ├── UnavailableError            UNAVAILABLE          not reachable or shutting down; also CANCELLED from outside
    ├── DeadlineError               DEADLINE_EXCEEDED    no answer in time
    │   └── WaitTimeoutError                             `wait_for` ended first; `order` is what was known
    ├── UnimplementedError          UNIMPLEMENTED        the server is older than this client
    ├── ServerError                 every other code     a defect of the server; give its operator `request_id`
    └── ClosedError                                      the `RewardClient` was closed

An order whose outcome is unknown is never an error: the call succeeds and `Order.state` says so. After an
`UnavailableError` or a `DeadlineError` of `create_order` the order may exist; call again with the same client_order_id.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from rewardservice.v1 import order_pb2

_from_call: Callable[[Any], status_pb2.Status | None] = rpc_status.from_call
ERROR_DOMAIN = "rewardservice.v1"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that the server refused.

    `field` is its path in the request, as in `recipient.phone.number`; `description` says how to mend it.
    """

    field: str
    description: str


class RewardError(Exception):
    """Base of every error that this package raises for a call.

    `code` is the gRPC status code, `reason` the name of an `ErrorReason` without its prefix (empty when the error was
    not made by the service itself but on the way to it), `message` one sentence for people, `metadata` what the reason
    adds, `retry_after` the seconds that the server asked to wait, `request_id` what finds the call in the server's log.
    `client_order_id` is set on errors of `create_order`: the id to try again with.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        violations: tuple[FieldViolation, ...] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.violations = violations
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.request_id = request_id
        self.client_order_id = ""

    def __str__(self) -> str:
        tags = [
            self.reason or self.code.name,
            *([f"client_order_id {self.client_order_id}"] if self.client_order_id else []),
            *([f"request {self.request_id}"] if self.request_id else []),
        ]
        # A server with one complaint makes it the message.
        fields = "".join(f"; {v.field}: {v.description}" for v in self.violations if v.description not in self.message)
        return f"{self.message}{fields} ({', '.join(tags)})"


class InvalidRequestError(RewardError):
    """The request is wrong; `violations` names every field at once."""


class AuthenticationError(RewardError):
    """The server knows no such key, or the function that was to give one failed (then that is the cause)."""


class PermissionDeniedError(RewardError):
    """The key is known, but may not do this."""


class NotFoundError(RewardError):
    """There is no such order or product for this client."""


class AlreadyExistsError(RewardError):
    """The client_order_id belongs to an order with other content; `metadata["fields"]` names what differs."""


class PreconditionError(RewardError):
    """The product can't be ordered now, or every offer costs more than the limit."""


class ResumeError(RewardError):
    """The log can't be continued at the resume token: it was pruned beyond it, or the server was restored."""


class ResourceExhaustedError(RewardError):
    """A message was too large, or a stream was read too slowly."""


class UnavailableError(RewardError):
    """The server can't be reached or is shutting down."""


class DeadlineError(RewardError):
    """There was no answer in time."""


class WaitTimeoutError(DeadlineError):
    """`wait_for` ended before the order did. `order` is the order as last seen, None if it was never seen."""

    def __init__(self, message: str, order: order_pb2.Order | None) -> None:
        super().__init__(message, code=grpc.StatusCode.DEADLINE_EXCEEDED)
        self.order = order


class UnimplementedError(RewardError):
    """The server doesn't know this method."""


class ServerError(RewardError):
    """A defect of the server, or an answer that makes no sense."""


class ClosedError(RewardError):
    """The client was closed, before the call or during it."""

    def __init__(self) -> None:
        super().__init__("the client is closed", code=grpc.StatusCode.CANCELLED)


_CLASSES: Mapping[grpc.StatusCode, type[RewardError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.OUT_OF_RANGE: ResumeError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    # A cancel that the caller caused is asyncio.CancelledError; this one came from a full server or a proxy.
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
}

# What the transport says by itself is written for those who build transports.
_TRANSPORT_WORDS: Mapping[grpc.StatusCode, str] = {
    grpc.StatusCode.UNAVAILABLE: "the server can't be reached",
    grpc.StatusCode.CANCELLED: "the server dropped the call before answering",
    grpc.StatusCode.DEADLINE_EXCEEDED: "no answer in time",
}


def from_rpc_error(error: aio.AioRpcError) -> RewardError:
    """The exception for a failed call, with everything that the server said about it."""
    code = error.code()
    kind = _CLASSES.get(code, ServerError)
    request_id = _trailer(error, "x-request-id")
    status = _rich_status(error)
    info, violations, retry_after = _details(status)
    if info is None:
        said = error.details() or ""
        words = _TRANSPORT_WORDS.get(code, "")
        message = f"{words}: {said}" if words and said else words or said or "the call failed"
        return kind(message, code=code, violations=violations, retry_after=retry_after, request_id=request_id)
    metadata = dict(info.metadata)
    return kind(
        error.details() or "the call failed",
        code=code,
        reason=info.reason,
        violations=violations,
        metadata=metadata,
        retry_after=retry_after,
        request_id=request_id or metadata.get("request_id", ""),
    )


def _trailer(error: aio.AioRpcError, key: str) -> str:
    for name, value in error.trailing_metadata() or ():
        if name == key and isinstance(value, str):
            return value
    return ""


def _rich_status(error: aio.AioRpcError) -> status_pb2.Status:
    """The google.rpc.Status of an error; empty when there is none, or none that can be read."""
    try:
        status = _from_call(error)
    except (DecodeError, ValueError):
        # The plain code and text still say what happened.
        status = None
    return status if status is not None else status_pb2.Status()


def _details(
    status: status_pb2.Status,
) -> tuple[error_details_pb2.ErrorInfo | None, tuple[FieldViolation, ...], float | None]:
    info: error_details_pb2.ErrorInfo | None = None
    violations: list[FieldViolation] = []
    retry_after: float | None = None
    for detail in status.details:
        error_info, bad, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        try:
            if detail.Unpack(error_info) and error_info.domain == ERROR_DOMAIN:
                info = error_info
            elif detail.Unpack(bad):
                violations += [FieldViolation(v.field, v.description) for v in bad.field_violations]
            elif detail.Unpack(retry):
                retry_after = max(0.0, retry.retry_delay.ToTimedelta().total_seconds())
        except (DecodeError, OverflowError):
            continue
    return info, tuple(violations), retry_after
