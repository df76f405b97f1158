"""The same order as a team without a library would write it: FastAPI, SQLAlchemy on SQLite and a background task.

    python plain_service.py PORT SUPPLIER_PORT FOLDER

`POST /orders` stores the order and answers 202; a background task buys the card, stores it, and tells everybody who
listens to `GET /events`. SQLite has a write-ahead log that is synced at each commit, as ours has. What a crash between
two steps leaves behind, nobody finds out.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import Column, MetaData, String, Table, event, insert, update
from sqlalchemy.ext.asyncio import create_async_engine

port, supplier, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
metadata = MetaData()
orders = Table(
    "orders",
    metadata,
    Column("client_order_id", String, primary_key=True),
    Column("product", String, nullable=False),
    Column("state", String, nullable=False),
    Column("card_number", String),
    Column("card_secret", String),
)
engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/orders.db", pool_size=8, connect_args={"timeout": 30})
listeners: set[asyncio.Queue[str]] = set()
_session: list[aiohttp.ClientSession] = []


@event.listens_for(engine.sync_engine, "connect")
def _connected(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Makes the table, and one session for all requests to the supplier."""
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    _session.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=202)
async def create(request: Request, background: BackgroundTasks) -> dict[str, str]:
    """Stores an order."""
    order = await request.json()
    async with engine.begin() as connection:
        await connection.execute(
            insert(orders).values(client_order_id=order["client_order_id"], product=order["product"], state="new")
        )
    background.add_task(fulfil, order)
    return {"state": "new"}


async def fulfil(order: dict[str, Any]) -> None:
    """Buys the card of an order."""
    form = {"out_order_id": order["client_order_id"], "card_id": "2909", "num": "1"}
    async with _session[0].post(f"http://127.0.0.1:{supplier}/sync/dcapi/card/payOrder", data=form) as response:
        [card] = json.loads(await response.read())["result"]
    async with engine.begin() as connection:
        await connection.execute(
            update(orders)
            .where(orders.c.client_order_id == order["client_order_id"])
            .values(state="fulfilled", card_number=card["card_num"], card_secret=card["card_pass"])
        )
    for listener in listeners:
        listener.put_nowait(json.dumps({"client_order_id": order["client_order_id"], "card": card["card_num"]}))


@app.get("/events")
async def events() -> StreamingResponse:
    """Tells of every order that got its card."""
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def tell() -> AsyncIterator[str]:
        listeners.add(queue)
        try:
            yield ": welcome\n\n"
            while True:
                yield f"data: {await queue.get()}\n\n"
        finally:
            listeners.discard(queue)

    return StreamingResponse(tell(), media_type="text/event-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
