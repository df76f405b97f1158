"""The how-to pages are followed to their ends: every command on them is run, in its place, on a service at work.

Pages: rotate-keys.md, resolve-an-unknown-outcome.md, move-to-postgresql.md.
"""

import asyncio
import json
import os
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from docs.commands import printed
from docs.tree import DOCS, FENCE
from reward_sandbox import Sandbox, SandboxSettings
from reward_server.__main__ import run_cli
from reward_server.access import new_key
from rewardservice.cli import run
from service.harness import DEV, OPERATOR, QUICK, Place, ServerProcess, caller
from service.offline import token_of, updates_after
from service.stage import state

CLIENTS = """
[[clients]]
id = "campaigns"
keys = ["{key}"]
permissions = ["order", "read", "read_cards"]
[[clients]]
id = "desk"
keys = ["{operator}"]
permissions = ["operate", "read"]
"""


def commands(page: str) -> list[str]:
    """The commands of a page, in their order."""
    text = (DOCS / "how-to" / page).read_text("utf-8")
    found = [printed(block["body"]) for block in FENCE.finditer(text) if block["info"] == "console"]
    return [line for each in found for line in each.splitlines()]


@dataclass
class Reader:
    """Somebody who types what a page prints, with their own names in place of the page's, in a folder of their own."""

    capsys: pytest.CaptureFixture[str]
    names: dict[str, str]

    async def types(self, command: str) -> str:
        """What a command prints. It has to succeed."""
        for theirs, ours in self.names.items():
            command = re.sub(rf"(?<![\w-]){re.escape(theirs)}(?![\w-])", ours, command)
        program, *words = shlex.split(command)
        self.capsys.readouterr()
        code = await run(words) if program == "rewardctl" else await asyncio.to_thread(run_cli, words)
        printed = self.capsys.readouterr()
        assert code == 0, f"{command}: {printed.out}{printed.err}"
        return printed.out


