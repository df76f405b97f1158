"""Around every RPC: who calls, whether they may and how often, how long it took, and how it ends when it fails."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from time import perf_counter
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from structlog.contextvars import bind_contextvars, get_contextvars

from reward_server.access import Caller, Permission
from reward_server.errors import MessageTooLarge, PermissionDenied, RewardError, Unauthenticated
from reward_server.limits import CallLimits
from reward_server.rpc.ports import Authenticator, RpcMetrics
from reward_server.rpc.status import REQUEST_ID_KEY, internal, status_of, unimplemented
from reward_server.rpc.validation import unreadable
from reward_server.tracing import Traces

PACKAGE: Final = "rewardservice.v1."

_CATALOGUE = (Permission.ORDER, Permission.READ)

ALLOWED: Mapping[str, tuple[Permission, ...]] = {
    "RewardService/CreateOrder": (Permission.ORDER,),
    "RewardService/CancelOrder": (Permission.ORDER,),
    "RewardService/GetOrder": (Permission.READ,),
    "RewardService/ListOrders": (Permission.READ,),
    "RewardService/StreamOrderUpdates": (Permission.READ,),
    "RewardService/ListOrderUpdates": (Permission.READ,),
    "CatalogService/ListProducts": _CATALOGUE,
    "CatalogService/GetProduct": _CATALOGUE,
    "OperatorService/ListSuppliers": (Permission.OPERATE,),
    "OperatorService/ListSupplierProducts": (Permission.OPERATE,),
    "OperatorService/GetSupplierProduct": (Permission.OPERATE,),
    "OperatorService/ListCallbacks": (Permission.OPERATE,),
    "OperatorService/ListReviews": (Permission.OPERATE,),
    "OperatorService/ResolveOrder": (Permission.OPERATE,),
    "OperatorService/PauseSupplier": (Permission.OPERATE,),
    "OperatorService/ResumeSupplier": (Permission.OPERATE,),
    "OperatorService/ListAuditEntries": (Permission.OPERATE,),
    "OperatorService/ListKeys": (Permission.OPERATE,),
    "OperatorService/RotateKeys": (Permission.OPERATE,),
}
"""Which permissions open a method: one of them is enough. A method that isn't listed stops the first call to it."""

OPEN_SERVICES = ("/grpc.health.v1.", "/grpc.reflection.")
"""Served to everybody: probes and tools have no key."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9\-_.:/+=]{1,64}")
_REQUEST_ID_BYTES = 12
_NUMBER_DIGITS = 11
"""So many digits and no letter may be a phone number, or a card's."""
_PART_OF_A_KEY = 6
"""A shorter piece of a key is there by chance, and says nothing."""

_caller: ContextVar[Caller] = ContextVar("caller")
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour: TypeAlias = Callable[[Any, Any], Awaitable[Any]]

_log = structlog.stdlib.get_logger(__name__)


def current_caller() -> Caller:
    """Who sent the current request."""
    return _caller.get()


