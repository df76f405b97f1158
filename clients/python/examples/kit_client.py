"""The Python client as reward-client-kit wants to see it; docs/client-kit.md says what it has to do."""

import asyncio
import json
import os
import sys
from contextlib import aclosing

from rewardservice import Backoff, Reset, RewardClient, RewardError, Snapshot, Update, is_terminal
from rewardservice.v1 import reward_service_pb2 as pb


async def main() -> None:
    env = os.environ
    backoff = Backoff(initial=float(env["REWARD_BACKOFF_SECONDS"]))
    async with RewardClient(env["REWARD_TARGET"], env["REWARD_KEY"], backoff=backoff) as client:
        events = client.watch(
            order_ids=filter(None, env["REWARD_ORDER_IDS"].split(",")),
            start=pb.StreamStart.Value(f"STREAM_START_{env['REWARD_START']}"),
            resume_token=env["REWARD_RESUME_TOKEN"],
            heartbeat_interval=float(env["REWARD_HEARTBEAT_SECONDS"]),
        )
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Reset):
                    print(json.dumps({"reset": event.reason}), flush=True)
                elif isinstance(event, Snapshot | Update):
                    order = event.order
                    line = {"order_id": order.order_id, "version": order.version, "state": order.state}
                    print(json.dumps(line), flush=True)
                    if order.client_order_id == env["REWARD_UNTIL"] and is_terminal(order):
                        return


try:
    asyncio.run(main())
except RewardError as error:
    print(json.dumps({"error": error.code.name}), flush=True)
    sys.exit(1)
