"""The envelope around every answer of the REST API (exotel.md 8.1), and what a handler says to fill it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from aiohttp import web

# Committed, but this node does not route by it yet (routing.md, Promises 1 and 4).
PROPAGATION_PENDING: Final = {"Cordboard-Propagation": "pending"}
# Nobody registered 452, so no library knows its words.
REASONS: Final = {452: "Nothing Free To Allocate"}
# Answers hold numbers, PINs and secrets.
NO_STORE: Final = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What went well."""

    data: Any
    status: int = 200
    message: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    # A bulk update of which some items failed answers 207 and is no success.
    success: bool = True


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """A whole answer that is already bytes."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


def propagation(is_propagated: bool) -> Mapping[str, str]:
    return {} if is_propagated else PROPAGATION_PENDING


def envelope(
    request_id: str,
    method: str,
    *,
    status: int,
    data: Any,
    success: bool = True,
    code: int | None = None,
    message: str | None = None,
) -> bytes:
    return orjson.dumps(
        {
            "success": success,
            "status": status,
            "code": code,
            "message": message,
            "data": data,
            "request_id": request_id,
            "method": method,
        }
    )


def response(status: int, body: bytes, headers: Mapping[str, str]) -> web.Response:
    headers = {"Content-Type": "application/json", **NO_STORE, **headers}
    return web.Response(status=status, reason=REASONS.get(status), body=body, headers=headers)
