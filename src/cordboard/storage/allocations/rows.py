"""The rows that an allocation stands on: routes with their lines, and claims of PINs.

They are put in with ON CONFLICT DO NOTHING, in the order of their keys, and whoever misses one has lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from cordboard.clock import to_datetime
from cordboard.routing.allocate import side_key
from cordboard.routing.model import Allocation, Party, Side
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.pins import pins_on
from cordboard.storage.database import Connection
from cordboard.storage.queries import load

_SQL: Final = load("allocations")


class Route(NamedTuple):
    virtual_number: E164
    number: E164
    allocation_id: UUID
    side: Side
    needs_pin: bool


class Use(NamedTuple):
    virtual_number: E164
    allocation_id: UUID
    is_exclusive: bool
    product: str


class Claim(NamedTuple):
    virtual_number: E164
    pin: Pin
    allocation_id: UUID
    side: Side | None


class ClientIdTaken(NamedTuple):
    """The tenant has an active allocation with this client id."""


class NumberTaken(NamedTuple):
    """On that VN the number has a route that leaves no room for this one."""

    virtual_number: E164
    number: E164


class PinTaken(NamedTuple):
    """On that VN the PIN is somebody else's, or still cools."""

    virtual_number: E164
    pin: Pin


class VirtualNumberBusy(NamedTuple):
    """It bears one that wants it alone, or is wanted alone and bears others; or it cools, or is drained."""

    virtual_number: E164


Taken = ClientIdTaken | NumberTaken | PinTaken | VirtualNumberBusy


class PoolChanged(Exception):
    """A VN that the board still had, or the tenant itself, is gone."""


async def add_uses(connection: Connection, cell: int, uses: Sequence[Use], now_us: int) -> list[Use]:
    """Stand allocations on VNs; returns those uses for which the VN has no room. Raises PoolChanged."""
    if not uses:
        return []
    # Others that want one alone are not even tried: they would wait for a release that waits for our lock.
    fitting = [use for use in uses if not use.is_exclusive]
    fitting += await claim_exclusive(connection, cell, uses, now_us)
    rows = await connection.fetch(_SQL["insert_uses"], cell, *columns_of(fitting, 4), to_datetime(now_us))
    standing = {(row["virtual_number"], row["allocation_id"]) for row in rows}
    refused = [use for use in uses if (use.virtual_number, use.allocation_id) not in standing]
    await check_pool(connection, cell, {use.virtual_number for use in refused})
    return refused


async def claim_exclusive(connection: Connection, cell: int, uses: Iterable[Use], now_us: int) -> list[Use]:
    """Lock the VNs that are wanted alone, and mark those that are free; returns the uses that may stand."""
    # Of two of one batch the first stands.
    first = {use.virtual_number: use for use in sorted(uses, reverse=True) if use.is_exclusive}
    if not first:
        return []
    numbers = sorted(first)
    await connection.execute(_SQL["lock_virtual_numbers"], cell, numbers)
    claimed = await connection.fetch(
        _SQL["claim_exclusive"],
        cell,
        numbers,
        [first[number].allocation_id for number in numbers],
        to_datetime(now_us),
    )
    return [first[row["number"]] for row in claimed]


async def check_pool(connection: Connection, cell: int, busy: AbstractSet[E164]) -> None:
    """Whether these VNs, which have no room, are there at all. Raises PoolChanged."""
    if busy and len(busy) > await connection.fetchval(_SQL["count_virtual_numbers"], cell, list(busy)):
        raise PoolChanged


async def delete_uses(connection: Connection, cell: int, ids: Sequence[UUID]) -> None:
    """Of released allocations, whose VNs may cool, or of losers: nobody was told that they stood there."""
    gone = await connection.fetch(_SQL["delete_uses"], cell, ids)
    await _end_exclusive(connection, cell, gone, None)


async def delete_some_uses(
    connection: Connection, cell: int, id: UUID, virtual_numbers: Sequence[E164], now_us: int
) -> None:
    gone = await connection.fetch(_SQL["delete_some_uses"], cell, id, virtual_numbers)
    await _end_exclusive(connection, cell, gone, now_us)


async def _end_exclusive(
    connection: Connection, cell: int, gone: Sequence[asyncpg.Record], left_at_us: int | None
) -> None:
    alone = [(row["virtual_number"], row["allocation_id"]) for row in gone if row["is_exclusive"]]
    if alone:
        left_at = None if left_at_us is None else to_datetime(left_at_us)
        await connection.execute(_SQL["end_exclusive"], cell, *columns_of(sorted(alone), 2), left_at)


def uses(allocation: Allocation) -> list[Use]:
    virtual_numbers = dict.fromkeys((*allocation.a.virtual_numbers, *allocation.b.virtual_numbers))
    id = UUID(bytes=allocation.id)
    return [Use(number, id, allocation.is_exclusive, allocation.product.value) for number in virtual_numbers]


