"""Plays awkward servers to a client of the update stream, in any language, and judges what it showed its application.

A scenario is a log and a script of connections over it (`scenarios`). `stage` is the server that plays the script and
notes what the client asked for, `client` starts the client and reads what it reports, `verdict` compares both with the
promise of the stream. What a client has to do to be tested stands in docs/client-kit.md.
"""

from reward_client_kit.client import Client, Reported, command
from reward_client_kit.running import Verdict, play
from reward_client_kit.scenarios import SCENARIOS, Scenario

__all__ = ["SCENARIOS", "Client", "Reported", "Scenario", "Verdict", "command", "play"]
