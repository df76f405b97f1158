"""Kuaiduibao 快兑宝: phone credit and data, coupons, gift cards and membership cards.

Cards and coupons come in the create answer, top-ups are confirmed later by a callback.

**Quirks**

* There is no order query, unless the supplier grants one (`order_query_path`). What a lost answer meant is told by the
  callback, or by a person: no code of a second send is believed, because the first one may have been taken.
* Requests carry a token and no signature; only callbacks and our answers to them are signed.
* No quantity, no price guard and no callback address on the wire: one unit a purchase, the callback address is set in
  the supplier's console.
* The secret of a card is called `card_pws` in the table and `card_pwd` in one sample of the same page; a coupon with a
  fixed code leaves it empty.
* Callbacks hold no cards: a card product whose answer was lost is delivered at the supplier and its card is not here.
* Deposit and products stand in the merchant console only. Nothing can be cancelled.
* Dates are written month/day/year.

Source: Kuaiduibao manual (docs.kuaiduibao.com), pages 下单 (create order), App授权 (token), 充值成功回调 (callback) and
签名规则 (signature).
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from reward_adapters._wire import (
    DEADLINES,
    FORM,
    JSON,
    Encoding,
    about,
    another,
    callback_fields,
    cannot_say,
    check_timezone,
    day,
    form_bytes,
    join_url,
    json_bytes,
    lifetime,
    optional_text,
    rate_limited,
    same_text,
    scrub,
    show_code,
    text,
)
from reward_adapters.contract import (
    Accepted,
    Adapter,
    Answer,
    Call,
    Callback,
    CallbackRefused,
    Card,
    CardKind,
    Context,
    Delivered,
    Doubt,
    HttpReply,
    HttpRequest,
    Notice,
    NotOffered,
    NotSent,
    NotSentCause,
    Outcome,
    ProductKind,
    Purchase,
    RecipientKind,
    Refused,
    RefusedFor,
    Token,
    Traits,
    Unclear,
    secret,
)

NUMBER_LENGTH = 36
RECIPIENT_LENGTH = 20
PRODUCT_DIGITS = 10
"""Source: create order, request table: String(36), String(20), int(10)."""

BUSINESS_FAILURE = "1"
NO_SUCH_OBJECT = "100404"
CERTAIN_REFUSALS = frozenset({BUSINESS_FAILURE, NO_SUCH_OBJECT})
"""Codes that mean "not taken". The create-order page lists none but 0; these are printed for other calls of the same
gateway (lottery, user pages). Not documented for orders; assumed because the gateway shares one envelope."""

QUERIED_DONE = "1"
"""`status` of a finished order in the answer of an order query. Not documented; assumed because callbacks mean success
by it. No other status is believed."""

DATE_FORM = "%m/%d/%Y"
HOME_AREA_CODE = "+86"
"""`receive_no` holds a bare number. Not documented; assumed to be a mainland one because no page has an area code."""

INVALID_CLIENT = "invalid_client"
"""Not documented (the token page names the field `error`, no values); assumed because OAuth 2.0 names it so."""


USED_BEFORE = re.compile(r"重复|已存在|duplicate", re.IGNORECASE)
"""Texts by which a refusal says that the number was used before, as when something on the way sent the request twice:
the order may well exist. Not documented; assumed because such texts say so. A text only ever makes a refusal less
certain."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One Kuaiduibao app."""

    base_url: str
    """Production: https://api.open.kuaiduibao.com/"""
    app_id: int
    app_secret: str = secret()
    request_encoding: Literal["form", "json"] = "form"
    """How request bodies are written; the manual doesn't say."""
    path_prefix: str = ""
    """Put before the paths, as in `/api`."""
    token_path: str = "/o-auth2/app/access-token"  # noqa: S105 - a path
    order_path: str = "/service/order/create"
    order_query_path: str = ""
    """Path of an order query, for apps that were granted one. Callbacks are then a reason to look, nothing more."""
    ip_list_path: str = "/api/basic/ip"
    """Path of the list of the supplier's addresses. Nothing in this version reads it."""
    ambiguous_codes: tuple[int, ...] = ()
    """Codes of refusals that aren't believed, such as one that turns out to mean "number used already"."""
    retry_same_out_trade_no: bool = False
    """Only false: after a lost answer the same number could buy twice. (A bool and no `Literal`, so that the text of an
    environment variable is read.)"""
    non_success_callback: Literal["review"] = "review"
    """What a callback with another status than success does: a person looks."""
    callback_encodings: tuple[Encoding, ...] = ("form", "json")
    """In which encodings callbacks are read."""
    timezone: str = "Asia/Shanghai"
    """The zone of the supplier's days, which are passed on as days. Not documented; assumed because it is Chinese."""
    product_kind_by_no: dict[str, ProductKind] = field(default_factory=dict)
    """Kinds by product number, where answers are of another kind than the product in the catalogue."""

    def __post_init__(self) -> None:
        """Refuses what no adapter of this supplier may do."""
        check_timezone(self.timezone)
        if self.retry_same_out_trade_no:
            raise ValueError("retry_same_out_trade_no can only be false: the same number could buy twice")


