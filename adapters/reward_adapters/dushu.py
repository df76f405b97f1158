"""Dushu 樊登读书: membership time, put on the account of a phone number at once.

An unregistered phone number gets an account and a text message.

**Quirks**

* The signature covers the exact bytes of the body with the secret *before* them: the body is written once, signed and
  sent as it stands.
* `fee` must equal the agreed settlement price: it is the price guard, and always our expected cost, never the limit.
* Success is the *text* "0000". Failures carry a flag spelled `suceess`, which decides nothing.
* A number used twice answers 2004, or 9999 when the two come close together: both mean "look", neither "refused".
* Order numbers exceed 2^53: they are kept as text.
* `productNo` is called `productId` in the order detail.
* The product list takes nothing and has no pages; there is no call for one product and none that cancels.
* No callbacks. An old access token lives 5 minutes on after a new one was issued.

Source: Dushu open platform manual, pages 会期直充 (create order), 订单详情 (order detail), vip-product-list
(product list), 获取 AccessToken (token), 业务参数签名 (signature) and 全局返回码 (gateway codes).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal
from urllib.parse import urlencode

from reward_adapters._wire import (
    JSON,
    amount,
    another,
    cannot_say,
    join_url,
    json_bytes,
    known_details,
    lifetime,
    page_of,
    rate_limited,
    read_listing,
    scrub,
    show_code,
    text,
    title,
)
from reward_adapters.contract import (
    Absent,
    Accepted,
    Adapter,
    Call,
    Callback,
    Context,
    Delivered,
    Doubt,
    HttpReply,
    HttpRequest,
    Listing,
    NotOffered,
    NotSent,
    NotSentCause,
    Outcome,
    ProductKind,
    Purchase,
    RecipientKind,
    Refused,
    RefusedFor,
    SupplierProduct,
    Token,
    Traits,
    Unclear,
    secret,
)
from reward_adapters.money import UNITS_PER_YUAN, Money, show_yuan

SUCCESS = "0000"
RECHARGE_FAILED = "2005"
REFUSALS: Mapping[str, RefusedFor] = {
    "2001": RefusedFor.PRODUCT,
    "2002": RefusedFor.PRICE,
    "2003": RefusedFor.RECIPIENT,
    RECHARGE_FAILED: RefusedFor.OTHER,
    "2006": RefusedFor.RECIPIENT,
    "2007": RefusedFor.PRODUCT,
    "2008": RefusedFor.PRODUCT,
    "2009": RefusedFor.RECIPIENT,
    "2010": RefusedFor.OTHER,
}
"""Source: create order, status codes (2001 to 2005). 2006 to 2010 (received already, off the shelf, package off line,
bought already, no settlement method) are not documented; assumed because a public client of the platform lists them."""

TOKEN_CODES = frozenset({"100002", "100003"})
CONFIGURATION_CODES = frozenset({"100001", *(str(code) for code in range(100004, 100014))})
"""Source: gateway codes. None of them reaches the order service."""

GATEWAY_HTTP_STATUS: Mapping[str, int] = {
    **dict.fromkeys(("100002", "100003", "100004"), 401),
    **dict.fromkeys((str(code) for code in range(100008, 100014)), 403),
}
"""Not documented; assumed because these are the usual ones. The codes here are believed with any HTTP status."""

CODE_FIELDS = ("status", "code", "errcode", "error")
"""Where gateway codes stand is not documented; assumed because these are the usual names, tried in this order."""

NUMBER_LENGTH = 32
"""Not documented; assumed because the samples are shorter and a longer one could be cut."""
PRODUCT_DIGITS = 18
"""`productNo` is an Integer on the page; more digits fit no integer of the supplier's."""

CREDENTIAL_ERRORS = frozenset({"invalid_client", "unauthorized_client"})
"""`error` of a refused token call. Source: token (the first); the second not documented; assumed because OAuth 2.0
names it so."""

DEADLINE = 24 * 3600.0

