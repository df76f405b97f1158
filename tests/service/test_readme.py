"""The README and the code on the architecture page work as printed."""

import asyncio
import json
import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from reward_sandbox import Sandbox, SandboxSettings

from .harness import Place, ServerProcess

ROOT = Path(__file__).parents[2]
GRPCURL = Path(sys.executable).with_name("grpcurl")


def sessions() -> list[tuple[str, str]]:
    """The README's grpcurl commands with what they print."""
    blocks = re.findall(r"```console\n\$ (.*?)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [(command, output) for command, output in blocks]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with (
        Sandbox(SandboxSettings(port=0)) as sandbox,
        ServerProcess(Place(folder=tmp_path, sandbox_url=sandbox.url, account={})) as one,
    ):
        yield one


async def grpcurl(command: str, port: int) -> str:
    program, *arguments = shlex.split(command)
    assert program == "grpcurl"
    arguments = [argument.replace("127.0.0.1:50051", f"127.0.0.1:{port}") for argument in arguments]
    process = await asyncio.create_subprocess_exec(
        str(GRPCURL), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


def messages(text: str) -> list[Any]:
    """The JSON objects that follow one another in a text."""
    decoder = json.JSONDecoder()
    found, at = [], 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        message, length = decoder.raw_decode(text[at:])
        found.append(message)
        at += length
    return found


def shape(value: Any) -> Any:
    """A message without what differs from run to run: ids, times, tokens, secrets."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    changing = re.compile(r"AQ[\w-]{20,}|CNRY[\w-]+|[0-9A-Z]{26}|\d{4}-\d\d-\d\dT[0-9:.]+Z")
    return changing.sub("…", value) if isinstance(value, str) else value


async def test_the_grpcurl_session_works_as_printed(server: ServerProcess) -> None:
    """list and describe print the same text; CreateOrder and the stream the same messages but for ids, times, tokens
    and cards. (The stream may begin at an earlier state than the printed one; it ends with the same message.)
    """
    printed = sessions()
    assert [command.split()[-1].split("/")[-1] for command, _ in printed] == [
        "list",
        "rewardservice.v1.RewardService.CreateOrder",
        "CreateOrder",
        "StreamOrderUpdates",
    ]
    for command, expected in printed:
        output = await grpcurl(command, server.place.grpc_port)
        if not expected.startswith("{"):
            assert output == expected
        elif "Stream" in command:
            assert shape(messages(output)[-1]) == shape(messages(expected)[-1])
            assert list(messages(output)[0]) == ["snapshot"]
        else:
            assert shape(messages(output)) == shape(messages(expected))


async def test_the_python_program_works_as_printed(server: ServerProcess, tmp_path: Path) -> None:
    """Run twice it prints the same card's secret and nothing else."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "127.0.0.1:50051" in program
    file = tmp_path / "first.py"
    file.write_text(program.replace("127.0.0.1:50051", f"127.0.0.1:{server.place.grpc_port}"))
    printed = []
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(file), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        assert errors == b""
        printed.append(output.decode())
    assert re.fullmatch(r"CNRY[\w-]+\n", printed[0])
    assert printed[1] == printed[0]


def test_the_readme_links_to_pages_that_exist() -> None:
    """Every relative link of the README and of the pages under docs/ leads somewhere."""
    broken: list[str] = []
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
        missing = (t for t in targets if "://" not in t and not (page.parent / t).exists())
        broken.extend(f"{page.relative_to(ROOT)} → {target}" for target in missing)
    assert broken == []
