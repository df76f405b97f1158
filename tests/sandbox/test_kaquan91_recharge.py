"""The recharges of 91, spoken by hand: what the sandbox takes, refuses and calls back, whoever the client is."""

import hashlib
import itertools
import json
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode

import pytest

from reward_sandbox.kaquan91_recharge import APPID, APPSECRET, CALLBACKS
from reward_sandbox.scenario import GENUINE

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
NAME = "张三 a+b@例.example"


def digest(fields: dict[str, str], *, every_value: bool = False, secret: str = APPSECRET) -> str:
    """The signing rule by hand; `every_value` is its other reading."""
    pairs = [
        f"{key}={quote_plus(fields[key]) if every_value or key == 'notify_url' else fields[key]}"
        for key in sorted(fields)
        if fields[key] and key not in ("sign", "check", "pageIndex", "pageSize")
    ]
    text = "&".join([*pairs, f"appsecret={secret}"])
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper()


class Caller:
    """A client of the sandbox that is none of ours."""

    def __init__(self, sandbox: Any, client: Any, clock: Any) -> None:
        self.sandbox = sandbox
        self._client = client
        self._clock = clock

    async def call(self, path: str, fields: dict[str, str], *, every_value: bool = False) -> Any:
        """Signed unless `sign` is given."""
        signed = {"sign": digest(fields, every_value=every_value), **fields}
        return await self._client.post(
            f"{self.sandbox.url}/kaquan91_recharge/dcapi/{path}", urlencode(signed).encode(), **FORM
        )

    def order(self, **changes: str) -> dict[str, str]:
        """The fields of an order; an empty value leaves its field out."""
        fields = {
            "appid": APPID,
            "card_id": "521",
            "account": "13800138000",
            "number": "1",
            "out_order_id": "R1",
            "datetime": str(int(self._clock.now)),
            **changes,
        }
        return {name: value for name, value in fields.items() if value}

    async def pay(self, **changes: str) -> Any:
        return await self.call("pay", self.order(**changes))

    async def ask(self, path: str, **fields: str) -> Any:
        return await self.call(path, {"appid": APPID, **fields})

    @property
    def orders(self) -> list[dict[str, Any]]:
        return list(self.sandbox.books("kaquan91_recharge")["orders"])

    async def control(self, action: str, **body: object) -> None:
        await self.sandbox.order("kaquan91_recharge", action, **body)


@pytest.fixture
async def caller(sandbox: Any, client: Any, clock: Any) -> Caller:
    return Caller(sandbox, client, clock)


# --- Orders -----------------------------------------------------------------------------------------------------------

OPTIONAL = {"money": "49.50", "money_type": "2", "notify_url": "http://127.0.0.1:9/cb?a=1&b=%2F", "check": "1"}


@pytest.mark.parametrize("left_out", [set(some) for n in range(5) for some in itertools.combinations(OPTIONAL, n)])
async def test_any_optional_field_may_be_left_out_and_the_rest_is_signed(caller: Caller, left_out: set[str]) -> None:
    """`money` in yuan without its type isn't whole fen, and that alone is refused."""
    fields = {name: value for name, value in OPTIONAL.items() if name not in left_out}
    fits = left_out & {"money", "money_type"} != {"money_type"}
    assert (await caller.pay(**fields))["code"] == int(fits)
    assert len(caller.orders) == int(fits)


async def test_the_stock_check_is_never_signed(caller: Caller) -> None:
    fields = caller.order(check="1")
    text = "&".join([*(f"{key}={fields[key]}" for key in sorted(fields)), f"appsecret={APPSECRET}"])
    signed = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper()
    assert (await caller.call("pay", {**fields, "sign": signed}))["msg"] == "签名错误"
    assert (await caller.call("pay", fields))["code"] == 1


@pytest.mark.parametrize("missing", ["appid", "card_id", "account", "number", "out_order_id", "datetime", "sign"])
async def test_a_missing_field_is_refused(caller: Caller, missing: str) -> None:
    fields = {name: value for name, value in caller.order().items() if name != missing}
    assert (await caller.call("pay", {**fields, **({"sign": ""} if missing == "sign" else {})}))["code"] == 0
    assert caller.orders == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"card_id": "99"}, "产品不存在"),
        ({"card_id": "522"}, "产品已下架"),
        ({"card_id": "554", "money": "4950"}, "订单金额低于平台价格"),
        ({"card_id": "555", "check": "1"}, "库存不足"),
        ({"card_id": "558"}, "充值账号错误"),
        ({"card_id": "559"}, "下单时间戳错误"),
        ({"card_id": "560", "number": "2"}, "购买数量错误"),
        ({"number": "101"}, "购买数量错误"),
        ({"check": "2"}, "check参数错误"),
        ({"money": "12"}, "订单金额低于平台价格"),
        ({"appid": "1"}, "appid不存在"),
        ({"sign": "0" * 32}, "签名错误"),
    ],
)
async def test_every_refusal_has_its_text_and_books_nothing(caller: Caller, changes: dict[str, str], text: str) -> None:
    answer = await caller.pay(**changes)
    assert (answer["code"], answer["msg"], answer["result"]) == (0, text, None)
    assert caller.orders == []


