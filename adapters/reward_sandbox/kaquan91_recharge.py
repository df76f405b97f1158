"""91 Kaquan, recharge on the buyer's account: accepted first, done by somebody later, callback per order.

Create (create-order page), form: appid, card_id, account, number, money_type?, money?, out_order_id, check?,
    datetime, notify_url?, sign -> {"code": 1, "msg": "下单成功", "result": "API…", "other": {"price": "12.0"}}
Query: appid, order_id or out_order_id (order_id wins) -> `result` {"order_id", "out_order_id", "price", "status", …}
States: 7 matching, 1 waiting, 2 in progress, 3 done, 4 confirmed, 5 dispute, 6 failed and refunded.
Callback, form: order_id, out_order_id, status, account, card_id, evidence?, sign; the answer is the bare `success`.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final
from urllib.parse import unquote_plus, urlencode

from aiohttp import web

from reward_sandbox._kaquan91 import (
    LIST_UNSIGNED,
    NOBODY,
    Fields,
    Kaquan91,
    RefusedError,
    accepted,
    codes,
    needed,
    refusal,
    refused,
    signature,
)
from reward_sandbox.books import Order
from reward_sandbox.callbacks import Callback
from reward_sandbox.desk import Desk, Verdict
from reward_sandbox.faults import Call
from reward_sandbox.mint import Press
from reward_sandbox.scenario import GENUINE, Behaviour, Scenario
from reward_sandbox.scenarios import kaquan91_recharge as goods
from reward_sandbox.scenarios.kaquan91_recharge import CONFIRMED, DONE, FAILED, SCENARIOS, WAITING
from reward_sandbox.settings import SandboxSettings, SignMode
from reward_sandbox.shops import Shop
from reward_sandbox.wire import FORM, JSON, date_time, is_url, recipient_fits, whole, yuan

KIND: Final = "kaquan91_recharge"
APPID: Final = "19190092"
APPSECRET: Final = "sandbox-91recharge-secret"
MAX_UNITS: Final = 10
CALLBACK_GAPS: Final = (1.0, 5.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0)
"""Ten repeats (callback page)."""
CLOCK_WINDOW: Final = 600
"""Seconds `datetime` may be off; the create-order page names no number."""
MOST_UNITS: Final = 100
"""Of one order, unless the product says less; no page names a limit."""
UNSIGNED: Final = frozenset({"check"})
CONFIRM_AFTER: Final = 24 * 3600
"""An order done is confirmed by itself after a day (front page)."""
EVIDENCE: Final = "http://img.kaquan.example/e/1.png"
"""A recharge proof; a value that the two readings of the signing rule spell differently."""

CALLBACKS: Final[Mapping[str, str]] = {
    GENUINE: "as documented",
    "stale-STATE": "genuine, but tells of another state than the order is in",
    "extra-field": "genuine, with two fields that no page names, one of them empty",
    "evidence": "genuine, with a recharge proof, its address signed as it is",
    "evidence-encoded": "the same, its address URL-encoded in the signed text",
    "lower-case-sign": "genuine, its digest in lower case",
    "json": "genuine, as a JSON object instead of a form",
    "altered": "genuine; our first three answers arrive as ` success` with a line end, `SUCCESS` and JSON",
    "unheard": "genuine; our first three answers are lost on the way",
    "never-heard": "genuine; none of our answers arrives",
    "unknown-number": "well signed, for a number that nobody gave",
    "other-reference": "well signed, with another supplier's number than the order has",
    "wrong-secret": "signed with another secret",
    "missing-sign": "without `sign`",
    "empty-sign": "with an empty `sign`",
    "partial-sign": "signed over some of its fields only",
    "tampered": "the state changed after signing",
    "other-number": "`out_order_id` changed after signing",
    "twice": "a field given twice",
}
"""What the control API can send about an order. All but `altered`, `unheard`, `never-heard` and the genuine ones of a
course are sent once."""


class Kaquan91Recharge:
    """The recharge side of the 91 gateway."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.desk = Desk(KIND, SCENARIOS, settings, refuse=refusal, codes=codes, notify=self._notify)
        self._gateway = Kaquan91(self.desk, appid=APPID, appsecret=APPSECRET)

    def routes(self) -> Sequence[tuple[Call, web.RouteDef]]:
        return (
            ("create", web.post("/dcapi/pay", self._create)),
            ("query", web.post("/dcapi/queryOrder", self._query)),
            ("cancel", web.post("/dcapi/drawOrder", self._draw)),
            ("cancel", web.post("/dcapi/confirmOrder", self._confirm)),
            ("products", web.post("/dcapi/queryCardList", self._list)),
            ("products", web.post("/dcapi/queryCardInfo", self._info)),
            ("balance", web.post("/dcapi/queryCash", self._gateway.balance)),
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
        scenario = self.desk.chosen(product, account)
        course = scenario.behaviour if scenario else Behaviour()
        if quantity is None or quantity > (course.maximum or MOST_UNITS):
            raise RefusedError("购买数量错误")
        now = self.desk.wall() + course.extra.get("clock_off", 0)
        if not re.fullmatch(r"[0-9]{10}", moment) or abs(now - int(moment)) > CLOCK_WINDOW:
            raise RefusedError("下单时间戳错误")
        if fields.get("check", "0") not in ("0", "1"):
            raise RefusedError("check参数错误")
        notify_url = self._notify_url(fields)
        offered = _offered(fields)
        previous = self.desk.repeated(number, scenario)
        if previous and self.desk.mode("duplicates", scenario) == "replay":
            return Verdict(_accepted(previous), number, order=previous)
        if previous:
            raise RefusedError("合作商订单号重复")
        if scenario is None:
            raise RefusedError("产品不存在")
        taken = course.extra.get("accounts", ".*")
        if not recipient_fits(scenario.recipient, account) or not re.fullmatch(taken, account):
            raise RefusedError("充值账号错误")
        price = self.desk.price(scenario)
        total = price * quantity
        guarded = price if course.extra.get("money_scope") == "unit" else total
        if offered is not None and offered < guarded and not course.extra.get("ignores_limit"):
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
            name_order=lambda press: self._order_number(press, scenario),
            details={
                "notify_url": notify_url,
                **{name: fields.get(name, "") for name in ("money_type", "money", "check")},
            },
        )
        return Verdict(_accepted(order), number, order=order)

    def _order_number(self, press: Press, scenario: Scenario) -> str:
        prefix = "" if scenario.behaviour.extra.get("digits") else "API"
        return f"{prefix}{date_time(self.desk.clock())[:10].replace('-', '')}{press.digits(11)}"

    def _notify_url(self, fields: Fields) -> str:
        """Where to call back, "" for nowhere. The one public client encodes the address once more before it signs and
        sends it; that fits the reading of the signing rule which encodes every value, and no other.
        """
        url = fields.get("notify_url", "")
        if self._gateway.sign_mode != "notify-only" and re.match(r"https?%3A", url, re.IGNORECASE):
            url = unquote_plus(url)
        if url and not is_url(url):
            raise RefusedError("notify_url错误")
        return url

    def _notify(self, order: Order, name: str) -> Callback | None:
        """No callback without `notify_url`, nor for a name that `CALLBACKS` doesn't have."""
        url, state = order.details["notify_url"], name.removeprefix("stale-")
        if not url or not (name in CALLBACKS or (name != state and state.isdecimal())):
            return None
        fields = {
            "order_id": order.supplier_number,
            "out_order_id": order.number,
            "status": state if name != state else str(order.state),
            "account": order.recipient,
            "card_id": order.scenario.product,
        }
        fields |= _ODD_FIELDS.get(name, {})
        signed = {**fields, "sign": self._callback_sign(fields, name)}
        sent = _FORGERIES.get(name, dict)(signed)
        callback = Callback(
            url=url,
            body=urlencode(sent).encode() + (b"&status=3" if name == "twice" else b""),
            content_type=FORM,
            gaps=CALLBACK_GAPS if name in (GENUINE, "altered", "unheard", "never-heard") else (),
            accepts=_hears(from_attempt={"unheard": 4, "never-heard": len(CALLBACK_GAPS) + 2}.get(name, 1)),
            arrives=_altered() if name == "altered" else bytes,
        )
        if name == "json":
            return replace(callback, body=json.dumps(sent, ensure_ascii=False).encode(), content_type=JSON)
        return callback

    def _callback_sign(self, fields: Fields, name: str) -> str:
        mode = self._gateway.sign_mode
        reading: SignMode = "encode-all" if name == "evidence-encoded" or mode == "encode-all" else "notify-only"
        covered = ("order_id", "out_order_id", "status") if name == "partial-sign" else tuple(fields)
        secret = "another-secret" if name == "wrong-secret" else APPSECRET
        return signature({field: fields[field] for field in covered}, secret, mode=reading)

    def _order(self, fields: Fields) -> Order:
        """The order a request names; `order_id` wins over `out_order_id`."""
        if fields.get("order_id"):
            order = self.desk.book.by_supplier_number(fields["order_id"])
        else:
            (number,) = needed(fields, "out_order_id")
            order = next(iter(self.desk.book.under(number)), None)
        if order is None:
            raise RefusedError("订单不存在")
        if order.state == DONE.state and self.desk.clock() >= order.updated_at + CONFIRM_AFTER:
            self.desk.end(order, CONFIRMED)
        return order

    async def _query(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._found)

    def _found(self, fields: Fields) -> web.Response:
        order = self._order(fields)
        stage = order.stage
        entry: dict[str, object] = {
            "order_id": order.supplier_number,
            "out_order_id": order.number,
            "price": yuan(order.charged),
            "status": order.state,
            "account": order.recipient,
            "card_id": order.scenario.product,
            "evidence": EVIDENCE if order.state in (DONE.state, CONFIRMED.state) else "",
            "remark": "",
            "create_time": date_time(order.accepted_at),
            "update_time": date_time(order.updated_at),
        }
        self.desk.look(order)
        return accepted(stage.entry(entry) if stage.entry else entry)

    async def _draw(self, request: web.Request) -> web.Response:
        return await self._gateway.call(request, self._cancelled)

    def _cancelled(self, fields: Fields) -> web.Response:
        """Only while nobody works on it; the price here, and only here, is whole fen."""
        order = self._order(fields)
        fault = self.desk.draw("cancel", order.number, order.scenario)
        if fault is not None and not fault.booked:
            # It goes wrong before anything is done; what the client gets of it is decided in `serve`.
            return refused(fault.name)
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
            "price": yuan(self.desk.price(scenario)),
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


