"""Dushu: membership recharge, synchronous, with a query and no callback.

Token (token page): POST /oauth/token?grant_type=client_credentials&client_id=…&client_secret=…, empty body
    -> {"value": "<JWT>", "expiresIn": 7199, "expiration": <ms>, "tokenType": "bearer", …}
Every other call: query appid, sign, access_token; sign = sha1(appsecret + exact body bytes + appid) (signing page)
Create (create-order page): mobile, areaCode?, productNo, buyCount?, payType, fee, tradeNo
    -> {"data": {"orderNumber": 1717…, "tradeNo": "…"}, "msg": "操作成功！", "status": "0000", "systemMsg": …}
    -> {"msg": "重复提交", "status": "9999", "suceess": false, …}: the misspelling is the supplier's.
There are no callbacks: those that `_notify` makes are somebody else's.

What only this file understands of a scenario's `extra`: `vip` (membership time), `tokens` (what becomes of them at the
first create call), `known_from` (from which create call on the order detail knows the order), `rewritten` (what a proxy
on the way makes of create calls: one of `PROXIES`).
"""

import base64
import hashlib
import hmac
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from reward_sandbox.books import Order
from reward_sandbox.callbacks import Callback
from reward_sandbox.desk import Desk, Verdict
from reward_sandbox.faults import Call, Refusal
from reward_sandbox.mint import Press
from reward_sandbox.scenario import Scenario
from reward_sandbox.scenarios import dushu as goods
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.shops import Shop
from reward_sandbox.wire import FORM, JSON, MalformedError, envelope, json_object, recipient_fits, reply

KIND: Final = "dushu"
APPID: Final = "fd0cac7cd6726d5a4d"
APPSECRET: Final = "sandbox-dushu-secret-0123456789abcdef012"
PAY_TYPE: Final = "test"
"""The payment type of the page's sample; 1 to 3 work as well, all others need enabling."""
MAX_UNITS: Final = 1
"""`buyCount` stays 1 until it is known whether `fee` is per unit; scenarios about that ask for more."""
OLD_TOKEN_SECONDS: Final = 300.0
"""An older token stays good this long after a new one was issued (token page)."""
TRADE_NO_LENGTH: Final = 32
"""Not documented."""
TOKENS_A_DAY: Final = 200
"""The token page says that there is a limit, and not which."""

_PAY_TYPES: Final = frozenset({"1", "2", "3", PAY_TYPE})
_GATEWAY_STATUS: Final = {
    **dict.fromkeys(("100002", "100003", "100004"), 401),
    **dict.fromkeys((str(code) for code in range(100008, 100014)), 403),
}
"""HTTP statuses of gateway codes; the code page gives none. Everything else answers 200."""
_EXPIRED: Final = "access_token失效或已过期"


class RefusedError(Exception):
    """A failure envelope with this status; `http` where the HTTP status isn't the usual one."""

    def __init__(self, status: str, msg: str, http: int | None = None) -> None:
        super().__init__(msg)
        self.status = status
        self.http = _GATEWAY_STATUS.get(status, 200) if http is None else http


def signature(body: bytes, *, appid: str, appsecret: str) -> str:
    """The secret comes first; the body is taken byte by byte as received."""
    return hashlib.sha1(appsecret.encode() + body + appid.encode()).hexdigest()


def signed_well(body: bytes, sign: str, *, appid: str, appsecret: str) -> bool:
    """Whether a signature fits, in either case of its hex digits."""
    expected = signature(body, appid=appid, appsecret=appsecret)
    return hmac.compare_digest(sign.lower().encode(), expected.encode())