async def test_too_little_money_is_refused(caller: Caller) -> None:
    await caller.control("balance", balance="48.99")
    assert (await caller.pay())["msg"] == "余额不足"
    await caller.control("balance", balance="49.00")
    assert (await caller.pay())["code"] == 1


async def test_an_order_nobody_can_serve_yet_waits(caller: Caller) -> None:
    """Without the stock check, or with a check of 0."""
    assert (await caller.pay(card_id="535"))["code"] == 1
    assert (await caller.pay(card_id="535", check="0", out_order_id="R2"))["code"] == 1
    assert (await caller.ask("queryOrder", out_order_id="R1"))["result"]["status"] == 7


@pytest.mark.parametrize("path", ["pay", "queryOrder", "drawOrder", "confirmOrder", "queryCash", "queryCardList"])
async def test_an_address_that_is_not_registered_is_refused(caller: Caller, path: str) -> None:
    await caller.control("mode", allow_list="others")
    fields = caller.order() if path == "pay" else {"appid": APPID, "order_id": "API1"}
    assert (await caller.call(path, fields))["msg"] == "IP地址未登记"


@pytest.mark.parametrize(("mode", "charges"), [("reject", 1), ("replay", 1), ("double", 2)])
async def test_a_number_that_comes_again(caller: Caller, mode: str, charges: int) -> None:
    await caller.control("mode", duplicates=mode)
    first, second = await caller.pay(), await caller.pay()
    assert second["code"] == int(mode != "reject")
    assert (second["result"] == first["result"]) is (mode == "replay")
    assert len(caller.orders) == charges


@pytest.mark.parametrize(
    ("mode", "every_value", "taken"),
    [
        ("notify-only", False, True),
        ("notify-only", True, False),
        ("encode-all", False, False),
        ("encode-all", True, True),
        ("lenient", False, True),
        ("lenient", True, True),
    ],
)
async def test_two_readings_of_the_signing_rule(caller: Caller, mode: str, every_value: bool, taken: bool) -> None:
    await caller.control("mode", sign_mode=mode)
    answer = await caller.call("pay", caller.order(card_id="580", account=NAME), every_value=every_value)
    assert answer["code"] == int(taken)
    assert [order["recipient"] for order in caller.orders] == [NAME] * taken


@pytest.mark.parametrize(("mode", "code"), [("notify-only", 0), ("encode-all", 1), ("lenient", 1)])
async def test_an_address_encoded_once_more_fits_one_reading(
    caller: Caller, receiver: Any, mode: str, code: int
) -> None:
    """The one public client encodes the callback address before it signs and sends it."""
    await caller.control("mode", sign_mode=mode)
    order = caller.order(notify_url=quote_plus(receiver.url))
    assert (await caller.call("pay", order, every_value=mode != "notify-only"))["code"] == code
    if code:
        assert b"out_order_id=R1" in await receiver.arrived.get()


# --- Queries, cancels, products ---------------------------------------------------------------------------------------


async def test_the_suppliers_number_wins_over_ours(caller: Caller) -> None:
    first = (await caller.pay(card_id="525"))["result"]
    await caller.pay(card_id="525", out_order_id="R2")
    found = await caller.ask("queryOrder", order_id=first, out_order_id="R2")
    assert found["result"]["out_order_id"] == "R1"
    assert (await caller.ask("queryOrder", order_id="API0", out_order_id="R2"))["msg"] == "订单不存在"
    assert (await caller.ask("queryOrder", order_id="", out_order_id="R2"))["result"]["out_order_id"] == "R2"
    assert (await caller.ask("queryOrder"))["code"] == 0


async def test_a_success_confirms_itself_after_a_day(caller: Caller, clock: Any, until: Any) -> None:
    await caller.pay()
    await until(lambda: caller.orders[0]["state"] == 3)
    for seconds, status in ((86_399, 3), (1, 4)):
        clock.now += seconds
        assert (await caller.ask("queryOrder", out_order_id="R1"))["result"]["status"] == status


@pytest.mark.parametrize("state", [2, 3, 4, 5, 6, 7])
async def test_nothing_but_a_waiting_order_is_taken_down(caller: Caller, state: int) -> None:
    await caller.pay(card_id="525")
    await caller.control("state", number="R1", state=state)
    assert (await caller.ask("drawOrder", out_order_id="R1"))["code"] == 0
    assert caller.orders[0]["refunded"] == "0.00"


