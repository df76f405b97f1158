"""The server is killed and started again: nothing is bought twice, nothing is lost, and streams go on."""

import asyncio
import contextlib
from collections import Counter
from pathlib import Path

import grpc
import pytest

from ports import free_port
from reward_sandbox import Sandbox, SandboxSettings
from rewardservice.v1 import order_pb2, reward_service_pb2

from .harness import QUICK, Caller, Place, ServerProcess, State

PHONE = order_pb2.Recipient(phone=order_pb2.PhoneNumber(area_code="+86", number="13800138000"))

IN_FLIGHT = {
    # 200 orders; the products of one supplier without a query, then those of the four that have one.
    "kuaiduibao/topup": 20,
    "kuaiduibao/card": 20,
    "kaquan91_card/type-1": 40,
    "kaquan91_recharge/topup": 40,
    "kasushou/card": 40,
    "dushu/membership": 40,
}
NEEDS_PHONE = {"kuaiduibao/topup", "kaquan91_recharge/topup", "dushu/membership"}


class Watcher:
    """Follows all updates of a client and goes on with the last token whenever the stream ends."""

    def __init__(self, client: Caller, token: str) -> None:
        self._client = client
        self._token = token
        self.orders: dict[str, order_pb2.Order] = {}
        self.seen: list[tuple[str, int]] = []
        self.states: dict[str, list[str]] = {}
        self.news = asyncio.Event()

    async def run(self) -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self._follow()

    async def _follow(self) -> None:
        stream = self._client.stream(start=reward_service_pb2.STREAM_START_AFTER, resume_token=self._token)
        async for message in stream:
            kind = message.WhichOneof("message")
            if kind == "update":
                order = message.update.order
                self.seen.append((order.order_id, order.version))
                self.orders[order.order_id] = order
                self.states.setdefault(order.order_id, []).append(State.Name(order.state))
                self.news.set()
            self._token = getattr(message, kind).resume_token

    def by_product(self) -> dict[str, Counter[str]]:
        """How many orders of each product stand in which state."""
        found: dict[str, Counter[str]] = {}
        for order in self.orders.values():
            found.setdefault(order.product_id, Counter())[State.Name(order.state)] += 1
        return found

    async def until(self, expected: dict[str, Counter[str]]) -> None:
        """Waits for the orders to stand as expected; after a minute shows how they stand instead."""
        try:
            async with asyncio.timeout(150):
                while self.by_product() != expected:
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            assert self.by_product() == expected


async def held(sandbox: Sandbox, kind: str, count: int) -> None:
    """Waits until so many purchases of a supplier wait for their answers."""
    while sandbox.gate(kind).held < count:  # noqa: ASYNC110 - the gate counts, it has no signal
        await asyncio.sleep(0.02)


@pytest.mark.rule("P1", "D1")
async def test_200_orders_in_flight_survive_a_sigkill(tmp_path: Path) -> None:
    """SIGKILL with 200 purchases taken by suppliers and not answered. After the restart every order whose supplier has
    a query becomes terminal; Kuaiduibao's end by callback where one comes, else in review at their deadline. The
    suppliers' books show one purchase an order, and a subscriber saw every update once.
    """
    http_port = free_port()
    settings = SandboxSettings(
        port=0,
        step_seconds=0.05,
        callback_scale=0.02,
        callback_url=f"http://127.0.0.1:{http_port}/callbacks/kuaiduibao",
    )
    async with (
        Sandbox(settings) as sandbox,
        ServerProcess(
            Place(
                folder=tmp_path,
                sandbox_url=sandbox.url,
                http_port=http_port,
                account={**QUICK, "read_timeout": 30.0, "max_in_flight": 64},
                accounts={"kuaiduibao": {"settle_by_seconds": 8.0}},
            )
        ) as server,
    ):
        client = Caller(server.place.grpc_port)
        kinds = {product.split("/", maxsplit=1)[0] for product in IN_FLIGHT}
        for kind in kinds:
            sandbox.gate(kind).hold()
        empty = await client.orders.ListOrderUpdates(
            reward_service_pb2.ListOrderUpdatesRequest(), metadata=client.metadata
        )
        watcher = Watcher(client, empty.resume_token)
        watching = asyncio.create_task(watcher.run())
        orders = await asyncio.gather(
            *(
                client.create(product, f"{product}:{n}", recipient=PHONE if product in NEEDS_PHONE else None)
                for product, count in IN_FLIGHT.items()
                for n in range(count)
            )
        )
        for kind in kinds:
            await held(sandbox, kind, 40)
        await server.kill()
        for kind in kinds:
            sandbox.gate(kind).release()
        await server.start(config=tmp_path / "reward.toml")

        expected = {product: Counter({"ORDER_STATE_FULFILLED": count}) for product, count in IN_FLIGHT.items()}
        expected["kuaiduibao/card"] = Counter({"ORDER_STATE_NEEDS_REVIEW": 20})
        await watcher.until(expected)

        for kind in kinds:
            bought = sandbox.books(kind)["orders"]
            assert len(bought) == 40
            assert {entry["requests"] for entry in bought} == {1}
        for created in orders:
            if created.order.product_id == "kuaiduibao/card":
                assert "ORDER_STATE_OUTCOME_UNKNOWN" in watcher.states[created.order.order_id]
        explained = await client.get(orders[-1].order.order_id, "EXPLAINED")
        assert explained.purchases[0].evidence[0].outcome == "SenderLost"

        log = await whole_log(client)
        assert watcher.seen == log
        for order_id in {order_id for order_id, _ in log}:
            versions = [version for seen_id, version in log if seen_id == order_id]
            assert versions == list(range(1, len(versions) + 1))
        watching.cancel()
        await client.close()
        assert await server.stop() == 0


