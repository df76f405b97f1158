"""Kasushou: what is written and signed, and what every kind of answer and callback means."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from reward_adapters import load_adapter
from reward_adapters.contract import (
    Absent,
    Accepted,
    Call,
    Callback,
    CallbackRefused,
    Card,
    CardKind,
    Context,
    Delivered,
    Doubt,
    HttpReply,
    Notice,
    NotOffered,
    NotSent,
    NotSentCause,
    Outcome,
    ProductKind,
    Purchase,
    Recipient,
    RecipientKind,
    Refunded,
    Refused,
    RefusedFor,
    Supplier,
    Unclear,
)
from reward_adapters.kasushou import Config, Kasushou, callback_body, request_body, timed_body_sha1
from reward_adapters.money import yuan

APIKEY = "H0YnuPpcVtx7rQdMTbjN6932s5oDOqFa"
CONFIG = Config(base_url="https://shop.example", user_id="10000", apikey=APIKEY)
SUPPLIER: Supplier = Kasushou(CONFIG)
CONTEXT = Context(now=datetime.fromtimestamp(1704067200.456, UTC))
CARD = Purchase(
    number="S202401010001",
    product_kind=ProductKind.CARD,
    supplier_product="2909",
    quantity=1,
    recipient=None,
    unit_cost=yuan("1.99"),
    unit_limit=yuan("2.0099"),
    notify_url="https://shop.example.com/cb/kss?a=1&b=2",
)
TOPUP = replace(
    CARD,
    product_kind=ProductKind.TOPUP,
    recipient=Recipient(RecipientKind.QQ, "10001"),
    form={"lblName1": "电信/一区", "recharge_account": "not this one"},
)
ORDER = {
    "ordersn": "API091952628603547942912",
    "external_orderno": "S202401010001",
    "status": 3,
    "total_price": "2.00",
    "has_back_money": "0.000",
    "recharge_hints": "",
    "recharge_info": [],
    "card_list": [{"card_no": "n1", "card_password": "p1"}],
}
COST = yuan(2)
REFERENCE = "API091952628603547942912"
ONE_CARD = Card(kind=CardKind.NUMBER_AND_SECRET, number="n1", secret="p1")


def placed(purchase: Purchase = CARD, config: Config = CONFIG) -> Call[Outcome]:
    call = Kasushou(config).place(purchase, CONTEXT)
    assert isinstance(call, Call)
    return call


def as_bytes(answer: object) -> bytes:
    return answer if isinstance(answer, bytes) else json.dumps(answer, ensure_ascii=False).encode()


def said(answer: object, purchase: Purchase = CARD, status: int = 200) -> Outcome:
    return placed(purchase).read(HttpReply(status, as_bytes(answer)))


def asked(*purchases: Purchase) -> Call[Mapping[str, Outcome]]:
    call = SUPPLIER.query(purchases, CONTEXT)
    assert isinstance(call, Call)
    return call


def looked(answer: object, purchase: Purchase = CARD, status: int = 200) -> Outcome:
    outcomes = asked(purchase).read(HttpReply(status, as_bytes(answer)))
    assert list(outcomes) == [purchase.number]
    return outcomes[purchase.number]


def listing(*orders: object) -> dict[str, object]:
    return {"code": 200, "msg": "操作成功", "data": list(orders)}


def leaves(value: object) -> Iterator[str]:
    match value:
        case dict():
            for inner in value.values():
                yield from leaves(inner)
        case list():
            for inner in value:
                yield from leaves(inner)
        case _:
            yield str(value)


# --- Account keys -----------------------------------------------------------------------------------------------------

ALL_KEYS: dict[str, Any] = {
    "base_url": "https://shop.example",
    "user_id": "10000",
    "apikey": APIKEY,
    "buy_path": "/buy",
    "detail_path": "/detail",
    "sort_nested": False,
    "json_escape_unicode": True,
    "safe_price_mode": "total",
    "send_mark_empty": False,
    "query_day": "30",
    "not_found_texts": ["nothing"],
    "duplicate_texts": ["twice"],
    "ack_unknown_order": False,
    "callback_slash_modes": ["raw"],
    "mirror_http_status": False,
    "timezone": "UTC",
    "product_kind_by_id": {"2909": "topup"},
}


def test_every_key_is_accepted_and_acts() -> None:
    """Paths, HTTP statuses and kinds of the account are the ones that are used."""
    config = TypeAdapter(Config).validate_python(ALL_KEYS)
    assert set(ALL_KEYS) == set(vars(config))
    supplier = Kasushou(config)
    # The account says that this product is a top-up, whatever the catalogue says.
    bought = placed(replace(CARD, recipient=TOPUP.recipient), config)
    assert bought.request.url == "https://shop.example/buy"
    assert json.loads(bought.request.body)["attach"] == {"recharge_account": "10001"}
    refusal = as_bytes({"code": 400, "msg": "库存不足"})
    assert isinstance(bought.read(HttpReply(400, refusal)), Unclear)
    assert isinstance(bought.read(HttpReply(200, refusal)), Refused)
    assert isinstance(placed().read(HttpReply(400, refusal)), Refused)
    look = supplier.query([CARD], CONTEXT)
    assert isinstance(look, Call)
    assert look.request.url == "https://shop.example/detail"
    contradiction = Unclear("cards came for a product without cards", doubt=Doubt.CONTRADICTION)
    assert look.read(HttpReply(200, as_bytes(listing(ORDER)))) == {CARD.number: contradiction}
    for key, value in (("timezone", "Asia/Nowhere"), ("product_kind_by_id", {"1": "toy"}), ("mirror_http_status", 7)):
        with pytest.raises(ValidationError):
            TypeAdapter(Config).validate_python({**ALL_KEYS, key: value})


# --- Signatures and requests ------------------------------------------------------------------------------------------

S2 = (
    '{"attach":{"recharge_account":"111111","lblName1":"222222","lblName2":"333333"},'
    '"external_orderno":"D091952644768932429824","id":1,"mark":"","quantity":1,"safe_price":"2.2",'
    '"url":"http://demo.kasushou.com/notify"}'
)
S2B = S2.replace(
    '{"recharge_account":"111111","lblName1":"222222","lblName2":"333333"}',
    '{"lblName1":"222222","lblName2":"333333","recharge_account":"111111"}',
)
S4 = (
    '{"external_orderno":"S202401010001","id":2909,"mark":"测试/备注","quantity":1,"safe_price":"2.00",'
    '"url":"https://shop.example.com/cb/kss?a=1&b=2"}'
)
S5 = '{"day":"0","external_orderno":"S202401010001"}'
S6 = (
    '{"external_orderno":"S202401010001","has_back_money":"0.00","ordersn":"API091952628603547942912",'
    '"recharge_hints":"订单处理完成\\/期待您的下次光临","status":"3","time":"1704067210789","total_price":"2.00"}'
)
S6R = (
    '{"external_orderno":"S202401010001","has_back_money":"2.00","ordersn":"API091952628603547942912",'
    '"recharge_hints":"订单已退款","status":"5","time":"1704067230789","total_price":"2.00"}'
)
VECTORS = {
    "S1": (
        "1696645385740",
        '{"day":10,"external_orderno":"","ordersn":"D100759082558859640832"}',
        "15b8f541eb10e3fbb33efd92c8d52d50ddca0784",
    ),
    "S2": ("1696644296195", S2, "273def8fbcf3d307d3aa75a4e6014b44b6504c8e"),
    "S2b": ("1696644296195", S2B, "2d6fd737b171b3a7fe3c859c9d9d12e587ff20aa"),
    "S2y": ("1696644296195", S2.replace("/", "\\/"), "4cef1e5cda7cdd19e0ee5e8250fc7666db045e4c"),
    "S3": ("1696644296195", "{}", "421cb283b476a67aeeda02ad0da8b774cf3fa301"),
    "S4": ("1704067200123", S4, "b48fec8862fb2b8620a3e3ca3901abf39a9bf86a"),
    "S5": ("1704067200456", S5, "a113030a9cef0901d2941fc618125d740e110443"),
    "S6": ("1704067210789", S6, "f50cc61673e58f2fe1d7ef3cc11643c9a9de60bb"),
    "S6x": ("1704067210789", S6.replace("\\/", "/"), "3fbe9822d6a392241ecab64bf7ccf8d2a0a8f46f"),
    "S6r": ("1704067230789", S6R, "cd79afa1d487a16ddc05076be929674ce3380508"),
    "S7": ("1704067210789", S6.replace('"status":"3"', '"status":3'), "4c2a121df73354662662780233bef207cd2c254c"),
    "S8": ("1695073529531", '{"id":"1","time":"1695073529531"}', "00b95c6e722203142c8b77908284468fea24ea1f"),
}


@pytest.mark.parametrize(("time", "body", "sign"), VECTORS.values(), ids=VECTORS)
def test_signatures_are_exact(time: str, body: str, sign: str) -> None:
    """Every known signature comes out digit for digit, and another spelling of the same JSON has another one."""
    assert timed_body_sha1(time, body.encode(), APIKEY) == sign


@pytest.mark.parametrize("name", ["S1", "S2b", "S3", "S4", "S5"])
def test_request_bodies_are_written_as_they_are_signed(name: str) -> None:
    """Compact, all keys sorted, slashes and Chinese raw: byte for byte the text that the manual signs."""
    body = VECTORS[name][1]
    fields = dict(reversed(json.loads(body).items()))
    assert request_body(fields, CONFIG) == body.encode()


def test_inner_keys_and_escapes_follow_the_account() -> None:
    """Shops that keep the order of inner keys, or that want ASCII, get it."""
    assert request_body(json.loads(S2), replace(CONFIG, sort_nested=False)) == S2.encode()
    escaped = request_body({"mark": "测/\u2028"}, replace(CONFIG, json_escape_unicode=True))
    assert escaped == b'{"mark":"\\u6d4b/\\u2028"}'
    assert request_body({"mark": "测/\u2028"}, CONFIG) == '{"mark":"测/\\u2028"}'.encode()


def test_a_card_purchase_on_the_wire() -> None:
    """A card is bought without a form, guarded by the limit of one unit, rounded down."""
    request = placed().request
    expected = S4.replace("测试/备注", "")
    assert (request.url, request.body) == ("https://shop.example/api/v1/order/buy", expected.encode())
    assert request.headers == {
        "Content-Type": "application/json; charset=utf-8",
        "UserId": "10000",
        "Timestamp": "1704067200456",
        "Sign": timed_body_sha1("1704067200456", request.body, APIKEY),
    }


def test_virtual_goods_carry_the_order_form() -> None:
    """The recipient goes under its own key, beside what the client gave; a card product carries neither."""
    members = json.loads(placed(TOPUP).request.body)
    assert members["attach"] == {"recharge_account": "10001", "lblName1": "电信/一区"}
    as_card = replace(TOPUP, product_kind=ProductKind.COUPON)
    assert "attach" not in json.loads(placed(as_card).request.body)


def test_optional_fields_follow_the_account() -> None:
    """The limit of all units, no remark and no callback address, where the account says so."""
    config = replace(CONFIG, safe_price_mode="total", send_mark_empty=False)
    members = json.loads(placed(replace(CARD, quantity=3, notify_url=None), config).request.body)
    assert members == {"external_orderno": "S202401010001", "id": 2909, "quantity": 3, "safe_price": "6.02"}


def test_a_look_asks_for_several_numbers_without_look_back() -> None:
    """Numbers are joined by commas, and "0" days back finds orders of any age."""
    assert asked(CARD).request.body == S5.encode()
    assert asked(CARD).request.headers["Sign"] == VECTORS["S5"][2]
    several = json.loads(asked(CARD, replace(CARD, number="S2")).request.body)
    assert several == {"day": "0", "external_orderno": "S202401010001,S2"}


@pytest.mark.parametrize(
    ("purchase", "topic"),
    [
        (replace(CARD, supplier_product="jd"), RefusedFor.PRODUCT),
        (replace(CARD, supplier_product=""), RefusedFor.PRODUCT),
        (replace(CARD, supplier_product="9" * 5000), RefusedFor.PRODUCT),
        (replace(CARD, unit_limit=yuan("0.0099")), RefusedFor.PRICE),
    ],
)
def test_what_the_wire_cannot_say_is_refused_before_it_is_sent(purchase: Purchase, topic: RefusedFor) -> None:
    """A purchase that the fields can't hold, or only without its limit, is refused without an exchange."""
    refused = SUPPLIER.place(purchase, CONTEXT)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.certain, refused.about) == ("LOCAL", True, topic)


