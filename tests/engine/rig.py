"""The engine between a scripted supplier and a real store.

`Script` is the supplier: an HTTP server that counts what it is asked and answers what a test says. `ScriptedSupplier`
is the adapter for its wire, which is one JSON object per answer, made by the functions below. Everything between the
two is the real thing: engine, accounts, SQLite, sealing.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from aiohttp import web

from reward_adapters.contract import (
    Absent,
    Accepted,
    AfterSale,
    Answer,
    Call,
    Callback,
    CallbackRefused,
    CancelAnswer,
    Cancelled,
    CancelRefused,
    CancelTaken,
    Card,
    CardKind,
    Context,
    Delivered,
    Doubt,
    HttpReply,
    HttpRequest,
    Notice,
    NotOffered,
    NotSent,
    NotSentCause,
    Outcome,
    ProductKind,
    Purchase,
    Recipient,
    RecipientKind,
    Refunded,
    Refused,
    RefusedFor,
    Token,
    Traits,
    Unclear,
)
from reward_adapters.money import Money
from reward_server.catalogue import Catalogue, Product, ProductOffer
from reward_server.clock import Clock
from reward_server.domain.ids import IdSource
from reward_server.domain.order import Order, OrderState, PurchaseRecord
from reward_server.engine.account import Account, AccountPlan
from reward_server.engine.engine import Engine
from reward_server.engine.ordering import OrderRequest
from reward_server.metrics import Metrics
from reward_server.sealing import MasterKeys, Vault
from reward_server.store import Store
from reward_server.store.sqlite import open_sqlite

PATIENCE = 30.0
"""How long a test waits for what has to happen; generous, since only failures take it."""

CLIENT = "shop"
BOTH = "both"
"""The product that every account offers, in the order of the accounts; the others are named like their account."""
PACK = "pack"
"""A product of the first account that one purchase buys many of."""
TOPUP = "topup"
"""A product of the first account that goes to a phone."""
PHONE = Recipient(RecipientKind.PHONE, "13800138000", "+86")


async def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110 - what is waited for knows nothing of events
            await asyncio.sleep(0.005)


# --- The supplier's wire ----------------------------------------------------------------------------------------------

Said: TypeAlias = dict[str, Any]


def accepted(reference: str | None = None) -> Said:
    return {"said": "accepted", "reference": reference}


def delivered(*cards: str | Said, **more: Any) -> Said:
    """`cards` are secrets, or what `a_card` makes; `more` are fields of `Delivered`."""
    return {"said": "delivered", "cards": cards, **more}


def a_card(secret: str = "", *, number: str = "", sale: AfterSale | None = None, warranty: float = 0.0) -> Said:
    """A card with the supplier's number for it and what became of it; `warranty` in seconds since 1970."""
    return {"secret": secret, "number": number, "sale": sale, "warranty": warranty}


def refunded(amount: int | None = None, cost: int | None = None) -> Said:
    return {"said": "refunded", "amount": amount, "cost": cost}


def refused(*, certain: bool = True, about: RefusedFor = RefusedFor.STOCK) -> Said:
    return {"said": "refused", "certain": certain, "about": about}


def rate_limited(after: float) -> Said:
    return {"said": "rate limited", "after": after}


ABSENT: Said = {"said": "absent"}
TOKEN_REFUSED: Said = {"said": "token refused"}
CONTRADICTION: Said = {"said": "contradiction"}
CANCELLED: Said = {"said": "cancelled"}
CANCEL_TAKEN: Said = {"said": "cancel taken"}
CANCEL_REFUSED: Said = {"said": "cancel refused"}


def read_said(said: Any) -> Outcome:
    """What one answer means; whatever else comes is unclear."""
    match said:
        case {"said": "accepted", "reference": reference}:
            return Accepted(supplier_reference=reference)
        case {"said": "delivered", "cards": cards}:
            more: dict[str, Any] = {key: value for key, value in said.items() if key not in ("said", "cards")}
            return Delivered(cards=tuple(map(read_card, cards)), **more)
        case {"said": "refunded", "amount": amount, "cost": cost}:
            return Refunded(amount=amount, cost=cost)
        case {"said": "refused", "certain": certain, "about": about}:
            return Refused(code="9", message="no", certain=certain, about=RefusedFor(about))
        case {"said": "absent"}:
            return Absent()
        case {"said": "token refused"}:
            return NotSent(cause=NotSentCause.TOKEN_REFUSED)
        case {"said": "rate limited", "after": after}:
            return NotSent(cause=NotSentCause.RATE_LIMITED, retry_after=after)
        case {"said": "contradiction"}:
            return Unclear("the supplier contradicts itself", Doubt.CONTRADICTION)
    return Unclear("unreadable")


