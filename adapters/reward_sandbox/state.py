"""Keeps what the suppliers know in a file, so that a restart of the sandbox loses no order."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from decimal import InvalidOperation
from pathlib import Path
from typing import Final

from reward_sandbox.desk import Desk

log = logging.getLogger("reward_sandbox")

_FORMAT: Final = 2
_PAUSE: Final = 0.3
"""Seconds between two saves, in which changes are gathered."""
_SHARE: Final = 10
"""The pause is at least this many times what the last save took: full books must not slow the suppliers down."""


class StateError(Exception):
    """The file can't be read or written; the text says why."""


class Keeper:
    """The file of all desks. It is replaced whole: whoever reads it sees one moment, however the sandbox ended."""

    def __init__(self, path: Path, desks: Mapping[str, Desk]) -> None:
        self._path = path
        self._desks = desks
        self._changed = asyncio.Event()
        self._saving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Restore what is there and save from now on. Raises StateError."""
        self._load()
        try:
            self._save()
        except OSError as error:
            raise StateError(f"cannot write {self._path}: {error.strerror or error}") from error
        for desk in self._desks.values():
            desk.on_change = self._changed.set
        self._saving = asyncio.get_running_loop().create_task(self._save_changes())

    async def stop(self) -> None:
        """Save for the last time."""
        if self._saving is not None:
            self._saving.cancel()
            with suppress(asyncio.CancelledError):
                await self._saving
            self._try_to_save()

    def _load(self) -> None:
        try:
            state = json.loads(self._path.read_bytes())
            if state["format"] != _FORMAT:
                raise ValueError(f"its format is {state['format']!r}, not {_FORMAT}")
            for kind, desk in self._desks.items():
                desk.restore(state["suppliers"][kind])
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateError(f"cannot read {self._path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, InvalidOperation) as error:
            raise StateError(
                f"{self._path} holds no books of this sandbox ({error!r}); remove it to begin with empty ones"
            ) from error

    async def _save_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            began = time.monotonic()
            self._try_to_save()
            await asyncio.sleep(max(_PAUSE, _SHARE * (time.monotonic() - began)))

    def _try_to_save(self) -> None:
        try:
            self._save()
        except OSError as error:
            log.warning("cannot write %s: %s", self._path, error.strerror or error)

    def _save(self) -> None:
        suppliers = {kind: desk.as_state() for kind, desk in self._desks.items()}
        beside = self._path.with_name(f"{self._path.name}.new")
        # The cards are nobody else's business.
        with open(beside, "w", encoding="utf-8", opener=_private) as file:
            json.dump({"format": _FORMAT, "suppliers": suppliers}, file, ensure_ascii=False, separators=(",", ":"))
        beside.replace(self._path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
