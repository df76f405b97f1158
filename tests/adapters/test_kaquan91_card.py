"""91 Kaquan card purchases: what is written, and what every kind of answer means."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from reward_adapters import _kaquan91 as wire
from reward_adapters import kaquan91_card, load_adapter
from reward_adapters.contract import (
    Absent,
    Accepted,
    AfterSale,
    Call,
    Callback,
    Card,
    CardKind,
    Context,
    Dealer,
    Delivered,
    Doubt,
    HttpReply,
    Listing,
    NotOffered,
    NotSent,
    NotSentCause,
    Outcome,
    ProductKind,
    Purchase,
    Refunded,
    Refused,
    RefusedFor,
    SupplierProduct,
    Unclear,
)
from reward_adapters.money import Money, yuan

SECRET = "HJH546HKDHK"
ZONE = ZoneInfo("Asia/Shanghai")
NOW = Context(now=datetime(2024, 1, 1, tzinfo=UTC))
SUPPLIER: Dealer = kaquan91_card.Kaquan91Card(
    kaquan91_card.Config(base_url="http://gateway.example/", appid="10000", appsecret=SECRET)
)
PURCHASE = Purchase(
    number="C202401010001",
    product_kind=ProductKind.CARD,
    supplier_product="184",
    quantity=1,
    recipient=None,
    unit_cost=yuan("4.10"),
    unit_limit=yuan("4.20"),
    parameters={"card_type": "1", "auto_confirm_hour": "10"},
)
ENTRY = {
    "order_id": "2023082621250118187",
    "card_num": "11222",
    "card_pass": "77888",
    "money": "4.20",
    "status": 3,
}
PAYMENT = "2023082621250118166"
OTHER = {
    "pay_order_id": PAYMENT,
    "card_id": 184,
    "create_time": "2022-08-26 21:25:00",
    "update_time": "2022-08-26 22:33:14",
    "remark": "-用户主动确认收货",
}
CARD = Card(
    kind=CardKind.NUMBER_AND_SECRET,
    number="11222",
    secret="77888",
    unit_cost=yuan("4.20"),
    supplier_card_number="2023082621250118187",
)

# The table of signing vectors: name, signed text before the key, digest.
VECTORS = [
    (
        "C1",
        "appid=10000&auto_confirm_hour=10&card_id=184&num=1&order_money=4.20&out_order_id=C202401010001",
        "2A0E59E98347DFDC0C20E8942F92F8E1",
    ),
    (
        "C2",
        "appid=10000&auto_confirm_hour=24&card_id=184&num=2&order_money=0&out_order_id=C202401010002",
        "FF7977D0095DCAB2AFBD4904BE3ED355",
    ),
    ("C3", "appid=10000&out_order_id=C202401010001", "C61FC122D6CD4A67E1C6ED48DF1EB2F9"),
    ("C4", "appid=10000", "05F971015534DF9138864698A7444CA2"),
    ("C5", "appid=10000&card_id=184", "F4CBFD671D884ABEBD9CED116478C668"),
]


def reply(body: Any, status: int = 200) -> HttpReply:
    raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return HttpReply(status=status, body=raw)


def answer(entries: Any, other: Any = OTHER) -> HttpReply:
    return reply({"code": 1, "msg": "下单成功", "result": entries, "other": other})


def place(purchase: Purchase = PURCHASE) -> Call[Outcome]:
    call = SUPPLIER.place(purchase, NOW)
    assert isinstance(call, Call)
    return call


def placed(answered: HttpReply, purchase: Purchase = PURCHASE) -> Outcome:
    return place(purchase).read(answered)


def found(answered: HttpReply, purchase: Purchase = PURCHASE) -> Outcome:
    call = SUPPLIER.query([purchase], NOW)
    assert isinstance(call, Call)
    outcomes = call.read(answered)
    assert list(outcomes) == [purchase.number]
    return outcomes[purchase.number]


def parameters(**changes: str) -> dict[str, str]:
    return {**PURCHASE.parameters, **changes}


# --- Writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text", "digest"), VECTORS)
def test_signatures_match_the_vectors(name: str, text: str, digest: str) -> None:
    """Every vector's text and digest come out byte for byte, in any order of fields and in both encodings."""
    fields = dict(reversed(parse_qsl(text)))
    for encoding in ("notify-only", "encode-all"):
        assert wire.signed_text(fields, encoding) == text
        assert wire.sign({**fields, "empty": "", "sign": "ignored"}, SECRET, encoding) == digest
    assert wire.sign(fields, SECRET + "x") != digest
    assert wire.sign({**fields, "appid": "10001"}, SECRET) != digest


def test_a_purchase_is_written_as_the_manual_shows() -> None:
    """The request carries the documented fields, the digest of vector C1 and no secret."""
    request = place().request
    assert (request.method, request.url) == ("POST", "http://gateway.example/dcapi/card/payOrder")
    assert request.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert dict(parse_qsl(request.body.decode())) == {
        "appid": "10000",
        "card_id": "184",
        "num": "1",
        "auto_confirm_hour": "10",
        "out_order_id": "C202401010001",
        "order_money": "4.20",
        "sign": VECTORS[0][2],
    }
    assert SECRET not in request.body.decode()


