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
    CancelAnswer,
    CancelRefused,
    CancelTaken,
    Card,
    CardKind,
    Context,
    Dealer,
    Delivered,
    Doubt,
    FormEntry,
    HttpReply,
    Listing,
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
    SupplierProduct,
    Unclear,
)
from reward_adapters.kasushou import Config, Kasushou, callback_body, request_body, timed_body_sha1
from reward_adapters.money import Money, yuan

APIKEY = "H0YnuPpcVtx7rQdMTbjN6932s5oDOqFa"
CONFIG = Config(base_url="https://shop.example", user_id="10000", apikey=APIKEY)
SUPPLIER: Dealer = Kasushou(CONFIG)
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


@pytest.mark.parametrize(
    ("limit", "quantity", "mode", "written"),
    [
        ("98.5099", 1, "unit", "98.50"),
        ("98.5099", 3, "unit", "98.50"),
        ("98.5099", 3, "total", "295.52"),
        ("0.0050", 2, "total", "0.01"),
        ("0.01", 1, "unit", "0.01"),
    ],
)
@pytest.mark.rule("O10")
def test_safe_price_is_the_limit_rounded_down(limit: str, quantity: int, mode: str, written: str) -> None:
    """Of one unit or of all, and never above what may be paid."""
    config = TypeAdapter(Config).validate_python({**vars(CONFIG), "safe_price_mode": mode})
    purchase = replace(CARD, unit_limit=yuan(limit), quantity=quantity)
    assert json.loads(placed(purchase, config).request.body)["safe_price"] == written


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
    assert SUPPLIER.fetch_token(CONTEXT) == NotOffered("access tokens")


def test_the_configuration_is_checked() -> None:
    """An account is built from plain values; words outside closed sets are refused."""
    assert load_adapter("kasushou").config is Config
    accounts = TypeAdapter(Config)
    config = accounts.validate_python({**vars(CONFIG), "callback_slash_modes": ["raw"], "not_found_texts": ["无此单"]})
    assert (config.callback_slash_modes, config.not_found_texts) == (("raw",), ("无此单",))
    for wrong in ({"safe_price_mode": "each"}, {"callback_slash_modes": ["none"]}, {"query_day": "a month"}):
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
    look = asked(CARD).read(HttpReply(429, as_bytes({"code": 400, "msg": "x"}), {"retry-after": "30"}))
    assert look == {CARD.number: limited}
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


def test_one_card_may_stand_there_without_its_list() -> None:
    """An object in place of the list is one card."""
    assert looked(listing({**ORDER, "card_list": {"card_no": "n1", "card_password": "p1"}})) == looked(listing(ORDER))


@pytest.mark.parametrize("info", ["账号：10001", None, [{"n": "账号", "v": "10001", "k": "recharge_account", "t": 1}]])
def test_what_was_submitted_may_come_back_in_any_shape(info: object) -> None:
    """Nothing is read of it, so nothing of it can confuse."""
    assert looked(listing({**ORDER, "recharge_info": info})) == looked(listing(ORDER))


@pytest.mark.parametrize("listed", [None, [], "", {}])
def test_done_without_cards_is_still_waiting(listed: object) -> None:
    """Cards may come after the state says done."""
    outcome = looked(listing({**ORDER, "card_list": listed}))
    assert isinstance(outcome, Accepted)


def test_a_short_list_is_incomplete() -> None:
    """Fewer cards than ordered are handed over as such."""
    outcome = looked(listing(ORDER), replace(CARD, quantity=2))
    assert outcome == Delivered(cards=(ONE_CARD,), complete=False, cost=COST, supplier_reference=REFERENCE)


@pytest.mark.parametrize("listed", [[None], [{}], [""], ["a", {"card_no": []}], {"0": {"card_no": "a"}}, "a", 7])
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


# --- After success ----------------------------------------------------------------------------------------------------


