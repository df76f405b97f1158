"""Dushu, spoken by hand: token in the URL, SHA-1 over the exact body, 64-bit order numbers."""

import asyncio
import hashlib
import json
from collections import Counter
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from reward_sandbox.dushu import APPID, APPSECRET, TOKENS_A_DAY, signature, signed_well
from reward_sandbox.scenarios.dushu import SCENARIOS

DOC = {"appid": "fd0cac7cd6726d211f", "appsecret": "ca70d1f641c7fc2b3b9fd1fbaa87e646b83014a0"}
SAMPLE = (
    '{\r\n    "mobile": "15888888888",\r\n    "areaCode":"+86",\r\n    "productNo": 200000403,\r\n'
    '    "fee":188.00,\r\n    "tradeNo": 123446789,\r\n    "payType": "test"\r\n}'
)


@pytest.mark.parametrize(
    ("body", "digest"),
    [
        (SAMPLE, "0d18f45ae06ca4185ea4320a22bfa5353b4c8c91"),
        (SAMPLE.replace("\r\n", "\n"), "9ca38f351a9695dab78b3a1656d641954da57447"),
        (
            (
                '{"mobile":"15888888888","areaCode":"+86","productNo":200000403,"fee":188.00,"tradeNo":123446789,'
                '"payType":"test"}'
            ),
            "a50065baacca1e93ba6ed7162dfed79db7e18e98",
        ),
        (SAMPLE.replace("123446789", "1234522289"), "3715aa3fcc766ee673a9f3f391a6ee608fe0d29f"),
        (
            (
                '{"mobile":"15888888888","areaCode":"+86","productNo":200000148,"buyCount":1,"fee":365.00,'
                '"tradeNo":"DS202401010001","payType":"2"}'
            ),
            "64370fe9a18019f55a94bc02c5bf47e5d91dd7be",
        ),
        ('{"tradeNo":"DS202401010001"}', "08beda1f205234e4e48ea48e03ff92fa37914da4"),
        ("", "0aca26abd3fadbac8112afa74029694805d51e1b"),
        ("{}", "8541ee61c61c809db25a0440266139cfb98653c2"),
        ('{"tradeNo":"订单-1"}', "fef768b8588f27566fbfbd8835b10c2afbe13646"),
    ],
)
def test_signing_vectors(body: str, digest: str) -> None:
    """The signing page's rule gives the known digest of every body, in either case of its digits."""
    assert signature(body.encode(), **DOC) == digest
    assert signed_well(body.encode(), digest.upper(), **DOC)
    assert not signed_well(body.encode() + b"\n", digest, **DOC)


def test_wrong_order_is_refused() -> None:
    """A digest with the secret behind the body is refused."""
    assert not signed_well(SAMPLE.encode(), "97d1b5d6346c8deb4b0f697867eb300c6b67b509", **DOC)


async def token(sandbox: Any, client: Any) -> str:
    query = f"grant_type=client_credentials&client_id={APPID}&client_secret={APPSECRET}"
    answer = await client.post(f"{sandbox.url}/dushu/oauth/token?{query}")
    assert answer["expiresIn"] == 7199
    assert answer["tokenType"] == "bearer"
    assert answer["value"].count(".") == 2
    return str(answer["value"])


async def call(sandbox: Any, client: Any, access_token: str, path: str, body: str) -> tuple[int, Any]:
    sign = hashlib.sha1((APPSECRET + body + APPID).encode(), usedforsecurity=False).hexdigest()
    url = f"{sandbox.url}/dushu{path}?appid={APPID}&sign={sign}&access_token={access_token}"
    status, answer = await client.post_for_status(url, body.encode())
    return int(status), answer


def order(**changes: object) -> str:
    fields = {"mobile": "15888888888", "areaCode": "+86", "productNo": 200000148, "fee": 365, "tradeNo": "DS1"}
    return json.dumps({**fields, "payType": "test", **changes})