def test_a_query_names_our_number_alone() -> None:
    """The request of a query is vector C3, whether or not the supplier's number is known."""
    call = SUPPLIER.query([replace(PURCHASE, supplier_reference=PAYMENT)], NOW)
    assert isinstance(call, Call)
    assert call.request.url == "http://gateway.example/dcapi/card/queryOrder"
    assert call.request.body.decode() == f"appid=10000&out_order_id=C202401010001&sign={VECTORS[2][2]}"


@pytest.mark.parametrize(
    ("unit_limit", "quantity", "written"),
    [(Money(42_099), 1, "4.20"), (Money(42_099), 3, "12.62"), (Money(100), 1, "0.01"), (Money(50), 3, "0.01")],
)
@pytest.mark.rule("O10")
def test_the_limit_is_the_total_rounded_down(unit_limit: Money, quantity: int, written: str) -> None:
    """`order_money` is the limit of all units together and never above it."""
    body = place(replace(PURCHASE, unit_limit=unit_limit, quantity=quantity)).request.body
    assert dict(parse_qsl(body.decode()))["order_money"] == written


@pytest.mark.parametrize(
    ("changes", "code", "about"),
    [
        ({"unit_limit": Money(99)}, "order_money", RefusedFor.PRICE),
        ({"unit_limit": Money(0)}, "order_money", RefusedFor.PRICE),
        ({"parameters": {}}, "card_type", RefusedFor.PRODUCT),
        ({"parameters": parameters(card_type="5")}, "card_type", RefusedFor.PRODUCT),
        ({"parameters": parameters(auto_confirm_hour="")}, "auto_confirm_hour", RefusedFor.PRODUCT),
        ({"parameters": parameters(auto_confirm_hour="11")}, "auto_confirm_hour", RefusedFor.PRODUCT),
        ({"parameters": parameters(auto_confirm_hour="0")}, "auto_confirm_hour", RefusedFor.PRODUCT),
        ({"parameters": parameters(auto_confirm_hour="1.5")}, "auto_confirm_hour", RefusedFor.PRODUCT),
    ],
)
def test_what_the_wire_cannot_say_is_refused_before_it_is_sent(
    changes: dict[str, Any], code: str, about: RefusedFor
) -> None:
    """A limit of zero would switch the price check off, and an unfit offer would buy cards that nobody can read."""
    refusal = SUPPLIER.place(replace(PURCHASE, **changes), NOW)
    assert isinstance(refusal, Refused)
    assert (refusal.code, refusal.about, refusal.certain) == (code, about, True)


def test_a_silent_offer_buys_the_shortest_warranty() -> None:
    """Without `auto_confirm_hour` 10 hours are bought, for the field is required."""
    body = place(replace(PURCHASE, parameters={"card_type": "1"})).request.body
    assert dict(parse_qsl(body.decode()))["auto_confirm_hour"] == "10"


def account(**keys: Any) -> Dealer:
    known = {"base_url": "http://gateway.example/", "appid": "10000", "appsecret": SECRET}
    return kaquan91_card.Kaquan91Card(TypeAdapter(kaquan91_card.Config).validate_python({**known, **keys}))


def test_every_key_of_the_account_is_accepted_and_takes_effect() -> None:
    """Paths, signing, defaults of offers, hours and looks follow the account; the offer's own parameters win."""
    supplier = account(
        timezone="UTC",
        order_path="/v2/buy",
        query_path="/v2/find",
        sign_value_encoding="encode-all",
        auto_confirm_hour="72",  # as an environment variable has it
        surcharge_table={"10": "0.15", "72": 2},
        surcharge_rounding="half-even",
        card_type_by_product={"184": "3", "a b": 4},
        empty_result_poll_plan=[2, 4.5],
        send_zero_order_money="false",
        query_after_reject="true",
        confirm_by_query=True,
        notify_url_wire="pre-encoded",
        money_type="1",
        money_scope="unit",
        check_stock=True,
    )
    assert supplier.traits == replace(SUPPLIER.traits, look_delays=(2.0, 4.5))
    call = supplier.place(replace(PURCHASE, supplier_product="a b", parameters={}), NOW)
    assert isinstance(call, Call)
    assert call.request.url == "http://gateway.example/v2/buy"
    fields = dict(parse_qsl(call.request.body.decode()))
    assert fields.keys() == {"appid", "card_id", "num", "auto_confirm_hour", "out_order_id", "order_money", "sign"}
    assert (fields["card_id"], fields["auto_confirm_hour"], fields["order_money"]) == ("a b", "72", "4.20")
    assert fields["sign"] == wire.sign(fields, SECRET, "encode-all") != wire.sign(fields, SECRET)

    look = supplier.query([replace(PURCHASE, parameters={})], NOW)
    assert isinstance(look, Call)
    assert look.request.url == "http://gateway.example/v2/find"
    (card,) = delivered(look.read(answer([{**ENTRY, "status": 2}]))[PURCHASE.number]).cards
    assert (card.kind, card.warranty_until) == (CardKind.LINK_AND_SECRET, datetime(2022, 8, 29, 21, 25, tzinfo=UTC))
    look = supplier.query([PURCHASE], NOW)
    assert isinstance(look, Call)
    (card,) = delivered(look.read(answer([{**ENTRY, "status": 2}]))[PURCHASE.number]).cards
    assert (card.kind, card.warranty_until) == (CardKind.NUMBER_AND_SECRET, datetime(2022, 8, 27, 7, 25, tzinfo=UTC))

    refusal = supplier.place(replace(PURCHASE, parameters=parameters(auto_confirm_hour="12")), NOW)
    assert isinstance(refusal, Refused)
    assert (refusal.code, refusal.certain, "10, 72" in refusal.message) == ("auto_confirm_hour", True, True)


