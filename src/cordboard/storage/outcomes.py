"""Verification outcomes: durable before the applet answers, one for each entry of a call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple, assert_never
from uuid import UUID

import asyncpg

from cordboard.clock import to_datetime, to_instant_us
from cordboard.routing.allocate import Standing, side_key
from cordboard.routing.changes import AllocationStands, Change, PinFailed
from cordboard.routing.model import (
    NEW_CALL,
    Admission,
    AllocationId,
    LastEntry,
    Outcome,
    Product,
    Progress,
    RightPin,
    Side,
    State,
    WrongPin,
)
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.tenant import TenantSettings
from cordboard.storage import allocations, feed
from cordboard.storage.database import Connection
from cordboard.storage.events import NewEvent, add_events
from cordboard.storage.facts import VerificationFailedFacts, VerifiedFacts
from cordboard.storage.feed import Position, Written
from cordboard.storage.queries import ALL_CELLS, load

_SQL: Final = load("outcomes")

# How the tables write a caller that is withheld: no number is 0.
WITHHELD: Final = 0
# As many as the column holds; locks need 10 at most (exotel.md 9.2).
FAILURES_MAX: Final = 32_767


class CallKey(NamedTuple):
    """One call: a CallSid seen with another caller or VN is another call."""

    tenant_id: str
    call_sid: str
    virtual_number: E164
    caller: E164 | None


@dataclass(frozen=True, slots=True)
class NewOutcome:
    call: CallKey
    outcome: Outcome
    # The digits as they were keyed, for the events; it need not be a PIN in form.
    digits: Pin
    start_time: str | None
    # How the tenant wants to be told.
    settings: TenantSettings
    at_us: int
    # Of the hop that brought the digits.
    request_id: str | None = None


class Recorded(NamedTuple):
    """What is on record for the call, this outcome included."""

    progress: Progress
    # Set if a join has to reach the board before the next call by the same person.
    position: Position | None


async def record(
    connection: Connection, cell: int, items: Sequence[NewOutcome], now_us: int
) -> list[Recorded]:
    """Record outcomes, make members of strangers with a right PIN, and write the events of both."""
    position = awaited_position(await enter(connection, cell, items, now_us))
    on_record = await progress_of(connection, cell, {item.call for item in items})
    return [Recorded(on_record[item.call], position) for item in items]


async def enter(
    connection: Connection, cell: int, items: Sequence[NewOutcome], now_us: int
) -> Written | None:
    """As `record`; returns what was added to the feed, and asks for nothing else."""
    entries = first_of_each(items)
    rows = await connection.fetch(
        _SQL["insert"],
        cell,
        *key_columns_of(entries),
        outcome_texts_of(entries),
        ["right_pin" if isinstance(item.outcome, RightPin) else "wrong_pin" for item in entries],
        *admission_columns_of(entries),
        [to_datetime(item.at_us) for item in entries],
        [item.request_id for item in entries],
    )
    inserted = {(call_key(row), row["digits_digest"]) for row in rows}
    new = [item for item in entries if (item.call, item.outcome.digest) in inserted]
    return await _tell(connection, cell, new, now_us) if new else None


def first_of_each(items: Iterable[NewOutcome]) -> list[NewOutcome]:
    """The same entry twice in one batch is one, and its first outcome stands."""
    first: dict[tuple[CallKey, bytes], NewOutcome] = {}
    for item in items:
        first.setdefault((item.call, item.outcome.digest), item)
    return list(first.values())


def key_columns_of(items: Sequence[NewOutcome]) -> tuple[list[object], ...]:
    return (
        [item.call.tenant_id for item in items],
        [item.call.call_sid for item in items],
        [item.call.virtual_number for item in items],
        [item.call.caller or WITHHELD for item in items],
        [item.outcome.digest for item in items],
    )


def outcome_texts_of(items: Sequence[NewOutcome]) -> list[str]:
    return ["success" if isinstance(item.outcome, RightPin) else "failure" for item in items]


def admission_columns_of(items: Sequence[NewOutcome]) -> tuple[list[UUID | None], list[str | None]]:
    """(allocations, sides)."""
    return [_allocation_id(item.outcome) for item in items], [_side_text(item.outcome) for item in items]


async def _tell(
    connection: Connection, cell: int, items: Sequence[NewOutcome], now_us: int
) -> Written | None:
    """What follows from outcomes that are on record for the first time: joins, locks, events."""
    strangers = [
        (item, item.outcome)
        for item in items
        if isinstance(item.outcome, RightPin) and item.outcome.is_stranger
    ]
    entered = _by_lock(items)
    # All at once, in the order in which everybody locks them.
    ids = {UUID(bytes=right.admission.allocation_id) for _, right in strangers} | set(entered)
    found = await allocations.lock_many(connection, cell, ids) if ids else {}
    joins = [
        allocations.Join(
            right.admission.allocation_id, item.call.caller, right.admission.side, item.digits, item.at_us
        )
        for item, right in strangers
        if item.call.caller is not None
    ]
    changes: list[Change] = await allocations.join(connection, cell, joins, found, now_us)
    changes += await _count_for_locks(connection, cell, entered, found)
    events = await _failures(connection, cell, items, now_us)
    for item, right in strangers:
        id = UUID(bytes=right.admission.allocation_id)
        if id in found:
            standing = found[id].standing
            events.append(_verified(item, id, standing))
    if events:
        await add_events(connection, cell, events, now_us)
    failed = [
        PinFailed(
            item.call.tenant_id,
            item.call.virtual_number,
            item.call.caller,
            entry_name(item.call, item.outcome.digest),
            item.at_us,
        )
        for item in items
        if isinstance(item.outcome, WrongPin)
    ]
    if not changes and not failed:
        return None
    return await feed.write(connection, cell, [*changes, *failed], now_us)


def awaited_position(written: Written | None) -> Position | None:
    """What an answer waits for. Nobody does for the windows of wrong PINs: one that is late by the feed's
    poll lets a guess or two through."""
    if written is None or all(isinstance(change, PinFailed) for change in written.changes):
        return None
    return written.position


def is_of_a_lock(outcome: Outcome) -> bool:
    """Whether an allocation that locks itself counts it: the next entry is decided by that."""
    match outcome:
        case RightPin():
            return outcome.resets_lock
        case WrongPin():
            return outcome.counts_against is not None
        case unmatched:
            assert_never(unmatched)


def _by_lock(items: Iterable[NewOutcome]) -> dict[UUID, list[Outcome]]:
    """Allocation that locks itself → what was entered there, in its order."""
    entered: dict[UUID, list[Outcome]] = {}
    for outcome in (item.outcome for item in items):
        match outcome:
            case RightPin(admission=admission, resets_lock=True):
                entered.setdefault(UUID(bytes=admission.allocation_id), []).append(outcome)
            case WrongPin(counts_against=bytes() as allocation_id):
                entered.setdefault(UUID(bytes=allocation_id), []).append(outcome)
            case RightPin() | WrongPin():
                pass
            case unmatched:
                assert_never(unmatched)
    return entered


async def _count_for_locks(
    connection: Connection,
    cell: int,
    entered: Mapping[UUID, Sequence[Outcome]],
    locked: Mapping[UUID, allocations.Found],
) -> list[Change]:
    """Count failures one after the other; `locked` has the allocations as they stand under our lock."""
    standings = {id: locked[id].standing for id in entered if id in locked}
    counts = {
        id: _failures_after(standing, entered[id])
        for id, standing in standings.items()
        # A released one counts no more, and one that shares its VN does not lock itself.
        if standing.state is State.ACTIVE
        and standing.allocation.is_exclusive
        and standing.pin_attempts_max is not None
    }
    changed = {id: count for id, count in counts.items() if count != standings[id].pin_failures}
    if not changed:
        return []
    await connection.execute(_SQL["set_failures"], cell, list(changed), list(changed.values()))
    # Once more: some of them got members, too.
    found = await allocations.find(connection, cell, list(changed))
    return [
        AllocationStands(here.tenant_no, here.standing.version, here.standing.allocation)
        for here in found.values()
    ]


def _failures_after(standing: Standing, entered: Iterable[Outcome]) -> int:
    """What the allocation counts after these entries.

    A right PIN begins anew, but it does not unlock: one that was decided before the lock reached its node may
    still arrive.
    """
    failures = standing.pin_failures
    assert standing.pin_attempts_max is not None, "only these lock themselves"
    for outcome in entered:
        if isinstance(outcome, WrongPin):
            failures = min(failures + 1, FAILURES_MAX)
        elif failures < standing.pin_attempts_max:
            failures = 0
    return failures


async def _failures(
    connection: Connection, cell: int, items: Sequence[NewOutcome], now_us: int
) -> list[NewEvent]:
    """The events of wrong PINs, each in the form of the product that its VN carries."""
    failed = [item for item in items if isinstance(item.outcome, WrongPin)]
    if not failed:
        return []
    products = await products_of_lines(
        connection, cell, {item.call.virtual_number for item in failed}, now_us
    )
    return [_failed(item, products[item.call.virtual_number]) for item in failed]


async def products_of_lines(
    connection: Connection, cell: int, virtual_numbers: Iterable[E164], now_us: int
) -> dict[E164, Product]:
    """VN → GreenVN if it carries live allocations of that product alone, else GreenPin."""
    rows = await connection.fetch(
        _SQL["products_of_lines"], cell, sorted(set(virtual_numbers)), to_datetime(now_us)
    )
    return {
        E164(row["virtual_number"]): Product.GREENVN
        if row["has_greenvn"] and not row["has_greenpin"]
        else Product.GREENPIN
        for row in rows
    }


async def progress_of(connection: Connection, cell: int, calls: Iterable[CallKey]) -> dict[CallKey, Progress]:
    """What the records alone say of each call: its failures, what was tried, and its success."""
    in_order = sorted(set(calls), key=lambda call: (call[:3], call.caller or WITHHELD))
    rows = await connection.fetch(
        _SQL["of_calls"],
        cell,
        [call.tenant_id for call in in_order],
        [call.call_sid for call in in_order],
        [call.virtual_number for call in in_order],
        [call.caller or WITHHELD for call in in_order],
    )
    tried: defaultdict[CallKey, set[bytes]] = defaultdict(set)
    failures: defaultdict[CallKey, int] = defaultdict(int)
    admissions: dict[CallKey, Admission] = {}
    for row in rows:
        call = call_key(row)
        if row["digits_digest"] in tried[call]:
            # An entry that came a second time, and waits to be found out.
            continue
        tried[call].add(row["digits_digest"])
        if row["outcome"] == "success":
            admission = Admission(AllocationId(row["allocation_id"].bytes), Side[row["side"].upper()])
            admissions.setdefault(call, admission)
        else:
            failures[call] += 1
    return {
        call: Progress(
            failures=failures[call],
            last_entry=LastEntry.WRONG if failures[call] else LastEntry.NONE,
            tried=frozenset(tried[call]),
            admission=admissions.get(call),
        )
        # Of nearly all calls that a node asks about nothing is on record.
        if call in tried
        else NEW_CALL
        for call in in_order
    }


def entry_name(call: CallKey, digest: bytes) -> bytes:
    """Names one entry of one call among all entries there are."""
    # Whole numbers: an E164 formats itself masked.
    virtual_number, caller = int(call.virtual_number), int(call.caller or WITHHELD)
    where = f"{call.tenant_id}\0{virtual_number}\0{caller}\0{call.call_sid}\0"
    return blake2b(where.encode() + digest, digest_size=16).digest()


async def recent_failures(connection: Connection, since_us: int) -> list[PinFailed]:
    """All failures since then, the oldest first."""
    rows = await connection.fetch(_SQL["recent_failures"], ALL_CELLS, to_datetime(since_us))
    return [
        PinFailed(
            row["tenant_id"],
            E164(row["virtual_number"]),
            _caller(row["caller"]),
            entry_name(call_key(row), row["digits_digest"]),
            to_instant_us(row["verified_at"]),
        )
        for row in rows
    ]


def _failed(item: NewOutcome, product: Product) -> NewEvent:
    return NewEvent(
        tenant_id=item.call.tenant_id,
        subject=item.call.call_sid,
        product=product,
        request_id=item.request_id,
        facts=VerificationFailedFacts(
            start_time=item.start_time,
            at_us=item.at_us,
            timezone=item.settings.timezone,
            caller=item.call.caller,
            virtual_number=item.call.virtual_number,
            call_sid=item.call.call_sid,
            pin=item.digits,
            time_format=item.settings.callback_time_format,
        ),
    )


def _verified(item: NewOutcome, id: UUID, standing: Standing) -> NewEvent:
    caller = item.call.caller
    return NewEvent(
        tenant_id=item.call.tenant_id,
        subject=str(id),
        product=standing.allocation.product,
        # Once for each person and allocation; nobody knows whether two withheld callers are one. Retention
        # and erasure look for keys of this form (sql/queries).
        once_key=None if caller is None else f"verified:{id}:{caller.plus}",
        request_id=item.request_id,
        facts=VerifiedFacts(
            transaction_id=standing.client_id,
            allocation_id=AllocationId(id.bytes),
            virtual_number=item.call.virtual_number,
            caller=caller,
            pin=item.digits,
            call_sid=item.call.call_sid,
            custom_field=standing.allocation.policy.custom_field,
            record=standing.allocation.policy.record,
            generation=standing.generation,
        ),
    )


def _allocation_id(outcome: Outcome) -> UUID | None:
    return UUID(bytes=outcome.admission.allocation_id) if isinstance(outcome, RightPin) else None


def _side_text(outcome: Outcome) -> str | None:
    return side_key(outcome.admission.side) if isinstance(outcome, RightPin) else None


def call_key(row: asyncpg.Record) -> CallKey:
    return CallKey(
        row["tenant_id"],
        row["call_sid"],
        E164(row["virtual_number"]),
        _caller(row["caller"]),
    )


def _caller(number: int) -> E164 | None:
    return None if number == WITHHELD else E164(number)
