"""`rewardctl suppliers` and the calls behind it."""

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from rewardservice import Backoff, NotFoundError, RewardClient, yuan
from rewardservice._output import Output, print_order
from rewardservice.cli import run
from rewardservice.v1 import operator_service_pb2 as pb
from rewardservice.v1 import operator_service_pb2_grpc, order_pb2

from .scripted import Refusal, refuse

READY = pb.Supplier(
    name="kss_a",
    adapter="kasushou",
    state=pb.SUPPLIER_STATE_READY,
    in_flight=1,
    max_in_flight=16,
    offers_query=True,
    offers_balance=True,
    offers_products=True,
    balance=yuan("348.70"),
    balance_time=Timestamp(seconds=1_800_000_000),
)
PAUSED = pb.Supplier(
    name="dushu_a",
    adapter="dushu",
    state=pb.SUPPLIER_STATE_PAUSED,
    state_reason="1401: sign\x1b[2Jature",
    state_end_time=Timestamp(seconds=1_800_000_000),
    max_in_flight=16,
    offers_balance=True,
    balance_problem="no answer within 5 s",
)
PRODUCTS = (
    pb.SupplierProduct(number="2909", name="京东卡", price=yuan("98.5"), stock=0, on_sale=False, details={"b": "2"}),
    pb.SupplierProduct(number="2910", name="Q币"),
)
ENTRY = pb.OrderFormEntry(key="zone", label="Zone", options=["a", "b"], hint="where it counts")
HELD = pb.Supplier(
    name="kss_a",
    state=pb.SUPPLIER_STATE_PAUSED,
    state_reason="prices are wrong",
    paused_by="operator (Li)",
    pause_time=Timestamp(seconds=1_800_000_000),
)
REVIEW = pb.Review(
    order_id="ORDER1",
    client_id="shop",
    state=order_pb2.ORDER_STATE_NEEDS_REVIEW,
    open=[
        pb.OpenReview(
            purchase_number="N1",
            supplier="kss_a",
            reason=order_pb2.REVIEW_REASON_CONTRADICTION,
            open_time=Timestamp(seconds=1_800_000_000),
            detail="another\x1b[2J number",
            keeps_open=True,
            quantity=2,
            shown_cards=1,
            kept_cards=1,
        ),
        pb.OpenReview(purchase_number="N2", supplier="kss_a", reason=order_pb2.REVIEW_REASON_OVERCHARGED, quantity=1),
    ],
)
ENTRY_OF_PAUSE = pb.AuditEntry(by="operator (Li)", what="pause", supplier="kss_a", reason="prices are wrong")
UNKNOWN = pb.SupplierCallback(
    time=Timestamp(seconds=1_800_000_000), number="N1", size=12, outline='{"status": 3, "sign": <hidden>}'
)


KEY_RINGS = [
    pb.KeyRing(key_id="aa", count=1, master_key_ids=["k-1"]),
    pb.KeyRing(
        client_id="shop",
        key_id="bb",
        count=2,
        master_key_ids=["k-1", "k-2"],
        rotation=pb.Rotation(begin_time=Timestamp(seconds=1_800_000_000), resealed=12, unopened=1),
    ),
]


