"""`reward-server doctor`: beside a running server, before the first start, and when things are wrong."""

import asyncio
import dataclasses
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw

from ports import free_port
from postgres_server import execute
from reward_sandbox import Sandbox, SandboxSettings
from reward_server.access import new_key
from reward_server.clock import Clock
from reward_server.config import load_settings
from reward_server.doctor import Finding, Level, Report, examine
from reward_server.sealing import create_master_key_file
from reward_server.store.postgres import migrate_postgres
from rewardservice.v1 import order_pb2

from .harness import Place, ServerProcess, caller, certificate
from .offline import command


class Early(Clock):
    """A clock that is behind."""

    def now_ms(self) -> int:
        """An hour ago."""
        return super().now_ms() - 3_600_000


async def looked(config: Path, environ: Mapping[str, str] | None = None, **options: Any) -> Report:
    """What the doctor says in this process."""
    environ = environ or {}
    return await examine(load_settings(config, environ), environ, **options)


def private(config: Path) -> Path:
    """The file holds the sandbox's secrets."""
    config.chmod(0o600)
    return config


def problems(report: Report) -> list[Finding]:
    """Only these."""
    return [finding for finding in report.findings if finding.level is Level.PROBLEM]


def said(report: Report, area: str) -> str:
    """All about one thing."""
    return "\n".join(f"{one.level}: {one.what} → {one.mend}" for one in report.findings if one.area == area)


async def one_order(place: Place) -> None:
    """Something is bought and sealed."""
    async with caller(place.grpc_port) as client:
        order = (await client.create("kasushou/card", "one")).order
        await client.until(order.order_id)


async def test_beside_a_running_server_everything_is_fine_and_nothing_is_changed(tmp_path: Path) -> None:
    """SQLite belongs to the server; the doctor reads beside it, asks every supplier, buys nothing, and exits with 0."""
    async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url)
        async with ServerProcess(place) as server:
            await one_order(place)
            private(tmp_path / "reward.toml")
            bought = {kind: len(sandbox.books(kind)["orders"]) for kind in ("kasushou", "kuaiduibao", "dushu")}
            text = await command("doctor", "--config", str(tmp_path / "reward.toml"))
            assert "runs and takes orders" in text
            assert "a server works on it; it is only read here" in text
            assert "opens all 2 stored data keys" in text
            assert "knows us; the balance is" in text
            assert "no problems" in text
            found = json.loads(await command("doctor", "--json", "--config", str(tmp_path / "reward.toml")))
            assert found["outcome"] == "fine"
            assert {one["area"] for one in found["findings"]} >= {
                "server", "store", "master key", "clocks", "supplier dushu", "supplier kuaiduibao"
            }  # fmt: skip
            assert bought == {kind: len(sandbox.books(kind)["orders"]) for kind in bought}
            # The server goes on as if nobody had looked.
            await one_order_more(place)
            assert await server.stop() == 0
        # Nor does it keep a server from starting, or leave anything open behind it.
        report = await looked(tmp_path / "reward.toml", offline=True)
        assert not problems(report)
        assert "none runs with this configuration" in said(report, "server")
        async with ServerProcess(place):
            await one_order_more(place)


async def test_the_token_that_the_server_has_is_used(tmp_path: Path) -> None:
    """Suppliers count tokens, and may end the old one with a new one: while the server's lives nobody else gets one."""
    phone = order_pb2.Recipient(phone=order_pb2.PhoneNumber(number="13800138000"))
    async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("dushu",))
        async with ServerProcess(place), caller(place.grpc_port) as client:
            config = private(tmp_path / "reward.toml")
            assert "it gave an access token for" in said(await looked(config), "supplier dushu")
            order = (await client.create("dushu/membership", "one", recipient=phone)).order
            await client.until(order.order_id)
            told = said(await looked(config), "supplier dushu")
    assert "gave the server an access token at" in told
    assert "it gave an access token" not in told
    assert "knows us, and lists" in told


async def one_order_more(place: Place) -> None:
    """The same client order again: the same order."""
    async with caller(place.grpc_port) as client:
        assert (await client.create("kasushou/card", "one")).order.order_id


