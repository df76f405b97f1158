"""Whatever names an order of one client says nothing to another: every field of every request, found in the contract.

A field that the contract gains is either in `CASES` or in `HARMLESS`, or the first test here fails.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from reward_server.domain.order import Order, OrderState
from rewardservice.v1 import catalog_service_pb2, operator_service_pb2, order_pb2, reward_service_pb2
from rewardservice.v1 import reward_service_pb2 as pb

from .world import Api, Stream, World, new_id, refused, world

FILES = (reward_service_pb2, catalog_service_pb2, operator_service_pb2)
METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def leaves(message: Descriptor, path: str = "") -> Iterator[str]:
    """The path of everything that a request can say."""
    for spec in message.fields:
        here = f"{path}{spec.name}"
        nested = spec.message_type
        if nested is None or nested.GetOptions().map_entry or nested.full_name.startswith("google."):
            yield here
        else:
            yield from leaves(nested, f"{here}.")


EVERY_FIELD = {f"{name}:{path}" for name, method in METHODS.items() for path in leaves(method.input_type)}


@dataclass(frozen=True)
class Victim:
    """What client A has, and what would name it."""

    order: Order
    page_token: str
    resume_token: str
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def marks(self) -> list[str]:
        """What must reach nobody else."""
        purchase = self.order.purchases[0].number
        return [self.order.order_id, purchase, "victims-", "secret-", "62200000", self.page_token, self.resume_token]


Naming = Callable[[Victim], tuple[str, str]]
"""The value that names something of A's, and one of the same form that names nothing."""


def order_id(victim: Victim) -> tuple[str, str]:
    return victim.order.order_id, new_id()


def client_order_id(victim: Victim) -> tuple[str, str]:
    return victim.order.client_order_id, f"nobodys-{new_id()}"


def purchase_number(victim: Victim) -> tuple[str, str]:
    return victim.order.purchases[0].number, new_id()


def page_token(victim: Victim) -> tuple[str, str]:
    return victim.page_token, forged(victim.page_token)


def resume_token(victim: Victim) -> tuple[str, str]:
    return victim.resume_token, forged(victim.resume_token)


def forged(token: str) -> str:
    """A token of the same length that nobody issued."""
    return token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")


CASES: Mapping[str, Naming] = {
    "RewardService/CreateOrder:client_order_id": client_order_id,
    "RewardService/GetOrder:order_id": order_id,
    "RewardService/GetOrder:client_order_id": client_order_id,
    "RewardService/ListOrders:page_token": page_token,
    "RewardService/CancelOrder:order_id": order_id,
    "RewardService/CancelOrder:client_order_id": client_order_id,
    "RewardService/StreamOrderUpdates:order_ids": order_id,
    "RewardService/StreamOrderUpdates:client_order_ids": client_order_id,
    "RewardService/StreamOrderUpdates:resume_token": resume_token,
    "RewardService/ListOrderUpdates:order_ids": order_id,
    "RewardService/ListOrderUpdates:client_order_ids": client_order_id,
    "RewardService/ListOrderUpdates:after": resume_token,
    "CatalogService/ListProducts:page_token": page_token,
    "OperatorService/ListCallbacks:page_token": page_token,
    "OperatorService/ListReviews:page_token": page_token,
    "OperatorService/ResolveOrder:order_id": order_id,
    "OperatorService/ResolveOrder:purchase_number": purchase_number,
    "OperatorService/ListAuditEntries:page_token": page_token,
    "OperatorService/ListAuditEntries:order_id": order_id,
}

HARMLESS: Mapping[str, str] = {
    "RewardService/CreateOrder": "product_id quantity recipient.phone.area_code recipient.phone.number recipient.qq "
    "recipient.account max_unit_price supplier_parameters metadata view wait",
    "RewardService/GetOrder": "view",
    "RewardService/ListOrders": "page_size states product_id supplier created_after created_before",
    "RewardService/CancelOrder": "view",
    "RewardService/StreamOrderUpdates": "start heartbeat_interval view until_terminal",
    "RewardService/ListOrderUpdates": "limit view",
    "CatalogService/ListProducts": "page_size kind",
    "CatalogService/GetProduct": "product_id",
    "OperatorService/ListSupplierProducts": "supplier page",
    "OperatorService/GetSupplierProduct": "supplier product",
    "OperatorService/ListCallbacks": "supplier only_unknown page_size",
    "OperatorService/ListReviews": "page_size supplier reason",
    "OperatorService/ResolveOrder": "decision cards.number cards.secret cards.link cards.qr.content cards.qr.image_url "
    "cards.instructions deliver_kept_cards reason actor rest",
    "OperatorService/PauseSupplier": "supplier reason actor",
    "OperatorService/ResumeSupplier": "supplier reason actor",
    "OperatorService/ListAuditEntries": "page_size only_decisions",
    "OperatorService/RotateKeys": "client_id only_wrap reason actor",
}
"""Fields that choose among what the caller may see anyway, or are stored."""

