"""OperatorService: translate, call, translate."""

import asyncio
from collections.abc import Sequence
from typing import Any

from reward_adapters.contract import FormEntry, SupplierProduct
from reward_server.domain.deciding import OpenReview, open_reviews
from reward_server.domain.order import Order
from reward_server.engine.account import Account, AccountState
from reward_server.engine.inquiries import Balance, Inquiries
from reward_server.engine.reviews import ReviewFilter, Reviews, place_of
from reward_server.keyring import KeyRing, Keyring
from reward_server.outline import outline
from reward_server.resume import PageTokenInvalid, Tokens
from reward_server.rpc import validation
from reward_server.rpc.cards import CardReader
from reward_server.rpc.interceptor import current_caller
from reward_server.rpc.messages import (
    ORDER_STATES,
    PURCHASE_STATES,
    REVIEW_REASONS,
    View,
    for_operators,
    money_message,
    order_message,
    timestamp,
)
from reward_server.rpc.ports import Opener
from reward_server.sealing import SealError
from reward_server.store import AuditEntry, CallbackPlace, CallbackQuery, CallbackRecord, ReviewPlace, Store
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

    def __init__(
        self,
        *,
        inquiries: Inquiries,
        reviews: Reviews,
        store: Store,
        opener: Opener,
        tokens: Tokens,
        cards: CardReader,
        keyring: Keyring,
    ) -> None:
        self._keyring = keyring
        self._inquiries = inquiries
        self._reviews = reviews
        self._cards = cards
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
        place = self._place(query, asked.page_token)
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

    async def ListReviews(self, request: pb.ListReviewsRequest, context: Any) -> pb.ListReviewsResponse:
        """The orders that a person should look at."""
        asked = validation.reviews_request(request)
        query = ("ListReviews", current_caller().client_id, asked.supplier, str(asked.reason))
        place = self._place(query, asked.page_token)
        # One more than asked for tells whether there is a next page.
        found = await self._reviews.page(
            ReviewFilter(asked.supplier, asked.reason),
            _read_review_place(place) if place else ReviewPlace(),
            asked.page_size + 1,
        )
        page = found[: asked.page_size]
        more = len(found) > len(page)
        return pb.ListReviewsResponse(
            reviews=[_review(order) for order in page],
            next_page_token=self._tokens.page_token(query, _review_place(page[-1])) if more else "",
        )

    async def ResolveOrder(self, request: pb.ResolveOrderRequest, context: Any) -> pb.ResolveOrderResponse:
        """Takes an operator's decision about a purchase."""
        asked = validation.resolve_request(request, current_caller())
        order = await self._reviews.resolve(asked.order_id, asked.number, asked.verdict)
        [cards] = await self._cards.read([order])
        return pb.ResolveOrderResponse(order=order_message(for_operators(order), cards, View.EXPLAINED))

    async def PauseSupplier(self, request: pb.PauseSupplierRequest, context: Any) -> pb.PauseSupplierResponse:
        """Pauses a supplier account."""
        asked = validation.pause_request(request, current_caller())
        account = await self._reviews.pause(asked.supplier, by=asked.by, reason=asked.reason)
        return pb.PauseSupplierResponse(supplier=self._supplier(account, Balance()))

    async def ResumeSupplier(self, request: pb.ResumeSupplierRequest, context: Any) -> pb.ResumeSupplierResponse:
        """Ends the pause of a supplier account."""
        asked = validation.pause_request(request, current_caller())
        account = await self._reviews.resume(asked.supplier, by=asked.by, reason=asked.reason)
        return pb.ResumeSupplierResponse(supplier=self._supplier(account, Balance()))

    async def ListAuditEntries(self, request: pb.ListAuditEntriesRequest, context: Any) -> pb.ListAuditEntriesResponse:
        """What operators decided, newest first."""
        asked = validation.audit_request(request)
        query = ("ListAuditEntries", current_caller().client_id, str(asked.only_decisions), asked.order_id)
        place = self._place(query, asked.page_token)
        found = await self._store.audit(
            int(place) if place else 0,
            asked.page_size + 1,
            only_decisions=asked.only_decisions,
            order_id=asked.order_id,
        )
        page = found[: asked.page_size]
        more = len(found) > len(page)
        return pb.ListAuditEntriesResponse(
            entries=[_audit_entry(entry) for entry in page],
            next_page_token=self._tokens.page_token(query, str(page[-1].entry_id)) if more else "",
        )

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:
        """The keys that seal, and how far rotations have got."""
        rings = await self._keyring.rings()
        return pb.ListKeysResponse(keys=map(_key_ring, rings), master_key_id=self._keyring.master_key_id)

    async def RotateKeys(self, request: pb.RotateKeysRequest, context: Any) -> pb.RotateKeysResponse:
        """Gives clients new data keys."""
        asked = validation.rotate_request(request, current_caller())
        rings = await self._keyring.rotate(asked.client_id, only_wrap=asked.only_wrap, by=asked.by, reason=asked.reason)
        return pb.RotateKeysResponse(keys=map(_key_ring, rings))

    def _place(self, query: Sequence[str], page_token: str) -> str:
        try:
            return self._tokens.place(query, page_token)
        except PageTokenInvalid:
            raise validation.wrong_page_token() from None

    def _supplier(self, account: Account, balance: Balance) -> pb.Supplier:
        standing, offers = account.standing(), self._inquiries.offers(account.name)
        return pb.Supplier(
            name=account.name,
            adapter=account.plan.adapter,
            state=_STATES[standing.state],
            state_reason=_text(": ".join(filter(None, (standing.why, standing.detail)))),
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
            paused_by=standing.hold.by if standing.hold else "",
            pause_time=timestamp(standing.hold.at) if standing.hold else None,
        )

    def _callback(self, record: CallbackRecord) -> pb.SupplierCallback:
        message = pb.SupplierCallback(time=timestamp(record.at), number=_text(record.number), order_id=record.order_id)
        if record.erased_at:
            message.erase_time.CopyFrom(timestamp(record.erased_at))
            return message
        try:
            body = self._opener.open(record.sealed, "callback", record.account, record.digest.hex())
        except SealError as error:
            message.outline = f"can't be opened: {error}"
            return message
        message.size = len(body)
        message.outline = outline(body)
        return message


