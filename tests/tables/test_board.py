"""The board in LMDB says what a list would say, and is whole at every instant."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cordboard.routing.changes import (
    AllocationReleased,
    AllocationStands,
    Change,
    FeedRow,
    MemberLeft,
    MemberStands,
    VirtualNumberGone,
    VirtualNumberStands,
    encode,
)
from cordboard.routing.model import AllocationId, Side
from cordboard.routing.numbers import E164, Pin
from cordboard.tables import records
from cordboard.tables.board import READERS_MAX, BoardReader, BoardTables, FeedGap
from tests.routing.naive_model import (
    EXPIRIES_US,
    NUMBERS,
    OUTSIDER,
    PINS,
    VNS,
    ListBoard,
    Row,
    World,
    allocation_id,
    breaks_a_rule,
    has_route,
    pins,
    vns,
    worlds,
)
from tests.tables.contents import contents_of
from tests.tables.history import CELL, TENANT_NO, history

CELL_OF_WORLDS = 9
_tenants = count(1)


@pytest.fixture
def tables(board_directory: Path) -> Iterator[BoardTables]:
    tables = BoardTables(board_directory)
    yield tables
    tables.close()


@pytest.fixture(scope="module")
def shared_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoardTables]:
    """Each world is another tenant's, so that none must see the others."""
    tables = BoardTables(tmp_path_factory.mktemp("worlds") / "board")
    yield tables
    tables.close()


def possible(world: World) -> World:
    """Without the dead rows that the database would have released before the others came."""
    rows: list[Row] = []
    for row in world.rows:
        if not breaks_a_rule([*rows, row], now_us=0):
            rows.append(row)
    return World(world.pool, tuple(rows))


def changes_of(tenant_no: int, world: World) -> list[Change]:
    changes: list[Change] = [VirtualNumberStands(tenant_no, number) for number in sorted(world.pool)]
    for row in world.rows:
        changes.append(AllocationStands(tenant_no, 1, row.allocation._replace(has_members=False)))
        changes += [
            MemberStands(
                tenant_no,
                row.allocation.id,
                member.number,
                member.side,
                member.joined_at_us,
                row.allocation.party(member.side).listed_need_pin,
                member.virtual_numbers,
            )
            for member in row.members
        ]
    return changes


def read(allocation: Any) -> tuple[object, ...] | None:
    """All that a decision can ask an allocation, in whatever form the board has it."""
    if allocation is None:
        return None
    fields = (allocation.id, allocation.product, allocation.usage, allocation.expires_at_us)
    sides = ((side, allocation.party(side), allocation.permits(side)) for side in Side)
    lives = (allocation.is_live(now_us) for now_us in EXPIRIES_US)
    return (*fields, allocation.has_members, *sides, *lives)


def assert_agrees(tables: BoardTables, tenant_no: int, world: World) -> None:
    plain = ListBoard(world)
    ids = [allocation_id(n) for n in range(9)]
    expiries = {row.allocation.id: row.allocation.expires_at_us for row in world.rows}

    def named(rows: Iterable[Any]) -> list[Any]:
        """Rows of the board with ids in the place of its own refs."""
        return [row._replace(ref=found.id) for row in rows if (found := board.allocation(row.ref))]

    with tables.reader(CELL_OF_WORLDS, tenant_no) as board:
        for virtual_number in (*VNS, OUTSIDER):
            assert board.has_virtual_number(virtual_number) == plain.has_virtual_number(virtual_number)
            assert board.is_provisioned(virtual_number) == (virtual_number in world.pool)
            for caller in (*NUMBERS, OUTSIDER):
                routes = [
                    (whose.id, *said)
                    for ref, *said in board.routes(virtual_number, caller)
                    if (whose := board.allocation(ref))
                ]
                assert sorted(routes) == sorted(plain.routes(virtual_number, caller))
            for pin in (*PINS, Pin("9")):
                assert set(named(board.pin_holders(virtual_number, pin))) == set(
                    plain.pin_holders(virtual_number, pin)
                )
            for now_us in (0, *EXPIRIES_US[:-1], max(EXPIRIES_US) - 1):
                usable = named(board.usable_pins(virtual_number, now_us))
                assert set(usable) == set(plain.usable_pins(virtual_number, now_us))
                assert len(usable) == len(set(usable))
                order = [(-one.length, expiries[one.ref]) for one in usable]
                assert order == sorted(order)
        for id in ids:
            stored, found = board.allocation_by_id(id), plain.allocation_by_id(id)
            assert read(stored) == read(found)
            if stored is None or found is None:
                continue
            for number in (*NUMBERS, OUTSIDER):
                assert board.member_side(stored, number) == plain.member_side(found, number)
            for side in Side:
                assert board.members(stored, side) == plain.members(found, side)
        assert_pool_agrees(board, world)


