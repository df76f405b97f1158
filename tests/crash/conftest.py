"""The crash tests use the harness of the service tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
