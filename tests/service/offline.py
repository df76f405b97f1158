"""What is done to a store while no server runs: commands of `reward-server`, and a watcher that lives through it."""

import asyncio
import os
import sys
from collections.abc import Sequence

from rewardservice.v1 import order_pb2, reward_service_pb2

from .harness import TERMINAL, Caller


async def command(*arguments: str, code: int = 0) -> str:
    """Runs `reward-server …` to its end and returns all it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reward_server", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=dict(os.environ),
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == code, output.decode()
    return output.decode()


async def token_of(client: Caller) -> str:
    """The token of the end of the client's log."""
    after = ""
    while True:
        page = await client.orders.ListOrderUpdates(
            reward_service_pb2.ListOrderUpdatesRequest(after=after, limit=100), metadata=client.metadata
        )
        after = page.resume_token
        if not page.more:
            return after


async def updates_after(client: Caller, token: str, order_ids: Sequence[str]) -> list[order_pb2.Order]:
    """What a subscriber that goes on behind a token is told, until the last of the orders is terminal."""
    told: list[order_pb2.Order] = []
    left = set(order_ids)
    call = client.stream(start=reward_service_pb2.STREAM_START_AFTER, resume_token=token)
    try:
        async for message in call:
            if message.WhichOneof("message") != "update":
                continue
            told.append(message.update.order)
            if told[-1].state in TERMINAL:
                left.discard(told[-1].order_id)
            if not left:
                return told
    finally:
        call.cancel()
    raise AssertionError("the stream ended by itself")
