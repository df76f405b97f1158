"""Several servers on one machine behind the same ports (`grpc.processes`), and the parent that keeps them running.

Each is a whole replica (docs/scaling.md) in a process of its own; the kernel deals new connections out to them
(SO_REUSEPORT). The parent serves nobody, opens no store and loads no gRPC. A line leads from each process to its
parent. Over it the process says that it serves, and hears that it is to read its configuration again; the line's end
means that it is to stop. So the processes stop as well when the parent is gone without a word, and a process manager
that signals all of them at once doesn't count as somebody who signals twice.
"""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from reward_server.config import Address, ConfigError, Settings
from reward_server.reloading import needs_restart

log = structlog.get_logger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1

SERVES = b"s"
"""What a process says when it takes calls."""
RELOAD = b"r"
"""What it is told to have it read its configuration."""

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds before another process takes the place of one that ended: more each time, until one has lasted."""
LASTED_SECONDS = 60.0
STOPPED = frozenset({-signal.SIGTERM, -signal.SIGINT})
"""How a process ends that is told to stop while it still loads the program. It has begun nothing yet."""
OURS_FOLLOWS_SECONDS = 1.0
"""Whoever signals all processes, one after the other, may reach this one last."""


def cannot_listen(key: str, address: Address, error: OSError | RuntimeError) -> str:
    """What to do when an address can't be listened on."""
    return (
        f"{key}: can't listen on {address}: {getattr(error, 'strerror', None) or error}. "
        "Is another server running? Stop it, or configure another port."
    )


# --- The process -----------------------------------------------------------------------------------------------------


class Lifeline:
    """A process's end of the line to its parent: its standard input."""

    def __init__(self) -> None:
        """Raises OSError where standard input is no such line: nobody but the parent starts a process like this."""
        self._socket = socket.socket(fileno=sys.stdin.fileno())
        self._socket.setblocking(False)

    def follow(self, *, reload: Callable[[], None], stop: Callable[[], None]) -> None:
        """Calls these when the parent says so. `stop` is called once."""
        loop = asyncio.get_running_loop()

        def hear() -> None:
            try:
                said = self._socket.recv(len(RELOAD))
            except BlockingIOError:
                return
            except OSError:
                said = b""
            if said:
                reload()
                return
            loop.remove_reader(self._socket)
            stop()

        loop.add_reader(self._socket, hear)

    def tell_serving(self) -> None:
        """This process takes calls now."""
        with contextlib.suppress(OSError):
            # The parent may be gone; then `stop` is called.
            self._socket.send(SERVES)


def end_with_stdin() -> None:
    """Kills this process once its standard input ends, which nobody writes to: whoever started it is gone.

    Hard, so that the ports are free at once: what was under way is on disk, as after any crash.
    """

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


# --- The parent ------------------------------------------------------------------------------------------------------


def run_processes(settings: Settings, config: Path | None, *, core_dumps: bool) -> int:
    """Keeps `grpc.processes` processes running until SIGTERM or SIGINT, and returns the exit code.

    When one can't even be started the first time all end, with the exit code of that one, which said why. A second
    signal ends at once.
    """
    if why := taken_port(settings):
        return _complain(why)
    command = [sys.executable, "-P", "-m", "reward_server", "serve"]
    if config is not None:
        command += ["--config", str(config)]
    if core_dumps:
        command.append("--core-dumps")
    return asyncio.run(Parent(settings, command).run())


def taken_port(settings: Settings) -> str:
    """Says which of the ports that the processes will share somebody listens on already; "" when nobody does.

    They couldn't tell: if that is such a process of another parent, they would share the port with it. (Two parents
    that start within the same second still would.) What else keeps a server from a port it says better itself.
    """
    for key, address in settings.shared_addresses.items():
        try:
            places = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except socket.gaierror:
            continue
        for family, kind, protocol, _, place in places:
            try:
                with socket.socket(family, kind, protocol) as probe:
                    # As servers do: connections of a former one that are still being forgotten don't count.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(place)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return cannot_listen(key, address, error)
    return ""


def _complain(why: str) -> int:
    print(f"reward-server: {why}", file=sys.stderr)  # noqa: T201 - told to whoever started it, log or not
    return EXIT_FAILED


