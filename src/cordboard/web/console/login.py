"""Login by the admin token, and logout."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog
from aiohttp import web

from cordboard.storage.audit import OPERATOR_CHARACTERS_MAX, Act, NewAct, ObjectKind
from cordboard.storage.database import CommitUnknown, DatabaseAway
from cordboard.switchboard.service import Switchboard
from cordboard.web.console.frame import (
    LOGIN,
    ROOT,
    Frame,
    Page,
    Redirect,
    Visit,
    check_same_origin,
    client_address,
    fields_of,
    own_page,
    redirect,
    set_cookie,
)
from cordboard.web.console.sessions import Sessions
from cordboard.web.errors import problem_of

# A token of 192 random bits is not guessed; this only keeps a wrong one from filling the log at full speed.
# Nobody else waits for it.
WRONG_TOKEN_DELAY_S: Final = 0.3
# Who tries more at the same moment is answered at once, so that delays cannot use up the connections.
DELAYED_MAX: Final = 20

_log = structlog.get_logger(__name__)


class Login:
    def __init__(self, switchboard: Switchboard, frame: Frame, sessions: Sessions) -> None:
        self._switchboard = switchboard
        self._frame = frame
        self._sessions = sessions
        self._delayed = 0

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(LOGIN, self._show),
            web.post(LOGIN, self._log_in),
            self._frame.post(f"{ROOT}/logout", self._log_out),
        ]

    async def _show(self, request: web.Request) -> web.StreamResponse:
        return self._form(request, own_page(request.query.get("next")))

    async def _log_in(self, request: web.Request) -> web.StreamResponse:
        try:
            check_same_origin(request)
            fields = await fields_of(request)
            wanted = own_page(fields.get("next"))
            operator, token = fields.get("name", ""), fields.get("token", "")
            if fault := _fault_of_name(operator):
                return self._form(request, wanted, fault)
            address = client_address(request)
            if not self._sessions.accepts(token):
                _log.warning("console.login_refused", client_address=address)
                await self._delay()
                return self._form(request, wanted, "token: this is not the admin token.", 403, operator)
            now_us = self._switchboard.clock.now_us()
            await self._record_login(NewAct(operator, address, Act.LOGGED_IN, ObjectKind.SESSION, "login"))
        except Exception as error:
            return self._frame.problem(request, problem_of(error), None)
        answer = redirect(request, Redirect(wanted))
        set_cookie(answer, request, self._sessions.begin(operator, now_us))
        return answer

    async def _record_login(self, act: NewAct) -> None:
        """A login shows nothing by itself, so that it may go without a row while the database is away, when
        somebody has to see what this node still does; the log has it."""
        try:
            await self._frame.record(act)
        except (DatabaseAway, CommitUnknown):
            _log.warning("console.login_unrecorded", operator=act.operator, client_address=act.client_address)

    async def _log_out(self, visit: Visit) -> Redirect:
        # Whoever wants to leave is not kept by a database that is away.
        with suppress(DatabaseAway, CommitUnknown):
            await self._frame.record(visit.act(Act.LOGGED_OUT, ObjectKind.SESSION, "logout"))
        return Redirect(LOGIN, drops_session=True)

    def _form(
        self,
        request: web.Request,
        wanted: str,
        fault: str | None = None,
        status: int = 200,
        operator: str = "",
    ) -> web.Response:
        values = {
            "next": wanted,
            "fault": fault,
            "operator": operator,
            "operator_characters_max": OPERATOR_CHARACTERS_MAX,
        }
        if fault is not None and status == 200:
            status = 400
        return self._frame.page(request, Page("login.html", values, status), None)

    async def _delay(self) -> None:
        if self._delayed >= DELAYED_MAX:
            return
        self._delayed += 1
        try:
            await asyncio.sleep(WRONG_TOKEN_DELAY_S)
        finally:
            self._delayed -= 1


def _fault_of_name(operator: str) -> str | None:
    if not operator:
        return "name: say who you are; the audit log keeps it."
    if len(operator) > OPERATOR_CHARACTERS_MAX or not operator.isprintable():
        return f"name must be at most {OPERATOR_CHARACTERS_MAX} printable characters."
    return None
