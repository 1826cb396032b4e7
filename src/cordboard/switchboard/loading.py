"""Loads a board from the database: everything that stands at one instant, and how far the feed was then."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from cordboard.storage import feed, snapshot
from cordboard.storage.database import Connection, Database
from cordboard.tables.board import BoardTables
from cordboard.tables.loading import ALLOCATIONS_PER_PART, ROWS_PER_PART, BoardLoad
from cordboard.tables.steps import OnLoad, Step


class _Unwritable(Exception):
    """The board's directory, where an OSError by itself would pass for one of the database's sockets."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


async def load_board(
    database: Database,
    tables: BoardTables,
    on_load: OnLoad = lambda _: None,
    *,
    beside: Callable[[Connection], Awaitable[None]] | None = None,
    allocations_per_part: int = ALLOCATIONS_PER_PART,
    rows_per_part: int = ROWS_PER_PART,
) -> None:
    """Put everything that stands on an empty board; `beside` reads in the same instant.

    The work is done in a thread, because a node that loads anew goes on answering by the board that it has.
    Raises DatabaseAway, or OSError where there is no room; the board is worth nothing then.
    """
    loop = asyncio.get_running_loop()
    # Whoever leaves waits for the last piece of work: nothing writes to a board that is closed.
    with ThreadPoolExecutor(1) as thread:

        async def read(connection: Connection) -> BoardLoad:
            positions = await feed.heads(connection)
            async for cell, changes in feed.directory(connection):
                await loop.run_in_executor(thread, tables.load, cell, changes)
            by_cell = await snapshot.counts(connection)
            loading = BoardLoad(
                tables, by_cell, allocations_per_part=allocations_per_part, rows_per_part=rows_per_part
            )
            rows_read: Counter[str] = Counter()
            adding = loop.run_in_executor(thread, tables.set_positions, positions)

            def add(kind: str, rows: snapshot.Rows) -> None:
                try:
                    loading.add(kind, rows)
                except OSError as error:
                    raise _Unwritable(error) from error

            async def take(kind: str, rows: snapshot.Rows) -> None:
                # PostgreSQL goes on while these are added, but never two steps ahead.
                nonlocal adding
                await adding
                adding = loop.run_in_executor(thread, add, kind, rows)
                rows_read[kind] += len(rows)
                of = sum(by_cell.values()) if kind == "allocations" else None
                on_load(Step(f"reading {kind.replace('_', ' ')}", rows_read[kind], of))

            await snapshot.copy_out(connection, take)
            await adding
            if beside is not None:
                await beside(connection)
            return loading

        try:
            loading = await database.read_snapshot(read)
        except _Unwritable as unwritable:
            raise unwritable.error from None
        steps = loading.steps()
        while (step := await loop.run_in_executor(thread, next, steps, None)) is not None:
            on_load(step)
