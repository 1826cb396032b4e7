"""The bell: tells every node that the feed has grown. A hint only; with it lost all is merely later."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import asyncpg
import structlog

from cordboard.storage.database import AWAY, Database, DatabaseAway

CHANNEL: Final = "cordboard_bell"
# A NOTIFY wakes every node; a ring per commit halved the writes with eight listeners (scale.md A.1).
RING_SPACING_S: Final = 0.002
RECONNECT_S: Final = 1.0

_log = structlog.get_logger(__name__)


class Bell:
    """`ring` after a commit, `wait` for the rings of all nodes. `run` is the owner's task."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rung = asyncio.Event()
        self._to_send = asyncio.Event()

    def ring(self) -> None:
        """Wake the readers of this process now, and those of other nodes soon."""
        self._rung.set()
        self._to_send.set()

    async def wait(self, timeout_s: float) -> None:
        """Return at the next ring, or after the timeout all the same."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        self._rung.clear()

    async def run(self) -> None:
        while True:
            try:
                await self._serve_connection()
            except (DatabaseAway, asyncpg.PostgresError, *AWAY) as away:
                _log.warning("bell.lost", error=type(away).__name__)
            await asyncio.sleep(RECONNECT_S)

    async def _serve_connection(self) -> None:
        connection = await self._database.dedicated_connection()
        try:
            await connection.add_listener(CHANNEL, self._heard)
            # What was rung while nobody listened.
            self._rung.set()
            while True:
                await self._to_send.wait()
                self._to_send.clear()
                await connection.execute(f"NOTIFY {CHANNEL}")
                await asyncio.sleep(RING_SPACING_S)
        finally:
            connection.terminate()

    def _heard(self, *_: Any) -> None:
        self._rung.set()
