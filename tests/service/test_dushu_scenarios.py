"""Dushu's scenarios, where more is to be said than how an order ends: judged by the sandbox's books."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from reward_adapters import load_adapter
from reward_adapters.contract import Call, Context, HttpReply, HttpRequest, Listing, Token
from reward_adapters.money import show_yuan
from reward_sandbox import SandboxSettings
from reward_sandbox.dushu import APPID, APPSECRET, PAY_TYPE
from reward_sandbox.scenario import Scenario
from reward_sandbox.scenarios.dushu import SCENARIOS
from rewardservice.v1 import order_pb2

from .harness import Service, service
from .stage import expectation, outcome, play, samples, state
from .timelapse import LeapingClock, LeapingLoop, run

KIND = "dushu"
PHONES = [f"1380013800{n}" for n in range(6)]


def scenario(name: str) -> Scenario:
    return next(one for one in SCENARIOS if one.name == name)


def phone(number: str) -> order_pb2.Recipient:
    return order_pb2.Recipient(phone=order_pb2.PhoneNumber(number=number))


async def buy(running: Service, number: str, *, product: str = "membership") -> order_pb2.Order:
    """Orders for a phone number and waits for the end of it."""
    created = await running.client.create(f"{KIND}/{product}", f"{product}-{number}", recipient=phone(number))
    return await running.client.until(created.order.order_id)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Service]:
    async with service(tmp_path, kinds=(KIND,)) as one:
        yield one


async def test_the_order_number_is_kept_to_the_last_digit(tmp_path: Path) -> None:
    """19 digits, more than a double can tell apart."""
    async with play(KIND, scenario("membership"), tmp_path) as played:
        (bought,) = played.books["orders"]
        assert len(bought["supplier_number"]) == 19
        assert played.explained.purchases[0].supplier_reference == bought["supplier_number"]


# --- Access tokens


async def test_parallel_orders_share_one_token(running: Service) -> None:
    """Six orders that come before there is any token fetch one together."""
    orders = await asyncio.gather(*(buy(running, number) for number in PHONES))
    assert {state(order) for order in orders} == {"fulfilled"}
    assert running.sandbox.desk(KIND).tokens.issued == 1


async def test_parallel_orders_renew_a_refused_token_once(running: Service) -> None:
    """All meet 100003 with the same token: one new token serves them all, and each is charged once."""
    await buy(running, "13900139000")
    await running.sandbox.order(KIND, "tokens")
    orders = await asyncio.gather(*(buy(running, number) for number in PHONES))
    assert {state(order) for order in orders} == {"fulfilled"}
    assert running.sandbox.desk(KIND).tokens.issued == 2
    assert [bought["charged"] for bought in running.books(KIND)] == ["365.00"] * 7
    assert running.sandbox.desk(KIND).creates <= 1 + 2 * 6


async def test_no_order_fails_while_somebody_else_fetches_tokens(running: Service) -> None:
    """Ours goes on for five minutes; then it is renewed, and the order that found out is sent once more."""
    tokens = running.sandbox.desk(KIND).tokens
    first = await buy(running, PHONES[0])
    query = f"grant_type=client_credentials&client_id={APPID}&client_secret={APPSECRET}"
    async with aiohttp.ClientSession() as session:
        await session.post(f"{running.sandbox.url}/{KIND}/oauth/token?{query}")
    running.sandbox.forward(299)
    second = await buy(running, PHONES[1])
    assert tokens.issued == 2
    running.sandbox.forward(1)
    third = await buy(running, PHONES[2])
    assert tokens.issued == 3
    assert {state(order) for order in (first, second, third)} == {"fulfilled"}
    assert running.sandbox.desk(KIND).creates == 4
    assert len(running.books(KIND)) == 3


async def test_the_present_token_serves_when_no_more_are_given(running: Service) -> None:
    """A day's tokens are used up: orders go on with the one there is."""
    await buy(running, PHONES[0])
    await running.sandbox.order(KIND, "mode", tokens_left="none")
    assert state(await buy(running, PHONES[1])) == "fulfilled"


# --- Refusals


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("product-gone", "会期商品不存在"),
        ("price-risen", "价格校验失败"),
        ("locked-phone", "该手机号已锁定"),
        ("recharge-failed", "会期直充失败"),
    ],
)
async def test_a_refusal_is_told_in_the_suppliers_words(tmp_path: Path, name: str, words: str) -> None:
    """Its text reaches the client; the phone number doesn't."""
    async with play(KIND, scenario(name), tmp_path) as played:
        assert words in played.order.failure.message
        assert "13800138000" not in played.order.failure.message


