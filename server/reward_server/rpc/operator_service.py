"""OperatorService: translate, call, translate."""

import asyncio
from typing import Any

from reward_adapters.contract import FormEntry, SupplierProduct
from reward_server.engine.account import Account, AccountState
from reward_server.engine.inquiries import Balance, Inquiries
from reward_server.outline import outline
from reward_server.resume import PageTokenInvalid, Tokens
from reward_server.rpc import validation
from reward_server.rpc.interceptor import current_caller
from reward_server.rpc.messages import money_message, timestamp
from reward_server.rpc.ports import Opener
from reward_server.sealing import SealError
from reward_server.store import CallbackPlace, CallbackQuery, CallbackRecord, Store
from rewardservice.v1 import operator_service_pb2 as pb
from rewardservice.v1 import operator_service_pb2_grpc as pb_grpc

MAX_TEXT = 500
"""Characters shown of a supplier's text."""
MAX_DETAILS = 50

_STATES = {
    AccountState.READY: pb.SUPPLIER_STATE_READY,
    AccountState.RESTING: pb.SUPPLIER_STATE_RESTING,
    AccountState.PAUSED: pb.SUPPLIER_STATE_PAUSED,
}


class OperatorService(pb_grpc.OperatorServiceServicer):
    """The servicer."""

    def __init__(self, inquiries: Inquiries, store: Store, opener: Opener, tokens: Tokens) -> None:
        self._inquiries = inquiries
        self._store = store
        self._opener = opener
        self._tokens = tokens

    async def ListSuppliers(self, request: pb.ListSuppliersRequest, context: Any) -> pb.ListSuppliersResponse:
        """Lists the supplier accounts with their balances."""
        balances = await self._inquiries.balances()
        return pb.ListSuppliersResponse(
            suppliers=[self._supplier(account, balances[account.name]) for account in self._inquiries.accounts]
        )

    async def ListSupplierProducts(
        self, request: pb.ListSupplierProductsRequest, context: Any
    ) -> pb.ListSupplierProductsResponse:
        """One page of what a supplier sells."""
        supplier, page = validation.supplier_products_request(request)
        listing = await self._inquiries.products(supplier, page)
        return pb.ListSupplierProductsResponse(
            products=[_product(product) for product in listing.products], more=listing.more
        )

    async def GetSupplierProduct(
        self, request: pb.GetSupplierProductRequest, context: Any
    ) -> pb.GetSupplierProductResponse:
        """One product of a supplier, with what an order of it needs."""
        found = await self._inquiries.product(*validation.supplier_product_request(request))
        return pb.GetSupplierProductResponse(
            product=_product(found.product),
            order_form=[_form_entry(entry) for entry in found.form],
            order_form_problem=_text(found.form_problem),
        )

    async def ListCallbacks(self, request: pb.ListCallbacksRequest, context: Any) -> pb.ListCallbacksResponse:
        """The callbacks that are kept, newest first."""
        asked = validation.callbacks_request(request)
        account = self._inquiries.account(asked.supplier).name
        query = ("ListCallbacks", current_caller().client_id, account, str(asked.only_unknown))
        try:
            place = self._tokens.place(query, asked.page_token)
        except PageTokenInvalid:
            raise validation.wrong_page_token() from None
        # One more than asked for tells whether there is a next page.
        found = await self._store.callbacks(
            CallbackQuery(
                account=account,
                only_unknown=asked.only_unknown,
                before=_read_place(place) if place else None,
                limit=asked.page_size + 1,
            )
        )
        page = found[: asked.page_size]
        more = len(found) > len(page)
        callbacks = []
        for record in page:
            callbacks.append(self._callback(record))
            # An outline takes a while: others have their turn between any two.
            await asyncio.sleep(0)
        return pb.ListCallbacksResponse(
            callbacks=callbacks,
            next_page_token=self._tokens.page_token(query, _place(page[-1])) if more else "",
        )

    def _supplier(self, account: Account, balance: Balance) -> pb.Supplier:
        standing, offers = account.standing(), self._inquiries.offers(account.name)
        return pb.Supplier(
            name=account.name,
            adapter=account.plan.adapter,
            state=_STATES[standing.state],
            state_reason=_text(standing.why),
            state_end_time=timestamp(standing.until) if standing.until else None,
            in_flight=account.in_flight,
            max_in_flight=account.plan.max_in_flight,
            offers_query=offers.query,
            offers_callbacks=offers.callbacks,
            offers_cancel=offers.cancel,
            offers_balance=offers.balance,
            offers_products=offers.products,
            balance=None if balance.amount is None else money_message(balance.amount),
            balance_time=timestamp(balance.at) if balance.at else None,
            balance_problem=_text(balance.problem),
        )

    def _callback(self, record: CallbackRecord) -> pb.SupplierCallback:
        message = pb.SupplierCallback(time=timestamp(record.at), number=_text(record.number), order_id=record.order_id)
        try:
            body = self._opener.open(record.sealed, "callback", record.account, record.digest.hex())
        except SealError as error:
            message.outline = f"can't be opened: {error}"
            return message
        message.size = len(body)
        message.outline = outline(body)
        return message


def _place(record: CallbackRecord) -> str:
    return f"{record.at}:{record.digest.hex()}"


def _read_place(place: str) -> CallbackPlace:
    at, _, digest = place.partition(":")
    return CallbackPlace(int(at), bytes.fromhex(digest))


def _product(product: SupplierProduct) -> pb.SupplierProduct:
    details = list(product.details.items())[:MAX_DETAILS]
    return pb.SupplierProduct(
        number=_text(product.number),
        name=_text(product.name),
        price=None if product.price is None else money_message(product.price),
        stock=product.stock,
        on_sale=product.on_sale,
        details={_text(key): _text(value) for key, value in details},
    )


def _form_entry(entry: FormEntry) -> pb.OrderFormEntry:
    return pb.OrderFormEntry(
        key=_text(entry.key),
        label=_text(entry.label),
        required=entry.required,
        options=[_text(option) for option in entry.options],
        hint=_text(entry.hint),
    )


def _text(text: str) -> str:
    """A supplier's text for a message: bounded, and without half surrogate pairs, which a message can't hold."""
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()
