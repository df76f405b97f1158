"""The same order as a durable workflow, with DBOS on SQLite by its own quick start: buy at the supplier, keep the card.

    python dbos_service.py PORT SUPPLIER_PORT FOLDER default|wal

`POST /orders` runs the workflow under the client's order id and answers with the card. The library writes the
workflow's start, the result of each step and the end to its database; the second step keeps the card in a table of the
application. As shipped the library leaves SQLite at its defaults, which sync each commit (rollback journal,
synchronous=FULL); `wal` gives its database a write-ahead log that is synced at each commit, as ours has.
"""

import json
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import sqlalchemy
import uvicorn
from dbos import DBOS, DBOSConfig, SetWorkflowID
from fastapi import FastAPI, Request

port, supplier, folder, mode = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
_local = threading.local()
_session: list[aiohttp.ClientSession] = []


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """One session for all requests to the supplier."""
    _session.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
    yield


app = FastAPI(lifespan=lifespan)


def cards() -> sqlite3.Connection:
    """The application's own database, synced at each commit."""
    if not hasattr(_local, "connection"):
        _local.connection = sqlite3.connect(folder / "cards.db", timeout=30)
        _local.connection.execute("PRAGMA journal_mode = WAL")
        _local.connection.execute("PRAGMA synchronous = FULL")
    connection: sqlite3.Connection = _local.connection
    return connection


@DBOS.step()
async def buy(order: dict[str, Any]) -> dict[str, Any]:
    """Buys at the supplier."""
    form = {"out_order_id": order["client_order_id"], "card_id": "2909", "num": "1"}
    async with _session[0].post(f"http://127.0.0.1:{supplier}/sync/dcapi/card/payOrder", data=form) as response:
        answer: dict[str, Any] = json.loads(await response.read())
    [card] = answer["result"]
    return dict(card)


@DBOS.step()
def keep(order: dict[str, Any], card: dict[str, Any]) -> None:
    """Keeps the card."""
    connection = cards()
    with connection:
        connection.execute(
            "INSERT INTO cards VALUES (?, ?, ?, ?)",
            (order["client_order_id"], card["card_num"], card["card_pass"], time.time()),
        )


@DBOS.workflow()
async def fulfil(order: dict[str, Any]) -> dict[str, Any]:
    """One order."""
    card: dict[str, Any] = await buy(order)
    keep(order, card)
    return card


@app.post("/orders")
async def create(request: Request) -> dict[str, Any]:
    """Runs one order to its end."""
    order = await request.json()
    with SetWorkflowID(order["client_order_id"]):
        card: dict[str, Any] = await fulfil(order)
    return card


def main() -> None:
    """Serves."""
    with cards() as connection:
        connection.execute("CREATE TABLE cards (order_id TEXT PRIMARY KEY, number TEXT, secret TEXT, at REAL) STRICT")
    config: DBOSConfig = {
        "name": "orders",
        "system_database_url": f"sqlite:///{folder}/dbos.sqlite",
        "log_level": "WARNING",
        "run_admin_server": False,
    }
    if mode == "wal":
        engine = sqlalchemy.create_engine(f"sqlite:///{folder}/dbos.sqlite")

        @sqlalchemy.event.listens_for(engine, "connect")
        def _connected(connection: Any, _record: Any) -> None:
            connection.isolation_level = "IMMEDIATE"
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 30000", "foreign_keys = ON"):
                connection.execute(f"PRAGMA {pragma}")

        config["system_database_engine"] = engine
    DBOS(config=config)
    DBOS.launch()
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
