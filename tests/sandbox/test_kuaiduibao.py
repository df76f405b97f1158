"""Kuaiduibao, spoken by hand: token in the body, form fields, signed callbacks and answers."""

import asyncio
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest

from reward_sandbox import CANARY
from reward_sandbox.kuaiduibao import APP_ID, APP_SECRET, acknowledges, signature

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SECRET = "kdb-test-secret-0123456789abcdef"
CALLBACK = {"order_no": "TO01150000065", "out_trade_no": "M202401010001", "status_code": "1"}


def own_sign(text: str, secret: str = APP_SECRET) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


async def token(sandbox: Any, client: Any) -> str:
    body = urlencode({"app_id": APP_ID, "app_secret": APP_SECRET}).encode()
    answer = await client.post(f"{sandbox.url}/kuaiduibao/o-auth2/app/access-token", body, **FORM)
    assert answer["token_type"] == "Bearer"
    assert answer["scope"] is True
    assert answer["expires_in"] == 7200
    assert len(answer["access_token"]) == 40
    return str(answer["access_token"])


async def create(sandbox: Any, client: Any, access_token: str, number: str, product: str, **more: str) -> Any:
    fields = {"access_token": access_token, "out_trade_no": number, "product_no": product, **more}
    url = f"{sandbox.url}/kuaiduibao/service/order/create"
    return await client.post(url, urlencode(fields).encode(), **FORM)


@pytest.mark.parametrize(
    ("secret", "fields", "digest"),
    [
        (
            "x" * 22,
            {"app_uid": "1111", "points": "100"},
            "76d90acdb95987682b6360ed641ce4d3ff61d6622fc9ac0380552912bb154040",
        ),
        (
            "x" * 22,
            {"key3": "3", "key1": "1", "key2": "2"},
            "925c2a592c29ee389541cec346a74a86146fe66a301173a87ad8fba02d0595b8",
        ),
        (SECRET, CALLBACK, "c3cb39debc9ea85b9beac0d2f3f66df909f7cea439932e6d9649d650d2f69667"),
        (
            SECRET,
            {**CALLBACK, "status_code": "2"},
            "f5496045b411dd9fd98b0ef07d7efb6b775cac8a8af155369b2e6f8e04ab429e",
        ),
        (
            SECRET,
            {"message": "ok", "status": "1", "_sign": "ignored"},
            "38f4c05d56e37f9507acc15b367ab26ed7db239714bb1640bc487643e23b346d",
        ),
        (SECRET, {"message": "", "status": "1"}, "5ff69592f5f4b0453d8b9fa23840f8eafcbdd577d21d96b126673339cb6940f3"),
        (SECRET, {"status": "1"}, "24c192e4fb7bcd132d024d9b0171cc8a13f5ebc9d91b681736c8cabec95179f9"),
        (
            SECRET,
            {"message": "订单不存在", "status": "0"},
            "f1d441bb862dcf9fdb03ef6d0b7eafd8c0049ea532dcc3c314c8fa509a9d445e",
        ),
    ],
)
def test_signing_vectors(secret: str, fields: dict[str, str], digest: str) -> None:
    """The signature page's rule gives the known digest of every vector."""
    assert signature(fields, secret) == digest


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        ({"status": 1, "message": "ok", "_sign": own_sign("message=ok&status=1", SECRET)}, True),
        ({"status": 1, "_sign": own_sign("status=1", SECRET).upper()}, True),
        ({"status": 0, "message": "订单不存在", "_sign": own_sign("message=订单不存在&status=0", SECRET)}, False),
        ({"status": 1, "message": "ok"}, False),
        ({"status": 1, "message": "OK", "_sign": own_sign("message=ok&status=1", SECRET)}, False),
        ({"status": True, "_sign": own_sign("status=1", SECRET)}, False),
        ({"status": 1, "message": None, "_sign": own_sign("message=&status=1", SECRET)}, False),
        ([], False),
    ],
)
def test_callback_answers_are_checked(answer: object, good: bool) -> None:
    """A callback counts as received only by status 1 under a right signature."""
    assert acknowledges(json.dumps(answer).encode(), SECRET) is good


