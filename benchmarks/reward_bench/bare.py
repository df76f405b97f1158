"""What the service is measured against: the same wire without what makes it a service. One process each.

* `echo`: reads a CreateOrderRequest and answers with a CreateOrderResponse; nothing in between.
* `proxy`: reads it, buys at the supplier with the same adapter, answers with the card. Nothing is checked or stored; of
  a supplier that answers later it keeps in memory who waits.
* `stream`: writes finished messages to every stream.

All on uvloop, with the generated code of the contract, and with gRPC's defaults but for the limits that would refuse
what is measured.
"""

import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import uvloop
from aiohttp import web

from reward_adapters import kaquan91_card, kasushou
from reward_adapters.contract import (
    Accepted,
    Callback,
    Context,
    Delivered,
    HttpReply,
    HttpRequest,
    Notice,
    ProductKind,
    Purchase,
    Refused,
)
from reward_adapters.money import Money
from reward_bench.serving import APP_SECRET, ASYNC, answer, commands
from reward_server.domain.ids import IdSource
from reward_server.rpc.messages import card_message
from rewardservice.v1 import reward_service_pb2 as pb

SERVICE, STREAM = "rewardservice.v1.RewardService", "StreamOrderUpdates"


def a_server(handlers: dict[str, Any]) -> grpc.aio.Server:
    """A bare one."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_concurrent_streams", 10_000),
            ("grpc.server.max_pending_requests", 100_000),
            ("grpc.server.max_pending_requests_hard_limit", 200_000),
        ]
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    return server


def creating(answer_one: Any) -> grpc.aio.Server:
    """One that takes orders, with what the generated code would put around it."""
    decode, encode = pb.CreateOrderRequest.FromString, pb.CreateOrderResponse.SerializeToString
    return a_server({"CreateOrder": grpc.unary_unary_rpc_method_handler(answer_one, decode, encode)})


class Echo:
    """Answers with an order of the usual size."""

    def __init__(self, raw: bytes) -> None:
        self._template = pb.CreateOrderResponse.FromString(raw)

    async def CreateOrder(self, request: pb.CreateOrderRequest, context: Any) -> pb.CreateOrderResponse:
        """Echoes."""
        response = pb.CreateOrderResponse()
        response.CopyFrom(self._template)
        response.order.client_order_id = request.client_order_id
        response.order.product_id = request.product_id
        return response


class Proxy:
    """Hands orders on to the supplier and its answers back."""

    def __init__(self, supplier: int, callback_url: str) -> None:
        site = f"http://127.0.0.1:{supplier}"
        self._now = kaquan91_card.Kaquan91Card(
            kaquan91_card.Config(base_url=f"{site}/sync/", appid="bench", appsecret=APP_SECRET)
        )
        self._later = kasushou.Kasushou(
            kasushou.Config(base_url=f"{site}/async/", user_id="bench", apikey=APP_SECRET)
        )  # fmt: skip
        self._callback_url = callback_url
        self._new_id = IdSource(lambda: time.time_ns() // 1_000_000)
        self._waiting: dict[str, tuple[Purchase, asyncio.Future[Delivered]]] = {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        )

    async def CreateOrder(self, request: pb.CreateOrderRequest, context: Any) -> pb.CreateOrderResponse:
        """Buys and answers."""
        later = request.product_id == ASYNC
        number = self._new_id()
        purchase = Purchase(
            number=number,
            product_kind=ProductKind.CARD,
            supplier_product="2909",
            quantity=request.quantity,
            recipient=None,
            unit_cost=Money(985_000),
            unit_limit=Money(990_000),
            parameters={} if later else {"card_type": "1"},
            form={},
            supplier_reference=None,
            sends=1,
            notify_url=self._callback_url if later else None,
        )
        supplier = self._later if later else self._now
        coming: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        if later:
            self._waiting[number] = (purchase, coming)
        call = supplier.place(purchase, Context(datetime.now(UTC), None))
        assert not isinstance(call, Refused)  # noqa: S101 - a fixed purchase
        outcome = call.read(await self._send(call.request))
        if isinstance(outcome, Accepted):
            outcome = await coming
        if not isinstance(outcome, Delivered):
            raise TypeError(f"no card: {outcome!r}")
        response = pb.CreateOrderResponse()
        order = response.order
        order.order_id, order.client_order_id, order.product_id = number, request.client_order_id, request.product_id
        order.quantity = order.delivered_quantity = request.quantity
        order.cards.extend(card_message(number, place, card, full=True) for place, card in enumerate(outcome.cards, 1))
        return response

    async def callback(self, request: web.Request) -> web.Response:
        """Asks the supplier what it called back about."""
        body = await request.read()
        notice = self._later.read_callback(Callback(body, request.headers.get("Content-Type", "")))
        if not isinstance(notice, Notice) or notice.number not in self._waiting:
            return web.Response(status=403)
        purchase, coming = self._waiting.pop(notice.number)
        call = self._later.query([purchase], Context(datetime.now(UTC), None))
        outcome = call.read(await self._send(call.request))[notice.number]
        if isinstance(outcome, Delivered):
            coming.set_result(outcome)
        return web.Response(body=b"ok")

    async def _send(self, request: HttpRequest) -> HttpReply:
        async with self._session.request(
            request.method, request.url, data=request.body, headers=request.headers
        ) as response:
            names = {name.lower(): value for name, value in response.headers.items()}
            return HttpReply(response.status, await response.read(), names)


async def echo(port: int, raw: str) -> None:
    """Serves echoes."""
    await _serve(creating(Echo(bytes.fromhex(raw)).CreateOrder), port)


async def proxy(port: int, http_port: int, supplier: int) -> None:
    """Serves what the supplier sells."""
    made = Proxy(supplier, f"http://127.0.0.1:{http_port}/callback")
    app = web.Application()
    app.router.add_post("/callback", made.callback)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", http_port).start()
    await _serve(creating(made.CreateOrder), port)


async def stream(port: int, file: Path) -> None:
    """Writes finished messages to every stream when told to go."""
    raw = file.read_bytes()
    messages = []
    while raw:
        size = int.from_bytes(raw[:4], "big")
        messages.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    go = asyncio.Event()

    async def write(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.write(messages[0])
        await go.wait()
        for message in messages:
            await context.write(message)
        await asyncio.Event().wait()

    # It writes to the context instead of yielding, as ours does.
    handler: Any = write
    handlers: dict[str, Any] = {STREAM: grpc.unary_stream_rpc_method_handler(handler)}
    await _serve(a_server(handlers), port, go)


async def _serve(server: grpc.aio.Server, port: int, go: asyncio.Event | None = None) -> None:
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    answer("ready")
    async for command in commands():
        if command == ["go"] and go is not None:
            go.set()
        answer("done")


def main() -> None:
    """Serves one of the three."""
    kind, port, *rest = sys.argv[1:]
    match kind:
        case "echo":
            work = echo(int(port), rest[0])
        case "proxy":
            work = proxy(int(port), int(rest[0]), int(rest[1]))
        case _:
            work = stream(int(port), Path(rest[0]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


if __name__ == "__main__":
    main()
