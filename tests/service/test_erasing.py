"""Old cards are erased where the operators want it so, and nowhere else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from structlog.testing import capture_logs

from reward_server.auditing import AuditLog
from reward_server.clock import Clock
from reward_server.erasing import BATCH, DAY_MS, Eraser
from reward_server.metrics import Metrics
from reward_server.store import Erased, SealedCard, Store, StoreUnavailable
from reward_server.store.open import open_store
from rewardservice.v1 import order_pb2, reward_service_pb2
from store.samples import START, an_order, delivered

from .harness import TERMINAL, Caller, Service, service
from .terminal import terminal, until

CARD = "kasushou/card"
FULL = order_pb2.ORDER_VIEW_FULL

ERASES = "[cards]\nerase_after_days = 7\n"


class LaterClock(Clock):
    """The machine's clock, set forward by hand."""

    def __init__(self, days: float = 0.0) -> None:
        self._later_ms = int(days * DAY_MS)

    def now_ms(self) -> int:
        return super().now_ms() + self._later_ms


@asynccontextmanager
async def after(days: float, folder: Path, extra: str = ERASES) -> AsyncIterator[Service]:
    """The service some days later, started anew."""
    async with service(folder, clock=LaterClock(days), products=(CARD,), extra=extra) as it:
        yield it


async def shown(client: Caller, order_id: str) -> list[order_pb2.Order]:
    """The order by every call that shows its cards, in full."""
    found = [await client.get(order_id)]
    request = reward_service_pb2.ListOrderUpdatesRequest(order_ids=[order_id], limit=100, view=FULL)
    updates = await client.orders.ListOrderUpdates(request, metadata=client.metadata)
    found += [update.order for update in updates.updates if update.order.state in TERMINAL]
    found += [await client.until(order_id)]
    found += [(await client.create(CARD, "o-1", quantity=2, view=FULL)).order]
    resumed = client.stream(
        order_ids=[order_id], start=reward_service_pb2.STREAM_START_AFTER, resume_token=updates.updates[0].resume_token
    )
    async for message in resumed:
        if message.update.order.state in TERMINAL:
            found.append(message.update.order)
            break
    resumed.cancel()
    return found


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """What the database has of cards."""
    file = apsw.Connection(str(folder / "reward.db"))
    found = file.execute("SELECT erased_at, sealed FROM cards ORDER BY order_id, card_no").fetchall()
    file.close()
    return found


def on_disk(folder: Path) -> bytes:
    """Every byte of the database and what belongs to it."""
    return b"".join(path.read_bytes() for path in folder.glob("reward.db*"))


async def test_cards_are_erased_after_their_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A day before it they are there. Then every call, snapshot and resumed stream tells when they were erased, and
    nothing else of them; the bytes are gone from the database's files; the audit says how many, and reading leaves no
    more entries: there is nothing to see. What is younger stays.
    """
    async with after(0, tmp_path) as it:
        order = (await it.client.create(CARD, "o-1", quantity=2)).order
        before = await it.client.until(order.order_id)
        young = (await it.client.create(CARD, "young")).order
        young = await it.client.until(young.order_id)
    # Suppliers refuse to sell to one whose clock is six days ahead.
    file = apsw.Connection(str(tmp_path / "reward.db"))
    file.execute("UPDATE cards SET at = at + ? WHERE order_id = ?", (6 * DAY_MS, young.order_id))
    file.close()
    sealed = [value for _, value in rows(tmp_path)][:2]
    async with after(6, tmp_path) as it:
        assert [one.cards for one in await shown(it.client, order.order_id)] == [before.cards] * 5
        assert all(value in on_disk(tmp_path) for value in sealed)
    async with after(7.1, tmp_path) as it:
        ctl = terminal(capsys, tmp_path, it.place.grpc_port)

        async def erased() -> bool:
            return any(entry["what"] == "erase" for entry in await ctl("audit"))

        await until(erased)
        [entry] = [entry for entry in await ctl("audit") if entry["what"] == "erase"]
        assert (entry["by"], int(entry["cards"]), entry["reason"]) == ("server", 2, "older than 7 days")
        for one in await shown(it.client, order.order_id):
            assert one.state == before.state
            for place, card in enumerate(one.cards, 1):
                assert {name.name for name, _ in card.ListFields()} == {"card_id", "erase_time"}
                assert card.card_id == f"{order.order_id}/{place}"
            assert len(one.cards) == 2
        masked = (await it.client.get(order.order_id, "BASIC")).cards
        assert [{name.name for name, _ in card.ListFields()} for card in masked] == [
            {"card_id", "masked", "erase_time"}
        ] * 2
        assert (await it.client.get(young.order_id)).cards == young.cards
        readers = [entry["what"] for entry in await ctl("audit")]
        assert [what for what in readers[: readers.index("start")] if what != "erase"] == ["read"], "of the young one"
        await ctl("audit", "verify")
    assert [(bool(at), bool(value)) for at, value in rows(tmp_path)] == [(True, False), (True, False), (False, True)]
    assert not any(value in on_disk(tmp_path) for value in sealed)


async def test_a_card_that_a_stream_had_in_memory_is_gone_with_the_others(tmp_path: Path) -> None:
    """A reader that was there all the time keeps what it was sent; one that reads the same update again, while the
    first is still there, gets what is left.
    """
    async with after(0, tmp_path, "") as it:
        stream = it.client.stream(start=reward_service_pb2.STREAM_START_SNAPSHOT, view=FULL)
        while (first := await stream.read()).WhichOneof("message") != "snapshot_end":
            pass
        order = (await it.client.create(CARD, "o-1")).order
        while not (message := await stream.read()).update.order.cards:
            pass
        assert message.update.order.cards[0].secret
        now = Clock().now_ms()
        await it.app.store.erase(now + DAY_MS, now, BATCH)
        it.app.hub.forget_cards()
        again = it.client.stream(
            start=reward_service_pb2.STREAM_START_AFTER, resume_token=first.snapshot_end.resume_token, view=FULL
        )
        while not (message := await again.read()).update.order.cards:
            pass
        assert {name.name for name, _ in message.update.order.cards[0].ListFields()} == {"card_id", "erase_time"}
        assert message.update.order.order_id == order.order_id
        stream.cancel()
        again.cancel()


async def test_without_the_setting_nothing_is_erased(tmp_path: Path) -> None:
    """After ten years."""
    async with after(0, tmp_path, "") as it:
        order = (await it.client.create(CARD, "o-1", quantity=2)).order
        before = await it.client.until(order.order_id)
    async with after(3_650, tmp_path, "") as it:
        assert (await it.client.get(order.order_id)).cards == before.cards


# --- By hand


class HandClock(Clock):
    """Two clocks that are set by hand."""

    def __init__(self) -> None:
        self.wall, self.passed = START, 0.0

    def now_ms(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.passed

    def go_on(self, milliseconds: int) -> None:
        """Time passes."""
        self.wall += milliseconds
        self.passed += milliseconds / 1000


class Desk:
    """A store with cards in it, and who erases them after a day."""

    def __init__(self, store: Store) -> None:
        self.store, self.clock = store, HandClock()
        self.audit = AuditLog(store, Metrics(), now_ms=self.clock.now_ms)
        self.audit.start("a test")
        self.forgotten = 0
        self.eraser = Eraser(store, self.audit, after_days=1, clock=self.clock, forget=self._forget)

    def _forget(self) -> None:
        self.forgotten += 1

    async def deliver(self, cards: int) -> None:
        """An order with so many cards."""
        order = an_order("shop")
        await self.store.create(order)
        sealed = [SealedCard(n, 2, order.purchases[0].number, b"sealed") for n in range(1, cards + 1)]
        await self.store.save(delivered(order, cards=tuple(sealed)))

    async def noted(self) -> Sequence[int]:
        """How many cards were erased, by the audit, the last first."""
        await self.audit.close()
        return [entry.cards for entry in await self.store.audit(0, 99) if entry.what == "erase"]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Of one store."""
    store = await open_store(f"sqlite:///{tmp_path}/reward.db")
    yield Desk(store)
    await store.close()


