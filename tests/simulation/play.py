"""One simulation: clients order, suppliers sell, and chance does to all of them what it can.

A seed decides everything.
"""

import asyncio
import contextlib
import gc
import logging
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import structlog

from reward_adapters.contract import Card, CardKind, Recipient, RecipientKind
from reward_sandbox import Sandbox, SandboxSettings
from reward_sandbox.desk import Desk
from reward_sandbox.faults import (
    Call,
    Fault,
    bad_utf8,
    cut,
    drip,
    dropped,
    empty,
    half,
    html,
    late,
    never,
    rate_limited,
)
from reward_sandbox.scenario import GENUINE, Scenario
from reward_server import probes
from reward_server.domain.deciding import Decision, Verdict, open_reviews
from reward_server.domain.order import Order, PurchaseRecord
from reward_server.engine.ordering import OrderRequest
from reward_server.errors import ProductNotOrderable, RewardError, ServerDraining
from reward_server.store import StoreError
from reward_server.store.sqlite import opening
from store.history import History
from store.power import Left

from .disk import Disk, Disks, Leavings
from .judge import at_its_end, judge
from .loop import Died, Party, Stuck
from .network import CALM, NetworkLoop, Weather, patched_aiohttp
from .server import BEGIN, SERVICE, SUPPLIERS, Server, products, scenarios
from .witness import Witness, paid

T = TypeVar("T")

KINDS = ("kuaiduibao", "kaquan91_card", "kaquan91_recharge", "kasushou", "dushu")
CLIENTS = ("shop", "app")

PLAIN = (
    *("kuaiduibao/card", "kuaiduibao/coupon", "kuaiduibao/topup", "kuaiduibao/card-late", "kuaiduibao/callback-first"),
    *("kaquan91_card/type-1", "kaquan91_recharge/topup", "kasushou/card", "kasushou/card-delayed", "dushu/membership"),
)
"""What simply works."""

MENU_WEIGHTS = (45, 35, 15, 5)
"""See `menu`."""

ENDS = frozenset({"fulfilled", "partially_fulfilled", "failed"})

INTENDED = ("create.stored", "intend.stored", "send.begin")
"""Where a process has written down that it will send a purchase, and hasn't."""

MEMORY = Path("/dev/shm")  # noqa: S108 - folders of our own are made inside
"""Files that never reach a disk; any other place does as well."""

CALL_TIMEOUT = 20.0
"""Seconds a client waits before it asks again."""

SECONDS_PER_ORDER = 2.0
"""One order in so many seconds."""

REFUSED_AT_MOST = 20
"""How often a client takes it that a product can't be ordered now."""

LATEST_REQUEST = 120.0
"""Seconds after which nothing of a request is on its way any more: what an operator waits before a decision."""

LONGEST = 15 * 86_400.0
"""Seconds after which everything has come to its end: the longest plan of a supplier takes a week and an hour."""

AFTERMATH = 900.0
"""Seconds that the judge waits then, for what may still be under way."""


class Crashed(BaseException):
    """The process that runs at the moment is no more."""


@dataclass
class Result:
    """What came of one seed."""

    seed: int
    violations: list[str]
    orders: int
    units_fulfilled: int
    units_bought: int
    states: dict[str, int]
    faults: dict[str, int]
    counts: dict[str, int]
    steps: int
    seconds: float
    """Of simulated time."""
    digest: str
    history: History = field(repr=False)


WEATHERS = (
    CALM,
    Weather(latency=0.5),
    Weather(refused=0.3),
    Weather(torn=0.15, latency=0.1),
    Weather(stalled=0.2),
    Weather(lost=0.05, latency=0.2),
    Weather(refused=0.1, torn=0.07, stalled=0.07, lost=0.02, latency=1.0),
)

