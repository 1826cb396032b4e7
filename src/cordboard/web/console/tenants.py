"""The tenants of the installation, to choose one, and how the node is."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from pydantic import BaseModel

from cordboard.routing.tenant import DEFAULTS
from cordboard.switchboard.service import Switchboard
from cordboard.web.console.frame import ROOT, Frame, Page, Visit
from cordboard.web.query import Query

# What a page can show; who has more narrows them by the beginning of the id.
TENANTS_SHOWN_MAX: Final = 200


class TenantQuery(BaseModel):
    starts_with: str | None = None


class TenantPages:
    def __init__(self, switchboard: Switchboard, frame: Frame) -> None:
        self._switchboard = switchboard
        self._frame = frame

    def routes(self) -> list[web.RouteDef]:
        return [self._frame.get(ROOT, self._show), self._frame.get(f"{ROOT}/", self._show)]

    async def _show(self, visit: Visit) -> Page:
        beginning = Query(visit.form, DEFAULTS, TenantQuery).text("starts_with") or ""
        switchboard = self._switchboard
        # From the board, so that there is a page while the database is away.
        fitting = [tenant.id for tenant in switchboard.tenants.all() if tenant.id.startswith(beginning)]
        return Page(
            "tenants.html",
            {
                "beginning": beginning,
                "tenants": fitting[:TENANTS_SHOWN_MAX],
                "count": len(fitting),
                "board_age_s": round(switchboard.keeper.age_s(), 3),
                "staleness_max_s": switchboard.settings.staleness_max_s,
                "database_up": switchboard.database.is_up,
                "spool_records": switchboard.recording.spool.records,
            },
        )
