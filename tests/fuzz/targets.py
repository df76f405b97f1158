"""What is fuzzed. A target takes a source of chance, tries one input and asserts what must hold for any.

`test_fuzz.py` tries some inputs of each with hypothesis, `python -m fuzz` (`make fuzz`) as many as time allows.
"""

import asyncio
import contextlib
import dataclasses
import json
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, TypeAlias
from urllib.parse import quote

import grpc
import grpc.aio
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import Message
from jwt.algorithms import ECAlgorithm

from adapters.laws import Specimen, outcomes
from adapters.test_laws import specimen_of
from reward_adapters import adapter_kinds
from reward_adapters.contract import Callback, CallbackRefused, Notice, NotOffered
from reward_server.config import ConfigError, Settings, load_settings
from reward_server.domain.order import Order
from reward_server.errors import LogRewound, ResumeTokenExpired, ResumeTokenInvalid, Unauthenticated
from reward_server.guard import source_of
from reward_server.jwts import Issuer, Verifier, read_jwks
from reward_server.resume import PageTokenInvalid, Tokens
from reward_server.sealing import ClientSealer, MasterKeyRefused, MasterKeys, SealError
from reward_server.store import Head
from reward_server.store.codec import OrderUnreadable, decode_order, encode_order
from rewardservice.v1 import catalog_service_pb2, operator_service_pb2, reward_service_pb2
from rpc.world import Api, World, a_card, world
from service.harness import Service, service
from store.samples import an_order

from .mutating import damaged, damaged_json, message, text

Target: TypeAlias = Callable[[Random], None]
AsyncTarget: TypeAlias = Callable[[Random], Awaitable[None]]

CANARY = "CANARY5f2d"
"""Stands in everything that is secret; must never come back."""


@contextlib.contextmanager
def _refusing(kind: type[Exception], secret: str) -> Iterator[None]:
    """Lets errors of this kind pass, unless they tell the secret."""
    try:
        yield
    except kind as error:
        if secret in f"{error} {error!r}":
            raise AssertionError("the error tells a secret") from None


# --- Supplier answers and callbacks -----------------------------------------------------------------------------------


@cache
def _specimen(kind: str) -> Specimen:
    return specimen_of(kind)


@cache
def _readers(kind: str) -> Sequence[tuple[str, Callable[[Any], Any], Sequence[Any]]]:
    return [reader for reader in _specimen(kind).readers() if reader[2]]


@cache
def _secrets(kind: str) -> Sequence[str]:
    """Keys, tokens and recipients, and what redeems the cards of genuine answers."""
    specimen = _specimen(kind)
    found = list(specimen.secrets)
    for _, read, replies in _readers(kind):
        for reply in replies:
            for outcome in outcomes(read(reply)):
                found += [card.secret for card in getattr(outcome, "cards", ()) if len(card.secret) > 5]
    return found


def supplier_answer(random: Random) -> None:
    """Whatever a supplier answers to whatever we asked is an outcome, never an exception, and prints no secret."""
    kind = random.choice(adapter_kinds())
    name, read, replies = random.choice(_readers(kind))
    reply = random.choice(replies)
    change = damaged if random.random() < 0.4 else damaged_json
    status = (
        reply.status if random.random() < 0.7 else random.choice((200, 204, 302, 400, 401, 404, 429, 500, 503, 999))
    )
    strange = dataclasses.replace(reply, status=status, body=change(random, reply.body))
    result = read(strange)
    _assert_hidden(repr(result), _secrets(kind), f"{kind} {name}")