async def create(sandbox: Any, client: Any, access: str, **changes: object) -> Any:
    return (await call(sandbox, client, access, "/vip/order/create", order(**changes)))[1]


async def detail(sandbox: Any, client: Any, access: str, number: str = "DS1") -> Any:
    return (await call(sandbox, client, access, "/vip/order/detail", json.dumps({"tradeNo": number})))[1]


async def test_membership_is_bought_once(sandbox: Any, client: Any) -> None:
    """A membership is done in the create answer, with a 19-digit number that the detail call repeats."""
    access = await token(sandbox, client)
    answer = await create(sandbox, client, access)
    assert answer["status"] == "0000"
    assert "suceess" not in answer
    number = answer["data"]["orderNumber"]
    assert isinstance(number, int)
    assert len(str(number)) == 19
    found = (await detail(sandbox, client, access))["data"]
    assert (found["orderNumber"], found["orderStatus"], found["totalFee"]) == (number, "COMPLETE", 365)
    (booked,) = sandbox.books("dushu")["orders"]
    assert (booked["supplier_number"], booked["charged"]) == (str(number), "365.00")


async def test_duplicates(sandbox: Any, client: Any, until: Any) -> None:
    """A used number is 2004, and 9999 while the first call is still open; nothing is charged twice."""
    access = await token(sandbox, client)
    sandbox.gate("dushu").hold()
    first = asyncio.create_task(create(sandbox, client, access))
    await until(lambda: sandbox.gate("dushu").held == 1)
    second = asyncio.create_task(create(sandbox, client, access))
    await until(lambda: sandbox.gate("dushu").held == 2)
    assert sandbox.gate("dushu").release() == 2
    assert (await first)["status"] == "0000"
    failure = await second
    assert (failure["status"], failure["msg"], failure["suceess"]) == ("9999", "重复提交", False)
    assert (await create(sandbox, client, access))["status"] == "2004"
    assert [booked["requests"] for booked in sandbox.books("dushu")["orders"]] == [3]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"productNo": 200000147, "fee": 188}, "2003"),
        ({"productNo": 1}, "2001"),
        ({"fee": 365.01}, "2002"),
        ({"fee": "365"}, "9999"),
        ({"productNo": "200000148"}, "9999"),
        ({"payType": "99"}, "9999"),
        ({"mobile": ""}, "9999"),
        ({"tradeNo": ""}, "9999"),
        ({"tradeNo": "D" * 33}, "9999"),
    ],
)
async def test_refusals_charge_nothing(sandbox: Any, client: Any, changes: dict[str, object], status: str) -> None:
    """Each refusal has its status, a misspelt suceess and nothing booked."""
    access = await token(sandbox, client)
    answer = await create(sandbox, client, access, **changes)
    assert (answer["status"], answer["suceess"]) == (status, False)
    assert "data" not in answer
    assert sandbox.books("dushu")["orders"] == []


@pytest.mark.parametrize("fee", ["365", "365.0", "365.00", "3.65e2"])
async def test_fee_is_compared_by_value(sandbox: Any, client: Any, fee: str) -> None:
    """The spelling of the settlement price does not matter, nor whether tradeNo is a bare number."""
    access = await token(sandbox, client)
    body = order(tradeNo=77).replace('"fee": 365', f'"fee": {fee}')
    _, answer = await call(sandbox, client, access, "/vip/order/create", body)
    assert answer["data"]["tradeNo"] == "77"


async def test_slow_recharge(sandbox: Any, client: Any) -> None:
    """slow-recharge answers 200001, yet the detail call shows NEW for three looks and then COMPLETE."""
    access = await token(sandbox, client)
    assert (await create(sandbox, client, access, productNo=200000146, fee=99))["status"] == "200001"
    states = []
    while (found := (await detail(sandbox, client, access))["data"])["orderStatus"] == "NEW":
        states.append("NEW")
    assert len(states) >= 3
    assert found["orderStatus"] == "COMPLETE"
    assert sandbox.books("dushu")["orders"][0]["charged"] == "99.00"


