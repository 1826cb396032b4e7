"""What two may not both have, tried on the real server; and what becomes of it in batches, updates,
releases and joins."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from cordboard.clock import SECOND_US, to_datetime
from cordboard.routing.allocate import Generation, Standing
from cordboard.routing.changes import (
    AllocationReleased,
    AllocationStands,
    MemberLeft,
    MemberStands,
)
from cordboard.routing.model import NEVER_US, Admission, Allocation, Product, RightPin, Side, State, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.progress import digest_of
from cordboard.storage import allocations, outcomes, provisioning
from cordboard.storage.allocations import (
    AlreadyReleased,
    AnsweredBefore,
    ClientIdTaken,
    Conflict,
    Idempotency,
    Made,
    MakeResult,
    NotFound,
    NumberTaken,
    PinTaken,
    PoolChanged,
    Released,
    ReleasedBefore,
    ReleaseRequest,
    TryAgain,
    Unknown,
    VirtualNumberBusy,
)
from cordboard.storage.database import Connection, Database
from cordboard.storage.outcomes import CallKey
from tests.storage.office import (
    ANN,
    BEN,
    CAT,
    DAN,
    GIVE_UP_S,
    NOW_US,
    Office,
    alone,
    name_of,
    opened_office,
    race,
)

LATER_US = NOW_US + 60 * SECOND_US


def id_of(standing: Standing) -> UUID:
    return UUID(bytes=standing.allocation.id)


async def without_second_try(
    office: Office, work: Callable[..., Awaitable[Any]], *standings: Standing, **how: Any
) -> Any:
    """Not by Database.write, which would try again after a deadlock."""

    async def run(connection: Connection) -> Any:
        async with connection.transaction():
            return await work(connection, *standings, **how)

    return await office.database.read(run)


# ── two who want the same ────────────────────────────────────────────────────

Pair = Callable[[Office], tuple[Standing, Standing, MakeResult]]


def the_same_client_id(office: Office) -> tuple[Standing, Standing, MakeResult]:
    return (
        office.standing([ANN], [BEN], client_id="ORD"),
        office.standing([CAT], [DAN], client_id="ORD"),
        ClientIdTaken(),
    )


def the_same_number_without_pin(office: Office) -> tuple[Standing, Standing, MakeResult]:
    return (
        office.standing([ANN], [BEN]),
        office.standing([ANN], [CAT]),
        NumberTaken(office.vn, ANN),
    )


def a_number_with_and_without_pin(office: Office) -> tuple[Standing, Standing, MakeResult]:
    return (
        office.standing([ANN], [BEN], a_pin="1"),
        office.standing([ANN], [CAT]),
        NumberTaken(office.vn, ANN),
    )


def a_number_without_and_with_pin(office: Office) -> tuple[Standing, Standing, MakeResult]:
    return (
        office.standing([ANN], [BEN]),
        office.standing([CAT], [ANN], b_pin="1"),
        NumberTaken(office.vn, ANN),
    )


def the_same_pin(office: Office) -> tuple[Standing, Standing, MakeResult]:
    return (
        office.standing([ANN], [BEN], a_pin="1"),
        office.standing([CAT], [DAN], b_pin="1"),
        PinTaken(office.vn, Pin("1")),
    )


def a_pin_and_a_common_pin(office: Office) -> tuple[Standing, Standing, MakeResult]:
    return (
        office.standing([ANN], [BEN], a_pin="1", a_vns=[office.other_vn]),
        office.standing([CAT], [DAN], common_pin="1", b_vns=[office.other_vn]),
        PinTaken(office.other_vn, Pin("1")),
    )


def one_alone_and_one_beside(office: Office) -> tuple[Standing, Standing, MakeResult]:
    return (
        alone(office.standing([ANN], [BEN], a_pin="1")),
        office.standing([CAT], [DAN], a_vns=[office.other_vn]),
        VirtualNumberBusy(office.vn),
    )


def one_beside_and_one_alone(office: Office) -> tuple[Standing, Standing, MakeResult]:
    return (
        office.standing([ANN], [BEN], a_vns=[office.other_vn]),
        alone(office.standing([CAT], [DAN], a_pin="1")),
        VirtualNumberBusy(office.vn),
    )


def two_alone(office: Office) -> tuple[Standing, Standing, MakeResult]:
    return (
        alone(office.standing([ANN], [BEN], a_pin="1")),
        alone(office.standing([CAT], [DAN], a_pin="2")),
        VirtualNumberBusy(office.vn),
    )


PAIRS = [
    the_same_client_id,
    the_same_number_without_pin,
    a_number_with_and_without_pin,
    a_number_without_and_with_pin,
    the_same_pin,
    a_pin_and_a_common_pin,
    one_alone_and_one_beside,
    one_beside_and_one_alone,
    two_alone,
]


@pytest.mark.parametrize("pair", PAIRS)
async def test_the_second_to_want_the_same_is_told_what_is_taken(office: Office, pair: Pair) -> None:
    first, second, refused = pair(office)
    [made] = await office.make(first)
    assert isinstance(made, Made)
    before = await office.everything()

    assert await office.make(second) == [refused]
    # It left no trace.
    assert await office.everything() == before


@pytest.mark.parametrize("pair", PAIRS)
async def test_of_two_at_the_same_moment_the_one_that_commits_wins(office: Office, pair: Pair) -> None:
    first, second, refused = pair(office)
    results = await race(
        office.database,
        lambda connection: office.make_in(connection, first),
        lambda connection: office.make_in(connection, second),
    )
    assert results == [refused]


@pytest.mark.parametrize("pair", PAIRS)
async def test_of_two_at_the_same_moment_the_second_wins_if_the_first_is_undone(
    office: Office, pair: Pair
) -> None:
    first, second, _ = pair(office)
    [result] = await race(
        office.database,
        lambda connection: office.make_in(connection, first),
        lambda connection: office.make_in(connection, second),
        undo=True,
    )
    assert isinstance(result, Made)
    assert {
        change.allocation.id for change in await office.told() if isinstance(change, AllocationStands)
    } == {second.allocation.id}


@pytest.mark.parametrize("pair", PAIRS)
async def test_what_was_taken_is_free_after_the_release(office: Office, pair: Pair) -> None:
    first, second, _ = pair(office)
    await office.make(first)
    await office.release(first)
    [made] = await office.make(second)
    assert isinstance(made, Made)


@pytest.mark.parametrize("pair", PAIRS)
async def test_ten_at_once_leave_one_winner(office: Office, pair: Pair) -> None:
    wanted = [standing for _ in range(5) for standing in pair(office)[:2]]
    if pair in (the_same_client_id, the_same_pin, the_same_number_without_pin, two_alone):
        results = await asyncio.gather(*(office.make(standing) for standing in wanted))
        assert Counter(isinstance(result, Made) for [result] in results) == {True: 1, False: 9}
    else:
        # Here the firsts and the seconds are different wishes; both kinds cannot be there at the end.
        await asyncio.gather(*(office.make(standing) for standing in wanted))
    assert len({needs_pin for _, number, _, needs_pin in await office.routes() if number == ANN}) <= 1


async def test_one_agent_has_many_routes_told_apart_by_their_pins(office: Office) -> None:
    made = [await office.made([ANN], [BEN], a_pin=pin, b_pin=f"9{pin}") for pin in ("1", "2", "01")]
    assert {id for _, number, id, _ in await office.routes() if number == ANN} == {
        standing.allocation.id for standing in made
    }
    assert await office.lines() == {(office.vn, ANN, True), (office.vn, BEN, True)}


async def test_the_same_on_another_vn_or_of_another_tenant_is_not_in_the_way(
    office: Office, office_database: Database
) -> None:
    await office.made([ANN], [BEN], a_pin="1", client_id="ORD")
    await office.made([ANN], [BEN], a_pin="1", a_vns=[office.other_vn], b_vns=[office.other_vn])
    other = await opened_office(office_database)
    await other.made([ANN], [BEN], a_pin="1", client_id="ORD")


async def test_a_forbidden_route_counts_too(office: Office) -> None:
    await office.made([ANN], [BEN], usage=Usage.ONEWAY)
    assert await office.make(office.standing([CAT], [BEN])) == [NumberTaken(office.vn, BEN)]


# ── what no code may write ───────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        (
            (
                "INSERT INTO route SELECT cell, virtual_number, number, allocation_id, side, needs_pin"
                " FROM route WHERE cell = $1 AND number = $2"
            ),
            asyncpg.UniqueViolationError,
        ),
        (
            "UPDATE route SET needs_pin = NOT needs_pin WHERE cell = $1 AND number = $2",
            asyncpg.ForeignKeyViolationError,
        ),
        (
            "UPDATE caller_line SET needs_pin = NOT needs_pin WHERE cell = $1 AND number = $2",
            asyncpg.ForeignKeyViolationError,
        ),
        ("DELETE FROM caller_line WHERE cell = $1 AND number = $2", asyncpg.ForeignKeyViolationError),
        (
            (
                "INSERT INTO party_number (cell, allocation_id, number, side, list_position)"
                " SELECT cell, allocation_id, number, 'b', 5 FROM party_number"
                " WHERE cell = $1 AND number = $2"
            ),
            asyncpg.UniqueViolationError,
        ),
        ("DELETE FROM party_number WHERE cell = $1 AND number = $2", asyncpg.ForeignKeyViolationError),
        (
            "UPDATE party_number SET joined_at = now() WHERE cell = $1 AND number = $2",
            asyncpg.CheckViolationError,
        ),
        (
            "UPDATE party_number SET list_position = 10 WHERE cell = $1 AND number = $2",
            asyncpg.CheckViolationError,
        ),
        (
            "DELETE FROM virtual_number WHERE cell = $1 AND $2::bigint IS NOT NULL",
            asyncpg.ForeignKeyViolationError,
        ),
        (
            "UPDATE allocation SET state = 'vault' WHERE cell = $1 AND $2::bigint IS NOT NULL",
            asyncpg.CheckViolationError,
        ),
        (
            "UPDATE allocation SET a_pins = '{}' WHERE cell = $1 AND $2::bigint IS NOT NULL",
            asyncpg.CheckViolationError,
        ),
        (
            "UPDATE allocation SET a_pins = '{12x}' WHERE cell = $1 AND $2::bigint IS NOT NULL",
            asyncpg.CheckViolationError,
        ),
        (
            "UPDATE allocation SET common_pin = true WHERE cell = $1 AND $2::bigint IS NOT NULL",
            asyncpg.CheckViolationError,
        ),
        (
            "UPDATE allocation SET a_virtual_numbers = '{}' WHERE cell = $1 AND $2::bigint IS NOT NULL",
            asyncpg.CheckViolationError,
        ),
        (
            "UPDATE allocation SET a_pins = '{1,2}' WHERE cell = $1 AND $2::bigint IS NOT NULL",
            asyncpg.CheckViolationError,
        ),
        (
            "UPDATE allocation SET is_exclusive = true WHERE cell = $1 AND $2::bigint IS NOT NULL",
            asyncpg.CheckViolationError,
        ),
        (
            "UPDATE allocation SET pin_failures = 1 WHERE cell = $1 AND $2::bigint IS NOT NULL",
            asyncpg.CheckViolationError,
        ),
        (
            "UPDATE allocation SET client_id = NULL WHERE cell = $1 AND $2::bigint IS NOT NULL",
            asyncpg.CheckViolationError,
        ),
        (
            "UPDATE vn_use SET is_exclusive = true WHERE cell = $1 AND $2::bigint IS NOT NULL",
            asyncpg.ForeignKeyViolationError,
        ),
        (
            "UPDATE virtual_number SET is_exclusive = true WHERE cell = $1 AND $2::bigint IS NOT NULL",
            asyncpg.ForeignKeyViolationError,
        ),
        (
            (
                "INSERT INTO pin_claim (cell, virtual_number, pin, allocation_id, side)"
                " SELECT cell, virtual_number, pin, allocation_id, 'b' FROM pin_claim"
                " WHERE cell = $1 AND $2::bigint IS NOT NULL"
            ),
            asyncpg.UniqueViolationError,
        ),
    ],
)
async def test_a_row_that_breaks_a_rule_cannot_be_written(
    office: Office, statement: str, refused: type[Exception]
) -> None:
    await office.made([ANN], [BEN], a_pin="1")
    with pytest.raises(refused):
        await office.execute(statement, ANN)


async def test_two_routes_without_pin_cannot_stand_on_one_line(office: Office) -> None:
    await office.made([ANN], [BEN])
    other = await office.made([CAT], [DAN])

    async def put(connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO party_number (cell, allocation_id, number, side, list_position)"
            " VALUES ($1, $2, $3, 'a', 1)",
            office.cell,
            id_of(other),
            ANN,
        )
        await connection.execute(
            "INSERT INTO route (cell, virtual_number, number, allocation_id, side, needs_pin)"
            " VALUES ($1, $2, $3, $4, 'a', false)",
            office.cell,
            office.vn,
            ANN,
            id_of(other),
        )

    with pytest.raises(asyncpg.UniqueViolationError):
        await office.database.write(put)


@pytest.mark.parametrize(
    ("is_alone", "refused"),
    [(True, asyncpg.UniqueViolationError), (False, asyncpg.ForeignKeyViolationError)],
)
async def test_nobody_can_stand_beside_one_that_wants_the_vn_alone(
    office: Office, is_alone: bool, refused: type[Exception]
) -> None:
    await office.make(alone(office.standing([ANN], [BEN])))
    other = await office.made([CAT], [DAN], a_vns=[office.other_vn], b_vns=[office.other_vn])
    with pytest.raises(refused):
        await office.execute(
            "INSERT INTO vn_use (cell, virtual_number, allocation_id, is_exclusive, product)"
            " VALUES ($1, $2, $3, $4, 'greenpin')",
            office.vn,
            id_of(other),
            is_alone,
        )


# ── the line between routes with and without PIN ─────────────────────────────


async def test_the_last_route_takes_its_line_away(office: Office) -> None:
    first = await office.made([ANN], [BEN], a_pin="1")
    second = await office.made([ANN], [CAT], a_pin="2")
    await office.release(first)
    assert (office.vn, ANN, True) in await office.lines()
    await office.release(second)
    assert await office.lines() == set()
    # From here on the other kind of route may stand.
    await office.made([ANN], [BEN])


async def test_a_new_route_keeps_the_line_that_the_last_one_is_leaving(office: Office) -> None:
    leaving = await office.made([ANN], [BEN], a_pin="1")
    coming = office.standing([ANN], [CAT], a_pin="2")
    await race(
        office.database,
        lambda connection: office.make_in(connection, coming),
        lambda connection: office.release_in(connection, leaving),
    )
    assert (office.vn, ANN, True) in await office.lines()
    assert {id for _, number, id, _ in await office.routes() if number == ANN} == {coming.allocation.id}


@pytest.mark.parametrize("pin", [None, "2"])
async def test_a_new_route_waits_for_the_last_one_to_take_its_line_away(
    office: Office, pin: str | None
) -> None:
    leaving = await office.made([ANN], [BEN], a_pin="1")
    [result] = await race(
        office.database,
        lambda connection: office.release_in(connection, leaving),
        lambda connection: office.make_in(connection, office.standing([ANN], [CAT], a_pin=pin)),
    )
    assert isinstance(result, Made)
    assert (office.vn, ANN, pin is not None) in await office.lines()


async def test_releases_and_new_routes_on_one_line_do_not_wait_for_each_other_in_a_ring(
    office: Office,
) -> None:
    once = partial(without_second_try, office)
    for _ in range(40):
        leaving = await office.made([ANN, CAT], [BEN, DAN])
        coming = office.standing([DAN, ANN], [CAT, BEN])
        _, [result] = await asyncio.gather(once(office.release_in, leaving), once(office.make_in, coming))
        if isinstance(result, Made):
            await office.release(coming)
    assert await office.lines() == set()


# ── batches ──────────────────────────────────────────────────────────────────


async def test_in_a_batch_some_win_and_some_lose_and_the_winners_are_whole(office: Office) -> None:
    await office.made([ANN], [BEN], a_pin="1", client_id="ORD-taken")
    told = len(await office.told())
    batch = [
        office.standing([CAT], [], a_pin="2", b_pin="22"),
        office.standing([CAT], [], a_pin="1", b_pin="3", a_vns=[office.other_vn, office.vn]),
        office.standing([CAT], [], a_pin="4", b_pin="44", client_id="ORD-taken"),
        office.standing([ANN], [], b_pin="6"),
        office.standing([CAT], [], a_pin="5", b_pin="55", b_vns=[office.other_vn]),
    ]
    results = await office.make(*batch)
    assert [type(result) for result in results] == [Made, TryAgain, TryAgain, TryAgain, Made]
    # Alone, each is told what it lost to.
    results = [result for loser in batch[1:4] for result in await office.make(loser, is_second_try=True)]
    assert results == [PinTaken(office.vn, Pin("1")), ClientIdTaken(), NumberTaken(office.vn, ANN)]

    changes = await office.told_since(told)
    assert [change.allocation.id for change in changes if isinstance(change, AllocationStands)] == [
        batch[0].allocation.id,
        batch[4].allocation.id,
    ]
    assert set(await office.pins()) == {
        (office.vn, "1"),
        (office.vn, "2"),
        (office.vn, "22"),
        (office.vn, "5"),
        (office.other_vn, "55"),
    }
    assert {id for _, _, id, _ in await office.routes()}.isdisjoint(
        loser.allocation.id for loser in batch[1:4]
    )


async def test_a_batch_lets_those_who_lost_to_a_loser_try_again_and_win(office: Office) -> None:
    await office.made([ANN], [BEN], a_pin="1")
    # The first loses its PIN to the allocation above, and the second CAT's line to the first.
    loser = office.standing([CAT], [BEN], b_pin="1")
    neighbour = office.standing([CAT], [DAN], a_pin="2")
    assert await office.make(loser, neighbour) == [TryAgain(), TryAgain()]
    second = await office.make(loser, neighbour, is_second_try=True)
    third = [await office.make(neighbour, is_second_try=True)]
    assert second[0] == PinTaken(office.vn, Pin("1")) or isinstance(second[0], NumberTaken)
    assert isinstance(third[0][0], Made)


@pytest.mark.parametrize("pin", [None, "1"])
async def test_a_batch_may_want_the_same_number_on_one_vn_twice(office: Office, pin: str | None) -> None:
    first = office.standing([ANN], [BEN], a_pin=pin)
    second = office.standing([ANN], [CAT], a_pin=pin and "2")
    results = await office.make(first, second)
    if pin is None:
        # One route without PIN; the other may not stand beside it.
        assert sorted(type(result).__name__ for result in results) == ["Made", "NumberTaken"]
    else:
        assert [type(result) for result in results] == [Made, Made]


async def test_a_batch_of_one_with_and_one_without_pin_leaves_one(office: Office) -> None:
    results = await office.make(office.standing([ANN], [BEN], a_pin="1"), office.standing([ANN], [CAT]))
    assert [type(result) for result in results] == [Made, NumberTaken]


async def test_a_batch_may_name_one_pin_or_one_client_id_twice(office: Office) -> None:
    results = await office.make(
        office.standing([ANN], [BEN], a_pin="1", client_id="ORD"),
        office.standing([CAT], [DAN], b_pin="1"),
        office.standing([BEN], [DAN], b_pin="2", a_vns=[office.other_vn], client_id="ORD"),
    )
    assert [type(result) for result in results] == [Made, TryAgain, TryAgain]


async def test_a_vn_that_left_the_pool_meanwhile_spoils_the_allocation_only(office: Office) -> None:
    await provisioning.delete_virtual_number(office.database, office.tenant.id, office.other_vn, NOW_US)
    gone = office.standing([ANN], [BEN], a_vns=[office.other_vn])
    for standing in (gone, alone(gone)):
        with pytest.raises(PoolChanged):
            await office.make(standing)
    standing = await office.made([ANN], [BEN])
    before = await office.everything()
    with pytest.raises(PoolChanged):
        await office.update(standing, moved_to(standing, office.other_vn))
    assert await office.everything() == before


# ── ended, and not swept yet ─────────────────────────────────────────────────


@pytest.mark.parametrize("pair", PAIRS)
async def test_what_ended_gives_way_before_it_is_swept_and_is_told_of_once(
    office: Office, pair: Pair
) -> None:
    first, second, _ = pair(office)
    first = ended(first, LATER_US)
    await office.make(first)
    told = len(await office.told())

    assert await office.make(second, now_us=LATER_US) == [TryAgain()]
    [result] = await office.make(second, now_us=LATER_US, is_second_try=True)
    assert isinstance(result, Made)
    await office.sweep(LATER_US)
    assert await office.release(first, now_us=LATER_US) == [ReleasedBefore()]

    assert [event["allocation_id"] for event in await office.events("deallocated")] == [str(id_of(first))]
    assert await office.told_since(told) == [
        AllocationReleased(office.tenant.tenant_no, 2, first.allocation.id),
        AllocationStands(office.tenant.tenant_no, 1, second.allocation),
    ]


@pytest.mark.parametrize("pair", PAIRS)
async def test_an_instant_before_its_end_it_gives_no_way(office: Office, pair: Pair) -> None:
    first, second, refused = pair(office)
    await office.make(ended(first, LATER_US))
    assert await office.make(second, now_us=LATER_US - 1) == [refused]


@pytest.mark.parametrize("pair", PAIRS)
async def test_nobody_waits_for_the_release_of_what_ended_while_holding_what_it_needs(
    office: Office, pair: Pair
) -> None:
    first, second, _ = pair(office)
    first = ended(first, LATER_US)
    await office.make(first)

    async def sweep(connection: Connection) -> None:
        await connection.execute(
            "SELECT FROM allocation WHERE cell = $1 AND id = $2 FOR UPDATE", office.cell, id_of(first)
        )
        # A sweep has come this far when a request comes that wants the same; it does not stop for it.
        assert await office.make(second, now_us=LATER_US) == [TryAgain()]
        await allocations.release_ended(connection, office.cell, [id_of(first)], LATER_US)

    async with asyncio.timeout(GIVE_UP_S):
        await office.database.write(sweep)
    [result] = await office.make(second, now_us=LATER_US)
    assert isinstance(result, Made)
    assert len(await office.events("deallocated")) == 1


async def test_the_winners_of_a_batch_stand_beside_what_the_losers_release(office: Office) -> None:
    old = await office.made([ANN], [BEN], a_pin="1", expires_at_us=LATER_US)
    winner = office.standing([CAT], [DAN], a_pin="2", b_pin="3")
    loser = office.standing([CAT], [DAN], a_pin="1", b_pin="4")
    results = await office.make(winner, loser, now_us=LATER_US)
    assert [type(result) for result in results] == [Made, TryAgain]
    [result] = await office.make(loser, now_us=LATER_US, is_second_try=True)
    assert isinstance(result, Made)
    assert len(await office.events("deallocated")) == 1
    assert (await office.found(old)).state is State.VAULT


async def test_an_update_makes_ended_allocations_give_way(office: Office) -> None:
    with_pin = await office.made([ANN], [BEN], a_pin="1", b_pin="4", expires_at_us=LATER_US)
    vns = [office.other_vn]
    without = await office.made([CAT], [DAN], a_needs_pin=False, a_vns=vns, b_vns=vns, expires_at_us=LATER_US)
    standing = await office.made([DAN], [BEN], a_pin="2", b_pin="3")
    allocation = standing.allocation
    becomes = allocation._replace(
        a=allocation.a._replace(
            pins=(Pin("1"),), virtual_numbers=(office.vn, office.other_vn), numbers=(CAT,)
        )
    )
    await office.update(standing, becomes, LATER_US)

    assert (await office.found(standing)).allocation == becomes
    assert {event["allocation_id"] for event in await office.events("deallocated")} == {
        str(id_of(with_pin)),
        str(id_of(without)),
    }
    await office.sweep(LATER_US)
    assert len(await office.events("deallocated")) == 2


async def test_a_join_makes_ended_allocations_give_way(office: Office) -> None:
    old = await office.made([CAT], [DAN], expires_at_us=LATER_US)
    standing = await office.made([ANN], [BEN], common_pin="1")
    await office.enter(standing, Side.A, CAT, now_us=LATER_US)
    assert [member.number for member in await office.members(standing)] == [CAT]
    assert [event["allocation_id"] for event in await office.events("deallocated")] == [str(id_of(old))]


# ── updates ──────────────────────────────────────────────────────────────────


async def test_own_values_can_be_stored_again(office: Office) -> None:
    standing = await office.made([ANN, CAT], [BEN], a_pin="1", b_pin="2", a_vns=office.virtual_numbers)
    before = (await office.routes(), await office.lines(), await office.pins())
    await office.update(standing, standing.allocation)
    assert (await office.routes(), await office.lines(), await office.pins()) == before
    assert (await office.found(standing)).allocation == standing.allocation


@pytest.mark.parametrize(("a_pin", "b_pin"), [("1", "2"), (None, None), ("1", None), (None, "1")])
async def test_numbers_change_sides(office: Office, a_pin: str | None, b_pin: str | None) -> None:
    standing = await office.made([ANN, CAT], [BEN], a_pin=a_pin, b_pin=b_pin)
    allocation = standing.allocation
    becomes = allocation._replace(
        a=allocation.a._replace(numbers=(BEN,)), b=allocation.b._replace(numbers=(CAT, ANN))
    )
    await office.update(standing, becomes)
    assert (await office.found(standing)).allocation == becomes
    assert await office.routes() == {
        (office.vn, BEN, allocation.id, a_pin is not None),
        (office.vn, CAT, allocation.id, b_pin is not None),
        (office.vn, ANN, allocation.id, b_pin is not None),
    }
    assert await office.lines() == {route[:2] + route[3:] for route in await office.routes()}


async def test_sides_swap_their_vns_and_their_pins(office: Office) -> None:
    standing = await office.made(
        [ANN], [BEN], a_pin="1", b_pin="2", a_vns=[office.vn], b_vns=[office.other_vn], cool_off_s=60
    )
    allocation = standing.allocation
    swapped = allocation._replace(
        a=allocation.a._replace(virtual_numbers=(office.other_vn,)),
        b=allocation.b._replace(virtual_numbers=(office.vn,)),
    )
    swapped_again = swapped._replace(
        a=swapped.a._replace(virtual_numbers=(office.vn,), pins=(Pin("2"),)),
        b=swapped.b._replace(virtual_numbers=(office.other_vn,), pins=(Pin("1"),)),
    )
    standing = await office.update(standing, swapped)
    assert set(await office.pins()) == {(office.other_vn, "1"), (office.vn, "2")}
    standing = await office.update(standing, swapped_again)
    assert await office.pins() == {
        (office.vn, "2"): allocation.id,
        (office.other_vn, "1"): allocation.id,
    }
    assert (await office.found(standing)).version == 3


async def test_lists_are_kept_in_the_order_given(office: Office) -> None:
    standing = await office.made([ANN, BEN, CAT], [DAN], a_pin="1")
    becomes = standing.allocation._replace(a=standing.allocation.a._replace(numbers=(CAT, ANN)))
    await office.update(standing, becomes)
    assert (await office.found(standing)).allocation.a.numbers == (CAT, ANN)


@pytest.mark.parametrize("what", ["number", "pin"])
async def test_an_update_that_would_take_what_others_have_changes_nothing(office: Office, what: str) -> None:
    await office.made([ANN], [BEN], a_pin="1")
    standing = await office.made([CAT], [DAN], b_pin="2", b_vns=[office.other_vn])
    a, b = standing.allocation.a, standing.allocation.b
    becomes = standing.allocation._replace(
        a=a._replace(numbers=(ANN,)) if what == "number" else a,
        b=b._replace(pins=(Pin("1"),), virtual_numbers=(office.other_vn, office.vn)) if what == "pin" else b,
    )
    before = (await office.routes(), await office.lines(), await office.pins(), await office.told())
    with pytest.raises(Conflict) as conflict:
        await office.update(standing, becomes)
    taken = NumberTaken(office.vn, ANN) if what == "number" else PinTaken(office.vn, Pin("1"))
    assert conflict.value.taken == taken
    assert (await office.routes(), await office.lines(), await office.pins(), await office.told()) == before


async def test_two_updates_at_once_cannot_both_take_a_pin(office: Office) -> None:
    standings = [
        await office.made([ANN], [BEN], a_pin="1", b_pin="2"),
        await office.made([CAT], [DAN], a_pin="3", b_pin="4"),
    ]

    async def take(standing: Standing) -> bool:
        becomes = standing.allocation._replace(a=standing.allocation.a._replace(pins=(Pin("9"),)))
        try:
            await office.update(standing, becomes)
        except Conflict:
            return False
        return True

    assert sorted(await asyncio.gather(*map(take, standings))) == [False, True]
    assert len([pin for _, pin in await office.pins() if pin == "9"]) == 1


async def test_an_update_waits_for_another_of_the_same_allocation(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")

    async def set_pin(pin: str) -> Standing:
        becomes = standing.allocation._replace(a=standing.allocation.a._replace(pins=(Pin(pin),)))
        return await office.update(standing, becomes)

    await asyncio.gather(*(set_pin(str(pin)) for pin in range(3, 9)))
    found = await office.found(standing)
    assert found.version == 7
    assert {pin for _, pin in await office.pins()} == {found.allocation.a.pin, "2"}
    versions = [change.version for change in await office.told() if isinstance(change, AllocationStands)]
    assert versions == list(range(1, 8))


async def test_what_is_released_ended_or_not_ours_is_not_updated(
    office: Office, office_database: Database
) -> None:
    released = await office.made([ANN], [BEN], a_pin="1")
    await office.release(released)
    over = await office.made([ANN], [BEN], a_pin="1", expires_at_us=LATER_US)
    for standing in (released, over):
        with pytest.raises(AlreadyReleased):
            await office.update(standing, standing.allocation, LATER_US)
    other = await opened_office(office_database)
    with pytest.raises(NotFound):
        await other.update(over, over.allocation)


# ── releases ─────────────────────────────────────────────────────────────────


async def test_a_release_frees_everything_and_is_told_once(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    await office.enter(standing, Side.A, CAT)
    told = len(await office.told())
    [released] = await office.release(standing)
    assert isinstance(released, Released)
    assert released.standing.state is State.VAULT
    assert (await office.routes(), await office.lines(), await office.pins()) == (set(), set(), {})
    assert await office.told_since(told) == [
        AllocationReleased(office.tenant.tenant_no, 2, standing.allocation.id)
    ]
    [event] = await office.events("deallocated")
    assert event["transaction_id"] == standing.client_id
    assert await office.release(standing) == [ReleasedBefore()]


@pytest.mark.parametrize("expires_at_us", [NEVER_US, LATER_US])
async def test_it_is_released_once_however_many_want_to(office: Office, expires_at_us: int) -> None:
    """By requests, in one batch and in several, by two sweeps, and by somebody who wants its PIN."""
    standing = await office.made([ANN], [BEN], a_pin="1", expires_at_us=expires_at_us)
    heir = office.standing([CAT], [DAN], a_pin="1")
    results = await asyncio.gather(
        office.release(standing, standing, now_us=LATER_US),
        office.sweep(LATER_US),
        office.release(standing, now_us=LATER_US),
        office.make(heir, now_us=LATER_US),
        office.sweep(LATER_US),
        office.release(standing, now_us=LATER_US),
    )
    requested = [*(results[0] or ()), *(results[2] or ()), *(results[5] or ())]
    by_request = sum(isinstance(result, Released) for result in requested)
    # Past its end, it was its policy that released it.
    assert by_request == (1 if expires_at_us == NEVER_US else 0)
    assert len(await office.events("deallocated")) == 1
    assert sum(isinstance(change, AllocationReleased) for change in await office.told()) == 1
    [row] = await office.fetch(
        "SELECT release_cause, released_at FROM allocation WHERE cell = $1 AND id = $2", id_of(standing)
    )
    assert row["release_cause"] == ("requested" if by_request else "expired")
    assert row["released_at"] == to_datetime(LATER_US)


async def test_a_sweep_takes_what_ended_and_nothing_else(office: Office) -> None:
    over = await office.made([ANN], a_pin="1", b_pin="11", expires_at_us=LATER_US)
    live = await office.made([ANN], a_pin="2", b_pin="22", expires_at_us=LATER_US + 1)
    endless = await office.made([ANN], a_pin="3", b_pin="33")
    await office.sweep(LATER_US)
    states = [(await office.found(standing)).state for standing in (over, live, endless)]
    assert states == [State.VAULT, State.ACTIVE, State.ACTIVE]
    assert await office.sweep(LATER_US) == 0


async def test_nobody_releases_what_is_not_theirs(office: Office, office_database: Database) -> None:
    standing = await office.made([ANN], [BEN])
    other = await opened_office(office_database)
    assert await other.release(standing) == [Unknown()]
    [result] = await office.database.write(
        lambda connection: allocations.release(
            connection, office.cell, [ReleaseRequest(other.tenant.id, name_of(standing))], NOW_US
        )
    )
    assert result == Unknown()
    assert (await office.found(standing)).state is State.ACTIVE
    unknown = [ReleaseRequest(office.tenant.id, name_of(office.standing([ANN], [BEN])))]
    assert await office.database.write(
        lambda connection: allocations.release(connection, office.cell, unknown, NOW_US)
    ) == [Unknown()]


@pytest.mark.parametrize("other", [{"product": Product.GREENVN}, {"generation": Generation.SECOND}])
async def test_an_allocation_of_another_product_or_generation_is_unknown(
    office: Office, other: dict[str, Any]
) -> None:
    standing = await office.made([ANN], [BEN])
    name = name_of(standing)._replace(**other)
    request = ReleaseRequest(office.tenant.id, name)
    assert await office.database.write(
        lambda connection: allocations.release(connection, office.cell, [request], NOW_US)
    ) == [Unknown()]
    with pytest.raises(NotFound):
        await office.database.write(
            lambda connection: allocations.lock_for_update(
                connection, office.cell, office.tenant.id, name, NOW_US
            )
        )
    assert (await office.found(standing)).state is State.ACTIVE


# ── PINs that cool ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["requested", "expired"])
async def test_a_released_pin_cools_from_the_release_on(office: Office, how: str) -> None:
    expires_at_us = LATER_US if how == "expired" else NEVER_US
    standing = await office.made([ANN], [BEN], a_pin="1", cool_off_s=30, expires_at_us=expires_at_us)
    if how == "expired":
        await office.sweep(LATER_US + 7 * SECOND_US)
    else:
        await office.release(standing, now_us=LATER_US)
    free_at_us = LATER_US + 30 * SECOND_US
    heir = office.standing([ANN], [BEN], a_pin="1")
    assert await office.make(heir, now_us=free_at_us - 1) == [PinTaken(office.vn, Pin("1"))]
    [made] = await office.make(heir, now_us=free_at_us)
    assert isinstance(made, Made)


async def test_an_ended_allocation_that_gives_way_still_cools_its_pin(office: Office) -> None:
    await office.made([ANN], [BEN], a_pin="1", cool_off_s=30, expires_at_us=LATER_US)
    heir = office.standing([ANN], [BEN], a_pin="1")
    assert await office.make(heir, now_us=LATER_US + 1) == [TryAgain()]
    assert await office.make(heir, now_us=LATER_US + 1) == [PinTaken(office.vn, Pin("1"))]


async def test_an_allocation_takes_back_its_own_pin_while_it_cools(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2", cool_off_s=30)
    a = standing.allocation.a
    standing = await office.update(standing, standing.allocation._replace(a=a._replace(pins=(Pin("3"),))))
    assert await office.make(office.standing([CAT], [DAN], a_pin="1")) == [PinTaken(office.vn, Pin("1"))]
    standing = await office.update(standing, standing.allocation._replace(a=a))
    assert await office.pins() == {
        (office.vn, "1"): standing.allocation.id,
        (office.vn, "2"): standing.allocation.id,
    }
    # Now "3" cools, and "1" does not any more, not even after the time that was set for it.
    assert await office.make(office.standing([CAT], [DAN], a_pin="3")) == [PinTaken(office.vn, Pin("3"))]
    assert await office.make(office.standing([CAT], [DAN], a_pin="1"), now_us=LATER_US) == [
        PinTaken(office.vn, Pin("1"))
    ]


async def test_a_cooled_pin_is_cleared_away_with_the_numbers(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", cool_off_s=30)
    await office.release(standing)
    for now_us, pins, numbers in ((NOW_US + 30 * SECOND_US - 1, 1, 2), (NOW_US + 30 * SECOND_US, 0, 0)):
        cells = await office.database.read(partial(allocations.cells_to_clear, now_us=now_us))
        assert (office.cell in cells) is (pins == 0)
        await office.database.write(partial(allocations.clear_cell, cell=office.cell, now_us=now_us))
        assert len(await office.fetch("SELECT pin FROM pin_claim WHERE cell = $1")) == pins
        assert len(await office.fetch("SELECT number FROM number_cooling WHERE cell = $1")) == numbers


async def test_a_vn_whose_pins_only_cool_can_leave_the_pool(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2", b_vns=[office.other_vn], cool_off_s=60)
    moved = standing.allocation._replace(b=standing.allocation.b._replace(virtual_numbers=(office.vn,)))
    await office.update(standing, moved)
    await provisioning.delete_virtual_number(office.database, office.tenant.id, office.other_vn, NOW_US)
    with pytest.raises(provisioning.HasLiveAllocations):
        await provisioning.delete_virtual_number(office.database, office.tenant.id, office.vn, NOW_US)


# ── a VN for oneself ─────────────────────────────────────────────────────────

WANTING_ONE_VN = [one_alone_and_one_beside, one_beside_and_one_alone, two_alone]


@pytest.mark.parametrize("pair", WANTING_ONE_VN)
async def test_of_a_batch_one_stands_and_the_other_leaves_no_trace(office: Office, pair: Pair) -> None:
    batch = pair(office)[:2]
    results = await office.make(*batch)
    assert sorted(type(result).__name__ for result in results) == ["Made", "VirtualNumberBusy"]
    [winner] = [standing for standing, result in zip(batch, results, strict=True) if isinstance(result, Made)]
    assert {id for _, id, _ in await office.uses()} == {winner.allocation.id}
    assert {id for _, _, id, _ in await office.routes()} == {winner.allocation.id}
    assert await office.alone_on() == ({office.vn: True} if winner.allocation.is_exclusive else {})
    await office.release(winner)
    assert (await office.uses(), await office.alone_on()) == (set(), {})


async def test_who_lost_something_else_on_a_vn_of_its_own_leaves_it_to_others(office: Office) -> None:
    await office.release(await office.made([ANN], [BEN], a_pin="1", cool_off_s=30))
    before = await office.everything()
    loser = alone(office.standing([CAT], [DAN], a_pin="1", cool_off_s=30))
    assert await office.make(loser) == [PinTaken(office.vn, Pin("1"))]
    assert await office.everything() == before
    await office.made([CAT], [DAN])


@pytest.mark.parametrize("is_heir_alone", [True, False])
@pytest.mark.parametrize("how", ["requested", "expired"])
async def test_a_vn_that_was_borne_alone_cools_from_the_release_on(
    office: Office, how: str, is_heir_alone: bool
) -> None:
    expires_at_us = LATER_US if how == "expired" else NEVER_US
    leaving = alone(office.standing([ANN], [BEN], cool_off_s=30, expires_at_us=expires_at_us))
    await office.make(leaving)
    if how == "expired":
        await office.sweep(LATER_US + 7 * SECOND_US)
    else:
        await office.release(leaving, now_us=LATER_US)
    assert await office.alone_on() == {office.vn: False}
    free_at_us = LATER_US + 30 * SECOND_US
    heir = office.standing([CAT], [DAN])
    heir = alone(heir) if is_heir_alone else heir
    assert await office.make(heir, now_us=free_at_us - 1) == [VirtualNumberBusy(office.vn)]
    [made] = await office.make(heir, now_us=free_at_us)
    assert isinstance(made, Made)


async def test_one_that_ended_alone_gives_way_and_its_vn_still_cools(office: Office) -> None:
    await office.make(alone(office.standing([ANN], [BEN], cool_off_s=30, expires_at_us=LATER_US)))
    heir = office.standing([CAT], [DAN])
    assert await office.make(heir, now_us=LATER_US) == [TryAgain()]
    assert await office.make(heir, now_us=LATER_US) == [VirtualNumberBusy(office.vn)]


async def test_a_vn_that_cools_takes_back_the_one_that_left_it(office: Office) -> None:
    staying = alone(office.standing([ANN], [BEN], cool_off_s=30))
    await office.make(staying)
    there = moved_to(staying, office.other_vn)
    await office.update(staying, there)
    assert await office.alone_on() == {office.vn: False, office.other_vn: True}
    assert await office.make(office.standing([CAT], [DAN])) == [VirtualNumberBusy(office.vn)]

    await office.update(staying, staying.allocation)
    assert await office.alone_on() == {office.vn: True, office.other_vn: False}


@pytest.mark.parametrize("pair", WANTING_ONE_VN)
async def test_an_update_to_a_vn_where_it_may_not_stand_waits_for_the_end(office: Office, pair: Pair) -> None:
    first, second, _ = pair(office)
    await office.make(ended(first, LATER_US))
    second = replace(second, allocation=moved_to(second, office.virtual_numbers[2]))
    await office.make(second)
    becomes = moved_to(second, office.vn)
    before = await office.everything()
    with pytest.raises(Conflict) as conflict:
        await office.update(second, becomes, LATER_US - 1)
    assert conflict.value.taken == VirtualNumberBusy(office.vn)
    assert await office.everything() == before

    await office.update(second, becomes, LATER_US)
    assert (await office.found(second)).allocation == becomes
    assert await office.uses() == {(office.vn, second.allocation.id, second.allocation.is_exclusive)}


@pytest.mark.parametrize("cool_off_s", [0, 5])
async def test_however_many_want_one_vn_at_once_nobody_stands_beside_one_that_wants_it_alone(
    office: Office, cool_off_s: int
) -> None:
    """Nor do they wait for each other, or for a release, in a ring."""
    once = partial(without_second_try, office)

    def wishes(*people: int) -> list[Standing]:
        """Of two pairs of people: the first wants the VN alone, the second does not."""
        standings = [
            office.standing([E164(919800000100 + n)], [E164(919800000200 + n)], cool_off_s=cool_off_s)
            for n in people
        ]
        return [alone(standings[0]), *standings[1:]]

    async def standing_there() -> Counter[bool]:
        return Counter(is_exclusive for _, _, is_exclusive in await office.uses())

    for at_s in range(0, 400, 10):
        make, release = (
            partial(once, work, now_us=NOW_US + at_s * SECOND_US)
            for work in (office.make_in, office.release_in)
        )
        wanted = [*wishes(1, 2), *wishes(3, 4)]
        results = [result for [result] in await asyncio.gather(*map(make, wanted))]
        assert {type(result) for result in results} == {Made, VirtualNumberBusy}
        assert await standing_there() in ({True: 1}, {False: 2})

        made = [one for one, result in zip(wanted, results, strict=True) if isinstance(result, Made)]
        coming = wishes(5, 6)
        await asyncio.gather(release(*made), *map(make, coming))
        assert await standing_there() in ({}, {True: 1}, {False: 1})
        await release(*coming)
        assert await standing_there() == {}
        assert True not in (await office.alone_on()).values()


async def test_a_drained_vn_takes_nobody_new_and_keeps_whom_it_has(office: Office) -> None:
    staying = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    coming = await office.made([CAT], [DAN], a_vns=[office.other_vn], b_vns=[office.other_vn])

    async def set_drained(is_drained: bool) -> None:
        for number in office.virtual_numbers[0], office.virtual_numbers[2]:
            await provisioning.set_virtual_number_state(
                office.database, office.tenant.id, number, NOW_US, is_drained=is_drained
            )

    await set_drained(True)
    before = await office.everything()
    empty = office.virtual_numbers[2]
    wishes = [
        office.standing([CAT], [DAN]),
        alone(office.standing([CAT], [DAN], a_vns=[empty], b_vns=[empty])),
    ]
    assert [await office.make(wish) for wish in wishes] == [
        [VirtualNumberBusy(office.vn)],
        [VirtualNumberBusy(empty)],
    ]
    with pytest.raises(Conflict) as conflict:
        await office.update(coming, moved_to(coming, office.vn))
    assert conflict.value.taken == VirtualNumberBusy(office.vn)
    assert await office.everything() == before

    becomes = staying.allocation._replace(
        a=staying.allocation.a._replace(numbers=(ANN, CAT), pins=(Pin("3"),)),
        b=staying.allocation.b._replace(numbers=()),
    )
    await office.update(staying, becomes)
    assert (await office.found(staying)).allocation == becomes

    await set_drained(False)
    results = [result for wish in wishes for result in await office.make(wish)]
    assert [type(result) for result in results] == [NumberTaken, Made]


# ── numbers that cool ────────────────────────────────────────────────────────


@pytest.mark.parametrize("product", Product)
async def test_a_greenvn_is_refused_where_a_number_of_it_cools(office: Office, product: Product) -> None:
    leaving = office.standing([ANN], [BEN], cool_off_s=30)
    leaving = greenvn(leaving) if product is Product.GREENVN else leaving
    await office.make(leaving)
    await office.release(leaving, now_us=LATER_US)
    free_at_us = LATER_US + 30 * SECOND_US
    before = await office.everything()
    heir = greenvn(office.standing([CAT], [BEN]))
    assert await office.make(heir, now_us=free_at_us - 1) == [NumberTaken(office.vn, BEN)]
    assert await office.everything() == before

    await office.make(
        greenvn(office.standing([CAT], [BEN], a_vns=[office.other_vn], b_vns=[office.other_vn]))
    )
    other = await office.made([CAT], [BEN], now_us=free_at_us - 1)
    await office.release(other, now_us=free_at_us - 1)
    [made] = await office.make(heir, now_us=free_at_us)
    assert isinstance(made, Made)


async def test_an_ended_greenvn_cools_its_numbers_from_its_end_on(office: Office) -> None:
    await office.make(greenvn(office.standing([ANN], [BEN], cool_off_s=30, expires_at_us=LATER_US)))
    free_at_us = LATER_US + 30 * SECOND_US
    heir = greenvn(office.standing([ANN], [CAT]))
    assert await office.make(heir, now_us=free_at_us - 1) == [TryAgain()]
    assert await office.make(heir, now_us=free_at_us - 1) == [NumberTaken(office.vn, ANN)]
    [made] = await office.make(heir, now_us=free_at_us)
    assert isinstance(made, Made)


async def test_a_greenvn_takes_back_its_own_number_while_it_cools(office: Office) -> None:
    standing = greenvn(office.standing([ANN], [BEN], cool_off_s=30))
    other = greenvn(office.standing([DAN], [], b_pin="1"))
    await office.make(standing)
    await office.make(other)
    with_cat = standing.allocation._replace(a=standing.allocation.a._replace(numbers=(CAT,)))
    await office.update(standing, with_cat)
    assert await office.make(greenvn(office.standing([ANN], [], b_pin="2"))) == [NumberTaken(office.vn, ANN)]
    with pytest.raises(Conflict) as conflict:
        await office.update(other, other.allocation._replace(b=other.allocation.b._replace(numbers=(ANN,))))
    assert conflict.value.taken == NumberTaken(office.vn, ANN)

    await office.update(standing, standing.allocation)
    assert (await office.found(standing)).allocation == standing.allocation


async def test_a_member_is_not_listed_where_its_number_cools_for_another(office: Office) -> None:
    """That the member's own route rests from now on must not hide whose number rests there already."""
    gone = greenvn(office.standing([ANN], [BEN], cool_off_s=30))
    await office.make(gone)
    await office.release(gone)
    standing = greenvn(office.standing([CAT], [DAN], a_pin="1", cool_off_s=30))
    await office.make(standing)
    await office.enter(standing, Side.A, ANN)
    assert [member.number for member in await office.members(standing)] == [ANN]
    with pytest.raises(Conflict) as conflict:
        await office.update(
            standing, standing.allocation._replace(a=standing.allocation.a._replace(numbers=(CAT, ANN)))
        )
    assert conflict.value.taken == NumberTaken(office.vn, ANN)


