"""Makes, updates and releases allocations: proposed by the core, decided by the database, and answered
when this node routes by them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, assert_never
from uuid import uuid4

from cordboard.clock import Clock
from cordboard.routing.allocate import PRECEDENCE, Code, Fault, Standing, Unacceptable
from cordboard.routing.choose import Kind
from cordboard.routing.model import Allocation, AllocationId
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.tenant import VnChoice
from cordboard.storage import allocations, feed
from cordboard.storage.allocations import (
    AllocationName,
    AlreadyReleased,
    AnsweredBefore,
    ClientIdTaken,
    Conflict,
    Idempotency,
    Made,
    MakeResult,
    Member,
    NewAllocation,
    NotFound,
    NumberTaken,
    PinTaken,
    PoolChanged,
    Released,
    ReleasedBefore,
    ReleaseRequest,
    ReleaseResult,
    Taken,
    TryAgain,
    Unknown,
    VirtualNumberBusy,
)
from cordboard.storage.bell import Bell
from cordboard.storage.commits import CommitBatcher
from cordboard.storage.database import Connection, Database
from cordboard.storage.feed import Position
from cordboard.storage.sealing import NO_KEYS, DataKeys, Sealed, bound_to_answer
from cordboard.switchboard.picks import Picks
from cordboard.switchboard.source import BoardSource
from cordboard.switchboard.tenants import TenantView
from cordboard.switchboard.wishes import Revision, Wish
from cordboard.tables.board import BoardReader
from cordboard.tables.records import Line, VirtualNumberState
from cordboard.telemetry import AllocationChange, Metrics

# Each try draws other PINs and sees a fresher board; a lost race is rare, eight in a row are a full pool.
TRIES_MAX: Final = 8
# What a request releases of others that have ended, some 0.1 s of work; the sweep takes half a second more.
ENDED_RELEASED_MAX: Final = 200
_AFTER_CLIENT_ID: Final = PRECEDENCE[PRECEDENCE.index(Code.CLIENT_ID_TAKEN) + 1 :]
# How long a repeated request waits for the first one under its Idempotency-Key.
SAME_KEY_WAIT_S: Final = 5.0


class KeyTaken(Exception):
    """The Idempotency-Key was used for another body."""


class StillRunning(Exception):
    """The first request under this Idempotency-Key has no answer yet."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    key: str
    body_digest: bytes


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that is durable; `is_propagated` tells whether this node routes by it already."""

    standing: Standing
    is_propagated: bool


@dataclass(frozen=True, slots=True)
class Repeated:
    """What was answered before under this Idempotency-Key."""

    answer: bytes


class Allocating:
    """The shell around `propose` and `revise`. `run` serves its commits in a task of the owner."""

    def __init__(
        self,
        database: Database,
        keeper: BoardSource,
        metrics: Metrics,
        clock: Clock,
        propagation_timeout_s: float,
        wake_sender: Callable[[], None],
        bell: Bell,
        keys: DataKeys = NO_KEYS,
    ) -> None:
        self._database = database
        self._keys = keys
        self._keeper = keeper
        self._metrics = metrics
        self._clock = clock
        self._propagation_timeout_s = propagation_timeout_s
        self._wake_sender = wake_sender
        self._bell = bell
        self._running: dict[tuple[str, str], asyncio.Event] = {}
        self._picks = Picks()
        self._making: CommitBatcher[NewAllocation, MakeResult] = CommitBatcher(
            database.write,
            lambda connection, cell, items: allocations.make(connection, cell, items, clock.now_us()),
        )
        self._releasing: CommitBatcher[ReleaseRequest, ReleaseResult] = CommitBatcher(
            database.write,
            lambda connection, cell, items: allocations.release(connection, cell, items, clock.now_us()),
        )

    async def run(self) -> None:
        async with asyncio.TaskGroup() as batches:
            batches.create_task(self._making.serve())
            batches.create_task(self._releasing.serve())

    async def create(
        self,
        tenant: TenantView,
        wish: Wish,
        key: IdempotencyKey | None,
        answer_of: Callable[[Standing], bytes],
    ) -> Changed | Repeated:
        """Make what is wished for. `answer_of` words the answer that is kept under `key`.

        Raises Unacceptable, KeyTaken, StillRunning, DatabaseAway, CommitUnknown.
        """
        if key is None:
            return await self._create(tenant, wish, None, answer_of)
        try:
            async with asyncio.timeout(SAME_KEY_WAIT_S):
                # Whoever wakes first becomes the next that the others wait for.
                while (running := self._running.get((tenant.id, key.key))) is not None:
                    await running.wait()
        except TimeoutError:
            raise StillRunning from None
        finished = self._running[tenant.id, key.key] = asyncio.Event()
        try:
            return await self._create(tenant, wish, key, answer_of)
        finally:
            del self._running[tenant.id, key.key]
            finished.set()

    async def create_without_key(self, tenant: TenantView, wish: Wish) -> Changed:
        """Raises Unacceptable, DatabaseAway, CommitUnknown."""
        made = await self._create(tenant, wish, None, lambda _: b"")
        assert isinstance(made, Changed), "only a key has an answer that is repeated"
        return made

    async def update(self, tenant: TenantView, name: AllocationName, revision: Revision) -> Changed:
        """Change what `revision` names.

        Raises NotFound, AlreadyReleased, Unacceptable, DatabaseAway, CommitUnknown.
        """
        known = NOTHING_KNOWN
        has_made_room = False
        for tries_left in reversed(range(TRIES_MAX)):
            try:
                standing, position = await self._database.write(
                    partial(self._update, tenant=tenant, name=name, revision=revision, known=known)
                )
            except Unacceptable as refused:
                if await self._makes_room(tenant, refused, has_made_room=has_made_room):
                    has_made_room = True
                    continue
                raise
            except Conflict as conflict:
                fault, may_retry = revision.fault_of(conflict.taken, conflict.becomes, conflict.was)
                if may_retry and tries_left:
                    known = await self._learn(tenant, conflict.becomes, conflict.taken, known)
                    continue
                raise Unacceptable([fault]) from None
            except PoolChanged:
                raise Unacceptable([revision.pool_changed()]) from None
            if position is None:
                return Changed(standing, is_propagated=True)
            self._metrics.allocation_changes.labels(AllocationChange.UPDATED.value).inc()
            return Changed(standing, await self._is_propagated(position))
        raise AssertionError("the last try returns or raises")

    async def release(
        self, tenant: TenantView, name: AllocationName, request_id: str | None = None
    ) -> Changed:
        """Raises NotFound, AlreadyReleased, DatabaseAway, CommitUnknown."""
        request = ReleaseRequest(tenant.id, name, request_id)
        result = await self._releasing.submit(tenant.cell, request)
        match result:
            case Released(standing, position):
                self._metrics.allocation_changes.labels(AllocationChange.RELEASED.value).inc()
                self._wake_sender()
                return Changed(standing, await self._is_propagated(position))
            case ReleasedBefore():
                raise AlreadyReleased(name.product)
            case Unknown():
                raise NotFound(name.product)
            case unmatched:
                assert_never(unmatched)

    async def find(self, tenant: TenantView, name: AllocationName) -> Standing:
        """The allocation, vaulted ones too. Raises NotFound, DatabaseAway."""
        found = await self._database.read(
            lambda connection: allocations.find(connection, tenant.cell, [name.id])
        )
        here = found.get(name.id)
        if here is None or here.standing.tenant_id != tenant.id or not name.is_of(here.standing):
            raise NotFound(name.product)
        return here.standing

    async def members(self, tenant: TenantView, name: AllocationName) -> list[Member]:
        """Who joined, in the order of joining. Raises NotFound, DatabaseAway."""
        await self.find(tenant, name)
        return await self._database.read(
            lambda connection: allocations.members(connection, tenant.cell, name.id)
        )

    async def _create(
        self,
        tenant: TenantView,
        wish: Wish,
        key: IdempotencyKey | None,
        answer_of: Callable[[Standing], bytes],
    ) -> Changed | Repeated:
        try:
            return await self._make(tenant, wish, key, answer_of)
        except Unacceptable as refused:
            # Whatever this request would break by itself, a repeated one gets the first answer. Not asked
            # before: nearly every key is new, and where nothing is broken the commit finds what is kept.
            if key is not None and (repeated := await self._kept_answer(tenant, key)) is not None:
                return repeated
            self._metrics.allocation_refusals.labels(refused.fault.code.name.lower()).inc()
            raise

    async def _make(
        self,
        tenant: TenantView,
        wish: Wish,
        key: IdempotencyKey | None,
        answer_of: Callable[[Standing], bytes],
    ) -> Changed | Repeated:
        allocation_id = uuid4()
        is_second_try = False
        has_made_room = False
        known = await self._known_at_first(tenant, wish)
        for tries_left in reversed(range(TRIES_MAX)):
            now_us = self._clock.now_us()
            try:
                with self._keeper.tables.reader(tenant.cell, tenant.tenant_no) as board:
                    standing = wish.propose(
                        AllocationId(allocation_id.bytes),
                        tenant.id,
                        tenant.settings,
                        BoardPool(board, known, self._picks, tenant.id, now_us),
                        secrets.randbelow,
                        now_us,
                    )
            except Unacceptable as refused:
                if await self._makes_room(tenant, refused, has_made_room=has_made_room):
                    has_made_room = True
                    continue
                # Of several broken rules the first in order is answered; this one only the database knows.
                if refused.fault.code in _AFTER_CLIENT_ID and await self._has_client_id(tenant, wish):
                    raise Unacceptable([wish.client_id_taken]) from None
                raise
            kept = None if key is None else self._keep(tenant, key, answer_of(standing))
            new = NewAllocation(tenant.tenant_no, standing, kept, is_second_try)
            with self._picks.noted(tenant.id, standing.allocation) if wish.picks else nullcontext():
                try:
                    result = await self._making.submit(tenant.cell, new)
                except PoolChanged:
                    fault, may_retry = wish.pool_changed()
                    if not (may_retry and tries_left):
                        raise Unacceptable([fault]) from None
                    known = known.without(standing.allocation)
                    continue
                match result:
                    case Made(written):
                        self._metrics.allocation_changes.labels(AllocationChange.MADE.value).inc()
                        self._keeper.hand_over(written)
                        self._bell.ring_elsewhere()
                        return Changed(
                            standing,
                            await self._keeper.wait_for(written.position, self._propagation_timeout_s),
                        )
                    case AnsweredBefore():
                        assert key is not None
                        if (repeated := await self._kept_answer(tenant, key)) is not None:
                            return repeated
                    case TryAgain():
                        is_second_try = True
                        self._bell.ring()
                    case ClientIdTaken() | NumberTaken() | PinTaken() | VirtualNumberBusy():
                        fault, may_retry = wish.fault_of(result, standing.allocation)
                        if not (may_retry and tries_left):
                            raise Unacceptable([fault])
                        known = await self._learn(tenant, standing.allocation, result, known)
                    case unmatched:
                        assert_never(unmatched)
        message = "Others want the same at this moment; nothing was allocated, try again."
        raise Unacceptable([Fault(Code.PIN_OR_NUMBER_TAKEN, "", message)])

    async def _update(
        self,
        connection: Connection,
        *,
        tenant: TenantView,
        name: AllocationName,
        revision: Revision,
        known: Known,
    ) -> tuple[Standing, Position | None]:
        now_us = self._clock.now_us()
        was = await allocations.lock_for_update(connection, tenant.cell, tenant.id, name, now_us)
        with self._keeper.tables.reader(tenant.cell, tenant.tenant_no) as board:
            pool = BoardPool(board, known, self._picks, tenant.id, now_us)
            becomes = revision.revise(was.standing, tenant.settings, pool, secrets.randbelow, now_us)
        is_same = replace(
            becomes, version=was.standing.version, updated_at_us=was.standing.updated_at_us
        ) == (was.standing)
        if is_same:
            return was.standing, None
        position = await allocations.update(connection, tenant.cell, was, becomes, now_us)
        return becomes, position

    async def _known_at_first(self, tenant: TenantView, wish: Wish) -> Known:
        """Where the pair stood before, if the tenant's choice depends on it; the board forgets."""
        if not wish.picks or tenant.settings.vn_choice is VnChoice.LEAST_LOADED:
            return NOTHING_KNOWN
        a, b = wish.pair(tenant.settings)
        last = await self._database.read(
            lambda connection: allocations.last_virtual_number_of_pair(
                connection, tenant.cell, tenant.id, a, b
            )
        )
        return replace(NOTHING_KNOWN, last_of_pair=last)

    async def _makes_room(self, tenant: TenantView, refused: Unacceptable, *, has_made_room: bool) -> bool:
        """Where nothing is free, release what has ended: unswept, it is in the way on the board."""
        if refused.fault.code is not Code.NOTHING_FREE or has_made_room:
            return False
        now_us = self._clock.now_us()
        ended = await self._database.read(
            partial(allocations.ended_ids, now_us=now_us, limit_per_cell=ENDED_RELEASED_MAX)
        )
        ids = ended.get(tenant.cell)
        if not ids:
            return False

        async def release(connection: Connection) -> Position | None:
            changes = await allocations.release_changes(connection, tenant.cell, ids, now_us)
            return await feed.append(connection, tenant.cell, changes, now_us) if changes else None

        position = await self._database.write(release)
        self._wake_sender()
        return position is None or await self._is_propagated(position)

    async def _learn(self, tenant: TenantView, wanted: Allocation, taken: Taken, known: Known) -> Known:
        """What a proposal may have lost to, which the board does not tell: what cools, and who was faster."""
        virtual_numbers = (*wanted.a.virtual_numbers, *wanted.b.virtual_numbers)
        now_us = self._clock.now_us()

        async def read(connection: Connection) -> Known:
            pins = await allocations.cooling_pins(connection, tenant.cell, virtual_numbers, now_us)
            resting = await allocations.resting_virtual_numbers(
                connection, tenant.cell, tenant.id, wanted, now_us
            )
            return replace(known, cooling_pins=known.cooling_pins | pins, avoided=known.avoided | resting)

        learned = await self._database.read(read)
        match taken:
            case NumberTaken(virtual_number) | PinTaken(virtual_number) | VirtualNumberBusy(virtual_number):
                return replace(learned, avoided=learned.avoided | {virtual_number})
            case ClientIdTaken():
                return learned
            case unmatched:
                assert_never(unmatched)

    async def _has_client_id(self, tenant: TenantView, wish: Wish) -> bool:
        client_id = wish.client_id
        if client_id is None:
            return False
        now_us = self._clock.now_us()
        return await self._database.read(
            lambda connection: allocations.has_client_id(
                connection, tenant.cell, tenant.id, wish.product, client_id, now_us
            )
        )

    async def _kept_answer(self, tenant: TenantView, key: IdempotencyKey) -> Repeated | None:
        """Raises KeyTaken."""
        now_us = self._clock.now_us()
        kept = await self._database.read(
            lambda connection: allocations.kept_answer(connection, tenant.cell, tenant.id, key.key, now_us)
        )
        if kept is None:
            return None
        if kept.body_digest != key.body_digest:
            raise KeyTaken
        if kept.sealed_with is None:
            return Repeated(kept.answer)
        sealed = Sealed(kept.sealed_with, kept.answer)
        return Repeated(self._keys.open(sealed, bound_to_answer(tenant.id, key.key)))

    def _keep(self, tenant: TenantView, key: IdempotencyKey, answer: bytes) -> Idempotency:
        """An answer names numbers and PINs: it is kept sealed if there is a key to do it."""
        if not self._keys:
            return Idempotency(key.key, key.body_digest, answer)
        sealed = self._keys.seal(answer, bound_to_answer(tenant.id, key.key))
        return Idempotency(key.key, key.body_digest, sealed.data, sealed.key_id)

    async def _is_propagated(self, position: Position) -> bool:
        self._bell.ring()
        return await self._keeper.wait_for(position, self._propagation_timeout_s)


