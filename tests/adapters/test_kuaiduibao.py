"""Kuaiduibao: what is written, and what every kind of answer and callback means."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from reward_adapters import load_adapter
from reward_adapters.contract import (
    Accepted,
    Call,
    Callback,
    CallbackRefused,
    Card,
    CardKind,
    Context,
    Dealer,
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
    Refused,
    RefusedFor,
    Token,
    Unclear,
)
from reward_adapters.kuaiduibao import Config, Kuaiduibao, sorted_fields_hmac_sha256
from reward_adapters.money import yuan

APP_SECRET = "kdb-test-secret-0123456789abcdef"
CONFIG = Config(base_url="https://kdb.example/", app_id=20160711, app_secret=APP_SECRET)
SUPPLIER: Dealer = Kuaiduibao(CONFIG)
CONTEXT = Context(now=datetime(2024, 1, 1, tzinfo=UTC), token="t" * 40)
CARD = Purchase(
    number="M202401010001",
    product_kind=ProductKind.CARD,
    supplier_product="10002",
    quantity=1,
    recipient=None,
    unit_cost=yuan("98.50"),
    unit_limit=yuan("99.00"),
)
TOPUP = replace(
    CARD, product_kind=ProductKind.TOPUP, recipient=Recipient(RecipientKind.PHONE, "13800001234", area_code="+86")
)


NUMBER_AND_A = Card(kind=CardKind.NUMBER_AND_SECRET, number="n", secret="a")


def placed(purchase: Purchase, config: Config = CONFIG) -> Call[Outcome]:
    call = Kuaiduibao(config).place(purchase, CONTEXT)
    assert isinstance(call, Call)
    return call


def said(answer: object, purchase: Purchase = CARD, status: int = 200, config: Config = CONFIG) -> Outcome:
    body = answer if isinstance(answer, bytes) else json.dumps(answer, ensure_ascii=False).encode()
    return placed(purchase, config).read(HttpReply(status, body))


def taken(*cards: object, order_no: object = "TO01150000066") -> dict[str, object]:
    return {"code": 0, "data": {"order_no": order_no, "cards": list(cards)}, "extra": None}


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


# --- Requests ---------------------------------------------------------------------------------------------------------


def test_a_card_order_is_a_form_without_recipient() -> None:
    """A purchase is written as the create-order page lists it, and nothing else is."""
    request = placed(CARD).request
    assert (request.method, request.url) == ("POST", "https://kdb.example/service/order/create")
    assert request.headers["Content-Type"].startswith("application/x-www-form-urlencoded")
    assert dict(parse_qsl(request.body.decode())) == {
        "access_token": "t" * 40,
        "out_trade_no": "M202401010001",
        "product_no": "10002",
    }


def test_a_topup_can_be_json_under_a_prefix() -> None:
    """Encoding and path prefix follow the account; numbers are numbers in JSON."""
    config = replace(CONFIG, request_encoding="json", path_prefix="/api")
    request = placed(TOPUP, config).request
    assert request.url == "https://kdb.example/api/service/order/create"
    assert json.loads(request.body) == {
        "access_token": "t" * 40,
        "out_trade_no": "M202401010001",
        "product_no": 10002,
        "receive_no": "13800001234",
    }


@pytest.mark.parametrize(
    ("purchase", "topic"),
    [
        (replace(CARD, number="M" * 37), RefusedFor.OTHER),
        (replace(CARD, supplier_product="jd-100"), RefusedFor.PRODUCT),
        (replace(CARD, supplier_product="²"), RefusedFor.PRODUCT),
        (replace(CARD, supplier_product="12345678901"), RefusedFor.PRODUCT),
        (replace(CARD, quantity=2), RefusedFor.OTHER),
        (replace(TOPUP, recipient=Recipient(RecipientKind.ACCOUNT, "a" * 21)), RefusedFor.RECIPIENT),
        (replace(TOPUP, recipient=Recipient(RecipientKind.PHONE, "5551234", area_code="+1")), RefusedFor.RECIPIENT),
    ],
)
def test_what_the_wire_cannot_say_is_refused_before_it_is_sent(purchase: Purchase, topic: RefusedFor) -> None:
    """A purchase that the fields can't hold is refused for certain, without an exchange."""
    refused = SUPPLIER.place(purchase, CONTEXT)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.certain, refused.about) == ("LOCAL", True, topic)


