"""Suppliers' callbacks over HTTP: verified, recorded, answered as each supplier expects."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from reward_adapters.contract import Absent
from reward_sandbox import kuaiduibao
from reward_server.domain.moves import weigh_absence
from reward_server.domain.order import PurchaseState
from reward_server.store import PurchaseKey
from rewardservice.v1 import order_pb2

from .harness import OPERATOR, OTHER, USUAL, Service, State, caller, refused, service

PRODUCTS = (*USUAL, "kasushou/silent", "kasushou/topup", "kuaiduibao/callback-forged", "kuaiduibao/topup")
PHONE = order_pb2.Recipient(phone=order_pb2.PhoneNumber(area_code="+86", number="13800138000"))


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Service]:
    async with service(tmp_path, products=PRODUCTS) as one:
        yield one


async def post(running: Service, account: str, fields: dict[str, str]) -> tuple[int, bytes]:
    url = f"http://127.0.0.1:{running.place.http_port}/callbacks/{account}"
    async with aiohttp.ClientSession() as session, session.post(url, data=fields) as answer:
        return answer.status, await answer.read()


def kuaiduibao_sign(fields: dict[str, str]) -> str:
    """The documented rule, written here a third time: HMAC-SHA256 over the sorted fields."""
    text = "&".join(f"{name}={fields[name]}" for name in sorted(fields))
    return hmac.new(kuaiduibao.APP_SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize("product", ["kuaiduibao/topup", "kaquan91_recharge/topup", "kasushou/topup"])
async def test_a_callback_is_answered_so_that_the_supplier_stops_repeating(running: Service, product: str) -> None:
    """The sandbox checks the answer as its supplier does, and books it."""
    created = await running.client.create(product, "order-1", recipient=PHONE)
    await running.client.until(created.order.order_id)
    kind = product.split("/", maxsplit=1)[0]
    while not any(call["accepted"] for call in running.books(kind)[0]["callbacks"]):
        # A round trip over the same event loop lets the callback go on; the test's time-out bounds the wait.
        await running.client.get(created.order.order_id)
    assert len(running.books(kind)[0]["callbacks"]) == 1


@pytest.mark.rule("P8")
async def test_forged_callbacks_change_nothing(running: Service) -> None:
    """Wrong secret, missing signature, changed field, other supplier's rule: refused, and the order stays as it is."""
    running.sandbox.gate("kuaiduibao").hold()
    created = await running.client.create("kuaiduibao/topup", "order-1", recipient=PHONE)
    explained = await running.client.get(created.order.order_id, "EXPLAINED")
    number = explained.purchases[0].number
    good = {"out_trade_no": number, "order_no": "TO1", "status_code": "1"}
    signed = {**good, "_sign": kuaiduibao_sign(good)}
    forgeries = [
        good,
        {**good, "_sign": "0" * 64},
        {**signed, "status_code": "2"},
        {**signed, "extra": "1"},
        {**good, "_sign": hashlib.sha256(number.encode()).hexdigest()},
    ]
    for forged in forgeries:
        assert await post(running, "kuaiduibao", forged) == (404, b"")
    order = await running.client.get(created.order.order_id)
    assert (order.state, order.version) == (State.ORDER_STATE_ACCEPTED, 1)


@pytest.mark.rule("P8")
async def test_a_repeated_callback_has_one_effect(running: Service) -> None:
    """The same callback twice is acknowledged twice and moves the order once."""
    created = await running.client.create("kuaiduibao/topup", "order-1", recipient=PHONE)
    order = await running.client.until(created.order.order_id)
    explained = await running.client.get(order.order_id, "EXPLAINED")
    purchase = explained.purchases[0]
    fields = {"out_trade_no": purchase.number, "order_no": purchase.supplier_reference, "status_code": "1"}
    for _ in range(2):
        _, answer = await post(running, "kuaiduibao", {**fields, "_sign": kuaiduibao_sign(fields)})
        assert json.loads(answer)["status"] == 1
    assert (await running.client.get(order.order_id)).version == order.version


