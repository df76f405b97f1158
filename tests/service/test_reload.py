"""A configuration that changes while the server runs."""

import asyncio
import json
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import structlog
from grpc.aio import AioRpcError

from ports import free_port
from reward_server import reloading
from reward_server.access import new_key
from reward_server.clock import Clock
from reward_server.config import Settings, load_settings
from reward_server.reloading import Reloader
from reward_server.sealing import add_master_key
from rewardservice.v1.reward_service_pb2 import CreateOrderRequest, StreamOrderUpdatesRequest

from .bare import Authority, Refusal, answered, bare, client_toml, line, refused, until, write_config
from .test_limits import UNREACHABLE

OLD, OLD_HASH = new_key()
NEW, NEW_HASH = new_key()


def shop(*hashes: str, permissions: str = "order read", more: str = "") -> str:
    """The client with these keys."""
    keys = ", ".join(f'"{hash_}"' for hash_ in hashes)
    return client_toml("shop", f"keys = [{keys}]", more, permissions=permissions)


class LaterClock(Clock):
    """The machine's clock, set forward by hand."""

    later_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.later_ms


async def test_a_key_is_replaced_without_a_gap(tmp_path: Path) -> None:
    """A second key is added, then the first one taken away: the file is changed, nobody tells the server."""
    async with (
        bare(tmp_path, shop(OLD_HASH)) as server,
        line(server.port, OLD) as old,
        line(server.port, NEW) as new,
    ):
        assert (await new.refusal()).reason == "UNAUTHENTICATED"
        server.rewrite(shop(OLD_HASH, NEW_HASH))
        await until(answered(new))
        await old.call()
        server.rewrite(shop(NEW_HASH))
        await until(refused(old))
        await new.call()


async def test_a_key_ends_when_it_is_told_to(tmp_path: Path) -> None:
    """An expired key is refused with words of its own; the stream that it opened ends."""
    clock = LaterClock()
    ends = datetime.now(UTC) + timedelta(minutes=10)
    keys = f'keys = [{{ hash = "{OLD_HASH}", expires = {ends.isoformat()} }}, "{NEW_HASH}"]'
    async with (
        bare(tmp_path, client_toml("shop", keys), clock=clock) as server,
        line(server.port, OLD) as old,
        line(server.port, NEW) as new,
    ):
        stream = old.orders.StreamOrderUpdates(StreamOrderUpdatesRequest(), metadata=old.metadata)
        await stream.read()
        clock.later_ms = 600_000
        refusal = await old.refusal()
        assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
        assert "expired" in refusal.text
        assert "shop" not in refusal.text
        assert (await ended(stream)).reason == "UNAUTHENTICATED"
        await new.call()


async def ended(stream: grpc.aio.UnaryStreamCall) -> Refusal:  # type: ignore[type-arg]
    """How a stream ends."""
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except AioRpcError as error:
        return Refusal(error)
    raise AssertionError("the stream ended by itself")


async def test_streams_of_a_withdrawn_key_or_permission_end(tmp_path: Path) -> None:
    """And those of others go on."""
    other, other_hash = new_key()
    rest = client_toml("other", f'keys = ["{other_hash}"]')
    async with (
        bare(tmp_path, shop(OLD_HASH, NEW_HASH) + rest) as server,
        line(server.port, OLD) as old,
        line(server.port, NEW) as new,
        line(server.port, other) as third,
    ):
        streams = [
            one.orders.StreamOrderUpdates(StreamOrderUpdatesRequest(), metadata=one.metadata)
            for one in (old, new, third)
        ]
        for stream in streams:
            await stream.read()
        server.rewrite(shop(NEW_HASH) + rest)
        server.app.reload()
        assert (await ended(streams[0])).code is grpc.StatusCode.UNAUTHENTICATED
        await new.call()
        server.rewrite(shop(NEW_HASH, permissions="order") + rest)
        server.app.reload()
        assert (await ended(streams[1])).code is grpc.StatusCode.UNAUTHENTICATED
        assert (await new.refusal()).reason == "PERMISSION_DENIED"
        assert not streams[2].done()


