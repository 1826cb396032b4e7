"""Calls that other nodes may know are asked for together, and nobody waits for a database that is slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cordboard.routing.model import NEW_CALL, Progress
from cordboard.routing.numbers import E164
from cordboard.storage.database import Database
from cordboard.storage.outcomes import CallKey
from cordboard.switchboard.unknown_calls import CALLS_PER_STATEMENT_MAX, UnknownCalls
from tests.storage.office import ANN, BEN, Office, opened_office


@pytest.fixture
async def office(database: Database) -> Office:
    return await opened_office(database)


@asynccontextmanager
async def asking(database: Database) -> AsyncIterator[UnknownCalls]:
    unknown_calls = UnknownCalls(database)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(unknown_calls.run())
        yield unknown_calls
        running.cancel()


@asynccontextmanager
async def nothing_can_be_read(database: Database) -> AsyncIterator[None]:
    connection = await database.dedicated_connection()
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE verification IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


def call(office: Office, call_sid: str, caller: E164 = ANN) -> CallKey:
    return CallKey(office.tenant.id, call_sid, office.vn, caller)


async def test_each_call_asked_for_at_once_gets_its_own_progress(office: Office) -> None:
    await office.record(office.wrong("sid", "1"), office.wrong("sid", "2"), office.wrong("other", "1"))
    async with asking(office.database) as unknown_calls:
        asked = [call(office, "sid"), call(office, "other"), call(office, "sid", BEN), call(office, "nobody")]
        found = await asyncio.gather(*(unknown_calls.progress_of(office.cell, one) for one in asked))
    assert [progress.failures for progress in found] == [2, 1, 0, 0]
    assert found[2:] == [NEW_CALL, NEW_CALL]


async def test_more_calls_than_a_statement_takes_are_all_told(office: Office) -> None:
    await office.record(office.wrong(f"sid-{CALLS_PER_STATEMENT_MAX}", "1"))
    async with asking(office.database) as unknown_calls:
        asked = [call(office, f"sid-{n}") for n in range(CALLS_PER_STATEMENT_MAX + 1)]
        found = await asyncio.gather(*(unknown_calls.progress_of(office.cell, one) for one in asked))
    assert [progress.failures for progress in found] == [0] * CALLS_PER_STATEMENT_MAX + [1]


async def test_a_cell_without_records_knows_nothing(office: Office) -> None:
    await office.record(office.wrong("sid", "1"))
    async with asking(office.database) as unknown_calls:
        own, others = await asyncio.gather(
            *(unknown_calls.progress_of(cell, call(office, "sid")) for cell in (office.cell, office.cell + 1))
        )
    assert (own.failures, others) == (1, NEW_CALL)


async def test_a_slow_database_is_not_waited_for(office: Office) -> None:
    await office.record(office.wrong("sid", "1"))
    async with asking(office.database) as unknown_calls:
        async with nothing_can_be_read(office.database):
            assert await unknown_calls.progress_of(office.cell, call(office, "sid")) == NEW_CALL
        known = await unknown_calls.progress_of(office.cell, call(office, "sid"))
    assert known.failures == 1


async def test_a_database_that_is_away_knows_nothing(office: Office) -> None:
    await office.record(office.wrong("sid", "1"))
    await office.database.close()
    async with asking(office.database) as unknown_calls:
        assert await unknown_calls.progress_of(office.cell, call(office, "sid")) == NEW_CALL
    await office.database.connect()


async def test_who_waits_when_the_engine_stops_goes_by_what_the_node_knows(office: Office) -> None:
    is_waiting = asyncio.Event()

    async def ask(unknown_calls: UnknownCalls) -> Progress:
        is_waiting.set()
        return await unknown_calls.progress_of(office.cell, call(office, "sid"))

    async with nothing_can_be_read(office.database), asyncio.TaskGroup() as tasks:
        async with asking(office.database) as unknown_calls:
            hop = tasks.create_task(ask(unknown_calls))
            await is_waiting.wait()
        assert await hop == NEW_CALL
