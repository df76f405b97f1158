"""91 Kaquan (玖壹卡券), card purchase: activation codes, numbered cards, QR pictures and links, delivered at once.

Quirks:

* The cards are in the answer to the purchase, and a query by our number lists them again. No callbacks, no cancel.
* What `card_num` and `card_pass` mean depends on the card's `type`, and `type` may be missing: the offer's `card_type`
  fills in. For type 3 `card_num` is the *secret* and `card_pass` the address.
* Every card has a platform number (`order_id`) and a state of its own; `pay_order_id` covers all of a purchase's cards
  but is missing from query answers.
* A failure is `code` 0 with a free text, also for a repeated number: a refusal is never certain.
* `order_money` limits the *total*, warranty surcharge included, and 0 means "no limit": 0 is never sent.
* `code` 1 with fewer cards than ordered, or with none, is not an error: more may come.
* A card's state goes on after delivery: its warranty ends, it is disputed, or it is cancelled.
* Paging fields of the product list are sent beside the signature, never under it.
* Numbers that look like dates aren't (the manual's sample contradicts itself by a year).

Source: 91 manual, page dc91/11233731352824825 (purchase, states, card types); sister manual, pages
dcsqy/9288914985807742 (query), dcsqy/11545294945873014 (product list) and dcsqy/9288915659898705 (one product).
Signature, envelope and deposit: `_kaquan91`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, TypeAlias
from zoneinfo import ZoneInfo

from reward_adapters import _kaquan91 as wire
from reward_adapters._wire import amount, count, known_details, scrub, text, title
from reward_adapters.contract import (
    Absent,
    Accepted,
    Adapter,
    AfterSale,
    Call,
    Callback,
    Card,
    CardKind,
    Context,
    Delivered,
    Doubt,
    HttpReply,
    HttpRequest,
    Listing,
    NotOffered,
    NotSent,
    Outcome,
    ProductKind,
    Purchase,
    Refunded,
    Refused,
    RefusedFor,
    SupplierProduct,
    Traits,
    Unclear,
    secret,
)
from reward_adapters.money import UNITS_PER_FEN, Money, format_yuan, show_yuan

PLACE = "/dcapi/card/payOrder"
QUERY = "/dcapi/card/queryOrder"
LIST = "/dcapi/card/queryCardList"
"""Source: sister manual, page dcsqy/11545294945873014. `queryCard`, which it replaces, was withdrawn in 2024."""
DETAIL = "/dcapi/card/queryCardDetail"
"""Source: sister manual, page dcsqy/9288915659898705."""

KINDS: Mapping[str, CardKind] = {
    "0": CardKind.CODE,
    "1": CardKind.NUMBER_AND_SECRET,
    "2": CardKind.QR,
    "3": CardKind.LINK_AND_SECRET,
    "4": CardKind.LINK,
}
CARD_TYPES = tuple(KINDS)
"""Values of the offer parameter `card_type`; `read_card` says what they mean."""

CardType: TypeAlias = Literal["0", "1", "2", "3", "4", 0, 1, 2, 3, 4]

SURCHARGES: Mapping[str, Decimal] = {
    "10": Decimal("0.15"),
    "12": Decimal("0.3"),
    "24": Decimal("0.6"),
    "48": Decimal("1.5"),
}
"""Hours of warranty and what they add to the price, in percent (91 manual, page dc91/11233731352824825)."""

_HOURS = re.compile(r"[1-9][0-9]{0,3}")
_UNIX_SECONDS = re.compile(r"[0-9]{9,10}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")

LONGEST_PAUSE = 86_400.0
LONGEST_WARRANTY = 48 * 3600.0
"""Of the manual's table (91 manual, page dc91/11233731352824825). Cards that say when theirs ends go by that."""

