"""`latency`: how long one order waits at low load, beside the naive proxy.

One order at a time, fifty a second. CreateOrder answers when the order is on disk, the proxy's when the supplier's
answer is there; from the supplier's last byte on both have the card, and what counts is when the client has it.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from reward_bench.create import CREATE, a_request
from reward_bench.figures import Figure, Plan, Series, at, in_turns
from reward_bench.order import Pair, pair
from reward_bench.serving import SYNC, Service

GAP = 0.02
"""Seconds from one order to the next."""


async def ours(one: Pair, orders: int) -> Mapping[str, float]:
    """One round of ours: the call, and from the supplier's answer to the pushed card."""
    calls, pushed = [], []
    answered: list[float] = []
    one.supplier.answered = lambda _number: answered.append(time.perf_counter())
    for _ in range(orders):
        answered.clear()
        begun = time.perf_counter()
        await one.buyers.buy(1, SYNC, 1)
        [came] = one.buyers.delivered.values()
        calls.append(one.buyers.calls.waits.pop())
        one.buyers.calls.waits.clear()
        pushed.append(came - answered[0])
        await asyncio.sleep(max(0.0, begun + GAP - time.perf_counter()))
    one.supplier.answered = None
    return _percentiles(calls, pushed)


async def naive(one: Pair, orders: int) -> Mapping[str, float]:
    """One round of the proxy: the call, and from the supplier's answer to the call's."""
    calls, pushed = [], []
    answered: list[float] = []
    one.supplier.answered = lambda _number: answered.append(time.perf_counter())
    for number in range(orders):
        answered.clear()
        begun = time.perf_counter()
        await one.calls.run(CREATE, [a_request(f"{begun}-{number}", SYNC)], 1)
        calls.append(one.calls.waits[0])
        pushed.append(begun + one.calls.waits[0] - answered[0])
        await asyncio.sleep(max(0.0, begun + GAP - time.perf_counter()))
    one.supplier.answered = None
    return _percentiles(calls, pushed)


def _percentiles(calls: list[float], pushed: list[float]) -> Mapping[str, float]:
    return {
        "call_p50": 1000 * at(calls, 0.5),
        "call_p99": 1000 * at(calls, 0.99),
        "push_p50": 1000 * at(pushed, 0.5),
        "push_p99": 1000 * at(pushed, 0.99),
    }


async def measure(folder: Path, plan: Plan) -> list[Figure]:
    """Four figures."""
    orders = plan.number(200, step=10)
    async with pair(folder, Service(folder / "latency")) as one:
        found = await in_turns(plan, {"ours": lambda: ours(one, orders), "naive": lambda: naive(one, orders)})
    titles = {
        "call_p50": "CreateOrder at low load, p50",
        "call_p99": "CreateOrder at low load, p99",
        "push_p50": "Supplier's answer → client has the card, p50",
        "push_p99": "Supplier's answer → client has the card, p99",
    }
    figures = []
    for name, title in titles.items():
        call = name.startswith("call")
        mine = Series("CreateOrder, on disk" if call else "pushed to the stream", "ms", found["ours"][name])
        other = Series(
            "proxy, with the supplier's answer in it" if call else "proxy's answer", "ms", found["naive"][name]
        )
        figures.append(
            Figure(key=f"latency-{name.replace('_', '-')}", title=title, series=(mine, other),
                   ratio=mine.over(other, "of the proxy's"))
        )  # fmt: skip
    return figures
