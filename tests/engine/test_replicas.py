"""Several engines on one PostgreSQL store: whoever sends, learns or decides, an order is bought once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from postgres_server import execute
from reward_adapters.contract import Traits
from reward_server.domain.order import OrderState, PurchaseState, Source
from reward_server.engine.account import Account, Turns
from reward_server.store import Change, OpenPurchase, Store
from reward_server.store.postgres import PostgresStore, open_postgres

from .rig import ABSENT, Asked, Reply, Rig, Script, ScriptedSupplier, accepted, answers, delivered, rigs, traits, until

LEASE_SECONDS = 60.0
"""Longer than any test: leases are renewed, and end, when a test says so."""

CUT_ALL = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database()
"""
"""Every other connection to the database."""

Replica = Callable[..., Awaitable["SharedRig"]]


class SharedRig(Rig):
    """One of several processes on the same database."""

    store: PostgresStore

    def __init__(self, folder: Path, url: str, script: Script, database: str, calls: float | None) -> None:
        super().__init__(folder, url, script, 16)
        self._database = database
        self._calls = calls

    def _account(self, supplier: ScriptedSupplier) -> Account:
        account = super()._account(supplier)
        account._turns = Turns(self.clock, self._calls)
        return account

    async def _open_store(self) -> Store:
        return await open_postgres(self._database, lease_seconds=LEASE_SECONDS, poll_seconds=0.02)

    @property
    def name(self) -> str:
        """Under which it sends."""
        return self.engine.ledger.owner

    def loses_its_lease(self, seconds_ago: float = 0.0) -> None:
        """It was over for so long; nobody has noticed yet."""
        statement = f"UPDATE replicas SET until = now() - interval '{seconds_ago} s' WHERE owner = '{self.name}'"  # noqa: S608
        execute(self._database, statement)

    async def looks_around(self) -> None:
        """What it does by itself several times a lease."""
        await self.engine._renew_lease()
        await self.engine._look_around()


@pytest.fixture
async def replica(tmp_path: Path, store_url: str) -> AsyncIterator[Replica]:
    """Makes a running replica: `await replica(a=traits())`; all have the same suppliers."""
    made: list[SharedRig] = []
    with capture_logs():
        async with rigs(tmp_path) as make:
            first = await make(unused=traits())

            async def making(*, calls: float | None = None, **accounts: Traits) -> SharedRig:
                rig = SharedRig(tmp_path, first._url, first.script, store_url, calls)
                await rig.open(accounts)
                made.append(rig)
                await rig.engine.start()
                return rig

            yield making
            for rig in made:
                await rig.close()


@pytest.mark.rule("D16", "P1", "P5")
async def test_a_dead_senders_purchase_is_asked_after_by_another(replica: Replica) -> None:
    """Its request may have gone out until its lease ended, and a submit window longer: that is what absence must be
    older than.
    """
    dying, heir = await replica(a=traits()), await replica(a=traits())
    gone = asyncio.Event()

    async def place(asked: Asked) -> Reply:
        gone.set()
        await asyncio.Event().wait()
        raise AssertionError

    dying.script.place, dying.script.query = place, answers(accepted())
    order = await dying.order("a")
    await gone.wait()
    dying.loses_its_lease(seconds_ago=2.0)
    before = heir.clock.now_ms()
    await heir.looks_around()
    after = heir.clock.now_ms()
    now = await heir.when_state(order, OrderState.PROCESSING)
    [purchase] = now.purchases
    assert [evidence.source for evidence in purchase.evidence][:1] == [Source.RECOVERY]
    window = int(1000 * heir.accounts["a"].plan.submit_window)
    assert before - 2_500 + window <= purchase.written_until <= after - 2_000 + window
    assert len(dying.script.places("a")) == 1


