"""Who asks: a tenant with HTTP Basic, an operator with a Bearer token.

Nobody learns here whether a tenant exists: a wrong tenant, a wrong token and none at all sound alike, and
cost the same hash.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from typing import Final

from aiohttp import hdrs, web

from cordboard.routing.allocate import Code
from cordboard.storage.provisioning import digest_of_secret
from cordboard.switchboard.tenants import TenantDirectory, TenantView
from cordboard.web.errors import Refused

TENANT_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
# The one version that there is, as clients may write it (exotel.md 11.3).
VERSIONS: Final = frozenset({"1", "1.0", "v1"})


def authenticated(tenants: TenantDirectory, request: web.Request) -> TenantView:
    """The tenant of the path, if the credentials are its own. Raises Refused (401/7, 403/8)."""
    claimed = _tenant_of_credentials(tenants, request.headers.get(hdrs.AUTHORIZATION, ""))
    if claimed is None:
        message = "Authorization: the tenant id and its API token are needed, as HTTP Basic."
        challenge = {"WWW-Authenticate": 'Basic realm="cordboard", charset="UTF-8"'}
        raise Refused(Code.UNAUTHENTICATED, message, headers=challenge)
    if claimed.id != request.match_info["tenant"]:
        raise Refused(Code.NOT_PERMITTED, "tenant: these credentials are not this tenant's.")
    return claimed


def check_version(request: web.Request) -> None:
    """Raises Refused (400/9)."""
    version = request.headers.get("Exotel-Version")
    if version is not None and version.strip() not in VERSIONS:
        raise Refused(Code.VERSION, "Exotel-Version: only version 1 is supported.")


def check_admin(admin_token: str, request: web.Request) -> None:
    """Raises Refused (401/7)."""
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    # aiohttp keeps bytes that are no UTF-8 as lone surrogates.
    is_right = hmac.compare_digest(
        given.strip().encode("utf-8", "surrogateescape"), admin_token.encode("utf-8")
    )
    if scheme.lower() != "bearer" or not is_right:
        message = "Authorization: the admin token is needed, as Bearer."
        challenge = {"WWW-Authenticate": 'Bearer realm="cordboard"'}
        raise Refused(Code.UNAUTHENTICATED, message, headers=challenge)


def _tenant_of_credentials(tenants: TenantDirectory, authorization: str) -> TenantView | None:
    credentials = basic_credentials(authorization)
    if credentials is None:
        return None
    user, token = credentials
    # Looked up only if it could be one: the board's keys have a length.
    tenant = tenants.get(user) if TENANT_ID.fullmatch(user) else None
    if tenant is None:
        digest_of_secret(token)
        return None
    return tenant if tenant.accepts_api_token(token) else None


def basic_credentials(authorization: str) -> tuple[str, str] | None:
    """(user, password) of an Authorization header, or None if it is of another scheme or broken."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, token = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, token) if colon else None
