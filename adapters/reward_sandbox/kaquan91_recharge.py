"""91 Kaquan, recharge on the buyer's account: accepted first, done by somebody later, callback per order.

Create (create-order page), form: appid, card_id, account, number, money_type?, money?, out_order_id, check?,
    datetime, notify_url?, sign -> {"code": 1, "msg": "下单成功", "result": "API…", "other": {"price": "12.0"}}
Query: appid, order_id or out_order_id (order_id wins) -> `result` {"order_id", "out_order_id", "price", "status", …}
States: 7 matching, 1 waiting, 2 in progress, 3 done, 4 confirmed, 5 dispute, 6 failed and refunded.
Callback, form: order_id, out_order_id, status, account, card_id, sign; the answer is the bare text `success`.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from reward_sandbox._kaquan91 import LIST_UNSIGNED, Fields, Kaquan91, RefusedError, accepted, needed, signature
from reward_sandbox.books import Order
from reward_sandbox.callbacks import Callback
from reward_sandbox.desk import Desk, Verdict
from reward_sandbox.scenario import Answer, Behaviour, Refusal, Scenario, Stage
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.wire import FORM, date_time, is_url, recipient_fits, whole, yuan

KIND: Final = "kaquan91_recharge"
APPID: Final = "19190092"
APPSECRET: Final = "sandbox-91recharge-secret"
MAX_UNITS: Final = 10
CALLBACK_GAPS: Final = (1.0, 5.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0)
"""Ten repeats (callback page)."""
CLOCK_WINDOW: Final = 600
"""Seconds `datetime` may be off; the create-order page names no number."""
UNSIGNED: Final = frozenset({"check"})
CONFIRM_AFTER: Final = 24 * 3600
"""An order done is confirmed by itself after a day (front page)."""

MATCHING: Final = Stage(7)
WAITING: Final = Stage(1)
RECHARGING: Final = Stage(2)
DONE: Final = Stage(3, notify=True, outcome="delivered")
CONFIRMED: Final = Stage(4, outcome="delivered")
FAILED: Final = Stage(6, refund=True, notify=True, outcome="failed")


def _topup(name: str, product: str, title: str, description: str, behaviour: Behaviour) -> Scenario:
    return Scenario(
        name=name,
        product=product,
        title=title,
        description=description,
        kind="topup",
        face_value=Decimal("50.00"),
        unit_price=Decimal("49.00"),
        recipient="phone",
        behaviour=behaviour,
    )


_SUCCESS: Final = (MATCHING, WAITING, RECHARGING, DONE)

SCENARIOS: Final = (
    _topup("topup", "521", "91 话费代充 50元", "7, 1, 2, 3 one step each, then the callback", Behaviour(_SUCCESS)),
    _topup(
        "refused",
        "522",
        "91 话费代充 50元（下架）",
        "refused with code 0, nothing is booked",
        Behaviour(_SUCCESS, refusal=Refusal("0", "产品已下架")),
    ),
    _topup(
        "failed",
        "523",
        "91 话费代充 50元（失败）",
        "7, 1, 2, then 6: closed and paid back, with a callback",
        Behaviour((MATCHING, WAITING, RECHARGING, FAILED)),
    ),
    _topup(
        "silent",
        "524",
        "91 话费代充 50元（超时）",
        "accepted and charged, the answer never comes; query and callback tell",
        Behaviour(_SUCCESS, answer=Answer.NEVER),
    ),
    _topup(
        "waiting",
        "525",
        "91 话费代充 50元（待充值）",
        "stays in 1 until it is cancelled: nobody takes the order",
        Behaviour((MATCHING, WAITING)),
    ),
)


class Kaquan91Recharge:
    """The recharge side of the 91 gateway."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.desk = Desk(KIND, SCENARIOS, settings, self._notify)
        self._settings = settings
        self._gateway = Kaquan91(self.desk, settings, appid=APPID, appsecret=APPSECRET)

    def routes(self) -> Sequence[web.RouteDef]:
        return (
            web.post("/dcapi/pay", self._create),
            web.post("/dcapi/queryOrder", self._query),
            web.post("/dcapi/drawOrder", self._draw),
            web.post("/dcapi/confirmOrder", self._confirm),
            web.post("/dcapi/queryCardList", self._list),
            web.post("/dcapi/queryCardInfo", self._info),
            web.post("/dcapi/queryCash", self._gateway.balance),
        )

    async def _create(self, request: web.Request) -> web.StreamResponse:
        return await self.desk.place(
            request, lambda body: self._gateway.verdict(body, request.content_type, self._decide, UNSIGNED)
        )

    def _decide(self, fields: Fields) -> Verdict:
        product, account, count, number, moment = needed(
            fields, "card_id", "account", "number", "out_order_id", "datetime"
        )
        quantity = whole(count)
        if quantity is None or quantity > 100:
            raise RefusedError("购买数量错误")
        if not re.fullmatch(r"[0-9]{10}", moment) or abs(self.desk.clock() - int(moment)) > CLOCK_WINDOW:
            raise RefusedError("下单时间戳错误")
        if fields.get("check", "0") not in ("0", "1"):
            raise RefusedError("check参数错误")
        notify_url = fields.get("notify_url", "")
        if notify_url and not is_url(notify_url):
            raise RefusedError("notify_url错误")
        offered = _offered(fields)
        previous = self.desk.repeated(number)
        if previous and self._settings.duplicates == "replay":
            return Verdict(_accepted(previous), number, order=previous)
        if previous:
            raise RefusedError("合作商订单号重复")
        scenario = self.desk.scenarios.get(product)
        if scenario is None:
            raise RefusedError("产品不存在")
        if scenario.behaviour.refusal:
            raise RefusedError(scenario.behaviour.refusal.text)
        if not recipient_fits(scenario.recipient, account):
            raise RefusedError("充值账号错误")
        total = scenario.unit_price * quantity
        if offered is not None and offered < total:
            raise RefusedError("订单金额低于平台价格")
        match self.desk.shortage(scenario, quantity, total):
            # Without `check` an order nobody can serve yet is taken and waits.
            case "stock" if fields.get("check") == "1":
                raise RefusedError("库存不足")
            case "balance":
                raise RefusedError("余额不足")
        order = self.desk.sell(
            scenario,
            number=number,
            quantity=quantity,
            recipient=account,
            charged=total,
            name_order=lambda press: f"API{date_time(self.desk.clock())[:10].replace('-', '')}{press.digits(11)}",
            details={"notify_url": notify_url},
        )
        return Verdict(_accepted(order), number, order=order)

    def _notify(self, order: Order) -> Callback | None:
        """No callback without `notify_url`."""
        url = order.details["notify_url"]
        if not url:
            return None
        fields = {
            "order_id": order.supplier_number,
            "out_order_id": order.number,
            "status": str(order.state),
            "account": order.recipient,
            "card_id": order.scenario.product,
        }
        mode = self._settings.sign_mode
        fields["sign"] = signature(fields, APPSECRET, mode="notify-only" if mode == "lenient" else mode)
        return Callback(
            url=url,
            body=urlencode(fields).encode(),
            content_type=FORM,
            gaps=CALLBACK_GAPS,
            accepts=lambda answer: answer == b"success",
        )

    def _order(self, fields: Fields) -> Order:
        """The order a request names; `order_id` wins over `out_order_id`."""
        if fields.get("order_id"):
            order = self.desk.book.by_supplier_number(fields["order_id"])
        else:
            (number,) = needed(fields, "out_order_id")
            order = next(iter(self.desk.book.under(number)), None)
        if order is None:
            raise RefusedError("订单不存在")
        if order.stage is DONE and self.desk.clock() >= order.updated_at + CONFIRM_AFTER:
            self.desk.end(order, CONFIRMED)
        return order

    async def _query(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._found)

    def _found(self, fields: Fields) -> web.Response:
        order = self._order(fields)
        self.desk.look(order)
        return accepted(
            {
                "order_id": order.supplier_number,
                "out_order_id": order.number,
                "price": yuan(order.charged),
                "status": order.state,
                "account": order.recipient,
                "card_id": order.scenario.product,
                "evidence": "",
                "remark": "",
                "create_time": date_time(order.accepted_at),
                "update_time": date_time(order.updated_at),
            }
        )

    async def _draw(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._cancelled)

    def _cancelled(self, fields: Fields) -> web.Response:
        """Only while nobody works on it; the price here, and only here, is whole fen."""
        order = self._order(fields)
        if order.state != WAITING.state:
            raise RefusedError("订单状态不允许下架")
        self.desk.end(order, FAILED)
        return accepted(
            {
                "order_id": order.supplier_number,
                "out_order_id": order.number,
                "productId": order.scenario.product,
                "price": int(order.charged * 100),
                "productName": order.scenario.title,
                "account": order.recipient,
            },
            "下架成功",
        )

    async def _confirm(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._confirmed)

    def _confirmed(self, fields: Fields) -> web.Response:
        needed(fields, "order_id")
        order = self._order(fields)
        if order.state != DONE.state:
            raise RefusedError("订单状态不允许确认")
        self.desk.end(order, CONFIRMED)
        return accepted(None)

    async def _list(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._products, LIST_UNSIGNED)

    def _products(self, fields: Fields) -> web.Response:
        products = [self._product(scenario) for scenario in SCENARIOS][self._gateway.page(fields)]
        return accepted(products, time=str(int(self.desk.clock())))

    async def _info(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._one)

    def _one(self, fields: Fields) -> web.Response:
        (product,) = needed(fields, "id")
        scenario = self.desk.scenarios.get(product)
        if scenario is None:
            raise RefusedError("产品不存在")
        return accepted(self._product(scenario), time=str(int(self.desk.clock())))

    def _product(self, scenario: Scenario) -> dict[str, object]:
        return {
            "id": int(scenario.product),
            "pid": 1,
            "name": scenario.title,
            "card_name": scenario.title,
            "account_type": "手机号",
            "recharge_type": 1,
            "buy_remark": scenario.description,
            "price": yuan(scenario.unit_price),
            "avg": 60,
            "create_time": "2026-01-01 00:00:00",
        }


def _offered(fields: Fields) -> Decimal | None:
    """What the client is ready to pay, in yuan: whole fen by default, yuan with up to two decimals on request."""
    unit, money = fields.get("money_type", ""), fields.get("money", "")
    if unit not in ("", "1", "2"):
        raise RefusedError("money_type错误")
    if not money:
        return None
    if unit == "2" and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,2})?", money):
        return Decimal(money)
    if unit != "2" and re.fullmatch(r"[0-9]{1,11}", money):
        return Decimal(money) / 100
    raise RefusedError("money格式错误")


def _accepted(order: Order) -> web.Response:
    """`other.price` with one decimal where that is enough, as in the sample `12.0`."""
    price = yuan(order.charged)
    return accepted(order.supplier_number, "下单成功", other={"price": price.removesuffix("0")})
