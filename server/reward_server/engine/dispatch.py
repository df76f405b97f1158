"""Dispatch: sends purchases, as many at once as an account allows, and never a byte before the intention is on disk."""

import asyncio
import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from reward_adapters.contract import (
    Call,
    Context,
    HttpReply,
    NotSent,
    NotSentCause,
    Outcome,
    Refused,
    Unclear,
)
from reward_server import probes
from reward_server.clock import Clock
from reward_server.domain.moves import LONGEST_WAIT_MS, AlertKind, DeadlinePassed, sendable
from reward_server.domain.order import Order, Source
from reward_server.engine.account import Account
from reward_server.engine.exchange import Broken, Pending
from reward_server.engine.facts import facts
from reward_server.engine.ledger import Happening, Ledger, OrderGone
from reward_server.engine.looks import Looks, send_deadline
from reward_server.engine.outlook import obstacle_of, reasons_before, token_words
from reward_server.engine.waits import NOTHING
from reward_server.metrics import Metrics
from reward_server.store import PurchaseKey, StoreError, StoreUnavailable

log = structlog.get_logger(__name__)

STORE_REST_SECONDS = 1.0
"""How long nothing is sent after the store couldn't take an intention."""

HTTP_SERVER_ERROR = 500

STALE_ENTRIES = 1_000
"""Sending deadlines of purchases that were sent since, kept before they are cleared away."""

DEFECT_REST_SECONDS = 60.0
"""After a defect of our own a purchase that wasn't sent is tried again this late: it will hardly mend itself."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """One request on its way."""

    key: PurchaseKey
    account: Account
    call: Call[Outcome]
    context: Context
    started: float
    """Monotonic time."""
    product: str
    """The supplier's number of it."""
    send: int
    """Which request for this purchase it is, from 1."""
    traceparent: str
    """See `Order.traceparent`."""


