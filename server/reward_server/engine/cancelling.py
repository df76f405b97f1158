"""Cancelling: asks suppliers to take down what a client doesn't want any more.

That a supplier is about to be asked is on disk before it is, so that a crash leaves a trace. Only "it is taken down"
ends a purchase; whatever else a supplier says is noted, and a look decides. One that can't be reached is asked again
after the next looks, a few times.
"""

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import structlog

from reward_adapters.contract import (
    Call,
    CancelAnswer,
    Cancelled,
    CancelRefused,
    CancelTaken,
    HttpReply,
    NotOffered,
    NotSent,
    NotSentCause,
    Unclear,
)
from reward_server import probes
from reward_server.clock import Clock
from reward_server.domain import moves
from reward_server.domain.moves import AlertKind, CancelConfirmed
from reward_server.domain.order import Order, Source
from reward_server.engine.account import Account
from reward_server.engine.facts import facts
from reward_server.engine.ledger import Happening, Ledger, OrderGone
from reward_server.engine.looks import Looks
from reward_server.metrics import Metrics
from reward_server.store import PurchaseKey, StoreError

log = structlog.get_logger(__name__)


class Cancels:
    """Asks suppliers to cancel."""

    def __init__(
        self,
        ledger: Ledger,
        looks: Looks,
        *,
        accounts: Mapping[str, Account],
        clock: Clock,
        metrics: Metrics,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._ledger = ledger
        self._looks = looks
        self._accounts = accounts
        self._clock = clock
        self._metrics = metrics
        self._spawn = spawn
        self._asking: set[str] = set()
        self._stopped = False

    def order_changed(self, order: Order) -> None:
        """Asks for every purchase that the supplier took and that it wasn't asked about before."""
        for purchase in order.purchases:
            if purchase.cancel_asks == 0:
                self._consider(order, purchase.number)

    def looked(self, order: Order, number: str) -> None:
        """After a look: asks once more where the supplier couldn't be reached, or the last run ended in between."""
        self._consider(order, number)

    def stop(self) -> None:
        """Asks nothing new."""
        self._stopped = True

    def _consider(self, order: Order, number: str) -> None:
        purchase = order.purchase(number)
        if self._stopped or number in self._asking or not moves.may_ask_to_cancel(order, purchase):
            return
        account = self._accounts.get(order.offers[purchase.offer].account)
        if account is None or self._build(account, order, number) is None:
            return
        self._asking.add(number)
        self._spawn(self._ask(PurchaseKey(order.client_id, order.order_id, number), account))

    async def _ask(self, key: PurchaseKey, account: Account) -> None:
        try:
            if await account.ensure_token() is not None:
                # Looks need one as well; the next one that has it comes back here.
                return
            order = await self._about_to_ask(key)
            if order is not None:
                await self._conclude(key, account, await self._exchange(account, order, key.number))
        except StoreError as error:
            log.error("no cancel: the store can't be used", order_id=key.order_id, why=str(error))
        except OrderGone as error:
            log.error("order of a purchase is gone", order_id=str(error))
        finally:
            self._asking.discard(key.number)

    async def _about_to_ask(self, key: PurchaseKey) -> Order | None:
        """Stores that the supplier is about to be asked; None when the purchase ended meanwhile."""
        may_ask = False

        def note(order: Order) -> Order:
            nonlocal may_ask
            may_ask = moves.may_ask_to_cancel(order, order.purchase(key.number))
            return moves.note_cancel_ask(order, key.number, at=self._clock.now_ms()) if may_ask else order

        order = await self._ledger.note(key, note, fenced=True)
        return order if may_ask else None

    def _build(self, account: Account, order: Order, number: str) -> Call[CancelAnswer] | None:
        """The exchange that asks; None where the supplier doesn't offer it."""
        try:
            call = account.supplier.cancel(facts(order, number, account), account.context())
        except Exception:
            log.exception("an adapter failed to build a cancel", order_id=order.order_id, account=account.name)
            self._metrics.alert(AlertKind.DEFECT)
            return None
        return None if isinstance(call, NotOffered) else call

    async def _exchange(self, account: Account, order: Order, number: str) -> CancelAnswer:
        context = account.context()
        started = self._clock.monotonic()
        call = self._build(account, order, number)
        if call is None:
            return Unclear("the supplier doesn't offer it any more")
        probes.probe("cancel.asking")
        async with account.looks:
            reply = await account.look_side.ask(call.request)
        probes.probe("cancel.answered")
        answer: CancelAnswer
        if isinstance(reply, HttpReply):
            try:
                answer = call.read(reply)
            except Exception:
                log.exception("an adapter failed to read a cancel", order_id=order.order_id, account=account.name)
                answer = Unclear("a defect of the adapter: it failed to read the answer", alert=True)
        else:
            answer = reply if isinstance(reply, NotSent) else Unclear(reply.reason)
        seconds = self._clock.monotonic() - started
        self._metrics.supplier_called(account.name, "cancel", type(answer).__name__, seconds)
        key = PurchaseKey(order.client_id, order.order_id, number)
        account.trace("cancel", type(answer).__name__, seconds, key, order.traceparent)
        if isinstance(answer, NotSent) and answer.cause is NotSentCause.TOKEN_REFUSED:
            account.drop_token(context.token)
        account.heard(answer)
        return answer

    async def _conclude(self, key: PurchaseKey, account: Account, answer: CancelAnswer) -> None:
        match answer:
            case Cancelled(refund=refund, detail=detail):
                confirmed = CancelConfirmed(refund=refund, detail=detail)
                await self._ledger.apply(key, Happening(number=key.number, event=confirmed, source=Source.CANCEL))
                return
            case NotSent(cause=cause, detail=detail):
                # Asked again after the next look, which is on its plan.
                await self._note(key, answer, f"{cause}: {detail}" if detail else str(cause), answered=False)
                return
            case Unclear(reason=words) | CancelTaken(detail=words) | CancelRefused(detail=words):
                order = await self._note(key, answer, words, answered=True)
                self._looks.hint(key, account, order.purchase(key.number))

    async def _note(self, key: PurchaseKey, answer: CancelAnswer, detail: str, *, answered: bool) -> Order:
        note = partial(
            moves.note_cancel_answer,
            number=key.number,
            outcome=type(answer).__name__,
            detail=detail,
            answered=answered,
            at=self._clock.now_ms(),
        )
        log.info(
            "cancel answered", outcome=type(answer).__name__, detail=detail, order_id=key.order_id, number=key.number
        )
        return await self._ledger.note(key, note)
