"""Builds the server out of its parts, and owns its beginning and its end."""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from typing import Any

import structlog
from aiohttp import web

from reward_server.access import Access
from reward_server.auditing import AuditLog
from reward_server.catalogue import Catalogue
from reward_server.clock import Clock
from reward_server.config import Address, GrpcSettings, JwtSettings, Settings, StoreSettings
from reward_server.domain.ids import IdSource
from reward_server.engine.account import Account, AccountPlan
from reward_server.engine.engine import Engine
from reward_server.engine.inquiries import Inquiries
from reward_server.erasing import Eraser
from reward_server.gauging import Gauging
from reward_server.guard import Guard
from reward_server.http import add_ops, callback_app, runner
from reward_server.hub import Hub
from reward_server.jwts import Issuer, Verifier
from reward_server.keyring import Keyring
from reward_server.metrics import Metrics
from reward_server.processes import EXIT_FAILED, EXIT_OK, Lifeline, cannot_listen
from reward_server.pruning import Pruner
from reward_server.reloading import Reloader
from reward_server.resume import Tokens
from reward_server.rpc.cards import CardReader, UpdateEncoder
from reward_server.rpc.catalog_service import CatalogService
from reward_server.rpc.channelz import ChannelzMissing, serve_channelz
from reward_server.rpc.interceptor import RpcInterceptor
from reward_server.rpc.operator_service import OperatorService
from reward_server.rpc.reward_service import RewardService
from reward_server.rpc.server import TlsFiles, build_server
from reward_server.rpc.streaming import StreamParts
from reward_server.sealing import SealError, Vault
from reward_server.store import Store, StoreBroken, StoreError
from reward_server.store.open import open_store
from reward_server.store.quotas import NO_QUOTA, Quota
from reward_server.tracing import Traces, TracingMissing, open_traces

log = structlog.get_logger(__name__)

YOUNG_OBJECTS = 10_000
"""Made since the last search for cycles when the next begins."""

