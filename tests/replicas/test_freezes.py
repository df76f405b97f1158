"""A replica stands still, or loses its database, for longer than its lease, and another one takes over: what it still
learns of its requests counts, and what it was about to send isn't sent any more.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from crash.stores import shared_store
from crash.world import GIVE_UP_SECONDS, WITHOUT_QUERY, Wish
from postgres_server import Cluster
from reward_sandbox.books import Order
from reward_server.store.postgres import migrate_postgres
from rewardservice.v1 import reward_service_pb2
from service.harness import State

from .fleet import Fleet, fleet
from .relay import relay

CARD_WITHOUT_QUERY = Wish("kuaiduibao/card", "frozen-1")
"""The answer to the request to buy is the only copy of the card."""
CARD_WITH_QUERY = Wish("kasushou/card", "frozen-2")
RESENT = Wish("dushu/membership", "frozen-3")
"""Its supplier's rules let the same number be sent again when it was never heard of."""
CANCELLED = Wish("kaquan91_recharge/cancelled", "frozen-4")

FIRST, OTHER = 0, 1
"""The replica that begins, and the one that takes over."""

LEASE_SECONDS = 1.0

PATIENT = 60.0
"""Seconds for which an exchange stays open: longer than any of these replicas stands still."""

AT_ONCE = 4

LOOK_SECONDS = 0.1
"""Metrics have no signal."""

NOT_SENT = 'reward_supplier_calls_total{{account="{}",operation="place",result="NotSent"}}'


def two(dsn: str) -> Sequence[str]:
    """The stores of two replicas."""
    return [shared_store(dsn, lease_seconds=LEASE_SECONDS)] * 2


def sold(one: Fleet, wish: Wish) -> list[Order]:
    """What the supplier of an order sold."""
    return one.sandbox.desk(wish.kind).book.orders


def state_is(one: Fleet, wish: Wish, *states: State.ValueType) -> Callable[[], bool]:
    """Whether the client was told, at the other replica first, that its order is in one of these states."""

    def told() -> bool:
        order = one.followers[OTHER].orders.get(one.acknowledged.get(wish, ""))
        return order is not None and order.state in states

    return told


async def see(one: Fleet, what: Callable[[], bool]) -> None:
    """Waits for it."""
    if not await one.until(what, GIVE_UP_SECONDS):
        states = [State.Name(order.state) for order in one.followers[OTHER].orders.values()]
        raise AssertionError((one.all_violations(), states, *(server.last_words() for server in one.servers)))


async def begin_and_stand_still(one: Fleet, wish: Wish, point: str, armed_by: str = "") -> None:
    """The first replica gets the order and stops at a crash point; then the other one is started."""
    await one.servers[FIRST].start(stop=point, armed_by=armed_by)
    one.order([wish])
    await see(one, lambda: one.servers[FIRST].stands_still)
    await one.servers[OTHER].start()


async def finds_out_that_it_sent_nothing(one: Fleet, wish: Wish) -> None:
    """The thawed replica looks at the clock before the first byte."""
    for _ in range(int(GIVE_UP_SECONDS / LOOK_SECONDS)):
        if await one.metric(FIRST, NOT_SENT.format(wish.kind)):
            return
        await asyncio.sleep(LOOK_SECONDS)
    raise AssertionError(one.last_words())


# --- The answer is there


@pytest.mark.parametrize("wish", [CARD_WITHOUT_QUERY, CARD_WITH_QUERY], ids=lambda wish: wish.kind)
async def test_an_answer_that_reached_the_socket_of_a_frozen_replica_is_delivered_once(
    tmp_path: Path, new_database: Callable[[], str], wish: Wish
) -> None:
    """The supplier answered a replica that stands still; the other one takes the purchase over, settles it by its query
    or, where there is none, hands it to a person. Thawed, the first one has the answer: there is one purchase and its
    card is with the client.
    """
    stores = two(new_database())
    async with fleet(tmp_path, stores=stores, products=[wish.product], answer_patience=PATIENT) as one:
        gate = one.sandbox.gate(wish.kind)
        gate.hold()
        await one.servers[FIRST].start()
        one.order([wish])
        await see(one, lambda: gate.held == 1)
        one.servers[FIRST].freeze()
        gate.release()
        await one.servers[OTHER].start()
        settled = State.ORDER_STATE_NEEDS_REVIEW if wish.kind == WITHOUT_QUERY else State.ORDER_STATE_FULFILLED
        await see(one, state_is(one, wish, settled))
        one.servers[FIRST].thaw()
        await see(one, state_is(one, wish, State.ORDER_STATE_FULFILLED))
        assert (await one.judge()).violations == []
        assert len(sold(one, wish)) == 1


