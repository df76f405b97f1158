"""gRPC's own log stays out of the output of `rewardctl`.

gRPC reads the variable when it is imported, and the package imports it before any module of the command line has a say.
A program that uses the library decides by itself.
"""

import os
import sys
from pathlib import PurePath

if PurePath(sys.argv[0] if sys.argv else "").stem == "rewardctl":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