def test_delivered_orders_are_watched_for_a_week() -> None:
    """A shop may take an order back after success: every 12 hours, for 7 days, and success says nothing final."""
    assert (SUPPLIER.traits.aftersale_watch, SUPPLIER.traits.aftersale_every) == (7 * 86400.0, 12 * 3600.0)
    outcome = looked(listing(ORDER))
    assert isinstance(outcome, Delivered)
    assert not outcome.settled


# --- Cancel -----------------------------------------------------------------------------------------------------------

TAKEN = replace(CARD, supplier_reference=REFERENCE)


def closed(answer: object, purchase: Purchase = TAKEN, status: int = 200) -> CancelAnswer:
    call = SUPPLIER.cancel(purchase, CONTEXT)
    assert isinstance(call, Call)
    return call.read(HttpReply(status, as_bytes(answer)))


def test_a_cancel_names_the_shops_number_and_no_card() -> None:
    """The request has `ordersn` alone; while that isn't known nothing can be cancelled."""
    call = SUPPLIER.cancel(TAKEN, CONTEXT)
    assert isinstance(call, Call)
    assert call.request.url == "https://shop.example/api/v1/order/close"
    assert call.request.body == b'{"ordersn":"API091952628603547942912"}'
    assert call.request.headers["Sign"] == timed_body_sha1("1704067200456", call.request.body, APIKEY)
    assert isinstance(SUPPLIER.cancel(CARD, CONTEXT), NotOffered)


@pytest.mark.parametrize(
    "answer", [{"code": 200, "msg": "操作成功"}, {"code": "200", "message": "操作成功", "data": []}]
)
def test_a_cancel_is_only_taken_note_of(answer: object) -> None:
    """Success proves nothing about the order: the callback or a look does."""
    assert closed(answer) == CancelTaken(detail="操作成功")


def test_a_cancel_that_is_refused_leaves_the_order_as_it_is() -> None:
    """Code 400 with a text, whatever the HTTP status mirrors; what a customer typed stays out of it."""
    for status in (200, 400):
        assert closed({"code": 400, "msg": "订单已完成"}, status=status) == CancelRefused(detail="code 400: 订单已完成")
    topup = replace(TOPUP, supplier_reference=REFERENCE)
    assert closed({"code": 400, "msg": "10001 已充值"}, topup) == CancelRefused(detail="code 400: *** 已充值")


def test_a_cancel_that_is_refused_because_of_us_had_no_effect() -> None:
    """Texts and statuses as everywhere."""
    assert closed({"code": 400, "msg": "rate limit exceeded"}) == NotSent(
        cause=NotSentCause.RATE_LIMITED, detail="rate limit exceeded"
    )
    assert closed({"code": 400, "msg": "签名错误"}) == NotSent(cause=NotSentCause.CONFIGURATION, detail="签名错误")
    assert closed(b"", status=401) == NotSent(cause=NotSentCause.CONFIGURATION, detail="HTTP 401")
    assert closed(b"", status=429) == NotSent(cause=NotSentCause.RATE_LIMITED, detail="HTTP 429")


@pytest.mark.parametrize("answer", [b"", b"<html>", [], {}, {"code": 500}, {"code": 1}, {"msg": "操作成功"}])
def test_a_cancel_that_is_not_understood_is_unclear(answer: object) -> None:
    """Only a look tells what became of the order."""
    assert isinstance(closed(answer), Unclear)
    assert isinstance(closed({"code": 200, "msg": ""}, status=502), Unclear)


# --- The deposit, products and forms ----------------------------------------------------------------------------------

