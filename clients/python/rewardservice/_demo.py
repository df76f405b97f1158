"""`rewardctl demo`: one product of each of the five suppliers, from the order to the card."""

import asyncio
import time
import uuid
from contextlib import aclosing

from rich.text import Text

from rewardservice._options import Exit, Options, exit_for_error, exit_for_orders
from rewardservice._output import (
    Board,
    Output,
    Progress,
    as_message,
    cards_text,
    clean,
    complain,
    order_line,
    state_text,
)
from rewardservice._tables import Column, Fitted
from rewardservice.client import RewardClient
from rewardservice.errors import RewardError
from rewardservice.events import Snapshot, SnapshotEnd, Update
from rewardservice.v1 import catalog_service_pb2 as catalog
from rewardservice.v1 import order_pb2
from rewardservice.values import account, is_settled, phone, qq

DEMO_SECONDS = 60.0
DEMO_PRODUCTS = (
    "kuaiduibao/card",
    "kaquan91_card/type-1",
    "kaquan91_recharge/topup",
    "kasushou/card",
    "dushu/membership",
)
_NO_SANDBOX = (
    "this server doesn't offer the sandbox's products, and the demo orders from the sandbox only. Start the service "
    "together with its sandbox by `make run` in a checkout of the project, or add to the server's configuration what "
    "`reward-sandbox products` prints"
)
_RECIPIENTS = {
    catalog.RECIPIENT_KIND_PHONE: phone("+86", "13800138000"),
    catalog.RECIPIENT_KIND_QQ: qq("10001"),
    catalog.RECIPIENT_KIND_ACCOUNT: account("demo"),
}


_HEARTBEAT = 2.0


class DemoBoard(Board):
    """The demo's orders by client order id, in the order of the products, from before they exist."""

    def __init__(self, products: dict[str, catalog.Product]) -> None:
        super().__init__(show_cards=True)
        self.refused: dict[str, RewardError] = {}
        self._products = products
        self._by_client_id: dict[str, order_pb2.Order] = {}
        self._began = time.monotonic()
        self._took: dict[str, float] = {}

    def put(self, order: order_pb2.Order) -> bool:
        news = super().put(order)
        if news:
            self._by_client_id[order.client_order_id] = order
        if news and is_settled(order):
            self._took.setdefault(order.client_order_id, time.monotonic() - self._began)
        return news

    def done(self) -> bool:
        """Whether every order has ended, needs a review, or was never taken."""
        settled = {key for key, order in self._by_client_id.items() if is_settled(order)}
        return settled | self.refused.keys() >= self._products.keys()

    def is_empty(self) -> bool:
        return False

    def line(self, order: order_pb2.Order) -> str:
        # The cards come below the table at the end.
        return order_line(order, show_cards=False)

    def table(self) -> Fitted:
        table = Fitted(
            Column("PRODUCT"),
            Column("ORDER", leaves=2),
            Column("STATE"),
            Column("TIME"),
            Column("CARDS", leaves=1),
        )
        for key, product in self._products.items():
            order = self._by_client_id.get(key)
            took = self._took.get(key, time.monotonic() - self._began)
            name = Text(clean(product.product_id))
            if key in self.refused:
                table.add_row(name, "", Text("refused", style="red"), "", "")
            elif order is None:
                table.add_row(name, "", Text("ordering", style="dim"), f"{took:.1f} s", "")
            else:
                table.add_row(name, order.order_id, state_text(order), f"{took:.1f} s", cards_text(order))
        return table


async def demo(client: RewardClient, output: Output, options: Options, timeout: float) -> Exit:
    """Orders the products and shows them until all have ended, or `timeout` seconds are over."""
    offered = {product.product_id: product async for product in client.products()}
    missing = [name for name in DEMO_PRODUCTS if name not in offered]
    if len(missing) == len(DEMO_PRODUCTS):
        complain(_NO_SANDBOX)
        return Exit.NOT_FOUND
    if missing:
        complain(f"not offered by this server, and left out: {', '.join(missing)}")
    products = {f"demo:{uuid.uuid4()}": offered[name] for name in DEMO_PRODUCTS if name in offered}
    board = DemoBoard(products)
    with Progress(output, board, explain=options.explain) as progress:
        try:
            async with asyncio.timeout(timeout):
                await _order_and_follow(client, products, board, progress, options)
        except TimeoutError:
            complain(f"not all orders ended within {timeout:g} s; they go on")
    if not output.json and not output.live:
        output.table(board.table())
        output.below(board)
    if board.refused:
        return exit_for_error(next(iter(board.refused.values())))
    return exit_for_orders(list(board.orders.values())) or (Exit.NOT_FOUND if missing else Exit.OK)


async def _order_and_follow(
    client: RewardClient,
    products: dict[str, catalog.Product],
    board: DemoBoard,
    progress: Progress,
    options: Options,
) -> None:
    # One stream for all, opened before the orders exist: their updates can't be missed, however quick they are.
    events = client.watch(
        client_order_ids=products, view=order_pb2.ORDER_VIEW_FULL, heartbeat_interval=_HEARTBEAT, give_up_after=10.0
    )
    ordering: asyncio.Future[list[None]] | None = None
    try:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, SnapshotEnd) and ordering is None:
                    ordering = asyncio.gather(
                        *(
                            _order(client, key, product, board=board, progress=progress, options=options)
                            for key, product in products.items()
                        )
                    )
                if isinstance(event, Snapshot | Update):
                    progress.show(event.order, as_message(event))
                # A heartbeat comes here too, so that a refused order doesn't keep us waiting for an update.
                if board.done():
                    break
        if ordering is not None:
            await ordering
    finally:
        if ordering is not None:
            ordering.cancel()


async def _order(
    client: RewardClient,
    key: str,
    product: catalog.Product,
    *,
    board: DemoBoard,
    progress: Progress,
    options: Options,
) -> None:
    try:
        created = await client.create_order(
            product.product_id,
            client_order_id=key,
            recipient=_RECIPIENTS.get(product.recipient_kind),
            supplier_parameters={f.key: next(iter(f.options), "demo") for f in product.form if f.required},
            view=order_pb2.ORDER_VIEW_FULL,
        )
    except RewardError as error:
        board.refused[key] = error
        first, *others = options.error_lines(error)
        for line in (f"{product.product_id}: {first}", *others):
            complain(line)
    else:
        progress.show(created.order, created)
