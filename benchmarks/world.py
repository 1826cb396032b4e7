"""The data of a run: one tenant with so many allocations, in PostgreSQL as the engine would have put them.

Allocation i has two listed numbers, a PIN and a VN a side: callers of side A are connected by their number
alone, those of side B enter the PIN. Every hundredth has a member on side A, who is connected by number, too.
Neighbours share VNs, a thousand allocations and their PINs on each. `sql/fill.sql` says the same.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg

from benchmarks.calls import Hop
from benchmarks.progress import say
from cordboard.storage.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

TENANT: Final = "acme1m"
_SQL: Final = {
    name: text
    for block in Path(__file__)
    .with_name("sql")
    .joinpath("fill.sql")
    .read_text(encoding="utf-8")
    .split("-- name: ")[1:]
    for name, _, text in [block.partition("\n")]
}

# Ten digits after the country code; each block has room for the twenty million numbers of the largest world.
LISTED_A, LISTED_B, MEMBERS, STRANGERS = (first * 1_0000_0000 for first in (98, 97, 95, 96))
# For allocations that a run makes itself.
LATER_A, LATER_B, WRITTEN_A, WRITTEN_B, BULK_A, BULK_B, LONG_A, LONG_B, WAVE_A, WAVE_B = (
    first * 1_0000_0000 for first in (88, 87, 86, 85, 84, 83, 82, 81, 76, 75)
)
FIRST_VN: Final = 80_0000_0000
A_MEMBER_IN: Final = 100
ALLOCATIONS_A_VN: Final = 1_000
VIRTUAL_NUMBERS_MIN: Final = 20

# Those that take longest first, for they are filled side by side.
TABLES: Final = (
    "route",
    "party_number",
    "allocation",
    "caller_line",
    "carried_allocation",
    "vn_use",
    "pin_claim",
)
FILLING_CONNECTIONS: Final = 2
# A world can be made again, so nothing is logged or waited for. It is on the disk before an engine starts.
FILLING_SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "shared_buffers": "512MB",
    "autovacuum": "off",
}
# Some 2 s of PostgreSQL for each table.
FILLED_AT_ONCE: Final = 500_000
# Checking the references of more rows takes longer than putting them in; that they are right is known from
# smaller worlds, where they are checked.
REFERENCES_CHECKED_MAX: Final = 100_000
# 3.6 kB of rows and indexes, and some 300 B for sorting each of the two largest of them at the same time.
DISK_BYTES_AN_ALLOCATION: Final = 4_400
DISK_BYTES_BESIDE: Final = 2 << 30
# More would neither be noticed nor fit into the generator's memory.
HOPS_MAX: Final = 100_000


class World:
    """Which numbers, PINs and VNs the allocations 0 to `allocations` - 1 have."""

    def __init__(self, allocations: int) -> None:
        assert allocations % A_MEMBER_IN == 0
        self.allocations = allocations
        self.virtual_numbers = max(allocations // ALLOCATIONS_A_VN, VIRTUAL_NUMBERS_MIN)

    def virtual_number(self, index: int) -> int:
        """Where callers of side A call; those of side B call `virtual_number(index + 1)`."""
        return FIRST_VN + index % self.virtual_numbers

    def b_pin(self, index: int) -> str:
        return f"{500_000 + index // self.virtual_numbers}"

    def unknown_virtual_number(self, index: int) -> int:
        return self.virtual_number(index) + self.virtual_numbers

    def picked(self, count: int, seed: int = 2026) -> list[int]:
        """Allocations in random order, so that no cache knows who is next; some twice."""
        dice = random.Random(seed)
        return [dice.randrange(self.allocations) for _ in range(count)]

    def listed_hops(self) -> list[Hop]:
        """Callers who are connected by their number."""
        return [
            Hop(LISTED_A + 2 * index + index % 2, self.virtual_number(index))
            for index in self.picked(min(HOPS_MAX, self.allocations))
        ]

    def strangers_hops(self, count: int, first: int = 0) -> list[Hop]:
        """Callers who are nobody's, each with a right PIN of side B."""
        picked = self.picked(count, seed=first)
        return [
            Hop(STRANGERS + first + n, self.virtual_number(index + 1), self.b_pin(index))
            for n, index in enumerate(picked)
        ]


class NoRoom(Exception):
    """The disk has too little room for the world."""