def test_secrets_do_not_print() -> None:
    """Neither the account nor a request shows its secret, and there is no token to show."""
    assert APIKEY not in repr(CONFIG)
    assert "10001" not in repr(placed(TOPUP).request)
    assert isinstance(SUPPLIER.fetch_token(CONTEXT), NotOffered)


def test_the_configuration_is_checked() -> None:
    """An account is built from plain values; words outside closed sets are refused."""
    assert load_adapter("kasushou").config is Config
    accounts = TypeAdapter(Config)
    config = accounts.validate_python({**vars(CONFIG), "callback_slash_modes": ["raw"], "not_found_texts": ["无此单"]})
    assert (config.callback_slash_modes, config.not_found_texts) == (("raw",), ("无此单",))
    for wrong in ({"safe_price_mode": "each"}, {"callback_slash_modes": ["none"]}):
        with pytest.raises(ValidationError):
            accounts.validate_python({**vars(CONFIG), **wrong})


def test_looks_are_close_in_the_first_minute_and_then_wider() -> None:
    """The manual wants a look every 1 to 3 seconds; after a minute they get rarer."""
    delays = SUPPLIER.traits.look_delays
    assert sum(delays[:30]) == 60.0
    assert all(earlier <= later for earlier, later in pairwise(delays))


# --- Answers to a purchase --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [200, "200"])
@pytest.mark.parametrize(("price", "cost"), [({}, None), ({"total_price": 1}, yuan(1)), ({"total_price": ""}, None)])
def test_a_purchase_is_only_accepted(code: object, price: dict[str, object], cost: object) -> None:
    """Success means taken: the result comes by a look."""
    data = {"ordersn": "API091952652791532879872", "external_orderno": "S202401010001", **price}
    outcome = said({"code": code, "msg": "下单成功", "data": data})
    assert outcome == Accepted(supplier_reference="API091952652791532879872", cost=cost)  # type: ignore[arg-type]