VIP_UNITS: Mapping[str, str] = {"1": "year", "2": "month", "3": "day"}
"""Units of `vipValue`. Source: product list."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One Dushu app."""

    base_url: str
    """Production: https://open-platform.dushu.io"""
    appid: str
    appsecret: str = secret()
    pay_type: str
    """How our customers pay, as agreed: "1" IAP, "2" Alipay, "3" WeChat; others must be enabled."""
    area_code: str = "+86"
    """For phone numbers that come without one."""
    fee_mode: Literal["unit", "total"] = "unit"
    """Whether `fee` is the price of one unit or of all; the manual doesn't say."""
    verify_on_2005: bool = True
    """Look before 2005 (recharge failed) is believed."""
    ambiguous_codes: tuple[str | int, ...] = ("2004", "9999", "200001", "200002", "200003", "200004")
    """Codes after which only a look tells what happened."""
    not_found_codes: tuple[str | int, ...] = ("0006",)
    """Codes by which the order detail says that it doesn't know the number."""
    order_path: str = "/vip/order/create"
    detail_path: str = "/vip/order/detail"
    list_path: str = "/vip/product/list"
    token_path: str = "/oauth/token"  # noqa: S105 - a path
    empty_body_mode: Literal["empty", "braces"] = "empty"
    """What a signed call without parameters, such as the product list, has as its body; the manual doesn't say."""
    gateway_http_status: dict[str, int] = field(default_factory=lambda: dict(GATEWAY_HTTP_STATUS))
    """Codes that come with an HTTP status of their own, and which: such an answer is read as one with 200 is."""


class Dushu:
    """One Dushu app's purchases."""

    traits = Traits(
        queryable=True,
        needs_token=True,
        token_margin=200.0,
        not_found_grace=60.0,  # not documented; assumed because orders are booked at once: a minute is long
        absence_resends=2,
        look_delays=(2.0, 5.0, 15.0, 60.0, 300.0),  # not documented; assumed because orders are seldom NEW for long
        send_by=dict.fromkeys(ProductKind, DEADLINE),
        settle_by=dict.fromkeys(ProductKind, DEADLINE),
    )

    def __init__(self, config: Config) -> None:
        self._config = config

    def place(self, purchase: Purchase, context: Context) -> Call[Outcome] | Refused:
        """Source: create order."""
        if refusal := _unsayable(purchase):
            return refusal
        body = _created_body(purchase, self._config)
        return Call(
            self._request(self._config.order_path, body, context),
            partial(read_created, purchase=purchase, config=self._config, token=context.token),
        )

    def query(self, purchases: Sequence[Purchase], context: Context) -> Call[Mapping[str, Outcome]]:
        """Source: order detail, which takes one number."""
        (purchase,) = purchases
        body = json_bytes({"tradeNo": purchase.number})

        def read(reply: HttpReply) -> Mapping[str, Outcome]:
            return {purchase.number: read_detail(reply, purchase=purchase, config=self._config, token=context.token)}

        return Call(self._request(self._config.detail_path, body, context), read)

    def read_callback(self, callback: Callback) -> NotOffered:
        """No page of the manual has callbacks."""
        return NotOffered("callbacks")

    def cancel(self, purchase: Purchase, context: Context) -> NotOffered:
        """No page of the manual takes an order back."""
        return NotOffered("cancelling")

    def fetch_token(self, context: Context) -> Call[Token | NotSent]:
        """Source: token."""
        credentials = {"client_id": self._config.appid, "client_secret": self._config.appsecret}
        query = urlencode({"grant_type": "client_credentials", **credentials})
        return Call(HttpRequest(f"{join_url(self._config.base_url, self._config.token_path)}?{query}"), read_token)

    def balance(self, context: Context) -> NotOffered:
        """Settled by agreement: there is no deposit."""
        return NotOffered("a balance")

    def products(self, context: Context, *, page: int = 1) -> Call[Listing | NotSent | Unclear]:
        """Source: product list. All products stand on the first page."""
        read = partial(read_products, config=self._config, token=context.token)
        return Call(self._list_request(context), read if page == 1 else lambda reply: _beyond(read(reply)))

    def product(self, number: str, context: Context) -> Call[SupplierProduct | Absent | NotSent | Unclear]:
        """Source: product list: one product is picked from it."""

        def read(reply: HttpReply) -> SupplierProduct | Absent | NotSent | Unclear:
            match read_products(reply, config=self._config, token=context.token):
                case Listing(products=products):
                    found = [product for product in products if product.number == number]
                    return found[0] if found else Absent("not in the list")
                case not_sent_or_unclear:
                    return not_sent_or_unclear

        return Call(self._list_request(context), read)

    def order_form(self, number: str, context: Context) -> NotOffered:
        """A purchase takes a phone number and nothing else."""
        return NotOffered("order forms")

    def _list_request(self, context: Context) -> HttpRequest:
        return self._request(
            self._config.list_path, b"{}" if self._config.empty_body_mode == "braces" else b"", context
        )

    def _request(self, path: str, body: bytes, context: Context) -> HttpRequest:
        sign = salted_body_sha1(self._config.appsecret, body, self._config.appid)
        query = urlencode({"appid": self._config.appid, "sign": sign, "access_token": context.token or ""})
        return HttpRequest(f"{join_url(self._config.base_url, path)}?{query}", body, {"Content-Type": JSON})


