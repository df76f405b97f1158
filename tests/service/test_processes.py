"""Several processes behind one port: real ones, on a real PostgreSQL, killed, signalled, left without their parent."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from grpc.aio import insecure_channel

from ports import free_port
from reward_sandbox import Sandbox, SandboxSettings
from reward_server.config import ConfigError, load_settings
from reward_server.doctor import examine
from rewardservice.v1 import catalog_service_pb2, catalog_service_pb2_grpc, reward_service_pb2_grpc

from .harness import DEV, QUICK, TERMINAL, Caller, Place, State
from .test_doctor import said
from .test_start import serve

COUNT = 2
PATIENCE = 90.0
"""Seconds that anything may take on a slow machine."""
pytestmark = pytest.mark.timeout(300)
CONNECTIONS = 64
"""Each goes to one process or the other; that all go to one of them happens once in 2**63 times."""
LOOK = 0.05


class Connected(Caller):
    """A caller on a connection of its own, where others share one."""

    def __init__(self, port: int) -> None:
        self.channel = insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        self.orders = reward_service_pb2_grpc.RewardServiceStub(self.channel)
        self.products = catalog_service_pb2_grpc.CatalogServiceStub(self.channel)
        self.metadata = (("authorization", f"Bearer {DEV}"),)


async def until(so: Callable[[], Any]) -> Any:
    """Looks until it is so, and returns what it then is. Who writes a log tells nobody that it did."""
    give_up = time.monotonic() + PATIENCE
    while not (found := so()):
        assert time.monotonic() < give_up, "nothing came"
        await asyncio.sleep(LOOK)
    return found


@dataclass
class Group:
    """A parent and its processes."""

    place: Place
    config: Path
    ops: int
    """Where the first of them shows its metrics; the next one is at the next port."""
    sandbox: Sandbox
    parent: asyncio.subprocess.Process

    @property
    def log(self) -> str:
        """All that they wrote."""
        return (self.place.folder / "server.log").read_text()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Their log's lines of one event."""
        # The last line may still be on its way.
        whole = [line for line in self.log.splitlines(keepends=True) if line.startswith("{") and line.endswith("}\n")]
        return [entry for entry in map(json.loads, whole) if entry["event"] == event]

    async def told(self, event: str, times: int = 1) -> list[dict[str, Any]]:
        """Waits until they have logged it so often, in all."""
        found: list[dict[str, Any]] = await until(
            lambda: entries if len(entries := self.lines(event)) >= times else None
        )
        return found

    def processes(self) -> dict[int, psutil.Process]:
        """Those that run, by their number."""
        children = psutil.Process(self.parent.pid).children()
        return {int((line := child.cmdline())[line.index("--process") + 1]): child for child in children}

    async def ended(self) -> int:
        """Waits until the parent has."""
        async with asyncio.timeout(PATIENCE):
            return await self.parent.wait()

    async def page(self, port: int, path: str) -> tuple[int, str]:
        """What is served there by HTTP."""
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, await answer.text()

    async def calls(self, number: int) -> float:
        """How many RPCs a process has answered."""
        _, metrics = await self.page(self.ops + number, "/metrics")
        lines = (line for line in metrics.splitlines() if line.startswith("reward_rpc_finished_total{"))
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    @contextlib.asynccontextmanager
    async def callers(self) -> AsyncIterator[list[Connected]]:
        """So many connections that each process has one at least."""
        async with contextlib.AsyncExitStack() as stack:
            made: list[Connected] = []
            while not (made and all([await self.calls(number) for number in range(COUNT)])):
                assert len(made) < CONNECTIONS, "all connections lead to one process"
                made.append(one := Connected(self.place.grpc_port))
                stack.push_async_callback(one.close)
                await one.products.ListProducts(catalog_service_pb2.ListProductsRequest(), metadata=one.metadata)
            yield made


def ports() -> int:
    """The first of as many free ports in a row as there are processes."""
    while True:
        found = [free_port() for _ in range(COUNT)]
        if found == list(range(found[0], found[0] + COUNT)):
            return found[0]


