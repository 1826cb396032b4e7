from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cordboard.storage.database import Database
from tests.conftest import NewDatabase


@pytest.fixture
async def database(new_database: NewDatabase) -> AsyncIterator[Database]:
    """Let go of after the test: the server allows 50 connections, and every test here has a pool."""
    database = await new_database()
    yield database
    await database.close()
