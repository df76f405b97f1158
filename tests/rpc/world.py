"""A real server on a real socket over the real store and vault. Only buying is left out: tests move orders by hand."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from reward_adapters.contract import Card, CardKind, Dealer, ProductKind, RecipientKind
from reward_adapters.money import yuan
from reward_server.access import Access, Client, Permission, key_hash
from reward_server.auditing import AuditLog
from reward_server.catalogue import Catalogue, FormField, Product, ProductOffer
from reward_server.clock import Clock
from reward_server.domain import moves
from reward_server.domain.ids import IdSource
from reward_server.domain.order import Failure, Order, OrderState
from reward_server.engine.account import Account, AccountPlan
from reward_server.engine.inquiries import Inquiries
from reward_server.engine.ledger import Ledger
from reward_server.engine.ordering import (
    NotOrderable,
    OrderRequest,
    check_against_product,
    differing_fields,
    make_order,
)
from reward_server.engine.outlook import Outlook
from reward_server.engine.reviews import Reviews
from reward_server.errors import ClientOrderIdReused, OrderNotCancellable, ProductNotFound, ProductNotOrderable
from reward_server.hub import Hub
from reward_server.keyring import Keyring
from reward_server.metrics import Metrics
from reward_server.resume import Tokens
from reward_server.rpc.cards import CardReader, UpdateEncoder
from reward_server.rpc.catalog_service import CatalogService
from reward_server.rpc.interceptor import RpcInterceptor
from reward_server.rpc.operator_service import OperatorService
from reward_server.rpc.ports import RpcMetrics
from reward_server.rpc.reward_service import RewardService
from reward_server.rpc.server import RpcServer, TlsFiles, build_server
from reward_server.rpc.streaming import StreamParts
from reward_server.sealing import MasterKeys, Vault
from reward_server.store import Change, Created, Head, OrderQuery, SealedCard, Store
from reward_server.store.open import open_store
from rewardservice.v1 import catalog_service_pb2_grpc, operator_service_pb2_grpc, reward_service_pb2_grpc
from rewardservice.v1 import order_pb2 as order_pb
from rewardservice.v1 import reward_service_pb2 as pb

P = Permission
CLIENTS = {
    "shop": frozenset({P.ORDER, P.READ, P.READ_CARDS}),
    "other": frozenset({P.ORDER, P.READ, P.READ_CARDS}),
    "viewer": frozenset({P.READ}),
    "orderer": frozenset({P.ORDER}),
    "operator": frozenset({P.OPERATE}),
    "overseer": frozenset({P.OPERATE, P.READ}),
}

clock = Clock()
new_id = IdSource(clock.now_ms)


def product(product_id: str, **fields: Any) -> Product:
    """A card worth 100 yuan."""
    values: dict[str, Any] = {
        "kind": ProductKind.CARD,
        "name": f"Product {product_id}",
        "face_value": yuan("100"),
        "recipient_kind": RecipientKind.NONE,
        "offers": (
            ProductOffer(
                account="kss_a",
                supplier_product="2909",
                unit_cost=yuan("98.5"),
                max_unit_cost=yuan("99"),
                max_units_per_purchase=10,
            ),
        ),
    }
    return Product(product_id=product_id, **{**values, **fields})


PRODUCTS = (
    product("card"),
    product("coupon", kind=ProductKind.COUPON),
    product("paused"),
    product("topup", kind=ProductKind.TOPUP, recipient_kind=RecipientKind.PHONE),
    product("zz-form", kind=ProductKind.MEMBERSHIP, form=(FormField(key="zone", label="Zone", options=("a", "b")),)),
)


class Shop:
    """Stores orders as the engine does; buys nothing."""

    def __init__(self, store: Store, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue
        self.fail_with: Exception | None = None

    async def create(self, request: OrderRequest) -> Created:
        """Stores an order."""
        if self.fail_with is not None:
            raise self.fail_with
        existing, head = await self._store.order_by_client_order_id(request.client_id, request.client_order_id)
        if existing is not None:
            if fields := differing_fields(existing, request):
                raise ClientOrderIdReused(request.client_order_id, existing.order_id, fields)
            return Created(existing, True, head)
        wanted = self._catalogue.get(request.product_id)
        if wanted is None:
            raise ProductNotFound(request.product_id)
        if self.orderable(wanted):
            raise ProductNotOrderable(wanted.product_id, "paused")
        check_against_product(request, wanted)
        order = make_order(request, wanted, at=clock.now_ms(), new_id=new_id, paused_for=lambda _account: "")
        return await self._store.create(order)

    async def cancel(self, order: Order) -> Order:
        """Notes the wish as the engine does; asks nobody."""
        if self.fail_with is not None:
            raise self.fail_with
        if order.state.is_terminal and order.state is not OrderState.CANCELLED:
            raise OrderNotCancellable(order.order_id, order.state)
        step = moves.request_cancel(order, at=clock.now_ms())
        if step.news:
            assert await self._store.save(Change(order=step.order, visible=step.visible))
        return step.order

    def outlook(self, _order: Order) -> dict[str, Outlook]:
        """Nothing is awaited: nothing is bought."""
        return {}

    def orderable(self, wanted: Product) -> NotOrderable | None:
        """Only the product "paused" isn't."""
        return NotOrderable.SUPPLIER_PAUSED if wanted.product_id == "paused" else None


