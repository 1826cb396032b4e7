"""The HTTP application: its routes and its limits."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from aiohttp import web

from cordboard.logs import HopLog
from cordboard.settings import Settings
from cordboard.switchboard.service import Switchboard
from cordboard.tracing import Tracing
from cordboard.web.admin import admin_routes
from cordboard.web.bodies import BODY_TIMEOUT_S
from cordboard.web.console.site import console_routes
from cordboard.web.documentation import Documentation
from cordboard.web.errors import unrouted_routes
from cordboard.web.exotel import Exotel
from cordboard.web.fast_lane import Connections, FastLane, Limits, leave_to_aiohttp, tell_answered
from cordboard.web.health import Health
from cordboard.web.request_ids import say_request_id, trusts_of
from cordboard.web.rest import rest_routes

# Ten legs with insights make a query of some 6 kB (exotel.md 2.2); ten times that is no call any more.
REQUEST_LINE_BYTES_MAX: Final = 64 << 10
HEADER_BYTES_MAX: Final = 16 << 10
# Proxies add a dozen to those of a platform.
HEADERS_MAX: Final = 64
# All of these at once is no request either: the longest line, and two headers as long as they may be.
HEAD_BYTES_MAX: Final = REQUEST_LINE_BYTES_MAX + 2 * HEADER_BYTES_MAX
# Bulk bodies are the largest that a handler reads; each handler has its own, smaller limit.
BODY_BYTES_MAX: Final = 4 << 20
# Platforms fetch with keep-alive and with pauses between the hops of a call.
KEEPALIVE_S: Final = 75.0
# For the rest of a body that nobody wants, so that the client reads our answer before its connection ends.
LINGERING_S: Final = 2.0
# Connections that wait to be taken: a platform's burst of new calls, each with one of its own.
BACKLOG: Final = 1024

_log = structlog.get_logger(__name__)


class Server:
    """One that listens."""

    def __init__(self, listening: Sequence[asyncio.Server], connections: Connections) -> None:
        self._listening = listening
        self._connections = connections

    @property
    def url(self) -> str:
        return url_of(self._listening[0].sockets[0])

    def close(self) -> None:
        """Take no more connections; where a socket is shared, other processes do."""
        for listening in self._listening:
            listening.close()

    async def drained(self, timeout_s: float) -> None:
        """Take no more connections, answer what comes on those that are open, and return when their clients
        have left: each is told to with its next answer, and one that is silent may stay for so long."""
        self.close()
        self._connections.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._connections.none_open.wait()


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def serving(
    switchboard: Switchboard,
    admin_token: str,
    shutdown_timeout_s: float,
    listeners: Sequence[socket.socket] = (),
    hops: HopLog | None = None,
    tracing: Tracing | None = None,
) -> AsyncIterator[Server]:
    """The HTTP server, on sockets that are bound already or at the address of the settings; requests under
    way are finished when it ends.

    Raises CannotListen.
    """
    exotel = Exotel(switchboard, hops, tracing)
    settings = switchboard.settings
    runner = web.AppRunner(
        build_app(switchboard, exotel, admin_token),
        access_log=None,
        handle_signals=False,
        keepalive_timeout=KEEPALIVE_S,
        lingering_time=LINGERING_S,
        logger=_ServerLog(),
        max_line_size=REQUEST_LINE_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
        max_headers=HEADERS_MAX,
        shutdown_timeout=shutdown_timeout_s,
    )
    await runner.setup()
    make_aiohttp = runner.server
    assert make_aiohttp is not None, "a runner that is set up has a server"
    limits = Limits(
        connections_max=settings.connections_max,
        keepalive_s=KEEPALIVE_S,
        head_s=settings.header_timeout_s,
        unread_s=settings.body_timeout_s,
        head_bytes_max=HEAD_BYTES_MAX,
    )
    trusts = trusts_of(settings.trusted_proxies)
    # A span is of a task, which the fast lane does without.
    answer = exotel.answer_plain if tracing is None else leave_to_aiohttp
    try:
        async with asyncio.TaskGroup() as waiting:
            connections = Connections(limits, make_aiohttp, answer, trusts, waiting)
            switchboard.metrics.sample(switchboard.metrics.connections, lambda: len(connections.open))
            server = Server(await _listening(settings, connections, listeners), connections)
            try:
                yield server
            finally:
                server.close()
                connections.close_idle()
    finally:
        await runner.cleanup()


class CannotListen(Exception):
    """Somebody else has the port, or the host has no such address; the message names the settings."""


async def _listening(
    settings: Settings, connections: Connections, listeners: Sequence[socket.socket]
) -> list[asyncio.Server]:
    """Raises CannotListen."""
    listen = partial(asyncio.get_running_loop().create_server, lambda: FastLane(connections), backlog=BACKLOG)
    if listeners:
        return [await listen(sock=listener) for listener in listeners]
    with listening_on(settings):
        return [await listen(settings.host, settings.port, reuse_address=True)]


@contextmanager
def listening_on(settings: Settings) -> Iterator[None]:
    """Say of an error that it is about these settings. Raises CannotListen."""
    try:
        yield
    except OSError as error:
        # asyncio's own text repeats the address; the system's does not.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        address = f"{settings.host}:{settings.port}"
        raise CannotListen(f"CORDBOARD_HOST, CORDBOARD_PORT: {address} cannot be used ({why})") from error


def build_app(switchboard: Switchboard, exotel: Exotel, admin_token: str) -> web.Application:
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[tell_answered])
    app.on_response_prepare.append(say_request_id)
    app[BODY_TIMEOUT_S] = switchboard.settings.body_timeout_s
    routes = [
        *exotel.routes(),
        *rest_routes(switchboard),
        *admin_routes(switchboard, admin_token),
        *Health(switchboard).routes(),
    ]
    app.add_routes([*routes, *Documentation(routes).routes()])
    app.add_routes(console_routes(switchboard, admin_token))
    app.add_routes(unrouted_routes())
    return app


class _ServerLog:
    """Stands for aiohttp's logger, which prints the bytes of requests that it cannot read: keys,
    numbers and digits among them."""

    def debug(self, *_: Any, **__: Any) -> None:
        """What it says here is of interest to nobody but aiohttp's developers."""

    def info(self, *_: Any, **__: Any) -> None:
        """Likewise."""

    def warning(self, *_: Any, **kwargs: Any) -> None:
        _tell(kwargs.get("exc_info"))

    def error(self, *_: Any, **kwargs: Any) -> None:
        _tell(kwargs.get("exc_info"))

    def exception(self, *_: Any, **kwargs: Any) -> None:
        _tell(kwargs.get("exc_info") or sys.exc_info())


def _tell(exc_info: object) -> None:
    """The class of an error and the places it came through; its text may quote the request."""
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if isinstance(error, BaseException):
        places = traceback.extract_tb(error.__traceback__)
        frames = [f"{Path(place.filename).name}:{place.lineno} {place.name}" for place in places]
        _log.warning("http.error", error=type(error).__name__, frames=frames)
    else:
        _log.warning("http.error")