BAD_ANSWERS: tuple[Callable[[random.Random], Fault], ...] = (
    lambda chance: late(chance.uniform(5.0, 120.0)),
    lambda _: never(),
    lambda _: dropped(),
    lambda chance: cut(chance.randrange(1, 200)),
    lambda chance: html(chance.choice((200, 500, 502, 504))),
    lambda _: empty(),
    lambda chance: half(chance.random()),
    lambda _: bad_utf8(),
    lambda chance: drip(chance.uniform(0.001, 0.5)),
    lambda chance: rate_limited(chance.choice((None, 1, 30))),
)


class Simulation:
    """The world of one seed."""

    def __init__(self, seed: int, orders: int, loop: NetworkLoop, disks: Disks, folder: Path) -> None:
        self.seed = seed
        self.loop = loop
        self.chance = random.Random(f"{seed} chaos")
        self.faults: Counter[str] = Counter()
        self.witness = Witness(loop.time)
        self.acknowledged: dict[str, str] = {}
        """Order ids by client_order_id."""
        self.server: Server | None = None
        """Who takes calls."""
        self.frozen: list[Server] = []
        """Who did, and may think it still does."""
        self.sandbox = Sandbox(
            SandboxSettings(
                host=SUPPLIERS[0],
                port=SUPPLIERS[1],
                callback_url=f"http://{SERVICE[0]}:{SERVICE[1]}/callbacks/kuaiduibao",
                # The worst of suppliers: what is sent twice is bought twice.
                duplicates="double",
                clock=lambda: BEGIN + loop.time(),
                seed=seed,
            )
        )
        self._orders = orders
        self._disks = disks
        self._folder = folder
        self._disk = self._new_disk(Leavings())
        self._suppliers = Party("suppliers")
        self._servers: list[Server] = []
        self._armed: tuple[str, int] | None = None
        """A crash point, and how often it may be passed."""
        self._between = 0
        """Requests whose first byte is due: nobody freezes a process just there, see the guarantees."""
        self._freezing: asyncio.Future[None] | None = None
        """Waits for a process to stand in front of a purchase."""
        self._paused: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Everything, from the first order to the judge."""
        await self.loop.ask(self._suppliers, self.sandbox.start)
        self.witness.watch(self.sandbox, KINDS)
        probes.probe = self._probe
        await self._start()
        over = self._orders * SECONDS_PER_ORDER
        clients = [asyncio.create_task(self._order(n, over)) for n in range(self._orders)]
        await self._chaos(until=over + self.chance.uniform(0.0, 120.0))
        await self._calm_down()
        await asyncio.gather(*clients, *self._tasks)
        for account in sorted(self._paused):
            await self._resume(account)
        await self._until_all_is_told()
        await judge(self.witness, self.acknowledged, self.server, self.loop)

    # --- The service

    def _new_disk(self, left: Leavings) -> Disk:
        disk = Disk(self._folder / str(len(list(self._folder.iterdir()))), left)
        self._disks.add(disk)
        return disk

    async def _start(self) -> None:
        server = Server(self.loop, self._disk, self.witness, f"server {len(self._servers)}", self.chance)
        server.died_in_commit = partial(self._died_in_commit, server)
        self._servers.append(server)
        self.server = server
        try:
            await self.loop.ask(server.party, server.start)
        except Died:
            return
        except StoreError as error:
            self._ended(server, str(error))
            return
        watch = asyncio.create_task(self._watch(server))
        watch.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _watch(self, server: Server) -> None:
        """A process whose disk failed ends by itself."""
        try:
            await self.loop.ask(server.party, server.store.broken.wait)
        except Died:
            return
        self._ended(server, "its disk failed")

    def _ended(self, server: Server, why: str) -> None:
        # Without the path of the file, which is another one in every run.
        self.faults[f"the process ended: {why.rpartition(': ')[2][:60]}"] += 1
        self._die(server, power=False)

    def _die(self, server: Server, *, power: bool) -> None:
        """The process is no more. With it dies who shares the machine, if the power is cut or its files are taken."""
        if not server.party.alive:
            return
        others = [one for one in self.frozen if one.party.alive and one is not server]
        if server in self.frozen:
            self._bury(server, silently=False)
            server.let_go()
            return
        if self._disk.caught is not None:
            files = self._disk.caught
        elif power:
            files = self._disk.after_a_power_cut(self.chance.choice(list(Left)), self.chance)
        else:
            files = self._disk.after_a_crash()
        for one in (*others, server):
            self._bury(one, silently=power)
        self.server = None
        self._disk = self._new_disk(files)

    def _died_in_commit(self, server: Server) -> None:
        """Between the write of a commit and the sync of it: the commit is in the system's memory alone."""
        self.faults["killed between the write and the sync of a commit"] += 1
        self._die(server, power=False)
        raise Crashed

    def _bury(self, server: Server, *, silently: bool) -> None:
        self.loop.kill(server.party)
        self.loop.network.died(server.party, silently=silently)
        for defect in server.defects:
            if "StoreBroken" not in defect:
                self.witness.say(f"a task of {server.party.name} died: {defect}")
        if server in self.frozen:
            self.frozen.remove(server)

    def _probe(self, name: str) -> None:
        """Stands in for the product's own, which does nothing."""
        if name == "exchange.connected":
            self._between += 1
        elif name == "exchange.written":
            self._between = max(0, self._between - 1)
        elif name == "exchange.answered":
            self._read()
        elif name in INTENDED and self._freezing is not None and not self._freezing.done():
            server = self.server
            if server is not None and self.loop.current is server.party and self._may_freeze(server):
                self.loop.freeze(server.party)
                self._freezing.set_result(None)
                self.faults["stood still between an intention and its first byte"] += 1
        if self._armed is None or self.server is None or self.loop.current is not self.server.party:
            return
        point, passes = self._armed
        if point != name:
            return
        if passes > 1:
            self._armed = (point, passes - 1)
            return
        self._armed = None
        self.faults[f"killed at a crash point ({name.partition('.')[0]})"] += 1
        self._die(self.server, power=self.chance.random() < 0.5)
        raise Crashed

    def _read(self) -> None:
        """The probe doesn't tell whose answer it is, but it is called by who has it."""
        task = asyncio.current_task()
        frame: Any = getattr(task and task.get_coro(), "cr_frame", None)
        server = next((one for one in self._servers if one.party is self.loop.current), None)
        if frame is not None and server is not None and server.ready:
            has = frame.f_locals
            if has["self"] in server.place_sides:
                request = has["request"].url.encode() + has["request"].body
                self.witness.read(server.party, request, bytes(has["body"]))

    # --- Clients

    async def _insist(self, call: Callable[[Server], Awaitable[T]]) -> T:
        """Asks until it is answered, whoever dies meanwhile. Raises RewardError for what asking again doesn't mend."""
        refused = 0
        while True:
            server = self.server
            if server is not None and server.ready:
                try:
                    return await asyncio.wait_for(self.loop.ask(server.party, partial(call, server)), CALL_TIMEOUT)
                except (Died, TimeoutError, StoreError):
                    pass
                except (ProductNotOrderable, ServerDraining):
                    refused += 1
                    if refused > REFUSED_AT_MOST:
                        raise
            await asyncio.sleep(self.chance.uniform(0.1, 3.0))

    async def _order(self, n: int, over: float) -> None:
        chance = random.Random(f"{self.seed} order {n}")
        await asyncio.sleep(chance.uniform(0.0, over))
        request = a_request(chance, f"order-{n}")
        order_id = await self._create(request)
        if order_id and chance.random() < 0.15:
            await asyncio.sleep(chance.expovariate(0.5))
            await self._create(request)
        if order_id and chance.random() < 0.1:
            await asyncio.sleep(chance.expovariate(0.3))
            await self._cancel(request.client_id, order_id)

    async def _create(self, request: OrderRequest) -> str:
        try:
            created = await self._insist(lambda server: server.engine.create(request))
        except RewardError as error:
            self.faults[f"not ordered: {type(error).__name__}"] += 1
            return ""
        known = self.acknowledged.setdefault(request.client_order_id, created.order.order_id)
        if known != created.order.order_id:
            self.witness.say(f"{request.client_order_id} is {known} and {created.order.order_id}")
        return created.order.order_id

    async def _cancel(self, client_id: str, order_id: str) -> None:
        async def cancel(server: Server) -> None:
            order = await server.store.order(client_id, order_id)
            if order is None:
                self.witness.say(f"{order_id} was acknowledged and isn't found")
                return
            await server.engine.cancel(order)

        try:
            await self._insist(cancel)
            self.faults["cancelled by the client"] += 1
        except RewardError:
            # It has ended otherwise.
            return

    # --- Operators

    async def _operate(self) -> None:
        """Whoever asks may wait for long: the service may be down."""
        self._keep(self._decide() if self.chance.random() < 0.8 else self._pause())

    async def _decide(self) -> None:
        """An operator who knows the suppliers' books decides about one purchase that nothing else settles."""
        open_ones = [
            (order, review.purchase)
            for order in self.witness.orders.values()
            for review in open_reviews(order)
            if review.keeps_open and self.loop.time() > (review.at / 1000 - BEGIN) + LATEST_REQUEST
        ]
        if not open_ones:
            return
        order, purchase = self.chance.choice(open_ones)
        verdict = self._verdict(order, purchase)
        if verdict is None:
            return
        self.faults[f"an operator decided: {verdict.what}"] += 1
        try:
            await self._insist(lambda server: server.engine.reviews.resolve(order.order_id, purchase.number, verdict))
        except RewardError:
            # It is settled by now, or must wait for its deadline.
            self.faults["a decision was refused"] += 1

    def _verdict(self, order: Order, purchase: PurchaseRecord) -> Verdict | None:
        """What the books say; None while the supplier is still at it."""
        verdict = partial(Verdict, by="operator", reason="so the supplier's books say")
        sales = self.sandbox.desk(order.offers[purchase.offer].account).book.under(purchase.number)
        if not any(paid(sale) for sale in sales):
            again = self.chance.random() < 0.5
            return verdict(decision=Decision.BUY_AGAIN if again else Decision.FAIL)
        [sale] = sales
        if sale.outcome != "delivered" or sale.refunded:
            return None
        if any(card.hidden for card in purchase.cards):
            return verdict(decision=Decision.DELIVERED, kept=True)
        cards = tuple(Card(kind=CardKind.CODE, secret=" ".join(card.values())) for card in sale.cards)
        return verdict(decision=Decision.DELIVERED, cards=() if purchase.cards else cards)

    async def _pause(self) -> None:
        account = self.chance.choice(KINDS)
        self.faults["an operator paused an account"] += 1
        await self._insist(lambda server: server.engine.reviews.pause(account, by="operator", reason="to see"))
        self._paused.add(account)
        self._later(self.chance.uniform(1.0, 100.0), lambda: self._keep(self._resume(account)))

    async def _resume(self, account: str) -> None:
        await self._insist(lambda server: server.engine.reviews.resume(account, by="operator", reason="seen"))
        self._paused.discard(account)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """In the background, and not to be forgotten."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- Chance

    async def _chaos(self, *, until: float) -> None:
        chance = self.chance
        kinds: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (3.0, self._bad_weather),
            (3.0, self._bad_answers),
            (1.5, self._odd_callbacks),
            (1.0, self._crash),
            (1.5, self._arm),
            (1.5, self._freeze),
            (0.5, self._clock_jump),
            (0.5, self._full_disk),
            (0.2, self._failing_disk),
            (0.7, self._catch_a_sync),
            (0.3, self._silent_supplier),
            (0.7, self._operate),
        ]
        weights = [weight * chance.random() for weight, _ in kinds]
        pace = chance.choice((0.02, 0.1, 0.3, 1.0))
        while self.loop.time() < until:
            await asyncio.sleep(chance.expovariate(pace))
            _, act = chance.choices(kinds, weights)[0]
            await act()
            if self.server is None:
                await asyncio.sleep(chance.choice((0.1, 1.0, 10.0, 100.0)) * chance.random())
                await self._start()

    async def _bad_weather(self) -> None:
        self.loop.network.weather = self.chance.choice(WEATHERS)

    async def _bad_answers(self) -> None:
        fault = self.chance.choice(BAD_ANSWERS)(self.chance)
        call: Call = self.chance.choice(("create", "create", "query", "query", "cancel", "token"))
        if self.chance.random() < 0.4:
            fault = fault.unbooked()
        fault = replace(fault, times=self.chance.choice((1, 1, 1, 2, 5)))
        self.sandbox.gate(self.chance.choice(KINDS)).order(call, fault)
        self.faults[f"bad answers to {call} calls"] += 1

    async def _silent_supplier(self) -> None:
        gate = self.sandbox.gate(self.chance.choice(KINDS))
        self.faults["a supplier was down"] += 1
        gate.down = True
        self._later(self.chance.uniform(1.0, 300.0), lambda: setattr(gate, "down", False))

    async def _odd_callbacks(self) -> None:
        desk = self.sandbox.desk(self.chance.choice(KINDS))
        what = self.chance.choice(("twice", "hold", "again", "lie"))
        self.faults[f"callbacks: {what}"] += 1
        if what == "twice":
            desk.callback_order = "twice"
            self._later(self.chance.uniform(1.0, 60.0), lambda: setattr(desk, "callback_order", "now"))
        elif what == "hold":
            desk.callback_order = "hold"
            backwards = self.chance.random() < 0.5
            self._later(self.chance.uniform(1.0, 120.0), lambda: desk.release_callbacks(backwards=backwards))
        elif what == "again":
            # Only what is so: of the supplier without a query a callback is believed.
            told = [order for order in desk.book.orders if order.callbacks]
            if desk.kind == "kuaiduibao":
                told = [order for order in told if order.outcome == "delivered"]
            self._call_back(desk, told, GENUINE)
        else:
            # Its signature is right, and what it says isn't so.
            liar = self.sandbox.desk("kaquan91_recharge")
            self._call_back(liar, [order for order in liar.book.orders if order.outcome == "pending"], "stale-3")

    def _call_back(self, desk: Desk, orders: Sequence[Any], name: str) -> None:
        if orders:
            order = self.chance.choice(orders)
            self.loop.call_soon_in(self._suppliers, lambda: self.loop.create_task(desk.call_back_now(order, name)))

    async def _crash(self) -> None:
        if self.server is not None:
            power = self.chance.random() < 0.5
            self.faults["power cut at a random moment" if power else "killed at a random moment"] += 1
            self._die(self.server, power=power)

    async def _arm(self) -> None:
        self._armed = (self.chance.choice(list(probes.POINTS)), self.chance.randrange(1, 20))

    def _may_freeze(self, server: Server) -> bool:
        """Not between a connection and its first byte, see the guarantees, nor with the database locked."""
        return not self._between and not server.in_transaction

    async def _stand_still(self, server: Server) -> bool:
        """Stops a process at any time, or in front of a purchase whose intention is on disk; False when it died."""
        if self.chance.random() < 0.8:
            self._freezing = self.loop.create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._freezing, 60.0)
            self._freezing = None
        while server.party.alive and not server.party.frozen and not self._may_freeze(server):
            await asyncio.sleep(0.01)
            self._between = max(0, self._between - 1)
        if server.party.alive and self.server is server:
            self.loop.freeze(server.party)
            return True
        self.loop.thaw(server.party)
        return False

    async def _freeze(self) -> None:
        """A process stands still. Somebody may take over, and it may wake up and not know."""
        server = self.server
        if server is None or not server.ready or self.frozen or not await self._stand_still(server):
            return
        taken_over = self.chance.random() < 0.6
        self.faults["frozen, taken over and thawed" if taken_over else "frozen and thawed"] += 1
        if not taken_over:
            await asyncio.sleep(self.chance.choice((1.0, 6.0, 60.0)) * self.chance.random())
            self.loop.thaw(server.party)
            return
        # As long as the lease of a replica that several may share a database with.
        await asyncio.sleep(self.chance.uniform(15.0, 60.0))
        if not server.party.alive or self.server is not server:
            return
        self.frozen.append(server)
        server.alone = False
        await self._start()
        if self.server is not None and self.server is not server:
            self.server.alone = False
        # Long enough for its successor to believe in what looks don't find.
        self._later(
            self.chance.choice((0.0, 60.0, 120.0)) + self.chance.uniform(0.0, 120.0), partial(self._wake, server)
        )

    def _wake(self, server: Server) -> None:
        self.loop.thaw(server.party)
        self._later(self.chance.uniform(0.0, 90.0), partial(self._retire, server))

    def _retire(self, server: Server) -> None:
        """It hears that it isn't needed any more."""
        if server in self.frozen:
            self._die(server, power=False)
            if self.server is not None:
                self.server.alone = True

    async def _clock_jump(self) -> None:
        if self.server is not None:
            self.faults["wall clock jumped"] += 1
            self.server.clock.skew = self.chance.choice((0.0, 0.0, 30.0, -30.0, 7200.0, -7200.0)) * self.chance.random()

    async def _full_disk(self) -> None:
        disk = self._disk
        disk.full = True
        self.faults["disk full for a while"] += 1
        self._later(self.chance.uniform(0.1, 30.0), lambda: setattr(disk, "full", False))

    async def _failing_disk(self) -> None:
        self._disk.failing = True

    async def _catch_a_sync(self) -> None:
        # With two processes on it the other one would go on where this one died.
        self._disk.catching = not self.frozen

    def _later(self, seconds: float, act: Callable[[], object]) -> None:
        self.loop.call_later_in(self.loop.driver, seconds, act)

    # --- The end

    async def _calm_down(self) -> None:
        """Nothing goes wrong any more, and the service was started once more."""
        self.loop.network.weather = CALM
        self._armed = None
        for kind in KINDS:
            gate = self.sandbox.gate(kind)
            self.loop.call_soon_in(self._suppliers, gate.reset)
            self.sandbox.desk(kind).callback_order = "now"
            self.loop.call_soon_in(self._suppliers, lambda kind=kind: self._release(kind))
        while self.frozen:  # noqa: ASYNC110 - the time is the simulation's own
            # Who stands still wakes up first, to what others made of its orders meanwhile.
            await asyncio.sleep(5.0)
        if self.server is not None:
            self._die(self.server, power=False)
        self._disk.full = self._disk.failing = self._disk.catching = False
        await self._start()
        if self.server is None:
            raise Stuck("the service doesn't start any more")

    def _release(self, kind: str) -> None:
        self.sandbox.desk(kind).release_callbacks(backwards=False)

    async def _until_all_is_told(self) -> None:
        """Every order has its end, or a person has to look; what was under way then has arrived."""
        limit = self.loop.time() + LONGEST
        seconds = 5.0
        while open_orders := [one for one in self.witness.orders.values() if not at_its_end(one)]:
            if self.loop.time() > limit:
                for order in open_orders:
                    self.witness.say(f"{order.order_id} {order.product_id} stays {order.state}")
                return
            await asyncio.sleep(seconds)
            seconds = min(1.2 * seconds, 3600.0)
        await asyncio.sleep(AFTERMATH)