def test_a_status_in_the_answer_is_read_like_a_looks() -> None:
    """Later shops add the status: -1 means that the deposit was too small."""
    data = {"ordersn": "A1", "external_orderno": "S202401010001", "status": -1}
    refused = Refused(code="-1", message="not paid from our deposit", certain=True, about=RefusedFor.BALANCE)
    assert said({"code": 200, "data": data}) == refused


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("商品不存在", RefusedFor.PRODUCT),
        ("商品已下架", RefusedFor.PRODUCT),
        ("商品库存不足", RefusedFor.STOCK),
        ("账户余额不足", RefusedFor.BALANCE),
        ("商品售价高于安全价格safe_price", RefusedFor.PRICE),
        ("充值账号错误", RefusedFor.RECIPIENT),
        ("缺少下单参数：lblName1", RefusedFor.OTHER),
        ("购买数量错误", RefusedFor.OTHER),
        ("充值用户不存在", RefusedFor.OTHER),
        ("", RefusedFor.OTHER),
        (None, RefusedFor.OTHER),
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_a_text_never_refuses_for_certain(text: object, topic: RefusedFor, status: int) -> None:
    """Code 400 has only a text: it says what the refusal is about, and the engine looks before it believes."""
    outcome = said({"code": 400, "msg": text}, status=status)
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.certain, outcome.about) == ("400", False, topic)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("签名错误", NotSentCause.CONFIGURATION),
        ("invalid signature", NotSentCause.CONFIGURATION),
        ("时间戳错误", NotSentCause.CONFIGURATION),
        ("用户不存在", NotSentCause.CONFIGURATION),
        ("ip not allowed", NotSentCause.CONFIGURATION),
        ("rate limit exceeded", NotSentCause.RATE_LIMITED),
        ("daily limit exceeded", NotSentCause.RATE_LIMITED),
        ("操作频繁", NotSentCause.RATE_LIMITED),
    ],
)
def test_refusals_of_the_caller_had_no_effect(text: str, cause: NotSentCause) -> None:
    """Texts about us mean that nothing happened, at purchases and looks alike."""
    answer = {"code": "400", "message": text}
    assert said(answer) == looked(answer) == NotSent(cause=cause, detail=text)


