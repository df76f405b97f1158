"""What a reader of the stream sees while connections come and go."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

import grpc
import pytest

from rewardservice import (
    Backoff,
    ClosedError,
    Event,
    Heartbeat,
    InvalidRequestError,
    PermissionDeniedError,
    Reset,
    ResumeError,
    RewardClient,
    ServerError,
    Snapshot,
    SnapshotEnd,
    UnavailableError,
    Update,
    WaitTimeoutError,
)
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb

from .scripted import (
    Refusal,
    Relay,
    Scripted,
    Stream,
    fulfilled,
    hang,
    heartbeat,
    order,
    serving,
    snapshot,
    snapshot_end,
    update,
)

DRAIN = Refusal(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", retry_after=1.5)
CUT = Refusal(grpc.StatusCode.UNAVAILABLE)
EXPIRED = Refusal(grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED", metadata={"oldest_resume_token": "t7"})


async def take(events: AsyncGenerator[Event, None], count: int) -> list[Event]:
    """The next events; the stream is closed after them."""
    taken: list[Event] = []
    async with aclosing(events):
        async for event in events:
            taken.append(event)
            if len(taken) == count:
                break
    return taken


def shown(events: list[Event]) -> list[tuple[str, int]]:
    return [(e.order.order_id, e.order.version) for e in events if isinstance(e, Update | Snapshot)]


async def test_resumes_with_last_token(script: Scripted, client: RewardClient) -> None:
    """After a cut the stream goes on from the last token that was received, whatever kind of message carried it."""
    script.streams += [
        [heartbeat("t1"), update(order("A"), "t2"), CUT],
        [heartbeat("t3"), CUT],
        [update(order("A", 2), "t4"), hang],
    ]

    events = await take(client.watch(start=pb.STREAM_START_NOW), 4)

    assert events == [
        Heartbeat("t1"),
        Update(order("A"), "t2"),
        Heartbeat("t3"),
        Update(order("A", 2), "t4"),
    ]
    assert [(r.start, r.resume_token) for r in script.stream_requests] == [
        (pb.STREAM_START_NOW, ""),
        (pb.STREAM_START_AFTER, "t2"),
        (pb.STREAM_START_AFTER, "t3"),
    ]


async def test_keeps_selector_across_connections(script: Scripted, client: RewardClient) -> None:
    """Every connection asks for the same orders in the same view as the first."""
    script.streams += [[heartbeat("t1"), CUT], [heartbeat("t2"), hang]]

    await take(
        client.watch(resume_token="t0", order_ids=["A"], client_order_ids=["b"], view=order_pb2.ORDER_VIEW_FULL), 2
    )

    assert [(list(r.order_ids), list(r.client_order_ids), r.view) for r in script.stream_requests] == [
        (["A"], ["b"], order_pb2.ORDER_VIEW_FULL)
    ] * 2


async def test_removes_repeats(script: Scripted, client: RewardClient) -> None:
    """A version that was shown before the cut isn't shown again after it, and its token still counts."""
    script.streams += [
        [update(order("A", 1), "t1"), update(order("A", 2), "t2"), CUT],
        [update(order("A", 1), "t1"), update(order("A", 2), "t2"), update(order("B", 1), "t3"), CUT],
        [update(order("A", 3), "t4"), hang],
    ]

    events = await take(client.watch(resume_token="t0"), 4)

    assert shown(events) == [("A", 1), ("A", 2), ("B", 1), ("A", 3)]
    assert [r.resume_token for r in script.stream_requests] == ["t0", "t2", "t3"]


async def test_all_messages_before_an_error_arrive(script: Scripted, client: RewardClient) -> None:
    """Updates sent right before the server ends the stream are read before the error is."""
    script.streams += [[*(update(order("A", n), f"t{n}") for n in range(1, 201)), DRAIN], [hang]]

    events = await take(client.watch(resume_token="t0"), 200)

    assert shown(events) == [("A", n) for n in range(1, 201)]
    assert len(script.stream_requests) == 1