@dataclass
class Scripted(operator_service_pb2_grpc.OperatorServiceServicer):
    """Answers what a test says, and keeps what it was asked."""

    suppliers: list[pb.Supplier] = field(default_factory=lambda: [PAUSED, READY])
    refusal: Refusal | None = None
    asked: list[Any] = field(default_factory=list)
    audit: list[pb.AuditEntry] = field(default_factory=list)

    async def ListSuppliers(self, request: pb.ListSuppliersRequest, context: Any) -> pb.ListSuppliersResponse:
        await self._take(request, context)
        return pb.ListSuppliersResponse(suppliers=self.suppliers)

    async def ListSupplierProducts(
        self, request: pb.ListSupplierProductsRequest, context: Any
    ) -> pb.ListSupplierProductsResponse:
        await self._take(request, context)
        return pb.ListSupplierProductsResponse(products=PRODUCTS, more=True)

    async def GetSupplierProduct(
        self, request: pb.GetSupplierProductRequest, context: Any
    ) -> pb.GetSupplierProductResponse:
        await self._take(request, context)
        return pb.GetSupplierProductResponse(product=PRODUCTS[0], order_form=[ENTRY])

    async def ListCallbacks(self, request: pb.ListCallbacksRequest, context: Any) -> pb.ListCallbacksResponse:
        await self._take(request, context)
        more = "" if request.page_token else "page 2"
        return pb.ListCallbacksResponse(callbacks=[UNKNOWN, UNKNOWN], next_page_token=more)

    async def ListReviews(self, request: pb.ListReviewsRequest, context: Any) -> pb.ListReviewsResponse:
        await self._take(request, context)
        more = "" if request.page_token else "page 2"
        return pb.ListReviewsResponse(reviews=[REVIEW], next_page_token=more)

    async def ResolveOrder(self, request: pb.ResolveOrderRequest, context: Any) -> pb.ResolveOrderResponse:
        await self._take(request, context)
        order = order_pb2.Order(order_id=request.order_id, state=order_pb2.ORDER_STATE_FULFILLED)
        return pb.ResolveOrderResponse(order=order)

    async def PauseSupplier(self, request: pb.PauseSupplierRequest, context: Any) -> pb.PauseSupplierResponse:
        await self._take(request, context)
        return pb.PauseSupplierResponse(supplier=HELD)

    async def ResumeSupplier(self, request: pb.ResumeSupplierRequest, context: Any) -> pb.ResumeSupplierResponse:
        await self._take(request, context)
        return pb.ResumeSupplierResponse(supplier=READY)

    async def ListAuditEntries(self, request: pb.ListAuditEntriesRequest, context: Any) -> pb.ListAuditEntriesResponse:
        await self._take(request, context)
        more = "" if request.page_token else "page 2"
        if self.audit:
            return pb.ListAuditEntriesResponse(entries=self.audit)
        return pb.ListAuditEntriesResponse(entries=[ENTRY_OF_PAUSE], next_page_token=more)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:
        await self._take(request, context)
        return pb.ListKeysResponse(keys=KEY_RINGS, master_key_id="k-2")

    async def RotateKeys(self, request: pb.RotateKeysRequest, context: Any) -> pb.RotateKeysResponse:
        await self._take(request, context)
        return pb.RotateKeysResponse(keys=KEY_RINGS[1:])

    async def _take(self, request: Any, context: Any) -> None:
        self.asked.append(request)
        if self.refusal is not None:
            await refuse(context, self.refusal)


@pytest.fixture
async def operator() -> Scripted:
    return Scripted()


