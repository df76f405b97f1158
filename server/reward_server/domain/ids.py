"""Order ids and supplier numbers: UUIDv7 in 26 Crockford base-32 characters.

Time-ordered, so inserts stay cheap however many rows there are; never a counter, so that a restored backup can't hand
out a number twice; digits and capitals only, so that every supplier takes them (the tightest limit is 32 characters).
"""

import secrets
from collections.abc import Callable

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
"""Ten bits at a time."""
_SHIFTS = range(120, -1, -10)
_COUNTER_BITS = 12


class IdSource:
    """Makes ids that sort by time, and by order of making inside a millisecond (RFC 9562, UUID version 7)."""

    def __init__(self, now_ms: Callable[[], int], random_bits: Callable[[int], int] = secrets.randbits) -> None:
        self._now_ms = now_ms
        self._random_bits = random_bits
        self._last_ms = 0
        self._counter = 0

    def __call__(self) -> str:
        now = self._now_ms()
        if now > self._last_ms:
            self._last_ms = now
            # Half of the counter's range is left for ids of the same millisecond.
            self._counter = self._random_bits(_COUNTER_BITS - 1)
        else:
            # A clock that stands still or jumps back must not break the order of ids.
            self._counter += 1
            if self._counter >> _COUNTER_BITS:
                self._counter = 0
                self._last_ms += 1
        value = (
            (self._last_ms & (1 << 48) - 1) << 80 | 7 << 76 | self._counter << 64 | 0b10 << 62 | self._random_bits(62)
        )
        return "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])
