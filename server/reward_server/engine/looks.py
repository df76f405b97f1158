"""Looks: asks suppliers what became of purchases, on time, in batches, and no more than needed.

Purchases under way are looked at until they end; delivered ones now and then while something may still become of them
(a warranty, a dispute, a refund), and once more when that time is over.

A look without news writes nothing, so the plan of looks lives in memory; after a restart every open purchase is simply
looked at again. Deadlines act here too, and only after a look that was made after them: a clock that jumped or a
service that slept through a deadline proves nothing about an order.
"""

import asyncio
import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from reward_adapters.contract import (
    Absent,
    Accepted,
    Delivered,
    HttpReply,
    NotOffered,
    NotSent,
    NotSentCause,
    Outcome,
    Refunded,
    Unclear,
)
from reward_server import probes
from reward_server.clock import Clock
from reward_server.domain import moves
from reward_server.domain.moves import DeadlinePassed, WatchOver
from reward_server.domain.order import Order, PurchaseRecord, PurchaseState, ReviewReason, Source
from reward_server.engine.account import Account
from reward_server.engine.facts import facts
from reward_server.engine.ledger import Happening, Ledger, OrderGone
from reward_server.metrics import Metrics
from reward_server.store import PurchaseKey, StoreError

log = structlog.get_logger(__name__)

UNDER_WAY = (PurchaseState.ACCEPTED, PurchaseState.UNKNOWN)
IN_GOOD_HANDS = (PurchaseState.ACCEPTED, PurchaseState.DELIVERED)

UNANSWERED_LOOKS = 5
"""A deadline acts after a look that was answered, and so does the end of a watch. A supplier that can't be asked at all
must not keep a person away for ever, though: so many unanswered looks after it do as well."""

STORE_REST_SECONDS = 1.0
"""When the store can't be read, the next look waits this long."""

LAST_LOOK_MARGIN_SECONDS = 0.01
"""The last look at a delivered purchase must not come a moment before its time is over: it would be one too many."""

STALE_ENTRIES = 1_000
"""Entries of the schedule that may be out of date before it is made anew."""


@dataclass(slots=True)
class _Watch:
    """One purchase that is looked at."""

    key: PurchaseKey
    account: Account
    state: PurchaseState
    due: float
    """Monotonic time of the next look."""
    looks: int = 0
    once: bool = False
    """A single look at a purchase that is settled already (a callback came)."""
    busy: bool = False
    again: bool = False
    """Something happened while a look was on its way: look once more, at once."""
    silent_since: float | None = None
    """Since when, in monotonic time, we know that nothing is written any more: wall clocks jump."""
    alone: bool = False
    """An answer about several left this one unclear: it is asked after by itself from now on."""
    unanswered: int = 0
    """Looks in a row, after the deadline or the end of the watch, that brought no answer."""
    made: int = 0
    """How often the supplier was asked, for people."""
    last_at: int = 0
    """When it was asked last, milliseconds since 1970; 0 = never."""
    last: str = ""
    """What that brought, in words."""

    def go_on_from(self, former: "_Watch") -> None:
        """Takes over what a former watch of the same purchase knows."""
        self.busy, self.again, self.alone = former.busy, former.again, former.alone
        self.made, self.last_at, self.last = former.made, former.last_at, former.last


@dataclass(frozen=True, slots=True)
class LookPlan:
    """The looks at one purchase, made and planned. Times in milliseconds since 1970."""

    made: int
    last_at: int
    """0 = never looked at."""
    last: str
    """What the last look brought, in words."""
    next_at: int
    """0 while a look is on its way."""


