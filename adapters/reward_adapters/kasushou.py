"""Kasushou 卡速售 (version 2 protocol): cards and virtual goods, from any of many shops that run this system.

Every shop has its own domain and credentials and is one supplier account.

**Quirks**

* Buying only takes the order. Cards and results come from the order detail, asked every two seconds at first.
* Failures have one code, 400, and a text. Texts sort refusals and never settle them: what became of an order is asked.
* Callbacks are signed with slashes escaped (`\\/`), requests with slashes raw; cards in a callback are *not* signed. A
  callback is a reason to look, nothing more.
* A detail call without `day` = "0" hides orders older than 30 days.
* Refunded orders may still list their cards: those are not delivered.
* Status -1 means that our deposit at the shop was too small.
* A cancel is only taken note of, and takes the shop's order number: what becomes of the order is to be asked.
* Shops differ: codes as texts, amounts as numbers or with 4 decimals, cards as plain texts, one object for a list,
  lists bare or with `data` inside `data`.

Source: Kasushou manual (doc.kasushou.com/api/v2api), pages 39 (signature), 40 (codes), 41 (deposit), 44 and 45
(products), 48 (submit order), 49 (order detail), 50 (order callback), 145 (cancel) and 151 (order form).
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from reward_adapters import _wire
from reward_adapters._wire import (
    DEADLINES,
    JSON,
    about,
    amount,
    another,
    callback_fields,
    cannot_say,
    check_timezone,
    count,
    day,
    join_url,
    json_bytes,
    known_details,
    optional_text,
    page_of,
    rate_limited,
    read_listing,
    same_text,
    scrub,
    show_code,
    text,
    title,
)
from reward_adapters.contract import (
    Absent,
    Accepted,
    Adapter,
    Answer,
    Call,
    Callback,
    CallbackRefused,
    CancelAnswer,
    CancelRefused,
    CancelTaken,
    Card,
    CardKind,
    Context,
    Delivered,
    Doubt,
    FormEntry,
    HttpReply,
    HttpRequest,
    Listing,
    Notice,
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
    Traits,
    Unclear,
    secret,
)
from reward_adapters.money import Money, format_yuan, show_yuan

T = TypeVar("T")

SlashMode: TypeAlias = Literal["escaped", "raw"]

SUCCESS = "200"
FAILURE = "400"
"""Source: page 40. 500 is "unknown error" and proves nothing."""


class Status(StrEnum):
    """What became of an order. Source: page 49."""

    UNPAID = "-1"
    WAITING = "1"
    IN_PROGRESS = "2"
    DONE = "3"
    CANCELLED = "4"
    REFUNDED = "5"


CALLBACK_UNSIGNED = frozenset({"sign", "card_list", "express_list"})
"""Source: page 50."""

RECIPIENT_KEY = "recharge_account"
"""Source: page 48, `attach`."""

TIME_FORM = "%Y-%m-%d %H:%M:%S"
"""Source: page 50, `end_time` of a card."""

RECORDED = Answer(b"ok")
"""Source: page 50."""
REFUSED = Answer(b"fail", status=403)
"""Anything but "ok" is repeated (page 50)."""

PRODUCT_DIGITS = 18
"""`id` is an int on page 48; more digits fit no integer of a shop's."""

CLOSE_PATH = "/api/v1/order/close"
"""Source: page 145."""
USER_PATH = "/api/v1/user/info"
"""Source: page 41."""
GOODS_LIST_PATH = "/api/v1/goods/list"
"""Source: page 44."""
GOODS_INFO_PATH = "/api/v1/goods/info"
"""Source: page 45."""
ATTACH_PATH = "/api/v1/goods/attach"
"""Source: page 151."""

PAGE_SIZE = 100
"""Products of one page: the default of `limit` on page 44."""

ON_SALE = "1"
"""`status` of a product that can be bought; 2 is paused, 3 forbidden. Source: page 44."""
GOODS_TYPES: Mapping[str, str] = {"1": "card", "2": "virtual", "3": "physical"}
"""Source: page 44; the last one: page 135."""

PRODUCT_GONE = re.compile(r"商品(不存在|已?被?删除)|^(no such|unknown) (goods|product)", re.IGNORECASE)
"""Texts for a product that the shop doesn't have. Not documented; assumed because clients look for them."""

