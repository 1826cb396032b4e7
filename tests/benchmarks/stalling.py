"""A server that answers like any other until it is told to stall, for tests of what measures.

A request for `/stall` is answered STALL_S later, and so is all that comes meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

STALL_S: Final = 0.4
_REPLY: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Stalls:
    """What the connections share."""

    def __init__(self) -> None:
        self.is_stalled = False
        self.connected = asyncio.Event()
        self.owed: list[asyncio.WriteTransport] = []

    def go_on(self) -> None:
        self.is_stalled = False
        for transport in self.owed:
            transport.write(_REPLY)
        self.owed.clear()


class Connection(asyncio.Protocol):
    def __init__(self, stalls: Stalls) -> None:
        self._stalls = stalls
        # Of a body that is not here yet.
        self._missing_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._stalls.connected.set()

    def data_received(self, data: bytes) -> None:
        stalls = self._stalls
        if self._missing_bytes or data.startswith(b"POST "):
            head, _, body = data.rpartition(b"\r\n\r\n")
            self._missing_bytes += int(head.partition(b"Content-Length: ")[2]) if head else 0
            self._missing_bytes -= len(body)
            if not self._missing_bytes:
                self._transport.write(_REPLY)
            return
        if data.startswith(b"GET /close "):
            self._transport.close()
            return
        if data.startswith(b"GET /missing "):
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        if data.startswith(b"GET /stall "):
            stalls.is_stalled = True
            asyncio.get_running_loop().call_later(STALL_S, stalls.go_on)
        if stalls.is_stalled:
            stalls.owed.append(self._transport)
        else:
            # In two pieces, as any network may bring it.
            self._transport.write(_REPLY[:30])
            self._transport.write(_REPLY[30:])
