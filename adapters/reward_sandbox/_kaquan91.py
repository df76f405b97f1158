"""What both 91 Kaquan calls share: the form, the signing rule, the envelope, the balance.

    sign = UPPER(MD5("k1=v1&k2=v2&…&appsecret=" + secret)), keys in ASCII order, empty values and `sign` left out
    -> {"code": 1, "msg": "…", "result": …, "other": {…}} or {"code": 0, "msg": "…", "result": null}
Source: signing page. "0" is not empty. Fields marked as unsigned stay out of the text even when sent.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Final
from urllib.parse import quote_plus

from aiohttp import web

from reward_sandbox.desk import Desk, Verdict
from reward_sandbox.faults import Refusal
from reward_sandbox.settings import SignMode
from reward_sandbox.wire import MalformedError, envelope, form_fields, reply, yuan

LIST_UNSIGNED: Final = frozenset({"keyword", "pageIndex", "pageSize", "id", "pid"})
"""Not signed on list calls (list pages)."""

Fields = dict[str, str]

NOBODY: Final = "0000000000000000000000000A"
"""A number that nobody gave."""


class RefusedError(Exception):
    """`code` 0 with this text."""


def url_encoded(value: str) -> str:
    """PHP's `urlencode`: space is `+`, upper-case hex, `~` is escaped too."""
    return quote_plus(value).replace("~", "%7E")


def signed_text(fields: Mapping[str, str], secret: str, *, mode: SignMode, unsigned: frozenset[str]) -> str:
    """The text under MD5. `notify-only` encodes the callback URL alone, `encode-all` every value: the signing page
    says the former, the only public client does the latter."""
    pairs = []
    for key in sorted(fields):
        value = fields[key]
        if key == "sign" or key in unsigned or not value:
            continue
        pairs.append(f"{key}={url_encoded(value) if mode == 'encode-all' or key == 'notify_url' else value}")
    return "&".join([*pairs, f"appsecret={secret}"])


def signature(
    fields: Mapping[str, str], secret: str, *, mode: SignMode = "notify-only", unsigned: frozenset[str] = frozenset()
) -> str:
    """The upper-case digest of the signed text."""
    return hashlib.md5(signed_text(fields, secret, mode=mode, unsigned=unsigned).encode()).hexdigest().upper()


def signed_well(fields: Mapping[str, str], secret: str, *, mode: SignMode, unsigned: frozenset[str]) -> bool:
    """Whether `sign` fits exactly, upper case included; `lenient` tries both readings."""
    readings: tuple[SignMode, ...] = ("notify-only", "encode-all") if mode == "lenient" else (mode,)
    sign = fields.get("sign", "").encode()
    return any(
        hmac.compare_digest(sign, signature(fields, secret, mode=reading, unsigned=unsigned).encode())
        for reading in readings
    )


def needed(fields: Mapping[str, str], *names: str) -> tuple[str, ...]:
    """The values of required fields."""
    for name in names:
        if not fields.get(name):
            raise RefusedError(f"缺少参数：{name}")
    return tuple(fields[name] for name in names)


def accepted(result: object, msg: str = "操作成功", **more: object) -> web.Response:
    """`code` 1."""
    return reply({"code": 1, "msg": msg, "result": result, **more})


def refused(text: str) -> web.Response:
    """`code` 0; the pages list no texts, so these are free."""
    return reply({"code": 0, "msg": text, "result": None})


def refusal(wanted: Refusal) -> web.Response:
    """`code` 0 in the words of a scenario."""
    return refused(wanted.text)


def codes(response: web.Response) -> Iterable[str]:
    """An HTTP status other than 200, `code`, and the states of all orders or cards in the result."""
    members = envelope(response)
    result = members.get("result")
    entries = result if isinstance(result, list) else [result]
    states = [f"status {entry['status']}" for entry in entries if isinstance(entry, dict) and "status" in entry]
    http = [f"HTTP {response.status}"] if response.status != 200 else []
    return [*http, *([f"code {members['code']}"] if "code" in members else []), *states]


Proxy = Callable[[Fields, str], Fields]
"""The fields that arrive instead of those that were sent; the second value is the secret."""


def _sign(pairs: Iterable[tuple[str, str]], secret: str) -> str:
    """Over these pairs in this order, whatever the rule is."""
    text = "&".join(f"{key}={value}" for key, value in [*pairs, ("appsecret", secret)])
    return hashlib.md5(text.encode()).hexdigest().upper()


def _unsigned(fields: Fields) -> Fields:
    return {key: value for key, value in fields.items() if key != "sign"}


def _with(changes: Mapping[str, str], *left_out: str) -> Proxy:
    """Other fields, signed as the rule says."""

    def rewrite(fields: Fields, secret: str) -> Fields:
        changed = {key: value for key, value in {**_unsigned(fields), **changes}.items() if key not in left_out}
        signed = {key: value for key, value in changed.items() if key != "check"}
        return {**changed, "sign": signature(signed, secret)}

    return rewrite


def _signed_as(order: Callable[[Fields], Iterable[tuple[str, str]]], changes: Mapping[str, str] | None = None) -> Proxy:
    """Signed over what `order` makes of the fields, which isn't what the rule says."""

    def rewrite(fields: Fields, secret: str) -> Fields:
        changed = {**_unsigned(fields), **(changes or {})}
        return {**changed, "sign": _sign(order(changed), secret)}

    return rewrite


