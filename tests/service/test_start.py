"""Starting the server when something is wrong: a clear message, or a start all the same."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from ports import free_port
from reward_sandbox import Sandbox, SandboxSettings

from .harness import QUICK, Caller, Place, ServerProcess, State, caller


async def serve(config: Path, **environ: str) -> tuple[int, str]:
    """Runs a server that must end by itself: its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reward_server", "serve", "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, **environ},
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(folder=tmp_path, sandbox_url="http://127.0.0.1:9")


@pytest.mark.parametrize("which", ["grpc", "http"])
async def test_a_taken_port_stops_the_start_with_its_key(place: Place, which: str) -> None:
    """The message names the key and the address; no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        setattr(place, f"{which}_port", taken.getsockname()[1])
        code, output = await serve(place.write())
    assert code == 1
    assert f"{which}.bind: can't listen on 127.0.0.1:{getattr(place, f'{which}_port')}" in output
    assert "Traceback" not in output


async def test_a_store_that_cannot_be_written_stops_the_start(place: Place) -> None:
    """The folder of the store is a file: the message names it."""
    (place.folder / "blocked").write_text("")
    config = place.write()
    config.write_text(config.read_text().replace("/reward.db", "/blocked/reward.db"))
    code, output = await serve(config)
    assert code == 1
    assert "blocked" in output
    assert "Traceback" not in output


async def test_every_problem_of_the_configuration_is_listed(place: Place) -> None:
    """An unknown key, a missing secret and a bad value at once, each with its key; exit code 2."""
    config = place.write()
    text = config.read_text().replace("[http]", "colour = 1\n[http]", 1).replace('kind = "card"', 'kind = "cart"', 1)
    config.write_text("\n".join(line for line in text.splitlines() if not line.startswith("apikey")))
    code, output = await serve(config)
    assert code == 2
    for where in ("grpc.colour", "suppliers.kasushou.apikey", "products"):
        assert where in output
    assert "Traceback" not in output


async def test_broken_toml_names_its_line(place: Place) -> None:
    """A syntax error stops the start with its place."""
    config = place.write()
    config.write_text("[grpc]\nbind = \n")
    code, output = await serve(config)
    assert code == 2
    assert "line 2" in output


async def test_beyond_loopback_without_tls_and_keys_the_start_is_refused(place: Place) -> None:
    """Says what to configure."""
    code, output = await serve(place.write(), REWARD_GRPC__BIND="0.0.0.0:50051")
    assert code == 2
    assert "tls_certificate_file" in output
    assert "[[clients]]" in output


@pytest.mark.rule("D9")
async def test_a_second_server_on_the_same_store_is_refused(tmp_path: Path) -> None:
    """One process per file; the message names the file."""
    async with (
        Sandbox(SandboxSettings(port=0)) as sandbox,
        ServerProcess(Place(folder=tmp_path, sandbox_url=sandbox.url)),
    ):
        second = Place(folder=tmp_path, sandbox_url=sandbox.url)
        code, output = await serve(second.write())
        assert code == 1
        assert "reward.db" in output


@pytest.mark.rule("P13")
async def test_suppliers_that_are_down_at_start_delay_their_orders_only(tmp_path: Path) -> None:
    """The service starts; orders are taken and wait, since refused connections prove that nothing was sent; they are
    bought once the suppliers are there.
    """
    port = free_port()
    place = Place(folder=tmp_path, sandbox_url=f"http://127.0.0.1:{port}")
    async with ServerProcess(place), caller(place.grpc_port) as client:
        orders = [await client.create(product, product) for product in ("kasushou/card", "kaquan91_card/type-1")]
        for created in orders:
            waiting = await client.get(created.order.order_id)
            assert (waiting.state, waiting.version) == (State.ORDER_STATE_ACCEPTED, 1)
        async with Sandbox(SandboxSettings(port=port, step_seconds=0.05)) as sandbox:
            for created in orders:
                assert (await client.until(created.order.order_id)).state == State.ORDER_STATE_FULFILLED
            assert [len(sandbox.books(kind)["orders"]) for kind in ("kasushou", "kaquan91_card")] == [1, 1]


@pytest.mark.rule("D14")
async def test_the_wrong_master_key_stops_the_start(tmp_path: Path) -> None:
    """A store sealed with another key is never served: the message names the key that is missing."""
    async with Sandbox(SandboxSettings(port=0)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url, account=dict(QUICK))
        async with ServerProcess(place) as server:
            client = Caller(place.grpc_port)
            created = await client.create("kuaiduibao/card", "order-1")
            await client.until(created.order.order_id)
            await client.close()
            assert await server.stop() == 0
        (tmp_path / "master.key").unlink()
        code, output = await serve(place.write())
    assert code == 1
    assert "key" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("package", ["reward_server", "reward_sandbox"])
@pytest.mark.parametrize("missing", ["structlog", "cyclopts", "aiohttp"])
async def test_without_the_servers_packages_it_says_what_to_install(package: str, missing: str) -> None:
    """The base installation has the commands, and only the client's packages."""
    lacking = f"import sys; sys.modules['{missing}'] = None; import {package}.__main__ as program; program.main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", lacking, "--help",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, told = await process.communicate()
    assert "Traceback" not in told.decode()
    if process.returncode:
        assert f"needs {missing}" in told.decode()
        assert 'pip install "reward-service[server]"' in told.decode()
    else:
        # Not needed for this.
        assert (package, missing) in {("reward_server", "aiohttp"), ("reward_sandbox", "structlog")}