GOODS = {
    "id": 2909,
    "goods_name": "QQ币 10个",
    "goods_img": "",
    "goods_type": 2,
    "face_value": "10.00",
    "goods_price": "9.6500",
    "status": 1,
    "stock_num": 12,
    "start_count": 1,
    "end_count": "50",
}
READ = SupplierProduct(
    number="2909",
    name="QQ币 10个",
    price=yuan("9.65"),
    stock=12,
    on_sale=True,
    details={"type": "virtual", "face_value": "10.00", "least": "1", "most": "50"},
)
FIELD = {
    "type": "text",
    "name": "充值账号",
    "key": "recharge_account",
    "vali": "required",
    "tip": "QQ号",
    "options": "",
}


def question(call: Call[Any] | NotOffered) -> Call[Any]:
    assert isinstance(call, Call)
    return call


def answered(call: Call[Any] | NotOffered, answer: object, status: int = 200) -> Any:
    return question(call).read(HttpReply(status, as_bytes(answer)))


def told(call: Call[Any] | NotOffered, data: object) -> Any:
    return answered(call, {"code": 200, "msg": "操作成功", "data": data})


def questions() -> tuple[Call[Any] | NotOffered, ...]:
    return (
        SUPPLIER.balance(CONTEXT),
        SUPPLIER.products(CONTEXT),
        SUPPLIER.product("2909", CONTEXT),
        SUPPLIER.order_form("2909", CONTEXT),
    )


@pytest.mark.parametrize(
    ("call", "path", "body"),
    [
        (SUPPLIER.balance(CONTEXT), "/api/v1/user/info", b"{}"),
        (SUPPLIER.products(CONTEXT, page=3), "/api/v1/goods/list", b'{"limit":100,"page":3}'),
        (SUPPLIER.product("2909", CONTEXT), "/api/v1/goods/info", b'{"id":2909}'),
        (SUPPLIER.order_form("2909", CONTEXT), "/api/v1/goods/attach", b'{"goods_id":"2909"}'),
    ],
)
def test_questions_are_signed_as_they_are_sent(call: Call[Any] | NotOffered, path: str, body: bytes) -> None:
    """Empty is `{}`, a product is a number in one call and a text in the other."""
    request = question(call).request
    assert (request.url, request.body) == (f"https://shop.example{path}", body)
    assert request.headers["Sign"] == timed_body_sha1("1704067200456", body, APIKEY)


@pytest.mark.parametrize(
    ("said", "left"), [("8888.88", yuan("8888.88")), (12.5, yuan("12.5")), (0, Money(0)), ("-3.1", Money(-31_000))]
)
def test_the_deposit_is_yuan(said: object, left: Money) -> None:
    """Text or number, and it may be less than nothing."""
    assert told(SUPPLIER.balance(CONTEXT), {"balance": said, "username": "x"}) == left


@pytest.mark.parametrize("data", [None, [], {}, "8888.88", {"balance": None}, {"balance": "much"}, {"balance": True}])
def test_an_unreadable_deposit_is_unclear(data: object) -> None:
    """No amount is made up."""
    assert isinstance(told(SUPPLIER.balance(CONTEXT), data), Unclear)


def test_products_are_read_in_every_known_shape() -> None:
    """A list with a total, a bare array, and `data` inside `data`; entries that can't be read are left out."""
    other = {**GOODS, "id": "2910"}
    for data in (
        {"list": [GOODS, other], "total": 2},
        [GOODS, None, {"id": "x"}, other],
        {"data": [GOODS, other]},
        {"data": {"list": [GOODS, other], "total": "2"}},
    ):
        assert told(SUPPLIER.products(CONTEXT), data) == Listing(products=(READ, replace(READ, number="2910")))
    assert told(SUPPLIER.products(CONTEXT), []) == Listing(products=())
    assert told(SUPPLIER.products(CONTEXT), {"list": [], "total": 0}) == Listing(products=())
    for strange in (None, {}, "x", [None], {"list": "x"}, [{"goods_name": "x"}]):
        assert isinstance(told(SUPPLIER.products(CONTEXT), strange), Unclear)


