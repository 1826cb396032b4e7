"""Keeps the board equal to the database: loads it, applies the feed, and says how old it is.

The windows of wrong PINs follow the same feed.
"""

from __future__ import annotations

import asyncio
import heapq
import shutil
import time
from collections import defaultdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from cordboard.clock import SECOND_US, Clock
from cordboard.routing.changes import WindowChange
from cordboard.storage import feed
from cordboard.storage.bell import Bell
from cordboard.storage.database import Connection, Database, DatabaseAway
from cordboard.storage.feed import Position, Written
from cordboard.storage.queries import ALL_CELLS
from cordboard.switchboard.throttle import Throttle
from cordboard.tables.board import BoardTables, FeedGap
from cordboard.tables.pulse import Pulse
from cordboard.tables.records import BOARD_VERSION
from cordboard.tables.steps import OnLoad, Step

# The safety net under the bell: without it a change is at most this late.
POLL_S: Final = 0.1
# The loop that applies them answers calls, too: some 0.3 ms, a transaction of its own included.
APPLIED_PER_STEP: Final = 10
AWAY_BACKOFF_S: Final = 0.5
# A snapshot that a killed process leaves behind keeps every page that is replaced meanwhile: at 500 changes a
# second some 10 MB. Looking takes microseconds.
DEAD_READERS_S: Final = 5.0
# Ten million allocations take minutes.
LOADING_TOLD_S: Final = 5.0
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_log = structlog.get_logger(__name__)


def told_now_and_then() -> OnLoad:
    """How far the loading is, for whoever reads the log of a start that takes minutes."""
    told_at_s = time.monotonic()

    def tell(step: Step) -> None:
        nonlocal told_at_s
        if (now_s := time.monotonic()) - told_at_s >= LOADING_TOLD_S:
            told_at_s = now_s
            _log.info("board.loading", what=step.what, done=step.done, of=step.of)

    return tell


