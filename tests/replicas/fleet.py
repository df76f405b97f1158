"""Several replicas on one PostgreSQL, which die, stand still and lose their database; the suppliers call back to any of
them, the client orders at any, and whoever follows goes to the next one when theirs is gone.
"""

import asyncio
import contextlib
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from crash.stores import shared_store
from crash.world import (
    GIVE_UP_SECONDS,
    MIX,
    WITHOUT_QUERY,
    Client,
    Follower,
    Server,
    Verdict,
    World,
    many,
    suppliers,
)
from ports import free_port
from postgres_server import Cluster
from reward_sandbox import Sandbox
from reward_server.store.postgres import migrate_postgres
from service.harness import QUICK, Place

from .relay import relay

REPLICAS = 3

WELL = (("dushu/membership", 2, False), ("kasushou/card", 3, False))
STEADY = (*MIX, *5 * WELL)
"""With so many orders at once, suppliers that fail as often as those of the small storms would mostly rest."""

SETTLE_SECONDS = 150.0
"""A supplier that failed ten times in a row rests for half a minute, and then one order is tried."""

LEASE_SECONDS = 2.0
SUBMIT_WINDOW = 1.0
"""Seconds, like the lease: what is left behind is settled some three seconds later."""

ATTEMPT_SECONDS = 4.0
"""After this the client turns to another replica."""
PATIENCE = 3.0
"""After so many seconds without even a heartbeat, of which there is one a second, a follower turns to another."""

DATABASE_AWAY = ("is it running, and is store.url right?", "the database can't be used")
"""What a replica says that ends because there is no database when it starts; whoever supervises starts it again."""


class Fleet(World):
    """Made by `fleet`."""

    def __init__(self, places: Sequence[Place], sandbox: Sandbox) -> None:
        self.turned_away = 0
        """How often a replica found no database when it was started."""
        self._singles = [Client(place.grpc_port, attempt_seconds=ATTEMPT_SECONDS) for place in places]
        super().__init__(places[0], sandbox, more=places[1:])

    def connect(self) -> tuple[Client, Sequence[Follower]]:
        """One client that orders everywhere in turn, and a follower that begins at each replica."""
        client = Client(*(server.place.grpc_port for server in self.servers), attempt_seconds=ATTEMPT_SECONDS)
        followers = [
            Follower(*self._singles[first:], *self._singles[:first], first=client.first_token, patience=PATIENCE)
            for first in range(len(self._singles))
        ]
        return client, followers

    def at(self, place: int) -> Client:
        """The client at one replica alone."""
        return self._singles[place]

    def ended_by_itself(self, told: str) -> None:
        """Right only where there was no database when it started, which is the last that it says."""
        last = told.splitlines()[-1]
        if last.startswith("reward-server: ") and any(words in last for words in DATABASE_AWAY):
            self.turned_away += 1
        else:
            super().ended_by_itself(told)

    async def metric(self, place: int, name: str) -> float:
        """A figure of one replica, by its name and labels as they are exposed; 0 where there is none yet."""
        url = f"http://127.0.0.1:{self.servers[place].place.http_port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            lines = (await response.text()).splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)

    async def _whole_log(self) -> list[tuple[str, int]]:
        """From every replica: there is one log."""
        logs = [await self.log_at(client) for client in self._singles]
        longest = max(logs, key=len)
        if any(log != longest for log in logs):
            # Right only if an update came between two of the questions.
            again = [await self.log_at(client) for client in self._singles]
            begin_alike = all(log == longest[: len(log)] for log in logs)
            if not begin_alike or any(log[: len(longest)] != longest for log in again):
                self.violations.append("replicas tell different logs")
        return longest

    async def end(self) -> None:
        """Ends the replicas and whoever waits for them."""
        await super().end()
        for client in self._singles:
            await client.close()


@contextlib.asynccontextmanager
async def fleet(
    folder: Path, *, stores: Sequence[str], products: Iterable[str], **account: float
) -> AsyncIterator[Fleet]:
    """As many replicas as `stores`, which are the lines of `[store]` of each; none is started yet. `account` holds keys
    for every supplier account.
    """
    http_ports = [free_port() for _ in stores]
    async with relay(*http_ports) as callbacks, Sandbox(suppliers(callbacks.port)) as sandbox:
        places: list[Place] = []
        for number, (store, http_port) in enumerate(zip(stores, http_ports, strict=True)):
            home = folder / f"replica-{number}"
            home.mkdir()
            if places:
                shutil.copy(places[0].folder / "master.key", home)
            place = Place(
                folder=home,
                sandbox_url=sandbox.url,
                grpc_port=free_port(),
                http_port=http_port,
                account={**QUICK, "max_in_flight": 32, "submit_window": SUBMIT_WINDOW, **account},
                accounts={WITHOUT_QUERY: {"settle_by_seconds": 4.0}},
                products=tuple(sorted(set(products))),
                store=store,
                extra=f'[callbacks]\npublic_url = "http://127.0.0.1:{callbacks.port}"\n',
            )
            # The first one's makes the key that all have.
            place.write()
            places.append(place)
        one = Fleet(places, sandbox)
        try:
            yield one
        finally:
            await one.end()


