"""What a supplier sent, fit for people who must not see cards: its structure, its codes and its words without values.

An answer that wasn't understood is kept because a paid card may be inside, so nothing of it is shown that could be a
part of one. What is shown is chosen, not what is hidden: names of fields that look like names, truth values, short
codes where codes are due, and plain words of messages. Everything else becomes its length. What is shown of codes is
counted over the whole outline, so that a card that is split over many places never adds up. Whatever isn't JSON or a
form is described, never quoted.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias
from urllib.parse import parse_qsl

from reward_adapters.scrubbing import code_characters, known, scrub

MAX_BYTES = 4_096
"""Bytes of an outline, in UTF-8."""
MAX_READ = 32_768
"""Bytes of what is read for one; larger bodies are described by their size. Outlines are made on the event loop."""
MAX_DEPTH = 12
MAX_ITEMS = 20
"""Entries shown of a list, and five times as many fields of an object."""
MAX_MESSAGE = 300
"""Characters shown of a message."""
CODE_DIGITS = 6
"""Digits of a whole number under a key that says "code", outermost: suppliers number their errors with up to six."""
INNER_DIGITS = 3
"""The same further inside."""
CARD_DIGITS = 2
"""The same of the few fields that are shown of a card (its state)."""
SHOWN_CODES = 8
"""Digits and capitals of codes that an outline shows in all: fewer than cards have."""
SHOWN_IN_MESSAGES = 5
"""Those of them that may stand in messages."""
SHOWN_IN_KEYS = 4
"""Digits that the names of fields show in all, beside those."""
HIDDEN = "<hidden>"

_KEY = re.compile(r"_?[a-z]+(_[a-z]+)*_?([A-Z][a-z]{2,})*(Id|ID|No|Sn|SN)?[0-9]{0,2}")
_MAX_KEY = 40
_FORM_KEY = re.compile(r"[A-Za-z_]+[0-9]{0,2}(\[[0-9]{0,2}\])?")
_CODES = frozenset(
    {
        *(
            "code",
            "err_code",
            "errcode",
            "errno",
            "error_code",
            "errorcode",
            "http_status",
            "result_code",
            "resultcode",
        ),
        *("ret", "ret_code", "retcode", "return_code", "sub_code"),
        *("kind", "order_state", "order_status", "orderstatus", "pay_status", "state", "status", "status_code", "type"),
        *("ok", "succeed", "success", "suceess"),
    }
)
_OF_CARDS = frozenset({"kind", "state", "status", "type"})
_MESSAGES = frozenset(
    {"msg", "message", "error", "error_description", "errmsg", "err_msg", "reason", "sub_msg", "systemmsg"}
)
_SECRETS = re.compile(
    r"account|attach|auth|card|cdk|coupon|cvv|key|link|mail|mobile|name|openid|pass|phone|pin$|pwd|pws|qr|receive"
    r"|recharge|recipient|redeem|secret|serial|sign|tel$|token|url|user|voucher"
)
_CARD_KEYS = _OF_CARDS | {
    *("card_id", "card_link", "card_no", "card_num", "card_number", "card_pass", "card_password", "card_pwd"),
    *("card_pws", "card_secret", "card_type", "cardlist", "card_list", "cards", "code", "count", "data", "end_time"),
    *("expire", "expire_time", "id", "info", "link", "list", "no", "num", "number", "password", "pin", "pwd", "qr"),
    *("qr_url", "quantity", "secret", "token", "url"),
}
"""Names of fields that are shown around cards, where another name could be a card itself."""


class _Number(str):
    """A number as it was written: reading it could round it, or take for ever."""

    __slots__ = ()


Value: TypeAlias = "dict[str, Value] | list[Value] | _Number | str | bool | None"


def outline(body: bytes) -> str:
    """The outline of what a supplier sent, at most 4 kB. Whatever comes, it never raises."""
    try:
        return _cut(_outline(body))
    except Exception:
        # A defect here must not keep an operator from the rest of an answer.
        return f"can't be outlined, {_bytes(len(body))}"


def _outline(body: bytes) -> str:
    if not body.strip():
        return "empty"
    if len(body) > MAX_READ:
        return f"{_bytes(len(body))}, {_kind(body[:64])}"
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return f"not UTF-8, {_bytes(len(body))}, {_kind(body[:64])}"
    try:
        value = json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_Number)
    except (ValueError, RecursionError):
        fields = _form_fields(text)
        if fields is None:
            return f"no JSON and no form, {_bytes(len(body))}, {_kind(body[:64])}"
        return "form " + _show(fields)
    return _show(value)


def _kind(begin: bytes) -> str:
    """What a body seems to be, by its first bytes."""
    begin = begin.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if begin.startswith((b"{", b"[")):
        return "begins like JSON"
    if begin.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "HTML"
    if begin.startswith(b"<"):
        return "XML or HTML"
    return "doesn't begin like JSON"


def _form_fields(text: str) -> dict[str, Value] | None:
    """The fields of a form; None for what is hardly one: base64 and card numbers have an equals sign, too."""
    try:
        pairs = parse_qsl(
            text.strip(), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=200
        )
    except ValueError:
        return None
    if len(pairs) < 2 or not all(_FORM_KEY.fullmatch(key) and len(key) <= _MAX_KEY for key, _ in pairs):
        return None
    return dict(pairs)


# --- JSON -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Room:
    """How much of codes an outline may still show. Every place where one can stand takes from the same room."""

    codes: int = SHOWN_CODES
    messages: int = SHOWN_IN_MESSAGES
    keys: int = SHOWN_IN_KEYS

    def code(self, digits: int) -> bool:
        """Whether a code of so many digits may be shown; it is counted then."""
        fits = digits <= self.codes
        self.codes -= digits if fits else 0
        return fits

    def message(self, characters: int) -> bool:
        """Whether a message with so many letters and digits of codes may be shown."""
        fits = characters <= self.messages and self.code(characters)
        self.messages -= characters if fits else 0
        return fits

    def key(self, digits: int) -> bool:
        """Whether the name of a field with so many digits may be shown."""
        fits = digits <= self.keys
        self.keys -= digits if fits else 0
        return fits


def _show(value: Value) -> str:
    """The outline of a whole value. It is made piece by piece and no longer than it can be shown."""
    pieces: list[str] = []
    size = 0
    for piece in _pieces(value, "", _Room(), inside=False, depth=0):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BYTES:
            break
    return "".join(pieces)


def _pieces(value: Value, key: str, room: _Room, *, inside: bool, depth: int, in_list: bool = False) -> Iterator[str]:
    """The outline of a value under a key (in lower case); `inside` is whether a key around it was a card's."""
    inside = inside or bool(key and _SECRETS.search(key) and key not in _MESSAGES)
    items: Iterator[Iterable[str]]
    if isinstance(value, dict):
        items = (
            chain(_key(name, room, inside=inside), _pieces(item, name.lower(), room, inside=inside, depth=depth + 1))
            for name, item in value.items()
        )
        yield from _list(items if depth < MAX_DEPTH else None, len(value), 5 * MAX_ITEMS, "{}")
    elif isinstance(value, list):
        if key in _MESSAGES and not inside and all(isinstance(item, str) for item in value):
            # One text, or its pieces would add up.
            yield _message(" ".join(str(item) for item in value[:MAX_ITEMS]), room)
            return
        items = (_pieces(item, key, room, inside=inside, depth=depth + 1, in_list=True) for item in value)
        yield from _list(items if depth < MAX_DEPTH else None, len(value), MAX_ITEMS, "[]")
    else:
        yield _scalar(value, key, room, inside=inside, is_top=depth == 1, in_list=in_list)