def test_what_is_not_offered_is_named() -> None:
    """The supplier answers for orders and nothing else; what it doesn't offer has a name."""
    assert SUPPLIER.query([CARD], CONTEXT) == NotOffered("an order query")
    assert not SUPPLIER.traits.queryable
    assert SUPPLIER.cancel(replace(CARD, supplier_reference="T1"), CONTEXT) == NotOffered("cancelling")
    assert SUPPLIER.balance(CONTEXT) == NotOffered("a balance")
    assert SUPPLIER.products(CONTEXT) == NotOffered("a product list")
    assert SUPPLIER.product("10002", CONTEXT) == NotOffered("product details")
    assert SUPPLIER.order_form("10002", CONTEXT) == NotOffered("order forms")
    assert SUPPLIER.traits.aftersale_watch == 0


@pytest.mark.parametrize("limit", ["0.01", "99.00", "100000"])
@pytest.mark.rule("O10")
def test_no_price_is_on_the_wire(limit: str) -> None:
    """The supplier has no guard, whatever the limit: the trait says so, and no field carries it."""
    assert not SUPPLIER.traits.price_guard
    assert placed(replace(CARD, unit_limit=yuan(limit))).request == placed(CARD).request


def test_secrets_do_not_print() -> None:
    """Neither the account nor a request shows its secret."""
    assert APP_SECRET not in repr(CONFIG)
    assert "ttt" not in repr(placed(CARD).request)


def test_the_configuration_is_checked() -> None:
    """An account is built from plain values; a word outside a closed set is refused."""
    assert load_adapter("kuaiduibao").config is Config
    accounts = TypeAdapter(Config)
    keys = {"base_url": "https://kdb.example", "app_id": 1, "app_secret": "s"}
    assert accounts.validate_python(keys) == Config(base_url="https://kdb.example", app_id=1, app_secret="s")
    with pytest.raises(ValidationError):
        accounts.validate_python({**keys, "request_encoding": "xml"})


# --- Account keys ---------------------------------------------------------------------------------------------------

ALL_KEYS: dict[str, Any] = {
    "base_url": "https://kdb.example",
    "app_id": 20160711,
    "app_secret": APP_SECRET,
    "request_encoding": "form",
    "path_prefix": "/api",
    "token_path": "/token",
    "order_path": "/order",
    "order_query_path": "/query",
    "ip_list_path": "/ip",
    "ambiguous_codes": [1],
    "retry_same_out_trade_no": False,
    "non_success_callback": "review",
    "callback_encodings": ["form"],
    "timezone": "UTC",
    "product_kind_by_no": {"10002": "topup"},
}


def test_every_key_is_accepted_and_acts() -> None:
    """Paths, encodings and kinds of the account are the ones that are used; with a query, callbacks are hints only."""
    config = TypeAdapter(Config).validate_python(ALL_KEYS)
    assert set(ALL_KEYS) == set(vars(config))
    supplier = Kuaiduibao(config)
    assert supplier.traits == replace(SUPPLIER.traits, queryable=True)
    assert placed(CARD, config).request.url == "https://kdb.example/api/order"
    # The account says that this product is a top-up, whatever the catalogue says.
    assert said(taken({"card_no": "a"}), config=config) == Unclear(
        "cards came for a product without cards", doubt=Doubt.CONTRADICTION
    )
    assert isinstance(supplier.read_callback(Callback(json.dumps(SIGNED).encode())), CallbackRefused)
    notice = supplier.read_callback(Callback(urlencode(SIGNED).encode()))
    assert isinstance(notice, Notice)
    assert (notice.number, notice.outcome) == ("M202401010001", None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("retry_same_out_trade_no", True),
        ("non_success_callback", "refund"),
        ("callback_encodings", ["xml"]),
        ("timezone", "Asia/Nowhere"),
        ("timezone", "../UTC"),
        ("product_kind_by_no", {"10002": "toy"}),
    ],
)
def test_values_that_cannot_work_are_refused(key: str, value: object) -> None:
    """What the adapter can't or mustn't do isn't accepted in silence."""
    with pytest.raises(ValidationError):
        TypeAdapter(Config).validate_python({**ALL_KEYS, key: value})


