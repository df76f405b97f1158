"""The control API: what `POST /control/{kind}/{action}` does to one supplier.

Every action answers with what is ordered now. Wrong orders raise ValueError with what is wrong and how to mend it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from reward_sandbox import faults
from reward_sandbox.books import Order
from reward_sandbox.desk import Desk
from reward_sandbox.faults import CALLS, Fault, Refusal
from reward_sandbox.scenario import GENUINE, Stage
from reward_sandbox.settings import MODES
from reward_sandbox.wire import JSON, MalformedError, json_object, yuan

Body = Mapping[str, Any]

LONGEST_SECONDS: Final = 10 * 366 * 86_400.0
"""Ten years: beyond that clocks and dates stop making sense."""
LARGEST_AMOUNT: Final = Decimal(10) ** 12


@dataclass(frozen=True, slots=True)
class Action:
    """One action, and its line in the handbook."""

    carry_out: Callable[[Desk, Body], Awaitable[Mapping[str, object]]]
    example: str
    meaning: str
    keys: tuple[str, ...] | None = ()
    """What its body may hold; None: the action itself knows."""


async def carry_out(desk: Desk, action: str, body: object) -> dict[str, object]:
    """Do it and answer with what holds now. Raises ValueError."""
    if action not in ACTIONS:
        raise ValueError(f"no such action: {action}; there are: {', '.join(ACTIONS)}")
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    only(body, ACTIONS[action].keys)
    return {**await ACTIONS[action].carry_out(desk, body), **present(desk)}


def forward(body: Body) -> float:
    """How far `POST /control/clock` moves the books' time, in seconds. Raises ValueError."""
    only(body, ("forward",))
    return seconds(body, "forward")


def present(desk: Desk) -> dict[str, object]:
    """What is ordered at the moment."""
    return {
        **desk.gate.as_json(),
        "modes": dict(desk.modes),
        "callbacks": desk.callback_order,
        "prices": {product: yuan(price) for product, price in desk.prices.items()},
        "stocks": dict(desk.book.stocks),
        "balance": yuan(desk.book.balance),
    }


# --- Reading a body ---------------------------------------------------------------------------------------------------


def read(body: bytes) -> dict[str, object]:
    """The members of a body; an empty one is an empty object. Raises ValueError."""
    try:
        return json_object(body, JSON) if body else {}
    except MalformedError as error:
        raise ValueError("the body must be a JSON object") from error


def only(body: Body, keys: tuple[str, ...] | None) -> None:
    """Refuse members that nobody would look at: most are slips of the pen."""
    if keys is not None and (unknown := sorted(set(body) - set(keys))):
        mend = f"there are: {', '.join(sorted(keys))}" if keys else "the body must be empty"
        raise ValueError(f"unknown: {', '.join(unknown)}; {mend}")


def count(body: Body, key: str = "next", default: int | None = 1) -> int:
    """A whole number from 0."""
    value = body.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key} must be a whole number")
    return value


def seconds(body: Body, key: str, default: float | None = None) -> float:
    """A number from 0."""
    value = body.get(key, default)
    if not isinstance(value, int | float | Decimal) or isinstance(value, bool) or not 0 <= value <= LONGEST_SECONDS:
        raise ValueError(f"{key} must be a number of seconds, at most those of ten years")
    return float(value)


def flag(body: Body, key: str, default: bool | None = None) -> bool:
    """True or false."""
    value = body.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false")
    return value


def text(body: Body, key: str, default: str | None = None) -> str:
    """A text."""
    value = body.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a text")
    return value


def amount(body: Body, key: str) -> Decimal:
    """An amount in yuan, as text."""
    try:
        value = Decimal(text(body, key))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not 0 <= value <= LARGEST_AMOUNT:
        raise ValueError(f'{key} must be an amount in yuan as text, such as "12.50"')
    return value


def one_order(desk: Desk, body: Body) -> Order:
    """The latest order under `number`, or the latest of all."""
    number = text(body, "number", "")
    orders = desk.book.under(number) if number else desk.book.orders
    if not orders:
        raise ValueError(f"no order under number {number!r}" if number else "no order yet")
    return orders[-1]


def product(desk: Desk, body: Body) -> str:
    """A product number that is on sale."""
    value = text(body, "product")
    if value not in desk.scenarios:
        raise ValueError(f"no such product: {value}; there are: {', '.join(desk.scenarios)}")
    return value


# --- Actions ----------------------------------------------------------------------------------------------------------


