from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cordboard.storage.database import Database
from tests.webhooks.outbox import Subscriber, emptied, started_database, subscribed


@pytest_asyncio.fixture(scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Database]:
    async with started_database(tmp_path_factory.mktemp("outbox")) as database:
        yield database


@pytest_asyncio.fixture
async def database(server: Database) -> Database:
    return await emptied(server)


@pytest_asyncio.fixture
async def subscriber() -> AsyncIterator[Subscriber]:
    async with subscribed() as listening:
        yield listening
