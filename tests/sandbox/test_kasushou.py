"""Kasushou, spoken by hand: exact JSON bytes under a SHA-1 header, polling, callbacks with escaped slashes."""

import asyncio
import hashlib
import json
from typing import Any
from urllib.parse import parse_qsl

import pytest

from reward_sandbox import CANARY
from reward_sandbox._kasushou_wire import (
    PROXIES,
    SPELLINGS,
    callback_signature,
    request_signature,
    request_signed_well,
)
from reward_sandbox.kasushou import APIKEY, CALLBACKS, USER_ID
from reward_sandbox.scenario import GENUINE
from reward_sandbox.scenarios.kasushou import SCENARIOS

KEY = "H0YnuPpcVtx7rQdMTbjN6932s5oDOqFa"
SAMPLE = (
    '{"attach":{"recharge_account":"111111","lblName1":"222222","lblName2":"333333"},'
    '"external_orderno":"D091952644768932429824","id":1,"mark":"","quantity":1,"safe_price":"2.2",'
    '"url":"http://demo.kasushou.com/notify"}'
)
SORTED_SAMPLE = SAMPLE.replace(
    '{"recharge_account":"111111","lblName1":"222222","lblName2":"333333"}',
    '{"lblName1":"222222","lblName2":"333333","recharge_account":"111111"}',
)
CALLBACK = {
    "external_orderno": "S202401010001",
    "has_back_money": "0.00",
    "ordersn": "API091952628603547942912",
    "recharge_hints": "订单处理完成/期待您的下次光临",
    "status": "3",
    "time": "1704067210789",
    "total_price": "2.00",
}


@pytest.mark.parametrize(
    ("timestamp", "body", "digest"),
    [
        (
            "1696645385740",
            '{"day":10,"external_orderno":"","ordersn":"D100759082558859640832"}',
            "15b8f541eb10e3fbb33efd92c8d52d50ddca0784",
        ),
        ("1696644296195", SAMPLE, "273def8fbcf3d307d3aa75a4e6014b44b6504c8e"),
        ("1696644296195", SORTED_SAMPLE, "2d6fd737b171b3a7fe3c859c9d9d12e587ff20aa"),
        ("1696644296195", "{}", "421cb283b476a67aeeda02ad0da8b774cf3fa301"),
        (
            "1704067200123",
            (
                '{"external_orderno":"S202401010001","id":2909,"mark":"测试/备注","quantity":1,"safe_price":"2.00",'
                '"url":"https://shop.example.com/cb/kss?a=1&b=2"}'
            ),
            "b48fec8862fb2b8620a3e3ca3901abf39a9bf86a",
        ),
        (
            "1704067200456",
            '{"day":"0","external_orderno":"S202401010001"}',
            "a113030a9cef0901d2941fc618125d740e110443",
        ),
    ],
)
def test_request_vectors(timestamp: str, body: str, digest: str) -> None:
    """The signing page's rule gives the known digest of every request, and the check takes it."""
    assert request_signature(timestamp, body.encode(), KEY) == digest
    assert request_signed_well(timestamp, body.encode(), digest, KEY)
    assert not request_signed_well(timestamp, body.encode(), digest.upper(), KEY)
    assert not request_signed_well(timestamp, body.encode(), digest, "other")


@pytest.mark.parametrize(
    "body",
    [
        SAMPLE.replace("/", "\\/"),
        '{"id":1,"external_orderno":"A"}',
        '{"external_orderno": "A","id":1}',
        '{"external_orderno":"\\u6d4b","id":1}',
        '{"a":"\\u0026"}',
        '{"a":1,"a":2}',
        "[]",
        "",
    ],
)
def test_other_spellings_are_refused(body: str) -> None:
    """Escaped slashes, unsorted keys, spaces and ASCII escapes fail although the digest fits their bytes."""
    assert not request_signed_well("1", body.encode(), request_signature("1", body.encode(), KEY), KEY)


