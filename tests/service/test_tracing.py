"""Traces: one from a client's call through the suppliers' HTTP to the messages of streams, sent to a real collector."""

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ports import free_port
from reward_sandbox import Sandbox, SandboxSettings
from reward_server.config import ConfigError, load_settings
from reward_server.spans import Spans
from reward_server.store import PurchaseKey
from reward_server.store.codec import decode_order, encode_order
from rewardservice.v1 import order_pb2
from rewardservice.v1.reward_service_pb2 import (
    STREAM_START_AFTER,
    STREAM_START_NOW,
    CreateOrderRequest,
    CreateOrderResponse,
)

from .canaries import RECIPIENTS, Search, play, running, scenarios
from .collector import Collector, Seen, collecting
from .harness import Caller, Place, ServerProcess, caller, refused, service

TESTS = Path(__file__).parents[1]
CREATE = "rewardservice.v1.RewardService/CreateOrder"
STREAM = "rewardservice.v1.RewardService/StreamOrderUpdates"
PUSH = "push update"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
UNHEARD = {
    "baggage": "card=canary-7kq2-baggage",
    "tracestate": "vendor=canary-7kq2-tracestate",
    "x-request-id": "canary-7kq2-request-id",
}
"""What other programs may send beside it; none of ours."""


async def order(client: Caller, name: str, product: str = "kasushou/card", **said: str) -> CreateOrderResponse:
    """Orders one, and says this in the call's metadata."""
    request = CreateOrderRequest(client_order_id=name, product_id=product, quantity=1)
    return await client.orders.CreateOrder(request, metadata=(*client.metadata, *said.items()))


def pushed(collector: Collector, order_id: str) -> list[Seen]:
    """The updates of an order that were written to streams."""
    return collector.named(PUSH, order_id=order_id)


async def test_one_trace_from_the_call_through_the_suppliers_http_to_the_stream(tmp_path: Path) -> None:
    """The client's own trace: its call, what was asked of the supplier, its callback, and each message of a stream."""
    async with collecting() as collector, Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",), extra=collector.extra)
        async with ServerProcess(place) as server, caller(place.grpc_port) as shop, caller(place.grpc_port) as reader:
            stream = reader.stream(start=STREAM_START_NOW)
            await stream.read()
            created = await order(shop, "o-1", traceparent=SAMPLED)
            order_id = created.order.order_id
            states = [(await stream.read()).update.order.state for _ in range(3)]
            stream.cancel()
            await collector.until(lambda: len(pushed(collector, order_id)) == 3)
            # What is still to be sent is sent at the end.
            assert await server.stop() == 0
    spans = collector.of(TRACE)
    [create] = [span for span in spans if span.name == CREATE]
    assert create.parent == SPAN
    assert create["order_id"] == order_id
    assert create.attributes["rpc.response.status_code"] == "OK"
    others = [span for span in spans if span is not create]
    assert {span.name for span in others} == {"kasushou place", "kasushou callback", "kasushou query", PUSH}
    assert {span.parent for span in others} == {create.span}
    assert {span["order_id"] for span in others} == {order_id}
    [placed] = [span for span in spans if span.name == "kasushou place"]
    assert (placed["account"], placed["operation"], placed["outcome"]) == ("kasushou", "place", "Accepted")
    [purchase] = {span["purchase"] for span in spans if "reward.purchase" in span.attributes}
    assert [bought["number"] for bought in sandbox.books("kasushou")["orders"]] == [purchase]
    messages = sorted((span for span in spans if span.name == PUSH), key=lambda span: span["version"])
    assert [span["version"] for span in messages] == [1, 2, 3]
    assert len(states) == 3
    [streamed] = collector.named(STREAM)
    assert streamed.trace != TRACE
    assert {span.links for span in messages} == {(streamed.span,)}
    assert not any(span.events for span in collector.spans)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> str:
    """The lines of [store]."""
    if request.param == "sqlite":
        return ""
    return f'url = "{request.getfixturevalue("store_url")}"\nlease_seconds = 1'


