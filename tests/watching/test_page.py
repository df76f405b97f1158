"""The metrics page of a server that did some work: the documentation, the alert rules and the dashboard know it."""

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from reward_server.domain.moves import AlertKind
from service.harness import Service, service

from .promql import groupings, rules_of, selectors
from .test_dashboard import expressions

ROOT = Path(__file__).parents[2]
OPERATIONS = ROOT / "docs" / "operations.md"
RULES = rules_of((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
CARD = "kasushou/card"

GIVEN = frozenset({"instance", "job"})
"""Labels that Prometheus itself adds."""

Page = Mapping[str, list[dict[str, str]]]
"""The labels of every series, by the name of its sample."""


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> str:
    """The lines of `[store]`."""
    return f'url = "{request.getfixturevalue("store_url")}"' if request.param == "postgres" else ""


@pytest.fixture
async def busy(store: str, tmp_path: Path) -> AsyncIterator[Service]:
    """A server that has bought a card and shown it on a stream, over either store."""
    async with service(tmp_path, store=store, kinds=("kasushou",)) as running:
        created = await running.client.create(CARD, "o-1")
        await running.client.until(created.order.order_id)
        await running.app.inquiries.balances()
        async with aiohttp.ClientSession() as session:
            stranger = f"http://127.0.0.1:{running.place.http_port}/callbacks/kasushou"
            async with session.post(stranger, data=b"{}") as answer:
                assert answer.status == 404
        yield running


async def read(running: Service) -> Page:
    """Reads `/metrics` as Prometheus does."""
    url = f"http://127.0.0.1:{running.place.http_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        text = await answer.text()
    page: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            page.setdefault(sample.name, []).append(dict(sample.labels))
    return page


def documented() -> Mapping[str, frozenset[str]]:
    """The labels of each metric, by the table of the operations page."""
    section = OPERATIONS.read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*)\|([^|]*)\| .* \|$", section, re.MULTILINE)
    return {
        name: frozenset(re.findall(r"`(\w+)`", labels))
        for names, labels in rows
        for name in re.findall(r"`(\w+)`", names)
    }


def base(sample: str) -> str:
    """The metric that a sample belongs to."""
    return re.sub(r"_(bucket|count|sum)$", "", sample)


async def test_the_operations_page_lists_every_metric_with_its_labels_and_no_other(busy: Service) -> None:
    """What it says of labels is what is on the page."""
    page = await read(busy)
    table = documented()
    assert {base(name) for name in page} == set(table)
    for name, series in page.items():
        for found in series:
            assert found.keys() - {"le"} == table[base(name)], name


async def test_rules_and_dashboard_read_only_what_is_there(busy: Service) -> None:
    """Every metric, every label, and every value that is named and that a quiet server has."""
    page = await read(busy)
    table = documented()
    for expression in [*(rule["expr"] for rule in RULES.values()), *expressions()]:
        parsed = promql_parser.parse(expression)
        for name, matchers in selectors(parsed):
            assert name == "up" or name in page, expression
            for label, (op, value) in matchers.items():
                if label in GIVEN:
                    continue
                assert label in table[base(name)], expression
                if op == "Equal":
                    assert any(found[label] == value for found in page[name]), (expression, value)
        for labels, names in groupings(parsed):
            known = {label for name in names for label in table.get(base(name), ())}
            assert set(labels) <= known | GIVEN | {"le"}, expression


async def test_what_a_card_took_can_be_read(busy: Service) -> None:
    """The one card that was bought left its trace in every part."""
    url = f"http://127.0.0.1:{busy.place.http_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        lines = (await answer.text()).splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['reward_sealed_values_total{kind="card",operation="sealed"}']) == 1
    assert float(values['reward_sealed_values_total{kind="card",operation="opened"}']) >= 1
    assert float(values['reward_sealed_values_total{kind="card",operation="unopened"}']) == 0
    assert float(values['reward_order_transitions_total{state="fulfilled"}']) == 1
    assert float(values["reward_store_commit_duration_seconds_count"]) == float(values["reward_store_commits_total"])
    assert float(values['reward_streams_ended_total{cause="cancelled"}']) + float(values["reward_streams"]) == 1
    assert float(values["reward_ready"]) == 1


async def test_probes_answer(busy: Service) -> None:
    """`/healthz` while the process lives, `/readyz` while it takes orders; else 503, and why."""
    base_url = f"http://127.0.0.1:{busy.place.http_port}"
    async with aiohttp.ClientSession() as session:
        for path in ("healthz", "readyz"):
            async with session.get(f"{base_url}/{path}") as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")
        await busy.app.drain()
        async with session.get(f"{base_url}/healthz") as answer:
            assert answer.status == 200
        async with session.get(f"{base_url}/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "draining\n")
    page = await read(busy)
    assert page["reward_ready"]


def test_every_kind_of_alert_is_read_by_a_rule() -> None:
    """What the server counts for people reaches them. Reviews are read from the store, where they stay visible."""
    covered = set()
    for rule in RULES.values():
        for name, matchers in selectors(promql_parser.parse(rule["expr"])):
            if name == "reward_alerts_total":
                covered |= set(matchers["kind"][1].split("|"))
    assert covered == {*AlertKind, "audit_lost"} - {AlertKind.REVIEW}
