"""What is decided at one replica holds at all of them, and each can tell what became of an order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc

from crash.stores import shared_store
from crash.world import GIVE_UP_SECONDS, Client, Wish
from rewardservice.v1 import operator_service_pb2 as pb
from rewardservice.v1 import operator_service_pb2_grpc, order_pb2
from service.harness import OPERATOR, State, refused

from .fleet import Fleet, fleet

AS_OPERATOR = (("authorization", f"Bearer {OPERATOR}"),)
ACCOUNT = "kasushou"
CARD = Wish("kasushou/card", "together-1")
LATER = Wish("kasushou/card", "together-2")
CANCELLED = Wish("kaquan91_recharge/cancelled", "together-3")
MOVED = Wish("dushu/membership", "together-4")

LOOK_SECONDS = 0.1
"""What operators are told has no signal."""

ONE, ANOTHER = 0, 1


class Operator:
    """A person at one replica."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stub = operator_service_pb2_grpc.OperatorServiceStub(client.channel)

    async def pause(self) -> None:
        """Stops buying from the account."""
        request = pb.PauseSupplierRequest(supplier=ACCOUNT, reason="they asked us to", actor="Li")
        await self._client.insist(lambda: self._stub.PauseSupplier(request, metadata=AS_OPERATOR))

    async def resume(self) -> None:
        """Goes on."""
        request = pb.ResumeSupplierRequest(supplier=ACCOUNT, reason="they are back", actor="Li")
        await self._client.insist(lambda: self._stub.ResumeSupplier(request, metadata=AS_OPERATOR))

    async def paused_by(self) -> str:
        """Who paused the account, as this replica knows."""
        request = pb.ListSuppliersRequest()
        listed = await self._client.insist(lambda: self._stub.ListSuppliers(request, metadata=AS_OPERATOR))
        return next(supplier.paused_by for supplier in listed.suppliers if supplier.name == ACCOUNT)


@contextlib.asynccontextmanager
async def two(folder: Path, dsn: str, *products: str, **account: float) -> AsyncIterator[Fleet]:
    """Two replicas that serve."""
    async with fleet(folder, stores=[shared_store(dsn)] * 2, products=products, **account) as one:
        for server in one.servers:
            await server.start()
        for place in (ONE, ANOTHER):
            await one.at(place).first_token()
        yield one


async def eventually(true: Callable[[], Awaitable[bool]]) -> None:
    """Asks until it is so."""
    for _ in range(int(GIVE_UP_SECONDS / LOOK_SECONDS)):
        if await true():
            return
        await asyncio.sleep(LOOK_SECONDS)
    raise AssertionError("it never came to that")


def state_of(one: Fleet, wish: Wish) -> State.ValueType:
    """What the client was told last."""
    order = one.follower.orders.get(one.acknowledged.get(wish, ""))
    return State.ORDER_STATE_UNSPECIFIED if order is None else order.state


async def test_what_an_operator_pauses_at_one_replica_rests_at_all(
    tmp_path: Path, new_database: Callable[[], str]
) -> None:
    """Each learns of it when it renews its lease: what waits there for its turn isn't sent, and new orders are refused.
    It goes out once somebody, at any replica, ends the pause.
    """
    async with two(tmp_path, new_database(), CARD.product, max_in_flight=1) as one:
        here, there = Operator(one.at(ONE)), Operator(one.at(ANOTHER))
        gate, sold = one.sandbox.gate(CARD.kind), one.sandbox.desk(CARD.kind).book.orders
        gate.hold()
        for wish in (CARD, LATER):
            one.order([wish], by=one.at(ANOTHER))
            assert await one.until(lambda: len(one.acknowledged) == len(one.wishes), GIVE_UP_SECONDS)
        assert await one.until(lambda: gate.held == 1, GIVE_UP_SECONDS)
        await here.pause()

        async def paused() -> bool:
            return bool(await there.paused_by())

        await eventually(paused)
        gate.release()
        assert await one.until(lambda: state_of(one, CARD) == State.ORDER_STATE_FULFILLED, GIVE_UP_SECONDS)
        refusal = await refused(one.at(ANOTHER).create(CARD.product, "while-it-is-paused"))
        assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert (state_of(one, LATER), len(sold)) == (State.ORDER_STATE_ACCEPTED, 1)
        await here.resume()
        assert (await one.judge()).violations == []
        assert len(sold) == 2


async def test_an_order_is_cancelled_at_another_replica_than_the_one_that_bought_it(
    tmp_path: Path, new_database: Callable[[], str]
) -> None:
    """The supplier takes it down and pays back, and the client hears of it at every replica."""
    async with two(tmp_path, new_database(), CANCELLED.product) as one:
        one.order([CANCELLED], by=one.at(ONE))
        assert await one.until(lambda: state_of(one, CANCELLED) == State.ORDER_STATE_PROCESSING, GIVE_UP_SECONDS)
        await one.at(ANOTHER).cancel(one.acknowledged[CANCELLED])
        assert await one.until(lambda: state_of(one, CANCELLED) == State.ORDER_STATE_CANCELLED, GIVE_UP_SECONDS)
        assert (await one.judge()).violations == []
        [sold] = one.sandbox.desk(CANCELLED.kind).book.orders
        assert sold.refunded == sold.charged > 0


async def stored(one: Fleet, place: int) -> order_pb2.Order:
    """The order in view EXPLAINED as a replica tells it, without what only the one knows that looks after it."""
    client = one.at(place)
    order = await client.insist(lambda: client.get(one.acknowledged[MOVED], "EXPLAINED"))
    for purchase in order.purchases:
        for name in ("looks", "last_look_time", "last_look", "next_look_time", "waits_for"):
            purchase.ClearField(name)
    return order


async def test_every_replica_explains_an_order_that_moved_between_them(
    tmp_path: Path, new_database: Callable[[], str]
) -> None:
    """One sent it and died, another settled it; both tell the same, with the evidence of both."""
    async with two(tmp_path, new_database(), MOVED.product) as one:
        gate = one.sandbox.gate(MOVED.kind)
        gate.hold()
        one.order([MOVED], by=one.at(ONE))
        assert await one.until(lambda: gate.held == 1, GIVE_UP_SECONDS)
        await one.kill()
        gate.release()
        assert await one.until(lambda: state_of(one, MOVED) == State.ORDER_STATE_FULFILLED, GIVE_UP_SECONDS)
        await one.start()
        told = [await stored(one, at) for at in (ONE, ANOTHER)]
        assert told[0] == told[1]
        [purchase] = told[0].purchases
        assert {entry.source for entry in purchase.evidence} >= {"recovery", "query"}
        assert (await one.judge()).violations == []
