"""A scenario: one product number whose orders always take the same, documented course.

Every supplier's file lists its scenarios as plain objects; the code there reads them and knows no product number.
What a scenario shows, how it is chosen and what the service should make of it stand beside each other: the handbook
(docs/sandbox.md) and the tests are made from the same objects.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from reward_sandbox.faults import Call, Fault
from reward_sandbox.mint import Press

ProductKind = Literal["card", "coupon", "topup", "membership"]
Recipient = Literal["none", "phone", "qq", "account"]
Outcome = Literal["pending", "delivered", "failed"]
State = int | str
Card = dict[str, str]
"""One delivered item under the supplier's own field names."""
Shape = Callable[[Press], Card]

GENUINE = "genuine"
"""The callback as the supplier sends it; other names are forgeries and oddities that a supplier's file knows."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One state of an order on the supplier's side and how long it lasts."""

    state: State
    steps: float = 1.0
    """Lasts this many times `step_seconds` …"""
    seconds: float = 0.0
    """… plus so many seconds of the sandbox's time …"""
    looks: int = 0
    """… and until this many queries have seen it."""
    cards: bool = False
    """Whether queries show the cards."""
    shown: int | None = None
    """How many of them; None: all."""
    refund: Decimal = Decimal(0)
    """Which share of the charge has been paid back in it."""
    callbacks: tuple[str, ...] = ()
    """The callbacks that entering it sends, one after another."""
    outcome: Outcome = "pending"
    """What it means in words common to all suppliers; for the books only, never on the wire."""
    entry: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """How the order's entry in an answer differs from the usual one."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The course of an order."""

    stages: tuple[Stage, ...] = ()
    shape: Shape | None = None
    """How a card of this product looks; None for top-ups."""
    faults: Mapping[Call, Sequence[Fault]] = field(default_factory=dict)
    """What goes wrong with the calls about one order, call by call."""
    stock: int = 1_000_000
    listed_stock: int | None = None
    """What product lists say is left; None: the truth."""
    price: Decimal | None = None
    """What the supplier really asks for one, where that isn't what our catalogue says."""
    minimum: int = 1
    maximum: int | None = None
    """How many one order may ask for, where the supplier has such limits."""
    repeated_request: bool = False
    """A proxy on the way hands every create call over twice; the client sees the second answer."""
    repeated_at_once: bool = False
    """The second of them arrives while the first is still being answered."""
    modes: Mapping[str, str] = field(default_factory=dict)
    """Modes of the supplier (see `settings`) that hold for this product, as in `{"duplicates": "double"}`."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What only this supplier's file understands."""


@dataclass(frozen=True, slots=True)
class Control:
    """One request to the control API: `POST /control/{kind}/{action}` with a JSON body."""

    action: str
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What the service makes of it: the judge of the scenario's test."""

    state: str = "fulfilled"
    """The order's state, in lower case, once nothing moves any more; with an unknown outcome: until the settling
    deadline, when a person is told."""
    failure: str = ""
    """The typed reason of a failed order, in lower case."""
    cards: int = 0
    """How many cards the client sees."""
    charges: int = 1
    """How many orders that were charged stand in the supplier's books for it."""
    refunds: int = 0
    """How many of them were paid back in full."""
    requests: int = 1
    """How many create calls the supplier saw."""
    alerts: tuple[str, ...] = ()
    """Which alerts the operator got, each kind once."""
    reviews: tuple[str, ...] = ()
    """Why a person has to look, in lower case; review items beside the state included."""
    after_sale: str = ""
    """What became of it after delivery, in lower case."""
    callbacks: tuple[bool, ...] = ()
    """Whether each callback attempt got the documented acknowledgement, in the order they were sent."""
    says: str = ""
    """In a sentence, for people, where the fields above don't tell it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """What our catalogue says that the supplier asks for one, before surcharges."""
    recipient: Recipient
    behaviour: Behaviour
    expect: Expect = field(default_factory=Expect)
    shows: tuple[int, ...] = ()
    """The behaviours of the supplier's list (`BEHAVIOURS` in its file) that it shows."""
    codes: tuple[str, ...] = ()
    """The supplier's documented codes and states that it brings onto the wire, as the supplier's file names them."""
    quantity: int = 1
    """How many to order at least for it to show."""
    form: Mapping[str, str] = field(default_factory=dict)
    """Values for the supplier's order form."""
    max_units: int = 0
    """How many units one purchase may ask for; 0: as the supplier's other offers."""
    account_name: str = ""
    """For recipients of kind account: one that the product takes; "" is any."""
    surcharge: Decimal = Decimal(0)
    """Rate on top of the price that the parameters below bring with them."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Adapter parameters of the offer, for the catalogue."""
    account: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the supplier account that it needs to be set otherwise."""
    controls: tuple[Control, ...] = ()
    """What to tell the control API before ordering."""
    after: tuple[Control, ...] = ()
    """What to tell the control API once the order is where `after_state` says."""
    after_state: str = ""
    cancel: bool = False
    """The client cancels the order once the supplier has taken it."""
    calls_back: bool = True
    """Whether the service tells the supplier where to call back (`callbacks.public_url`)."""
    lapse: float = 0.0
    """How many seconds have to pass: the test moves the clocks of both sides."""

    @property
    def unit_cost(self) -> Decimal:
        """All-in cost of one unit, as our catalogue has it."""
        return self.unit_price * (1 + self.surcharge)

    @property
    def magic(self) -> str:
        """The recipient that chooses this course with any product of the supplier for the same sort of recipient."""
        match self.recipient:
            case "phone":
                return f"199{self.product[-8:].zfill(8)}"
            case "qq":
                return f"199{self.product[-8:].zfill(8)}"[:11]
            case "account":
                return f"{self.name}@sandbox.example"
            case _:
                return ""
