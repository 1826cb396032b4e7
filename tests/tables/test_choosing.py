"""What the board tells of a tenant's VNs when one is to be chosen, beside lists that are scanned.

Two tenants of one cell, few VNs, people and PINs: what one has must not be the other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from itertools import count
from typing import NamedTuple
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cordboard.routing.changes import AllocationReleased, AllocationStands, Change, VirtualNumberStands
from cordboard.routing.choose import Wanted, choose
from cordboard.routing.model import Allocation, AllocationId, Party, Product, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.switchboard.allocating import NOTHING_KNOWN, BoardPool
from cordboard.switchboard.picks import Picks
from cordboard.tables.board import BoardReader, BoardTables

CELL = 3
NOW_US = 1_000
PEOPLE = tuple(E164(919800000021 + n) for n in range(4))
PINS = tuple(map(Pin, ("12", "012", "9999")))
_worlds = count(1)


class Line(NamedTuple):
    is_ours: bool
    place: int
    region: str | None
    type: str | None
    is_reserved: bool
    is_drained: bool


class Stands(NamedTuple):
    line: int
    a: E164
    b: E164
    pin: Pin | None
    is_live: bool
    is_exclusive: bool
    is_released: bool


lines = st.lists(
    st.builds(
        Line,
        st.integers(0, 3).map(bool),
        st.integers(0, 5),
        st.sampled_from((None, "KA", "MP")),
        st.sampled_from((None, "mobile", "landline")),
        *(st.integers(0, 5).map(lambda n: n == 0),) * 2,
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda line: line.place,
)
standing = st.lists(
    st.builds(
        Stands,
        st.integers(0, 5),
        st.sampled_from(PEOPLE[:2]),
        st.sampled_from(PEOPLE[2:]),
        st.none() | st.sampled_from(PINS),
        st.booleans(),
        st.integers(0, 5).map(lambda n: n == 0),
        st.integers(0, 3).map(lambda n: n == 0),
    ),
    max_size=8,
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoardTables]:
    tables = BoardTables(tmp_path_factory.mktemp("choosing") / "board")
    yield tables
    tables.close()


def number_of(world: int, line: Line) -> E164:
    return E164(918000000000 + 10 * world + line.place)


def allocation_of(world: int, place: int, stands: Stands, line: Line) -> Allocation:
    at = (number_of(world, line),)
    return Allocation(
        AllocationId(UUID(int=world * 100 + place).bytes),
        Product.GREENVN,
        Usage.TWOWAY,
        NOW_US + stands.is_live,
        Party((stands.a,), at, () if stands.pin is None else (stands.pin,), False),
        Party((stands.b,), at, (), False),
        common_pin=False,
        has_members=False,
        is_exclusive=stands.is_exclusive,
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pool=lines, all_stands=standing)
def test_the_board_says_what_lists_say(
    tables: BoardTables, pool: list[Line], all_stands: list[Stands]
) -> None:
    world = next(_worlds)
    ours, theirs = 2 * world, 2 * world + 1
    changes: list[Change] = [
        VirtualNumberStands(
            ours if line.is_ours else theirs,
            number_of(world, line),
            line.region,
            line.type,
            is_reserved=line.is_reserved,
            is_drained=line.is_drained,
        )
        for line in pool
    ]
    # On the board a PIN of a line is one allocation's: the database sees to that.
    seen: set[tuple[int, Pin]] = set()
    stays: list[tuple[Line, Stands]] = []
    for place, stands in enumerate(all_stands):
        line = pool[stands.line % len(pool)]
        if stands.pin is not None and (line.place, stands.pin) in seen:
            continue
        tenant_no = ours if line.is_ours else theirs
        allocation = allocation_of(world, place, stands, line)
        changes.append(AllocationStands(tenant_no, 1, allocation))
        if stands.is_released:
            changes.append(AllocationReleased(tenant_no, 2, allocation.id))
            continue
        stays.append((line, stands))
        if stands.pin is not None:
            seen.add((line.place, stands.pin))
    tables.load(CELL, changes)

    own = {number_of(world, line): line for line in pool if line.is_ours}
    with tables.reader(CELL, ours) as board:
        assert places_by_number(board, own) == {
            (what, is_live): {
                number_of(world, line)
                for line, stands in stays
                if line.is_ours
                and what in (stands.a, stands.b, stands.pin)
                and (stands.is_live or not is_live)
            }
            for what in (*PEOPLE, *PINS)
            for is_live in (False, True)
        }
        loads = {
            number: sum(line is stood_on for stood_on, _ in stays)
            for number, line in own.items()
            if not (line.is_reserved or line.is_drained)
            and not any(line is stood_on and stands.is_exclusive for stood_on, stands in stays)
        }
        kinds = list(board.open_kinds())
        assert len(set(kinds)) == len(kinds)
        assert set(kinds) == {(own[number].region, own[number].type) for number in loads}
        listed = {number: load for kind in kinds for load, _, number in board.open_numbers(kind)}
        assert listed == loads
        for kind in kinds:
            by_load = list(board.open_numbers(kind))
            assert [load for load, _, _ in by_load] == sorted(load for load, _, _ in by_load)
            assert all(board.line(number) == line for _, line, number in by_load)
            assert {(own[number].region, own[number].type) for _, _, number in by_load} == {kind}
            but_the_first = list(board.open_numbers(kind, {by_load[0][1]}))
            assert but_the_first == by_load[1:]

        chosen = choose(
            Wanted(PEOPLE[:1], PINS[:1]), BoardPool(board, NOTHING_KNOWN, Picks(), "ours", NOW_US)
        )
        blocked, for_sure = (
            {
                number_of(world, line)
                for line, stands in stays
                if (stands.a == PEOPLE[0] or stands.pin == PINS[0]) and (stands.is_live or not is_live)
            }
            for is_live in (False, True)
        )
        free = loads.keys() - blocked or loads.keys() - for_sure
        assert chosen is None if not free else loads[chosen or PEOPLE[0]] == min(loads[n] for n in free)
        assert chosen is None or chosen in free


def places_by_number(board: BoardReader, own: dict[E164, Line]) -> dict[tuple[object, bool], set[E164]]:
    """The tenant's own VNs where a number or PIN stands, at all and for allocations that are live."""
    found: dict[tuple[object, bool], AbstractSet[bytes]] = {}
    for number in PEOPLE:
        found[number, False], found[number, True] = (
            board.occupied_by(number),
            board.occupied_at(number, NOW_US),
        )
    for pin in PINS:
        found[pin, False], found[pin, True] = board.holding(pin), board.held_at(pin, NOW_US)
    return {key: {number for number in own if board.line(number) in held} for key, held in found.items()}
