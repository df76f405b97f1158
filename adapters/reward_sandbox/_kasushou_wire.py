"""How Kasushou signs: requests on the received bytes, callbacks on PHP's re-encoding.

Request (signing page):  sign = sha1(Timestamp + body + apikey); body = compact JSON, top-level keys in ascending byte
order, slashes and non-ASCII text raw. Inner objects keep their order in the page's own sample.
Callback (callback page): sign = sha1(time + json + apikey); json without sign, card_list and express_list, top-level
keys sorted, and, unlike requests, with every slash escaped.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

from reward_sandbox.wire import JSON, MalformedError, json_object

_UNSIGNED: Final = frozenset({"sign", "card_list", "express_list"})


def php_json(value: object, *, escape_slashes: bool) -> str:
    """What PHP's `json_encode` with `JSON_UNESCAPED_UNICODE` (and `…_SLASHES`) writes."""
    if isinstance(value, dict):
        pairs = (
            f"{_text(str(key), escape_slashes)}:{php_json(v, escape_slashes=escape_slashes)}"
            for key, v in value.items()
        )
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(php_json(item, escape_slashes=escape_slashes) for item in value) + "]"
    if isinstance(value, str):
        return _text(value, escape_slashes)
    if isinstance(value, Decimal):
        return str(value)
    return json.dumps(value)


def _text(value: str, escape_slashes: bool) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # PHP escapes the two line separators even when told to leave Unicode alone.
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return text.replace("/", "\\/") if escape_slashes else text


def request_signature(timestamp: str, body: bytes, apikey: str) -> str:
    """The digest of a request's exact bytes."""
    return hashlib.sha1(timestamp.encode() + body + apikey.encode()).hexdigest()


def canonical(body: bytes) -> bytes:
    """The one spelling of a request body that the signing page allows."""
    members = json_object(body, JSON)
    return _top_sorted(members).encode()


def recursive(body: bytes) -> bytes:
    """The spelling of compatible sites that sort the keys of inner objects, too."""
    return php_json(_all_sorted(json_object(body, JSON)), escape_slashes=False).encode()


def ascii_only(body: bytes) -> bytes:
    """The spelling of compatible sites that escape everything beyond ASCII."""
    return _ascii(json_object(body, JSON))


def _top_sorted(members: Mapping[str, object], *, escape_slashes: bool = False) -> str:
    return php_json({key: members[key] for key in sorted(members, key=str.encode)}, escape_slashes=escape_slashes)


def _all_sorted(value: object) -> object:
    if isinstance(value, dict):
        return {key: _all_sorted(value[key]) for key in sorted(value, key=str.encode)}
    return [_all_sorted(item) for item in value] if isinstance(value, list) else value


def _ascii(members: Mapping[str, object]) -> bytes:
    text = _top_sorted(members)
    return "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in text).encode()


Spelling = Callable[[bytes], bytes]
"""A request body as it has to be spelled. Raises MalformedError."""

SPELLINGS: Final[Mapping[str, Spelling]] = {"manual": canonical, "recursive": recursive, "ascii": ascii_only}
"""By whose rule the site goes."""

PROXIES: Final[Mapping[str, Callable[[Mapping[str, object]], bytes]]] = {
    "spaced": lambda members: json.dumps(members, ensure_ascii=False, default=str).encode(),
    "unsorted": lambda members: php_json(dict(reversed([*members.items()])), escape_slashes=False).encode(),
    "slashes": lambda members: _top_sorted(members, escape_slashes=True).encode(),
    "ascii": _ascii,
}
"""What something between client and site may make of a request: the same members, other bytes."""


def request_signed_well(timestamp: str, body: bytes, sign: str, apikey: str, spelling: Spelling = canonical) -> bool:
    """Whether the digest fits the received bytes and those bytes are the documented spelling.

    The page does not say whether the site hashes what it received or what it encodes again; only a body that is equal
    under both readings is sure to pass, so nothing else passes here.
    """
    if not hmac.compare_digest(sign.encode(errors="replace"), request_signature(timestamp, body, apikey).encode()):
        return False
    try:
        return spelling(body) == body
    except MalformedError:
        return False


def callback_signature(fields: Mapping[str, object], apikey: str, *, escape_slashes: bool = True) -> str:
    """The digest of a callback's or notice's fields; `time` stands in front and stays inside."""
    signed = {key: fields[key] for key in sorted(fields, key=str.encode) if key not in _UNSIGNED}
    text = f"{fields['time']}{php_json(signed, escape_slashes=escape_slashes)}{apikey}"
    return hashlib.sha1(text.encode()).hexdigest()