def a_place(folder: Path, store_url: str, sandbox_url: str, *, ops: int, **fields: Any) -> Place:
    """Where several processes are to run."""
    return Place(
        folder=folder,
        sandbox_url=sandbox_url,
        account={**QUICK, "max_in_flight": 32},
        kinds=("kasushou",),
        store=f'url = "{store_url}"\nlease_seconds = 1.0\npoll_seconds = 0.2',
        extra=f'[ops]\nbind = "127.0.0.1:{ops}"',
        **fields,
    )


def several(place: Place) -> Path:
    """The configuration of several processes."""
    config = place.write()
    config.write_text(config.read_text().replace("[grpc]\n", f"[grpc]\nprocesses = {COUNT}\n", 1))
    return config


@contextlib.asynccontextmanager
async def group(folder: Path, store_url: str) -> AsyncIterator[Group]:
    """Several processes that serve, and none left afterwards."""
    async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
        ops = ports()
        place = a_place(folder, store_url, sandbox.url, ops=ops)
        config = several(place)
        with (folder / "server.log").open("ab") as output:
            parent = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "reward_server", "serve", "--config", str(config),
                stdout=output, stderr=output, env={**os.environ, "REWARD_LOGGING__FORMAT": "json"},
            )  # fmt: skip
        one = Group(place, config, ops, sandbox, parent)
        known: list[psutil.Process] = []
        try:
            await until(lambda: parent.returncode is not None or one.lines("all processes serve"))
            assert parent.returncode is None, one.log[-4000:]
            yield one
        finally:
            if parent.returncode is None:
                known = psutil.Process(parent.pid).children()
                parent.kill()
                await parent.wait()
            for process in known:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            assert await gone(known)


