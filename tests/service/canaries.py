"""A run of the whole service in which every secret can be found again, and the search for them."""

import asyncio
import base64
import contextlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from google.protobuf.message import Message
from grpc.aio import AioRpcError

from ports import free_port
from reward_sandbox import Sandbox, SandboxSettings, shops
from reward_sandbox.scenario import Scenario
from reward_server.access import new_key
from rewardservice.v1 import operator_service_pb2, operator_service_pb2_grpc, order_pb2
from rewardservice.v1.operator_service_pb2 import (
    DECISION_BUY_AGAIN,
    DECISION_DELIVERED,
    DECISION_DISMISS,
    DECISION_FAIL,
)
from rewardservice.v1.reward_service_pb2 import (
    STREAM_START_SNAPSHOT,
    CancelOrderRequest,
    CreateOrderRequest,
    GetOrderRequest,
    ListOrdersRequest,
    ListOrderUpdatesRequest,
)

from .bare import client_toml
from .harness import Caller, Place, ServerProcess, caller, toml_value
from .stage import state

MARK = "CNRY7KQ2"
"""In every text of every card: eight characters, so that no file of random bytes holds it by accident."""
PHONE = "13857246913"
QQ = "8461573920"
ACCOUNT = "canary-7kq2-player"
ENOUGH = 3
"""Signatures without which the search for them would mean nothing."""
RECIPIENTS = {"a phone number": PHONE, "a QQ number": QQ, "an account's name": ACCOUNT}
ENTERED = f"entered-{MARK}-by-hand"
"""What an operator enters as a card."""
QUOTING = f"卡密 {MARK}-61D0-E24F 已售, 充值账号 {PHONE} card {MARK} was sold"
"""What a supplier's message may quote."""
WRONG_KEY = "canary-7kq2-a-key-that-nobody-has"

CLIENTS = {"shop": "order read read_cards", "other": "order read read_cards", "operator": "operate read"}
SHARED = "kuaiduibao"
"""The one account that its supplier calls back to: the others' URLs come with the order."""

STATES = {"fulfilled": 50, "failed": 15, "needs_review": 10, "outcome_unknown": 3}
"""At least so many orders come to each: a run in which nothing happened would prove nothing."""
MOST = 0.85
"""Such a part comes to where its scenario takes it; of so many at a time some miss the moment that they are about."""
PATIENCE = 30.0
"""Seconds in which that is waited for, a few on a calm machine; on a busy one the states have to do."""


# --- The search -------------------------------------------------------------------------------------------------------


