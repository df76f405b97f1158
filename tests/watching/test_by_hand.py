"""Every command of the page about grpcurl, buf and curl is run and prints what stands there."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from reward_sandbox import Sandbox, SandboxSettings
from service.harness import Place, ServerProcess

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "by-hand.md"
CHANGING = re.compile(
    r"A[QW][\w-]{20,}|CNRY[\w-]+|\*{4}\d{4}|\b[0-9A-Z]{26}\b|\b[0-9a-f]{24}\b|\d{4}-\d\d-\d\dT[0-9:.]+Z|(?<=} )\d\.0$",
    re.MULTILINE,
)


def commands() -> list[tuple[str, str]]:
    """The commands with what they print."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with (
        Sandbox(SandboxSettings(port=0)) as sandbox,
        ServerProcess(Place(folder=tmp_path, sandbox_url=sandbox.url, account={})) as one,
    ):
        yield one


async def run(command: str, place: Place) -> tuple[int | None, str]:
    """Exit code and output of a command, at this test's server."""
    command = command.replace("127.0.0.1:50051", f"127.0.0.1:{place.grpc_port}")
    command = command.replace("127.0.0.1:8080", f"127.0.0.1:{place.http_port}")
    process = await asyncio.create_subprocess_exec(
        "bash", "-o", "pipefail", "-c", command,
        cwd=ROOT, env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return process.returncode, "".join(f"{line.rstrip()}\n" for line in output.decode().splitlines())


def settled(output: str) -> str:
    """An output without what differs from run to run: ids, times, tokens, cards, counts."""
    return CHANGING.sub("…", output)


def last_message(output: str) -> Any:
    """The last of the JSON objects that follow one another."""
    return json.loads(re.split(r"^(?={)", output, flags=re.MULTILINE)[-1])


async def test_every_command_prints_what_the_page_says(server: ServerProcess) -> None:
    """Errors end with an exit code above 0. A stream may begin at an earlier state; it ends with the same message."""
    tools = set()
    for command, expected in commands():
        code, output = await run(command, server.place)
        assert (code == 0) == ("ERROR:" not in expected), (command, output)
        if "/StreamOrderUpdates" in command:
            assert settled(json.dumps(last_message(output))) == settled(json.dumps(last_message(expected)))
        elif command.startswith("buf") and expected.startswith("{"):
            # Written with a blank more or less between two runs, on purpose.
            assert json.loads(settled(output)) == json.loads(settled(expected)), command
        else:
            assert settled(output) == settled(expected), command
        tools.add(command.split()[0])
    assert tools == {"grpcurl", "buf", "curl"}
