"""Keys are replaced while the server runs: every card stays readable, and none is ever a wrong one."""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import grpc
import pytest
from structlog.testing import capture_logs

from reward_sandbox import Sandbox, SandboxSettings
from reward_server import keyring
from reward_server.app import App, StartError
from reward_server.config import load_settings
from reward_server.sealing import add_master_key, key_of
from rewardservice.v1 import order_pb2

from .harness import OTHER, QUICK, Caller, Place, ServerProcess, Service, caller, refused, service
from .offline import command
from .terminal import Terminal, terminal, until

LAUNCHER = Path(__file__).with_name("resealing.py")
CARD = "kasushou/card"
WHY = ("--reason", "ticket 4711", "--actor", "Li")

SEALED = {
    "cards": "SELECT client_id, sealed FROM cards",
    "answers": "SELECT client_id, sealed FROM answers",
    "callbacks": "SELECT '', sealed FROM callbacks",
    "tokens": "SELECT '', sealed FROM tokens",
    "secrets": "SELECT '', sealed FROM secrets",
}
"""Everything that is stored sealed, with whose it is."""


def read(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    """What the database file says."""
    connection = apsw.Connection(str(folder / "reward.db"))
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def change(folder: Path, statement: str, *values: Any) -> None:
    """Does to the database file what nobody should."""
    connection = apsw.Connection(str(folder / "reward.db"))
    connection.set_busy_timeout(5_000)
    connection.execute(statement, values)
    connection.close()


def keys_in_use(folder: Path) -> dict[str, set[str]]:
    """The keys that sealed what is stored, by owner; "" is the service itself."""
    found: dict[str, set[str]] = {}
    for statement in SEALED.values():
        for client_id, sealed in read(folder, statement):
            if sealed:
                found.setdefault(client_id, set()).add(key_of(sealed).hex())
    return found


async def bought(client: Caller, *names: str) -> list[order_pb2.Order]:
    """Orders with their cards."""
    created = [(await client.create(CARD, name)).order.order_id for name in names]
    return await asyncio.gather(*map(client.until, created))


@asynccontextmanager
async def process(folder: Path, server: type[ServerProcess] = ServerProcess) -> AsyncIterator[ServerProcess]:
    """The server as a process, with a supplier of cards."""
    async with Sandbox(SandboxSettings(port=0, step_seconds=0.02)) as sandbox:
        place = Place(folder=folder, sandbox_url=sandbox.url, products=(CARD, "dushu/membership"))
        async with server(place) as running:
            yield running


# --- Data keys


async def test_cards_stay_readable_while_orders_go_on_and_all_keys_are_rotated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody reads all cards without a break and others are bought meanwhile. In the end everything that is stored,
    of every client and of the service, is sealed under the newest key of its owner.
    """
    async with (
        process(tmp_path) as server,
        caller(server.place.grpc_port) as client,
        caller(server.place.grpc_port, OTHER) as other,
    ):
        ctl = terminal(capsys, tmp_path, server.place.grpc_port)
        before = await bought(client, *(f"o-{n}" for n in range(5)))
        others = await bought(other, "o-1")
        former = {name: ring["key_id"] for name, ring in (await ctl.rings()).items()}
        assert set(former) == {"", "dev", "dev-2"}
        stop = asyncio.Event()

        async def reads() -> None:
            while not stop.is_set():
                for order in before:
                    assert (await client.get(order.order_id)).cards == order.cards
                assert (await other.get(others[0].order_id)).cards == others[0].cards

        async def buys() -> list[order_pb2.Order]:
            found: list[order_pb2.Order] = []
            while not stop.is_set():
                found += await bought(client, f"meanwhile-{len(found)}")
            return found

        reading, buying = asyncio.create_task(reads()), asyncio.create_task(buys())
        shown = await ctl("keys", "rotate", *WHY)
        assert {ring.get("client_id", ""): ring["count"] for ring in shown} == dict.fromkeys(former, 2)
        rings = await ctl.rotated()
        stop.set()
        await reading
        meanwhile = await buying
        assert meanwhile
        for order in meanwhile:
            assert (await client.get(order.order_id)).cards == order.cards
        assert all(rings[name]["key_id"] != key_id for name, key_id in former.items())
        assert int(rings["dev"]["rotation"]["resealed"]) >= len(before)
        await server.kill()
        assert keys_in_use(tmp_path) == {name: {ring["key_id"]} for name, ring in rings.items()}
        await server.start(config=tmp_path / "reward.toml")
        for order in (*before, *meanwhile):
            assert (await client.get(order.order_id)).cards == order.cards
        entries = [entry for entry in await ctl("audit", "--decisions") if entry["what"] == "rotate_keys"]
        assert {(entry.get("client_id", ""), entry["by"]) for entry in entries} == {
            (name, "dev-operator (Li)") for name in former
        }


class DyingServer(ServerProcess):
    """The server as a process that dies while it seals again; it notes where each page began."""

    kill_at = 3

    async def start(self, config: Path | None = None, *, probe: bool = True) -> None:
        """Starts it and waits until it takes calls."""
        config = config or self.place.write()
        words = (str(self.place.folder / "pages"), str(self.kill_at), "serve", "--config", str(config))
        with self.output.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, str(LAUNCHER), *words,
                stdout=output, stderr=output, env={**os.environ, "REWARD_LOGGING__FORMAT": "json"},
            )  # fmt: skip
        if probe:
            await self._ready()


async def test_a_rotation_goes_on_where_the_process_was_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed twice, in the middle of a page that isn't stored then: the next start goes on with that very page, and in
    the end each card was sealed again once.
    """
    folder = tmp_path
    async with process(folder, DyingServer) as server, caller(server.place.grpc_port) as client:
        assert isinstance(server, DyingServer)
        ctl = terminal(capsys, folder, server.place.grpc_port)
        orders = await bought(client, *(f"o-{n}" for n in range(9)))
        await ctl("keys", "rotate", "dev", *WHY)
        assert server.process is not None
        places = []
        for kill_at in (2, 0):
            assert await server.process.wait() == -signal.SIGKILL
            [(table, after)] = read(folder, "SELECT of_table, after FROM rotations WHERE ended_at = 0")
            assert pages_of(folder)[-1] == (table, after.hex()), "it is the next one still"
            assert len(keys_in_use(folder)["dev"]) == 2
            places.append((table, after.hex()))
            server.kill_at = kill_at
            (folder / "pages").unlink()
            await server.start(config=folder / "reward.toml", probe=not kill_at)
        await until(lambda: _ended(ctl, "dev"))
        ring = (await ctl.rings())["dev"]
        assert ("cards", "") not in places
        assert places[0] < places[1] == pages_of(folder)[0]
        assert int(ring["rotation"]["resealed"]) == len(orders)
        assert keys_in_use(folder)["dev"] == {ring["key_id"]}
        for order in orders:
            assert (await client.get(order.order_id)).cards == order.cards


def pages_of(folder: Path) -> list[tuple[str, str]]:
    """Where the pages began that a process took up."""
    return [tuple(json.loads(line)) for line in (folder / "pages").read_text().splitlines()]


async def test_a_value_that_opens_under_no_key_is_counted_and_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are sealed again all the same, and reading it stays an error."""
    async with service(tmp_path, products=(CARD,)) as it:
        ctl = terminal(capsys, tmp_path, it.place.grpc_port)
        broken, sound = await bought(it.client, "o-1", "o-2")
        change(tmp_path, "UPDATE cards SET sealed = CAST(sealed || x'00' AS BLOB) WHERE order_id = ?", broken.order_id)
        await ctl("keys", "rotate", "dev", *WHY)
        await until(lambda: _ended(ctl, "dev"))
        rings = await ctl.rings()
        assert "rotation" not in rings[""]
        rotation = rings["dev"]["rotation"]
        assert (int(rotation["resealed"]), int(rotation["unopened"])) == (1, 1)
        assert (await it.client.get(sound.order_id)).cards == sound.cards
        with capture_logs():
            assert (await refused(it.client.get(broken.order_id))).code() is grpc.StatusCode.INTERNAL
        assert len(keys_in_use(tmp_path)["dev"]) == 2


async def _ended(ctl: Terminal, client_id: str) -> bool:
    return "end_time" in (await ctl.rings())[client_id]["rotation"]


async def test_nobody_has_keys_who_never_ordered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name is told, and nothing is rotated."""
    async with service(tmp_path, products=(CARD,)) as it:
        ctl = terminal(capsys, tmp_path, it.place.grpc_port)
        await ctl("keys", "rotate", "nobody", *WHY, code=3)
        assert "nobody" in ctl.complaints
        assert [ring["count"] for ring in (await ctl.rings()).values()] == [1]


# --- Never a wrong card


@pytest.mark.rule("D6")
async def test_cards_that_were_moved_in_the_database_never_open(tmp_path: Path) -> None:
    """Two places of one order, two orders, two clients: always an error, and nothing of a card is told."""
    async with service(tmp_path, products=(CARD,)) as it, caller(it.place.grpc_port, OTHER) as other:
        created = await it.client.create(CARD, "two", quantity=2)
        two = await it.client.until(created.order.order_id)
        [one] = await bought(it.client, "one")
        [theirs] = await bought(other, "theirs")
        places = [(two.order_id, 1), (two.order_id, 2), (one.order_id, 1), (theirs.order_id, 1)]
        sealed = {
            (order_id, no): value
            for order_id, no, value in read(tmp_path, "SELECT order_id, card_no, sealed FROM cards")
        }
        put = "UPDATE cards SET sealed = ? WHERE order_id = ? AND card_no = ?"
        texts = [card.secret for order in (two, one, theirs) for card in order.cards]
        assert len(set(texts)) == len(places) == len(sealed)
        for first, second in ((0, 1), (0, 2), (2, 3)):
            pair = [places[first], places[second]]
            for (order_id, no), value in zip(pair, (sealed[pair[1]], sealed[pair[0]]), strict=True):
                change(tmp_path, put, value, order_id, no)
            for order_id, _ in pair:
                asker = other if order_id == theirs.order_id else it.client
                with capture_logs() as logged:
                    error = await refused(asker.get(order_id))
                assert error.code() is grpc.StatusCode.INTERNAL
                told = f"{error.details()}{error.trailing_metadata()}{logged}"
                assert not any(text in told for text in texts)
            for order_id, no in pair:
                change(tmp_path, put, sealed[order_id, no], order_id, no)
        for order, asker in ((two, it.client), (one, it.client), (theirs, other)):
            assert (await asker.get(order.order_id)).cards == order.cards


# --- Master keys


def first_line(key_file: Path) -> str:
    """The key that wraps."""
    return key_file.read_text().splitlines()[0]


def write_keys(key_file: Path, *lines: str) -> None:
    """Another file in its place, as a whole."""
    fresh = key_file.with_name("fresh.key")
    fresh.touch(mode=0o600)
    fresh.write_text("".join(f"{line}\n" for line in lines))
    fresh.rename(key_file)


async def test_a_master_key_is_replaced_while_the_server_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new one is added, is taken over by itself, and wraps all data keys; then the old one goes, and everything opens
    after a restart without it.
    """
    key_file = tmp_path / "master.key"
    async with process(tmp_path) as server, caller(server.place.grpc_port) as client:
        ctl = terminal(capsys, tmp_path, server.place.grpc_port)
        [order] = await bought(client, "o-1")
        before = await ctl.rings()
        old = first_line(key_file)
        said = await command("add-master-key", str(key_file))
        new = first_line(key_file)
        assert new.split()[0] in said
        assert key_file.read_text().splitlines() == [new, old]
        assert key_file.stat().st_mode & 0o777 == 0o600

        async def taken() -> bool:
            [listed] = await ctl("keys")
            return bool(listed["master_key_id"] == new.split()[0])

        await until(taken)
        await ctl("keys", "rotate", "--only-wrap", *WHY)
        rings = await ctl.rings()
        assert {name: ring["key_id"] for name, ring in rings.items()} == {
            name: ring["key_id"] for name, ring in before.items()
        }
        assert [ring["master_key_ids"] for ring in rings.values()] == [[new.split()[0]]] * 2
        write_keys(key_file, new)
        assert await server.stop() == 0
        await server.start(config=tmp_path / "reward.toml")
        assert (await client.get(order.order_id)).cards == order.cards
        assert {entry["what"] for entry in await ctl("audit", "--decisions")} >= {"rotate_keys"}


@pytest.mark.rule("D14")
@pytest.mark.parametrize("wrong", ["taken out too early", "another one under its id"])
async def test_a_master_key_that_is_still_needed_is_missed(tmp_path: Path, wrong: str) -> None:
    """The running server says so and goes on with the former ones; a start is refused in one clear sentence, and with
    the key back in its place everything is as before.
    """
    key_file = tmp_path / "master.key"
    async with service(tmp_path, products=(CARD,)) as it:
        [order] = await bought(it.client, "o-1")
        old = first_line(key_file)
        name = old.split()[0]
        add_master_key(key_file, last=True)
        new = key_file.read_text().splitlines()[1]
        write_keys(key_file, new if wrong == "taken out too early" else f"{name} {new.split()[1]}")
        with capture_logs() as logged:
            it.app.reload()

            async def complained() -> bool:
                return any(entry["log_level"] == "error" for entry in logged)

            await until(complained)
        [error] = [entry for entry in logged if entry["log_level"] == "error"]
        assert error["event"] == "the changed master keys aren't used"
        assert f"master key {name!r}" in error["why"]
        assert (await it.client.get(order.order_id)).cards == order.cards
        await bought(it.client, "o-2")
    app = App(load_settings(tmp_path / "reward.toml", {}))
    with pytest.raises(StartError, match=f"master key {name!r}") as refusal:
        await app.start()
    assert old.split()[1] not in str(refusal.value)
    write_keys(key_file, new, old)
    async with service(tmp_path, products=(CARD,)) as it:
        assert (await it.client.get(order.order_id)).cards == order.cards


@pytest.mark.rule("D14")
async def test_nothing_starts_that_could_not_seal_for_a_client(tmp_path: Path) -> None:
    """The service's own key opens, a client's doesn't: what is bought for it would be lost."""
    async with service(tmp_path, products=(CARD,)) as it:
        await bought(it.client, "o-1")
    change(tmp_path, "UPDATE data_keys SET master_key_id = 'gone' WHERE client_id = 'dev'")
    app = App(load_settings(tmp_path / "reward.toml", {}))
    with pytest.raises(StartError, match="of client 'dev' needs master key 'gone'"):
        await app.start()


# --- Several processes


@asynccontextmanager
async def two(folder: Path, database: str) -> AsyncIterator[list[Service]]:
    """Two replicas on one database, in this process, with the same master key."""
    async with Sandbox(SandboxSettings(port=0, step_seconds=0.02)) as sandbox:
        running: list[Service] = []
        try:
            for name in ("one", "another"):
                home = folder / name
                home.mkdir()
                if running:
                    shutil.copy(running[0].place.folder / "master.key", home)
                place = Place(
                    folder=home,
                    sandbox_url=sandbox.url,
                    account=QUICK,
                    products=(CARD,),
                    store=f'url = "{database}"\nlease_seconds = 5\npoll_seconds = 0.1',
                )
                app = App(load_settings(place.write(), {}))
                await app.start()
                running.append(Service(place, app, sandbox, Caller(place.grpc_port)))
            yield running
        finally:
            for one in running:
                await one.client.close()
                await one.app.close()


async def test_replicas_use_the_keys_that_another_made(
    tmp_path: Path, store_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one opens at once what was sealed under the new key, seals under it soon, and nothing is left under the
    former one.
    """
    monkeypatch.setattr(keyring, "LEARN_SECONDS", 600.0)
    monkeypatch.setattr(keyring, "SETTLE_SECONDS", 0.6)
    async with two(tmp_path, store_url) as (here, there):
        ctl = terminal(capsys, tmp_path, here.place.grpc_port)
        orders = [*await bought(here.client, "here"), *await bought(there.client, "there")]
        await ctl("keys", "rotate", *WHY)
        orders += await bought(here.client, "here-2")
        assert [(await there.client.get(order.order_id)).cards for order in orders] == [order.cards for order in orders]
        monkeypatch.setattr(keyring, "LEARN_SECONDS", 0.2)
        for one in (here, there):
            # Has it look now, and often from now on.
            await terminal(capsys, tmp_path, one.place.grpc_port)("keys", "rotate", "--only-wrap", *WHY)
        rings = await ctl.rotated()
        orders += await bought(there.client, "there-2")
        for one in (here, there):
            assert [(await one.client.get(order.order_id)).cards for order in orders] == [
                order.cards for order in orders
            ]
        sealed = {
            table: {
                (client_id, key_of(bytes(value)).hex()) for client_id, value in await execute_rows(store_url, statement)
            }
            for table, statement in SEALED.items()
        }
        newest = {name: ring["key_id"] for name, ring in rings.items()}
        assert sealed["cards"] == {("dev", newest["dev"])}
        assert sealed["secrets"] == {("", newest[""])}


async def execute_rows(dsn: str, statement: str) -> list[Any]:
    """The rows of a query."""
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()
