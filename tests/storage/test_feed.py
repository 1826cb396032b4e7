"""The feed: every change once, in order, without a gap; and a snapshot is as good as its beginning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from random import Random

import pytest

from cordboard.clock import SECOND_US
from cordboard.routing.allocate import Standing
from cordboard.routing.changes import VirtualNumberStands
from cordboard.routing.model import NEVER_US, Side, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.storage import feed, provisioning
from cordboard.storage.allocations import AlreadyReleased, Conflict, Made
from cordboard.storage.database import Connection, Database
from cordboard.storage.feed import Position
from cordboard.storage.provisioning import CredentialKind, HasLiveAllocations, NewVirtualNumber
from cordboard.switchboard.loading import load_board
from cordboard.tables.board import BoardTables
from tests.conftest import NewDatabase
from tests.storage.boards import meaning_of
from tests.storage.office import ANN, BEN, CAT, DAN, NOW_US, Office, Undone, opened_office

PEOPLE = (ANN, BEN, CAT, DAN)
PINS = ("1", "2", "01", "12")


def changes(count: int, number: int = 1) -> list[VirtualNumberStands]:
    return [VirtualNumberStands(number, E164(918_000_000_000 + at)) for at in range(count)]


async def heads(database: Database) -> dict[int, tuple[int, int]]:
    return await database.read(feed.heads)


async def is_ours(database: Database, positions: dict[int, tuple[int, int]]) -> bool:
    return await database.read(lambda connection: feed.is_our_history(connection, positions))


# ── gapless ──────────────────────────────────────────────────────────────────


async def test_many_writers_some_of_whom_are_undone_leave_no_gap(office: Office) -> None:
    before = len(await office.told())
    positions: list[tuple[int, int, int]] = []

    async def write(writer: int) -> None:
        count = writer % 3 + 1

        async def run(connection: Connection) -> Position:
            position = await feed.append(connection, office.cell, changes(count, writer), NOW_US)
            if writer % 4 == 0:
                raise Undone
            return position

        try:
            position = await office.database.write(run)
        except Undone:
            return
        positions.append((position.n, count, writer))

    await asyncio.gather(*(write(writer) for writer in range(80)))

    told = await office.told()  # … which asserts that the numbers follow one another.
    assert len(told) == before + sum(count for _, count, _ in positions)
    for n, count, writer in positions:
        # What one transaction tells stands together, and ends where it was said to.
        assert told[n - count : n] == changes(count, writer)
    assert (await heads(office.database))[office.cell][0] == len(told)


async def test_cells_have_feeds_of_their_own(office: Office, office_database: Database) -> None:
    other = await opened_office(office_database)
    before = await heads(office_database)
    await office.made([ANN], [BEN])
    after = await heads(office_database)
    assert after[office.cell][0] == before[office.cell][0] + 1
    assert after[other.cell] == before[other.cell]


async def test_rows_are_read_after_a_position_a_step_at_a_time(office: Office) -> None:
    n = len(await office.told())
    await office.database.write(
        lambda connection: feed.append(connection, office.cell, changes(feed.ROWS_PER_READ_MAX + 1), NOW_US)
    )
    sizes = []
    for _ in range(3):
        rows = await office.database.read(partial(feed.rows_after, positions={office.cell: n}))
        assert [row.n for row in rows] == list(range(n + 1, n + 1 + len(rows)))
        sizes.append(len(rows))
        n += len(rows)
    assert sizes == [feed.ROWS_PER_READ_MAX, 1, 0]


# ── whose history ────────────────────────────────────────────────────────────


async def test_a_position_of_another_history_is_known_by_its_tag(office: Office) -> None:
    await office.made([ANN], [BEN])
    n, tag = (await heads(office.database))[office.cell]
    assert await is_ours(office.database, {})
    assert await is_ours(office.database, {office.cell: (n, tag)})
    assert await is_ours(office.database, {office.cell: (0, 0)})
    # Another row stood there; or there were more rows than there are now.
    assert not await is_ours(office.database, {office.cell: (n, tag ^ 1)})
    assert not await is_ours(office.database, {office.cell: (n + 1, tag)})


async def test_a_trim_keeps_the_newest_row_and_what_is_young(office: Office) -> None:
    await office.made([ANN], [], a_pin="1", b_pin="2", now_us=NOW_US)
    await office.made([ANN], [], a_pin="3", b_pin="4", now_us=NOW_US + SECOND_US)
    n, tag = (await heads(office.database))[office.cell]

    async def trim(older_than_us: int) -> list[int]:
        await office.database.write(lambda connection: feed.trim(connection, older_than_us))
        return [row["n"] for row in await office.fetch("SELECT n FROM feed WHERE cell = $1 ORDER BY n")]

    assert len(await trim(NOW_US)) == n
    assert await trim(NOW_US + 1) == [n]
    assert await trim(NOW_US + 3_600 * SECOND_US) == [n]
    assert (await heads(office.database))[office.cell] == (n, tag)
    assert await is_ours(office.database, {office.cell: (n, tag)})
    # Whoever stood further back has to load the board anew.
    assert not await is_ours(office.database, {office.cell: (n - 1, tag)})
    rows = await office.database.read(lambda connection: feed.rows_after(connection, {office.cell: 0}))
    assert [row.n for row in rows] == [n]


@pytest.fixture
async def own_database(new_database: NewDatabase) -> AsyncIterator[Database]:
    """Of whose feed every row is known; let go of after the test."""
    database = await new_database()
    yield database
    await database.close()


# ── a snapshot, and the feed after it ────────────────────────────────────────


async def load(database: Database, directory: Path) -> BoardTables:
    """In parts so small that nearly everything lies in several."""
    tables = BoardTables(directory)
    await load_board(database, tables, allocations_per_part=2, rows_per_part=3)
    return tables


async def catch_up(database: Database, tables: BoardTables) -> None:
    while True:
        positions = dict.fromkeys(range(256), 0)
        positions |= {cell: n for cell, (n, _) in tables.positions_by_cell().items()}
        rows = await database.read(partial(feed.rows_after, positions=positions))
        if not rows:
            return
        tables.apply(rows)


class Life:
    """A tenant to whom anything may happen."""

    def __init__(self, office: Office, dice: Random) -> None:
        self.office = office
        self.dice = dice
        self.now_us = NOW_US
        self.standings: list[Standing] = []

    async def step(self) -> None:
        self.now_us += SECOND_US
        acts = [self._make] * 4 + [self._update] * 4 + [self._join] * 4
        acts += [self._release, self._sweep, self._change_tenant, self._change_pool]
        await self.dice.choice(acts)()

    def _standing(self) -> Standing:
        dice, office = self.dice, self.office
        people = dice.sample(PEOPLE, 4)
        pins = dice.sample(PINS, 2)
        common_pin = pins[0] if dice.random() < 0.2 else None
        needs = [dice.random() < 0.7 for _ in Side]
        return office.standing(
            people[: dice.randint(1, 2)],
            people[2 : 2 + dice.randint(0, 2)],
            a_pin=pins[0] if needs[0] else None,
            b_pin=pins[1],
            common_pin=common_pin,
            a_needs_pin=needs[0],
            b_needs_pin=dice.random() < 0.7 if common_pin else True,
            a_vns=dice.sample(office.virtual_numbers, dice.randint(1, 2)),
            b_vns=dice.sample(office.virtual_numbers, dice.randint(1, 2)),
            usage=dice.choice(list(Usage)),
            expires_at_us=dice.choice([NEVER_US, self.now_us + dice.randint(1, 20) * SECOND_US]),
            cool_off_s=dice.choice([0, 0, 5]),
        )

    async def _make(self) -> None:
        batch = [self._standing() for _ in range(self.dice.randint(1, 3))]
        results = await self.office.make(*batch, now_us=self.now_us)
        self.standings += [
            standing for standing, result in zip(batch, results, strict=True) if isinstance(result, Made)
        ]

    async def _update(self) -> None:
        if not self.standings:
            return
        standing = self.dice.choice(self.standings[-4:])
        was, wish = (await self.office.found(standing)).allocation, self._standing().allocation
        parties = [
            was.party(side)._replace(
                numbers=self.dice.choice([was, wish]).party(side).numbers,
                virtual_numbers=self.dice.choice([was, wish]).party(side).virtual_numbers,
            )
            for side in Side
        ]
        if set(parties[0].numbers) & set(parties[1].numbers):
            return
        if not was.common_pin and was.a.pin is not None and self.dice.random() < 0.4:
            parties[0] = parties[0]._replace(pins=(Pin(self.dice.choice(PINS)),))
            if parties[0].pin == was.b.pin:
                return
        becomes = was._replace(a=parties[0], b=parties[1], usage=wish.usage)
        try:
            await self.office.update(standing, becomes, self.now_us)
        except (Conflict, AlreadyReleased):
            return

    async def _join(self) -> None:
        if not self.standings:
            return
        found = await self.office.found(self.dice.choice(self.standings[-4:]))
        side = self.dice.choice(list(Side))
        if found.allocation.party(side).pin is not None:
            await self.office.enter(found, side, self.dice.choice(PEOPLE), now_us=self.now_us)

    async def _release(self) -> None:
        if self.standings:
            await self.office.release(self.dice.choice(self.standings), now_us=self.now_us)

    async def _sweep(self) -> None:
        await self.office.sweep(self.now_us)

    async def _change_tenant(self) -> None:
        database, id = self.office.database, self.office.tenant.id
        settings = {"timezone": self.dice.choice(["IST", "UTC", None])}
        await provisioning.change_settings(database, id, settings, self.now_us)
        await provisioning.add_credential(database, id, CredentialKind.API_TOKEN, self.now_us)

    async def _change_pool(self) -> None:
        database, id = self.office.database, self.office.tenant.id
        number = self.office.virtual_numbers[2]
        try:
            await provisioning.delete_virtual_number(database, id, number, self.now_us)
        except HasLiveAllocations:
            return
        await provisioning.add_virtual_numbers(database, id, [NewVirtualNumber(number)], self.now_us)


@pytest.mark.parametrize("seed", range(6))
async def test_a_snapshot_at_any_point_and_the_feed_after_it_equal_the_whole_feed(
    own_database: Database, tmp_path: Path, seed: int
) -> None:
    database, dice = own_database, Random(seed)
    lives = [Life(await opened_office(database), dice) for _ in range(2)]
    boards = [BoardTables(tmp_path / "from zero")]
    for step in range(60):
        if step % 10 == 5:
            boards.append(await load(database, tmp_path / f"from step {step}"))
            # It is on its own from the next change on.
            assert boards[-1].positions_by_cell() == await heads(database)
        await dice.choice(lives).step()
    boards.append(await load(database, tmp_path / "from the end"))
    try:
        for tables in boards:
            await catch_up(database, tables)
        expected = meaning_of(boards[0])
        assert all(expected[name] for name in ("tenants", "virtual_numbers", "allocations", "routes", "pins"))
        for tables in boards[1:]:
            assert meaning_of(tables) == expected
            assert {cell: at for cell, at in tables.positions_by_cell().items() if at[0]} == boards[
                0
            ].positions_by_cell()
    finally:
        for tables in boards:
            tables.close()


async def test_a_snapshot_taken_while_others_write_is_of_one_instant(
    own_database: Database, tmp_path: Path
) -> None:
    database = own_database
    lives = [Life(await opened_office(database), Random(seed)) for seed in range(3)]

    async def live(life: Life) -> None:
        for _ in range(25):
            await life.step()

    boards: list[BoardTables] = []
    async with asyncio.TaskGroup() as tasks:
        for life in lives:
            tasks.create_task(live(life))
        boards += [await load(database, tmp_path / str(at)) for at in range(4)]
    boards.append(BoardTables(tmp_path / "from zero"))
    try:
        for tables in boards:
            await catch_up(database, tables)
        for tables in boards[:-1]:
            assert meaning_of(tables) == meaning_of(boards[-1])
    finally:
        for tables in boards:
            tables.close()
