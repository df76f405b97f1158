"""Dushu: what is written and signed, and what every kind of answer means."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

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
    Recipient,
    RecipientKind,
    Refused,
    RefusedFor,
    SupplierProduct,
    Token,
    Unclear,
)
from reward_adapters.dushu import Config, Dushu, salted_body_sha1
from reward_adapters.money import yuan

APPID = "fd0cac7cd6726d211f"
APPSECRET = "ca70d1f641c7fc2b3b9fd1fbaa87e646b83014a0"
CONFIG = Config(base_url="https://dushu.example", appid=APPID, appsecret=APPSECRET, pay_type="2")
SUPPLIER: Dealer = Dushu(CONFIG)
CONTEXT = Context(now=datetime(2024, 1, 1, tzinfo=UTC), token="eyJ.token+/")
PURCHASE = Purchase(
    number="DS202401010001",
    product_kind=ProductKind.MEMBERSHIP,
    supplier_product="200000148",
    quantity=1,
    recipient=Recipient(RecipientKind.PHONE, "15888888888", area_code="+86"),
    unit_cost=yuan(365),
    unit_limit=yuan(400),
)
ORDER = {
    "tradeNo": "DS202401010001",
    "orderNumber": 1717280009200691422,
    "orderStatus": "COMPLETE",
    "createTime": 1566386498626,
    "userId": 12,
    "totalFee": 365.0,
    "productId": 200000148,
    "productName": "年卡",
    "payType": "2",
}


def placed(purchase: Purchase = PURCHASE, config: Config = CONFIG) -> Call[Outcome]:
    call = Dushu(config).place(purchase, CONTEXT)
    assert isinstance(call, Call)
    return call


def as_bytes(answer: object) -> bytes:
    return answer if isinstance(answer, bytes) else json.dumps(answer, ensure_ascii=False).encode()


def said(answer: object, purchase: Purchase = PURCHASE, status: int = 200, config: Config = CONFIG) -> Outcome:
    return placed(purchase, config).read(HttpReply(status, as_bytes(answer)))


def looked(answer: object, purchase: Purchase = PURCHASE, status: int = 200) -> Outcome:
    call = SUPPLIER.query([purchase], CONTEXT)
    assert isinstance(call, Call)
    outcomes = call.read(HttpReply(status, as_bytes(answer)))
    assert list(outcomes) == [purchase.number]
    return outcomes[purchase.number]


def success(data: object) -> dict[str, object]:
    return {
        "data": data,
        "msg": "操作成功！",
        "status": "0000",
        "systemMsg": "服务调用成功！",
        "systemTime": 1566386498626,
    }


def failure(code: object, msg: str = "失败") -> dict[str, object]:
    return {"msg": msg, "status": code, "suceess": False, "systemMsg": "服务调用失败！", "systemTime": 1566386776919}


# --- Signature and requests -------------------------------------------------------------------------------------------

D1 = (
    b'{\r\n    "mobile": "15888888888",\r\n    "areaCode":"+86",\r\n    "productNo": 200000403,\r\n'
    b'    "fee":188.00,\r\n    "tradeNo": 123446789,\r\n    "payType": "test"\r\n}'
)
D5 = (
    b'{"mobile":"15888888888","areaCode":"+86","productNo":200000148,"buyCount":1,"fee":365.00,'
    b'"tradeNo":"DS202401010001","payType":"2"}'
)
D3 = (
    b'{"mobile":"15888888888","areaCode":"+86","productNo":200000403,"fee":188.00,"tradeNo":123446789,"payType":"test"}'
)
VECTORS = {
    "D1": (D1, "0d18f45ae06ca4185ea4320a22bfa5353b4c8c91"),
    "D2": (D1.replace(b"\r\n", b"\n"), "9ca38f351a9695dab78b3a1656d641954da57447"),
    "D3": (D3, "a50065baacca1e93ba6ed7162dfed79db7e18e98"),
    "D4": (D1.replace(b"123446789", b"1234522289"), "3715aa3fcc766ee673a9f3f391a6ee608fe0d29f"),
    "D5": (D5, "64370fe9a18019f55a94bc02c5bf47e5d91dd7be"),
    "D6": (b'{"tradeNo":"DS202401010001"}', "08beda1f205234e4e48ea48e03ff92fa37914da4"),
    "D7": (b"", "0aca26abd3fadbac8112afa74029694805d51e1b"),
    "D8": (b"{}", "8541ee61c61c809db25a0440266139cfb98653c2"),
    "D9": ('{"tradeNo":"订单-1"}'.encode(), "fef768b8588f27566fbfbd8835b10c2afbe13646"),
}


@pytest.mark.parametrize(("body", "sign"), VECTORS.values(), ids=VECTORS)
def test_signatures_are_exact(body: bytes, sign: str) -> None:
    """Every known signature comes out digit for digit, and every byte of the body counts."""
    assert salted_body_sha1(APPSECRET, body, APPID) == sign


def test_the_secret_goes_first() -> None:
    """The digest of body, app id and secret in that order is not a signature."""
    assert salted_body_sha1(APPSECRET, D1, APPID) != "97d1b5d6346c8deb4b0f697867eb300c6b67b509"


def test_a_purchase_is_signed_as_it_is_sent() -> None:
    """The body's bytes are the signed ones; fee is a number with two decimals, our number a text."""
    request = placed().request
    assert request.body == D5
    assert dict(parse_qsl(urlsplit(request.url).query)) == {
        "appid": APPID,
        "sign": VECTORS["D5"][1],
        "access_token": "eyJ.token+/",
    }
    assert request.safe_url == "https://dushu.example/vip/order/create"


