"""A changed configuration, taken over while the server runs: clients, what they may do, issuers, certificates, master
keys.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from reward_server.config import AccountSettings, ConfigError, Settings

POLL_SECONDS = 2.0
"""Between two looks at the files: a few calls of the system, so often that nobody waits for a new key."""

SECTIONS = ("grpc", "http", "ops", "callbacks", "store", "logging", "stream", "cards", "tracing")
TAKEN_OVER = frozenset({"grpc.tls_certificate_file", "grpc.tls_key_file", "grpc.tls_client_ca_file"})

log = structlog.get_logger(__name__)


class Reloader:
    """Looks whether the configuration changed, checks the new one whole, and hands it over."""

    def __init__(self, settings: Settings, take: Callable[[Settings], None], looked: Callable[[], None]) -> None:
        """`take` gets a configuration without problems; `looked` is called after each look, changed or not."""
        self._running = settings
        """As at the start: what can't be taken over is still so."""
        self._current = settings
        self._take = take
        self._looked = looked
        self._asked = asyncio.Event()
        self._stamps = _stamps(settings)

    def ask(self) -> None:
        """Has the configuration read again now, changed or not."""
        self._asked.set()

    async def run(self) -> None:
        """Looks from time to time, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._asked.wait()
            stamps = _stamps(self._current)
            if self._asked.is_set() or stamps != self._stamps:
                self._asked.clear()
                self._stamps = stamps
                await self._reload(stamps)
            self._looked()

    async def _reload(self, stamps: list[tuple[int, int, int] | None]) -> None:
        if self._current.read_again is None:
            return
        try:
            settings = await asyncio.to_thread(self._current.read_again)
        except ConfigError as error:
            for problem in error.problems:
                log.error("the changed configuration isn't used", problem=str(problem))
            return
        except Exception:
            # A defect of ours mustn't end the looking: a key may be withdrawn next.
            log.exception("the changed configuration isn't used")
            return
        if settings.uses_dev_keys and not self._running.uses_dev_keys:
            # A file that is half written, or the wrong one: nobody means to let strangers in.
            why = "clients: there is none any more, and the published keys would be accepted"
            log.error("the changed configuration isn't used", problem=why)
            return
        self._take(settings)
        # What is written while it is being read has to be seen as a change: the stamps are those from before. Other
        # files than before are read once more, since nobody looked at them then.
        self._stamps = stamps if _files(settings) == _files(self._current) else []
        self._current = settings
        log.info("configuration taken over", clients=len(settings.clients))
        if waiting := needs_restart(self._running, settings):
            log.warning("these changes need a restart", keys=waiting)


def needs_restart(running: Settings, changed: Settings) -> list[str]:
    """The keys that differ and can't be taken over by a running server."""
    found = []
    for section in SECTIONS:
        before, after = getattr(running, section), getattr(changed, section)
        for key in type(before).model_fields:
            name = f"{section}.{key}"
            then, now = getattr(before, key), getattr(after, key)
            if name in TAKEN_OVER:
                # Other files are fine; whether there is TLS at all is decided when the port is taken.
                then, now = then is None, now is None
            if then != now:
                found.append(name)
    names = sorted({*running.accounts, *changed.accounts})
    before, after = running.accounts, changed.accounts
    found += [f"suppliers.{name}" for name in names if _facts(before.get(name)) != _facts(after.get(name))]
    if running.products != changed.products:
        found.append("products")
    return found


def _facts(account: AccountSettings | None) -> Any:
    """Everything that was configured; the object that is made of it is another one each time."""
    if account is None:
        return None
    names = [item.name for item in dataclasses.fields(account) if item.name != "supplier"]
    return [getattr(account, name) for name in names]


def _stamps(settings: Settings) -> list[tuple[int, int, int] | None]:
    return [_stamp(file) for file in _files(settings)]


def _files(settings: Settings) -> tuple[Path | None, ...]:
    grpc = settings.grpc
    return (
        settings.file,
        grpc.tls_certificate_file,
        grpc.tls_key_file,
        grpc.tls_client_ca_file,
        settings.jwt.jwks_file,
        settings.master_keys.source,
    )


def _stamp(file: Path | None) -> tuple[int, int, int] | None:
    try:
        facts = None if file is None else file.stat()
    except OSError:
        # Being replaced; that it is gone is a change, and that it is back another one.
        return None
    return facts and (facts.st_mtime_ns, facts.st_size, facts.st_ino)
