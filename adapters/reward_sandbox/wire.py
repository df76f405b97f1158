"""Small readers and writers that the suppliers' protocols have in common."""

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import web

BEIJING: Final = timezone(timedelta(hours=8), "Asia/Shanghai")
"""None of the suppliers states its time zone; all are Chinese."""

FORM: Final = "application/x-www-form-urlencoded"
JSON: Final = "application/json"

_PHONE: Final = re.compile(r"1[3-9]\d{9}")
_QQ: Final = re.compile(r"[1-9]\d{4,10}")
_URL: Final = re.compile(r"https?://[^\s/]+(/\S*)?")


class MalformedError(Exception):
    """The request cannot be read; the text says why."""


def reply(payload: Mapping[str, object], status: int = 200) -> web.Response:
    """A JSON answer with raw UTF-8, as the suppliers send it."""
    return web.Response(
        body=json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode(),
        status=status,
        content_type=JSON,
        charset="utf-8",
    )


def envelope(response: web.Response) -> dict[str, object]:
    """The members of an answer on its way out; empty for what is no JSON object any more."""
    try:
        members = json.loads(response.body if isinstance(response.body, bytes) else b"")
    except (ValueError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}


def form_fields(body: bytes, content_type: str) -> dict[str, str]:
    """The fields of a form; a key given twice is refused, since the text that was signed would be ambiguous."""
    if content_type != FORM:
        raise MalformedError(f"Content-Type must be {FORM}")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), encoding="utf-8", errors="strict"
        )
    except ValueError as error:
        raise MalformedError(f"not a form: {error}") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MalformedError("a field was given twice")
    return fields


def json_object(body: bytes, content_type: str) -> dict[str, object]:
    """The members of a JSON object; decimals stay exact, a key given twice is refused."""
    if content_type != JSON:
        raise MalformedError(f"Content-Type must be {JSON}")
    try:
        value = json.loads(body.decode(), parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedError("not a JSON object")
    if b"\\u" in body:
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as error:
            # Half a surrogate pair is legal JSON, yet nothing that echoes it can be sent.
            raise MalformedError("not Unicode text") from error
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key was given twice")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def yuan(amount: Decimal) -> str:
    """Decimal yuan with two places, four where the amount needs them."""
    cents = amount.quantize(Decimal("0.01"))
    return str(cents if cents == amount else amount.quantize(Decimal("0.0001")))


def date_time(moment: float) -> str:
    """`Y-m-d H:i:s` in Beijing."""
    return datetime.fromtimestamp(moment, BEIJING).strftime("%Y-%m-%d %H:%M:%S")


def recipient_fits(kind: str, recipient: str) -> bool:
    """Whether a recipient can be topped up: a mainland mobile number, a QQ number, or any account name."""
    if kind == "phone":
        return _PHONE.fullmatch(recipient) is not None
    if kind == "qq":
        return _QQ.fullmatch(recipient) is not None
    return kind == "none" or bool(recipient.strip())


def is_url(text: str) -> bool:
    """Whether a callback can be sent there."""
    return _URL.fullmatch(text) is not None


def whole(text: str) -> int | None:
    """A positive whole number as decimal text without sign or leading zeros."""
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,9}", text, re.ASCII) else None