NOT_REQUIRED = frozenset(
    {"", "0", "false", "no", "none", "null", "nullable", "optional", "可选", "可空", "选填", "非必填"}
)
"""Values of `vali` in an order form, or parts of it as in `nullable|phone`, by which a field may stay empty. Not
documented (page 151 names the field only); assumed: it names how the field is checked, as in `required` or `phone`, and
without a check anything will do."""
CHOICE_TYPES = frozenset({"select", "radio"})
"""Types of form fields that take exactly one of their options. Source: page 45. Check boxes take several and cascades
are nested: for these any value is let through."""

DAY = 24 * 3600.0

AFTERSALE_WATCH = 7 * DAY
AFTERSALE_EVERY = 12 * 3600.0
"""Shops take orders back after success (status 5); until when isn't documented. Assumed: within a week."""

RATE_TEXTS = re.compile(
    r"rate limit|daily limit|too many requests|(请求|访问|接口|调用|操作)(过于|太|过)?频繁|限流", re.IGNORECASE
)
CONFIGURATION_TEXTS = re.compile(
    r"签名|signature|时间戳|timestamp|^用户(不存在|编号|已?被?禁用)|^(invalid|unknown) user|ip not allowed|白名单",
    re.IGNORECASE,
)
"""Texts of refusals that are about us and not about the order. Not documented; assumed because compatible shops and
their clients use such words."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One account at one shop."""

    base_url: str
    """The shop's own address; the paths below are the same at every shop."""
    user_id: str
    apikey: str = secret()
    buy_path: str = "/api/v1/order/buy"
    detail_path: str = "/api/v1/order/info"
    sort_nested: bool = True
    """Whether the keys of inner objects are sorted too. The manual's sample doesn't, compatible shops do."""
    json_escape_unicode: bool = False
    """Whether text beyond ASCII is written as `\\uXXXX`."""
    safe_price_mode: Literal["unit", "total"] = "unit"
    """Whether the shop compares `safe_price` with the price of one unit or of all; the manual doesn't say."""
    send_mark_empty: bool = True
    """Whether the empty remark is sent: older shops require the field."""
    query_day: str = "0"
    """How many days back the order detail looks; "0" is for ever. An order that isn't found when it may be older than
    that is in doubt, not absent."""
    not_found_texts: tuple[str, ...] = ("订单不存在",)
    """Parts of texts by which the order detail says that it doesn't know the number."""
    duplicate_texts: tuple[str, ...] = ("重复", "已存在", "duplicate")
    """Parts of texts by which a purchase is refused because its number was used: the order may well exist."""
    ack_unknown_order: bool = True
    """Whether callbacks about numbers we don't know are answered "ok", so that they aren't repeated."""
    callback_slash_modes: tuple[SlashMode, ...] = ("escaped", "raw")
    """How slashes may be written in the text that a callback's signature covers."""
    mirror_http_status: bool = True
    """Whether answers are read whose HTTP status repeats their code, too; else only those with HTTP 200."""
    timezone: str = "Asia/Shanghai"
    """The zone of the shop's times, of which the days of cards are passed on. Not documented; assumed because it is
    Chinese."""
    product_kind_by_id: dict[str, ProductKind] = field(default_factory=dict)
    """Kinds by product `id`, where the shop's product is of another kind than the one in the catalogue."""

    def __post_init__(self) -> None:
        """Refuses an unknown time zone, and a look-back that isn't a number of days."""
        check_timezone(self.timezone)
        if not re.fullmatch("[0-9]{1,4}", self.query_day):
            raise ValueError("query_day is a whole number of days; 0 looks back for ever")