@dataclass(frozen=True, slots=True)
class _Child:
    """One process, running or ended."""

    process: asyncio.subprocess.Process
    line: socket.socket
    born: float
    """By the steady clock, seconds."""

    async def serves(self) -> bool:
        """Waits until it takes calls; False when it ended before."""
        try:
            return bool(await asyncio.get_running_loop().sock_recv(self.line, len(SERVES)))
        except OSError:
            return False

    def reload(self) -> None:
        """Tells it to read its configuration again."""
        with contextlib.suppress(OSError):
            self.line.send(RELOAD)

    def stop(self) -> None:
        """Tells it to stop."""
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_WR)


class Parent:
    """Starts the processes, puts another one in the place of each that ends, and stops them."""

    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        """`command` starts a process; its number follows."""
        self._settings = settings
        self._command = command
        self._children: dict[int, _Child] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Until a signal. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        failed = await self._start_all()
        if failed is not None:
            self._stop()
        codes = await asyncio.gather(*(self._keep(number) for number in self._children))
        return (EXIT_FAILED if any(codes) else EXIT_OK) if failed is None else failed

    async def _start_all(self) -> int | None:
        """None when all serve, or are told to stop already; else the exit code of one that couldn't be started."""
        settings = self._settings
        # One alone first: what keeps it from starting keeps all of them, and is to be told once.
        if (code := await self._started(0)) is not None or self._stopping.is_set():
            return code
        codes = await asyncio.gather(*map(self._started, range(1, settings.grpc.processes)))
        if failed := [code for code in codes if code is not None]:
            return failed[0]
        if self._stopping.is_set():
            return None
        log.info(
            "all processes serve",
            count=settings.grpc.processes,
            grpc=str(settings.grpc.bind),
            http=str(settings.http.bind),
            ops=[str(settings.of_process(number).ops_address) for number in self._children],
        )
        return None

    async def _started(self, number: int) -> int | None:
        """Starts one and waits until it serves. The exit code of one that can't; None when it serves, or all stop."""
        try:
            child = await self._start(number)
        except OSError as error:
            return _complain(f"no process can be started: {error}")
        if await child.serves():
            return None
        code = await child.process.wait()
        if code in STOPPED and await self._stopped_within(OURS_FOLLOWS_SECONDS):
            return None
        # A signal leaves it no time to say anything itself.
        return code if code >= 0 else _complain(f"a process was killed by signal {-code} while it started")

    async def _start(self, number: int) -> _Child:
        ours, its = socket.socketpair()
        ours.setblocking(False)
        try:
            with its:
                command = (*self._command, "--process", str(number))
                process = await asyncio.create_subprocess_exec(*command, stdin=its.fileno())
        except BaseException:
            ours.close()
            raise
        child = self._children[number] = _Child(process, ours, time.monotonic())
        if self._stopping.is_set():
            child.stop()
        return child

    async def _keep(self, number: int) -> int:
        """Has another process started whenever the one with this number ended; its exit code when all are stopped."""
        pause = FIRST_PAUSE
        while True:
            child = self._children[number]
            code = await child.process.wait()
            child.line.close()
            if self._stopping.is_set():
                return EXIT_OK if code in STOPPED else code
            if time.monotonic() - child.born > LASTED_SECONDS:
                pause = FIRST_PAUSE
            log.error("a process ended; another one follows", process=number, exit_code=code, seconds=pause)
            while True:
                if await self._stopped_within(pause):
                    # What that one left undone is on disk; the next start, or another server, goes on with it.
                    return EXIT_OK
                pause = min(2 * pause, LONGEST_PAUSE)
                if not (why := await self._replace(number)):
                    break
                log.error("no process follows yet", process=number, why=why, seconds=pause)

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def _replace(self, number: int) -> str:
        """Starts another process, or says why that can't be now; "" when it was started.

        One that is configured otherwise than those beside it would be another server behind their port.
        """
        read_again = self._settings.read_again
        try:
            changed = self._settings if read_again is None else await asyncio.to_thread(read_again)
            if keys := needs_restart(self._settings, changed):
                return f"these changes need a restart: {', '.join(keys)}"
            await self._start(number)
        except ConfigError as error:
            return "; ".join(str(problem) for problem in error.problems)
        except OSError as error:
            return str(error)
        except Exception as error:
            # A defect of ours mustn't end those that serve.
            log.exception("a process can't be replaced")
            return type(error).__name__
        return ""

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            for child in self._children.values():
                with contextlib.suppress(ProcessLookupError):
                    child.process.kill()
            os._exit(EXIT_FAILED)
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        for child in self._children.values():
            child.stop()

    def _reload(self) -> None:
        for child in self._children.values():
            child.reload()