async def test_limits_and_new_clients_are_taken_over(tmp_path: Path) -> None:
    """A new client can order at once; a limit counts what was ordered before it."""
    async with bare(tmp_path, shop(OLD_HASH) + UNREACHABLE) as server, line(server.port, NEW) as new:
        server.rewrite(shop(OLD_HASH) + client_toml("new", f'keys = ["{NEW_HASH}"]') + UNREACHABLE)
        server.app.reload()
        await until(answered(new))
        request = CreateOrderRequest(client_order_id="o-1", product_id="card", quantity=1)
        await new.orders.CreateOrder(request, metadata=new.metadata)
        limited = client_toml("new", f'keys = ["{NEW_HASH}"]', "orders_in_flight = 1", "calls_per_second = 1000")
        server.rewrite(shop(OLD_HASH) + limited + UNREACHABLE)
        server.app.reload()

        async def full() -> bool:
            request.client_order_id += "x"
            try:
                await new.orders.CreateOrder(request, metadata=new.metadata)
            except AioRpcError as error:
                return Refusal(error).reason == "TOO_MANY_ORDERS"
            return False

        await until(full)


async def test_a_bad_configuration_changes_nothing(tmp_path: Path) -> None:
    """It is checked whole, and each of its problems is logged."""
    async with bare(tmp_path, shop(OLD_HASH)) as server, line(server.port, OLD) as old:
        with structlog.testing.capture_logs() as logs:
            server.rewrite(shop(NEW_HASH) + "[stream]\nretention_days = 0\n[loging]\n")
            server.app.reload()

            async def told() -> bool:
                return len(logs) >= 2

            await until(told)
        problems = [str(entry["problem"]) for entry in logs if "problem" in entry]
        assert [problem.partition(" ")[0].rstrip(":") for problem in problems] == ["loging", "stream.retention_days"]
        await old.call()
        async with line(server.port, NEW) as new:
            assert (await new.refusal()).reason == "UNAUTHENTICATED"


async def test_published_keys_are_never_switched_on_by_a_change(tmp_path: Path) -> None:
    """A file without clients is half written, or the wrong one: strangers stay out, and clients go on."""
    async with bare(tmp_path, shop(OLD_HASH)) as server, line(server.port, OLD) as old:
        with structlog.testing.capture_logs() as logs:
            server.rewrite("")
            server.app.reload()

            async def told() -> bool:
                return any("published keys" in str(entry.get("problem")) for entry in logs)

            await until(told)
        await old.call()
        async with line(server.port, "dev-key") as stranger:
            assert (await stranger.refusal()).reason == "UNAUTHENTICATED"


async def test_no_file_ends_the_looking(tmp_path: Path) -> None:
    """After one that can't be read, whatever it is, the next is taken over: a key may be withdrawn by it."""
    async with bare(tmp_path, shop(OLD_HASH)) as server, line(server.port, OLD) as old:
        with structlog.testing.capture_logs() as logs:
            server.rewrite(shop(OLD_HASH) + "[stream]\nretention_days = " + "9" * 5_000)
            server.app.reload()

            async def told() -> bool:
                return any(entry["event"] == "the changed configuration isn't used" for entry in logs)

            await until(told)
        server.rewrite(shop(NEW_HASH))
        await until(refused(old))


