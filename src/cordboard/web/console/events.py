"""What subscribers were told, are yet to be told, or were never told; every attempt; and telling it again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel

from cordboard.storage import audit, event_records
from cordboard.storage.audit import Act, ObjectKind
from cordboard.storage.database import Connection
from cordboard.storage.event_records import AttemptRecord, EventRecord, NoSuchEvent
from cordboard.storage.events import EventState
from cordboard.storage.facts import EventKind
from cordboard.switchboard.service import Switchboard
from cordboard.web.console import words
from cordboard.web.console.frame import PAGE_MAX, TENANT, Frame, Page, Redirect, Visit
from cordboard.web.console.records import Row, event_row
from cordboard.web.errors import Refused
from cordboard.web.events import body_shown, events_page
from cordboard.web.query import Query, cursor_of
from cordboard.web.schemas import parse_id


class EventsQuery(BaseModel):
    state: str | None = None
    kind: str | None = None
    from_date: str | None = None
    to_date: str | None = None
    cursor: str | None = None


class EventPages:
    def __init__(self, switchboard: Switchboard, frame: Frame) -> None:
        self._switchboard = switchboard
        self._database = switchboard.database
        self._frame = frame

    def routes(self) -> list[web.RouteDef]:
        one = f"{TENANT}/events/{{event_id}}"
        return [
            self._frame.get(f"{TENANT}/events", self._show_all),
            self._frame.get(one, self._show),
            self._frame.post(f"{one}/reveal", self._reveal),
            self._frame.post(f"{one}/replay", self._replay),
        ]

    async def _show_all(self, visit: Visit) -> Page:
        tenant, given = visit.tenant, visit.form.query
        filters = {key: given.get(key, "") for key in ("state", "kind", "from_date", "to_date")}
        shown: dict[str, Any] = {
            "filters": filters,
            "states": [(state.value, words.state_of_event(state).short) for state in EventState],
            "kinds": [(kind.value, words.told(kind)) for kind in EventKind],
        }
        try:
            query = Query(visit.form, tenant.settings, EventsQuery)
            page = await events_page(self._database, tenant, query, PAGE_MAX)
        except Refused as refused:
            values = {**shown, "fault": refused.problem.message, "events": [], "next_cursor": None}
            return Page("events.html", values, refused.problem.status)
        return Page(
            "events.html",
            {
                **shown,
                "fault": None,
                "events": [event_row(event) for event in page.items],
                "next_cursor": None if page.next_key is None else cursor_of(page.next_key),
            },
        )

    async def _show(self, visit: Visit) -> Page:
        return self._page(*await self._read(visit), is_whole=False)

    async def _reveal(self, visit: Visit) -> Page:
        event, attempts = await self._read(visit)
        await self._frame.record(visit.act(Act.REVEALED, ObjectKind.EVENT, str(event.id)))
        return self._page(event, attempts, is_whole=True)

    async def _read(self, visit: Visit) -> tuple[EventRecord, list[AttemptRecord]]:
        """Raises NoSuchEvent."""
        tenant, id = visit.tenant, _event_id(visit)
        return await self._database.read_snapshot(
            lambda connection: event_records.show_event(connection, tenant.cell, tenant.id, id)
        )

    def _page(self, event: EventRecord, attempts: list[AttemptRecord], *, is_whole: bool) -> Page:
        return Page(
            "event.html",
            {
                "event": event_row(event),
                "is_masked": event.is_masked,
                "is_pending": event.state is EventState.PENDING,
                "is_allocation": parse_id(event.subject) is not None,
                "attempts": [_attempt(attempt) for attempt in attempts],
                "body": body_shown(event, self._switchboard.keys, is_whole=is_whole),
                "is_whole": is_whole,
            },
        )

    async def _replay(self, visit: Visit) -> Redirect:
        tenant, id, now_us = visit.tenant, _event_id(visit), visit.now_us

        async def replay(connection: Connection) -> None:
            await audit.record(connection, visit.act(Act.REPLAYED, ObjectKind.EVENT, str(id)), now_us)
            await event_records.replay_event(connection, tenant.cell, tenant.id, id, now_us)

        await self._database.write(replay)
        self._switchboard.wake_sender()
        return Redirect(f"{TENANT.format(tenant=tenant.id)}/events/{id}", "replayed")


def _event_id(visit: Visit) -> UUID:
    """Raises NoSuchEvent."""
    id = parse_id(visit.request.match_info["event_id"])
    if id is None:
        raise NoSuchEvent
    return id


def _attempt(attempt: AttemptRecord) -> Row:
    return {
        "attempt": attempt.attempt,
        "at_us": attempt.at_us,
        "status": attempt.status,
        "ms": attempt.ms,
        "said": "Taken." if attempt.error is None else words.failed(attempt.error),
        "tone": "good" if attempt.error is None else "bad",
    }
