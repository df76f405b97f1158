"""The state of an order is a function of what became of its units, and of nothing else."""

import ast
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import reward_server
from reward_server.domain.moves import order_state
from reward_server.domain.order import Failure, FailureReason, OrderState, PurchaseRecord, PurchaseState, ReviewReason

S = PurchaseState
FAILURE = Failure(FailureReason.REFUSED, "no")

UNITS = [
    *(PurchaseRecord(number="", offer=0, first_unit=0, quantity=1, state=state) for state in S if state is not S.DEAD),
    PurchaseRecord(number="", offer=0, first_unit=0, quantity=1, state=S.DEAD, failure=FAILURE),
    # Cancelled: dead without a failure.
    PurchaseRecord(number="", offer=0, first_unit=0, quantity=1, state=S.DEAD),
    PurchaseRecord(number="", offer=0, first_unit=0, quantity=1, state=S.UNKNOWN, review=ReviewReason.DEADLINE),
]
"""Everything that can be true of one unit, as far as it counts."""


def expected(units: tuple[PurchaseRecord, ...]) -> OrderState:
    """The page's words, one line each: docs/guarantees.md, O2."""
    states = {unit.state for unit in units}
    if any(unit.review for unit in units):
        return OrderState.NEEDS_REVIEW
    if S.UNKNOWN in states:
        return OrderState.OUTCOME_UNKNOWN
    if states & {S.WAITING, S.SUBMITTING, S.ACCEPTED}:
        return OrderState.PROCESSING if states & {S.ACCEPTED, S.DELIVERED} else OrderState.ACCEPTED
    if states == {S.DELIVERED}:
        return OrderState.FULFILLED
    if S.DELIVERED in states:
        return OrderState.PARTIALLY_FULFILLED
    return OrderState.FAILED if all(unit.failure for unit in units) else OrderState.CANCELLED


@pytest.mark.rule("O2")
def test_every_combination_of_units_makes_the_state_as_written() -> None:
    """For up to four units, in every order of them: what became of which unit makes no difference."""
    for quantity in range(1, 5):
        for units in itertools.product(UNITS, repeat=quantity):
            purchases = [replace(unit, number=f"N{place}", first_unit=place) for place, unit in enumerate(units)]
            assert order_state(purchases, quantity) is expected(units), units


@pytest.mark.rule("O2", "O1")
@pytest.mark.parametrize("live", [state for state in S if state is not S.DEAD])
def test_a_dead_purchase_says_nothing_once_its_unit_was_bought_elsewhere(live: PurchaseState) -> None:
    """However many died before: the one that lives is the unit's."""
    dead = [PurchaseRecord(number=f"N{i}", offer=0, first_unit=0, quantity=1, state=S.DEAD) for i in range(3)]
    alive = PurchaseRecord(number="N9", offer=1, first_unit=0, quantity=1, state=live)
    for place in range(4):
        purchases = [*dead[:place], alive, *dead[place:]]
        assert order_state(purchases, 1) is order_state([alive], 1)


def files_with(wanted: Callable[[ast.Call], bool]) -> set[str]:
    """The files of the server in which such a call stands."""
    package = Path(reward_server.__file__).parent
    return {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and wanted(node)
    }


@pytest.mark.rule("P12")
def test_purchases_are_moved_and_orders_saved_in_one_place_each() -> None:
    """No other part gives anything another state, and none goes to the store around the ledger with a change."""

    def gives_a_state(call: ast.Call) -> bool:
        return ast.unparse(call.func) == "replace" and any(word.arg == "state" for word in call.keywords)

    assert files_with(gives_a_state) == {"domain/moves.py"}
    # Nothing else runs on a store that was restored from a backup.
    savers = {"engine/ledger.py", "restoring.py"}
    assert files_with(lambda call: ast.unparse(call.func).endswith("store.save")) == savers