async def gone(processes: list[psutil.Process]) -> bool:
    """Waits until none of them is left."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=PATIENCE)
    return not alive


async def test_connections_reach_all_processes_and_each_order_is_bought_once(tmp_path: Path, store_url: str) -> None:
    """Also one that is sent over several connections at once. Suppliers call back to any process; each has metrics and
    readiness of its own.
    """
    async with group(tmp_path, store_url) as one, one.callers() as callers:
        names = [f"order-{n}" for n in range(10)]
        answers = await asyncio.gather(
            *(caller.create("kasushou/card", name) for name in names for caller in callers[-5:])
        )
        order_ids = {answer.order.order_id for answer in answers}
        assert len(order_ids) == len(names)
        orders = await asyncio.gather(*(callers[0].until(order_id) for order_id in order_ids))
        assert {order.state for order in orders} == {State.ORDER_STATE_FULFILLED}
        await one.told("callback taken")
        assert len(one.sandbox.books("kasushou")["orders"]) == len(names)
        for number in range(COUNT):
            assert await one.page(one.ops + number, "/readyz") == (200, "ok\n")
        # Whoever asks there gets any of them, and wouldn't know which.
        assert (await one.page(one.place.http_port, "/metrics"))[0] == 404
        (ready,) = one.lines("all processes serve")
        assert ready["ops"] == [f"127.0.0.1:{one.ops + number}" for number in range(COUNT)]
        assert sorted(entry["process"] for entry in one.lines("ready")) == list(range(COUNT))


@pytest.mark.parametrize("held", range(COUNT))
async def test_the_doctor_looks_at_every_process(tmp_path: Path, store_url: str, held: int) -> None:
    """All are well; then one is gone and held back by an edited configuration, be it the first or another one. The
    doctor names it, and doesn't have anybody stop those that serve.
    """
    async with group(tmp_path, store_url) as one:
        report = await examine(load_settings(one.config, {}), {}, offline=True)
        assert said(report, "server").count("ok: runs and takes orders") == COUNT
        before = one.config.read_text()
        one.config.write_text(before.replace("[ops]", "[stream]\nheartbeat_seconds = 20\n[ops]", 1))
        one.processes()[held].kill()
        await one.told("no process follows yet")
        report = await examine(load_settings(one.config, {}), {}, offline=True)
    found = said(report, "server")
    assert f"problem: 1 of {COUNT} processes don't answer: http://127.0.0.1:{one.ops + held} " in found
    assert "leave them" in found
    assert f"ok: runs and takes orders, says http://127.0.0.1:{one.ops + 1 - held}/readyz" in found
    assert "stop it" not in found
    assert f"{COUNT} replicas and one more want" in said(report, "store")


async def test_a_killed_process_is_replaced_and_loses_nothing(tmp_path: Path, store_url: str) -> None:
    """The others go on meanwhile, and its orders end: those that were bought are delivered, and bought once. One that
    is stopped by a signal of its own drains and is replaced as well.
    """
    async with group(tmp_path, store_url) as one, one.callers() as callers:
        made = [caller.create("kasushou/card-delayed", f"order-{n}") for n, caller in enumerate(callers * 3)]
        order_ids = [answer.order.order_id for answer in await asyncio.gather(*made)]
        killed = one.processes()[1]
        killed.kill()
        (ended,) = await one.told("a process ended; another one follows")
        assert (ended["process"], ended["exit_code"]) == (1, -signal.SIGKILL)
        await one.told("ready", times=COUNT + 1)
        assert one.processes()[1].pid != killed.pid
        assert await one.page(one.ops + 1, "/readyz") == (200, "ok\n")
        follower = Connected(one.place.grpc_port)
        orders = [await follower.until(order_id) for order_id in order_ids]
        await follower.close()
        # One that was about to be sent may prove never sent; it isn't lost, and isn't bought.
        delivered = [order for order in orders if order.state == State.ORDER_STATE_FULFILLED]
        assert all(order.state in TERMINAL for order in orders)
        assert len(one.sandbox.books("kasushou")["orders"]) == len(delivered)
        assert len(delivered) > 0
        one.processes()[0].terminate()
        _, ended = await one.told("a process ended; another one follows", times=2)
        assert (ended["process"], ended["exit_code"]) == (0, 0)
        *_, ready = await one.told("ready", times=COUNT + 2)
        assert ready["process"] == 0


async def test_signals_to_the_parent_reach_all_processes(tmp_path: Path, store_url: str) -> None:
    """SIGHUP has them read their configuration, SIGTERM drains them, and the exit code says that all is well."""
    async with group(tmp_path, store_url) as one:
        one.parent.send_signal(signal.SIGHUP)
        told = await one.told("configuration taken over", times=COUNT)
        assert sorted(entry["process"] for entry in told) == list(range(COUNT))
        processes = list(one.processes().values())
        one.parent.terminate()
        assert await one.ended() == 0
        assert await gone(processes)
        assert sorted(entry["process"] for entry in one.lines("stopped")) == list(range(COUNT))
        assert not one.lines("a process ended; another one follows")


async def test_signals_to_all_at_once_are_one_signal(tmp_path: Path, store_url: str) -> None:
    """As systemd sends them to every process of a unit, or a terminal: none takes it for the second, which would end
    it at once.
    """
    async with group(tmp_path, store_url) as one:
        for pid in (*(process.pid for process in one.processes().values()), one.parent.pid):
            os.kill(pid, signal.SIGTERM)
        assert await one.ended() == 0
        assert sorted(entry["process"] for entry in one.lines("stopped")) == list(range(COUNT))


async def test_a_signal_to_all_while_one_still_loads_is_an_ordinary_stop(tmp_path: Path, store_url: str) -> None:
    """It has no handler yet, so the signal ends it; it had begun nothing."""
    config = several(a_place(tmp_path, store_url, "http://127.0.0.1:9", ops=ports()))
    with (tmp_path / "server.log").open("wb") as output:
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "reward_server", "serve", "--config", str(config),
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        [first] = await until(psutil.Process(parent.pid).children)
        first.suspend()
        os.killpg(parent.pid, signal.SIGTERM)
        first.resume()
        async with asyncio.timeout(PATIENCE):
            assert await parent.wait() == 0
        assert await gone([first])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        await parent.wait()
    assert "killed by signal" not in (tmp_path / "server.log").read_text()


async def test_a_second_signal_ends_all_at_once(tmp_path: Path, store_url: str) -> None:
    """Also one that stands still, and would never drain."""
    async with group(tmp_path, store_url) as one:
        processes = one.processes()
        processes[0].suspend()
        one.parent.terminate()
        await one.told("draining")
        one.parent.terminate()
        assert await one.ended() == 1
        assert await gone(list(processes.values()))


async def test_processes_stop_when_their_parent_is_killed(tmp_path: Path, store_url: str) -> None:
    """In order, as after a signal; then the port is free for the next."""
    async with group(tmp_path, store_url) as one:
        processes = list(one.processes().values())
        assert len(processes) == COUNT
        one.parent.kill()
        await one.ended()
        assert await gone(processes)
        assert sorted(entry["process"] for entry in one.lines("stopped")) == list(range(COUNT))


async def test_no_process_follows_with_another_configuration(tmp_path: Path, store_url: str) -> None:
    """It would be another server than those beside it: the log says which keys need a restart of all."""
    async with group(tmp_path, store_url) as one:
        before = one.config.read_text()
        one.config.write_text(before.replace("[ops]", "[stream]\nheartbeat_seconds = 20\n[ops]", 1))
        one.processes()[0].kill()
        waiting, *_ = await one.told("no process follows yet")
        assert waiting["process"] == 0
        assert "stream.heartbeat_seconds" in waiting["why"]
        one.config.write_text(before)
        await one.told("ready", times=COUNT + 1)


async def test_nobody_shares_the_port_by_accident(tmp_path: Path, store_url: str) -> None:
    """Neither another parent with its processes nor a single server; each is told which port is taken."""
    async with group(tmp_path, store_url) as one:
        for name, taken in (("grpc", one.place.grpc_port), ("http", one.place.http_port)):
            folder = tmp_path / name
            folder.mkdir()
            ours = a_place(folder, store_url, one.place.sandbox_url, ops=ports(), **{f"{name}_port": taken})
            # The key that seals what is in the database.
            (folder / "master.key").write_bytes((tmp_path / "master.key").read_bytes())
            (folder / "master.key").chmod(0o600)
            for config in (several, Place.write) if name == "grpc" else (several,):
                code, output = await serve(config(ours))
                assert code == 1, output
                assert f"{name}.bind: can't listen on 127.0.0.1:{taken}" in output
                assert "Traceback" not in output


async def test_a_taken_port_of_one_process_stops_the_start(tmp_path: Path, store_url: str) -> None:
    """The others don't stay alone: the message names the port, and the exit code is that of the one that failed."""
    ops = ports()
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", ops + 1)
    async with taken:
        code, output = await serve(several(a_place(tmp_path, store_url, "http://127.0.0.1:9", ops=ops)))
    assert code == 1
    assert output.count(f"ops.bind: can't listen on 127.0.0.1:{ops + 1}") == 1
    assert "Traceback" not in output