ADAPTER = Adapter(config=Config, supplier=Dushu)


# --- Signature --------------------------------------------------------------------------------------------------------


def salted_body_sha1(appsecret: str, body: bytes, appid: str) -> str:
    """SHA-1 of the secret, the body exactly as it is sent, and the app's id.

    Source: signature, whose prose leaves the order open; its sample comes out in this one only.
    """
    return hashlib.sha1(appsecret.encode() + body + appid.encode()).hexdigest()


# --- Create -----------------------------------------------------------------------------------------------------------


def _unsayable(purchase: Purchase) -> Refused | None:
    product, recipient = purchase.supplier_product, purchase.recipient
    if len(purchase.number) > NUMBER_LENGTH:
        return cannot_say(f"tradeNo has at most {NUMBER_LENGTH} characters")
    if not (product.isascii() and product.isdecimal() and len(product) <= PRODUCT_DIGITS):
        return cannot_say(f"productNo is a whole number of at most {PRODUCT_DIGITS} digits", RefusedFor.PRODUCT)
    if purchase.product_kind.delivers_cards:
        return cannot_say("the supplier has no cards", RefusedFor.PRODUCT)
    if recipient is None or recipient.kind is not RecipientKind.PHONE or not recipient.value:
        return cannot_say("the recipient must be a phone number", RefusedFor.RECIPIENT)
    return None


def _created_body(purchase: Purchase, config: Config) -> bytes:
    """`fee` is a JSON number written digit by digit: no float comes near an amount."""
    recipient = purchase.recipient
    members = {
        "mobile": json.dumps(recipient.value if recipient else ""),
        "areaCode": json.dumps((recipient and recipient.area_code) or config.area_code),
        "productNo": str(int(purchase.supplier_product)),
        "buyCount": str(purchase.quantity),
        "fee": show_yuan(fee(purchase, config)),
        "tradeNo": json.dumps(purchase.number),
        "payType": json.dumps(config.pay_type),
    }
    return ("{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}").encode()


HIGHEST = Money(1_000_000 * UNITS_PER_YUAN)
"""Above this it is no amount that anybody was charged; a number of another kind must not be shown as one."""


def fee(purchase: Purchase, config: Config) -> Money:
    """The agreed price, as the supplier compares it."""
    return total(purchase) if config.fee_mode == "total" else purchase.unit_cost


def total(purchase: Purchase) -> Money:
    """What the whole purchase should cost."""
    return Money(purchase.unit_cost * purchase.quantity)