async def test_silent_membership(sandbox: Any, client: Any, until: Any) -> None:
    """silent is done though the create call is never answered; afterwards its number is taken."""
    access = await token(sandbox, client)
    pending = asyncio.create_task(create(sandbox, client, access, productNo=200000403, fee=188))
    await until(lambda: sandbox.books("dushu")["orders"])
    assert (await detail(sandbox, client, access))["data"]["orderStatus"] == "COMPLETE"
    assert (await create(sandbox, client, access, productNo=200000403, fee=188))["status"] == "9999"
    pending.cancel()
    await asyncio.gather(pending, return_exceptions=True)
    while (again := await create(sandbox, client, access, productNo=200000403, fee=188))["status"] == "9999":
        assert len(sandbox.books("dushu")["orders"]) == 1
    assert again["status"] == "2004"


async def test_unknown_order(sandbox: Any, client: Any) -> None:
    """The detail call answers 0006 for a number it never saw."""
    assert (await detail(sandbox, client, await token(sandbox, client)))["status"] == "0006"


async def test_tokens_overlap(sandbox: Any, client: Any, clock: Any) -> None:
    """A new token leaves the older one good for five minutes, then it is 100003 under HTTP 401."""
    old = await token(sandbox, client)
    clock.now += 1000
    new = await token(sandbox, client)
    clock.now += 299
    assert (await create(sandbox, client, old))["status"] == "0000"
    clock.now += 1
    status, answer = await call(sandbox, client, old, "/vip/order/create", order(tradeNo="DS2"))
    assert (status, answer["status"]) == (401, "100003")
    assert (await create(sandbox, client, new, tradeNo="DS2"))["status"] == "0000"
    status, answer = await call(sandbox, client, "made-up", "/vip/order/create", order(tradeNo="DS3"))
    assert (status, answer["status"]) == (401, "100002")


async def test_gateway_refuses(sandbox: Any, client: Any) -> None:
    """Bad credentials, missing parameters and a re-serialised body have their own errors."""
    status, answer = await client.post_for_status(f"{sandbox.url}/dushu/oauth/token?grant_type=client_credentials")
    assert (status, answer["error"]) == (401, "invalid_client")
    access = await token(sandbox, client)
    sign = hashlib.sha1((APPSECRET + order() + APPID).encode(), usedforsecurity=False).hexdigest()
    base = f"{sandbox.url}/dushu/vip/order/create"
    resent = order().replace(" ", "").encode()
    forged = await client.post(f"{base}?appid={APPID}&sign={sign}&access_token={access}", resent)
    assert forged["status"] == "100001"
    assert (await client.post(f"{base}?sign={sign}&access_token={access}"))["status"] == "100005"
    assert (await client.post(f"{base}?appid={APPID}&access_token={access}"))["status"] == "100006"
    status, answer = await client.post_for_status(f"{base}?appid={APPID}&sign={sign}")
    assert (status, answer["status"]) == (401, "100004")
    assert sandbox.books("dushu")["orders"] == []


async def test_product_list(sandbox: Any, client: Any) -> None:
    """The list is answered for an empty body and for an empty object, each signed as sent."""
    access = await token(sandbox, client)
    for body in ("", "{}"):
        _, answer = await call(sandbox, client, access, "/vip/product/list", body)
        listed = {product["productNo"]: product for product in answer["data"]}
        assert len(listed) == len(SCENARIOS)
        assert {"price": 365, "vipValue": 1, "vipUnit": 1}.items() <= listed[200000148].items()
        assert {"price": 188, "vipValue": 6, "vipUnit": 2}.items() <= listed[200000501].items()
        assert {"price": 9.9, "vipValue": 7, "vipUnit": 3}.items() <= listed[200000502].items()