@pytest.mark.parametrize(
    ("purchase", "mode", "fee"),
    [
        (replace(PURCHASE, unit_cost=yuan("0.1"), unit_limit=yuan(9)), "unit", "0.10"),
        (replace(PURCHASE, unit_cost=yuan("98.5051")), "unit", "98.5051"),
        (replace(PURCHASE, quantity=3), "unit", "365.00"),
        (replace(PURCHASE, quantity=3), "total", "1095.00"),
    ],
)
@pytest.mark.rule("O10")
def test_fee_is_the_expected_cost(purchase: Purchase, mode: str, fee: str) -> None:
    """The agreed price is sent to the last digit, never the limit, of one unit or of all as the account says."""
    config = TypeAdapter(Config).validate_python({**vars(CONFIG), "fee_mode": mode})
    body = placed(purchase, config).request.body
    assert f'"fee":{fee},'.encode() in body
    assert json.loads(body, parse_float=Decimal)["fee"] == Decimal(fee)


def test_a_look_asks_for_one_number() -> None:
    """The order detail is asked by our number, signed like everything else."""
    call = SUPPLIER.query([PURCHASE], CONTEXT)
    assert isinstance(call, Call)
    assert (call.request.safe_url, call.request.body) == ("https://dushu.example/vip/order/detail", VECTORS["D6"][0])
    assert VECTORS["D6"][1] in call.request.url


@pytest.mark.parametrize(
    ("purchase", "topic"),
    [
        (replace(PURCHASE, number="D" * 33), RefusedFor.OTHER),
        (replace(PURCHASE, supplier_product="vip"), RefusedFor.PRODUCT),
        (replace(PURCHASE, supplier_product="9" * 5000), RefusedFor.PRODUCT),
        (replace(PURCHASE, product_kind=ProductKind.CARD), RefusedFor.PRODUCT),
        (replace(PURCHASE, recipient=None), RefusedFor.RECIPIENT),
        (replace(PURCHASE, recipient=Recipient(RecipientKind.QQ, "12345")), RefusedFor.RECIPIENT),
    ],
)
def test_what_the_wire_cannot_say_is_refused_before_it_is_sent(purchase: Purchase, topic: RefusedFor) -> None:
    """A purchase that the fields can't hold is refused for certain, without an exchange."""
    refused = SUPPLIER.place(purchase, CONTEXT)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.certain, refused.about) == ("LOCAL", True, topic)


