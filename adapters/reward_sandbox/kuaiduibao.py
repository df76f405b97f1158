"""Kuaiduibao: token, create order, signed callback. Nothing can be queried, unless the supplier grants it.

Create (form or JSON, the create-order page names neither):
    access_token, out_trade_no (<= 36), product_no (int, <= 10 digits), receive_no (<= 20, optional)
    -> {"code": 0, "data": {"order_no": "…", "cards": [{…}]}, "extra": null}
    -> {"code": 1, "msg": "…", "data": null, "extra": null}
Callback (callback page), form: status_code, order_no, out_trade_no, _sign
    <- {"status": 1, "message": "…", "_sign": "…"}, signed like the callback (signature page).
Order query (on no page; for apps that were granted one): access_token, out_trade_no
    -> {"code": 0, "data": {"order_no": "…", "out_trade_no": "…", "status": 1, "cards": [{…}]}, "extra": null}
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from reward_sandbox.books import Order
from reward_sandbox.callbacks import Callback
from reward_sandbox.desk import Desk, Verdict
from reward_sandbox.faults import Call, Refusal
from reward_sandbox.scenario import GENUINE, Scenario
from reward_sandbox.scenarios import kuaiduibao as goods
from reward_sandbox.scenarios.kuaiduibao import SCENARIOS
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.shops import Shop
from reward_sandbox.wire import (
    FORM,
    JSON,
    MalformedError,
    envelope,
    form_fields,
    json_object,
    recipient_fits,
    reply,
    whole,
)

KIND: Final = "kuaiduibao"
APP_ID: Final = "20160711"
APP_SECRET: Final = "sandbox-kuaiduibao-secret-012345"  # noqa: S105 - String(32) by the token page
QUERY_PATH: Final = "/service/order/query"
"""On no page: an address like those of the other calls."""
MAX_UNITS: Final = 1
"""The create call has no quantity."""
CALLBACK_GAPS: Final = (15.0, 15.0, 30.0, 180.0, 1800.0, 1800.0, 1800.0, 1800.0, 3600.0)
"""Printed for the payment and the virtual-goods callback of the same platform; this one's page has no plan."""
CALLBACK_TIMEOUT: Final = 30.0
"""Printed for the points-deduction call."""

_OTHER_SECRET: Final = "sandbox-somebody-elses-secret-01"  # noqa: S105 - signs forgeries

