"""Values that nobody expects, made from a source of chance: bytes, JSON and protobuf messages."""

import json
import math
from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

TEXTS = (
    "", " ", "0", "-1", "null", "\0", "\r\nX: y", "%00", "../../etc/passwd", "{{7*7}}", "<script>", "' OR 1=1 --",
    "🎁" * 9,
    "\u202e", "é", "e\u0301", "ffi", "x" * 65, "x" * 4_097, "99999999999999999999", "1e400", "NaN", "１２３", "a\tb",
    "13800138000", "+86", "=cmd|' /C calc'!A0", "sha256:" + 64 * "0", "\ufeff", "\x7f",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 3, 10, 100, 101, 255, 1_000, 1_001, 2**31 - 1, -(2**31))
LARGE = (2**53, 2**53 + 1, 2**63 - 1, -(2**63))
STRANGE: Sequence[Any] = (
    None, [], {}, "", "\0", True, False, 0, -1, 1.5, -0.0, 1e308, math.inf, math.nan, 10**30, 2**53 + 1, [[]], {"": {}},
    "1", "-1", "0.00", "1e400", "9" * 5_000, "x" * 5_000, [None], [1, "a", {}], "\ud800",
)  # fmt: skip
PIECES = (
    b"\0", b"\xff", b'"', b"{", b"}", b"[", b"]", b",", b":", b"&", b"=", b"%", b"%00", b"+", b"\r\n", b"\\u0000",
    b"\\ud800", b"null", b"9" * 400, b"\x1f\x8b", b"\xef\xbb\xbf", b"<html>", b"[" * 2_000, b'{"a":' * 2_000,
    b"\x80" * 9,
)  # fmt: skip


def damaged(random: Random, whole: bytes) -> bytes:
    """The bytes with a few of them changed, added, left out or doubled."""
    body = bytearray(whole)
    for _ in range(random.randint(1, 4)):
        start = random.randint(0, len(body))
        end = min(len(body), start + random.choice((0, 1, 1, 2, 8, 64)))
        match random.randint(0, 5):
            case 0:
                body[start:end] = random.choice(PIECES)
            case 1:
                del body[start:end]
            case 2:
                body[start:start] = body[start:end]
            case 3:
                del body[start:]
            case 4 if start < len(body):
                body[start] ^= 1 << random.randint(0, 7)
            case _:
                body[start:end] = random.randbytes(end - start)
    return bytes(body)


def damaged_json(random: Random, whole: bytes) -> bytes:
    """JSON with some of its values replaced, left out, renamed or moved; other bytes are damaged as bytes."""
    try:
        value = json.loads(whole)
    except ValueError:
        return damaged(random, whole)
    for _ in range(random.randint(1, 3)):
        value = _changed(random, value)
    body = json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    return damaged(random, body) if random.random() < 0.2 else body


def _changed(random: Random, value: Any) -> Any:
    root = [deepcopy(value)]
    holder: Any = root
    key: Any = 0
    while isinstance(holder[key], dict | list) and holder[key] and random.random() < 0.8:
        holder, key = holder[key], random.choice(list(_keys(holder[key])))
    match random.randint(0, 4):
        case 0 if holder is not root:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[random.choice(("code", "status", "data", "list", "msg", "", str(key).upper()))] = holder[key]
        case 2 if isinstance(holder, list):
            holder.extend(deepcopy(holder[:3]))
        case _:
            holder[key] = deepcopy(random.choice(STRANGE))
    return root[0] if root else None


def _keys(value: Any) -> Any:
    return value if isinstance(value, dict) else range(len(value))


def message(random: Random, made: Message, words: Sequence[str], depth: int = 0) -> Message:
    """Fills a message at random, texts mostly from `words`."""
    for spec in made.DESCRIPTOR.fields:
        if random.random() < 0.45:
            continue
        if spec.message_type is not None and spec.message_type.GetOptions().map_entry:
            _fill_map(random, getattr(made, spec.name), spec.message_type, words)
        elif spec.is_repeated:
            _fill_list(random, getattr(made, spec.name), spec, words, depth)
        elif spec.message_type is not None:
            inner = getattr(made, spec.name)
            inner.SetInParent()
            if depth < 3:
                message(random, inner, words, depth + 1)
        else:
            setattr(made, spec.name, scalar(random, spec, words))
    return made


def _fill_map(random: Random, entries: Any, entry: Any, words: Sequence[str]) -> None:
    for _ in range(random.choice((1, 1, 2, 21))):
        key = scalar(random, entry.fields_by_name["key"], words)
        entries[key] = scalar(random, entry.fields_by_name["value"], words)


def _fill_list(random: Random, items: Any, spec: Any, words: Sequence[str], depth: int) -> None:
    for _ in range(random.choice((1, 1, 2, 3, 101, 1_001) if spec.message_type is None else (1, 1, 2, 101))):
        if spec.message_type is None:
            items.append(scalar(random, spec, words))
        elif depth < 3:
            message(random, items.add(), words, depth + 1)


def scalar(random: Random, spec: Any, words: Sequence[str]) -> Any:
    """One value of the field's type."""
    kinds = FieldDescriptor
    match spec.type:
        case kinds.TYPE_STRING:
            return text(random, words)
        case kinds.TYPE_BYTES:
            return random.randbytes(random.randint(0, 40))
        case kinds.TYPE_BOOL:
            return random.random() < 0.5
        case kinds.TYPE_ENUM:
            return random.choice((0, 1, 1, 2, 3, 4, 5, 99, -1, 2**31 - 1))
        case kinds.TYPE_INT64 | kinds.TYPE_SINT64 | kinds.TYPE_SFIXED64:
            return random.choice((*NUMBERS, *LARGE))
        case kinds.TYPE_DOUBLE | kinds.TYPE_FLOAT:
            return random.choice((0.0, -1.0, math.inf, math.nan))
        case _:
            return random.choice(NUMBERS)


def text(random: Random, words: Sequence[str]) -> str:
    """A word, whole or damaged, or something strange."""
    chance = random.random()
    if chance < 0.6:
        return random.choice(words)
    if chance < 0.8:
        return random.choice(TEXTS)
    return damaged(random, random.choice(words).encode()).decode("utf-8", "replace")
