"""FastAPI and uvicorn, and a round trip to Redis a call: every answer is a key of its own.

`fill` puts the keys there, from the rows that the SQL peers ask.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import time  # noqa: TID251 - a peer has no clock of ours.
from typing import Any, Final

import asyncpg
import orjson
import redis.asyncio
from fastapi import FastAPI, Request, Response

from benchmarks.peers.fastapi_app import Call, CallQuery, admitted, serve
from benchmarks.peers.lookup import dialling, gathering, selected

ROWS: Final = Path(__file__).with_name("redis_rows.sql")
KEYS_AT_ONCE: Final = 5_000
CONNECTIONS_MAX: Final = 64


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with redis.asyncio.Redis(
        unix_socket_path=app.state.wiring.redis_socket, max_connections=CONNECTIONS_MAX
    ) as app.state.redis:
        yield


app = FastAPI(lifespan=lifespan)


async def match(request: Request, tenant: str, call: CallQuery) -> tuple[str, dict[str, Any] | None]:
    """`connect`, `pin` or `reject`, and the match that connects."""
    admitted(request, tenant, call)
    vn = call.virtual_number
    owner, route, pin = await request.app.state.redis.mget(
        f"vn:{vn}", f"route:{vn}:{call.caller}", f"pin:{vn}:{call.pin}"
    )
    if owner is None or owner.decode() != tenant:
        return "reject", None
    now_s = time()
    for record in (route, pin):
        if record is not None:
            found = orjson.loads(record)
            if not found["needs_pin"] and found["expires_at_s"] > now_s:
                return "connect", found
    return "pin", None


@app.get("/v1/tenants/{tenant}/exotel/passthru")
async def passthru(request: Request, tenant: str, call: Call) -> Response:
    word, _ = await match(request, tenant, call)
    body, status = selected(word)
    return Response(body, status, media_type="text/plain")


@app.get("/v1/tenants/{tenant}/exotel/gather")
async def gather(request: Request, tenant: str, call: Call) -> dict[str, object]:
    word, _ = await match(request, tenant, call)
    return dict(gathering(word))


@app.get("/v1/tenants/{tenant}/exotel/connect")
async def connect(request: Request, tenant: str, call: Call) -> dict[str, object]:
    _, found = await match(request, tenant, call)
    return dialling((), None) if found is None else dialling(found["targets"], found["caller_id"])


async def fill(connection: asyncpg.Connection[asyncpg.Record], redis_socket: str) -> int:
    """Copy the data into Redis; returns the number of keys."""
    count = 0
    async with (
        redis.asyncio.Redis(unix_socket_path=redis_socket) as store,
        connection.transaction(readonly=True),
    ):
        batch: dict[str, bytes] = {}
        async for row in connection.cursor(ROWS.read_text(encoding="utf-8"), prefetch=KEYS_AT_ONCE):
            batch[row["key"]] = row["record"].encode()
            if len(batch) == KEYS_AT_ONCE:
                await store.mset(batch)
                count += len(batch)
                batch = {}
        if batch:
            await store.mset(batch)
    return count + len(batch)


if __name__ == "__main__":
    serve(app)