PRICES_SHOWN = 10
"""More prices of one product than these are left out."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The keys of one account."""

    base_url: str
    appid: str
    appsecret: str = secret()
    timezone: str = "Asia/Shanghai"
    """The zone of the supplier's times. Not documented; assumed because supplier and platform are Chinese."""
    order_path: str = PLACE
    query_path: str = QUERY
    sign_value_encoding: wire.SignEncoding = "notify-only"
    """`notify-only` is the manual's wording; `encode-all` is what a public client of the sister brand does."""
    auto_confirm_hour: int = 10
    """Hours of warranty when the offer's `auto_confirm_hour` is silent: the shortest and cheapest of the manual's
    table. That a product allows it is not documented; assumed because the manual uses 10 as its example."""
    surcharge_table: Mapping[str, Decimal] = field(default_factory=lambda: dict(SURCHARGES))
    """The hours that may be bought, with their surcharge in percent; others are refused before anything is sent."""
    surcharge_rounding: Literal["half-up", "half_up", "half-even", "half_even", "up", "down"] = "half-up"
    """How the supplier rounds the surcharge. No effect: what offers say they cost has the surcharge in it."""
    card_type_by_product: Mapping[str, CardType] = field(default_factory=dict)
    """The card type of a `card_id`, for offers without a `card_type` of their own."""
    empty_result_poll_plan: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 60.0)
    """Pauses in seconds between looks, the last one repeats; the account's `poll_plan` wins."""
    send_zero_order_money: bool = False
    """Only false: 0 would switch the price check off."""
    query_after_reject: bool = True
    """Only true: a refusal by text is always looked into, for a repeated number is refused so too."""
    confirm_by_query: bool = True
    """Only true: card orders have no callbacks, and none could move an order by itself."""
    notify_url_wire: wire.NotifyUrlWire = "plain"
    """No effect on card orders, like the next three: they belong to fields that only recharges have."""
    money_type: wire.MoneyType = "2"
    money_scope: wire.MoneyScope = "total"
    check_stock: bool = False

    def __post_init__(self) -> None:
        wire.only("send_zero_order_money", self.send_zero_order_money, False, "0 would switch the price check off")
        wire.only("query_after_reject", self.query_after_reject, True, "a refusal by text proves nothing")
        wire.only("confirm_by_query", self.confirm_by_query, True, "callbacks never move an order by themselves")
        for hours, percent in self.surcharge_table.items():
            if not _HOURS.fullmatch(hours) or percent < 0:
                raise ValueError("surcharge_table names whole hours and percents that aren't negative")
        if not self.empty_result_poll_plan or not all(
            0 < pause <= LONGEST_PAUSE for pause in self.empty_result_poll_plan
        ):
            raise ValueError("empty_result_poll_plan needs pauses above 0 and of a day at most")


