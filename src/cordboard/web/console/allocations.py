"""An allocation: who is on it, what it can do now, and what became of it."""

from __future__ import annotations

from functools import partial
from typing import Final, NamedTuple
from uuid import UUID

from aiohttp import web

from cordboard.routing.allocate import Code, Standing
from cordboard.storage import allocations, event_records, listing
from cordboard.storage.allocations import Member
from cordboard.storage.audit import Act, ObjectKind
from cordboard.storage.database import Connection
from cordboard.storage.event_records import EventRecord
from cordboard.storage.listing import CallFilter, CallRecord, VerificationFilter, VerificationRecord
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.web.console.finding import ALWAYS, allocation_id_of
from cordboard.web.console.frame import TENANT, Frame, Page, Visit
from cordboard.web.console.records import (
    MASKED,
    WHOLE,
    Sight,
    allocation_shown,
    call_row,
    event_row,
    verification_row,
)
from cordboard.web.errors import Refused

# The newest of each; a line that hundreds call is looked at by CallSid or caller.
HISTORY_MAX: Final = 50


class _History(NamedTuple):
    standing: Standing
    members: list[Member]
    calls: list[CallRecord]
    has_more_calls: bool
    verifications: list[VerificationRecord]
    events: list[EventRecord]


class AllocationPages:
    def __init__(self, switchboard: Switchboard, frame: Frame) -> None:
        self._switchboard = switchboard
        self._frame = frame

    def routes(self) -> list[web.RouteDef]:
        path = f"{TENANT}/allocations/{{allocation_id}}"
        return [
            self._frame.get(path, partial(self._show, MASKED)),
            self._frame.post(f"{path}/reveal", self._reveal),
        ]

    async def _reveal(self, visit: Visit) -> Page:
        history = await self._read(visit)
        id = str(UUID(bytes=history.standing.allocation.id))
        await self._frame.record(visit.act(Act.REVEALED, ObjectKind.ALLOCATION, id))
        return _page(history, visit.now_us, WHOLE)

    async def _show(self, sight: Sight, visit: Visit) -> Page:
        return _page(await self._read(visit), visit.now_us, sight)

    async def _read(self, visit: Visit) -> _History:
        """Raises Refused (404)."""
        id = allocation_id_of(visit.request.match_info["allocation_id"])
        found = None
        if id is not None:
            await self._switchboard.records.flush()
            found = await self._switchboard.database.read_snapshot(
                partial(_history, tenant=visit.tenant, id=id)
            )
        if found is None:
            raise Refused(Code.NOT_FOUND, "allocation_id: this tenant has no such allocation.")
        return found


async def _history(connection: Connection, tenant: TenantView, id: UUID) -> _History | None:
    cell = tenant.cell
    found = (await allocations.find(connection, cell, [id])).get(id)
    if found is None or found.standing.tenant_id != tenant.id:
        return None
    calls = await listing.list_calls(
        connection, cell, tenant.id, CallFilter(allocation_id=id), ALWAYS, None, HISTORY_MAX
    )
    verifications = await listing.list_verifications(
        connection, cell, tenant.id, VerificationFilter(allocation_id=id), ALWAYS, None, HISTORY_MAX
    )
    return _History(
        found.standing,
        await allocations.members(connection, cell, id),
        calls.items,
        calls.next_key is not None,
        verifications.items,
        await event_records.events_of_subject(connection, cell, tenant.id, str(id), HISTORY_MAX),
    )


def _page(history: _History, now_us: int, sight: Sight) -> Page:
    return Page(
        "allocation.html",
        {
            "allocation": allocation_shown(history.standing, history.members, now_us, sight),
            "is_whole": sight.is_whole,
            "calls": [call_row(call, sight) for call in history.calls],
            "has_more_calls": history.has_more_calls,
            "history_max": HISTORY_MAX,
            "verifications": [verification_row(entry, sight) for entry in history.verifications],
            "events": [event_row(event) for event in history.events],
        },
    )
