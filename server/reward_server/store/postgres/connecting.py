"""Connects to a database that several hosts may have: a primary and those that can take its place."""

from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

CONNECT_SECONDS = 10.0
"""For all hosts together."""


class Hosts:
    """The hosts of a URL, `postgresql://user@one,two/database?target_session_attrs=primary`, the last good one first.

    The library takes such a URL, too, but gives all of them one time-out: a host that is silent, as when its power is
    cut, would use it up before the next one is asked.
    """

    def __init__(self, url: str) -> None:
        self._urls = one_by_one(url)

    async def connect(self, *_url: Any, timeout: float = CONNECT_SECONDS, **options: Any) -> "Connection":
        """Opens a connection to the first host that is as wanted. Raises what the library raises, or ConnectionError.

        It can stand in for `asyncpg.connect`: a URL that is handed over doesn't count.
        """
        each = timeout / len(self._urls)
        unfit: list[str] = []
        for url in list(self._urls):
            try:
                connection: Connection = await asyncpg.connect(url, timeout=each, **options)
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched) as error:
                unfit.append(str(error) or "no answer in time")
            else:
                self._urls.sort(key=lambda known: known != url)
                return connection
        raise ConnectionError("; ".join(unfit))


def one_by_one(url: str) -> list[str]:
    """A URL for each host of a URL."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{user}{at}{host}").geturl() for host in hosts.split(",")]
