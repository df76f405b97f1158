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
from reward_server.engine.ledger import FRESH_SECONDS
from reward_server.store import Change, OpenPurchase, PurchaseKey, Store, StoreUnavailable
from reward_server.store.postgres import PostgresStore, open_postgres

from .rig import (
    ABSENT,
    Asked,
    Reply,
    Rig,
    Script,
    ScriptedSupplier,
    accepted,
    after,
    answers,
    delivered,
    refused,
    rigs,
    traits,
    until,
)

LEASE_SECONDS = 60.0
"""Longer than any test: leases are renewed, and end, when a test says so."""

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
    adopted = heir.clock.now_ms()
    now = await heir.when_state(order, OrderState.PROCESSING)
    [purchase] = now.purchases
    assert [evidence.source for evidence in purchase.evidence][:1] == [Source.RECOVERY]
    window = int(1000 * heir.accounts["a"].plan.submit_window)
    assert before - 2_500 + window <= purchase.written_until <= adopted - 2_000 + window
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


@pytest.mark.rule("D16")
async def test_without_a_lease_no_supplier_is_asked_to_cancel(replica: Replica) -> None:
    """The client's wish is stored all the same."""
    rig = await replica(a=_patient())
    rig.script.place = rig.script.query = answers(accepted())
    order = await rig.order("a")
    await rig.when_state(order, OrderState.PROCESSING)
    rig.loses_its_lease()
    await rig.engine.cancel(order)
    await until(lambda: not rig.engine._cancels._asking)
    assert rig.script.cancels == []
    assert (await rig.stored(order)).cancel_requested_at > 0


@pytest.mark.rule("O15")
async def test_what_a_client_is_told_does_not_rest_on_what_was_remembered(replica: Replica) -> None:
    """An order that ended here a moment ago was opened again by way of another replica: it can be cancelled."""
    here, there = await replica(a=traits()), await replica(a=traits())
    here.script.place = answers(refused())
    order = await here.order("a")
    failed = await here.when_state(order, OrderState.FAILED)
    again = replace(failed.purchases[0], state=PurchaseState.WAITING, failure=None, settled_at=0)
    opened = replace(failed.with_purchase(again), state=OrderState.ACCEPTED, failure=None, settled_at=0)
    opened = replace(opened, revision=failed.revision + 1, version=failed.version + 1)
    assert await there.store.save(Change(order=opened, visible=True))
    assert (await here.engine.cancel(order)).state is OrderState.CANCELLED


async def test_what_is_remembered_is_read_again_after_a_while(replica: Replica) -> None:
    """Evidence that is no news to an order of long ago may be news to it as it is now."""
    here, there = await replica(a=_patient()), await replica(a=_patient())
    here.script.place = answers(accepted())
    order = await here.order("a")
    now = await here.when_state(order, OrderState.PROCESSING)
    changed = replace(now, revision=now.revision + 1)
    assert await there.store.save(Change(order=changed, visible=False))
    here.clock.advance(FRESH_SECONDS)
    key = PurchaseKey(order.client_id, order.order_id, order.purchases[0].number)
    assert (await here.engine.ledger.load(key)).revision == changed.revision


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
        now = await rig.stored(order)
        [purchase] = now.purchases
        proves = purchase.absent_looks and rig.clock.now_ms() > purchase.written_until + 300
        if proves and not moved:
            # While the look that is the proof is on its way somebody else sends the number again.
            moved.append(len(rig.script.queries))
            later = replace(purchase, written_until=rig.clock.now_ms() + 3_600_000, absent_looks=1)
            changed = replace(now.with_purchase(later), revision=now.revision + 1)
            assert await rig.store.save(Change(order=changed, visible=False))
        return ABSENT if proves or not purchase.absent_looks else b"not understood"

    moved: list[int] = []
    rig.script.place, rig.script.query = answers(b"not understood"), query
    order = await rig.order("a")
    await until(lambda: moved and len(rig.script.queries) >= moved[0] + 3)
    [purchase] = (await rig.stored(order)).purchases
    assert purchase.state is PurchaseState.UNKNOWN


@pytest.mark.rule("D16", "P5")
async def test_a_silent_exchange_ends_with_its_sender(replica: Replica) -> None:
    """It was still waiting for a late answer: who takes the purchase up knows until when it may have been written."""
    dying, heir = await replica(a=traits(read_timeout=0.1)), await replica(a=traits(read_timeout=0.1))
    gate = asyncio.Event()
    dying.script.place = after(gate, delivered("A"))
    order = await dying.order("a")
    silent = await dying.when_state(order, OrderState.OUTCOME_UNKNOWN)
    assert silent.purchases[0].written_until == 0
    dying.loses_its_lease()
    await heir.looks_around()
    now = await heir.when(order, lambda now: now.purchases[0].written_until)
    assert [entry.outcome for entry in now.purchases[0].evidence if entry.source is Source.RECOVERY] == ["SenderLost"]
    gate.set()


@pytest.mark.rule("P5")
async def test_a_host_whose_clock_is_ahead_does_not_take_a_purchase_for_absent(replica: Replica) -> None:
    """The grace period is measured by the steady clock of who looks, whatever the clock of who sent was."""
    sender = await replica(a=traits(not_found_grace=60.0, look_delays=(3600.0,)))
    ahead = await replica(a=traits(not_found_grace=60.0))
    ahead.clock.ahead_ms = 600_000
    sender.script.place = answers(b"not understood")
    order = await sender.order("a")
    await sender.when_state(order, OrderState.OUTCOME_UNKNOWN)
    sender.loses_its_lease()
    await ahead.looks_around()
    await until(lambda: len(ahead.script.queries) >= 3)
    assert (await ahead.stored(order)).state is OrderState.OUTCOME_UNKNOWN


@pytest.mark.rule("D16")
async def test_who_hears_again_of_what_it_sends_does_not_take_itself_for_lost(replica: Replica) -> None:
    """After an adoption whose answer was lost all that is ours comes again, also what is just being sent."""
    rig = await replica(a=traits())
    gate = asyncio.Event()
    rig.script.place = after(gate, delivered("A"))
    order = await rig.order("a")
    await until(lambda: rig.script.places("a"))
    rig.store._unheard = True
    await rig.looks_around()
    assert (await rig.stored(order)).purchases[0].state is PurchaseState.SUBMITTING
    gate.set()
    await rig.when_state(order, OrderState.FULFILLED)


@pytest.mark.rule("D16")
async def test_who_starts_takes_up_what_no_replica_is_known_for(replica: Replica) -> None:
    """As after a move from another store."""
    former = await replica(a=traits())
    former.rest("a", 3600.0)
    order = await former.order("a")
    execute(former._database, "UPDATE purchases SET owner = ''")
    heir = await replica(a=traits())
    await heir.when_state(order, OrderState.FULFILLED)


async def test_who_is_leaving_takes_nothing_up(replica: Replica) -> None:
    """It would have to leave it again; others have it at once."""
    dying, leaving, heir = [await replica(a=traits()) for _ in range(3)]
    dying.rest("a", 3600.0)
    order = await dying.order("a")
    dying.loses_its_lease()
    await leaving.engine.drain()
    await leaving.looks_around()
    await heir.looks_around()
    await heir.when_state(order, OrderState.FULFILLED)


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
            raise StoreUnavailable("it is just being started again")
        await recover(found)

    monkeypatch.setattr(heir.engine, "_recover", failing)
    await heir.looks_around()
    await heir.when_state(order, OrderState.FULFILLED)


def _patient() -> Traits:
    """Looks rarely by itself."""
    return traits(look_delays=(3600.0,))
