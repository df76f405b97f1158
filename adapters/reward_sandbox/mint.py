"""Numbers and cards that look real, are unique per order, and can be found again in a log.

Everything follows from the seed and the order number, never from a counter: a restarted sandbox must not hand the
cards of an old order to a new one, and a test can foretell what it will get.
"""

import random
from typing import Final

CANARY: Final = "CNRY"
"""In every card number, secret, link and QR content: a log that contains it has leaked a card."""

_DIGITS: Final = "0123456789"
_CODE: Final = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
"""Without 0/O, 1/I/L: the alphabet printed codes use."""


class Press:
    """An endless supply of random-looking text for one order."""

    def __init__(self, source: str) -> None:
        self._random = random.Random(source)

    def code(self, length: int) -> str:
        """Upper-case letters and digits that cannot be mistaken for one another."""
        return "".join(self._random.choices(_CODE, k=length))

    def digits(self, length: int) -> str:
        """Decimal digits, leading zeros allowed."""
        return "".join(self._random.choices(_DIGITS, k=length))

    def groups(self, count: int) -> str:
        """A password as printed on cards: the canary, then groups of four, `CNRY-61D0-E24F`."""
        return "-".join([CANARY, *(self.code(4) for _ in range(count))])


class Mint:
    """Presses for all orders of one supplier."""

    def __init__(self, seed: int, kind: str) -> None:
        self._root = f"{seed}/{kind}"

    def press(self, number: str, nth: int) -> Press:
        """The press of the nth order (from 0) under our number."""
        return Press(f"{self._root}/{number}/{nth}")
