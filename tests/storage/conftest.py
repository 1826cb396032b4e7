from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from cordboard.storage.database import Database
from tests.conftest import NewDatabase
from tests.storage.office import Office, opened_office


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def office_database(new_database: NewDatabase) -> AsyncIterator[Database]:
    """One for the offices of a module, each in a cell of its own: all modules together need more than 256."""
    database = await new_database()
    yield database
    # The server has connections for a few databases at a time, not for all of a run.
    await database.close()


@pytest_asyncio.fixture
async def office(office_database: Database) -> Office:
    return await opened_office(office_database)
