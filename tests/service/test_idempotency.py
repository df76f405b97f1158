"""The same order, asked for again: one order and one purchase, whatever happens in between."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_adapters.contract import NotSent, NotSentCause, ProductKind, RecipientKind
from reward_adapters.money import yuan
from reward_sandbox import Sandbox, SandboxSettings
from reward_server.access import Caller as KeyHolder
from reward_server.access import Permission
from reward_server.catalogue import Product, ProductOffer
from reward_server.domain.ids import IdSource
from reward_server.domain.order import Order
from reward_server.engine.ordering import OrderRequest, differing_fields, make_order
from reward_server.rpc.validation import create_request
from reward_server.store.codec import decode_order, encode_order
from rewardservice.v1 import order_pb2
from rewardservice.v1.reward_service_pb2 import CreateOrderRequest

from .harness import QUICK, USUAL, Place, ServerProcess, Service, State, caller, refused, service

PHONE = order_pb2.Recipient(phone=order_pb2.PhoneNumber(number="13800138000"))
PHONE_IN_FULL = order_pb2.Recipient(phone=order_pb2.PhoneNumber(area_code="+86", number="13800138000"))


def differing(error: grpc.aio.AioRpcError) -> tuple[str, list[str]]:
    """The order that has the id already, and the fields that differ, out of an error's details."""
    [raw] = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status_pb2.Status.FromString(raw).details)
    assert (error.code(), info.reason) == (grpc.StatusCode.ALREADY_EXISTS, "CLIENT_ORDER_ID_REUSED")
    return info.metadata["order_id"], info.metadata["fields"].split(",")


# --- Over the wire ----------------------------------------------------------------------------------------------------


@pytest.mark.rule("O12")
async def test_calls_at_the_same_time_are_one_order_and_one_purchase(tmp_path: Path) -> None:
    """A hundred calls with one id: one of them made the order, all of them show it."""
    async with service(tmp_path, account=dict(QUICK), products=USUAL) as running:
        answers = await asyncio.gather(*(running.client.create("kasushou/card", "same") for _ in range(100)))
        assert [answer.replayed for answer in answers].count(False) == 1
        [order_id] = {answer.order.order_id for answer in answers}
        await running.client.until(order_id)
        assert [entry["requests"] for entry in running.books("kasushou")] == [1]


