"""All routes of the console."""

from __future__ import annotations

from aiohttp import web

from cordboard.switchboard.service import Switchboard
from cordboard.web.console.acts import ActPages
from cordboard.web.console.allocations import AllocationPages
from cordboard.web.console.calls import CallPages
from cordboard.web.console.dry_run import DryRuns
from cordboard.web.console.events import EventPages
from cordboard.web.console.finding import Finding
from cordboard.web.console.frame import ROOT, Frame, static_routes
from cordboard.web.console.login import Login
from cordboard.web.console.pool import PoolPages
from cordboard.web.console.sessions import Sessions
from cordboard.web.console.settings import SettingsPages
from cordboard.web.console.tenants import TenantPages
from cordboard.web.console.throttles import ThrottlePages


def console_routes(switchboard: Switchboard, admin_token: str) -> list[web.RouteDef]:
    sessions = Sessions(admin_token)
    frame = Frame(switchboard, sessions)
    return [
        *static_routes(),
        *Login(switchboard, frame, sessions).routes(),
        *TenantPages(switchboard, frame).routes(),
        *Finding(switchboard, frame).routes(),
        *AllocationPages(switchboard, frame).routes(),
        *CallPages(switchboard, frame).routes(),
        *DryRuns(switchboard, frame).routes(),
        *PoolPages(switchboard, frame).routes(),
        *SettingsPages(switchboard, frame).routes(),
        *EventPages(switchboard, frame).routes(),
        *ThrottlePages(switchboard, frame).routes(),
        *ActPages(switchboard, frame).routes(),
        frame.rest(f"{ROOT}/{{rest:.*}}"),
    ]
