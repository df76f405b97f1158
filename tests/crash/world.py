"""A server that is killed and started again, its suppliers, a client that never gives up, and the judge of them all.

The sandbox and the client live in this process and survive; the server is a process of its own. What the suppliers
sold and were paid stands in the sandbox's books, which the server can't see.
"""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc.aio import insecure_channel

from reward_sandbox import Sandbox, SandboxSettings
from reward_sandbox.scenario import GENUINE
from reward_server import probes
from rewardservice.v1 import order_pb2, reward_service_pb2, reward_service_pb2_grpc
from service.harness import DEV, QUICK, TERMINAL, Caller, Place, State
from service.money import differences, yuan

from . import launch

T = TypeVar("T")

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["reward_server.__main__", "reward_server.app"])
"""Every server is forked from one process that has done the imports and nothing else."""

KINDS = ("kuaiduibao", "kaquan91_card", "kaquan91_recharge", "kasushou", "dushu")
WITHOUT_QUERY = "kuaiduibao"

PHONE = order_pb2.Recipient(phone=order_pb2.PhoneNumber(area_code="+86", number="13800138000"))

OF_DECISIONS = ("decide.", "pause.", "resume.")
POINTS = sorted(point for point in probes.POINTS if not point.startswith(OF_DECISIONS))
"""Those that orders pass without a person."""

ZERO = Decimal(0)

SETTLE_SECONDS = 60.0
"""How long, after the last start, everything may take to come to its end; it takes some ten."""
GIVE_UP_SECONDS = 60.0
"""How long a server may take to reach its crash point."""

REPEAT_SECONDS = 0.5
"""Between two attempts of a callback that must not get lost."""

RETRIED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN})
"""What a call in flight ends with when the server is killed."""


_ports = itertools.count()


def kept_port() -> int:
    """A port that stays ours while the server that is to have it is dead: no other test looks for ports here."""
    while True:
        port = 10_000 + 110 * (os.getpid() % 90) + next(_ports) % 110
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


@dataclass(frozen=True, slots=True)
class Wish:
    """One order that the client wants."""

    product: str
    client_order_id: str
    quantity: int = 1
    cancel: bool = False

    @property
    def kind(self) -> str:
        """The supplier's."""
        return self.product.partition("/")[0]


MIX: tuple[tuple[str, int, bool], ...] = (
    # Product, the most of it in one order, whether it ends only when the client cancels it.
    ("kuaiduibao/card", 2, False),
    ("kuaiduibao/coupon", 1, False),
    ("kuaiduibao/card-late", 1, False),
    ("kuaiduibao/topup", 1, False),
    ("kuaiduibao/callback-first", 1, False),
    ("kaquan91_card/type-1", 3, False),
    ("kaquan91_card/slow", 1, False),
    ("kaquan91_recharge/topup", 1, False),
    ("kaquan91_recharge/late", 1, False),
    ("kaquan91_recharge/cancelled", 1, True),
    ("kasushou/card", 3, False),
    ("kasushou/card-delayed", 1, False),
    ("kasushou/late", 1, False),
    ("kasushou/cut-after", 1, False),
    ("kasushou/error-taken", 1, False),
    ("dushu/membership", 2, False),
    ("dushu/late-answer", 1, False),
    ("dushu/answer-dropped", 1, False),
    ("dushu/busy-once", 1, False),
)
"""At once, later, by callback, too late, with the answer cut or lost, refused though taken: over all five suppliers."""

FEW = (
    Wish("kuaiduibao/card", "few-1", 2),
    Wish("kuaiduibao/card-late", "few-2"),
    Wish("kuaiduibao/topup", "few-3"),
    Wish("kaquan91_card/type-1", "few-4", 3),
    Wish("kaquan91_recharge/topup", "few-5"),
    Wish("kaquan91_recharge/cancelled", "few-6", cancel=True),
    Wish("kasushou/card", "few-7", 2),
    Wish("kasushou/late", "few-8"),
    Wish("dushu/membership", "few-9"),
    Wish("dushu/membership", "few-10", 2),
)
"""The small set for single crash points."""

