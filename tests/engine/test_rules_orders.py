"""The rules of orders and of what is kept of them, where no other test has the whole sentence."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from reward_adapters.contract import RefusedFor
from reward_server.domain.ids import IdSource
from reward_server.domain.order import OrderState, PurchaseState, ReviewReason
from reward_server.engine.ledger import Ledger
from reward_server.store import PurchaseKey

from .rig import (
    BOTH,
    CLIENT,
    PACK,
    Asked,
    Reply,
    Rigged,
    a_card,
    accepts_it,
    after,
    answers,
    delivered,
    hangs_up,
    refunded,
    refused,
    takes_it,
    traits,
    until,
)

SECRET = "CANARY-4711-PAID"


@pytest.mark.rule("O3")
@pytest.mark.parametrize("end", [OrderState.FULFILLED, OrderState.FAILED, OrderState.CANCELLED])
async def test_nothing_that_a_supplier_says_changes_how_an_order_ended(rigged: Rigged, end: OrderState) -> None:
    """Called back about, refunded, refused, delivered again: it stands in the evidence, or beside the state."""
    rig = await rigged(a=traits(queryable=False))
    if end is OrderState.CANCELLED:
        rig.rest("a", 60.0)
    rig.script.place = takes_it if end is OrderState.FULFILLED else answers(refused(about=RefusedFor.OTHER))
    order = await rig.order("a")
    if end is OrderState.CANCELLED:
        await rig.engine.cancel(order)
    ended = await rig.when_state(order, end)
    number = order.purchases[0].number
    for said in (refunded(10_000, 10_000), refused(), delivered("OTHER"), {"said": "accepted", "reference": "S9"}):
        await rig.callback("a", number, said)
    now = await rig.stored(order)
    assert (now.state, now.delivered_quantity) == (end, ended.delivered_quantity)
    assert [p.state for p in now.purchases] == [p.state for p in ended.purchases]
    assert len(await rig.shown_cards(order)) == ended.delivered_quantity


@pytest.mark.rule("O4", "O1")
async def test_a_card_that_comes_after_its_replacement_is_kept_and_not_shown(rigged: Rigged) -> None:
    """It was paid for, so it isn't lost; the client has its unit, so it doesn't get two."""
    rig = await rigged(a=traits(queryable=False), b=traits())

    async def place(asked: Asked) -> Reply:
        return refused() if asked.account == "a" else delivered("B")

    rig.script.place = place
    order = await rig.when_state(await rig.order(BOTH), OrderState.FULFILLED)
    await rig.callback("a", order.purchases[0].number, delivered("A"))
    now = await rig.when(order, lambda now: now.purchases[0].cards)
    assert (now.state, now.reviews) == (OrderState.FULFILLED, (ReviewReason.LATE_SUCCESS,))
    assert [p.state for p in now.purchases] == [PurchaseState.DEAD, PurchaseState.DELIVERED]
    assert (await rig.shown_cards(order), now.card_count) == (["B"], 2)
    assert rig.alerts("late_success") == 1


@pytest.mark.rule("O8", "O9")
async def test_a_card_is_known_by_the_suppliers_number_for_it(rigged: Rigged) -> None:
    """Listed again in another order it is the same card; the same text under another number is another card."""
    rig = await rigged(a=traits())
    first, second = a_card("SAME", number="C1"), a_card("SAME", number="C2")
    rig.script.place = answers(delivered(first, complete=False))
    rig.script.query = answers(delivered(second, first))
    order = await rig.order(PACK, quantity=2)
    now = await rig.when_state(order, OrderState.FULFILLED)
    assert (now.delivered_quantity, await rig.shown_cards(order)) == (2, ["SAME", "SAME"])


@pytest.mark.rule("O9")
async def test_a_card_whose_text_changed_under_its_number_overwrites_nothing(rigged: Rigged) -> None:
    """The number says that it is the one the client has; the text says that it isn't: a person looks."""
    rig = await rigged(a=traits())
    rig.script.place = answers(delivered(a_card("A", number="C1"), complete=False))
    rig.script.query = answers(delivered(a_card("X", number="C1"), a_card("B", number="C2")))
    order = await rig.order(PACK, quantity=2)
    now = await rig.when_state(order, OrderState.NEEDS_REVIEW)
    assert now.reviews == (ReviewReason.CARDS_CHANGED,)
    assert await rig.shown_cards(order) == ["A"]


@pytest.mark.rule("O7")
async def test_a_purchase_asks_for_no_more_units_than_its_offer_allows(rigged: Rigged) -> None:
    """Seven units where one purchase may ask for one are seven purchases; where it may ask for many, one."""
    rig = await rigged(a=traits())
    rig.script.place = accepts_it
    singly, together = await rig.order("a", "1", 7), await rig.order(PACK, "2", 7)
    assert [p.quantity for p in singly.purchases] == [1] * 7
    assert [list(p.units()) for p in together.purchases] == [list(range(7))]
    assert len({p.number for p in (*singly.purchases, *together.purchases)}) == 8


