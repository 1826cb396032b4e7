"""The events of a tenant and the attempts to deliver them, for those who look; and telling them again.

An event that is replayed keeps its id and its number. Where its subject has others pending, it goes before
them, because it was told of before them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from cordboard.clock import to_datetime, to_instant_us
from cordboard.routing.model import Product
from cordboard.storage.database import Connection, Database
from cordboard.storage.events import AttemptError, EventState
from cordboard.storage.facts import EventKind
from cordboard.storage.listing import Page, Span
from cordboard.storage.queries import load
from cordboard.storage.subjects import lock_subjects

_SQL: Final = load("events")

# The last of them; an event that is replayed again and again has more.
ATTEMPTS_SHOWN_MAX: Final = 100
# Events whose subjects are replayed in one transaction: some 50 ms.
REPLAY_BATCH: Final = 500

_LOWEST_ID: Final = UUID(int=0)
_KINDS: Final = [kind.value for kind in EventKind]
_STATES: Final = [state.value for state in EventState]


class NoSuchEvent(Exception):
    pass


class StillPending(Exception):
    """It is yet to be delivered, so there is nothing to replay."""


class EventMasked(Exception):
    """Nobody knows any more what it told, so it cannot be told again."""


class EventKey(NamedTuple):
    created_at_us: int
    id: UUID


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An event as its tenant sees it."""

    id: UUID
    subject: str
    seq: int
    product: Product
    kind: EventKind
    state: EventState
    attempts: int
    # None while an earlier event of the subject is pending, and when it is finished.
    due_at_us: int | None
    created_at_us: int
    replayed_at_us: int | None
    finished_at_us: int | None
    last_result: str | None
    # Of what brought it about; None where no request did.
    request_id: str | None
    endpoint: str = field(repr=False)
    # As kept: whole, masked or sealed.
    facts: Mapping[str, Any] = field(repr=False)
    is_masked: bool


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    attempt: int
    at_us: int
    status: int | None
    ms: int
    error: AttemptError | None


async def list_events(
    connection: Connection,
    cell: int,
    tenant_id: str,
    state: EventState | None,
    kind: EventKind | None,
    span: Span,
    after: EventKey | None,
    limit: int,
) -> Page[EventRecord, EventKey]:
    """Events written within `span`, the newest first."""
    below = EventKey(span.before_us, _LOWEST_ID)
    if after is not None:
        below = min(below, after)
    rows = await connection.fetch(
        _SQL["events"],
        cell,
        tenant_id,
        _STATES if state is None else [state.value],
        _KINDS if kind is None else [kind.value],
        to_datetime(span.from_us),
        to_datetime(below.created_at_us),
        below.id,
        limit + 1,
    )
    records = await _events_at(connection, cell, tenant_id, [row["id"] for row in rows[:limit]])
    has_more = len(rows) > limit
    return Page(records, EventKey(records[-1].created_at_us, records[-1].id) if has_more else None)


async def events_of_subject(
    connection: Connection, cell: int, tenant_id: str, subject: str, limit: int
) -> list[EventRecord]:
    """The newest events of an allocation or, where there was none, of a call."""
    rows = await connection.fetch(_SQL["newest_of_subject"], cell, tenant_id, subject, limit)
    return await _events_at(connection, cell, tenant_id, [row["id"] for row in rows])


async def show_event(
    connection: Connection, cell: int, tenant_id: str, id: UUID
) -> tuple[EventRecord, list[AttemptRecord]]:
    """An event and its last attempts, the latest first. Raises NoSuchEvent."""
    records = await _events_at(connection, cell, tenant_id, [id])
    if not records:
        raise NoSuchEvent
    rows = await connection.fetch(_SQL["attempts_of"], cell, id, ATTEMPTS_SHOWN_MAX)
    return records[0], [
        AttemptRecord(
            row["attempt"],
            to_instant_us(row["at"]),
            row["status"],
            row["ms"],
            None if row["error"] is None else AttemptError(row["error"]),
        )
        for row in rows
    ]