@pytest.mark.parametrize(
    ("product", "status", "code"),
    [(200000601, 401, "100003"), (200000602, 200, "100003"), (200000603, 401, "100002")],
)
async def test_tokens_end_at_the_first_call(sandbox: Any, client: Any, product: int, status: int, code: str) -> None:
    """Nobody's token is good any more, and only a new one brings the order."""
    access = await token(sandbox, client)
    body = order(productNo=product, fee=188)
    answered, answer = await call(sandbox, client, access, "/vip/order/create", body)
    assert (answered, answer["status"]) == (status, code)
    answered, answer = await call(sandbox, client, access, "/vip/order/create", body)
    assert (answered, answer["status"]) == (401, code)
    assert sandbox.books("dushu")["orders"] == []
    assert (await create(sandbox, client, await token(sandbox, client), productNo=product, fee=188))["status"] == "0000"


async def test_somebody_else_fetches_a_token(sandbox: Any, client: Any, clock: Any) -> None:
    """token-rotated leaves the token of the create call five minutes more."""
    access = await token(sandbox, client)
    await create(sandbox, client, access, productNo=200000607, fee=188)
    clock.now += 299
    assert (await detail(sandbox, client, access))["status"] == "0000"
    clock.now += 1
    status, answer = await call(sandbox, client, access, "/vip/order/detail", json.dumps({"tradeNo": "DS1"}))
    assert (status, answer["status"]) == (401, "100003")


async def test_a_days_tokens_are_used_up(sandbox: Any, client: Any, clock: Any) -> None:
    """The limit counts by day; issued tokens stay good, and the next day there are more."""
    query = f"grant_type=client_credentials&client_id={APPID}&client_secret={APPSECRET}"
    url = f"{sandbox.url}/dushu/oauth/token?{query}"
    access = await token(sandbox, client)
    answers: Counter[tuple[int, str]] = Counter()
    for _ in range(TOKENS_A_DAY):
        status, answer = await client.post_for_status(url)
        answers[status, answer.get("error", "")] += 1
    assert answers == {(200, ""): TOKENS_A_DAY - 1, (429, "too_many_requests"): 1}
    assert (await create(sandbox, client, access))["status"] == "0000"
    clock.now += 86400
    await token(sandbox, client)
    await sandbox.order("dushu", "mode", tokens_left="none")
    assert (await client.post_for_status(url))[0] == 429


async def test_an_address_that_is_not_registered(sandbox: Any, client: Any) -> None:
    """Every call is refused with 100012 and HTTP 403, the token call included."""
    access = await token(sandbox, client)
    await sandbox.order("dushu", "mode", allow_list="others")
    calls = [
        call(sandbox, client, access, "/vip/order/create", order()),
        call(sandbox, client, access, "/vip/order/detail", json.dumps({"tradeNo": "DS1"})),
        call(sandbox, client, access, "/vip/product/list", ""),
        client.post_for_status(
            f"{sandbox.url}/dushu/oauth/token?grant_type=client_credentials&client_id={APPID}&client_secret={APPSECRET}"
        ),
    ]
    for one in calls:
        status, answer = await one
        assert (status, answer["status"], answer["suceess"]) == (403, "100012", False)
    assert sandbox.books("dushu")["orders"] == []


async def test_a_phone_number_has_one_account(sandbox: Any, client: Any) -> None:
    """A number that comes first is given a userId, and keeps it; another number has another."""
    access = await token(sandbox, client)
    users = []
    for number, mobile in (("DS1", "15888888888"), ("DS2", "15888888888"), ("DS3", "15888888889")):
        await create(sandbox, client, access, tradeNo=number, mobile=mobile)
        users.append((await detail(sandbox, client, access, number))["data"]["userId"])
    assert users[0] == users[1] != users[2]
    assert all(isinstance(user, int) for user in users)


