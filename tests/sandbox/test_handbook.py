"""The handbook is written from the scenarios, and the page in docs is the present one."""

from pathlib import Path

from reward_sandbox import shops
from reward_sandbox.handbook import handbook

PAGE = Path(__file__).parents[2] / "docs" / "sandbox.md"


def test_the_page_in_docs_is_what_the_scenarios_say() -> None:
    """A page of hundreds of rows is no diff to read: what mends it is said instead."""
    is_present = PAGE.read_text() == handbook()
    assert is_present, "run: .venv/bin/reward-sandbox handbook > docs/sandbox.md"


def test_every_scenario_stands_on_the_page() -> None:
    """With the product that chooses it."""
    page = PAGE.read_text()
    missing = [
        f"{kind}/{scenario.name}"
        for kind, shop in shops().items()
        for scenario in shop.scenarios
        if f"`{kind}/{scenario.name}`<br>product {scenario.product}" not in page
    ]
    assert missing == []