def read_card(said: object) -> Card:
    match said:
        case {"secret": secret, "number": number, "sale": sale, "warranty": warranty}:
            return Card(
                kind=CardKind.CODE,
                secret=secret,
                supplier_card_number=number,
                after_sale=AfterSale(sale) if sale else None,
                warranty_until=datetime.fromtimestamp(warranty, UTC) if warranty else None,
            )
    return Card(kind=CardKind.CODE, secret=str(said))


def read_cancelled(said: object) -> CancelAnswer:
    match said:
        case {"said": "cancelled"}:
            return Cancelled()
        case {"said": "cancel taken"}:
            return CancelTaken()
        case {"said": "cancel refused"}:
            return CancelRefused(detail="too late")
        case {"said": "rate limited", "after": after}:
            return NotSent(cause=NotSentCause.RATE_LIMITED, retry_after=after)
    return Unclear("unreadable")


class ScriptedSupplier:
    """The adapter. A test may put a defect into it: the name of a method, or of a reader below."""

    def __init__(self, name: str, url: str, traits: Traits) -> None:
        self.name = name
        self._url = url
        self._traits = traits
        self.token_lifetime = 3600.0
        self.cancels = True
        self.defects: set[str] = set()

    @property
    def traits(self) -> Traits:
        return self._traits

    def place(self, purchase: Purchase, context: Context) -> Call[Outcome] | Refused:
        self._stumble("place")
        return Call(self._request("place", purchase.number, context), self._read_placed)

    def query(self, purchases: Sequence[Purchase], context: Context) -> Call[Mapping[str, Outcome]] | NotOffered:
        if not self._traits.queryable:
            return NotOffered("query")
        self._stumble("query")
        if self._traits.query_batch > 1:
            numbers = [purchase.number for purchase in purchases]
            return Call(self._request("query", ",".join(numbers), context), self._read_all_found)
        number = purchases[0].number
        return Call(self._request("query", number, context), lambda reply: {number: self._read_found(reply)})

    def cancel(self, purchase: Purchase, context: Context) -> Call[CancelAnswer] | NotOffered:
        if not self.cancels:
            return NotOffered("cancelling")
        self._stumble("cancel")
        return Call(self._request("cancel", purchase.number, context), lambda reply: read_cancelled(reply.json()))

    def balance(self, context: Context) -> NotOffered:
        return NotOffered("balances")

    def products(self, context: Context, *, page: int = 1) -> NotOffered:
        return NotOffered("products")

    def product(self, number: str, context: Context) -> NotOffered:
        return NotOffered("single products")

    def order_form(self, number: str, context: Context) -> NotOffered:
        return NotOffered("order forms")

    def read_callback(self, callback: Callback) -> Notice | CallbackRefused | NotOffered:
        told = json.loads(callback.body)
        outcome = None if self._traits.queryable else read_said(told["said"])
        return Notice(number=told["number"], outcome=outcome, accepted=Answer(b"ok"), unknown=Answer(b"unknown"))

    def fetch_token(self, context: Context) -> Call[Token | NotSent] | NotOffered:
        if not self._traits.needs_token:
            return NotOffered("token")
        self._stumble("fetch_token")
        return Call(self._request("token", "", context), lambda reply: Token(reply.body.decode(), self.token_lifetime))

    def _read_placed(self, reply: HttpReply) -> Outcome:
        self._stumble("read_placed")
        return read_said(reply.json())

    def _read_found(self, reply: HttpReply) -> Outcome:
        self._stumble("read_found")
        return read_said(reply.json())

    def _read_all_found(self, reply: HttpReply) -> Mapping[str, Outcome]:
        return {number: read_said(said) for number, said in reply.json().items()}

    def _request(self, what: str, number: str, context: Context) -> HttpRequest:
        headers = {"X-Token": context.token or "", "X-Number": number}
        return HttpRequest(f"{self._url}/{self.name}/{what}", b"{}", headers)

    def _stumble(self, method: str) -> None:
        if method in self.defects:
            raise UnicodeError(f"a defect in {method}")


# --- The supplier -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that the supplier got."""

    account: str
    what: str
    number: str
    token: str
    request: web.Request = field(repr=False)


Reply: TypeAlias = Said | bytes | web.StreamResponse
Handler: TypeAlias = Callable[[Asked], Awaitable[Reply]]


async def takes_it(asked: Asked) -> Reply:
    """Delivers a card at once."""
    return delivered(f"card of {asked.number}")


async def accepts_it(_asked: Asked) -> Reply:
    return accepted()


async def finds_nothing(_asked: Asked) -> Reply:
    return ABSENT


async def hangs_up(asked: Asked) -> Reply:
    """Ends the connection without a word."""
    assert asked.request.transport is not None
    asked.request.transport.close()
    return b""


def answers(said: Reply) -> Handler:
    """Always says the same."""

    async def handler(_asked: Asked) -> Reply:
        return said

    return handler


