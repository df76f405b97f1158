"""91 Kaquan recharges: what is written, what every kind of answer means, and which callbacks are believed."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode
from zoneinfo import ZoneInfoNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from reward_adapters import _kaquan91 as wire
from reward_adapters import kaquan91_recharge, load_adapter
from reward_adapters.contract import (
    Absent,
    Accepted,
    AfterSale,
    Call,
    Callback,
    CallbackRefused,
    CancelAnswer,
    Cancelled,
    CancelRefused,
    Context,
    Dealer,
    Delivered,
    Doubt,
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
from reward_adapters.money import Money, yuan

SECRET = "HJH546HKDHK"
NOW = Context(now=datetime.fromtimestamp(1704067200.9, UTC))
CONFIG = kaquan91_recharge.Config(base_url="http://gateway.example", appid="10000", appsecret=SECRET)
PURCHASE = Purchase(
    number="R202401010001",
    product_kind=ProductKind.TOPUP,
    supplier_product="52",
    quantity=1,
    recipient=Recipient(RecipientKind.PHONE, "13800138000", "+86"),
    unit_cost=yuan("11.90"),
    unit_limit=yuan("12.00"),
)
REFERENCE = "API2022040622185551647"
SAMPLE = {"code": 1, "msg": "下单成功", "result": REFERENCE, "other": {"price": "12.0"}}
ORDER = {"order_id": REFERENCE, "out_order_id": "R202401010001", "price": "12.00", "status": 3}

NOTIFY = "http://www.testxxx.com/test/callback"
MANUAL = (
    "account={account}&appid=19190009&card_id=43&datetime=1649951134&money=1025&notify_url={notify_url}"
    "&number=1&out_order_id=202209989882384"
)
PLAIN = "account={account}&appid=10000&card_id=52&datetime=1704067200&number=1&out_order_id={out_order_id}"
CALLBACK = (
    "account=13800138000&card_id=52&{evidence}order_id=API2022040622185551647&out_order_id=R202401010001"
    "&status={status}"
)
IMAGE, IMAGE_ENCODED = "http://img.example.com/e/1.png", "http%3A%2F%2Fimg.example.com%2Fe%2F1.png"
ONCE, TWICE = (
    "http%3A%2F%2Fwww.testxxx.com%2Ftest%2Fcallback",
    "http%253A%252F%252Fwww.testxxx.com%252Ftest%252Fcallback",
)
BOTH = ("notify-only", "encode-all")

# The table of signing vectors: name, encodings that hold, signed text before the key, digest, values that the text
# has in another form than the fields.
VECTORS: list[tuple[str, tuple[str, ...], str, str, dict[str, str]]] = [
    (
        "R1",
        ("notify-only", "encode-all"),
        MANUAL.format(account="15565601175", notify_url=ONCE),
        "F7EC6EE7DB8315B5B9940D7E6AC29514",
        {"notify_url": NOTIFY},
    ),
    (
        "R2",
        BOTH,
        MANUAL.format(account="15565601165", notify_url=ONCE),
        "08C97298EA73C5B0DD05241E6FF6A8D4",
        {"notify_url": NOTIFY},
    ),
    (
        "R1d",
        BOTH,
        MANUAL.format(account="15565601175", notify_url=TWICE),
        "9AFE1632595D61C7E06173D2DDAFE890",
        {"notify_url": ONCE},
    ),
    (
        "R3",
        BOTH,
        (
            "account=13800138000&appid=10000&card_id=52&datetime=1704067200&money=12.00&money_type=2&number=1&"
            "out_order_id=R202401010001"
        ),
        "F8ED1DC91CA50A9E5E75FE8F1A92DE8D",
        {},
    ),
    (
        "R4",
        BOTH,
        PLAIN.format(account="13800138000", out_order_id="R202401010002"),
        "2718EC5568FD3147D4E7766C0A03BD71",
        {},
    ),
    (
        "R5",
        ("notify-only",),
        PLAIN.format(account="user@example.com", out_order_id="R202401010003"),
        "0CF9B632FBEC933ACA6CFF6CCEAF84AA",
        {},
    ),
    (
        "R5b",
        ("encode-all",),
        PLAIN.format(account="user%40example.com", out_order_id="R202401010003"),
        "A81FB455DBD390E2E878809258700529",
        {"account": "user@example.com"},
    ),
    (
        "R6",
        ("notify-only",),
        PLAIN.format(account="张三 01", out_order_id="R202401010004"),
        "B3B87ECB618DF2A05A5255EE21C53F70",
        {},
    ),
    (
        "R6b",
        ("encode-all",),
        PLAIN.format(account="%E5%BC%A0%E4%B8%89+01", out_order_id="R202401010004"),
        "3D920EB97519CAD6C8D6180867895FE2",
        {"account": "张三 01"},
    ),
    ("R7, R9", BOTH, "appid=10000&out_order_id=R202401010001", "2851A1E7017F313827AB7127CAF03938", {}),
    ("R8", BOTH, CALLBACK.format(evidence="", status=3), "068131AF8FFF02AA05CBDEF2359B9458", {}),
    (
        "R8b",
        ("notify-only",),
        CALLBACK.format(evidence=f"evidence={IMAGE}&", status=4),
        "9379B012E50F39FE3BB73FE4D4DAE5AA",
        {},
    ),
    (
        "R8c",
        ("encode-all",),
        CALLBACK.format(evidence=f"evidence={IMAGE_ENCODED}&", status=4),
        "944A2A1A11C3958ABBE03B1A8F7A2CC6",
        {"evidence": IMAGE},
    ),
    ("R10", BOTH, "appid=10000&order_id=API2022040622185551647", "52D634100D759655F28F62ED57D50831", {}),
]


def supplier(**changes: Any) -> Dealer:
    return kaquan91_recharge.Kaquan91Recharge(replace(CONFIG, **changes))


def reply(body: Any, status: int = 200) -> HttpReply:
    raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return HttpReply(status=status, body=raw)


def order(**changes: Any) -> HttpReply:
    return reply({"code": 1, "msg": "", "result": {**ORDER, **changes}})


def place(purchase: Purchase = PURCHASE, **changes: Any) -> Call[Outcome]:
    call = supplier(**changes).place(purchase, NOW)
    assert isinstance(call, Call)
    return call


def written(purchase: Purchase = PURCHASE, **changes: Any) -> dict[str, str]:
    return dict(parse_qsl(place(purchase, **changes).request.body.decode(), keep_blank_values=True))


def placed(answered: HttpReply, purchase: Purchase = PURCHASE) -> Outcome:
    return place(purchase).read(answered)


def found(answered: HttpReply, purchase: Purchase = PURCHASE) -> Outcome:
    call = supplier().query([purchase], NOW)
    assert isinstance(call, Call)
    outcomes = call.read(answered)
    assert list(outcomes) == [purchase.number]
    return outcomes[purchase.number]


def call_back(body: bytes | Mapping[str, str]) -> Notice | CallbackRefused | NotOffered:
    raw = body if isinstance(body, bytes) else urlencode(body).encode()
    return supplier().read_callback(Callback(body=raw, content_type="application/x-www-form-urlencoded"))


def fields_of(text: str, raw: Mapping[str, str]) -> dict[str, str]:
    return {**dict(pair.split("=", 1) for pair in text.split("&")), **raw}


# --- Writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "encodings", "text", "digest", "raw"), VECTORS)
def test_signatures_match_the_vectors(
    name: str, encodings: tuple[wire.SignEncoding, ...], text: str, digest: str, raw: Mapping[str, str]
) -> None:
    """Every vector comes out byte for byte in its encodings, and in no other."""
    fields = dict(reversed(fields_of(text, raw).items()))
    for encoding in encodings:
        assert wire.signed_text(fields, encoding) == text
        assert wire.sign({**fields, "sign": "ignored", "empty": ""}, SECRET, encoding) == digest
    for crossed in {"notify-only", "encode-all"} - set(encodings):
        assert wire.sign(fields, SECRET, "encode-all" if crossed == "encode-all" else "notify-only") != digest
    assert wire.sign(fields, SECRET.lower(), encodings[0]) != digest
    assert wire.sign({**fields, "zero": "0"}, SECRET, encodings[0]) != digest


def test_a_purchase_is_written_as_the_manual_shows() -> None:
    """The request is vector R3: yuan with its unit, our number, seconds, and neither secret nor optional fields."""
    request = place().request
    assert (request.method, request.url) == ("POST", "http://gateway.example/dcapi/pay")
    assert request.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert written() == {
        "account": "13800138000",
        "appid": "10000",
        "card_id": "52",
        "datetime": "1704067200",
        "money": "12.00",
        "money_type": "2",
        "number": "1",
        "out_order_id": "R202401010001",
        "sign": "F8ED1DC91CA50A9E5E75FE8F1A92DE8D",
    }


def test_the_stock_check_is_sent_but_never_signed() -> None:
    """`check=1` leaves the signature as it is."""
    assert written(check_stock=True) == {**written(), "check": "1"}


def test_the_callback_address_is_signed_encoded_and_sent_as_configured() -> None:
    """Plain or encoded once more on the wire, and the signature fits what the supplier will see."""
    purchase = replace(PURCHASE, notify_url=NOTIFY)
    for changes, on_the_wire in (
        ({}, NOTIFY),
        ({"sign_value_encoding": "encode-all"}, NOTIFY),
        ({"sign_value_encoding": "encode-all", "notify_url_wire": "pre-encoded"}, ONCE),
    ):
        fields = written(purchase, **changes)
        assert fields["notify_url"] == on_the_wire
        signature = fields.pop("sign")
        assert signature == wire.sign(fields, SECRET, "encode-all")  # no other value has special characters
    assert place(purchase).request.body.count(ONCE.encode()) == 1


@pytest.mark.parametrize("account", ["user@example.com", "a+b&c=d", "张三 01", "~x"])
def test_accounts_with_special_characters_are_signed_as_configured(account: str) -> None:
    """The account arrives as given, and the two encodings give two signatures."""
    purchase = replace(PURCHASE, recipient=Recipient(RecipientKind.ACCOUNT, account))
    raw, encoded = written(purchase), written(purchase, sign_value_encoding="encode-all")
    assert raw["account"] == encoded["account"] == account
    for fields, encoding in ((raw, "notify-only"), (encoded, "encode-all")):
        signature = fields.pop("sign")
        assert signature == wire.sign(fields, SECRET, "encode-all" if encoding == "encode-all" else "notify-only")
        assert signature != wire.sign(fields, SECRET, "notify-only" if encoding == "encode-all" else "encode-all")


@pytest.mark.parametrize(
    ("changes", "money"),
    [
        ({}, "24.69"),
        ({"money_type": "1"}, "2469"),
        ({"money_scope": "unit"}, "12.34"),
        ({"money_scope": "unit", "money_type": "1"}, "1234"),
    ],
)
@pytest.mark.rule("O10")
def test_the_limit_has_its_unit_and_scope(changes: dict[str, str], money: str) -> None:
    """The same limit is 24.69 yuan or 2469 fen, for the whole order or for one unit, and always rounded down."""
    fields = written(replace(PURCHASE, unit_limit=Money(123_499), quantity=2), **changes)
    assert (fields["money"], fields["money_type"]) == (money, changes.get("money_type", "2"))


@pytest.mark.parametrize(
    ("changes", "code", "about"),
    [
        ({"recipient": None}, "account", RefusedFor.RECIPIENT),
        ({"recipient": Recipient(RecipientKind.NONE, "")}, "account", RefusedFor.RECIPIENT),
        ({"recipient": Recipient(RecipientKind.PHONE, "91234567", "+852")}, "account", RefusedFor.RECIPIENT),
        ({"unit_limit": Money(99)}, "money", RefusedFor.PRICE),
    ],
)
def test_what_the_wire_cannot_say_is_refused_before_it_is_sent(
    changes: dict[str, Any], code: str, about: RefusedFor
) -> None:
    """Nobody to recharge, a phone whose area code would get lost, or no limit at all: nothing is sent."""
    refusal = supplier().place(replace(PURCHASE, **changes), NOW)
    assert isinstance(refusal, Refused)
    assert (refusal.code, refusal.about, refusal.certain) == (code, about, True)


def test_a_query_names_our_number_alone() -> None:
    """The request is vector R7 even when theirs is known, because theirs would win."""
    call = supplier().query([replace(PURCHASE, supplier_reference=REFERENCE)], NOW)
    assert isinstance(call, Call)
    assert call.request.url == "http://gateway.example/dcapi/queryOrder"
    assert call.request.body.decode() == "appid=10000&out_order_id=R202401010001&sign=2851A1E7017F313827AB7127CAF03938"


def test_the_configuration_is_closed_and_keeps_its_secret() -> None:
    """Only the known switches pass, the inconsistent pair doesn't, and the secret doesn't print."""
    adapter = load_adapter("kaquan91_recharge")
    known = {"base_url": "http://x", "appid": "1", "appsecret": SECRET}
    assert SECRET not in repr(TypeAdapter(adapter.config).validate_python(known))
    for wrong in (
        {"money_type": "3"},
        {"money_scope": "all"},
        {"sign_value_encoding": "raw"},
        {"notify_url_wire": "twice"},
        {"notify_url_wire": "pre-encoded"},
        {"query_after_reject": False},
        {"confirm_by_query": "false"},
    ):
        with pytest.raises(ValidationError):
            TypeAdapter(adapter.config).validate_python({**known, **wrong})
    with pytest.raises(ZoneInfoNotFoundError):
        adapter.supplier(TypeAdapter(adapter.config).validate_python({**known, "timezone": "Nowhere"}))


def test_every_key_of_the_account_is_accepted_and_takes_effect() -> None:
    """Paths and switches follow the account."""
    keys = {
        "base_url": "http://gateway.example",
        "appid": "10000",
        "appsecret": SECRET,
        "sign_value_encoding": "encode-all",
        "notify_url_wire": "pre-encoded",
        "money_type": "1",
        "money_scope": "unit",
        "check_stock": "true",  # as an environment variable has it
        "query_after_reject": "true",
        "confirm_by_query": True,
        "timezone": "Asia/Hong_Kong",
        "order_path": "/v2/pay",
        "query_path": "/v2/find",
    }
    assert keys.keys() == {item.name for item in dataclasses.fields(kaquan91_recharge.Config)}
    account = kaquan91_recharge.Kaquan91Recharge(TypeAdapter(kaquan91_recharge.Config).validate_python(keys))
    call = account.place(replace(PURCHASE, quantity=2, notify_url=NOTIFY), NOW)
    assert isinstance(call, Call)
    assert call.request.url == "http://gateway.example/v2/pay"
    sent = dict(parse_qsl(call.request.body.decode()))
    assert (sent["money"], sent["money_type"], sent["notify_url"], sent.pop("check")) == ("1200", "1", ONCE, "1")
    assert sent["sign"] == wire.sign(sent, SECRET, "encode-all")
    assert account.query([PURCHASE], NOW).request.url == "http://gateway.example/v2/find"


# --- Reading ----------------------------------------------------------------------------------------------------------


def test_the_documented_sample_is_accepted() -> None:
    """A success brings the supplier's number and the charge, whose absence is tolerated."""
    assert placed(reply(SAMPLE)) == Accepted(supplier_reference=REFERENCE, cost=yuan("12"))
    assert placed(reply({"code": "1", "result": 20220406})) == Accepted(supplier_reference="20220406")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (1, Accepted(supplier_reference=REFERENCE, cost=yuan("12"))),
        (2, Accepted(supplier_reference=REFERENCE, cost=yuan("12"))),
        (7, Accepted(supplier_reference=REFERENCE, cost=yuan("12"))),
        (3, Delivered(supplier_reference=REFERENCE, cost=yuan("12"))),
        (4, Delivered(supplier_reference=REFERENCE, cost=yuan("12"), settled=True)),
        (
            5,
            Delivered(
                supplier_reference=REFERENCE,
                cost=yuan("12"),
                after_sale=AfterSale.DISPUTED,
                detail="in dispute",
            ),
        ),
        (6, Refunded(cost=yuan("12"), detail="closed without a recharge")),
    ],
)
def test_every_documented_state(status: int, outcome: Outcome) -> None:
    """Each state means the same as a number and as text, and the price is the charge."""
    assert found(order(status=status)) == found(order(status=str(status))) == outcome


