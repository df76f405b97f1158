"""Operators' decisions over the wire: who may take them, what is wrong with them, and what they answer."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from reward_adapters.contract import ProductKind, Recipient, RecipientKind
from reward_server.domain.order import (
    Order,
    OrderState,
    PurchaseState,
    ReviewItem,
    ReviewReason,
)
from reward_server.store import Change
from rewardservice.v1 import operator_service_pb2 as pb
from rewardservice.v1 import order_pb2 as order_pb

from .test_operator_service import Dealer, Operated, call, desk
from .world import clock, refused, world

WHY = "they told us"


@pytest.fixture
async def operated(tmp_path: Path) -> AsyncIterator[Operated]:
    async with desk() as it, world(tmp_path, suppliers={"kss_a": Dealer(it.url)}) as served:
        yield Operated(served, it)


async def an_order(operated: Operated, client: str = "shop", **purchase: Any) -> Order:
    """An order whose purchase was accepted and stands as a test says."""
    created = await operated.world.api(f"{client}-key").create()
    order = await operated.world.store.order(client, created.order.order_id)
    assert order is not None
    values = {"state": PurchaseState.ACCEPTED, "written_until": clock.now_ms(), **purchase}
    after = replace(
        order.with_purchase(replace(order.purchases[0], **values)),
        state=OrderState.NEEDS_REVIEW,
        revision=order.revision + 1,
    )
    assert await operated.world.store.save(Change(order=after, visible=False))
    return after


async def in_review(operated: Operated, client: str = "shop", **purchase: Any) -> Order:
    values = {"review": ReviewReason.CONTRADICTION, "review_at": clock.now_ms(), **purchase}
    return await an_order(operated, client, **values)


def about(order: Order, decision: str = "FAIL", **fields: Any) -> dict[str, Any]:
    """A decision about an order's first purchase."""
    return {
        "order_id": order.order_id,
        "purchase_number": order.purchases[0].number,
        "decision": f"DECISION_{decision}",
        "reason": WHY,
        **fields,
    }


async def test_what_waits_for_a_person_is_listed_across_clients(operated: Operated) -> None:
    """With what a person needs to look into it, who waits longest first, page by page."""
    item = ReviewItem(ReviewReason.OVERCHARGED, 1_500, "charged 2 yuan")
    late = await in_review(operated, "other", review_at=2_000, items=(item,), supplier_reference="S1")
    early = await in_review(operated, "shop", review_at=1_000)
    first = await operated.call("ListReviews", page_size=1)
    second = await operated.call("ListReviews", page_size=1, page_token=first.next_page_token)
    assert ([review.order_id for review in first.reviews], second.next_page_token) == ([early.order_id], "")
    [review] = second.reviews
    assert (review.order_id, review.client_id, review.state) == (
        *(late.order_id, "other", order_pb.ORDER_STATE_NEEDS_REVIEW),
    )
    blocking, beside = review.open
    assert (blocking.purchase_number, blocking.supplier, blocking.keeps_open) == (
        *(late.purchases[0].number, "kss_a", True),
    )
    assert (blocking.open_time.ToMilliseconds(), blocking.supplier_reference) == (2_000, "S1")
    assert (beside.reason, beside.detail, beside.keeps_open) == (
        *(order_pb.REVIEW_REASON_OVERCHARGED, "charged 2 yuan", False),
    )
    found = await operated.call("ListReviews", reason=order_pb.REVIEW_REASON_OVERCHARGED)
    assert [review.order_id for review in found.reviews] == [late.order_id]
    assert not (await operated.call("ListReviews", supplier="kss_b")).reviews


async def test_a_page_token_of_another_query_is_refused(operated: Operated) -> None:
    """As everywhere."""
    for _ in range(2):
        await in_review(operated)
    token = (await operated.call("ListReviews", page_size=1)).next_page_token
    refusal = await operated.refusal("ListReviews", supplier="kss_a", page_token=token)
    assert list(refusal.violations) == ["page_token"]
    assert list((await operated.refusal("ListAuditEntries", page_token=token)).violations) == ["page_token"]


async def test_a_decision_answers_with_the_explained_order(operated: Operated) -> None:
    """As operators see it: no card in full, and nobody's number."""
    order = await in_review(operated)
    cards = [pb.EnteredCard(number="6220 0000 0001", secret="REDEEMS-IT")]
    resolved = (await operated.call("ResolveOrder", **about(order, "DELIVERED", cards=cards, actor="Li"))).order
    assert resolved.state == order_pb.ORDER_STATE_FULFILLED
    assert "REDEEMS-IT" not in str(resolved)
    [card] = resolved.cards
    assert (card.masked, card.kind) == (True, order_pb.CARD_KIND_NUMBER_AND_SECRET)
    [*_, evidence] = resolved.purchases[0].evidence
    assert (evidence.source, evidence.outcome, evidence.detail) == (
        *("operator", "OperatorDelivered", f"operator (Li): {WHY}"),
    )
    shown = await operated.world.api().get(order.order_id, "FULL")
    assert [card.secret for card in shown.cards] == ["REDEEMS-IT"]