def check_room(directory: Path, allocations: int) -> None:
    """Raises NoRoom."""
    wanted = allocations * DISK_BYTES_AN_ALLOCATION + DISK_BYTES_BESIDE
    free = shutil.disk_usage(directory).free
    if free < wanted:
        raise NoRoom(
            f"{allocations:,} allocations want {wanted / 1e9:.0f} GB of disk while they are made, "
            f"and {directory} has {free / 1e9:.0f} GB"
        )


async def fill(postgres_dir: Path, world: World) -> int:
    """Put the world's rows into the database of an engine that has stopped; returns their size in bytes,
    indexes included."""
    server = EmbeddedPostgres(postgres_dir, settings=FILLING_SETTINGS)
    await server.start()
    try:
        size = await fill_database(dict(server.connect_kwargs), world)
    finally:
        await server.stop()
    # What the server was told to leave to the system.
    await asyncio.to_thread(os.sync)
    return size


async def fill_database(connect_kwargs: Mapping[str, Any], world: World) -> int:
    """The same, where the database has the tenant and nothing else."""
    async with AsyncExitStack() as stack:
        connections: list[Connection] = []
        for _ in range(FILLING_CONNECTIONS):
            connection: Connection = await asyncpg.connect(**connect_kwargs)
            stack.push_async_callback(connection.close)
            # For these sessions only; the engine's are untouched.
            await connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '1GB'")
            connections.append(connection)
        return await _fill(connections, world)


async def _fill(connections: Sequence[Connection], world: World) -> int:
    connection = connections[0]
    before = await connection.fetchval(_SQL["size_bytes"], TABLES)
    cell = await connection.fetchval("SELECT cell FROM tenant WHERE id = $1", TENANT)
    await connection.execute(_SQL["virtual_number"], cell, TENANT, world.virtual_numbers)
    keys = await connection.fetch(_SQL["keys"], TABLES)
    indexes = await connection.fetch(_SQL["indexes"], TABLES)
    for row in (*keys, *indexes):
        await connection.execute(row["away"])

    async def fill_table(connection: Connection, table: str) -> None:
        async with connection.transaction():
            # What is put into a table that was made or emptied in the same transaction need not be logged.
            await connection.execute(f"TRUNCATE {table}")
            for first, behind in _steps(world.allocations):
                started_s = time.perf_counter()
                await connection.execute(_SQL[table], *_arguments(table, cell, first, behind, world))
                say(f"{table}: {behind:,} of {world.allocations:,}, {time.perf_counter() - started_s:.1f} s")
        for row in (*keys, *indexes):
            if row["table_name"] == table and not row["is_reference"]:
                await _bring_back(connection, row["back"])

    await _each_on_one(connections, TABLES, fill_table)
    for row in keys:
        if row["is_reference"]:
            is_checked = world.allocations <= REFERENCES_CHECKED_MAX
            await _bring_back(connection, row["back"] + ("" if is_checked else " NOT VALID"))

    async def vacuum(connection: Connection, table: str) -> None:
        await _bring_back(connection, f"VACUUM ANALYZE {table}")

    # Not the other tables, such as the feed: they are about to grow, and plans made by what they are today
    # would be for tables of a page.
    await _each_on_one(connections, (*TABLES, "virtual_number"), vacuum)
    await _bring_back(connection, "CHECKPOINT")
    after = await connection.fetchval(_SQL["size_bytes"], TABLES)
    return int(after) - int(before)


async def _each_on_one(
    connections: Sequence[Connection],
    tables: Sequence[str],
    work: Callable[[Connection, str], Awaitable[None]],
) -> None:
    """Do the work for each of the tables, as many at a time as there are connections."""
    waiting = iter(tables)

    async def run(connection: Connection) -> None:
        for table in waiting:
            await work(connection, table)

    async with asyncio.TaskGroup() as tasks:
        for connection in connections:
            tasks.create_task(run(connection))


def _steps(allocations: int) -> Iterator[tuple[int, int]]:
    for first in range(0, allocations, FILLED_AT_ONCE):
        yield first, min(first + FILLED_AT_ONCE, allocations)


def _arguments(table: str, cell: int, first: int, behind: int, world: World) -> Sequence[object]:
    # A parameter that a statement does not name cannot be given.
    tenant = (TENANT,) if table in {"allocation", "carried_allocation"} else ()
    virtual_numbers = () if table == "party_number" else (world.virtual_numbers,)
    return (cell, *tenant, first, behind, *virtual_numbers)


async def _bring_back(connection: Connection, statement: str) -> None:
    started_s = time.perf_counter()
    await connection.execute(statement, timeout=3_600)
    if (took_s := time.perf_counter() - started_s) > 1:
        say(f"{statement[:90]}: {took_s:.1f} s")