async def test_the_trace_goes_on_after_a_kill_and_a_restart(store: str, tmp_path: Path) -> None:
    """The order remembers it: a purchase that is sent, and an update that is pushed, by the next process."""
    suppliers = free_port()
    async with collecting() as collector:
        place = Place(
            folder=tmp_path,
            sandbox_url=f"http://127.0.0.1:{suppliers}",
            kinds=("kasushou",),
            extra=collector.extra,
            store=store,
        )
        async with ServerProcess(place) as server:
            async with caller(place.grpc_port) as shop:
                created = await shop.create("kasushou/card", "o-1")
            await collector.until(lambda: collector.named(CREATE) and collector.named("kasushou place"))
            [create] = collector.named(CREATE)
            unsent = collector.named("kasushou place")
            await server.kill()
            async with Sandbox(SandboxSettings(port=suppliers, step_seconds=0.05)):
                await server.start()
                async with caller(place.grpc_port) as reader:
                    stream = reader.stream(start=STREAM_START_AFTER, resume_token=created.resume_token)
                    while (await stream.read()).update.order.state != order_pb2.ORDER_STATE_FULFILLED:
                        pass
                    stream.cancel()
                await collector.until(lambda: collector.named(PUSH, order_state="fulfilled"))
                assert await server.stop() == 0
    assert {span["outcome"] for span in unsent} == {"NotSent"}
    assert all(span.failed for span in unsent)
    sent = [span for span in collector.named("kasushou place") if span["outcome"] == "Accepted"]
    [fulfilled] = collector.named(PUSH, order_state="fulfilled")
    for span in (*unsent, *sent, *collector.named("kasushou query"), fulfilled):
        assert (span.trace, span.parent, span["order_id"]) == (create.trace, create.span, created.order.order_id)
    assert len(sent) == 1


@pytest.mark.timeout(600)
async def test_no_secret_is_in_any_span(tmp_path: Path) -> None:
    """Scenarios of all suppliers, streams, decisions, intruders, talkative suppliers: no card, key, token, signature or
    recipient, in whatever spelling, in any byte that a collector is sent.
    """
    played = scenarios(0, 2)
    async with collecting() as collector:

        def traced(place: Place) -> ServerProcess:
            return ServerProcess(dataclasses.replace(place, extra=place.extra + collector.extra))

        async with running(tmp_path, played, serve=traced) as run:
            await play(run, played)
            async with caller(run.server.place.grpc_port, run.keys["shop"]) as shop:
                await refused(order(shop, "o", "nonsense", traceparent=SAMPLED, **UNHEARD))
            secrets, raw_secrets, spoken = run.secrets(), run.raw_secrets(), run.spoken_secrets()
            assert await run.server.stop() == 0
    operations = {str(span["operation"]) for span in collector.spans if "reward.operation" in span.attributes}
    assert operations >= {"place", "query", "callback", "token", "balance", "cancel", "form", "products"}
    assert len(collector.named(PUSH)) > len(played)
    assert collector.of(TRACE)
    # The search is sharp: what is meant to be there is found.
    assert str(collector.named(PUSH)[0]["order_id"]).encode() in collector.raw
    seen = {"the spans": bytes(collector.raw)}
    Search({**secrets, **RECIPIENTS, **UNHEARD}, exact=raw_secrets).assert_clean(seen)
    Search({}, exact=spoken).assert_clean(seen)
    # Nor any text that isn't one of the few kinds that are meant.
    keys = {key for span in collector.spans for key in span.attributes}
    assert keys == {
        "reward.account", "reward.client", "reward.operation", "reward.order_id", "reward.order_state",
        "reward.outcome", "reward.purchase", "reward.request_id", "reward.version",
        "rpc.method", "rpc.response.status_code", "rpc.system.name",
    }  # fmt: skip
    assert not any(span.events for span in collector.spans)


