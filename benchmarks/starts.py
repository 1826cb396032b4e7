"""Starts and sizes: from PostgreSQL without a board, after a crash with one, and what both stores take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from statistics import median
from typing import Final

from benchmarks.engine import Engine
from benchmarks.figures import Figure
from benchmarks.progress import say
from cordboard.tables.board import BoardTables

PART: Final = "starts"
SIZE_PART: Final = "size"


async def starts(engine: Engine, restarts: int) -> AsyncIterator[Figure]:
    """Of an engine without a board; leaves it running with one."""
    allocations = engine.world.allocations
    cold_s = await engine.start()
    say(f"{allocations:,} allocations loaded from PostgreSQL in {cold_s:.1f} s")
    yield Figure(
        PART,
        "cold start from PostgreSQL",
        allocations=allocations,
        value=cold_s,
        unit="s",
        note="from exec to the first request that is answered; PostgreSQL itself started, too",
    )
    await engine.settle()
    yield _board_size(engine)
    yield Figure(
        SIZE_PART,
        "database, an allocation",
        allocations=allocations,
        value=engine.database_bytes / allocations,
        unit="B",
        note="seven tables and their indexes, when just made",
    )
    took_s: list[float] = []
    for _ in range(restarts):
        await engine.kill()
        took_s.append(await engine.start())
        await engine.settle()
    yield Figure(
        PART,
        "process restart, board kept",
        allocations=allocations,
        value=median(took_s),
        unit="s",
        note=f"after kill -9; the median of {restarts}, {min(took_s):.2f} to {max(took_s):.2f} s",
    )


def _board_size(engine: Engine) -> Figure:
    tables = BoardTables(engine.board_files())
    try:
        allocations = tables.allocation_count()
        return Figure(
            SIZE_PART,
            "board, an allocation",
            allocations=engine.world.allocations,
            value=tables.size_bytes() / allocations,
            unit="B",
            note="4 numbers, 2 PINs, 2 VNs; once a node. Every hundredth has a member",
        )
    finally:
        tables.close()
