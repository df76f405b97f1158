"""`rewardctl audit …`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from cyclopts import App
from google.protobuf.timestamp_pb2 import Timestamp

from rewardservice._chains import Chain, Chains
from rewardservice._options import Exit, Given, UsageError
from rewardservice._output import Output, clean, complain
from rewardservice._tables import Column, Fitted
from rewardservice.client import RewardClient
from rewardservice.v1 import operator_service_pb2 as pb

audit_app = App(
    name="audit",
    help="Show who read which cards and what operators decided, and check that nothing of it was changed. "
    "Needs an operator's key.",
)


@audit_app.default
async def list_entries(*, decisions: bool = False, order: str = "", limit: int = 50, options: Given) -> int:
    """List who read which cards and what operators decided, newest first.

    Parameters
    ----------
    decisions
        Only what people decided.
    order
        Only what names this order. Streams name positions of their client's log instead.
    limit
        At most so many; 50 if not given.
    """
    output = Output(options.output)
    if limit < 1:
        raise UsageError("--limit must be at least 1")
    entries: list[pb.AuditEntry] = []
    async with options.client() as client:
        found = client.audit_entries(only_decisions=decisions, order_id=order, page_size=min(limit, 200))
        async for entry in found:
            entries.append(entry)
            if output.json:
                output.message(entry)
            if len(entries) >= limit:
                break
    if not output.json:
        output.table(audit_table(entries))
    return Exit.OK


@audit_app.command
async def verify(*, ends: Path | None = None, options: Given) -> int:
    """Read the whole audit and check that each entry is as it was written and none is missing.

    Entries that were cut off at the end of a chain can't be told from ones that were never written, unless the ends
    were noted before: keep FILE where those who run the database can't write.

    Parameters
    ----------
    ends
        FILE with the ends that the chains had; it is renewed when nothing is wrong.
    """
    output = Output(options.output)
    noted = _read_ends(ends)
    async with options.client() as client:
        chains, problems = await _checked(client, noted)
        if problems:
            # Once more: an entry that was being written while others were read may have been missed.
            chains, problems = await _checked(client, noted)
    found = sorted(chains.chains.values(), key=lambda chain: chain.name)
    if output.json:
        chained = [{"chain": chain.name, "entries": chain.entries, "end": chain.end_hash.hex()} for chain in found]
        output.line(json.dumps({"chains": chained, "problems": problems}))
    else:
        table = Fitted(Column("CHAIN"), Column("ENTRIES"), Column("END", least=16))
        for chain in found:
            table.add_row(clean(chain.name), str(chain.entries), chain.end_hash.hex())
        output.table(table)
    for problem in problems:
        complain(clean(problem))
    if problems:
        return Exit.NOT_VERIFIED
    if ends is not None:
        _write_ends(ends, found)
    return Exit.OK


async def _checked(client: RewardClient, noted: Mapping[str, tuple[int, bytes]]) -> tuple[Chains, Sequence[str]]:
    chains = Chains(noted)
    async for entry in client.audit_entries(page_size=200):
        chains.add(entry)
    return chains, chains.finish()


def _write_ends(file: Path, chains: Iterable[Chain]) -> None:
    noted = {chain.name: {"place": chain.end, "hash": chain.end_hash.hex()} for chain in chains}
    # Whole or not at all: half a file would have forgotten what there was.
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(json.dumps(noted, indent=1) + "\n")
    fresh.replace(file)


def _read_ends(file: Path | None) -> Mapping[str, tuple[int, bytes]]:
    if file is None:
        return {}
    if not file.exists():
        complain(f"{clean(str(file))} is new: from now on it tells whether ends were cut off")
        return {}
    try:
        noted = json.loads(file.read_text())
        return {name: (int(end["place"]), bytes.fromhex(end["hash"])) for name, end in noted.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{file} isn't a file of ends: `rewardctl audit verify --ends FILE` writes one") from None


def audit_table(entries: Iterable[pb.AuditEntry]) -> Fitted:
    """One row per entry."""
    table = Fitted(
        Column("TIME"),
        Column("BY"),
        Column("WHAT"),
        Column("SUPPLIER", leaves=3),
        Column("ORDER"),
        Column("PURCHASE", leaves=1),
        Column("POSITIONS", leaves=4),
        Column("CARDS", leaves=2),
        Column("REASON", least=20, folds=True),
    )
    for entry in entries:
        table.add_row(
            _time(entry.time),
            clean(entry.by),
            clean(entry.what),
            clean(entry.supplier),
            clean(entry.order_id),
            clean(entry.purchase_number),
            f"{entry.first_position}-{entry.last_position}" if entry.last_position else "",
            str(entry.cards) if entry.cards else "",
            clean(entry.reason),
        )
    return table


def _time(time: Timestamp) -> str:
    return datetime.fromtimestamp(time.seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S") if time.seconds else ""