class Dushu:
    """The Dushu open platform."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.desk = Desk(KIND, goods.SCENARIOS, settings, refuse=self._refusal, codes=_codes, notify=self._notify)
        self._settings = settings
        self._fetched: Counter[int] = Counter()
        """Tokens fetched, by day."""

    def routes(self) -> Sequence[tuple[Call, web.RouteDef]]:
        return (
            ("token", web.post("/oauth/token", self._token)),
            ("create", web.post("/vip/order/create", self._create)),
            ("query", web.post("/vip/order/detail", self._detail)),
            ("products", web.post("/vip/product/list", self._list)),
        )

    async def _token(self, request: web.Request) -> web.Response:
        query = request.query
        if self.desk.mode("allow_list") == "others":
            return self._failure(_address_refused())
        known = query.get("client_id") == APPID and query.get("client_secret") == APPSECRET
        if query.get("grant_type") != "client_credentials" or not known:
            return reply({"error": "invalid_client", "error_description": "Bad client credentials"}, 401)
        today = int(self.desk.clock() // 86400)
        if self._fetched[today] >= TOKENS_A_DAY or self.desk.mode("tokens_left") == "none":
            # How this looks on the wire isn't documented.
            return reply({"error": "too_many_requests", "error_description": "access_token获取次数已达今日上限"}, 429)
        self._fetched[today] += 1
        token, jti, end = self._issue()
        return reply(
            {
                "value": token,
                "expiresIn": max(int(self.desk.tokens.lifetime) - 1, 0),
                "expiration": int(end * 1000),
                "expired": False,
                "tokenType": "bearer",
                "scope": ["ALL"],
                "additionalInformation": {"jti": jti},
            }
        )

    def _issue(self) -> tuple[str, str, float]:
        """A new token, its id and when it ends; the older ones end five minutes from now at the latest."""
        tokens = self.desk.tokens
        jti = hashlib.sha1(f"{self._settings.seed}/{self.desk.clock()}/{tokens.issued}".encode()).hexdigest()
        end = self.desk.clock() + tokens.lifetime
        token = _jwt({"scope": ["ALL"], "exp": int(end), "jti": jti, "client_id": APPID})
        tokens.issue(token, older_live_for=OLD_TOKEN_SECONDS)
        return token, jti, end

    def _verify(self, request: web.Request, body: bytes, resigned: str = "") -> None:
        """The gateway's checks, in the order of its code table; `resigned`: the signature that a proxy put in."""
        query = request.query
        if self.desk.mode("allow_list") == "others":
            raise _address_refused()
        for name, code in (("appid", "100005"), ("sign", "100006"), ("access_token", "100004")):
            if not query.get(name):
                raise RefusedError(code, f"缺少{name}")
        if query["appid"] != APPID:
            raise RefusedError("100011", "应用不存在")
        match self.desk.tokens.check(query["access_token"]):
            case "unknown":
                raise RefusedError("100002", "非法的access_token")
            case "expired":
                raise RefusedError("100003", _EXPIRED)
        if not signed_well(body, resigned or query["sign"], appid=APPID, appsecret=APPSECRET):
            raise RefusedError("100001", "非法的签名")

    async def _create(self, request: web.Request) -> web.StreamResponse:
        return await self.desk.place(request, lambda body: self._decide(request, body))

    def _decide(self, request: web.Request, body: bytes) -> Verdict:
        number = ""
        try:
            self._verify(request, body)
            members = _members(body, request.content_type)
            scenario = self.desk.chosen(str(members.get("productNo")), str(members.get("mobile")))
            proxy = scenario.behaviour.extra.get("rewritten") if scenario else None
            if proxy is None:
                number = _trade_no(members)
                return self._recharge(number, members)
            arrived = PROXIES[proxy](body)
            self._verify(request, arrived, "" if proxy == "spaced" else _signed(arrived))
            written = _members(arrived, request.content_type)
            number = _trade_no(written)
            verdict = self._recharge(number, written)
            return replace(verdict, response=_answered_as(verdict.response, number, _trade_no(members)))
        except RefusedError as error:
            return Verdict(self._failure(error), number, refusal=f"{error.status} {error}")

    def _recharge(self, number: str, members: dict[str, object]) -> Verdict:
        mobile, product, fee = members.get("mobile"), members.get("productNo"), members.get("fee")
        count, area, pay_type = members.get("buyCount", 1), members.get("areaCode", "+86"), members.get("payType")
        if not isinstance(mobile, str) or not isinstance(area, str) or not area.startswith("+"):
            raise RefusedError("9999", "手机号或区号错误")
        if area == "+86" and not recipient_fits("phone", mobile):
            raise RefusedError("9999", "手机号错误")
        if not _is_int(product) or not _is_int(count) or not 1 <= int(str(count)) <= 100:
            raise RefusedError("9999", "参数错误：productNo或buyCount")
        if not isinstance(fee, int | Decimal) or isinstance(fee, bool):
            raise RefusedError("9999", "参数错误：fee")
        if pay_type not in _PAY_TYPES:
            raise RefusedError("9999", "支付方式未开通")
        scenario = self.desk.chosen(str(product), mobile if area == "+86" else "")
        previous = self.desk.repeated(number, scenario)
        if previous and self.desk.mode("duplicates", scenario) == "replay":
            return Verdict(self._success(_created(previous)), number, order=previous)
        if previous and previous.answering:
            raise RefusedError("9999", "重复提交")
        if previous:
            raise RefusedError("2004", "订单号重复")
        if scenario is None:
            raise RefusedError("2001", "会期商品不存在")
        self._trouble_tokens(scenario, number)
        quantity = int(str(count))
        if Decimal(fee) != self.desk.price(scenario) * (quantity if self.desk.mode("fee") == "total" else 1):
            raise RefusedError("2002", "价格校验失败")
        order = self.desk.sell(
            scenario,
            number=number,
            quantity=quantity,
            recipient=mobile if area == "+86" else area + mobile,
            charged=self.desk.price(scenario) * quantity,
            name_order=_order_number,
            details={"payType": str(pay_type), "userId": _user_id(area + mobile)},
        )
        return Verdict(self._success(_created(order)), number, order=order)

    def _trouble_tokens(self, scenario: Scenario, number: str) -> None:
        """What becomes of everybody's tokens when a number first comes, where the scenario says so."""
        if self.desk.book.requests[number]:
            return
        match scenario.behaviour.extra.get("tokens"):
            case "expired" | "expired-200" as how:
                self.desk.tokens.expire()
                raise RefusedError("100003", _EXPIRED, 200 if how == "expired-200" else None)
            case "forgotten":
                self.desk.tokens.forget()
                raise RefusedError("100002", "非法的access_token")
            case "rotated":
                # Another process of the same app fetched one.
                self._issue()

    async def _detail(self, request: web.Request) -> web.Response:
        return self._answer(request, await request.read(), self._found)

    def _found(self, body: bytes, content_type: str) -> object:
        asked = _trade_no(_members(body, content_type))
        # Where a proxy writes numbers of its own, it does so in looks, too.
        number = asked if self.desk.book.under(asked) else str(_bare(asked))
        order = next(iter(self.desk.book.under(number)), None)
        if order is None or self.desk.book.requests[number] < order.scenario.behaviour.extra.get("known_from", 0):
            raise RefusedError("0006", "订单不存在")
        detail: dict[str, Any] = {
            **_created(order),
            "tradeNo": asked,
            "orderStatus": order.state,
            "createTime": int(order.accepted_at * 1000),
            "updateTime": int(order.updated_at * 1000),
            "userId": int(order.details["userId"]),
            "totalFee": float(order.charged),
            "productId": int(order.scenario.product),
            "productName": order.scenario.title,
            "payType": order.details["payType"],
        }
        entry = order.stage.entry
        self.desk.look(order)
        return entry(detail) if entry else detail

    async def _list(self, request: web.Request) -> web.Response:
        return self._answer(request, await request.read(), self._products)

    def _products(self, body: bytes, content_type: str) -> object:
        """No parameters; the body is empty or an empty object, both signed as sent."""
        if body:
            _members(body, content_type)
        return [
            {
                "productNo": int(scenario.product),
                "productName": scenario.title,
                "price": _number(self.desk.price(scenario)),
                "vipValue": scenario.behaviour.extra["vip"][0],
                "vipUnit": int(scenario.behaviour.extra["vip"][1]),
                "remark": scenario.description,
            }
            for scenario in goods.SCENARIOS
        ]

    def _notify(self, order: Order, name: str) -> Callback | None:
        """Notices that the platform never sent, posted to where callbacks of this account would go."""
        states = {"complete": "COMPLETE", "failed": "FAILED", "new": "NEW", "form": "COMPLETE"}
        if name not in states and name != "unknown-number":
            return None
        number = "DS202401010001" if name == "unknown-number" else order.number
        fields = {"tradeNo": number, "orderNumber": order.supplier_number, "orderStatus": states.get(name, "COMPLETE")}
        as_form = name == "form"
        return Callback(
            url=f"{self._settings.callback_url.rpartition('/')[0]}/{KIND}",
            body=urlencode(fields).encode() if as_form else json.dumps(fields).encode(),
            content_type=FORM if as_form else JSON,
            gaps=(),
            accepts=lambda _: True,
        )

    def _answer(self, request: web.Request, body: bytes, answer: Callable[[bytes, str], object]) -> web.Response:
        """Any call but create."""
        try:
            self._verify(request, body)
            return self._success(answer(body, request.content_type))
        except RefusedError as error:
            return self._failure(error)

    def _success(self, data: object) -> web.Response:
        return reply(
            {"data": data, "msg": "操作成功！", "status": "0000", "systemMsg": "服务调用成功！", **self._time()}
        )

    def _failure(self, error: RefusedError) -> web.Response:
        body = {
            "msg": str(error),
            "status": error.status,
            "suceess": False,
            "systemMsg": "服务调用失败！",
            **self._time(),
        }
        return reply(body, error.http)

    def _refusal(self, refusal: Refusal) -> web.Response:
        return self._failure(RefusedError(refusal.code or "9999", refusal.text))

    def _time(self) -> dict[str, int]:
        return {"systemTime": int(self.desk.clock() * 1000)}


