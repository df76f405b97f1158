"""Kasushou: buy is only taken, everything else comes by the detail call and the callback.

Headers of every call: UserId, Timestamp (13 digits), Sign. JSON in, `{"code": 200|400|500, "msg": …, "data": …}` out.
Buy (create-order page): id, quantity, external_orderno, safe_price?, mark?, url?, attach?
    -> data {"ordersn": "API…", "external_orderno": "…", "total_price": "98.50"}
Detail (detail page): external_orderno or ordersn (several with commas), day -> data [{"ordersn", "status", …}]
States: 1 waiting, 2 in progress, 3 success, 4 cancelled, 5 refunded.
Callback: JSON (or form) to the order's `url`; the answer is the bare text `ok`.
"""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Final, NamedTuple
from urllib.parse import urlencode

from aiohttp import web

from reward_sandbox._kasushou_goods import ATTACH, CANCELLED, KIND, SCENARIOS
from reward_sandbox._kasushou_wire import callback_signature, request_signed_well
from reward_sandbox.books import Order
from reward_sandbox.callbacks import Callback
from reward_sandbox.desk import Desk, Verdict
from reward_sandbox.scenario import Scenario
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.wire import FORM, JSON, MalformedError, is_url, json_object, recipient_fits, reply, yuan

USER_ID: Final = "7f6f4a9d0e2b4c518a3d6e9b1c0f2a45"
APIKEY: Final = "sandbox-kasushou-apikey-01234567"
MAX_UNITS: Final = 10
CALLBACK_GAPS: Final = (300.0, 600.0, 900.0, 1200.0, 1500.0)
"""Five repeats after 5, 10, 15, 20 and 25 minutes (callback page)."""
CLOCK_WINDOW: Final = 300
"""Seconds `Timestamp` may be off; not documented, a compatible site allows this much."""
ORDER_LIMIT: Final = 100
LOOK_BACK_DAYS: Final = 30
"""The detail call's default for `day`; 0 means all."""

Members = dict[str, object]


class RefusedError(Exception):
    """`code` 400 with this text; there are no finer codes."""


class _Wanted(NamedTuple):
    """A buy request whose fields have the documented types."""

    product: str
    quantity: int
    number: str
    safe_price: Decimal | None
    url: str
    attach: Members


