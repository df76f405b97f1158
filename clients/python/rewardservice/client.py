"""The client: calls that are tried again under the same id, and streams that survive whatever becomes of the server."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from rewardservice._channel import TlsOptions, open_channel
from rewardservice._credentials import Credentials, Key
from rewardservice._operating import OperatorCalls
from rewardservice._retry import RequestT, ResponseT, call
from rewardservice._watch import Watch
from rewardservice.backoff import Backoff
from rewardservice.errors import ClosedError, RewardError, WaitTimeoutError
from rewardservice.events import Event, Snapshot, Update
from rewardservice.v1 import catalog_service_pb2, order_pb2
from rewardservice.v1 import reward_service_pb2 as pb
from rewardservice.v1.catalog_service_pb2_grpc import CatalogServiceStub
from rewardservice.v1.reward_service_pb2_grpc import RewardServiceStub
from rewardservice.values import is_settled, state_name, yuan

if TYPE_CHECKING:
    # The asynchronous faces of the stubs exist for type checkers only.
    from rewardservice.v1.catalog_service_pb2_grpc import CatalogServiceAsyncStub
    from rewardservice.v1.reward_service_pb2_grpc import RewardServiceAsyncStub

DEFAULT_TARGET = "127.0.0.1:50051"
_SILENT_HEARTBEATS = 3

View: TypeAlias = order_pb2.OrderView.ValueType


class RewardClient(OperatorCalls):
    """A connection to RewardService. Use it as `async with RewardClient(...) as client`, one for the whole program.

    `target` is a gRPC target such as "rewards.internal:50051". `key` is the client's API key or a token; without one
    the environment variable REWARDSERVICE_KEY holds it. Without that, too, a client certificate in `tls` has to say who
    calls, and no key is sent; without certificate "dev-key" is used for a server on this machine only. For tokens that
    expire `key` is a function, plain or async, that returns the one to send now. It is asked before every call and
    every connection of a stream, so it should keep a token while that is good. When it fails, AuthenticationError is
    raised; a RewardError of its own stays what it is, so that an UnavailableError is tried again.

    Without `tls` the connection is plain text: key and cards are readable on the way, so use it inside one machine or
    where something below encrypts. `timeout` is how many seconds a unary call may take, retries included. `backoff`
    paces retries and reconnects. `options` are further gRPC channel options.

    Must be used in one event loop. Every method raises RewardError (see `rewardservice.errors`); ValueError and
    TypeError mean that an argument could not be put into a request.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        key: Key | None = None,
        *,
        tls: TlsOptions | None = None,
        timeout: float = 10.0,
        backoff: Backoff | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._target = target
        self._credentials = Credentials(target, key, tls)
        self._tls = tls
        self._timeout = timeout
        self._backoff = backoff or Backoff()
        self._options = tuple(options)
        self._channel: aio.Channel | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        self._shared_channel()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection. Calls and streams under way raise ClosedError."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def create_order(
        self,
        product_id: str,
        quantity: int = 1,
        *,
        client_order_id: str | None = None,
        recipient: order_pb2.Recipient | None = None,
        max_unit_price: Decimal | str | None = None,
        supplier_parameters: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        wait: float = 0.0,
        view: View = order_pb2.ORDER_VIEW_UNSPECIFIED,
        timeout: float | None = None,
    ) -> pb.CreateOrderResponse:
        """Orders a reward: once, however often this is called with the same `client_order_id`.

        **Give your own client_order_id, stored before the call, whenever the call may be repeated** by your program or
        by a person. Without one a new UUID is made: it covers the retries inside this call, and nothing after it (on an
        error it is in `RewardError.client_order_id`).

        `recipient` comes from `phone()`, `qq()` or `account()`, as `Product.recipient_kind` asks. `max_unit_price` is
        in yuan, as Decimal or text. `wait` is how many seconds (0 to 30) the server may wait for the order to end
        before it answers; they are added to `timeout`. Returns `order`, `replayed` (it existed before) and
        `resume_token` (every later update comes after it).
        """
        request = pb.CreateOrderRequest(
            client_order_id=str(uuid.uuid4()) if client_order_id is None else client_order_id,
            product_id=product_id,
            quantity=quantity,
            recipient=recipient,
            max_unit_price=None if max_unit_price is None else yuan(max_unit_price),
            supplier_parameters=supplier_parameters or {},
            metadata=metadata or {},
            view=view,
            wait=_duration(wait) if wait else None,
        )
        try:
            limit = (self._timeout if timeout is None else timeout) + wait
            return await self._call(self._rewards().CreateOrder, request, limit)
        except RewardError as error:
            error.client_order_id = request.client_order_id
            raise

    async def get_order(
        self,
        order_id: str | None = None,
        *,
        client_order_id: str | None = None,
        view: View = order_pb2.ORDER_VIEW_UNSPECIFIED,
    ) -> order_pb2.Order:
        """Reads one order by one of its two ids. View FULL shows its cards, EXPLAINED its purchases."""
        request = pb.GetOrderRequest(view=view)
        _name(request, order_id, client_order_id)
        return (await self._call(self._rewards().GetOrder, request)).order

    async def cancel_order(
        self,
        order_id: str | None = None,
        *,
        client_order_id: str | None = None,
        view: View = order_pb2.ORDER_VIEW_UNSPECIFIED,
    ) -> order_pb2.Order:
        """Cancels what can still be cancelled of an order and returns it as it is now.

        If nothing was sent to a supplier it is CANCELLED. Otherwise `cancel_requested_time` is set, nothing new is
        sent, and the order ends as the supplier's evidence says: follow it with `watch` or `wait_for`. It may be
        repeated. Raises RewardError with the reason ORDER_NOT_CANCELLABLE when the order has ended otherwise.
        """
        request = pb.CancelOrderRequest(view=view)
        _name(request, order_id, client_order_id)
        return (await self._call(self._rewards().CancelOrder, request)).order

    async def list_orders(
        self,
        *,
        states: Iterable[order_pb2.OrderState.ValueType] = (),
        product_id: str = "",
        supplier: str = "",
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 0,
    ) -> AsyncIterator[order_pb2.Order]:
        """Yields the orders that fit every filter, newest first, cards masked, page after page.

        The times carry a time zone; `page_size` is 1 to 200, 0 leaves it to the server.
        """
        request = pb.ListOrdersRequest(
            page_size=page_size,
            states=states,
            product_id=product_id,
            supplier=supplier,
            created_after=_timestamp(created_after),
            created_before=_timestamp(created_before),
        )
        while True:
            page = await self._call(self._rewards().ListOrders, request)
            for order in page.orders:
                yield order
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def list_order_updates(
        self,
        after: str = "",
        *,
        order_ids: Iterable[str] = (),
        client_order_ids: Iterable[str] = (),
        limit: int = 0,
        view: View = order_pb2.ORDER_VIEW_UNSPECIFIED,
    ) -> pb.ListOrderUpdatesResponse:
        """One page of the updates after a token, oldest first; from the oldest that is kept without one.

        Go on with `after=response.resume_token` while `response.more`. `limit` is 1 to 1,000, 0 leaves it to the
        server. Raises ResumeError for a token that can't be continued.
        """
        request = pb.ListOrderUpdatesRequest(
            order_ids=order_ids, client_order_ids=client_order_ids, after=after, limit=limit, view=view
        )
        return await self._call(self._rewards().ListOrderUpdates, request)

    async def products(
        self,
        kind: order_pb2.ProductKind.ValueType = order_pb2.PRODUCT_KIND_UNSPECIFIED,
        *,
        page_size: int = 0,
    ) -> AsyncIterator[catalog_service_pb2.Product]:
        """Yields the products by id, page after page; of one kind if asked."""
        request = catalog_service_pb2.ListProductsRequest(page_size=page_size, kind=kind)
        while True:
            page = await self._call(self._catalog().ListProducts, request)
            for product in page.products:
                yield product
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def get_product(self, product_id: str) -> catalog_service_pb2.Product:
        """Reads one product."""
        request = catalog_service_pb2.GetProductRequest(product_id=product_id)
        return (await self._call(self._catalog().GetProduct, request)).product

    def watch(
        self,
        *,
        order_ids: Iterable[str] = (),
        client_order_ids: Iterable[str] = (),
        start: pb.StreamStart.ValueType = pb.STREAM_START_UNSPECIFIED,
        resume_token: str = "",
        view: View = order_pb2.ORDER_VIEW_UNSPECIFIED,
        until_terminal: bool = False,
        heartbeat_interval: float = 15.0,
        give_up_after: float | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Yields what happens to the selected orders (none selected: all of the client's), in order and once.

        It begins after `resume_token`, or else with a snapshot of the orders as they are, unless `start` says
        otherwise. It survives restarts, cut and silent connections: it connects again with the last token and leaves
        out what came before. Keep the token of the last event that was dealt with, to go on after a restart of your own
        program. A token that the server can't continue is answered with `Reset` and a snapshot. It ends only with
        `until_terminal` (ids needed), once every selected order has ended.

        `heartbeat_interval` is 1 to 60 s; a connection silent for three times as long is left. `give_up_after` is after
        how many seconds of failing the last error is raised; None tries for ever. Errors that a new connection can't
        mend are raised at once. A refused key or token is one of them, unless `key` is a function that gives another
        one when it is asked again. View FULL, the default for clients that may read cards, shows the cards.

        Close the iterator when leaving it early, so that the stream ends at once::

            async with contextlib.aclosing(client.watch()) as events:
                async for event in events: ...
        """
        request = pb.StreamOrderUpdatesRequest(
            order_ids=order_ids,
            client_order_ids=client_order_ids,
            start=start,
            resume_token=resume_token,
            heartbeat_interval=_duration(heartbeat_interval),
            view=view,
            until_terminal=until_terminal,
        )
        return Watch(
            request,
            shared=self._shared_channel,
            unshared=lambda: open_channel(self._target, self._tls, self._options, unshared=True),
            closed=lambda: self._closed,
            credentials=self._credentials,
            backoff=self._backoff,
            silence=_SILENT_HEARTBEATS * heartbeat_interval,
            give_up_after=give_up_after,
        ).events()

    async def wait_for(
        self,
        order_id: str | None = None,
        *,
        client_order_id: str | None = None,
        timeout: float | None = None,
        view: View = order_pb2.ORDER_VIEW_UNSPECIFIED,
    ) -> order_pb2.Order:
        """Waits until an order has ended or needs a review, and returns it (with its cards, if they may be read).

        A client_order_id that wasn't ordered yet is awaited. Raises WaitTimeoutError after `timeout` seconds; the
        order goes on.
        """
        _exactly_one(order_id, client_order_id)
        order: order_pb2.Order | None = None
        events = self.watch(
            order_ids=[order_id] if order_id is not None else (),
            client_order_ids=[client_order_id] if client_order_id is not None else (),
            view=view,
        )
        try:
            async with asyncio.timeout(timeout), aclosing(events):
                async for event in events:
                    if isinstance(event, Snapshot | Update):
                        order = event.order
                        if is_settled(order):
                            return order
        except TimeoutError:
            state = "was never seen" if order is None else f"is {state_name(order.state)}"
            raise WaitTimeoutError(
                f"order {order_id or client_order_id} {state} after {timeout:g} s of waiting", order
            ) from None
        raise AssertionError("a stream without until_terminal doesn't end")

    async def _call(
        self,
        method: aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        timeout: float | None = None,
    ) -> ResponseT:
        return await call(
            method,
            request,
            credentials=self._credentials,
            timeout=self._timeout if timeout is None else timeout,
            backoff=self._backoff,
            closed=lambda: self._closed,
        )

    def _shared_channel(self) -> aio.Channel:
        if self._closed:
            raise ClosedError
        if self._channel is None:
            self._channel = open_channel(self._target, self._tls, self._options)
        return self._channel

    def _rewards(self) -> "RewardServiceAsyncStub":
        return RewardServiceStub(self._shared_channel())

    def _catalog(self) -> "CatalogServiceAsyncStub":
        return CatalogServiceStub(self._shared_channel())


def _exactly_one(order_id: str | None, client_order_id: str | None) -> None:
    if (order_id is None) == (client_order_id is None):
        raise ValueError("give either order_id or client_order_id")


def _name(
    request: pb.GetOrderRequest | pb.CancelOrderRequest, order_id: str | None, client_order_id: str | None
) -> None:
    _exactly_one(order_id, client_order_id)
    if order_id is not None:
        request.order_id = order_id
    if client_order_id is not None:
        request.client_order_id = client_order_id


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError("a time needs a time zone: datetime.now(UTC), not datetime.now()")
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