def a_card(number: int) -> Card:
    """A card whose every secret field says so."""
    return Card(
        kind=CardKind.NUMBER_AND_SECRET,
        number=f"6220{number:08}",
        secret=f"secret-{number}",
        link=f"https://example.com/secret-link-{number}",
        qr_content=f"secret-qr-{number}",
        instructions=f"secret-words-{number}",
        unit_cost=yuan("98.5"),
    )


class Api:
    """One client of the server."""

    def __init__(self, channel: grpc.aio.Channel, key: str | None, **metadata: str) -> None:
        self.metadata = tuple(metadata.items())
        if key is not None:
            self.metadata = (("authorization", f"Bearer {key}"), *self.metadata)
        self.channel = channel
        self.rewards = reward_service_pb2_grpc.RewardServiceStub(channel)
        self.catalog = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        self.operator = operator_service_pb2_grpc.OperatorServiceStub(channel)

    async def create(self, client_order_id: str = "", **fields: Any) -> pb.CreateOrderResponse:
        """Orders one card."""
        request = {"product_id": "card", "quantity": 1, "client_order_id": client_order_id or new_id(), **fields}
        return await self.rewards.CreateOrder(pb.CreateOrderRequest(**request), metadata=self.metadata)

    async def get(self, order_id: str, view: str = "BASIC") -> order_pb.Order:
        """Reads an order."""
        request = pb.GetOrderRequest(order_id=order_id, view=order_pb.OrderView.Value(f"ORDER_VIEW_{view}"))
        return (await self.rewards.GetOrder(request, metadata=self.metadata)).order

    async def updates(self, **fields: Any) -> pb.ListOrderUpdatesResponse:
        """Reads updates."""
        return await self.rewards.ListOrderUpdates(pb.ListOrderUpdatesRequest(**fields), metadata=self.metadata)

    def stream(self, **fields: Any) -> "Stream":
        """Opens a stream."""
        request = pb.StreamOrderUpdatesRequest(**fields)
        return Stream(self.rewards.StreamOrderUpdates(request, metadata=self.metadata))

    async def awaiting(self, client_order_id: str) -> "Stream":
        """A stream that awaits an order that doesn't exist yet."""
        stream = self.stream(client_order_ids=[client_order_id])
        await stream.skip_to("snapshot_end")
        return stream


