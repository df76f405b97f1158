"""Thousands of streams at once, as after a restart: every one is opened, and none misses anything."""

import asyncio
from pathlib import Path

import grpc

from rewardservice.v1 import reward_service_pb2 as pb
from rpc.world import Api, Stream, World, refused, world

STREAMS = 2_000
"""Twice what gRPC lets wait by default before it refuses calls at random. The benchmark opens 10,000."""
CONNECTIONS = 4


def many(served: World) -> list[Api]:
    """One client per stream, over a few connections."""
    apis = [served.api() for _ in range(CONNECTIONS)]
    return [apis[n % CONNECTIONS] for n in range(STREAMS)]


async def last_token(stream: Stream) -> tuple[str, str]:
    """The token of a stream that the server ends, and the reason."""
    token = ""
    try:
        while (message := await stream.next()) is not None:
            token = getattr(message, message.WhichOneof("message") or "").resume_token
    except grpc.aio.AioRpcError as error:
        return token, refused(error).reason
    return token, ""


async def test_two_thousand_streams_are_opened_at_once_and_again_after_a_restart(tmp_path: Path) -> None:
    """None is refused, each hears every update once, and each goes on after the restart where it was."""
    async with world(tmp_path) as served:
        order_id = (await served.api().create()).order.order_id
        streams = [api.stream(start=pb.STREAM_START_NOW) for api in many(served)]
        first = await asyncio.gather(*(stream.next() for stream in streams))
        assert all(message is not None and message.HasField("heartbeat") for message in first)
        await served.change(order_id)
        heard = await asyncio.gather(*(stream.updates(1) for stream in streams))
        assert {update.order.version for [update] in heard} == {2}
        ending = asyncio.gather(*(last_token(stream) for stream in streams))
        assert await served.server.drain(60)
        ends = await ending
        assert {reason for _, reason in ends} == {"SERVER_DRAINING"}
        await served.change(order_id)
    async with world(tmp_path) as served:
        # All at once, while the server has only just begun.
        streams = [api.stream(resume_token=token) for api, (token, _) in zip(many(served), ends, strict=True)]
        heard = await asyncio.gather(*(stream.updates(1) for stream in streams))
        assert {update.order.version for [update] in heard} == {3}
        assert served.metrics.streams._value.get() == STREAMS
        for stream in streams:
            stream.cancel()
