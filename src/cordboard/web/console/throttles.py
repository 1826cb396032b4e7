"""The windows of wrong PINs of a tenant, and clearing one."""

from __future__ import annotations

from functools import partial
from typing import assert_never

from aiohttp import web
from multidict import MultiDict
from pydantic import BaseModel

from cordboard.routing.allocate import Code
from cordboard.routing.changes import ThrottleCleared
from cordboard.routing.model import ThrottleScope
from cordboard.routing.tenant import rate_text
from cordboard.storage import audit, throttles
from cordboard.storage.audit import Act, ObjectKind
from cordboard.storage.database import Connection
from cordboard.storage.feed import Position
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.throttle import WindowState
from cordboard.web.admin import WINDOWS_SHOWN_MAX, fullest_windows
from cordboard.web.console.frame import TENANT, Form, Frame, Page, Redirect, Visit
from cordboard.web.console.records import MASKED, WHOLE, Row, Sight, line_text
from cordboard.web.errors import Refused
from cordboard.web.query import Query


class ClearForm(BaseModel):
    """At most one of these; none means the tenant's own window."""

    caller: str | None = None
    vn: str | None = None
    all: str | None = None


class ThrottlePages:
    def __init__(self, switchboard: Switchboard, frame: Frame) -> None:
        self._switchboard = switchboard
        self._frame = frame

    def routes(self) -> list[web.RouteDef]:
        path = f"{TENANT}/throttles"
        return [
            self._frame.get(path, partial(self._show, MASKED)),
            self._frame.post(f"{path}/reveal", self._reveal),
            self._frame.post(f"{path}/clear", self._clear),
        ]

    async def _show(self, sight: Sight, visit: Visit) -> Page:
        windows = fullest_windows(self._switchboard, visit.tenant)
        return Page(
            "throttles.html",
            {
                "windows": [_row(state, visit, sight) for state in windows],
                "windows_max": WINDOWS_SHOWN_MAX,
                "is_whole": sight.is_whole,
            },
        )

    async def _reveal(self, visit: Visit) -> Page:
        await self._frame.record(visit.act(Act.REVEALED, ObjectKind.THROTTLES, "callers"))
        return await self._show(WHOLE, visit)

    async def _clear(self, visit: Visit) -> Redirect:
        """Raises Refused."""
        tenant, now_us = visit.tenant, visit.now_us
        fields = MultiDict(visit.form.query)
        if (kept := visit.unseal("caller")) is not None:
            fields["caller"] = kept
        query = Query(Form(fields), tenant.settings, ClearForm)
        caller, virtual_number, is_all = query.number("caller"), query.number("vn"), query.flag("all")
        if sum((caller is not None, virtual_number is not None, is_all)) > 1:
            raise Refused(Code.BAD, "caller, vn and all: at most one of them may be given.")
        scope = throttles.scope_of(caller, virtual_number, is_all=is_all)
        cleared = ThrottleCleared(tenant.id, scope, caller or virtual_number, now_us)

        line = None if virtual_number is None else line_text(self._switchboard, tenant, virtual_number)
        name = _name(scope, None if caller is None else str(caller), line)

        async def clear(connection: Connection) -> Position:
            act = visit.act(Act.THROTTLE_CLEARED, ObjectKind.THROTTLES, name)
            await audit.record(connection, act, now_us)
            return await throttles.clear(connection, tenant.cell, cleared, now_us)

        await self._switchboard.propagate(await self._switchboard.database.write(clear))
        return Redirect(f"{TENANT.format(tenant=tenant.id)}/throttles", "cleared")


def _name(scope: ThrottleScope | None, caller: str | None, line: str | None) -> str:
    """What is cleared, as the audit log has it."""
    match scope:
        case None:
            return "all windows"
        case ThrottleScope.TENANT:
            return "the tenant's own window"
        case ThrottleScope.CALLER:
            return f"the window of caller {caller}"
        case ThrottleScope.VN:
            return f"the windows of {line}"
        case unmatched:
            assert_never(unmatched)


def _row(state: WindowState, visit: Visit, sight: Sight) -> Row:
    scope, caller, virtual_number = state.window
    match scope:
        case ThrottleScope.CALLER:
            kind = "Caller" if caller is not None else "Callers without a number"
        case ThrottleScope.VN:
            kind = "Virtual number"
        case ThrottleScope.TENANT:
            kind = "Tenant"
        case unmatched:
            assert_never(unmatched)
    return {
        "kind": kind,
        "caller": sight.number_or_none(caller),
        "vn": None if virtual_number is None else virtual_number.plus,
        # What a form that clears it brings back.
        "kept_caller": None if caller is None else visit.seal(caller.plus),
        "failures": state.failures,
        "limit": rate_text(state.rate),
        "full_until_us": state.full_until_us,
    }
