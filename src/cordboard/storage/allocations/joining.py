"""Members: callers who proved a PIN and are remembered for it."""

from __future__ import annotations

from collections.abc import Sequence
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


async def join(
    connection: Connection, cell: int, joins: Sequence[Join], found: dict[UUID, Found], now_us: int
) -> list[Change]:
    """Make members of callers who proved a PIN; a join that would break a rule is not stored.

    `found` are the allocations, locked; those that are no longer live take nobody in.
    """
    joinable = sorted(
        {
            join
            for join in joins
            if (here := found.get(UUID(bytes=join.allocation_id))) is not None
            and here.standing.state is State.ACTIVE
            and here.standing.allocation.is_live(now_us)
            and join.pin in here.standing.allocation.party(join.side).pins
            and join.number not in here.standing.allocation.a.numbers
            and join.number not in here.standing.allocation.b.numbers
        }
    )
    if not joinable:
        return []
    rows = await connection.fetch(
        _SQL["insert_members"],
        cell,
        [UUID(bytes=join.allocation_id) for join in joinable],
        [join.number for join in joinable],
        [side_key(join.side) for join in joinable],
        [to_datetime(now_us) for _ in joinable],
    )
    inserted = {(row["allocation_id"].bytes, row["number"]) for row in rows}
    changes: list[Change] = []
    for joining in joinable:
        if (joining.allocation_id, joining.number) not in inserted:
            continue
        id = UUID(bytes=joining.allocation_id)
        here = found[id]
        party = here.standing.allocation.party(joining.side)
        routes = [
            Route(virtual_number, joining.number, id, joining.side, party.listed_need_pin)
            for virtual_number in party.virtual_numbers
        ]
        refused, released = await take_routes(connection, cell, routes, now_us)
        changes += released
        if refused:
            await drop_routes(connection, cell, set(routes) - set(refused))
            await drop_idle_lines(connection, cell, [route[:2] for route in routes])
            await connection.execute(_SQL["delete_some_parties"], cell, id, [joining.number])
            continue
        member = MemberRoutes(joining.side, now_us)
        changes.append(
            member_stands(here.tenant_no, here.standing.allocation, joining.number, member, set(routes))
        )
    return changes


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
