"""Connections are cut at random while orders run: what every subscriber is told is the log, whole and in order."""

from pathlib import Path

import pytest

from .run import whole

ORDERS = 2_000
SUBSCRIBERS = 20
MOST_MEMORY_KIB = 400 * 1024
"""Of the whole server; it takes some 140 MB."""

MOST_BYTES = 300_000
"""After so many bytes at the latest something happens to a connection: a third of what a subscriber is told."""


@pytest.mark.timeout(600)
async def test_what_subscribers_are_told_is_the_log_whatever_happens_to_their_connections(tmp_path: Path) -> None:
    """Any selector, start and view: nothing missing, nothing twice in a stream, versions rising by one.

    A reader that is stuck for the whole run changes nothing of it, and ends with the token that continues it.
    """
    found = await whole(tmp_path, seed=1, orders=ORDERS, subscribers=SUBSCRIBERS, most_bytes=MOST_BYTES)
    assert found.violations == []
    assert found.orders == ORDERS
    assert found.updates > 2 * ORDERS
    assert found.told > SUBSCRIBERS * ORDERS // 4
    assert found.connections > 3 * SUBSCRIBERS, "the network was too good for the test to tell anything"
    assert len(found.cuts) == 5
    assert found.memory_kib < MOST_MEMORY_KIB


@pytest.mark.timeout(600)
async def test_streams_go_on_through_restarts_of_the_server(tmp_path: Path) -> None:
    """The server ends and comes back while orders run and connections are cut."""
    found = await whole(tmp_path, seed=2, orders=200, subscribers=10, restarts=1)
    assert found.violations == []
    assert found.connections > 20
