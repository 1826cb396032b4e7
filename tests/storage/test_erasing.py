"""One person erased: nowhere a trace of them, and nobody else the worse for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import pytest_asyncio

from cordboard.routing.changes import AllocationReleased, AllocationStands, MemberLeft, TenantStands
from cordboard.routing.model import Product, Side, State, ThrottleScope
from cordboard.routing.numbers import E164
from cordboard.storage import erasing, events, feed, throttles
from cordboard.storage.allocations import Idempotency
from cordboard.storage.database import Connection, Database, Result
from cordboard.storage.erasing import Erased, Erasure
from cordboard.storage.events import AttemptError, Claim, EventState, Outcome
from cordboard.storage.provisioning import NoSuchTenant
from cordboard.storage.sealing import NO_KEYS, DataKeys, bound_to_answer
from tests.conftest import NewDatabase
from tests.storage.lives import (
    DAY_US,
    HOUR_US,
    Life,
    deliver,
    facts_kept,
    new_person,
    new_pin,
    some_lives,
)
from tests.storage.office import NOW_US, Office, opened_office
from tests.storage.traces import traces

# Whatever is sealed in the database that these tests share is sealed with it.
KEYS = DataKeys([bytes(range(32))])
LATER_US = NOW_US + HOUR_US


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def office_database(new_database: NewDatabase) -> Database:
    """Not the one of the other tests: here feeds are trimmed, and there are many offices."""
    return await new_database()


async def erase(
    office: Office, number: E164, keys: DataKeys = KEYS, *, is_dry_run: bool = False
) -> dict[Erasure, int]:
    erased = await erasing.erase(
        office.database, number, office.tenant.id, keys, LATER_US, is_dry_run=is_dry_run
    )
    return {what: count for what, count in erased.counts.items() if count}


async def forget_the_feed(office: Office) -> None:
    """An hour later it has no more than the last change of the cell."""
    await office.database.write(partial(feed.trim, older_than_us=LATER_US + 2 * HOUR_US))


@pytest.mark.parametrize("keys", [NO_KEYS, KEYS], ids=["masked", "sealed"])
@pytest.mark.parametrize("who", ["ann", "ben", "cat"])
@pytest.mark.parametrize("told", ["pending", "delivered", "dead"])
@pytest.mark.parametrize("is_live", [True, False], ids=["live", "vaulted"])
async def test_afterwards_no_table_tells_of_the_person(
    office: Office, keys: DataKeys, who: str, told: str, is_live: bool
) -> None:
    life, other = Life(office, NOW_US), Life(office, NOW_US)
    await life.live()
    await other.live()
    if who == "cat":
        await life.move()
    if not is_live:
        await life.end(NOW_US + 20)
    if told != "pending":
        await deliver(office, NOW_US + 30, keys, dead=told == "dead")
    person: E164 = getattr(life, who)
    assert len(await traces(office.database, office.cell, person)) >= 3

    counted = await erase(office, person, is_dry_run=True)
    assert await traces(office.database, office.cell, person)
    done = await erase(office, person)
    assert done == counted
    assert await erase(office, person) == {}
    assert (done.get(Erasure.PENDING_EVENTS, 0) > 0) == (told == "pending")
    await deliver(office, LATER_US, keys)
    await forget_the_feed(office)
    assert await traces(office.database, office.cell, person) == set()
    assert await erase(office, person) == {}
    if keys is NO_KEYS:
        for somebody in {*life.people, *other.people} - {person}:
            assert await traces(office.database, office.cell, somebody)
    assert (await office.found(other.standing)) == other.standing
    assert [member.number for member in await office.members(other.standing)] == [other.cat]


async def test_a_member_leaves_and_the_others_stay(office: Office) -> None:
    life, dan = Life(office, NOW_US), new_person()
    await life.live()
    await office.enter(life.standing, Side.B, dan, now_us=NOW_US + 3)
    length = len(await office.told())
    assert (await erase(office, life.cat))[Erasure.MEMBERSHIPS] == 1
    left, tenant = await office.told_since(length)
    assert left == MemberLeft(office.tenant.tenant_no, life.standing.allocation.id, life.cat)
    assert isinstance(tenant, TenantStands), "the newest change names nobody"
    assert [member.number for member in await office.members(life.standing)] == [dan]
    assert {number for _, number, _, _ in await office.routes()} == {life.ann, life.ben, dan}
    assert {number for _, number, _ in await office.lines()} == {life.ann, life.ben, dan}
    assert await office.found(life.standing) == life.standing
    # Whoever has the PIN may join again, and is somebody new.
    await office.enter(life.standing, Side.B, life.cat, now_us=LATER_US)
    assert {member.number for member in await office.members(life.standing)} == {dan, life.cat}


async def test_a_listed_number_leaves_its_list_and_the_pin_stays(office: Office) -> None:
    dan = new_person()
    ann, ben = new_person(), new_person()
    standing = await office.made([ann, dan], [ben], b_pin="4821", a_needs_pin=False, b_needs_pin=True)
    length = len(await office.told())
    assert await erase(office, ann) == {Erasure.UPDATED: 1}
    after = (await office.found(standing)).allocation
    assert (after.a.numbers, after.b.numbers) == ((dan,), (ben,))
    stands = (await office.told_since(length))[0]
    assert isinstance(stands, AllocationStands)
    assert stands.allocation == after
    # The last one of a side that has a PIN leaves it to whoever knows that.
    assert await erase(office, ben) == {Erasure.UPDATED: 1}
    assert (await office.found(standing)).allocation.b.numbers == ()
    assert set(await office.pins()) == {(office.vn, "4821")}
    # Nobody is left of a side without: then it is over, and that is told.
    assert await erase(office, dan) == {Erasure.RELEASED: 1, Erasure.PENDING_EVENTS: 1}
    assert (await office.found(standing)).state is State.VAULT
    [*_, released, _] = await office.told()
    assert isinstance(released, AllocationReleased)
    [event] = await office.events("deallocated")
    assert event["a"]["numbers"] == [dan]
    await deliver(office, LATER_US, KEYS)
    [event] = await office.events("deallocated")
    assert event["a"]["numbers"] == [str(dan)], "masked, although there is a key"


async def test_what_cools_for_the_person_is_forgotten(office: Office) -> None:
    life = Life(office, NOW_US, product=Product.GREENVN)
    await life.live()
    await life.move()
    assert (await erase(office, life.ann))[Erasure.COOLING] >= 1
    rows = await office.fetch("SELECT number FROM number_cooling WHERE cell = $1")
    assert life.ann not in {row["number"] for row in rows}
    assert rows, "the others' goes on"


async def test_a_throttle_that_was_lifted_for_the_person_is_forgotten(office: Office) -> None:
    ann, ben = new_person(), new_person()
    for scope, number in (
        (ThrottleScope.CALLER, ben),
        (ThrottleScope.VN, office.vn),
        # Last, so that the newest change of the cell names whom nothing else does.
        (ThrottleScope.CALLER, ann),
    ):
        await throttles.lift(office.database, office.tenant.id, scope, number, NOW_US)
    assert await erase(office, ann, is_dry_run=True) == {Erasure.LIFTED: 1}
    await forget_the_feed(office)
    assert await traces(office.database, office.cell, ann) == {
        ("throttle_cleared", "number"),
        ("feed", "body"),
    }
    assert await erase(office, ann) == {Erasure.LIFTED: 1}
    await forget_the_feed(office)
    assert await traces(office.database, office.cell, ann) == set()
    assert await erase(office, ann) == {}
    rows = await office.fetch("SELECT scope, number FROM throttle_cleared WHERE cell = $1 ORDER BY scope")
    assert [tuple(row) for row in rows] == [("caller", ben), ("vn", office.vn)], "the others' stay"


async def test_who_only_ever_mistyped_is_forgotten(office: Office) -> None:
    ann = new_person()
    await office.record(office.wrong("call", new_pin(), ann, NOW_US), now_us=NOW_US)
    assert (await erase(office, ann))[Erasure.VERIFICATIONS] == 1
    await deliver(office, LATER_US)
    await forget_the_feed(office)
    assert await traces(office.database, office.cell, ann) == set()


async def test_a_past_end_is_a_release_like_by_the_sweep(office: Office) -> None:
    ann = new_person()
    standing = await office.made([ann], b_pin="4821", expires_at_us=NOW_US + 1)
    assert await erase(office, ann) == {Erasure.VAULTED: 1, Erasure.PENDING_EVENTS: 1}
    found = await office.found(standing)
    assert found.state is State.VAULT
    assert found.allocation.a.numbers == ()


async def test_all_tenants_or_one(office_database: Database) -> None:
    offices = [await opened_office(office_database) for _ in range(3)]
    ann = new_person()
    for office in offices:
        await office.made([ann], a_pin="1")
    first = offices[0]
    assert await erase(first, ann) == {Erasure.UPDATED: 1}
    erased = await erasing.erase(office_database, ann, None, KEYS, LATER_US)
    assert erased.counts[Erasure.UPDATED] == 2
    assert {position.cell for position in erased.positions} == {office.cell for office in offices[1:]}
    assert erased.to_json()["allocations_updated"] == 2
    with pytest.raises(NoSuchTenant):
        await erasing.erase(office_database, ann, "nobody", KEYS, LATER_US)


class Killed(Exception):
    pass


class Mortal(Database):
    """Dies before its nth transaction."""

    def __init__(self, database: Database, writes: int) -> None:
        # One more face of the same database, up or away as it is.
        self.__dict__.update(vars(database))
        self.writes = writes

    async def write(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        self.writes -= 1
        if self.writes < 0:
            raise Killed
        return await super().write(work)


async def test_an_erasure_that_was_killed_is_finished_by_the_next(office: Office) -> None:
    lives = await some_lives(office, 3)
    [first, *others] = lives
    for life in others:
        # One person who is everywhere.
        await office.enter(life.standing, Side.B, first.cat, now_us=NOW_US + 5)
        await life.call(first.cat, life.ann, Side.B)
    await others[0].end(NOW_US + 20)
    await deliver(office, NOW_US + 30, dead=True)
    expected = await erase(office, first.cat, is_dry_run=True)
    total: dict[Erasure, int] = {}
    for writes in range(1, 40):
        mortal = Mortal(office.database, writes)
        try:
            erased = await erasing.erase(mortal, first.cat, office.tenant.id, KEYS, LATER_US)
        except Killed:
            continue
        total = erased.counts
        break
    assert total, "some run came to its end"
    assert sum(total.values()) < sum(expected.values())
    await forget_the_feed(office)
    assert await traces(office.database, office.cell, first.cat) == set()
    for life in others[1:]:
        assert [member.number for member in await office.members(life.standing)] == [life.cat]


async def test_a_call_dialled_elsewhere_keeps_its_end_without_the_number(office: Office) -> None:
    life, dan = Life(office, NOW_US), new_person()
    await life.live()
    await office.execute("UPDATE call_end SET dialled = $2 WHERE cell = $1", dan)
    assert await erase(office, dan) == {Erasure.ENDS: 2}
    rows = await office.fetch("SELECT dialled, recording_url, call_type FROM call_end WHERE cell = $1")
    assert {tuple(row) for row in rows} == {(None, None, "completed")}


async def test_kept_answers_that_name_the_person_are_dropped_sealed_or_not(office: Office) -> None:
    ann, ben = new_person(), new_person()

    def answer(key: str, keys: DataKeys) -> Idempotency:
        plain = f'{{"numbers": ["{ann.plus}"]}}'.encode()
        if not keys:
            return Idempotency(key, bytes(32), plain)
        sealed = keys.seal(plain, bound_to_answer(office.tenant.id, key))
        return Idempotency(key, bytes(32), sealed.data, sealed.key_id)

    await office.make(office.standing([ben], a_pin="7"), keys=[answer("plain", NO_KEYS)])
    await office.make(office.standing([ben], a_pin="5"), keys=[answer("sealed", KEYS)])
    assert await erase(office, ann) == {Erasure.ANSWERS: 2}
    assert await office.fetch("SELECT key FROM idempotent_answer WHERE cell = $1") == []


async def test_an_event_that_is_being_delivered_is_masked_when_that_is_done(office: Office) -> None:
    life = Life(office, NOW_US)
    await life.live()

    async def claim(connection: Connection) -> list[Claim]:
        lanes = [lane for lane in await events.pending_lanes(connection) if lane.cell == office.cell]
        return list(await events.claim(connection, lanes, NOW_US + 10, DAY_US, 100))

    claims = await office.database.write(claim)
    assert (await erase(office, life.cat))[Erasure.PENDING_EVENTS] >= 1
    outcomes = [
        Outcome(claim=one, state=EventState.DEAD, result="dead", at_us=LATER_US, error=AttemptError.REFUSED)
        for one in claims
    ]
    await office.database.write(
        partial(events.record, cell=office.cell, outcomes=outcomes, now_us=LATER_US, keys=KEYS)
    )
    await deliver(office, LATER_US, KEYS, dead=True)
    kept = await facts_kept(office)
    assert {(state, are) for state, are, _ in kept} == {("dead", "masked"), ("dead", "sealed")}
    await forget_the_feed(office)
    assert await traces(office.database, office.cell, life.cat) == set()


def test_the_answer_names_every_kind() -> None:
    assert set(Erased(dict.fromkeys(Erasure, 0), []).to_json()) == {what.value for what in Erasure}