class Kuaiduibao:
    """One Kuaiduibao app's purchases."""

    traits = Traits(
        queryable=False,
        needs_token=True,
        price_guard=False,
        calls_back=True,
        # No page tells of a query: these two are for apps that were granted one, and are assumed.
        not_found_grace=60.0,
        look_delays=(1.0, 3.0, 10.0, 30.0, 60.0, 300.0),
        send_by=DEADLINES,
        settle_by=DEADLINES,
    )

    def __init__(self, config: Config) -> None:
        self._config = config
        if config.order_query_path:
            self.traits = replace(self.traits, queryable=True)

    def place(self, purchase: Purchase, context: Context) -> Call[Outcome] | Refused:
        """Source: create order."""
        recipient = purchase.recipient.value if purchase.recipient else ""
        if refusal := _unsayable(purchase, recipient):
            return refusal
        fields: dict[str, str | int] = {
            "access_token": context.token or "",
            "out_trade_no": purchase.number,
            "product_no": int(purchase.supplier_product),
        }
        if recipient:
            fields["receive_no"] = recipient
        refusals = CERTAIN_REFUSALS - {str(code) for code in self._config.ambiguous_codes}
        read = partial(read_created, purchase=self._of_kind(purchase), refusals=refusals, token=context.token)
        return Call(self._request(self._config.order_path, fields), read)

    def query(self, purchases: Sequence[Purchase], context: Context) -> Call[Mapping[str, Outcome]] | NotOffered:
        """No page of the manual has an order query; assumed to be like the other calls, where one was granted."""
        if not self._config.order_query_path:
            return NotOffered("an order query")
        (purchase,) = purchases
        fields: dict[str, str | int] = {"access_token": context.token or "", "out_trade_no": purchase.number}

        def read(reply: HttpReply) -> Mapping[str, Outcome]:
            return {purchase.number: read_queried(reply, purchase=self._of_kind(purchase), token=context.token)}

        return Call(self._request(self._config.order_query_path, fields), read)

    def read_callback(self, callback: Callback) -> Notice | CallbackRefused:
        """Source: callback."""
        return read_callback(callback, self._config)

    def cancel(self, purchase: Purchase, context: Context) -> NotOffered:
        """No page of the manual takes an order back."""
        return NotOffered("cancelling")

    def balance(self, context: Context) -> NotOffered:
        """The deposit stands in the merchant console only."""
        return NotOffered("a balance")

    def products(self, context: Context, *, page: int = 1) -> NotOffered:
        """The product library stands in the merchant console only."""
        return NotOffered("a product list")

    def product(self, number: str, context: Context) -> NotOffered:
        """The product library stands in the merchant console only."""
        return NotOffered("product details")

    def order_form(self, number: str, context: Context) -> NotOffered:
        """An order takes a number to credit and nothing else."""
        return NotOffered("order forms")

    def fetch_token(self, context: Context) -> Call[Token | NotSent]:
        """Source: token."""
        fields: dict[str, str | int] = {"app_id": self._config.app_id, "app_secret": self._config.app_secret}
        return Call(self._request(self._config.token_path, fields), read_token)

    def _of_kind(self, purchase: Purchase) -> Purchase:
        kind = self._config.product_kind_by_no.get(purchase.supplier_product, purchase.product_kind)
        return replace(purchase, product_kind=kind)

    def _request(self, path: str, fields: Mapping[str, str | int]) -> HttpRequest:
        url = join_url(join_url(self._config.base_url, self._config.path_prefix), path)
        if self._config.request_encoding == "json":
            return HttpRequest(url, json_bytes(fields), {"Content-Type": JSON})
        return HttpRequest(url, form_bytes({key: str(value) for key, value in fields.items()}), {"Content-Type": FORM})


ADAPTER = Adapter(config=Config, supplier=Kuaiduibao)


# --- Signature --------------------------------------------------------------------------------------------------------


def sorted_fields_hmac_sha256(fields: Mapping[str, str], app_secret: str) -> str:
    """HMAC-SHA256 of the raw `key=value` pairs, joined with `&` in the order of their keys, `_sign` left out.

    Source: signature. Its prose says "SHA-256", both its programs compute the HMAC.
    """
    canonical = "&".join(f"{key}={fields[key]}" for key in sorted(fields) if key.lower() != "_sign")
    return hmac.new(app_secret.encode(), canonical.encode(), hashlib.sha256).hexdigest()


