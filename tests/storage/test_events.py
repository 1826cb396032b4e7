"""The outbox against the real server: numbers without gaps, keys told once, leases taken over."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import pytest

from cordboard.clock import SECOND_US, to_datetime
from cordboard.routing.model import AllocationId, Party, Product, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.storage.database import Connection, Database
from cordboard.storage.events import (
    AttemptError,
    Backlog,
    Claim,
    EventState,
    Lane,
    NewEvent,
    Outcome,
    add_events,
    backlog,
    claim,
    endpoint_key,
    pending_count,
    pending_lanes,
    record,
    tells_release,
)
from cordboard.storage.facts import (
    CallCompletedFacts,
    DeallocatedFacts,
    EventKind,
    Facts,
    VerificationFailedFacts,
    VerifiedFacts,
)

NOW_US = 1_636_432_755 * SECOND_US
LEASE_US = 30 * SECOND_US
# Only there so that a broken test ends.
GIVE_UP_S = 60

URL = "https://subscriber.example/events"
ENDPOINT_KEYS = {endpoint_key(product, kind) for product in Product for kind in EventKind}

ALLOCATION = AllocationId(bytes(range(16)))
VIRTUAL_NUMBER = E164(916292134464)
CALLER = E164(917987686144)
PIN = Pin("0713")


@pytest.fixture(scope="module")
async def outbox(new_database: Callable[[], Awaitable[Database]]) -> Database:
    """One database for all tests of this file, with whatever the last one left in it."""
    return await new_database()


@pytest.fixture
async def database(outbox: Database) -> Database:
    # TRUNCATE would make new files, and wait for the disk, before every test.
    async def delete(connection: Connection) -> None:
        for table in ("event", "event_once", "event_subject", "tenant"):
            await connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own words.

    await outbox.write(delete)
    await set_subscriber(outbox, "acme", URL)
    return outbox


async def set_tenant(database: Database, tenant_id: str, settings: dict[str, Any], cell: int = 0) -> None:
    async def write(connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO tenant (cell, id, settings, created_at) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (id) DO UPDATE SET settings = excluded.settings",
            cell,
            tenant_id,
            settings,
            to_datetime(NOW_US),
        )

    await database.write(write)


async def set_subscriber(database: Database, tenant_id: str, url: str, cell: int = 0) -> None:
    """The tenant wants to be told everything, at one address."""
    await set_tenant(database, tenant_id, dict.fromkeys(ENDPOINT_KEYS, url), cell)


def verified() -> VerifiedFacts:
    return VerifiedFacts(
        transaction_id="order",
        allocation_id=ALLOCATION,
        virtual_number=VIRTUAL_NUMBER,
        caller=CALLER,
        pin=PIN,
        call_sid="sid",
    )


def verification_failed() -> VerificationFailedFacts:
    return VerificationFailedFacts(
        start_time=None,
        at_us=NOW_US,
        timezone="IST",
        caller=None,
        virtual_number=VIRTUAL_NUMBER,
        call_sid="sid",
        pin=PIN,
    )


def deallocated(transaction_id: str = "order") -> DeallocatedFacts:
    party = Party((CALLER,), (VIRTUAL_NUMBER,), (PIN,), listed_need_pin=True)
    return DeallocatedFacts(
        transaction_id=transaction_id, allocation_id=ALLOCATION, usage=Usage.TWOWAY, a=party, b=party
    )


def call_completed() -> CallCompletedFacts:
    return CallCompletedFacts(
        transaction_id="order",
        allocation_id=ALLOCATION,
        call_sid="sid",
        virtual_number=VIRTUAL_NUMBER,
        caller=CALLER,
        called=None,
        call_type="incomplete",
        start_time="2021-11-09 10:09:15",
        at_us=NOW_US,
        timezone="IST",
        dial_call_duration_s=0,
        on_call_duration_s=0,
        recording_url=None,
        dial_call_status=None,
    )


def new_event(
    subject: str = "subject",
    facts: Facts | None = None,
    *,
    tenant_id: str = "acme",
    once_key: str | None = None,
) -> NewEvent:
    return NewEvent(
        tenant_id=tenant_id,
        subject=subject,
        product=Product.GREENPIN,
        facts=facts or verified(),
        once_key=once_key,
    )


async def tell(database: Database, *events: NewEvent, cell: int = 0, now_us: int = NOW_US) -> None:
    await database.write(lambda connection: add_events(connection, cell, events, now_us))


async def claim_due(
    database: Database, now_us: int = NOW_US, lease_us: int = LEASE_US, limit: int = 100
) -> list[Claim]:
    """Claim from every lane, cell by cell, like a sender with room for everything."""
    lanes = await database.read(pending_lanes)
    claims: list[Claim] = []
    for cell in sorted({lane.cell for lane in lanes}):
        mine = [lane for lane in lanes if lane.cell == cell]

        async def work(connection: Connection, mine: Sequence[Lane] = mine) -> list[Claim]:
            return await claim(connection, mine, now_us, lease_us, limit)

        claims += await database.write(work)
    return claims


async def kept(database: Database) -> list[asyncpg.Record]:
    """Every event of the outbox, by subject and number."""
    return await database.read(
        lambda connection: connection.fetch(
            "SELECT tenant_id, subject, seq, kind, endpoint_key, endpoint, facts, state, attempts, due_at,"
            " leased_until, last_result, finished_at FROM event ORDER BY tenant_id, subject, seq"
        )
    )


async def seqs(database: Database) -> list[tuple[str, int]]:
    return [(row["subject"], row["seq"]) for row in await kept(database)]


async def end(database: Database, claim: Claim, how: EventState = EventState.DELIVERED) -> bool:
    error = None if how is EventState.DELIVERED else AttemptError.REFUSED
    return await settle(
        database, Outcome(claim=claim, state=how, result="status 200", at_us=NOW_US, error=error)
    )


async def give_back(database: Database, claim: Claim, due_at_us: int) -> bool:
    return await settle(
        database,
        Outcome(
            claim=claim,
            state=EventState.PENDING,
            due_at_us=due_at_us,
            result="status 500",
            at_us=NOW_US,
            status=500,
            error=AttemptError.REFUSED,
        ),
    )


async def settle(database: Database, outcome: Outcome) -> bool:
    (is_ours,) = await database.write(
        lambda connection: record(connection, outcome.claim.cell, [outcome], NOW_US)
    )
    return is_ours


async def until_somebody_is_blocked(database: Database) -> None:
    async with asyncio.timeout(GIVE_UP_S):
        while not await database.read(
            lambda connection: connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        ):
            pass


class Undone(Exception):
    """Rolls a transaction back."""


class HeldOpen:
    """A transaction that has told its events and neither commits nor rolls back until it is said to."""

    def __init__(self, database: Database, events: Sequence[NewEvent], *, undo: bool = False) -> None:
        self._database = database
        self._events = events
        self._undo = undo
        self._told = asyncio.Event()
        self._let_go = asyncio.Event()

    async def run(self) -> None:
        async def work(connection: Connection) -> None:
            await add_events(connection, 0, self._events, NOW_US)
            self._told.set()
            await self._let_go.wait()
            if self._undo:
                raise Undone

        try:
            await self._database.write(work)
        except Undone:
            assert self._undo

    async def told(self) -> None:
        async with asyncio.timeout(GIVE_UP_S):
            await self._told.wait()

    def let_go(self) -> None:
        self._let_go.set()


async def race(database: Database, first: Sequence[NewEvent], second: NewEvent, *, undo: bool) -> None:
    """`second` is told on another connection while `first` is neither committed nor rolled back."""
    held = HeldOpen(database, first, undo=undo)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(held.run())
        await held.told()
        tasks.create_task(tell(database, second))
        await until_somebody_is_blocked(database)
        held.let_go()


# ── who is told ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("product", "kind", "key"),
    [
        (Product.GREENPIN, EventKind.CALL_COMPLETED, "greenpin_call_complete_event_endpoint"),
        (Product.GREENVN, EventKind.CALL_COMPLETED, "greencall_complete_event_endpoint"),
        (Product.GREENPIN, EventKind.VERIFIED, "verified_caller_event_endpoint"),
        (Product.GREENVN, EventKind.VERIFIED, "verified_caller_event_endpoint"),
        (Product.GREENPIN, EventKind.VERIFICATION_FAILED, "failed_verification_event_endpoint"),
        (Product.GREENVN, EventKind.VERIFICATION_FAILED, "failed_verification_event_endpoint"),
        (Product.GREENPIN, EventKind.DEALLOCATED, "deallocation_callback_event_endpoint"),
        (Product.GREENVN, EventKind.DEALLOCATED, "deallocation_callback_event_endpoint"),
    ],
)
def test_each_event_has_the_setting_that_names_its_subscriber(
    product: Product, kind: EventKind, key: str
) -> None:
    assert endpoint_key(product, kind) == key


@pytest.mark.parametrize(
    ("product", "is_automatic", "is_told"),
    [
        (Product.GREENPIN, True, True),
        (Product.GREENPIN, False, True),
        (Product.GREENVN, True, True),
        (Product.GREENVN, False, False),
    ],
)
def test_a_greenvn_that_its_client_released_is_not_told_of(
    product: Product, is_automatic: bool, is_told: bool
) -> None:
    assert tells_release(product, is_automatic=is_automatic) is is_told


async def test_an_event_is_kept_with_its_facts_and_its_endpoint(database: Database) -> None:
    await tell(database, new_event(facts=call_completed()))

    (row,) = await kept(database)
    assert row["kind"] == "call_completed"
    assert row["endpoint_key"] == "greenpin_call_complete_event_endpoint"
    assert row["endpoint"] == URL
    assert row["facts"] == call_completed().to_json()
    assert (row["state"], row["attempts"], row["due_at"]) == ("pending", 0, to_datetime(NOW_US))


@pytest.mark.parametrize("settings", [{}, {"verified_caller_event_endpoint": ""}, {"country": "IN"}])
async def test_nobody_is_told_where_nobody_wants_to_know(
    database: Database, settings: dict[str, Any]
) -> None:
    await set_tenant(database, "acme", settings)
    await tell(database, new_event(once_key="key"), new_event(facts=verification_failed()))
    assert await kept(database) == []

    # Neither a number nor the key was used up.
    await set_subscriber(database, "acme", URL)
    await tell(database, new_event(once_key="key"))
    assert await seqs(database) == [("subject", 1)]


async def test_each_event_of_a_batch_asks_its_own_setting(database: Database) -> None:
    await set_tenant(database, "acme", {"verified_caller_event_endpoint": URL})
    await set_tenant(database, "globex", {"deallocation_callback_event_endpoint": URL})
    await tell(
        database,
        new_event(facts=deallocated()),
        new_event(),
        new_event(tenant_id="globex"),
        new_event(tenant_id="globex", facts=deallocated()),
    )
    rows = await kept(database)
    assert [(row["tenant_id"], row["kind"]) for row in rows] == [
        ("acme", "verified"),
        ("globex", "deallocated"),
    ]


async def test_a_tenant_of_another_cell_is_not_asked(database: Database) -> None:
    await tell(database, new_event(), cell=7)
    assert await kept(database) == []


async def test_what_was_rolled_back_is_not_told(database: Database) -> None:
    async def work(connection: Connection) -> None:
        await add_events(connection, 0, [new_event(once_key="key")], NOW_US)
        raise Undone

    with pytest.raises(Undone):
        await database.write(work)
    assert await kept(database) == []

    await tell(database, new_event(once_key="key"))
    assert await seqs(database) == [("subject", 1)]


# ── numbers ──────────────────────────────────────────────────────────────────


async def test_events_of_a_subject_are_numbered_in_the_order_given(database: Database) -> None:
    await tell(database, new_event("b"), new_event("a"), new_event("b", deallocated()))
    await tell(database, new_event("b", call_completed()))

    rows = await kept(database)
    assert [(row["subject"], row["seq"], row["kind"]) for row in rows] == [
        ("a", 1, "verified"),
        ("b", 1, "verified"),
        ("b", 2, "deallocated"),
        ("b", 3, "call_completed"),
    ]


async def test_two_tenants_may_have_the_same_subject(database: Database) -> None:
    await set_subscriber(database, "globex", URL)
    await tell(database, new_event(), new_event(tenant_id="globex"))
    assert [(row["tenant_id"], row["seq"]) for row in await kept(database)] == [("acme", 1), ("globex", 1)]


async def test_numbers_have_no_gaps_however_many_write_at_once(database: Database) -> None:
    async def write_many(writer: int) -> None:
        for turn in range(10):
            # Each names the subjects in another order, and many keys are taken already.
            subjects = [f"s{(writer + turn + place) % 4}" for place in range(6)]
            events = [
                new_event(subject, once_key=f"{subject}:{(writer * turn + place) % 9}" if place % 2 else None)
                for place, subject in enumerate(subjects)
            ]
            await tell(database, *events)

    async with asyncio.TaskGroup() as tasks:
        for writer in range(8):
            tasks.create_task(write_many(writer))

    numbers = defaultdict(list)
    for subject, seq in await seqs(database):
        numbers[subject].append(seq)
    assert set(numbers) == {"s0", "s1", "s2", "s3"}
    for of_subject in numbers.values():
        assert of_subject == list(range(1, len(of_subject) + 1))


async def test_an_earlier_number_is_never_seen_after_a_later_one(database: Database) -> None:
    held = HeldOpen(database, [new_event("subject")])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(held.run())
        await held.told()
        tasks.create_task(tell(database, new_event("subject")))
        await until_somebody_is_blocked(database)
        assert await kept(database) == []
        held.let_go()
    assert await seqs(database) == [("subject", 1), ("subject", 2)]


async def test_a_thousand_deallocations_take_four_statements(database: Database) -> None:
    statements: list[str] = []

    async def work(connection: Connection) -> None:
        with connection.query_logger(lambda record: statements.append(record.query)):
            events = [
                new_event(f"subject {place:03}", deallocated(), once_key=str(place)) for place in range(1_000)
            ]
            await add_events(connection, 0, events, NOW_US)

    await database.write(work)
    assert len(statements) == 4
    assert await database.read(pending_count) == 1_000


# ── once ─────────────────────────────────────────────────────────────────────


async def test_what_is_told_once_leaves_no_gap_when_told_again(database: Database) -> None:
    await tell(database, new_event("a", once_key="key"))
    await tell(database, new_event("a", once_key="key"), new_event("a"), new_event("b", once_key="key"))
    assert await seqs(database) == [("a", 1), ("a", 2)]


async def test_within_a_batch_the_first_tells(database: Database) -> None:
    await tell(
        database,
        new_event("a"),
        new_event("a", deallocated("first"), once_key="key"),
        new_event("a", deallocated("second"), once_key="key"),
        new_event("a"),
    )
    rows = await kept(database)
    assert [row["seq"] for row in rows] == [1, 2, 3]
    assert rows[1]["facts"]["transaction_id"] == "first"


async def test_a_key_is_one_tenants(database: Database) -> None:
    await set_subscriber(database, "globex", URL)
    await tell(database, new_event(once_key="key"), new_event(tenant_id="globex", once_key="key"))
    assert len(await kept(database)) == 2


@pytest.mark.parametrize("second_subject", ["a", "b"])
async def test_of_two_connections_the_first_tells(database: Database, second_subject: str) -> None:
    await race(
        database, [new_event("a", once_key="key")], new_event(second_subject, once_key="key"), undo=False
    )
    assert await seqs(database) == [("a", 1)]

    await tell(database, new_event(second_subject))
    assert (await seqs(database))[-1] == (second_subject, 2 if second_subject == "a" else 1)


@pytest.mark.parametrize("second_subject", ["a", "b"])
async def test_of_two_connections_the_second_tells_if_the_first_rolls_back(
    database: Database, second_subject: str
) -> None:
    await race(
        database, [new_event("a", once_key="key")], new_event(second_subject, once_key="key"), undo=True
    )
    assert await seqs(database) == [(second_subject, 1)]


# ── claims ───────────────────────────────────────────────────────────────────


async def test_a_claim_brings_the_event_as_it_was_told(database: Database) -> None:
    await tell(database, new_event("a", deallocated()))

    (claimed,) = await claim_due(database)
    assert (claimed.cell, claimed.tenant_id, claimed.subject, claimed.seq) == (0, "acme", "a", 1)
    assert (claimed.product, claimed.kind) == (Product.GREENPIN, EventKind.DEALLOCATED)
    assert (claimed.attempts, claimed.begun_at_us, claimed.endpoint) == (1, NOW_US, URL)
    assert claimed.facts == deallocated().to_json()
    assert URL not in repr(claimed)
    assert "0713" not in repr(claimed)


async def test_the_setting_of_today_says_where_to(database: Database) -> None:
    await tell(database, new_event())
    await set_subscriber(database, "acme", "https://moved.example/")

    (lane,) = await database.read(pending_lanes)
    assert lane.endpoint == "https://moved.example/"
    assert [claimed.endpoint for claimed in await claim_due(database)] == ["https://moved.example/"]


async def test_without_a_setting_today_the_one_of_then_says_where_to(database: Database) -> None:
    await tell(database, new_event())
    await set_subscriber(database, "acme", "")

    (lane,) = await database.read(pending_lanes)
    assert lane.endpoint == URL
    assert [claimed.endpoint for claimed in await claim_due(database)] == [URL]


async def test_of_each_subject_only_the_first_pending_event_is_claimed(database: Database) -> None:
    # Of three kinds, so that they stand in different lanes.
    await tell(database, new_event("a"), new_event("a", deallocated()), new_event("b", call_completed()))

    first = {(claimed.subject, claimed.seq): claimed for claimed in await claim_due(database)}
    assert set(first) == {("a", 1), ("b", 1)}
    assert await claim_due(database) == []

    assert await end(database, first["a", 1])
    assert [(claimed.subject, claimed.seq) for claimed in await claim_due(database)] == [("a", 2)]


async def test_the_oldest_are_claimed_first(database: Database) -> None:
    for subject, age_s in (("b", 20), ("c", 30), ("a", 10)):
        await tell(database, new_event(subject), now_us=NOW_US - age_s * SECOND_US)

    assert [claimed.subject for claimed in await claim_due(database, limit=2)] == ["c", "b"]
    assert [claimed.subject for claimed in await claim_due(database, limit=2)] == ["a"]


async def test_a_limit_holds_over_all_lanes_of_a_cell(database: Database) -> None:
    await tell(database, *(new_event(f"v{place}") for place in range(5)))
    await tell(database, *(new_event(f"d{place}", deallocated()) for place in range(5)))
    assert len(await claim_due(database, limit=7)) == 7
    assert len(await claim_due(database, limit=7)) == 3


async def test_cells_are_claimed_apart(database: Database) -> None:
    await set_subscriber(database, "globex", URL, cell=7)
    await tell(database, new_event())
    await tell(database, new_event(tenant_id="globex"), cell=7)
    assert [(lane.cell, lane.tenant_id) for lane in await database.read(pending_lanes)] == [
        (0, "acme"),
        (7, "globex"),
    ]
    assert [claimed.cell for claimed in await claim_due(database)] == [0, 7]


async def test_lanes_are_found_however_many_events_stand_in_each(database: Database) -> None:
    tenants = [f"tenant-{place:02}" for place in range(12)]
    for tenant_id in tenants:
        await set_subscriber(database, tenant_id, URL)
        facts = (None, deallocated(), call_completed())
        await tell(
            database, *(new_event(f"{place}", facts[place % 3], tenant_id=tenant_id) for place in range(9))
        )
    lanes = await database.read(pending_lanes)
    assert len(lanes) == len({(lane.tenant_id, lane.endpoint_key) for lane in lanes}) == 36
    assert {lane.tenant_id for lane in lanes} == set(tenants)


async def test_nobody_claims_what_another_has_in_hand(database: Database) -> None:
    await tell(database, *(new_event(f"s{place}") for place in range(40)))
    claims: list[Claim] = []

    async def claim_some() -> None:
        while some := await claim_due(database, limit=3):
            claims.extend(some)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(6):
            tasks.create_task(claim_some())

    # A claimer may miss rows that another one holds for a moment, never take them twice.
    claims += await claim_due(database)
    assert sorted(claimed.subject for claimed in claims) == sorted(f"s{place}" for place in range(40))


async def test_a_lease_that_ended_is_taken_over(database: Database) -> None:
    await tell(database, new_event())
    (late,) = await claim_due(database)
    assert await claim_due(database, NOW_US + LEASE_US - 1) == []
    (taken_over,) = await claim_due(database, NOW_US + LEASE_US)
    assert (taken_over.id, taken_over.attempts) == (late.id, 2)

    # The late one has no say any more, whatever it says.
    assert not await give_back(database, late, NOW_US)
    assert not await end(database, late, EventState.DEAD)
    assert not await end(database, late)
    (row,) = await kept(database)
    assert (row["state"], row["last_result"]) == ("pending", None)
    assert row["leased_until"] == to_datetime(NOW_US + 2 * LEASE_US)

    assert await end(database, taken_over)
    (row,) = await kept(database)
    assert (row["state"], row["last_result"], row["leased_until"]) == ("delivered", "status 200", None)
    assert not await end(database, taken_over, EventState.DEAD), "an end is the end"


async def test_a_late_finisher_does_not_let_the_followers_pass(database: Database) -> None:
    await tell(database, new_event(), new_event())
    (late,) = await claim_due(database)
    await claim_due(database, NOW_US + LEASE_US)
    assert not await end(database, late)
    assert [row["due_at"] for row in await kept(database)] == [to_datetime(NOW_US), None]


async def test_a_retried_event_is_due_again_later_and_its_followers_after_it(database: Database) -> None:
    later = NOW_US + 60 * SECOND_US
    await tell(database, new_event("a"), new_event("a"), new_event("b"))
    first, other = sorted(await claim_due(database), key=lambda claimed: claimed.subject)
    assert await end(database, other)
    assert await give_back(database, first, later)
    # Told while its subject waits.
    await tell(database, new_event("a"))

    due_at = [row["due_at"] for row in await kept(database) if row["subject"] == "a"]
    assert due_at == [to_datetime(later), None, None]
    assert await claim_due(database, later - 1) == []
    (again,) = await claim_due(database, later)
    assert (again.seq, again.attempts) == (1, 2)


async def test_an_event_told_while_the_one_before_is_finished_is_not_forgotten(database: Database) -> None:
    await tell(database, new_event())
    (first,) = await claim_due(database)
    held = HeldOpen(database, [new_event()])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(held.run())
        await held.told()
        tasks.create_task(end(database, first))
        await until_somebody_is_blocked(database)
        held.let_go()
    assert [claimed.seq for claimed in await claim_due(database)] == [2]


async def test_every_event_is_told_however_telling_and_finishing_interleave(database: Database) -> None:
    told = 60

    async def write(writer: int) -> None:
        for turn in range(told // 3):
            await tell(database, new_event(f"s{(writer + turn) % 2}"))

    async def finish_all() -> None:
        while not all(task.done() for task in writing) or await database.read(pending_count) > 0:
            for claimed in await claim_due(database, limit=1):
                assert await end(database, claimed)

    async with asyncio.TaskGroup() as tasks:
        writing = [tasks.create_task(write(writer)) for writer in range(3)]
        for _ in range(3):
            tasks.create_task(finish_all())
    assert [row["state"] for row in await kept(database)] == ["delivered"] * told


async def test_a_dead_event_lets_its_followers_pass(database: Database) -> None:
    await tell(database, new_event(), new_event())
    (first,) = await claim_due(database)
    assert await end(database, first, EventState.DEAD)
    assert [claimed.seq for claimed in await claim_due(database)] == [2]
    assert [(row["state"], row["finished_at"]) for row in await kept(database)] == [
        ("dead", to_datetime(NOW_US)),
        ("pending", None),
    ]


async def test_what_is_pending_is_counted(database: Database) -> None:
    assert await database.read(pending_count) == 0
    await set_subscriber(database, "globex", URL, cell=7)
    await tell(database, new_event("a"), new_event("b"))
    await tell(database, new_event(tenant_id="globex"), cell=7)
    assert await database.read(pending_count) == 3
    await end(database, (await claim_due(database))[0])
    assert await database.read(pending_count) == 2


async def test_the_backlog_has_an_age_and_its_dead(database: Database) -> None:
    assert await database.read(backlog) == Backlog(pending=0, oldest_at_us=None, dead=0)
    await set_subscriber(database, "globex", URL, cell=7)
    await tell(database, new_event("a"), new_event("a"))
    await tell(database, new_event(tenant_id="globex"), cell=7, now_us=NOW_US + SECOND_US)
    assert await database.read(backlog) == Backlog(pending=3, oldest_at_us=NOW_US, dead=0)
    # A failed attempt makes nothing younger.
    (first,) = await claim_due(database)
    again_at_us = NOW_US + 20 * SECOND_US
    assert await give_back(database, first, again_at_us)
    assert (await database.read(backlog)).oldest_at_us == NOW_US
    (again,) = [claimed for claimed in await claim_due(database, again_at_us) if claimed.cell == 0]
    assert await end(database, again, EventState.DEAD)
    assert await database.read(backlog) == Backlog(pending=2, oldest_at_us=NOW_US, dead=1)


async def test_the_schema_refuses_two_events_of_one_number(database: Database) -> None:
    await tell(database, new_event(), new_event())

    async def work(connection: Connection) -> None:
        await connection.execute("UPDATE event SET seq = 1 WHERE cell = 0 AND seq = 2")

    with pytest.raises(asyncpg.UniqueViolationError):
        await database.write(work)
