"""The service as shipped with a stopwatch at the entrance of each stage, for `stages`; a process of its own.

Stages are functions, or the steps of a task (with ":" behind their names), and what is measured is the CPU time of
their thread, so that a busy machine changes little. Time of a stage that runs inside another one is taken off the outer
one. The stopwatch costs some 3 µs each time.
"""

import asyncio
import functools
import importlib
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from reward_bench.serving import answer, commands
from reward_server.app import App
from reward_server.config import load_settings
from reward_server.logs import configure_logs

STAGES = (
    # (stage, module, attribute)
    ("read metadata", "reward_server.rpc.interceptor", "_read_metadata"),
    ("find the caller", "reward_server.access", "Access.authenticate"),
    ("metrics", "reward_server.metrics", "Metrics.rpc_started"),
    ("metrics", "reward_server.metrics", "Metrics.rpc_finished"),
    ("metrics", "reward_server.metrics", "Metrics.order_moved"),
    ("metrics", "reward_server.metrics", "Metrics.store_committed"),
    ("metrics", "reward_server.metrics", "Metrics.supplier_called"),
    ("check its shape", "reward_server.rpc.validation", "create_request"),
    ("make the order", "reward_server.engine.engine", "check_against_product"),
    ("make the order", "reward_server.engine.engine", "make_order"),
    ("make the order", "reward_server.engine.engine", "Engine._intend_at_once"),
    ("encode the order", "reward_server.store.sqlite.store", "encode_order"),
    ("hand over to the store", "reward_server.store.sqlite.group", "GroupCommit.submit"),
    ("statements", "reward_server.store.sqlite.writing", "create"),
    ("statements", "reward_server.store.sqlite.writing", "save"),
    ("commit, in its thread", "reward_server.store.sqlite.group", "GroupCommit._commit_now"),
    ("tell the hub", "reward_server.store.sqlite.group", "GroupCommit._announce"),
    ("log lines", "reward_server.logs", "log"),
    ("queue the purchase", "reward_server.engine.engine", "Engine._track"),
    ("build the answer", "reward_server.rpc.reward_service", "order_message"),
    ("resume token", "reward_server.resume", "Tokens.resume_token"),
    ("adapter", "reward_adapters.kaquan91_card", "Kaquan91Card.place"),
    ("adapter", "reward_adapters.kasushou", "Kasushou.place"),
    ("adapter", "reward_adapters.kasushou", "Kasushou.query"),
    ("adapter", "reward_adapters.kasushou", "Kasushou.read_callback"),
    ("adapter", "reward_server.engine.dispatch", "Dispatcher._read"),
    ("table of moves", "reward_server.domain.moves", "advance"),
    ("table of moves", "reward_server.domain.moves", "intend"),
    ("sealing", "reward_server.sealing", "ClientSealer.seal_card"),
    ("sealing", "reward_server.sealing", "ClientSealer.card_print"),
    ("opening for the stream", "reward_server.sealing", "ClientSealer.open_card"),
    ("encode the update", "reward_server.rpc.cards", "UpdateEncoder.encode"),
    # Tasks: what is left of each of their steps when the stages above are taken off.
    ("around the call", "reward_server.rpc.reward_service", "RewardService.CreateOrder:"),
    ("around the engine", "reward_server.engine.engine", "Engine._create:"),
    ("around the engine", "reward_server.engine.dispatch", "Dispatcher._hold_slot:"),
    ("around a batch", "reward_server.store.sqlite.group", "GroupCommit._run:"),
    ("HTTP to the supplier", "reward_server.engine.exchange", "Exchanges._exchange:"),
    ("write to streams", "reward_server.rpc.streaming", "UpdateStream.run:"),
)


class Stopwatch:
    """What each stage took, without what ran inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._here = threading.local()

    @contextmanager
    def running(self, stage: str) -> Iterator[None]:
        """Times what runs inside."""
        here, clock = self._here, time.thread_time
        outer = getattr(here, "inside", 0.0)
        here.inside = 0.0
        begun = clock()
        try:
            yield
        finally:
            took = clock() - begun
            self.seconds[stage] += took - here.inside
            here.inside = outer + took

    def around(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""
        self.seconds.setdefault(stage, 0.0)

        @functools.wraps(work)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.running(stage):
                return work(*args, **kwargs)

        return timed

    def around_steps(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The coroutine function, with every step of its coroutines timed."""
        self.seconds.setdefault(stage, 0.0)

        @types.coroutine
        def steps(coroutine: Any) -> Any:
            step, given = coroutine.send, None
            while True:
                try:
                    with self.running(stage):
                        waits_for = step(given)
                except StopIteration as end:
                    return end.value
                try:
                    step, given = coroutine.send, (yield waits_for)
                except BaseException as error:
                    step, given = coroutine.throw, error

        @functools.wraps(work)
        async def timed(*args: Any, **kwargs: Any) -> Any:
            return await steps(work(*args, **kwargs))

        return timed


def put_in_place(watch: Stopwatch) -> None:
    """Replaces every stage by its timed self; a stage that isn't there any more is an error."""
    for stage, module_name, path in STAGES:
        owner: Any = importlib.import_module(module_name)
        *holders, name = path.removesuffix(":").split(".")
        for holder in holders:
            owner = getattr(owner, holder)
        if path == "log":
            _time_logs(watch, stage)
        elif path.endswith(":"):
            setattr(owner, name, watch.around_steps(stage, getattr(owner, name)))
        else:
            setattr(owner, name, watch.around(stage, getattr(owner, name)))


def _time_logs(watch: Stopwatch, stage: str) -> None:
    import structlog  # noqa: PLC0415 - only here

    base: Any = structlog.BoundLoggerBase
    base._proxy_to_logger = watch.around(stage, base._proxy_to_logger)  # noqa: SLF001 - all lines come through it


async def serve(config: Path) -> None:
    """Serves until its input ends; `stages` empties the stopwatch and tells what was on it."""
    settings = load_settings(config, {})
    configure_logs("info", "json", sys.stderr)
    watch = Stopwatch()
    put_in_place(watch)
    app = App(settings)
    await app.start()
    answer("ready")
    async for command in commands():
        if command == ["stages"]:
            answer(watch.seconds)
            watch.seconds.update(dict.fromkeys(watch.seconds, 0.0))


def main() -> None:
    """Serves."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