# --- Orders -----------------------------------------------------------------------------------------------------------


def _unsayable(purchase: Purchase, recipient: str) -> Refused | None:
    product = purchase.supplier_product
    if len(purchase.number) > NUMBER_LENGTH:
        return cannot_say(f"out_trade_no has at most {NUMBER_LENGTH} characters")
    if not (product.isascii() and product.isdecimal() and len(product) <= PRODUCT_DIGITS):
        return cannot_say(f"product_no is a whole number of at most {PRODUCT_DIGITS} digits", RefusedFor.PRODUCT)
    if purchase.quantity != 1:
        return cannot_say("an order is for one unit")
    if len(recipient) > RECIPIENT_LENGTH:
        return cannot_say(f"receive_no has at most {RECIPIENT_LENGTH} characters", RefusedFor.RECIPIENT)
    match purchase.recipient:
        case None:
            return None
        case known if known.kind is RecipientKind.PHONE and known.area_code not in ("", HOME_AREA_CODE):
            return cannot_say("receive_no has no area code", RefusedFor.RECIPIENT)
    return None


def read_created(reply: HttpReply, *, purchase: Purchase, refusals: frozenset[str], token: str | None) -> Outcome:
    """What the create answer means."""
    answer = reply.json()
    code = text(answer.get("code")) if isinstance(answer, dict) else ""
    if code == "0" and reply.status in (401, 429):
        # Success in the body counts for more than a refusal in the status: sent again, it might be bought again.
        return Unclear(f"HTTP {reply.status} with code 0", doubt=Doubt.CONTRADICTION)
    if reply.status == 401:
        return NotSent(cause=NotSentCause.TOKEN_REFUSED, detail="HTTP 401")
    if limited := rate_limited(reply):
        return limited
    if reply.status != 200:
        return Unclear(f"HTTP {reply.status}")
    match answer:
        case {"data": dict(data)} if code == "0":
            return _read_taken(data, purchase)
        case dict() if code == "0":
            return Unclear("code 0 without data")
        case dict() if code:
            recipient = purchase.recipient.value if purchase.recipient else None
            message = scrub(answer.get("msg"), token, recipient)
            return _read_refusal(code, message, purchase, refusals)
        case _:
            return Unclear("the answer isn't readable")


def _read_taken(data: Mapping[str, Any], purchase: Purchase) -> Outcome:
    order_no = text(data.get("order_no")) or None
    listed = data.get("cards")
    if not listed:
        return Accepted(supplier_reference=order_no) if order_no else Unclear("code 0 without order_no")
    if not purchase.product_kind.delivers_cards:
        return Unclear("cards came for a product without cards", doubt=Doubt.CONTRADICTION)
    entries = [listed] if isinstance(listed, dict) else listed  # one card may stand there without its list
    cards = [read_card(entry) for entry in entries] if isinstance(entries, list) else [None]
    readable = tuple(card for card in cards if card)
    if len(readable) < len(cards):
        told = f"code 0, but only {len(readable)} of {len(cards)} cards listed are readable"
        return Unclear(told, doubt=Doubt.CARD_MISSING)
    bare = any(card.number and not card.secret for card in readable)
    return Delivered(
        cards=readable,
        complete=len(readable) >= purchase.quantity,
        supplier_reference=order_no,
        # A coupon is redeemed by its number; of a card somebody may miss the password.
        detail="no password: the number is all there is" if bare and purchase.product_kind is ProductKind.CARD else "",
    )


def _read_refusal(code: str, message: str, purchase: Purchase, refusals: frozenset[str]) -> Outcome:
    if code not in CERTAIN_REFUSALS:
        return Unclear(f"unknown code {show_code(code)}: {message}", alert=True)
    if code not in refusals or purchase.sends > 1:
        return Unclear(f"code {code}, which proves nothing here: {message}")
    if USED_BEFORE.search(message):
        return Unclear(f"code {code}: the number was used already: {message}", alert=True)
    return Refused(code=code, message=message, certain=True, about=about(message))


def read_queried(reply: HttpReply, *, purchase: Purchase, token: str | None) -> Outcome:
    """What the answer of an order query means.

    Not documented; assumed: the common envelope around `order_no`, `status` and `cards`. No code is believed, as none
    is known to mean "no such order".
    """
    if reply.status == 401:
        return NotSent(cause=NotSentCause.TOKEN_REFUSED, detail="HTTP 401")
    if limited := rate_limited(reply):
        return limited
    if reply.status != 200:
        return Unclear(f"HTTP {reply.status}")
    match reply.json():
        case {"code": code, "data": dict(data)} if text(code) == "0":
            return _read_found(data, purchase)
        case {"code": code, **others}:
            recipient = purchase.recipient.value if purchase.recipient else None
            return Unclear(
                f"the query answers code {show_code(text(code))}: {scrub(others.get('msg'), token, recipient)}"
            )
        case _:
            return Unclear("the answer isn't readable")


