"""What one replica counts of its clients: calls per second, and open streams. Reloading a configuration keeps counts.

What is counted over all replicas (orders in flight, money) is the store's: it decides in the transaction that stores
the order.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from reward_server.access import Caller
from reward_server.clock import Clock
from reward_server.errors import TooManyCalls, TooManyStreams

STREAM_RETRY_SECONDS = 5.0
"""Streams end when their readers go, not after a time that could be told."""


@dataclass(slots=True)
class _Bucket:
    """Fills by the limit each second, up to a second's worth and at least one call."""

    tokens: float
    at: float


class CallLimits:
    """Counts calls and streams."""

    def __init__(self, monotonic: Callable[[], float] | None = None) -> None:
        self._monotonic = monotonic or Clock().monotonic
        self._buckets: dict[str, _Bucket] = {}
        self._streams: dict[str, int] = {}

    def count_call(self, caller: Caller) -> None:
        """Counts a call. Raises TooManyCalls, which doesn't count."""
        limit = caller.limits.calls_per_second
        if limit is None:
            return
        now, room = self._monotonic(), max(1.0, limit)
        bucket = self._buckets.get(caller.client_id)
        if bucket is None:
            bucket = self._buckets[caller.client_id] = _Bucket(room, now)
        bucket.tokens = min(room, bucket.tokens + (now - bucket.at) * limit)
        bucket.at = now
        if bucket.tokens < 1:
            raise TooManyCalls(caller.client_id, limit, (1 - bucket.tokens) / limit)
        bucket.tokens -= 1

    @contextmanager
    def stream(self, caller: Caller) -> Iterator[None]:
        """Counts a stream while it is open. Raises TooManyStreams."""
        client_id, limit = caller.client_id, caller.limits.open_streams
        # Counted without a limit too: one may be set while it is open.
        count = self._streams.get(client_id, 0)
        if limit is not None and count >= limit:
            raise TooManyStreams(client_id, limit, STREAM_RETRY_SECONDS)
        self._streams[client_id] = count + 1
        try:
            yield
        finally:
            self._streams[client_id] -= 1
            if not self._streams[client_id]:
                del self._streams[client_id]
