"""Opens what is stored sealed: cards for answers and streams, always as of a version of their order, and for people in
doubt what suppliers said."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import structlog

from reward_adapters.contract import Card
from reward_server.domain.order import Order
from reward_server.errors import CardNotOpened
from reward_server.hub import Cards, ClosedCard, ErasedCard
from reward_server.resume import Tokens
from reward_server.rpc.messages import stream_update, update_message
from reward_server.rpc.ports import CardOpener, CardVault, Opener
from reward_server.sealing import SealError
from reward_server.store import KeptAnswer, SealedCard, Store, Update

log = structlog.get_logger(__name__)

MAX_ANSWERS = 20
"""Kept answers that are shown of an order."""


class CardReader:
    """Reads the cards of orders from the store and opens them."""

    def __init__(self, store: Store, vault: CardVault) -> None:
        self._store = store
        self._vault = vault

    async def read(self, orders: Sequence[Order], *, strictly: bool = False) -> list[Cards]:
        """The cards of each order, all of one client, as of the order's version. Orders without cards cost nothing.

        A card that doesn't open mustn't keep its client from everything else: it is shown closed, unless `strictly`,
        which raises CardNotOpened.
        """
        with_cards = {order.order_id: order for order in orders if order.card_count}
        if not with_cards:
            return [()] * len(orders)
        client_id = orders[0].client_id
        stored = await self._store.cards(client_id, list(with_cards))
        to_open = [card.sealed for cards in stored.values() for card in cards if not card.erased_at]
        opener = await self._vault.client(client_id, to_open)
        opened = {
            order_id: [(card.version, card.card_no, _opened_card(opener, order_id, card, strictly)) for card in cards]
            for order_id, cards in stored.items()
        }
        return [
            [(card_no, card) for version, card_no, card in opened.get(order.order_id, ()) if version <= order.version]
            if order.card_count
            else ()
            for order in orders
        ]

    async def answers(self, order: Order) -> AsyncIterator[tuple[KeptAnswer, bytes | SealError]]:
        """The latest answers that were kept for an order, opened, the oldest first; or why one can't be opened.

        Between any two of them others have their turn: whoever reads them looks through each, and that takes a while.
        """
        kept = await self._store.answers(order.client_id, order.order_id)
        if not kept:
            return
        opener = await self._vault.client(order.client_id, [one.sealed for one in kept if not one.erased_at])
        for answer in kept[-MAX_ANSWERS:]:
            yield answer, _opened(opener, order.order_id, answer)
            await asyncio.sleep(0)


def _opened_card(opener: CardOpener, order_id: str, card: SealedCard, strictly: bool) -> Card | ErasedCard | ClosedCard:
    if card.erased_at:
        return ErasedCard(card.erased_at)
    try:
        return opener.open_card(card.sealed, order_id, card.card_no)
    except SealError as error:
        log.error("a card doesn't open", order_id=order_id, place=str(card.card_no), why=str(error))
        if strictly:
            raise CardNotOpened(order_id) from None
        return ClosedCard()


def _opened(opener: Opener, order_id: str, answer: KeptAnswer) -> bytes | SealError:
    if answer.erased_at:
        return b""
    try:
        return opener.open(answer.sealed, "answer", order_id, answer.number)
    except SealError as error:
        return error


class UpdateEncoder:
    """Makes the stream's message for an update: the hub's `Encoder`."""

    def __init__(self, cards: CardReader, tokens: Tokens) -> None:
        self._cards = cards
        self._tokens = tokens

    async def cards(self, orders: Sequence[Order]) -> list[Cards]:
        """The opened cards of each order."""
        return await self._cards.read(orders)

    def encode(self, update: Update, cards: Cards, *, epoch: int, full: bool) -> bytes:
        """The stream's message for an update."""
        token = self._tokens.resume_token(update.client_id, epoch, update.position)
        return stream_update(update_message(update.order, cards, token, full=full))