async def test_card_is_bought_once(sandbox: Any, client: Any) -> None:
    """A card comes in the create answer, and the books hold one charge for it."""
    answer = await create(sandbox, client, await token(sandbox, client), "M1", "10002")
    assert answer["code"] == 0
    assert answer["extra"] is None
    (card,) = answer["data"]["cards"]
    assert set(card) == {"card_no", "card_pws", "expire_time"}
    assert CANARY in card["card_no"]
    assert CANARY in card["card_pws"]
    books = sandbox.books("kuaiduibao")
    (order,) = books["orders"]
    assert order["number"] == "M1"
    assert order["supplier_number"] == answer["data"]["order_no"]
    assert (order["charged"], order["refunded"], order["outcome"]) == ("98.50", "0.00", "delivered")
    assert order["delivered"] == [card]
    assert books["balance"] == "99999901.50"


@pytest.mark.parametrize(
    ("product", "keys"),
    [("10001", {"card_no", "card_pws", "link", "start_time", "expire_time"}), ("10003", {"card_no", "card_pwd"})],
)
async def test_other_card_shapes(sandbox: Any, client: Any, product: str, keys: set[str]) -> None:
    """Coupons carry a link, dates and an empty password; recharge cards spell the password card_pwd."""
    answer = await create(sandbox, client, await token(sandbox, client), "M1", product)
    (card,) = answer["data"]["cards"]
    assert set(card) == keys
    assert card.get("card_pws", "") == ""


async def test_duplicate_is_refused(sandbox: Any, client: Any) -> None:
    """The second order under a number is refused with code 1 and counted as a request, not as a charge."""
    access = await token(sandbox, client)
    await create(sandbox, client, access, "M1", "10002")
    again = await create(sandbox, client, access, "M1", "10002")
    assert again["code"] == 1
    assert again["data"] is None
    (order,) = sandbox.books("kuaiduibao")["orders"]
    assert order["requests"] == 2


async def test_double_mode_shows_both_charges(start: Any, client: Any) -> None:
    """Where the supplier buys again under a used number, the books show two charges under it."""
    sandbox = await start(duplicates="double")
    access = await token(sandbox, client)
    first = await create(sandbox, client, access, "M1", "10002")
    second = await create(sandbox, client, access, "M1", "10002")
    orders = sandbox.books("kuaiduibao")["orders"]
    assert [order["charged"] for order in orders] == ["98.50", "98.50"]
    assert first["data"]["cards"] != second["data"]["cards"]


async def test_replay_mode_answers_again(start: Any, client: Any) -> None:
    """Where the supplier replays, the same order and cards come back without a second charge."""
    sandbox = await start(duplicates="replay")
    access = await token(sandbox, client)
    first = await create(sandbox, client, access, "M1", "10002")
    assert await create(sandbox, client, access, "M1", "10002") == first
    assert len(sandbox.books("kuaiduibao")["orders"]) == 1


@pytest.mark.parametrize(
    ("number", "product", "more"),
    [
        ("", "10002", {}),
        ("M" * 37, "10002", {}),
        ("M1", "card", {}),
        ("M1", "99999", {}),
        ("M1", "10004", {}),
        ("M1", "10004", {"receive_no": "12345"}),
        ("M1", "10002", {"receive_no": "1" * 21}),
        ("M1", "10005", {}),
    ],
)
async def test_refusals_charge_nothing(
    sandbox: Any, client: Any, number: str, product: str, more: dict[str, str]
) -> None:
    """Bad fields, unknown products, missing phones and empty stock are code 1 with nothing booked."""
    answer = await create(sandbox, client, await token(sandbox, client), number, product, **more)
    assert answer["code"] == 1
    assert answer["msg"]
    books = sandbox.books("kuaiduibao")
    assert books["orders"] == []
    assert books["balance"] == "100000000.00"
    assert len(books["refusals"]) == 1


async def test_json_bodies_are_read_too(sandbox: Any, client: Any) -> None:
    """The create page names no body encoding, so JSON is taken as well."""
    fields = {"access_token": await token(sandbox, client), "out_trade_no": "M1", "product_no": 10002}
    answer = await client.post(f"{sandbox.url}/kuaiduibao/service/order/create", json.dumps(fields).encode())
    assert answer["code"] == 0


