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
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil
from google.protobuf import duration_pb2
from grpc.aio import insecure_channel

from ports import free_port
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

SETTLE_SECONDS = 150.0
"""How long, after the last start, everything may take to come to its end; it takes some ten."""
GIVE_UP_SECONDS = 100.0
"""How long a server may take to reach its crash point."""

QUESTIONS_AT_ONCE = 8
"""Of the judge."""

REPEAT_SECONDS = 0.5
"""Between two attempts of a callback that must not get lost."""

RETRIED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN})
"""What a call in flight ends with when the server is killed."""


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


def many(rng: random.Random, count: int, prefix: str, mix: Sequence[tuple[str, int, bool]] = MIX) -> list[Wish]:
    """Random wishes; now and then one is cancelled that needn't be."""
    wishes = []
    for n in range(count):
        product, most, cancel = rng.choice(mix)
        wishes.append(Wish(product, f"{prefix}-{n}", rng.randint(1, most), cancel or rng.random() < 0.05))
    return wishes


class Client(Caller):
    """A caller that finds a restarted server soon; of several servers it takes one after the other."""

    def __init__(self, *ports: int, attempt_seconds: float | None = None) -> None:
        """`attempt_seconds`: how long a call may take that is insisted on before it is made anew, perhaps elsewhere."""
        self._attempt_seconds = attempt_seconds
        options: list[tuple[str, str | int]] = [
            ("grpc.lb_policy_name", "round_robin"),
            ("grpc.initial_reconnect_backoff_ms", 50),
            # How long an attempt to connect may take, whatever its name says: a busy machine needs a while.
            ("grpc.min_reconnect_backoff_ms", 5_000),
            ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.channel = insecure_channel("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports), options=options)
        self.orders = reward_service_pb2_grpc.RewardServiceStub(self.channel)
        self.metadata = (("authorization", f"Bearer {DEV}"),)

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Calls until the server answers."""
        while True:
            try:
                async with asyncio.timeout(self._attempt_seconds):
                    return await call()
            except TimeoutError:
                # That server stands still.
                pass
            except grpc.aio.AioRpcError as error:
                if error.code() not in RETRIED:
                    raise
            await asyncio.sleep(0.05)

    async def log_page(self, after: str, limit: int = 500) -> reward_service_pb2.ListOrderUpdatesResponse:
        """Some of the log."""
        request = reward_service_pb2.ListOrderUpdatesRequest(after=after, limit=limit)
        return await self.orders.ListOrderUpdates(request, metadata=self.metadata)

    async def first_token(self) -> str:
        """Waits until the server takes calls; while nothing was ordered, the place where the log begins."""
        return (await self.insist(lambda: self.log_page("", 1))).resume_token


class Follower:
    """Follows all updates of the client and goes on with the last token whenever the stream ends, at the next server
    if there are several.
    """

    def __init__(
        self, *clients: Client, first: Callable[[], Awaitable[str]] | None = None, patience: float | None = None
    ) -> None:
        """`first` gets the token to begin with; `patience` is how long a server may say nothing, in seconds."""
        self._clients = itertools.cycle(clients)
        self._first = first or clients[0].first_token
        self._patience = patience
        self._token = ""
        self.seen: list[tuple[str, int]] = []
        self.orders: dict[str, order_pb2.Order] = {}
        self.violations: list[str] = []
        self.news = asyncio.Event()
        self.begun = asyncio.Event()
        self.streams = 0
        """How many were opened."""

    async def run(self) -> None:
        """Until cancelled."""
        self._token = await self._first()
        self.begun.set()
        for client in self._clients:
            try:
                await self._follow(client)
            except TimeoutError:
                # That server stands still.
                pass
            except grpc.aio.AioRpcError as error:
                if error.code() not in RETRIED:
                    self.violations.append(f"the stream can't go on: {error.code().name} {error.details()}")
                    self.news.set()
                    return
            await asyncio.sleep(0.05)

    async def _follow(self, client: Client) -> None:
        self.streams += 1
        inside: set[tuple[str, int]] = set()
        fields = {"start": reward_service_pb2.STREAM_START_AFTER, "resume_token": self._token}
        if self._patience is not None:
            fields["heartbeat_interval"] = duration_pb2.Duration(seconds=1)
        call = client.stream(**fields)
        try:
            while True:
                async with asyncio.timeout(self._patience):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return
                kind = message.WhichOneof("message")
                if kind == "update":
                    self._take(message.update.order, inside)
                self._token = getattr(message, kind).resume_token
        finally:
            call.cancel()

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


class Server:
    """One server's process, which dies and is started again."""

    def __init__(self, place: Place, *, by_itself: Callable[[str], None]) -> None:
        """`by_itself` hears of an end that wasn't a SIGKILL."""
        self.place = place
        self.config = place.write()
        self.kills = 0
        self.dead = asyncio.Event()
        self._by_itself = by_itself
        self._process: ForkServerProcess | None = None

    async def start(
        self,
        *,
        kill: str = "",
        stop: str = "",
        nth: int = 1,
        after_ms: float = 0.0,
        armed_by: str = "",
        part: str = "",
        later_program: bool = False,
    ) -> None:
        """Starts it, to die or to stand still at a crash point, or to die in the middle of `nth` requests or answers
        if told so; doesn't wait until it takes calls.
        """
        self._process = PROCESSES.Process(
            target=launch.serve,
            args=(str(self.config), str(self.place.folder / "server.log")),
            kwargs={
                "kill": kill,
                "stop": stop,
                "nth": nth,
                "after_ms": after_ms,
                "armed_by": armed_by,
                "part": part,
                "later_program": later_program,
            },
            daemon=True,
        )
        self._process.start()
        self.dead = asyncio.Event()
        loop, dead, sentinel = asyncio.get_running_loop(), self.dead, self._process.sentinel

        def ended() -> None:
            loop.remove_reader(sentinel)
            dead.set()

        loop.add_reader(sentinel, ended)

    async def died(self, within: float) -> bool:
        """Waits for it to kill itself; False when the time is over first."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self.dead.wait()
                self._process.join()
                code = self._process.exitcode
                self.kills += 1
                if code != -signal.SIGKILL:
                    self._by_itself(f"the server ended by itself with {code}: {self.last_words()}")
                return True
        return False

    async def kill(self) -> None:
        """From outside."""
        assert self._process is not None
        self._process.kill()
        await self.died(GIVE_UP_SECONDS)

    def strike(self) -> None:
        """SIGKILL, without waiting for the end."""
        assert self._process is not None
        self._process.kill()

    @property
    def running(self) -> bool:
        """Whether it was started and lives, standing still or not."""
        return self._process is not None and not self.dead.is_set()

    @property
    def stands_still(self) -> bool:
        """Whether it was frozen, or froze itself."""
        return self._pid is not None and psutil.Process(self._pid).status() == psutil.STATUS_STOPPED

    def freeze(self) -> None:
        """From outside; what it is sent meanwhile waits in its sockets."""
        assert self._pid is not None
        os.kill(self._pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        assert self._pid is not None
        os.kill(self._pid, signal.SIGCONT)

    @property
    def _pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.running else None

    async def end(self) -> None:
        """For good."""
        if self._process is not None:
            self._process.kill()
            await self.dead.wait()
            self._process.join()

    def last_words(self) -> str:
        """The end of its log."""
        return (self.place.folder / "server.log").read_text()[-2000:]


class World:
    """One server in a folder of its own, with suppliers and a client of its own. Made by `world`."""

    def __init__(self, place: Place, sandbox: Sandbox, *, more: Sequence[Place] = ()) -> None:
        """`more` are the places of others that share the server's database."""
        self.place = place
        self.sandbox = sandbox
        self.violations: list[str] = []
        self.servers = [Server(one, by_itself=self.ended_by_itself) for one in (place, *more)]
        self.server = self.servers[0]
        self.acknowledged: dict[Wish, str] = {}
        """The order ids that the client was given."""
        self.settle_seconds = SETTLE_SECONDS
        self.caught = 0
        """Orders that were under way when a server was killed, over all kills."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.wishes: list[Wish] = []
        """What was ordered."""
        self.client, self.followers = self.connect()
        self.follower = self.followers[0]
        for follower in self.followers:
            # Whoever waits for news waits for everybody's.
            follower.news = self.follower.news
            self.spawn(follower.run())

    def connect(self) -> tuple[Client, Sequence[Follower]]:
        """The client that orders, and those who follow."""
        client = Client(self.place.grpc_port)
        return client, [Follower(client)]

    # --- The server

    def ended_by_itself(self, told: str) -> None:
        """It should not have."""
        self.violations.append(told)

    @property
    def kills(self) -> int:
        """How often a server died."""
        return sum(server.kills for server in self.servers)

    async def start(self, **trap: Any) -> None:
        """Starts the server, see `Server.start`."""
        await self.server.start(**trap)

    async def died(self, within: float) -> bool:
        """Waits for the server to kill itself; False when the time is over first."""
        if not await self.server.died(within):
            return False
        self.caught += self.under_way()
        return True

    def under_way(self) -> int:
        """Orders that haven't come to their end, as far as the client knows."""
        return sum(not _at_its_end(order) for order in self.follower.orders.values())

    async def serving(self) -> None:
        """Waits until it takes calls or dies."""
        ended = asyncio.create_task(self.server.dead.wait())
        answered = asyncio.create_task(self.client.first_token())
        await asyncio.wait({ended, answered}, timeout=GIVE_UP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in (ended, answered):
            task.cancel()
        await asyncio.gather(ended, answered, return_exceptions=True)

    async def kill(self) -> None:
        """From outside."""
        await self.server.kill()
        self.caught += self.under_way()

    def last_words(self) -> str:
        """The end of the server's log."""
        return self.server.last_words()

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

    def order(self, wishes: Iterable[Wish], *, over: float = 0.0, by: Client | None = None) -> None:
        """Orders, spread over some seconds, however often the server dies meanwhile; `by` is a client to do so in the
        place of the usual one.
        """
        wishes = list(wishes)
        self.wishes += wishes
        for n, wish in enumerate(wishes):
            self.spawn(self._want(wish, over * n / len(wishes), by or self.client))

    async def _want(self, wish: Wish, delay: float, client: Client) -> None:
        for follower in self.followers:
            await follower.begun.wait()
        await asyncio.sleep(delay)
        order_id = await self._create(wish, client)
        self.acknowledged[wish] = order_id
        self.follower.news.set()
        if wish.cancel:
            await self._cancel(order_id)

    async def _create(self, wish: Wish, client: Client) -> str:
        recipient = PHONE if self.takes_phone(wish.product) else None
        created = await client.insist(
            lambda: client.create(wish.product, wish.client_order_id, quantity=wish.quantity, recipient=recipient)
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
            if time.monotonic() > deadline or self.all_violations():
                return False
            self.follower.news.clear()
            with contextlib.suppress(TimeoutError):
                # The books of the suppliers have no signal.
                await asyncio.wait_for(self.follower.news.wait(), 0.1)
        return True

    def all_violations(self) -> list[str]:
        """What went wrong so far."""
        return [*(wrong for follower in self.followers for wrong in follower.violations), *self.violations]

    # --- The judge

    @property
    def taken(self) -> int:
        """How many purchases the suppliers have booked."""
        return sum(len(self.sandbox.desk(kind).book.orders) for kind in KINDS)

    def settled(self) -> bool:
        """Whether every wish has become an order that has come to its end, or to a person."""
        return (
            len(self.acknowledged) == len(self.wishes)
            and all(
                order_id in follower.orders and _at_its_end(follower.orders[order_id])
                for follower in self.followers
                for order_id in self.acknowledged.values()
            )
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
        if not await self.until(self.settled, self.settle_seconds):
            self.violations.append(f"not settled: {self._unsettled()}")
        found = Verdict(kills=self.kills, caught=self.caught, orders=len(self.wishes))
        try:
            found = await self._compare_in_peace(found)
        except grpc.aio.AioRpcError as error:
            self.violations.append(f"the judge's question was answered {error.code().name}: {error.details()}")
        found.violations += self.all_violations()
        return found

    async def _compare_in_peace(self, found: Verdict) -> Verdict:
        """Evidence may still come for what a person should look at: then everything is compared once more."""
        logged = await self._whole_log()
        while True:
            verdict = Verdict(kills=found.kills, caught=found.caught, orders=found.orders)
            await self._compare(verdict, logged)
            before, logged = logged, await self._whole_log()
            if logged == before or not verdict.violations:
                return verdict

    def _unsettled(self) -> list[str]:
        orders = self.follower.orders
        named = {wish: orders.get(self.acknowledged.get(wish, "")) for wish in self.wishes}
        open_ones = [
            f"{wish.client_order_id} {wish.product} {State.Name(order.state) if order else 'never seen'}"
            for wish, order in named.items()
            if order is None or not _at_its_end(order)
        ]
        return [*open_ones, *(f"{order.number} of {order.scenario.name}: not heard" for order in self._unheard())]

    async def _compare(self, found: Verdict, logged: list[tuple[str, int]]) -> None:
        seen_all = await self.until(lambda: all(len(one.seen) >= len(logged) for one in self.followers), SETTLE_SECONDS)
        if not seen_all or any(one.seen[: len(logged)] != logged for one in self.followers):
            found.violations.append("what a stream told isn't what the log holds")
        turns = asyncio.Semaphore(QUESTIONS_AT_ONCE)

        async def ask(wish: Wish, order_id: str) -> tuple[order_pb2.Order, order_pb2.Order]:
            async with turns:
                # Asked for once more: the same order, not another one.
                await self._create(wish, self.client)
                order = await self.client.insist(lambda: self.client.get(order_id, "FULL"))
                return order, await self.client.insist(lambda: self.client.get(order_id, "EXPLAINED"))

        # An answer that comes only now is one more, and not among those that are judged.
        acknowledged = dict(self.acknowledged)
        answers = await asyncio.gather(*(ask(wish, order_id) for wish, order_id in acknowledged.items()))
        sold: dict[str, list[dict[str, Any]]] = {}
        for kind in KINDS:
            entries = self.sandbox.books(kind)["orders"]
            found.suppliers[kind] += len(entries)
            for entry in entries:
                sold.setdefault(entry["number"], []).append(entry)
        found.most_under_one_number = max(map(len, sold.values()), default=0)
        for wish, (order, explained) in zip(acknowledged, answers, strict=True):
            entries = [entry for purchase in explained.purchases for entry in sold.pop(purchase.number, [])]
            found.states[State.Name(order.state).removeprefix("ORDER_STATE_")] += 1
            self._compare_order(wish, order, explained, entries, found)
        for number in sold:
            found.violations.append(f"a supplier sold under {number}, which no order knows")

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
        who = f"{wish.client_order_id} {wish.product} x {wish.quantity}, {state}"
        due = {"FULFILLED": order.quantity, "PARTIALLY_FULFILLED": order.delivered_quantity}.get(state, 0)
        if state == "FULFILLED":
            found.fulfilled_units += order.quantity
            found.bought_for_them += bought
        if len({entry["number"] for entry in entries}) != len(entries):
            found.violations.append(f"{who}: two purchases under one number")
        if bought > order.quantity:
            found.violations.append(f"{who}: {bought} bought")
        if order.state in TERMINAL and bought != due:
            found.violations.append(f"{who}: {bought} bought, {due} due")
        for told in (follower.orders.get(order.order_id, order_pb2.Order()) for follower in self.followers):
            if (told.state, told.version) != (order.state, order.version):
                found.violations.append(f"{who}: the stream told {State.Name(told.state)}, version {told.version}")
            elif list(told.cards) != list(order.cards):
                found.violations.append(f"{who}: the stream told other cards")
        if order.state == State.ORDER_STATE_NEEDS_REVIEW and not order.review_reasons:
            found.violations.append(f"{who}: without a reason")
        if order.state not in TERMINAL and any(call["accepted"] for entry in paid for call in entry["callbacks"]):
            found.violations.append(f"{who}: a callback was acknowledged and forgotten")
        if order.state in TERMINAL and not _same_cards(order, paid):
            found.violations.append(f"{who}: the cards shown aren't the cards sold")
        if not explained.purchases:
            found.violations.append(f"{who}: without a purchase")
        if order.state in TERMINAL:
            found.violations += [f"{who}: {wrong}" for wrong in differences(explained, entries)]
            priced = [purchase for purchase in explained.purchases if purchase.HasField("cost")]
            numbers = {purchase.number for purchase in priced if purchase.state == order_pb2.PURCHASE_STATE_DELIVERED}
            found.charged += sum((Decimal(entry["charged"]) for entry in entries if entry["number"] in numbers), ZERO)
            found.told_costs += yuan(explained.total_cost)

    async def _whole_log(self) -> list[tuple[str, int]]:
        return await self.log_at(self.client)

    async def log_at(self, client: Client) -> list[tuple[str, int]]:
        """Order and version of everything in the log, as this client is told."""
        entries: list[tuple[str, int]] = []
        after = ""
        while True:
            page = await client.insist(partial(client.log_page, after))
            entries.extend((update.order.order_id, update.order.version) for update in page.updates)
            after = page.resume_token
            if not page.more:
                return entries

    async def end(self) -> None:
        """Ends the servers and whoever waits for them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self.servers:
            await server.end()
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


def suppliers(callback_port: int) -> SandboxSettings:
    """How the suppliers behave, and where they call back."""
    return SandboxSettings(
        port=0,
        step_seconds=0.1,
        late_seconds=1.5,
        callback_scale=0.03,
        # The worst of suppliers: what is sent twice is bought twice.
        duplicates="double",
        callback_url=f"http://127.0.0.1:{callback_port}/callbacks/{WITHOUT_QUERY}",
    )


@contextlib.asynccontextmanager
async def world(folder: Path, *, products: Iterable[str], store: str = "", **account: float) -> AsyncIterator[World]:
    """A world in an empty folder; the server isn't started yet. `store` are the lines of `[store]`, none = a SQLite
    file; `account` holds keys for every supplier account.
    """
    http_port = free_port()
    async with Sandbox(suppliers(http_port)) as sandbox:
        place = Place(
            folder=folder,
            sandbox_url=sandbox.url,
            grpc_port=free_port(),
            http_port=http_port,
            account={**QUICK, "max_in_flight": 32, **account},
            accounts={WITHOUT_QUERY: {"settle_by_seconds": 4.0}},
            products=tuple(sorted(set(products))),
            store=store,
            extra=f'[callbacks]\npublic_url = "http://127.0.0.1:{http_port}"\n',
        )
        one = World(place, sandbox)
        try:
            yield one
        finally:
            await one.end()


async def storm(folder: Path, *, seed: int, kills: int, orders_per_kill: int = 12, store: str = "") -> Verdict:
    """Orders over all suppliers while the server is killed again and again; the seed decides everything but timing.

    Half of the kills come from outside at a random time, some of them while it starts; the others when it passes a
    random crash point.
    """
    rng = random.Random(seed)
    async with world(folder, products=[product for product, _, _ in MIX], store=store) as one:
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
