"""The rules of purchases, from the order to the supplier's socket and back, where no other test has the whole sentence.

What is on disk is read through a connection of its own: it sees what is committed, and nothing else.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reward_adapters.contract import RefusedFor
from reward_server.domain.order import FailureReason, OrderState, PurchaseState, ReviewReason, Source

from .rig import (
    BOTH,
    CONTRADICTION,
    TOKEN_REFUSED,
    Asked,
    Handler,
    Reply,
    Rigged,
    Said,
    accepted,
    accepts_it,
    after,
    answers,
    delivered,
    hangs_up,
    outcomes,
    rate_limited,
    refunded,
    refused,
    takes_it,
    traits,
    until,
)


def on_disk(folder: Path, number: str) -> str:
    """The state of a purchase as any other process would find it."""
    with closing(sqlite3.connect(folder / "reward.db")) as reader:
        [(state,)] = reader.execute("SELECT state FROM purchases WHERE number = ?", (number,))
    return str(state)


def held_in(folder: Path) -> dict[str, bytes]:
    """Every file of the store."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# --- The intention to send --------------------------------------------------------------------------------------------


@pytest.mark.rule("P1")
@pytest.mark.parametrize("waits", [False, True], ids=["with a free slot", "after waiting for one"])
async def test_the_intention_is_on_disk_when_the_first_byte_arrives(
    rigged: Rigged, tmp_path: Path, *, waits: bool
) -> None:
    """Whatever the supplier gets, a restart after it knows that it may have been sent."""
    rig = await rigged(a=traits())
    found: list[str] = []

    async def place(asked: Asked) -> Reply:
        found.append(on_disk(tmp_path, asked.number))
        return delivered("C")

    rig.script.place = place
    if waits:
        rig.rest("a", 0.05)
    await rig.when_state(await rig.order("a"), OrderState.FULFILLED)
    assert found == [PurchaseState.SUBMITTING]


@pytest.mark.rule("P1")
async def test_an_order_and_its_first_intention_are_one_commit(rigged: Rigged) -> None:
    """Where a slot is free, sending costs no second write; where none is, the order waits on disk as it waits here."""
    rig = await rigged(a=traits(), max_in_flight=1)
    gate = asyncio.Event()
    rig.script.place = after(gate, delivered("C"))
    sent, waiting = await rig.order("a", "1"), await rig.order("a", "2")
    assert (sent.revision, sent.purchases[0].state) == (1, PurchaseState.SUBMITTING)
    assert sent.purchases[0].owner
    assert (waiting.revision, waiting.purchases[0].state) == (1, PurchaseState.WAITING)
    await until(rig.script.places)
    assert await rig.stored(sent) == sent
    assert await rig.stored(waiting) == waiting
    gate.set()
    await rig.when_state(waiting, OrderState.FULFILLED)


@pytest.mark.rule("P1", "P6")
async def test_a_crash_leaves_doubts_at_what_was_in_flight_only(rigged: Rigged) -> None:
    """What waited for a slot is sent by the next run as if nothing had happened; what was sent is asked after."""
    rig = await rigged(a=traits(), max_in_flight=1)
    rig.script.place = after(asyncio.Event(), delivered("never said"))
    in_flight, waiting = await rig.order("a", "1"), await rig.order("a", "2")
    await until(rig.script.places)
    rig.script.place, rig.script.query = takes_it, answers(delivered("C"))
    await rig.restart({"a": traits()})
    lost = await rig.when_state(in_flight, OrderState.FULFILLED)
    untouched = await rig.when_state(waiting, OrderState.FULFILLED)
    assert outcomes(lost.purchases[0]) == ["SenderLost", "Delivered"]
    assert outcomes(untouched.purchases[0]) == ["Delivered"]
    assert [a.number for a in rig.script.places()] == [lost.purchases[0].number, untouched.purchases[0].number]


# --- Not found --------------------------------------------------------------------------------------------------------


@pytest.mark.rule("P5")
async def test_a_supplier_that_forgets_what_it_took_proves_nothing(rigged: Rigged) -> None:
    """Accepted stays accepted however often it isn't found, and however long: an operator is told, once."""
    rig = await rigged(a=traits(not_found_grace=0.01), b=traits())
    rig.script.place = accepts_it
    order = await rig.order(BOTH)
    await until(lambda: len(rig.script.queries) >= 5)
    now = await rig.stored(order)
    assert [p.state for p in now.purchases] == [PurchaseState.ACCEPTED]
    assert rig.alerts("contradiction") == 1
    rig.script.query = answers(delivered("C"))
    await rig.when_state(order, OrderState.FULFILLED)
    assert not rig.script.places("b")


