"""The Python client keeps the promise of the stream, as the kit sees it from outside."""

import asyncio
import sys
from pathlib import Path

import pytest

from reward_client_kit import SCENARIOS, Verdict, command, play

CLIENT = Path(__file__).parents[2] / "clients/python/examples/kit_client.py"
AT_A_TIME = 8
"""The clients start up more often than they work: more of them at once take no less time on two cores."""
pytestmark = pytest.mark.timeout(600)
TIMEOUT = 60.0


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    async def all_of_them() -> list[Verdict]:
        places = asyncio.Semaphore(AT_A_TIME)

        async def one(number: int) -> Verdict:
            async with places:
                return await play(SCENARIOS[number], command([sys.executable, str(CLIENT)]), TIMEOUT)

        return await asyncio.gather(*map(one, range(len(SCENARIOS))))

    return {verdict.scenario: verdict for verdict in asyncio.run(all_of_them())}


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_the_python_client_keeps_the_promise(verdicts: dict[str, Verdict], name: str) -> None:
    """Whatever the server does, every update is shown once and in order, and nobody is harried."""
    assert verdicts[name].complaints == (), verdicts[name].last_words
