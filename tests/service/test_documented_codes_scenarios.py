"""The codes that scenarios bring onto the wire are those that the adapters read and that docs/suppliers documents."""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import pytest

from reward_adapters import dushu, kaquan91_card, kaquan91_recharge, kasushou, kuaiduibao
from reward_adapters.contract import ProductKind, Purchase, Unclear
from reward_adapters.money import Money
from reward_sandbox import shops

PAGES: Final = Path(__file__).parents[2] / "docs" / "suppliers"

BEFORE_A_CODE: Final[Mapping[str, str]] = {"dushu": "", "kuaiduibao": ""}
"""How the sandbox names a code; `code ` where nothing is said."""

BEYOND_THE_PAGES: Final[Mapping[str, set[str]]] = {
    # A card that isn't there yet: "other" on our page.
    "kaquan91_card": {"status 1"},
    # How callbacks of the documented states are named, and sites that repeat the code as HTTP status.
    "kasushou": {*(f"callback {state}" for state in (2, 3, 4, 5)), "HTTP 400", "HTTP 500"},
    # Said in words there.
    "dushu": {"HTTP 429"},
}
"""Codes of scenarios that neither an adapter's list nor a table of our page names."""


def default(config: Any, name: str) -> Any:
    """What a key of an account is when nobody sets it."""
    return next(key.default for key in fields(config) if key.name == name)


def states_read_by_recharges() -> set[str]:
    """Those in which an order's state isn't called unknown."""
    purchase = Purchase(
        number="0000000000000000000000000A",
        product_kind=ProductKind.TOPUP,
        supplier_product="521",
        quantity=1,
        recipient=None,
        unit_cost=Money(0),
        unit_limit=Money(0),
    )
    order = {"out_order_id": purchase.number, "order_id": "API1"}
    return {
        f"status {state}"
        for state in range(-9, 100)
        if not isinstance(kaquan91_recharge.read_order({**order, "status": state}, purchase), Unclear)
    }


READ: Final[Mapping[str, set[str]]] = {
    "kuaiduibao": {*kuaiduibao.CERTAIN_REFUSALS, f"status_code {kuaiduibao.QUERIED_DONE}"},
    "dushu": {
        dushu.SUCCESS,
        *dushu.REFUSALS,
        *dushu.TOKEN_CODES,
        *dushu.CONFIGURATION_CODES,
        *dushu.GATEWAY_HTTP_STATUS,
        *dushu.CREDENTIAL_ERRORS,
        *default(dushu.Config, "ambiguous_codes"),
        *default(dushu.Config, "not_found_codes"),
        *(f"HTTP {status}" for status in dushu.GATEWAY_HTTP_STATUS.values()),
    },
    "kasushou": {
        f"code {kasushou.SUCCESS}",
        f"code {kasushou.FAILURE}",
        *(f"status {status}" for status in kasushou.Status),
    },
    "kaquan91_card": {f"status {state}" for state in (*kaquan91_card.AFTER_SALE, kaquan91_card.CANCELLED)},
    "kaquan91_recharge": states_read_by_recharges(),
}
"""The codes and states that an adapter has lists of, as the sandbox names them."""


def documented(kind: str) -> set[str]:
    """The codes and states in those tables of a supplier's page that tell what answers, states and callbacks mean."""
    found: set[str] = set()
    heading = ""
    for line in (PAGES / f"{kind.replace('_', '-')}.md").read_text().splitlines():
        first = line.split("|")[1].strip() if line.startswith("|") else ""
        if not first:
            heading = ""
        elif not heading:
            heading = first.strip("`").split()[0].lower()
        else:
            found |= named(kind, heading, first)
    return found


def named(kind: str, heading: str, cell: str) -> set[str]:
    """The codes in the first cell of a row, as the sandbox names them."""
    match heading:
        case "status":
            states = re.match(r"-?\d+(, \d+)*", cell.replace("\N{MINUS SIGN}", "-"))
            return {f"status {state}" for state in states[0].split(", ")} if states else set()
        case "callback":
            return {f"status_code {code}" for code in re.findall(r"`status_code` (\d+)", cell)}
        case "answer":
            http = re.findall(r"HTTP (\d{3})(?:, (\d{3}))?", cell)
            rest = re.sub(r"HTTP \d{3}(, \d{3})*", "", cell)
            ranges = re.findall(r"(\d+)\N{EN DASH}(\d+)", rest)
            numbers = {*re.findall(r"\d+", rest), *(str(n) for a, b in ranges for n in range(int(a), int(b) + 1))}
            words = re.findall(r"`([A-Z]{3,})`", rest)
            before = BEFORE_A_CODE.get(kind, "code ")
            statuses = {f"HTTP {status}" for statuses in http for status in statuses if status}
            return {f"{before}{number}" for number in numbers} | set(words) | statuses
        case _:
            return set()


@pytest.mark.parametrize("kind", shops())
def test_every_code_that_an_adapter_reads_has_a_scenario(kind: str) -> None:
    """Of its own lists, which the sandbox knows nothing of."""
    assert READ[kind] - set(shops()[kind].codes) == set()


@pytest.mark.parametrize("kind", shops())
def test_every_code_on_a_suppliers_page_has_a_scenario(kind: str) -> None:
    """As its tables of answers, states and callbacks have them."""
    assert len(documented(kind)) > 3
    assert documented(kind) - set(shops()[kind].codes) == set()


@pytest.mark.parametrize("kind", shops())
def test_no_scenario_has_a_code_that_nobody_reads_or_documents(kind: str) -> None:
    """But for the few that are listed here, with the reason."""
    beyond = set(shops()[kind].codes) - READ[kind] - documented(kind)
    assert beyond == BEYOND_THE_PAGES.get(kind, set())