class Stream:
    """A stream as its reader sees it."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def next(self) -> pb.StreamOrderUpdatesResponse | None:
        """The next message; None at the end."""
        message = await self.call.read()
        return None if message is grpc.aio.EOF else message

    async def skip_to(self, kind: str) -> Any:
        """The next message of a kind."""
        while (message := await self.next()) is not None:
            if message.WhichOneof("message") == kind:
                return getattr(message, kind)
        raise AssertionError(f"the stream ended without {kind}")

    async def updates(self, count: int) -> list[pb.OrderUpdate]:
        """The next updates."""
        return [await self.skip_to("update") for _ in range(count)]

    async def rest(self) -> list[pb.StreamOrderUpdatesResponse]:
        """Everything up to the end."""
        messages = []
        while (message := await self.next()) is not None:
            messages.append(message)
        return messages

    def cancel(self) -> None:
        """Leaves."""
        self.call.cancel()


@dataclass(frozen=True, slots=True)
class Refused:
    """How a call failed."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]
    violations: dict[str, str]
    details: list[str]
    retry_after: float | None


def refused(error: grpc.aio.AioRpcError) -> Refused:
    """Reads the details of an error."""
    [raw] = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    status = status_pb2.Status.FromString(raw)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info, request, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    infos = [detail for detail in status.details if detail.Unpack(info)]
    assert len(infos) == 1
    assert info.domain == "rewardservice.v1"
    retries = [detail.Unpack(retry) for detail in status.details]
    for detail in status.details:
        detail.Unpack(request)
    return Refused(
        error.code(),
        info.reason,
        dict(info.metadata),
        {violation.field: violation.description for violation in request.field_violations},
        [detail.TypeName() for detail in status.details],
        retry.retry_delay.ToMilliseconds() / 1000 if any(retries) else None,
    )


@dataclass
class World:
    """A server with its store, and the means to change orders."""

    store: Store
    vault: Vault
    shop: Shop
    hub: Hub
    server: RpcServer
    tokens: Tokens
    metrics: Metrics
    accounts: dict[str, Account]
    reviews: Reviews
    woken: list[Account]
    """Accounts that operators resumed."""
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def api(self, key: str | None = "shop-key", *, options: Any = (), **metadata: str) -> Api:
        """A client with a connection of its own."""
        own = [("grpc.use_local_subchannel_pool", 1), *options]
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}", options=own)
        self.channels.append(channel)
        return Api(channel, key, **{name.replace("_", "-"): value for name, value in metadata.items()})

    async def change(
        self, order_id: str, state: OrderState = OrderState.PROCESSING, cards: int = 0, client_id: str = "shop"
    ) -> Order:
        """Moves an order to a state, with so many more cards."""
        order = await self.store.order(client_id, order_id)
        assert order is not None
        sealer = await self.vault.client(client_id)
        version = order.version + 1
        numbers = range(order.card_count + 1, order.card_count + cards + 1)
        sealed = tuple(
            SealedCard(n, version, order.purchases[0].number, sealer.seal_card(a_card(n), order_id, n)) for n in numbers
        )
        after = replace(
            order,
            state=state,
            version=version,
            revision=order.revision + 1,
            card_count=order.card_count + cards,
            delivered_quantity=order.delivered_quantity + cards,
            updated_at=clock.now_ms(),
        )
        assert await self.store.save(Change(order=after, visible=True, cards=sealed))
        return after

    async def fail(self, order_id: str, failure: Failure) -> None:
        """Moves an order of "shop" to FAILED."""
        order = await self.store.order("shop", order_id)
        assert order is not None
        after = replace(
            order,
            state=OrderState.FAILED,
            failure=failure,
            version=order.version + 1,
            revision=order.revision + 1,
        )
        assert await self.store.save(Change(order=after, visible=True))

    def place(self, token: str, head: Head, client_id: str = "shop") -> int:
        """The position behind a token."""
        return self.tokens.position(client_id, token, head)


