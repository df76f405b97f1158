"""Plays one scenario of the sandbox against the real server, over sockets, and compares what came of it."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from reward_sandbox import CANARY, Sandbox, SandboxSettings
from reward_sandbox.scenario import Control, Scenario
from reward_server.metrics import Metrics
from rewardservice.v1 import order_pb2

from .harness import OPERATOR, QUICK, Service, caller, service
from .money import differences
from .timelapse import LeapingClock, LeapingLoop

PATIENCE = 60.0
"""Seconds a scenario may take until the service has made of it what it should; far above what any needs."""

LOOKS_THAT_CHANGE_NOTHING = 3
"""A state that isn't final counts once so many looks have left it alone."""

LEAPS = 150
"""In so many leaps the time of a long scenario passes …"""
SHORTEST_LEAP = 6.0
"""… and that of a short one in fewer, of so many seconds."""
REST = 0.005
"""Seconds between two looks at whether something is under way: what a leap has made due has begun by then."""

LATE_SECONDS = 2.0
PATIENT = 5.0
"""A late answer comes after the read time-out of the test's accounts (1 s) and well before their patience ends."""

ORDINARY = {"phone": "13800138000", "qq": "10001000", "account": "player-one"}


@dataclass(frozen=True, slots=True)
class Played:
    """What became of one scenario; comparable without its service."""

    order: order_pb2.Order
    """In view FULL."""
    explained: order_pb2.Order
    """In view EXPLAINED, as the operator sees it."""
    books: dict[str, Any]
    """The supplier's own books."""
    creates: int
    """Create calls that the supplier saw."""
    codes: frozenset[str]
    """Codes and states that stood in the supplier's answers."""
    alerts: frozenset[str]
    timed_out: bool
    running: Service = field(repr=False)


@asynccontextmanager
async def play(
    kind: str, scenario: Scenario, folder: Path, *, product: str = "", recipient: str = ""
) -> AsyncIterator[Played]:
    """Orders what the scenario says and waits until nothing moves any more; the service is still up inside.

    `product` and `recipient` order another product with a magic recipient instead. On a loop that can leap, both sides
    live by its time, and the callback plan isn't shortened.
    """
    loop = asyncio.get_running_loop()
    clock = LeapingClock(loop) if isinstance(loop, LeapingLoop) else None
    sandbox = SandboxSettings(
        late_seconds=LATE_SECONDS,
        callback_scale=1.0 if clock else 0.01,
        # A leap isn't to close the connection that the next call takes.
        keepalive_seconds=1e9 if clock else 75.0,
        clock=clock.seconds if clock else time.time,
    )
    extra = "" if scenario.calls_back else '[callbacks]\npublic_url = ""\n'
    place: dict[str, Any] = {
        "accounts": {kind: {**QUICK, "answer_patience": PATIENT, **scenario.account}},
        "extra": extra,
        "kinds": (kind,),
        # Nobody asks for other products' forms, least of all in days that pass in seconds.
        "products": (product or f"{kind}/{scenario.name}",),
    }
    async with (
        service(folder, sandbox=sandbox, clock=clock, **place) as running,
        caller(running.place.grpc_port, OPERATOR) as operator,
    ):
        await control(running.sandbox, kind, scenario.controls)
        created = await running.client.create(
            product or f"{kind}/{scenario.name}",
            scenario.name,
            quantity=scenario.quantity,
            recipient=addressed(scenario, recipient),
            supplier_parameters=dict(scenario.form),
        )
        order_id = created.order.order_id
        await act(running, kind, scenario, order_id)
        if isinstance(loop, LeapingLoop):
            timed_out = not await lapse(loop, running, kind, scenario, order_id)
        else:
            timed_out = not await ends(running, kind, scenario, order_id)
        yield await look_around(running, kind, order_id, operator, timed_out)


async def look_around(running: Service, kind: str, order_id: str, operator: Any, timed_out: bool) -> Played:
    """Everything that a scenario is judged by."""
    return Played(
        order=await running.client.get(order_id),
        explained=await operator.get(order_id, "EXPLAINED"),
        books=running.sandbox.books(kind),
        creates=running.sandbox.desk(kind).creates,
        codes=frozenset(running.sandbox.desk(kind).codes_sent),
        alerts=alerts(running.app.metrics),
        timed_out=timed_out,
        running=running,
    )


