"""The machine fails under the real server: disk, key file, clock. Refused clearly, nothing accepted is lost."""

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from reward_sandbox import Sandbox, SandboxSettings
from rewardservice.v1 import order_pb2

from .harness import QUICK, TERMINAL, USUAL, Caller, Place, ServerProcess, State, refused

LAUNCHER = Path(__file__).with_name("faulty.py")
DAY = 86_400

PHONE = order_pb2.Recipient(phone=order_pb2.PhoneNumber(area_code="+86", number="13800138000"))
PRODUCTS = ("kuaiduibao/card", "kaquan91_card/type-1", "kaquan91_recharge/topup", "kasushou/card", "dushu/membership")
NEEDS_PHONE = ("kaquan91_recharge/topup", "dushu/membership")


class FaultyServer(ServerProcess):
    """The server as a process, whose disk and clock do what `faults` says."""

    def faults(self, *words: str) -> None:
        """From now on; none: all is well."""
        # Renamed into its place: it is never read half written.
        written = self.place.folder / "faults.new"
        written.write_text(" ".join(words))
        written.rename(self.place.folder / "faults")

    async def start(self, config: Path | None = None, *, probe: bool = True) -> None:
        """Starts it and waits until it takes calls."""
        config = config or self.place.write()
        with self.output.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, str(LAUNCHER), str(self.place.folder / "faults"), "serve", "--config", str(config),
                stdout=output, stderr=output, env={**os.environ, "REWARD_LOGGING__FORMAT": "json"},
            )  # fmt: skip
        if probe:
            await self._ready()

    async def ended(self) -> int:
        """Waits until the process ends by itself; its exit code."""
        assert self.process is not None
        return await self.process.wait()

    async def said(self, text: str) -> None:
        """Waits until the log has a text."""
        while text not in self.output.read_text():  # noqa: ASYNC110 - the log is a file
            await asyncio.sleep(0.02)


@dataclass
class Stage:
    """The server, its suppliers and a client."""

    server: FaultyServer
    sandbox: Sandbox
    client: Caller

    async def create(self, product: str, client_order_id: str) -> Any:
        """Orders one."""
        return await self.client.create(product, client_order_id, recipient=PHONE if product in NEEDS_PHONE else None)

    def requests(self, product: str) -> list[int]:
        """How often each purchase of a supplier was asked for."""
        return [entry["requests"] for entry in self.sandbox.books(product.split("/", maxsplit=1)[0])["orders"]]

    async def held(self, kind: str, count: int = 1) -> None:
        """Waits until so many purchases wait for their answers at a supplier."""
        while self.sandbox.gate(kind).held < count:  # noqa: ASYNC110 - the gate counts, it has no signal
            await asyncio.sleep(0.01)


@asynccontextmanager
async def stage(folder: Path, **account: object) -> AsyncIterator[Stage]:
    """All three of them, running."""
    async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
        account = {**QUICK, "read_timeout": 30.0, **account}
        place = Place(folder=folder, sandbox_url=sandbox.url, account=account, products=USUAL)
        server = FaultyServer(place)
        client = Caller(place.grpc_port)
        async with server:
            try:
                yield Stage(server, sandbox, client)
            finally:
                await client.close()


