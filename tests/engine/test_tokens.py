"""Access tokens: when they are renewed, by whom, and what happens while they are."""

import asyncio

import pytest

from reward_adapters.contract import NotSent, NotSentCause
from reward_server.domain.order import OrderState
from reward_server.engine import account as account_module
from reward_server.engine.account import Account

from .rig import Asked, Reply, Rig, Rigged, hangs_up, traits, until

LIFETIME = 1000.0
MARGIN = 200.0
"""A fifth of the lifetime; less than the 300 s that are configured by default."""


async def with_token(rigged: Rigged, *, margin: float = 300.0, lifetime: float = LIFETIME) -> tuple[Rig, Account]:
    """An account that holds its first token."""
    rig = await rigged(a=traits(needs_token=True, token_margin=margin))
    rig.suppliers["a"].token_lifetime = lifetime
    assert await rig.accounts["a"].ensure_token() is None
    assert rig.accounts["a"].context().token == "token1"
    return rig, rig.accounts["a"]


async def fetched(account: Account) -> None:
    """Waits for the renewal that is under way, if one is."""
    if account._token_fetch is not None:
        await account._token_fetch


def hold_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """From now on tokens are given when the gate opens."""
    gate = asyncio.Event()
    give = rig.script.token

    async def waits(asked: Asked) -> Reply:
        await gate.wait()
        return await give(asked)

    monkeypatch.setattr(rig.script, "token", waits)
    return gate


@pytest.mark.parametrize(
    ("configured", "lifetime", "margin"),
    [(300.0, 3600.0, 300.0), (300.0, 1000.0, 200.0), (50.0, 1000.0, 50.0)],
    ids=["configured", "a fifth", "configured is less"],
)
async def test_margin(rigged: Rigged, configured: float, lifetime: float, margin: float) -> None:
    """A token is renewed the configured time before its end, or with a fifth of its life left if that is later; not
    before, and once."""
    rig, account = await with_token(rigged, margin=configured, lifetime=lifetime)
    rig.clock.advance(lifetime - margin - 3.0)
    assert account.token_ready()
    await fetched(account)
    assert rig.script.token_calls == 1
    rig.clock.advance(4.0)
    assert account.token_ready()
    await fetched(account)
    assert account.token_ready()
    await fetched(account)
    assert rig.script.token_calls == 2
    assert account.context().token == "token2"


