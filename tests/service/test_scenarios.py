"""Every scenario of the sandbox, played against the real server, ends as the scenario declares."""

from collections.abc import Iterator

import pytest

from reward_sandbox import shops

from .stage import expectation
from .troupe import Troupe, find

NAMES = [f"{kind}/{scenario.name}" for kind, shop in shops().items() for scenario in shop.scenarios]


@pytest.fixture(scope="module")
def troupe(request: pytest.FixtureRequest) -> Iterator[Troupe]:
    """Plays the scenarios that this run asks for."""
    wanted = [
        str(item.callspec.params["scenario"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and "troupe" in item.fixturenames
    ]
    playing = Troupe(wanted)
    yield playing
    playing.dismiss()


@pytest.mark.parametrize("scenario", NAMES)
def test_a_scenario_ends_as_declared(scenario: str, troupe: Troupe) -> None:
    """Order state, cards, charges in the books, alerts; and its codes really stood on the wire."""
    _, declared = find(scenario)
    result = troupe.result(scenario)
    assert result.outcome == expectation(declared), result.story
    assert not result.timed_out, result.story
    assert set(declared.codes) <= result.codes, result.story


@pytest.mark.parametrize("kind", shops())
def test_every_behaviour_of_a_supplier_is_shown_by_a_scenario(kind: str) -> None:
    """Or stands among the open ones, with a reason; what is shown in part stands in both."""
    shown = {number for scenario in shops()[kind].scenarios for number in scenario.shows}
    assert shown | set(shops()[kind].left_open) == set(shops()[kind].behaviours)
    assert all(shops()[kind].left_open.values())


@pytest.mark.parametrize("kind", shops())
def test_every_documented_code_of_a_supplier_has_a_scenario(kind: str) -> None:
    """And no scenario claims a code that isn't documented."""
    assert {code for scenario in shops()[kind].scenarios for code in scenario.codes} == set(shops()[kind].codes)


def test_scenarios_can_be_told_apart() -> None:
    """By product number, by name and by magic recipient."""
    for scenarios in (shop.scenarios for shop in shops().values()):
        for words in ("product", "name"):
            values = [getattr(scenario, words) for scenario in scenarios]
            assert len(set(values)) == len(values)
        magic = [scenario.magic for scenario in scenarios if scenario.magic]
        assert len(set(magic)) == len(magic)
