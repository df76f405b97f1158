"""Dispatch: sends purchases, as many at once as an account allows, and never a byte before the intention is on disk."""

import asyncio
import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from reward_adapters.contract import (
    Absent,
    Call,
    Context,
    HttpReply,
    NotSent,
    NotSentCause,
    Outcome,
    Refused,
    Unclear,
)
from reward_server.clock import Clock
from reward_server.domain.moves import AlertKind, DeadlinePassed, sendable
from reward_server.domain.order import Order, Source
from reward_server.engine.account import Account
from reward_server.engine.exchange import Broken, Pending
from reward_server.engine.facts import facts
from reward_server.engine.ledger import Happening, Ledger, OrderGone
from reward_server.engine.looks import Looks, send_deadline
from reward_server.metrics import Metrics
from reward_server.store import PurchaseKey, StoreUnavailable

log = structlog.get_logger(__name__)

STORE_REST_SECONDS = 1.0
"""How long nothing is sent after the store couldn't take an intention."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """One request on its way."""

    key: PurchaseKey
    account: Account
    call: Call[Outcome]
    context: Context
    started: float
    """Monotonic time."""


class Dispatcher:
    """Sends what waits."""

    def __init__(
        self,
        ledger: Ledger,
        looks: Looks,
        *,
        owner: str,
        clock: Clock,
        metrics: Metrics,
        alert: Callable[[AlertKind, str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._ledger = ledger
        self._looks = looks
        self._owner = owner
        self._clock = clock
        self._metrics = metrics
        self._alert = alert
        self._spawn = spawn
        self._ready: dict[str, list[tuple[float, int, PurchaseKey]]] = defaultdict(list)
        self._queued: set[str] = set()
        self._tie = itertools.count()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._stopped = False

    def enqueue(self, key: PurchaseKey, account: Account, *, not_before: int = 0) -> None:
        """Sends a purchase as soon as the account has a slot for it; queued twice it is sent once."""
        if key.number in self._queued:
            return
        self._queued.add(key.number)
        self._push(key, account, max(0.0, (not_before - self._clock.now_ms()) / 1000))

    def send_now(self, key: PurchaseKey, account: Account, order: Order, *, intended_at: float) -> None:
        """Sends a purchase whose intention was stored together with its order. The caller has taken the slot."""
        self._spawn(self._hold_slot(account, self._send(key, account, order, intended_at)))

    def stop(self) -> None:
        """Sends nothing new. What is under way goes on."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()

    @property
    def stopped(self) -> bool:
        """Whether nothing new is sent."""
        return self._stopped

    # --- The queue

    def _push(self, key: PurchaseKey, account: Account, delay: float) -> None:
        heapq.heappush(self._ready[account.name], (self._clock.monotonic() + delay, next(self._tie), key))
        self._pump(account)

    def _pump(self, account: Account) -> None:
        """Begins as many purchases as there are slots, and wakes up for the next."""
        if self._stopped:
            return
        queue = self._ready[account.name]
        now = self._clock.monotonic()
        while queue and queue[0][0] <= now and account.take_slot():
            _, _, key = heapq.heappop(queue)
            self._queued.discard(key.number)
            self._spawn(self._hold_slot(account, self._begin(key, account)))
        timer = self._timers.pop(account.name, None)
        if timer is not None:
            timer.cancel()
        if queue and account.in_flight < account.plan.max_in_flight:
            wait = max(queue[0][0] - now, account.ready_in(), 0.001)
            self._timers[account.name] = asyncio.get_running_loop().call_later(wait, self._pump, account)

    async def _hold_slot(self, account: Account, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            account.give_slot()
            self._pump(account)

    def _again(self, key: PurchaseKey, account: Account, delay: float) -> None:
        if key.number not in self._queued:
            self._queued.add(key.number)
            self._push(key, account, delay)

    # --- One purchase

    async def _begin(self, key: PurchaseKey, account: Account) -> None:
        try:
            order = await self._ledger.load(key)
            if order.purchase(key.number) not in sendable(order):
                return
            if self._clock.now_ms() >= send_deadline(order, account):
                await self._ledger.apply(
                    key, Happening(number=key.number, event=DeadlinePassed(), source=Source.DEADLINE)
                )
                return
            if await account.ensure_token() is not None:
                self._again(key, account, account.ready_in())
                return
            if self._stopped:
                return
            intended_at = self._clock.monotonic()
            intended = await self._ledger.intend(key, owner=self._owner)
        except StoreUnavailable as error:
            log.error("nothing is sent: the store can't write", account=account.name, why=str(error))
            self._again(key, account, STORE_REST_SECONDS)
            return
        except OrderGone as error:
            log.error("order of a purchase is gone", order_id=str(error))
            return
        if intended is not None:
            await self._send(key, account, intended, intended_at)

    async def _send(self, key: PurchaseKey, account: Account, order: Order, intended_at: float) -> None:
        """Writes the request, unless too much time has passed since the intention, and applies the answer."""
        context = account.context()
        call = account.supplier.place(facts(order, key.number, account), context)
        if isinstance(call, Refused):
            # The supplier's wire can't say it: nothing was written, and nothing ever will be.
            await self._apply(key, call, ended=True)
            return
        sent = _Sent(key, account, call, context, self._clock.monotonic())
        reply = await account.place_side.send(call.request, last_moment=intended_at + account.plan.submit_window)
        if isinstance(reply, Pending):
            self._metrics.supplier_called(account.name, "place", "Timeout", self._clock.monotonic() - sent.started)
            account.heard(None)
            await self._apply(key, Unclear(f"no answer within {account.traits.read_timeout:g} s"), ended=False)
            self._spawn(self._await_late(sent, reply))
            return
        await self._conclude(sent, reply)

    async def _await_late(self, sent: _Sent, pending: Pending) -> None:
        """A late answer is evidence like any other; for a supplier without a query it may be the only card."""
        try:
            reply = await pending.answer
        except asyncio.CancelledError:
            # The process ends; the purchase is UNKNOWN on disk and the next start goes on from there.
            return
        await self._conclude(sent, reply)

    async def _conclude(self, sent: _Sent, reply: HttpReply | NotSent | Broken) -> None:
        """Reads an answer and applies it, after a look where a refusal isn't certain."""
        account = sent.account
        outcome: Outcome
        raw = b""
        if isinstance(reply, HttpReply):
            outcome, raw = sent.call.read(reply), reply.body
        elif isinstance(reply, Broken):
            outcome = Unclear(reply.reason)
        else:
            outcome = reply
        seconds = self._clock.monotonic() - sent.started
        self._metrics.supplier_called(account.name, "place", type(outcome).__name__, seconds)
        if isinstance(outcome, NotSent) and outcome.cause is NotSentCause.TOKEN_REFUSED:
            outcome = await self._token_refused(sent, outcome)
        account.heard(outcome)
        if isinstance(outcome, NotSent) and outcome.cause is NotSentCause.CONFIGURATION:
            self._alert(AlertKind.SUPPLIER_REFUSES_US, f"{account.name} refuses us: {outcome.detail}")
        if isinstance(outcome, Refused) and not outcome.certain and account.traits.queryable:
            outcome, raw = await self._doubt_refusal(sent.key, account, outcome, raw)
        await self._apply(sent.key, outcome, ended=True, raw=raw)

    async def _token_refused(self, sent: _Sent, outcome: NotSent) -> NotSent:
        """A refused token is renewed and the purchase sent once more; refused again, something else is wrong."""
        order = await self._ledger.load(sent.key)
        if not order.purchase(sent.key.number).token_resent:
            sent.account.drop_token(sent.context.token)
            return outcome
        return NotSent(cause=NotSentCause.CONFIGURATION, detail="a fresh access token was refused as well")

    async def _doubt_refusal(
        self, key: PurchaseKey, account: Account, refused: Refused, raw: bytes
    ) -> tuple[Outcome, bytes]:
        """A refusal that isn't on the reviewed list is believed only after a look that finds nothing."""
        order = await self._ledger.load(key)
        found, found_raw = (await self._looks.ask(account, [(order, key.number)]))[key.number]
        match found:
            case Absent():
                confirmed = Refused(
                    code=refused.code,
                    message=f"{refused.message} (a look found no order)",
                    certain=True,
                    about=refused.about,
                )
                return confirmed, raw
            case NotSent() | Unclear(doubt=None):
                # Couldn't be asked or understood: the refusal stays uncertain and looks go on.
                return refused, raw
            case _:
                return found, found_raw

    async def _apply(self, key: PurchaseKey, outcome: Outcome, *, ended: bool, raw: bytes = b"") -> None:
        happening = Happening(
            number=key.number,
            event=outcome,
            source=Source.PLACE,
            written_until=self._clock.now_ms() if ended else None,
            raw=raw or None,
        )
        await self._ledger.apply(key, happening)