@pytest.mark.parametrize("how", ["requested", "expired"])
async def test_two_of_one_number_are_released_together_and_it_cools_as_long_as_either(
    office: Office, how: str
) -> None:
    expires_at_us = LATER_US if how == "expired" else NEVER_US
    leaving = [
        await office.made([ANN], [], a_pin=pin, b_pin=f"9{pin}", cool_off_s=s, expires_at_us=expires_at_us)
        for pin, s in (("1", 20), ("2", 30), ("3", 10), ("4", 0))
    ]
    if how == "expired":
        await office.sweep(LATER_US)
    else:
        results = await office.release(*leaving, now_us=LATER_US)
        assert [type(result) for result in results] == [Released] * 4
    free_at_us = LATER_US + 30 * SECOND_US
    heir = greenvn(office.standing([ANN], [BEN]))
    assert await office.make(heir, now_us=free_at_us - 1) == [NumberTaken(office.vn, ANN)]
    [made] = await office.make(heir, now_us=free_at_us)
    assert isinstance(made, Made)


# ── several PINs a side ──────────────────────────────────────────────────────


def with_pins(standing: Standing, a: str = "", b: str = "") -> Allocation:
    """The standing's allocation with these PINs, in its sides' places for them."""
    allocation = standing.allocation
    a_pins, b_pins = (tuple(map(Pin, pins.split())) for pins in (a, b))
    return allocation._replace(a=allocation.a._replace(pins=a_pins), b=allocation.b._replace(pins=b_pins))


