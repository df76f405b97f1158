"""A real gRPC server that plays a script, and a relay that can go silent: the other end of the client's wire."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from rewardservice import yuan
from rewardservice.v1 import catalog_service_pb2 as catalog
from rewardservice.v1 import catalog_service_pb2_grpc, order_pb2, reward_service_pb2_grpc
from rewardservice.v1 import reward_service_pb2 as pb

Stream = pb.StreamOrderUpdatesResponse


@dataclass(frozen=True)
class Refusal:
    """An error with the details that the service gives to every error; without a reason it has none."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "it went wrong"
    retry_after: float | None = None
    violations: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def trailers(self) -> tuple[tuple[str, str | bytes], ...]:
        if not self.reason:
            return ()
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain="rewardservice.v1", metadata=self.metadata)
        details = [_any(info)]
        if self.violations:
            bad = error_details_pb2.BadRequest()
            for name, text in self.violations.items():
                bad.field_violations.add(field=name, description=text)
            details.append(_any(bad))
        if self.retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(int(self.retry_after * 1000))
            details.append(_any(error_details_pb2.RetryInfo(retry_delay=delay)))
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=details)
        return (("grpc-status-details-bin", status.SerializeToString()), ("x-request-id", "request-1"))


def _any(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


Step: TypeAlias = Stream | Refusal | Callable[[], Awaitable[Any]]
"""A message to send, an error to end with, or something to wait for."""


async def hang() -> None:
    """A step that never ends by itself."""
    await asyncio.Event().wait()


@dataclass
class Scripted(reward_service_pb2_grpc.RewardServiceServicer, catalog_service_pb2_grpc.CatalogServiceServicer):
    """Answers from its scripts, in turn, and keeps what it was asked. A stream beyond the last script hangs."""

    streams: deque[list[Step]] = field(default_factory=deque)
    creates: deque[pb.CreateOrderResponse | Refusal] = field(default_factory=deque)
    orders: dict[str, order_pb2.Order] = field(default_factory=dict)
    products: list[catalog.Product] = field(default_factory=list)
    refusal: Refusal | None = None
    stream_requests: list[pb.StreamOrderUpdatesRequest] = field(default_factory=list)
    create_requests: list[pb.CreateOrderRequest] = field(default_factory=list)
    list_requests: list[pb.ListOrdersRequest] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    ended: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    created: asyncio.Event = field(default_factory=asyncio.Event)

    async def CreateOrder(self, request: pb.CreateOrderRequest, context: Any) -> pb.CreateOrderResponse:
        self.create_requests.append(request)
        self.created.set()
        answer = self.creates.popleft()
        if isinstance(answer, Refusal):
            await refuse(context, answer)
        assert isinstance(answer, pb.CreateOrderResponse)
        return answer

    async def GetOrder(self, request: pb.GetOrderRequest, context: Any) -> pb.GetOrderResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.refusal is not None:
            await refuse(context, self.refusal)
        wanted = request.order_id or request.client_order_id
        if wanted not in self.orders:
            await refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND", f"no order {wanted}"))
        return pb.GetOrderResponse(order=self.orders[wanted])

    async def CancelOrder(self, request: pb.CancelOrderRequest, context: Any) -> pb.CancelOrderResponse:
        if self.refusal is not None:
            await refuse(context, self.refusal)
        order = self.orders[request.order_id or request.client_order_id]
        cancelled = order_pb2.Order()
        cancelled.CopyFrom(order)
        cancelled.state = order_pb2.ORDER_STATE_CANCELLED
        cancelled.cancel_requested_time.FromSeconds(1_780_000_000)
        return pb.CancelOrderResponse(order=cancelled)

    async def ListOrders(self, request: pb.ListOrdersRequest, context: Any) -> pb.ListOrdersResponse:
        self.list_requests.append(request)
        begin = int(request.page_token or 0)
        size = request.page_size or 50
        orders = list(self.orders.values())
        more = str(begin + size) if begin + size < len(orders) else ""
        return pb.ListOrdersResponse(orders=orders[begin : begin + size], next_page_token=more)

    async def ListOrderUpdates(self, request: pb.ListOrderUpdatesRequest, context: Any) -> pb.ListOrderUpdatesResponse:
        updates = [pb.OrderUpdate(order=order, resume_token=f"t{n}") for n, order in enumerate(self.orders.values(), 1)]
        begin = int(request.after.removeprefix("t") or 0)
        size = request.limit or 100
        page = updates[begin : begin + size]
        token = page[-1].resume_token if page else request.after
        return pb.ListOrderUpdatesResponse(updates=page, resume_token=token, more=begin + size < len(updates))

    async def StreamOrderUpdates(self, request: pb.StreamOrderUpdatesRequest, context: Any) -> AsyncIterator[Stream]:
        number = len(self.stream_requests)
        self.stream_requests.append(request)
        self.peers.append(context.peer())
        try:
            for step in self.streams.popleft() if self.streams else [hang]:
                if isinstance(step, Stream):
                    yield step
                elif isinstance(step, Refusal):
                    await refuse(context, step)
                else:
                    await step()
        finally:
            self.ended.put_nowait(number)

    async def ListProducts(self, request: catalog.ListProductsRequest, context: Any) -> catalog.ListProductsResponse:
        if self.refusal is not None:
            await refuse(context, self.refusal)
        return catalog.ListProductsResponse(products=self.products)

    async def GetProduct(self, request: catalog.GetProductRequest, context: Any) -> catalog.GetProductResponse:
        for product in self.products:
            if product.product_id == request.product_id:
                return catalog.GetProductResponse(product=product)
        await refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND", "no such product"))
        raise AssertionError


async def refuse(context: Any, refusal: Refusal) -> None:
    await context.abort(refusal.code, refusal.message, refusal.trailers())


@asynccontextmanager
async def serving(scripted: Scripted, port: int = 0) -> AsyncIterator[int]:
    """Serves on a port of 127.0.0.1 (0: any), and yields it."""
    server = aio.server(options=(("grpc.so_reuseport", 0),))
    reward_service_pb2_grpc.add_RewardServiceServicer_to_server(scripted, server)
    catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(scripted, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


class Relay:
    """Passes bytes on between a client and a server, until `freeze` makes what is connected fall silent."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.accepted = 0
        self._to = port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def freeze(self) -> None:
        """The connections so far stay open and carry nothing any more; new ones work."""
        self._open.clear()
        self._open = asyncio.Event()
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        for source, target in ((reader, there_writer), (there_reader, writer)):
            task = asyncio.create_task(_pump(source, target, self._open))
            self._tasks.add(task)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, is_open: asyncio.Event) -> None:
    try:
        while data := await source.read(65_536):
            await is_open.wait()
            target.write(data)
            await target.drain()
    except OSError:
        pass
    finally:
        target.close()
        with suppress(OSError):
            await target.wait_closed()


def order(
    order_id: str,
    version: int = 1,
    state: order_pb2.OrderState.ValueType = order_pb2.ORDER_STATE_PROCESSING,
    **fields: Any,
) -> order_pb2.Order:
    return order_pb2.Order(
        order_id=order_id,
        **{
            "client_order_id": f"c-{order_id}",
            "product_id": "jd-100",
            "quantity": 1,
            "version": version,
            "state": state,
            **fields,
        },
    )


def fulfilled(order_id: str, version: int = 2, **fields: Any) -> order_pb2.Order:
    card = order_pb2.Card(card_id=f"{order_id}/1", number="NO-1", secret="SECRET-1")
    return order(order_id, version, order_pb2.ORDER_STATE_FULFILLED, delivered_quantity=1, cards=[card], **fields)


def update(what: order_pb2.Order, token: str) -> Stream:
    return Stream(update=pb.OrderUpdate(order=what, resume_token=token))


def snapshot(what: order_pb2.Order) -> Stream:
    return Stream(snapshot=pb.OrderSnapshot(order=what))


def snapshot_end(token: str) -> Stream:
    return Stream(snapshot_end=pb.SnapshotEnd(resume_token=token))


def heartbeat(token: str) -> Stream:
    return Stream(heartbeat=pb.Heartbeat(resume_token=token))


def product(
    product_id: str, recipient: catalog.RecipientKind.ValueType = catalog.RECIPIENT_KIND_NONE
) -> catalog.Product:
    return catalog.Product(
        product_id=product_id,
        kind=order_pb2.PRODUCT_KIND_CARD,
        name=f"Name of {product_id}",
        face_value=yuan("100"),
        price=yuan("98.5"),
        recipient_kind=recipient,
        orderable=True,
    )
