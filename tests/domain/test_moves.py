"""The table of moves and the one function that makes them."""

import itertools
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_adapters.contract import (
    Absent,
    Accepted,
    AfterSale,
    Card,
    CardKind,
    Delivered,
    Doubt,
    NotSent,
    NotSentCause,
    ProductKind,
    Recipient,
    RecipientKind,
    Refunded,
    Refused,
    RefusedFor,
    Unclear,
)
from reward_adapters.money import Money
from reward_server.domain import moves
from reward_server.domain.moves import (
    TABLE,
    AbsenceProven,
    CancelConfirmed,
    Circumstances,
    DeadlinePassed,
    Event,
    OperatorDead,
    OperatorDelivered,
    SenderLost,
    WatchOver,
    advance,
    intend,
    request_cancel,
    sendable,
    weigh_absence,
)
from reward_server.domain.order import (
    CardPrint,
    FailureReason,
    Offer,
    Order,
    OrderState,
    PurchaseState,
    ReviewReason,
    Source,
)

EVENTS = get_args(Event)
NOW = 1_700_000_000_000


def print_card(card: Card) -> CardPrint:
    identity = card.supplier_card_number or f"{card.number}|{card.secret}|{card.link}"
    return CardPrint(identity, f"{card.number}|{card.secret}|{card.link}")


class Numbers:
    """Supplier-side numbers that no test sees twice."""

    def __init__(self) -> None:
        self._next = itertools.count(1)

    def __call__(self) -> str:
        return f"N{next(self._next)}"


def around(
    numbers: Numbers,
    at: int = NOW,
    source: Source = Source.PLACE,
    ended: bool = True,
    *,
    asked_at: int | None = None,
    watch_ms: int = 0,
) -> Circumstances:
    return Circumstances(
        at=at,
        source=source,
        new_number=numbers,
        print_card=print_card,
        asked_at=asked_at,
        written_until=at if ended else None,
        watch_ms=watch_ms,
    )


def new_order(
    numbers: Numbers,
    *,
    kind: ProductKind = ProductKind.CARD,
    quantity: int = 1,
    offers: int = 1,
    max_units: int = 1,
) -> Order:
    recipient = None if kind.delivers_cards else Recipient(RecipientKind.PHONE, "13800138000", "+86")
    order = Order(
        client_id="shop",
        order_id="O1",
        client_order_id="c1",
        product_id="p1",
        product_kind=kind,
        quantity=quantity,
        recipient=recipient,
        max_unit_price=None,
        supplier_parameters={},
        metadata={},
        offers=tuple(
            Offer(
                account=f"account{i}",
                supplier_product="1",
                unit_cost=Money(980_000),
                unit_limit=Money(990_000),
                max_units=max_units,
            )
            for i in range(offers)
        ),
        created_at=NOW,
    )
    return replace(order, purchases=moves.plan(order, 0, range(quantity), numbers))


def card(n: int) -> Card:
    return Card(kind=CardKind.NUMBER_AND_SECRET, number=f"no{n}", secret=f"secret{n}")


def submitting(numbers: Numbers, **options: object) -> Order:
    order = new_order(numbers, **options)  # type: ignore[arg-type]
    return intend(order, order.purchases[0].number, owner="me", at=NOW)


def in_state(state: PurchaseState, numbers: Numbers) -> Order:
    """An order whose only purchase is in a state, brought there by events."""
    order = new_order(numbers)
    number = order.purchases[0].number
    if state is PurchaseState.WAITING:
        return order
    order = intend(order, number, owner="me", at=NOW)
    event: dict[PurchaseState, Event] = {
        PurchaseState.ACCEPTED: Accepted(supplier_reference="S1"),
        PurchaseState.DELIVERED: Delivered(cards=(card(1),), supplier_reference="S1"),
        PurchaseState.DEAD: Refused(code="1", message="no", certain=True),
        PurchaseState.UNKNOWN: Unclear("no answer"),
    }
    if state in event:
        order = advance(order, number, event[state], around(numbers)).order
    assert order.purchase(number).state is state
    return order


@pytest.mark.rule("P12")
def test_every_cell_of_the_table_is_filled() -> None:
    """Every state says what every event means in it; nothing is left to chance."""
    assert {state: set(row) for state, row in TABLE.items()} == {state: set(EVENTS) for state in PurchaseState}