async def _hold(desk: Desk, body: Body) -> Mapping[str, object]:
    desk.gate.hold(None if body.get("next") is None else count(body))
    return {}


async def _release(desk: Desk, _: Body) -> Mapping[str, object]:
    return {"released": desk.gate.release()}


async def _drop(desk: Desk, body: Body) -> Mapping[str, object]:
    match body.get("when"):
        case "before":
            desk.gate.drop(count(body), "before")
        case "after":
            desk.gate.drop(count(body), "after")
        case _:
            raise ValueError("when must be before or after")
    return {}


async def _down(desk: Desk, body: Body) -> Mapping[str, object]:
    desk.gate.down = flag(body, "down")
    return {}


async def _answer(desk: Desk, body: Body) -> Mapping[str, object]:
    call = body.get("call", "create")
    if call not in CALLS:
        raise ValueError(f"call must be one of: {', '.join(CALLS)}")
    fault = ordered_fault(body)
    if fault.refusal is not None:
        try:
            desk.refusal(fault.refusal)
        except ValueError as error:
            raise ValueError(f"refuse: no code of this supplier: {fault.refusal.code}") from error
    if fault.times:
        desk.gate.order(call, fault)
    return {}


def ordered_fault(body: Body) -> Fault:
    """The fault that an `answer` order describes."""
    changed: dict[str, Any] = {"times": count(body)}
    for key in ("never", "drop", "booked", "twice"):
        if key in body:
            changed[key] = flag(body, key)
    if "refuse" in body:
        refusal = body["refuse"]
        if not isinstance(refusal, dict):
            raise ValueError('refuse must be an object {"code": "…", "text": "…"}')
        only(refusal, ("code", "text"))
        changed["refusal"] = Refusal(text(refusal, "code", ""), text(refusal, "text", ""))
        changed.setdefault("booked", False)
    if "status" in body:
        changed["status"] = count(body, "status")
        if not 200 <= changed["status"] <= 599:
            raise ValueError("status must be an HTTP status from 200 to 599")
    if "body" in body:
        replaced = text(body, "body").encode()
        changed["edit"] = lambda _: replaced
    if "content_type" in body:
        changed["content_type"] = text(body, "content_type")
        if not changed["content_type"].isprintable():
            raise ValueError("content_type must be a text in one line")
    if "headers" in body:
        headers = body["headers"]
        if not isinstance(headers, dict) or not all(
            isinstance(word, str) and word.isprintable() for pair in headers.items() for word in pair
        ):
            raise ValueError("headers must be an object of texts in one line")
        changed["headers"] = headers
    for key in ("delay", "drip"):
        if key in body:
            changed[key] = seconds(body, key)
    if "cut" in body:
        changed["cut"] = count(body, "cut")
    return replace(Fault("ordered"), **changed)


async def _limit(desk: Desk, body: Body) -> Mapping[str, object]:
    call = body.get("call", "create")
    if call not in CALLS:
        raise ValueError(f"call must be one of: {', '.join(CALLS)}")
    retry_after = count(body, "retry_after") if "retry_after" in body else None
    desk.gate.order(call, faults.rate_limited(retry_after).for_times(count(body)))
    return {}


async def _callback(desk: Desk, body: Body) -> Mapping[str, object]:
    order = one_order(desk, body)
    attempt = await desk.call_back_now(order, text(body, "name", GENUINE))
    if attempt is None:
        raise ValueError(
            "this supplier has no such callback for this order; docs/sandbox.md lists the names at each supplier"
        )
    return {"callback": attempt.as_json()}


async def _callbacks(desk: Desk, body: Body) -> Mapping[str, object]:
    match body.get("send"):
        case "now" | "hold" | "twice" as order:
            released = desk.release_callbacks(backwards=False) if order == "now" else 0
            desk.callback_order = order
            return {"callbacks_sent": released}
        case "backwards":
            return {"callbacks_sent": desk.release_callbacks(backwards=True)}
        case _:
            raise ValueError("send must be hold, twice, now or backwards")


async def _state(desk: Desk, body: Body) -> Mapping[str, object]:
    order = one_order(desk, body)
    state = body.get("state")
    if type(state) is not type(order.state):
        raise ValueError(f"state must be one of the supplier's own states, such as {order.state}")
    refund = amount(body, "refund") if "refund" in body else Decimal(0)
    if refund > 1:
        raise ValueError("refund must be a share from 0 to 1")
    stage = Stage(
        state,
        cards=bool(order.cards),
        refund=refund,
        callbacks=(GENUINE,) if flag(body, "callback", default=False) else (),
        outcome=order.outcome,
    )
    desk.end(order, stage)
    return {"order": order.as_json(desk.book.requests[order.number])}