def delivered(outcome: Outcome) -> Delivered:
    assert isinstance(outcome, Delivered)
    return outcome


def test_the_accounts_hours_must_be_in_its_table_too() -> None:
    """An offer that says its hours doesn't mind, a silent one is refused before anything is sent."""
    supplier = account(surcharge_table={"24": "0.6"})
    assert isinstance(supplier.place(replace(PURCHASE, parameters=parameters(auto_confirm_hour="24")), NOW), Call)
    refusal = supplier.place(replace(PURCHASE, parameters={"card_type": "1"}), NOW)
    assert isinstance(refusal, Refused)
    assert (refusal.code, refusal.certain) == ("auto_confirm_hour", True)


@pytest.mark.parametrize("hours", ["10", "12", "24", "48"])
def test_the_manuals_hours_are_bought(hours: str) -> None:
    """The table's default has the manual's four."""
    body = place(replace(PURCHASE, parameters=parameters(auto_confirm_hour=hours))).request.body
    assert dict(parse_qsl(body.decode()))["auto_confirm_hour"] == hours


@pytest.mark.parametrize(
    "wrong",
    [
        {"send_zero_order_money": True},
        {"query_after_reject": False},
        {"confirm_by_query": "false"},
        {"auto_confirm_hour": "1.5"},
        {"surcharge_table": {"10": "-1"}},
        {"surcharge_table": {"10": "0.15", "1.5": "1"}},
        {"surcharge_rounding": "nearest"},
        {"card_type_by_product": {"184": "5"}},
        {"empty_result_poll_plan": []},
        {"empty_result_poll_plan": [1, 0]},
        {"empty_result_poll_plan": [float("nan")]},
        {"sign_value_encoding": "raw"},
    ],
)
def test_keys_that_contradict_the_design_are_refused(wrong: dict[str, Any]) -> None:
    """What would switch a protection off, and what can't be meant, stops the start."""
    with pytest.raises(ValidationError):
        account(**wrong)


def test_what_cards_do_not_offer_is_named() -> None:
    """A callback for a card order can't come from the supplier, so there is nothing to verify it with."""
    assert SUPPLIER.read_callback(Callback(body=b"status=3")) == NotOffered("callbacks")
    assert SUPPLIER.fetch_token(NOW) == NotOffered("access tokens")
    assert SUPPLIER.cancel(PURCHASE, NOW) == NotOffered("cancelling")
    assert SUPPLIER.order_form("184", NOW) == NotOffered("order forms")


def test_the_configuration_is_closed_and_keeps_its_secret() -> None:
    """Unknown time zones stop the start, and the secret doesn't print."""
    adapter = load_adapter("kaquan91_card")
    config = TypeAdapter(adapter.config).validate_python({"base_url": "http://x", "appid": "1", "appsecret": SECRET})
    assert SECRET not in repr(config)
    with pytest.raises(ValidationError):
        TypeAdapter(adapter.config).validate_python({"base_url": "http://x", "appid": "1"})
    with pytest.raises(KeyError):
        adapter.supplier(replace(config, timezone="Asia/Nowhere"))


# --- Reading cards ----------------------------------------------------------------------------------------------------


def test_the_documented_sample_is_one_delivered_card() -> None:
    """The manual's own answer reads as its card, its cost and its payment number."""
    delivered = Delivered(cards=(CARD,), cost=yuan("4.20"), settled=True, supplier_reference=PAYMENT)
    assert placed(answer([ENTRY])) == delivered


def test_a_query_lists_the_same_card() -> None:
    """A query has everything in the entry and no payment number, which contradicts nothing."""
    entry = {**ENTRY, "card_id": "184", "create_time": OTHER["create_time"]}
    known = replace(PURCHASE, supplier_reference=PAYMENT)
    assert found(reply({"code": 1, "result": [entry]}), known) == Delivered(
        cards=(CARD,), cost=yuan("4.20"), settled=True
    )


@pytest.mark.parametrize(
    ("card_type", "columns", "card"),
    [
        ("0", ("CODE", ""), Card(kind=CardKind.CODE, secret="CODE")),
        ("0", ("CODE", None), Card(kind=CardKind.CODE, secret="CODE")),
        ("0", ("CODE", "more"), Card(kind=CardKind.CODE, secret="CODE", instructions="more")),
        ("1", ("N", "S"), Card(kind=CardKind.NUMBER_AND_SECRET, number="N", secret="S")),
        ("2", ("http://q", "Q"), Card(kind=CardKind.QR, qr_image_url="http://q", qr_content="Q")),
        ("2", ("http://q", ""), Card(kind=CardKind.QR, qr_image_url="http://q")),
        ("3", ("S", "http://r"), Card(kind=CardKind.LINK_AND_SECRET, secret="S", link="http://r")),
        ("4", ("http://l", "how"), Card(kind=CardKind.LINK, link="http://l", instructions="how")),
    ],
)
def test_the_type_says_what_the_columns_mean(card_type: str, columns: tuple[str, str | None], card: Card) -> None:
    """Each type's columns land where they belong, by the entry's type or else by the offer's."""
    entry = {"card_num": columns[0], "card_pass": columns[1], "status": 3}
    offer_knows = replace(PURCHASE, parameters=parameters(card_type=card_type))
    assert placed(answer([entry]), offer_knows) == Delivered(cards=(card,), settled=True, supplier_reference=PAYMENT)
    other_offer = replace(PURCHASE, parameters=parameters(card_type=str((int(card_type) + 1) % 5)))
    for typed in ({**entry, "type": card_type}, {**entry, "type": int(card_type)}):
        outcome = placed(answer([typed]), other_offer)
        assert isinstance(outcome, Delivered)
        assert outcome.cards == (card,)


