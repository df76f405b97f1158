"""Order ids and supplier numbers: sorted by time, never counted, never twice."""

import re
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_server.domain.ids import IdSource

pytestmark = pytest.mark.rule("D7")


@given(st.lists(st.integers(0, (1 << 48) - 10_000), min_size=1, max_size=50))
def test_ids_sort_by_the_order_of_their_making(times: list[int]) -> None:
    """Also inside a millisecond, and when the clock stands still or jumps back."""
    clock = iter(times)
    new_id = IdSource(clock.__next__)
    made = [new_id() for _ in times]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_more_ids_than_a_millisecond_holds_still_sort() -> None:
    """The counter spills over into the next millisecond."""
    new_id = IdSource(lambda: 1_780_000_000_000)
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_an_id_says_when_it_was_made() -> None:
    """Ids of different processes sort by time as well: rows that are new stand together."""
    times = [1_780_000_000_000 + 1_000 * n for n in range(100)]
    made = [IdSource(lambda at=at: at)() for at in times]  # type: ignore[misc]
    assert made == sorted(made)


def test_a_restored_backup_hands_out_no_number_twice() -> None:
    """Two runs that begin at the same moment from the same data share nothing that they could repeat."""
    first, second = (IdSource(lambda: 1_780_000_000_000) for _ in range(2))
    assert not {first() for _ in range(2_000)} & {second() for _ in range(2_000)}


def test_every_supplier_takes_a_number() -> None:
    """26 digits and capitals without those that look alike; a UUID of version 7 when read as one."""
    made = IdSource(lambda: 1_780_000_000_000, secrets.randbits)()
    assert re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", made)
    value = 0
    for character in made:
        value = value << 5 | "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(character)
    assert (value >> 80, value >> 76 & 15, value >> 62 & 3) == (1_780_000_000_000, 7, 2)
