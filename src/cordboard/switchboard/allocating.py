"""Makes, updates and releases allocations: proposed by the core, decided by the database, and answered
when this node routes by them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID, uuid4

from cordboard.clock import Clock
from cordboard.routing.allocate import (
    PRECEDENCE,
    Code,
    Draft,
    Fault,
    Standing,
    Unacceptable,
    propose,
    revise,
    side_key,
)
from cordboard.routing.model import Allocation, AllocationId, Product, Side
from cordboard.routing.numbers import E164, Pin
from cordboard.storage import allocations
from cordboard.storage.allocations import (
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
)
from cordboard.storage.commits import CommitBatcher
from cordboard.storage.database import Connection, Database
from cordboard.storage.feed import Position
from cordboard.switchboard.keeper import BoardKeeper
from cordboard.switchboard.tenants import TenantView
from cordboard.tables.board import BoardReader
from cordboard.telemetry import Metrics

# Each try draws other PINs and sees a fresher board; a lost race is rare, eight in a row are a full pool.
TRIES_MAX: Final = 8
_CLIENT_ID_TAKEN: Final = Fault(
    Code.CLIENT_ID_TAKEN, "transaction_id", "transaction_id: Allocation exists for this connection id."
)
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
        keeper: BoardKeeper,
        metrics: Metrics,
        clock: Clock,
        propagation_timeout_s: float,
        wake_sender: Callable[[], None],
        ring_bell: Callable[[], None],
    ) -> None:
        self._database = database
        self._keeper = keeper
        self._metrics = metrics
        self._clock = clock
        self._propagation_timeout_s = propagation_timeout_s
        self._wake_sender = wake_sender
        self._ring_bell = ring_bell
        self._running: dict[tuple[str, str], asyncio.Event] = {}
        self._making: CommitBatcher[NewAllocation, MakeResult] = CommitBatcher(
            database,
            lambda connection, cell, items: allocations.make(connection, cell, items, clock.now_us()),
        )
        self._releasing: CommitBatcher[ReleaseRequest, ReleaseResult] = CommitBatcher(
            database,
            lambda connection, cell, items: allocations.release(connection, cell, items, clock.now_us()),
        )

    async def run(self) -> None:
        async with asyncio.TaskGroup() as batches:
            batches.create_task(self._making.serve())
            batches.create_task(self._releasing.serve())

    async def create(
        self,
        tenant: TenantView,
        client_id: str,
        draft: Draft,
        key: IdempotencyKey | None,
        answer_of: Callable[[Standing], bytes],
    ) -> Changed | Repeated:
        """Make a GreenPin. `answer_of` words the answer that is kept under `key`.

        Raises Unacceptable, KeyTaken, StillRunning, DatabaseAway, CommitUnknown.
        """
        if key is None:
            return await self._create(tenant, client_id, draft, None, answer_of)
        try:
            async with asyncio.timeout(SAME_KEY_WAIT_S):
                # Whoever wakes first becomes the next that the others wait for.
                while (running := self._running.get((tenant.id, key.key))) is not None:
                    await running.wait()
        except TimeoutError:
            raise StillRunning from None
        finished = self._running[tenant.id, key.key] = asyncio.Event()
        try:
            # Whatever this request would break by itself, a repeated one gets the first answer.
            if (repeated := await self._kept_answer(tenant, key)) is not None:
                return repeated
            return await self._create(tenant, client_id, draft, key, answer_of)
        finally:
            del self._running[tenant.id, key.key]
            finished.set()

    async def update(self, tenant: TenantView, allocation_id: UUID, draft: Draft) -> Changed:
        """Change what `draft` names.

        Raises NotFound, AlreadyReleased, Unacceptable, DatabaseAway, CommitUnknown.
        """
        cooling: frozenset[tuple[E164, Pin]] = frozenset()
        for tries_left in reversed(range(TRIES_MAX)):
            try:
                standing, position = await self._database.write(
                    partial(
                        self._update, tenant=tenant, allocation_id=allocation_id, draft=draft, cooling=cooling
                    )
                )
            except Conflict as conflict:
                fault, may_redraw = self._fault_of(conflict.taken, draft, conflict.becomes, conflict.was)
                if may_redraw and tries_left:
                    cooling = await self._cooling_pins(tenant, conflict.becomes)
                    continue
                raise Unacceptable([fault]) from None
            except PoolChanged:
                raise Unacceptable([_POOL_CHANGED]) from None
            if position is None:
                return Changed(standing, is_propagated=True)
            self._metrics.allocation_changes.labels("updated").inc()
            return Changed(standing, await self._is_propagated(position))
        raise AssertionError("the last try returns or raises")

    async def release(self, tenant: TenantView, allocation_id: UUID) -> Changed:
        """Raises NotFound, AlreadyReleased, DatabaseAway, CommitUnknown."""
        result = await self._releasing.submit(tenant.cell, ReleaseRequest(tenant.id, allocation_id))
        match result:
            case Released(standing, position):
                self._metrics.allocation_changes.labels("released").inc()
                self._wake_sender()
                return Changed(standing, await self._is_propagated(position))
            case ReleasedBefore():
                raise AlreadyReleased
            case _:
                raise NotFound

    async def find(self, tenant: TenantView, allocation_id: UUID) -> Standing:
        """The allocation, vaulted ones too. Raises NotFound, DatabaseAway."""
        found = await self._database.read(
            lambda connection: allocations.find(connection, tenant.cell, [allocation_id])
        )
        here = found.get(allocation_id)
        if here is None or here.standing.tenant_id != tenant.id:
            raise NotFound
        return here.standing

    async def members(self, tenant: TenantView, allocation_id: UUID) -> list[Member]:
        """Who joined, in the order of joining. Raises NotFound, DatabaseAway."""
        await self.find(tenant, allocation_id)
        return await self._database.read(
            lambda connection: allocations.members(connection, tenant.cell, allocation_id)
        )

    async def _create(
        self,
        tenant: TenantView,
        client_id: str,
        draft: Draft,
        key: IdempotencyKey | None,
        answer_of: Callable[[Standing], bytes],
    ) -> Changed | Repeated:
        allocation_id = uuid4()
        is_second_try = False
        cooling: frozenset[tuple[E164, Pin]] = frozenset()
        for tries_left in reversed(range(TRIES_MAX)):
            now_us = self._clock.now_us()
            try:
                with self._keeper.tables.reader(tenant.cell, tenant.tenant_no) as board:
                    standing = propose(
                        AllocationId(allocation_id.bytes),
                        tenant.id,
                        client_id,
                        draft,
                        tenant.settings,
                        _BoardPool(board, cooling),
                        secrets.randbelow,
                        now_us,
                    )
            except Unacceptable as refused:
                # Of several broken rules the first in order is answered; this one only the database knows.
                if refused.fault.code in _AFTER_CLIENT_ID and await self._has_client_id(tenant, client_id):
                    raise Unacceptable([_CLIENT_ID_TAKEN]) from None
                raise
            kept = None if key is None else Idempotency(key.key, key.body_digest, answer_of(standing))
            try:
                result = await self._making.submit(
                    tenant.cell, NewAllocation(tenant.tenant_no, standing, kept, is_second_try)
                )
            except PoolChanged:
                raise Unacceptable([_POOL_CHANGED]) from None
            match result:
                case Made(position):
                    self._metrics.allocation_changes.labels("made").inc()
                    return Changed(standing, await self._is_propagated(position))
                case AnsweredBefore():
                    assert key is not None
                    if (repeated := await self._kept_answer(tenant, key)) is not None:
                        return repeated
                case TryAgain():
                    is_second_try = True
                    self._ring_bell()
                case ClientIdTaken() | NumberTaken() | PinTaken():
                    fault, may_redraw = self._fault_of(result, draft, standing.allocation)
                    if not (may_redraw and tries_left):
                        raise Unacceptable([fault])
                    cooling = await self._cooling_pins(tenant, standing.allocation)
        message = "transaction_id: others want the same at this moment; nothing was allocated, try again."
        raise Unacceptable([Fault(Code.PIN_OR_NUMBER_TAKEN, "transaction_id", message)])

    async def _update(
        self,
        connection: Connection,
        *,
        tenant: TenantView,
        allocation_id: UUID,
        draft: Draft,
        cooling: frozenset[tuple[E164, Pin]],
    ) -> tuple[Standing, Position | None]:
        now_us = self._clock.now_us()
        was = await allocations.lock_for_update(connection, tenant.cell, tenant.id, allocation_id, now_us)
        with self._keeper.tables.reader(tenant.cell, tenant.tenant_no) as board:
            becomes = revise(
                was.standing, draft, tenant.settings, _BoardPool(board, cooling), secrets.randbelow, now_us
            )
        if becomes.allocation == was.standing.allocation:
            return was.standing, None
        position = await allocations.update(connection, tenant.cell, was, becomes, now_us)
        return becomes, position

    async def _cooling_pins(self, tenant: TenantView, allocation: Allocation) -> frozenset[tuple[E164, Pin]]:
        """What a drawn PIN may have lost to: PINs that cool are not on the board."""
        virtual_numbers = (*allocation.a.virtual_numbers, *allocation.b.virtual_numbers)
        now_us = self._clock.now_us()
        return await self._database.read(
            lambda connection: allocations.cooling_pins(connection, tenant.cell, virtual_numbers, now_us)
        )

    async def _has_client_id(self, tenant: TenantView, client_id: str) -> bool:
        now_us = self._clock.now_us()
        return await self._database.read(
            lambda connection: allocations.has_client_id(
                connection, tenant.cell, tenant.id, Product.GREENPIN, client_id, now_us
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
        body_digest, answer = kept
        if body_digest != key.body_digest:
            raise KeyTaken
        return Repeated(answer)

    async def _is_propagated(self, position: Position) -> bool:
        self._ring_bell()
        return await self._keeper.wait_for(position, self._propagation_timeout_s)

    def _fault_of(
        self, taken: Taken, draft: Draft, allocation: Allocation, was: Allocation | None = None
    ) -> tuple[Fault, bool]:
        """What to answer, and whether another PIN could do better. `was` is what an update found."""
        match taken:
            case ClientIdTaken():
                return _CLIENT_ID_TAKEN, False
            case NumberTaken(virtual_number, number):
                side = Side.A if number in allocation.a.numbers else Side.B
                field = f"{side_key(side)}.numbers"
                message = (
                    f"{field}: {number} has a route on virtual number {virtual_number} already, and only"
                    " numbers that must enter a PIN there may have several. An allocation made when the"
                    " PIN of its side was switched otherwise stands in the way, too."
                )
                return Fault(Code.PIN_OR_NUMBER_TAKEN, field, message), False
            case PinTaken(virtual_number, pin):
                side = _side_of_pin(allocation, pin, virtual_number)
                given = draft.party(side).pin
                if allocation.common_pin:
                    given = draft.a.pin or draft.b.pin
                field = f"{side_key(side)}.pin"
                if given is None and was is not None and was.party(side).pin == pin:
                    message = (
                        f"{field}: the PIN that it has is already registered on virtual number"
                        f" {virtual_number}; another pin or pin_length may be given with the change."
                    )
                    return Fault(Code.PIN_OR_NUMBER_TAKEN, field, message), False
                if given is None:
                    message = f"{field}: no PIN is free on virtual number {virtual_number}."
                    return Fault(Code.NOTHING_FREE, field, message), True
                message = f"{field} is already registered on virtual number {virtual_number}."
                return Fault(Code.PIN_OR_NUMBER_TAKEN, field, message), False


_POOL_CHANGED: Final = Fault(
    Code.NOT_PERMITTED, "a.vns", "a.vns, b.vns: one of them was just taken out of the tenant's pool."
)


def _side_of_pin(allocation: Allocation, pin: Pin, virtual_number: E164) -> Side:
    is_a = allocation.a.pin == pin and virtual_number in allocation.a.virtual_numbers
    return Side.A if is_a else Side.B


class _BoardPool:
    """`routing.allocate.Pool` as of the board; the database has the last word."""

    def __init__(self, board: BoardReader, cooling: frozenset[tuple[E164, Pin]]) -> None:
        self._board = board
        self._cooling = cooling

    def has_virtual_number(self, virtual_number: E164) -> bool:
        return self._board.has_virtual_number(virtual_number)

    def is_provisioned(self, number: E164) -> bool:
        return self._board.is_provisioned(number)

    def is_pin_taken(self, virtual_number: E164, pin: Pin) -> bool:
        return (virtual_number, pin) in self._cooling or bool(self._board.pin_holders(virtual_number, pin))
