"""One answer about several purchases, and answers that come from two sides at once."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web

from reward_adapters.contract import Callback
from reward_server.domain.order import OrderState, PurchaseState
from reward_server.engine.ordering import OrderRequest

from .rig import (
    ABSENT,
    BOTH,
    CONTRADICTION,
    Asked,
    Rigged,
    accepted,
    accepts_it,
    after,
    answers,
    delivered,
    rate_limited,
    refused,
    traits,
    until,
)

SHOP = {"query_batch": 20, "not_found_grace": 0.2}


def called_back(number: str, said: Mapping[str, Any] | None = None) -> Callback:
    return Callback(body=json.dumps({"number": number, "said": said}).encode())


async def in_work(asked: Asked) -> dict[str, Any]:
    return {number: accepted() for number in asked.number.split(",")}


async def test_a_number_that_spoils_an_answer_about_many_is_asked_after_alone(rigged: Rigged) -> None:
    """The shop says "no such order" for the whole list; the other order is delivered all the same."""
    rig = await rigged(a=traits(**SHOP))
    rig.script.place, rig.script.query = accepts_it, in_work
    unknown, known = await rig.order("a", "unknown"), await rig.order("a", "known")
    for order in (unknown, known):
        await rig.when(order, lambda now: now.purchases[0].state is PurchaseState.ACCEPTED)
    await rig.close()
    await rig.open({"a": traits(**SHOP)})

    async def query(asked: Asked) -> dict[str, Any]:
        numbers = asked.number.split(",")
        if unknown.purchases[0].number not in numbers:
            return {number: delivered(f"card {number}") for number in numbers}
        return {number: ABSENT if len(numbers) == 1 else {"said": "?"} for number in numbers}

    rig.script.query = query
    await rig.engine.start()
    now = await rig.when(known, lambda now: now.state.is_terminal)
    assert now.state is OrderState.FULFILLED


@pytest.mark.rule("P10")
async def test_what_is_kept_of_an_answer_about_many_holds_nobody_elses_card(rigged: Rigged) -> None:
    """An answer that leaves a doubt about one client's order delivers another's: it is asked for again, alone."""
    rig = await rigged(a=traits(**SHOP))
    rig.script.place, rig.script.query = accepts_it, in_work
    orders = []
    for client in ("shop", "other"):
        request = OrderRequest(
            client_id=client,
            client_order_id="1",
            product_id="a",
            quantity=1,
            recipient=None,
            max_unit_price=None,
            supplier_parameters={},
            metadata={},
        )
        orders.append((await rig.engine.create(request)).order)
    doubtful, _ = orders

    async def states() -> list[PurchaseState]:
        stored = [await rig.store.order(order.client_id, order.order_id) for order in orders]
        return [order.purchases[0].state for order in stored if order is not None]

    while await states() != [PurchaseState.ACCEPTED] * 2:  # noqa: ASYNC110 - the rig watches one client only
        await asyncio.sleep(0.01)
    await rig.close()
    await rig.open({"a": traits(**SHOP)})

    async def query(asked: Asked) -> dict[str, Any]:
        ours = doubtful.purchases[0].number
        return {n: CONTRADICTION if n == ours else delivered("SECRET-OF-OTHER") for n in asked.number.split(",")}

    rig.script.query = query
    await rig.engine.start()
    await rig.when(doubtful, lambda now: now.state is OrderState.NEEDS_REVIEW)
    while (await states())[1] is not PurchaseState.DELIVERED:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    sealer = await rig.vault.client("shop")
    kept = [
        sealer.open(answer.sealed, "answer", doubtful.order_id, answer.number)
        for answer in await rig.store.answers("shop", doubtful.order_id)
    ]
    assert kept
    assert not any(b"SECRET-OF-OTHER" in raw for raw in kept)


async def test_a_watch_does_not_end_with_an_answer_that_cannot_be_read(rigged: Rigged) -> None:
    """One error page isn't the last look; five of them are as good as no answer."""
    rig = await rigged(a=traits(aftersale_watch=0.3, aftersale_every=60.0, look_delays=(0.05,)))

    async def broken(_: Asked) -> web.Response:
        return web.Response(status=502, body=b"bad gateway")

    rig.script.query = broken
    order = await rig.order("a")
    await rig.when(order, lambda now: now.settled_at > 0)
    assert len(rig.script.queries) >= 5


@pytest.mark.rule("P8")
async def test_the_callback_of_a_success_outweighs_a_later_refusal(rigged: Rigged) -> None:
    """At a supplier that can't be asked: bought is bought, and nothing is bought again at the next offer."""
    rig = await rigged(a=traits(queryable=False), b=traits())
    gate = asyncio.Event()
    rig.script.place = after(gate, refused())
    order = await rig.order(BOTH)
    await until(rig.script.places)
    await rig.engine.callback("a", called_back(order.purchases[0].number, delivered()))
    gate.set()
    now = await rig.when(order, lambda now: now.state is OrderState.NEEDS_REVIEW)
    assert len(now.purchases) == len(rig.script.places()) == 1


async def test_what_the_supplier_called_back_about_is_asked_after_before_a_cancel_ends_it(rigged: Rigged) -> None:
    """It took the order, and its answer said "too many requests": the card is delivered, not cancelled."""
    rig = await rigged(a=traits())
    gate = asyncio.Event()
    rig.script.place = after(gate, rate_limited(60))
    rig.script.query = answers(delivered("PAID CARD"))
    order = await rig.order("a")
    await until(rig.script.places)
    await rig.engine.callback("a", called_back(order.purchases[0].number))
    gate.set()
    now = await rig.when(order, lambda now: now.state.is_terminal)
    assert now.state is OrderState.FULFILLED
    assert len(await rig.shown_cards(order)) == 1


async def test_changes_of_one_order_take_turns(rigged: Rigged) -> None:
    """A hundred purchases of one order are accepted and cancelled without making each other start over."""
    rig = await rigged(max_in_flight=100, a=traits(look_delays=(60.0,)))
    rig.script.place = accepts_it
    saves = 0
    save = rig.store.save

    async def counted(change: Any) -> bool:
        nonlocal saves
        saves += 1
        return await save(change)

    rig.store.save = counted  # type: ignore[method-assign]
    order = await rig.order("a", quantity=100)
    await rig.when(order, lambda now: all(p.state is PurchaseState.ACCEPTED for p in now.purchases))
    # One for each acceptance and its intention at most; racing they took thousands.
    assert saves <= 300
