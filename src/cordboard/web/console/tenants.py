"""The tenants of the installation, to choose one or to find something in all of them, and how the node is."""

from __future__ import annotations

from itertools import islice
from typing import Final

from aiohttp import web
from pydantic import BaseModel

from cordboard.routing.tenant import DEFAULTS
from cordboard.switchboard.service import Switchboard
from cordboard.web.console.finding import FOUND_MAX, find_in, sought_text
from cordboard.web.console.frame import ROOT, Frame, Page, Visit
from cordboard.web.console.records import Row
from cordboard.web.errors import Refused
from cordboard.web.query import Query

# What a page can show; who has more narrows them by the beginning of the id.
TENANTS_SHOWN_MAX: Final = 200
# A dozen short queries each: some 2 s, for somebody who waits.
TENANTS_SOUGHT_MAX: Final = 200


class TenantQuery(BaseModel):
    starts_with: str | None = None


class TenantPages:
    def __init__(self, switchboard: Switchboard, frame: Frame) -> None:
        self._switchboard = switchboard
        self._frame = frame

    def routes(self) -> list[web.RouteDef]:
        return [
            self._frame.get(ROOT, self._show),
            self._frame.get(f"{ROOT}/", self._show),
            self._frame.post(ROOT, self._find),
        ]

    async def _show(self, visit: Visit) -> Page:
        beginning = Query(visit.form, DEFAULTS, TenantQuery).text("starts_with") or ""
        return self._page(beginning)

    async def _find(self, visit: Visit) -> Page:
        """Where something is on record of what somebody knows only an id or a number of."""
        try:
            text = sought_text(visit, DEFAULTS)
        except Refused as refused:
            return self._page("", fault=refused.problem.message, status=refused.problem.status)
        switchboard = self._switchboard
        await switchboard.records.flush()
        places: list[Row] = []
        # One after the other: calls and the API need the connections, too.
        for tenant in islice(switchboard.tenants.all(), TENANTS_SOUGHT_MAX):
            found = await find_in(switchboard, tenant, text, visit.now_us)
            if any(found):
                places.append({"tenant": tenant.id, "counts": [len(items) for items in found]})
        return self._page("", places=places, kept_q=visit.seal(text))

    def _page(
        self,
        beginning: str,
        *,
        places: list[Row] | None = None,
        kept_q: str | None = None,
        fault: str | None = None,
        status: int = 200,
    ) -> Page:
        switchboard = self._switchboard
        # From the board, so that there is a page while the database is away.
        fitting = [tenant.id for tenant in switchboard.tenants.all() if tenant.id.startswith(beginning)]
        return Page(
            "tenants.html",
            {
                "fault": fault,
                "places": places,
                "kept_q": kept_q,
                "sought_max": TENANTS_SOUGHT_MAX,
                "found_max": FOUND_MAX,
                "beginning": beginning,
                "tenants": fitting[:TENANTS_SHOWN_MAX],
                "count": len(fitting),
                "board_age_s": round(switchboard.keeper.age_s(), 3),
                "staleness_max_s": switchboard.settings.staleness_max_s,
                "database_up": switchboard.database.is_up,
                "spool_records": switchboard.recording.spool.records,
            },
            status,
        )
