"""The page about logs knows every event and every field."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from reward_sandbox import Sandbox, SandboxSettings
from reward_server.logs import is_sensitive
from service.harness import Place, ServerProcess, caller, refused

from .logged import events

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "logs.md").read_text()
ALWAYS = frozenset({"timestamp", "level", "event"})
DURING_CALLS = frozenset({"request_id", "method", "client"})


def table(heading: str) -> list[list[str]]:
    """The rows of a table of the page, without its head."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in section.splitlines() if row[:2] == "| "][2:]


def documented() -> Mapping[str, tuple[set[str], set[str]]]:
    """Levels and fields by event, as the page has them."""
    return {
        name: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", fields))) for name, levels, fields in table("Events")
    }


def test_the_page_lists_what_the_source_logs() -> None:
    """Each event with its levels and its fields, and no other."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for event in events(ROOT / "server" / "reward_server"):
        levels, fields = found.setdefault(event.name, (set(), set()))
        levels.add(event.level)
        fields.update(event.fields)
    assert documented() == found


def test_every_field_is_explained_once() -> None:
    """And none that isn't used."""
    explained = [name.strip("`") for name, _ in table("Fields")]
    assert sorted(explained) == sorted({field for _, fields in documented().values() for field in fields})


def test_no_field_is_hidden_by_its_name() -> None:
    """A name that sounds secret would show as dots, and nobody would see that it tells nothing."""
    assert not [name for name, _ in table("Fields") if is_sensitive(name.strip("`"))]


def lines(log: Path) -> list[dict[str, Any]]:
    """What a server wrote, of its own."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return [entry for entry in entries if "logger" not in entry]


async def test_a_running_server_writes_what_the_page_says(tmp_path: Path) -> None:
    """An order, one that is refused, a stranger's callback, a crash, another start and an end."""
    async with Sandbox(SandboxSettings(port=0)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",))
        async with ServerProcess(place) as server:
            async with caller(place.grpc_port) as client:
                created = await client.create("kasushou/card", "o-1")
                await client.until(created.order.order_id)
                await refused(client.create("nonsense", "o-2"))
            async with aiohttp.ClientSession() as session:
                address = f"http://127.0.0.1:{place.http_port}/callbacks/kasushou"
                async with session.post(address, data=b"{}") as answer:
                    assert answer.status == 404
            await server.kill()
            await server.start()
            assert await server.stop() == 0
        written = lines(server.output)
    page = documented()
    for entry in written:
        levels, fields = page[entry["event"]]
        assert entry["level"] in levels
        assert entry.keys() - ALWAYS - DURING_CALLS <= fields, entry
    happened = {entry["event"] for entry in written}
    assert happened >= {
        "ready",
        "order created",
        "purchase moved",
        "callback refused",
        "a callback got no answer",
        "draining",
        "stopped",
    }
