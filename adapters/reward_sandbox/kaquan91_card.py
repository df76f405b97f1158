"""91 Kaquan, card purchase: synchronous, the secrets are in the create answer and in the query.

Create (create-order page), form: appid, card_id, num, auto_confirm_hour, out_order_id, order_money, sign
    -> {"code": 1, "msg": "下单成功",
        "result": [{"order_id": "…", "card_num": "…", "card_pass": "…", "money": "40.06", "status": 2}],
        "other": {"pay_order_id": "…", "card_id": 1840, "create_time": "…", "update_time": "…", "remark": ""}}
Query: appid, out_order_id -> `result` with all of it in every entry. No callback exists.
"""

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Final

from aiohttp import web

from reward_sandbox._kaquan91 import LIST_UNSIGNED, Fields, Kaquan91, RefusedError, accepted, needed
from reward_sandbox.books import Order
from reward_sandbox.desk import Desk, Verdict
from reward_sandbox.mint import CANARY, Press
from reward_sandbox.scenario import Answer, Behaviour, Card, Scenario, Stage
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.wire import date_time, whole, yuan

KIND: Final = "kaquan91_card"
APPID: Final = "19190091"
APPSECRET: Final = "sandbox-91card-secret"
MAX_UNITS: Final = 10

SURCHARGES: Final = {
    "10": Decimal("0.0015"),
    "12": Decimal("0.003"),
    "24": Decimal("0.006"),
    "48": Decimal("0.015"),
}
"""Warranty in hours to the rate it adds (create-order page, appendix)."""

TYPE_NAMES: Final = {"0": "官方激活码", "1": "卡号和密码", "2": "图片二维码", "3": "链接+卡密", "4": "链接直兑"}

IN_WARRANTY: Final = Stage(2, cards=True, outcome="delivered")
CONFIRMED: Final = Stage(3, cards=True, outcome="delivered")


def _activation_code(press: Press) -> Card:
    return {"card_num": press.groups(4), "card_pass": ""}


def _number_and_password(press: Press) -> Card:
    return {"card_num": f"{CANARY}{press.digits(16)}", "card_pass": press.groups(3)}


def _qr_picture(press: Press) -> Card:
    code = CANARY + press.code(16)
    return {"card_num": f"https://img.kaquan.example/qr/{code}.png", "card_pass": f"https://q.kaquan.example/{code}"}


def _link_and_secret(press: Press) -> Card:
    """The secret is in `card_num` here, the address in `card_pass`: the other way round than type 1."""
    return {"card_num": press.groups(3), "card_pass": f"https://exchange.kaquan.example/{CANARY}/redeem"}


def _direct_link(press: Press) -> Card:
    return {
        "card_num": f"https://r.kaquan.example/{CANARY}{press.code(20)}",
        "card_pass": "打开链接，登录后点击领取，即时到账",
    }


_SHAPES: Final = (_activation_code, _number_and_password, _qr_picture, _link_and_secret, _direct_link)


def _scenario(
    name: str, product: str, title: str, description: str, card_type: int, *, answer: Answer = Answer.NOW, stock: int
) -> Scenario:
    return Scenario(
        name=name,
        product=product,
        title=title,
        description=description,
        kind="card",
        face_value=Decimal("50.00"),
        unit_price=Decimal("40.00"),
        recipient="none",
        behaviour=Behaviour((IN_WARRANTY,), _SHAPES[card_type], answer=answer, stock=stock),
        surcharge=SURCHARGES["10"],
        parameters={"auto_confirm_hour": "10", "card_type": str(card_type)},
    )


STOCK: Final = 1_000_000

SCENARIOS: Final = (
    _scenario("type-0", "1840", "91 激活码 50元", "activation code in card_num, card_pass empty", 0, stock=STOCK),
    _scenario("type-1", "1841", "91 卡号密码 50元", "card number and password", 1, stock=STOCK),
    _scenario("type-2", "1842", "91 二维码 50元", "picture URL in card_num, QR content in card_pass", 2, stock=STOCK),
    _scenario(
        "type-3", "1843", "91 链接卡密 50元", "secret in card_num, redemption address in card_pass", 3, stock=STOCK
    ),
    _scenario("type-4", "1844", "91 链接直兑 50元", "link in card_num, instructions in card_pass", 4, stock=STOCK),
    _scenario("out-of-stock", "1845", "91 卡号密码 50元（缺货）", "refused with code 0, nothing is booked", 1, stock=0),
    _scenario(
        "slow",
        "1846",
        "91 卡号密码 50元（慢）",
        "accepted at once, answered after the client's time-out; the query shows the cards meanwhile",
        1,
        answer=Answer.LATE,
        stock=STOCK,
    ),
)


