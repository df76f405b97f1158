"""`make run`: what is left of it when it is killed."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from ports import free_port

from .harness import Caller, caller
from .test_processes import gone, until

pytestmark = pytest.mark.timeout(300)

LAUNCHER = """
import sys
from reward_server import dev
from reward_server.config import Address

dev.SANDBOX = Address("127.0.0.1", {port})
dev.READY_WITHIN = 90.0
sys.exit(dev.main())
"""
"""`make run` where others may have its ports."""


class Run:
    """A `make run` with its own folder and ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.grpc, self.http, self.sandbox = (free_port() for _ in range(3))
        (folder / "launcher.py").write_text(LAUNCHER.format(port=self.sandbox))
        (folder / "Makefile").write_text(f"run:\n\t@{sys.executable} launcher.py\n")

    @contextlib.asynccontextmanager
    async def started(self, *command: str) -> AsyncIterator[psutil.Process]:
        """Runs until it is ready; nothing of it is left afterwards."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("REWARD_", "MAKE"))}
        binds = {"REWARD_GRPC__BIND": f"127.0.0.1:{self.grpc}", "REWARD_HTTP__BIND": f"127.0.0.1:{self.http}"}
        output = self.folder / "output"
        with output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=self.folder, env={**environ, **binds}, stdout=file, stderr=file
            )
        top = psutil.Process(process.pid)
        family = [top]
        try:
            await until(lambda: process.returncode is not None or "RewardService is ready" in output.read_text())
            assert process.returncode is None, output.read_text()[-4000:]
            family += top.children(recursive=True)
            yield top
            await process.wait()
            assert await gone(family), [one for one in family if one.is_running()]
        finally:
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            await process.wait()

    def is_free(self) -> bool:
        """Whether the next run can have the ports, as it looks itself."""
        for port in (self.grpc, self.http, self.sandbox):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    return False
        return True


async def one_order(client: Caller) -> str:
    """Bought once, whoever asks how often: its number."""
    order = (await client.create("kasushou/card", "order-1")).order
    return (await client.until(order.order_id)).cards[0].number


@pytest.mark.parametrize("command", [("make", "run"), (sys.executable, "launcher.py")], ids=["make", "launcher"])
async def test_killed_it_leaves_nothing_behind_and_can_be_started_again(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    """The programs under it notice, the ports are free, and the next run knows what was bought: so do the suppliers."""
    run = Run(tmp_path)
    async with run.started(*command) as top, caller(run.grpc) as client:
        card = await one_order(client)
        top.kill()
    assert run.is_free()
    async with run.started(*command) as top, caller(run.grpc) as client:
        assert await one_order(client) == card
        async with aiohttp.ClientSession() as asking, asking.get(f"http://127.0.0.1:{run.sandbox}/books") as answer:
            assert len((await answer.json())["kasushou"]["orders"]) == 1
        top.kill()


async def test_a_killed_server_ends_the_run(tmp_path: Path) -> None:
    """As the start page has it done: by a signal that leaves it no time, to the server alone."""
    run = Run(tmp_path)
    async with run.started(sys.executable, "launcher.py") as top, caller(run.grpc) as client:
        await one_order(client)
        [server] = [one for one in top.children() if "reward_server serve" in " ".join(one.cmdline())]
        server.kill()
    assert "the server ended by itself (exit code -9)" in (tmp_path / "output").read_text()
    assert run.is_free()
