"""Call records: the decision of each call, written behind it, and its end, durable before the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, assert_never

import asyncpg

from cordboard.clock import SECOND_US, to_datetime
from cordboard.routing.allocate import Generation, side_key
from cordboard.routing.model import AllocationId, AskPin, Connect, Decision, Product, Refuse, Side
from cordboard.routing.numbers import E164
from cordboard.routing.tenant import TenantSettings
from cordboard.storage.database import Connection
from cordboard.storage.events import NewEvent, add_events
from cordboard.storage.facts import CallCompletedFacts, Insights
from cordboard.storage.outcomes import WITHHELD, CallKey
from cordboard.storage.queries import load

_SQL: Final = load("calls")

# Without an end by then, nobody will tell: 4 h, after which its progress is dropped too.
SILENT_AFTER_US: Final = 4 * 3_600 * SECOND_US
# How far back a sweep looks: a week of downtime and no call stays open.
SILENT_SINCE_US: Final = 7 * 24 * 3_600 * SECOND_US


# Some 60 hops: a call has three, one with all its prompts a dozen; a platform that goes round in circles is
# seen to do so.
HOPS_CHARACTERS_MAX: Final = 2_400


# By a side's place. A name of an enumeration takes Python 3.11 as long as five other columns; likewise its
# `value`, and not its `_value_`.
_SIDE_KEYS: Final = tuple(side_key(side) for side in Side)

# Of a row that no hop wrote.
NO_APPLET: Final = "none"


class CallType(Enum):
    """How the platform says that a call ended (exotel.md 2.1)."""

    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    CLIENT_HANGUP = "client-hangup"
    VOICEMAIL = "voicemail"


class CallRow(NamedTuple):
    """The latest decision about a call, and which applet asked for it."""

    call: CallKey
    decision: Decision
    at_us: int
    applet: str = NO_APPLET
    request_id: str | None = None


class KeptRow(NamedTuple):
    """The same as it was written into the spool."""

    call: CallKey
    columns: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class NewEnd:
    """What the platform reported of a call's end; texts as it sent them, None where it said nothing."""

    tenant_id: str
    call_sid: str
    # How the tenant wants to be told.
    settings: TenantSettings
    call_type: CallType
    dial_call_status: str | None
    dialled: E164 | None
    dial_call_duration_s: int
    on_call_duration_s: int
    recording_url: str | None
    start_time: str | None
    at_us: int
    insights: Insights | None = None
    # The decision about the call, if it may not have been written yet.
    waiting: CallRow | KeptRow | None = None
    # What the board says of the call now, for one whose record a crash has taken.
    derived: CallRow | KeptRow | None = None
    # Of the request that reported it.
    request_id: str | None = None


async def write_rows(connection: Connection, cell: int, rows: Iterable[CallRow | KeptRow]) -> None:
    """Write decisions in their order; those of one call become one row with all its hops."""
    latest: dict[CallKey, Mapping[str, object]] = {}
    for row in rows:
        columns = row_columns(row)
        # One statement cannot touch a row twice: the last decision of a call wins, and keeps the hops before.
        if (before := latest.get(row.call)) is not None:
            columns = {**columns, "hops": {**_hops(before), **_hops(columns)}}
        latest[row.call] = columns
    if latest:
        await connection.execute(_SQL["upsert"], cell, list(latest.values()), HOPS_CHARACTERS_MAX)


def row_columns(row: CallRow | KeptRow) -> Mapping[str, object]:
    if isinstance(row, KeptRow):
        return row.columns
    (tenant_id, call_sid, virtual_number, caller), decision, at_us, applet, request_id = row
    kept: dict[str, object] = {
        "tenant_id": tenant_id,
        "call_sid": call_sid,
        "virtual_number": virtual_number,
        "caller": caller or WITHHELD,
        "at_us": at_us,
        "request_id": request_id,
        "hops": {str(at_us): hop_text(applet, decision)},
    }
    match decision:
        case Connect():
            kept["decision"] = "connect"
            kept["matched"] = decision.matched._value_
            kept["allocation_id"] = decision.allocation_id.hex()
            kept["side"] = _SIDE_KEYS[decision.side]
            kept["target"] = decision.targets[0]
        case AskPin():
            kept["decision"] = "ask_pin"
        case Refuse(reason=reason, allocation_id=allocation_id):
            kept["decision"] = "refuse"
            kept["reason"] = reason._value_
            kept["allocation_id"] = None if allocation_id is None else allocation_id.hex()
        case unmatched:
            assert_never(unmatched)
    return kept


def _hops(columns: Mapping[str, object]) -> Mapping[str, object]:
    """None in rows that an engine before this rule has left in the spool."""
    hops = columns.get("hops")
    return hops if isinstance(hops, dict) else {}