class Dispatcher:
    """Sends what waits."""

    def __init__(
        self,
        ledger: Ledger,
        looks: Looks,
        *,
        clock: Clock,
        metrics: Metrics,
        alert: Callable[[AlertKind, str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._ledger = ledger
        self._looks = looks
        self._clock = clock
        self._metrics = metrics
        self._alert = alert
        self._spawn = spawn
        self._ready: dict[str, list[tuple[float, int, PurchaseKey]]] = defaultdict(list)
        self._expiring: list[tuple[float, int, PurchaseKey]] = []
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._queued: set[str] = set()
        self._expires: dict[str, float] = {}
        """Monotonic sending deadlines of what is queued or about to be sent."""
        self._tie = itertools.count()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._stopped = False

    def enqueue(self, key: PurchaseKey, account: Account, order: Order) -> None:
        """Sends a waiting purchase as soon as the account has a slot for it; queued twice it is sent once."""
        if key.number in self._queued:
            return
        self._queued.add(key.number)
        now_ms = self._clock.now_ms()
        # The deadline acts by itself: it must not wait for an account that rests.
        expires = self._clock.monotonic() + (send_deadline(order, order.purchase(key.number), account) - now_ms) / 1000
        self._expires[key.number] = expires
        entry = (expires, next(self._tie), key)
        heapq.heappush(self._expiring, entry)
        stale = len(self._expiring) > 2 * len(self._queued) + STALE_ENTRIES
        if stale:
            self._expiring = [entry for entry in self._expiring if entry[2].number in self._queued]
            heapq.heapify(self._expiring)
        # The timer is for the first one: most come behind it.
        if stale or self._expiring[0] is entry:
            self._set_expiry_timer()
        wait_ms = min(order.purchase(key.number).not_before - now_ms, LONGEST_WAIT_MS)
        reasons = reasons_before(order, order.purchase(key.number), now_ms=now_ms)
        self._push(key, account, max(0.0, wait_ms / 1000), reasons)

    def send_now(self, key: PurchaseKey, account: Account, order: Order, *, intended_at: float) -> None:
        """Sends a purchase whose intention was stored together with its order. The caller has taken the slot."""
        self._spawn(self._hold_slot(account, self._send(key, account, order, intended_at)))

    def release(self, account: Account) -> None:
        """Gives a slot back and uses it for whoever waits for one."""
        account.give_slot()
        self._pump(account)

    def wake(self, account: Account) -> None:
        """Sends what waited for an account that can be used again."""
        self._pump(account)

    def stop(self) -> None:
        """Sends nothing new. What is under way goes on."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()

    @property
    def stopped(self) -> bool:
        """Whether nothing new is sent."""
        return self._stopped

    # --- The queue

    def _push(self, key: PurchaseKey, account: Account, delay: float, reasons: Mapping[str, str] = NOTHING) -> None:
        self._ledger.waits.queued(key.number, reasons)
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
            self._ledger.waits.taken(key.number, account.name)
            self._spawn(self._hold_slot(account, self._begin(key, account)))
        if queue and (obstacle := obstacle_of(account)) is not None:
            self._ledger.waits.blocked(account.name, *obstacle)
        timer = self._timers.pop(account.name, None)
        if timer is not None:
            timer.cancel()
        # Of an account that an operator paused, `wake` tells when it can be used again.
        # Where every slot is taken, the next one that is given back does.
        if queue and account.hold is None and account.in_flight < account.slots:
            wait = max(queue[0][0] - now, account.ready_in(), 0.001)
            self._timers[account.name] = asyncio.get_running_loop().call_later(wait, self._pump, account)

    async def _hold_slot(self, account: Account, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self.release(account)

    def _again(self, key: PurchaseKey, account: Account, delay: float, why: Mapping[str, str] = NOTHING) -> None:
        if key.number not in self._queued:
            self._queued.add(key.number)
            self._push(key, account, delay, why)

    def _set_expiry_timer(self) -> None:
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        if self._expiring and not self._stopped:
            wait = max(0.0, self._expiring[0][0] - self._clock.monotonic())
            self._expiry_timer = asyncio.get_running_loop().call_later(wait, self._expire_due)

    def _expire_due(self) -> None:
        now = self._clock.monotonic()
        while self._expiring and self._expiring[0][0] <= now:
            _, _, key = heapq.heappop(self._expiring)
            if key.number in self._queued:
                self._spawn(self._expire(key))
        self._set_expiry_timer()

    async def _expire(self, key: PurchaseKey) -> None:
        """Never sent and never to be sent. The table says no if it was sent meanwhile."""
        self._expires.pop(key.number, None)
        await self._ledger.apply(key, Happening(number=key.number, event=DeadlinePassed(), source=Source.DEADLINE))

    # --- One purchase

    async def _begin(self, key: PurchaseKey, account: Account) -> None:
        try:
            order = await self._ledger.load(key)
            if order.purchase(key.number) not in sendable(order):
                self._expires.pop(key.number, None)
                return
            if not account.token_ready():
                self._ledger.waits.note(key.number, {"token": token_words(account)})
            no_token = await account.ensure_token()
            # Counted since it was queued: a wall clock that jumped meanwhile ends nothing.
            if self._clock.monotonic() >= self._expires.get(key.number, float("inf")):
                await self._expire(key)
                return
            if no_token is not None:
                self._again(key, account, account.ready_in())
                return
            if self._stopped:
                return
            if account.hold is not None:
                # Paused since it took its slot.
                self._again(key, account, 0.0)
                return
            intended_at = self._clock.monotonic()
            intended = await self._ledger.intend(key)
        except StoreUnavailable as error:
            log.error("nothing is sent: the store can't write", account=account.name, why=str(error))
            self._again(key, account, STORE_REST_SECONDS, {"store": "the store, which couldn't write"})
            return
        except OrderGone as error:
            log.error("order of a purchase is gone", order_id=str(error))
            return
        except Exception:
            log.exception("a purchase couldn't be begun", order_id=key.order_id, account=account.name)
            self._alert(AlertKind.DEFECT, f"a purchase at {account.name} couldn't be begun")
            self._again(key, account, DEFECT_REST_SECONDS, {"defect": "another try, after a defect of this program"})
            return
        self._expires.pop(key.number, None)
        if intended is not None:
            await self._send(key, account, intended, intended_at)

    async def _send(self, key: PurchaseKey, account: Account, order: Order, intended_at: float) -> None:
        """Writes the request, unless too much time has passed since the intention, and applies the answer."""
        context = account.context()
        if account.traits.needs_token and context.token is None:
            # Dropped between the look at it and now.
            no_token = NotSent(cause=NotSentCause.NO_TOKEN, detail="the token was just refused")
            await self._apply(key, no_token, ended=True, send=order.purchase(key.number).sends)
            return
        try:
            call = account.supplier.place(facts(order, key.number, account), context)
        except Exception:
            log.exception("an adapter failed to build a request", order_id=key.order_id, account=account.name)
            self._alert(AlertKind.DEFECT, f"the adapter of {account.name} failed to build a request")
            defect = NotSent(
                cause=NotSentCause.OWN_LIMIT, detail="a defect of the adapter", retry_after=DEFECT_REST_SECONDS
            )
            await self._apply(key, defect, ended=True, send=order.purchase(key.number).sends)
            return
        if isinstance(call, Refused):
            # The supplier's wire can't say it: nothing was written, and nothing ever will be.
            await self._apply(key, call, ended=True, send=order.purchase(key.number).sends)
            return
        purchase = order.purchase(key.number)
        product = order.offers[purchase.offer].supplier_product
        started = self._clock.monotonic()
        sent = _Sent(key, account, call, context, started, product, purchase.sends, order.traceparent)
        probes.probe("send.begin")
        reply = await account.place_side.send(call.request, last_moment=intended_at + account.plan.submit_window)
        if isinstance(reply, Pending):
            probes.probe("send.timeout")
            seconds = self._clock.monotonic() - sent.started
            self._metrics.supplier_called(account.name, "place", "Timeout", seconds)
            account.trace("place", "Timeout", seconds, key, sent.traceparent)
            silence = Unclear(f"no answer within {account.traits.read_timeout:g} s")
            account.purchase_ended(silence, sent_at=sent.started)
            self._spawn(self._await_late(sent, reply))
            await self._apply(key, silence, ended=False, send=sent.send)
            return
        await self._conclude(sent, reply, in_time=True)

    async def _await_late(self, sent: _Sent, pending: Pending) -> None:
        """A late answer is evidence like any other; for a supplier without a query it may be the only card."""
        try:
            reply = await pending.answer
        except asyncio.CancelledError:
            # The process ends; the purchase is UNKNOWN on disk and the next start goes on from there.
            return
        probes.probe("send.late")
        await self._conclude(sent, reply, in_time=False)

    async def _conclude(self, sent: _Sent, reply: HttpReply | NotSent | Broken, *, in_time: bool) -> None:
        """Reads an answer and applies it, after a look where a refusal isn't certain."""
        account = sent.account
        outcome: Outcome
        raw = b""
        if isinstance(reply, HttpReply):
            outcome, raw = self._read(sent, reply), reply.body
        elif isinstance(reply, Broken):
            outcome, raw = Unclear(reply.reason), reply.raw
        else:
            outcome = reply
        probes.probe("send.answered")
        seconds = self._clock.monotonic() - sent.started
        self._metrics.supplier_called(account.name, "place", type(outcome).__name__, seconds)
        account.trace("place", type(outcome).__name__, seconds, sent.key, sent.traceparent)
        if isinstance(outcome, NotSent) and outcome.cause is NotSentCause.TOKEN_REFUSED:
            outcome = await self._token_refused(sent, outcome)
        account.heard(outcome)
        # That a supplier is too slow was learned at the time-out; a late answer doesn't make it punctual.
        if in_time:
            # In good form and not understood: that may be about one product alone.
            puzzling = isinstance(outcome, Unclear) and isinstance(reply, HttpReply) and _is_sound(reply)
            puzzle = sent.product if puzzling else ""
            if account.purchase_ended(outcome, sent_at=sent.started, puzzle=puzzle):
                self._pump(account)
        answered = self._happening(sent.key, outcome, ended=True, send=sent.send, raw=raw)
        if isinstance(outcome, Refused) and not outcome.certain and account.traits.queryable:
            # A refusal that isn't on the reviewed list is believed only with a look that finds nothing. Both are
            # evidence, and the table weighs them: a look that found the order meanwhile counts as much.
            await self._ledger.apply(sent.key, answered, *await self._look_at_once(sent.key, account))
        else:
            await self._ledger.apply(sent.key, answered)

    def _read(self, sent: _Sent, reply: HttpReply) -> Outcome:
        try:
            return sent.call.read(reply)
        except Exception:
            log.exception("an adapter failed to read an answer", order_id=sent.key.order_id, account=sent.account.name)
            return Unclear("a defect of the adapter: it failed to read the answer", alert=True)

    async def _token_refused(self, sent: _Sent, outcome: NotSent) -> NotSent:
        """A refused token is renewed and the purchase sent once more; refused again, something else is wrong."""
        sent.account.drop_token(sent.context.token)
        try:
            order = await self._ledger.load(sent.key)
        except StoreError:
            # Whether it was renewed before isn't known; what is known is that nothing was bought.
            return outcome
        if not order.purchase(sent.key.number).token_resent:
            return outcome
        return NotSent(cause=NotSentCause.CONFIGURATION, detail="a fresh access token was refused as well")

    async def _look_at_once(self, key: PurchaseKey, account: Account) -> list[Happening]:
        """What one look says; nothing when it couldn't be made or understood, and looks go on then."""
        try:
            order = await self._ledger.load(key)
            found, raw = (await self._looks.ask(account, [(order, key.number)]))[key.number]
        except StoreError as error:
            log.error("no look: the store can't be read", order_id=key.order_id, why=str(error))
            return []
        match found:
            case NotSent() | Unclear(doubt=None):
                return []
            case _:
                return [Happening(number=key.number, event=found, source=Source.QUERY, raw=raw)]

    async def _apply(self, key: PurchaseKey, outcome: Outcome, *, ended: bool, send: int) -> None:
        await self._ledger.apply(key, self._happening(key, outcome, ended=ended, send=send))

    def _happening(self, key: PurchaseKey, outcome: Outcome, *, ended: bool, send: int, raw: bytes = b"") -> Happening:
        return Happening(
            number=key.number,
            event=outcome,
            source=Source.PLACE,
            written_until=self._clock.now_ms() if ended else None,
            send=send,
            raw=raw or None,
        )


def _is_sound(reply: HttpReply) -> bool:
    """Whether an answer is what suppliers answer with when they are well: JSON, and no error of a server or proxy."""
    return reply.status < HTTP_SERVER_ERROR and reply.json() is not None
