"""What the two services of 91 Kaquan (玖壹卡券) share: the signature, the envelope and the texts of failures.

Sources: "91 manual" is http://source.showdoc.com.cn/dc91/…; "sister manual" is https://www.showdoc.com.cn/dcsqy/…, the
manual of the brand 视权益, which shows the same paths, texts and samples and is read as the same software.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from urllib.parse import quote_plus

from reward_adapters import _wire
from reward_adapters._wire import FORM, another, form_bytes, join_url, retry_after, scrub, text, title
from reward_adapters.contract import (
    Absent,
    HttpReply,
    HttpRequest,
    Listing,
    NotSent,
    NotSentCause,
    Purchase,
    Refused,
    RefusedFor,
    SupplierProduct,
    Unclear,
)
from reward_adapters.money import Money

SignEncoding: TypeAlias = Literal["notify-only", "encode-all"]
NotifyUrlWire: TypeAlias = Literal["plain", "pre-encoded"]
MoneyType: TypeAlias = Literal["1", "2"]
MoneyScope: TypeAlias = Literal["total", "unit"]

BALANCE = "/dcapi/queryCash"
"""Source: sister manual, page dcsqy/8675315574318708."""

PAGE_SIZE = 50
"""Products of one page: the most that the lists give (sister manual, pages dcsqy/11545294945873014 and
dcsqy/11545325077314578: 20 to 50)."""


def only(key: str, given: object, allowed: object, why: str) -> None:
    """Refuses another value of a configuration key than the one that the design allows."""
    if given != allowed:
        raise ValueError(f"{key} can only be {str(allowed).lower()}: {why}")


# --- Signing ----------------------------------------------------------------------------------------------------------


def url_encoded(value: str) -> str:
    """URL encoding as PHP's `urlencode` does it: space is `+`, hex digits are upper case, `~` is escaped too.

    Not documented; assumed because the supplier's servers and the clients seen are PHP.
    """
    return quote_plus(value).replace("~", "%7E")


def signed_text(fields: Mapping[str, str], encoding: SignEncoding = "notify-only") -> str:
    """The text that is signed, without the key: non-empty fields except `sign`, sorted by name.

    Source: 91 manual, page dc91/11230922121936956. `"0"` isn't empty. `notify_url` enters the text URL-encoded; whether
    the other values do isn't said, hence the two encodings: they differ only for values with special characters.
    """
    return "&".join(
        f"{name}={url_encoded(value) if encoding == 'encode-all' or name == 'notify_url' else value}"
        for name, value in sorted(fields.items())
        if value and name != "sign"
    )


def sign(fields: Mapping[str, str], appsecret: str, encoding: SignEncoding = "notify-only") -> str:
    """The signature: MD5 in upper case over the signed text with `&appsecret=…` at its end.

    Source: 91 manual, page dc91/11230922121936956; the form of the end: sister manual, page dcsqy/9821748311289199.
    UTF-8 isn't documented; assumed because the manual itself is UTF-8. Raises ValueError for half a surrogate pair.
    """
    signed = f"{signed_text(fields, encoding)}&appsecret={appsecret}"
    return hashlib.md5(signed.encode(), usedforsecurity=False).hexdigest().upper()


def request(base_url: str, path: str, fields: Mapping[str, str]) -> HttpRequest:
    """A POST of form fields, signature included."""
    return HttpRequest(url=join_url(base_url, path), body=form_bytes(fields), headers={"content-type": FORM})


# --- The envelope -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Success:
    """`code` 1."""

    result: Any = field(repr=False)
    other: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """`code` 0 for a reason that has to do with the order. `message` is scrubbed."""

    message: str


def read_envelope(reply: HttpReply, *hidden: str | None) -> Success | Failure | NotSent | Unclear:
    """Reads `code`, `msg`, `result` and `other` (the sample in 91 manual, page dc91/11233731352824825).

    `code` may be a number or a text. `hidden` is what the supplier knows and logs must not: it is cut out of the
    message before anything is concluded from it, so a recipient called `ip` can't look like a refused IP address.
    HTTP status 200 for failures too isn't documented; assumed because the samples show failures as `code` 0.
    """
    answer = reply.json()
    body = answer if isinstance(answer, dict) else {}
    match reply.status, text(body.get("code")):
        case 200, "1":
            other = body.get("other")
            return Success(body.get("result"), other if isinstance(other, dict) else {})
        case 200, "0":
            return _failure(scrub(body.get("msg"), *hidden))
        case 401, "" | "0":
            return NotSent(cause=NotSentCause.CONFIGURATION, detail="HTTP 401")
        case 429, "" | "0":
            return NotSent(cause=NotSentCause.RATE_LIMITED, detail="HTTP 429", retry_after=retry_after(reply))
        case 200, "":
            return Unclear("the answer is no JSON object with a code")
        case 200, _:
            return Unclear("the answer's code is neither 0 nor 1")
        case status, _:
            return Unclear(f"HTTP {status}")


# --- The texts of failures --------------------------------------------------------------------------------------------
# No list of them is published: `code` 0 comes with a Chinese text and nothing else. The words below are not documented;
# assumed because they are what such texts say. They never decide whether an order exists, with one exception that is
# kept narrow: the texts for an unknown number.

_CALLER = re.compile(r"签名|白名单|时间戳|(?<![a-z])(?:sign|app_?id|ip)(?![a-z])", re.IGNORECASE)
_TOO_FAST = re.compile(r"(?:请求|访问|接口|调用)(?:过于|太|过)?频繁|限流")
_ABOUT = (
    (re.compile(r"库存|缺货|售罄|无货"), RefusedFor.STOCK),
    (re.compile(r"余额"), RefusedFor.BALANCE),
    (re.compile(r"账号|帐号|手机号|号码|QQ号"), RefusedFor.RECIPIENT),
    (re.compile(r"价格|金额|进价|售价|调价|亏本"), RefusedFor.PRICE),
    (re.compile(r"产品|商品|卡券|card_id"), RefusedFor.PRODUCT),
)
_MISSING = r"(?:未找到|没有找到|找不到|查无|不存在)"
_ORDER = r"(?:订单|单号|out_order_id|order)(?:号|编号|信息|数据|记录)?"
_ENDS = r"(?![\u4e00-\u9fff])"
"""No Chinese text goes on: "订单不存在售后" and "无此订单操作权限" are about something else."""
_UNKNOWN_NUMBER = re.compile(
    rf"{_ORDER}[\s:：*【】\[\]]*(?:{_MISSING}|not found|does not exist){_ENDS}"
    rf"|(?:{_MISSING}|无)(?:该|此|这个|相关|对应)?{_ORDER}{_ENDS}",
    re.IGNORECASE,
)
_GOODS = r"(?:产品|商品|卡券|card_id)(?:id|编号|信息)?"
_UNKNOWN_PRODUCT = re.compile(
    rf"{_GOODS}[\s:：【】\[\]]*(?:{_MISSING}|not found)|{_MISSING}(?:该|此|这个|相关|对应)?{_GOODS}", re.IGNORECASE
)
_TRY_LATER = re.compile(r"系统|繁忙|稍后|异常|超时|timeout|busy", re.IGNORECASE)


def _failure(message: str) -> Failure | NotSent:
    if _CALLER.search(message):
        return NotSent(cause=NotSentCause.CONFIGURATION, detail=message)
    if _TOO_FAST.search(message):
        return NotSent(cause=NotSentCause.RATE_LIMITED, detail=message)
    return Failure(message)


def refused(failure: Failure) -> Refused:
    """`code` 0 to a purchase. Never certain: a repeated number is refused by text too, though its order exists."""
    about = next((about for words, about in _ABOUT if words.search(failure.message)), RefusedFor.OTHER)
    return Refused(code="0", message=failure.message, certain=False, about=about)


def says_unknown_number(failure: Failure) -> bool:
    """Whether a query's failure says that there is no such order, and not merely that it couldn't be read now."""
    return bool(_UNKNOWN_NUMBER.search(failure.message)) and not says_try_later(failure)


def says_try_later(failure: Failure) -> bool:
    """Whether a failure tells of trouble at the supplier rather than of what was asked."""
    return bool(_TRY_LATER.search(failure.message))


# --- Values -----------------------------------------------------------------------------------------------------------

_REFERENCE = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")


def reference(value: object) -> str | None:
    """One of the supplier's numbers, as text; `None` for what can't be one. Samples have 19 to 22 characters."""
    number = text(value)
    return number if _REFERENCE.fullmatch(number) else None


def names_another(said: Mapping[str, Any], field_name: str, ours: str | None, purchase: Purchase) -> str:
    """That an answer names another number than ours, in words with both; "" when it doesn't. What is missing on either
    side contradicts nothing.
    """
    if not ours or text(said.get(field_name)) in ("", ours):
        return ""
    return another(field_name, said.get(field_name), ours, purchase)


def personal(purchase: Purchase) -> tuple[str, ...]:
    """What a failure text may quote and a log must not show."""
    recipient = (purchase.recipient.value,) if purchase.recipient else ()
    return (*recipient, *purchase.form.values())


# --- The deposit and the products -------------------------------------------------------------------------------------

ReadProduct: TypeAlias = Callable[[Mapping[str, Any]], SupplierProduct | None]


def read_balance(reply: HttpReply) -> Money | NotSent | Unclear:
    """The deposit: yuan as text in `result` (sister manual, page dcsqy/8675315574318708)."""
    match read_envelope(reply):
        case Success(result, _):
            left = _wire.balance(result)
            return Unclear("a success without an amount") if left is None else left
        case Failure(message):
            return Unclear(f"the question failed: {message}")
        case not_sent_or_unclear:
            return not_sent_or_unclear


def read_listing(reply: HttpReply, read: ReadProduct, page: int) -> Listing | NotSent | Unclear:
    """One page of products. The page of the manual is cut short; the older list has groups with products in `list`
    (sister manual, page dcsqy/8771496202910907): both shapes are read.
    """
    match read_envelope(reply):
        case Success(result, _):
            listed = _wire.page_of(result)
            if listed is None:
                return Unclear("a success without a list")
            entries = [product for entry in listed.entries for product in _ungrouped(entry)]
            return _wire.read_listing(entries, read, more=listed.more(page, PAGE_SIZE))
        case Failure(message):
            return Unclear(f"the question failed: {message}")
        case not_sent_or_unclear:
            return not_sent_or_unclear


def _ungrouped(entry: Any) -> list[Any]:
    group = entry.get("list") if isinstance(entry, dict) else None
    return group if isinstance(group, list) else [entry]


def read_product(reply: HttpReply, read: ReadProduct, number: str) -> SupplierProduct | Absent | NotSent | Unclear:
    """One product. How an unknown one is answered isn't documented; assumed: like an unknown order."""
    match read_envelope(reply):
        case Success([], _):
            return Absent("an empty list")
        case Success(result, _):
            entries = result if isinstance(result, list) else [result]
            products = [product for entry in entries if isinstance(entry, dict) and (product := read(entry))]
            found = [product for product in products if product.number == number]
            return found[0] if len(found) == 1 else Unclear("a success that doesn't show the product")
        case Failure(message) as failure if _UNKNOWN_PRODUCT.search(message) and not says_try_later(failure):
            return Absent(message)
        case Failure(message):
            return Unclear(f"the question failed: {message}")
        case not_sent_or_unclear:
            return not_sent_or_unclear


def product_number(entry: Mapping[str, Any]) -> str | None:
    """A product's number: `id` in lists, `card_id` in orders."""
    return reference(entry.get("id")) or reference(entry.get("card_id"))


def product_name(entry: Mapping[str, Any]) -> str:
    """`name` and `card_name`, which may repeat each other or tell brand and value apart."""
    brand, card = title(entry.get("name")), title(entry.get("card_name"))
    return card or brand if not brand or not card or brand in card else f"{brand} {card}"
