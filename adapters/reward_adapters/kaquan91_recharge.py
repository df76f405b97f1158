"""91 Kaquan (玖壹卡券), recharge: phone credit, game currency or memberships put on the recipient's account by workers.

Quirks:

* An accepted order waits for a worker to take it; after 7 days without one it is taken down and refunded. `check=1`
  asks for a refusal instead when nobody has stock. `check` is never signed.
* `money` is a limit on our side and counts in fen unless `money_type` says 2, yuan; the answers' `price` is in yuan.
* A failure is `code` 0 with a free text, also for a repeated number: a refusal is never certain.
* `notify_url` enters the signed text URL-encoded. Whether other values with special characters do isn't said:
  `sign_value_encoding` decides for requests, callbacks are accepted in either form.
* A query takes our number or theirs, and theirs wins when both are sent: only ours is sent.
* "Success" (3) stays open to confirmation for 24 hours, then becomes "done" (4); a dispute (5) comes after success.
* An order can be taken back while it waits for a worker; the answer's `price` is in whole *fen*, unlike all others.
* Paging fields of the product list are sent beside the signature, never under it.
* Callbacks are said to tell of success but list every state. They are repeated until exactly `success` is answered.

Source: 91 manual, the page of `POST /dcapi/pay` (purchase); sister manual, pages dcsqy/8675320413402390 (query),
dcsqy/8692089281308714 (states, callback), dcsqy/8755792839336977 (cancel), dcsqy/11545325077314578 (product list) and
dcsqy/9096957616187945 (one product). Signature, envelope and deposit: `_kaquan91`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from reward_adapters import _kaquan91 as wire
from reward_adapters._wire import (
    amount,
    another,
    callback_fields,
    count,
    fen_amount,
    known_details,
    same_text,
    scrub,
    text,
)
from reward_adapters.contract import (
    Absent,
    Accepted,
    Adapter,
    AfterSale,
    Answer,
    Call,
    Callback,
    CallbackRefused,
    CancelAnswer,
    Cancelled,
    CancelRefused,
    Context,
    Delivered,
    Doubt,
    HttpReply,
    HttpRequest,
    Listing,
    Notice,
    NotOffered,
    NotSent,
    Outcome,
    ProductKind,
    Purchase,
    RecipientKind,
    Refunded,
    Refused,
    RefusedFor,
    SupplierProduct,
    Traits,
    Unclear,
    secret,
)
from reward_adapters.money import UNITS_PER_FEN, Money, format_yuan

PLACE = "/dcapi/pay"
QUERY = "/dcapi/queryOrder"
CANCEL = "/dcapi/drawOrder"
"""Source: sister manual, page dcsqy/8755792839336977."""
LIST = "/dcapi/queryCardList"
"""Source: sister manual, page dcsqy/11545325077314578. `queryCard`, which it replaces, was withdrawn in 2024."""
INFO = "/dcapi/queryCardInfo"
"""Source: sister manual, page dcsqy/9096957616187945."""

HOUR = 3600.0
WAIT_FOR_A_WORKER = 7 * 24 * HOUR
"""After it the supplier takes the order down and refunds (91 manual, the page of `POST /dcapi/pay`)."""

CONFIRMATION = 24 * HOUR
"""After it a success is confirmed by itself (sister manual, front page)."""
SLOWEST_AVERAGE = 86_400
"""Seconds that orders may take on average for a product to be worth listing (sister manual, page
dcsqy/8771496202910907, which says "list" and "delist" of exactly this value: it is taken for listed)."""

MAINLAND = ("", "+86")
"""Area codes of phones whose number alone says who is meant. That `account` holds a bare mainland number is not
documented; assumed because every sample has one."""

RECORDED = Answer(b"success")
"""Ends the supplier's repeats (sister manual, page dcsqy/8692089281308714)."""
NOT_OURS = Answer(b"unknown")
"""Anything but `success` lets the supplier repeat."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The keys of one account. Where a default isn't documented, the key says why it was assumed."""

    base_url: str
    appid: str
    appsecret: str = secret()
    sign_value_encoding: wire.SignEncoding = "notify-only"
    """`notify-only` is the manual's wording; `encode-all` is what a public client of the sister brand does."""
    notify_url_wire: wire.NotifyUrlWire = "plain"
    """`plain`: the form's own encoding is the only one. `pre-encoded`: encoded once more, as that client does."""
    money_type: wire.MoneyType = "2"
    """The unit of the limit: 1 fen, 2 yuan. Yuan, because the answers are in yuan too."""
    money_scope: wire.MoneyScope = "total"
    """What the limit limits: the manual calls it the order's amount."""
    check_stock: bool = False
    """Refuse at once when nobody has stock, instead of waiting for a worker."""
    query_after_reject: bool = True
    """Only true: a refusal by text is always looked into, for a repeated number is refused so too."""
    confirm_by_query: bool = True
    """Only true: a callback is a reason to look and never moves an order itself."""
    timezone: str = "Asia/Shanghai"
    """The zone of the supplier's times. Must exist; no time of a recharge is read, and `datetime` is Unix seconds."""
    order_path: str = PLACE
    query_path: str = QUERY

    def __post_init__(self) -> None:
        wire.only("query_after_reject", self.query_after_reject, True, "a refusal by text proves nothing")
        wire.only("confirm_by_query", self.confirm_by_query, True, "callbacks never move an order by themselves")
        if self.notify_url_wire == "pre-encoded" and self.sign_value_encoding != "encode-all":
            raise ValueError('notify_url_wire "pre-encoded" needs sign_value_encoding "encode-all"')