def spellings(secret: str) -> set[bytes]:
    """A secret as it may stand in a file: plain, in URLs, in JSON, in base64 at any offset, in hex, in UTF-16."""
    raw = secret.encode()
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in secret)
    percents = "".join(f"%{byte:02X}" for byte in raw)
    texts = {secret, quote(secret, safe=""), quote(secret), percents, json.dumps(secret)[1:-1], escaped}
    found = {text.encode() for text in texts} | {re.sub("[0-9a-f]{4}", lambda four: four[0].upper(), escaped).encode()}
    for shift in range(3):
        # Only groups that hold nothing but the secret are the same whatever stands around it.
        coded = base64.b64encode(bytes(shift) + raw)[4 * (shift > 0) : (shift + len(raw)) // 3 * 4]
        found |= {coded, coded.translate(bytes.maketrans(b"+/", b"-_"))}
    found |= {secret.encode("utf-16-le"), secret.encode("utf-16-be")}
    return found | {raw.hex().encode(), raw.hex().upper().encode()}


class Search:
    """Looks for secrets in whatever a run leaves behind."""

    def __init__(self, secrets: Mapping[str, str], *, exact: Mapping[str, bytes] | None = None) -> None:
        """`secrets` by what they are called, looked for in every spelling; `exact` ones as they are."""
        self._sought = {spelled: name for name, secret in secrets.items() for spelled in spellings(secret)}
        self._sought.update({secret: name for name, secret in (exact or {}).items()})
        assert all(len(spelled) >= 8 for spelled in self._sought), "too short to be told from an accident"

    def found_in(self, content: bytes | bytearray) -> set[str]:
        """What of them stands in it, by name."""
        return {name for spelled, name in self._sought.items() if spelled in content}

    def assert_clean(self, contents: Mapping[str, bytes | bytearray]) -> None:
        """None of them stands in any of these."""
        leaks = {place: sorted(found) for place, content in contents.items() if (found := self.found_in(content))}
        assert leaks == {}, f"secrets leaked: {leaks}"


@contextlib.contextmanager
def marked_cards() -> Iterator[None]:
    """While it lasts, cards that the sandbox makes bear the long mark instead of its own short one."""
    shops()  # imports every file of it
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("reward_sandbox.") and hasattr(module, "CANARY"):
                patch.setattr(module, "CANARY", MARK)
        yield


# --- The run ----------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """The service under every scenario, and what was heard of it."""

    server: ServerProcess
    sandbox: Sandbox
    keys: Mapping[str, str]
    """Of the clients, by their names."""
    folder: Path
    full: bytearray = field(default_factory=bytearray)
    """What the client that ordered was told in view FULL."""
    heard: dict[str, bytearray] = field(default_factory=dict)
    """All other answers and errors, by what was asked."""

    def hear(self, name: str, content: bytes) -> None:
        """Keeps what was answered."""
        self.heard.setdefault(name, bytearray()).extend(content)

    def secrets(self) -> dict[str, str]:
        """What nobody but its owner may read in the clear, wherever it stands."""
        accounts = {
            f"{kind}'s {key}": value
            for kind, shop in shops().items()
            for key, value in shop.account.items()
            if re.search("secret|apikey", key)
        }
        assert len(accounts) == 5
        tokens = self._tokens()
        assert len(tokens) >= 2
        return {
            "a card": MARK,
            "the master key": self._master_key.split()[1],
            **{f"{name}'s key": key for name, key in self.keys.items()},
            **{f"access token {number}": token for number, token in enumerate((tokens[0], tokens[-1]))},
            **accounts,
        }

    def raw_secrets(self) -> dict[str, bytes]:
        """Keys that are no text, as they are."""
        return {"the master key, raw": base64.b64decode(self._master_key.split()[1])}

    @property
    def _master_key(self) -> str:
        return (self.folder / "master.key").read_text()

    def _tokens(self) -> list[str]:
        """The access tokens that suppliers gave the server."""
        desks = [self.sandbox.desk(kind) for kind in ("kuaiduibao", "dushu")]
        return sorted(token for desk in desks for token in desk.tokens._ends)

    def signatures(self) -> set[str]:
        """Of the callbacks that the server was sent so far."""
        bodies = [
            call["body"]
            for kind in ("kuaiduibao", "kaquan91_recharge", "kasushou")
            for order in self.sandbox.books(kind)["orders"]
            for call in order["callbacks"]
        ]
        return {match for body in bodies for match in re.findall(r"sign\W+([0-9A-Fa-f]{32,64})", body)}

    def spoken_secrets(self) -> dict[str, bytes]:
        """All tokens and signatures: too many for every spelling."""
        found = self.signatures()
        assert len(found) >= ENOUGH
        return {secret: secret.encode() for secret in (*found, *self._tokens())}

    def books(self) -> bytes:
        """What the suppliers say that they sold."""
        return json.dumps([self.sandbox.books(kind) for kind in shops()]).encode()

    async def told(self) -> dict[str, bytes]:
        """What it tells operators without being asked: the log with standard error, and the metrics."""
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.server.place.http_port}") as session:
            shown = {}
            for page in ("metrics", "healthz", "readyz"):
                async with session.get(f"/{page}") as answer:
                    shown[page] = await answer.read()
        return {**shown, "the log": self.server.output.read_bytes()}

    def temporary_files(self) -> dict[str, bytes]:
        """What it left in the folder for such files."""
        return {str(path): path.read_bytes() for path in (self.folder / "temporary").rglob("*") if path.is_file()}


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    played: Iterable[str],
    *,
    store: str = "",
    serve: Callable[[Place], ServerProcess] = ServerProcess,
) -> AsyncIterator[Run]:
    """The server as a process at log level debug, made by `serve`, and the sandbox; these products are on sale, and
    `store` are the lines of [store].
    """
    http_port = free_port()
    keys, clients = {}, []
    for name, allowed in CLIENTS.items():
        keys[name], hashed = new_key()
        clients.append(client_toml(name, f'keys = ["{hashed}"]', permissions=allowed))
    settings = SandboxSettings(
        port=0,
        step_seconds=0.05,
        late_seconds=1.5,
        callback_scale=0.01,
        callback_url=f"http://127.0.0.1:{http_port}/callbacks/kuaiduibao",
    )
    (folder / "temporary").mkdir()
    with marked_cards(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "temporary"))
        async with Sandbox(settings) as sandbox:
            place = OneAccountEach(
                folder=folder,
                sandbox_url=sandbox.url,
                http_port=http_port,
                products=tuple(played),
                extra='[logging]\nlevel = "debug"\n' + "".join(clients),
                store=store,
            )
            async with serve(place) as server:
                yield Run(server, sandbox, keys, folder)


