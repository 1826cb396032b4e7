from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from cordboard.storage.database import Database

from .outbox import Subscriber, emptied, subscribed


@pytest.fixture(scope="session")
async def outbox(new_database: Callable[[], Awaitable[Database]]) -> Database:
    """One database for all tests of this directory, with whatever the last one left in it."""
    return await new_database()


@pytest.fixture
async def database(outbox: Database) -> Database:
    return await emptied(outbox)


@pytest.fixture
async def subscriber() -> AsyncIterator[Subscriber]:
    async with subscribed() as listening:
        yield listening