def _review(order: Order) -> pb.Review:
    return pb.Review(
        order_id=order.order_id,
        client_id=order.client_id,
        product_id=order.product_id,
        state=ORDER_STATES[order.state],
        create_time=timestamp(order.created_at),
        open=[_open_review(review) for review in open_reviews(order)],
    )


def _open_review(review: OpenReview) -> pb.OpenReview:
    purchase = review.purchase
    return pb.OpenReview(
        purchase_number=purchase.number,
        supplier=review.account,
        supplier_reference=_text(purchase.supplier_reference or ""),
        purchase_state=PURCHASE_STATES[purchase.state],
        reason=REVIEW_REASONS[review.reason],
        open_time=timestamp(review.at),
        detail=_text(review.detail),
        keeps_open=review.keeps_open,
        quantity=purchase.quantity,
        shown_cards=purchase.shown_cards,
        kept_cards=len(purchase.cards) - purchase.shown_cards,
    )


def _audit_entry(entry: AuditEntry) -> pb.AuditEntry:
    return pb.AuditEntry(
        time=timestamp(entry.at),
        by=entry.by,
        what=entry.what,
        supplier=entry.account,
        order_id=entry.order_id,
        purchase_number=entry.number,
        reason=entry.reason,
        client_id=entry.client_id,
        first_position=entry.first_position,
        last_position=entry.last_position,
        cards=entry.cards,
        chain=entry.chain,
        place=entry.place,
        hash=entry.hash,
    )


def _key_ring(ring: KeyRing) -> pb.KeyRing:
    message = pb.KeyRing(
        client_id=ring.client_id, key_id=ring.key_id.hex(), count=ring.count, master_key_ids=ring.master_key_ids
    )
    if ring.rotation is not None:
        message.rotation.begin_time.CopyFrom(timestamp(ring.rotation.began_at))
        message.rotation.resealed = ring.rotation.resealed
        message.rotation.unopened = ring.rotation.unopened
        if ring.rotation.ended_at:
            message.rotation.end_time.CopyFrom(timestamp(ring.rotation.ended_at))
    return message


def _review_place(order: Order) -> str:
    place = place_of(order)
    return f"{place.since}:{place.order_id}"


def _read_review_place(place: str) -> ReviewPlace:
    since, _, order_id = place.partition(":")
    return ReviewPlace(int(since), order_id)


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
