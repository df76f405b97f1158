"""An event loop without a clock and without a network: time leaps to the next thing that happens.

What runs on it belongs to parties, which stand for processes: what a callback, timer or task sets going belongs to the
party that set it going. A party can be frozen, and it can die: then nothing of it ever runs again, no `finally` either.
Which of several parties goes next is drawn from a seed; inside a party the order is that of every event loop.
"""

import asyncio
import contextvars
import heapq
import itertools
import random
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from reward_server.store import StoreError

T = TypeVar("T")

SECONDS_PER_STEP = 2e-6
"""What one callback takes."""


class Stuck(Exception):
    """Nothing is left that could happen."""


class Died(Exception):
    """The party that was asked died before it answered."""


class Party:
    """What one process does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.awake_since = 0.0
        """When it began, or was thawed last."""
        self.died_at = float("inf")
        self.ready: deque[asyncio.Handle] = deque()
        self.tasks: set[asyncio.Task[Any]] = set()
        """Its unfinished tasks. Those of a dead party are kept: were they collected, their `finally` would run."""
        self.waiting: dict[asyncio.Future[Any], Party] = {}
        """Who, of other parties, waits for it."""

    def __repr__(self) -> str:
        return f"<{self.name}>"


class SimLoop(asyncio.AbstractEventLoop):
    """The loop."""

    def __init__(self, chance: random.Random) -> None:
        self.driver = Party("driver")
        """Whatever isn't run for another party."""
        self.steps = 0
        self.failures: list[str] = []
        """What reached the loop's exception handler, by whom."""
        self._chance = chance
        self._now = 0.0
        self._current = self.driver
        self._runnable: list[Party] = []
        self._timers: list[tuple[float, int, Party, asyncio.TimerHandle]] = []
        self._tie = itertools.count()
        self._closed = False
        self._stopping = False

    # --- Parties

    @property
    def current(self) -> Party:
        """Who runs at the moment."""
        return self._current

    def call_soon_in(self, party: Party, callback: Callable[..., object], *args: Any) -> None:
        """Like `call_soon`, for another party."""
        self._push(party, asyncio.Handle(callback, args, self, contextvars.Context()))

    def call_later_in(self, party: Party, delay: float, callback: Callable[..., object], *args: Any) -> None:
        """Like `call_later`, for another party."""
        self._push_timer(party, self._now + delay, callback, args, contextvars.Context())

    async def ask(self, party: Party, work: Callable[[], Awaitable[T]]) -> T:
        """Runs something as a party and waits for it. Raises Died."""
        answer: asyncio.Future[T] = self.create_future()
        asker = self._current

        def hand_over(future: asyncio.Future[T], error: BaseException | None, result: Any) -> None:
            party.waiting.pop(future, None)
            if not future.done():
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)

        async def run() -> None:
            try:
                result = await work()
            except Exception as error:
                self.call_soon_in(asker, hand_over, answer, error, None)
            else:
                self.call_soon_in(asker, hand_over, answer, None, result)

        if not party.alive:
            raise Died(party.name)
        party.waiting[answer] = asker
        self.call_soon_in(party, lambda: self.create_task(run()))
        return await answer

    def freeze(self, party: Party) -> None:
        """Stops it until `thaw`; what becomes due meanwhile runs then."""
        party.frozen = True
        if party in self._runnable:
            self._runnable.remove(party)

    def thaw(self, party: Party) -> None:
        """Lets it go on."""
        party.frozen = False
        party.awake_since = self._now
        if party.alive and party.ready and party not in self._runnable:
            self._runnable.append(party)

    def kill(self, party: Party) -> None:
        """Ends it in the middle of whatever it does."""
        party.alive = False
        party.died_at = self._now
        party.ready.clear()
        if party in self._runnable:
            self._runnable.remove(party)
        for future, asker in party.waiting.items():
            self.call_soon_in(asker, _give_up, future, party.name)
        party.waiting.clear()

    # --- Running

    def run_until_complete(self, future: Awaitable[T]) -> T:  # type: ignore[override]
        """Runs until a coroutine is done."""
        task = asyncio.ensure_future(future, loop=self)
        task.add_done_callback(lambda _: self.stop())
        self.run_forever()
        return task.result()

    def run_forever(self) -> None:
        """Runs until `stop`. Raises Stuck."""
        self._stopping = False
        asyncio._set_running_loop(self)
        try:
            while not self._stopping:
                self._step()
        finally:
            asyncio._set_running_loop(None)
            self._current = self.driver

    def _step(self) -> None:
        runnable = self._runnable
        if not runnable:
            self._leap()
            return
        place = int(self._chance.random() * len(runnable)) if len(runnable) > 1 else 0
        party = runnable[place]
        handle = party.ready.popleft()
        if not party.ready:
            del runnable[place]
        self.steps += 1
        # Who works all the time must not stop the clock.
        self._now += SECONDS_PER_STEP
        if self._timers and self._timers[0][0] <= self._now:
            self._wake()
        if not handle.cancelled():
            self._current = party
            handle._run()
            self._current = self.driver

    def _leap(self) -> None:
        """To the next timer that somebody lives to see."""
        timers = self._timers
        while timers:
            when, _, party, handle = timers[0]
            if party.alive and not handle.cancelled():
                self._now = max(self._now, when)
                self._wake()
                return
            heapq.heappop(timers)
        raise Stuck("nothing is left that could happen")

    def _wake(self) -> None:
        """Timers whose time has come."""
        timers = self._timers
        while timers and timers[0][0] <= self._now:
            _, _, party, handle = heapq.heappop(timers)
            if party.alive and not handle.cancelled():
                self._due(party, handle)

    def _due(self, party: Party, handle: asyncio.Handle) -> None:
        party.ready.append(handle)
        if not party.frozen and party not in self._runnable:
            self._runnable.append(party)

    def _push(self, party: Party, handle: asyncio.Handle) -> None:
        if party.alive and not self._closed:
            self._due(party, handle)

    def stop(self) -> None:
        """Ends `run_forever` after the present callback."""
        self._stopping = True

    def is_running(self) -> bool:
        """Whether it runs."""
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """What comes later goes nowhere: tasks of dead parties are collected now."""
        self._closed = True
        self._timers.clear()
        self._runnable.clear()

    async def shutdown_asyncgens(self) -> None:
        """There is nothing to do."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""

    # --- What every loop can

    def time(self) -> float:
        """Seconds since it began."""
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._push(self._current, handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self._push_timer(self._current, self._now + delay, callback, args, context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self._push_timer(self._current, when, callback, args, context)

    def _push_timer(
        self,
        party: Party,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if party.alive and not self._closed:
            heapq.heappush(self._timers, (when, next(self._tie), party, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is skipped when it is due."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        party = self._current
        party.tasks.add(task)
        task.add_done_callback(party.tasks.discard, context=_NO_CONTEXT)
        return task

    async def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> T:  # type: ignore[override]
        """At once: there is one thread."""
        return func(*args)

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A dead process says nothing."""
        if self._current.alive and not self._closed:
            error = context.get("exception")
            if isinstance(error, StoreError):
                # What its waiter would have been told, had it lived.
                return
            where = traceback.extract_tb(error.__traceback__)[-1] if error is not None and error.__traceback__ else None
            self.failures.append(f"{self._current.name}: {context.get('message')} {error!r} at {where}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)


def _give_up(future: asyncio.Future[Any], name: str) -> None:
    if not future.done():
        future.set_exception(Died(name))


_NO_CONTEXT = contextvars.Context()