def supplier_callback(random: Random) -> None:
    """Whatever is posted as a callback is refused, or is the genuine one in another spelling."""
    kind = random.choice(adapter_kinds())
    specimen = _specimen(kind)
    genuine = specimen.callback or Callback(b"a=1&b=2")
    change = damaged if random.random() < 0.6 else damaged_json
    strange = dataclasses.replace(genuine, body=change(random, genuine.body))
    notice = specimen.dealer.read_callback(strange)
    assert isinstance(notice, CallbackRefused | NotOffered | Notice)
    if isinstance(notice, Notice):
        # Fields that aren't signed may differ; the number is always signed.
        known = specimen.dealer.read_callback(genuine)
        assert isinstance(known, Notice)
        assert notice.number == known.number or "number" in specimen.unsigned
    _assert_hidden(repr(notice), _secrets(kind), kind)


def _assert_hidden(shown: str, secrets: Sequence[str], where: str) -> None:
    assert [secret for secret in secrets if secret in shown] == [], where


# --- Our own formats --------------------------------------------------------------------------------------------------

_TOKENS = Tokens(bytes(32))
_HEAD = Head(position=100, pruned_through=10, epoch=7)


def own_token(random: Random) -> None:
    """A resume or page token that was changed, cut or given to another client is refused and names no place."""
    client = random.choice(("shop", "other", "", "s"))
    resume = _TOKENS.resume_token("shop", 7, random.choice((0, 10, 50, 100, 101, 2**40)))
    query = ("ListOrders", "shop", "", "card")
    page = _TOKENS.page_token(query, "01M80Z68GYESEBGR9M4VBW37TH")
    given = random.choice((resume, page))
    if random.random() < 0.8:
        given = damaged(random, given.encode()).decode("utf-8", "replace")
    place = None
    with contextlib.suppress(ResumeTokenInvalid, LogRewound, ResumeTokenExpired):
        place = _TOKENS.position(client, given, _HEAD)
    assert place is None or (client == "shop" and given == resume)
    asked = query if random.random() < 0.5 else ("ListOrders", client, "", "card")
    with contextlib.suppress(PageTokenInvalid):
        assert _TOKENS.place(asked, given) == "" or (asked == query and given == page)


_ORDER = encode_order(an_order(metadata={"note": CANARY}))


def stored_order(random: Random) -> None:
    """A row of the database that was damaged is read as an order or refused, without what stood in it."""
    change = damaged if random.random() < 0.5 else damaged_json
    body = change(random, _ORDER[1:])
    body = _ORDER[:1] + body if random.random() < 0.9 else body
    with _refusing(OrderUnreadable, CANARY):
        assert isinstance(decode_order(body), Order)


_KEY_ID = bytes(range(8))
_SEALER = ClientSealer("shop", {_KEY_ID: bytes(32)}, {}, bytes(32))
_OTHER = ClientSealer("other", {_KEY_ID: bytes(32)}, {}, bytes(32))
_SEALED = _SEALER.seal_card(a_card(1), "order", 1)


def sealed_value(random: Random) -> None:
    """A sealed card that was changed, cut or moved to another place or client never opens."""
    changed = damaged(random, _SEALED)
    sealer, order_id, card_no = _SEALER, "order", 1
    if changed == _SEALED or random.random() < 0.2:
        changed = _SEALED
        sealer, order_id, card_no = random.choice(
            ((_OTHER, "order", 1), (_SEALER, "order2", 1), (_SEALER, "order", 2), (_SEALER, "orde", 1))
        )
    with _refusing(SealError, "secret-"):
        sealer.open_card(changed, order_id, card_no)
        raise AssertionError("a damaged card opened")


def master_key(random: Random) -> None:
    """A master key file that was damaged is read or refused, and never quoted."""
    line = "2026-11 " + "A" * 43 + "=\n"
    with _refusing(MasterKeyRefused, "A" * 12):
        MasterKeys.parse(damaged(random, line.encode()).decode("utf-8", "replace"), "file")


def source_address(random: Random) -> None:
    """Whatever stands in X-Forwarded-For, a source is an address or none."""
    words = ("127.0.0.1", "10.0.0.1", "2001:db8::1", "::ffff:10.0.0.1", "1.2.3.4, 5.6.7.8", "fe80::1%eth0")
    source_of(text(random, words), [text(random, words) for _ in range(random.randint(0, 3))], ())


