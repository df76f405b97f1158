"""What several suppliers' wires have in common: pure functions from values to bytes and back.

Readers here never raise on a supplier's data; they answer `None` or empty text for what can't be read.
"""

import hmac
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qsl, urlencode
from zoneinfo import ZoneInfo

from reward_adapters import scrubbing
from reward_adapters.contract import (
    Callback,
    HttpReply,
    Listing,
    NotSent,
    NotSentCause,
    ProductKind,
    Purchase,
    Refused,
    RefusedFor,
    SupplierProduct,
    Unclear,
)
from reward_adapters.money import Money, fen, yuan
from reward_adapters.scrubbing import MESSAGE_LENGTH

FORM = "application/x-www-form-urlencoded; charset=UTF-8"
JSON = "application/json; charset=utf-8"

Encoding: TypeAlias = Literal["form", "json"]

_SURROGATE = re.compile(r"[\ud800-\udfff]")

_MINUTE = 60.0
_HOUR = 60 * _MINUTE
DEADLINES: Mapping[ProductKind, float] = {
    ProductKind.CARD: 15 * _MINUTE,
    ProductKind.COUPON: 15 * _MINUTE,
    ProductKind.TOPUP: 24 * _HOUR,
    ProductKind.MEMBERSHIP: 24 * _HOUR,
}
"""How long a purchase may take where the supplier names no time: cards come at once, top-ups within a day."""

_ABOUT: Sequence[tuple[RefusedFor, re.Pattern[str]]] = (
    (RefusedFor.PRICE, re.compile(r"保护价|安全价|safe_price|调价|价格", re.IGNORECASE)),
    (RefusedFor.BALANCE, re.compile(r"余额|balance", re.IGNORECASE)),
    (RefusedFor.STOCK, re.compile(r"库存|缺货|售罄|无货|out of stock", re.IGNORECASE)),
    (RefusedFor.RECIPIENT, re.compile(r"账号|帐号|号码|手机|recharge_account", re.IGNORECASE)),
    (RefusedFor.PRODUCT, re.compile(r"商品|产品|下架|goods|product", re.IGNORECASE)),
)


# --- Writing ----------------------------------------------------------------------------------------------------------


def join_url(base: str, path: str) -> str:
    """Joins with exactly one slash, however the two ends are spelled."""
    return f"{base.rstrip('/')}/{path.lstrip('/')}"


def form_bytes(fields: Mapping[str, str]) -> bytes:
    """`application/x-www-form-urlencoded`, in UTF-8 and in the order given."""
    return urlencode(fields).encode("ascii")


def json_bytes(value: Any, *, sort_keys: bool = False, ascii_only: bool = False) -> bytes:
    """Compact JSON in UTF-8. Raises ValueError or RecursionError for what isn't JSON, such as half a surrogate pair."""
    text = json.dumps(value, ensure_ascii=ascii_only, sort_keys=sort_keys, separators=(",", ":"))
    return text.encode("utf-8")


# --- Reading values ---------------------------------------------------------------------------------------------------


def text(value: object) -> str:
    """A text or a whole number as text, every digit kept; anything else is empty.

    So is a text that no database keeps: one with a NUL or with half a surrogate pair (JSON can spell both).
    """
    match value:
        case str() if "\0" not in value and not _SURROGATE.search(value):
            return value
        case int() if not isinstance(value, bool) and abs(value) < 10**40:
            return str(value)
        case _:
            return ""


def optional_text(value: object) -> str | None:
    """Like `text`, but tells what is absent (empty) from what can't be read (`None`)."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    return text(value) or None


def amount(value: object) -> Money | None:
    """Yuan as suppliers write them, `None` for anything that isn't an amount. Negative ones aren't."""
    money = balance(value)
    return money if money is None or money >= 0 else None


def balance(value: object) -> Money | None:
    """Yuan like `amount`, but what is left of a deposit may be less than nothing."""
    if not isinstance(value, str | int | float) or value == "":
        return None
    try:
        return yuan(value)
    except (ValueError, ArithmeticError):
        return None


def fen_amount(value: object) -> Money | None:
    """Whole fen as a number or as digits, `None` for anything else: `9.30` in a field of fen says another unit."""
    try:
        return fen(text(value))
    except ValueError:
        return None


_COUNT_DIGITS = 12


def count(value: object) -> int | None:
    """A whole number that isn't negative, such as a stock; `None` for anything else."""
    digits = text(value)
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= _COUNT_DIGITS else None


def day(value: object, form: str) -> date | None:
    """A day in the given `strptime` form."""
    try:
        return datetime.strptime(text(value), form).date()  # noqa: DTZ007 - a day has no time zone
    except ValueError:
        return None


_LIFETIME_DIGITS = 12
_MONTH = 30 * 24 * _HOUR


def lifetime(value: object) -> float | None:
    """The seconds a token lives; `None` when it doesn't say so. A longer one than a month is taken for a month."""
    seconds = text(value)
    if not seconds.isdecimal() or not seconds.strip("0"):
        return None
    # Whatever has so many digits is longer than a month, and Python refuses to read thousands of them.
    return _MONTH if len(seconds.lstrip("0")) > _LIFETIME_DIGITS else min(float(seconds), _MONTH)


def same_text(ours: str, theirs: object) -> bool:
    """Whether two signatures are equal, letter case aside, in constant time."""
    return isinstance(theirs, str) and hmac.compare_digest(
        ours.lower().encode(), theirs.lower().encode("utf-8", "replace")
    )