class Looks:
    """Plans and makes looks."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Clock,
        metrics: Metrics,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        looked: Callable[[Order, str], None],
    ) -> None:
        """`looked` hears after every look what its order is now."""
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._spawn = spawn
        self._looked = looked
        self._watches: dict[str, _Watch] = {}
        self._hinted: set[str] = set()
        self._due: list[tuple[float, int, str]] = []
        self._tie = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def watch(self, key: PurchaseKey, account: Account, record: PurchaseRecord, *, delay: float | None = None) -> None:
        """Looks at a purchase from now on; called again without a change of state it changes nothing."""
        state = record.state
        watch = self._watches.get(key.number)
        silent_since = self._clock.monotonic() if record.written_until else None
        if watch is not None and watch.state is state and not watch.once:
            if watch.silent_since is None:
                watch.silent_since = silent_since
            return
        if delay is None:
            delay = self._first_delay(account, record)
        if key.number in self._hinted:
            self._hinted.discard(key.number)
            delay = 0.0
        fresh = _Watch(key, account, state, self._clock.monotonic() + delay, silent_since=silent_since)
        if watch is not None:
            fresh.go_on_from(watch)
        self._watches[key.number] = fresh
        self._push(fresh)

    def watch_delivered(self, key: PurchaseKey, account: Account, watch_until: int, *, delay: float) -> None:
        """Goes on looking at a delivered purchase whose order wasn't read; the last look isn't put off."""
        known = self._watches.get(key.number)
        if known is not None and not known.once:
            return
        until_over = self._until_over(watch_until)
        due = self._clock.monotonic() + max(0.0, min(delay, until_over))
        watch = _Watch(key, account, PurchaseState.DELIVERED, due)
        if known is not None:
            watch.go_on_from(known)
        self._watches[key.number] = watch
        self._push(watch)

    def unwatch(self, number: str, *, settled: bool) -> None:
        """Stops looking; a hint for a purchase that is still to be sent is kept, and one that came during a look leads
        to another.
        """
        watch = self._watches.get(number)
        if watch is not None and watch.again:
            watch.once = True
        elif watch is not None and not watch.once:
            del self._watches[number]
        if settled:
            self._hinted.discard(number)

    def hint(self, key: PurchaseKey, account: Account, record: PurchaseRecord) -> None:
        """Something happened at the supplier: look now, or as soon as the purchase is on its way."""
        state = record.state
        if state in (PurchaseState.WAITING, PurchaseState.SUBMITTING):
            self._hinted.add(key.number)
        if state is PurchaseState.WAITING:
            return
        watch = self._watches.get(key.number)
        if watch is None:
            watch = _Watch(key, account, state, 0.0, once=not (state in UNDER_WAY or record.is_watched))
            self._watches[key.number] = watch
        watch.looks = 0
        if watch.busy:
            watch.again = True
            return
        watch.due = self._clock.monotonic()
        self._push(watch)

    def plan(self, number: str) -> LookPlan | None:
        """The looks at a purchase; None for one that isn't looked at. Held in memory only, see above."""
        watch = self._watches.get(number)
        if watch is None:
            return None
        in_seconds = max(0.0, watch.due - self._clock.monotonic())
        next_at = 0 if watch.busy else self._clock.now_ms() + int(1000 * in_seconds)
        return LookPlan(watch.made, watch.last_at, watch.last, next_at)

    def stop(self) -> None:
        """Plans no more looks."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    async def ask(self, account: Account, orders: Sequence[tuple[Order, str]]) -> Mapping[str, tuple[Outcome, bytes]]:
        """One question about up to `query_batch` purchases: by number the outcome and the raw answer.

        `NotSent` where the question couldn't be asked. Whatever comes, every number gets an outcome.
        """
        numbers = [number for _, number in orders]
        no_token = await account.ensure_token()
        if no_token is not None:
            self._note(dict.fromkeys(numbers, no_token))
            return dict.fromkeys(numbers, (no_token, b""))
        context = account.context()
        started = self._clock.monotonic()
        answers: Mapping[str, Outcome]
        raw = b""
        try:
            call = account.supplier.query([facts(order, number, account) for order, number in orders], context)
            if isinstance(call, NotOffered):
                return dict.fromkeys(numbers, (Unclear("the supplier offers no query"), b""))
            probes.probe("look.begin")
            reply = await account.look_side.ask(call.request)
            probes.probe("look.answered")
            if isinstance(reply, HttpReply):
                answers, raw = dict(call.read(reply)), reply.body
            elif isinstance(reply, NotSent):
                answers = dict.fromkeys(numbers, reply)
            else:
                # The question wasn't answered; unlike a purchase that is no doubt, it is just asked again.
                answers = dict.fromkeys(numbers, NotSent(cause=NotSentCause.OWN_LIMIT, detail=reply.reason))
        except Exception:
            log.exception("an adapter failed to ask", account=account.name)
            answers = dict.fromkeys(numbers, NotSent(cause=NotSentCause.OWN_LIMIT, detail="a defect of the adapter"))
        seconds = self._clock.monotonic() - started
        result: dict[str, tuple[Outcome, bytes]] = {}
        for order, number in orders:
            outcome = answers.get(number) or Unclear("the answer leaves the number out")
            if isinstance(outcome, Absent) and self._is_out_of_sight(account, order, number):
                outcome = Unclear("not found, and older than what the supplier's query shows")
            result[number] = (outcome, raw)
            self._metrics.supplier_called(account.name, "query", type(outcome).__name__, seconds)
            if order.traceparent:
                key = PurchaseKey(order.client_id, order.order_id, number)
                account.trace("query", type(outcome).__name__, seconds, key, order.traceparent)
        self._note({number: outcome for number, (outcome, _) in result.items()})
        refused = next((o for o, _ in result.values() if isinstance(o, NotSent)), None)
        if refused is not None and refused.cause is NotSentCause.TOKEN_REFUSED:
            account.drop_token(context.token)
        account.heard(refused)
        return result

    def _note(self, outcomes: Mapping[str, Outcome]) -> None:
        """Keeps for people what a look brought: a look without news leaves no other trace."""
        for number, outcome in outcomes.items():
            watch = self._watches.get(number)
            if watch is not None:
                watch.made += 1
                watch.last_at, watch.last = self._clock.now_ms(), moves.in_words(outcome)

    def _is_out_of_sight(self, account: Account, order: Order, number: str) -> bool:
        """Whether a purchase is so old that the supplier's query doesn't show it any more."""
        begun = order.purchase(number).intent_at or order.created_at
        return self._clock.now_ms() - begun >= 1000 * account.traits.query_horizon

    # --- The plan

    def _push(self, watch: _Watch) -> None:
        heapq.heappush(self._due, (watch.due, next(self._tie), watch.key.number))
        if len(self._due) > 2 * len(self._watches) + STALE_ENTRIES:
            self._due = [(watch.due, next(self._tie), number) for number, watch in self._watches.items()]
            heapq.heapify(self._due)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._stopped or not self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        wait = max(0.0, self._due[0][0] - self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(wait, self._look_at_due)

    def _look_at_due(self) -> None:
        now = self._clock.monotonic()
        together: dict[tuple[str, bool], list[_Watch]] = defaultdict(list)
        while self._due and self._due[0][0] <= now:
            _, _, number = heapq.heappop(self._due)
            watch = self._watches.get(number)
            # Entries of watches that were moved or dropped since are stale.
            if watch is not None and watch.due <= now and not watch.busy:
                watch.busy = True
                together[watch.account.name, watch.state in IN_GOOD_HANDS and not watch.alone].append(watch)
        for (_, known), watches in together.items():
            account = watches[0].account
            # A doubt is asked after alone: that a list leaves a number out is weaker than a plain "not found".
            size = account.traits.query_batch if known and account.traits.queryable else 1
            for i in range(0, len(watches), size):
                self._spawn(self._look(account, watches[i : i + size]))
        self._set_timer()

    async def _look(self, account: Account, watches: list[_Watch]) -> None:
        try:
            calm = all(watch.state is PurchaseState.DELIVERED for watch in watches)
            async with account.turn_to_look(calm=calm):
                orders = [(order, number) for watch in watches if (order := await self._load(watch)) is not None
                          for number in (watch.key.number,)]  # fmt: skip
                looked_at, asked_at = self._clock.now_ms(), self._clock.monotonic()
                answers: Mapping[str, tuple[Outcome, bytes]] = {}
                if account.traits.queryable and orders:
                    answers = self._told_apart(await self.ask(account, orders))
                await self._learn(account, orders, answers, looked_at, asked_at)
        except StoreError as error:
            log.error("no look: the store can't be read", account=account.name, why=str(error))
        finally:
            current = [watch for w in watches if (watch := self._watches.get(w.key.number)) is not None]
            for watch in current:
                watch.busy = False
            for watch in current:
                await self._plan_next(watch)

    def _told_apart(self, answers: Mapping[str, tuple[Outcome, bytes]]) -> Mapping[str, tuple[Outcome, bytes]]:
        """The answers to keep. What one answer about several purchases leaves unclear is asked again, one by one: one
        number may have spoilt it for all, and what is kept of an answer must not hold the cards of another client.
        """
        if len(answers) == 1:
            return answers
        clear = {}
        for number, (outcome, _) in answers.items():
            watch = self._watches.get(number)
            if not isinstance(outcome, Unclear):
                clear[number] = (outcome, b"")
            elif watch is not None:
                watch.alone = watch.again = True
        return clear

    async def _load(self, watch: _Watch) -> Order | None:
        try:
            return await self._ledger.load(watch.key)
        except OrderGone as error:
            log.error("order of a purchase is gone", order_id=str(error))
            self._watches.pop(watch.key.number, None)
            return None

    async def _learn(
        self,
        account: Account,
        orders: Sequence[tuple[Order, str]],
        answers: Mapping[str, tuple[Outcome, bytes]],
        looked_at: int,
        asked_at: float,
    ) -> None:
        """Applies the answers: those of one order in one commit."""
        by_order: dict[str, list[Happening]] = defaultdict(list)
        keys: dict[str, PurchaseKey] = {}
        for order, number in orders:
            keys[order.order_id] = PurchaseKey(order.client_id, order.order_id, number)
            record = order.purchase(number)
            outcome, raw = answers.get(number, (None, b""))
            if isinstance(outcome, Absent):
                weighed = moves.weigh_absence(
                    record,
                    looked_at=self._proven_time(record, looked_at, asked_at),
                    grace_ms=int(1000 * account.traits.not_found_grace),
                    resends=account.traits.absence_resends,
                )
                by_order[order.order_id].append(
                    Happening(number=number, event=weighed, source=Source.QUERY, asked_at=looked_at, send=record.sends)
                )
            elif record.state is PurchaseState.SUBMITTING and not isinstance(outcome, Accepted | Delivered | Refunded):
                # Its own answer is still to come; what a look doesn't know yet is no doubt.
                continue
            elif outcome is not None and not isinstance(outcome, NotSent):
                by_order[order.order_id].append(
                    Happening(number=number, event=outcome, source=Source.QUERY, asked_at=looked_at, raw=raw)
                )
            end = self._end_that_came(account, order, record, outcome, looked_at)
            if end is not None:
                by_order[order.order_id].append(Happening(number=number, event=end, source=Source.DEADLINE))
        for order_id, happenings in by_order.items():
            await self._ledger.apply(keys[order_id], *happenings)

    def _proven_time(self, record: PurchaseRecord, looked_at: int, asked_at: float) -> int:
        """The time of a look, as far as the monotonic clock bears it out: a wall clock that jumped proves nothing."""
        watch = self._watches.get(record.number)
        if watch is None or watch.silent_since is None:
            return 0
        return min(looked_at, record.written_until + int(1000 * (asked_at - watch.silent_since)))

    def _end_that_came(
        self, account: Account, order: Order, record: PurchaseRecord, outcome: Outcome | None, looked_at: int
    ) -> DeadlinePassed | WatchOver | None:
        """The deadline, or the end of the watch over a delivered purchase, if the look that was just made is after it
        and lets it act.
        """
        if record.state in UNDER_WAY and record.review is None:
            passed, end = looked_at >= settle_deadline(order, record, account), DeadlinePassed()
            return end if passed and self._was_last_look(account, record, outcome) else None
        # An answer that can't be read says nothing about what became of it.
        readable = None if isinstance(outcome, Unclear) and outcome.doubt is None else outcome
        if record.is_watched and looked_at >= record.watch_until and self._was_last_look(account, record, readable):
            return WatchOver()
        return None

    def _was_last_look(self, account: Account, record: PurchaseRecord, outcome: Outcome | None) -> bool:
        """Whether a look after the time is over counts: it was answered, or too many weren't."""
        if not account.traits.queryable or not isinstance(outcome, NotSent | None):
            return True
        watch = self._watches.get(record.number)
        if watch is None:
            return False
        watch.unanswered += 1
        return watch.unanswered >= UNANSWERED_LOOKS

    async def _plan_next(self, watch: _Watch) -> None:
        number = watch.key.number
        now = self._clock.monotonic()
        try:
            order = await self._load(watch)
        except StoreError:
            watch.due = now + STORE_REST_SECONDS
            self._push(watch)
            return
        if order is None:
            return
        record = order.purchase(number)
        goes_on = is_looked_at(record) and not watch.once
        if goes_on:
            self._looked(order, number)
        if watch.again:
            # What the look said may be older than what happened meanwhile, even if it was the last one.
            watch.again = False
            watch.once = not goes_on
            watch.due = now
            self._push(watch)
            return
        if not goes_on:
            self._watches.pop(number, None)
            return
        if watch.due > now:
            # Moved while the look was on its way.
            self._push(watch)
            return
        wait = self._delay(watch, order, record)
        if wait is None:
            self._watches.pop(number, None)
            return
        watch.looks += 1
        watch.due = now + max(wait, 0.001)
        self._push(watch)

    def _first_delay(self, account: Account, record: PurchaseRecord) -> float:
        """A doubt is looked at at once; what is in good hands after the supplier's first delay."""
        match record.state:
            case PurchaseState.DELIVERED:
                return self._to_next_watch(account, record)
            case PurchaseState.ACCEPTED:
                return account.traits.look_delays[0]
            case _:
                return 0.0

    def _to_next_watch(self, account: Account, record: PurchaseRecord) -> float:
        """Seconds to the next look at a delivered purchase: the last one comes when its time is over."""
        until_over = self._until_over(record.watch_until)
        if until_over <= 0:
            # The last look couldn't be made.
            return account.traits.look_delays[-1]
        return min(account.traits.aftersale_every, until_over) if account.traits.queryable else until_over

    def _until_over(self, watch_until: int) -> float:
        return (watch_until - self._clock.now_ms()) / 1000 + LAST_LOOK_MARGIN_SECONDS

    def _delay(self, watch: _Watch, order: Order, record: PurchaseRecord) -> float | None:
        """Seconds to the next look; None when there is nothing more to look for."""
        account = watch.account
        now_ms = self._clock.now_ms()
        if record.state is PurchaseState.DELIVERED:
            return self._to_next_watch(account, record)
        to_deadline = (settle_deadline(order, record, account) - now_ms) / 1000
        if not account.traits.queryable:
            # Only the deadline, then a callback or a person.
            return to_deadline if record.review is None else None
        delays = account.traits.look_delays
        wait = delays[min(watch.looks, len(delays) - 1)]
        if record.review is ReviewReason.DEADLINE:
            return delays[-1]
        if record.state is PurchaseState.UNKNOWN and record.written_until:
            proof = (record.written_until - now_ms) / 1000 + account.traits.not_found_grace
            if proof > 0:
                wait = min(wait, proof)
        return min(wait, to_deadline) if to_deadline > 0 else wait


def is_looked_at(record: PurchaseRecord) -> bool:
    """Whether looks at a purchase go on by themselves."""
    person_only = record.review is not None and record.review not in moves.RESOLVED_BY_EVIDENCE
    return (record.state in UNDER_WAY and not person_only) or record.is_watched


def settle_deadline(order: Order, record: PurchaseRecord, account: Account) -> int:
    """When a person has to look, in milliseconds."""
    begun = record.intent_at or order.created_at
    return begun + int(1000 * account.traits.settle_by[order.product_kind])


def send_deadline(order: Order, record: PurchaseRecord, account: Account) -> int:
    """After which a purchase isn't sent any more, in milliseconds."""
    begun = max(order.created_at, record.ordered_at)
    return begun + int(1000 * account.traits.send_by[order.product_kind])
