"""Who changes events while others do: they wait for one another, and never in a circle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from cordboard.storage import erasing, retention, sealing
from cordboard.storage.database import Connection, Database
from cordboard.storage.event_records import replay_event
from cordboard.storage.retention import Kept
from cordboard.storage.sealing import DataKeys
from tests.storage.lives import DAY_US, HOUR_US, Life, deliver
from tests.storage.office import GIVE_UP_S, NOW_US, CountingRepeats, Office, until_somebody_is_blocked

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
LATER_US = NOW_US + 9 * DAY_US

Change = Callable[[Database, Office, Life], Coroutine[Any, Any, None]]


async def delete_old(database: Database, office: Office, _life: Life) -> None:
    await retention.delete_old(database, Kept(office.cell, office.tenant.id, 7), LATER_US)


async def erase(database: Database, office: Office, life: Life) -> None:
    # Some offices of this database were rotated before.
    await erasing.erase(database, life.cat, office.tenant.id, DataKeys([NEW, OLD]), LATER_US)


async def rotate(database: Database, _office: Office, _life: Life) -> None:
    await sealing.rotate(database, DataKeys([NEW, OLD]))


@pytest.mark.parametrize("change", [delete_old, erase, rotate])
@pytest.mark.parametrize("is_reversed", [False, True], ids=["up", "down"])
async def test_a_replay_and_whoever_else_changes_events_wait_for_each_other_and_not_in_a_circle(
    office: Office, change: Change, *, is_reversed: bool
) -> None:
    life = Life(office, NOW_US)
    await life.live()
    await deliver(office, NOW_US + 2 * HOUR_US, DataKeys([OLD]))
    database = CountingRepeats(office.database)
    rows = await office.fetch(
        "SELECT id FROM event WHERE cell = $1 AND subject = (SELECT min(subject) FROM event_subject"
        " WHERE cell = $1 AND seq > 2) ORDER BY id"
    )
    first, *others = [row["id"] for row in (reversed(rows) if is_reversed else rows)]
    assert len(others) >= 2
    has_begun, somebody_waits = asyncio.Event(), asyncio.Event()

    async def replay(connection: Connection) -> None:
        await replay_event(connection, office.cell, office.tenant.id, first, LATER_US)
        has_begun.set()
        await somebody_waits.wait()
        for id in others:
            await replay_event(connection, office.cell, office.tenant.id, id, LATER_US)

    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(database.write(replay))
        await has_begun.wait()
        tasks.create_task(change(database, office, life))
        await until_somebody_is_blocked(database)
        somebody_waits.set()

    assert database.repeats == 0, "nobody was thrown out of a deadlock"
    rows = await office.fetch("SELECT id FROM event WHERE cell = $1 AND state = 'pending'")
    assert {row["id"] for row in rows} == {first, *others}, "what is to be told again is there"
