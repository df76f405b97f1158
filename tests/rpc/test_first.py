from .world import World
from reward_server.domain.order import OrderState

async def test_x(served: World) -> None:
    """x."""
    api = served.api()
    got = await api.create("a-1")
    assert got.order.client_order_id == "a-1"
    s = api.stream()
    print(await s.next(), await s.next())
    await served.change(got.order.order_id, OrderState.FULFILLED, cards=1)
    print(await s.next())
    s.cancel()
