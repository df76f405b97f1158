"""The shape of every request, field by field; what the contract's comments promise, no more and no less.

Each function reads a request into the program's own values and names every violation at once. What depends on the
product (its recipient, its form) or on the store is checked elsewhere.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from google.protobuf import duration_pb2, timestamp_pb2
from google.type import money_pb2

from reward_adapters.contract import Card, CardKind, ProductKind, Recipient, RecipientKind
from reward_adapters.money import MAX_YUAN, UNITS_PER_YUAN, Money
from reward_server.access import Caller, Permission
from reward_server.domain.deciding import Decision, Rest, Verdict
from reward_server.domain.order import OrderState, ReviewReason
from reward_server.engine.ordering import OrderRequest
from reward_server.errors import CardsNotPermitted, InvalidRequest, Violation
from reward_server.rpc.messages import CURRENCY, KIND_OF, NANOS_PER_UNIT, REASON_OF, STATE_OF, View
from rewardservice.v1 import catalog_service_pb2 as catalog_pb
from rewardservice.v1 import operator_service_pb2 as operator_pb
from rewardservice.v1 import order_pb2 as pb
from rewardservice.v1 import reward_service_pb2 as reward_pb

MAX_QUANTITY = 100
MAX_PARAMETERS = 50
MAX_PAIRS = 20
MAX_KEY = 64
MAX_PARAMETER = 256
MAX_METADATA = 512
MAX_WAIT = 30
MAX_IDS = 1_000
MAX_ID = 64
"""Longer texts are no ids of ours; they aren't even looked up."""
MAX_PRODUCT_ID = 128
MAX_TOKEN = 512
MAX_SUPPLIER_PAGE = 10_000
DEFAULT_PAGE, MAX_PAGE = 50, 200
DEFAULT_UPDATES, MAX_UPDATES = 100, 1_000
MIN_HEARTBEAT, MAX_HEARTBEAT = 1, 60
DEFAULT_AREA_CODE = "+86"
MAX_REASON = 500
MAX_ACTOR = 64
MAX_ENTERED = 100
MAX_CARD_TEXT = 2_000