async def cooling_routes(
    connection: Connection, cell: int, routes: Sequence[Route], now_us: int
) -> list[Route]:
    """Those of these routes whose number still cools on the VN, for another allocation."""
    if not routes:
        return []
    rows = await connection.fetch(
        _SQL["cooling_numbers"],
        cell,
        [route.virtual_number for route in routes],
        [route.number for route in routes],
        [route.allocation_id for route in routes],
        to_datetime(now_us),
    )
    cooling = {(row["virtual_number"], row["number"], row["allocation_id"]) for row in rows}
    return [route for route in routes if (route.virtual_number, route.number, route.allocation_id) in cooling]


async def add_routes(connection: Connection, cell: int, routes: Sequence[Route]) -> list[Route]:
    """Put in the routes that the rule "one without PIN, or many with" allows; returns the others."""
    if not routes:
        return []
    wanted: dict[tuple[E164, E164], bool] = {}
    for route in routes:
        wanted.setdefault((route.virtual_number, route.number), route.needs_pin)
    lines = await connection.fetch(
        _SQL["hold_lines"],
        cell,
        [virtual_number for virtual_number, _ in wanted],
        [number for _, number in wanted],
        list(wanted.values()),
    )
    needs_pin = {(row["virtual_number"], row["number"]): row["needs_pin"] for row in lines}
    fitting = [route for route in routes if needs_pin[route.virtual_number, route.number] == route.needs_pin]
    rows = await connection.fetch(
        _SQL["insert_routes"],
        cell,
        [route.virtual_number for route in fitting],
        [route.number for route in fitting],
        [route.allocation_id for route in fitting],
        [side_key(route.side) for route in fitting],
        [route.needs_pin for route in fitting],
    )
    inserted = {(row["virtual_number"], row["number"], row["allocation_id"]) for row in rows}
    return [
        route for route in routes if (route.virtual_number, route.number, route.allocation_id) not in inserted
    ]


async def claim_pins(connection: Connection, cell: int, claims: Sequence[Claim], now_us: int) -> list[Claim]:
    """Claim the PINs that are free; returns the claims that were refused."""
    # One statement cannot touch a row twice: of two claims of one batch the first stands.
    first = {(claim.virtual_number, claim.pin): claim for claim in reversed(claims)}
    if not first:
        return []
    rows = await connection.fetch(
        _SQL["claim_pins"],
        cell,
        [virtual_number for virtual_number, _ in first],
        [pin.digits for _, pin in first],
        [claim.allocation_id for claim in first.values()],
        ["both" if claim.side is None else side_key(claim.side) for claim in first.values()],
        to_datetime(now_us),
    )
    claimed = {(row["virtual_number"], row["pin"], row["allocation_id"]) for row in rows}
    return [
        claim
        for claim in claims
        if (claim.virtual_number, claim.pin.digits, claim.allocation_id) not in claimed
    ]


async def delete_routes(connection: Connection, cell: int, ids: Sequence[UUID]) -> None:
    # Lines before routes, as whoever adds a route takes them: else the two would wait for each other.
    await connection.execute(_SQL["lock_lines_of"], cell, ids)
    rows = await connection.fetch(_SQL["delete_routes"], cell, ids)
    await drop_idle_lines(connection, cell, [(row["virtual_number"], row["number"]) for row in rows])


async def drop_idle_lines(connection: Connection, cell: int, left: Iterable[tuple[int, int]]) -> None:
    """The last route takes its line away, under the line's lock."""
    lines = columns_of(sorted(set(left)), 2)
    if lines[0]:
        await connection.execute(_SQL["lock_lines"], cell, *lines)
        await connection.execute(_SQL["delete_idle_lines"], cell, *lines)


async def drop_routes(connection: Connection, cell: int, routes: Iterable[Route]) -> None:
    gone = sorted((route.virtual_number, route.number, route.allocation_id) for route in routes)
    if gone:
        lines = columns_of([(virtual_number, number) for virtual_number, number, _ in gone], 2)
        await connection.execute(_SQL["lock_lines"], cell, *lines)
        await connection.execute(_SQL["delete_some_routes"], cell, *columns_of(gone, 3))


def listed_routes(allocation: Allocation) -> list[Route]:
    id = UUID(bytes=allocation.id)
    return [
        Route(virtual_number, number, id, side, party.listed_need_pin)
        for side, party in _parties(allocation)
        for virtual_number in party.virtual_numbers
        for number in party.numbers
    ]


def claims(allocation: Allocation) -> list[Claim]:
    id = UUID(bytes=allocation.id)
    return [Claim(virtual_number, pin, id, side) for virtual_number, pin, side in pins_on(allocation)]


def _parties(allocation: Allocation) -> tuple[tuple[Side, Party], ...]:
    return ((Side.A, allocation.a), (Side.B, allocation.b))


def side_of(key: str) -> Side:
    return Side[key.upper()]


def pin_texts(pins: Iterable[Pin]) -> list[str]:
    return [pin.digits for pin in pins]


def columns_of(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    """Rows as the columns that unnest takes."""
    return [[row[column] for row in rows] for column in range(width)]
