"""Inquiries: what suppliers can tell beside orders. Our balance, their products, and what they ask for with an order.

Nothing here buys, and nothing that goes wrong here keeps an account from buying: an account that may not ask for its
balance may still sell.
"""

import asyncio
import contextvars
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog

from reward_adapters.contract import (
    Absent,
    Call,
    Context,
    FormEntry,
    HttpReply,
    Listing,
    NotOffered,
    NotSent,
    NotSentCause,
    ProductKind,
    Purchase,
    SupplierProduct,
    Unclear,
)
from reward_adapters.money import UNITS_PER_YUAN, Money
from reward_server.catalogue import Catalogue, FormSource
from reward_server.clock import Clock
from reward_server.engine.account import Account
from reward_server.errors import (
    NotOfferedBySupplier,
    SupplierNotFound,
    SupplierProductNotFound,
    SupplierUnavailable,
)
from reward_server.metrics import Metrics

log = structlog.get_logger(__name__)

BALANCE_SECONDS = 5.0
"""How long somebody who asks for balances waits for each of them, all at once."""
QUESTION_SECONDS = 8.0
"""How long somebody who asks for products waits: less than clients wait for us."""
RETRY_SECONDS = 5.0
"""What who asked in vain is told to wait."""

BALANCE_EVERY = 300.0
"""Seconds between two readings of a balance for the metrics."""
FORMS_EVERY = 3600.0
"""Seconds between two readings of an order form: it changes with the supplier's catalogue, seldom."""
FORMS_ROUND = 300.0
"""Seconds after which a form that couldn't be read is asked for again; twice as long each time, up to the above."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Balance:
    """What is known of our deposit at a supplier."""

    amount: Money | None = None
    """As last heard; None: never."""
    at: int = 0
    """When it was heard, milliseconds since 1970."""
    problem: str = ""
    """Why it isn't of just now; empty when it is."""


@dataclass(frozen=True, slots=True)
class Offers:
    """What a supplier account offers beside buying."""

    query: bool
    callbacks: bool
    cancel: bool
    balance: bool
    products: bool
    order_forms: bool


@dataclass(frozen=True, slots=True)
class Explored:
    """One product of a supplier and what it asks for with an order."""

    product: SupplierProduct
    form: tuple[FormEntry, ...] = ()
    form_problem: str = ""
    """Why the form isn't known; empty when it is, or when the supplier has none."""


@dataclass(frozen=True, slots=True)
class _NoAnswer(Unclear):
    """Nothing whole came back: no answer in time, or a broken connection."""


@dataclass(slots=True)
class _Form:
    """An order form that has to be read again and again."""

    source: FormSource
    due: float = 0.0
    """Monotonic time."""
    failures: int = 0
    """In a row."""
    known: bool = False


