"""The HTTP side: suppliers' callbacks, and metrics and probes for operators.

A callback that isn't a supplier's gets one and the same empty answer, whatever is wrong with it: who knocks learns
neither which accounts there are nor how far it came. The operator's log and metrics tell the reason.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import structlog
from aiohttp import web

from reward_adapters.contract import Answer, Callback
from reward_server import probes
from reward_server.engine.engine import Engine
from reward_server.guard import Guard, Refusal
from reward_server.metrics import CONTENT_TYPE, Metrics
from reward_server.store import StoreError

log = structlog.get_logger(__name__)

BODY_SECONDS = 5.0
"""A body that takes longer isn't waited for. Suppliers send some hundred bytes, and repeat what wasn't taken."""
IDLE_SECONDS = 75.0
"""How long a proxy may keep a connection for its next request; an hour is the library's own idea."""
LINGER_SECONDS = 2.0
"""How long what is left of a refused body is read, and forgotten, so that the other end sees the answer."""
REFUSED_STATUS = 404

_CALLBACKS = "/callbacks/"
_NAME = re.compile(r"[a-z0-9_]{1,40}")
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


def callback_app(
    engine: Engine, max_body_bytes: int, *, guard: Guard | None = None, metrics: Metrics | None = None
) -> web.Application:
    """`POST /callbacks/{account}`: answered exactly as the account's supplier expects, or with nothing at all.

    Without a guard everybody may knock as often as they like.
    """
    app = web.Application(client_max_size=max_body_bytes, middlewares=[_say_nothing])
    door = _Door(engine, max_body_bytes, guard, metrics)
    app[DOOR] = door
    app.router.add_post(f"{_CALLBACKS}{{account}}", door.callback)
    app.on_response_prepare.append(_hide_library)
    return app


def runner(app: web.Application) -> web.AppRunner:
    """How the applications of this module are run."""
    return web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        # No supplier sends compressed callbacks. A kilobyte could be unpacked into a megabyte before anybody looks.
        auto_decompress=False,
        keepalive_timeout=IDLE_SECONDS,
        lingering_time=LINGER_SECONDS,
    )


def add_ops(app: web.Application, metrics: Metrics, ready: Callable[[], str]) -> None:
    """Adds `/metrics`, `/healthz` (the process lives) and `/readyz` (it takes orders; else 503 and why not)."""

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why_not = ready()
        return web.Response(text=f"{why_not or 'ok'}\n", status=503 if why_not else 200)

    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)


class _Acknowledgement(web.Response):
    """An answer that passes a crash point once it is out of our hands."""

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        probes.probe("callback.acknowledged")


class _Refused(Exception):
    """A request is not to be answered."""

    def __init__(self, why: Refusal) -> None:
        self.why = why
        super().__init__(why)


class _Door:
    """Lets in what suppliers say."""

    def __init__(self, engine: Engine, max_body_bytes: int, guard: Guard | None, metrics: Metrics | None) -> None:
        self._engine = engine
        self._max_body_bytes = max_body_bytes
        self._guard = guard
        self._metrics = metrics

    async def callback(self, request: web.Request) -> web.Response:
        """Checks from outside to inside: source, account, size; then the adapter verifies what was read."""
        account = request.match_info["account"]
        self._check_source(request, account)
        body = await self._read(request)
        callback = Callback(
            body=body,
            content_type=request.headers.get("Content-Type", ""),
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
        )
        try:
            answer: Answer | None = await self._engine.callback(account, callback)
        except StoreError as error:
            # Genuine, but not recorded, so not acknowledged: every supplier that calls back repeats what isn't.
            log.error("callback not recorded", account=account, why=str(error))
            return web.Response(status=503)
        if answer is None:
            raise _Refused(Refusal.NOT_GENUINE)
        return _Acknowledgement(status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type})

    def _check_source(self, request: web.Request, account: str) -> None:
        guard = self._guard
        if guard is None:
            return
        source = guard.source(request.remote, request.headers.getall("X-Forwarded-For", []))
        told = guard.was_empty(source)
        if guard.too_many(source):
            if not told:
                log.warning("a source calls back too often", source=str(source), account=_shown(account))
            raise _Refused(Refusal.TOO_MANY)
        if not guard.knows(account):
            raise _Refused(Refusal.UNKNOWN_ACCOUNT)
        if guard.foreign(account, source):
            log.warning("callback from outside callback_networks", source=str(source), account=account)
            raise _Refused(Refusal.FOREIGN_NETWORK)

    async def _read(self, request: web.Request) -> bytes:
        """The body, if it is small, whole and soon here."""
        if (request.content_length or 0) > self._max_body_bytes:
            raise _Refused(Refusal.TOO_LARGE)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise _Refused(Refusal.TOO_LARGE) from None
        except TimeoutError:
            raise _Refused(Refusal.TOO_SLOW) from None
        except (ConnectionError, web.RequestPayloadError):
            # Nobody may be left to answer. Suppliers repeat what wasn't acknowledged.
            raise _Refused(Refusal.BROKEN_OFF) from None

    def refused(self, request: web.Request, why: Refusal) -> None:
        """Tells the operator, and nobody else."""
        account = request.match_info.get("account", "")
        if self._metrics is not None:
            # Labels are few: an account, or nothing.
            known = self._guard is not None and self._guard.knows(account)
            self._metrics.callback_refused(account if known else "", why)
        if why not in (Refusal.TOO_MANY, Refusal.NO_ROUTE):
            log.info("a callback got no answer", account=_shown(account), why=str(why))


def _shown(account: str) -> str:
    """What may be the name of an account; anything else is whatever somebody typed."""
    return account if _NAME.fullmatch(account) else ""


DOOR: Final = web.AppKey("door", _Door)


@web.middleware
async def _say_nothing(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Makes every way not to be served look the same."""
    try:
        return await handler(request)
    except _Refused as refused:
        why = refused.why
    except web.HTTPException:
        why = Refusal.NO_ROUTE
    except Exception:
        if not request.path.startswith(_CALLBACKS):
            raise
        log.exception("a callback failed in a way nobody thought of")
        why = Refusal.DEFECT
    request.app[DOOR].refused(request, why)
    response = web.Response(status=REFUSED_STATUS)
    if why in (Refusal.TOO_LARGE, Refusal.TOO_SLOW, Refusal.BROKEN_OFF):
        # What is left of the body isn't read.
        response.force_close()
    return response


async def _hide_library(_: web.Request, response: web.StreamResponse) -> None:
    # Names the program and its version otherwise.
    response.headers["Server"] = "RewardService"