class Kaquan91Card:
    """One account for card purchases."""

    traits: Traits = Traits(
        queryable=True,
        max_units_per_purchase=100,  # not documented; assumed because the manual names no limit
        read_timeout=60.0,  # not documented; assumed because a public client of the sister brand waits as long
        not_found_grace=60.0,  # not documented; assumed because cards come at once: a minute is long
        look_delays=(1.0, 3.0, 10.0, 30.0, 60.0),  # as in `Config.empty_result_poll_plan`
        aftersale_watch=LONGEST_WARRANTY,
        send_by={ProductKind.CARD: 900.0, ProductKind.COUPON: 900.0},
        settle_by={ProductKind.CARD: 900.0, ProductKind.COUPON: 900.0},
    )

    def __init__(self, config: Config) -> None:
        self._config = config
        self._zone = ZoneInfo(config.timezone)
        self.traits = replace(type(self).traits, look_delays=config.empty_result_poll_plan)

    def place(self, purchase: Purchase, context: Context) -> Call[Outcome] | Refused:
        """Buys the cards. Refused here, before any money is at stake, when the offer lacks what delivery needs."""
        purchase = self._completed(purchase)
        limit = Money(purchase.unit_limit * purchase.quantity)
        hours = purchase.parameters["auto_confirm_hour"]
        if purchase.parameters.get("card_type") not in CARD_TYPES:
            return _unfit("card_type", f"the offer's card_type must be one of {', '.join(CARD_TYPES)}")
        if hours not in self._config.surcharge_table:
            allowed = ", ".join(self._config.surcharge_table)
            return _unfit("auto_confirm_hour", f"the offer's auto_confirm_hour must be one of {allowed}")
        if limit < UNITS_PER_FEN:
            return Refused(code="order_money", message="the limit is below 0.01", certain=True, about=RefusedFor.PRICE)
        fields = {
            "appid": self._config.appid,
            "card_id": purchase.supplier_product,
            "num": str(purchase.quantity),
            "auto_confirm_hour": hours,
            "out_order_id": purchase.number,
            "order_money": format_yuan(limit),
        }
        return Call(self._post(self._config.order_path, fields), lambda reply: read_placed(reply, purchase, self._zone))

    def query(self, purchases: Sequence[Purchase], context: Context) -> Call[Mapping[str, Outcome]]:
        """Asks by our number, the only one that the call takes."""
        (asked,) = purchases
        purchase = self._completed(asked)
        fields = {"appid": self._config.appid, "out_order_id": purchase.number}
        request = self._post(self._config.query_path, fields)
        return Call(request, lambda reply: {purchase.number: read_found(reply, purchase, self._zone)})

    def read_callback(self, callback: Callback) -> NotOffered:
        """Card orders have no callbacks."""
        return NotOffered("callbacks")

    def cancel(self, purchase: Purchase, context: Context) -> NotOffered:
        """Cards are bought at once: no page takes an order back."""
        return NotOffered("cancelling")

    def fetch_token(self, context: Context) -> NotOffered:
        """Requests are signed; there are no tokens."""
        return NotOffered("access tokens")

    def balance(self, context: Context) -> Call[Money | NotSent | Unclear]:
        """Cards and recharges share one deposit."""
        return Call(self._post(wire.BALANCE, {"appid": self._config.appid}), wire.read_balance)

    def products(self, context: Context, *, page: int = 1) -> Call[Listing | NotSent | Unclear]:
        """The list shows only the lowest price on sale and the stock at it."""
        paging = {"pageIndex": str(page), "pageSize": str(wire.PAGE_SIZE)}
        request = self._post(LIST, {"appid": self._config.appid}, paging)
        return Call(request, lambda reply: wire.read_listing(reply, read_product, page))

    def product(self, number: str, context: Context) -> Call[SupplierProduct | Absent | NotSent | Unclear]:
        """One product with its hours of warranty and its prices."""
        request = self._post(DETAIL, {"appid": self._config.appid, "card_id": number})
        return Call(request, lambda reply: wire.read_product(reply, read_product, number))

    def order_form(self, number: str, context: Context) -> NotOffered:
        """Cards need nothing from the buyer."""
        return NotOffered("order forms")

    def _completed(self, purchase: Purchase) -> Purchase:
        """The purchase with the account's values for what its offer doesn't say."""
        said = {"auto_confirm_hour": str(self._config.auto_confirm_hour)}
        if purchase.supplier_product in self._config.card_type_by_product:
            said["card_type"] = str(self._config.card_type_by_product[purchase.supplier_product])
        return replace(purchase, parameters={**said, **purchase.parameters})

    def _post(self, path: str, fields: Mapping[str, str], unsigned: Mapping[str, str] | None = None) -> HttpRequest:
        signature = wire.sign(fields, self._config.appsecret, self._config.sign_value_encoding)
        return wire.request(self._config.base_url, path, {**fields, **(unsigned or {}), "sign": signature})


def _unfit(code: str, message: str) -> Refused:
    return Refused(code=code, message=message, certain=True, about=RefusedFor.PRODUCT)


# --- Readers ----------------------------------------------------------------------------------------------------------


def read_placed(reply: HttpReply, purchase: Purchase, zone: tzinfo) -> Outcome:
    """Reads the answer to a purchase."""
    match wire.read_envelope(reply, *wire.personal(purchase)):
        case wire.Success(result, other):
            return read_cards(result, other, purchase, zone)
        case wire.Failure() as failure:
            return wire.refused(failure)
        case not_sent_or_unclear:
            return not_sent_or_unclear


def read_found(reply: HttpReply, purchase: Purchase, zone: tzinfo) -> Outcome:
    """Reads the answer to a query.

    How an unknown number is answered is not documented; assumed: an empty list, or a failure that says so. An empty
    list for a purchase that was paid for (`pay_order_id` is known) says no more than that its cards are late.
    """
    match wire.read_envelope(reply, *wire.personal(purchase)):
        case wire.Success([], _) if purchase.supplier_reference:
            return Accepted(detail="no card yet")
        case wire.Success([], _):
            return Absent("an empty list")
        case wire.Success(result, other):
            return read_cards(result, other, purchase, zone)
        case wire.Failure(message) as failure if wire.says_unknown_number(failure):
            return Absent(message)
        case wire.Failure(message):
            return Unclear(f"the query failed: {message}")
        case not_sent_or_unclear:
            return not_sent_or_unclear


class NoCard(Enum):
    """An entry of the list that is no card to hand over."""

    NOT_YET = "not yet"