def read_created(reply: HttpReply, *, purchase: Purchase, config: Config, token: str | None) -> Outcome:
    """What the create answer means."""
    answer = reply.json()
    code, message = _code(answer), _message(answer, *_typed(purchase), token)
    reply = _as_expected(reply, code, config)
    if refusal := _refusal_of_us(reply, code, message):
        return refusal
    if reply.status != 200:
        return Unclear(f"HTTP {reply.status}, code {show_code(code)}")
    match answer:
        case {"status": str(status), "data": dict(data)} if status == SUCCESS:
            return _read_success(data, purchase)
        case {"status": status} if text(status) in REFUSALS and code not in _texts(config.ambiguous_codes):
            # After a second send "received already" may be about the first one: the engine looks.
            certain = purchase.sends == 1 and not (code == RECHARGE_FAILED and config.verify_on_2005)
            return Refused(code=code, message=message, certain=certain, about=REFUSALS[code])
    known = code in (SUCCESS, "", *_texts(config.ambiguous_codes))
    return Unclear(f"code {show_code(code)} tells nothing certain: {message}", alert=not known)


def _read_success(data: Mapping[str, Any], purchase: Purchase) -> Outcome:
    order_number = text(data.get("orderNumber"))
    if not order_number:
        return Unclear("success without orderNumber")
    if "tradeNo" in data and text(data["tradeNo"]) != purchase.number:
        return Unclear(another("tradeNo", data["tradeNo"], purchase.number, purchase), doubt=Doubt.CONTRADICTION)
    return Delivered(supplier_reference=order_number)


# --- Order detail -----------------------------------------------------------------------------------------------------


def read_detail(reply: HttpReply, *, purchase: Purchase, config: Config, token: str | None) -> Outcome:
    """What the order detail says."""
    answer = reply.json()
    code, message = _code(answer), _message(answer, *_typed(purchase), token)
    reply = _as_expected(reply, code, config)
    if refusal := _refusal_of_us(reply, code, message):
        return refusal
    if reply.status != 200:
        return Unclear(f"HTTP {reply.status}, code {show_code(code)}")
    match answer:
        case {"status": status} if text(status) in _texts(config.not_found_codes):
            return Absent(f"code {show_code(code)}")
        case {"status": str(status), "data": dict(data)} if status == SUCCESS:
            return _read_order(data, purchase)
        case _:
            return Unclear(f"unknown answer, code {show_code(code)}: {message}")


def _read_order(data: Mapping[str, Any], purchase: Purchase) -> Outcome:
    order_number, cost = text(data.get("orderNumber")) or None, amount(data.get("totalFee"))
    if difference := _difference(data, purchase):
        return Unclear(difference, doubt=Doubt.CONTRADICTION)
    match data.get("orderStatus"):
        case "COMPLETE":
            return Delivered(cost=cost, supplier_reference=order_number)
        case "NEW":
            return Accepted(cost=cost, supplier_reference=order_number)
        case other:
            return Unclear(f"unknown orderStatus {scrub(other)!r}")


def _difference(data: Mapping[str, Any], purchase: Purchase) -> str | None:
    """The first field that tells of another order than ours, in words with both values. Absent fields tell nothing,
    except for our number.
    """
    ours = str(int(purchase.supplier_product)) if purchase.supplier_product.isdecimal() else ""
    if text(data.get("tradeNo")) != purchase.number:
        return another("tradeNo", data.get("tradeNo"), purchase.number, purchase)
    if data.get("productId") is not None and text(data["productId"]) != ours:
        return another("productId", data["productId"], ours or purchase.supplier_product, purchase)
    if data.get("totalFee") is not None and (charged := amount(data["totalFee"])) != total(purchase):
        told = "no amount" if charged is None or charged > HIGHEST else f"{show_yuan(charged)} yuan"
        return f"the answer's totalFee is {told}, expected {show_yuan(total(purchase))} yuan"
    known = purchase.supplier_reference
    if known and data.get("orderNumber") is not None and text(data["orderNumber"]) != known:
        return another("orderNumber", data["orderNumber"], known, purchase)
    return None


# --- Product list -----------------------------------------------------------------------------------------------------


