"""Allocations made in batches: each whole or not at all, and none spoiling its neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from cordboard.clock import SECOND_US, to_datetime, to_datetime_or_none
from cordboard.routing.allocate import Standing
from cordboard.routing.changes import (
    AllocationStands,
    Change,
)
from cordboard.routing.model import Allocation, AllocationId
from cordboard.routing.numbers import E164, Pin
from cordboard.storage import feed
from cordboard.storage.allocations.releasing import release_ended_blockers
from cordboard.storage.allocations.rows import (
    ClientIdTaken,
    NumberTaken,
    PinTaken,
    PoolChanged,
    Taken,
    VirtualNumberBusy,
    check_pool,
    claim_exclusive,
    claims,
    delete_routes,
    delete_uses,
    listed_routes,
    pin_texts,
    uses,
)
from cordboard.storage.database import Connection
from cordboard.storage.feed import Written
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
    # The id of the data key that the answer is sealed with.
    sealed_with: str | None = None


@dataclass(frozen=True, slots=True)
class NewAllocation:
    tenant_no: int
    standing: Standing
    idempotency: Idempotency | None = None
    # It lost beside others that lost; alone in its batch it has nobody else to lose to.
    is_second_try: bool = False

    @property
    def id(self) -> AllocationId:
        return self.standing.allocation.id


class Made(NamedTuple):
    """`written` is of the whole batch."""

    written: Written


class AnsweredBefore(NamedTuple):
    """There is an answer under the request's Idempotency-Key."""


class TryAgain(NamedTuple):
    """What it lost to may be gone: an ended allocation was released, or a neighbour lost too."""


MakeResult = Made | Taken | AnsweredBefore | TryAgain


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
    lost: dict[AllocationId, MakeResult] = {}
    await _keep_answers(connection, cell, items, now_us, lost)
    await _insert_rows(connection, cell, [item for item in items if item.id not in lost], lost, now_us)
    if lost:
        await _take_back(connection, cell, lost)
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
    result = Made(await feed.write(connection, cell, changes, now_us))
    return [lost.get(item.id, result) for item in items]


async def _keep_answers(
    connection: Connection,
    cell: int,
    items: Sequence[NewAllocation],
    now_us: int,
    lost: dict[AllocationId, MakeResult],
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
        [UUID(bytes=item.id) for item, _ in with_key.values()],
        [idempotency.answer for _, idempotency in with_key.values()],
        to_datetime(now_us),
        to_datetime(now_us - ANSWER_KEPT_US),
        [idempotency.sealed_with for _, idempotency in with_key.values()],
    )
    ids = {row["allocation_id"].bytes for row in kept}
    lost.update(
        (item.id, AnsweredBefore()) for item in items if item.idempotency is not None and item.id not in ids
    )


async def _insert_rows(
    connection: Connection,
    cell: int,
    items: Sequence[NewAllocation],
    lost: dict[AllocationId, MakeResult],
    now_us: int,
) -> None:
    if not items:
        return
    exclusive = [item.standing.allocation for item in items if item.standing.allocation.is_exclusive]
    # Before the statement that stands on them, which sees the VNs as they were when it began.
    claimed = await claim_exclusive(
        connection, cell, [use for allocation in exclusive for use in uses(allocation)], now_us
    )
    alone = {use.allocation_id for use in claimed}
    refused = await connection.fetch(
        _SQL["make"],
        cell,
        [_row_json(place, item.standing) for place, item in enumerate(items)],
        [use.virtual_number for use in claimed],
        [use.allocation_id for use in claimed],
        to_datetime(now_us),
    )
    for row in refused:
        lost.setdefault(AllocationId(row["allocation_id"].bytes), _taken_of(row))
    # A claim whose allocation does not exist would not be taken back; only client ids keep one from existing.
    assert not any(row["taken"] == "client_id" and row["allocation_id"] in alone for row in refused)
    await check_pool(
        connection, cell, {E164(row["virtual_number"]) for row in refused if row["taken"] == "virtual_number"}
    )


def _taken_of(row: asyncpg.Record) -> Taken:
    match row["taken"]:
        case "client_id":
            return ClientIdTaken()
        case "virtual_number":
            return VirtualNumberBusy(E164(row["virtual_number"]))
        case "number":
            return NumberTaken(E164(row["virtual_number"]), E164(row["number"]))
        case "pin":
            return PinTaken(E164(row["virtual_number"]), Pin(row["pin"]))
        case unknown:
            raise AssertionError(f"the query has no such word: {unknown}")


def _row_json(place: int, standing: Standing) -> dict[str, object]:
    allocation = standing.allocation
    a, b = allocation.a, allocation.b
    return {
        "place": place,
        "id": allocation.id.hex(),
        "tenant_id": standing.tenant_id,
        "product": allocation.product.value,
        "client_id": standing.client_id,
        "generation": standing.generation,
        "usage": allocation.usage.value,
        "a_numbers": a.numbers,
        "b_numbers": b.numbers,
        "a_virtual_numbers": a.virtual_numbers,
        "b_virtual_numbers": b.virtual_numbers,
        "a_pins": pin_texts(a.pins),
        "b_pins": pin_texts(b.pins),
        "a_listed_need_pin": a.listed_need_pin,
        "b_listed_need_pin": b.listed_need_pin,
        "common_pin": allocation.common_pin,
        "cool_off_s": standing.cool_off_s,
        "is_exclusive": allocation.is_exclusive,
        "pin_attempts_max": standing.pin_attempts_max,
        "record": allocation.policy.record,
        "custom_field": allocation.policy.custom_field,
        "flow_id": standing.flow_id,
        "a_tag": standing.tags[0],
        "b_tag": standing.tags[1],
        "created_at": to_datetime(standing.created_at_us),
        "expires_at": to_datetime_or_none(allocation.expires_at_us),
    }


