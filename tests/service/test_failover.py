"""The primary database dies and its standby takes over: the server goes on by itself, and nothing is lost."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import grpc

from postgres_server import Cluster
from reward_sandbox import Sandbox, SandboxSettings
from reward_server.store.postgres import migrate_postgres
from reward_server.store.postgres.connecting import Hosts, one_by_one
from rewardservice.v1 import order_pb2

from .harness import QUICK, Caller, Place, ServerProcess, State
from .offline import token_of, updates_after


def both(first: Cluster, second: Cluster) -> str:
    """The URL that names two servers, of which the one that takes writes is meant."""
    one, two = urlsplit(first.dsn()), urlsplit(second.dsn())
    host = two.netloc.rpartition("@")[2]
    return f"{one.scheme}://{one.netloc},{host}{one.path}?target_session_attrs=primary"


async def created(client: Caller, name: str) -> order_pb2.Order:
    """Creates an order, as a client does it: until it is told that it is there."""
    while True:
        try:
            return (await client.create("kasushou/card", name)).order
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise


async def test_orders_go_on_when_a_synchronous_standby_takes_over(tmp_path: Path, cluster: Cluster) -> None:
    """One order is at the supplier when the primary is killed. Its answer arrives while there is no database, waits,
    and is stored in the former standby; a new order is taken as soon as that is promoted. All that was acknowledged
    before is there, the subscriber goes on with its token, and everything was bought once.
    """
    await migrate_postgres(cluster.dsn())
    with await asyncio.to_thread(cluster.standby, "second") as standby:
        # From now on nothing is acknowledged that the standby doesn't have.
        await asyncio.to_thread(cluster.configure, synchronous_standby_names="second")
        store = f'url = "{both(cluster, standby)}"\nlease_seconds = 2\npoll_seconds = 0.1'
        async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
            account = {**QUICK, "read_timeout": 30.0}
            place = Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",), account=account, store=store)
            async with ServerProcess(place):
                client = Caller(place.grpc_port)
                token = await token_of(client)
                done = await created(client, "done")
                await client.until(done.order_id)
                gate = sandbox.gate("kasushou")
                gate.hold()
                order = await created(client, "under-way")
                while gate.held < 1:  # noqa: ASYNC110 - the gate counts, it has no signal
                    await asyncio.sleep(0.02)
                await asyncio.to_thread(cluster.kill)
                gate.release()
                await asyncio.to_thread(standby.promote)

                late = await created(client, "late")
                ids = [done.order_id, order.order_id, late.order_id]
                told = await updates_after(client, token, ids)
                for order_id in ids:
                    versions = [one.version for one in told if one.order_id == order_id]
                    assert versions == list(range(1, len(versions) + 1))
                    assert State.Name((await client.get(order_id)).state) == "ORDER_STATE_FULFILLED"
                assert [entry["requests"] for entry in sandbox.books("kasushou")["orders"]] == [1, 1, 1]
                await client.close()


async def test_a_silent_host_does_not_keep_us_from_the_next_one(cluster: Cluster) -> None:
    """A frozen primary takes connections and says nothing, like a machine without power: the standby is asked in time,
    and from then on first.
    """
    await migrate_postgres(cluster.dsn())
    with await asyncio.to_thread(cluster.standby) as standby:
        url = both(cluster, standby)
        await asyncio.to_thread(cluster.freeze)
        try:
            await asyncio.to_thread(standby.promote)
            hosts = Hosts(url)
            connection = await hosts.connect(timeout=4.0)
            assert await connection.fetchval("SELECT count(*) FROM replicas") == 0
            await connection.close()
            connection = await hosts.connect(timeout=60.0)
            await connection.close()
        finally:
            await asyncio.to_thread(cluster.thaw)


def test_a_url_of_several_hosts_is_one_url_for_each() -> None:
    """Each with the user, the password and the options."""
    assert one_by_one("postgresql://u:p%40w@one:1,two:2/db?target_session_attrs=primary") == [
        "postgresql://u:p%40w@one:1/db?target_session_attrs=primary",
        "postgresql://u:p%40w@two:2/db?target_session_attrs=primary",
    ]
    assert one_by_one("postgresql://one/db") == ["postgresql://one/db"]
    assert one_by_one("postgresql://u@/db?host=%2Ftmp") == ["postgresql://u@/db?host=%2Ftmp"]
