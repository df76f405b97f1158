"""What `rewardctl` prints: tables for people, JSON lines for programs."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from google.protobuf import json_format, message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import date_pb2, money_pb2
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rewardservice._tables import Column, Fitted
from rewardservice.errors import RewardError
from rewardservice.events import Snapshot, SnapshotEnd, Update
from rewardservice.v1 import catalog_service_pb2 as catalog
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb
from rewardservice.values import decimal_yuan, is_terminal, state_name

_WIDE = 160
"""Columns of a table that goes to a file."""
_TELL_EVERY = 30.0
"""Seconds between two lines about a server that stays away."""
_KEPT = 10_000
"""Orders that an endless display remembers."""
_log = logging.getLogger("rewardservice")
_FAILED = {order_pb2.ORDER_STATE_FAILED, order_pb2.ORDER_STATE_CANCELLED, order_pb2.ORDER_STATE_PARTIALLY_FULFILLED}
_UNDECIDED = {order_pb2.ORDER_STATE_OUTCOME_UNKNOWN, order_pb2.ORDER_STATE_NEEDS_REVIEW}


class Output:
    """Standard output in the chosen form. `form` None means: tables on a terminal, JSON otherwise."""

    def __init__(self, form: Literal["table", "json"] | None) -> None:
        terminal = sys.stdout.isatty()
        self.json = form == "json" or (form is None and not terminal)
        self.console = Console(
            file=sys.stdout,
            highlight=False,
            markup=False,
            emoji=False,
            width=None if terminal else int(os.environ.get("COLUMNS") or _WIDE),
        )
        self.live = self.console.is_terminal and not self.json

    def message(self, what: message.Message) -> None:
        """One proto-JSON object on a line of its own; fields keep their names, and empty ones are there."""
        self.line(
            json_format.MessageToJson(
                what,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
                ensure_ascii=False,
                indent=None,
            )
        )

    def line(self, text: str) -> None:
        """One line, at once: the reader may be waiting for it."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def table(self, table: Fitted) -> None:
        """A table for people."""
        self.console.print(table)

    def text(self, text: Text) -> None:
        """One line for people. It is never folded: what is in it can be copied."""
        self.console.print(text, soft_wrap=True)

    def fields(self, rows: Iterable[tuple[str, str | Text]]) -> None:
        """Named values, one a line; empty ones are left out."""
        shown = [(name, value) for name, value in rows if value]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.text(Text.assemble((f"{name:<{width}}  ", "dim"), value))

    def below(self, board: "Board") -> None:
        """What has no room in a board's table."""
        for text in board.below():
            self.text(text)


def complain(text: str) -> None:
    """One line to standard error."""
    sys.stderr.write(f"rewardctl: {clean(text)}\n")
    sys.stderr.flush()


def as_message(event: Snapshot | Update | SnapshotEnd) -> pb.StreamOrderUpdatesResponse:
    """The event as the message of the contract that it came from."""
    if isinstance(event, Snapshot):
        return pb.StreamOrderUpdatesResponse(snapshot=pb.OrderSnapshot(order=event.order))
    if isinstance(event, SnapshotEnd):
        return pb.StreamOrderUpdatesResponse(snapshot_end=pb.SnapshotEnd(resume_token=event.resume_token))
    return pb.StreamOrderUpdatesResponse(update=pb.OrderUpdate(order=event.order, resume_token=event.resume_token))


