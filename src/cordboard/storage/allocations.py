"""Allocations in PostgreSQL: made in batches, updated, released, and read.

What two requests may not both have is refused here by the constraints of the schema: rows are put in
with ON CONFLICT DO NOTHING in the order of their keys, and whoever misses one of its rows has lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from cordboard.clock import (
    SECOND_US,
    to_datetime,
    to_datetime_or_none,
    to_instant_us,
)
from cordboard.routing.allocate import Standing, side_key
from cordboard.routing.changes import (
    AllocationReleased,
    AllocationStands,
    Change,
    MemberLeft,
    MemberStands,
)
from cordboard.routing.model import Allocation, AllocationId, Party, Side, State
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.pins import pins_on
from cordboard.storage import feed
from cordboard.storage.database import Connection
from cordboard.storage.events import NewEvent, add_events
from cordboard.storage.facts import DeallocatedFacts
from cordboard.storage.feed import Position
from cordboard.storage.queries import load

_SQL: Final = load("allocations")

# How long a repeated request under the same key gets the first answer again.
ANSWER_KEPT_US: Final = 24 * 3_600 * SECOND_US


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What a client wants to be answered again when it repeats the request under its key."""

    key: str
    body_digest: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class NewAllocation:
    tenant_no: int
    standing: Standing
    idempotency: Idempotency | None = None
    # It lost beside others that lost; alone in its batch it has nobody else to lose to.
    is_second_try: bool = False

    @property
    def id(self) -> UUID:
        return UUID(bytes=self.standing.allocation.id)


class Made(NamedTuple):
    position: Position


class ClientIdTaken(NamedTuple):
    """The tenant has an active allocation with this client id."""


class NumberTaken(NamedTuple):
    """On that VN the number has a route that leaves no room for this one."""

    virtual_number: E164
    number: E164


class PinTaken(NamedTuple):
    """On that VN the PIN is somebody else's, or still cools."""

    virtual_number: E164
    pin: Pin


class AnsweredBefore(NamedTuple):
    """There is an answer under the request's Idempotency-Key."""


class TryAgain(NamedTuple):
    """What it lost to may be gone: an ended allocation was released, or a neighbour lost too."""


Taken = ClientIdTaken | NumberTaken | PinTaken
MakeResult = Made | Taken | AnsweredBefore | TryAgain


class _Route(NamedTuple):
    virtual_number: E164
    number: E164
    allocation_id: UUID
    side: Side
    needs_pin: bool


class _Claim(NamedTuple):
    virtual_number: E164
    pin: Pin
    allocation_id: UUID
    side: Side | None


async def make(
    connection: Connection, cell: int, items: Sequence[NewAllocation], now_us: int
) -> list[MakeResult]:
    """Make those allocations of one cell that nothing stands against, each whole or not at all."""
    lost: dict[UUID, MakeResult] = {}
    await _keep_answers(connection, cell, items, now_us, lost)
    await _insert_rows(connection, cell, [item for item in items if item.id not in lost], lost, now_us)
    if lost:
        await _take_back(connection, cell, list(lost))
    made = [item for item in items if item.id not in lost]
    changes: list[Change] = []
    losers = [item for item in items if item.id in lost and not isinstance(lost[item.id], AnsweredBefore)]
    if losers:
        changes += await _release_ended_blockers(connection, cell, losers, lost, now_us)
    changes += [
        AllocationStands(item.tenant_no, item.standing.version, item.standing.allocation) for item in made
    ]
    if not changes:
        return [lost[item.id] for item in items]
    position = await feed.append(connection, cell, changes, now_us)
    return [lost.get(item.id, Made(position)) for item in items]


async def _keep_answers(
    connection: Connection,
    cell: int,
    items: Sequence[NewAllocation],
    now_us: int,
    lost: dict[UUID, MakeResult],
) -> None:
    with_key = {
        (item.standing.tenant_id, item.idempotency.key): (item, item.idempotency)
        for item in items
        if item.idempotency is not None
    }
    if not with_key:
        return
    kept = await connection.fetch(
        _SQL["keep_answers"],
        cell,
        [item.standing.tenant_id for item, _ in with_key.values()],
        [idempotency.key for _, idempotency in with_key.values()],
        [idempotency.body_digest for _, idempotency in with_key.values()],
        [item.id for item, _ in with_key.values()],
        [idempotency.answer for _, idempotency in with_key.values()],
        to_datetime(now_us),
        to_datetime(now_us - ANSWER_KEPT_US),
    )
    ids = {row["allocation_id"] for row in kept}
    lost.update(
        (item.id, AnsweredBefore()) for item in items if item.idempotency is not None and item.id not in ids
    )


