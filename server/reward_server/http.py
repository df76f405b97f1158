"""The HTTP side: suppliers' callbacks, and metrics and probes for operators."""

from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import web

from reward_adapters.contract import Callback
from reward_server import probes
from reward_server.engine.engine import Engine
from reward_server.metrics import CONTENT_TYPE, Metrics
from reward_server.store import StoreError

log = structlog.get_logger(__name__)

ENGINE: Final = web.AppKey("engine", Engine)


def callback_app(engine: Engine, max_body_bytes: int) -> web.Application:
    """`POST /callbacks/{account}`: answered exactly as the account's supplier expects."""
    app = web.Application(client_max_size=max_body_bytes)
    app[ENGINE] = engine
    app.router.add_post("/callbacks/{account}", _callback)
    return app


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


async def _callback(request: web.Request) -> web.Response:
    account = request.match_info["account"]
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        log.warning("callback too large", account=account)
        raise
    except (ConnectionError, web.RequestPayloadError) as error:
        # Nobody is left to answer. Suppliers repeat what wasn't acknowledged.
        log.info("callback broke off", account=account, why=type(error).__name__)
        return web.Response(status=400)
    callback = Callback(
        body=body,
        content_type=request.headers.get("Content-Type", ""),
        query=dict(request.query),
        headers={name.lower(): value for name, value in request.headers.items()},
    )
    try:
        answer = await request.app[ENGINE].callback(account, callback)
    except StoreError as error:
        # Not recorded, so not acknowledged: every supplier that calls back repeats what isn't acknowledged.
        log.error("callback not recorded", account=account, why=str(error))
        return web.Response(status=503)
    if answer is None:
        # Says the same for an unknown account and for one without callbacks.
        return web.Response(status=404)
    return _Acknowledgement(status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type})