QUERIED = replace(CONFIG, order_query_path="/service/order/query")


def queried(answer: object, purchase: Purchase = CARD, status: int = 200) -> Outcome:
    call = Kuaiduibao(QUERIED).query([purchase], CONTEXT)
    assert isinstance(call, Call)
    assert call.request.url == "https://kdb.example/service/order/query"
    assert dict(parse_qsl(call.request.body.decode())) == {"access_token": "t" * 40, "out_trade_no": "M202401010001"}
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    outcomes = call.read(HttpReply(status, body))
    assert list(outcomes) == [purchase.number]
    return outcomes[purchase.number]


def found(**data: object) -> dict[str, object]:
    return {"code": 0, "data": {"order_no": "T1", "status": 1, **data}, "extra": None}


def test_a_granted_query_tells_of_success_only() -> None:
    """A finished order is delivered with its cards; nothing else that a query answers settles a purchase."""
    card = Card(kind=CardKind.NUMBER_AND_SECRET, number="n", secret="p")
    cards = [{"card_no": "n", "card_pws": "p"}]
    assert queried(found(cards=cards)) == Delivered(cards=(card,), supplier_reference="T1")
    assert queried(found()) == Accepted(supplier_reference="T1")
    assert queried(found(status="1"), TOPUP) == Delivered(supplier_reference="T1")
    assert queried({}, status=401) == NotSent(cause=NotSentCause.TOKEN_REFUSED, detail="HTTP 401")
    assert queried({}, status=429) == NotSent(cause=NotSentCause.RATE_LIMITED, detail="HTTP 429")
    assert queried({"code": 100404, "msg": "no 13800001234"}, TOPUP) == Unclear("the query answers code 100404: no ***")
    useless: list[object] = [found(status=0), found(status=None), found(order_no=""), {"code": 0, "data": []}, b"", []]
    for answer in useless:
        outcome = queried(answer)
        assert isinstance(outcome, Unclear)
        assert outcome.doubt is None
    assert isinstance(queried(found(), status=500), Unclear)


@pytest.mark.parametrize(
    ("answer", "purchase"),
    [
        (found(out_trade_no="M202401010002"), TOPUP),
        (found(order_no="T2"), replace(TOPUP, supplier_reference="T1")),
        (found(cards=[{"card_no": "a"}]), TOPUP),
    ],
)
def test_a_granted_query_that_contradicts_is_for_a_person(answer: object, purchase: Purchase) -> None:
    """Another order than ours, or cards for a top-up, is never success."""
    outcome = queried(answer, purchase)
    assert isinstance(outcome, Unclear)
    assert outcome.doubt is Doubt.CONTRADICTION


