"""Programs under measurement: each in a process of its own, on the server's core."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward_bench.machine import PROJECT, SERVER_CORE, cpu_seconds, free_port, memory_mib, pinned, python

READY_SECONDS = 120.0
PATH = {"PYTHONPATH": os.pathsep.join([str(PROJECT / "benchmarks"), str(PROJECT / "tests"), *sys.path[1:]])}


@dataclass(frozen=True, slots=True)
class Running:
    """A program that is ready."""

    process: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.process.pid

    def cpu(self) -> float:
        """CPU seconds used so far."""
        return cpu_seconds(self.pid)

    def memory(self) -> float:
        """MiB that it holds."""
        return memory_mib(self.pid)

    def tell(self, command: str) -> None:
        """One line on its input, to a program of our own."""
        assert self.process.stdin is not None  # noqa: S101 - made with one
        self.process.stdin.write(command.encode() + b"\n")

    async def heard(self) -> Any:
        """Its next answer: a line of JSON."""
        assert self.process.stdout is not None  # noqa: S101 - made with one
        line = await self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a program under measurement ended:\n{self.log.read_text()[-3000:]}")
        return json.loads(line)


@asynccontextmanager
async def running(command: list[str], log: Path, environment: Mapping[str, str] = PATH) -> AsyncIterator[Running]:
    """Runs a program; it isn't waited for."""
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=-1, stdout=-1, stderr=file, limit=1 << 28, env={**os.environ, **environment}
        )
    try:
        yield Running(process, log)
    finally:
        if process.returncode is None:
            # Everything that is measured is on disk or worth nothing: no need for a polite end.
            process.kill()
        await process.wait()


@asynccontextmanager
async def helper(folder: Path, module: str, *arguments: str, core: int = SERVER_CORE) -> AsyncIterator[Running]:
    """Runs a program of this package, which says when it is ready."""
    async with running(python(core, f"reward_bench.{module}", *arguments), folder / "log") as program:
        await asyncio.wait_for(program.heard(), READY_SECONDS)
        yield program


async def commands() -> AsyncIterator[list[str]]:
    """What a program of this package is told."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().split()


def answer(what: Any) -> None:
    """What a program of this package says."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


# --- The service as shipped -------------------------------------------------------------------------------------------

SYNC, ASYNC, HELD = "sync", "async", "held"
"""Products: delivered in the answer, delivered after a callback, and one of which nothing is sent."""
IN_FLIGHT = 64
"""Requests that the supplier takes at a time in the measurements of whole orders: as many as there are callers."""
APP_SECRET = "bench-secret"  # noqa: S105 - nothing real is behind it


def configuration(folder: Path, *, grpc: int, http: int, supplier: int, store: str, in_flight: int | None) -> str:
    """The service's configuration: defaults, but for addresses and what one supplier of each kind takes at a time."""
    slots = "" if in_flight is None else f"max_in_flight = {in_flight}\n"
    product = "kind = 'card'\nface_value = '100.00'\n"
    offer = "supplier_product = '2909'\nunit_cost = '98.50'\nmax_unit_cost = '99.00'\n"
    return f"""
[grpc]
bind = "127.0.0.1:{grpc}"
[http]
bind = "127.0.0.1:{http}"
[store]
url = "{store}"
[secrets]
master_key_file = "{folder}/key"

[suppliers.sync]
adapter = "kaquan91_card"
base_url = "http://127.0.0.1:{supplier}/sync/"
appid = "bench"
appsecret = "{APP_SECRET}"
{slots}
[suppliers.async]
adapter = "kasushou"
base_url = "http://127.0.0.1:{supplier}/async/"
user_id = "bench"
apikey = "{APP_SECRET}"
{slots}
# One request that is never answered takes the only slot.
[suppliers.held]
adapter = "kaquan91_card"
base_url = "http://127.0.0.1:{supplier}/silent/"
appid = "bench"
appsecret = "{APP_SECRET}"
max_in_flight = 1
read_timeout = 600
send_by_seconds = 86400

[[products]]
id = "{SYNC}"
name = "delivered at once"
{product}
[[products.offers]]
supplier = "sync"
{offer}
parameters = {{ card_type = "1" }}
[[products]]
id = "{ASYNC}"
name = "delivered later"
{product}
[[products.offers]]
supplier = "async"
{offer}
[[products]]
id = "{HELD}"
name = "held back"
{product}
[[products.offers]]
supplier = "held"
{offer}
parameters = {{ card_type = "1" }}
"""


@dataclass(slots=True)
class Service:
    """Where a server of ours is, or will be."""

    folder: Path
    supplier: int = 9
    store: str = ""
    in_flight: int | None = IN_FLIGHT
    grpc: int = field(default_factory=free_port)
    http: int = field(default_factory=free_port)

    def configure(self) -> Path:
        """Writes its configuration, and its master key if there is none yet."""
        self.folder.mkdir(exist_ok=True)
        key = self.folder / "key"
        if not key.exists():
            new_master_key(key)
        config = self.folder / "reward.toml"
        config.write_text(
            configuration(
                self.folder,
                grpc=self.grpc,
                http=self.http,
                supplier=self.supplier,
                store=self.store or f"sqlite:///{self.folder}/reward.db",
                in_flight=self.in_flight,
            )
        )
        return config

    @asynccontextmanager
    async def run(self, core: int | None = SERVER_CORE) -> AsyncIterator[Running]:
        """Runs it until the end of the block; it is ready."""
        config = self.configure()
        # As from the console script: what `python -m` would put on the path stays off it.
        command = python(core, "reward_server", "serve", "--config", str(config))
        async with running(command, self.folder / "log") as program:
            await self.until_ready(program)
            yield program

    async def until_ready(self, program: Running) -> float:
        """Waits until it says that it is ready; returns the seconds since this was called."""
        begun = time.perf_counter()
        while not await ready(self.http):
            if program.process.returncode is not None or time.perf_counter() - begun > READY_SECONDS:
                raise SystemExit(f"the server didn't start:\n{program.log.read_text()[-3000:]}")
            await asyncio.sleep(0.02)
        return time.perf_counter() - begun


def new_master_key(key: Path) -> None:
    """Writes a master key as the operator would."""
    command = pinned(SERVER_CORE, [sys.executable, "-m", "reward_server", "new-master-key", str(key)])
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


async def ready(http_port: int) -> bool:
    """Whether a server says that it is."""
    try:
        return (await fetch(http_port, "/readyz")).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


async def fetch(port: int, path: str) -> bytes:
    """A page with its head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()


async def counted(http_port: int, names: Iterable[str]) -> dict[str, float]:
    """Counters of a server, the sum of all their labels."""
    text = (await fetch(http_port, "/metrics")).decode()
    totals = dict.fromkeys(names, 0.0)
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in totals:
            totals[name] += float(line.rsplit(" ", 1)[1])
    return totals