async def _insert_rows(
    connection: Connection,
    cell: int,
    items: Sequence[NewAllocation],
    lost: dict[UUID, MakeResult],
    now_us: int,
) -> None:
    standings = [item.standing for item in items]
    allocations = [standing.allocation for standing in standings]
    rows = await connection.fetch(
        _SQL["insert_allocations"],
        cell,
        [item.id for item in items],
        [standing.tenant_id for standing in standings],
        [allocation.product.value for allocation in allocations],
        [standing.client_id for standing in standings],
        [allocation.usage.value for allocation in allocations],
        # An array of arrays of different lengths does not travel; its text does.
        [_array_text(allocation.a.virtual_numbers) for allocation in allocations],
        [_array_text(allocation.b.virtual_numbers) for allocation in allocations],
        [_pin_text(allocation.a.pin) for allocation in allocations],
        [_pin_text(allocation.b.pin) for allocation in allocations],
        [allocation.a.listed_need_pin for allocation in allocations],
        [allocation.b.listed_need_pin for allocation in allocations],
        [allocation.common_pin for allocation in allocations],
        [standing.cool_off_s for standing in standings],
        [to_datetime(standing.created_at_us) for standing in standings],
        [to_datetime_or_none(allocation.expires_at_us) for allocation in allocations],
    )
    inserted = {row["id"] for row in rows}
    lost.update((item.id, ClientIdTaken()) for item in items if item.id not in inserted)
    items = [item for item in items if item.id in inserted]
    await _insert_listed(connection, cell, [item.standing.allocation for item in items])
    for route in await _add_routes(
        connection, cell, [route for item in items for route in _listed_routes(item.standing.allocation)]
    ):
        lost.setdefault(route.allocation_id, NumberTaken(route.virtual_number, route.number))
    claims = [claim for item in items if item.id not in lost for claim in _claims(item.standing.allocation)]
    for claim in await _claim_pins(connection, cell, claims, now_us):
        lost.setdefault(claim.allocation_id, PinTaken(claim.virtual_number, claim.pin))


async def _insert_listed(connection: Connection, cell: int, allocations: Sequence[Allocation]) -> None:
    listed = [
        (UUID(bytes=allocation.id), number, side_key(side), position)
        for allocation in allocations
        for side in Side
        for position, number in enumerate(allocation.party(side).numbers)
    ]
    await connection.execute(_SQL["insert_listed"], cell, *_columns(listed, 4))


async def _add_routes(connection: Connection, cell: int, routes: Sequence[_Route]) -> list[_Route]:
    """Put in the routes that the rule "one without PIN, or many with" allows; returns the others."""
    if not routes:
        return []
    wanted: dict[tuple[E164, E164], bool] = {}
    for route in routes:
        wanted.setdefault((route.virtual_number, route.number), route.needs_pin)
    lines = await connection.fetch(
        _SQL["hold_lines"],
        cell,
        [virtual_number for virtual_number, _ in wanted],
        [number for _, number in wanted],
        list(wanted.values()),
    )
    needs_pin = {(row["virtual_number"], row["number"]): row["needs_pin"] for row in lines}
    fitting = [route for route in routes if needs_pin[route.virtual_number, route.number] == route.needs_pin]
    rows = await connection.fetch(
        _SQL["insert_routes"],
        cell,
        [route.virtual_number for route in fitting],
        [route.number for route in fitting],
        [route.allocation_id for route in fitting],
        [side_key(route.side) for route in fitting],
        [route.needs_pin for route in fitting],
    )
    inserted = {(row["virtual_number"], row["number"], row["allocation_id"]) for row in rows}
    return [
        route for route in routes if (route.virtual_number, route.number, route.allocation_id) not in inserted
    ]


