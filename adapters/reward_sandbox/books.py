"""The supplier's own books: what was bought, charged, delivered, paid back, and which callbacks were sent.

They are the judge in "bought exactly once" tests, so every acceptance is an entry of its own: two charges under one
number are two orders here, never one order with a counter.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from decimal import Decimal
from typing import Any, Self

from reward_sandbox.mint import Mint, Press
from reward_sandbox.scenario import Card, Outcome, Scenario, Stage, State
from reward_sandbox.wire import yuan


@dataclass(slots=True)
class CallbackAttempt:
    """One callback sent, and how it was answered."""

    at: float
    url: str
    body: str
    status: int | None = None
    """HTTP status; None when no answer came."""
    answer: str = ""
    accepted: bool = False
    """Whether it was the exact answer the supplier documents."""

    def as_json(self) -> dict[str, object]:
        return {
            "at": self.at,
            "url": self.url,
            "body": self.body,
            "status": self.status,
            "answer": self.answer,
            "accepted": self.accepted,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """From `as_json`."""
        return cls(**state)


@dataclass(slots=True)
class Order:
    """One purchase as the supplier sees it."""

    number: str
    supplier_number: str
    scenario: Scenario
    quantity: int
    recipient: str
    charged: Decimal
    accepted_at: float
    updated_at: float
    cards: list[Card]
    card_numbers: list[str]
    """The supplier's own number of each card, where it gives one."""
    details: dict[str, str]
    """Request fields the supplier needs later (callback URL, warranty, …)."""
    stage: Stage
    refunded: Decimal = Decimal(0)
    looks: int = 0
    """Queries that saw the present stage."""
    closed: bool = False
    """The course was ended from outside (cancelled, confirmed)."""
    answering: bool = True
    """The create call is still open."""
    answered_at: float | None = None
    settled_at: float | None = None
    callbacks: list[CallbackAttempt] = field(default_factory=list)
    notices: int = 0
    """Callbacks on their way: neither acknowledged nor given up."""
    calls: "Counter[str]" = field(default_factory=Counter)
    """How many calls of each sort were about it."""
    seen: "asyncio.Future[None] | None" = None
    """Set while the course waits for queries to see the present stage."""

    @property
    def state(self) -> State:
        return self.stage.state

    @property
    def outcome(self) -> Outcome:
        return self.stage.outcome

    @property
    def delivered(self) -> list[Card]:
        """The cards that queries show by now."""
        return self.cards[: self.stage.shown] if self.stage.cards else []

    @property
    def course_place(self) -> int | None:
        """Which stage of the scenario's course it is in; None when it has left that."""
        stages = self.scenario.behaviour.stages
        return next((place for place, stage in enumerate(stages) if stage is self.stage), None)

    def as_state(self) -> dict[str, object]:
        """Everything that a later run needs."""
        return {
            "number": self.number,
            "supplier_number": self.supplier_number,
            "product": self.scenario.product,
            "scenario": self.scenario.name,
            "quantity": self.quantity,
            "recipient": self.recipient,
            "charged": str(self.charged),
            "accepted_at": self.accepted_at,
            "updated_at": self.updated_at,
            "cards": self.cards,
            "card_numbers": self.card_numbers,
            "details": self.details,
            "stage": _plain(self.stage) if self.course_place is None else self.course_place,
            "refunded": str(self.refunded),
            "looks": self.looks,
            "closed": self.closed,
            "answered_at": self.answered_at,
            "settled_at": self.settled_at,
            "callbacks": [attempt.as_json() for attempt in self.callbacks],
            "notices": self.notices,
            "calls": self.calls,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], choose: Callable[[str, str], Scenario]) -> Self:
        """From `as_state`; the create call went with the run that had it open. `choose` takes product and name."""
        scenario = choose(state["product"], state["scenario"])
        place = state["stage"]
        changed = {
            "scenario": scenario,
            "stage": scenario.behaviour.stages[place] if isinstance(place, int) else _stage(place),
            "calls": Counter(state["calls"]),
            "charged": Decimal(state["charged"]),
            "refunded": Decimal(state["refunded"]),
            "callbacks": [CallbackAttempt.from_state(attempt) for attempt in state["callbacks"]],
            "answering": False,
        }
        return cls(**{**{name: value for name, value in state.items() if name != "product"}, **changed})

    def as_json(self, requests: int) -> dict[str, object]:
        return {
            "number": self.number,
            "supplier_number": self.supplier_number,
            "product": self.scenario.product,
            "scenario": self.scenario.name,
            "quantity": self.quantity,
            "recipient": self.recipient,
            "charged": yuan(self.charged),
            "refunded": yuan(self.refunded),
            "delivered": self.delivered,
            "cards": self.cards,
            "state": self.state,
            "outcome": self.outcome,
            "requests": requests,
            "callbacks": [attempt.as_json() for attempt in self.callbacks],
            "times": {
                "accepted": self.accepted_at,
                "answered": self.answered_at,
                "updated": self.updated_at,
                "settled": self.settled_at,
            },
        }


