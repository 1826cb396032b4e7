"""What runs around every page: who asks, whether a form is ours, the audit log, and the headers.

A handler gets a Visit and says what to show (Page) or where to go (Redirect). What it raises becomes a page
with the same words as the REST API's (errors.problem_of).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, assert_never
from urllib.parse import parse_qsl, quote, urlencode

from aiohttp import hdrs, web
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from multidict import MultiDict, MultiMapping
from yarl import URL

from cordboard.routing.allocate import Code
from cordboard.storage import audit
from cordboard.storage.audit import Act, NewAct, ObjectKind, Scope
from cordboard.storage.database import Connection
from cordboard.storage.provisioning import NoSuchTenant
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.web.account_time import iso_text, plain_text
from cordboard.web.auth import TENANT_ID
from cordboard.web.bodies import read_bytes
from cordboard.web.console.sessions import SESSION_S, Session, Sessions
from cordboard.web.errors import Problem, Refused, closing_if_unread, problem_of

ROOT: Final = "/console"
TENANT: Final = f"{ROOT}/t/{{tenant}}"
LOGIN: Final = f"{ROOT}/login"
COOKIE: Final = "cordboard_console"
NOTICE: Final = "notice"
FORM_TOKEN: Final = "form_token"  # noqa: S105 - the name of a field.

# Rows of a page, as in the lists of the REST API.
PAGE_MAX: Final = 50
# The longest thing that anybody types here is a setting: the list of flows, or a prompt of 1,000 characters.
FORM_BYTES_MAX: Final = 64 << 10
FORM_FIELDS_MAX: Final = 20
# A proxy's word for whom it speaks; a list of a dozen addresses at most.
FORWARDED_CHARACTERS_MAX: Final = 200

_HERE: Final = Path(__file__).parent
STYLE: Final = (_HERE / "console.css").read_bytes()
# Named by what is in it, so that a browser may keep it for good.
STYLE_PATH: Final = f"{ROOT}/style-{hashlib.sha256(STYLE).hexdigest()[:16]}.css"
ICON: Final = (_HERE / "icon.svg").read_bytes()
ICON_PATH: Final = f"{ROOT}/icon-{hashlib.sha256(ICON).hexdigest()[:16]}.svg"

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    # Not `no-referrer`, with which browsers send no Origin along with our own forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_KEPT_FOR_GOOD: Final = {"Cache-Control": "public, max-age=31536000, immutable"}

# Where a login may lead: pages of ours, and no host that a browser would read out of it.
_OWN_PAGE: Final = re.compile(rf"{ROOT}(/[A-Za-z0-9_\-./]*)?(\?[A-Za-z0-9_\-.%=&+:]*)?", re.ASCII)

# What a redirect may have the next page say.
NOTICES: Final[Mapping[str, str]] = {
    "replayed": "The event will be told again.",
    "cleared": "The window was cleared, on all nodes.",
    "changed": "The setting was changed.",
    "changed-pending": "The setting was changed; this node does not route by it yet.",
}


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form that say something: a blank one says nothing."""

    query: MultiMapping[str]


@dataclass(frozen=True, slots=True)
class Page:
    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True, slots=True)
class Redirect:
    """To a page of ours; `notice` is a key of NOTICES."""

    path: str
    notice: str | None = None
    drops_session: bool = False


@dataclass(frozen=True, slots=True)
class Visit:
    request: web.Request
    session: Session
    form: Form
    client_address: str
    sessions: Sessions
    now_us: int
    _tenant: TenantView | None

    @property
    def tenant(self) -> TenantView:
        assert self._tenant is not None, "only pages below a tenant ask for it"
        return self._tenant

    def act(self, act: Act, kind: ObjectKind, object_id: str) -> NewAct:
        scope = None if self._tenant is None else Scope(self._tenant.cell, self._tenant.id)
        return NewAct(self.session.operator, self.client_address, act, kind, object_id, scope)

    def seal(self, value: str) -> str:
        return self.sessions.seal(value, self.now_us)

    def unseal(self, field_name: str) -> str | None:
        """What a hidden field keeps. Raises Refused if it is too old or was tampered with."""
        sealed = self.form.query.get(field_name)
        if sealed is None:
            return None
        value = self.sessions.unseal(sealed, self.now_us)
        if value is None:
            raise Refused(Code.BAD, f"{field_name}: the form is too old; type the value again.")
        return value


