"""Channelz: gRPC's own view of the connections, on loopback and only if it is asked for."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

from ports import free_port
from reward_server.config import ConfigError, load_settings
from service.harness import Place, service


async def test_connections_and_streams_are_told(tmp_path: Path) -> None:
    """The sockets of clients, and how many streams they have begun."""
    port = free_port()
    async with service(tmp_path, kinds=("kasushou",), extra=f'[ops]\nchannelz = "127.0.0.1:{port}"\n') as running:
        created = await running.client.create("kasushou/card", "o-1")
        await running.client.until(created.order.order_id)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            untyped: Any = channelz_pb2_grpc
            asked = untyped.ChannelzStub(channel)
            servers = (await asked.GetServers(channelz_pb2.GetServersRequest())).server
            calls = [server.data.calls_started for server in servers]
            assert max(calls) >= 2
            [busiest] = [server for server in servers if server.data.calls_started == max(calls)]
            request = channelz_pb2.GetServerSocketsRequest(server_id=busiest.ref.server_id)
            sockets = (await asked.GetServerSockets(request)).socket_ref
            found = [
                (await asked.GetSocket(channelz_pb2.GetSocketRequest(socket_id=s.socket_id))).socket for s in sockets
            ]
            assert max(socket.data.streams_started for socket in found) >= 2


def test_only_loopback_is_allowed(tmp_path: Path) -> None:
    """It asks nobody for a key."""
    place = Place(folder=tmp_path, sandbox_url="http://127.0.0.1:1", extra='[ops]\nchannelz = "0.0.0.0:50061"\n')
    with pytest.raises(ConfigError, match="only a loopback address"):
        load_settings(place.write(), {})