@pytest.mark.rule("P5")
async def test_the_grace_period_begins_when_the_exchange_ended(rigged: Rigged) -> None:
    """While the request may still be written nothing is absent, however often it isn't found."""
    rig = await rigged(a=traits(read_timeout=0.05, not_found_grace=0.1))
    gate = asyncio.Event()
    rig.script.place = after(gate, b"what?")
    order = await rig.order("a")
    await until(lambda: len(rig.script.queries) >= 8)
    before = (await rig.stored(order)).purchases[0]
    assert (before.state, before.written_until) == (PurchaseState.UNKNOWN, 0)
    gate.set()
    dead = (await rig.when_state(order, OrderState.FAILED)).purchases[0]
    assert dead.updated_at - dead.written_until >= 100


@pytest.mark.rule("P5")
async def test_after_a_crash_the_grace_period_begins_with_the_next_run(rigged: Rigged) -> None:
    """Nobody knows when the dead process wrote its last byte: the new one knows only that nothing is written now."""
    rig = await rigged(a=traits())
    rig.script.place = after(asyncio.Event(), delivered("never said"))
    order = await rig.order("a")
    await until(rig.script.places)
    await rig.close()
    # However long the service was down, the next look is the first one.
    rig.clock.ahead_ms = 3_600_000
    began = rig.clock.now_ms()
    await rig.open({"a": traits(not_found_grace=0.2, settle_by=86_400.0)})
    await rig.engine.start()
    dead = (await rig.when_state(order, OrderState.FAILED)).purchases[0]
    assert outcomes(dead) == ["SenderLost", "Absent", "AbsenceProven"]
    assert dead.written_until >= began
    assert dead.updated_at - dead.written_until >= 200


@pytest.mark.rule("P5")
@pytest.mark.parametrize("place", [hangs_up, accepts_it], ids=["in doubt", "accepted"])
async def test_what_is_older_than_the_suppliers_query_shows_is_not_absent(rigged: Rigged, place: Handler) -> None:
    """Found or not found: after a stop longer than the supplier looks back a look tells nothing, and its deadline
    calls a person. Nothing is dead, sent or told as a contradiction.
    """
    rig = await rigged(a=traits(queryable=False, settle_by=5 * 86_400.0), b=traits())
    rig.script.place = place
    order = await rig.order(BOTH)
    await rig.when(order, lambda now: now.purchases[0].evidence)
    await rig.close()
    rig.clock.ahead_ms = 2 * 86_400_000
    # It looks back one day, and two have passed; the deadline comes in another.
    known = traits(query_horizon=86_400.0, not_found_grace=0.01, settle_by=2 * 86_400.0 + 1.0)
    await rig.open({"a": known, "b": traits()})
    await rig.engine.start()
    await until(lambda: len(rig.script.queries) >= 4)
    now = await rig.when_state(order, OrderState.NEEDS_REVIEW)
    assert now.reviews == (ReviewReason.DEADLINE,)
    assert now.purchases[0].state is (PurchaseState.UNKNOWN if place is hangs_up else PurchaseState.ACCEPTED)
    assert (len(rig.script.places()), rig.alerts("contradiction")) == (1, 0)


# --- The same number again --------------------------------------------------------------------------------------------


@pytest.mark.rule("P6")
@pytest.mark.parametrize("resends", [0, 2])
async def test_after_proven_absence_a_number_is_sent_as_often_as_the_supplier_allows(
    rigged: Rigged, resends: int
) -> None:
    """And then it is dead; where nothing is said of it, at once. Nothing is bought elsewhere on a doubt that ended."""
    rig = await rigged(a=traits(not_found_grace=0.05, absence_resends=resends), b=traits())
    rig.script.place = hangs_up
    order = await rig.order(BOTH)
    now = await rig.when_state(order, OrderState.FAILED)
    assert [a.number for a in rig.script.places()] == [order.purchases[0].number] * (1 + resends)
    assert now.failure is not None
    assert now.failure.reason is FailureReason.NEVER_RECEIVED


@pytest.mark.rule("P6")
@pytest.mark.parametrize(
    ("said", "sent"),
    [(rate_limited(0.02), 2), (TOKEN_REFUSED, 2), (b"what?", 1), (accepted(), 1), (refused(), 1), (refunded(), 1)],
    ids=["rate limited", "token refused", "unreadable", "accepted", "refused", "refunded"],
)
async def test_a_number_is_sent_again_only_after_a_proven_non_send(rigged: Rigged, said: Said, sent: int) -> None:
    """The first answer decides; looks that find nothing yet don't."""
    rig = await rigged(a=traits(needs_token=True, not_found_grace=60.0))

    async def place(_asked: Asked) -> Reply:
        return said if len(rig.script.places()) == 1 else delivered("C")

    rig.script.place = place
    order = await rig.order("a")
    if sent == 2:
        await rig.when_state(order, OrderState.FULFILLED)
    else:
        await rig.when(order, lambda now: now.purchases[0].evidence)
        if said in (b"what?", accepted()):
            await until(lambda: len(rig.script.queries) >= 4)
    assert [a.number for a in rig.script.places()] == [order.purchases[0].number] * sent


