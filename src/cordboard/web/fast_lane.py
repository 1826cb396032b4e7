"""What stands before aiohttp on each connection: limits, and the shortest way for the hops that nearly every
call consists of, plain GETs of the applets.

A request that is recognised to the last byte, and that can be answered at once, is answered in the call that
brought its bytes: no task, no router, no request object. One that has to wait, for what is on record of its
call, is answered by a task. The first one that is anything else brings aiohttp in, which then answers
everything on that connection, so that there is one reader of HTTP for all that needs one. `python -m
benchmarks beside` says what it is worth.

Before and behind that, a connection is closed whose client is too slow or says too much: aiohttp waits for
the rest of a request, and for the reading of an answer, as long as the client likes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

import structlog
from aiohttp import web

from cordboard.web.request_ids import Trusts

# A longer query, more headers or a body are aiohttp's to judge.
_PLAIN_PATH: Final = re.compile(
    rb"GET /v1/tenants/([a-z0-9][a-z0-9_-]{0,62})/exotel/(passthru|gather|connect|greeting)\?"
)
# Printable ASCII without the blank and `#`. To delete these and see what is left takes a fifth of a match.
_QUERY_BYTES: Final = bytes(byte for byte in range(0x21, 0x7F) if byte != ord("#"))
QUERY_BYTES_MAX: Final = 8_000
_LINE_ENDS: Final = b" HTTP/1.1\r\n"
_PLAIN_HEADERS: Final = re.compile(rb"(?:[A-Za-z][A-Za-z-]{0,63}: [ -~]{0,1000}\r\n){1,32}\r\n")
# Headers that change what a request is or how it is answered.
_MEANINGFUL: Final = re.compile(
    rb"^(?:authorization|content-|expect|te|trailer|transfer-|upgrade|connection: (?!keep-alive\r))",
    re.IGNORECASE | re.MULTILINE,
)
_VERSION: Final = re.compile(rb"^exotel-version:", re.IGNORECASE | re.MULTILINE)
_REQUEST_ID: Final = re.compile(rb"^x-request-id: ([!-~]+)\r", re.IGNORECASE | re.MULTILINE)
# A platform sends the same with every hop, some 100 bytes; 100 times the longest are 400 kB.
HEADERS_REMEMBERED: Final = 100
HEADERS_BYTES_MAX: Final = 4_000
_HEAD_ENDS: Final = b"\r\n\r\n"
_HAS_BODY: Final = re.compile(rb"\n(?:content-length|transfer-encoding)", re.IGNORECASE)


class PlainHop(NamedTuple):
    """A GET of an applet that is as platforms send it."""

    tenant_id: str
    applet: str
    raw_query: str
    # Whether it has the header Exotel-Version.
    names_version: bool
    # What a trusted proxy calls the request.
    given_id: str | None


class _PlainHeaders(NamedTuple):
    """What they say that matters to a hop."""

    names_version: bool
    request_id: str | None


AnswerPlain = Callable[[PlainHop], bytes | Coroutine[Any, Any, bytes] | None]
"""The bytes of the reply, or what returns them later; None leaves the hop to aiohttp."""

_log = structlog.get_logger(__name__)


def leave_to_aiohttp(_: PlainHop) -> None:
    """Of a lane that answers nothing by itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the connections of one server. All times are real ones."""

    connections_max: int
    # Between requests, and before the first.
    keepalive_s: float
    # From the first byte of a request to the end of its headers.
    head_s: float
    # For which a client may leave an answer unread.
    unread_s: float
    # Request line and headers together.
    head_bytes_max: int


@dataclass(slots=True)
class Connections:
    """Those that are open."""

    limits: Limits
    make_aiohttp: Callable[[], asyncio.BaseProtocol]
    answer: AnswerPlain
    # Whose request ids are taken over.
    trusts: Trusts
    # Owns those hops that have to wait.
    waiting: asyncio.TaskGroup
    open: set[FastLane] = field(default_factory=set)
    none_open: asyncio.Event = field(default_factory=asyncio.Event)
    is_draining: bool = False
    _refusals: int = 0

    def admit(self, connection: FastLane) -> bool:
        if len(self.open) >= self.limits.connections_max:
            # A line for the first, and then for every thousandth: a flood must not fill the log as well.
            if self._refusals % 1_000 == 0:
                _log.warning("http.connections_max", refused=self._refusals + 1)
            self._refusals += 1
            return False
        self.open.add(connection)
        return True

    def leave(self, connection: FastLane) -> None:
        self.open.discard(connection)
        if self.is_draining and not self.open:
            self.none_open.set()

    def drain(self) -> None:
        """Have each client leave with its next answer."""
        self.is_draining = True
        # aiohttp answers them all from now on, and says `Connection: close`.
        self.answer = leave_to_aiohttp
        if not self.open:
            self.none_open.set()

    def close_idle(self) -> None:
        """Close those of which aiohttp knows nothing; it closes its own."""
        for connection in list(self.open):
            connection.close_if_plain()


class FastLane(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_begins",
        "_connections",
        "_head_bytes",
        "_heard_at_s",
        "_http",
        "_is_answering",
        "_is_beyond_head",
        "_is_closing",
        "_loop",
        "_rest",
        "_timer",
        "_transport",
        "_unread_timer",
        "is_trusted",
    )

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._heard_at_s = self._loop.time()
        self._http: asyncio.Protocol | None = None
        # Whether a plain hop has to wait for its reply, and whether the connection ends with that.
        self._is_answering = False
        self._is_closing = False
        # Bytes of a head that has not ended, and its last three; whether the present request is beyond it.
        self._head_bytes = 0
        self._begins = b""
        # What came behind a head without a body, or before the reply: the beginning of the next request.
        self._rest = b""
        self._is_beyond_head = False
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        # Whether it comes from a proxy of the operator's.
        self.is_trusted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.is_trusted = isinstance(peer, tuple) and self._connections.trusts(peer[0])
        if self._connections.admit(self):
            self._timer = self._loop.call_later(self._connections.limits.keepalive_s, self._close_if_idle)
        else:
            self._refuse(b"503 Service Unavailable", b"Retry-After: 1\r\n")

    def data_received(self, data: bytes) -> None:
        http = self._http
        if http is None:
            self._heard_at_s = self._loop.time()
            if self._is_answering:
                self._hold_back(data)
                return
            hop = self._plain_hop(data)
            if hop is not None:
                reply = self._connections.answer(hop)
                if isinstance(reply, bytes):
                    self._transport.write(reply)
                    return
                if reply is not None:
                    self._is_answering = True
                    self._connections.waiting.create_task(self._answer(reply))
                    return
            if self._transport.is_closing():
                return
            http = self._bring_in_aiohttp()
        if self._is_beyond_head:
            self._rest = b""
            http.data_received(data)
        elif self._is_head_within_limits(data):
            http.data_received(data)

    def _plain_hop(self, data: bytes) -> PlainHop | None:
        line, _, header_lines = data.partition(_LINE_ENDS)
        path = _PLAIN_PATH.match(line)
        if path is None or len(header_lines) > HEADERS_BYTES_MAX:
            return None
        raw_query = line[path.end() :]
        if not 0 < len(raw_query) <= QUERY_BYTES_MAX or raw_query.translate(None, _QUERY_BYTES):
            return None
        headers = _plain_headers(header_lines)
        if headers is None:
            return None
        tenant_id, applet = path.groups()
        given_id = headers.request_id if self.is_trusted else None
        return PlainHop(
            tenant_id.decode(), applet.decode(), raw_query.decode(), headers.names_version, given_id
        )

    async def _answer(self, coming: Coroutine[Any, Any, bytes]) -> None:
        try:
            reply = await coming
        except Exception as error:  # A task that fails would take all others with it.
            _log.error("http.error", error=type(error).__name__)
            self._transport.abort()
            return
        self._is_answering = False
        if self._transport.is_closing():
            return
        self._transport.write(reply)
        if self._is_closing:
            self._transport.close()
        elif self._rest:
            rest, self._rest = self._rest, b""
            self.data_received(rest)

    def _hold_back(self, data: bytes) -> None:
        """Keep what came before the reply to the request before it; no platform sends that."""
        self._rest += data
        if len(self._rest) > self._connections.limits.head_bytes_max:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.leave(self)
        self._stop_timer()
        self.resume_writing()
        if self._http is not None:
            self._http.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return None if self._http is None else self._http.eof_received()

    def pause_writing(self) -> None:
        if self._http is None:
            # Whoever sends hops and reads no replies has himself to blame: the connection ends.
            self._transport.abort()
            return
        self._http.pause_writing()
        self._unread_timer = self._loop.call_later(self._connections.limits.unread_s, self._transport.abort)

    def resume_writing(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
            if self._http is not None:
                self._http.resume_writing()

    def answered(self) -> None:
        """aiohttp has answered a request that was received whole: what comes next is a head."""
        self._is_beyond_head = False
        if self._rest:
            # It came behind the request, and may be all that comes.
            self._head_bytes, self._begins, self._rest = len(self._rest), self._rest[-3:], b""
            self._await_head()

    @property
    def is_draining(self) -> bool:
        return self._connections.is_draining

    def close_if_plain(self) -> None:
        """Close it, if aiohttp does not; behind the reply that it still waits for."""
        if self._is_answering:
            self._is_closing = True
        elif self._http is None:
            self._transport.close()

    def _bring_in_aiohttp(self) -> asyncio.Protocol:
        self._stop_timer()
        http = self._http = cast("asyncio.Protocol", self._connections.make_aiohttp())
        http.connection_made(self._transport)
        return http

    def _is_head_within_limits(self, data: bytes) -> bool:
        """Follow the head of a request to its end; refuse one that is too long, and wait for the rest of it
        for a limited time."""
        # Blank lines before a request mean nothing.
        begins = self._begins + data if self._head_bytes else data.lstrip(b"\r\n")
        if _HEAD_ENDS in begins:
            self._is_beyond_head = True
            self._head_bytes, self._begins = 0, b""
            self._rest = b"" if _HAS_BODY.search(data) else begins.rpartition(_HEAD_ENDS)[2]
            self._stop_timer()
            return True
        self._head_bytes += len(data)
        self._begins = begins[-3:]
        limits = self._connections.limits
        if self._head_bytes > limits.head_bytes_max:
            self._refuse(b"431 Request Header Fields Too Large")
            return False
        self._await_head()
        return True

    def _await_head(self) -> None:
        if self._timer is None:
            limit_s = self._connections.limits.head_s
            self._timer = self._loop.call_later(limit_s, self._refuse, b"408 Request Timeout")

    def _refuse(self, status: bytes, header: bytes = b"") -> None:
        if not self._transport.is_closing():
            self._transport.write(
                b"HTTP/1.1 %b\r\n%bContent-Length: 0\r\nConnection: close\r\n\r\n" % (status, header)
            )
            self._transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_if_idle(self) -> None:
        rest_s = self._heard_at_s + self._connections.limits.keepalive_s - self._loop.time()
        if rest_s <= 0:
            self._transport.close()
        else:
            self._timer = self._loop.call_later(rest_s, self._close_if_idle)


@lru_cache(maxsize=HEADERS_REMEMBERED)
def _plain_headers(lines: bytes) -> _PlainHeaders | None:
    """Of header lines with the blank one that ends them, and nothing behind it; None if they mean more."""
    if _PLAIN_HEADERS.fullmatch(lines) is None or _MEANINGFUL.search(lines) is not None:
        return None
    request_id = _REQUEST_ID.search(lines)
    return _PlainHeaders(_VERSION.search(lines) is not None, request_id and request_id[1].decode())


@web.middleware
async def tell_answered(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let the connection know that a request is over, if its body is; else aiohttp still reads that. Let the
    client know when it is to connect anew."""
    connection = None if request.transport is None else request.transport.get_protocol()
    try:
        response = await handler(request)
    except web.HTTPException as response_too:
        _part_after(response_too, connection)
        raise
    finally:
        if request.content.is_eof() and request.transport is not None and isinstance(connection, FastLane):
            connection.answered()
    _part_after(response, connection)
    return response


def _part_after(response: web.StreamResponse, connection: object) -> None:
    if isinstance(connection, FastLane) and connection.is_draining:
        response.force_close()
