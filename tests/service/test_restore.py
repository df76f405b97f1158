"""A backup is put back, as docs/operations.md says it is done."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import grpc
import pytest

from postgres_server import Cluster, execute
from reward_sandbox import Sandbox, SandboxSettings
from reward_server.domain.order import OrderState, PurchaseState
from reward_server.restoring import Restored, restore
from reward_server.store import AuditEntry, Hold, StoreRefused, Update
from reward_server.store.postgres import migrate_postgres, open_postgres
from reward_server.store.sqlite import open_sqlite
from rewardservice.v1 import operator_service_pb2 as operator_pb
from rewardservice.v1 import reward_service_pb2
from rewardservice.v1.operator_service_pb2_grpc import OperatorServiceStub
from store.samples import an_order, moved

from .harness import OPERATOR, QUICK, Caller, Place, ServerProcess, State, refused
from .offline import command, token_of

ACCOUNT = {**QUICK, "read_timeout": 30.0, "max_in_flight": 1}
"""One purchase at a time, so that a second order waits."""


class Backup(Protocol):
    """A store that can be copied and put back."""

    store: str = ""
    """The lines of `[store]` of the server."""

    async def take(self, server: ServerProcess) -> None:
        """Copies it."""

    async def put_back(self, place: Place) -> None:
        """Makes the copy the store, in the place of what came after it; no server runs."""


class FileBackup(Backup):
    """A SQLite file, copied while no server runs."""

    async def take(self, server: ServerProcess) -> None:
        """Stop, copy, start."""
        await server.kill()
        folder = server.place.folder / "backup"
        await asyncio.to_thread(folder.mkdir)
        for file in await asyncio.to_thread(lambda: list(server.place.folder.glob("reward.db*"))):
            await asyncio.to_thread(shutil.copy2, file, folder)
        await server.start()

    async def put_back(self, place: Place) -> None:
        """Removes what is there, all of it, and copies the backup."""
        for file in await asyncio.to_thread(lambda: list(place.folder.glob("reward.db*"))):
            file.unlink()
        await asyncio.to_thread(shutil.copytree, place.folder / "backup", place.folder, dirs_exist_ok=True)


class BaseBackup(Backup):
    """All of a PostgreSQL server, copied by pg_basebackup while it and ours run."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._copy: Cluster | None = None
        self.store = _store(cluster.dsn())

    async def take(self, server: ServerProcess) -> None:
        """pg_basebackup --wal-method=stream."""
        self._copy = await asyncio.to_thread(self._cluster.standby)

    async def put_back(self, place: Place) -> None:
        """Starts a server on the copy: not as a standby, and not where the old one was."""
        assert self._copy is not None
        await asyncio.to_thread(self._cluster.stop)
        (self._copy.data / "standby.signal").unlink()
        await asyncio.to_thread(self._copy.start)
        place.store = _store(self._copy.dsn())

    async def close(self) -> None:
        """Ends the server on the copy."""
        if self._copy is not None:
            await asyncio.to_thread(self._copy.close)


def _store(dsn: str) -> str:
    return f'url = "{dsn}"\nlease_seconds = 2'


@pytest.fixture(params=["copy of the file", "pg_basebackup"])
async def backup(request: pytest.FixtureRequest) -> AsyncIterator[Backup]:
    """Of each engine, as the documents say it is made."""
    if request.param == "copy of the file":
        yield FileBackup()
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    await migrate_postgres(cluster.dsn())
    base = BaseBackup(cluster)
    yield base
    await base.close()


async def resume(port: int, account: str) -> str:
    """Ends the pause of an account; how it stood before."""
    one = Caller(port, OPERATOR)
    try:
        stub = OperatorServiceStub(one.channel)
        request = operator_pb.ListSuppliersRequest()
        [standing] = (await stub.ListSuppliers(request, metadata=one.metadata)).suppliers
        asked = operator_pb.ResumeSupplierRequest(supplier=account, reason="compared", actor="Li")
        await stub.ResumeSupplier(asked, metadata=one.metadata)
        return str(standing)
    finally:
        await one.close()


