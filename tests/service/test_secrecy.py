"""What must not be read by anybody but the client that ordered: searched for in everything a full run leaves behind."""

import asyncio
import base64
import re
import sqlite3
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from reward_sandbox import (
    CANARY,
    Sandbox,
    SandboxSettings,
    dushu,
    kaquan91_card,
    kaquan91_recharge,
    kasushou,
    kuaiduibao,
)
from rewardservice.v1 import order_pb2

from .harness import DEV, OPERATOR, OTHER, QUICK, Caller, Place, ServerProcess, State, caller, free_port, refused

PHONE_NUMBER = "13800138000"
PHONE = order_pb2.Recipient(phone=order_pb2.PhoneNumber(area_code="+86", number=PHONE_NUMBER))
CREDENTIALS = (
    kuaiduibao.APP_SECRET,
    kaquan91_card.APPSECRET,
    kaquan91_recharge.APPSECRET,
    kasushou.APIKEY,
    dushu.APPSECRET,
)
ORDERS = {
    "kuaiduibao/card": None,
    "kuaiduibao/coupon": None,
    "kuaiduibao/topup": PHONE,
    "kuaiduibao/out-of-stock": None,
    "kaquan91_card/type-0": None,
    "kaquan91_card/type-2": None,
    "kaquan91_card/type-3": None,
    "kaquan91_card/type-4": None,
    "kaquan91_card/slow": None,
    "kaquan91_recharge/topup": PHONE,
    "kaquan91_recharge/refused": PHONE,
    "kasushou/card": None,
    "kasushou/topup": PHONE,
    "kasushou/silent": None,
    "dushu/membership": PHONE,
    "dushu/locked-phone": PHONE,
    "dushu/silent": PHONE,
}


def spellings(secret: str) -> set[bytes]:
    """A secret as it may stand in a file: plain, in a URL, in base64 at any of its three offsets."""
    raw = secret.encode()
    coded = {base64.b64encode(b"x" * shift + raw)[4:-4] for shift in (0, 1, 2)}
    return {raw, quote(secret, safe="").encode(), *(text for text in coded if len(text) > 7)}


def issued_tokens(sandbox: Sandbox) -> set[str]:
    """Every access token that a supplier gave the server."""
    tokens: set[str] = set()
    for kind in ("kuaiduibao", "dushu"):
        tokens.update(sandbox._suppliers[kind].desk.tokens._ends)
    assert len(tokens) >= 2
    return tokens


def signatures(sandbox: Sandbox) -> set[str]:
    """The signatures of every callback that the server took."""
    bodies = [
        call["body"]
        for kind in ("kuaiduibao", "kaquan91_recharge", "kasushou")
        for order in sandbox.books(kind)["orders"]
        for call in order["callbacks"]
    ]
    found = {match for body in bodies for match in re.findall(r"sign\W+([0-9A-Fa-f]{32,64})", body)}
    assert len(found) >= 3
    return found


def files_of_the_store(folder: Path) -> dict[str, bytes]:
    """Database, log and lock file, as they lie on the disk."""
    return {path.name: path.read_bytes() for path in folder.glob("reward.db*")}


@pytest.mark.rule("P10", "D5")
async def test_no_secret_is_left_in_logs_metrics_or_files(tmp_path: Path) -> None:
    """A full run of every supplier at log level debug: neither cards nor keys nor tokens nor whole recipients stand in
    the log or the metrics, and no card, key or token in the clear in any file of the store.
    """
    http_port = free_port()
    callback_url = f"http://127.0.0.1:{http_port}/callbacks/kuaiduibao"
    async with (
        Sandbox(SandboxSettings(port=0, step_seconds=0.05, callback_url=callback_url)) as sandbox,
        ServerProcess(
            Place(
                folder=tmp_path,
                sandbox_url=sandbox.url,
                http_port=http_port,
                account=dict(QUICK),
                extra='[logging]\nlevel = "debug"\n',
            )
        ) as server,
    ):
        client = Caller(server.place.grpc_port)
        created = await asyncio.gather(
            *(client.create(product, f"o:{product}", recipient=recipient) for product, recipient in ORDERS.items())
        )
        orders = [await client.until(answer.order.order_id) for answer in created]
        for order in orders:
            await client.get(order.order_id, "EXPLAINED")
        await client.create("kuaiduibao/card", "o:kuaiduibao/card", view=order_pb2.ORDER_VIEW_FULL)
        async with aiohttp.ClientSession() as session:
            forged = session.post(callback_url, data={"out_trade_no": CANARY, "_sign": f"{CANARY}-forged"})
            async with forged, session.get(f"http://127.0.0.1:{http_port}/metrics") as metrics:
                shown = await metrics.read()
        cards = [card for order in orders for card in order.cards]
        assert len(cards) >= 9
        assert all(order.state in (State.ORDER_STATE_FULFILLED, State.ORDER_STATE_FAILED) for order in orders)
        log = server.output.read_bytes()
        assert b"order created" in log
        store = files_of_the_store(tmp_path)
        assert store
        secrets = {CANARY, DEV, *CREDENTIALS, *issued_tokens(sandbox), *signatures(sandbox)}
        for card in cards:
            secrets |= {card.secret, card.link, card.qr.content, card.qr.image_url} - {""}
        with sqlite3.connect(tmp_path / "reward.db") as database:
            assert database.execute("SELECT count(*) FROM cards").fetchone()[0] == len(cards)
        for secret in sorted(secrets):
            for spelled in spellings(secret):
                assert spelled not in log, f"{secret} in the log"
                assert spelled not in shown, f"{secret} in the metrics"
                for name, content in store.items():
                    assert spelled not in content, f"{secret} in {name}"
        assert PHONE_NUMBER.encode() not in log
        assert b"access_token=" not in log
        await client.close()


@pytest.mark.rule("D6")
async def test_only_the_ordering_client_with_the_permission_sees_cards(tmp_path: Path) -> None:
    """BASIC masks, FULL shows; another client finds nothing; the operator's key may not see cards at all."""
    async with (
        Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox,
        ServerProcess(Place(folder=tmp_path, sandbox_url=sandbox.url)) as server,
    ):
        port = server.place.grpc_port
        async with caller(port) as owner, caller(port, OTHER) as other, caller(port, OPERATOR) as operator:
            created = await owner.create("kuaiduibao/card", "order-1")
            full = await owner.until(created.order.order_id)
            (basic,) = (await owner.get(full.order_id, "BASIC")).cards
            (shown,) = full.cards
            assert CANARY in shown.secret
            assert (basic.masked, basic.secret, basic.number[-4:]) == (True, "", shown.number[-4:])
            assert shown.number not in basic.number
            for view in ("BASIC", "FULL", "EXPLAINED"):
                await refused(other.get(full.order_id, view))
            error = await refused(operator.get(full.order_id, "FULL"))
            assert "read_cards" in (error.details() or "")
