"""`rewardctl suppliers …`."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated

from cyclopts import App, Parameter
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import money_pb2
from rich.text import Text

from rewardservice._options import Exit, Given, UsageError
from rewardservice._output import Output, clean, enum_name
from rewardservice._tables import Column, Fitted
from rewardservice.v1 import operator_service_pb2 as pb
from rewardservice.values import decimal_yuan

suppliers_app = App(
    name="suppliers",
    help="Show the supplier accounts, what they sell and what they called back about; pause and resume them. "
    "Needs an operator's key.",
)

_STATE_STYLES = {
    pb.SUPPLIER_STATE_READY: "green",
    pb.SUPPLIER_STATE_RESTING: "yellow",
    pb.SUPPLIER_STATE_PAUSED: "red",
}


@suppliers_app.default
async def list_suppliers(*, options: Given) -> int:
    """Show the supplier accounts with their states and balances. Needs an operator's key."""
    output = Output(options.output)
    async with options.client() as client:
        suppliers = await client.list_suppliers()
    if output.json:
        for supplier in suppliers:
            output.message(supplier)
        return Exit.OK
    output.table(suppliers_table(suppliers))
    for note in notes(suppliers):
        output.text(note)
    return Exit.OK


@suppliers_app.command
async def products(account: str, product: str | None = None, /, *, page: int | None = None, options: Given) -> int:
    """List what a supplier sells, page by page, or show one of its products with what an order of it needs.

    Parameters
    ----------
    account
        The supplier account; `rewardctl suppliers` lists them.
    product
        Show the product that has this number at the supplier.
    page
        The supplier's page, from 1; 1 if not given. Beyond the last one nothing is listed.
    """
    output = Output(options.output)
    if product is not None and page is not None:
        raise UsageError("give PRODUCT or --page, not both")
    if page is not None and page < 1:
        raise UsageError("--page must be at least 1")
    async with options.client() as client:
        if product is not None:
            found = await client.supplier_product(account, product)
            _print_product(output, found)
            return Exit.OK
        listed = await client.supplier_products(account, page or 1)
    if output.json:
        for each in listed.products:
            output.message(each)
        return Exit.OK
    output.table(products_table(listed.products))
    if listed.more:
        output.line(f"continue with: --page {(page or 1) + 1}")
    return Exit.OK


@suppliers_app.command
async def callbacks(
    account: str,
    /,
    *,
    everything: Annotated[bool, Parameter(name="--all")] = False,
    limit: int = 50,
    options: Given,
) -> int:
    """List the callbacks of a supplier for numbers that are none of ours, newest first, without their secrets.

    Parameters
    ----------
    account
        The supplier account; `rewardctl suppliers` lists them.
    everything
        Callbacks for our own orders, too.
    limit
        At most so many; 50 if not given.
    """
    output = Output(options.output)
    if limit < 1:
        raise UsageError("--limit must be at least 1")
    found: list[pb.SupplierCallback] = []
    async with options.client() as client:
        async for callback in client.callbacks(account, only_unknown=not everything, page_size=min(limit, 200)):
            found.append(callback)
            if output.json:
                output.message(callback)
            if len(found) >= limit:
                break
    if not output.json:
        for line in callback_lines(found):
            output.text(line)
    return Exit.OK


@suppliers_app.command
async def pause(account: str, /, *, reason: str, actor: str = "", options: Given) -> int:
    """Send nothing new to a supplier until it is resumed, also after restarts.

    Parameters
    ----------
    account
        The supplier account; `rewardctl suppliers` lists them.
    reason
        Why; recorded.
    actor
        Who decides, where several share a key.
    """
    async with options.client() as client:
        _print_standing(Output(options.output), await client.pause_supplier(account, reason=reason, actor=actor))
    return Exit.OK


@suppliers_app.command
async def resume(account: str, /, *, reason: str, actor: str = "", options: Given) -> int:
    """End the pause of a supplier at once, whether a person made it or the supplier's refusing us.

    Parameters
    ----------
    account
        The supplier account; `rewardctl suppliers` lists them.
    reason
        Why; recorded.
    actor
        Who decides, where several share a key.
    """
    async with options.client() as client:
        _print_standing(Output(options.output), await client.resume_supplier(account, reason=reason, actor=actor))
    return Exit.OK


def _print_standing(output: Output, supplier: pb.Supplier) -> None:
    if output.json:
        output.message(supplier)
        return
    ready = Text.assemble(clean(supplier.name), "  ", ("READY", _STATE_STYLES[pb.SUPPLIER_STATE_READY]))
    output.text(_state_note(supplier) or ready)