async def _claim_pins(
    connection: Connection, cell: int, claims: Sequence[_Claim], now_us: int
) -> list[_Claim]:
    """Claim the PINs that are free; returns the claims that were refused."""
    # One statement cannot touch a row twice: of two claims of one batch the first stands.
    first = {(claim.virtual_number, claim.pin): claim for claim in reversed(claims)}
    if not first:
        return []
    rows = await connection.fetch(
        _SQL["claim_pins"],
        cell,
        [virtual_number for virtual_number, _ in first],
        [pin.digits for _, pin in first],
        [claim.allocation_id for claim in first.values()],
        ["both" if claim.side is None else side_key(claim.side) for claim in first.values()],
        to_datetime(now_us),
    )
    claimed = {(row["virtual_number"], row["pin"], row["allocation_id"]) for row in rows}
    return [
        claim
        for claim in claims
        if (claim.virtual_number, claim.pin.digits, claim.allocation_id) not in claimed
    ]


async def _take_back(connection: Connection, cell: int, ids: Sequence[UUID]) -> None:
    """Undo what losers put in, so that they leave no trace in this transaction."""
    await connection.execute(_SQL["forget_answers"], cell, ids)
    await _delete_routes(connection, cell, ids)
    await connection.execute(_SQL["delete_pins"], cell, ids)
    await connection.execute(_SQL["delete_parties"], cell, ids)
    await connection.execute(_SQL["delete_allocations"], cell, ids)


async def _delete_routes(connection: Connection, cell: int, ids: Sequence[UUID]) -> None:
    rows = await connection.fetch(_SQL["delete_routes"], cell, ids)
    await _drop_idle_lines(connection, cell, [(row["virtual_number"], row["number"]) for row in rows])


async def _drop_idle_lines(connection: Connection, cell: int, left: Iterable[tuple[int, int]]) -> None:
    """The last route takes its line away, under the line's lock."""
    lines = _columns(sorted(set(left)), 2)
    if lines[0]:
        await connection.execute(_SQL["lock_lines"], cell, *lines)
        await connection.execute(_SQL["delete_idle_lines"], cell, *lines)


async def _release_ended_blockers(
    connection: Connection,
    cell: int,
    losers: Sequence[NewAllocation],
    lost: dict[UUID, MakeResult],
    now_us: int,
) -> list[Change]:
    """Release ended allocations that stood in the way, and say which losers should try again."""
    standings = [item.standing for item in losers]
    routes = [route for standing in standings for route in _listed_routes(standing.allocation)]
    claims = [claim for standing in standings for claim in _claims(standing.allocation)]
    rows = await connection.fetch(
        _SQL["ended_blockers"],
        cell,
        to_datetime(now_us),
        [standing.tenant_id for standing in standings],
        [standing.allocation.product.value for standing in standings],
        [standing.client_id for standing in standings],
        [route.virtual_number for route in routes],
        [route.number for route in routes],
        [claim.virtual_number for claim in claims],
        [claim.pin.digits for claim in claims],
    )
    changes: list[Change] = []
    if rows:
        changes = await _release(connection, cell, [row["id"] for row in rows], now_us, ended_only=True)
    lost_to_neighbours = [item for item in losers if len(losers) > 1 and not item.is_second_try]
    for item in losers if changes else lost_to_neighbours:
        lost[item.id] = TryAgain()
    return changes


async def kept_answer(
    connection: Connection, cell: int, tenant_id: str, key: str, now_us: int
) -> tuple[bytes, bytes] | None:
    """(digest of the body, answer) under an Idempotency-Key."""
    row = await connection.fetchrow(
        _SQL["kept_answer"], cell, tenant_id, key, to_datetime(now_us - ANSWER_KEPT_US)
    )
    return None if row is None else (row["body_digest"], row["answer"])


async def cells_to_clear(connection: Connection, now_us: int) -> list[int]:
    """Cells with answers that were kept long enough, or with PINs that have cooled down."""
    before = to_datetime(now_us - ANSWER_KEPT_US)
    rows = await connection.fetch(_SQL["cells_to_clear"], before, to_datetime(now_us))
    return [row["cell"] for row in rows]