# --- Create answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "card"),
    [
        (
            {
                "card_no": "12313333123",
                "card_pws": "",
                "link": "http://url.cn/42GJLT7",
                "start_time": "03/11/2017",
                "expire_time": "07/31/2017",
            },
            Card(
                kind=CardKind.CODE,
                number="12313333123",
                link="http://url.cn/42GJLT7",
                valid_from=date(2017, 3, 11),
                valid_until=date(2017, 7, 31),
            ),
        ),
        (
            {"card_no": "JDV8790082001628", "card_pws": "61D0-E24F-AD53-533C", "expire_time": "04/28/2019"},
            Card(
                kind=CardKind.NUMBER_AND_SECRET,
                number="JDV8790082001628",
                secret="61D0-E24F-AD53-533C",
                valid_until=date(2019, 4, 28),
            ),
        ),
        (
            {"card_no": "g123123174", "card_pwd": "f12395"},
            Card(kind=CardKind.NUMBER_AND_SECRET, number="g123123174", secret="f12395"),
        ),
        ({"card_no": 7, "card_pws": "", "card_pwd": 8}, Card(kind=CardKind.NUMBER_AND_SECRET, number="7", secret="8")),
        ({"card_pws": "a", "card_pwd": "b"}, Card(kind=CardKind.CODE, secret="a")),
        ({"card_no": "c", "expire_time": "2019-04-28"}, Card(kind=CardKind.CODE, number="c")),
        ({"link": "http://l", "card_pws": "p"}, Card(kind=CardKind.LINK_AND_SECRET, link="http://l", secret="p")),
        ({"link": "http://l"}, Card(kind=CardKind.LINK, link="http://l")),
        ({"card_no": "n", "card_pws": "a", "card_pwd": "b"}, NUMBER_AND_A),
        ({"card_no": "n", "card_pws": None, "card_pwd": "a"}, NUMBER_AND_A),
        ({"card_no": "n", "card_pws": "a", "batch": [1], "note": None}, NUMBER_AND_A),
    ],
)
def test_cards_are_read_in_every_documented_shape(entry: dict[str, object], card: Card) -> None:
    """Each sample of the create-order page, and each mixture of its spellings, becomes the card it means."""
    warning = "" if card.secret or card.kind is CardKind.LINK else "no password: the number is all there is"
    assert said(taken(entry)) == Delivered(cards=(card,), supplier_reference="TO01150000066", detail=warning)


@pytest.mark.rule("P11")
def test_a_refusal_that_speaks_of_a_repeated_number_is_not_believed() -> None:
    """Something on the way may have sent the request twice; the first one may have bought."""
    read = said({"code": 1, "msg": "商户订单号重复，请勿重复下单", "data": None})
    assert read == Unclear("code 1: the number was used already: 商户订单号重复，请勿重复下单", alert=True)


def test_one_card_may_stand_there_without_its_list() -> None:
    """An object in place of the list is one card: its answer is the only copy."""
    answer = {"code": 0, "data": {"order_no": "T1", "cards": {"card_no": "n", "card_pws": "a"}}}
    assert said(answer) == Delivered(cards=(NUMBER_AND_A,), supplier_reference="T1")


@pytest.mark.parametrize("code", [0, "0"])
@pytest.mark.parametrize("cards", [{}, {"cards": None}, {"cards": []}, {"cards": {}}, {"cards": ""}])
@pytest.mark.parametrize("purchase", [CARD, TOPUP])
def test_success_without_cards_is_acceptance(code: object, cards: dict[str, object], purchase: Purchase) -> None:
    """Code 0 without cards means "taken": a top-up still runs, and a card product's secrets are awaited."""
    answer = {"code": code, "data": {"order_no": 123123123, **cards}, "extra": None}
    assert said(answer, purchase) == Accepted(supplier_reference="123123123")


@pytest.mark.parametrize(
    "cards", [[1], [{}], [{"card_no": 1.5}], [{"card_no": "a"}, None], {"0": {"card_no": "a"}}, "a"]
)
def test_unreadable_cards_are_for_a_person(cards: object) -> None:
    """Success with cards that can't be read can't be asked again: no part of it is delivered."""
    outcome = said({"code": 0, "data": {"order_no": "T1", "cards": cards}})
    assert isinstance(outcome, Unclear)
    assert outcome.doubt is Doubt.CARD_MISSING


def test_cards_for_a_topup_contradict_it() -> None:
    """A top-up that answers with cards was configured as something it isn't."""
    assert said(taken({"card_no": "a"}), TOPUP) == Unclear(
        "cards came for a product without cards", doubt=Doubt.CONTRADICTION
    )


