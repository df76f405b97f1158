"""91 cards, spoken by hand: what every client must meet, ours or not."""

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import pytest

from reward_sandbox import CANARY, shops
from reward_sandbox.kaquan91_card import APPID, APPSECRET
from reward_sandbox.scenario import Scenario

KIND = "kaquan91_card"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
BUY = "/dcapi/card/payOrder"
QUERY = "/dcapi/card/queryOrder"
LIST = "/dcapi/card/queryCardList"
DETAIL = "/dcapi/card/queryCardDetail"
FIELDS = {
    "appid": APPID,
    "card_id": "1841",
    "num": "1",
    "auto_confirm_hour": "10",
    "out_order_id": "C1",
    "order_money": "41.00",
}


def product(name: str) -> str:
    """The product number of a scenario."""
    found: Scenario = next(one for one in shops()[KIND].scenarios if one.name == name)
    return found.product


def digest(text: str) -> str:
    """MD5 in upper case."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper()


def good_text(fields: Mapping[str, str]) -> str:
    """Sorted, the empty ones left out, the secret at the end."""
    pairs = [f"{name}={value}" for name, value in sorted(fields.items()) if value]
    return "&".join([*pairs, f"appsecret={APPSECRET}"])


async def send(sandbox: Any, client: Any, path: str, fields: Mapping[str, str], sign: str = "") -> Any:
    """A call, well signed unless told otherwise."""
    signed = {**fields, "sign": sign or digest(good_text(fields))}
    return await client.post(f"{sandbox.url}/{KIND}{path}", urlencode(signed).encode(), **FORM)


async def buy(sandbox: Any, client: Any, **changes: str) -> Any:
    return await send(sandbox, client, BUY, {**FIELDS, **changes})


async def look(sandbox: Any, client: Any, number: str = "C1") -> Any:
    return await send(sandbox, client, QUERY, {"appid": APPID, "out_order_id": number})


def charges(sandbox: Any) -> list[str]:
    """What was charged, order by order."""
    return [order["charged"] for order in sandbox.books(KIND)["orders"]]


FREE = {**FIELDS, "order_money": "0", "remark": ""}

BAD_SIGNATURES = {
    "unsorted": digest("&".join([*(f"{k}={v}" for k, v in FREE.items() if v), f"appsecret={APPSECRET}"])),
    "lower case": digest(good_text(FREE)).lower(),
    "the empty field included": digest(
        "&".join([*(f"{k}={v}" for k, v in sorted(FREE.items())), f"appsecret={APPSECRET}"])
    ),
    "zero left out": digest(good_text({name: value for name, value in FREE.items() if value != "0"})),
    "without the secret": digest(good_text(FREE).rpartition("&")[0]),
    "another secret": digest(good_text(FREE).replace(APPSECRET, "other")),
    "not hexadecimal": "签名",
}


@pytest.mark.parametrize("mistake", BAD_SIGNATURES)
async def test_a_signature_is_checked_to_the_letter(sandbox: Any, client: Any, mistake: str) -> None:
    """Every spelling but the documented one is refused, and nothing is booked."""
    answer = await send(sandbox, client, BUY, FREE, BAD_SIGNATURES[mistake])
    assert (answer["code"], answer["msg"], answer["result"]) == (0, "签名错误", None)
    assert charges(sandbox) == []


async def test_the_documented_signature_is_taken(sandbox: Any, client: Any) -> None:
    """With an empty field left out and a zero left in."""
    assert (await send(sandbox, client, BUY, FREE))["code"] == 1


@pytest.mark.parametrize("missing", [*FIELDS, "sign"])
async def test_a_missing_field_is_refused_by_name(sandbox: Any, client: Any, missing: str) -> None:
    """Whichever it is."""
    fields = {name: value for name, value in FIELDS.items() if name != missing}
    signed = fields if missing == "sign" else {**fields, "sign": digest(good_text(fields))}
    answer = await client.post(f"{sandbox.url}/{KIND}{BUY}", urlencode(signed).encode(), **FORM)
    assert (answer["code"], answer["msg"]) == (0, f"缺少参数：{missing}")
    assert charges(sandbox) == []


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("num-above-maximum", {"num": "3"}, "购买数量错误"),
        ("type-1", {"num": "101"}, "购买数量错误"),
        ("type-1", {"num": "0"}, "购买数量错误"),
        ("warranty-not-sold", {"auto_confirm_hour": "48"}, "该卡券不支持所选质保时间"),
        ("unknown-product", {}, "卡券产品不存在"),
        ("stock-race", {}, "库存不足"),
        ("price-above", {"order_money": "41.05"}, "进价总额高于订单总额"),
        ("type-1", {"order_money": "41.001"}, "订单总额错误"),
    ],
)
async def test_refusals_differ_by_their_text_alone(
    sandbox: Any, client: Any, name: str, changes: dict[str, str], text: str
) -> None:
    """All are code 0, and nothing is booked."""
    answer = await buy(sandbox, client, card_id=product(name), **{"num": "1", "order_money": "200.00", **changes})
    assert (answer["code"], answer["msg"], answer["result"]) == (0, text, None)
    assert charges(sandbox) == []


@pytest.mark.parametrize(("name", "limit"), [("price-above", "41.06"), ("price-equal", "40.56"), ("price-below", "0")])
async def test_the_guard_compares_the_rounded_total(sandbox: Any, client: Any, name: str, limit: str) -> None:
    """Equal is enough, and 0 switches it off."""
    assert (await buy(sandbox, client, card_id=product(name), order_money=limit))["code"] == 1


async def test_an_address_that_is_not_registered_is_refused(sandbox: Any, client: Any) -> None:
    """Before anything else is told."""
    await sandbox.order(KIND, "mode", allow_list="others")
    answer = await buy(sandbox, client)
    assert answer["code"] == 0
    assert "IP" in answer["msg"]


@pytest.mark.parametrize(
    ("mode", "code", "booked"), [("reject", 0, ["40.06"]), ("replay", 1, ["40.06"]), ("double", 1, ["40.06", "40.06"])]
)
async def test_a_repeated_number_is_treated_as_the_mode_says(
    sandbox: Any, client: Any, mode: str, code: int, booked: list[str]
) -> None:
    """Refused, answered with the same cards, or bought a second time; a query lists all that was bought."""
    await sandbox.order(KIND, "mode", duplicates=mode)
    first = await buy(sandbox, client)
    second = await buy(sandbox, client)
    assert second["code"] == code
    assert (second["result"] == first["result"]) is (mode == "replay")
    assert charges(sandbox) == booked
    assert len((await look(sandbox, client))["result"]) == len(booked)


@pytest.mark.parametrize(("mode", "code", "result"), [("usual", 0, None), ("refused", 0, None), ("empty", 1, [])])
async def test_an_unknown_number_has_two_forms(sandbox: Any, client: Any, mode: str, code: int, result: Any) -> None:
    """A text, or an empty list."""
    await sandbox.order(KIND, "mode", not_found=mode)
    answer = await look(sandbox, client)
    assert (answer["code"], answer["result"]) == (code, result)


async def test_cards_come_late(sandbox: Any, client: Any, until: Any) -> None:
    """Nothing in the create answer, an entry without content in the next two looks, then the card."""
    created = await buy(sandbox, client, card_id=product("delayed"))
    assert (created["code"], created["result"]) == (1, [])
    assert created["other"]["pay_order_id"]
    for _ in range(2):
        (entry,) = (await look(sandbox, client))["result"]
        assert (entry["status"], entry["card_num"], entry["card_pass"]) == (1, "", "")
    await until(lambda: sandbox.books(KIND)["orders"][0]["state"] == 2)
    (entry,) = (await look(sandbox, client))["result"]
    assert CANARY in entry["card_num"]


async def test_fewer_cards_come_first(sandbox: Any, client: Any, until: Any) -> None:
    """Two of three, later all of them, and the first two are the same."""
    created = await buy(sandbox, client, card_id=product("partial"), num="3", order_money="123.00")
    assert len(created["result"]) == 2
    for _ in range(2):
        assert len((await look(sandbox, client))["result"]) == 2
    await until(lambda: len(sandbox.books(KIND)["orders"][0]["delivered"]) == 3)
    found = (await look(sandbox, client))["result"]
    assert [card["order_id"] for card in found[:2]] == [card["order_id"] for card in created["result"]]


@pytest.mark.parametrize("card_type", range(5))
async def test_an_entry_may_tell_its_type(sandbox: Any, client: Any, card_type: int) -> None:
    """As the manual's table has it; its sample leaves it out."""
    (told,) = (await buy(sandbox, client, card_id=product(f"told-type-{card_type}")))["result"]
    assert told["type"] == str(card_type)
    (untold,) = (await buy(sandbox, client, card_id=product(f"type-{card_type}"), out_order_id="C2"))["result"]
    assert "type" not in untold


