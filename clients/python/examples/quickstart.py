import asyncio

from rewardservice import RewardClient, Snapshot, Update, state_name


async def main() -> None:
    async with RewardClient("127.0.0.1:50051", key="dev-key") as rewards:
        await rewards.create_order("kasushou/card", client_order_id="order-4713")
        async for event in rewards.watch(client_order_ids=["order-4713"], until_terminal=True):
            if not isinstance(event, Snapshot | Update):
                continue
            order = event.order
            print(f"version {order.version}: {state_name(order.state)}", flush=True)
            for card in order.cards:
                print(card.number, card.secret)


asyncio.run(main())
