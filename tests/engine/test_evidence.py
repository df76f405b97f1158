"""What suppliers say late, twice, half or against themselves: nothing of it is lost, nothing is bought twice."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from aiohttp import web

from reward_server.domain.order import Order, OrderState, PurchaseState, ReviewReason
from reward_server.store import SealedToken, StoreUnavailable

from .rig import (
    ABSENT,
    BOTH,
    CONTRADICTION,
    Asked,
    Reply,
    Rigged,
    accepted,
    after,
    answers,
    delivered,
    hangs_up,
    outcomes,
    refused,
    traits,
    until,
)

UNREADABLE = b'{"said": "delivered", "cards": ["PAID"],}'


@pytest.mark.rule("P5", "P11")
async def test_late_doubtful_refusal_of_an_accepted_purchase_buys_nothing_again(rigged: Rigged) -> None:
    """A refusal that isn't certain and a look that finds nothing don't undo what the supplier accepted before."""
    rig = await rigged(a=traits(read_timeout=0.05, look_delays=(60.0,)), b=traits())
    late = asyncio.Event()
    rig.script.place = after(late, refused(certain=False))
    rig.script.query = answers(accepted("S1"))
    order = await rig.order(BOTH)
    await rig.when(order, lambda now: now.purchases[0].state is PurchaseState.ACCEPTED)
    rig.script.query = answers(ABSENT)
    late.set()
    now = await rig.when(order, lambda now: "Refused" in outcomes(now.purchases[0]))
    assert [p.state for p in now.purchases] == [PurchaseState.ACCEPTED]
    assert "Absent" in outcomes(now.purchases[0])
    assert not rig.script.places("b")


@pytest.mark.rule("P11")
async def test_look_from_before_a_doubtful_refusal_confirms_nothing(rigged: Rigged) -> None:
    """Only a look that was made after the refusal can confirm it."""
    rig = await rigged(a=traits(read_timeout=1.5, look_delays=(0.03,)), b=traits())
    late, looking = asyncio.Event(), asyncio.Event()

    async def place(asked: Asked) -> Reply:
        if asked.account == "b":
            return delivered("B")
        await late.wait()
        return refused(certain=False)

    async def query(asked: Asked) -> Reply:
        match len(rig.script.queries):
            case 1:
                await looking.wait()
                return ABSENT
            case 2:
                return await hangs_up(asked)
        return accepted("S1")

    rig.script.place = place
    rig.script.query = query
    order = await rig.order(BOTH)
    await until(lambda: len(rig.script.queries) == 1)
    late.set()
    await rig.when(order, lambda now: "Refused" in outcomes(now.purchases[0]))
    looking.set()
    await until(lambda: len(rig.script.queries) > 2 or rig.script.places("b"))
    assert not rig.script.places("b")
    await rig.when(order, lambda now: now.purchases[0].state is PurchaseState.ACCEPTED)


@pytest.mark.rule("P11")
async def test_doubtful_refusal_is_believed_with_a_look_that_finds_nothing(rigged: Rigged) -> None:
    """Where nothing speaks against it, such a refusal still makes room for the next offer."""
    rig = await rigged(a=traits(), b=traits())

    async def place(asked: Asked) -> Reply:
        return refused(certain=False) if asked.account == "a" else delivered("B")

    rig.script.place = place
    now = await rig.when_state(await rig.order(BOTH), OrderState.FULFILLED)
    assert [p.state for p in now.purchases] == [PurchaseState.DEAD, PurchaseState.DELIVERED]


@pytest.mark.rule("P3", "P10")
async def test_late_unreadable_answer_is_kept(rigged: Rigged) -> None:
    """An answer that can't be read is kept whole even if the purchase was in doubt already: a card may be in it."""
    rig = await rigged(a=traits(queryable=False, read_timeout=0.05))
    late = asyncio.Event()
    rig.script.place = after(late, UNREADABLE)
    order = await rig.order("a")
    await rig.when_state(order, OrderState.OUTCOME_UNKNOWN)
    late.set()
    await rig.when(order, lambda now: now.purchases[0].written_until)
    assert await rig.kept_answers(order) == [UNREADABLE]


