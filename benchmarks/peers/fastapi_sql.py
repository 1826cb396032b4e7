"""FastAPI and uvicorn (uvloop, httptools, one worker), and a query a call over a pool of asyncpg's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI, Request, Response

from benchmarks.peers.fastapi_app import Call, admitted, serve
from benchmarks.peers.lookup import QUERIES, connection_pool, dialling, gathering, selected, word_for


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with await connection_pool(app.state.wiring) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


async def matches(request: Request, tenant: str, call: Call) -> str:
    admitted(request, tenant, call)
    pool: asyncpg.Pool[asyncpg.Record] = request.app.state.pool
    rows = await pool.fetch(QUERIES["matches"], tenant, call.virtual_number, call.caller, call.pin)
    return word_for(rows)


@app.get("/v1/tenants/{tenant}/exotel/passthru")
async def passthru(request: Request, tenant: str, call: Call) -> Response:
    body, status = selected(await matches(request, tenant, call))
    return Response(body, status, media_type="text/plain")


@app.get("/v1/tenants/{tenant}/exotel/gather")
async def gather(request: Request, tenant: str, call: Call) -> dict[str, object]:
    return dict(gathering(await matches(request, tenant, call)))


@app.get("/v1/tenants/{tenant}/exotel/connect")
async def connect(request: Request, tenant: str, call: Call) -> dict[str, object]:
    admitted(request, tenant, call)
    pool: asyncpg.Pool[asyncpg.Record] = request.app.state.pool
    row = await pool.fetchrow(QUERIES["whom_to_dial"], tenant, call.virtual_number, call.caller)
    return dialling((), None) if row is None else dialling(row["targets"], row["caller_id"])


if __name__ == "__main__":
    serve(app)
