"""Allocations made in batches: each whole or not at all, and none spoiling its neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from cordboard.clock import SECOND_US, to_datetime, to_datetime_or_none
from cordboard.routing.allocate import Standing, side_key
from cordboard.routing.changes import (
    AllocationStands,
    Change,
)
from cordboard.routing.model import Allocation, Side
from cordboard.routing.numbers import E164, Pin
from cordboard.storage import feed
from cordboard.storage.allocations.releasing import release_ended_blockers
from cordboard.storage.allocations.rows import (
    ClientIdTaken,
    NumberTaken,
    PinTaken,
    Taken,
    add_routes,
    array_text,
    claim_pins,
    claims,
    columns_of,
    delete_routes,
    listed_routes,
    pin_text,
)
from cordboard.storage.database import Connection
from cordboard.storage.feed import Position
from cordboard.storage.queries import load

_SQL: Final = load("allocations")

# How long a repeated request under the same key gets the first answer again.
ANSWER_KEPT_US: Final = 24 * 3_600 * SECOND_US


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What a client wants to be answered again when it repeats the request under its key."""

    key: str
    body_digest: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class NewAllocation:
    tenant_no: int
    standing: Standing
    idempotency: Idempotency | None = None
    # It lost beside others that lost; alone in its batch it has nobody else to lose to.
    is_second_try: bool = False

    @property
    def id(self) -> UUID:
        return UUID(bytes=self.standing.allocation.id)


class Made(NamedTuple):
    position: Position


class AnsweredBefore(NamedTuple):
    """There is an answer under the request's Idempotency-Key."""


class TryAgain(NamedTuple):
    """What it lost to may be gone: an ended allocation was released, or a neighbour lost too."""


MakeResult = Made | Taken | AnsweredBefore | TryAgain


class PoolChanged(Exception):
    """A VN that the board still had, or the tenant itself, is gone."""


async def make(
    connection: Connection, cell: int, items: Sequence[NewAllocation], now_us: int
) -> list[MakeResult]:
    """Make those allocations of one cell that nothing stands against, each whole or not at all.

    Raises PoolChanged.
    """
    try:
        return await _make(connection, cell, items, now_us)
    except asyncpg.ForeignKeyViolationError:
        raise PoolChanged from None


async def _make(
    connection: Connection, cell: int, items: Sequence[NewAllocation], now_us: int
) -> list[MakeResult]:
    lost: dict[UUID, MakeResult] = {}
    await _keep_answers(connection, cell, items, now_us, lost)
    await _insert_rows(connection, cell, [item for item in items if item.id not in lost], lost, now_us)
    if lost:
        await _take_back(connection, cell, list(lost))
    made = [item for item in items if item.id not in lost]
    changes: list[Change] = []
    losers = [item for item in items if item.id in lost and not isinstance(lost[item.id], AnsweredBefore)]
    if losers:
        changes += await _release_ended_blockers(connection, cell, losers, lost, now_us)
    changes += [
        AllocationStands(item.tenant_no, item.standing.version, item.standing.allocation) for item in made
    ]
    if not changes:
        return [lost[item.id] for item in items]
    position = await feed.append(connection, cell, changes, now_us)
    return [lost.get(item.id, Made(position)) for item in items]


async def _keep_answers(
    connection: Connection,
    cell: int,
    items: Sequence[NewAllocation],
    now_us: int,
    lost: dict[UUID, MakeResult],
) -> None:
    with_key = {
        (item.standing.tenant_id, item.idempotency.key): (item, item.idempotency)
        for item in items
        if item.idempotency is not None
    }
    if not with_key:
        return
    kept = await connection.fetch(
        _SQL["keep_answers"],
        cell,
        [item.standing.tenant_id for item, _ in with_key.values()],
        [idempotency.key for _, idempotency in with_key.values()],
        [idempotency.body_digest for _, idempotency in with_key.values()],
        [item.id for item, _ in with_key.values()],
        [idempotency.answer for _, idempotency in with_key.values()],
        to_datetime(now_us),
        to_datetime(now_us - ANSWER_KEPT_US),
    )
    ids = {row["allocation_id"] for row in kept}
    lost.update(
        (item.id, AnsweredBefore()) for item in items if item.idempotency is not None and item.id not in ids
    )