# --- Chaos


@dataclass
class Chaos:
    """Kills and freezes replicas at random, and restarts their database; a seed decides what comes when and to whom."""

    fleet: Fleet
    cluster: Cluster
    rng: random.Random
    done: Counter[str] = field(default_factory=Counter)
    _busy: set[int] = field(default_factory=set)
    """Replicas that something happens to."""
    _spare: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(REPLICAS - 1))

    async def run(self, *, faults: int, restarts: int, over: float) -> None:
        """All of it, spread over some seconds. In the end every replica serves."""
        names = [self.rng.choice(("kill", "freeze")) for _ in range(faults)]
        for n in range(restarts):
            names.insert((n + 1) * len(names) // (restarts + 1), ("crash", "restart")[n % 2])
        for server in self.fleet.servers:
            self.fleet.spawn(self._supervise(server))
        gap = over / len(names)
        faulty = []
        for name in names:
            await asyncio.sleep(self.rng.uniform(0.5, 1.5) * gap)
            self.done[name] += 1
            if name in ("crash", "restart"):
                await self._restart_database(name)
            else:
                faulty.append(asyncio.create_task(self._strike(name, await self._victim())))
        await asyncio.gather(*faulty)

    async def _supervise(self, server: Server) -> None:
        """Starts a replica again whenever it has ended."""
        while True:
            await server.dead.wait()
            await server.died(GIVE_UP_SECONDS)
            await asyncio.sleep(self.rng.uniform(0.0, 1.0))
            await server.start()

    async def _victim(self) -> int:
        """A replica that nothing happens to; one more of those stays."""
        await self._spare.acquire()
        place = self.rng.choice([place for place in range(len(self.fleet.servers)) if place not in self._busy])
        self._busy.add(place)
        return place

    async def _strike(self, name: str, place: int) -> None:
        server = self.fleet.servers[place]
        # It may be about to start again, since there was no database a moment ago.
        await self.fleet.at(place).first_token()
        self.fleet.caught += self.fleet.under_way()
        if name == "kill":
            server.strike()
        else:
            server.freeze()
            await asyncio.sleep(self.rng.uniform(1.2, 2.0) * LEASE_SECONDS)
            if server.running:
                server.thaw()
        await self.fleet.at(place).first_token()
        self._busy.discard(place)
        self._spare.release()

    async def _restart_database(self, name: str) -> None:
        await asyncio.to_thread(self.cluster.stop if name == "restart" else self.cluster.kill)
        await asyncio.sleep(self.rng.uniform(0.0, 1.5))
        await asyncio.to_thread(self.cluster.start)


@dataclass
class Findings:
    """What a storm was, and what the judge found."""

    verdict: Verdict
    done: Counter[str]
    streams: int
    """That the followers opened."""
    turned_away: int
    updates: int


async def storm(
    folder: Path, cluster: Cluster, *, seed: int, orders: int, faults: int, restarts: int, over: float
) -> Findings:
    """Orders over all suppliers, at all replicas, while these are killed and frozen and their database is restarted."""
    rng = random.Random(seed)
    dsn = await asyncio.to_thread(cluster.create_database, f"storm_{seed}")
    await migrate_postgres(dsn)
    stores = [shared_store(dsn, lease_seconds=LEASE_SECONDS)] * REPLICAS
    async with fleet(folder, stores=stores, products=[product for product, _, _ in MIX]) as one:
        for server in one.servers:
            await server.start()
        await asyncio.gather(*(one.at(place).first_token() for place in range(REPLICAS)))
        one.order(many(rng, orders, str(seed), STEADY), over=over)
        one.settle_seconds = SETTLE_SECONDS
        chaos = Chaos(one, cluster, rng)
        await chaos.run(faults=faults, restarts=restarts, over=over)
        verdict = await one.judge()
        streams = sum(follower.streams for follower in one.followers)
        return Findings(verdict, chaos.done, streams, one.turned_away, len(one.follower.seen))