@pytest.mark.parametrize("status", [0, 8, "", None, True, 3.0, [3], "3 "])
def test_other_states_are_unclear(status: object) -> None:
    """An unknown or unreadable state is neither success nor failure."""
    assert isinstance(found(order(status=status)), Unclear)


@pytest.mark.parametrize("price", [None, "", "free", True, [], "-1", "1e999999999"])
def test_an_unreadable_price_leaves_the_cost_open(price: object) -> None:
    """The recharge counts whatever its price looks like."""
    assert found(order(price=price)) == Delivered(supplier_reference=REFERENCE)


@pytest.mark.parametrize(
    "changes", [{"out_order_id": "R202401010002"}, {"order_id": "API2"}, {"card_id": "53"}, {"card_id": 53}]
)
def test_another_order_is_a_contradiction(changes: dict[str, Any]) -> None:
    """An answer about another number or product is left to a person."""
    outcome = found(order(**changes), replace(PURCHASE, supplier_reference=REFERENCE))
    assert isinstance(outcome, Unclear)
    assert outcome.doubt is Doubt.CONTRADICTION


@pytest.mark.parametrize(
    "answered",
    [
        reply(b""),
        reply(b"<html></html>"),
        reply(b'{"code":1,"result":"API20220406'),
        reply(b"\xff"),
        reply([]),
        reply({"code": True, "result": REFERENCE}),
        reply({"code": 9, "result": REFERENCE}),
        reply({"code": 1}),
        reply({"code": 1, "result": None}),
        reply({"code": 1, "result": ""}),
        reply({"code": 1, "result": []}),
        reply({"code": 1, "result": {"status": 3}}),
        reply({"code": 1, "result": {"status": 3, "out_order_id": 5}}),
        reply({"code": 1, "result": {"status": 6, "out_order_id": None}}),
        reply(SAMPLE, status=500),
        reply(SAMPLE, status=401),
        reply(b"", status=404),
    ],
)
def test_what_is_not_understood_is_unclear(answered: HttpReply) -> None:
    """Malformed and contradictory answers prove nothing, to a purchase or to a query."""
    assert isinstance(placed(answered), Unclear)
    assert isinstance(found(answered), Unclear)