Handler = Callable[[Visit], Awaitable[Page | Redirect]]


class Frame:
    """Makes the routes of pages."""

    def __init__(self, switchboard: Switchboard, sessions: Sessions) -> None:
        self._switchboard = switchboard
        self._sessions = sessions
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["urlpart"] = partial(quote, safe="")
        self._templates.globals |= {"root": ROOT, "style_path": STYLE_PATH, "icon_path": ICON_PATH}

    def get(self, path: str, handler: Handler) -> web.RouteDef:
        return web.get(path, partial(self._run, handler))

    def post(self, path: str, handler: Handler) -> web.RouteDef:
        return web.post(path, partial(self._run, handler))

    def rest(self, path: str) -> web.RouteDef:
        """A page for what no other route of the console takes."""

        async def refuse(_: Visit) -> Page:
            raise Refused(Code.NOT_FOUND, "There is no such page.")

        return web.route("*", path, partial(self._run, refuse))

    async def record(self, act: NewAct) -> None:
        """Put an act on record. What it shows is shown after this. Raises DatabaseAway, CommitUnknown."""
        now_us = self._switchboard.clock.now_us()

        async def write(connection: Connection) -> None:
            await audit.record(connection, act, now_us)

        await self._switchboard.database.write(write)

    async def _run(self, handler: Handler, request: web.Request) -> web.StreamResponse:
        now_us = self._switchboard.clock.now_us()
        session = self.session_of(request)
        tenant: TenantView | None = None
        try:
            if request.method == hdrs.METH_POST:
                check_same_origin(request)
            if session is None:
                return self._to_login(request)
            form = await _form_of(request, session)
            tenant = self._tenant_of(request)
            if tenant is not None:
                await self._switchboard.answering.settled(tenant.id)
            visit = Visit(request, session, form, client_address(request), self._sessions, now_us, tenant)
            said = await handler(visit)
            match said:
                case Page():
                    return self.page(request, said, session, tenant)
                case Redirect():
                    return redirect(request, said)
                case unmatched:
                    assert_never(unmatched)
        except Exception as error:
            return self.problem(request, problem_of(error), session, tenant)

    def session_of(self, request: web.Request) -> Session | None:
        cookie = request.cookies.get(COOKIE)
        return None if cookie is None else self._sessions.read(cookie, self._switchboard.clock.now_us())

    def page(
        self, request: web.Request, page: Page, session: Session | None, tenant: TenantView | None = None
    ) -> web.Response:
        zone = "UTC" if tenant is None else tenant.settings.timezone
        values = {
            "session": session,
            "tenant": tenant,
            "zone": zone,
            "path": request.path,
            "notice": NOTICES.get(request.query.get(NOTICE, "")),
            # `2026-03-27 12:17:09`, and the same with its offset for machines.
            "when": partial(plain_text, zone=zone),
            "when_iso": partial(iso_text, zone=zone),
            "when_ms": partial(_exact_text, zone=zone),
            "pretty": _pretty,
            **page.values,
        }
        text = self._templates.get_template(page.template).render(values)
        return closing_if_unread(
            request,
            web.Response(
                status=page.status,
                text=text,
                content_type="text/html",
                headers={**_HEADERS, "Cache-Control": "no-store"},
            ),
        )

    def problem(
        self,
        request: web.Request,
        problem: Problem,
        session: Session | None,
        tenant: TenantView | None = None,
    ) -> web.Response:
        page = Page("problem.html", {"message": problem.message, "code": problem.status}, problem.status)
        answer = self.page(request, page, session, tenant)
        answer.headers.update(problem.headers)
        return answer

    def _tenant_of(self, request: web.Request) -> TenantView | None:
        """Raises NoSuchTenant."""
        tenant_id = request.match_info.get("tenant")
        if tenant_id is None:
            return None
        tenant = self._switchboard.tenants.get(tenant_id) if TENANT_ID.fullmatch(tenant_id) else None
        if tenant is None:
            raise NoSuchTenant
        return tenant

    def _to_login(self, request: web.Request) -> web.Response:
        wanted = request.path_qs if request.method == hdrs.METH_GET else ROOT
        return redirect(request, Redirect(f"{LOGIN}?{urlencode({'next': wanted})}"))


