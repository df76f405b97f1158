"""What `rewardctl` prints: tables for people, JSON lines for programs."""

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from google.protobuf import json_format, message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import money_pb2
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rewardservice.events import Snapshot, SnapshotEnd, Update
from rewardservice.v1 import catalog_service_pb2 as catalog
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb
from rewardservice.values import decimal_yuan, is_terminal, state_name

_WIDE = 160
"""Columns of a table that goes to a file."""
_KEPT = 10_000
"""Orders that an endless display remembers."""
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

    def table(self, table: Table) -> None:
        """A table for people."""
        self.console.print(table)


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
    """Orders on their way: a table that is redrawn on a terminal, else a line per update."""

    def __init__(self, output: Output, board: "Board", *, redraw: bool = True) -> None:
        self._output = output
        self._board = board
        self._live = (
            Live(
                console=output.console,
                get_renderable=board.table,
                refresh_per_second=4,
                vertical_overflow="visible",
            )
            if output.live and redraw
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.stop()

    def show(self, order: order_pb2.Order, what: message.Message) -> None:
        """An order changed; `what` is the message that said so. Older news than what is shown changes nothing."""
        news = self._board.put(order)
        if self._live is not None:
            self._live.refresh()
        elif self._output.json:
            self._output.message(what)
        elif news:
            self._output.line(self._board.line(order))


class Board:
    """The orders of a progress display, by order id."""

    def __init__(self, *, show_cards: bool) -> None:
        self.orders: dict[str, order_pb2.Order] = {}
        self._show_cards = show_cards

    def put(self, order: order_pb2.Order) -> bool:
        """Keeps the newest version of an order; returns whether it was this one."""
        known = self.orders.get(order.order_id)
        if known is not None and known.version >= order.version:
            return False
        self.orders[order.order_id] = order
        if len(self.orders) > _KEPT:
            del self.orders[next(iter(self.orders))]
        return True

    def table(self) -> Table:
        """The orders as they are now."""
        # The display is redrawn in a thread of its own: it gets a copy.
        return orders_table(list(self.orders.values()), show_cards=self._show_cards)

    def line(self, order: order_pb2.Order) -> str:
        """One update in words."""
        parts = [
            _time(order.update_time),
            order.order_id,
            clean(order.product_id),
            f"v{order.version}",
            state_name(order.state),
            f"{order.delivered_quantity}/{order.quantity}",
            *([failure_text(order)] if order.HasField("failure") else []),
            *(card_text(card) for card in order.cards if self._show_cards),
        ]
        return "  ".join(part for part in parts if part)


def orders_table(orders: Iterable[order_pb2.Order], *, show_cards: bool) -> Table:
    """One row per order."""
    table = _new_table("ORDER", "CLIENT ORDER ID", "PRODUCT", "STATE", "DELIVERED", "UPDATED", "CARDS")
    for order in orders:
        table.add_row(
            order.order_id,
            clean(order.client_order_id),
            clean(order.product_id),
            state_text(order),
            f"{order.delivered_quantity}/{order.quantity}",
            _time(order.update_time),
            cards_text(order, show_cards=show_cards),
        )
    return table


def order_details(order: order_pb2.Order, *, show_cards: bool) -> list[Table]:
    """Everything about one order: its fields, and its purchases if the view has them."""
    fields = Table.grid(padding=(0, 2))
    rows: Sequence[tuple[str, str | Text]] = (
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
        ("in review for", ", ".join(enum_name(order_pb2.ReviewReason, r) for r in order.review_reasons)),
        ("parameters", _pairs(dict(order.supplier_parameters))),
        ("metadata", _pairs(dict(order.metadata))),
        ("cards", cards_text(order, show_cards=show_cards)),
    )
    for name, value in rows:
        if value:
            fields.add_row(Text(name, style="dim"), value if isinstance(value, Text) else Text(value, overflow="fold"))
    if not order.purchases:
        return [fields]
    purchases = _new_table("PURCHASE", "SUPPLIER", "PRODUCT", "UNITS", "STATE", "SENDS", "EVIDENCE")
    for purchase in order.purchases:
        evidence = "\n".join(
            f"{_time(e.time)} {clean(e.source)}: {clean(e.outcome)} {clean(e.detail)}".rstrip()
            for e in purchase.evidence
        )
        purchases.add_row(
            clean(purchase.number),
            clean(purchase.supplier),
            clean(purchase.supplier_product),
            str(purchase.quantity),
            enum_name(order_pb2.PurchaseState, purchase.state),
            str(purchase.sends),
            Text(evidence, overflow="fold"),
        )
    return [fields, purchases]


def products_table(products: Iterable[catalog.Product]) -> Table:
    """One row per product."""
    table = _new_table("PRODUCT", "NAME", "KIND", "FACE VALUE", "PRICE", "RECIPIENT", "FORM", "ORDERABLE")
    for product in products:
        form = ", ".join(f"{clean(f.key)}{'*' if f.required else ''}" for f in product.form)
        reason = enum_name(catalog.NotOrderableReason, product.not_orderable_reason)
        table.add_row(
            clean(product.product_id),
            clean(product.name),
            enum_name(order_pb2.ProductKind, product.kind),
            _money(product.face_value),
            _money(product.price),
            enum_name(catalog.RecipientKind, product.recipient_kind),
            form,
            Text("yes", style="green") if product.orderable else Text(f"no: {reason}", style="red"),
        )
    return table


def state_text(order: order_pb2.Order) -> Text:
    """The state in the colour of its urgency."""
    name = state_name(order.state)
    if order.state in _FAILED:
        return Text(name, style="red")
    if order.state in _UNDECIDED:
        return Text(name, style="yellow")
    return Text(name, style="green" if is_terminal(order) else "cyan")


def cards_text(order: order_pb2.Order, *, show_cards: bool) -> Text:
    """The cards, or how many there are."""
    if not show_cards and order.cards:
        count = len(order.cards)
        return Text(f"{count} card{'s' if count > 1 else ''} (--show-cards)", style="dim")
    return Text("\n".join(map(card_text, order.cards)), overflow="fold")


def card_text(card: order_pb2.Card) -> str:
    """What redeems a card."""
    parts = [card.number, card.secret, card.link, card.qr.content or card.qr.image_url]
    return " ".join(clean(part) for part in parts if part)


def failure_text(order: order_pb2.Order) -> str:
    """Why an order failed."""
    reason = enum_name(order_pb2.FailureReason, order.failure.reason)
    return f"{reason}: {clean(order.failure.message)}" if order.failure.message else reason


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


def _new_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _time(time: Timestamp) -> str:
    if not time.seconds:
        return ""
    return datetime.fromtimestamp(time.seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _money(money: money_pb2.Money) -> str:
    return f"¥{decimal_yuan(money):.4f}".rstrip("0").rstrip(".")


def _pairs(pairs: dict[str, str]) -> str:
    return ", ".join(f"{clean(key)}={clean(value)}" for key, value in pairs.items())