async def test_tokens_expire(sandbox: Any, client: Any, clock: Any) -> None:
    """Wrong credentials and tokens past their end are HTTP 401; a new token leaves the older one good."""
    url = f"{sandbox.url}/kuaiduibao/o-auth2/app/access-token"
    bad = urlencode({"app_id": APP_ID, "app_secret": "wrong"}).encode()
    status, answer = await client.post_for_status(url, bad, **FORM)
    assert (status, answer["error"]) == (401, "invalid_client")
    first = await token(sandbox, client)
    assert await token(sandbox, client) != first
    assert (await create(sandbox, client, first, "M1", "10002"))["code"] == 0
    clock.now += 7200
    body = urlencode({"access_token": first, "out_trade_no": "M2", "product_no": "10002"}).encode()
    status, _ = await client.post_for_status(f"{sandbox.url}/kuaiduibao/service/order/create", body, **FORM)
    assert status == 401
    assert len(sandbox.books("kuaiduibao")["orders"]) == 1


async def test_callback_is_signed_and_repeated(start: Any, client: Any, receiver: Any, until: Any) -> None:
    """A top-up's callback comes again until it is answered by status 1 under a right signature."""
    sandbox = await start(callback_url=receiver.url)
    good = json.dumps({"status": 1, "message": "ok", "_sign": own_sign("message=ok&status=1")}).encode()
    unsigned = json.dumps({"status": 1, "message": "ok"}).encode()
    receiver.answers = [b"success", unsigned, good]
    answer = await create(sandbox, client, await token(sandbox, client), "M1", "10004", receive_no="13800138000")
    assert "cards" not in answer["data"]
    for _ in range(3):
        fields = dict(parse_qsl((await receiver.arrived.get()).decode()))
        sign = fields.pop("_sign")
        assert fields == {"status_code": "1", "order_no": answer["data"]["order_no"], "out_trade_no": "M1"}
        assert sign == own_sign(f"order_no={fields['order_no']}&out_trade_no=M1&status_code=1")
    (order,) = sandbox.books("kuaiduibao")["orders"]
    await until(lambda: sandbox.books("kuaiduibao")["orders"][0]["callbacks"][-1]["accepted"])
    attempts = sandbox.books("kuaiduibao")["orders"][0]["callbacks"]
    assert [attempt["accepted"] for attempt in attempts] == [False, False, True]
    assert order["recipient"] == "13800138000"


async def test_silent_topup_is_told_by_callback(start: Any, client: Any, receiver: Any, until: Any) -> None:
    """topup-silent is charged and never answered, yet its callback comes."""
    sandbox = await start(callback_url=receiver.url)
    access = await token(sandbox, client)
    call = asyncio.create_task(create(sandbox, client, access, "M1", "10006", receive_no="13800138000"))
    await receiver.arrived.get()
    assert not call.done()
    call.cancel()
    (order,) = sandbox.books("kuaiduibao")["orders"]
    assert order["charged"] == "99.00"
    assert order["times"]["answered"] is None


async def test_lost_card_is_charged_in_silence(sandbox: Any, client: Any, until: Any) -> None:
    """card-lost is charged, never answered, and no callback is ever sent."""
    call = asyncio.create_task(create(sandbox, client, await token(sandbox, client), "M1", "10007"))
    await until(lambda: sandbox.books("kuaiduibao")["orders"])
    call.cancel()
    (order,) = sandbox.books("kuaiduibao")["orders"]
    assert order["charged"] == "492.00"
    assert order["callbacks"] == []


PHONE = "13800138000"
FORGED = {
    "wrong-secret",
    "missing-sign",
    "empty-sign",
    "extra-field",
    "tampered-status",
    "tampered-number",
    "field-twice",
}
"""Callbacks that no receiver may believe."""


def genuine(body: bytes) -> bool:
    """Whether a callback is signed by the rule of the signature page; no field may come twice."""
    pairs = [(k, str(v)) for k, v in json.loads(body).items()] if body[:1] == b"{" else parse_qsl(body.decode(), True)
    fields = dict(pairs)
    sign = fields.pop("_sign", "")
    text = "&".join(f"{key}={fields[key]}" for key in sorted(fields))
    return len(fields) == len(pairs) - 1 and sign.lower() == own_sign(text)


