"""The Idempotency-Key of a create: what it may look like, and which body it belongs to."""

from __future__ import annotations

import hashlib
from typing import Final

from aiohttp import web

from cordboard.routing.allocate import Code
from cordboard.switchboard.allocating import IdempotencyKey
from cordboard.web.errors import Refused
from cordboard.web.openapi import Header

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
KEY_CHARACTERS_MAX: Final = 255
IDEMPOTENCY_HEADER: Final = Header(
    IDEMPOTENCY_KEY,
    "A request repeated under the same key within 24 h gets the first answer again.",
    {"type": "string", "minLength": 1, "maxLength": KEY_CHARACTERS_MAX},
)
REPLAYED: Final = {"Idempotent-Replayed": "true"}


def idempotency_key(request: web.Request, body: bytes) -> IdempotencyKey | None:
    """Raises Refused (400/5)."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    # Bytes that are no UTF-8 arrive as lone surrogates, which are not printable either.
    if not 1 <= len(key) <= KEY_CHARACTERS_MAX or not key.isprintable():
        message = f"{IDEMPOTENCY_KEY} must be 1 to {KEY_CHARACTERS_MAX} printable characters."
        raise Refused(Code.BAD, message)
    return IdempotencyKey(key, hashlib.sha256(body).digest())