async def _events_at(
    connection: Connection, cell: int, tenant_id: str, ids: Sequence[UUID]
) -> list[EventRecord]:
    rows = await connection.fetch(_SQL["events_at"], cell, tenant_id, ids)
    return [
        EventRecord(
            # As the standard library's: the driver's own is none for JSON.
            id=UUID(bytes=row["id"].bytes),
            subject=row["subject"],
            seq=row["seq"],
            product=Product(row["product"]),
            kind=EventKind(row["kind"]),
            state=EventState(row["state"]),
            attempts=row["attempts"],
            due_at_us=_instant_or_none(row["due_at"]) if row["state"] == "pending" else None,
            created_at_us=to_instant_us(row["created_at"]),
            replayed_at_us=_instant_or_none(row["replayed_at"]),
            finished_at_us=_instant_or_none(row["finished_at"]),
            last_result=row["last_result"],
            request_id=row["request_id"],
            endpoint=row["endpoint"],
            facts=row["facts"],
            is_masked=row["facts_are"] == "masked",
        )
        for row in rows
    ]


def _instant_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else to_instant_us(moment)


async def replay_event(connection: Connection, cell: int, tenant_id: str, id: UUID, now_us: int) -> None:
    """Let a finished event be told again, on a fresh schedule and before what its subject has pending.

    Raises NoSuchEvent, StillPending, EventMasked.
    """
    subject = await connection.fetchval(_SQL["subject_of"], cell, tenant_id, id)
    if subject is None:
        raise NoSuchEvent
    now = to_datetime(now_us)
    await _lock(connection, cell, tenant_id, [subject])
    if await connection.fetchval(_SQL["replay_one"], cell, tenant_id, id, now) is None:
        match await connection.fetchval(_SQL["state_of"], cell, tenant_id, id):
            case None:
                raise NoSuchEvent
            case EventState.PENDING.value:
                raise StillPending
            case _:
                raise EventMasked
    await connection.execute(_SQL["arrange_subjects"], cell, tenant_id, [subject], now)


async def replay_events(
    database: Database,
    cell: int,
    tenant_id: str,
    state: EventState,
    span: Span,
    now_us: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Let all events of this state that were written within `span` be told again; how many there were.

    Those that are masked stay as they are and are not counted.
    A transaction holds all that its subjects have to be told again, so that each subject keeps its order,
    however many transactions it takes. `on_progress` hears after each how many there were so far.
    """
    assert state is not EventState.PENDING, "what is pending cannot be replayed"
    now, begin, end = to_datetime(now_us), to_datetime(span.from_us), to_datetime(span.before_us)
    # Lower than every id of the first instant.
    after = (begin - timedelta(microseconds=1), UUID(int=2**128 - 1))
    count = 0

    async def run(connection: Connection) -> tuple[tuple[datetime, UUID] | None, int]:
        rows = await connection.fetch(
            _SQL["finished_subjects"], cell, tenant_id, state.value, _KINDS, end, *after, now, REPLAY_BATCH
        )
        if not rows:
            return None, 0
        last = (rows[-1]["created_at"], rows[-1]["id"])
        subjects = sorted({row["subject"] for row in rows if row["facts_are"] != "masked"})
        if not subjects:
            return last, 0
        await _lock(connection, cell, tenant_id, subjects)
        replayed = await connection.fetch(
            _SQL["replay_of_subjects"], cell, tenant_id, subjects, state.value, begin, end, now
        )
        await connection.execute(_SQL["arrange_subjects"], cell, tenant_id, subjects, now)
        return last, len(replayed)

    while True:
        last, replayed = await database.write(run)
        count += replayed
        on_progress(count)
        if last is None:
            return count
        after = last


async def _lock(connection: Connection, cell: int, tenant_id: str, subjects: Sequence[str]) -> None:
    await lock_subjects(connection, cell, ((tenant_id, subject) for subject in subjects))
    await connection.execute(_SQL["lock_due"], cell, tenant_id, subjects)
