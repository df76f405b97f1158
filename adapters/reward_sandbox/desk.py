"""What all five suppliers do alike once they understood a request: sell, follow the course, answer or not."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal, Protocol

from aiohttp import web

from reward_sandbox.books import Book, CallbackAttempt, Order
from reward_sandbox.callbacks import Callback, CallbackSender
from reward_sandbox.faults import LATE, Call, Fault, Refusal, drawn
from reward_sandbox.gate import Gate
from reward_sandbox.mint import Mint, Press
from reward_sandbox.scenario import GENUINE, Scenario, Stage
from reward_sandbox.settings import SandboxSettings
from reward_sandbox.timeline import Timeline
from reward_sandbox.tokens import Tokens

CallbackOrder = Literal["now", "hold", "twice"]

Notify = Callable[[Order, str], Callback | None]
"""Makes the callback of that name for an order as it stands; None where the supplier has no such callback now."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a create call ends."""

    response: web.Response
    number: str = ""
    """Our number, once the request proved to be genuine."""
    refusal: str = ""
    order: Order | None = None


class NotBookedError(Exception):
    """The scenario lets this create call fail before the order is taken."""

    def __init__(self, number: str, fault: Fault) -> None:
        super().__init__(fault.name)
        self.number = number
        self.fault = fault


class Supplier(Protocol):
    """One supplier's file: its routes under `/{kind}/` and how the server is configured for it."""

    @property
    def desk(self) -> "Desk": ...

    def routes(self) -> Sequence[tuple[Call, web.RouteDef]]:
        """Every route, and which sort of call it is."""
        ...


_fault: ContextVar[Fault | None] = ContextVar("fault", default=None)
"""What goes wrong with the answer to the request at hand."""


