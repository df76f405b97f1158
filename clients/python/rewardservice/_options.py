"""What every command of `rewardctl` takes, and the client and the output made from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from rewardservice._channel import TlsOptions, is_loopback
from rewardservice._credentials import DEV_KEY, Key, sendable
from rewardservice._wording import error_lines, explain
from rewardservice.backoff import Backoff
from rewardservice.client import DEFAULT_TARGET, RewardClient
from rewardservice.errors import (
    AlreadyExistsError,
    AuthenticationError,
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    ResourceExhaustedError,
    ResumeError,
    RewardError,
    UnavailableError,
)
from rewardservice.v1 import order_pb2
from rewardservice.values import is_terminal

CALL_SECONDS = 10.0


class Exit(IntEnum):
    """Exit codes; scripts rely on them."""

    OK = 0
    NOT_FULFILLED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    NOT_ALLOWED = 5
    UNAVAILABLE = 6
    UNDECIDED = 7
    NOT_VERIFIED = 8
    INTERNAL = 70
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 done; 1 the watched order failed, was cancelled or delivered in part; 2 wrong usage; 3 not found; "
    "4 the request was refused (invalid, not orderable, too dear, id in use); 5 no key, wrong key or no permission; "
    "6 unreachable or out of time; 7 the order needs a review or its outcome is unknown; 8 the audit was changed; "
    "70 a defect; 130 interrupted."
)

_BY_ERROR: Sequence[tuple[type[RewardError], Exit]] = (
    (NotFoundError, Exit.NOT_FOUND),
    (InvalidRequestError, Exit.REFUSED),
    (PreconditionError, Exit.REFUSED),
    (AlreadyExistsError, Exit.REFUSED),
    (ResumeError, Exit.REFUSED),
    (ResourceExhaustedError, Exit.REFUSED),
    (AuthenticationError, Exit.NOT_ALLOWED),
    (PermissionDeniedError, Exit.NOT_ALLOWED),
    (UnavailableError, Exit.UNAVAILABLE),
    (DeadlineError, Exit.UNAVAILABLE),
)
_UNDECIDED = {order_pb2.ORDER_STATE_OUTCOME_UNKNOWN, order_pb2.ORDER_STATE_NEEDS_REVIEW}


class UsageError(Exception):
    """The command line makes no sense."""


def exit_for_error(error: RewardError) -> Exit:
    """The exit code for an error of a call."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), Exit.INTERNAL)


def exit_for_orders(orders: Sequence[order_pb2.Order]) -> Exit:
    """The exit code when waiting for orders has ended: the one that most needs a person comes first."""
    if any(order.state in _UNDECIDED for order in orders):
        return Exit.UNDECIDED
    if not all(map(is_terminal, orders)):
        return Exit.UNAVAILABLE
    if any(order.state != order_pb2.ORDER_STATE_FULFILLED for order in orders):
        return Exit.NOT_FULFILLED
    return Exit.OK


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to reach the server, and how to print."""

    server: Annotated[str, Parameter(env_var="REWARDCTL_SERVER", show_default=True)] = DEFAULT_TARGET
    """Address of the server."""
    key: Annotated[str | None, Parameter(env_var="REWARDCTL_KEY")] = None
    """API key. Other users of this machine can read command lines: prefer the variable or --key-file. For a server on
    this machine "dev-key" is the default, unless a certificate says who calls."""
    key_file: Annotated[Path | None, Parameter(env_var="REWARDCTL_KEY_FILE")] = None
    """File that holds the API key, or a token: it is read again for every call and connection."""
    tls: Annotated[bool, Parameter(env_var="REWARDCTL_TLS", negative=(), show_default=False)] = False
    """Speak TLS; implied by the other --tls options. Without --tls-ca-file public authorities are trusted."""
    tls_ca_file: Annotated[Path | None, Parameter(env_var="REWARDCTL_TLS_CA_FILE")] = None
    """Authorities to trust (PEM)."""
    tls_cert_file: Annotated[Path | None, Parameter(env_var="REWARDCTL_TLS_CERT_FILE")] = None
    """Own certificate for mutual TLS (PEM)."""
    tls_key_file: Annotated[Path | None, Parameter(env_var="REWARDCTL_TLS_KEY_FILE")] = None
    """Private key of the own certificate (PEM)."""
    tls_server_name: Annotated[str, Parameter(env_var="REWARDCTL_TLS_SERVER_NAME", show_default=False)] = ""
    """Name in the server's certificate, where it isn't the address."""
    output: Annotated[Literal["table", "json"] | None, Parameter(env_var="REWARDCTL_OUTPUT")] = None
    """For people, or one JSON object per line with the field names of the contract. Default: table on a terminal, else
    json."""
    timeout: Annotated[float | None, Parameter(env_var="REWARDCTL_TIMEOUT")] = None
    """Seconds for a call (10), for watching (no limit), or for the demo (60)."""

    def client(self) -> RewardClient:
        """A client of the server. Raises UsageError, and OSError for a file that can't be read."""
        try:
            return RewardClient(
                self.server,
                self._key(),
                tls=self._tls_options(),
                timeout=self.timeout or CALL_SECONDS,
                # Somebody sits in front of it and would rather know.
                backoff=Backoff(initial=0.2, maximum=3.0, attempts=4),
            )
        except ValueError as error:
            raise UsageError(str(error)) from None

    def explain(self, error: RewardError, *, new: bool) -> str:
        """An error in one sentence; `new` is whether the server never answered before."""
        return explain(error, self.server, tls=self._tls_options() is not None, new=new)

    def error_lines(self, error: RewardError) -> list[str]:
        """An error with all that has to be mended."""
        return error_lines(error, self.server, tls=self._tls_options() is not None)

    def _key(self) -> Key:
        if self.key is not None and self.key_file is not None:
            raise UsageError("give --key or --key-file, not both")
        if self.key_file is not None:
            return self._key_in(self.key_file)
        if self.key:
            return self.key
        if self.tls_cert_file is not None:
            # It may say who calls; the variable that programs have their key in isn't ours.
            return lambda: ""
        if is_loopback(self.server):
            return DEV_KEY
        raise UsageError(f"no API key for {self.server}: give --key-file, or set REWARDCTL_KEY")

    @staticmethod
    def _key_in(file: Path) -> Key:
        def read() -> str:
            try:
                key = sendable(file.read_text(encoding="utf-8").strip())
            except ValueError as error:
                raise UsageError(f"{file}: {error}") from None
            if not key:
                raise UsageError(f"{file} holds no API key")
            return key

        key = read()
        # A pipe, as of `--key-file <(...)`, can be read once only.
        return read if file.is_file() else key

    def _tls_options(self) -> TlsOptions | None:
        if not (self.tls or self.tls_ca_file or self.tls_cert_file or self.tls_key_file or self.tls_server_name):
            return None
        return TlsOptions(self.tls_ca_file, self.tls_cert_file, self.tls_key_file, self.tls_server_name)


Given: TypeAlias = Annotated[Options, Parameter(parse=False)]
"""The global options as a parameter of a command: taken before the command, and passed on to it."""
