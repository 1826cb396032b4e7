"""What is kept, and for how long: told events and old digits laid to rest, and old records deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import asyncpg
import structlog

from cordboard.clock import Clock
from cordboard.storage import audit, resting, retention
from cordboard.storage.database import CommitUnknown, Database, DatabaseAway
from cordboard.storage.sealing import DataKeys

# A digest of digits is of no use after 4 h; some minutes more or less are nothing to that.
REST_S: Final = 60.0
# What is kept for days is deleted within the hour.
RETENTION_S: Final = 3_600.0
_log = structlog.get_logger(__name__)


class Retention:
    """`run` in a task of the owner. Several nodes may do this at once: they step over each other's rows."""

    def __init__(self, database: Database, clock: Clock, keys: DataKeys, dead_letter_days: int) -> None:
        self._database = database
        self._clock = clock
        self._keys = keys
        self._dead_letter_days = dead_letter_days

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self.lay_to_rest, REST_S))
            tasks.create_task(self._repeat(self.delete_old, RETENTION_S))

    async def lay_to_rest(self) -> None:
        """See to it that nothing past delivery stays whole, nor an old entry's digits.

        Raises DatabaseAway, CommitUnknown.
        """
        now_us = self._clock.now_us()
        keys, days = self._keys, self._dead_letter_days
        for cell in await self._database.read(
            partial(resting.cells_to_rest, keys=keys, dead_letter_days=days, now_us=now_us)
        ):
            rest = partial(resting.rest_events, cell=cell, keys=keys, dead_letter_days=days, now_us=now_us)
            while await self._database.write(rest):
                pass
            while await self._database.write(partial(resting.forget_digits, cell=cell, now_us=now_us)):
                pass

    async def delete_old(self) -> None:
        """Delete what tenants, and the audit log, keep no longer. Raises DatabaseAway, CommitUnknown."""
        now_us = self._clock.now_us()
        for kept in await self._database.read(retention.tenants):
            count = await retention.delete_old(self._database, kept, now_us)
            if any(count.values()):
                _log.info("retention.deleted", tenant=kept.tenant_id, **count)
        if acts := await audit.delete_old(self._database, now_us):
            _log.info("retention.acts_deleted", acts=acts)

    async def _repeat(self, work: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while True:
            try:
                await work()
            except (DatabaseAway, CommitUnknown, asyncpg.PostgresError) as error:
                # What PostgreSQL refuses is tried again like what was lost: calls do not wait for this.
                _log.warning("retention.waiting", error=type(error).__name__)
            await asyncio.sleep(pause_s)
