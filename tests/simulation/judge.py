"""Compares, when all is over, what clients have with what suppliers sold and were paid."""

from collections import Counter
from decimal import Decimal
from functools import partial
from typing import Any

from reward_adapters.contract import AfterSale, Card
from reward_server.domain.order import Order, OrderState, PurchaseState, ReviewReason, Source
from reward_server.rpc.cards import CardReader

from .loop import SimLoop
from .server import Server
from .witness import Heard, Witness, paid

TEN_THOUSANDTHS = 10_000
"""The service's money is whole 1/10,000 yuan."""


TIME_TO_STORE = 45.0
"""Seconds in which a process that lives has stored what it heard: the disk is full for 30 s at most."""


def at_its_end(order: Order) -> bool:
    """Terminal, or a person has to look."""
    return order.state.is_terminal or order.state is OrderState.NEEDS_REVIEW


async def judge(witness: Witness, acknowledged: dict[str, str], server: Server | None, loop: SimLoop) -> None:
    """Adds what it finds to the witness's violations."""
    assert server is not None
    for order_id in acknowledged.values():
        if order_id not in witness.orders:
            witness.say(f"{order_id} was acknowledged and isn't in the store")
    for order in witness.orders.values():
        cards = await loop.ask(server.party, partial(_cards, server, order))
        _judge_order(witness, order, cards)
        _judge_callbacks(witness, order)
    for heard in witness.heard:
        await loop.ask(server.party, partial(_judge_heard, witness, server, heard))
    await loop.ask(server.party, lambda: _judge_log(witness, server))


async def _cards(server: Server, order: Order) -> list[Card]:
    reader = CardReader(server.store, server.vault)
    [cards] = await reader.read([order])
    return [card for _, card in cards if isinstance(card, Card)]


def _judge_order(witness: Witness, order: Order, cards: list[Card]) -> None:
    who = f"{order.order_id} {order.product_id} x {order.quantity}, {order.state}"
    sales = witness.sales(order)
    numbers = Counter(sale.number for sale in sales)
    live = witness.live_units(order)
    if max(numbers.values(), default=0) > 1:
        witness.say(f"{who}: {numbers.most_common(1)} sold under one number")
    if live > order.quantity:
        witness.say(f"{who}: {live} units sold and not paid back")
    if not order.state.is_terminal:
        return
    # What a person has to look at beside the state says that money and goods parted.
    aside = {ReviewReason.LATE_SUCCESS, ReviewReason.REVERSED, ReviewReason.DISPUTED, ReviewReason.CONTRADICTION}
    if not aside.isdisjoint(order.reviews) or order.after_sale is AfterSale.REVERSED:
        witness.counts["orders with something beside their state"] += 1
        return
    unwatched = witness.settled.get(order.order_id, float("inf")) if order.settled_at else 0.0
    if any(witness.taken_back.get(sale.number, -1.0) >= unwatched for sale in sales):
        # Taken back after the delivery: the next look at it is still to come, or nobody watched it any more.
        witness.counts["orders whose reversal isn't noticed yet"] += 1
        return
    if live != order.delivered_quantity:
        witness.say(f"{who}: {live} units sold, {order.delivered_quantity} delivered")
    _judge_cards(witness, who, sales, cards)
    _judge_money(witness, who, order, sales)


def _judge_callbacks(witness: Witness, order: Order) -> None:
    """What was acknowledged is remembered, unless other evidence settled the purchase before."""
    for sale in witness.sales(order):
        purchase = order.purchase(sale.number)
        known = purchase.called_back or any(piece.source is Source.CALLBACK for piece in purchase.evidence)
        if not known and purchase.state.is_open and any(attempt.accepted for attempt in sale.callbacks):
            witness.say(f"{order.order_id}: a callback about {sale.number} was acknowledged and forgotten")


async def _judge_heard(witness: Witness, server: Server, heard: Heard) -> None:
    """A card that reached a process which lived on is in the store: among the cards, hidden ones included, or in an
    answer that was kept whole.
    """
    if heard.party.died_at - max(heard.at, heard.party.awake_since) < TIME_TO_STORE:
        return
    order = witness.orders[witness.numbers[heard.number]]
    if not any(paid(sale) for sale in witness.sales(order) if sale.number == heard.number):
        # Cancelled and paid back in the same answer.
        return
    witness.counts["cards that reached a process which lived on"] += 1
    if order.purchase(heard.number).cards:
        return
    kept = await server.store.answers(order.client_id, order.order_id)
    if not any(answer.number == heard.number for answer in kept):
        witness.say(f"{order.order_id}: a card of {heard.number} was read and is nowhere")


def _judge_cards(witness: Witness, who: str, sales: list[Any], cards: list[Card]) -> None:
    sold = [[text for text in card.values() if text] for sale in sales if paid(sale) for card in sale.cards]
    shown = [
        [text for text in (card.number, card.secret, card.link, card.qr_content, card.qr_image_url) if text]
        for card in cards
    ]
    # Some shops put number and password into one text.
    if any(fault.edit for sale in sales for fault in sale.scenario.behaviour.faults.get("create", ())):
        # It is the scenario's point that the answer shows other cards than the books.
        return
    strange = [texts for texts in shown if not all(any(v in t for c in sold for v in c) for t in texts)]
    missing = [card for card in sold if not any(v in t for texts in shown for t in texts for v in card)]
    if strange or missing or len(sold) != len(shown):
        witness.say(f"{who}: {len(shown)} cards shown, {len(sold)} sold; strange {strange}, missing {missing}")


def _judge_money(witness: Witness, who: str, order: Order, sales: list[Any]) -> None:
    told = [p.cost for p in order.purchases if p.state is PurchaseState.DELIVERED]
    if not told or any(cost is None for cost in told):
        witness.counts["orders whose supplier doesn't tell its price"] += bool(told)
        return
    decided = any(e.source is Source.OPERATOR for p in order.purchases for e in p.evidence)
    if decided or any(stage.entry for sale in sales for stage in sale.scenario.behaviour.stages):
        # What somebody decided about had no clear sum, or it is the scenario's point that the supplier tells another.
        return
    kept = sum((paid(sale) for sale in sales), Decimal(0))
    said = None if order.total_cost is None else Decimal(order.total_cost) / TEN_THOUSANDTHS
    # A price per card is told with four digits.
    if said is None or abs(said - kept) > Decimal(order.quantity) / TEN_THOUSANDTHS:
        witness.say(f"{who}: says it cost {said}, the suppliers kept {kept}")
    witness.counts["orders whose cost equals the books"] += 1


async def _judge_log(witness: Witness, server: Server) -> None:
    versions: dict[str, int] = {}
    for client_id in sorted({order.client_id for order in witness.orders.values()}):
        position = 0
        while page := await server.store.updates(client_id, position, 500):
            for update in page:
                position += 1
                if update.position != position:
                    witness.say(f"{client_id}: position {update.position} follows {position - 1}")
                    return
                expected = versions.get(update.order.order_id, 0) + 1
                if update.order.version != expected:
                    witness.say(f"{update.order.order_id}: version {update.order.version} instead of {expected}")
                versions[update.order.order_id] = update.order.version
    for order in witness.orders.values():
        if versions.get(order.order_id) != order.version:
            witness.say(f"{order.order_id}: version {order.version}, the log ends at {versions.get(order.order_id)}")