class Kasushou:
    """One Kasushou site."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.desk = Desk(KIND, SCENARIOS, settings, self._notify)
        self._settings = settings

    def routes(self) -> Sequence[web.RouteDef]:
        return (
            web.post("/api/v1/order/buy", self._buy),
            web.post("/api/v1/order/info", self._call(self._info)),
            web.post("/api/v1/order/close", self._call(self._close)),
            web.post("/api/v1/user/info", self._call(self._user)),
            web.post("/api/v1/goods/list", self._call(self._goods_list)),
            web.post("/api/v1/goods/info", self._call(self._goods_info)),
            web.post("/api/v1/goods/attach", self._call(self._goods_attach)),
        )

    def _read(self, request: web.Request, body: bytes) -> Members:
        """The members of a genuine request; anything else raises."""
        headers = request.headers
        timestamp = headers.get("Timestamp", "")
        try:
            members = json_object(body, request.content_type)
        except MalformedError as error:
            raise RefusedError(f"请求格式错误：{error}") from error
        if headers.get("UserId") != USER_ID:
            raise RefusedError("用户不存在")
        if not re.fullmatch(r"[0-9]{13}", timestamp) or abs(self.desk.clock() - int(timestamp) / 1000) > CLOCK_WINDOW:
            raise RefusedError("时间戳错误")
        if not request_signed_well(timestamp, body, headers.get("Sign", ""), APIKEY):
            raise RefusedError("签名错误")
        return members

    def _call(self, answer: Callable[[Members], object]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Any call but buy."""

        async def handle(request: web.Request) -> web.Response:
            try:
                return _ok("操作成功", answer(self._read(request, await request.read())))
            except RefusedError as error:
                return _refused(str(error))

        return handle

    async def _buy(self, request: web.Request) -> web.StreamResponse:
        return await self.desk.place(request, lambda body: self._decide(request, body))

    def _decide(self, request: web.Request, body: bytes) -> Verdict:
        number = ""
        try:
            members = self._read(request, body)
            number = str(members.get("external_orderno", ""))
            return self._sell(_wanted(members))
        except RefusedError as error:
            return Verdict(_refused(str(error)), number, refusal=str(error))

    def _sell(self, wanted: _Wanted) -> Verdict:
        previous = self.desk.repeated(wanted.number)
        if previous and self._settings.duplicates == "replay":
            return Verdict(_accepted(previous), wanted.number, order=previous)
        if previous:
            raise RefusedError("外部订单号重复，请勿重复提交")
        scenario = self.desk.scenarios.get(wanted.product)
        if scenario is None:
            raise RefusedError("商品不存在")
        if wanted.safe_price is not None and wanted.safe_price < scenario.unit_cost:
            raise RefusedError("商品售价高于安全价格safe_price")
        recipient = _recipient(scenario, wanted.attach)
        total = scenario.unit_cost * wanted.quantity
        match self.desk.shortage(scenario, wanted.quantity, total):
            case "stock":
                raise RefusedError("商品库存不足")
            case "balance":
                raise RefusedError("账户余额不足")
        order = self.desk.sell(
            scenario,
            number=wanted.number,
            quantity=wanted.quantity,
            recipient=recipient,
            charged=total,
            name_order=lambda press: f"API09{press.digits(19)}",
            details={"url": wanted.url},
        )
        return Verdict(_accepted(order), wanted.number, order=order)

    def _notify(self, order: Order) -> Callback | None:
        """All values as text; the cards ride along unsigned."""
        url = order.details["url"]
        if not url:
            return None
        fields: dict[str, object] = {
            "external_orderno": order.number,
            "ordersn": order.supplier_number,
            "status": str(order.state),
            "has_back_money": yuan(order.refunded),
            "total_price": yuan(order.charged),
            "recharge_hints": _hints(order),
            "time": str(int(self.desk.clock() * 1000)),
        }
        fields["sign"] = callback_signature(fields, APIKEY)
        cards = [{**card, "end_time": "2029-04-28 23:59:59"} for card in order.delivered]
        as_form = self._settings.kasushou_callback_form
        if cards:
            fields["card_list"] = json.dumps(cards, ensure_ascii=False) if as_form else cards
        body = urlencode(fields) if as_form else json.dumps(fields, ensure_ascii=False)
        return Callback(
            url=url,
            body=body.encode(),
            content_type=FORM if as_form else JSON,
            gaps=CALLBACK_GAPS,
            accepts=lambda answer: answer == b"ok",
        )

    def _info(self, members: Members) -> object:
        """Newest first and without a word about numbers that are not there: matching by position must not work."""
        ours, theirs = _names(members, "external_orderno"), _names(members, "ordersn")
        if not ours and not theirs:
            raise RefusedError("external_orderno和ordersn不能同时为空")
        day = str(members.get("day", LOOK_BACK_DAYS))
        if not re.fullmatch(r"[0-9]{1,5}", day):
            raise RefusedError("day错误")
        found = [order for name in ours for order in self.desk.book.under(name)]
        found += [order for name in theirs if (order := self.desk.book.by_supplier_number(name))]
        since = self.desk.clock() - int(day) * 86400 if int(day) else 0.0
        orders = [order for order in found if order.accepted_at >= since]
        orders.sort(key=lambda order: order.accepted_at, reverse=True)
        entries = [_entry(order) for order in orders]
        for order in orders:
            self.desk.look(order)
        return entries

    def _close(self, members: Members) -> object:
        """Success only says that the wish was taken; the callback with 4 is the result."""
        order = self.desk.book.by_supplier_number(str(members.get("ordersn", "")))
        if order is None:
            raise RefusedError("订单不存在")
        if order.state not in (1, 2):
            raise RefusedError("订单状态不允许取消")
        self.desk.end(order, CANCELLED)
        return []

    def _user(self, _: Members) -> object:
        return {"balance": yuan(self.desk.book.balance)}

    def _goods_list(self, members: Members) -> object:
        limit, page = members.get("limit", 100), members.get("page", 1)
        if not _is_count(limit) or not _is_count(page):
            raise RefusedError("分页参数错误")
        start = (int(str(page)) - 1) * int(str(limit))
        goods = [self._goods(scenario) for scenario in SCENARIOS]
        return {"list": goods[start : start + int(str(limit))], "total": len(goods)}

    def _goods_info(self, members: Members) -> object:
        scenario = self._known(members.get("id"))
        notice = {"goods_info": scenario.description, "goods_notice": "", "start_count": 1, "end_count": ORDER_LIMIT}
        return {**self._goods(scenario), **notice, "attach": _template(scenario)}

    def _goods_attach(self, members: Members) -> object:
        return _template(self._known(members.get("goods_id")))

    def _known(self, product: object) -> Scenario:
        scenario = self.desk.scenarios.get(str(product))
        if scenario is None:
            raise RefusedError("商品不存在")
        return scenario

    def _goods(self, scenario: Scenario) -> dict[str, object]:
        return {
            "id": int(scenario.product),
            "goods_name": scenario.title,
            "goods_img": "",
            "goods_type": 1 if scenario.behaviour.shape else 2,
            "face_value": yuan(scenario.face_value),
            "goods_price": yuan(scenario.unit_cost),
            "status": 1,
            "stock_num": self.desk.book.stock(scenario),
        }


