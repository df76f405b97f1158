"""The words that adapters and the service share.

An adapter knows one supplier's wire and nothing of stores, gRPC or retries. It *builds* one HTTP exchange (`Call`) and
*reads* what comes back into an `Outcome`; the service's engine does the sending, the waiting and the remembering.

Reading is total: whatever bytes come, `read` returns a value. What isn't understood is `Unclear`: never an exception,
never a guess. Only what is *known* to mean "not taken" is `Refused`.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from reward_adapters.money import Money

_MAYBE_SURROGATE = rb"\ud"
"""How every escaped surrogate begins."""

T = TypeVar("T")
C = TypeVar("C")


# --- What is bought -------------------------------------------------------------------------------------------------


class ProductKind(StrEnum):
    """What sort of reward a product is."""

    CARD = "card"
    COUPON = "coupon"
    TOPUP = "topup"
    MEMBERSHIP = "membership"

    @property
    def delivers_cards(self) -> bool:
        """Whether delivery means handing over cards (else something happens on the recipient's account)."""
        return self in (ProductKind.CARD, ProductKind.COUPON)


class RecipientKind(StrEnum):
    """Which sort of recipient a product needs."""

    NONE = "none"
    PHONE = "phone"
    QQ = "qq"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who gets the reward. Personal data: `repr` masks it."""

    kind: RecipientKind
    value: str
    area_code: str = ""
    """Country calling code with its plus sign; phones only."""

    def masked(self) -> str:
        """The value for logs: the last 4 characters of a long one, fewer of a short one."""
        shown = 4 if len(self.value) >= 8 else 1
        return "*" * (len(self.value) - shown) + self.value[-shown:]

    def __repr__(self) -> str:
        return f"Recipient({self.kind}, {self.masked()})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """One request to one supplier account for some units of an order: the facts an adapter needs."""

    number: str
    """Our number at the supplier (26 characters of digits and capital letters), used for nothing else, ever."""
    product_kind: ProductKind
    supplier_product: str
    """The supplier's product number, as configured."""
    quantity: int
    recipient: Recipient | None
    unit_cost: Money
    """What one unit is expected to cost, all-in, as configured."""
    unit_limit: Money
    """The most one unit may cost, all-in with surcharges."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """The offer's own parameters from the configuration, as in `auto_confirm_hour`."""
    form: Mapping[str, str] = field(default_factory=dict)
    """What the client gave for the product's form."""
    supplier_reference: str | None = None
    """The supplier's own number, once known."""
    sends: int = 1
    """How often a request under this number was or is being written, this one included."""
    notify_url: str | None = None
    """Where the supplier may call back; None when no public URL is configured."""


class CardKind(StrEnum):
    """What a card's fields mean together."""

    CODE = "code"
    NUMBER_AND_SECRET = "number_and_secret"  # noqa: S105 - a kind of card
    QR = "qr"
    LINK_AND_SECRET = "link_and_secret"  # noqa: S105 - a kind of card
    LINK = "link"


class AfterSale(StrEnum):
    """What may become of an item that was delivered, or already became of it. It leaves the order's state alone."""

    WARRANTY = "warranty"
    """The supplier exchanges it if it is faulty (`Card.warranty_until`)."""
    DISPUTED = "disputed"
    """The supplier and its own source argue about it."""
    CLOSED_UNCLEAR = "closed_unclear"
    """The dispute is over and the supplier doesn't say how it ended."""
    REVERSED = "reversed"
    """The supplier took it back and returned the money."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One delivered item. Every text in it may redeem it, so nothing of it prints."""

    kind: CardKind
    number: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    link: str = field(default="", repr=False)
    qr_image_url: str = field(default="", repr=False)
    qr_content: str = field(default="", repr=False)
    instructions: str = field(default="", repr=False)
    valid_from: date | None = None
    """First day of validity, in the supplier's time zone."""
    valid_until: date | None = None
    """Last day of validity, inclusive, in the supplier's time zone."""
    warranty_until: datetime | None = None
    """Until when the supplier exchanges a faulty card; with time zone."""
    unit_cost: Money | None = None
    """What the supplier charged for this card, where it says so."""
    supplier_card_number: str = field(default="", repr=False)
    """The supplier's own number of this card, where it has one: the card's identity when it is listed again."""
    after_sale: AfterSale | None = None
    """No part of the card itself. A card that is REVERSED may hold nothing but `supplier_card_number`; one that was not
    delivered before never is."""


# --- What a supplier said: the seven outcomes -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The supplier took it and will deliver."""

    supplier_reference: str | None = None
    cost: Money | None = None
    """What the whole purchase is charged with, where the supplier says so already."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The supplier reports success. For products that deliver cards, `cards` holds all cards listed so far."""

    cards: tuple[Card, ...] = ()
    cost: Money | None = None
    """What the whole purchase was charged with, where the supplier says so."""
    complete: bool = True
    """False: success, but fewer cards than ordered were listed; more may come."""
    after_sale: AfterSale | None = None
    """Of the whole purchase, for products without cards; cards carry their own."""
    settled: bool = False
    """The supplier says that nothing more will become of it: no warranty, no dispute, no reversal."""
    supplier_reference: str | None = None
    detail: str = ""


class RefusedFor(StrEnum):
    """What a refusal is about; decides whether another offer may be tried."""

    PRODUCT = "product"
    STOCK = "stock"
    PRICE = "price"
    BALANCE = "balance"
    RECIPIENT = "recipient"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Never taken, says the supplier."""

    code: str
    message: str
    certain: bool
    """True only for codes of the adapter's reviewed list. Otherwise the engine looks once before it believes."""
    about: RefusedFor = RefusedFor.OTHER


class NotSentCause(StrEnum):
    """Why a request had no effect."""

    UNREACHABLE = "unreachable"
    """No connection could be made: DNS, refused connection, TLS."""
    TOO_LATE = "too_late"
    """The intention to send grew older than the submit window before the first byte was written."""
    OWN_LIMIT = "own_limit"
    NO_TOKEN = "no_token"  # noqa: S105 - a reason, not a credential
    TOKEN_REFUSED = "token_refused"  # noqa: S105 - a reason, not a credential
    """The supplier refused the access token: fetch a new one and send once more."""
    RATE_LIMITED = "rate_limited"
    CONFIGURATION = "configuration"
    """The supplier refuses *us* (signature, appid, IP, permission): the account is paused and an operator alerted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSent:
    """Proven to have had no effect: not sent at all, or refused because of the caller rather than the order."""

    cause: NotSentCause
    detail: str = ""
    retry_after: float | None = None
    """Seconds the supplier asks to wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refunded:
    """Taken, failed, money back."""

    amount: Money | None = None
    """What came back, where the supplier says so."""
    cost: Money | None = None
    """What had been charged, where the supplier says so. `amount` < `cost` is a partial refund."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Absent:
    """The supplier has never heard of our number."""

    detail: str = ""


class Doubt(StrEnum):
    """Doubts that only a person can settle."""

    CONTRADICTION = "contradiction"
    """The supplier contradicts itself or our request (another product, number or amount)."""
    CARD_MISSING = "card_missing"
    """The supplier reports success but the card isn't there and can't be fetched."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """Everything else. `reason` is scrubbed: it may stand in logs."""

    reason: str
    doubt: Doubt | None = None
    alert: bool = False
    """Tell the operator even if later evidence settles it."""


Outcome: TypeAlias = Accepted | Delivered | Refused | NotSent | Refunded | Absent | Unclear


# --- What a supplier said to a wish to cancel -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The supplier took the order down: it will not deliver and returned the money."""

    refund: Money | None = None
    """What came back, where the supplier says so."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTaken:
    """The supplier took note of the wish; what becomes of the order is to be asked."""

    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRefused:
    """The supplier doesn't cancel it (any more). No evidence about the order itself."""

    detail: str


CancelAnswer: TypeAlias = Cancelled | CancelTaken | CancelRefused | NotSent | Unclear


# --- What a supplier has on sale --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplierProduct:
    """One product as the supplier lists it."""

    number: str
    """The supplier's product number."""
    name: str
    price: Money | None = None
    """What one unit costs us before surcharges, where it says so."""
    stock: int | None = None
    """How many are left, where it says so."""
    on_sale: bool | None = None
    """Whether it can be bought now, where it says so."""
    details: Mapping[str, str] = field(default_factory=dict)
    """What else an operator wants to know, as in `auto_confirm_hour`; scrubbed, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One page of a supplier's products."""

    products: tuple[SupplierProduct, ...]
    more: bool = False
    """Whether the next page may hold more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormEntry:
    """One parameter that the supplier wants for a product."""

    key: str
    label: str
    required: bool = True
    options: tuple[str, ...] = ()
    """The values it may have; empty = any."""
    hint: str = ""


# --- One HTTP exchange ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request, exactly as it is to be written. `repr` leaves out the query and the body: they carry secrets."""

    url: str
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    method: str = "POST"

    @property
    def safe_url(self) -> str:
        """The URL without its query."""
        return self.url.split("?", 1)[0]

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {self.safe_url})"


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What came back."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Names in lower case."""

    def json(self) -> Any:
        """The body as JSON; `None` when it isn't JSON in UTF-8 (a supplier's `null` is no answer either).

        Whole numbers keep every digit (Dushu's order numbers exceed 2^53); other numbers arrive as their text's
        Decimal-exact `float`, which `money.yuan` reads by its shortest text.
        """
        try:
            value = json.loads(self.body.decode("utf-8-sig"))
            if _MAYBE_SURROGATE in self.body.lower():
                # Half of a surrogate pair is no text: nobody could pass it on.
                json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return None
        return value


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One exchange: the request to write and how to read the reply. `read` never raises."""

    request: HttpRequest
    read: Callable[[HttpReply], T] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Context:
    """What changes from call to call."""

    now: datetime
    """The wall clock, with time zone."""
    token: str | None = field(default=None, repr=False)
    """The access token, for suppliers that need one."""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token."""

    value: str = field(repr=False)
    expires_in: float
    """Seconds it stays valid."""


