"""The engine: everything between a client's order and the suppliers, behind a few methods.

`create` takes orders and `cancel` the wish to cancel them, `callback` takes what suppliers call in, `start` and `drain`
begin and end the work.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

import structlog

from reward_adapters.contract import Answer, Callback, CallbackRefused, Notice, NotOffered
from reward_server import probes
from reward_server.catalogue import Catalogue, Product
from reward_server.clock import Clock
from reward_server.domain import moves
from reward_server.domain.copies import replace
from reward_server.domain.ids import IdSource
from reward_server.domain.moves import AlertKind, DeadlinePassed, Event, SenderLost, WatchOver
from reward_server.domain.order import Order, PurchaseState, Source
from reward_server.engine.account import Account, AccountState
from reward_server.engine.cancelling import Cancels
from reward_server.engine.dispatch import Dispatcher
from reward_server.engine.ledger import Happening, Ledger, OrderGone
from reward_server.engine.looks import UNDER_WAY, Looks
from reward_server.engine.ordering import (
    NotOrderable,
    OrderRequest,
    check_against_product,
    differing_fields,
    make_order,
)
from reward_server.engine.outlook import Outlook, found_words, held_back, outlook_of, waiting_since
from reward_server.engine.reviews import Reviews
from reward_server.errors import ClientOrderIdReused, ProductNotFound, RewardError, ServerDraining
from reward_server.metrics import Metrics
from reward_server.sealing import Vault
from reward_server.store import CallbackRecord, Created, OpenPurchase, PurchaseKey, Store, StoreError, StoreUnavailable
from reward_server.store.quotas import NO_QUOTA, Quota
from reward_server.tracing import current_traceparent

log = structlog.get_logger(__name__)

T = TypeVar("T")

PARK_SECONDS = 10.0
"""At drain, how long purchases at suppliers with a query are awaited; the next start asks what became of the rest."""

RECOVERY_PAGE = 1_000
RECOVERY_AT_ONCE = 256
"""Purchases recovered at once: enough to fill group commits, few enough not to load 100,000 orders together."""

RENEWALS_PER_LEASE = 3
"""How often a lease is renewed while it lasts: one that is late or lost loses nothing."""

ADOPTION_REST_SECONDS = 1.0

DRAIN_STEP_SECONDS = 0.05

DRAIN_RETRY_SECONDS = 1.0


class Engine:
    """Takes orders and buys them."""

    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        catalogue: Catalogue,
        accounts: Mapping[str, Account],
        clock: Clock,
        new_id: IdSource,
        metrics: Metrics,
        quota_of: Callable[[str], Quota] = lambda _client_id: NO_QUOTA,
    ) -> None:
        """`quota_of` tells how much a client may order, asked for each order."""
        self._quota_of = quota_of
        self._store = store
        self._vault = vault
        self._catalogue = catalogue
        self._accounts = accounts
        self._clock = clock
        self._new_id = new_id
        self._metrics = metrics
        self._started_at = clock.now_ms()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing: set[asyncio.Task[Any]] = set()
        self._failed: Callable[[BaseException], None] = _log_failure
        self.ledger = Ledger(
            store, vault, clock=clock, new_id=new_id, metrics=metrics, watch_ms=self._aftersale_watch_ms
        )
        self._looks = Looks(self.ledger, clock=clock, metrics=metrics, spawn=self._spawn, looked=self._looked)
        self._cancels = Cancels(
            self.ledger, self._looks, accounts=accounts, clock=clock, metrics=metrics, spawn=self._spawn
        )
        self._dispatcher = Dispatcher(
            self.ledger,
            self._looks,
            clock=clock,
            metrics=metrics,
            alert=self._alert,
            spawn=self._spawn,
        )
        self.reviews = Reviews(self.ledger, store, accounts=accounts, clock=clock, woken=self._dispatcher.wake)
        """What operators decide."""
        self.ledger.listen(self._track)

    # --- Orders

    async def create(self, request: OrderRequest) -> Created:
        """Stores an order, or finds the one that has its client_order_id; buying begins at once and goes on by itself.

        Raises errors.RewardError for what the client can mend, StoreUnavailable when nothing could be stored.
        """
        if self._dispatcher.stopped:
            raise ServerDraining(DRAIN_RETRY_SECONDS)
        try:
            order = self._make(request)
        except RewardError:
            # A product gone, a limit or a pause never turns a replay into an error.
            existing, head = await self._store.order_by_client_order_id(request.client_id, request.client_order_id)
            if existing is None:
                raise
            return self._replay(Created(existing, True, head), request)
        # Whether there is one already is found out by the write: looking first would cost every new order a read.
        return await self._to_its_end(self._create(order, request))

    def _make(self, request: OrderRequest) -> Order:
        """The new order. Raises RewardError where it can't be."""
        product = self._catalogue.get(request.product_id)
        if product is None:
            raise ProductNotFound(request.product_id)
        check_against_product(request, product)
        return make_order(
            request,
            product,
            at=self._clock.now_ms(),
            new_id=self._new_id,
            paused_for=self._paused_for,
            traceparent=current_traceparent(),
        )

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """A cancelled caller must not tear this apart: what is stored has to be acted on."""
        writing = asyncio.create_task(work)
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)

    async def _create(self, order: Order, request: OrderRequest) -> Created:
        intended_at = self._clock.monotonic()
        order, taken = self._intend_at_once(order)
        try:
            created = await self.ledger.create(order, self._quota_of(order.client_id))
        except BaseException:
            for account in taken.values():
                self._dispatcher.release(account)
            raise
        if created.existed:
            for account in taken.values():
                self._dispatcher.release(account)
            return self._replay(created, request)
        for number, account in taken.items():
            key = PurchaseKey(order.client_id, order.order_id, number)
            self._dispatcher.send_now(key, account, order, intended_at=intended_at)
        return created

    async def cancel(self, order: Order) -> Order:
        """Cancels what was never sent, notes the wish, and asks the suppliers that took the rest.

        Raises OrderNotCancellable when it has ended otherwise, StoreUnavailable when nothing could be stored.
        """
        return await self._to_its_end(self.ledger.request_cancel(order.client_id, order.order_id))

    def _intend_at_once(self, order: Order) -> tuple[Order, dict[str, Account]]:
        """Where a slot is free, the order and the intention to send it are one commit."""
        taken: dict[str, Account] = {}
        for purchase in moves.sendable(order):
            account = self._accounts[order.offers[purchase.offer].account]
            if not account.token_ready() or not account.take_slot():
                break
            order = moves.intend(order, purchase.number, owner=self.ledger.owner, at=order.created_at)
            taken[purchase.number] = account
        return replace(order, revision=1), taken

    @staticmethod
    def _replay(created: Created, request: OrderRequest) -> Created:
        fields = differing_fields(created.order, request)
        if fields:
            raise ClientOrderIdReused(request.client_order_id, created.order.order_id, fields)
        return created

    def orderable(self, product: Product) -> NotOrderable | None:
        """Why a product can't be ordered now; None when it can."""
        usable = [offer for offer in product.offers if self._usable(offer.account)]
        if not usable:
            return NotOrderable.SUPPLIER_PAUSED
        if all(offer.unit_cost > offer.max_unit_cost for offer in usable):
            return NotOrderable.PRICE_ABOVE_LIMIT
        return None

    def _usable(self, account: str) -> bool:
        return not self._paused_for(account)

    def _paused_for(self, account: str) -> str:
        standing = self._accounts[account].standing()
        if standing.state is not AccountState.PAUSED:
            return ""
        return standing.why or "an operator paused it"

    def outlook(self, order: Order) -> dict[str, Outlook]:
        """What each purchase of an order waits for at this moment, by number: for people, from memory alone."""
        known = ((p, self._accounts.get(order.offers[p.offer].account)) for p in order.purchases)
        now_ms, stopped = self._clock.now_ms(), self._dispatcher.stopped
        return {
            purchase.number: outlook_of(
                order, purchase, account, self._looks.plan(purchase.number), now_ms=now_ms, stopped=stopped
            )
            for purchase, account in known
        }

    # --- Callbacks

    async def callback(self, account_name: str, callback: Callback) -> Answer | None:
        """Takes a supplier's callback: verifies it, records it, and looks. None for one that isn't a supplier's: no
        such account, no callbacks there, or badly signed. Whoever sent it learns nothing.

        A callback moves nothing by itself, except where the supplier offers no query.
        """
        account = self._accounts.get(account_name)
        if account is None:
            return None
        notice = account.supplier.read_callback(callback)
        if isinstance(notice, NotOffered):
            return None
        if isinstance(notice, CallbackRefused):
            self._metrics.supplier_called(account_name, "callback", "Refused", 0.0)
            log.warning("callback refused", account=account_name, why=notice.reason)
            return None
        began = self._clock.monotonic()
        key = await self._store.purchase(account_name, notice.number)
        traceparent = ""
        if key is not None and notice.outcome is None:
            order, _ = await asyncio.gather(
                self.ledger.note(key, partial(moves.note_callback, number=key.number, at=self._clock.now_ms())),
                self._keep(account_name, callback, notice, key),
            )
            traceparent = order.traceparent
            self._looks.hint(key, account, order.purchase(key.number))
        else:
            await self._keep(account_name, callback, notice, key)
        self._metrics.supplier_called(account_name, "callback", "Unknown" if key is None else "Accepted", 0.0)
        if key is None:
            self._alert(AlertKind.UNEXPECTED_ANSWER, f"{account_name} called back for a number that is none of ours")
        elif notice.outcome is not None:
            happening = Happening(number=key.number, event=notice.outcome, source=Source.CALLBACK, raw=callback.body)
            traceparent = (await self.ledger.apply(key, happening)).traceparent
        if key is not None:
            account.trace("callback", "Accepted", self._clock.monotonic() - began, key, traceparent)
        probes.probe("callback.acknowledging")
        return notice.unknown if key is None else notice.accepted

    async def _keep(self, account: str, callback: Callback, notice: Notice, key: PurchaseKey | None) -> None:
        digest = hashlib.sha256(callback.body).digest()
        system = self._vault.system
        record = CallbackRecord(
            account=account,
            number=notice.number,
            order_id=key.order_id if key else "",
            digest=digest,
            at=self._clock.now_ms(),
            sealed=system.seal(callback.body, "callback", account, digest.hex()),
        )
        probes.probe("callback.storing")
        new = await self._store.keep_callback(record)
        probes.probe("callback.stored")
        log.info(
            "callback taken" if new else "callback repeated",
            account=account,
            order_id=record.order_id or "none of ours",
            number=notice.number,
        )

    # --- Begin and end

    async def start(self) -> None:
        """Goes on where the last run ended. What it was sending when it died is now unknown.

        Delivered purchases that are still watched may be many: their orders aren't read before their next look.
        """
        self._started_at = self._clock.now_ms()
        await self._store.join(self.ledger.owner)
        if self._store.lease_seconds is not None:
            # From now on: taking up a hundred thousand purchases may take longer than a lease.
            self._spawn(self._keep_lease(self._store.lease_seconds))
        await self.reviews.load_holds()
        self._metrics.orders_found(await self._store.open_order_counts())
        await self._adopt(self._recover, thorough=True)

    async def _adopt(self, recover: Callable[[OpenPurchase], Awaitable[None]], *, thorough: bool = False) -> None:
        """Takes up what nobody works on."""
        after = ""
        recovered = watched = 0
        while page := await self._store.adopt(after, RECOVERY_PAGE, thorough=thorough):
            unfinished = [found for found in page if not self._watch_delivered(found)]
            for i in range(0, len(unfinished), RECOVERY_AT_ONCE):
                await asyncio.gather(*(recover(found) for found in unfinished[i : i + RECOVERY_AT_ONCE]))
            after = page[-1].number
            recovered += len(unfinished)
            watched += len(page) - len(unfinished)
        if recovered or watched:
            log.info("open purchases found", count=recovered, delivered_and_watched=watched)

    # --- The lease, where others may use the same store

    async def _keep_lease(self, seconds: float) -> None:
        """Renews it in time, and takes up what others left behind when theirs was over."""
        adopting: asyncio.Task[None] | None = None
        while True:
            await asyncio.sleep(seconds / RENEWALS_PER_LEASE)
            try:
                await self._renew_lease()
            except StoreError as error:
                log.warning("the lease couldn't be renewed", why=str(error))
                continue
            if adopting is None or adopting.done():
                adopting = asyncio.create_task(self._look_around(), context=Context())
                self._tasks.add(adopting)
                adopting.add_done_callback(self._ended)

    async def _renew_lease(self) -> None:
        lease = await self._store.renew()
        if not lease.held:
            # Frozen, or cut off from the store, for longer than it lasted: others may have taken up what was ours. We
            # go on as somebody else, and what we still learn of our requests counts all the same.
            former, self.ledger.owner = self.ledger.owner, self._new_id()
            await self._store.join(self.ledger.owner)
            log.warning("the lease was over; a new one begins", former=former, owner=self.ledger.owner)
            self._alert(AlertKind.LEASE_LOST, "this process was frozen or cut off from the store for too long")
            lease = await self._store.renew()
        for account in self._accounts.values():
            account.share(lease.replicas)

    async def _look_around(self) -> None:
        """What others did or left behind."""
        try:
            await self.reviews.renew_holds()
            self._metrics.orders_found(await self._store.open_order_counts())
            if not self._dispatcher.stopped:
                await self._adopt(self._recover_surely)
        except StoreError as error:
            log.warning("others' work can't be looked at", why=str(error))

    async def _recover_surely(self, found: OpenPurchase) -> None:
        """What was adopted is ours: nobody else would take it up if this gave up."""
        while True:
            try:
                await self._recover(found)
                return
            except OrderGone as error:
                log.error("order of a purchase is gone", order_id=str(error))
                return
            except StoreUnavailable as error:
                log.warning("an adopted purchase waits for the store", order_id=found.order_id, why=str(error))
                await asyncio.sleep(ADOPTION_REST_SECONDS)
            except StoreError as error:
                # One that can't be read must not keep everything else from being looked at.
                log.error("an adopted purchase can't be followed", order_id=found.order_id, why=str(error))
                self._alert(AlertKind.DEFECT, f"order {found.order_id} can't be read, so nobody follows it")
                return

    def _watch_delivered(self, found: OpenPurchase) -> bool:
        """Goes on watching what was delivered; False for everything else, and where there is nobody to ask."""
        account = self._accounts.get(found.account)
        if account is None or found.state is not PurchaseState.DELIVERED:
            return False
        # Spread over the time between two looks: a restart is no reason to ask about all of them at once.
        delay = random.uniform(0.0, account.traits.aftersale_every)
        key = PurchaseKey(found.client_id, found.order_id, found.number)
        self._looks.watch_delivered(key, account, found.watch_until, delay=delay)
        return True

    async def _recover(self, found: OpenPurchase) -> None:
        probes.probe("recover.begin")
        key = PurchaseKey(found.client_id, found.order_id, found.number)
        order = await self.ledger.load(key)
        record = next((purchase for purchase in order.purchases if purchase.number == found.number), None)
        if record is None or record.owner == self.ledger.owner:
            # Made by this process a moment ago, in place of one that was refused: its writer is about to hear of it.
            # Begun by this process while it was still looking around.
            return
        if found.state is PurchaseState.WAITING and record.state is not PurchaseState.WAITING:
            # Sent since it was adopted, by one that was only frozen and lives again: it has written its own name there.
            return
        account = self._accounts.get(found.account)
        if account is None and record.state.is_open:
            log.error(
                "purchase of an account that is not configured any more",
                account=found.account,
                order_id=found.order_id,
                number=found.number,
            )
            self._alert(AlertKind.DEFECT, f"account {found.account} has open purchases but isn't configured any more")
        exchange_was_open = record.state is PurchaseState.UNKNOWN and record.written_until == 0
        if record.state is PurchaseState.SUBMITTING or exchange_was_open:
            await self._happened(key, SenderLost(), Source.RECOVERY, written_until=self._last_written(found, account))
        elif account is None and record.state is PurchaseState.WAITING:
            # Never sent, and there is nobody to send it to.
            await self._happened(key, DeadlinePassed(), Source.RECOVERY)
        elif account is None and record.is_watched and self._clock.now_ms() >= record.watch_until:
            # Delivered, and there is nobody to ask what became of it.
            await self._happened(key, WatchOver(), Source.RECOVERY)
        elif account is not None and record.state in UNDER_WAY:
            self._looks.watch(key, account, record, delay=0.0)
        elif account is not None and record.state is PurchaseState.WAITING:
            since = waiting_since(order, record)
            if since < self._started_at:
                self.ledger.waits.note(record.number, {"start": found_words(self._started_at)}, since=since)
            self._note_held_back(order)
            if record in moves.sendable(order):
                self._dispatcher.enqueue(key, account, order)

    def _last_written(self, found: OpenPurchase, account: Account | None) -> int:
        """Until when the process that was sending may have written, milliseconds: to its death; if it may live, for the
        submit window after its lease, under which it stored the intention.
        """
        now_ms = self._clock.now_ms()
        if found.abandoned_for is None or account is None:
            return now_ms
        return now_ms - found.abandoned_for + int(1000 * account.plan.submit_window)

    async def _happened(
        self, key: PurchaseKey, event: Event, source: Source, *, written_until: int | None = None
    ) -> None:
        await self.ledger.apply(
            key, Happening(number=key.number, event=event, source=source, written_until=written_until)
        )

    async def drain(self) -> None:
        """Sends nothing new, waits a while for what is under way, and leaves the rest to the next start.

        Purchases at suppliers with a query are awaited for a few seconds, since the next start can ask; those without
        up to their read time-out: their answer may be the only copy of a card.
        """
        self._dispatcher.stop()
        self._cancels.stop()
        self._looks.stop()
        begun = self._clock.monotonic()
        told = False
        while True:
            busy = [account for account in self._accounts.values() if account.in_flight]
            if not busy and not self._writing:
                return
            patience = PARK_SECONDS
            for account in busy:
                if not account.traits.queryable:
                    patience = max(patience, account.traits.connect_timeout + account.traits.read_timeout)
            if busy and not told:
                waiting = {account.name: account.in_flight for account in busy}
                log.info("waiting for suppliers; a second signal ends at once", seconds=patience, requests=waiting)
                told = True
            remaining = begun + patience - self._clock.monotonic()
            if remaining <= 0:
                log.info("purchases parked for the next start", count=sum(account.in_flight for account in busy))
                return
            pause = asyncio.create_task(asyncio.sleep(DRAIN_STEP_SECONDS))
            await asyncio.wait({pause, *self._writing}, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
            pause.cancel()

    async def close(self) -> None:
        """Ends everything; purchases under way are settled by the next start."""
        self._dispatcher.stop()
        self._cancels.stop()
        self._looks.stop()
        for account in self._accounts.values():
            await account.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- Inside

    def _track(self, order: Order) -> None:
        """After every change: queues what may be sent, watches what is under way, forgets what is settled."""
        ready = {p.number for p in moves.sendable(order)}
        for purchase in order.purchases:
            key = PurchaseKey(order.client_id, order.order_id, purchase.number)
            account = self._accounts.get(order.offers[purchase.offer].account)
            if account is None:
                # Of an account that isn't configured any more; `_recover` has told.
                if purchase.number in ready:
                    self._spawn(self._happened(key, DeadlinePassed(), Source.DEADLINE))
                continue
            if purchase.state in UNDER_WAY or purchase.is_watched:
                self._looks.watch(key, account, purchase)
                continue
            self._looks.unwatch(purchase.number, settled=not purchase.state.is_open)
            if purchase.number in ready:
                self._dispatcher.enqueue(key, account, order)
            elif not purchase.state.is_open:
                self.ledger.waits.end(purchase.number)
        self._note_held_back(order)
        self._cancels.order_changed(order)

    def _note_held_back(self, order: Order) -> None:
        for number, words in held_back(order).items():
            self.ledger.waits.note(number, {"recipient": words})

    def _looked(self, order: Order, number: str) -> None:
        self._cancels.looked(order, number)

    def _aftersale_watch_ms(self, account: str) -> int:
        """How long something may become of what an account delivered; nothing once it isn't configured any more."""
        known = self._accounts.get(account)
        return 0 if known is None else int(1000 * known.traits.aftersale_watch)

    def _alert(self, kind: AlertKind, message: str) -> None:
        self._metrics.alert(kind)
        log.warning("alert", kind=str(kind), why=message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # A context of its own: what an RPC bound to its log lines is not true of the work that outlives it.
        task = asyncio.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def on_failure(self, failed: Callable[[BaseException], None]) -> None:
        """Who is told when a task of the engine dies of a defect or a broken store."""
        self._failed = failed

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)


def _log_failure(error: BaseException) -> None:
    log.error("a task of the engine failed", exc_info=error)