async def test_an_order_is_found_late(sandbox: Any, client: Any) -> None:
    """known-late is taken and not found until its number comes again, which is answered 2004."""
    access = await token(sandbox, client)
    with pytest.raises(aiohttp.ClientError):
        await create(sandbox, client, access, productNo=200000537, fee=188)
    assert len(sandbox.books("dushu")["orders"]) == 1
    assert (await detail(sandbox, client, access))["status"] == "0006"
    assert (await create(sandbox, client, access, productNo=200000537, fee=188))["status"] == "2004"
    assert (await detail(sandbox, client, access))["data"]["orderStatus"] == "COMPLETE"


@pytest.mark.parametrize(("product", "ours"), [(200000512, "188.01"), (200000513, "187.99")])
async def test_a_price_that_moved_by_a_fen(sandbox: Any, client: Any, product: int, ours: str) -> None:
    """The catalogue's 188 is refused with 2002, the supplier's own price is taken."""
    access = await token(sandbox, client)
    assert (await create(sandbox, client, access, productNo=product, fee=188))["status"] == "2002"
    answer = await create(sandbox, client, access, productNo=product, fee=float(ours))
    assert answer["status"] == "0000"
    assert Decimal(sandbox.books("dushu")["orders"][0]["charged"]) == Decimal(ours)


@pytest.mark.parametrize("code", [f"10000{n}" for n in range(1, 10)] + ["100010", "100011", "100012", "100013"])
async def test_gateway_codes_have_their_http_status(sandbox: Any, client: Any, code: str) -> None:
    """401 for tokens, 403 for rights and addresses, else 200; ordered by hand, nothing is booked."""
    access = await token(sandbox, client)
    await sandbox.order("dushu", "answer", refuse={"code": code, "text": "网关"})
    status, answer = await call(sandbox, client, access, "/vip/order/create", order())
    expected = 401 if code in ("100002", "100003", "100004") else 403 if code >= "100008" else 200
    assert (status, answer["status"], answer["msg"]) == (expected, code, "网关")
    assert sandbox.books("dushu")["orders"] == []


async def test_foreign_callbacks_are_not_the_suppliers(start: Any, client: Any, receiver: Any, until: Any) -> None:
    """foreign-callbacks posts what no page documents to where callbacks of this account would go."""
    sandbox = await start(callback_url=receiver.url)
    access = await token(sandbox, client)
    await create(sandbox, client, access, productNo=200000631, fee=188)
    sent = await until(lambda: len(found := sandbox.books("dushu")["orders"][0]["callbacks"]) == 6 and found)
    assert {attempt["url"] for attempt in sent} == {receiver.url.rpartition("/")[0] + "/dushu"}
    assert "tradeNo=DS1" in sent[4]["body"]
    assert '"DS202401010001"' in sent[5]["body"]


async def test_a_proxy_helps_no_forger(sandbox: Any, client: Any) -> None:
    """It writes genuine create calls anew, and no others."""
    access = await token(sandbox, client)
    body = order(productNo=200000505, fee=188)
    url = f"{sandbox.url}/dushu/vip/order/create?appid={APPID}&sign={'0' * 40}&access_token={access}"
    assert (await client.post_for_status(url, body.encode()))[1]["status"] == "100001"
    assert (await create(sandbox, client, access, productNo=200000505, fee=188))["status"] == "0000"


async def test_two_units_cost_twice_the_fee_of_one_or_the_fee_of_both(sandbox: Any, client: Any) -> None:
    """As the platform is told to read it."""
    access = await token(sandbox, client)
    assert (await create(sandbox, client, access, buyCount=2, tradeNo="A"))["status"] == "0000"
    assert (await create(sandbox, client, access, buyCount=2, fee=730, tradeNo="B"))["status"] == "2002"
    await sandbox.order("dushu", "mode", fee="total")
    assert (await create(sandbox, client, access, buyCount=2, tradeNo="C"))["status"] == "2002"
    assert (await create(sandbox, client, access, buyCount=2, fee=730, tradeNo="D"))["status"] == "0000"
    assert [bought["charged"] for bought in sandbox.books("dushu")["orders"]] == ["730.00", "730.00"]
