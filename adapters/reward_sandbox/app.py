"""The server: five suppliers under `/{kind}/`, their books under `/books`, ordered faults under `/control`."""

import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from reward_sandbox.desk import Supplier, hang_up
from reward_sandbox.dushu import Dushu
from reward_sandbox.gate import Gate
from reward_sandbox.kaquan91_card import Kaquan91Card
from reward_sandbox.kaquan91_recharge import Kaquan91Recharge
from reward_sandbox.kasushou import Kasushou
from reward_sandbox.kuaiduibao import Kuaiduibao
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.state import Keeper
from reward_sandbox.wire import reply

_BODY_LIMIT: Final = 64 * 1024
_SHUTDOWN_SECONDS: Final = 0.2
"""Held and silent exchanges end only when cut, so waiting for them longer is useless."""

_INDEX: Final = """<!doctype html>
<title>Supplier sandbox</title>
<h1>Supplier sandbox</h1>
<p>What each supplier was asked, sold and was paid:</p>
<ul>{rows}</ul>
<p><a href="/books">All books</a>, <a href="/control">the faults ordered at present</a>.</p>
<p>Order faults: <code>POST /control/SUPPLIER/hold|release|drop|down</code>; empty all books:
<code>POST /control/reset</code>.</p>
"""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Sandbox:
    """A running sandbox; use it as an asynchronous context manager, or `start` and `stop` it.

    async with Sandbox(SandboxSettings(port=0)) as sandbox:
        sandbox.url                 # "http://127.0.0.1:43021"
        sandbox.books("kasushou")   # {"orders": […], "balance": "…", "refusals": […]}
        sandbox.gate("kasushou").hold()
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self.settings = settings or SandboxSettings()
        suppliers: tuple[Supplier, ...] = (
            Kuaiduibao(self.settings),
            Kaquan91Card(self.settings),
            Kaquan91Recharge(self.settings),
            Kasushou(self.settings),
            Dushu(self.settings),
        )
        self._suppliers = {supplier.desk.kind: supplier for supplier in suppliers}
        self._runner: web.AppRunner | None = None
        self._keeper: Keeper | None = None
        self._port = self.settings.port

    @property
    def url(self) -> str:
        """The address without a slash at the end."""
        return f"http://{self.settings.host}:{self._port}"

    def books(self, kind: str) -> dict[str, Any]:
        """What `GET /books/{kind}` answers."""
        return self._suppliers[kind].desk.book.as_json()

    def gate(self, kind: str) -> Gate:
        """The faults of one supplier; the control routes do the same from outside."""
        return self._suppliers[kind].desk.gate

    async def reset(self) -> None:
        """Empty every book, lift every fault, end every running course and callback; tokens stay good."""
        for supplier in self._suppliers.values():
            await supplier.desk.reset()

    async def start(self) -> None:
        """Listen, and go on with the state of the last run. Raises OSError for a taken port, or StateError."""
        # A client that hung up must not leave a held or silent exchange behind in memory.
        runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await runner.setup()
        site = web.TCPSite(runner, self.settings.host, self.settings.port, backlog=1024)
        try:
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._port = runner.addresses[0][1]
        if self.settings.state is not None:
            # The port is ours alone, and so is the file.
            desks = {kind: supplier.desk for kind, supplier in self._suppliers.items()}
            keeper = Keeper(self.settings.state, desks)
            try:
                keeper.start()
            except BaseException:
                await self.stop()
                raise
            self._keeper = keeper

    async def stop(self) -> None:
        """Cut what is open, end what runs, save the state."""
        for supplier in self._suppliers.values():
            await supplier.desk.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._keeper is not None:
            await self._keeper.stop()
            self._keeper = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=_BODY_LIMIT)
        for kind, supplier in self._suppliers.items():
            for route in supplier.routes():
                app.router.add_route(route.method, f"/{kind}{route.path}", _unless_down(supplier, route.handler))
        app.router.add_routes(
            [
                web.get("/", self._index),
                web.get("/books", self._all_books),
                web.get("/books/{kind}", self._one_book),
                web.get("/control", self._faults),
                web.post("/control/reset", self._reset),
                web.post("/control/{kind}/{action:hold|release|drop|down}", self._control),
            ]
        )
        return app

    async def _index(self, _: web.Request) -> web.Response:
        """What there is to see, for people."""
        rows = "".join(
            f"<li><b>{kind}</b>, {len(supplier.desk.book.orders)} orders: "
            f'<a href="/books/{kind}">books</a>, its API under <code>/{kind}/</code></li>'
            for kind, supplier in self._suppliers.items()
        )
        return web.Response(text=_INDEX.format(rows=rows), content_type="text/html")

    async def _all_books(self, _: web.Request) -> web.Response:
        return reply({kind: self.books(kind) for kind in self._suppliers})

    async def _one_book(self, request: web.Request) -> web.Response:
        return reply(self._named(request).desk.book.as_json())

    async def _faults(self, _: web.Request) -> web.Response:
        return reply({kind: supplier.desk.gate.as_json() for kind, supplier in self._suppliers.items()})

    async def _reset(self, _: web.Request) -> web.Response:
        await self.reset()
        return reply({"reset": True})

    async def _control(self, request: web.Request) -> web.Response:
        """Order one fault and answer with all faults of that supplier."""
        gate = self._named(request).desk.gate
        body = await request.read()
        try:
            return reply(_order_fault(gate, request.match_info["action"], json.loads(body) if body else {}))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return reply({"error": f"cannot read the request: {error!r}"}, 400)

    def _named(self, request: web.Request) -> Supplier:
        kind = request.match_info["kind"]
        if kind not in self._suppliers:
            raise web.HTTPNotFound(text=f"no such supplier: {kind}\n")
        return self._suppliers[kind]


def _unless_down(supplier: Supplier, handler: Any) -> _Handler:
    """A supplier's route: while it is down every connection is closed without an answer."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if supplier.desk.gate.down:
            return hang_up(request)
        try:
            response: web.StreamResponse = await handler(request)
        finally:
            supplier.desk.on_change()
        return response

    return handle


def _order_fault(gate: Gate, action: str, order: dict[str, Any]) -> dict[str, object]:
    match action:
        case "hold":
            count = order.get("next")
            gate.hold(None if count is None else _count(count))
        case "release":
            return {"released": gate.release(), **gate.as_json()}
        case "drop":
            when = order["when"]
            if when not in ("before", "after"):
                raise ValueError("when must be before or after")
            gate.drop(_count(order.get("next", 1)), when)
        case _:
            if not isinstance(order["down"], bool):
                raise ValueError("down must be true or false")
            gate.down = order["down"]
    return gate.as_json()


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("next must be a whole number")
    return value
