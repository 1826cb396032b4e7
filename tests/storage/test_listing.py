"""Lists: what a scan over everything would find, in pages that each cost the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from random import Random
from typing import Any, Generic, TypeVar
from uuid import UUID

import orjson
import pytest

from cordboard.clock import SECOND_US, to_datetime
from cordboard.routing.allocate import Standing
from cordboard.routing.model import (
    NEVER_US,
    AskPin,
    Connect,
    Decision,
    LastEntry,
    Matched,
    Product,
    Reason,
    Refuse,
    Side,
    State,
)
from cordboard.routing.numbers import E164
from cordboard.routing.tenant import TenantSettings
from cordboard.storage import allocations, calls, listing, provisioning
from cordboard.storage.calls import CallRow, CallType, NewEnd
from cordboard.storage.database import Connection, Database
from cordboard.storage.listing import (
    DECISIONS,
    OUTCOMES,
    AllocationFilter,
    AllocationKey,
    CallFilter,
    CallRecord,
    CallRecordKey,
    EndRecord,
    HopRecord,
    Page,
    Span,
    VerificationFilter,
    VerificationKey,
    VerificationRecord,
)
from cordboard.storage.outcomes import WITHHELD, CallKey, NewOutcome
from tests.storage.office import ANN, BEN, CAT, DAN, NOW_US, Office, opened_office

ALWAYS = Span(0, NOW_US * 2)
# More than any test here makes, the long history aside.
ITEMS_MAX = 200
LATER_US = NOW_US + 3_600 * SECOND_US

Item = TypeVar("Item")
Key = TypeVar("Key")


def seconds(count: int) -> int:
    return NOW_US + count * SECOND_US


def id_of(standing: Standing) -> UUID:
    return UUID(bytes=standing.allocation.id)


# ── reading ──────────────────────────────────────────────────────────────────


async def allocations_page(
    office: Office,
    wanted: AllocationFilter,
    span: Span = ALWAYS,
    after: AllocationKey | None = None,
    limit: int = 50,
) -> Page[Standing, AllocationKey]:
    return await office.database.read_snapshot(
        lambda connection: listing.list_allocations(
            connection, office.cell, office.tenant.id, wanted, span, after, limit, LATER_US
        )
    )


async def calls_page(
    office: Office,
    wanted: CallFilter,
    span: Span = ALWAYS,
    after: CallRecordKey | None = None,
    limit: int = 50,
) -> Page[CallRecord, CallRecordKey]:
    return await office.database.read_snapshot(
        lambda connection: listing.list_calls(
            connection, office.cell, office.tenant.id, wanted, span, after, limit
        )
    )


async def verifications_page(
    office: Office,
    wanted: VerificationFilter,
    span: Span = ALWAYS,
    after: VerificationKey | None = None,
    limit: int = 50,
) -> Page[VerificationRecord, VerificationKey]:
    return await office.database.read_snapshot(
        lambda connection: listing.list_verifications(
            connection, office.cell, office.tenant.id, wanted, span, after, limit
        )
    )


async def all_pages(
    page_of: Callable[..., Awaitable[Page[Item, Key]]], office: Office, wanted: Any, span: Span, limit: int
) -> list[Item]:
    items: list[Item] = []
    after: Key | None = None
    while True:
        page = await page_of(office, wanted, span, after, limit)
        assert len(page.items) == limit or page.next_key is None
        items += page.items
        assert len(items) <= ITEMS_MAX, "the pages have no end"
        if page.next_key is None:
            return items
        after = page.next_key


# ── allocations ──────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Kept:
    """An allocation as a scan over a list knows it."""

    standing: Standing
    members: frozenset[E164]
    state: State

    def is_wanted(self, wanted: AllocationFilter, span: Span) -> bool:
        allocation = self.standing.allocation
        return (
            allocation.product is wanted.product
            and wanted.client_id in (None, self.standing.client_id)
            and wanted.state in (None, self.state)
            and (
                wanted.virtual_number is None
                or wanted.virtual_number in (*allocation.a.virtual_numbers, *allocation.b.virtual_numbers)
            )
            and (
                wanted.number is None
                or wanted.number in (*allocation.a.numbers, *allocation.b.numbers, *self.members)
            )
            and span.from_us <= self.standing.created_at_us < span.before_us
        )


async def a_history(office: Office) -> list[Kept]:
    """Allocations of every fate, several of them made in one instant."""
    dice = Random(7)
    people, lines = [ANN, BEN, CAT, DAN], office.virtual_numbers
    kept: list[Kept] = []
    for n in range(36):
        fate = ("released", "live", "ended", "swept", "moved", "joined")[n % 6]
        a, b, stranger = dice.sample(people, 3)
        standing = office.standing(
            [a],
            [b],
            a_pin=str(1_000 + 2 * n),
            b_pin=str(1_001 + 2 * n),
            a_vns=[dice.choice(lines)],
            b_vns=[dice.choice(lines)],
            client_id=f"again-{n % 2}" if fate == "released" else f"once-{n}",
            expires_at_us=seconds(60) if fate in ("ended", "swept") else NEVER_US,
        )
        standing = replace(standing, created_at_us=seconds(n // 4))
        await office.make(standing)
        members: frozenset[E164] = frozenset()
        match fate:
            case "released":
                await office.release(standing)
            case "swept":
                ended = partial(
                    allocations.release_ended, cell=office.cell, ids=[id_of(standing)], now_us=LATER_US
                )
                await office.database.write(ended)
            case "moved":
                moved = standing.allocation.a._replace(virtual_numbers=(dice.choice(lines),))
                standing = await office.update(standing, standing.allocation._replace(a=moved))
            case "joined":
                await office.enter(standing, Side.B, stranger)
                members = frozenset([stranger])
            case _:
                assert fate in ("live", "ended")
        state = State.ACTIVE if fate in ("live", "moved", "joined") else State.VAULT
        kept.append(Kept(standing, members, state))
    return kept


async def test_allocations_are_what_a_scan_finds_newest_first(office: Office) -> None:
    kept = await a_history(office)
    dice = Random(11)
    for client_id, vn, number, state in product(
        (None, "again-0", "once-1"),
        (None, office.vn, office.other_vn),
        (None, ANN, DAN),
        (None, State.ACTIVE, State.VAULT),
    ):
        wanted = AllocationFilter(Product.GREENPIN, client_id, vn, number, state)
        span = dice.choice([ALWAYS, Span(seconds(2), seconds(7)), Span(seconds(3), seconds(4))])
        found = await all_pages(allocations_page, office, wanted, span, dice.choice([1, 3, 10]))
        expected = [one.standing for one in kept if one.is_wanted(wanted, span)]
        expected.sort(key=lambda one: (one.created_at_us, one.allocation.id), reverse=True)
        assert [id_of(one) for one in found] == [id_of(one) for one in expected], wanted


async def test_of_another_product_or_tenant_nothing_is_listed(office_database: Database) -> None:
    office, neighbour = await opened_office(office_database), await opened_office(office_database)
    # As if they shared a cell, as tenants of a large installation do.
    neighbour.cell = office.cell
    await office.made([ANN], [BEN], client_id="order")
    await office.made([CAT], [DAN], expires_at_us=seconds(60))
    for client_id, vn, number, state in product(
        (None, "order"), (None, office.vn), (None, ANN), (None, State.ACTIVE, State.VAULT)
    ):
        greenvn = AllocationFilter(Product.GREENVN, client_id, vn, number, state)
        assert (await allocations_page(office, greenvn)).items == []
        greenpin = replace(greenvn, product=Product.GREENPIN)
        assert (await allocations_page(neighbour, greenpin)).items == []


async def test_paging_goes_on_where_it_was_while_new_ones_are_made(office: Office) -> None:
    made = [
        await office.made([ANN], [BEN], a_pin=str(10 + n), b_pin=str(30 + n)) for n in range(7)
    ]  # all in one instant
    wanted = AllocationFilter(Product.GREENPIN)
    found: list[UUID] = []
    after: AllocationKey | None = None
    for n in range(4):
        page = await allocations_page(office, wanted, after=after, limit=2)
        found += map(id_of, page.items)
        after = page.next_key
        newer = office.standing([ANN], [BEN], a_pin=str(50 + n), b_pin=str(70 + n))
        await office.make(replace(newer, created_at_us=seconds(1)))
    assert after is None
    assert found == sorted(map(id_of, made), reverse=True)


async def test_a_pin_that_rests_where_an_allocation_was_does_not_list_it_there(office: Office) -> None:
    left, stays, entered = office.virtual_numbers
    standing = await office.made([ANN], [BEN], a_pin="1", a_vns=[left], b_vns=[stays], cool_off_s=60)
    moved = standing.allocation.a._replace(virtual_numbers=(entered,))
    await office.update(standing, standing.allocation._replace(a=moved))
    for vn, count in ((left, 0), (stays, 1), (entered, 1)):
        for state in (None, State.ACTIVE):
            wanted = AllocationFilter(Product.GREENPIN, virtual_number=vn, state=state)
            assert len((await allocations_page(office, wanted)).items) == count


async def test_losers_and_deleted_tenants_leave_nothing_to_be_listed(office_database: Database) -> None:
    office = await opened_office(office_database)
    carried = "SELECT allocation_id FROM carried_allocation WHERE cell = $1"
    winner = await office.made([ANN], [BEN], client_id="order")
    await office.make(office.standing([ANN], [BEN]), office.standing([CAT], [DAN], client_id="order"))
    assert {row["allocation_id"] for row in await office.fetch(carried)} == {id_of(winner)}
    await office.release(winner)
    await provisioning.delete_tenant(office.database, office.tenant.id, LATER_US)
    assert await office.fetch(carried) == []


# ── calls ────────────────────────────────────────────────────────────────────


def decision_of(word: str, allocation: Standing) -> Decision:
    match word:
        case "connect":
            return Connect(allocation.allocation.id, Product.GREENPIN, Side.A, (BEN,), CAT, Matched.LISTED)
        case "ask_pin":
            return AskPin(4, 3, LastEntry.NONE)
        case "refuse":
            return Refuse(Reason.NO_TARGET, allocation.allocation.id)
        case _:
            raise AssertionError(word)


async def write_calls(office: Office, rows: Sequence[CallRow]) -> None:
    await office.database.write(lambda connection: calls.write_rows(connection, office.cell, rows))


async def test_calls_are_what_a_scan_finds_newest_first(office: Office) -> None:
    dice = Random(13)
    standings = [await office.made([ANN], [BEN], a_pin=str(n), b_pin=str(5 + n)) for n in range(2)]
    kept: dict[CallKey, tuple[str, UUID | None, int]] = {}
    rows = []
    for n in range(60):
        key = CallKey(
            office.tenant.id,
            f"sid-{dice.randrange(12)}",
            dice.choice(office.virtual_numbers[:2]),
            dice.choice([None, ANN, BEN]),
        )
        if key in kept:
            continue
        word, standing = dice.choice(DECISIONS), dice.choice(standings)
        rows.append(CallRow(key, decision_of(word, standing), seconds(n // 6)))
        kept[key] = (word, None if word == "ask_pin" else id_of(standing), seconds(n // 6))
    await write_calls(office, rows)

    for call_sid, caller, vn, allocation_id, decision in product(
        (None, "sid-3"),
        (None, WITHHELD, ANN),
        (None, office.vn),
        (None, id_of(standings[0])),
        (None, *DECISIONS),
    ):
        wanted = CallFilter(call_sid, caller, vn, allocation_id, decision)
        span = dice.choice([ALWAYS, Span(seconds(2), seconds(7))])
        found = await all_pages(calls_page, office, wanted, span, dice.choice([1, 3, 10]))
        expected = sorted(
            (
                (at_us, key.call_sid, key.virtual_number, key.caller or WITHHELD)
                for key, (word, allocation, at_us) in kept.items()
                if call_sid in (None, key.call_sid)
                and caller in (None, key.caller or WITHHELD)
                and vn in (None, key.virtual_number)
                and allocation_id in (None, allocation)
                and decision in (None, word)
                and span.from_us <= at_us < span.before_us
            ),
            reverse=True,
        )
        assert [
            (call.first_hop_at_us, call.call_sid, call.virtual_number, call.caller or WITHHELD)
            for call in found
        ] == expected, wanted


async def test_a_call_has_what_is_on_record_of_it_and_its_end(office: Office) -> None:
    standing = await office.made([ANN], [BEN])
    connected = CallKey(office.tenant.id, "sid", office.vn, ANN)
    refused = CallKey(office.tenant.id, "other", office.vn, None)
    await write_calls(office, [CallRow(connected, AskPin(4, 3, LastEntry.NONE), NOW_US)])
    await write_calls(
        office,
        [
            CallRow(connected, decision_of("connect", standing), seconds(5), request_id="hop-of-the-call-2"),
            CallRow(refused, Refuse(Reason.NO_ALLOCATION), seconds(-1)),
        ],
    )
    end = NewEnd(
        tenant_id=office.tenant.id,
        call_sid="sid",
        settings=TenantSettings(),
        call_type=CallType.COMPLETED,
        dial_call_status="completed",
        dialled=DAN,
        dial_call_duration_s=17,
        on_call_duration_s=12,
        recording_url="https://platform.example/r.mp3",
        start_time="2026-01-01 05:30:00",
        at_us=seconds(30),
        request_id="end-of-the-call-1",
    )
    await office.database.write(lambda connection: calls.record_ends(connection, office.cell, [end], NOW_US))
    page = await calls_page(office, CallFilter())
    assert page.items == [
        CallRecord(
            call_sid="sid",
            virtual_number=office.vn,
            caller=ANN,
            decision="connect",
            reason=None,
            matched="listed",
            allocation_id=id_of(standing),
            product=Product.GREENPIN,
            side=Side.A,
            target=BEN,
            first_hop_at_us=NOW_US,
            last_hop_at_us=seconds(5),
            request_id="hop-of-the-call-2",
            end=EndRecord(
                call_type="completed",
                dial_call_status="completed",
                dialled=DAN,
                dial_call_duration_s=17,
                on_call_duration_s=12,
                recording_url="https://platform.example/r.mp3",
                start_time="2026-01-01 05:30:00",
                ended_at_us=seconds(30),
                request_id="end-of-the-call-1",
            ),
            hops=(
                HopRecord(NOW_US, "none", "ask_pin", "none", 3),
                HopRecord(seconds(5), "none", "connect", "listed", None),
            ),
        ),
        CallRecord(
            call_sid="other",
            virtual_number=office.vn,
            caller=None,
            decision="refuse",
            reason="no_allocation",
            matched=None,
            allocation_id=None,
            product=None,
            side=None,
            target=None,
            first_hop_at_us=seconds(-1),
            last_hop_at_us=seconds(-1),
            request_id=None,
            end=None,
            hops=(HopRecord(seconds(-1), "none", "refuse", "no_allocation", None),),
        ),
    ]


async def test_the_calls_of_an_allocation_are_counted(office: Office) -> None:
    first, second = await office.made([ANN], [BEN]), await office.made([CAT], [DAN])
    assert await count_of(office, first) == 0
    await write_calls(
        office,
        [
            CallRow(CallKey(office.tenant.id, f"sid-{n}", office.vn, ANN), decision_of(word, first), NOW_US)
            for n, word in enumerate(("connect", "connect", "refuse", "ask_pin"))
        ],
    )
    assert (await count_of(office, first), await count_of(office, second)) == (3, 0)


async def count_of(office: Office, standing: Standing) -> int:
    return await office.database.read(
        lambda connection: listing.count_calls_of(connection, office.cell, id_of(standing))
    )


# ── verifications ────────────────────────────────────────────────────────────


async def test_verifications_are_what_a_scan_finds_newest_first(office: Office) -> None:
    dice = Random(17)
    standings = [await office.made([ANN], [BEN], a_pin=f"77{n}", b_pin=f"88{n}") for n in range(2)]
    items: dict[tuple[CallKey, bytes], NewOutcome] = {}
    for n in range(80):
        # Few calls and instants: several entries of one call are of one instant.
        call_sid, caller = f"sid-{dice.randrange(4)}", dice.choice([None, ANN, BEN])
        at_us = seconds(n // 20)
        if dice.randrange(3):
            item = office.wrong(call_sid, str(dice.randrange(30)), caller, at_us)
        else:
            item = office.right(
                call_sid, dice.choice(standings), Side.A, caller, is_stranger=False, at_us=at_us
            )
        items.setdefault((item.call, item.outcome.digest), item)
    await office.record(*items.values())
    rows = await office.fetch(
        "SELECT verified_at, call_sid, virtual_number, caller, digits_digest, outcome, allocation_id"
        " FROM verification WHERE cell = $1"
    )
    assert len(rows) == len(items)

    for call_sid_wanted, caller_wanted, vn, allocation_id, outcome in product(
        (None, "sid-3"), (None, WITHHELD, ANN), (None, office.vn, office.other_vn),
        (None, id_of(standings[0])), (None, *OUTCOMES),
    ):  # fmt: skip
        wanted = VerificationFilter(call_sid_wanted, caller_wanted, vn, allocation_id, outcome)
        span = dice.choice([ALWAYS, Span(seconds(1), seconds(3))])
        found = await all_pages(verifications_page, office, wanted, span, dice.choice([1, 2, 3, 10]))
        expected = sorted(
            (
                tuple(row)
                for row in rows
                if call_sid_wanted in (None, row["call_sid"])
                and caller_wanted in (None, row["caller"])
                and vn in (None, row["virtual_number"])
                and allocation_id in (None, row["allocation_id"])
                and outcome in (None, row["outcome"])
                and to_datetime(span.from_us) <= row["verified_at"] < to_datetime(span.before_us)
            ),
            key=lambda row: row[:5],
            reverse=True,
        )
        assert [
            (
                to_datetime(entry.verified_at_us),
                entry.call_sid,
                entry.virtual_number,
                entry.caller or WITHHELD,
                entry.outcome,
                entry.allocation_id,
            )
            for entry in found
        ] == [row[:4] + row[5:] for row in expected], wanted


async def test_the_key_of_a_page_tells_nothing_of_the_digits(office: Office) -> None:
    await office.record(*(office.wrong("sid", digits) for digits in ("1", "2", "3")))
    page = await verifications_page(office, VerificationFilter(), limit=2)
    assert page.next_key == VerificationKey(NOW_US, "sid", office.vn, ANN, shown=2)
    page = await verifications_page(office, VerificationFilter(), after=page.next_key, limit=2)
    assert (len(page.items), page.next_key) == (1, None)


# ── what a page costs ────────────────────────────────────────────────────────

ROWS = 6_000
LIVE = 120
LIMIT = 20


@pytest.fixture(scope="module")
async def long_history(new_database: Callable[[], Awaitable[Database]]) -> Office:
    """Thousands of allocations, calls and verifications on two VNs, most of them alike."""
    office = await opened_office(await new_database())
    for statement in _LONG_HISTORY:
        await office.execute(
            statement, office.tenant.id, office.vn, office.other_vn, ROWS, LIVE, to_datetime(NOW_US)
        )
    await office.database.write(lambda connection: connection.execute("ANALYZE"))
    return office


_ALL_USED = "$1::smallint, $2::text, $3::bigint, $4::bigint, $5::integer, $6::integer, $7::timestamptz"
_LONG_HISTORY = tuple(
    f"WITH given (cell, tenant_id, vn, other_vn, rows, live, now) AS (VALUES ({_ALL_USED})) {statement}"
    for statement in (
        """
        INSERT INTO allocation (cell, id, tenant_id, product, client_id, generation, usage, state, version,
            a_virtual_numbers, b_virtual_numbers, a_pins, b_pins, a_listed_need_pin, b_listed_need_pin,
            common_pin, cool_off_s, is_exclusive, record, created_at, expires_at, released_at, release_cause)
        SELECT cell, gen_random_uuid(), tenant_id, 'greenpin',
            CASE WHEN n > rows - live THEN 'live-' || n ELSE 'order-' || n % 3 END, 1, 'twoway',
            CASE WHEN n > rows - live THEN 'active' ELSE 'vault' END, 1,
            ARRAY[CASE n % 4 WHEN 0 THEN other_vn ELSE vn END],
            ARRAY[CASE n % 4 WHEN 0 THEN other_vn ELSE vn END], ARRAY[n::text], '{}', true, false, false, 0,
            false, false, now + n * interval '1 second', now + interval '1 year',
            CASE WHEN n <= rows - live THEN now END, CASE WHEN n <= rows - live THEN 'requested' END
        FROM given CROSS JOIN generate_series(1, rows) AS n
        """,
        """
        INSERT INTO carried_allocation
        SELECT allocation.cell, allocation.tenant_id, product, a_virtual_numbers[1], created_at, id
        FROM given JOIN allocation USING (cell)
        """,
        """
        INSERT INTO party_number (cell, allocation_id, number, side, list_position)
        SELECT allocation.cell, id, 919000000000 + client_of.n, 'a', 0
        FROM given JOIN allocation USING (cell)
        CROSS JOIN LATERAL (SELECT a_pins[1]::bigint / 100 AS n) AS client_of
        """,
        """
        INSERT INTO pin_claim (cell, virtual_number, pin, allocation_id, side)
        SELECT allocation.cell, a_virtual_numbers[1], a_pins[1], id, 'a'
        FROM given JOIN allocation USING (cell) WHERE state = 'active'
        """,
        """
        INSERT INTO call (cell, tenant_id, call_sid, virtual_number, caller, decision, matched, allocation_id,
            side, target, first_hop_at, last_hop_at, reason)
        SELECT allocation.cell, allocation.tenant_id, 'sid-' || a_pins[1], a_virtual_numbers[1],
            a_pins[1]::bigint % 3, CASE a_pins[1]::bigint % 2 WHEN 0 THEN 'connect' ELSE 'refuse' END,
            CASE a_pins[1]::bigint % 2 WHEN 0 THEN 'pin' END, common.id, 'a', 1, created_at, created_at,
            CASE a_pins[1]::bigint % 2 WHEN 1 THEN 'direction' END
        FROM given JOIN allocation USING (cell)
        CROSS JOIN (SELECT id FROM allocation ORDER BY id LIMIT 1) AS common
        """,
        """
        INSERT INTO verification (cell, tenant_id, call_sid, virtual_number, caller, digits_digest, outcome,
            reason, allocation_id, side, verified_at)
        SELECT call.cell, call.tenant_id, call_sid, virtual_number, caller, '\\x00',
            CASE decision WHEN 'connect' THEN 'success' ELSE 'failure' END,
            CASE decision WHEN 'connect' THEN 'right_pin' ELSE 'wrong_pin' END, allocation_id, side,
            first_hop_at
        FROM given JOIN call USING (cell)
        """,
    )
)


@dataclass(frozen=True, slots=True)
class Path(Generic[Item, Key]):
    """A list, the index that finds its keys, and how many rows a page may read there."""

    page_of: Callable[..., Awaitable[Page[Item, Key]]]
    wanted: Any
    index: str
    rows_max: int = 3 * (LIMIT + 1)
    # False where a small set is put in order for each page.
    is_range: bool = True
    # How deep the other page is.
    pages_before: int = 40


GREENPIN = Product.GREENPIN
VN = E164(1)  # stands for the office's own, which nobody knows here
PATHS: dict[str, Path[Any, Any]] = {
    "all": Path(allocations_page, AllocationFilter(GREENPIN), "allocation_by_age"),
    "active": Path(
        allocations_page, AllocationFilter(GREENPIN, state=State.ACTIVE), "allocation_by_age", pages_before=4
    ),
    "vault": Path(allocations_page, AllocationFilter(GREENPIN, state=State.VAULT), "allocation_by_age"),
    "client_id": Path(
        allocations_page, AllocationFilter(GREENPIN, client_id="order-1"), "allocation_by_client_id"
    ),
    "vn": Path(allocations_page, AllocationFilter(GREENPIN, virtual_number=VN), "carried_allocation_pkey"),
    "vn, vault": Path(
        allocations_page,
        AllocationFilter(GREENPIN, virtual_number=VN, state=State.VAULT),
        "carried_allocation_pkey",
        rows_max=LIVE + 3 * LIMIT,
    ),
    "number": Path(
        allocations_page,
        AllocationFilter(GREENPIN, number=E164(919_000_000_010)),
        "party_number_of_number",
        rows_max=100,
        is_range=False,
        pages_before=2,
    ),
    "calls": Path(calls_page, CallFilter(), "call_by_age"),
    "decision": Path(calls_page, CallFilter(decision="refuse"), "call_by_age"),
    "caller": Path(calls_page, CallFilter(caller=2), "call_by_caller"),
    "withheld": Path(calls_page, CallFilter(caller=WITHHELD, decision="connect"), "call_by_caller"),
    "calls of vn": Path(calls_page, CallFilter(virtual_number=VN), "call_by_vn"),
    "verifications": Path(verifications_page, VerificationFilter(), "verification_by_age"),
    "outcome": Path(verifications_page, VerificationFilter(outcome="failure"), "verification_by_age"),
    "verifications of caller": Path(
        verifications_page, VerificationFilter(caller=2), "verification_by_caller"
    ),
    "verifications of vn": Path(
        verifications_page, VerificationFilter(virtual_number=VN), "verification_by_vn"
    ),
}


@pytest.mark.parametrize("name", PATHS)
async def test_a_deep_page_is_the_same_short_range_of_the_same_index(long_history: Office, name: str) -> None:
    path, office = PATHS[name], long_history
    wanted = path.wanted
    if getattr(wanted, "virtual_number", None) == VN:
        wanted = replace(wanted, virtual_number=office.vn)
    deep = (await path.page_of(office, wanted, limit=path.pages_before * LIMIT)).next_key
    assert deep is not None
    plan_of_first = await plan_of_keys(office, path, wanted, None)
    plan_of_deep = await plan_of_keys(office, path, wanted, deep)
    assert shape(plan_of_first) == shape(plan_of_deep)
    for plan in (plan_of_first, plan_of_deep):
        scans = scans_of(plan)
        reads = [node for node in scans if node["Index Name"] == path.index]
        assert reads, shape(plan)
        assert sum(map(rows_read, scans)) <= 2 * path.rows_max, shape(plan)
        assert max(map(rows_read, scans)) <= path.rows_max, shape(plan)
        if path.is_range:
            assert all("ROW(" in node["Index Cond"] for node in reads), [node["Index Cond"] for node in reads]
            assert {node["Scan Direction"] for node in reads} == {"Backward"}


async def test_the_live_allocations_of_a_vn_are_found_without_its_vaulted_ones(long_history: Office) -> None:
    wanted = AllocationFilter(GREENPIN, virtual_number=long_history.vn, state=State.ACTIVE)
    path = Path(allocations_page, wanted, "allocation_by_age")
    plan = await plan_of_keys(long_history, path, wanted, None)
    read = [rows_read(node) for node in nodes(plan) if node.get("Relation Name") == "allocation"]
    assert sum(read) <= LIVE, shape(plan)


async def plan_of_keys(office: Office, path: Path[Any, Any], wanted: Any, after: object) -> dict[str, Any]:
    """How the first query of a page is run: the one that finds its keys."""
    explained: list[dict[str, Any]] = []

    class Explaining:
        """A connection that explains each query before it asks it."""

        def __init__(self, connection: Connection) -> None:
            self._connection = connection

        async def execute(self, query: str, *args: Any) -> str:
            return await self._connection.execute(query, *args)

        async def fetch(self, query: str, *args: Any) -> Any:
            told = await self._connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", *args)
            explained.append(orjson.loads(told)[0]["Plan"])
            return await self._connection.fetch(query, *args)

    class ExplainingDatabase:
        async def read_snapshot(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
            return await office.database.read_snapshot(lambda connection: work(Explaining(connection)))

    explaining = Office(ExplainingDatabase(), office.tenant, office.virtual_numbers)  # type: ignore[arg-type]
    await path.page_of(explaining, wanted, after=after, limit=LIMIT)
    return explained[0]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def scans_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """What is read of tables, all of it by indexes."""
    assert all(node["Node Type"] != "Seq Scan" for node in nodes(plan)), shape(plan)
    return [node for node in nodes(plan) if "Index Name" in node]


def shape(plan: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(node["Node Type"], node.get("Index Name")) for node in nodes(plan)]


def rows_read(node: dict[str, Any]) -> float:
    """By all loops, also those that a filter took away."""
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    rows: float = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return rows
