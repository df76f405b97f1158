"""One supplier account at run time: its slots, its pauses, its access token and its two HTTP sides."""

import asyncio
import contextvars
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import structlog

from reward_adapters.contract import (
    Context,
    Dealer,
    HttpReply,
    HttpRequest,
    NotOffered,
    NotSent,
    NotSentCause,
    Outcome,
    Token,
    Traits,
    Unclear,
)
from reward_server.clock import Clock
from reward_server.domain.moves import AlertKind
from reward_server.engine.breaker import Breaker
from reward_server.engine.exchange import IDLE_SECONDS_LOOK, IDLE_SECONDS_PLACE, Broken, Exchanges
from reward_server.metrics import Metrics
from reward_server.sealing import SealError
from reward_server.store import Hold, PurchaseKey, SealedToken, Store, StoreError
from reward_server.tracing import Traces

log = structlog.get_logger(__name__)

FIRST_HOLD_SECONDS = 0.5
"""After a call that couldn't be made, or too many doubts, the account rests, twice as long each time in a row…"""
LONGEST_HOLD_SECONDS = 30.0
"""… up to this: long enough to spare a supplier that is down, short enough to notice its return."""
SHORTEST_SHARE = 0.75
"""A rest lasts between this share of it and all of it: accounts that lost the same supplier don't come back in step."""

CONFIGURATION_PAUSE_SECONDS = 60.0
"""A supplier that refuses *us* is asked again after this: the mistake may be on its side (an IP not registered yet),
and a minute neither floods it nor holds orders back for long."""

LONGEST_RETRY_AFTER = 300.0
"""What a supplier asks us to wait is believed up to this: a slip of its pen must not stop an account for days."""

YIELD_SECONDS = 0.005
"""How long a question leaves its turn to a purchase that waits as well."""

LOOKS_AT_ONCE = 4
"""Questions under way per account: looks are cheap, but a supplier's own limits are unknown."""

CALM_LOOKS_AT_ONCE = 2
"""As many of them may be about what was delivered: questions that hang leave room for those that press."""

QUESTIONS_AT_ONCE = 4
"""Questions about balance and products under way per account: nobody's order waits for them."""

LONGEST_TOKEN_MARGIN = 0.2
"""A token is renewed at the latest when this share of its lifetime is left, whatever margin is configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPlan:
    """The numbers of one account. Durations in seconds."""

    name: str
    adapter: str = ""
    """The adapter's kind, for people."""
    traits: Traits
    """The adapter's traits with the configuration's overrides."""
    max_in_flight: int = 16
    answer_patience: float = 600.0
    submit_window: float = 5.0
    max_calls_per_second: float | None = None
    """Purchases and questions together; None: no limit."""
    notify_url: str | None = None
    """Where the supplier may call back."""
    base_url: str | None = None
    """Where the supplier lives; nothing is sent to another site."""


class AccountState(StrEnum):
    """Whether purchases are sent to an account."""

    READY = "ready"
    RESTING = "resting"
    """Not for a moment: it couldn't be reached, left purchases unanswered, or asked us to wait."""
    PAUSED = "paused"
    """No: it refuses us, or an operator says so."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How an account stands, and why."""

    state: AccountState
    why: str = ""
    """For everybody who waits for it: nothing of anybody's purchase, nor what operators say among themselves."""
    detail: str = ""
    """For operators: what the supplier said last, or what an operator wrote."""
    until: int = 0
    """When it is tried again, milliseconds since 1970; 0 when it is ready, or waits for an operator."""
    hold: Hold | None = None
    """The operator's pause."""


class TokenSealer(Protocol):
    """Seals what belongs to the service itself."""

    def seal(self, plaintext: bytes, *aad: str) -> bytes:
        """Seals."""

    def open(self, sealed: bytes, *aad: str) -> bytes:
        """Opens."""


UNANSWERED = "unanswered"
"""Why an account rests: purchases weren't answered, or not clearly."""
REST_CAUSES = (*map(str, (NotSentCause.UNREACHABLE, NotSentCause.RATE_LIMITED, NotSentCause.NO_TOKEN)), UNANSWERED)


def rest_seconds(rests: int) -> float:
    """How long a rest lasts that comes after so many others in a row, with jitter."""
    longest = min(FIRST_HOLD_SECONDS * 2.0 ** min(rests, 16), LONGEST_HOLD_SECONDS)
    return longest * random.uniform(SHORTEST_SHARE, 1.0)


