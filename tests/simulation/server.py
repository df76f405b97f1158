"""One process of the service inside a simulation: the production engine, adapters, store and callback routes.

Left out is gRPC, whose core brings threads of its own: clients call the engine as the RPC handlers do.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from aiohttp import web

from reward_sandbox.scenario import Scenario
from reward_sandbox.shops import shops
from reward_server.catalogue import Catalogue, Product
from reward_server.clock import Clock
from reward_server.config import Settings, load_settings
from reward_server.domain.ids import IdSource
from reward_server.engine.account import Account, AccountPlan
from reward_server.engine.engine import Engine
from reward_server.engine.exchange import Exchanges
from reward_server.http import callback_app
from reward_server.metrics import Metrics
from reward_server.sealing import MasterKeys, Vault
from reward_server.store.sqlite import SqliteStore, opening
from service.harness import Place

from .disk import NAME, Disk
from .loop import Party
from .network import NetworkLoop
from .witness import Witness

SUPPLIERS = ("10.0.0.1", 80)
SERVICE = ("10.0.0.2", 80)

BEGIN = 1_780_000_000.0
"""The suppliers' wall clock, and the service's as long as it is right, when a simulation begins."""

WORST_COMMIT = 0.05
"""Seconds a commit takes at most; usually a fraction of it."""


class SimClock(Clock):
    """The loop's time; the wall clock may be wrong by `skew` seconds."""

    def __init__(self, loop: NetworkLoop) -> None:
        self.skew = 0.0
        self._loop = loop

    def now_ms(self) -> int:
        return int(1000 * (BEGIN + self._loop.time() + self.skew))

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC)

    def monotonic(self) -> float:
        return self._loop.time()


# --- What is on sale --------------------------------------------------------------------------------------------------


@cache
def settings() -> Settings:
    """The service's configuration as `make run` has it: one account per supplier, one product per scenario."""
    with TemporaryDirectory() as folder:
        place = Place(
            folder=Path(folder),
            sandbox_url=f"http://{SUPPLIERS[0]}:{SUPPLIERS[1]}",
            grpc_port=1,
            http_port=1,
            # Delivered cards are looked at for days; once an hour would be most of the work.
            account={"aftersale_every": 43_200},
            extra=f'[callbacks]\npublic_url = "http://{SERVICE[0]}:{SERVICE[1]}"\n',
        )
        return load_settings(place.write(), {})


FORGETFUL = frozenset(
    {"kasushou/limit-yet-taken", "kasushou/limit-yet-taken-told", "dushu/known-late", "kaquan91_recharge/forgets"}
)
"""A rate limit and a "not found" long after the grace period, both about an order that was taken: the same number is
sent again, which harms only where a supplier sells one number twice."""

GENEROUS = frozenset({"kaquan91_recharge/success-after-failure", "kaquan91_recharge/success-while-asked"})
"""Delivered after the money was paid back: nobody loses by it, and no sum fits."""


@cache
def scenarios() -> dict[str, Scenario]:
    """What suppliers do that promises can be kept against, by product id.

    Left out: what needs other settings than the rest; answers of 100 MB, which take their time; and sites that leave
    nobody a way to know: that buy twice under one number by themselves, execute what they refuse and then deny it, or,
    being the worst of suppliers here, sell a number again that they said they didn't take (`FORGETFUL`); and a proxy
    that writes another number into the books.
    """
    return {
        f"{kind}/{scenario.name}": scenario
        for kind, shop in shops().items()
        for scenario in shop.scenarios
        if f"{kind}/{scenario.name}" not in FORGETFUL | GENEROUS
        and not (scenario.account or scenario.controls or scenario.after or scenario.behaviour.repeated_request)
        and "rewritten" not in scenario.behaviour.extra
        and not any(fault.name == "huge body" for plan in scenario.behaviour.faults.values() for fault in plan)
        and scenario.expect.charges - scenario.expect.refunds <= 1
        and not (scenario.expect.state in ("failed", "cancelled") and scenario.expect.charges > scenario.expect.refunds)
    }


