"""What operators decide: which decisions fit how a purchase stands, and what they do."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_adapters.contract import (
    Accepted,
    AfterSale,
    Card,
    CardKind,
    Delivered,
    Doubt,
    ProductKind,
    Refunded,
    Refused,
    RefusedFor,
    Unclear,
)
from reward_adapters.money import Money
from reward_server.domain.deciding import Decision, Rest, Situation, Verdict, decide, objection, open_reviews
from reward_server.domain.moves import (
    AlertKind,
    DeadlinePassed,
    Event,
    Step,
    advance,
    intend,
    order_state,
    request_cancel,
    sendable,
)
from reward_server.domain.order import FailureReason, Order, OrderState, PurchaseState, ReviewReason, Source

from .test_moves import CANCEL, NOW, Numbers, around, card, event_strategy, in_state, new_order, print_card, submitting

LATER = NOW + 1_000_000
HERE = Situation(overdue=False, offer=0)
OVERDUE = Situation(overdue=True, offer=0)


def verdict(decision: Decision, *cards: Card, kept: bool = False, rest: Rest | None = None) -> Verdict:
    return Verdict(decision=decision, reason="they told us", by="operator (Li)", cards=cards, kept=kept, rest=rest)


def why_not(order: Order, number: str, said: Verdict, situation: Situation = HERE) -> str:
    return objection(order, number, said, situation, print_card)


def decided(order: Order, said: Verdict, number: str = "N1", situation: Situation = HERE) -> Step:
    """What a decision that nothing speaks against comes to."""
    assert why_not(order, number, said, situation) == ""
    used = [int(p.number.removeprefix("N")) for p in order.purchases]
    fresh = Numbers()
    for _ in range(max(used)):
        fresh()
    return decide(order, number, said, situation, around(fresh, LATER, Source.OPERATOR))


def after(order: Order, *events: Event, number: str = "N1") -> Order:
    for event in events:
        order = advance(order, number, event, around(Numbers())).order
    return order


def overdue(**options: object) -> Order:
    """An order whose first purchase is in review for its deadline."""
    return after(submitting(Numbers(), **options), Unclear("no answer"), DeadlinePassed())


def contradicted(**options: object) -> Order:
    """An order that only a person can settle."""
    return after(submitting(Numbers(), **options), Unclear("?", Doubt.CONTRADICTION))


# --- Delivered --------------------------------------------------------------------------------------------------------


def test_cards_entered_by_hand_are_delivered() -> None:
    """As many as units; nobody watches for what becomes of them, and who said so stands among the evidence."""
    step = decided(contradicted(), verdict(Decision.DELIVERED, card(1)))
    assert (step.order.state, step.order.reviews, step.visible) == (OrderState.FULFILLED, (), True)
    assert [(new.card_no, new.hidden) for new in step.cards] == [(1, False)]
    last = step.order.purchases[0].evidence[-1]
    assert (last.source, last.outcome, last.detail) == (
        Source.OPERATOR,
        "OperatorDelivered",
        "operator (Li): they told us",
    )
    assert step.order.settled_at == LATER


def test_kept_cards_become_visible_by_a_decision() -> None:
    """What came while a person was needed was kept; it isn't stored a second time."""
    order = after(contradicted(), Delivered(cards=(card(1),)))
    assert order.purchases[0].cards[0].hidden
    step = decided(order, verdict(Decision.DELIVERED, kept=True))
    assert (step.order.state, step.cards, step.released) == (OrderState.FULFILLED, (), (1,))
    assert step.order.delivered_quantity == 1


def test_a_kept_card_entered_by_hand_is_the_kept_one() -> None:
    """Recognised by what redeems it: who enters it doesn't know the supplier's number for it."""
    kept = replace(card(1), supplier_card_number="77")
    order = after(contradicted(), Delivered(cards=(kept,)))
    step = decided(order, verdict(Decision.DELIVERED, card(1)))
    assert (step.cards, step.released, step.order.card_count) == ((), (1,), 1)


@pytest.mark.parametrize("entered", [(), (card(1),), (card(1), card(1)), (card(1), card(2), card(3))])
def test_a_wrong_number_of_cards_is_refused(entered: tuple[Card, ...]) -> None:
    """Neither too few nor too many; the same one twice is one."""
    order = contradicted(quantity=2, max_units=2)
    said = verdict(Decision.DELIVERED, *entered)
    assert "it is for 2" in why_not(order, "N1", said)
    assert not decide(order, "N1", said, HERE, around(Numbers())).news


