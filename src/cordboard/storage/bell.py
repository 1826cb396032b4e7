"""The bell: tells every node that the feed has grown, or that there are events. A hint only; with it lost
all is merely later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import asyncpg
import structlog

from cordboard.storage.database import AWAY, Database, DatabaseAway

CHANNEL: Final = "cordboard_bell"
EVENTS_CHANNEL: Final = "cordboard_events"
# A NOTIFY wakes every node; a ring per commit halved the writes with eight listeners (scale.md A.1).
RING_SPACING_S: Final = 0.002
RECONNECT_S: Final = 1.0

_log = structlog.get_logger(__name__)


class Bell:
    """`ring` after a commit, `wait` for the rings of all nodes. `run` is the owner's task.

    A process that neither applies the feed nor sends events only rings (`is_heard` is false).
    """

    def __init__(self, database: Database, *, is_heard: bool = True) -> None:
        self._database = database
        self._is_heard = is_heard
        self._rung = asyncio.Event()
        self._to_send = asyncio.Event()
        self._channels: set[str] = set()
        self._on_events: Callable[[], None] | None = None

    def ring(self) -> None:
        """Wake the readers of this process now, and those of other processes and nodes soon."""
        self.ring_here()
        self.ring_elsewhere()

    def ring_here(self) -> None:
        self._rung.set()

    def ring_elsewhere(self) -> None:
        """For a change that this process has on its board already."""
        self._send(CHANNEL)

    def ring_for_events(self) -> None:
        """Wake whoever sends events, in another process."""
        self._send(EVENTS_CHANNEL)

    def on_events(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when another process rings for events."""
        self._on_events = wake

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

    def _send(self, channel: str) -> None:
        self._channels.add(channel)
        self._to_send.set()

    async def _serve_connection(self) -> None:
        connection = await self._database.dedicated_connection()
        try:
            if self._is_heard:
                await connection.add_listener(CHANNEL, self._heard)
                await connection.add_listener(EVENTS_CHANNEL, self._heard_of_events)
                # What was rung while nobody listened.
                self._rung.set()
            while True:
                await self._to_send.wait()
                self._to_send.clear()
                channels, self._channels = self._channels, set()
                await connection.execute("; ".join(f"NOTIFY {channel}" for channel in channels))
                await asyncio.sleep(RING_SPACING_S)
        finally:
            connection.terminate()

    def _heard(self, listening: Any, rung_by: int, *_: Any) -> None:
        # Our own ring has woken our readers before it was sent.
        if rung_by != listening.get_server_pid():
            self._rung.set()

    def _heard_of_events(self, *_: Any) -> None:
        if self._on_events is not None:
            self._on_events()