async def test_each_pin_of_a_side_is_claimed_and_nobody_elses(office: Office) -> None:
    standing = greenvn(office.standing([ANN], [BEN]))
    standing = replace(standing, allocation=with_pins(standing, "1 2", "3 04 5"))
    await office.make(standing)
    assert await office.pins() == dict.fromkeys(
        ((office.vn, pin) for pin in ("1", "2", "3", "04", "5")), standing.allocation.id
    )
    assert (await office.found(standing)).allocation == standing.allocation
    for pins in ("2 6", "6 04"):
        loser = greenvn(office.standing([CAT], [DAN]))
        loser = replace(loser, allocation=with_pins(loser, pins))
        [taken] = set(pins.split()) - {"6"}
        assert await office.make(loser) == [PinTaken(office.vn, Pin(taken))]
    assert len(await office.pins()) == 5


async def test_an_update_of_some_of_the_pins_keeps_the_others_in_their_new_order(office: Office) -> None:
    standing = greenvn(office.standing([ANN], [BEN]))
    standing = replace(standing, allocation=with_pins(standing, "1 2", "3 4"))
    await office.make(standing)
    becomes = with_pins(standing, "2 5", "4 3")
    await office.update(standing, becomes)
    assert {pin for _, pin in await office.pins()} == {"2", "3", "4", "5"}
    assert (await office.found(standing)).allocation == becomes
    await office.release(standing)
    assert await office.pins() == {}


