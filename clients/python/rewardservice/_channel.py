"""Channels to the server: options and TLS."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

_MAX_RECEIVE = 64 * 1024 * 1024
"""Bytes of an answer. The largest one is a page of 1,000 updates with all their cards."""
_MAX_SEND = 256 * 1024
"""Bytes of a request; the server takes no more."""


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """How to speak TLS.

    `ca_file` holds the authorities to trust (PEM; None: the ones that gRPC ships), `cert_file` and `key_file` the
    client's own certificate and key for mutual TLS (PEM, both or none), `server_name` the name in the server's
    certificate where it differs from the target. The files are read when the client connects first: OSError if they
    can't be.
    """

    ca_file: Path | str | None = None
    cert_file: Path | str | None = None
    key_file: Path | str | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")

    def credentials(self) -> grpc.ChannelCredentials:
        """The credentials for a channel."""
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca_file),
            private_key=_read(self.key_file),
            certificate_chain=_read(self.cert_file),
        )


def open_channel(
    target: str, tls: TlsOptions | None, options: Sequence[tuple[str, Any]] = (), *, unshared: bool = False
) -> aio.Channel:
    """A channel with keepalive; `unshared` makes it open a connection of its own. Needs a running event loop."""
    chosen: dict[str, Any] = {
        # A pulled cable or a forgetful firewall is noticed after 20 + 10 s instead of hours, on quiet streams too.
        "grpc.keepalive_time_ms": 20_000,
        "grpc.keepalive_timeout_ms": 10_000,
        # The same again: gRPC core goes by this one, whose default is a minute.
        "grpc.http2.ping_timeout_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        # gRPC's own pauses between connection attempts grow to two minutes: a server that is back would wait for us.
        "grpc.initial_reconnect_backoff_ms": 200,
        "grpc.max_reconnect_backoff_ms": 5_000,
        "grpc.max_receive_message_length": _MAX_RECEIVE,
        "grpc.max_send_message_length": _MAX_SEND,
        "grpc.primary_user_agent": f"reward-service-python/{version()}",
        # gRPC shares connections between equal channels of a process.
        "grpc.use_local_subchannel_pool": int(unshared),
        **dict(options),
    }
    if tls is None:
        return aio.insecure_channel(target, options=tuple(chosen.items()))
    if tls.server_name:
        chosen["grpc.ssl_target_name_override"] = tls.server_name
        chosen["grpc.default_authority"] = tls.server_name
    return aio.secure_channel(target, tls.credentials(), options=tuple(chosen.items()))


def version() -> str:
    """The version of this distribution."""
    try:
        return metadata.version("reward-service")
    except metadata.PackageNotFoundError:
        return "unknown"


def is_loopback(target: str) -> bool:
    """Whether a gRPC target never leaves this machine, as far as its name tells."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    address = target.removeprefix("dns:").removeprefix("ipv4:").removeprefix("ipv6:").rpartition("/")[2]
    host = address[1:].partition("]")[0] if address.startswith("[") else address.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
