"""What the promise of the stream asks of a client, and in what words a client that broke it is told.

The client's report is compared with what the server sent and with what the log holds; what it asked for is compared
with the tokens it was given, and its pauses with what it was told. Each complaint says what happened and what to mend.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import grpc

from reward_client_kit.client import Fallback, Reported, Shown, names_state
from reward_client_kit.scenarios import UNTIL, Scenario
from reward_client_kit.stage import KEY, Record, Stage
from reward_client_kit.world import Log, Version
from rewardservice.v1 import reward_service_pb2 as pb

_NAMED = 4
"""How many examples a complaint names."""
_CLOCK_TOLERANCE = 0.05
_CALLS_PER_SECOND = 4
_FIRST_CALLS = 4
"""In an outage a client may call so often at first, and then so many times a second: far more than a back-off does."""
_PAUSES_TO_TELL = 4
_ALIKE = 0.03
"""Seconds. Pauses of two clients that differ by less are the same. By chance, four in a row are so once in 8,000 runs,
and most outages have five."""
_SHORT_DEADLINE = 300.0


@dataclass(frozen=True, slots=True)
class Run:
    """One client with one server, afterwards."""

    stage: Stage
    reported: Reported

    def proven(self, record: Record) -> list[str]:
        """The tokens of a call that the client must have received, in their order.

        When the connection was torn nobody knows what arrived. But what was sent in this call alone and was shown did,
        and everything before it.
        """
        if record.orderly:
            return record.tokens
        elsewhere = {version for other in self.stage.records if other is not record for version in other.sent}
        seen = [token for version, token in record.updates if version in self.reported.shown - elsewhere]
        return record.tokens[: record.tokens.index(seen[-1]) + 1] if seen else []


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The calls between two refusals of a token: inside a stretch an update is shown once."""

    records: Sequence[Record]
    log: Log
    is_last: bool


def judge(scenario: Scenario, run: Run, timeout: float) -> list[str]:
    """What a client did wrong, most telling first. `timeout` is when it was stopped, in seconds."""
    if not run.stage.records:
        said = f" It printed: {run.reported.unreadable[0]}" if run.reported.unreadable else ""
        return [f"It never called StreamOrderUpdates at REWARD_TARGET.{said}"]
    return [
        *_output(run.reported),
        *_requests(scenario, run.stage.records),
        *_tokens(scenario, run),
        *_resets(scenario, run.reported),
        *_updates(scenario, run),
        *_pauses(run.stage.records),
        *_ending(scenario, run, timeout),
    ]


def judge_together(stages: Sequence[Stage]) -> list[str]:
    """What clients did wrong that were cut off at the same time."""
    pauses = [_outage_pauses(stage.records) for stage in stages]
    if any(are_alike(one, other) for one, other in pairwise(pauses)):
        return ["Its pauses have no jitter: clients that were cut off together come back together, every time."]
    return []


def _output(reported: Reported) -> Iterator[str]:
    if reported.unreadable:
        yield (
            f"Its standard output has {len(reported.unreadable)} line(s) that aren't of the protocol, as: "
            f"{reported.unreadable[0]!r}. Logs belong on standard error."
        )


def _requests(scenario: Scenario, records: Sequence[Record]) -> Iterator[str]:
    asked = {frozenset(record.request.order_ids) for record in records}
    if asked != {frozenset(scenario.order_ids)} or any(record.request.client_order_ids for record in records):
        yield "Not every call asked for exactly the orders of REWARD_ORDER_IDS: repeat the selector on every one."
    if any(record.key != f"Bearer {KEY}" for record in records):
        yield "Not every call carried REWARD_KEY as metadata `authorization: Bearer KEY`."
    if any(record.request.until_terminal for record in records):
        yield "It asked for until_terminal: the kit tests streams that never end by themselves."
    if any(record.request.start == pb.STREAM_START_NOW for record in records):
        yield "It began with NOW: what happened before it came is lost."
    if any(record.seconds_left is not None and record.seconds_left < _SHORT_DEADLINE for record in records):
        yield "It set a deadline on the call, which ends the stream: set none."


def _tokens(scenario: Scenario, run: Run) -> Iterator[str]:
    """Compares where each call began with the newest token that the client held; empty stands for a snapshot."""
    held = {scenario.start_token}
    given, inside = {scenario.start_token}, set[str]()
    refused = False
    wrong: list[str] = []
    for record in run.stage.records:
        asked = "" if record.request.start == pb.STREAM_START_SNAPSHOT else record.request.resume_token
        if asked not in held and record.request.start != pb.STREAM_START_NOW:
            wrong.append(f"Call {record.number} {_wrong_token(asked, given, inside, refused)}")
        refused = bool(record.refused)
        proven = run.proven(record)
        held = {""} if refused else {proven[-1]} if proven else held
        if not record.orderly:
            held = held | set(record.tokens[len(proven) :])
        given.update(record.tokens)
        inside.update(record.inside)
    if wrong:
        yield wrong[0] + (f" {len(wrong) - 1} later call(s) began at the wrong place too." if wrong[1:] else "")


