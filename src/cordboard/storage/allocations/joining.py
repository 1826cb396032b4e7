"""Members: callers who proved a PIN and are remembered for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

from cordboard.clock import to_datetime
from cordboard.routing.allocate import side_key
from cordboard.routing.changes import (
    Change,
    MemberStands,
)
from cordboard.routing.model import Allocation, AllocationId, Side, State
from cordboard.routing.numbers import E164, Pin
from cordboard.storage.allocations.reading import Found
from cordboard.storage.allocations.releasing import take_routes
from cordboard.storage.allocations.rows import (
    Route,
    drop_idle_lines,
    drop_routes,
)
from cordboard.storage.database import Connection
from cordboard.storage.queries import load

_SQL: Final = load("allocations")


@dataclass(slots=True)
class MemberRoutes:
    """A member of an allocation under update, and the VNs on which it has a route."""

    side: Side
    joined_at_us: int
    virtual_numbers: set[E164] = field(default_factory=set)


class Join(NamedTuple):
    allocation_id: AllocationId
    number: E164
    side: Side
    # What was entered: a PIN that was changed meanwhile makes no member.
    pin: Pin
    at_us: int


async def join(
    connection: Connection, cell: int, joins: Sequence[Join], found: dict[UUID, Found], now_us: int
) -> list[Change]:
    """Make members of callers who proved a PIN; a join that would break a rule is not stored.

    `found` are the allocations, locked; those that are no longer live take nobody in.
    """
    # Of two calls by one person the first counts.
    first: dict[tuple[AllocationId, E164], Join] = {}
    for join in joins:
        here = found.get(UUID(bytes=join.allocation_id))
        if (
            here is not None
            and here.standing.state is State.ACTIVE
            and here.standing.allocation.is_live(now_us)
            and join.pin in here.standing.allocation.party(join.side).pins
            and join.number not in here.standing.allocation.a.numbers
            and join.number not in here.standing.allocation.b.numbers
        ):
            first.setdefault((join.allocation_id, join.number), join)
    joinable = [first[key] for key in sorted(first)]
    if not joinable:
        return []
    rows = await connection.fetch(
        _SQL["insert_members"],
        cell,
        [UUID(bytes=join.allocation_id) for join in joinable],
        [join.number for join in joinable],
        [side_key(join.side) for join in joinable],
        [to_datetime(join.at_us) for join in joinable],
    )
    inserted = {(row["allocation_id"].bytes, row["number"]) for row in rows}
    joining = [join for join in joinable if (join.allocation_id, join.number) in inserted]
    return await _take(connection, cell, joining, found, now_us) if joining else []


async def _take(
    connection: Connection, cell: int, joining: Sequence[Join], found: Mapping[UUID, Found], now_us: int
) -> list[Change]:
    """Give them their routes, all in one step. Whoever is refused one there is tried alone, because it may
    have lost to somebody who lost, too; and refused there it takes back what it has."""
    routes = {join: _routes(join, found) for join in joining}
    wanted = [route for of_join in routes.values() for route in of_join]
    refused, changes = await take_routes(connection, cell, wanted, now_us)
    lost = set(refused)
    for join, of_join in routes.items():
        id = UUID(bytes=join.allocation_id)
        if lost.isdisjoint(of_join):
            here, member = found[id], MemberRoutes(join.side, join.at_us)
            changes.append(
                member_stands(here.tenant_no, here.standing.allocation, join.number, member, set(of_join))
            )
            continue
        await drop_routes(connection, cell, set(of_join) - lost)
        await drop_idle_lines(connection, cell, [route[:2] for route in of_join])
        if len(joining) > 1:
            changes += await _take(connection, cell, [join], found, now_us)
        else:
            await connection.execute(_SQL["delete_some_parties"], cell, id, [join.number])
    return changes


def _routes(join: Join, found: Mapping[UUID, Found]) -> list[Route]:
    id = UUID(bytes=join.allocation_id)
    party = found[id].standing.allocation.party(join.side)
    return [
        Route(virtual_number, join.number, id, join.side, party.listed_need_pin)
        for virtual_number in party.virtual_numbers
    ]


def member_stands(
    tenant_no: int, allocation: Allocation, number: E164, member: MemberRoutes, routes: set[Route]
) -> MemberStands:
    return MemberStands(
        tenant_no=tenant_no,
        allocation_id=allocation.id,
        number=number,
        side=member.side,
        joined_at_us=member.joined_at_us,
        needs_pin=allocation.party(member.side).listed_need_pin,
        virtual_numbers=tuple(sorted(route.virtual_number for route in routes)),
    )
