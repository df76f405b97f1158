"""What operators decide, from the decision to the supplier and to the client's stream."""

import asyncio

import pytest

from reward_adapters.contract import Card, CardKind, NotSent, NotSentCause
from reward_server.domain.deciding import Decision, Verdict
from reward_server.domain.order import Order, OrderState, PurchaseState, ReviewReason, Source
from reward_server.engine.account import AccountState
from reward_server.engine.reviews import ReviewFilter
from reward_server.errors import DecisionRefused, OrderNotFound, ProductNotOrderable, PurchaseNotFound, SupplierNotFound
from reward_server.store import ReviewPlace

from .rig import (
    BOTH,
    CONTRADICTION,
    Rig,
    Rigged,
    accepts_it,
    after,
    answers,
    delivered,
    hangs_up,
    outcomes,
    refused,
    takes_it,
    traits,
    until,
)

WHO = "operator (Li)"


def verdict(decision: Decision, *secrets: str, kept: bool = False) -> Verdict:
    cards = tuple(Card(kind=CardKind.CODE, secret=secret) for secret in secrets)
    return Verdict(decision=decision, reason="they told us", by=WHO, cards=cards, kept=kept)


async def resolve(rig: Rig, order: Order, said: Verdict, place: int = 0) -> Order:
    return await rig.engine.reviews.resolve(order.order_id, order.purchases[place].number, said)


async def in_review(rig: Rig, product: str = "a", name: str = "1") -> Order:
    """An order whose supplier contradicts itself."""
    rig.script.place = answers(CONTRADICTION)
    order = await rig.order(product, name)
    return await rig.when_state(order, OrderState.NEEDS_REVIEW)


async def waiting(rig: Rig, only: ReviewFilter | None = None) -> list[str]:
    """The client's ids of what waits for a person."""
    return [order.client_order_id for order in await rig.engine.reviews.page(only or ReviewFilter(), ReviewPlace(), 50)]


async def test_entered_cards_reach_the_client(rigged: Rigged) -> None:
    """As an update like any other; the decision is evidence and stands in the record."""
    rig = await rigged(a=traits(look_delays=(60.0,)))
    order = await in_review(rig)
    now = await resolve(rig, order, verdict(Decision.DELIVERED, "ENTERED"))
    assert now.state is OrderState.FULFILLED
    assert await rig.shown_cards(order) == ["ENTERED"]
    assert (await rig.updates(order))[-1] == now
    assert [update.version for update in await rig.updates(order)] == list(range(1, now.version + 1))
    last = now.purchases[0].evidence[-1]
    assert (last.source, last.outcome, last.detail) == (Source.OPERATOR, "OperatorDelivered", f"{WHO}: they told us")
    [entry] = await rig.store.audit(0, 9)
    assert (entry.by, entry.what, entry.reason, entry.account) == (WHO, "delivered", "they told us", "a")
    assert (entry.order_id, entry.number) == (order.order_id, order.purchases[0].number)
    assert await waiting(rig) == []


@pytest.mark.rule("O4", "O8")
async def test_kept_cards_reach_the_client_by_a_decision_alone(rigged: Rigged) -> None:
    """A dead purchase was delivered after all; nothing was bought in its place."""
    rig = await rigged(a=traits(queryable=False))
    rig.script.place = answers(refused())
    order = await rig.order("a")
    await rig.when_state(order, OrderState.FAILED)
    await rig.callback("a", order.purchases[0].number, delivered("LATE"))
    assert (await rig.stored(order)).reviews == (ReviewReason.LATE_SUCCESS,)
    assert await rig.shown_cards(order) == []
    rig.forget()
    now = await resolve(rig, order, verdict(Decision.DELIVERED, kept=True))
    assert (now.state, now.reviews, now.failure) == (OrderState.FULFILLED, (), None)
    assert await rig.shown_cards(order) == ["LATE"]


async def test_units_are_bought_again_where_an_account_can_be_used(rigged: Rigged) -> None:
    """Under a new number, at the first offer whose account isn't paused."""
    rig = await rigged(a=traits(), b=traits())
    order = await in_review(rig, BOTH)
    await rig.engine.reviews.pause("a", by=WHO, reason="odd")
    rig.script.place = takes_it
    await resolve(rig, order, verdict(Decision.BUY_AGAIN))
    now = await rig.when_state(order, OrderState.FULFILLED)
    assert [p.state for p in now.purchases] == [PurchaseState.DEAD, PurchaseState.DELIVERED]
    assert [asked.account for asked in rig.script.places()] == ["a", "b"]
    assert len({asked.number for asked in rig.script.places()}) == 2