class Kasushou:
    """One account's purchases at one shop."""

    traits = Traits(
        queryable=True,
        query_batch=20,
        calls_back=True,
        max_units_per_purchase=100,
        read_timeout=15.0,
        not_found_grace=60.0,  # not documented; assumed because the answer brings the order's number: it is booked
        # The advice is every 1-3 s until the end; that a minute of it is enough is assumed, to spare a busy shop.
        look_delays=(*[2.0] * 30, 5.0, 10.0, 30.0, 60.0, 300.0),
        aftersale_watch=AFTERSALE_WATCH,
        aftersale_every=AFTERSALE_EVERY,
        send_by=DEADLINES,
        settle_by=DEADLINES,
    )

    def __init__(self, config: Config) -> None:
        self._config = config
        if days := int(config.query_day):
            # Not documented; assumed to count calendar days: of the first one an hour may be left.
            self.traits = replace(self.traits, query_horizon=(days - 1) * DAY)

    def place(self, purchase: Purchase, context: Context) -> Call[Outcome] | Refused:
        """Source: page 48."""
        purchase = self._of_kind(purchase)
        product, safe_price = purchase.supplier_product, _safe_price(purchase, self._config)
        if not _is_product(product):
            return cannot_say(f"id is a whole number of at most {PRODUCT_DIGITS} digits", RefusedFor.PRODUCT)
        if not safe_price.strip("0."):
            return cannot_say("a limit under 0.01 yuan can't be sent and zero may mean none", RefusedFor.PRICE)
        fields: dict[str, Any] = {
            "id": int(product),
            "quantity": purchase.quantity,
            "external_orderno": purchase.number,
            "safe_price": safe_price,
        }
        if self._config.send_mark_empty:
            fields["mark"] = ""
        if purchase.notify_url:
            fields["url"] = purchase.notify_url
        if attach := _attach(purchase):
            fields["attach"] = attach
        read = partial(read_bought, purchase=purchase, config=self._config)
        return Call(self._request(self._config.buy_path, fields, context), read)

    def query(self, purchases: Sequence[Purchase], context: Context) -> Call[Mapping[str, Outcome]]:
        """Source: page 49."""
        numbers = ",".join(purchase.number for purchase in purchases)
        fields = {"external_orderno": numbers, "day": self._config.query_day}
        read = partial(read_details, purchases=tuple(map(self._of_kind, purchases)), config=self._config)
        return Call(self._request(self._config.detail_path, fields, context), read)

    def read_callback(self, callback: Callback) -> Notice | CallbackRefused:
        """Source: page 50."""
        return read_callback(callback, self._config)

    def cancel(self, purchase: Purchase, context: Context) -> Call[CancelAnswer] | NotOffered:
        """Source: page 145. Its `card_list` isn't sent: no card leaves us again."""
        if not purchase.supplier_reference:
            return NotOffered("cancelling an order whose ordersn isn't known")
        request = self._request(CLOSE_PATH, {"ordersn": purchase.supplier_reference}, context)
        return Call(request, partial(read_closed, purchase=purchase, config=self._config))

    def fetch_token(self, context: Context) -> NotOffered:
        """Requests are signed with the key itself."""
        return NotOffered("access tokens")

    def balance(self, context: Context) -> Call[Money | NotSent | Unclear]:
        """Source: page 41."""
        return Call(self._request(USER_PATH, {}, context), partial(read_balance, config=self._config))

    def products(self, context: Context, *, page: int = 1) -> Call[Listing | NotSent | Unclear]:
        """Source: page 44."""
        request = self._request(GOODS_LIST_PATH, {"limit": PAGE_SIZE, "page": page}, context)
        return Call(request, partial(read_goods_list, page=page, config=self._config))

    def product(self, number: str, context: Context) -> Call[SupplierProduct | Absent | NotSent | Unclear] | NotOffered:
        """Source: page 45."""
        if not _is_product(number):
            return NotOffered(f"products whose id isn't a whole number of at most {PRODUCT_DIGITS} digits")
        request = self._request(GOODS_INFO_PATH, {"id": int(number)}, context)
        return Call(request, partial(read_goods_info, number=str(int(number)), config=self._config))

    def order_form(self, number: str, context: Context) -> Call[tuple[FormEntry, ...] | NotSent | Unclear]:
        """Source: page 151."""
        request = self._request(ATTACH_PATH, {"goods_id": number}, context)
        return Call(request, partial(read_form, config=self._config))

    def _of_kind(self, purchase: Purchase) -> Purchase:
        kind = self._config.product_kind_by_id.get(purchase.supplier_product, purchase.product_kind)
        return replace(purchase, product_kind=kind)

    def _request(self, path: str, fields: Mapping[str, Any], context: Context) -> HttpRequest:
        body = request_body(fields, self._config)
        timestamp = str(int(context.now.timestamp() * 1000))
        headers = {
            "Content-Type": JSON,
            "UserId": self._config.user_id,
            "Timestamp": timestamp,
            "Sign": timed_body_sha1(timestamp, body, self._config.apikey),
        }
        return HttpRequest(join_url(self._config.base_url, path), body, headers)


