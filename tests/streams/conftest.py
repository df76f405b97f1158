"""The tests of streams use the harness of the service tests and the world of the rpc tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
