"""RewardService: translate, call, translate."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio

from reward_server.access import Permission
from reward_server.domain.order import Order, OrderState
from reward_server.engine.ordering import OrderRequest
from reward_server.errors import OrderNotFound, ResumeTokenExpired
from reward_server.hub import shown
from reward_server.resume import PageTokenInvalid
from reward_server.rpc import validation
from reward_server.rpc.interceptor import current_call, current_caller
from reward_server.rpc.messages import View, add_answer, for_operators, order_message, update_message
from reward_server.rpc.ports import Ordering
from reward_server.rpc.streaming import StreamParts, UpdateStream, check_orders
from reward_server.rpc.validation import GetRequest, ListRequest, Selector, UpdatesRequest
from reward_server.store import Created, Head, OrderQuery, Update
from reward_server.tracing import current_rpc
from rewardservice.v1 import reward_service_pb2 as pb
from rewardservice.v1 import reward_service_pb2_grpc as pb_grpc

DEADLINE_MARGIN = 0.5
"""Seconds before the caller's deadline at which waiting ends: the answer has to travel."""
MAX_ANSWER_BYTES = 2_000_000
"""Pages end early beyond this: clients refuse messages above 4 MB by default."""
LOG_PAGE = 200
MAX_SEARCHED = 5_000
"""Updates that one ListOrderUpdates searches at most, however few the selector wants."""


@dataclass(frozen=True, slots=True)
class _Page:
    """Updates of the log with everything that was searched for them."""

    updates: list[pb.OrderUpdate]
    through: int
    more: bool

    @property
    def cards(self) -> int:
        """How many cards there are to see in them."""
        cards = (card for update in self.updates for card in update.order.cards)
        return sum(not card.HasField("erase_time") and not card.masked for card in cards)