ADAPTER = Adapter(config=Config, supplier=Kasushou)


# --- Signatures -------------------------------------------------------------------------------------------------------


def timed_body_sha1(timestamp: str, body: bytes, apikey: str) -> str:
    """SHA-1 of the time stamp, the body and the key. Source: page 39; page 50 uses it on a re-encoded body."""
    return hashlib.sha1(timestamp.encode() + body + apikey.encode()).hexdigest()


def request_body(fields: Mapping[str, Any], config: Config) -> bytes:
    """Compact JSON with sorted keys, slashes and other scripts raw, as page 39 signs it; empty is `{}`."""
    top_sorted = {key: fields[key] for key in sorted(fields)}
    return php_json(top_sorted, sort_keys=config.sort_nested, ascii_only=config.json_escape_unicode)


def callback_body(fields: Mapping[str, Any], slashes: SlashMode) -> bytes:
    """What a callback's signature covers: all but the unsigned fields, top-level keys sorted. Source: page 50."""
    body = php_json({key: fields[key] for key in sorted(fields) if key not in CALLBACK_UNSIGNED})
    return body.replace(b"/", b"\\/") if slashes == "escaped" else body


def php_json(value: Any, *, sort_keys: bool = False, ascii_only: bool = False) -> bytes:
    """JSON as the shop's PHP writes it, which escapes the two Unicode line ends even when it leaves other text raw."""
    body = json_bytes(value, sort_keys=sort_keys, ascii_only=ascii_only)
    return body.replace("\u2028".encode(), b"\\u2028").replace("\u2029".encode(), b"\\u2029")


# --- Buying -----------------------------------------------------------------------------------------------------------


def _safe_price(purchase: Purchase, config: Config) -> str:
    units = purchase.quantity if config.safe_price_mode == "total" else 1
    return format_yuan(Money(purchase.unit_limit * units))


def _is_product(number: str) -> bool:
    return number.isascii() and number.isdecimal() and len(number) <= PRODUCT_DIGITS


def _attach(purchase: Purchase) -> dict[str, str]:
    """The order form of virtual goods. Cards have none."""
    if purchase.product_kind.delivers_cards:
        return {}
    recipient = {RECIPIENT_KEY: purchase.recipient.value} if purchase.recipient else {}
    return {**purchase.form, **recipient}


def read_bought(reply: HttpReply, *, purchase: Purchase, config: Config) -> Outcome:
    """What the answer to a purchase means."""
    answer, code, message = _envelope(reply, config, purchase)
    if refusal := _refusal_by_http(reply, code):
        return refusal
    match answer:
        case {"data": dict(data)} if code == SUCCESS:
            return _read_taken(data, purchase)
        case dict() if code == FAILURE and _says(message, config.duplicate_texts):
            return Unclear(f"the number was used already: {message}")
        case dict() if code == FAILURE:
            topic = about(message)
            return _refusal_of_us(message) or Refused(code=code, message=message, certain=False, about=topic)
        case _:
            return _unclear(reply, code, message)


def _read_taken(data: Mapping[str, Any], purchase: Purchase) -> Outcome:
    if data.get("external_orderno") is not None and text(data["external_orderno"]) != purchase.number:
        told = another("external_orderno", data["external_orderno"], purchase.number, purchase)
        return Unclear(told, doubt=Doubt.CONTRADICTION)
    if not text(data.get("ordersn")):
        return Unclear("taken, but without ordersn")
    # Later editions of the manual add the status.
    return read_order(data if data.get("status") is not None else {**data, "status": Status.WAITING}, purchase)


# --- Order detail -----------------------------------------------------------------------------------------------------


