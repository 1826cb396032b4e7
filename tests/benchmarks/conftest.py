from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from benchmarks.world import TENANT, World, fill_database
from cordboard.clock import SystemClock
from cordboard.storage.database import Database
from cordboard.storage.embedded import EmbeddedPostgres
from cordboard.storage.provisioning import add_tenant
from tests.conftest import NewDatabase

# Two allocations on most VNs and sides, and three members.
ALLOCATIONS = 300


@dataclass(frozen=True, slots=True)
class Filled:
    world: World
    database: Database
    connection: asyncpg.Connection[asyncpg.Record]
    name: str
    row_bytes: int
    keys_before: list[str]


@pytest.fixture(scope="session")
async def filled(new_database: NewDatabase, postgres: EmbeddedPostgres) -> AsyncIterator[Filled]:
    """A world in a database of its own."""
    database = await new_database()
    await add_tenant(database, TENANT, {}, SystemClock().now_us())
    name = await database.read(lambda connection: connection.fetchval("SELECT current_database()"))
    connect_kwargs: dict[str, Any] = {**postgres.connect_kwargs, "database": name}
    connection = await asyncpg.connect(**connect_kwargs)
    world = World(ALLOCATIONS)
    before = await keys_and_indexes(connection)
    row_bytes = await fill_database(connect_kwargs, world)
    yield Filled(world, database, connection, name, row_bytes, before)
    await connection.close()


async def keys_and_indexes(connection: asyncpg.Connection[asyncpg.Record]) -> list[str]:
    """Everything that holds rows to the rules, as PostgreSQL itself would write it."""
    rows = await connection.fetch(
        "SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace"
        " UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
    )
    return [row[0] for row in rows]
