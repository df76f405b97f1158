"""Who is calling: a key or a token, kept or asked for anew each time, or the certificate of the connection alone."""

import inspect
import os
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc

from rewardservice._channel import TlsOptions, is_loopback
from rewardservice.errors import AuthenticationError, RewardError

KEY_VARIABLE = "REWARDSERVICE_KEY"
DEV_KEY = "dev-key"

Key: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""An API key or a token; or a function that returns the one to send now."""


class Credentials:
    """What a client shows with its calls.

    A `key` that is given wins over the environment's. Without either a client certificate has to say who calls, and
    nothing is sent beside it; without that, too, a server on this machine is sent the development key. Raises
    ValueError, which doesn't repeat the key.
    """

    def __init__(self, target: str, key: Key | None, tls: TlsOptions | None) -> None:
        self._target = target
        self._certified = tls is not None and tls.cert_file is not None
        if callable(key):
            self._ask: Callable[[], str | Awaitable[str]] | None = key
            self._key = ""
            return
        if key == "":
            raise ValueError("the API key is empty")
        self._ask = None
        default = DEV_KEY if is_loopback(target) and not self._certified else ""
        self._key = self._usable(os.environ.get(KEY_VARIABLE, default) if key is None else key)

    @property
    def can_change(self) -> bool:
        """Whether asking again may bring another one."""
        return self._ask is not None

    async def current(self) -> str:
        """The key or token to send now; "" for none.

        Raises AuthenticationError when the caller's function fails or brings nothing that can be sent; a RewardError of
        the function stays as it is.
        """
        if self._ask is None:
            return self._key
        try:
            key = self._ask()
            return self._usable(await key if inspect.isawaitable(key) else key)
        except RewardError:
            raise
        except Exception as error:
            message = f"no key or token: {str(error) or type(error).__name__}"
            raise AuthenticationError(message, code=grpc.StatusCode.UNAUTHENTICATED) from error

    def _usable(self, key: str) -> str:
        if not key and not self._certified:
            raise ValueError(f"no API key for {self._target}: give `key` or set {KEY_VARIABLE}")
        return sendable(key)


def sendable(key: str) -> str:
    """The key itself. Raises ValueError without showing it; gRPC, deep inside, would show it."""
    if not all("!" <= character <= "~" for character in key):
        raise ValueError("an API key consists of printable ASCII characters without spaces")
    return key


def as_metadata(key: str) -> tuple[tuple[str, str], ...]:
    """How a key or token is sent."""
    return (("authorization", f"Bearer {key}"),) if key else ()