def test_a_phone_number_without_area_code_gets_the_accounts() -> None:
    """The area code is the recipient's, or else the account's."""
    bare = replace(PURCHASE, recipient=Recipient(RecipientKind.PHONE, "15888888888"))
    assert b'"areaCode":"+852"' in placed(bare, replace(CONFIG, area_code="+852")).request.body
    assert b'"areaCode":"+86"' in placed(config=replace(CONFIG, area_code="+852")).request.body


def test_secrets_do_not_print() -> None:
    """Neither the account nor a request shows its secret."""
    assert APPSECRET not in repr(CONFIG)
    assert "eyJ" not in repr(placed().request)
    token = SUPPLIER.fetch_token(CONTEXT)
    assert isinstance(token, Call)
    assert APPSECRET not in repr(token)


def test_the_configuration_is_checked() -> None:
    """An account is built from plain values; a word outside a closed set is refused."""
    assert load_adapter("dushu").config is Config
    with pytest.raises(ValidationError):
        TypeAdapter(Config).validate_python({**vars(CONFIG), "fee_mode": "each"})


ALL_KEYS: dict[str, Any] = {
    "base_url": "https://dushu.example",
    "appid": APPID,
    "appsecret": APPSECRET,
    "pay_type": "3",
    "area_code": "+852",
    "fee_mode": "total",
    "verify_on_2005": False,
    "ambiguous_codes": ["2004", 9999],
    "not_found_codes": ["0006", "0007"],
    "order_path": "/order",
    "detail_path": "/detail",
    "list_path": "/list",
    "token_path": "/token",
    "empty_body_mode": "braces",
    "gateway_http_status": {"0007": 404, "2001": 401, "2005": 400},
}


def test_every_key_is_accepted_and_acts() -> None:
    """Paths and codes of the account are the ones that are used, and a code may come with its own HTTP status."""
    config = TypeAdapter(Config).validate_python(ALL_KEYS)
    assert set(ALL_KEYS) == set(vars(config))
    assert urlsplit(placed(config=config).request.url).path == "/order"
    for code, status in (("2001", 401), ("2005", 400)):
        outcome = said(failure(code), status=status, config=config)
        assert isinstance(outcome, Refused)
        assert (outcome.code, outcome.certain) == (code, True)
    assert isinstance(said(failure("2005"), status=403, config=config), Unclear)
    assert isinstance(said(failure("2005"), status=400), Unclear)
    call = Dushu(config).query([PURCHASE], CONTEXT)
    assert isinstance(call, Call)
    assert urlsplit(call.request.url).path == "/detail"
    assert call.read(HttpReply(404, as_bytes(failure("0007")))) == {PURCHASE.number: Absent("code 0007")}
    listing = Dushu(config).products(CONTEXT)
    assert isinstance(listing, Call)
    assert (urlsplit(listing.request.url).path, listing.request.body) == ("/list", b"{}")
    assert VECTORS["D8"][1] in listing.request.url
    for key, value in (("empty_body_mode", "none"), ("gateway_http_status", {"2001": "gone"})):
        with pytest.raises(ValidationError):
            TypeAdapter(Config).validate_python({**ALL_KEYS, key: value})


def test_what_is_not_offered_is_named() -> None:
    """The supplier sends no callbacks, so whatever comes is not looked at; nor does it cancel or keep a deposit."""
    assert SUPPLIER.read_callback(Callback(b'{"tradeNo":"DS202401010001"}')) == NotOffered("callbacks")
    assert SUPPLIER.cancel(PURCHASE, CONTEXT) == NotOffered("cancelling")
    assert SUPPLIER.balance(CONTEXT) == NotOffered("a balance")
    assert SUPPLIER.order_form("200000148", CONTEXT) == NotOffered("order forms")
    assert SUPPLIER.traits.aftersale_watch == 0