class Inquiries:
    """Asks suppliers, for operators and by itself."""

    def __init__(
        self, accounts: Mapping[str, Account], catalogue: Catalogue, *, clock: Clock, metrics: Metrics
    ) -> None:
        self._accounts = dict(sorted(accounts.items()))
        self._catalogue = catalogue
        self._clock = clock
        self._metrics = metrics
        self._offers = {name: _offers(account) for name, account in self._accounts.items()}
        self._balances: dict[str, Balance] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._forms = {
            name: [_Form(source) for source in catalogue.expect_forms(name)]
            for name, offers in self._offers.items()
            if offers.order_forms
        }

    @property
    def accounts(self) -> Sequence[Account]:
        """Every account, by name."""
        return list(self._accounts.values())

    def account(self, name: str) -> Account:
        """The account of that name. Raises SupplierNotFound."""
        account = self._accounts.get(name)
        if account is None:
            raise SupplierNotFound(name, self._accounts)
        return account

    def offers(self, name: str) -> Offers:
        """What the account offers."""
        return self._offers[name]

    # --- For operators

    async def balances(self) -> dict[str, Balance]:
        """Every account's balance, all asked for at once: those that don't answer in time say so."""
        names = list(self._accounts)
        return dict(zip(names, await asyncio.gather(*map(self._balance, names)), strict=True))

    async def _balance(self, name: str) -> Balance:
        if not self._offers[name].balance:
            return Balance(problem="the supplier doesn't tell")
        asking = self._ask_balance(name)
        # Neither a slow supplier nor whoever stops waiting for it ends the question: others may wait for it, too.
        await asyncio.wait({asking}, timeout=BALANCE_SECONDS)
        known = self._balances.get(name, Balance())
        return known if asking.done() else Balance(known.amount, known.at, f"no answer within {BALANCE_SECONDS:g} s")

    async def products(self, name: str, page: int) -> Listing:
        """One page of a supplier's products.

        Raises SupplierNotFound, NotOfferedBySupplier or SupplierUnavailable.
        """
        account = self.account(name)
        listing = await self._ask_now(account, "products", partial(account.supplier.products, page=page))
        return _answered(account, listing)

    async def product(self, name: str, number: str) -> Explored:
        """One product of a supplier, by the supplier's number.

        Raises SupplierNotFound, NotOfferedBySupplier, SupplierProductNotFound or SupplierUnavailable.
        """
        account = self.account(name)
        asking = self._ask_now(account, "product", partial(account.supplier.product, number))
        asking_form = self._ask_now(account, "form", partial(account.supplier.order_form, number))
        product, form = await asyncio.gather(asking, asking_form)
        if isinstance(product, Absent):
            raise SupplierProductNotFound(name, number)
        found = _answered(account, product)
        if isinstance(form, NotSent | Unclear):
            return Explored(found, form_problem=_why(form))
        return Explored(found) if isinstance(form, NotOffered) else Explored(found, form)

    # --- By itself

    async def keep_balances(self) -> None:
        """Reads the balances for the metrics, now and every few minutes, for ever."""
        while True:
            asked = [self._ask_balance(name) for name, offers in self._offers.items() if offers.balance]
            await asyncio.gather(*asked)
            await asyncio.sleep(BALANCE_EVERY)

    async def keep_forms(self) -> None:
        """Reads what suppliers ask for with each of our products, now and every hour, for ever.

        Every account at its own pace: one that hangs keeps no other waiting.
        """
        async with asyncio.TaskGroup() as group:
            for name in self._forms:
                group.create_task(self._keep_forms(name))

    async def _keep_forms(self, name: str) -> None:
        failures = 0
        while True:
            failures = 0 if await self._read_forms(name) else min(failures + 1, 16)
            await asyncio.sleep(min(FORMS_ROUND * 2 ** max(failures - 1, 0), max(FORMS_ROUND, FORMS_EVERY)))

    async def close(self) -> None:
        """Asks nothing more."""
        for asking in self._asking.values():
            asking.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _read_forms(self, name: str) -> bool:
        """Those that are due, one after the other: an hour has room for all, and no order waits for them.

        False when the account answered nothing, which it would do with every other one, too. What has waited longest
        comes first, so that no form that always hangs keeps the others from being read.
        """
        account = self._accounts[name]
        for form in sorted(self._forms[name], key=lambda form: form.due):
            if form.due > self._clock.monotonic():
                break
            build = partial(account.supplier.order_form, form.source.supplier_product)
            answer = await self._ask(account, "form", build)
            if not isinstance(answer, NotSent | Unclear):
                self._learn(form, () if isinstance(answer, NotOffered) else answer)
                continue
            # Orders are let through meanwhile, as they would be if the supplier had no forms to tell of.
            say = log.debug if form.failures else log.warning
            say("order form not read", account=name, product=form.source.supplier_product, why=_why(answer))
            form.due = self._clock.monotonic() + min(FORMS_ROUND * 2**form.failures, FORMS_EVERY)
            form.failures = min(form.failures + 1, 16)
            if isinstance(answer, NotSent | _NoAnswer):
                return False
        return True

    def _learn(self, form: "_Form", entries: tuple[FormEntry, ...]) -> None:
        form.failures = 0
        form.due = self._clock.monotonic() + FORMS_EVERY
        if self._catalogue.learn_form(form.source, entries):
            # The first time it is one line for every product; later it is news.
            say = log.info if form.known else log.debug
            keys = [entry.key for entry in entries]
            say("order form read", account=form.source.account, product=form.source.supplier_product, keys=keys)
        form.known = True

    def _ask_balance(self, name: str) -> "asyncio.Task[None]":
        """The question under way, or a new one."""
        asking = self._asking.get(name)
        if asking is None or asking.done():
            asking = asyncio.create_task(self._read_balance(self._accounts[name]), context=contextvars.Context())
            self._asking[name] = asking
        return asking

    async def _read_balance(self, account: Account) -> None:
        answer = await self._ask(account, "balance", account.supplier.balance)
        if isinstance(answer, int):
            self._balances[account.name] = Balance(answer, self._clock.now_ms())
            self._metrics.supplier_balance(account.name, answer / UNITS_PER_YUAN)
            return
        known = self._balances.get(account.name, Balance())
        self._balances[account.name] = Balance(known.amount, known.at, _why(answer))
        log.debug("balance not read", account=account.name, why=_why(answer))

    # --- One question

    async def _ask_now(
        self, account: Account, what: str, build: "Callable[[Context], Call[T] | NotOffered]"
    ) -> "T | NotOffered | NotSent | Unclear":
        """Like `_ask`, for somebody who waits."""
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                return await self._ask(account, what, build)
        except TimeoutError:
            return Unclear(f"no answer within {QUESTION_SECONDS:g} s")

    async def _ask(
        self, account: Account, what: str, build: "Callable[[Context], Call[T] | NotOffered]"
    ) -> "T | NotOffered | NotSent | Unclear":
        """One question, asked once more with a new token when the supplier refuses the old one. Never raises."""
        started = self._clock.monotonic()
        try:
            if isinstance(offered := build(account.context()), NotOffered):
                return offered
            async with account.questions:
                answer = await self._exchange(account, build)
                if isinstance(answer, NotSent) and answer.cause is NotSentCause.TOKEN_REFUSED:
                    answer = await self._exchange(account, build)
        except Exception:
            log.exception("an adapter failed to ask", account=account.name, what=what)
            answer = Unclear("a defect of the adapter")
        result = next((kind.__name__ for kind in (NotSent, Unclear, Absent) if isinstance(answer, kind)), "Answered")
        seconds = self._clock.monotonic() - started
        self._metrics.supplier_called(account.name, what, result, seconds)
        account.trace(what, result, seconds)
        return answer

    async def _exchange(
        self, account: Account, build: "Callable[[Context], Call[T] | NotOffered]"
    ) -> "T | NotOffered | NotSent | Unclear":
        no_token = await account.ensure_token()
        if no_token is not None:
            return no_token
        context = account.context()
        call = build(context)
        if isinstance(call, NotOffered):
            return call
        reply = await account.look_side.ask(call.request)
        if not isinstance(reply, HttpReply):
            return reply if isinstance(reply, NotSent) else _NoAnswer(reply.reason)
        answer = call.read(reply)
        if isinstance(answer, NotSent) and answer.cause is NotSentCause.TOKEN_REFUSED:
            account.drop_token(context.token)
        return answer