async def test_a_restored_store_buys_nothing_until_an_operator_says_so(tmp_path: Path, backup: Backup) -> None:
    """Two orders are under way when the backup is made: one at the supplier, one waiting. Afterwards both are bought,
    and a third one, of which the backup knows nothing. Put back and declared `restored`, the store begins with every
    account paused, finds at the supplier what was bought of the two, and buys neither again. Tokens of before are
    refused.
    """
    async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
        place = Place(
            folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",), account=ACCOUNT, store=backup.store
        )
        async with ServerProcess(place) as server:
            client = Caller(place.grpc_port)
            early = (await client.create("kasushou/card", "early")).order
            early = await client.until(early.order_id)
            gate = sandbox.gate("kasushou")
            gate.hold()
            sent = (await client.create("kasushou/card", "sent")).order
            waiting = (await client.create("kasushou/card", "waiting")).order
            while gate.held < 1:  # noqa: ASYNC110 - the gate counts, it has no signal
                await asyncio.sleep(0.02)
            assert State.Name((await client.get(waiting.order_id)).state) == "ORDER_STATE_ACCEPTED"
            old = await token_of(client)
            await client.close()
            await backup.take(server)

            client = Caller(place.grpc_port)
            gate.release()
            for order in (sent, waiting):
                await client.until(order.order_id)
            lost = (await client.create("kasushou/card", "lost")).order
            await client.until(lost.order_id)
            new = await token_of(client)
            await client.close()
            assert await server.stop() == 0
            await backup.put_back(place)

            config = str(place.write())
            said = await restored(config)
            assert "paused: kasushou" in said
            await server.start()
            client = Caller(place.grpc_port)
            for token in (old, new):
                call = client.stream(start=reward_service_pb2.STREAM_START_AFTER, resume_token=token)
                error = await refused(call.read())
                assert error.code() is grpc.StatusCode.OUT_OF_RANGE
                assert "restored from a backup" in (error.details() or "")
            for order in (sent, waiting):
                found = await client.until(order.order_id)
                assert State.Name(found.state) == "ORDER_STATE_FULFILLED"
            assert (await client.get(early.order_id)).cards == early.cards
            assert (await refused(client.get(lost.order_id))).code() is grpc.StatusCode.NOT_FOUND
            error = await refused(client.create("kasushou/card", "lost"))
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, "the client can't repeat what was lost"

            assert "restored from a backup" in await resume(place.grpc_port, "kasushou")
            again = (await client.create("kasushou/card", "new")).order
            assert State.Name((await client.until(again.order_id)).state) == "ORDER_STATE_FULFILLED"
            assert [entry["requests"] for entry in sandbox.books("kasushou")["orders"]] == [1] * 5
            await client.close()


async def restored(config: str) -> str:
    """Declares the store restored, as soon as the leases that were in the backup are over."""
    while True:
        try:
            return await command("restored", "--config", config)
        except AssertionError as error:
            if "try again" not in str(error):
                raise


async def test_a_store_that_a_server_works_on_is_not_declared_restored(database: str) -> None:
    """Its epoch would stay in the server's memory, and what it sends would be asked about too early."""
    await migrate_postgres(database)
    server, tool = await open_postgres(database), await open_postgres(database)
    await server.join("a server")
    epoch = (await server.head("shop")).epoch
    with pytest.raises(StoreRefused, match="a server works on this store"):
        await restore(tool, ["kss_a"])
    await tool.close()
    assert await server.holds() == []
    await server.close()
    tool = await open_postgres(database)
    assert (await restore(tool, ["kss_a"])).paused == ("kss_a",)
    await tool.close()
    again = await open_postgres(database)
    assert (await again.head("shop")).epoch != epoch
    await again.close()


