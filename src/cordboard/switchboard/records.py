"""Records of decisions, written behind the answers in batches from a bounded queue."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import partial
from typing import Final

import structlog

from cordboard.storage import calls
from cordboard.storage.calls import CallRow
from cordboard.storage.database import CommitUnknown, Database, DatabaseAway
from cordboard.telemetry import Metrics

# 5,000 calls/s × 20 s of a database that is away; some 600 bytes each, 60 MB.
CALLS_WAITING_MAX: Final = 100_000
ROWS_PER_WRITE_MAX: Final = 500
FLUSH_S: Final = 0.2
AWAY_BACKOFF_S: Final = 0.5

_log = structlog.get_logger(__name__)


Waiting = dict[tuple[int, str, str], list[CallRow]]


class CallRecords:
    """`put` never waits. `run` in a task of the owner; `flush` before the end."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        # By cell, tenant and CallSid: those that come in, and those that are being written.
        self._waiting: Waiting = {}
        self._in_hand: Waiting = {}
        self._flushing = asyncio.Lock()

    def put(self, cell: int, row: CallRow) -> None:
        call = row.call
        key = (cell, call.tenant_id, call.call_sid)
        rows = self._waiting.get(key)
        if rows is not None:
            rows.append(row)
        elif len(self._waiting) < CALLS_WAITING_MAX:
            self._waiting[key] = [row]
        else:
            self._metrics.call_rows_dropped.inc()

    def of_call(self, cell: int, tenant_id: str, call_sid: str) -> tuple[CallRow, ...]:
        """What is not written yet of this call, in the order of its hops."""
        key = (cell, tenant_id, call_sid)
        return (*self._in_hand.get(key, ()), *self._waiting.get(key, ()))

    async def run(self) -> None:
        while True:
            try:
                await self.flush()
            except (DatabaseAway, CommitUnknown) as away:
                _log.warning("records.waiting", error=type(away).__name__, calls=len(self._waiting))
                await asyncio.sleep(AWAY_BACKOFF_S)
            await asyncio.sleep(FLUSH_S)

    async def flush(self) -> None:
        """Write what waits. Raises DatabaseAway, CommitUnknown, and keeps what it could not write."""
        async with self._flushing:
            self._in_hand, self._waiting = self._waiting, {}
            try:
                by_cell: defaultdict[int, list[CallRow]] = defaultdict(list)
                for (cell, _, _), rows in self._in_hand.items():
                    by_cell[cell].extend(rows)
                for cell, rows in by_cell.items():
                    for start in range(0, len(rows), ROWS_PER_WRITE_MAX):
                        part = rows[start : start + ROWS_PER_WRITE_MAX]
                        await self._database.write(partial(calls.write_rows, cell=cell, rows=part))
            except BaseException:
                # Rows may be written twice, which changes nothing, but not be lost.
                for key, rows in self._waiting.items():
                    self._in_hand.setdefault(key, []).extend(rows)
                self._waiting = self._in_hand
                raise
            finally:
                self._in_hand = {}