@pytest.mark.parametrize(
    ("card_type", "columns"),
    [("0", ("", "x")), ("1", ("x", " ")), ("2", ("", "")), ("3", ("", "x")), ("4", (None, ""))],
)
def test_a_card_without_its_content_is_not_there_yet(card_type: str, columns: tuple[str | None, str]) -> None:
    """Success with an empty column is waited for, not handed over."""
    entry = {"card_num": columns[0], "card_pass": columns[1], "status": 2, "type": card_type}
    assert isinstance(placed(answer([entry])), Accepted)


def test_values_of_other_types_are_tolerated() -> None:
    """Numbers as text, text as numbers and a single card without its list read as in the sample."""
    entry = {**ENTRY, "status": "3", "money": 4.2, "order_id": 2023082621250118187}
    body = {"code": "1", "msg": None, "result": entry, "other": {**OTHER, "card_id": "184"}}
    assert placed(reply(body)) == placed(answer([ENTRY]))


def test_several_cards_keep_their_numbers_and_add_up() -> None:
    """Three cards have three platform numbers and one cost; one without a readable price leaves the cost open."""
    entries = [{**ENTRY, "order_id": f"20230826{i}", "money": f"4.2{i}"} for i in range(3)]
    outcome = placed(answer(entries), replace(PURCHASE, quantity=3))
    assert isinstance(outcome, Delivered)
    assert outcome.complete
    assert outcome.cost == yuan("12.63")
    assert [card.supplier_card_number for card in outcome.cards] == ["202308260", "202308261", "202308262"]
    outcome = placed(answer([*entries[:2], {**entries[2], "money": "?"}]), replace(PURCHASE, quantity=3))
    assert isinstance(outcome, Delivered)
    assert (outcome.cost, outcome.cards[2].unit_cost) == (None, None)


@pytest.mark.parametrize(
    ("states", "quantity", "kind", "cards", "complete"),
    [
        ((2,), 1, Delivered, 1, True),
        ((4,), 1, Delivered, 1, True),
        ((5,), 1, Delivered, 1, True),
        ((3, 3), 3, Delivered, 2, False),
        ((3, 6), 2, Delivered, 1, False),
        ((6, 3), 1, Delivered, 1, True),
        ((3, 3, 6), 2, Delivered, 2, True),
        ((2, 6, 6), 2, Delivered, 1, False),
        ((3, 1), 2, Delivered, 1, False),
        ((3, 3, 3), 2, Delivered, 3, True),
        ((1,), 1, Accepted, 0, None),
        ((9,), 1, Accepted, 0, None),
        ((6, 1), 2, Accepted, 0, None),
        ((6,), 2, Accepted, 0, None),
        ((6, 6), 2, Refunded, 0, None),
    ],
)
def test_states_and_counts(
    states: tuple[int, ...], quantity: int, kind: type[Outcome], cards: int, complete: bool | None
) -> None:
    """Good cards are handed over, short lists say so, and only a full set of cancelled cards is a refund."""
    entries = [{**ENTRY, "order_id": f"2023{i}", "status": state} for i, state in enumerate(states)]
    for read in (placed, found):
        outcome = read(answer(entries), replace(PURCHASE, quantity=quantity))
        assert type(outcome) is kind
        if isinstance(outcome, Delivered):
            good = [card for card in outcome.cards if card.after_sale is not AfterSale.REVERSED]
            assert (len(good), outcome.complete) == (cards, complete)
            assert len(outcome.cards) - len(good) == states.count(6)
        if isinstance(outcome, Refunded):
            assert (outcome.amount, outcome.cost) == (None, yuan("8.40"))


@pytest.mark.parametrize(
    ("state", "after_sale", "warranted", "settled"),
    [
        (2, AfterSale.WARRANTY, True, False),
        (3, None, False, True),
        (4, AfterSale.DISPUTED, False, False),
        (5, AfterSale.CLOSED_UNCLEAR, False, False),
    ],
)
def test_what_becomes_of_a_delivered_card(
    state: int, after_sale: AfterSale | None, warranted: bool, settled: bool
) -> None:
    """In every state the card stays what it is; only state 3 says that nothing more will come."""
    for read in (placed, found):
        (card,) = delivered(read(answer([{**ENTRY, "status": state}]))).cards
        assert replace(card, after_sale=None, warranty_until=None) == CARD
        assert (card.after_sale, card.warranty_until is not None) == (after_sale, warranted)
        assert delivered(read(answer([{**ENTRY, "status": str(state)}]))).settled is settled


