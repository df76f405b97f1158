"""A supplier that can be asked: for our balance, its products and its order forms, over real HTTP.

`Desk` is the supplier's side, `ScriptedDealer` the adapter for its wire, where each answer is one JSON object.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiohttp import web

from reward_adapters.contract import (
    Absent,
    Call,
    Callback,
    CallbackRefused,
    CancelAnswer,
    Context,
    FormEntry,
    HttpReply,
    HttpRequest,
    Listing,
    Notice,
    NotOffered,
    NotSent,
    NotSentCause,
    Outcome,
    Purchase,
    Refused,
    SupplierProduct,
    Token,
    Traits,
    Unclear,
)
from reward_adapters.money import Money, yuan

T = TypeVar("T")

PRODUCT = SupplierProduct(number="7", name="京东卡 100", price=yuan("98.5"), stock=3, on_sale=True, details={"a": "b"})
ZONE = FormEntry(key="zone", label="Zone", options=("a", "b"), hint="where it counts")
RECIPIENT = FormEntry(key="recharge_account", label="Account")


class ScriptedDealer:
    """The adapter. `offered` are the questions that the supplier answers."""

    def __init__(self, url: str, traits: Traits, *offered: str) -> None:
        self._url = url
        self._traits = traits
        self.offered = set(offered)
        self.defects: set[str] = set()

    @property
    def traits(self) -> Traits:
        return self._traits

    def place(self, purchase: Purchase, context: Context) -> Refused:
        return Refused(code="9", message="nothing is sold here", certain=True)

    def query(self, purchases: Sequence[Purchase], context: Context) -> Call[Mapping[str, Outcome]] | NotOffered:
        raise AssertionError("nothing here looks")

    def read_callback(self, callback: Callback) -> Notice | CallbackRefused | NotOffered:
        return NotOffered("callbacks")

    def cancel(self, purchase: Purchase, context: Context) -> Call[CancelAnswer] | NotOffered:
        return NotOffered("cancelling")

    def fetch_token(self, context: Context) -> Call[Token | NotSent] | NotOffered:
        return Call(self._request("token", context), lambda reply: Token(reply.json()["token"], 3600.0))

    def balance(self, context: Context) -> Call[Money | NotSent | Unclear] | NotOffered:
        return self._ask("balance", context, lambda said: yuan(said["balance"]))

    def products(self, context: Context, *, page: int = 1) -> Call[Listing | NotSent | Unclear] | NotOffered:
        return self._ask(f"products/{page}", context, lambda said: Listing(products=(PRODUCT,), more=said["more"]))

    def product(self, number: str, context: Context) -> Call[SupplierProduct | Absent | NotSent | Unclear] | NotOffered:
        return self._ask(f"product/{number}", context, lambda said: PRODUCT if said["found"] else Absent())

    def order_form(self, number: str, context: Context) -> Call[tuple[FormEntry, ...] | NotSent | Unclear] | NotOffered:
        return self._ask(f"form/{number}", context, read_form)

    def _ask(
        self, path: str, context: Context, understand: Callable[[Any], T]
    ) -> Call[T | NotSent | Unclear] | NotOffered:
        what = path.partition("/")[0]
        if what not in self.offered:
            return NotOffered(what)
        if what in self.defects:
            raise UnicodeError("a defect")

        def read(reply: HttpReply) -> T | NotSent | Unclear:
            said = reply.json()
            if isinstance(said, dict) and "not sent" in said:
                return NotSent(cause=NotSentCause(said["not sent"]), detail="1401: signature")
            return understand(said) if isinstance(said, dict) else Unclear("unreadable")

        return Call(self._request(path, context), read)

    def _request(self, path: str, context: Context) -> HttpRequest:
        return HttpRequest(f"{self._url}/{path}", b"{}", {"X-Token": context.token or ""})


class Desk:
    """The supplier: what it answers by the first part of the path, and what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, str]] = []
        """Path and access token of each question."""
        self.says: dict[str, Any] = {
            "token": {"token": "token1"},
            "balance": {"balance": "348.70"},
            "products": {"more": True},
            "product": {"found": True},
            "form": {"form": [form_entry(RECIPIENT), form_entry(ZONE)]},
        }
        self.open = asyncio.Event()
        """While it isn't set the supplier doesn't answer."""
        self.open.set()
        self.hanging: set[str] = set()
        """Paths that are answered only when the supplier closes."""
        self.closing = asyncio.Event()

    @property
    def paths(self) -> list[str]:
        """What was asked."""
        return [path for path, _ in self.asked]

    async def handle(self, request: web.Request) -> web.Response:
        await request.read()
        path = request.path.lstrip("/")
        self.asked.append((path, request.headers["X-Token"]))
        await self.open.wait()
        if path in self.hanging:
            await self.closing.wait()
        said = self.says.get(path, self.says[path.partition("/")[0]])
        return web.Response(body=said if isinstance(said, bytes) else json.dumps(said).encode())


def read_form(said: Any) -> tuple[FormEntry, ...]:
    """The entries off the wire."""
    return tuple(FormEntry(**{**entry, "options": tuple(entry["options"])}) for entry in said["form"])


def form_entry(entry: FormEntry) -> dict[str, Any]:
    """The entry on the wire."""
    return {"key": entry.key, "label": entry.label, "required": entry.required, "options": list(entry.options)}


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    """A supplier that answers."""
    it = Desk()
    app = web.Application()
    app.router.add_post("/{path:.*}", it.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    it.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield it
    finally:
        it.open.set()
        it.closing.set()
        await runner.cleanup()
