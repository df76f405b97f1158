"""A running engine with scripted suppliers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from .rig import Rigged, rigs


@pytest.fixture
async def rigged(tmp_path: Path) -> AsyncIterator[Rigged]:
    """Makes a running rig: `await rigged(a=traits(), b=traits())`."""
    # The tracebacks of defects that tests put in are long to draw.
    with capture_logs():
        async with rigs(tmp_path) as make:
            yield make