IN_HAND = (
    ("exchange.answering", "send.begin"),
    ("exchange.chunk", "send.begin"),
    ("exchange.answered", "send.begin"),
    ("send.answered", ""),
    ("apply.storing", ""),
    ("commit.begun", "apply.storing"),
    ("commit.ready", "apply.storing"),
    ("commit.done", "apply.storing"),
)
"""Points, and from when on they count."""


@pytest.mark.parametrize("wish", [CARD_WITHOUT_QUERY, CARD_WITH_QUERY], ids=lambda wish: wish.kind)
async def test_a_replica_frozen_with_the_answer_in_its_hands_delivers_it_once(
    tmp_path: Path, new_database: Callable[[], str], wish: Wish
) -> None:
    """Half read, read, understood, about to be stored, in the middle of the transaction, or stored and nobody told."""

    async def play(point: str, armed_by: str, folder: Path, dsn: str) -> None:
        async with fleet(folder, stores=two(dsn), products=[wish.product], answer_patience=PATIENT) as one:
            await begin_and_stand_still(one, wish, point, armed_by)
            # Where it isn't stored nobody else can know it, unless the supplier can be asked: a person is to look.
            unknown = wish.kind == WITHOUT_QUERY and point != "commit.done"
            settled = State.ORDER_STATE_NEEDS_REVIEW if unknown else State.ORDER_STATE_FULFILLED
            await see(one, state_is(one, wish, settled))
            one.servers[FIRST].thaw()
            await see(one, state_is(one, wish, State.ORDER_STATE_FULFILLED))
            # It lives on, under another name.
            await one.at(FIRST).first_token()
            assert (await one.judge()).violations == []
            assert len(sold(one, wish)) == 1

    await side_by_side(*(partial(play, *moment) for moment in IN_HAND), folder=tmp_path, new_database=new_database)