@cache
def menu() -> tuple[tuple[str, ...], ...]:
    """Products by how often they are ordered: what simply works, everything that ends soon, cards with several offers,
    and everything. Orders that nothing but a deadline ends take days of looks.
    """
    soon = tuple(name for name, one in scenarios().items() if one.expect.state in ENDS and not one.lapse)
    several = tuple(name for name in products() if name.startswith("several/"))
    return (PLAIN, soon, several, tuple(scenarios()))


def a_request(chance: random.Random, client_order_id: str) -> OrderRequest:
    """A random order."""
    [page] = chance.choices(menu(), MENU_WEIGHTS)
    name = chance.choice(page)
    scenario = scenarios().get(name)
    quantity = max(scenario.quantity if scenario else 1, chance.choice((1, 1, 1, 2, 3)))
    return OrderRequest(
        client_id=chance.choice(CLIENTS),
        client_order_id=client_order_id,
        product_id=name,
        quantity=quantity,
        recipient=a_recipient(scenario) if scenario else None,
        max_unit_price=None,
        supplier_parameters=dict(scenario.form) if scenario else {},
        metadata={},
    )


def a_recipient(scenario: Scenario) -> Recipient | None:
    """Who gets it."""
    match scenario.recipient:
        case "phone":
            return Recipient(RecipientKind.PHONE, "13800138000", "+86")
        case "qq":
            return Recipient(RecipientKind.QQ, "10001000")
        case "account":
            return Recipient(RecipientKind.ACCOUNT, scenario.account_name or "player-one")
        case _:
            return None