class Bearer:
    """Tokens of an issuer that nobody signed, and key sets that nobody published."""

    def __init__(self, folder: Path) -> None:
        self._private, self._stranger = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        public = ECAlgorithm.to_jwk(self._private.public_key(), as_dict=True)
        self._jwks = json.dumps({"keys": [{**public, "kid": "1", "use": "sig"}]}).encode()
        self._file = folder / "jwks.json"
        self._file.write_bytes(self._jwks)
        self._claims = {"iss": "https://issuer", "aud": "rewards", "sub": "shop", "exp": 2**33}
        self._genuine = self._token(self._private, self._claims)
        issuer = Issuer(
            issuer="https://issuer",
            audience="rewards",
            jwks_file=self._file,
            jwks_url=None,
            client_claim="sub",
            leeway=30.0,
            refresh=300.0,
        )
        self._verifier = Verifier(issuer)

    @staticmethod
    def _token(key: ec.EllipticCurvePrivateKey, claims: Mapping[str, Any]) -> str:
        return jwt.encode(dict(claims), key, algorithm="ES256", headers={"kid": "1"})

    async def target(self, random: Random) -> None:
        """Only what the issuer signed names a client; a key set is read or refused. Nothing of a token is quoted."""
        shown = self._shown(random)
        # What is very short stands in any sentence.
        with _refusing(Unauthenticated, shown[:60] if len(shown) > 10 else CANARY):
            assert await self._verifier.client_of(shown) == "shop"
            # The signature's last character has bits that count for nothing.
            assert shown.rpartition(".")[0] == self._genuine.rpartition(".")[0]
        with contextlib.suppress(ValueError):
            read_jwks((damaged if random.random() < 0.5 else damaged_json)(random, self._jwks))

    def _shown(self, random: Random) -> str:
        if random.random() < 0.2:
            return self._token(self._stranger, self._claims)
        if random.random() < 0.4:
            return damaged(random, self._genuine.encode()).decode("ascii", "replace")
        parts = self._genuine.split(".")
        place = random.randrange(2)
        part = urlsafe_b64decode(parts[place] + "==")
        change = damaged if random.random() < 0.3 else damaged_json
        parts[place] = urlsafe_b64encode(change(random, part)).rstrip(b"=").decode()
        return ".".join(parts)


# --- The configuration ------------------------------------------------------------------------------------------------