def test_a_next_page_is_told_by_the_total_or_by_a_full_page() -> None:
    """An empty page is the last one whatever the total says, and a longer one than asked for has no next."""
    hundred = [{**GOODS, "id": number} for number in range(1, 101)]
    for page, data, more in (
        (1, hundred, True),
        (1, hundred[:99], False),
        (1, [*hundred, GOODS], False),
        (1, {"list": hundred, "total": 101}, True),
        (2, {"list": [GOODS], "total": 101}, False),
        (3, {"list": [], "total": 1000}, False),
    ):
        assert told(SUPPLIER.products(CONTEXT, page=page), data).more is more


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        ({"status": 2}, replace(READ, on_sale=False)),
        ({"status": "3"}, replace(READ, on_sale=False)),
        ({"status": None}, replace(READ, on_sale=None)),
        ({"goods_price": 9.65, "stock_num": "12"}, READ),
        ({"goods_price": "", "stock_num": None}, replace(READ, price=None, stock=None)),
        ({"goods_name": " QQ币\n10个 "}, READ),
    ],
)
def test_a_product_tells_whether_it_can_be_bought(changes: dict[str, Any], read: SupplierProduct) -> None:
    """Values of other types are tolerated, and what can't be read is left open."""
    one = {**GOODS, **changes, "attach": [FIELD], "goods_info": "<p>…</p>"}
    for data in (one, [one], {"data": one}):
        assert told(SUPPLIER.product("2909", CONTEXT), data) == read


def test_an_unknown_product_is_absent_and_another_one_is_unclear() -> None:
    """By an empty list or by a text; a number that no shop has isn't asked for."""
    ask = SUPPLIER.product("2909", CONTEXT)
    assert told(ask, []) == Absent("an empty list")
    for status in (200, 400):
        assert answered(ask, {"code": 400, "msg": "商品不存在"}, status) == Absent("商品不存在")
    assert isinstance(answered(ask, {"code": 400, "msg": "商品不存在"}, 502), Unclear)
    for data in (None, {}, {**GOODS, "id": 2910}, [GOODS, GOODS], "x"):
        assert isinstance(told(ask, data), Unclear)
    assert isinstance(SUPPLIER.product("jd", CONTEXT), NotOffered)


def test_a_form_names_what_the_buyer_must_say() -> None:
    """Keys, labels and hints; which fields may stay empty; the options where exactly one is taken."""
    template = [
        FIELD,
        {"type": "select", "name": "区服", "key": "lblName1", "vali": 1, "options": '["电信","移动",3]'},
        {"type": "radio", "key": "lblName2", "vali": "", "options": '[{"name":"男","value":"m"},{"value":"f"}]'},
        {"type": "checkbox", "key": "lblName3", "vali": "0", "options": '["a","b"]'},
        {"type": "select", "key": "lblName4", "vali": "phone", "options": "a|b"},
        {"type": "select", "key": "lblName5", "options": ["x"]},
    ]
    form = (
        FormEntry(key="recharge_account", label="充值账号", hint="QQ号"),
        FormEntry(key="lblName1", label="区服", options=("电信", "移动", "3")),
        FormEntry(key="lblName2", label="lblName2", required=False, options=("m", "f")),
        FormEntry(key="lblName3", label="lblName3", required=False),
        FormEntry(key="lblName4", label="lblName4"),
        FormEntry(key="lblName5", label="lblName5", required=False, options=("x",)),
    )
    for data in (template, {"list": template}, {"data": template}):
        assert told(SUPPLIER.order_form("2909", CONTEXT), data) == form


@pytest.mark.parametrize(
    ("vali", "required"),
    [
        *((value, True) for value in ("required", "required|phone", "phone", "1", "必填", 1, True)),
        *((value, False) for value in ("选填", "可选", "Optional", "nullable", "nullable|phone", "0", "false")),
        *((value, False) for value in (" ", 0, False, None)),
    ],
)
def test_a_field_that_may_stay_empty_is_known_by_its_check(vali: object, required: bool) -> None:
    """In the words of shops and of their frameworks; a field with any other check must be filled."""
    (entry,) = told(SUPPLIER.order_form("2909", CONTEXT), [{**FIELD, "vali": vali}])
    assert entry.required is required


