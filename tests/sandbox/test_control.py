"""What tests do to the sandbox: hold, cut, take down, reset, and start it from the command line."""

import asyncio
import hashlib
import json
import os
import re
import signal
import sys
import tomllib
from typing import Any

import aiohttp
import pytest

from reward_sandbox import Sandbox, SandboxSettings, catalogue, shops
from reward_sandbox.kasushou import APIKEY, USER_ID


async def buy(sandbox: Any, client: Any, clock: Any, number: str, product: int = 2909, *, url: str = "") -> Any:
    address = f',"url":"{url}"' if url else ""
    body = f'{{"external_orderno":"{number}","id":{product},"quantity":1{address}}}'.encode()
    timestamp = str(int(clock() * 1000))
    sign = hashlib.sha1(timestamp.encode() + body + APIKEY.encode(), usedforsecurity=False).hexdigest()
    buy_url = f"{sandbox.url}/kasushou/api/v1/order/buy"
    return await client.post(buy_url, body, UserId=USER_ID, Timestamp=timestamp, Sign=sign)


async def control(sandbox: Any, client: Any, what: str, **order: object) -> Any:
    return await client.post(f"{sandbox.url}/control/{what}", json.dumps(order).encode())


async def test_held_answers(sandbox: Any, client: Any, clock: Any, until: Any) -> None:
    """Held create calls are booked and counted, and answered when they are released."""
    await control(sandbox, client, "kasushou/hold", next=2)
    calls = [asyncio.create_task(buy(sandbox, client, clock, f"S{n}")) for n in range(2)]
    await until(lambda: sandbox.gate("kasushou").held == 2)
    assert len(sandbox.books("kasushou")["orders"]) == 2
    assert (await buy(sandbox, client, clock, "S9"))["code"] == 200
    released = await control(sandbox, client, "kasushou/release")
    assert released["released"] == 2
    assert [answer["code"] for answer in await asyncio.gather(*calls)] == [200, 200]
    assert (await control(sandbox, client, "kasushou/hold"))["hold"] == "all"


@pytest.mark.parametrize(("when", "booked"), [("before", []), ("after", ["S1"])])
async def test_cut_connections(sandbox: Any, client: Any, clock: Any, when: str, booked: list[str]) -> None:
    """A create call is cut before or after it is booked, as often as ordered."""
    await control(sandbox, client, "kasushou/drop", next=1, when=when)
    with pytest.raises(aiohttp.ClientError):
        await buy(sandbox, client, clock, "S1")
    assert [order["number"] for order in sandbox.books("kasushou")["orders"]] == booked
    assert (await buy(sandbox, client, clock, "S2"))["code"] == 200


async def test_supplier_down(sandbox: Any, client: Any, clock: Any) -> None:
    """A supplier that is down closes every connection and books nothing."""
    await control(sandbox, client, "kasushou/down", down=True)
    with pytest.raises(aiohttp.ClientError):
        await buy(sandbox, client, clock, "S1")
    await control(sandbox, client, "kasushou/down", down=False)
    assert (await buy(sandbox, client, clock, "S1"))["code"] == 200


async def test_books_and_reset(sandbox: Any, client: Any, clock: Any) -> None:
    """The books over HTTP are the books in the process, and a reset empties them."""
    await buy(sandbox, client, clock, "S1")
    async with client.session.get(f"{sandbox.url}/books/kasushou") as response:
        assert [order["number"] for order in (await response.json())["orders"]] == ["S1"]
    await control(sandbox, client, "reset")
    async with client.session.get(f"{sandbox.url}/books") as response:
        books = await response.json()
    assert set(books) == set(shops())
    assert all(book["orders"] == [] and book["balance"] == "100000000.00" for book in books.values())
    async with client.session.get(f"{sandbox.url}/books/nobody") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("action", "order"),
    [
        ("drop", {"next": 1, "when": "during"}),
        ("drop", {}),
        ("down", {"down": 1}),
        ("hold", {"next": -1}),
        ("hold", [1]),
    ],
)
async def test_unreadable_orders(sandbox: Any, client: Any, action: str, order: object) -> None:
    """A fault that cannot be understood is HTTP 400 and changes nothing."""
    before = sandbox.gate("kasushou").as_json()
    body = json.dumps(order).encode()
    status, answer = await client.post_for_status(f"{sandbox.url}/control/kasushou/{action}", body)
    assert status == 400
    assert answer["error"]
    assert sandbox.gate("kasushou").as_json() == before