def test_cards_handed_over_before_count() -> None:
    """The missing ones are entered; the others stay as they are."""
    order = submitting(Numbers(), quantity=2, max_units=2)
    order = after(order, Delivered(cards=(card(1),), complete=False), Unclear("?", Doubt.CONTRADICTION))
    step = decided(order, verdict(Decision.DELIVERED, card(2)))
    assert [new.card_no for new in step.cards] == [2]
    assert (step.order.state, step.order.delivered_quantity) == (OrderState.FULFILLED, 2)


def test_a_kept_card_that_was_taken_back_is_not_handed_over() -> None:
    """It would be worthless."""
    order = after(contradicted(), Delivered(cards=(card(1),)))
    [kept] = order.purchases[0].cards
    gone = replace(order.purchases[0], cards=(replace(kept, after_sale=AfterSale.REVERSED),))
    assert why_not(order.with_purchase(gone), "N1", verdict(Decision.DELIVERED, kept=True))


def test_what_has_no_cards_is_delivered_without() -> None:
    """A top-up that arrived; cards make no sense with it."""
    order = overdue(kind=ProductKind.TOPUP)
    assert why_not(order, "N1", verdict(Decision.DELIVERED, card(1)))
    assert decided(order, verdict(Decision.DELIVERED)).order.state is OrderState.FULFILLED


@pytest.mark.rule("O4")
def test_a_late_success_is_delivered_where_nothing_was_bought_instead() -> None:
    """The order was FAILED: terminal states are final but for such a decision."""
    order = after(in_state(PurchaseState.DEAD, Numbers()), Delivered(cards=(card(1),)))
    assert (order.state, order.reviews) == (OrderState.FAILED, (ReviewReason.LATE_SUCCESS,))
    step = decided(order, verdict(Decision.DELIVERED, kept=True))
    assert (step.order.state, step.order.reviews, step.order.failure) == (OrderState.FULFILLED, (), None)
    assert step.order.version == order.version + 1


def sold_out(offers: int = 2) -> Order:
    """An order whose first purchase died, with its unit bought at the next offer."""
    numbers = Numbers()
    refused = Refused(code="1", message="sold out", certain=True, about=RefusedFor.STOCK)
    return advance(submitting(numbers, offers=offers), "N1", refused, around(numbers)).order


@pytest.mark.rule("O4", "O1")
def test_a_late_success_beside_its_replacement_can_only_be_dismissed() -> None:
    """Delivering both would be one too many."""
    order = after(sold_out(), Delivered(cards=(card(1),)))
    assert "bought again since" in why_not(order, "N1", verdict(Decision.DELIVERED, kept=True))
    step = decided(order, verdict(Decision.DISMISS))
    assert (step.order.reviews, step.order.purchase("N1").state) == ((), PurchaseState.DEAD)


def test_a_late_success_counts_although_its_replacement_died_after_it() -> None:
    """The purchase that counts for a unit is the one that isn't dead."""
    order = intend(after(sold_out(), Delivered(cards=(card(1),))), "N2", owner="me", at=NOW)
    order = advance(order, "N2", Refused(code="1", message="", certain=True), around(Numbers())).order
    assert order.state is OrderState.FAILED
    assert decided(order, verdict(Decision.DELIVERED, kept=True)).order.state is OrderState.FULFILLED


# --- Delivered in part ------------------------------------------------------------------------------------------------


def three() -> Order:
    """An order of three units in one purchase, of which one card was handed over and one is kept."""
    order = submitting(Numbers(), quantity=3, max_units=3)
    order = after(order, Accepted(cost=Money(30)), Delivered(cards=(card(1),), complete=False))
    return after(order, Unclear("?", Doubt.CONTRADICTION), Delivered(cards=(card(1), card(2)), complete=False))


def test_these_cards_came_and_the_rest_fails() -> None:
    """Said outright: the units without a card become a dead purchase of their own, with the operator's words."""
    step = decided(three(), verdict(Decision.DELIVERED, kept=True, rest=Rest.FAIL))
    order = step.order
    assert (order.state, order.delivered_quantity, step.released) == (OrderState.PARTIALLY_FULFILLED, 2, (2,))
    assert [(p.number, p.state, list(p.units())) for p in order.purchases] == [
        ("N1", PurchaseState.DELIVERED, [0, 1]),
        ("N2", PurchaseState.DEAD, [2]),
    ]
    assert order.failure is not None
    assert (order.failure.reason, order.failure.message) == (FailureReason.OPERATOR, "they told us")
    assert (order.settled_at, order.reviews, order.version) == (LATER, (), three().version + 1)
    assert order.purchases[1].evidence[-1].detail == "the rest of N1: operator (Li): they told us"