def after(gate: asyncio.Event, said: Reply) -> Handler:
    """Says something as soon as the gate opens."""

    async def handler(_asked: Asked) -> Reply:
        await gate.wait()
        return said

    return handler


class Script:
    """The supplier: what it answers, and what it was asked."""

    def __init__(self) -> None:
        self.place: Handler = takes_it
        self.query: Handler = finds_nothing
        self.cancel: Handler = answers(CANCELLED)
        self.asked: list[Asked] = []
        self._tokens = 0

    def places(self, account: str | None = None) -> list[Asked]:
        return [a for a in self.asked if a.what == "place" and account in (None, a.account)]

    @property
    def queries(self) -> list[Asked]:
        return [a for a in self.asked if a.what == "query"]

    @property
    def cancels(self) -> list[Asked]:
        return [a for a in self.asked if a.what == "cancel"]

    @property
    def token_calls(self) -> int:
        """How often a token was asked for."""
        return sum(a.what == "token" for a in self.asked)

    async def token(self, _asked: Asked) -> Reply:
        """token1, token2, …"""
        self._tokens += 1
        return f"token{self._tokens}".encode()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        asked = Asked(
            request.match_info["account"],
            request.match_info["what"],
            request.headers["X-Number"],
            request.headers["X-Token"],
            request,
        )
        self.asked.append(asked)
        handlers = {"place": self.place, "query": self.query, "cancel": self.cancel, "token": self.token}
        said = await handlers[asked.what](asked)
        if isinstance(said, web.StreamResponse):
            return said
        return web.Response(body=said if isinstance(said, bytes) else json.dumps(said).encode())


# --- The engine -------------------------------------------------------------------------------------------------------


class WallClock(Clock):
    """Clocks that are ahead of the machine's by what a test says: the wall clock alone, or both with `advance`."""

    def __init__(self) -> None:
        self.ahead_ms = 0
        self.ahead = 0.0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.ahead_ms += int(1000 * seconds)
        self.ahead += seconds


def traits(*, send_by: float = 900.0, settle_by: float = 900.0, **others: Any) -> Traits:
    """A supplier with a query and short times."""
    quick: dict[str, Any] = {
        "queryable": True,
        "connect_timeout": PATIENCE,
        "read_timeout": PATIENCE,
        "not_found_grace": 0.2,
        "look_delays": (0.03, 0.05),
    }
    return Traits(
        **{
            **quick,
            "send_by": dict.fromkeys(ProductKind, send_by),
            "settle_by": dict.fromkeys(ProductKind, settle_by),
            **others,
        }
    )


