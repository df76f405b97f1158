"""Orders as bytes."""

import types
import typing
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_server.domain.order import Evidence, Order, Source
from reward_server.store.codec import OrderUnreadable, decode_order, encode_order

from .samples import START, an_order


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type of the domain, all fields drawn, so that a field added later is tested from its first day."""
    if isinstance(kind, typing.NewType):
        return values(kind.__supertype__)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return st.one_of(*(values(one) for one in arguments))
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{field.name: values(hints[field.name]) for field in fields(kind)})  # type: ignore[arg-type]
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=8),
        int: st.integers(-(2**53), 2**53),
        bool: st.booleans(),
        types.NoneType: st.none(),
    }
    return simple[kind]


@given(values(Order))
def test_every_field_survives(order: Order) -> None:
    """An order is read back as it was written."""
    assert decode_order(encode_order(order)) == order


def test_half_surrogates_do_not_keep_an_order_from_being_stored() -> None:
    """A supplier's message that no text encoding holds is stored with a replacement character."""
    order = an_order()
    purchase = replace(order.purchases[0], evidence=(Evidence(START, Source.PLACE, "unclear", "短\ud83d信"),))
    read = decode_order(encode_order(order.with_purchase(purchase)))
    assert read.purchases[0].evidence[0].detail == "短\ufffd信"
    assert read.with_purchase(order.purchases[0]) == order


def test_a_body_without_a_later_field_gets_its_default() -> None:
    """Rows of an older program stay readable."""
    order = an_order()
    body = encode_order(order).replace(b',"reviews":[]', b"")
    assert decode_order(body) == order


@pytest.mark.parametrize("body", [b"", b"\x7f{}", b"\x01", b'\x01{"client_id":', b"\x01{}"])
def test_what_is_no_order_is_refused(body: bytes) -> None:
    """Another format, a cut body and a body that lacks fields are errors of their own."""
    with pytest.raises(OrderUnreadable):
        decode_order(body)