def read_products(reply: HttpReply, *, config: Config, token: str | None) -> Listing | NotSent | Unclear:
    """What the product list says. Which products may be bought is agreed off-line: it doesn't tell."""
    answer = reply.json()
    code, message = _code(answer), _message(answer, token)
    reply = _as_expected(reply, code, config)
    if refusal := _refusal_of_us(reply, code, message):
        return refusal
    match answer:
        case {"status": str(status), "data": data} if status == SUCCESS and reply.status == 200:
            listed = page_of(data)
            return read_listing(listed.entries, read_product) if listed else Unclear("success without a list")
        case _:
            return Unclear(f"HTTP {reply.status}, code {show_code(code) or 'missing'}: {message}")


def _beyond(answer: Listing | NotSent | Unclear) -> Listing | NotSent | Unclear:
    """A page after the first and only one."""
    return Listing(products=()) if isinstance(answer, Listing) else answer


def read_product(entry: Mapping[str, Any]) -> SupplierProduct | None:
    """One product; `None` without its number."""
    number, value, unit = text(entry.get("productNo")), text(entry.get("vipValue")), text(entry.get("vipUnit"))
    if not (number.isascii() and number.isdecimal()):
        return None
    shown = f"{value} {VIP_UNITS[unit]}{'' if value == '1' else 's'}" if value.isdecimal() and unit in VIP_UNITS else ""
    return SupplierProduct(
        number=number,
        name=title(entry.get("productName")),
        price=amount(entry.get("price")),
        details=known_details(membership=scrub(shown), remark=scrub(entry.get("remark"))),
    )


# --- Codes ------------------------------------------------------------------------------------------------------------


def _code(answer: object) -> str:
    """The first code the answer has, as text; a number 0 stays "0" and is not "0000"."""
    if not isinstance(answer, dict):
        return ""
    return next((code for name in CODE_FIELDS if (code := text(answer.get(name)))), "")


def _as_expected(reply: HttpReply, code: str, config: Config) -> HttpReply:
    """With HTTP 200 in place of the status that this code is known to come with."""
    return replace(reply, status=200) if config.gateway_http_status.get(code) == reply.status else reply


def _texts(codes: Iterable[str | int]) -> set[str]:
    """Codes as the platform writes them: four digits at least. TOML knows no leading zeros, so `6` is "0006"."""
    return {str(code).zfill(4) for code in codes}


def _typed(purchase: Purchase) -> tuple[str, ...]:
    """What the supplier may quote and a log must not show."""
    return (purchase.recipient.value,) if purchase.recipient else ()


def _message(answer: object, *hidden: str | None) -> str:
    return scrub(answer.get("msg"), *hidden) if isinstance(answer, dict) else ""


def _refusal_of_us(reply: HttpReply, code: str, message: str) -> NotSent | None:
    """Refusals by the gateway: whatever was asked, it had no effect. Success in the body counts for more."""
    if code == SUCCESS:
        return None
    if code in TOKEN_CODES:
        return NotSent(cause=NotSentCause.TOKEN_REFUSED, detail=f"code {show_code(code)}")
    if code in CONFIGURATION_CODES:
        return NotSent(cause=NotSentCause.CONFIGURATION, detail=f"code {show_code(code)}: {message}")
    if reply.status == 401:
        return NotSent(cause=NotSentCause.TOKEN_REFUSED, detail="HTTP 401")
    return rate_limited(reply)


# --- Token ------------------------------------------------------------------------------------------------------------


def read_token(reply: HttpReply) -> Token | NotSent:
    """Source: token: flat, in camel case. The usual OAuth names are read too."""
    if limited := rate_limited(reply):
        return limited
    answer = reply.json()
    code = _code(answer)
    if code in CREDENTIAL_ERRORS | CONFIGURATION_CODES or reply.status == 401:
        return NotSent(cause=NotSentCause.CONFIGURATION, detail=f"token refused, code {show_code(code)}")
    if isinstance(answer, dict) and reply.status == 200 and not answer.get("error"):
        value = text(answer.get("value") or answer.get("access_token"))
        seconds = lifetime(answer.get("expiresIn") or answer.get("expires_in"))
        if value and seconds:
            return Token(value, seconds)
    return NotSent(cause=NotSentCause.NO_TOKEN, detail=f"no token in the answer (HTTP {reply.status})")