async def store_refuses(call: Any) -> None:
    """The call is refused for the store's sake, with what to do about it, and without the disk's own words."""
    error = await refused(call)
    [raw] = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    details = status_pb2.Status.FromString(raw).details
    assert any(detail.Unpack(info) for detail in details)
    assert any(detail.Unpack(retry) for detail in details)
    assert (error.code(), info.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert retry.retry_delay.ToMilliseconds() > 0
    assert "retry with the same ids" in (error.details() or "")


async def answered(call: Any) -> Any:
    """The answer of a call; None if the server was not available."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return None


# --- The disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.rule("D12")
async def test_a_full_disk_refuses_new_orders_and_holds_answers_until_there_is_space(tmp_path: Path) -> None:
    """Purchases under way are answered while nothing can be written: each answer is held and stored when it can be.
    What is stored stays readable, cards masked. With space again everything goes on by itself, with the same process.
    """
    async with stage(tmp_path) as it:
        done = await it.create("kasushou/card", "before")
        await it.client.until(done.order.order_id)
        kinds = [product.split("/")[0] for product in PRODUCTS]
        for kind in kinds:
            it.sandbox.gate(kind).hold()
        under_way = [
            await it.create(product, f"under way at {n}".replace(" ", "-")) for n, product in enumerate(PRODUCTS)
        ]
        for kind in kinds:
            await it.held(kind)
        it.server.faults("full")
        for kind in kinds:
            it.sandbox.gate(kind).release()
        for attempt in range(3):
            await store_refuses(it.create("kasushou/card", f"refused-{attempt}"))
        await it.server.said("evidence waits for the store")
        assert (await it.client.get(done.order.order_id, "BASIC")).cards
        assert len(it.requests("kasushou/card")) == 2
        it.server.faults()
        for created in under_way:
            assert (await it.client.until(created.order.order_id)).state == State.ORDER_STATE_FULFILLED
        again = await it.create("kasushou/card", "refused-0")
        assert not again.replayed
        await it.client.until(again.order.order_id)
        assert it.requests("kasushou/card") == [1, 1, 1]
        assert [it.requests(product) for product in PRODUCTS if product != "kasushou/card"] == [[1]] * 4
        assert await it.server.stop() == 0


@pytest.mark.rule("D12")
async def test_a_foreign_lock_refuses_new_orders_until_it_is_gone(tmp_path: Path) -> None:
    """A backup tool that holds the database: clear refusals, and then all is well."""
    async with stage(tmp_path) as it:
        foreign = apsw.Connection(str(tmp_path / "reward.db"))
        foreign.execute("BEGIN IMMEDIATE")
        await store_refuses(it.create("kasushou/card", "o-1"))
        foreign.execute("ROLLBACK")
        foreign.close()
        created = await it.create("kasushou/card", "o-1")
        assert (await it.client.until(created.order.order_id)).state == State.ORDER_STATE_FULFILLED
        assert it.requests("kasushou/card") == [1]


@pytest.mark.parametrize("fault", ["write", "sync"])
@pytest.mark.rule("D13")
async def test_a_failing_disk_ends_the_process_and_a_restart_recovers(tmp_path: Path, fault: str) -> None:
    """Nothing is acknowledged any more and the process ends with 1. Once the disk is sound the next start finds all
    that was acknowledged, and asks after what was under way instead of buying it again.
    """
    async with stage(tmp_path) as it:
        done = await it.create("kasushou/card", "before")
        await it.client.until(done.order.order_id)
        it.sandbox.gate("kasushou").hold()
        under_way = await it.create("kasushou/card", "under-way")
        await it.held("kasushou")
        it.server.faults(fault)
        await store_refuses(it.create("kasushou/card", "refused"))
        assert await it.server.ended() == 1
        assert "the store failed" in it.server.output.read_text()
        it.sandbox.gate("kasushou").release()
        it.server.faults()
        await it.server.start(config=tmp_path / "reward.toml")
        assert (await it.client.get(done.order.order_id)).cards
        assert (await it.client.until(under_way.order.order_id)).state in TERMINAL
        replayed = await it.create("kasushou/card", "under-way")
        assert (replayed.replayed, replayed.order.order_id) == (True, under_way.order.order_id)
        repeated = await it.create("kasushou/card", "refused")
        await it.client.until(repeated.order.order_id)
        assert set(it.requests("kasushou/card")) == {1}
        assert await it.server.stop() == 0


@pytest.mark.rule("D13")
async def test_a_disk_that_fails_while_an_answer_is_stored_loses_no_card(tmp_path: Path) -> None:
    """The paid answer of a supplier without a query can't be stored: the order is never shown as delivered and never
    bought again; what became of it is in doubt until evidence comes or a person looks.
    """
    async with stage(tmp_path) as it:
        it.sandbox.gate("kuaiduibao").hold()
        created = await it.create("kuaiduibao/card", "o-1")
        await it.held("kuaiduibao")
        it.server.faults("sync")
        it.sandbox.gate("kuaiduibao").release()
        assert await it.server.ended() == 1
        it.server.faults()
        await it.server.start(config=tmp_path / "reward.toml")
        order = await it.client.until(created.order.order_id, lambda order: order.version > 1)
        assert order.state in (State.ORDER_STATE_OUTCOME_UNKNOWN, State.ORDER_STATE_FULFILLED)
        assert it.requests("kuaiduibao/card") == [1]


@pytest.mark.rule("D13")
async def test_a_limit_of_the_system_on_files_is_survived_like_a_failing_disk(tmp_path: Path) -> None:
    """The system itself refuses to let the log grow (RLIMIT_FSIZE): orders are refused, none that was acknowledged is
    lost, and without the limit the next start goes on.
    """
    async with stage(tmp_path) as it:
        acknowledged = [await it.create("kasushou/card", f"o-{n}") for n in range(5)]
        assert it.server.process is not None
        size = (tmp_path / "reward.db-wal").stat().st_size + 200_000
        resource.prlimit(it.server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        while (answer := await answered(it.create("kasushou/card", f"o-{len(acknowledged)}"))) is not None:
            acknowledged.append(answer)
        assert await it.server.ended() == 1
        await it.server.start(config=tmp_path / "reward.toml")
        for created in acknowledged:
            assert (await it.client.until(created.order.order_id)).state in TERMINAL
        assert set(it.requests("kasushou/card")) == {1}


# --- The key file -----------------------------------------------------------------------------------------------------


@pytest.mark.rule("D14")
async def test_without_the_key_file_nothing_starts_and_nothing_is_changed(tmp_path: Path) -> None:
    """A running server doesn't need the file any more. Without it the next start is refused, names it, and leaves the
    store as it is; with it back, every card can be read.
    """
    async with stage(tmp_path) as it:
        created = await it.create("kasushou/card", "o-1")
        before = await it.client.until(created.order.order_id)
        key = tmp_path / "master.key"
        hidden = key.rename(tmp_path / "hidden.key")
        while_hidden = await it.create("kasushou/card", "o-2")
        await it.client.until(while_hidden.order.order_id)
        assert await it.server.stop() == 0
        content = (tmp_path / "reward.db").read_bytes()
        said = len(it.server.output.read_text())
        await it.server.start(config=tmp_path / "reward.toml", probe=False)
        assert await it.server.ended() == 2
        message = it.server.output.read_text()[said:]
        assert "secrets.master_key_file" in message
        assert str(key) in message
        assert "Traceback" not in message
        assert (tmp_path / "reward.db").read_bytes() == content
        hidden.rename(key)
        await it.server.start(config=tmp_path / "reward.toml")
        assert await it.client.get(created.order.order_id) == before
        assert await it.server.stop() == 0


# --- The clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [DAY, -DAY])
@pytest.mark.rule("P9")
async def test_a_clock_that_jumps_decides_nothing_about_orders_under_way(tmp_path: Path, jump: int) -> None:
    """The wall clock is a day off while suppliers have the orders, and right again later: each order is delivered once,
    with its versions in order, and a deadline that seemed to pass decided nothing.
    """
    async with stage(tmp_path) as it:
        for product in PRODUCTS:
            it.sandbox.gate(product.split("/")[0]).hold()
        orders = [await it.create(product, f"o-{n}") for n, product in enumerate(PRODUCTS)]
        for product in PRODUCTS:
            await it.held(product.split("/")[0])
        it.server.faults(f"ahead={jump}")
        await it.client.get(orders[0].order.order_id)
        for product in PRODUCTS:
            it.sandbox.gate(product.split("/")[0]).release()
        await it.client.until(orders[0].order.order_id)
        it.server.faults()
        for created in orders:
            assert (await it.client.until(created.order.order_id)).state == State.ORDER_STATE_FULFILLED
        assert [it.requests(product) for product in PRODUCTS] == [[1]] * len(PRODUCTS)


@pytest.mark.parametrize("jump", [DAY, -DAY])
@pytest.mark.rule("P9", "O1")
async def test_a_start_with_a_wrong_clock_buys_nothing_twice(tmp_path: Path, jump: int) -> None:
    """Killed with purchases at suppliers, started a day off, and right again later: what had been sent is asked after,
    and new orders sort behind the old ones in the log.
    """
    async with stage(tmp_path) as it:
        product = "kaquan91_card/type-1"
        it.sandbox.gate("kaquan91_card").hold()
        orders = [await it.create(product, f"o-{n}") for n in range(3)]
        await it.held("kaquan91_card", 3)
        await it.server.kill()
        it.sandbox.gate("kaquan91_card").release()
        it.server.faults(f"ahead={jump}")
        await it.server.start(config=tmp_path / "reward.toml")
        orders.append(await it.create(product, "o-3"))
        it.server.faults()
        for created in orders:
            assert (await it.client.until(created.order.order_id)).state == State.ORDER_STATE_FULFILLED
        assert set(it.requests(product)) == {1}
        assert len(it.requests(product)) == 4