async def record_ends(connection: Connection, cell: int, items: Sequence[NewEnd], now_us: int) -> list[None]:
    """Record how calls ended, once for each CallSid, with the event of each call that had an allocation."""
    await write_rows(connection, cell, (item.waiting for item in items if item.waiting is not None))
    first = {(item.tenant_id, item.call_sid): item for item in reversed(items)}
    rows = await connection.fetch(
        _SQL["insert_ends"],
        cell,
        [item.tenant_id for item in first.values()],
        [item.call_sid for item in first.values()],
        [item.call_type.value for item in first.values()],
        [item.dial_call_status for item in first.values()],
        [item.dialled for item in first.values()],
        [item.dial_call_duration_s for item in first.values()],
        [item.on_call_duration_s for item in first.values()],
        [item.recording_url for item in first.values()],
        [item.start_time for item in first.values()],
        [None if item.insights is None else item.insights.to_json() for item in first.values()],
        [to_datetime(item.at_us) for item in first.values()],
        [item.request_id for item in first.values()],
    )
    ended = [(row["tenant_id"], row["call_sid"]) for row in rows]
    connected = await _connected_calls(connection, cell, ended)
    recorded = {(row["tenant_id"], row["call_sid"]) for row in connected}
    derived = [row for key in ended if key not in recorded and (row := first[key].derived) is not None]
    if derived:
        await write_rows(connection, cell, derived)
        connected += await _connected_calls(
            connection, cell, [(row.call.tenant_id, row.call.call_sid) for row in derived]
        )
    events = []
    for told in connected:
        end = first[told["tenant_id"], told["call_sid"]]
        settings = end.settings
        called = end.dialled or (None if told["target"] is None else E164(told["target"]))
        events.append(
            NewEvent(
                tenant_id=end.tenant_id,
                subject=str(told["id"]),
                product=Product(told["product"]),
                request_id=end.request_id,
                facts=CallCompletedFacts(
                    transaction_id=told["client_id"],
                    allocation_id=AllocationId(told["id"].bytes),
                    call_sid=end.call_sid,
                    virtual_number=E164(told["virtual_number"]),
                    caller=None if told["caller"] == WITHHELD else E164(told["caller"]),
                    called=called,
                    call_type=end.call_type.value,
                    start_time=end.start_time,
                    at_us=end.at_us,
                    timezone=settings.timezone,
                    dial_call_duration_s=end.dial_call_duration_s,
                    on_call_duration_s=end.on_call_duration_s,
                    recording_url=end.recording_url,
                    dial_call_status=end.dial_call_status,
                    insights=end.insights,
                    a_tag=(told["a_tag"] or settings.a_tag) if settings.tag_enabled else None,
                    b_tag=(told["b_tag"] or settings.b_tag) if settings.tag_enabled else None,
                    custom_field=told["custom_field"],
                    record=told["record"],
                    generation=Generation(told["generation"]),
                    time_format=settings.callback_time_format,
                    missing_recording=settings.missing_recording,
                    callback_to=settings.callback_to,
                ),
            )
        )
    if events:
        await add_events(connection, cell, events, now_us)
    return [None for _ in items]


async def _connected_calls(
    connection: Connection, cell: int, calls: Sequence[tuple[str, str]]
) -> list[asyncpg.Record]:
    return await connection.fetch(
        _SQL["allocations_of_calls"],
        cell,
        [tenant_id for tenant_id, _ in calls],
        [call_sid for _, call_sid in calls],
    )


async def cells_with_silent_calls(connection: Connection, now_us: int) -> list[int]:
    rows = await connection.fetch(_SQL["cells_with_open_calls"], *_silent_window(now_us))
    return [row["cell"] for row in rows]


async def close_silent(connection: Connection, cell: int, now_us: int) -> None:
    """Close as `unknown` the calls whose end nobody reported."""
    await connection.execute(_SQL["close_silent"], cell, *_silent_window(now_us), to_datetime(now_us))


def _silent_window(now_us: int) -> tuple[object, object]:
    return to_datetime(now_us - SILENT_SINCE_US), to_datetime(now_us - SILENT_AFTER_US)


def decision_text(decision: Decision) -> str:
    """The decision's word in records, metrics and logs."""
    match decision:
        case Connect():
            return "connect"
        case AskPin():
            return "ask_pin"
        case Refuse():
            return "refuse"


def hop_text(applet: str, decision: Decision) -> str:
    """Who asked, what was decided and why, as the record of a hop has it; storage/listing.py reads it back.

    >>> hop_text("connect", Refuse(Reason.THROTTLED)), hop_text("passthru", AskPin(4, 2, LastEntry.WRONG))
    ('connect refuse throttled', 'passthru ask_pin wrong 2')
    """
    match decision:
        case Connect(matched=matched):
            return f"{applet} connect {matched._value_}"
        case AskPin(attempts_left=attempts_left, last_entry=last_entry):
            return f"{applet} ask_pin {last_entry._value_} {attempts_left}"
        case Refuse(reason=reason):
            return f"{applet} refuse {reason._value_}"
        case unmatched:
            assert_never(unmatched)