BASE: Mapping[str, Mapping[str, Any]] = {
    "RewardService/CreateOrder": {"product_id": "card", "quantity": 1, "view": order_pb2.ORDER_VIEW_EXPLAINED},
    "RewardService/GetOrder": {"view": order_pb2.ORDER_VIEW_EXPLAINED},
    "RewardService/CancelOrder": {"view": order_pb2.ORDER_VIEW_EXPLAINED},
    "RewardService/StreamOrderUpdates": {"heartbeat_interval": {"seconds": 1}},
    "OperatorService/ListCallbacks": {"supplier": "kss_a"},
    "OperatorService/ResolveOrder": {
        "order_id": "01M80Z68GYESEBGR9M4VBW37TH",
        "purchase_number": "01M80Z68GYESEBGR9M4VBW37TJ",
        "decision": operator_service_pb2.DECISION_FAIL,
        "reason": "because",
        "actor": "somebody",
    },
}
"""What a request needs besides, so that nothing but the field under test decides."""

FOR_OPERATORS = frozenset(key for key in CASES if key.startswith("OperatorService/")) | {
    "RewardService/GetOrder:order_id"
}
"""What operators may do with any client's order: tried by itself below."""


def test_every_field_of_the_contract_has_a_case() -> None:
    """Also the ones that will be added: whoever adds one says here whether it can name an order."""
    harmless = {f"{method}:{path}" for method, paths in HARMLESS.items() for path in paths.split()}
    assert set(CASES) | harmless == EVERY_FIELD
    assert not set(CASES) & harmless
    suspicious = re.compile(r"(order_ids?|purchase_number|token|after|position)$")
    assert {named for named in harmless if suspicious.search(named)} == {"RewardService/ListOrders:created_after"}


def request(named: str, value: str) -> Message:
    """A request that says this in this field."""
    name, _, path = named.partition(":")
    method = METHODS[name]
    module = next(file for file in FILES if file.DESCRIPTOR.name == method.containing_service.file.name)
    message: Message = getattr(module, method.input_type.name)(**BASE.get(name, {}))
    spec: FieldDescriptor = method.input_type.fields_by_name[path]
    if spec.is_repeated:
        getattr(message, path).append(value)
    else:
        setattr(message, path, value)
    return message


def shape(value: Any) -> Any:
    """What of an answer can be compared between two orders: which fields are there, and what isn't their own."""
    if isinstance(value, Message):
        return {spec.name: shape(item) for spec, item in value.ListFields() if not spec.name.endswith("time")}
    if isinstance(value, str | bytes | int | float):
        return type(value).__name__
    return [shape(item) for item in value]


async def told(served: World, api: Api, named: str, value: str, victim: Victim) -> tuple[Any, bytes]:
    """How a call ends for this caller: what can be compared, and every byte of it."""
    method = METHODS[named.partition(":")[0]]
    service = {"RewardService": api.rewards, "CatalogService": api.catalog, "OperatorService": api.operator}
    call = getattr(service[method.containing_service.name], method.name)(request(named, value), metadata=api.metadata)
    try:
        if method.server_streaming:
            return await heard(served, Stream(call), victim)
        answer = await call
    except grpc.aio.AioRpcError as error:
        failed = refused(error)
        known = (failed.code, failed.reason, failed.violations, failed.details, failed.retry_after, error.details())
        metadata = {key: item for key, item in failed.metadata.items() if key != "request_id"}
        ours = error.trailing_metadata() or ()
        # What the caller sent may come back, as in "there is no order X".
        seen = repr((known, metadata)).replace(value, "•")
        return seen, repr((seen, [item for _, item in ours])).replace(value, "•").encode()
    return shape(answer), answer.SerializeToString().replace(value.encode(), b"")


async def heard(served: World, stream: Stream, victim: Victim) -> tuple[Any, bytes]:
    """What a stream brings until all is silent, while A's order changes."""
    messages = [await stream.next()]
    async with victim.changing:
        await served.change(victim.order.order_id, OrderState.FULFILLED)
    while messages[-1] is not None and messages[-1].WhichOneof("message") != "heartbeat":
        messages.append(await stream.next())
    messages.append(await stream.next())
    stream.cancel()
    present = [message for message in messages if message is not None]
    return [shape(message) for message in present], b"".join(message.SerializeToString() for message in present)


async def a_victim(served: World) -> Victim:
    """Two orders of A's, one of them with a card, and A's tokens."""
    api = served.api("shop-key")
    await api.create("victims-other-order", metadata={"note": "victims-note"})
    created = await api.create("victims-order", metadata={"note": "victims-note"})
    order = await served.change(created.order.order_id, OrderState.FULFILLED, cards=1)
    page = await api.rewards.ListOrders(pb.ListOrdersRequest(page_size=1), metadata=api.metadata)
    assert page.next_page_token
    return Victim(order, page.next_page_token, created.resume_token)


