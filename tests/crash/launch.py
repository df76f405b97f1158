"""Runs the real server and kills it, with SIGKILL, when it passes a crash point for the nth time.

`python launch.py --config FILE [--kill POINT --nth N --after-ms M] [--later-program]`, or `serve` in a process of its
own that was forked from one which has imported all there is to import: that saves a second per start.
"""

import argparse
import hashlib
import itertools
import os
import signal
import sys
import threading

from reward_server import probes
from reward_server.__main__ import run_cli
from reward_server.store.migrations import Migration
from reward_server.store.sqlite import opening

LATER_SQL = "CREATE TABLE later (n INTEGER) STRICT; INSERT INTO later SELECT length(body) FROM orders"


def kill() -> None:
    """Nothing is finished, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def set_trap(point: str, nth: int, after_ms: float) -> None:
    """Puts a deadly function in the place of the harmless one; every part of the server calls it by its module."""
    if point not in probes.POINTS:
        raise SystemExit(f"no such point: {point}")
    passed = itertools.count(1)

    def deadly(name: str) -> None:
        if name == point and next(passed) == nth:
            if after_ms:
                # The server goes on meanwhile: what it had only handed over is on the wire by then.
                threading.Timer(after_ms / 1000, kill).start()
            else:
                kill()

    probes.probe = deadly


def become_a_later_program() -> None:
    """Adds a migration that the program of today lacks, and that today's program may run beside."""
    number = len(opening.MIGRATIONS) + 1
    digest = hashlib.sha256(LATER_SQL.encode()).hexdigest()
    later = Migration(number, f"{number:04}_later.sql", 1, digest, LATER_SQL)
    defaults = opening.open_sqlite.__kwdefaults__
    assert defaults is not None
    defaults["migrations"] = (*opening.MIGRATIONS, later)


def serve(config: str, log: str, *, kill: str, nth: int, after_ms: float, later_program: bool) -> None:
    """Serves, or dies; what the server says goes to the end of a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["REWARD_LOGGING__FORMAT"] = "json"
    if kill:
        set_trap(kill, nth, after_ms)
    if later_program:
        become_a_later_program()
    sys.exit(run_cli(["serve", "--config", config]))


def main() -> int:
    """Serves, or dies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--kill", default="")
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--after-ms", type=float, default=0.0)
    parser.add_argument("--later-program", action="store_true")
    options = parser.parse_args()
    if options.kill:
        set_trap(options.kill, options.nth, options.after_ms)
    if options.later_program:
        become_a_later_program()
    return run_cli(["serve", "--config", options.config])


if __name__ == "__main__":
    sys.exit(main())
