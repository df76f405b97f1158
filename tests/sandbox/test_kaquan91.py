"""Both 91 interfaces, spoken by hand: form fields under an MD5 signature."""

import asyncio
import hashlib
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode

import pytest

from reward_sandbox import CANARY, kaquan91_card, kaquan91_recharge

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def body(secret: str, unsigned: Any = None, /, **fields: str) -> bytes:
    """Sign by hand: sorted, non-empty, the callback URL encoded."""
    pairs = [
        f"{key}={quote_plus(fields[key]) if key == 'notify_url' else fields[key]}"
        for key in sorted(fields)
        if fields[key]
    ]
    text = "&".join([*pairs, f"appsecret={secret}"])
    sign = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper()
    return urlencode({**fields, **(unsigned or {}), "sign": sign}).encode()


def card_fields(**changes: str) -> dict[str, str]:
    fields = {"card_id": "1841", "num": "1", "auto_confirm_hour": "10", "out_order_id": "C1", "order_money": "40.06"}
    return {"appid": kaquan91_card.APPID, **fields, **changes}


async def buy(sandbox: Any, client: Any, **changes: str) -> Any:
    url = f"{sandbox.url}/kaquan91_card/dcapi/card/payOrder"
    return await client.post(url, body(kaquan91_card.APPSECRET, **card_fields(**changes)), **FORM)


async def card_query(sandbox: Any, client: Any, number: str) -> Any:
    signed = body(kaquan91_card.APPSECRET, appid=kaquan91_card.APPID, out_order_id=number)
    return await client.post(f"{sandbox.url}/kaquan91_card/dcapi/card/queryOrder", signed, **FORM)


async def test_three_cards_under_one_payment(sandbox: Any, client: Any) -> None:
    """Several cards come as entries with numbers of their own under one payment number, and can be fetched again."""
    answer = await buy(sandbox, client, num="3", order_money="120.18")
    assert (answer["code"], answer["msg"]) == (1, "下单成功")
    cards = answer["result"]
    assert len({card["order_id"] for card in cards}) == len({card["card_pass"] for card in cards}) == 3
    assert {card["money"] for card in cards} == {"40.06"}
    assert {card["status"] for card in cards} == {2}
    assert answer["other"]["card_id"] == 1841
    assert answer["other"]["create_time"] == "2027-01-15 16:00:00"
    (order,) = sandbox.books("kaquan91_card")["orders"]
    assert (order["charged"], order["quantity"], order["supplier_number"]) == (
        "120.18",
        3,
        answer["other"]["pay_order_id"],
    )
    found = (await card_query(sandbox, client, "C1"))["result"]
    assert [card["card_pass"] for card in found] == [card["card_pass"] for card in cards]


@pytest.mark.parametrize(
    ("product", "secret"), [("1840", "card_num"), ("1842", "card_num"), ("1843", "card_num"), ("1844", "card_num")]
)
async def test_card_types(sandbox: Any, client: Any, product: str, secret: str) -> None:
    """Types 0, 2, 3 and 4 hold their secret in card_num."""
    (card,) = (await buy(sandbox, client, card_id=product))["result"]
    assert CANARY in card[secret]
    assert (card["card_pass"] == "") is (product == "1840")


async def test_warranty_ends(sandbox: Any, client: Any, clock: Any) -> None:
    """A card is in warranty for the hours that were bought and final afterwards."""
    await buy(sandbox, client, auto_confirm_hour="48", order_money="41.00")
    assert sandbox.books("kaquan91_card")["orders"][0]["charged"] == "40.60"
    clock.now += 48 * 3600 - 1
    assert (await card_query(sandbox, client, "C1"))["result"][0]["status"] == 2
    clock.now += 1
    assert (await card_query(sandbox, client, "C1"))["result"][0]["status"] == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"order_money": "40.05"},
        {"order_money": "-1"},
        {"order_money": ""},
        {"auto_confirm_hour": "11"},
        {"num": "0"},
        {"num": "1.0"},
        {"card_id": "7"},
        {"card_id": "1845"},
        {"appid": "1"},
    ],
)
async def test_card_refusals_charge_nothing(sandbox: Any, client: Any, changes: dict[str, str]) -> None:
    """Too low a ceiling, bad fields, unknown products and empty stock are code 0 with nothing booked."""
    answer = await buy(sandbox, client, **changes)
    assert (answer["code"], answer["result"]) == (0, None)
    assert sandbox.books("kaquan91_card")["orders"] == []