def test_what_a_customer_typed_cannot_pass_for_the_shops_words() -> None:
    """A form value quoted in a refusal neither pauses the account nor stands in a log."""
    purchase = replace(TOPUP, form={"lblName1": "签名 rate limit"})
    outcome = said({"code": 400, "msg": "参数 签名 rate limit 有误 10001"}, purchase)
    assert outcome == Refused(code="400", message="参数 *** 有误 ***", certain=False)


@pytest.mark.parametrize("text", ["外部订单号重复，请勿重复提交", "订单已存在", "Duplicate order"])
def test_a_number_used_before_is_left_to_a_look(text: str) -> None:
    """The order under a repeated number may well exist."""
    assert isinstance(said({"code": 400, "msg": text}), Unclear)


def test_http_statuses() -> None:
    """429 asks to wait and 401 refuses us; a status that contradicts the code leaves the outcome open."""
    limited = placed().read(HttpReply(429, b"", {"retry-after": "30"}))
    assert limited == NotSent(cause=NotSentCause.RATE_LIMITED, detail="HTTP 429", retry_after=30.0)
    for outcome in (said(b"", status=401), looked(b"", status=401)):
        assert isinstance(outcome, NotSent)
        assert outcome.cause is NotSentCause.CONFIGURATION
    for status in (302, 400, 404, 500, 502):
        assert isinstance(said({"code": 200, "data": ORDER}, status=status), Unclear)
        assert isinstance(looked(listing(), status=status), Unclear)
    assert isinstance(said({"code": 400, "msg": "商品不存在"}, status=500), Unclear)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html></html>",
        b'{"code":200,"data":[{"external_orderno":"S2024',
        b"\xff",
        b"[" * 100_000,
        [],
        None,
        {},
        {"code": 500, "msg": "未知错误"},
        {"code": 200},
        {"code": 200, "data": None},
        {"code": 200, "data": "x"},
        {"code": 200, "data": {}},
        {"code": 200, "data": {"ordersn": None, "external_orderno": None}},
        {"code": True, "data": []},
        {"code": [200], "data": []},
    ],
)
def test_malformed_answers_are_unclear(answer: object) -> None:
    """An answer that isn't what the pages show proves nothing, least of all that an order isn't there."""
    assert isinstance(said(answer), Unclear)
    assert isinstance(looked(answer), Unclear)


