"""The end of what is kept: a tenant's records older than its `retention_days` are deleted for good.

Counted from the release of an allocation, the first hop of a call, the end of an event. What is live, or
still to be told, is never touched. In small batches: between two of them calls and changes of the cell go on,
several nodes may do it at once, and one that is killed leaves the rest to the next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Set
from functools import partial
from typing import Final, NamedTuple
from uuid import UUID

from cordboard.clock import to_datetime
from cordboard.routing.tenant import parse_settings
from cordboard.storage import allocations
from cordboard.storage.database import Connection, Database
from cordboard.storage.queries import load
from cordboard.storage.resting import DAY_US, count_of
from cordboard.storage.subjects import lock_subjects

_SQL: Final = load("retention")

# One transaction: some 20 ms.
RECORDS_PER_COMMIT_MAX: Final = 500
# Each with its numbers, VNs and keys: some ten rows.
ALLOCATIONS_PER_COMMIT_MAX: Final = 50


class Kept(NamedTuple):
    """A tenant whose records have an end."""

    cell: int
    tenant_id: str
    retention_days: int


# Deletes a batch of what is older than an instant, in µs; returns how many.
Step = Callable[[Connection, Kept, int], Awaitable[int]]


async def tenants(connection: Connection) -> list[Kept]:
    return [
        Kept(row["cell"], row["id"], days)
        for row in await connection.fetch(_SQL["tenants"])
        if (days := parse_settings(row["settings"]).retention_days) is not None
    ]


async def delete_old(database: Database, kept: Kept, now_us: int) -> dict[str, int]:
    """Delete what the tenant keeps no longer; how many of each kind. Raises DatabaseAway, CommitUnknown."""
    before_us = now_us - kept.retention_days * DAY_US
    # An answer is older than the release of its allocation and kept for a day at most, so that with this
    # none is left of an allocation that goes.
    await database.write(partial(allocations.clear_cell, cell=kept.cell, now_us=now_us))
    # Calls before allocations, which take along the few that are left of them.
    steps: dict[str, Step] = {
        "calls": _delete_by("delete_old_calls"),
        "call_ends": _delete_by("delete_old_ends"),
        "verifications": _delete_by("delete_old_verifications"),
        "allocations": _delete_allocations,
        "events": _delete_events,
    }
    count = dict.fromkeys(steps, 0)
    for what, step in steps.items():
        count[what] = await _until_none_is_left(database, step, kept, before_us)
    return count


async def _until_none_is_left(database: Database, step: Step, kept: Kept, before_us: int) -> int:
    count = 0
    while done := await database.write(lambda connection: step(connection, kept, before_us)):
        count += done
    return count


def _delete_by(query: str) -> Step:
    async def delete(connection: Connection, kept: Kept, before_us: int) -> int:
        status = await connection.execute(
            _SQL[query], kept.cell, kept.tenant_id, to_datetime(before_us), RECORDS_PER_COMMIT_MAX
        )
        return count_of(status)

    return delete


async def _delete_events(connection: Connection, kept: Kept, before_us: int) -> int:
    before = to_datetime(before_us)
    rows = await connection.fetch(
        _SQL["old_events"], kept.cell, kept.tenant_id, before, RECORDS_PER_COMMIT_MAX
    )
    subjects = {row["subject"] for row in rows}
    await _lock_subjects(connection, kept, subjects)
    status = await connection.execute(_SQL["delete_events"], kept.cell, [row["id"] for row in rows], before)
    await _delete_idle_subjects(connection, kept, subjects)
    # None of them is left if another node was first; that one goes on.
    return count_of(status)


async def _delete_allocations(connection: Connection, kept: Kept, before_us: int) -> int:
    cell, tenant_id, _ = kept
    rows = await connection.fetch(
        _SQL["lock_old_allocations"], cell, tenant_id, to_datetime(before_us), ALLOCATIONS_PER_COMMIT_MAX
    )
    ids = [row["id"] for row in rows]
    if not ids:
        return 0
    for what in ("calls", "verifications", "cooling_numbers", "pins", "parties"):
        await connection.execute(_SQL[f"delete_{what}_of"], cell, ids)
    await connection.execute(_SQL["delete_onces_of"], cell, tenant_id, ids)
    await connection.execute(_SQL["delete_allocations"], cell, tenant_id, ids)
    subjects = set(map(str, ids))
    await _lock_subjects(connection, kept, subjects)
    await _delete_idle_subjects(connection, kept, subjects)
    return len(ids)


async def _lock_subjects(connection: Connection, kept: Kept, subjects: Set[str]) -> None:
    await lock_subjects(connection, kept.cell, ((kept.tenant_id, subject) for subject in subjects))


async def _delete_idle_subjects(connection: Connection, kept: Kept, subjects: Set[str]) -> None:
    """Those, locked, of which nothing is left to tell: who would tell more begins to count anew."""
    ids = [id for subject in subjects if (id := _allocation_id(subject)) is not None]
    await connection.execute(_SQL["delete_idle_subjects"], kept.cell, kept.tenant_id, list(subjects), ids)


def _allocation_id(subject: str) -> UUID | None:
    """The allocation that a subject names, if it is not a CallSid."""
    try:
        return UUID(subject)
    except ValueError:
        return None