_INT_FIELDS: Final = frozenset({"app_id", "product_no"})


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
        self.desk = Desk(KIND, SCENARIOS, settings, refuse=_refusal, codes=_codes, notify=self._notify)
        self._settings = settings

    def routes(self) -> Sequence[tuple[Call, web.RouteDef]]:
        return (
            ("token", web.post("/o-auth2/app/access-token", self._token)),
            ("create", web.post("/service/order/create", self._create)),
            ("query", web.post(QUERY_PATH, self._query)),
            ("products", web.post("/api/basic/ip", self._ip)),
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
        tokens.issue(token, older_live_for=0.0 if self.desk.mode("old_tokens") == "die" else None)
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
        scenario = self.desk.chosen(product, recipient)
        previous = self.desk.repeated(number, scenario)
        if previous and self.desk.mode("duplicates", scenario) == "replay":
            return Verdict(_accepted(previous), number, order=previous)
        if previous:
            return _refused(number, "商户订单号重复，请勿重复下单")
        if scenario is None:
            return _refused(number, "商品不存在")
        if not recipient_fits(scenario.recipient, recipient):
            return _refused(number, "领取号码不正确")
        match self.desk.shortage(scenario, 1, self.desk.price(scenario)):
            case "stock":
                return _refused(number, "商品库存不足")
            case "balance":
                return _refused(number, "账户余额不足")
        order = self.desk.sell(
            scenario,
            number=number,
            quantity=1,
            recipient=recipient,
            charged=self.desk.price(scenario),
            name_order=lambda press: f"9{press.digits(19)}" if _numeric(scenario) else f"TO{press.digits(16)}",
        )
        return Verdict(_accepted(order), number, order=order)

    async def _query(self, request: web.Request) -> web.Response:
        try:
            fields = _fields(await request.read(), request.content_type)
        except MalformedError as error:
            return _refused("", str(error)).response
        if self.desk.tokens.check(fields.get("access_token", "")) != "good":
            return reply({"error": "invalid_token", "error_description": "access_token is not valid"}, 401)
        orders = self.desk.book.under(fields.get("out_trade_no", ""))
        if not orders:
            return _refusal(Refusal("100404", "订单不存在"))
        order = orders[-1]
        self.desk.look(order)
        data = {**_told(order), "out_trade_no": order.number, "status": int(order.outcome == "delivered")}
        return reply({"code": 0, "data": data, "extra": None})

    async def _ip(self, request: web.Request) -> web.Response:
        """The platform's own addresses, for an allow-list (server-address page)."""
        try:
            fields = _fields(await request.read(), request.content_type)
        except MalformedError as error:
            return _refused("", str(error)).response
        if self.desk.tokens.check(fields.get("access_token", "")) != "good":
            return reply({"error": "invalid_token", "error_description": "access_token is not valid"}, 401)
        return reply({"code": 0, "data": ["127.0.0.1"], "extra": None})

    def _notify(self, order: Order, name: str) -> Callback | None:
        """To the address of the merchant console; none set, none sent."""
        if not self._settings.callback_url or name not in _NOTICES:
            return None
        fields = {"status_code": "1", "order_no": order.supplier_number, "out_trade_no": order.number}
        body, content_type = _NOTICES[name](fields)
        self.desk.codes_sent[f"status_code {2 if name == 'other-status' else 1}"] += 1
        unheard = iter(CALLBACK_GAPS if name == "unheard" else ())
        return Callback(
            url=self._settings.callback_url,
            body=body,
            content_type=content_type,
            # Nobody who forges waits for an answer, and what isn't known here won't be known later.
            gaps=() if name in _SENT_ONCE else CALLBACK_GAPS,
            accepts=lambda answer: next(unheard, None) is None and acknowledges(answer, APP_SECRET),
            timeout=CALLBACK_TIMEOUT,
        )


# --- Callbacks, by name -----------------------------------------------------------------------------------------------


def _form(fields: Mapping[str, str]) -> tuple[bytes, str]:
    return urlencode(fields).encode(), FORM


def _json(fields: Mapping[str, object]) -> tuple[bytes, str]:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(), JSON


def _signed(fields: Mapping[str, str], secret: str = APP_SECRET, **changed: str) -> dict[str, str]:
    """The fields, changed and then signed."""
    fields = {**fields, **changed}
    return {**fields, "_sign": signature(fields, secret)}


def _upper_case(fields: Mapping[str, str]) -> dict[str, str]:
    return {**_signed(fields), "_sign": signature(fields, APP_SECRET).upper()}


def _altered(number: str) -> str:
    """One character of it is another one."""
    return number[:-1] + ("0" if number[-1] != "0" else "1")


_NOTICES: Final[Mapping[str, Callable[[dict[str, str]], tuple[bytes, str]]]] = {
    GENUINE: lambda fields: _form(_signed(fields)),
    # The supplier hears no answer but the last.
    "unheard": lambda fields: _form(_signed(fields)),
    "json": lambda fields: _json(_signed(fields)),
    "numeric-status": lambda fields: _json({**_signed(fields), "status_code": 1}),
    "upper-case-sign": lambda fields: _form(_upper_case(fields)),
    "signed-extra-field": lambda fields: _form(_signed(fields, remark="充值成功 100%")),
    "other-status": lambda fields: _form(_signed(fields, status_code="2")),
    "other-order": lambda fields: _form(_signed(fields, order_no=_altered(fields["order_no"]))),
    "unknown-number": lambda fields: _form(_signed(fields, out_trade_no="NOBODYS-ORDER-000000000001")),
    "no-number": lambda fields: _form(_signed(fields, out_trade_no="")),
    "wrong-secret": lambda fields: _form(_signed(fields, _OTHER_SECRET)),
    "missing-sign": _form,
    "empty-sign": lambda fields: _form({**fields, "_sign": ""}),
    "extra-field": lambda fields: _form({**_signed(fields), "remark": "unsigned"}),
    "tampered-status": lambda fields: _form({**_signed(fields, status_code="2"), "status_code": "1"}),
    "tampered-number": lambda fields: _form(
        {**_signed(fields, out_trade_no=_altered(fields["out_trade_no"])), "out_trade_no": fields["out_trade_no"]}
    ),
    "field-twice": lambda fields: (urlencode([*_signed(fields).items(), ("status_code", "1")]).encode(), FORM),
    "no-form": lambda _: (b"status_code", FORM),
}
_SENT_ONCE: Final = frozenset(
    {
        "unknown-number",
        "no-number",
        "wrong-secret",
        "missing-sign",
        "empty-sign",
        "extra-field",
        "tampered-status",
        "tampered-number",
        "field-twice",
        "no-form",
    }
)


# --- Reading and answering --------------------------------------------------------------------------------------------


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


def _numeric(scenario: Scenario) -> bool:
    """Whether the supplier's own number is told as a JSON number."""
    return scenario.behaviour.extra.get("order_no") == "number"


def _told(order: Order) -> dict[str, object]:
    """`data` of an order: its number, and its cards once they are there."""
    number = order.supplier_number
    data: dict[str, object] = {"order_no": int(number) if _numeric(order.scenario) else number}
    if order.delivered:
        data["cards"] = order.delivered
    return data


def _accepted(order: Order) -> web.Response:
    return reply({"code": 0, "data": _told(order), "extra": None})


def _refused(number: str, text: str) -> Verdict:
    """Code 1: no page lists the failure codes of orders, the gateway's other calls use 1 for business failures."""
    return Verdict(_refusal(Refusal("1", text)), number, refusal=f"1 {text}")


def _refusal(refusal: Refusal) -> web.Response:
    """HTTP 401 has an envelope of its own (token page)."""
    if refusal.code == "401":
        return reply({"error": "invalid_token", "error_description": refusal.text}, 401)
    return reply({"code": int(refusal.code or 1), "msg": refusal.text, "data": None, "extra": None})


def _codes(response: web.Response) -> Iterable[str]:
    """`code` of the envelope, else the HTTP status."""
    members = envelope(response)
    return [str(members["code"])] if "code" in members else [f"HTTP {response.status}"]


SHOP: Final = Shop(
    title="Kuaiduibao 快兑宝",
    open=Kuaiduibao,
    account={"app_id": APP_ID, "app_secret": APP_SECRET},
    scenarios=goods.SCENARIOS,
    behaviours=goods.BEHAVIOURS,
    codes=goods.CODES,
    left_open=goods.OPEN,
    callbacks=tuple(_NOTICES),
    max_units=MAX_UNITS,
    unguarded=True,
)
