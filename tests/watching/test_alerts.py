"""The alert rules fire when they should and are silent when they should be."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from .promql import Fired, Series, firing, labels, rules_of, seconds

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RUNBOOK = ROOT / "docs" / "runbook"
RULES = rules_of((FOLDER / "alerts.yaml").read_text())
CASES: dict[str, Any] = yaml.safe_load((FOLDER / "alerts_test.yaml").read_text())


@pytest.mark.parametrize("case", CASES["tests"], ids=lambda case: str(case["name"]))
def test_rules_do_as_their_examples_say(case: dict[str, Any]) -> None:
    """Each example of alerts_test.yaml: made-up series, and what fires at some moments of them."""
    series = Series()
    for given in case["input_series"]:
        series.add(given["series"], given["values"], seconds(case["interval"]))
    for moment in case["alert_rule_test"]:
        rule = RULES[moment["alertname"]]
        expected = {
            Fired(
                labels({**alert["exp_labels"], "alertname": moment["alertname"]}),
                labels(alert["exp_annotations"]),
            )
            for alert in moment["exp_alerts"]
        }
        interval = seconds(CASES["evaluation_interval"])
        assert firing(rule, series, until=seconds(moment["eval_time"]), interval=interval) == expected, moment


def test_every_rule_has_an_example_that_fires_and_one_that_does_not() -> None:
    """A rule that can't fire, or always does, isn't found out otherwise."""
    moments = [moment for case in CASES["tests"] for moment in case["alert_rule_test"]]
    assert {moment["alertname"] for moment in moments if moment["exp_alerts"]} == set(RULES)
    assert {moment["alertname"] for moment in moments if not moment["exp_alerts"]} == set(RULES)


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_alert_has_a_page_that_says_what_to_do(name: str) -> None:
    """What it means, where to look, what to do, when it is over; the index leads there."""
    page = ROOT / RULES[name]["annotations"]["runbook_url"]
    assert page == RUNBOOK / f"{name}.md"
    headings = [line for line in page.read_text().splitlines() if line.startswith("#")]
    assert headings == [f"# {name}", "## What it means", "## Look", "## Do", "## Over when"]
    assert f"]({name}.md)" in (RUNBOOK / "index.md").read_text()


def test_the_runbook_has_no_page_without_an_alert() -> None:
    """A page that nothing leads to goes stale."""
    assert {page.stem for page in RUNBOOK.glob("*.md")} == {*RULES, "index"}


def test_the_runbook_quotes_events_metrics_and_commands_that_exist() -> None:
    """What stands in code type is an event of the log, a metric, or a command; the first two are on their pages."""
    events = set(re.findall(r"^\| (.+?) \| \w+", (ROOT / "docs" / "logs.md").read_text(), re.MULTILINE))
    metrics = set(re.findall(r"`((?:reward|process)_\w+)`", (ROOT / "docs" / "operations.md").read_text()))
    for page in RUNBOOK.glob("Reward*.md"):
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for quoted in (" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)):
            if name := re.match(r"(?:reward|process)_\w+", quoted):
                assert name[0] in metrics, (page.name, quoted)
            elif " " in quoted and not quoted.startswith(("rewardctl ", "reward-server ", "systemctl ", "promtool ")):
                assert quoted in events, (page.name, quoted)
