"""What is to be written into the audit, over a store that can't always write."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from reward_server import auditing
from reward_server.auditing import AuditLog
from reward_server.store import AuditEntry, StoreError, StoreUnavailable


class Shelf:
    """A store that keeps what it is given, as long as it can."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.full = False
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        """Keeps entries; one of "poison" it can't."""
        self.begun.set()
        await self.go_on.wait()
        if self.full:
            raise StoreUnavailable("no space left on device")
        if any(entry.reason == "poison" for entry in entries):
            raise ValueError("what is this?")
        self.kept += [entry.reason or entry.what for entry in entries]


class Alerts:
    """What operators would see."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def alert(self, kind: str) -> None:
        """Somebody should look."""
        self.heard.append(kind)


@pytest.fixture
def shelf() -> Any:
    """Empty."""
    return Shelf()


@pytest.fixture
def alerts() -> Alerts:
    """None yet."""
    return Alerts()


@pytest.fixture
async def audit(shelf: Any, alerts: Alerts) -> AuditLog:
    """Begun, and its first entry is written."""
    log = AuditLog(shelf, alerts, now_ms=lambda: 1)
    log.start("release")
    await shelf.begun.wait()
    shelf.begun.clear()
    return log


def seen(log: AuditLog, how: str) -> AuditEntry:
    """Of a reading."""
    return log.read("shop", how=how, cards=1)


async def test_what_waits_at_the_end_is_tried_once_more(audit: AuditLog, shelf: Any, alerts: Alerts) -> None:
    """The store could not write a moment ago and can now."""
    shelf.full = True
    with pytest.raises(StoreUnavailable):
        await audit.record(seen(audit, "refused"))
    audit.note(seen(audit, "shown"))
    shelf.full = False
    await audit.close()
    assert shelf.kept == ["release", "shown", "stop"]
    assert alerts.heard == []


async def test_what_could_not_be_written_until_the_end_is_told(audit: AuditLog, shelf: Any, alerts: Alerts) -> None:
    """By an alert and in the log; the end comes all the same."""
    shelf.full = True
    audit.note(seen(audit, "shown"))
    await audit.close()
    assert (shelf.kept, alerts.heard) == (["release"], ["audit_lost"])


async def test_a_store_that_does_not_answer_keeps_nobody_from_the_end(
    audit: AuditLog, shelf: Any, alerts: Alerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was to write is given up."""
    monkeypatch.setattr(auditing, "CLOSE_SECONDS", 0.01)
    shelf.go_on.clear()
    audit.note(seen(audit, "shown"))
    await shelf.begun.wait()
    await audit.close()
    assert (shelf.kept, alerts.heard) == (["release"], ["audit_lost"])


async def test_an_entry_that_cannot_be_written_spoils_no_other(audit: AuditLog, shelf: Any, alerts: Alerts) -> None:
    """Whoever waits for it is refused; the others are answered."""
    shelf.go_on.clear()
    first = asyncio.create_task(audit.record(seen(audit, "first")))
    await shelf.begun.wait()
    audit.note(seen(audit, "poison"))
    waiting = [asyncio.create_task(audit.record(seen(audit, how))) for how in ("before", "poison", "behind")]
    await asyncio.sleep(0)
    shelf.go_on.set()
    results = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), type(None), StoreError, type(None)]
    await audit.close()
    assert shelf.kept == ["release", "first", "before", "behind", "stop"]
    assert alerts.heard == ["audit_lost"]


async def test_who_gave_up_before_the_entry_was_written_leaves_none(audit: AuditLog, shelf: Any) -> None:
    """No card was shown."""
    shelf.go_on.clear()
    audit.note(seen(audit, "first"))
    await shelf.begun.wait()
    leaving = asyncio.create_task(audit.record(seen(audit, "gone")))
    await asyncio.sleep(0)
    leaving.cancel()
    shelf.go_on.set()
    await audit.close()
    assert shelf.kept == ["release", "first", "stop"]


async def test_notes_that_wait_too_long_make_room_for_newer_ones(
    audit: AuditLog, shelf: Any, alerts: Alerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest go, and an alert tells; whoever waits is never forgotten."""
    monkeypatch.setattr(auditing, "MAX_NOTES", 2)
    shelf.full = True
    with pytest.raises(StoreUnavailable):
        await audit.record(seen(audit, "refused"))
    for n in range(4):
        audit.note(seen(audit, f"note {n}"))
    waiting = asyncio.create_task(audit.record(seen(audit, "waits")))
    while not waiting.done():  # noqa: ASYNC110 - the next try isn't told
        await asyncio.sleep(0.01)
    assert isinstance(waiting.exception(), StoreUnavailable)
    shelf.full = False
    await audit.close()
    assert shelf.kept == ["release", "note 2", "note 3", "stop"]
    assert alerts.heard == ["audit_lost"]


async def test_it_is_behind_once_a_note_has_waited_for_a_minute(shelf: Any, alerts: Alerts) -> None:
    """Until it is written; readings that wait to be answered don't count."""
    now = 1_000

    log = AuditLog(shelf, alerts, now_ms=lambda: now)
    log.note(seen(log, "a stream"))
    assert not log.behind
    now += 60_001
    assert log.behind
    log.start("release")
    await log.close()
    assert not log.behind