@pytest.mark.parametrize("caller", ["other", "overseer"])
async def test_what_names_an_order_of_a_says_nothing_to_b(tmp_path: Path, caller: str) -> None:
    """The same answer as for what doesn't exist, and not one byte of A's; `overseer` reads and operates."""
    async with world(tmp_path) as served:
        victim = await a_victim(served)
        api = served.api(f"{caller}-key")
        fields = sorted(set(CASES) - (FOR_OPERATORS if caller == "overseer" else set()))

        async def compare(named: str) -> None:
            theirs, nobodys = CASES[named](victim)
            about_a, raw = await told(served, api, named, theirs, victim)
            about_nobody, _ = await told(served, api, named, nobodys, victim)
            assert about_a == about_nobody, named
            assert [mark for mark in victim.marks if mark.encode() in raw] == [], named

        # Creating makes the id one of B's own, so it comes last.
        creating = "RewardService/CreateOrder:client_order_id"
        await asyncio.gather(*(compare(named) for named in fields if named != creating))
        await compare(creating)
        after = await served.store.order("shop", victim.order.order_id)
        assert after is not None
        assert not after.cancel_requested_at


async def test_two_clients_may_use_the_same_client_order_id(served: World) -> None:
    """Each has its own order by it: neither replays, reads, cancels or hears of the other's."""
    apis = {name: served.api(f"{name}-key") for name in ("shop", "other")}
    created = {name: await api.create("same-id", metadata={"of": name}) for name, api in apis.items()}
    assert [answer.replayed for answer in created.values()] == [False, False]
    assert len({answer.order.order_id for answer in created.values()}) == 2
    for name, api in apis.items():
        own = created[name].order.order_id
        assert (await api.create("same-id", metadata={"of": name})).order.order_id == own
        got = await api.rewards.GetOrder(pb.GetOrderRequest(client_order_id="same-id"), metadata=api.metadata)
        assert (got.order.order_id, got.order.metadata["of"]) == (own, name)
        updates = (await api.updates(client_order_ids=["same-id"])).updates
        assert {update.order.order_id for update in updates} == {own}
    await apis["other"].rewards.CancelOrder(
        pb.CancelOrderRequest(client_order_id="same-id"), metadata=apis["other"].metadata
    )
    assert not (await apis["shop"].get(created["shop"].order.order_id)).HasField("cancel_requested_time")


async def test_lists_and_streams_without_a_selector_hold_the_callers_orders_only(served: World) -> None:
    """Whatever the filter, also for operators."""
    victim = await a_victim(served)
    for caller in ("other", "overseer"):
        api = served.api(f"{caller}-key")
        for filters in (
            {},
            {"product_id": "card"},
            {"supplier": "kss_a"},
            {"states": [order_pb2.ORDER_STATE_FULFILLED]},
        ):
            listed = await api.rewards.ListOrders(pb.ListOrdersRequest(**filters), metadata=api.metadata)
            assert list(listed.orders) == []
        assert list((await api.updates()).updates) == []
        starts = (pb.STREAM_START_NOW, pb.STREAM_START_SNAPSHOT)
        streams = [api.stream(start=start, heartbeat_interval={"seconds": 1}) for start in starts]
        for _, raw in await asyncio.gather(*(heard(served, stream, victim) for stream in streams)):
            assert [mark for mark in victim.marks if mark.encode() in raw] == []


async def test_operators_see_any_order_and_no_card_of_it(served: World) -> None:
    """By every RPC that is open to them, in every view, in answers and in errors."""
    victim = await a_victim(served)
    api = served.api("overseer-key")
    for view in ("BASIC", "EXPLAINED"):
        order = await api.get(victim.order.order_id, view)
        assert order.order_id == victim.order.order_id
        assert b"secret-" not in order.SerializeToString()
        assert b"62200000" not in order.SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await api.get(victim.order.order_id, "FULL")
    assert raised.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED)
    for name, method in METHODS.items():
        if name.startswith("OperatorService/"):
            module = operator_service_pb2
            asked = getattr(module, method.input_type.name)(**BASE.get(name, {}))
            if name.endswith("/ResolveOrder"):
                asked.order_id, asked.purchase_number = victim.order.order_id, victim.order.purchases[0].number
            assert "secret-" not in await everything(getattr(api.operator, method.name)(asked, metadata=api.metadata))


async def everything(call: Any) -> str:
    """All that a call says, whether it is answered or fails."""
    try:
        return str(await call)
    except grpc.aio.AioRpcError as error:
        return f"{error.details()} {error.trailing_metadata()}"
