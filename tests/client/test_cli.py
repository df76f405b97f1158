"""`rewardctl` as scripts and people see it: what it prints, where, and how it ends."""

import asyncio
import json
import os
import pty
import re
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest
from google.type import money_pb2

from rewardservice.cli import run
from rewardservice.v1 import catalog_service_pb2 as catalog
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb

from .scripted import Refusal, Scripted, fulfilled, hang, heartbeat, order, product, snapshot, snapshot_end, update

RUN = "import sys; from rewardservice.cli import main; sys.exit(main())"
DEMO_PRODUCTS = (
    "kuaiduibao/card",
    "kaquan91_card/type-1",
    "kaquan91_recharge/topup",
    "kasushou/card",
    "dushu/membership",
)


@dataclass
class Run:
    """How a run of the program ended."""

    code: int | None
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def environment(target: str, **variables: str) -> dict[str, str]:
    """Our own variables only: the developer's must not change what is tested."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REWARD", "COLUMNS"))}
    return {**kept, "REWARDCTL_SERVER": target, "TERM": "xterm", **variables}


async def program(target: str, *arguments: str, **variables: str) -> Run:
    """Runs the program as a process, with its output in pipes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        RUN,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(target, **variables),
    )
    out, err = await process.communicate()
    assert b"Traceback" not in err
    return Run(process.returncode, out.decode(), err.decode())


Rewardctl: TypeAlias = Callable[..., Awaitable[Run]]