async def test_many_cards_are_erased_batch_by_batch_and_each_is_counted_once(desk: Desk) -> None:
    """Others write in between."""
    await desk.deliver(2 * BATCH + 1)
    desk.clock.go_on(DAY_MS + 60_000)
    assert await desk.eraser.erase() == Erased(cards=2 * BATCH + 1)
    assert await desk.eraser.erase() == Erased()
    assert await desk.noted() == [1, BATCH, BATCH]
    assert desk.forgotten == 2, "at every round: another process may have been the one"


async def test_a_wall_clock_that_is_wrong_for_a_moment_erases_nothing(desk: Desk) -> None:
    """Years ahead at one round, right again at the next; when the time has really passed, it erases."""
    await desk.deliver(1)
    assert await desk.eraser.erase() == Erased()
    desk.clock.go_on(3_600_000)
    desk.clock.wall += 3_650 * DAY_MS
    assert await desk.eraser.erase() == Erased()
    desk.clock.wall -= 3_650 * DAY_MS
    desk.clock.go_on(3_600_000)
    assert await desk.eraser.erase() == Erased()
    desk.clock.go_on(DAY_MS)
    assert await desk.eraser.erase() == Erased(cards=1)


async def test_what_is_erased_is_recorded_also_when_the_server_ends_meanwhile(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write was handed over; nobody takes it back."""
    await desk.deliver(1)
    desk.clock.go_on(DAY_MS + 60_000)
    begun, go_on, erase = asyncio.Event(), asyncio.Event(), desk.store.erase

    async def slowly(before: int, at: int, limit: int) -> Erased:
        begun.set()
        await go_on.wait()
        return await erase(before, at, limit)

    monkeypatch.setattr(desk.store, "erase", slowly)
    erasing = asyncio.create_task(desk.eraser.erase())
    await begun.wait()
    erasing.cancel()
    await asyncio.wait([erasing])
    go_on.set()
    while "erase" not in [entry.what for entry in await desk.store.audit(0, 9)]:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    assert await desk.noted() == [1]


async def test_a_store_that_cannot_write_is_tried_again_at_the_next_round(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no reason to end."""
    await desk.deliver(1)
    desk.clock.go_on(DAY_MS + 60_000)

    async def away(_before: int, _at: int, _limit: int) -> Erased:
        raise StoreUnavailable("no space left on device")

    with monkeypatch.context() as patch, capture_logs() as logged:
        patch.setattr(desk.store, "erase", away)
        assert await desk.eraser.erase() == Erased()
    assert [entry["event"] for entry in logged] == ["erasing waits for the store"]
    assert await desk.eraser.erase() == Erased(cards=1)