SAMPLES: dict[type[Event], Event] = {
    Accepted: Accepted(supplier_reference="S1"),
    Delivered: Delivered(cards=(card(1),)),
    Refused: Refused(code="9", message="no", certain=True),
    NotSent: NotSent(cause=NotSentCause.UNREACHABLE),
    Refunded: Refunded(),
    Absent: Absent(),
    Unclear: Unclear("?"),
    SenderLost: SenderLost(),
    AbsenceProven: AbsenceProven(),
    DeadlinePassed: DeadlinePassed(),
    CancelConfirmed: CancelConfirmed(),
    WatchOver: WatchOver(),
    OperatorDelivered: OperatorDelivered(cards=(card(1),)),
    OperatorDead: OperatorDead("checked with the supplier"),
}

# What the whole table comes to: the state after each event, row by row. "!" = in review, "." = as before.
EXPECTED = {
    #                        Accept Deliv Refus NotSe Refun Absen Uncle Sende AbsPr Deadl Cance WatOv OpDel OpDead
    PurchaseState.WAITING: "A D X W X W W W W X X W D X",
    PurchaseState.SUBMITTING: "A D X W X S U U S S X S D X",
    PurchaseState.ACCEPTED: "A D X A X A A A A A! X A D X",
    PurchaseState.DELIVERED: "D D D D D D D D D D D D D D",
    PurchaseState.DEAD: "X X X X X X X X X X X X D X",
    PurchaseState.UNKNOWN: "A D X W X U U U X U! X U D X",
}
LETTERS = {
    PurchaseState.WAITING: "W",
    PurchaseState.SUBMITTING: "S",
    PurchaseState.ACCEPTED: "A",
    PurchaseState.DELIVERED: "D",
    PurchaseState.DEAD: "X",
    PurchaseState.UNKNOWN: "U",
}


@pytest.mark.parametrize("state", list(PurchaseState))
@pytest.mark.rule("P12")
def test_each_event_moves_each_state_as_written(state: PurchaseState) -> None:
    """The outcome of the whole table, read as a person would read it."""
    got = []
    for event_type in EVENTS:
        numbers = Numbers()
        order = in_state(state, numbers)
        after = advance(order, "N1", SAMPLES[event_type], around(numbers)).order.purchase("N1")
        got.append(LETTERS[after.state] + ("!" if after.review else ""))
    assert " ".join(got) == EXPECTED[state]


@pytest.mark.rule("P12")
def test_sending_and_taking_back_shows_the_client_nothing() -> None:
    """WAITING to SUBMITTING and back writes no update."""
    numbers = Numbers()
    order = submitting(numbers)
    step = advance(order, "N1", NotSent(cause=NotSentCause.UNREACHABLE), around(numbers))
    assert (step.news, step.visible, step.order.version) == (True, False, 1)
    assert step.order.purchase("N1").sends == 0


def test_a_read_and_refused_request_counts_as_sent() -> None:
    """After a refused token the next send is a re-send: certainty of refusals depends on it."""
    numbers = Numbers()
    step = advance(submitting(numbers), "N1", NotSent(cause=NotSentCause.TOKEN_REFUSED), around(numbers))
    assert (step.order.purchase("N1").sends, step.order.purchase("N1").token_resent) == (1, True)


@pytest.mark.rule("P12")
def test_a_look_without_news_writes_nothing() -> None:
    """The same answer again changes neither revision nor version."""
    numbers = Numbers()
    order = in_state(PurchaseState.ACCEPTED, numbers)
    step = advance(order, "N1", Accepted(supplier_reference="S1"), around(numbers, at=NOW + 5_000))
    assert step.order is order
    assert not step.news


@pytest.mark.rule("P11")
def test_an_uncertain_refusal_is_believed_only_with_a_look_that_finds_nothing() -> None:
    """Refused without certainty is UNKNOWN; the look that finds nothing kills it with the refusal's own reason."""
    numbers = Numbers()
    refused = Refused(code="400", message="no stock", certain=False, about=RefusedFor.STOCK)
    order = advance(submitting(numbers), "N1", refused, around(numbers)).order
    assert order.state is OrderState.OUTCOME_UNKNOWN
    order = advance(order, "N1", Absent(), around(numbers, source=Source.QUERY)).order
    assert order.state is OrderState.FAILED
    assert order.failure is not None
    assert order.failure.reason is FailureReason.OUT_OF_STOCK


