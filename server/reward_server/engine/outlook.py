"""What a purchase waits for at this moment, why, and until when: in words, for whoever asks why an order is late.

Nothing is decided here. It puts into words what `domain.moves`, `account`, `dispatch` and `looks` go by.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from reward_server.domain import moves
from reward_server.domain.order import Order, PurchaseRecord, PurchaseState, ReviewReason
from reward_server.engine.account import Account, AccountState, Standing
from reward_server.engine.looks import LookPlan, send_deadline, settle_deadline

NO_LOOKS = LookPlan(0, 0, "", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is known of one purchase beside what is stored. Times in milliseconds since 1970, 0 = none."""

    waits_for: str = ""
    """For people; empty when nothing is awaited."""
    send_deadline: int = 0
    settle_deadline: int = 0
    looks: LookPlan = NO_LOOKS


def outlook_of(
    order: Order,
    purchase: PurchaseRecord,
    account: Account | None,
    plan: LookPlan | None,
    *,
    now_ms: int,
    stopped: bool,
) -> Outlook:
    """The outlook of one purchase. `account` is None where it isn't configured any more, `stopped` is whether nothing
    new is sent.
    """
    if account is None:
        gone = "its account isn't configured any more: it can't be asked, and waits for an operator"
        return Outlook(waits_for=gone if purchase.state.is_open or purchase.is_watched else "")
    if not account.traits.queryable:
        # Only the clock is looked at: the supplier can't be asked.
        plan = None
    elif plan is not None and stopped:
        plan = replace(plan, next_at=0)
    kind = order.product_kind
    if kind not in account.traits.send_by or kind not in account.traits.settle_by:
        # Another adapter goes by the account's name since: it has no deadlines for such a product.
        return Outlook(looks=plan or NO_LOOKS)
    moment = _Moment(order, purchase, account, plan, now_ms, stopped)
    return Outlook(
        waits_for="; ".join(moment.reasons()),
        send_deadline=send_deadline(order, purchase, account),
        settle_deadline=settle_deadline(order, purchase, account) if purchase.intent_at else 0,
        looks=plan or NO_LOOKS,
    )


@dataclass(frozen=True, slots=True)
class _Moment:
    """Everything that tells what a purchase waits for."""

    order: Order
    purchase: PurchaseRecord
    account: Account
    plan: LookPlan | None
    now_ms: int
    stopped: bool

    def reasons(self) -> Iterator[str]:
        """What it waits for, the nearest first."""
        purchase = self.purchase
        if purchase.review is not None:
            yield self._in_review(purchase.review)
            return
        match purchase.state:
            case PurchaseState.WAITING:
                yield from self._before_sending()
            case PurchaseState.SUBMITTING:
                seconds = self.account.traits.read_timeout
                yield f"the supplier's answer: the request is on its way, and unknown after {seconds:g} s without one"
            case PurchaseState.ACCEPTED:
                yield from self._delivery()
            case PurchaseState.UNKNOWN:
                yield from self._proof()
            case PurchaseState.DELIVERED if purchase.is_watched:
                yield f"the end of the watch over disputes and refunds at {_utc(purchase.watch_until)}"

    # --- Not sent

    def _before_sending(self) -> Iterator[str]:
        reasons = [*self._own_reasons(), *self._reasons_of_account()]
        yield from reasons or ["its sending, which begins at once"]

    def _own_reasons(self) -> Iterator[str]:
        if self.stopped:
            yield "the next start: the server is draining and sends nothing new"
        if self.purchase not in moves.sendable(self.order) and (before := _before(self.order, self.purchase)):
            yield _turn_words(before)
        if self.purchase.not_before > self.now_ms:
            yield _asked_words(self.purchase)

    def _reasons_of_account(self) -> Iterator[str]:
        obstacle = obstacle_of(self.account)
        if obstacle is not None:
            yield obstacle[1]
        elif self.account.traits.needs_token and self.account.context().token is None:
            yield token_words(self.account)

    # --- Sent

    def _delivery(self) -> Iterator[str]:
        purchase = self.purchase
        if self.order.cancel_requested_at:
            yield "the end of it at the supplier: the client wished to cancel"
        if purchase.cards:
            yield f"the rest of the cards: {purchase.shown_cards} of {purchase.quantity} came"
        elif not self.order.cancel_requested_at:
            yield "the delivery: the supplier took it"
        yield self._how_told()

    def _proof(self) -> Iterator[str]:
        """Of an unknown purchase: what can prove what became of it."""
        purchase, traits = self.purchase, self.account.traits
        if purchase.written_until == 0:
            seconds = self.account.plan.answer_patience
            yield f"the supplier's answer: the exchange stays open for {seconds:g} s, and late answers count"
        if purchase.refusal is not None and traits.queryable:
            yield "a look that finds nothing: the refusal alone isn't certain"
        elif traits.queryable and purchase.called_back:
            yield "a look that finds it: the supplier called back about it, so 'not found' proves nothing"
        elif traits.queryable:
            yield self._absence()
        yield self._how_told()

    def _absence(self) -> str:
        until = self.purchase.written_until + int(1000 * self.account.traits.not_found_grace)
        if self.purchase.written_until and self.now_ms < until:
            return f"a look that finds it; 'not found' proves nothing before the grace period ends at {_utc(until)}"
        return "a look that finds it, or a second one that finds nothing after the grace period"

    def _in_review(self, review: ReviewReason) -> str:
        if review not in moves.RESOLVED_BY_EVIDENCE:
            return f"an operator's decision ({review})"
        missing = "the missing card" if review is ReviewReason.CARD_MISSING else "clean evidence"
        return f"an operator's decision ({review}), or {missing}: {self._how_told()}"

    def _how_told(self) -> str:
        if not self.account.traits.queryable:
            who = "its callback tells" if self.account.traits.calls_back else "only a late answer or a person tells"
            deadline = settle_deadline(self.order, self.purchase, self.account)
            until = f" (until {_utc(deadline)}, then a person looks)" if self.purchase.review is None else ""
            return f"the supplier offers no query: {who}{until}"
        if self.stopped:
            return "the next look is made after the next start: the server is draining"
        if self.plan is None:
            return "a look is about to be planned"
        return f"the next look is at {_utc(self.plan.next_at)}" if self.plan.next_at else "a look is on its way"


