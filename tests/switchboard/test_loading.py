"""A board that is loaded at once is the board that came to be change by change."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from cordboard.clock import SystemClock
from cordboard.routing.allocate import Standing
from cordboard.routing.model import NEVER_US, CallPolicy, Product, Side, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.storage import feed
from cordboard.storage.allocations import Made
from cordboard.storage.bell import Bell
from cordboard.storage.database import Database
from cordboard.switchboard.keeper import BoardKeeper
from cordboard.switchboard.loading import load_board
from cordboard.switchboard.throttle import Throttle
from cordboard.tables.board import BoardTables
from cordboard.tables.steps import Step
from tests.conftest import NewDatabase
from tests.storage.boards import meaning_of
from tests.storage.office import NOW_US, Office, alone, office_among_others

# Few, so that many have routes on the same VNs, and leave VNs to one another only with PINs.
PEOPLE = tuple(E164(919800000000 + n) for n in range(40))
PINS = ("0", "1", "01", "12", "012", "1234", "12345", "123456", "999999999")
CUSTOM_FIELDS = (None, None, "", "order 7", "x" * 32, "é" * 128, "₹" * 256)
VNS = 60

_sids = count(1)


@pytest.fixture
async def offices(new_database: NewDatabase) -> AsyncIterator[list[Office]]:
    """Of two in each of two cells."""
    database = await new_database()
    await database.write(lambda connection: connection.execute("DELETE FROM feed_head WHERE cell > 1"))
    yield [await office_among_others(database, virtual_numbers=VNS) for _ in range(4)]
    await database.close()


async def live(office: Office, dice: Random, allocations: int) -> None:
    """Everything that may come to stand in an office."""
    for _ in range(allocations):
        standing = standing_of(office, dice)
        [result] = await office.make(standing)
        if not isinstance(result, Made):
            continue
        allocation = standing.allocation
        for side in Side:
            if allocation.party(side).pin is not None and dice.random() < 0.4:
                await office.enter(standing, side, dice.choice(PEOPLE))
        if allocation.is_exclusive and dice.random() < 0.5:
            for _ in range(3):
                await office.record(office.wrong(f"wrong-{next(_sids)}", "77", against=standing))
        if dice.random() < 0.2:
            await office.release(standing)


def standing_of(office: Office, dice: Random) -> Standing:
    people = dice.sample(PEOPLE, 8)
    product = dice.choice(list(Product))
    standing = office.standing(
        people[: dice.randint(1, 4)],
        people[4 : 4 + dice.randint(0, 4)],
        a_vns=dice.sample(office.virtual_numbers, dice.choice([1, 1, 2, 50])),
        b_vns=dice.sample(office.virtual_numbers, dice.choice([1, 1, 3])),
        common_pin=dice.choice([None, None, *PINS]),
        usage=dice.choice(list(Usage)),
        expires_at_us=dice.choice([NEVER_US, NOW_US + dice.randint(0, 10**9)]),
        product=product,
    )
    allocation = standing.allocation._replace(
        policy=CallPolicy(dice.random() < 0.5, dice.choice(CUSTOM_FIELDS))
    )
    if not allocation.common_pin:
        pins = dice.sample(PINS, 6)
        most = 1 if product is Product.GREENPIN else 3
        a, b = (tuple(map(Pin, pins[first : first + dice.randint(0, most)])) for first in (0, 3))
        allocation = allocation._replace(
            a=allocation.a._replace(pins=a, listed_need_pin=bool(a) and dice.random() < 0.7),
            b=allocation.b._replace(pins=b, listed_need_pin=bool(b) and dice.random() < 0.7),
        )
    standing = replace(standing, allocation=allocation)
    return alone(standing) if dice.random() < 0.2 else standing


async def followed(database: Database, directory: Path) -> BoardTables:
    """A board that has applied the feed from its beginning."""
    tables = BoardTables(directory)
    while True:
        positions = dict.fromkeys(range(2), 0)
        positions |= {cell: n for cell, (n, _) in tables.positions_by_cell().items()}
        rows = await database.read(
            lambda connection, after=positions: feed.rows_after(connection, after)  # type: ignore[misc]
        )
        if not rows:
            return tables
        tables.apply(rows)


@pytest.mark.parametrize("seed", range(2))
async def test_a_board_loaded_at_once_says_what_the_feed_said(
    offices: list[Office], tmp_path: Path, seed: int
) -> None:
    dice = Random(seed)
    for office in offices:
        await live(office, dice, 25)
    database = offices[0].database
    step_by_step = await followed(database, tmp_path / "followed")
    expected = meaning_of(step_by_step)
    assert all(expected.values()), "something is in every table"
    try:
        for place, (allocations, rows) in enumerate(((1, 1), (3, 50), (1_000, 7), (100_000, 500_000))):
            tables = BoardTables(tmp_path / str(place))
            steps: list[Step] = []
            try:
                await load_board(
                    database, tables, steps.append, allocations_per_part=allocations, rows_per_part=rows
                )
                assert meaning_of(tables) == expected
                assert tables.positions_by_cell() == step_by_step.positions_by_cell()
                last = {step.what: step for step in steps}
                assert all(step.done == step.of for step in last.values() if step.of is not None)
                assert last["placing allocations"].of == tables.allocation_count()
                assert not (tables.directory / "loading").exists()
            finally:
                tables.close()
    finally:
        step_by_step.close()


async def test_a_new_allocation_gets_a_name_of_its_own_on_a_loaded_board(
    offices: list[Office], tmp_path: Path
) -> None:
    office = offices[0]
    await live(office, Random(7), 10)
    tables = BoardTables(tmp_path / "board")
    try:
        await load_board(office.database, tables)
        before = tables.allocation_count()
        await office.made([], a_pin="31", b_pin="32", a_vns=[office.virtual_numbers[0]])
        rows = await office.database.read(
            lambda connection: feed.rows_after(
                connection, {cell: n for cell, (n, _) in tables.positions_by_cell().items()}
            )
        )
        tables.apply(rows)
        assert tables.allocation_count() == before + 1
    finally:
        tables.close()


async def test_an_allocation_keeps_its_line_where_its_tenant_has_lost_the_vn(
    offices: list[Office], tmp_path: Path
) -> None:
    office = offices[0]
    [other] = [one for one in offices[1:] if one.cell == office.cell]
    ann, ben, vn = PEOPLE[0], PEOPLE[1], office.vn
    await office.made([ann], [ben])
    # As if it had been taken and given away between the look at the board and the commit.
    await office.execute(
        "UPDATE virtual_number SET tenant_id = $2 WHERE cell = $1 AND number = $3", other.tenant.id, vn
    )
    tables = BoardTables(tmp_path / "board")
    try:
        await load_board(office.database, tables)
        with tables.reader(office.cell, office.tenant.tenant_no) as board:
            assert len(board.routes(vn, ann)) == len(board.routes(vn, ben)) == 1
            assert not board.has_virtual_number(vn)
        with tables.reader(other.cell, other.tenant.tenant_no) as board:
            assert not board.routes(vn, ann)
            assert board.has_virtual_number(vn)
    finally:
        tables.close()


async def test_a_board_that_cannot_be_written_is_not_taken_for_a_database_that_is_away(
    offices: list[Office], tmp_path: Path
) -> None:
    await offices[0].made([PEOPLE[0]], [PEOPLE[1]])
    tables = BoardTables(tmp_path / "board")

    def spoil(step: Step) -> None:
        # What comes next wants to be put here.
        if step.what == "reading allocations":
            (tables.directory / "loading" / "numbers").touch()

    try:
        with pytest.raises(FileExistsError):
            await load_board(offices[0].database, tables, spoil)
        assert offices[0].database.is_up
    finally:
        tables.close()


async def test_an_empty_database_makes_an_empty_board(new_database: NewDatabase, tmp_path: Path) -> None:
    database = await new_database()
    tables = BoardTables(tmp_path / "board")
    try:
        await load_board(database, tables)
        assert not any(meaning_of(tables).values())
    finally:
        tables.close()
        await database.close()


@pytest.mark.parametrize("what", ["reading numbers", "placing allocations", "sorting indexes"])
async def test_a_load_that_was_killed_is_begun_anew(
    offices: list[Office], board_directory: Path, tmp_path: Path, what: str
) -> None:
    office = offices[0]
    await live(office, Random(what), 10)
    connect_kwargs: dict[str, Any] = office.database.connect_kwargs
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.switchboard.killed_loader",
        str(board_directory),
        orjson.dumps(connect_kwargs).decode(),
        what,
    )
    assert await process.wait() == -signal.SIGKILL
    keeper = BoardKeeper(office.database, Bell(office.database), Throttle(), board_directory, SystemClock())
    step_by_step = await followed(office.database, tmp_path / "followed")
    try:
        await keeper.open()
        assert meaning_of(keeper.tables) == meaning_of(step_by_step)
        assert [entry.name for entry in board_directory.glob("board-*/loading")] == []
    finally:
        keeper.close()
        step_by_step.close()
