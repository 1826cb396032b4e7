"""Allocations and their members, read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from cordboard.clock import to_datetime, to_instant_us, to_instant_us_or_none
from cordboard.routing.allocate import Generation, ReleaseCause, Standing
from cordboard.routing.model import Product, Side, State
from cordboard.routing.numbers import E164
from cordboard.storage import feed
from cordboard.storage.allocations.rows import side_of
from cordboard.storage.database import Connection
from cordboard.storage.queries import load

_SQL: Final = load("allocations")


class AllocationName(NamedTuple):
    """An allocation as a client names it: the product in the path, the generation in the form of the id."""

    id: UUID
    product: Product
    generation: Generation

    def is_of(self, standing: Standing) -> bool:
        return standing.allocation.product is self.product and standing.generation is self.generation


class Found(NamedTuple):
    tenant_no: int
    standing: Standing


@dataclass(frozen=True, slots=True)
class Member:
    number: E164
    side: Side
    joined_at_us: int


async def find(connection: Connection, cell: int, ids: Sequence[UUID]) -> dict[UUID, Found]:
    rows = await connection.fetch(_SQL["standing"], cell, ids)
    return {row["id"]: Found(row["tenant_no"], _standing(row)) for row in rows}


async def members(connection: Connection, cell: int, allocation_id: UUID) -> list[Member]:
    """Who joined, in the order of joining."""
    rows = await connection.fetch(_SQL["members"], cell, allocation_id)
    return [
        Member(E164(row["number"]), side_of(row["side"]), to_instant_us(row["joined_at"])) for row in rows
    ]


async def has_client_id(
    connection: Connection, cell: int, tenant_id: str, product: Product, client_id: str, now_us: int
) -> bool:
    """Whether a live allocation of the tenant goes by this client id."""
    row = await connection.fetchrow(
        _SQL["client_id"], cell, tenant_id, product.value, client_id, to_datetime(now_us)
    )
    return row is not None


def _standing(row: asyncpg.Record) -> Standing:
    return Standing(
        tenant_id=row["tenant_id"],
        client_id=row["client_id"],
        allocation=feed.allocation_of(row),
        state=State(row["state"]),
        version=row["version"],
        cool_off_s=row["cool_off_s"],
        created_at_us=to_instant_us(row["created_at"]),
        generation=Generation(row["generation"]),
        flow_id=row["flow_id"],
        tags=(row["a_tag"], row["b_tag"]),
        pin_attempts_max=row["pin_attempts_max"],
        pin_failures=row["pin_failures"],
        updated_at_us=to_instant_us_or_none(row["updated_at"]),
        released_at_us=to_instant_us_or_none(row["released_at"]),
        release_cause=None if row["release_cause"] is None else ReleaseCause(row["release_cause"]),
    )


async def lock_many(connection: Connection, cell: int, ids: Iterable[UUID]) -> dict[UUID, Found]:
    """Allocations with their rows locked in the order in which everybody locks them."""
    in_order = sorted(set(ids))
    await connection.execute(_SQL["lock_active"], cell, in_order, None)
    return await find(connection, cell, in_order)