def test_an_empty_list_is_no_answer_to_a_purchase() -> None:
    """A purchase whose answer holds no order is left to a look."""
    assert isinstance(said({"code": 200, "data": []}), Unclear)


def test_an_answer_about_another_order_is_a_contradiction() -> None:
    """Success for a number that isn't ours is for a person to look at."""
    outcome = said({"code": 200, "data": {"ordersn": "A1", "external_orderno": "S202401010002"}})
    assert isinstance(outcome, Unclear)
    assert outcome.doubt is Doubt.CONTRADICTION


# --- Order detail -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (-1, Refused(code="-1", message="not paid from our deposit", certain=True, about=RefusedFor.BALANCE)),
        (1, Accepted(supplier_reference=REFERENCE, cost=COST)),
        (2, Accepted(supplier_reference=REFERENCE, cost=COST)),
        (3, Delivered(cards=(ONE_CARD,), cost=COST, supplier_reference=REFERENCE)),
        (4, Refunded(amount=yuan(0), cost=COST)),
        (5, Refunded(amount=yuan(0), cost=COST)),
        (6, Unclear("unknown status '6'")),
    ],
)
def test_states_of_a_card_order(status: int, outcome: Outcome, as_text: bool) -> None:
    """Each state has one meaning; cards of an order that isn't done are not delivered."""
    order = {**ORDER, "status": str(status) if as_text else status}
    assert looked(listing(order)) == looked({"code": 200, "data": order}) == outcome