@pytest.mark.rule("P6", "P15")
async def test_a_supplier_that_refuses_us_costs_no_order(rigged: Rigged) -> None:
    """A fresh token refused as well is our mistake: the account is paused with an alert and the order waits, unsent;
    once the pause is over it is sent under its own number.
    """
    rig = await rigged(a=traits(needs_token=True))
    rig.script.place = answers(TOKEN_REFUSED)
    order = await rig.order("a")
    now = await rig.when(order, lambda now: len(now.purchases[0].evidence) == 2)
    assert (now.purchases[0].state, len(rig.script.places())) == (PurchaseState.WAITING, 2)
    assert rig.alerts("supplier_refuses_us") == 1
    assert rig.accounts["a"].paused_for
    rig.script.place = takes_it
    await rig.engine.reviews.resume("a", by="ann", reason="mended")
    await rig.when_state(order, OrderState.FULFILLED)
    assert {a.number for a in rig.script.places()} == {order.purchases[0].number}


# --- Another purchase -------------------------------------------------------------------------------------------------


@pytest.mark.rule("P7")
@pytest.mark.parametrize(
    ("back", "bought"),
    [
        ({"amount": 10_000, "cost": 10_000}, True),
        ({"amount": 9_999, "cost": 10_000}, False),
        ({"amount": None, "cost": 10_000}, False),
        ({"amount": None, "cost": None}, False),
    ],
    ids=["all of it", "a part", "an amount nobody named", "nothing named"],
)
async def test_only_a_full_refund_lets_the_next_offer_be_tried(
    rigged: Rigged, back: dict[str, int | None], *, bought: bool
) -> None:
    """Money that isn't known to be back may have been spent."""
    rig = await rigged(a=traits(), b=traits())

    async def place(asked: Asked) -> Reply:
        return accepted() if asked.account == "a" else delivered("B")

    rig.script.place = place
    rig.script.query = answers(refunded(**back))
    order = await rig.order(BOTH)
    settled = (OrderState.FULFILLED, OrderState.FAILED, OrderState.NEEDS_REVIEW)
    now = await rig.when(order, lambda now: now.state in settled)
    assert (now.state is OrderState.FULFILLED) == bought
    assert len(rig.script.places("b")) == bought


@pytest.mark.rule("P7", "O1")
async def test_a_unit_has_one_live_purchase_while_offers_are_tried(rigged: Rigged) -> None:
    """At every version of an order that fails over, at most one purchase of each unit isn't dead."""
    rig = await rigged(a=traits(), b=traits(), c=traits())
    live: list[int] = []

    async def place(asked: Asked) -> Reply:
        said = {"a": refused(certain=False), "b": refused(about=RefusedFor.PRICE), "c": delivered(asked.number)}
        return said[asked.account]

    rig.engine.ledger.listen(
        lambda now: live.extend(
            sum(p.state is not PurchaseState.DEAD for p in now.purchases if unit in p.units())
            for unit in range(now.quantity)
        )
    )
    rig.script.place = place
    now = await rig.when_state(await rig.order(BOTH, quantity=3), OrderState.FULFILLED)
    assert len(now.purchases) > 3
    assert max(live) == 1


# --- Callbacks --------------------------------------------------------------------------------------------------------


@pytest.mark.rule("P8")
async def test_a_callback_is_a_reason_to_look_and_no_evidence(rigged: Rigged) -> None:
    """Verified or not, what it says isn't taken for true: the supplier is asked, and the look decides."""
    rig = await rigged(a=traits(look_delays=(60.0,)))
    rig.script.place = accepts_it
    rig.script.query = accepts_it
    order = await rig.order("a")
    await rig.when(order, lambda now: now.purchases[0].state is PurchaseState.ACCEPTED)
    await rig.callback("a", order.purchases[0].number)
    await until(lambda: rig.script.queries)
    now = await rig.stored(order)
    assert (now.state, now.delivered_quantity) == (OrderState.PROCESSING, 0)
    assert now.purchases[0].called_back


# --- Deadlines --------------------------------------------------------------------------------------------------------