def scenarios(part: int = 0, parts: int = 1) -> dict[str, Scenario]:
    """What is played, by the products' ids, or one of so many parts of it: what can be played beside others and within
    seconds, everything with cards and one in three of the rest.
    """
    with_cards: dict[str, Scenario] = {}
    others: dict[str, Scenario] = {}
    for kind, shop in shops().items():
        for scenario in shop.scenarios:
            if not scenario.lapse and not scenario.controls:
                chosen = with_cards if scenario.behaviour.shape else others
                chosen[f"{kind}/{scenario.name}"] = scenario
    return dict([*list(with_cards.items())[part::parts], *list(others.items())[part :: 3 * parts]])


def scenario_of(product: str) -> Scenario:
    """The scenario of a product's id."""
    kind, _, name = product.partition("/")
    return next(scenario for scenario in shops()[kind].scenarios if scenario.name == name)


def account_of(product: str, scenario: Scenario) -> str:
    """The supplier account that it is bought from."""
    kind = product.partition("/")[0]
    return kind if kind == SHARED and scenario.expect.callbacks else re.sub(r"\W", "_", product)[:40]


class OneAccountEach(Place):
    """Every product is bought from an account of its own, set as its scenario needs it: one that is paused, rests or
    waits for a token leaves the others alone.
    """

    def write(self) -> Path:
        config = super().write()
        head, *blocks = config.read_text().split("\n\n")
        accounts = {block.split("]")[0]: block for block in blocks if block.startswith("[suppliers.")}
        written = [head, *accounts.values()]
        for block in blocks:
            found = re.search(r'\[\[products\]\]\nid = "(.+)"', block)
            if found is None:
                continue
            product = found[1]
            kind, scenario = product.partition("/")[0], scenario_of(product)
            name = account_of(product, scenario)
            written.append(block.replace(f'supplier = "{kind}"', f'supplier = "{name}"'))
            if name != kind:
                own = {key: toml_value(value) for key, value in scenario.account.items()}
                lines = [
                    line for line in accounts[f"[suppliers.{kind}"].splitlines()[1:] if line.split(" = ")[0] not in own
                ]
                written.append("\n".join([f"[suppliers.{name}]", *lines, *(f"{k} = {v}" for k, v in own.items())]))
        config.write_text("\n\n".join(written))
        return config


async def play(run: Run, played: Mapping[str, Scenario]) -> None:
    """Orders what the scenarios say, follows it to its end, looks at it in every way in which nobody may
    see a card, decides what is in review, and tries what nobody should.
    """
    port = run.server.place.grpc_port
    async with (
        caller(port, run.keys["shop"]) as shop,
        caller(port, run.keys["other"]) as other,
        caller(port, run.keys["operator"]) as operator,
    ):
        await _Play(run, shop, other, operator).all_of_it(played)