@pytest.mark.parametrize(("pins", "stays"), [("2 1", True), ("1 2 5", False), ("2", False)])
async def test_any_pin_of_a_side_makes_a_member_that_stays_while_all_of_them_do(
    office: Office, pins: str, stays: bool
) -> None:
    standing = greenvn(office.standing([ANN], [BEN]))
    standing = replace(standing, allocation=with_pins(standing, "1 2", "3"))
    await office.make(standing)
    entered = replace(standing, allocation=with_pins(standing, "2", "3"))
    await office.enter(entered, Side.A, CAT)
    assert [member.number for member in await office.members(standing)] == [CAT]

    await office.update(standing, with_pins(standing, pins, "3"))
    assert bool(await office.members(standing)) is stays


# ── common PINs ──────────────────────────────────────────────────────────────


async def test_a_common_pin_is_one_claim_on_the_vns_of_both_sides(office: Office) -> None:
    standing = await office.made([ANN], [BEN], common_pin="1", b_vns=[office.other_vn, office.vn])
    rows = await office.fetch(
        "SELECT virtual_number, side FROM pin_claim WHERE cell = $1 ORDER BY virtual_number"
    )
    assert [tuple(row) for row in rows] == [(office.vn, "both"), (office.other_vn, "both")]
    becomes = standing.allocation._replace(
        a=standing.allocation.a._replace(pins=(Pin("2"),)), b=standing.allocation.b._replace(pins=(Pin("2"),))
    )
    await office.update(standing, becomes)
    assert set(await office.pins()) == {(office.vn, "2"), (office.other_vn, "2")}


