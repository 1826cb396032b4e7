"""Lists, newest first, a page at a time: allocations, calls and verifications of one tenant.

A page is found by the key at which the one before it ended, never by counting, so that each costs the same
wherever it is. Read a page with `Database.read_snapshot`: its keys and what they name are two queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from cordboard.clock import to_datetime, to_instant_us
from cordboard.routing.allocate import Standing
from cordboard.routing.model import Product, Side, State
from cordboard.routing.numbers import E164
from cordboard.storage import allocations
from cordboard.storage.allocations.rows import side_of
from cordboard.storage.database import Connection
from cordboard.storage.outcomes import WITHHELD
from cordboard.storage.queries import load

_SQL: Final = load("lists")

# The words of the columns; who names none of them wants them all.
DECISIONS: Final = ("connect", "ask_pin", "refuse")
OUTCOMES: Final = ("success", "failure")

_LOWEST_ID: Final = UUID(int=0)

Item = TypeVar("Item")
Key = TypeVar("Key")


class Span(NamedTuple):
    """The instants from `from_us` on and before `before_us`."""

    from_us: int
    before_us: int


class AllocationKey(NamedTuple):
    created_at_us: int
    id: UUID


class CallRecordKey(NamedTuple):
    """`caller` as the table has it: WITHHELD for one that is."""

    first_hop_at_us: int
    call_sid: str
    virtual_number: int
    caller: int


class VerificationKey(NamedTuple):
    """Where a page ended. Instead of the digest of the last entry, which would tell its digits to whoever
    tries them all, `shown` counts the entries of this very instant of the call that were on pages before:
    nearly always the last one alone."""

    verified_at_us: int
    call_sid: str
    virtual_number: int
    caller: int
    shown: int


@dataclass(frozen=True, slots=True)
class Page(Generic[Item, Key]):
    items: list[Item]
    # Where the next page begins; None if there is no more.
    next_key: Key | None


@dataclass(frozen=True, slots=True)
class AllocationFilter:
    """What is wanted; None wants all. `number` is listed on a side or a member of it."""

    product: Product
    client_id: str | None = None
    virtual_number: E164 | None = None
    number: E164 | None = None
    state: State | None = None


@dataclass(frozen=True, slots=True)
class CallFilter:
    """What is wanted; None wants all. `caller` is WITHHELD for those who are."""

    call_sid: str | None = None
    caller: int | None = None
    virtual_number: E164 | None = None
    allocation_id: UUID | None = None
    decision: str | None = None


@dataclass(frozen=True, slots=True)
class VerificationFilter:
    """What is wanted; None wants all. `caller` is WITHHELD for those who are."""

    call_sid: str | None = None
    caller: int | None = None
    virtual_number: E164 | None = None
    allocation_id: UUID | None = None
    outcome: str | None = None


@dataclass(frozen=True, slots=True)
class EndRecord:
    """How a call ended; durations in seconds, texts as the platform sent them, None where nobody told."""

    call_type: str
    dial_call_status: str | None
    dialled: E164 | None
    dial_call_duration_s: int | None
    on_call_duration_s: int | None
    recording_url: str | None
    start_time: str | None
    ended_at_us: int
    # Of whoever reported it; here and below None where the row is older than the column.
    request_id: str | None


class HopRecord(NamedTuple):
    """What was decided at one hop, and which applet asked. `reason` is that of a refusal, how a caller was
    matched, or the last entry before a prompt; `attempts_left` is told of prompts."""

    at_us: int
    applet: str
    decision: str
    reason: str
    attempts_left: int | None


@dataclass(frozen=True, slots=True)
class CallRecord:
    """The last decision about a call. `caller` is None if withheld, `end` until somebody told it."""

    call_sid: str
    virtual_number: E164
    caller: E164 | None
    decision: str
    reason: str | None
    matched: str | None
    allocation_id: UUID | None
    product: Product | None
    side: Side | None
    target: E164 | None
    first_hop_at_us: int
    last_hop_at_us: int
    # Of the hop with the last decision.
    request_id: str | None
    end: EndRecord | None
    # The earliest first; none of a call that was recorded before hops were.
    hops: tuple[HopRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class VerificationRecord:
    """One entry of a call, without its digits. `caller` is None if withheld."""

    call_sid: str
    virtual_number: E164
    caller: E164 | None
    outcome: str
    reason: str
    allocation_id: UUID | None
    side: Side | None
    verified_at_us: int
    # Of the hop that brought the digits first.
    request_id: str | None


# ── allocations ──────────────────────────────────────────────────────────────


async def list_allocations(
    connection: Connection,
    cell: int,
    tenant_id: str,
    wanted: AllocationFilter,
    span: Span,
    after: AllocationKey | None,
    limit: int,
    now_us: int,
) -> Page[Standing, AllocationKey]:
    """Allocations made within `span`, vaulted ones too; which of them are vaulted is told as of `now_us`."""
    below = AllocationKey(span.before_us, _LOWEST_ID)
    if after is not None:
        below = min(below, after)
    query, more = _allocation_query(wanted, now_us)
    await connection.execute(_SQL["plan_for_values"])
    rows = await connection.fetch(
        _SQL[query],
        cell,
        tenant_id,
        wanted.product.value,
        to_datetime(span.from_us),
        to_datetime(below.created_at_us),
        below.id,
        limit + 1,
        *more,
    )
    ids = [row["id"] for row in rows[:limit]]
    found = await allocations.find(connection, cell, ids)
    standings = [found[id].standing for id in ids]
    return Page(standings, _key_of(standings[-1]) if len(rows) > limit else None)


def _key_of(standing: Standing) -> AllocationKey:
    return AllocationKey(standing.created_at_us, UUID(bytes=standing.allocation.id))


def _allocation_query(wanted: AllocationFilter, now_us: int) -> tuple[str, tuple[Any, ...]]:
    """The query that reads least, and its parameters from the eighth on."""
    now = to_datetime(now_us)
    vn, number = wanted.virtual_number, wanted.number
    state = None if wanted.state is None else wanted.state.value
    match wanted:
        case AllocationFilter(client_id=str(client_id)):
            return "allocations_by_client_id", (now, client_id, state, vn, number)
        case AllocationFilter(number=int()):
            return "allocations_by_number", (now, number, state, vn)
        case AllocationFilter(virtual_number=int(), state=State.ACTIVE):
            return "active_allocations_by_vn", (now, vn)
        case AllocationFilter(virtual_number=int()):
            return "allocations_by_vn", (now, vn, state)
        case AllocationFilter(state=State.ACTIVE):
            return "active_allocations", (now,)
        case AllocationFilter(state=State.VAULT):
            return "vaulted_allocations", (now,)
        case _:
            return "allocations", ()


# ── calls ────────────────────────────────────────────────────────────────────


async def list_calls(
    connection: Connection,
    cell: int,
    tenant_id: str,
    wanted: CallFilter,
    span: Span,
    after: CallRecordKey | None,
    limit: int,
) -> Page[CallRecord, CallRecordKey]:
    """Calls whose first hop came within `span`, one for each caller and VN of a CallSid."""
    below = CallRecordKey(span.before_us, "", 0, 0)
    if after is not None:
        below = min(below, after)
    path, more = _call_path(wanted)
    await connection.execute(_SQL["plan_for_values"])
    rows = await connection.fetch(
        _SQL[f"calls{path}"],
        cell,
        tenant_id,
        DECISIONS if wanted.decision is None else (wanted.decision,),
        to_datetime(span.from_us),
        to_datetime(below.first_hop_at_us),
        *below[1:],
        limit + 1,
        *more,
    )
    keys = [CallRecordKey(to_instant_us(row["first_hop_at"]), *row[1:]) for row in rows[:limit]]
    records = await connection.fetch(
        _SQL["calls_at"],
        cell,
        tenant_id,
        [key.call_sid for key in keys],
        [key.virtual_number for key in keys],
        [key.caller for key in keys],
    )
    return Page(list(map(_call_record, records)), keys[-1] if len(rows) > limit else None)


async def count_calls_of(connection: Connection, cell: int, allocation_id: UUID) -> int:
    """How many calls the allocation has had, connected or not."""
    count: int = await connection.fetchval(_SQL["count_calls_of"], cell, allocation_id)
    return count


def _call_record(row: asyncpg.Record) -> CallRecord:
    end = None
    if row["call_type"] is not None:
        end = EndRecord(
            call_type=row["call_type"],
            dial_call_status=row["dial_call_status"],
            dialled=_number(row["dialled"]),
            dial_call_duration_s=row["dial_call_duration_s"],
            on_call_duration_s=row["on_call_duration_s"],
            recording_url=row["recording_url"],
            start_time=row["start_time"],
            ended_at_us=to_instant_us(row["ended_at"]),
            request_id=row["end_request_id"],
        )
    return CallRecord(
        call_sid=row["call_sid"],
        virtual_number=E164(row["virtual_number"]),
        caller=_caller(row["caller"]),
        decision=row["decision"],
        reason=row["reason"],
        matched=row["matched"],
        allocation_id=row["allocation_id"],
        product=None if row["product"] is None else Product(row["product"]),
        side=_side(row["side"]),
        target=_number(row["target"]),
        first_hop_at_us=to_instant_us(row["first_hop_at"]),
        last_hop_at_us=to_instant_us(row["last_hop_at"]),
        end=end,
        request_id=row["request_id"],
        hops=_hops(row["hops"]),
    )


def _hops(kept: Mapping[str, str] | None) -> tuple[HopRecord, ...]:
    """As `calls.hop_text` wrote them."""
    hops = []
    for at_us, text in (kept or {}).items():
        applet, decision, reason, *left = text.split(" ")
        hops.append(HopRecord(int(at_us), applet, decision, reason, int(left[0]) if left else None))
    return tuple(sorted(hops))


# ── verifications ────────────────────────────────────────────────────────────


async def list_verifications(
    connection: Connection,
    cell: int,
    tenant_id: str,
    wanted: VerificationFilter,
    span: Span,
    after: VerificationKey | None,
    limit: int,
) -> Page[VerificationRecord, VerificationKey]:
    """Entries of PINs that have an outcome of within `span`."""
    begin = VerificationKey(span.before_us, "", 0, 0, shown=0)
    if after is not None:
        begin = min(begin, after)
    path, more = _call_path(wanted)
    await connection.execute(_SQL["plan_for_values"])
    rows = await connection.fetch(
        _SQL[f"verifications{path}"],
        cell,
        tenant_id,
        OUTCOMES if wanted.outcome is None else (wanted.outcome,),
        to_datetime(span.from_us),
        to_datetime(begin.verified_at_us),
        *begin[1:4],
        begin.shown + limit + 1,
        *more,
    )
    # Of the entries at the key itself, those that were on pages before; with other filters they may be fewer.
    begun_at = (to_datetime(begin.verified_at_us), *begin[1:4])
    shown = sum(_place(row) == begun_at for row in rows[: begin.shown])
    page = rows[shown : shown + limit]
    records = await connection.fetch(
        _SQL["verifications_at"],
        cell,
        tenant_id,
        [row["call_sid"] for row in page],
        [row["virtual_number"] for row in page],
        [row["caller"] for row in page],
        [row["digits_digest"] for row in page],
    )
    next_key = _end_of(rows[: shown + limit]) if len(rows) > shown + limit else None
    return Page(list(map(_verification_record, records)), next_key)


def _end_of(shown: Sequence[asyncpg.Record]) -> VerificationKey:
    last = _place(shown[-1])
    verified_at, call_sid, virtual_number, caller = last
    count = sum(_place(row) == last for row in shown)
    return VerificationKey(to_instant_us(verified_at), call_sid, virtual_number, caller, count)


def _place(row: asyncpg.Record) -> tuple[Any, ...]:
    return row["verified_at"], row["call_sid"], row["virtual_number"], row["caller"]


def _verification_record(row: asyncpg.Record) -> VerificationRecord:
    return VerificationRecord(
        call_sid=row["call_sid"],
        virtual_number=E164(row["virtual_number"]),
        caller=_caller(row["caller"]),
        outcome=row["outcome"],
        reason=row["reason"],
        allocation_id=row["allocation_id"],
        side=_side(row["side"]),
        verified_at_us=to_instant_us(row["verified_at"]),
        request_id=row["request_id"],
    )


def _call_path(wanted: CallFilter | VerificationFilter) -> tuple[str, tuple[Any, ...]]:
    """How the name of the query that reads least goes on, and its parameters from the tenth on."""
    vn, caller = wanted.virtual_number, wanted.caller
    if wanted.call_sid is not None:
        return "_of_sid", (wanted.call_sid, vn, caller, wanted.allocation_id)
    if wanted.allocation_id is not None:
        return "_of_allocation", (wanted.allocation_id, vn, caller)
    if caller is not None:
        return "_by_caller", (caller, vn)
    if vn is not None:
        return "_by_vn", (vn,)
    return "", ()


def _caller(number: int) -> E164 | None:
    return None if number == WITHHELD else E164(number)


def _number(number: int | None) -> E164 | None:
    return None if number is None else E164(number)


def _side(key: str | None) -> Side | None:
    return None if key is None else side_of(key)