async def test_honours_retry_info(script: Scripted, client: RewardClient, naps: list[float]) -> None:
    """A draining server is left alone for as long as it asks, and a little jitter more."""
    script.streams += [[heartbeat("t1"), DRAIN], [heartbeat("t2"), hang]]

    await take(client.watch(resume_token="t0"), 2)

    assert naps == [pytest.approx(1.501)]


async def test_pauses_grow_until_a_message_comes(script: Scripted, client: RewardClient, naps: list[float]) -> None:
    """The pause doubles with every failure in a row, up to its maximum, and starts small again after a message."""
    script.streams += [[CUT], [CUT], [CUT], [CUT], [CUT], [heartbeat("t1"), CUT], [heartbeat("t2"), hang]]

    await take(client.watch(resume_token="t0"), 2)

    assert naps == [0.001, 0.002, 0.004, 0.008, 0.008, 0.001]


async def test_cancelled_burst_is_retried(script: Scripted, client: RewardClient) -> None:
    """CANCELLED that the caller didn't cause (a server with too many calls waiting) is tried again."""
    script.streams += [[Refusal(grpc.StatusCode.CANCELLED)] for _ in range(20)]
    script.streams += [[heartbeat("t1"), hang]]

    assert await take(client.watch(start=pb.STREAM_START_NOW), 1) == [Heartbeat("t1")]
    assert len(script.stream_requests) == 21


async def test_slow_reader_goes_on(script: Scripted, client: RewardClient) -> None:
    """A stream that the server ended because it was read too slowly goes on from the last token received."""
    too_slow = Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "READER_TOO_SLOW", metadata={"resume_token": "beyond what was read"}
    )
    script.streams += [[update(order("A"), "t1"), too_slow], [update(order("A", 2), "t2"), hang]]

    assert shown(await take(client.watch(resume_token="t0"), 2)) == [("A", 1), ("A", 2)]
    assert script.stream_requests[1].resume_token == "t1"


async def test_expired_token_falls_back_to_snapshot(script: Scripted, client: RewardClient) -> None:
    """A token that the log was pruned beyond is answered with a Reset and then a snapshot."""
    script.streams += [
        [EXPIRED],
        [snapshot(order("A", 5)), snapshot_end("t9"), update(order("A", 6), "t10"), hang],
    ]

    events = await take(client.watch(resume_token="t1"), 4)

    assert events == [
        Reset("RESUME_TOKEN_EXPIRED"),
        Snapshot(order("A", 5)),
        SnapshotEnd("t9"),
        Update(order("A", 6), "t10"),
    ]
    assert [(r.start, r.resume_token) for r in script.stream_requests] == [
        (pb.STREAM_START_AFTER, "t1"),
        (pb.STREAM_START_SNAPSHOT, ""),
    ]


async def test_rewound_log_shows_lower_versions_again(script: Scripted, client: RewardClient) -> None:
    """After a restore from a backup an order comes again, though its version was seen before."""
    rewound = Refusal(grpc.StatusCode.OUT_OF_RANGE, "LOG_REWOUND")
    script.streams += [[update(order("A", 5), "t5"), CUT], [rewound], [snapshot(order("A", 3)), hang]]

    events = await take(client.watch(resume_token="t0"), 3)

    assert events[1] == Reset("LOG_REWOUND")
    assert shown(events) == [("A", 5), ("A", 3)]


async def test_cut_snapshot_is_taken_again(script: Scripted, client: RewardClient) -> None:
    """A snapshot that was cut is taken again from its beginning, and only what is new in it is shown."""
    script.streams += [
        [snapshot(order("A")), heartbeat("t1"), snapshot(order("B")), CUT],
        [snapshot(order("A")), snapshot(order("B", 2)), snapshot(order("C")), snapshot_end("t5"), CUT],
        [heartbeat("t6"), hang],
    ]

    events = await take(client.watch(), 6)

    assert shown(events) == [("A", 1), ("B", 1), ("B", 2), ("C", 1)]
    assert events[4:] == [SnapshotEnd("t5"), Heartbeat("t6")]
    assert [r.start for r in script.stream_requests] == [
        pb.STREAM_START_UNSPECIFIED,
        pb.STREAM_START_UNSPECIFIED,
        pb.STREAM_START_AFTER,
    ]