@pytest.mark.parametrize(
    ("message", "about"),
    [
        ("库存不足", RefusedFor.STOCK),
        ("余额不足", RefusedFor.BALANCE),
        ("订单金额低于平台价格", RefusedFor.PRICE),
        ("产品已下架", RefusedFor.PRODUCT),
        ("充值账号错误", RefusedFor.RECIPIENT),
        ("合作商订单号重复", RefusedFor.OTHER),
    ],
)
@pytest.mark.rule("P11")
def test_a_failure_text_classifies_a_refusal_but_never_makes_it_certain(message: str, about: RefusedFor) -> None:
    """`code` 0 to a purchase is a refusal to be checked by a query, whose own `code` 0 proves nothing."""
    outcome = placed(reply({"code": 0, "msg": message}))
    assert isinstance(outcome, Refused)
    assert (outcome.message, outcome.about, outcome.certain) == (message, about, False)
    assert isinstance(found(reply({"code": 0, "msg": message})), Unclear)


def test_failures_about_the_caller_and_about_the_number() -> None:
    """A refused signature or address had no effect; an unknown number is absent for a query only."""
    for message in ("签名错误", "appid错误", "IP未登记", "下单时间戳错误"):
        outcome = placed(reply({"code": 0, "msg": message}))
        assert isinstance(outcome, NotSent)
        assert outcome.cause is NotSentCause.CONFIGURATION
        assert found(reply({"code": 0, "msg": message})) == outcome
    assert isinstance(found(reply({"code": 0, "msg": "订单不存在"})), Absent)
    assert isinstance(placed(reply({"code": 0, "msg": "订单不存在"})), Refused)


