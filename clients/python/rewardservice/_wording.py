"""What went wrong, in the words of somebody who types `rewardctl`."""

import re
from collections.abc import Sequence

from cyclopts import CoercionError, CycloptsError, MissingArgumentError, UnusedCliTokensError

from rewardservice._channel import is_loopback
from rewardservice.errors import RewardError, UnavailableError

_OPTIONS = {
    "client_order_id": "--client-order-id",
    "client_order_ids": "--client-order-id",
    "created_after": "--since",
    "created_before": "--until",
    "limit": "--limit",
    "max_unit_price": "--max-unit-price",
    "metadata": "--metadata",
    "order_id": "ORDER_ID",
    "order_ids": "ORDER_IDS",
    "page_size": "--limit",
    "product_id": "PRODUCT_ID",
    "quantity": "--quantity",
    "recipient": "--phone, --qq or --account",
    "recipient.account": "--account",
    "recipient.phone": "--phone",
    "recipient.phone.area_code": "--area-code",
    "recipient.qq": "--qq",
    "resume_token": "--resume-token",
    "after": "--after",
    "states": "--state",
    "supplier": "--supplier",
    "supplier_parameters": "--param",
    "wait": "--wait",
}
_CONTRACT_HINT = "ListProducts shows what there is"
_OUR_HINT = "`rewardctl products` lists what there is"
_CUT = ("Socket closed", "Connection reset", "Broken pipe", "End of TCP stream")
_LAST_ERROR = re.compile(r".*failed to connect to all addresses; last error: \w+: [^ ]+ (.+)")
_KINDS = {"int": "a whole number", "float": "a number", "datetime": "a time, as in 2026-01-31T08:00"}


def error_lines(error: RewardError, server: str, *, tls: bool) -> list[str]:
    """The error, and a line for everything that has to be mended."""
    text, violations = explain(error, server, tls=tls), list(error.violations)
    if len(violations) == 1 and violations[0].description in error.message:
        # A server with one complaint makes it the message.
        field = violations.pop().field
        if field and text.startswith(f"{field}:"):
            text = field_text(field) + text.removeprefix(field)
    if error.reason == "PRICE_ABOVE_LIMIT":
        text = text.replace("max_unit_price", "the limit")
    lines = [f"{text} ({error.reason or error.code.name})"]
    if error.reason == "PRICE_ABOVE_LIMIT" and {"price", "limit"} <= error.metadata.keys():
        lines.append(f"  price ¥{error.metadata['price']}, limit ¥{error.metadata['limit']}")
    for violation in violations:
        description = violation.description.replace(_CONTRACT_HINT, _OUR_HINT)
        lines.append(f"  {field_text(violation.field)}: {description}" if violation.field else f"  {description}")
    return lines


def explain(error: RewardError, server: str, *, tls: bool, new: bool = True) -> str:
    """The error in one sentence; `new` is whether the server never answered before."""
    text = " ".join(error.message.split()).replace(_CONTRACT_HINT, _OUR_HINT)
    if error.reason:
        return text
    if "lookup error" in text or "DNS resolution failed" in text:
        return f"the address {server} can't be resolved"
    if "Connection refused" in text:
        return f"nothing listens on {server}; is the server running?{' (make run)' if is_loopback(server) else ''}"
    if "WRONG_VERSION_NUMBER" in text:
        return f"{server} doesn't speak TLS; leave the --tls options out"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"the certificate of {server} isn't trusted; --tls-ca-file names the authority that signed it"
    if found := _LAST_ERROR.fullmatch(text):
        text = f"{server} can't be reached: {found[1]}"
    if isinstance(error, UnavailableError) and any(cut in text for cut in _CUT):
        if not new:
            return "the connection was cut"
        if not tls:
            text += "; if the server speaks TLS, use --tls"
    return text


def field_text(field: str) -> str:
    """A field of the contract, and the option that fills it."""
    path = field.partition("[")[0]
    option = _OPTIONS.get(path) or _OPTIONS.get(path.rpartition(".")[0])
    return f"{field} ({option})" if option else field


def usage_lines(error: Exception, program: str) -> list[str]:
    """A command line that makes no sense, and where to read on."""
    command: Sequence[str] = (getattr(error, "command_chain", None) or ()) if isinstance(error, CycloptsError) else ()
    return [" ".join(_usage_text(error).split()), f"see {' '.join([program, *command])} --help"]


def _usage_text(error: Exception) -> str:
    text = str(error)
    if isinstance(error, UnusedCliTokensError):
        unused = [token for token in error.unused_tokens or [] if token]
        return f"unexpected argument{'s' if len(unused) > 1 else ''}: {' '.join(unused)}"
    name = error.argument.name if isinstance(error, CycloptsError) and error.argument is not None else ""
    if isinstance(error, MissingArgumentError) and name:
        return f"{name} needs a value" if name.startswith("-") else f"{name} is missing"
    if isinstance(error, CoercionError):
        return re.sub(r'unable to convert ("[^"]*") into (\w+)\.?', _not_a, text)
    return text


def _not_a(found: re.Match[str]) -> str:
    return f"{found[1]} is not {_KINDS.get(found[2], found[2])}"
