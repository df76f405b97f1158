"""Every magic recipient gives an ordinary product the course that it names, whatever that product costs."""

from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from reward_sandbox import shops

from .stage import expectation
from .troupe import Troupe, find

ORDINARY: Final[Mapping[str, Mapping[str, str]]] = {
    "kuaiduibao": {"phone": "topup", "qq": "topup-qq", "account": "recipient-too-long"},
    "kaquan91_recharge": {"phone": "topup", "account": "account-name"},
    "dushu": {"phone": "membership"},
    "kasushou": {"phone": "topup"},
}
"""The product to order, by supplier and sort of recipient."""

NOT_PLAYED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("dushu/two-in-one", "dushu/two-in-one-total", "dushu/two-in-one-misread"),
        "how many units a purchase may ask for belongs to the offer",
    ),
    **{
        f"{kind}/{one.name}": "takes hours, in leaps that only one scenario of a process at a time can make"
        for kind, shop in shops().items()
        for one in shop.scenarios
        if one.lapse and one.magic
    },
    **{
        f"{kind}/{one.name}": "the fields of an order form belong to the product; another one refuses them"
        for kind, shop in shops().items()
        for one in shop.scenarios
        if one.form and one.magic
    },
}
"""Scenarios whose outcome a magic recipient can't bring about, or not soon, and why."""

NAMES = [
    f"{kind}/{scenario.name}@{ORDINARY[kind][scenario.recipient]}"
    for kind, shop in shops().items()
    for scenario in shop.scenarios
    if scenario.magic and f"{kind}/{scenario.name}" not in NOT_PLAYED
]


@pytest.fixture(scope="module")
def troupe(request: pytest.FixtureRequest) -> Iterator[Troupe]:
    """Plays the recipients that this run asks for."""
    wanted = [
        str(item.callspec.params["scenario"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and "troupe" in item.fixturenames
    ]
    playing = Troupe(wanted)
    yield playing
    playing.dismiss()


@pytest.mark.parametrize("scenario", NAMES)
def test_a_magic_recipient_brings_the_outcome_of_its_scenario(scenario: str, troupe: Troupe) -> None:
    """The same state, cards, charges, alerts and callbacks as with the scenario's own product."""
    result = troupe.result(scenario)
    assert result.outcome == expectation(find(scenario)[1]), result.story
    assert not result.timed_out, result.story


def test_exceptions_are_scenarios_with_a_magic_recipient() -> None:
    """What isn't played is named, with a reason."""
    magic = {f"{kind}/{one.name}" for kind, shop in shops().items() for one in shop.scenarios if one.magic}
    assert set(NOT_PLAYED) <= magic
    assert all(NOT_PLAYED.values())