ONE_EACH = (
    Wish("kuaiduibao/card", "each-1"),
    Wish("kaquan91_card/type-1", "each-2", 3),
    Wish("kaquan91_recharge/topup", "each-3"),
    Wish("kasushou/card", "each-4", 2),
    Wish("dushu/membership", "each-5"),
)
"""One request to buy at every supplier."""


def many(rng: random.Random, count: int, prefix: str) -> list[Wish]:
    """Random wishes; now and then one is cancelled that needn't be."""
    wishes = []
    for n in range(count):
        product, most, cancel = rng.choice(MIX)
        wishes.append(Wish(product, f"{prefix}-{n}", rng.randint(1, most), cancel or rng.random() < 0.05))
    return wishes


class Client(Caller):
    """A caller that finds a restarted server soon."""

    def __init__(self, port: int) -> None:
        options = [
            ("grpc.initial_reconnect_backoff_ms", 50),
            # How long an attempt to connect may take, whatever its name says: a busy machine needs a while.
            ("grpc.min_reconnect_backoff_ms", 5_000),
            ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.channel = insecure_channel(f"127.0.0.1:{port}", options=options)
        self.orders = reward_service_pb2_grpc.RewardServiceStub(self.channel)
        self.metadata = (("authorization", f"Bearer {DEV}"),)

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Calls until the server answers."""
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() not in RETRIED:
                    raise
            await asyncio.sleep(0.05)

    async def first_token(self) -> str:
        """Waits until the server takes calls; while nothing was ordered, the place where the log begins."""
        request = reward_service_pb2.ListOrderUpdatesRequest(limit=1)
        reply = await self.insist(lambda: self.orders.ListOrderUpdates(request, metadata=self.metadata))
        return reply.resume_token


class Follower:
    """Follows all updates of the client and goes on with the last token whenever the stream ends."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._token = ""
        self.seen: list[tuple[str, int]] = []
        self.orders: dict[str, order_pb2.Order] = {}
        self.violations: list[str] = []
        self.news = asyncio.Event()
        self.begun = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        self._token = await self._client.first_token()
        self.begun.set()
        while True:
            try:
                await self._follow()
            except grpc.aio.AioRpcError as error:
                if error.code() not in RETRIED:
                    self.violations.append(f"the stream can't go on: {error.code().name} {error.details()}")
                    self.news.set()
                    return
            await asyncio.sleep(0.05)

    async def _follow(self) -> None:
        inside: set[tuple[str, int]] = set()
        async for message in self._client.stream(start=reward_service_pb2.STREAM_START_AFTER, resume_token=self._token):
            kind = message.WhichOneof("message")
            if kind == "update":
                self._take(message.update.order, inside)
            self._token = getattr(message, kind).resume_token

    def _take(self, order: order_pb2.Order, inside: set[tuple[str, int]]) -> None:
        place = (order.order_id, order.version)
        before = self.orders.get(order.order_id)
        if place in inside:
            self.violations.append(f"{order.client_order_id}: version {order.version} came twice in one stream")
        if order.version != (before.version if before else 0) + 1:
            self.violations.append(
                f"{order.client_order_id}: version {order.version} after {before and before.version}"
            )
        if before and before.state in TERMINAL and order.state != before.state:
            self.violations.append(f"{order.client_order_id}: left {State.Name(before.state)}")
        inside.add(place)
        self.seen.append(place)
        self.orders[order.order_id] = order
        self.news.set()


@dataclass
class Verdict:
    """What the judge found."""

    violations: list[str] = field(default_factory=list)
    kills: int = 0
    caught: int = 0
    """Orders under way when the server was killed, over all kills."""
    orders: int = 0
    states: Counter[str] = field(default_factory=Counter)
    suppliers: Counter[str] = field(default_factory=Counter)
    fulfilled_units: int = 0
    bought_for_them: int = 0
    most_under_one_number: int = 0
    """The most purchases that any supplier booked under one of our numbers."""
    charged: Decimal = ZERO
    """What suppliers took for the delivered purchases of ended orders, where they tell their price (yuan)."""
    told_costs: Decimal = ZERO
    """What those orders say that they cost (yuan)."""

    def add(self, other: "Verdict") -> None:
        """Takes over another's findings."""
        self.violations += other.violations
        self.kills += other.kills
        self.caught += other.caught
        self.orders += other.orders
        self.states += other.states
        self.suppliers += other.suppliers
        self.fulfilled_units += other.fulfilled_units
        self.bought_for_them += other.bought_for_them
        self.most_under_one_number = max(self.most_under_one_number, other.most_under_one_number)
        self.charged += other.charged
        self.told_costs += other.told_costs


class World:
    """One server in a folder of its own, with suppliers and a client of its own. Made by `world`."""

    def __init__(self, place: Place, sandbox: Sandbox) -> None:
        self.place = place
        self.sandbox = sandbox
        self.config = place.write()
        self.client = Client(place.grpc_port)
        self.follower = Follower(self.client)
        self.acknowledged: dict[Wish, str] = {}
        """The order ids that the client was given."""
        self.kills = 0
        self.caught = 0
        """Orders that were under way when the server was killed, over all kills."""
        self.violations: list[str] = []
        self._process: ForkServerProcess | None = None
        self._dead = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wishes: list[Wish] = []
        self.spawn(self.follower.run())

    # --- The server

    async def start(
        self,
        *,
        kill: str = "",
        nth: int = 1,
        after_ms: float = 0.0,
        armed_by: str = "",
        part: str = "",
        later_program: bool = False,
    ) -> None:
        """Starts it, to die at a crash point or in the middle of `nth` requests or answers if told so; doesn't wait
        until it takes calls.
        """
        self._process = PROCESSES.Process(
            target=launch.serve,
            args=(str(self.config), str(self.place.folder / "server.log")),
            kwargs={
                "kill": kill,
                "nth": nth,
                "after_ms": after_ms,
                "armed_by": armed_by,
                "part": part,
                "later_program": later_program,
            },
            daemon=True,
        )
        self._process.start()
        self._dead = asyncio.Event()
        loop, dead, sentinel = asyncio.get_running_loop(), self._dead, self._process.sentinel

        def ended() -> None:
            loop.remove_reader(sentinel)
            dead.set()

        loop.add_reader(sentinel, ended)

    async def died(self, within: float) -> bool:
        """Waits for the server to kill itself; False when the time is over first."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._dead.wait()
                self._process.join()
                code = self._process.exitcode
                self.kills += 1
                self.caught += self._under_way()
                if code != -signal.SIGKILL:
                    self.violations.append(f"the server ended by itself with {code}: {self.last_words()}")
                return True
        return False

    def _under_way(self) -> int:
        return sum(not _at_its_end(order) for order in self.follower.orders.values())

    async def serving(self) -> None:
        """Waits until it takes calls or dies."""
        ended = asyncio.create_task(self._dead.wait())
        answered = asyncio.create_task(self.client.first_token())
        await asyncio.wait({ended, answered}, timeout=GIVE_UP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, answered):
            task.cancel()
        await asyncio.gather(ended, answered, return_exceptions=True)

    async def kill(self) -> None:
        """From outside."""
        assert self._process is not None
        self._process.kill()
        await self.died(GIVE_UP_SECONDS)

    def last_words(self) -> str:
        """The end of the server's log."""
        return (self.place.folder / "server.log").read_text()[-2000:]

    def partial(self) -> list[tuple[int, int]]:
        """How many bytes there were, and of how many, of the requests or answers in whose middle the server died."""
        record = self.place.folder / launch.PARTIAL
        lines = record.read_text().splitlines() if record.exists() else []
        return [(told["had"], told["of"]) for told in map(json.loads, lines)]

    # --- The client

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """In the background, until the world ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.violations.append(f"a call was answered with {error!r}")
            self.follower.news.set()

    def order(self, wishes: Iterable[Wish], *, over: float = 0.0) -> None:
        """Orders, spread over some seconds, however often the server dies meanwhile."""
        wishes = list(wishes)
        self._wishes += wishes
        for n, wish in enumerate(wishes):
            self.spawn(self._want(wish, over * n / len(wishes)))

    async def _want(self, wish: Wish, delay: float) -> None:
        await self.follower.begun.wait()
        await asyncio.sleep(delay)
        order_id = await self._create(wish)
        self.acknowledged[wish] = order_id
        self.follower.news.set()
        if wish.cancel:
            await self._cancel(order_id)

    async def _create(self, wish: Wish) -> str:
        recipient = PHONE if self.takes_phone(wish.product) else None
        created = await self.client.insist(
            lambda: self.client.create(wish.product, wish.client_order_id, quantity=wish.quantity, recipient=recipient)
        )
        known = self.acknowledged.get(wish)
        if known is not None and (known != created.order.order_id or not created.replayed):
            self.violations.append(f"{wish}: {known} became {created.order.order_id}, replayed: {created.replayed}")
        return created.order.order_id

    @staticmethod
    def takes_phone(product: str) -> bool:
        """Whether somebody must be named who gets it."""
        return product.startswith(("kaquan91_recharge/", "dushu/")) or product in {
            "kuaiduibao/topup",
            "kuaiduibao/callback-first",
        }

    async def _cancel(self, order_id: str) -> None:
        try:
            await self.client.insist(lambda: self.client.cancel(order_id))
        except grpc.aio.AioRpcError as error:
            # It may have ended before.
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise

    async def until(self, true: Callable[[], bool], within: float) -> bool:
        """Waits for something that updates, acknowledgements or the suppliers' books bring."""
        deadline = time.monotonic() + within
        while not true():
            if time.monotonic() > deadline or self.violations or self.follower.violations:
                return False
            self.follower.news.clear()
            with contextlib.suppress(TimeoutError):
                # The books of the suppliers have no signal.
                await asyncio.wait_for(self.follower.news.wait(), 0.1)
        return True

    # --- The judge

    @property
    def taken(self) -> int:
        """How many purchases the suppliers have booked."""
        return sum(len(self.sandbox.desk(kind).book.orders) for kind in KINDS)

    def settled(self) -> bool:
        """Whether every wish has become an order that has come to its end, or to a person."""
        orders = self.follower.orders
        return (
            len(self.acknowledged) == len(self._wishes)
            and all(order_id in orders and _at_its_end(orders[order_id]) for order_id in self.acknowledged.values())
            and not self._unheard()
        )

    def _unheard(self) -> list[Any]:
        """Purchases whose supplier can't be asked and whose callback wasn't acknowledged yet."""
        orders = self.sandbox.desk(WITHOUT_QUERY).book.orders
        return [order for order in orders if order.notices and not any(call.accepted for call in order.callbacks)]

    async def _repeat_callbacks(self) -> None:
        """That supplier's own plan of repeats takes hours; here it is more patient and less polite."""
        desk = self.sandbox.desk(WITHOUT_QUERY)
        while True:
            await asyncio.sleep(REPEAT_SECONDS)
            for order in self._unheard():
                await desk.call_back_now(order, GENUINE)

    async def judge(self) -> Verdict:
        """Waits for the end of everything and compares the client's view with the suppliers' books."""
        self.spawn(self._repeat_callbacks())
        if not await self.until(self.settled, SETTLE_SECONDS):
            self.violations.append(f"not settled: {self._unsettled()}")
        found = Verdict(kills=self.kills, caught=self.caught, orders=len(self._wishes))
        try:
            await self._compare(found)
        except grpc.aio.AioRpcError as error:
            self.violations.append(f"the judge's question was answered {error.code().name}: {error.details()}")
        found.violations = [*self.follower.violations, *self.violations]
        return found

    def _unsettled(self) -> list[str]:
        orders = self.follower.orders
        named = {wish: orders.get(self.acknowledged.get(wish, "")) for wish in self._wishes}
        open_ones = [
            f"{wish.client_order_id} {wish.product} {State.Name(order.state) if order else 'never seen'}"
            for wish, order in named.items()
            if order is None or not _at_its_end(order)
        ]
        return [*open_ones, *(f"{order.number} of {order.scenario.name}: not heard" for order in self._unheard())]

    async def _compare(self, found: Verdict) -> None:
        sold: dict[str, list[dict[str, Any]]] = {}
        for kind in KINDS:
            entries = self.sandbox.books(kind)["orders"]
            found.suppliers[kind] += len(entries)
            for entry in entries:
                sold.setdefault(entry["number"], []).append(entry)
        found.most_under_one_number = max(map(len, sold.values()), default=0)
        for wish, order_id in self.acknowledged.items():
            # Asked for once more: the same order, not another one.
            await self._create(wish)
            order = await self.client.get(order_id, "FULL")
            explained = await self.client.get(order_id, "EXPLAINED")
            entries = [entry for purchase in explained.purchases for entry in sold.pop(purchase.number, [])]
            found.states[State.Name(order.state).removeprefix("ORDER_STATE_")] += 1
            self._compare_order(wish, order, explained, entries, found)
        for number in sold:
            self.violations.append(f"a supplier sold under {number}, which no order knows")
        if self.follower.seen != await self._whole_log():
            self.violations.append("what the stream told isn't what the log holds")

    def _compare_order(
        self,
        wish: Wish,
        order: order_pb2.Order,
        explained: order_pb2.Order,
        entries: list[dict[str, Any]],
        found: Verdict,
    ) -> None:
        state = State.Name(order.state).removeprefix("ORDER_STATE_")
        paid = [entry for entry in entries if Decimal(entry["refunded"]) < Decimal(entry["charged"])]
        bought = sum(entry["quantity"] for entry in paid)
        told = self.follower.orders.get(order.order_id, order_pb2.Order())
        who = f"{wish.client_order_id} {wish.product} x {wish.quantity}, {state}"
        due = {"FULFILLED": order.quantity, "PARTIALLY_FULFILLED": order.delivered_quantity}.get(state, 0)
        if state == "FULFILLED":
            found.fulfilled_units += order.quantity
            found.bought_for_them += bought
        if len({entry["number"] for entry in entries}) != len(entries):
            self.violations.append(f"{who}: two purchases under one number")
        if bought > order.quantity:
            self.violations.append(f"{who}: {bought} bought")
        if order.state in TERMINAL and bought != due:
            self.violations.append(f"{who}: {bought} bought, {due} due")
        if (told.state, told.version) != (order.state, order.version):
            self.violations.append(f"{who}: the stream told {State.Name(told.state)}, version {told.version}")
        if order.state not in TERMINAL and any(call["accepted"] for entry in paid for call in entry["callbacks"]):
            self.violations.append(f"{who}: a callback was acknowledged and forgotten")
        if order.state in TERMINAL and not _same_cards(order, paid):
            self.violations.append(f"{who}: the cards shown aren't the cards sold")
        if not explained.purchases:
            self.violations.append(f"{who}: without a purchase")
        if order.state in TERMINAL:
            self.violations += [f"{who}: {wrong}" for wrong in differences(explained, entries)]
            priced = [purchase for purchase in explained.purchases if purchase.HasField("cost")]
            numbers = {purchase.number for purchase in priced if purchase.state == order_pb2.PURCHASE_STATE_DELIVERED}
            found.charged += sum((Decimal(entry["charged"]) for entry in entries if entry["number"] in numbers), ZERO)
            found.told_costs += yuan(explained.total_cost)

    async def _whole_log(self) -> list[tuple[str, int]]:
        entries: list[tuple[str, int]] = []
        after = ""
        while True:
            request = reward_service_pb2.ListOrderUpdatesRequest(after=after, limit=500)
            page = await self.client.orders.ListOrderUpdates(request, metadata=self.client.metadata)
            entries.extend((update.order.order_id, update.order.version) for update in page.updates)
            after = page.resume_token
            if not page.more:
                return entries

    async def end(self) -> None:
        """Ends the server and whoever waits for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._process is not None:
            self._process.kill()
            await self._dead.wait()
            self._process.join()
        await self.client.close()


def _at_its_end(order: order_pb2.Order) -> bool:
    """Terminal; or with a person, where the supplier can't be asked."""
    if order.state == State.ORDER_STATE_NEEDS_REVIEW:
        return order.product_id.startswith(WITHOUT_QUERY)
    return order.state in TERMINAL


def _same_cards(order: order_pb2.Order, paid: list[dict[str, Any]]) -> bool:
    """Whether every card shown was sold for this order, and every card sold is shown."""
    sold = [[value for value in card.values() if value] for entry in paid for card in entry["cards"]]
    shown = [
        [text for text in (card.number, card.secret, card.link, card.qr.content, card.qr.image_url) if text]
        for card in order.cards
    ]
    # Some shops put number and password into one text.
    known = all(any(value in text for card in sold for value in card) for texts in shown for text in texts)
    complete = all(any(value in text for value in card for texts in shown for text in texts) for card in sold)
    return len(sold) == len(shown) and known and complete


@contextlib.asynccontextmanager
async def world(folder: Path, *, products: Iterable[str], **account: float) -> AsyncIterator[World]:
    """A world in an empty folder; the server isn't started yet. `account` holds keys for every supplier account."""
    http_port = kept_port()
    settings = SandboxSettings(
        port=0,
        step_seconds=0.1,
        late_seconds=1.5,
        callback_scale=0.03,
        # The worst of suppliers: what is sent twice is bought twice.
        duplicates="double",
        callback_url=f"http://127.0.0.1:{http_port}/callbacks/{WITHOUT_QUERY}",
    )
    async with Sandbox(settings) as sandbox:
        place = Place(
            folder=folder,
            sandbox_url=sandbox.url,
            grpc_port=kept_port(),
            http_port=http_port,
            account={**QUICK, "max_in_flight": 32, **account},
            accounts={WITHOUT_QUERY: {"settle_by_seconds": 4.0}},
            products=tuple(sorted(set(products))),
            extra=f'[callbacks]\npublic_url = "http://127.0.0.1:{http_port}"\n',
        )
        one = World(place, sandbox)
        try:
            yield one
        finally:
            await one.end()


async def storm(folder: Path, *, seed: int, kills: int, orders_per_kill: int = 12) -> Verdict:
    """Orders over all suppliers while the server is killed again and again; the seed decides everything but timing.

    Half of the kills come from outside at a random time, some of them while it starts; the others when it passes a
    random crash point.
    """
    rng = random.Random(seed)
    async with world(folder, products=[product for product, _, _ in MIX]) as one:
        for n in range(kills):
            wishes = many(rng, orders_per_kill, f"{seed}-{n}")
            point = rng.choice([*([""] * len(POINTS)), *POINTS])
            nth, starts, lifetime = rng.randint(1, 30), rng.random() > 0.1, rng.uniform(0.05, 2.0)
            await one.start(kill=point, nth=nth)
            one.order(wishes, over=lifetime)
            if starts:
                await one.serving()
            if not await one.died(lifetime):
                await one.kill()
        await one.start()
        return await one.judge()
