"""Allocations updated: what differs is replaced, and members follow as far as the rules allow."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import asyncpg

from cordboard.clock import SECOND_US, to_datetime, to_datetime_or_none, to_instant_us
from cordboard.routing.allocate import Standing, side_key
from cordboard.routing.changes import (
    AllocationStands,
    Change,
    MemberLeft,
)
from cordboard.routing.model import Allocation, Product, Side, State
from cordboard.routing.numbers import E164
from cordboard.storage import feed
from cordboard.storage.allocations.joining import MemberRoutes, member_stands
from cordboard.storage.allocations.reading import AllocationName, Found, find
from cordboard.storage.allocations.releasing import take_pins, take_routes, take_uses
from cordboard.storage.allocations.rows import (
    NumberTaken,
    PinTaken,
    PoolChanged,
    Route,
    Taken,
    VirtualNumberBusy,
    claims,
    columns_of,
    cooling_routes,
    delete_some_uses,
    drop_idle_lines,
    drop_routes,
    listed_routes,
    pin_texts,
    side_of,
    uses,
)
from cordboard.storage.database import Connection
from cordboard.storage.feed import Position
from cordboard.storage.queries import load

_SQL: Final = load("allocations")


class NotFound(Exception):
    """No allocation of this tenant and product has that id."""

    def __init__(self, product: Product) -> None:
        super().__init__(product.value)
        self.product = product


class AlreadyReleased(Exception):
    """It is vaulted, or past its end."""

    def __init__(self, product: Product) -> None:
        super().__init__(product.value)
        self.product = product


class Conflict(Exception):
    """The update would take what somebody else has."""

    def __init__(self, taken: Taken, was: Allocation, becomes: Allocation) -> None:
        super().__init__(type(taken).__name__)
        self.taken = taken
        self.was = was
        self.becomes = becomes


async def lock_for_update(
    connection: Connection, cell: int, tenant_id: str, name: AllocationName, now_us: int
) -> Found:
    """The allocation, locked until the transaction ends. Raises NotFound, AlreadyReleased."""
    row = await connection.fetchrow(_SQL["lock_one"], cell, tenant_id, name.id)
    if row is None:
        raise NotFound(name.product)
    found = (await find(connection, cell, [name.id]))[name.id]
    if not name.is_of(found.standing):
        raise NotFound(name.product)
    if row["state"] != State.ACTIVE.value or not found.standing.allocation.is_live(now_us):
        raise AlreadyReleased(name.product)
    return found


async def update(connection: Connection, cell: int, was: Found, becomes: Standing, now_us: int) -> Position:
    """Replace the locked allocation `was`. Raises Conflict or PoolChanged, to be rolled back."""
    try:
        return await _update(connection, cell, was, becomes, now_us)
    except asyncpg.ForeignKeyViolationError:
        raise PoolChanged from None


async def _update(connection: Connection, cell: int, was: Found, becomes: Standing, now_us: int) -> Position:
    before, after = was.standing.allocation, becomes.allocation
    id = UUID(bytes=after.id)
    joined = await _member_routes(connection, cell, id)
    leaving = {
        number
        for number, member in joined.items()
        if set(before.party(member.side).pins) != set(after.party(member.side).pins)
        or number in after.a.numbers
        or number in after.b.numbers
    }
    wanted = set(listed_routes(after))
    standing_routes = set(listed_routes(before))
    member_routes = {
        number: {
            Route(virtual_number, number, id, member.side, after.party(member.side).listed_need_pin)
            for virtual_number in after.party(member.side).virtual_numbers
        }
        for number, member in joined.items()
        if number not in leaving
    }
    had_routes = {
        number: {
            Route(virtual_number, number, id, member.side, before.party(member.side).listed_need_pin)
            for virtual_number in member.virtual_numbers
        }
        for number, member in joined.items()
    }
    gone = (standing_routes - wanted).union(
        *(had - member_routes.get(number, set()) for number, had in had_routes.items())
    )
    new_routes = sorted(wanted - standing_routes)
    if after.product is Product.GREENVN:
        # Before its own: a member that is now listed leaves a route, whose cool-off would hide another's.
        for route in await cooling_routes(connection, cell, new_routes, now_us):
            raise Conflict(NumberTaken(route.virtual_number, route.number), before, after)
    await drop_routes(connection, cell, gone)
    if was.standing.cool_off_s:
        await _cool_numbers(connection, cell, gone, now_us + was.standing.cool_off_s * SECOND_US)
    # Before the new routes: a number that changes sides may need its PIN on one of them only.
    await drop_idle_lines(connection, cell, [(route.virtual_number, route.number) for route in gone])
    unlisted = (set(before.a.numbers) | set(before.b.numbers)) | leaving
    await _replace_parties(connection, cell, before, after, unlisted)
    changes = await _swap_uses(connection, cell, was.standing, becomes, now_us)
    refused, released = await take_routes(connection, cell, new_routes, now_us)
    changes += released
    if after.product is Product.GREENVN:
        # Once more: those that just gave way may have left a cool-off.
        refused += await cooling_routes(connection, cell, new_routes, now_us)
    for route in refused:
        raise Conflict(NumberTaken(route.virtual_number, route.number), before, after)
    changes += await _swap_pins(connection, cell, was.standing, becomes, now_us)

    changes.append(AllocationStands(was.tenant_no, becomes.version, after))
    changes += [MemberLeft(was.tenant_no, after.id, number) for number in sorted(leaving)]
    for number, wishes in member_routes.items():
        had = had_routes[number]
        if wishes == had:
            continue
        # A member follows its side to new VNs as far as nobody stands there already.
        refused, released = await take_routes(connection, cell, sorted(wishes - had), now_us)
        changes += released
        has = wishes - set(refused)
        if has:
            changes.append(member_stands(was.tenant_no, after, number, joined[number], has))
        else:
            await connection.execute(_SQL["delete_some_parties"], cell, id, [number])
            changes.append(MemberLeft(was.tenant_no, after.id, number))
    await connection.execute(
        _SQL["update_allocation"],
        cell,
        id,
        after.usage.value,
        becomes.version,
        after.a.virtual_numbers,
        after.b.virtual_numbers,
        pin_texts(after.a.pins),
        pin_texts(after.b.pins),
        to_datetime_or_none(after.expires_at_us),
        becomes.pin_attempts_max,
        becomes.pin_failures,
        after.policy.record,
        after.policy.custom_field,
        to_datetime(now_us),
    )
    return await feed.append(connection, cell, changes, now_us)


async def _member_routes(connection: Connection, cell: int, id: UUID) -> dict[E164, MemberRoutes]:
    members: dict[E164, MemberRoutes] = {}
    for row in await connection.fetch(_SQL["member_routes"], cell, id):
        member = members.setdefault(
            E164(row["number"]), MemberRoutes(side_of(row["side"]), to_instant_us(row["joined_at"]))
        )
        if row["virtual_number"] is not None:
            member.virtual_numbers.add(E164(row["virtual_number"]))
    return members


async def _replace_parties(
    connection: Connection, cell: int, before: Allocation, after: Allocation, unlisted: set[E164]
) -> None:
    """Numbers whose routes still stand cannot be deleted and put in again, so only differences are."""
    places = {
        allocation: {
            number: (side, position)
            for side in Side
            for position, number in enumerate(allocation.party(side).numbers)
        }
        for allocation in (before, after)
    }
    was, becomes = places[before], places[after]
    id = UUID(bytes=after.id)
    gone = [number for number in unlisted if number not in becomes or number not in was]
    if gone:
        await connection.execute(_SQL["delete_some_parties"], cell, id, gone)
    new = [
        (id, number, side_key(side), position)
        for number, (side, position) in becomes.items()
        if was.get(number) != (side, position)
    ]
    await connection.execute(_SQL["place_listed"], cell, *columns_of(new, 4))


async def _cool_numbers(connection: Connection, cell: int, gone: set[Route], until_us: int) -> None:
    rows = sorted((route.virtual_number, route.number, route.allocation_id) for route in gone)
    if rows:
        await connection.execute(_SQL["cool_some_numbers"], cell, *columns_of(rows, 3), to_datetime(until_us))


async def _swap_uses(
    connection: Connection, cell: int, was: Standing, becomes: Standing, now_us: int
) -> list[Change]:
    """Returns what the feed should tell of ended allocations that gave way."""
    before, after = set(uses(was.allocation)), set(uses(becomes.allocation))
    refused, changes = await take_uses(connection, cell, sorted(after - before), now_us)
    for use in refused:
        raise Conflict(VirtualNumberBusy(use.virtual_number), was.allocation, becomes.allocation)
    if gone := [use.virtual_number for use in before - after]:
        await delete_some_uses(connection, cell, UUID(bytes=was.allocation.id), gone, now_us)
    return changes


async def _swap_pins(
    connection: Connection, cell: int, was: Standing, becomes: Standing, now_us: int
) -> list[Change]:
    """Returns what the feed should tell of ended allocations that gave way."""
    before, after = set(claims(was.allocation)), set(claims(becomes.allocation))
    id = UUID(bytes=becomes.allocation.id)
    dropped = sorted({(claim.virtual_number, claim.pin.digits) for claim in before - after})
    if dropped:
        columns = columns_of(dropped, 2)
        if was.cool_off_s:
            free_at = to_datetime(now_us + was.cool_off_s * SECOND_US)
            await connection.execute(_SQL["cool_some_pins"], cell, id, *columns, free_at)
        else:
            await connection.execute(_SQL["drop_some_pins"], cell, id, *columns)
    added = sorted(after - before, key=lambda claim: (claim.virtual_number, claim.pin.digits))
    refused, changes = await take_pins(connection, cell, added, now_us)
    for claim in refused:
        raise Conflict(PinTaken(claim.virtual_number, claim.pin), was.allocation, becomes.allocation)
    return changes
