"""`make run`: the server and the supplier sandbox together, for development.

Everything lives in `.run/`: a master key and the database stay from run to run, the configuration is written afresh.
Neither program outlives this one, nor does this one outlive `make`, also where somebody kills them: their ports are
free for the next run.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reward_server.config import Address, ConfigError, Settings, load_settings

FOLDER = Path(".run")
STATE = "sandbox-state.json"
"""What the suppliers know: they must remember the orders that the database remembers."""
SANDBOX = Address("127.0.0.1", 8090)
READY_WITHIN = 30.0
"""Seconds; usually it takes one or two."""
LOOK_EVERY = 0.05
LOOK_FOR_MAKE_EVERY = 0.5
SANDBOX_STOP_WITHIN = 5.0
LINE_LIMIT = 1 << 20


class DevError(Exception):
    """Something a developer has to mend."""


@dataclass(slots=True)
class Child:
    """One program that runs under us."""

    name: str
    process: Process
    output: asyncio.Task[None]

    async def ended(self) -> None:
        """Waits for its end; raises DevError."""
        code = await self.process.wait()
        await self.output
        raise DevError(f"the {self.name} ended by itself (exit code {code}); its last lines above say why")

    async def stop(self, within: float) -> None:
        """SIGTERM, and SIGKILL if that isn't enough."""
        if self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), within)
            except TimeoutError:
                _say(f"the {self.name} doesn't stop; killing it")
                self.process.kill()
                await self.process.wait()
        await self.output

    def kill(self) -> None:
        """SIGKILL."""
        if self.process.returncode is None:
            self.process.kill()


def main() -> int:
    """Runs until Ctrl-C; 0 after that, 1 when something went wrong."""
    try:
        return asyncio.run(_run())
    except DevError as error:
        _say(str(error))
    except ConfigError as error:
        _say(error.report())
    return 1


async def _run() -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: hurry.set() if stop.is_set() else stop.set())
    stopped = asyncio.create_task(stop.wait())
    orphaned = asyncio.create_task(_end_with(os.getppid())) if "MAKELEVEL" in os.environ else None
    config = await asyncio.to_thread(_prepare)
    settings = load_settings(config, os.environ)
    _check_ports([settings.grpc.bind, settings.http.bind, SANDBOX])
    children: list[Child] = []
    # Their standard input: it ends when this process does, however that ends.
    theirs, ours = os.pipe()
    try:
        sandbox = ["reward_sandbox", "serve", "--port", str(SANDBOX.port), "--state", str(FOLDER / STATE)]
        children.append(await _start("sandbox", sandbox, theirs))
        children.append(await _start("server", ["reward_server", "serve", "--config", str(config)], theirs))
        ends = [asyncio.create_task(child.ended()) for child in children]
        try:
            ready = asyncio.create_task(_ready(settings))
            await _first([ready, stopped, *ends])
            if not stop.is_set():
                _say(_welcome(settings))
                await _first([stopped, *ends])
        finally:
            for task in ends:
                task.cancel()
    finally:
        # The server first: while it drains it may still ask the sandbox.
        await _stop_all(children[::-1], hurry, settings.grpc.drain_seconds + 10)
        os.close(theirs)
        os.close(ours)
        if orphaned is not None:
            orphaned.cancel()
    return 0


async def _end_with(make: int) -> None:
    """Ends this process when the one that started it is gone. Who kills `make` means the server."""
    while os.getppid() == make:  # noqa: ASYNC110 - another process has no event to wait for
        await asyncio.sleep(LOOK_FOR_MAKE_EVERY)
    os._exit(1)