@pytest.mark.rule("P5")
def test_absence_is_proof_only_at_the_second_look_after_a_full_grace_period() -> None:
    """One look, or looks inside the grace period, prove nothing; neither does one while the sender may write."""
    numbers = Numbers()
    order = in_state(PurchaseState.UNKNOWN, numbers)
    record = order.purchase("N1")
    late = record.written_until + 60_000
    assert weigh_absence(record, looked_at=late, grace_ms=60_000, resends=0) == Absent()
    once = advance(order, "N1", Absent(), around(numbers)).order.purchase("N1")
    assert weigh_absence(once, looked_at=late - 1, grace_ms=60_000, resends=0) == Absent()
    assert weigh_absence(once, looked_at=late, grace_ms=60_000, resends=0) == AbsenceProven()
    still_writing = replace(once, written_until=0)
    assert weigh_absence(still_writing, looked_at=late, grace_ms=60_000, resends=0) == Absent()


@pytest.mark.rule("P6")
def test_a_resend_after_absence_is_counted_and_ends() -> None:
    """Suppliers that allow it get the same number again, a limited number of times, then absence is death."""
    numbers = Numbers()
    order = in_state(PurchaseState.UNKNOWN, numbers)
    step = advance(order, "N1", AbsenceProven(may_resend=True), around(numbers))
    record = step.order.purchase("N1")
    assert (record.state, record.absence_resends) == (PurchaseState.WAITING, 1)
    unknown = replace(record, state=PurchaseState.UNKNOWN, absent_looks=1, written_until=NOW, absence_resends=2)
    proven = weigh_absence(unknown, looked_at=NOW + 60_000, grace_ms=60_000, resends=2)
    assert proven == AbsenceProven(may_resend=False)


@pytest.mark.rule("P7", "O7")
@pytest.mark.rule("P6")
@pytest.mark.parametrize(
    "late",
    [
        NotSent(cause=NotSentCause.TOO_LATE),
        Unclear("no answer"),
        Refused(code="1", message="no", certain=True),
        Refused(code="1", message="no", certain=False),
        Refunded(amount=None, cost=None),
    ],
    ids=lambda late: type(late).__name__,
)
@pytest.mark.parametrize("ends", [True, False])
def test_the_late_word_about_a_former_request_undoes_nothing_of_the_one_that_followed(late: Event, ends: bool) -> None:
    """The number was proven absent and sent again; what the first request came to says nothing about the second. That
    it was taken counts all the same.
    """
    numbers = Numbers()
    order = in_state(PurchaseState.UNKNOWN, numbers)
    [first] = order.purchases
    order = advance(order, first.number, AbsenceProven(may_resend=True), around(numbers)).order
    order = intend(order, first.number, owner="another", at=NOW + 1)
    [again] = order.purchases
    assert (again.state, again.sends) == (PurchaseState.SUBMITTING, 2)
    answers_the_first = replace(around(numbers), source=Source.PLACE, send=1, written_until=NOW + 2 if ends else None)
    [now] = advance(order, again.number, late, answers_the_first).order.purchases
    assert (now.state, now.sends, now.written_until, now.owner) == (PurchaseState.SUBMITTING, 2, 0, "another")
    answers_the_second = replace(answers_the_first, send=2)
    [moved] = advance(order, again.number, late, answers_the_second).order.purchases[:1]
    assert moved.state is not PurchaseState.SUBMITTING
    [taken] = advance(order, again.number, Delivered(cards=(card(1),)), answers_the_first).order.purchases
    assert taken.state is PurchaseState.DELIVERED


def test_a_refusal_about_stock_tries_the_next_offer_and_holds_the_rest_back() -> None:
    """The other units would meet the same refusal: they go to the next offer too, unsent to this one."""
    numbers = Numbers()
    order = submitting(numbers, quantity=3, offers=2)
    refused = Refused(code="1", message="sold out", certain=True, about=RefusedFor.STOCK)
    after = advance(order, "N1", refused, around(numbers)).order
    dead = [p for p in after.purchases if p.offer == 0]
    fresh = [p for p in after.purchases if p.offer == 1]
    assert [p.state for p in dead] == [PurchaseState.DEAD] * 3
    assert [p.sends for p in dead] == [1, 0, 0]
    assert sorted(unit for p in fresh for unit in p.units()) == [0, 1, 2]
    assert after.state is OrderState.ACCEPTED


