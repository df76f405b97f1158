"""A backup is put back, as docs/operations.md says it is done."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from postgres_server import Cluster, execute
from reward_sandbox import Sandbox, SandboxSettings
from reward_server.store.postgres import migrate_postgres
from rewardservice.v1 import operator_service_pb2 as operator_pb
from rewardservice.v1 import reward_service_pb2
from rewardservice.v1.operator_service_pb2_grpc import OperatorServiceStub

from .harness import OPERATOR, QUICK, Caller, Place, ServerProcess, State, refused
from .offline import command, token_of

ACCOUNT = {**QUICK, "read_timeout": 30.0, "max_in_flight": 1}
"""One purchase at a time, so that a second order waits."""


class Backup:
    """A store that can be copied and put back."""

    store = ""
    """The lines of `[store]` of the server."""

    async def take(self, server: ServerProcess) -> None:
        """Copies it."""
        raise NotImplementedError

    async def put_back(self, place: Place) -> None:
        """Makes the copy the store, in the place of what came after it; no server runs."""
        raise NotImplementedError


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


class DumpBackup(Backup):
    """One database, copied by pg_dump while our server runs."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.store = _store(cluster.dsn())
        self._file = cluster.folder / "reward.dump"

    async def take(self, server: ServerProcess) -> None:
        """pg_dump --format=custom."""
        arguments = ("--format=custom", "--file", self._file, "--dbname", self._cluster.dsn())
        await asyncio.to_thread(self._cluster.programs.run, "pg_dump", *arguments)

    async def put_back(self, place: Place) -> None:
        """createdb, pg_restore."""
        dsn = await asyncio.to_thread(self._cluster.create_database, "again")
        arguments = ("--exit-on-error", "--single-transaction", "--dbname", dsn, self._file)
        await asyncio.to_thread(self._cluster.programs.run, "pg_restore", *arguments)
        place.store = _store(dsn)


def _store(dsn: str) -> str:
    return f'url = "{dsn}"\nlease_seconds = 2'


@pytest.fixture(params=["copy of the file", "pg_basebackup", "pg_dump"])
async def backup(request: pytest.FixtureRequest) -> AsyncIterator[Backup]:
    """Each way that the documents name."""
    if request.param == "copy of the file":
        yield FileBackup()
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    await migrate_postgres(cluster.dsn())
    if request.param == "pg_dump":
        yield DumpBackup(cluster)
        return
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


async def test_a_store_that_a_server_works_on_is_not_declared_restored(tmp_path: Path, database: str) -> None:
    """Its epoch would stay in the server's memory."""
    async with Sandbox(SandboxSettings(port=0)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",), store=_store(database))
        assert "up to date" in await command("migrate", "--config", str(place.write()))
        async with ServerProcess(place):
            epoch = execute(database, "SELECT value FROM meta WHERE key = 'epoch'")
            said = await command("restored", "--config", str(tmp_path / "reward.toml"), code=1)
            assert "a server works on this store" in said
            assert execute(database, "SELECT value FROM meta WHERE key = 'epoch'") == epoch
            assert execute(database, "SELECT count(*) FROM holds") == 0