async def test_a_dump_is_a_backup_too(cluster: Cluster) -> None:
    """pg_dump while a server runs, createdb, pg_restore, restored: everything is there under another epoch."""
    await migrate_postgres(cluster.dsn())
    store = await open_postgres(cluster.dsn())
    await store.join("a server")
    order = an_order()
    created = await store.create(order)
    arguments = ("--format=custom", "--file", cluster.folder / "dump", "--dbname", cluster.dsn())
    await asyncio.to_thread(cluster.programs.run, "pg_dump", *arguments)
    await store.close()
    await asyncio.to_thread(cluster.programs.run, "createdb", "--maintenance-db", cluster.dsn(), "again")
    dsn = cluster.dsn("again")
    options = ("--exit-on-error", "--single-transaction", "--dbname", dsn)
    await asyncio.to_thread(cluster.programs.run, "pg_restore", *options, cluster.folder / "dump")
    # The server's lease is in the dump, and ends with time.
    await asyncio.to_thread(execute, dsn, "UPDATE replicas SET until = clock_timestamp()")

    tool = await open_postgres(dsn)
    assert (await restore(tool, ["kss_a"])).doubted == 0
    await tool.close()
    again = await open_postgres(dsn)
    assert await again.order("shop", order.order_id) == order
    assert await again.updates("shop", 0, 9) == [Update("shop", 1, order)]
    head = await again.head("shop")
    assert (head.position, head.epoch == created.head.epoch) == (1, False)
    await again.close()


async def test_what_was_not_sent_may_have_been_sent_since(tmp_path: Path) -> None:
    """Purchases that wait, and those in doubt, count as on their way until now; what was taken, delivered or dead stays
    as it is. Accounts that an operator had paused stay paused for that, too. Run again it changes nothing more.
    """
    store = open_sqlite(tmp_path / "reward.db")
    states = {}
    for state, order_state in STANDING.items():
        order = an_order()
        purchase = replace(order.purchases[0], state=PurchaseState.WAITING)
        created = await store.create(replace(order, purchases=(purchase,)))
        if state is not PurchaseState.WAITING:
            change = moved(created.order, state, order_state)
            known = replace(change.order.purchases[0], written_until=1)
            await store.save(replace(change, order=change.order.with_purchase(known)))
        states[state] = order.order_id
    pause = AuditEntry(at=1, by="Li", what="pause", reason="used cards", account="kss_a")
    await store.hold(Hold("kss_a", 1, "Li", "used cards"), pause)

    assert await restore(store, ["kss_a", "kdb_b"]) == Restored(("kss_a", "kdb_b"), 2)
    found = {state: await store.order("shop", order_id) for state, order_id in states.items()}
    after = {state: order.purchases[0] for state, order in found.items() if order is not None}
    assert after[PurchaseState.WAITING].state is PurchaseState.SUBMITTING
    assert after[PurchaseState.WAITING].sends == 1
    assert after[PurchaseState.UNKNOWN].may_be_on_its_way
    for state in (PurchaseState.ACCEPTED, PurchaseState.DELIVERED, PurchaseState.DEAD):
        assert (after[state].state, after[state].written_until) == (state, 1)
    holds = {hold.account: hold.reason for hold in await store.holds()}
    assert list(holds) == ["kdb_b", "kss_a"]
    assert "Li had paused it before: used cards" in holds["kss_a"]
    assert [entry.what for entry in await store.audit(0, 9, only_decisions=True)] == ["pause"] * 3

    assert await restore(store, ["kss_a", "kdb_b"]) == Restored(("kss_a", "kdb_b"), 0)
    assert {hold.account: hold.reason for hold in await store.holds()} == holds
    await store.close()


STANDING = {
    PurchaseState.WAITING: OrderState.ACCEPTED,
    PurchaseState.UNKNOWN: OrderState.OUTCOME_UNKNOWN,
    PurchaseState.ACCEPTED: OrderState.PROCESSING,
    PurchaseState.DELIVERED: OrderState.FULFILLED,
    PurchaseState.DEAD: OrderState.FAILED,
}