async def _take_back(connection: Connection, cell: int, losers: Iterable[AllocationId]) -> None:
    """Undo what losers put in, so that they leave no trace in this transaction."""
    ids = [UUID(bytes=id) for id in losers]
    await connection.execute(_SQL["forget_answers"], cell, ids)
    await delete_routes(connection, cell, ids)
    await delete_uses(connection, cell, ids)
    await connection.execute(_SQL["delete_pins"], cell, ids)
    await connection.execute(_SQL["delete_parties"], cell, ids)
    await connection.execute(_SQL["delete_allocations"], cell, ids)


async def _release_ended_blockers(
    connection: Connection,
    cell: int,
    losers: Sequence[NewAllocation],
    lost: dict[AllocationId, MakeResult],
    now_us: int,
) -> list[Change]:
    """Release ended allocations that stood in the way, and say which losers should try again."""
    standings = [item.standing for item in losers]
    routes = [route for standing in standings for route in listed_routes(standing.allocation)]
    wanted = [claim for standing in standings for claim in claims(standing.allocation)]
    standing_on = [use for standing in standings for use in uses(standing.allocation)]
    is_ended, changes = await release_ended_blockers(
        connection, cell, now_us, standings, routes, wanted, standing_on, may_wait=False
    )
    lost_to_neighbours = [item for item in losers if len(losers) > 1 and not item.is_second_try]
    for item in losers if is_ended else lost_to_neighbours:
        lost[item.id] = TryAgain()
    return changes


async def kept_answer(
    connection: Connection, cell: int, tenant_id: str, key: str, now_us: int
) -> Idempotency | None:
    """What is kept under an Idempotency-Key."""
    row = await connection.fetchrow(
        _SQL["kept_answer"], cell, tenant_id, key, to_datetime(now_us - ANSWER_KEPT_US)
    )
    return None if row is None else Idempotency(key, row["body_digest"], row["answer"], row["sealed_with"])


async def cooling_pins(
    connection: Connection, cell: int, virtual_numbers: Iterable[E164], now_us: int
) -> frozenset[tuple[E164, Pin]]:
    """The (VN, PIN) that nobody has and nobody gets yet; the board does not know them."""
    rows = await connection.fetch(
        _SQL["cooling_pins"], cell, sorted(set(virtual_numbers)), to_datetime(now_us)
    )
    return frozenset((E164(row["virtual_number"]), Pin(row["pin"])) for row in rows)


async def cooling_pin_counts(
    connection: Connection, cell: int, virtual_numbers: Sequence[E164], now_us: int
) -> dict[E164, dict[int, int]]:
    """VN → length → how many PINs of it nobody has and nobody gets yet."""
    counts: dict[E164, dict[int, int]] = {}
    for row in await connection.fetch(_SQL["cooling_pin_counts"], cell, virtual_numbers, to_datetime(now_us)):
        counts.setdefault(E164(row["virtual_number"]), {})[row["length"]] = row["count"]
    return counts


async def cells_to_clear(connection: Connection, now_us: int) -> list[int]:
    """Cells with answers that were kept long enough, or with PINs that have cooled down."""
    before = to_datetime(now_us - ANSWER_KEPT_US)
    rows = await connection.fetch(_SQL["cells_to_clear"], before, to_datetime(now_us))
    return [row["cell"] for row in rows]


async def clear_cell(connection: Connection, cell: int, now_us: int) -> None:
    await connection.execute(_SQL["forget_old_answers"], cell, to_datetime(now_us - ANSWER_KEPT_US))
    await connection.execute(_SQL["delete_cooled_pins"], cell, to_datetime(now_us))
    await connection.execute(_SQL["delete_cooled_numbers"], cell, to_datetime(now_us))


async def resting_virtual_numbers(
    connection: Connection, cell: int, tenant_id: str, allocation: Allocation, now_us: int
) -> frozenset[E164]:
    """Where a listed number or a PIN of this allocation still cools for another; the board does not know."""
    rows = await connection.fetch(
        _SQL["resting_virtual_numbers"],
        cell,
        [*allocation.a.numbers, *allocation.b.numbers],
        [pin.digits for pin in (*allocation.a.pins, *allocation.b.pins)],
        to_datetime(now_us),
        UUID(bytes=allocation.id),
        tenant_id,
    )
    return frozenset(E164(row["virtual_number"]) for row in rows)


async def last_virtual_number_of_pair(
    connection: Connection, cell: int, tenant_id: str, one: Sequence[E164], other: Sequence[E164]
) -> E164 | None:
    """The VN of the latest GreenVN allocation of the tenant in which one of these faced one of those."""
    number = await connection.fetchval(
        _SQL["last_virtual_number_of_pair"], cell, tenant_id, list(one), list(other)
    )
    return None if number is None else E164(number)
