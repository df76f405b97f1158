"""What both 91 Kaquan calls share: the form, the signing rule, the envelope, the balance.

    sign = UPPER(MD5("k1=v1&k2=v2&…&appsecret=" + secret)), keys in ASCII order, empty values and `sign` left out
    -> {"code": 1, "msg": "…", "result": …, "other": {…}} or {"code": 0, "msg": "…", "result": null}
Source: signing page. "0" is not empty. Fields marked as unsigned stay out of the text even when sent.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
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
    """`code`, and the states of all orders or cards in the result."""
    members = envelope(response)
    result = members.get("result")
    entries = result if isinstance(result, list) else [result]
    states = [f"status {entry['status']}" for entry in entries if isinstance(entry, dict) and "status" in entry]
    return [*([f"code {members['code']}"] if "code" in members else []), *states]


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
        if not signed_well(fields, self._appsecret, mode=self.sign_mode, unsigned=unsigned):
            raise RefusedError("签名错误")
        return fields

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