class RewardService(pb_grpc.RewardServiceServicer):
    """The servicer."""

    def __init__(
        self,
        ordering: Ordering,
        parts: StreamParts,
        *,
        default_heartbeat: float = 15.0,
        deadline_margin: float = DEADLINE_MARGIN,
    ) -> None:
        self._ordering = ordering
        self._parts = parts
        self._store = parts.store
        self._tokens = parts.tokens
        self._default_heartbeat = default_heartbeat
        self._deadline_margin = deadline_margin

    async def CreateOrder(self, request: pb.CreateOrderRequest, context: Any) -> pb.CreateOrderResponse:
        """Stores an order; waits for its end if asked to."""
        asked = validation.create_request(request, current_caller())
        if asked.wait:
            created = await self._create_and_wait(asked.order, _bounded(asked.wait, context, self._deadline_margin))
        else:
            created = await self._ordering.create(asked.order)
        order, head = created.order, created.head
        return pb.CreateOrderResponse(
            order=await self._message(order, asked.view),
            replayed=created.existed,
            resume_token=self._tokens.resume_token(order.client_id, head.epoch, head.position),
        )

    async def GetOrder(self, request: pb.GetOrderRequest, context: Any) -> pb.GetOrderResponse:
        """Reads an order by either id."""
        caller = current_caller()
        asked = validation.get_request(request, caller)
        order = await self._find(caller.client_id, asked)
        if order is None and asked.order_id and caller.may(Permission.OPERATE) and asked.view is not View.FULL:
            order = await self._foreign_order(asked.order_id)
        if order is None:
            raise OrderNotFound(asked.order_id or asked.client_order_id)
        return pb.GetOrderResponse(order=await self._message(order, asked.view))

    async def CancelOrder(self, request: pb.CancelOrderRequest, context: Any) -> pb.CancelOrderResponse:
        """Cancels what can still be cancelled of one of the caller's orders, by either id."""
        caller = current_caller()
        asked = validation.get_request(request, caller)
        order = await self._find(caller.client_id, asked)
        if order is None:
            raise OrderNotFound(asked.order_id or asked.client_order_id)
        return pb.CancelOrderResponse(order=await self._message(await self._ordering.cancel(order), asked.view))

    async def _find(self, client_id: str, asked: GetRequest) -> Order | None:
        if asked.order_id:
            return await self._store.order(client_id, asked.order_id)
        order, _ = await self._store.order_by_client_order_id(client_id, asked.client_order_id)
        return order

    async def _foreign_order(self, order_id: str) -> Order | None:
        """Any client's order, for operators."""
        client_id = await self._store.owner(order_id)
        order = await self._store.order(client_id, order_id) if client_id is not None else None
        return None if order is None else for_operators(order)

    async def ListOrders(self, request: pb.ListOrdersRequest, context: Any) -> pb.ListOrdersResponse:
        """Lists orders, newest first."""
        client_id = current_caller().client_id
        asked = validation.list_request(request)
        query = _query(client_id, asked)
        try:
            before = self._tokens.place(query, asked.page_token)
        except PageTokenInvalid:
            raise validation.wrong_page_token() from None
        # One more than asked for tells whether there is a next page.
        orders = await self._store.orders(
            OrderQuery(
                client_id=client_id,
                states=asked.states,
                product_id=asked.product_id,
                account=asked.supplier,
                created_from=asked.created_from,
                created_before=asked.created_before,
                before_order_id=before,
                limit=asked.page_size + 1,
            )
        )
        response = pb.ListOrdersResponse()
        size = 0
        page = orders[: asked.page_size]
        for order, cards in zip(page, await self._parts.cards.read(page), strict=True):
            message = order_message(order, cards, View.BASIC)
            size += message.ByteSize()
            if size > MAX_ANSWER_BYTES and response.orders:
                break
            response.orders.append(message)
        if len(response.orders) < len(orders):
            response.next_page_token = self._tokens.page_token(query, response.orders[-1].order_id)
        return response

    async def StreamOrderUpdates(  # type: ignore[override]  # it writes bytes that were encoded for all readers
        self, request: pb.StreamOrderUpdatesRequest, context: grpc.aio.ServicerContext[Any, bytes]
    ) -> None:
        """Streams updates. Writes bytes to the context instead of yielding messages: they are shared by all streams."""
        caller = current_caller()
        asked = validation.stream_request(request, caller, self._default_heartbeat)
        await UpdateStream(self._parts, caller.client_id, asked, context, call=current_call()).run()

    async def ListOrderUpdates(
        self,
        request: pb.ListOrderUpdatesRequest,
        context: Any,
    ) -> pb.ListOrderUpdatesResponse:
        """Reads the updates after a token."""
        caller = current_caller()
        asked = validation.updates_request(request, caller)
        head = await self._store.head(caller.client_id)
        await check_orders(self._store, caller.client_id, asked.selector)
        after = head.pruned_through
        if asked.after:
            after = self._tokens.position(caller.client_id, asked.after, head)
        page = await self._updates(caller.client_id, asked, after, head)
        if asked.full and page.cards:
            audit, positions = self._parts.audit, (after + 1, page.through)
            entry = audit.read(caller.client_id, how=current_call(), cards=page.cards, positions=positions)
            await audit.record(entry)
        return pb.ListOrderUpdatesResponse(
            updates=page.updates,
            resume_token=self._tokens.resume_token(caller.client_id, head.epoch, page.through),
            more=page.more,
        )

    async def _create_and_wait(self, request: OrderRequest, seconds: float) -> Created:
        hub = self._parts.hub
        # Watching begins before the order exists: no end of it can be missed, and none has to be looked up.
        with hub.watch(request.client_id, client_order_ids=(request.client_order_id,)) as watcher:
            created = await self._ordering.create(request)
            if _is_settled(created.order):
                return created
            watcher.start(created.head.position, created.head)
            latest = await hub.wait_for(watcher, _is_settled, seconds)
        if latest is None:
            return created
        head = Head(latest.position, created.head.pruned_through, created.head.epoch)
        return Created(latest.order, created.existed, head)

    async def _message(self, order: Order, view: View) -> Any:
        if (span := current_rpc()) is not None:
            span.about(order)
        [cards] = await self._parts.cards.read([order], strictly=view is View.FULL)
        if view is View.FULL and (count := shown(cards)):
            audit = self._parts.audit
            # Written before it is answered: what can't be recorded isn't shown.
            await audit.record(audit.read(order.client_id, how=current_call(), cards=count, order_id=order.order_id))
        if view is not View.EXPLAINED:
            return order_message(order, cards, view)
        message = order_message(order, cards, view, self._ordering.outlook(order))
        async for kept, opened in self._parts.cards.answers(order):
            add_answer(message, kept, opened)
        return message

    async def _updates(self, client_id: str, asked: UpdatesRequest, after: int, head: Head) -> _Page:
        """The selected updates after a position: as many as fit, and as far as one call may search."""
        wanted = _wants(asked.selector)
        updates: list[pb.OrderUpdate] = []
        size, through = 0, after
        while through - after < MAX_SEARCHED:
            page = await self._store.updates(client_id, through, LOG_PAGE)
            if page[0].position != through + 1 if page else through < head.position:
                # The pruning overtook us; of a log that was pruned to its very end nothing is left to show it.
                raise ResumeTokenExpired(self._tokens.oldest(client_id, await self._store.head(client_id)))
            # One more than still fits tells that there is more.
            chosen = [update for update in page if wanted(update)][: asked.limit - len(updates) + 1]
            cards = await self._parts.cards.read([update.order for update in chosen])
            for update, its_cards in zip(chosen, cards, strict=True):
                token = self._tokens.resume_token(client_id, head.epoch, update.position)
                message = update_message(update.order, its_cards, token, full=asked.full)
                size += message.ByteSize()
                if updates and (size > MAX_ANSWER_BYTES or len(updates) == asked.limit):
                    return _Page(updates, through, more=True)
                updates.append(message)
                through = update.position
            if page:
                through = page[-1].position
            if len(page) < LOG_PAGE:
                return _Page(updates, through, more=False)
            # A search through a long log lets others run in between.
            await asyncio.sleep(0)
        return _Page(updates, through, more=True)


def _is_settled(order: Order) -> bool:
    return order.state.is_terminal or order.state is OrderState.NEEDS_REVIEW


def _bounded(wait: float, context: grpc.aio.ServicerContext[Any, Any], margin: float) -> float:
    # None without a deadline, whatever the stubs say.
    remaining: float | None = context.time_remaining()
    return wait if remaining is None else max(0.0, min(wait, remaining - margin))


def _query(client_id: str, asked: ListRequest) -> Sequence[str]:
    """Everything that makes one list different from another; the page size may change on the way."""
    states = ",".join(sorted(asked.states))
    bounds = (str(asked.created_from), str(asked.created_before))
    return ("ListOrders", client_id, states, asked.product_id, asked.supplier, *bounds)


def _wants(selector: Selector) -> Any:
    if selector.is_all:
        return lambda _update: True
    ours, theirs = frozenset(selector.order_ids), frozenset(selector.client_order_ids)

    def wanted(update: Update) -> bool:
        return update.order.order_id in ours or update.order.client_order_id in theirs

    return wanted