def test_escaped_slash_vector() -> None:
    """The sample with escaped slashes has the digest printed for the wrong spelling."""
    wrong = request_signature("1696644296195", SAMPLE.replace("/", "\\/").encode(), KEY)
    assert wrong == "4cef1e5cda7cdd19e0ee5e8250fc7666db045e4c"


@pytest.mark.parametrize(
    ("fields", "digest"),
    [
        (CALLBACK, "f50cc61673e58f2fe1d7ef3cc11643c9a9de60bb"),
        ({**CALLBACK, "card_list": [1], "express_list": "x", "sign": "y"}, "f50cc61673e58f2fe1d7ef3cc11643c9a9de60bb"),
        (
            {
                **CALLBACK,
                "has_back_money": "2.00",
                "recharge_hints": "订单已退款",
                "status": "5",
                "time": "1704067230789",
            },
            "cd79afa1d487a16ddc05076be929674ce3380508",
        ),
        ({**CALLBACK, "status": 3}, "4c2a121df73354662662780233bef207cd2c254c"),
        ({"time": "1695073529531", "id": "1"}, "00b95c6e722203142c8b77908284468fea24ea1f"),
    ],
)
def test_callback_vectors(fields: dict[str, object], digest: str) -> None:
    """Callbacks are signed with escaped slashes and without their cards."""
    assert callback_signature(fields, KEY) == digest
    assert digest != "3fbe9822d6a392241ecab64bf7ccf8d2a0a8f46f"


async def call(sandbox: Any, client: Any, clock: Any, path: str, **fields: object) -> Any:
    body = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    timestamp = str(int(clock.now * 1000))
    sign = hashlib.sha1(timestamp.encode() + body + APIKEY.encode(), usedforsecurity=False).hexdigest()
    url = f"{sandbox.url}/kasushou/api/v1/{path}"
    return await client.post(url, body, UserId=USER_ID, Timestamp=timestamp, Sign=sign)


async def buy(sandbox: Any, client: Any, clock: Any, **changes: object) -> Any:
    fields = {"id": 2909, "quantity": 1, "external_orderno": "S1", "safe_price": "98.50", "mark": "", **changes}
    return await call(sandbox, client, clock, "order/buy", **fields)


async def looks(sandbox: Any, client: Any, clock: Any, number: str = "S1") -> dict[str, Any]:
    answer = await call(sandbox, client, clock, "order/info", external_orderno=number, day="0")
    (order,) = answer["data"]
    return dict(order)


async def test_cards_come_by_the_detail_call(sandbox: Any, client: Any, clock: Any) -> None:
    """A buy is only taken; the detail call passes 1, 2, 3 and brings the cards with 3."""
    answer = await buy(sandbox, client, clock, quantity=2)
    assert (answer["code"], answer["msg"]) == (200, "下单成功")
    assert answer["data"]["external_orderno"] == "S1"
    assert answer["data"]["total_price"] == "197.00"
    states = []
    while (order := await looks(sandbox, client, clock))["status"] != 3:
        assert order["card_list"] == []
        states.append(order["status"])
    assert states == sorted(states)
    assert set(states) <= {1, 2}
    assert len({card["card_password"] for card in order["card_list"]}) == 2
    assert all(CANARY in value for card in order["card_list"] for value in card.values())
    (booked,) = sandbox.books("kasushou")["orders"]
    assert (booked["charged"], booked["outcome"], booked["delivered"]) == ("197.00", "delivered", order["card_list"])


async def test_delayed_cards(sandbox: Any, client: Any, clock: Any, until: Any) -> None:
    """card-delayed shows state 3 with an empty list for three looks before the cards come."""
    await buy(sandbox, client, clock, id=2910)
    await until(lambda: sandbox.books("kasushou")["orders"][0]["state"] == 3)
    seen = []
    while not (order := await looks(sandbox, client, clock))["card_list"]:
        seen.append(order["status"])
    assert seen[:3] == [3, 3, 3]
    assert order["status"] == 3


