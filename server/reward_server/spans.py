"""Traces in OpenTelemetry's form, sent to a collector over OTLP. Imported only where `[tracing]` names one.

What a span says is chosen here, value by value, and never copied from a request, an answer or an error: ids, names from
the configuration, words of ours. So no URL, header, body, recipient, card, key or token can get into one. The one thing
that a caller may have chosen is the request id, which is left out unless a machine made it by the look of it.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from time import monotonic, time_ns
from typing import Concatenate, ParamSpec, TypeVar

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from reward_server.domain.order import Order
from reward_server.store import PurchaseKey, Update
from reward_server.tracing import rpc_span

log = structlog.get_logger(__name__)

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

QUEUE_SPANS = 8_192
"""Spans that wait to be sent, some 2 KB each: what doesn't fit is dropped, the oldest first."""
BATCH_SPANS = 512
SEND_EVERY_MS = 1_000
"""How much of what was traced a crash takes along at most."""
SEND_SECONDS = 5.0
"""How long the collector may take for a batch, tries included; the thread that sends waits, and nobody else."""
CLOSE_SECONDS = 2.0
"""How long a stopping server waits for the collector to take what is left."""
QUIET_SECONDS = 300.0
"""Between two lines in the log about a collector that comes and goes."""

FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes that are the server's fault, as OpenTelemetry's conventions for gRPC count them."""
UNANSWERED = frozenset({"NotSent", "Timeout", "Unclear"})
"""Outcomes of exchanges that show as errors."""
CALLBACK = "callback"
"""The operation that the supplier began."""

MADE_ID = re.compile(r"[0-9A-Fa-f-]{16,36}|[0-9A-HJKMNP-TV-Z]{26}")
"""A request id of ours, a UUID or another in hex, or a ULID. A caller may put anything else into the others."""

PACKAGE = "rewardservice.v1."
_VERSION = "00"
_FROM_CLIENTS = TraceContextTextMapPropagator()


def _harmless(
    work: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], T | None]:
    """A defect here must cost a span, not an order: what calls is in the middle of one."""

    @wraps(work)
    def guarded(one: S, /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return work(one, *args, **kwargs)
        except Exception:
            log.exception("a span couldn't be made")
            return None

    return guarded


class Spans:
    """Makes spans and sends them, in a thread of its own."""

    def __init__(self, endpoint: str, sample_ratio: float, *, release: str) -> None:
        """`endpoint` is the origin of an OTLP/gRPC collector, `release` the version of this program."""
        # What it has to say about the collector it says again and again; `_Watched` says it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        self._exporter = _Watched(endpoint)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create({"service.name": "reward-server", "service.version": release}),
            shutdown_on_exit=False,
            meter_provider=NoOpMeterProvider(),
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=QUEUE_SPANS,
                schedule_delay_millis=SEND_EVERY_MS,
                max_export_batch_size=BATCH_SPANS,
                meter_provider=NoOpMeterProvider(),
            )
        )
        self._tracer = self._provider.get_tracer("reward_server", release)

    @_harmless
    def rpc(self, method: str, metadata: Iterable[tuple[str, str | bytes]], *, client: str, request_id: str) -> "_Call":
        """See `Traces`."""
        parent = next((value for key, value in metadata if key == "traceparent"), None)
        context = Context()
        if isinstance(parent, str):
            # Without `tracestate`, which may hold whatever other programs put there.
            context = _FROM_CLIENTS.extract({"traceparent": parent}, context)
        made = {"reward.request_id": request_id} if MADE_ID.fullmatch(request_id) else {}
        span = self._tracer.start_span(
            PACKAGE + method,
            context,
            SpanKind.SERVER,
            {"rpc.system.name": "grpc", "rpc.method": PACKAGE + method, "reward.client": client, **made},
        )
        call = _Call(self, span)
        rpc_span.set(call)
        return call

    @_harmless
    def exchanged(
        self,
        adapter: str,
        account: str,
        operation: str,
        outcome: str,
        seconds: float,
        *,
        key: PurchaseKey | None = None,
        traceparent: str = "",
    ) -> None:
        """See `Traces`."""
        about = {} if key is None else {"reward.order_id": key.order_id, "reward.purchase": key.number}
        self.made(
            f"{adapter or account} {operation}",
            SpanKind.SERVER if operation == CALLBACK else SpanKind.CLIENT,
            traceparent,
            time_ns() - int(seconds * 1e9),
            {"reward.account": account, "reward.operation": operation, "reward.outcome": outcome, **about},
            failed=outcome in UNANSWERED,
        )

    def made(
        self,
        name: str,
        kind: SpanKind,
        traceparent: str,
        began: int,
        attributes: Mapping[str, str | int],
        *,
        failed: bool = False,
        link: SpanContext | None = None,
    ) -> None:
        """A span that ends now. Times in nanoseconds since 1970; without a `traceparent` it is a trace of its own."""
        context = Context()
        if traceparent:
            context = set_span_in_context(NonRecordingSpan(_span_context(traceparent)), context)
        links = () if link is None else (Link(link),)
        span = self._tracer.start_span(name, context, kind, dict(attributes), links, start_time=began)
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end()

    async def close(self) -> None:
        """See `Traces`."""
        ending = asyncio.create_task(asyncio.to_thread(self._provider.shutdown))
        await asyncio.wait({ending}, timeout=CLOSE_SECONDS)
        self._exporter.give_up()
        with contextlib.suppress(Exception):
            await ending


class _Call:
    """One call of a client."""

    __slots__ = ("_span", "_spans", "traceparent")

    def __init__(self, spans: Spans, span: Span) -> None:
        self._spans = spans
        self._span = span
        self.traceparent = _traceparent(span.get_span_context()) if span.is_recording() else ""

    @_harmless
    def about(self, order: Order) -> None:
        """See `RpcSpan`. An order that another call made, long ago perhaps, is traced there: a link leads to it."""
        self._span.set_attribute("reward.order_id", order.order_id)
        if order.traceparent and order.traceparent != self.traceparent and self._span.is_recording():
            self._span.add_link(_span_context(order.traceparent))

    @_harmless
    def pushed(self, update: Update, began: int) -> None:
        """See `RpcSpan`."""
        order = update.order
        if order.traceparent:
            self._spans.made(
                "push update",
                SpanKind.PRODUCER,
                order.traceparent,
                began,
                {
                    "reward.order_id": order.order_id,
                    "reward.version": order.version,
                    "reward.order_state": str(order.state),
                    "reward.client": order.client_id,
                },
                link=self._span.get_span_context(),
            )

    @_harmless
    def end(self, code: str) -> None:
        """See `RpcSpan`."""
        self._span.set_attribute("rpc.response.status_code", code)
        if code in FAULTS:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class _Watched(SpanExporter):
    """Sends spans, and notes once when they don't arrive. Works in the thread that sends."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._exporter = OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http://"), timeout=SEND_SECONDS)
        self._lost = 0
        """Spans that didn't arrive since the log said so."""
        self._told = False
        self._told_at = -QUIET_SECONDS
        self._closing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends them, or loses them."""
        try:
            result = self._exporter.export(spans)
        except Exception:
            # Whatever its library makes of a collector that isn't one.
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._arrived()
        elif not self._closing:
            self._missed(len(spans))
        return result

    def _missed(self, spans: int) -> None:
        self._lost += spans
        if not self._told and monotonic() - self._told_at >= QUIET_SECONDS:
            log.warning("traces don't reach the collector", url=self._endpoint)
            self._told, self._told_at = True, monotonic()

    def _arrived(self) -> None:
        if self._told:
            log.info("traces reach the collector again", count=self._lost, url=self._endpoint)
            self._told, self._lost = False, 0

    def give_up(self) -> None:
        """Ends a send that is under way, and makes the rest fail at once."""
        self._closing = True
        self._exporter.shutdown()

    def shutdown(self) -> None:
        """Everything was sent, or nobody waits for it any more."""
        self.give_up()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is kept here."""
        return True


def _traceparent(context: SpanContext) -> str:
    return f"{_VERSION}-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _span_context(traceparent: str) -> SpanContext:
    """The call that an order remembers. Raises ValueError for what isn't from `_traceparent`."""
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
