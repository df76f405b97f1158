"""View EXPLAINED answers three questions about an order in any situation: why this supplier, why this late, and what
proves it. And it shows no secret. Asked as an operator asks, of the real engine over a scripted supplier.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from google.protobuf import json_format

from reward_adapters.contract import AfterSale, NotSent, NotSentCause, RefusedFor, Traits
from reward_server.access import Caller, Permission
from reward_server.auditing import AuditLog
from reward_server.clock import Clock
from reward_server.domain.deciding import Decision, Verdict
from reward_server.domain.moves import intend
from reward_server.domain.order import Order, OrderState, PurchaseState
from reward_server.engine.account import LONGEST_RETRY_AFTER, Turns
from reward_server.engine.waits import LONGEST_WORDS, Waits
from reward_server.hub import Hub
from reward_server.resume import Tokens
from reward_server.rpc import interceptor
from reward_server.rpc.cards import CardReader, UpdateEncoder
from reward_server.rpc.messages import View, order_message
from reward_server.rpc.reward_service import RewardService
from reward_server.rpc.streaming import StreamParts
from reward_server.store import Hold
from rewardservice._output import Output, print_order
from rewardservice.v1 import order_pb2 as pb
from rewardservice.v1.reward_service_pb2 import GetOrderRequest

from .rig import (
    ABSENT,
    BOTH,
    CANCELLED,
    CONTRADICTION,
    PATIENCE,
    PHONE,
    TOPUP,
    Asked,
    Handler,
    Reply,
    Rig,
    Rigged,
    Said,
    a_card,
    accepted,
    accepts_it,
    after,
    answers,
    delivered,
    finds_nothing,
    hangs_up,
    rate_limited,
    refunded,
    refused,
    traits,
    until,
)

CARD = "CANARY-7F3K-22QX-9ZTB"
TOKEN = "canary-token-8c1f2a"
LONG = 3600.0
OPEN = (
    pb.PURCHASE_STATE_WAITING,
    pb.PURCHASE_STATE_SUBMITTING,
    pb.PURCHASE_STATE_ACCEPTED,
    pb.PURCHASE_STATE_UNKNOWN,
)
UTC = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


async def explain(rig: Rig, order: Order) -> pb.Order:
    """The reply that an operator gets."""
    tokens = Tokens(await rig.vault.secret("tokens"))
    cards = CardReader(rig.store, rig.vault)
    hub = Hub(rig.store, UpdateEncoder(cards, tokens))
    parts = StreamParts(
        store=rig.store,
        hub=hub,
        tokens=tokens,
        cards=cards,
        audit=AuditLog(rig.store, rig.metrics, now_ms=rig.clock.now_ms),
        metrics=rig.metrics,
        now_ms=rig.clock.now_ms,
    )
    interceptor._caller.set(Caller("ops", frozenset({Permission.OPERATE})))
    request = GetOrderRequest(order_id=order.order_id, view=pb.ORDER_VIEW_EXPLAINED)
    return (await RewardService(rig.engine, parts).GetOrder(request, None)).order


def words(reply: pb.Order) -> str:
    """Everything that it says."""
    return json_format.MessageToJson(reply, ensure_ascii=False)


# --- Situations -------------------------------------------------------------------------------------------------------

Play = Callable[[Rig], Awaitable[Order]]
SITUATIONS: list["Situation"] = []


@dataclass(frozen=True)
class Situation:
    """How an order comes into a situation, and what the reply must say of its last purchase."""

    play: Play
    accounts: dict[str, Traits]
    waits: str = ""
    """A pattern of what it waits for; "" where nothing is awaited."""
    proof: str = ""
    """A pattern that a piece of evidence or an item matches, as in "Refused 9: no"."""
    offers: Sequence[str] = ("USED the first offer",)
    """How the lines about the offers begin."""
    max_in_flight: int = 16
    also: Callable[[pb.Order], object] = field(default=lambda _reply: True)


def situation(
    accounts: dict[str, Traits],
    waits: str = "",
    proof: str = "",
    offers: Sequence[str] = ("USED the first offer",),
    *,
    max_in_flight: int = 16,
    also: Callable[[pb.Order], object] = lambda _reply: True,
) -> Callable[[Play], Play]:
    """Enters a situation."""

    def enter(play: Play) -> Play:
        SITUATIONS.append(Situation(play, accounts, waits, proof, offers, max_in_flight, also))
        return play

    return enter


A = {"a": traits()}
RARELY = {"a": traits(look_delays=(0.01, LONG))}
GRACE = {"a": traits(not_found_grace=LONG, look_delays=(0.01, LONG))}
QUICK_TO_DOUBT = {"a": traits(read_timeout=0.05, look_delays=(0.01, LONG), not_found_grace=LONG)}
NO_QUERY = {"a": traits(queryable=False, calls_back=True)}
TWO = {"a": traits(), "b": traits()}


@asynccontextmanager
async def hanging(rig: Rig) -> AsyncIterator[None]:
    """The supplier takes requests and doesn't answer."""
    rig.script.place = after(asyncio.Event(), delivered(CARD))
    yield
    await until(rig.script.places)