# --- What must hold after it ------------------------------------------------------------------------------------------


def assert_found_where_they_belong(run: Run, store: Mapping[str, bytes]) -> None:
    """The search is sharp: it finds the cards where the suppliers and the owner have them, and in each part of `store`
    recipients, which aren't sealed.
    """
    cards = Search({"a card": MARK})
    assert cards.found_in(run.books())
    assert cards.found_in(run.full)
    for place, content in store.items():
        assert Search(RECIPIENTS).found_in(content), place


def assert_hidden(run: Run, told: Mapping[str, bytes], left: Mapping[str, bytes]) -> None:
    """No card, key or token stands in what anybody was told, or lies in what was left, in any spelling."""
    said: dict[str, bytes | bytearray] = {**told, **run.heard}
    Search(run.secrets(), exact=run.raw_secrets()).assert_clean({**said, **left})
    Search({}, exact=run.spoken_secrets()).assert_clean(said)


def assert_recipients_hidden(run: Run, told: Mapping[str, bytes]) -> None:
    """Nobody but the owner is told a whole recipient; in the store they stand in the orders, which aren't sealed."""
    owners = [name for name in run.heard if "owner" in name or name in OWNERS]
    search = Search(RECIPIENTS)
    assert search.found_in(run.full)
    search.assert_clean({**told, **{name: said for name, said in run.heard.items() if name not in owners}})


OWNERS = {"CancelOrder", "ListOrders", "ListOrderUpdates"}
"""What the client that ordered asks; everything else is for operators and strangers."""


