"""Outcomes that are put on record at once and told of later: the same comes of both ways, and once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cordboard.clock import SECOND_US
from cordboard.routing.changes import MemberStands, PinFailed
from cordboard.routing.model import Progress, Side
from cordboard.routing.numbers import E164
from cordboard.storage import outcomes, untold
from cordboard.storage.erasing import erase
from cordboard.storage.feed import Written
from cordboard.storage.outcomes import NewOutcome
from cordboard.storage.sealing import NO_KEYS
from tests.storage.office import ANN, BEN, CAT, DAN, NOW_US, Office
from tests.storage.traces import traces


async def put(office: Office, *items: NewOutcome, now_us: int = NOW_US) -> list[Progress]:
    return await office.database.write_in_one_statement(
        lambda connection: untold.put_on_record(connection, office.cell, items, now_us)
    )


async def tell(office: Office, *items: NewOutcome, now_us: int = NOW_US) -> Written | None:
    return await office.database.write(lambda connection: untold.tell(connection, office.cell, items, now_us))


async def events(office: Office) -> list[dict[str, Any]]:
    return [event for kind in ("verified", "verification_failed") for event in await office.events(kind)]


async def left(office: Office, until_us: int = NOW_US) -> list[NewOutcome]:
    found = await office.database.read(lambda connection: untold.left_untold(connection, until_us, 1_000))
    return [item for cell, item in found if (cell, item.call.tenant_id) == (office.cell, office.tenant.id)]


async def test_what_is_put_on_record_is_answered_from_and_followed_by_nothing_yet(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    told = len(await office.told())
    wrong, right = office.wrong("sid", "7", CAT), office.right("sid", standing, Side.A, CAT)
    [progress] = await put(office, wrong)
    assert (progress.failures, progress.admission) == (1, None)
    [progress] = await put(office, right)
    assert (progress.failures, progress.admission) == (1, right.outcome.admission)  # type: ignore[union-attr]
    assert await office.members(standing) == []
    assert await events(office) == []
    assert len(await office.told()) == told


async def test_two_ways_lead_to_the_same_records_members_and_events(office: Office) -> None:
    """In one transaction, or on record first; two allocations alike, and the same people."""
    seen = []
    for vn, is_at_once in ((office.vn, True), (office.other_vn, False)):
        standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2", a_vns=[vn], b_vns=[vn])
        items = [
            office.wrong(f"sid {vn}", "7", CAT),
            office.right(f"sid {vn}", standing, Side.A, CAT),
            office.right(f"sid {vn}", standing, Side.A, CAT),
            office.right(f"other {vn}", standing, Side.A, DAN, at_us=NOW_US + SECOND_US),
            office.right(f"third {vn}", standing, Side.A, CAT, at_us=NOW_US + SECOND_US),
            office.right(f"withheld {vn}", standing, Side.A, None),
            office.right(f"listed {vn}", standing, Side.A, ANN, is_stranger=False),
        ]
        before = len(await office.told())
        if is_at_once:
            progress = [recorded.progress for recorded in await office.record(*items)]
        else:
            progress = await put(office, *items)
            assert await tell(office, *items) is not None
        told = await office.told_since(before)
        came = [event for event in await events(office) if event["call_sid"].endswith(str(vn))]
        members = await office.members(standing)
        seen.append(
            (
                [(one.failures, one.last_entry, one.tried) for one in progress],
                sorted((member.number, member.side, member.joined_at_us) for member in members),
                [type(change) for change in told],
                sorted(str(event.get("caller")) for event in came),
            )
        )
    assert seen[0] == seen[1]
    assert {MemberStands, PinFailed} == set(seen[0][2])


async def test_it_is_told_once_however_many_tell(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    items = [office.wrong("one", "7", CAT), office.right("two", standing, Side.A, CAT)]
    await put(office, *items)
    written = await asyncio.gather(*(tell(office, *items) for _ in range(4)))
    assert sum(one is not None for one in written) == 1
    assert len(await office.events("verification_failed")) == len(await office.events("verified")) == 1
    # Nor when the platform sends the entry again, or the spool brings it once more.
    await put(office, *items)
    await office.record(*items)
    assert await tell(office, *items) is None
    assert len(await events(office)) == 2


async def test_the_first_outcome_of_an_entry_stands(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    wrong, right = office.wrong("sid", "1", CAT), office.right("sid", standing, Side.A, CAT)
    answered = await asyncio.gather(put(office, wrong), put(office, right))
    assert answered[0] == answered[1]
    await tell(office, wrong, right)
    is_admitted = answered[0][0].admission is not None
    assert len(await office.events("verified")) == len(await office.members(standing)) == is_admitted
    assert len(await office.events("verification_failed")) == (not is_admitted)


async def test_a_listed_callers_success_is_a_record_and_nothing_else(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    right = office.right("sid", standing, Side.A, ANN, is_stranger=False)
    await put(office, right)
    assert await tell(office, right) is None
    assert (await left(office), await events(office)) == ([], [])
    assert len(await office.fetch("SELECT 1 FROM verification WHERE cell = $1")) == 1


async def test_what_goes_another_way_finds_the_outcome_that_stands(office: Office) -> None:
    """As the spool does, or who counts for a lock, with an entry that a process has answered and not told."""
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    wrong, right = office.wrong("sid", "1", CAT), office.right("sid", standing, Side.A, CAT)
    await put(office, wrong)
    for _ in range(2):
        [recorded] = await office.database.write(
            lambda connection: untold.record(connection, office.cell, [right], NOW_US)
        )
        assert (recorded.progress.failures, recorded.progress.admission) == (1, None)
    assert await left(office) == []
    assert [len(await office.events(kind)) for kind in ("verified", "verification_failed")] == [0, 1]
    # And the other way round.
    [progress] = await put(office, right)
    assert (progress.failures, progress.admission) == (1, None)
    assert await tell(office, right) is None
    assert await left(office) == []
    assert [len(await office.events(kind)) for kind in ("verified", "verification_failed")] == [0, 1]


async def test_what_is_left_untold_is_found_as_it_was(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    items = [office.right("one", standing, Side.A, CAT), office.wrong("two", "7", None)]
    for n, item in enumerate(items):
        await put(office, item, now_us=NOW_US + n)
    assert await left(office) == items[:1]
    found = await left(office, NOW_US + 1)
    assert found == items
    assert await tell(office, *found) is not None
    assert await left(office, NOW_US + 1) == []
    assert [member.number for member in await office.members(standing)] == [CAT]


async def test_a_person_is_erased_of_whom_only_an_untold_outcome_tells(office: Office) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    await put(office, office.right("one", standing, Side.A, CAT), office.wrong("two", "7", CAT))
    assert ("untold_outcome", "body") in await traces(office.database, office.cell, CAT)
    await erase(office.database, CAT, office.tenant.id, NO_KEYS, NOW_US)
    assert await left(office) == []
    # Events that wait are told first, and masked afterwards.
    assert {table for table, _ in await traces(office.database, office.cell, CAT)} <= {"event", "feed"}


@pytest.mark.parametrize("pin_becomes", ["1", "9"])
async def test_who_proved_a_pin_that_is_gone_becomes_no_member(office: Office, pin_becomes: str) -> None:
    standing = await office.made([ANN], [BEN], a_pin="1", b_pin="2")
    right = office.right("sid", standing, Side.A, CAT)
    await put(office, right)
    becomes = office.standing([ANN], [BEN], a_pin=pin_becomes, b_pin="2").allocation
    await office.update(standing, becomes._replace(id=standing.allocation.id))
    await tell(office, right)
    numbers: list[E164] = [member.number for member in await office.members(standing)]
    assert numbers == ([CAT] if pin_becomes == "1" else [])


async def test_a_call_of_two_processes_has_all_its_failures(office: Office) -> None:
    digits = [str(n) for n in range(1, 6)]
    await asyncio.gather(*(put(office, office.wrong("sid", keyed, CAT)) for keyed in digits))
    call = office.wrong("sid", "1", CAT).call
    on_record = await office.database.read(
        lambda connection: outcomes.progress_of(connection, office.cell, [call])
    )
    assert on_record[call].failures == 5
