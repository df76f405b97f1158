"""A network inside the process: connections between parties whose bytes are late, get lost or are torn apart.

aiohttp's client and server run on it unchanged. Bytes of one direction keep their order, as TCP promises; everything
else is weather. What was on its way when a connection broke may still arrive on the other side, up to `LATEST` later:
"the connection is gone" never means "they didn't get it".
"""

import asyncio
import errno
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp.connector

from .loop import Party, SimLoop

LATEST = 40.0
"""Seconds that bytes may be on their way after their sender knows of nothing. The service believes in "not found" only
60 s after it could last have written: a network that is worse than that keeps nobody's promises."""

CONNECT_GIVE_UP = 130.0
"""When the sender's system gives up on a connection that nobody answers."""


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely what is, per connection made and per bytes handed over."""

    refused: float = 0.0
    """A connection is refused, or nobody answers."""
    torn: float = 0.0
    """The connection breaks with these bytes on the way: they arrive in part, late, or not."""
    stalled: float = 0.0
    """These bytes, and all behind them, come late."""
    lost: float = 0.0
    """The connection goes silent for ever."""
    latency: float = 0.02
    """Seconds, at most; usually a fraction of it."""


CALM = Weather()


class Network:
    """Who listens where, and what the weather is."""

    def __init__(self, loop: SimLoop, chance: random.Random) -> None:
        self.loop = loop
        self.chance = chance
        self.weather = CALM
        self.faults: Counter[str] = Counter()
        self._listeners: dict[tuple[str, int], tuple[Party, Callable[[], Any]]] = {}
        self._ends: list[End] = []

    async def connect(self, address: tuple[str, int]) -> "_Line":
        """A connection that its caller gives a protocol. Raises OSError."""
        await asyncio.sleep(self.latency())
        listener = self._listeners.get(address)
        if listener is not None and self.chance.random() < self.weather.refused:
            if self.chance.random() < 0.3:
                self.faults["nobody answered a connection"] += 1
                await asyncio.sleep(CONNECT_GIVE_UP)
                raise TimeoutError(errno.ETIMEDOUT, "nobody answers")
            self.faults["connection refused"] += 1
            listener = None
        if listener is None or not listener[0].alive:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        return _Line(self, *listener)

    def listen(self, address: tuple[str, int], party: Party, factory: Callable[[], Any]) -> None:
        """Takes connections from now on, in the place of who did before."""
        self._listeners[address] = (party, factory)

    def deafen(self, address: tuple[str, int], factory: Callable[[], Any]) -> None:
        """Takes no more connections there, unless somebody else does by now."""
        if self._listeners.get(address, (None, None))[1] is factory:
            del self._listeners[address]

    def died(self, party: Party, *, silently: bool) -> None:
        """Its connections break; the others hear of it at once unless the whole machine is gone."""
        for end in [end for end in self._ends if end.party is party]:
            self._ends.remove(end)
            if not silently:
                end.peer.breaks(self.latency())

    def latency(self) -> float:
        """Seconds that bytes take."""
        return float(self.weather.latency * self.chance.random() ** 3)

    def open(self, end: "End") -> None:
        """Counts a connection's end."""
        self._ends.append(end)

    def closed(self, end: "End") -> None:
        """Forgets it."""
        if end in self._ends:
            self._ends.remove(end)


class _Line:
    """A connection that was made, in the place of a socket."""

    family = -1
    type = -1

    def __init__(self, network: Network, party: Party, factory: Callable[[], Any]) -> None:
        self._network = network
        self._party = party
        self._factory = factory

    def take(self, protocol: Any) -> "End":
        """Gives both sides their ends."""
        network, loop = self._network, self._network.loop
        near, far = End(network, loop.current), End(network, self._party)
        near.peer, far.peer = far, near
        near.protocol = protocol

        def answer() -> None:
            if far.over:
                return
            far.protocol = self._factory()
            far.protocol.connection_made(far)

        loop.call_soon_in(self._party, answer)
        return near

    def close(self) -> None:
        """Nobody took it."""