def test_a_purchase_delivered_in_part_is_not_called_overcharged() -> None:
    """What it cost was for all of its units."""
    order = three()
    limit = order.offers[0].unit_limit
    paid = order.with_purchase(replace(order.purchases[0], cost=Money(3 * limit)))
    order = decided(paid, verdict(Decision.DELIVERED, rest=Rest.FAIL)).order
    assert (order.reviews, order.total_cost) == ((), 3 * limit)


def test_these_cards_came_and_the_rest_is_bought_again() -> None:
    """Entered cards count like kept ones; only what no card came for is bought anew."""
    order = decided(three(), verdict(Decision.DELIVERED, card(7), rest=Rest.BUY_AGAIN)).order
    assert [(p.state, list(p.units())) for p in order.purchases] == [
        (PurchaseState.DELIVERED, [0, 1]),
        (PurchaseState.DEAD, [2]),
        (PurchaseState.WAITING, [2]),
    ]
    assert (order.state, order.purchases[2].ordered_at) == (OrderState.PROCESSING, LATER)
    assert sum(shown.hidden for shown in order.purchases[0].cards) == 1


def test_a_late_success_is_delivered_in_part() -> None:
    """A dead purchase comes back as far as its cards go; the other units fail anew."""
    order = submitting(Numbers(), quantity=2, max_units=2)
    order = after(order, Refused(code="1", message="no", certain=True), Delivered(cards=(card(1),), complete=False))
    order = decided(order, verdict(Decision.DELIVERED, kept=True, rest=Rest.FAIL)).order
    assert (order.state, order.delivered_quantity, order.reviews) == (OrderState.PARTIALLY_FULFILLED, 1, ())


def test_there_must_be_a_rest_and_a_part() -> None:
    """What is said of the rest has to fit the cards; too few cards without a word about the rest are refused."""
    rest = Rest.FAIL
    assert "say what becomes of the rest" in why_not(three(), "N1", verdict(Decision.DELIVERED, kept=True))
    assert "no rest" in why_not(three(), "N1", verdict(Decision.DELIVERED, card(7), kept=True, rest=rest))
    assert "it is for 3" in why_not(three(), "N1", verdict(Decision.DELIVERED, card(7), card(8), kept=True, rest=rest))
    assert "decide FAIL" in why_not(contradicted(), "N1", verdict(Decision.DELIVERED, rest=rest))
    topup = overdue(kind=ProductKind.TOPUP)
    assert "without cards" in why_not(topup, "N1", verdict(Decision.DELIVERED, rest=rest))
    cancelled = request_cancel(three(), at=NOW).order
    assert "cancelled" in why_not(cancelled, "N1", verdict(Decision.DELIVERED, rest=Rest.BUY_AGAIN))
    for cards in ((card(7),), (card(7), card(8))):
        said = verdict(Decision.DELIVERED, *cards, kept=True, rest=rest)
        assert not decide(three(), "N1", said, HERE, around(Numbers())).news


# --- Dead -------------------------------------------------------------------------------------------------------------


def test_units_given_up_fail_with_the_operators_words() -> None:
    """And nothing else is tried for them, whatever other offers there are."""
    step = decided(overdue(offers=2), verdict(Decision.FAIL))
    assert step.order.state is OrderState.FAILED
    assert step.order.failure is not None
    assert (step.order.failure.reason, step.order.failure.message) == (FailureReason.OPERATOR, "they told us")
    assert len(step.order.purchases) == 1


def test_a_partly_refunded_purchase_that_is_given_up_is_not_tried_elsewhere() -> None:
    """A refund lets the next offer be tried; an operator who says "fail" means it."""
    order = after(submitting(Numbers(), offers=2), Accepted(), Refunded(amount=Money(1), cost=Money(2)))
    assert len(decided(order, verdict(Decision.FAIL)).order.purchases) == 1