@pytest.mark.parametrize("data", [[], None, {}, {"list": []}])
def test_cards_have_an_empty_form(data: object) -> None:
    """An empty template asks for nothing."""
    assert told(SUPPLIER.order_form("2909", CONTEXT), data) == ()


@pytest.mark.parametrize("data", ["x", [None], [{}], [FIELD, {"name": "no key"}], {"key": "a"}, 7])
def test_a_form_that_is_not_understood_is_unclear(data: object) -> None:
    """Half a form would refuse good orders or let bad ones through unseen."""
    assert isinstance(told(SUPPLIER.order_form("2909", CONTEXT), data), Unclear)


@pytest.mark.parametrize(
    "options", ["", "[", "{}", '{"a":"b"}', "[[1]]", '[{"name":"a"}]', '["\\ud800"]', None, 7, "[" * 100_000]
)
def test_options_that_cannot_be_read_let_any_value_through(options: object) -> None:
    """The shop checks once more."""
    (entry,) = told(SUPPLIER.order_form("2909", CONTEXT), [{**FIELD, "type": "select", "options": options}])
    assert entry.options == ()


def test_questions_that_are_refused_because_of_us_had_no_effect() -> None:
    """Signature, address and rate are read as everywhere, and other failures tell nothing."""
    for call in questions():
        assert answered(call, {"code": 400, "msg": "签名错误"}).cause is NotSentCause.CONFIGURATION
        assert answered(call, {"code": 400, "msg": "rate limit exceeded"}).cause is NotSentCause.RATE_LIMITED
        assert answered(call, b"", 401).cause is NotSentCause.CONFIGURATION
        assert answered(call, b"", 429).cause is NotSentCause.RATE_LIMITED
        unclear: list[object] = [b"", b"<html>", [], {"code": 200}, {"code": 500, "data": [GOODS]}, {"code": 400}]
        assert all(isinstance(answered(call, answer), Unclear) for answer in unclear)
        assert isinstance(answered(call, {"code": 200, "data": [GOODS]}, 502), Unclear)


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
    """A wrong or missing signature, or a callback about no order, is refused."""
    assert isinstance(called(fields), CallbackRefused)


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


FORMS = st.lists(
    st.dictionaries(st.sampled_from([*FIELD, *GOODS]), st.sampled_from(["select", "radio", "[1]"]) | JSON_VALUES)
)


@given(body=st.binary(), answer=ANSWERS, data=JSON_VALUES | FORMS, status=st.sampled_from([200, 400, 500]))
def test_no_answer_to_a_question_or_a_cancel_raises(body: bytes, answer: object, data: object, status: int) -> None:
    """Reading is total: what isn't understood is unclear, and a product that is shown is the one asked for."""
    for posted in (body, json.dumps(answer).encode(), json.dumps({"code": 200, "data": data}).encode()):
        assert isinstance(closed(posted, status=status), CancelTaken | CancelRefused | NotSent | Unclear)
        deposit, goods, product, form = (answered(call, posted, status) for call in questions())
        assert isinstance(deposit, int | NotSent | Unclear)
        assert isinstance(goods, Listing | NotSent | Unclear)
        assert isinstance(product, Absent | NotSent | Unclear) or product.number == "2909"
        assert isinstance(form, tuple | NotSent | Unclear)


@given(body=st.binary(), fields=JSON_VALUES)
def test_no_callback_raises_or_passes_unsigned(body: bytes, fields: object) -> None:
    """Whatever is posted to the callback route is refused unless it carries the signature."""
    for posted in (body, json.dumps(fields).encode()):
        assert isinstance(SUPPLIER.read_callback(Callback(posted)), CallbackRefused)