@pytest.mark.rule("O12")
async def test_calls_at_the_same_time_that_differ_make_one_order_and_the_others_are_told(tmp_path: Path) -> None:
    """Whoever comes first has the id; the rest hear which fields differ from its order, and nothing else is bought."""
    async with service(tmp_path, account=dict(QUICK), products=USUAL) as running:
        calls = [running.client.create("kasushou/card", "same", quantity=1 + n % 2) for n in range(40)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        orders = [answer.order for answer in answers if not isinstance(answer, BaseException)]
        [order_id] = {order.order_id for order in orders}
        assert len(orders) == len(errors) == 20
        assert all(differing(error) == (order_id, ["quantity"]) for error in errors)
        await running.client.until(order_id)
        assert len(running.books("kasushou")) == 1


@pytest.mark.rule("O12")
async def test_a_replay_while_the_first_call_waits_shows_the_order_as_it_is(tmp_path: Path) -> None:
    """The first call waits for the end; one that asks again without waiting is answered at once."""
    async with service(tmp_path, account={**QUICK, "read_timeout": 30.0}, products=USUAL) as running:
        gate = running.sandbox.gate("kasushou")
        gate.hold()
        async with caller(running.place.grpc_port) as other:
            first = asyncio.create_task(running.client.create("kasushou/card", "o-1", wait={"seconds": 30}))
            while gate.held < 1:  # noqa: ASYNC110 - the gate counts, it has no signal
                await asyncio.sleep(0.01)
            again = await other.create("kasushou/card", "o-1")
            assert (again.replayed, again.order.state) == (True, State.ORDER_STATE_ACCEPTED)
            assert not first.done()
            gate.release()
            end = await first
        assert (end.replayed, end.order.state) == (False, State.ORDER_STATE_FULFILLED)
        assert end.order.order_id == again.order.order_id
        assert len(running.books("kasushou")) == 1


@pytest.mark.rule("D2", "O12")
async def test_a_call_whose_caller_gave_up_is_found_again(tmp_path: Path) -> None:
    """A deadline or a cancel of the caller changes nothing: the order is made once, and the next call shows it."""
    async with service(tmp_path, account=dict(QUICK), products=USUAL) as running:
        left: list[asyncio.Task[Any]] = []
        for n in range(10):
            left.append(asyncio.create_task(running.client.create("kasushou/card", f"o-{n}")))
            await asyncio.sleep(0)
            left[-1].cancel()
        await asyncio.gather(*left, return_exceptions=True)
        answers = [await running.client.create("kasushou/card", f"o-{n}") for n in range(10)]
        for answer in answers:
            await running.client.until(answer.order.order_id)
        assert [entry["requests"] for entry in running.books("kasushou")] == [1] * 10


@pytest.mark.parametrize("bought", [True, False])
@pytest.mark.rule("D1", "O12")
async def test_a_replay_after_the_server_was_killed_shows_the_same_order(tmp_path: Path, bought: bool) -> None:
    """SIGKILL before or after the supplier has answered: the id still means that order, and one purchase."""
    async with (
        Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox,
        ServerProcess(Place(folder=tmp_path, sandbox_url=sandbox.url, account=dict(QUICK), products=USUAL)) as server,
    ):
        gate = sandbox.gate("kasushou")
        if not bought:
            gate.hold()
        async with caller(server.place.grpc_port) as client:
            first = await client.create("kasushou/card", "o-1", metadata={"campaign": "spring"})
            if bought:
                await client.until(first.order.order_id)
            await server.kill()
            gate.release()
            await server.start(config=tmp_path / "reward.toml")
            again = await client.create("kasushou/card", "o-1", metadata={"campaign": "spring"})
            assert again.replayed
            assert again.order.order_id == first.order.order_id
            error = await refused(client.create("kasushou/card", "o-1", metadata={"campaign": "autumn"}))
            assert differing(error) == (first.order.order_id, ["metadata"])
            end = await client.until(first.order.order_id)
            assert end.state in (State.ORDER_STATE_FULFILLED, State.ORDER_STATE_FAILED)
            assert len(sandbox.books("kasushou")["orders"]) <= 1


@pytest.mark.rule("O12")
async def test_a_call_that_was_cut_by_a_kill_may_be_repeated(tmp_path: Path) -> None:
    """The caller doesn't know whether it was stored: asking again makes one order in either case."""
    async with (
        Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox,
        ServerProcess(Place(folder=tmp_path, sandbox_url=sandbox.url, account=dict(QUICK), products=USUAL)) as server,
        caller(server.place.grpc_port) as client,
    ):
        calls = [asyncio.create_task(client.create("kasushou/card", f"o-{n}")) for n in range(40)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        await server.kill()
        told = await asyncio.gather(*calls, return_exceptions=True)
        await server.start(config=tmp_path / "reward.toml")
        again = [await client.create("kasushou/card", f"o-{n}") for n in range(40)]
        for before, now in zip(told, again, strict=True):
            if not isinstance(before, BaseException):
                assert (now.replayed, now.order.order_id) == (True, before.order.order_id)
        assert len({answer.order.order_id for answer in again}) == 40
        for answer in again:
            await client.until(answer.order.order_id)
        bought = sandbox.books("kasushou")["orders"]
        assert len(bought) <= 40
        assert {entry["requests"] for entry in bought} == {1}


@pytest.mark.rule("O12", "P15")
async def test_neither_a_pause_nor_a_lost_product_turns_a_replay_into_an_error(tmp_path: Path) -> None:
    """New orders of the paused supplier are refused, the known one is shown; a product that was taken out of the
    catalogue, or whose price is above the limit now, still has its orders.
    """
    async with service(tmp_path, account=dict(QUICK), products=USUAL) as running:
        limit = {"currency_code": "CNY", "units": 1_000}
        first = await running.client.create("kasushou/card", "o-1", max_unit_price=limit)
        await running.client.until(first.order.order_id)
        account = running.app.engine._accounts["kasushou"]
        account.heard(NotSent(cause=NotSentCause.CONFIGURATION, detail="signature"))
        assert (await refused(running.client.create("kasushou/card", "o-2"))).code() is (
            grpc.StatusCode.FAILED_PRECONDITION
        )
        await shows_the_same(running, first.order.order_id, limit)
        del running.app.engine._catalogue._products["kasushou/card"]
        assert (await refused(running.client.create("kasushou/card", "o-3"))).code() is grpc.StatusCode.NOT_FOUND
        await shows_the_same(running, first.order.order_id, limit)
        other = await refused(running.client.create("nothing/like-it", "o-1", max_unit_price=limit))
        assert differing(other) == (first.order.order_id, ["product_id"])
        assert len(running.books("kasushou")) == 1


async def shows_the_same(running: Service, order_id: str, limit: dict[str, Any]) -> None:
    """Asks again for the first order."""
    again = await running.client.create("kasushou/card", "o-1", max_unit_price=limit)
    assert (again.replayed, again.order.order_id) == (True, order_id)
    assert again.order.state == State.ORDER_STATE_FULFILLED


@pytest.mark.rule("O12")
async def test_defaults_filled_in_are_the_same_content(tmp_path: Path) -> None:
    """The area code may be left out or said; view and wait aren't content."""
    async with service(tmp_path, account=dict(QUICK), products=USUAL) as running:
        first = await running.client.create("kaquan91_recharge/topup", "o-1", recipient=PHONE)
        for fields in (
            {"recipient": PHONE_IN_FULL},
            {"recipient": PHONE, "wait": {"nanos": 1_000_000}},
            {"recipient": PHONE_IN_FULL, "view": order_pb2.ORDER_VIEW_EXPLAINED},
            {"recipient": PHONE, "supplier_parameters": {}, "metadata": {}},
        ):
            again = await running.client.create("kaquan91_recharge/topup", "o-1", **fields)
            assert (again.replayed, again.order.order_id) == (True, first.order.order_id)
        order = await running.client.until(first.order.order_id)
        assert order.recipient == PHONE_IN_FULL
        assert len(running.books("kaquan91_recharge")) == 1


@pytest.mark.rule("O12")
async def test_an_id_belongs_to_one_client(tmp_path: Path) -> None:
    """Another client's order of the same id is another order."""
    async with (
        service(tmp_path, account=dict(QUICK), products=USUAL) as running,
        caller(running.place.grpc_port, "dev-key-2") as other,
    ):
        ours = await running.client.create("kasushou/card", "o-1")
        theirs = await other.create("kasushou/card", "o-1", quantity=2)
        assert not theirs.replayed
        assert ours.order.order_id != theirs.order.order_id


# --- Every field of the contract --------------------------------------------------------------------------------------

FIELDS = CreateOrderRequest.DESCRIPTOR.fields_by_name
NOT_CONTENT = frozenset({"client_order_id", "view", "wait"})
"""What names the order, and how it is answered. Every other field is content, those to come included."""

texts = st.text(max_size=12)
pairs = st.dictionaries(texts.filter(bool), texts, max_size=4)
phones = st.builds(
    order_pb2.PhoneNumber,
    area_code=st.sampled_from(["", "+86", "+852", "+1"]),
    number=st.sampled_from(["13800138000", "13900139000", "13800138001"]),
)
recipients = st.one_of(
    st.builds(order_pb2.Recipient, phone=phones),
    st.builds(order_pb2.Recipient, qq=st.sampled_from(["10001", "123456789012", "010001"])),
    st.builds(order_pb2.Recipient, account=st.sampled_from(["10001", "a", "A", " a", "é", "é"])),
)
prices = st.fixed_dictionaries(
    {
        "currency_code": st.just("CNY"),
        "units": st.integers(1, 100_000),
        "nanos": st.integers(0, 9_999).map(lambda n: n * 100_000),
    }
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    # A field of the contract that is missing here fails the first test below.
    "client_order_id": st.just("o-1"),
    "product_id": st.sampled_from(["card", "Card", "card-2"]),
    "quantity": st.integers(1, 100),
    "recipient": recipients,
    "max_unit_price": prices,
    "supplier_parameters": pairs,
    "metadata": pairs,
    "view": st.sampled_from([order_pb2.ORDER_VIEW_UNSPECIFIED, order_pb2.ORDER_VIEW_BASIC, order_pb2.ORDER_VIEW_FULL]),
    "wait": st.fixed_dictionaries({"seconds": st.integers(0, 29)}),
}
MAY_BE_LEFT_OUT = frozenset({"recipient", "max_unit_price", "supplier_parameters", "metadata", "view", "wait"})

contents = st.fixed_dictionaries(
    {name: values for name, values in VALUES.items() if name not in MAY_BE_LEFT_OUT},
    optional={name: values for name, values in VALUES.items() if name in MAY_BE_LEFT_OUT},
)

HOLDER = KeyHolder("shop", frozenset(Permission))


def as_read(fields: dict[str, Any]) -> OrderRequest:
    """What the server reads out of a request, after its way over the wire."""
    sent = CreateOrderRequest(**fields).SerializeToString()
    return create_request(CreateOrderRequest.FromString(sent), HOLDER).order


def as_stored(request: OrderRequest) -> Order:
    """The order that the request makes, as it comes back from the store."""
    product = Product(
        product_id=request.product_id,
        kind=ProductKind.CARD,
        name="card",
        face_value=yuan("100"),
        recipient_kind=RecipientKind.NONE,
        offers=(
            ProductOffer(
                account="a",
                supplier_product="1",
                unit_cost=yuan("0.0001"),
                max_unit_cost=yuan("100"),
                max_units_per_purchase=100,
            ),
        ),
    )
    new_id = IdSource(lambda: 1_780_000_000_000)
    return decode_order(encode_order(make_order(request, product, at=1, new_id=new_id, paused_for=lambda _account: "")))


def meant(name: str, fields: dict[str, Any]) -> Any:
    """What a caller means by a field, in a form that can be compared: set or not, with the defaults filled in."""
    sent: Any = CreateOrderRequest(**fields)
    descriptor = FIELDS[name]
    if descriptor.message_type is not None and not descriptor.message_type.GetOptions().map_entry:
        if not sent.HasField(name):
            return None
        value = getattr(sent, name)
        if name == "recipient" and value.WhichOneof("recipient") == "phone":
            value.phone.area_code = value.phone.area_code or "+86"
        return value.SerializeToString(deterministic=True)
    value = getattr(sent, name)
    return dict(value) if descriptor.message_type is not None else value


@pytest.mark.rule("O12")
def test_every_field_of_the_contract_is_tried_here() -> None:
    """A new field has to be thought about: content or not, and what it may be."""
    assert set(VALUES) == set(FIELDS)
    order = as_stored(as_read({"client_order_id": "o-1", "product_id": "card", "quantity": 1}))
    assert set(order.content()) == set(FIELDS) - NOT_CONTENT
    required = {name for name, field in FIELDS.items() if field.type == FieldDescriptor.TYPE_STRING} | {"quantity"}
    assert required == set(FIELDS) - MAY_BE_LEFT_OUT


@pytest.mark.rule("O12")
@given(first=contents, second=contents)
@settings(max_examples=300, deadline=None)
def test_the_fields_that_are_named_are_exactly_those_that_differ(first: dict[str, Any], second: dict[str, Any]) -> None:
    """For any two requests with one id, after the order was stored and read again."""
    expected = [name for name in FIELDS if name not in NOT_CONTENT and meant(name, first) != meant(name, second)]
    assert sorted(differing_fields(as_stored(as_read(first)), as_read(second))) == sorted(expected)


@pytest.mark.rule("O12")
@given(fields=contents)
@settings(max_examples=100, deadline=None)
def test_the_same_request_never_differs(fields: dict[str, Any]) -> None:
    """However it is written: defaults left out or filled in, another view, another wait."""
    order = as_stored(as_read(fields))
    assert differing_fields(order, as_read(fields)) == []
    again = {name: value for name, value in fields.items() if name not in ("view", "wait")}
    for name in ("supplier_parameters", "metadata"):
        again.setdefault(name, {})
    assert differing_fields(order, as_read(again)) == []


@pytest.mark.rule("O12")
@pytest.mark.parametrize("name", sorted(set(FIELDS) - NOT_CONTENT))
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_one_changed_field_is_named_alone(name: str, data: st.DataObject) -> None:
    """Field by field."""
    first = data.draw(contents)
    others = VALUES[name].filter(lambda value: meant(name, {**first, name: value}) != meant(name, first))
    second = {**first, name: data.draw(others)}
    assert differing_fields(as_stored(as_read(first)), as_read(second)) == [name]
