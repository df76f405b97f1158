"""Sends callbacks by a supplier's repeat plan until they are answered as that supplier documents."""

from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from reward_sandbox.books import CallbackAttempt, Order
from reward_sandbox.timeline import Timeline

_ANSWER_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Callback:
    """One notice to send."""

    url: str
    body: bytes
    content_type: str
    gaps: tuple[float, ...]
    """Seconds between attempts as documented; one attempt more than gaps."""
    accepts: Callable[[bytes], bool]
    """Whether the body of an HTTP 200 answer is the documented acknowledgement."""
    timeout: float = 30.0
    arrives: Callable[[bytes], bytes] = bytes
    """What becomes of the answer on its way to the supplier."""


class CallbackSender:
    """Delivers callbacks and enters every attempt in the order's books."""

    def __init__(self, *, scale: float, timeline: Timeline, changed: Callable[[], None]) -> None:
        self._scale = scale
        self._changed = changed
        self._timeline = timeline
        self.sending = 0
        """Attempts under way at this moment."""
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, order: Order, callback: Callback) -> CallbackAttempt:
        """Send until acknowledged or the plan is used up; a refused connection counts as an attempt. Returns the last
        one.
        """
        late = 0.0
        gaps = iter(callback.gaps)
        while True:
            attempt = await self._attempt(order, callback)
            self._changed()
            gap = next(gaps, None)
            if attempt.accepted or gap is None:
                return attempt
            late = await self._timeline.sleep(gap * self._scale - late)

    async def _attempt(self, order: Order, callback: Callback) -> CallbackAttempt:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        attempt = CallbackAttempt(self._timeline.now(), callback.url, callback.body.decode())
        order.callbacks.append(attempt)
        self.sending += 1
        try:
            async with self._session.post(
                callback.url,
                data=callback.body,
                headers={"Content-Type": callback.content_type},
                timeout=aiohttp.ClientTimeout(total=callback.timeout),
                allow_redirects=False,
            ) as response:
                answer = await response.content.read(_ANSWER_LIMIT)
        except (aiohttp.ClientError, TimeoutError) as error:
            attempt.answer = f"{type(error).__name__}: {error}"
            return attempt
        finally:
            self.sending -= 1
        attempt.status = response.status
        answer = callback.arrives(answer)
        attempt.answer = answer.decode(errors="replace")
        attempt.accepted = response.status == 200 and callback.accepts(answer)
        return attempt

    async def close(self) -> None:
        """Close the connections; whoever awaits `deliver` is to be cancelled before."""
        if self._session is not None:
            await self._session.close()
            self._session = None
