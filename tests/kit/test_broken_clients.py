"""The kit tells a client that keeps the promise from clients that break it, each in one way."""

import asyncio
from collections.abc import Iterable

import pytest

from reward_client_kit import SCENARIOS, Verdict, play

from .plain import Habit, PlainClient

pytestmark = pytest.mark.timeout(600)
TIMEOUT = 40.0
AT_A_TIME = 48
NAMES = {scenario.name for scenario in SCENARIOS}
NOTHING_TO_RESUME = {
    "calm",
    "calm-after-token",
    "cut-at-once",
    "cut-in-snapshot",
    "stored-token-expired",
    "reader-too-slow-in-snapshot",
    "forged-token",
}
FAILS = {
    None: set[str](),
    Habit.HOLDS_SNAPSHOTS_BACK: set[str](),
    Habit.NO_RESUME: NAMES - NOTHING_TO_RESUME,
    Habit.NO_DEDUPLICATION: {"repeats", "cut-in-snapshot", "reader-too-slow-in-snapshot"},
    Habit.TRUSTS_SILENCE: {"silent-connection", "silent-from-the-start", "silent-stream"},
    Habit.DIES_OF_UNKNOWN_STATE: {"unknown-state"},
    Habit.DIES_OF_UNKNOWN_MESSAGE: {"unknown-message"},
    Habit.NO_BACK_OFF: {"outage", "cancelled"},
    Habit.IGNORES_RETRY_INFO: {"drain"},
    Habit.CANCELLED_IS_FINAL: {"cancelled"},
    Habit.OK_IS_FINAL: {"ended-with-ok"},
    Habit.TRUSTS_HALF_A_SNAPSHOT: {"cut-in-snapshot", "reader-too-slow-in-snapshot"},
    Habit.IGNORES_HEARTBEATS: {"heartbeats-only"},
    Habit.HIDES_RESETS: {"token-expired", "stored-token-expired", "log-rewound"},
    Habit.REMEMBERS_AFTER_RESTORE: {"log-rewound"},
    Habit.REVIEW_IS_THE_END: {"review"},
    Habit.FORGETS_ENDED_ORDERS: {"after-the-end", "log-rewound"},
    Habit.FORGETS_SELECTOR: {"some-orders", "heartbeats-only"},
    Habit.NEVER_STOPS: {"permission-denied", "forged-token"},
    Habit.SLOW_READER_STOPS: {"reader-too-slow", "reader-too-slow-in-snapshot"},
}
"""Which scenarios a client with one habit fails: those about it, and no other."""
SAYS = {
    Habit.NO_RESUME: ("reset", "continue with AFTER and the last token"),
    Habit.NO_DEDUPLICATION: ("repeats", "showed twice: KIT-A version 2"),
    Habit.TRUSTS_SILENCE: ("silent-connection", "without a message for three heartbeats is lost"),
    Habit.DIES_OF_UNKNOWN_STATE: ("unknown-state", "ended with exit code 1"),
    Habit.NO_BACK_OFF: ("outage", "double the pause after every failure in a row"),
    Habit.IGNORES_RETRY_INFO: ("drain", "wait for retry_delay"),
    Habit.CANCELLED_IS_FINAL: ("cancelled", "gave up with CANCELLED"),
    Habit.TRUSTS_HALF_A_SNAPSHOT: ("cut-in-snapshot", "Until snapshot_end no token counts"),
    Habit.IGNORES_HEARTBEATS: ("heartbeats-only", "older place than the last message"),
    Habit.HIDES_RESETS: ("log-rewound", "didn't tell its application"),
    Habit.NEVER_STOPS: ("forged-token", "which no new connection mends: stop"),
}
"""What such a client is told, in one of the scenarios."""
ENDLESS = {
    *((Habit.TRUSTS_SILENCE, name) for name in FAILS[Habit.TRUSTS_SILENCE]),
    (Habit.NEVER_STOPS, "forged-token"),
}
"""Where a client goes on for ever: it is stopped after SHORT_TIMEOUT."""
SHORT_TIMEOUT = 10.0
AGAIN = 3
Case = tuple[Habit | None, str]


@pytest.fixture(scope="module")
def verdicts() -> dict[Case, Verdict]:
    """What every client made of every scenario."""
    cases = [(habit, name) for habit in FAILS for name in sorted(NAMES)]
    # How often a client calls tells nothing while hundreds of others use the same processor.
    hasty = [case for case in cases if case[0] is Habit.NO_BACK_OFF and case[1] in FAILS[Habit.NO_BACK_OFF]]
    others = [case for case in cases if case not in hasty]
    played = asyncio.run(_play(hasty)) | asyncio.run(_play(others))
    # What failed without being about the mistake is played again, one by one: in the crowd, or while the machine does
    # something else, a pause may be too long.
    for _ in range(AGAIN):
        for case in [case for case, verdict in played.items() if not verdict.passed and case[1] not in FAILS[case[0]]]:
            played |= asyncio.run(_play([case]))
    return played


async def _play(cases: Iterable[Case]) -> dict[Case, Verdict]:
    scenarios = {scenario.name: scenario for scenario in SCENARIOS}
    places = asyncio.Semaphore(AT_A_TIME)

    async def one(case: Case) -> tuple[Case, Verdict]:
        habit, name = case
        async with places:
            client = PlainClient(*([] if habit is None else [habit]))
            return case, await play(scenarios[name], client, SHORT_TIMEOUT if case in ENDLESS else TIMEOUT)

    return dict(await asyncio.gather(*map(one, cases)))


@pytest.mark.parametrize("habit", FAILS)
def test_a_mistake_fails_the_scenarios_that_are_about_it(verdicts: dict[Case, Verdict], habit: Habit | None) -> None:
    """A client with one mistake fails where it matters and passes everything else; without one it passes all."""
    complaints = {name: verdicts[habit, name].complaints for name in NAMES if not verdicts[habit, name].passed}

    assert set(complaints) == FAILS[habit], complaints


@pytest.mark.parametrize("habit", SAYS)
def test_the_verdict_says_what_to_mend(verdicts: dict[Case, Verdict], habit: Habit) -> None:
    """A complaint names what happened and the rule that was broken."""
    scenario, words = SAYS[habit]

    assert words in " ".join(verdicts[habit, scenario].complaints)