def test_a_cancelled_order_ends_as_cancelled_by_an_operators_word() -> None:
    """The client got what it wished."""
    order = request_cancel(overdue(), at=NOW).order
    step = decided(order, verdict(Decision.FAIL))
    assert (step.order.state, step.order.failure) == (OrderState.CANCELLED, None)


@pytest.mark.rule("P7", "P9")
def test_units_are_bought_again_under_new_numbers_with_a_deadline_of_their_own() -> None:
    """At the offer that can be used now."""
    order = overdue(offers=2, quantity=2, max_units=2)
    step = decided(order, verdict(Decision.BUY_AGAIN), situation=Situation(overdue=False, offer=1))
    dead, fresh = step.order.purchases
    assert (dead.state, fresh.state) == (PurchaseState.DEAD, PurchaseState.WAITING)
    assert (fresh.number, fresh.offer, fresh.quantity, fresh.ordered_at) == ("N2", 1, 2, LATER)
    assert (step.order.state, step.order.failure) == (OrderState.ACCEPTED, None)


def test_a_failover_of_what_was_bought_again_keeps_its_deadline() -> None:
    """The order's own sending deadline is long past."""
    numbers = Numbers()
    order = advance(submitting(numbers, offers=2), "N1", Unclear("?", Doubt.CONTRADICTION), around(numbers)).order
    order = decided(order, verdict(Decision.BUY_AGAIN)).order
    order = intend(order, "N2", owner="me", at=LATER)
    refused = Refused(code="1", message="", certain=True, about=RefusedFor.STOCK)
    numbers()
    order = advance(order, "N2", refused, around(numbers, LATER)).order
    assert [p.ordered_at for p in order.purchases] == [0, LATER, LATER]


def test_what_the_client_has_stays_delivered_when_the_rest_is_given_up() -> None:
    """Cards that a client may have seen are never bought again; the rest fails, or is bought again."""
    order = submitting(Numbers(), quantity=3, max_units=3)
    order = after(order, Delivered(cards=(card(1),), complete=False), Unclear("?", Doubt.CONTRADICTION))
    failed = decided(order, verdict(Decision.FAIL)).order
    assert (failed.state, failed.delivered_quantity) == (OrderState.PARTIALLY_FULFILLED, 1)
    assert failed.settled_at == LATER
    again = decided(order, verdict(Decision.BUY_AGAIN)).order
    assert [(p.state, list(p.units())) for p in again.purchases] == [
        (PurchaseState.DELIVERED, [0]),
        (PurchaseState.DEAD, [1, 2]),
        (PurchaseState.WAITING, [1, 2]),
    ]
    assert again.state is OrderState.PROCESSING


def test_a_purchase_whose_cards_all_were_handed_over_cannot_be_given_up() -> None:
    """It can only be delivered, as it is."""
    numbers = Numbers()
    order = submitting(numbers, quantity=2, max_units=2)
    order = after(order, Delivered(cards=(card(1), card(2)), complete=False), Unclear("?", Doubt.CONTRADICTION))
    assert "all of its cards" in why_not(order, "N1", verdict(Decision.FAIL))
    assert decided(order, verdict(Decision.DELIVERED)).order.state is OrderState.FULFILLED


@pytest.mark.rule("O4")
def test_a_success_after_an_operator_gave_up_is_a_late_success() -> None:
    """Evidence is never refused: the card is kept and a person looks again."""
    order = decided(overdue(), verdict(Decision.BUY_AGAIN)).order
    step = advance(order, "N1", Delivered(cards=(card(1),)), around(Numbers(), LATER))
    assert [alert.kind for alert in step.alerts] == [AlertKind.LATE_SUCCESS]
    assert [new.hidden for new in step.cards] == [True]
    assert step.order.delivered_quantity == 0


# --- Dismissing -------------------------------------------------------------------------------------------------------


def overcharged() -> Order:
    delivered = Delivered(cards=(card(1),), cost=Money(1_000_000))
    return advance(submitting(Numbers()), "N1", delivered, around(Numbers(), watch_ms=LATER)).order


@pytest.mark.rule("O5")
def test_items_beside_the_state_are_closed_and_nothing_else_changes() -> None:
    """With the reason among the evidence, and as an update."""
    order = overcharged()
    step = decided(order, verdict(Decision.DISMISS))
    assert (step.order.reviews, step.order.state, step.visible) == ((), OrderState.FULFILLED, True)
    assert step.order.purchases[0].evidence[-1].detail == "overcharged: operator (Li): they told us"


