"""The promise of StreamOrderUpdates, sentence by sentence."""

import asyncio
from pathlib import Path

import grpc
import pytest
from google.protobuf import duration_pb2
from hypothesis import given
from hypothesis import strategies as st

from reward_server.domain.order import OrderState
from reward_server.store import Update
from rewardservice.v1 import order_pb2
from rewardservice.v1 import reward_service_pb2 as pb

from .world import World, clock, refused, world

SECOND = duration_pb2.Duration(seconds=1)


async def history(served: World, orders: int = 3, changes: int = 4) -> list[str]:
    """Some orders with some changes, interleaved; their ids."""
    api = served.api()
    ids = [(await api.create(f"c-{n}")).order.order_id for n in range(orders)]
    for _ in range(changes):
        for order_id in ids:
            await served.change(order_id)
    return ids


async def whole_log(served: World, **selector: list[str]) -> list[pb.OrderUpdate]:
    """The log as the unary twin pages through it."""
    api = served.api()
    found: list[pb.OrderUpdate] = []
    token = ""
    while True:
        page = await api.updates(after=token, limit=4, **selector)
        found += page.updates
        token = page.resume_token
        if not page.more:
            return found


# --- Ordered, unique, reliable, atomic, resumable ---------------------------------------------------------------------


async def test_updates_come_in_order_and_once(served: World) -> None:
    """Per order by version without a gap, over all orders by commit, each once; each carries the whole order."""
    api = served.api()
    stream = api.stream(start=pb.STREAM_START_NOW)
    await stream.next()
    ids = await history(served)
    updates = await stream.updates(15)
    assert [update.order.order_id for update in updates] == ids * 5
    assert [update.order.version for update in updates] == [n // 3 + 1 for n in range(15)]
    assert all(update.order.product_id == "card" for update in updates)
    stream.cancel()


async def test_every_token_continues_exactly(served: World) -> None:
    """AFTER(token) of any update begins with the next one."""
    await history(served)
    log = await whole_log(served)
    assert len(log) == 15
    for place, update in enumerate(log[:-1]):
        stream = served.api().stream(resume_token=update.resume_token)
        assert await stream.updates(14 - place) == log[place + 1 :]
        stream.cancel()


async def test_the_stream_and_its_unary_twin_say_the_same(served: World) -> None:
    """ListOrderUpdates returns what the stream sends, to the byte, with any selector."""
    ids = await history(served)
    start = (await served.api("other-key").updates()).resume_token
    assert start
    for selector in ({}, {"order_ids": ids[:1]}, {"order_ids": ids[:1], "client_order_ids": ["c-2"]}):
        log = await whole_log(served, **selector)
        first = (await served.api().updates(limit=1)).updates[0]
        stream = served.api().stream(resume_token=first.resume_token, **selector)
        expected = [update for update in log if update.resume_token != first.resume_token]
        assert await stream.updates(len(expected)) == expected
        stream.cancel()


async def test_a_token_serves_any_selector(served: World) -> None:
    """A token of a stream of all orders continues a stream of one order."""
    ids = await history(served)
    log = await whole_log(served)
    stream = served.api().stream(resume_token=log[5].resume_token, order_ids=[ids[1]])
    updates = await stream.updates(3)
    assert updates == [update for update in log[6:] if update.order.order_id == ids[1]]
    stream.cancel()


async def test_an_update_shows_the_order_as_of_its_version(served: World) -> None:
    """Cards that came later don't appear in earlier updates, however late these are read."""
    api = served.api()
    order_id = (await api.create()).order.order_id
    await served.change(order_id)
    await served.change(order_id, cards=1)
    await served.change(order_id, OrderState.FULFILLED, cards=1)
    log = await whole_log(served)
    assert [[card.secret for card in update.order.cards] for update in log] == [
        [], [], ["secret-1"], ["secret-1", "secret-2"],
    ]  # fmt: skip
    assert [update.order.delivered_quantity for update in log] == [0, 0, 1, 2]


async def test_nothing_is_lost_when_readers_come_and_go(served: World) -> None:
    """A reader that reconnects with its last token after every few messages sees every update once, in order."""
    api = served.api()
    order_id = (await api.create()).order.order_id
    token = (await api.updates()).resume_token

    async def write() -> None:
        for _ in range(200):
            await served.change(order_id)

    writing = asyncio.create_task(write())
    versions: list[int] = []
    while len(versions) < 200:
        stream = api.stream(resume_token=token)
        for update in await stream.updates(min(7, 200 - len(versions))):
            versions.append(update.order.version)
            token = update.resume_token
        stream.cancel()
    await writing
    assert versions == list(range(2, 202))


# --- The first message, the snapshot ----------------------------------------------------------------------------------


async def test_the_first_message_comes_at_once(served: World) -> None:
    """NOW and AFTER begin with a heartbeat, SNAPSHOT of nothing with its end; each has a token."""
    api = served.api()
    now = api.stream(start=pb.STREAM_START_NOW)
    beat = await now.next()
    assert beat is not None
    assert beat.heartbeat.resume_token
    after = api.stream(resume_token=beat.heartbeat.resume_token)
    first = await after.next()
    assert first is not None
    assert first.WhichOneof("message") == "heartbeat"
    empty = await api.stream().next()
    assert empty is not None
    assert empty.WhichOneof("message") == "snapshot_end"


async def test_now_leaves_the_past_out(served: World) -> None:
    """NOW sends only what happens from now on."""
    [order_id] = await history(served, orders=1)
    stream = served.api().stream(start=pb.STREAM_START_NOW)
    await stream.next()
    await served.change(order_id)
    assert (await stream.updates(1))[0].order.version == 6
    stream.cancel()


async def test_the_snapshot_has_every_order_once(served: World) -> None:
    """All unsettled and recently changed orders come before `snapshot_end`, oldest first, over many pages."""
    api = served.api()
    ids = [(await api.create()).order.order_id for _ in range(230)]
    await served.change(ids[3], OrderState.FULFILLED, cards=1)
    messages = []
    stream = api.stream()
    while True:
        message = await stream.next()
        assert message is not None
        if message.HasField("snapshot_end"):
            break
        messages.append(message.snapshot.order)
    assert [order.order_id for order in messages] == ids
    assert messages[3].cards[0].secret == "secret-1"
    stream.cancel()


async def test_a_snapshot_of_named_orders(served: World) -> None:
    """Only the named ones, by either id; a client order id that doesn't exist yet is awaited."""
    ids = await history(served, changes=0)
    api = served.api()
    stream = api.stream(order_ids=[ids[2]], client_order_ids=["c-0", "later"])
    seen = []
    while (message := await stream.next()) is not None and message.HasField("snapshot"):
        seen.append(message.snapshot.order.order_id)
    assert seen == [ids[0], ids[2]]
    await api.create("not-this")
    later = await api.create("later")
    assert [u.order.order_id for u in await stream.updates(1)] == [later.order.order_id]
    stream.cancel()


async def test_snapshot_and_log_join_while_updates_run(served: World) -> None:
    """With updates running during the snapshot, snapshot and log together show every order and every later version."""
    api = served.api()
    ids = [(await api.create()).order.order_id for _ in range(120)]
    stopped = False

    async def write() -> int:
        rounds = 0
        while not stopped:
            for order_id in ids[::10]:
                await served.change(order_id)
            rounds += 1
        return rounds

    writing = asyncio.create_task(write())
    stream = api.stream()
    versions: dict[str, int] = {}
    while (message := await stream.next()) is not None and message.HasField("snapshot"):
        assert message.snapshot.order.order_id not in versions
        versions[message.snapshot.order.order_id] = message.snapshot.order.version
    stopped = True
    rounds = await writing
    left_out = set(ids) - set(versions)
    assert left_out <= set(ids[::10])
    while any(versions.get(order_id, 0) < rounds + 1 for order_id in ids[::10]):
        order = (await stream.skip_to("update")).order
        if order.order_id in versions:
            assert order.version == versions[order.order_id] + 1
        versions[order.order_id] = order.version
    assert set(versions) == set(ids)
    stream.cancel()


# --- Heartbeats -------------------------------------------------------------------------------------------------------


async def test_a_heartbeats_token_covers_what_the_selector_left_out(served: World) -> None:
    """Who continues from a heartbeat doesn't search again what was already left out."""
    ids = await history(served)
    api = served.api()
    stream = api.stream(order_ids=[ids[0]], heartbeat_interval=SECOND)
    await stream.skip_to("snapshot_end")
    await served.change(ids[1])
    await served.change(ids[2])
    changed_at = clock.now_ms()
    # One that was due before that may come first.
    while (beat := await stream.skip_to("heartbeat")).time.ToMilliseconds() <= changed_at:
        continue
    assert not (await api.updates(after=beat.resume_token)).updates
    stream.cancel()


async def test_heartbeats_fill_silence_only(served: World) -> None:
    """A stream that has just sent something owes no heartbeat; a silent one beats again and again."""
    [order_id] = await history(served, orders=1, changes=0)
    stream = served.api().stream(heartbeat_interval=SECOND)
    await stream.skip_to("snapshot_end")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await served.change(order_id)
    await stream.skip_to("update")
    await stream.skip_to("heartbeat")
    assert loop.time() - begun >= 0.99
    await stream.skip_to("heartbeat")
    assert loop.time() - begun >= 1.98
    stream.cancel()


# --- Until terminal ---------------------------------------------------------------------------------------------------


async def test_until_terminal_ends_with_the_last_order(served: World) -> None:
    """The stream ends with OK when every named order, also one that was awaited, is terminal."""
    api = served.api()
    one = (await api.create("c-1")).order.order_id
    stream = api.stream(order_ids=[one], client_order_ids=["c-2"], until_terminal=True)
    await stream.skip_to("snapshot_end")
    await served.change(one, OrderState.FAILED)
    two = (await api.create("c-2")).order.order_id
    await served.change(two, OrderState.FULFILLED, cards=1)
    await served.change(two)
    rest = await stream.rest()
    assert [message.update.order.state for message in rest] == [
        order_pb2.ORDER_STATE_FAILED,
        order_pb2.ORDER_STATE_ACCEPTED,
        order_pb2.ORDER_STATE_FULFILLED,
    ]
    assert await stream.call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("start", [pb.STREAM_START_NOW, pb.STREAM_START_SNAPSHOT])
async def test_until_terminal_of_terminal_orders_ends_at_once(served: World, start: pb.StreamStart.ValueType) -> None:
    """When there is nothing to wait for, the stream ends after its first messages."""
    api = served.api()
    order_id = (await api.create()).order.order_id
    await served.change(order_id, OrderState.FULFILLED, cards=1)
    messages = await api.stream(order_ids=[order_id], until_terminal=True, start=start).rest()
    assert messages[-1].WhichOneof("message") in ("heartbeat", "snapshot_end")


async def test_until_terminal_waits_for_an_order_that_was_opened_again(served: World) -> None:
    """An order that an operator's decision takes out of its terminal state has to end once more."""
    api = served.api()
    one, two = (await api.create()).order.order_id, (await api.create()).order.order_id
    stream = api.stream(order_ids=[one, two], until_terminal=True)
    await stream.skip_to("snapshot_end")
    await served.change(one, OrderState.FAILED)
    await served.change(one, OrderState.PROCESSING)
    await served.change(two, OrderState.FULFILLED)
    assert [update.order.version for update in await stream.updates(3)] == [2, 3, 2]
    await served.change(one, OrderState.FULFILLED)
    assert [message.update.order.version for message in await stream.rest()] == [4]


async def test_until_terminal_still_sends_what_is_behind_the_token(served: World) -> None:
    """A reader that comes back after the end gets the rest of the updates, then OK."""
    api = served.api()
    created = await api.create()
    await served.change(created.order.order_id)
    await served.change(created.order.order_id, OrderState.FULFILLED, cards=1)
    messages = await api.stream(
        order_ids=[created.order.order_id], until_terminal=True, resume_token=created.resume_token
    ).rest()
    assert [message.update.order.version for message in messages[1:]] == [2, 3]


# --- Views ------------------------------------------------------------------------------------------------------------


async def test_the_default_view_is_what_the_client_may_see(served: World) -> None:
    """Cards in full for clients that may read them, masked for others, masked on demand."""
    api = served.api()
    full, basic = api.stream(), api.stream(view=order_pb2.ORDER_VIEW_BASIC)
    masked = served.api("viewer-key").stream()
    for stream in (full, basic, masked):
        await stream.skip_to("snapshot_end")
    order_id = (await api.create()).order.order_id
    await served.change(order_id, OrderState.FULFILLED, cards=1)
    assert (await full.updates(2))[1].order.cards[0].secret == "secret-1"
    shown = (await basic.updates(2))[1].order.cards[0]
    assert (shown.masked, shown.number, shown.secret) == (True, "****0001", "")
    for stream in (full, basic, masked):
        stream.cancel()


async def test_cards_are_loaded_once_for_all_streams(served: World) -> None:
    """However many streams send an update, its cards are read and opened once."""
    api = served.api()
    streams = [api.stream() for _ in range(20)] + [api.stream(view=order_pb2.ORDER_VIEW_BASIC)]
    for stream in streams:
        await stream.skip_to("snapshot_end")
    order_id = (await api.create()).order.order_id
    await served.change(order_id, OrderState.FULFILLED, cards=1)
    for stream in streams:
        await stream.updates(2)
        stream.cancel()
    assert served.store.card_reads == 1  # type: ignore[attr-defined]


# --- Tokens and errors ------------------------------------------------------------------------------------------------


async def error_of(served: World, key: str = "shop-key", **request: object) -> tuple[grpc.StatusCode, str]:
    """How the stream and its twin are refused: alike."""
    api = served.api(key)
    with pytest.raises(grpc.aio.AioRpcError) as streamed:
        await api.stream(**request).next()
    if "resume_token" in request:
        request["after"] = request.pop("resume_token")
    with pytest.raises(grpc.aio.AioRpcError) as listed:
        await api.updates(**request)
    error = refused(streamed.value)
    assert (error.code, error.reason) == (refused(listed.value).code, refused(listed.value).reason)
    return error.code, error.reason


async def test_foreign_and_forged_tokens_are_refused(served: World) -> None:
    """Another client's token, and anything else, is INVALID_ARGUMENT."""
    token = (await served.api().create()).resume_token
    invalid = (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")
    assert await error_of(served, "other-key", resume_token=token) == invalid
    assert await error_of(served, resume_token=token[::-1]) == invalid
    assert await error_of(served, resume_token="nonsense") == invalid


async def test_a_pruned_log_says_where_to_begin(served: World) -> None:
    """A token from before the log's beginning is OUT_OF_RANGE with the oldest token, which works."""
    api = served.api()
    old = (await api.create()).resume_token
    await history(served)
    await served.store.prune("shop", 1 << 60, 5)
    assert await error_of(served, resume_token=old) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await api.updates(after=old)
    oldest = refused(raised.value).metadata["oldest_resume_token"]
    stream = api.stream(resume_token=oldest)
    everything = (await api.updates(limit=1_000)).updates
    assert await stream.updates(len(everything)) == everything
    stream.cancel()


@pytest.mark.parametrize("kept", [0, 3])
async def test_the_twin_says_when_pruning_overtakes_it(served: World, kept: int) -> None:
    """What goes between its look at the log's ends and its reading isn't left out silently."""
    await history(served)
    token = (await served.api().updates(limit=1)).resume_token
    read = served.store.updates

    async def too_late(client_id: str, after: int, limit: int) -> list[Update]:
        await served.store.prune(client_id, 1 << 60, 15 - kept)
        return await read(client_id, after, limit)

    served.store.updates = too_late  # type: ignore[method-assign]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await served.api().updates(after=token)
    assert refused(raised.value).reason == "RESUME_TOKEN_EXPIRED"


async def test_a_token_of_an_undone_history_is_told_apart(served: World) -> None:
    """A token beyond the head, or of another epoch, is OUT_OF_RANGE: the server was restored from a backup."""
    await served.api().create()
    head = await served.store.head("shop")
    for epoch, position in ((head.epoch, head.position + 1), (head.epoch + 1, 0)):
        token = served.tokens.resume_token("shop", epoch, position)
        assert await error_of(served, resume_token=token) == (grpc.StatusCode.OUT_OF_RANGE, "LOG_REWOUND")


async def test_an_unknown_or_foreign_order_id_is_refused(served: World) -> None:
    """One order_id among known ones that is nobody's or another client's is NOT_FOUND, and nobody can tell which."""
    [known] = await history(served, orders=1, changes=0)
    foreign = (await served.api("other-key").create()).order.order_id
    for wrong in ("01ABC", foreign):
        assert await error_of(served, order_ids=[known, wrong]) == (grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")


async def test_full_needs_its_permission(served: World) -> None:
    """View FULL without the permission to read cards is refused before anything is sent."""
    full = order_pb2.ORDER_VIEW_FULL
    assert await error_of(served, "viewer-key", view=full) == (
        grpc.StatusCode.PERMISSION_DENIED, "CARDS_NOT_PERMITTED",
    )  # fmt: skip


async def test_the_twin_searches_a_long_log_in_steps(served: World) -> None:
    """A selector that matches little still advances the token, and says whether there is more."""
    ids = await history(served, orders=2, changes=3)
    api = served.api()
    page = await api.updates(order_ids=[ids[1]], limit=2)
    assert (len(page.updates), page.more) == (2, True)
    page = await api.updates(order_ids=[ids[1]], limit=2, after=page.resume_token)
    assert (len(page.updates), page.more) == (2, False)
    assert not (await api.updates(after=page.resume_token)).updates


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("selectors")


@given(st.sets(st.integers(0, 3)), st.sets(st.integers(0, 3)), st.integers(0, 11), st.integers(1, 5))
def test_any_selector_from_any_place_by_any_page(
    folder: Path, ours: set[int], theirs: set[int], place: int, limit: int
) -> None:
    """Whatever is selected, wherever it begins, in pages of whatever size: the updates are the log, filtered."""

    async def check() -> None:
        async with world(folder) as served:
            api = served.api()
            log = (await api.updates(limit=1_000)).updates
            if not log:
                await history(served, orders=4, changes=2)
                log = (await api.updates(limit=1_000)).updates
            ids = list(dict.fromkeys(update.order.order_id for update in log))
            names = {"order_ids": [ids[n] for n in ours], "client_order_ids": [f"c-{n}" for n in theirs]}
            wanted = {ids[n] for n in ours | theirs} or set(ids)
            found: list[pb.OrderUpdate] = []
            token = log[place].resume_token
            while True:
                page = await api.updates(after=token, limit=limit, **names)
                assert len(page.updates) <= limit
                found += page.updates
                token = page.resume_token
                if not page.more:
                    break
            assert found == [update for update in log[place + 1 :] if update.order.order_id in wanted]

    asyncio.run(check())