@pytest.fixture
async def operator_target(operator: Scripted) -> AsyncIterator[str]:
    server = aio.server(options=(("grpc.so_reuseport", 0),))
    operator_service_pb2_grpc.add_OperatorServiceServicer_to_server(operator, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@dataclass
class Run:
    """How a run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Rewardctl: TypeAlias = Callable[..., Awaitable[Run]]


@pytest.fixture
def rewardctl(operator_target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rewardctl:
    """Runs `rewardctl suppliers …` in this process, or another command when it is named."""
    for name in [name for name in os.environ if name.startswith(("REWARD", "COLUMNS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REWARDCTL_SERVER", operator_target)

    async def run_command(*arguments: str, command: str = "suppliers") -> Run:
        code = await run([command, *arguments])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Run(code, printed.out, printed.err)

    return run_command


async def test_suppliers_as_a_table(rewardctl: Rewardctl) -> None:
    """State, balance and offers of each account, and below it what is wrong."""
    ended = await rewardctl("--output", "table")

    assert ended.code == 0
    header, paused, ready, *below = ended.out.splitlines()
    assert header.split()[:3] == ["SUPPLIER", "ADAPTER", "STATE"]
    assert ready.split()[:5] == ["kss_a", "kasushou", "READY", "1/16", "¥348.7"]
    assert ready.endswith("query balance products")
    assert paused.split()[:4] == ["dushu_a", "dushu", "PAUSED", "0/16"]
    assert below[0].startswith("dushu_a  PAUSED until 20")
    assert below[0].endswith(": 1401: sign [2Jature")
    assert below[1] == "dushu_a  balance not read just now: no answer within 5 s"
    assert len(below) == 2


async def test_suppliers_as_json(rewardctl: Rewardctl) -> None:
    """One account a line, with the contract's names; a balance that isn't known isn't there."""
    ended = await rewardctl("--output", "json")

    paused, ready = ended.lines
    assert ready["balance"] == {"currency_code": "CNY", "units": "348", "nanos": 700_000_000}
    assert "balance" not in paused
    assert paused["balance_problem"] == "no answer within 5 s"
    assert (ready["offers_query"], ready["offers_cancel"]) == (True, False)


async def test_products_of_a_supplier(operator: Scripted, rewardctl: Rewardctl) -> None:
    """A page of them, and how to go on; what the supplier doesn't say stays empty."""
    table = await rewardctl("products", "kss_a", "--page", "2", "--output", "table")
    lines = await rewardctl("products", "kss_a")

    assert operator.asked[0] == pb.ListSupplierProductsRequest(supplier="kss_a", page=2)
    assert operator.asked[1].page == 1
    header, first, second, more = table.out.splitlines()
    assert header.split() == ["PRODUCT", "NAME", "PRICE", "STOCK", "ON", "SALE", "DETAILS"]
    assert first.split() == ["2909", "京东卡", "¥98.5", "0", "no", "b=2"]
    assert second.split() == ["2910", "Q币"]
    assert more == "continue with: --page 3"
    assert [line["number"] for line in lines.lines] == ["2909", "2910"]
    assert "stock" not in lines.lines[1]


async def test_one_product_of_a_supplier(operator: Scripted, rewardctl: Rewardctl) -> None:
    """With what an order of it needs."""
    table = await rewardctl("products", "kss_a", "2909", "--output", "table")
    as_json = await rewardctl("products", "kss_a", "2909", "--output", "json")

    assert operator.asked[0] == pb.GetSupplierProductRequest(supplier="kss_a", product="2909")
    assert "needs zone  Zone (optional): a, b  where it counts" in table.out
    assert as_json.lines[0]["order_form"][0]["key"] == "zone"


async def test_callbacks_of_a_supplier(operator: Scripted, rewardctl: Rewardctl) -> None:
    """Those for unknown numbers unless all are wanted, as many as wanted, page after page."""
    table = await rewardctl("callbacks", "kss_a", "--output", "table")
    await rewardctl("callbacks", "kss_a", "--all", "--limit", "2")
    three = await rewardctl("callbacks", "kss_a", "--limit", "3")

    assert [(asked.only_unknown, asked.page_size, asked.page_token) for asked in operator.asked] == [
        (True, 50, ""),
        (True, 50, "page 2"),
        (False, 2, ""),
        (True, 3, ""),
        (True, 3, "page 2"),
    ]
    head, outline, *_ = table.out.splitlines()
    assert head.endswith("N1  (none of ours, 12 bytes)")
    assert outline == '  {"status": 3, "sign": <hidden>}'
    assert len(three.lines) == 3


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("products",), ("products", "a", "1", "--page", "2"), ("products", "a", "--page", "0"),
     ("callbacks",), ("callbacks", "a", "--limit", "0"), ("pause", "a"), ("resume", "--reason", "x")],
)  # fmt: skip
async def test_wrong_usage(operator: Scripted, rewardctl: Rewardctl, arguments: tuple[str, ...]) -> None:
    """Answered on standard error with code 2, and nothing is asked."""
    ended = await rewardctl(*arguments)

    assert (ended.code, ended.out, operator.asked) == (2, "", [])
    assert ended.err.startswith("rewardctl: ")


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Refusal(grpc.StatusCode.NOT_FOUND, "SUPPLIER_NOT_FOUND", "no supplier account 'x'; there are: a"), 3),
        (Refusal(grpc.StatusCode.FAILED_PRECONDITION, "NOT_OFFERED_BY_SUPPLIER", "a doesn't offer it"), 4),
        (Refusal(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", "lacks 'operate'"), 5),
        (Refusal(grpc.StatusCode.UNAVAILABLE, "SUPPLIER_UNAVAILABLE", "a doesn't answer", retry_after=0.01), 6),
    ],
)
async def test_exit_codes(operator: Scripted, rewardctl: Rewardctl, refusal: Refusal, code: int) -> None:
    """As for every other command, with the server's own words."""
    operator.refusal = refusal
    ended = await rewardctl("products", "x")

    assert ended.code == code
    assert ended.err == f"rewardctl: {refusal.message} ({refusal.reason})\n"