@pytest.mark.rule("P7")
def test_a_refusal_about_the_recipient_tries_no_other_offer() -> None:
    """What is wrong with the recipient is wrong everywhere."""
    numbers = Numbers()
    order = submitting(numbers, kind=ProductKind.TOPUP, offers=2)
    refused = Refused(code="2003", message="locked", certain=True, about=RefusedFor.RECIPIENT)
    after = advance(order, "N1", refused, around(numbers)).order
    assert after.state is OrderState.FAILED
    assert [p.offer for p in after.purchases] == [0]


@pytest.mark.rule("O7")
def test_purchases_to_one_recipient_go_one_after_another() -> None:
    """The second is sendable only when the first is settled."""
    numbers = Numbers()
    order = new_order(numbers, kind=ProductKind.TOPUP, quantity=2)
    assert [p.number for p in sendable(order)] == ["N1"]
    order = intend(order, "N1", owner="me", at=NOW)
    assert sendable(order) == []
    order = advance(order, "N1", Accepted(supplier_reference="S1"), around(numbers)).order
    assert sendable(order) == []
    order = advance(order, "N1", Delivered(), around(numbers)).order
    assert [p.number for p in sendable(order)] == ["N2"]
    assert order.state is OrderState.PROCESSING


def test_a_card_product_without_its_card_needs_a_person_and_a_late_card_resolves_it() -> None:
    """Success without a card goes into review; the card, when it comes after all, is delivered."""
    numbers = Numbers()
    order = in_state(PurchaseState.UNKNOWN, numbers)
    order = advance(order, "N1", Delivered(), around(numbers, source=Source.CALLBACK)).order
    assert order.state is OrderState.NEEDS_REVIEW
    assert order.reviews == (ReviewReason.CARD_MISSING,)
    step = advance(order, "N1", Delivered(cards=(card(1),)), around(numbers))
    assert step.order.state is OrderState.FULFILLED
    assert [new.card_no for new in step.cards] == [1]


def test_a_success_without_its_card_is_noted_also_when_a_person_looks_already() -> None:
    """After the deadline the supplier says that it delivered: once noted, its repetition is no news."""
    numbers = Numbers()
    order = in_state(PurchaseState.ACCEPTED, numbers)
    order = advance(order, "N1", DeadlinePassed(), around(numbers, source=Source.DEADLINE)).order
    told = around(numbers, at=NOW + 50, source=Source.CALLBACK)
    order = advance(order, "N1", Delivered(cards=()), told).order
    record = order.purchase("N1")
    assert (record.state, record.review) == (PurchaseState.ACCEPTED, ReviewReason.DEADLINE)
    last = record.evidence[-1]
    assert (last.source, last.outcome, last.at) == (Source.CALLBACK, "Delivered", NOW + 50)
    assert not advance(order, "N1", Delivered(cards=()), told).news


def test_a_callback_that_overtakes_the_answer_waits_for_the_card() -> None:
    """Success without a card while the request is still out is no reason for review: the answer brings the card."""
    numbers = Numbers()
    early = advance(
        submitting(numbers), "N1", Delivered(supplier_reference="S1"), around(numbers, source=Source.CALLBACK)
    )
    assert (early.visible, early.order.purchase("N1").state) == (False, PurchaseState.SUBMITTING)
    order = advance(early.order, "N1", Delivered(cards=(card(1),), supplier_reference="S1"), around(numbers)).order
    assert order.state is OrderState.FULFILLED