async def test_topup_needs_an_account(sandbox: Any, client: Any, clock: Any, until: Any) -> None:
    """Virtual goods check attach.recharge_account against the template and deliver no cards."""
    missing = await buy(sandbox, client, clock, id=2911)
    wrong = await buy(sandbox, client, clock, id=2911, attach={"recharge_account": "12345"})
    assert [missing["code"], wrong["code"]] == [400, 400]
    good = await buy(sandbox, client, clock, id=2911, attach={"recharge_account": "13800138000"})
    assert good["code"] == 200
    await until(lambda: sandbox.books("kasushou")["orders"][0]["outcome"] == "delivered")
    order = await looks(sandbox, client, clock)
    assert order["card_list"] == []
    assert order["recharge_info"] == [{"n": "充值账号", "v": "13800138000", "k": "recharge_account"}]


async def test_refunded_order(sandbox: Any, client: Any, clock: Any, until: Any) -> None:
    """refunded ends in 5 with the whole amount paid back and no cards."""
    await buy(sandbox, client, clock, id=2914)
    await until(lambda: sandbox.books("kasushou")["orders"][0]["state"] == 5)
    order = await looks(sandbox, client, clock)
    assert (order["has_back_money"], order["total_price"], order["card_list"]) == ("98.50", "98.50", [])
    assert sandbox.books("kasushou")["balance"] == "100000000.00"


async def test_silent_order(sandbox: Any, client: Any, clock: Any, until: Any) -> None:
    """silent is charged and delivered though the buy call is never answered."""
    pending = asyncio.create_task(buy(sandbox, client, clock, id=2913))
    await until(lambda: sandbox.books("kasushou")["orders"])
    await until(lambda: sandbox.books("kasushou")["orders"][0]["outcome"] == "delivered")
    assert len((await looks(sandbox, client, clock))["card_list"]) == 1
    assert not pending.done()
    pending.cancel()


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 2912},
        {"id": 1},
        {"id": "2909"},
        {"quantity": 0},
        {"quantity": 101},
        {"quantity": "1"},
        {"safe_price": "98.49"},
        {"safe_price": 98.5},
        {"url": ""},
        {"mark": None},
        {"attach": "x"},
    ],
)
async def test_refusals_charge_nothing(sandbox: Any, client: Any, clock: Any, changes: dict[str, object]) -> None:
    """Empty stock, unknown products, wrong types and a low price guard are code 400 with nothing booked."""
    answer = await buy(sandbox, client, clock, **changes)
    assert answer["code"] == 400
    assert sandbox.books("kasushou")["orders"] == []


@pytest.mark.parametrize("shift", [-301, 301])
async def test_clock_window(sandbox: Any, client: Any, clock: Any, shift: float) -> None:
    """A time stamp more than five minutes off is refused."""
    late = type(clock)()
    late.now += shift
    assert (await call(sandbox, client, late, "user/info"))["code"] == 400
    late.now = clock.now + shift / 301 * 300
    assert (await call(sandbox, client, late, "user/info"))["data"] == {"balance": "100000000.00"}


async def test_duplicate_is_refused(sandbox: Any, client: Any, clock: Any) -> None:
    """The second order under a number is refused, and the first stays the only charge."""
    await buy(sandbox, client, clock)
    assert (await buy(sandbox, client, clock))["code"] == 400
    assert [order["requests"] for order in sandbox.books("kasushou")["orders"]] == [2]


async def test_detail_looks_up_many(sandbox: Any, client: Any, clock: Any) -> None:
    """Several numbers are found at once, newest first, unknown ones left out; day limits how far back."""
    await buy(sandbox, client, clock)
    clock.now += 31 * 86400
    await buy(sandbox, client, clock, external_orderno="S2")
    both = await call(sandbox, client, clock, "order/info", external_orderno="S1,nobody,S2", day="0")
    assert [order["external_orderno"] for order in both["data"]] == ["S2", "S1"]
    recent = await call(sandbox, client, clock, "order/info", external_orderno="S1,S2")
    assert [order["external_orderno"] for order in recent["data"]] == ["S2"]
    unknown = await call(sandbox, client, clock, "order/info", external_orderno="nobody", day="0")
    assert (unknown["code"], unknown["data"]) == (200, [])