async def test_silent_connection_is_left(script: Scripted, target: str, backoff: Backoff) -> None:
    """A connection that is open but carries nothing is left for a new one after three heartbeats' time."""
    async with (
        Relay(int(target.rpartition(":")[2])).running() as relay,
        RewardClient(f"127.0.0.1:{relay.port}", "a-key", backoff=backoff) as client,
    ):
        script.streams += [[update(order("A"), "t1"), hang], [update(order("A", 2), "t2"), hang]]
        events = client.watch(resume_token="t0", heartbeat_interval=0.7)
        async with aclosing(events):
            first = await anext(events)
            relay.freeze()
            second = await anext(events)

    assert shown([first, second]) == [("A", 1), ("A", 2)]
    assert script.stream_requests[1].resume_token == "t1"
    assert relay.accepted == 2


async def test_silent_server_is_asked_again(script: Scripted, client: RewardClient) -> None:
    """A stream whose server says nothing, not even at the beginning, is opened again."""
    script.streams += [[hang], [heartbeat("t1"), hang]]

    assert await take(client.watch(start=pb.STREAM_START_NOW, heartbeat_interval=0.5), 1) == [Heartbeat("t1")]
    assert len(script.stream_requests) == 2


async def test_unknown_kinds_and_states_are_ignored(script: Scripted, client: RewardClient) -> None:
    """A message kind from a newer server is left out, and an order in a state from a newer server is passed on."""
    newer_kind = Stream.FromString(b"\xfa\x01\x03abc")
    newer_state = order("A")
    newer_state.MergeFromString(b"\x50\x63")
    script.streams += [[newer_kind, update(newer_state, "t1"), newer_kind, heartbeat("t2"), hang]]

    events = await take(client.watch(resume_token="t0"), 2)

    assert isinstance(events[0], Update)
    assert events[0].order.state == 99
    assert events[1] == Heartbeat("t2")


async def test_survives_restart_of_server() -> None:
    """The stream goes on when the server is stopped and another one starts on its port."""
    former, latter = Scripted(), Scripted()
    former.streams.append([update(order("A"), "t1"), hang])
    latter.streams.append([update(order("A", 2), "t2"), hang])
    async with AsyncExitStack() as first_life:
        port = await first_life.enter_async_context(serving(former))
        patient = Backoff(initial=0.02, maximum=0.02)
        async with RewardClient(f"127.0.0.1:{port}", "a-key", backoff=patient) as client:
            events = client.watch(resume_token="t0")
            async with aclosing(events):
                first = await anext(events)
                waiting = asyncio.ensure_future(anext(events))
                await first_life.aclose()
                async with serving(latter, port):
                    second = await waiting

    assert shown([first, second]) == [("A", 1), ("A", 2)]
    assert latter.stream_requests[0].resume_token == "t1"


async def test_ends_when_all_are_terminal(script: Scripted, client: RewardClient) -> None:
    """With until_terminal the iterator ends when the server ends the stream."""
    script.streams += [[update(fulfilled("A"), "t1")]]

    events = [event async for event in client.watch(order_ids=["A"], until_terminal=True)]

    assert shown(events) == [("A", 2)]


async def test_end_without_reason_is_a_cut(script: Scripted, client: RewardClient) -> None:
    """A stream that ends although it has no end (a proxy's doing) is opened again."""
    script.streams += [[heartbeat("t1")], [heartbeat("t2"), hang]]

    assert await take(client.watch(resume_token="t0"), 2) == [Heartbeat("t1"), Heartbeat("t2")]


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (Refusal(grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID"), InvalidRequestError),
        (Refusal(grpc.StatusCode.PERMISSION_DENIED, "CARDS_NOT_PERMITTED"), PermissionDeniedError),
        (Refusal(grpc.StatusCode.INTERNAL, "INTERNAL"), ServerError),
    ],
)
async def test_final_errors_are_raised(
    script: Scripted, client: RewardClient, refusal: Refusal, error: type[Exception]
) -> None:
    """An error that a new connection can't mend ends the iterator at once."""
    script.streams += [[heartbeat("t1"), refusal]]

    with pytest.raises(error):
        await take(client.watch(resume_token="t0"), 2)
    assert len(script.stream_requests) == 1