@pytest.mark.parametrize(
    ("amounts", "refund"),
    [
        ({"total_price": "2.00", "has_back_money": "2.000"}, Refunded(amount=COST, cost=COST)),
        ({"total_price": 2, "has_back_money": 0.5}, Refunded(amount=yuan("0.5"), cost=COST)),
        ({"total_price": "2.0000", "has_back_money": ""}, Refunded(cost=COST)),
        ({"total_price": None, "has_back_money": "x"}, Refunded()),
        ({"total_price": [], "has_back_money": -1}, Refunded()),
    ],
)
def test_refunds_tell_their_amounts(amounts: dict[str, object], refund: Refunded) -> None:
    """Amounts are passed on as far as they can be read, so that a partial refund shows."""
    for status in (4, 5):
        assert looked(listing({**ORDER, "status": status, **amounts})) == refund


@pytest.mark.parametrize(
    ("listed", "cards"),
    [
        ([{"card_no": "", "card_password": "p"}], (Card(kind=CardKind.CODE, secret="p"),)),
        ([{"card_no": "n"}], (Card(kind=CardKind.CODE, number="n"),)),
        (["whole card"], (Card(kind=CardKind.CODE, secret="whole card"),)),
        (
            [{"card_no": 1, "card_password": 2, "end_time": "2029-04-28 23:59:59"}],
            (Card(kind=CardKind.NUMBER_AND_SECRET, number="1", secret="2", valid_until=date(2029, 4, 28)),),
        ),
        (["a", "b"], (Card(kind=CardKind.CODE, secret="a"), Card(kind=CardKind.CODE, secret="b"))),
    ],
)
def test_cards_are_read_in_every_known_shape(listed: list[object], cards: tuple[Card, ...]) -> None:
    """Objects and plain texts are cards, and none is left out."""
    outcome = looked(listing({**ORDER, "card_list": listed}))
    assert outcome == Delivered(cards=cards, cost=COST, supplier_reference=REFERENCE)


@pytest.mark.parametrize("listed", [None, [], "", {}])
def test_done_without_cards_is_still_waiting(listed: object) -> None:
    """Cards may come after the state says done."""
    outcome = looked(listing({**ORDER, "card_list": listed}))
    assert isinstance(outcome, Accepted)


def test_a_short_list_is_incomplete() -> None:
    """Fewer cards than ordered are handed over as such."""
    outcome = looked(listing(ORDER), replace(CARD, quantity=2))
    assert outcome == Delivered(cards=(ONE_CARD,), complete=False, cost=COST, supplier_reference=REFERENCE)


@pytest.mark.parametrize("listed", [[None], [{}], [""], ["a", {"card_no": []}], {"card_no": "a"}, "a", 7])
def test_unreadable_cards_are_unclear(listed: object) -> None:
    """No part of a list that can't be read is delivered."""
    assert isinstance(looked(listing({**ORDER, "card_list": listed})), Unclear)