@pytest.fixture
def reader(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Reader:
    """One with nothing of ours in their environment."""
    for name in [name for name in os.environ if name.startswith("REWARD")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Reader(capsys, {"/etc/reward": str(tmp_path)})


@asynccontextmanager
async def running(folder: Path, **place: Any) -> AsyncIterator[ServerProcess]:
    """The server as it is shipped, and a sandbox."""
    async with (
        Sandbox(SandboxSettings(port=0, step_seconds=0.02)) as sandbox,
        ServerProcess(Place(folder=folder, sandbox_url=sandbox.url, **place)) as server,
    ):
        yield server


async def until_logged(server: ServerProcess, words: str) -> None:
    """The test's time limit is the end of patience."""
    while words not in server.output.read_text():  # noqa: ASYNC110 - a file has no signal
        await asyncio.sleep(0.02)


async def test_keys_are_rotated_as_the_page_says(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the end both of the client's keys work, everything is sealed under new keys, the old master key is out of the
    file, and the card bought before can be read.
    """
    (new, check, everybody, one, listed, add, wrap, shown, last) = commands("rotate-keys.md")
    (key, hashed), (operator, operators) = new_key(), new_key()
    (tmp_path / "operator.key").write_text(operator)
    extra = CLIENTS.format(key=hashed, operator=operators)
    async with running(tmp_path, extra=extra, products=("kasushou/card",)) as server:
        monkeypatch.setenv("REWARDCTL_SERVER", f"127.0.0.1:{server.place.grpc_port}")
        async with caller(server.place.grpc_port, key) as client:
            order = await client.until((await client.create("kasushou/card", "o-1")).order.order_id)
        made = await reader.types(new)
        second, hash_of_it = re.findall(r"rk_\S+", made)[0], re.findall(r"sha256:[0-9a-f]{64}", made)[0]
        config = tmp_path / "reward.toml"
        said = f'keys = [{{ hash = "{hashed}", expires = 2107-01-31T00:00:00Z }}, "{hash_of_it}"]'
        config.write_text(config.read_text().replace(f'keys = ["{hashed}"]', said))
        assert "configuration OK" in await reader.types(check)
        await until_logged(server, "configuration taken over")
        for each in (key, second):
            async with caller(server.place.grpc_port, each) as client:
                assert (await client.get(order.order_id)).cards == order.cards

        for command in (everybody, one, listed):
            await reader.types(command)
        former = (tmp_path / "master.key").read_text().splitlines()[0]
        await reader.types(add)
        await until_logged(server, "another master key wraps from now on")
        await reader.types(wrap)
        assert "campaigns" in await reader.types(shown)
        kept = [line for line in (tmp_path / "master.key").read_text().splitlines() if line != former]
        (tmp_path / "master.key").write_text("\n".join(kept) + "\n")
        await reader.types(last)
        async with caller(server.place.grpc_port, second) as client:
            assert (await client.get(order.order_id)).cards == order.cards


async def test_an_unknown_outcome_is_resolved_as_the_page_says(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's stream ends with the card that the supplier named."""
    (order_it, explain, accounts, listed, resolve, look, audit) = commands("resolve-an-unknown-outcome.md")
    text = (DOCS / "how-to/resolve-an-unknown-outcome.md").read_text("utf-8")
    [card] = [block["body"] for block in FENCE.finditer(text) if block["info"] == "json"]
    (tmp_path / "operator.key").write_text(OPERATOR)
    (tmp_path / "cards.jsonl").write_text(card)
    hurried = {"kuaiduibao": {**QUICK, "settle_by_seconds": 1.0}}
    async with running(tmp_path, products=("kuaiduibao/dropped",), accounts=hurried) as server:
        monkeypatch.setenv("REWARDCTL_SERVER", f"127.0.0.1:{server.place.grpc_port}")
        order_id = json.loads(await reader.types(order_it))["order"]["order_id"]
        async with caller(server.place.grpc_port, OPERATOR) as operator:
            [purchase] = (await operator.get(order_id, "EXPLAINED")).purchases
        reader.names |= {"ORDER": order_id, "PURCHASE": purchase.number}
        assert purchase.number in await reader.types(explain)
        assert "kuaiduibao" in await reader.types(accounts)
        async with caller(server.place.grpc_port, DEV) as client:
            await client.until(order_id, lambda order: state(order) == "needs_review")
            assert order_id in await reader.types(listed)
            await reader.types(resolve)
            order = await client.until(order_id)
        assert [each.secret for each in order.cards] == [json.loads(card)["secret"]]
        assert "FULFILLED" in await reader.types(look)
        assert order_id in await reader.types(audit)


async def test_a_store_is_moved_as_the_page_says(tmp_path: Path, reader: Reader, database: str) -> None:
    """Stopped, moved, started: the client's card and its resume token are as good as before."""
    (stop, copy, move, check, doctor, start) = commands("move-to-postgresql.md")
    assert stop.endswith("systemctl stop reward-server")
    assert start.endswith("systemctl start reward-server")
    text = (DOCS / "how-to/move-to-postgresql.md").read_text("utf-8")
    [store] = [block["body"] for block in FENCE.finditer(text) if block["info"] == "toml"]
    async with running(tmp_path, products=("kasushou/card",)) as server:
        async with caller(server.place.grpc_port) as client:
            order = await client.until((await client.create("kasushou/card", "o-1")).order.order_id)
            token = await token_of(client)
        assert await server.stop() == 0
        url = store.partition('"')[2].partition('"')[0]
        reader.names |= {url: database, "/var/lib/reward/reward.db": f"{tmp_path}/reward.db"}
        assert "/var/lib/reward/reward.db " in copy
        assert "both sides are the same" in await reader.types(move)
        server.place.store = store.replace(url, database).removeprefix("[store]\n")
        server.place.write().chmod(0o600)
        assert "configuration OK" in await reader.types(check)
        await reader.types(doctor)
        await server.start()
        async with caller(server.place.grpc_port) as client:
            assert (await client.get(order.order_id)).cards == order.cards
            second = (await client.create("kasushou/card", "o-2")).order.order_id
            assert {each.order_id for each in await updates_after(client, token, [second])} == {second}