def first(order: Order) -> PurchaseState:
    return order.purchases[0].state


@situation(A, "a free slot at a: 1 of 1 requests are under way", max_in_flight=1)
async def it_waits_for_a_slot(rig: Rig) -> Order:
    async with hanging(rig):
        await rig.order("a", "1")
    return await rig.order("a", "2")


@situation(A, f"a, which rests until {UTC}: rate_limited")
async def the_account_rests(rig: Rig) -> Order:
    rig.rest("a", LONG)
    return await rig.order("a")


@situation(A, f"an operator, who paused a at {UTC}")
async def the_account_is_paused_by_an_operator(rig: Rig) -> Order:
    rig.rest("a", LONG)
    order = await rig.order("a")
    rig.accounts["a"].pause(Hold("a", rig.clock.now_ms(), "operator (Li)", "prices are wrong"))
    return order


@situation(A, f"a, which is paused until {UTC}: the supplier refuses us")
async def the_account_is_refused(rig: Rig) -> Order:
    rig.rest("a", LONG)
    order = await rig.order("a")
    rig.accounts["a"].heard(NotSent(cause=NotSentCause.CONFIGURATION, detail="unknown app id"))
    return order


@situation(A, f"the time until which the supplier asked us to wait, {UTC}; a, which rests", "NotSent rate_limited")
async def the_supplier_asked_to_wait(rig: Rig) -> Order:
    rig.script.place = answers(rate_limited(LONG))
    order = await rig.order("a")
    return await rig.when(order, lambda now: now.purchases[0].not_before)


@situation({"a": traits(needs_token=True)}, "an access token of a")
async def it_waits_for_a_token(rig: Rig) -> Order:
    async def no_token(_asked: Asked) -> Reply:
        await asyncio.Event().wait()
        return TOKEN.encode()

    rig.script.__dict__["token"] = no_token
    order = await rig.order("a")
    await until(lambda: rig.script.token_calls)
    return order


@situation(A, "its turn at a: at most 0.01 calls a second")
async def it_waits_for_its_turn(rig: Rig) -> Order:
    account = rig.accounts["a"]
    account.plan = replace(account.plan, max_calls_per_second=0.01)
    account._turns = Turns(rig.clock, 0.01)
    await rig.order("a", "1")
    return await rig.order("a", "2")


@situation(A, "purchase [0-9A-Z]{26}: purchases for one recipient go one after another")
async def it_is_held_back_by_another_for_the_same_recipient(rig: Rig) -> Order:
    async with hanging(rig):
        return await rig.order(TOPUP, quantity=2, recipient=PHONE)


@situation(A, "the next start: the server is draining")
async def the_server_is_draining(rig: Rig) -> Order:
    rig.rest("a", LONG)
    order = await rig.order("a")
    await rig.engine.drain()
    return order


@situation(A, f"the supplier's answer: the request is on its way, and unknown after {PATIENCE:.0f} s")
async def it_is_on_its_way(rig: Rig) -> Order:
    async with hanging(rig):
        return await rig.order("a")


