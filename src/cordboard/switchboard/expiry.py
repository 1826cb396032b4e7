"""What time does by itself: allocations end, PINs cool down, old answers and silent calls are cleared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import asyncpg
import structlog

from cordboard.clock import SECOND_US, Clock
from cordboard.storage import allocations, calls, feed, throttles
from cordboard.storage.database import CommitUnknown, Database, DatabaseAway
from cordboard.switchboard.throttle import WINDOW_S_MAX, Throttle
from cordboard.tables.progress import ProgressTables
from cordboard.telemetry import AllocationChange, Metrics

# Nobody is connected past the end of an allocation whatever this does; it tells the end, within 1 s.
EXPIRY_S: Final = 0.5
# One transaction: about 12 ms of the database, and 0.5 ms of the loop at a time.
ENDED_PER_COMMIT_MAX: Final = 50
HOUSEKEEPING_S: Final = 60.0

_log = structlog.get_logger(__name__)


class Expiry:
    """`run` in a task of the owner. Several nodes may do this at once: each row is released once."""

    def __init__(
        self,
        database: Database,
        progress: ProgressTables,
        throttle: Throttle,
        metrics: Metrics,
        clock: Clock,
        wake_sender: Callable[[], None],
        ring_bell: Callable[[], None],
    ) -> None:
        self._database = database
        self._progress = progress
        self._throttle = throttle
        self._metrics = metrics
        self._clock = clock
        self._wake_sender = wake_sender
        self._ring_bell = ring_bell

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self.release_ended, EXPIRY_S))
            tasks.create_task(self._repeat(self.keep_house, HOUSEKEEPING_S))

    async def release_ended(self) -> None:
        """Release every allocation that is past its end now. Raises DatabaseAway, CommitUnknown."""
        while True:
            now_us = self._clock.now_us()
            ended = await self._database.read(
                partial(allocations.ended_ids, now_us=now_us, limit_per_cell=ENDED_PER_COMMIT_MAX)
            )
            if not ended:
                return
            for cell, ids in ended.items():
                started_s = time.perf_counter()
                released = await self._database.write(
                    partial(allocations.release_ended, cell=cell, ids=ids, now_us=now_us)
                )
                if released:
                    self._metrics.allocation_changes.labels(AllocationChange.EXPIRED.value).inc(released)
                    self._ring_bell()
                    self._wake_sender()
                # However many end at once, half of the time is for calls and for the API alone.
                await asyncio.sleep(time.perf_counter() - started_s)

    async def keep_house(self) -> None:
        """Clear what has had its time. Raises DatabaseAway, CommitUnknown."""
        now_us = self._clock.now_us()
        for cell in await self._database.read(partial(calls.cells_with_silent_calls, now_us=now_us)):
            await self._database.write(partial(calls.close_silent, cell=cell, now_us=now_us))
        for cell in await self._database.read(partial(allocations.cells_to_clear, now_us=now_us)):
            await self._database.write(partial(allocations.clear_cell, cell=cell, now_us=now_us))
        await self._database.write(partial(feed.trim, older_than_us=now_us - feed.FEED_KEPT_S * SECOND_US))
        oldest_us = now_us - WINDOW_S_MAX * SECOND_US
        await self._database.write(partial(throttles.forget_cleared, older_than_us=oldest_us))
        self._throttle.forget_old(now_us)
        while self._progress.sweep(now_us):  # noqa: ASYNC110 - calls are answered between the steps.
            await asyncio.sleep(0)

    async def _repeat(self, work: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while True:
            try:
                await work()
            except (DatabaseAway, CommitUnknown, asyncpg.PostgresError) as error:
                # What PostgreSQL refuses is tried again like what was lost: calls go on meanwhile.
                _log.warning("expiry.waiting", error=type(error).__name__)
            await asyncio.sleep(pause_s)