async def test_what_is_bought_again_has_its_own_sending_deadline(rigged: Rigged) -> None:
    """That of the order is past."""
    rig = await rigged(a=traits(send_by=900.0))
    order = await in_review(rig)
    rig.clock.advance(1000)
    rig.script.place = takes_it
    await resolve(rig, order, verdict(Decision.BUY_AGAIN))
    await rig.when_state(order, OrderState.FULFILLED)


@pytest.mark.rule("D1", "O13")
async def test_a_decision_survives_a_restart_before_its_effect(rigged: Rigged) -> None:
    """What was to be bought again is bought by the next start."""
    rig = await rigged(a=traits())
    order = await in_review(rig)
    rig.rest("a", 60)
    await resolve(rig, order, verdict(Decision.BUY_AGAIN))
    assert len(rig.script.places()) == 1
    rig.script.place = takes_it
    await rig.restart({"a": traits()})
    await rig.when_state(order, OrderState.FULFILLED)
    assert len(rig.script.places()) == 2


@pytest.mark.rule("O3", "D10", "O13")
async def test_of_two_decisions_one_is_taken(rigged: Rigged) -> None:
    """The other one is told how things stand now; the record has one entry."""
    rig = await rigged(a=traits(look_delays=(60.0,)))
    order = await in_review(rig)
    rig.script.place = takes_it
    results = await asyncio.gather(
        *(resolve(rig, order, verdict(Decision.BUY_AGAIN)) for _ in range(5)), return_exceptions=True
    )
    refusals = [result for result in results if isinstance(result, DecisionRefused)]
    assert (len(refusals), refusals[0].state) == (4, "dead")
    await rig.when_state(order, OrderState.FULFILLED)
    assert len(rig.script.places()) == 2
    assert len(await rig.store.audit(0, 9)) == 1


@pytest.mark.rule("D10", "O13")
async def test_evidence_and_a_decision_at_once_are_both_kept(rigged: Rigged) -> None:
    """Whoever comes second is weighed against what is there then: the card that came is kept, nothing is lost."""
    rig = await rigged(a=traits(queryable=False))
    order = await in_review(rig)
    number = order.purchases[0].number
    await asyncio.gather(
        resolve(rig, order, verdict(Decision.FAIL)),
        *(rig.callback("a", number, delivered("CAME")) for _ in range(3)),
    )
    now = await rig.stored(order)
    assert now.state is OrderState.FAILED
    assert [card.hidden for card in now.purchases[0].cards] == [True]
    assert await rig.shown_cards(order) == []


@pytest.mark.rule("O13")
async def test_an_unknown_outcome_is_decided_once_its_deadline_has_passed(rigged: Rigged) -> None:
    """Before that evidence may still settle it."""
    rig = await rigged(a=traits(look_delays=(60.0,), not_found_grace=3600.0))
    rig.script.place = hangs_up
    order = await rig.order("a")
    order = await rig.when(order, lambda now: now.purchases[0].written_until)
    with pytest.raises(DecisionRefused, match="deadline hasn't passed"):
        await resolve(rig, order, verdict(Decision.FAIL))
    rig.clock.ahead_ms += 1_000_000
    assert (await resolve(rig, order, verdict(Decision.FAIL))).state is OrderState.FAILED


async def test_decisions_about_what_is_not_there(rigged: Rigged) -> None:
    """Told apart."""
    rig = await rigged(a=traits())
    order = await in_review(rig)
    with pytest.raises(OrderNotFound):
        await rig.engine.reviews.resolve("none", "none", verdict(Decision.FAIL))
    with pytest.raises(PurchaseNotFound):
        await rig.engine.reviews.resolve(order.order_id, "none", verdict(Decision.FAIL))
    for name in ("pause", "resume"):
        with pytest.raises(SupplierNotFound):
            await getattr(rig.engine.reviews, name)("none", by=WHO, reason="-")
    assert await rig.store.audit(0, 9) == []


