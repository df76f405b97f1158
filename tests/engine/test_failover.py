"""Failover over the wire: what the suppliers' own books say was bought, and where."""

import pytest

from reward_adapters.contract import RefusedFor
from reward_server.domain.order import FailureReason, Order, OrderState, PurchaseState

from .rig import (
    ABSENT,
    BOTH,
    Asked,
    Handler,
    Reply,
    Rig,
    Rigged,
    Said,
    accepted,
    answers,
    delivered,
    hangs_up,
    outcomes,
    refused,
    traits,
    until,
)


class Books:
    """What each supplier was asked to sell, and what it said, in the order of the requests."""

    def __init__(self, rig: Rig, **says: Said | Handler) -> None:
        self.entries: list[tuple[str, str]] = []
        self.numbers: list[str] = []
        self._says = says
        rig.script.place = self._place

    async def _place(self, asked: Asked) -> Reply:
        said = self._says[asked.account]
        self.numbers.append(asked.number)
        self.entries.append((asked.account, said["said"] if isinstance(said, dict) else "nothing"))
        return said if isinstance(said, dict) else await said(asked)


async def cards(rig: Rig, order: Order) -> list[str]:
    """What the client gets."""
    sealer = await rig.vault.client(order.client_id)
    stored = await rig.store.cards(order.client_id, [order.order_id])
    return [
        sealer.open_card(card.sealed, order.order_id, card.card_no).secret for card in stored.get(order.order_id, [])
    ]


@pytest.mark.parametrize("about", [RefusedFor.STOCK, RefusedFor.PRODUCT, RefusedFor.PRICE, RefusedFor.BALANCE])
@pytest.mark.rule("P7")
async def test_refused_at_the_first_bought_at_the_second(rigged: Rigged, about: RefusedFor) -> None:
    """What the first supplier certainly refuses is bought at the second: one purchase in each book, under a number of
    its own, and no look."""
    rig = await rigged(a=traits(), b=traits())
    books = Books(rig, a=refused(about=about), b=delivered("B"))
    now = await rig.when_state(await rig.order(BOTH), OrderState.FULFILLED)
    assert books.entries == [("a", "refused"), ("b", "delivered")]
    assert books.numbers == [p.number for p in now.purchases]
    assert len(set(books.numbers)) == 2
    assert [p.state for p in now.purchases] == [PurchaseState.DEAD, PurchaseState.DELIVERED]
    assert now.delivered_quantity == 1
    assert await cards(rig, now) == ["B"]
    assert not rig.script.queries


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        (RefusedFor.RECIPIENT, FailureReason.RECIPIENT_REFUSED),
        (RefusedFor.OTHER, FailureReason.REFUSED),
    ],
)
@pytest.mark.rule("P7")
async def test_refusal_of_the_order_itself_fails_it(rigged: Rigged, about: RefusedFor, reason: FailureReason) -> None:
    """A refusal that speaks against the order and not the offer ends it; the second supplier is never asked."""
    rig = await rigged(a=traits(), b=traits())
    books = Books(rig, a=refused(about=about), b=delivered("B"))
    now = await rig.when_state(await rig.order(BOTH), OrderState.FAILED)
    assert now.failure is not None
    assert now.failure.reason is reason
    assert len(now.purchases) == 1
    assert books.entries == [("a", "refused")]


@pytest.mark.rule("P7", "P11")
async def test_doubtful_refusal_needs_a_look_first(rigged: Rigged) -> None:
    """The second supplier is asked only after a look at the first found nothing; the client sees no doubt meanwhile."""
    rig = await rigged(a=traits(), b=traits())
    books = Books(rig, a=refused(certain=False), b=delivered("B"))
    states: list[OrderState] = []
    rig.engine.ledger.listen(lambda changed: states.append(changed.state))
    now = await rig.when_state(await rig.order(BOTH), OrderState.FULFILLED)
    assert books.entries == [("a", "refused"), ("b", "delivered")]
    assert [(a.account, a.what) for a in rig.script.asked] == [("a", "place"), ("a", "query"), ("b", "place")]
    assert outcomes(now.purchases[0]) == ["Refused", "Absent"]
    assert states
    assert OrderState.OUTCOME_UNKNOWN not in states


@pytest.mark.rule("P7", "P11")
async def test_doubtful_refusal_that_a_look_contradicts(rigged: Rigged) -> None:
    """Where the look finds what was "refused", it was bought there, and nowhere else."""
    rig = await rigged(a=traits(), b=traits())
    books = Books(rig, a=refused(certain=False), b=delivered("B"))
    rig.script.query = answers(delivered("A"))
    now = await rig.when_state(await rig.order(BOTH), OrderState.FULFILLED)
    assert books.entries == [("a", "refused")]
    assert await cards(rig, now) == ["A"]