async def test_a_cancel_alone_counts_in_fen(caller: Caller) -> None:
    """4900 there, "49.00" and "49.0" elsewhere."""
    bought = await caller.pay(card_id="630")
    taken_down = await caller.ask("drawOrder", order_id=bought["result"])
    found = await caller.ask("queryOrder", out_order_id="R1")
    prices = (bought["other"]["price"], taken_down["result"]["price"], found["result"]["price"])
    assert prices == ("49.0", 4900, "49.00")
    assert (found["result"]["status"], caller.orders[0]["refunded"]) == (6, "49.00")


async def test_confirming_is_for_what_is_done(caller: Caller) -> None:
    bought = await caller.pay(card_id="525")
    assert (await caller.ask("confirmOrder", order_id=bought["result"]))["code"] == 0
    await caller.control("state", number="R1", state=3)
    assert await caller.ask("confirmOrder", order_id=bought["result"]) == {"code": 1, "msg": "操作成功", "result": None}
    assert (await caller.ask("queryOrder", out_order_id="R1"))["result"]["status"] == 4


async def test_pages_of_products_are_asked_for_beside_the_signature(caller: Caller) -> None:
    """At most 50 on one."""
    first = await caller.ask("queryCardList", pageIndex="1", pageSize="50")
    second = await caller.ask("queryCardList", pageIndex="2", pageSize="50")
    assert len(first["result"]) == 50
    assert not {product["id"] for product in first["result"]} & {product["id"] for product in second["result"]}
    assert (await caller.ask("queryCardList", pageIndex="1", pageSize="51"))["code"] == 0
    assert (await caller.ask("queryCardInfo", id="521"))["result"]["price"] == "49.00"
    assert (await caller.ask("queryCardInfo", id="99"))["code"] == 0


# --- Callbacks --------------------------------------------------------------------------------------------------------

WELL_SIGNED = {GENUINE, "stale-2", "extra-field", "evidence", "altered", "unheard", "never-heard"} | {
    "unknown-number",
    "other-reference",
}


@pytest.mark.parametrize("name", [*(name for name in CALLBACKS if name != "stale-STATE"), "stale-2"])
async def test_what_each_callback_says(caller: Caller, receiver: Any, name: str) -> None:
    """And whether its signature is what the rule gives for the fields that it has."""
    number = (await caller.pay(card_id="525", notify_url=receiver.url))["result"]
    await caller.control("callback", number="R1", name=name)
    body = (await receiver.arrived.get()).decode()
    fields = json.loads(body) if name == "json" else dict(parse_qsl(body, keep_blank_values=True))
    honest = name in WELL_SIGNED or name == "json"
    assert (fields.get("sign") == digest(fields)) is honest
    every_value = digest(fields, every_value=True)
    assert (fields.get("sign", "").upper() == every_value) is (
        name in {"evidence-encoded", "lower-case-sign"} or (honest and name not in {"evidence", "extra-field"})
    )
    assert (fields["out_order_id"] == "R1") is (name not in {"unknown-number", "other-number"})
    assert (fields["order_id"] == number) is (name != "other-reference")


@pytest.mark.parametrize("name", ["no-such-name", "stale-", "stale-x", ""])
async def test_a_callback_that_does_not_exist_is_refused(caller: Caller, receiver: Any, name: str) -> None:
    await caller.pay(card_id="525", notify_url=receiver.url)
    with pytest.raises(ValueError, match="no such callback"):
        await caller.control("callback", number="R1", name=name)


async def test_no_callback_without_an_address(caller: Caller, until: Any) -> None:
    await caller.pay()
    await until(lambda: caller.orders[0]["state"] == 3)
    assert caller.orders[0]["callbacks"] == []


@pytest.mark.parametrize("answer", [b" success", b"success\n", b"SUCCESS", b'{"msg":"success"}', b"ok", b""])
async def test_nothing_but_the_exact_answer_ends_the_repeats(caller: Caller, receiver: Any, answer: bytes) -> None:
    receiver.answers = [answer, b"success"]
    await caller.pay(notify_url=receiver.url)
    for _ in range(2):
        await receiver.arrived.get()
    attempts = [attempt["answer"] for attempt in caller.orders[0]["callbacks"]]
    assert attempts[0] == answer.decode()
    assert not caller.orders[0]["callbacks"][0]["accepted"]


async def test_answers_that_get_lost_bring_repeats(caller: Caller, receiver: Any, until: Any) -> None:
    """Three are lost, the fourth arrives."""
    receiver.answers = [b"success"]
    await caller.pay(card_id="610", notify_url=receiver.url)
    await until(lambda: len(receiver.bodies) == 4 and caller.orders[0]["callbacks"][-1]["accepted"])
    assert [attempt["accepted"] for attempt in caller.orders[0]["callbacks"]] == [False, False, False, True]
