"""The engine between a scripted supplier and a store whose disk loses its power."""

import sys
from pathlib import Path

# The rig stands with the engine's tests; every folder of tests is a package of its own.
sys.path.insert(0, str(Path(__file__).parents[1]))

from engine.rig import Asked, Handler, Reply, accepted, delivered, rigs, traits

__all__ = ["Asked", "Handler", "Reply", "accepted", "delivered", "rigs", "traits"]
