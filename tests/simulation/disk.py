"""A disk that fills up, fails, and whose power can be cut, under the store's SQLite.

The files are real ones in memory. What was synced of them is kept beside, so that a cut can leave exactly that, with
whatever of the rest chance lets survive.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from store.power import SYSTEM, Cropped, Left, Write, apply, survivors

NAME = "simulated"


@dataclass(slots=True)
class _Kept:
    synced: bytearray = field(default_factory=bytearray)
    since: list[Write | Cropped] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Leavings:
    """What a disk holds when its machine or its process dies."""

    files: dict[str, bytes] = field(default_factory=dict)
    """As the next process reads them."""
    synced: dict[str, bytes] = field(default_factory=dict)
    """As they are on the medium."""
    since: dict[str, tuple[Write | Cropped, ...]] = field(default_factory=dict)
    """What lies between the two."""


class Disk:
    """The files of one machine from one start of it to the next."""

    def __init__(self, folder: Path, left: "Leavings") -> None:
        """With what the last incarnation left."""
        self.folder = folder
        self.catching = False
        """Whether the next sync of the log is a moment to die at …"""
        self.caught: Leavings | None = None
        """… and what would be left if the process died then: written, and not yet synced."""
        self.full = False
        """No byte more for the log."""
        self.failing = False
        """The next sync of the log fails."""
        self.faults: Counter[str] = Counter()
        self._kept = {
            name: _Kept(bytearray(synced), list(left.since.get(name, ()))) for name, synced in left.synced.items()
        }
        folder.mkdir(parents=True)
        for name, content in left.files.items():
            (folder / name).write_bytes(content)

    @property
    def database(self) -> Path:
        """Where the store is."""
        return self.folder / "reward.db"

    def after_a_crash(self) -> "Leavings":
        """What the death of the process leaves: the system still has every write, the medium what was synced."""
        names = sorted(self._kept)
        return Leavings(
            {name: (self.folder / name).read_bytes() for name in names},
            {name: bytes(self._kept[name].synced) for name in names},
            {name: tuple(self._kept[name].since) for name in names},
        )

    def after_a_power_cut(self, left: Left, chance: random.Random) -> "Leavings":
        """The files as the death of the machine leaves them."""
        files = {}
        for name, kept in sorted(self._kept.items()):
            content = bytearray(kept.synced)
            for change in survivors(kept.since, left, chance):
                apply(content, change)
            files[name] = bytes(content)
        return Leavings(files, files, {})

    def wrote(self, change: Write | Cropped) -> None:
        """Bytes were handed to the system."""
        self._kept.setdefault(change.file, _Kept()).since.append(change)

    def synced(self, name: str) -> None:
        """A sync returned."""
        kept = self._kept.setdefault(name, _Kept())
        for change in kept.since:
            apply(kept.synced, change)
        kept.since.clear()

    def deleted(self, name: str) -> None:
        """A file is gone."""
        self._kept.pop(name, None)


class Disks(apsw.VFS):  # type: ignore[misc, unused-ignore]
    """SQLite's way to them, by folder."""

    def __init__(self) -> None:
        self._disks: dict[str, Disk] = {}
        super().__init__(NAME, SYSTEM)

    def add(self, disk: Disk) -> None:
        """Databases in its folder are on it."""
        self._disks[str(disk.folder)] = disk

    def forget(self) -> None:
        """All disks are gone."""
        self._disks.clear()

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> "_File":
        full = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        return _File(self._disks[str(Path(full).parent)], Path(full).name, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        path = Path(filename)
        self._disks[str(path.parent)].deleted(path.name)


class _File(apsw.VFSFile):  # type: ignore[misc, unused-ignore]
    def __init__(self, disk: Disk, file: str, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self._disk = disk
        self._file = file
        # The pages of the database itself are written by checkpoints, which may fail and try again another time.
        self._is_log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        super().__init__(SYSTEM, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._is_log and self._disk.full:
            self._disk.faults["a write met a full disk"] += 1
            raise apsw.FullError("no space left on device")
        super().xWrite(data, offset)
        self._disk.wrote(Write(self._file, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        self._disk.wrote(Cropped(self._file, newsize))

    def xSync(self, flags: int) -> None:
        if self._is_log and self._disk.failing:
            self._disk.failing = False
            self._disk.faults["a sync failed"] += 1
            raise apsw.IOError("input/output error")
        if self._is_log and self._disk.catching:
            self._disk.catching = False
            self._disk.caught = self._disk.after_a_crash()
        super().xSync(flags)
        self._disk.synced(self._file)