async def side_by_side(
    *plays: Callable[[Path, str], Awaitable[None]], folder: Path, new_database: Callable[[], str]
) -> None:
    """Plays some at a time, each with a folder and a database of its own: most of it is waiting."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(place: int, play: Callable[[Path, str], Awaitable[None]]) -> None:
        home = folder / str(place)
        home.mkdir()
        async with turns:
            await play(home, await asyncio.to_thread(new_database))

    await asyncio.gather(*(in_turn(place, play) for place, play in enumerate(plays)))


# --- Nothing was sent yet


BEFORE_THE_FIRST_BYTE = (
    ("create.stored", CARD_WITH_QUERY),
    ("send.begin", CARD_WITH_QUERY),
    ("intend.stored", CARD_WITHOUT_QUERY),
    ("send.begin", CARD_WITHOUT_QUERY),
)


async def test_a_replica_frozen_between_the_intention_and_the_first_byte_sends_nothing_when_it_is_thawed(
    tmp_path: Path, new_database: Callable[[], str]
) -> None:
    """The lease and the submit window pass meanwhile. Either the other one has proven that nothing was bought, and the
    order is over; or, where nobody can be asked, it waits for a person, and the word of the thawed replica that nothing
    was sent lets it go on: with a new intention, once.
    """

    async def play(point: str, wish: Wish, folder: Path, dsn: str) -> None:
        async with fleet(folder, stores=two(dsn), products=[wish.product]) as one:
            await begin_and_stand_still(one, wish, point)
            await see(one, state_is(one, wish, State.ORDER_STATE_FAILED, State.ORDER_STATE_NEEDS_REVIEW))
            assert sold(one, wish) == []
            one.servers[FIRST].thaw()
            await finds_out_that_it_sent_nothing(one, wish)
            goes_on = wish.kind == WITHOUT_QUERY
            if goes_on:
                await see(one, state_is(one, wish, State.ORDER_STATE_FULFILLED))
            assert (await one.judge()).violations == []
            assert len(sold(one, wish)) == (1 if goes_on else 0)
            [purchase] = (await one.client.get(one.acknowledged[wish], "EXPLAINED")).purchases
            assert any("submit window" in entry.detail for entry in purchase.evidence) == goes_on

    plays = (partial(play, *moment) for moment in BEFORE_THE_FIRST_BYTE)
    await side_by_side(*plays, folder=tmp_path, new_database=new_database)


async def test_a_frozen_replica_does_not_undo_what_another_one_sends_again(
    tmp_path: Path, new_database: Callable[[], str]
) -> None:
    """The supplier never heard of the number, so the other replica sends it again. That the first one sent nothing is
    no word about that: while the second request is on its way there is no third.
    """
    async with fleet(
        tmp_path, stores=two(new_database()), products=[RESENT.product], read_timeout=20.0, answer_patience=PATIENT
    ) as one:
        gate = one.sandbox.gate(RESENT.kind)
        await begin_and_stand_still(one, RESENT, "send.begin")
        gate.hold()
        await see(one, lambda: gate.held == 1)
        one.servers[FIRST].thaw()
        await finds_out_that_it_sent_nothing(one, RESENT)
        # Whatever it makes of that it makes before it answers this.
        for _ in range(5):
            await one.at(FIRST).first_token()
        await one.until(lambda: gate.held > 1, 1.0)
        gate.release()
        assert (await one.judge()).violations == []
        assert len(sold(one, RESENT)) == 1


# --- The database is out of reach


async def sent_away(one: Fleet, stream: Any) -> str:
    """Follows at the first replica until it sends whoever follows elsewhere, and health checks too; the last token."""
    token = ""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while message := await stream.read():
            token = getattr(message, message.WhichOneof("message")).resume_token
    assert await stream.code() is grpc.StatusCode.UNAVAILABLE
    await out_of_service(one, FIRST)
    return token


async def out_of_service(one: Fleet, place: int) -> None:
    """Waits until health checks at a replica are told to go elsewhere."""
    health: Any = health_pb2_grpc.HealthStub(one.at(place).channel)
    async with asyncio.timeout(GIVE_UP_SECONDS):
        async for told in health.Watch(health_pb2.HealthCheckRequest()):
            if told.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                return
    raise AssertionError("the watch of its health ended")


async def test_a_replica_cut_off_from_its_database_sends_nothing_and_loses_no_card(
    tmp_path: Path, cluster: Cluster
) -> None:
    """It has one request on its way and one order waiting for the only slot. The other replica buys for the second
    order; the answer to the first is kept until the database is there again.
    """
    dsn = cluster.create_database("cut_off")
    await migrate_postgres(dsn)
    held, waiting = CARD_WITHOUT_QUERY, Wish(CARD_WITHOUT_QUERY.product, "cut-off-2")
    async with relay(cluster.port) as wire:
        stores = [shared_store(dsn.replace(f":{cluster.port}/", f":{wire.port}/")), shared_store(dsn)]
        async with fleet(
            tmp_path,
            stores=stores,
            products=[held.product],
            max_in_flight=1,
            read_timeout=20.0,
            answer_patience=PATIENT,
        ) as one:
            gate = one.sandbox.gate(held.kind)
            gate.hold(1)
            for server in one.servers:
                await server.start()
            one.order([held], by=one.at(FIRST))
            await see(one, lambda: gate.held == 1)
            one.order([waiting], by=one.at(FIRST))
            await see(one, state_is(one, waiting, State.ORDER_STATE_ACCEPTED))
            begin = {"start": reward_service_pb2.STREAM_START_SNAPSHOT, "heartbeat_interval": Duration(seconds=1)}
            stream = one.at(FIRST).stream(**begin)
            while not (await stream.read()).HasField("snapshot_end"):
                pass
            wire.cut()
            token = await asyncio.wait_for(sent_away(one, stream), GIVE_UP_SECONDS)
            await see(one, state_is(one, waiting, State.ORDER_STATE_FULFILLED))
            elsewhere = one.at(OTHER).stream(start=reward_service_pb2.STREAM_START_AFTER, resume_token=token)
            # What was committed meanwhile comes there, behind the heartbeat that every stream begins with.
            async with asyncio.timeout(GIVE_UP_SECONDS):
                while not (await elsewhere.read()).HasField("update"):
                    pass
            await see(one, state_is(one, held, State.ORDER_STATE_NEEDS_REVIEW))
            gate.release()
            await see(one, lambda: all(order.answered_at for order in sold(one, held)))
            assert len(sold(one, held)) == 2
            wire.mend()
            await see(one, state_is(one, held, State.ORDER_STATE_FULFILLED))
            assert (await one.judge()).violations == []
            assert len(sold(one, held)) == 2


async def test_a_database_that_stands_still_for_longer_than_every_lease_loses_nothing(
    tmp_path: Path, cluster: Cluster
) -> None:
    """All leases end. When it goes on, so do the replicas, and the answer that came meanwhile is stored."""
    dsn = cluster.create_database("frozen")
    await migrate_postgres(dsn)
    wish = CARD_WITHOUT_QUERY
    async with fleet(
        tmp_path, stores=two(dsn), products=[wish.product], read_timeout=20.0, answer_patience=PATIENT
    ) as one:
        gate = one.sandbox.gate(wish.kind)
        gate.hold()
        for server in one.servers:
            await server.start()
        one.order([wish])
        await see(one, lambda: gate.held == 1)
        cluster.freeze()
        gate.release()
        await see(one, lambda: all(order.answered_at for order in sold(one, wish)))
        # Each says so when it hasn't heard of the database for as long as a lease lasts.
        await asyncio.gather(*(out_of_service(one, place) for place in (FIRST, OTHER)))
        cluster.thaw()
        await see(one, state_is(one, wish, State.ORDER_STATE_FULFILLED))
        assert (await one.judge()).violations == []
        assert len(sold(one, wish)) == 1
