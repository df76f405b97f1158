"""The calls of `RewardClient` that are for the people who run the service."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING

from grpc import aio

from rewardservice._retry import RequestT, ResponseT
from rewardservice.v1 import operator_service_pb2 as pb
from rewardservice.v1 import order_pb2
from rewardservice.v1.operator_service_pb2_grpc import OperatorServiceStub

if TYPE_CHECKING:
    # The asynchronous faces of the stubs exist for type checkers only.
    from rewardservice.v1.operator_service_pb2_grpc import OperatorServiceAsyncStub


class OperatorCalls(ABC):
    """Supplier accounts, their products and callbacks; orders that a person should look at, decisions, audit and keys.

    Need a key with the permission to operate. `reason` is why somebody decides so (1 to 500 characters), `actor` the
    person where several share a key; both are recorded.
    """

    async def list_suppliers(self) -> list[pb.Supplier]:
        """Every supplier account by name, with its state and its balance."""
        response = await self._call(self._operator().ListSuppliers, pb.ListSuppliersRequest())
        return list(response.suppliers)

    async def supplier_products(self, supplier: str, page: int = 1) -> pb.ListSupplierProductsResponse:
        """One page, from 1, of what a supplier sells: `products`, and whether there may be `more`."""
        request = pb.ListSupplierProductsRequest(supplier=supplier, page=page)
        return await self._call(self._operator().ListSupplierProducts, request)

    async def supplier_product(self, supplier: str, product: str) -> pb.GetSupplierProductResponse:
        """One product of a supplier by the supplier's number, and what an order of it needs."""
        request = pb.GetSupplierProductRequest(supplier=supplier, product=product)
        return await self._call(self._operator().GetSupplierProduct, request)

    async def callbacks(
        self, supplier: str, *, only_unknown: bool = False, page_size: int = 0
    ) -> AsyncIterator[pb.SupplierCallback]:
        """Yields the callbacks of a supplier account that are kept, newest first, page after page.

        `only_unknown` leaves out those for numbers of our own orders; `page_size` is 1 to 200, 0 leaves it to the
        server.
        """
        request = pb.ListCallbacksRequest(supplier=supplier, only_unknown=only_unknown, page_size=page_size)
        while True:
            page = await self._call(self._operator().ListCallbacks, request)
            for callback in page.callbacks:
                yield callback
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def reviews(
        self,
        *,
        supplier: str = "",
        reason: order_pb2.ReviewReason.ValueType = order_pb2.REVIEW_REASON_UNSPECIFIED,
        page_size: int = 0,
    ) -> AsyncIterator[pb.Review]:
        """Yields the orders of all clients that a person should look at, who waits longest first, page after page."""
        request = pb.ListReviewsRequest(supplier=supplier, reason=reason, page_size=page_size)
        while True:
            page = await self._call(self._operator().ListReviews, request)
            for review in page.reviews:
                yield review
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def resolve_order(
        self,
        order_id: str,
        purchase_number: str,
        decision: pb.Decision.ValueType,
        *,
        reason: str,
        cards: Iterable[pb.EnteredCard] = (),
        deliver_kept_cards: bool = False,
        rest: pb.Rest.ValueType = pb.REST_UNSPECIFIED,
        actor: str = "",
    ) -> order_pb2.Order:
        """Decides about a purchase, and returns its order.

        `cards`, `deliver_kept_cards` and `rest` belong to DELIVERED; `rest` where no card comes for some of the units.
        Raises PreconditionError when the decision doesn't fit how the purchase stands.
        """
        request = pb.ResolveOrderRequest(
            order_id=order_id,
            purchase_number=purchase_number,
            decision=decision,
            cards=cards,
            deliver_kept_cards=deliver_kept_cards,
            rest=rest,
            reason=reason,
            actor=actor,
        )
        return (await self._call(self._operator().ResolveOrder, request)).order

    async def pause_supplier(self, supplier: str, *, reason: str, actor: str = "") -> pb.Supplier:
        """Sends nothing new to a supplier account until it is resumed; the account as it is then, without balance."""
        request = pb.PauseSupplierRequest(supplier=supplier, reason=reason, actor=actor)
        return (await self._call(self._operator().PauseSupplier, request)).supplier

    async def resume_supplier(self, supplier: str, *, reason: str, actor: str = "") -> pb.Supplier:
        """Ends the pause of a supplier account; the account as it is then, without its balance."""
        request = pb.ResumeSupplierRequest(supplier=supplier, reason=reason, actor=actor)
        return (await self._call(self._operator().ResumeSupplier, request)).supplier

    async def keys(self) -> pb.ListKeysResponse:
        """The keys that seal cards, by client, and how far rotations have got; no key itself."""
        return await self._call(self._operator().ListKeys, pb.ListKeysRequest())

    async def rotate_keys(
        self, client_id: str = "", *, reason: str, only_wrap: bool = False, actor: str = ""
    ) -> Sequence[pb.KeyRing]:
        """Gives a client, or everybody, a new data key; what older ones sealed is sealed again in the background.

        `only_wrap` makes none: it wraps those that there are by the current master key. Returns the keys as they are
        then. Raises PreconditionError, and changes nothing, when a key doesn't open.
        """
        request = pb.RotateKeysRequest(client_id=client_id, only_wrap=only_wrap, reason=reason, actor=actor)
        return (await self._call(self._operator().RotateKeys, request)).keys

    async def audit_entries(
        self, *, only_decisions: bool = False, order_id: str = "", page_size: int = 0
    ) -> AsyncIterator[pb.AuditEntry]:
        """Yields who read which cards and what operators decided, newest first, page after page.

        `only_decisions`: only what people decided; with an order, only the entries that name it.
        """
        request = pb.ListAuditEntriesRequest(page_size=page_size, only_decisions=only_decisions, order_id=order_id)
        while True:
            page = await self._call(self._operator().ListAuditEntries, request)
            for entry in page.entries:
                yield entry
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    def _operator(self) -> "OperatorServiceAsyncStub":
        return OperatorServiceStub(self._shared_channel())

    @abstractmethod
    async def _call(
        self,
        method: aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        timeout: float | None = None,
    ) -> ResponseT:
        """One call with the client's deadline, credentials and retries."""

    @abstractmethod
    def _shared_channel(self) -> aio.Channel:
        """The client's channel."""
