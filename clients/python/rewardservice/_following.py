"""Following orders on the command line until they are settled."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from rewardservice._options import Exit, exit_for_orders
from rewardservice._output import Board, Output, Progress, as_message, complain
from rewardservice.client import RewardClient
from rewardservice.events import Event, Reset, Snapshot, SnapshotEnd, Update
from rewardservice.v1 import order_pb2
from rewardservice.values import is_settled, state_name


async def follow_events(
    events: AsyncGenerator[Event, None],
    *,
    progress: Progress,
    output: Output,
    board: Board,
    ids: Sequence[str] | None,
    timeout: float | None,
) -> bool:
    """Shows events until every one of `ids` is settled (None: for ever). Returns False when the time was over first."""
    try:
        async with asyncio.timeout(timeout), aclosing(events):
            async for event in events:
                if isinstance(event, Snapshot | Update):
                    progress.show(event.order, as_message(event))
                elif isinstance(event, SnapshotEnd) and output.json:
                    output.message(as_message(event))
                elif isinstance(event, Reset):
                    board.orders.clear()
                    complain(f"updates may be missing ({event.reason}); showing the orders as they are")
                if ids is not None and _are_settled(board, ids):
                    break
    except TimeoutError:
        return False
    return True


async def look_up(
    client: RewardClient, board: Board, order_ids: Sequence[str], client_order_ids: Sequence[str]
) -> None:
    """Reads the orders that no event was about."""
    known = _by_id(board)
    for order_id in order_ids:
        if order_id not in known:
            board.put(await client.get_order(order_id))
    for client_order_id in client_order_ids:
        if client_order_id not in known:
            board.put(await client.get_order(client_order_id=client_order_id))


def judge(board: Board, ids: Sequence[str]) -> Exit:
    """The exit code for the orders; what is unfinished is named."""
    known = _by_id(board)
    for name in ids:
        if name not in known:
            complain(f"order {name} was not seen")
        elif not is_settled(known[name]):
            complain(f"order {name} is {state_name(known[name].state)}; it goes on")
    if any(name not in known for name in ids):
        return Exit.UNAVAILABLE
    return exit_for_orders([known[name] for name in ids])


def _are_settled(board: Board, ids: Sequence[str]) -> bool:
    known = _by_id(board)
    return all(name in known and is_settled(known[name]) for name in ids)


def _by_id(board: Board) -> dict[str, order_pb2.Order]:
    orders = board.orders.values()
    return {**{order.client_order_id: order for order in orders}, **{order.order_id: order for order in orders}}
