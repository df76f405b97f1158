"""Runs the real server with another patience for blocked writes: `python launch.py --config FILE --stall SECONDS`."""

import argparse
import sys

from reward_server.__main__ import run_cli
from reward_server.rpc.streaming import StreamParts


def main() -> int:
    """Serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--stall", type=float, required=True)
    options = parser.parse_args()
    defaults = StreamParts.__init__.__kwdefaults__
    assert defaults is not None
    defaults["stall_seconds"] = options.stall
    return run_cli(["serve", "--config", options.config])


if __name__ == "__main__":
    sys.exit(main())