def addressed(scenario: Scenario, recipient: str) -> order_pb2.Recipient | None:
    """The recipient that the product needs."""
    value = recipient or scenario.account_name or ORDINARY.get(scenario.recipient, "")
    match scenario.recipient:
        case "phone":
            return order_pb2.Recipient(phone=order_pb2.PhoneNumber(number=value))
        case "qq":
            return order_pb2.Recipient(qq=value)
        case "account":
            return order_pb2.Recipient(account=value)
        case _:
            return None


async def control(sandbox: Sandbox, kind: str, controls: tuple[Control, ...]) -> None:
    """Tells the sandbox what the control API would be told."""
    for one in controls:
        await sandbox.order(kind, one.action, **one.body)


async def act(running: Service, kind: str, scenario: Scenario, order_id: str) -> None:
    """What the client and the supplier do once the order is under way."""
    if scenario.cancel:
        await running.client.until(order_id, lambda order: state(order) != "accepted")
        await running.client.cancel(order_id)
    if scenario.after:
        await running.client.until(order_id, lambda order: state(order) == scenario.after_state)
        await control(running.sandbox, kind, scenario.after)


async def lapse(loop: LeapingLoop, running: Service, kind: str, scenario: Scenario, order_id: str) -> bool:
    """Lets the scenario's time pass in leaps, never while something is on the wire; then it must be as expected."""
    desk = running.sandbox.desk(kind)
    bought = len((await running.client.get(order_id, "EXPLAINED")).purchases)
    begun = min(bought, scenario.expect.requests)
    answered = -1
    leaps = min(LEAPS, math.ceil(scenario.lapse / SHORTEST_LEAP))
    for _ in range(leaps):
        # A leap in the middle of an exchange, or before the first one, would be its time-out.
        while busy(running, kind) or desk.codes_sent.total() != answered or desk.creates < begun:
            answered = desk.codes_sent.total()
            await asyncio.sleep(REST)
        answered = -1
        loop.leap(scenario.lapse / leaps)
    return await ends(running, kind, scenario, order_id)


def busy(running: Service, kind: str) -> bool:
    """Whether something is on the wire, or about to be: at either side."""
    engine = running.app.engine
    asks = any(watch.busy for watch in engine._looks._watches.values())
    return asks or bool(engine._accounts[kind].in_flight) or not running.sandbox.desk(kind).quiet


async def ends(running: Service, kind: str, scenario: Scenario, order_id: str) -> bool:
    """Waits until the order is as expected and nothing moves any more; False when the time is over."""
    desk = running.sandbox.desk(kind)
    deadline = time.monotonic() + PATIENCE
    looks_before: int | None = None
    while time.monotonic() < deadline:
        # The stream would wake us for the order, but not for the supplier's side of it.
        await asyncio.sleep(0.05)
        order = await running.client.get(order_id)
        if told(order) != expected_words(scenario) or not desk.idle:
            looks_before = None
            continue
        if order.HasField("settled_time") or scenario.expect.state not in QUERIED or kind in WITHOUT_QUERY:
            return True
        looks = looks_made(running.app.metrics, kind)
        looks_before = looks if looks_before is None else looks_before
        if looks - looks_before >= LOOKS_THAT_CHANGE_NOTHING:
            return True
    return False


QUERIED = frozenset({"accepted", "processing", "outcome_unknown"})
"""States in which looks go on."""
WITHOUT_QUERY = frozenset({"kuaiduibao"})


def state(order: order_pb2.Order) -> str:
    """In lower case, without prefix."""
    return order_pb2.OrderState.Name(order.state).removeprefix("ORDER_STATE_").lower()