class Progress:
    """Orders on their way: a table that is redrawn on a terminal, else a line per update.

    The table appears with the first order, and lost streams are told here too: `explain` puts an error in words.
    """

    def __init__(self, output: Output, board: "Board", *, explain: "Explain", redraw: bool = True) -> None:
        self._output = output
        self._board = board
        self._losses = Losses(explain, has_worked=lambda: bool(board.orders), say=self._tell)
        self._live: Live | None = (
            Live(
                console=output.console,
                get_renderable=self._display,
                refresh_per_second=4,
                vertical_overflow="visible",
            )
            if output.live and redraw
            else None
        )

    def __enter__(self) -> Self:
        _log.addHandler(self._losses)
        if not self._board.is_empty():
            self._redraw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _log.removeHandler(self._losses)
        if self._live is not None and self._live.is_started:
            self._live.refresh()
            self._live.stop()
            self._output.below(self._board)

    def show(self, order: order_pb2.Order, what: message.Message) -> None:
        """An order changed; `what` is the message that said so. Older news than what is shown changes nothing."""
        news = self._board.put(order)
        if self._live is not None:
            self._redraw()
        elif self._output.json:
            self._output.message(what)
        elif news:
            self._output.line(self._board.line(order))

    def _tell(self, text: str) -> None:
        if self._live is None:
            complain(text)
        else:
            self._redraw()

    def _redraw(self) -> None:
        if self._live is not None and not self._live.is_started:
            self._live.start(refresh=True)
        elif self._live is not None:
            self._live.refresh()

    def _display(self) -> Group:
        loss = self._losses.present()
        return Group(
            *([] if self._board.is_empty() else [self._board.table()]),
            *([Text(clean(loss), style="yellow")] if loss else []),
        )


class Explain(Protocol):
    """Puts an error in words; `new` is whether the server never answered before."""

    def __call__(self, error: RewardError, /, *, new: bool) -> str: ...


