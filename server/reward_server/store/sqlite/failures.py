"""What SQLite's errors mean for us."""

import apsw

from reward_server.store import StoreBroken, StoreError, StoreUnavailable

_PASSING = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.FullError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.ProtocolError,
    apsw.ReadOnlyError,
)
"""Nothing was written and the file is sound: when the cause is gone, the same write succeeds."""

_FATAL = (apsw.CorruptError, apsw.IOError, apsw.NotADBError)
"""After these nobody knows what is on the disk. A failed fsync is among them: asking again may get a false yes."""


def store_error(error: BaseException) -> StoreError | None:
    """The store's error for SQLite's; None when it isn't about the store but about what it was told to do."""
    if isinstance(error, StoreUnavailable | StoreBroken):
        return error
    if isinstance(error, _PASSING):
        return StoreUnavailable(f"the database can't be written: {_text(error)}")
    if isinstance(error, _FATAL):
        return StoreBroken(f"the database or its disk failed: {_text(error)}")
    return None


def _text(error: BaseException) -> str:
    code = apsw.mapping_extended_result_codes.get(getattr(error, "extendedresult", 0))
    return f"{error} ({code})" if isinstance(code, str) else str(error)
