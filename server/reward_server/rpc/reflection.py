"""Server reflection in both versions: grpcio serves v1alpha only, current tools ask for v1 first.

The messages of both are the same but for the package, so v1 is described by a copy and answered by the same servicer.
"""

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1ALPHA = "grpc.reflection.v1alpha"
V1 = "grpc.reflection.v1"
_SERVICE = "ServerReflection"


class _SymbolPool:
    """The descriptor pool, which doesn't find methods and fields by their names: they stand where their parent does."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        """The file of a message, enum, service, method or field. Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindFileContainingSymbol(symbol.rpartition(".")[0])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Serves reflection of these services, and of reflection itself."""
    _describe_v1()
    names = [*services, f"{V1}.{_SERVICE}", f"{V1ALPHA}.{_SERVICE}"]
    untyped: Any = reflection
    servicer = untyped.aio.ReflectionServicer(names, pool=_SymbolPool())
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for package in (V1, V1ALPHA):
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(f"{package}.{_SERVICE}", {"ServerReflectionInfo": handler})]
        )


def _describe_v1() -> None:
    """Makes v1's own file known, for tools that look up every service they were told of."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName("grpc/reflection/v1/reflection.proto")
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        text = text_format.MessageToString(file).replace(V1ALPHA, V1).replace("reflection/v1alpha", "reflection/v1")
        pool.Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
