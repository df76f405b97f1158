"""Runs the real server with defects: at some moments of an order's life something fails, and its exception shows
everything of ours that is at hand there.

`python defective.py MOMENT… -- ARGUMENTS` runs `reward-server ARGUMENTS`; each moment fails once.
"""

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from reward_server import probes
from reward_server.__main__ import run_cli

OURS = ("reward_server.", "reward_adapters.")


class DefectError(Exception):
    """Its arguments are what was at hand; a traceback prints them."""


def at_hand(frame: FrameType | None) -> Iterator[Any]:
    """The values of our own types that the functions under way hold. Plain texts say what they say: any would tell."""
    while frame is not None:
        for value in frame.f_locals.values():
            if type(value).__module__.startswith(OURS):
                yield value
        frame = frame.f_back


def fail_once(moments: list[str]) -> None:
    """Lets each fail the first time that it is passed once there are orders. `POINT:Type` waits until a value of that
    type is at hand.
    """
    left = dict(moment.partition(":")[::2] for moment in moments)
    assert set(left) <= set(probes.POINTS)
    ordering = False

    def defective(name: str) -> None:
        nonlocal ordering
        ordering = ordering or name == "create.storing"
        if ordering and name in left:
            found = list(at_hand(sys._getframe(1)))
            if left[name] in {"", *(type(value).__name__ for value in found)}:
                del left[name]
                raise DefectError(name, *found)

    probes.probe = defective


if __name__ == "__main__":
    middle = sys.argv.index("--")
    fail_once(sys.argv[1:middle])
    sys.exit(run_cli(sys.argv[middle + 1 :]))