@pytest.mark.rule("D16", "D10")
async def test_what_a_sender_without_a_lease_hears_counts(replica: Replica) -> None:
    """The answer comes when another has taken over already: the card is delivered, and nothing is bought again."""
    slow, heir = await replica(a=traits(queryable=False)), await replica(a=traits(queryable=False))
    gate = asyncio.Event()

    async def place(asked: Asked) -> Reply:
        await gate.wait()
        return delivered("A")

    slow.script.place = place
    order = await slow.order("a")
    await until(lambda: slow.script.places("a"))
    slow.loses_its_lease()
    await heir.looks_around()
    await heir.when_state(order, OrderState.OUTCOME_UNKNOWN)
    gate.set()
    now = await heir.when_state(order, OrderState.FULFILLED)
    assert await heir.shown_cards(order) == ["A"]
    assert len(now.purchases) == 1
    assert len(slow.script.places("a")) == 1


@pytest.mark.rule("D16")
async def test_without_a_lease_nothing_is_sent_until_there_is_another(replica: Replica) -> None:
    """What waits goes on waiting; with the new lease, under another name, it is sent."""
    rig = await replica(a=traits())
    former = rig.name
    rig.rest("a", 0.2)
    order = await rig.order("a")
    rig.loses_its_lease()
    await until(lambda: "store" in rig.engine.ledger.waits.told(order.purchases[0].number)[1])
    assert rig.script.places("a") == []
    await rig.looks_around()
    assert rig.name != former
    assert rig.alerts("lease_lost") == 1
    now = await rig.when_state(order, OrderState.FULFILLED)
    assert now.purchases[0].sends == 1


@pytest.mark.rule("D16")
async def test_orders_that_wait_are_taken_up_with_their_place_in_the_world(replica: Replica) -> None:
    """A dead process's queue is another's."""
    dying, heir = await replica(a=traits()), await replica(a=traits())
    dying.rest("a", 3600.0)
    orders = [await dying.order("a", str(n)) for n in range(20)]
    dying.loses_its_lease()
    await heir.looks_around()
    for order in orders:
        await heir.when_state(order, OrderState.FULFILLED)
    assert len(dying.script.places("a")) == 20


@pytest.mark.rule("D16", "P1")
async def test_of_two_that_have_a_purchase_in_their_queues_one_sends_it(replica: Replica) -> None:
    """A process whose lease ended still has it in its queue when it has another."""
    thawed, heir = await replica(a=traits()), await replica(a=traits())
    for rig in (thawed, heir):
        rig.rest("a", 0.3)
    orders = [await thawed.order("a", str(n)) for n in range(10)]
    thawed.loses_its_lease()
    await heir.looks_around()
    await thawed.looks_around()
    for order in orders:
        now = await heir.when_state(order, OrderState.FULFILLED)
        assert now.purchases[0].sends == 1
    assert len(thawed.script.places("a")) == 10


@pytest.mark.rule("P8")
async def test_callbacks_arrive_anywhere(replica: Replica) -> None:
    """The replica that hears of it asks, and applies what it is told; the sender finds the order as it is."""
    sender, other = await replica(a=_patient()), await replica(a=_patient())

    sender.script.place, sender.script.query = answers(accepted()), answers(delivered("A"))
    order = await sender.order("a")
    await sender.when_state(order, OrderState.PROCESSING)
    await other.callback("a", order.purchases[0].number)
    await sender.when_state(order, OrderState.FULFILLED)
    assert await sender.shown_cards(order) == ["A"]
    assert [update.state for update in await other.updates(order)][-1] is OrderState.FULFILLED


@pytest.mark.rule("O15")
async def test_an_order_is_cancelled_anywhere(replica: Replica) -> None:
    """Also where another replica has it in its queue: it isn't sent any more."""
    sender, other = await replica(a=traits()), await replica(a=traits())
    sender.rest("a", 0.3)
    order = await sender.order("a")
    cancelled = await other.engine.cancel(order)
    assert cancelled.state is OrderState.CANCELLED
    await until(lambda: not sender.engine._dispatcher._queued)
    assert sender.script.places("a") == []
    assert (await sender.stored(order)).state is OrderState.CANCELLED


