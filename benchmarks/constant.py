"""A server that answers a constant and does as little as one in Python can: the limit of what measures.

`python -m benchmarks.constant` prints its port and serves until it is killed.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

import uvloop

BODY: Final = b'{"select":"connect"}'

_REPLY: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    b"Date: Mon, 05 Jan 2026 10:00:00 GMT\r\nServer: constant\r\n\r\n%b" % (len(BODY), BODY)
)


class _Constant(asyncio.Protocol):
    """Not even requests are told apart."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of a WriteTransport, and are none by their class.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self._transport.write(_REPLY)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Constant, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
