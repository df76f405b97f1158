"""Kuaiduibao: token, create order, signed callback. Nothing can be queried.

Create (form or JSON, the create-order page names neither):
    access_token, out_trade_no (<= 36), product_no (int, <= 10 digits), receive_no (<= 20, optional)
    -> {"code": 0, "data": {"order_no": "…", "cards": [{…}]}, "extra": null}
    -> {"code": 1, "msg": "…", "data": null, "extra": null}
Callback (callback page), form: status_code, order_no, out_trade_no, _sign
    <- {"status": 1, "message": "…", "_sign": "…"}, signed like the callback (signature page).
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from reward_sandbox.books import Order
from reward_sandbox.callbacks import Callback
from reward_sandbox.desk import Desk, Verdict
from reward_sandbox.mint import CANARY, Press
from reward_sandbox.scenario import Answer, Behaviour, Card, Scenario, Stage
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.wire import FORM, JSON, MalformedError, form_fields, json_object, recipient_fits, reply, whole

KIND: Final = "kuaiduibao"
APP_ID: Final = "20160711"
APP_SECRET: Final = "sandbox-kuaiduibao-secret-012345"  # noqa: S105 - String(32) by the token page
MAX_UNITS: Final = 1
"""The create call has no quantity."""
CALLBACK_GAPS: Final = (15.0, 15.0, 30.0, 180.0, 1800.0, 1800.0, 1800.0, 1800.0, 3600.0)
"""Printed for the payment and the virtual-goods callback of the same platform; this one's page has no plan."""
CALLBACK_TIMEOUT: Final = 30.0
"""Printed for the points-deduction call."""

_INT_FIELDS: Final = frozenset({"app_id", "product_no"})


def _coupon(press: Press) -> Card:
    """A fixed code: `card_pws` is empty and the number is all there is."""
    return {
        "card_no": CANARY + press.digits(11),
        "card_pws": "",
        "link": f"http://url.cn/{CANARY}{press.code(7)}",
        "start_time": "03/11/2026",
        "expire_time": "07/31/2029",
    }


def _card(press: Press) -> Card:
    return {"card_no": f"JDV{CANARY}{press.digits(13)}", "card_pws": press.groups(4), "expire_time": "04/28/2029"}


def _card_pwd(press: Press) -> Card:
    """One sample of the create-order page spells the password `card_pwd`, against its own table."""
    return {"card_no": f"g{CANARY}{press.digits(9)}", "card_pwd": f"f{CANARY}{press.digits(8)}"}


_ONCE: Final = (Stage("delivered", cards=True, outcome="delivered"),)
_LATER: Final = (Stage("accepted"), Stage("recharged", notify=True, outcome="delivered"))

SCENARIOS: Final = (
    Scenario(
        name="coupon",
        product="10001",
        title="快兑宝 优惠券 30元",
        description="one coupon at once: fixed code, empty card_pws, link, both dates as m/d/Y",
        kind="coupon",
        face_value=Decimal("30.00"),
        unit_price=Decimal("27.00"),
        recipient="none",
        behaviour=Behaviour(_ONCE, _coupon),
    ),
    Scenario(
        name="card",
        product="10002",
        title="快兑宝 京东E卡 100元",
        description="one card at once: card_no, card_pws, expire_time as m/d/Y",
        kind="card",
        face_value=Decimal("100.00"),
        unit_price=Decimal("98.50"),
        recipient="none",
        behaviour=Behaviour(_ONCE, _card),
    ),
    Scenario(
        name="card-pwd",
        product="10003",
        title="快兑宝 移动充值卡 100元",
        description="one card at once, password under card_pwd instead of card_pws, no dates",
        kind="card",
        face_value=Decimal("100.00"),
        unit_price=Decimal("99.00"),
        recipient="none",
        behaviour=Behaviour(_ONCE, _card_pwd),
    ),
    Scenario(
        name="topup",
        product="10004",
        title="快兑宝 话费直充 50元",
        description="order_no only; the callback with status_code 1 comes a step later",
        kind="topup",
        face_value=Decimal("50.00"),
        unit_price=Decimal("49.50"),
        recipient="phone",
        behaviour=Behaviour(_LATER),
    ),
    Scenario(
        name="out-of-stock",
        product="10005",
        title="快兑宝 京东E卡 200元（缺货）",
        description="refused with code 1, nothing is booked",
        kind="card",
        face_value=Decimal("200.00"),
        unit_price=Decimal("197.00"),
        recipient="none",
        behaviour=Behaviour(_ONCE, _card, stock=0),
    ),
    Scenario(
        name="topup-silent",
        product="10006",
        title="快兑宝 话费直充 100元（超时）",
        description="accepted and charged, the answer never comes; the callback does",
        kind="topup",
        face_value=Decimal("100.00"),
        unit_price=Decimal("99.00"),
        recipient="phone",
        behaviour=Behaviour(_LATER, answer=Answer.NEVER),
    ),
    Scenario(
        name="card-lost",
        product="10007",
        title="快兑宝 京东E卡 500元（丢失）",
        description="accepted and charged, no answer, no callback: nothing ever tells what became of it",
        kind="card",
        face_value=Decimal("500.00"),
        unit_price=Decimal("492.00"),
        recipient="none",
        behaviour=Behaviour(_ONCE, _card, answer=Answer.NEVER),
    ),
)


