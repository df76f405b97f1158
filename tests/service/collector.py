"""A collector of traces, as OpenTelemetry's protocol has it: keeps everything that it is sent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from ports import free_port


@dataclass(frozen=True)
class Seen:
    """One span that arrived."""

    name: str
    trace: str
    span: str
    parent: str
    """"" = none."""
    attributes: dict[str, str | int]
    links: tuple[str, ...]
    """The spans that it is linked to."""
    kind: int
    failed: bool
    seconds: float
    events: int

    def __getitem__(self, key: str) -> str | int:
        return self.attributes[f"reward.{key}"]


@dataclass
class Collector:
    """What arrived at a port."""

    port: int
    raw: bytearray = field(default_factory=bytearray)
    """Every byte of it."""
    spans: list[Seen] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def extra(self) -> str:
        """The lines of the configuration that send traces here."""
        return f'[tracing]\nendpoint = "http://127.0.0.1:{self.port}"\n'

    async def Export(self, request: Any, _context: Any) -> Any:
        """The one method of the protocol."""
        self.raw += request.SerializeToString()
        self.spans += [
            _seen(span) for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]
        self._news.set()
        self._news = asyncio.Event()
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str, **attributes: str | int) -> list[Seen]:
        """The spans of that name with these attributes, as they arrived."""
        wanted = {f"reward.{key}": value for key, value in attributes.items()}
        return [span for span in self.spans if span.name == name and wanted.items() <= span.attributes.items()]

    def of(self, trace: str) -> list[Seen]:
        """The spans of a trace."""
        return [span for span in self.spans if span.trace == trace]

    async def until(self, enough: Callable[[], object], seconds: float = 60.0) -> None:
        """Waits for spans until there are enough."""
        async with asyncio.timeout(seconds):
            while not enough():
                await self._news.wait()


def _seen(span: Span) -> Seen:
    return Seen(
        name=span.name,
        trace=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        attributes=dict(_values(span.attributes)),
        links=tuple(link.span_id.hex() for link in span.links),
        kind=span.kind,
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        events=len(span.events),
    )


def _values(attributes: Iterable[Any]) -> Iterable[tuple[str, str | int]]:
    for each in attributes:
        yield each.key, getattr(each.value, each.value.WhichOneof("value"))


@contextlib.asynccontextmanager
async def collecting(port: int | None = None) -> AsyncIterator[Collector]:
    """A collector on a port of its own, or on this one."""
    collector = Collector(port or free_port())
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    untyped: Any = trace_service_pb2_grpc
    untyped.add_TraceServiceServicer_to_server(collector, server)
    server.add_insecure_port(f"127.0.0.1:{collector.port}")
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)
