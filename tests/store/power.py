"""A disk whose power can be cut: it writes down what the database does to its files, and rebuilds what a cut leaves.

One run of a test makes one history of writes, syncs and acknowledgements; each moment of it is a cut to look at. What
was synced before the cut is there. Of what was written since, nothing may be left, or some of the writes in whatever
order, or sectors of them: a disk has its own mind until it is told to sync.
"""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import apsw

SYSTEM = apsw.vfs_names()[0]
"""The files as they are without us."""

SECTOR = 512
"""Bytes that a disk writes whole; a write of several may be torn between them."""


class Left(StrEnum):
    """What a cut leaves of writes that weren't synced."""

    NOTHING = "nothing"
    SOME = "some of the writes"
    TORN = "some sectors of some of the writes"


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes handed to the system."""

    file: str
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cropped:
    """A file cut to a size."""

    file: str
    size: int


@dataclass(frozen=True, slots=True)
class Synced:
    """A sync that returned."""

    file: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """A file removed."""

    file: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Something of the test's own: an acknowledgement, a request that left."""

    what: object


Event = Write | Cropped | Synced | Deleted | Mark


class RecordingDisk(apsw.VFS):  # type: ignore[misc, unused-ignore]
    """The system's files, with a record of everything that is done to them. `name` is what to open a database with."""

    def __init__(self, name: str, *, by_default: bool = False) -> None:
        self.name = name
        self.history: list[Event] = []
        self._lock = threading.Lock()
        super().__init__(name, SYSTEM, makedefault=by_default)

    def note(self, event: Event) -> None:
        """Adds to the history; commits run in a thread of their own."""
        with self._lock:
            self.history.append(event)

    def mark(self, what: object) -> None:
        """Adds something of the test's own."""
        self.note(Mark(what))

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> "RecordingFile":
        return RecordingFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self.note(Deleted(Path(filename).name))


class RecordingFile(apsw.VFSFile):  # type: ignore[misc, unused-ignore]
    """One of its files."""

    def __init__(self, disk: RecordingDisk, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self._disk = disk
        full = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        self._file = Path(full).name
        super().__init__(SYSTEM, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.note(Write(self._file, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._disk.note(Cropped(self._file, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        # Only now: while it runs nothing is promised.
        self._disk.note(Synced(self._file))


@contextmanager
def recording(name: str, *, by_default: bool = False) -> Iterator[RecordingDisk]:
    """A disk that is gone afterwards; `by_default` for databases that are opened without naming one."""
    disk = RecordingDisk(name, by_default=by_default)
    try:
        yield disk
    finally:
        disk.unregister()


@dataclass(slots=True)
class _File:
    synced: bytearray = field(default_factory=bytearray)
    since: list[Write | Cropped] = field(default_factory=list)


def after_a_cut(history: list[Event], at: int, left: Left, chance: random.Random) -> dict[str, bytes]:
    """The files as a power cut just before event `at` leaves them."""
    files: dict[str, _File] = {}
    for event in history[:at]:
        match event:
            case Write() | Cropped():
                files.setdefault(event.file, _File()).since.append(event)
            case Synced():
                file = files.setdefault(event.file, _File())
                for change in file.since:
                    apply(file.synced, change)
                file.since.clear()
            case Deleted():
                files.pop(event.file, None)
    for file in files.values():
        for change in survivors(file.since, left, chance):
            apply(file.synced, change)
    return {name: bytes(file.synced) for name, file in files.items()}


def survivors(since: list[Write | Cropped], left: Left, chance: random.Random) -> list[Write | Cropped]:
    """What a cut leaves of changes that weren't synced."""
    if left is Left.NOTHING:
        return []
    chosen = [change for change in since if chance.random() < 0.5]
    if left is Left.SOME:
        return chosen
    return [piece for change in chosen for piece in _torn(change, chance)]


def _torn(change: Write | Cropped, chance: random.Random) -> list[Write | Cropped]:
    """Those sectors of a write that reached the medium; a write that isn't aligned shares its first with others."""
    if isinstance(change, Cropped):
        return [change]
    pieces: list[Write | Cropped] = []
    start = 0
    while start < len(change.data):
        end = min(len(change.data), start + SECTOR - (change.offset + start) % SECTOR)
        if chance.random() < 0.7:
            pieces.append(Write(change.file, change.offset + start, change.data[start:end]))
        start = end
    return pieces


def apply(content: bytearray, change: Write | Cropped) -> None:
    """Does to a file's content what was done to the file."""
    if isinstance(change, Cropped):
        content[:] = content[: change.size].ljust(change.size, b"\0")
        return
    end = change.offset + len(change.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[change.offset : end] = change.data


def put(files: dict[str, bytes], folder: Path) -> None:
    """Writes the files into an empty folder, as the machine finds them when it starts again."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def moments(history: list[Event], count: int, chance: random.Random) -> list[int]:
    """So many moments all over a history, its end included."""
    return [*(chance.randrange(len(history) + 1) for _ in range(count - 1)), len(history)]


def marks(history: list[Event], at: int, kind: type[Any]) -> list[Any]:
    """What the test noted of a kind before a moment."""
    return [event.what for event in history[:at] if isinstance(event, Mark) and isinstance(event.what, kind)]