def _codes(response: web.Response) -> Iterable[str]:
    """`status` of the envelope, `error` of the token call, the state of the order in the data, and the HTTP status."""
    members = envelope(response)
    data = members.get("data")
    states = [str(data["orderStatus"])] if isinstance(data, dict) and "orderStatus" in data else []
    codes = [str(members[name]) for name in ("status", "error") if name in members]
    return [*codes, *states, f"HTTP {response.status}"]


def _address_refused() -> RefusedError:
    return RefusedError("100012", "IP不在白名单")


def _members(body: bytes, content_type: str) -> dict[str, object]:
    try:
        return json_object(body, content_type)
    except MalformedError as error:
        raise RefusedError("9999", f"参数错误：{error}") from error


def _trade_no(members: dict[str, object]) -> str:
    """A string by the table, a bare number in the sample: both are taken, and echoed as text."""
    number = members.get("tradeNo")
    if isinstance(number, bool) or not isinstance(number, str | int) or not 0 < len(str(number)) <= TRADE_NO_LENGTH:
        raise RefusedError("9999", "参数错误：tradeNo")
    return str(number)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(amount: Decimal) -> int | float:
    """A whole number where it is one, as in the page's samples."""
    return int(amount) if amount == int(amount) else float(amount)


def _user_id(phone: str) -> str:
    """The member's number: always the same for one phone number, made when that comes first."""
    return str(10_000_000 + zlib.crc32(phone.encode()) % 90_000_000)


