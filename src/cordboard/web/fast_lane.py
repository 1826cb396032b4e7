"""The shortest way for the hop that nearly every call consists of: a plain GET of the passthru applet.

It stands before aiohttp on each connection. A request that it recognises to the last byte, and that can be
answered at once, is answered in the call that brought its bytes: no task, no router, no request object.
At the first one that is anything else, the connection becomes aiohttp's for good, so that there is one
reader of HTTP for everything that needs one. `python -m benchmarks passthru` says what it is worth.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final, cast

# Printable ASCII without the blank and `#`; a longer query, more headers or a body are aiohttp's to judge.
_PLAIN: Final = re.compile(
    rb"GET /v1/tenants/([a-z0-9][a-z0-9_-]{0,62})/exotel/passthru\?([!\"$-~]{1,8000}) HTTP/1\.1\r\n"
    rb"(?:[A-Za-z][A-Za-z-]{0,63}: [ -~]{0,1000}\r\n){1,32}\r\n"
)
# Headers that change what a request is or how it is answered.
_MEANINGFUL: Final = re.compile(
    rb"\n(?:authorization|content-|expect|te|trailer|transfer-|upgrade|connection: (?!keep-alive\r))",
    re.IGNORECASE,
)

AnswerPlain = Callable[[str, str], bytes | None]
"""(tenant id, raw query) → the reply's bytes, or None if it cannot be given at once."""


class FastLane(asyncio.Protocol):
    """One connection. `make_aiohttp` makes the protocol that takes over."""

    __slots__ = ("_answer", "_heard_at_s", "_http", "_idle", "_keepalive_s", "_loop", "_transport")

    def __init__(
        self, make_aiohttp: Callable[[], asyncio.BaseProtocol], answer: AnswerPlain, keepalive_s: float
    ) -> None:
        self._http = cast("asyncio.Protocol", make_aiohttp())
        self._answer = answer
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._heard_at_s = self._loop.time()
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # aiohttp knows the connection from the start, and closes it when the engine stops.
        self._http.connection_made(transport)
        self._idle = self._loop.call_later(self._keepalive_s, self._close_if_idle)

    def data_received(self, data: bytes) -> None:
        self._heard_at_s = self._loop.time()
        plain = _PLAIN.fullmatch(data)
        if plain is not None and _MEANINGFUL.search(data, plain.end(2)) is None:
            reply = self._answer(plain[1].decode(), plain[2].decode())
            if reply is not None:
                self._transport.write(reply)
                return
        self._leave_lane()
        self._transport.set_protocol(self._http)
        self._http.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave_lane()
        self._http.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self._http.eof_received()

    def pause_writing(self) -> None:
        """Whoever sends hops and reads no replies has himself to blame: the connection ends."""
        self._transport.abort()

    def _leave_lane(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    def _close_if_idle(self) -> None:
        rest_s = self._heard_at_s + self._keepalive_s - self._loop.time()
        if rest_s <= 0:
            self._transport.close()
        else:
            self._idle = self._loop.call_later(rest_s, self._close_if_idle)
