"""Logs: one form for everybody, and no secret in it."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from google.protobuf.wrappers_pb2 import StringValue

from reward_adapters.contract import Recipient, RecipientKind
from reward_server.logs import configure_logs, is_sensitive

CANARY = "canary-5d1e77-secret"

FORMATS = ["json", "text"]
Configure = Callable[..., io.StringIO]


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Configures logs into a buffer, and puts everything back afterwards."""
    root, access = logging.getLogger(), logging.getLogger("aiohttp.access")
    handlers, level, asyncio_level = root.handlers[:], root.level, logging.getLogger("asyncio").level
    show = warnings.showwarning

    def into_buffer(level: str = "info", format: str = "json") -> io.StringIO:  # noqa: A002
        buffer = io.StringIO()
        configure_logs(level, format, buffer)
        return buffer

    yield into_buffer
    logging.captureWarnings(capture=False)
    warnings.showwarning = show
    root.handlers[:] = handlers
    root.setLevel(level)
    access.setLevel(logging.NOTSET)
    logging.getLogger("asyncio").setLevel(asyncio_level)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def entries(buffer: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in buffer.getvalue().splitlines()]


def test_json_lines(configure: Configure) -> None:
    """One JSON object per line, with UTC time, level, event, what is bound to the context, and Chinese as it is."""
    buffer = configure()
    with structlog.contextvars.bound_contextvars(order_id="01JD"):
        structlog.get_logger().info("order created", product="京东E卡")
    (entry,) = entries(buffer)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {"event": "order created", "level": "info", "order_id": "01JD", "product": "京东E卡"}
    assert "京东" in buffer.getvalue()


def test_text(configure: Configure) -> None:
    """For people the same reads as text, without colours where there is no terminal."""
    buffer = configure(format="text")
    structlog.get_logger().warning("paused", account="kss_a")
    assert "paused" in buffer.getvalue()
    assert "account=kss_a" in buffer.getvalue()
    assert "\x1b" not in buffer.getvalue()


def test_auto_is_json_off_a_terminal(configure: Configure) -> None:
    """A pipe gets JSON."""
    buffer = configure(format="auto")
    structlog.get_logger().info("x")
    assert entries(buffer)[0]["event"] == "x"


@pytest.mark.usefixtures("configure")
def test_auto_is_text_on_a_terminal() -> None:
    """A terminal gets text."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    buffer = Terminal()
    configure_logs("info", "auto", buffer)
    structlog.get_logger().info("x")
    assert not buffer.getvalue().startswith("{")


def test_level(configure: Configure) -> None:
    """Lines below the level don't appear, from either side."""
    buffer = configure(level="warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("lib").info("quiet")
    structlog.get_logger().error("loud")
    logging.getLogger("lib").error("loud")
    assert [entry["event"] for entry in entries(buffer)] == ["loud", "loud"]


@pytest.mark.parametrize("format_", FORMATS)
def test_standard_library_is_routed_in(configure: Configure, format_: str) -> None:
    """Libraries that log by `logging` (gRPC, aiohttp) come out in the same form; access lines don't come out."""
    buffer = configure(format=format_)
    logging.getLogger("grpc._server").error("failed %s", "call")
    logging.getLogger("aiohttp.access").info("GET /callbacks?sign=x")
    logging.getLogger("aiohttp.access").error("GET /callbacks?sign=x")
    assert "failed call" in buffer.getvalue()
    assert "grpc._server" in buffer.getvalue()
    assert "/callbacks" not in buffer.getvalue()
    assert "_record" not in buffer.getvalue()


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("log", [structlog.get_logger, lambda: logging.getLogger("lib")])
def test_tracebacks_show_no_locals(configure: Configure, format_: str, log: Callable[[], Any]) -> None:
    """A traceback names its lines but never the values of variables, nor those of the exceptions it came from."""
    buffer = configure(format=format_)

    def inner(card_password: str) -> None:
        held = {"copy": card_password}
        raise ValueError(len(held))

    try:
        try:
            inner("-".join(["canary", "5d1e77", "secret"]))
        except ValueError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        log().exception("it failed")
    assert "RuntimeError: outer" in buffer.getvalue()
    assert "in inner" in buffer.getvalue()
    assert CANARY not in buffer.getvalue()


@pytest.mark.parametrize("format_", FORMATS)
def test_suspicious_names_are_hidden(configure: Configure, format_: str) -> None:
    """Values under names that sound secret don't come out, however deep."""
    buffer = configure(format=format_)
    structlog.get_logger().info(
        "x",
        apikey=CANARY,
        access_token=CANARY,
        sign=CANARY,
        Authorization=CANARY,
        card_password=CANARY,
        headers=[{"Sign": CANARY, "appSecret": CANARY, "kept": "visible"}],
    )
    assert CANARY not in buffer.getvalue()
    assert "•••" in buffer.getvalue()
    assert "visible" in buffer.getvalue()


@pytest.mark.parametrize("format_", FORMATS)
def test_urls_lose_their_query(configure: Configure, format_: str) -> None:
    """Two suppliers sign in the query: no query comes out, not even out of an exception's text."""
    buffer = configure(format=format_)
    log = structlog.get_logger()
    log.info("x", url=f"https://a.example/p?sign={CANARY}", path=f"/p?token={CANARY}")
    log.info(f"called https://a.example/p?sign={CANARY}", error=ValueError(f"url='https://a.example/p?s={CANARY}'"))
    try:
        raise ValueError(f"502, url='https://a.example/p?access_token={CANARY}&x=1'")
    except ValueError:
        log.exception("failed")
    logging.getLogger("lib").warning("retry %s", f"http://a.example/?a={CANARY}")
    assert CANARY not in buffer.getvalue()
    assert "https://a.example/p" in buffer.getvalue()


def test_objects_that_print_too_much(configure: Configure) -> None:
    """Messages and bytes show only what they are, recipients are masked, endless nesting ends."""
    buffer = configure()
    nested: list[Any] = [CANARY]
    for _ in range(50):
        nested = [nested]
    phone = Recipient(RecipientKind.PHONE, "13800001234", "+86")
    structlog.get_logger().info(
        "x", message=StringValue(value=CANARY), body=CANARY.encode(), who=phone, nested=nested, count=3, none=None
    )
    (entry,) = entries(buffer)
    assert CANARY not in buffer.getvalue()
    assert entry["message"] == "<StringValue>"
    assert entry["body"] == f"<{len(CANARY)} bytes>"
    assert entry["who"] == "*******1234"
    assert (entry["count"], entry["none"]) == (3, None)


@pytest.mark.parametrize(
    "name",
    ["account", "number", "order_id", "design", "assigned", "signal", "card_count", "keys", "product", "outcome"],
)
def test_harmless_names(name: str) -> None:
    """The net doesn't catch what operators need."""
    assert not is_sensitive(name)


@pytest.mark.parametrize(
    "name",
    ["secret", "app_secret", "appSecret", "api-key", "resume_token", "passwd", "card_no", "cards", "_sign", "pwd"],
)
def test_secret_names(name: str) -> None:
    """The net catches every spelling that suppliers use."""
    assert is_sensitive(name)
