"""Opens the file: the right SQLite, alone on it, private, and with the newest schema."""

import datetime
import fcntl
import os
import time
from importlib.resources import files
from pathlib import Path

import apsw

from reward_server import probes
from reward_server.store import StoreRefused
from reward_server.store.epochs import random_epoch
from reward_server.store.migrations import Applied, Migration, load_migrations, pending
from reward_server.store.sqlite.group import Commit
from reward_server.store.sqlite.sql import run
from reward_server.store.sqlite.store import SqliteStore

MIGRATIONS = load_migrations(files(__package__))

_BAD_SINCE, _GOOD_SINCE = (3, 7, 0), (3, 51, 3)
"""In between, a write racing with the reset of the write-ahead log could corrupt the database."""

_WAIT_FOR_LOCK_MS = 100
"""Only a foreign program can hold the lock. Waiting blocks the event loop, and the callers can try again."""

_WAL_KEPT_BYTES = 64 << 20
"""A log that a burst has made larger is cut back to this."""

_WRITE_CACHE_KIB = 64 << 10
"""Random client_order_ids touch pages all over their index: hold the upper levels of a large one."""

_READ_CACHE_KIB = 16 << 10


def open_sqlite(
    path: Path,
    *,
    commit: Commit | None = None,
    vfs: str | None = None,
    migrations: tuple[Migration, ...] = MIGRATIONS,
) -> SqliteStore:
    """Opens or creates a database, brings its schema up to date and keeps other processes out. Raises StoreRefused.

    `commit` and `vfs` replace how a commit is run and how files are written, for simulations.
    """
    writer, lock, epoch = open_alone(path, vfs=vfs, migrations=migrations)
    try:
        if moved := run(writer, "moved"):
            day = datetime.datetime.fromtimestamp(moved[0][0] / 1000, datetime.UTC).date()
            raise StoreRefused(f"this store was moved to PostgreSQL on {day}: its orders are bought from there")
        reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
        try:
            reader.set_busy_timeout(_WAIT_FOR_LOCK_MS)
            _pragmas(reader, query_only="ON", cache_size=-_READ_CACHE_KIB)
        except BaseException:
            reader.close()
            raise
    except BaseException as error:
        writer.close()
        os.close(lock)
        if refused := _refused(path, error):
            raise refused from error
        raise
    return SqliteStore(writer, reader, lock, epoch=epoch, commit=commit)


def open_alone(
    path: Path, *, vfs: str | None = None, migrations: tuple[Migration, ...] = MIGRATIONS
) -> tuple[apsw.Connection, int, int]:
    """Opens or creates a database, brings its schema up to date and keeps other processes out. Raises StoreRefused.

    Returns a connection, the descriptor that holds the lock, and the epoch.
    """
    refuse_bad_sqlite(apsw.sqlite_lib_version())
    lock = _prepare_file(path)
    writer: apsw.Connection | None = None
    try:
        writer = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
        _set_up_writer(writer)
        _migrate(writer, migrations)
        return writer, lock, _epoch(writer)
    except BaseException as error:
        if writer is not None:
            writer.close()
        os.close(lock)
        if refused := _refused(path, error):
            raise refused from error
        raise


def _refused(path: Path, error: BaseException) -> StoreRefused | None:
    if isinstance(error, StoreRefused):
        return StoreRefused(f"{path}: {error}")
    if isinstance(error, apsw.Error):
        return StoreRefused(f"{path} can't be used as a database: {error}")
    return None


def refuse_bad_sqlite(version: str) -> None:
    """Raises StoreRefused for a version of SQLite that may corrupt its files."""
    number = tuple(int(part) for part in version.split(".")[:3])
    if _BAD_SINCE <= number < _GOOD_SINCE:
        raise StoreRefused(
            f"SQLite {version} can corrupt a database (3.7.0 to 3.51.2 can); install apsw 3.51.3.0 or newer"
        )


def _prepare_file(path: Path) -> int:
    """Creates folder and file where missing, for this user alone, and takes the lock, which it returns."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreRefused(f"{path} can't be created or written: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # SQLite gives its log and its index the permissions of the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except BlockingIOError:
        os.close(lock)
        raise StoreRefused(f"{path} is in use by another process; only one may use a SQLite store") from None
    except OSError as error:
        os.close(lock)
        raise StoreRefused(f"{path} can't be created or written: {error}") from error
    return lock


def _set_up_writer(writer: apsw.Connection) -> None:
    writer.set_busy_timeout(_WAIT_FOR_LOCK_MS)
    mode = writer.execute("PRAGMA journal_mode = WAL").get
    if mode != "wal":
        raise StoreRefused(f"this file system allows no write-ahead log (journal mode {mode})")
    # A commit that returned survives a power cut: FULL syncs the log at every commit; on macOS only F_FULLFSYNC
    # reaches the medium.
    _pragmas(
        writer,
        synchronous="FULL",
        fullfsync="ON",
        checkpoint_fullfsync="ON",
        journal_size_limit=_WAL_KEPT_BYTES,
        cache_size=-_WRITE_CACHE_KIB,
        # What is erased is overwritten where its page is written anyway; pages that become free as a whole keep it.
        secure_delete="FAST",
    )
    # A process killed between the write of its last commit and the sync of it left a log that only the system's memory
    # may hold. What is read of it is acknowledged from now on, so it goes to the disk first: this syncs both files.
    [(busy, _, _)] = writer.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
    if busy:
        raise StoreRefused("another program holds the database: what its log has can't be brought to the disk")


def _pragmas(connection: apsw.Connection, **settings: str | int) -> None:
    for name, value in settings.items():
        # One by one and to the end: a statement behind one that answers with a row runs only when the row is fetched.
        connection.execute(f"PRAGMA {name} = {value}").fetchall()


def _migrate(writer: apsw.Connection, migrations: tuple[Migration, ...]) -> None:
    run(writer, "create_schema")
    applied = [Applied(*row) for row in run(writer, "applied_migrations")]
    for migration in pending(migrations, applied):
        probes.probe("migrate.begin")
        # All of a migration or nothing; a process that dies in between leaves the former schema.
        with writer:
            writer.execute(migration.sql).fetchall()
            probes.probe("migrate.applied")
            row = (migration.number, migration.sha256, int(time.time() * 1000), migration.oldest_program_schema)
            run(writer, "record_migration", *row)
            probes.probe("migrate.recorded")
        probes.probe("migrate.done")


def _epoch(writer: apsw.Connection) -> int:
    run(writer, "set_epoch", random_epoch())
    [(epoch,)] = run(writer, "epoch")
    return int(epoch)
