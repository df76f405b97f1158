"""Dushu: membership recharge, synchronous, with a query and no callback.

Token (token page): POST /oauth/token?grant_type=client_credentials&client_id=…&client_secret=…, empty body
    -> {"value": "<JWT>", "expiresIn": 7199, "expiration": <ms>, "tokenType": "bearer", …}
Every other call: query appid, sign, access_token; sign = sha1(appsecret + exact body bytes + appid) (signing page)
Create (create-order page): mobile, areaCode?, productNo, buyCount?, payType, fee, tradeNo
    -> {"data": {"orderNumber": 1717…, "tradeNo": "…"}, "msg": "操作成功！", "status": "0000", "systemMsg": …}
    -> {"msg": "重复提交", "status": "9999", "suceess": false, …}: the misspelling is the supplier's.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final

from aiohttp import web

from reward_sandbox.books import Order
from reward_sandbox.desk import Desk, Verdict
from reward_sandbox.mint import Press
from reward_sandbox.scenario import Answer, Behaviour, Refusal, Scenario, Stage
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.wire import MalformedError, json_object, recipient_fits, reply

KIND: Final = "dushu"
APPID: Final = "fd0cac7cd6726d5a4d"
APPSECRET: Final = "sandbox-dushu-secret-0123456789abcdef012"
PAY_TYPE: Final = "test"
"""The payment type of the page's sample; 1 to 3 work as well, all others need enabling."""
MAX_UNITS: Final = 1
"""`buyCount` stays 1 until it is known whether `fee` is per unit."""
OLD_TOKEN_SECONDS: Final = 300.0
"""An older token stays good this long after a new one was issued (token page)."""
TRADE_NO_LENGTH: Final = 32
"""Not documented."""

_PAY_TYPES: Final = frozenset({"1", "2", "3", PAY_TYPE})
_GATEWAY_STATUS: Final = {"100002": 401, "100003": 401, "100004": 401, "100011": 403}
"""HTTP statuses of gateway codes; the code page gives none. Everything else answers 200."""

_DONE: Final = (Stage("COMPLETE", outcome="delivered"),)


def _membership(name: str, product: str, title: str, fee: str, description: str, *, behaviour: Behaviour) -> Scenario:
    return Scenario(
        name=name,
        product=product,
        title=title,
        description=description,
        kind="membership",
        face_value=Decimal(fee),
        unit_price=Decimal(fee),
        recipient="phone",
        behaviour=behaviour,
    )


SCENARIOS: Final = (
    _membership(
        "membership", "200000148", "樊登读书 年卡", "365.00", "done in the create answer", behaviour=Behaviour(_DONE)
    ),
    _membership(
        "locked-phone",
        "200000147",
        "樊登读书 半年卡（号码锁定）",
        "188.00",
        "refused with 2003, nothing is booked",
        behaviour=Behaviour(_DONE, refusal=Refusal("2003", "该手机号已锁定")),
    ),
    _membership(
        "slow-recharge",
        "200000146",
        "樊登读书 季卡（到账慢）",
        "99.00",
        "taken although the answer says 200001; the detail call shows NEW for three looks, then COMPLETE",
        behaviour=Behaviour((Stage("NEW", looks=3), *_DONE), garbled=Refusal("200001", "资源服务异常")),
    ),
    _membership(
        "silent",
        "200000403",
        "樊登读书 半年卡（超时）",
        "188.00",
        "accepted, the answer never comes; the detail call shows COMPLETE",
        behaviour=Behaviour(_DONE, answer=Answer.NEVER),
    ),
)