async def test_times_may_be_unix_seconds(sandbox: Any, client: Any) -> None:
    """In the create answer and in the query."""
    created = await buy(sandbox, client, card_id=product("unix-times"))
    assert created["other"]["create_time"] == 1_800_000_000
    assert (await look(sandbox, client))["result"][0]["create_time"] == 1_800_000_000


async def test_every_card_has_a_state_of_its_own(sandbox: Any, client: Any, clock: Any) -> None:
    """One of two is cancelled; the other is confirmed when its warranty ends."""
    name = product("one-cancelled-at-once")
    created = await buy(sandbox, client, card_id=name, num="2", order_money="82.00")
    assert [card["status"] for card in created["result"]] == [2, 6]
    clock.now += 10 * 3600
    assert [card["status"] for card in (await look(sandbox, client))["result"]] == [3, 6]
    assert sandbox.books(KIND)["orders"][0]["refunded"] == "40.06"


async def test_a_dispute_takes_its_course_in_hours(sandbox: Any, client: Any, until: Any) -> None:
    """2, then 4, then 5, as the books' time passes."""
    await buy(sandbox, client, card_id=product("dispute-over"))
    for state in (4, 5):
        sandbox.forward(3601)
        await until(lambda state=state: sandbox.books(KIND)["orders"][0]["state"] == state)
        assert (await look(sandbox, client))["result"][0]["status"] == state


