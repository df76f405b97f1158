"""What a supplier sent, fit for people who must not see cards: its structure, its codes and its words without values.

An answer that wasn't understood is kept because a paid card may be inside, so nothing of it is shown that could be a
part of one. What is shown is chosen, not what is hidden: names of fields, truth values, short codes, and plain words of
messages. Everything else becomes its length. Whatever isn't JSON or a form is described, never quoted.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeAlias
from urllib.parse import parse_qsl

MAX_BYTES = 4_096
"""Bytes of an outline, in UTF-8."""
MAX_READ = 262_144
"""Bytes of what is read for one; larger bodies are described by their size."""
MAX_DEPTH = 12
MAX_ITEMS = 20
"""Entries shown of a list, and five times as many fields of an object."""
MAX_MESSAGE = 300
"""Characters shown of a message."""
SHORT = 4
"""Characters of a text, or digits of a number, that are no secret wherever they stand."""
CODE_DIGITS = 6
"""Digits of a whole number under a key that says "code", outermost: suppliers number their errors with up to six."""
TINY = 2
"""Characters shown of the entries of a list, and of the few fields that are shown of a card (its state)."""
HIDDEN = "<hidden>"

_KEY = re.compile(r"[A-Za-z_][A-Za-z_-]*[0-9]{0,2}")
_MAX_KEY = 32
_FORM_KEY = re.compile(r"[a-z_][A-Za-z_]*[0-9]{0,2}(\[[0-9]{0,2}\])?")
_CODES = frozenset({"code", "err_code", "errcode", "error_code", "result_code", "ret", "status", "state", "sub_code"})
_MESSAGES = frozenset(
    {"msg", "message", "error", "error_description", "errmsg", "err_msg", "reason", "sub_msg", "systemmsg"}
)
_SECRETS = re.compile(
    r"account|attach|auth|card|cdk|coupon|cvv|key|link|mail|mobile|name|openid|pass|phone|pin$|pwd|pws|qr|receive"
    r"|recharge|recipient|redeem|secret|serial|sign|tel$|token|url|user|voucher"
)
_OF_CARDS = frozenset({"count", "num", "number", "quantity", "state", "status", "type"})

_RUN = re.compile(r"[!-~]+")
_WORD = re.compile(r"[\"'(\[<]?[A-Za-z]?[a-z]+([_'-][a-z]+)*[\"')\]>]?[.,:;!?]*|[A-Z]{1,3}|[^0-9A-Za-z]{1,4}")
_MAX_WORD = 24
_SHORT_DIGITS = 6
"""Digits that a message may hold in all: groups of four make a card's number."""


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


def _show(value: Value) -> str:
    """The outline of a whole value. It is made piece by piece and no longer than it can be shown."""
    pieces: list[str] = []
    size = 0
    for piece in _pieces(value, "", inside=False, depth=0):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BYTES:
            break
    return "".join(pieces)


def _pieces(value: Value, key: str, *, inside: bool, depth: int, in_list: bool = False) -> Iterator[str]:
    """The outline of a value under a key (in lower case); `inside` is whether a key around it was a card's."""
    inside = inside or bool(key and _SECRETS.search(key) and key not in _MESSAGES)
    items: Iterator[Iterable[str]]
    if isinstance(value, dict):
        items = (
            chain([f"{_key(name)}: "], _pieces(item, name.lower(), inside=inside, depth=depth + 1))
            for name, item in value.items()
        )
        yield from _list(items if depth < MAX_DEPTH else None, len(value), 5 * MAX_ITEMS, "{}")
    elif isinstance(value, list):
        items = (_pieces(item, key, inside=inside, depth=depth + 1, in_list=True) for item in value)
        yield from _list(items if depth < MAX_DEPTH else None, len(value), MAX_ITEMS, "[]")
    else:
        yield _scalar(value, key, inside=inside, is_top=depth == 1, in_list=in_list)


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


def _key(name: str) -> str:
    # A card that stands where a field's name should be is no field's name.
    return f'"{name}"' if _KEY.fullmatch(name) and len(name) <= _MAX_KEY else f"<key of {len(name)} characters>"


def _scalar(value: _Number | str | bool | None, key: str, *, inside: bool, is_top: bool, in_list: bool) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value == "":
        return '""'
    if inside:
        return _quoted(value) if key in _OF_CARDS and len(value) <= TINY else HIDDEN
    if key in _MESSAGES and not isinstance(value, _Number):
        return _quoted(scrub(value))
    digits = sum(c.isdigit() for c in value)
    if is_top and key in _CODES and digits == len(value.lstrip("-")) <= CODE_DIGITS:
        return _quoted(value)
    # In a list the pieces of something longer may stand one after the other.
    short = TINY if in_list else SHORT
    if isinstance(value, _Number):
        return value if digits <= short else f"<{digits} digits>"
    return _quoted(value) if len(value) <= short else f"<{len(value)} characters>"


def _quoted(value: str) -> str:
    return value if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)


# --- Words ------------------------------------------------------------------------------------------------------------


def scrub(message: str) -> str:
    """A supplier's message with only its plain words left: one line, at most 300 characters.

    Chinese stays. Of everything written in ASCII only what looks like a word or a short number does: suppliers quote
    what they were sent, and a recipient, a link or a card may stand in the text of an error.
    """
    # Wide letters and digits are letters and digits; Chinese punctuation stays what it is.
    text = "".join(unicodedata.normalize("NFKC", c) if c.isalnum() else c for c in message[: 4 * MAX_MESSAGE])
    line = " ".join("".join(c if c.isprintable() and c.isdigit() <= c.isascii() else " " for c in text).split())
    many = sum(c.isdigit() for c in line) > _SHORT_DIGITS
    return _cut(_RUN.sub(lambda run: run[0] if _is_plain(run[0], many_digits=many) else "***", line), 3 * MAX_MESSAGE)


def _is_plain(run: str, *, many_digits: bool) -> bool:
    if _WORD.fullmatch(run):
        return len(run) <= _MAX_WORD
    return len(run) <= SHORT and not (many_digits and any(c.isdigit() for c in run))


def _bytes(count: int) -> str:
    return f"{count:,} byte{'' if count == 1 else 's'}"


def _cut(text: str, most: int = MAX_BYTES) -> str:
    """At most so many bytes of UTF-8; half a surrogate pair, which JSON can spell, becomes a question mark."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= most:
        return raw.decode()
    return raw[: most - 3].decode("utf-8", "ignore") + "…"
