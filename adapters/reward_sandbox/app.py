"""The server: five suppliers under `/{kind}/`, their books under `/books`, ordered faults under `/control`."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from reward_sandbox import control
from reward_sandbox.desk import Desk, Supplier
from reward_sandbox.faults import Call
from reward_sandbox.gate import Gate
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.shops import shops
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
<p>Order faults: <code>POST /control/SUPPLIER/ACTION</code> (docs/sandbox.md lists the actions); empty all books:
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
        self._suppliers: dict[str, Supplier] = {kind: shop.open(self.settings) for kind, shop in shops().items()}
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

    def desk(self, kind: str) -> Desk:
        """One supplier's shop."""
        return self._suppliers[kind].desk

    async def order(self, kind: str, action: str, **body: Any) -> dict[str, object]:
        """What `POST /control/{kind}/{action}` does. Raises ValueError."""
        return await control.carry_out(self._suppliers[kind].desk, action, body)

    def forward(self, seconds: float) -> None:
        """Move the books' time of all suppliers forward."""
        for supplier in self._suppliers.values():
            supplier.desk.timeline.forward(seconds)

    @property
    def idle(self) -> bool:
        """Whether no order's course runs, no callback is on its way and no call is being answered."""
        return all(supplier.desk.idle for supplier in self._suppliers.values())

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
            self._application(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            keepalive_timeout=self.settings.keepalive_seconds,
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
            for call, route in supplier.routes():
                app.router.add_route(route.method, f"/{kind}{route.path}", _serve(supplier, call, route.handler))
        app.router.add_routes(
            [
                web.get("/", self._index),
                web.get("/books", self._all_books),
                web.get("/books/{kind}", self._one_book),
                web.get("/control", self._faults),
                web.post("/control/reset", self._reset),
                web.post("/control/clock", self._forward),
                web.post("/control/{kind}/{action}", self._control),
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
        return reply({kind: control.present(supplier.desk) for kind, supplier in self._suppliers.items()})

    async def _reset(self, _: web.Request) -> web.Response:
        await self.reset()
        return reply({"reset": True})

    async def _forward(self, request: web.Request) -> web.Response:
        """Move the books' time of all suppliers forward."""
        try:
            seconds = control.forward(control.read(await request.read()))
        except ValueError as error:
            return reply({"error": str(error)}, 400)
        self.forward(seconds)
        return reply({"forward": seconds})

    async def _control(self, request: web.Request) -> web.Response:
        """Carry out one order and answer with what holds now."""
        supplier = self._named(request)
        body = await request.read()
        try:
            order = control.read(body)
            return reply(await control.carry_out(supplier.desk, request.match_info["action"], order))
        except ValueError as error:
            return reply({"error": str(error)}, 400)

    def _named(self, request: web.Request) -> Supplier:
        kind = request.match_info["kind"]
        if kind not in self._suppliers:
            raise web.HTTPNotFound(text=f"no such supplier: {kind}\n")
        return self._suppliers[kind]


def _serve(supplier: Supplier, call: Call, handler: Any) -> _Handler:
    """A supplier's route."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await supplier.desk.serve(request, call, handler)

    return handle