@pytest.mark.parametrize(
    "name",
    [
        "genuine",
        "json",
        "numeric-status",
        "upper-case-sign",
        "signed-extra-field",
        "other-status",
        "other-order",
        "unknown-number",
        "no-number",
        *sorted(FORGED),
    ],
)
async def test_callbacks_by_name(name: str, start: Any, client: Any, receiver: Any) -> None:
    """Forgeries are forged, oddities are signed as the page says; each names what it is about."""
    sandbox = await start(callback_url=receiver.url)
    answer = await create(sandbox, client, await token(sandbox, client), "M1", "10081", receive_no=PHONE)
    number = answer["data"]["order_no"]
    sent = await sandbox.order("kuaiduibao", "callback", number="M1", name=name)
    body = sent["callback"]["body"].encode()
    assert genuine(body) == (name not in FORGED)
    assert (b"M1" in body) == (name not in ("unknown-number", "no-number"))
    assert (number.encode() in body) == (name != "other-order")


async def test_an_unknown_callback_name_is_refused(sandbox: Any, client: Any) -> None:
    """With words, not with a callback."""
    await create(sandbox, client, await token(sandbox, client), "M1", "10002")
    with pytest.raises(ValueError, match="no such callback"):
        await sandbox.order("kuaiduibao", "callback", name="nonsense")


async def test_who_is_not_heard_is_called_ten_times(start: Any, client: Any, receiver: Any, until: Any) -> None:
    """The plan of the sister callbacks has nine pauses; the last answer counts again."""
    sandbox = await start(callback_url=receiver.url)
    receiver.answers = [json.dumps({"status": 1, "_sign": own_sign("status=1")}).encode()]
    await create(sandbox, client, await token(sandbox, client), "M1", "10072", receive_no=PHONE)
    await until(lambda: sandbox.idle)
    (order,) = sandbox.books("kuaiduibao")["orders"]
    assert [attempt["accepted"] for attempt in order["callbacks"]] == [False] * 9 + [True]
    assert len(set(receiver.bodies)) == 1


async def test_an_order_number_may_be_a_json_number(sandbox: Any, client: Any) -> None:
    """20 digits, the same as in the books."""
    answer = await create(sandbox, client, await token(sandbox, client), "M1", "10061", receive_no=PHONE)
    number = answer["data"]["order_no"]
    assert isinstance(number, int)
    assert str(number) == sandbox.books("kuaiduibao")["orders"][0]["supplier_number"]
    assert len(str(number)) == 20


async def test_a_card_that_is_issued_later_is_not_in_the_answer(sandbox: Any, client: Any) -> None:
    """Code 0 and an order number, as for a top-up."""
    answer = await create(sandbox, client, await token(sandbox, client), "M1", "10024")
    assert set(answer["data"]) == {"order_no"}
    assert sandbox.books("kuaiduibao")["orders"][0]["delivered"] == []


async def test_an_order_query_tells_what_became_of_an_order(start: Any, client: Any, until: Any) -> None:
    """For apps that were granted one: status 0 and then 1, cards as in the create answer, 100404 for no order."""
    sandbox = await start(step_seconds=60.0)
    access = await token(sandbox, client)

    async def query(number: str, access_token: str = access) -> tuple[int, Any]:
        body = urlencode({"access_token": access_token, "out_trade_no": number}).encode()
        status, answer = await client.post_for_status(f"{sandbox.url}/kuaiduibao/service/order/query", body, **FORM)
        return status, answer

    card = await create(sandbox, client, access, "M1", "10002")
    topup = await create(sandbox, client, access, "M2", "10004", receive_no=PHONE)
    _, found = await query("M1")
    assert found["data"] == {**card["data"], "out_trade_no": "M1", "status": 1}
    _, waiting = await query("M2")
    assert waiting["data"] == {**topup["data"], "out_trade_no": "M2", "status": 0}
    sandbox.forward(61)
    await until(lambda: sandbox.books("kuaiduibao")["orders"][1]["outcome"] == "delivered")
    assert (await query("M2"))[1]["data"]["status"] == 1
    assert (await query("M3"))[1]["code"] == 100404
    assert (await query("M1", "no-token"))[0] == 401


async def test_the_life_of_new_tokens_can_be_set(sandbox: Any, client: Any) -> None:
    """Until everything is reset."""
    assert (await sandbox.order("kuaiduibao", "tokens", lifetime=60))["expired"] == 0
    body = urlencode({"app_id": APP_ID, "app_secret": APP_SECRET}).encode()
    answer = await client.post(f"{sandbox.url}/kuaiduibao/o-auth2/app/access-token", body, **FORM)
    assert answer["expires_in"] == 60
    await sandbox.reset()
    await token(sandbox, client)