def test_a_cancelled_card_among_others_is_told_by_its_number_alone() -> None:
    """Nothing that redeems is kept of a cancelled card; the other cards stay, and its price is no part of the cost."""
    two = replace(PURCHASE, quantity=2)
    gone = {**ENTRY, "order_id": "20230002", "card_num": "SECRET-1", "card_pass": "SECRET-2", "status": 6}
    stub = Card(kind=CardKind.NUMBER_AND_SECRET, supplier_card_number="20230002", after_sale=AfterSale.REVERSED)
    outcome = delivered(found(answer([ENTRY, gone]), two))
    assert (outcome.cards, outcome.complete, outcome.settled) == ((CARD, stub), False, False)
    outcome = delivered(found(answer([gone, ENTRY])))
    assert (outcome.cards, outcome.complete, outcome.cost, outcome.settled) == ((stub, CARD), True, yuan("4.20"), True)
    typed = delivered(found(answer([ENTRY, {**gone, "type": 9}]))).cards[1]
    assert typed == replace(stub, kind=CardKind.CODE)


def test_a_cancelled_card_without_a_number_marks_nothing() -> None:
    """A card that can't be told apart from the others can't be marked."""
    gone = {"status": 6, "card_num": "11222", "card_pass": "77888"}
    assert delivered(found(answer([ENTRY, gone]))).cards == (CARD,)


def test_a_refund_needs_every_card_to_be_cancelled() -> None:
    """One cancelled card that is listed twice isn't two; cards without numbers count one by one."""
    two = replace(PURCHASE, quantity=2)
    gone = {**ENTRY, "status": 6}
    assert isinstance(found(answer([gone, gone]), two), Accepted)
    assert isinstance(found(answer([gone, {**gone, "order_id": "2"}]), two), Refunded)
    assert isinstance(found(answer([{"status": 6}, {"status": 6}]), two), Refunded)


def test_a_card_that_is_good_and_cancelled_at_once_is_a_contradiction() -> None:
    """The same number in two states tells nothing certain."""
    outcome = found(answer([ENTRY, {**ENTRY, "status": 6}]))
    assert isinstance(outcome, Unclear)
    assert outcome.doubt is Doubt.CONTRADICTION


def test_cards_are_watched_for_the_longest_warranty() -> None:
    """48 hours, where a card doesn't say when its own warranty ends."""
    assert SUPPLIER.traits.aftersale_watch == 48 * 3600.0


def test_a_card_listed_twice_is_one_card() -> None:
    """A repeated entry doesn't fill the order, and one number at two cards is a contradiction."""
    two = replace(PURCHASE, quantity=2)
    outcome = placed(answer([ENTRY, dict(ENTRY)]), two)
    assert isinstance(outcome, Delivered)
    assert (outcome.cards, outcome.complete, outcome.cost) == ((CARD,), False, None)
    outcome = placed(answer([ENTRY, {**ENTRY, "card_pass": "other"}]), two)
    assert isinstance(outcome, Unclear)
    assert outcome.doubt is Doubt.CONTRADICTION


@pytest.mark.parametrize("created", ["2022-08-26 21:25:00", 1661520300, "1661520300"])
def test_the_warranty_ends_hours_after_the_purchase(created: object) -> None:
    """Text in the account's zone and Unix seconds give the same end, from the entry or from `other`."""
    end = datetime(2022, 8, 27, 21, 25, tzinfo=ZONE)
    purchase = replace(PURCHASE, parameters=parameters(auto_confirm_hour="24"))
    entry = {**ENTRY, "status": 2}
    for outcome in (
        placed(answer([entry], {**OTHER, "create_time": created}), purchase),
        found(answer([{**entry, "create_time": created}], None), purchase),
    ):
        assert isinstance(outcome, Delivered)
        assert outcome.cards[0].warranty_until == end


@pytest.mark.parametrize("created", [None, "", "26.08.2022", "9999-12-31 23:59:59", [], 10**15, -1, True])
def test_an_unreadable_time_leaves_the_warranty_open(created: object) -> None:
    """A card without a readable time of purchase is delivered all the same."""
    outcome = placed(answer([{**ENTRY, "status": 2}], {**OTHER, "create_time": created}))
    assert isinstance(outcome, Delivered)
    assert outcome.cards[0].warranty_until is None


# --- Reading everything else ------------------------------------------------------------------------------------------


def test_no_card_yet_is_accepted_by_the_purchase_and_absent_in_a_query() -> None:
    """An empty list after buying means cards to come; an empty list for a number means that nobody knows it."""
    assert placed(answer([])) == Accepted(supplier_reference=PAYMENT, detail="no card yet")
    assert isinstance(found(reply({"code": 1, "msg": "", "result": []})), Absent)


def test_late_cards_of_a_paid_purchase_are_waited_for() -> None:
    """An empty list for a purchase whose payment number is known means late cards; a text still means absence."""
    paid = replace(PURCHASE, supplier_reference=PAYMENT)
    assert found(reply({"code": 1, "msg": "", "result": []}), paid) == Accepted(detail="no card yet")
    assert found(reply({"code": 0, "msg": "订单不存在"}), paid) == Absent("订单不存在")


