"""Operators decide with `rewardctl review` against the real server and sandbox: what came of it, here and there."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from rewardservice import RewardClient, Update
from rewardservice.cli import run
from rewardservice.v1 import order_pb2, reward_service_pb2

from .harness import OPERATOR, OTHER, QUICK, TERMINAL, Service, caller, service
from .stage import state, told

WHO, WHY = "dev-operator (Li)", "ticket 4711"
PHONE = order_pb2.Recipient(phone=order_pb2.PhoneNumber(number="13800138000"))

PRODUCTS = (
    "dushu/looks-fail",
    "dushu/looks-unanswered",
    "dushu/other-product",
    "kasushou/card-short-for-good",
    "kuaiduibao/cards-unreadable",
    "kuaiduibao/dropped",
    "kuaiduibao/refused-but-taken",
)
WITH_PHONE = ("dushu/", "kuaiduibao/refused-but-taken")


@dataclass(frozen=True, slots=True)
class Office:
    """The service, the client whose orders these are, and the operator at the terminal."""

    running: Service
    folder: Path
    ctl: Callable[..., Awaitable[list[dict[str, Any]]]]
    """Runs `rewardctl review …` with the operator's key and returns the lines it prints; raises AssertionError for
    another exit code than `code`."""

    async def order(self, product: str, name: str, *, until: str, quantity: int = 1) -> order_pb2.Order:
        """An order that has come to a state, in view FULL."""
        recipient = PHONE if product.startswith(WITH_PHONE) else None
        created = await self.running.client.create(product, name, quantity=quantity, recipient=recipient)
        return await self.running.client.until(created.order.order_id, lambda order: state(order) == until)

    async def listed(self, order: order_pb2.Order) -> dict[str, Any]:
        """What `rewardctl review list` shows of an order: the one thing that is open."""
        [review] = [review for review in await self.ctl("list") if review["order_id"] == order.order_id]
        [item] = review["open"]
        assert review["client_id"] == "dev"
        return dict(item)

    async def decide(
        self, order: order_pb2.Order, decision: str, *options: str, cards: Sequence[dict[str, str]] = ()
    ) -> order_pb2.Order:
        """Decides about the order's open purchase and returns what the client's stream brings: exactly one update, with
        the record of who decided what, when and why.
        """
        item = await self.listed(order)
        before = await self.running.client.get(order.order_id)
        if cards:
            file = self.folder / f"{order.order_id}.jsonl"
            file.write_text("".join(f"{json.dumps(card)}\n" for card in cards))
            options = (*options, "--cards-file", str(file))
        async with self.updates(order.order_id) as updates:
            await self.resolve(order.order_id, item["purchase_number"], decision, *options)
            update = await anext(updates)
        assert update.version == before.version + 1
        [entry, *_] = await self.ctl("audit")
        rest = [f"_rest_{words}" for words in ("fail", "buy_again") if words.replace("_", "-") in options]
        what = "".join([decision.replace("-", "_"), *rest])
        assert (entry["by"], entry["what"], entry["reason"]) == (WHO, what, WHY)
        assert (entry["order_id"], entry["purchase_number"], entry["supplier"]) == (
            *(order.order_id, item["purchase_number"], order.product_id.partition("/")[0]),
        )
        decided = Timestamp()
        decided.FromJsonString(entry["time"])
        assert order.create_time.ToMilliseconds() <= decided.ToMilliseconds() <= update.update_time.ToMilliseconds()
        return update

    async def resolve(self, order_id: str, number: str, decision: str, *options: str, code: int = 0) -> list[Any]:
        """`rewardctl review resolve`."""
        words = ("resolve", order_id, number, "--decision", decision, "--reason", WHY, "--actor", "Li")
        return await self.ctl(*words, *options, code=code)

    @contextlib.asynccontextmanager
    async def updates(self, order_id: str) -> AsyncIterator[AsyncIterator[order_pb2.Order]]:
        """The orders of the updates that the client's own library brings from now on."""
        async with RewardClient(f"127.0.0.1:{self.running.place.grpc_port}") as client:
            events = client.watch(order_ids=[order_id], start=reward_service_pb2.STREAM_START_NOW)
            async with contextlib.aclosing(events):
                # Its first message says that it is open.
                await anext(events)
                yield (event.order async for event in events if isinstance(event, Update))

    async def bought(self, order: order_pb2.Order) -> list[int]:
        """How many bookings the supplier has under each number of the order, oldest purchase first."""
        books = self.running.books(order.product_id.partition("/")[0])
        numbers = [entry["number"] for entry in books]
        return [numbers.count(purchase.number) for purchase in await self.purchases(order)]

    async def final(self, order: order_pb2.Order) -> None:
        """Nobody decides about it again, and nothing is open."""
        assert order.state in TERMINAL
        assert order.order_id not in [review["order_id"] for review in await self.ctl("list")]
        for purchase in await self.purchases(order):
            for decision in ("delivered", "fail", "buy-again", "dismiss"):
                await self.resolve(order.order_id, purchase.number, decision, code=4)
        assert (await self.running.client.get(order.order_id)).version == order.version

    async def purchases(self, order: order_pb2.Order) -> list[order_pb2.Purchase]:
        """As the operator sees them."""
        async with caller(self.running.place.grpc_port, OPERATOR) as operator:
            return list((await operator.get(order.order_id, "EXPLAINED")).purchases)

    async def secrets_seen_by(self, key: str | None, order_id: str) -> list[str]:
        """The secrets of an order in view FULL; the words of the refusal where there is one."""
        async with caller(self.running.place.grpc_port, key) as one:
            try:
                return [card.secret for card in (await one.get(order_id)).cards]
            except grpc.aio.AioRpcError as error:
                return [error.code().name]