async def _insert_rows(
    connection: Connection,
    cell: int,
    items: Sequence[NewAllocation],
    lost: dict[UUID, MakeResult],
    now_us: int,
) -> None:
    standings = [item.standing for item in items]
    allocations = [standing.allocation for standing in standings]
    rows = await connection.fetch(
        _SQL["insert_allocations"],
        cell,
        [item.id for item in items],
        [standing.tenant_id for standing in standings],
        [allocation.product.value for allocation in allocations],
        [standing.client_id for standing in standings],
        [allocation.usage.value for allocation in allocations],
        # An array of arrays of different lengths does not travel; its text does.
        [array_text(allocation.a.virtual_numbers) for allocation in allocations],
        [array_text(allocation.b.virtual_numbers) for allocation in allocations],
        [pin_text(allocation.a.pin) for allocation in allocations],
        [pin_text(allocation.b.pin) for allocation in allocations],
        [allocation.a.listed_need_pin for allocation in allocations],
        [allocation.b.listed_need_pin for allocation in allocations],
        [allocation.common_pin for allocation in allocations],
        [standing.cool_off_s for standing in standings],
        [to_datetime(standing.created_at_us) for standing in standings],
        [to_datetime_or_none(allocation.expires_at_us) for allocation in allocations],
    )
    inserted = {row["id"] for row in rows}
    lost.update((item.id, ClientIdTaken()) for item in items if item.id not in inserted)
    items = [item for item in items if item.id in inserted]
    await insert_listed(connection, cell, [item.standing.allocation for item in items])
    for route in await add_routes(
        connection, cell, [route for item in items for route in listed_routes(item.standing.allocation)]
    ):
        lost.setdefault(route.allocation_id, NumberTaken(route.virtual_number, route.number))
    wanted = [claim for item in items if item.id not in lost for claim in claims(item.standing.allocation)]
    for claim in await claim_pins(connection, cell, wanted, now_us):
        lost.setdefault(claim.allocation_id, PinTaken(claim.virtual_number, claim.pin))


async def insert_listed(connection: Connection, cell: int, allocations: Sequence[Allocation]) -> None:
    listed = [
        (UUID(bytes=allocation.id), number, side_key(side), position)
        for allocation in allocations
        for side in Side
        for position, number in enumerate(allocation.party(side).numbers)
    ]
    await connection.execute(_SQL["insert_listed"], cell, *columns_of(listed, 4))


async def _take_back(connection: Connection, cell: int, ids: Sequence[UUID]) -> None:
    """Undo what losers put in, so that they leave no trace in this transaction."""
    await connection.execute(_SQL["forget_answers"], cell, ids)
    await delete_routes(connection, cell, ids)
    await connection.execute(_SQL["delete_pins"], cell, ids)
    await connection.execute(_SQL["delete_parties"], cell, ids)
    await connection.execute(_SQL["delete_allocations"], cell, ids)


async def _release_ended_blockers(
    connection: Connection,
    cell: int,
    losers: Sequence[NewAllocation],
    lost: dict[UUID, MakeResult],
    now_us: int,
) -> list[Change]:
    """Release ended allocations that stood in the way, and say which losers should try again."""
    standings = [item.standing for item in losers]
    routes = [route for standing in standings for route in listed_routes(standing.allocation)]
    wanted = [claim for standing in standings for claim in claims(standing.allocation)]
    is_ended, changes = await release_ended_blockers(
        connection, cell, now_us, standings, routes, wanted, may_wait=False
    )
    lost_to_neighbours = [item for item in losers if len(losers) > 1 and not item.is_second_try]
    for item in losers if is_ended else lost_to_neighbours:
        lost[item.id] = TryAgain()
    return changes


async def kept_answer(
    connection: Connection, cell: int, tenant_id: str, key: str, now_us: int
) -> tuple[bytes, bytes] | None:
    """(digest of the body, answer) under an Idempotency-Key."""
    row = await connection.fetchrow(
        _SQL["kept_answer"], cell, tenant_id, key, to_datetime(now_us - ANSWER_KEPT_US)
    )
    return None if row is None else (row["body_digest"], row["answer"])


async def cooling_pins(
    connection: Connection, cell: int, virtual_numbers: Iterable[E164], now_us: int
) -> frozenset[tuple[E164, Pin]]:
    """The (VN, PIN) that nobody has and nobody gets yet; the board does not know them."""
    rows = await connection.fetch(
        _SQL["cooling_pins"], cell, sorted(set(virtual_numbers)), to_datetime(now_us)
    )
    return frozenset((E164(row["virtual_number"]), Pin(row["pin"])) for row in rows)


async def cells_to_clear(connection: Connection, now_us: int) -> list[int]:
    """Cells with answers that were kept long enough, or with PINs that have cooled down."""
    before = to_datetime(now_us - ANSWER_KEPT_US)
    rows = await connection.fetch(_SQL["cells_to_clear"], before, to_datetime(now_us))
    return [row["cell"] for row in rows]


async def clear_cell(connection: Connection, cell: int, now_us: int) -> None:
    await connection.execute(_SQL["forget_old_answers"], cell, to_datetime(now_us - ANSWER_KEPT_US))
    await connection.execute(_SQL["delete_cooled_pins"], cell, to_datetime(now_us))
