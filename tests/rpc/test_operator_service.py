"""What operators see: supplier accounts, their products, and what suppliers called back about."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web

from reward_adapters.contract import (
    Absent,
    Call,
    Callback,
    CancelAnswer,
    Context,
    FormEntry,
    HttpReply,
    HttpRequest,
    Listing,
    NotOffered,
    NotSent,
    NotSentCause,
    Outcome,
    ProductKind,
    Purchase,
    Refused,
    SupplierProduct,
    Traits,
    Unclear,
)
from reward_adapters.money import Money, yuan
from reward_server.store import CallbackRecord
from rewardservice.v1 import operator_service_pb2 as pb

from .world import Api, World, clock, refused, world

TIMES = dict.fromkeys(ProductKind, 900.0)


class Dealer:
    """An adapter whose supplier answers with one JSON text per path."""

    def __init__(self, url: str, *offered: str) -> None:
        self._url = url
        self._offered = offered
        self.traits = Traits(queryable=True, calls_back=True, read_timeout=5.0, send_by=TIMES, settle_by=TIMES)

    def place(self, purchase: Purchase, context: Context) -> Refused:
        raise AssertionError("operators don't buy")

    def query(self, purchases: Sequence[Purchase], context: Context) -> Call[Mapping[str, Outcome]] | NotOffered:
        return NotOffered("queries")

    def read_callback(self, callback: Callback) -> NotOffered:
        return NotOffered("callbacks")

    def cancel(self, purchase: Purchase, context: Context) -> Call[CancelAnswer] | NotOffered:
        return NotOffered("cancelling")

    def fetch_token(self, context: Context) -> NotOffered:
        return NotOffered("access tokens")

    def balance(self, context: Context) -> Call[Money | NotSent | Unclear] | NotOffered:
        if "balance" not in self._offered:
            return NotOffered("the balance")

        def read(reply: HttpReply) -> Money | NotSent | Unclear:
            said = reply.json()
            return yuan(said) if isinstance(said, str) else Unclear(f"HTTP {reply.status}")

        return Call(self._request("balance"), read)

    def products(self, context: Context, *, page: int = 1) -> Call[Listing | NotSent | Unclear] | NotOffered:
        if "products" not in self._offered:
            return NotOffered("a list of products")

        def read(reply: HttpReply) -> Listing | NotSent | Unclear:
            names = reply.json()
            if not isinstance(names, list):
                return Unclear(f"HTTP {reply.status}")
            return Listing(products=tuple(SupplierProduct(number=str(page), name=n) for n in names), more=page < 2)

        return Call(self._request("products"), read)

    def product(self, number: str, context: Context) -> Call[SupplierProduct | Absent | NotSent | Unclear] | NotOffered:
        if "products" not in self._offered:
            return NotOffered("single products")

        def read(reply: HttpReply) -> SupplierProduct | Absent | NotSent | Unclear:
            if reply.json() != number:
                return Absent()
            return SupplierProduct(
                number=number,
                name="Half a \ud800 pair",
                price=yuan("98.5"),
                stock=0,
                on_sale=False,
                details={"auto_confirm_hour": "24"},
            )

        return Call(self._request("product"), read)

    def order_form(self, number: str, context: Context) -> Call[tuple[FormEntry, ...] | NotSent | Unclear] | NotOffered:
        if "products" not in self._offered:
            return NotOffered("order forms")
        entry = FormEntry(key="zone", label="Zone", required=False, options=("a", "b"), hint="where")
        return Call(self._request("form"), lambda _reply: (entry,))

    def _request(self, path: str) -> HttpRequest:
        return HttpRequest(f"{self._url}/{path}", b"{}")


class Desk:
    """What the supplier says."""

    def __init__(self) -> None:
        self.url = ""
        self.says: dict[str, Any] = {"balance": "348.70", "products": ["one", "two"], "product": "7", "form": None}
        self.open = asyncio.Event()
        self.open.set()

    async def handle(self, request: web.Request) -> web.Response:
        await self.open.wait()
        return web.Response(body=json.dumps(self.says[request.path.lstrip("/")]).encode())


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    """A supplier that answers."""
    it = Desk()
    app = web.Application()
    app.router.add_post("/{path}", it.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    it.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield it
    finally:
        it.open.set()
        await runner.cleanup()


class Operated:
    """A server with two supplier accounts, and an operator."""

    def __init__(self, served: World, it: Desk) -> None:
        self.world = served
        self.desk = it
        self.api = served.api("operator-key")

    async def call(self, method: str, **fields: Any) -> Any:
        """Calls as the operator."""
        return await call(self.api, method, **fields)

    async def refusal(self, method: str, **fields: Any) -> Any:
        """How a call is refused."""
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.call(method, **fields)
        return refused(raised.value)

    async def called_back(
        self, body: bytes, *, at: int, order_id: str = "", number: str = "N", account: str = "b"
    ) -> None:
        """Keeps a callback as the engine does."""
        digest = hashlib.sha256(body).digest()
        sealed = self.world.vault.system.seal(body, "callback", account, digest.hex())
        assert await self.world.store.keep_callback(CallbackRecord(account, number, order_id, digest, at, sealed))


async def call(api: Api, method: str, **fields: Any) -> Any:
    """Calls a method of OperatorService."""
    request = getattr(pb, f"{method}Request")(**fields)
    return await getattr(api.operator, method)(request, metadata=api.metadata)


@pytest.fixture
async def operated(tmp_path: Path) -> AsyncIterator[Operated]:
    async with desk() as it:
        suppliers = {"b": Dealer(it.url), "a": Dealer(it.url, "balance", "products")}
        async with world(tmp_path, suppliers=suppliers) as served:
            yield Operated(served, it)


async def test_supplier_accounts_are_listed_with_state_and_balance(operated: Operated) -> None:
    """By name: how each does, what it offers, and what is left of our money there."""
    a, b = (await operated.call("ListSuppliers")).suppliers
    assert (a.name, a.adapter, a.state) == ("a", "scripted", pb.SUPPLIER_STATE_READY)
    assert (a.in_flight, a.max_in_flight) == (0, 16)
    assert (a.offers_query, a.offers_callbacks, a.offers_cancel) == (True, True, False)
    assert (a.offers_balance, a.offers_products) == (True, True)
    assert (a.balance.currency_code, a.balance.units, a.balance.nanos) == ("CNY", 348, 700_000_000)
    assert abs(a.balance_time.ToMilliseconds() - clock.now_ms()) < 60_000
    assert a.balance_problem == ""
    assert (b.offers_balance, b.offers_products, b.HasField("balance")) == (False, False, False)
    assert b.balance_problem == "the supplier doesn't tell"


@pytest.mark.rule("P15")
async def test_an_account_that_is_not_ready_says_why_and_until_when(operated: Operated) -> None:
    """Resting and paused accounts are told apart."""
    accounts = operated.world.accounts
    accounts["a"].heard(NotSent(cause=NotSentCause.RATE_LIMITED, retry_after=60))
    accounts["b"].heard(NotSent(cause=NotSentCause.CONFIGURATION, detail="1401: signature"))
    a, b = (await operated.call("ListSuppliers")).suppliers
    assert (a.state, a.state_reason) == (pb.SUPPLIER_STATE_RESTING, "rate_limited")
    assert (b.state, b.state_reason) == (pb.SUPPLIER_STATE_PAUSED, "the supplier refuses us: 1401: signature")
    assert b.state_end_time.ToMilliseconds() > clock.now_ms()


async def test_a_balance_that_cannot_be_had_is_no_error(operated: Operated) -> None:
    """The list comes all the same, with the last balance and why it is old."""
    await operated.call("ListSuppliers")
    operated.desk.says["balance"] = None
    a, _ = (await operated.call("ListSuppliers")).suppliers
    assert (a.balance.units, a.balance_problem) == (348, "HTTP 200")
    assert a.HasField("balance_time")


async def test_products_come_page_by_page(operated: Operated) -> None:
    """What the supplier doesn't say is not set, rather than zero."""
    first = await operated.call("ListSupplierProducts", supplier="a")
    assert [(product.number, product.name) for product in first.products] == [("1", "one"), ("1", "two")]
    assert first.more
    product = first.products[0]
    assert not any(product.HasField(name) for name in ("price", "stock", "on_sale"))
    assert not (await operated.call("ListSupplierProducts", supplier="a", page=2)).more