async def test_cards_follow_from_seed_and_number(start: Any, client: Any, clock: Any, until: Any) -> None:
    """The same seed gives an order the same cards whatever came before it; another seed gives others."""
    cards = []
    for seed, earlier in ((1, []), (1, ["A", "B"]), (2, [])):
        sandbox = await start(seed=seed, step_seconds=0.0)
        for number in [*earlier, "S1"]:
            await buy(sandbox, client, clock, number)
        await until(lambda: sandbox.books("kasushou")["orders"][-1]["delivered"])  # noqa: B023
        cards.append(sandbox.books("kasushou")["orders"][-1]["delivered"])
    assert cards[0] == cards[1] != cards[2]


async def test_stop_is_quick(client: Any, clock: Any, until: Any) -> None:
    """Silent calls, held calls and callbacks waiting to be repeated end with the server: nobody waits for them."""
    sandbox = Sandbox(SandboxSettings(port=0, clock=clock, step_seconds=0.0))
    await sandbox.start()
    await buy(sandbox, client, clock, "S0", url=f"{sandbox.url}/nobody-takes-this")
    await until(lambda: (sent := sandbox.books("kasushou")["orders"][0]["callbacks"]) and sent[0]["status"] == 404)
    silent = asyncio.create_task(buy(sandbox, client, clock, "S1", 2913))
    await until(lambda: len(sandbox.books("kasushou")["orders"]) == 2)
    sandbox.gate("kasushou").hold()
    held = asyncio.create_task(buy(sandbox, client, clock, "S2"))
    await until(lambda: sandbox.gate("kasushou").held)
    async with asyncio.timeout(30):
        await sandbox.stop()
    results = await asyncio.gather(silent, held, return_exceptions=True)
    assert all(isinstance(result, aiohttp.ClientError) for result in results)


def test_catalogue_is_complete() -> None:
    """Every scenario is a product whose cost stays under its limit, and every secret key is there."""
    config = tomllib.loads(catalogue("http://127.0.0.1:8090"))
    assert set(config["suppliers"]) == set(shops())
    assert config["suppliers"]["dushu"]["base_url"] == "http://127.0.0.1:8090/dushu/"
    products = {product["id"]: product for product in config["products"]}
    assert len(products) == len(config["products"])
    for name, product in products.items():
        (offer,) = product["offers"]
        assert name.startswith(f"{offer['supplier']}/")
        assert float(offer["unit_cost"]) <= float(offer["max_unit_cost"]) <= float(product["face_value"])
    (offer,) = products["kaquan91_card/type-3"]["offers"]
    assert offer["parameters"] == {"auto_confirm_hour": "10", "card_type": "3"}
    assert products["kuaiduibao/card"]["offers"][0]["allow_unguarded"] is True
    membership = products["dushu/membership"]["offers"][0]
    assert membership["unit_cost"] == membership["max_unit_cost"] == "365.00"


async def start_program(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "reward_sandbox",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def test_program_serves_until_told_to_stop(client: Any, clock: Any) -> None:
    """The program prints its address, answers, refuses a taken port in one line, and ends at SIGTERM."""
    program = await start_program("--port", "0", "--step-seconds", "0")
    assert program.stdout is not None
    line = (await program.stdout.readline()).decode()
    found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    assert found, line
    async with client.session.get(f"{found.group()}/books") as response:
        assert set(await response.json()) == set(shops())
    second = await start_program("serve", "--port", found.group(1))
    out, err = await second.communicate()
    assert (second.returncode, out, len(err.splitlines())) == (1, b"", 1)
    program.send_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        assert await program.wait() == 0


async def test_program_prints_products() -> None:
    """The products command prints the catalogue for the address it is given."""
    program = await start_program("products", "--sandbox-url", "http://sandbox:1")
    out, _ = await program.communicate()
    assert out.decode() == catalogue("http://sandbox:1")
