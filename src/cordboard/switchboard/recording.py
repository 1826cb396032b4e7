"""Makes outcomes and ends of calls durable before they are answered: in the database, or in the spool while
it is away; and takes what is in the spool to the database when it is back, oldest first.

What follows from an outcome is told behind the answer (telling.py), unless it counts for a lock.

What a commit left unknown, what a lane of the batcher still holds and what is drained twice may all arrive
in the database more than once: there each outcome and each end has one key, and events are written only
with the row that was inserted.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Final, TypeVar

import structlog

from cordboard.clock import Clock
from cordboard.routing.model import Progress
from cordboard.storage import outcomes, untold
from cordboard.storage.calls import NewEnd, record_ends
from cordboard.storage.commits import CommitBatcher, write_or_each
from cordboard.storage.database import CommitUnknown, Connection, Database, DatabaseAway
from cordboard.storage.outcomes import NewOutcome, Recorded
from cordboard.storage.spool import Spool
from cordboard.storage.spooled import Item, Spooled, from_bytes, to_bytes
from cordboard.switchboard.telling import Telling
from cordboard.telemetry import Metrics

# Of a hop's budget, 1 s by default; the rest is for a lookup (0.2 s), the board (0.2 s) and the spool.
DATABASE_SHARE: Final = 0.4
# Some 50 ms of one transaction, which new outcomes of the cell wait for.
DRAIN_RECORDS_MAX: Final = 100
DRAIN_BACKOFF_S: Final = 0.2
# Some 30 ms when all is well; an end that follows its outcome at once is a wrong number, or a test.
TELL_WAIT_S: Final = 0.2
# While one commit is on its way to the disk the next is written; more would only make their batches smaller.
OUTCOME_BATCHES_OF_A_CELL: Final = 2
# A start that waits longer looks dead; the rest is drained while calls are answered.
DRAIN_AT_START_S: Final = 10.0

New = TypeVar("New", NewOutcome, NewEnd)
Result = TypeVar("Result")

_log = structlog.get_logger(__name__)


class Recording:
    """`run` in a task of the owner; the owner opens and closes the spool."""

    def __init__(
        self,
        database: Database,
        spool: Spool,
        telling: Telling,
        metrics: Metrics,
        clock: Clock,
        answer_timeout_s: float,
        wake_sender: Callable[[], None],
        ring_bell: Callable[[], None],
    ) -> None:
        self.spool = spool
        self.telling = telling
        self._budget_s = answer_timeout_s * DATABASE_SHARE
        self._database = database
        self._metrics = metrics
        self._clock = clock
        self._wake_sender = wake_sender
        self._ring_bell = ring_bell
        # The last records of the spool are on their way: what comes now waits for them, and follows them
        # into the database. Without that a steady stream would never leave the spool again.
        self._handing_back: asyncio.Event | None = None
        self._outcomes: CommitBatcher[NewOutcome, Progress] = CommitBatcher(
            database.write_in_one_statement,
            lambda connection, cell, items: untold.put_on_record(connection, cell, items, clock.now_us()),
            batches_of_a_cell=OUTCOME_BATCHES_OF_A_CELL,
        )
        self._told_outcomes: CommitBatcher[NewOutcome, Recorded] = CommitBatcher(
            database.write,
            lambda connection, cell, items: untold.record(connection, cell, items, clock.now_us()),
        )
        self._ends: CommitBatcher[NewEnd, None] = CommitBatcher(
            database.write,
            lambda connection, cell, items: record_ends(connection, cell, items, clock.now_us()),
        )

    async def outcome(self, cell: int, new: NewOutcome) -> Recorded | None:
        """What is on record of the call with this outcome; None if only the spool has it.

        Raises SpoolFull, SpoolUnusable.
        """
        if self.telling.is_full or outcomes.is_of_a_lock(new.outcome):
            recorded = await self._record(cell, new, self._told_outcomes)
            self._wake_sender()
            return recorded
        progress = await self._record(cell, new, self._outcomes)
        if progress is None:
            return None
        self.telling.add(cell, new)
        return Recorded(progress, None)

    async def end(self, cell: int, new: NewEnd) -> None:
        """Raises SpoolFull, SpoolUnusable."""
        if self._database.is_up:
            # Events are told in the order in which things happened.
            await self.telling.wait_for_call(new.tenant_id, new.call_sid, TELL_WAIT_S)
        await self._record(cell, new, self._ends)
        self._wake_sender()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._outcomes.serve())
            tasks.create_task(self._told_outcomes.serve())
            tasks.create_task(self.telling.run())
            tasks.create_task(self._ends.serve())
            tasks.create_task(self.spool.run())
            tasks.create_task(self._drain())

    async def drain_at_start(self) -> None:
        """Before the first call: what an engine before us left, if that does not take too long."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + DRAIN_AT_START_S
        try:
            while self.spool.records and loop.time() < until_s:
                await self._drain_batch()
        except (DatabaseAway, CommitUnknown, OSError) as error:
            _log.warning("spool.waiting", error=type(error).__name__, records=self.spool.records)

    async def _record(self, cell: int, new: New, batcher: CommitBatcher[New, Result]) -> Result | None:
        try:
            async with asyncio.timeout(self._budget_s):
                while self._handing_back is not None:
                    await self._handing_back.wait()
                # Nothing overtakes what is in the spool.
                if not self.spool.records:
                    return await batcher.submit(cell, new)
        except TimeoutError:
            self._database.suspect()
        except (DatabaseAway, CommitUnknown):
            pass
        await self.spool.append(to_bytes(Spooled(cell, new)))
        self._metrics.spool_written.inc()
        return None

    async def _drain(self) -> None:
        is_waiting = False
        while True:
            await self.spool.wait_for_records()
            await self._database.wait_until_up()
            try:
                await self._drain_batch()
            except (DatabaseAway, CommitUnknown, OSError) as error:
                # It may answer and refuse all the same, as with a full disk.
                if not is_waiting:
                    _log.warning("spool.waiting", error=type(error).__name__, records=self.spool.records)
                is_waiting = True
                await asyncio.sleep(DRAIN_BACKOFF_S)
            else:
                is_waiting = False
                if not self.spool.records:
                    _log.info("spool.drained")

    async def _drain_batch(self) -> None:
        """Raises DatabaseAway, CommitUnknown, OSError; then the same batch comes again."""
        batch = self.spool.read(DRAIN_RECORDS_MAX)
        if batch.is_all:
            self._handing_back = asyncio.Event()
        try:
            # What was on record before the database went away happened before this.
            await self.telling.flush()
            by_cell: defaultdict[int, list[Item]] = defaultdict(list)
            for body in batch.bodies:
                try:
                    spooled = from_bytes(body)
                except (ValueError, KeyError, TypeError):
                    self.spool.set_aside("unreadable", body)
                else:
                    by_cell[spooled.cell].append(spooled.item)
            for cell, items in by_cell.items():
                await self._write(cell, items)
            await self.spool.forget(batch)
        finally:
            waiting, self._handing_back = self._handing_back, None
            if waiting is not None:
                waiting.set()
        self._metrics.spool_drained.inc(len(batch.bodies))
        self._ring_bell()
        self._wake_sender()

    async def _write(self, cell: int, items: Sequence[Item]) -> None:
        def refuse(item: Item, error: Exception) -> None:
            _log.error("spool.refused", error=type(error).__name__)
            self.spool.set_aside("refused", to_bytes(Spooled(cell, item)))

        await write_or_each(
            lambda some: self._database.write(
                partial(_record_in_order, cell=cell, items=some, now_us=self._clock.now_us())
            ),
            items,
            refuse,
        )


async def _record_in_order(connection: Connection, cell: int, items: Sequence[Item], now_us: int) -> None:
    """Events of an allocation are told in the order in which they happened, so kinds take turns."""
    for kind, run in groupby(items, type):
        if kind is NewOutcome:
            await untold.record(
                connection, cell, [item for item in run if isinstance(item, NewOutcome)], now_us
            )
        else:
            await record_ends(connection, cell, [item for item in run if isinstance(item, NewEnd)], now_us)