def test_kept_answers_of_an_explained_order_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Below the evidence, in outline, and nothing in them can steer the terminal."""
    kept = order_pb2.KeptAnswer(source="place", size=9, outline="not UTF-8\x1b[2J")
    purchase = order_pb2.Purchase(number="N1", answers=[kept])
    print_order(Output("table"), order_pb2.Order(order_id="A", purchases=[purchase]), show_cards=False)
    assert capsys.readouterr().out.endswith("answers kept for N1\n   place, 9 bytes: not UTF-8 [2J\n")


async def test_pausing_and_resuming_a_supplier(operator: Scripted, rewardctl: Rewardctl) -> None:
    """With a reason, and whoever gives it; what comes of it is shown."""
    paused = await rewardctl("pause", "kss_a", "--reason", "prices are wrong", "--actor", "Li", "--output", "table")
    resumed = await rewardctl("resume", "kss_a", "--reason", "mended", "--output", "table")
    as_json = await rewardctl("pause", "kss_a", "--reason", "again")

    assert operator.asked[:2] == [
        pb.PauseSupplierRequest(supplier="kss_a", reason="prices are wrong", actor="Li"),
        pb.ResumeSupplierRequest(supplier="kss_a", reason="mended"),
    ]
    assert paused.out.startswith("kss_a  PAUSED by operator (Li) since 2027-01-1")
    assert paused.out.endswith(": prices are wrong\n")
    assert resumed.out == "kss_a  READY\n"
    assert as_json.lines[0]["paused_by"] == "operator (Li)"


async def test_completion_knows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """The shell completes them like every other command."""
    for shell in ("bash", "zsh", "fish"):
        assert await run(["completion", shell]) == 0
        printed = capsys.readouterr().out
        assert "suppliers" in printed
        assert "resolve" in printed
        assert "callbacks" in printed


async def test_the_client_offers_the_same_calls(operator: Scripted, operator_target: str) -> None:
    """`RewardClient` has them too, and raises what it raises for every call."""
    async with RewardClient(operator_target, "operator-key", backoff=Backoff(attempts=1)) as client:
        assert [supplier.name for supplier in await client.list_suppliers()] == ["dushu_a", "kss_a"]
        assert (await client.supplier_products("kss_a")).more
        assert (await client.supplier_product("kss_a", "2909")).product.number == "2909"
        assert [callback.number async for callback in client.callbacks("kss_a")] == ["N1"] * 4
        assert [review.order_id async for review in client.reviews()] == ["ORDER1"] * 2
        assert (await client.resolve_order("ORDER1", "N1", pb.DECISION_FAIL, reason="lost")).order_id == "ORDER1"
        assert (await client.pause_supplier("kss_a", reason="odd")).paused_by == "operator (Li)"
        assert (await client.resume_supplier("kss_a", reason="fine")).state == pb.SUPPLIER_STATE_READY
        assert [entry.what async for entry in client.audit_entries()] == ["pause"] * 2
        operator.refusal = Refusal(grpc.StatusCode.NOT_FOUND, "SUPPLIER_NOT_FOUND")
        with pytest.raises(NotFoundError):
            await client.supplier_products("x")