def test_virtual_goods_deliver_without_cards() -> None:
    """Done means done for a top-up; cards would contradict it."""
    assert looked(listing({**ORDER, "card_list": []}), TOPUP) == Delivered(cost=COST, supplier_reference=REFERENCE)
    outcome = looked(listing(ORDER), TOPUP)
    assert isinstance(outcome, Unclear)
    assert outcome.doubt is Doubt.CONTRADICTION


def test_orders_are_matched_by_number() -> None:
    """In a list of several orders each purchase finds its own; one that isn't listed is absent."""
    second, third = replace(CARD, number="S2"), replace(CARD, number="S3")
    reply = HttpReply(200, as_bytes(listing({**ORDER, "external_orderno": "S3", "status": 1}, ORDER)))
    outcomes = asked(CARD, second, third).read(reply)
    assert outcomes == {
        "S202401010001": Delivered(cards=(ONE_CARD,), cost=COST, supplier_reference=REFERENCE),
        "S2": Absent("not in the list"),
        "S3": Accepted(supplier_reference=REFERENCE, cost=COST),
    }


def test_absence_in_both_documented_forms() -> None:
    """An empty list and the text both say that the number isn't known."""
    assert looked(listing()) == Absent("not in the list")
    for status in (200, 400):
        assert looked({"code": 400, "msg": "订单不存在"}, status=status) == Absent("订单不存在")


def test_absence_is_not_concluded_from_what_cannot_be_read() -> None:
    """An unreadable entry may be the missing order, and one text can't say which of several is missing."""
    for entry in (None, {}, {"external_orderno": None}, "S202401010001"):
        assert isinstance(looked(listing(entry)), Unclear)
    outcomes = asked(CARD, replace(CARD, number="S2")).read(
        HttpReply(200, as_bytes({"code": 400, "msg": "订单不存在"}))
    )
    assert [type(outcome) for outcome in outcomes.values()] == [Unclear, Unclear]


def test_two_orders_under_one_number_are_a_contradiction() -> None:
    """A number that was bought twice, or whose order changed its name, is for a person to look at."""
    renamed = replace(CARD, supplier_reference="API0")
    for outcome in (looked(listing(ORDER, ORDER)), looked(listing(ORDER), renamed)):
        assert isinstance(outcome, Unclear)
        assert outcome.doubt is Doubt.CONTRADICTION


# --- Callbacks --------------------------------------------------------------------------------------------------------

GOOD = {**json.loads(S6), "sign": VECTORS["S6"][2]}


def called(fields: dict[str, Any], as_form: bool = False, config: Config = CONFIG) -> Notice | CallbackRefused:
    body = urlencode(fields) if as_form else json.dumps(fields)
    notice = Kasushou(config).read_callback(Callback(body.encode()))
    assert isinstance(notice, Notice | CallbackRefused)
    return notice


@pytest.mark.parametrize(("time", "name"), [("1704067210789", "S6"), ("1704067230789", "S6r"), ("1704067210789", "S7")])
def test_callback_texts_are_rebuilt_exactly(time: str, name: str) -> None:
    """The signed text is rebuilt byte for byte: sorted, slashes escaped, types kept, unsigned fields left out."""
    signed = json.loads(VECTORS[name][1])
    fields = {"sign": "x", "card_list": ["a/b"], "express_list": "c/d", **dict(reversed(signed.items()))}
    assert callback_body(fields, "escaped") == VECTORS[name][1].encode()
    assert timed_body_sha1(time, callback_body(fields, "escaped"), APIKEY) == VECTORS[name][2]