async def test_the_caller_decides_whether_its_call_is_traced(tmp_path: Path) -> None:
    """By the flag of its `traceparent`; where it has none, the share does."""
    async with collecting() as collector:
        extra = f"{collector.extra}sample_ratio = 0\n"
        async with service(tmp_path, kinds=("kasushou",), extra=extra) as it:
            silent = (await it.client.create("kasushou/card", "o-1")).order.order_id
            async with caller(it.place.grpc_port) as asking:
                for said in (UNSAMPLED, "00-canary"):
                    created = await order(asking, said, traceparent=said)
                    await it.client.until(created.order.order_id)
                wanted = (await order(asking, "o-2", traceparent=SAMPLED)).order.order_id
            await it.client.until(silent)
            await collector.until(lambda: collector.named("kasushou query", order_id=wanted))
    assert {span.trace for span in collector.spans} == {TRACE}
    assert {span["order_id"] for span in collector.spans} == {wanted}


async def test_a_request_id_is_in_the_span_only_if_a_program_made_it(tmp_path: Path) -> None:
    """Ours, a UUID, a hex number or a ULID, by the look of it; a caller may send a key or a name as well."""
    made = {"4bf92f3577b34da6", "3F2504E0-4F89-11D3-9A0C-0305E82C3301", "01M80ZTTV2EREBY3XB1849TX9V"}
    others = {"shop-order-4711", "rk_live_8d7f9a0b1c2d3e4f", "somebody@example.com", "13800138000", "beef", "A" * 37}
    async with collecting() as collector, service(tmp_path, kinds=("kasushou",), extra=collector.extra) as it:
        for number, sent in enumerate((*made, *others)):
            await order(it.client, f"o-{number}", **{"x-request-id": sent})
        await collector.until(lambda: len(collector.named(CREATE)) == len(made) + len(others))
    said = {span.attributes.get("reward.request_id") for span in collector.named(CREATE)}
    assert said - {None} >= made
    assert None in said
    assert not said & others
    for sent in others:
        assert sent == "beef" or sent.encode() not in collector.raw


async def test_a_repeated_call_leads_to_the_trace_of_the_first(tmp_path: Path) -> None:
    """The order stays in the trace of the call that made it; calls about it later have a link there."""
    async with collecting() as collector, service(tmp_path, kinds=("kasushou",), extra=collector.extra) as it:
        order_id = (await it.client.create("kasushou/card", "o-1")).order.order_id
        await it.client.until(order_id)
        async with caller(it.place.grpc_port) as again:
            assert (await order(again, "o-1", traceparent=SAMPLED)).replayed
        await it.client.get(order_id)
        await collector.until(lambda: len(collector.named(CREATE)) == 2)
        await collector.until(lambda: collector.named("rewardservice.v1.RewardService/GetOrder"))
    [second] = collector.of(TRACE)
    [first] = [span for span in collector.named(CREATE) if span is not second]
    [read] = collector.named("rewardservice.v1.RewardService/GetOrder")
    assert second.links == read.links == (first.span,)
    assert {span.trace for span in collector.named("kasushou place")} == {first.trace}


async def test_errors_and_strangers(tmp_path: Path) -> None:
    """A refused call has its code; whoever isn't a client leaves no span."""
    async with collecting() as collector, service(tmp_path, kinds=("kasushou",), extra=collector.extra) as it:
        await refused(it.client.create("nonsense", "o-1"))
        async with caller(it.place.grpc_port, "no-key") as stranger:
            await refused(stranger.create("kasushou/card", "o-2"))
        await collector.until(lambda: collector.named(CREATE))
    [span] = collector.named(CREATE)
    assert span.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert not span.failed