REACH_SECONDS = 0.5
"""How often it is looked whether the store still answers."""

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
        self._verifier: Verifier | None = None
        self._traces: Traces | None = None
        self._use_clients(settings)
        self.access = Access(settings.clients, now_ms=self._clock.now_ms)
        self._reloader = Reloader(settings, self._take_over, self._recheck)

    async def start(self) -> None:
        """Opens the store, takes the ports, goes on with open purchases, and serves. Raises StartError."""
        settings = self._settings
        try:
            self.store: Store = await open_store(settings.store.url, **_shared_options(settings.store))
        except StoreError as error:
            raise StartError(str(error)) from None
        try:
            self._open_traces()
            await self._build()
            self.audit.start(f"release {version('reward-service')}")
            await self._serve_http()
            await self.engine.start()
            await self.rpc.start()
            await self._serve_channelz()
        except SealError as error:
            await self.close()
            raise StartError(str(error)) from None
        except BaseException:
            await self.close()
            raise
        self._pruner = Pruner(
            self.store,
            self._quotas,
            retention_days=settings.stream.retention_days,
            clock=self._clock,
        )
        work = (
            self._watch_store(),
            self._watch_reach(),
            self._pruner.run(),
            self.keyring.run(),
            self.inquiries.keep_balances(),
            self.inquiries.keep_forms(),
            self._reloader.run(),
            Gauging(self.store, self.metrics, clock=self._clock).run(),
        )
        for each in work:
            self._spawn(each)
        if (days := settings.cards.erase_after_days) is not None:
            self._spawn(self._eraser(days).run())
        self._ready = ""
        log.info(
            "ready",
            grpc=str(settings.grpc.bind),
            http=str(settings.http.bind),
            suppliers=len(settings.accounts),
            products=len(settings.products),
        )

    def _open_traces(self) -> None:
        tracing = self._settings.tracing
        try:
            self._traces = open_traces(tracing.endpoint, tracing.sample_ratio, release=version("reward-service"))
        except TracingMissing as error:
            raise StartError(str(error)) from None

    def _eraser(self, days: int) -> Eraser:
        return Eraser(
            self.store,
            self.audit,
            after_days=days,
            clock=self._clock,
            forget=self.hub.forget_cards,
            counted=self.metrics.sealed,
        )

    async def _build(self) -> None:
        settings = self._settings
        self.metrics.watch_readiness(self._not_ready)
        self.store.on_commit(self.metrics.store_committed)
        self.store.listen(lambda updates: self.metrics.updates_published.inc(len(updates)))
        vault = await Vault.unlock(self.store, settings.master_keys, self.metrics.sealed)
        self.audit = AuditLog(self.store, self.metrics, now_ms=self._clock.now_ms)
        self.keyring = Keyring(self.store, vault, clock=self._clock, counted=self.metrics.sealed)
        await self.keyring.check()
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
                    base_url=getattr(account.config, "base_url", None),
                ),
                account.supplier,
                store=self.store,
                sealer=vault.system,
                clock=self._clock,
                metrics=self.metrics,
                traces=self._traces,
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
            quota_of=lambda client_id: self._quotas.get(client_id, NO_QUOTA),
        )
        self.engine.on_failure(self._task_failed)
        self.inquiries = Inquiries(accounts, catalogue, clock=self._clock, metrics=self.metrics)
        tokens = Tokens(await vault.secret(RESUME_KEY))
        cards = CardReader(self.store, vault)
        self.hub = Hub(self.store, UpdateEncoder(cards, tokens))
        self.metrics.watch_streams(self.hub.lag)
        parts = StreamParts(
            store=self.store,
            hub=self.hub,
            tokens=tokens,
            cards=cards,
            audit=self.audit,
            metrics=self.metrics,
            now_ms=self._clock.now_ms,
            stream_seconds=settings.grpc.max_connection_age_seconds,
        )
        grpc = settings.grpc
        self._take_issuer(settings)
        self._interceptor = RpcInterceptor(self.access, self.metrics, grpc.max_message_bytes, traces=self._traces)
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
                    keyring=self.keyring,
                ),
                interceptor=self._interceptor,
                hub=self.hub,
                max_message_bytes=grpc.max_message_bytes,
                max_connection_age=grpc.max_connection_age_seconds,
                reflection=grpc.serves_reflection,
                tls=_tls(grpc),
                client_address=str(grpc.tls_client_bind) if grpc.tls_client_bind else None,
                share_ports=settings.shares_ports,
            )
        except OSError as error:
            raise port_error("grpc.bind", grpc.bind, error) from None

    def reload(self) -> None:
        """Reads the configuration again, soon: what can change while the server runs is taken over."""
        self._reloader.ask()

    def _take_over(self, settings: Settings) -> None:
        self._use_clients(settings)
        self._take_issuer(settings)
        self._pruner.use(self._quotas)
        self._spawn(self.keyring.take(settings.master_keys))
        if (tls := _tls(settings.grpc)) is not None:
            self.rpc.use_certificates(tls)

    def _use_clients(self, settings: Settings) -> None:
        self._quotas = {
            client.client_id: Quota(client.limits.orders_in_flight, client.limits.spend_per_day)
            for client in settings.clients
        }

    def _take_issuer(self, settings: Settings) -> None:
        """Takes over the clients with what shows them; the verifier stays as long as its issuer does."""
        former, issuer = self._verifier, _issuer(settings.jwt)
        if former is not None and former.issuer == issuer:
            # Its keys may be what changed.
            self._spawn(former.refresh())
        else:
            self._verifier = None if issuer is None else Verifier(issuer, clock=self._clock)
            if self._verifier is not None:
                self._verifier.start()
            if former is not None:
                self._spawn(former.close())
        self.access.use(settings.clients, self._verifier)

    def _recheck(self) -> None:
        self._interceptor.recheck()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.append(task)
        task.add_done_callback(self._background_ended)
        task.add_done_callback(self._background.remove)

    async def _serve_http(self) -> None:
        settings = self._settings
        callbacks = settings.callbacks
        guard = Guard(
            networks={name: account.callback_networks for name, account in settings.accounts.items()},
            trusted_proxies=callbacks.trusted_proxies or (),
            max_per_second=callbacks.max_per_second_per_source,
            now=self._clock.monotonic,
        )
        app = callback_app(self.engine, callbacks.max_body_bytes, guard=guard, metrics=self.metrics)
        if settings.ops_address is None:
            add_ops(app, self.metrics, self._not_ready)
        else:
            ops = web.Application()
            add_ops(ops, self.metrics, self._not_ready)
            await self._listen(ops, settings.ops_address, "ops.bind")
        await self._listen(app, settings.http.bind, "http.bind", share=settings.shares_ports)

    async def _serve_channelz(self) -> None:
        if (address := self._settings.channelz_address) is None:
            return
        try:
            self._channelz = await serve_channelz(str(address))
        except ChannelzMissing as error:
            raise StartError(str(error)) from None
        except RuntimeError as error:
            raise port_error("ops.channelz", address, error) from None

    def _not_ready(self) -> str:
        """Why calls had better go elsewhere; "" when they are welcome."""
        return self._ready or self.store.trouble

    async def _listen(self, app: web.Application, address: Address, key: str, *, share: bool = False) -> None:
        running = runner(app)
        await running.setup()
        self._runners.append(running)
        try:
            await web.TCPSite(running, address.host, address.port, reuse_port=share).start()
        except OSError as error:
            raise port_error(key, address, error) from None

    async def _watch_store(self) -> None:
        await self.store.broken.wait()
        log.critical("the store failed: ending, so that a restart can recover from the disk")
        self.failed.set()

    async def _watch_reach(self) -> None:
        """Sends clients elsewhere while the store doesn't answer: here they would wait for what doesn't come."""
        away = False
        while True:
            await asyncio.sleep(REACH_SECONDS)
            if self.store.cut_off is away or self._ready:
                continue
            away = not away
            log.warning("the store doesn't answer: clients are sent away" if away else "the store answers again")
            self.hub.send_away(away)
            await self.rpc.set_serving(not away)

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
        if self._verifier is not None:
            await self._verifier.close()
        if hasattr(self, "rpc"):
            await self.rpc.stop(0)
        if hasattr(self, "_channelz"):
            await self._channelz.stop(0)
        for running in self._runners:
            await running.cleanup()
        if hasattr(self, "inquiries"):
            await self.inquiries.close()
        if hasattr(self, "engine"):
            await self.engine.close()
        if hasattr(self, "audit"):
            # After the streams: their last entries are written, and end the chain.
            await self.audit.close()
        with contextlib.suppress(StoreError):
            await self.store.close()
        if self._traces is not None:
            await self._traces.close()


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
    return TlsFiles(grpc.tls_certificate_file, grpc.tls_key_file, grpc.tls_client_ca_file)