def _order_number(press: Press) -> str:
    """19 digits, beyond what a double can hold and inside 64 bits."""
    return f"1717{press.digits(15)}"


def _jwt(claims: dict[str, object]) -> str:
    """A token that looks like the platform's; the sandbox knows it by heart and never reads it."""
    parts = [json.dumps({"alg": "HS256", "typ": "JWT"}).encode(), json.dumps(claims).encode()]
    text = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    sign = hmac.new(APPSECRET.encode(), text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(sign).rstrip(b'=').decode()}"


def _created(order: Order) -> dict[str, object]:
    return {"orderNumber": int(order.supplier_number), "tradeNo": order.number}


def _signed(body: bytes) -> str:
    return signature(body, appid=APPID, appsecret=APPSECRET)


def _fee(spelling: Callable[[Decimal], str]) -> Callable[[bytes], bytes]:
    """The fee's number spelt otherwise; everything else stays."""
    return lambda body: re.sub(
        rb'"fee":([0-9.]+)', lambda found: f'"fee":{spelling(Decimal(found[1].decode()))}'.encode(), body
    )


def _bare(number: str) -> int:
    """A whole number in place of one of ours, which have letters."""
    return int(hashlib.sha1(number.encode()).hexdigest()[:15], 16)


def _with_bare_number(body: bytes) -> bytes:
    return re.sub(rb'"tradeNo":"([^"]*)"', lambda found: f'"tradeNo":{_bare(found[1].decode())}'.encode(), body)


def _answered_as(response: web.Response, number: str, ours: str) -> web.Response:
    """The answer with our number in place of the proxy's, which is echoed as text."""
    if isinstance(response.body, bytes):
        response.body = response.body.replace(f'"tradeNo":"{number}"'.encode(), f'"tradeNo":"{ours}"'.encode())
    return response


PROXIES: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "spaced": lambda body: json.dumps(json.loads(body), ensure_ascii=False).encode(),
    "fee-whole": _fee(lambda fee: f"{fee.normalize():f}"),
    "fee-one-decimal": _fee(lambda fee: f"{fee.normalize():.1f}"),
    "fee-exponent": _fee(lambda fee: f"{fee * 100:.0f}e-2"),
    "bare-number": _with_bare_number,
}
"""What something between client and platform may make of a genuine create call. All but `spaced` know the secret and
sign it anew."""


SHOP: Final = Shop(
    title="Dushu 樊登读书",
    open=Dushu,
    account={"appid": APPID, "appsecret": APPSECRET, "pay_type": PAY_TYPE},
    scenarios=goods.SCENARIOS,
    behaviours=goods.BEHAVIOURS,
    codes=goods.CODES,
    left_open=goods.OPEN,
    max_units=MAX_UNITS,
    exact_cost=True,
)