@pytest.mark.parametrize(
    "answered",
    [
        reply(b""),
        reply(b"<html>502</html>"),
        reply(b'{"code": 1, "result": [{"order_id": "1", "card_num": "11222", "card_'),
        reply(b"\xff\xfe"),
        reply(b"[" * 100_000),
        reply(b"null"),
        reply([]),
        reply({}),
        reply({"code": True, "result": [ENTRY]}),
        reply({"code": 2, "result": [ENTRY]}),
        reply({"code": 1, "msg": "ok"}),
        answer(None),
        answer("2023082621250118187"),
        answer(1),
        answer([ENTRY, None]),
        answer([[ENTRY]]),
        answer([{**ENTRY, "status": None}]),
        answer([{**ENTRY, "status": [3]}]),
        answer([{**ENTRY, "card_num": 11222}]),
        answer([{**ENTRY, "card_pass": ["77888"]}]),
        reply(b'{"code":1,"result":[{"card_num":"1","card_pass":"\\ud800","status":3}]}'),
        answer([{**ENTRY, "type": 7}]),
        reply({"code": 1, "result": [ENTRY]}, status=500),
        reply({"code": 1, "result": [ENTRY]}, status=401),
        reply({"code": 0, "msg": "库存不足"}, status=502),
        reply(b"", status=302),
    ],
)
def test_what_is_not_understood_is_unclear(answered: HttpReply) -> None:
    """Malformed and contradictory answers are neither success nor failure, and their cards stay out of the reason."""
    for outcome in (placed(answered), found(answered)):
        assert isinstance(outcome, Unclear)
        assert "11222" not in outcome.reason
        assert "77888" not in outcome.reason


@pytest.mark.parametrize(
    "answered",
    [
        answer([ENTRY], {**OTHER, "card_id": 185}),
        answer([{**ENTRY, "card_id": "185"}], {}),
        answer([{**ENTRY, "out_order_id": "C202401010002"}]),
        answer([ENTRY], {**OTHER, "pay_order_id": "1"}),
    ],
)
def test_another_order_is_a_contradiction(answered: HttpReply) -> None:
    """Cards of another product, number or payment are never handed over."""
    outcome = found(answered, replace(PURCHASE, supplier_reference=PAYMENT))
    assert isinstance(outcome, Unclear)
    assert outcome.doubt is Doubt.CONTRADICTION


@pytest.mark.parametrize(
    ("message", "about"),
    [
        ("库存不足", RefusedFor.STOCK),
        ("余额不足", RefusedFor.BALANCE),
        ("进价总额高于订单总额", RefusedFor.PRICE),
        ("卡券产品不存在", RefusedFor.PRODUCT),
        ("质保时间不可选", RefusedFor.OTHER),
        ("合作商订单号重复", RefusedFor.OTHER),
        ("", RefusedFor.OTHER),
        (None, RefusedFor.OTHER),
    ],
)
@pytest.mark.rule("P11")
def test_a_failure_text_classifies_a_refusal_but_never_makes_it_certain(message: str | None, about: RefusedFor) -> None:
    """`code` 0 to a purchase is a refusal to be checked by a query, whose own `code` 0 proves nothing."""
    failure = reply({"code": 0, "msg": message, "result": None})
    outcome = placed(failure)
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.about, outcome.certain) == ("0", about, False)
    assert isinstance(found(failure), Unclear)


@pytest.mark.parametrize("message", ["签名错误", "appid不存在", "IP未登记", "ip 1.2.3.4不在白名单", "缺少参数：sign"])
def test_a_refusal_of_the_caller_had_no_effect(message: str) -> None:
    """Signature, appid and address texts are about the account, whatever was asked."""
    for outcome in (placed(reply({"code": 0, "msg": message})), found(reply({"code": 0, "msg": message}))):
        assert isinstance(outcome, NotSent)
        assert outcome.cause is NotSentCause.CONFIGURATION


@pytest.mark.parametrize("message", ["VIP会员商品已下架", "订单design错误", "zip"])
def test_words_inside_words_do_not_accuse_the_caller(message: str) -> None:
    """`VIP` isn't an IP address: a paused account needs more than that."""
    assert isinstance(placed(reply({"code": 0, "msg": message})), Refused)


def test_http_refusals_of_the_caller() -> None:
    """401 pauses the account and 429 waits as long as it is told to."""
    assert placed(reply(b"", status=401)) == NotSent(cause=NotSentCause.CONFIGURATION, detail="HTTP 401")
    limited = HttpReply(status=429, body=b"", headers={"retry-after": "7"})
    assert found(limited) == NotSent(cause=NotSentCause.RATE_LIMITED, detail="HTTP 429", retry_after=7.0)
    outcome = placed(reply({"code": 0, "msg": "请求过于频繁"}))
    assert isinstance(outcome, NotSent)
    assert outcome.cause is NotSentCause.RATE_LIMITED


@pytest.mark.parametrize("message", ["订单不存在", "订单号：C202401010001 不存在", "没有找到该订单", "order not found"])
def test_texts_for_an_unknown_number(message: str) -> None:
    """Only a query believes them; to a purchase they are a refusal like any other."""
    assert isinstance(found(reply({"code": 0, "msg": message})), Absent)
    assert isinstance(placed(reply({"code": 0, "msg": message})), Refused)


@pytest.mark.parametrize(
    "message", ["系统异常，订单不存在", "用户不存在", "产品不存在", "查询失败", "订单处理中", "请稍后再试"]
)
def test_texts_that_prove_no_absence(message: str) -> None:
    """Whatever else is missing, the order may exist."""
    assert isinstance(found(reply({"code": 0, "msg": message})), Unclear)


# --- The deposit and the products -------------------------------------------------------------------------------------