def _wrong_token(asked: str, given: set[str], inside: set[str], refused: bool) -> str:
    if not asked:
        return "began with a snapshot although it had a token: continue with AFTER and the last token."
    if refused:
        return "kept a token although the one before was refused with OUT_OF_RANGE: forget it, begin with a snapshot."
    # A token of a snapshot that was completed later is a good one.
    if asked in inside - given:
        return (
            "continued with a token that it was given inside a snapshot which never became complete: the rest of the "
            "snapshot is lost. Until snapshot_end no token counts, not that of an error either."
        )
    if asked in given:
        return (
            "continued at an older place than the last message it had received: keep the token of every update, "
            "heartbeat and snapshot_end."
        )
    return "came with a token that it was never given: pass tokens on unchanged."


def _resets(scenario: Scenario, reported: Reported) -> Iterator[str]:
    told = tuple(line.reason for line in reported.lines if isinstance(line, Fallback))
    if told == scenario.resets:
        return
    if len(told) < len(scenario.resets):
        yield (
            f"It didn't tell its application that the log couldn't be continued ({', '.join(scenario.resets)}): "
            'updates may be missing or come again, so print {"reset": REASON} before the snapshot.'
        )
    elif not scenario.resets:
        yield f"It fell back to a snapshot ({', '.join(told)}) although its last token was good."
    else:
        yield f"It told of the fall-backs {', '.join(told)}; these happened: {', '.join(scenario.resets)}."


def _updates(scenario: Scenario, run: Run) -> Iterator[str]:
    stretches = list(_stretches(run.stage, is_finished=not scenario.error))
    shown = list(_parts(run.reported.lines))
    if len(shown) != len(stretches):
        # It fell back without need or without a word. That was said; what belongs to which log can't be told.
        return
    before: dict[str, int] = {}
    position: int | None = scenario.after
    for stretch, lines in zip(stretches, shown, strict=True):
        due = _due(scenario, run, stretch, position)
        due = [(order_id, version) for order_id, version in due if version > before.get(order_id, 0)]
        yield from _compare(stretch, due, lines)
        if stretch.records[-1].refused == "RESUME_TOKEN_EXPIRED":
            before |= {line.order_id: line.version for line in lines}
        else:
            before.clear()
        position = None


def _stretches(stage: Stage, *, is_finished: bool) -> Iterator[_Stretch]:
    records: list[Record] = []
    logs = iter(stage.logs)
    log = next(logs)
    for record in stage.records:
        records.append(record)
        if record.refused:
            yield _Stretch(records, log, is_last=False)
            records = []
            log = next(logs, log) if record.refused == "LOG_REWOUND" else log
    if records:
        yield _Stretch(records, log, is_last=is_finished)


def _parts(lines: Iterable[Shown | Fallback]) -> Iterator[list[Shown]]:
    part: list[Shown] = []
    for line in lines:
        if isinstance(line, Fallback):
            yield part
            part = []
        else:
            part.append(line)
    yield part


def _due(scenario: Scenario, run: Run, stretch: _Stretch, position: int | None) -> list[Version]:
    """What the client had to show: the first snapshot that it got whole, and everything in the log behind it."""
    due: list[Version] = []
    if position is None:
        whole = next((record for record in stretch.records if _got_snapshot(run, record)), None)
        if whole is None or whole.snapshot_position is None:
            return []
        due, position = list(whole.snapshot), whole.snapshot_position
    sent = {version for record in stretch.records if record.orderly for version in record.sent}
    for order in stretch.log.entries[position:]:
        version = (order.order_id, order.version)
        if (not scenario.order_ids or order.order_id in scenario.order_ids) and (stretch.is_last or version in sent):
            due.append(version)
    return due


def _got_snapshot(run: Run, record: Record) -> bool:
    """Whether the client knew that the snapshot of this call was complete."""
    if record.snapshot_position is None:
        return False
    used = {other.request.resume_token for other in run.stage.records}
    return bool(run.proven(record)) or not used.isdisjoint(record.tokens)