class Losses(logging.Handler):
    """Tells of a lost stream: at once, then every half a minute, and when it is back."""

    def __init__(
        self,
        explain: Explain,
        *,
        has_worked: Callable[[], bool],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._explain = explain
        self._has_worked = has_worked
        self._say = say
        self._clock = clock
        self._since: float | None = None
        self._told = 0.0
        self._why = ""

    def emit(self, record: logging.LogRecord) -> None:
        state, error = getattr(record, "stream", ""), getattr(record, "error", None)
        now = self._clock()
        if state == "lost" and isinstance(error, RewardError):
            self._why = self._explain(error, new=not self._has_worked())
            if self._since is None:
                self._since = self._told = now
                self._say(f"stream lost: {self._why}; connecting again")
            elif now - self._told >= _TELL_EVERY:
                self._told = now
                self._say(self.present())
        elif state == "back" and self._since is not None:
            self._since = None
            self._say("stream is back")

    def present(self) -> str:
        """For a display that is drawn again and again: what is wrong just now, or nothing."""
        if self._since is None:
            return ""
        return f"no stream for {self._clock() - self._since:.0f} s: {self._why}; connecting again"


class Board:
    """The orders of a progress display, by order id."""

    def __init__(self, *, show_cards: bool) -> None:
        self.orders: dict[str, order_pb2.Order] = {}
        self._show_cards = show_cards

    def is_empty(self) -> bool:
        """Whether the table has no rows yet."""
        return not self.orders

    def put(self, order: order_pb2.Order) -> bool:
        """Keeps the newest version of an order; returns whether it was this one."""
        known = self.orders.get(order.order_id)
        if known is not None and known.version >= order.version:
            return False
        self.orders[order.order_id] = order
        if len(self.orders) > _KEPT:
            del self.orders[next(iter(self.orders))]
        return True

    def table(self) -> Fitted:
        """The orders as they are now."""
        # The display is redrawn in a thread of its own: it gets a copy.
        return orders_table(list(self.orders.values()))

    def line(self, order: order_pb2.Order) -> str:
        """One update in words."""
        return order_line(order, show_cards=self._show_cards)

    def below(self) -> Iterator[Text]:
        """What stands below the table at the end: why orders failed or wait for a person, and cards to copy."""
        for order in self.orders.values():
            if why := why_text(order):
                yield Text.assemble(order.order_id, "  ", (why, _colour(order)))
        if self._show_cards:
            for order in self.orders.values():
                yield from cards_lines(order)


def order_line(order: order_pb2.Order, *, show_cards: bool) -> str:
    """One update in words."""
    parts = [
        _time(order.update_time),
        order.order_id,
        clean(order.product_id),
        f"v{order.version}",
        state_name(order.state),
        f"{order.delivered_quantity}/{order.quantity}",
        why_text(order),
        *(card_text(card) for card in order.cards if show_cards),
    ]
    return "  ".join(part for part in parts if part)


def orders_table(orders: Iterable[order_pb2.Order]) -> Fitted:
    """One row per order."""
    table = Fitted(
        Column("ORDER"),
        Column("CLIENT ORDER ID", leaves=3, least=8),
        Column("PRODUCT"),
        Column("STATE"),
        Column("DELIVERED", leaves=2),
        Column("UPDATED", leaves=4),
        Column("CARDS", leaves=1),
    )
    for order in orders:
        table.add_row(
            order.order_id,
            clean(order.client_order_id),
            clean(order.product_id),
            state_text(order),
            f"{order.delivered_quantity}/{order.quantity}",
            _short_time(order.update_time),
            cards_text(order),
        )
    return table


def print_order(output: Output, order: order_pb2.Order, *, show_cards: bool) -> None:
    """Everything about one order: its fields, its purchases if the view has them, its cards."""
    count = len(order.cards)
    hidden = Text(f"{count} card{'s' if count > 1 else ''} (--show-cards)", style="dim") if count else ""
    output.fields(
        (
            ("order", order.order_id),
            ("client order id", clean(order.client_order_id)),
            ("product", f"{clean(order.product_id)} × {order.quantity}"),
            ("recipient", recipient_text(order.recipient)),
            ("state", state_text(order)),
            ("version", str(order.version)),
            ("created", _time(order.create_time)),
            ("updated", _time(order.update_time)),
            ("delivered", f"{order.delivered_quantity} of {order.quantity}"),
            ("limit per unit", _money(order.max_unit_price) if order.HasField("max_unit_price") else ""),
            ("cost", _money(order.total_cost) if order.HasField("total_cost") else ""),
            ("failure", failure_text(order) if order.HasField("failure") else ""),
            ("in review for" if _in_review(order) else "to be looked at", review_text(order)),
            ("after sale", after_sale_text(order.after_sale)),
            ("cancel wished", _time(order.cancel_requested_time)),
            ("settled", _time(order.settled_time)),
            ("parameters", _pairs(dict(order.supplier_parameters))),
            ("metadata", _pairs(dict(order.metadata))),
            ("cards", "" if show_cards else hidden),
        )
    )
    if order.offers:
        _print_offers(output, order)
    if order.purchases:
        _print_purchases(output, order)
    if show_cards:
        for line in cards_lines(order):
            output.text(line)


def _print_offers(output: Output, order: order_pb2.Order) -> None:
    """Why it was bought where it was."""
    output.text(Text("offers in the order in which they are tried", style="bold"))
    for place, offer in enumerate(order.offers, start=1):
        use = enum_name(order_pb2.OfferUse, offer.use)
        price = f"{_money(offer.unit_cost)} a unit, at most {_money(offer.unit_limit)}"
        name = f"{clean(offer.supplier)} {clean(offer.supplier_product)}"
        output.text(Text(f"  {place}. {name}, {price}: {use}: {clean(offer.why)}"))


def _purchase_facts(purchase: order_pb2.Purchase) -> Iterator[str]:
    """When it was sent and why not before, what it waits for, until when, and what is known of the looks at it."""
    for attempt in purchase.attempts:
        waited = f"waited since {_time(attempt.waited_since)} for {clean(attempt.waited_for)}"
        yield f"attempt at {_time(attempt.time)}, {waited if attempt.waited_for else 'made at once'}"
    if purchase.waits_for:
        yield f"waits for {clean(purchase.waits_for)}"
    deadlines = [("sent by", purchase.send_deadline), ("settled by", purchase.settle_deadline)]
    if told := [f"{name} {_time(time)}" for name, time in deadlines if time.seconds]:
        yield f"to be {', '.join(told)}"
    looks = [f"{purchase.looks} looks" if purchase.looks != 1 else "1 look"] if purchase.looks else []
    if purchase.last_look_time.seconds:
        looks.append(f"the last at {_time(purchase.last_look_time)}: {clean(purchase.last_look)}")
    if purchase.next_look_time.seconds:
        looks.append(f"the next at {_time(purchase.next_look_time)}")
    if looks:
        yield ", ".join(looks)
    if purchase.HasField("failure"):
        reason = enum_name(order_pb2.FailureReason, purchase.failure.reason)
        yield f"dead: {reason}: {clean(purchase.failure.message)}".removesuffix(": ")


def _print_purchases(output: Output, order: order_pb2.Order) -> None:
    purchases = Fitted(
        Column("PURCHASE"),
        Column("SUPPLIER"),
        Column("PRODUCT", leaves=3),
        Column("UNITS", leaves=2),
        Column("STATE"),
        Column("SENDS", leaves=1),
    )
    for purchase in order.purchases:
        purchases.add_row(
            clean(purchase.number),
            clean(purchase.supplier),
            clean(purchase.supplier_product),
            str(purchase.quantity),
            enum_name(order_pb2.PurchaseState, purchase.state),
            str(purchase.sends),
        )
    output.table(purchases)
    for purchase in order.purchases:
        facts = [
            f"the supplier's number {clean(purchase.supplier_reference)}" if purchase.supplier_reference else "",
            f"charged {_money(purchase.cost)}" if purchase.HasField("cost") else "",
            f"returned {_money(purchase.refunded)}" if purchase.HasField("refunded") else "",
        ]
        told = ", ".join(fact for fact in facts if fact)
        lines = list(_purchase_facts(purchase))
        if lines:
            output.text(Text(f"purchase {clean(purchase.number)}", style="bold"))
        for line in lines:
            output.text(Text(f"  {line}"))
        if purchase.evidence or told:
            output.text(Text(f"evidence for {clean(purchase.number)}" + (f": {told}" if told else ""), style="bold"))
        for e in purchase.evidence:
            output.text(Text(f"  {_time(e.time)} {clean(e.source)}: {clean(e.outcome)} {clean(e.detail)}".rstrip()))
        for item in purchase.review_items:
            reason = enum_name(order_pb2.ReviewReason, item.reason)
            output.text(Text(f"  {_time(item.open_time)} to be looked at: {reason}: {clean(item.detail)}"))
        if purchase.answers:
            output.text(Text(f"answers kept for {clean(purchase.number)}", style="bold"))
        for kept in purchase.answers:
            output.text(Text(f"  {_time(kept.time)} {clean(kept.source)}, {kept.size} bytes: {clean(kept.outline)}"))


def products_table(products: Iterable[catalog.Product]) -> Fitted:
    """One row per product."""
    table = Fitted(
        Column("PRODUCT"),
        Column("NAME", least=20, folds=True),
        Column("KIND", leaves=3),
        Column("FACE VALUE", leaves=2),
        Column("PRICE"),
        Column("RECIPIENT"),
        Column("FORM", leaves=1),
        Column("ORDERABLE"),
    )
    for product in products:
        form = ", ".join(f"{clean(f.key)}{'*' if f.required else ''}" for f in product.form)
        table.add_row(
            clean(product.product_id),
            clean(product.name),
            enum_name(order_pb2.ProductKind, product.kind),
            _money(product.face_value),
            _money(product.price),
            enum_name(catalog.RecipientKind, product.recipient_kind),
            form,
            _orderable_text(product),
        )
    return table


def print_product(output: Output, product: catalog.Product) -> None:
    """Everything about one product."""
    output.fields(
        (
            ("product", clean(product.product_id)),
            ("name", clean(product.name)),
            ("kind", enum_name(order_pb2.ProductKind, product.kind)),
            ("face value", _money(product.face_value)),
            ("price", _money(product.price)),
            ("recipient", enum_name(catalog.RecipientKind, product.recipient_kind)),
            *((f"--param {clean(f.key)}", _form_text(f)) for f in product.form),
            ("orderable", _orderable_text(product)),
        )
    )


def _form_text(field: catalog.FormField) -> str:
    allowed = f": {', '.join(map(clean, field.options))}" if field.options else ""
    return f"{clean(field.label)}{'' if field.required else ' (optional)'}{allowed}"


def _orderable_text(product: catalog.Product) -> Text:
    if product.orderable:
        return Text("yes", style="green")
    return Text(f"no: {enum_name(catalog.NotOrderableReason, product.not_orderable_reason)}", style="red")


def state_text(order: order_pb2.Order) -> Text:
    """The state in the colour of its urgency."""
    return Text(state_name(order.state), style=_colour(order))


def _colour(order: order_pb2.Order) -> str:
    if order.state in _FAILED:
        return "red"
    if order.state in _UNDECIDED:
        return "yellow"
    return "green" if is_terminal(order) else "cyan"


def cards_text(order: order_pb2.Order) -> str:
    """How many cards there are."""
    return str(len(order.cards)) if order.cards else ""


def cards_lines(order: order_pb2.Order) -> Iterator[Text]:
    """The cards in full, a line for every field."""
    for place, card in enumerate(order.cards, 1):
        which = f" {place} of {len(order.cards)}" if len(order.cards) > 1 else ""
        yield Text(f"card{which} of {order.order_id}, {clean(order.product_id)}", style="bold")
        fields = (
            ("number", card.number),
            ("secret", card.secret),
            ("link", card.link),
            ("QR code", card.qr.content),
            ("QR picture", card.qr.image_url),
            ("instructions", card.instructions),
            ("valid from", _date(card.valid_from)),
            ("valid until", _date(card.valid_until)),
            ("warranty", _time(card.warranty_end_time)),
            ("after sale", after_sale_text(card.after_sale)),
        )
        for name, value in fields:
            if value:
                yield Text.assemble((f"  {name:<12}  ", "dim"), clean(value))


def card_text(card: order_pb2.Card) -> str:
    """What redeems a card."""
    parts = [card.number, card.secret, card.link, card.qr.content or card.qr.image_url]
    return " ".join(clean(part) for part in parts if part)


def failure_text(order: order_pb2.Order) -> str:
    """Why an order failed."""
    reason = enum_name(order_pb2.FailureReason, order.failure.reason)
    return f"{reason}: {clean(order.failure.message)}" if order.failure.message else reason


def review_text(order: order_pb2.Order) -> str:
    """What a person has to look at."""
    return ", ".join(enum_name(order_pb2.ReviewReason, reason) for reason in order.review_reasons)


def why_text(order: order_pb2.Order) -> str:
    """Why an order is not as one would wish; nothing when it is."""
    reviews = f"{'in review for' if _in_review(order) else 'to be looked at:'} {review_text(order)}"
    parts = [failure_text(order)] if order.HasField("failure") else []
    return "; ".join([*parts, reviews] if order.review_reasons else parts)


def _in_review(order: order_pb2.Order) -> bool:
    return order.state == order_pb2.ORDER_STATE_NEEDS_REVIEW


def after_sale_text(after_sale: order_pb2.AfterSale.ValueType) -> str:
    """What became of a delivered item; nothing while it is simply fine."""
    return enum_name(order_pb2.AfterSale, after_sale) if after_sale else ""


def recipient_text(recipient: order_pb2.Recipient) -> str:
    """Who gets it."""
    kind = recipient.WhichOneof("recipient")
    if kind == "phone":
        return clean(f"phone {recipient.phone.area_code} {recipient.phone.number}")
    if kind == "qq":
        return clean(f"QQ {recipient.qq}")
    return clean(f"account {recipient.account}") if kind == "account" else ""


class _Enum(Protocol):
    def Name(self, number: Any, /) -> str: ...


def enum_name(enum: _Enum, value: int) -> str:
    """A value's name without the enum's prefix; its number when it is newer than this client."""
    try:
        name = enum.Name(value)
    except ValueError:
        return str(value)
    # The zero value ends in _UNSPECIFIED, and what stands before it is the prefix of all.
    return name.removeprefix(enum.Name(0).removesuffix("UNSPECIFIED"))


def clean(text: str) -> str:
    """Text of others without what could steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _time(time: Timestamp) -> str:
    if not time.seconds:
        return ""
    return datetime.fromtimestamp(time.seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _short_time(time: Timestamp) -> str:
    """The time of day; the day too when it isn't today."""
    if not time.seconds:
        return ""
    local = datetime.fromtimestamp(time.seconds).astimezone()
    return local.strftime("%H:%M:%S" if local.date() == datetime.now().astimezone().date() else "%m-%d %H:%M")


def _date(date: date_pb2.Date) -> str:
    return f"{date.year:04}-{date.month:02}-{date.day:02}" if date.year else ""


def _money(money: money_pb2.Money) -> str:
    return f"¥{decimal_yuan(money):.4f}".rstrip("0").rstrip(".")


def _pairs(pairs: dict[str, str]) -> str:
    return ", ".join(f"{clean(key)}={clean(value)}" for key, value in pairs.items())
