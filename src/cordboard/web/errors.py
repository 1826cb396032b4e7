"""What goes wrong as the REST API words it: a code of exotel.md 8.8, its HTTP status, an envelope.

Every exception that a handler may raise ends in `problem_of`; nothing that a client reads is made from
the text of an exception that we did not write.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog
from aiohttp import web

from cordboard.routing.allocate import Code, Unacceptable
from cordboard.storage.allocations import AlreadyReleased, NotFound
from cordboard.storage.database import CommitUnknown, DatabaseAway
from cordboard.storage.event_records import EventMasked, NoSuchEvent, StillPending
from cordboard.storage.provisioning import (
    WEBHOOK_SECRETS_MAX,
    HasLiveAllocations,
    LastWebhookSecret,
    NoSuchCredential,
    NoSuchTenant,
    NoSuchVirtualNumber,
    TenantExists,
    TooManyWebhookSecrets,
)
from cordboard.switchboard.allocating import KeyTaken, StillRunning
from cordboard.web.envelope import envelope, response
from cordboard.web.request_ids import request_id_of

STATUS_OF: Final[Mapping[Code, int]] = {
    Code.INTERNAL: 500,
    Code.NOT_FOUND: 404,
    Code.UNSUPPORTED_FILTER: 400,
    Code.MISSING: 400,
    Code.NOTHING_FREE: 452,
    Code.BAD: 400,
    Code.UNAUTHENTICATED: 401,
    Code.NOT_PERMITTED: 403,
    Code.VERSION: 400,
    Code.ALL_DUPLICATES: 409,
    Code.BOTH_SIDES: 409,
    Code.REGION: 403,
    Code.BAD_NUMBER: 400,
    Code.TOO_MANY: 413,
    Code.CLIENT_ID_TAKEN: 409,
    Code.PIN_OR_NUMBER_TAKEN: 409,
    Code.DELETED: 410,
    Code.DATE_RANGE: 400,
    Code.FLOW: 422,
}

# As the document of the API words them.
MEANING_OF: Final[Mapping[Code, str]] = {
    Code.INTERNAL: "our fault; with 503 the database cannot be reached",
    Code.NOT_FOUND: "there is nothing of this id",
    Code.UNSUPPORTED_FILTER: "a filter that there is not",
    Code.MISSING: "a mandatory key is missing",
    Code.NOTHING_FREE: "nothing is free to allocate",
    Code.BAD: "a wrong type or value",
    Code.UNAUTHENTICATED: "authentication failed",
    Code.NOT_PERMITTED: "not yours",
    Code.VERSION: "unsupported Exotel-Version",
    Code.ALL_DUPLICATES: "a list of one repeated number",
    Code.BOTH_SIDES: "a number on both sides",
    Code.REGION: "a region that is not served",
    Code.BAD_NUMBER: "not a telephone number, or one that may not be a party",
    Code.TOO_MANY: "too large, too many items or too many requests",
    Code.CLIENT_ID_TAKEN: "the id or key is in use, or what it names does not allow it now",
    Code.PIN_OR_NUMBER_TAKEN: "a PIN or number is registered already",
    Code.DELETED: "deleted already, or past its end",
    Code.DATE_RANGE: "a range that ends before it begins",
    Code.FLOW: "a call flow that is not known",
}

# What a client may try again at once, and no sooner.
RETRY_SOON: Final = {"Retry-After": "1"}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that says why not. `status` is the code's own unless a case needs another."""

    code: Code
    message: str
    status: int = 0
    data: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.status:
            object.__setattr__(self, "status", STATUS_OF[self.code])


