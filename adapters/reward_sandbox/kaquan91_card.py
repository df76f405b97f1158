"""91 Kaquan, card purchase: synchronous, the secrets are in the create answer and in the query.

Create (create-order page), form: appid, card_id, num, auto_confirm_hour, out_order_id, order_money, sign
    -> {"code": 1, "msg": "下单成功",
        "result": [{"order_id": "…", "card_num": "…", "card_pass": "…", "money": "40.06", "status": 2}],
        "other": {"pay_order_id": "…", "card_id": 1840, "create_time": "…", "update_time": "…", "remark": ""}}
Query: appid, out_order_id -> `result` with all of it in every entry. No callback exists.
"""

from collections.abc import Sequence
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from reward_sandbox._kaquan91 import (
    LIST_UNSIGNED,
    Fields,
    Kaquan91,
    RefusedError,
    accepted,
    codes,
    needed,
    refusal,
    signature,
)
from reward_sandbox.books import Order
from reward_sandbox.callbacks import Callback
from reward_sandbox.desk import Desk, Verdict
from reward_sandbox.faults import Call
from reward_sandbox.mint import Press
from reward_sandbox.scenario import Scenario, Stage
from reward_sandbox.scenarios import kaquan91_card as goods
from reward_sandbox.scenarios.kaquan91_card import CALLBACKS, SCENARIOS, SURCHARGES
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.shops import Shop
from reward_sandbox.wire import FORM, date_time, whole, yuan

KIND: Final = "kaquan91_card"
APPID: Final = "19190091"
APPSECRET: Final = "sandbox-91card-secret"
MAX_UNITS: Final = 10

TYPE_NAMES: Final = {"0": "官方激活码", "1": "卡号和密码", "2": "图片二维码", "3": "链接+卡密", "4": "链接直兑"}


def total_price(unit_price: Decimal, hours: str, quantity: int) -> tuple[Decimal, Decimal]:
    """Unit price with surcharge to 4 places, and the total rounded half up to fen."""
    unit = (unit_price * (1 + SURCHARGES[hours])).quantize(Decimal("0.0001"), ROUND_HALF_UP)
    return unit, (unit * quantity).quantize(Decimal("0.01"), ROUND_HALF_UP)