@pytest.mark.parametrize("place", [hangs_up, answers(b"what?")], ids=["no answer", "unreadable answer"])
@pytest.mark.rule("P7")
async def test_purchase_in_doubt_is_not_bought_elsewhere(rigged: Rigged, place: Handler) -> None:
    """As long as nobody knows what became of it at the first supplier, the second is never asked."""
    rig = await rigged(a=traits(), b=traits())
    books = Books(rig, a=place, b=delivered("B"))
    rig.script.query = answers(b"what?")
    order = await rig.order(BOTH)
    await rig.when_state(order, OrderState.OUTCOME_UNKNOWN)
    await until(lambda: len(rig.script.queries) >= 4)
    assert [p.state for p in (await rig.stored(order)).purchases] == [PurchaseState.UNKNOWN]
    rig.script.query = answers(delivered("A"))
    now = await rig.when_state(order, OrderState.FULFILLED)
    assert books.entries == [("a", "nothing")]
    assert await cards(rig, now) == ["A"]


@pytest.mark.rule("P7")
async def test_purchase_in_doubt_without_a_query_is_not_bought_elsewhere(rigged: Rigged) -> None:
    """Nor does a deadline make a supplier that can't be asked say no: a person looks."""
    rig = await rigged(a=traits(queryable=False, settle_by=0.1), b=traits())
    books = Books(rig, a=hangs_up, b=delivered("B"))
    now = await rig.when_state(await rig.order(BOTH), OrderState.NEEDS_REVIEW)
    assert len(now.purchases) == 1
    assert books.entries == [("a", "nothing")]


@pytest.mark.rule("P5", "P7")
async def test_purchase_in_doubt_that_was_never_received_fails(rigged: Rigged) -> None:
    """A doubt that looks prove to be nothing, after the grace, is the end of the order; the second is never asked."""
    rig = await rigged(a=traits(not_found_grace=0.2), b=traits())
    books = Books(rig, a=hangs_up, b=delivered("B"))
    rig.script.query = answers(ABSENT)
    now = await rig.when_state(await rig.order(BOTH), OrderState.FAILED)
    assert books.entries == [("a", "nothing")]
    assert now.failure is not None
    assert now.failure.reason is FailureReason.NEVER_RECEIVED
    assert now.purchases[0].updated_at - now.purchases[0].written_until >= 200


@pytest.mark.rule("P7")
async def test_accepted_purchase_is_not_bought_elsewhere(rigged: Rigged) -> None:
    """What the first supplier took is its to deliver."""
    rig = await rigged(a=traits(), b=traits())
    books = Books(rig, a=accepted("S1"), b=delivered("B"))
    rig.script.query = answers(accepted("S1"))
    order = await rig.order(BOTH)
    await until(lambda: len(rig.script.queries) >= 3)
    rig.script.query = answers(delivered("A"))
    now = await rig.when_state(order, OrderState.FULFILLED)
    assert books.entries == [("a", "accepted")]
    assert await cards(rig, now) == ["A"]


@pytest.mark.rule("P7")
async def test_offers_are_tried_in_the_configured_order(rigged: Rigged) -> None:
    """Every offer is tried once, in the order of the configuration; the order fails with what the last one said."""
    rig = await rigged(c=traits(), a=traits(), b=traits())
    books = Books(rig, c=refused(), a=refused(about=RefusedFor.PRICE), b=refused(about=RefusedFor.PRODUCT))
    now = await rig.when_state(await rig.order(BOTH), OrderState.FAILED)
    assert [account for account, _ in books.entries] == ["c", "a", "b"]
    assert [p.offer for p in now.purchases] == [0, 1, 2]
    assert now.failure is not None
    assert now.failure.reason is FailureReason.PRODUCT_UNAVAILABLE


@pytest.mark.rule("P7")
async def test_later_offers_are_left_alone_when_an_earlier_one_delivers(rigged: Rigged) -> None:
    """The first supplier that delivers is the last one asked."""
    rig = await rigged(c=traits(), a=traits(), b=traits())
    books = Books(rig, c=refused(), a=delivered("A"), b=delivered("B"))
    now = await rig.when_state(await rig.order(BOTH), OrderState.FULFILLED)
    assert books.entries == [("c", "refused"), ("a", "delivered")]
    assert await cards(rig, now) == ["A"]
