"""A tenant in a cell of its own on a shared server, and what its allocations do there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import asyncpg

from cordboard.clock import SECOND_US
from cordboard.routing.allocate import Generation, Standing
from cordboard.routing.changes import Change, decode
from cordboard.routing.model import (
    NEVER_US,
    Admission,
    Allocation,
    AllocationId,
    Party,
    Product,
    RightPin,
    Side,
    State,
    Usage,
    WrongPin,
)
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.progress import digest_of
from cordboard.routing.tenant import TenantSettings
from cordboard.storage import allocations, outcomes, provisioning
from cordboard.storage.allocations import (
    AllocationName,
    Idempotency,
    Made,
    MakeResult,
    Member,
    NewAllocation,
    ReleaseRequest,
    ReleaseResult,
)
from cordboard.storage.database import Connection, Database
from cordboard.storage.outcomes import CallKey, NewOutcome, Recorded
from cordboard.storage.provisioning import NewVirtualNumber, Tenant

# 2026-01-01.
NOW_US: Final = 1_767_225_600 * SECOND_US
# Only there so that a broken test ends.
GIVE_UP_S: Final = 60

ANN, BEN, CAT, DAN = (E164(919800000021 + n) for n in range(4))
# Nothing is sent in these tests; that somebody wants to be told is enough for an event to be kept.
ENDPOINTS: Final = dict.fromkeys(
    (
        "greenpin_call_complete_event_endpoint",
        "greencall_complete_event_endpoint",
        "verified_caller_event_endpoint",
        "failed_verification_event_endpoint",
        "deallocation_callback_event_endpoint",
    ),
    "https://subscriber.example/",
)

Result = TypeVar("Result")
_numbers = count(1)


class Office:
    def __init__(self, database: Database, tenant: Tenant, virtual_numbers: tuple[E164, ...]) -> None:
        self.database = database
        self.tenant = tenant
        self.cell = tenant.cell
        self.virtual_numbers = virtual_numbers

    @property
    def vn(self) -> E164:
        return self.virtual_numbers[0]

    @property
    def other_vn(self) -> E164:
        return self.virtual_numbers[1]

    # ── words ────────────────────────────────────────────────────────────────

    def standing(
        self,
        a: Sequence[E164] = (),
        b: Sequence[E164] = (),
        *,
        a_pin: str | None = None,
        b_pin: str | None = None,
        common_pin: str | None = None,
        a_vns: Sequence[E164] | None = None,
        b_vns: Sequence[E164] | None = None,
        a_needs_pin: bool | None = None,
        b_needs_pin: bool | None = None,
        client_id: str | None = None,
        usage: Usage = Usage.TWOWAY,
        expires_at_us: int = NEVER_US,
        cool_off_s: int = 0,
        product: Product = Product.GREENPIN,
    ) -> Standing:
        """What a request would be proposed as; listed callers enter a PIN where their side has one."""
        a_pin, b_pin = common_pin or a_pin, common_pin or b_pin
        return Standing(
            tenant_id=self.tenant.id,
            client_id=client_id or f"ORD-{next(_numbers)}",
            allocation=Allocation(
                id=AllocationId(uuid4().bytes),
                product=product,
                usage=usage,
                expires_at_us=expires_at_us,
                a=_party(a, a_vns or (self.vn,), a_pin, a_needs_pin),
                b=_party(b, b_vns or (self.vn,), b_pin, b_needs_pin),
                common_pin=common_pin is not None,
                has_members=False,
            ),
            state=State.ACTIVE,
            version=1,
            cool_off_s=cool_off_s,
            created_at_us=NOW_US,
        )

    # ── acts ─────────────────────────────────────────────────────────────────

    async def make_in(
        self,
        connection: Connection,
        *standings: Standing,
        now_us: int = NOW_US,
        keys: Sequence[Idempotency | None] = (),
        is_second_try: bool = False,
    ) -> list[MakeResult]:
        items = [
            NewAllocation(self.tenant.tenant_no, standing, keys[at] if keys else None, is_second_try)
            for at, standing in enumerate(standings)
        ]
        return await allocations.make(connection, self.cell, items, now_us)

    async def make(self, *standings: Standing, **how: Any) -> list[MakeResult]:
        return await self.database.write(lambda connection: self.make_in(connection, *standings, **how))

    async def made(self, *a: Any, now_us: int = NOW_US, **what: Any) -> Standing:
        standing = self.standing(*a, **what)
        [result] = await self.make(standing, now_us=now_us)
        assert isinstance(result, Made), result
        return standing

    async def update(self, standing: Standing, becomes: Allocation, now_us: int = NOW_US) -> Standing:
        """Raises Conflict, AlreadyReleased."""

        async def run(connection: Connection) -> Standing:
            name = name_of(standing)
            was = await allocations.lock_for_update(connection, self.cell, self.tenant.id, name, now_us)
            revised = replace(was.standing, allocation=becomes, version=was.standing.version + 1)
            await allocations.update(connection, self.cell, was, revised, now_us)
            return revised

        return await self.database.write(run)

    async def release_in(
        self, connection: Connection, *standings: Standing, now_us: int = NOW_US
    ) -> list[ReleaseResult]:
        requests = [ReleaseRequest(self.tenant.id, name_of(standing)) for standing in standings]
        return await allocations.release(connection, self.cell, requests, now_us)

    async def release(self, *standings: Standing, now_us: int = NOW_US) -> list[ReleaseResult]:
        return await self.database.write(
            lambda connection: self.release_in(connection, *standings, now_us=now_us)
        )

    async def sweep(self, now_us: int) -> int:
        ended = await self.database.read(lambda connection: allocations.ended_ids(connection, now_us, 1_000))
        return await self.database.write(
            lambda connection: allocations.release_ended(
                connection, self.cell, ended.get(self.cell, []), now_us
            )
        )

    async def record(self, *items: NewOutcome, now_us: int = NOW_US) -> list[Recorded]:
        return await self.database.write(
            lambda connection: outcomes.record(connection, self.cell, items, now_us)
        )

    async def enter(
        self, standing: Standing, side: Side, caller: E164 | None, *, now_us: int = NOW_US, call_sid: str = ""
    ) -> Recorded:
        """A stranger enters the side's PIN."""
        party = standing.allocation.party(side)
        assert party.pin is not None
        call = CallKey(self.tenant.id, call_sid or f"sid-{next(_numbers)}", party.virtual_numbers[0], caller)
        admission = Admission(standing.allocation.id, side)
        right = RightPin(digest_of(party.pin.digits), admission, is_stranger=True)
        [recorded] = await self.record(self.outcome(call, right, party.pin.digits, now_us), now_us=now_us)
        return recorded

    def wrong(
        self,
        call_sid: str,
        digits: str,
        caller: E164 | None = ANN,
        at_us: int = NOW_US,
        *,
        against: Standing | None = None,
    ) -> NewOutcome:
        call = CallKey(self.tenant.id, call_sid, self.vn, caller)
        counts_against = None if against is None else against.allocation.id
        return self.outcome(call, WrongPin(digest_of(digits), counts_against), digits, at_us)

    def right(
        self,
        call_sid: str,
        standing: Standing,
        side: Side,
        caller: E164 | None = ANN,
        *,
        is_stranger: bool = True,
        resets_lock: bool = False,
        at_us: int = NOW_US,
    ) -> NewOutcome:
        pin = standing.allocation.party(side).pin
        assert pin is not None
        call = CallKey(self.tenant.id, call_sid, self.vn, caller)
        admission = Admission(standing.allocation.id, side)
        outcome = RightPin(digest_of(pin.digits), admission, is_stranger, resets_lock)
        return self.outcome(call, outcome, pin.digits, at_us)

    @staticmethod
    def outcome(call: CallKey, outcome: RightPin | WrongPin, digits: str, at_us: int) -> NewOutcome:
        return NewOutcome(
            call=call,
            outcome=outcome,
            digits=Pin(digits),
            start_time=None,
            settings=TenantSettings(),
            at_us=at_us,
        )

    # ── what is kept ─────────────────────────────────────────────────────────

    async def fetch(self, query: str, *more: object) -> list[asyncpg.Record]:
        """`query` with this cell as $1."""
        return await self.database.read(lambda connection: connection.fetch(query, self.cell, *more))

    async def execute(self, query: str, *more: object) -> str:
        return await self.database.write(lambda connection: connection.execute(query, self.cell, *more))

    async def routes(self) -> set[tuple[int, int, bytes, bool]]:
        rows = await self.fetch(
            "SELECT virtual_number, number, allocation_id, needs_pin FROM route WHERE cell = $1"
        )
        return {
            (row["virtual_number"], row["number"], row["allocation_id"].bytes, row["needs_pin"])
            for row in rows
        }

    async def lines(self) -> set[tuple[int, int, bool]]:
        rows = await self.fetch("SELECT virtual_number, number, needs_pin FROM caller_line WHERE cell = $1")
        return {tuple(row) for row in rows}

    async def pins(self) -> dict[tuple[int, str], bytes]:
        """(VN, PIN) → whose, the cooling ones left out."""
        rows = await self.fetch("SELECT * FROM pin_claim WHERE cell = $1 AND cooling_until IS NULL")
        return {(row["virtual_number"], row["pin"]): row["allocation_id"].bytes for row in rows}

    async def uses(self) -> set[tuple[int, bytes, bool]]:
        """(VN, who stands on it, whether alone)."""
        rows = await self.fetch("SELECT * FROM vn_use WHERE cell = $1")
        return {(row["virtual_number"], row["allocation_id"].bytes, row["is_exclusive"]) for row in rows}

    async def alone_on(self) -> dict[int, bool]:
        """VN → whether it bears one that wants it alone, of those that do or that cool after one."""
        rows = await self.fetch(
            "SELECT number, is_exclusive FROM virtual_number"
            " WHERE cell = $1 AND (is_exclusive OR cooling_until IS NOT NULL)"
        )
        return {row["number"]: row["is_exclusive"] for row in rows}

    async def everything(self) -> list[object]:
        """What allocations leave in the tables."""
        rows = await self.fetch("SELECT id FROM allocation WHERE cell = $1")
        cooling = await self.fetch("SELECT * FROM number_cooling WHERE cell = $1")
        return [
            {row["id"].bytes for row in rows},
            {tuple(row) for row in cooling},
            await self.routes(),
            await self.lines(),
            await self.pins(),
            await self.uses(),
            await self.alone_on(),
            await self.told(),
        ]

    async def members(self, standing: Standing) -> list[Member]:
        id = UUID(bytes=standing.allocation.id)
        return await self.database.read(lambda connection: allocations.members(connection, self.cell, id))

    async def found(self, standing: Standing) -> Standing:
        id = UUID(bytes=standing.allocation.id)
        found = await self.database.read(lambda connection: allocations.find(connection, self.cell, [id]))
        return found[id].standing

    async def told(self) -> list[Change]:
        """All changes of the cell's feed, which must be without a gap."""
        rows = await self.fetch("SELECT n, kind, body FROM feed WHERE cell = $1 ORDER BY n")
        assert [row["n"] for row in rows] == list(range(1, len(rows) + 1))
        return [decode(row["kind"], row["body"]) for row in rows]

    async def told_since(self, length: int) -> list[Change]:
        return (await self.told())[length:]

    async def events(self, kind: str) -> list[dict[str, Any]]:
        rows = await self.fetch(
            "SELECT facts FROM event WHERE cell = $1 AND kind = $2 ORDER BY created_at, subject, seq", kind
        )
        return [row["facts"] for row in rows]


