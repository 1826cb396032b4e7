"""The keeper: whatever happens to bell, process or feed, the board becomes equal to the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from cordboard.clock import SystemClock
from cordboard.routing.allocate import Standing
from cordboard.routing.changes import VirtualNumberStands
from cordboard.routing.numbers import E164
from cordboard.storage import feed
from cordboard.storage.allocations import Made
from cordboard.storage.bell import Bell
from cordboard.storage.database import Database
from cordboard.storage.feed import Position, Written
from cordboard.switchboard.keeper import BoardKeeper
from cordboard.switchboard.loading import load_board
from cordboard.switchboard.throttle import Throttle
from cordboard.tables.board import BoardTables
from tests.conftest import NewDatabase
from tests.storage.boards import meaning_of
from tests.storage.office import ANN, BEN, CAT, DAN, GIVE_UP_S, NOW_US, Office, opened_office


@pytest.fixture
async def office(database: Database) -> Office:
    """With a database of its own, whose feed may be spoilt."""
    return await opened_office(database)


@asynccontextmanager
async def opened(database: Database, directory: Path) -> AsyncIterator[BoardKeeper]:
    """With a bell that nobody rings."""
    keeper = BoardKeeper(database, Bell(database), Throttle(), directory, SystemClock())
    await keeper.open()
    try:
        yield keeper
    finally:
        keeper.close()


@asynccontextmanager
async def running(keeper: BoardKeeper) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(keeper.run())
        try:
            yield
        finally:
            task.cancel()


async def caught_up(office: Office, keeper: BoardKeeper) -> None:
    n = (await office.database.read(feed.heads))[office.cell][0]
    assert await keeper.wait_for(Position(office.cell, n), GIVE_UP_S)


async def assert_equals_database(database: Database, keeper: BoardKeeper, directory: Path) -> None:
    fresh = BoardTables(directory)
    try:
        await load_board(database, fresh)
        assert meaning_of(keeper.tables) == meaning_of(fresh)
    finally:
        fresh.close()


def generation(directory: Path) -> int:
    stamp: dict[str, int] = orjson.loads((directory / "stamp.json").read_bytes())
    return stamp["generation"]


async def test_with_the_bell_lost_changes_are_polled_for(
    office: Office, board_directory: Path, tmp_path: Path
) -> None:
    async with opened(office.database, board_directory) as keeper, running(keeper):
        for pin in ("1", "2", "3"):
            await office.made([ANN], a_pin=pin, b_pin=f"9{pin}")
            await caught_up(office, keeper)
        await assert_equals_database(office.database, keeper, tmp_path / "fresh")
    assert generation(board_directory) == 1


async def written_by(office: Office, *standings: Standing) -> Written:
    """What the commit that makes these allocations adds to the feed."""
    results = await office.make(*standings)
    made = [result for result in results if isinstance(result, Made)]
    assert len(made) == len(standings)
    assert len({made.written for made in made}) == 1
    return made[0].written


async def test_what_is_handed_over_is_routed_by_without_the_database(
    office: Office, board_directory: Path, tmp_path: Path
) -> None:
    async with opened(office.database, board_directory) as keeper:
        written = await written_by(office, office.standing([ANN], a_pin="1"), office.standing([BEN]))
        await office.database.close()
        async with running(keeper):
            keeper.hand_over(written)
            # As each item of the batch does.
            keeper.hand_over(written)
            assert await keeper.wait_for(written.position, GIVE_UP_S)
            assert keeper.tables.allocation_count() == 2
            assert keeper.tables.positions_by_cell()[office.cell] == (written.last_n, written.tags[-1])
        await office.database.connect()
        await assert_equals_database(office.database, keeper, tmp_path / "fresh")


async def test_what_others_committed_before_what_is_handed_over_comes_first(
    office: Office, board_directory: Path, tmp_path: Path
) -> None:
    async with opened(office.database, board_directory) as keeper, running(keeper):
        await office.made([ANN], a_pin="1")
        first = await written_by(office, office.standing([BEN], a_pin="2"))
        keeper.hand_over(first)
        assert await keeper.wait_for(first.position, GIVE_UP_S)
        # The feed told of it; handed over once more it is nothing new.
        second = await written_by(office, office.standing([CAT], a_pin="3"))
        await caught_up(office, keeper)
        keeper.hand_over(second)
        third = await written_by(office, office.standing([DAN], a_pin="4"))
        keeper.hand_over(third)
        assert await keeper.wait_for(third.position, GIVE_UP_S)
        await assert_equals_database(office.database, keeper, tmp_path / "fresh")
    assert generation(board_directory) == 1


async def test_the_bell_of_another_node_is_heard(office: Office) -> None:
    ours, theirs = Bell(office.database), Bell(office.database)
    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as tasks:
        ringing = [tasks.create_task(bell.run()) for bell in (ours, theirs)]
        # Whoever listens anew is woken, so that nothing is lost that was rung before.
        await ours.wait(GIVE_UP_S)
        theirs.ring()
        await ours.wait(GIVE_UP_S)
        for task in ringing:
            task.cancel()


async def test_a_bell_may_be_rung_before_anybody_waits(office: Office) -> None:
    bell = Bell(office.database)
    bell.ring()
    async with asyncio.timeout(GIVE_UP_S):
        await bell.wait(10 * GIVE_UP_S)


async def test_a_position_that_does_not_come_is_not_waited_for_longer_than_asked(
    office: Office, board_directory: Path
) -> None:
    async with opened(office.database, board_directory) as keeper:
        n = (await office.database.read(feed.heads))[office.cell][0]
        assert await keeper.wait_for(Position(office.cell, n), 0)
        assert not await keeper.wait_for(Position(office.cell, n + 1), 0)


async def test_many_wait_for_different_positions_and_each_is_told_when_its_own_is_there(
    office: Office, board_directory: Path
) -> None:
    async with opened(office.database, board_directory) as keeper:
        n = (await office.database.read(feed.heads))[office.cell][0]
        async with asyncio.TaskGroup() as tasks:
            waiting = [
                tasks.create_task(keeper.wait_for(Position(office.cell, n + more), GIVE_UP_S))
                for more in (3, 1, 2, 1)
            ]
            given_up = tasks.create_task(keeper.wait_for(Position(office.cell, n + 2), 0))
            assert not await given_up
            async with running(keeper):
                for pin in ("1", "2", "3"):
                    await office.made([ANN], a_pin=pin, b_pin=f"9{pin}")
                await asyncio.wait(waiting)
        assert [task.result() for task in waiting] == [True] * 4


# ── a restart ────────────────────────────────────────────────────────────────


async def test_a_restart_takes_the_board_over_and_catches_up(
    office: Office, board_directory: Path, tmp_path: Path
) -> None:
    await office.made([ANN], [BEN])
    async with opened(office.database, board_directory):
        pass
    await office.made([CAT], [DAN], a_vns=[office.other_vn], b_vns=[office.other_vn])
    async with opened(office.database, board_directory) as keeper:
        # It is equal before anything is answered, not only some time after.
        await assert_equals_database(office.database, keeper, tmp_path / "fresh")
    assert generation(board_directory) == 1


@pytest.mark.parametrize("key", ["boot_id", "database_id", "board_version"])
async def test_a_board_of_another_boot_database_or_version_is_made_anew(
    office: Office, board_directory: Path, tmp_path: Path, key: str
) -> None:
    await office.made([ANN], [BEN])
    async with opened(office.database, board_directory) as keeper:
        # What no database told: it must be gone afterwards.
        keeper.tables.load(office.cell, [VirtualNumberStands(1, E164(918_000_000_009))])
    stamp = orjson.loads((board_directory / "stamp.json").read_bytes())
    stamp["of"][key] = "another"
    (board_directory / "stamp.json").write_bytes(orjson.dumps(stamp))
    async with opened(office.database, board_directory) as keeper:
        await assert_equals_database(office.database, keeper, tmp_path / "fresh")
    assert generation(board_directory) == 2
    assert [entry.name for entry in board_directory.glob("board-*")] == ["board-2"]


@pytest.mark.parametrize("stamp", [b"", b"{", b"[]", b"null", b"{}", b'{"of": {}}', None])
async def test_a_board_without_a_readable_stamp_is_made_anew(
    office: Office, board_directory: Path, tmp_path: Path, stamp: bytes | None
) -> None:
    await office.made([ANN], [BEN])
    async with opened(office.database, board_directory):
        pass
    if stamp is None:
        (board_directory / "stamp.json").unlink()
    else:
        (board_directory / "stamp.json").write_bytes(stamp)
    async with opened(office.database, board_directory) as keeper:
        await assert_equals_database(office.database, keeper, tmp_path / "fresh")


async def test_the_board_of_another_database_is_not_believed(
    office: Office, new_database: NewDatabase, board_directory: Path, tmp_path: Path
) -> None:
    await office.made([ANN], [BEN])
    async with opened(office.database, board_directory):
        pass
    other = await new_database()
    async with opened(other, board_directory) as keeper:
        assert keeper.tables.allocation_count() == 0
        await assert_equals_database(other, keeper, tmp_path / "fresh")


async def test_a_board_that_has_seen_what_a_restored_backup_undid_is_made_anew(
    office: Office, board_directory: Path, tmp_path: Path
) -> None:
    await office.made([ANN], [BEN])
    async with opened(office.database, board_directory):
        pass
    # The same counter, but what it counted was something else.
    await office.execute("UPDATE feed SET tag = tag # 1 WHERE cell = $1")
    async with opened(office.database, board_directory) as keeper:
        await assert_equals_database(office.database, keeper, tmp_path / "fresh")
    assert generation(board_directory) == 2


# ── a gap ────────────────────────────────────────────────────────────────────


async def test_a_feed_that_was_trimmed_too_far_makes_the_board_load_anew(
    office: Office, board_directory: Path, tmp_path: Path
) -> None:
    async with opened(office.database, board_directory) as keeper:
        for pin in ("1", "2", "3"):
            await office.made([ANN], a_pin=pin, b_pin=f"9{pin}")
        await office.database.write(lambda connection: feed.trim(connection, NOW_US + 1))
        async with running(keeper):
            await caught_up(office, keeper)
            assert keeper.tables.allocation_count() == 3
            # And it goes on from there.
            await office.made([ANN], a_pin="4", b_pin="94")
            await caught_up(office, keeper)
        await assert_equals_database(office.database, keeper, tmp_path / "fresh")
    assert generation(board_directory) == 2
    assert [entry.name for entry in board_directory.glob("board-*")] == ["board-2"]
