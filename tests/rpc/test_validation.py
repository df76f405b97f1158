"""The shape of every request: each limit from both sides, and every violation at once."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import duration_pb2, timestamp_pb2
from google.type import money_pb2

from reward_adapters.contract import Recipient, RecipientKind
from reward_server.access import Caller, Permission
from reward_server.domain.order import OrderState
from reward_server.errors import CardsNotPermitted, InvalidRequest, Violation
from reward_server.rpc import validation
from reward_server.rpc.messages import View
from reward_server.rpc.validation import Start
from rewardservice.v1 import catalog_service_pb2 as catalog_pb
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb

READER = Caller("shop", frozenset({Permission.READ, Permission.READ_CARDS}))
MASKED = Caller("viewer", frozenset({Permission.READ}))
PERSONAL = "13912345678"


def violations(read: Callable[[], object]) -> list[str]:
    """The fields that a request is refused for."""
    found: tuple[Violation, ...] = ()
    try:
        read()
    except InvalidRequest as error:
        found = error.violations
    assert all(violation.description and PERSONAL not in violation.description for violation in found)
    return [violation.field for violation in found]


def create(**fields: Any) -> validation.CreateRequest:
    """Reads a request that is right but for these fields."""
    request = {"client_order_id": "a", "product_id": "p", "quantity": 1, **fields}
    return validation.create_request(pb.CreateOrderRequest(**request), READER)


def stream(**fields: Any) -> validation.StreamRequest:
    """Reads a request for a stream."""
    return validation.stream_request(pb.StreamOrderUpdatesRequest(**fields), READER, 15)


def orders(**fields: Any) -> validation.ListRequest:
    """Reads a request for a list."""
    return validation.list_request(pb.ListOrdersRequest(**fields))


def updates(**fields: Any) -> validation.UpdatesRequest:
    """Reads a request for updates."""
    return validation.updates_request(pb.ListOrderUpdatesRequest(**fields), READER)


def products(**fields: Any) -> validation.ProductsRequest:
    """Reads a request for products."""
    return validation.products_request(catalog_pb.ListProductsRequest(**fields))


def cny(units: int = 0, nanos: int = 0, currency_code: str = "CNY") -> money_pb2.Money:
    """An amount."""
    return money_pb2.Money(currency_code=currency_code, units=units, nanos=nanos)


def to(**fields: Any) -> order_pb2.Recipient:
    """A recipient."""
    return order_pb2.Recipient(**fields)


def phone(number: str, area_code: str = "") -> order_pb2.Recipient:
    """A phone."""
    return to(phone=order_pb2.PhoneNumber(area_code=area_code, number=number))


def seconds(whole: int, nanos: int = 0) -> duration_pb2.Duration:
    """A duration."""
    return duration_pb2.Duration(seconds=whole, nanos=nanos)


def pairs(count: int, key: int = 2, value: int = 1) -> dict[str, str]:
    """So many pairs of such lengths."""
    return {str(number).rjust(key, "k"): "v" * value for number in range(10, 10 + count)}


GOOD = [
    (create, {"client_order_id": "x" * 64}),
    (create, {"client_order_id": "aZ0-_.:/"}),
    (create, {"product_id": "p" * 128}),
    (create, {"quantity": 100}),
    (create, {"max_unit_price": cny(0, 100_000)}),
    (create, {"max_unit_price": cny(100_000_000)}),
    (create, {"max_unit_price": cny(98, 999_900_000)}),
    (create, {"recipient": phone(PERSONAL)}),
    (create, {"recipient": phone("12345", "+1")}),
    (create, {"recipient": phone("1" * 15, "+8520")}),
    (create, {"recipient": to(qq="12345")}),
    (create, {"recipient": to(qq="1" * 12)}),
    (create, {"recipient": to(account="a")}),
    (create, {"recipient": to(account="名" * 64)}),
    (create, {"metadata": pairs(20, 64, 512)}),
    (create, {"metadata": {"k": ""}}),
    (create, {"supplier_parameters": pairs(50, 64, 256)}),
    (create, {"wait": seconds(30)}),
    (create, {"wait": seconds(0)}),
    (create, {"view": order_pb2.ORDER_VIEW_EXPLAINED}),
    (orders, {"page_size": 200}),
    (orders, {"page_size": 1}),
    (orders, {"product_id": "p" * 128, "supplier": "s" * 64}),
    (orders, {"created_after": timestamp_pb2.Timestamp(seconds=253_402_300_799, nanos=999_999_999)}),
    (stream, {"order_ids": ["o"] * 500, "client_order_ids": ["c"] * 500}),
    (stream, {"order_ids": ["o" * 64]}),
    (stream, {"heartbeat_interval": seconds(1)}),
    (stream, {"heartbeat_interval": seconds(60)}),
    (stream, {"view": order_pb2.ORDER_VIEW_FULL}),
    (stream, {"until_terminal": True, "client_order_ids": ["c"]}),
    (stream, {"start": pb.STREAM_START_AFTER, "resume_token": "t"}),
    (updates, {"limit": 1_000}),
    (updates, {"limit": 1}),
    (products, {"page_size": 200, "kind": order_pb2.PRODUCT_KIND_MEMBERSHIP}),
]

BAD = [
    (create, {"client_order_id": ""}, "client_order_id"),
    (create, {"client_order_id": "x" * 65}, "client_order_id"),
    (create, {"client_order_id": "a b"}, "client_order_id"),
    (create, {"client_order_id": "a\n"}, "client_order_id"),
    (create, {"client_order_id": "订单"}, "client_order_id"),
    (create, {"product_id": ""}, "product_id"),
    (create, {"product_id": "p" * 129}, "product_id"),
    (create, {"quantity": 0}, "quantity"),
    (create, {"quantity": 101}, "quantity"),
    (create, {"quantity": -1}, "quantity"),
    (create, {"max_unit_price": cny(0)}, "max_unit_price"),
    (create, {"max_unit_price": cny(1, currency_code="USD")}, "max_unit_price.currency_code"),
    (create, {"max_unit_price": cny(1, currency_code="")}, "max_unit_price.currency_code"),
    (create, {"max_unit_price": cny(-1)}, "max_unit_price.units"),
    (create, {"max_unit_price": cny(100_000_001)}, "max_unit_price.units"),
    (create, {"max_unit_price": cny(1, 10_000)}, "max_unit_price.nanos"),
    (create, {"max_unit_price": cny(1, -100_000)}, "max_unit_price.nanos"),
    (create, {"max_unit_price": cny(1, 1_000_000_000)}, "max_unit_price.nanos"),
    (create, {"recipient": to()}, "recipient"),
    (create, {"recipient": phone("1391234567")}, "recipient.phone.number"),
    (create, {"recipient": phone(PERSONAL + "9")}, "recipient.phone.number"),
    (create, {"recipient": phone("139 1234 567")}, "recipient.phone.number"),
    (create, {"recipient": phone("１３９１２３４５６７８")}, "recipient.phone.number"),
    (create, {"recipient": phone("1234", "+1")}, "recipient.phone.number"),
    (create, {"recipient": phone("1" * 16, "+1")}, "recipient.phone.number"),
    (create, {"recipient": phone(PERSONAL, "86")}, "recipient.phone.area_code"),
    (create, {"recipient": phone(PERSONAL, "+86123")}, "recipient.phone.area_code"),
    (create, {"recipient": phone(PERSONAL, "+0")}, "recipient.phone.area_code"),
    (create, {"recipient": to(qq="1234")}, "recipient.qq"),
    (create, {"recipient": to(qq="1" * 13)}, "recipient.qq"),
    (create, {"recipient": to(qq="1234a")}, "recipient.qq"),
    (create, {"recipient": to(account="")}, "recipient.account"),
    (create, {"recipient": to(account="a" * 65)}, "recipient.account"),
    (create, {"recipient": to(account="a\x00b")}, "recipient.account"),
    (create, {"metadata": pairs(21)}, "metadata"),
    (create, {"metadata": {"": "v"}}, "metadata['']"),
    (create, {"metadata": {"k" * 65: "v"}}, f"metadata['{'k' * 16}…']"),
    (create, {"metadata": {"key": "v" * 513}}, "metadata['key']"),
    (create, {"supplier_parameters": pairs(51)}, "supplier_parameters"),
    (create, {"supplier_parameters": {"key": "v" * 257}}, "supplier_parameters['key']"),
    (create, {"wait": seconds(30, 1)}, "wait"),
    (create, {"wait": seconds(-1)}, "wait"),
    (create, {"wait": seconds(1, -1)}, "wait"),
    (create, {"wait": seconds(1, 1_000_000_000)}, "wait"),
    (create, {"view": 9}, "view"),
    (orders, {"page_size": 201}, "page_size"),
    (orders, {"page_size": -1}, "page_size"),
    (orders, {"page_token": "t" * 513}, "page_token"),
    (orders, {"states": [order_pb2.ORDER_STATE_FAILED, 0]}, "states[1]"),
    (orders, {"states": [99]}, "states[0]"),
    (orders, {"product_id": "p" * 129}, "product_id"),
    (orders, {"supplier": "s" * 65}, "supplier"),
    (orders, {"created_after": timestamp_pb2.Timestamp(seconds=253_402_300_800)}, "created_after"),
    (orders, {"created_before": timestamp_pb2.Timestamp(nanos=-1)}, "created_before"),
    (stream, {"order_ids": ["o"] * 501, "client_order_ids": ["c"] * 500}, "order_ids"),
    (stream, {"client_order_ids": ["c"] * 1_001}, "client_order_ids"),
    (stream, {"order_ids": ["o", ""]}, "order_ids[1]"),
    (stream, {"order_ids": ["o" * 65]}, "order_ids[0]"),
    (stream, {"client_order_ids": ["c", "no blanks"]}, "client_order_ids[1]"),
    (stream, {"start": 9}, "start"),
    (stream, {"start": pb.STREAM_START_AFTER}, "resume_token"),
    (stream, {"start": pb.STREAM_START_NOW, "resume_token": "t"}, "resume_token"),
    (stream, {"start": pb.STREAM_START_SNAPSHOT, "resume_token": "t"}, "resume_token"),
    (stream, {"resume_token": "t" * 513}, "resume_token"),
    (stream, {"heartbeat_interval": seconds(0, 999_999_999)}, "heartbeat_interval"),
    (stream, {"heartbeat_interval": seconds(60, 1)}, "heartbeat_interval"),
    (stream, {"heartbeat_interval": seconds(0)}, "heartbeat_interval"),
    (stream, {"until_terminal": True}, "until_terminal"),
    (stream, {"view": order_pb2.ORDER_VIEW_EXPLAINED}, "view"),
    (updates, {"view": order_pb2.ORDER_VIEW_EXPLAINED}, "view"),
    (updates, {"limit": 1_001}, "limit"),
    (updates, {"limit": -1}, "limit"),
    (updates, {"order_ids": ["o"] * 1_001}, "order_ids"),
    (updates, {"after": "t" * 513}, "after"),
    (products, {"page_size": 201}, "page_size"),
    (products, {"kind": 9}, "kind"),
    (products, {"page_token": "t" * 513}, "page_token"),
]


@pytest.mark.parametrize(("read", "fields"), GOOD)
def test_the_last_allowed_value_is_accepted(read: Callable[..., object], fields: dict[str, Any]) -> None:
    """A value on the allowed side of its limit passes."""
    assert violations(lambda: read(**fields)) == []


@pytest.mark.parametrize(("read", "fields", "field"), BAD)
def test_the_first_forbidden_value_is_refused(read: Callable[..., object], fields: dict[str, Any], field: str) -> None:
    """A value beyond its limit is the one violation, named by its path."""
    assert violations(lambda: read(**fields)) == [field]


def test_every_violation_is_named_at_once() -> None:
    """A request that is wrong everywhere is told so everywhere."""
    found = violations(
        lambda: create(
            client_order_id="",
            product_id="",
            quantity=0,
            recipient=phone(PERSONAL + "0", "86"),
            max_unit_price=cny(-1, 1, "USD"),
            supplier_parameters={"": "v" * 257},
            metadata=pairs(21),
            view=9,
            wait=seconds(31),
        )
    )
    assert found == [
        "client_order_id",
        "product_id",
        "quantity",
        "recipient.phone.area_code",
        "max_unit_price.currency_code",
        "max_unit_price.units",
        "max_unit_price.nanos",
        "supplier_parameters['']",
        "supplier_parameters['']",
        "metadata",
        "view",
        "wait",
    ]


def test_defaults_are_filled_in() -> None:
    """What isn't set gets the contract's default."""
    assert create(recipient=phone(PERSONAL)).order.recipient == Recipient(RecipientKind.PHONE, PERSONAL, "+86")
    assert (create().view, create().wait, create().order.recipient, create().order.max_unit_price) == (
        View.BASIC, 0, None, None,
    )  # fmt: skip
    assert orders().page_size == 50
    assert updates().limit == 100
    assert products().page_size == 50
    assert (stream().start, stream().heartbeat, stream().full) == (Start.SNAPSHOT, 15, True)
    assert stream(resume_token="t").start is Start.AFTER


def test_values_arrive_unchanged() -> None:
    """What is allowed is taken over to the last digit."""
    read = create(max_unit_price=cny(98, 512_300_000), wait=seconds(1, 500_000_000), metadata={"a": "b"})
    assert read.order.max_unit_price == 985_123
    assert read.wait == 1.5
    assert read.order.metadata == {"a": "b"}
    assert orders(states=[order_pb2.ORDER_STATE_FAILED]).states == {OrderState.FAILED}


@pytest.mark.parametrize(("nanos", "milliseconds"), [(0, 5_000), (1, 5_001), (1_000_000, 5_001), (1_000_001, 5_002)])
def test_times_between_milliseconds_are_rounded_up(nanos: int, milliseconds: int) -> None:
    """At or after a time, and before a time, mean the same to orders stamped in whole milliseconds."""
    time = timestamp_pb2.Timestamp(seconds=5, nanos=nanos)
    assert orders(created_after=time, created_before=time).created_from == milliseconds
    assert orders(created_before=time).created_before == milliseconds


def test_cards_need_their_permission() -> None:
    """View FULL is refused to clients that may not read cards, and is no default of theirs."""
    full = order_pb2.ORDER_VIEW_FULL
    for read in (
        lambda: validation.get_request(pb.GetOrderRequest(order_id="o", view=full), MASKED),
        lambda: validation.stream_request(pb.StreamOrderUpdatesRequest(view=full), MASKED, 15),
        lambda: validation.updates_request(pb.ListOrderUpdatesRequest(view=full), MASKED),
        lambda: validation.create_request(
            pb.CreateOrderRequest(client_order_id="a", product_id="p", quantity=1, view=full), MASKED
        ),
    ):
        with pytest.raises(CardsNotPermitted):
            read()
    assert not validation.stream_request(pb.StreamOrderUpdatesRequest(), MASKED, 15).full
    assert not validation.updates_request(pb.ListOrderUpdatesRequest(), MASKED).full


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.GetOrderRequest(), "id"),
        (pb.GetOrderRequest(order_id=""), "order_id"),
        (pb.GetOrderRequest(client_order_id=""), "client_order_id"),
        (pb.GetOrderRequest(order_id="o", view=9), "view"),  # type: ignore[arg-type]
    ],
)
def test_an_order_is_named_by_one_id(request_: pb.GetOrderRequest, field: str) -> None:
    """GetOrder wants one id that can be one."""
    assert violations(lambda: validation.get_request(request_, READER)) == [field]
