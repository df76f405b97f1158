"""Money: what suppliers write, and what is written to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_adapters.money import Money, fen, format_yuan, show_yuan, yuan


@pytest.mark.parametrize(
    ("written", "units"),
    [("98.50", 985_000), ("0.0100", 100), (188, 1_880_000), (4.2, 42_000), ("0", 0), ("1e2", 1_000_000), (0.1, 1000)],
)
def test_yuan_are_read_to_the_last_digit(written: str | int | float, units: int) -> None:
    """Text, whole numbers and JSON's floats give the amount that was printed."""
    assert yuan(written) == units


@pytest.mark.parametrize("written", ["", "x", "0.00001", 0.00001, "1e99", "nan", "inf", True, 10**12])
def test_what_is_no_amount_of_yuan_is_refused(written: str | int | float) -> None:
    """More than 4 decimals, absurd amounts and truth values aren't money."""
    with pytest.raises(ValueError, match="amount"):
        yuan(written)


@pytest.mark.parametrize(("written", "amount"), [(930, "9.30"), ("930", "9.30"), (0, "0.00"), ("0930", "9.30")])
def test_fen_are_hundredths_of_a_yuan(written: str | int, amount: str) -> None:
    """Whole fen, as number or digits."""
    assert format_yuan(fen(written)) == amount


@pytest.mark.parametrize("written", ["9.30", "", "-1", -1, True, " 930", "9_30", "٩٣٠", "1" * 11, 10**40])
def test_what_is_not_whole_fen_is_refused(written: str | int) -> None:
    """A decimal point says yuan, and Python's own number words aren't a supplier's."""
    with pytest.raises(ValueError, match="fen"):
        fen(written)


@given(st.integers(0, 10**12), st.integers(0, 4))
def test_a_written_limit_is_never_above_the_limit(units: int, places: int) -> None:
    """Rounding goes down, by less than the last digit's worth."""
    written = yuan(format_yuan(Money(units), places))
    assert units - 10 ** (4 - places) < written <= units


@pytest.mark.parametrize(("units", "shown"), [(985_000, "98.50"), (985_051, "98.5051"), (100, "0.01"), (1, "0.0001")])
def test_people_see_as_many_decimals_as_matter(units: int, shown: str) -> None:
    """Two at least."""
    assert show_yuan(Money(units)) == shown