def read_cards(result: Any, other: Mapping[str, Any], purchase: Purchase, zone: tzinfo) -> Outcome:
    """Reads the list of cards, a single one of which may stand there without its list."""
    entries = [result] if isinstance(result, dict) else result
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return Unclear("a success whose result is no list of cards")
    for said in (other, *entries):
        if told := (
            wire.names_another(said, "card_id", purchase.supplier_product, purchase)
            or wire.names_another(said, "out_order_id", purchase.number, purchase)
            or wire.names_another(said, "pay_order_id", purchase.supplier_reference, purchase)
        ):
            return Unclear(told, doubt=Doubt.CONTRADICTION)

    listed: dict[Card, None] = {}  # in the supplier's order; an entry that is listed twice is one card
    cancelled: dict[str, Money | None] = {}
    for entry in entries:
        match read_entry(entry, other, purchase, zone):
            case Card() as card:
                listed[card] = None
                if card.after_sale is AfterSale.REVERSED:
                    cancelled[card.supplier_card_number or f"#{len(cancelled)}"] = amount(entry.get("money"))
            case Unclear() as unclear:
                return unclear
    numbers = [card.supplier_card_number for card in listed if card.supplier_card_number]
    if len(numbers) != len(set(numbers)):
        told = f"{len(numbers)} cards have only {len(set(numbers))} different order_id"
        return Unclear(told, doubt=Doubt.CONTRADICTION)

    paid_as = wire.reference(other.get("pay_order_id"))
    good = [card for card in listed if card.after_sale is not AfterSale.REVERSED]
    # A cancelled card that has no number can't be told apart from the others: there is nothing to mark.
    cards = tuple(card for card in listed if card.supplier_card_number or card.after_sale is not AfterSale.REVERSED)
    if len(good) >= purchase.quantity:
        cost = total([card.unit_cost for card in good])
        final = {text(entry.get("status")) for entry in entries} <= FINAL
        return Delivered(cards=cards, cost=cost, settled=final, supplier_reference=paid_as)
    if good:
        return Delivered(cards=cards, complete=False, supplier_reference=paid_as, detail="fewer than ordered")
    if len(cancelled) >= purchase.quantity:
        return Refunded(cost=total([*cancelled.values()]), detail="every card was cancelled")
    return Accepted(supplier_reference=paid_as, detail="no card yet")


IN_WARRANTY, DONE, DISPUTED, DISPUTE_OVER, CANCELLED = "2", "3", "4", "5", "6"
"""States of a card (91 manual, page dc91/11233731352824825)."""
FINAL = frozenset({DONE, CANCELLED})
"""After these no other comes. Not documented; assumed because the warranty is over or the money is back."""
AFTER_SALE: Mapping[str, AfterSale | None] = {
    IN_WARRANTY: AfterSale.WARRANTY,
    DONE: None,
    DISPUTED: AfterSale.DISPUTED,
    DISPUTE_OVER: AfterSale.CLOSED_UNCLEAR,  # who won isn't said
}


def read_entry(
    entry: Mapping[str, Any], other: Mapping[str, Any], purchase: Purchase, zone: tzinfo
) -> Card | NoCard | Unclear:
    """Reads one entry by its state.

    All states of `AFTER_SALE` are of cards that were delivered. A cancelled one must not be handed over: nothing of it
    is kept but its number. 1 and others aren't documented; assumed to mean that the card isn't there yet.
    """
    state, card_type = text(entry.get("status")), text(entry.get("type")) or purchase.parameters.get("card_type", "")
    number = wire.reference(entry.get("order_id")) or ""
    if state == CANCELLED:
        kind = KINDS.get(card_type, CardKind.CODE)
        return Card(kind=kind, supplier_card_number=number, after_sale=AfterSale.REVERSED)
    if state not in AFTER_SALE:
        return NoCard.NOT_YET if state else Unclear("a card without a state")
    card = read_card(entry, card_type)
    if not isinstance(card, Card):
        return card
    bought = entry.get("create_time") or other.get("create_time")
    return replace(
        card,
        unit_cost=amount(entry.get("money")),
        supplier_card_number=number,
        after_sale=AFTER_SALE[state],
        warranty_until=warranty_end(bought, purchase.parameters.get("auto_confirm_hour", ""), zone)
        if state == IN_WARRANTY
        else None,
    )


