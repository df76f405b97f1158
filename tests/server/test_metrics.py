"""Metrics: what is counted comes out, and the documentation knows all of it."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reward_server.domain.order import OrderState
from reward_server.metrics import CONTENT_TYPE, Metrics

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def test_rpcs() -> None:
    """RPCs are counted when they begin and by code when they end; streams have no duration."""
    metrics = Metrics()
    metrics.rpc_started("S/Create")
    metrics.rpc_started("S/Create")
    metrics.rpc_finished("S/Create", "OK", 0.003)
    metrics.rpc_finished("S/Stream", "CANCELLED")
    assert value(metrics, "reward_rpc_started_total", method="S/Create") == 2
    assert value(metrics, "reward_rpc_finished_total", method="S/Create", code="OK") == 1
    assert value(metrics, "reward_rpc_duration_seconds_bucket", method="S/Create", le="0.005") == 1
    assert value(metrics, "reward_rpc_duration_seconds_bucket", method="S/Create", le="0.0025") == 0
    assert value(metrics, "reward_rpc_duration_seconds_count", method="S/Stream") is None


def test_supplier_calls() -> None:
    """Exchanges are counted by what came out; callbacks have no duration."""
    metrics = Metrics()
    metrics.supplier_called("kss_a", "place", "accepted", 45)
    metrics.supplier_called("kss_a", "callback", "recorded")
    place = {"account": "kss_a", "operation": "place"}
    assert value(metrics, "reward_supplier_calls_total", **place, result="accepted") == 1
    assert value(metrics, "reward_supplier_call_duration_seconds_sum", **place) == 45
    assert value(metrics, "reward_supplier_calls_total", account="kss_a", operation="callback", result="recorded") == 1


def test_orders_move() -> None:
    """The gauge counts orders that aren't final, the counter every arrival in a state; staying is no move."""
    metrics = Metrics()
    metrics.orders_found({OrderState.PROCESSING: 5})
    metrics.order_moved(None, OrderState.ACCEPTED)
    metrics.order_moved(OrderState.ACCEPTED, OrderState.PROCESSING)
    metrics.order_moved(OrderState.PROCESSING, OrderState.PROCESSING)
    metrics.order_moved(OrderState.PROCESSING, OrderState.FULFILLED)
    assert value(metrics, "reward_orders", state="accepted") == 0
    assert value(metrics, "reward_orders", state="processing") == 5
    assert value(metrics, "reward_orders", state="fulfilled") is None
    assert value(metrics, "reward_order_transitions_total", state="processing") == 1
    assert value(metrics, "reward_order_transitions_total", state="fulfilled") == 1


def test_open_states_are_listed_from_the_start() -> None:
    """An alert on `needs_review` needs a zero before there is a one."""
    assert value(Metrics(), "reward_orders", state="needs_review") == 0


def test_the_rest() -> None:
    """Accounts, streams, commits, alerts and the build."""
    metrics = Metrics()
    metrics.purchases_in_flight("a").inc()
    metrics.account_paused("a", paused=True)
    metrics.streams.inc()
    metrics.stream_messages.inc(3)
    metrics.updates_published.inc()
    metrics.store_committed(5, 0.004)
    metrics.alert("overcharged")
    metrics.supplier_balance("a", 348.7)
    assert value(metrics, "reward_purchases_in_flight", account="a") == 1
    assert value(metrics, "reward_account_paused", account="a") == 1
    assert value(metrics, "reward_stream_messages_total") == 3
    assert value(metrics, "reward_store_batch_size_bucket", le="8.0") == 1
    assert value(metrics, "reward_store_batch_size_bucket", le="4.0") == 0
    assert value(metrics, "reward_store_commit_duration_seconds_bucket", le="0.005") == 1
    assert value(metrics, "reward_store_commit_duration_seconds_bucket", le="0.0025") == 0
    assert value(metrics, "reward_alerts_total", kind="overcharged") == 1
    assert value(metrics, "reward_supplier_balance_yuan", account="a") == 348.7
    assert b"reward_build_info{" in metrics.render()
    assert CONTENT_TYPE.startswith("text/plain")


def test_the_oldest() -> None:
    """States without an order have no age; what was found the last time is forgotten."""
    metrics = Metrics()
    metrics.oldest_found({OrderState.ACCEPTED: 12.5}, 2, 60.0)
    assert value(metrics, "reward_oldest_order_seconds", state="accepted") == 12.5
    assert value(metrics, "reward_oldest_order_seconds", state="fulfilled") is None
    assert (value(metrics, "reward_reviews"), value(metrics, "reward_oldest_review_seconds")) == (2, 60)
    metrics.oldest_found({}, 0, 0.0)
    assert value(metrics, "reward_oldest_order_seconds", state="accepted") == 0
    assert (value(metrics, "reward_reviews"), value(metrics, "reward_oldest_review_seconds")) == (0, 0)


def test_what_is_asked_when_the_metrics_are_read() -> None:
    """Readiness, lag and accounts are as they are at that moment."""
    metrics = Metrics()
    resting, doubts, lag, why_not = [False], [0], [0], [""]
    metrics.watch_account("a", resting=lambda: resting[0], doubts=lambda: doubts[0])
    metrics.watch_streams(lambda: lag[0])
    metrics.watch_readiness(lambda: why_not[0])

    def read() -> list[float | None]:
        accounts = [value(metrics, f"reward_account_{what}", account="a") for what in ("resting", "doubts")]
        return [*accounts, value(metrics, "reward_stream_lag_updates"), value(metrics, "reward_ready")]

    assert read() == [0, 0, 0, 1]
    resting[0], doubts[0], lag[0], why_not[0] = True, 3, 70, "draining"
    assert read() == [1, 3, 70, 0]


def test_what_alerts_watch_is_listed_before_it_happens() -> None:
    """An increase from nothing to one is none."""
    metrics = Metrics()
    metrics.rpc_expected("S/Create")
    assert value(metrics, "reward_rpc_finished_total", method="S/Create", code="INTERNAL") == 0
    assert value(metrics, "reward_order_transitions_total", state="failed") == 0
    assert value(metrics, "reward_alerts_total", kind="audit_lost") == 0
    assert value(metrics, "reward_streams_ended_total", cause="too_slow") == 0
    assert value(metrics, "reward_sealed_values_total", operation="unopened", kind="card") == 0


def test_registries_are_apart() -> None:
    """Two servers in one process don't meet."""
    first, second = Metrics(), Metrics()
    first.alert("x")
    assert value(second, "reward_alerts_total", kind="x") is None


def every_name() -> list[str]:
    text = Metrics().render().decode()
    return sorted({name for name in re.findall(r"^# TYPE (reward_\w+)", text, re.MULTILINE) if "_created" not in name})


@pytest.mark.parametrize("name", every_name())
def test_every_metric_is_documented(name: str) -> None:
    """The operations page says what each metric is good for."""
    assert f"`{name}`" in PAGE.read_text("utf-8")
