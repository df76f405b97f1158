"""Logs: one line per event on standard error, readable on a terminal, JSON otherwise.

Secrets stay out by construction: nothing logs messages, cards or requests, and tracebacks carry no local variables.
`redact` is the second net, for what slips through all the same.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from reward_adapters.contract import Recipient

HIDDEN = "•••"
MAX_DEPTH = 8
"""Deeper structures are no log entries; they are hidden whole."""


def configure_logs(
    level: str = "info",
    format: str = "auto",  # noqa: A002 - the configuration calls it so
    stream: TextIO | None = None,
    *,
    process: int | None = None,
) -> None:
    """Sends structlog's and the standard library's logs to `stream` (standard error) in one form.

    `level`: debug, info, warning, error. `format`: text, json, or auto (text on a terminal, JSON otherwise). `process`:
    the number that every line has, where several processes write into one log.
    """
    target = sys.stderr if stream is None else stream
    as_text = format == "text" or (format == "auto" and target.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _Stamper(),
        structlog.processors.StackInfoRenderer(),
        # The plain traceback shows no local variables, and as text it passes the net below.
        structlog.processors.format_exc_info,
        redact,
    ]
    if process is not None:
        shared.insert(0, _numbered(process))
    renderer: Processor = _readable(target) if as_text else _json
    structlog.reset_defaults()
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=True,
    )
    _route_standard_library(number, target, [_add_logger_name, *shared], renderer)


class _Stamper:
    """Adds the time, as structlog's own does, without working out the day and the second anew for each line."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        second, rest = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        event["timestamp"] = f"{self._text}.{rest // 1000:06d}Z"
        return event


_FAST = msgspec.json.Encoder()
_ENCODER = json.JSONEncoder(ensure_ascii=False, skipkeys=True, default=repr)


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    try:
        return _FAST.encode(event).decode()
    except (TypeError, ValueError, OverflowError):
        # What the fast one refuses: keys that aren't text, numbers without end, half characters.
        return _ENCODER.encode(event)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hides values under suspicious names, and the queries of URLs anywhere: two suppliers sign in the query."""
    return {
        # Most values are text without a question mark: told apart here, they cost no call.
        key: HIDDEN if is_sensitive(key) else value if type(value) is str and "?" not in value else _safe(value, 1)
        for key, value in event.items()
    }


@lru_cache(4096)
def is_sensitive(name: str) -> bool:
    """Whether a name sounds like a secret or like a part of a card."""
    text = _CAMEL.sub("_", name).lower().replace("-", "_")
    if text in _HARMLESS:
        return False
    return bool(_SECRET_PART.search(text)) or not _SECRET_WORDS.isdisjoint(text.split("_")) or text.startswith("card_")


_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SECRET_PART = re.compile(r"secret|passw|api_?key|master_?key|client_?key|authori[sz]ation|credential|signature")
_SECRET_WORDS = frozenset({"token", "sign", "pwd", "cookie", "bearer", "cards", "qr"})
_HARMLESS = frozenset({"card_count"})
_QUERY = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s?'\"<>]*|(?<![^\s'\"(])/[^\s?'\"<>]*)\?[^\s'\"<>]+")


def _safe(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _QUERY.sub(rf"\1?{HIDDEN}", value) if "?" in value else value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Recipient):
        return value.masked()
    if depth > MAX_DEPTH:
        return HIDDEN
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if hasattr(value, "DESCRIPTOR"):
        # A protobuf message prints all its fields, card secrets too.
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return {key: HIDDEN if is_sensitive(str(key)) else _safe(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe(item, depth + 1) for item in value]
    # What prints itself passes the net as text: an aiohttp error prints the whole URL.
    return _safe(str(value) if isinstance(value, BaseException) else repr(value), depth + 1)


def _readable(target: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=target.isatty(),
        exception_formatter=structlog.dev.plain_traceback,
        pad_event_to=18,
        # In the order in which they were written: what happened first, to whom it belongs last.
        sort_keys=False,
    )


def _numbered(process: int) -> Processor:
    def number(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    return number


def _add_logger_name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    if record is not None:
        event["logger"] = record.name
    return event


def _drop_bookkeeping(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event.pop("_record", None)
    event.pop("_from_structlog", None)
    return event


def _route_standard_library(level: int, target: TextIO, shared: list[Processor], renderer: Processor) -> None:
    # The bookkeeping goes before the net, which would print the record.
    name, *rest = shared
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[name], processors=[_drop_bookkeeping, *rest, renderer]
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Callbacks are logged by their route, without the query; asyncio's debug lines show whole exchanges.
    logging.getLogger("aiohttp.access").setLevel(logging.CRITICAL + 1)
    logging.getLogger("asyncio").setLevel(max(level, logging.INFO))
    logging.captureWarnings(capture=True)