class Configuration:
    """A configuration file that is read again and again, each time damaged otherwise."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "reward.toml"
        sample = Path(__file__).parents[2] / "docs" / "reward-server.sample.toml"
        lines = [line for line in sample.read_text("utf-8").splitlines() if "_file" not in line]
        secret = [f'apikey = "{CANARY}"' if line.startswith("user_id") else "" for line in lines]
        self._toml = "\n".join(f"{line}\n{more}" if more else line for line, more in zip(lines, secret, strict=True))
        self._words = (
            "1",
            "-1",
            '"x"',
            "true",
            "[]",
            "{}",
            "[[x]]",
            "[x]",
            "1e400",
            '"\\u0000"',
            "inf",
            "'''",
            "0x",
            "#",
        )

    def target(self, random: Random) -> None:
        """Every damage is a list of problems without a secret, never a traceback."""
        toml = self._toml
        if random.random() < 0.6:
            lines = toml.splitlines()
            for _ in range(random.randint(1, 4)):
                at = random.randrange(len(lines))
                key, equals, _ = lines[at].partition(" = ")
                lines[at] = f"{key} = {random.choice(self._words)}" if equals else random.choice(self._words)
            toml = "\n".join(lines)
        else:
            toml = damaged(random, toml.encode()).decode("utf-8", "surrogateescape")
        self._file.write_bytes(toml.encode("utf-8", "surrogateescape"))
        with _refusing(ConfigError, CANARY):
            assert isinstance(load_settings(self._file, {}), Settings)


# --- RPCs over a real connection --------------------------------------------------------------------------------------

_SERVICES = {
    "RewardService": reward_service_pb2,
    "CatalogService": catalog_service_pb2,
    "OperatorService": operator_service_pb2,
}
_NEVER = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})


class Rpcs:
    """A server that is called with whatever comes."""

    def __init__(self, served: World) -> None:
        self._served = served
        self._keys = ("shop-key", "shop-key", "shop-key", "operator-key", "overseer-key", "viewer-key", "nobody", None)
        self._apis = {key: served.api(key) for key in self._keys}
        self._words: list[str] = []

    async def prepare(self) -> None:
        """Learns the names of things that exist."""
        api = self._apis["shop-key"]
        made = await api.create("there", metadata={"a": "b"})
        await self._served.change(made.order.order_id, cards=1)
        page = await api.rewards.ListOrders(reward_service_pb2.ListOrdersRequest(page_size=1), metadata=api.metadata)
        order = await self._served.store.order("shop", made.order.order_id)
        assert order is not None
        self._words = [
            made.order.order_id, "there", "new", "card", "topup", "zz-form", "zone", "a", "kss_a", "CNY",
            made.resume_token, page.next_page_token, order.purchases[0].number,
            f"{CANARY}-phone", f"{CANARY}13800138000",
        ]  # fmt: skip

    async def target(self, random: Random) -> None:
        """Every message of every method is answered or refused with a code that says something, and no secret."""
        name, module = random.choice(sorted(_SERVICES.items()))
        method = random.choice(module.DESCRIPTOR.services_by_name[name].methods)
        asked: Message = message(random, getattr(module, method.input_type.name)(), self._words)
        raw = asked.SerializeToString()
        if random.random() < 0.3:
            raw = damaged(random, raw)
        key = random.choice(self._keys)
        api = self._apis[key]
        metadata = list(api.metadata)
        if random.random() < 0.1:
            word = text(random, ("id", "0123456789abcdef"))
            metadata.append(("x-request-id", "".join(c for c in word if c.isascii() and c.isprintable())))
        path = f"/{method.containing_service.full_name}/{method.name}"
        error = await _called(api, path, raw, metadata, streams=method.server_streaming)
        if error is None:
            return
        assert error.code() not in _NEVER, f"{path} {raw!r}: {error.code()}"
        # What else was asked for may be named to the one who asked, as a product that doesn't exist.
        said = f"{error.details()} {error.trailing_metadata()}"
        for secret in ("recipient", "cards"):
            if secret in asked.DESCRIPTOR.fields_by_name and CANARY in str(getattr(asked, secret)):
                asked.ClearField(secret)
                assert CANARY in str(asked) or CANARY not in said, f"{path}: {said}"

    async def alive(self) -> None:
        """Orders are taken as before."""
        assert (await self._apis["shop-key"].create()).order.order_id


async def _called(api: Api, path: str, raw: bytes, metadata: Any, *, streams: bool) -> grpc.aio.AioRpcError | None:
    """How a call failed, if it did."""
    channel: Any = api.channel
    try:
        if not streams:
            await channel.unary_unary(path)(raw, metadata=metadata, timeout=1.0)
            return None
        call = channel.unary_stream(path)(raw, metadata=metadata, timeout=100.0)
        # The first message comes at once, whatever is asked; after that a stream may be silent.
        if await call.read() is not grpc.aio.EOF:
            call.cancel()
    except grpc.aio.AioRpcError as error:
        return error
    return None


@contextlib.asynccontextmanager
async def rpcs(folder: Path) -> AsyncIterator[Rpcs]:
    """A server for `Rpcs`."""
    async with world(folder) as served:
        called = Rpcs(served)
        await called.prepare()
        yield called


# --- Callback routes over a real connection ---------------------------------------------------------------------------


class Routes:
    """The callback routes, knocked at with whatever comes."""

    def __init__(self, running: Service) -> None:
        self._port = running.place.http_port
        self._bodies = [specimen.callback.body for specimen in map(_specimen, adapter_kinds()) if specimen.callback]
        self._accounts = (*adapter_kinds(), "nobody", "")

    async def target(self, random: Random) -> None:
        """Any bytes are answered without a 5xx, or the line is cut; nothing but a genuine callback gets an answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(self._request(random))
            if writer.can_write_eof():
                writer.write_eof()
            first = await reader.readline()
            head = await reader.read()
        except ConnectionError:
            return
        finally:
            # At once, without waiting in the system: thousands of these follow each other.
            writer.get_extra_info("socket").setsockopt(*_LINGER)
            writer.close()
        status = int(first.split()[1]) if first.startswith(b"HTTP/1.1 ") else 0
        assert status in (0, 200, 400, 404), first
        assert status != 404 or b"Content-Length: 0\r\n" in head, head

    def _request(self, random: Random) -> bytes:
        body = random.choice(self._bodies)
        body = random.choice((damaged, damaged_json))(random, body)
        account = random.choice(self._accounts)
        path = f"/callbacks/{account}"
        if random.random() < 0.2:
            path = "/callbacks/" + quote(text(random, (account,)), safe="/%?")
        method = random.choice(("POST", "POST", "POST", "GET", "PUT", "OPTIONS", "PRI"))
        length = len(body) if random.random() < 0.9 else random.choice((0, 1, 10**9, -1, 10**40))
        content_type = random.choice(("application/json", "text/plain; charset=gbk", "multipart/form-data", ""))
        headers = [
            f"Content-Type: {content_type}",
            f"X-Forwarded-For: {quote(text(random, ('1.2.3.4', '::1')), safe=' ,:')}",
            f"Content-Encoding: {random.choice(('gzip', 'deflate', 'br', 'identity', 'x'))}",
            "Expect: 100-continue",
            f"X-Long: {'y' * random.choice((1, 8_000, 9_000))}",
        ]
        chosen = [header for header in headers if random.random() < 0.2]
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: h",
            "Connection: close",
            f"Content-Length: {length}",
            *chosen,
            "",
            "",
        ]
        request = "\r\n".join(lines).encode() + body
        return damaged(random, request) if random.random() < 0.2 else request


