"""Migrations: numbered SQL files, forward only, the same rules for every engine.

A migration is `NNNN_name.sql`; its first line is `-- oldest-program-schema: N`: programs whose own newest migration is
below N must not run on a database that has it. A change that only adds keeps the former number, so the program of the
day before may run on beside the new one; a change that an older program would trip over names its own.

A file that was applied somewhere never changes. This module decides what is to be done; the engine does it.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable

from reward_server.store import StoreRefused

_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_HEADER = re.compile(r"-- oldest-program-schema: (\d+)\n")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    number: int
    name: str
    oldest_program_schema: int
    sha256: str
    sql: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a database remembers of a migration."""

    number: int
    sha256: str
    oldest_program_schema: int


def load_migrations(folder: Traversable) -> tuple[Migration, ...]:
    """Reads an engine's migrations. Raises ValueError for a defect in them: they are part of the program."""
    names = sorted(file.name for file in folder.iterdir())
    found = [_read(folder / name, int(matched[1])) for name in names if (matched := _FILE.fullmatch(name))]
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("migrations must be numbered 1, 2, 3… without a gap")
    return tuple(found)


def _read(file: Traversable, number: int) -> Migration:
    # Text mode: a checkout with other line endings is still the same migration.
    sql = file.read_text(encoding="utf-8")
    header = _HEADER.match(sql)
    if header is None or not 1 <= int(header[1]) <= number:
        raise ValueError(f"{file.name} must begin with '-- oldest-program-schema: N', N from 1 to {number}")
    digest = hashlib.sha256(sql.encode()).hexdigest()
    return Migration(number, file.name, int(header[1]), digest, sql)


def pending(migrations: Sequence[Migration], applied: Sequence[Applied]) -> Sequence[Migration]:
    """The migrations that a database lacks. Raises StoreRefused when this program must not run on it."""
    ours = {migration.number: migration for migration in migrations}
    program_schema = max(ours, default=0)
    for row in applied:
        known = ours.get(row.number)
        if known is None:
            if row.oldest_program_schema > program_schema:
                raise StoreRefused(
                    f"the database has schema {row.number}, made by a newer program; it takes a program of schema"
                    f" {row.oldest_program_schema} or newer, and this one is of schema {program_schema}"
                )
        elif known.sha256 != row.sha256:
            raise StoreRefused(
                f"{known.name} isn't the file that was applied to the database: a migration must never change"
            )
    done = {row.number for row in applied}
    return [migration for migration in migrations if migration.number not in done]
