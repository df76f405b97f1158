"""The gRPC server: ports, limits, keepalive, TLS, health and reflection."""

import asyncio
import errno
from collections.abc import Sequence
from dataclasses import dataclass
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
"""Calls that one connection may hold: as many as the streams one process is made for."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files; read anew when they change, so that a renewed certificate needs no restart."""

    certificate: Path
    key: Path


class RpcServer:
    """The running gRPC server."""

    def __init__(self, server: grpc.aio.Server, checks: Any, hub: Hub, address: str) -> None:
        self._server = server
        self._checks = checks
        self._hub = hub
        self._address = address
        self.port = 0
        """Where it listens; of use when the configured port is 0."""
        self._ends_at: float | None = None
        """When the time that `drain` was given is over, by the loop's clock."""

    def bind(self, tls: TlsFiles | None) -> None:
        """Takes the port. Raises OSError when it can't be had."""
        try:
            if tls is None:
                self.port = self._server.add_insecure_port(self._address)
            else:
                self.port = self._server.add_secure_port(self._address, _credentials(tls))
        except RuntimeError as error:
            raise OSError(
                errno.EADDRINUSE, f"can't listen on {self._address}; is another server running there?"
            ) from error

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
) -> RpcServer:
    """A server that holds its port but doesn't answer yet. Raises OSError when the port is taken."""
    server = grpc.aio.server(interceptors=[interceptor], options=_options(max_message_bytes))
    reward_service_pb2_grpc.add_RewardServiceServicer_to_server(reward_service, server)
    catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(catalog_service, server)
    operator_service_pb2_grpc.add_OperatorServiceServicer_to_server(operator_service, server)
    checks = HEALTH.aio.HealthServicer()
    add_health: Any = health_pb2_grpc.add_HealthServicer_to_server
    add_health(checks, server)
    if reflection:
        add_reflection(server, [*SERVICES, HEALTH.SERVICE_NAME])
    rpc_server = RpcServer(server, checks, hub, address)
    rpc_server.bind(tls)
    return rpc_server


def _options(max_message_bytes: int) -> Sequence[tuple[str, int]]:
    return (
        # Requests only: an order with its cards may be larger than any request.
        ("grpc.max_receive_message_length", max_message_bytes + TRANSPORT_MARGIN_BYTES),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
        ("grpc.server.max_pending_requests", PENDING_REQUESTS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_REQUESTS_HARD),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # gRPC core waits for this answer, not for the one above: a minute, unless told otherwise (measured, 1.85).
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_CLIENT_PING_MS),
        # A second server on our port must fail, not share it.
        ("grpc.so_reuseport", 0),
    )


def _credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    loaded = _stamp(tls)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        # Called for every handshake, from gRPC's own thread. None: keep what there is.
        nonlocal loaded
        try:
            stamp = _stamp(tls)
            if stamp == loaded:
                return None
            renewed = _configuration(tls)
        except OSError:
            # Files are being replaced; the next handshake looks again.
            return None
        loaded = stamp
        return renewed

    return grpc.dynamic_ssl_server_credentials(_configuration(tls), fetch)  # type: ignore[arg-type]  # None is allowed


def _configuration(tls: TlsFiles) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(tls.key.read_bytes(), tls.certificate.read_bytes())])


def _stamp(tls: TlsFiles) -> tuple[int, int]:
    return tls.certificate.stat().st_mtime_ns, tls.key.stat().st_mtime_ns
