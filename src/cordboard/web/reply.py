"""Short replies, sent in one write with a head that was made before.

A `web.Response` collects headers, runs signals and serialises all of it anew for each of a platform's hops,
which took longer than to decide the call. aiohttp sends whatever has `prepare` and `write_eof`.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, hdrs
from aiohttp.web import BaseRequest

from cordboard.web.request_ids import HEADER, request_id_of

_HEAD: Final = hdrs.METH_HEAD
_REQUEST_ID: Final = f"\r\n{HEADER}: ".encode()


class Reply:
    """What one applet request is answered; made once, sent once."""

    __slots__ = ("_body", "_content_type", "_headers", "_is_last", "_request", "keep_alive", "status")

    def __init__(self, body: bytes, content_type: str, status: int = 200, headers: str = "") -> None:
        """`headers` are further lines, each ending in CRLF."""
        self.status = status
        self.keep_alive = False
        self._body = body
        self._content_type = content_type
        self._headers = headers
        self._is_last = False
        self._request: BaseRequest | None = None

    @property
    def body_length(self) -> int:
        return len(self._body)

    def force_close(self) -> None:
        """Let the connection end with it."""
        self._is_last = True

    async def prepare(self, request: BaseRequest) -> None:
        self._request = request
        self.keep_alive = bool(request.keep_alive) and not self._is_last

    async def write_eof(self) -> None:
        request = self._request
        assert request is not None, "aiohttp prepares before it writes"
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the platform hung up before it was answered")
        connection = _connection_line(self.keep_alive, request.version == HttpVersion11)
        with_body = request.method != _HEAD
        transport.write(self.wire(request_id_of(request), connection, with_body=with_body))

    def wire(self, request_id: str, connection: str = "", *, with_body: bool = True) -> bytes:
        """The bytes of the whole reply; `connection` is a header line or nothing."""
        head = _head(self.status, self._content_type, len(self._body), self._headers, connection)
        body = self._body if with_body else b""
        return b"%b%b%b%b\r\n\r\n%b" % (head, _date(), _REQUEST_ID, request_id.encode(), body)


def _connection_line(keep_alive: bool, is_http_11: bool) -> str:
    """Said only where it differs from what the version of HTTP means by itself."""
    if keep_alive == is_http_11:
        return ""
    return "Connection: keep-alive\r\n" if keep_alive else "Connection: close\r\n"


# Texts of the settings make bodies of many lengths; 1,000 heads are some 300 kB.
@lru_cache(maxsize=1000)
def _head(status: int, content_type: str, length: int, headers: str, connection: str) -> bytes:
    """Everything before the date."""
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {length}\r\n"
        f"{headers}{connection}Server: cordboard\r\nDate: "
    ).encode()


_date_of_second: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    """The Date of this second (RFC 9110, 6.6.1)."""
    global _date_of_second  # noqa: PLW0603 - one clock for all replies.
    second = int(time.time())  # noqa: TID251 - a header for caches; nothing is decided by it.
    if second != _date_of_second[0]:
        _date_of_second = (second, formatdate(second, usegmt=True).encode())
    return _date_of_second[1]
