"""A scenario: one product number whose orders always take the same, documented course.

Every supplier's file lists its scenarios as plain objects; the code there reads them and knows no product number.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Literal

from reward_sandbox.mint import Press

ProductKind = Literal["card", "coupon", "topup", "membership"]
Recipient = Literal["none", "phone", "qq", "account"]
Outcome = Literal["pending", "delivered", "failed"]
State = int | str
Card = dict[str, str]
"""One delivered item under the supplier's own field names."""
Shape = Callable[[Press], Card]


class Answer(Enum):
    """When the create call of an accepted order is answered."""

    NOW = "now"
    LATE = "late"
    """After `late_seconds`: the client has given up, the order exists."""
    NEVER = "never"
    """The connection stays open and silent: the order exists."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One state of an order on the supplier's side and how long it lasts."""

    state: State
    steps: float = 1.0
    """Lasts this many times `step_seconds` …"""
    looks: int = 0
    """… and until this many queries have seen it."""
    cards: bool = False
    """Whether queries show the cards."""
    refund: bool = False
    """Whether entering it pays everything back."""
    notify: bool = False
    """Whether entering it sends a callback."""
    outcome: Outcome = "pending"
    """What it means in words common to all suppliers; for the books only, never on the wire."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The supplier says no and books nothing."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The course of an order."""

    stages: tuple[Stage, ...] = ()
    shape: Shape | None = None
    """How a card of this product looks; None for top-ups."""
    answer: Answer = Answer.NOW
    refusal: Refusal | None = None
    garbled: Refusal | None = None
    """The order is accepted and charged, yet the answer is this error."""
    stock: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Scenario:
    """A product on sale in the sandbox."""

    name: str
    product: str
    """The supplier's product number."""
    title: str
    description: str
    kind: ProductKind
    face_value: Decimal
    unit_price: Decimal
    """What the supplier asks for one, before surcharges."""
    recipient: Recipient
    behaviour: Behaviour
    surcharge: Decimal = Decimal(0)
    """Rate on top of the price that the parameters below bring with them."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Adapter parameters of the offer, for the catalogue."""

    @property
    def unit_cost(self) -> Decimal:
        """All-in cost of one unit."""
        return self.unit_price * (1 + self.surcharge)