async def test_a_part_is_delivered_and_the_rest_fails(operated: Operated) -> None:
    """Too few cards are refused until the operator says what becomes of the other units; the record says it, too."""
    order = await in_review(operated)
    two = replace(order.purchases[0], quantity=2)
    order = replace(order.with_purchase(two), quantity=2, revision=order.revision + 1)
    assert await operated.world.store.save(Change(order=order, visible=False))
    cards = [pb.EnteredCard(secret="REDEEMS-IT")]
    refusal = await operated.refusal("ResolveOrder", **about(order, "DELIVERED", cards=cards))
    assert refusal.reason == "DECISION_REFUSED"
    resolved = (await operated.call("ResolveOrder", **about(order, "DELIVERED", cards=cards, rest=pb.REST_FAIL))).order
    assert (resolved.state, resolved.delivered_quantity) == (order_pb.ORDER_STATE_PARTIALLY_FULFILLED, 1)
    assert resolved.failure.message == WHY
    [entry] = (await operated.call("ListAuditEntries", only_decisions=True)).entries
    assert entry.what == "delivered_rest_fail"


async def test_a_recipient_is_masked_in_the_answer(operated: Operated) -> None:
    """Whom it is for isn't an operator's business."""
    order = await in_review(operated)
    phone = Recipient(RecipientKind.PHONE, "13800138000", "+86")
    topup = replace(order, product_kind=ProductKind.TOPUP, recipient=phone, revision=order.revision + 1)
    assert await operated.world.store.save(Change(order=topup, visible=False))
    resolved = (await operated.call("ResolveOrder", **about(order))).order
    assert resolved.state == order_pb.ORDER_STATE_FAILED
    assert resolved.recipient.phone.number == "*******8000"


@pytest.mark.rule("O13")
async def test_clients_see_a_decision_on_their_stream(operated: Operated) -> None:
    """As an update with the operator's words where units fail."""
    order = await in_review(operated)
    stream = operated.world.api().stream(order_ids=[order.order_id])
    await stream.skip_to("snapshot_end")
    await operated.call("ResolveOrder", **about(order))
    [update] = await stream.updates(1)
    assert (update.order.state, update.order.failure.message) == (order_pb.ORDER_STATE_FAILED, WHY)
    assert update.order.version == order.version + 1


async def test_a_decision_that_does_not_fit_is_refused(operated: Operated) -> None:
    """With the purchase, its state, and why not."""
    order = await in_review(operated)
    refusal = await operated.refusal("ResolveOrder", **about(order, "DISMISS"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DECISION_REFUSED")
    assert refusal.metadata["purchase_number"] == order.purchases[0].number
    assert (refusal.metadata["order_id"], refusal.metadata["state"]) == (order.order_id, "accepted")
    assert not (await operated.call("ListAuditEntries", only_decisions=True)).entries


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"order_id": "none"}, "ORDER_NOT_FOUND"), ({"purchase_number": "none"}, "PURCHASE_NOT_FOUND")],
)
async def test_what_there_is_not(operated: Operated, fields: dict[str, str], reason: str) -> None:
    """An order or a purchase that isn't one."""
    order = await in_review(operated)
    refusal = await operated.refusal("ResolveOrder", **about(order, **fields))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, reason)


CARD = pb.EnteredCard(secret="s")


@pytest.mark.parametrize(
    ("method", "fields", "wrong"),
    [
        ("ResolveOrder", {}, ["order_id", "purchase_number", "decision", "reason"]),
        ("ResolveOrder", {"decision": 9}, ["order_id", "purchase_number", "decision", "reason"]),
        ("ListReviews", {"reason": 99, "page_size": 201, "supplier": "x" * 65}, ["supplier", "reason", "page_size"]),
        ("ListAuditEntries", {"page_size": -1}, ["page_size"]),
        ("PauseSupplier", {}, ["supplier", "reason"]),
        ("ResumeSupplier", {"supplier": "a", "reason": "x" * 501}, ["reason"]),
        ("PauseSupplier", {"supplier": "a", "reason": " ", "actor": "a\nb"}, ["actor", "reason"]),
    ],
)
async def test_what_is_wrong_is_named(
    operated: Operated, method: str, fields: dict[str, Any], wrong: list[str]
) -> None:
    """All of it at once."""
    refusal = await operated.refusal(method, **fields)
    assert refusal.reason == "INVALID_REQUEST"
    assert list(refusal.violations) == wrong


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"decision": pb.DECISION_FAIL, "cards": [CARD], "deliver_kept_cards": True}, ["cards", "deliver_kept_cards"]),
        ({"decision": pb.DECISION_BUY_AGAIN, "rest": pb.REST_FAIL}, ["rest"]),
        ({"decision": pb.DECISION_DELIVERED, "rest": 9}, ["rest"]),
        ({"decision": pb.DECISION_DELIVERED, "cards": [CARD] * 101}, ["cards"]),
        ({"decision": pb.DECISION_DELIVERED, "cards": [CARD, pb.EnteredCard(instructions="how")]}, ["cards[1]"]),
        (
            {"decision": pb.DECISION_DELIVERED, "cards": [pb.EnteredCard(qr=order_pb.QrCode(content="x" * 2_001))]},
            ["cards[0].qr.content"],
        ),
        ({"decision": pb.DECISION_DISMISS, "purchase_number": "x" * 65}, ["purchase_number"]),
    ],
)
async def test_wrong_cards_are_named(operated: Operated, fields: dict[str, Any], wrong: list[str]) -> None:
    """By their places, without what stands in them."""
    refusal = await operated.refusal(
        "ResolveOrder", **{"order_id": "o", "purchase_number": "n", "reason": "r", **fields}
    )
    assert list(refusal.violations) == wrong


