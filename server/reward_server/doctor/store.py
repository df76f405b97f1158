"""Looks at the store without changing it, whoever works on it meanwhile."""

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from reward_server.clock import Clock
from reward_server.config import StoreSettings
from reward_server.doctor.findings import Report
from reward_server.store import Hold, SealedToken, StoreRefused, WrappedKey
from reward_server.store.migrations import Applied, Migration, pending
from reward_server.store.sqlite.opening import MIGRATIONS, refuse_bad_sqlite
from reward_server.store.sqlite.sql import run

AREA = "store"
SQLITE = "sqlite:///"

BUSY_MS = 2_000
SCARCE_BYTES, LITTLE_BYTES = 100 << 20, 1 << 30
"""Free disk space that is a problem, and that should be known."""
LONG_LOG_BYTES = 512 << 20
"""The server cuts its log back to 64 MiB; one this long means that something keeps it from doing so."""
SLOW_SYNC_SECONDS = 0.1
SKEW_HINT_SECONDS, SKEW_PROBLEM_SECONDS = 1.0, 5.0
TIMEOUT_SECONDS = 15.0

NEWEST_PURCHASE = "SELECT max(number) FROM purchases"

MIGRATE = "run `reward-server migrate` with this configuration"


@dataclass(slots=True)
class Seen:
    """What was read of the store; empty where it couldn't be."""

    keys: Sequence[WrappedKey] | None = None
    """Every wrapped data key; None: they couldn't be read."""
    tokens: Mapping[str, SealedToken] = field(default_factory=dict)
    holds: Sequence[Hold] = ()
    newest_number: str | None = None
    """Of all purchases: it tells when it was made."""
    in_use: bool = False
    """A server works on it."""


async def look_at_store(
    settings: StoreSettings, report: Report, *, clock: Clock, serving: bool, processes: int
) -> Seen:
    """Looks at the database of either kind.

    `serving`: a server of this configuration answered; `processes`: so many replicas it has when all run.
    """
    if settings.url.startswith(SQLITE):
        path = Path(settings.url.removeprefix(SQLITE))
        try:
            return await asyncio.to_thread(_look_at_sqlite, path, report, serving)
        except PermissionError as error:
            report.problem(
                AREA, f"{error.filename} can't be looked at: {error.strerror}", "run it as the server's user"
            )
            return Seen()
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await _look_at_postgres(settings, report, clock, serving=serving, processes=processes)
    except TimeoutError:
        report.problem(AREA, f"the database didn't answer within {TIMEOUT_SECONDS:g} s", "see whether it is overloaded")
        return Seen()


# --- SQLite -----------------------------------------------------------------------------------------------------------


def _look_at_sqlite(path: Path, report: Report, serving: bool) -> Seen:
    seen = Seen(in_use=_is_locked(path))
    try:
        refuse_bad_sqlite(apsw.sqlite_lib_version())
    except StoreRefused as error:
        report.problem(AREA, str(error), "install the versions of requirements.lock")
        return seen
    _look_at_disk(path, report)
    if not path.exists():
        report.hint(AREA, f"{path.absolute()} isn't there yet", "the first start makes it")
        seen.keys = ()
        return seen
    if seen.in_use:
        report.ok(AREA, "a server works on it; it is only read here")
        if not serving:
            mend = "is it a server with another configuration? See the process that has the file with ending .lock open"
            report.hint(AREA, "a process holds the store, and no server answers where this configuration says", mend)
    _look_at_rights(path, report)
    try:
        _read_sqlite(path, seen, report)
    except apsw.Error as error:
        if isinstance(error, apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError | apsw.AuthError):
            mend = "run it as the server's user"
        elif isinstance(error, apsw.BusyError | apsw.LockedError):
            mend = "another program has it: try again"
        else:
            mend = "if it isn't the database's file put back a backup, see docs/production.md"
        report.problem(AREA, f"{path.absolute()} can't be read: {error}", mend)
    return seen