class Refused(Exception):
    """Raised by handlers for what has no exception of its own further inside."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        status: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.problem = Problem(code, message, status, headers=headers or {})


def problem_of(error: Exception) -> Problem:
    """What to answer. An exception that nobody foresaw is logged, without its text and values."""
    match error:
        case Refused(problem=problem):
            return problem
        case Unacceptable(fault=fault):
            return Problem(fault.code, fault.message)
        case NotFound(product=product):
            return Problem(Code.NOT_FOUND, f"{product.value}_id: this tenant has no such allocation.")
        case AlreadyReleased(product=product):
            return Problem(Code.DELETED, f"{product.value}_id: the allocation is already deleted.")
        case KeyTaken():
            message = "Idempotency-Key: it was used for another body."
            return Problem(Code.CLIENT_ID_TAKEN, message)
        case StillRunning():
            message = "Idempotency-Key: the first request under it is still running."
            return Problem(Code.CLIENT_ID_TAKEN, message, headers=RETRY_SOON)
        case TenantExists():
            return Problem(Code.CLIENT_ID_TAKEN, "id: there is a tenant of this id.")
        case NoSuchTenant():
            return Problem(Code.NOT_FOUND, "There is no such tenant.")
        case NoSuchVirtualNumber():
            return Problem(Code.NOT_FOUND, "number: the tenant has no such virtual number.")
        case NoSuchCredential():
            return Problem(Code.NOT_FOUND, "The tenant has nothing under this id.")
        case NoSuchEvent():
            return Problem(Code.NOT_FOUND, "event_id: the tenant has no such event.")
        case StillPending():
            message = "event_id: the event is pending; what was not delivered yet cannot be replayed."
            return Problem(Code.CLIENT_ID_TAKEN, message)
        case EventMasked():
            message = (
                "event_id: the event is masked; what it told is no longer kept, so it cannot be replayed."
            )
            return Problem(Code.CLIENT_ID_TAKEN, message)
        case TooManyWebhookSecrets():
            message = f"A tenant has at most {WEBHOOK_SECRETS_MAX} webhook secrets; delete one first."
            return Problem(Code.CLIENT_ID_TAKEN, message)
        case LastWebhookSecret():
            message = "secret_id: it is the last one; make another first, or events would go unsigned."
            return Problem(Code.CLIENT_ID_TAKEN, message)
        case HasLiveAllocations(count=count):
            what = "1 live allocation stands" if count == 1 else f"{count} live allocations stand"
            return Problem(
                Code.CLIENT_ID_TAKEN,
                f"{what} in the way; nothing was deleted.",
                data={"live_allocations": count},
            )
        case DatabaseAway():
            message = "The database cannot be reached; nothing was changed."
            return Problem(Code.INTERNAL, message, 503, headers=RETRY_SOON)
        case CommitUnknown():
            message = (
                "The connection to the database was lost during the commit, so it cannot be known whether the"
                " change was made. Repeat a POST with the same Idempotency-Key, or look with GET."
            )
            return Problem(Code.INTERNAL, message, 503, headers=RETRY_SOON)
        case _:
            _log.error("http.fault", error=type(error).__name__, frames=_frames_of(error))
            return Problem(Code.INTERNAL, "Internal error; it was logged.")


def refusal(request: web.Request, problem: Problem, request_id: str) -> web.Response:
    body = envelope(
        request_id,
        request.method,
        success=False,
        status=problem.status,
        code=problem.code,
        message=problem.message,
        data=problem.data,
    )
    return closing_if_unread(request, response(problem.status, body, problem.headers))


Response = TypeVar("Response", bound=web.StreamResponse)


def closing_if_unread(request: web.Request, answer: Response) -> Response:
    """`answer`, with the end of the connection if the request's body was not read to its end."""
    if not request.content.is_eof():
        # Nobody wants the rest of the body; behind it the connection would not answer for seconds.
        answer.force_close()
    return answer


def unrouted_routes() -> list[web.RouteDef]:
    """The last routes of the application: an envelope for what no other one takes.

    Routes and no middleware, which would cost every hop of every call two coroutines.
    """
    return [
        web.route("*", path, _refuse_unrouted, expect_handler=expect_continue)
        for path in ("/v1/tenants{rest:(/.*)?}", "/admin/v1{rest:(/.*)?}")
    ]


async def _refuse_unrouted(request: web.Request) -> web.Response:
    allowed_methods: set[str] = set()
    for resource in request.app.router.resources():
        _, methods = await resource.resolve(request)
        allowed_methods |= methods - {"*"}
    if _is_of_an_applet(request.path):
        # Platforms read plain text.
        raise (
            web.HTTPMethodNotAllowed(request.method, allowed_methods) if allowed_methods else web.HTTPNotFound
        )
    if allowed_methods:
        allowed = ", ".join(sorted(allowed_methods))
        message = f"The method {request.method} has no meaning here; there are {allowed}."
        problem = Problem(Code.BAD, message, 405, headers={"Allow": allowed})
    else:
        problem = Problem(Code.NOT_FOUND, "There is nothing under this path.")
    return refusal(request, problem, request_id_of(request))


def _is_of_an_applet(path: str) -> bool:
    match path.split("/", 5):
        case ["", "v1", "tenants", _, "exotel", *_]:
            return True
        case _:
            return False


async def expect_continue(request: web.Request) -> web.StreamResponse | None:
    """`Expect: 100-continue` is met, and any other expectation refused in an envelope."""
    if request.headers["Expect"].lower() != "100-continue":
        problem = Problem(Code.BAD, "Expect: only 100-continue can be expected.", 417)
        return refusal(request, problem, request_id_of(request))
    if request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # Nothing of the answer itself was sent yet.
        request.writer.output_size = 0
    return None


def _frames_of(error: BaseException) -> list[str]:
    """Where it was raised, in words that hold no value of a variable."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
