"""Keeps the memory of the process, which holds keys and opened cards, out of core files and from other programs."""

import contextlib
import ctypes
import sys

_PR_SET_DUMPABLE = 4
"""<linux/prctl.h>"""


def forbid_dumps() -> None:
    """From now on this process leaves no core file, and nobody but root may read its memory or trace it (Linux).

    Where the system lacks one of these nothing happens: what it protects from is there as well.
    """
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # noqa: PLC0415 - there is none on Windows

        # For good: the hard limit can't be raised again.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # The limit means nothing where the kernel hands cores to a program, and doesn't keep debuggers out.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
