"""Metrics in the Prometheus format. `docs/operations.md` says what each one is good for.

One `Metrics` object has a registry of its own, so that tests and several servers in one process don't meet. The values
of labels are few and ours: accounts, methods, states, never ids or anything that a caller chooses.
"""

import platform
from collections.abc import Callable, Mapping
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from reward_server.domain.moves import AlertKind
from reward_server.domain.order import OrderState

__all__ = ["AUDIT_LOST", "CONTENT_TYPE", "Metrics", "Sealed", "StreamEnd"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

RPC_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SUPPLIER_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DELAY_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

AUDIT_LOST = "audit_lost"
"""The alert that no order causes: entries of the audit had to be dropped."""
SEALED_KINDS = ("card", "answer", "callback", "token", "secret")
"""What is sealed."""


class StreamEnd(StrEnum):
    """Why a stream of updates ended."""

    COMPLETE = "complete"
    """All orders that it named are terminal, as its reader wished."""
    CANCELLED = "cancelled"
    """Its reader left, its connection broke, or its key no longer counts."""
    TOO_SLOW = "too_slow"
    """Its reader took nothing for a minute."""
    DRAINING = "draining"
    """The server ends, or has lost its store: clients go elsewhere."""
    AGED = "aged"
    """It was as old as a connection may become."""
    LOG_PRUNED = "log_pruned"
    """Its reader was so far behind that the updates were pruned before it read them."""
    FAILED = "failed"
    """The store failed, or we did."""


class Sealed(StrEnum):
    """What was done with something sealed."""

    SEALED = "sealed"
    OPENED = "opened"
    UNOPENED = "unopened"
    """It didn't open: its key is gone, or it was changed."""
    RESEALED = "resealed"
    """Under a newer key."""
    ERASED = "erased"
    """Its time was over."""


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
        self._oldest_order = _Labelled(
            Gauge(
                "reward_oldest_order_seconds",
                "Age of the oldest order in each state that is not final; 0 when there is none.",
                ["state"],
                registry=registry,
            )
        )
        self._reviews = Gauge("reward_reviews", "Orders that a person should look at.", registry=registry)
        self._oldest_review = Gauge(
            "reward_oldest_review_seconds",
            "How long the one of them has waited that waits longest; 0 when there is none.",
            registry=registry,
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
        self._account_resting = _Labelled(
            Gauge("reward_account_resting", "1 while the account rests for a moment.", ["account"], registry=registry)
        )
        self._account_doubts = _Labelled(
            Gauge(
                "reward_account_doubts",
                "Purchases in a row that the supplier left without a clear answer; from 3 on the account rests.",
                ["account"],
                registry=registry,
            )
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
        self._streams_ended = _Labelled(
            Counter(
                "reward_streams_ended", "Streams of order updates that ended, by cause.", ["cause"], registry=registry
            )
        )
        self._stream_lag = Gauge(
            "reward_stream_lag_updates",
            "Updates that the reader furthest behind has not been sent.",
            registry=registry,
        )
        self._stream_delay = Histogram(
            "reward_stream_delay_seconds",
            "From the making of an update to its being written to a reader; of updates written together the oldest.",
            buckets=DELAY_SECONDS,
            registry=registry,
        )
        self.updates_published = Counter(
            "reward_updates_published", "Order updates committed and handed to the streams.", registry=registry
        )
        self._store_commits = Counter("reward_store_commits", "Commits of the store.", registry=registry)
        self._store_batch = Histogram(
            "reward_store_batch_size", "Writes that shared a commit.", buckets=BATCH_SIZES, registry=registry
        )
        self._store_seconds = Histogram(
            "reward_store_commit_duration_seconds",
            "From the beginning of a commit's transaction to its being on disk.",
            buckets=COMMIT_SECONDS,
            registry=registry,
        )
        self._sealed = _Labelled(
            Counter(
                "reward_sealed_values",
                "Cards and other values sealed, opened, not opened, sealed again and erased.",
                ["operation", "kind"],
                registry=registry,
            )
        )
        self._ready = Gauge("reward_ready", "1 while the server takes orders.", registry=registry)
        # A series that begins at its first event hides that event from an alert on its increase.
        for kind in (*AlertKind, AUDIT_LOST):
            self._alerts(kind)
        for state in OrderState:
            self._order_transitions(state)
            if not state.is_terminal:
                self._orders(state).set(0)
                self._oldest_order(state).set(0)
        for cause in StreamEnd:
            self._streams_ended(cause)
        for operation in Sealed:
            for what in SEALED_KINDS:
                self._sealed(operation, what)

    def rpc_expected(self, method: str) -> None:
        """There is such a method: what an alert is to notice from the first time on is listed."""
        self._rpc_started(method)
        for code in ("OK", "INTERNAL", "UNAVAILABLE"):
            self._rpc_finished(method, code)

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

    def oldest_found(self, orders: Mapping[OrderState, float], reviews: int, review: float) -> None:
        """Seconds of age, as found in the store: of the oldest order in each open state, and of the oldest of the
        `reviews` orders that a person should look at.
        """
        for state in OrderState:
            if not state.is_terminal:
                self._oldest_order(state).set(orders.get(state, 0.0))
        self._reviews.set(reviews)
        self._oldest_review.set(review)

    def purchases_in_flight(self, account: str) -> Gauge:
        """Purchases of the account that are being sent."""
        return self._purchases_in_flight(account)

    def account_paused(self, account: str, *, paused: bool) -> None:
        """An account was paused or resumed; called once at start too, so that the account is listed."""
        self._account_paused(account).set(paused)

    def account_rests(self, account: str, cause: str, *, times: int = 1) -> None:
        """An account began to rest. Called with 0 times for every cause at start."""
        self._account_rests(account, cause).inc(times)

    def watch_account(self, account: str, *, resting: Callable[[], bool], doubts: Callable[[], int]) -> None:
        """Asks these two whenever the metrics are read."""
        self._account_resting(account).set_function(resting)
        self._account_doubts(account).set_function(doubts)

    def supplier_balance(self, account: str, yuan: float) -> None:
        """A supplier told our balance."""
        self._supplier_balance(account).set(yuan)

    def stream_ended(self, cause: StreamEnd) -> None:
        """A stream of order updates ended."""
        self._streams_ended(cause).inc()

    def stream_delayed(self, milliseconds: int) -> None:
        """Updates were written to a reader so long after the oldest of them was made."""
        self._stream_delay.observe(max(0.0, milliseconds / 1000))

    def watch_streams(self, lag: Callable[[], int]) -> None:
        """Asks how many updates the reader furthest behind lacks, whenever the metrics are read."""
        self._stream_lag.set_function(lag)

    def store_committed(self, batch: int, seconds: float) -> None:
        """The store committed `batch` writes at once."""
        self._store_commits.inc()
        self._store_batch.observe(batch)
        self._store_seconds.observe(seconds)

    def sealed(self, operation: Sealed, kind: str, /, *, times: int = 1) -> None:
        """Something was sealed, opened, …; `kind` is one of `SEALED_KINDS`."""
        self._sealed(operation, kind).inc(times)

    def watch_readiness(self, why_not: Callable[[], str]) -> None:
        """Asks why calls had better go elsewhere ("" when they are welcome), whenever the metrics are read."""
        self._ready.set_function(lambda: not why_not())

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
