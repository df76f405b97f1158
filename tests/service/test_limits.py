"""Limits of a client: calls, streams, orders under way, money per day. Over a real connection, with every detail."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from reward_server.access import new_key
from rewardservice.v1.reward_service_pb2 import CreateOrderRequest, StreamOrderUpdatesRequest

from .bare import Line, Refusal, bare, client_toml, line

SHOP, SHOP_HASH = new_key()
OTHER, OTHER_HASH = new_key()

UNREACHABLE = """
[suppliers.kss_a]
adapter = "kasushou"
base_url = "http://127.0.0.1:9"
user_id = "12345"
apikey = "no secret"
[[products]]
id = "card"
kind = "card"
name = "Card"
face_value = "100"
[[products.offers]]
supplier = "kss_a"
supplier_product = "2909"
unit_cost = "98.5"
max_unit_cost = "99"
"""
"""Orders for it stay under way: nobody listens there."""


def config(*limits: str) -> str:
    """A client with limits, and one without."""
    return (
        client_toml("shop", f'keys = ["{SHOP_HASH}"]', *limits)
        + client_toml("other", f'keys = ["{OTHER_HASH}"]')
        + UNREACHABLE
    )


async def order(of: Line, client_order_id: str, quantity: int = 1) -> Any:
    """Orders cards."""
    request = CreateOrderRequest(client_order_id=client_order_id, product_id="card", quantity=quantity)
    return await of.orders.CreateOrder(request, metadata=of.metadata, timeout=60)


async def refused(work: Any) -> Refusal:
    """The limit that a call met; how it is told is the same for all of them."""
    with pytest.raises(AioRpcError) as caught:
        await work
    refusal = Refusal(caught.value)
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    [violation] = refusal.details["QuotaFailure"].violations
    assert violation.subject == "client:shop"
    assert violation.description == refusal.text
    assert refusal.details["RetryInfo"].retry_delay.ToMilliseconds() > 0
    return refusal


async def test_calls_per_second(tmp_path: Path) -> None:
    """A second's worth of calls passes at once, the next one has to wait as long as it is told; others don't."""
    async with (
        bare(tmp_path, config("calls_per_second = 0.5")) as server,
        line(server.port, SHOP) as shop,
        line(server.port, OTHER) as other,
    ):
        await shop.call()
        refusal = await refused(shop.call())
        assert refusal.reason == "TOO_MANY_CALLS"
        assert 0 < refusal.details["RetryInfo"].retry_delay.ToMilliseconds() <= 2_000
        for _ in range(5):
            await other.call()
        await asyncio.sleep(refusal.details["RetryInfo"].retry_delay.ToMilliseconds() / 1000 + 0.01)
        await shop.call()


async def test_open_streams(tmp_path: Path) -> None:
    """So many streams may be open; one that ends makes room."""
    async with bare(tmp_path, config("open_streams = 2")) as server, line(server.port, SHOP) as shop:
        streams = []
        for _ in range(2):
            streams.append(shop.orders.StreamOrderUpdates(StreamOrderUpdatesRequest(), metadata=shop.metadata))
            await streams[-1].read()
        third = shop.orders.StreamOrderUpdates(StreamOrderUpdatesRequest(), metadata=shop.metadata)
        assert (await refused(third.read())).reason == "TOO_MANY_STREAMS"
        streams[0].cancel()
        while True:
            again = shop.orders.StreamOrderUpdates(StreamOrderUpdatesRequest(), metadata=shop.metadata)
            try:
                await again.read()
            except AioRpcError:
                # The server hasn't heard yet that the first one is gone.
                continue
            break


async def test_orders_in_flight(tmp_path: Path) -> None:
    """So many orders may be under way; a retry of one of them is answered with it; a cancelled one makes room."""
    async with bare(tmp_path, config("orders_in_flight = 2")) as server, line(server.port, SHOP) as shop:
        await order(shop, "o-1")
        await order(shop, "o-2")
        refusal = await refused(order(shop, "o-3"))
        assert refusal.reason == "TOO_MANY_ORDERS"
        assert (await order(shop, "o-1")).replayed
        async with line(server.port, OTHER) as other:
            await order(other, "o-3")


async def test_spend_per_day(tmp_path: Path) -> None:
    """Units times the highest price that may be paid; a retry costs nothing; what is left is told, and until when."""
    async with bare(tmp_path, config('spend_per_day = "300.00"')) as server, line(server.port, SHOP) as shop:
        await order(shop, "o-1", quantity=2)
        refusal = await refused(order(shop, "o-2", quantity=2))
        assert refusal.reason == "SPEND_LIMIT_REACHED"
        info = refusal.details["ErrorInfo"]
        assert (info.metadata["limit"], info.metadata["left"]) == ("300.00", "102.00")
        assert refusal.details["RetryInfo"].retry_delay.seconds < 86_400
        assert (await order(shop, "o-1", quantity=2)).replayed
        await order(shop, "o-3")


async def test_what_was_spent_survives_a_restart(tmp_path: Path) -> None:
    """Money is counted in the store, not in the process."""
    limits = config('spend_per_day = "100.00"')
    async with bare(tmp_path, limits) as server, line(server.port, SHOP) as shop:
        await order(shop, "o-1")
    async with bare(tmp_path, limits) as server, line(server.port, SHOP) as shop:
        assert (await refused(order(shop, "o-2"))).reason == "SPEND_LIMIT_REACHED"
