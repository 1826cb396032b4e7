"""What a process left that is gone: a worker that was killed, or one of a node that had more workers.

Each worker has a spool of its own, named after its process, and holds its lock. What nobody holds is drained
by the node, and its directory removed. Of outcomes that are on record and untold the node tells.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from cordboard.storage.database import CommitUnknown, Database, DatabaseAway
from cordboard.storage.spool import Spool, SpoolHeld
from cordboard.switchboard.recording import Recording
from cordboard.switchboard.telling import LEFT_AFTER_US, Telling

# A listing of some names. What is in there is answered already, and late by an outage.
LOOK_S: Final = 0.5
# It reads all that were there since the last VACUUM, some milliseconds after a busy minute.
LOOK_FOR_UNTOLD_S: Final = 2.0

_log = structlog.get_logger(__name__)


class Salvage:
    """`run` in a task of the owner. Where the owner has a spool itself, that is `own`."""

    def __init__(
        self,
        database: Database,
        spool_dir: Path,
        own: Path | None,
        open_spool: Callable[[Path], Spool],
        recording_of: Callable[[Spool], Recording],
        telling: Telling,
    ) -> None:
        self._database = database
        self._spool_dir = spool_dir
        self._own = own
        self._open_spool = open_spool
        self._recording_of = recording_of
        self._telling = telling

    async def drain_at_start(self) -> None:
        """Before the first call, if it does not take too long; nobody else starts or stops meanwhile."""
        for directory in self._left():
            await self._drain(directory)
        await self._tell_left(0)

    async def run(self) -> None:
        looked_at_s = 0.0
        while True:
            await self._database.wait_until_up()
            for directory in self._left():
                with suppress(FileNotFoundError):
                    # One that has just been made may not be locked yet: it is empty.
                    if (directory / "records").stat().st_size:
                        await self._drain(directory)
            if (now_s := time.monotonic()) - looked_at_s >= LOOK_FOR_UNTOLD_S:
                looked_at_s = now_s
                await self._tell_left(LEFT_AFTER_US)
            await asyncio.sleep(LOOK_S)

    async def _tell_left(self, older_than_us: int) -> None:
        try:
            await self._telling.tell_left(older_than_us)
        except (DatabaseAway, CommitUnknown) as away:
            _log.warning("outcomes.untold", error=type(away).__name__)

    def _left(self) -> list[Path]:
        places = [self._spool_dir, *sorted(self._spool_dir.glob("worker-*"))]
        return [place for place in places if place != self._own and (place / "records").exists()]

    async def _drain(self, directory: Path) -> None:
        try:
            spool = self._open_spool(directory)
        except SpoolHeld:
            return
        try:
            await self._recording_of(spool).drain_at_start()
            if not spool.records:
                spool.clear_away()
        except OSError as error:
            _log.error("spool.unusable", error=error.strerror)
        finally:
            spool.close()