async def test_zero_switches_the_price_guard_off(sandbox: Any, client: Any) -> None:
    """order_money 0 is signed and means no ceiling."""
    assert (await buy(sandbox, client, order_money="0"))["code"] == 1


async def test_card_duplicate_and_wrong_signature(sandbox: Any, client: Any) -> None:
    """A used number and a wrong key are code 0; the books hold one charge."""
    await buy(sandbox, client)
    assert (await buy(sandbox, client))["code"] == 0
    forged = body("wrong", **card_fields(out_order_id="C2"))
    assert (await client.post(f"{sandbox.url}/kaquan91_card/dcapi/card/payOrder", forged, **FORM))["code"] == 0
    books = sandbox.books("kaquan91_card")
    assert [order["requests"] for order in books["orders"]] == [2]
    assert [refusal["number"] for refusal in books["refusals"]] == ["C1", ""]


async def test_slow_answer_and_query(start: Any, client: Any, until: Any) -> None:
    """slow keeps its answer back while the query shows the card."""
    sandbox = await start(late_seconds=3600)
    call = asyncio.create_task(buy(sandbox, client, card_id="1846"))
    await until(lambda: sandbox.books("kaquan91_card")["orders"])
    assert CANARY in (await card_query(sandbox, client, "C1"))["result"][0]["card_pass"]
    assert not call.done()
    call.cancel()
    assert (await card_query(sandbox, client, "C2"))["code"] == 0


async def test_card_catalogue(sandbox: Any, client: Any) -> None:
    """Balance, list and detail speak of the same products; a page has 20 of them, one of 51 is refused."""
    base = f"{sandbox.url}/kaquan91_card/dcapi"
    signed = body(kaquan91_card.APPSECRET, appid=kaquan91_card.APPID)
    assert (await client.post(f"{base}/queryCash", signed, **FORM))["result"] == "100000000.00"
    assert len((await client.post(f"{base}/card/queryCardList", signed, **FORM))["result"]) == 20
    page = body(kaquan91_card.APPSECRET, {"pageSize": "51"}, appid=kaquan91_card.APPID)
    assert (await client.post(f"{base}/card/queryCardList", page, **FORM))["code"] == 0
    detail = body(kaquan91_card.APPSECRET, appid=kaquan91_card.APPID, card_id="1845")
    assert (await client.post(f"{base}/card/queryCardDetail", detail, **FORM))["result"]["priceList"] == []


async def pay(sandbox: Any, client: Any, clock: Any, unsigned: dict[str, str] | None = None, **changes: str) -> Any:
    fields = {
        "appid": kaquan91_recharge.APPID,
        "card_id": "521",
        "account": "13800138000",
        "number": "1",
        "money_type": "2",
        "money": "49.50",
        "out_order_id": "R1",
        "datetime": str(int(clock.now)),
        **changes,
    }
    signed = body(kaquan91_recharge.APPSECRET, unsigned, **fields)
    return await client.post(f"{sandbox.url}/kaquan91_recharge/dcapi/pay", signed, **FORM)


async def ask(sandbox: Any, client: Any, call: str, **fields: str) -> Any:
    signed = body(kaquan91_recharge.APPSECRET, appid=kaquan91_recharge.APPID, **fields)
    return await client.post(f"{sandbox.url}/kaquan91_recharge/dcapi/{call}", signed, **FORM)


async def test_recharge_runs_and_calls_back(sandbox: Any, client: Any, clock: Any, receiver: Any, until: Any) -> None:
    """A recharge passes 7, 1, 2, 3 in order and calls back until the answer is exactly success."""
    receiver.answers = [b"success\n", b"SUCCESS", b'"success"', b"success"]
    answer = await pay(sandbox, client, clock, notify_url=receiver.url)
    assert answer["other"] == {"price": "49.0"}
    assert answer["result"].startswith("API")
    states = [7]
    while states[-1] != 3:
        found = (await ask(sandbox, client, "queryOrder", out_order_id="R1"))["result"]
        states += [found["status"]] if found["status"] != states[-1] else []
    assert states == [state for state in (7, 1, 2, 3) if state in states]
    for _ in range(4):
        fields = dict(parse_qsl((await receiver.arrived.get()).decode()))
        assert (fields["out_order_id"], fields["order_id"], fields["status"]) == ("R1", answer["result"], "3")
        text = "&".join(f"{key}={fields[key]}" for key in sorted(fields) if key != "sign")
        signed = f"{text}&appsecret={kaquan91_recharge.APPSECRET}".encode()
        expected = hashlib.md5(signed, usedforsecurity=False).hexdigest().upper()
        assert fields["sign"] == expected
    await until(lambda: sandbox.books("kaquan91_recharge")["orders"][0]["callbacks"][-1]["accepted"])
    attempts = sandbox.books("kaquan91_recharge")["orders"][0]["callbacks"]
    assert [attempt["accepted"] for attempt in attempts] == [False, False, False, True]