async def test_what_keeps_all_from_starting_is_told_once(tmp_path: Path, database: str) -> None:
    """Here the database has no schema."""
    code, output = await serve(several(a_place(tmp_path, database, "http://127.0.0.1:9", ops=ports())))
    assert code == 1
    assert output.count("reward-server: ") == 1
    assert "reward-server migrate" in output
    assert "Traceback" not in output


async def test_a_sqlite_file_has_one_process(tmp_path: Path) -> None:
    """Said as a problem of the configuration, before anything is started."""
    config = several(Place(folder=tmp_path, sandbox_url="http://127.0.0.1:9"))
    code, output = await serve(config)
    assert code == 2
    assert "grpc.processes" in output
    assert "SQLite" in output


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        ({"REWARD_GRPC__BIND": "127.0.0.1:0"}, "grpc.bind"),
        ({"REWARD_HTTP__BIND": "127.0.0.1:0"}, "http.bind"),
        ({"REWARD_OPS__BIND": "127.0.0.1:65535"}, "ops.bind"),
        ({"REWARD_GRPC__PROCESSES": "0"}, "grpc.processes"),
    ],
)
def test_ports_that_several_processes_cannot_have_are_problems(
    tmp_path: Path, environ: dict[str, str], where: str
) -> None:
    """No port, or none left for the last one."""
    store = "postgresql://nobody@127.0.0.1/nothing"
    config = several(a_place(tmp_path, store, "http://127.0.0.1:9", ops=ports()))
    with pytest.raises(ConfigError) as refused:
        load_settings(config, environ)
    assert [problem.where for problem in refused.value.problems] == [where]
