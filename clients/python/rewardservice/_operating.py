"""The calls of `RewardClient` that are for the people who run the service."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from grpc import aio

from rewardservice._retry import RequestT, ResponseT
from rewardservice.v1 import operator_service_pb2 as pb
from rewardservice.v1.operator_service_pb2_grpc import OperatorServiceStub

if TYPE_CHECKING:
    # The asynchronous faces of the stubs exist for type checkers only.
    from rewardservice.v1.operator_service_pb2_grpc import OperatorServiceAsyncStub


class OperatorCalls:
    """Supplier accounts, their products and their callbacks. Need a key with the permission to operate."""

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

    def _operator(self) -> "OperatorServiceAsyncStub":
        return OperatorServiceStub(self._shared_channel())

    # What the client itself brings.

    async def _call(
        self,
        method: aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        timeout: float | None = None,
    ) -> ResponseT:
        raise NotImplementedError

    def _shared_channel(self) -> aio.Channel:
        raise NotImplementedError
