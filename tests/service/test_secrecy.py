"""What must not be read by anybody but the client that ordered: searched for in everything a full run leaves behind."""

import base64
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from reward_sandbox import CANARY, Sandbox, SandboxSettings

from .canaries import (
    Search,
    assert_found_where_they_belong,
    assert_hidden,
    assert_recipients_hidden,
    play,
    running,
    scenarios,
)
from .harness import OPERATOR, OTHER, Place, ServerProcess, caller, refused


def files_of_the_store(folder: Path) -> dict[str, bytes]:
    """Database, write-ahead log, index of it and lock file, as they lie on the disk."""
    return {path.name: path.read_bytes() for path in folder.glob("reward.db*")}


def test_the_search_finds_every_spelling() -> None:
    """Alone and between other letters, at any offset; and nothing where there is nothing."""
    secret = "a/b+c secret=7&ü"
    search = Search({"it": secret})
    for before in (b"", b"x", b"xy"):
        raw = before + secret.encode() + b"z"
        coded = (
            raw,
            base64.b64encode(raw),
            base64.urlsafe_b64encode(raw),
            raw.hex().encode(),
            raw.hex().upper().encode(),
            quote(raw).encode(),
            quote(raw, safe="").encode(),
            raw.decode().encode("utf-16-le"),
            raw.decode().encode("utf-16-be"),
            json.dumps(raw.decode()).encode(),
            json.dumps(raw.decode(), ensure_ascii=False).encode(),
        )
        assert [search.found_in(b"\0\xff" + text + b"\0") for text in coded] == [{"it"}] * len(coded)
    assert search.found_in(secret[1:].encode()) == set()


@pytest.mark.timeout(600)
@pytest.mark.rule("P10", "D5")
async def test_no_secret_is_left_in_logs_metrics_answers_or_files(tmp_path: Path) -> None:
    """Half of all scenarios of every supplier at log level debug, looked at, decided and cancelled: neither cards nor
    keys nor tokens stand in the clear anywhere but in the owner's view FULL, nor whole recipients in what operators and
    others see. The other half runs over PostgreSQL.
    """
    async with running(tmp_path, played := scenarios(0, 2)) as run:
        await play(run, played)
        told = await run.told()
        await run.server.kill()
        store = files_of_the_store(tmp_path)
        assert {"reward.db", "reward.db-wal"} <= set(store)
        assert_hidden(run, told, {**store, **run.temporary_files()})
        assert_found_where_they_belong(run, {"the store": b"".join(store.values())})
        assert_recipients_hidden(run, told)


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