async def test_a_product_comes_with_what_an_order_needs(operated: Operated) -> None:
    """Zero in stock and not on sale are said; text that no message can hold is mended."""
    found = await operated.call("GetSupplierProduct", supplier="a", product="7")
    product = found.product
    assert (product.number, product.name, dict(product.details)) == ("7", "Half a ? pair", {"auto_confirm_hour": "24"})
    assert (product.price.units, product.stock, product.on_sale) == (98, 0, False)
    assert product.HasField("stock")
    assert product.HasField("on_sale")
    [entry] = found.order_form
    assert (entry.key, entry.label, entry.required, list(entry.options), entry.hint) == (
        *("zone", "Zone", False, ["a", "b"], "where"),
    )
    assert found.order_form_problem == ""


@pytest.mark.parametrize(
    ("method", "fields", "code", "reason"),
    [
        ("ListSupplierProducts", {"supplier": "c"}, grpc.StatusCode.NOT_FOUND, "SUPPLIER_NOT_FOUND"),
        ("ListCallbacks", {"supplier": "c"}, grpc.StatusCode.NOT_FOUND, "SUPPLIER_NOT_FOUND"),
        (
            "GetSupplierProduct",
            {"supplier": "a", "product": "8"},
            grpc.StatusCode.NOT_FOUND,
            "SUPPLIER_PRODUCT_NOT_FOUND",
        ),
        (
            "ListSupplierProducts",
            {"supplier": "b"},
            grpc.StatusCode.FAILED_PRECONDITION,
            "NOT_OFFERED_BY_SUPPLIER",
        ),
    ],
)
async def test_what_there_is_not(
    operated: Operated, method: str, fields: dict[str, str], code: grpc.StatusCode, reason: str
) -> None:
    """An unknown account, a product that isn't listed, and a question that the supplier doesn't take."""
    refusal = await operated.refusal(method, **fields)
    assert (refusal.code, refusal.reason) == (code, reason)
    assert refusal.metadata["supplier"] == fields["supplier"]
    assert refusal.metadata.get("suppliers", "a,b") == "a,b"


