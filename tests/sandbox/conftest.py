"""A sandbox on a free port, a raw HTTP client, and a receiver for callbacks: real sockets, nothing patched."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from reward_sandbox import Sandbox, SandboxSettings


class Clock:
    """A wall clock that stands until it is told to move."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Receiver:
    """Takes callbacks and answers them in turn; the last answer is given again and again."""

    url: str = ""
    answers: list[bytes] = field(default_factory=lambda: [b""])
    bodies: list[bytes] = field(default_factory=list)
    content_types: list[str] = field(default_factory=list)
    arrived: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        self.content_types.append(request.content_type)
        answer = self.answers[min(len(self.bodies), len(self.answers)) - 1]
        self.arrived.put_nowait(body)
        return web.Response(body=answer)


@dataclass
class Client:
    """Posts raw bytes and reads JSON."""

    session: aiohttp.ClientSession

    async def post(self, url: str, body: bytes = b"", **headers: str) -> Any:
        status, answer = await self.post_for_status(url, body, **headers)
        assert status == 200, answer
        return answer

    async def post_for_status(self, url: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
        headers.setdefault("Content-Type", "application/json")
        # A new connection for every call: a cut one then speaks of this call alone.
        async with self.session.post(url, data=body, headers={**headers, "Connection": "close"}) as response:
            return response.status, json.loads(await response.read())


Start = Callable[..., Awaitable[Sandbox]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def start(clock: Clock) -> AsyncIterator[Start]:
    """Starts sandboxes with quick steps and quick repeats."""
    async with AsyncExitStack() as stack:

        async def run(**settings: Any) -> Sandbox:
            settings = {"port": 0, "step_seconds": 0.01, "callback_scale": 0.0, "clock": clock, **settings}
            return await stack.enter_async_context(Sandbox(SandboxSettings(**settings)))

        yield run


@pytest.fixture
async def sandbox(start: Start) -> Sandbox:
    return await start()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield Client(session)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/cb", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/cb"
    yield receiver
    await runner.cleanup()


async def _until(holds: Callable[[], Any]) -> Any:
    """Gives the loop turns until something holds; the time-out of the run is the limit."""
    while not (value := holds()):  # noqa: ASYNC110 - what is awaited is read off the books, which signal nothing
        await asyncio.sleep(0)
    return value


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Awaitable[Any]]:
    return _until
