"""Tells what follows from outcomes that are on record: members, events, windows of wrong PINs.

In batches behind the answers, oldest first. Of what a process that is gone left untold, another tells.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import structlog

from cordboard.clock import Clock
from cordboard.routing.model import RightPin
from cordboard.routing.numbers import E164
from cordboard.storage import untold
from cordboard.storage.commits import write_or_each
from cordboard.storage.database import CommitUnknown, Database, DatabaseAway
from cordboard.storage.feed import Position, Written
from cordboard.storage.outcomes import NewOutcome, awaited_position

# Some 10 ms of one transaction, and 3 ms of this process.
TOLD_AT_ONCE_MAX: Final = 25
# A quarter of a second of telling. While more wait, each outcome brings along what follows, which slows
# callers down to what the database can take.
WAITING_MAX: Final = 200
# Of a member's next call; a transaction for each outcome takes the database three times as much.
GATHER_S: Final = 0.05
BACKOFF_S: Final = 0.2
# Whoever lives has told by then.
LEFT_AFTER_US: Final = 2_000_000
LEFT_AT_ONCE_MAX: Final = 500

_log = structlog.get_logger(__name__)


# A tenant, one of its calls by CallSid, or a stranger of it who is about to be a member.
_Name = tuple[str, str | E164 | None]


class _Untold(NamedTuple):
    new: NewOutcome
    # Where its change stands in the feed, once it is told; None if it has none.
    told: asyncio.Future[Position | None]


class Telling:
    """`run` in a task of the owner; `flush` before the end."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        wake_sender: Callable[[], None],
        hand_over: Callable[[Written], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._wake_sender = wake_sender
        # Gets what was committed to the board of this process, and of others.
        self._hand_over = hand_over
        # By cell, the oldest first; they leave when they are told.
        self._waiting: defaultdict[int, deque[_Untold]] = defaultdict(deque)
        # Of those that wait the latest that goes by each name.
        self._latest: dict[_Name, asyncio.Future[Position | None]] = {}
        self._wake = asyncio.Event()
        self._telling = asyncio.Lock()

    @property
    def is_full(self) -> bool:
        return self._count >= WAITING_MAX

    @property
    def _count(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, cell: int, new: NewOutcome) -> None:
        """Tell of it soon; it is on record."""
        told: asyncio.Future[Position | None] = asyncio.get_running_loop().create_future()
        self._waiting[cell].append(_Untold(new, told))
        self._latest |= dict.fromkeys(_names_of(new), told)
        self._wake.set()

    async def wait_for_call(self, tenant_id: str, call_sid: str, timeout_s: float) -> None:
        """Until all is told of the call that this process knows of, or the time is over."""
        told = self._latest.get((tenant_id, call_sid))
        if told is not None:
            await asyncio.wait({told}, timeout=timeout_s)

    def of_tenant(self, tenant_id: str) -> asyncio.Future[Position | None] | None:
        """The latest of the tenant: when it is told, so are all before it."""
        return self._latest.get((tenant_id, None))

    def join_of(self, tenant_id: str, caller: E164) -> asyncio.Future[Position | None] | None:
        """Of a stranger whose PIN was right a moment ago: its place in the feed, once it is told."""
        return self._latest.get((tenant_id, caller))

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            await self._database.wait_until_up()
            try:
                await self.flush()
            except (DatabaseAway, CommitUnknown) as away:
                _log.warning("outcomes.untold", error=type(away).__name__, outcomes=self._count)
                await asyncio.sleep(BACKOFF_S)

    async def flush(self) -> None:
        """Tell of all that wait. Raises DatabaseAway, CommitUnknown, and keeps what it could not tell."""
        async with self._telling:
            while self._count:
                for cell in [cell for cell, waiting in self._waiting.items() if waiting]:
                    await self._tell_oldest(cell)
            self._wake.clear()

    async def tell_left(self, older_than_us: int) -> None:
        """Tell of what somebody who is gone has left untold. Raises DatabaseAway, CommitUnknown."""
        until_us = self._clock.now_us() - older_than_us
        left = await self._database.read(
            lambda connection: untold.left_untold(connection, until_us, LEFT_AT_ONCE_MAX)
        )
        for cell, new in left:
            self.add(cell, new)
        await self.flush()

    async def _tell_oldest(self, cell: int) -> None:
        waiting = self._waiting[cell]
        batch = [waiting[n] for n in range(min(len(waiting), TOLD_AT_ONCE_MAX))]
        position = await self._tell(cell, [item.new for item in batch])
        for item in batch:
            waiting.popleft()
            for name in _names_of(item.new):
                if self._latest.get(name) is item.told:
                    del self._latest[name]
            item.told.set_result(position)
        self._wake_sender()

    async def _tell(self, cell: int, items: Sequence[NewOutcome]) -> Position | None:
        async def write(some: Sequence[NewOutcome]) -> Position | None:
            written = await self._database.write(
                partial(untold.tell, cell=cell, items=some, now_us=self._clock.now_us())
            )
            if written is not None:
                self._hand_over(written)
            return awaited_position(written)

        positions = await write_or_each(write, items, _refuse)
        return max((position for position in positions if position is not None), default=None)


def _names_of(new: NewOutcome) -> list[_Name]:
    call = new.call
    names: list[_Name] = [(call.tenant_id, None), (call.tenant_id, call.call_sid)]
    if isinstance(new.outcome, RightPin) and call.caller is not None:
        names.append((call.tenant_id, call.caller))
    return names


def _refuse(_: NewOutcome, error: Exception) -> None:
    # It stays untold in the database, and is tried again by whoever looks for what was left.
    _log.error("outcome.refused", error=type(error).__name__)