@pytest.mark.parametrize(
    ("code", "text", "topic"),
    [
        (1, "商品库存不足", RefusedFor.STOCK),
        (1, "账户余额不足", RefusedFor.BALANCE),
        ("1", "商品不存在", RefusedFor.PRODUCT),
        (1, "领取号码不正确", RefusedFor.RECIPIENT),
        (1, None, RefusedFor.OTHER),
        (100404, "activity invalid", RefusedFor.OTHER),
    ],
)
@pytest.mark.rule("P6", "P11")
def test_known_codes_are_refusals_on_a_first_send_only(code: object, text: str | None, topic: RefusedFor) -> None:
    """Codes 1 and 100404 prove "not taken" once; after a second send they may be about the first."""
    answer = {"code": code, "msg": text, "data": None, "extra": None}
    assert said(answer) == Refused(code=str(code), message=text or "", certain=True, about=topic)
    assert isinstance(said(answer, replace(CARD, sends=2)), Unclear)
    distrustful = replace(CONFIG, ambiguous_codes=(1, 100404))
    assert isinstance(said(answer, config=distrustful), Unclear)


@pytest.mark.parametrize("sends", [1, 2])
@pytest.mark.rule("P6")
def test_other_codes_prove_nothing_and_are_told(sends: int) -> None:
    """A code that nobody published leaves the outcome open and alerts the operator, with its text scrubbed."""
    answer = {"code": 987654, "msg": "号码13800001234 token tttt5678", "data": None}
    assert said(answer, replace(TOPUP, sends=sends)) == Unclear("unknown code 987654: 号码*** token ***", alert=True)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>502</html>",
        b'{"code": 0, "data": {"order_no":\'123\',}\xef\xbc\x8c}',
        b'{"code": 0, "data": {"order_no": "T1", "cards": [{"card_no": "a"',
        b"\xff\xfe",
        b"[" * 100_000,
        [],
        None,
        {"code": 0},
        {"code": 0, "data": None},
        {"code": 0, "data": []},
        {"code": 0, "data": {}},
        {"code": False, "data": {"order_no": "T1"}},
        {"code": 0.0, "data": {"order_no": "T1"}},
        {"code": None, "data": {"order_no": "T1"}},
        {"data": {"order_no": "T1"}},
        {"code": 0, "data": {"order_no": "a\ud800"}},
    ],
)
def test_malformed_answers_are_unclear(answer: object) -> None:
    """An answer that isn't what the page shows is neither success nor refusal."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    assert isinstance(said(body), Unclear)


def test_http_statuses_speak_before_bodies() -> None:
    """401 refuses the token, 429 asks to wait, unless the body says that the order was taken: then nothing is certain.
    Other errors leave the outcome open, whatever their body says.
    """
    assert said({}, status=401) == NotSent(cause=NotSentCause.TOKEN_REFUSED, detail="HTTP 401")
    for status in (401, 429):
        assert said(taken(), status=status) == Unclear(f"HTTP {status} with code 0", doubt=Doubt.CONTRADICTION)
    limited = placed(CARD).read(HttpReply(429, b"", {"retry-after": "7"}))
    assert limited == NotSent(cause=NotSentCause.RATE_LIMITED, detail="HTTP 429", retry_after=7.0)
    assert isinstance(said({"code": 1, "msg": "x"}, status=502), Unclear)


# --- Token ------------------------------------------------------------------------------------------------------------


def token_answer(answer: object, status: int = 200) -> Token | NotSent:
    call = SUPPLIER.fetch_token(CONTEXT)
    assert isinstance(call, Call)
    assert call.request.url == "https://kdb.example/o-auth2/app/access-token"
    assert dict(parse_qsl(call.request.body.decode())) == {"app_id": "20160711", "app_secret": APP_SECRET}
    return call.read(HttpReply(status, json.dumps(answer).encode()))


def test_tokens_are_read_flat_or_wrapped() -> None:
    """A token counts with its lifetime, in the documented flat answer or in the usual envelope."""
    flat = {"access_token": "abc", "expires_in": "7200", "token_type": "Bearer", "scope": True}
    assert token_answer(flat) == token_answer({"code": 0, "data": flat}) == Token("abc", 7200.0)


@pytest.mark.parametrize(
    ("answer", "status", "cause"),
    [
        ({"error": "invalid_client", "error_description": "x"}, 401, NotSentCause.CONFIGURATION),
        ({"error": "invalid_client"}, 200, NotSentCause.CONFIGURATION),
        ({}, 429, NotSentCause.RATE_LIMITED),
        ({"error": "server_error"}, 500, NotSentCause.NO_TOKEN),
        ({"access_token": "abc", "expires_in": 7200}, 500, NotSentCause.NO_TOKEN),
        ({"access_token": "abc", "expires_in": 0}, 200, NotSentCause.NO_TOKEN),
        ({"access_token": "abc"}, 200, NotSentCause.NO_TOKEN),
        ({"access_token": "", "expires_in": 7200}, 200, NotSentCause.NO_TOKEN),
        ([], 200, NotSentCause.NO_TOKEN),
    ],
)
def test_without_a_token_nothing_is_sent(answer: object, status: int, cause: NotSentCause) -> None:
    """Only a refusal of the credentials is a configuration error; everything else may pass."""
    outcome = token_answer(answer, status)
    assert isinstance(outcome, NotSent)
    assert outcome.cause is cause


# --- Signature and callbacks ------------------------------------------------------------------------------------------

X22 = "x" * 22
GOOD = {"order_no": "TO01150000065", "out_trade_no": "M202401010001", "status_code": "1"}
SIGNED = {**GOOD, "_sign": "c3cb39debc9ea85b9beac0d2f3f66df909f7cea439932e6d9649d650d2f69667"}
VECTORS = [
    (
        "K1",
        X22,
        {"points": "100", "app_uid": "1111"},
        "76d90acdb95987682b6360ed641ce4d3ff61d6622fc9ac0380552912bb154040",
    ),
    (
        "K2",
        X22,
        {"key3": "3", "key1": "1", "key2": "2"},
        "925c2a592c29ee389541cec346a74a86146fe66a301173a87ad8fba02d0595b8",
    ),
    ("K3", APP_SECRET, GOOD, "c3cb39debc9ea85b9beac0d2f3f66df909f7cea439932e6d9649d650d2f69667"),
    (
        "K4",
        APP_SECRET,
        {**GOOD, "status_code": "2"},
        "f5496045b411dd9fd98b0ef07d7efb6b775cac8a8af155369b2e6f8e04ab429e",
    ),
    (
        "K5",
        APP_SECRET,
        {"status": "1", "message": "ok"},
        "38f4c05d56e37f9507acc15b367ab26ed7db239714bb1640bc487643e23b346d",
    ),
    (
        "K6",
        APP_SECRET,
        {"status": "1", "message": ""},
        "5ff69592f5f4b0453d8b9fa23840f8eafcbdd577d21d96b126673339cb6940f3",
    ),
    ("K7", APP_SECRET, {"status": "1"}, "24c192e4fb7bcd132d024d9b0171cc8a13f5ebc9d91b681736c8cabec95179f9"),
    (
        "K8",
        APP_SECRET,
        {"status": "0", "message": "订单不存在"},
        "f1d441bb862dcf9fdb03ef6d0b7eafd8c0049ea532dcc3c314c8fa509a9d445e",
    ),
]


@pytest.mark.parametrize(("secret", "fields", "sign"), [v[1:] for v in VECTORS], ids=[v[0] for v in VECTORS])
def test_signatures_are_exact(secret: str, fields: dict[str, str], sign: str) -> None:
    """Every known signature comes out digit for digit, whatever the order of the fields and with `_sign` left out."""
    assert sorted_fields_hmac_sha256(fields, secret) == sign
    assert sorted_fields_hmac_sha256({"_SIGN": "old", **fields}, secret) == sign


def called(fields: dict[str, Any], as_json: bool = False) -> Notice | CallbackRefused:
    body = json.dumps(fields) if as_json else urlencode(fields)
    content_type = "application/json" if as_json else "application/x-www-form-urlencoded"
    notice = SUPPLIER.read_callback(Callback(body.encode(), content_type))
    assert isinstance(notice, Notice | CallbackRefused)
    return notice


@pytest.mark.parametrize(
    ("fields", "as_json"),
    [
        (SIGNED, False),
        (SIGNED, True),
        ({**SIGNED, "status_code": 1}, True),
        ({**SIGNED, "_sign": SIGNED["_sign"].upper()}, False),
    ],
)
def test_a_genuine_success_is_delivery(fields: dict[str, Any], as_json: bool) -> None:
    """A verified callback with status 1 is evidence by itself, names both numbers, and is acknowledged signed."""
    notice = called(fields, as_json)
    assert isinstance(notice, Notice)
    assert (notice.number, notice.supplier_reference) == ("M202401010001", "TO01150000065")
    assert notice.outcome == Delivered(supplier_reference="TO01150000065")
    for answer, status in ((notice.accepted, 1), (notice.unknown, 0)):
        members = json.loads(answer.body)
        sign = members.pop("_sign")
        assert members["status"] == status
        assert sign == sorted_fields_hmac_sha256({key: str(value) for key, value in members.items()}, APP_SECRET)
    assert SIGNED["_sign"] != json.loads(notice.accepted.body)["_sign"]


def test_any_other_status_is_for_a_person() -> None:
    """Nobody published another status, so it is neither success nor refund."""
    fields = {**GOOD, "status_code": "2"}
    notice = called({**fields, "_sign": VECTORS[3][3]})
    assert isinstance(notice, Notice)
    told = "callback with status_code '2', only '1' (success) is documented"
    assert notice.outcome == Unclear(told, doubt=Doubt.CONTRADICTION)


@pytest.mark.parametrize(
    "fields",
    [
        GOOD,
        {**GOOD, "_sign": ""},
        {**GOOD, "_sign": VECTORS[3][3]},
        {**SIGNED, "out_trade_no": "M202401010002"},
        {**SIGNED, "extra": "x"},
        {**GOOD, "_sign": sorted_fields_hmac_sha256(GOOD, "another secret")},
        {"status_code": "1", "_sign": sorted_fields_hmac_sha256({"status_code": "1"}, APP_SECRET)},
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_forged_callbacks_change_nothing(fields: dict[str, Any], as_json: bool) -> None:
    """A wrong, missing or partial signature is refused; what we say is signed only to who signs."""
    assert isinstance(called(fields, as_json), CallbackRefused)


def test_a_field_given_twice_is_refused() -> None:
    """Two readers could see different values, so neither is believed."""
    body = urlencode([("out_trade_no", "M1"), *SIGNED.items()]).encode()
    assert isinstance(SUPPLIER.read_callback(Callback(body)), CallbackRefused)


# --- Whatever comes ---------------------------------------------------------------------------------------------------

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.text() | st.sampled_from(["code", "data", "order_no", "cards", "card_no", "card_pws", "link"]), inner
        )
    ),
)
ANSWERS = JSON_VALUES | st.fixed_dictionaries(
    {
        "code": st.sampled_from([0, "0", 1]),
        "data": st.fixed_dictionaries({"order_no": JSON_VALUES, "cards": JSON_VALUES}),
    }
)


@given(body=st.binary(), answer=ANSWERS, status=st.sampled_from([200, 401, 500]))
def test_no_answer_raises_or_invents_a_card(body: bytes, answer: object, status: int) -> None:
    """Reading is total: every bytes has an outcome, and no card text appears that the supplier didn't send."""
    for purchase in (CARD, TOPUP):
        call = placed(purchase)
        call.read(HttpReply(status, body))
        outcome = call.read(HttpReply(status, json.dumps(answer).encode()))
        if isinstance(outcome, Delivered):
            assert outcome.cards
            sent = set(leaves(answer)) | {""}
            for card in outcome.cards:
                assert {card.number, card.secret, card.link} <= sent
                assert card.number or card.secret or card.link
    queried(body, status=status)
    queried(json.dumps(answer).encode(), status=status)
    token = SUPPLIER.fetch_token(CONTEXT)
    assert isinstance(token, Call)
    token.read(HttpReply(status, json.dumps(answer).encode()))
    token.read(HttpReply(status, body))


@given(body=st.binary(), fields=JSON_VALUES)
def test_no_callback_raises_or_passes_unsigned(body: bytes, fields: object) -> None:
    """Whatever is posted to the callback route is refused unless it carries the signature."""
    for posted in (body, json.dumps(fields).encode()):
        assert isinstance(SUPPLIER.read_callback(Callback(posted)), CallbackRefused)