async def _price(desk: Desk, body: Body) -> Mapping[str, object]:
    desk.prices[product(desk, body)] = amount(body, "price")
    return {}


async def _stock(desk: Desk, body: Body) -> Mapping[str, object]:
    desk.book.stocks[product(desk, body)] = count(body, "stock", None)
    return {}


async def _balance(desk: Desk, body: Body) -> Mapping[str, object]:
    desk.book.balance = amount(body, "balance")
    return {}


async def _tokens(desk: Desk, body: Body) -> Mapping[str, object]:
    desk.tokens.lifetime = seconds(body, "lifetime", desk.tokens.lifetime)
    return {"expired": desk.tokens.expire()}


async def _mode(desk: Desk, body: Body) -> Mapping[str, object]:
    for name, value in body.items():
        if name not in MODES:
            raise ValueError(f"no such mode: {name}; there are: {', '.join(MODES)}")
        if value not in MODES[name]:
            raise ValueError(f"{name} must be one of: {', '.join(MODES[name])}")
    desk.modes.update(body)
    return {}


ACTIONS: Final[Mapping[str, Action]] = {
    "hold": Action(
        _hold,
        '{"next": 1}',
        "Keep back the next answers of create calls (without `next`: all) until `release`.",
        keys=("next",),
    ),
    "release": Action(_release, "{}", "Let the held answers go."),
    "drop": Action(
        _drop,
        '{"when": "before", "next": 1}',
        "Cut the next create calls `before` or `after` the order is taken.",
        keys=("when", "next"),
    ),
    "down": Action(_down, '{"down": true}', "Close every connection without an answer, until `false`.", keys=("down",)),
    "answer": Action(
        _answer,
        '{"call": "query", "next": 2, "status": 502, "body": "<html>"}',
        "Let the next answers of one call go wrong: `status`, `body`, `content_type`, `headers`, `delay` (seconds), "
        "`never`, `drop`, `cut` (bytes of the body), `drip` (seconds between bytes), `refuse` (`code` and `text` in "
        "the supplier's envelope); on create calls `booked` says whether the order is taken first, and `twice` hands "
        f"the request over two times. Calls: {', '.join(CALLS)}.",
        keys=(
            "call",
            "next",
            "booked",
            "twice",
            "refuse",
            "status",
            "body",
            "content_type",
            "headers",
            "delay",
            "never",
            "drop",
            "cut",
            "drip",
        ),
    ),
    "limit": Action(
        _limit,
        '{"call": "create", "next": 3, "retry_after": 1}',
        "Answer the next calls with HTTP 429.",
        keys=("call", "next", "retry_after"),
    ),
    "callback": Action(
        _callback,
        '{"number": "…", "name": "genuine"}',
        "Send one callback about an order now, once, and show the answer: the genuine one once more, or a forgery. "
        "`number` is the number of the purchase, which `rewardctl order get --explain` shows; by default the latest. "
        "The names are listed at each supplier.",
        keys=("number", "name"),
    ),
    "callbacks": Action(
        _callbacks,
        '{"send": "hold"}',
        "`hold` keeps callbacks back until `now` sends them in their order, or `backwards` the latest first; `twice` "
        "sends each that comes from then on two times.",
        keys=("send",),
    ),
    "state": Action(
        _state,
        '{"number": "…", "state": 5, "refund": "1", "callback": true}',
        "Move an order (by default the latest) into one of the supplier's states; `refund` is the share paid back.",
        keys=("number", "state", "refund", "callback"),
    ),
    "price": Action(_price, '{"product": "…", "price": "12.50"}', "Move a price.", keys=("product", "price")),
    "stock": Action(
        _stock, '{"product": "…", "stock": 0}', "Set how many are to be had in all.", keys=("product", "stock")
    ),
    "balance": Action(_balance, '{"balance": "0.00"}', "Set what is left of the deposit.", keys=("balance",)),
    "tokens": Action(
        _tokens,
        '{"lifetime": 60}',
        "End all access tokens; new ones live for `lifetime` seconds (as before without it).",
        keys=("lifetime",),
    ),
    "mode": Action(
        _mode,
        '{"duplicates": "replay"}',
        "Change how the supplier behaves where its pages leave it open: "
        + "; ".join(f"`{name}`: {', '.join(values)}" for name, values in MODES.items())
        + ".",
        keys=None,
    ),
}