def redirect(request: web.Request, to: Redirect) -> web.Response:
    location = URL(to.path)
    if to.notice is not None:
        location = location.update_query({NOTICE: to.notice})
    # 303: whatever was posted, what follows is a GET, and going back posts nothing again.
    answer = web.Response(
        status=303, headers={**_HEADERS, "Cache-Control": "no-store", "Location": str(location)}
    )
    if to.drops_session:
        answer.del_cookie(COOKIE, path=ROOT, secure=is_tls(request), httponly=True, samesite="Strict")
    return closing_if_unread(request, answer)


def own_page(path: str | None) -> str:
    """`path`, if it is a page of the console; else its first page."""
    return path if path is not None and _OWN_PAGE.fullmatch(path) else ROOT


def check_same_origin(request: web.Request) -> None:
    """Raises Refused (403) for a form that another site sends.

    Browsers say Sec-Fetch-Site on https and on this machine, and an Origin with every form.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is None:
        # Before a proxy with TLS it is https, behind it http.
        own = {f"{scheme}://{request.host}" for scheme in ("http", "https")}
        is_own = request.headers.get(hdrs.ORIGIN) in own
    else:
        is_own = site == "same-origin"
    if not is_own:
        raise Refused(Code.NOT_PERMITTED, "Origin: this form was not sent by a page of the console.")


def is_tls(request: web.Request) -> bool:
    """Whether the browser speaks TLS, to us or to a proxy that says so."""
    return request.secure or _first_word(request, hdrs.X_FORWARDED_PROTO) == "https"


def _first_word(request: web.Request, name: str) -> str:
    """Of proxies in a row, the one that the browser spoke to."""
    return request.headers.get(name, "").partition(",")[0].strip().lower()


def client_address(request: web.Request) -> str:
    """Who is connected, and for whom it says that it speaks: a proxy's word, or anybody's claim."""
    peer = request.remote or "unknown"
    forwarded = request.headers.get(hdrs.X_FORWARDED_FOR, "")
    claimed = "".join(filter(str.isprintable, forwarded))[:FORWARDED_CHARACTERS_MAX].strip()
    return f"{peer}, for {claimed}" if claimed else peer


def set_cookie(response: web.Response, request: web.Request, cookie: str) -> None:
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=SESSION_S,
        path=ROOT,
        secure=is_tls(request),
        httponly=True,
        samesite="Strict",
    )


async def fields_of(request: web.Request) -> MultiDict[str]:
    """The fields of a form. Raises Refused."""
    body = await read_bytes(request, FORM_BYTES_MAX)
    try:
        fields = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX, errors="strict"
        )
    except (UnicodeDecodeError, ValueError):
        raise Refused(Code.BAD, "The form cannot be read.") from None
    return MultiDict((key, value.strip()) for key, value in fields if value.strip())


async def _form_of(request: web.Request, session: Session) -> Form:
    """Raises Refused (403) for a POST of another session's form."""
    if request.method != hdrs.METH_POST:
        asked = request.query.items()
        return Form(MultiDict((key, value) for key, value in asked if key != NOTICE and value.strip()))
    fields = await fields_of(request)
    given = fields.popone(FORM_TOKEN, "")
    if not hmac.compare_digest(given.encode(), session.form_token.encode()):
        raise Refused(
            Code.NOT_PERMITTED, f"{FORM_TOKEN}: the form is of another session; open the page anew."
        )
    return Form(fields)


def _exact_text(instant_us: int, zone: str) -> str:
    """With milliseconds: the hops of a call follow each other within a second."""
    return f"{plain_text(instant_us, zone)}.{instant_us // 1_000 % 1_000:03d}"


def _pretty(value: object) -> str:
    """JSON as a person reads it; the templates escape it."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def static_routes() -> list[web.RouteDef]:
    async def send_style(_: web.Request) -> web.Response:
        return web.Response(body=STYLE, content_type="text/css", charset="utf-8", headers=_static_headers())

    async def send_icon(_: web.Request) -> web.Response:
        return web.Response(body=ICON, content_type="image/svg+xml", headers=_static_headers())

    return [web.get(STYLE_PATH, send_style), web.get(ICON_PATH, send_icon)]


def _static_headers() -> dict[str, str]:
    return {**_HEADERS, **_KEPT_FOR_GOOD}