class Desk:
    """One supplier's shop: books, tokens, faults, running courses.

    `notify` makes callbacks, `refuse` writes a refusal in the supplier's envelope, `codes` names the supplier's codes
    and states in an answer.
    """

    def __init__(
        self,
        kind: str,
        scenarios: Sequence[Scenario],
        settings: SandboxSettings,
        *,
        refuse: Callable[[Refusal], web.Response],
        codes: Callable[[web.Response], Iterable[str]] = lambda _: (),
        notify: Notify | None = None,
    ) -> None:
        self.kind = kind
        self.settings = settings
        self.wall = settings.clock
        """The present time, for the age of a request's time stamp."""
        self.timeline = Timeline(settings.clock)
        self.clock = self.timeline.now
        """The time in the books: the present one, unless it was moved forward."""
        self.scenarios = {scenario.product: scenario for scenario in scenarios}
        self._by_name = {scenario.name: scenario for scenario in scenarios}
        self._by_magic = {scenario.magic: scenario for scenario in scenarios if scenario.magic}
        self.book = Book(balance=settings.balance, mint=Mint(settings.seed, kind), clock=self.clock)
        self.tokens = Tokens(lifetime=settings.token_seconds, clock=self.clock)
        self.gate = Gate()
        self.modes: dict[str, str] = {}
        """Modes changed by hand, see `mode`."""
        self.prices: dict[str, Decimal] = {}
        """Prices moved by hand, by product."""
        self.codes_sent: Counter[str] = Counter()
        """The supplier's codes and states that stood in answers."""
        self.callback_order: CallbackOrder = "now"
        """Whether callbacks are sent as they come, kept back, or sent twice."""
        self._held_callbacks: list[tuple[Order, Sequence[Callback]]] = []
        self.on_change: Callable[[], None] = lambda: None
        """Called after everything that `as_state` would show."""
        self._refuse = refuse
        self._codes = codes
        self._notify = notify
        self._calls: Counter[tuple[str, str]] = Counter()
        self._callbacks = CallbackSender(
            scale=settings.callback_scale, timeline=self.timeline, changed=self._has_changed
        )
        self._courses: set[asyncio.Task[None]] = set()
        self._open = 0
        self.creates = 0
        """Create calls that arrived, readable or not."""

    def _has_changed(self) -> None:
        # `on_change` is set later than whoever gets this method.
        self.on_change()

    # --- Understanding a request

    def chosen(self, product: str, recipient: str = "") -> Scenario | None:
        """The scenario of a request, None for no such product; a magic recipient chooses the course of it."""
        scenario = self.scenarios.get(product)
        magic = self._by_magic.get(recipient)
        if scenario is None or magic is None or magic.recipient != scenario.recipient:
            return scenario
        return replace(scenario, name=magic.name, behaviour=magic.behaviour)

    def price(self, scenario: Scenario) -> Decimal:
        """What the supplier asks for one now, before surcharges."""
        moved = self.prices.get(scenario.product)
        return moved if moved is not None else (scenario.behaviour.price or scenario.unit_price)

    def mode(self, name: str, scenario: Scenario | None = None) -> str:
        """How the supplier behaves where its pages leave it open: by scenario, else by hand, else as it was started."""
        if scenario is not None and name in scenario.behaviour.modes:
            return scenario.behaviour.modes[name]
        return self.modes.get(name, str(getattr(self.settings, name)))

    def draw(self, call: Call, number: str, scenario: Scenario) -> Fault | None:
        """Counts a call about one order and lets what the scenario plans for it happen to its answer."""
        place = self._calls[call, number]
        self._calls[call, number] += 1
        fault = drawn(scenario.behaviour.faults.get(call, ()), place)
        if fault is not None:
            _fault.set(fault)
        return fault

    def shortage(self, scenario: Scenario, quantity: int, total: Decimal) -> Literal["stock", "balance"] | None:
        """What keeps the supplier from selling, if anything."""
        if self.book.stock(scenario) < quantity:
            return "stock"
        if self.book.balance < total:
            return "balance"
        return None

    def repeated(self, number: str, scenario: Scenario | None = None) -> Order | None:
        """The order already bought under this number, unless the sandbox is told to buy again."""
        orders = self.book.under(number)
        return orders[-1] if orders and self.mode("duplicates", scenario) != "double" else None

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
        """Book the order and set its course going. Raises NotBookedError where the scenario wants that."""
        fault = self.draw("create", number, scenario)
        if fault is not None and not fault.booked:
            raise NotBookedError(number, fault)
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

    # --- Answering

    def refusal(self, wanted: Refusal) -> web.Response:
        """A refusal in the supplier's envelope. Raises ValueError for a code that it has no place for."""
        return self._refuse(wanted)

    async def serve(
        self, request: web.Request, call: Call, handler: Callable[[web.Request], Any]
    ) -> web.StreamResponse:
        """One call of any sort: what the supplier would answer, and what becomes of that on its way."""
        if self.gate.down:
            return hang_up(request)
        _fault.set(None)
        self._open += 1
        try:
            response: web.StreamResponse = await handler(request)
            fault = _fault.get()
            if call != "create":
                # A create call has been waiting in `place`, where the books know of it.
                fault = self.gate.draw(call) or fault
                await self._wait(fault)
            return await self._send(request, response, fault)
        finally:
            self._open -= 1
            self.on_change()

    async def place(self, request: web.Request, decide: Callable[[bytes], Verdict]) -> web.StreamResponse:
        """Run one create call: read, decide, book, and wait as told; what the answer becomes is decided in `serve`."""
        body = await request.read()
        self.creates += 1
        if self.gate.drops("before"):
            return hang_up(request)
        ordered = self.gate.draw("create")
        if ordered is not None and not ordered.booked:
            _fault.set(ordered)
            self.book.refuse("", ordered.name)
            return self._refuse(ordered.refusal or Refusal("", ordered.name))
        verdict = self._decide(body, decide)
        first = verdict.order
        twice = ordered is not None and ordered.twice
        if first is not None and (twice or first.scenario.behaviour.repeated_request):
            first.answering = first.scenario.behaviour.repeated_at_once
            verdict = self._decide(body, decide)
            first.answering = False
        if ordered is not None:
            _fault.set(ordered)
        self.on_change()
        if self.gate.drops("after"):
            if verdict.order:
                verdict.order.answering = False
            return hang_up(request)
        try:
            await self.gate.pass_out()
            await self._wait(_fault.get())
            if verdict.order:
                verdict.order.answered_at = self.clock()
        finally:
            if verdict.order:
                verdict.order.answering = False
        return verdict.response

    def _decide(self, body: bytes, decide: Callable[[bytes], Verdict]) -> Verdict:
        try:
            verdict = decide(body)
        except NotBookedError as unbooked:
            refusal = unbooked.fault.refusal or Refusal("", unbooked.fault.name)
            verdict = Verdict(self._refuse(refusal), unbooked.number, refusal=unbooked.fault.name)
        if verdict.number:
            self.book.requests[verdict.number] += 1
        if verdict.refusal:
            self.book.refuse(verdict.number, verdict.refusal)
        return verdict

    async def _wait(self, fault: Fault | None) -> None:
        if fault is None:
            return
        if fault.never:
            await asyncio.Event().wait()
        if fault.delay:
            await self.timeline.sleep(self.settings.late_seconds if fault.delay == LATE else fault.delay)

    async def _send(
        self, request: web.Request, response: web.StreamResponse, fault: Fault | None
    ) -> web.StreamResponse:
        if not isinstance(response, web.Response):
            return response
        if fault is None:
            self.codes_sent.update(self._codes(response))
            return response
        if fault.drop:
            return hang_up(request)
        if fault.refusal is not None:
            response = self._refuse(fault.refusal)
        body = response.body if isinstance(response.body, bytes) else b""
        if fault.edit is not None:
            body = fault.edit(body)
        status = fault.status or response.status
        content_type = fault.content_type or response.headers["Content-Type"]
        headers: dict[str, str] = {"Content-Type": content_type, **fault.headers}
        changed = web.Response(body=body, status=status, headers=headers)
        self.codes_sent.update(self._codes(changed))
        if fault.cut is None and not fault.drip:
            return changed
        return await _send_slowly(request, body, status, headers, fault)

    # --- The course of an order

    async def _follow(self, order: Order, begin: int = 0) -> None:
        late = 0.0
        for stage, following in pairwise(order.scenario.behaviour.stages[begin:]):
            late = await self.timeline.sleep(stage.steps * self.settings.step_seconds + stage.seconds - late)
            if order.looks < stage.looks:
                order.seen = asyncio.get_running_loop().create_future()
                await order.seen
                late = 0.0
            if order.closed:
                return
            self.enter(order, following)

    def enter(self, order: Order, stage: Stage) -> None:
        """Move an order and send the callbacks that belong to the stage."""
        self.book.enter(order, stage)
        if stage.callbacks:
            self._send_callbacks(order, stage.callbacks)
        self.on_change()

    def _send_callbacks(self, order: Order, names: Iterable[str]) -> None:
        callbacks = [callback for name in names if (callback := self.callback(order, name)) is not None]
        if not callbacks:
            return
        order.notices += 1
        if self.callback_order == "hold":
            self._held_callbacks.append((order, callbacks))
            return
        if self.callback_order == "twice":
            callbacks = [again for one in callbacks for again in (one, replace(one, gaps=()))]
        self._spawn(self._deliver(order, callbacks))

    def release_callbacks(self, *, backwards: bool) -> int:
        """Send what was held, one after another, and hold no more; returns how many there were."""
        held = self._held_callbacks[::-1] if backwards else self._held_callbacks[:]
        self._held_callbacks.clear()
        self.callback_order = "now"
        self._spawn(self._deliver_held(held))
        return sum(len(callbacks) for _, callbacks in held)

    async def _deliver_held(self, held: Sequence[tuple[Order, Sequence[Callback]]]) -> None:
        for order, callbacks in held:
            await self._deliver(order, callbacks)

    def callback(self, order: Order, name: str = GENUINE) -> Callback | None:
        """The callback of that name for an order as it stands."""
        return self._notify(order, name) if self._notify else None

    async def _deliver(self, order: Order, callbacks: Sequence[Callback]) -> None:
        for callback in callbacks:
            await self._callbacks.deliver(order, callback)
        order.notices -= 1
        self.on_change()

    async def call_back_now(self, order: Order, name: str) -> CallbackAttempt | None:
        """Send one callback once, at once, and tell how it was answered; None where there is no such callback."""
        callback = self.callback(order, name)
        if callback is None:
            return None
        return await self._callbacks.deliver(order, replace(callback, gaps=()))

    def end(self, order: Order, stage: Stage) -> None:
        """Leave the scenario's course for a last stage: the order was cancelled or confirmed."""
        order.closed = True
        if order.seen and not order.seen.done():
            order.seen.set_result(None)
        self.enter(order, stage)

    def look(self, order: Order) -> None:
        """A query has seen the order."""
        order.looks += 1
        order.calls["query"] += 1
        self.draw("query", order.number, order.scenario)
        self.on_change()
        if order.seen and not order.seen.done() and order.looks >= order.stage.looks:
            order.seen.set_result(None)

    @property
    def idle(self) -> bool:
        """Whether no course runs, no callback is on its way and no call is being answered."""
        return not self._courses and not self._open

    @property
    def quiet(self) -> bool:
        """Whether nothing goes over the wire at this moment."""
        return not self._open and not self._callbacks.sending

    def _spawn(self, course: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(course)
        self._courses.add(task)
        task.add_done_callback(self._courses.discard)

    # --- Begin and end

    async def reset(self) -> None:
        """Empty books, no faults, courses or callbacks, modes and prices as at the start; tokens stay good."""
        await self._end_courses()
        self.gate.reset()
        self.tokens.lifetime = self.settings.token_seconds
        self.callback_order = "now"
        self._held_callbacks.clear()
        self.book.reset()
        self.modes.clear()
        self.prices.clear()
        self._calls.clear()
        self.codes_sent.clear()
        self.creates = 0
        self.on_change()

    def as_state(self) -> dict[str, object]:
        """What `restore` takes. Faults are not in it: they were ordered for the moment."""
        return {"book": self.book.as_state(), "tokens": self.tokens.as_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with a former run: orders take the rest of their course, callbacks on their way are sent again."""
        self.book.restore(state["book"], self._named)
        self.tokens.restore(state["tokens"])
        for order in self.book.orders:
            self._calls.update({(call, order.number): count for call, count in order.calls.items()})
            if order.notices:
                order.notices = 0
                self._send_callbacks(order, (GENUINE,))
            if not order.closed and order.course_place is not None:
                self._spawn(self._follow(order, order.course_place))

    def _named(self, product: str, name: str) -> Scenario:
        scenario, course = self.scenarios[product], self._by_name[name]
        return scenario if course is scenario else replace(scenario, name=name, behaviour=course.behaviour)

    async def close(self) -> None:
        """End everything that runs, callbacks between two attempts included."""
        await self._end_courses()
        await self._callbacks.close()

    async def _end_courses(self) -> None:
        courses = list(self._courses)
        for course in courses:
            course.cancel()
        await asyncio.gather(*courses, return_exceptions=True)


async def _send_slowly(
    request: web.Request, body: bytes, status: int, headers: dict[str, str], fault: Fault
) -> web.StreamResponse:
    """The body byte by byte, or the beginning of it and then nothing."""
    stream = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(len(body))})
    await stream.prepare(request)
    if fault.drip:
        for i in range(len(body)):
            await stream.write(body[i : i + 1])
            await asyncio.sleep(fault.drip)
    else:
        await stream.write(body[: fault.cut])
    if fault.cut is not None and request.transport is not None:
        request.transport.close()
    return stream


def hang_up(request: web.Request) -> web.Response:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()