_CLIENT_ORDER_ID = re.compile(r"[A-Za-z0-9\-_.:/]{1,64}")
_AREA_CODE = re.compile(r"\+[1-9][0-9]{0,3}")
_DIGITS = re.compile(r"[0-9]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NANOS = 1_000_000_000
_MIN_SECONDS, _MAX_SECONDS = -62_135_596_800, 253_402_300_799
"""0001-01-01 and 9999-12-31, the range of google.protobuf.Timestamp."""

_UNARY_VIEWS: Mapping[int, View] = {
    pb.ORDER_VIEW_UNSPECIFIED: View.BASIC,
    pb.ORDER_VIEW_BASIC: View.BASIC,
    pb.ORDER_VIEW_FULL: View.FULL,
    pb.ORDER_VIEW_EXPLAINED: View.EXPLAINED,
}


_DECISIONS: Mapping[int, Decision] = {
    operator_pb.DECISION_DELIVERED: Decision.DELIVERED,
    operator_pb.DECISION_FAIL: Decision.FAIL,
    operator_pb.DECISION_BUY_AGAIN: Decision.BUY_AGAIN,
    operator_pb.DECISION_DISMISS: Decision.DISMISS,
}
_RESTS: Mapping[int, Rest] = {operator_pb.REST_FAIL: Rest.FAIL, operator_pb.REST_BUY_AGAIN: Rest.BUY_AGAIN}


class Start(Enum):
    """Where a stream begins."""

    NOW = "now"
    SNAPSHOT = "snapshot"
    AFTER = "after"


_STARTS: Mapping[int, Start] = {
    reward_pb.STREAM_START_NOW: Start.NOW,
    reward_pb.STREAM_START_SNAPSHOT: Start.SNAPSHOT,
    reward_pb.STREAM_START_AFTER: Start.AFTER,
}


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A checked CreateOrderRequest."""

    order: OrderRequest
    view: View
    wait: float


@dataclass(frozen=True, slots=True)
class GetRequest:
    """A checked GetOrderRequest or CancelOrderRequest: one of the ids is set."""

    order_id: str
    client_order_id: str
    view: View


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRequest:
    """A checked ListOrdersRequest."""

    page_size: int
    page_token: str
    states: frozenset[OrderState]
    product_id: str
    supplier: str
    created_from: int | None
    created_before: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which orders; none named: all."""

    order_ids: tuple[str, ...]
    client_order_ids: tuple[str, ...]

    @property
    def is_all(self) -> bool:
        """Whether no order is named."""
        return not self.order_ids and not self.client_order_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRequest:
    """A checked StreamOrderUpdatesRequest."""

    selector: Selector
    start: Start
    resume_token: str
    heartbeat: float
    full: bool
    until_terminal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatesRequest:
    """A checked ListOrderUpdatesRequest."""

    selector: Selector
    after: str
    limit: int
    full: bool


@dataclass(frozen=True, slots=True)
class ProductsRequest:
    """A checked ListProductsRequest."""

    page_size: int
    page_token: str
    kind: ProductKind | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbacksRequest:
    """A checked ListCallbacksRequest."""

    supplier: str
    only_unknown: bool
    page_size: int
    page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewsRequest:
    """A checked ListReviewsRequest."""

    supplier: str
    reason: ReviewReason | None
    page_size: int
    page_token: str


@dataclass(frozen=True, slots=True)
class ResolveRequest:
    """A checked ResolveOrderRequest."""

    order_id: str
    number: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class PauseRequest:
    """A checked PauseSupplierRequest or ResumeSupplierRequest."""

    supplier: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """A checked ListAuditEntriesRequest."""

    page_size: int
    page_token: str
    only_decisions: bool
    order_id: str
    """"": of any."""


@dataclass(frozen=True, slots=True)
class RotateRequest:
    """A checked RotateKeysRequest."""

    client_id: str
    """"": everybody's."""
    only_wrap: bool
    by: str
    reason: str


class _Check:
    """Collects violations."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def fail(self, field: str, description: str) -> None:
        self.violations.append(Violation(field, description))

    def finish(self) -> None:
        if self.violations:
            raise InvalidRequest(self.violations)

    # One method per sort of field; each returns the value to use.

    def client_order_id(self, field: str, value: str) -> str:
        if not value:
            self.fail(field, "required; choose an id of your own and keep it for retries")
        elif not _CLIENT_ORDER_ID.fullmatch(value):
            self.fail(field, "must be 1 to 64 characters of letters, digits and - _ . : /")
        return value

    def order_id(self, field: str, value: str) -> str:
        if not value:
            self.fail(field, "must not be empty")
        elif len(value) > MAX_ID:
            self.fail(field, "not an order id; these have 26 characters")
        return value

    def product_id(self, field: str, value: str, *, required: bool = True) -> str:
        if required and not value:
            self.fail(field, "required; ListProducts shows what there is")
        elif len(value) > MAX_PRODUCT_ID:
            self.fail(field, f"not a product id; these have at most {MAX_PRODUCT_ID} characters")
        return value

    def supplier(self, field: str, value: str) -> str:
        if not value:
            self.fail(field, "required; ListSuppliers shows what there is")
        elif len(value) > MAX_ID:
            self.fail(field, f"not a supplier account; their names have at most {MAX_ID} characters")
        return value

    def reason(self, field: str, value: str) -> str:
        if not value.strip():
            self.fail(field, "required; say why, for whoever reads the record")
        elif len(value) > MAX_REASON or _CONTROL.search(value):
            self.fail(field, f"must have at most {MAX_REASON} characters and no control characters")
        return value

    def by(self, field: str, actor: str, caller: Caller) -> str:
        if len(actor) > MAX_ACTOR or _CONTROL.search(actor):
            self.fail(field, f"must have at most {MAX_ACTOR} characters and no control characters")
        return f"{caller.client_id} ({actor})" if actor else caller.client_id

    def cards(self, field: str, cards: Sequence[operator_pb.EnteredCard]) -> tuple[Card, ...]:
        if len(cards) > MAX_ENTERED:
            self.fail(field, f"has {len(cards):,} entries; at most {MAX_ENTERED} are allowed")
            return ()
        return tuple(self._card(f"{field}[{place}]", card) for place, card in enumerate(cards))

    def _card(self, field: str, card: operator_pb.EnteredCard) -> Card:
        texts = {
            "number": card.number,
            "secret": card.secret,
            "link": card.link,
            "qr.image_url": card.qr.image_url,
            "qr.content": card.qr.content,
            "instructions": card.instructions,
        }
        for name, text in texts.items():
            if len(text) > MAX_CARD_TEXT:
                self.fail(f"{field}.{name}", f"must have at most {MAX_CARD_TEXT:,} characters")
        if not any(text for name, text in texts.items() if name != "instructions"):
            self.fail(field, "needs a number, a secret, a link or a QR code")
        return Card(
            kind=_card_kind(card),
            number=card.number,
            secret=card.secret,
            link=card.link,
            qr_image_url=card.qr.image_url,
            qr_content=card.qr.content,
            instructions=card.instructions,
        )

    def number(self, field: str, value: int, low: int, high: int, default: int | None = None) -> int:
        if value == 0 and default is not None:
            return default
        if not low <= value <= high:
            self.fail(field, f"must be from {low} to {high:,}")
        return value

    def pairs(self, field: str, pairs: Mapping[str, str], most: int, max_value: int) -> dict[str, str]:
        if len(pairs) > most:
            self.fail(field, f"has {len(pairs):,} entries; at most {most} are allowed")
        else:
            for key, value in pairs.items():
                if not 1 <= len(key) <= MAX_KEY:
                    self.fail(f"{field}[{_short(key)!r}]", f"the key must have 1 to {MAX_KEY} characters")
                if len(value) > max_value:
                    self.fail(f"{field}[{_short(key)!r}]", f"the value has more than {max_value} characters")
        return dict(pairs)

    def money(self, field: str, money: money_pb2.Money) -> Money:
        if money.currency_code != CURRENCY:
            self.fail(f"{field}.currency_code", 'must be "CNY"')
        if not 0 <= money.units <= MAX_YUAN:
            self.fail(f"{field}.units", f"must be from 0 to {MAX_YUAN:,} yuan")
        if not 0 <= money.nanos < _NANOS:
            self.fail(f"{field}.nanos", "must be from 0 to 999,999,999")
        elif money.nanos % NANOS_PER_UNIT:
            self.fail(f"{field}.nanos", "at most 4 decimals of a yuan: must be a multiple of 100,000")
        if money.units == 0 and money.nanos == 0:
            self.fail(field, "must be above zero; leave it unset for no limit of your own")
        return Money(money.units * UNITS_PER_YUAN + money.nanos // NANOS_PER_UNIT)

    def recipient(self, field: str, recipient: pb.Recipient) -> Recipient | None:
        match recipient.WhichOneof("recipient"):
            case "phone":
                return self._phone(f"{field}.phone", recipient.phone)
            case "qq":
                if not _DIGITS.fullmatch(recipient.qq) or not 5 <= len(recipient.qq) <= 12:
                    self.fail(f"{field}.qq", "must be 5 to 12 digits")
                return Recipient(RecipientKind.QQ, recipient.qq)
            case "account":
                if not 1 <= len(recipient.account) <= 64:
                    self.fail(f"{field}.account", "must have 1 to 64 characters")
                elif _CONTROL.search(recipient.account):
                    self.fail(f"{field}.account", "must not contain control characters")
                return Recipient(RecipientKind.ACCOUNT, recipient.account)
            case _:
                self.fail(field, "must hold exactly one of phone, qq and account; leave it unset for no recipient")
                return None

    def _phone(self, field: str, phone: pb.PhoneNumber) -> Recipient:
        area_code = phone.area_code or DEFAULT_AREA_CODE
        if not _AREA_CODE.fullmatch(area_code):
            self.fail(f"{field}.area_code", 'must be a plus sign and 1 to 4 digits, as in "+86"')
        if not _DIGITS.fullmatch(phone.number) or not 5 <= len(phone.number) <= 15:
            self.fail(f"{field}.number", "must be 5 to 15 digits, without spaces or the area code")
        elif area_code == DEFAULT_AREA_CODE and len(phone.number) != 11:
            self.fail(f"{field}.number", "must have 11 digits for +86")
        return Recipient(RecipientKind.PHONE, phone.number, area_code)

    def view(self, field: str, view: int) -> View:
        known = _UNARY_VIEWS.get(view)
        if known is None:
            self.fail(field, "must be BASIC, FULL or EXPLAINED")
        return known or View.BASIC

    def stream_view(self, field: str, view: int, caller: Caller) -> bool:
        if view == pb.ORDER_VIEW_UNSPECIFIED:
            return caller.may(Permission.READ_CARDS)
        if view not in (pb.ORDER_VIEW_BASIC, pb.ORDER_VIEW_FULL):
            self.fail(field, "must be BASIC or FULL; EXPLAINED is shown by GetOrder")
        return view == pb.ORDER_VIEW_FULL

    def duration(self, field: str, duration: duration_pb2.Duration, low: int, high: int) -> float:
        if not -_NANOS < duration.nanos < _NANOS or duration.seconds * duration.nanos < 0:
            self.fail(field, "not a valid duration: nanos must be below a second and have the sign of seconds")
            return low
        nanos = duration.seconds * _NANOS + duration.nanos
        if not low * _NANOS <= nanos <= high * _NANOS:
            self.fail(field, f"must be from {low} to {high} seconds")
            return low
        return nanos / _NANOS

    def time(self, field: str, time: timestamp_pb2.Timestamp) -> int:
        """Rounded up to the milliseconds that orders are stamped with: both of our bounds mean the same then."""
        if not _MIN_SECONDS <= time.seconds <= _MAX_SECONDS or not 0 <= time.nanos < _NANOS:
            self.fail(field, "not a valid time: seconds must lie in the years 1 to 9999, nanos from 0 to 999,999,999")
            return 0
        return time.seconds * 1000 - (-time.nanos // 1_000_000)

    def token(self, field: str, token: str) -> str:
        if len(token) > MAX_TOKEN:
            self.fail(field, "not a token of this server; use one exactly as it was received")
        return token

    def selector(self, order_ids: Iterable[str], client_order_ids: Iterable[str]) -> Selector:
        ours, theirs = tuple(order_ids), tuple(client_order_ids)
        if len(ours) + len(theirs) > MAX_IDS:
            self.fail(
                "order_ids" if ours else "client_order_ids",
                f"together with the other ids {len(ours) + len(theirs):,}; at most {MAX_IDS:,} are allowed. "
                "Name none for all orders",
            )
        else:
            for place, order_id in enumerate(ours):
                self.order_id(f"order_ids[{place}]", order_id)
            for place, client_order_id in enumerate(theirs):
                self.client_order_id(f"client_order_ids[{place}]", client_order_id)
        return Selector(order_ids=ours, client_order_ids=theirs)


def create_request(request: reward_pb.CreateOrderRequest, caller: Caller) -> CreateRequest:
    """Reads a CreateOrderRequest. Raises InvalidRequest or CardsNotPermitted."""
    check = _Check()
    order = OrderRequest(
        client_id=caller.client_id,
        client_order_id=check.client_order_id("client_order_id", request.client_order_id),
        product_id=check.product_id("product_id", request.product_id),
        quantity=check.number("quantity", request.quantity, 1, MAX_QUANTITY),
        recipient=check.recipient("recipient", request.recipient) if request.HasField("recipient") else None,
        max_unit_price=(
            check.money("max_unit_price", request.max_unit_price) if request.HasField("max_unit_price") else None
        ),
        supplier_parameters=check.pairs(
            "supplier_parameters", request.supplier_parameters, MAX_PARAMETERS, MAX_PARAMETER
        ),
        metadata=check.pairs("metadata", request.metadata, MAX_PAIRS, MAX_METADATA),
    )
    view = check.view("view", request.view)
    # Reading a message that isn't there makes one.
    wait = check.duration("wait", request.wait, 0, MAX_WAIT) if request.HasField("wait") else 0.0
    check.finish()
    _require_cards(caller, full=view is View.FULL)
    return CreateRequest(order, view, wait)


def get_request(request: reward_pb.GetOrderRequest | reward_pb.CancelOrderRequest, caller: Caller) -> GetRequest:
    """Reads a GetOrderRequest or CancelOrderRequest. Raises InvalidRequest or CardsNotPermitted."""
    check = _Check()
    match request.WhichOneof("id"):
        case "order_id":
            check.order_id("order_id", request.order_id)
        case "client_order_id":
            check.client_order_id("client_order_id", request.client_order_id)
        case _:
            check.fail("id", "set order_id or client_order_id")
    view = check.view("view", request.view)
    check.finish()
    _require_cards(caller, full=view is View.FULL)
    return GetRequest(request.order_id, request.client_order_id, view)


def list_request(request: reward_pb.ListOrdersRequest) -> ListRequest:
    """Reads a ListOrdersRequest. Raises InvalidRequest."""
    check = _Check()
    for place, state in enumerate(request.states):
        if state not in STATE_OF:
            check.fail(f"states[{place}]", "not a state of orders; leave the list empty for all")
    if len(request.supplier) > MAX_ID:
        check.fail("supplier", f"not a supplier account; their names have at most {MAX_ID} characters")
    read = ListRequest(
        page_size=check.number("page_size", request.page_size, 1, MAX_PAGE, DEFAULT_PAGE),
        page_token=check.token("page_token", request.page_token),
        states=frozenset(STATE_OF[state] for state in request.states if state in STATE_OF),
        product_id=check.product_id("product_id", request.product_id, required=False),
        supplier=request.supplier,
        created_from=check.time("created_after", request.created_after) if request.HasField("created_after") else None,
        created_before=(
            check.time("created_before", request.created_before) if request.HasField("created_before") else None
        ),
    )
    check.finish()
    return read


def stream_request(
    request: reward_pb.StreamOrderUpdatesRequest, caller: Caller, default_heartbeat: float
) -> StreamRequest:
    """Reads a StreamOrderUpdatesRequest. Raises InvalidRequest or CardsNotPermitted."""
    check = _Check()
    selector = check.selector(request.order_ids, request.client_order_ids)
    token = check.token("resume_token", request.resume_token)
    start = _STARTS.get(request.start)
    if request.start == reward_pb.STREAM_START_UNSPECIFIED:
        start = Start.AFTER if token else Start.SNAPSHOT
    elif start is None:
        check.fail("start", "must be NOW, SNAPSHOT or AFTER")
    elif start is Start.AFTER and not token:
        check.fail("resume_token", "start AFTER needs it; without one, begin with SNAPSHOT")
    elif start is not Start.AFTER and token:
        check.fail("resume_token", f"start {start.name} takes none; use AFTER to continue from it")
    heartbeat = default_heartbeat
    if request.HasField("heartbeat_interval"):
        heartbeat = check.duration("heartbeat_interval", request.heartbeat_interval, MIN_HEARTBEAT, MAX_HEARTBEAT)
    if request.until_terminal and selector.is_all:
        check.fail("until_terminal", "only together with order_ids or client_order_ids")
    full = check.stream_view("view", request.view, caller)
    check.finish()
    _require_cards(caller, full=full)
    return StreamRequest(
        selector=selector,
        start=start or Start.SNAPSHOT,
        resume_token=token,
        heartbeat=heartbeat,
        full=full,
        until_terminal=request.until_terminal,
    )


def updates_request(request: reward_pb.ListOrderUpdatesRequest, caller: Caller) -> UpdatesRequest:
    """Reads a ListOrderUpdatesRequest. Raises InvalidRequest or CardsNotPermitted."""
    check = _Check()
    read = UpdatesRequest(
        selector=check.selector(request.order_ids, request.client_order_ids),
        after=check.token("after", request.after),
        limit=check.number("limit", request.limit, 1, MAX_UPDATES, DEFAULT_UPDATES),
        full=check.stream_view("view", request.view, caller),
    )
    check.finish()
    _require_cards(caller, full=read.full)
    return read


def products_request(request: catalog_pb.ListProductsRequest) -> ProductsRequest:
    """Reads a ListProductsRequest. Raises InvalidRequest."""
    check = _Check()
    kind = KIND_OF.get(request.kind)
    if kind is None and request.kind:
        check.fail("kind", "not a kind of product; leave it unset for all")
    page_size = check.number("page_size", request.page_size, 1, MAX_PAGE, DEFAULT_PAGE)
    page_token = check.token("page_token", request.page_token)
    check.finish()
    return ProductsRequest(page_size, page_token, kind)


def product_id(request: catalog_pb.GetProductRequest) -> str:
    """Reads a GetProductRequest. Raises InvalidRequest."""
    check = _Check()
    check.product_id("product_id", request.product_id)
    check.finish()
    return request.product_id


def supplier_products_request(request: operator_pb.ListSupplierProductsRequest) -> tuple[str, int]:
    """Reads a ListSupplierProductsRequest: the account and the page. Raises InvalidRequest."""
    check = _Check()
    supplier = check.supplier("supplier", request.supplier)
    page = check.number("page", request.page, 1, MAX_SUPPLIER_PAGE, 1)
    check.finish()
    return supplier, page


def supplier_product_request(request: operator_pb.GetSupplierProductRequest) -> tuple[str, str]:
    """Reads a GetSupplierProductRequest: the account and the supplier's number. Raises InvalidRequest."""
    check = _Check()
    supplier = check.supplier("supplier", request.supplier)
    if not request.product:
        check.fail("product", "required; ListSupplierProducts shows what there is")
    elif len(request.product) > MAX_PRODUCT_ID or _CONTROL.search(request.product):
        check.fail("product", f"not a supplier's product; their numbers have at most {MAX_PRODUCT_ID} characters")
    check.finish()
    return supplier, request.product


def callbacks_request(request: operator_pb.ListCallbacksRequest) -> CallbacksRequest:
    """Reads a ListCallbacksRequest. Raises InvalidRequest."""
    check = _Check()
    read = CallbacksRequest(
        supplier=check.supplier("supplier", request.supplier),
        only_unknown=request.only_unknown,
        page_size=check.number("page_size", request.page_size, 1, MAX_PAGE, DEFAULT_PAGE),
        page_token=check.token("page_token", request.page_token),
    )
    check.finish()
    return read


def reviews_request(request: operator_pb.ListReviewsRequest) -> ReviewsRequest:
    """Reads a ListReviewsRequest. Raises InvalidRequest."""
    check = _Check()
    if len(request.supplier) > MAX_ID:
        check.fail("supplier", f"not a supplier account; their names have at most {MAX_ID} characters")
    reason = REASON_OF.get(request.reason)
    if reason is None and request.reason:
        check.fail("reason", "not a reason of reviews; leave it unset for all")
    page_size = check.number("page_size", request.page_size, 1, MAX_PAGE, DEFAULT_PAGE)
    page_token = check.token("page_token", request.page_token)
    check.finish()
    return ReviewsRequest(supplier=request.supplier, reason=reason, page_size=page_size, page_token=page_token)


def resolve_request(request: operator_pb.ResolveOrderRequest, caller: Caller) -> ResolveRequest:
    """Reads a ResolveOrderRequest. Raises InvalidRequest."""
    check = _Check()
    order_id = check.order_id("order_id", request.order_id)
    if not request.purchase_number:
        check.fail("purchase_number", "required; ListReviews shows what is open")
    elif len(request.purchase_number) > MAX_ID:
        check.fail("purchase_number", f"not a purchase; their numbers have at most {MAX_ID} characters")
    decision = _DECISIONS.get(request.decision)
    if decision is None:
        check.fail("decision", "must be DELIVERED, FAIL, BUY_AGAIN or DISMISS")
    elif decision is not Decision.DELIVERED:
        if request.cards:
            check.fail("cards", "only with DELIVERED")
        if request.deliver_kept_cards:
            check.fail("deliver_kept_cards", "only with DELIVERED")
        if request.rest:
            check.fail("rest", "only with DELIVERED")
    if request.rest and request.rest not in _RESTS:
        check.fail("rest", "must be FAIL or BUY_AGAIN")
    verdict = Verdict(
        decision=decision or Decision.DISMISS,
        reason=check.reason("reason", request.reason),
        by=check.by("actor", request.actor, caller),
        cards=check.cards("cards", request.cards),
        kept=request.deliver_kept_cards,
        rest=_RESTS.get(request.rest),
    )
    check.finish()
    return ResolveRequest(order_id, request.purchase_number, verdict)


def pause_request(
    request: operator_pb.PauseSupplierRequest | operator_pb.ResumeSupplierRequest, caller: Caller
) -> PauseRequest:
    """Reads a PauseSupplierRequest or ResumeSupplierRequest. Raises InvalidRequest."""
    check = _Check()
    read = PauseRequest(
        supplier=check.supplier("supplier", request.supplier),
        by=check.by("actor", request.actor, caller),
        reason=check.reason("reason", request.reason),
    )
    check.finish()
    return read


def audit_request(request: operator_pb.ListAuditEntriesRequest) -> AuditRequest:
    """Reads a ListAuditEntriesRequest. Raises InvalidRequest."""
    check = _Check()
    read = AuditRequest(
        page_size=check.number("page_size", request.page_size, 1, MAX_PAGE, DEFAULT_PAGE),
        page_token=check.token("page_token", request.page_token),
        only_decisions=request.only_decisions,
        order_id=check.order_id("order_id", request.order_id) if request.order_id else "",
    )
    check.finish()
    return read


def rotate_request(request: operator_pb.RotateKeysRequest, caller: Caller) -> RotateRequest:
    """Reads a RotateKeysRequest. Raises InvalidRequest."""
    check = _Check()
    if len(request.client_id) > MAX_ID or _CONTROL.search(request.client_id):
        check.fail("client_id", f"not a client's id; they have at most {MAX_ID} characters")
    read = RotateRequest(
        client_id=request.client_id,
        only_wrap=request.only_wrap,
        by=check.by("actor", request.actor, caller),
        reason=check.reason("reason", request.reason),
    )
    check.finish()
    return read


def _card_kind(card: operator_pb.EnteredCard) -> CardKind:
    """What an entered card's fields mean together."""
    if card.qr.image_url or card.qr.content:
        return CardKind.QR
    if card.link:
        return CardKind.LINK_AND_SECRET if card.secret else CardKind.LINK
    return CardKind.NUMBER_AND_SECRET if card.number and card.secret else CardKind.CODE


def wrong_page_token() -> InvalidRequest:
    """The error for a page token of another query."""
    return InvalidRequest(
        [Violation("page_token", "not the next_page_token of this query; begin without one, and keep the filters")]
    )


def unreadable() -> InvalidRequest:
    """The error for bytes that aren't the request's message."""
    return InvalidRequest([Violation("", "the message can't be decoded; are both sides generated from one contract?")])


def _require_cards(caller: Caller, *, full: bool) -> None:
    if full and not caller.may(Permission.READ_CARDS):
        raise CardsNotPermitted


def _short(key: str) -> str:
    return key if len(key) <= MAX_KEY else key[:16] + "…"