# --- Callbacks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Callback:
    """A request to our callback route."""

    body: bytes = field(repr=False)
    content_type: str = ""
    """As sent, parameters included."""
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Names in lower case."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the supplier gets back."""

    body: bytes
    content_type: str = "text/plain"
    status: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A verified callback."""

    number: str
    """Our number."""
    supplier_reference: str | None = None
    outcome: Outcome | None = None
    """Set only by suppliers without a query: elsewhere a callback is a reason to look, never evidence."""
    accepted: Answer
    """Answer when it was recorded."""
    unknown: Answer
    """Answer when the number is none of ours (kept for the operator all the same)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackRefused:
    """Not from the supplier, or not readable. Nothing is looked up, nothing changes, and the answer tells nothing."""

    reason: str
    """For the operator's log; scrubbed."""


# --- The contract -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NotOffered:
    """The supplier doesn't offer this."""

    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What is true of a supplier whatever the account. Durations in seconds; accounts may override the marked ones."""

    queryable: bool
    """Whether `query` is offered."""
    query_batch: int = 1
    """The most purchases one query may ask for."""
    needs_token: bool = False
    token_margin: float = 300.0
    """(overridable) Renew a token so long before it ends, or at 20 % of its lifetime if that is less."""
    price_guard: bool = True
    """Whether the supplier refuses a purchase above a price that we send."""
    calls_back: bool = False
    max_units_per_purchase: int = 1
    """The default for offers."""
    connect_timeout: float = 5.0
    """(overridable)"""
    read_timeout: float = 30.0
    """(overridable) After it the outcome is unknown; the exchange itself stays open."""
    not_found_grace: float = 60.0
    """(overridable) How long after the last possible write "not found" may still be too early."""
    absence_resends: int = 0
    """How often the same number may be sent again after proven absence; 0: proven absence is death."""
    query_horizon: float = math.inf
    """(overridable) How long after the first intention to send the supplier still finds a purchase by our number: "not
    found" after that proves nothing."""
    aftersale_watch: float = 0.0
    """(overridable) How long after delivery something may still become of it; 0: settled at delivery. A card's own
    `warranty_until` counts before this."""
    aftersale_every: float = 3600.0
    """(overridable) How often a delivered purchase is looked at while it is watched."""
    look_delays: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 60.0, 300.0)
    """(overridable, `poll_plan`) Delays between looks at a purchase under way; the last one repeats."""
    send_by: Mapping[ProductKind, float]
    """(overridable) From creation: not sent by then, never sent."""
    settle_by: Mapping[ProductKind, float]
    """(overridable) From the intention to send: not settled by then, a person looks."""


