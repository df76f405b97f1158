"""`rewardctl audit` and `rewardctl keys`."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from rewardservice._chains import BEFORE_FIRST, content
from rewardservice.v1 import operator_service_pb2 as pb

from .test_suppliers import Rewardctl, Scripted, operator, operator_target, rewardctl

__all__ = ["operator", "operator_target", "rewardctl"]


def chain(name: str = "A", length: int = 5) -> list[pb.AuditEntry]:
    """A chain as the service writes it, newest first."""
    before, entries = BEFORE_FIRST, []
    for place in range(1, length + 1):
        entry = pb.AuditEntry(
            time=Timestamp(seconds=1_800_000_000 + place, nanos=7_000_000),
            by="商店",
            what="read",
            order_id=f"O{place}",
            cards=2,
            chain=name,
            place=place,
        )
        entry.hash = before = hashlib.sha256(before + content(entry)).digest()
        entries.append(entry)
    return entries[::-1]


async def test_the_audit_as_a_table(operator: Scripted, rewardctl: Rewardctl) -> None:
    """Newest first, as many as wanted, with what is asked for."""
    table = await rewardctl("--output", "table", command="audit")
    lines = await rewardctl("--limit", "1", "--decisions", "--order", "O1", command="audit")

    assert table.out.splitlines()[1].split() == ["operator", "(Li)", "pause", "kss_a", "prices", "are", "wrong"]
    assert [line["what"] for line in lines.lines] == ["pause"]
    assert (operator.asked[-1].only_decisions, operator.asked[-1].order_id) == (True, "O1")


async def test_chains_that_are_whole(operator: Scripted, rewardctl: Rewardctl, tmp_path: Path) -> None:
    """Each with its end, however the entries of several chains are mixed; the ends are noted if they are wanted."""
    two, other = chain("A"), chain("B", 3)
    operator.audit = [two[1], other[0], two[0], other[1], *two[2:], other[2]]
    ended = await rewardctl("verify", "--ends", str(tmp_path / "ends"), command="audit")

    assert ended.code == 0, ended.err
    assert ended.lines == [
        {
            "chains": [
                {"chain": "A", "entries": 5, "end": two[0].hash.hex()},
                {"chain": "B", "entries": 3, "end": other[0].hash.hex()},
            ],
            "problems": [],
        }
    ]
    assert json.loads((tmp_path / "ends").read_text())["A"] == {"place": 5, "hash": two[0].hash.hex()}
    operator.audit = [*chain("A", 9), *other]
    assert (await rewardctl("verify", "--ends", str(tmp_path / "ends"), command="audit")).code == 0


def changed(entries: list[pb.AuditEntry]) -> list[pb.AuditEntry]:
    entries[2].cards = 3
    return entries


def replaced(entries: list[pb.AuditEntry]) -> list[pb.AuditEntry]:
    entries[2].order_id = "another"
    entries[2].hash = hashlib.sha256(entries[3].hash + content(entries[2])).digest()
    return entries


def swapped(entries: list[pb.AuditEntry]) -> list[pb.AuditEntry]:
    entries[1].place, entries[2].place = entries[2].place, entries[1].place
    return entries


def taken_out(entries: list[pb.AuditEntry]) -> list[pb.AuditEntry]:
    return [*entries[:2], *entries[3:]]


def closed_up(entries: list[pb.AuditEntry]) -> list[pb.AuditEntry]:
    for entry in entries[:2]:
        entry.place -= 1
    return taken_out(entries)


def doubled(entries: list[pb.AuditEntry]) -> list[pb.AuditEntry]:
    return [*entries[:3], *entries[2:]]


def beheaded(entries: list[pb.AuditEntry]) -> list[pb.AuditEntry]:
    return entries[:-1]


@pytest.mark.parametrize("attack", [changed, replaced, swapped, taken_out, closed_up, doubled, beheaded])
async def test_a_chain_that_was_meddled_with(
    operator: Scripted, rewardctl: Rewardctl, attack: Callable[[list[pb.AuditEntry]], list[pb.AuditEntry]]
) -> None:
    """It is named, and the exit code tells."""
    operator.audit = [*chain("B"), *attack(chain("A"))]
    ended = await rewardctl("verify", command="audit")

    assert ended.code == 8
    assert ended.err.startswith("rewardctl: chain A: ")
    assert "chain B" not in ended.err


@pytest.mark.parametrize("left", [chain("A", 3), chain("B"), [*chain("B"), *chain("A", 4)]])
async def test_a_chain_that_lost_its_end(
    operator: Scripted, rewardctl: Rewardctl, tmp_path: Path, left: list[pb.AuditEntry]
) -> None:
    """Entries that were cut off, or a whole chain: found by the ends that were noted, and these stay as they were."""
    ends = tmp_path / "ends"
    operator.audit = chain("A")
    await rewardctl("verify", "--ends", str(ends), command="audit")
    noted = ends.read_text()
    operator.audit = left
    ended = await rewardctl("verify", "--ends", str(ends), command="audit")

    assert (ended.code, ends.read_text()) == (8, noted)
    assert ended.err == "rewardctl: chain A: it had 5 entries, and the last of them isn't there any more\n"


async def test_a_chain_that_was_written_anew(operator: Scripted, rewardctl: Rewardctl, tmp_path: Path) -> None:
    """Hashes can be made again by who can write the database; what was noted elsewhere can't."""
    ends = tmp_path / "ends"
    operator.audit = chain("A")
    await rewardctl("verify", "--ends", str(ends), command="audit")
    forged = chain("A", 6)[::-1]
    before = BEFORE_FIRST
    for entry in forged:
        entry.by = "nobody"
        entry.hash = before = hashlib.sha256(before + content(entry)).digest()
    operator.audit = forged[::-1]
    ended = await rewardctl("verify", "--ends", str(ends), command="audit")

    assert ended.code == 8
    assert ended.err == "rewardctl: chain A: the entry of place 5 isn't the one that was noted\n"


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"A": {"place": 1}}', '{"A": {"place": "x", "hash": ""}}'])
async def test_ends_that_are_none(operator: Scripted, rewardctl: Rewardctl, tmp_path: Path, text: str) -> None:
    """Told before anything is asked."""
    (tmp_path / "ends").write_text(text)
    ended = await rewardctl("verify", "--ends", str(tmp_path / "ends"), command="audit")

    assert (ended.code, operator.asked) == (2, [])
    assert "isn't a file of ends" in ended.err