async def clear_cell(connection: Connection, cell: int, now_us: int) -> None:
    await connection.execute(_SQL["forget_old_answers"], cell, to_datetime(now_us - ANSWER_KEPT_US))
    await connection.execute(_SQL["delete_cooled_pins"], cell, to_datetime(now_us))


# ── reading ──────────────────────────────────────────────────────────────────


class Found(NamedTuple):
    tenant_no: int
    standing: Standing


@dataclass(frozen=True, slots=True)
class Member:
    number: E164
    side: Side
    joined_at_us: int


async def find(connection: Connection, cell: int, ids: Sequence[UUID]) -> dict[UUID, Found]:
    rows = await connection.fetch(_SQL["standing"], cell, ids)
    return {row["id"]: Found(row["tenant_no"], _standing(row)) for row in rows}


async def members(connection: Connection, cell: int, allocation_id: UUID) -> list[Member]:
    """Who joined, in the order of joining."""
    rows = await connection.fetch(_SQL["members"], cell, allocation_id)
    return [Member(E164(row["number"]), _side(row["side"]), to_instant_us(row["joined_at"])) for row in rows]


def _standing(row: asyncpg.Record) -> Standing:
    return Standing(
        tenant_id=row["tenant_id"],
        client_id=row["client_id"],
        allocation=feed.allocation_of(row),
        state=State(row["state"]),
        version=row["version"],
        cool_off_s=row["cool_off_s"],
        created_at_us=to_instant_us(row["created_at"]),
    )


# ── release ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    tenant_id: str
    allocation_id: UUID


class Released(NamedTuple):
    standing: Standing
    position: Position


class ReleasedBefore(NamedTuple):
    """Vaulted already, or past its end."""


class Unknown(NamedTuple):
    """No allocation of this tenant."""


ReleaseResult = Released | ReleasedBefore | Unknown


async def release(
    connection: Connection, cell: int, requests: Sequence[ReleaseRequest], now_us: int
) -> list[ReleaseResult]:
    """Release by request. What is past its end counts as released before, by its policy."""
    ids = sorted({request.allocation_id for request in requests})
    await connection.execute(_SQL["lock_active"], cell, ids, None)
    found = await find(connection, cell, ids)
    theirs = {
        request.allocation_id
        for request in requests
        if request.allocation_id in found
        and found[request.allocation_id].standing.tenant_id == request.tenant_id
    }
    active = {id for id in theirs if found[id].standing.state is State.ACTIVE}
    ended = {id for id in active if not found[id].standing.allocation.is_live(now_us)}
    changes = await _release(connection, cell, sorted(ended), now_us, ended_only=True)
    changes += await _release(connection, cell, sorted(active - ended), now_us, ended_only=False)
    position = await feed.append(connection, cell, changes, now_us) if changes else None
    results: list[ReleaseResult] = []
    told: set[UUID] = set()
    for request in requests:
        id = request.allocation_id
        if id not in theirs:
            results.append(Unknown())
        elif id in active - ended and id not in told:
            assert position is not None
            told.add(id)
            standing = found[id].standing
            results.append(Released(_vaulted(standing), position))
        else:
            results.append(ReleasedBefore())
    return results


async def ended_ids(connection: Connection, now_us: int, limit_per_cell: int) -> dict[int, list[UUID]]:
    """Cell → active allocations past their end."""
    ended: dict[int, list[UUID]] = {}
    for row in await connection.fetch(_SQL["ended"], to_datetime(now_us), limit_per_cell):
        ended.setdefault(row["cell"], []).append(row["id"])
    return ended


async def release_ended(
    connection: Connection, cell: int, ids: Sequence[UUID], now_us: int
) -> Position | None:
    """Release those that are active and past their end; somebody else may have been first."""
    changes = await release_changes(connection, cell, ids, now_us)
    return await feed.append(connection, cell, changes, now_us) if changes else None


async def release_changes(
    connection: Connection, cell: int, ids: Sequence[UUID], now_us: int
) -> list[Change]:
    """Release ended allocations as a part of a larger change, whose feed rows the caller writes."""
    return await _release(connection, cell, ids, now_us, ended_only=True)


