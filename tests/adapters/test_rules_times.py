"""Deadlines, grace periods and limits are data, per supplier and kind: the adapters say what the pages promise."""

import math

import pytest

from reward_adapters import adapter_kinds
from reward_adapters.contract import ProductKind, Traits

from .test_laws import specimen_of

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0

CARDS = dict.fromkeys([ProductKind.CARD, ProductKind.COUPON], 15 * MINUTE)
REST = dict.fromkeys([ProductKind.TOPUP, ProductKind.MEMBERSHIP], DAY)

DEADLINES = {
    "dushu": (dict.fromkeys(ProductKind, DAY), dict.fromkeys(ProductKind, DAY)),
    "kaquan91_card": (CARDS, CARDS),
    "kaquan91_recharge": (REST, dict.fromkeys(REST, 7 * DAY + HOUR)),
    "kasushou": (CARDS | REST, CARDS | REST),
    "kuaiduibao": (CARDS | REST, CARDS | REST),
}
"""By adapter: not sent by then, never sent; not settled by then, a person looks (docs/order-life.md)."""

LOOKS = {
    "dushu": (2, 5, 15, 60, 300),
    "kaquan91_card": (1, 3, 10, 30, 60),
    "kaquan91_recharge": (30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR),
    "kasushou": (*[2] * 30, 5, 10, 30, 60, 300),
    "kuaiduibao": (1, 3, 10, 30, 60, 300),
}
"""By adapter: seconds between looks, the last of which repeats (docs/suppliers). Those of Kuaiduibao are for accounts
that were granted a query.
"""

RESENDS = {"dushu": 2}
"""How often a number may be sent again after proven absence; elsewhere never."""


def traits_of(kind: str) -> Traits:
    """What an adapter says of its supplier."""
    return specimen_of(kind).dealer.traits


@pytest.mark.rule("P9")
@pytest.mark.parametrize("kind", DEADLINES)
def test_deadlines_are_those_of_the_page(kind: str) -> None:
    """Two per kind of product that the supplier sells, and none for others."""
    traits = traits_of(kind)
    assert (dict(traits.send_by), dict(traits.settle_by)) == DEADLINES[kind]


@pytest.mark.rule("P6")
@pytest.mark.parametrize("kind", adapter_kinds())
def test_a_number_is_sent_again_after_absence_only_where_the_supplier_says_so(kind: str) -> None:
    """Dushu's rules make it safe; of the others nobody knows."""
    assert traits_of(kind).absence_resends == RESENDS.get(kind, 0)


@pytest.mark.rule("P5")
@pytest.mark.parametrize("kind", LOOKS)
def test_grace_periods_and_pauses_between_looks_are_those_of_the_page(kind: str) -> None:
    """How soon a purchase in doubt is asked after, and how long "not found" is too early to be believed."""
    traits = traits_of(kind)
    assert (traits.not_found_grace, traits.look_delays) == (MINUTE, LOOKS[kind])


@pytest.mark.rule("P5", "P9")
@pytest.mark.parametrize("kind", adapter_kinds())
def test_absence_can_be_proven_before_a_person_is_called(kind: str) -> None:
    """The grace period and the answer's time-out leave room for two looks inside the shortest deadline."""
    traits = traits_of(kind)
    assert traits.not_found_grace >= MINUTE
    if traits.queryable:
        used = traits.connect_timeout + traits.read_timeout + traits.not_found_grace + traits.look_delays[0]
        assert used < min(traits.settle_by.values())


@pytest.mark.rule("P5")
def test_how_far_back_a_query_looks_is_data() -> None:
    """For ever, as far as the pages say; a Kasushou account may ask for days, the first of which may be over soon."""
    assert {traits_of(kind).query_horizon for kind in adapter_kinds()} == {math.inf}
    kasushou = specimen_of("kasushou")
    horizons = []
    for days in ("0", "1", "30"):
        config = kasushou.adapter.config(**{**kasushou.config, "query_day": days})
        horizons.append(kasushou.adapter.supplier(config).traits.query_horizon)
    assert horizons == [math.inf, 0.0, 29 * DAY]


@pytest.mark.rule("O7")
@pytest.mark.parametrize("kind", ["dushu", "kuaiduibao"])
def test_where_one_purchase_is_one_unit_that_is_the_default(kind: str) -> None:
    """Their wire has no field for a quantity."""
    assert traits_of(kind).max_units_per_purchase == 1
