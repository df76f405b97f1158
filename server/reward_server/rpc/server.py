"""The gRPC server: ports, limits, keepalive, TLS, health and reflection."""

import asyncio
import errno
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from reward_server.hub import Hub
from reward_server.rpc.catalog_service import CatalogService
from reward_server.rpc.interceptor import RpcInterceptor
from reward_server.rpc.operator_service import OperatorService
from reward_server.rpc.reflection import add_reflection
from reward_server.rpc.reward_service import RewardService
from rewardservice.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    operator_service_pb2,
    operator_service_pb2_grpc,
    reward_service_pb2,
    reward_service_pb2_grpc,
)

SERVICES = tuple(
    service.full_name
    for file in (reward_service_pb2.DESCRIPTOR, catalog_service_pb2.DESCRIPTOR, operator_service_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
)
HEALTH: Any = health
"""Not typed by its authors."""

KEEPALIVE_MS = 20_000
"""A dead peer is noticed within half a minute; many NATs forget a silent connection after a minute."""
KEEPALIVE_TIMEOUT_MS = 10_000
MIN_CLIENT_PING_MS = 10_000
"""Clients that ping less often than this are no attackers; the default of 5 minutes would end their quiet streams."""
PENDING_REQUESTS = 100_000
PENDING_REQUESTS_HARD = 200_000
"""gRPC refuses calls at random above 1,000 pending ones, and clients see CANCELLED: a reconnect storm would lose
streams."""
TRANSPORT_MARGIN_BYTES = 1_048_576
"""What gRPC takes beyond our own limit, so that a request a bit too large gets an error with all details. Beyond this
gRPC itself refuses, unread and with a bare RESOURCE_EXHAUSTED."""
STREAMS_PER_CONNECTION = 10_000
"""Calls that one connection may hold: as many as the streams one process is made for. More wait at their client."""
PING_STRIKES = 2
"""Pings that came too early before the connection is closed."""
METADATA_BYTES = 8_192
"""Calls with more metadata are refused, the more probably the nearer they are to the hard limit. A key and a trace take
some hundred bytes; a JWT with many claims a few thousand."""
METADATA_BYTES_HARD = 16_384
"""Calls with more metadata are always refused."""
HANDSHAKE_MS = 10_000
"""Who connects and says nothing is cut off; two minutes otherwise."""
AGE_SECONDS = 3_600.0
"""No new calls on a connection older than this, give or take a tenth: clients spread over the replicas again."""
AGE_GRACE_SECONDS = 120.0
"""Calls may go on there for one more age and this. No stream lives longer than one age and one heartbeat: the server
ends each by itself, with its last token, before its connection is closed."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files; read anew when they change, so that a renewed certificate needs no restart."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """What clients' certificates are checked against, where they have to show one."""


@dataclass(frozen=True, slots=True)
class _Pems:
    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None


class Certificates:
    """What the server shows, and checks clients' certificates against; renewed when the files change."""

    def __init__(self, files: TlsFiles) -> None:
        self._lock = threading.Lock()
        self._files = files
        self._stamps = _stamps(files)
        self._pems = _read(files)

    def use(self, files: TlsFiles) -> None:
        """From the next handshake on these files count."""
        with self._lock:
            self._files = files

    def credentials(self, *, ask_clients: bool) -> grpc.ServerCredentials:
        """For one port. `ask_clients`: connections without a good certificate are refused (gRPC can't make it a
        choice).
        """
        given = self._pems

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # Called for every handshake, from gRPC's own thread. None: keep what there is.
            nonlocal given
            newest = self._newest()
            if newest is given:
                return None
            given = newest
            return _configuration(newest)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given),
            fetch,  # type: ignore[arg-type]  # None is allowed
            require_client_authentication=ask_clients,
        )

    def _newest(self) -> _Pems:
        with self._lock:
            try:
                stamps = _stamps(self._files)
                if stamps != self._stamps:
                    self._pems = _read(self._files)
                    self._stamps = stamps
            except OSError:
                # Files are being replaced, or don't fit each other yet; the next handshake looks again.
                pass
            return self._pems


