"""What the client shows of itself to the real server: a certificate, a key, or a token that is a new one each time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from reward_server.access import new_key
from rewardservice import (
    AuthenticationError,
    Backoff,
    DeadlineError,
    Event,
    Heartbeat,
    RewardClient,
    SnapshotEnd,
    TlsOptions,
    UnavailableError,
)
from rewardservice.cli import run
from service.bare import Authority, Bare, bare, client_toml, until
from service.test_issuer import issue, publish

from .scripted import Relay, Scripted, order, snapshot_end

KEY, KEY_HASH = new_key()
NEXT, NEXT_HASH = new_key()


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of whoever runs the tests must not change what is tested."""
    for name in ("REWARDSERVICE_KEY", "REWARDCTL_KEY", "REWARDCTL_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def certified(folder: Path) -> AsyncIterator[tuple[str, TlsOptions]]:
    """A server with a client that its certificate names, which also has a key; and the files of that client."""
    authority = Authority(folder, "authority")
    certificate, key = authority.issue_for_server()
    tls = TlsOptions(authority.file, *authority.issue("shop", x509.DNSName("shop.internal")))
    lines = f'tls_certificate_file = "{certificate}"\ntls_key_file = "{key}"\ntls_client_ca_file = "{authority.file}"\n'
    clients = client_toml("shop", f'keys = ["{KEY_HASH}"]', 'certificate_names = ["shop.internal"]')
    async with bare(folder, clients, grpc_lines=lines) as server:
        yield f"127.0.0.1:{server.port}", tls


async def listed(client: RewardClient) -> list[str]:
    """The ids of the client's orders."""
    return [order.order_id async for order in client.list_orders()]


async def test_a_certificate_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key is sent beside it, not even the one for this machine; one that is given is, and has to be good."""
    async with certified(tmp_path) as (target, tls):
        for variable in (None, "", KEY):
            if variable is not None:
                monkeypatch.setenv("REWARDSERVICE_KEY", variable)
            async with RewardClient(target, tls=tls) as client, aclosing(client.watch()) as events:
                assert await listed(client) == []
                assert isinstance(await anext(events), SnapshotEnd)
        async with RewardClient(target, KEY, tls=tls) as client:
            assert await listed(client) == []
        async with RewardClient(target, "dev-key", tls=tls) as client:
            with pytest.raises(AuthenticationError):
                await listed(client)


async def test_a_certificate_is_enough_for_rewardctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own variables name the files; a key that programs have in theirs isn't sent."""
    monkeypatch.setenv("REWARDSERVICE_KEY", "of-a-program")
    async with certified(tmp_path) as (target, tls):
        for name, value in {"CA": tls.ca_file, "CERT": tls.cert_file, "KEY": tls.key_file}.items():
            monkeypatch.setenv(f"REWARDCTL_TLS_{name}_FILE", str(value))
        assert await run(["order", "list", "--server", target]) == 0
        assert await run(["order", "list", "--server", target, "--key", KEY]) == 0
        assert await run(["order", "list", "--server", target, "--key", "dev-key"]) == 5


async def test_an_empty_key_is_none_that_was_forgotten() -> None:
    """Also with a certificate: whoever gives a key means one."""
    with pytest.raises(ValueError, match="empty"):
        RewardClient(key="", tls=TlsOptions("ca.pem", "client.pem", "client.key"))
    async with RewardClient(key=lambda: "") as client:
        with pytest.raises(AuthenticationError, match="no API key"):
            await listed(client)


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_every_call_asks_for_the_key(script: Scripted, target: str, backoff: Backoff, kind: str) -> None:
    """A function, plain or async, gives each call what is good then."""
    script.orders["A"] = order("A")
    keys = iter(["one", "two"])

    async def later() -> str:
        await asyncio.sleep(0)
        return next(keys)

    key: Callable[[], str | Awaitable[str]] = later if kind == "async" else lambda: next(keys)
    async with RewardClient(target, key, backoff=backoff) as client:
        await client.get_order("A")
        await client.get_order("A")

    assert [sent["authorization"] for sent in script.metadata] == ["Bearer one", "Bearer two"]


async def test_a_key_that_never_comes_is_not_awaited_for_ever(target: str) -> None:
    """The call's time limit covers it; a function that fails is an error like others, which shows no key."""

    async def never() -> str:
        return await asyncio.Future()

    async def broken() -> str:
        raise TimeoutError("no issuer")

    async with RewardClient(target, never, timeout=0.01) as client:
        with pytest.raises(DeadlineError, match="no key or token in time"):
            await client.get_order("A")
    async with RewardClient(target, broken) as client:
        with pytest.raises(AuthenticationError, match="no issuer") as failed:
            await client.create_order("jd-100", client_order_id="mine")
        assert isinstance(failed.value.__cause__, TimeoutError)
        assert failed.value.client_order_id == "mine"
        with pytest.raises(AuthenticationError, match="no issuer"):
            await anext(client.watch())
    async with RewardClient(target, lambda: "sécret\n") as client:
        with pytest.raises(AuthenticationError, match="printable ASCII") as caught:
            await client.get_order("A")
    assert "cret" not in str(caught.value)


async def test_an_issuer_that_is_away_is_tried_again(script: Scripted, target: str, backoff: Backoff) -> None:
    """Its function says so by an UnavailableError: for calls and for streams."""
    script.orders["A"] = order("A")
    script.streams += [[snapshot_end("t1")]]
    answers: Iterator[UnavailableError | str] = iter([UnavailableError("away"), "one"] * 2)

    async def key() -> str:
        answer = next(answers)
        if isinstance(answer, UnavailableError):
            raise answer
        return answer

    async with RewardClient(target, key, backoff=backoff) as client, aclosing(client.watch()) as events:
        assert (await client.get_order("A")).order_id == "A"
        assert await anext(events) == SnapshotEnd("t1")


class Keys:
    """Gives one after the other, and from then on the last."""

    def __init__(self, *keys: str) -> None:
        self._left = list(keys)
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


TWO_KEYS = client_toml("shop", f'keys = ["{KEY_HASH}", "{NEXT_HASH}"]')


def withdraw(server: Bare) -> None:
    """Takes the first of the two from the client."""
    server.rewrite(client_toml("shop", f'keys = ["{NEXT_HASH}"]'))
    server.app.reload()


async def heartbeats(events: AsyncIterator[Event], *, until: Callable[[], bool]) -> None:
    """Reads on until something holds; nothing but heartbeats comes."""
    async for event in events:
        assert isinstance(event, Heartbeat)
        if until():
            break


async def refused(client: RewardClient) -> bool:
    """Whether the client's calls are refused."""
    try:
        await listed(client)
    except AuthenticationError:
        return True
    return False


async def test_a_stream_goes_on_with_the_next_key(tmp_path: Path, backoff: Backoff, naps: list[float]) -> None:
    """When the server ends it because its key was withdrawn: at once, and where it was."""
    keys = Keys(KEY, NEXT)
    async with (
        bare(tmp_path, TWO_KEYS) as server,
        RewardClient(f"127.0.0.1:{server.port}", keys, backoff=backoff) as client,
        aclosing(client.watch(heartbeat_interval=1)) as events,
    ):
        assert isinstance(await anext(events), SnapshotEnd)
        withdraw(server)
        await heartbeats(events, until=lambda: keys.asked == 2)
    assert naps == []


@pytest.mark.parametrize("key", [KEY, Keys(KEY), Keys(KEY, "rk_wrong", NEXT)], ids=["fixed", "same", "worse"])
async def test_a_stream_without_a_better_key_ends(tmp_path: Path, backoff: Backoff, key: str | Keys) -> None:
    """A key that is fixed, a function that gives the refused one again, and one whose next key is refused, too."""
    async with (
        bare(tmp_path, TWO_KEYS) as server,
        RewardClient(f"127.0.0.1:{server.port}", key, backoff=backoff) as client,
        aclosing(client.watch(heartbeat_interval=1)) as events,
    ):
        assert isinstance(await anext(events), SnapshotEnd)
        withdraw(server)
        with pytest.raises(AuthenticationError):
            await heartbeats(events, until=lambda: False)


async def test_a_token_ends_and_the_stream_goes_on(tmp_path: Path, backoff: Backoff) -> None:
    """The connection is lost when the token isn't good any more, and the function still has it: it is asked again."""
    old, new = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    file = tmp_path / "jwks.json"
    publish(file, old)
    issuer = f'[jwt]\nissuer = "https://issuer"\naudience = "rewards"\njwks_file = "{file}"\n'
    former = issue(old, "shop")
    tokens = Keys(former, former, former, issue(new, "shop"))
    async with (
        bare(tmp_path, issuer + client_toml("shop")) as server,
        Relay(server.port).running() as relay,
        RewardClient(f"127.0.0.1:{relay.port}", tokens, backoff=backoff) as client,
        RewardClient(f"127.0.0.1:{server.port}", former, backoff=backoff) as fixed,
        aclosing(client.watch(heartbeat_interval=1)) as events,
    ):
        assert await listed(client) == await listed(fixed) == []
        assert isinstance(await anext(events), SnapshotEnd)
        publish(file, new)
        server.app.reload()
        await until(lambda: refused(fixed))
        relay.freeze()
        await heartbeats(events, until=lambda: tokens.asked == 4)
