"""The server is killed while an operator decides: after the restart either all of the decision is there or nothing."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from reward_server import probes
from rewardservice.v1 import operator_service_pb2 as pb
from rewardservice.v1 import operator_service_pb2_grpc, order_pb2
from service.harness import OPERATOR, Caller

from .world import GIVE_UP_SECONDS, OF_DECISIONS, RETRIED, Wish, World, world

AS_OPERATOR = (("authorization", f"Bearer {OPERATOR}"),)
WHO, WHY = "dev-operator (Li)", "the supplier said so"
ACCOUNT = "kasushou"

COMMITS = ("commit.ready", "commit.done")
SENDING = ("send.begin", "exchange.written", "send.answered")
"""Moments of the purchase that follows a decision to buy again."""


@dataclass(frozen=True, slots=True)
class Case:
    """Decisions of one sort, each of which the server doesn't survive."""

    decision: str
    product: str = ""
    """What is ordered so that there is something to decide; empty: it is about an account."""
    cards: bool = False
    evidence: str = ""
    """What stands at the purchase once it is decided."""
    later: tuple[str, ...] = ()
    """Points after the decision at which the server dies as well."""

    @property
    def label(self) -> str:
        """The first part of its points' names."""
        return "decide" if self.product else self.decision.lower()

    @property
    def moments(self) -> Iterator[tuple[str, str]]:
        """Where the server dies, and from when on."""
        storing, stored = f"{self.label}.storing", f"{self.label}.stored"
        yield from ((point, storing) for point in (storing, *COMMITS, stored))
        yield from ((point, stored) for point in self.later)


CASES = (
    Case("DELIVERED", "kuaiduibao/cards-unreadable", cards=True, evidence="OperatorDelivered"),
    Case("FAIL", "kuaiduibao/cards-unreadable", evidence="OperatorDead"),
    Case("BUY_AGAIN", "kasushou/refunded-in-part", evidence="OperatorDead", later=SENDING),
    Case("DISMISS", "kaquan91_card/price-unchecked", evidence="Dismissed"),
    Case("PAUSE"),
    Case("RESUME"),
)


class Operator:
    """The person, and what the record holds of what that person decided."""

    def __init__(self, one: World) -> None:
        self._one = one
        self._stub = operator_service_pb2_grpc.OperatorServiceStub(one.client.channel)
        self._orders = Caller(one.place.grpc_port, OPERATOR)

    async def close(self) -> None:
        """Hangs up."""
        await self._orders.close()

    async def explained(self, order_id: str) -> order_pb2.Order:
        """An order with its purchases."""
        return await self._one.client.insist(lambda: self._orders.get(order_id, "EXPLAINED"))

    async def record(self) -> list[pb.AuditEntry]:
        """All decisions, newest first."""
        request = pb.ListAuditEntriesRequest(page_size=200, only_decisions=True)
        page = await self._one.client.insist(lambda: self._stub.ListAuditEntries(request, metadata=AS_OPERATOR))
        return list(page.entries)

    async def paused_by(self) -> str:
        """Who paused the account."""
        request = pb.ListSuppliersRequest()
        listed = await self._one.client.insist(lambda: self._stub.ListSuppliers(request, metadata=AS_OPERATOR))
        return next(supplier.paused_by for supplier in listed.suppliers if supplier.name == ACCOUNT)

    async def decide(self, case: Case, order_id: str, number: str) -> Any:
        """One attempt."""
        match case.decision:
            case "PAUSE":
                pause = pb.PauseSupplierRequest(supplier=ACCOUNT, reason=WHY, actor="Li")
                return await self._stub.PauseSupplier(pause, metadata=AS_OPERATOR)
            case "RESUME":
                resume = pb.ResumeSupplierRequest(supplier=ACCOUNT, reason=WHY, actor="Li")
                return await self._stub.ResumeSupplier(resume, metadata=AS_OPERATOR)
        cards = [pb.EnteredCard(number="8888 0001", secret=f"OF-{number}")] if case.cards else []
        decision = pb.Decision.Value(f"DECISION_{case.decision}")
        request = pb.ResolveOrderRequest(
            order_id=order_id, purchase_number=number, decision=decision, cards=cards, reason=WHY, actor="Li"
        )
        return await self._stub.ResolveOrder(request, metadata=AS_OPERATOR)


