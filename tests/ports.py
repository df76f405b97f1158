"""Ports for servers of tests, which no other test is given: whichever process, and whichever run beside this one.

Ports are handed out below those that outgoing connections get, so that none of them takes one meanwhile. They lie in
blocks. A process has a block as long as it listens on the first port of it; with the process the block is free again.
"""

import contextlib
import functools
import itertools
import os
import socket
from collections.abc import Iterator

FIRST, LAST = 10_000, 32_000
BLOCK = 100
"""More than a test needs at once, servers that are dead for a while included."""


def free_port() -> int:
    """A port that nobody listens on. It isn't given again before all others of this process' block were.

    So it stays its server's while that is dead and is to come back.
    """
    _, ports = _block(os.getpid())
    for port in itertools.islice(ports, BLOCK):
        # Connections of a former server that are still being forgotten don't count. Else a calm machine goes through
        # the whole block within a minute.
        with contextlib.suppress(OSError), _bound(port):
            return port
    raise OSError("somebody listens on every port of the block")


@functools.cache
def _block(pid: int) -> tuple[socket.socket, Iterator[int]]:
    """What keeps the block of this process, and its ports in turn; a forked process takes another block."""
    firsts = range(FIRST, LAST, BLOCK)
    begin = pid % len(firsts)
    for first in [*firsts[begin:], *firsts[:begin]]:
        with contextlib.suppress(OSError):
            keeper = _bound(first)
            try:
                # Of several that are bound one may listen.
                keeper.listen()
            except OSError:
                keeper.close()
                raise
            return keeper, itertools.cycle(range(first + 1, first + BLOCK))
    raise OSError(f"every block of ports from {FIRST} to {LAST} is taken")


def _bound(port: int) -> socket.socket:
    """As servers bind."""
    bound = socket.socket()
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.close()
        raise
    return bound