@situation(
    GRACE,
    rf"a look that finds it; 'not found' proves nothing before the grace period ends at {UTC}; the next look is at",
    "Unclear ",
    also=lambda reply: reply.purchases[0].last_look == "Absent",
)
async def it_is_unknown_in_its_grace_period(rig: Rig) -> Order:
    rig.script.place = hangs_up
    order = await rig.order("a")
    await rested(rig, order)
    return order


@situation(
    QUICK_TO_DOUBT,
    f"the supplier's answer: the exchange stays open for {PATIENCE:.0f} s, and late answers count",
    "Unclear no",
)
async def its_exchange_is_still_open(rig: Rig) -> Order:
    async with hanging(rig):
        order = await rig.order("a")
    return await rig.when_state(order, OrderState.OUTCOME_UNKNOWN)


@situation(
    NO_QUERY,
    rf"the supplier offers no query: its callback tells \(until {UTC}, then a person looks\)",
    "Unclear unread",
)
async def it_is_unknown_without_a_query(rig: Rig) -> Order:
    rig.script.place = answers(CARD.encode())
    return await rig.when_state(await rig.order("a"), OrderState.OUTCOME_UNKNOWN)


@situation(GRACE, "a look that finds nothing: the refusal alone isn't certain", r"Refused 9: no \(not certain\)")
async def it_is_refused_but_not_for_certain(rig: Rig) -> Order:
    rig.script.place = answers(refused(certain=False))
    rig.script.query = answers(CARD.encode())
    return await rig.when_state(await rig.order("a"), OrderState.OUTCOME_UNKNOWN)


@situation(GRACE, "a look that finds it: the supplier called back about it", "CalledBack verified")
async def it_is_unknown_and_called_back(rig: Rig) -> Order:
    rig.script.place = hangs_up
    order = await rig.when_state(await rig.order("a"), OrderState.OUTCOME_UNKNOWN)
    await rig.callback("a", order.purchases[0].number)
    return await rig.when(order, lambda now: now.purchases[0].called_back)


@situation(
    RARELY,
    f"the delivery: the supplier took it; the next look is at {UTC}",
    "Accepted",
    also=lambda reply: reply.purchases[0].looks > 0 and reply.purchases[0].last_look == "Accepted",
)
async def it_is_accepted_and_looked_at(rig: Rig) -> Order:
    rig.script.place = rig.script.query = accepts_it
    order = await rig.order("a")
    await rested(rig, order)
    return order


@situation(NO_QUERY, "the delivery: the supplier took it; the supplier offers no query: its callback tells", "Accepted")
async def it_is_accepted_without_a_query(rig: Rig) -> Order:
    rig.script.place = accepts_it
    return await rig.when_state(await rig.order("a"), OrderState.PROCESSING)


@situation(RARELY, "the rest of the cards: 1 of 2 came", "Delivered")
async def a_card_is_missing(rig: Rig) -> Order:
    rig.script.place = rig.script.query = answers(delivered(CARD, complete=False))
    return await rig.when(await rig.order("pack", quantity=2), lambda now: now.card_count)


@situation(
    {"a": traits(settle_by=0.2, look_delays=(0.01, LONG))},
    r"an operator's decision \(deadline\), or clean evidence: the next look is at",
    "DeadlinePassed",
    also=lambda reply: reply.purchases[0].settle_deadline.ToMilliseconds() < reply.update_time.ToMilliseconds(),
)
async def its_deadline_passed(rig: Rig) -> Order:
    rig.script.place = rig.script.query = accepts_it
    order = await rig.when_state(await rig.order("a"), OrderState.NEEDS_REVIEW)
    await until(lambda: rig.engine.outlook(order)[order.purchases[0].number].looks.next_at)
    return order


@situation(
    RARELY, r"an operator's decision \(contradiction\)", "Unclear the supplier's own order number was S1 and is now S2"
)
async def the_supplier_contradicts_itself(rig: Rig) -> Order:
    rig.script.place, rig.script.query = answers(accepted("S1")), answers(accepted("S2"))
    return await rig.when_state(await rig.order("a"), OrderState.NEEDS_REVIEW)


@situation(A, r"an operator's decision \(too_many_cards\)", "Delivered 2 cards listed, 1 ordered")
async def too_many_cards_came(rig: Rig) -> Order:
    rig.script.place = answers(delivered(CARD, f"{CARD}-2"))
    return await rig.when_state(await rig.order("a"), OrderState.NEEDS_REVIEW)