def _backwards(fields: Fields) -> list[tuple[str, str]]:
    return sorted(fields.items(), reverse=True)


def _empty_included(fields: Fields) -> list[tuple[str, str]]:
    return sorted(fields.items())


def _zero_left_out(fields: Fields) -> list[tuple[str, str]]:
    return sorted((key, value) for key, value in fields.items() if value != "0")


def _in_fen(fields: Fields) -> str:
    """The limit as whole fen, where it is told in yuan."""
    limit = fields.get("money", "")
    in_yuan = fields.get("money_type") == "2" and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,2})?", limit)
    return str(int(Decimal(limit) * 100)) if in_yuan else limit


PROXIES: Final[Mapping[str, Proxy]] = {
    "unsorted": _signed_as(_backwards),
    "lower-case": lambda fields, _: {**fields, "sign": fields["sign"].lower()},
    "empty-signed": _signed_as(_empty_included, {"remark": ""}),
    "zero-unsigned": _signed_as(_zero_left_out, {"order_money": "0"}),
    "no-limit": _with({"order_money": "0"}),
    "fen": lambda fields, secret: _with({"money": _in_fen(fields)}, "money_type")(fields, secret),
    "twelve": _with({"money": "12"}, "money_type"),
    "bare": _with({}, "money", "money_type", "notify_url", "check"),
    "page-51": lambda fields, _: {**fields, "pageSize": "51"},
    "signed-paging": _signed_as(_empty_included),
}
"""What something between client and supplier may make of a genuine request. All know the secret: they sign anew, some
of them in a way that the signing page doesn't allow."""


class Kaquan91:
    """One appid at the 91 gateway."""

    def __init__(self, desk: Desk, *, appid: str, appsecret: str) -> None:
        self.desk = desk
        self._appid = appid
        self._appsecret = appsecret

    @property
    def sign_mode(self) -> SignMode:
        """Which reading of the signing rule is checked."""
        mode = self.desk.mode("sign_mode")
        return "encode-all" if mode == "encode-all" else "lenient" if mode == "lenient" else "notify-only"

    def read(self, body: bytes, content_type: str, unsigned: frozenset[str] = frozenset()) -> Fields:
        """The fields of a genuine request; anything else raises."""
        try:
            fields = form_fields(body, content_type)
        except MalformedError as error:
            raise RefusedError(f"请求格式错误：{error}") from error
        needed(fields, "appid", "sign")
        if fields["appid"] != self._appid:
            raise RefusedError("appid不存在")
        if self.desk.mode("allow_list") == "others":
            raise RefusedError("IP地址未登记")
        self._verify(fields, unsigned)
        if rewritten := self._rewritten(fields):
            self._verify(rewritten, unsigned)
        return rewritten or fields

    def _verify(self, fields: Fields, unsigned: frozenset[str]) -> None:
        if not signed_well(fields, self._appsecret, mode=self.sign_mode, unsigned=unsigned):
            raise RefusedError("签名错误")

    def _rewritten(self, fields: Fields) -> Fields | None:
        """What arrives of a genuine request that a proxy writes anew: purchases where the scenario says `rewritten`,
        looks where it says `both_numbers`, questions for the product list in the mode for that."""
        if "pageSize" in fields:
            mode = self.desk.mode("list_proxy")
            return None if mode == "none" else PROXIES[mode](fields, self._appsecret)
        if "num" in fields or "number" in fields:
            scenario = self.desk.chosen(fields.get("card_id", ""), fields.get("account", ""))
            proxy = scenario.behaviour.extra.get("rewritten") if scenario else None
            return PROXIES[proxy](fields, self._appsecret) if proxy else None
        asked = next(iter(self.desk.book.under(fields.get("out_order_id", ""))), None)
        if asked is None or not asked.scenario.behaviour.extra.get("both_numbers"):
            return None
        return _with({"order_id": asked.supplier_number, "out_order_id": NOBODY})(fields, self._appsecret)

    async def call(
        self, request: web.Request, answer: Callable[[Fields], web.Response], unsigned: frozenset[str] = frozenset()
    ) -> web.Response:
        """Any call but a create call."""
        try:
            return answer(self.read(await request.read(), request.content_type, unsigned))
        except RefusedError as error:
            return refused(str(error))

    def verdict(
        self,
        body: bytes,
        content_type: str,
        decide: Callable[[Fields], Verdict],
        unsigned: frozenset[str] = frozenset(),
    ) -> Verdict:
        """A create call; refusals are booked under our number once the signature proved it ours."""
        number = ""
        try:
            fields = self.read(body, content_type, unsigned)
            number = fields.get("out_order_id", "")
            return decide(fields)
        except RefusedError as error:
            return Verdict(refused(str(error)), number, refusal=str(error))

    async def balance(self, request: web.Request) -> web.Response:
        """`/dcapi/queryCash`: the deposit in yuan as text."""
        return await self.call(request, lambda _: accepted(yuan(self.desk.book.balance)))

    def page(self, fields: Fields) -> slice:
        """The part of a list that `pageIndex` (from 1) and `pageSize` (20 to 50) ask for."""
        index, size = fields.get("pageIndex", "1"), fields.get("pageSize", "20")
        if not index.isdecimal() or not size.isdecimal() or int(index) < 1 or not 20 <= int(size) <= 50:
            raise RefusedError("分页参数错误")
        start = (int(index) - 1) * int(size)
        return slice(start, start + int(size))