def alone(standing: Standing) -> Standing:
    """The same, which wants its VNs for itself and locks itself after three wrong PINs."""
    return replace(
        standing,
        client_id=None,
        generation=Generation.SECOND,
        pin_attempts_max=3,
        allocation=standing.allocation._replace(is_exclusive=True),
    )


def name_of(standing: Standing) -> AllocationName:
    allocation = standing.allocation
    return AllocationName(UUID(bytes=allocation.id), allocation.product, standing.generation)


def _party(
    numbers: Sequence[E164], virtual_numbers: Sequence[E164], pin: str | None, needs_pin: bool | None
) -> Party:
    return Party(
        numbers=tuple(numbers),
        virtual_numbers=tuple(virtual_numbers),
        pins=() if pin is None else (Pin(pin),),
        listed_need_pin=pin is not None if needs_pin is None else needs_pin,
    )


async def opened_office(database: Database, settings: dict[str, Any] | None = None) -> Office:
    """In a cell that nobody else has, of which there are 256."""
    office = await office_among_others(database, settings)
    neighbours = await office.fetch("SELECT id FROM tenant WHERE cell = $1 AND id <> $2", office.tenant.id)
    assert not neighbours, "the module has more offices than there are cells"
    return office


async def office_among_others(
    database: Database, settings: dict[str, Any] | None = None, virtual_numbers: int = 3
) -> Office:
    """In the least used cell."""
    number = next(_numbers)
    made = await provisioning.add_tenant(
        database, f"office-{number}", {**ENDPOINTS, **(settings or {})}, NOW_US
    )
    first = 918_000_000_000 + number * 100
    numbers = tuple(E164(first + place) for place in range(virtual_numbers))
    await provisioning.add_virtual_numbers(
        database, made.tenant.id, [NewVirtualNumber(number) for number in numbers], NOW_US
    )
    return Office(database, made.tenant, numbers)


