"""The program that authors of clients run."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reward_client_kit import SCENARIOS, Reported, command
from reward_client_kit.client import Fallback, Shown
from reward_client_kit.verdict import are_alike

KIT = [sys.executable, "-m", "reward_client_kit"]
CLIENT = Path(__file__).parents[2] / "clients/python/examples/kit_client.py"


def kit(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*KIT, *words], capture_output=True, text=True, timeout=280, check=False)


def test_list_names_every_scenario_with_a_sentence() -> None:
    """The list has one line for each scenario, and each says in a sentence what happens."""
    lines = kit("list").stdout.splitlines()

    assert [line.split()[0] for line in lines] == [scenario.name for scenario in SCENARIOS]
    assert all(line.endswith(".") for line in lines)


def test_run_says_who_kept_the_promise() -> None:
    """A client that passes is told so, with exit code 0."""
    ran = kit("run", "--scenario", "calm", "--", sys.executable, str(CLIENT))

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.startswith("ok    calm ")


def test_run_shows_what_a_failing_client_said() -> None:
    """A client that fails is told why, with the end of its own error output, and the exit code is 1."""
    program = "import sys; print('hello'); sys.exit('no stubs')"

    ran = kit("run", "--scenario", "calm", "--", sys.executable, "-c", program)

    assert ran.returncode == 1
    assert "never called StreamOrderUpdates at REWARD_TARGET. It printed: hello" in ran.stdout
    assert "no stubs" in ran.stdout


def test_verdicts_come_as_json_on_demand() -> None:
    """Programs read the verdicts as JSON."""
    ran = kit("run", "--json", "--scenario", "calm", "--", sys.executable, "-c", "")

    [verdict] = json.loads(ran.stdout)
    assert (verdict["scenario"], verdict["passed"], len(verdict["complaints"])) == ("calm", False, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--scenario", "nonsense", "--", "true"), "no such scenario: nonsense"),
        (("run", "--scenario", "calm"), "no client"),
        (("run", "--scenario", "calm", "--", "/nowhere/client"), "the client can't be started"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(words: tuple[str, ...], said: str) -> None:
    """What the kit can't do is no verdict on the client."""
    ran = kit(*words)

    assert ran.returncode == 2
    assert said in ran.stderr


def test_reads_the_lines_of_the_protocol() -> None:
    """Orders, fall-backs and errors are read; anything else is kept as unreadable."""
    reported = Reported()
    for line in (
        '{"order_id": "A", "version": "2", "state": "FULFILLED"}\n',
        '{"reset": "LOG_REWOUND"}\n',
        '{"error": "PERMISSION_DENIED"}\n',
        "\n",
        "connecting\n",
        "[1]\n",
        '{"order_id": "A"}\n',
    ):
        reported.take(line)

    assert reported.lines == [Shown("A", 2, "FULFILLED"), Fallback("LOG_REWOUND")]
    assert reported.errors == ["PERMISSION_DENIED"]
    assert reported.unreadable == ["connecting", "[1]", '{"order_id": "A"}']


def test_what_a_command_started_ends_with_it(tmp_path: Path) -> None:
    """A client behind a launcher doesn't outlive its run."""
    pipe = tmp_path / "held"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    child = f"import time; held = open({str(pipe)!r}, 'w'); print('up', flush=True); time.sleep(600)"
    launcher = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE); child.stdout.readline()"
    )

    assert asyncio.run(command([sys.executable, "-c", launcher])({}, Reported())) == 0

    os.set_blocking(reading, True)
    # The end of the pipe is reached when nobody holds it any more.
    assert os.read(reading, 1) == b""
    os.close(reading)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ([0.2, 0.4, 0.8, 1.6], [0.21, 0.41, 0.8, 1.61], True),
        ([0.5] * 4, [0.5] * 6, True),
        ([0.2, 0.4, 0.8, 1.6], [0.2, 0.4, 0.8, 1.4], False),
        ([0.2, 0.4], [0.2, 0.4], False),
    ],
)
def test_pauses_without_jitter_are_alike(one: list[float], other: list[float], alike: bool) -> None:
    """Clients that pause for the same times have no jitter; a few pauses prove nothing."""
    assert are_alike(one, other) is alike
