"""Kasushou: buy is only taken, everything else comes by the detail call and the callback.

Headers of every call: UserId, Timestamp (13 digits), Sign. JSON in, `{"code": 200|400|500, "msg": …, "data": …}` out.
Buy (create-order page): id, quantity, external_orderno, safe_price?, mark?, url?, attach?
    -> data {"ordersn": "API…", "external_orderno": "…", "total_price": "98.50"}
Detail (detail page): external_orderno or ordersn (several with commas), day -> data [{"ordersn", "status", …}]
States: -1 unpaid, 1 waiting, 2 in progress, 3 success, 4 cancelled, 5 refunded.
Close (cancel page): ordersn -> {"code", "msg"}; the callback with 4 is the result.
Callback: JSON (or form) to the order's `url`; the answer is the bare text `ok`.

What only this file understands of a scenario's `extra`:
    template        the fields of the product's order form
    needs           keys that buying asks for although the form doesn't list them
    goods_status    2 paused, 3 forbidden, 0 not there any more
    account         the accounts that can be topped up, as a pattern
    rewritten       what a proxy on the way makes of a buy request: one of `PROXIES`
    unpaid          the order is entered, and nothing is charged for it
    closed          the stage that a cancelled order enters; None: the wish is taken and forgotten
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final, NamedTuple
from urllib.parse import urlencode

from aiohttp import web

from reward_sandbox._kasushou_wire import PROXIES, SPELLINGS, callback_signature, request_signed_well
from reward_sandbox.books import Order
from reward_sandbox.callbacks import Callback
from reward_sandbox.desk import Desk, Verdict
from reward_sandbox.faults import Call, Refusal
from reward_sandbox.scenario import GENUINE, Scenario
from reward_sandbox.scenarios import kasushou as goods
from reward_sandbox.scenarios.kasushou import ATTACH, CANCELLED, SCENARIOS
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.shops import Shop
from reward_sandbox.wire import (
    FORM,
    JSON,
    MalformedError,
    date_time,
    envelope,
    is_url,
    json_object,
    recipient_fits,
    reply,
    yuan,
)

KIND: Final = "kasushou"
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
FAST_CLOCK: Final = 600
"""Seconds that the site's clock is ahead in the mode of that name."""
PAGE_LIMIT: Final = 100
"""The most entries of one page (price-log page; the product list has it as default)."""
NOBODY: Final = "NOBODYS0ORDER0NUMBER000000"
"""An order number that nobody uses."""

_REWRITTEN: Final[Mapping[bytes, str]] = {
    f'"id":{scenario.product},'.encode(): scenario.behaviour.extra["rewritten"]
    for scenario in SCENARIOS
    if "rewritten" in scenario.behaviour.extra
}
"""What a proxy does with a buy request, by what stands in its body."""

_NOT_SOLD: Final[Mapping[int, str]] = {0: "商品不存在", 2: "商品已暂停销售", 3: "商品已禁止销售"}
"""By the status of a product."""

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

    @property
    def asks(self) -> str:
        """What must be the same when a number comes again."""
        return json.dumps([self.product, self.quantity, self.attach], ensure_ascii=False, sort_keys=True, default=str)


