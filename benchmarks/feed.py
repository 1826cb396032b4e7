"""How long after a commit of another process this node routes by it: from COMMIT's answer to the board.

The changes are written by this process, straight into the database, so that the engine learns of them by its
feed alone; the board is watched in its LMDB, as a worker would see it. With the bell rung after each commit,
and without, when the node finds out by itself.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Final

from benchmarks.engine import Engine
from benchmarks.figures import Figure
from benchmarks.latency import latency_of
from benchmarks.world import FIRST_VN, TENANT
from cordboard.clock import SystemClock
from cordboard.routing.numbers import E164
from cordboard.storage.bell import CHANNEL
from cordboard.storage.database import Database
from cordboard.storage.feed import Position
from cordboard.storage.provisioning import set_virtual_number_state
from cordboard.tables.board import BoardTables

PART: Final = "feed"
TIMEOUT_S: Final = 10.0
# The error of what is measured; with the time that a sleeping process takes to wake, some 0.1 ms.
LOOK_S: Final = 50e-6
# Between commits, so that none meets the engine at the same point of its own rounds.
PAUSE_S_MAX: Final = 0.02
# A node that is not told looks ten times a second.
WITHOUT_BELL_SHARE: Final = 10


async def feed(engine: Engine, commits: int) -> AsyncIterator[Figure]:
    database = Database(**engine.database.connect_kwargs)
    await database.connect()
    tables = BoardTables(engine.board_files())
    try:
        for is_rung, count in ((True, commits), (False, max(commits // WITHOUT_BELL_SHARE, 10))):
            lags_ns = await _lags(database, tables, count, is_rung=is_rung)
            yield Figure(
                PART,
                f"commit to routed, {'bell rung' if is_rung else 'bell lost'}",
                allocations=engine.world.allocations,
                latency=latency_of(lags_ns),
                note="another process's commit, looked at in the board",
            )
    finally:
        tables.close()
        await database.close()


async def _lags(database: Database, tables: BoardTables, count: int, *, is_rung: bool) -> list[int]:
    clock = SystemClock()
    dice = random.Random(2026)
    lags_ns: list[int] = []
    for n in range(count):
        await asyncio.sleep(dice.random() * PAUSE_S_MAX)
        number = E164(91_00000_00000 + FIRST_VN)
        position = await set_virtual_number_state(
            database, TENANT, number, clock.now_us(), is_reserved=n % 2 == 0
        )
        committed_ns = time.perf_counter_ns()
        if is_rung:
            await database.read(lambda connection: connection.execute(f"NOTIFY {CHANNEL}"))
        gives_up_ns = committed_ns + int(TIMEOUT_S * 1e9)
        while not _is_routed(tables, position):
            if time.perf_counter_ns() > gives_up_ns:
                raise TimeoutError(f"not routed {TIMEOUT_S:g} s after its commit")
        lags_ns.append(time.perf_counter_ns() - committed_ns)
    return lags_ns


def _is_routed(tables: BoardTables, position: Position) -> bool:
    """Whether the board has come so far; else a moment later, which is PostgreSQL's to work in."""
    if tables.positions_by_cell().get(position.cell, (0, 0))[0] >= position.n:
        return True
    time.sleep(LOOK_S)
    return False