@situation(A, r"an operator's decision \(partial_refund\)", "Refunded 0.40 of 1.00 yuan came back")
async def a_part_of_the_money_came_back(rig: Rig) -> Order:
    rig.script.place = answers(refunded(4_000, 10_000))
    return await rig.when_state(await rig.order("a"), OrderState.NEEDS_REVIEW)


@situation(A, "", "OVERCHARGED charged 3.00 yuan, the limit was 2.00 yuan")
async def it_was_overcharged(rig: Rig) -> Order:
    rig.script.place = answers(delivered(CARD, cost=30_000))
    return await rig.when_state(await rig.order("a"), OrderState.FULFILLED)


@situation(
    {"a": traits(aftersale_watch=0.1, aftersale_every=0.05)},
    "",
    "CARDS_CHANGED after the delivery 1 card listed, 1 ordered: of 1 known before 1 are missing and 0 changed",
)
async def the_cards_changed_after_the_delivery(rig: Rig) -> Order:
    rig.script.place = answers(delivered(a_card(CARD, number="1")))
    rig.script.query = answers(delivered(a_card(CARD, number="2")))
    return await rig.when(await rig.order("a"), lambda now: now.reviews and now.settled_at)


@situation(
    {"a": traits(aftersale_watch=LONG, aftersale_every=0.05)},
    f"the end of the watch over disputes and refunds at {UTC}",
    "DISPUTED in dispute: 1 of 1 cards",
)
async def a_delivery_is_disputed(rig: Rig) -> Order:
    rig.script.place = answers(delivered(a_card(CARD, number="1")))
    rig.script.query = answers(delivered(a_card(CARD, number="1", sale=AfterSale.DISPUTED)))
    return await rig.when(await rig.order("a"), lambda now: now.reviews)


@situation(
    TWO, "", "Delivered", (r"USED the first offer", r"USED after purchase \w{26} at a ended \(out_of_stock: 9: no\)")
)
async def it_was_bought_at_the_next_offer(rig: Rig) -> Order:
    async def place(asked: Asked) -> Reply:
        return refused(about=RefusedFor.STOCK) if asked.account == "a" else delivered(CARD)

    rig.script.place = place
    return await rig.when_state(await rig.order(BOTH), OrderState.FULFILLED)


@situation(TWO, "", "Delivered", ("USED the first offer", "NOT_NEEDED not needed so far: the units are bought"))
async def the_next_offer_is_not_needed(rig: Rig) -> Order:
    rig.script.place = answers(delivered(CARD))
    return await rig.when_state(await rig.order(BOTH), OrderState.FULFILLED)


@situation(
    TWO,
    "",
    "Refused 9: no",
    ("USED the first offer", r"NOT_TRIED purchase \w{26} at a ended \(recipient_refused: 9: no\): the recipient was"),
)
async def the_next_offer_is_not_tried(rig: Rig) -> Order:
    rig.script.place = answers(refused(about=RefusedFor.RECIPIENT))
    return await rig.when_state(await rig.order(BOTH), OrderState.FAILED)


@situation(
    TWO,
    "",
    "Delivered",
    (
        "PAUSED its account was paused when the order was made: an operator paused it",
        "USED the first offer that could be",
    ),
)
async def the_first_offer_was_paused(rig: Rig) -> Order:
    rig.accounts["a"].pause(Hold("a", rig.clock.now_ms(), "operator (Li)", "prices are wrong"))
    rig.script.place = answers(delivered(CARD))
    return await rig.when_state(await rig.order(BOTH), OrderState.FULFILLED)


@situation({"a": traits(not_found_grace=0.05)}, "", "AbsenceProven two looks after grace")
async def it_was_never_received(rig: Rig) -> Order:
    rig.script.place = hangs_up
    return await rig.when_state(await rig.order("a"), OrderState.FAILED)


@situation({"a": traits(send_by=0.05)}, "", "DeadlinePassed")
async def it_was_not_sent_in_time(rig: Rig) -> Order:
    rig.rest("a", LONG)
    return await rig.when_state(await rig.order("a"), OrderState.FAILED)


