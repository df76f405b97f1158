"""Channelz: gRPC's own view of this process's servers, connections and streams, for tools on this machine."""

from typing import Any

import grpc.aio

from reward_server.rpc.reflection import add_reflection

SERVICE = "grpc.channelz.v1.Channelz"


class ChannelzMissing(Exception):
    """The package that serves it isn't installed."""


async def serve_channelz(address: str) -> grpc.aio.Server:
    """Serves it, and reflection so that tools find it, until the server is stopped.

    Raises ChannelzMissing, or RuntimeError when the port can't be had.
    """
    try:
        from grpc_channelz.v1 import channelz  # noqa: PLC0415 - an extra
    except ImportError:
        raise ChannelzMissing("ops.channelz needs one more package: pip install 'reward-service[channelz]'") from None
    untyped: Any = channelz
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    untyped.add_channelz_servicer(server)
    add_reflection(server, [SERVICE])
    server.add_insecure_port(address)
    await server.start()
    return server
