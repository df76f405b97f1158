"""The event loop: uvloop's, or asyncio's own where uvloop isn't installed."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
import uvloop

from reward_sandbox import Sandbox, SandboxSettings
from reward_server.app import loop_factory

from .harness import Place, ServerProcess, State, caller

WITHOUT_UVLOOP = """
import sys
sys.modules["uvloop"] = None
from reward_server.__main__ import main
main()
"""


class Plain(ServerProcess):
    """A server that finds no uvloop."""

    async def start(self, config: Path | None = None, *, probe: bool = True) -> None:
        """Starts it and, with `probe`, waits until it takes calls."""
        config = config or self.place.write()
        with self.output.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", WITHOUT_UVLOOP, "serve", "--config", str(config),
                stdout=output, stderr=output, env={**os.environ, "REWARD_LOGGING__FORMAT": "json"},
            )  # fmt: skip
        if probe:
            await self._ready()


def test_uvloop_is_used_where_it_is_installed() -> None:
    """Nobody has to say so."""
    assert loop_factory() is uvloop.new_event_loop


def test_without_uvloop_asyncio_has_its_own_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """No error, and no setting."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory() is None


async def test_everything_works_without_uvloop(tmp_path: Path) -> None:
    """An order is bought and pushed, and a signal drains the server."""
    async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",))
        async with Plain(place) as server:
            async with caller(place.grpc_port) as client:
                created = await client.create("kasushou/card", "order-1")
                order = await client.until(created.order.order_id)
            assert order.state == State.ORDER_STATE_FULFILLED
            assert await server.stop() == 0