class _Play:
    """What clients and operators do."""

    def __init__(self, run: Run, shop: Caller, other: Caller, operator: Caller) -> None:
        self._run = run
        self._shop = shop
        self._other = other
        self._operator = operator
        self._office = operator_service_pb2_grpc.OperatorServiceStub(operator.channel)
        self._orders: dict[str, order_pb2.Order] = {}
        """As the owner's stream told them last."""
        self._seen: dict[str, set[str]] = defaultdict(set)
        """The orders that were told to be in each state, once at least."""
        self._news = asyncio.Event()

    async def all_of_it(self, played: Mapping[str, Scenario]) -> None:
        """One thing after another, while streams tell what happens."""
        async with asyncio.TaskGroup() as group:
            meanwhile = [
                group.create_task(self._follow_in_full()),
                group.create_task(self._follow(self._shop, "BASIC", "the owner's stream in BASIC")),
                group.create_task(self._follow(self._other, "FULL", "another's stream in FULL")),
            ]
            ordered = await self._order(played)
            await self._until(self._much_happened)
            await self._wait(lambda: self._as_declared(ordered) >= MOST * len(ordered))
            ordered |= await self._order_with_talkative_suppliers(played)
            self._accounts = {account_of(product, scenario) for product, scenario in played.items()}
            await self._look_around(list(ordered))
            await self._decide()
            await self._intrude()
            for task in meanwhile:
                task.cancel()

    async def _follow_in_full(self) -> None:
        async for message in self._shop.stream(view=order_pb2.ORDER_VIEW_FULL, start=STREAM_START_SNAPSHOT):
            self._run.full += message.SerializeToString()
            kind = message.WhichOneof("message")
            if kind in ("snapshot", "update"):
                order = getattr(message, kind).order
                self._orders[order.order_id] = order
                self._seen[state(order)].add(order.order_id)
                self._news.set()
                self._news = asyncio.Event()

    async def _follow(self, who: Caller, view: str, name: str) -> None:
        async for message in who.stream(view=f"ORDER_VIEW_{view}", start=STREAM_START_SNAPSHOT):
            self._run.hear(name, message.SerializeToString())

    async def _order(self, played: Mapping[str, Scenario], name: str = "as it comes") -> dict[str, Scenario]:
        """Orders what they say; gives each order's scenario by its id."""

        async def one(product: str, scenario: Scenario) -> tuple[str, Scenario]:
            created = await self._shop.create(
                product,
                f"{product}:{name.replace(' ', '-')}",
                quantity=scenario.quantity,
                recipient=recipient(scenario),
                supplier_parameters=dict(scenario.form),
            )
            order_id: str = created.order.order_id
            if scenario.cancel:
                await self._wait(lambda: self._state(order_id) not in ("", "accepted"))
                request = CancelOrderRequest(order_id=order_id)
                await self._ask(self._shop, self._shop.orders, "CancelOrder", request)
            for control in scenario.after:
                await self._wait(lambda: order_id in self._seen[scenario.after_state])
                await self._run.sandbox.order(product.partition("/")[0], control.action, **control.body)
            return order_id, scenario

        return dict(await asyncio.gather(*(one(product, scenario) for product, scenario in played.items())))

    def _state(self, order_id: str) -> str:
        return state(self._orders[order_id]) if order_id in self._orders else ""

    def _as_declared(self, ordered: Mapping[str, Scenario]) -> int:
        return sum(self._state(order_id) == scenario.expect.state for order_id, scenario in ordered.items())

    def _much_happened(self) -> bool:
        return all(len(self._seen[name]) >= count for name, count in STATES.items())

    async def _order_with_talkative_suppliers(self, played: Mapping[str, Scenario]) -> dict[str, Scenario]:
        """Orders that are refused in words which quote a card and a recipient, as suppliers do."""
        chosen = {}
        for product, scenario in played.items():
            if scenario.expect.state == "fulfilled" and not scenario.expect.alerts:
                chosen[product.partition("/")[0]] = (product, scenario)
        for kind in chosen:
            await self._run.sandbox.order(kind, "answer", call="create", refuse={"code": "", "text": QUOTING})
        refused = await self._order(dict(chosen.values()), "refused")
        await self._wait(lambda: refused.keys() <= self._seen["failed"] | self._seen["needs_review"])
        return refused

    async def _wait(self, holds: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._until(holds)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._news.wait()

    async def _look_around(self, order_ids: Sequence[str]) -> None:
        """Everything that isn't the owner's FULL view."""
        views = ("BASIC", "EXPLAINED", "FULL")
        for who, name, ids, seen in (
            (self._shop, "the owner", order_ids, views[:2]),
            (self._other, "another client", order_ids[::10], views),
            (self._operator, "an operator", order_ids[::3], views[1:]),
        ):
            for view in seen:
                await asyncio.gather(*(self._get(who, f"GetOrder {view} of {name}", each, view) for each in ids))
        orders = self._shop.orders
        await self._ask(self._shop, orders, "ListOrders", ListOrdersRequest(page_size=100))
        updates = ListOrderUpdatesRequest(view=order_pb2.ORDER_VIEW_BASIC, limit=1000)
        await self._ask(self._shop, orders, "ListOrderUpdates", updates)
        await self._ask_office("ListSuppliers")
        for name in self._accounts:
            await self._ask_office("ListCallbacks", supplier=name, page_size=100)
        for kind, shop in shops().items():
            await self._ask_office("ListSupplierProducts", supplier=kind, page=1)
            await self._ask_office("GetSupplierProduct", supplier=kind, product=shop.scenarios[0].product)
            await self._ask_office("PauseSupplier", supplier=kind, reason="a pause", actor="Li")
            await self._ask_office("ResumeSupplier", supplier=kind, reason="go on", actor="Li")
        await self._ask_office("RotateKeys", reason="a rotation", actor="Li")
        await self._ask_office("ListKeys")
        await self._ask_office("ListAuditEntries", page_size=200)

    async def _decide(self) -> None:
        """The operator decides whatever is in review, by every decision in turn, and enters cards by hand."""
        card = {"number": ENTERED, "secret": ENTERED, "link": f"https://{ENTERED}", "qr": {"content": ENTERED}}
        decisions: Sequence[dict[str, Any]] = (
            {"decision": DECISION_DELIVERED, "cards": [card]},
            # More than there are units, which is refused.
            {"decision": DECISION_DELIVERED, "cards": [card] * 30},
            {"decision": DECISION_DELIVERED, "deliver_kept_cards": True},
            {"decision": DECISION_FAIL},
            {"decision": DECISION_BUY_AGAIN},
            {"decision": DECISION_DISMISS},
        )
        listed = await self._ask_office("ListReviews", page_size=100)
        opened = [(review.order_id, item) for review in listed.reviews for item in review.open]
        assert len(opened) >= len(decisions), "too little to decide"
        for place, (order_id, item) in enumerate(opened):
            await self._ask_office(
                "ResolveOrder",
                order_id=order_id,
                purchase_number=item.purchase_number,
                reason="looked into it",
                actor="Li",
                **decisions[place % len(decisions)],
            )
        await self._ask_office("ListReviews", page_size=100)
        await self._ask_office("ListAuditEntries", page_size=100)

    async def _intrude(self) -> None:
        """Keys that nobody has, recipients that are refused, forged callbacks."""
        place = self._run.server.place
        async with caller(place.grpc_port, WRONG_KEY) as stranger:
            await self._get(stranger, "GetOrder with a wrong key", "01M80Z68GYESEBGR9M4VBW37TH", "FULL")
        for product, given in (
            ("dushu/membership", phone(f"{PHONE}-{PHONE}")),
            ("dushu/membership", order_pb2.Recipient(account=ACCOUNT)),
            ("kasushou/card", phone(PHONE)),
        ):
            request = CreateOrderRequest(product_id=product, quantity=1, client_order_id="x", recipient=given)
            await self._ask(self._shop, self._shop.orders, "CreateOrder", request)
        forged = {"out_trade_no": MARK, "usorderno": MARK, "sign": f"{MARK}-forged", "card": MARK}
        posts: Sequence[dict[str, Any]] = ({"data": forged}, {"json": forged}, {"data": MARK.encode()})
        async with aiohttp.ClientSession(f"http://127.0.0.1:{place.http_port}") as session:
            for path in (f"/callbacks/{kind}?card={MARK}" for kind in shops()):
                for post in posts:
                    async with session.post(path, **post) as answer:
                        self._run.hear("answers to forged callbacks", await answer.read())

    async def _get(self, who: Caller, name: str, order_id: str, view: str) -> None:
        request = GetOrderRequest(order_id=order_id, view=order_pb2.OrderView.Value(f"ORDER_VIEW_{view}"))
        await self._ask(who, who.orders, "GetOrder", request, name)

    async def _ask_office(self, rpc: str, **fields: Any) -> Any:
        request = getattr(operator_service_pb2, f"{rpc}Request")(**fields)
        return await self._ask(self._operator, self._office, rpc, request)

    async def _ask(self, who: Caller, stub: Any, rpc: str, request: Message, name: str = "") -> Any:
        """Calls, keeps the answer or the whole error, and returns the answer if there was one."""
        try:
            answer: Message = await getattr(stub, rpc)(request, metadata=who.metadata)
        except AioRpcError as error:
            said = [value for _, value in error.trailing_metadata() or ()]
            self._run.hear(name or rpc, f"{error!r} {error.details()} {error.debug_error_string()}".encode())
            self._run.hear(name or rpc, b" ".join(s.encode() if isinstance(s, str) else s for s in said))
            return None
        self._run.hear(name or rpc, answer.SerializeToString())
        return answer


def phone(number: str) -> order_pb2.Recipient:
    """A telephone."""
    return order_pb2.Recipient(phone=order_pb2.PhoneNumber(area_code="+86", number=number))


def recipient(scenario: Scenario) -> order_pb2.Recipient | None:
    """Who gets it: a canary, unless the product takes none but its own."""
    match scenario.recipient:
        case "phone":
            return phone(PHONE)
        case "qq":
            return order_pb2.Recipient(qq=QQ)
        case "account":
            return order_pb2.Recipient(account=scenario.account_name or ACCOUNT)
        case _:
            return None