class Rig:
    """One engine over a store in a folder; it can be closed and opened again on the same folder."""

    store: Store
    vault: Vault
    engine: Engine
    metrics: Metrics

    def __init__(self, folder: Path, url: str, script: Script, max_in_flight: int) -> None:
        self._folder = folder
        self._url = url
        self._max_in_flight = max_in_flight
        self.script = script
        self.clock = WallClock()
        self.accounts: dict[str, Account] = {}
        self.suppliers: dict[str, ScriptedSupplier] = {}
        self.failures: list[BaseException] = []
        """What tasks of the engine died of."""

    async def open(self, accounts: Mapping[str, Traits]) -> None:
        """Makes everything; `engine.start` is the caller's."""
        self.store = await self._open_store()
        self.vault = await Vault.unlock(self.store, MasterKeys({"m": bytes(32)}))
        self.metrics = Metrics()
        self.suppliers = {name: ScriptedSupplier(name, self._url, its) for name, its in accounts.items()}
        self.accounts = {name: self._account(supplier) for name, supplier in self.suppliers.items()}
        offers = {name: (_offer(name),) for name in accounts} | {BOTH: tuple(map(_offer, accounts))}
        products = [_product(product_id, its) for product_id, its in offers.items()]
        first = next(iter(accounts))
        whole = replace(_offer(first), max_units_per_purchase=100)
        products += [_product(PACK, (whole,)), _topup(TOPUP, (_offer(first),))]
        self.engine = Engine(
            store=self.store,
            vault=self.vault,
            catalogue=Catalogue(products),
            accounts=self.accounts,
            clock=self.clock,
            new_id=IdSource(self.clock.now_ms),
            metrics=self.metrics,
        )
        self.engine.on_failure(self.failures.append)

    async def _open_store(self) -> Store:
        return open_sqlite(self._folder / "reward.db")

    def _account(self, supplier: ScriptedSupplier) -> Account:
        return Account(
            AccountPlan(
                name=supplier.name,
                traits=supplier.traits,
                max_in_flight=self._max_in_flight,
                answer_patience=PATIENCE,
            ),
            supplier,
            store=self.store,
            sealer=self.vault.system,
            clock=self.clock,
            metrics=self.metrics,
        )

    async def restart(self, accounts: Mapping[str, Traits]) -> None:
        await self.close()
        await self.open(accounts)
        await self.engine.start()

    async def close(self) -> None:
        await self.engine.close()
        await self.store.close()

    def forget(self) -> None:
        """Makes the next change read its order from the store."""
        self.engine.ledger._orders.clear()

    def rest(self, account: str, seconds: float) -> None:
        """Nothing is sent to the account for a while."""
        self.accounts[account].heard(NotSent(cause=NotSentCause.RATE_LIMITED, retry_after=seconds))

    async def order(
        self,
        product: str,
        client_order_id: str = "1",
        quantity: int = 1,
        *,
        recipient: Recipient | None = None,
        max_unit_price: Money | None = None,
    ) -> Order:
        request = OrderRequest(
            client_id=CLIENT,
            client_order_id=client_order_id,
            product_id=product,
            quantity=quantity,
            recipient=recipient,
            max_unit_price=max_unit_price,
            supplier_parameters={},
            metadata={},
        )
        return (await self.engine.create(request)).order

    async def updates(self, order: Order) -> list[Order]:
        """Everything the client saw of an order."""
        return [update.order for update in await self.store.updates(CLIENT, 0, 1_000) if
                update.order.order_id == order.order_id]  # fmt: skip

    async def shown_cards(self, order: Order) -> list[str]:
        """The secrets of the cards that the client has."""
        sealer = await self.vault.client(CLIENT)
        stored = (await self.store.cards(CLIENT, [order.order_id])).get(order.order_id, [])
        return [sealer.open_card(card.sealed, order.order_id, card.card_no).secret for card in stored]

    async def stored(self, order: Order) -> Order:
        """The order as the store has it."""
        found = await self.store.order(CLIENT, order.order_id)
        assert found is not None
        return found

    async def when(self, order: Order, enough: Callable[[Order], object], patience: float = PATIENCE) -> Order:
        """Waits until the store has the order as told."""
        async with asyncio.timeout(patience):
            while not enough(now := await self.stored(order)):  # noqa: ASYNC110 - the store has no events
                await asyncio.sleep(0.005)
        return now

    async def when_state(self, order: Order, state: OrderState, patience: float = PATIENCE) -> Order:
        return await self.when(order, lambda now: now.state is state, patience)

    async def callback(self, account: str, number: str, said: Said | None = None) -> None:
        """The supplier calls back."""
        await self.engine.callback(account, Callback(body=json.dumps({"number": number, "said": said}).encode()))

    async def kept_answers(self, order: Order) -> list[bytes]:
        """The answers that were kept whole, opened."""
        sealer = await self.vault.client(CLIENT)
        kept = await self.store.answers(CLIENT, order.order_id)
        return [sealer.open(answer.sealed, "answer", order.order_id, answer.number) for answer in kept]

    def alerts(self, kind: str) -> int:
        """How many alerts of a kind were given."""
        prefix = f'reward_alerts_total{{kind="{kind}"}} '
        lines = self.metrics.render().decode().splitlines()
        return sum(int(float(line.removeprefix(prefix))) for line in lines if line.startswith(prefix))


def outcomes(purchase: PurchaseRecord) -> list[str]:
    """What was learned about a purchase, in short."""
    return [evidence.outcome for evidence in purchase.evidence]


def _offer(account: str) -> ProductOffer:
    return ProductOffer(
        account=account,
        supplier_product="1",
        unit_cost=Money(10_000),
        max_unit_cost=Money(20_000),
        max_units_per_purchase=1,
    )


def _product(product_id: str, offers: tuple[ProductOffer, ...]) -> Product:
    return Product(
        product_id=product_id,
        kind=ProductKind.CARD,
        name=product_id,
        face_value=Money(10_000),
        recipient_kind=RecipientKind.NONE,
        offers=offers,
    )


def _topup(product_id: str, offers: tuple[ProductOffer, ...]) -> Product:
    card = _product(product_id, offers)
    return replace(card, kind=ProductKind.TOPUP, recipient_kind=RecipientKind.PHONE)


class Rigged(Protocol):
    """Makes a rig that is running."""

    async def __call__(self, *, max_in_flight: int = 16, **accounts: Traits) -> Rig:
        """The accounts by name, in the order in which they are tried."""


@asynccontextmanager
async def rigs(folder: Path) -> AsyncIterator[Rigged]:
    """Makes rigs and ends them."""
    script = Script()
    app = web.Application()
    app.router.add_post("/{account}/{what}", script.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    made: list[Rig] = []

    async def make(*, max_in_flight: int = 16, **accounts: Traits) -> Rig:
        rig = Rig(folder, url, script, max_in_flight)
        await rig.open(accounts)
        made.append(rig)
        await rig.engine.start()
        return rig

    try:
        yield make
    finally:
        for rig in made:
            await rig.close()
        await runner.cleanup()
