"""What time does by itself: allocations end once, on however many nodes, whatever clocks do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from cordboard.clock import SECOND_US, to_instant_us
from cordboard.node import running_switchboard
from cordboard.routing.allocate import Standing
from cordboard.routing.model import Connect, Decision
from cordboard.routing.numbers import E164
from cordboard.settings import Settings
from cordboard.storage import allocations
from cordboard.storage.database import Database
from cordboard.switchboard.answering import Caller, Undecided
from cordboard.switchboard.service import Switchboard
from tests.storage.office import ANN, BEN, ENDPOINTS, GIVE_UP_S, NOW_US, Office, opened_office

from .clocks import SetClock

HOUR_US = 3_600 * SECOND_US
# Nobody listens there: that an event waits to be told is what is counted.
UNREACHABLE = dict.fromkeys(ENDPOINTS, "http://127.0.0.1:9/")


@asynccontextmanager
async def node(office: Office, directory: Path, clock: SetClock) -> AsyncIterator[Switchboard]:
    """One of several engines on a database, each with its own connections, board and expiry."""
    database = Database(**office.database.connect_kwargs)
    settings = Settings(data_dir=directory, board_dir=directory / "node")
    await database.connect()
    try:
        async with running_switchboard(settings, database, None, clock) as switchboard:
            yield switchboard
    finally:
        await database.close()


@pytest.fixture
async def office(database: Database) -> Office:
    return await opened_office(database, UNREACHABLE)


def caller_of(n: int) -> E164:
    return E164(919_600_000_000 + n)


async def make_many(office: Office, count: int, expires_at_us: int) -> list[Standing]:
    """`caller_of(n)` reaches somebody by number alone, until then."""
    standings = [
        office.standing(
            [caller_of(n)], [E164(919_500_000_000 + n)], b_pin=f"{n:06d}", expires_at_us=expires_at_us
        )
        for n in range(count)
    ]
    for start in range(0, count, 200):
        made = await office.make(*standings[start : start + 200])
        assert all(isinstance(result, allocations.Made) for result in made)
    return standings


def decide(switchboard: Switchboard, office: Office, caller: E164, sid: str) -> Decision | Undecided:
    tenant = switchboard.tenants.get(office.tenant.id)
    assert tenant is not None
    return switchboard.answering.answer_at_once(tenant, Caller(sid, office.vn, caller), is_recorded=False)


async def still_active(office: Office) -> int:
    rows = await office.fetch("SELECT count(*) AS n FROM allocation WHERE cell = $1 AND state = 'active'")
    return int(rows[0]["n"])


async def until_active(office: Office, count: int) -> None:
    async with asyncio.timeout(GIVE_UP_S):
        while await still_active(office) > count:
            pass


async def until_refused(switchboard: Switchboard, office: Office, caller: E164) -> None:
    """Until the board has what the feed tells of the release."""
    async with asyncio.timeout(GIVE_UP_S):
        while isinstance(decide(switchboard, office, caller, "by the feed"), Connect):
            await still_active(office)


async def assert_ended_once(office: Office, standings: list[Standing], ended_at_us: int) -> None:
    """One release, one event, and one row of the feed for each; and it ended when it should have."""
    rows = await office.fetch(
        "SELECT released_at, release_cause, version FROM allocation WHERE cell = $1 AND state = 'vault'"
    )
    assert len(rows) == len(standings)
    assert {(to_instant_us(row["released_at"]), row["release_cause"], row["version"]) for row in rows} == {
        (ended_at_us, "expired", 2)
    }
    events = await office.fetch("SELECT subject FROM event WHERE cell = $1 AND kind = 'deallocated'")
    ids = {str(UUID(bytes=standing.allocation.id)) for standing in standings}
    assert Counter(row["subject"] for row in events) == dict.fromkeys(ids, 1)
    told = await office.fetch("SELECT count(*) AS n FROM feed WHERE cell = $1 AND kind = 'released'")
    assert told[0]["n"] == len(standings)
    ended = {standing.allocation.id for standing in standings}
    assert not [route for route in await office.routes() if route[2] in ended]


async def test_two_nodes_end_each_allocation_once_and_calls_go_on_meanwhile(
    office: Office, tmp_path: Path
) -> None:
    """A wave of thousands: whoever is past the end is refused, and whoever is not is connected."""
    ends_at_us = NOW_US + HOUR_US
    standings = await make_many(office, 3_000, ends_at_us)
    lasting = await office.made([ANN], [BEN], b_pin="7777777")
    clock = SetClock()
    async with (
        node(office, tmp_path / "one", clock) as one,
        node(office, tmp_path / "two", clock) as two,
    ):
        for switchboard in (one, two):
            assert isinstance(decide(switchboard, office, caller_of(0), "before"), Connect)
        clock.move(3_600)
        calls = 0
        async with asyncio.timeout(GIVE_UP_S):
            while calls < 500 or await still_active(office) > 1:
                for switchboard in (one, two):
                    calls += 1
                    # Of those that are released, those under way and those whose turn comes last.
                    late = decide(switchboard, office, caller_of(calls * 7 % 3_000), f"late-{calls}")
                    assert not isinstance(late, Connect)
                    assert isinstance(decide(switchboard, office, ANN, f"ann-{calls}"), Connect)
                await asyncio.sleep(0)
        assert isinstance(decide(two, office, ANN, "after"), Connect)
    # A node counts what it ended after the commit that others see, so they are asked once they have stopped.
    expired = [
        switchboard.metrics.registry.get_sample_value(
            "cordboard_allocation_changes_total", {"change": "expired"}
        )
        or 0
        for switchboard in (one, two)
    ]
    # What both of them wanted to end is counted by the one that did.
    assert sum(expired) == 3_000
    await assert_ended_once(office, standings, ends_at_us)
    assert (await office.found(lasting)).version == 1


async def test_what_postgres_refuses_is_tried_again_and_ends_nobody(office: Office, tmp_path: Path) -> None:
    ends_at_us = NOW_US + HOUR_US
    standings = await make_many(office, 2, ends_at_us)
    clock = SetClock()
    async with node(office, tmp_path, clock):
        with capture_logs() as logged:
            await office.database.write(
                lambda connection: connection.execute("ALTER TABLE event_subject RENAME TO out_of_reach")
            )
            clock.move(3_600)
            async with asyncio.timeout(GIVE_UP_S):
                while not any(line["event"] == "expiry.waiting" for line in logged):
                    await still_active(office)
            await office.database.write(
                lambda connection: connection.execute("ALTER TABLE out_of_reach RENAME TO event_subject")
            )
        await until_active(office, 0)
    await assert_ended_once(office, standings, ends_at_us)


async def test_what_ended_while_no_node_ran_is_ended_by_the_next(office: Office, tmp_path: Path) -> None:
    ends_at_us = NOW_US + HOUR_US
    standings = await make_many(office, 5, ends_at_us)
    clock = SetClock()
    async with node(office, tmp_path, clock):
        assert await still_active(office) == 5
    assert await office.database.read(allocations.earliest_end_us) == ends_at_us
    clock.move(10 * 86_400)
    async with node(office, tmp_path, clock):
        await until_active(office, 0)
    assert await office.database.read(allocations.earliest_end_us) is None
    await assert_ended_once(office, standings, ends_at_us)


async def test_a_clock_that_is_set_forward_ends_what_it_passes_and_one_set_back_brings_nothing_back(
    office: Office, tmp_path: Path
) -> None:
    ends_at_us = NOW_US + HOUR_US
    standings = await make_many(office, 3, ends_at_us)
    clock = SetClock()
    async with node(office, tmp_path, clock) as switchboard:
        # To the last microsecond before the end, and to the end.
        clock.move(3_600 - 1e-6)
        assert isinstance(decide(switchboard, office, caller_of(0), "last"), Connect)
        clock.move(-7_200)
        assert isinstance(decide(switchboard, office, caller_of(0), "earlier"), Connect)
        clock.move(7_200 + 1e-6)
        assert not isinstance(decide(switchboard, office, caller_of(0), "at the end"), Connect)
        await until_active(office, 0)
        # Back before the end, and on over it again.
        clock.move(-7_200)
        await until_refused(switchboard, office, caller_of(0))
        later = [await office.made([ANN], [BEN], b_pin="7777777", expires_at_us=ends_at_us)]
        clock.move(7_200)
        await until_active(office, 0)
    await assert_ended_once(office, [*standings, *later], ends_at_us)


async def test_two_nodes_whose_clocks_differ_end_it_once(office: Office, tmp_path: Path) -> None:
    ends_at_us = NOW_US + HOUR_US
    standings = await make_many(office, 50, ends_at_us)
    fast, slow = SetClock(), SetClock()
    slow.move(-30)
    async with (
        node(office, tmp_path / "one", fast),
        node(office, tmp_path / "two", slow) as two,
    ):
        fast.move(3_600)
        slow.move(3_600)
        await until_active(office, 0)
        # The slow one hears of it by the feed, before its own clock says so.
        await until_refused(two, office, caller_of(0))
        slow.move(60)
    await assert_ended_once(office, standings, ends_at_us)
