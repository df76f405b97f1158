"""CatalogService: translate, call, translate."""

from typing import Any

from reward_server.catalogue import Catalogue, Product
from reward_server.errors import ProductNotFound
from reward_server.resume import PageTokenInvalid, Tokens
from reward_server.rpc import validation
from reward_server.rpc.interceptor import current_caller
from reward_server.rpc.messages import product_message
from reward_server.rpc.ports import Ordering
from rewardservice.v1 import catalog_service_pb2 as pb
from rewardservice.v1 import catalog_service_pb2_grpc as pb_grpc


class CatalogService(pb_grpc.CatalogServiceServicer):
    """The servicer."""

    def __init__(self, catalogue: Catalogue, ordering: Ordering, tokens: Tokens) -> None:
        self._catalogue = catalogue
        self._ordering = ordering
        self._tokens = tokens

    async def ListProducts(self, request: pb.ListProductsRequest, context: Any) -> pb.ListProductsResponse:
        """Lists products by id."""
        asked = validation.products_request(request)
        query = ("ListProducts", current_caller().client_id, asked.kind or "")
        try:
            after = self._tokens.place(query, asked.page_token)
        except PageTokenInvalid:
            raise validation.wrong_page_token() from None
        # One more than asked for tells whether there is a next page.
        products = self._catalogue.page(after, asked.page_size + 1, asked.kind)
        page = products[: asked.page_size]
        more = len(products) > len(page)
        return pb.ListProductsResponse(
            products=[self._message(product) for product in page],
            next_page_token=self._tokens.page_token(query, page[-1].product_id) if more else "",
        )

    async def GetProduct(self, request: pb.GetProductRequest, context: Any) -> pb.GetProductResponse:
        """Reads a product."""
        product_id = validation.product_id(request)
        product = self._catalogue.get(product_id)
        if product is None:
            raise ProductNotFound(product_id)
        return pb.GetProductResponse(product=self._message(product))

    def _message(self, product: Product) -> pb.Product:
        return product_message(product, self._ordering.orderable(product))