def _compare(stretch: _Stretch, due: Sequence[Version], lines: Sequence[Shown]) -> Iterator[str]:
    sent = {version for record in stretch.records for version in record.sent}
    states = {(order.order_id, order.version): order.state for order in stretch.log.entries}
    seen: set[Version] = set()
    newest: dict[str, int] = {}
    strange, twice, backwards, wrong = list[Version](), list[Version](), list[Version](), list[Version]()
    for line in lines:
        version = (line.order_id, line.version)
        if version not in sent:
            strange.append(version)
        elif version in seen:
            twice.append(version)
        elif line.version < newest.get(line.order_id, 0):
            backwards.append(version)
        elif not names_state(line.state, states[version]):
            wrong.append(version)
        seen.add(version)
        newest[line.order_id] = max(line.version, newest.get(line.order_id, 0))
    missing = [version for version in due if version not in seen]
    if missing:
        yield f"It never showed {_named(missing)}."
    if twice:
        yield f"It showed twice: {_named(twice)}. Show an update only if its version is above that of its order."
    if backwards:
        yield f"It went back to {_named(backwards)} after a later version: versions of an order only rise."
    if wrong:
        yield f"It showed another state than was sent: {_named(wrong)}."
    if strange:
        yield f"It showed what it wasn't sent: {_named(strange)}."


def _named(versions: Sequence[Version]) -> str:
    names = [f"{order_id} version {version}" for order_id, version in versions[:_NAMED]]
    more = len(versions) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _pauses(records: Sequence[Record]) -> Iterator[str]:
    for before, after in pairwise(records):
        pause = _pause(before, after)
        if before.retry_after is not None and pause < before.retry_after - _CLOCK_TOLERANCE:
            yield (
                f"Call {after.number} came {pause:.2f} s after an UNAVAILABLE whose RetryInfo asked for "
                f"{before.retry_after:g} s: wait for retry_delay, and a little jitter more."
            )
    outage = [record for record in records if record.is_outage]
    lasted = outage[-1].arrived - outage[0].arrived if outage else 0.0
    if len(outage) > _FIRST_CALLS + _CALLS_PER_SECOND * max(1.0, lasted):
        yield (
            f"It called {len(outage)} times in an outage of {lasted:.1f} s: double the pause after every failure "
            "in a row, and begin small again only after a message."
        )


def _outage_pauses(records: Sequence[Record]) -> list[float]:
    """Seconds between the calls around an outage: from the one that was cut to the one that got through."""
    return [_pause(before, after) for before, after in pairwise(records) if before.is_outage or after.is_outage]


def _pause(before: Record, after: Record) -> float:
    return after.arrived - (before.ended or before.arrived)


def are_alike(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two clients paused for the same times (seconds); a few pauses tell nothing."""
    together = list(zip(one, other, strict=False))
    return len(together) >= _PAUSES_TO_TELL and all(abs(a - b) <= _ALIKE for a, b in together)


def _ending(scenario: Scenario, run: Run, timeout: float) -> Iterator[str]:
    reported = run.reported
    if scenario.error:
        yield from _stopping(scenario, run, timeout)
        return
    # The log after a restore ends with the same update.
    last = (scenario.log[-1].order_id, scenario.log[-1].version)
    is_over = last in reported.shown
    if reported.errors:
        yield f"It gave up with {reported.errors[0]}, which a new connection would have mended."
    elif reported.exit_code is None and is_over:
        yield f"It was still running after {timeout:g} s: it has to end once {UNTIL} is terminal."
    elif reported.exit_code is None and any(last in record.sent for record in run.stage.records if record.orderly):
        yield f"It was still running after {timeout:g} s although the terminal update of {UNTIL} was sent to it."
    elif reported.exit_code is None:
        yield (
            f"It was still waiting after {timeout:g} s, with call {len(run.stage.records)} as its last one: a stream "
            "without a message for three heartbeats is lost."
        )
    elif reported.exit_code:
        yield f"It ended with exit code {reported.exit_code}."
    elif not is_over:
        yield f"It ended before {UNTIL} was terminal."


def _stopping(scenario: Scenario, run: Run, timeout: float) -> Iterator[str]:
    calls = len(scenario.legs) or 1
    if len(run.stage.records) > calls:
        yield f"It called again after {scenario.error}, which no new connection mends: stop."
    if run.reported.exit_code is None:
        yield f"It was still running {timeout:g} s after it began, in spite of {scenario.error}: stop at once."
    if not any(_means(error, scenario.error) for error in run.reported.errors):
        yield f'It didn\'t say why it stopped: print {{"error": "{scenario.error}"}}.'


def _means(said: str, code: str) -> bool:
    number: int = grpc.StatusCode[code].value[0]
    return said == str(number) or _letters(code) in _letters(said)


def _letters(text: str) -> str:
    return re.sub("[^A-Z]", "", text.upper())