async def _release(
    connection: Connection, cell: int, ids: Sequence[UUID], now_us: int, *, ended_only: bool
) -> list[Change]:
    """Vault the active ones among `ids`, with their one event; returns what the feed should tell."""
    if not ids:
        return []
    locked = await connection.fetch(
        _SQL["lock_active"], cell, ids, to_datetime(now_us) if ended_only else None
    )
    ids = [row["id"] for row in locked]
    if not ids:
        return []
    found = await find(connection, cell, ids)
    cause = "expired" if ended_only else "requested"
    await connection.execute(_SQL["release"], cell, ids, cause, to_datetime(now_us))
    await _delete_routes(connection, cell, ids)
    await connection.execute(_SQL["lock_pins"], cell, ids)
    await connection.execute(_SQL["cool_pins"], cell, ids)
    await connection.execute(_SQL["delete_pins"], cell, ids)
    await add_events(connection, cell, [_deallocated(found[id].standing) for id in ids], now_us)
    return [
        AllocationReleased(
            found[id].tenant_no, found[id].standing.version + 1, found[id].standing.allocation.id
        )
        for id in ids
    ]


def _vaulted(standing: Standing) -> Standing:
    return Standing(
        tenant_id=standing.tenant_id,
        client_id=standing.client_id,
        allocation=standing.allocation,
        state=State.VAULT,
        version=standing.version + 1,
        cool_off_s=standing.cool_off_s,
        created_at_us=standing.created_at_us,
    )


def _deallocated(standing: Standing) -> NewEvent:
    allocation = standing.allocation
    return NewEvent(
        tenant_id=standing.tenant_id,
        subject=str(UUID(bytes=allocation.id)),
        product=allocation.product,
        facts=DeallocatedFacts(
            transaction_id=standing.client_id,
            allocation_id=allocation.id,
            usage=allocation.usage,
            a=allocation.a,
            b=allocation.b,
        ),
    )


# ── update ───────────────────────────────────────────────────────────────────


class NotFound(Exception):
    """No allocation of this tenant has that id."""


class AlreadyReleased(Exception):
    """It is vaulted, or past its end."""


class Conflict(Exception):
    """The update would take what somebody else has."""

    def __init__(self, taken: Taken, becomes: Allocation) -> None:
        super().__init__(type(taken).__name__)
        self.taken = taken
        self.becomes = becomes


async def lock_for_update(
    connection: Connection, cell: int, tenant_id: str, allocation_id: UUID, now_us: int
) -> Found:
    """The allocation, locked until the transaction ends. Raises NotFound, AlreadyReleased."""
    row = await connection.fetchrow(_SQL["lock_one"], cell, tenant_id, allocation_id)
    if row is None:
        raise NotFound
    found = (await find(connection, cell, [allocation_id]))[allocation_id]
    if row["state"] != State.ACTIVE.value or not found.standing.allocation.is_live(now_us):
        raise AlreadyReleased
    return found


@dataclass(slots=True)
class _MemberRoutes:
    """A member of an allocation under update, and the VNs on which it has a route."""

    side: Side
    joined_at_us: int
    virtual_numbers: set[E164] = field(default_factory=set)


