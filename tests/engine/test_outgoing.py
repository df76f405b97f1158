"""Requests go to the account's own site and nowhere else, whatever a supplier answers."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapters.laws import Specimen
from adapters.test_laws import specimen_of
from reward_adapters import adapter_kinds
from reward_adapters.contract import Call, HttpReply, HttpRequest, NotSent, NotSentCause
from reward_server.clock import Clock
from reward_server.engine.exchange import MAX_ANSWER_BYTES, Broken, Exchanges


class Site:
    """A web site that remembers who came."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.status = 200
        self.body = b"{}"
        self.headers: dict[str, str] = {}

    async def answer(self, request: web.Request) -> web.Response:
        """The same to everybody."""
        self.paths.append(request.path)
        return web.Response(status=self.status, body=self.body, headers=self.headers)

    def server(self) -> TestServer:
        """To be started."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        return TestServer(app)


@pytest.fixture
async def supplier() -> AsyncIterator[tuple[Site, str]]:
    site = Site()
    async with site.server() as running:
        yield site, str(running.make_url("")).rstrip("/")


@pytest.fixture
async def elsewhere() -> AsyncIterator[tuple[Site, str]]:
    site = Site()
    async with site.server() as running:
        yield site, str(running.make_url("")).rstrip("/")


def side(base_url: str) -> Exchanges:
    """The HTTP side of an account at a site."""
    return Exchanges(
        clock=Clock(), connect_timeout=5, read_timeout=5, answer_patience=5, idle_seconds=1, base_url=base_url
    )


def at(specimen: Specimen, base_url: str) -> Specimen:
    """The same account at another site."""
    return replace(specimen, config={**specimen.config, "base_url": f"{base_url}/some/path/"})


@pytest.mark.parametrize("kind", adapter_kinds())
async def test_no_call_of_any_adapter_leaves_its_site(
    kind: str, supplier: tuple[Site, str], elsewhere: tuple[Site, str]
) -> None:
    """Redirects of every sort and absolute addresses in the body: purchase, look, cancel, token and catalogue."""
    (site, url), (other, away) = supplier, elsewhere
    specimen = at(specimen_of(kind), url)
    calls: list[Call[Any]] = [specimen.place(purchase) for purchase in specimen.purchases]
    calls += [specimen.query()] if specimen.dealer.traits.queryable else []
    calls += [call for _, call, _ in specimen.questions()]
    site.headers = {"Location": f"{away}/stolen", "Refresh": f"0; url={away}", "Link": f"<{away}>; rel=preload"}
    site.body = json.dumps({"code": 0, "url": away, "data": {"next": away, "redirect_url": away}}).encode()
    ours = side(url)
    asked = 0
    for call in calls:
        for status in (200, 301, 302, 303, 307, 308):
            site.status = status
            reply = await ours.ask(call.request)
            assert isinstance(reply, HttpReply)
            assert reply.status == status
            call.read(reply)
            asked += 1
    await ours.close()
    assert len(site.paths) == asked
    assert other.paths == []


async def test_what_is_written_to_another_site_is_not_sent(
    supplier: tuple[Site, str], elsewhere: tuple[Site, str]
) -> None:
    """Also when an adapter asks for it: another host, port or scheme, a user in the address, or no address at all."""
    (site, url), (other, away) = supplier, elsewhere
    ours = side(url)
    port = url.rpartition(":")[2]
    for wrong in (
        f"{away}/order",
        f"https://127.0.0.1:{port}/order",
        f"http://localhost:{port}/order",
        f"http://127.0.0.1:{port}@{away.removeprefix('http://')}/order",
        f"http://127.0.0.1:{port}.example.com/order",
        "/order",
        "",
    ):
        answer = await ours.send(HttpRequest(wrong, b"secret"))
        assert isinstance(answer, NotSent), wrong
        assert answer.cause is NotSentCause.CONFIGURATION
        assert "secret" not in repr(answer)
    assert isinstance(await ours.send(HttpRequest(f"{url}/order?a=http://elsewhere/")), HttpReply)
    await ours.close()
    assert other.paths == []
    assert site.paths == ["/order"]


async def test_an_answer_that_is_too_large_or_packed_is_not_taken_in(supplier: tuple[Site, str]) -> None:
    """Read up to a bound; what claims to be compressed is not unpacked; headers without end break it off."""
    site, url = supplier
    ours = side(url)
    request = HttpRequest(f"{url}/order")
    site.body = b"x" * (8 * MAX_ANSWER_BYTES)
    answer = await ours.send(request)
    assert isinstance(answer, Broken)
    assert len(answer.raw) < 2 * MAX_ANSWER_BYTES
    site.body, site.headers = b"\x1f\x8b not gzip", {"Content-Encoding": "gzip"}
    answer = await ours.send(request)
    assert isinstance(answer, HttpReply)
    assert answer.body == site.body
    site.headers = {f"X-{n}": "y" * 1_000 for n in range(200)}
    assert isinstance(await ours.send(request), Broken)
    await ours.close()
