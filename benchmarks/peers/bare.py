"""aiohttp with handlers that answer constants, as long as the engine's answers: the limit of our stack."""

from __future__ import annotations

from typing import Final

import orjson
import uvloop
from aiohttp import web

from benchmarks.peers.lookup import PROMPT, dialling, listening_socket

_CONNECT: Final = orjson.dumps(dialling((919700000000, 919700000001), 918000000001))
_GATHER: Final = orjson.dumps(PROMPT)
_PASSTHRU: Final = b'{"select":"connect"}'


async def passthru(_: web.Request) -> web.Response:
    return web.Response(body=_PASSTHRU, content_type="text/plain")


async def gather(_: web.Request) -> web.Response:
    return web.Response(body=_GATHER, content_type="application/json")


async def connect(_: web.Request) -> web.Response:
    return web.Response(body=_CONNECT, content_type="application/json")


def serve() -> None:
    app = web.Application()
    for handler in (passthru, gather, connect):
        app.router.add_get(f"/v1/tenants/{{tenant}}/exotel/{handler.__name__}", handler)
    web.run_app(app, sock=listening_socket(), access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    serve()