@situation(A, "", "CancelConfirmed cancelled by the client before it was sent")
async def it_was_cancelled_unsent(rig: Rig) -> Order:
    rig.rest("a", LONG)
    return await rig.engine.cancel(await rig.order("a"))


@situation(A, "", "CancelConfirmed")
async def it_was_taken_down(rig: Rig) -> Order:
    rig.script.place = rig.script.query = accepts_it
    rig.script.cancel = answers(CANCELLED)
    order = await rig.when_state(await rig.order("a"), OrderState.PROCESSING)
    await rig.engine.cancel(order)
    return await rig.when_state(order, OrderState.CANCELLED)


@situation(NO_QUERY, "", "LATE_SUCCESS a purchase given up as dead was taken or delivered after all")
async def a_success_came_late(rig: Rig) -> Order:
    rig.script.place = answers(refused())
    order = await rig.when_state(await rig.order("a"), OrderState.FAILED)
    await rig.callback("a", order.purchases[0].number, delivered(CARD))
    return await rig.when(order, lambda now: now.reviews)


@situation(A, "its account isn't configured any more", "Accepted")
async def its_account_is_gone(rig: Rig) -> Order:
    rig.script.place, rig.script.query = accepts_it, finds_nothing
    order = await rig.when_state(await rig.order("a"), OrderState.PROCESSING)
    await rig.restart({"b": traits()})
    return order


async def rested(rig: Rig, order: Order) -> None:
    """Looks were made, and the next is far away."""

    def far_away() -> bool:
        looks = rig.engine.outlook(order)[order.purchases[0].number].looks
        return looks.made > 0 and looks.next_at > rig.clock.now_ms() + 60_000

    await until(far_away)


# --- The three questions ----------------------------------------------------------------------------------------------


def proofs(purchase: pb.Purchase) -> list[str]:
    """Everything that proves something about a purchase, one line each."""
    items = [
        f"{pb.ReviewReason.Name(i.reason).removeprefix('REVIEW_REASON_')} {i.detail}" for i in purchase.review_items
    ]
    return [f"{piece.outcome} {piece.detail}" for piece in purchase.evidence] + items


@pytest.mark.rule("O14")
@pytest.mark.parametrize("it", SITUATIONS, ids=lambda it: it.play.__name__)
async def test_an_explained_order_answers_every_question_and_shows_no_secret(rigged: Rigged, it: Situation) -> None:
    """Why this supplier, why this late, what proves it; in every situation that an order can be in."""
    rig = await rigged(max_in_flight=it.max_in_flight, **it.accounts)
    order = await it.play(rig)
    reply = await explain(rig, order)
    last = reply.purchases[-1]

    # Why this supplier: every offer is there and says why; every purchase belongs to one.
    lines = [f"{pb.OfferUse.Name(offer.use).removeprefix('OFFER_USE_')} {offer.why}" for offer in reply.offers]
    assert len(lines) == len(it.offers)
    assert all(re.match(pattern, line) for pattern, line in zip(it.offers, lines, strict=True)), lines
    of_offers = [number for offer in reply.offers for number in offer.purchase_numbers]
    assert sorted(of_offers) == sorted(purchase.number for purchase in reply.purchases)

    # Why this late: what is open says what it waits for, and until when.
    assert re.match(it.waits or "$", last.waits_for), last.waits_for
    for purchase in reply.purchases:
        in_doubt = purchase.state in OPEN or purchase.review_reason
        assert bool(purchase.waits_for) >= bool(in_doubt)
        if purchase.supplier in rig.accounts:
            assert purchase.HasField("send_deadline")
            assert purchase.HasField("settle_deadline") == purchase.HasField("intent_time")

    # What proves it: what ended or stands in doubt has evidence, and what a person should look at says what differs.
    for purchase in reply.purchases:
        unsent = purchase.state in (pb.PURCHASE_STATE_WAITING, pb.PURCHASE_STATE_SUBMITTING)
        assert purchase.evidence or unsent
        assert all(item.detail for item in purchase.review_items)
    assert any(re.match(it.proof, line) for line in proofs(last)) or not it.proof, proofs(last)
    assert it.also(reply)

    shown = words(reply)
    assert [secret for secret in (CARD, TOKEN, "token1", PHONE.value) if secret in shown] == []


