"""Allocations released, by request or at their end: once each, with their one event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple
from uuid import UUID

from cordboard.clock import to_datetime, to_instant_us
from cordboard.routing.allocate import ReleaseCause, Standing
from cordboard.routing.changes import (
    AllocationReleased,
    Change,
)
from cordboard.routing.model import State
from cordboard.storage import feed
from cordboard.storage.allocations.reading import AllocationName, find
from cordboard.storage.allocations.rows import (
    Claim,
    Route,
    Use,
    add_routes,
    add_uses,
    claim_pins,
    delete_routes,
    delete_uses,
)
from cordboard.storage.database import Connection
from cordboard.storage.events import NewEvent, add_events, tells_release
from cordboard.storage.facts import DeallocatedFacts
from cordboard.storage.feed import Position
from cordboard.storage.queries import load

_SQL: Final = load("allocations")

# What ends by its policy is asked for by no request.
NOBODY: Final[Mapping[UUID, str | None]] = {}


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    tenant_id: str
    name: AllocationName
    # Of who asked for it; its event bears it.
    request_id: str | None = None

    @property
    def allocation_id(self) -> UUID:
        return self.name.id


class Released(NamedTuple):
    standing: Standing
    position: Position


class ReleasedBefore(NamedTuple):
    """Vaulted already, or past its end."""


class Unknown(NamedTuple):
    """No allocation of this tenant."""


ReleaseResult = Released | ReleasedBefore | Unknown


async def release(
    connection: Connection, cell: int, requests: Sequence[ReleaseRequest], now_us: int
) -> list[ReleaseResult]:
    """Release by request. What is past its end counts as released before, by its policy."""
    ids = sorted({request.allocation_id for request in requests})
    await connection.execute(_SQL["lock_active"], cell, ids, None)
    found = await find(connection, cell, ids)
    theirs = {
        request.allocation_id
        for request in requests
        if request.allocation_id in found
        and found[request.allocation_id].standing.tenant_id == request.tenant_id
        and request.name.is_of(found[request.allocation_id].standing)
    }
    active = {id for id in theirs if found[id].standing.state is State.ACTIVE}
    ended = {id for id in active if not found[id].standing.allocation.is_live(now_us)}
    changes = await _release(connection, cell, sorted(ended), now_us, ended_only=True)
    requested_by = {request.allocation_id: request.request_id for request in reversed(requests)}
    changes += await _release(
        connection, cell, sorted(active - ended), now_us, ended_only=False, requested_by=requested_by
    )
    position = await feed.append(connection, cell, changes, now_us) if changes else None
    results: list[ReleaseResult] = []
    told: set[UUID] = set()
    for request in requests:
        id = request.allocation_id
        if id not in theirs or not request.name.is_of(found[id].standing):
            results.append(Unknown())
        elif id in active - ended and id not in told:
            assert position is not None
            told.add(id)
            standing = found[id].standing
            results.append(Released(_vaulted(standing, now_us), position))
        else:
            results.append(ReleasedBefore())
    return results


async def ended_ids(connection: Connection, now_us: int, limit_per_cell: int) -> dict[int, list[UUID]]:
    """Cell → active allocations past their end."""
    ended: dict[int, list[UUID]] = {}
    for row in await connection.fetch(_SQL["ended"], to_datetime(now_us), limit_per_cell):
        ended.setdefault(row["cell"], []).append(row["id"])
    return ended


async def earliest_end_us(connection: Connection) -> int | None:
    """When the first of all active allocations ends, or has ended without being released yet."""
    earliest = await connection.fetchval(_SQL["earliest_end"])
    return None if earliest is None else to_instant_us(earliest)


async def release_ended(connection: Connection, cell: int, ids: Sequence[UUID], now_us: int) -> int:
    """Release those that are active and past their end, and return how many that were: somebody else may
    have been first."""
    changes = await release_changes(connection, cell, ids, now_us)
    if changes:
        await feed.append(connection, cell, changes, now_us)
    return len(changes)


async def release_changes(
    connection: Connection, cell: int, ids: Sequence[UUID], now_us: int
) -> list[Change]:
    """Release ended allocations as a part of a larger change, whose feed rows the caller writes."""
    return await _release(connection, cell, ids, now_us, ended_only=True)


async def release_ended_blockers(
    connection: Connection,
    cell: int,
    now_us: int,
    standings: Sequence[Standing] = (),
    routes: Sequence[Route] = (),
    claims: Sequence[Claim] = (),
    uses: Sequence[Use] = (),
    *,
    may_wait: bool,
) -> tuple[bool, list[Change]]:
    """Release allocations past their end that still hold one of these client ids, routes, PINs or VNs.

    Returns whether there are such, and what the feed should tell. Those that somebody else is releasing
    at this moment are waited for if the caller may wait: one who holds what they want must not.
    """
    rows = await connection.fetch(
        _SQL["ended_blockers"],
        cell,
        to_datetime(now_us),
        [standing.tenant_id for standing in standings],
        [standing.allocation.product.value for standing in standings],
        [standing.client_id for standing in standings],
        [route.virtual_number for route in routes],
        [route.number for route in routes],
        [claim.virtual_number for claim in claims],
        [claim.pin.digits for claim in claims],
        [use.virtual_number for use in uses],
        [use.is_exclusive for use in uses],
    )
    ids = [row["id"] for row in rows]
    if ids and not may_wait:
        free = await connection.fetch(_SQL["lock_ended_free"], cell, ids, to_datetime(now_us))
        ids = [row["id"] for row in free]
    return bool(rows), await release_changes(connection, cell, ids, now_us)


async def take_routes(
    connection: Connection, cell: int, routes: Sequence[Route], now_us: int
) -> tuple[list[Route], list[Change]]:
    """Add routes, for which ended allocations make way; (those refused, what the feed should tell)."""
    refused = await add_routes(connection, cell, routes)
    if not refused:
        return [], []
    # Waiting for another release may end in a deadlock, which is tried again; refusing would be wrong.
    is_ended, changes = await release_ended_blockers(connection, cell, now_us, routes=refused, may_wait=True)
    return (await add_routes(connection, cell, refused) if is_ended else refused), changes


async def take_pins(
    connection: Connection, cell: int, claims: Sequence[Claim], now_us: int
) -> tuple[list[Claim], list[Change]]:
    """Claim PINs, for which ended allocations make way; (those refused, what the feed should tell)."""
    refused = await claim_pins(connection, cell, claims, now_us)
    if not refused:
        return [], []
    is_ended, changes = await release_ended_blockers(connection, cell, now_us, claims=refused, may_wait=True)
    return (await claim_pins(connection, cell, refused, now_us) if is_ended else refused), changes


async def take_uses(
    connection: Connection, cell: int, uses: Sequence[Use], now_us: int
) -> tuple[list[Use], list[Change]]:
    """Stand on VNs, for which ended allocations make way; (those refused, what the feed should tell)."""
    refused = await add_uses(connection, cell, uses, now_us)
    if not refused:
        return [], []
    is_ended, changes = await release_ended_blockers(connection, cell, now_us, uses=refused, may_wait=True)
    return (await add_uses(connection, cell, refused, now_us) if is_ended else refused), changes


async def _release(
    connection: Connection,
    cell: int,
    ids: Sequence[UUID],
    now_us: int,
    *,
    ended_only: bool,
    requested_by: Mapping[UUID, str | None] = NOBODY,
) -> list[Change]:
    """Vault the active ones among `ids`, with their one event; returns what the feed should tell.

    `requested_by`: allocation → the id of the request that ends it.
    """
    if not ids:
        return []
    locked = await connection.fetch(
        _SQL["lock_active"], cell, ids, to_datetime(now_us) if ended_only else None
    )
    ids = [row["id"] for row in locked]
    if not ids:
        return []
    found = await find(connection, cell, ids)
    cause = ReleaseCause.EXPIRED if ended_only else ReleaseCause.REQUESTED
    await connection.execute(_SQL["release"], cell, ids, cause.value, to_datetime(now_us))
    await connection.execute(_SQL["cool_numbers"], cell, ids)
    await delete_routes(connection, cell, ids)
    await delete_uses(connection, cell, ids)
    await connection.execute(_SQL["lock_pins"], cell, ids)
    await connection.execute(_SQL["cool_pins"], cell, ids)
    await connection.execute(_SQL["delete_pins"], cell, ids)
    events = [
        _deallocated(standing, requested_by.get(id))
        for id in ids
        if tells_release((standing := found[id].standing).allocation.product, is_automatic=ended_only)
    ]
    if events:
        await add_events(connection, cell, events, now_us)
    return [
        AllocationReleased(
            found[id].tenant_no, found[id].standing.version + 1, found[id].standing.allocation.id
        )
        for id in ids
    ]


def _vaulted(standing: Standing, now_us: int) -> Standing:
    return replace(
        standing,
        state=State.VAULT,
        version=standing.version + 1,
        released_at_us=now_us,
        release_cause=ReleaseCause.REQUESTED,
    )


def _deallocated(standing: Standing, request_id: str | None) -> NewEvent:
    allocation = standing.allocation
    return NewEvent(
        tenant_id=standing.tenant_id,
        subject=str(UUID(bytes=allocation.id)),
        product=allocation.product,
        request_id=request_id,
        facts=DeallocatedFacts(
            transaction_id=standing.client_id,
            allocation_id=allocation.id,
            usage=allocation.usage,
            a=allocation.a,
            b=allocation.b,
            custom_field=allocation.policy.custom_field,
            record=allocation.policy.record,
            generation=standing.generation,
        ),
    )