async def update(connection: Connection, cell: int, was: Found, becomes: Standing, now_us: int) -> Position:
    """Replace the locked allocation `was`. Raises Conflict, to be rolled back."""
    before, after = was.standing.allocation, becomes.allocation
    id = UUID(bytes=after.id)
    joined = await _member_routes(connection, cell, id)
    leaving = {
        number
        for number, member in joined.items()
        if before.party(member.side).pin != after.party(member.side).pin
        or number in after.a.numbers
        or number in after.b.numbers
    }
    wanted = set(_listed_routes(after))
    standing_routes = set(_listed_routes(before))
    member_routes = {
        number: {
            _Route(virtual_number, number, id, member.side, after.party(member.side).listed_need_pin)
            for virtual_number in after.party(member.side).virtual_numbers
        }
        for number, member in joined.items()
        if number not in leaving
    }
    had_routes = {
        number: {
            _Route(virtual_number, number, id, member.side, before.party(member.side).listed_need_pin)
            for virtual_number in member.virtual_numbers
        }
        for number, member in joined.items()
    }
    gone = (standing_routes - wanted).union(
        *(had - member_routes.get(number, set()) for number, had in had_routes.items())
    )
    await _drop_routes(connection, cell, gone)
    unlisted = (set(before.a.numbers) | set(before.b.numbers)) | leaving
    await _replace_parties(connection, cell, before, after, unlisted)
    for route in await _add_routes(connection, cell, sorted(wanted - standing_routes)):
        raise Conflict(NumberTaken(route.virtual_number, route.number), after)
    await _swap_pins(connection, cell, was.standing, becomes, now_us)

    changes: list[Change] = [AllocationStands(was.tenant_no, becomes.version, after)]
    changes += [MemberLeft(was.tenant_no, after.id, number) for number in sorted(leaving)]
    for number, wishes in member_routes.items():
        had = had_routes[number]
        if wishes == had:
            continue
        # A member follows its side to new VNs as far as nobody stands there already.
        refused = set(await _add_routes(connection, cell, sorted(wishes - had)))
        has = wishes - refused
        if has:
            changes.append(_member_stands(was.tenant_no, after, number, joined[number], has))
        else:
            await connection.execute(_SQL["delete_some_parties"], cell, id, [number])
            changes.append(MemberLeft(was.tenant_no, after.id, number))
    await _drop_idle_lines(connection, cell, [(route.virtual_number, route.number) for route in gone])
    await connection.execute(
        _SQL["update_allocation"],
        cell,
        id,
        after.usage.value,
        becomes.version,
        after.a.virtual_numbers,
        after.b.virtual_numbers,
        _pin_text(after.a.pin),
        _pin_text(after.b.pin),
        to_datetime_or_none(after.expires_at_us),
    )
    return await feed.append(connection, cell, changes, now_us)


async def _member_routes(connection: Connection, cell: int, id: UUID) -> dict[E164, _MemberRoutes]:
    members: dict[E164, _MemberRoutes] = {}
    for row in await connection.fetch(_SQL["member_routes"], cell, id):
        member = members.setdefault(
            E164(row["number"]), _MemberRoutes(_side(row["side"]), to_instant_us(row["joined_at"]))
        )
        if row["virtual_number"] is not None:
            member.virtual_numbers.add(E164(row["virtual_number"]))
    return members


async def _drop_routes(connection: Connection, cell: int, routes: Iterable[_Route]) -> None:
    gone = sorted((route.virtual_number, route.number, route.allocation_id) for route in routes)
    if gone:
        lines = _columns([(virtual_number, number) for virtual_number, number, _ in gone], 2)
        await connection.execute(_SQL["lock_lines"], cell, *lines)
        await connection.execute(_SQL["delete_some_routes"], cell, *_columns(gone, 3))


async def _replace_parties(
    connection: Connection, cell: int, before: Allocation, after: Allocation, unlisted: set[E164]
) -> None:
    """Numbers whose routes still stand cannot be deleted and put in again, so only differences are."""
    places = {
        allocation: {
            number: (side, position)
            for side in Side
            for position, number in enumerate(allocation.party(side).numbers)
        }
        for allocation in (before, after)
    }
    was, becomes = places[before], places[after]
    id = UUID(bytes=after.id)
    gone = [number for number in unlisted if number not in becomes or number not in was]
    if gone:
        await connection.execute(_SQL["delete_some_parties"], cell, id, gone)
    new = [
        (id, number, side_key(side), position)
        for number, (side, position) in becomes.items()
        if was.get(number) != (side, position)
    ]
    await connection.execute(_SQL["place_listed"], cell, *_columns(new, 4))


async def _swap_pins(
    connection: Connection, cell: int, was: Standing, becomes: Standing, now_us: int
) -> None:
    before, after = set(_claims(was.allocation)), set(_claims(becomes.allocation))
    id = UUID(bytes=becomes.allocation.id)
    dropped = sorted({(claim.virtual_number, claim.pin.digits) for claim in before - after})
    if dropped:
        columns = _columns(dropped, 2)
        if was.cool_off_s:
            free_at = to_datetime(now_us + was.cool_off_s * SECOND_US)
            await connection.execute(_SQL["cool_some_pins"], cell, id, *columns, free_at)
        else:
            await connection.execute(_SQL["drop_some_pins"], cell, id, *columns)
    added = sorted(after - before, key=lambda claim: (claim.virtual_number, claim.pin.digits))
    for claim in await _claim_pins(connection, cell, added, now_us):
        raise Conflict(PinTaken(claim.virtual_number, claim.pin), becomes.allocation)