@pytest.fixture
async def office(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Office]:
    """A parameter names an account whose purchases are to be settled within a second; after that it isn't asked any
    more, since a few looks without an answer would make a review of them.
    """
    for name in [name for name in os.environ if name.startswith("REWARD")]:
        monkeypatch.delenv(name)
    hurried = {**QUICK, "settle_by_seconds": 1.0}
    accounts = {getattr(request, "param", "kasushou"): {**hurried, "poll_plan": [0.1, 600.0]}, "kasushou": hurried}
    async with service(tmp_path, products=PRODUCTS, accounts=accounts) as running:
        key_file = tmp_path / "operator.key"
        key_file.write_text(OPERATOR)
        monkeypatch.setenv("REWARDCTL_SERVER", f"127.0.0.1:{running.place.grpc_port}")

        async def ctl(*words: str, code: int = 0) -> list[dict[str, Any]]:
            capsys.readouterr()
            command = ["audit", "--decisions"] if words == ("audit",) else ["review", *words]
            ended = await run([*command, "--key-file", str(key_file), "--output", "json"])
            printed = capsys.readouterr()
            assert ended == code, printed.err
            # The server logs to the same place.
            return [json.loads(line) for line in printed.out.splitlines() if line.startswith("{")]

        yield Office(running, tmp_path, ctl)


CARD = {"number": "8888 0001", "secret": "BY-MAIL"}


async def test_a_card_that_never_could_be_read_is_entered_by_hand(office: Office) -> None:
    """Without a query, in NEEDS_REVIEW: the client that ordered it gets the card, nobody else."""
    order = await office.order("kuaiduibao/cards-unreadable", "1", until="needs_review")
    item = await office.listed(order)
    assert (item["reason"], item["keeps_open"]) == ("REVIEW_REASON_CARD_MISSING", True)
    update = await office.decide(order, "delivered", cards=[CARD])
    assert (state(update), [card.secret for card in update.cards]) == ("fulfilled", ["BY-MAIL"])
    assert await office.secrets_seen_by("dev-key", order.order_id) == ["BY-MAIL"]
    assert await office.secrets_seen_by(OTHER, order.order_id) == ["NOT_FOUND"]
    assert await office.secrets_seen_by(OPERATOR, order.order_id) == ["PERMISSION_DENIED"]
    assert "BY-MAIL" not in json.dumps(await office.ctl("audit"))
    assert await office.bought(order) == [1]
    await office.final(update)


async def test_what_was_not_bought_fails_with_the_operators_words(office: Office) -> None:
    """With a query and without."""
    for product in ("kuaiduibao/cards-unreadable", "dushu/other-product"):
        order = await office.order(product, product.replace("/", "-"), until="needs_review")
        update = await office.decide(order, "fail")
        assert (told(update)["state"], told(update)["failure"]) == ("failed", "operator")
        assert update.failure.message == WHY
        assert await office.bought(order) == [1]
        await office.final(update)


@pytest.mark.rule("O13")
@pytest.mark.parametrize("product", ["kuaiduibao/cards-unreadable", "dushu/other-product"])
async def test_what_was_not_bought_is_bought_again_once(office: Office, product: str) -> None:
    """Under a number of its own; the same supplier errs again, and the second purchase is decided like the first."""
    order = await office.order(product, "1", until="needs_review")
    update = await office.decide(order, "buy-again")
    assert state(update) == "accepted"
    again = await office.running.client.until(order.order_id, lambda order: state(order) == "needs_review")
    assert await office.bought(order) == [1, 1]
    update = await office.decide(again, "delivered", cards=[CARD] if product.startswith("kuaiduibao") else [])
    assert state(update) == "fulfilled"
    assert await office.bought(order) == [1, 1]
    await office.final(update)


async def test_a_membership_is_delivered_by_an_operators_word(office: Office) -> None:
    """It has no cards."""
    order = await office.order("dushu/other-product", "1", until="needs_review")
    update = await office.decide(order, "delivered")
    assert (state(update), update.delivered_quantity, await office.bought(order)) == ("fulfilled", 1, [1])
    await office.final(update)


