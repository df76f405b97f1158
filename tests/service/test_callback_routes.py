"""What the callback routes say to people who aren't suppliers: nothing; and what they cost us: little."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reward_adapters.contract import Answer, Callback
from reward_server import guard as guards
from reward_server import http
from reward_server.guard import Guard, source_of

from .harness import USUAL, Service, service
from .test_callbacks import kuaiduibao_sign

ACCOUNTS = ("kuaiduibao", "kaquan91_recharge", "kasushou")
PROXIES = tuple(ip_network(text) for text in ("127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"))


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Service]:
    async with service(tmp_path, products=USUAL) as one:
        yield one


class Answered:
    """What came back, byte by byte but for the date."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split(" ")[1])
        self.headers = {line.split(":", 1)[0]: line.split(":", 1)[1].strip() for line in lines}
        self.headers.pop("Date", None)
        # Who breaks off is disconnected, which they notice anyway.
        self.headers.pop("Connection", None)

    @property
    def shown(self) -> tuple[int, dict[str, str], bytes]:
        """Everything that somebody outside can compare."""
        return self.status, self.headers, self.body


async def ask(
    running: Service, path: str, body: bytes = b"a=1", *headers: str, method: str = "POST", chunked: bool = False
) -> Answered:
    """One request on a connection of its own, written by hand."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.place.http_port)
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    lines = [f"{method} {path} HTTP/1.1", "Host: here", "Connection: close", length, *headers]
    writer.write("\r\n".join((*lines, "", "")).encode())
    if chunked:
        pieces = [body[n : n + 1000] for n in range(0, len(body), 1000)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    writer.write(body)
    raw = b""
    with contextlib.suppress(ConnectionError):
        # Who sends too much may find the line cut before all of it went out; the answer is there by then.
        await writer.drain()
        raw = await reader.read()
    writer.close()
    return Answered(raw)


def refusals(running: Service) -> dict[tuple[str, str], float]:
    """How many callbacks were refused, by account and reason."""
    return {
        (sample.labels["account"], sample.labels["reason"]): sample.value
        for family in text_string_to_metric_families(running.app.metrics.render().decode())
        for sample in family.samples
        if sample.name == "reward_callbacks_refused_total"
    }


def genuine(number: str = "NOT-OURS") -> bytes:
    """A callback that kuaiduibao signed."""
    fields = {"out_trade_no": number, "order_no": "TO1", "status_code": "1"}
    return urlencode({**fields, "_sign": kuaiduibao_sign(fields)}).encode()


async def test_every_refusal_looks_the_same_and_the_operator_sees_why(running: Service) -> None:
    """No such path, account or method, badly signed, unreadable, too large: one and the same empty answer."""
    deep = b'{"a":' * 5_000 + b"1" + b"}" * 5_000
    answers = [
        await ask(running, "/"),
        await ask(running, "/callbacks/"),
        await ask(running, "/callbacks/a/b"),
        await ask(running, "/callbacks/kuaiduibao", method="PUT"),
        await ask(running, "/callbacks/kuaiduibao", b"", method="GET"),
        await ask(running, "/callbacks/nobody"),
        await ask(running, "/callbacks/%0d%0aevil"),
        await ask(running, "/callbacks/dushu"),
        await ask(running, "/callbacks/kaquan91_card"),
        *[await ask(running, f"/callbacks/{account}", body) for account in ACCOUNTS for body in (b"", b"\xff", deep)],
        await ask(running, "/callbacks/kuaiduibao", b"x" * 70_000),
        await ask(running, "/callbacks/kuaiduibao", genuine() + b"&x=" + b"y" * 70_000, chunked=True),
        await ask(running, "/callbacks/kuaiduibao", gzip.compress(genuine()), "Content-Encoding: gzip"),
        await ask(running, "/callbacks/kuaiduibao", genuine().replace(b"TO1", b"TO2")),
    ]
    assert [answer.shown for answer in answers] == [answers[0].shown] * len(answers)
    assert (answers[0].status, answers[0].body) == (404, b"")
    assert "aiohttp" not in str(answers[0].headers)
    told = refusals(running)
    assert told["", "no_route"] == 5
    assert told["", "unknown_account"] == 2
    assert told["kuaiduibao", "too_large"] == 2
    assert told["kuaiduibao", "not_genuine"] == 5
    assert told["dushu", "not_genuine"] == told["kaquan91_card", "not_genuine"] == 1
    # What is genuine is answered as its supplier wants it.
    answer = await ask(running, "/callbacks/kuaiduibao", genuine())
    assert (answer.status, json.loads(answer.body)["status"]) == (200, 0)


async def test_a_body_is_measured_before_anybody_reads_it(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Announced, in chunks or as chunks without end: the adapter hears nothing of it, and little of it is taken."""
    heard = []
    engine = running.app.engine
    real = engine.callback

    async def callback(account: str, callback: Callback) -> Answer | None:
        heard.append(len(callback.body))
        return await real(account, callback)

    monkeypatch.setattr(engine, "callback", callback)
    padded = genuine() + b"&pad=" + b"y" * (65_536 - len(genuine()) - 5)
    assert len(padded) == 65_536
    for chunked in (False, True):
        await ask(running, "/callbacks/kuaiduibao", padded, chunked=chunked)
        assert (await ask(running, "/callbacks/kuaiduibao", padded + b"y", chunked=chunked)).body == b""
    assert heard == [65_536, 65_536]
    # Never ends: refused once the limit is reached, long before it could be whole.
    reader, writer = await asyncio.open_connection("127.0.0.1", running.place.http_port)
    writer.write(b"POST /callbacks/kuaiduibao HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(b"ffff\r\n" + b"z" * 65_535 + b"\r\n" + b"ffff\r\n" + b"z" * 100)
    assert b" 404 " in await reader.readline()
    writer.close()
    assert len(heard) == 2


async def test_who_sends_slowly_is_not_waited_for(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that never ends holds a connection for some seconds."""
    monkeypatch.setattr(http, "BODY_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.place.http_port)
    writer.write(b"POST /callbacks/kuaiduibao HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\na=1&")
    assert b" 404 " in await reader.readline()
    writer.close()
    assert refusals(running) == {("kuaiduibao", "too_slow"): 1}


async def test_a_source_that_knocks_too_often_gets_no_answer_and_others_do(tmp_path: Path) -> None:
    """Also when what it sends is genuine; each source by itself, as told by a trusted proxy; one line in the log."""
    extra = '[callbacks]\nmax_per_second_per_source = 0.4\ntrusted_proxies = ["127.0.0.1"]\n'
    async with service(tmp_path, kinds=("kuaiduibao",), extra=extra) as running:
        path = "/callbacks/kuaiduibao"

        async def knock(forwarded: str) -> int:
            return (await ask(running, path, genuine(), f"X-Forwarded-For: {forwarded}")).status

        # 0.4 a second are two at once.
        assert [await knock("203.0.113.7") for _ in range(3)][:2] == [200, 200]
        assert await knock("1.1.1.1, 203.0.113.8") == 200
        assert 404 in [await knock("203.0.113.9") for _ in range(20)]
        assert await knock("2001:db8:1:2::1") == await knock("2001:db8:1:2:ffff::2") == 200
        assert refusals(running)["kuaiduibao", "too_many"] >= 1


async def test_an_account_takes_callbacks_from_its_networks_only(tmp_path: Path) -> None:
    """Genuine or not; and what a stranger writes into X-Forwarded-For isn't believed."""
    accounts = {"kuaiduibao": {"callback_networks": ["203.0.113.0/24", "2001:db8:7::/48"]}}
    path = "/callbacks/kuaiduibao"
    for proxies, forwarded, expected in (
        ("", "", 404),
        ("", "203.0.113.7", 404),
        ("127.0.0.1", "203.0.113.7", 200),
        ("127.0.0.1", "2001:db8:7::1", 200),
        ("127.0.0.1", "203.0.113.7, 198.51.100.1", 404),
        ("127.0.0.1", "nonsense", 404),
    ):
        folder = tmp_path / f"{proxies}-{forwarded}"
        folder.mkdir()
        extra = f'[callbacks]\ntrusted_proxies = ["{proxies}"]\n' if proxies else ""
        async with service(folder, kinds=("kuaiduibao",), accounts=accounts, extra=extra) as running:
            headers = [f"X-Forwarded-For: {forwarded}"] if forwarded else []
            assert (await ask(running, path, genuine(), *headers)).status == expected
            if expected == 404:
                assert refusals(running) == {("kuaiduibao", "foreign_network"): 1}


@pytest.mark.parametrize(
    ("peer", "forwarded", "source"),
    [
        ("198.51.100.1", [], "198.51.100.1"),
        ("198.51.100.1", ["203.0.113.7"], "198.51.100.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", ["6.6.6.6, 203.0.113.7"], "203.0.113.7"),
        ("127.0.0.1", ["6.6.6.6", "203.0.113.7, 10.1.1.1"], "203.0.113.7"),
        ("127.0.0.1", ["10.1.1.1,10.2.2.2"], "10.1.1.1"),
        ("::ffff:127.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("2001:db8::1%eth0", [" 203.0.113.7 "], "203.0.113.7"),
        ("127.0.0.1", ["203.0.113.7, junk"], None),
        ("127.0.0.1", [""], None),
        (None, ["203.0.113.7"], None),
        ("not an address", [], None),
    ],
)
def test_the_source_is_the_last_hop_that_is_not_ours(
    peer: str | None, forwarded: list[str], source: str | None
) -> None:
    """Only what our own proxies wrote counts; what can't be told is nobody."""
    assert source_of(peer, forwarded, PROXIES) == (ip_address(source) if source else None)


def test_sources_are_counted_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are allowed, refilled with time, and forgotten from the oldest on; an IPv6 customer is one source."""
    monkeypatch.setattr(guards, "KNOWN_SOURCES", 3)
    now = 0.0
    guard = Guard(networks={}, max_per_second=1, now=lambda: now)
    one = ip_address("203.0.113.1")
    assert [guard.too_many(one) for _ in range(6)] == [False] * 5 + [True]
    now = 1.0
    assert [guard.too_many(one) for _ in range(2)] == [False, True]
    v6 = [ip_address(f"2001:db8::{n}") for n in range(1, 7)]
    assert [guard.too_many(source) for source in v6] == [False] * 5 + [True]
    for n in range(2, 100):
        guard.too_many(ip_address(f"203.0.113.{n}"))
        assert len(guard._buckets) <= 3


@pytest.mark.parametrize("account", ACCOUNTS)
async def test_what_no_supplier_sends_is_refused_before_it_is_built(running: Service, account: str) -> None:
    """Thousands of fields, brackets without end, numbers without end, and texts made to be read again and again."""
    for body in (
        b"&".join(b"f%d=1" % n for n in range(5_000)),
        b'{"a":' + b"[" * 60_000,
        b'{"a":"' + b'\\"' * 30_000,
        b'{"a":' + b"9" * 60_000 + b"}",
        b'{"a":' + b"[]," * 20_000 + b"1}",
        b'{"time":"1","external_orderno":"1","sign":"x","card_list":' + b"[" * 15 + b"]" * 15 + b"}",
        b'{"a":NaN,"b":Infinity,"a":1}',
        "订单=1".encode("gbk"),
    ):
        assert (await ask(running, f"/callbacks/{account}", body)).status == 404
    assert refusals(running) == {(account, "not_genuine"): 8}
