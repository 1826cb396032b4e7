from __future__ import annotations

import pytest_asyncio

from cordboard.storage.database import Database
from tests.conftest import NewDatabase
from tests.storage.office import Office, opened_office


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def office_database(new_database: NewDatabase) -> Database:
    """One for the offices of a module, each in a cell of its own: all modules together need more than 256."""
    return await new_database()


@pytest_asyncio.fixture
async def office(office_database: Database) -> Office:
    return await opened_office(office_database)
