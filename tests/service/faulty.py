"""The server on a disk that fails when told to, with a clock that is wrong when told to; a program for tests.

    python faulty.py FAULTS serve --config FILE

FAULTS is a file that is read whenever the disk is written to or the clock is looked at. Its words: `full` (nothing can
be written for want of space), `write` and `sync` (writes and syncs fail), `ahead=SECONDS` (of the wall clock).
"""

import sys
from pathlib import Path

import apsw

from reward_server import app
from reward_server.__main__ import main
from reward_server.clock import Clock

AHEAD = "ahead="

SYSTEM = apsw.vfs_names()[0]
"""The files as they are without us."""


class Faults:
    """What is wrong at the moment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def words(self) -> list[str]:
        """As the file has them."""
        try:
            return self._path.read_text().split()
        except FileNotFoundError:
            return []

    def ahead_ms(self) -> int:
        """How wrong the wall clock is."""
        return sum(int(1000 * float(word.removeprefix(AHEAD))) for word in self.words() if word.startswith(AHEAD))


class FaultyDisk(apsw.VFS):  # type: ignore[misc, unused-ignore]
    """The system's files, where all databases are opened."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        super().__init__("faulty", SYSTEM, makedefault=True)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> "FaultyFile":
        return FaultyFile(self.faults, name, flags)


class FaultyFile(apsw.VFSFile):  # type: ignore[misc, unused-ignore]
    """One of them."""

    def __init__(self, faults: Faults, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self._faults = faults
        super().__init__(SYSTEM, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        words = self._faults.words()
        if "full" in words:
            raise apsw.FullError("no space left on device")
        if "write" in words:
            raise apsw.IOError("input/output error")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if "sync" in self._faults.words():
            raise apsw.IOError("input/output error")
        super().xSync(flags)


class WrongClock(Clock):
    """The machine's clocks, the wall clock as wrong as it is told to be."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def now_ms(self) -> int:
        return super().now_ms() + self._faults.ahead_ms()


def run() -> None:
    """Starts the shipped program with what follows the first argument."""
    faults = Faults(Path(sys.argv.pop(1)))
    _disk = FaultyDisk(faults)
    vars(app)["Clock"] = lambda: WrongClock(faults)
    main()


if __name__ == "__main__":
    run()