# --- Create answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order_number", "reference"),
    [
        (17172796992589230, "17172796992589230"),
        (1717280009200691422, "1717280009200691422"),
        ("1717280009200691422", "1717280009200691422"),
    ],
)
def test_success_is_delivery_with_every_digit(order_number: object, reference: str) -> None:
    """Status "0000" delivers, and the 64-bit order number keeps its last digit."""
    data = {"orderNumber": order_number, "tradeNo": "DS202401010001"}
    assert said(success(data)) == Delivered(supplier_reference=reference)
    assert said({**success(data), "suceess": False}) == Delivered(supplier_reference=reference)


REFUSALS = {
    "2001": RefusedFor.PRODUCT,
    "2002": RefusedFor.PRICE,
    "2003": RefusedFor.RECIPIENT,
    "2006": RefusedFor.RECIPIENT,
    "2007": RefusedFor.PRODUCT,
    "2008": RefusedFor.PRODUCT,
    "2009": RefusedFor.RECIPIENT,
    "2010": RefusedFor.OTHER,
}


@pytest.mark.parametrize(("code", "topic"), REFUSALS.items())
@pytest.mark.rule("P11")
def test_reviewed_codes_are_certain_on_a_first_send(code: str, topic: RefusedFor) -> None:
    """A reviewed code refuses for certain; after a second send it may be about the first, so the engine looks."""
    answer = failure(code, "手机15888888888已锁定")
    assert said(answer) == Refused(code=code, message="手机***已锁定", certain=True, about=topic)
    again = said(answer, replace(PURCHASE, sends=2))
    assert isinstance(again, Refused)
    assert not again.certain


@pytest.mark.parametrize("verify", [True, False])
def test_2005_is_looked_after_unless_trusted(verify: bool) -> None:
    """Whether "recharge failed" is believed at once is the account's choice."""
    outcome = said(failure("2005"), config=replace(CONFIG, verify_on_2005=verify))
    assert isinstance(outcome, Refused)
    assert outcome.certain is not verify


@pytest.mark.parametrize("code", ["2004", "9999", "200001", "200002", "200003", "200004"])
def test_ambiguous_codes_leave_it_to_a_look(code: str) -> None:
    """A repeated number or a broken service tells nothing about the order, and nobody need be woken."""
    assert said(failure(code, "重复提交")) == Unclear(f"code {code} tells nothing certain: 重复提交")


def test_unknown_codes_alert() -> None:
    """A code that isn't in any table leaves the outcome open and is told to the operator."""
    assert said(failure("3001")) == Unclear("code 3001 tells nothing certain: 失败", alert=True)


@pytest.mark.parametrize("field", ["status", "code", "errcode", "error"])
@pytest.mark.parametrize(
    ("codes", "cause"),
    [
        (range(100002, 100004), NotSentCause.TOKEN_REFUSED),
        ([100001, *range(100004, 100014)], NotSentCause.CONFIGURATION),
    ],
)
@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("status", [200, 401, 403])
@pytest.mark.rule("P6")
def test_gateway_codes_had_no_effect(
    field: str, codes: list[int], cause: NotSentCause, as_text: bool, status: int
) -> None:
    """Refusals by the gateway count wherever they stand, at purchases and looks alike."""
    for code in codes:
        answer = {field: str(code) if as_text else code, "msg": "x"}
        for outcome in (said(answer, status=status), looked(answer, status=status)):
            assert isinstance(outcome, NotSent)
            assert outcome.cause is cause


def test_http_statuses_speak_where_codes_are_silent() -> None:
    """401 refuses the token, 429 asks to wait; every other error leaves the outcome open."""
    assert said(b"", status=401) == looked(b"", status=401)
    assert said(b"", status=401) == NotSent(cause=NotSentCause.TOKEN_REFUSED, detail="HTTP 401")
    assert said(b"", status=429) == NotSent(cause=NotSentCause.RATE_LIMITED, detail="HTTP 429")
    for body in (b"<html>", failure("2001"), success({"orderNumber": 1, "tradeNo": "DS202401010001"})):
        assert isinstance(said(body, status=502), Unclear)
    assert isinstance(looked(failure("0006"), status=502), Unclear)