def test_what_was_dismissed_is_not_opened_again_by_the_same_words() -> None:
    """A supplier that repeats itself at every look brings no news."""
    other = Delivered(cards=(card(2),))
    order = advance(overcharged(), "N1", other, around(Numbers())).order
    assert ReviewReason.CARDS_CHANGED in order.reviews
    order = decided(order, verdict(Decision.DISMISS)).order
    step = advance(order, "N1", other, around(Numbers(), LATER + 1))
    assert (step.news, step.alerts) == (False, ())


def test_a_dismissed_late_success_is_opened_again_by_new_cards_only() -> None:
    """The money may be at stake once more."""
    order = after(in_state(PurchaseState.DEAD, Numbers()), Delivered(cards=(card(1),)))
    order = decided(order, verdict(Decision.DISMISS)).order
    assert advance(order, "N1", Delivered(cards=(card(1),)), around(Numbers())).order.reviews == ()
    again = advance(order, "N1", Delivered(cards=(card(1), card(2))), around(Numbers())).order
    assert again.reviews == (ReviewReason.LATE_SUCCESS,)


# --- What doesn't fit -------------------------------------------------------------------------------------------------

NO = "-"
ALLOWED = {
    # One letter each for: delivered, fail, buy again, dismiss. First as it stands, then past its deadline.
    PurchaseState.WAITING: ("----", "----"),
    PurchaseState.SUBMITTING: ("----", "----"),
    PurchaseState.ACCEPTED: ("----", "DFB-"),
    PurchaseState.UNKNOWN: ("----", "DFB-"),
    PurchaseState.DELIVERED: ("----", "----"),
    PurchaseState.DEAD: ("----", "----"),
}
DECISIONS = ((Decision.DELIVERED, "D"), (Decision.FAIL, "F"), (Decision.BUY_AGAIN, "B"), (Decision.DISMISS, "X"))


def allowed(order: Order, situation: Situation) -> str:
    letters = []
    for decision, letter in DECISIONS:
        entered = (card(7),) if decision is Decision.DELIVERED else ()
        letters.append(NO if why_not(order, "N1", verdict(decision, *entered), situation) else letter)
    return "".join(letters)


@pytest.mark.rule("O13")
@pytest.mark.parametrize("state", list(PurchaseState))
def test_without_a_review_only_an_overdue_purchase_can_be_decided(state: PurchaseState) -> None:
    """Evidence goes first; what was never sent, is delivered or is dead needs no decision."""
    order = in_state(state, Numbers())
    assert (allowed(order, HERE), allowed(order, OVERDUE)) == ALLOWED[state]


@pytest.mark.rule("O13")
def test_every_review_can_be_decided_and_every_item_dismissed() -> None:
    """In whatever way, whether or not its deadline has passed."""
    assert allowed(overdue(), HERE) == "DFB-"
    assert allowed(contradicted(), HERE) == "DFB-"
    assert allowed(overcharged(), HERE) == "---X"
    late = after(in_state(PurchaseState.DEAD, Numbers()), Delivered())
    assert allowed(late, HERE) == "D--X"


@pytest.mark.rule("P7", "O13")
def test_nothing_is_decided_while_the_request_may_still_be_on_its_way() -> None:
    """A purchase called dead could be bought the next moment."""
    numbers = Numbers()
    doubt = Unclear("a callback contradicts", Doubt.CONTRADICTION)
    order = advance(submitting(numbers), "N1", doubt, around(numbers, ended=False)).order
    assert order.state is OrderState.NEEDS_REVIEW
    assert allowed(order, OVERDUE) == "----"


def test_nothing_is_bought_again_for_a_cancelled_order_or_where_no_account_can_be_used() -> None:
    """Both are told apart."""
    again = verdict(Decision.BUY_AGAIN)
    assert "cancelled" in why_not(request_cancel(overdue(), at=NOW).order, "N1", again)
    assert "no supplier account" in why_not(overdue(), "N1", again, Situation(overdue=True, offer=None))


def test_open_reviews_say_since_when_and_why() -> None:
    """What keeps an order open, and what stands beside its state."""
    [review] = open_reviews(contradicted())
    assert (review.reason, review.at, review.detail, review.keeps_open) == (ReviewReason.CONTRADICTION, NOW, "?", True)
    [item] = open_reviews(overcharged())
    assert (item.reason, item.keeps_open) == (ReviewReason.OVERCHARGED, False)
    assert (contradicted().review_since, new_order(Numbers()).review_since) == (NOW, 0)
    assert decided(contradicted(), verdict(Decision.FAIL)).order.review_since == 0