def read_card(entry: Mapping[str, Any], card_type: str) -> Card | NoCard | Unclear:
    """Reads the two columns by the card's type (91 manual, page dc91/11233731352824825).

    A column that must hold something and doesn't means that the card isn't there yet.
    """
    match _column(entry, "card_num"), _column(entry, "card_pass"):
        case str(number), str(password):
            pass
        case _:
            return Unclear("a card whose columns aren't text")
    match card_type, bool(number.strip()), bool(password.strip()):
        case "0", True, _:
            # `card_pass` is said to be empty here; should anything stand in it, it reaches the buyer too.
            return Card(kind=KINDS[card_type], secret=number, instructions=password)
        case "1", _, True:
            return Card(kind=KINDS[card_type], number=number, secret=password)
        case ("2", True, _) | ("2", _, True):
            return Card(kind=KINDS[card_type], qr_image_url=number, qr_content=password)
        case "3", True, _:
            return Card(kind=KINDS[card_type], secret=number, link=password)
        case "4", True, _:
            return Card(kind=KINDS[card_type], link=number, instructions=password)
        case kind, _, _ if kind in CARD_TYPES:
            return NoCard.NOT_YET
        case _:
            return Unclear("a card of an unknown type", alert=True)


def _column(entry: Mapping[str, Any], name: str) -> str | None:
    """A column's text; empty when missing or null, `None` for what can't be stored as it came.

    A number isn't accepted as text: leading zeros would be lost already.
    """
    match entry.get(name):
        case None:
            return ""
        case str(column) if not any("\ud800" <= c <= "\udfff" for c in column):
            return column
        case _:
            return None


def total(amounts: Sequence[Money | None]) -> Money | None:
    """The sum, if every amount is known."""
    known = [each for each in amounts if each is not None]
    return Money(sum(known)) if len(known) == len(amounts) else None


def warranty_end(bought: object, hours: str, zone: tzinfo) -> datetime | None:
    """When the warranty ends: that many hours after the purchase.

    The purchase's time comes as `2022-08-26 21:25:00` (91 manual, page dc91/11233731352824825). Unix seconds aren't
    documented; assumed possible because a public client of the sister brand reads them.
    """
    said = text(bought)
    try:
        if _UNIX_SECONDS.fullmatch(said):
            start = datetime.fromtimestamp(int(said), zone)
        elif _TIME.fullmatch(said):
            # A tenth of what `strptime` takes, which works out its format anew for every card.
            start = datetime.fromisoformat(said).replace(tzinfo=zone)
        else:
            start = datetime.strptime(said, "%Y-%m-%d %H:%M:%S").replace(tzinfo=zone)
        return start + timedelta(hours=int(hours))
    except (ValueError, OverflowError):
        return None


# --- Products ---------------------------------------------------------------------------------------------------------


def read_product(entry: Mapping[str, Any]) -> SupplierProduct | None:
    """One product; `None` without its number.

    The pages are cut short: `id`, `name`, `card_name`, `num`, `type`, `typeName` and `priceList` are what a public
    client of the sister brand reads, `auto_confirm_hour` is named by the 91 manual, `current_price` by the sister
    manual's notice of prices (page dcsqy/11395714531338418). With nothing in stock the price list may be empty.
    """
    number = wire.product_number(entry)
    if number is None:
        return None
    prices = read_prices(entry.get("priceList"))
    direct = [entry.get("price"), entry.get("current_price")]
    known = [price for price in map(amount, direct) if price is not None] or [price for price, _ in prices]
    stock = count(entry.get("num"))
    return SupplierProduct(
        number=number,
        name=wire.product_name(entry),
        price=min(known, default=None),
        stock=count(entry.get("current_price_num")) if stock is None else stock,
        details=known_details(
            card_type=scrub(entry.get("type")),
            card_type_name=scrub(entry.get("typeName")),
            auto_confirm_hour=read_hours(entry.get("auto_confirm_hour")),
            price_list=", ".join(show_price(price, left) for price, left in prices[:PRICES_SHOWN]),
        ),
    )


def read_prices(listed: object) -> list[tuple[Money, int | None]]:
    """Unit prices, lowest first, with how many cards there are at each, where it is said."""
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    prices = [
        (price, count(entry.get("num"))) for entry in entries if (price := amount(entry.get("price"))) is not None
    ]
    return sorted(prices, key=lambda each: each[0])


def show_price(price: Money, left: int | None) -> str:
    """A price for people, as in `4.20 (15 left)`."""
    return show_yuan(price) if left is None else f"{show_yuan(price)} ({left} left)"


def read_hours(listed: object) -> str:
    """Hours of warranty for people. The form of the field isn't documented: a list, a number and a text are read."""
    return title(", ".join(filter(None, map(text, listed))) if isinstance(listed, list) else listed)


ADAPTER = Adapter(config=Config, supplier=Kaquan91Card)
