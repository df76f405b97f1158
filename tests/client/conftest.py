"""A scripted server, and a client of it that doesn't wait between tries."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from rewardservice import Backoff, RewardClient

from .scripted import Scripted, serving


@pytest.fixture
def naps() -> list[float]:
    """The seconds that the client would have waited before it tried again."""
    return []


@pytest.fixture
def backoff(naps: list[float]) -> Backoff:
    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        await asyncio.sleep(0)

    return Backoff(initial=0.001, maximum=0.008, attempts=4, jitter=lambda: 1.0, sleep=sleep)


@pytest.fixture
async def script() -> Scripted:
    return Scripted()


@pytest.fixture
async def target(script: Scripted) -> AsyncIterator[str]:
    async with serving(script) as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture
async def client(target: str, backoff: Backoff) -> AsyncIterator[RewardClient]:
    async with RewardClient(target, "a-key", backoff=backoff) as client:
        yield client