@pytest.mark.rule("D15")
async def test_a_pause_holds_everywhere_and_so_does_its_end(replica: Replica) -> None:
    """The others hear of it when they look around."""
    here, there = await replica(a=traits()), await replica(a=traits())
    there.rest("a", 0.3)
    order = await there.order("a")
    await here.engine.reviews.pause("a", by="ops", reason="prices look wrong")
    await there.looks_around()
    hold = there.accounts["a"].hold
    assert hold is not None
    assert (hold.by, hold.reason) == ("ops", "prices look wrong")
    await here.engine.reviews.resume("a", by="ops", reason="they are right")
    assert there.script.places("a") == []
    await there.looks_around()
    await there.when_state(order, OrderState.FULFILLED)


@pytest.mark.rule("D16")
async def test_a_supplier_is_called_no_more_often_by_many_than_by_one(replica: Replica) -> None:
    """Each makes its share of the calls; of those that died the others have it again."""
    first = await replica(a=traits(), calls=10.0)
    await first.looks_around()
    alone = first.accounts["a"]._turns._spacing
    second = await replica(a=traits(), calls=10.0)
    third = await replica(a=traits(), calls=10.0)
    for rig in (first, second, third):
        await rig.looks_around()
    assert [rig.accounts["a"]._turns._spacing for rig in (first, second, third)] == [alone * 3] * 3
    third.loses_its_lease()
    await first.looks_around()
    assert first.accounts["a"]._turns._spacing == alone * 2


async def test_a_token_is_fetched_once_for_all(replica: Replica) -> None:
    """The others take it from the store; and the new one too, once the old one is refused."""
    here, there = await replica(a=traits(needs_token=True)), await replica(a=traits(needs_token=True))
    first = await here.order("a", "1")
    await here.when_state(first, OrderState.FULFILLED)
    second = await there.order("a", "2")
    await there.when_state(second, OrderState.FULFILLED)
    assert here.script.token_calls == 1
    # The supplier forgot it: one fetches another, which is refused to nobody.
    here.accounts["a"].drop_token(here.accounts["a"].context().token)
    assert await here.accounts["a"].ensure_token() is None
    there.accounts["a"].drop_token(there.accounts["a"].context().token)
    assert await there.accounts["a"].ensure_token() is None
    assert there.accounts["a"].context().token == here.accounts["a"].context().token
    assert here.script.token_calls == 2


@pytest.mark.rule("P5")
async def test_absence_that_was_weighed_before_another_sent_again_proves_nothing(replica: Replica) -> None:
    """Looks of one process and sends of another meet in the order as it is stored."""
    rig = await replica(a=traits(not_found_grace=0.1))

    async def query(asked: Asked) -> Reply:
        # While this look is on its way somebody else sent the number again.
        now = await rig.stored(order)
        [purchase] = now.purchases
        if not moved:
            moved.append(True)
            later = replace(purchase, written_until=rig.clock.now_ms() + 3_600_000, absent_looks=1)
            after = replace(now.with_purchase(later), revision=now.revision + 1)
            assert await rig.store.save(Change(order=after, visible=False))
        return ABSENT

    moved: list[bool] = []
    rig.script.place, rig.script.query = answers(b"not understood"), query
    order = await rig.order("a")
    await until(lambda: len(rig.script.queries) >= 4)
    [purchase] = (await rig.stored(order)).purchases
    assert purchase.state is PurchaseState.UNKNOWN


async def test_an_adopted_purchase_is_taken_up_once_its_order_can_be_read(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would: it belongs to this process by then."""
    dying, heir = await replica(a=traits()), await replica(a=traits())
    dying.rest("a", 3600.0)
    order = await dying.order("a")
    dying.loses_its_lease()
    recover, failures = heir.engine._recover, [True]

    async def failing(found: OpenPurchase) -> None:
        if failures:
            failures.pop()
            execute(heir._database, CUT_ALL)
            await heir.store.order("shop", order.order_id)
        await recover(found)

    monkeypatch.setattr(heir.engine, "_recover", failing)
    await heir.looks_around()
    await heir.when_state(order, OrderState.FULFILLED)


def _patient() -> Traits:
    """Looks rarely by itself."""
    return traits(look_delays=(3600.0,))
