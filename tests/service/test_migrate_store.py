"""From SQLite to PostgreSQL, as an operator does it: stop, move, start."""

import asyncio
from pathlib import Path

from reward_sandbox import Sandbox, SandboxSettings

from .harness import QUICK, Caller, Place, ServerProcess, State
from .offline import command, token_of, updates_after


async def test_an_order_under_way_is_fulfilled_after_the_move(tmp_path: Path, database: str) -> None:
    """Bought on SQLite, delivered on PostgreSQL, once; its card opens, and its subscriber goes on with its token.
    The server refuses to start on the SQLite file from then on.
    """
    account = {**QUICK, "read_timeout": 30.0}
    async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",), account=account)
        async with ServerProcess(place) as server:
            client = Caller(place.grpc_port)
            done = (await client.create("kasushou/card", "done")).order
            done = await client.until(done.order_id)
            token = await token_of(client)
            gate = sandbox.gate("kasushou")
            gate.hold()
            order = (await client.create("kasushou/card", "under-way")).order
            while gate.held < 1:  # noqa: ASYNC110 - the gate counts, it has no signal
                await asyncio.sleep(0.02)
            await client.close()
            await server.kill()
            gate.release()

            said = await command("migrate-store", "--from", f"sqlite:///{tmp_path}/reward.db", "--to", database)
            assert "both sides are the same" in said
            said = await command("serve", "--config", str(tmp_path / "reward.toml"), code=1)
            assert "was moved to PostgreSQL" in said

            place.store = f'url = "{database}"\nlease_seconds = 2'
            await server.start()
            client = Caller(place.grpc_port)
            told = await updates_after(client, token, [order.order_id])
            assert {one.order_id for one in told} == {order.order_id}
            assert [one.version for one in told] == list(range(1, len(told) + 1))
            fulfilled = await client.get(order.order_id)
            assert State.Name(fulfilled.state) == "ORDER_STATE_FULFILLED"
            assert len(fulfilled.cards) == 1
            assert (await client.get(done.order_id)).cards == done.cards
            assert [entry["requests"] for entry in sandbox.books("kasushou")["orders"]] == [1, 1]
            await client.close()