async def test_callback_is_signed_and_repeated(
    sandbox: Any, client: Any, clock: Any, receiver: Any, until: Any
) -> None:
    """The callback carries the cards unsigned and comes again until the answer is exactly ok."""
    receiver.answers = [b"fail", b"OK", b"ok"]
    await buy(sandbox, client, clock, url=receiver.url)
    for _ in range(3):
        fields = json.loads(await receiver.arrived.get())
        assert len(fields.pop("card_list")) == 1
        sign = fields.pop("sign")
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).replace("/", "\\/")
        signed = f"{fields['time']}{text}{APIKEY}".encode()
        assert sign == hashlib.sha1(signed, usedforsecurity=False).hexdigest()
        assert (fields["status"], fields["external_orderno"]) == ("3", "S1")
    await until(lambda: sandbox.books("kasushou")["orders"][0]["callbacks"][-1]["accepted"])
    attempts = sandbox.books("kasushou")["orders"][0]["callbacks"]
    assert [attempt["accepted"] for attempt in attempts] == [False, False, True]


async def test_callback_as_a_form(start: Any, client: Any, clock: Any, receiver: Any) -> None:
    """In form mode the card list is JSON text in one field, and the signature is the same."""
    sandbox = await start(callback_format="form")
    receiver.answers = [b"ok"]
    await buy(sandbox, client, clock, url=receiver.url)
    fields: dict[str, object] = dict(parse_qsl((await receiver.arrived.get()).decode()))
    assert receiver.content_types == ["application/x-www-form-urlencoded"]
    assert CANARY in json.loads(str(fields["card_list"]))[0]["card_no"]
    assert fields["sign"] == callback_signature(fields, APIKEY)


async def test_close_is_followed_by_a_callback(start: Any, client: Any, clock: Any, receiver: Any) -> None:
    """A close call only takes the wish; the callback with 4 and the refund is the result."""
    sandbox = await start(step_seconds=3600)
    receiver.answers = [b"ok"]
    number = (await buy(sandbox, client, clock, url=receiver.url))["data"]["ordersn"]
    assert (await call(sandbox, client, clock, "order/close", ordersn=number))["code"] == 200
    assert json.loads(await receiver.arrived.get())["status"] == "4"
    assert (await looks(sandbox, client, clock))["has_back_money"] == "98.50"
    assert (await call(sandbox, client, clock, "order/close", ordersn=number))["code"] == 400


async def test_goods(sandbox: Any, client: Any, clock: Any) -> None:
    """List, info and template describe the goods that can be bought."""
    listed = [
        (await call(sandbox, client, clock, "goods/list", page=page, limit=100))["data"]["list"] for page in (1, 2)
    ]
    assert len(listed[0]) == 100
    ids = [goods["id"] for page in listed for goods in page]
    # One of them is known to nobody.
    assert len(ids) == len(set(ids)) == len(SCENARIOS) - 1
    info = (await call(sandbox, client, clock, "goods/info", id=2911))["data"]
    assert (info["goods_type"], info["goods_price"], info["attach"][0]["key"]) == (2, "49.50", "recharge_account")
    assert (await call(sandbox, client, clock, "goods/attach", goods_id="2909"))["data"] == []


async def test_goods_of_one_category(sandbox: Any, client: Any, clock: Any) -> None:
    """The category tree leads to the products of a kind, and a keyword to those of a name."""
    (top,) = (await call(sandbox, client, clock, "goods/cate"))["data"]
    (topups,) = [child["id"] for child in top["children"] if child["name"] == "直充"]
    found = (await call(sandbox, client, clock, "goods/list", cate_id=topups))["data"]["list"]
    assert {goods["goods_type"] for goods in found} == {2}
    assert 2911 in {goods["id"] for goods in found}
    found = (await call(sandbox, client, clock, "goods/list", keyword="延迟出卡"))["data"]["list"]
    assert [goods["id"] for goods in found] == [2910]


