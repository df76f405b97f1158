"""Checks the audit's chains, from outside: nothing here trusts the server or its database."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from rewardservice.v1 import operator_service_pb2 as pb

BEFORE_FIRST = bytes(32)
"""What stands for the hash before the first entry of a chain."""


@dataclass(slots=True)
class Chain:
    """One chain, as far as it was read. Its entries come newest first, almost: some may change places."""

    name: str
    end: int = 0
    """The place of its newest entry."""
    end_hash: bytes = b""
    entries: int = 0
    noted: bytes = b""
    """The hash of the entry that was its newest earlier, as it is now; b"" until it was read."""
    hashes: dict[int, bytes] = field(default_factory=dict)
    """By place: some 150 bytes each in memory."""
    contents: dict[int, bytes] = field(default_factory=dict)
    """By place, of the entries whose predecessor isn't there yet."""
    problems: list[str] = field(default_factory=list)


class Chains:
    """All of them. Give every entry to `add`, then ask `finish` what is wrong."""

    def __init__(self, noted: Mapping[str, tuple[int, bytes]] = {}) -> None:
        """`noted` are the ends that chains had earlier, by name: place and hash."""
        self._noted = dict(noted)
        self.chains: dict[str, Chain] = {}

    def add(self, entry: pb.AuditEntry) -> None:
        """Takes one entry."""
        chain = self.chains.setdefault(entry.chain, Chain(entry.chain))
        if entry.place < 1 or entry.place in chain.hashes:
            # Two of one place: the second is as good as none.
            chain.problems.append(f"there is an entry too many of place {entry.place}")
            return
        chain.entries += 1
        if entry.place > chain.end:
            chain.end, chain.end_hash = entry.place, entry.hash
        if self._noted.get(entry.chain, (0, b""))[0] == entry.place:
            chain.noted = entry.hash
        chain.hashes[entry.place] = entry.hash
        chain.contents[entry.place] = content(entry)
        if entry.place == 1:
            self._check(chain, 1, BEFORE_FIRST)
        for place in (entry.place, entry.place + 1):
            if place in chain.contents and place - 1 in chain.hashes:
                self._check(chain, place, chain.hashes[place - 1])

    def finish(self) -> list[str]:
        """What is wrong, a sentence each; nothing: every entry is as it was written, and none is missing before the
        newest of its chain. Whether newer ones were cut off tell only ends that were noted before.
        """
        problems = []
        for chain in self.chains.values():
            for place in sorted(chain.contents):
                # Its predecessor never came.
                chain.problems.append(f"the entry of place {place - 1} is missing")
            problems += [f"chain {chain.name}: {problem}" for problem in chain.problems]
        for name, (place, noted) in sorted(self._noted.items()):
            found = self.chains[name].noted if name in self.chains else b""
            if not found:
                problems.append(f"chain {name}: it had {place} entries, and the last of them isn't there any more")
            elif found != noted:
                problems.append(f"chain {name}: the entry of place {place} isn't the one that was noted")
        return problems

    def _check(self, chain: Chain, place: int, before: bytes) -> None:
        """Checks an entry once the one before it is there."""
        wanted = hashlib.sha256(before + chain.contents.pop(place)).digest()
        if chain.hashes[place] != wanted:
            chain.problems.append(f"the entry of place {place}, or the one before it, was changed")


def content(entry: pb.AuditEntry) -> bytes:
    """What an entry says, as its hash is made of it: see `AuditEntry.hash` in the contract."""
    milliseconds = entry.time.seconds * 1000 + entry.time.nanos // 1_000_000
    return b"".join(
        value.to_bytes(8, "big", signed=True) if isinstance(value, int) else _text(value)
        for value in (
            entry.chain,
            entry.place,
            milliseconds,
            entry.by,
            entry.what,
            entry.supplier,
            entry.client_id,
            entry.order_id,
            entry.purchase_number,
            entry.first_position,
            entry.last_position,
            entry.cards,
            entry.reason,
        )
    )


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(4, "big") + encoded