class Supplier(Protocol):
    """One supplier account. Stateless: builds exchanges and reads answers."""

    @property
    def traits(self) -> Traits:
        """What is true of the supplier whatever the account."""

    def place(self, purchase: Purchase, context: Context) -> Call[Outcome] | Refused:
        """The exchange that buys. `Refused` (certain) where the wire can't say it, as in a number that is too long."""

    def query(self, purchases: Sequence[Purchase], context: Context) -> Call[Mapping[str, Outcome]] | NotOffered:
        """The exchange that asks what became of up to `query_batch` purchases; answers by number, all of them.

        `NotSent` for every number when the supplier refused the question because of us (token, rate, signature).
        """

    def read_callback(self, callback: Callback) -> Notice | CallbackRefused | NotOffered:
        """Verifies and reads a callback."""

    def cancel(self, purchase: Purchase, context: Context) -> Call[CancelAnswer] | NotOffered:
        """The exchange that asks to cancel a purchase the supplier has taken."""

    def fetch_token(self, context: Context) -> Call[Token | NotSent] | NotOffered:
        """The exchange that gets an access token."""


class Catalogue(Protocol):
    """What one supplier account can tell beside orders. Questions only: nothing here buys."""

    def balance(self, context: Context) -> Call[Money | NotSent | Unclear] | NotOffered:
        """The exchange that asks what is left of our deposit."""

    def products(self, context: Context, *, page: int = 1) -> Call[Listing | NotSent | Unclear] | NotOffered:
        """The exchange that lists products, pages counted from 1."""

    def product(self, number: str, context: Context) -> Call[SupplierProduct | Absent | NotSent | Unclear] | NotOffered:
        """The exchange that asks after one product by the supplier's number."""

    def order_form(self, number: str, context: Context) -> Call[tuple[FormEntry, ...] | NotSent | Unclear] | NotOffered:
        """The exchange that asks which parameters a product needs, the recipient's included."""


class Dealer(Supplier, Catalogue, Protocol):
    """One supplier account in full: what an adapter file provides."""


@dataclass(frozen=True, slots=True)
class Adapter(Generic[C]):
    """What an adapter file exports as `ADAPTER`."""

    config: type[C]
    """A frozen dataclass; its fields are the account's keys. Secret fields are made by `secret()`."""
    supplier: Callable[[C], Dealer]


SECRET = "secret"  # noqa: S105 - the name of a mark, not a credential


def secret() -> Any:
    """A required, secret configuration field: not printed, and settable by `<name>_file`."""
    return field(repr=False, metadata={SECRET: True})