async def whole_log(client: Caller) -> list[tuple[str, int]]:
    """Every update of the client's log, in order."""
    entries: list[tuple[str, int]] = []
    after = ""
    while True:
        page = await client.orders.ListOrderUpdates(
            reward_service_pb2.ListOrderUpdatesRequest(after=after, limit=100), metadata=client.metadata
        )
        entries.extend((update.order.order_id, update.order.version) for update in page.updates)
        after = page.resume_token
        if not page.more:
            return entries


async def test_sigterm_ends_streams_with_their_token_and_the_process_with_zero(tmp_path: Path) -> None:
    """A drain tells every stream where to go on, and the next start goes on there."""
    async with (
        Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox,
        ServerProcess(Place(folder=tmp_path, sandbox_url=sandbox.url)) as server,
    ):
        client = Caller(server.place.grpc_port)
        created = await client.create("kuaiduibao/card", "order-1")
        await client.until(created.order.order_id)
        stream = client.stream(start=reward_service_pb2.STREAM_START_AFTER, resume_token=created.resume_token)
        seen = [await stream.read(), await stream.read()]
        stopping = asyncio.create_task(server.stop())
        last = seen[-1]
        code = None
        try:
            while (message := await stream.read()) is not grpc.aio.EOF:
                last = message
        except grpc.aio.AioRpcError as error:
            code = error.code()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert last.WhichOneof("message") == "heartbeat"
        assert await stopping == 0
        await server.start(config=tmp_path / "reward.toml")
        again = client.stream(start=reward_service_pb2.STREAM_START_AFTER, resume_token=last.heartbeat.resume_token)
        first = await again.read()
        assert first.WhichOneof("message") == "heartbeat"
        await client.close()
        assert await server.stop() == 0


@pytest.mark.rule("P3")
async def test_a_drain_waits_for_an_answer_that_nobody_could_ask_for_again(tmp_path: Path) -> None:
    """SIGTERM while Kuaiduibao, which has no query, is about to answer: its card is taken before the process ends."""
    async with (
        Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox,
        ServerProcess(
            Place(folder=tmp_path, sandbox_url=sandbox.url, account={**QUICK, "read_timeout": 30.0})
        ) as server,
    ):
        gate = sandbox.gate("kuaiduibao")
        gate.hold()
        client = Caller(server.place.grpc_port)
        created = await client.create("kuaiduibao/card", "order-1")
        await held(sandbox, "kuaiduibao", 1)
        stream = client.stream(start=reward_service_pb2.STREAM_START_AFTER, resume_token=created.resume_token)
        await stream.read()
        stopping = asyncio.create_task(server.stop())
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await stream.read() is not grpc.aio.EOF:
                pass
        # The stream has ended, so the drain is under way, and it still waits for the supplier.
        assert not stopping.done()
        gate.release()
        assert await stopping == 0
        await server.start(config=tmp_path / "reward.toml")
        order = await client.get(created.order.order_id)
        assert order.state == State.ORDER_STATE_FULFILLED
        assert [entry["requests"] for entry in sandbox.books("kuaiduibao")["orders"]] == [1]
        await client.close()


async def test_a_second_sigterm_ends_at_once_and_loses_nothing(tmp_path: Path) -> None:
    """While a drain waits for a supplier, a second signal ends it; the next start goes on with what is on disk."""
    async with (
        Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox,
        ServerProcess(
            Place(folder=tmp_path, sandbox_url=sandbox.url, account={**QUICK, "read_timeout": 30.0})
        ) as server,
    ):
        sandbox.gate("kasushou").hold()
        client = Caller(server.place.grpc_port)
        created = await client.create("kasushou/card", "order-1")
        await held(sandbox, "kasushou", 1)
        stream = client.stream(start=reward_service_pb2.STREAM_START_AFTER, resume_token=created.resume_token)
        await stream.read()
        assert server.process is not None
        server.process.terminate()
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await stream.read() is not grpc.aio.EOF:
                pass
        assert await server.stop() == 1
        sandbox.gate("kasushou").release()
        await server.start(config=tmp_path / "reward.toml")
        order = await client.until(created.order.order_id)
        assert order.state == State.ORDER_STATE_FULFILLED
        assert [entry["requests"] for entry in sandbox.books("kasushou")["orders"]] == [1]
        await client.close()