class Turns:
    """When the next call may begin, so that an account makes at most so many a second: one by one, evenly spaced.

    Spacing is a bucket that holds one token. A larger one would let twice the limit through in some second.
    Purchases take a turn if there is one (`take`), and wait in their queue else; questions wait here (`wait`), the
    first come first. While both wait they take turns: neither a backlog of purchases nor looks hold up the others.
    """

    def __init__(self, clock: Clock, per_second: float | None) -> None:
        self._clock = clock
        self._spacing = self._spacing_alone = 1.0 / per_second if per_second else 0.0
        self._next = 0.0
        self._one_by_one = asyncio.Lock()
        self._asking = 0
        """Questions that wait."""
        self._sending = False
        """A purchase was refused its turn since the last one that had it."""
        self._last_was_sent = False

    def share(self, sharers: int) -> None:
        """Makes no more than an equal share of the calls when so many processes make them."""
        self._spacing = self._spacing_alone * sharers

    def ready_in(self) -> float:
        """Seconds until the next call may begin."""
        return max(0.0, self._next - self._clock.monotonic()) if self._spacing else 0.0

    def take(self) -> bool:
        """Takes the turn for a purchase, if it has come."""
        if not self._spacing:
            return True
        if self.ready_in() > 0 or (self._asking and self._last_was_sent):
            self._sending = True
            return False
        self._sending = False
        self._use(sent=True)
        return True

    async def wait(self) -> None:
        """Waits for the turn of a question, and takes it."""
        if not self._spacing:
            return
        self._asking += 1
        try:
            async with self._one_by_one:
                await self._come_up()
                if self._sending and not self._last_was_sent:
                    # A purchase may have given up meanwhile: it has its turn if it is there to take it.
                    self._sending = False
                    await asyncio.sleep(YIELD_SECONDS)
                    await self._come_up()
                self._use(sent=False)
        finally:
            self._asking -= 1

    async def _come_up(self) -> None:
        while (seconds := self.ready_in()) > 0:  # noqa: ASYNC110 - it waits for time itself
            await asyncio.sleep(seconds)

    def _use(self, *, sent: bool) -> None:
        self._next = self._clock.monotonic() + self._spacing
        self._last_was_sent = sent


class _Questions(Exchanges):
    """An HTTP side on which every question waits for its turn."""

    def __init__(self, turns: Turns, **sides: Any) -> None:
        super().__init__(**sides)
        self._turns = turns

    async def ask(self, request: HttpRequest) -> HttpReply | NotSent | Broken:
        await self._turns.wait()
        return await super().ask(request)