async def _stop_all(children: Sequence[Child], hurry: asyncio.Event, within: float) -> None:
    async def in_order() -> None:
        for child in children:
            await child.stop(within if child.name == "server" else SANDBOX_STOP_WITHIN)

    stopping, hurried = asyncio.create_task(in_order()), asyncio.create_task(hurry.wait())
    await asyncio.wait([stopping, hurried], return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        for child in children:
            child.kill()
    await stopping
    hurried.cancel()


async def _first(tasks: Sequence[asyncio.Task[object]]) -> None:
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _prepare() -> Path:
    """Makes `.run/` and what belongs in it; returns the configuration file."""
    folder = FOLDER.absolute()
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    key = folder / "master.key"
    if not key.exists():
        _output([sys.executable, "-m", "reward_server", "new-master-key", str(key)])
    catalogue = _output([sys.executable, "-m", "reward_sandbox", "products", "--sandbox-url", f"http://{SANDBOX}"])
    config = folder / "reward.toml"
    config.touch(mode=0o600)
    config.write_text(_header(folder, key) + catalogue, "utf-8")
    return config


def _header(folder: Path, key: Path) -> str:
    return "\n".join(
        [
            "# Written afresh by every `make run`. To change something, set a REWARD_… variable.",
            "[store]",
            f"url = {_quoted(f'sqlite:///{folder}/reward.db')}",
            "[secrets]",
            f"master_key_file = {_quoted(str(key))}",
            "[logging]",
            'format = "text"',
            "",
            "",
        ]
    )


def _quoted(text: str) -> str:
    """A TOML text; a JSON text is one as long as it holds no DEL."""
    return json.dumps(text, ensure_ascii=False)


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own programs
    if done.returncode != 0:
        raise DevError(f"`{' '.join(command[1:])}` failed:\n{done.stderr.strip()}")
    return done.stdout


def _check_ports(addresses: Sequence[Address]) -> None:
    for address in addresses:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host, address.port))
            except OSError as error:
                raise DevError(
                    f"can't listen on {address} ({error.strerror}): is `make run` running in another terminal? "
                    f"`ss -ltnp 'sport = :{address.port}'` shows who has the port"
                ) from None


async def _start(name: str, module: Sequence[str], stdin: int) -> Child:
    # A process group of its own keeps Ctrl-C from the child: we stop the two in order.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-um", *module, "--end-with-stdin",
        stdin=stdin, stdout=PIPE, stderr=STDOUT, process_group=0, limit=LINE_LIMIT,
    )  # fmt: skip
    assert process.stdout is not None  # noqa: S101 - it was asked for as a pipe
    return Child(name, process, asyncio.create_task(_pass_on(name, process.stdout)))


async def _pass_on(name: str, lines: asyncio.StreamReader) -> None:
    prefix = f"{name:<8}│ ".encode()
    if sys.stdout.isatty():
        prefix = b"\x1b[2m" + prefix + b"\x1b[0m"
    while line := await _line(lines):
        sys.stdout.buffer.write(prefix + line.rstrip(b"\n") + b"\n")
        sys.stdout.flush()


async def _line(lines: asyncio.StreamReader) -> bytes:
    try:
        return await lines.readline()
    except ValueError:
        return b"(a line that is too long)\n"


async def _ready(settings: Settings) -> None:
    try:
        async with asyncio.timeout(READY_WITHIN):
            await asyncio.gather(
                _until(lambda: _answers(SANDBOX, None)),
                _until(lambda: _answers(settings.ops_address or settings.http.bind, "/readyz")),
            )
    except TimeoutError:
        raise DevError(f"not ready after {READY_WITHIN:.0f} s; the lines above may say why") from None


async def _until(look: Callable[[], Awaitable[bool]]) -> None:
    while not await look():  # noqa: ASYNC110 - another process has no event to wait for
        await asyncio.sleep(LOOK_EVERY)


async def _answers(address: Address, path: str | None) -> bool:
    """Whether someone listens there and, with a path, answers it with 200."""
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    try:
        if path is None:
            return True
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        return (await reader.readline()).split()[1:2] == [b"200"]
    except OSError:
        return False
    finally:
        writer.close()


def _welcome(settings: Settings) -> str:
    grpc = settings.grpc.bind
    lines = [
        "RewardService is ready. Ctrl-C stops it; its data stays in .run/",
        "",
        f"gRPC       {grpc}",
        f"metrics    http://{settings.ops_address or settings.http.bind}/metrics",
        f"sandbox    http://{SANDBOX}/   (what the suppliers saw: http://{SANDBOX}/books)",
    ]
    if settings.uses_dev_keys:
        lines.append("keys       dev-key, dev-key-2 (a second client), dev-operator-key")
    lines += [
        "",
        "Next, in another terminal:",
        "  make demo                  order from all five suppliers, watch the cards arrive",
        "  .venv/bin/rewardctl --help",
        f"  {_grpcurl()} -plaintext -H 'authorization: Bearer dev-key' \\",
        f"    {grpc} rewardservice.v1.CatalogService/ListProducts",
    ]
    width = max(map(len, lines))
    frame = "─" * (width + 2)
    return "\n".join([f"┌{frame}┐", *(f"│ {line:<{width}} │" for line in lines), f"└{frame}┘"])


def _grpcurl() -> str:
    beside = Path(sys.executable).with_name("grpcurl")
    return ".venv/bin/grpcurl" if beside.exists() and not shutil.which("grpcurl") else "grpcurl"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
