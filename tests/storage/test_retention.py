"""What is deleted when it was kept long enough, and what is never touched."""

from __future__ import annotations

import asyncio
from functools import partial
from uuid import UUID

import orjson
import pytest
import pytest_asyncio

from cordboard.routing.model import Product, Side
from cordboard.storage import allocations, calls, feed, outcomes, provisioning, resting, retention
from cordboard.storage.database import Connection, Database
from cordboard.storage.retention import Kept
from tests.conftest import NewDatabase
from tests.storage.lives import DAY_US, HOUR_US, Life, deliver, new_person, some_lives
from tests.storage.office import NOW_US, Office, opened_office
from tests.storage.traces import traces

DAYS = 30


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def office_database(new_database: NewDatabase) -> Database:
    """Not the one of the other tests: here feeds are trimmed, and there are many offices."""
    return await new_database()


@pytest_asyncio.fixture
async def office(office_database: Database) -> Office:
    return await opened_office(office_database, {"retention_days": DAYS})


async def delete_old(office: Office, now_us: int, days: int = DAYS) -> dict[str, int]:
    kept = Kept(office.cell, office.tenant.id, days)
    return await retention.delete_old(office.database, kept, now_us)


async def clear(office: Office, now_us: int) -> None:
    """What the hourly work does beside this: the feed forgets."""
    await office.database.write(partial(allocations.clear_cell, cell=office.cell, now_us=now_us))
    older_than_us = now_us - feed.FEED_KEPT_S * 1_000_000
    await office.database.write(partial(feed.trim, older_than_us=older_than_us))


async def rows_of(office: Office) -> dict[str, int]:
    tables = (
        *("allocation", "party_number", "carried_allocation", "pin_claim", "number_cooling", "route"),
        *("vn_use", "caller_line", "call", "call_end", "verification", "event", "event_subject"),
        *("event_once", "idempotent_answer"),
    )
    counts = {}
    for table in tables:
        [row] = await office.fetch(f"SELECT count(*) FROM {table} WHERE cell = $1")  # noqa: S608
        counts[table] = row["count"]
    return counts


@pytest.mark.parametrize("seed", range(4))
async def test_after_its_time_no_table_tells_of_anybody(office: Office, seed: int) -> None:
    lives = await some_lives(office, seed)
    told = [what for life in lives for what in (*life.people, *life.pins)]
    assert len(await traces(office.database, office.cell, *told)) >= 10, "or the search finds nothing"
    for life in lives:
        await life.end(NOW_US + HOUR_US)
    await deliver(office, NOW_US + 2 * HOUR_US, dead=seed % 2 == 1)

    ended_us = NOW_US + 2 * HOUR_US + DAYS * DAY_US
    await clear(office, ended_us)
    assert await traces(office.database, office.cell, *told), "one moment before"
    done = await delete_old(office, ended_us + 1)
    assert all(done.values()), done
    assert await traces(office.database, office.cell, *told) == set()
    assert set((await rows_of(office)).values()) == {0}
    assert not any((await delete_old(office, ended_us + 1)).values())


async def test_a_live_allocation_and_what_it_stands_on_are_never_touched(office: Office) -> None:
    [live, gone] = [Life(office, NOW_US), Life(office, NOW_US)]
    await live.live()
    await gone.live()
    await gone.end(NOW_US + 1)
    before = await office.everything()
    members = await office.members(live.standing)
    standing = await office.found(live.standing)
    await deliver(office, NOW_US + 1)
    await delete_old(office, NOW_US + (DAYS + 400) * DAY_US)

    after = await office.everything()
    assert after[0] == {live.standing.allocation.id}
    assert after[2:] == before[2:]
    assert await office.members(live.standing) == members
    assert await office.found(live.standing) == standing
    assert {pin for _, pin in await office.pins()} == {live.a_pin, live.b_pin}
    # Its events go on where they stood, and who is a member is not told of again.
    await office.enter(live.standing, Side.B, live.cat, now_us=NOW_US + 2)
    await office.enter(live.standing, Side.B, new_person(), now_us=NOW_US + 2)
    subject = str(UUID(bytes=live.standing.allocation.id))
    rows = await office.fetch("SELECT seq FROM event WHERE cell = $1 AND subject = $2 ORDER BY seq", subject)
    assert [row["seq"] for row in rows] == [4]


async def test_what_is_pending_is_told_before_it_goes(office: Office) -> None:
    life = Life(office, NOW_US)
    await life.live()
    await life.end(NOW_US + 1)
    pending = len(await office.fetch("SELECT id FROM event WHERE cell = $1"))
    late_us = NOW_US + 100 * DAY_US
    assert (await delete_old(office, late_us))["events"] == 0
    assert await deliver(office, late_us) == pending
    assert (await delete_old(office, late_us + DAYS * DAY_US + 1))["events"] == pending
    assert set((await rows_of(office)).values()) == {0}


