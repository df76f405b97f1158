"""How Kasushou signs: requests on the received bytes, callbacks on PHP's re-encoding.

Request (signing page):  sign = sha1(Timestamp + body + apikey); body = compact JSON, top-level keys in ascending byte
order, slashes and non-ASCII text raw. Inner objects keep their order in the page's own sample.
Callback (callback page): sign = sha1(time + json + apikey); json without sign, card_list and express_list, top-level
keys sorted, and, unlike requests, with every slash escaped.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
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
    ordered = {key: members[key] for key in sorted(members, key=str.encode)}
    return php_json(ordered, escape_slashes=False).encode()


def request_signed_well(timestamp: str, body: bytes, sign: str, apikey: str) -> bool:
    """Whether the digest fits the received bytes and those bytes are the documented spelling.

    The page does not say whether the site hashes what it received or what it encodes again; only a body that is equal
    under both readings is sure to pass, so nothing else passes here.
    """
    if not hmac.compare_digest(sign.encode(errors="replace"), request_signature(timestamp, body, apikey).encode()):
        return False
    try:
        return canonical(body) == body
    except MalformedError:
        return False


def callback_signature(fields: Mapping[str, object], apikey: str) -> str:
    """The digest of a callback's or notice's fields; `time` stands in front and stays inside."""
    signed = {key: fields[key] for key in sorted(fields, key=str.encode) if key not in _UNSIGNED}
    text = f"{fields['time']}{php_json(signed, escape_slashes=True)}{apikey}"
    return hashlib.sha1(text.encode()).hexdigest()