MALFORMED: list[Any] = [
    b"",
    b"<html>502</html>",
    b'{"status": "0000", "data": {"orderNumber": 17',
    b"\xff",
    b"[" * 100_000,
    [],
    None,
    {},
    success(None),
    success([]),
    success({}),
    {**success(ORDER), "status": 0},
    {**success(ORDER), "status": None},
    {**success(ORDER), "status": True},
    {**success(ORDER), "status": "0"},
    {**success(ORDER), "status": "00000"},
    {"data": ORDER, "msg": "操作成功！"},
    {"data": ORDER, "code": "0000", "success": True},
    {"error": "2001"},
    {"error": "0006"},
    success({**ORDER, "orderNumber": None, "orderStatus": 1}),
]


@pytest.mark.parametrize("answer", MALFORMED)
def test_malformed_answers_are_unclear(answer: object) -> None:
    """An answer without the text "0000" and readable data is neither success nor refusal nor absence."""
    assert isinstance(said(answer), Unclear)
    assert isinstance(looked(answer), Unclear)


def test_an_answer_about_another_order_is_a_contradiction() -> None:
    """Success for a number that isn't ours is for a person to look at."""
    outcome = said(success({"orderNumber": 17, "tradeNo": "DS202401010002"}))
    assert isinstance(outcome, Unclear)
    assert outcome.doubt is Doubt.CONTRADICTION


# --- Order detail -----------------------------------------------------------------------------------------------------


def test_states_of_the_order_detail() -> None:
    """COMPLETE is delivery, NEW is still running, 0006 is absence."""
    cost, reference = yuan(365), "1717280009200691422"
    assert looked(success(ORDER)) == Delivered(cost=cost, supplier_reference=reference)
    assert looked(success({**ORDER, "orderStatus": "NEW"})) == Accepted(cost=cost, supplier_reference=reference)
    assert looked(failure("0006")) == Absent("code 0006")
    assert looked(success({"tradeNo": "DS202401010001", "orderStatus": "COMPLETE"})) == Delivered()


@pytest.mark.parametrize("code", ["2001", "2004", "2005", "9999", "200001"])
def test_other_codes_at_a_look_tell_nothing(code: str) -> None:
    """Only 0006 says that the order isn't there."""
    assert isinstance(looked(failure(code)), Unclear)


@pytest.mark.parametrize(
    "difference",
    [
        {"tradeNo": "DS202401010002"},
        {"productId": 200000147},
        {"productId": []},
        {"totalFee": 365.01},
        {"totalFee": "many"},
        {"orderNumber": 1717280009200691423},
    ],
)
@pytest.mark.parametrize("state", ["COMPLETE", "NEW"])
def test_an_order_that_is_not_ours_is_never_success(difference: dict[str, object], state: str) -> None:
    """Another number, product or amount than we asked for is for a person to look at."""
    known = replace(PURCHASE, supplier_reference="1717280009200691422")
    outcome = looked(success({**ORDER, "orderStatus": state, **difference}), known)
    assert isinstance(outcome, Unclear)
    assert outcome.doubt is Doubt.CONTRADICTION


@pytest.mark.parametrize("spelled", ["365", "365.0", "365.00", '"365.00"', "3.65e2"])
def test_amounts_are_compared_by_value(spelled: str) -> None:
    """However the supplier writes the amount, the same value is the same amount."""
    body = json.dumps(success(ORDER)).replace("365.0", spelled).encode()
    assert isinstance(looked(body), Delivered)


@pytest.mark.parametrize("flag", [{"suceess": True}, {"success": True}, {"suceess": False}, {"success": False}, {}])
def test_the_flag_decides_nothing(flag: dict[str, bool]) -> None:
    """However it is spelled and whatever it says, the status decides."""
    assert isinstance(said({"status": "0000", "data": ORDER, **flag}), Delivered)
    assert isinstance(said({"status": "2001", "msg": "会期产品不存在", **flag}), Refused)
    assert isinstance(looked({"status": "0006", **flag}), Absent)