def _answered(account: Account, answer: T | NotOffered | NotSent | Unclear) -> T:
    if isinstance(answer, NotOffered):
        raise NotOfferedBySupplier(account.name, answer.what)
    if isinstance(answer, NotSent | Unclear):
        wait = answer.retry_after if isinstance(answer, NotSent) else None
        raise SupplierUnavailable(account.name, _why(answer), wait or RETRY_SECONDS)
    return answer


def _why(answer: NotOffered | NotSent | Unclear) -> str:
    """What went wrong, in words that hold no secret."""
    match answer:
        case NotSent(detail=""):
            return str(answer.cause)
        case NotSent():
            return f"{answer.cause}: {answer.detail}"
        case Unclear():
            return answer.reason
        case NotOffered():
            return "the supplier doesn't tell"


_SAMPLE = Purchase(
    number="0" * 26,
    product_kind=ProductKind.CARD,
    supplier_product="1",
    quantity=1,
    recipient=None,
    unit_cost=Money(UNITS_PER_YUAN),
    unit_limit=Money(UNITS_PER_YUAN),
    supplier_reference="1",
)
"""Only to hear whether the supplier offers something; never sent."""


def _offers(account: Account) -> Offers:
    supplier, context = account.supplier, account.context()

    def offered(build: Callable[[], object]) -> bool:
        try:
            return not isinstance(build(), NotOffered)
        except Exception:
            log.exception("an adapter failed to say what it offers", account=account.name)
            return False

    return Offers(
        query=account.traits.queryable,
        callbacks=account.traits.calls_back,
        cancel=offered(lambda: supplier.cancel(_SAMPLE, context)),
        balance=offered(lambda: supplier.balance(context)),
        products=offered(lambda: supplier.products(context)),
        order_forms=offered(lambda: supplier.order_form("1", context)),
    )