@pytest.mark.parametrize("account", ["ip", "sign@example.com", "13800138000", "张三"])
def test_a_recipient_in_a_failure_text_neither_shows_nor_misleads(account: str) -> None:
    """The text is read and kept without the recipient, so nobody's name can pause the account."""
    purchase = replace(PURCHASE, recipient=Recipient(RecipientKind.ACCOUNT, account))
    outcome = placed(reply({"code": 0, "msg": f"充值账号 {account} 错误"}), purchase)
    assert isinstance(outcome, Refused)
    assert outcome.about is RefusedFor.RECIPIENT
    assert account not in outcome.message


# --- Cancel -----------------------------------------------------------------------------------------------------------

DRAWN = {
    "order_id": REFERENCE,
    "out_order_id": "R202401010001",
    "productId": "52",
    "price": 930,
    "productName": "话费",
    "account": "13800138000",
}


def drawn(answered: HttpReply, purchase: Purchase = PURCHASE) -> CancelAnswer:
    call = supplier().cancel(purchase, NOW)
    assert isinstance(call, Call)
    return call.read(answered)


def taken_down(**changes: Any) -> HttpReply:
    return reply({"code": 1, "msg": "下架成功", "result": {**DRAWN, **changes}})


def test_a_cancel_names_our_number_alone() -> None:
    """The request is vector R9 even when theirs is known, because theirs would win."""
    call = supplier().cancel(replace(PURCHASE, supplier_reference=REFERENCE), NOW)
    assert isinstance(call, Call)
    assert call.request.url == "http://gateway.example/dcapi/drawOrder"
    assert call.request.body.decode() == "appid=10000&out_order_id=R202401010001&sign=2851A1E7017F313827AB7127CAF03938"


