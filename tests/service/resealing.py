"""The server with small pages when it seals again, which it may not survive; a program for tests.

    python resealing.py RECORD KILL_AT serve --config FILE

RECORD gets a line for each page: `[table, where it began]`. While the page number KILL_AT is being stored, counted from
1 over the life of the process, it is killed with its transaction open; 0: it isn't.
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

from reward_server import keyring, probes
from reward_server.__main__ import main
from reward_server.sealing import ClientSealer
from reward_server.store import Rotation

PAGE = 2


def run() -> None:
    """Starts the shipped program with what follows the first two arguments."""
    record, kill_at = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
    one_page, pages = keyring.Keyring._one_page, itertools.count(1)

    def note(rotation: Rotation) -> None:
        with record.open("a") as file:
            file.write(json.dumps([rotation.table, rotation.after.hex()]) + "\n")

    async def recorded(self: keyring.Keyring, sealer: ClientSealer, rotation: Rotation) -> None:
        note(rotation)
        if next(pages) == kill_at:
            # With its page in the transaction, and nothing else: the test is quiet meanwhile.
            probes.probe = die
        await one_page(self, sealer, rotation)

    vars(keyring)["PAGE"] = PAGE
    vars(keyring)["REST_SECONDS"] = 0.0
    keyring.Keyring._one_page = recorded  # type: ignore[method-assign]
    main()


def die(name: str) -> None:
    """At the next commit, before it."""
    if name == "commit.ready":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    run()
