"""Replayed histories notice a store that answers otherwise."""

from dataclasses import replace
from pathlib import Path

import pytest

from reward_server.store.sqlite import open_sqlite

from .history import FOLDER, Asked, History, ask_again

PATHS = sorted(FOLDER.glob("*.jsonl"))


def test_histories_know_lost_races() -> None:
    """What they are there for."""
    asked = [one for path in PATHS for one in History.read(path).asked]
    assert any(one.save and not one.saved for one in asked)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
async def test_a_history_that_says_otherwise_is_noticed(path: Path, tmp_path: Path) -> None:
    """As if the fence had been open: a write that lost its race says that it won."""
    history = History.read(path)
    lost = [n for n, one in enumerate(history.asked) if one.save and not one.saved]
    for n in lost:
        asked: list[Asked] = list(history.asked)
        asked[n] = replace(asked[n], saved=True)
        store = open_sqlite(tmp_path / f"{n}.db")
        wrong = await ask_again(store, History(history.told, asked))
        await store.close()
        assert wrong[:1] == [f"write {n}: save gave False: {asked[n]}"]


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Nothing but sealed bytes is lost, and fields that came later have their defaults."""
    for path in PATHS:
        history = History.read(path)
        history.write(tmp_path / path.name)
        assert History.read(tmp_path / path.name) == history