async def test_a_supplier_that_cannot_be_understood_may_be_asked_later(operated: Operated) -> None:
    """UNAVAILABLE with the time to wait, and with the reason in the words of the adapter."""
    operated.desk.says["products"] = None
    refusal = await operated.refusal("ListSupplierProducts", supplier="a")
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SUPPLIER_UNAVAILABLE")
    assert refusal.retry_after == 5.0


@pytest.mark.parametrize(
    ("method", "fields", "wrong"),
    [
        ("ListSupplierProducts", {}, "supplier"),
        ("ListSupplierProducts", {"supplier": "a", "page": -1}, "page"),
        ("ListSupplierProducts", {"supplier": "x" * 65}, "supplier"),
        ("GetSupplierProduct", {"supplier": "a"}, "product"),
        ("GetSupplierProduct", {"supplier": "a", "product": "a\nb"}, "product"),
        ("ListCallbacks", {"supplier": "a", "page_size": 201}, "page_size"),
        ("ListCallbacks", {"supplier": "a", "page_token": "abc"}, "page_token"),
    ],
)
async def test_what_is_wrong_is_named(operated: Operated, method: str, fields: dict[str, Any], wrong: str) -> None:
    """As in every other service."""
    refusal = await operated.refusal(method, **fields)
    assert refusal.reason == "INVALID_REQUEST"
    assert list(refusal.violations) == [wrong]


async def test_only_operators_may_ask(operated: Operated) -> None:
    """A client that orders is none."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(operated.world.api(), "ListSuppliers")
    assert refused(raised.value).reason == "PERMISSION_DENIED"
    assert refused(raised.value).metadata["permission"] == "operate"


async def test_callbacks_are_listed_newest_first_and_page_by_page(operated: Operated) -> None:
    """Every page continues where the one before ended, also between callbacks of the same millisecond."""
    for n in range(5):
        await operated.called_back(f'{{"status": {n}}}'.encode(), at=1_000 + n // 2, number=f"N{n}")
    await operated.called_back(b"{}", at=9_000, account="a")
    seen: list[str] = []
    token = ""
    while True:
        page = await operated.call("ListCallbacks", supplier="b", page_size=2, page_token=token)
        seen += [callback.number for callback in page.callbacks]
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == 5
    assert (seen[0], set(seen[1:3]), set(seen[3:])) == ("N4", {"N2", "N3"}, {"N0", "N1"})
    refusal = await operated.refusal("ListCallbacks", supplier="b", only_unknown=True, page_token=page_token(operated))
    assert list(refusal.violations) == ["page_token"]


def page_token(operated: Operated) -> str:
    """The token of a page of all callbacks of "b"."""
    return operated.world.tokens.page_token(("ListCallbacks", "operator", "b", "False"), f"1000:{'00' * 32}")


async def test_callbacks_for_unknown_numbers_can_be_had_alone(operated: Operated) -> None:
    """Those are what an operator looks for; the others belong to an order that can be looked at."""
    await operated.called_back(b'{"status": 1}', at=1_000, number="OURS", order_id="ORDER")
    await operated.called_back(b'{"status": 2}', at=2_000, number="THEIRS")
    everything = (await operated.call("ListCallbacks", supplier="b")).callbacks
    unknown = (await operated.call("ListCallbacks", supplier="b", only_unknown=True)).callbacks
    assert [(c.number, c.order_id) for c in everything] == [("THEIRS", ""), ("OURS", "ORDER")]
    assert [c.number for c in unknown] == ["THEIRS"]


async def test_of_a_callback_only_an_outline_is_shown(operated: Operated) -> None:
    """No card that it may bring, no recipient and no signature leaves the server."""
    body = b'{"status": 3, "card_list": [{"card_no": "AB12", "card_password": "34"}], "mobile": "1", "sign": "x"}'
    await operated.called_back(body, at=1_500)
    [callback] = (await operated.call("ListCallbacks", supplier="b")).callbacks
    assert callback.time.ToMilliseconds() == 1_500
    assert callback.size == len(body)
    cards = '[{"card_no": <hidden>, "card_password": <hidden>}]'
    assert callback.outline == f'{{"status": 3, "card_list": {cards}, "mobile": <hidden>, "sign": <hidden>}}'


async def test_a_callback_that_cannot_be_opened_is_listed_all_the_same(operated: Operated) -> None:
    """A lost key must not hide that something came."""
    await operated.world.store.keep_callback(CallbackRecord("b", "N", "", b"digest", 1_000, b"no sealed value"))
    [callback] = (await operated.call("ListCallbacks", supplier="b")).callbacks
    assert callback.outline.startswith("can't be opened: ")