PRODUCT = {
    "id": 184,
    "pid": 7,
    "name": "京东E卡",
    "card_name": "京东E卡 100元",
    "logo": "//img.example/184.png",
    "num": 15,
    "type": 1,
    "typeName": "卡号和密码",
    "auto_confirm_hour": [10, 12, 24, 48],
    "priceList": [{"price": "98.60", "num": 5}, {"price": "98.5000", "num": 10}, {"price": ""}],
}
READ = SupplierProduct(
    number="184",
    name="京东E卡 100元",
    price=yuan("98.50"),
    stock=15,
    details={
        "card_type": "1",
        "card_type_name": "卡号和密码",
        "auto_confirm_hour": "10, 12, 24, 48",
        "price_list": "98.50 (10 left), 98.60 (5 left)",
    },
)


def asked(call: Call[Any] | NotOffered) -> Call[Any]:
    assert isinstance(call, Call)
    return call


def listed(result: Any, page: int = 1) -> Any:
    return asked(SUPPLIER.products(NOW, page=page)).read(reply({"code": 1, "msg": "", "result": result}))


def shown(result: Any, number: str = "184") -> Any:
    return asked(SUPPLIER.product(number, NOW)).read(reply({"code": 1, "msg": "", "result": result}))


def test_questions_are_signed_without_their_paging() -> None:
    """The deposit and the list are vector C4, one product is C5; the fields of paging stay out of the signed text."""
    deposit = asked(SUPPLIER.balance(NOW)).request
    assert deposit.url == "http://gateway.example/dcapi/queryCash"
    assert deposit.body.decode() == f"appid=10000&sign={VECTORS[3][2]}"
    page = asked(SUPPLIER.products(NOW, page=3)).request
    assert page.url == "http://gateway.example/dcapi/card/queryCardList"
    assert page.body.decode() == f"appid=10000&pageIndex=3&pageSize=50&sign={VECTORS[3][2]}"
    detail = asked(SUPPLIER.product("184", NOW)).request
    assert detail.url == "http://gateway.example/dcapi/card/queryCardDetail"
    assert detail.body.decode() == f"appid=10000&card_id=184&sign={VECTORS[4][2]}"


@pytest.mark.parametrize(
    ("result", "left"),
    [("348.70", yuan("348.70")), (348.7, yuan("348.70")), (0, Money(0)), ("-12.5", Money(-125_000))],
)
def test_the_deposit_is_yuan(result: object, left: Money) -> None:
    """Text or number, and it may be less than nothing."""
    assert asked(SUPPLIER.balance(NOW)).read(reply({"code": 1, "result": result})) == left


@pytest.mark.parametrize("result", [None, "", "much", [], {}, True])
def test_an_unreadable_deposit_is_unclear(result: object) -> None:
    """No amount is made up."""
    assert isinstance(asked(SUPPLIER.balance(NOW)).read(reply({"code": 1, "result": result})), Unclear)


def test_a_product_tells_its_prices_and_its_hours_of_warranty() -> None:
    """The lowest price counts, and an operator sees which `auto_confirm_hour` may be bought."""
    assert shown(PRODUCT) == shown([PRODUCT]) == READ
    assert listed([PRODUCT]) == Listing(products=(READ,))


@pytest.mark.parametrize(
    ("changes", "price", "stock"),
    [
        ({"num": 0, "priceList": []}, None, 0),
        ({"num": "0", "priceList": None}, None, 0),
        ({"priceList": {}, "price": "4.2"}, yuan("4.20"), 15),
        ({"priceList": [], "num": None, "current_price": 4.2, "current_price_num": "3"}, yuan("4.20"), 3),
        ({"priceList": ["4.20"], "num": -1}, None, None),
        ({"num": 1.5}, yuan("98.50"), None),
    ],
)
def test_prices_and_stock_in_every_known_shape(changes: dict[str, Any], price: Money | None, stock: int | None) -> None:
    """With nothing in stock the price list is empty, and numbers may come as text."""
    product = shown({**PRODUCT, **changes})
    assert (product.price, product.stock) == (price, stock)


@pytest.mark.parametrize(
    ("hours", "read"), [("10,12", "10,12"), (10, "10"), ("", None), (None, None), (["10", 24, None], "10, 24")]
)
def test_the_hours_of_warranty_in_every_likely_shape(hours: object, read: str | None) -> None:
    """A list, a number and a text are all shown."""
    assert shown({**PRODUCT, "auto_confirm_hour": hours}).details.get("auto_confirm_hour") == read


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ({"name": "京东E卡", "card_name": ""}, "京东E卡"),
        ({"name": None, "card_name": "100元"}, "100元"),
        ({"name": "京东E卡", "card_name": "100元"}, "京东E卡 100元"),
    ],
)
def test_a_product_has_the_name_that_tells_most(names: dict[str, Any], name: str) -> None:
    """Brand and value may stand in one field or in two."""
    assert shown({**PRODUCT, **names}).name == name


def test_lists_in_every_known_shape() -> None:
    """Bare, in groups, or inside an object: the products are the same, and unreadable ones are left out."""
    other = {**PRODUCT, "id": "185"}
    for result in (
        [PRODUCT, other],
        [{"id": 1, "name": "group", "list": [PRODUCT]}, {"id": 2, "list": [other]}],
        {"list": [PRODUCT, other]},
        {"data": [PRODUCT, None, {}, other]},
        {"data": {"list": [PRODUCT, {"id": []}, other]}},
    ):
        assert [product.number for product in listed(result).products] == ["184", "185"]
    assert listed([]) == Listing(products=())
    assert listed([{"id": 1, "list": []}]) == Listing(products=())