async def test_expired_without_token_is_raised(script: Scripted, client: RewardClient) -> None:
    """OUT_OF_RANGE on a stream that used no token is an error, not a reason to ask for ever."""
    script.streams += [[EXPIRED]]

    with pytest.raises(ResumeError):
        await take(client.watch(start=pb.STREAM_START_NOW), 1)


async def test_errors_of_unknown_origin_end_after_some_tries(script: Scripted, client: RewardClient) -> None:
    """An INTERNAL without the service's reason may be a proxy's: it is tried again, but not for ever."""
    script.streams += [[Refusal(grpc.StatusCode.INTERNAL)]] * 10

    with pytest.raises(ServerError):
        await take(client.watch(), 1)
    assert len(script.stream_requests) == 4


async def test_gives_up_when_asked_to(client: RewardClient, script: Scripted) -> None:
    """With give_up_after the last error is raised once it failed for so long."""
    script.streams += [[heartbeat("t1"), DRAIN]]

    with pytest.raises(UnavailableError, match="it went wrong"):
        await take(client.watch(resume_token="t0", give_up_after=1.0), 2)


async def test_leaving_ends_the_stream(script: Scripted, client: RewardClient) -> None:
    """Closing the iterator cancels the call, so that the server can forget it."""
    script.streams += [[heartbeat("t1"), hang]]

    await take(client.watch(resume_token="t0"), 1)

    assert await script.ended.get() == 0


async def test_cancelling_the_reader_is_not_retried(script: Scripted, client: RewardClient) -> None:
    """A reader that is cancelled by its own program stops, and its stream with it."""
    script.streams += [[heartbeat("t1"), hang]]
    arrived = asyncio.Event()

    async def read() -> None:
        async for _ in client.watch(resume_token="t0"):
            arrived.set()

    reader = asyncio.create_task(read())
    await arrived.wait()
    reader.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await script.ended.get() == 0
    assert len(script.stream_requests) == 1


async def test_closing_the_client_is_told_to_readers(script: Scripted, client: RewardClient) -> None:
    """Closing the client ends its streams with ClosedError, not with a cancelled task."""
    script.streams += [[heartbeat("t1"), hang]]
    events = client.watch(resume_token="t0")
    await anext(events)
    waiting = asyncio.ensure_future(anext(events))

    await client.close()

    with pytest.raises(ClosedError):
        await waiting


async def test_wait_for_returns_the_ended_order(script: Scripted, client: RewardClient) -> None:
    """Waiting survives a cut and returns the order with its cards once it has ended."""
    script.streams += [
        [snapshot(order("A")), snapshot_end("t1"), CUT],
        [update(fulfilled("A"), "t2"), hang],
    ]

    ended = await client.wait_for("A")

    assert ended.state == order_pb2.ORDER_STATE_FULFILLED
    assert ended.cards[0].secret == "SECRET-1"


async def test_wait_for_returns_an_order_in_review(script: Scripted, client: RewardClient) -> None:
    """Waiting is over when a person has to look at the order."""
    script.streams += [[snapshot(order("A", 3, order_pb2.ORDER_STATE_NEEDS_REVIEW)), hang]]

    assert (await client.wait_for(client_order_id="c-A")).version == 3
    assert list(script.stream_requests[0].client_order_ids) == ["c-A"]


async def test_wait_for_says_what_it_knew(script: Scripted, client: RewardClient) -> None:
    """Waiting that ends too early says where the order stood."""
    script.streams += [[snapshot(order("A", 3, order_pb2.ORDER_STATE_OUTCOME_UNKNOWN)), hang]]

    with pytest.raises(WaitTimeoutError, match="order A is OUTCOME_UNKNOWN after 2 s") as caught:
        await client.wait_for("A", timeout=2)
    assert caught.value.order is not None
    assert caught.value.order.version == 3
