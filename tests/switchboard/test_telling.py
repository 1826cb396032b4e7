"""What follows from answered outcomes: told behind the answers, by whoever is left, and before the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from cordboard.routing.model import Side
from cordboard.storage import untold
from cordboard.storage.database import Database, DatabaseAway
from cordboard.switchboard.telling import TOLD_AT_ONCE_MAX, WAITING_MAX, Telling
from tests.storage.office import ANN, BEN, CAT, NOW_US, Office, opened_office
from tests.switchboard.test_recording import StandingClock, end, nothing, recording, wrong


@pytest.fixture
async def office(database: Database) -> Office:
    return await opened_office(database)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def telling(office: Office) -> Telling:
    return Telling(office.database, StandingClock(), nothing, lambda _: None)


async def failed(office: Office) -> int:
    return len(await office.events("verification_failed"))


async def members(office: Office) -> int:
    return len(await office.fetch("SELECT 1 FROM party_number WHERE cell = $1 AND joined_at IS NOT NULL"))


async def left(office: Office, calls: int) -> None:
    """What an engine leaves that is killed when it has answered."""
    items = [wrong(office, f"c{n}") for n in range(calls)]
    await office.database.write_in_one_statement(
        lambda connection: untold.put_on_record(connection, office.cell, items, NOW_US)
    )


async def test_it_is_told_soon_and_whoever_waits_learns_when(office: Office, directory: Path) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    async with recording(office.database, directory) as keeps:
        recorded = await keeps.outcome(office.cell, office.right("c1", standing, Side.A, CAT))
        assert recorded is not None
        join = keeps.telling.join_of(office.tenant.id, CAT)
        assert join is not None
        assert join is keeps.telling.of_tenant(office.tenant.id)
        position = await join
        assert position is not None
        assert position.cell == office.cell
        assert await members(office) == 1
        assert keeps.telling.join_of(office.tenant.id, CAT) is keeps.telling.of_tenant(office.tenant.id)


async def test_an_end_is_recorded_behind_what_its_call_proved(office: Office, directory: Path) -> None:
    async with recording(office.database, directory) as keeps:
        await keeps.outcome(office.cell, wrong(office, "c1"))
        await keeps.end(office.cell, end(office, "c1"))
        assert await failed(office) == 1


async def test_another_tells_what_was_left_and_nothing_twice(office: Office) -> None:
    calls = TOLD_AT_ONCE_MAX + 5
    await left(office, calls)
    assert await failed(office) == 0
    # Two nodes that start at the same moment, and one later.
    await telling(office).tell_left(0)
    assert await failed(office) == calls
    await telling(office).tell_left(0)
    assert await failed(office) == calls


async def test_what_is_young_belongs_to_somebody_who_lives(office: Office) -> None:
    await left(office, 1)
    await telling(office).tell_left(1)
    assert await failed(office) == 0


async def test_while_too_many_wait_each_outcome_brings_along_what_follows(
    office: Office, directory: Path
) -> None:
    async with recording(office.database, directory) as keeps:
        for n in range(WAITING_MAX):
            keeps.telling.add(office.cell, wrong(office, f"c{n}"))
        assert keeps.telling.is_full
        await keeps.outcome(office.cell, wrong(office, "one more"))
        assert await failed(office) == 1


async def test_what_could_not_be_told_is_kept(office: Office) -> None:
    await left(office, 3)
    tells = telling(office)
    for n in range(3):
        tells.add(office.cell, wrong(office, f"c{n}"))
    await office.database.close()
    with pytest.raises(DatabaseAway):
        await tells.flush()
    await office.database.connect()
    await tells.flush()
    assert await failed(office) == 3
    assert tells.of_tenant(office.tenant.id) is None