@pytest.mark.rule("P9")
async def test_a_review_for_a_deadline_is_looked_at_further_and_ended_by_evidence(rigged: Rigged) -> None:
    """A person was called, and the supplier is asked all the same: what it says in the end counts."""
    rig = await rigged(a=traits(settle_by=0.05))
    rig.script.place = rig.script.query = accepts_it
    order = await rig.order("a")
    now = await rig.when_state(order, OrderState.NEEDS_REVIEW)
    assert now.reviews == (ReviewReason.DEADLINE,)
    seen = len(rig.script.queries)
    await until(lambda: len(rig.script.queries) > seen)
    rig.script.query = answers(delivered("C"))
    now = await rig.when_state(order, OrderState.FULFILLED)
    assert now.reviews == ()


@pytest.mark.rule("P9")
async def test_a_review_for_anything_else_waits_for_a_person(rigged: Rigged) -> None:
    """A supplier that contradicted itself can't put it right by saying something else."""
    rig = await rigged(a=traits(queryable=False))
    rig.script.place = accepts_it
    order = await rig.order("a")
    number = order.purchases[0].number
    await rig.when(order, lambda now: now.purchases[0].state is PurchaseState.ACCEPTED)
    await rig.callback("a", number, CONTRADICTION)
    await rig.when_state(order, OrderState.NEEDS_REVIEW)
    await rig.callback("a", number, delivered("C"))
    now = await rig.when(order, lambda now: now.purchases[0].cards)
    assert (now.state, now.reviews) == (OrderState.NEEDS_REVIEW, (ReviewReason.CONTRADICTION,))
    assert await rig.shown_cards(order) == []


@pytest.mark.rule("P9")
@pytest.mark.parametrize("deadline", ["send_by", "settle_by"])
async def test_each_deadline_counts_from_its_own_beginning(rigged: Rigged, deadline: str) -> None:
    """Never sent by `send_by` of the creation is dead; not settled by `settle_by` of the intention is for a person."""
    times: dict[str, Any] = {deadline: 0.1}
    rig = await rigged(a=traits(**times))
    rig.script.place = rig.script.query = accepts_it
    if deadline == "send_by":
        rig.rest("a", 60.0)
        now = await rig.when_state(await rig.order("a"), OrderState.FAILED)
        assert now.failure is not None
        assert now.failure.reason is FailureReason.NOT_SENT_IN_TIME
        assert not rig.script.places()
        return
    rig.rest("a", 0.3)
    now = await rig.when_state(await rig.order("a"), OrderState.NEEDS_REVIEW)
    [purchase] = now.purchases
    assert purchase.intent_at > now.created_at
    assert purchase.review_at >= purchase.intent_at + 100
    assert Source.DEADLINE in {evidence.source for evidence in purchase.evidence}


# --- Answers that are kept --------------------------------------------------------------------------------------------


@pytest.mark.rule("P10")
async def test_an_answer_in_doubt_is_kept_whole_and_only_sealed(rigged: Rigged, tmp_path: Path) -> None:
    """A paid card may be inside: to the last byte it can be opened, and no file of the store shows a part of it."""
    unreadable = b'{"said": "delivered", "cards": ["CANARY-4711-PAID"],}'
    rig = await rigged(a=traits(queryable=False))
    rig.script.place = answers(unreadable)
    order = await rig.order("a")
    await rig.when_state(order, OrderState.OUTCOME_UNKNOWN)
    assert await rig.kept_answers(order) == [unreadable]
    await rig.close()
    assert "reward.db" in held_in(tmp_path)
    assert [name for name, held in held_in(tmp_path).items() if b"CANARY" in held] == []


@pytest.mark.rule("P5", "P12")
async def test_a_look_without_news_writes_nothing(rigged: Rigged) -> None:
    """However often a supplier says the same, the order stays as it was written."""
    rig = await rigged(a=traits())
    rig.script.place = rig.script.query = answers(accepted("S1"))
    order = await rig.order("a")
    before = await rig.when(order, lambda now: now.purchases[0].state is PurchaseState.ACCEPTED)
    await until(lambda: len(rig.script.queries) >= 5)
    assert await rig.stored(order) == before


@pytest.mark.rule("P11")
async def test_a_doubtful_refusal_that_cannot_be_looked_up_is_no_refusal(rigged: Rigged) -> None:
    """Without a query nothing confirms it: the doubt stays, nothing is bought elsewhere, a person decides."""
    rig = await rigged(a=traits(queryable=False, settle_by=0.1), b=traits())

    async def place(asked: Asked) -> Reply:
        return refused(certain=False) if asked.account == "a" else delivered("B")

    rig.script.place = place
    now = await rig.when_state(await rig.order(BOTH), OrderState.NEEDS_REVIEW)
    assert [p.state for p in now.purchases] == [PurchaseState.UNKNOWN]
    assert not rig.script.places("b")
