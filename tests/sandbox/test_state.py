"""A sandbox with a state file: what it still knows after it was stopped, killed or misled."""

import asyncio
import hashlib
import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from reward_sandbox import Sandbox
from reward_sandbox.kasushou import APIKEY, USER_ID
from reward_sandbox.state import StateError

from .test_control import buy, start_program


async def detail(url: str, client: Any, clock: Any, number: str) -> Any:
    body = json.dumps({"day": "0", "external_orderno": number}, separators=(",", ":")).encode()
    timestamp = str(int(clock() * 1000))
    sign = hashlib.sha1(timestamp.encode() + body + APIKEY.encode(), usedforsecurity=False).hexdigest()
    address = f"{url}/kasushou/api/v1/order/info"
    return (await client.post(address, body, UserId=USER_ID, Timestamp=timestamp, Sign=sign))["data"]


async def test_restart_keeps_the_books(start: Any, client: Any, clock: Any, until: Any, tmp_path: Path) -> None:
    """A new sandbox with the file of the old one has its books, balance, stock and tokens; nobody else may read it."""
    file = tmp_path / "state.json"
    first: Sandbox = await start(state=file)
    await buy(first, client, clock, "S1")
    await until(lambda: first.books("kasushou")["orders"][0]["state"] == 3)
    query = "app_id=20160711&app_secret=sandbox-kuaiduibao-secret-012345"
    form = "application/x-www-form-urlencoded"
    issued = await client.post(
        f"{first.url}/kuaiduibao/o-auth2/app/access-token", query.encode(), **{"Content-Type": form}
    )
    before = first.books("kasushou")
    await first.stop()

    second: Sandbox = await start(state=file)

    assert second.books("kasushou") == before
    (entry,) = await detail(second.url, client, clock, "S1")
    assert entry["card_list"] == before["orders"][0]["delivered"]
    assert (await buy(second, client, clock, "S1"))["code"] == 400
    body = f"access_token={issued['access_token']}".encode()
    answer = await client.post(f"{second.url}/kuaiduibao/api/basic/ip", body, **{"Content-Type": form})
    assert answer["code"] == 0
    assert file.stat().st_mode & 0o777 == 0o600


async def test_order_in_progress_goes_on(start: Any, client: Any, clock: Any, until: Any, tmp_path: Path) -> None:
    """An order that was on its way when the sandbox stopped takes the rest of its course in the next run."""
    file = tmp_path / "state.json"
    first: Sandbox = await start(state=file, step_seconds=60.0)
    await buy(first, client, clock, "S1")
    await first.stop()

    second: Sandbox = await start(state=file)

    await until(lambda: second.books("kasushou")["orders"][0]["delivered"])


async def test_unacknowledged_callback_is_sent_again(
    start: Any, client: Any, clock: Any, *, until: Any, receiver: Any, tmp_path: Path
) -> None:
    """A callback that nobody acknowledged comes again after the restart; an acknowledged one doesn't."""
    file = tmp_path / "state.json"
    receiver.answers = [b"no", b"ok"]
    first: Sandbox = await start(state=file, step_seconds=0.0, callback_scale=1.0)
    await buy(first, client, clock, "S1", url=receiver.url)
    await until(lambda: (sent := first.books("kasushou")["orders"][0]["callbacks"]) and sent[0]["status"])
    await first.stop()

    second: Sandbox = await start(state=file, step_seconds=0.0)
    await until(lambda: second.books("kasushou")["orders"][0]["callbacks"][-1]["accepted"])
    assert len(receiver.bodies) == 2
    await second.stop()

    third: Sandbox = await start(state=file)
    assert all(order.notices == 0 for order in third._suppliers["kasushou"].desk.book.orders)


async def test_order_ended_from_outside_stays_ended(
    start: Any, client: Any, clock: Any, until: Any, tmp_path: Path
) -> None:
    """A stage outside the scenario's course is kept, and the course isn't taken up again."""
    file = tmp_path / "state.json"
    first: Sandbox = await start(state=file, step_seconds=60.0)
    number = (await buy(first, client, clock, "S1"))["data"]["ordersn"]
    body = json.dumps({"ordersn": number}, separators=(",", ":")).encode()
    timestamp = str(int(clock() * 1000))
    sign = hashlib.sha1(timestamp.encode() + body + APIKEY.encode(), usedforsecurity=False).hexdigest()
    address = f"{first.url}/kasushou/api/v1/order/close"
    await client.post(address, body, UserId=USER_ID, Timestamp=timestamp, Sign=sign)
    await first.stop()

    second: Sandbox = await start(state=file)

    (order,) = second.books("kasushou")["orders"]
    assert (order["state"], order["refunded"], order["outcome"]) == (4, "98.50", "failed")
    assert not second._suppliers["kasushou"].desk._courses


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "suppliers": {}}'])
async def test_foreign_file_is_left_alone(start: Any, tmp_path: Path, text: str) -> None:
    """A file that can't be understood stops the start and stays as it is."""
    file = tmp_path / "state.json"
    file.write_text(text)
    with pytest.raises(StateError, match="remove it"):
        await start(state=file)
    assert file.read_text() == text


async def test_unwritable_file_stops_the_start(start: Any, tmp_path: Path) -> None:
    """A path that can't be written is told before the first order."""
    with pytest.raises(StateError, match="cannot write"):
        await start(state=tmp_path / "missing" / "state.json")


async def test_program_killed_keeps_its_books(client: Any, until: Any, tmp_path: Path) -> None:
    """Changes are saved while the program runs: after a SIGKILL the next run finds the order."""
    file = tmp_path / "state.json"
    urls = []
    for run in range(2):
        program = await start_program("--port", "0", "--step-seconds", "0", "--state", str(file))
        assert program.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", (await program.stdout.readline()).decode())
        assert found
        urls.append(found.group())
        if run == 0:
            sandbox = type("Address", (), {"url": urls[0]})
            await buy(sandbox, client, time.time, "S1")
            async with asyncio.timeout(60):
                while b'"S1"' not in await asyncio.to_thread(file.read_bytes):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        else:
            (entry,) = await detail(urls[1], client, time.time, "S1")
            assert entry["external_orderno"] == "S1"
        program.send_signal(signal.SIGKILL)
        await program.wait()


async def test_index(sandbox: Sandbox, client: Any) -> None:
    """The printed address shows the suppliers and where to look."""
    async with client.session.get(f"{sandbox.url}/") as response:
        text = await response.text()
        assert (response.status, response.content_type) == (200, "text/html")
    for link in ("/books", "/books/dushu", "/control"):
        assert f'href="{link}"' in text