# --- Product list -----------------------------------------------------------------------------------------------------

PRODUCTS: list[dict[str, object]] = [
    {"productNo": 200000147, "productName": "半年卡", "price": 188, "vipValue": 6, "vipUnit": 2, "remark": ""},
    {"productNo": 200000148, "productName": "年卡", "price": 365.5, "vipValue": 1, "vipUnit": 1, "remark": "热卖"},
    {"productNo": "200000149", "productName": "体验卡", "price": "9.90", "vipValue": "7", "vipUnit": "3"},
]
READ = (
    SupplierProduct(number="200000147", name="半年卡", price=yuan(188), details={"membership": "6 months"}),
    SupplierProduct(
        number="200000148", name="年卡", price=yuan("365.50"), details={"membership": "1 year", "remark": "热卖"}
    ),
    SupplierProduct(number="200000149", name="体验卡", price=yuan("9.90"), details={"membership": "7 days"}),
)


def question(call: Call[Any] | NotOffered) -> Call[Any]:
    assert isinstance(call, Call)
    return call


def listed(answer: object, status: int = 200, page: int = 1) -> Any:
    return question(SUPPLIER.products(CONTEXT, page=page)).read(HttpReply(status, as_bytes(answer)))


def picked(answer: object, number: str = "200000148", status: int = 200) -> Any:
    return question(SUPPLIER.product(number, CONTEXT)).read(HttpReply(status, as_bytes(answer)))


def test_the_product_list_has_an_empty_body_that_is_signed() -> None:
    """Vector D7, for the list and for one product alike."""
    for call in (SUPPLIER.products(CONTEXT), SUPPLIER.product("200000148", CONTEXT)):
        request = question(call).request
        assert (request.safe_url, request.body) == ("https://dushu.example/vip/product/list", b"")
        query = dict(parse_qsl(urlsplit(request.url).query))
        assert query == {"appid": APPID, "sign": VECTORS["D7"][1], "access_token": "eyJ.token+/"}


def test_products_are_read_and_picked() -> None:
    """Whole and broken prices, numbers and texts, years, months and days."""
    assert listed(success(PRODUCTS)) == listed(success({"list": PRODUCTS})) == Listing(products=READ)
    assert listed(success([*PRODUCTS, None, {"productNo": "x"}])) == Listing(products=READ)
    assert [picked(success(PRODUCTS), product.number) for product in READ] == list(READ)
    assert picked(success(PRODUCTS), "200000150") == Absent("not in the list")
    strange: dict[str, object] = {"productNo": 1, "productName": None, "price": "", "vipValue": [], "vipUnit": 9}
    assert picked(success([strange]), "1") == SupplierProduct(number="1", name="")


def test_all_products_stand_on_the_first_page() -> None:
    """There are no pages: a second one is empty."""
    assert listed(success(PRODUCTS), page=2) == Listing(products=())
    assert isinstance(listed(b"", page=2), Unclear)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        [],
        {},
        success(None),
        success({}),
        success("x"),
        success([None]),
        success([{}]),
        failure("9999"),
        failure("200001"),
        {**success(PRODUCTS), "status": 0},
        {"data": PRODUCTS},
    ],
)
def test_a_list_that_is_not_understood_is_unclear(answer: object) -> None:
    """Only the text "0000" is success, and a list without a readable product isn't an empty one."""
    assert isinstance(listed(answer), Unclear)
    assert isinstance(picked(answer), Unclear)
    assert isinstance(listed(success(PRODUCTS), status=502), Unclear)


