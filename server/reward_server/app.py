"""Builds the server out of its parts, and owns its beginning and its end."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web

from reward_server.access import Access
from reward_server.catalogue import Catalogue
from reward_server.clock import Clock
from reward_server.config import Address, GrpcSettings, Settings, StoreSettings
from reward_server.domain.ids import IdSource
from reward_server.engine.account import Account, AccountPlan
from reward_server.engine.engine import Engine
from reward_server.engine.inquiries import Inquiries
from reward_server.http import add_ops, callback_app
from reward_server.hub import Hub
from reward_server.metrics import Metrics
from reward_server.pruning import Pruner
from reward_server.resume import Tokens
from reward_server.rpc.cards import CardReader, UpdateEncoder
from reward_server.rpc.catalog_service import CatalogService
from reward_server.rpc.interceptor import RpcInterceptor
from reward_server.rpc.operator_service import OperatorService
from reward_server.rpc.reward_service import RewardService
from reward_server.rpc.server import TlsFiles, build_server
from reward_server.rpc.streaming import StreamParts
from reward_server.sealing import SealError, Vault
from reward_server.store import Store, StoreBroken, StoreError
from reward_server.store.open import open_store

log = structlog.get_logger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1

RESUME_KEY = "resume_token"
"""Name of the secret that authenticates resume and page tokens."""


class StartError(Exception):
    """The server can't start; the message says why and what to do."""