async def test_a_callback_that_names_another_supplier_order_goes_to_a_person(running: Service) -> None:
    """Signed, our number, but not the supplier's order that was bought: nothing is delivered by it."""
    # Nobody else calls back about it: the supplier forges, and is refused.
    created = await running.client.create("kuaiduibao/callback-forged", "order-1", recipient=PHONE)
    accepted = State.ORDER_STATE_PROCESSING
    order = await running.client.until(created.order.order_id, lambda order: order.state == accepted)
    explained = await running.client.get(order.order_id, "EXPLAINED")
    fields = {"out_trade_no": explained.purchases[0].number, "order_no": "TO-OTHER", "status_code": "1"}
    await post(running, "kuaiduibao", {**fields, "_sign": kuaiduibao_sign(fields)})
    after = await running.client.get(order.order_id)
    assert after.state == State.ORDER_STATE_NEEDS_REVIEW


@pytest.mark.rule("P8")
async def test_a_callback_for_an_unknown_number_is_kept_and_told(running: Service) -> None:
    """Signed well, but the number is none of ours: not acknowledged, kept, alerted."""
    fields = {"out_trade_no": "NOT-OURS", "order_no": "TO1", "status_code": "1"}
    _, answer = await post(running, "kuaiduibao", {**fields, "_sign": kuaiduibao_sign(fields)})
    assert json.loads(answer)["status"] == 0
    assert b'reward_alerts_total{kind="unexpected_answer"} 1.0' in running.app.metrics.render()


@pytest.mark.rule("P8")
async def test_an_order_whose_answer_is_still_out_is_settled_by_its_callback(running: Service) -> None:
    """The supplier calls back before it answers: a look follows at once, and the order doesn't wait for the answer."""
    running.sandbox.gate("kasushou").hold()
    created = await running.client.create("kasushou/card", "order-1")
    order = await running.client.until(created.order.order_id)
    assert order.state == State.ORDER_STATE_FULFILLED
    assert running.sandbox.gate("kasushou").held == 1
    explained = await running.client.get(order.order_id, "EXPLAINED")
    assert "CalledBack" in [piece.outcome for piece in explained.purchases[0].evidence]


@pytest.mark.rule("P8", "P5")
async def test_what_a_supplier_called_back_about_is_never_given_up_as_absent(running: Service) -> None:
    """A supplier that called back and then forgets the order contradicts itself: a person looks, nothing is failed."""
    created = await running.client.create("kasushou/silent", "order-1")
    ledger = running.app.engine.ledger
    explained = await running.client.get(created.order.order_id, "EXPLAINED")
    key = PurchaseKey("dev", created.order.order_id, explained.purchases[0].number)
    while not (record := (await ledger.load(key)).purchase(key.number)).called_back:
        # A round trip over the same event loop lets the callback go on.
        await running.client.get(created.order.order_id)
    unknown = replace(record, state=PurchaseState.UNKNOWN, written_until=1, absent_looks=1)
    assert weigh_absence(unknown, looked_at=10**15, grace_ms=0, resends=0) == Absent()


async def test_an_operator_reads_any_order_without_cards_and_with_its_recipient_masked(running: Service) -> None:
    """By id, BASIC and EXPLAINED; never FULL; other clients still find nothing."""
    created = await running.client.create("kasushou/topup", "order-1", recipient=PHONE)
    await running.client.until(created.order.order_id)
    async with caller(running.place.grpc_port, OPERATOR) as operator, caller(running.place.grpc_port, OTHER) as other:
        explained = await operator.get(created.order.order_id, "EXPLAINED")
        assert explained.purchases[0].supplier == "kasushou"
        assert explained.recipient.phone.number == "*******8000"
        await refused(operator.get(created.order.order_id, "FULL"))
        await refused(other.get(created.order.order_id, "BASIC"))


async def test_a_callback_that_breaks_off_is_a_line_in_the_log(
    running: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a body and the end of the connection, or a reset: nothing failed on our side, and nothing says so."""
    for abort in (False, True):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.place.http_port)
        head = "POST /callbacks/kuaiduibao HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n"
        writer.write(head.encode() + b"status=success&")
        await writer.drain()
        await post(running, "kuaiduibao", {"status": "forged"})
        if abort:
            writer.transport.abort()
        else:
            writer.close()
            await reader.read()
        # Callbacks that came later are answered: the broken one was dealt with.
        assert (await post(running, "kuaiduibao", {"status": "forged"}))[0] != 500
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
