"""One authenticated request of a tenant, and the frame in which every handler of the REST API runs:
who asks, what was said, and an envelope around it whatever happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, assert_never

from aiohttp import web

from cordboard.switchboard.tenants import TenantDirectory, TenantView
from cordboard.web.auth import authenticated, check_version
from cordboard.web.envelope import Answer, RawAnswer, envelope, response
from cordboard.web.errors import closing_if_unread, expect_continue, new_request_id, problem_of, refusal

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


TenantHandler = Callable[[Exchange], Awaitable[Answer | RawAnswer]]


class Tenants:
    """Makes routes whose handlers are run for authenticated tenants only."""

    def __init__(self, tenants: TenantDirectory) -> None:
        self._tenants = tenants

    def route(self, method: str, path: str, handler: TenantHandler) -> web.RouteDef:
        async def run(request: web.Request) -> web.Response:
            request_id = new_request_id()
            try:
                tenant = authenticated(self._tenants, request)
                check_version(request)
                exchange = Exchange(request, request_id, tenant)
                answer = await handler(exchange)
            except Exception as error:
                return refusal(request, problem_of(error), request_id)
            match answer:
                case Answer():
                    return response(answer.status, exchange.envelope(answer), answer.headers)
                case RawAnswer():
                    return closing_if_unread(request, response(answer.status, answer.body, answer.headers))
                case unmatched:
                    assert_never(unmatched)

        if method == "GET":
            return web.get(path, run, expect_handler=expect_continue)
        return web.route(method, path, run, expect_handler=expect_continue)
