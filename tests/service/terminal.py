"""An operator at the terminal: runs `rewardctl` against a server of a test."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rewardservice.cli import run

from .harness import OPERATOR


@dataclass
class Terminal:
    """Runs commands with the operator's key."""

    capsys: pytest.CaptureFixture[str]
    key_file: Path
    port: int
    complaints: str = field(default="", init=False)
    """What the last command wrote to standard error."""

    async def __call__(self, *words: str, code: int = 0) -> list[dict[str, Any]]:
        """The lines that the command prints; AssertionError if it ends with another exit code."""
        self.capsys.readouterr()
        server = f"127.0.0.1:{self.port}"
        ended = await run([*words, "--server", server, "--key-file", str(self.key_file), "--output", "json"])
        printed = self.capsys.readouterr()
        self.complaints = printed.err
        assert ended == code, printed.err
        # A server in the same process logs to the same place.
        return [json.loads(line) for line in printed.out.splitlines() if line.startswith("{")]

    async def rings(self) -> dict[str, dict[str, Any]]:
        """`rewardctl keys` by client; "" is the service itself."""
        [listed] = await self("keys")
        return {ring.get("client_id", ""): ring for ring in listed["keys"]}

    async def rotated(self) -> dict[str, dict[str, Any]]:
        """Waits until everything is sealed again."""

        async def done() -> bool:
            return all("end_time" in ring["rotation"] for ring in (await self.rings()).values())

        await until(done)
        return await self.rings()


def terminal(capsys: pytest.CaptureFixture[str], folder: Path, port: int) -> Terminal:
    """One at a server's port."""
    key_file = folder / "operator.key"
    key_file.write_text(OPERATOR)
    return Terminal(capsys, key_file, port)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Asks until it holds; the test's time limit is the end of patience."""
    while not await condition():  # noqa: ASYNC110 - what is waited for has no event of its own
        await asyncio.sleep(0.05)