async def test_recharge_callbacks_end(sandbox: Any, client: Any, clock: Any, receiver: Any, until: Any) -> None:
    """After ten repeats without success nothing more comes."""
    await pay(sandbox, client, clock, notify_url=receiver.url)
    await receiver.arrived.get()
    await until(lambda: not sandbox._suppliers["kaquan91_recharge"].desk._courses)
    assert len(sandbox.books("kaquan91_recharge")["orders"][0]["callbacks"]) == len(receiver.bodies) == 11


async def test_failed_recharge_is_paid_back(sandbox: Any, client: Any, clock: Any, until: Any) -> None:
    """failed ends in 6 with the whole charge paid back."""
    await pay(sandbox, client, clock, card_id="523")
    await until(lambda: sandbox.books("kaquan91_recharge")["orders"][0]["state"] == 6)
    books = sandbox.books("kaquan91_recharge")
    assert (books["orders"][0]["charged"], books["orders"][0]["refunded"]) == ("49.00", "49.00")
    assert books["balance"] == "100000000.00"


async def test_waiting_recharge_is_cancelled(sandbox: Any, client: Any, clock: Any, until: Any) -> None:
    """A recharge nobody took can be taken down once, and the answer counts in whole fen."""
    await pay(sandbox, client, clock, card_id="525")
    await until(lambda: sandbox.books("kaquan91_recharge")["orders"][0]["state"] == 1)
    answer = await ask(sandbox, client, "drawOrder", out_order_id="R1")
    assert (answer["msg"], answer["result"]["price"]) == ("下架成功", 4900)
    assert (await ask(sandbox, client, "drawOrder", out_order_id="R1"))["code"] == 0
    assert sandbox.books("kaquan91_recharge")["orders"][0]["refunded"] == "49.00"


async def test_silent_recharge(sandbox: Any, client: Any, clock: Any, until: Any) -> None:
    """silent is charged once and found by query though the create call is never answered."""
    call = asyncio.create_task(pay(sandbox, client, clock, card_id="524"))
    await until(lambda: sandbox.books("kaquan91_recharge")["orders"])
    number = sandbox.books("kaquan91_recharge")["orders"][0]["supplier_number"]
    found = await ask(sandbox, client, "queryOrder", order_id=number, out_order_id="nonsense")
    assert found["result"]["out_order_id"] == "R1"
    assert not call.done()
    call.cancel()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"money": "4900", "money_type": ""}, 1),
        ({"money": "4900", "money_type": "1"}, 1),
        ({"money": "", "money_type": ""}, 1),
        ({"money": "49", "money_type": ""}, 0),
        ({"money": "49.00", "money_type": "1"}, 0),
        ({"money": "48.99"}, 0),
        ({"money": "49.001"}, 0),
        ({"number": "2", "money": "97.99"}, 0),
        ({"number": "0"}, 0),
        ({"account": "12345"}, 0),
        ({"datetime": "1799999399"}, 0),
        ({"datetime": "1800000000000"}, 0),
        ({"notify_url": "ftp://x"}, 0),
        ({"card_id": "522"}, 0),
        ({"card_id": "99"}, 0),
    ],
)
async def test_recharge_checks(sandbox: Any, client: Any, clock: Any, changes: dict[str, str], code: int) -> None:
    """Money is fen unless money_type is 2 and guards the total; stale clocks and bad accounts are refused."""
    answer = await pay(sandbox, client, clock, {"check": "1"}, **changes)
    assert answer["code"] == code
    assert len(sandbox.books("kaquan91_recharge")["orders"]) == code


async def test_recharge_duplicate(sandbox: Any, client: Any, clock: Any) -> None:
    """A used number is code 0 and charges nothing more."""
    await pay(sandbox, client, clock)
    assert (await pay(sandbox, client, clock))["code"] == 0
    assert [order["requests"] for order in sandbox.books("kaquan91_recharge")["orders"]] == [2]
