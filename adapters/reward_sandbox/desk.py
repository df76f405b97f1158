"""What all five suppliers do alike once they understood a request: sell, follow the course, answer or not."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal, Protocol

from aiohttp import web

from reward_sandbox.books import Book, Order
from reward_sandbox.callbacks import Callback, CallbackSender
from reward_sandbox.gate import Gate
from reward_sandbox.mint import Mint, Press
from reward_sandbox.scenario import Answer, Scenario, Stage
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.tokens import Tokens

Notify = Callable[[Order], Callback | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a create call ends."""

    response: web.Response
    number: str = ""
    """Our number, once the request proved to be genuine."""
    refusal: str = ""
    order: Order | None = None


class Supplier(Protocol):
    """One supplier's file: its routes under `/{kind}/` and how the server is configured for it."""

    @property
    def desk(self) -> "Desk": ...

    def routes(self) -> Sequence[web.RouteDef]: ...


class Desk:
    """One supplier's shop: books, tokens, faults, running courses. `notify` makes the callback for an order's stage."""

    def __init__(
        self, kind: str, scenarios: Sequence[Scenario], settings: SandboxSettings, notify: Notify | None = None
    ) -> None:
        self.kind = kind
        self.settings = settings
        self.clock = settings.clock
        self.scenarios = {scenario.product: scenario for scenario in scenarios}
        self.book = Book(balance=settings.balance, mint=Mint(settings.seed, kind), clock=settings.clock)
        self.tokens = Tokens(lifetime=settings.token_seconds, clock=settings.clock)
        self.gate = Gate()
        self.on_change: Callable[[], None] = lambda: None
        """Called after everything that `as_state` would show."""
        self._notify = notify
        self._callbacks = CallbackSender(scale=settings.callback_scale, clock=settings.clock, changed=self._changed)
        self._courses: set[asyncio.Task[None]] = set()

    async def place(self, request: web.Request, decide: Callable[[bytes], Verdict]) -> web.StreamResponse:
        """Run one create call: read, decide, book, and answer as the scenario and the gate say."""
        body = await request.read()
        if self.gate.drops("before"):
            return hang_up(request)
        verdict = decide(body)
        if verdict.number:
            self.book.requests[verdict.number] += 1
        if verdict.refusal:
            self.book.refuse(verdict.number, verdict.refusal)
        self.on_change()
        if self.gate.drops("after"):
            if verdict.order:
                verdict.order.answering = False
            return hang_up(request)
        return await self._answer(verdict)

    async def _answer(self, verdict: Verdict) -> web.Response:
        order = verdict.order
        try:
            await self.gate.pass_out()
            if order and order.scenario.behaviour.answer is Answer.LATE:
                await asyncio.sleep(self.settings.late_seconds)
            elif order and order.scenario.behaviour.answer is Answer.NEVER:
                await asyncio.Event().wait()
            if order:
                order.answered_at = self.clock()
        finally:
            if order:
                order.answering = False
        return verdict.response

    def shortage(self, scenario: Scenario, quantity: int, total: Decimal) -> Literal["stock", "balance"] | None:
        """What keeps the supplier from selling, if anything."""
        if self.book.stock(scenario) < quantity:
            return "stock"
        if self.book.balance < total:
            return "balance"
        return None

    def repeated(self, number: str) -> Order | None:
        """The order already bought under this number, unless the sandbox is told to buy again."""
        orders = self.book.under(number)
        return orders[-1] if orders and self.settings.duplicates != "double" else None

    def sell(
        self,
        scenario: Scenario,
        *,
        number: str,
        quantity: int,
        recipient: str,
        charged: Decimal,
        name_order: Callable[[Press], str],
        name_card: Callable[[Press], str] | None = None,
        details: dict[str, str] | None = None,
    ) -> Order:
        """Book the order and set its course going."""
        order = self.book.buy(
            scenario,
            number=number,
            quantity=quantity,
            recipient=recipient,
            charged=charged,
            name_order=name_order,
            name_card=name_card,
            details=details,
        )
        self.enter(order, order.stage)
        if len(scenario.behaviour.stages) > 1:
            self._spawn(self._follow(order))
        return order

    async def _follow(self, order: Order, begin: int = 0) -> None:
        for stage, following in pairwise(order.scenario.behaviour.stages[begin:]):
            await asyncio.sleep(stage.steps * self.settings.step_seconds)
            if order.looks < stage.looks:
                order.seen = asyncio.get_running_loop().create_future()
                await order.seen
            if order.closed:
                return
            self.enter(order, following)

    def enter(self, order: Order, stage: Stage) -> None:
        """Move an order and send the callback that belongs to the stage."""
        self.book.enter(order, stage)
        if stage.notify:
            self._send_callback(order)
        self.on_change()

    def _changed(self) -> None:
        self.on_change()

    def _send_callback(self, order: Order) -> None:
        callback = self._notify(order) if self._notify else None
        if callback:
            order.notices += 1
            self._spawn(self._deliver(order, callback))

    async def _deliver(self, order: Order, callback: Callback) -> None:
        await self._callbacks.deliver(order, callback)
        order.notices -= 1
        self.on_change()

    def end(self, order: Order, stage: Stage) -> None:
        """Leave the scenario's course for a last stage: the order was cancelled or confirmed."""
        order.closed = True
        if order.seen and not order.seen.done():
            order.seen.set_result(None)
        self.enter(order, stage)

    def look(self, order: Order) -> None:
        """A query has seen the order."""
        order.looks += 1
        self.on_change()
        if order.seen and not order.seen.done() and order.looks >= order.stage.looks:
            order.seen.set_result(None)

    def _spawn(self, course: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(course)
        self._courses.add(task)
        task.add_done_callback(self._courses.discard)

    async def reset(self) -> None:
        """Empty books, no faults, no running courses or callbacks; tokens stay good."""
        await self._end_courses()
        self.gate.reset()
        self.book.reset()
        self.on_change()

    def as_state(self) -> dict[str, object]:
        """What `restore` takes. Faults are not in it: they were ordered for the moment."""
        return {"book": self.book.as_state(), "tokens": self.tokens.as_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with a former run: orders take the rest of their course, callbacks on their way are sent again."""
        self.book.restore(state["book"], self.scenarios)
        self.tokens.restore(state["tokens"])
        for order in self.book.orders:
            if order.notices:
                order.notices = 0
                self._send_callback(order)
            if not order.closed and order.course_place is not None:
                self._spawn(self._follow(order, order.course_place))

    async def close(self) -> None:
        """End everything that runs, callbacks between two attempts included."""
        await self._end_courses()
        await self._callbacks.close()

    async def _end_courses(self) -> None:
        courses = list(self._courses)
        for course in courses:
            course.cancel()
        await asyncio.gather(*courses, return_exceptions=True)


def hang_up(request: web.Request) -> web.Response:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()
