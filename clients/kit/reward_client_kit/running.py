"""One scenario with one client, from the first port to the verdict."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

from reward_client_kit.client import Client, Reported
from reward_client_kit.scenarios import Scenario
from reward_client_kit.stage import KEY
from reward_client_kit.verdict import Run, judge, judge_together

HEARTBEAT_SECONDS = 1
BACKOFF_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one scenario; without complaints the client kept the promise."""

    scenario: str
    seconds: float
    complaints: tuple[str, ...]
    last_words: str
    """The end of the client's error output."""

    @property
    def passed(self) -> bool:
        """Whether there is nothing to complain of."""
        return not self.complaints


async def play(scenario: Scenario, client: Client, timeout: float) -> Verdict:
    """Plays a scenario to a client on a fresh port and judges it; the client is stopped after `timeout` seconds.

    Raises OSError when the client can't be started.
    """
    begun = time.monotonic()
    runs = await asyncio.gather(*(_run(scenario, client, timeout) for _ in range(scenario.copies)))
    # What one of several copies did wrong the others did too.
    complaints = next((found for run in runs if (found := judge(scenario, run, timeout))), [])
    complaints += judge_together([run.stage for run in runs])
    last_words = next((run.reported.last_words for run in runs if run.reported.last_words), "")
    return Verdict(scenario.name, time.monotonic() - begun, tuple(complaints), last_words)


async def _run(scenario: Scenario, client: Client, timeout: float) -> Run:
    reported = Reported()
    run = Run(scenario.stage(reported), reported)
    async with run.stage.open() as target:
        environment = {
            **scenario.environment(),
            "REWARD_TARGET": target,
            "REWARD_KEY": KEY,
            "REWARD_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
            "REWARD_BACKOFF_SECONDS": str(BACKOFF_SECONDS),
        }
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                reported.exit_code = await client(environment, reported)
    return run
