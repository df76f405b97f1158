"""Looks at this machine's clock: orders carry its times, and some suppliers refuse requests signed with a wrong one."""

import ctypes
import sys
from datetime import UTC, datetime

from reward_server.clock import Clock
from reward_server.doctor.findings import Report
from reward_server.doctor.store import Seen

AREA = "clocks"

FUTURE_SECONDS = 5.0

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TIME_CHARACTERS = 10
"""The first 50 bits of an id: two that are always 0, and 48 of its time."""

_NOT_SYNCHRONISED = 5
"""TIME_ERROR of <sys/timex.h>."""
_TIMEX_BYTES = 512
"""More than `struct timex` has anywhere; all zero asks and changes nothing."""


def look_at_clocks(seen: Seen, report: Report, *, clock: Clock) -> None:
    """Whether the clock is kept right, and isn't behind what was stored by it."""
    if seen.newest_number:
        newest = _time_of(seen.newest_number)
        ahead = newest.timestamp() - clock.now_ms() / 1000
        if ahead > FUTURE_SECONDS:
            what = f"the newest purchase was made at {newest:%Y-%m-%d %H:%M:%S} UTC, {ahead:.0f} s from now"
            report.problem(AREA, what, "this machine's clock was set back, or another replica's is ahead: run NTP")
    if _is_synchronised():
        report.ok(AREA, "kept right by NTP, says the kernel")
    else:
        mend = "run NTP (chrony, systemd-timesyncd); inside a virtual machine the host may keep it"
        report.hint(AREA, "the kernel doesn't know of anybody who keeps this machine's clock right", mend)


def _time_of(number: str) -> datetime:
    value = 0
    for character in number[:_TIME_CHARACTERS]:
        value = value << 5 | max(_ALPHABET.find(character), 0)
    # 26 characters hold 130 bits, the id has 128: the first two bits are 0.
    return datetime.fromtimestamp(value / 1000, UTC)


def _is_synchronised() -> bool:
    if sys.platform != "linux":
        return False
    try:
        state = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    except (OSError, AttributeError):
        return False
    return 0 <= state < _NOT_SYNCHRONISED