def scrub(message: object, *hidden: str | None) -> str:
    """A supplier's text fit for logs: one short line, without the values given and without anything like a secret.

    Suppliers quote what they were sent, so a recipient, a token or a card may stand in an error text.
    """
    return scrubbing.scrub(text(message), *hidden)


def title(name: object) -> str:
    """The name of goods as one short line. Nothing is masked: names are full of numbers and tell of nobody."""
    return _one_line(name)[:MESSAGE_LENGTH]


def _one_line(message: object) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text(message)[: 4 * MESSAGE_LENGTH]).split())


def show_code(code: str) -> str:
    """A supplier's code fit for logs: a short number as it is, anything else scrubbed."""
    return code if re.fullmatch(r"-?[0-9]{1,8}", code) else scrub(code)[:40]


def another(name: str, theirs: object, ours: str, purchase: Purchase) -> str:
    """That an answer names another number than ours, with both; for people. `name` is the supplier's field."""
    personal = (purchase.recipient.value if purchase.recipient else None, *purchase.form.values())
    return f"the answer's {name} is {scrubbing.beside(text(theirs), ours, *personal)}, expected {ours}"


def about(message: str) -> RefusedFor:
    """What the text of a refusal is about. Texts only sort refusals; that it *is* one must be known otherwise."""
    return next((topic for topic, words in _ABOUT if words.search(message)), RefusedFor.OTHER)


def cannot_say(what: str, topic: RefusedFor = RefusedFor.OTHER) -> Refused:
    """A refusal of our own: the supplier's wire has no way to say this purchase, so nothing is sent."""
    return Refused(code="LOCAL", message=what, certain=True, about=topic)


def check_timezone(name: str) -> None:
    """Raises ValueError for what is no time zone, for `__post_init__` of a `Config`."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"timezone {name!r} is no known time zone, such as 'Asia/Shanghai'") from error


# --- Reading whole messages -------------------------------------------------------------------------------------------


def retry_after(reply: HttpReply) -> float | None:
    """The seconds a `Retry-After` header asks for; its date form is ignored."""
    value = reply.headers.get("retry-after", "").strip()
    return float(value) if value.isascii() and value.isdigit() and len(value) <= 6 else None


def rate_limited(reply: HttpReply) -> NotSent | None:
    """HTTP 429 in the words of the contract, if it is one."""
    if reply.status != 429:
        return None
    return NotSent(cause=NotSentCause.RATE_LIMITED, detail="HTTP 429", retry_after=retry_after(reply))


def callback_fields(callback: Callback, encodings: Collection[Encoding] = ("form", "json")) -> dict[str, Any] | None:
    """The fields of a callback that comes as a JSON object or as a form, whatever its content type says.

    `None` for anything else, for an encoding that isn't wanted, for more or deeper fields than any supplier sends
    (nothing of it is verified yet), and for a field given twice: two readers could each see another value.
    """
    if len(callback.body) > _CALLBACK_BYTES:
        return None
    try:
        body = callback.body.decode("utf-8-sig")
        is_json = body.lstrip().startswith("{")
        if ("json" if is_json else "form") not in encodings:
            return None
        if is_json:
            return None if _is_deep(body) else json.loads(body, object_pairs_hook=_no_repeats)
        pairs = parse_qsl(
            body, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=_CALLBACK_FIELDS
        )
        return _no_repeats(pairs)
    except (ValueError, RecursionError):
        return None


_CALLBACK_BYTES = 1_048_576
_CALLBACK_FIELDS = 500
_CALLBACK_DEPTH = 16
"""The deepest documented callback is a list of cards in a field: 3. The longest one has some 20 fields."""
# The closing quote may be missing: whatever fails here would be tried again at the next character.
_TEXT_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def _is_deep(body: str) -> bool:
    """Whether JSON nests deeper than any callback does, told without building anything of it."""
    depth = 0
    for found in _TEXT_OR_BRACKET.finditer(body):
        match found[0]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
        if depth > _CALLBACK_DEPTH:
            return True
    return False


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field comes twice")
    return fields


# --- Reading lists of products ----------------------------------------------------------------------------------------

_LIST_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Page:
    """The entries of one page of a list, unread, and how many the whole list has, where the answer says so."""

    entries: Sequence[Any] = field(repr=False)
    total: int | None = None

    def more(self, page: int, size: int) -> bool:
        """Whether a next page may hold more. More entries than were asked for mean that there are no pages."""
        return len(self.entries) == size if self.total is None else bool(self.entries) and page * size < self.total


def page_of(value: object) -> Page | None:
    """The list in an answer: bare, or under `list` or `data`, one inside the other too. `None` if there is none."""
    total = None
    for _ in range(_LIST_DEPTH):
        if isinstance(value, list):
            return Page(value, total)
        if not isinstance(value, dict):
            return None
        total = count(value.get("total")) if total is None else total
        value = next((value[name] for name in ("list", "data") if isinstance(value.get(name), list | dict)), None)
    return None


def read_listing(
    entries: Sequence[object], read: Callable[[Mapping[str, Any]], SupplierProduct | None], *, more: bool = False
) -> Listing | Unclear:
    """The products that can be read. Some that can't are left out; if none can, the list isn't understood."""
    products = tuple(product for entry in entries if isinstance(entry, dict) and (product := read(entry)))
    if entries and not products:
        return Unclear("no product of the list is readable")
    return Listing(products=products, more=more)


def known_details(**details: str) -> dict[str, str]:
    """Details of a product without those that the supplier left empty."""
    return {name: value for name, value in details.items() if value}