class Kasushou:
    """One Kasushou site."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.desk = Desk(KIND, SCENARIOS, settings, refuse=self._refusal, codes=_codes, notify=self._notify)

    def routes(self) -> Sequence[tuple[Call, web.RouteDef]]:
        return (
            ("create", web.post("/api/v1/order/buy", self._buy)),
            ("query", web.post("/api/v1/order/info", self._call(self._info))),
            ("cancel", web.post("/api/v1/order/close", self._call(self._close))),
            ("balance", web.post("/api/v1/user/info", self._call(self._user))),
            ("products", web.post("/api/v1/goods/cate", self._call(self._goods_cate))),
            ("products", web.post("/api/v1/goods/list", self._call(self._goods_list))),
            ("products", web.post("/api/v1/goods/pricelog", self._call(self._goods_pricelog))),
            ("products", web.post("/api/v1/goods/info", self._call(self._goods_info))),
            ("products", web.post("/api/v1/goods/attach", self._call(self._goods_attach))),
        )

    def _read(self, request: web.Request, body: bytes) -> Members:
        """The members of a genuine request; anything else raises."""
        headers = request.headers
        timestamp = headers.get("Timestamp", "")
        if self.desk.mode("allow_list") == "others":
            raise RefusedError("ip not allowed")
        try:
            members = json_object(body, request.content_type)
        except MalformedError as error:
            raise RefusedError(f"请求格式错误：{error}") from error
        if headers.get("UserId") != USER_ID:
            raise RefusedError("用户不存在")
        if not re.fullmatch(r"[0-9]{13}", timestamp) or abs(self._wall() - int(timestamp) / 1000) > CLOCK_WINDOW:
            raise RefusedError("时间戳错误")
        spelling = SPELLINGS[self.desk.mode("signed_form")]
        if not request_signed_well(timestamp, body, headers.get("Sign", ""), APIKEY, spelling):
            raise RefusedError("签名错误")
        return members

    def _wall(self) -> float:
        return self.desk.wall() + (FAST_CLOCK if self.desk.mode("site_clock") == "fast" else 0)

    def _on_the_way(self, body: bytes) -> bytes:
        """What arrives of a buy request: a proxy may write it anew, which leaves its signature behind."""
        proxy = next((proxy for product, proxy in _REWRITTEN.items() if product in body), None)
        try:
            return PROXIES[proxy](json_object(body, JSON)) if proxy else body
        except MalformedError:
            return body

    def _call(self, answer: Callable[[Members], object]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Any call but buy."""

        async def handle(request: web.Request) -> web.Response:
            try:
                return _ok("操作成功", answer(self._read(request, await request.read())))
            except RefusedError as error:
                return self._refused(str(error))

        return handle

    async def _buy(self, request: web.Request) -> web.StreamResponse:
        return await self.desk.place(request, lambda body: self._decide(request, body))

    def _decide(self, request: web.Request, body: bytes) -> Verdict:
        number = ""
        try:
            members = self._read(request, self._on_the_way(body))
            number = str(members.get("external_orderno", ""))
            return self._sell(_wanted(members))
        except RefusedError as error:
            return Verdict(self._refused(str(error)), number, refusal=str(error))

    def _sell(self, wanted: _Wanted) -> Verdict:
        scenario = self.desk.chosen(wanted.product, str(wanted.attach.get("recharge_account", "")))
        previous = self.desk.repeated(wanted.number, scenario)
        if previous and self.desk.mode("duplicates", scenario) == "replay":
            if wanted.asks != previous.details["asks"]:
                raise RefusedError("外部订单号已存在，且下单参数不一致")
            return Verdict(_accepted(previous), wanted.number, order=previous)
        if previous:
            raise RefusedError("外部订单号重复，请勿重复提交")
        if scenario is None or _goods_status(scenario) != 1:
            raise RefusedError(_NOT_SOLD[_goods_status(scenario) if scenario else 0])
        least, most = _bounds(scenario)
        if not least <= wanted.quantity <= most:
            raise RefusedError(f"购买数量错误，允许{least}到{most}")
        total = self.desk.price(scenario) * wanted.quantity
        compared = total if self.desk.mode("safe_price", scenario) == "total" else self.desk.price(scenario)
        if wanted.safe_price is not None and wanted.safe_price < compared:
            raise RefusedError("商品售价高于安全价格safe_price")
        recipient = _recipient(scenario, wanted.attach)
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
            charged=Decimal(0) if scenario.behaviour.extra.get("unpaid") else total,
            name_order=lambda press: f"API09{press.digits(19)}",
            details={"url": wanted.url, "asks": wanted.asks, "total": yuan(total)},
        )
        return Verdict(_accepted(order), wanted.number, order=order)

    def _notify(self, order: Order, name: str) -> Callback | None:
        """The callback of that name; all but the genuine one are sent once."""
        url = order.details["url"]
        if not url or name not in CALLBACKS:
            return None
        told = CALLBACKS[name](order)
        if name == GENUINE:
            self.desk.codes_sent.update([f"callback {order.state}"])
        as_form = told.as_form
        if as_form is None:
            as_form = self.desk.mode("callback_format", order.scenario) == "form"
        fields = {
            key: json.dumps(value, ensure_ascii=False) if as_form and isinstance(value, list) else value
            for key, value in told.fields.items()
        }
        return Callback(
            url=url,
            body=(urlencode(fields) if as_form else json.dumps(fields, ensure_ascii=False)).encode(),
            content_type=FORM if as_form else JSON,
            gaps=told.gaps,
            accepts=_hears_ok(told.deaf),
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
        if not orders and self.desk.mode("not_found") == "refused":
            raise RefusedError("订单不存在")
        entries = [entry for order in orders if (entry := _entry(order))]
        for order in orders:
            together = max(int(order.details.get("asked_together", 0)), len(ours) + len(theirs))
            order.details["asked_together"] = str(together)
            self.desk.look(order)
        return entries

    def _close(self, members: Members) -> object:
        """Success only says that the wish was taken; the callback with 4 is the result."""
        order = self.desk.book.by_supplier_number(str(members.get("ordersn", "")))
        if order is None:
            raise RefusedError("订单不存在")
        if order.state not in (1, 2):
            raise RefusedError("订单状态不允许取消")
        order.calls["cancel"] += 1
        fault = self.desk.draw("cancel", order.number, order.scenario)
        stage = order.scenario.behaviour.extra.get("closed", CANCELLED)
        if stage is not None and (fault is None or fault.booked):
            self.desk.end(order, stage)
        return []

    def _refused(self, text: str) -> web.Response:
        return self._refusal(Refusal("400", text))

    def _refusal(self, refusal: Refusal) -> web.Response:
        """HTTP 200 all the same, unless told otherwise: the code page speaks of the envelope only."""
        code = int(refusal.code or 400)
        return reply({"code": code, "msg": refusal.text}, code if self.desk.mode("http_status") == "mirror" else 200)

    def _user(self, _: Members) -> object:
        return {"balance": yuan(self.desk.book.balance)}

    def _goods_cate(self, _: Members) -> object:
        """Two levels; a product's category is its kind."""
        children = [
            {"id": i, "name": name, "pid": 1, "img": "", "children": []}
            for i, name in enumerate(_CATEGORIES.values(), 2)
        ]
        return [{"id": 1, "name": "卡速售沙箱", "pid": 0, "img": "", "children": children}]

    def _goods_list(self, members: Members) -> object:
        """Paged; `cate_id` and `keyword` narrow it."""
        keyword, category = members.get("keyword", ""), members.get("cate_id", 0)
        found = [
            self._goods(scenario)
            for scenario in self._sold()
            if str(keyword) in scenario.title and category in (0, 1, "", _category(scenario))
        ]
        return _paged(found, members, most=None)

    def _goods_pricelog(self, members: Members) -> object:
        """Prices that were moved by hand, as of now."""
        changes = []
        for scenario in self._sold():
            before, now = scenario.behaviour.price or scenario.unit_price, self.desk.price(scenario)
            if now != before:
                changes.append(
                    {
                        "create_time": date_time(self.desk.clock()),
                        "price": yuan(now),
                        "price1": yuan(before),
                        "pricecha": yuan(abs(now - before)),
                        "price_type": 1 if now > before else 2,
                        "goods_id": int(scenario.product),
                        "goods_name": scenario.title,
                        "goods_img": "",
                        "status": _goods_status(scenario),
                    }
                )
        return _paged(changes, members, most=PAGE_LIMIT)

    def _goods_info(self, members: Members) -> object:
        scenario = self._known(members.get("id"))
        least, most = _bounds(scenario)
        notice = {"goods_info": scenario.description, "goods_notice": "", "start_count": least, "end_count": most}
        return {**self._goods(scenario), **notice, "attach": _template(scenario)}

    def _goods_attach(self, members: Members) -> object:
        return _template(self._known(members.get("goods_id")))

    def _sold(self) -> list[Scenario]:
        return [scenario for scenario in SCENARIOS if _goods_status(scenario)]

    def _known(self, product: object) -> Scenario:
        scenario = self.desk.scenarios.get(str(product))
        if scenario is None or not _goods_status(scenario):
            raise RefusedError("商品不存在")
        return scenario

    def _goods(self, scenario: Scenario) -> dict[str, object]:
        return {
            "id": int(scenario.product),
            "goods_name": scenario.title,
            "goods_img": "",
            "goods_type": 1 if scenario.behaviour.shape else 2,
            "face_value": yuan(scenario.face_value),
            "goods_price": yuan(self.desk.price(scenario)),
            "status": _goods_status(scenario),
            "stock_num": self.desk.book.stock(scenario),
            "can_buy": "1",
            "can_no_buy": "",
            "can_price": "0.00",
            "need_balance": "0.00",
        }


class _Told(NamedTuple):
    """One callback before it is written."""

    fields: Members
    """In the order in which they are sent, `sign` included."""
    as_form: bool | None = None
    """None: as the site does it."""
    gaps: tuple[float, ...] = ()
    deaf: int = 0
    """How many answers get lost on their way back."""


def _hears_ok(deaf: int) -> Callable[[bytes], bool]:
    answers = 0

    def accepts(answer: bytes) -> bool:
        nonlocal answers
        answers += 1
        return answer == b"ok" and answers > deaf

    return accepts


def _facts(order: Order, **changed: object) -> Members:
    """What a callback says: all values as text, the time when the order came into its state."""
    facts: Members = {
        "external_orderno": order.number,
        "ordersn": order.supplier_number,
        "status": str(order.state),
        "has_back_money": yuan(order.refunded),
        "total_price": order.details["total"],
        "recharge_hints": _hints(order),
        "time": _milliseconds(order.updated_at),
    }
    return {**facts, **changed}


def _milliseconds(moment: float) -> str:
    return str(int(moment * 1000))


def _signed(fields: Members, *, secret: str = APIKEY, over: Iterable[str] | None = None, raw: bool = False) -> Members:
    """With the signature; `over` names the fields it covers, `raw` leaves slashes alone."""
    covered = {key: fields[key] for key in fields if over is None or key in over}
    return {**fields, "sign": callback_signature(covered, secret, escape_slashes=not raw)}


def _with_cards(fields: Members, order: Order) -> Members:
    """The cards ride along unsigned."""
    cards = [{**card, "end_time": "2029-04-28 23:59:59"} for card in order.delivered]
    return {**fields, "card_list": cards} if cards else fields


def _genuine(order: Order) -> Members:
    return _with_cards(_signed(_facts(order)), order)


def _older(status: str) -> Callable[[Order], _Told]:
    """Signed well, from when the order was taken, and not true any more."""
    return lambda order: _Told(_signed(_facts(order, status=status, time=_milliseconds(order.accepted_at))))


def _altered(**changed: object) -> Callable[[Order], _Told]:
    """Changed after it was signed: as a success that never came, with everything paid back, …"""
    return lambda order: _Told({**_signed(_facts(order)), **changed})


_FORGED_CARD: Final = {"card_no": "FORGED000000", "card_password": "FORGED-FORGED", "end_time": "2029-04-28 23:59:59"}

CALLBACKS: Final[Mapping[str, Callable[[Order], _Told]]] = {
    GENUINE: lambda order: _Told(_genuine(order), gaps=CALLBACK_GAPS),
    "replayed": lambda order: _Told(_genuine(order)),
    "unheard-twice": lambda order: _Told(_genuine(order), gaps=CALLBACK_GAPS, deaf=2),
    "json": lambda order: _Told(_genuine(order), as_form=False),
    "form": lambda order: _Told(_genuine(order), as_form=True),
    "numeric-status": lambda order: _Told(_with_cards(_signed(_facts(order, status=order.state)), order)),
    "raw-slashes": lambda order: _Told(_with_cards(_signed(_facts(order), raw=True), order)),
    "upper-case-sign": lambda order: _Told({**_genuine(order), "sign": str(_genuine(order)["sign"]).upper()}),
    "express": lambda order: _Told({**_genuine(order), "express_list": "顺丰 SF1000000000001"}),
    "replaced-cards": lambda order: _Told({**_genuine(order), "card_list": [_FORGED_CARD] * order.quantity}),
    "unknown-number": lambda order: _Told(_signed(_facts(order, external_orderno=NOBODY))),
    "other-reference": lambda order: _Told(_signed(_facts(order, ordersn="API000000000000000000000"))),
    "stale-2": _older("2"),
    "stale-3": _older("3"),
    "stale-5": _older("5"),
    "product-notice": lambda order: _Told(
        {**_signed({"id": order.scenario.product, "time": _milliseconds(order.updated_at)}), "goods_price": "0.01"}
    ),
    "wrong-secret": lambda order: _Told(_signed(_facts(order, status="5"), secret="another-apikey")),  # noqa: S106
    "missing-sign": lambda order: _Told(_facts(order, status="3")),
    "empty-sign": _altered(status="3", sign=""),
    "list-sign": _altered(status="3", sign=["ok"]),
    "extra-field": _altered(remark="已核对"),
    "partial-sign": lambda order: _Told(_signed(_facts(order, status="3"), over={"ordersn", "time"})),
    "changed-status": _altered(status="5"),
    "changed-refund": _altered(has_back_money="0.01"),
    "other-number": _altered(external_orderno=NOBODY),
    "other-time": _altered(time="1704067210789"),
    "no-number": lambda order: _Told(
        _signed({key: value for key, value in _facts(order).items() if key != "external_orderno"})
    ),
}
"""Every callback by name. Not acknowledged must be those from "wrong-secret" on, and the product notice, which is about
no order; the others are signed well, whatever they claim."""


_CATEGORIES: Final[Mapping[str, str]] = {"card": "卡密", "coupon": "优惠券", "topup": "直充", "membership": "会员"}


def _category(scenario: Scenario) -> int:
    return 2 + list(_CATEGORIES).index(scenario.kind)


def _paged(entries: Sequence[object], members: Members, *, most: int | None) -> Members:
    limit, page = members.get("limit", PAGE_LIMIT), members.get("page", 1)
    if not _is_count(limit) or not _is_count(page) or (most is not None and int(str(limit)) > most):
        raise RefusedError("分页参数错误")
    start = (int(str(page)) - 1) * int(str(limit))
    return {"list": list(entries[start : start + int(str(limit))]), "total": len(entries)}


def _goods_status(scenario: Scenario) -> int:
    """1 on sale, 2 paused, 3 forbidden; 0 not there."""
    return int(scenario.behaviour.extra.get("goods_status", 1))


def _bounds(scenario: Scenario) -> tuple[int, int]:
    """`start_count` and `end_count`."""
    return scenario.behaviour.minimum, scenario.behaviour.maximum or ORDER_LIMIT


def _wanted(members: Members) -> _Wanted:
    """Check the fields of a buy request against the page's types."""
    product, quantity, number = members.get("id"), members.get("quantity"), members.get("external_orderno")
    if not _is_count(product):
        raise RefusedError("id必须为整数")
    if not _is_count(quantity):
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
    extra = scenario.behaviour.extra
    for key in [*(str(field["key"]) for field in _template(scenario)), *extra.get("needs", ())]:
        value = attach.get(key)
        if not isinstance(value, str) or not value:
            raise RefusedError(f"缺少下单参数：{key}")
    recipient = str(attach.get("recharge_account", ""))
    if not recipient_fits(scenario.recipient, recipient) or not re.fullmatch(extra.get("account", ".*"), recipient):
        raise RefusedError("充值账号错误")
    return recipient


def _template(scenario: Scenario) -> Sequence[Mapping[str, object]]:
    template: Sequence[Mapping[str, object]] = scenario.behaviour.extra.get("template", ATTACH)
    return [] if scenario.behaviour.shape else template


def _names(members: Members, key: str) -> list[str]:
    """One or several numbers, separated by commas."""
    value = members.get(key, "")
    if not isinstance(value, str):
        raise RefusedError(f"{key}必须为字符串")
    return [name for name in value.split(",") if name]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _entry(order: Order) -> Members:
    """How the order stands in the detail call; empty where the scenario leaves it out."""
    info = [{"n": "充值账号", "v": order.recipient, "k": "recharge_account"}] if order.recipient else []
    entry: Members = {
        "ordersn": order.supplier_number,
        "external_orderno": order.number,
        "status": order.state,
        "total_price": order.details["total"],
        "has_back_money": yuan(order.refunded),
        "recharge_hints": _hints(order),
        "recharge_info": info,
        "card_list": order.delivered,
    }
    return order.stage.entry(entry) if order.stage.entry else entry


def _hints(order: Order) -> str:
    hints = {
        3: "订单处理完成/期待您的下次光临",
        4: "订单已取消/款项已退回",
        5: "订单已退款/款项已退回",
        -1: "余额不足/未支付",
    }
    return hints.get(int(order.state), "订单处理中/请稍候")


def _accepted(order: Order) -> web.Response:
    numbers = {"ordersn": order.supplier_number, "external_orderno": order.number}
    return _ok("下单成功", {**numbers, "total_price": order.details["total"]})


def _ok(msg: str, data: object) -> web.Response:
    return reply({"code": 200, "msg": msg, "data": data})


def _codes(response: web.Response) -> Iterable[str]:
    """An HTTP status other than 200, `code`, and the states of all orders in the data. Products have states of their
    own.
    """
    members = envelope(response)
    data = members.get("data")
    entries = data if isinstance(data, list) else [data]
    orders = [entry for entry in entries if isinstance(entry, dict) and "ordersn" in entry and "status" in entry]
    codes = [f"HTTP {response.status}"] if response.status != 200 else []
    codes += [f"code {members['code']}"] if "code" in members else []
    return [*codes, *(f"status {order['status']}" for order in orders)]


SHOP: Final = Shop(
    title="Kasushou 卡速售",
    open=Kasushou,
    account={"user_id": USER_ID, "apikey": APIKEY},
    scenarios=goods.SCENARIOS,
    behaviours=goods.BEHAVIOURS,
    codes=goods.CODES,
    left_open=goods.OPEN,
    callbacks=tuple(CALLBACKS),
    max_units=MAX_UNITS,
)