def suppliers_table(suppliers: Iterable[pb.Supplier]) -> Fitted:
    """One row per account."""
    table = Fitted(
        Column("SUPPLIER"),
        Column("ADAPTER", leaves=4),
        Column("STATE"),
        Column("IN FLIGHT", leaves=2),
        Column("BALANCE"),
        Column("AS OF", leaves=3),
        Column("OFFERS", leaves=1),
    )
    for supplier in suppliers:
        table.add_row(
            clean(supplier.name),
            clean(supplier.adapter),
            Text(enum_name(pb.SupplierState, supplier.state), style=_STATE_STYLES.get(supplier.state, "")),
            f"{supplier.in_flight}/{supplier.max_in_flight}",
            _yuan(supplier.balance) if supplier.HasField("balance") else "",
            _time(supplier.balance_time),
            offers_text(supplier),
        )
    return table


def offers_text(supplier: pb.Supplier) -> str:
    """What the account offers beside buying."""
    offers = {
        "query": supplier.offers_query,
        "callbacks": supplier.offers_callbacks,
        "cancel": supplier.offers_cancel,
        "balance": supplier.offers_balance,
        "products": supplier.offers_products,
    }
    return " ".join(name for name, offered in offers.items() if offered)


def notes(suppliers: Iterable[pb.Supplier]) -> Iterator[Text]:
    """What stands below the table: why an account isn't ready, and why a balance isn't of just now."""
    for supplier in suppliers:
        if (note := _state_note(supplier)) is not None:
            yield note
        if supplier.offers_balance and supplier.balance_problem:
            why = f"balance not read just now: {clean(supplier.balance_problem)}"
            yield Text.assemble(clean(supplier.name), "  ", (why, "yellow"))


def _state_note(supplier: pb.Supplier) -> Text | None:
    """Why an account isn't ready, until when, and who says so; None when it is."""
    if supplier.state == pb.SUPPLIER_STATE_READY:
        return None
    state = enum_name(pb.SupplierState, supplier.state)
    until = f" until {_time(supplier.state_end_time)}" if supplier.HasField("state_end_time") else ""
    by = f" by {clean(supplier.paused_by)} since {_time(supplier.pause_time)}" if supplier.paused_by else ""
    why = f"{state}{until}{by}: {clean(supplier.state_reason)}"
    return Text.assemble(clean(supplier.name), "  ", (why, _STATE_STYLES.get(supplier.state, "")))


def products_table(listed: Iterable[pb.SupplierProduct]) -> Fitted:
    """One row per product of a supplier."""
    table = Fitted(
        Column("PRODUCT"),
        Column("NAME", least=20, folds=True),
        Column("PRICE"),
        Column("STOCK", leaves=3),
        Column("ON SALE", leaves=2),
        Column("DETAILS", leaves=1, least=10),
    )
    for product in listed:
        table.add_row(
            clean(product.number),
            clean(product.name),
            _yuan(product.price) if product.HasField("price") else "",
            str(product.stock) if product.HasField("stock") else "",
            _yes_no(product),
            ", ".join(f"{clean(key)}={clean(value)}" for key, value in sorted(product.details.items())),
        )
    return table


def _print_product(output: Output, found: pb.GetSupplierProductResponse) -> None:
    if output.json:
        output.message(found)
        return
    product = found.product
    output.fields(
        (
            ("product", clean(product.number)),
            ("name", clean(product.name)),
            ("price", _yuan(product.price) if product.HasField("price") else ""),
            ("stock", str(product.stock) if product.HasField("stock") else ""),
            ("on sale", _yes_no(product)),
            *((clean(key), clean(value)) for key, value in sorted(product.details.items())),
            *((f"needs {clean(entry.key)}", _entry_text(entry)) for entry in found.order_form),
            ("order form", f"not known: {clean(found.order_form_problem)}" if found.order_form_problem else ""),
        )
    )


def _entry_text(entry: pb.OrderFormEntry) -> str:
    parts = [
        clean(entry.label or entry.key),
        "" if entry.required else " (optional)",
        f": {', '.join(map(clean, entry.options))}" if entry.options else "",
        f"  {clean(entry.hint)}" if entry.hint else "",
    ]
    return "".join(parts)


def callback_lines(found: Iterable[pb.SupplierCallback]) -> Iterator[Text]:
    """Two lines per callback: about what, and what it says."""
    for callback in found:
        whose = clean(callback.order_id) if callback.order_id else "none of ours"
        head = f"{_time(callback.time)}  {clean(callback.number)}  ({whose}, {callback.size} bytes)"
        yield Text(head, style="" if callback.order_id else "yellow")
        yield Text(f"  {clean(callback.outline)}")


def _yes_no(product: pb.SupplierProduct) -> str:
    return ("yes" if product.on_sale else "no") if product.HasField("on_sale") else ""


def _yuan(money: money_pb2.Money) -> str:
    return f"¥{decimal_yuan(money):.4f}".rstrip("0").rstrip(".")


def _time(time: Timestamp) -> str:
    return datetime.fromtimestamp(time.seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S") if time.seconds else ""