def _wanted(members: Members) -> _Wanted:
    """Check the fields of a buy request against the page's types."""
    product, quantity, number = members.get("id"), members.get("quantity"), members.get("external_orderno")
    if not _is_count(product):
        raise RefusedError("id必须为整数")
    if not _is_count(quantity) or int(str(quantity)) > ORDER_LIMIT:
        raise RefusedError("购买数量错误")
    if not isinstance(number, str):
        raise RefusedError("external_orderno必填")
    for name in ("mark", "url", "safe_price"):
        if name in members and not isinstance(members[name], str):
            raise RefusedError(f"{name}必须为字符串")
    url, limit = str(members.get("url", "")), str(members.get("safe_price", ""))
    if "url" in members and not is_url(url):
        raise RefusedError("url错误")
    if "safe_price" in members and not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,4})?", limit):
        raise RefusedError("safe_price错误")
    attach = members.get("attach", {})
    if not isinstance(attach, dict):
        raise RefusedError("attach必须为对象")
    return _Wanted(str(product), int(str(quantity)), number, Decimal(limit) if limit else None, url, attach)


def _recipient(scenario: Scenario, attach: Members) -> str:
    """The account from `attach`, which must hold every key of the product's template."""
    for key in (field["key"] for field in _template(scenario)):
        value = attach.get(str(key))
        if not isinstance(value, str) or not value:
            raise RefusedError(f"缺少下单参数：{key}")
    recipient = str(attach.get("recharge_account", ""))
    if not recipient_fits(scenario.recipient, recipient):
        raise RefusedError("充值账号错误")
    return recipient


def _template(scenario: Scenario) -> list[dict[str, object]]:
    return [] if scenario.behaviour.shape else ATTACH


def _names(members: Members, key: str) -> list[str]:
    """One or several numbers, separated by commas."""
    value = members.get(key, "")
    if not isinstance(value, str):
        raise RefusedError(f"{key}必须为字符串")
    return [name for name in value.split(",") if name]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _entry(order: Order) -> dict[str, object]:
    info = [{"n": "充值账号", "v": order.recipient, "k": "recharge_account"}] if order.recipient else []
    return {
        "ordersn": order.supplier_number,
        "external_orderno": order.number,
        "status": order.state,
        "total_price": yuan(order.charged),
        "has_back_money": yuan(order.refunded),
        "recharge_hints": _hints(order),
        "recharge_info": info,
        "card_list": order.delivered,
    }


def _hints(order: Order) -> str:
    return {3: "订单处理完成/期待您的下次光临", 4: "订单已取消", 5: "订单已退款"}.get(int(order.state), "")


def _accepted(order: Order) -> web.Response:
    numbers = {"ordersn": order.supplier_number, "external_orderno": order.number}
    return _ok("下单成功", {**numbers, "total_price": yuan(order.charged)})


def _ok(msg: str, data: object) -> web.Response:
    return reply({"code": 200, "msg": msg, "data": data})


def _refused(text: str) -> web.Response:
    """HTTP 200 all the same: the code page speaks of the envelope only."""
    return reply({"code": 400, "msg": text})