def total_price(unit_price: Decimal, hours: str, quantity: int) -> tuple[Decimal, Decimal]:
    """Unit price with surcharge to 4 places, and the total rounded half up to fen."""
    unit = (unit_price * (1 + SURCHARGES[hours])).quantize(Decimal("0.0001"), ROUND_HALF_UP)
    return unit, (unit * quantity).quantize(Decimal("0.01"), ROUND_HALF_UP)


class Kaquan91Card:
    """The card side of the 91 gateway."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.desk = Desk(KIND, SCENARIOS, settings)
        self._settings = settings
        self._gateway = Kaquan91(self.desk, settings, appid=APPID, appsecret=APPSECRET)

    def routes(self) -> Sequence[web.RouteDef]:
        return (
            web.post("/dcapi/card/payOrder", self._create),
            web.post("/dcapi/card/queryOrder", self._query),
            web.post("/dcapi/card/queryCardList", self._list),
            web.post("/dcapi/card/queryCardDetail", self._detail),
            web.post("/dcapi/queryCash", self._gateway.balance),
        )

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
        previous = self.desk.repeated(number)
        if previous and self._settings.duplicates == "replay":
            return Verdict(self._accepted(previous), number, order=previous)
        if previous:
            raise RefusedError("合作商订单号重复")
        scenario = self.desk.scenarios.get(product)
        if scenario is None:
            raise RefusedError("卡券产品不存在")
        _, total = total_price(scenario.unit_price, hours, quantity)
        if ceiling and total > ceiling:
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
            details={"hours": hours},
        )
        return Verdict(self._accepted(order), number, order=order)

    def _order_id(self, press: Press) -> str:
        return f"{date_time(self.desk.clock())[:10].replace('-', '')}{press.digits(11)}"

    def _accepted(self, order: Order) -> web.Response:
        other = {"pay_order_id": order.supplier_number, **self._about(order)}
        return accepted(self._entries(order), "下单成功", other=other)

    def _entries(self, order: Order) -> list[dict[str, object]]:
        """One entry per card. `type` and `typeName` stay out: the page's table has them, its sample does not."""
        unit, _ = total_price(order.scenario.unit_price, order.details["hours"], 1)
        return [
            {"order_id": card_number, **card, "money": yuan(unit), "status": order.state}
            for card_number, card in zip(order.card_numbers, order.cards, strict=True)
        ]

    def _about(self, order: Order) -> dict[str, object]:
        return {
            "card_id": int(order.scenario.product),
            "create_time": date_time(order.accepted_at),
            "update_time": date_time(order.updated_at),
            "remark": "",
        }

    async def _query(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._found)

    def _found(self, fields: Fields) -> web.Response:
        (number,) = needed(fields, "out_order_id")
        orders = self.desk.book.under(number)
        if not orders:
            raise RefusedError("订单不存在")
        for order in orders:
            # The order confirms itself when the warranty ends; nobody sees it happen, so it is done on a look.
            ends = order.accepted_at + int(order.details["hours"]) * 3600
            if order.stage is IN_WARRANTY and self.desk.clock() >= ends:
                self.desk.end(order, CONFIRMED)
            self.desk.look(order)
        return accepted([{**entry, **self._about(order)} for order in orders for entry in self._entries(order)])

    async def _list(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._products, LIST_UNSIGNED)

    def _products(self, fields: Fields) -> web.Response:
        return accepted([self._product(scenario) for scenario in SCENARIOS][self._gateway.page(fields)])

    async def _detail(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._one)

    def _one(self, fields: Fields) -> web.Response:
        (product,) = needed(fields, "card_id")
        scenario = self.desk.scenarios.get(product)
        if scenario is None:
            raise RefusedError("卡券产品不存在")
        return accepted(self._product(scenario))

    def _product(self, scenario: Scenario) -> dict[str, object]:
        """With stock 0 the price list is empty, as a public client found."""
        card_type = scenario.parameters["card_type"]
        stock = self.desk.book.stock(scenario)
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
            "auto_confirm_hour": [int(hours) for hours in SURCHARGES],
            "priceList": [{"price": yuan(scenario.unit_price), "num": stock}] if stock else [],
        }


def _yuan_amount(text: str) -> Decimal:
    """An amount in yuan with at most two decimals; 0 switches the guard off."""
    try:
        amount = Decimal(text)
    except InvalidOperation as error:
        raise RefusedError("订单总额错误") from error
    if not amount.is_finite() or amount < 0 or amount != amount.quantize(Decimal("0.01")):
        raise RefusedError("订单总额错误")
    return amount
