"""Who may knock at the callback routes: where a request comes from, how often, and for which account."""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

BURST_SECONDS = 5.0
"""A source that was quiet may knock as often at once as it may in so long."""
KNOWN_SOURCES = 10_000
"""The one not heard of for longest is forgotten beyond this: some 3 MB at most."""
IPV6_PREFIX = 64
"""What one customer gets at the least: who has one IPv6 address has all of these."""


class Refusal(StrEnum):
    """Why a callback was refused; for the operator only."""

    TOO_MANY = "too_many"
    """The source knocks more often than `callbacks.max_per_second_per_source`."""
    NO_ROUTE = "no_route"
    """Not a callback path, or not a POST."""
    UNKNOWN_ACCOUNT = "unknown_account"
    FOREIGN_NETWORK = "foreign_network"
    """The source is in none of the account's `callback_networks`."""
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    """The body didn't come in time."""
    BROKEN_OFF = "broken_off"
    NOT_GENUINE = "not_genuine"
    """Badly signed or not readable, or the supplier sends no callbacks."""
    DEFECT = "defect"
    """It was dealt with in a way that nobody thought of; the log has the traceback."""


def source_of(peer: str | None, forwarded: Sequence[str], trusted: Collection[Network]) -> Address | None:
    """The address that a request comes from; None when it can't be told.

    `peer`: the other end of the connection. `forwarded`: the values of `X-Forwarded-For` in their order. They count
    only as far as proxies in `trusted` wrote them: the last hop that isn't one of these is the source.
    """
    source = _address(peer or "")
    hops = [hop for value in forwarded for hop in value.split(",")]
    while source is not None and hops and _inside(source, trusted):
        source = _address(hops.pop())
    return source


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    # The two spellings of one IPv4 address are one source.
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def _inside(address: Address, networks: Collection[Network]) -> bool:
    return any(address in network for network in networks)


@dataclass(slots=True)
class _Bucket:
    """What one source has left."""

    tokens: float
    at: float
    empty: bool = False


class Guard:
    """Decides about a request before its body is read. Belongs to one event loop."""

    def __init__(
        self,
        *,
        networks: Mapping[str, Collection[Network]],
        trusted_proxies: Collection[Network] = (),
        max_per_second: float,
        now: Callable[[], float],
    ) -> None:
        """`networks`: every account and where its callbacks may come from; none named: from anywhere.

        `now`: a clock in seconds that never goes back.
        """
        self._networks = networks
        self._trusted = trusted_proxies
        self._rate = max_per_second
        self._most = max(1.0, max_per_second * BURST_SECONDS)
        self._now = now
        self._buckets: OrderedDict[Address | None, _Bucket] = OrderedDict()

    def source(self, peer: str | None, forwarded: Sequence[str]) -> Address | None:
        """Where a request comes from."""
        return source_of(peer, forwarded, self._trusted)

    def knows(self, account: str) -> bool:
        """Whether there is such an account."""
        return account in self._networks

    def too_many(self, source: Address | None) -> bool:
        """Counts a request of the source, and says whether it is one too many."""
        bucket = self._bucket(source)
        bucket.empty = bucket.tokens < 1
        if not bucket.empty:
            bucket.tokens -= 1
        return bucket.empty

    def was_empty(self, source: Address | None) -> bool:
        """Whether the source's last request was one too many already: for a log that says so once."""
        bucket = self._buckets.get(_counted(source))
        return bucket is not None and bucket.empty

    def foreign(self, account: str, source: Address | None) -> bool:
        """Whether the account's callbacks may not come from there. What can't be told is foreign."""
        networks = self._networks[account]
        return bool(networks) and (source is None or not _inside(source, networks))

    def _bucket(self, source: Address | None) -> _Bucket:
        key, now = _counted(source), self._now()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._most, now)
            if len(self._buckets) > KNOWN_SOURCES:
                self._buckets.popitem(last=False)
            return bucket
        self._buckets.move_to_end(key)
        bucket.tokens = min(self._most, bucket.tokens + self._rate * (now - bucket.at))
        bucket.at = now
        return bucket


def _counted(source: Address | None) -> Address | None:
    """What sources are counted by."""
    if isinstance(source, ipaddress.IPv6Address):
        return ipaddress.IPv6Network((source, IPV6_PREFIX), strict=False).network_address
    return source