def assert_pool_agrees(board: BoardReader, world: World) -> None:
    """What choosing a VN looks up, against a walk over all allocations."""
    for virtual_number in VNS:
        standing = [row.allocation for row in world.rows if virtual_number in _vns_of(row)]
        state = board.virtual_number(virtual_number)
        assert (state is not None) == (virtual_number in world.pool)
        if state is not None:
            alone = sum(allocation.is_exclusive for allocation in standing)
            assert (state.load, state.exclusive) == (len(standing), alone)
            assert state.callers == sum(
                any(has_route(row, side, virtual_number, number) for row, side in _sides(world))
                for number in NUMBERS
            )
            taken = {
                pin
                for row, side in _sides(world)
                if virtual_number in vns(row, side)
                for pin in pins(row, side)
            }
            assert state.pins == tuple(sum(len(pin) == length for pin in taken) for length in range(1, 10))
    open_now = {state.number: state.load for state in board.pool() if state.is_open}
    listed = [(number, load) for kind in board.open_kinds() for load, _, number in board.open_numbers(kind)]
    assert dict(listed) == open_now
    assert [load for _, load in listed] == sorted(open_now.values())
    lines = {board.line(virtual_number): virtual_number for virtual_number in VNS}
    for number in NUMBERS:
        occupied = {vn for vn in VNS if any(has_route(row, side, vn, number) for row, side in _sides(world))}
        assert {lines[line] for line in board.occupied_by(number) if line in lines} == occupied
    for pin in PINS:
        held = {vn for row, side in _sides(world) if pin in pins(row, side) for vn in vns(row, side)}
        assert {lines[line] for line in board.holding(pin) if line in lines} == held


def _sides(world: World) -> list[tuple[Row, Side]]:
    return [(row, side) for row in world.rows for side in Side]


def _vns_of(row: Row) -> tuple[E164, ...]:
    return (*row.allocation.a.virtual_numbers, *row.allocation.b.virtual_numbers)


few = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@few
@given(world=worlds())
def test_the_board_says_what_a_list_would_say(shared_tables: BoardTables, world: World) -> None:
    tenant_no = next(_tenants)
    world = possible(world)
    shared_tables.load(CELL_OF_WORLDS, changes_of(tenant_no, world))
    assert_agrees(shared_tables, tenant_no, world)


@few
@given(world=worlds(), becomes=worlds())
def test_after_updates_joins_and_releases_it_says_what_stands_now(
    shared_tables: BoardTables, world: World, becomes: World
) -> None:
    """One world turned into another: what both have is updated, the rest released or made."""
    tenant_no = next(_tenants)
    world, becomes = possible(world), possible(becomes)
    shared_tables.load(CELL_OF_WORLDS, changes_of(tenant_no, world))
    stays = {row.allocation.id for row in becomes.rows}
    changes: list[Change] = []
    for row in world.rows:
        changes += [MemberLeft(tenant_no, row.allocation.id, member.number) for member in row.members]
        if row.allocation.id not in stays:
            changes.append(AllocationReleased(tenant_no, 2, row.allocation.id))
    # An update takes nothing that another still has: the old rows give up theirs first.
    for row in world.rows:
        if row.allocation.id in stays:
            bare = row.allocation._replace(
                a=row.allocation.a._replace(numbers=(), pins=()),
                b=row.allocation.b._replace(numbers=(), pins=()),
            )
            changes.append(AllocationStands(tenant_no, 2, bare._replace(common_pin=False)))
    for change in changes_of(tenant_no, becomes):
        if isinstance(change, AllocationStands):
            changes.append(AllocationStands(tenant_no, 3, change.allocation))
        else:
            changes.append(change)
    shared_tables.load(CELL_OF_WORLDS, changes)
    assert_agrees(shared_tables, tenant_no, becomes)


@few
@given(world=worlds())
def test_applying_everything_twice_changes_nothing(shared_tables: BoardTables, world: World) -> None:
    tenant_no = next(_tenants)
    changes = changes_of(tenant_no, possible(world))
    shared_tables.load(CELL_OF_WORLDS, changes)
    before = contents_of(shared_tables)
    shared_tables.load(CELL_OF_WORLDS, changes)
    assert contents_of(shared_tables) == before


@few
@given(seed=st.integers(0, 2**32), length=st.integers(5, 60))
@example(seed=0, length=60)
def test_what_was_released_leaves_nothing_behind(
    tmp_path_factory: pytest.TempPathFactory, seed: int, length: int
) -> None:
    tables = BoardTables(tmp_path_factory.mktemp("released"))
    try:
        rows = history(seed, length)
        tables.apply(rows)
        with tables.env.begin() as txn, txn.cursor(db=tables.ids) as cursor:
            ids = [AllocationId(bytes(key[-16:])) for key in cursor.iternext(values=False)]
        tables.load(CELL, [AllocationReleased(TENANT_NO, 10**6, id) for id in ids])
        contents = contents_of(tables)
        assert {name for name, held in contents.items() if held} == {
            "tenants",
            "virtual_numbers",
            "lines",
            "line_states",
            "open_numbers",
            "serials",
        }
        left = [records.vn_state_of(state) for _, state in contents["line_states"]]
        assert {(state.load, state.callers, sum(state.pins)) for state in left} == {(0, 0, 0)}
    finally:
        tables.close()


