"""Servers that answer a constant: the limits of what is measured (`bare`) and of what measures (`raw`).

`python -m benchmarks.constant bare|raw` prints its port and serves until it is killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, cast

import uvloop
from aiohttp import web

from benchmarks.cores import Cores

BODY: Final = b'{"select":"connect"}'

_REPLY: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    b"Date: Mon, 05 Jan 2026 10:00:00 GMT\r\nServer: constant\r\n\r\n%b" % (len(BODY), BODY)
)


@dataclass(frozen=True, slots=True)
class ConstantServer:
    pid: int
    address: tuple[str, int]


@asynccontextmanager
async def constant_server(kind: str, cores: Cores) -> AsyncIterator[ConstantServer]:
    """A process of its own on the server's core."""
    with cores.starting_server():
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.constant", kind), stdout=asyncio.subprocess.PIPE
        )
    try:
        assert process.stdout is not None
        yield ConstantServer(process.pid, ("127.0.0.1", int(await process.stdout.readline())))
    finally:
        process.kill()
        await process.wait()


class _Raw(asyncio.Protocol):
    """As little as a server in Python can do: not even requests are told apart."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of a WriteTransport, and are none by their class.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self._transport.write(_REPLY)


async def _serve_raw() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Raw, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _answer(_: web.Request) -> web.Response:
    return web.Response(body=BODY, content_type="text/plain")


async def _serve_bare() -> None:
    """An aiohttp application with one route, as anybody would write it."""
    app = web.Application()
    app.router.add_get("/v1/tenants/{tenant}/exotel/passthru", _answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve_bare() if sys.argv[1] == "bare" else _serve_raw())
