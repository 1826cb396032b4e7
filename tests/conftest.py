"""What many tests share: one real PostgreSQL for the whole run, and a way to a database of one's own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from cordboard.storage.database import Database
from cordboard.storage.embedded import EmbeddedPostgres

# No test is timed, so none fails because the machine is busy. Filters are part of some worlds: most sets of
# rules that are thrown together break one. CI plays the same examples each time, everybody else new ones.
settings.register_profile(
    "cordboard",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize="CI" in os.environ,
)
settings.load_profile("cordboard")

NewDatabase = Callable[[], Awaitable[Database]]


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "server")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
async def new_database(postgres: EmbeddedPostgres) -> AsyncIterator[NewDatabase]:
    """Makes empty, migrated databases; connected until the end of the run."""
    numbers = count(1)
    async with AsyncExitStack() as stack:

        async def make() -> Database:
            name = f"test_{next(numbers)}"
            connection = await asyncpg.connect(**postgres.connect_kwargs)
            await connection.execute(f"CREATE DATABASE {name}")
            await connection.close()
            connect_kwargs: dict[str, Any] = {**postgres.connect_kwargs, "database": name}
            database = Database(**connect_kwargs)
            await database.connect()
            stack.push_async_callback(database.close)
            await database.migrate()
            return database

        yield make


@pytest.fixture
async def database(new_database: NewDatabase) -> AsyncIterator[Database]:
    database = await new_database()
    yield database
    await database.close()


@pytest.fixture
def board_directory(tmp_path: Path) -> Path:
    return tmp_path / "board"
