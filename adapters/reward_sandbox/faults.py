"""Answers that go wrong: what becomes of a proper answer on its way to the client.

A fault belongs to one call of the supplier's API. Scenarios plan faults for the calls about one order ("the second
look fails"); the control API orders them for whatever call comes next.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

Call = Literal["create", "query", "cancel", "token", "balance", "products"]
CALLS: Final[tuple[Call, ...]] = ("create", "query", "cancel", "token", "balance", "products")

ALWAYS: Final = 1_000_000_000
"""For `times`: this and every later call."""

LATE: Final = -1.0
"""For `delay`: the sandbox's `late_seconds`, longer than the client waits."""

HTML: Final = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1>nginx</body></html>"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The supplier says no, in its own envelope."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Fault:
    """How one answer differs from the proper one. Made by the functions below."""

    name: str
    booked: bool = True
    """On create calls: whether the order is taken and charged before the answer goes wrong."""
    times: int = 1
    """How many calls in a row meet it."""
    refusal: Refusal | None = None
    status: int | None = None
    edit: Callable[[bytes], bytes] | None = None
    """What becomes of the proper body."""
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before the answer, or LATE."""
    never: bool = False
    """The connection stays open and silent."""
    drop: bool = False
    """The connection is closed without an answer."""
    cut: int | None = None
    """The connection is closed after so many bytes of the body."""
    drip: float = 0.0
    """Seconds between single bytes of the body."""
    twice: bool = False
    """On create calls: something on the way hands the request over twice; the client sees the second answer."""

    def unbooked(self) -> "Fault":
        """The same, before the order is taken."""
        return replace(self, booked=False)

    def for_times(self, times: int) -> "Fault":
        """The same for several calls in a row."""
        return replace(self, times=times)

    def always(self) -> "Fault":
        """The same from now on."""
        return replace(self, times=ALWAYS)


def drawn(plan: Sequence[Fault], place: int) -> Fault | None:
    """The fault for the call at a place (from 0) of a plan; None when it is answered properly."""
    for fault in plan:
        if place < fault.times:
            return None if fault.name == "proper" else fault
        place -= fault.times
    return None


def proper(times: int = 1) -> Fault:
    """Nothing goes wrong: keeps a place in a plan."""
    return Fault("proper", times=times)


def refused(code: str, text: str, *, booked: bool = False, status: int | None = None) -> Fault:
    """A refusal in the supplier's words; `booked`: although the order was taken."""
    return Fault(f"refused {code}", booked=booked, refusal=Refusal(code, text), status=status)


def late(seconds: float = LATE) -> Fault:
    """The proper answer comes too late."""
    return Fault("late", delay=seconds)


def never() -> Fault:
    """No answer ever; the connection stays open."""
    return Fault("never", never=True)


def dropped() -> Fault:
    """The connection is closed without an answer."""
    return Fault("dropped", drop=True)


def cut(after: int) -> Fault:
    """The connection breaks in the middle of the body."""
    return Fault(f"cut at {after}", cut=after)


def drip(seconds: float) -> Fault:
    """The body comes byte by byte."""
    return Fault("drip", drip=seconds)


def raw(body: bytes, *, status: int = 200, content_type: str | None = None, name: str = "raw") -> Fault:
    """These bytes instead of the proper body."""
    return Fault(name, status=status, edit=lambda _: body, content_type=content_type)


def mislabelled(content_type: str = "text/html; charset=gbk") -> Fault:
    """The proper JSON under another content type, whose character set it isn't in."""
    return Fault(f"JSON as {content_type}", content_type=content_type)


def html(status: int = 502) -> Fault:
    """A proxy's error page."""
    return raw(HTML.encode(), status=status, content_type="text/html", name=f"HTML with HTTP {status}")


def empty(status: int = 200) -> Fault:
    """No body."""
    return raw(b"", status=status, name="empty body")


def half(share: float = 0.6) -> Fault:
    """Well-formed HTTP whose JSON ends in the middle."""
    return Fault("half of the JSON", edit=lambda body: body[: int(len(body) * share)])


def huge(size: int = 100 * 1024 * 1024) -> Fault:
    """A body of so many bytes, the proper one at its end."""
    return Fault("huge body", edit=lambda body: b" " * size + body)


def bad_utf8() -> Fault:
    """A byte in the middle that no UTF-8 text holds."""
    return Fault("invalid UTF-8", edit=lambda body: body[:-1] + b'\xff"' + body[-1:])


def redirected(to: str) -> Fault:
    """HTTP 302 to somewhere else."""
    return Fault("redirect", booked=False, status=302, headers={"Location": to}, edit=lambda _: b"")


def rate_limited(retry_after: int | None = None) -> Fault:
    """HTTP 429; nothing is taken."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Fault("HTTP 429", booked=False, status=429, headers=headers, edit=lambda _: b"")


def edited(name: str, change: Callable[[Any], Any]) -> Fault:
    """The proper JSON, changed."""

    def edit(body: bytes) -> bytes:
        return json.dumps(change(json.loads(body)), ensure_ascii=False, separators=(",", ":")).encode()

    return Fault(name, edit=edit)