async def test_old_token_is_used_during_its_renewal(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Purchases don't wait for a renewal: they go on with the old token, and with the new one once it is there."""
    rig, account = await with_token(rigged)
    gate = hold_back(rig, monkeypatch)
    rig.clock.advance(LIFETIME - MARGIN + 1.0)
    for client_order_id in ("1", "2"):
        await rig.when_state(await rig.order("a", client_order_id), OrderState.FULFILLED)
    assert rig.script.token_calls == 2
    gate.set()
    await fetched(account)
    await rig.when_state(await rig.order("a", "3"), OrderState.FULFILLED)
    assert [place.token for place in rig.script.places()] == ["token1", "token1", "token2"]
    assert rig.script.token_calls == 2


async def test_token_is_not_used_after_its_end(rigged: Rigged) -> None:
    """A token that ended is no token: a purchase waits for the next one."""
    rig, account = await with_token(rigged)
    rig.clock.advance(LIFETIME + 1.0)
    assert not account.token_ready()
    await rig.when_state(await rig.order("a"), OrderState.FULFILLED)
    assert [place.token for place in rig.script.places()] == ["token2"]


async def test_many_callers_share_one_fetch(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many need a token at once, it is asked for once."""
    rig = await rigged(a=traits(needs_token=True))
    gate = hold_back(rig, monkeypatch)
    account = rig.accounts["a"]
    callers = [asyncio.create_task(account.ensure_token()) for _ in range(20)]
    orders = [await rig.order("a", str(i)) for i in range(5)]
    await until(lambda: rig.script.token_calls)
    assert not any(caller.done() for caller in callers)
    assert not rig.script.places()
    gate.set()
    assert await asyncio.gather(*callers) == [None] * 20
    for order in orders:
        await rig.when_state(order, OrderState.FULFILLED)
    assert {place.token for place in rig.script.places()} == {"token1"}
    assert rig.script.token_calls == 1


async def test_cancelled_caller_leaves_the_fetch_to_the_others(rigged: Rigged, monkeypatch: pytest.MonkeyPatch) -> None:
    """One caller that gives up takes nothing from the others."""
    rig = await rigged(a=traits(needs_token=True))
    gate = hold_back(rig, monkeypatch)
    first, second = (asyncio.create_task(rig.accounts["a"].ensure_token()) for _ in range(2))
    await until(lambda: rig.script.token_calls)
    first.cancel()
    await asyncio.wait({first})
    gate.set()
    assert await second is None
    assert rig.script.token_calls == 1


async def test_token_of_an_earlier_run_is_used(rigged: Rigged) -> None:
    """After a restart the stored token is used until the end it had, and it lies in the store sealed."""
    rig, _ = await with_token(rigged)
    rig.clock.advance(LIFETIME / 2)
    await rig.restart({"a": traits(needs_token=True)})
    rig.suppliers["a"].token_lifetime = LIFETIME
    await rig.when_state(await rig.order("a", "1"), OrderState.FULFILLED)
    assert rig.script.token_calls == 1
    stored = await rig.store.token("a")
    assert stored is not None
    assert b"token1" not in stored.sealed
    assert stored.expires_at - stored.fetched_at == 1000 * LIFETIME
    rig.clock.advance(LIFETIME / 2 + 1.0)
    await rig.when_state(await rig.order("a", "2"), OrderState.FULFILLED)
    assert [place.token for place in rig.script.places()] == ["token1", "token2"]


async def test_token_of_an_earlier_run_that_ends_soon_is_used_and_replaced(rigged: Rigged) -> None:
    """A stored token that is due for renewal serves while another is fetched beside it."""
    rig, _ = await with_token(rigged)
    rig.clock.advance(LIFETIME - MARGIN + 1.0)
    await rig.restart({"a": traits(needs_token=True)})
    calls = rig.script.token_calls
    await rig.when_state(await rig.order("a"), OrderState.FULFILLED)
    await rig.when_state(await rig.order("a", "2"), OrderState.FULFILLED)
    await fetched(rig.accounts["a"])
    assert rig.script.token_calls == calls + 1
    await rig.when_state(await rig.order("a", "3"), OrderState.FULFILLED)
    tokens = [place.token for place in rig.script.places()]
    assert (tokens[0], tokens[-1]) == ("token1", "token2")


async def test_refused_token_is_not_taken_from_the_store(rigged: Rigged) -> None:
    """A token that the supplier refused is in the store still, and is not what replaces it."""
    rig, account = await with_token(rigged)
    account.drop_token("token1")
    assert not account.token_ready()
    assert await account.ensure_token() is None
    assert account.context().token == "token2"
    account.drop_token("token1")
    assert account.context().token == "token2"
    assert rig.script.token_calls == 2


async def test_failing_renewal_keeps_the_old_token_until_its_end(
    rigged: Rigged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While tokens can't be had the old one serves to its end, the supplier is asked again now and then, and after the
    end nothing is sent."""
    monkeypatch.setattr(account_module, "FIRST_HOLD_SECONDS", 0.01)
    rig, account = await with_token(rigged)
    monkeypatch.setattr(rig.script, "token", hangs_up)
    rig.clock.advance(LIFETIME - MARGIN + 1.0)
    for client_order_id in ("1", "2"):
        await rig.when_state(await rig.order("a", client_order_id), OrderState.FULFILLED)
        await fetched(account)
    assert rig.script.token_calls == 2
    rig.clock.advance(account_module.LONGEST_HOLD_SECONDS)
    assert account.token_ready()
    await fetched(account)
    assert rig.script.token_calls == 3
    rig.clock.advance(MARGIN - account_module.LONGEST_HOLD_SECONDS - 5.0)
    await rig.when_state(await rig.order("a", "3"), OrderState.FULFILLED)
    assert {place.token for place in rig.script.places()} == {"token1"}
    await fetched(account)
    rig.clock.advance(5.0)
    result = await account.ensure_token()
    assert isinstance(result, NotSent)
    assert result.cause is NotSentCause.NO_TOKEN
    asked = rig.script.token_calls
    await rig.order("a", "4")
    await until(lambda: rig.script.token_calls > asked)
    assert len(rig.script.places()) == 3