class WatchedStore:
    """The store, counting how often the log is read."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.log_reads = 0
        self.card_reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def updates(self, client_id: str, after: int, limit: int) -> Any:
        """Reads the log."""
        self.log_reads += 1
        return await self._store.updates(client_id, after, limit)

    async def cards(self, client_id: str, order_ids: Any) -> Any:
        """Reads cards."""
        self.card_reads += 1
        return await self._store.cards(client_id, order_ids)


@contextlib.asynccontextmanager
async def world(
    folder: Path,
    *,
    stall_seconds: float = 60.0,
    heartbeat: float = 15.0,
    deadline_margin: float = 0.5,
    tail_updates: int = 512,
    pending_updates: int = 256,
    reflection: bool = True,
    tls: TlsFiles | None = None,
    max_message_bytes: int = 262_144,
    connection_age: float = 3_600.0,
    stream_seconds: float = math.inf,
    suppliers: Mapping[str, Dealer] = MappingProxyType({}),
) -> AsyncIterator[World]:
    """A server that answers."""
    real = await open_store(f"sqlite:///{folder}/rewards.db")
    store: Any = WatchedStore(real)
    vault = await Vault.unlock(store, MasterKeys({"test": bytes(32)}))
    tokens = Tokens(await vault.secret("tokens"))
    catalogue = Catalogue(PRODUCTS)
    shop = Shop(store, catalogue)
    metrics = Metrics()
    measured: RpcMetrics = metrics
    cards = CardReader(store, vault)
    hub = Hub(store, UpdateEncoder(cards, tokens), tail_updates=tail_updates, pending_updates=pending_updates)
    audit = AuditLog(store, metrics, now_ms=clock.now_ms)
    audit.start("a test")
    keyring = Keyring(store, vault, clock=clock)
    parts = StreamParts(
        store=store,
        hub=hub,
        tokens=tokens,
        cards=cards,
        audit=audit,
        metrics=measured,
        now_ms=clock.now_ms,
        stall_seconds=stall_seconds,
        stream_seconds=stream_seconds,
    )
    woken: list[Account] = []
    accounts = {
        name: Account(
            AccountPlan(name=name, adapter="scripted", traits=supplier.traits),
            supplier,
            store=store,
            sealer=vault.system,
            clock=clock,
            metrics=metrics,
        )
        for name, supplier in suppliers.items()
    }
    ledger = Ledger(store, vault, clock=clock, new_id=new_id, metrics=metrics, watch_ms=lambda _account: 0)
    reviews = Reviews(ledger, store, accounts=accounts, clock=clock, woken=woken.append)
    inquiries = Inquiries(accounts, catalogue, clock=clock, metrics=metrics)
    access = Access(Client(name, (key_hash(f"{name}-key"),), permissions) for name, permissions in CLIENTS.items())
    server = build_server(
        address="127.0.0.1:0",
        reward_service=RewardService(shop, parts, default_heartbeat=heartbeat, deadline_margin=deadline_margin),
        catalog_service=CatalogService(catalogue, shop, tokens),
        operator_service=OperatorService(
            inquiries=inquiries,
            reviews=reviews,
            store=store,
            opener=vault.system,
            tokens=tokens,
            cards=cards,
            keyring=keyring,
        ),
        interceptor=RpcInterceptor(access, measured, max_message_bytes),
        hub=hub,
        max_message_bytes=max_message_bytes,
        max_connection_age=connection_age,
        reflection=reflection,
        tls=tls,
    )
    await server.start()
    running = World(store, vault, shop, hub, server, tokens, metrics, accounts, reviews, woken)
    try:
        yield running
    finally:
        for channel in running.channels:
            await channel.close()
        await server.stop(0)
        await inquiries.close()
        for account in accounts.values():
            await account.close()
        await audit.close()
        await real.close()


async def all_orders(store: Store, client_id: str) -> list[Order]:
    """Every order of a client, newest first."""
    return await store.orders(OrderQuery(client_id=client_id, limit=10_000))


async def until(condition: Any) -> None:
    """Lets the loop run until a condition holds; the test's time limit is the end of patience."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
        await asyncio.sleep(0)