@pytest.mark.rule("P10")
async def test_half_an_answer_is_kept(rigged: Rigged) -> None:
    """When the connection breaks in the middle of an answer, what was read of it is kept."""
    rig = await rigged(a=traits(queryable=False))

    async def place(asked: Asked) -> Reply:
        half = web.StreamResponse()
        half.content_length = 500
        await half.prepare(asked.request)
        await half.write(UNREADABLE)
        assert asked.request.transport is not None
        asked.request.transport.close()
        return half

    rig.script.place = place
    order = await rig.order("a")
    await rig.when_state(order, OrderState.OUTCOME_UNKNOWN)
    assert await rig.kept_answers(order) == [UNREADABLE]


@pytest.mark.rule("P3", "O8")
async def test_cards_that_come_during_a_review_are_kept_hidden(rigged: Rigged, tmp_path: Path) -> None:
    """Cards of a purchase that only a person may settle are stored for that person, and not shown to the client."""
    rig = await rigged(a=traits(queryable=False, read_timeout=0.05))
    late = asyncio.Event()
    rig.script.place = after(late, delivered("ONLY COPY"))
    order = await rig.order("a")
    await rig.when_state(order, OrderState.OUTCOME_UNKNOWN)
    await rig.callback("a", order.purchases[0].number, CONTRADICTION)
    await rig.when_state(order, OrderState.NEEDS_REVIEW)
    late.set()
    now = await rig.when(order, lambda now: now.purchases[0].cards)
    assert now.purchases[0].review is ReviewReason.CONTRADICTION
    assert now.delivered_quantity == 0
    assert await rig.store.cards("shop", [order.order_id]) == {}
    with sqlite3.connect(tmp_path / "reward.db") as reader:
        [(hidden, sealed)] = reader.execute("SELECT hidden, sealed FROM cards")
    reader.close()
    assert hidden
    sealer = await rig.vault.client("shop")
    assert sealer.open_card(sealed, order.order_id, 1).secret == "ONLY COPY"


@pytest.mark.rule("D12")
async def test_refusal_outlives_a_store_that_fails_during_its_look(
    rigged: Rigged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A doubtful refusal is stored as soon as the store works again, and settled by the looks that follow."""
    rig = await rigged(a=traits())
    failures = 0

    async def fails(*_args: object) -> Order:
        nonlocal failures
        failures += 1
        raise StoreUnavailable("locked")

    async def place(_asked: Asked) -> Reply:
        rig.forget()
        monkeypatch.setattr(rig.store, "order", fails)
        return refused(certain=False)

    rig.script.place = place
    order = await rig.order("a")
    await until(lambda: failures)
    monkeypatch.undo()
    now = await rig.when_state(order, OrderState.FAILED)
    assert outcomes(now.purchases[0]) == ["Refused", "Absent"]
    assert not rig.failures


async def test_token_that_cannot_be_stored_costs_no_evidence(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh access token is used even if the store can't keep it, and the purchase it is needed for goes on."""
    rig = await rigged(a=traits(needs_token=True))
    await rig.when_state(await rig.order("a", "first"), OrderState.FULFILLED)

    async def fails(_token: SealedToken) -> None:
        raise StoreUnavailable("disk full")

    async def place(asked: Asked) -> Reply:
        rig.accounts["a"].drop_token(asked.token)
        return refused(certain=False)

    monkeypatch.setattr(rig.store, "save_token", fails)
    rig.script.place = place
    now = await rig.when_state(await rig.order("a", "second"), OrderState.FAILED)
    assert outcomes(now.purchases[0]) == ["Refused", "Absent"]
    assert [q.token for q in rig.script.queries] == ["token2"]


async def test_failing_listener_costs_no_order(rigged: Rigged) -> None:
    """A defect in who listens to changes is told and doesn't look like a failed write."""
    rig = await rigged(a=traits())

    def fails(_order: Order) -> None:
        raise ValueError("a defect")

    rig.engine.ledger.listen(fails)
    await rig.when_state(await rig.order("a"), OrderState.FULFILLED)
    assert rig.alerts("defect")
    await until(lambda: rig.accounts["a"].in_flight == 0)