class Undone(Exception):
    """Rolls a transaction back."""


async def race(
    database: Database,
    first: Callable[[Connection], Awaitable[Any]],
    second: Callable[[Connection], Awaitable[Result]],
    *,
    undo: bool = False,
) -> Result:
    """`second` begins when `first` is done and not committed, and waits for it; then `first` commits, or
    is undone. Returns what `second` made of it."""
    is_done, let_go = asyncio.Event(), asyncio.Event()

    async def hold(connection: Connection) -> None:
        await first(connection)
        is_done.set()
        await let_go.wait()
        if undo:
            raise Undone

    async def run_first() -> None:
        try:
            await database.write(hold)
        except Undone:
            assert undo

    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(run_first())
        await is_done.wait()
        racing = tasks.create_task(database.write(second))
        await until_somebody_is_blocked(database)
        let_go.set()
    return racing.result()


class CountingRepeats(Database):
    """Tells how often a transaction had to be run again: after a deadlock, say."""

    def __init__(self, database: Database) -> None:
        # One more face of the same database, up or away as it is.
        self.__dict__.update(vars(database))
        self.repeats = 0

    async def write(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        runs = count()

        async def counted(connection: Connection) -> Result:
            self.repeats += next(runs) > 0
            return await work(connection)

        return await super().write(counted)


async def until_somebody_is_blocked(database: Database) -> None:
    while not await database.read(
        lambda connection: connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    ):
        pass
