"""What the tests of the clients in other languages share: the real server to talk to, the kit, and programs to run."""

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import pytest

from reward_client_kit import SCENARIOS, Scenario, Verdict, command, play
from reward_sandbox import Sandbox, SandboxSettings
from service.bare import Authority, client_toml
from service.harness import Place, ServerProcess

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "clients"
BUILD = ROOT / ".build/clients"
SCENARIO_NAMES = [scenario.name for scenario in SCENARIOS]
PRINTED_TARGET = "127.0.0.1:50051"
"""Where a printed quickstart looks for the server: where `make run` puts it."""
KIT_SECONDS = 60.0
"""How long one scenario may take."""
KIT_JOBS = 4


def need(*programs: str) -> None:
    """Fails the test when a program isn't installed. It never skips: a client that nobody tried is no client."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.fail(f"not installed, or not on the PATH: {', '.join(missing)}", pytrace=False)


def code_block(page: Path, language: str) -> str:
    """The only block of code in a language on a page, as printed."""
    (block,) = re.findall(rf"^```{re.escape(language)}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert isinstance(block, str)
    return block


async def kit(
    words: Sequence[str], *, names: Sequence[str] = SCENARIO_NAMES, jobs: int = KIT_JOBS
) -> dict[str, Verdict]:
    """Plays scenarios (all of them unless named) to a client, a few at a time; the verdicts by name."""
    places = asyncio.Semaphore(jobs)

    async def one(scenario: Scenario) -> Verdict:
        async with places:
            return await play(scenario, command(words), KIT_SECONDS)

    chosen = [scenario for scenario in SCENARIOS if scenario.name in names]
    return {verdict.scenario: verdict for verdict in await asyncio.gather(*map(one, chosen))}


@dataclass(frozen=True, slots=True)
class Tls:
    """Files (PEM) for a client of a service with TLS: whom to trust, and who it is itself."""

    ca: Path
    certificate: Path
    key: Path


class RealService:
    """The shipped server, as a process of its own, and the sandbox of all suppliers, on free ports.

    `step_seconds` is how long a supplier takes for one stage of an order: the card of `kasushou/card` comes that much
    later (and after the server's next look, if no callback tells it). With `tls` the server speaks TLS and wants a
    certificate from its clients, too; `Tls` has the files. Everything else is as shipped, "dev-key" included.

    With `client_from_certificate` it does so, too, and that certificate names the only client there is: that one may do
    what "dev-key" may, and has no key, so that a call that sends any is refused. `clients` are lines of configuration
    that name (further) clients.
    """

    def __init__(
        self,
        folder: Path,
        *,
        step_seconds: float = 0.05,
        tls: bool = False,
        client_from_certificate: bool = False,
        clients: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._sandbox = Sandbox(SandboxSettings(port=0, step_seconds=step_seconds))
        self._server: ServerProcess | None = None
        self._resources = AsyncExitStack()
        self.tls = _issue(folder) if tls or client_from_certificate else None
        self._clients = clients
        if client_from_certificate:
            names = f'certificate_names = ["{_CERTIFIED}"]'
            self._clients += client_toml(_CERTIFIED, names, permissions="order read read_cards")

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as resources:
            await resources.enter_async_context(self._sandbox)
            place = Place(folder=self._folder, sandbox_url=self._sandbox.url, account={}, extra=self._clients)
            server = ServerProcess(place) if self.tls is None else _TlsServer(place, self.tls)
            self._server = await resources.enter_async_context(server)
            self._resources = resources.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    @property
    def target(self) -> str:
        """Where the server listens, as in "127.0.0.1:20001"."""
        return f"127.0.0.1:{self._running.place.grpc_port}"

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return self._running.output.read_text()

    async def kill(self) -> None:
        """SIGKILL: nothing is finished, nothing is flushed."""
        await self._running.kill()

    async def start_again(self) -> None:
        """Starts the server on the same port and store, and waits until it takes calls."""
        await self._running.start()

    def books(self, supplier: str) -> list[dict[str, Any]]:
        """What a supplier, as in "kasushou", says was bought."""
        orders: list[dict[str, Any]] = self._sandbox.books(supplier)["orders"]
        return orders

    @property
    def _running(self) -> ServerProcess:
        assert self._server is not None, "use it as: async with RealService(folder) as service"
        return self._server


class _TlsServer(ServerProcess):
    """A server that wants a certificate from everybody, also from whoever asks whether it is up."""

    def __init__(self, place: Place, tls: Tls) -> None:
        super().__init__(place)
        self._tls = tls

    async def start(self, config: Path | None = None, *, probe: bool = True) -> None:
        config = config or self.place.write()
        server = self.place.folder / "server"
        lines = (
            f'tls_certificate_file = "{server}.crt"\ntls_key_file = "{server}.key"\n'
            f'tls_client_ca_file = "{self._tls.ca}"\n'
        )
        config.write_text(config.read_text().replace("[grpc]\n", f"[grpc]\n{lines}", 1))
        await super().start(config, probe=probe)

    def _channel(self) -> grpc.aio.Channel:
        files = (self._tls.ca, self._tls.key, self._tls.certificate)
        credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
        return grpc.aio.secure_channel(f"127.0.0.1:{self.place.grpc_port}", credentials)


_CERTIFIED = "some-client"


def _issue(folder: Path) -> Tls:
    """Certificates for the server (`server.crt`) and one client."""
    authority = Authority(folder, "authority")
    authority.issue_for_server()
    return Tls(authority.file, *authority.issue(_CERTIFIED))


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program left behind."""

    code: int
    output: str
    errors: str


class Program:
    """A program that runs and prints."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self._process = process
        self._errors = errors

    async def line(self) -> str:
        """The next line that it prints, without its end; "" when there is none any more."""
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().removesuffix("\n")

    async def finished(self) -> Finished:
        """Waits for its end; `output` is what wasn't read by lines."""
        assert self._process.stdout is not None
        output = await self._process.stdout.read()
        return Finished(await self._process.wait(), output.decode(), self._errors.read_text())


@asynccontextmanager
async def running(
    *words: str | Path, errors: Path, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Program]:
    """Starts a program, in a folder and with variables added to ours; `errors` is a file for what it says there.

    It and whatever it started is killed on leaving.
    """
    with errors.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield Program(process, errors)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def run(
    *words: str | Path,
    errors: Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    within: float = 60.0,
) -> Finished:
    """Runs a program to its end, as `running` does. Raises TimeoutError after `within` seconds."""
    async with running(*words, errors=errors, folder=folder, environment=environment) as program:
        return await asyncio.wait_for(program.finished(), within)