class RpcServer:
    """The running gRPC server."""

    def __init__(self, server: grpc.aio.Server, checks: Any, hub: Hub, address: str) -> None:
        self._server = server
        self._checks = checks
        self._hub = hub
        self._address = address
        self.port = 0
        """Where it listens; of use when the configured port is 0."""
        self.client_port = 0
        """Where clients have to show a certificate, if that is a port of its own."""
        self._certificates: Certificates | None = None
        self._ends_at: float | None = None
        """When the time that `drain` was given is over, by the loop's clock."""

    def bind(self, tls: TlsFiles | None, client_address: str | None = None) -> None:
        """Takes the port, and one more where clients have to show a certificate, if it has an address of its own.

        Raises OSError when one can't be had.
        """
        if tls is None:
            self.port = self._take(self._address, None)
            return
        self._certificates = Certificates(tls)
        asks = tls.client_ca is not None and client_address is None
        self.port = self._take(self._address, self._certificates.credentials(ask_clients=asks))
        if client_address is not None:
            self.client_port = self._take(client_address, self._certificates.credentials(ask_clients=True))

    def use_certificates(self, tls: TlsFiles) -> None:
        """From the next handshake on these files count."""
        if self._certificates is not None:
            self._certificates.use(tls)

    def _take(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(errno.EADDRINUSE, f"can't listen on {address}; is another server running there?") from error

    async def start(self, *, serving: bool = True) -> None:
        """Answers calls from now on."""
        await self.set_serving(serving)
        await self._server.start()

    async def set_serving(self, serving: bool) -> None:
        """What health checks are told, for the whole server and for each service."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *SERVICES):
            await self._checks.set(service, status)

    async def drain(self, timeout: float) -> bool:
        """Turns health checks to NOT_SERVING and ends every stream with its last token.

        False when some streams were still open after `timeout` seconds: `stop` ends them.
        """
        self._ends_at = asyncio.get_running_loop().time() + timeout
        await self._checks.enter_graceful_shutdown()
        return await self._hub.drain(timeout)

    async def stop(self, grace: float) -> None:
        """Takes no more calls and lets those that run end for `grace` seconds, or what is left of the time of `drain`.

        Connections whose other end is gone without a word keep it for KEEPALIVE_TIMEOUT_MS: gRPC says goodbye with a
        ping and waits for the answer.
        """
        if self._ends_at is not None:
            grace = min(grace, max(0.0, self._ends_at - asyncio.get_running_loop().time()))
        await self._server.stop(grace)


def build_server(
    *,
    address: str,
    reward_service: RewardService,
    catalog_service: CatalogService,
    operator_service: OperatorService,
    interceptor: RpcInterceptor,
    hub: Hub,
    max_message_bytes: int,
    reflection: bool,
    tls: TlsFiles | None = None,
    max_connection_age: float = AGE_SECONDS,
    client_address: str | None = None,
    share_ports: bool = False,
) -> RpcServer:
    """A server that holds its port but doesn't answer yet. Raises OSError when the port is taken.

    `share_ports`: other processes, which say so too, may listen on the same ones; the system deals connections out.
    """
    options = _options(max_message_bytes, max_connection_age, share_ports=share_ports)
    server = grpc.aio.server(interceptors=[interceptor], options=options)
    reward_service_pb2_grpc.add_RewardServiceServicer_to_server(reward_service, server)
    catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(catalog_service, server)
    operator_service_pb2_grpc.add_OperatorServiceServicer_to_server(operator_service, server)
    checks = HEALTH.aio.HealthServicer()
    add_health: Any = health_pb2_grpc.add_HealthServicer_to_server
    add_health(checks, server)
    if reflection:
        add_reflection(server, [*SERVICES, HEALTH.SERVICE_NAME])
    rpc_server = RpcServer(server, checks, hub, address)
    rpc_server.bind(tls, client_address)
    return rpc_server


def _options(
    max_message_bytes: int, max_connection_age: float = AGE_SECONDS, *, share_ports: bool = False
) -> Sequence[tuple[str, int]]:
    grace = max_connection_age + AGE_GRACE_SECONDS
    return (
        # Requests only: an order with its cards may be larger than any request.
        ("grpc.max_receive_message_length", max_message_bytes + TRANSPORT_MARGIN_BYTES),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_HARD),
        # gRPC core adds the jitter.
        ("grpc.max_connection_age_ms", round(max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", round(grace * 1000)),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.server.max_pending_requests", PENDING_REQUESTS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_REQUESTS_HARD),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # gRPC core waits for this answer, not for the one above: a minute, unless told otherwise (measured, 1.85).
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_CLIENT_PING_MS),
        ("grpc.http2.max_ping_strikes", PING_STRIKES),
        # A second server on our port must fail, not share it, unless it is meant to. gRPC's own default is to share.
        ("grpc.so_reuseport", int(share_ports)),
    )


def _configuration(pems: _Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.certificate)], root_certificates=pems.client_ca)


def _read(files: TlsFiles) -> _Pems:
    """The files, if certificate and key fit each other. Raises OSError."""
    # gRPC takes any pair, and then fails every handshake.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key, password="")
    client_ca = files.client_ca.read_bytes() if files.client_ca is not None else None
    return _Pems(files.certificate.read_bytes(), files.key.read_bytes(), client_ca)


def _stamps(files: TlsFiles) -> tuple[object, ...]:
    stamps = []
    for file in (files.certificate, files.key, files.client_ca):
        facts = None if file is None else file.stat()
        stamps.append(facts and (file, facts.st_mtime_ns, facts.st_size, facts.st_ino))
    return tuple(stamps)
