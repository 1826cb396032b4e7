"""Records of decisions, written behind the answers in batches from a bounded queue."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import structlog

from cordboard.storage import calls
from cordboard.storage.calls import CallRow
from cordboard.storage.commits import write_or_each
from cordboard.storage.database import CommitUnknown, Database, DatabaseAway
from cordboard.storage.outcomes import CallKey
from cordboard.telemetry import Metrics

# Some 2 ms to sort them into cells and to forget them, in which no call is answered.
CALLS_OF_A_BATCH_MAX: Final = 1_000
# 100,000 calls: 5,000 a second × 20 s of a database that is away; with three hops of 300 bytes each, 90 MB.
BATCHES_WAITING_MAX: Final = 100
# In a batch a call has one hop or two. While the database is away it may have more; then all of these for all
# calls are 240 MB, and of the rest the last one, which counts, takes the place of the one before it.
HOPS_WAITING_MAX: Final = 8
# Some 0.5 ms in which no call is answered, and 2 ms in which PostgreSQL answers nobody else on its core.
ROWS_PER_WRITE_MAX: Final = 100
# Rows that wait crowd what calls need out of the processor's cache.
FLUSH_S: Final = 0.05
AWAY_BACKOFF_S: Final = 0.5

_log = structlog.get_logger(__name__)


class _Waiting(NamedTuple):
    cell: int
    # The hops of one call, the latest last.
    rows: list[CallRow]


_Batch: TypeAlias = dict[CallKey, _Waiting]


class CallRecords:
    """`put` never waits. `run` in a task of the owner; `flush` before the end."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        # Batches, the oldest first; the last takes those that come in.
        self._waiting: deque[_Batch] = deque([{}])
        self._in_hand: _Batch = {}
        self._flushing = asyncio.Lock()

    def put(self, cell: int, row: CallRow) -> None:
        newest = self._waiting[-1]
        waiting = newest.get(row.call)
        if waiting is not None:
            waiting.rows.append(row)
            # Of too many hops the last decision stays.
            del waiting.rows[HOPS_WAITING_MAX - 1 : -1]
            return
        if len(newest) >= CALLS_OF_A_BATCH_MAX:
            if len(self._waiting) >= BATCHES_WAITING_MAX:
                self._metrics.call_rows_dropped.inc()
                return
            newest = {}
            self._waiting.append(newest)
        newest[row.call] = _Waiting(cell, [row])

    def of_call(self, call: CallKey) -> CallRow | None:
        """What is not written yet of this call."""
        for batch in (*reversed(self._waiting), self._in_hand):
            if (waiting := batch.get(call)) is not None:
                return waiting.rows[-1]
        return None

    async def run(self) -> None:
        while True:
            try:
                await self.flush()
            except (DatabaseAway, CommitUnknown) as away:
                calls_waiting = sum(map(len, self._waiting))
                _log.warning("records.waiting", error=type(away).__name__, calls=calls_waiting)
                await asyncio.sleep(AWAY_BACKOFF_S)
            await asyncio.sleep(FLUSH_S)

    async def flush(self) -> None:
        """Write what waits. Raises DatabaseAway, CommitUnknown, and keeps what it could not write."""
        async with self._flushing:
            for _ in range(len(self._waiting)):
                self._in_hand = self._waiting.popleft()
                if not self._waiting:
                    self._waiting.append({})
                try:
                    await self._write_batch(self._in_hand)
                except BaseException:
                    # Rows may be written twice, which changes nothing, but not be lost.
                    self._waiting.appendleft(self._in_hand)
                    raise
                finally:
                    self._in_hand = {}

    async def _write_batch(self, batch: _Batch) -> None:
        by_cell: defaultdict[int, list[CallRow]] = defaultdict(list)
        for cell, rows in batch.values():
            by_cell[cell] += rows
        for cell, rows in by_cell.items():
            for start in range(0, len(rows), ROWS_PER_WRITE_MAX):
                await self._write(cell, rows[start : start + ROWS_PER_WRITE_MAX])

    async def _write(self, cell: int, rows: list[CallRow]) -> None:
        """Write them; what the database refuses is dropped, and the others are not kept from it."""
        await write_or_each(
            lambda some: self._database.write(partial(calls.write_rows, cell=cell, rows=some)),
            rows,
            self._drop,
        )

    def _drop(self, _: CallRow, error: Exception) -> None:
        # A row that can never be written must not end the engine.
        _log.error("records.refused", error=type(error).__name__)
        self._metrics.call_rows_dropped.inc()
