"""What an order tells people of itself: why it was bought where it was, and what differs where something does."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from reward_adapters.contract import (
    Accepted,
    Card,
    Delivered,
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
from reward_server.catalogue import Product, ProductOffer
from reward_server.domain.choosing import Choice, OfferUse, choices
from reward_server.domain.moves import (
    AbsenceProven,
    CancelConfirmed,
    DeadlinePassed,
    Event,
    OperatorDead,
    advance,
    in_words,
    intend,
    request_cancel,
)
from reward_server.domain.order import Order, PurchaseState, ReviewReason, Source
from reward_server.engine.ordering import OrderRequest, make_order
from reward_server.errors import PriceAboveLimit, ProductNotOrderable

from .test_moves import NOW, Numbers, around, card, in_state, new_order, submitting

STOCK = Refused(code="7", message="sold out", certain=True, about=RefusedFor.STOCK)


def last_words(order: Order) -> str:
    """The newest evidence of its first purchase."""
    return order.purchases[0].evidence[-1].detail


# --- Which offers an order may use ------------------------------------------------------------------------------------


def make(
    *costs: int, limit: int | None = None, paused: Sequence[str] = (), quantity: int = 1, max_units: int = 1
) -> Order:
    """An order of a product with an offer of each cost (in yuan) at the accounts a, b, …; each may cost 100."""
    offers = tuple(
        ProductOffer(
            account="abcdef"[place],
            supplier_product=f"{place}",
            unit_cost=Money(10_000 * cost),
            max_unit_cost=Money(1_000_000),
            max_units_per_purchase=max_units,
        )
        for place, cost in enumerate(costs)
    )
    product = Product(
        product_id="p1",
        kind=ProductKind.CARD,
        name="",
        face_value=Money(1_000_000),
        recipient_kind=RecipientKind.NONE,
        offers=offers,
    )
    request = OrderRequest(
        client_id="shop",
        client_order_id="c1",
        product_id="p1",
        quantity=quantity,
        recipient=None,
        max_unit_price=None if limit is None else Money(10_000 * limit),
        supplier_parameters={},
        metadata={},
    )
    return make_order(
        request, product, at=NOW, new_id=Numbers(), paused_for=lambda account: "no money" if account in paused else ""
    )


def told(order: Order) -> list[tuple[str, OfferUse, str]]:
    return [(choice.account, choice.use, choice.why) for choice in choices(order)]


@pytest.mark.rule("O14")
def test_every_offer_of_the_product_is_told_in_its_order() -> None:
    """Those that couldn't be used stand at their places, with the reason and the prices."""
    order = make(97, 99, 98, 96, limit=98, paused="a")
    assert told(order) == [
        ("a", OfferUse.PAUSED, "its account was paused when the order was made: no money"),
        ("b", OfferUse.PRICE_ABOVE_LIMIT, "a unit costs 99.00 yuan there, the limit is 98.00 yuan"),
        ("c", OfferUse.USED, "the first offer that could be used"),
        ("d", OfferUse.NOT_NEEDED, "not needed so far: the units are bought, or being bought, at c"),
    ]
    assert [choice.unit_cost for choice in choices(order)] == [970_000, 990_000, 980_000, 960_000]
    assert {choice.unit_limit for choice in choices(order)} == {980_000}
    assert [choice.numbers for choice in choices(order)] == [(), (), ("N2",), ()]


def test_an_order_that_no_offer_can_take_is_refused_as_before() -> None:
    """Nothing is stored: the error says whether it is the price or the pause."""
    with pytest.raises(PriceAboveLimit) as too_dear:
        make(97, 99, limit=96, paused="b")
    assert (too_dear.value.price, too_dear.value.limit) == (970_000, 960_000)
    with pytest.raises(ProductNotOrderable):
        make(97, 99, limit=96, paused="ab")


# --- Why it was bought there ------------------------------------------------------------------------------------------


def after(order: Order, *events: Event, numbers: Numbers | None = None) -> Order:
    """The order after events of its first purchase, which was sent."""
    numbers = numbers or Numbers()
    first = order.purchases[0].number
    order = intend(order, first, owner="me", at=NOW)
    for event in events:
        order = advance(order, first, event, around(numbers)).order
    return order


