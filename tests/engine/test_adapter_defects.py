"""An adapter that breaks its contract: the purchase doesn't hang, somebody is told, and everything else goes on."""

import pytest

from reward_server.domain.order import OrderState, PurchaseState

from .rig import Rigged, accepted, answers, delivered, outcomes, takes_it, traits, until


async def test_request_that_cannot_be_built(rigged: Rigged) -> None:
    """A purchase whose request can't be built is proven unsent: it waits, and dies at its sending deadline."""
    rig = await rigged(a=traits(send_by=0.4), max_in_flight=1)
    rig.suppliers["a"].defects.add("place")
    order = await rig.order("a", "first")
    now = await rig.when(order, lambda now: now.purchases[0].evidence)
    assert (now.purchases[0].state, now.purchases[0].sends) == (PurchaseState.WAITING, 0)
    assert rig.alerts("defect") == 1
    rig.suppliers["a"].defects.clear()
    await rig.when_state(await rig.order("a", "second"), OrderState.FULFILLED)
    await rig.when_state(order, OrderState.FAILED)
    assert not rig.failures


async def test_answer_whose_reading_fails(rigged: Rigged) -> None:
    """An answer that the adapter fails to read leaves a doubt, is kept whole, and is settled by a look."""
    rig = await rigged(a=traits(), max_in_flight=1)
    rig.suppliers["a"].defects.add("read_placed")
    rig.script.place = answers(delivered("PAID"))
    rig.script.query = answers(delivered("PAID"))
    order = await rig.order("a", "first")
    now = await rig.when_state(order, OrderState.FULFILLED)
    assert outcomes(now.purchases[0]) == ["Unclear", "Delivered"]
    assert rig.alerts("unexpected_answer") == 1
    assert await rig.kept_answers(order) == [b'{"said": "delivered", "cards": ["PAID"]}']
    rig.suppliers["a"].defects.clear()
    rig.script.place = takes_it
    await rig.when_state(await rig.order("a", "second"), OrderState.FULFILLED)
    assert not rig.failures


@pytest.mark.parametrize("defect", ["query", "read_found"])
async def test_look_that_cannot_be_made(rigged: Rigged, defect: str) -> None:
    """A look that the adapter fails to make or to read is made again; in the end the deadline calls a person."""
    rig = await rigged(a=traits(settle_by=0.001, not_found_grace=60.0))
    rig.suppliers["a"].defects.add(defect)
    rig.script.place = answers(accepted())
    order = await rig.order("a", "first")
    await rig.when_state(order, OrderState.NEEDS_REVIEW)
    rig.suppliers["a"].defects.clear()
    rig.script.query = answers(delivered("C"))
    await rig.when_state(order, OrderState.FULFILLED)
    rig.script.place = takes_it
    await rig.when_state(await rig.order("a", "second"), OrderState.FULFILLED)
    assert not rig.failures


async def test_token_that_cannot_be_fetched(rigged: Rigged) -> None:
    """An adapter that fails to fetch a token holds its account back for a moment, not for ever."""
    rig = await rigged(a=traits(needs_token=True))
    rig.suppliers["a"].defects.add("fetch_token")
    order = await rig.order("a")
    await until(rig.accounts["a"].ready_in)
    rig.suppliers["a"].defects.clear()
    await rig.when_state(order, OrderState.FULFILLED)
    assert not rig.failures