# --- Why this late, asked afterwards ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delay:
    """How an order is kept from being sent, and a pattern of what each attempt of its last purchase waited for."""

    play: Play
    accounts: dict[str, Traits]
    attempts: tuple[str, ...]
    max_in_flight: int


DELAYS: list[Delay] = []
AT_ONCE = ""
SLOT = "a free slot at a: 1 of 1 requests are under way"
RECIPIENT = r"purchase \w{26}: purchases for one recipient go one after another"
START = f"the server's start at {UTC}, which found it waiting"
WHO = "operator (Li)"


def delay(accounts: dict[str, Traits], *attempts: str, max_in_flight: int = 16) -> Callable[[Play], Play]:
    """Enters a delay."""

    def enter(play: Play) -> Play:
        DELAYS.append(Delay(play, accounts, attempts, max_in_flight))
        return play

    return enter


@delay(A, AT_ONCE)
async def nothing_stood_in_the_way(rig: Rig) -> Order:
    return await rig.order("a")


@delay(A, f"a, which rests until {UTC}: rate_limited")
async def the_account_rested(rig: Rig) -> Order:
    rig.rest("a", LONG)
    order = await rig.order("a")
    await time_passes(rig)
    return order


@delay(A, SLOT, max_in_flight=1)
async def every_slot_was_taken(rig: Rig) -> Order:
    order, gate = await behind_another(rig)
    gate.set()
    return order


@delay(A, f"{SLOT}; an operator, who paused a at {UTC}", max_in_flight=1)
async def an_operator_paused_the_account(rig: Rig) -> Order:
    order, gate = await behind_another(rig)
    await rig.engine.reviews.pause("a", by=WHO, reason="prices are wrong")
    await until_idle(rig, gate)
    await rig.engine.reviews.resume("a", by=WHO, reason="prices are right")
    return order


@delay(A, f"{SLOT}; a, which is paused until {UTC}: the supplier refuses us", max_in_flight=1)
async def the_supplier_refused_us(rig: Rig) -> Order:
    order, gate = await behind_another(rig)
    rig.accounts["a"].heard(NotSent(cause=NotSentCause.CONFIGURATION, detail="unknown app id"))
    await until_idle(rig, gate)
    await rig.engine.reviews.resume("a", by=WHO, reason="the app id is known now")
    return order


@delay(A, "its turn at a: at most 0.01 calls a second")
async def it_waited_for_its_turn(rig: Rig) -> Order:
    order = await it_waits_for_its_turn(rig)
    await until(lambda: rig.accounts["a"].in_flight == 0)
    await time_passes(rig)
    return order


@delay({"a": traits(needs_token=True)}, "an access token of a")
async def it_waited_for_a_token(rig: Rig) -> Order:
    return await rig.order("a")


@delay({"a": traits(look_delays=(LONG,))}, RECIPIENT)
async def another_went_to_the_same_recipient(rig: Rig) -> Order:
    return await rig.order(TOPUP, quantity=2, recipient=PHONE)


@delay(
    A,
    AT_ONCE,
    "another try, after NotSent rate_limited; "
    f"the time until which the supplier asked us to wait, {UTC}; a, which rests until {UTC}: rate_limited",
)
async def the_supplier_wanted_it_later(rig: Rig) -> Order:
    rig.script.place = in_turn(rate_limited(60.0))
    order = await rig.order("a")
    await until(lambda: rig.accounts["a"].in_flight == 0)
    await time_passes(rig)
    return order


@delay(
    {"a": traits(not_found_grace=0.05, absence_resends=2)},
    AT_ONCE,
    *["another try, after AbsenceProven will be .*"] * 2,
)
async def the_same_number_was_sent_again(rig: Rig) -> Order:
    rig.script.place = in_turn(hangs_up, hangs_up)
    return await rig.order("a")


