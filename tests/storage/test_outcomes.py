"""Outcomes: one for each entry of a call, the first one stands, and who is told of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cordboard.clock import SECOND_US
from cordboard.routing.allocate import Standing
from cordboard.routing.changes import AllocationStands, PinFailed
from cordboard.routing.model import Admission, LastEntry, Product, Progress, Side
from cordboard.routing.numbers import E164
from cordboard.routing.progress import digest_of
from cordboard.storage import outcomes
from cordboard.storage.allocations import Made
from cordboard.storage.outcomes import CallKey
from tests.storage.office import ANN, BEN, CAT, DAN, NOW_US, Office, alone, race


async def failures(office: Office) -> int:
    return len(await office.fetch("SELECT 1 FROM verification WHERE cell = $1 AND outcome = 'failure'"))


async def test_failures_of_a_call_are_counted_by_the_record(office: Office) -> None:
    recorded = [(await office.record(office.wrong("sid", digits)))[0] for digits in ("1", "2", "3")]
    assert [one.progress.failures for one in recorded] == [1, 2, 3]
    assert recorded[-1].progress == Progress(
        failures=3, last_entry=LastEntry.WRONG, tried=frozenset(map(digest_of, ("1", "2", "3")))
    )
    assert recorded[-1].position is None


async def test_a_repeated_entry_counts_and_is_told_once(office: Office) -> None:
    for _ in range(3):
        [recorded] = await office.record(office.wrong("sid", "1"))
        assert recorded.progress.failures == 1
    assert len(await office.events("verification_failed")) == 1


async def test_the_same_entry_twice_in_one_batch_is_one(office: Office) -> None:
    wrong = office.wrong("sid", "1")
    first, second, other = await office.record(wrong, wrong, office.wrong("sid", "2"))
    assert first == second == other
    assert first.progress.failures == 2
    assert len(await office.events("verification_failed")) == 2


async def test_of_two_outcomes_of_one_entry_in_one_batch_the_first_stands(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    wrong, right = office.wrong("sid", "1", CAT), office.right("sid", standing, Side.A, CAT)
    recorded, again = await office.record(wrong, right)
    assert recorded == again
    assert recorded.progress.admission is None
    assert (await office.events("verified"), await office.members(standing)) == ([], [])

    recorded, _ = await office.record(
        replace(right, call=right.call._replace(call_sid="other")),
        replace(wrong, call=wrong.call._replace(call_sid="other")),
    )
    assert recorded.progress.admission == Admission(standing.allocation.id, Side.A)
    assert len(await office.events("verification_failed")) == 1


async def test_the_first_outcome_stands_even_if_the_pin_changes_meanwhile(office: Office) -> None:
    await office.record(office.wrong("sid", "1", CAT))
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    [recorded] = await office.record(office.right("sid", standing, Side.A, CAT))
    assert recorded.progress.failures == 1
    assert recorded.progress.admission is None
    assert await office.members(standing) == []
    assert await office.events("verified") == []


async def test_two_nodes_that_record_one_entry_at_the_same_moment_agree(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    wrong, right = office.wrong("sid", "1", CAT), office.right("sid", standing, Side.A, CAT)
    [recorded] = await race(
        office.database,
        lambda connection: outcomes.record(connection, office.cell, [right], NOW_US),
        lambda connection: outcomes.record(connection, office.cell, [wrong], NOW_US),
    )
    assert recorded.progress.admission == Admission(standing.allocation.id, Side.A)
    assert recorded.progress.failures == 0
    assert await office.events("verification_failed") == []


async def test_many_at_once_count_each_entry_once(office: Office) -> None:
    entries = [str(digits) for digits in range(5)] * 4
    await asyncio.gather(*(office.record(office.wrong("sid", digits)) for digits in entries))
    assert await failures(office) == 5
    assert len(await office.events("verification_failed")) == 5


async def test_a_call_sid_with_another_caller_or_vn_is_another_call(office: Office) -> None:
    for call in (
        CallKey(office.tenant.id, "sid", office.vn, ANN),
        CallKey(office.tenant.id, "sid", office.vn, BEN),
        CallKey(office.tenant.id, "sid", office.vn, None),
        CallKey(office.tenant.id, "sid", office.other_vn, ANN),
    ):
        [recorded] = await office.record(replace(office.wrong("sid", "1"), call=call))
        assert recorded.progress.failures == 1


async def test_progress_is_what_the_records_say(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    await office.record(
        office.wrong("sid", "9", at_us=NOW_US - SECOND_US), office.right("sid", standing, Side.B)
    )
    known = CallKey(office.tenant.id, "sid", office.vn, ANN)
    unknown = CallKey(office.tenant.id, "nobody", office.vn, None)
    found = await office.database.read(
        lambda connection: outcomes.progress_of(connection, office.cell, [known, unknown, known])
    )
    assert found == {
        known: Progress(
            failures=1,
            last_entry=LastEntry.WRONG,
            tried=frozenset((digest_of("9"), digest_of("2"))),
            admission=Admission(standing.allocation.id, Side.B),
        ),
        unknown: Progress(),
    }


# ── who is told ──────────────────────────────────────────────────────────────


async def test_a_stranger_is_told_of_once_for_each_allocation(office: Office) -> None:
    first = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    second = await office.made([ANN], [BEN], a_pin="3", b_pin="4")
    for standing in (first, second, first):
        await office.enter(standing, Side.A, CAT)
    await office.enter(first, Side.A, DAN)
    told = [(event["transaction_id"], event["caller"]) for event in await office.events("verified")]
    assert sorted(told) == sorted([(first.client_id, CAT), (second.client_id, CAT), (first.client_id, DAN)])


async def test_one_stranger_in_two_calls_at_once_is_told_of_once(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    await office.record(*(office.right(sid, standing, Side.A, CAT) for sid in ("one", "two")))
    await asyncio.gather(*(office.enter(standing, Side.A, DAN) for _ in range(4)))
    told = [event["caller"] for event in await office.events("verified")]
    assert sorted(told) == [CAT, DAN]
    assert {member.number for member in await office.members(standing)} == {CAT, DAN}


async def test_a_withheld_caller_is_told_of_each_call_and_joins_nothing(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    for call_sid in ("one", "two", "two"):
        recorded = await office.enter(standing, Side.A, None, call_sid=call_sid)
        assert recorded.position is None
        assert recorded.progress.admission == Admission(standing.allocation.id, Side.A)
    assert [(event["caller"], event["call_sid"]) for event in await office.events("verified")] == [
        (None, "one"),
        (None, "two"),
    ]
    assert await office.members(standing) == []


async def test_a_listed_callers_success_is_a_record_and_no_event(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    [recorded] = await office.record(office.right("sid", standing, Side.A, is_stranger=False))
    assert recorded.progress.admission == Admission(standing.allocation.id, Side.A)
    assert recorded.position is None
    assert (await office.events("verified"), await office.members(standing)) == ([], [])


async def test_a_failure_of_a_listed_caller_is_told_too(office: Office) -> None:
    await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    await office.record(office.wrong("sid", "9", ANN), office.wrong("sid", "1234567890", None))
    told = {(event["caller"], event["pin"]) for event in await office.events("verification_failed")}
    assert told == {(ANN, "9"), (None, "1234567890")}


# ── in whose form a failure is told ──────────────────────────────────────────

VN, PIN = Product.GREENVN, Product.GREENPIN


async def product_on(office: Office, line: E164, now_us: int = NOW_US) -> Product:
    return (
        await office.database.read(
            lambda connection: outcomes.products_of_lines(connection, office.cell, {line}, now_us)
        )
    )[line]


@pytest.mark.parametrize(
    ("carried", "told"), [((), PIN), ((VN,), VN), ((VN, VN), VN), ((PIN,), PIN), ((VN, PIN), PIN)]
)
async def test_a_failure_is_told_as_greenvn_only_where_the_vn_carries_nothing_else(
    office: Office, carried: tuple[Product, ...], told: Product
) -> None:
    for place, product in enumerate(carried):
        people = [E164(919800000041 + place)], [E164(919800000051 + place)]
        await office.made(*people, a_needs_pin=False, b_needs_pin=False, product=product)
    await office.record(office.wrong("sid", "9", CAT), office.wrong("other", "8", None))
    rows = await office.fetch("SELECT product FROM event WHERE cell = $1 AND kind = 'verification_failed'")
    assert [row["product"] for row in rows] == [told.value, told.value]


async def test_failures_of_one_batch_are_each_told_by_their_own_vn(office: Office) -> None:
    await office.made([ANN], [BEN], product=VN)
    await office.made([ANN], [BEN], a_vns=[office.other_vn], b_vns=[office.other_vn], product=PIN)
    wrong = office.wrong("one", "9", CAT)
    await office.record(wrong, replace(wrong, call=CallKey(office.tenant.id, "two", office.other_vn, CAT)))
    rows = await office.fetch("SELECT subject, product FROM event WHERE cell = $1")
    assert {row["subject"]: row["product"] for row in rows} == {"one": "greenvn", "two": "greenpin"}


async def test_a_pin_alone_makes_a_vn_carry_its_allocation(office: Office) -> None:
    await office.made([ANN], [BEN], product=VN)
    # Nobody is listed on this side, so no route leads to it.
    await office.made([CAT], [], b_pin="7", a_vns=[office.other_vn], b_vns=[office.vn], product=PIN)
    assert await product_on(office, office.vn) is PIN


async def test_what_has_ended_or_was_released_is_not_carried(office: Office) -> None:
    await office.made([ANN], [BEN], product=VN)
    ending = await office.made([CAT], [DAN], a_pin="7", expires_at_us=NOW_US + 1, cool_off_s=60)
    assert await product_on(office, office.vn) is PIN
    # From that instant, and not from when somebody sweeps.
    assert await product_on(office, office.vn, NOW_US + 1) is VN
    await office.release(ending)
    assert await product_on(office, office.vn) is VN


# ── allocations that lock themselves ─────────────────────────────────────────


async def one_alone(office: Office) -> Standing:
    standing = alone(office.standing([ANN], [BEN], a_pin="1", b_pin="2"))
    [result] = await office.make(standing)
    assert isinstance(result, Made)
    return standing


async def locks_told(office: Office, since: int) -> list[tuple[int, bool]]:
    """(version, is it locked) of each allocation that the feed tells."""
    changes = [change for change in await office.told_since(since) if not isinstance(change, PinFailed)]
    assert all(isinstance(change, AllocationStands) for change in changes)
    return [
        (change.version, change.allocation.is_locked)
        for change in changes
        if isinstance(change, AllocationStands)
    ]


async def test_wrong_pins_of_its_own_people_lock_it(office: Office) -> None:
    standing = await one_alone(office)
    told = len(await office.told())
    entered = ("7", "8", "8", "9")
    recorded = [(await office.record(office.wrong("sid", digits, against=standing)))[0] for digits in entered]
    found = await office.found(standing)
    assert (found.pin_failures, found.allocation.is_locked) == (3, True)
    # The second "8" is the same entry.
    assert [one.position is not None for one in recorded] == [True, True, False, True]
    assert await locks_told(office, told) == [(2, False), (3, False), (4, True)]
    # Decided where the lock was not known yet: only an update takes it away.
    await office.record(office.right("other", standing, Side.A, is_stranger=False, resets_lock=True))
    assert (await office.found(standing)).allocation.is_locked
    assert await locks_told(office, told) == [(2, False), (3, False), (4, True)]


async def test_a_right_pin_before_the_lock_begins_the_count_anew(office: Office) -> None:
    standing = await one_alone(office)
    for digits in ("7", "8"):
        await office.record(office.wrong("sid", digits, against=standing))
    told = len(await office.told())
    right = office.right("other", standing, Side.A, is_stranger=False, resets_lock=True)
    for _ in range(2):
        await office.record(right)
    found = await office.found(standing)
    assert (found.pin_failures, found.allocation) == (0, standing.allocation)
    # There was nothing to reset the second time.
    assert await locks_told(office, told) == [(4, False)]


async def test_what_one_batch_counts_is_told_once(office: Office) -> None:
    standing = await one_alone(office)
    told = len(await office.told())
    await office.record(*(office.wrong("sid", digits, against=standing) for digits in ("7", "8", "9", "7")))
    assert (await office.found(standing)).pin_failures == 3
    assert await locks_told(office, told) == [(2, True)]


@pytest.mark.parametrize(
    ("before", "batch", "failures", "is_locked"),
    [
        # `r` is a right PIN, each `w` a wrong one; the third in a row locks.
        (0, "rw", 1, False),
        (2, "rw", 1, False),
        (2, "rww", 2, False),
        (2, "rwww", 3, True),
        (1, "wr", 0, False),
        (1, "wrwrw", 1, False),
        (0, "rwrrww", 2, False),
        (2, "r", 0, False),
        (0, "wr", 0, False),
        # What has locked it is not taken back by a right PIN that came after.
        (1, "wwr", 3, True),
        (2, "wrw", 4, True),
        (3, "rw", 4, True),
    ],
)
async def test_the_entries_of_one_batch_count_in_their_order(
    office: Office, before: int, batch: str, failures: int, is_locked: bool
) -> None:
    standing = await one_alone(office)
    for n in range(before):
        await office.record(office.wrong(f"before {n}", "9", against=standing))
    told = len(await office.told())
    await office.record(
        *(
            office.right(f"sid-{n}", standing, Side.A, is_stranger=False, resets_lock=True)
            if entry == "r"
            else office.wrong(f"sid-{n}", "9", against=standing)
            for n, entry in enumerate(batch)
        )
    )
    found = await office.found(standing)
    assert (found.pin_failures, found.allocation.is_locked) == (failures, is_locked)
    version = 1 + before + (failures != before)
    assert found.version == version
    assert await locks_told(office, told) == [(version, is_locked)] * (failures != before)


async def test_of_two_allocations_in_one_batch_each_counts_its_own(office: Office) -> None:
    here = await one_alone(office)
    there = alone(office.standing([CAT], [DAN], b_pin="1", a_vns=[office.other_vn], b_vns=[office.other_vn]))
    await office.make(there)
    for standing in (here, there):
        await office.record(office.wrong(f"one {standing.allocation.id.hex()}", "9", against=standing))
    told = len(await office.told())
    await office.record(
        office.wrong("two", "9", against=there),
        office.right("three", here, Side.A, is_stranger=False, resets_lock=True),
        office.wrong("four", "9", against=there),
        office.wrong("five", "9", against=here),
        office.wrong("six", "8", against=here),
    )
    assert [(await office.found(one)).pin_failures for one in (here, there)] == [2, 3]
    assert sorted(await locks_told(office, told)) == [(3, False), (3, True)]


async def test_a_stranger_who_joins_in_the_batch_that_counts_is_told_with_the_lock(office: Office) -> None:
    standing = await one_alone(office)
    await office.record(
        office.wrong("one", "9", against=standing),
        office.right("two", standing, Side.A, CAT),
        office.wrong("three", "9", against=standing),
    )
    found = await office.found(standing)
    # A stranger's success resets nothing unless it says so.
    assert found.pin_failures == 2
    assert [member.number for member in await office.members(standing)] == [CAT]
    last = [change for change in await office.told() if not isinstance(change, PinFailed)][-1]
    assert isinstance(last, AllocationStands)
    assert last.version == found.version


async def test_wrong_pins_in_many_calls_at_once_are_all_counted(office: Office) -> None:
    standing = await one_alone(office)
    told = len(await office.told())
    wrong = [office.wrong(f"sid-{n}", "9", against=standing) for n in range(8)]
    await asyncio.gather(*map(office.record, wrong))
    assert (await office.found(standing)).pin_failures == 8
    assert await locks_told(office, told) == [(2 + n, n >= 2) for n in range(8)]


async def test_what_is_nobodys_failure_or_of_no_lock_counts_nothing(office: Office) -> None:
    standing = await one_alone(office)
    shared = await office.made([CAT], [DAN], a_pin="1", a_vns=[office.other_vn], b_vns=[office.other_vn])
    third = office.virtual_numbers[2:]
    released = alone(office.standing([CAT], [DAN], b_pin="1", a_vns=third, b_vns=third))
    await office.make(released)
    await office.release(released)
    told = len(await office.told())
    for call_sid, against in (("one", None), ("two", shared), ("three", released)):
        [recorded] = await office.record(office.wrong(call_sid, "9", against=against))
        assert recorded.position is None
    # A right PIN of somebody whose failures do not count is not of the lock either.
    await office.record(office.right("four", standing, Side.A, is_stranger=False))
    assert await locks_told(office, told) == []
    assert [(await office.found(one)).pin_failures for one in (standing, shared, released)] == [0, 0, 0]


# ── for the sliding windows ──────────────────────────────────────────────────


async def test_recent_failures_are_read_back_oldest_first(office: Office) -> None:
    def at(seconds: int) -> int:
        return NOW_US + seconds * SECOND_US

    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    await office.record(
        office.wrong("sid", "7", ANN, at(3)),
        office.wrong("sid", "8", None, at(2)),
        office.wrong("sid", "9", ANN, at(1)),
        office.wrong("sid", "6", ANN, at(0)),
        office.right("sid", standing, Side.A, at_us=at(2)),
    )
    found = await office.database.read(lambda connection: outcomes.recent_failures(connection, at(0)))

    def failure(caller: E164 | None, digits: str, seconds: int) -> PinFailed:
        name = outcomes.entry_name(CallKey(office.tenant.id, "sid", office.vn, caller), digest_of(digits))
        return PinFailed(office.tenant.id, office.vn, caller, name, at(seconds))

    ours = [row for row in found if row.tenant_id == office.tenant.id]
    assert ours == [failure(ANN, "9", 1), failure(None, "8", 2), failure(ANN, "7", 3)]


async def test_each_failure_is_told_to_all_nodes_once_and_nothing_else_is(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    length = len(await office.told())
    wrong = office.wrong("sid", "7", CAT)
    await office.record(wrong, wrong, office.right("sid", standing, Side.A, is_stranger=False))
    # Also when the platform says it again, to another node.
    await office.record(wrong)
    name = outcomes.entry_name(wrong.call, digest_of("7"))
    assert await office.told_since(length) == [PinFailed(office.tenant.id, office.vn, CAT, name, NOW_US)]


def test_entries_of_two_callers_have_two_names_though_they_end_alike() -> None:
    caller = E164(919800000021)
    calls = [CallKey("acme1m", "sid", E164(918000000010), number) for number in (caller, E164(caller + 100))]
    calls.append(calls[0]._replace(virtual_number=E164(918000000110)))
    assert len({outcomes.entry_name(call, digest_of("1")) for call in calls}) == len(calls)