_LINGER = (1, 13, struct.pack("ii", 1, 0))
"""SOL_SOCKET, SO_LINGER: closing resets."""


@contextlib.asynccontextmanager
async def routes(folder: Path) -> AsyncIterator[Routes]:
    """A server for `Routes`."""
    extra = "[callbacks]\nmax_per_second_per_source = 100000\n"
    async with service(folder, extra=extra) as running:
        yield Routes(running)


PURE: Mapping[str, Target] = {
    target.__name__: target
    for target in (
        supplier_answer,
        supplier_callback,
        own_token,
        stored_order,
        sealed_value,
        master_key,
        source_address,
    )
}


@contextlib.contextmanager
def every_target(folder: Path, runner: asyncio.Runner) -> Iterator[Mapping[str, Target]]:
    """All targets, those over a connection with a server that stays up meanwhile."""
    stack = contextlib.AsyncExitStack()
    for name in ("rpcs", "routes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    called = runner.run(stack.enter_async_context(rpcs(folder / "rpcs")))
    knocked = runner.run(stack.enter_async_context(routes(folder / "routes")))

    def waiting(target: AsyncTarget) -> Target:
        async def bounded(random: Random) -> None:
            async with asyncio.timeout(100):
                await target(random)

        return lambda random: runner.run(bounded(random))

    yield {
        **PURE,
        "configuration": Configuration(folder).target,
        "issuers_token": waiting(Bearer(folder).target),
        "rpc": waiting(called.target),
        "callback_route": waiting(knocked.target),
    }
    runner.run(called.alive())
    runner.run(stack.aclose())