def _is_locked(path: Path) -> bool:
    """Whether a server has the file. The lock that is tried is shared and given back at once: only a server that starts
    in that very moment would be refused, and start again.
    """
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _look_at_disk(path: Path, report: Report) -> None:
    folder = _existing(path.absolute().parent)
    free = shutil.disk_usage(folder).free
    if free < SCARCE_BYTES:
        report.problem(
            AREA, f"{_size(free)} of disk are free at {folder}", "make room: orders are refused on a full disk"
        )
    elif free < LITTLE_BYTES:
        report.hint(
            AREA, f"{_size(free)} of disk are free at {folder}", "make room soon; docs/scaling.md tells the need"
        )
    else:
        report.ok(AREA, f"{_size(free)} of disk are free")
    trial = folder / f".doctor-{secrets.token_hex(8)}"
    try:
        began = time.monotonic()
        with _trial_file(trial) as descriptor:
            os.write(descriptor, bytes(4096))
            os.fsync(descriptor)
        took = time.monotonic() - began
    except OSError as error:
        rights = f"mend its rights or mount; run this as the server's user{_if_root()}"
        mend = "make room: orders are refused meanwhile" if error.errno in (errno.ENOSPC, errno.EDQUOT) else rights
        report.problem(AREA, f"{folder} can't be written: {error.strerror}", mend)
        return
    if took > SLOW_SYNC_SECONDS:
        report.hint(AREA, f"writing 4 KiB to the disk took {1000 * took:.0f} ms", "every commit waits for that")
    else:
        report.ok(AREA, f"{folder} can be written")