class End(asyncio.Transport):
    """One end of a connection."""

    peer: "End"
    protocol: Any = None

    def __init__(self, network: Network, party: Party) -> None:
        super().__init__()
        self._network = network
        self._loop = network.loop
        self.party = party
        self.over = False
        """Whether its protocol was told that nothing comes any more."""
        self._closing = False
        self._silent = False
        self._arrives = 0.0
        """When the last bytes handed over here arrive there."""
        self._paused = False
        self._held: list[bytes] = []
        network.open(self)

    # --- Sending

    def write(self, data: Any) -> None:
        """Hands bytes over to the weather."""
        if self._closing or self.over or not self.party.alive or not data:
            return
        data = bytes(data)
        weather, chance = self._network.weather, self._network.chance
        draw = chance.random()
        if draw < weather.torn:
            self._tear(data)
        elif draw < weather.torn + weather.stalled:
            self._network.faults["bytes came late"] += 1
            self._send(data, chance.uniform(1.0, 90.0))
        elif draw < weather.torn + weather.stalled + weather.lost:
            self._network.faults["a connection went silent"] += 1
            self._silent = self.peer._silent = True
        else:
            self._send(data, self._network.latency())

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(bytes(data) for data in list_of_data))

    def _send(self, data: bytes, delay: float) -> None:
        if self._silent:
            return
        self._arrives = max(self._arrives, self._loop.time() + delay)
        self._loop.call_later_in(self.peer.party, self._arrives - self._loop.time(), self.peer._receive, data)

    def _tear(self, data: bytes) -> None:
        """The connection breaks: this side hears of it soon, the bytes go on, in part, late, or not at all."""
        chance = self._network.chance
        what = chance.choice(("lost", "in part", "whole and late"))
        self._network.faults[f"connection broke, bytes {what}"] += 1
        delay = chance.uniform(0.0, LATEST) if chance.random() < 0.5 else self._network.latency()
        if what != "lost":
            self._send(data if what != "in part" else data[: chance.randrange(len(data) + 1)], delay)
        self.peer.breaks(max(delay, self._arrives - self._loop.time()) + 0.001)
        self._silent = True
        self.breaks(self._network.latency())

    # --- Receiving

    def _receive(self, data: bytes) -> None:
        if self.over or self._closing or self.protocol is None:
            return
        if self._paused:
            self._held.append(data)
        else:
            self.protocol.data_received(data)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        while self._held and not self._paused and not self.over:
            self.protocol.data_received(self._held.pop(0))

    def is_reading(self) -> bool:
        return not self._paused

    # --- Ending

    def breaks(self, delay: float) -> None:
        """Tells this side after a while that the connection is gone."""
        self._loop.call_later_in(self.party, delay, self._end, ConnectionResetError(errno.ECONNRESET, "reset"))

    def close(self) -> None:
        """Nothing is sent any more; the other side reads what is on its way and then the end."""
        if self._closing or self.over:
            return
        self._closing = True
        delay = max(self._arrives - self._loop.time(), 0.0) + self._network.latency()
        if not self._silent and self.party.alive:
            self._loop.call_later_in(self.peer.party, delay, self.peer._end, None)
        self._loop.call_soon_in(self.party, self._end, None)

    def abort(self) -> None:
        self.close()

    def _end(self, error: Exception | None) -> None:
        if self.over:
            return
        self.over = True
        self._network.closed(self)
        if self.protocol is not None:
            # As every loop does: what was read last is understood before its reader hears of the end.
            self._loop.call_soon_in(self.party, self._tell, error, self._closing)
        if not self._closing and not self._silent:
            self._closing = True
            self._loop.call_later_in(self.peer.party, self._network.latency(), self.peer._end, None)

    def _tell(self, error: Exception | None, closed_here: bool) -> None:
        if error is None and not closed_here:
            self.protocol.eof_received()
        self.protocol.connection_lost(error)

    def is_closing(self) -> bool:
        return self._closing or self.over

    # --- What protocols want to know

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def get_protocol(self) -> Any:
        return self.protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False


class _Socket:
    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        return self._address


class _Listener:
    """What `create_server` gives."""

    def __init__(self, network: Network, address: tuple[str, int], factory: Callable[[], Any]) -> None:
        self._network, self._address, self._factory = network, address, factory
        self.sockets = (_Socket(address),)

    def close(self) -> None:
        self._network.deafen(self._address, self._factory)

    async def wait_closed(self) -> None:
        """At once."""


class NetworkLoop(SimLoop):
    """A loop whose connections and servers are the network's."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.network = Network(self, chance)

    async def create_connection(self, protocol_factory: Any, *_: Any, sock: Any = None, **__: Any) -> Any:
        protocol = protocol_factory()
        end = sock.take(protocol)
        protocol.connection_made(end)
        return end, protocol

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        address = (host, port)
        self.network.listen(address, self.current, protocol_factory)
        return _Listener(self.network, address, protocol_factory)


@contextmanager
def patched_aiohttp() -> Iterator[None]:
    """aiohttp makes its sockets by itself and reads the machine's clock: it uses the running loop's instead."""

    async def start_connection(addr_infos: Any, **_: Any) -> Any:
        loop: Any = asyncio.get_running_loop()
        return await loop.network.connect(addr_infos[0][4][:2])

    connector: Any = aiohttp.connector
    before = connector.aiohappyeyeballs.start_connection, connector.monotonic
    connector.aiohappyeyeballs.start_connection = start_connection
    connector.monotonic = lambda: asyncio.get_running_loop().time()
    try:
        yield
    finally:
        connector.aiohappyeyeballs.start_connection, connector.monotonic = before