async def test_a_cancelled_card_is_paid_back(sandbox: Any, client: Any, until: Any) -> None:
    """An hour after the purchase."""
    await buy(sandbox, client, card_id=product("cancelled"))
    sandbox.forward(3601)
    await until(lambda: sandbox.books(KIND)["orders"][0]["state"] == 6)
    assert sandbox.books(KIND)["balance"] == "100000000.00"


@pytest.mark.parametrize(
    "paging",
    [
        {"pageSize": "51"},
        {"pageSize": "19"},
        {"pageIndex": "0"},
        {"pageIndex": "x"},
    ],
)
async def test_pages_have_20_to_50_products(sandbox: Any, client: Any, paging: dict[str, str]) -> None:
    """Anything else is refused."""
    fields = {"appid": APPID, **paging}
    assert (await send(sandbox, client, LIST, fields, digest(good_text({"appid": APPID}))))["code"] == 0


async def test_paging_fields_stay_out_of_the_signed_text(sandbox: Any, client: Any) -> None:
    """Signed as well they are refused; beside the signature they choose the page."""
    fields = {"appid": APPID, "pageIndex": "2", "pageSize": "50"}
    assert (await send(sandbox, client, LIST, fields))["msg"] == "签名错误"
    listed = (await send(sandbox, client, LIST, fields, digest(good_text({"appid": APPID}))))["result"]
    on_sale = [one.product for one in shops()[KIND].scenarios if one.name != "unknown-product"]
    assert [str(entry["id"]) for entry in listed] == on_sale[50:100]


async def test_list_and_detail_may_show_stock_that_is_gone(sandbox: Any, client: Any) -> None:
    """Five are listed, none is sold."""
    wanted = product("stock-race")
    detail = (await send(sandbox, client, DETAIL, {"appid": APPID, "card_id": wanted}))["result"]
    assert (detail["num"], len(detail["priceList"])) == (5, 1)
    assert (await buy(sandbox, client, card_id=wanted))["msg"] == "库存不足"


async def test_a_product_off_sale_is_nowhere(sandbox: Any, client: Any) -> None:
    """Neither in the list nor in detail."""
    gone = product("unknown-product")
    assert (await send(sandbox, client, DETAIL, {"appid": APPID, "card_id": gone}))["code"] == 0
    fields = {"appid": APPID, "pageSize": "50"}
    listed = (await send(sandbox, client, LIST, fields, digest(good_text({"appid": APPID}))))["result"]
    assert gone not in [str(entry["id"]) for entry in listed]


@pytest.mark.parametrize("name", ["price-unlimited", "signed-unsorted", "signed-zero-unsigned"])
async def test_a_proxy_helps_no_forger(sandbox: Any, client: Any, name: str) -> None:
    """It writes genuine requests anew, and no others."""
    forged = await send(sandbox, client, BUY, {**FIELDS, "card_id": product(name)}, sign=digest("forged"))
    assert (forged["code"], forged["msg"]) == (0, "签名错误")
    genuine = await buy(sandbox, client, card_id=product(name), order_money="46.00")
    assert genuine["code"] == (1 if name == "price-unlimited" else 0)
    assert charges(sandbox) == (["45.07"] if name == "price-unlimited" else [])