@pytest.mark.rule("D5")
async def test_the_log_holds_no_card_and_each_card_is_sealed_once(rigged: Rigged, tmp_path: Path) -> None:
    """Three versions bring two cards: two sealed values, each with the version that brought it, none in the log."""
    rig = await rigged(a=traits())
    rig.script.place = answers(delivered(f"{SECRET}-1", complete=False))
    rig.script.query = answers(delivered(f"{SECRET}-1", complete=False))
    order = await rig.order(PACK, quantity=2)
    first = await rig.when(order, lambda now: now.delivered_quantity == 1)
    rig.script.query = answers(delivered(f"{SECRET}-1", f"{SECRET}-2"))
    last = await rig.when_state(order, OrderState.FULFILLED)
    with closing(sqlite3.connect(tmp_path / "reward.db")) as reader:
        bodies = [body for (body,) in reader.execute("SELECT body FROM updates UNION ALL SELECT body FROM orders")]
        cards = reader.execute("SELECT card_no, version, sealed FROM cards ORDER BY card_no").fetchall()
    assert [(card_no, version) for card_no, version, _ in cards] == [(1, first.version), (2, last.version)]
    assert len(bodies) > 2
    for *_, sealed in cards:
        assert SECRET.encode() not in sealed
        assert not any(sealed in body or SECRET.encode() in body for body in bodies)


@pytest.mark.rule("D5")
async def test_what_is_learned_at_once_is_one_version(rigged: Rigged) -> None:
    """A list of ten cards, the delivery and its cost are one update, and so is an answer with its look."""
    rig = await rigged(a=traits(), b=traits())
    rig.script.place = answers(delivered(*(f"card {n}" for n in range(10)), cost=1_000))
    order = await rig.order(PACK, "1", quantity=10)
    now = await rig.when_state(order, OrderState.FULFILLED)
    assert now.version == 2
    rig.script.place = answers(refused(certain=False))
    order = await rig.order("b", "2")
    now = await rig.when_state(order, OrderState.FAILED)
    assert (now.version, len(await rig.updates(order))) == (2, 2)


@pytest.mark.rule("D2")
async def test_a_caller_that_gives_up_at_any_moment_tears_nothing(rigged: Rigged) -> None:
    """Cancelled after any number of turns of the loop: the order isn't there, or it is bought to its end, once."""
    rig = await rigged(a=traits(), max_in_flight=100)
    for turns in range(30):
        call = asyncio.create_task(rig.order("a", f"order {turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    for turns in range(30):
        # Asked again it is the same order, or the first one.
        await rig.when_state(await rig.order("a", f"order {turns}"), OrderState.FULFILLED)
    assert len(rig.script.places()) == 30
    await until(lambda: rig.accounts["a"].in_flight == 0)


@pytest.mark.rule("D2")
async def test_a_cancel_whose_caller_gives_up_still_counts(rigged: Rigged) -> None:
    """The wish is stored and acted on, although nobody waits for the answer."""
    rig = await rigged(a=traits())
    rig.rest("a", 60.0)
    order = await rig.order("a")
    call = asyncio.create_task(rig.engine.cancel(order))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await rig.when_state(order, OrderState.CANCELLED)
    assert not rig.script.places()


@pytest.mark.rule("D10")
async def test_evidence_counts_whoever_changed_the_order_meanwhile(rigged: Rigged) -> None:
    """A change that lost the race is made again from what is there now: nothing that was learned is dropped."""
    rig = await rigged(a=traits(read_timeout=0.05, look_delays=(60.0,)))
    late = asyncio.Event()
    rig.script.place = after(late, delivered("LATE"))
    rig.script.query = hangs_up
    order = await rig.order("a")
    await rig.when_state(order, OrderState.OUTCOME_UNKNOWN)
    save, refusals = rig.store.save, 0

    async def overtaken(change: object) -> bool:
        nonlocal refusals
        refusals += 1
        return False if refusals <= 3 else await save(change)  # type: ignore[arg-type]

    rig.store.save = overtaken  # type: ignore[method-assign]
    late.set()
    await rig.when_state(order, OrderState.FULFILLED)
    assert refusals == 4
    assert await rig.shown_cards(order) == ["LATE"]


@pytest.mark.rule("D10")
async def test_of_many_that_would_send_a_purchase_one_may(rigged: Rigged) -> None:
    """Whoever reads the order as waiting and stores the intention first sends; nobody else does."""
    rig = await rigged(a=traits())
    rig.rest("a", 60.0)
    order = await rig.order("a")
    key = PurchaseKey(CLIENT, order.order_id, order.purchases[0].number)
    # Each with a memory of its own, as in processes of their own.
    senders = [
        Ledger(
            rig.store,
            rig.vault,
            clock=rig.clock,
            new_id=IdSource(rig.clock.now_ms),
            metrics=rig.metrics,
            watch_ms=lambda _account: 0,
        )
        for _ in range(10)
    ]
    may = await asyncio.gather(*(ledger.intend(key) for ledger in senders))
    [intended] = [order for order in may if order is not None]
    assert await rig.stored(order) == intended
    assert intended.purchases[0].sends == 1