class Play:
    """One sort of decision, moment after moment, each with an order of its own."""

    def __init__(self, case: Case, one: World) -> None:
        self._case = case
        self._one = one
        self._operator = Operator(one)
        self.wrong: list[str] = []

    async def run(self) -> list[str]:
        """Everything that was wrong."""
        moments = list(self._case.moments)
        wishes = [Wish(self._case.product, f"{point}-{armed}") for point, armed in moments if self._case.product]
        self._one.order(wishes)
        await self._one.start()
        if not await self._see(self._all_wait):
            return [*self.wrong, *self._one.violations, *self._one.follower.violations]
        for place, (point, armed_by) in enumerate(moments):
            order_id = self._one.acknowledged[wishes[place]] if wishes else ""
            await self._one.kill()
            await self._moment(point, armed_by, order_id)
        await self._see(self._all_decided)
        for order_id in self._one.acknowledged.values():
            self._compare_books(await self._operator.explained(order_id))
        await self._operator.close()
        return [*self.wrong, *self._one.violations, *self._one.follower.violations]

    async def _moment(self, point: str, armed_by: str, order_id: str) -> None:
        """The server dies there; then it is judged what is left of the decision, and it is taken once more."""
        if not order_id:
            await self._opposite_before()
        await self._one.start(kill=point, armed_by=armed_by)
        await self._one.serving()
        before = len(await self._operator.record())
        number = (await self._operator.explained(order_id)).purchases[0].number if order_id else ""
        attempt = asyncio.create_task(self._attempt(order_id, number))
        if not await self._one.died(GIVE_UP_SECONDS):
            self.wrong.append(f"{point}: not passed")
            await self._one.kill()
        answer = await attempt
        # Beyond the commit of the decision the answer may have gone out before the server died.
        if answer not in RETRIED and not (answer is None and armed_by.endswith(".stored")):
            self.wrong.append(f"{point}: answered {answer}")
        await self._one.start()
        taken = len(await self._operator.record()) - before
        certain = {f"{self._case.label}.storing": 0, f"{self._case.label}.stored": 1}
        if taken not in ((certain[point],) if point in certain else (0, 1)):
            self.wrong.append(f"{point}: recorded {taken} times")
        await self._whole_or_nothing(point, taken, order_id, number)
        await self._again(point, taken, before, order_id, number)

    async def _opposite_before(self) -> None:
        """Pausing begins with a free account, resuming with a paused one."""
        opposite = Case("RESUME" if self._case.decision == "PAUSE" else "PAUSE")
        await self._one.start()
        await self._one.client.insist(lambda: self._operator.decide(opposite, "", ""))
        await self._one.kill()

    async def _attempt(self, order_id: str, number: str) -> grpc.StatusCode | None:
        try:
            await self._operator.decide(self._case, order_id, number)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return None

    async def _whole_or_nothing(self, point: str, taken: int, order_id: str, number: str) -> None:
        if not order_id:
            # Pausing leaves it paused, resuming leaves it free.
            paused = await self._operator.paused_by()
            if (paused == WHO) != bool(taken if self._case.decision == "PAUSE" else not taken):
                self.wrong.append(f"{point}: recorded {taken} times, paused by {paused!r}")
            return
        order = await self._operator.explained(order_id)
        if self._told(order, number) != taken:
            self.wrong.append(f"{point}: recorded {taken} times, {self._told(order, number)} times in the evidence")
        if taken and not await self._effect(order, number):
            self.wrong.append(f"{point}: recorded without its effect")
        if not await self._one.until(lambda: self._heard(order), GIVE_UP_SECONDS):
            self.wrong.append(f"{point}: the stream lacks version {order.version}")

    def _told(self, order: order_pb2.Order, number: str) -> int:
        """How often the decision stands among the evidence."""
        [purchase] = [purchase for purchase in order.purchases if purchase.number == number]
        said = [entry for entry in purchase.evidence if entry.source == "operator"]
        return sum(entry.outcome == self._case.evidence and f"{WHO}: {WHY}" in entry.detail for entry in said)

    async def _effect(self, order: order_pb2.Order, number: str) -> bool:
        """Whether the decision did what it says."""
        match self._case.decision:
            case "DELIVERED":
                full = await self._one.client.insist(lambda: self._one.client.get(order.order_id))
                secrets = [card.secret for card in full.cards]
                return full.state == order_pb2.ORDER_STATE_FULFILLED and secrets == [f"OF-{number}"]
            case "FAIL":
                return order.state == order_pb2.ORDER_STATE_FAILED and order.failure.message == WHY
            case "BUY_AGAIN":
                return len(order.purchases) == 2 and order.purchases[0].state == order_pb2.PURCHASE_STATE_DEAD
            case _:
                return order.state == order_pb2.ORDER_STATE_FULFILLED and not order.review_reasons

    def _heard(self, order: order_pb2.Order) -> bool:
        told = self._one.follower.orders.get(order.order_id)
        return told is not None and told.version >= order.version

    async def _again(self, point: str, taken: int, before: int, order_id: str, number: str) -> None:
        """The operator's second attempt: taken where the first wasn't, else refused with the reason."""
        try:
            await self._operator.decide(self._case, order_id, number)
        except grpc.aio.AioRpcError as error:
            status = rpc_status.from_call(error)  # type: ignore[arg-type]
            if not (taken and order_id) or "DECISION_REFUSED" not in str(status):
                self.wrong.append(f"{point}: the second attempt was answered {error.code()} {error.details()}")
        else:
            if taken and order_id:
                self.wrong.append(f"{point}: decided twice")
        # An account may be paused or resumed as often as one likes; each time is recorded.
        due = 1 if order_id else 1 + taken
        entries = await self._operator.record()
        if len(entries) - before != due or any(
            (entry.by, entry.reason, entry.order_id) != (WHO, WHY, order_id) for entry in entries[:due]
        ):
            self.wrong.append(f"{point}: the record holds {entries[: len(entries) - before]}")

    # --- Before and after

    async def _see(self, what: Callable[[], bool]) -> bool:
        seen = await self._one.until(what, GIVE_UP_SECONDS)
        if not seen:
            states = [order_pb2.OrderState.Name(order.state) for order in self._one.follower.orders.values()]
            self.wrong.append(f"not {what.__name__}: {states}")
        return seen

    def _all_wait(self) -> bool:
        """Whether there is something to decide about every order."""
        seen = [self._one.follower.orders.get(order_id) for order_id in self._one.acknowledged.values()]
        wanted = sum(1 for _ in self._case.moments) if self._case.product else 0
        return len(seen) == wanted and all(order is not None and order.review_reasons for order in seen)

    def _all_decided(self) -> bool:
        """Whether nothing is under way any more: what was bought again has ended like the first time, or not at all."""
        still = (
            order_pb2.ORDER_STATE_ACCEPTED,
            order_pb2.ORDER_STATE_PROCESSING,
            order_pb2.ORDER_STATE_OUTCOME_UNKNOWN,
        )
        return all(order.state not in still for order in self._one.follower.orders.values())

    def _compare_books(self, order: order_pb2.Order) -> None:
        """One booking a purchase and no other; two purchases only where it was bought again."""
        kind = self._case.product.partition("/")[0]
        entries = [entry["number"] for entry in self._one.sandbox.books(kind)["orders"]]
        booked = [entries.count(purchase.number) for purchase in order.purchases]
        if self._case.decision != "BUY_AGAIN":
            right = booked == [1]
        else:
            # What was never received stays unbooked: its request died with the server.
            never = order.failure.reason == order_pb2.FAILURE_REASON_NEVER_RECEIVED
            right = booked == [1, 0 if never else 1]
        if not right:
            self.wrong.append(f"{order.client_order_id}: booked {booked}")


async def play(case: Case, folder: Path) -> list[str]:
    """What went wrong with one sort of decision."""
    async with world(folder, products=[case.product or "kasushou/card"]) as one:
        return await Play(case, one).run()


@pytest.mark.rule("O13", "D15")
@pytest.mark.timeout(600)
async def test_killed_while_an_operator_decides_all_of_it_is_there_or_nothing(tmp_path: Path) -> None:
    """The decision, its record and the client's update belong together; the second attempt is taken or refused by what
    became of the first, and nothing is bought again twice.
    """
    for case in CASES:
        (tmp_path / case.decision).mkdir()
    found = await asyncio.gather(*(play(case, tmp_path / case.decision) for case in CASES))
    assert {case.decision: wrong for case, wrong in zip(CASES, found, strict=True) if wrong} == {}


@pytest.mark.rule("O13")
def test_the_server_dies_at_every_point_of_a_decision() -> None:
    """None is left out."""
    passed = {point for case in CASES for point, _ in case.moments}
    assert {point for point in probes.POINTS if point.startswith(OF_DECISIONS)} <= passed