@delay(
    GRACE,
    rf"(a, which rests until {UTC}: 3 .*; )?a, which rests until {UTC}: 3 purchases in a row .*; one is being tried",
)
async def another_purchase_was_being_tried(rig: Rig) -> Order:
    rig.script.place = hangs_up
    for name in "123":
        await rig.when_state(await rig.order("a", name), OrderState.OUTCOME_UNKNOWN)
    gate = asyncio.Event()
    rig.script.place = after(gate, delivered(CARD))
    await rig.order("a", "tried")
    order = await rig.order("a", "late")
    await until(lambda: len(rig.script.places()) == 4)
    gate.set()
    return order


@delay({"a": traits(queryable=False)}, f"an operator's decision, who had its units bought again at {UTC}")
async def an_operator_had_it_bought_again(rig: Rig) -> Order:
    rig.script.place = in_turn(CONTRADICTION)
    order = await rig.when_state(await rig.order("a"), OrderState.NEEDS_REVIEW)
    again = Verdict(decision=Decision.BUY_AGAIN, reason="they told us", by=WHO, cards=(), kept=False)
    await rig.engine.reviews.resolve(order.order_id, order.purchases[0].number, again)
    return order


@delay(A, START)
async def the_server_was_down(rig: Rig) -> Order:
    rig.rest("a", LONG)
    order = await rig.order("a")
    await rig.restart(A)
    return order


@delay(A, f"{START}; an operator, who paused a at {UTC}")
async def the_server_was_down_and_the_account_paused(rig: Rig) -> Order:
    rig.rest("a", LONG)
    order = await rig.order("a")
    await rig.engine.reviews.pause("a", by=WHO, reason="prices are wrong")
    await rig.restart(A)
    await rig.engine.reviews.resume("a", by=WHO, reason="prices are right")
    return order


@delay(A, f"{START}; {RECIPIENT}")
async def the_server_was_down_and_another_first(rig: Rig) -> Order:
    async with hanging(rig):
        order = await rig.order(TOPUP, quantity=2, recipient=PHONE)
    rig.script.place = rig.script.query = answers(delivered())
    await rig.restart(A)
    return order


@delay(TWO, AT_ONCE)
async def the_first_offer_was_refused(rig: Rig) -> Order:
    rig.script.place = in_turn(refused())
    return await rig.order(BOTH)


def in_turn(*replies: Said | Handler) -> Handler:
    """The supplier does one after another, and delivers then."""
    left = list(replies)

    async def handler(asked: Asked) -> Reply:
        reply = left.pop(0) if left else delivered(CARD)
        return await reply(asked) if callable(reply) else reply

    return handler


async def behind_another(rig: Rig) -> tuple[Order, asyncio.Event]:
    """An order that waits for the answer to another one, which comes when the gate opens."""
    gate = asyncio.Event()
    rig.script.place = after(gate, delivered(CARD))
    await rig.order("a", "1")
    return await rig.order("a", "2"), gate


async def time_passes(rig: Rig) -> None:
    """Every rest and every wait for the supplier is over."""
    rig.clock.advance(LONGEST_RETRY_AFTER + 1.0)
    rig.engine._dispatcher.wake(rig.accounts["a"])


async def until_idle(rig: Rig, gate: asyncio.Event) -> None:
    gate.set()
    await until(lambda: rig.accounts["a"].in_flight == 0)