@pytest.mark.parametrize(
    ("card", "kind"),
    [
        (pb.EnteredCard(secret="s"), "CODE"),
        (pb.EnteredCard(number="n"), "CODE"),
        (pb.EnteredCard(number="n", secret="s"), "NUMBER_AND_SECRET"),
        (pb.EnteredCard(link="l"), "LINK"),
        (pb.EnteredCard(link="l", secret="s"), "LINK_AND_SECRET"),
        (pb.EnteredCard(qr=order_pb.QrCode(content="q"), link="l"), "QR"),
    ],
)
async def test_the_kind_of_an_entered_card_follows_from_its_fields(
    operated: Operated, card: pb.EnteredCard, kind: str
) -> None:
    """Nobody has to know our words for it."""
    order = await in_review(operated)
    resolved = (await operated.call("ResolveOrder", **about(order, "DELIVERED", cards=[card]))).order
    assert resolved.cards[0].kind == order_pb.CardKind.Value(f"CARD_KIND_{kind}")


@pytest.mark.rule("D15")
async def test_an_account_is_paused_and_resumed(operated: Operated) -> None:
    """Who did it and why is shown with the account, and stands in the record."""
    paused = (await operated.call("PauseSupplier", supplier="kss_a", reason="odd", actor="Li")).supplier
    assert (paused.state, paused.state_reason, paused.paused_by) == (pb.SUPPLIER_STATE_PAUSED, "odd", "operator (Li)")
    assert (paused.HasField("pause_time"), paused.HasField("state_end_time")) == (True, False)
    [listed] = (await operated.call("ListSuppliers")).suppliers
    assert (listed.paused_by, listed.pause_time) == (paused.paused_by, paused.pause_time)
    resumed = (await operated.call("ResumeSupplier", supplier="kss_a", reason="fine")).supplier
    assert (resumed.state, resumed.paused_by) == (pb.SUPPLIER_STATE_READY, "")
    assert [account.name for account in operated.world.woken] == ["kss_a"]
    entries = (await operated.call("ListAuditEntries", only_decisions=True)).entries
    assert [(entry.what, entry.by, entry.reason, entry.supplier) for entry in entries] == [
        ("resume", "operator", "fine", "kss_a"),
        ("pause", "operator (Li)", "odd", "kss_a"),
    ]
    refusal = await operated.refusal("PauseSupplier", supplier="none", reason="odd")
    assert refusal.reason == "SUPPLIER_NOT_FOUND"


@pytest.mark.rule("O13")
async def test_the_record_comes_newest_first_and_page_by_page(operated: Operated) -> None:
    """Decisions about orders among the others."""
    order = await in_review(operated)
    await operated.call("PauseSupplier", supplier="kss_a", reason="odd")
    await operated.call("ResolveOrder", **about(order))
    newest = await operated.call("ListAuditEntries", only_decisions=True, page_size=1)
    [entry] = newest.entries
    assert (entry.what, entry.order_id, entry.purchase_number) == ("fail", order.order_id, order.purchases[0].number)
    oldest = await operated.call(
        "ListAuditEntries", only_decisions=True, page_size=1, page_token=newest.next_page_token
    )
    assert ([entry.what for entry in oldest.entries], oldest.next_page_token) == (["pause"], "")


@pytest.mark.rule("O13")
@pytest.mark.parametrize(
    "method", ["ListReviews", "ResolveOrder", "PauseSupplier", "ResumeSupplier", "ListAuditEntries"]
)
async def test_only_operators_decide(operated: Operated, method: str) -> None:
    """A client that orders is none."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(operated.world.api(), method)
    assert refused(raised.value).metadata["permission"] == "operate"