@pytest.mark.rule("O13")
@pytest.mark.parametrize("product", ["kuaiduibao/dropped", "dushu/looks-fail"])
async def test_an_unknown_outcome_is_left_to_evidence_until_its_deadline(office: Office, product: str) -> None:
    """Nobody can call it dead before: it may be bought. Nothing is recorded, and nothing is open."""
    order = await office.order(product, "1", until="outcome_unknown")
    [purchase] = await office.purchases(order)
    for decision in ("fail", "buy-again", "dismiss"):
        await office.resolve(order.order_id, purchase.number, decision, code=4)
    assert await office.ctl("audit") == []
    assert await office.ctl("list") == []
    assert await office.bought(order) == [1]


@pytest.mark.parametrize("office", ["kuaiduibao"], indirect=True)
async def test_an_unknown_outcome_becomes_a_review_at_its_deadline(office: Office) -> None:
    """Nobody can be asked; the operator finds the card in the supplier's console and enters it."""
    order = await office.order("kuaiduibao/dropped", "1", until="needs_review")
    assert (await office.listed(order))["reason"] == "REVIEW_REASON_DEADLINE"
    update = await office.decide(order, "delivered", cards=[CARD])
    assert (state(update), len(update.cards), await office.bought(order)) == ("fulfilled", 1, [1])
    await office.final(update)


@pytest.mark.parametrize("office", ["dushu"], indirect=True)
@pytest.mark.parametrize(("decision", "becomes"), [("delivered", "fulfilled"), ("fail", "failed")])
async def test_an_unknown_outcome_past_its_deadline_can_be_decided(office: Office, decision: str, becomes: str) -> None:
    """Also before a look succeeds that would make it a review: the supplier has been asked by telephone."""
    order = await office.order("dushu/looks-unanswered", "1", until="outcome_unknown")
    [purchase] = await office.purchases(order)
    deadline = purchase.intent_time.ToMilliseconds() / 1000 + 1.0
    await asyncio.sleep(max(0.0, deadline - time.time()) + 0.01)
    async with office.updates(order.order_id) as updates:
        await office.resolve(order.order_id, purchase.number, decision)
        update = await anext(updates)
    assert (state(update), await office.bought(order)) == (becomes, [1])
    await office.final(update)


async def test_a_late_success_is_delivered_or_put_aside(office: Office) -> None:
    """FAILED is final but for a decision: the top-up that arrived after all counts, or its money is claimed."""
    for decision, becomes in (("delivered", "fulfilled"), ("dismiss", "failed")):
        order = await office.order("kuaiduibao/refused-but-taken", decision, until="failed")
        order = await office.running.client.until(order.order_id, lambda order: bool(order.review_reasons))
        assert (await office.listed(order))["reason"] == "REVIEW_REASON_LATE_SUCCESS"
        update = await office.decide(order, decision)
        assert (state(update), list(update.review_reasons)) == (becomes, [])
        assert await office.bought(order) == [1]
        await office.final(update)


@pytest.mark.rule("O13")
async def test_what_the_supplier_says_after_a_decision_moves_nothing_and_is_shown(office: Office) -> None:
    """The callback for a purchase that was called dead comes: the order stays FAILED until somebody decides again."""
    order = await office.order("kuaiduibao/cards-unreadable", "1", until="needs_review")
    failed = await office.decide(order, "fail")
    async with office.updates(order.order_id) as updates:
        await office.running.sandbox.order("kuaiduibao", "callback")
        update = await anext(updates)
    assert (state(update), update.version) == ("failed", failed.version + 1)
    assert told(update)["reviews"] == ["late_success"]
    update = await office.decide(update, "delivered", cards=[CARD])
    assert (state(update), len(update.cards)) == ("fulfilled", 1)
    assert await office.bought(order) == [1]
    await office.final(update)


async def test_some_cards_came_and_the_rest_never_will(office: Office) -> None:
    """Two of three: they stay the client's; only with a word about the rest is the purchase settled."""
    order = await office.order("kasushou/card-short-for-good", "1", quantity=3, until="needs_review")
    assert len(order.cards) == 2
    item = await office.listed(order)
    assert (item["shown_cards"], item["quantity"]) == (2, 3)
    await office.resolve(order.order_id, item["purchase_number"], "delivered", code=4)
    update = await office.decide(order, "delivered", "--rest", "fail")
    assert (state(update), update.delivered_quantity) == ("partially_fulfilled", 2)
    assert [card.secret for card in update.cards] == [card.secret for card in order.cards]
    assert await office.bought(order) == [1, 0]
    await office.final(update)


async def test_some_cards_came_and_the_rest_is_bought_again(office: Office) -> None:
    """A purchase of its own for the one unit that is missing, and no other."""
    order = await office.order("kasushou/card-short-for-good", "1", quantity=3, until="needs_review")
    update = await office.decide(order, "delivered", "--rest", "buy-again")
    assert (state(update), update.delivered_quantity) == ("processing", 2)
    ended = await office.running.client.until(order.order_id)
    assert (state(ended), len(ended.cards)) == ("fulfilled", 3)
    assert [entry["quantity"] for entry in office.running.books("kasushou")] == [3, 1]
    assert await office.bought(order) == [1, 0, 1]