# --- Why something isn't sent yet, also for `waits` -------------------------------------------------------------------


def obstacle_of(account: Account) -> tuple[str, str] | None:
    """What keeps everything that waits for an account from being sent now: its kind, and its words for people."""
    standing, rate = account.standing(), account.plan.max_calls_per_second
    if standing.state is not AccountState.READY:
        return f"{standing.state} {standing.why}", _standing_words(account.name, standing)
    if account.in_flight >= account.slots:
        return "slot", f"a free slot at {account.name}: {account.in_flight} of {account.slots} requests are under way"
    if rate and account.ready_in() > 0:
        return "turn", f"its turn at {account.name}: at most {rate:g} calls a second"
    return None


def token_words(account: Account) -> str:
    """That an access token is waited for."""
    return f"an access token of {account.name}"


def held_back(order: Order) -> dict[str, str]:
    """The purchases that wait for another one of their order to end, with the words for it, by number."""
    if order.recipient is None or order.cancel_requested_at:
        return {}
    ready = {p.number for p in moves.sendable(order)}
    waiting = [p for p in order.purchases if p.state is PurchaseState.WAITING and p.number not in ready]
    before = _before(order, waiting[0]) if waiting else None
    return {} if before is None else {p.number: _turn_words(before) for p in waiting}


def reasons_before(order: Order, purchase: PurchaseRecord, *, now_ms: int) -> dict[str, str]:
    """Why a purchase that may be sent now wasn't long ago, as far as the order tells: words by kind."""
    reasons: dict[str, str] = {}
    unsent = [piece for piece in purchase.evidence if piece.outcome in ("NotSent", "AbsenceProven")]
    if unsent:
        reasons["again"] = f"another try, after {unsent[-1].outcome} {unsent[-1].detail}".rstrip()
    elif purchase.ordered_at:
        reasons["operator"] = f"an operator's decision, who had its units bought again at {_utc(purchase.ordered_at)}"
    if purchase.not_before > now_ms:
        reasons["asked"] = _asked_words(purchase)
    return reasons


def found_words(started_at: int) -> str:
    """That a purchase was found waiting when the server started."""
    return f"the server's start at {_utc(started_at)}, which found it waiting"


def waiting_since(order: Order, purchase: PurchaseRecord) -> int:
    """Since when an unsent purchase waits, in milliseconds since 1970: its own last change, or the end of the purchase
    that it came after.
    """
    units = set(purchase.units())
    ended = (p.updated_at for p in order.purchases if p.state is PurchaseState.DEAD and units & set(p.units()))
    return max([purchase.updated_at, *ended])


def _before(order: Order, purchase: PurchaseRecord) -> PurchaseRecord | None:
    """The purchase that has to end before another one of its order may be sent."""
    others = [p for p in order.purchases if p.state.is_open and p.number != purchase.number]
    return min(others, key=lambda p: p.state is PurchaseState.WAITING, default=None)


def _turn_words(before: PurchaseRecord) -> str:
    return f"purchase {before.number}: purchases for one recipient go one after another"


def _asked_words(purchase: PurchaseRecord) -> str:
    return f"the time until which the supplier asked us to wait, {_utc(purchase.not_before)}"


def _standing_words(name: str, standing: Standing) -> str:
    because = f": {standing.why}" if standing.why else ""
    if standing.hold is not None:
        return f"an operator, who paused {name} at {_utc(standing.hold.at)}{because}"
    does = "is paused" if standing.state is AccountState.PAUSED else "rests"
    return f"{name}, which {does} until {_utc(standing.until)}{because}"


def _utc(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