def _list(items: Iterable[Iterable[str]] | None, count: int, most: int, braces: str) -> Iterator[str]:
    """Pieces between braces, as many as are shown; None: too deep inside."""
    if items is None:
        yield f"{braces[0]}… {count} …{braces[1]}"
        return
    yield braces[0]
    for place, item in enumerate(items):
        if place:
            yield ", "
        if place == most:
            yield f"… {count - most} more"
            break
        yield from item
    yield braces[1]


def _key(name: str, room: _Room, *, inside: bool) -> Iterator[str]:
    """The name of a field and its colon. A card that stands where a name should be is no name."""
    if inside:
        is_name = name.lower() in _CARD_KEYS
    else:
        is_name = len(name) <= _MAX_KEY and (_KEY.fullmatch(name) is not None or name.lower() in _CODES | _MESSAGES)
    shown = is_name and room.key(sum(c.isdigit() for c in name))
    yield f'"{name}": ' if shown else f"<key of {_many(len(name), 'character')}>: "


def _scalar(
    value: _Number | str | bool | None, key: str, room: _Room, *, inside: bool, is_top: bool, in_list: bool
) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value == "":
        return '""'
    if inside:
        return _quoted(value) if key in _OF_CARDS and _is_code(value, CARD_DIGITS, room) and not in_list else HIDDEN
    if key in _MESSAGES and not in_list and not isinstance(value, _Number):
        return _message(value, room)
    if key in _CODES and not in_list:
        most = CODE_DIGITS if is_top else INNER_DIGITS
        if known(value) or _is_code(value, most, room):
            return _quoted(value)
    if isinstance(value, _Number):
        return f"<{_many(sum(c.isdigit() for c in value), 'digit')}>"
    return f"<{_many(len(value), 'character')}>"


def _is_code(value: str, most: int, room: _Room) -> bool:
    """Whether it is a whole number that may be shown as a code."""
    digits = value.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) <= most and room.code(len(digits))


def _message(text: str, room: _Room) -> str:
    shown = scrub(text, most=MAX_MESSAGE)
    if not room.message(code_characters(shown)):
        shown = scrub(text, most=MAX_MESSAGE, codes=False)
    return _quoted(shown)


def _quoted(value: str) -> str:
    return value if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _bytes(count: int) -> str:
    return _many(count, "byte")


def _cut(text: str, most: int = MAX_BYTES) -> str:
    """At most so many bytes of UTF-8; half a surrogate pair, which JSON can spell, becomes a question mark."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= most:
        return raw.decode()
    return raw[: most - 3].decode("utf-8", "ignore") + "…"
