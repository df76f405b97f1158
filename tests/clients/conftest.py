"""The real service for the tests of all languages."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .stage import RealService


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[RealService]:
    """The shipped server and the sandbox, for one test."""
    async with RealService(tmp_path / "service") as one:
        yield one
