"""One person erased everywhere: out of live allocations, out of the vault, and out of all records.

Each step is a transaction of its own and is done or not, so that whatever ends an erasure, the next one
goes on, and one after a finished one finds nothing. It takes what is there: who calls meanwhile is on record
again.

Events about the person that wait to be told are told first, and masked afterwards. The texts that clients and
platforms call things by (transaction ids, tags, CallSids) are theirs and are not searched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import orjson
import structlog

from cordboard.routing.changes import Change, MemberLeft
from cordboard.routing.model import Allocation
from cordboard.routing.numbers import E164
from cordboard.storage import allocations, feed, untold
from cordboard.storage.allocations import AllocationName, Found, ReleaseRequest
from cordboard.storage.allocations.rows import Route, drop_idle_lines, drop_routes, side_of
from cordboard.storage.database import Connection, Database
from cordboard.storage.feed import Position
from cordboard.storage.provisioning import NoSuchTenant
from cordboard.storage.queries import load
from cordboard.storage.resting import Resting, keep, masked_facts, mentions
from cordboard.storage.sealing import DataKeys, Sealed, bound_to_answer, check_keys
from cordboard.storage.subjects import lock_subjects

_SQL: Final = load("erasing")

# One transaction of a walk: some 20 ms, most of it for reading facts.
ROWS_PER_STEP: Final = 1_000
_log = structlog.get_logger(__name__)


class Erasure(Enum):
    """What an erasure counts."""

    # Live allocations: left by a member, changed without a listed number, released for want of anybody.
    MEMBERSHIPS = "memberships"
    UPDATED = "allocations_updated"
    RELEASED = "allocations_released"
    # Of released allocations.
    VAULTED = "vaulted_allocations"
    COOLING = "cooling_numbers"
    CALLS = "calls"
    ENDS = "call_ends"
    VERIFICATIONS = "verifications"
    EVENTS = "events_masked"
    PENDING_EVENTS = "events_masked_after_delivery"
    ONCE_KEYS = "event_keys"
    ANSWERS = "idempotent_answers"
    LIFTED = "lifted_throttles"


OnProgress = Callable[[int, int], None]


class Erased(NamedTuple):
    counts: dict[Erasure, int]
    # What the board has to be told; empty if nobody routes otherwise now.
    positions: list[Position]

    def to_json(self) -> dict[str, int]:
        return {what.value: count for what, count in self.counts.items()}


async def erase(
    database: Database,
    number: E164,
    tenant_id: str | None,
    keys: DataKeys,
    now_us: int,
    *,
    is_dry_run: bool = False,
    on_progress: OnProgress = lambda _, __: None,
) -> Erased:
    """Erase one person, of one tenant or of all.

    `on_progress` hears after each tenant how many are done, and of how many.
    A dry run changes nothing and counts what is there now; the event that a release would write is not yet.
    Raises NoSuchTenant, DataKeyMissing (nothing was erased), DatabaseAway, CommitUnknown.
    """
    await database.read(lambda connection: check_keys(connection, keys))
    tenants = await database.read(lambda connection: connection.fetch(_SQL["tenants"], tenant_id))
    if tenant_id is not None and not tenants:
        raise NoSuchTenant
    counts: Counter[Erasure] = Counter()
    positions: list[Position] = []
    try:
        for done, row in enumerate(tenants, start=1):
            one = _OfTenant(
                database, row["cell"], row["id"], number, keys, now_us, is_dry_run, counts, positions
            )
            await one.run()
            on_progress(done, len(tenants))
    finally:
        # Also of one that was broken off: what it did is done.
        _log.info(
            "erasure.dry_run" if is_dry_run else "erasure.done",
            number=str(number),
            tenant=tenant_id,
            **{what.value: counts[what] for what in Erasure},
        )
    return Erased({what: counts[what] for what in Erasure}, positions)


@dataclass(frozen=True, slots=True)
class _OfTenant:
    database: Database
    cell: int
    tenant_id: str
    number: E164
    keys: DataKeys
    now_us: int
    is_dry_run: bool
    counts: Counter[Erasure]
    positions: list[Position]

    async def run(self) -> None:
        if not self.is_dry_run:
            await self._tell_untold()
        for what, query in ((Erasure.COOLING, "delete_cooling"), (Erasure.LIFTED, "delete_lifted")):
            [row] = await self._written(query, self.number, self.is_dry_run)
            self.counts[what] += row["found"]
        await self._live()
        await self._vaulted()
        await self._calls()
        await self._ends()
        await self._verifications()
        await self._events()
        await self._once_keys()
        await self._answers()
        if not self.is_dry_run:
            await self.database.write(self._forget_last_word)

    async def _tell_untold(self) -> None:
        """What was answered and is not in its place yet, as after a crash: it may tell of the person."""
        while left := await self.database.read(
            lambda connection: untold.left_untold(connection, self.now_us, ROWS_PER_STEP, [self.cell])
        ):
            items = [item for _, item in left]
            written = await self.database.write(
                partial(untold.tell, cell=self.cell, items=items, now_us=self.now_us)
            )
            if written is not None:
                self.positions.append(written.position)

    # ── allocations ──────────────────────────────────────────────────────────

    async def _live(self) -> None:
        for row in await self._read("live_allocations", self.number):
            what, position = await self.database.write(partial(self._leave, id=row["id"]))
            if what is not None:
                self.counts[what] += 1
            if position is not None:
                self.positions.append(position)

    async def _leave(self, connection: Connection, id: UUID) -> tuple[Erasure | None, Position | None]:
        """Take the person out of an allocation that was active a moment ago."""
        found = (await allocations.lock_many(connection, self.cell, [id])).get(id)
        party = await connection.fetchrow(_SQL["party"], self.cell, id, self.number)
        if found is None or party is None:
            return None, None
        if not found.standing.is_active(self.now_us):
            if self.is_dry_run:
                return Erasure.VAULTED, None
            changes = await allocations.release_changes(connection, self.cell, [id], self.now_us)
            return Erasure.VAULTED, await self._forget(connection, id, changes)
        if party["is_member"]:
            if self.is_dry_run:
                return Erasure.MEMBERSHIPS, None
            await self._drop_member_routes(connection, id)
            left = MemberLeft(found.tenant_no, found.standing.allocation.id, self.number)
            return Erasure.MEMBERSHIPS, await self._forget(connection, id, [left])
        becomes = _without(found.standing.allocation, self.number)
        if becomes is None:
            if not self.is_dry_run:
                name = AllocationName(id, found.standing.allocation.product, found.standing.generation)
                request = ReleaseRequest(self.tenant_id, name)
                await allocations.release(connection, self.cell, [request], self.now_us)
                return Erasure.RELEASED, await self._forget(connection, id, [])
            return Erasure.RELEASED, None
        if self.is_dry_run:
            return Erasure.UPDATED, None
        await self._update(connection, found, becomes)
        return Erasure.UPDATED, await self._forget(connection, id, [])

    async def _update(self, connection: Connection, was: Found, becomes: Allocation) -> None:
        standing = replace(was.standing, allocation=becomes, version=was.standing.version + 1)
        await allocations.update(connection, self.cell, was, standing, self.now_us)

    async def _drop_member_routes(self, connection: Connection, id: UUID) -> None:
        rows = await connection.fetch(_SQL["routes_of_member"], self.cell, id, self.number)
        routes = [
            Route(E164(row["virtual_number"]), self.number, id, side_of(row["side"]), row["needs_pin"])
            for row in rows
        ]
        await drop_routes(connection, self.cell, routes)
        await drop_idle_lines(
            connection, self.cell, [(route.virtual_number, route.number) for route in routes]
        )

    async def _forget(self, connection: Connection, id: UUID, changes: list[Change]) -> Position:
        """What is left of the person in an allocation whose routes are gone, and the last word of the feed.

        The newest change of a cell stays in the feed whatever its age: it should name nobody.
        """
        await connection.execute(_SQL["delete_party"], self.cell, id, self.number)
        await connection.execute(_SQL["delete_cooling_of_party"], self.cell, id, self.number)
        tenant = await feed.tenant_change(connection, self.tenant_id)
        return await feed.append(connection, self.cell, [*changes, tenant], self.now_us)

    async def _forget_last_word(self, connection: Connection) -> None:
        """The same for somebody of whom no allocation tells, but a wrong PIN or a lifted throttle does."""
        body = await connection.fetchval(_SQL["last_word"], self.cell)
        if body is not None and mentions(orjson.loads(body), self.number):
            tenant = await feed.tenant_change(connection, self.tenant_id)
            await feed.append(connection, self.cell, [tenant], self.now_us)

    async def _vaulted(self) -> None:
        last = UUID(int=0)
        query = "delete_vaulted_parties"
        while rows := await self._written(query, self.number, last, self.is_dry_run, ROWS_PER_STEP):
            self.counts[Erasure.VAULTED] += len(rows)
            last = rows[-1]["allocation_id"]

    # ── records ──────────────────────────────────────────────────────────────

    async def _calls(self) -> None:
        last: tuple[str, int, int] = ("", -1, -1)
        while (row := await self._walk("walk_calls", self.number, *last)) is not None:
            self.counts[Erasure.CALLS] += row["found"]
            self.counts[Erasure.ENDS] += row["ends"]
            last = (row["call_sid"], row["virtual_number"], row["caller"])

    async def _ends(self) -> None:
        last = ""
        while (row := await self._walk("walk_ends", self.number, last)) is not None:
            self.counts[Erasure.ENDS] += row["found"]
            last = row["call_sid"]

    async def _verifications(self) -> None:
        # Those that are only counted do not go away.
        limit = None if self.is_dry_run else ROWS_PER_STEP
        while True:
            [row] = await self._written("delete_verifications", self.number, self.is_dry_run, limit)
            self.counts[Erasure.VERIFICATIONS] += row["found"]
            if self.is_dry_run or not row["found"]:
                return

    async def _once_keys(self) -> None:
        last = ""
        while (row := await self._walk("walk_onces", self.number.plus, last)) is not None:
            self.counts[Erasure.ONCE_KEYS] += row["found"]
            last = row["once_key"]

    async def _walk(self, query: str, what: Any, *last: object) -> asyncpg.Record | None:
        """One step of a walk: the last row of the step and what was found in it; None at the end."""
        rows = await self._written(query, what, self.is_dry_run, *last, ROWS_PER_STEP)
        return rows[0] if rows else None

    # ── what may be sealed ───────────────────────────────────────────────────

    async def _events(self) -> None:
        last: tuple[str, int] = ("", 0)
        while rows := await self._read("walk_events", *last, ROWS_PER_STEP):
            last = (rows[-1]["subject"], rows[-1]["seq"])
            named = [
                row for row in rows if mentions(self.keys.facts_of(row["id"], row["facts"]), self.number)
            ]
            if named:
                masked, pending = await self.database.write(partial(self._mask, rows=named))
                self.counts[Erasure.EVENTS] += masked
                self.counts[Erasure.PENDING_EVENTS] += pending

    async def _mask(self, connection: Connection, rows: list[asyncpg.Record]) -> tuple[int, int]:
        """How many were masked, and how many will be when they are told."""
        if self.is_dry_run:
            pending = [row for row in rows if row["state"] == "pending"]
            return len(rows) - len(pending), sum(not row["is_masked_after"] for row in pending)
        ids = [row["id"] for row in rows]
        subjects = ((self.tenant_id, row["subject"]) for row in rows)
        await lock_subjects(connection, self.cell, subjects)
        status = await connection.execute(_SQL["mask_after"], self.cell, ids)
        finished = await connection.fetch(_SQL["lock_finished_events"], self.cell, ids)
        masks = {
            row["id"]: Resting(masked_facts(self.keys.facts_of(row["id"], row["facts"])), "masked", None)
            for row in finished
        }
        await keep(connection, self.cell, masks)
        return len(masks), int(status.rpartition(" ")[2])

    async def _answers(self) -> None:
        last = ""
        digits = self.number.plus[1:].encode()
        while rows := await self._read("walk_answers", last, ROWS_PER_STEP):
            last = rows[-1]["key"]
            named = [row["key"] for row in rows if digits in self._answer(row)]
            self.counts[Erasure.ANSWERS] += len(named)
            if named and not self.is_dry_run:
                await self._written("delete_answers", named)

    def _answer(self, row: asyncpg.Record) -> bytes:
        answer: bytes = row["answer"]
        if row["sealed_with"] is None:
            return answer
        bound_to = bound_to_answer(self.tenant_id, row["key"])
        return self.keys.open(Sealed(row["sealed_with"], answer), bound_to)

    # ── statements ───────────────────────────────────────────────────────────

    async def _read(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        return await self.database.read(
            lambda connection: connection.fetch(_SQL[query], self.cell, self.tenant_id, *arguments)
        )

    async def _written(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """A transaction of one statement."""
        return await self.database.write(
            lambda connection: connection.fetch(_SQL[query], self.cell, self.tenant_id, *arguments)
        )


def _without(allocation: Allocation, number: E164) -> Allocation | None:
    """The allocation without one of its listed numbers; None if that leaves nobody on its side, and no PIN
    for anybody to join by."""
    is_of_a = number in allocation.a.numbers
    was = allocation.a if is_of_a else allocation.b
    party = was._replace(numbers=tuple(listed for listed in was.numbers if listed != number))
    if not party.numbers and not party.pins:
        return None
    return allocation._replace(a=party) if is_of_a else allocation._replace(b=party)
