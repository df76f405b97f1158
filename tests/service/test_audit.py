"""Who read which cards is written down, where nobody can change it unseen."""

import asyncio
import contextlib
import functools
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import pytest

from reward_server import app
from reward_server.rpc.streaming import StreamParts
from reward_server.store import AuditEntry
from reward_server.store.open import open_store
from rewardservice.v1 import order_pb2, reward_service_pb2

from .bare import Bare, bare
from .harness import DEV, OPERATOR, Caller, caller, service
from .terminal import terminal, until
from .test_faults import stage, store_refuses

CARD = "kasushou/card"

FULL = order_pb2.ORDER_VIEW_FULL
ENTRY = ("by", "what", "client_id", "order_id", "cards", "first_position", "last_position", "reason")


def short(entry: dict[str, Any]) -> tuple[Any, ...]:
    """What an entry says, without when and where it stands."""
    values = [call(str(entry[name])) for name in ENTRY]
    return tuple(int(value) if value.isdigit() else value for value in values)


def call(how: str) -> str:
    """By which call cards were read, without the id of the request."""
    return re.sub(r", request \w+", "", how)


def readings(entries: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Those that tell who read cards, the oldest first."""
    return [short(entry) for entry in entries[::-1] if entry["what"] in ("read", "stream")]


# --- What is written


async def test_each_call_that_shows_cards_leaves_one_entry_and_no_other_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who, of which order or which positions, and how many cards. Masked, explained and empty answers leave none."""
    async with service(tmp_path, products=(CARD,)) as it:
        ctl, client = terminal(capsys, tmp_path, it.place.grpc_port), it.client
        order = (await client.create(CARD, "o-1", quantity=2, view=FULL)).order
        order = await client.until(order.order_id)
        async with contextlib.AsyncExitStack() as silent:
            operator = await silent.enter_async_context(caller(it.place.grpc_port, OPERATOR))
            for view in ("BASIC", "EXPLAINED"):
                await client.get(order.order_id, view)
            await operator.get(order.order_id, "EXPLAINED")
            await client.orders.ListOrders(reward_service_pb2.ListOrdersRequest(), metadata=client.metadata)
            await updates(client, view=order_pb2.ORDER_VIEW_BASIC)
        [streamed] = readings(await ctl("audit"))
        assert streamed[:5] == ("dev", "stream", "dev", "", 2), "by which we waited for the cards"

        await client.get(order.order_id)
        replayed = await client.create(CARD, "o-1", quantity=2, view=FULL)
        assert replayed.replayed
        await client.create(CARD, "o-1", quantity=2, view=order_pb2.ORDER_VIEW_BASIC)
        page = await updates(client, view=FULL)
        assert page.more is False
        positions = len(page.updates)
        await updates(client, view=FULL, after=page.resume_token)
        assert readings(await ctl("audit"))[1:] == [
            ("dev", "read", "dev", order.order_id, 2, 0, 0, "RewardService/GetOrder"),
            ("dev", "read", "dev", order.order_id, 2, 0, 0, "RewardService/CreateOrder"),
            ("dev", "read", "dev", "", 2, 1, positions, "RewardService/ListOrderUpdates"),
        ]
        of_order = await ctl("audit", "--order", order.order_id)
        assert [short(entry) for entry in of_order[::-1]] == readings(await ctl("audit"))[1:3]
        assert [entry["what"] for entry in await ctl("audit", "--decisions")] == []
        await ctl("audit", "verify")


async def updates(client: Caller, **fields: Any) -> reward_service_pb2.ListOrderUpdatesResponse:
    """ListOrderUpdates."""
    request = reward_service_pb2.ListOrderUpdatesRequest(limit=100, **fields)
    return await client.orders.ListOrderUpdates(request, metadata=client.metadata)


async def test_no_card_is_answered_that_cannot_be_written_down(tmp_path: Path) -> None:
    """The disk is full: view FULL is refused, and says why and what to do; everything else is read as ever."""
    async with stage(tmp_path) as it:
        created = await it.create(CARD, "o-1")
        order = await it.client.until(created.order.order_id)
        it.server.faults("full")
        await store_refuses(it.client.get(order.order_id))
        await store_refuses(it.client.create(CARD, "o-1", view=FULL))
        await store_refuses(updates(it.client, view=FULL))
        assert [card.masked for card in (await it.client.get(order.order_id, "BASIC")).cards] == [True]
        it.server.faults()
        assert (await it.client.get(order.order_id)).cards == order.cards
        assert await it.server.stop() == 0
    entries = [
        (entry.what, call(entry.reason), entry.cards) for entry in await stored(tmp_path) if entry.what == "read"
    ]
    assert entries == [("read", "RewardService/GetOrder", 1)]


async def stored(folder: Path) -> list[AuditEntry]:
    """All entries of a database that no server uses, the newest first."""
    store = await open_store(f"sqlite:///{folder}/reward.db")
    entries = await store.audit(0, 999)
    await store.close()
    return entries


# --- Streams


@pytest.fixture
def _each_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry is due after each message."""
    monkeypatch.setattr(app, "StreamParts", functools.partial(StreamParts, audit_seconds=0.0))


def ranges(entries: Sequence[dict[str, Any]]) -> list[tuple[int, int, int]]:
    """Of the entries of streams: first position, last position, cards."""
    names = ("first_position", "last_position", "cards")
    streams = [entry for entry in entries[::-1] if entry["what"] == "stream"]
    return [(int(e.get(names[0], 0)), int(e.get(names[1], 0)), int(e.get(names[2], 0))) for e in streams]


@pytest.mark.usefixtures("_each_moment")
@pytest.mark.parametrize("ending", ["leaves", "is killed", "drain"])
async def test_a_stream_tells_what_it_showed_while_it_lasts_and_at_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    """Range after range without a gap between them, from the snapshot on, whatever ends it."""
    async with service(tmp_path, products=(CARD,)) as it:
        ctl = terminal(capsys, tmp_path, it.place.grpc_port)
        async with reader(it.place.grpc_port, kill=ending == "is killed") as seen:
            for count in range(1, 4):
                await it.client.create(CARD, f"o-{count}")
                await seen(count)
            # What isn't the newest has an entry by now.
            assert sum(cards for _, _, cards in ranges(await ctl("audit"))) >= 2
            if ending == "drain":
                await it.app.hub.drain(10.0)

        async def told() -> bool:
            return sum(cards for _, _, cards in ranges(await ctl("audit"))) == 3

        if ending != "drain":
            await until(told)
        found = ranges(await ctl("audit"))
        head = len((await updates(it.client)).updates)
        assert found[0][0] == 1, "the snapshot was empty"
        assert [first for first, _, _ in found[1:]] == [last + 1 for _, last, _ in found[:-1]]
        assert (found[-1][1], sum(cards for _, _, cards in found)) == (head, 3)
        await ctl("audit", "verify")


@contextlib.asynccontextmanager
async def reader(port: int, *, kill: bool) -> AsyncIterator[Callable[[int], Any]]:
    """A stream in view FULL from now on, in a process of its own; it leaves by itself, or is killed. Gives what waits
    until it has seen so many cards.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READER, str(port), DEV, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.PIPE,
        env=dict(os.environ),
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"

    async def seen(count: int) -> None:
        assert process.stdout is not None
        assert await process.stdout.readline() == f"{count}\n".encode()

    try:
        yield seen
    finally:
        process.send_signal(signal.SIGKILL if kill else signal.SIGINT)
        await process.wait()


READER = """
import sys
import grpc
from rewardservice.v1 import order_pb2, reward_service_pb2 as pb
from rewardservice.v1.reward_service_pb2_grpc import RewardServiceStub

port, key = sys.argv[1:]
stub = RewardServiceStub(grpc.insecure_channel(f"127.0.0.1:{port}"))
request = pb.StreamOrderUpdatesRequest(view=order_pb2.ORDER_VIEW_FULL, start=pb.STREAM_START_SNAPSHOT)
seen = set()
try:
    for message in stub.StreamOrderUpdates(request, metadata=(("authorization", f"Bearer {key}"),)):
        if message.WhichOneof("message") == "snapshot_end":
            print("open", flush=True)
        for card in message.update.order.cards:
            if card.card_id not in seen:
                seen.add(card.card_id)
                print(len(seen), flush=True)
except (KeyboardInterrupt, grpc.RpcError):
    pass
"""


async def test_a_stream_that_shows_a_snapshot_names_its_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From 0: the orders as of the last position. A stream that selects orders names them, one that shows no card
    leaves nothing.
    """
    async with service(tmp_path, products=(CARD,)) as it:
        ctl = terminal(capsys, tmp_path, it.place.grpc_port)
        order_id = (await it.client.create(CARD, "o-1")).order.order_id
        await it.client.until(order_id)
        head = len((await updates(it.client)).updates)
        before = len(ranges(await ctl("audit")))
        await it.client.until(order_id)

        async def written() -> bool:
            return len(ranges(await ctl("audit"))) > before

        await until(written)
        [entry, *_] = await ctl("audit")
        how = f"RewardService/StreamOrderUpdates, of 1 orders: {order_id}"
        assert short(entry) == ("dev", "stream", "dev", "", 1, 0, head, how)
        stream = it.client.stream(start=reward_service_pb2.STREAM_START_SNAPSHOT, view=order_pb2.ORDER_VIEW_BASIC)
        while (await stream.read()).WhichOneof("message") != "snapshot_end":
            pass
        stream.cancel()
        assert await ctl("audit") == [entry, *(await ctl("audit"))[1:]]


# --- The chains


TEXTS = ("", "NUL \0 in it", "上海 🎴 é", "x" * 500)


@contextlib.asynccontextmanager
async def audited(folder: Path) -> AsyncIterator[Bare]:
    """A server without suppliers whose audit has a finished chain and one that goes on."""
    for n in range(2):
        async with bare(folder, "") as server:
            for place, text in enumerate(TEXTS):
                await server.app.audit.record(
                    server.app.audit.read("dev", how=text, cards=place + 1, order_id=f"o-{n}")
                )
            if n:
                yield server


def tamper(folder: Path, *statements: str) -> None:
    """Changes the database file as somebody does who owns it. `:first` and `:last` are chains."""
    connection = apsw.Connection(str(folder / "reward.db"))
    connection.set_busy_timeout(5_000)
    connection.execute("DROP TRIGGER IF EXISTS audit_is_not_changed; DROP TRIGGER IF EXISTS audit_is_not_cut")
    first, *_, last = [chain for (chain,) in connection.execute("SELECT chain FROM audit ORDER BY entry_id")]
    for statement in statements:
        connection.execute(statement, {"first": first, "last": last})
    connection.close()


FIELDS = (
    "at = at + 1",
    "by = 'other'",
    "what = 'stream'",
    "account = 'kss_a'",
    "client_id = ''",
    "order_id = ''",
    "number = '1'",
    "first_position = 1",
    "last_position = 1",
    "cards = 0",
    "reason = 'x'",
    "hash = zeroblob(32)",
)
SWAPPED = (
    "UPDATE audit SET place = -2 WHERE place = 2 AND chain = :first",
    "UPDATE audit SET place = 2 WHERE place = 3 AND chain = :first",
    "UPDATE audit SET place = 3 WHERE place = -2 AND chain = :first",
)
COPIED = """
INSERT INTO audit (chain, place, at, by, what, account, client_id, order_id, number, first_position, last_position,
                   cards, reason, hash)
SELECT chain, PLACE, at, by, what, account, client_id, order_id, number, first_position, last_position, cards, reason,
       HASH
FROM audit WHERE chain = :first AND place = (SELECT max(place) FROM audit WHERE chain = :first)
"""


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        *(((f"UPDATE audit SET {field} WHERE place = 3 AND chain = :first",), "place 3") for field in FIELDS),  # noqa: S608
        (SWAPPED, "place 2"),
        (("DELETE FROM audit WHERE place = 1 AND chain = :last",), "the entry of place 1 is missing"),
        (("DELETE FROM audit WHERE place IN (3, 4) AND chain = :first",), "the entry of place 4 is missing"),
        ((COPIED.replace("PLACE", "place + 1").replace("HASH", "hash"),), "place 7"),
        ((COPIED.replace("PLACE", "0").replace("HASH", "zeroblob(32)"),), "an entry too many of place 0"),
        (("UPDATE audit SET chain = 'another' WHERE place > 3 AND chain = :last",), "the entry of place 3 is missing"),
    ],
)
async def test_what_was_changed_in_the_database_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], statements: Sequence[str], found: str
) -> None:
    """By whoever reads the whole audit and computes its hashes, wherever that is."""
    async with audited(tmp_path) as server:
        ctl = terminal(capsys, tmp_path, server.port)
        [verified] = await ctl("audit", "verify")
        assert sorted(chain["entries"] for chain in verified["chains"]) == [5, 6]
        tamper(tmp_path, *statements)
        [verified] = await ctl("audit", "verify", code=8)
        assert found in ctl.complaints
        assert verified["problems"]


async def test_a_cut_off_end_and_a_chain_that_is_gone_are_found_by_ends_that_were_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without them nobody can tell. What was noted is renewed only when nothing is wrong."""
    ends = tmp_path / "ends.json"
    async with audited(tmp_path) as server:
        ctl = terminal(capsys, tmp_path, server.port)
        await ctl("audit", "verify", "--ends", str(ends))
        assert "is new" in ctl.complaints
        await server.app.audit.record(server.app.audit.read("dev", how="later", cards=1))
        await ctl("audit", "verify", "--ends", str(ends))
        assert ctl.complaints == ""
        noted = ends.read_text()
        tamper(
            tmp_path, "DELETE FROM audit WHERE place > 4 AND chain = :first", "DELETE FROM audit WHERE chain = :last"
        )
        await ctl("audit", "verify")
        [verified] = await ctl("audit", "verify", "--ends", str(ends), code=8)
        assert [problem.partition(": ")[2] for problem in verified["problems"]] == [
            f"it had {place} entries, and the last of them isn't there any more" for place in (6, 6)
        ]
        assert ends.read_text() == noted
        ends.write_text(noted[:-20])
        await ctl("audit", "verify", "--ends", str(ends), code=2)


async def test_a_chain_that_was_made_anew_is_found_by_ends_that_were_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever owns the database can compute hashes, too."""
    ends = tmp_path / "ends.json"
    async with audited(tmp_path) as server:
        ctl = terminal(capsys, tmp_path, server.port)
        await ctl("audit", "verify", "--ends", str(ends))
        chain = server.app.store.chain
        tamper(tmp_path, "DELETE FROM audit WHERE chain = :last")
        for _ in range(5):
            await server.app.audit.record(server.app.audit.read("dev", how="made up", cards=1))
        await ctl("audit", "verify")
        [verified] = await ctl("audit", "verify", "--ends", str(ends), code=8)
        assert verified["problems"] == [f"chain {chain}: the entry of place 5 isn't the one that was noted"]


CHANGES = ("UPDATE audit SET cards = 9", "DELETE FROM audit", "TRUNCATE audit")


async def test_sqlite_itself_refuses_to_change_the_audit(tmp_path: Path) -> None:
    """Whoever wants to has to take away its triggers first."""
    store = await open_store(f"sqlite:///{tmp_path}/reward.db")
    await store.record([AuditEntry(at=1, by="dev", what="read", reason="")])
    before = await store.audit(0, 9)
    file = apsw.Connection(f"{tmp_path}/reward.db")
    for statement in (*CHANGES[:2], "INSERT OR REPLACE INTO audit SELECT * FROM audit"):
        with pytest.raises(apsw.ConstraintError, match="only ever added to"):
            file.execute(statement)
    file.close()
    assert await store.audit(0, 9) == before
    await store.close()


async def test_postgresql_itself_refuses_to_change_the_audit(store_url: str) -> None:
    """The same, and it isn't emptied either."""
    store = await open_store(store_url)
    await store.record([AuditEntry(at=1, by="dev", what="read", reason="")])
    before = await store.audit(0, 9)
    connection = await asyncpg.connect(store_url)
    for statement in CHANGES:
        with pytest.raises(asyncpg.RaiseError, match="only ever added to"):
            await connection.execute(statement)
    await connection.close()
    assert await store.audit(0, 9) == before
    await store.close()


async def test_a_store_that_cannot_write_loses_no_note(tmp_path: Path) -> None:
    """What streams showed waits in memory until it can be written, in its order."""
    async with stage(tmp_path) as it:
        created = await it.create(CARD, "o-1")
        it.server.faults("full")
        await store_refuses(it.create(CARD, "o-2"))
        it.server.faults()
        order = await it.client.until(created.order.order_id)
        it.server.faults("full")
        for _ in range(3):
            await it.client.until(order.order_id)
        it.server.faults()
        assert await it.server.stop() == 0
    entries = [entry for entry in await stored(tmp_path) if entry.what == "stream"]
    assert [entry.cards for entry in entries] == [1] * 4
