"""Money inside the program: whole numbers of 1/10,000 yuan, never floats.

Suppliers speak yuan with 0 to 4 decimals, fen, numbers and strings; this module is the only place that converts.
"""

import re
from decimal import ROUND_DOWN, Decimal
from typing import NewType

Money = NewType("Money", int)
"""An amount in units of 1/10,000 yuan."""

UNITS_PER_YUAN = 10_000
UNITS_PER_FEN = 100
MAX_YUAN = 100_000_000
"""No single reward costs a hundred million yuan: a larger amount is a defect or an attack, not money."""

_WHOLE_FEN = re.compile(r"[0-9]{1,10}")
"""As many digits as `MAX_YUAN` has in fen."""


def yuan(amount: str | int | float | Decimal) -> Money:
    """Reads yuan as suppliers write them: "98.50", "0.0100", 188, 4.2.

    A JSON float is read by its shortest text, as the supplier printed it. Raises ValueError for anything that is not a
    plain number, has more than 4 significant decimals, or is absurdly large.
    """
    if isinstance(amount, bool):
        raise ValueError("a truth value is not an amount")
    try:
        value = Decimal(repr(amount) if isinstance(amount, float) else amount)
        plausible = value.is_finite() and abs(value) <= MAX_YUAN
    except ArithmeticError:
        raise ValueError("not an amount in yuan") from None
    if not plausible:
        raise ValueError("not an amount in yuan")
    units = value * UNITS_PER_YUAN
    if units != units.to_integral_value():
        raise ValueError("an amount in yuan has at most 4 decimals")
    return Money(int(units))


def fen(amount: str | int) -> Money:
    """Reads whole fen (1/100 yuan) as suppliers write them: 930, "930".

    Raises ValueError for anything else, negative and absurdly large amounts included.
    """
    if not _WHOLE_FEN.fullmatch(str(amount)):
        raise ValueError("not an amount in whole fen")
    return Money(int(amount) * UNITS_PER_FEN)


def format_yuan(money: Money, places: int = 2) -> str:
    """Writes yuan with exactly `places` decimals, rounded **down**: a limit is never made higher by rounding."""
    quantum = Decimal(1).scaleb(-places)
    return str((Decimal(money) / UNITS_PER_YUAN).quantize(quantum, rounding=ROUND_DOWN))


def show_yuan(money: Money) -> str:
    """Writes yuan for people: at least 2 decimals, more only where they matter."""
    return format_yuan(money, 2 if money % UNITS_PER_FEN == 0 else 4)
