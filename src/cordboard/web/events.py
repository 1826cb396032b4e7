"""`/events`: what subscribers were told, are yet to be told, and were never told, an extension of ours.

Lists tell of the deliveries and show no body. One event shows its body with numbers and PINs masked; a token
that the operator gave the right to (`token add --reveal`) may ask for them with `reveal=true`.

Good: `?state=dead&from_date=2026-03-01`, `POST …/replay {"state": "dead", "from_date": "2026-03-01"}`.
Once an event is masked for good (storage/resting.py), nobody sees more of it, and nobody is told of it again.

Bad: a replay of what is pending or masked (409/18), of no time at all (400/3), of a range that ends too soon
(23).
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from aiohttp import hdrs

from cordboard.routing.allocate import Code
from cordboard.storage import event_records
from cordboard.storage.database import Database
from cordboard.storage.event_records import AttemptRecord, EventKey, EventRecord, NoSuchEvent
from cordboard.storage.events import EventState
from cordboard.storage.facts import EventKind, facts_of
from cordboard.storage.listing import Page
from cordboard.storage.resting import with_stand_ins
from cordboard.storage.sealing import CannotOpen, DataKeyMissing, DataKeys
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.web.account_time import iso_text
from cordboard.web.auth import basic_credentials
from cordboard.web.bodies import read_object
from cordboard.web.documents import (
    EventData,
    EventListQuery,
    EventQuery,
    EventShownData,
    EventsReplayedData,
    PageOf,
)
from cordboard.web.envelope import Answer
from cordboard.web.errors import Refused
from cordboard.web.exchange import TENANT_PATH, Exchange, Tenants
from cordboard.web.openapi import Operation, Route
from cordboard.web.query import LATEST_US, Query, cursor_of, span_of
from cordboard.web.schemas import EventReplayBody, checked, parse_id
from cordboard.webhooks.destinations import parse_endpoint
from cordboard.webhooks.payloads import body_of, masked

_STATES: Final = [state.value for state in EventState]
_KINDS: Final = [kind.value for kind in EventKind]


class Events:
    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._database = switchboard.database

    def routes(self, tenants: Tenants) -> list[Route]:
        path = f"{TENANT_PATH}/events"
        one = f"{path}/{{event_id}}"
        return [
            tenants.route(
                "GET",
                path,
                self._list,
                Operation(
                    "List events",
                    query=EventListQuery,
                    data=PageOf[EventData],
                    codes=(Code.UNSUPPORTED_FILTER, Code.BAD, Code.DATE_RANGE),
                ),
            ),
            tenants.route(
                "POST",
                f"{path}/replay",
                self._replay_range,
                Operation(
                    "Replay the events of a time range",
                    description="Those of a subject are told in their order, before what it has pending.",
                    body=EventReplayBody,
                    data=EventsReplayedData,
                    codes=(Code.DATE_RANGE,),
                ),
            ),
            tenants.route(
                "GET",
                one,
                self._show,
                Operation(
                    "Show an event and its attempts",
                    query=EventQuery,
                    data=EventShownData,
                    codes=(Code.NOT_FOUND, Code.UNSUPPORTED_FILTER, Code.BAD),
                ),
            ),
            tenants.route(
                "POST",
                f"{one}/replay",
                self._replay,
                Operation(
                    "Replay an event that was delivered or is dead",
                    data=EventsReplayedData,
                    codes=(Code.NOT_FOUND, Code.CLIENT_ID_TAKEN),
                ),
            ),
        ]

    async def _list(self, exchange: Exchange) -> Answer:
        tenant = exchange.tenant
        query = Query(exchange.request, tenant.settings, EventListQuery)
        page = await events_page(self._database, tenant, query)
        return Answer(
            {
                "items": [event_data(event, tenant.settings.timezone) for event in page.items],
                "next_cursor": None if page.next_key is None else cursor_of(page.next_key),
            }
        )

    async def _show(self, exchange: Exchange) -> Answer:
        tenant = exchange.tenant
        is_whole = Query(exchange.request, tenant.settings, EventQuery).flag("reveal")
        credentials = basic_credentials(exchange.request.headers.get(hdrs.AUTHORIZATION, ""))
        if is_whole and (credentials is None or not tenant.reveals_to(credentials[1])):
            raise Refused(Code.NOT_PERMITTED, "reveal: this token may not see numbers and PINs whole.")
        id = _event_id(exchange)
        event, attempts = await self._database.read_snapshot(
            lambda connection: event_records.show_event(connection, tenant.cell, tenant.id, id)
        )
        return Answer(
            shown_data(event, attempts, tenant.settings.timezone, self._switchboard.keys, is_whole=is_whole)
        )

    async def _replay(self, exchange: Exchange) -> Answer:
        tenant, id, now_us = exchange.tenant, _event_id(exchange), self._switchboard.clock.now_us()
        await self._database.write(
            lambda connection: event_records.replay_event(connection, tenant.cell, tenant.id, id, now_us)
        )
        return Answer({"replayed": 1})

    async def _replay_range(self, exchange: Exchange) -> Answer:
        tenant = exchange.tenant
        body = checked(EventReplayBody, await read_object(exchange.request))
        span = span_of(body.from_date, body.to_date, tenant.settings.timezone)
        count = await event_records.replay_events(
            self._database,
            tenant.cell,
            tenant.id,
            EventState(body.state),
            span,
            self._switchboard.clock.now_us(),
        )
        return Answer({"replayed": count})


def _event_id(exchange: Exchange) -> UUID:
    """Raises NoSuchEvent."""
    id = parse_id(exchange.request.match_info["event_id"])
    if id is None:
        raise NoSuchEvent
    return id


async def events_page(
    database: Database, tenant: TenantView, query: Query, limit: int | None = None
) -> Page[EventRecord, EventKey]:
    """The newest events that `state`, `kind`, dates and `cursor` of the query leave; as many as it says,
    where `limit` does not. Raises Refused."""
    state, kind = query.word("state", _STATES), query.word("kind", _KINDS)
    span, after = query.span(), query.after(event_key)
    items_max = query.limit() if limit is None else limit
    return await database.read_snapshot(
        lambda connection: event_records.list_events(
            connection,
            tenant.cell,
            tenant.id,
            None if state is None else EventState(state),
            None if kind is None else EventKind(kind),
            span,
            after,
            items_max,
        )
    )


def event_key(parts: Any) -> EventKey:
    """Raises ValueError or TypeError for what `cursor_of` never made."""
    created_at_us, id = parts
    if type(created_at_us) is not int or not 0 <= created_at_us <= LATEST_US or not isinstance(id, str):
        raise ValueError
    return EventKey(created_at_us, UUID(id))


# ── what is answered ─────────────────────────────────────────────────────────


def event_data(event: EventRecord, zone: str) -> dict[str, Any]:
    endpoint = parse_endpoint(event.endpoint)
    return {
        "id": str(event.id),
        "kind": event.kind.value,
        "product": event.product.value,
        "subject": event.subject,
        "seq": event.seq,
        "state": event.state.value,
        "attempts": event.attempts,
        # The rest of an address may have passwords and keys in it.
        "endpoint": None if endpoint is None else endpoint.host,
        "due_at": _iso_or_none(event.due_at_us, zone),
        "created_at": iso_text(event.created_at_us, zone),
        "replayed_at": _iso_or_none(event.replayed_at_us, zone),
        "finished_at": _iso_or_none(event.finished_at_us, zone),
        "last_result": event.last_result,
        "request_id": event.request_id,
    }


def shown_data(
    event: EventRecord, attempts: list[AttemptRecord], zone: str, keys: DataKeys, *, is_whole: bool
) -> dict[str, Any]:
    return {
        **event_data(event, zone),
        "attempt_log": [
            {
                "attempt": attempt.attempt,
                "at": iso_text(attempt.at_us, zone),
                "status": attempt.status,
                "ms": attempt.ms,
                "error": None if attempt.error is None else attempt.error.value,
            }
            for attempt in attempts
        ],
        "body": body_shown(event, keys, is_whole=is_whole),
    }


def body_shown(event: EventRecord, keys: DataKeys, *, is_whole: bool) -> dict[str, Any] | None:
    """What a subscriber gets; None for facts of another version of the engine, or of a key that it lacks."""
    try:
        kept = with_stand_ins(event.facts) if event.is_masked else keys.facts_of(event.id, event.facts)
        body = body_of(event.product, facts_of(event.kind, kept))
    except (KeyError, TypeError, ValueError, DataKeyMissing, CannotOpen):
        return None
    return body if is_whole and not event.is_masked else masked(body)


def _iso_or_none(instant_us: int | None, zone: str) -> str | None:
    return None if instant_us is None else iso_text(instant_us, zone)