# ── joining ──────────────────────────────────────────────────────────────────


class Join(NamedTuple):
    allocation_id: AllocationId
    number: E164
    side: Side


async def join(
    connection: Connection, cell: int, joins: Sequence[Join], found: dict[UUID, Found], now_us: int
) -> list[Change]:
    """Make members of callers who proved a PIN; a join that would break a rule is not stored.

    `found` are the allocations, locked; those that are no longer live take nobody in.
    """
    joinable = sorted(
        {
            join
            for join in joins
            if (here := found.get(UUID(bytes=join.allocation_id))) is not None
            and here.standing.state is State.ACTIVE
            and here.standing.allocation.is_live(now_us)
            and join.number not in here.standing.allocation.a.numbers
            and join.number not in here.standing.allocation.b.numbers
        }
    )
    if not joinable:
        return []
    rows = await connection.fetch(
        _SQL["insert_members"],
        cell,
        [UUID(bytes=join.allocation_id) for join in joinable],
        [join.number for join in joinable],
        [side_key(join.side) for join in joinable],
        [to_datetime(now_us) for _ in joinable],
    )
    inserted = {(row["allocation_id"].bytes, row["number"]) for row in rows}
    changes: list[Change] = []
    for joining in joinable:
        if (joining.allocation_id, joining.number) not in inserted:
            continue
        id = UUID(bytes=joining.allocation_id)
        here = found[id]
        party = here.standing.allocation.party(joining.side)
        routes = [
            _Route(virtual_number, joining.number, id, joining.side, party.listed_need_pin)
            for virtual_number in party.virtual_numbers
        ]
        refused = await _add_routes(connection, cell, routes)
        if refused:
            await _drop_routes(connection, cell, set(routes) - set(refused))
            await _drop_idle_lines(connection, cell, [route[:2] for route in routes])
            await connection.execute(_SQL["delete_some_parties"], cell, id, [joining.number])
            continue
        member = _MemberRoutes(joining.side, now_us)
        changes.append(
            _member_stands(here.tenant_no, here.standing.allocation, joining.number, member, set(routes))
        )
    return changes


async def lock_many(connection: Connection, cell: int, ids: Iterable[UUID]) -> dict[UUID, Found]:
    """Allocations with their rows locked in the order in which everybody locks them."""
    in_order = sorted(set(ids))
    await connection.execute(_SQL["lock_active"], cell, in_order, None)
    return await find(connection, cell, in_order)


def _member_stands(
    tenant_no: int, allocation: Allocation, number: E164, member: _MemberRoutes, routes: set[_Route]
) -> MemberStands:
    return MemberStands(
        tenant_no=tenant_no,
        allocation_id=allocation.id,
        number=number,
        side=member.side,
        joined_at_us=member.joined_at_us,
        needs_pin=allocation.party(member.side).listed_need_pin,
        virtual_numbers=tuple(sorted(route.virtual_number for route in routes)),
    )


# ── rows ─────────────────────────────────────────────────────────────────────


def _listed_routes(allocation: Allocation) -> list[_Route]:
    id = UUID(bytes=allocation.id)
    return [
        _Route(virtual_number, number, id, side, party.listed_need_pin)
        for side, party in _parties(allocation)
        for virtual_number in party.virtual_numbers
        for number in party.numbers
    ]


def _claims(allocation: Allocation) -> list[_Claim]:
    id = UUID(bytes=allocation.id)
    return [_Claim(virtual_number, pin, id, side) for virtual_number, pin, side in pins_on(allocation)]


def _parties(allocation: Allocation) -> tuple[tuple[Side, Party], ...]:
    return ((Side.A, allocation.a), (Side.B, allocation.b))


def _side(key: str) -> Side:
    return Side[key.upper()]


def _pin_text(pin: Pin | None) -> str | None:
    return None if pin is None else pin.digits


def _array_text(numbers: Sequence[E164]) -> str:
    return "{" + ",".join(number.plus[1:] for number in numbers) + "}"


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    """Rows as the columns that unnest takes."""
    return [[row[column] for row in rows] for column in range(width)]