def test_the_gateway_refuses_questions_like_orders() -> None:
    """Token, configuration and rate are read the same everywhere."""
    for ask in (listed, picked):
        assert ask(failure("100003")).cause is NotSentCause.TOKEN_REFUSED
        assert ask(b"", status=401).cause is NotSentCause.TOKEN_REFUSED
        assert ask(failure("100012")).cause is NotSentCause.CONFIGURATION
        assert ask(b"", status=429).cause is NotSentCause.RATE_LIMITED


# --- Token ------------------------------------------------------------------------------------------------------------


def token_answer(answer: object, status: int = 200) -> Token | NotSent:
    call = SUPPLIER.fetch_token(CONTEXT)
    assert isinstance(call, Call)
    url = urlsplit(call.request.url)
    assert (url.path, call.request.method, call.request.body) == ("/oauth/token", "POST", b"")
    assert dict(parse_qsl(url.query)) == {
        "grant_type": "client_credentials",
        "client_id": APPID,
        "client_secret": APPSECRET,
    }
    return call.read(HttpReply(status, as_bytes(answer)))


def test_tokens_are_read_in_both_spellings() -> None:
    """The supplier's own names and the usual OAuth names both make a token."""
    own = {"value": "eyJ", "expiresIn": 7199, "expiration": 1566788088019, "expired": False, "scope": ["ALL"]}
    assert token_answer(own) == token_answer({"access_token": "eyJ", "expires_in": "7199"}) == Token("eyJ", 7199.0)


@pytest.mark.parametrize(
    ("answer", "status", "cause"),
    [
        ({"error": "invalid_client", "error_description": "Bad client credentials"}, 200, NotSentCause.CONFIGURATION),
        ({"error": "invalid_client"}, 401, NotSentCause.CONFIGURATION),
        ({"status": "100012"}, 200, NotSentCause.CONFIGURATION),
        ({"error": "daily limit"}, 200, NotSentCause.NO_TOKEN),
        ({"error": "x", "value": "eyJ", "expiresIn": 7199}, 200, NotSentCause.NO_TOKEN),
        ({"value": "eyJ", "expiresIn": 7199}, 500, NotSentCause.NO_TOKEN),
        ({"value": "eyJ"}, 200, NotSentCause.NO_TOKEN),
        ({"value": [], "expiresIn": {}}, 200, NotSentCause.NO_TOKEN),
        (b"<html>", 200, NotSentCause.NO_TOKEN),
        (b"", 429, NotSentCause.RATE_LIMITED),
    ],
)
def test_without_a_token_nothing_is_sent(answer: object, status: int, cause: NotSentCause) -> None:
    """Only a refusal of the credentials is a configuration error; everything else may pass."""
    outcome = token_answer(answer, status)
    assert isinstance(outcome, NotSent)
    assert outcome.cause is cause


# --- Whatever comes ---------------------------------------------------------------------------------------------------

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["status", "data", "code", "error"]), inner)
    ),
)
ANSWERS = JSON_VALUES | st.fixed_dictionaries(
    {
        "status": st.sampled_from(["0000", "2001", "0006"]) | JSON_VALUES,
        "data": st.dictionaries(st.sampled_from(sorted(ORDER)), JSON_VALUES)
        | st.lists(st.dictionaries(st.sampled_from(sorted(PRODUCTS[0])), JSON_VALUES | st.integers(1, 3))),
    }
)


@given(body=st.binary(), answer=ANSWERS, status=st.sampled_from([200, 401, 500]))
def test_no_answer_raises_or_delivers_by_accident(body: bytes, answer: Any, status: int) -> None:
    """Reading is total: every bytes has an outcome, and only the text "0000" with HTTP 200 delivers, without cards."""
    for posted in (body, json.dumps(answer).encode()):
        for outcome in (said(posted, status=status), looked(posted, status=status)):
            if isinstance(outcome, Delivered):
                assert (answer["status"], status, outcome.cards) == ("0000", 200, ())
        token_answer(posted, status)
        assert isinstance(listed(posted, status), Listing | NotSent | Unclear)
        product = picked(posted, "2", status)
        assert isinstance(product, Absent | NotSent | Unclear) or product.number == "2"
