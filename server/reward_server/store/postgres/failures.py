"""What PostgreSQL's errors, and those on the way to it, mean for us."""

import asyncpg
from asyncpg import exceptions as pg

from reward_server.store import StoreError, StoreUnavailable

_PASSING = (
    # No way to the server, or none any more; the last is what asyncpg says of some connections that were cut.
    OSError,
    TimeoutError,
    asyncpg.InternalClientError,
    pg.PostgresConnectionError,
    # It stops, starts, follows another one, or was told to end what we did there.
    pg.OperatorInterventionError,
    pg.IdleInTransactionSessionTimeoutError,
    pg.ReadOnlySQLTransactionError,
    # It has no room, memory or connection left, or its disk failed: what it wrote is its own to mend.
    pg.InsufficientResourcesError,
    pg.PostgresSystemError,
    pg.InternalServerError,
    # Somebody else was in the way.
    pg.TransactionRollbackError,
    pg.LockNotAvailableError,
)
"""Nothing was written, unless the answer to a commit was lost, which is asked after. Trying again may help."""


def store_error(error: BaseException) -> StoreError | None:
    """The store's error for PostgreSQL's; None when it is about what the database was told to do."""
    if isinstance(error, StoreError):
        return error
    # A closed connection or pool; misuse of the library has classes of its own below it.
    closed = isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError | TypeError)
    if closed or isinstance(error, _PASSING):
        return StoreUnavailable(f"the database can't be used: {str(error) or type(error).__name__}")
    return None