class Kaquan91Recharge:
    """One account for recharges."""

    traits = Traits(
        queryable=True,
        calls_back=True,
        max_units_per_purchase=100,  # not documented; assumed because the manual names no limit
        read_timeout=60.0,  # not documented; assumed because a public client of the sister brand waits as long
        not_found_grace=60.0,  # not documented; assumed because the number is given out in the answer to the purchase
        look_delays=(30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, HOUR),  # not documented; assumed: a person recharges
        aftersale_watch=CONFIRMATION + HOUR,
        send_by={ProductKind.TOPUP: 24 * HOUR, ProductKind.MEMBERSHIP: 24 * HOUR},
        settle_by={
            ProductKind.TOPUP: WAIT_FOR_A_WORKER + HOUR,
            ProductKind.MEMBERSHIP: WAIT_FOR_A_WORKER + HOUR,
        },
    )

    def __init__(self, config: Config) -> None:
        ZoneInfo(config.timezone)  # an unknown zone stops the start
        self._config = config

    def place(self, purchase: Purchase, context: Context) -> Call[Outcome] | Refused:
        """Orders the recharge. Refused here when the recipient or the limit can't be said on this wire."""
        recipient = purchase.recipient
        if recipient is None or recipient.kind is RecipientKind.NONE or not recipient.value:
            return _unfit("account", "a recharge needs a recipient", RefusedFor.RECIPIENT)
        if recipient.kind is RecipientKind.PHONE and recipient.area_code not in MAINLAND:
            return _unfit("account", "only phone numbers of +86 can be said", RefusedFor.RECIPIENT)
        limit = purchase.unit_limit * (purchase.quantity if self._config.money_scope == "total" else 1)
        if limit < UNITS_PER_FEN:
            return _unfit("money", "the limit is below 0.01", RefusedFor.PRICE)
        fields = {
            "appid": self._config.appid,
            "card_id": purchase.supplier_product,
            "account": recipient.value,
            "number": str(purchase.quantity),
            "money_type": self._config.money_type,
            "money": write_money(Money(limit), self._config.money_type),
            "out_order_id": purchase.number,
            "datetime": str(int(context.now.timestamp())),
        }
        if purchase.notify_url:
            pre_encoded = self._config.notify_url_wire == "pre-encoded"
            fields["notify_url"] = wire.url_encoded(purchase.notify_url) if pre_encoded else purchase.notify_url
        unsigned = {"check": "1"} if self._config.check_stock else {}
        return Call(self._post(self._config.order_path, fields, unsigned), lambda reply: read_placed(reply, purchase))

    def query(self, purchases: Sequence[Purchase], context: Context) -> Call[Mapping[str, Outcome]]:
        """Asks by our number alone: theirs would win, and a wrong one would answer for another order."""
        (purchase,) = purchases
        fields = {"appid": self._config.appid, "out_order_id": purchase.number}
        request = self._post(self._config.query_path, fields)
        return Call(request, lambda reply: {purchase.number: read_found(reply, purchase)})

    def read_callback(self, callback: Callback) -> Notice | CallbackRefused:
        """Verifies a callback. What it says of the state is left to a query to confirm."""
        fields = callback_fields(callback)
        if fields is None or not all(isinstance(value, str) for value in fields.values()):
            return CallbackRefused(reason="not a form")
        if not verify(fields, self._config.appsecret):
            return CallbackRefused(reason="the signature doesn't match")
        number = fields.get("out_order_id", "")
        if not number:
            return CallbackRefused(reason="no out_order_id")
        return Notice(
            number=number,
            supplier_reference=wire.reference(fields.get("order_id")),
            accepted=RECORDED,
            unknown=NOT_OURS,
        )

    def cancel(self, purchase: Purchase, context: Context) -> Call[CancelAnswer]:
        """Takes an order down that no worker has taken. By our number alone, for the reason that `query` has."""
        request = self._post(CANCEL, {"appid": self._config.appid, "out_order_id": purchase.number})
        return Call(request, lambda reply: read_cancelled(reply, purchase))

    def fetch_token(self, context: Context) -> NotOffered:
        """Requests are signed; there are no tokens."""
        return NotOffered("access tokens")

    def balance(self, context: Context) -> Call[Money | NotSent | Unclear]:
        """Cards and recharges share one deposit."""
        return Call(self._post(wire.BALANCE, {"appid": self._config.appid}), wire.read_balance)

    def products(self, context: Context, *, page: int = 1) -> Call[Listing | NotSent | Unclear]:
        """All products, page by page."""
        paging = {"pageIndex": str(page), "pageSize": str(wire.PAGE_SIZE)}
        request = self._post(LIST, {"appid": self._config.appid}, paging)
        return Call(request, lambda reply: wire.read_listing(reply, read_product, page))

    def product(self, number: str, context: Context) -> Call[SupplierProduct | Absent | NotSent | Unclear]:
        """One product."""
        request = self._post(INFO, {"appid": self._config.appid, "id": number})
        return Call(request, lambda reply: wire.read_product(reply, read_product, number))

    def order_form(self, number: str, context: Context) -> NotOffered:
        """A recharge takes an account and nothing else."""
        return NotOffered("order forms")

    def _post(self, path: str, fields: Mapping[str, str], unsigned: Mapping[str, str] | None = None) -> HttpRequest:
        signature = wire.sign(fields, self._config.appsecret, self._config.sign_value_encoding)
        return wire.request(self._config.base_url, path, {**fields, **(unsigned or {}), "sign": signature})


