"""Bodies of requests: never more of them in memory than their limit, and JSON or nothing."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from cordboard.routing.allocate import Code
from cordboard.web.errors import Refused

# A GreenPin with all its lists full is some 4 kB; 64 times that leaves room for keys that we ignore.
JSON_BYTES_MAX: Final = 256 << 10
# 100 GreenPins, or the numbers of a whole operator's block.
BULK_BYTES_MAX: Final = 4 << 20
# The application's setting: how long a body may take to arrive.
BODY_TIMEOUT_S: Final = web.AppKey("body_timeout_s", float)


async def read_bytes(request: web.Request, bytes_max: int) -> bytes:
    """Raises Refused (413/17, 400/5), having read at most a little more than `bytes_max`."""
    if request.content.is_eof():
        # It came with its head, as nearly every one does: there is nothing to wait for.
        return await _read_bytes(request, bytes_max)
    timeout_s = request.config_dict[BODY_TIMEOUT_S]
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_bytes(request, bytes_max)
    except TimeoutError:
        raise Refused(Code.BAD, f"The body did not arrive within {timeout_s:g} s.") from None


async def _read_bytes(request: web.Request, bytes_max: int) -> bytes:
    too_large = Refused(Code.TOO_MANY, f"The body is larger than {bytes_max} bytes.")
    if (request.content_length or 0) > bytes_max:
        raise too_large
    body = bytearray()
    try:
        while chunk := await request.content.readany():
            body += chunk
            if len(body) > bytes_max:
                raise too_large
    except (HttpProcessingError, web.RequestPayloadError) as error:
        raise Refused(Code.BAD, "The body does not arrive as its headers say.") from error
    except ConnectionError as error:
        # Nobody is there to read the answer; it only must not count as a fault of ours.
        raise Refused(Code.BAD, "The connection was lost.") from error
    return bytes(body)


def parse_json(body: bytes) -> Any:
    """The JSON value; an empty body is an object without keys. Raises Refused (400/5)."""
    if not body.strip():
        return {}
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # Its message quotes the body.
        raise Refused(Code.BAD, "The body is not JSON.") from None


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object; an empty body is one without keys. Raises Refused (400/5)."""
    return object_of(parse_json(body))


def object_of(given: Any) -> dict[str, Any]:
    """Raises Refused (400/5)."""
    if not isinstance(given, dict):
        raise Refused(Code.BAD, "The body must be a JSON object.")
    return given


async def read_object(request: web.Request, bytes_max: int = JSON_BYTES_MAX) -> dict[str, Any]:
    return parse_object(await read_bytes(request, bytes_max))