class RefusedError(Exception):
    """A failure envelope with this status."""

    def __init__(self, status: str, msg: str) -> None:
        super().__init__(msg)
        self.status = status


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
        self.desk = Desk(KIND, SCENARIOS, settings)
        self._settings = settings

    def routes(self) -> Sequence[web.RouteDef]:
        return (
            web.post("/oauth/token", self._token),
            web.post("/vip/order/create", self._create),
            web.post("/vip/order/detail", self._detail),
            web.post("/vip/product/list", self._list),
        )

    async def _token(self, request: web.Request) -> web.Response:
        query = request.query
        known = query.get("client_id") == APPID and query.get("client_secret") == APPSECRET
        if query.get("grant_type") != "client_credentials" or not known:
            return reply({"error": "invalid_client", "error_description": "Bad client credentials"}, 401)
        tokens = self.desk.tokens
        jti = hashlib.sha1(f"{self._settings.seed}/{self.desk.clock()}/{tokens.issued}".encode()).hexdigest()
        end = self.desk.clock() + tokens.lifetime
        token = _jwt({"scope": ["ALL"], "exp": int(end), "jti": jti, "client_id": APPID})
        tokens.issue(token, older_live_for=OLD_TOKEN_SECONDS)
        return reply(
            {
                "value": token,
                "expiresIn": max(int(tokens.lifetime) - 1, 0),
                "expiration": int(end * 1000),
                "expired": False,
                "tokenType": "bearer",
                "scope": ["ALL"],
                "additionalInformation": {"jti": jti},
            }
        )

    def _verify(self, request: web.Request, body: bytes) -> None:
        """The gateway's checks, in the order of its code table."""
        query = request.query
        for name, code in (("appid", "100005"), ("sign", "100006"), ("access_token", "100004")):
            if not query.get(name):
                raise RefusedError(code, f"缺少{name}")
        if query["appid"] != APPID:
            raise RefusedError("100011", "应用不存在")
        match self.desk.tokens.check(query["access_token"]):
            case "unknown":
                raise RefusedError("100002", "非法的access_token")
            case "expired":
                raise RefusedError("100003", "access_token失效或已过期")
        if not signed_well(body, query["sign"], appid=APPID, appsecret=APPSECRET):
            raise RefusedError("100001", "非法的签名")

    async def _create(self, request: web.Request) -> web.StreamResponse:
        return await self.desk.place(request, lambda body: self._decide(request, body))

    def _decide(self, request: web.Request, body: bytes) -> Verdict:
        number = ""
        try:
            self._verify(request, body)
            members = _members(body, request.content_type)
            number = _trade_no(members)
            return self._recharge(number, members)
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
        previous = self.desk.repeated(number)
        if previous and self._settings.duplicates == "replay":
            return Verdict(self._success(_created(previous)), number, order=previous)
        if previous and previous.answering:
            raise RefusedError("9999", "重复提交")
        if previous:
            raise RefusedError("2004", "订单号重复")
        scenario = self.desk.scenarios.get(str(product))
        if scenario is None:
            raise RefusedError("2001", "会期商品不存在")
        if Decimal(fee) != scenario.unit_cost:
            raise RefusedError("2002", "价格校验失败")
        if scenario.behaviour.refusal:
            raise RefusedError(scenario.behaviour.refusal.code, scenario.behaviour.refusal.text)
        quantity = int(str(count))
        order = self.desk.sell(
            scenario,
            number=number,
            quantity=quantity,
            recipient=mobile if area == "+86" else area + mobile,
            charged=scenario.unit_cost * quantity,
            name_order=_order_number,
            details={"payType": str(pay_type), "userId": str(10_000_000 + len(self.desk.book.orders))},
        )
        garbled = scenario.behaviour.garbled
        if garbled:
            return Verdict(self._failure(RefusedError(garbled.code, garbled.text)), number, order=order)
        return Verdict(self._success(_created(order)), number, order=order)

    async def _detail(self, request: web.Request) -> web.Response:
        return self._answer(request, await request.read(), self._found)

    def _found(self, body: bytes, content_type: str) -> object:
        number = _trade_no(_members(body, content_type))
        order = next(iter(self.desk.book.under(number)), None)
        if order is None:
            raise RefusedError("0006", "订单不存在")
        detail = {
            **_created(order),
            "orderStatus": order.state,
            "createTime": int(order.accepted_at * 1000),
            "updateTime": int(order.updated_at * 1000),
            "userId": int(order.details["userId"]),
            "totalFee": float(order.charged),
            "productId": int(order.scenario.product),
            "productName": order.scenario.title,
            "payType": order.details["payType"],
        }
        self.desk.look(order)
        return detail

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
                "price": int(scenario.unit_cost),
                "vipValue": 1,
                "vipUnit": 1,
                "remark": scenario.description,
            }
            for scenario in SCENARIOS
        ]

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
        return reply(body, _GATEWAY_STATUS.get(error.status, 200))

    def _time(self) -> dict[str, int]:
        return {"systemTime": int(self.desk.clock() * 1000)}


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