def read_details(reply: HttpReply, *, purchases: Sequence[Purchase], config: Config) -> Mapping[str, Outcome]:
    """What the order detail says about each number: matched by number, never by place."""
    answer, code, message = _envelope(reply, config, *purchases)
    if refusal := _refusal_by_http(reply, code):
        return {purchase.number: refusal for purchase in purchases}
    everything: Outcome
    match answer:
        case {"data": list(orders)} if code == SUCCESS:
            return {purchase.number: _find(orders, purchase) for purchase in purchases}
        case {"data": {"external_orderno": _} as order} if code == SUCCESS:
            return {purchase.number: _find([order], purchase) for purchase in purchases}
        case dict() if code == FAILURE and _says(message, config.not_found_texts):
            # One text for several numbers doesn't say which of them is missing.
            everything = Absent(message) if len(purchases) == 1 else Unclear(f"one of several: {message}")
        case dict() if code == FAILURE and (refusal := _refusal_of_us(message)):
            everything = refusal
        case _:
            everything = _unclear(reply, code, message)
    return {purchase.number: everything for purchase in purchases}


def _find(orders: Sequence[object], purchase: Purchase) -> Outcome:
    numbers = [text(order.get("external_orderno")) if isinstance(order, dict) else "" for order in orders]
    found = [order for order, number in zip(orders, numbers, strict=True) if number == purchase.number]
    match found:
        case [dict(order)]:
            return read_order(order, purchase)
        case [] if "" in numbers:
            return Unclear("the list holds an order that can't be read")
        case []:
            return Absent("not in the list")
        case _:
            return Unclear(f"{len(found)} orders under one number, 1 was placed", doubt=Doubt.CONTRADICTION)


def read_order(order: Mapping[str, Any], purchase: Purchase) -> Outcome:
    """What one order's state means for us."""
    reference, cost = text(order.get("ordersn")) or None, amount(order.get("total_price"))
    if reference and purchase.supplier_reference and reference != purchase.supplier_reference:
        told = another("ordersn", reference, purchase.supplier_reference, purchase)
        return Unclear(told, doubt=Doubt.CONTRADICTION)
    match text(order.get("status")):
        case Status.UNPAID:
            message = "not paid from our deposit"
            return Refused(code=Status.UNPAID.value, message=message, certain=True, about=RefusedFor.BALANCE)
        case Status.WAITING | Status.IN_PROGRESS:
            return Accepted(supplier_reference=reference, cost=cost)
        case Status.DONE:
            return _read_done(order.get("card_list"), purchase, reference, cost)
        case Status.CANCELLED | Status.REFUNDED:
            return Refunded(amount=amount(order.get("has_back_money")), cost=cost)
        case other:
            return Unclear(f"unknown status {show_code(other)!r}")


def _read_done(listed: object, purchase: Purchase, reference: str | None, cost: Money | None) -> Outcome:
    if not purchase.product_kind.delivers_cards:
        if listed:
            return Unclear("cards came for a product without cards", doubt=Doubt.CONTRADICTION)
        return Delivered(supplier_reference=reference, cost=cost)
    if not listed:
        return Accepted(supplier_reference=reference, cost=cost, detail="done, but no card is listed yet")
    entries = [listed] if isinstance(listed, dict) else listed  # one card may stand there without its list
    cards = [read_card(entry) for entry in entries] if isinstance(entries, list) else [None]
    readable = tuple(card for card in cards if card)
    if len(readable) < len(cards):
        return Unclear(f"done, but only {len(readable)} of {len(cards)} cards listed are readable")
    complete = len(readable) >= purchase.quantity
    return Delivered(cards=readable, complete=complete, supplier_reference=reference, cost=cost)


def read_card(entry: object) -> Card | None:
    """One entry of `card_list`; `None` when it can't be read or is empty. Some shops list plain texts."""
    match entry:
        case str() if code := optional_text(entry):
            return Card(kind=CardKind.CODE, secret=code)
        case dict():
            number, password = optional_text(entry.get("card_no")), optional_text(entry.get("card_password"))
            if number is None or password is None or not (number or password):
                return None
            return Card(
                kind=CardKind.NUMBER_AND_SECRET if number and password else CardKind.CODE,
                number=number,
                secret=password,
                valid_until=day(entry.get("end_time"), TIME_FORM),
            )
        case _:
            return None


# --- Cancel -----------------------------------------------------------------------------------------------------------