@dataclass(frozen=True, slots=True)
class Known:
    """What earlier tries of one request have learned beside the board."""

    cooling_pins: frozenset[tuple[E164, Pin]] = frozenset()
    # VNs that were lost to somebody, or where a number or PIN of the request cools.
    avoided: frozenset[E164] = frozenset()
    # The VN that the pair of the request had last, if anybody asks.
    last_of_pair: E164 | None = None

    def without(self, lost: Allocation) -> Known:
        """A VN of `lost` is not the tenant's any more."""
        return replace(self, avoided=self.avoided.union(lost.a.virtual_numbers, lost.b.virtual_numbers))


NOTHING_KNOWN: Final = Known()


class BoardPool:
    """`routing.choose.NumberPool` as of the board; the database has the last word."""

    def __init__(self, board: BoardReader, known: Known, picks: Picks, tenant_id: str, now_us: int) -> None:
        self._board = board
        self._known = known
        self._picks = picks
        self._tenant_id = tenant_id
        self._now_us = now_us

    def has_virtual_number(self, virtual_number: E164) -> bool:
        return self._board.has_virtual_number(virtual_number)

    def is_drained(self, virtual_number: E164) -> bool:
        state = self._board.virtual_number(virtual_number)
        return state is not None and state.is_drained

    def is_provisioned(self, number: E164) -> bool:
        return self._board.is_provisioned(number)

    def is_pin_taken(self, virtual_number: E164, pin: Pin) -> bool:
        return (virtual_number, pin) in self._known.cooling_pins or bool(
            self._board.pin_holders(virtual_number, pin)
        )

    # ── for choosing a VN ────────────────────────────────────────────────────

    @property
    def avoided(self) -> frozenset[E164]:
        return self._known.avoided

    @property
    def last_of_pair(self) -> E164 | None:
        return self._known.last_of_pair

    def virtual_number(self, virtual_number: E164) -> VirtualNumberState | None:
        return self._board.virtual_number(virtual_number)

    def line(self, virtual_number: E164) -> Line | None:
        return self._board.line(virtual_number)

    def open_kinds(self) -> Iterator[Kind]:
        return self._board.open_kinds()

    def open_numbers(self, kind: Kind, blocked: AbstractSet[bytes]) -> Iterator[tuple[int, bytes, E164]]:
        return self._board.open_numbers(kind, blocked)

    def occupied_by(self, number: E164) -> AbstractSet[bytes]:
        return self._with_picks(self._board.occupied_by(number), number)

    def holding(self, pin: Pin) -> AbstractSet[bytes]:
        return self._with_picks(self._board.holding(pin), pin)

    def occupied_for_sure_by(self, number: E164) -> AbstractSet[bytes]:
        return self._board.occupied_at(number, self._now_us)

    def surely_holding(self, pin: Pin) -> AbstractSet[bytes]:
        return self._board.held_at(pin, self._now_us)

    def _with_picks(self, lines: set[Line], what: E164 | Pin) -> set[Line]:
        picked = map(self._board.line, self._picks.of(self._tenant_id, what))
        lines.update(line for line in picked if line is not None)
        return lines