def fresh() -> Numbers:
    """Numbers above those that an order begins with."""
    numbers = Numbers()
    for _ in range(10):
        numbers()
    return numbers


@pytest.mark.rule("O14")
@pytest.mark.parametrize(
    ("event", "words"),
    [
        (STOCK, "after purchase N2 at a ended (out_of_stock: 7: sold out)"),
        (
            Refunded(amount=Money(970_000), cost=Money(970_000)),
            "after purchase N2 at a ended (refunded: the supplier couldn't deliver and returned the money)",
        ),
    ],
)
def test_a_later_offer_names_the_purchase_that_led_to_it(event: Event, words: str) -> None:
    """And how that ended."""
    first, second = choices(after(make(97, 98), event, numbers=fresh()))
    assert (first.use, first.numbers, second.use, second.numbers) == (OfferUse.USED, ("N2",), OfferUse.USED, ("N11",))
    assert (first.why, second.why) == ("the first offer", words)


def test_units_that_were_held_back_lead_to_the_next_offer_as_well() -> None:
    """One refusal, told once, for all that is bought there because of it."""
    first, second = choices(after(make(97, 98, quantity=3), STOCK, numbers=fresh()))
    assert (len(first.numbers), len(second.numbers)) == (3, 3)
    assert second.why == "after purchase N2 at a ended (out_of_stock: 7: sold out)"


@pytest.mark.rule("O14")
@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([Refused(code="1", message="bad", certain=True, about=RefusedFor.RECIPIENT)], "the recipient was refused"),
        (
            [Refused(code="1", message="bad", certain=True)],
            "it was refused for no reason that another offer could mend",
        ),
        ([Refunded()], "it isn't known that all money came back"),
        ([NotSent(cause=NotSentCause.UNREACHABLE), DeadlinePassed()], "the time to send it was over"),
        ([Unclear("?"), AbsenceProven()], "only a refusal or a full refund lets another offer be tried"),
        ([Unclear("?"), OperatorDead("lost")], "an operator decided that its units fail"),
        ([Accepted(), CancelConfirmed()], "it was taken down"),
    ],
)
def test_an_offer_that_was_not_tried_says_what_forbids_it(events: list[Event], why: str) -> None:
    """Each way in which a purchase dies and the next offer isn't tried."""
    order = after(make(97, 98), *events)
    assert order.purchases[0].state is PurchaseState.DEAD
    [_, second] = choices(order)
    assert second.use is OfferUse.NOT_TRIED
    assert second.why.startswith("purchase N2 at a ended (")
    assert f"): {why}" in second.why


def test_a_cancelled_order_tries_no_other_offer() -> None:
    """Whatever the refusal was about."""
    order = request_cancel(after(make(97, 98)), at=NOW).order
    order = advance(order, "N2", STOCK, around(Numbers())).order
    [_, second] = choices(order)
    assert (second.use, second.why) == (OfferUse.NOT_TRIED, "the client wished to cancel: nothing more is bought")


@pytest.mark.rule("O14")
def test_a_decision_to_buy_again_is_told_where_it_was_carried_out() -> None:
    """Also where it passes an offer over."""

    def bought_again(offer: int) -> list[Choice]:
        order = after(make(97, 98, 99), Unclear("?"))
        return choices(advance(order, "N2", OperatorDead("lost", again=offer), around(fresh())).order)

    again = "bought again by an operator's decision, at the first offer whose account could be used"
    assert bought_again(0)[0].why == f"the first offer; then {again}"
    _, second, third = bought_again(2)
    assert (second.use, second.why) == (
        OfferUse.NOT_NEEDED,
        "not needed so far: the units are bought, or being bought, at c",
    )
    assert (third.use, third.why) == (OfferUse.USED, again)


# --- What differs -----------------------------------------------------------------------------------------------------


@pytest.mark.rule("O14")
def test_a_number_that_changed_is_told_with_both_but_never_with_a_recipient() -> None:
    """The supplier's own numbers are no secrets; what the client typed may be."""
    numbers = Numbers()
    order = in_state(PurchaseState.ACCEPTED, numbers)
    changed = advance(order, "N1", Accepted(supplier_reference="S2"), around(numbers)).order
    assert last_words(changed) == "the supplier's own order number was S1 and is now S2"

    order = new_order(numbers, kind=ProductKind.TOPUP)
    assert order.recipient == Recipient(RecipientKind.PHONE, "13800138000", "+86")
    number = order.purchases[0].number
    order = intend(order, number, owner="me", at=NOW)
    order = advance(order, number, Accepted(supplier_reference="20260101001"), around(numbers)).order
    changed = advance(order, number, Accepted(supplier_reference="13800138000"), around(numbers)).order
    assert last_words(changed) == "the supplier's own order number was 20260101001 and is now ***"


