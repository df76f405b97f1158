"""The control API over HTTP: what each action does on the wire, and what is said to a body that can't be understood."""

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from reward_sandbox import dushu
from reward_sandbox.control import ACTIONS
from reward_sandbox.faults import CALLS
from reward_sandbox.kasushou import APIKEY, CALLBACK_GAPS, USER_ID

CARD = "2909"
KIND = "kasushou"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Site:
    """A Kasushou site and its control API, spoken by hand."""

    sandbox: Any
    session: aiohttp.ClientSession
    clock: Any

    async def ask(self, path: str, **members: object) -> Answer:
        """One signed call."""
        body = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
        timestamp = str(int(self.clock() * 1000))
        sign = hashlib.sha1(timestamp.encode() + body + APIKEY.encode(), usedforsecurity=False).hexdigest()
        headers = {"UserId": USER_ID, "Timestamp": timestamp, "Sign": sign, "Content-Type": "application/json"}
        return await self.post(f"/{KIND}/api/v1/{path}", body, headers)

    async def buy(self, number: str = "S1", **members: object) -> Answer:
        """One card."""
        return await self.ask("order/buy", **{"external_orderno": number, "id": int(CARD), "quantity": 1, **members})

    async def look(self, number: str = "S1") -> Any:
        """The order's entry."""
        (entry,) = (await self.ask("order/info", external_orderno=number)).json["data"]
        return entry

    async def order(self, action: str, *, kind: str = KIND, **body: object) -> Any:
        """One action of the control API, and what holds then."""
        answer = await self.post(f"/control/{kind}/{action}", json.dumps(body).encode())
        assert answer.status == 200, answer.body
        return answer.json

    async def wrong(self, path: str, body: object) -> str:
        """Why a body is refused."""
        answer = await self.post(f"/control/{path}", body if isinstance(body, bytes) else json.dumps(body).encode())
        assert answer.status == 400, answer.body
        assert set(answer.json) == {"error"}
        return str(answer.json["error"])

    async def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        """Raw bytes, on a connection of their own."""
        url = self.sandbox.url + path
        async with self.session.post(
            url, data=body, headers={**(headers or {}), "Connection": "close"}, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    @property
    def books(self) -> list[dict[str, Any]]:
        """The orders in the books."""
        orders: list[dict[str, Any]] = self.sandbox.books(KIND)["orders"]
        return orders


@pytest.fixture
def site(sandbox: Any, client: Any, clock: Any) -> Site:
    return Site(sandbox, client.session, clock)


@pytest.fixture
async def slow_site(start: Any, client: Any, clock: Any) -> Site:
    """Its orders stay in a state for 100 s."""
    return Site(await start(step_seconds=100.0), client.session, clock)


# --- answer


async def test_an_ordered_answer_replaces_the_proper_one(site: Site) -> None:
    """Status, body, type and headers as ordered; the order is taken all the same, and the next answer is proper."""
    shown = await site.order(
        "answer", status=502, body="<html>", content_type="text/html", headers={"X-Proxy": "squid"}
    )
    assert shown["answers"] == {"create": ["1 x ordered"]}
    answer = await site.buy()
    assert (answer.status, answer.body) == (502, b"<html>")
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers["X-Proxy"] == "squid"
    assert [order["number"] for order in site.books] == ["S1"]
    assert (await site.buy("S2")).json["code"] == 200


async def test_a_request_is_handed_over_twice(site: Site) -> None:
    """Something on the way repeats it: the second answer is the one that arrives, here the refusal of a used number."""
    await site.order("answer", call="create", twice=True)
    assert (await site.buy("S1")).json["code"] == 400
    assert [order["number"] for order in site.books] == ["S1"]
    assert (await site.buy("S2")).json["code"] == 200


async def test_an_answer_of_deep_json_goes_out_as_ordered(site: Site) -> None:
    """However little sense it makes."""
    await site.order("answer", call="create", body="[" * 60_000)
    answer = await site.buy("S1")
    assert (answer.status, len(answer.body)) == (200, 60_000)


async def test_an_unbooked_answer_takes_no_order(site: Site) -> None:
    """The call leaves nothing but a refusal in the books."""
    await site.order("answer", status=500, body="", booked=False)
    assert (await site.buy()).status == 500
    assert site.books == []
    assert len(site.sandbox.books(KIND)["refusals"]) == 1


async def test_a_refusal_is_written_in_the_suppliers_envelope(site: Site) -> None:
    """Nothing is booked, unless that was ordered."""
    await site.order("answer", refuse={"code": "400", "text": "商品库存不足"})
    assert (await site.buy()).json == {"code": 400, "msg": "商品库存不足"}
    assert site.books == []
    await site.order("answer", refuse={"text": "系统错误"}, booked=True)
    assert (await site.buy()).json["msg"] == "系统错误"
    assert len(site.books) == 1


@pytest.mark.parametrize(
    ("call", "path", "members"),
    [
        ("query", "order/info", {"external_orderno": "S1"}),
        ("cancel", "order/close", {"ordersn": "API1"}),
        ("balance", "user/info", {}),
        ("products", "goods/list", {}),
    ],
)
async def test_every_call_can_be_answered_wrongly(site: Site, call: str, path: str, members: dict[str, str]) -> None:
    """As often as ordered, and no other call."""
    await site.buy()
    await site.order("answer", call=call, next=2, status=503, body="busy")
    for _ in range(2):
        assert (await site.ask(path, **members)).body == b"busy"
    assert (await site.ask(path, **members)).status == 200


async def test_token_calls_can_be_answered_wrongly(site: Site) -> None:
    """They belong to the suppliers that have tokens."""
    await site.order("answer", kind="dushu", call="token", status=500, body="down")
    query = f"grant_type=client_credentials&client_id={dushu.APPID}&client_secret={dushu.APPSECRET}"
    assert (await site.post(f"/dushu/oauth/token?{query}", b"")).body == b"down"
    assert (await site.post(f"/dushu/oauth/token?{query}", b"")).json["tokenType"] == "bearer"


async def test_ordered_answers_come_in_their_order(site: Site) -> None:
    """What was ordered first comes first; a call that was ordered for no times is none."""
    await site.order("answer", next=0, body="never")
    for body in ("first", "second"):
        await site.order("answer", body=body)
    assert [(await site.buy(number)).body for number in ("S1", "S2")] == [b"first", b"second"]
    assert (await site.buy("S3")).json["code"] == 200


async def test_an_answer_waits_as_ordered(site: Site) -> None:
    """It is booked before, and comes once the sandbox's time has passed."""
    await site.order("answer", delay=500)
    pending = asyncio.create_task(site.buy())
    while not site.books:  # noqa: ASYNC110 - the books signal nothing
        await asyncio.sleep(0)
    assert site.books[0]["times"]["answered"] is None
    assert (await site.post("/control/clock", b'{"forward": 501}')).status == 200
    assert (await pending).json["code"] == 200


async def test_an_answer_never_comes(site: Site) -> None:
    """The connection stays open and silent until the client leaves."""
    await site.order("answer", never=True)
    pending = asyncio.create_task(site.buy())
    while not site.books:  # noqa: ASYNC110 - the books signal nothing
        await asyncio.sleep(0)
    assert not pending.done()
    pending.cancel()
    await asyncio.gather(pending, return_exceptions=True)


@pytest.mark.parametrize("how", [{"drop": True}, {"cut": 5}])
async def test_a_connection_breaks(site: Site, how: dict[str, Any]) -> None:
    """Before the answer, or in the middle of it; the order is taken."""
    await site.order("answer", **how)
    with pytest.raises(aiohttp.ClientError):
        await site.buy()
    assert len(site.books) == 1


async def test_an_answer_drips(site: Site) -> None:
    """Byte by byte, and whole in the end."""
    await site.order("answer", drip=0.0001)
    assert (await site.buy()).json["code"] == 200


# --- limit, down, hold


async def test_calls_are_limited(site: Site) -> None:
    """HTTP 429, with the seconds to wait where they were ordered; nothing is taken."""
    await site.order("limit", next=1, retry_after=7)
    await site.order("limit", call="query")
    limited = await site.buy()
    assert (limited.status, limited.headers["Retry-After"]) == (429, "7")
    assert site.books == []
    assert (await site.buy()).status == 200
    looked = await site.ask("order/info", external_orderno="S1")
    assert looked.status == 429
    assert "Retry-After" not in looked.headers


async def test_a_supplier_that_is_down_answers_no_call(site: Site) -> None:
    """Queries are cut as well; other suppliers go on."""
    await site.order("down", down=True)
    with pytest.raises(aiohttp.ClientError):
        await site.ask("user/info")
    assert (await site.post("/dushu/oauth/token", b"")).status == 401
    assert (await site.order("down", down=False))["down"] is False
    assert (await site.ask("user/info")).status == 200


async def test_answers_are_held_and_released(site: Site, until: Any) -> None:
    """Without a number all create calls are held, queries never; `release` tells how many went."""
    await site.order("hold")
    calls = [asyncio.create_task(site.buy(number)) for number in ("S1", "S2", "S3")]
    await until(lambda: site.sandbox.gate(KIND).held == 3)
    assert (await site.look("S1"))["external_orderno"] == "S1"
    released = await site.order("release")
    assert (released["released"], released["hold"]) == (3, 0)
    assert [answer.json["code"] for answer in await asyncio.gather(*calls)] == [200] * 3


@pytest.mark.parametrize(("when", "booked"), [("before", 0), ("after", 1)])
async def test_create_calls_are_dropped(site: Site, when: str, booked: int) -> None:
    """Before or after the order is taken."""
    await site.order("drop", when=when, next=1)
    with pytest.raises(aiohttp.ClientError):
        await site.buy()
    assert len(site.books) == booked


# --- Orders


async def test_a_callback_is_sent_by_hand(slow_site: Site, receiver: Any) -> None:
    """Once, about the order as it stands; the answer is shown. By default it is about the latest order."""
    receiver.answers = [b"ok", b"nonsense"]
    await slow_site.buy("S1", url=receiver.url)
    await slow_site.buy("S2", url=receiver.url)
    told = (await slow_site.order("callback", number="S1"))["callback"]
    assert (told["status"], told["answer"], told["accepted"]) == (200, "ok", True)
    assert json.loads(told["body"])["external_orderno"] == "S1"
    told = (await slow_site.order("callback"))["callback"]
    assert (told["answer"], told["accepted"]) == ("nonsense", False)
    assert json.loads(receiver.bodies[1])["external_orderno"] == "S2"
    assert len(receiver.bodies) == 2


async def test_callbacks_are_held_and_sent_backwards(site: Site, receiver: Any, until: Any) -> None:
    """The latest first; afterwards they go out by themselves again."""
    receiver.answers = [b"ok"]
    assert (await site.order("callbacks", send="hold"))["callbacks"] == "hold"
    for number in ("S1", "S2"):
        await site.buy(number, url=receiver.url)
        await until(lambda: site.books[-1]["outcome"] == "delivered")
    assert receiver.bodies == []
    sent = await site.order("callbacks", send="backwards")
    assert (sent["callbacks_sent"], sent["callbacks"]) == (2, "now")
    await until(lambda: len(receiver.bodies) == 2)
    assert [json.loads(body)["external_orderno"] for body in receiver.bodies] == ["S2", "S1"]
    await site.order("callbacks", send="twice")
    await site.buy("S3", url=receiver.url)
    await until(lambda: len(receiver.bodies) == 4)
    assert receiver.bodies[2] == receiver.bodies[3]


async def test_an_order_is_moved_by_hand(slow_site: Site, receiver: Any, until: Any) -> None:
    """Looks show the new state and the money paid back, and the callback tells of it."""
    receiver.answers = [b"ok"]
    await slow_site.buy("S1", url=receiver.url)
    await slow_site.buy("S2")
    balance = (await slow_site.ask("user/info")).json["data"]["balance"]
    moved = await slow_site.order("state", number="S1", state=5, refund="1", callback=True)
    assert (moved["order"]["number"], moved["order"]["state"], moved["order"]["refunded"]) == ("S1", 5, "98.50")
    entry = await slow_site.look("S1")
    assert (entry["status"], entry["has_back_money"]) == (5, "98.50")
    assert float((await slow_site.ask("user/info")).json["data"]["balance"]) == pytest.approx(float(balance) + 98.5)
    await until(lambda: receiver.bodies)
    assert json.loads(receiver.bodies[0])["status"] == "5"
    assert (await slow_site.look("S2"))["status"] == 1
    await slow_site.post("/control/clock", b'{"forward": 1000}')
    assert (await slow_site.look("S1"))["status"] == 5


# --- Goods and money


async def test_a_price_is_moved(site: Site) -> None:
    """The list shows it, orders are charged it, and the client's limit is compared with it."""
    shown = await site.order("price", product=CARD, price="99.10")
    assert shown["prices"] == {CARD: "99.10"}
    listed = {goods["id"]: goods for goods in (await site.ask("goods/list")).json["data"]["list"]}
    assert listed[int(CARD)]["goods_price"] == "99.10"
    assert "safe_price" in (await site.buy("S1", safe_price="99.00")).json["msg"]
    assert (await site.buy("S1")).json["data"]["total_price"] == "99.10"
    assert site.books[0]["charged"] == "99.10"


async def test_stock_runs_out(site: Site) -> None:
    """It counts what was sold, and the list shows what is left."""
    assert (await site.order("stock", product=CARD, stock=1))["stocks"] == {CARD: 1}
    assert (await site.buy("S1")).json["code"] == 200
    assert "库存" in (await site.buy("S2")).json["msg"]
    assert len(site.books) == 1


async def test_the_deposit_runs_out(site: Site) -> None:
    """The balance call shows it, and an order beyond it is refused."""
    assert (await site.order("balance", balance="98.49"))["balance"] == "98.49"
    assert (await site.ask("user/info")).json["data"]["balance"] == "98.49"
    assert "余额" in (await site.buy()).json["msg"]
    await site.order("balance", balance="98.50")
    assert (await site.buy()).json["code"] == 200
    assert (await site.ask("user/info")).json["data"]["balance"] == "0.00"


async def test_tokens_are_ended(site: Site) -> None:
    """A good token isn't any more, and new ones live as long as ordered."""
    query = f"grant_type=client_credentials&client_id={dushu.APPID}&client_secret={dushu.APPSECRET}"
    token = (await site.post(f"/dushu/oauth/token?{query}", b"")).json["value"]
    sign = dushu.signature(b"", appid=dushu.APPID, appsecret=dushu.APPSECRET)
    url = f"/dushu/vip/product/list?appid={dushu.APPID}&sign={sign}&access_token={token}"
    assert (await site.post(url, b"")).json["status"] == "0000"
    assert (await site.order("tokens", kind="dushu", lifetime=60))["expired"] == 1
    assert (await site.post(url, b"")).json["status"] == "100003"
    assert (await site.post(f"/dushu/oauth/token?{query}", b"")).json["expiresIn"] == 59


async def test_a_mode_is_changed(site: Site) -> None:
    """A repeated number is refused, answered again, or bought again, by the mode of the moment."""
    await site.buy()
    assert "重复" in (await site.buy()).json["msg"]
    assert (await site.order("mode", duplicates="replay"))["modes"] == {"duplicates": "replay"}
    assert (await site.buy()).json["code"] == 200
    assert len(site.books) == 1
    await site.order("mode", duplicates="double")
    await site.buy()
    assert len(site.books) == 2


# --- The clock, and all at once


async def test_the_clock_is_moved_forward(slow_site: Site, until: Any) -> None:
    """Stages come due; the time stamps of requests are still checked by the present."""
    await slow_site.buy()
    assert (await slow_site.look())["status"] == 1
    answer = await slow_site.post("/control/clock", b'{"forward": 86400}')
    assert answer.json == {"forward": 86400.0}
    await until(lambda: slow_site.books[0]["outcome"] == "delivered")
    assert (await slow_site.look())["status"] == 3
    accepted, settled = (slow_site.books[0]["times"][name] for name in ("accepted", "settled"))
    assert settled - accepted >= 86400


async def test_a_day_brings_a_whole_callback_plan(
    start: Any, client: Any, clock: Any, receiver: Any, until: Any
) -> None:
    """Every repeat that falls into the leap is sent, not just the next one."""
    site = Site(await start(callback_scale=1.0), client.session, clock)
    receiver.answers = [b"not yet"]
    await site.buy(url=receiver.url)
    await until(lambda: site.books[0]["callbacks"] and site.books[0]["callbacks"][0]["status"])
    await site.post("/control/clock", b'{"forward": 86400}')
    await until(lambda: len(site.books[0]["callbacks"]) == 1 + len(CALLBACK_GAPS))


async def test_a_reset_lifts_everything(site: Site) -> None:
    """Faults, modes, prices, stocks, the deposit and what is held; what holds is shown by `GET /control`."""
    async with site.session.get(f"{site.sandbox.url}/control") as response:
        before = await response.json()
    await site.order("answer", call="query", body="x", next=9)
    await site.order("drop", when="after", next=2)
    await site.order("hold", next=1)
    await site.order("price", product=CARD, price="1.00")
    await site.order("stock", product=CARD, stock=1)
    await site.order("balance", balance="0.00")
    await site.order("mode", duplicates="replay")
    await site.order("callbacks", send="hold")
    await site.order("tokens", kind="dushu", lifetime=1)
    async with site.session.get(f"{site.sandbox.url}/control") as response:
        assert await response.json() != before
    assert (await site.post("/control/reset", b"")).json == {"reset": True}
    async with site.session.get(f"{site.sandbox.url}/control") as response:
        assert await response.json() == before
    query = f"grant_type=client_credentials&client_id={dushu.APPID}&client_secret={dushu.APPSECRET}"
    assert (await site.post(f"/dushu/oauth/token?{query}", b"")).json["expiresIn"] == 7199


@pytest.mark.parametrize("action", ACTIONS)
async def test_the_examples_of_the_handbook_are_understood(slow_site: Site, receiver: Any, action: str) -> None:
    """Each body that it shows is one that the action takes."""
    receiver.answers = [b"ok"]
    await slow_site.buy("S1", url=receiver.url)
    body = json.loads(ACTIONS[action].example)
    for name, value in (("number", "S1"), ("product", CARD)):
        if name in body:
            body[name] = value
    shown = await slow_site.order(action, **body)
    assert shown["balance"]


# --- Bodies that can't be understood

WRONG = [
    ("hold", {"next": -1}, "next must be a whole number"),
    ("hold", {"next": "1"}, "next must be a whole number"),
    ("hold", {"next": True}, "next must be a whole number"),
    ("hold", {"nxt": 1}, "unknown: nxt; there are: next"),
    ("release", {"all": True}, "unknown: all; the body must be empty"),
    ("drop", {}, "when must be before or after"),
    ("drop", {"when": "during"}, "when must be before or after"),
    ("drop", {"when": "before", "next": 1.5}, "next must be a whole number"),
    ("down", {}, "down must be true or false"),
    ("down", {"down": 1}, "down must be true or false"),
    ("answer", {"call": "buy"}, f"call must be one of: {', '.join(CALLS)}"),
    ("answer", {"call": ["query"]}, f"call must be one of: {', '.join(CALLS)}"),
    ("answer", {"sttus": 502}, "unknown: sttus; there are: body, booked, call"),
    ("answer", {"next": -1}, "next must be a whole number"),
    ("answer", {"status": 99}, "status must be an HTTP status from 200 to 599"),
    ("answer", {"status": 600}, "status must be an HTTP status from 200 to 599"),
    ("answer", {"status": 101}, "status must be an HTTP status from 200 to 599"),
    ("answer", {"status": "502"}, "status must be"),
    ("answer", {"body": 5}, "body must be a text"),
    ("answer", {"content_type": None}, "content_type must be a text"),
    ("answer", {"content_type": "text/html\r\nX-A: b"}, "content_type must be a text in one line"),
    ("answer", {"headers": ["a"]}, "headers must be an object of texts"),
    ("answer", {"headers": {"X-A": 1}}, "headers must be an object of texts"),
    ("answer", {"headers": {"X-A": "b\r\nX-C: d"}}, "headers must be an object of texts in one line"),
    ("answer", {"never": 1}, "never must be true or false"),
    ("answer", {"drop": "yes"}, "drop must be true or false"),
    ("answer", {"booked": None}, "booked must be true or false"),
    ("answer", {"delay": -1}, "delay must be a number of seconds"),
    ("answer", {"delay": "5"}, "delay must be a number of seconds"),
    ("answer", {"drip": True}, "drip must be a number of seconds"),
    ("answer", {"cut": -5}, "cut must be a whole number"),
    ("answer", {"refuse": "400"}, 'refuse must be an object {"code": "…", "text": "…"}'),
    ("answer", {"refuse": {"code": 400}}, "code must be a text"),
    ("answer", {"refuse": {"code": "no number"}}, "refuse: no code of this supplier"),
    ("answer", {"refuse": {"reason": "x"}}, "unknown: reason; there are: code, text"),
    ("limit", {"call": "all"}, f"call must be one of: {', '.join(CALLS)}"),
    ("limit", {"next": "3"}, "next must be a whole number"),
    ("limit", {"retry_after": -1}, "retry_after must be a whole number"),
    ("callback", {"number": 5}, "number must be a text"),
    ("callback", {"number": "S9"}, "no order under number 'S9'"),
    ("callback", {"number": "S1", "name": "no-such-name"}, "no such callback"),
    ("callback", {"number": "S1", "name": 1}, "name must be a text"),
    ("callbacks", {}, "send must be hold, twice, now or backwards"),
    ("callbacks", {"send": "later"}, "send must be hold, twice, now or backwards"),
    ("state", {"number": "S1"}, "state must be one of the supplier's own states"),
    ("state", {"number": "S9", "state": 5}, "no order under number 'S9'"),
    ("state", {"number": "S1", "state": None}, "state must be one of the supplier's own states"),
    ("state", {"number": "S1", "state": "refunded"}, "state must be one of the supplier's own states, such as 1"),
    ("state", {"number": "S1", "state": 5, "refund": 1}, "refund must be a text"),
    ("state", {"number": "S1", "state": 5, "refund": "1.01"}, "refund must be a share from 0 to 1"),
    ("state", {"number": "S1", "state": 5, "callback": "yes"}, "callback must be true or false"),
    ("price", {"price": "1.00"}, "product must be a text"),
    ("price", {"product": "nothing", "price": "1.00"}, "no such product: nothing; there are: 2909"),
    ("price", {"product": CARD, "price": 12.5}, "price must be a text"),
    ("price", {"product": CARD, "price": "cheap"}, "price must be an amount in yuan as text"),
    ("price", {"product": CARD, "price": "-1"}, "price must be an amount in yuan as text"),
    ("price", {"product": CARD, "price": "NaN"}, "price must be an amount in yuan as text"),
    ("stock", {"product": CARD, "stock": -1}, "stock must be a whole number"),
    ("stock", {"product": CARD}, "stock must be a whole number"),
    ("stock", {"stock": 1}, "product must be a text"),
    ("balance", {}, "balance must be a text"),
    ("balance", {"balance": "1e999999"}, "balance must be an amount in yuan as text"),
    ("tokens", {"lifetime": "60"}, "lifetime must be a number of seconds"),
    ("tokens", {"lifetime": -1}, "lifetime must be a number of seconds"),
    ("mode", {"duplicate": "replay"}, "no such mode: duplicate; there are: duplicates"),
    ("mode", {"duplicates": "thrice"}, "duplicates must be one of: reject, replay, double"),
    ("mode", {"duplicates": ["replay"]}, "duplicates must be one of: reject, replay, double"),
    ("explode", {}, "no such action: explode; there are: hold, release"),
]


@pytest.mark.parametrize(("action", "body", "why"), WRONG)
async def test_a_wrong_body_is_told_what_is_wrong(slow_site: Site, action: str, body: object, why: str) -> None:
    """HTTP 400 in words that mend it, and nothing is ordered."""
    await slow_site.buy("S1")
    async with slow_site.session.get(f"{slow_site.sandbox.url}/control") as response:
        before = await response.json()
    assert why in await slow_site.wrong(f"{KIND}/{action}", body)
    async with slow_site.session.get(f"{slow_site.sandbox.url}/control") as response:
        assert await response.json() == before
    assert (await slow_site.look("S1"))["status"] == 1


@pytest.mark.parametrize("path", [*(f"{KIND}/{action}" for action in ACTIONS), "clock"])
@pytest.mark.parametrize(
    "body", [b"{", b"[1]", b"\xff", b'"text"', b"null", b"[" * 20_000, b'{"a": 1, "a": 2}', b'{"delay": NaN}']
)
async def test_a_body_that_is_no_object_is_refused(site: Site, path: str, body: bytes) -> None:
    """By every action in the same words."""
    assert await site.wrong(path, body) == "the body must be a JSON object"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({}, "forward must be a number of seconds"),
        ({"forward": -1}, "forward must be a number of seconds"),
        ({"forward": "86400"}, "forward must be a number of seconds"),
        ({"forward": True}, "forward must be a number of seconds"),
        ({"forward": 1e300}, "forward must be a number of seconds"),
        ({"back": 5}, "unknown: back; there are: forward"),
    ],
)
async def test_a_wrong_time_is_told_what_is_wrong(site: Site, body: object, why: str) -> None:
    """Time can't go back, or beyond all years; the clock stays."""
    before = site.sandbox.desk(KIND).clock()
    assert why in await site.wrong("clock", body)
    assert site.sandbox.desk(KIND).clock() == before


async def test_an_empty_body_is_an_empty_object(site: Site) -> None:
    """For actions that need nothing."""
    assert (await site.post(f"/control/{KIND}/release", b"")).json["released"] == 0


async def test_before_the_first_order_there_is_none_to_act_on(site: Site) -> None:
    """Said in words, not with an empty answer."""
    assert await site.wrong(f"{KIND}/state", {"state": 5}) == "no order yet"
    assert await site.wrong(f"{KIND}/callback", {}) == "no order yet"


async def test_a_supplier_that_there_isnt(site: Site) -> None:
    """HTTP 404."""
    answer = await site.post("/control/nobody/hold", b"{}")
    assert (answer.status, answer.body) == (404, b"no such supplier: nobody\n")