@pytest.mark.parametrize(
    ("price", "refund"),
    [
        (930, yuan("9.30")),
        ("930", yuan("9.30")),
        (0, Money(0)),
        ("9.30", None),
        (9.3, None),
        (-930, None),
        (None, None),
        ("", None),
        (True, None),
        ([930], None),
        ("9" * 30, None),
    ],
)
def test_a_cancelled_order_returns_whole_fen(price: object, refund: Money | None) -> None:
    """930 is 9.30 yuan; what isn't whole fen leaves the refund open and the order cancelled."""
    assert drawn(taken_down(price=price)) == Cancelled(refund=refund, detail="taken down")


@pytest.mark.parametrize("message", ["订单状态不允许下架", "订单不存在", "订单充值中", ""])
def test_an_order_that_cannot_be_cancelled_is_left_as_it_is(message: str) -> None:
    """In any state but waiting the supplier answers code 0: no evidence about the order."""
    assert drawn(reply({"code": 0, "msg": message})) == CancelRefused(detail=f"code 0: {message}")


@pytest.mark.parametrize("account", ["ip", "13800138000"])
def test_a_refused_cancel_tells_nobody_who_the_recipient_is(account: str) -> None:
    """As in every text, the recipient is cut out before it is read or kept."""
    purchase = replace(PURCHASE, recipient=Recipient(RecipientKind.ACCOUNT, account))
    answer = drawn(reply({"code": 0, "msg": f"{account} 不可下架"}), purchase)
    assert answer == CancelRefused(detail="code 0: *** 不可下架")


