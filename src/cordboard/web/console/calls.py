"""A call: its hops, entries and end in their order, what was decided, and why."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from aiohttp import web
from pydantic import BaseModel

from cordboard.routing.allocate import Code
from cordboard.storage import event_records, listing
from cordboard.storage.audit import Act, ObjectKind
from cordboard.storage.database import Connection
from cordboard.storage.event_records import EventRecord
from cordboard.storage.listing import CallFilter, CallRecord, VerificationFilter, VerificationRecord
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.web.console import words
from cordboard.web.console.allocations import HISTORY_MAX
from cordboard.web.console.finding import ALWAYS
from cordboard.web.console.frame import TENANT, Frame, Page, Visit
from cordboard.web.console.records import MASKED, WHOLE, Row, Sight, call_row, event_row
from cordboard.web.console.words import Said
from cordboard.web.errors import Refused
from cordboard.web.query import Query


class CallQuery(BaseModel):
    call_sid: str


class _Found(NamedTuple):
    calls: list[CallRecord]
    verifications: list[VerificationRecord]
    events: list[EventRecord]


class CallPages:
    def __init__(self, switchboard: Switchboard, frame: Frame) -> None:
        self._switchboard = switchboard
        self._frame = frame

    def routes(self) -> list[web.RouteDef]:
        path = f"{TENANT}/calls"
        return [self._frame.get(path, self._show), self._frame.post(f"{path}/reveal", self._reveal)]

    async def _show(self, visit: Visit) -> Page:
        call_sid = _call_sid(visit)
        return _page(visit, call_sid, await self._read(visit, call_sid), MASKED)

    async def _reveal(self, visit: Visit) -> Page:
        call_sid = _call_sid(visit)
        found = await self._read(visit, call_sid)
        await self._frame.record(visit.act(Act.REVEALED, ObjectKind.CALL, call_sid))
        return _page(visit, call_sid, found, WHOLE)

    async def _read(self, visit: Visit, call_sid: str) -> _Found:
        """Raises Refused (404)."""
        # What was answered a moment ago is written behind.
        await self._switchboard.records.flush()
        found = await self._switchboard.database.read_snapshot(
            partial(_found, tenant=visit.tenant, call_sid=call_sid)
        )
        if not found.calls and not found.verifications:
            raise Refused(Code.NOT_FOUND, "call_sid: nothing is on record of such a call.")
        return found


def _call_sid(visit: Visit) -> str:
    """Raises Refused."""
    query = Query(visit.form, visit.tenant.settings, CallQuery)
    query.must_have("call_sid")
    call_sid = query.text("call_sid")
    assert call_sid is not None, "it must be given"
    return call_sid


async def _found(connection: Connection, tenant: TenantView, call_sid: str) -> _Found:
    calls = await listing.list_calls(
        connection, tenant.cell, tenant.id, CallFilter(call_sid=call_sid), ALWAYS, None, HISTORY_MAX
    )
    entries = await listing.list_verifications(
        connection, tenant.cell, tenant.id, VerificationFilter(call_sid=call_sid), ALWAYS, None, HISTORY_MAX
    )
    events = await event_records.events_of_subject(connection, tenant.cell, tenant.id, call_sid, HISTORY_MAX)
    return _Found(calls.items, entries.items, events)


def _page(visit: Visit, call_sid: str, found: _Found, sight: Sight) -> Page:
    return Page(
        "call.html",
        {
            "call_sid": call_sid,
            "is_whole": sight.is_whole,
            "calls": [
                {
                    **call_row(call, sight),
                    "timeline": _timeline(call, found.verifications),
                    "kept_caller": None if call.caller is None else visit.seal(call.caller.plus),
                    "ending": _ending(call, sight),
                }
                for call in found.calls
            ],
            "events": [event_row(event) for event in found.events],
        },
    )


def _timeline(call: CallRecord, entries: list[VerificationRecord]) -> list[Row]:
    """What happened, the earliest first."""
    moments: list[Row] = [_moment(hop.at_us, words.applet(hop.applet), words.hop(hop)) for hop in call.hops]
    if not call.hops:
        # Recorded by an engine before hops were kept.
        last = words.recorded(call.decision, call.reason, call.matched)
        moments.append(_moment(call.last_hop_at_us, "Last decision", last))
    moments += [
        _moment(entry.verified_at_us, "PIN entry", words.entered(entry.outcome))
        for entry in entries
        if (entry.virtual_number, entry.caller) == (call.virtual_number, call.caller)
    ]
    if call.end is not None:
        ended = Said("plain", "Ended", words.ended(call.end.call_type))
        moments.append(_moment(call.end.ended_at_us, "End", ended))
    return sorted(moments, key=lambda moment: int(moment["at_us"]))


def _moment(at_us: int, kind: str, said: Said) -> Row:
    return {"at_us": at_us, "kind": kind, "said": said}


def _ending(call: CallRecord, sight: Sight) -> Row | None:
    end = call.end
    if end is None:
        return None
    return {
        "call_type": end.call_type,
        "dial_call_status": end.dial_call_status,
        "dialled": sight.number_or_none(end.dialled),
        "dial_call_duration_s": end.dial_call_duration_s,
        "on_call_duration_s": end.on_call_duration_s,
        "recording_url": sight.text(end.recording_url),
        "start_time": end.start_time,
    }
