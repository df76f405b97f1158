"""`reward-client-kit`: list the scenarios, or play them to a client."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

from reward_client_kit.client import command
from reward_client_kit.running import Verdict, play
from reward_client_kit.scenarios import SCENARIOS, Scenario

_TIMEOUT = 75.0
"""Seconds. Half-open connections have to be noticed within 60."""
_JOBS = 8


def main() -> None:
    """The program."""
    # The client's own options come after "--", and argparse shall not touch them.
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:at])
    sys.exit(_list() if options.action == "list" else _run(options, words[at + 1 :]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reward-client-kit",
        description="Plays awkward servers to a client of the update stream and judges what it makes of them.",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="name the scenarios")
    run = actions.add_parser(
        "run", help="play scenarios to a client", usage="reward-client-kit run [options] -- COMMAND [ARGUMENT ...]"
    )
    run.add_argument("--scenario", action="append", metavar="NAME", help="only this one; may be repeated")
    run.add_argument("--timeout", type=float, default=_TIMEOUT, metavar="S", help="seconds a scenario may take (75)")
    run.add_argument("--jobs", type=int, default=_JOBS, metavar="N", help="scenarios played at the same time (8)")
    run.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    return parser


def _list() -> int:
    width = max(len(scenario.name) for scenario in SCENARIOS)
    for scenario in SCENARIOS:
        print(f"{scenario.name:{width}}  {scenario.sentence}")
    return 0


def _run(options: argparse.Namespace, words: Sequence[str]) -> int:
    names = options.scenario or [scenario.name for scenario in SCENARIOS]
    chosen = [scenario for scenario in SCENARIOS if scenario.name in names]
    unknown = sorted(set(names) - {scenario.name for scenario in chosen})
    if unknown or not words:
        print(f"no such scenario: {', '.join(unknown)}" if unknown else "no client: -- COMMAND", file=sys.stderr)
        return 2
    try:
        verdicts = asyncio.run(_play(chosen, words, options))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"the client can't be started: {error}", file=sys.stderr)
        return 2
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if options.json:
        print(json.dumps([_plain(verdict) for verdict in verdicts], indent=2))
    else:
        print(f"{len(verdicts)} scenarios: the client kept the promise in {len(verdicts) - len(failed)} of them")
    return 1 if failed else 0


async def _play(chosen: Sequence[Scenario], words: Sequence[str], options: argparse.Namespace) -> list[Verdict]:
    places = asyncio.Semaphore(max(1, options.jobs))

    async def one(scenario: Scenario) -> Verdict:
        async with places:
            verdict = await play(scenario, command(words), options.timeout)
        if not options.json:
            _tell(verdict)
        return verdict

    return await asyncio.gather(*map(one, chosen))


def _tell(verdict: Verdict) -> None:
    print(f"{'ok  ' if verdict.passed else 'FAIL'}  {verdict.scenario:28}  {verdict.seconds:5.1f} s", flush=True)
    for complaint in verdict.complaints:
        print(f"        {complaint}")
    if not verdict.passed and verdict.last_words:
        print("        The end of its error output:")
        print("\n".join(f"          {line}" for line in verdict.last_words.splitlines()[-10:]), flush=True)


def _plain(verdict: Verdict) -> dict[str, object]:
    return {
        "scenario": verdict.scenario,
        "passed": verdict.passed,
        "seconds": round(verdict.seconds, 3),
        "complaints": list(verdict.complaints),
        "error_output": verdict.last_words,
    }


if __name__ == "__main__":
    main()
