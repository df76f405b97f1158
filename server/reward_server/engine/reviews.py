"""What people decide: about purchases that evidence alone doesn't settle, and whether accounts are bought from.

Every decision is stored together with who took it, when and why.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from reward_server import probes
from reward_server.clock import Clock
from reward_server.domain import deciding
from reward_server.domain.deciding import OpenReview, Situation, Verdict, open_reviews
from reward_server.domain.moves import Circumstances, Step
from reward_server.domain.order import Order, ReviewReason
from reward_server.engine.account import Account
from reward_server.engine.ledger import Ledger
from reward_server.engine.looks import settle_deadline
from reward_server.errors import DecisionRefused, OrderNotFound, PurchaseNotFound, SupplierNotFound
from reward_server.store import AuditEntry, Hold, PurchaseKey, ReviewPlace, Store

log = structlog.get_logger(__name__)

PAGE = 200
"""Orders read at once while looking for those that a filter lets pass."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReviewFilter:
    """Which open things are asked for; empty lets everything pass."""

    account: str = ""
    reason: ReviewReason | None = None

    def passes(self, order: Order) -> bool:
        """Whether something open about the order is meant."""
        return any(self._means(review) for review in open_reviews(order))

    def _means(self, review: OpenReview) -> bool:
        return self.account in ("", review.account) and self.reason in (None, review.reason)


class Reviews:
    """Takes operators' decisions."""

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        *,
        accounts: Mapping[str, Account],
        clock: Clock,
        woken: Callable[[Account], None],
    ) -> None:
        """`woken` hears of accounts that can be used again."""
        self._ledger = ledger
        self._store = store
        self._accounts = accounts
        self._clock = clock
        self._woken = woken
        self._writing: set[asyncio.Task[Any]] = set()

    # --- Orders

    async def page(self, only: ReviewFilter, after: ReviewPlace, limit: int) -> list[Order]:
        """Orders that a person should look at, who waits longest first."""
        found: list[Order] = []
        while True:
            orders = await self._store.reviews(after, PAGE)
            found.extend(order for order in orders if only.passes(order))
            if len(found) >= limit or len(orders) < PAGE:
                return found[:limit]
            after = place_of(orders[-1])
            # There may be many when a supplier went down, and others wait for their turn.
            await asyncio.sleep(0)

    async def resolve(self, order_id: str, number: str, verdict: Verdict) -> Order:
        """Decides about one purchase. Raises OrderNotFound, PurchaseNotFound, DecisionRefused or StoreUnavailable."""
        client_id = await self._store.owner(order_id)
        if client_id is None:
            raise OrderNotFound(order_id)
        key = PurchaseKey(client_id, order_id, number)
        order = await self._ledger.load(key)
        account = _account_of(order, number)
        audit = AuditEntry(
            at=self._clock.now_ms(),
            by=verdict.by,
            what=verdict.what,
            reason=verdict.reason,
            account=account,
            order_id=order_id,
            number=number,
        )

        def decide(order: Order, around: Circumstances) -> Step:
            return self._decide(order, number, verdict, around)

        order = await self._to_its_end(self._ledger.decide(key, decide, audit))
        log.info(
            "order resolved",
            decision=verdict.what,
            by=verdict.by,
            why=verdict.reason,
            order_state=str(order.state),
            purchase_state=str(order.purchase(number).state),
            account=account,
            order_id=order_id,
            number=number,
            client=client_id,
        )
        return order

    def _decide(self, order: Order, number: str, verdict: Verdict, around: Circumstances) -> Step:
        situation = self._situation(order, number)
        why_not = deciding.objection(order, number, verdict, situation, around.print_card)
        step = deciding.decide(order, number, verdict, situation, around)
        if why_not or not step.news:
            state = order.purchase(number).state
            raise DecisionRefused(order.order_id, number, state, why_not or "it would change nothing")
        return step

    def _situation(self, order: Order, number: str) -> Situation:
        purchase = order.purchase(number)
        account = self._accounts.get(order.offers[purchase.offer].account)
        overdue = account is None or self._clock.now_ms() >= settle_deadline(order, purchase, account)
        usable = (place for place, offer in enumerate(order.offers) if self._usable(offer.account))
        return Situation(overdue, next(usable, None))

    def _usable(self, name: str) -> bool:
        account = self._accounts.get(name)
        return account is not None and not account.paused_for

    # --- Supplier accounts

    async def load_holds(self) -> None:
        """Pauses what operators had paused when the last run ended."""
        for hold in await self._store.holds():
            account = self._accounts.get(hold.account)
            if account is not None:
                account.pause(hold)
                log.warning("account is paused by an operator", account=hold.account, by=hold.by, why=hold.reason)

    async def renew_holds(self) -> None:
        """Takes over what operators paused and resumed by way of another process."""
        holds = {hold.account: hold for hold in await self._store.holds()}
        for name, account in self._accounts.items():
            hold = holds.get(name)
            if hold is not None and account.hold != hold:
                account.pause(hold)
                log.warning("account paused by an operator", account=name, by=hold.by, why=hold.reason)
            elif hold is None and account.hold is not None:
                account.resume()
                log.warning("account resumed by an operator", account=name)
                self._woken(account)

    async def pause(self, name: str, *, by: str, reason: str) -> Account:
        """Sends nothing new to an account until it is resumed. Raises SupplierNotFound or StoreUnavailable."""
        account = self._account(name)
        await self._to_its_end(self._pause(account, Hold(name, self._clock.now_ms(), by, reason)))
        return account

    async def _pause(self, account: Account, hold: Hold) -> None:
        probes.probe("pause.storing")
        await self._store.hold(hold, _audit_of(hold, "pause"))
        probes.probe("pause.stored")
        account.pause(hold)
        log.warning("account paused by an operator", account=hold.account, by=hold.by, why=hold.reason)

    async def resume(self, name: str, *, by: str, reason: str) -> Account:
        """Ends every pause of an account, and sends what waits. Raises SupplierNotFound or StoreUnavailable."""
        account = self._account(name)
        await self._to_its_end(self._resume(account, Hold(name, self._clock.now_ms(), by, reason)))
        return account

    async def _resume(self, account: Account, asked: Hold) -> None:
        probes.probe("resume.storing")
        await self._store.end_hold(_audit_of(asked, "resume"))
        probes.probe("resume.stored")
        account.resume()
        log.warning("account resumed by an operator", account=asked.account, by=asked.by, why=asked.reason)
        self._woken(account)

    def _account(self, name: str) -> Account:
        account = self._accounts.get(name)
        if account is None:
            raise SupplierNotFound(name, sorted(self._accounts))
        return account

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """A cancelled caller must not tear this apart: what is stored has to be acted on."""
        writing = asyncio.create_task(work)
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)


def place_of(order: Order) -> ReviewPlace:
    """Where an order stands among those to look at."""
    return ReviewPlace(order.review_since, order.order_id)


def _account_of(order: Order, number: str) -> str:
    try:
        return order.offers[order.purchase(number).offer].account
    except KeyError:
        raise PurchaseNotFound(order.order_id, number) from None


def _audit_of(hold: Hold, what: str) -> AuditEntry:
    return AuditEntry(at=hold.at, by=hold.by, what=what, reason=hold.reason, account=hold.account)