@pytest.mark.parametrize("it", DELAYS, ids=lambda it: it.play.__name__)
async def test_a_delivered_order_still_tells_why_it_was_late(
    rigged: Rigged, it: Delay, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each attempt says since when it had waited and what for, long after it is over; on the command line as well."""
    rig = await rigged(max_in_flight=it.max_in_flight, **it.accounts)
    order = await it.play(rig)
    await rig.when_state(order, OrderState.FULFILLED)
    reply = await explain(rig, order)
    attempts = reply.purchases[-1].attempts
    told = [attempt.waited_for for attempt in attempts]
    assert len(told) == len(it.attempts), told
    assert all(re.fullmatch(pattern, why) for pattern, why in zip(it.attempts, told, strict=True)), told

    times = [reply.create_time.ToMilliseconds()]
    for attempt in attempts:
        assert attempt.HasField("waited_since") == bool(attempt.waited_for)
        times += [attempt.waited_since.ToMilliseconds()] if attempt.waited_for else []
        times.append(attempt.time.ToMilliseconds())
    assert times == sorted(times)

    print_order(Output("table"), reply, show_cards=False)
    printed = capsys.readouterr().out
    assert printed.count("  attempt at ") == sum(len(purchase.attempts) for purchase in reply.purchases)
    assert all(f" for {why}\n" in printed for why in told if why)
    shown = words(reply)
    assert [secret for secret in (CARD, TOKEN, "token1", PHONE.value) if secret in shown] == []


async def test_of_many_attempts_the_first_and_the_latest_are_kept(rigged: Rigged) -> None:
    """A supplier that is down for a day doesn't make an order grow."""
    rig = await rigged(a=traits())
    rig.rest("a", LONG)
    order = await rig.order("a")
    [waiting] = order.purchases
    for at in range(1, 21):
        order = intend(order, waiting.number, owner="me", at=at, waited_since=at - 1, waited_for="a rest")
        order = order.with_purchase(replace(order.purchases[0], state=PurchaseState.WAITING))
    [purchase] = order_message(order, (), View.EXPLAINED).purchases
    assert [attempt.time.ToMilliseconds() for attempt in purchase.attempts] == [1, 2, 3, *range(14, 21)]


def test_what_one_attempt_waited_for_stays_short() -> None:
    """Whatever an account met while a purchase waited for it: the latest obstacles are told, and none of others."""
    waits = Waits(Clock())
    waits.queued("N1", {"again": "another try"})
    for n in range(50):
        waits.blocked("a", f"rest {n}", f"a, which rests: {n} " + 200 * "x")
    waits.blocked("b", "slot", "a free slot at b")
    waits.taken("N1", "a")
    _, told = waits.told("N1")
    assert told.startswith("another try; a, which rests: 46 ")
    assert len(told) == LONGEST_WORDS
    assert " at b" not in told


async def test_nothing_is_remembered_of_a_wait_that_is_over(rigged: Rigged) -> None:
    """Neither of a purchase that was sent nor of one that never will be."""
    rig = await rigged(a=traits())
    rig.rest("a", LONG)
    sent = await rig.order("a", "sent")
    assert rig.engine.ledger.waits._waits.keys() == {sent.purchases[0].number}
    await time_passes(rig)
    await rig.when_state(sent, OrderState.FULFILLED)
    rig.rest("a", LONG)
    cancelled = await rig.order(TOPUP, "cancelled", quantity=2, recipient=PHONE)
    assert rig.engine.ledger.waits._waits.keys() == {purchase.number for purchase in cancelled.purchases}
    await rig.engine.cancel(cancelled)
    assert not rig.engine.ledger.waits._waits


async def test_looks_are_counted_across_states_and_forgotten_with_the_process(rigged: Rigged) -> None:
    """A look without news writes nothing: what is known of looks lives in memory."""
    rig = await rigged(a=GRACE["a"])
    rig.script.place, rig.script.query = hangs_up, answers(ABSENT)
    order = await rig.order("a")
    await rested(rig, order)
    rig.script.query = accepts_it
    await rig.callback("a", order.purchases[0].number)
    revision = (await rig.when_state(order, OrderState.PROCESSING)).revision
    await rested(rig, order)
    assert (await rig.stored(order)).revision == revision
    [purchase] = (await explain(rig, order)).purchases
    assert purchase.looks == len(rig.script.queries)
    assert purchase.last_look_time.ToMilliseconds() >= purchase.intent_time.ToMilliseconds()

    before = len(rig.script.queries)
    await rig.restart(GRACE)
    await rested(rig, order)
    [purchase] = (await explain(rig, order)).purchases
    assert purchase.looks == len(rig.script.queries) - before


@pytest.mark.rule("O14")
async def test_a_look_that_could_not_be_made_says_so(rigged: Rigged) -> None:
    """An operator sees that the supplier can't be asked, though nothing about the order changed."""
    rig = await rigged(a=traits(look_delays=(0.01, LONG)))
    rig.script.place, rig.script.query = accepts_it, answers(rate_limited(7))
    order = await rig.order("a")
    await rested(rig, order)
    [purchase] = (await explain(rig, order)).purchases
    assert purchase.last_look == "NotSent: rate_limited"
    assert [piece.outcome for piece in purchase.evidence] == ["Accepted"]