@cache
def products() -> dict[str, Product]:
    """Everything on sale, and cards with several offers, the first of which often doesn't deliver."""
    single = {product.product_id: product for product in settings().products}
    chance = random.Random("offers")
    cards = [
        name
        for name, one in scenarios().items()
        if one.kind == "card" and one.recipient == "none" and one.quantity == 1
    ]
    refusing = [name for name in cards if scenarios()[name].expect.state == "failed"]
    several = {}
    for n in range(200):
        names = [chance.choice(refusing), *chance.sample(cards, 2)]
        offers = tuple(offer for name in names for offer in single[name].offers)
        if len({offer.account for offer in offers}) > 1:
            product_id = f"several/{n}"
            several[product_id] = replace(single[names[0]], product_id=product_id, offers=offers)
    return {**single, **several}


# --- The process ------------------------------------------------------------------------------------------------------


class Server:
    """One process of the service. Everything of it runs as its party."""

    store: SqliteStore
    vault: Vault
    engine: Engine
    place_sides: frozenset[Exchanges]
    """What its purchases are sent through."""

    def __init__(self, loop: NetworkLoop, disk: Disk, witness: Witness, name: str, chance: random.Random) -> None:
        self.party = Party(name)
        self.disk = disk
        self.clock = SimClock(loop)
        self.ready = False
        self.died_in_commit: Callable[[], None] = lambda: None
        """What becomes of it when the disk was told to catch a sync of the log."""
        self.alone = True
        """Whether nobody else writes to its database: else it hears of its commits as they happen, so that the witness
        sees the writes of both in the order in which they count."""
        self.defects: list[str] = []
        self._loop = loop
        self._witness = witness
        self._chance = chance

    async def start(self) -> None:
        """As `App.start` does, without gRPC. Run as the party."""
        self.store = opening.open_sqlite(self.disk.database, commit=self._commit, vfs=NAME)
        # Waiting for a lock would stop the simulation's time: the other side can't let it go meanwhile.
        self.store._writer.set_busy_timeout(0)
        configured = settings()
        store = self._witness.watching(self.store, self.party)
        self.vault = await Vault.unlock(store, MasterKeys({"m": bytes(32)}))
        metrics = Metrics()
        accounts = {
            name: Account(
                AccountPlan(
                    name=name,
                    adapter=account.adapter,
                    traits=account.traits,
                    max_in_flight=account.max_in_flight,
                    answer_patience=account.answer_patience,
                    submit_window=account.submit_window,
                    max_calls_per_second=account.max_calls_per_second,
                    notify_url=f"{configured.callback_url}/{name}",
                ),
                account.supplier,
                store=store,
                sealer=self.vault.system,
                clock=self.clock,
                metrics=metrics,
            )
            for name, account in configured.accounts.items()
        }
        self.place_sides = frozenset(account.place_side for account in accounts.values())
        self.engine = Engine(
            store=store,
            vault=self.vault,
            catalogue=Catalogue(tuple(products().values())),
            accounts=accounts,
            clock=self.clock,
            new_id=IdSource(self.clock.now_ms, self._chance.getrandbits),
            metrics=metrics,
        )
        self.engine.on_failure(lambda error: self.defects.append(repr(error)))
        runner = web.AppRunner(callback_app(self.engine, configured.callbacks.max_body_bytes), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, *SERVICE).start()
        await self.engine.start()
        self.ready = True

    async def _commit(self, commit: Callable[[], None]) -> None:
        """Other things happen while the disk works, before and after it is done."""
        await asyncio.sleep(WORST_COMMIT * self._chance.random() ** 4)
        commit()
        if self.disk.caught is not None:
            self.died_in_commit()
        if self.alone:
            await asyncio.sleep(WORST_COMMIT * self._chance.random() ** 4)

    @property
    def in_transaction(self) -> bool:
        """Whether it holds the database's lock."""
        return bool(self.store._writer.in_transaction)

    def let_go(self) -> None:
        """What the system does with the files of a process that died."""
        for connection in (self.store._reader, self.store._writer):
            connection.close(True)