async def test_nothing_of_a_neighbour_in_the_same_cell_is_deleted(office: Office) -> None:
    made = await provisioning.add_tenant(office.database, f"beside-{office.tenant.id}", {}, NOW_US)
    life = Life(office, NOW_US)
    await life.live()
    await life.end(NOW_US + 1)
    await deliver(office, NOW_US + 1)
    before = await rows_of(office)
    other = Kept(office.cell, made.tenant.id, 1)
    done = await retention.delete_old(office.database, other, NOW_US + HOUR_US)
    assert not any(done.values())
    assert await rows_of(office) == before


async def test_an_allocation_that_was_moved_leaves_no_line_that_it_was_carried_by(office: Office) -> None:
    life = Life(office, NOW_US, product=Product.GREENPIN)
    await life.live()
    await life.move()
    assert (await rows_of(office))["carried_allocation"] == 2
    await life.end(NOW_US + HOUR_US)
    await delete_old(office, NOW_US + (DAYS + 1) * DAY_US)
    assert (await rows_of(office))["carried_allocation"] == 0


async def test_only_tenants_that_set_it_have_an_end(office_database: Database) -> None:
    with_end = await opened_office(office_database, {"retention_days": "7"})
    without = await opened_office(office_database)
    found = {kept.tenant_id: kept.retention_days for kept in await office_database.read(retention.tenants)}
    assert found[with_end.tenant.id] == 7
    assert without.tenant.id not in found


async def test_many_may_delete_at_once(office: Office) -> None:
    for life in await some_lives(office, 7):
        await life.end(NOW_US + 1)
    await deliver(office, NOW_US + 2)
    late_us = NOW_US + (DAYS + 1) * DAY_US
    counted = await asyncio.gather(*(delete_old(office, late_us) for _ in range(4)))
    assert sum(count["allocations"] for count in counted) == 4
    await delete_old(office, late_us)
    assert set((await rows_of(office)).values()) == {0}


@pytest.mark.parametrize(
    "query",
    [
        "delete_old_calls",
        "delete_old_ends",
        "delete_old_verifications",
        "lock_old_allocations",
        "old_events",
    ],
)
async def test_what_is_old_is_sought_and_not_scanned_for(office: Office, query: str) -> None:
    def nodes(plan: dict[str, object]) -> list[dict[str, object]]:
        inner = plan.get("Plans", [])
        assert isinstance(inner, list)
        return [plan, *(node for below in inner for node in nodes(below))]

    async def explain(connection: Connection) -> str:
        await connection.execute("SET LOCAL enable_seqscan = off")
        text = retention._SQL[query]
        for place, value in enumerate((str(office.cell), f"'{office.tenant.id}'", "now()", "500"), 1):
            text = text.replace(f"${place}", value)
        [[plan]] = await connection.fetch(f"EXPLAIN (FORMAT JSON) {text}")
        assert isinstance(plan, str)
        return plan

    plan = await office.database.write(explain)
    found = [node.get("Index Name") for node in nodes(orjson.loads(plan)[0]["Plan"])]
    wanted = {
        "delete_old_calls": "call_by_age",
        "delete_old_ends": "call_end_by_age",
        "delete_old_verifications": "verification_by_age",
        "lock_old_allocations": "allocation_by_release",
        "old_events": "event_by_end",
    }
    assert wanted[query] in found


async def test_digits_of_old_entries_are_forgotten_and_the_entries_stay(office: Office) -> None:
    life = Life(office, NOW_US)
    await life.live()
    await life.end(NOW_US + 1)
    await deliver(office, NOW_US + 1)
    pins = life.pins
    digest = ("verification", "digits_digest")
    assert digest in await traces(office.database, office.cell, *pins)
    before = await rows_of(office)
    early_us = NOW_US + 2 + resting.DIGITS_KEPT_US
    forget = partial(resting.forget_digits, cell=office.cell)
    assert await office.database.write(partial(forget, now_us=NOW_US + HOUR_US)) == 0
    assert await office.database.write(partial(forget, now_us=early_us + 1)) == before["verification"]
    assert await office.database.write(partial(forget, now_us=early_us + 1)) == 0
    assert digest not in await traces(office.database, office.cell, *pins)
    assert await rows_of(office) == before
    assert calls.SILENT_AFTER_US == resting.DIGITS_KEPT_US, "as long as the progress of a call"
    assert len(await office.database.read(partial(outcomes.recent_failures, since_us=NOW_US))) >= 1
