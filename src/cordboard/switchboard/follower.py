"""The board in a process that only reads it: another one of the node keeps it equal to the database.

What `BoardKeeper` is told by the database, `BoardFollower` reads off the board: how far it has come, and what
the windows of wrong PINs are to follow.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

import lmdb
import structlog

from cordboard.clock import SECOND_US, Clock
from cordboard.storage.database import Connection, Database, DatabaseAway
from cordboard.storage.feed import Position, Written
from cordboard.switchboard.keeper import generation_directory
from cordboard.switchboard.throttle import Throttle
from cordboard.tables.board import BoardTables
from cordboard.tables.pulse import Pulse

# Two microseconds of looking; a change takes a commit, some 2 ms, and its way through the feed.
WAITING_POLL_S: Final = 0.0005
# Wrong PINs that other workers met count here after that; a caller enters one in seconds.
WINDOWS_POLL_S: Final = 0.02
FORGET_S: Final = 60.0
# The process that keeps the board is there before any that reads it; it loads ten million in minutes.
OPEN_POLL_S: Final = 0.05

_log = structlog.get_logger(__name__)


class BoardFollower:
    """`open` before use, `run` in a task of the owner, `close` at the end. Stands in for a `BoardKeeper`."""

    def __init__(self, database: Database, throttle: Throttle, directory: Path, clock: Clock) -> None:
        self._database = database
        self._throttle = throttle
        self._directory = directory
        self._clock = clock
        self._pulse = Pulse(directory)
        self._tables: BoardTables | None = None
        self._generation = 0
        self._window_serial = 0
        self._windows_are_known = False

    @property
    def tables(self) -> BoardTables:
        """Those in use now: a board that was loaded anew takes the place of the one before it at once."""
        if self._pulse.generation != self._generation:
            self._move()
        assert self._tables is not None, "the board is opened before the first request"
        return self._tables

    def age_s(self) -> float:
        """Seconds since the board was last seen to be equal to the database."""
        return max(self._clock.now_us() - self._pulse.equal_at_us, 0) / SECOND_US

    async def open(self) -> None:
        """Return when there is a board."""
        while self._tables is None:
            if self._pulse.generation:
                self._move()
            if self._tables is None:
                await asyncio.sleep(OPEN_POLL_S)
        await self._restore_windows()

    async def run(self) -> None:
        """Follow the windows of wrong PINs until cancelled."""
        forgot_at_s = time.monotonic()
        while True:
            await asyncio.sleep(WINDOWS_POLL_S)
            if not self._windows_are_known:
                await self._restore_windows()
            self._follow_windows()
            if (now_s := time.monotonic()) - forgot_at_s >= FORGET_S:
                forgot_at_s = now_s
                self._throttle.forget_old(self._clock.now_us())

    def close(self) -> None:
        tables, self._tables = self._tables, None
        if tables is not None:
            tables.close()
        self._pulse.close()

    def hand_over(self, written: Written) -> None:
        """Another process writes the board, and is told by the feed."""

    async def wait_for(self, position: Position, timeout_s: float) -> bool:
        """Whether this node routes by that change, waited for if it need be."""
        cell, n = position
        until_s = time.monotonic() + timeout_s
        while self.tables.position(cell) < n:
            if time.monotonic() >= until_s:
                return False
            await asyncio.sleep(WAITING_POLL_S)
        return True

    def _move(self) -> None:
        generation = self._pulse.generation
        try:
            tables = BoardTables(generation_directory(self._directory, generation), is_read_only=True)
        except lmdb.Error as error:
            # Replaced while we looked: the next request looks again, and this one has the board before it.
            _log.warning("board.moved_on", generation=generation, error=type(error).__name__)
            return
        before, self._tables = self._tables, tables
        self._generation = generation
        # It numbers the rows of the windows anew, and has none from before it was loaded.
        self._window_serial = 0
        self._windows_are_known = False
        if before is not None:
            before.close()

    async def _restore_windows(self) -> None:
        """From the records; where the database is away, from what the board still has."""
        try:
            await self._database.read_snapshot(self._take_up_windows)
        except DatabaseAway:
            self._follow_windows()
        else:
            self._windows_are_known = True

    async def _take_up_windows(self, connection: Connection) -> None:
        await self._throttle.restore(connection, self._clock.now_us())

    def _follow_windows(self) -> None:
        rows = self.tables.window_rows_after(self._window_serial)
        if not rows:
            return
        if rows[0][0] > self._window_serial + 1 and self._window_serial:
            _log.warning("board.windows_missed", rows=rows[0][0] - self._window_serial - 1)
            self._windows_are_known = False
        self._throttle.follow(row for _, row in rows)
        self._window_serial = rows[-1][0]
