"""Writes what hops leave behind of their calls, those of one moment in one transaction.

LMDB writes a dozen pages for a transaction, whatever was changed: 25 µs for one hop, and little more for
thirty. Each waits for the transaction that has its own.
"""

from __future__ import annotations

import asyncio

from cordboard.tables.progress import ProgressRow, ProgressTables


class ProgressWriting:
    """`put` returns when the row is written. There is nothing to start or to stop."""

    def __init__(self, tables: ProgressTables) -> None:
        self._tables = tables
        self._waiting: list[tuple[ProgressRow, asyncio.Future[None]]] = []

    async def put(self, row: ProgressRow) -> None:
        """Raises lmdb.Error."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            # Behind all hops that can go on now: those that one statement told of their calls, say.
            loop.call_soon(self._write)
        self._waiting.append((row, written))
        await written

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        error: Exception | None = None
        try:
            self._tables.put_all(row for row, _ in waiting)
        except Exception as failed:  # Each hop tells its own platform.
            error = failed
        for _, written in waiting:
            if written.done():
                continue
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)
