"""Faults a test or a colleague orders at run time, through the control API."""

import asyncio
from collections import defaultdict
from typing import Literal

from reward_sandbox.faults import CALLS, Call, Fault

When = Literal["before", "after"]


class Gate:
    """What is ordered for one supplier's calls, whatever they are about."""

    def __init__(self) -> None:
        self.down = False
        self._hold_left: int | None = 0
        self._drops: dict[When, int] = {"before": 0, "after": 0}
        self._ordered: defaultdict[Call, list[Fault]] = defaultdict(list)
        self._release = asyncio.Event()
        self.held = 0
        self.held_total = 0
        self.dropped_total = 0

    def hold(self, count: int | None = None) -> None:
        """Keep back the next `count` answers of create calls, or all of them, until `release`."""
        self._hold_left = count

    def release(self) -> int:
        """Let every held answer go and hold no more; returns how many went."""
        released = self.held
        self._hold_left = 0
        self._release.set()
        self._release = asyncio.Event()
        return released

    def drop(self, count: int, when: When) -> None:
        """Cut the next `count` create calls before or after the order is accepted."""
        self._drops[when] = count

    def drops(self, when: When) -> bool:
        """Whether this call is to be cut here; uses one up."""
        if not self._drops[when]:
            return False
        self._drops[when] -= 1
        self.dropped_total += 1
        return True

    def order(self, call: Call, fault: Fault) -> None:
        """The next `fault.times` calls of this sort go wrong like this; what was ordered before comes first."""
        self._ordered[call].append(fault)

    def draw(self, call: Call) -> Fault | None:
        """The fault ordered for this call, used up once."""
        queue = self._ordered[call]
        if not queue:
            return None
        fault = queue[0]
        if fault.times <= 1:
            queue.pop(0)
        else:
            queue[0] = fault.for_times(fault.times - 1)
        return fault

    async def pass_out(self) -> None:
        """Wait here while answers are held."""
        if self._hold_left == 0:
            return
        if self._hold_left is not None:
            self._hold_left -= 1
        self.held += 1
        self.held_total += 1
        try:
            await self._release.wait()
        finally:
            self.held -= 1

    def reset(self) -> None:
        """No faults; held answers go."""
        self.down = False
        self._drops = {"before": 0, "after": 0}
        self._ordered.clear()
        self.release()
        self.held_total = self.dropped_total = 0

    def as_json(self) -> dict[str, object]:
        """The present orders and counts."""
        ordered = {call: [f"{fault.times} x {fault.name}" for fault in self._ordered[call]] for call in CALLS}
        return {
            "down": self.down,
            "hold": "all" if self._hold_left is None else self._hold_left,
            "held": self.held,
            "held_total": self.held_total,
            "drop": dict(self._drops),
            "dropped_total": self.dropped_total,
            "answers": {call: faults for call, faults in ordered.items() if faults},
        }
