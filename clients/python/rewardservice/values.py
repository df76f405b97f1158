"""Recipients and money, made from what a caller has at hand."""

from decimal import Decimal, InvalidOperation

from google.type import money_pb2

from rewardservice.v1 import order_pb2

TERMINAL_STATES = frozenset(
    {
        order_pb2.ORDER_STATE_FULFILLED,
        order_pb2.ORDER_STATE_PARTIALLY_FULFILLED,
        order_pb2.ORDER_STATE_FAILED,
        order_pb2.ORDER_STATE_CANCELLED,
    }
)
"""States in which nothing more is bought or delivered."""

_NANO = Decimal("1e-9")
_LONGEST = 40
"""Digits of an amount: more than any money needs, and few enough to keep arithmetic on hostile text cheap."""


def is_terminal(order: order_pb2.Order) -> bool:
    """Whether the order has ended."""
    return order.state in TERMINAL_STATES


def is_settled(order: order_pb2.Order) -> bool:
    """Whether waiting is over: the order has ended, or a person has to look at it."""
    return is_terminal(order) or order.state == order_pb2.ORDER_STATE_NEEDS_REVIEW


def state_name(state: order_pb2.OrderState.ValueType) -> str:
    """A state without its prefix, as in "FULFILLED"; its number when it is newer than this client."""
    try:
        return order_pb2.OrderState.Name(state).removeprefix("ORDER_STATE_")
    except ValueError:
        return str(state)


def phone(area_code: str, number: str) -> order_pb2.Recipient:
    """A phone number, as in `phone("+86", "13800138000")`."""
    return order_pb2.Recipient(phone=order_pb2.PhoneNumber(area_code=area_code, number=number))


def qq(number: str) -> order_pb2.Recipient:
    """A QQ number."""
    return order_pb2.Recipient(qq=number)


def account(name: str) -> order_pb2.Recipient:
    """An account name at the reward's own service."""
    return order_pb2.Recipient(account=name)


def yuan(amount: Decimal | str | int) -> money_pb2.Money:
    """An amount in yuan, as in `yuan("98.50")`.

    Raises ValueError for text that is no number and for more than nine decimals, TypeError for a float (0.1 + 0.2).
    """
    if isinstance(amount, float):
        raise TypeError("money is a Decimal or text such as '98.50', never a float")
    if isinstance(amount, str) and len(amount) > _LONGEST:
        raise ValueError("not an amount of yuan: too long")
    try:
        value = Decimal(amount)
    except InvalidOperation:
        raise ValueError(f"not an amount of yuan: {amount!r}") from None
    if not value.is_finite() or abs(value) >= 10**15:
        raise ValueError(f"not an amount of yuan: {amount!r}")
    if value != value.quantize(_NANO):
        raise ValueError(f"more than nine decimals: {amount!r}")
    units = int(value)
    return money_pb2.Money(currency_code="CNY", units=units, nanos=int((value - units) / _NANO))


def decimal_yuan(money: money_pb2.Money) -> Decimal:
    """The amount in yuan that a message of the service holds, as in `decimal_yuan(product.price)`."""
    return Decimal(money.units) + Decimal(money.nanos) * _NANO