async def test_reviews_are_found_by_account_and_reason(rigged: Rigged) -> None:
    """Also those beside a final state; what a person dealt with is gone from the list."""
    rig = await rigged(a=traits(look_delays=(60.0,)), b=traits(queryable=False))
    await in_review(rig, "a", "first")
    rig.script.place = takes_it
    late = await rig.when_state(await rig.order("b", "second"), OrderState.FULFILLED)
    await rig.callback("b", late.purchases[0].number, delivered("OTHER"))
    await in_review(rig, "b", "third")
    assert await waiting(rig) == ["first", "second", "third"]
    assert await waiting(rig, ReviewFilter(account="b")) == ["second", "third"]
    assert await waiting(rig, ReviewFilter(reason=ReviewReason.CONTRADICTION)) == ["first", "third"]
    assert await waiting(rig, ReviewFilter("a", ReviewReason.CARDS_CHANGED)) == []
    await resolve(rig, late, verdict(Decision.DISMISS))
    assert await waiting(rig, ReviewFilter(account="b")) == ["third"]
    assert (await rig.stored(late)).state is OrderState.FULFILLED


# --- Pauses -----------------------------------------------------------------------------------------------------------


@pytest.mark.rule("D15")
async def test_nothing_is_sent_to_a_paused_account_until_it_is_resumed(rigged: Rigged) -> None:
    """Orders that exist wait, and new ones are refused where no other account sells the product."""
    rig = await rigged(max_in_flight=1, a=traits())
    gate = asyncio.Event()
    rig.script.place = after(gate, delivered("C"))
    order = await rig.order("a", quantity=2)
    await until(rig.script.places)
    await rig.engine.reviews.pause("a", by=WHO, reason="prices are wrong")
    gate.set()
    now = await rig.when(order, lambda now: now.delivered_quantity == 1)
    assert [p.state for p in now.purchases] == [PurchaseState.DELIVERED, PurchaseState.WAITING]
    with pytest.raises(ProductNotOrderable):
        await rig.order("a", "another")
    standing = rig.accounts["a"].standing()
    assert (standing.state, standing.detail, standing.until) == (AccountState.PAUSED, "prices are wrong", 0)
    assert standing.hold is not None
    assert standing.hold.by == WHO
    assert len(rig.script.places()) == 1
    await rig.engine.reviews.resume("a", by=WHO, reason="mended")
    await rig.when_state(order, OrderState.FULFILLED)
    assert len(rig.script.places()) == 2
    assert [entry.what for entry in await rig.store.audit(0, 9)] == ["resume", "pause"]


@pytest.mark.rule("D15")
async def test_a_pause_survives_a_restart(rigged: Rigged) -> None:
    """What waited is still waiting, and is sent when an operator says so."""
    rig = await rigged(a=traits())
    rig.rest("a", 60)
    order = await rig.order("a")
    await rig.engine.reviews.pause("a", by=WHO, reason="odd")
    await rig.restart({"a": traits()})
    assert rig.accounts["a"].paused_for == "odd"
    assert (await rig.stored(order)).purchases[0].state is PurchaseState.WAITING
    assert not rig.script.places()
    await rig.engine.reviews.resume("a", by=WHO, reason="fine")
    await rig.when_state(order, OrderState.FULFILLED)


@pytest.mark.rule("D15")
async def test_what_was_sent_is_looked_at_during_a_pause(rigged: Rigged) -> None:
    """Only sending stops."""
    rig = await rigged(a=traits())
    rig.script.place = rig.script.query = accepts_it
    order = await rig.order("a")
    await rig.when(order, lambda now: now.purchases[0].state is PurchaseState.ACCEPTED)
    await rig.engine.reviews.pause("a", by=WHO, reason="odd")
    rig.script.query = answers(delivered("C"))
    await rig.when_state(order, OrderState.FULFILLED)


@pytest.mark.rule("D15")
async def test_a_waiting_purchase_dies_at_its_deadline_during_a_pause(rigged: Rigged) -> None:
    """A pause doesn't stop the clock."""
    rig = await rigged(a=traits(send_by=0.3))
    rig.rest("a", 60)
    order = await rig.order("a")
    await rig.engine.reviews.pause("a", by=WHO, reason="odd")
    now = await rig.when_state(order, OrderState.FAILED)
    assert outcomes(now.purchases[0]) == ["DeadlinePassed"]


@pytest.mark.rule("P15")
async def test_resuming_ends_a_pause_that_the_supplier_caused(rigged: Rigged) -> None:
    """At once, instead of a minute later."""
    rig = await rigged(a=traits())
    rig.rest("a", 0.05)
    order = await rig.order("a")
    rig.accounts["a"].heard(NotSent(cause=NotSentCause.CONFIGURATION, detail="signature"))
    assert rig.accounts["a"].standing().state is AccountState.PAUSED
    await until(lambda: rig.accounts["a"]._resting_until <= rig.clock.monotonic())
    assert not rig.script.places()
    await rig.engine.reviews.resume("a", by=WHO, reason="the secret is right now")
    await rig.when_state(order, OrderState.FULFILLED)