@pytest.mark.timeout(300)
async def test_a_collector_that_is_away_costs_spans_and_nothing_else(tmp_path: Path) -> None:
    """Orders are bought and pushed, the log says it once and once more when the collector is there."""
    port = free_port()

    def told(server: ServerProcess, event: str) -> list[dict[str, Any]]:
        lines = map(json.loads, server.output.read_text().splitlines())
        return [line for line in lines if line["event"] == event]

    async with Sandbox(SandboxSettings(port=0, step_seconds=0.05)) as sandbox:
        place = Place(folder=tmp_path, sandbox_url=sandbox.url, kinds=("kasushou",), extra=Collector(port).extra)
        async with ServerProcess(place) as server, caller(place.grpc_port) as client:
            async with asyncio.timeout(60):
                number = 0
                while len(told(server, "traces don't reach the collector")) < 1 or number < 30:
                    number += 1
                    await client.until((await order(client, f"o-{number}")).order.order_id)
                async with collecting(port) as collector:
                    await collector.until(lambda: collector.spans)
                    while not told(server, "traces reach the collector again"):
                        number += 1
                        await order(client, f"o-{number}")
            # Away again, in the middle of it.
            assert await server.stop() == 0
            assert len(told(server, "traces don't reach the collector")) == 1
            assert not [line for line in map(json.loads, server.output.read_text().splitlines()) if "logger" in line]


async def test_a_span_that_cant_be_made_is_left_out() -> None:
    """What calls is in the middle of an order."""
    spans = Spans(f"http://127.0.0.1:{free_port()}", 1.0, release="0")
    key = PurchaseKey("shop", "order", "number")
    assert spans.exchanged("kasushou", "a", "place", "Accepted", 0.1, key=key, traceparent="nonsense") is None
    await spans.close()


OFF = """
import asyncio, pathlib, sys
from service.harness import service

async def main():
    async with service(pathlib.Path(sys.argv[1]), kinds=("kasushou",)) as it:
        order = (await it.client.create("kasushou/card", "o-1")).order
        await it.client.until(order.order_id)
        assert await it.app.store.order("dev", order.order_id)
        print((await it.app.store.order("dev", order.order_id)).traceparent == "")

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry") or name == "reward_server.spans"])
"""


def test_off_nothing_is_imported_and_nothing_is_remembered(tmp_path: Path) -> None:
    """A server that takes, buys and streams an order doesn't know what OpenTelemetry is."""
    done = subprocess.run(
        [sys.executable, "-c", OFF, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split("\n")[-3:] == ["True", "[]", ""], done.stderr[-2000:]


async def test_without_the_packages_the_start_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is served without the traces that somebody wants."""
    lacking = tmp_path / "lacking"
    await asyncio.to_thread(lacking.mkdir)
    await asyncio.to_thread((lacking / "opentelemetry.py").write_text, "raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", str(lacking))
    place = Place(folder=tmp_path, sandbox_url="http://127.0.0.1:1", extra=Collector(1).extra)
    server = ServerProcess(place)
    await server.start(probe=False)
    assert server.process is not None
    assert await server.process.wait() == 1
    assert "pip install 'reward-service[otel]'" in server.output.read_text()


@pytest.mark.parametrize(
    "endpoint",
    ["127.0.0.1:4317", "http://127.0.0.1", "http://a:b@127.0.0.1:4317", "http://127.0.0.1:4317/v1", "grpc://x:1", "http://x:y"],
)  # fmt: skip
def test_a_collectors_address_is_scheme_host_and_port(endpoint: str, tmp_path: Path) -> None:
    """No path, which the protocol has no use for, and no password, which would stand in logs."""
    place = Place(folder=tmp_path, sandbox_url="http://127.0.0.1:1", extra=f'[tracing]\nendpoint = "{endpoint}"\n')
    with pytest.raises(ConfigError, match=r"tracing\.endpoint") as caught:
        load_settings(place.write(), {})
    assert "a:b" not in caught.value.report()


async def test_orders_from_before_there_were_traces_can_be_read(tmp_path: Path) -> None:
    """And those of now by programs of then, which leave out what they don't know."""
    async with service(tmp_path, kinds=("kasushou",)) as it:
        order_id = (await it.client.create("kasushou/card", "o-1")).order.order_id
        stored = await it.app.store.order("dev", order_id)
    assert stored is not None
    body = encode_order(stored)
    former = body.replace(b',"traceparent":""', b"")
    assert len(former) < len(body)
    assert decode_order(former) == stored
    assert decode_order(body.replace(b'"traceparent":', b'"from_later":')) == stored