async def test_moved_prices_are_logged(sandbox: Any, client: Any, clock: Any) -> None:
    """The price log tells old and new price, and at most a hundred entries a page."""
    assert (await call(sandbox, client, clock, "goods/pricelog"))["data"] == {"list": [], "total": 0}
    await sandbox.order("kasushou", "price", product="2909", price="99.00")
    (entry,) = (await call(sandbox, client, clock, "goods/pricelog", day=3))["data"]["list"]
    assert (entry["goods_id"], entry["price"], entry["price1"], entry["price_type"]) == (2909, "99.00", "98.50", 1)
    assert (await call(sandbox, client, clock, "goods/pricelog", limit=101))["code"] == 400


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"id": 2931}, "商品不存在"),
        ({"id": 2932}, "商品已暂停销售"),
        ({"id": 2933}, "商品已禁止销售"),
        ({"id": 2937}, "购买数量错误，允许5到100"),
        ({"id": 2938, "quantity": 6}, "购买数量错误，允许1到5"),
        ({"id": 2939, "attach": {"recharge_account": "13800138000"}}, "缺少下单参数：lblName9"),
        ({"id": 2940, "attach": {"recharge_account": "13800138000"}}, "充值账号错误"),
        (
            {"id": 2921, "attach": {"recharge_account": "13800138000", "lblName1": "双线一区"}},
            "缺少下单参数：zone_role",
        ),
    ],
)
async def test_refusals_say_why(sandbox: Any, client: Any, clock: Any, changes: dict[str, object], text: str) -> None:
    """Each in its own words, and all with code 400."""
    answer = await buy(sandbox, client, clock, **changes)
    assert answer == {"code": 400, "msg": text}


async def test_bounds_and_states_stand_in_the_product(sandbox: Any, client: Any, clock: Any) -> None:
    """What the shop refuses can be read beforehand."""
    goods = [(await call(sandbox, client, clock, "goods/info", id=number))["data"] for number in (2932, 2933, 2938)]
    assert [one["status"] for one in goods] == [2, 3, 1]
    assert (goods[2]["start_count"], goods[2]["end_count"]) == (1, 5)


async def test_an_unknown_number_may_be_refused(start: Any, client: Any, clock: Any) -> None:
    """Some sites answer with a text instead of an empty list, and with an HTTP status of the same number."""
    sandbox = await start(not_found="refused")
    unknown = await call(sandbox, client, clock, "order/info", external_orderno="nobody", day="0")
    assert unknown == {"code": 400, "msg": "订单不存在"}


async def test_the_guard_may_be_for_all_units(start: Any, client: Any, clock: Any) -> None:
    """In that mode the price of one is too little for two."""
    sandbox = await start(safe_price="total")
    assert (await buy(sandbox, client, clock, quantity=2))["code"] == 400
    assert (await buy(sandbox, client, clock, quantity=2, safe_price="197.00"))["code"] == 200


async def test_other_addresses_only(sandbox: Any, client: Any, clock: Any) -> None:
    """With the allow-list on, every call is refused."""
    await sandbox.order("kasushou", "mode", allow_list="others")
    assert (await call(sandbox, client, clock, "user/info"))["msg"] == "ip not allowed"


async def test_a_fast_clock_refuses_right_time_stamps(sandbox: Any, client: Any, clock: Any) -> None:
    """The site takes its own time for the right one."""
    await sandbox.order("kasushou", "mode", site_clock="fast")
    assert (await call(sandbox, client, clock, "user/info"))["msg"] == "时间戳错误"


async def test_a_replay_must_ask_for_the_same(start: Any, client: Any, clock: Any) -> None:
    """In replay mode the first order comes again, unless something else is asked for under its number."""
    sandbox = await start(duplicates="replay")
    first = await buy(sandbox, client, clock)
    assert await buy(sandbox, client, clock) == first
    assert (await buy(sandbox, client, clock, quantity=2))["code"] == 400
    assert len(sandbox.books("kasushou")["orders"]) == 1