async def test_before_the_first_start_it_says_what_will_be_made(tmp_path: Path) -> None:
    """Nothing is created by looking."""
    async with Sandbox(SandboxSettings(port=0)) as sandbox:
        config = private(Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",)).write())
        before = sorted(os.listdir(tmp_path))
        report = await looked(config)
    assert not problems(report)
    assert "the first start makes it" in said(report, "store")
    assert sorted(os.listdir(tmp_path)) == before


async def test_each_account_that_does_not_work_is_named(tmp_path: Path) -> None:
    """A wrong secret, a closed port, a name that nobody knows and a server that isn't theirs are told apart."""
    async with Sandbox(SandboxSettings(port=0)) as sandbox:
        accounts: dict[str, dict[str, object]] = {
            "kasushou": {"apikey": "wrong"},
            "kaquan91_card": {"base_url": f"http://127.0.0.1:{free_port()}"},
            "kaquan91_recharge": {"base_url": "http://nobody.invalid", "connect_timeout": 2.0},
            "kuaiduibao": {"app_secret": "wrong"},
            "dushu": {"base_url": f"{sandbox.url}/nothing-here"},
        }
        config = private(Place(folder=tmp_path, sandbox_url=sandbox.url, accounts=accounts).write())
        report = await looked(config)
    assert {finding.area for finding in problems(report)} == {f"supplier {name}" for name in accounts}
    assert "refuses us" in said(report, "supplier kasushou")
    assert "compare its id and secret" in said(report, "supplier kasushou")
    assert "refuses connections" in said(report, "supplier kaquan91_card")
    assert "nobody.invalid isn't known" in said(report, "supplier kaquan91_recharge")
    assert "refuses us" in said(report, "supplier kuaiduibao")
    assert "wrong" not in report.text().replace("wrong time", "")


async def test_a_wrong_master_key_is_a_problem_before_the_start_finds_it(tmp_path: Path) -> None:
    """What is stored opens under the former key only: which clients, and what to do."""
    async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",))
        async with ServerProcess(place):
            await one_order(place)
        (tmp_path / "master.key").unlink()
        create_master_key_file(tmp_path / "master.key")
        report = await looked(private(tmp_path / "reward.toml"), offline=True)
    lost = [finding for finding in problems(report) if finding.area == "master key"]
    assert len(lost) == 2
    assert "client 'dev'" in lost[1].what
    assert all("put that master key back" in finding.mend for finding in lost)


async def test_files_that_others_can_read_and_a_store_that_is_none(tmp_path: Path) -> None:
    """The rights of the database and of what holds secrets; a file that is no database."""
    config = Place(folder=tmp_path, sandbox_url="http://127.0.0.1:1", kinds=("kasushou",)).write()
    config.chmod(0o644)
    database = tmp_path / "reward.db"
    database.write_bytes(b"this is no database, but long enough to be taken for one" * 20)
    database.chmod(0o644)
    report = await looked(config, offline=True)
    assert f"chmod 600 {database}" in said(report, "store")
    assert "can't be read: file is not a database" in said(report, "store")
    assert f"chmod o= {config}" in said(report, "files")


async def test_a_newer_or_moved_store_is_told(tmp_path: Path) -> None:
    """A schema of a newer program, and a file whose orders are bought elsewhere by now."""
    async with Sandbox(SandboxSettings(port=0)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",))
        async with ServerProcess(place) as server:
            await server.stop()
    connection = apsw.Connection(str(tmp_path / "reward.db"))
    connection.execute("INSERT INTO meta (key, value) VALUES ('moved', 1)")
    report = await looked(private(tmp_path / "reward.toml"), offline=True)
    assert "was moved to PostgreSQL" in said(report, "store")
    connection.execute("INSERT INTO schema VALUES (99, 'x', 1, 99)")
    report = await looked(tmp_path / "reward.toml", offline=True)
    assert "made by a newer program" in said(report, "store")
    connection.close()


async def test_keys_and_certificates_that_end(tmp_path: Path) -> None:
    """A client whose only key ends soon or has ended, and a certificate that ends or isn't valid yet."""
    (_, ended), (_, soon), (_, lasts) = new_key(), new_key(), new_key()
    now = datetime.now(UTC)
    clients = "".join(
        f'[[clients]]\nid = "{name}"\nkeys = [{key}]\npermissions = ["read"]\n'
        for name, key in (
            ("gone", f'{{ hash = "{ended}", expires = {(now - timedelta(days=1)).isoformat()} }}'),
            ("going", f'{{ hash = "{soon}", expires = {(now + timedelta(days=20)).isoformat()} }}'),
            ("staying", f'"{lasts}"'),
        )
    )
    chain, key = certificate(tmp_path)
    place = Place(folder=tmp_path, sandbox_url="http://127.0.0.1:1", kinds=("kasushou",), extra=clients)
    config = private(place.write())
    tls = {"REWARD_GRPC__TLS_CERTIFICATE_FILE": str(chain), "REWARD_GRPC__TLS_KEY_FILE": str(key)}
    report = await looked(config, tls, offline=True)
    assert "problem: gone: every key has ended" in said(report, "clients")
    assert "hint: going: the last key ends on" in said(report, "clients")
    assert "ok: staying" in said(report, "clients")
    # It lasts for an hour.
    assert "problem: the certificate of CN=reward test" in said(report, "TLS")
    assert "put a renewed one in its place" in said(report, "TLS")
    assert "isn't valid before" in said(await looked(config, tls, offline=True, clock=Early()), "TLS")


async def test_a_clock_behind_the_store_is_noticed(tmp_path: Path) -> None:
    """The newest purchase tells a time: this machine's clock can't be before it."""
    async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",))
        async with ServerProcess(place):
            await one_order(place)
            config = private(tmp_path / "reward.toml")
            assert "from now" not in said(await looked(config, offline=True), "clocks")
            report = await looked(config, clock=Early())
    assert "the newest purchase was made at" in said(report, "clocks")
    assert "s ahead of this machine's" in said(report, "supplier kasushou")


async def test_a_port_that_somebody_else_has(tmp_path: Path) -> None:
    """Nobody answers as a server, yet the port is taken."""
    place = Place(folder=tmp_path, sandbox_url="http://127.0.0.1:1", kinds=("kasushou",))
    somebody = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", place.grpc_port)
    async with somebody:
        report = await looked(private(place.write()), offline=True)
    assert f"something listens on grpc.bind (127.0.0.1:{place.grpc_port})" in said(report, "server")


async def test_where_suppliers_call_back_is_tried(tmp_path: Path) -> None:
    """An address with the path that we add ourselves, and one that leads nowhere."""
    async with Sandbox(SandboxSettings(port=0)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",))
        config = private(place.write())
        there = {"REWARD_CALLBACKS__PUBLIC_URL": f"{sandbox.url}/callbacks"}
        assert "ends with /callbacks already" in said(await looked(config, there), "callbacks")
        nowhere = {"REWARD_CALLBACKS__PUBLIC_URL": f"http://127.0.0.1:{free_port()}"}
        assert "can't be reached from here" in said(await looked(config, nowhere), "callbacks")


async def test_a_wrong_configuration_has_a_code_of_its_own(tmp_path: Path) -> None:
    """2, with every problem listed, as text and as JSON."""
    config = tmp_path / "reward.toml"
    config.write_text('[grpc]\nbind = "nowhere"\n')
    assert "grpc.bind" in await command("doctor", "--config", str(config), code=2)
    found = json.loads(await command("doctor", "--json", "--config", str(config), code=2))
    assert found["outcome"] == "configuration"
    assert [one["what"][:9] for one in found["findings"]] == ["grpc.bind", "secrets.m"]


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


async def test_postgres_beside_two_replicas(tmp_path: Path, database: str) -> None:
    """Version, settings, clock and connections are looked at; replicas at work are counted; keys open."""
    async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
        place = Place(
            folder=tmp_path,
            sandbox_url=sandbox.url,
            kinds=("kasushou",),
            store=f'url = "{database}"\nlease_seconds = 5',
        )
        config = private(place.write())
        report = await looked(config, offline=True)
        assert "the database is empty" in said(report, "store")
        assert "reward-server migrate" in said(report, "store")
        await migrate_postgres(database)
        other = dataclasses.replace(place, grpc_port=free_port(), http_port=free_port())
        text = config.read_text().replace(str(place.grpc_port), str(other.grpc_port))
        second = tmp_path / "second.toml"
        second.write_text(text.replace(str(place.http_port), str(other.http_port)))
        async with ServerProcess(place):
            await one_order(place)
            replica = ServerProcess(other)
            await replica.start(second)
            try:
                report = await looked(private(config))
            finally:
                await replica.kill()
    assert not problems(report), report.text()
    store = said(report, "store")
    assert "2 replicas at work" in store
    assert "what it acknowledges is on disk" in store
    assert "the user may write" in store
    assert "connections in use" in store
    assert "the database's clock agrees" in said(report, "clocks")
    assert "opens all 2 stored data keys" in said(report, "master key")


async def test_postgres_that_is_not_as_it_should_be(tmp_path: Path, store_url: str) -> None:
    """A clock that is away, durability given up, a wrong password, and nobody there: never the password itself."""
    place = Place(folder=tmp_path, sandbox_url="http://127.0.0.1:1", kinds=("kasushou",), store=f'url = "{store_url}"')
    config = private(place.write())
    assert "behind this machine's" not in said(await looked(config, offline=True), "clocks")
    assert "ahead of this machine's" in said(await looked(config, offline=True, clock=Early()), "clocks")
    name = store_url.partition("?")[0].rpartition("/")[2]
    execute(store_url, f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    assert "may lose what it has acknowledged" in said(await looked(config, offline=True), "store")
    for url, what in (
        ("postgresql://somebody:hush-hush@127.0.0.1:1/reward", "the database can't be reached"),
        ("postgresql://somebody:hush-hush@nobody.invalid/reward", "the database can't be reached"),
        ("postgresql://somebody:hush/hush@127.0.0.1/reward", "isn't readable as a URL"),
    ):
        report = await looked(config, {"REWARD_STORE__URL": url}, offline=True)
        assert what in said(report, "store")
        assert "hush" not in report.text()