class Kaquan91Card:
    """The card side of the 91 gateway.

    What a scenario's `extra` may say: `type` (the card type, where our catalogue names another), `typed` (entries tell
    it), `hours` (the warranties on sale), `withdrawn` (not on sale any more), `unguarded` (the price check is broken),
    `unix_times` (times as Unix seconds), `rewritten` (what a proxy on the way makes of purchases: one of `PROXIES`).
    """

    def __init__(self, settings: SandboxSettings) -> None:
        self.desk = Desk(KIND, SCENARIOS, settings, refuse=refusal, codes=codes, notify=self._callback)
        self._gateway = Kaquan91(self.desk, appid=APPID, appsecret=APPSECRET)

    def routes(self) -> Sequence[tuple[Call, web.RouteDef]]:
        return (
            ("create", web.post("/dcapi/card/payOrder", self._create)),
            ("query", web.post("/dcapi/card/queryOrder", self._query)),
            ("products", web.post("/dcapi/card/queryCardList", self._list)),
            ("products", web.post("/dcapi/card/queryCardDetail", self._detail)),
            ("balance", web.post("/dcapi/queryCash", self._gateway.balance)),
        )

    # --- Buying

    async def _create(self, request: web.Request) -> web.StreamResponse:
        return await self.desk.place(
            request, lambda body: self._gateway.verdict(body, request.content_type, self._decide)
        )

    def _decide(self, fields: Fields) -> Verdict:
        product, num, hours, number, limit = needed(
            fields, "card_id", "num", "auto_confirm_hour", "out_order_id", "order_money"
        )
        quantity = whole(num)
        if quantity is None or quantity > 100:
            raise RefusedError("购买数量错误")
        if hours not in SURCHARGES:
            raise RefusedError("质保时间不可选")
        ceiling = _yuan_amount(limit)
        scenario = self.desk.chosen(product)
        previous = self.desk.repeated(number, scenario)
        if previous and self.desk.mode("duplicates", scenario) == "replay":
            return Verdict(self._accepted(previous), number, order=previous)
        if previous:
            raise RefusedError("合作商订单号重复")
        if scenario is None or _withdrawn(scenario):
            raise RefusedError("卡券产品不存在")
        self._check_offer(scenario, quantity, hours)
        _, total = total_price(self.desk.price(scenario), hours, quantity)
        if ceiling and total > ceiling and not scenario.behaviour.extra.get("unguarded"):
            raise RefusedError("进价总额高于订单总额")
        match self.desk.shortage(scenario, quantity, total):
            case "stock":
                raise RefusedError("库存不足")
            case "balance":
                raise RefusedError("余额不足")
        order = self.desk.sell(
            scenario,
            number=number,
            quantity=quantity,
            recipient="",
            charged=total,
            name_order=self._order_id,
            name_card=self._order_id,
            details={"hours": hours, "order_money": limit},
        )
        return Verdict(self._accepted(order), number, order=order)

    def _check_offer(self, scenario: Scenario, quantity: int, hours: str) -> None:
        """What this product alone forbids."""
        behaviour = scenario.behaviour
        if quantity < behaviour.minimum or (behaviour.maximum is not None and quantity > behaviour.maximum):
            raise RefusedError("购买数量错误")
        if hours not in _hours(scenario):
            raise RefusedError("该卡券不支持所选质保时间")

    def _order_id(self, press: Press) -> str:
        return f"{date_time(self.desk.clock())[:10].replace('-', '')}{press.digits(11)}"

    def _accepted(self, order: Order) -> web.Response:
        other = {"pay_order_id": order.supplier_number, **self._about(order)}
        return accepted(self._entries(order), "下单成功", other=other)

    def _entries(self, order: Order) -> list[dict[str, object]]:
        """One entry per card. `type` and `typeName` mostly stay out: the page's table has them, its sample does not."""
        unit = order.charged / order.quantity
        change = order.stage.entry or (lambda entry: entry)
        card_type = _type(order.scenario)
        told = {"type": card_type, "typeName": TYPE_NAMES[card_type]}
        return [
            change(
                {
                    "order_id": order.card_numbers[i],
                    **card,
                    **(told if order.scenario.behaviour.extra.get("typed") else {}),
                    "money": yuan(unit),
                    "status": _status(order.stage, i),
                }
            )
            for i, card in enumerate(order.delivered)
        ]

    def _about(self, order: Order) -> dict[str, object]:
        unix = order.scenario.behaviour.extra.get("unix_times")
        return {
            "card_id": int(order.scenario.product),
            "create_time": int(order.accepted_at) if unix else date_time(order.accepted_at),
            "update_time": int(order.updated_at) if unix else date_time(order.updated_at),
            "remark": "",
        }

    # --- Asking

    async def _query(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._found)

    def _found(self, fields: Fields) -> web.Response:
        (number,) = needed(fields, "out_order_id")
        orders = self.desk.book.under(number)
        if not orders and self.desk.mode("not_found") == "empty":
            return accepted([])
        if not orders:
            raise RefusedError("订单不存在")
        for order in orders:
            self._confirm(order)
            self.desk.look(order)
        return accepted([{**entry, **self._about(order)} for order in orders for entry in self._entries(order)])

    def _confirm(self, order: Order) -> None:
        """The order confirms itself when the warranty ends; nobody sees it happen, so it is done on a look."""
        ends = int(order.accepted_at) + int(order.details["hours"]) * 3600
        under_way = not order.closed and order.stage is not order.scenario.behaviour.stages[-1]
        each = str(order.state).split(",")
        if "2" in each and not under_way and self.desk.clock() >= ends:
            confirmed = ["3" if state == "2" else state for state in each]
            state = int(confirmed[0]) if len(confirmed) == 1 else ",".join(confirmed)
            self.desk.end(order, replace(order.stage, state=state, callbacks=()))

    async def _list(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._products, LIST_UNSIGNED)

    def _products(self, fields: Fields) -> web.Response:
        on_sale = [self._product(scenario) for scenario in SCENARIOS if not _withdrawn(scenario)]
        return accepted(on_sale[self._gateway.page(fields)])

    async def _detail(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._one)

    def _one(self, fields: Fields) -> web.Response:
        (product,) = needed(fields, "card_id")
        scenario = self.desk.scenarios.get(product)
        if scenario is None or _withdrawn(scenario):
            raise RefusedError("卡券产品不存在")
        return accepted(self._product(scenario))

    def _product(self, scenario: Scenario) -> dict[str, object]:
        """With stock 0 the price list is empty, as a public client found."""
        card_type = _type(scenario)
        listed = scenario.behaviour.listed_stock
        stock = self.desk.book.stock(scenario) if listed is None else listed
        return {
            "id": int(scenario.product),
            "pid": 1,
            "name": scenario.title,
            "card_name": scenario.title,
            "logo": f"//img.kaquan.example/logo/{scenario.product}.png",
            "notice": scenario.description,
            "num": stock,
            "type": int(card_type),
            "typeName": TYPE_NAMES[card_type],
            "auto_confirm_hour": [int(hours) for hours in _hours(scenario)],
            "priceList": [{"price": yuan(self.desk.price(scenario)), "num": stock}] if stock else [],
        }

    # --- What claims to be a callback

    def _callback(self, order: Order, name: str) -> Callback | None:
        """Cards have no callbacks. These are sent where those of the account would go: two in the form of recharges',
        two in the form of the notices of prices and stock."""
        if name not in CALLBACKS:
            return None
        fields = self._notice(order) if name.startswith("price-notice") else self._as_for_recharges(order)
        secret = "somebody-else" if name.endswith("wrong-secret") else APPSECRET
        return Callback(
            url=f"{self.desk.settings.callback_url.rpartition('/')[0]}/{KIND}",
            body=urlencode({**fields, "sign": signature(fields, secret)}).encode(),
            content_type=FORM,
            gaps=(),
            accepts=lambda answer: answer == b"success",
        )

    def _as_for_recharges(self, order: Order) -> Fields:
        return {
            "order_id": order.supplier_number,
            "out_order_id": order.number,
            "status": "6",
            "account": "",
            "card_id": order.scenario.product,
        }

    def _notice(self, order: Order) -> Fields:
        """The list of prices stays out: its form isn't documented (the page is cut short)."""
        stock = str(self.desk.book.stock(order.scenario))
        return {
            "id": order.scenario.product,
            "appid": APPID,
            "type": "1",
            "num": stock,
            "current_price": yuan(self.desk.price(order.scenario)),
            "current_price_num": stock,
        }


