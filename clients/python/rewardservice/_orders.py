"""`rewardctl order …`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from cyclopts import App, Parameter
from google.protobuf.message import Message

from rewardservice import values as recipients
from rewardservice._following import follow_events, judge, look_up
from rewardservice._options import Exit, Given, UsageError, exit_for_orders
from rewardservice._output import Board, Output, Progress, orders_table, print_order
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb
from rewardservice.values import is_settled

StateName = Literal[
    "accepted",
    "processing",
    "outcome-unknown",
    "needs-review",
    "fulfilled",
    "partially-fulfilled",
    "failed",
    "cancelled",
]

order_app = App(name="order", help="Create, read, watch and cancel orders.")


@order_app.command
async def create(
    product_id: str,
    /,
    *,
    quantity: int = 1,
    phone: str | None = None,
    area_code: str = "+86",
    qq: str | None = None,
    account: str | None = None,
    client_order_id: str | None = None,
    max_unit_price: str | None = None,
    param: Sequence[str] = (),
    metadata: Sequence[str] = (),
    wait: float = 0.0,
    watch: bool = False,
    show_cards: bool = False,
    options: Given,
) -> int:
    """Order a reward.

    Parameters
    ----------
    product_id
        The product; `rewardctl products` lists them.
    quantity
        How many; 1 if not given.
    phone
        Phone number that gets it.
    area_code
        Country calling code of the phone number; +86 if not given.
    qq
        QQ number that gets it.
    account
        Account that gets it.
    client_order_id
        Your own id for the order. The same id never buys twice: give one whenever the command may be repeated.
    max_unit_price
        The most to pay per unit, in yuan.
    param
        KEY=VALUE for the product's form; may be repeated.
    metadata
        KEY=VALUE of your own, kept with the order; may be repeated.
    wait
        Seconds (0 to 30) that the server may take to answer with the ended order.
    watch
        Show the order's progress until it has ended or needs a review.
    show_cards
        Show the cards in full.
    """
    output = Output(options.output)
    view = _view(show_cards)
    async with options.client() as client:
        try:
            created = await client.create_order(
                product_id,
                quantity,
                client_order_id=client_order_id,
                recipient=_recipient(phone, area_code, qq, account),
                max_unit_price=max_unit_price,
                supplier_parameters=_pairs("--param", param),
                metadata=_pairs("--metadata", metadata),
                wait=wait,
                view=view,
            )
        except ValueError as error:
            raise UsageError(str(error)) from None
        order = created.order
        if not watch:
            _print_order(output, order, created, show_cards=show_cards)
            return exit_for_orders([order]) if wait and is_settled(order) else Exit.OK
        board = Board(show_cards=show_cards)
        with Progress(output, board, explain=options.explain) as progress:
            progress.show(order, created)
            if not is_settled(order):
                events = client.watch(
                    order_ids=[order.order_id],
                    resume_token=created.resume_token,
                    view=view,
                    until_terminal=True,
                )
                await follow_events(
                    events,
                    progress=progress,
                    output=output,
                    board=board,
                    ids=[order.order_id],
                    timeout=options.timeout,
                )
        return judge(board, [order.order_id])


@order_app.command
async def get(
    order_id: str | None = None,
    /,
    *,
    client_order_id: str | None = None,
    explain: bool = False,
    show_cards: bool = False,
    options: Given,
) -> int:
    """Show one order.

    Parameters
    ----------
    order_id
        The order's id.
    client_order_id
        Your own id for the order, instead.
    explain
        Show why it was bought where it was, what it waits for, and the evidence.
    show_cards
        Show the cards in full.
    """
    if (order_id is None) == (client_order_id is None):
        raise UsageError("give ORDER_ID or --client-order-id")
    if explain and show_cards:
        raise UsageError("--explain and --show-cards are two different views: give one")
    view = order_pb2.ORDER_VIEW_EXPLAINED if explain else _view(show_cards)
    async with options.client() as client:
        order = await client.get_order(order_id, client_order_id=client_order_id, view=view)
    _print_order(Output(options.output), order, order, show_cards=show_cards)
    return Exit.OK


@order_app.command
async def cancel(
    order_id: str | None = None,
    /,
    *,
    client_order_id: str | None = None,
    options: Given,
) -> int:
    """Cancel what can still be cancelled of an order.

    What was never sent to a supplier never is. For the rest the wish is kept, suppliers that offer it are asked to take
    the order down, and `rewardctl order watch` shows how it ends.

    Parameters
    ----------
    order_id
        The order's id.
    client_order_id
        Your own id for the order, instead.
    """
    if (order_id is None) == (client_order_id is None):
        raise UsageError("give ORDER_ID or --client-order-id")
    async with options.client() as client:
        order = await client.cancel_order(order_id, client_order_id=client_order_id)
    _print_order(Output(options.output), order, order, show_cards=False)
    return Exit.OK


@order_app.command(name="list")
async def list_orders(
    *,
    state: Sequence[StateName] = (),
    product: str = "",
    supplier: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 50,
    options: Given,
) -> int:
    """List orders, newest first, without their cards.

    Parameters
    ----------
    state
        Only orders in this state; may be repeated.
    product
        Only orders of this product.
    supplier
        Only orders with a purchase at this supplier account.
    since
        Only orders created at or after this time (local, unless it names its zone).
    until
        Only orders created before this time.
    limit
        At most so many; 50 if not given.
    """
    output = Output(options.output)
    orders: list[order_pb2.Order] = []
    if limit < 1:
        raise UsageError("--limit must be at least 1")
    async with options.client() as client:
        pages = client.list_orders(
            states=[order_pb2.OrderState.Value(f"ORDER_STATE_{s.replace('-', '_').upper()}") for s in state],
            product_id=product,
            supplier=supplier,
            created_after=since and since.astimezone(),
            created_before=until and until.astimezone(),
            page_size=min(limit, 200),
        )
        async for order in pages:
            orders.append(order)
            if output.json:
                output.message(order)
            if len(orders) >= limit:
                break
    if not output.json:
        output.table(orders_table(orders))
    return Exit.OK


@order_app.command
async def watch(
    *order_ids: str,
    client_order_id: Sequence[str] = (),
    resume_token: str = "",
    from_now: bool = False,
    follow: bool = False,
    give_up_after: float | None = None,
    show_cards: bool = False,
    options: Given,
) -> int:
    """Show orders as they change. With ids: until all have ended or need a review. Without: all orders, for ever.

    Parameters
    ----------
    order_ids
        The orders.
    client_order_id
        More orders, by your own ids; they need not exist yet. May be repeated.
    resume_token
        Begin after this place in the log, instead of with the orders as they are.
    from_now
        Begin with what changes from now on.
    follow
        Go on after the orders have ended.
    give_up_after
        Seconds after which a lost server is given up; it is looked for without end if not given.
    show_cards
        Show the cards in full.
    """
    if resume_token and from_now:
        raise UsageError("give --resume-token or --from-now, not both")
    output = Output(options.output)
    board = Board(show_cards=show_cards)
    ids = [*order_ids, *client_order_id]
    bounded = bool(ids) and not follow
    async with options.client() as client:
        events = client.watch(
            order_ids=order_ids,
            client_order_ids=client_order_id,
            start=pb.STREAM_START_NOW if from_now else pb.STREAM_START_UNSPECIFIED,
            resume_token=resume_token,
            view=_view(show_cards),
            until_terminal=bounded,
            give_up_after=give_up_after,
        )
        with Progress(output, board, redraw=bool(ids), explain=options.explain) as progress:
            ended = await follow_events(
                events,
                progress=progress,
                output=output,
                board=board,
                ids=ids if bounded else None,
                timeout=options.timeout,
            )
        if bounded and ended:
            # The log after a token says nothing of orders that ended before it.
            await look_up(client, board, order_ids, client_order_id)
    return judge(board, ids) if bounded else Exit.OK


@order_app.command
async def updates(
    *order_ids: str,
    client_order_id: Sequence[str] = (),
    after: str = "",
    limit: int = 100,
    all_pages: Annotated[bool, Parameter(name="--all")] = False,
    show_cards: bool = False,
    options: Given,
) -> int:
    """List what happened, oldest first, from the log.

    Parameters
    ----------
    order_ids
        Only these orders.
    client_order_id
        Only these orders, by your own ids; may be repeated.
    after
        Only updates after this resume token.
    limit
        At most so many (1 to 1000; 100 if not given), or so many at a time with --all.
    all_pages
        Go on to the end of the log.
    show_cards
        Show the cards in full.
    """
    output = Output(options.output)
    board = Board(show_cards=show_cards)
    async with options.client() as client:
        more = True
        while more:
            page = await client.list_order_updates(
                after,
                order_ids=order_ids,
                client_order_ids=client_order_id,
                limit=limit,
                view=_view(show_cards),
            )
            for update in page.updates:
                if output.json:
                    output.message(update)
                else:
                    output.line(board.line(update.order))
            after = page.resume_token
            more = page.more and all_pages
    if not output.json:
        output.line(f"continue with: --after {after}")
    return Exit.OK


def _print_order(output: Output, order: order_pb2.Order, what: Message, *, show_cards: bool) -> None:
    if output.json:
        output.message(what)
        return
    print_order(output, order, show_cards=show_cards)


def _view(show_cards: bool) -> order_pb2.OrderView.ValueType:
    return order_pb2.ORDER_VIEW_FULL if show_cards else order_pb2.ORDER_VIEW_BASIC


def _recipient(phone: str | None, area_code: str, qq: str | None, account: str | None) -> order_pb2.Recipient | None:
    if sum(given is not None for given in (phone, qq, account)) > 1:
        raise UsageError("give one of --phone, --qq and --account")
    if phone is not None:
        return recipients.phone(area_code, phone)
    if qq is not None:
        return recipients.qq(qq)
    return None if account is None else recipients.account(account)


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key in pairs:
            raise UsageError(f"{option} takes KEY=VALUE, each key once; not {text!r}")
        pairs[key] = value
    return pairs