_ODD_FIELDS: Final[Mapping[str, Fields]] = {
    "extra-field": {"worker": "7 号 & more", "worker_remark": ""},
    "evidence": {"evidence": EVIDENCE},
    "evidence-encoded": {"evidence": EVIDENCE},
    "unknown-number": {"out_order_id": NOBODY},
    "other-reference": {"order_id": "API2022040699999999999"},
}
"""Fields of a callback that differ before it is signed."""

_FORGERIES: Final[Mapping[str, Callable[[Fields], Fields]]] = {
    "missing-sign": lambda fields: {name: value for name, value in fields.items() if name != "sign"},
    "empty-sign": lambda fields: {**fields, "sign": ""},
    "lower-case-sign": lambda fields: {**fields, "sign": fields["sign"].lower()},
    "tampered": lambda fields: {**fields, "status": "4"},
    "other-number": lambda fields: {**fields, "out_order_id": "0000000000000000000000000B"},
}
"""What becomes of a callback after it was signed."""


def _hears(*, from_attempt: int) -> Callable[[bytes], bool]:
    """Exactly `success` counts; answers to earlier attempts are lost on the way."""
    attempts = itertools.count(1)
    return lambda answer: next(attempts) >= from_attempt and answer == b"success"


def _altered() -> Callable[[bytes], bytes]:
    """Something on the way writes our first answers anew, as people take them for the same."""
    ways: Iterator[Callable[[bytes], bytes]] = iter(
        (
            lambda answer: b" " + answer + b"\n",
            bytes.upper,
            lambda answer: json.dumps({"message": answer.decode()}).encode(),
        )
    )

    def alter(answer: bytes) -> bytes:
        return next(ways, bytes)(answer)

    return alter


SHOP: Final = Shop(
    title="91 Kaquan 玖壹卡券, recharges",
    open=Kaquan91Recharge,
    account={"appid": APPID, "appsecret": APPSECRET},
    scenarios=goods.SCENARIOS,
    behaviours=goods.BEHAVIOURS,
    codes=goods.CODES,
    left_open=goods.OPEN,
    callbacks=tuple(CALLBACKS),
    max_units=MAX_UNITS,
)