async def test_the_keys(operator: Scripted, rewardctl: Rewardctl) -> None:
    """By client, and how far sealing again has got."""
    ended = await rewardctl("--output", "table", command="keys")

    header, service, shop, below = ended.out.splitlines()
    assert header.split() == ["CLIENT", "KEY", "KEYS", "WRAPPED", "BY", "ROTATED", "SEALED", "AGAIN"]
    assert service.split() == ["(the", "service)", "aa", "1", "k-1"]
    assert shop.split()[:5] == ["shop", "bb", "2", "k-1,", "k-2"]
    assert shop.endswith("12 values, 1 don't open so far")
    assert below == "new keys are wrapped by k-2"


async def test_keys_are_rotated(operator: Scripted, rewardctl: Rewardctl) -> None:
    """Of one client or of all, with a reason."""
    ended = await rewardctl("rotate", "shop", "--reason", "yearly", "--actor", "Li", command="keys")
    await rewardctl("rotate", "--only-wrap", "--reason", "yearly", command="keys")

    assert ended.lines[0]["key_id"] == "bb"
    assert operator.asked == [
        pb.RotateKeysRequest(client_id="shop", reason="yearly", actor="Li"),
        pb.RotateKeysRequest(only_wrap=True, reason="yearly"),
    ]
    assert (await rewardctl("rotate", "shop", command="keys")).code == 2