def read_closed(reply: HttpReply, *, purchase: Purchase, config: Config) -> CancelAnswer:
    """What the answer to a cancel means. Source: page 145: success says only that the wish was taken."""
    answer, code, message = _envelope(reply, config, purchase)
    if refusal := _refusal_by_http(reply, code):
        return refusal
    match answer:
        case dict() if code == SUCCESS:
            return CancelTaken(detail=message)
        case dict() if code == FAILURE:
            return _refusal_of_us(message) or CancelRefused(detail=f"code {FAILURE}: {message}")
        case _:
            return _unclear(reply, code, message)


# --- Deposit, products and forms --------------------------------------------------------------------------------------


def _read_data(reply: HttpReply, config: Config, read: Callable[[Any], T]) -> T | NotSent | Unclear:
    answer, code, message = _envelope(reply, config)
    if refusal := _refusal_by_http(reply, code):
        return refusal
    match answer:
        case {"data": data} if code == SUCCESS:
            return read(data)
        case dict() if code == FAILURE and (refusal := _refusal_of_us(message)):
            return refusal
        case _:
            return _unclear(reply, code, message)


def read_balance(reply: HttpReply, *, config: Config) -> Money | NotSent | Unclear:
    """The deposit: yuan, as text or as a number."""

    def read(data: Any) -> Money | Unclear:
        left = _wire.balance(data.get("balance")) if isinstance(data, dict) else None
        return Unclear("no readable balance") if left is None else left

    return _read_data(reply, config, read)


def read_goods_list(reply: HttpReply, *, page: int, config: Config) -> Listing | NotSent | Unclear:
    """One page of products, in `data` itself, in its `list`, or in `data` inside `data`."""

    def read(data: Any) -> Listing | Unclear:
        listed = page_of(data)
        if listed is None:
            return Unclear("no list of products")
        return read_listing(listed.entries, read_goods, more=listed.more(page, PAGE_SIZE))

    return _read_data(reply, config, read)


def read_goods_info(reply: HttpReply, *, number: str, config: Config) -> SupplierProduct | Absent | NotSent | Unclear:
    """One product. That an unknown one is told by a text or by an empty list is not documented; assumed so because
    orders are.
    """

    def read(data: Any) -> SupplierProduct | Absent | Unclear:
        inner = data.get("data") if isinstance(data, dict) and "id" not in data else data
        if inner == []:
            return Absent("an empty list")
        entries = inner if isinstance(inner, list) else [inner]
        goods = [product for entry in entries if isinstance(entry, dict) and (product := read_goods(entry))]
        found = [product for product in goods if product.number == number]
        return found[0] if len(found) == 1 else Unclear("the answer doesn't show the product")

    answer, code, message = _envelope(reply, config)
    if answer is not None and code == FAILURE and PRODUCT_GONE.search(message):
        return Absent(message)
    return _read_data(reply, config, read)


def read_goods(entry: Mapping[str, Any]) -> SupplierProduct | None:
    """One product; `None` without its number. Source: pages 44 and 45."""
    number, status, face_value = text(entry.get("id")), text(entry.get("status")), amount(entry.get("face_value"))
    least, most = count(entry.get("start_count")), count(entry.get("end_count"))
    if not _is_product(number):
        return None
    return SupplierProduct(
        number=number,
        name=title(entry.get("goods_name")),
        price=amount(entry.get("goods_price")),
        stock=count(entry.get("stock_num")),
        on_sale=status == ON_SALE if status else None,
        details=known_details(
            type=GOODS_TYPES.get(text(entry.get("goods_type")), ""),
            face_value="" if face_value is None else show_yuan(face_value),
            least="" if least is None else str(least),
            most="" if most is None else str(most),
        ),
    )


def read_form(reply: HttpReply, *, config: Config) -> tuple[FormEntry, ...] | NotSent | Unclear:
    """What a product asks of the buyer; nothing for cards, whose template is empty. Source: page 151."""

    def read(data: Any) -> tuple[FormEntry, ...] | Unclear:
        listed = page_of(data or [])
        entries = [read_form_entry(entry) for entry in listed.entries] if listed else [None]
        known = tuple(entry for entry in entries if entry)
        return known if len(known) == len(entries) else Unclear("an order form that can't be read")

    return _read_data(reply, config, read)