@pytest.mark.rule("O8")
def test_cards_that_come_in_parts_are_shown_as_they_come_and_stored_once() -> None:
    """Each new card is a visible change; cards known before aren't stored again."""
    numbers = Numbers()
    order = submitting(numbers, quantity=3, max_units=3)
    first = advance(order, "N1", Delivered(cards=(card(1),), complete=False), around(numbers))
    assert (first.order.state, first.order.delivered_quantity) == (OrderState.PROCESSING, 1)
    second = advance(first.order, "N1", Delivered(cards=(card(1), card(2), card(3))), around(numbers))
    assert second.order.state is OrderState.FULFILLED
    assert [new.card_no for new in second.cards] == [2, 3]


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ((card(1), card(2), card(3)), ReviewReason.TOO_MANY_CARDS),
        ((card(2),), ReviewReason.CARDS_CHANGED),
        ((card(1), card(1)), ReviewReason.CONTRADICTION),
    ],
)
@pytest.mark.rule("O9")
def test_a_list_of_cards_that_cannot_be_true_goes_to_a_person(listed: tuple[Card, ...], reason: ReviewReason) -> None:
    """Too many cards, a missing one, the same one twice: nothing is overwritten, nothing is released."""
    numbers = Numbers()
    order = submitting(numbers, quantity=2, max_units=2)
    order = advance(order, "N1", Delivered(cards=(card(1),), complete=False), around(numbers)).order
    step = advance(order, "N1", Delivered(cards=listed), around(numbers))
    assert step.order.reviews == (reason,)
    assert step.cards == ()
    assert step.order.delivered_quantity == 1


@pytest.mark.rule("O4")
def test_a_late_success_is_kept_hidden_and_told_once() -> None:
    """A purchase given up as dead that was delivered after all: the card is kept, not shown; the order stays."""
    numbers = Numbers()
    order = in_state(PurchaseState.DEAD, numbers)
    step = advance(order, "N1", Delivered(cards=(card(1),)), around(numbers))
    assert [(new.card_no, new.hidden) for new in step.cards] == [(1, True)]
    assert [alert.kind for alert in step.alerts] == [moves.AlertKind.LATE_SUCCESS]
    assert (step.order.state, step.order.reviews) == (OrderState.FAILED, (ReviewReason.LATE_SUCCESS,))
    assert step.order.delivered_quantity == 0
    again = advance(step.order, "N1", Delivered(cards=(card(1),)), around(numbers))
    assert (again.news, again.alerts) == (False, ())


@pytest.mark.rule("P8")
def test_another_supplier_reference_under_our_number_is_a_contradiction() -> None:
    """A callback that names another order of the supplier doesn't deliver ours."""
    numbers = Numbers()
    order = in_state(PurchaseState.ACCEPTED, numbers)
    step = advance(order, "N1", Delivered(cards=(card(1),), supplier_reference="S2"), around(numbers))
    assert step.order.reviews == (ReviewReason.CONTRADICTION,)
    assert step.cards == ()


@pytest.mark.rule("P7")
def test_a_partial_refund_needs_a_person_and_a_full_one_is_death() -> None:
    """Only when all money came back is it certain that nothing was bought."""
    numbers = Numbers()
    order = in_state(PurchaseState.ACCEPTED, numbers)
    partial = advance(order, "N1", Refunded(amount=Money(1), cost=Money(2)), around(numbers)).order
    full = advance(order, "N1", Refunded(amount=Money(2), cost=Money(2)), around(numbers)).order
    assert (partial.state, partial.reviews) == (OrderState.NEEDS_REVIEW, (ReviewReason.PARTIAL_REFUND,))
    assert full.state is OrderState.FAILED


@pytest.mark.rule("P9")
def test_evidence_after_a_deadline_ends_the_review_without_a_person() -> None:
    """A review for a deadline is left by clean evidence."""
    numbers = Numbers()
    order = in_state(PurchaseState.UNKNOWN, numbers)
    order = advance(order, "N1", DeadlinePassed(), around(numbers, source=Source.DEADLINE)).order
    assert order.state is OrderState.NEEDS_REVIEW
    delivered = advance(order, "N1", Delivered(cards=(card(1),)), around(numbers)).order
    refused = advance(order, "N1", Refused(code="1", message="", certain=True), around(numbers)).order
    assert (delivered.state, refused.state) == (OrderState.FULFILLED, OrderState.FAILED)


@pytest.mark.rule("O11")
def test_a_charge_above_the_limit_is_delivered_and_told() -> None:
    """The goods are the client's; the operator hears of the price."""
    numbers = Numbers()
    step = advance(submitting(numbers), "N1", Delivered(cards=(card(1),), cost=Money(1_000_000)), around(numbers))
    assert step.order.state is OrderState.FULFILLED
    assert [alert.kind for alert in step.alerts] == [moves.AlertKind.OVERCHARGED]
    assert step.order.reviews == (ReviewReason.OVERCHARGED,)
    [item] = step.order.purchases[0].items
    assert item.detail == "charged 100.00 yuan, the limit was 99.00 yuan"