def current_call() -> str:
    """How the current request is named in the audit: its method, and the id that finds it in the log."""
    bound = get_contextvars()
    return f"{bound.get('method', '')}, request {bound.get('request_id', '')}"


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """The one interceptor."""

    def __init__(
        self,
        authenticator: Authenticator,
        metrics: RpcMetrics,
        max_message_bytes: int,
        *,
        traces: Traces | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._metrics = metrics
        self._traces = traces
        self._max_message_bytes = max_message_bytes
        for method in ALLOWED:
            metrics.rpc_expected(method)
        self._limits = CallLimits()
        self._streaming: dict[asyncio.Task[Any], Caller] = {}
        self._withdrawn: set[asyncio.Task[Any]] = set()
        # Each method is wrapped once: what remains per call is the wrapper itself.
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The handler of the call's method, wrapped."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return _refusal(method)
            wrapped = handler if method.startswith(OPEN_SERVICES) else self._wrap(method, handler)
            self._wrapped[method] = wrapped
        return wrapped

    def recheck(self) -> None:
        """Ends the streams of callers whose key or permission is gone since they began."""
        for task, caller in self._streaming.items():
            if task not in self._withdrawn and not self._authenticator.admits(caller):
                self._withdrawn.add(task)
                task.cancel()

    async def _stream(self, behaviour: Behaviour, request: Any, context: Any, caller: Caller) -> Any:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        with self._limits.stream(caller):
            self._streaming[task] = caller
            try:
                return await behaviour(request, context)
            except asyncio.CancelledError:
                if task not in self._withdrawn:
                    raise
                task.uncancel()
                raise Unauthenticated("what this client showed when the stream began no longer counts") from None
            finally:
                del self._streaming[task]
                self._withdrawn.discard(task)

    def _wrap(self, method: str, handler: Any) -> "Handler":
        name = method.removeprefix("/" + PACKAGE)
        allowed = frozenset(ALLOWED[name])
        decode = handler.request_deserializer
        streaming = handler.response_streaming
        behaviour = handler.unary_stream if streaming else handler.unary_unary
        metrics = self._metrics
        limit = self._max_message_bytes
        if self._traces is not None:
            behaviour = _traced(behaviour, name, self._traces)

        async def answer(raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            began = perf_counter()
            code = "OK"
            metrics.rpc_started(name)
            request_id = ""
            try:
                authorization, request_id = _read_metadata(context)
                context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
                caller = await self._authenticator.identify(authorization, lambda: _certificate_names(context))
                bind_contextvars(request_id=request_id, method=name, client=caller.client_id)
                self._limits.count_call(caller)
                if allowed.isdisjoint(caller.permissions):
                    raise PermissionDenied(" or ".join(ALLOWED[name]))
                _caller.set(caller)
                if len(raw) > limit:
                    raise MessageTooLarge(len(raw), limit)
                try:
                    request = decode(raw)
                except DecodeError:
                    raise unreadable() from None
                if streaming:
                    return await self._stream(behaviour, request, context, caller)
                return await behaviour(request, context)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except grpc.aio.BaseError:
                # The transport's own end of the call, as when the reader is gone.
                code = "CANCELLED"
                raise
            except Exception as error:
                status = status_of(error, request_id)
                if status is None:
                    _log.exception("an RPC failed for a reason of our own", method=name, request_id=request_id)
                    status = internal(request_id)
                elif not isinstance(error, RewardError):
                    _log.warning("the store failed an RPC", error=str(error), method=name, request_id=request_id)
                code = status.code.name
                await context.abort(status.code, status.message, status.trailing_metadata)
            finally:
                metrics.rpc_finished(name, code, None if streaming else perf_counter() - began)

        if streaming:
            # The behaviour writes bytes: an update is encoded once for all who stream it.
            return grpc.unary_stream_rpc_method_handler(answer)
        return grpc.unary_unary_rpc_method_handler(answer, response_serializer=handler.response_serializer)


def _read_metadata(context: grpc.aio.ServicerContext[Any, Any]) -> tuple[str | bytes | None, str]:
    authorization: str | bytes | None = None
    request_id = ""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            authorization = value
        elif key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            request_id = value
    if request_id and _says_too_much(request_id, authorization):
        request_id = ""
    return authorization, request_id or os.urandom(_REQUEST_ID_BYTES).hex()


def _says_too_much(request_id: str, authorization: str | bytes | None) -> bool:
    """Whether it is, or holds, what mustn't stand in a log: the caller's key or token, or somebody's number."""
    if sum(map(str.isdigit, request_id)) >= _NUMBER_DIGITS and not any(map(str.isalpha, request_id)):
        return True
    if not authorization:
        return False
    shown = authorization if isinstance(authorization, str) else authorization.decode("latin-1")
    token = shown.rpartition(" ")[2]
    if len(token) < _PART_OF_A_KEY:
        return False
    return token in request_id or (len(request_id) >= _PART_OF_A_KEY and request_id in shown)


def _traced(behaviour: Behaviour, name: str, traces: Traces) -> Behaviour:
    """The behaviour inside a span: of calls that were let in, strangers leave none."""

    async def traced(request: Any, context: Any) -> Any:
        request_id = str(get_contextvars().get("request_id", ""))
        metadata = context.invocation_metadata() or ()
        span = traces.rpc(name, metadata, client=current_caller().client_id, request_id=request_id)
        code = "OK"
        try:
            return await behaviour(request, context)
        except (asyncio.CancelledError, grpc.aio.BaseError):
            code = "CANCELLED"
            raise
        except Exception as error:
            code = (status_of(error, request_id) or internal(request_id)).code.name
            raise
        finally:
            if span is not None:
                span.end(code)

    return traced


def _certificate_names(context: grpc.aio.ServicerContext[Any, Any]) -> Iterable[str]:
    """The names in the client's certificate. gRPC has them only of one that it verified."""
    facts = context.auth_context()
    for key in ("x509_subject_alternative_name", "x509_common_name"):
        for name in facts.get(key, ()):
            yield name.decode(errors="replace")


def _refusal(method: str) -> "Handler":
    async def refuse(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        _, request_id = _read_metadata(context)
        status = unimplemented(request_id, method)
        await context.abort(status.code, status.message, status.trailing_metadata)

    return grpc.stream_stream_rpc_method_handler(refuse)