@pytest.fixture
def rewardctl(target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rewardctl:
    """Runs a command in this process, which is quicker by far."""
    for name in [name for name in os.environ if name.startswith(("REWARD", "COLUMNS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REWARDCTL_SERVER", target)

    async def run_command(*arguments: str, **variables: str) -> Run:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            code = await run(list(arguments))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Run(code, printed.out, printed.err)

    return run_command


async def on_terminal(target: str, *arguments: str) -> Run:
    """Runs the program on a terminal of 200 columns; `out` is everything it drew."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, *arguments, stdout=theirs, stderr=theirs, env=environment(target, COLUMNS="200")
    )
    os.close(theirs)
    drawn = await asyncio.to_thread(_read_all, ours)
    os.close(ours)
    return Run(await process.wait(), drawn, "")


def _read_all(descriptor: int) -> str:
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(descriptor, 65_536)
        except OSError:  # Linux: the other side is gone
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


async def test_help_names_commands_and_exit_codes(rewardctl: Rewardctl) -> None:
    """The help lists what there is, how to reach the server, and what the exit codes mean."""
    ended = await rewardctl("--help")

    assert ended.code == 0
    for word in ("order", "products", "demo", "completion", "REWARDCTL_SERVER", "--tls-ca-file", "Exit codes"):
        assert word in ended.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("order", "create"),
        ("order", "nonsense"),
        ("order", "get"),
        ("order", "get", "A", "--client-order-id", "c-A"),
        ("order", "get", "A", "--explain", "--show-cards"),
        ("order", "create", "jd-100", "--phone", "138", "--qq", "10001"),
        ("order", "create", "jd-100", "--metadata", "novalue"),
        ("order", "create", "jd-100", "--max-unit-price", "cheap"),
        ("order", "create", "jd-100", "--quantity", "many"),
        ("order", "watch", "--resume-token", "t1", "--from-now"),
        ("order", "list", "--state", "sleeping"),
        ("products", "a/1", "--kind", "card"),
        ("products", "a/1", "--search", "a"),
        ("products", "--output", "xml"),
        ("products", "--server", "rewards.internal:50051"),
        ("products", "--key-file", "/no/such/file"),
        ("products", "--tls-cert-file", "/no/such/file"),
    ],
)
async def test_wrong_usage(rewardctl: Rewardctl, arguments: tuple[str, ...]) -> None:
    """A command line that makes no sense is answered on standard error, with code 2."""
    ended = await rewardctl(*arguments)

    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("rewardctl: ")


async def test_products_as_json(script: Scripted, rewardctl: Rewardctl) -> None:
    """Without a terminal every product is one line of JSON with the contract's names, empty fields included."""
    script.products = [product("a/1"), product("b/2")]

    ended = await rewardctl("products")

    assert ended.code == 0
    assert [line["product_id"] for line in ended.lines] == ["a/1", "b/2"]
    assert ended.lines[0]["kind"] == "PRODUCT_KIND_CARD"
    assert ended.lines[0]["not_orderable_reason"] == "NOT_ORDERABLE_REASON_UNSPECIFIED"


async def test_products_as_table(script: Scripted, rewardctl: Rewardctl) -> None:
    """A table shows prices and says why a product can't be ordered, and text of others can't steer the terminal."""
    script.products = [product("a/1"), product("b/2")]
    script.products[1].orderable = False
    script.products[1].not_orderable_reason = catalog.NOT_ORDERABLE_REASON_SUPPLIER_PAUSED
    script.products[1].name = "[red]京东\x1b[2J卡"

    ended = await rewardctl("products", "--output", "table")

    assert ended.code == 0
    header, first, second = ended.out.splitlines()
    assert header.split()[:3] == ["PRODUCT", "NAME", "KIND"]
    assert "¥98.5" in first
    assert "no: SUPPLIER_PAUSED" in second
    assert "[red]京东 [2J卡" in second


async def test_product_by_id(script: Scripted, rewardctl: Rewardctl) -> None:
    """One product is shown by its id, and one that isn't there ends with code 3."""
    script.products = [product("a/1")]

    found = await rewardctl("products", "show", "a/1")
    short = await rewardctl("products", "a/1")
    table = await rewardctl("products", "a/1", "--output", "table")
    missing = await rewardctl("products", "a/2")

    assert found.lines[0]["product_id"] == "a/1"
    assert short.out == found.out
    assert "name        Name of a/1" in table.out
    assert (missing.code, missing.out) == (3, "")
    assert missing.err == "rewardctl: no such product (PRODUCT_NOT_FOUND)\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("products", "a/1", "b/2"), ["unexpected argument: b/2", "see rewardctl products --help"]),
        (("order", "create"), ["PRODUCT_ID is missing", "see rewardctl order create --help"]),
        (("order", "create", "a/1", "--wait"), ["--wait needs a value", "see rewardctl order create --help"]),
        (
            ("order", "create", "a/1", "--quantity", "many"),
            ['Invalid value for --quantity: "many" is not a whole number', "see rewardctl order create --help"],
        ),
        (
            ("products", "--server", "rewards.internal:1"),
            ["no API key for rewards.internal:1: give --key-file, or set REWARDCTL_KEY", "see rewardctl --help"],
        ),
    ],
)
async def test_usage_in_plain_words(rewardctl: Rewardctl, arguments: tuple[str, ...], complaint: list[str]) -> None:
    """Wrong usage is explained without the words of a framework, and points at the right help."""
    ended = await rewardctl(*arguments, REWARDCTL_KEY="")

    assert [line.removeprefix("rewardctl: ") for line in ended.err.splitlines()] == complaint


async def test_create_sends_the_order(script: Scripted, rewardctl: Rewardctl) -> None:
    """The options become the request, and the answer is printed whole."""
    script.creates.append(pb.CreateOrderResponse(order=order("A"), resume_token="t1"))

    ended = await rewardctl(
        *("order", "create", "jd-100", "--quantity", "2", "--phone", "13800138000", "--client-order-id", "c-A"),
        *("--max-unit-price", "99.50", "--param", "area=北京", "--metadata", "a=1", "--metadata", "b=2=3"),
    )

    assert ended.code == 0
    assert ended.lines[0]["order"]["order_id"] == "A"
    assert ended.lines[0]["resume_token"] == "t1"
    sent = script.create_requests[0]
    assert (sent.product_id, sent.quantity, sent.client_order_id) == ("jd-100", 2, "c-A")
    assert (sent.recipient.phone.area_code, sent.recipient.phone.number) == ("+86", "13800138000")
    assert (sent.max_unit_price.units, sent.max_unit_price.nanos) == (99, 500_000_000)
    assert dict(sent.supplier_parameters) == {"area": "北京"}
    assert dict(sent.metadata) == {"a": "1", "b": "2=3"}
    assert sent.view == order_pb2.ORDER_VIEW_BASIC


async def test_create_prints_violations(script: Scripted, rewardctl: Rewardctl) -> None:
    """A refused request is one clear line, and one for every field."""
    script.creates.append(
        Refusal(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "2 fields are wrong",
            violations={"quantity": "must be 1 to 100", "recipient": "is missing"},
        )
    )

    ended = await rewardctl("order", "create", "jd-100", "--quantity", "0")

    assert (ended.code, ended.out) == (4, "")
    assert ended.err.splitlines() == [
        "rewardctl: 2 fields are wrong (INVALID_REQUEST)",
        "rewardctl:   quantity (--quantity): must be 1 to 100",
        "rewardctl:   recipient (--phone, --qq or --account): is missing",
    ]


async def test_one_violation_is_one_line(script: Scripted, rewardctl: Rewardctl) -> None:
    """A server with one complaint makes it the message; it isn't said again, and the option to mend is named."""
    field, words = "recipient.phone.number", "must have 11 digits for +86"
    script.creates.append(
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", f"{field}: {words}", violations={field: words})
    )

    ended = await rewardctl("order", "create", "jd-100", "--phone", "138")

    assert ended.err == f"rewardctl: {field} (--phone): {words} (INVALID_REQUEST)\n"


async def test_errors_name_what_the_command_line_has(script: Scripted, rewardctl: Rewardctl) -> None:
    """Hints of the contract become commands, and a price above the limit is shown with the limit."""
    script.creates += [
        Refusal(grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND", "no product 'x'; ListProducts shows what there is"),
        Refusal(
            grpc.StatusCode.FAILED_PRECONDITION,
            "PRICE_ABOVE_LIMIT",
            "the cheapest offer of 'x' costs more than max_unit_price",
            metadata={"price": "98.50", "limit": "3.00"},
        ),
    ]

    missing = await rewardctl("order", "create", "x")
    dear = await rewardctl("order", "create", "x", "--max-unit-price", "3")

    assert "`rewardctl products` lists what there is" in missing.err
    assert dear.err.splitlines()[1] == "rewardctl:   price ¥98.50, limit ¥3.00"


@pytest.mark.parametrize(
    ("code", "reason", "exit_code"),
    [
        (grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND", 3),
        (grpc.StatusCode.FAILED_PRECONDITION, "PRICE_ABOVE_LIMIT", 4),
        (grpc.StatusCode.ALREADY_EXISTS, "CLIENT_ORDER_ID_REUSED", 4),
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", 5),
        (grpc.StatusCode.PERMISSION_DENIED, "CARDS_NOT_PERMITTED", 5),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", 6),
        (grpc.StatusCode.INTERNAL, "INTERNAL", 70),
    ],
)
async def test_exit_codes_of_errors(
    script: Scripted, rewardctl: Rewardctl, code: grpc.StatusCode, reason: str, exit_code: int
) -> None:
    """Scripts can tell the kinds of errors apart by the exit code."""
    script.refusal = Refusal(code, reason)

    ended = await rewardctl("order", "get", "A")

    assert ended.code == exit_code
    assert "it went wrong" in ended.err


async def test_unreachable_server_names_the_id(rewardctl: Rewardctl) -> None:
    """When it is unknown whether the order arrived, the id to repeat the command with is printed."""
    ended = await rewardctl(
        *("order", "create", "jd-100", "--client-order-id", "c-7", "--timeout", "1"), REWARDCTL_SERVER="127.0.0.1:1"
    )

    assert ended.code == 6
    assert "nothing listens on 127.0.0.1:1; is the server running? (make run)" in ended.err
    assert "--client-order-id c-7" in ended.err


async def test_cards_are_shown_on_request_only(script: Scripted, rewardctl: Rewardctl) -> None:
    """A table counts the cards, and shows them with --show-cards."""
    script.orders["A"] = fulfilled("A")

    hidden = await rewardctl("order", "get", "A", "--output", "table")
    shown = await rewardctl("order", "get", "A", "--output", "table", "--show-cards")

    assert "FULFILLED" in hidden.out
    assert "SECRET-1" not in hidden.out
    assert shown.out.splitlines()[-3:] == ["card of A, jd-100", "  number        NO-1", "  secret        SECRET-1"]


async def test_products_are_searched_by_id_and_name(script: Scripted, rewardctl: Rewardctl) -> None:
    """Whatever the letter case."""
    script.products = [product("jd-100"), product("jd-200"), product("tm-100")]
    ended = await rewardctl("products", "--search", "JD-")
    assert [json.loads(line)["product_id"] for line in ended.out.splitlines()] == ["jd-100", "jd-200"]


async def test_explained_order(script: Scripted, rewardctl: Rewardctl) -> None:
    """--explain shows the purchases and what is known about them."""
    explained = fulfilled("A")
    purchase = explained.purchases.add(number="01P", supplier="kss_a", state=order_pb2.PURCHASE_STATE_DELIVERED)
    purchase.evidence.add(source="place", outcome="Delivered", detail="code 0")
    purchase.supplier_reference = "TO0115"
    purchase.cost.CopyFrom(money_pb2.Money(currency_code="CNY", units=98, nanos=500_000_000))
    script.orders["A"] = explained

    ended = await rewardctl("order", "get", "A", "--explain", "--output", "table")

    assert "place: Delivered code 0" in ended.out
    assert "the supplier's number TO0115, charged ¥98.5" in ended.out


async def test_an_explained_order_tells_why_there_and_why_so_late(script: Scripted, rewardctl: Rewardctl) -> None:
    """The offers in their order, and of each purchase what it waits for, its deadlines and its looks."""
    late = order("A")
    late.offers.add(supplier="kss_a", supplier_product="2909", use=order_pb2.OFFER_USE_PAUSED, why="it was paused")
    used = late.offers.add(
        supplier="kss_b", supplier_product="17", use=order_pb2.OFFER_USE_USED, why="the first\x1b[2J"
    )
    used.unit_cost.CopyFrom(money_pb2.Money(currency_code="CNY", units=98, nanos=500_000_000))
    used.unit_limit.CopyFrom(money_pb2.Money(currency_code="CNY", units=99))
    purchase = late.purchases.add(number="01P", supplier="kss_b", waits_for="a look", looks=3, last_look="Absent")
    for time in (purchase.send_deadline, purchase.settle_deadline, purchase.last_look_time, purchase.next_look_time):
        time.FromSeconds(1_780_000_000)
    dead = late.purchases.add(number="02P", looks=1)
    dead.failure.reason, dead.failure.message = order_pb2.FAILURE_REASON_OUT_OF_STOCK, "sold out"
    dead.refunded.CopyFrom(used.unit_cost)
    script.orders["A"] = late

    ended = await rewardctl("order", "get", "A", "--explain", "--output", "table")

    lines = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", line) for line in ended.out.splitlines()]
    begin = lines.index("offers in the order in which they are tried")
    assert lines[begin + 1 : begin + 3] == [
        "  1. kss_a 2909, ¥0 a unit, at most ¥0: PAUSED: it was paused",
        "  2. kss_b 17, ¥98.5 a unit, at most ¥99: USED: the first [2J",
    ]
    begin = lines.index("purchase 01P")
    assert lines[begin + 1 :] == [
        "  waits for a look",
        "  to be sent by TIME, settled by TIME",
        "  3 looks, the last at TIME: Absent, the next at TIME",
        "purchase 02P",
        "  1 look",
        "  dead: OUT_OF_STOCK: sold out",
        "evidence for 02P: returned ¥98.5",
    ]


async def test_cancelled_order(script: Scripted, rewardctl: Rewardctl) -> None:
    """`order cancel` shows the order as it is then; an order that has ended is refused with its own exit code."""
    script.orders["A"] = order("A")

    ended = await rewardctl("order", "cancel", "A", "--output", "table")

    assert ended.code == 0
    assert "CANCELLED" in ended.out
    assert "cancel wished" in ended.out
    script.refusal = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "ORDER_NOT_CANCELLABLE", "it is fulfilled")
    late = await rewardctl("order", "cancel", "--client-order-id", "c-A")
    assert late.code == 4
    assert "ORDER_NOT_CANCELLABLE" in late.err


async def test_order_that_was_taken_back(script: Scripted, rewardctl: Rewardctl) -> None:
    """What became of a delivery stands beside the state, which stays, and beside the card."""
    reversed_order = fulfilled(
        "A", after_sale=order_pb2.AFTER_SALE_REVERSED, review_reasons=[order_pb2.REVIEW_REASON_REVERSED]
    )
    reversed_order.cards[0].after_sale = order_pb2.AFTER_SALE_REVERSED
    purchase = reversed_order.purchases.add(number="01P")
    purchase.review_items.add(reason=order_pb2.REVIEW_REASON_REVERSED, detail="the money came back")
    script.orders["A"] = reversed_order

    ended = await rewardctl("order", "get", "A", "--output", "table", "--show-cards")

    assert ended.code == 0
    lines = [line.split() for line in ended.out.splitlines()]
    assert ["state", "FULFILLED"] in lines
    assert ["to", "be", "looked", "at", "REVERSED"] in lines
    assert lines.count(["after", "sale", "REVERSED"]) == 2
    assert "to be looked at: REVERSED: the money came back" in ended.out


async def test_lists_orders(script: Scripted, rewardctl: Rewardctl) -> None:
    """Orders are listed up to the limit, over pages, in the states asked for."""
    script.orders = {name: order(name) for name in "ABCDE"}

    ended = await rewardctl("order", "list", "--limit", "3", "--state", "needs-review", "--state", "failed")

    assert [line["order_id"] for line in ended.lines] == ["A", "B", "C"]
    assert list(script.list_requests[0].states) == [
        order_pb2.ORDER_STATE_NEEDS_REVIEW,
        order_pb2.ORDER_STATE_FAILED,
    ]


async def test_updates_to_the_end_of_the_log(script: Scripted, rewardctl: Rewardctl) -> None:
    """With --all the log is read to its end, page after page."""
    script.orders = {name: order(name) for name in "ABCDE"}

    ended = await rewardctl("order", "updates", "--limit", "2", "--all")
    table = await rewardctl("order", "updates", "--limit", "2", "--output", "table")

    assert [line["order"]["order_id"] for line in ended.lines] == list("ABCDE")
    assert table.out.splitlines()[-1] == "continue with: --after t2"


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (order_pb2.ORDER_STATE_FULFILLED, 0),
        (order_pb2.ORDER_STATE_FAILED, 1),
        (order_pb2.ORDER_STATE_PARTIALLY_FULFILLED, 1),
        (order_pb2.ORDER_STATE_CANCELLED, 1),
        (order_pb2.ORDER_STATE_NEEDS_REVIEW, 7),
    ],
)
async def test_create_and_watch(
    script: Scripted, rewardctl: Rewardctl, state: order_pb2.OrderState.ValueType, code: int
) -> None:
    """Watching ends when the order does, and the exit code says how; a cut on the way is mended."""
    script.creates.append(pb.CreateOrderResponse(order=order("A"), resume_token="t1"))
    script.streams += [
        [update(order("A", 2), "t2"), Refusal(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", retry_after=0.01)],
        [update(order("A", 3, state), "t3"), hang],
    ]

    ended = await rewardctl("order", "create", "jd-100", "--watch")

    assert ended.code == code
    assert [line["update"]["order"]["version"] for line in ended.lines[1:]] == ["2", "3"]
    assert [request.resume_token for request in script.stream_requests] == ["t1", "t2"]


async def test_program_tells_about_lost_connections(script: Scripted, target: str) -> None:
    """The person sees on standard error that a stream was lost and is taken up again."""
    script.streams += [
        [Refusal(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", retry_after=0.01)],
        [snapshot(fulfilled("A")), snapshot_end("t1")],
    ]

    ended = await program(target, "order", "watch", "A")

    assert ended.code == 0
    assert ended.err.splitlines() == [
        "rewardctl: stream lost: it went wrong; connecting again",
        "rewardctl: stream is back",
    ]


async def test_program_is_interrupted(script: Scripted, target: str) -> None:
    """Ctrl-C ends an endless watch without complaint, with code 130, and its stream with it."""
    opened = asyncio.Event()

    async def tell() -> None:
        opened.set()

    script.streams += [[tell, hang]]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, "order", "watch"), stderr=asyncio.subprocess.PIPE, env=environment(target)
    )
    await opened.wait()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()

    assert (process.returncode, err) == (130, b"")
    assert await script.ended.get() == 0


async def test_program_survives_a_reader_that_leaves(script: Scripted, target: str) -> None:
    """A reader that has seen enough (as in `| head`) is no error."""
    script.products = [product(f"a/{n}") for n in range(2000)]
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -c {shlex.quote(RUN)} products | head -1",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(target),
    )
    out, err = await process.communicate()

    assert json.loads(out)["product_id"] == "a/0"
    assert err == b""


async def test_watch_ends_with_the_time(script: Scripted, rewardctl: Rewardctl) -> None:
    """When the time is over first, the exit code tells an unknown outcome from an order on its way."""
    script.streams += [
        [snapshot(order("A")), snapshot_end("t1"), hang],
        [snapshot(order("A", 1, order_pb2.ORDER_STATE_OUTCOME_UNKNOWN)), snapshot_end("t1"), hang],
    ]

    on_its_way = await rewardctl("order", "watch", "A", "--timeout", "2")
    unknown = await rewardctl("order", "watch", "A", "--timeout", "2")

    assert (on_its_way.code, unknown.code) == (6, 7)
    assert "order A is PROCESSING; it goes on" in on_its_way.err


async def test_watch_of_an_order_that_ended_before(script: Scripted, rewardctl: Rewardctl) -> None:
    """An order that ended before the token was made is looked up, so that the exit code is right."""
    script.streams += [[heartbeat("t9")]]
    script.orders["A"] = order("A", 5, order_pb2.ORDER_STATE_FAILED)

    ended = await rewardctl("order", "watch", "A", "--resume-token", "t9")

    assert ended.code == 1


async def test_watch_prints_lines(script: Scripted, rewardctl: Rewardctl) -> None:
    """As a table without a terminal, every update is a line."""
    script.streams += [[snapshot(order("A")), snapshot_end("t1"), update(fulfilled("A"), "t2")]]

    ended = await rewardctl("order", "watch", "A", "--output", "table", "--show-cards")

    assert ended.code == 0
    assert [line.split() for line in ended.out.splitlines()] == [
        ["A", "jd-100", "v1", "PROCESSING", "0/1"],
        ["A", "jd-100", "v2", "FULFILLED", "1/1", "NO-1", "SECRET-1"],
    ]
    assert script.stream_requests[0].view == order_pb2.ORDER_VIEW_FULL


async def test_watch_says_why_an_order_failed(script: Scripted, rewardctl: Rewardctl, target: str) -> None:
    """A failure's reason and message are in the line, and below the table on a terminal."""
    failed = order("A", 2, order_pb2.ORDER_STATE_FAILED)
    failed.failure.reason = order_pb2.FAILURE_REASON_REFUNDED
    failed.failure.message = "closed without a recharge"
    script.streams += [[snapshot(failed), snapshot_end("t1")]] * 2

    lines = await rewardctl("order", "watch", "A", "--output", "table")
    drawn = await on_terminal(target, "order", "watch", "A")

    assert lines.out.splitlines()[0].endswith("REFUNDED: closed without a recharge")
    assert (lines.code, drawn.code) == (1, 1)
    assert "REFUNDED: closed without a recharge" in drawn.out


async def test_watch_of_a_wrong_id_draws_nothing(script: Scripted, target: str) -> None:
    """On a terminal an unknown order is an error and no empty table."""
    script.streams += [[Refusal(grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND", "no order 'A'")]]

    ended = await on_terminal(target, "order", "watch", "A")

    assert (ended.code, ended.out) == (3, "rewardctl: no order 'A' (ORDER_NOT_FOUND)\r\n")


async def test_watch_gives_up_when_told_to(rewardctl: Rewardctl) -> None:
    """A server that stays away ends the watch after the given time."""
    ended = await rewardctl("order", "watch", "A", "--give-up-after", "0", REWARDCTL_SERVER="127.0.0.1:1")

    assert ended.code == 6


async def test_watch_says_when_updates_may_be_missing(script: Scripted, rewardctl: Rewardctl) -> None:
    """An expired token is told to the person, and the orders are shown as they are."""
    script.streams += [
        [Refusal(grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED")],
        [snapshot(fulfilled("A")), snapshot_end("t9")],
    ]

    ended = await rewardctl("order", "watch", "A", "--resume-token", "t1")

    assert ended.code == 0
    assert "updates may be missing (RESUME_TOKEN_EXPIRED)" in ended.err


async def test_progress_on_a_terminal(script: Scripted, target: str) -> None:
    """On a terminal the order's row is drawn again until it has ended."""
    script.creates.append(pb.CreateOrderResponse(order=order("A"), resume_token="t1"))
    script.streams += [[update(fulfilled("A"), "t2"), hang]]

    ended = await on_terminal(target, "order", "create", "jd-100", "--watch", "--show-cards")

    assert ended.code == 0
    assert "PROCESSING" in ended.out
    assert ended.out.index("FULFILLED") > ended.out.index("PROCESSING")
    assert "SECRET-1" in ended.out


class Sandbox(Scripted):
    """Fulfils every order, and tells the stream that waits for it."""

    def __init__(self, state: order_pb2.OrderState.ValueType = order_pb2.ORDER_STATE_FULFILLED) -> None:
        super().__init__()
        self.state = state
        self.products = [
            product(
                name,
                catalog.RECIPIENT_KIND_PHONE if name.endswith(("topup", "membership")) else catalog.RECIPIENT_KIND_NONE,
            )
            for name in DEMO_PRODUCTS
        ]
        self.ordered: asyncio.Queue[order_pb2.Order] = asyncio.Queue()

    async def CreateOrder(self, request: pb.CreateOrderRequest, context: Any) -> pb.CreateOrderResponse:
        self.create_requests.append(request)
        fields: dict[str, Any] = {"client_order_id": request.client_order_id, "product_id": request.product_id}
        number = f"ORDER-{len(self.create_requests)}"
        self.ordered.put_nowait(fulfilled(number, **fields))
        return pb.CreateOrderResponse(order=order(number, **fields), resume_token="t1")

    async def StreamOrderUpdates(self, request: pb.StreamOrderUpdatesRequest, context: Any) -> Any:
        self.stream_requests.append(request)
        yield snapshot_end("t0")
        for _ in range(len(self.products)):
            ended = await self.ordered.get()
            ended.state = self.state
            yield update(ended, f"t-{ended.order_id}")
        await hang()


@pytest.mark.parametrize("script", [Sandbox()], ids=["sandbox"])
async def test_demo_fulfils_five_orders(script: Sandbox, rewardctl: Rewardctl) -> None:
    """The demo orders one product of each supplier at once, watches them on one stream, and shows the cards."""
    ended = await rewardctl("demo", "--output", "table")

    assert ended.code == 0, ended.err
    assert sorted(request.product_id for request in script.create_requests) == sorted(DEMO_PRODUCTS)
    assert len(script.stream_requests) == 1
    phones = {r.product_id: r.recipient.phone.number for r in script.create_requests}
    assert phones["dushu/membership"] == "13800138000"
    assert phones["kasushou/card"] == ""
    lines = ended.out.splitlines()
    begin = next(place for place, line in enumerate(lines) if line.startswith("PRODUCT")) + 1
    assert [row.split()[0] for row in lines[begin : begin + 5]] == list(DEMO_PRODUCTS)
    assert all("FULFILLED" in row for row in lines[begin : begin + 5])
    assert lines.count("  secret        SECRET-1") == 5
    assert "SECRET-1" not in "".join(lines[: begin + 5])


@pytest.mark.parametrize("script", [Sandbox(order_pb2.ORDER_STATE_FAILED)], ids=["sandbox"])
async def test_demo_fails_with_its_orders(script: Sandbox, target: str) -> None:
    """The demo ends with code 1 when an order fails."""
    ended = await on_terminal(target, "demo")

    assert ended.code == 1
    assert "FAILED" in ended.out


async def test_demo_without_sandbox(script: Scripted, rewardctl: Rewardctl) -> None:
    """A server without the sandbox's products gets no order, and the person is told what to do."""
    script.products = [product("jd-100")]

    ended = await rewardctl("demo")

    assert ended.code == 3
    assert "make run" in ended.err
    assert script.create_requests == []


async def test_demo_ends_with_the_time(script: Scripted, rewardctl: Rewardctl) -> None:
    """The demo doesn't wait for ever."""
    script.products = [product(name) for name in DEMO_PRODUCTS]
    script.creates += [pb.CreateOrderResponse(order=order(name)) for name in "ABCDE"]
    script.streams += [[snapshot_end("t1"), hang]]

    ended = await rewardctl("demo", "--timeout", "1.5")

    assert ended.code == 6
    assert "not all orders ended within 1.5 s" in ended.err


async def test_key_from_file(script: Scripted, rewardctl: Rewardctl, tmp_path: Path) -> None:
    """The key may come from a file, without its line end."""
    script.orders["A"] = order("A")
    file = tmp_path / "key"
    file.write_text("key-of-file\n")

    await rewardctl("order", "get", "A", "--key-file", str(file))
    await rewardctl("order", "get", "A", REWARDCTL_KEY="key-of-environment")
    await rewardctl("order", "get", "A")

    assert [m["authorization"] for m in script.metadata] == [
        "Bearer key-of-file",
        "Bearer key-of-environment",
        "Bearer dev-key",
    ]


async def test_key_file_is_read_again(script: Scripted, target: str, rewardctl: Rewardctl, tmp_path: Path) -> None:
    """A stream that is refused goes on with the token that has been written meanwhile; a pipe is read once."""
    script.orders["A"] = order("A")
    token = tmp_path / "token"
    token.write_text("old\n")

    async def renew() -> None:
        token.write_text("new\n")

    refusal = Refusal(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    script.streams += [[renew, refusal], [snapshot(fulfilled("A")), snapshot_end("t1")]]

    ended = await rewardctl("order", "watch", "A", "--key-file", str(token))

    assert (ended.code, ended.err) == (0, "")
    assert len(script.stream_requests) == 2

    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(RUN)} order get A --key-file <(echo of-a-pipe)"
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", command, env=environment(target), stdout=asyncio.subprocess.DEVNULL
    )
    assert await shell.wait() == 0
    assert script.metadata[-1]["authorization"] == "Bearer of-a-pipe"


async def test_completion_script(rewardctl: Rewardctl) -> None:
    """The completion script knows the commands and the global options."""
    ended = await rewardctl("completion", "bash")

    assert ended.code == 0
    assert "rewardctl" in ended.out
    assert "--client-order-id" in ended.out
    assert "--server" in ended.out


async def test_missing_extra_is_explained() -> None:
    """Without the packages of the command line the program says what to install."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; sys.modules['cyclopts'] = None; from rewardservice.cli import main",
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()

    assert process.returncode == 1
    assert 'pip install "reward-service[cli]"' in err.decode()
    assert b"Traceback" not in err


async def test_library_needs_no_extra() -> None:
    """The library imports without the packages of the command line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; sys.modules['cyclopts'] = sys.modules['rich'] = None; import rewardservice",
    )

    assert await process.wait() == 0