event_strategy = st.sampled_from(
    [
        Accepted(supplier_reference="S1"),
        Accepted(),
        Delivered(cards=(card(1),), supplier_reference="S1"),
        Delivered(cards=(card(1), card(2)), complete=True),
        Delivered(cards=(card(3),), complete=False),
        Delivered(),
        Refused(code="1", message="no", certain=True, about=RefusedFor.STOCK),
        Refused(code="1", message="no", certain=False, about=RefusedFor.PRICE),
        Refused(code="1", message="no", certain=True, about=RefusedFor.RECIPIENT),
        NotSent(cause=NotSentCause.TOO_LATE),
        NotSent(cause=NotSentCause.RATE_LIMITED, retry_after=3),
        Refunded(),
        Refunded(amount=Money(1), cost=Money(2)),
        Absent(),
        Unclear("?"),
        Unclear("!", Doubt.CONTRADICTION),
        SenderLost(),
        AbsenceProven(),
        AbsenceProven(may_resend=True),
        DeadlinePassed(),
        CancelConfirmed(),
        CancelConfirmed(refund=Money(1)),
        WatchOver(),
        Delivered(after_sale=AfterSale.DISPUTED),
        OperatorDead("no"),
    ]
)
CANCEL = "the client wishes to cancel"


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from(ProductKind),
    quantity=st.integers(1, 3),
    offers=st.integers(1, 2),
    max_units=st.integers(1, 2),
    watch_ms=st.sampled_from([0, 20]),
    script=st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.just(CANCEL), event_strategy)), max_size=40),
)
@pytest.mark.rule("O1", "O2", "O3", "P7")
def test_whatever_happens_the_laws_of_orders_hold(
    *,
    kind: ProductKind,
    quantity: int,
    offers: int,
    max_units: int,
    watch_ms: int,
    script: list[tuple[int, Event | str | None]],
) -> None:
    """Any events in any order: a unit never has two live purchases, dead stays dead, terminal stays terminal, versions
    rise by one with each visible change, revisions with each change, cards are never lost or numbered twice, and
    nothing is sent or added once the client wishes to cancel. An order is settled only when all of it has ended.
    """
    numbers = Numbers()
    order = new_order(numbers, kind=kind, quantity=quantity, offers=offers, max_units=max_units)
    seen_cards: set[int] = set()
    for step_no, (index, event) in enumerate(script):
        before = order
        number = order.purchases[index % len(order.purchases)].number
        if event is None:
            ready = sendable(order)
            if not ready:
                continue
            order = intend(order, ready[0].number, owner="me", at=NOW + step_no)
            assert order.version == before.version
        elif isinstance(event, str):
            if before.state.is_terminal:
                continue
            step = request_cancel(order, at=NOW + step_no)
            order = step.order
            assert step.visible == step.news == (before.cancel_requested_at == 0)
        else:
            circumstances = around(numbers, at=NOW + step_no, ended=step_no % 2 == 0, watch_ms=watch_ms)
            step = advance(order, number, event, circumstances)
            order = step.order
            assert step.visible == (order.version == before.version + 1)
            assert (order.revision > before.revision) == step.news
            fresh = {new.card_no for new in step.cards}
            assert not fresh & seen_cards
            seen_cards |= fresh
        for unit in range(quantity):
            live = [p for p in order.purchases if unit in p.units() and p.state is not PurchaseState.DEAD]
            assert len(live) <= 1, "a unit is bought twice"
        for was in before.purchases:
            if was.state is PurchaseState.DEAD:
                assert order.purchase(was.number).state is PurchaseState.DEAD
        if before.state.is_terminal:
            assert order.state is before.state
        if before.cancel_requested_at:
            assert sendable(order) == []
            added = order.purchases[len(before.purchases) :]
            assert all(p.state is PurchaseState.DEAD for p in added)
        if order.settled_at:
            assert order.state.is_terminal
            assert all(p.is_settled for p in order.purchases)
        assert order.state is moves.order_state(order.purchases, quantity)
        assert order.card_count == len(seen_cards)