class BoardKeeper:
    """Owns the board's directory. `open` before use, `run` in a task of the owner, `close` at the end."""

    def __init__(
        self,
        database: Database,
        bell: Bell,
        throttle: Throttle,
        directory: Path,
        clock: Clock,
        on_load: OnLoad = lambda _: None,
    ) -> None:
        self._database = database
        self._bell = bell
        self._throttle = throttle
        self._directory = directory
        self._clock = clock
        self._on_load = on_load
        self._tables: BoardTables | None = None
        self._positions: dict[int, int] = {}
        self._pulse = Pulse(directory)
        self._pulse.equal_at_us = 0
        self._waiting: defaultdict[int, list[tuple[int, int, asyncio.Future[bool]]]] = defaultdict(list)
        self._tickets = count()
        # Each batch that somebody commits here, until it is applied: a handful, for they are applied faster.
        self._handed_over: asyncio.Queue[Written] = asyncio.Queue()
        self._last_handed_over: Written | None = None
        self._is_loading = False

    @property
    def tables(self) -> BoardTables:
        assert self._tables is not None, "the board is opened before the first request"
        return self._tables

    def age_s(self) -> float:
        """Seconds since the board was last seen to be equal to the database."""
        return max(self._clock.now_us() - self._pulse.equal_at_us, 0) / SECOND_US

    async def open(self) -> None:
        """Take over the board that a process before us left, if it is of this boot, database and version;
        else load it. Raises DatabaseAway."""
        stamp = await self._expected_stamp()
        if (found := self._stamp_on_disk()) is not None and found["of"] == stamp:
            tables = BoardTables(generation_directory(self._directory, found["generation"]))
            positions = tables.positions_by_cell()
            if await self._database.read(lambda connection: feed.is_our_history(connection, positions)):
                self._use(tables, found["generation"])
                _log.info("board.kept", allocations=tables.allocation_count())
                await self._catch_up()
                await self._database.read_snapshot(self._restore_throttle)
                return
            tables.close()
        await self._load(stamp)

    async def run(self) -> None:
        """Apply the feed, and what is handed over, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_feed())
            tasks.create_task(self._apply_handed_over())

    def hand_over(self, written: Written) -> None:
        """Apply what this process has committed, without a way through the database and back.

        Every item of a batch may hand it over. Where something else comes before it, the feed tells of both;
        and of what windows of wrong PINs are told, here and in the workers, it tells alone.
        """
        if written is self._last_handed_over:
            return
        self._last_handed_over = written
        if any(isinstance(change, WindowChange) for change in written.changes):
            self._bell.ring_here()
        else:
            self._handed_over.put_nowait(written)

    async def _apply_handed_over(self) -> None:
        while True:
            rows = (await self._handed_over.get()).rows()
            for start in range(0, len(rows), APPLIED_PER_STEP):
                step = rows[start : start + APPLIED_PER_STEP]
                cell = step[0].cell
                # A board that is being loaded knows the feed alone: it must not fall back behind an answer.
                if self._is_loading or self._positions.get(cell, 0) != step[0].n - 1:
                    self._bell.ring_here()
                    break
                self.tables.apply_known(step)
                self._positions[cell] = step[-1].n
                self._tell_waiting()
                await asyncio.sleep(0)

    async def _follow_feed(self) -> None:
        looked_at_s = 0.0
        while True:
            if (now_s := time.monotonic()) - looked_at_s >= DEAD_READERS_S:
                looked_at_s = now_s
                self.tables.give_back_dead_readers()
            try:
                await self._catch_up()
            except DatabaseAway:
                if self._database.is_up:
                    await asyncio.sleep(AWAY_BACKOFF_S)
                await self._database.wait_until_up()
                await self._check_history()
            else:
                await self._bell.wait(POLL_S)

    def close(self) -> None:
        tables, self._tables = self._tables, None
        if tables is not None:
            tables.close()
        self._pulse.close()

    async def wait_for(self, position: Position, timeout_s: float) -> bool:
        """Whether this node routes by that change, waited for if it need be."""
        cell, n = position
        if self._positions.get(cell, 0) >= n:
            return True
        loop = asyncio.get_running_loop()
        reached: asyncio.Future[bool] = loop.create_future()
        heapq.heappush(self._waiting[cell], (n, next(self._tickets), reached))
        # A timer by hand, because every create waits here: asyncio.timeout takes five times as long.
        timer = loop.call_later(timeout_s, _tell, reached, False)
        try:
            return await reached
        finally:
            timer.cancel()

    async def _catch_up(self) -> None:
        while True:
            asked_at_us = self._clock.now_us()
            positions = dict.fromkeys(ALL_CELLS, 0) | self._positions
            rows = await self._database.read(partial(feed.rows_after, positions=positions))
            if not rows:
                self._pulse.equal_at_us = asked_at_us
                return
            for start in range(0, len(rows), APPLIED_PER_STEP):
                # While the rows were read and applied, others of them may have been handed over.
                step = [
                    row
                    for row in rows[start : start + APPLIED_PER_STEP]
                    if row.n > self._positions.get(row.cell, 0)
                ]
                try:
                    self.tables.apply(step)
                    self._throttle.follow(step)
                except FeedGap as gap:
                    _log.warning("board.gap", cell=gap.cell)
                    await self._load_anew()
                    return
                for row in step:
                    self._positions[row.cell] = row.n
                self._tell_waiting()
                await asyncio.sleep(0)
            if len(rows) < feed.ROWS_PER_READ_MAX:
                self._pulse.equal_at_us = asked_at_us
                return

    async def _check_history(self) -> None:
        """After a reconnect: whether this is still the database that the board was made from."""
        try:
            positions = self.tables.positions_by_cell()
            ours = await self._database.read(lambda connection: feed.is_our_history(connection, positions))
            if not ours:
                _log.warning("board.other_history")
                await self._load_anew()
        except DatabaseAway:
            return

    async def _load_anew(self) -> None:
        """As `_load`, while calls are answered and commits handed over."""
        self._is_loading = True
        try:
            await self._load(await self._expected_stamp())
        finally:
            self._is_loading = False

    async def _load(self, stamp: dict[str, Any]) -> None:
        """Build the next generation beside the present one, then use it."""
        # Only here: it imports numpy, a sixth of what a start with a kept board takes.
        from cordboard.switchboard.loading import load_board

        found = self._stamp_on_disk()
        generation = 1 if found is None else found["generation"] + 1
        directory = generation_directory(self._directory, generation)
        shutil.rmtree(directory, ignore_errors=True)
        tables = BoardTables(directory)

        asked_at_us = self._clock.now_us()
        try:
            await load_board(self._database, tables, self._on_load, beside=self._restore_throttle)
        except BaseException:
            tables.close()
            shutil.rmtree(directory, ignore_errors=True)
            raise
        self._write_stamp({"of": stamp, "generation": generation})
        before = self._tables
        self._use(tables, generation)
        self._pulse.equal_at_us = asked_at_us
        if before is not None:
            before.close()
        for other in self._directory.glob("board-*"):
            if other != directory:
                shutil.rmtree(other, ignore_errors=True)
        _log.info("board.loaded", allocations=tables.allocation_count(), generation=generation)

    async def _restore_throttle(self, connection: Connection) -> None:
        await self._throttle.restore(connection, self._clock.now_us())

    def _use(self, tables: BoardTables, generation: int) -> None:
        self._tables = tables
        self._pulse.generation = generation
        self._positions = {cell: n for cell, (n, _) in tables.positions_by_cell().items()}
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        for cell, waiting in self._waiting.items():
            reached = self._positions.get(cell, 0)
            while waiting and waiting[0][0] <= reached:
                _tell(heapq.heappop(waiting)[2], True)

    async def _expected_stamp(self) -> dict[str, Any]:
        database_id = await self._database.read(feed.database_id)
        boot_id = BOOT_ID.read_text(encoding="ascii").strip() if BOOT_ID.exists() else ""
        return {"boot_id": boot_id, "database_id": str(database_id), "board_version": BOARD_VERSION}

    def _stamp_on_disk(self) -> dict[str, Any] | None:
        try:
            found = orjson.loads((self._directory / "stamp.json").read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None
        match found:
            case {"of": dict(), "generation": int()}:
                return dict(found)
            case _:
                return None

    def _write_stamp(self, stamp: dict[str, Any]) -> None:
        fresh = self._directory / "stamp.json.new"
        fresh.write_bytes(orjson.dumps(stamp))
        fresh.replace(self._directory / "stamp.json")


def _tell(waiting: asyncio.Future[bool], is_reached: bool) -> None:
    if not waiting.done():
        waiting.set_result(is_reached)


def generation_directory(directory: Path, generation: int) -> Path:
    return directory / f"board-{generation}"
