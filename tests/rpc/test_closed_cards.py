"""A card that is stored and doesn't open: its client hears it where it asks for it, and all else goes on."""

from dataclasses import replace
from typing import Any

import grpc
import pytest

from reward_server.auditing import AuditLog
from reward_server.domain.order import OrderState
from reward_server.store import Change, SealedCard
from rewardservice.v1 import order_pb2 as order_pb
from rewardservice.v1 import reward_service_pb2 as pb

from .world import World, refused


@pytest.fixture
async def broken(served: World) -> order_pb.Order:
    """An order with a sound card and one whose stored value was changed."""
    created = (await served.api().create("o-1")).order
    order = await served.change(created.order_id, cards=1)
    sealed = SealedCard(2, order.version + 1, order.purchases[0].number, b"no sealed value")
    after = replace(
        order,
        state=OrderState.FULFILLED,
        version=order.version + 1,
        revision=order.revision + 1,
        card_count=2,
        delivered_quantity=2,
    )
    assert await served.store.save(Change(order=after, visible=True, cards=(sealed,)))
    return created


def closed(order: order_pb.Order) -> list[bool]:
    """Of each card whether nothing of it is shown."""
    return [card.masked and not card.number and not card.secret for card in order.cards]


async def test_only_who_asks_for_the_cards_of_that_order_is_refused(served: World, broken: order_pb.Order) -> None:
    """With a reason of its own, which names the order and says that the operator can help."""
    api = served.api()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await api.get(broken.order_id, "FULL")
    refusal = refused(raised.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "CARD_NOT_OPENED")
    assert refusal.metadata["order_id"] == broken.order_id
    for view in ("BASIC", "EXPLAINED"):
        assert closed(await api.get(broken.order_id, view))[1]
    listed: Any = await api.rewards.ListOrders(pb.ListOrdersRequest(), metadata=api.metadata)
    assert [closed(order)[1] for order in listed.orders] == [True]
    assert (await api.create("o-1")).replayed


async def test_streams_show_the_order_with_that_card_closed(served: World, broken: order_pb.Order) -> None:
    """Snapshots and updates, in full; the other card is there, and what is counted as shown is that one."""
    api = served.api()
    stream = api.stream()
    message = await stream.next()
    assert message is not None
    assert closed(message.snapshot.order) == [False, True]
    updates = (await api.updates(view=order_pb.ORDER_VIEW_FULL)).updates
    assert closed(updates[-1].order) == [False, True]
    [entry, *_] = await served.store.audit(0, 9)
    assert (entry.what, entry.cards) == ("read", 2), "the sound card of two versions"


async def test_streams_end_while_what_they_showed_cannot_be_written_down(
    served: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In view FULL; a client that sees masked cards goes on."""
    await served.api().create("o-1")
    monkeypatch.setattr(AuditLog, "behind", property(lambda _self: True))
    masked = served.api().stream(view=order_pb.ORDER_VIEW_BASIC)
    assert await masked.next() is not None
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.api().stream(view=order_pb.ORDER_VIEW_FULL).next()
    assert refused(raised.value).reason == "STORE_UNAVAILABLE"