@pytest.mark.rule("P6")
async def test_an_order_sent_three_times_keeps_its_number(tmp_path: Path) -> None:
    """One purchase, one number, three create calls and no more; what happened is told to the operator."""
    async with play(KIND, scenario("lost-always"), tmp_path) as played:
        (purchase,) = played.explained.purchases
        refused = played.books["refusals"]
        proofs = [entry for entry in purchase.evidence if entry.outcome == "AbsenceProven"]
    assert [one["number"] for one in refused] == [purchase.number] * 3
    assert [proof.detail for proof in proofs[:-1]] == ["will be sent again under the same number"] * 2
    assert purchase.sends == 3


async def test_a_proxy_that_hands_calls_over_twice_buys_once(tmp_path: Path) -> None:
    """The supplier saw the number twice and charged once; the client's 2004 is no refusal."""
    async with play(KIND, scenario("sent-twice"), tmp_path) as played:
        (bought,) = played.books["orders"]
        assert (bought["requests"], bought["charged"]) == (2, "188.00")
        assert [one["reason"] for one in played.books["refusals"]] == ["2004 订单号重复"]
        assert state(played.order) == "fulfilled"


def test_a_refused_address_is_not_asked_in_a_loop(tmp_path: Path) -> None:
    """Ten minutes of 100012 are at most one create call a minute and order; then all are bought once."""
    run(lambda: _refuse_the_address_for_ten_minutes(tmp_path))


async def _refuse_the_address_for_ten_minutes(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LeapingLoop)
    clock = LeapingClock(loop)
    sandbox = SandboxSettings(clock=clock.seconds)
    async with service(folder, sandbox=sandbox, clock=clock, kinds=(KIND,)) as running:
        desk = running.sandbox.desk(KIND)
        await buy(running, "13900139000")
        await running.sandbox.order(KIND, "mode", allow_list="others")
        waiting = [asyncio.create_task(buy(running, number)) for number in PHONES[:2]]
        for _ in range(200):
            await asyncio.sleep(0.01)
            loop.leap(3.0)
        paused = samples(running.app.metrics, "reward_account_paused")
        assert paused[f'{{account="{KIND}"}}'] == 1.0
        assert 2 <= desk.creates <= 1 + 2 * 11
        assert len(running.books(KIND)) == 1
        await running.sandbox.order(KIND, "mode", allow_list="open")
        loop.leap(61.0)
        orders = await asyncio.gather(*waiting)
        assert {state(order) for order in orders} == {"fulfilled"}
        assert len(running.books(KIND)) == 3


# --- Callbacks


async def test_a_posted_callback_is_refused_like_one_for_nobody(tmp_path: Path) -> None:
    """HTTP 404 for each, and none of them is evidence."""
    async with play(KIND, scenario("foreign-callbacks"), tmp_path) as played:
        (bought,) = played.books["orders"]
        (purchase,) = played.explained.purchases
    assert {attempt["status"] for attempt in bought["callbacks"]} == {404}
    assert {entry.source for entry in purchase.evidence} == {"place", "query"}


# --- What else there is


@pytest.mark.parametrize("name", ["locked-phone", "slow-recharge"])
async def test_a_magic_phone_number_chooses_the_course(tmp_path: Path, name: str) -> None:
    """Another product takes the scenario's course, at its own price."""
    chosen = scenario(name)
    async with play(KIND, chosen, tmp_path, product=f"{KIND}/membership", recipient=chosen.magic) as played:
        assert outcome(played) == expectation(chosen)
        assert all(bought["charged"] == "365.00" for bought in played.books["orders"])


async def test_the_product_list_is_read_whole(running: Service) -> None:
    """Every product with its price, whole or decimal, and its time in years, months or days."""
    adapter = load_adapter(KIND)
    config = adapter.config(
        base_url=f"{running.sandbox.url}/{KIND}/", appid=APPID, appsecret=APPSECRET, pay_type=PAY_TYPE
    )
    supplier = adapter.supplier(config)
    context = Context(datetime.now(UTC), None)
    fetch = supplier.fetch_token(context)
    assert isinstance(fetch, Call)
    token = fetch.read(await ask(fetch.request))
    assert isinstance(token, Token)
    call = supplier.products(Context(context.now, token.value))
    assert isinstance(call, Call)
    listing = call.read(await ask(call.request))
    assert isinstance(listing, Listing)
    listed = {product.number: product for product in listing.products}
    assert set(listed) == {one.product for one in SCENARIOS}
    for name, membership in (
        ("membership", "1 year"),
        ("half-year", "6 months"),
        ("two-quarters", "3 months"),
        ("day-card", "7 days"),
    ):
        wanted = scenario(name)
        found = listed[wanted.product]
        assert found.price is not None
        assert Decimal(show_yuan(found.price)) == wanted.unit_price
        assert found.name == wanted.title
        assert found.details["membership"] == membership


async def ask(request: HttpRequest) -> HttpReply:
    """One exchange."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(request.method, request.url, data=request.body, headers=request.headers) as response,
    ):
        return HttpReply(response.status, await response.read(), dict(response.headers))