@pytest.mark.parametrize(
    ("fields", "as_form"),
    [
        (GOOD, False),
        (GOOD, True),
        ({**GOOD, "sign": VECTORS["S6x"][2]}, False),
        ({**GOOD, "sign": GOOD["sign"].upper()}, True),
        ({**GOOD, "status": 3, "sign": VECTORS["S7"][2]}, False),
        ({**json.loads(S6R), "sign": VECTORS["S6r"][2]}, True),
        ({**GOOD, "card_list": [{"card_no": "forged", "card_password": "forged"}]}, False),
        ({**GOOD, "card_list": '[{"card_no":"a"}]', "express_list": ""}, True),
    ],
)
def test_a_genuine_callback_is_a_reason_to_look(fields: dict[str, Any], as_form: bool) -> None:
    """A verified callback names the order and tells nothing else: its cards are unsigned."""
    notice = called(fields, as_form)
    assert isinstance(notice, Notice)
    assert (notice.number, notice.supplier_reference, notice.outcome) == ("S202401010001", REFERENCE, None)
    assert (notice.accepted.body, notice.unknown.body) == (b"ok", b"ok")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        json.loads(S6),
        {**GOOD, "sign": ""},
        {**GOOD, "sign": None},
        {**GOOD, "sign": VECTORS["S6r"][2]},
        {**GOOD, "status": "5"},
        {**GOOD, "external_orderno": "S202401010002"},
        {**GOOD, "time": "1704067210790"},
        {**GOOD, "extra": "x"},
        {**GOOD, "recharge_hints": "\ud800"},
        {**json.loads(S6), "sign": timed_body_sha1("1704067210789", S6.encode(), "another key")},
        {**json.loads(VECTORS["S8"][1]), "sign": VECTORS["S8"][2]},
    ],
)
def test_forged_callbacks_change_nothing(fields: dict[str, Any]) -> None:
    """A wrong or missing signature, or a callback about no order, is not answered "ok"."""
    refused = called(fields)
    assert isinstance(refused, CallbackRefused)
    assert refused.answer.body != b"ok"


def test_verification_follows_the_account() -> None:
    """Where only the manual's slashes are allowed others fail, and unknown orders may be left for repeats."""
    strict = replace(CONFIG, callback_slash_modes=("escaped",), ack_unknown_order=False)
    assert isinstance(called({**GOOD, "sign": VECTORS["S6x"][2]}, config=strict), CallbackRefused)
    notice = called(GOOD, config=strict)
    assert isinstance(notice, Notice)
    assert (notice.accepted.body, notice.unknown.body) == (b"ok", b"fail")


# --- Whatever comes ---------------------------------------------------------------------------------------------------

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["code", "data", "msg", "card_list"]), inner)
    ),
)
ORDERS = st.fixed_dictionaries(
    {"external_orderno": st.just("S202401010001"), "status": st.sampled_from([1, 3, "3", 5]) | JSON_VALUES},
    optional=dict.fromkeys(("ordersn", "total_price", "has_back_money", "card_list"), JSON_VALUES),
)
ANSWERS = JSON_VALUES | st.fixed_dictionaries(
    {"code": st.sampled_from([200, "200", 400]), "data": st.lists(ORDERS, max_size=2) | ORDERS, "msg": JSON_VALUES}
)


@given(body=st.binary(), answer=ANSWERS, status=st.sampled_from([200, 400, 500]))
def test_no_answer_raises_or_invents_a_card(body: bytes, answer: object, status: int) -> None:
    """Reading is total: every bytes has an outcome, and no card text appears that the shop didn't send."""
    for purchase in (CARD, TOPUP):
        for posted in (body, as_bytes(json.dumps(answer).encode())):
            for outcome in (said(posted, purchase, status), looked(posted, purchase, status)):
                if isinstance(outcome, Delivered):
                    sent = set(leaves(answer)) | {""}
                    assert bool(outcome.cards) is purchase.product_kind.delivers_cards
                    for card in outcome.cards:
                        assert {card.number, card.secret} <= sent
                        assert card.number or card.secret


@given(body=st.binary(), fields=JSON_VALUES)
def test_no_callback_raises_or_passes_unsigned(body: bytes, fields: object) -> None:
    """Whatever is posted to the callback route is refused unless it carries the signature."""
    for posted in (body, json.dumps(fields).encode()):
        assert isinstance(SUPPLIER.read_callback(Callback(posted)), CallbackRefused)
