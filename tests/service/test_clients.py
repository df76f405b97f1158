"""The Python client and `rewardctl` against the real server."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ports import free_port
from reward_sandbox import CANARY, Sandbox, SandboxSettings
from rewardservice import RewardClient, TlsOptions, Update
from rewardservice.errors import RewardError

from .harness import Place, ServerProcess, State, certificate

REWARDCTL = Path(sys.executable).with_name("rewardctl")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    http_port = free_port()
    callback_url = f"http://127.0.0.1:{http_port}/callbacks/kuaiduibao"
    async with (
        Sandbox(SandboxSettings(port=0, step_seconds=0.05, callback_url=callback_url)) as sandbox,
        ServerProcess(Place(folder=tmp_path, sandbox_url=sandbox.url, http_port=http_port)) as one,
    ):
        yield one


async def rewardctl(port: int, *arguments: str) -> tuple[int, str, str]:
    """Runs it and returns exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        str(REWARDCTL), "--server", f"127.0.0.1:{port}", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_the_demo_shows_five_fulfilled_orders_and_their_cards(server: ServerProcess) -> None:
    """One product of each supplier; the cards of the card products are shown; exit code 0."""
    code, output, errors = await rewardctl(server.place.grpc_port, "demo", "--output", "json")
    assert code == 0, errors
    lines = [json.loads(line) for line in output.splitlines()]
    orders = [line[kind]["order"] for line in lines for kind in ("snapshot", "update") if kind in line]
    ended = {order["product_id"]: order for order in orders if order["state"] == "ORDER_STATE_FULFILLED"}
    assert {product.split("/")[0] for product in ended} == {
        "kuaiduibao",
        "kaquan91_card",
        "kaquan91_recharge",
        "kasushou",
        "dushu",
    }
    assert sum(CANARY in json.dumps(order["cards"]) for order in ended.values()) == 3


async def test_rewardctl_orders_and_watches_until_the_card_is_there(server: ServerProcess) -> None:
    """`order create --watch --show-cards` ends with the card and exit code 0; a refused order with 1."""
    port = server.place.grpc_port
    code, output, _ = await rewardctl(port, "order", "create", "kasushou/card", "--watch", "--show-cards")
    assert code == 0
    assert CANARY in output
    code, _, _ = await rewardctl(port, "order", "create", "kuaiduibao/out-of-stock", "--watch")
    assert code == 1
    code, _, errors = await rewardctl(port, "order", "create", "no/such")
    assert code == 3
    assert "no/such" in errors


async def test_a_watch_goes_on_through_a_killed_server(server: ServerProcess) -> None:
    """RewardClient.watch resumes after SIGKILL by itself: every version once, none missing."""
    place = server.place
    async with RewardClient(f"127.0.0.1:{place.grpc_port}", key="dev-key") as client:
        created = await client.create_order("kasushou/card-delayed", client_order_id="order-1")
        seen = [created.order.version]
        accepted = asyncio.Event()

        async def follow() -> None:
            events = client.watch(
                order_ids=[created.order.order_id], resume_token=created.resume_token, until_terminal=True
            )
            async for event in events:
                if isinstance(event, Update):
                    seen.append(event.order.version)
                    accepted.set()

        following = asyncio.create_task(follow())
        # Killed before the request was written, the order would rightly fail as never received.
        await accepted.wait()
        await server.kill()
        await server.start(config=place.folder / "reward.toml")
        await following
        order = await client.wait_for(order_id=created.order.order_id, timeout=100)
        assert order.state == State.ORDER_STATE_FULFILLED
        assert seen == list(range(1, order.version + 1))


async def test_with_a_certificate_the_server_speaks_tls_only(tmp_path: Path) -> None:
    """A client that trusts the certificate is served; one that speaks in the clear isn't."""
    certificate_file, key_file = certificate(tmp_path)
    async with Sandbox(SandboxSettings(port=0)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url)
        config = place.write()
        tls = f'tls_certificate_file = "{certificate_file}"\ntls_key_file = "{key_file}"\n'
        config.write_text(config.read_text().replace("[http]", f"{tls}[http]", 1))
        server = ServerProcess(place, certificate=certificate_file)
        target = f"127.0.0.1:{place.grpc_port}"
        try:
            await server.start(config=config)
            async with RewardClient(target, key="dev-key", tls=TlsOptions(ca_file=certificate_file)) as client:
                created = await client.create_order("kuaiduibao/card", client_order_id="order-1")
                order = await client.wait_for(order_id=created.order.order_id, timeout=100)
                assert order.state == State.ORDER_STATE_FULFILLED
            async with RewardClient(target, key="dev-key", timeout=1.0) as plain:
                with pytest.raises(RewardError):
                    await plain.get_order(order_id=created.order.order_id)
        finally:
            await server.kill()