def test_an_older_version_changes_nothing(tables: BoardTables) -> None:
    rows = history(1, 60)
    tables.apply(rows)
    before = contents_of(tables)
    # As a feed that overlaps with a snapshot would tell it.
    tables.load(CELL, [AllocationReleased(TENANT_NO, 1, allocation_id(n)) for n in range(60)])
    assert contents_of(tables) == before


def test_a_number_that_leaves_the_pool_is_nobodys(tables: BoardTables) -> None:
    tables.load(CELL, [VirtualNumberStands(1, VNS[0]), VirtualNumberGone(1, VNS[0])])
    with tables.reader(CELL, 1) as board:
        assert not board.has_virtual_number(VNS[0])
        assert not board.is_provisioned(VNS[0])


def test_a_number_of_another_tenant_is_provisioned_and_not_ours(tables: BoardTables) -> None:
    tables.load(CELL, [VirtualNumberStands(1, VNS[0])])
    with tables.reader(CELL, 2) as board:
        assert not board.has_virtual_number(VNS[0])
        assert board.is_provisioned(VNS[0])


# ── positions ────────────────────────────────────────────────────────────────


def vn_row(n: int, cell: int = CELL) -> FeedRow:
    return FeedRow(cell, n, n * 11, *encode(VirtualNumberStands(1, E164(918000000000 + n))))


@pytest.mark.parametrize("following", [[1], [2], [3, 5], [4]])
def test_a_gap_or_a_repeated_row_applies_nothing(tables: BoardTables, following: list[int]) -> None:
    tables.apply([vn_row(1), vn_row(2)])
    before = (contents_of(tables), tables.positions_by_cell())
    with pytest.raises(FeedGap) as gap:
        tables.apply([vn_row(n) for n in following])
    assert gap.value.cell == CELL
    assert (contents_of(tables), tables.positions_by_cell()) == before
    tables.apply([vn_row(3)])
    assert tables.positions_by_cell() == {CELL: (3, 33)}


def test_each_cell_has_a_position_of_its_own(tables: BoardTables) -> None:
    tables.apply([vn_row(1, 1), vn_row(1, 2), vn_row(2, 1)])
    assert tables.positions_by_cell() == {1: (2, 22), 2: (1, 11)}
    with pytest.raises(FeedGap):
        tables.apply([vn_row(3, 1), vn_row(3, 2)])
    assert tables.positions_by_cell() == {1: (2, 22), 2: (1, 11)}


def test_a_reader_sees_one_instant(tables: BoardTables) -> None:
    rows = history(2, 60)
    tables.apply(rows[:30])
    with tables.reader(CELL, TENANT_NO) as board:
        ids = [AllocationId(n.to_bytes(16, "big")) for n in range(61)]
        before = [read(board.allocation_by_id(id)) for id in ids]
        tables.apply(rows[30:])
        assert [read(board.allocation_by_id(id)) for id in ids] == before


def test_each_tenant_may_keep_a_reader(tables: BoardTables) -> None:
    """LMDB has a table of so many readers; those that nobody is in take no place there."""
    tables.load(CELL, [VirtualNumberStands(1, VNS[0])])
    kept = [tables.reader(CELL, tenant_no) for tenant_no in range(1, READERS_MAX + 2)]
    for reader in kept:
        with reader as board:
            assert board.is_provisioned(VNS[0])


@pytest.mark.parametrize("rows_before", [20, 400, 1500])
def test_a_writer_killed_in_the_middle_leaves_a_whole_board(
    board_directory: Path, tmp_path: Path, rows_before: int
) -> None:
    seed, length = 5, 8_000
    arguments = [sys.executable, "-m", "tests.tables.writer", str(board_directory), str(seed), str(length)]
    tables = BoardTables(board_directory)
    writer = subprocess.Popen(arguments)
    try:
        while tables.positions_by_cell().get(CELL, (0, 0))[0] < rows_before:
            assert writer.poll() is None, "the writer ended by itself"
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        tables.close()

    tables = BoardTables(board_directory)
    rows = history(seed, length)
    n, tag = tables.positions_by_cell()[CELL]
    assert rows_before <= n < length
    assert tag == rows[n - 1].tag
    expected = BoardTables(tmp_path / "expected")
    try:
        expected.apply(rows[:n])
        assert contents_of(tables) == contents_of(expected)
        # And somebody else takes it from there.
        tables.apply(rows[n : n + 100])
        expected.apply(rows[n : n + 100])
        assert contents_of(tables) == contents_of(expected)
    finally:
        tables.close()
        expected.close()