@contextlib.contextmanager
def _trial_file(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        path.unlink()


def _look_at_rights(path: Path, report: Report) -> None:
    facts = path.stat()
    mode = stat.S_IMODE(facts.st_mode)
    if mode & 0o077:
        report.problem(AREA, f"{path.absolute()} is open to others (mode {mode:04o})", f"chmod 600 {path.absolute()}")
    if facts.st_uid != os.geteuid():
        what = f"the file belongs to user {facts.st_uid}, and this runs as {os.geteuid()}"
        report.hint(AREA, what, "run this as the server's user: rights were looked at for yours")
    elif not os.access(path, os.R_OK | os.W_OK):
        report.problem(AREA, f"{path.absolute()} can't be written", "mend its rights or mount")
    log = path.with_name(f"{path.name}-wal")
    with contextlib.suppress(FileNotFoundError):
        size = log.stat().st_size
        if size > LONG_LOG_BYTES:
            mend = "end other programs that have the database open; the next start of the server clears it"
            report.hint(AREA, f"the write-ahead log has {_size(size)}", mend)


def _read_sqlite(path: Path, seen: Seen, report: Report) -> None:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(BUSY_MS)
        # The log is the server's: who closes last must not be the one to bring it into the database.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        mode = connection.execute("PRAGMA journal_mode").get
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema'").get:
            report.hint(AREA, f"{path.absolute()} is empty", "the first start fills it")
            seen.keys = ()
            return
        if mode != "wal":
            report.problem(AREA, f"the journal mode is {mode}, not wal", "the server sets it at its start: start it")
        with connection:
            applied = [Applied(*row) for row in run(connection, "applied_migrations")]
            if not _look_at_schema(MIGRATIONS, applied, report, migrates=True):
                return
            if run(connection, "moved"):
                mend = "set store.url to that database; this file is only a copy from before"
                report.problem(AREA, "the store was moved to PostgreSQL", mend)
            keys = [WrappedKey(k, client, m, w) for client, k, m, w in run(connection, "all_data_keys")]
            seen.tokens = _tokens(connection.execute("SELECT account, sealed, fetched_at, expires_at FROM tokens"))
            seen.holds = [Hold(*row) for row in run(connection, "holds", "")]
            seen.newest_number = connection.execute(NEWEST_PURCHASE).get
            seen.keys = keys
    finally:
        connection.close()


def _tokens(rows: Any) -> dict[str, SealedToken]:
    return {row[0]: SealedToken(*row) for row in rows}


def _look_at_schema(
    migrations: tuple[Migration, ...], applied: list[Applied], report: Report, *, migrates: bool
) -> bool:
    """Whether this program can read the database. `migrates`: its server brings the schema up to date at its start."""
    try:
        missing = pending(migrations, applied)
    except StoreRefused as error:
        report.problem(AREA, str(error), "install the program that the database was last used by, or a newer one")
        return False
    newest = max((row.number for row in applied), default=0)
    if missing:
        names = ", ".join(migration.name for migration in missing)
        if migrates:
            report.hint(AREA, f"the database lacks {names}", "take a backup; the next start applies them")
        else:
            report.problem(AREA, f"the database lacks {names}", f"take a backup, then {MIGRATE}")
        return False
    report.ok(AREA, f"schema {newest}, as this program wants it")
    return True


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


async def _look_at_postgres(
    settings: StoreSettings, report: Report, clock: Clock, *, serving: bool, processes: int
) -> Seen:
    seen = Seen()
    try:
        import asyncpg  # noqa: PLC0415 - SQLite doesn't need the extra

        from reward_server.store.postgres.connecting import Hosts  # noqa: PLC0415
    except ImportError as error:
        mend = "pip install 'reward-service[server,postgres]'"
        report.problem(AREA, f"PostgreSQL needs a package that isn't there ({error.name})", mend)
        return seen
    options: dict[str, Any] = {"command_timeout": 10.0}
    if settings.behind_pooler:
        options["statement_cache_size"] = 0
    else:
        options["server_settings"] = {"application_name": "reward-server doctor"}
    try:
        connection = await Hosts(settings.url).connect(**options)
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        report.problem(AREA, f"the database refuses us: {error}", "mend user or password of store.url, or pg_hba.conf")
        return seen
    except ValueError:
        # What the library says may quote a part of the password.
        mend = "write postgresql://user@host:port/database, and signs such as / @ : ? of a password as %2F %40 %3A %3F"
        report.problem(AREA, "store.url isn't readable as a URL", mend)
        return seen
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        what = f"the database can't be reached: {str(error) or type(error).__name__}"
        report.problem(AREA, what, "is it running, are host, port and database of store.url right?")
        return seen
    try:
        # Once outside of a transaction, which would hold the clock of its beginning.
        skew, doubt = await _skew(connection, clock)
        async with connection.transaction(readonly=True, isolation="repeatable_read"):
            await _read_postgres(connection, settings, seen, report, serving=serving, processes=processes)
        _look_at_skew(skew, doubt, report)
    except asyncpg.InsufficientPrivilegeError as error:
        report.problem(AREA, f"the database refuses us: {error}", "GRANT what is missing, or make the user its OWNER")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        report.problem(AREA, f"the database can't be read: {error}", "look into the log of the database")
    finally:
        with contextlib.suppress(Exception):
            await connection.close(timeout=2.0)
    return seen


async def _read_postgres(
    connection: Any, settings: StoreSettings, seen: Seen, report: Report, *, serving: bool, processes: int
) -> None:
    from reward_server.store.postgres.opening import MIGRATIONS as NUMBERED  # noqa: PLC0415
    from reward_server.store.postgres.sql import STATEMENTS as SQL  # noqa: PLC0415

    _look_at_version(connection.get_server_version().major, report)
    await _look_at_durability(connection, SQL["durability"], report)
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        mend = "name all hosts in store.url with ?target_session_attrs=primary, see docs/scaling.md"
        report.problem(AREA, "this server is a standby: nothing can be written", mend)
    if not await connection.fetchval(SQL["has_schema"]):
        report.problem(AREA, "the database is empty", MIGRATE)
        return
    applied = [Applied(*row) for row in await connection.fetch(SQL["applied_migrations"])]
    if not _look_at_schema(NUMBERED, applied, report, migrates=False):
        return
    if "arriving" in dict(await connection.fetch(SQL["facts"])):
        report.problem(AREA, "a store is being moved into it", "run `reward-server migrate-store` to its end")
    lacking = [
        f"{right} on {table}"
        for table, right in (("orders", "INSERT"), ("orders", "UPDATE"), ("updates", "DELETE"), ("cards", "INSERT"))
        if not await connection.fetchval("SELECT has_table_privilege($1, $2)", table, right)
    ]
    if lacking:
        report.problem(AREA, f"the user lacks {', '.join(lacking)}", "GRANT it, or make the user the OWNER")
    else:
        report.ok(AREA, "the user may write")
    replicas = int(await connection.fetchval(SQL["count_replicas"]))
    seen.in_use = replicas > 0
    await _look_at_connections(connection, settings, max(replicas, processes), report)
    if seen.in_use:
        report.ok(AREA, f"{replicas} replica{'s' * (replicas != 1)} at work")
    elif serving:
        mend = "it has lost its lease or works on another database: look into its log"
        report.problem(AREA, "a server answers, and no replica works on this database", mend)
    seen.tokens = _tokens(await connection.fetch("SELECT account, sealed, fetched_at, expires_at FROM tokens"))
    seen.holds = [Hold(*row) for row in await connection.fetch(SQL["holds"])]
    seen.newest_number = await connection.fetchval(NEWEST_PURCHASE)
    rows = await connection.fetch(SQL["all_data_keys"])
    seen.keys = [WrappedKey(key, client, master, wrapped) for client, key, master, wrapped in rows]


def _look_at_version(major: int, report: Report) -> None:
    from reward_server.store.postgres.opening import OLDEST_SERVER  # noqa: PLC0415

    oldest = OLDEST_SERVER // 10_000
    if major < oldest:
        report.problem(AREA, f"PostgreSQL {major} is too old", f"it takes {oldest} or newer")
    else:
        report.ok(AREA, f"PostgreSQL {major}")


async def _look_at_durability(connection: Any, statement: str, report: Report) -> None:
    fsync, full_pages, synchronous = await connection.fetchrow(statement)
    if fsync and full_pages and synchronous != "off":
        report.ok(AREA, "what it acknowledges is on disk (fsync, full_page_writes, synchronous_commit)")
        return
    mend = "set fsync, full_page_writes and synchronous_commit to on: no server starts without"
    report.problem(AREA, "the database may lose what it has acknowledged", mend)


async def _look_at_connections(connection: Any, settings: StoreSettings, replicas: int, report: Report) -> None:
    room, used = await connection.fetchrow(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,"
        " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')"
    )
    # During an upgrade old and new replicas run side by side.
    need = (replicas + 1) * (settings.connections + 2)
    what = (
        f"{used} of {room} connections in use; {replicas} replica{'s' * (replicas != 1)} and one more want up to {need}"
    )
    if need > room and not settings.behind_pooler:
        report.hint(AREA, what, "raise max_connections, or lower store.connections")
    else:
        report.ok(AREA, what)


async def _skew(connection: Any, clock: Clock) -> tuple[float, float]:
    """How far the database's clock is ahead of ours, and by how much that may be wrong. Seconds."""
    tries = []
    for _ in range(3):
        before = clock.now_ms()
        theirs = await connection.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        after = clock.now_ms()
        tries.append(((after - before) / 2000, (theirs - (before + after) / 2) / 1000))
    doubt, skew = min(tries)
    return skew, doubt


def _look_at_skew(skew: float, doubt: float, report: Report) -> None:
    away = f"the database's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) - doubt > SKEW_PROBLEM_SECONDS:
        report.problem("clocks", away, "run NTP on both; some suppliers refuse requests with a wrong time")
    elif abs(skew) - doubt > SKEW_HINT_SECONDS:
        report.hint("clocks", away, "run NTP on both")
    else:
        report.ok("clocks", "the database's clock agrees with this machine's")


# --- Words ------------------------------------------------------------------------------------------------------------


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _if_root() -> str:
    return " (this is root)" if os.geteuid() == 0 else ""