def signature(fields: Mapping[str, str], secret: str) -> str:
    """HMAC-SHA256 over the raw `key=value` pairs sorted by key, `_sign` left out, empty values kept."""
    text = "&".join(f"{key}={fields[key]}" for key in sorted(fields) if key.lower() != "_sign")
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def acknowledges(answer: bytes, secret: str) -> bool:
    """Whether a callback was answered with a JSON object whose status is the number 1 and whose `_sign` is right."""
    try:
        members = json_object(answer, JSON)
    except MalformedError:
        return False
    sign = members.pop("_sign", None)
    status = members.get("status")
    # `true` would be signed as text nobody documents; the answer table shows the "Boolean" as a number.
    if not isinstance(sign, str) or isinstance(status, bool) or status != 1:
        return False
    if not all(isinstance(value, str | int) and not isinstance(value, bool) for value in members.values()):
        return False
    expected = signature({key: str(value) for key, value in members.items()}, secret)
    return hmac.compare_digest(sign.lower().encode(), expected.encode())


class Kuaiduibao:
    """The Kuaiduibao gateway."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.desk = Desk(KIND, SCENARIOS, settings, self._notify)
        self._settings = settings

    def routes(self) -> Sequence[web.RouteDef]:
        return (
            web.post("/o-auth2/app/access-token", self._token),
            web.post("/service/order/create", self._create),
            web.post("/api/basic/ip", self._ip),
        )

    async def _token(self, request: web.Request) -> web.Response:
        try:
            fields = _fields(await request.read(), request.content_type)
        except MalformedError as error:
            return reply({"error": "invalid_request", "error_description": str(error)}, 400)
        if fields.get("app_id") != APP_ID or fields.get("app_secret") != APP_SECRET:
            return reply({"error": "invalid_client", "error_description": "app_id or app_secret is wrong"}, 401)
        tokens = self.desk.tokens
        token = hashlib.sha1(f"{self._settings.seed}/{self.desk.clock()}/{tokens.issued}".encode()).hexdigest()
        tokens.issue(token, older_live_for=0.0 if self._settings.old_token_dies else None)
        lifetime = int(tokens.lifetime)
        return reply({"access_token": token, "expires_in": lifetime, "token_type": "Bearer", "scope": True})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        return await self.desk.place(request, lambda body: self._decide(body, request.content_type))

    def _decide(self, body: bytes, content_type: str) -> Verdict:
        try:
            fields = _fields(body, content_type)
        except MalformedError as error:
            return _refused("", str(error))
        if self.desk.tokens.check(fields.get("access_token", "")) != "good":
            answer = reply({"error": "invalid_token", "error_description": "access_token is not valid"}, 401)
            return Verdict(answer, refusal="HTTP 401: access_token is not valid")
        number, product = fields.get("out_trade_no", ""), fields.get("product_no", "")
        recipient = fields.get("receive_no", "")
        if not number or len(number) > 36:
            return _refused(number, "参数错误：out_trade_no")
        if whole(product) is None:
            return _refused(number, "参数错误：product_no")
        if len(recipient) > 20:
            return _refused(number, "参数错误：receive_no")
        previous = self.desk.repeated(number)
        if previous and self._settings.duplicates == "replay":
            return Verdict(_accepted(previous), number, order=previous)
        if previous:
            return _refused(number, "商户订单号重复，请勿重复下单")
        scenario = self.desk.scenarios.get(product)
        if scenario is None:
            return _refused(number, "商品不存在")
        if not recipient_fits(scenario.recipient, recipient):
            return _refused(number, "领取号码不正确")
        match self.desk.shortage(scenario, 1, scenario.unit_cost):
            case "stock":
                return _refused(number, "商品库存不足")
            case "balance":
                return _refused(number, "账户余额不足")
        order = self.desk.sell(
            scenario,
            number=number,
            quantity=1,
            recipient=recipient,
            charged=scenario.unit_cost,
            name_order=lambda press: f"TO{press.digits(16)}",
        )
        return Verdict(_accepted(order), number, order=order)

    async def _ip(self, request: web.Request) -> web.Response:
        """The platform's own addresses, for an allow-list (server-address page)."""
        try:
            fields = _fields(await request.read(), request.content_type)
        except MalformedError as error:
            return _refused("", str(error)).response
        if self.desk.tokens.check(fields.get("access_token", "")) != "good":
            return reply({"error": "invalid_token", "error_description": "access_token is not valid"}, 401)
        return reply({"code": 0, "data": ["127.0.0.1"], "extra": None})

    def _notify(self, order: Order) -> Callback | None:
        """To the address of the merchant console; none set, none sent."""
        if not self._settings.callback_url:
            return None
        fields = {"status_code": "1", "order_no": order.supplier_number, "out_trade_no": order.number}
        fields["_sign"] = signature(fields, APP_SECRET)
        return Callback(
            url=self._settings.callback_url,
            body=urlencode(fields).encode(),
            content_type=FORM,
            gaps=CALLBACK_GAPS,
            accepts=lambda answer: acknowledges(answer, APP_SECRET),
            timeout=CALLBACK_TIMEOUT,
        )


def _fields(body: bytes, content_type: str) -> dict[str, str]:
    """Form or JSON as text; JSON members must have the types of the request table."""
    if content_type != JSON:
        return form_fields(body, content_type)
    fields = {}
    for key, value in json_object(body, content_type).items():
        allowed = int | str if key in _INT_FIELDS else str
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise MalformedError(f"{key} has the wrong type")
        fields[key] = str(value)
    return fields


def _accepted(order: Order) -> web.Response:
    data: dict[str, object] = {"order_no": order.supplier_number}
    if order.cards:
        data["cards"] = order.cards
    return reply({"code": 0, "data": data, "extra": None})


def _refused(number: str, text: str) -> Verdict:
    """Code 1: no page lists the failure codes of orders, the gateway's other calls use 1 for business failures."""
    answer = reply({"code": 1, "msg": text, "data": None, "extra": None})
    return Verdict(answer, number, refusal=f"1 {text}")
