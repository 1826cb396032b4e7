"""Records of decisions, written behind the answers in batches from a bounded queue."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import structlog

from cordboard.storage import calls
from cordboard.storage.calls import CallRow
from cordboard.storage.database import CommitUnknown, Database, DatabaseAway
from cordboard.telemetry import Metrics

# 5,000 calls/s × 20 s of a database that is away; some 600 bytes each, 60 MB.
ROWS_WAITING_MAX: Final = 100_000
ROWS_PER_WRITE_MAX: Final = 500
FLUSH_S: Final = 0.2
AWAY_BACKOFF_S: Final = 0.5

_log = structlog.get_logger(__name__)


class CallRecords:
    """`put` never waits. `run` in a task of the owner; `flush` before the end."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        self._waiting: dict[tuple[int, str, str], list[CallRow]] = {}

    def put(self, cell: int, row: CallRow) -> None:
        if len(self._waiting) >= ROWS_WAITING_MAX:
            self._waiting.pop(next(iter(self._waiting)))
            self._metrics.call_rows_dropped.inc()
        call = row.call
        self._waiting.setdefault((cell, call.tenant_id, call.call_sid), []).append(row)

    def of_call(self, cell: int, tenant_id: str, call_sid: str) -> tuple[CallRow, ...]:
        """What is not written yet of this call."""
        return tuple(self._waiting.get((cell, tenant_id, call_sid), ()))

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
        while self._waiting:
            batch = list(self._waiting.items())[:ROWS_PER_WRITE_MAX]
            by_cell: dict[int, list[CallRow]] = {}
            for (cell, _, _), rows in batch:
                by_cell.setdefault(cell, []).extend(rows)
            for cell, rows in by_cell.items():
                await self._database.write(partial(calls.write_rows, cell=cell, rows=rows))
            for key, rows in batch:
                # Rows that came while the batch was written stay.
                rest = self._waiting.pop(key, [])[len(rows) :]
                if rest:
                    self._waiting[key] = rest