def _unfit(code: str, message: str, about: RefusedFor) -> Refused:
    return Refused(code=code, message=message, certain=True, about=about)


def write_money(limit: Money, money_type: wire.MoneyType) -> str:
    """The limit in whole fen or in yuan with two decimals, rounded down."""
    return str(limit // UNITS_PER_FEN) if money_type == "1" else format_yuan(limit)


def verify(fields: Mapping[str, str], appsecret: str) -> bool:
    """Whether a callback is signed, over every non-empty field it has: the manual's list of fields is not complete.

    How values with special characters enter is not documented; assumed: in either form. Both are compared, in constant
    time, whatever the first says.
    """
    try:
        raw = same_text(wire.sign(fields, appsecret, "notify-only"), fields.get("sign"))
        encoded = same_text(wire.sign(fields, appsecret, "encode-all"), fields.get("sign"))
    except ValueError:  # half a surrogate pair
        return False
    return raw or encoded


# --- Readers ----------------------------------------------------------------------------------------------------------


def read_placed(reply: HttpReply, purchase: Purchase) -> Outcome:
    """Reads the answer to a purchase: the supplier's number in `result`, the charge in `other.price`."""
    match wire.read_envelope(reply, *wire.personal(purchase)):
        case wire.Success(result, other):
            reference = wire.reference(result)
            if reference is None:
                return Unclear("a success without the supplier's number")
            return Accepted(supplier_reference=reference, cost=amount(other.get("price")))
        case wire.Failure() as failure:
            return wire.refused(failure)
        case not_sent_or_unclear:
            return not_sent_or_unclear


def read_found(reply: HttpReply, purchase: Purchase) -> Outcome:
    """Reads the answer to a query. A failure text for an unknown number is not documented; assumed: it says so."""
    match wire.read_envelope(reply, *wire.personal(purchase)):
        case wire.Success({"out_order_id": str()} as order, _):
            return read_order(order, purchase)
        case wire.Success():
            return Unclear("a success whose result names no order of ours")
        case wire.Failure(message) as failure if wire.says_unknown_number(failure):
            return Absent(message)
        case wire.Failure(message):
            return Unclear(f"the query failed: {message}")
        case not_sent_or_unclear:
            return not_sent_or_unclear


def read_order(order: Mapping[str, object], purchase: Purchase) -> Outcome:
    """Reads an order by its state (sister manual, page dcsqy/8692089281308714).

    1 waits for a worker, 2 is being done, 7 is being matched; 3 succeeded, 4 is confirmed, 5 succeeded and is disputed;
    6 failed. That 6 comes with a refund to the balance is documented for take-downs only; assumed for the rest because
    the order is closed. How much came back isn't said.
    """
    if order["out_order_id"] != purchase.number:
        told = another("out_order_id", order["out_order_id"], purchase.number, purchase)
        return Unclear(told, doubt=Doubt.CONTRADICTION)
    if told := (
        wire.names_another(order, "order_id", purchase.supplier_reference, purchase)
        or wire.names_another(order, "card_id", purchase.supplier_product, purchase)
    ):
        return Unclear(told, doubt=Doubt.CONTRADICTION)
    reference = wire.reference(order.get("order_id"))
    price = amount(order.get("price"))
    match text(order.get("status")):
        case "1" | "2" | "7":
            return Accepted(supplier_reference=reference, cost=price)
        case "3":
            return Delivered(supplier_reference=reference, cost=price)
        case "4":
            return Delivered(supplier_reference=reference, cost=price, settled=True)
        case "5":
            disputed = AfterSale.DISPUTED
            return Delivered(supplier_reference=reference, cost=price, after_sale=disputed, detail="in dispute")
        case "6":
            return Refunded(cost=price, detail="closed without a recharge")
        case _:
            return Unclear("the order is in an unknown state")


def read_cancelled(reply: HttpReply, purchase: Purchase) -> CancelAnswer:
    """Reads the answer to a cancel (sister manual, page dcsqy/8755792839336977): success takes the order down at once,
    and `price` is what came back, in whole fen. A failure in words leaves the order as it is.
    """
    match wire.read_envelope(reply, *wire.personal(purchase)):
        case wire.Success({"out_order_id": str(number)} as result, _) if number == purchase.number:
            if told := wire.names_another(result, "order_id", purchase.supplier_reference, purchase):
                return Unclear(told, doubt=Doubt.CONTRADICTION)
            return Cancelled(refund=fen_amount(result.get("price")), detail="taken down")
        case wire.Success({"out_order_id": str(number)}, _):
            return Unclear(another("out_order_id", number, purchase.number, purchase), doubt=Doubt.CONTRADICTION)
        case wire.Success():
            return Unclear("a success whose result names no order of ours")
        case wire.Failure(message) as failure if wire.says_try_later(failure):
            return Unclear(f"the cancel failed: {message}")
        case wire.Failure(message):
            return CancelRefused(detail=f"code 0: {message}")
        case not_sent_or_unclear:
            return not_sent_or_unclear


# --- Products ---------------------------------------------------------------------------------------------------------


def read_product(entry: Mapping[str, object]) -> SupplierProduct | None:
    """One product; `None` without its number.

    `avg` is how many seconds orders take on average, 0 that nobody takes them. A stock of 0 keeps nobody from ordering:
    the order waits for a worker (sister manual, page dcsqy/8771496202910907). `price` and the meaning of 0 are what a
    public client of the sister brand reads.
    """
    number, average = wire.product_number(entry), count(entry.get("avg"))
    if number is None:
        return None
    return SupplierProduct(
        number=number,
        name=wire.product_name(entry),
        price=amount(entry.get("price")),
        stock=count(entry.get("num")),
        on_sale=None if average is None else 0 < average <= SLOWEST_AVERAGE,
        details=known_details(
            average_seconds="" if average is None else str(average),
            account_type=scrub(entry.get("account_type")),
            recharge_type=scrub(entry.get("recharge_type")),
            buy_remark=scrub(entry.get("buy_remark")),
        ),
    )


ADAPTER = Adapter(config=Config, supplier=Kaquan91Recharge)