class Account:
    """One supplier account at run time."""

    def __init__(
        self,
        plan: AccountPlan,
        supplier: Dealer,
        *,
        store: Store,
        sealer: TokenSealer,
        clock: Clock,
        metrics: Metrics,
        traces: Traces | None = None,
    ) -> None:
        self.plan = plan
        self.supplier = supplier
        self._store = store
        self._sealer = sealer
        self._clock = clock
        self._metrics = metrics
        self._traces = traces
        self._in_flight = 0
        self._in_flight_gauge = metrics.purchases_in_flight(plan.name)
        metrics.account_paused(plan.name, paused=False)
        for cause in REST_CAUSES:
            metrics.account_rests(plan.name, cause, times=0)
        self._resting_until = 0.0
        self._resting_for = self._resting_detail = ""
        self._puzzles: set[str] = set()
        """Products whose answers weren't understood since the last good one."""
        self._failures_in_row = 0
        self._breaker = Breaker(clock, rest_seconds)
        metrics.watch_account(
            plan.name,
            resting=lambda: self.standing().state is AccountState.RESTING,
            doubts=lambda: self._breaker.doubts,
        )
        self._paused_until = 0.0
        self._paused_for = ""
        self._hold: Hold | None = None
        self._token: str | None = None
        self._refused_token: str | None = None
        self._token_renew_at = 0.0
        self._token_ends_at = 0.0
        self._token_fetch: asyncio.Task[NotSent | None] | None = None
        self.looks = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._calm_looks = asyncio.Semaphore(CALM_LOOKS_AT_ONCE)
        self.questions = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        self._turns = Turns(clock, plan.max_calls_per_second)
        patience = plan.traits.read_timeout + plan.traits.connect_timeout
        self.place_side = Exchanges(**self._side(plan.answer_patience, IDLE_SECONDS_PLACE))
        self.look_side = _Questions(self._turns, **self._side(patience, IDLE_SECONDS_LOOK))

    def _side(self, patience: float, idle_seconds: float) -> dict[str, Any]:
        return {
            "clock": self._clock,
            "connect_timeout": self.traits.connect_timeout,
            "read_timeout": self.traits.read_timeout,
            "answer_patience": patience,
            "idle_seconds": idle_seconds,
            "base_url": self.plan.base_url,
        }

    @property
    def name(self) -> str:
        """The configured name."""
        return self.plan.name

    @property
    def traits(self) -> Traits:
        """What is true of the supplier, with the account's overrides."""
        return self.plan.traits

    def trace(
        self, operation: str, outcome: str, seconds: float, key: PurchaseKey | None = None, traceparent: str = ""
    ) -> None:
        """An exchange ended: about a purchase of an order with that `traceparent`, or about none."""
        if self._traces is not None and (key is None or traceparent):
            self._traces.exchanged(
                self.plan.adapter, self.name, operation, outcome, seconds, key=key, traceparent=traceparent
            )

    # --- Slots, rests and pauses

    @property
    def in_flight(self) -> int:
        """How many purchases are being sent."""
        return self._in_flight

    @property
    def slots(self) -> int:
        """How many purchases may be under way now: fewer than configured while the supplier leaves them in doubt."""
        room = self._breaker.room
        return self.plan.max_in_flight if room is None else min(room, self.plan.max_in_flight)

    def ready_in(self) -> float:
        """Seconds until a purchase may be sent, 0 = now (slots aside)."""
        return max(self._held_for(), self._turns.ready_in())

    def _held_for(self) -> float:
        until = max(self._resting_until, self._breaker.resting_until, self._paused_until)
        return max(0.0, until - self._clock.monotonic())

    def take_slot(self) -> bool:
        """Takes a slot if one is free, the account neither rests nor is paused, and makes no more calls than it may."""
        if self._hold is not None or self._in_flight >= self.slots or self._held_for() > 0:
            return False
        if not self._turns.take():
            return False
        self._in_flight += 1
        self._in_flight_gauge.set(self._in_flight)
        return True

    def give_slot(self) -> None:
        """Gives a slot back."""
        self._in_flight -= 1
        self._in_flight_gauge.set(self._in_flight)

    def share(self, replicas: int) -> None:
        """So many processes buy at this account: each makes an equal share of the calls that it allows."""
        self._turns.share(replicas)

    @property
    def paused_for(self) -> str:
        """Why the account is paused; "" when it isn't."""
        if self._hold is not None:
            return self._hold.reason
        if self._paused_for and self._clock.monotonic() >= self._paused_until:
            self._paused_for = ""
            self._metrics.account_paused(self.name, paused=False)
        return self._paused_for

    @property
    def hold(self) -> Hold | None:
        """An operator's pause; it ends by an operator's word alone."""
        return self._hold

    def pause(self, hold: Hold) -> None:
        """Sends nothing new until `resume`; what is under way goes on, and looks do."""
        self._hold = hold
        self._metrics.account_paused(self.name, paused=True)

    def resume(self) -> None:
        """Ends an operator's pause, and one for a refusal by the supplier: the next purchase tries."""
        self._hold = None
        self._paused_for = ""
        self._paused_until = 0.0
        self._metrics.account_paused(self.name, paused=False)

    def standing(self) -> Standing:
        """Whether purchases are sent now, and why not."""
        now = self._clock.monotonic()
        if self._hold is not None:
            return Standing(AccountState.PAUSED, detail=self._hold.reason, hold=self._hold)
        if said := self.paused_for:
            until = self._wall_clock(self._paused_until - now)
            return Standing(AccountState.PAUSED, "the supplier refuses us", said, until)
        breaker = self._breaker
        if now < self._resting_until and breaker.resting_until <= self._resting_until:
            until = self._wall_clock(self._resting_until - now)
            return Standing(AccountState.RESTING, self._resting_for, self._resting_detail, until)
        if now < breaker.resting_until:
            until = self._wall_clock(breaker.resting_until - now)
            return Standing(AccountState.RESTING, breaker.why, breaker.detail, until)
        if breaker.is_open and self._in_flight >= self.slots:
            # The rest is over, and what comes of the purchase that is being tried decides about the next.
            tried = f"{breaker.why}; one is being tried"
            return Standing(AccountState.RESTING, tried, breaker.detail, self._clock.now_ms())
        return Standing(AccountState.READY)

    def _wall_clock(self, seconds_from_now: float) -> int:
        return self._clock.now_ms() + int(1000 * seconds_from_now)

    def heard(self, result: object) -> None:
        """Learns from every answer: rests when the supplier can't be reached, pauses when it refuses us."""
        if not isinstance(result, NotSent):
            if not isinstance(result, Unclear):
                self._failures_in_row = 0
            return
        now = self._clock.monotonic()
        if result.cause is NotSentCause.CONFIGURATION:
            if not self.paused_for:
                self._metrics.account_paused(self.name, paused=True)
                log.error("account paused", account=self.name, why=result.detail, seconds=CONFIGURATION_PAUSE_SECONDS)
                self._metrics.alert(AlertKind.SUPPLIER_REFUSES_US)
            self._paused_for = result.detail or "the supplier refuses us"
            self._paused_until = now + CONFIGURATION_PAUSE_SECONDS
        elif result.cause in REST_CAUSES:
            self._resting_for, self._resting_detail = str(result.cause), result.detail
            if now >= self._resting_until:
                # Calls that were under way when the rest began fail as well: they say nothing new.
                self._resting_until = now + rest_seconds(self._failures_in_row)
                self._failures_in_row += 1
                self._metrics.account_rests(self.name, str(result.cause))
                if self._failures_in_row == 1:
                    why = {"cause": str(result.cause), "detail": result.detail}
                    log.warning("supplier not reached", account=self.name, **why)
            asked = min(result.retry_after or 0.0, LONGEST_RETRY_AFTER)
            self._resting_until = max(self._resting_until, now + asked)

    def purchase_ended(self, outcome: Outcome, *, sent_at: float, puzzle: str = "") -> bool:
        """Learns what came of a purchase within the read time-out; True when more may be sent by it than before.

        Doubts in a row make the account rest, and any answer that tells what became of the purchase ends that. Looks
        count neither way: the dangerous supplier is the one that answers questions and swallows purchases. `puzzle`
        names the product of an answer that came in good form and wasn't understood: in a row it counts once, so that
        one product doesn't keep the others waiting, while a supplier that speaks another language by now is noticed.
        """
        match outcome:
            case NotSent():
                return False
            case Unclear(reason=reason):
                if puzzle and puzzle in self._puzzles:
                    return False
                self._puzzles |= {puzzle} if puzzle else set()
                seconds = self._breaker.doubt(reason, sent_at=sent_at)
                if seconds is not None:
                    why = {"cause": UNANSWERED, "count": self._breaker.doubts, "detail": reason}
                    log.warning("account rests", account=self.name, **why, seconds=round(seconds, 3))
                    self._metrics.account_rests(self.name, UNANSWERED)
                return False
            case _:
                was_open = self._breaker.is_open
                doubts = self._breaker.answered()
                self._puzzles.clear()
                if was_open:
                    log.info("supplier answers again", account=self.name, count=doubts)
                return doubts > 0

    @asynccontextmanager
    async def turn_to_look(self, *, calm: bool) -> AsyncIterator[None]:
        """Waits for a turn to look. Calm looks, at what was delivered, queue among themselves first: however many there
        are and however long they hang, only few of them stand before one at a purchase that is still open.
        """
        async with AsyncExitStack() as turn:
            if calm:
                await turn.enter_async_context(self._calm_looks)
            await turn.enter_async_context(self.looks)
            yield

    # --- The access token

    def context(self) -> Context:
        """What an exchange needs at this moment."""
        return Context(self._clock.now(), self._token)

    def token_ready(self) -> bool:
        """Whether a valid token is at hand (or none is needed); begins to renew one that ends soon."""
        if not self.traits.needs_token:
            return True
        now = self._clock.monotonic()
        if self._token is None or now >= self._token_ends_at:
            return False
        if now >= self._token_renew_at:
            self._fetch()
        return True

    def drop_token(self, used: str | None) -> None:
        """Forgets a token that the supplier refused, unless it was replaced meanwhile."""
        if used is None:
            return
        self._refused_token = used
        if used == self._token:
            self._token = None

    async def ensure_token(self) -> NotSent | None:
        """Waits for a valid token; `NotSent` when none can be had. Any number of callers share one fetch."""
        if self.token_ready():
            return None
        return await asyncio.shield(self._fetch())

    def _fetch(self) -> "asyncio.Task[NotSent | None]":
        if self._token_fetch is None or self._token_fetch.done():
            self._token_fetch = asyncio.create_task(self._fetch_token(), context=contextvars.Context())
        return self._token_fetch

    async def _fetch_token(self) -> NotSent | None:
        if await self._load_token():
            return None
        started = self._clock.monotonic()
        try:
            call = self.supplier.fetch_token(self.context())
            if isinstance(call, NotOffered):
                return None
            reply = await self.look_side.ask(call.request)
            result = call.read(reply) if isinstance(reply, HttpReply) else _no_token(reply)
        except Exception:
            log.exception("an adapter failed to fetch a token", account=self.name)
            result = NotSent(cause=NotSentCause.NO_TOKEN, detail="a defect of the adapter")
        name = type(result).__name__ if isinstance(result, Token) else str(result.cause)
        seconds = self._clock.monotonic() - started
        self._metrics.supplier_called(self.name, "token", name, seconds)
        self.trace("token", name, seconds)
        if isinstance(result, NotSent):
            log.warning("no access token", account=self.name, cause=str(result.cause), detail=result.detail)
            if self._token is None or self._clock.monotonic() >= self._token_ends_at:
                self.heard(result)
                return result
            # The old token still works until it ends; don't ask again at every purchase.
            if result.cause in (NotSentCause.CONFIGURATION, NotSentCause.RATE_LIMITED):
                self._metrics.alert(AlertKind.SUPPLIER_REFUSES_US)
            self._token_renew_at = self._clock.monotonic() + LONGEST_HOLD_SECONDS
            return None
        self._take_token(result.value, result.expires_in, result.expires_in)
        now_ms = self._clock.now_ms()
        sealed = self._sealer.seal(result.value.encode(), "token", self.name)
        token = SealedToken(self.name, sealed, now_ms, now_ms + int(1000 * result.expires_in))
        try:
            await self._store.save_token(token)
        except StoreError as error:
            # Usable all the same; the next start fetches another.
            log.warning("access token not stored", account=self.name, why=str(error))
        log.info("access token renewed", account=self.name, expires_in=result.expires_in)
        return None

    async def _load_token(self) -> bool:
        """Takes a token that an earlier run left, or another process fetched, while it lives and is newer than ours."""
        try:
            stored = await self._store.token(self.name)
            value = self._sealer.open(stored.sealed, "token", self.name).decode() if stored else ""
        except (StoreError, SealError) as error:
            log.warning("stored access token not usable", account=self.name, why=str(error))
            return False
        if stored is None:
            return False
        lifetime = (stored.expires_at - stored.fetched_at) / 1000
        remaining = (stored.expires_at - self._clock.now_ms()) / 1000
        if remaining <= 0 or value in (self._refused_token, self._token):
            return False
        if self._token is not None and remaining <= self._margin(lifetime):
            # No better than ours. Without one it is taken, and renewed at its first use.
            return False
        self._take_token(value, remaining, lifetime)
        return True

    def _take_token(self, value: str, remaining: float, lifetime: float) -> None:
        self._token = value
        self._token_ends_at = self._clock.monotonic() + remaining
        self._token_renew_at = self._token_ends_at - self._margin(lifetime)

    def _margin(self, lifetime: float) -> float:
        return min(self.traits.token_margin, LONGEST_TOKEN_MARGIN * lifetime)

    async def close(self) -> None:
        """Ends every exchange."""
        if self._token_fetch is not None:
            self._token_fetch.cancel()
        await self.place_side.close()
        await self.look_side.close()


def _no_token(reply: NotSent | Broken) -> NotSent:
    """Whatever went wrong with a token request: nothing was bought by it."""
    detail = reply.detail if isinstance(reply, NotSent) else reply.reason
    return NotSent(cause=NotSentCause.NO_TOKEN, detail=detail)