@pytest.mark.parametrize("proxy", PROXIES)
def test_what_a_proxy_rewrites_is_not_signed_any_more(proxy: str) -> None:
    """Same members, other bytes: neither the digest nor the spelling fits."""
    body = SORTED_SAMPLE.replace('"mark":""', '"mark":"测试"').encode()
    sign = request_signature("1", body, KEY)
    assert request_signed_well("1", body, sign, KEY)
    rewritten = PROXIES[proxy](json.loads(body))
    assert json.loads(rewritten) == json.loads(body)
    assert not request_signed_well("1", rewritten, sign, KEY)
    assert not request_signed_well("1", rewritten, request_signature("1", rewritten, KEY), KEY)


@pytest.mark.parametrize(
    ("form", "body", "fits"),
    [
        ("recursive", SAMPLE, False),
        ("recursive", SORTED_SAMPLE, True),
        ("ascii", '{"id":1,"mark":"\\u6d4b\\u8bd5/\\ud83c\\udf81"}', True),
        ("ascii", '{"id":1,"mark":"测试"}', False),
    ],
)
def test_compatible_sites_spell_otherwise(form: str, body: str, fits: bool) -> None:
    """Some sort the keys of inner objects, too; some escape everything beyond ASCII."""
    sign = request_signature("1", body.encode(), KEY)
    assert request_signed_well("1", body.encode(), sign, KEY, SPELLINGS[form]) is fits


_UNSIGNED = {"sign", "card_list", "express_list"}
_SIGNED_WELL = list(CALLBACKS)[: list(CALLBACKS).index("wrong-secret")]


@pytest.mark.parametrize("name", CALLBACKS)
async def test_callbacks_by_name(sandbox: Any, client: Any, clock: Any, receiver: Any, name: str) -> None:
    """Those before "wrong-secret" bear a signature that fits what they say, the others don't or are about no order."""
    receiver.answers = [b"ok"]
    await buy(sandbox, client, clock, url=receiver.url)
    await receiver.arrived.get()
    await sandbox.order("kasushou", "callback", name=name)
    body = (await receiver.arrived.get()).decode()
    fields: dict[str, Any] = json.loads(body) if body.startswith("{") else dict(parse_qsl(body))
    sign = fields.get("sign", "")
    if name == "product-notice":
        fields = {key: fields[key] for key in ("id", "time")}
    signed = {key: value for key, value in fields.items() if key not in _UNSIGNED}
    text = json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if name != "raw-slashes":
        text = text.replace("/", "\\/")
    digest = hashlib.sha1(f"{fields.get('time')}{text}{APIKEY}".encode(), usedforsecurity=False).hexdigest()
    fits = sign == (digest.upper() if name == "upper-case-sign" else digest)
    assert fits is (name in _SIGNED_WELL or name == "no-number")
    if name == "no-number":
        assert "external_orderno" not in fields


async def test_a_genuine_callback_is_the_same_every_time(
    sandbox: Any, client: Any, clock: Any, receiver: Any, until: Any
) -> None:
    """Its time is the one of the state, so that a repetition is byte for byte the first one."""
    receiver.answers = [b"ok"]
    await buy(sandbox, client, clock, url=receiver.url)
    first = await receiver.arrived.get()
    clock.now += 100
    await sandbox.order("kasushou", "callback", name=GENUINE)
    assert await receiver.arrived.get() == first


async def test_a_close_may_be_forgotten_or_refused(start: Any, client: Any, clock: Any) -> None:
    """The wish is taken and nothing comes of it, or it is refused; the order stays as it was."""
    sandbox = await start(step_seconds=3600)
    for number, code in ((3062, 200), (3063, 400)):
        bought = await buy(sandbox, client, clock, id=number, external_orderno=f"S{number}")
        closed = await call(sandbox, client, clock, "order/close", ordersn=bought["data"]["ordersn"])
        assert closed["code"] == code
        assert (await looks(sandbox, client, clock, f"S{number}"))["status"] == 2
