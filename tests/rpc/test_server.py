"""The server around the services: ports, TLS, health, reflection."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from reward_server.rpc.server import SERVICES, RpcServer, TlsFiles, _options
from rewardservice.v1 import reward_service_pb2 as pb

from .world import Api, World, world

REFLECTION = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
GRPCURL = Path(sys.executable).with_name("grpcurl")


async def health(api: Api, service: str) -> Any:
    """What a probe is told."""
    check = api.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return (await check(health_pb2.HealthCheckRequest(service=service))).status


async def reflect(api: Api, package: str, **request: Any) -> reflection_pb2.ServerReflectionResponse:
    """One question to reflection."""
    ask = api.channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = ask()
    await call.write(reflection_pb2.ServerReflectionRequest(**request))
    await call.done_writing()
    answer = await call.read()
    if answer is grpc.aio.EOF:
        raise AssertionError(await call.code())
    assert isinstance(answer, reflection_pb2.ServerReflectionResponse)
    return answer


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_probes_need_no_key_and_hear_of_draining(served: World, service: str) -> None:
    """Each service is SERVING, until the server drains."""
    api = served.api(None)
    assert await health(api, service) == health_pb2.HealthCheckResponse.SERVING
    await served.server.set_serving(False)
    assert await health(api, service) == health_pb2.HealthCheckResponse.NOT_SERVING
    await served.server.set_serving(True)
    await served.server.drain(1)
    assert await health(api, service) == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("package", REFLECTION)
async def test_reflection_lists_and_describes(served: World, package: str) -> None:
    """Both versions list all services, their own included, and describe every one they list."""
    api = served.api(None)
    listed = (await reflect(api, package, list_services="")).list_services_response
    names = {service.name for service in listed.service}
    assert names == {*SERVICES, "grpc.health.v1.Health", *(f"{name}.ServerReflection" for name in REFLECTION)}
    for name in names:
        answer = await reflect(api, package, file_containing_symbol=name)
        assert answer.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize("package", REFLECTION)
async def test_reflection_can_be_off(tmp_path: Path, package: str) -> None:
    """Switched off, reflection is no method at all."""
    async with world(tmp_path, reflection=False) as served:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await reflect(served.api(None), package, list_services="")
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_stock_tool_can_call(served: World) -> None:
    """grpcurl finds the methods by reflection and calls one."""
    process = await asyncio.create_subprocess_exec(
        *(str(GRPCURL), "-plaintext", "-H", "authorization: Bearer shop-key", "-d", '{"product_id": "card"}'),
        *(f"127.0.0.1:{served.server.port}", "rewardservice.v1.CatalogService/GetProduct"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert b"Product card" in output


async def test_a_taken_port_is_refused(served: World) -> None:
    """A second server on the port fails instead of taking half of the calls."""
    address = f"127.0.0.1:{served.server.port}"
    second = RpcServer(grpc.aio.server(options=_options(1_000)), None, served.hub, address)
    with pytest.raises(OSError, match=address):
        second.bind(None)


def write_certificate(folder: Path, name: str) -> tuple[TlsFiles, bytes]:
    """A certificate of its own for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    files = TlsFiles(folder / "server.crt", folder / "server.key")
    files.certificate.write_bytes(pem)
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files, pem


async def call_over_tls(port: int, root: bytes) -> None:
    """One call that trusts only this certificate."""
    options = (("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1))
    credentials = grpc.ssl_channel_credentials(root)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        api = Api(channel, "shop-key")
        await api.rewards.ListOrders(pb.ListOrdersRequest(), metadata=api.metadata, timeout=60)


async def test_tls_and_a_renewed_certificate(tmp_path: Path) -> None:
    """The server speaks TLS with the configured certificate, and with its successor without a restart."""
    files, old = write_certificate(tmp_path, "old")
    async with world(tmp_path, tls=files) as served:
        await call_over_tls(served.server.port, old)
        with pytest.raises(grpc.aio.AioRpcError):
            await served.api().get("x")
        _, new = write_certificate(tmp_path, "new")
        await call_over_tls(served.server.port, new)
        with pytest.raises(grpc.aio.AioRpcError):
            await call_over_tls(served.server.port, old)