@pytest.mark.parametrize(
    ("listed", "reason", "words"),
    [
        (
            (card(1), card(2), card(3)),
            ReviewReason.TOO_MANY_CARDS,
            "3 cards listed, 2 ordered, 1 known before and 2 new",
        ),
        (
            (card(2),),
            ReviewReason.CARDS_CHANGED,
            "1 card listed, 2 ordered: of 1 known before 1 are missing and 0 changed",
        ),
        ((card(1), card(1)), ReviewReason.CONTRADICTION, "2 cards listed, 2 ordered: only 1 of those listed differ"),
    ],
)
def test_a_wrong_list_is_told_in_numbers(listed: tuple[Card, ...], reason: ReviewReason, words: str) -> None:
    """What came beside what was ordered and known; no card."""
    numbers = Numbers()
    order = submitting(numbers, quantity=2, max_units=2)
    order = advance(order, "N1", Delivered(cards=(card(1),), complete=False), around(numbers)).order
    order = advance(order, "N1", Delivered(cards=listed), around(numbers)).order
    assert (order.reviews, last_words(order)) == ((reason,), words)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Refunded(amount=Money(400_000), cost=Money(980_000)), "40.00 of 98.00 yuan came back"),
        (CancelConfirmed(refund=Money(400_000)), "40.00 of 98.00 yuan came back"),
        (Delivered(), "success, but no card is listed, 2 cards ordered"),
    ],
)
def test_what_is_missing_is_told_beside_what_is_due(event: Event, words: str) -> None:
    """Money and cards alike."""
    numbers = Numbers()
    order = submitting(numbers, quantity=2, max_units=2)
    order = advance(order, "N1", Accepted(cost=Money(980_000)), around(numbers)).order
    order = advance(order, "N1", event, around(numbers, source=Source.QUERY)).order
    assert order.purchases[0].review is not None
    assert last_words(order) == words


def test_an_end_after_cards_came_is_told_beside_them() -> None:
    """A refusal or a take-down of something that was partly delivered."""
    numbers = Numbers()
    order = submitting(numbers, quantity=2, max_units=2)
    order = advance(order, "N1", Delivered(cards=(card(1),), complete=False), around(numbers)).order
    refused = advance(order, "N1", STOCK, around(numbers)).order
    assert last_words(refused) == "1 of 2 cards came before, and now: 7: sold out"
    taken_down = advance(order, "N1", CancelConfirmed(), around(numbers)).order
    assert last_words(taken_down) == "1 of 2 cards came before, and now: it was taken down"


def test_a_refusal_of_what_was_called_back_is_told_with_both() -> None:
    """The supplier's callback and its answer can't both be true."""
    numbers = Numbers()
    order = submitting(numbers)
    order = order.with_purchase(replace(order.purchases[0], called_back=True))
    order = advance(order, "N1", STOCK, around(numbers)).order
    assert order.reviews == (ReviewReason.CONTRADICTION,)
    assert last_words(order) == "the supplier called back about it, and now refuses it: 7: sold out"


def test_a_charge_for_several_units_is_told_with_the_limit_of_one() -> None:
    """The limit is per unit, the charge is for all."""
    numbers = Numbers()
    order = submitting(numbers, quantity=2, max_units=2)
    order = advance(order, "N1", Delivered(cards=(card(1), card(2)), cost=Money(2_000_000)), around(numbers)).order
    [item] = order.purchases[0].items
    assert item.detail == "charged 200.00 yuan, the limit was 198.00 yuan (2 units at 99.00)"


def test_an_event_is_told_in_the_words_of_its_evidence() -> None:
    """By name, and with what was said, if anything was."""
    assert in_words(Accepted()) == "Accepted"
    assert in_words(NotSent(cause=NotSentCause.UNREACHABLE, detail="refused")) == "NotSent: unreachable: refused"
