"""Fuzzes for a while and says with how many inputs.

    python -m fuzz --seconds 60               # of time, over all targets
    python -m fuzz --inputs 20000 --only rpc  # of each target

A failure prints the target and its seed; `--only TARGET --seed SEED --inputs 1` tries that input again.
"""

import argparse
import asyncio
import logging
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random

import structlog

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.targets import every_target

ROUND = 50
"""Inputs of one target before it is the next one's turn."""


def main() -> int:
    """Runs until the time or the number is used up, or something breaks."""
    options = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    options.add_argument("--seconds", type=float, default=None, help="default: 60, unless --inputs is given")
    options.add_argument("--inputs", type=int, default=None, help="of each target")
    options.add_argument("--only", default=None, help="one target")
    options.add_argument("--seed", type=int, default=None, help="of the first input; those of the next ones follow")
    given = options.parse_args()
    seed: int = int.from_bytes(os.urandom(6), "big") if given.seed is None else given.seed
    seconds = given.seconds if given.seconds is not None or given.inputs is not None else 60.0
    # Refused callbacks and calls are logged, as they should be; nobody wants to read thousands of them.
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    tried: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner() as runner,
        every_target(Path(folder), runner) as every,
    ):
        chosen = [name for name in every if given.only in (None, name)]
        if not chosen:
            options.error(f"there is: {', '.join(every)}")
        print(f"seed {seed}", flush=True)
        began = time.monotonic()
        while chosen and (seconds is None or time.monotonic() - began < seconds):
            for name in list(chosen):
                for _ in range(ROUND if given.inputs is None else min(ROUND, given.inputs - tried[name])):
                    number = seed + tried[name]
                    try:
                        every[name](Random(number))
                    except Exception:
                        traceback.print_exc()
                        print(f"\n{name} broke: --only {name} --seed {number} --inputs 1")
                        return 1
                    tried[name] += 1
                if given.inputs is not None and tried[name] >= given.inputs:
                    chosen.remove(name)
    for name, count in tried.items():
        print(f"{count:>10,} {name}")
    print(f"{tried.total():>10,} inputs in {time.monotonic() - began:.0f} s, nothing broke")
    return 0


if __name__ == "__main__":
    sys.exit(main())