@pytest.mark.parametrize("changes", [{"out_order_id": "R202401010002"}, {"order_id": "API2"}])
def test_another_orders_cancel_is_a_contradiction(changes: dict[str, Any]) -> None:
    """Something was taken down that wasn't ours: a person looks."""
    answer = drawn(taken_down(**changes), replace(PURCHASE, supplier_reference=REFERENCE))
    assert isinstance(answer, Unclear)
    assert answer.doubt is Doubt.CONTRADICTION


@pytest.mark.parametrize(
    "answered",
    [
        reply(b""),
        reply(b"<html></html>"),
        reply([]),
        reply({"code": 1, "msg": "下架成功"}),
        reply({"code": 1, "result": None}),
        reply({"code": 1, "result": REFERENCE}),
        reply({"code": 1, "result": {"price": 930}}),
        reply({"code": 0, "msg": "系统繁忙，请稍后再试"}),
        reply({"code": 1, "result": DRAWN}, status=500),
    ],
)
def test_a_cancel_that_is_not_understood_is_unclear(answered: HttpReply) -> None:
    """Only a look tells what became of the order."""
    answer = drawn(answered)
    assert isinstance(answer, Unclear)
    assert answer.doubt is None


def test_a_cancel_that_is_refused_because_of_us_had_no_effect() -> None:
    """Signature, address and rate: asked again later."""
    for answered, cause in (
        (reply({"code": 0, "msg": "签名错误"}), NotSentCause.CONFIGURATION),
        (reply({"code": 0, "msg": "IP未登记"}), NotSentCause.CONFIGURATION),
        (reply(b"", status=401), NotSentCause.CONFIGURATION),
        (reply(b"", status=429), NotSentCause.RATE_LIMITED),
    ):
        answer = drawn(answered)
        assert isinstance(answer, NotSent)
        assert answer.cause is cause