def _type(scenario: Scenario) -> str:
    return str(scenario.behaviour.extra.get("type", scenario.parameters.get("card_type")))


def _hours(scenario: Scenario) -> Sequence[str]:
    """The warranties that a product is sold with."""
    hours: Sequence[str] = scenario.behaviour.extra.get("hours", tuple(SURCHARGES))
    return hours


def _withdrawn(scenario: Scenario) -> bool:
    return bool(scenario.behaviour.extra.get("withdrawn"))


def _status(stage: Stage, place: int) -> int:
    """The state of one card: that of the order, or its own where they differ, as in `2,6`."""
    if isinstance(stage.state, int):
        return stage.state
    each = stage.state.split(",")
    return int(each[min(place, len(each) - 1)])


def _yuan_amount(text: str) -> Decimal:
    """An amount in yuan with at most two decimals; 0 switches the guard off."""
    try:
        amount = Decimal(text)
    except InvalidOperation as error:
        raise RefusedError("订单总额错误") from error
    if not amount.is_finite() or amount < 0 or amount != amount.quantize(Decimal("0.01")):
        raise RefusedError("订单总额错误")
    return amount


SHOP: Final = Shop(
    title="91 Kaquan 玖壹卡券, cards",
    open=Kaquan91Card,
    account={"appid": APPID, "appsecret": APPSECRET},
    scenarios=SCENARIOS,
    behaviours=goods.BEHAVIOURS,
    codes=goods.CODES,
    left_open=goods.OPEN,
    callbacks=CALLBACKS,
    max_units=MAX_UNITS,
)
