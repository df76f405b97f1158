"""Metrics in the Prometheus format. `docs/operations.md` says what each one is good for.

One `Metrics` object has a registry of its own, so that tests and several servers in one process don't meet. The values
of labels are few and ours: accounts, methods, states, never ids or anything that a caller chooses.
"""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from reward_server.domain.moves import AlertKind
from reward_server.domain.order import OrderState

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

RPC_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SUPPLIER_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

M = TypeVar("M", Counter, Gauge, Histogram)


class _Labelled(Generic[M]):
    """A metric whose children are found by one dict access: prometheus_client locks and converts each time."""

    __slots__ = ("_children", "_metric")

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}

    def __call__(self, *labels: str) -> M:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metric.labels(*labels)
        return child


# A second series beside every counter that says when it was made; nobody asked for it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves this one untyped


class Metrics:
    """Everything that is counted and measured."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        info = Gauge(
            "reward_build_info", "Always 1; the labels say what runs.", ["version", "python"], registry=registry
        )
        info.labels(_version(), platform.python_version()).set(1)

        self._rpc_started = _Labelled(
            Counter("reward_rpc_started", "RPCs begun.", ["method"], registry=registry),
        )
        self._rpc_finished = _Labelled(
            Counter("reward_rpc_finished", "RPCs ended, by status code.", ["method", "code"], registry=registry)
        )
        self._rpc_seconds = _Labelled(
            Histogram(
                "reward_rpc_duration_seconds",
                "From the arrival of a unary RPC to its answer.",
                ["method"],
                buckets=RPC_SECONDS,
                registry=registry,
            )
        )
        self._supplier_calls = _Labelled(
            Counter(
                "reward_supplier_calls",
                "Exchanges with suppliers, by what was asked and what came out.",
                ["account", "operation", "result"],
                registry=registry,
            )
        )
        self._callbacks_refused = _Labelled(
            Counter(
                "reward_callbacks_refused",
                "Requests to the callback routes that got no answer, by reason.",
                ["account", "reason"],
                registry=registry,
            )
        )
        self._supplier_seconds = _Labelled(
            Histogram(
                "reward_supplier_call_duration_seconds",
                "From the request to a supplier to its whole answer.",
                ["account", "operation"],
                buckets=SUPPLIER_SECONDS,
                registry=registry,
            )
        )
        self._orders = _Labelled(
            Gauge("reward_orders", "Orders that are not final, by state.", ["state"], registry=registry)
        )
        self._order_transitions = _Labelled(
            Counter("reward_order_transitions", "Orders that came into a state.", ["state"], registry=registry)
        )
        self._purchases_in_flight = _Labelled(
            Gauge("reward_purchases_in_flight", "Purchases being sent right now.", ["account"], registry=registry)
        )
        self._account_paused = _Labelled(
            Gauge("reward_account_paused", "1 while nothing is bought at the account.", ["account"], registry=registry)
        )
        self._account_rests = _Labelled(
            Counter(
                "reward_account_rests",
                "Times that nothing was bought at the account for a while, by cause.",
                ["account", "cause"],
                registry=registry,
            )
        )
        self._supplier_balance = _Labelled(
            Gauge(
                "reward_supplier_balance_yuan",
                "What is left of our deposit with a supplier, as last heard.",
                ["account"],
                registry=registry,
            )
        )
        self._alerts = _Labelled(
            Counter("reward_alerts", "Things that an operator should look at, by kind.", ["kind"], registry=registry)
        )
        self.streams = Gauge("reward_streams", "Open streams of order updates.", registry=registry)
        self.stream_messages = Counter("reward_stream_messages", "Messages sent on streams.", registry=registry)
        self.updates_published = Counter(
            "reward_updates_published", "Order updates committed and handed to the streams.", registry=registry
        )
        self._store_commits = Counter("reward_store_commits", "Commits of the store.", registry=registry)
        self._store_batch = Histogram(
            "reward_store_batch_size", "Writes that shared a commit.", buckets=BATCH_SIZES, registry=registry
        )
        # A series that begins at its first event hides that event from an alert on its increase.
        for kind in AlertKind:
            self._alerts(kind)
        for state in OrderState:
            if not state.is_terminal:
                self._orders(state).set(0)

    def rpc_started(self, method: str) -> None:
        """An RPC began. `method` is one of ours, as in "RewardService/CreateOrder"."""
        self._rpc_started(method).inc()

    def rpc_finished(self, method: str, code: str, seconds: float | None = None) -> None:
        """An RPC ended. `seconds` for unary RPCs: a stream's duration says nothing."""
        self._rpc_finished(method, code).inc()
        if seconds is not None:
            self._rpc_seconds(method).observe(seconds)

    def supplier_called(self, account: str, operation: str, result: str, seconds: float | None = None) -> None:
        """An exchange ended; `result` is the outcome's name. The operations page lists the operations."""
        self._supplier_calls(account, operation, result).inc()
        if seconds is not None:
            self._supplier_seconds(account, operation).observe(seconds)

    def callback_refused(self, account: str, reason: str, *, times: int = 1) -> None:
        """A request to the callback routes got no answer; `account` is "" unless it is one of ours."""
        self._callbacks_refused(account, reason).inc(times)

    def order_moved(self, before: OrderState | None, after: OrderState) -> None:
        """An order changed its state; `before` is None for a new one."""
        if before is after:
            return
        if before is not None and not before.is_terminal:
            self._orders(before).dec()
        if not after.is_terminal:
            self._orders(after).inc()
        self._order_transitions(after).inc()

    def orders_found(self, counts: Mapping[OrderState, int]) -> None:
        """How many orders stand in each open state, as counted in the store."""
        for state in OrderState:
            if not state.is_terminal:
                self._orders(state).set(counts.get(state, 0))

    def purchases_in_flight(self, account: str) -> Gauge:
        """Purchases of the account that are being sent."""
        return self._purchases_in_flight(account)

    def account_paused(self, account: str, *, paused: bool) -> None:
        """An account was paused or resumed; called once at start too, so that the account is listed."""
        self._account_paused(account).set(paused)

    def account_rests(self, account: str, cause: str, *, times: int = 1) -> None:
        """An account began to rest. Called with 0 times for every cause at start."""
        self._account_rests(account, cause).inc(times)

    def supplier_balance(self, account: str, yuan: float) -> None:
        """A supplier told our balance."""
        self._supplier_balance(account).set(yuan)

    def store_committed(self, batch: int) -> None:
        """The store committed `batch` writes at once."""
        self._store_commits.inc()
        self._store_batch.observe(batch)

    def alert(self, kind: str) -> None:
        """Something happened that an operator should look at; `kind` is one of a few fixed words."""
        self._alerts(kind).inc()

    def render(self) -> bytes:
        """The text for Prometheus, of the type `CONTENT_TYPE`."""
        return generate_latest(self._registry)


def _version() -> str:
    try:
        return version("reward-service")
    except PackageNotFoundError:
        return "unknown"