class App:
    """One running server."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or Clock()
        self.metrics = Metrics()
        self.failed = asyncio.Event()
        """Set when the server must end: its store can't be trusted any more."""
        self._ready = "starting"
        self._background: list[asyncio.Task[None]] = []
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Opens the store, takes the ports, goes on with open purchases, and serves. Raises StartError."""
        settings = self._settings
        try:
            self.store: Store = await open_store(settings.store.url, **_shared_options(settings.store))
        except StoreError as error:
            raise StartError(str(error)) from None
        try:
            await self._build()
            await self._serve_http()
            await self.engine.start()
            await self.rpc.start()
        except SealError as error:
            await self.close()
            raise StartError(str(error)) from None
        except BaseException:
            await self.close()
            raise
        pruner = Pruner(
            self.store,
            (client.client_id for client in settings.clients),
            retention_days=settings.stream.retention_days,
            clock=self._clock,
        )
        work = (self._watch_store(), pruner.run(), self.inquiries.keep_balances(), self.inquiries.keep_forms())
        self._background = [asyncio.create_task(each) for each in work]
        for task in self._background:
            task.add_done_callback(self._background_ended)
        self._ready = ""
        log.info(
            "ready",
            grpc=str(settings.grpc.bind),
            http=str(settings.http.bind),
            suppliers=len(settings.accounts),
            products=len(settings.products),
        )

    async def _build(self) -> None:
        settings = self._settings
        self.store.on_commit(self.metrics.store_committed)
        self.store.listen(lambda updates: self.metrics.updates_published.inc(len(updates)))
        vault = await Vault.unlock(self.store, settings.master_keys)
        catalogue = Catalogue(settings.products)
        accounts = {
            name: Account(
                AccountPlan(
                    name=name,
                    adapter=account.adapter,
                    traits=account.traits,
                    max_in_flight=account.max_in_flight,
                    answer_patience=account.answer_patience,
                    submit_window=account.submit_window,
                    max_calls_per_second=account.max_calls_per_second,
                    notify_url=f"{settings.callback_url}/{name}" if settings.callback_url else None,
                ),
                account.supplier,
                store=self.store,
                sealer=vault.system,
                clock=self._clock,
                metrics=self.metrics,
            )
            for name, account in settings.accounts.items()
        }
        self.engine = Engine(
            store=self.store,
            vault=vault,
            catalogue=catalogue,
            accounts=accounts,
            clock=self._clock,
            new_id=IdSource(self._clock.now_ms),
            metrics=self.metrics,
        )
        self.engine.on_failure(self._task_failed)
        self.inquiries = Inquiries(accounts, catalogue, clock=self._clock, metrics=self.metrics)
        tokens = Tokens(await vault.secret(RESUME_KEY))
        cards = CardReader(self.store, vault)
        self.hub = Hub(self.store, UpdateEncoder(cards, tokens))
        parts = StreamParts(
            store=self.store, hub=self.hub, tokens=tokens, cards=cards, metrics=self.metrics, now_ms=self._clock.now_ms
        )
        grpc = settings.grpc
        try:
            self.rpc = build_server(
                address=str(grpc.bind),
                reward_service=RewardService(
                    self.engine, parts, default_heartbeat=float(settings.stream.heartbeat_seconds)
                ),
                catalog_service=CatalogService(catalogue, self.engine, tokens),
                operator_service=OperatorService(
                    inquiries=self.inquiries,
                    reviews=self.engine.reviews,
                    store=self.store,
                    opener=vault.system,
                    tokens=tokens,
                    cards=cards,
                ),
                interceptor=RpcInterceptor(Access(settings.clients), self.metrics, grpc.max_message_bytes),
                hub=self.hub,
                max_message_bytes=grpc.max_message_bytes,
                reflection=grpc.serves_reflection,
                tls=_tls(grpc),
            )
        except OSError as error:
            raise port_error("grpc.bind", grpc.bind, error) from None

    async def _serve_http(self) -> None:
        settings = self._settings
        app = callback_app(self.engine, settings.callbacks.max_body_bytes)
        if settings.ops_address is None:
            add_ops(app, self.metrics, lambda: self._ready)
        else:
            ops = web.Application()
            add_ops(ops, self.metrics, lambda: self._ready)
            await self._listen(ops, settings.ops_address, "ops.bind")
        await self._listen(app, settings.http.bind, "http.bind")

    async def _listen(self, app: web.Application, address: Address, key: str) -> None:
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        self._runners.append(runner)
        try:
            await web.TCPSite(runner, address.host, address.port).start()
        except OSError as error:
            raise port_error(key, address, error) from None

    async def _watch_store(self) -> None:
        await self.store.broken.wait()
        log.critical("the store failed: ending, so that a restart can recover from the disk")
        self.failed.set()

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._task_failed(error)

    def _task_failed(self, error: BaseException) -> None:
        if isinstance(error, StoreBroken):
            self.failed.set()
            return
        self.metrics.alert("defect")
        log.error("a task failed", exc_info=error)

    async def drain(self) -> None:
        """Takes no new orders, ends the streams with their resume tokens, and waits for what is being sent."""
        log.info("draining")
        self._ready = "draining"
        seconds = self._settings.grpc.drain_seconds
        await asyncio.gather(self._drain_rpc(seconds), self.engine.drain())

    async def _drain_rpc(self, seconds: float) -> None:
        await self.rpc.drain(seconds)
        await self.rpc.stop(seconds)

    async def close(self) -> None:
        """Ends what is left. Open purchases go on at the next start."""
        for task in self._background:
            task.cancel()
        if hasattr(self, "rpc"):
            await self.rpc.stop(0)
        for runner in self._runners:
            await runner.cleanup()
        if hasattr(self, "inquiries"):
            await self.inquiries.close()
        if hasattr(self, "engine"):
            await self.engine.close()
        with contextlib.suppress(StoreError):
            await self.store.close()


def _shared_options(store: StoreSettings) -> dict[str, Any]:
    """What a database that others may use too needs to know besides."""
    return {
        "lease_seconds": store.lease_seconds,
        "poll_seconds": store.poll_seconds,
        "connections": store.connections,
        "behind_pooler": store.behind_pooler,
    }


def _tls(grpc: GrpcSettings) -> TlsFiles | None:
    if grpc.tls_certificate_file is None or grpc.tls_key_file is None:
        return None
    return TlsFiles(grpc.tls_certificate_file, grpc.tls_key_file)


def port_error(key: str, address: Address, error: OSError | RuntimeError) -> StartError:
    """What to do when an address can't be listened on."""
    return StartError(
        f"{key}: can't listen on {address}: {getattr(error, 'strerror', None) or error}. "
        "Is another server running? Stop it, or configure another port."
    )


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code. A second signal ends at once."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop where it is installed (it isn't on Windows)."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            # Whatever is under way is on disk as what it is; the next start goes on from there.
            os._exit(EXIT_FAILED)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    app = App(settings)
    try:
        await app.start()
    except StartError as error:
        print(f"reward-server: {error}", file=sys.stderr)  # noqa: T201 - told to whoever started it, log or not
        return EXIT_FAILED
    waiting = [asyncio.create_task(event.wait()) for event in (stop, app.failed)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    if not app.failed.is_set():
        await app.drain()
    await app.close()
    log.info("stopped")
    return EXIT_FAILED if app.failed.is_set() else EXIT_OK
