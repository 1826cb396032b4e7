"""One authenticated request of a tenant, and the frame in which every handler of the REST API runs:
who asks, what was said, and an envelope around it whatever happens."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, assert_never, cast

from aiohttp import web

from cordboard.routing.allocate import Code
from cordboard.switchboard.tenants import TenantDirectory, TenantView
from cordboard.web.auth import authenticated, check_version
from cordboard.web.envelope import NO_STORE, Answer, RawAnswer, envelope
from cordboard.web.errors import (
    Refused,
    closing_if_unread,
    expect_continue,
    problem_of,
    refusal,
)
from cordboard.web.openapi import JSON, TENANT_API, UNLIMITED_TENANT_API, Operation, Route
from cordboard.web.rate_limit import RateLimiter
from cordboard.web.reply import Reply
from cordboard.web.request_ids import logged_as, request_id_of

TENANT_PATH: Final = "/v1/tenants/{tenant}"


class Exchange(NamedTuple):
    request: web.Request
    request_id: str
    tenant: TenantView

    def envelope(self, answer: Answer) -> bytes:
        return envelope(
            self.request_id,
            self.request.method,
            success=answer.success,
            status=answer.status,
            message=answer.message,
            data=answer.data,
        )


def _sent(status: int, body: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    """What went well, as aiohttp's types have it; what it calls is in web/reply.py."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**NO_STORE, **headers}.items())
    return cast("web.StreamResponse", Reply(body, JSON, status, lines))


TenantHandler = Callable[[Exchange], Awaitable[Answer | RawAnswer]]


class Tenants:
    """Makes routes whose handlers are run for authenticated tenants only."""

    def __init__(self, tenants: TenantDirectory, settled: Callable[[str], Awaitable[None]]) -> None:
        self._tenants = tenants
        # Whoever asks after a call sees what followed from it.
        self._settled = settled
        self._rate_limiter = RateLimiter()

    def route(
        self,
        method: str,
        path: str,
        handler: TenantHandler,
        operation: Operation,
        *,
        is_rate_limited: bool = True,
    ) -> Route:
        async def run(request: web.Request) -> web.StreamResponse:
            request_id = request_id_of(request)
            with logged_as(request_id):
                return await answered(request, request_id)

        async def answered(request: web.Request, request_id: str) -> web.StreamResponse:
            try:
                tenant = authenticated(self._tenants, request)
                if is_rate_limited:
                    self._check_rate(tenant)
                check_version(request)
                await self._settled(tenant.id)
                exchange = Exchange(request, request_id, tenant)
                answer = await handler(exchange)
            except Exception as error:
                return refusal(request, problem_of(error), request_id)
            match answer:
                case Answer():
                    return _sent(answer.status, exchange.envelope(answer), answer.headers)
                case RawAnswer():
                    return closing_if_unread(request, _sent(answer.status, answer.body, answer.headers))
                case unmatched:
                    assert_never(unmatched)

        frame = TENANT_API if is_rate_limited else UNLIMITED_TENANT_API
        return Route(method, path, run, frame, operation, expect_handler=expect_continue)

    def _check_rate(self, tenant: TenantView) -> None:
        """Raises Refused (429/17). Nobody but the tenant itself gets here and uses up its requests."""
        rate = tenant.settings.rate_limit
        if rate is None:
            return
        wait_s = self._rate_limiter.wait_s(tenant.id, rate, time.monotonic())
        if wait_s > 0:
            message = f"rate_limit: at most {rate.count_max} requests in {rate.window_s} s are admitted."
            # Rounded up: who comes back at that second is admitted.
            raise Refused(Code.TOO_MANY, message, status=429, headers={"Retry-After": str(math.ceil(wait_s))})
