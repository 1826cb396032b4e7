"""The feed: a gapless counter per cell, written by the transaction that makes the change (scale.md A.4)."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from cordboard.clock import to_datetime, to_instant_us_or_never
from cordboard.routing.changes import (
    Change,
    FeedRow,
    KnownRow,
    TenantStands,
    VirtualNumberStands,
    encode,
)
from cordboard.routing.model import Allocation, AllocationId, CallPolicy, Party, Product, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.storage.database import Connection
from cordboard.storage.queries import load

_SQL: Final = load("feed")

# A reader that is further behind than this loads the board anew; some 400 bytes a row.
FEED_KEPT_S: Final = 3_600
# The applier takes them in smaller steps.
ROWS_PER_READ_MAX: Final = 200
# Some 100 ms of the board.
DIRECTORY_ROWS_PER_STEP: Final = 5_000


class Position(NamedTuple):
    """How far the feed of one cell has come."""

    cell: int
    n: int


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What one transaction has added to the feed of one cell; equal to itself only."""

    cell: int
    tags: Sequence[int]
    changes: Sequence[Change]
    last_n: int

    @property
    def position(self) -> Position:
        return Position(self.cell, self.last_n)

    def rows(self) -> list[KnownRow]:
        first_n = self.last_n - len(self.changes) + 1
        return [
            KnownRow(self.cell, n, tag, change)
            for n, (tag, change) in enumerate(zip(self.tags, self.changes, strict=True), start=first_n)
        ]


async def append(connection: Connection, cell: int, changes: Sequence[Change], now_us: int) -> Position:
    """Write the changes to the cell's feed, as the last statement of their transaction."""
    return (await write(connection, cell, changes, now_us)).position


async def write(connection: Connection, cell: int, changes: Sequence[Change], now_us: int) -> Written:
    """As `append`, for who hands the rows over to the board once they are committed."""
    assert changes, "a transaction without changes has nothing to tell"
    kinds, bodies = zip(*map(encode, changes), strict=True)
    tags = [secrets.randbits(63) for _ in changes]
    n = await connection.fetchval(_SQL["append"], cell, tags, kinds, bodies, to_datetime(now_us))
    return Written(cell, tags, changes, n)


async def rows_after(connection: Connection, positions: Mapping[int, int]) -> list[FeedRow]:
    """The next rows of each cell after its position, by cell and n, at most ROWS_PER_READ_MAX a cell."""
    rows = await connection.fetch(
        _SQL["rows_after"], list(positions), list(positions.values()), ROWS_PER_READ_MAX
    )
    return [FeedRow(*row) for row in rows]


async def heads(connection: Connection) -> dict[int, tuple[int, int]]:
    """Cell → (n, tag) of the feed's newest row."""
    return {row["cell"]: (row["n"], row["tag"]) for row in await connection.fetch(_SQL["heads"])}


async def is_our_history(connection: Connection, positions: Mapping[int, tuple[int, int]]) -> bool:
    """Whether the database still knows every position by its tag. After a restored backup it does not."""
    if not positions:
        return True
    cells = list(positions)
    rows = await connection.fetch(_SQL["tags_at"], cells, [positions[cell][0] for cell in cells])
    return all(positions[row["cell"]] == (0, 0) or row["tag"] == positions[row["cell"]][1] for row in rows)


async def database_id(connection: Connection) -> UUID:
    """Names this database: a board made from another one is not ours."""
    id: UUID = await connection.fetchval(_SQL["database_id"])
    return id


async def trim(connection: Connection, older_than_us: int) -> None:
    """Forget rows that every reader has had time to read; the newest of a cell always stays."""
    before = to_datetime(older_than_us)
    for row in await connection.fetch(_SQL["cells_with_old_rows"], before):
        await connection.execute(_SQL["trim"], row["cell"], before)


async def tenant_change(connection: Connection, tenant_id: str) -> TenantStands:
    """The tenant as the feed tells it. Raises LookupError."""
    row = await connection.fetchrow(_SQL["snapshot_tenants"], tenant_id)
    if row is None:
        raise LookupError(tenant_id)
    return _tenant(row)


async def directory(connection: Connection) -> AsyncIterator[tuple[int, list[Change]]]:
    """All tenants, then all VNs, as changes to an empty board, in steps of one cell each."""
    tenants = await connection.fetch(_SQL["snapshot_tenants"], None)
    numbers = await connection.fetch(_SQL["snapshot_virtual_numbers"], None)
    for rows in (
        [(row["cell"], _tenant(row)) for row in tenants],
        [(row["cell"], _virtual_number(row)) for row in numbers],
    ):
        for cell, changes in _by_cell(rows):
            for start in range(0, len(changes), DIRECTORY_ROWS_PER_STEP):
                yield cell, changes[start : start + DIRECTORY_ROWS_PER_STEP]


def _by_cell(rows: Iterable[tuple[int, Change]]) -> Iterable[tuple[int, list[Change]]]:
    changes: defaultdict[int, list[Change]] = defaultdict(list)
    for cell, change in rows:
        changes[cell].append(change)
    return changes.items()


def _tenant(row: asyncpg.Record) -> TenantStands:
    return TenantStands(
        tenant_no=row["tenant_no"],
        tenant_id=row["id"],
        cell=row["cell"],
        settings=row["settings"],
        api_token_digests=tuple(digest.hex() for digest in row["api_token_digests"]),
        applet_key_digests=tuple(digest.hex() for digest in row["applet_key_digests"]),
        revealing_digests=tuple(digest.hex() for digest in row["revealing_digests"]),
    )


async def virtual_number_changes(connection: Connection, numbers: Sequence[E164]) -> list[Change]:
    """VNs as the feed tells them."""
    return [_virtual_number(row) for row in await connection.fetch(_SQL["snapshot_virtual_numbers"], numbers)]


def _virtual_number(row: asyncpg.Record) -> Change:
    return VirtualNumberStands(
        tenant_no=row["tenant_no"],
        number=E164(row["number"]),
        region=row["region"],
        type=row["type"],
        is_reserved=row["is_reserved"],
        is_drained=row["is_drained"],
    )


def allocation_of(row: asyncpg.Record) -> Allocation:
    """The allocation of a row of `allocations.standing`."""
    return Allocation(
        id=AllocationId(row["id"].bytes),
        product=Product(row["product"]),
        usage=Usage(row["usage"]),
        expires_at_us=to_instant_us_or_never(row["expires_at"]),
        a=_party(row["a_numbers"], row["a_virtual_numbers"], row["a_pins"], row["a_listed_need_pin"]),
        b=_party(row["b_numbers"], row["b_virtual_numbers"], row["b_pins"], row["b_listed_need_pin"]),
        common_pin=row["common_pin"],
        has_members=False,
        is_exclusive=row["is_exclusive"],
        is_locked=row["is_exclusive"]
        and row["pin_attempts_max"] is not None
        and row["pin_failures"] >= row["pin_attempts_max"],
        policy=CallPolicy(row["record"], row["custom_field"]),
    )


def _party(
    numbers: Sequence[Any], virtual_numbers: Sequence[Any], pins: Sequence[str], listed_need_pin: bool
) -> Party:
    return Party(
        numbers=tuple(map(E164, numbers)),
        virtual_numbers=tuple(map(E164, virtual_numbers)),
        pins=tuple(map(Pin, pins)),
        listed_need_pin=listed_need_pin,
    )
