"""The dashboard is one that Grafana takes: its panels have places, ids and expressions that can be read."""

import json
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import promql_parser

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "deploy" / "grafana" / "reward-service.json").read_text()
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]


def expressions() -> Iterator[str]:
    """Every expression, with Grafana's own variables filled in."""
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")


def test_every_expression_can_be_read() -> None:
    """By the language's own grammar."""
    found = list(expressions())
    assert found
    for expression in found:
        promql_parser.parse(expression)


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    """Grafana draws them as they stand; 24 columns wide."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        apart_across = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart_across or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_panels_ask_the_chosen_data_source() -> None:
    """And not one that only its author has."""
    sources = [panel["datasource"] for panel in PANELS if panel["type"] != "row"]
    sources += [target["datasource"] for panel in PANELS for target in panel.get("targets", ())]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "instance"}


def test_targets_of_a_panel_are_told_apart() -> None:
    """By their reference and by their legend."""
    for panel in PANELS:
        targets = panel.get("targets", ())
        for one, other in pairwise(targets):
            assert one["refId"] != other["refId"]
            assert one["legendFormat"] != other["legendFormat"]