async def test_a_change_that_comes_while_another_one_is_read_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lands behind the reading and before the end of it."""
    monkeypatch.setattr(reloading, "POLL_SECONDS", 0.02)
    config = write_config(tmp_path, shop(OLD_HASH))
    settings = load_settings(config, {})
    taken: list[str] = []

    def read_again() -> Settings:
        found = load_settings(config, {})
        if not taken:
            taken.append(add_master_key(tmp_path / "master.key", last=False))
        return replace(found, read_again=read_again)

    def take(changed: Settings) -> None:
        taken.append(changed.master_keys.current)

    watching = asyncio.create_task(Reloader(replace(settings, read_again=read_again), take, lambda: None).run())
    write_config(tmp_path, shop(NEW_HASH))

    async def seen_twice() -> bool:
        return len(taken) > 1 and taken[-1] == taken[0]

    await until(seen_twice)
    watching.cancel()


async def test_what_needs_a_restart_is_named(tmp_path: Path) -> None:
    """The rest of such a configuration is taken over all the same."""
    async with bare(tmp_path, shop(OLD_HASH)) as server, line(server.port, NEW) as new:
        with structlog.testing.capture_logs() as logs:
            server.rewrite(
                shop(NEW_HASH) + "[stream]\nretention_days = 7\n" + UNREACHABLE, grpc_lines="drain_seconds = 7"
            )
            server.app.reload()
            await until(answered(new))

            async def warned() -> bool:
                return any("keys" in entry for entry in logs)

            await until(warned)
        [keys] = [entry["keys"] for entry in logs if "keys" in entry]
        assert keys == ["grpc.drain_seconds", "stream.retention_days", "suppliers.kss_a", "products"]


async def test_the_same_configuration_needs_no_restart(tmp_path: Path) -> None:
    """Read again it is the same, suppliers and their adapters included."""
    async with bare(tmp_path, shop(OLD_HASH) + UNREACHABLE) as server:
        with structlog.testing.capture_logs() as logs:
            server.app.reload()

            async def taken() -> bool:
                return any(entry["event"] == "configuration taken over" for entry in logs)

            await until(taken)
        assert not [entry for entry in logs if "keys" in entry]


async def test_certificates_and_authorities_are_taken_over(tmp_path: Path) -> None:
    """The same files with other contents, and other files: at the next handshake."""
    first, second, clients = (Authority(tmp_path, name) for name in ("first", "second", "clients"))
    certificate, key = first.issue_for_server()
    lines = f'tls_certificate_file = "{certificate}"\ntls_key_file = "{key}"\n'
    rest = client_toml("shop", f'keys = ["{OLD_HASH}"]', 'certificate_names = ["shop"]')
    async with bare(tmp_path, rest, grpc_lines=f'{lines}tls_client_ca_file = "{clients.file}"') as server:
        shown = clients.issue("shop")
        async with line(server.port, ca=first.file, certificate=shown) as one:
            await one.call()
        # The same names, renewed in place by another authority.
        second.issue_for_server()
        async with line(server.port, ca=second.file, certificate=shown) as one:
            await one.call()
        # Half of a renewal: nothing changes until both files fit.
        whole = key.read_bytes()
        key.write_text("none")
        async with line(server.port, ca=second.file, certificate=shown) as one:
            await one.call()
        key.write_bytes(whole)
        others = Authority(tmp_path, "others")
        server.rewrite(rest, grpc_lines=f'{lines}tls_client_ca_file = "{others.file}"')
        server.app.reload()

        async def old_authority_is_out() -> bool:
            async with line(server.port, ca=second.file, certificate=shown) as one:
                return await refused(one)()

        await until(old_authority_is_out)
        async with line(server.port, ca=second.file, certificate=others.issue("shop")) as one:
            await one.call()


async def test_sighup_reads_the_configuration_again(tmp_path: Path) -> None:
    """As a process: the signal doesn't end it, and a secret of the environment isn't needed twice."""
    port = free_port()
    config = write_config(tmp_path, shop(OLD_HASH), port=port)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reward_server", "serve", "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={"REWARD_LOGGING__FORMAT": "json"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(100):
            await seen(process.stdout, "ready")
            process.send_signal(signal.SIGHUP)
            await seen(process.stdout, "configuration taken over")
        async with line(port, OLD) as old:
            await old.call()
        process.terminate()
        await process.communicate()
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def seen(output: asyncio.StreamReader, event: str) -> None:
    """Reads the log until it tells of something."""
    while text := await output.readline():
        if json.loads(text)["event"] == event:
            return
    raise AssertionError("the server ended")