def test_a_success_is_watched_until_it_has_confirmed_itself() -> None:
    """24 hours and an hour more."""
    assert supplier().traits.aftersale_watch == 25 * 3600.0


# --- The deposit and the products -------------------------------------------------------------------------------------

PRODUCT = {
    "id": "52",
    "pid": 3,
    "name": "中国移动",
    "card_name": "话费 100元",
    "price": "99.10",
    "num": 0,
    "avg": 3600,
    "account_type": "手机号",
    "recharge_type": 1,
    "buy_remark": "客服电话 13800138000",
}
READ = SupplierProduct(
    number="52",
    name="中国移动 话费 100元",
    price=yuan("99.10"),
    stock=0,
    on_sale=True,
    details={
        "average_seconds": "3600",
        "account_type": "手机号",
        "recharge_type": "1",
        "buy_remark": "客服电话 ***",
    },
)


def asked(call: Call[Any] | NotOffered) -> Call[Any]:
    assert isinstance(call, Call)
    return call


def answered(call: Call[Any] | NotOffered, result: Any) -> Any:
    return asked(call).read(reply({"code": 1, "msg": "", "result": result, "time": "1704067200"}))


def test_questions_are_signed_without_their_paging() -> None:
    """Paths, fields and signatures of the deposit, the list and one product."""
    appid, paging = {"appid": "10000"}, {"pageIndex": "2", "pageSize": "50"}
    for call, path, signed, unsigned in (
        (supplier().balance(NOW), "/dcapi/queryCash", appid, {}),
        (supplier().products(NOW, page=2), "/dcapi/queryCardList", appid, paging),
        (supplier().product("52", NOW), "/dcapi/queryCardInfo", {**appid, "id": "52"}, {}),
    ):
        request = asked(call).request
        assert request.url == f"http://gateway.example{path}"
        sign = wire.sign(signed, SECRET)
        assert dict(parse_qsl(request.body.decode())) == {**signed, **unsigned, "sign": sign}


def test_deposit_products_and_product_are_read() -> None:
    """As the manual's samples have them, bare or in groups."""
    assert answered(supplier().balance(NOW), "348.70") == yuan("348.70")
    assert answered(supplier().product("52", NOW), PRODUCT) == READ
    for result in ([PRODUCT], [{"id": 1, "name": "x", "list": [PRODUCT]}], {"list": [PRODUCT], "total": 1}):
        assert answered(supplier().products(NOW), result) == Listing(products=(READ,))
    assert answered(supplier().product("52", NOW), []) == Absent("an empty list")
    assert supplier().order_form("52", NOW) == NotOffered("order forms")
    assert supplier().fetch_token(NOW) == NotOffered("access tokens")


@pytest.mark.parametrize(
    ("average", "on_sale"), [(0, False), (1, True), ("86400", True), (86401, False), (None, None), ("slow", None)]
)
def test_a_product_that_nobody_does_is_not_on_sale(average: object, on_sale: bool | None) -> None:
    """An average of 0 means that no worker takes orders; one above a day that the supplier delists it."""
    assert answered(supplier().product("52", NOW), {**PRODUCT, "avg": average}).on_sale is on_sale


@pytest.mark.parametrize("result", [None, "", 7, {}, {"price": "1"}, {**PRODUCT, "id": "53"}, [None]])
def test_questions_that_are_not_understood_are_unclear(result: object) -> None:
    """Nothing is made up of an answer that shows something else."""
    assert isinstance(answered(supplier().product("52", NOW), result), Unclear)
    assert isinstance(asked(supplier().product("52", NOW)).read(reply({"code": 0, "msg": "查询失败"})), Unclear)
    assert asked(supplier().products(NOW)).read(reply(b"", status=429)).cause is NotSentCause.RATE_LIMITED


# --- Callbacks --------------------------------------------------------------------------------------------------------


def signed(fields: Mapping[str, str], encoding: wire.SignEncoding = "notify-only") -> dict[str, str]:
    return {**fields, "sign": wire.sign(fields, SECRET, encoding)}