def _plain(stage: Stage) -> dict[str, object]:
    """A stage that is no part of a course; only courses have entries of their own."""
    fields = {spec.name: getattr(stage, spec.name) for spec in dataclass_fields(stage) if spec.name != "entry"}
    return {**fields, "refund": str(stage.refund)}


def _stage(state: Mapping[str, Any]) -> Stage:
    return Stage(**{**state, "refund": Decimal(state["refund"]), "callbacks": tuple(state["callbacks"])})


class Book:
    """All orders and the deposit of one supplier."""

    def __init__(self, *, balance: Decimal, mint: Mint, clock: Callable[[], float]) -> None:
        self._start_balance = balance
        self._mint = mint
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Back to an empty book and the first deposit."""
        self.balance = self._start_balance
        self.orders: list[Order] = []
        self.requests: Counter[str] = Counter()
        self.refusals: list[dict[str, object]] = []
        self._by_number: dict[str, list[Order]] = {}
        self._by_supplier_number: dict[str, Order] = {}
        self._sold: Counter[str] = Counter()
        self.stocks: dict[str, int] = {}
        """Stocks set by hand, by product."""

    def stock(self, scenario: Scenario) -> int:
        """How many are left."""
        return self.stocks.get(scenario.product, scenario.behaviour.stock) - self._sold[scenario.product]

    def under(self, number: str) -> list[Order]:
        """Every order under our number, oldest first; an empty number names none."""
        return self._by_number.get(number, []) if number else []

    def by_supplier_number(self, number: str) -> Order | None:
        return self._by_supplier_number.get(number)

    def buy(
        self,
        scenario: Scenario,
        *,
        number: str,
        quantity: int,
        recipient: str,
        charged: Decimal,
        name_order: Callable[[Press], str],
        name_card: Callable[[Press], str] | None = None,
        details: dict[str, str] | None = None,
    ) -> Order:
        """Charge the deposit and enter the order; the caller has checked stock, balance and price."""
        press = self._mint.press(number, len(self._by_number.get(number, [])))
        supplier_number = name_order(press)
        while supplier_number in self._by_supplier_number:
            supplier_number = name_order(press)
        shape = scenario.behaviour.shape
        cards = [shape(press) for _ in range(quantity)] if shape else []
        now = self._clock()
        order = Order(
            number=number,
            supplier_number=supplier_number,
            scenario=scenario,
            quantity=quantity,
            recipient=recipient,
            charged=charged,
            accepted_at=now,
            updated_at=now,
            cards=cards,
            card_numbers=[name_card(press) for _ in cards] if name_card else [],
            details=details or {},
            stage=scenario.behaviour.stages[0],
        )
        self.balance -= charged
        self._file(order)
        return order

    def _file(self, order: Order) -> None:
        self._sold[order.scenario.product] += order.quantity
        self._by_number.setdefault(order.number, []).append(order)
        self._by_supplier_number[order.supplier_number] = order
        self.orders.append(order)

    def enter(self, order: Order, stage: Stage) -> None:
        """Move an order into a stage."""
        now = self._clock()
        order.stage = stage
        order.looks = 0
        order.updated_at = now
        owed = order.charged * stage.refund - order.refunded
        if owed > 0:
            order.refunded += owed
            self.balance += owed
        if stage.outcome != "pending" and order.settled_at is None:
            order.settled_at = now

    def refuse(self, number: str, reason: str) -> None:
        """Note a create call that bought nothing."""
        self.refusals.append({"number": number, "reason": reason, "at": self._clock()})

    def as_state(self) -> dict[str, object]:
        """Everything that a later run needs."""
        return {
            "balance": str(self.balance),
            "orders": [order.as_state() for order in self.orders],
            "requests": self.requests,
            "refusals": self.refusals,
        }

    def restore(self, state: Mapping[str, Any], choose: Callable[[str, str], Scenario]) -> None:
        """Take over the book of a former run."""
        self.reset()
        self.balance = Decimal(state["balance"])
        self.requests.update(state["requests"])
        self.refusals += state["refusals"]
        for order in state["orders"]:
            self._file(Order.from_state(order, choose))

    def as_json(self) -> dict[str, object]:
        """`{"orders": […], "balance": "…", "refusals": […]}`, money as decimal yuan."""
        return {
            "orders": [order.as_json(self.requests[order.number]) for order in self.orders],
            "balance": yuan(self.balance),
            "refusals": self.refusals,
        }