def _read_found(data: Mapping[str, Any], purchase: Purchase) -> Outcome:
    order_no, status, known = text(data.get("order_no")), text(data.get("status")), purchase.supplier_reference
    if data.get("out_trade_no") is not None and text(data["out_trade_no"]) != purchase.number:
        told = another("out_trade_no", data["out_trade_no"], purchase.number, purchase)
        return Unclear(told, doubt=Doubt.CONTRADICTION)
    if known and order_no and order_no != known:
        return Unclear(another("order_no", order_no, known, purchase), doubt=Doubt.CONTRADICTION)
    if not order_no or status != QUERIED_DONE:
        return Unclear(f"the query tells nothing: status {show_code(status)!r}")
    if purchase.product_kind.delivers_cards or data.get("cards"):
        return _read_taken(data, purchase)
    return Delivered(supplier_reference=order_no)


def read_card(listed: object) -> Card | None:
    """One entry of `cards`; `None` when it can't be read or holds nothing that redeems."""
    if not isinstance(listed, dict):
        return None
    number, link = optional_text(listed.get("card_no")), optional_text(listed.get("link"))
    spellings = optional_text(listed.get("card_pws")), optional_text(listed.get("card_pwd"))
    if number is None or link is None or None in spellings:
        return None
    password = spellings[0] or spellings[1] or ""
    match bool(number), bool(password), bool(link):
        case True, True, _:
            kind = CardKind.NUMBER_AND_SECRET
        case True, False, _:
            kind = CardKind.CODE
        case False, True, True:
            kind = CardKind.LINK_AND_SECRET
        case False, True, False:
            kind = CardKind.CODE
        case False, False, True:
            kind = CardKind.LINK
        case _:
            return None
    return Card(
        kind=kind,
        number=number,
        secret=password,
        link=link,
        valid_from=day(listed.get("start_time"), DATE_FORM),
        valid_until=day(listed.get("expire_time"), DATE_FORM),
    )


# --- Token ------------------------------------------------------------------------------------------------------------


def read_token(reply: HttpReply) -> Token | NotSent:
    """Source: token. The answer is flat; one wrapped like the others is read too."""
    if limited := rate_limited(reply):
        return limited
    answer = reply.json()
    match answer:
        case {"code": _, "data": dict(inner)}:
            answer = inner
    match answer:
        case {"access_token": str(value), "expires_in": expires_in} if reply.status == 200:
            if value and (seconds := lifetime(expires_in)):
                return Token(value, seconds)
        case {"error": error} if text(error) == INVALID_CLIENT or reply.status == 401:
            return NotSent(cause=NotSentCause.CONFIGURATION, detail=f"token refused: {scrub(error)}")
    return NotSent(cause=NotSentCause.NO_TOKEN, detail=f"no token in the answer (HTTP {reply.status})")


# --- Callback ---------------------------------------------------------------------------------------------------------


def read_callback(callback: Callback, config: Config) -> Notice | CallbackRefused:
    """Verifies and reads. Without a query the callback itself is the evidence."""
    app_secret, fields = config.app_secret, callback_fields(callback, config.callback_encodings) or {}
    texts = {key: value if isinstance(value, str) else text(value) for key, value in fields.items()}
    try:
        genuine = same_text(sorted_fields_hmac_sha256(texts, app_secret), fields.get("_sign"))
    except ValueError:  # half a surrogate pair has no bytes to sign
        genuine = False
    number, order_no = text(fields.get("out_trade_no")), text(fields.get("order_no"))
    if not genuine:
        return CallbackRefused(reason="the signature is wrong")
    if not number:
        return CallbackRefused(reason="no out_trade_no")
    outcome: Outcome | None
    match text(fields.get("status_code")):
        case _ if config.order_query_path:
            outcome = None
        case "1":
            outcome = Delivered(supplier_reference=order_no or None)
        case other:
            told = f"callback with status_code {show_code(other)!r}, only '1' (success) is documented"
            outcome = Unclear(told, doubt=Doubt.CONTRADICTION)
    return Notice(
        number=number,
        supplier_reference=order_no or None,
        outcome=outcome,
        accepted=signed_answer(1, "ok", app_secret),
        unknown=signed_answer(0, "unknown order", app_secret),
    )


def signed_answer(status: int, message: str, app_secret: str) -> Answer:
    """Source: callback: our answer is signed like their call."""
    sign = sorted_fields_hmac_sha256({"message": message, "status": str(status)}, app_secret)
    return Answer(json_bytes({"status": status, "message": message, "_sign": sign}), "application/json")