# ── members ──────────────────────────────────────────────────────────────────


async def test_a_stranger_with_a_right_pin_becomes_a_member_with_a_route_on_each_vn(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2", a_vns=[office.vn, office.other_vn])
    told = len(await office.told())
    recorded = await office.enter(standing, Side.A, CAT)
    assert recorded.position is not None
    assert await office.told_since(told) == [
        MemberStands(
            office.tenant.tenant_no,
            standing.allocation.id,
            CAT,
            Side.A,
            NOW_US,
            needs_pin=True,
            virtual_numbers=(office.vn, office.other_vn),
        )
    ]
    await office.enter(standing, Side.A, CAT)
    assert len(await office.members(standing)) == 1


@pytest.mark.parametrize("who", ["listed on the same side", "listed on the other", "a member of the other"])
async def test_nobody_joins_twice_or_on_both_sides(office: Office, who: str) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    await office.enter(standing, Side.B, CAT)
    caller = {"listed on the same side": ANN, "listed on the other": BEN}.get(who, CAT)
    recorded = await office.enter(standing, Side.A, caller)
    assert recorded.position is None
    assert [(member.number, member.side) for member in await office.members(standing)] == [(CAT, Side.B)]


async def test_one_who_enters_both_pins_at_once_joins_one_side(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    await asyncio.gather(office.enter(standing, Side.A, CAT), office.enter(standing, Side.B, CAT))
    assert len(await office.members(standing)) == 1
    assert len([route for route in await office.routes() if route[1] == CAT]) == 1


async def test_a_join_that_would_break_a_rule_is_not_stored(office: Office) -> None:
    # DAN has a route without PIN on one of the VNs.
    await office.made([DAN], [CAT], a_vns=[office.other_vn], b_vns=[office.other_vn])
    standing = await office.made([ANN], [BEN], a_pin="1", a_vns=[office.vn, office.other_vn])
    before = (await office.routes(), await office.lines(), await office.told())
    recorded = await office.enter(standing, Side.A, DAN)
    assert recorded.position is None
    assert recorded.progress.admission == Admission(standing.allocation.id, Side.A)
    assert await office.members(standing) == []
    assert (await office.routes(), await office.lines(), await office.told()) == before
    # He is told of all the same: it was a right PIN.
    assert len(await office.events("verified")) == 1


async def test_a_released_or_ended_allocation_takes_nobody_in(office: Office) -> None:
    released = await office.made([ANN], [BEN], a_pin="1")
    await office.release(released)
    over = await office.made([ANN], [BEN], a_pin="1", expires_at_us=LATER_US)
    for standing in (released, over):
        recorded = await office.enter(standing, Side.A, CAT, now_us=LATER_US)
        assert recorded.position is None
        assert await office.members(standing) == []


async def test_a_pin_that_was_changed_meanwhile_makes_no_member(office: Office) -> None:
    """Whoever knew the old PIN got through; who is remembered must know the new one."""
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    await office.update(
        standing, standing.allocation._replace(a=standing.allocation.a._replace(pins=(Pin("3"),)))
    )
    recorded = await office.enter(standing, Side.A, CAT)
    assert recorded.progress.admission is not None
    assert await office.members(standing) == []


@pytest.mark.parametrize("side", Side)
async def test_a_changed_pin_ends_that_sides_memberships(office: Office, side: Side) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    await office.enter(standing, Side.A, CAT)
    await office.enter(standing, Side.B, DAN)
    told = len(await office.told())
    allocation = standing.allocation
    becomes = (
        allocation._replace(a=allocation.a._replace(pins=(Pin("3"),)))
        if side is Side.A
        else allocation._replace(b=allocation.b._replace(pins=(Pin("3"),)))
    )
    await office.update(standing, becomes)
    gone = CAT if side is Side.A else DAN
    assert [member.number for member in await office.members(standing)] == [DAN if side is Side.A else CAT]
    assert await office.told_since(told) == [
        AllocationStands(office.tenant.tenant_no, 2, becomes),
        MemberLeft(office.tenant.tenant_no, allocation.id, gone),
    ]
    assert gone not in {number for _, number, _ in await office.lines()}


async def test_a_changed_common_pin_ends_all_memberships(office: Office) -> None:
    standing = await office.made([ANN], [BEN], common_pin="1")
    await office.enter(standing, Side.A, CAT)
    await office.enter(standing, Side.B, DAN)
    becomes = standing.allocation._replace(
        a=standing.allocation.a._replace(pins=(Pin("2"),)), b=standing.allocation.b._replace(pins=(Pin("2"),))
    )
    await office.update(standing, becomes)
    assert await office.members(standing) == []


@pytest.mark.parametrize("side", Side)
async def test_listing_a_member_ends_its_membership(office: Office, side: Side) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    await office.enter(standing, Side.A, CAT)
    allocation = standing.allocation
    becomes = (
        allocation._replace(a=allocation.a._replace(numbers=(ANN, CAT)))
        if side is Side.A
        else allocation._replace(b=allocation.b._replace(numbers=(BEN, CAT)))
    )
    await office.update(standing, becomes)
    assert await office.members(standing) == []
    assert (await office.found(standing)).allocation == becomes
    assert (office.vn, CAT, allocation.id, True) in await office.routes()
    # Off the list again, it is nobody.
    standing = await office.found(standing)
    await office.update(standing, allocation)
    assert CAT not in {number for _, number, _ in await office.lines()}
    assert await office.members(standing) == []


async def test_members_follow_their_side_to_new_vns_as_far_as_they_may(office: Office) -> None:
    first, second, third = office.virtual_numbers
    # DAN may not follow to the third VN, where he has a route without PIN.
    await office.made([DAN], [BEN], a_vns=[third], b_vns=[third])
    standing = await office.made([ANN], [BEN], a_pin="1")
    await office.enter(standing, Side.A, CAT)
    await office.enter(standing, Side.A, DAN, now_us=NOW_US + 1)

    def on(*virtual_numbers: Any) -> Any:
        return standing.allocation._replace(a=standing.allocation.a._replace(virtual_numbers=virtual_numbers))

    standing = await office.update(standing, on(second, third))
    rows = {(vn, number) for vn, number, id, _ in await office.routes() if id == standing.allocation.id}
    assert {row for row in rows if row[1] in (CAT, DAN)} == {(second, CAT), (third, CAT), (second, DAN)}
    told = len(await office.told())
    standing = await office.update(standing, on(third))
    assert [member.number for member in await office.members(standing)] == [CAT]
    assert await office.told_since(told) == [
        AllocationStands(office.tenant.tenant_no, 3, standing.allocation),
        MemberStands(
            office.tenant.tenant_no,
            standing.allocation.id,
            CAT,
            Side.A,
            NOW_US,
            needs_pin=True,
            virtual_numbers=(third,),
        ),
        MemberLeft(office.tenant.tenant_no, standing.allocation.id, DAN),
    ]
    # An allocation without PIN still has its line for itself.
    assert (third, DAN, False) in await office.lines()
    assert first not in {vn for vn, number, _ in await office.lines() if number in (CAT, DAN)}


async def test_a_join_and_an_update_of_one_allocation_take_turns(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    pin = Pin("1")
    call = CallKey(office.tenant.id, "sid", office.vn, CAT)
    right = RightPin(digest_of("1"), Admission(standing.allocation.id, Side.A), is_stranger=True)
    new = office.outcome(call, right, pin.digits, NOW_US)

    async def list_cat(connection: Connection) -> None:
        was = await allocations.lock_for_update(
            connection, office.cell, office.tenant.id, name_of(standing), NOW_US
        )
        allocation = was.standing.allocation
        becomes = allocation._replace(b=allocation.b._replace(numbers=(BEN, CAT)))
        revised = Standing(
            tenant_id=was.standing.tenant_id,
            client_id=was.standing.client_id,
            allocation=becomes,
            state=State.ACTIVE,
            version=2,
            cool_off_s=0,
            created_at_us=NOW_US,
        )
        await allocations.update(connection, office.cell, was, revised, NOW_US)

    await race(
        office.database, list_cat, lambda connection: outcomes.record(connection, office.cell, [new], NOW_US)
    )
    assert await office.members(standing) == []


# ── answers kept ─────────────────────────────────────────────────────────────

DAY_US = 24 * 3_600 * SECOND_US


def key(name: str = "key", answer: bytes = b"answer") -> Idempotency:
    return Idempotency(name, bytes(32), answer)


async def kept(office: Office, now_us: int, name: str = "key") -> tuple[bytes, bytes] | None:
    kept = await office.database.read(
        lambda connection: allocations.kept_answer(connection, office.cell, office.tenant.id, name, now_us)
    )
    return None if kept is None else (kept.body_digest, kept.answer)


async def test_a_repeated_request_makes_nothing_and_its_answer_is_there_for_a_day(office: Office) -> None:
    first, second = (office.standing([ANN], a_pin=pin, b_pin=f"9{pin}") for pin in ("1", "2"))
    [made] = await office.make(first, keys=[key()])
    assert isinstance(made, Made)
    just_before = NOW_US + DAY_US
    assert await office.make(second, keys=[key(answer=b"other")], now_us=just_before) == [AnsweredBefore()]
    assert await kept(office, just_before) == (bytes(32), b"answer")
    assert set(await office.pins()) == {(office.vn, "1"), (office.vn, "91")}

    assert await kept(office, just_before + 1) is None
    [made] = await office.make(second, keys=[key(answer=b"other")], now_us=just_before + 1)
    assert isinstance(made, Made)
    assert await kept(office, just_before + 1) == (bytes(32), b"other")


async def test_one_key_at_the_same_moment_makes_one_allocation(office: Office) -> None:
    standings = [office.standing([ANN], a_pin=pin, b_pin=f"9{pin}") for pin in ("1", "2")]
    [result] = await race(
        office.database,
        lambda connection: office.make_in(connection, standings[0], keys=[key()]),
        lambda connection: office.make_in(connection, standings[1], keys=[key()]),
    )
    assert result == AnsweredBefore()
    results = await office.make(
        *(office.standing([ANN], a_pin=pin, b_pin=f"9{pin}") for pin in ("3", "4")),
        keys=[key("two"), key("two")],
    )
    assert Counter(map(type, results)) == {Made: 1, AnsweredBefore: 1}


async def test_a_request_that_lost_leaves_no_answer(office: Office) -> None:
    await office.made([ANN], [BEN], a_pin="1")
    assert await office.make(office.standing([CAT], [DAN], a_pin="1"), keys=[key()]) == [
        PinTaken(office.vn, Pin("1"))
    ]
    assert await kept(office, NOW_US) is None


async def test_old_answers_are_cleared_away(office: Office) -> None:
    await office.make(office.standing([ANN], [BEN]), keys=[key()])
    await office.database.write(
        lambda connection: allocations.clear_cell(connection, office.cell, NOW_US + DAY_US)
    )
    assert await kept(office, NOW_US) is not None
    cells = await office.database.read(
        lambda connection: allocations.cells_to_clear(connection, NOW_US + DAY_US + 1)
    )
    assert office.cell in cells
    await office.database.write(
        lambda connection: allocations.clear_cell(connection, office.cell, NOW_US + DAY_US + 1)
    )
    assert await kept(office, NOW_US) is None


def moved_to(standing: Standing, virtual_number: E164) -> Allocation:
    """The standing's allocation, both sides on that VN."""
    a, b = (standing.allocation.party(side)._replace(virtual_numbers=(virtual_number,)) for side in Side)
    return standing.allocation._replace(a=a, b=b)


def greenvn(standing: Standing) -> Standing:
    """The same as a GreenVN, whose listed callers enter no PIN."""
    a, b = (standing.allocation.party(side)._replace(listed_need_pin=False) for side in Side)
    return replace(standing, allocation=standing.allocation._replace(product=Product.GREENVN, a=a, b=b))


def ended(standing: Standing, at_us: int) -> Standing:
    return replace(standing, allocation=standing.allocation._replace(expires_at_us=at_us))
