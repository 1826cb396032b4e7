"""`/openapi.json`, and `/docs` to read it: made once, for the first who asks.

Renderers were looked for and not taken: those that come as wheels are either so old that they do not know
OpenAPI 3.1 or need Django, and bring a megabyte of script and styles that no strict policy allows. The page
is our own, without any script (web/page.py).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import orjson
from aiohttp import web

from cordboard.web.openapi import JSON, OPEN, Operation, Route, Said, document
from cordboard.web.page import page_of, policy

HTML: Final = "text/html"

# Asked for anew each time, and sent only if it is another one.
_CACHING: Final = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
_UNCHANGED: Final = Said("It is what the client has.", headers=("ETag",))


class Documentation:
    """Of `routes` and of its own two."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = [
            Route("GET", "/openapi.json", self._send_document, OPEN, _operation("This document", JSON)),
            Route("GET", "/docs", self._send_page, OPEN, _operation("This document, to read", HTML)),
        ]
        self._documented = [*routes, *self._routes]
        self._made: _Made | None = None

    def routes(self) -> list[Route]:
        return self._routes

    async def _send_document(self, request: web.Request) -> web.Response:
        return (await self._kept()).document.response(request)

    async def _send_page(self, request: web.Request) -> web.Response:
        return (await self._kept()).page.response(request)

    async def _kept(self) -> _Made:
        if self._made is None:
            # 0.1 s, which neither a start nor the calls of that moment wait for.
            self._made = await asyncio.to_thread(_make, self._documented)
        return self._made


def _make(routes: Sequence[Route]) -> _Made:
    made = document(routes, version("cordboard"))
    return _Made(
        _Kept(orjson.dumps(made), {"Content-Type": JSON}),
        _Kept(
            page_of(made).encode(),
            {
                "Content-Type": f"{HTML}; charset=utf-8",
                "Content-Security-Policy": policy(),
                "Referrer-Policy": "no-referrer",
            },
        ),
    )


def _operation(summary: str, media_type: str) -> Operation:
    content = dict[str, Any] if media_type == JSON else None
    return Operation(summary, answers={200: Said("It.", {media_type: content}, ("ETag",)), 304: _UNCHANGED})


class _Kept:
    """Bytes that are the same for everybody."""

    def __init__(self, body: bytes, headers: Mapping[str, str]) -> None:
        self._body = body
        self._tag = hashlib.sha256(body).hexdigest()[:32]
        self._headers = {**_CACHING, **headers, "ETag": f'"{self._tag}"'}

    def response(self, request: web.Request) -> web.Response:
        # `W/"x"` means the same here (RFC 9110, 13.1.2).
        known = request.if_none_match or ()
        if any(tag.value in (self._tag, "*") for tag in known):
            return web.Response(status=304, headers={**_CACHING, "ETag": self._headers["ETag"]})
        return web.Response(body=self._body, headers=self._headers)


class _Made(NamedTuple):
    document: _Kept
    page: _Kept