def _issuer(jwt: JwtSettings) -> Issuer | None:
    if jwt.issuer is None or jwt.audience is None:
        return None
    return Issuer(
        issuer=jwt.issuer,
        audience=jwt.audience,
        jwks_file=jwt.jwks_file,
        jwks_url=jwt.jwks_url,
        client_claim=jwt.client_claim,
        leeway=jwt.leeway_seconds,
        refresh=jwt.refresh_seconds,
    )


def port_error(key: str, address: Address, error: OSError | RuntimeError) -> StartError:
    """What to do when an address can't be listened on."""
    return StartError(cannot_listen(key, address, error))


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code. A second signal ends at once."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(settings))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Makes uvloop's loop where that is installed (it isn't on Windows); None: asyncio's own serves as well."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.new_event_loop


def _calm_the_collector() -> None:
    """Python looks for cycles after every 700 new objects, which is every few orders, and walks through all that lives.

    Orders hold no cycles: what the start made is left out of the search, and the rest is searched less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)


async def _serve(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    stop, signalled = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if signalled.is_set():
            # Whatever is under way is on disk as what it is; the next start goes on from there.
            os._exit(EXIT_FAILED)
        signalled.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    app = App(settings)
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, app.reload)
    line = Lifeline() if settings.process is not None else None
    if line is not None:
        # No signal is counted for it: whoever signals the parent may signal this process, too.
        line.follow(reload=app.reload, stop=stop.set)
    try:
        await app.start()
        _calm_the_collector()
    except StartError as error:
        print(f"reward-server: {error}", file=sys.stderr)  # noqa: T201 - told to whoever started it, log or not
        return EXIT_FAILED
    if line is not None:
        line.tell_serving()
    waiting = [asyncio.create_task(event.wait()) for event in (stop, app.failed)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    if not app.failed.is_set():
        await app.drain()
    await app.close()
    log.info("stopped")
    return EXIT_FAILED if app.failed.is_set() else EXIT_OK
