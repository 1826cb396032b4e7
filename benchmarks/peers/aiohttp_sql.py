"""aiohttp, and a query a call over a pool of asyncpg's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import orjson
import uvloop
from aiohttp import web

from benchmarks.peers.lookup import (
    QUERIES,
    Wiring,
    connection_pool,
    dialling,
    gathering,
    listening_socket,
    number_of,
    selected,
    word_for,
)

WIRING = web.AppKey("WIRING", Wiring)
POOL = web.AppKey("POOL", asyncpg.Pool)


async def matches(request: web.Request) -> str:
    query = request.query
    if not request.app[WIRING].admits(request.match_info["tenant"], query["key"]):
        raise web.HTTPUnauthorized
    rows = await request.app[POOL].fetch(
        QUERIES["matches"],
        request.match_info["tenant"],
        number_of(query["CallTo"]),
        number_of(query["CallFrom"]),
        query.get("digits", "").strip('"'),
    )
    return word_for(rows)


async def passthru(request: web.Request) -> web.Response:
    body, status = selected(await matches(request))
    return web.Response(body=body, status=status, content_type="text/plain")


async def gather(request: web.Request) -> web.Response:
    body = orjson.dumps(gathering(await matches(request)))
    return web.Response(body=body, content_type="application/json")


async def connect(request: web.Request) -> web.Response:
    query = request.query
    if not request.app[WIRING].admits(request.match_info["tenant"], query["key"]):
        raise web.HTTPUnauthorized
    row = await request.app[POOL].fetchrow(
        QUERIES["whom_to_dial"],
        request.match_info["tenant"],
        number_of(query["CallTo"]),
        number_of(query["CallFrom"]),
    )
    reply = dialling((), None) if row is None else dialling(row["targets"], row["caller_id"])
    return web.Response(body=orjson.dumps(reply), content_type="application/json")


async def running_pool(app: web.Application) -> AsyncIterator[None]:
    async with await connection_pool(app[WIRING]) as app[POOL]:
        yield


def serve() -> None:
    app = web.Application()
    app[WIRING] = Wiring.from_environment()
    app.cleanup_ctx.append(running_pool)
    for handler in (passthru, gather, connect):
        app.router.add_get(f"/v1/tenants/{{tenant}}/exotel/{handler.__name__}", handler)
    web.run_app(app, sock=listening_socket(), access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    serve()