def read_form_entry(entry: object) -> FormEntry | None:
    """One field of an order form; `None` without its key."""
    if not isinstance(entry, dict) or not (key := text(entry.get("key"))):
        return None
    kind, vali = text(entry.get("type")), entry.get("vali")
    return FormEntry(
        key=key,
        label=title(entry.get("name")) or key,
        required=_is_required(vali),
        options=read_options(entry.get("options")) if kind in CHOICE_TYPES else (),
        hint=title(entry.get("tip")),
    )


def _is_required(vali: object) -> bool:
    if not isinstance(vali, str):
        return bool(vali)
    return not any(part.strip().lower() in NOT_REQUIRED for part in re.split(r"[|,，]", vali))


def read_options(options: object) -> tuple[str, ...]:
    """What may be chosen: a list as JSON text, of texts or of objects with a `value`. Empty, which lets any value
    through, when it can't be read: the shop checks once more.
    """
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except (ValueError, RecursionError):
            return ()
    if not isinstance(options, list):
        return ()
    values = [text(option.get("value") if isinstance(option, dict) else option) for option in options]
    return tuple(values) if all(values) else ()


# --- Envelope ---------------------------------------------------------------------------------------------------------


def _envelope(reply: HttpReply, config: Config, *purchases: Purchase) -> tuple[object, str, str]:
    """The answer, its code and its scrubbed text. Some shops repeat the code as HTTP status; other ones hide it."""
    answer = reply.json()
    if not isinstance(answer, dict):
        return None, "", ""
    # What customers typed is quoted in failures: it must neither stand in logs nor pass for the shop's own words.
    typed = (value for purchase in purchases for value in _attach(purchase).values())
    message = scrub(answer.get("msg") or answer.get("message"), *typed)
    code = text(answer.get("code"))
    expected = (SUCCESS, code) if config.mirror_http_status else (SUCCESS,)
    return (answer, code, message) if str(reply.status) in expected else (None, code, message)


def _says(message: str, parts: Sequence[str]) -> bool:
    return any(part.casefold() in message.casefold() for part in parts)


def _unclear(reply: HttpReply, code: str, message: str) -> Unclear:
    return Unclear(f"HTTP {reply.status}, code {show_code(code) or 'missing'}: {message}")


def _refusal_by_http(reply: HttpReply, code: str) -> NotSent | None:
    """Refusals of us by HTTP status. Success in the body counts for more: sent again, it might be bought again."""
    if code == SUCCESS:
        return None
    if reply.status == 401:
        return NotSent(cause=NotSentCause.CONFIGURATION, detail="HTTP 401")
    return rate_limited(reply)


def _refusal_of_us(message: str) -> NotSent | None:
    """Refusals that are about the caller: whatever was asked, it had no effect."""
    if RATE_TEXTS.search(message):
        return NotSent(cause=NotSentCause.RATE_LIMITED, detail=message)
    if CONFIGURATION_TEXTS.search(message):
        return NotSent(cause=NotSentCause.CONFIGURATION, detail=message)
    return None


# --- Callback ---------------------------------------------------------------------------------------------------------


def read_callback(callback: Callback, config: Config) -> Notice | CallbackRefused:
    """Verifies and reads, JSON or form. What the callback says of the order is left alone: its cards aren't signed."""
    fields = callback_fields(callback) or {}
    number, time = text(fields.get("external_orderno")), text(fields.get("time"))
    if not _genuine(fields, time, config):
        return CallbackRefused(reason="the signature is wrong")
    if not number:
        return CallbackRefused(reason="no external_orderno: not about an order")
    return Notice(
        number=number,
        supplier_reference=text(fields.get("ordersn")) or None,
        accepted=RECORDED,
        unknown=RECORDED if config.ack_unknown_order else REFUSED,
    )


def _genuine(fields: Mapping[str, Any], time: str, config: Config) -> bool:
    try:
        bodies = [callback_body(fields, slashes) for slashes in config.callback_slash_modes]
    except (ValueError, RecursionError):
        return False
    fits = [same_text(timed_body_sha1(time, body, config.apikey), fields.get("sign")) for body in bodies]
    return bool(time) and any(fits)