@contextmanager
def shared_database() -> Iterator[None]:
    """Lets a second process open the database, as if the lock of one that stands still had expired: what SQLite's store
    refuses is how stores with leases work.
    """
    locking: Any = opening
    before = locking.fcntl
    locking.fcntl = SimpleNamespace(flock=lambda *_: None, LOCK_EX=0, LOCK_NB=0)
    try:
        yield
    finally:
        locking.fcntl = before


def play(seed: int, orders: int, disks: Disks) -> Result:
    """One seed, on a loop of its own."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    random.seed(seed)
    unhooked, before = probes.probe, sys.unraisablehook
    # What else a loop can, nobody here asks for.
    loop = NetworkLoop(random.Random(f"{seed} schedule"))  # type: ignore[abstract]
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=MEMORY if MEMORY.is_dir() else None))
    simulation = Simulation(seed, orders, loop, disks, folder)
    try:
        with patched_aiohttp(), shared_database():
            try:
                # All of it becomes garbage at once, at the end.
                gc.disable()
                loop.run_until_complete(simulation.run())
            except Stuck as stuck:
                simulation.witness.say(f"stuck: {stuck}")
        return result(simulation)
    finally:
        gc.enable()
        probes.probe = unhooked
        loop.close()
        # What dead processes left behind is collected now: nothing of it says or does anything any more.
        sys.unraisablehook = lambda _: None
        server = task = None
        for server in simulation._servers:
            for task in server.party.tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
        del simulation, loop, server, task
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
        sys.unraisablehook = before
        disks.forget()
        shutil.rmtree(folder)


def result(simulation: Simulation) -> Result:
    """What there is to tell of it."""
    witness = simulation.witness
    fulfilled = [order for order in witness.orders.values() if order.state.value == "fulfilled"]
    failures = [f"a callback of the loop failed: {failure}" for failure in simulation.loop.failures]
    return Result(
        seed=simulation.seed,
        violations=witness.violations + failures,
        orders=len(witness.orders),
        units_fulfilled=sum(order.quantity for order in fulfilled),
        units_bought=sum(witness.delivered_units(order) for order in fulfilled),
        states=dict(Counter(str(order.state) for order in witness.orders.values())),
        faults=dict(simulation.faults + simulation.loop.network.faults + _of_disks(simulation)),
        counts=dict(witness.counts),
        steps=simulation.loop.steps,
        seconds=simulation.loop.time(),
        digest=witness.digest,
        history=witness.history,
    )


def _of_disks(simulation: Simulation) -> Counter[str]:
    return sum((server.disk.faults for server in {id(s.disk): s for s in simulation._servers}.values()), Counter())
