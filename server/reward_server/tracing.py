"""Traces: where the server says what belongs to which, and nothing of OpenTelemetry.

A trace begins with the call that creates an order; the order remembers that call (`Order.traceparent`), so that what
is done for it later, also after a restart or by another replica, joins it. Off, which is the default, there is no
`Traces` at all: every place that would tell one looks whether there is, and nothing is imported. `reward_server.spans`
is what there is when `[tracing]` names a collector.
"""

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Protocol

from reward_server.domain.order import Order
from reward_server.store import PurchaseKey, Update


class TracingMissing(Exception):
    """The packages that send traces aren't installed."""


class RpcSpan(Protocol):
    """One call of a client, while it runs."""

    @property
    def traceparent(self) -> str:
        """What an order made by it remembers; "" when the call isn't traced."""

    def about(self, order: Order) -> None:
        """The call is about this order."""

    def pushed(self, update: Update, began: int) -> None:
        """The call, a stream, wrote this update to its reader; `began` is in nanoseconds since 1970."""

    def end(self, code: str) -> None:
        """The call ended, with the name of a status code."""


class Traces(Protocol):
    """Hears what belongs into a trace. Nothing here raises, waits, or keeps anything from being done."""

    def rpc(
        self, method: str, metadata: Iterable[tuple[str, str | bytes]], *, client: str, request_id: str
    ) -> RpcSpan | None:
        """A call begins; `method` as in "RewardService/CreateOrder", `metadata` as it was sent.

        From now on it is what `current_rpc` returns in the same context.
        """

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
        """An exchange with a supplier ended just now; `key` and `traceparent` are those of the purchase that it was
        about, and of its order. Without them it is a trace of its own.
        """

    async def close(self) -> None:
        """Sends what is still there, for a moment."""


rpc_span: ContextVar[RpcSpan | None] = ContextVar("rpc_span", default=None)
"""The call that is being answered, if calls are traced."""


def current_rpc() -> RpcSpan | None:
    """The call that is being answered; None when nothing is traced."""
    return rpc_span.get()


def current_traceparent() -> str:
    """What an order made now remembers of the call that makes it."""
    span = rpc_span.get()
    return "" if span is None else span.traceparent


def open_traces(endpoint: str | None, sample_ratio: float, *, release: str) -> Traces | None:
    """What sends traces to a collector; None without one. Raises TracingMissing."""
    if endpoint is None:
        return None
    try:
        from reward_server.spans import Spans  # noqa: PLC0415 - an extra
    except ImportError:
        mend = "pip install 'reward-service[otel]'"
        raise TracingMissing(f"tracing.endpoint needs packages that aren't installed: {mend}") from None
    return Spans(endpoint, sample_ratio, release=release)
