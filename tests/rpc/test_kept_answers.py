"""What suppliers answered where that left a doubt: shown in view EXPLAINED, and never as it is."""

from dataclasses import replace

import pytest

from reward_server.domain.order import Source
from reward_server.store import Change, KeptAnswer
from rewardservice.v1 import order_pb2

from .world import World

CARD = "AB12CD34EF56"
ANSWERS = (
    b'{"code": "0000", "data": {"card_pws": "AB12CD34EF56"}, "msg": "card AB12CD34EF56"}',
    b'{"code": "0000", "data": {"card_pws": "AB12CD',
)


async def keep(served: World, order_id: str, *answers: bytes, seal_for: str = "") -> None:
    """Keeps answers with an order of "shop" as the engine does."""
    order = await served.store.order("shop", order_id)
    assert order is not None
    number = order.purchases[0].number
    sealer = await served.vault.client("shop")
    kept = tuple(
        KeptAnswer(number, 1_000 + n, Source.PLACE, sealer.seal(raw, "answer", seal_for or order_id, number))
        for n, raw in enumerate(answers)
    )
    assert await served.store.save(
        Change(order=replace(order, revision=order.revision + 1), visible=False, answers=kept)
    )


async def explained(served: World, order_id: str) -> order_pb2.Purchase:
    """The order's purchase in view EXPLAINED."""
    [purchase] = (await served.api().get(order_id, "EXPLAINED")).purchases
    return purchase


async def test_kept_answers_are_outlined_oldest_first(served: World) -> None:
    """With their time, their source and their size; of what can't be read only its kind."""
    order_id = (await served.api().create()).order.order_id
    await keep(served, order_id, *ANSWERS)
    first, second = (await explained(served, order_id)).answers
    assert (first.time.ToMilliseconds(), first.source, first.size) == (1_000, "place", len(ANSWERS[0]))
    assert first.outline == '{"code": "0000", "data": {"card_pws": <hidden>}, "msg": "card ***"}'
    assert second.outline == "no JSON and no form, 45 bytes, begins like JSON"


@pytest.mark.rule("P10")
async def test_no_view_shows_a_card_inside_an_answer(served: World) -> None:
    """Not even to the client that ordered; other views have no answers at all."""
    order_id = (await served.api().create()).order.order_id
    await keep(served, order_id, *ANSWERS)
    for view in ("BASIC", "FULL"):
        assert CARD not in str(await served.api().get(order_id, view))
    purchase = await explained(served, order_id)
    assert len(purchase.answers) == 2
    assert CARD[:5] not in str(purchase)


async def test_an_answer_that_cannot_be_opened_hides_nothing_else(served: World) -> None:
    """A lost key, or a value that belongs elsewhere, is told in place of the outline."""
    order_id = (await served.api().create()).order.order_id
    await keep(served, order_id, ANSWERS[0], seal_for="another order")
    [answer] = (await explained(served, order_id)).answers
    assert answer.outline.startswith("can't be opened: ")
    assert answer.size == 0


async def test_an_order_without_doubts_has_no_answers(served: World) -> None:
    """Nothing is kept of what was understood."""
    order_id = (await served.api().create()).order.order_id
    assert not (await explained(served, order_id)).answers


async def test_of_many_answers_the_latest_are_shown(served: World) -> None:
    """An order in trouble for days keeps many; what came last tells most."""
    order_id = (await served.api().create()).order.order_id
    await keep(served, order_id, *(b'{"code": %d}' % n for n in range(100, 130)))
    shown = (await explained(served, order_id)).answers
    assert [answer.outline for answer in shown] == [f'{{"code": {n}}}' for n in range(110, 130)]