# --- Laws -------------------------------------------------------------------------------------------------------------

verdicts = st.one_of(
    st.sampled_from([verdict(Decision.FAIL), verdict(Decision.BUY_AGAIN), verdict(Decision.DISMISS)]),
    st.builds(
        lambda cards, kept, rest: verdict(Decision.DELIVERED, *cards, kept=kept, rest=rest),
        st.lists(st.sampled_from([card(1), card(8), card(9), Card(kind=CardKind.CODE, secret="s")]), max_size=2),
        st.booleans(),
        st.sampled_from([None, *Rest]),
    ),
)


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from(ProductKind),
    quantity=st.integers(1, 3),
    offers=st.integers(1, 2),
    max_units=st.integers(1, 2),
    script=st.lists(
        st.tuples(st.integers(0, 7), st.one_of(st.none(), st.just(CANCEL), event_strategy, verdicts)), max_size=40
    ),
)
@pytest.mark.rule("O1", "O3", "O13")
def test_whatever_is_decided_the_laws_of_orders_hold(
    *, kind: ProductKind, quantity: int, offers: int, max_units: int, script: list[tuple[int, object]]
) -> None:
    """Decisions among any events: a unit never has two live purchases, each unit has one, versions and revisions rise
    by one, dead purchases and terminal orders change by a decision alone, and so do hidden cards; what the client has
    it keeps, and no card is numbered twice.
    """
    numbers = Numbers()
    order = new_order(numbers, kind=kind, quantity=quantity, offers=offers, max_units=max_units)
    shown: set[int] = set()
    seen: set[int] = set()
    for at, (index, what) in enumerate(script, start=NOW):
        before = order
        number = order.purchases[index % len(order.purchases)].number
        circumstances = around(numbers, at=at, ended=at % 2 == 0, watch_ms=20)
        if what is None:
            ready = sendable(order)
            order = intend(order, ready[0].number, owner="me", at=at) if ready else order
            continue
        if isinstance(what, str):
            if before.state.is_terminal:
                continue
            step = request_cancel(order, at=at)
        elif isinstance(what, Verdict):
            situation = Situation(overdue=index % 2 == 0, offer=offers - 1)
            if objection(order, number, what, situation, print_card):
                continue
            step = decide(order, number, what, situation, circumstances)
            assert step.news
        else:
            step = advance(order, number, what, circumstances)  # type: ignore[arg-type]
        order = step.order
        assert step.visible == (order.version == before.version + 1)
        assert order.version - before.version in (0, 1)
        assert order.revision - before.revision == step.news
        for unit in range(quantity):
            having = [p for p in order.purchases if unit in p.units()]
            assert having
            assert sum(p.state is not PurchaseState.DEAD for p in having) <= 1, "a unit is bought twice"
        by_operator = isinstance(what, Verdict)
        for was in before.purchases:
            if was.state is PurchaseState.DEAD and not by_operator:
                assert order.purchase(was.number).state is PurchaseState.DEAD
        if before.state.is_terminal and not by_operator:
            assert order.state is before.state
        assert by_operator or not step.released
        fresh = {new.card_no for new in step.cards}
        assert not fresh & seen
        seen |= fresh
        now_shown = {c.card_no for p in order.purchases for c in p.cards if not c.hidden}
        assert shown <= now_shown
        assert now_shown - shown == {new.card_no for new in step.cards if not new.hidden} | set(step.released)
        shown = now_shown
        assert order.card_count == len(seen)
        assert order.state is order_state(order.purchases, quantity)
        assert bool(order.reviews) == (order.review_since > 0)
        if order.settled_at:
            assert order.state.is_terminal
            assert all(p.is_settled for p in order.purchases)


def test_a_top_up_that_came_with_a_code_is_delivered_as_it_is() -> None:
    """Some suppliers send one along; cards don't count for such products."""
    order = submitting(Numbers(), kind=ProductKind.TOPUP, quantity=2, max_units=2)
    order = after(order, Delivered(cards=(card(1),), complete=False), Unclear("?", Doubt.CONTRADICTION))
    assert decided(order, verdict(Decision.DELIVERED)).order.state is OrderState.FULFILLED