@pytest.mark.parametrize("vector", [v for v in VECTORS if v[0].startswith("R8")], ids=lambda v: v[0])
def test_callbacks_of_the_vectors_are_noticed(vector: tuple[str, tuple[str, ...], str, str, dict[str, str]]) -> None:
    """Either encoding is believed, and what is said of the state isn't: the notice has no outcome."""
    _, _, text, digest, raw = vector
    notice = call_back({**fields_of(text, raw), "sign": digest})
    assert isinstance(notice, Notice)
    assert (notice.number, notice.supplier_reference, notice.outcome) == ("R202401010001", REFERENCE, None)
    assert (notice.accepted.body, notice.accepted.status) == (b"success", 200)
    assert notice.unknown.body != b"success"


GOOD = fields_of(CALLBACK.format(evidence="", status=3), {})


def test_a_callback_may_have_further_signed_fields() -> None:
    """A field that the manual doesn't show counts as signed, an empty one as absent."""
    assert isinstance(call_back(signed({**GOOD, "remark": "好 ok", "check": "1"}, "encode-all")), Notice)
    assert isinstance(call_back({**signed(GOOD), "evidence": ""}), Notice)


@pytest.mark.parametrize(
    "body",
    [
        {**GOOD, "sign": "068131AF8FFF02AA05CBDEF2359B9459"},
        {**GOOD, "sign": ""},
        {**GOOD, "sign": "签名"},
        GOOD,
        {**signed(GOOD), "status": "4"},
        {**signed(GOOD), "out_order_id": "R202401010002"},
        {**signed(GOOD), "extra": "1"},
        {**GOOD, "sign": wire.sign({"out_order_id": GOOD["out_order_id"]}, SECRET)},
        {**GOOD, "sign": wire.sign(GOOD, "")},
        signed({"order_id": REFERENCE, "status": "3"}),
        b"",
        b"success",
        b"\xff=1",
        b"out_order_id=R202401010001&" + urlencode(signed(GOOD)).encode(),
        json.dumps({**signed(GOOD), "list": []}).encode(),
        b'{"sign": "x", "out_order_id": "\\ud800"}',
        b"[1]",
    ],
)
def test_forged_and_unreadable_callbacks_are_refused(body: bytes | dict[str, str]) -> None:
    """Wrong, missing and partial signatures, changed or repeated fields and other shapes never get `success`."""
    assert isinstance(call_back(body), CallbackRefused)


# --- Anything at all --------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(list(ORDER.values())),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["code", "msg", "result", "other", *ORDER, *PRODUCT]), inner, max_size=7)
    ),
    max_leaves=20,
)


@given(st.binary(max_size=200), st.sampled_from([200, 200, 401, 429, 500]))
def test_arbitrary_bytes_are_read_and_prove_nothing(body: bytes, status: int) -> None:
    """No bytes raise, and none that say no success are one."""
    for outcome in (placed(reply(body, status)), found(reply(body, status))):
        assert isinstance(outcome, Unclear | NotSent)
    assert isinstance(call_back(body), CallbackRefused)
    assert isinstance(drawn(reply(body, status)), Unclear | NotSent)
    for call in (supplier().balance(NOW), supplier().products(NOW), supplier().product("52", NOW)):
        assert isinstance(asked(call).read(reply(body, status)), Unclear | NotSent)


@given(VALUES, VALUES)
def test_arbitrary_json_delivers_only_our_number(result: Any, other: Any) -> None:
    """Success and refund need our own number beside a documented state, and buying never delivers by itself."""
    for body in ({"code": 1, "result": result, "other": other}, result):
        answered = reply(json.dumps(body).encode())
        assert not isinstance(placed(answered), Delivered | Refunded | Absent)
        if isinstance(drawn(answered), Cancelled):
            assert body["result"]["out_order_id"] == PURCHASE.number
        asked(supplier().products(NOW)).read(answered)
        asked(supplier().balance(NOW)).read(answered)
        product = asked(supplier().product("52", NOW)).read(answered)
        assert not isinstance(product, SupplierProduct) or product.number == "52"
        if isinstance(found(answered), Delivered | Refunded):
            said = body["result"]
            assert said["out_order_id"] == PURCHASE.number
            assert str(said["status"]) in ("3", "4", "5", "6")