def test_a_full_page_may_have_a_next_one() -> None:
    """The list tells by its length whether there is more, or by its total where it has one."""
    fifty = [{**PRODUCT, "id": number} for number in range(1, 51)]
    assert listed(fifty).more
    assert not listed(fifty[:49]).more
    assert not listed([*fifty, PRODUCT]).more  # it has no pages
    assert listed({"list": fifty[:20], "total": "120"}, page=2).more
    assert not listed({"list": fifty, "total": 100}, page=2).more


@pytest.mark.parametrize("result", [None, "", "x", 7, {}, [None], [[PRODUCT]], {"list": [{}]}, [{"name": "x"}]])
def test_a_list_that_is_not_understood_is_unclear(result: object) -> None:
    """A list without a readable product isn't an empty one."""
    assert isinstance(listed(result), Unclear)


@pytest.mark.parametrize("result", [None, "", {}, {**PRODUCT, "id": 185}, [PRODUCT, PRODUCT], [None]])
def test_another_product_than_the_one_asked_for_is_unclear(result: object) -> None:
    """Nobody is told the price of something else."""
    assert isinstance(shown(result), Unclear)


def test_an_unknown_product_is_absent() -> None:
    """By an empty list or by a text; a text about something else proves nothing."""
    ask = asked(SUPPLIER.product("184", NOW))
    assert shown([]) == Absent("an empty list")
    assert ask.read(reply({"code": 0, "msg": "卡券产品不存在"})) == Absent("卡券产品不存在")
    for text in ("系统繁忙，产品不存在", "查询失败", ""):
        assert isinstance(ask.read(reply({"code": 0, "msg": text})), Unclear)


def test_questions_that_are_refused_because_of_us_had_no_effect() -> None:
    """Signature, address and rate: as everywhere else."""
    for call in (SUPPLIER.balance(NOW), SUPPLIER.products(NOW), SUPPLIER.product("184", NOW)):
        ask = asked(call)
        assert ask.read(reply({"code": 0, "msg": "签名错误"})).cause is NotSentCause.CONFIGURATION
        assert ask.read(reply(b"", status=401)).cause is NotSentCause.CONFIGURATION
        assert ask.read(reply(b"", status=429)).cause is NotSentCause.RATE_LIMITED
        assert isinstance(ask.read(reply({"code": 0, "msg": "暂无数据"})), Unclear)
        assert isinstance(ask.read(reply(b"<html>", status=502)), Unclear)


# --- Anything at all --------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["1", "2", "6"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["code", "msg", "result", "other", *ENTRY, *OTHER, "type", "out_order_id", *PRODUCT]),
            inner,
            max_size=8,
        )
    ),
    max_leaves=25,
)


@given(st.binary(max_size=200), st.sampled_from([200, 200, 401, 429, 500]))
def test_arbitrary_bytes_are_read_and_deliver_nothing(body: bytes, status: int) -> None:
    """No bytes raise, and none that say no success are one."""
    for outcome in (placed(reply(body, status)), found(reply(body, status))):
        assert isinstance(outcome, Unclear | NotSent)
    for call in (SUPPLIER.balance(NOW), SUPPLIER.products(NOW), SUPPLIER.product("184", NOW)):
        assert isinstance(asked(call).read(reply(body, status)), Unclear | NotSent)


@given(VALUES)
def test_arbitrary_json_answers_every_question(result: Any) -> None:
    """No shape raises, and a product that is shown is the one that was asked for."""
    assert isinstance(listed(result), Listing | Unclear)
    product = shown(result)
    assert isinstance(product, Absent | Unclear) or product.number == "184"
    assert isinstance(asked(SUPPLIER.balance(NOW)).read(reply({"code": 1, "result": result})), int | Unclear)


@given(VALUES, VALUES)
def test_arbitrary_json_never_makes_a_card_up(result: Any, other: Any) -> None:
    """Every delivered text stands in the answer, and every card has its essential column."""
    for body in ({"code": 1, "result": result, "other": other}, result):
        raw = json.dumps(body)
        for outcome in (placed(reply(raw.encode())), found(reply(raw.encode()))):
            if isinstance(outcome, Delivered):
                good = [card for card in outcome.cards if card.after_sale is not AfterSale.REVERSED]
                assert good
                for card in set(outcome.cards) - set(good):
                    assert card == Card(
                        kind=card.kind,
                        supplier_card_number=card.supplier_card_number,
                        after_sale=AfterSale.REVERSED,
                    )
                for card in good:
                    assert card.secret.strip() or card.link.strip() or card.qr_image_url.strip() or card.qr_content
                    for said in (card.number, card.secret, card.link, card.qr_image_url, card.qr_content):
                        assert json.dumps(said)[1:-1] in raw


@given(st.lists(st.fixed_dictionaries({"status": st.integers(0, 9), "money": VALUES, "type": st.integers(0, 4)})))
def test_lists_of_empty_entries_never_deliver(entries: list[dict[str, Any]]) -> None:
    """A state of success without a card in it delivers nothing."""
    assert not isinstance(placed(answer(entries)), Delivered)