def told(order: order_pb2.Order) -> dict[str, Any]:
    """What the client is told, in the words of `Expect`."""
    failure = order_pb2.FailureReason.Name(order.failure.reason) if order.HasField("failure") else ""
    reviews = {order_pb2.ReviewReason.Name(reason) for reason in order.review_reasons}
    after_sale = order_pb2.AfterSale.Name(order.after_sale).removeprefix("AFTER_SALE_").lower()
    return {
        "state": state(order),
        "failure": failure.removeprefix("FAILURE_REASON_").lower(),
        "cards": len(order.cards),
        "reviews": sorted(name.removeprefix("REVIEW_REASON_").lower() for name in reviews),
        "after_sale": "" if after_sale == "unspecified" else after_sale,
    }


def expected_words(scenario: Scenario) -> dict[str, Any]:
    """The part of `Expect` that the client is told."""
    expect = scenario.expect
    return {
        "state": expect.state,
        "failure": expect.failure,
        "cards": expect.cards,
        "reviews": sorted(expect.reviews),
        "after_sale": expect.after_sale,
    }


def outcome(played: Played) -> dict[str, Any]:
    """Everything that `Expect` speaks of, as it came out."""
    bought = played.books["orders"]
    charged = [order for order in bought if Decimal(order["charged"])]
    callbacks = sorted((attempt for order in bought for attempt in order["callbacks"]), key=lambda one: one["at"])
    return {
        **told(played.order),
        "charges": len(charged),
        "refunds": sum(order["refunded"] == order["charged"] for order in charged),
        "requests": played.creates,
        "alerts": sorted(played.alerts),
        "callbacks": [attempt["accepted"] for attempt in callbacks],
        "cards nobody sold": foreign_cards(played),
        "cards told to the operator": CANARY in str(played.explained),
        "money that doesn't add up": differences(played.explained, numbered(played)),
    }


def numbered(played: Played) -> list[dict[str, Any]]:
    """The books under the numbers that the order knows: where it has but one purchase, a proxy on the way may have
    written the number anew.
    """
    numbers = [purchase.number for purchase in played.explained.purchases]
    changed = {"number": numbers[0]} if len(numbers) == 1 else {}
    return [{**entry, **changed} for entry in played.books["orders"]]


def foreign_cards(played: Played) -> int:
    """How many of the cards that the client sees hold a text that doesn't stand in the supplier's books."""
    sold = [value for order in played.books["orders"] for card in order["cards"] for value in card.values() if value]
    shown = [[card.number, card.secret, card.link, card.qr.content, card.qr.image_url] for card in played.order.cards]
    # Some shops put number and password into one text.
    return sum(not all(any(value in text for value in sold) for text in texts if text) for texts in shown)


def expectation(scenario: Scenario) -> dict[str, Any]:
    """Everything that `Expect` says."""
    expect = scenario.expect
    return {
        **expected_words(scenario),
        "charges": expect.charges,
        "refunds": expect.refunds,
        "requests": expect.requests,
        "alerts": sorted(expect.alerts),
        "callbacks": list(expect.callbacks),
        "cards nobody sold": 0,
        "cards told to the operator": False,
        "money that doesn't add up": [],
    }


def story(played: Played) -> str:
    """What the operator sees of it, for a failed test."""
    lines = []
    for purchase in played.explained.purchases:
        lines.append(f"purchase {purchase.number}: {order_pb2.PurchaseState.Name(purchase.state)}")
        lines += [f"  {entry.source}: {entry.outcome} {entry.detail}" for entry in purchase.evidence]
    return "\n".join([*lines, f"refusals: {played.books['refusals']}", f"codes: {sorted(played.codes)}"])


def samples(metrics: Metrics, name: str) -> dict[str, float]:
    """The values of one metric, by its labels' text."""
    found = {}
    for line in metrics.render().decode().splitlines():
        if line.startswith(f"{name}{{"):
            labels, _, value = line.removeprefix(name).rpartition(" ")
            found[labels] = float(value)
    return found


def alerts(metrics: Metrics) -> frozenset[str]:
    """The kinds of alerts that were raised."""
    raised = samples(metrics, "reward_alerts_total")
    return frozenset(labels.split('"')[1] for labels, value in raised.items() if value)


def looks_made(metrics: Metrics, account: str) -> int:
    """How many questions an account was asked."""
    asked = samples(metrics, "reward_supplier_calls_total")
    return int(sum(n for labels, n in asked.items() if f'"{account}"' in labels and '"query"' in labels))
