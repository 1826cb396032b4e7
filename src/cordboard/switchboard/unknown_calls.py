"""Asks the records about calls that this node does not know: another node may (routing.md, The progress of a
call).

A stranger's call begins with that question, and a statement costs the process that answers calls the same
for one call as for thirty. So what is asked while one statement is under way goes with the next.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Final

from cordboard.routing.model import NEW_CALL, Progress
from cordboard.storage import outcomes
from cordboard.storage.database import Database, DatabaseAway
from cordboard.storage.outcomes import CallKey

# One look, and no caller waits for it longer than 0.2 s: half of that for the statement that is under way
# when a call comes, and half for its own.
STATEMENT_TIMEOUT_S: Final = 0.1
# What 10,000 such calls in 0.1 s are; more would make the first of them wait for the last.
CALLS_PER_STATEMENT_MAX: Final = 1_000


class UnknownCalls:
    """`run` in a task of the owner; `progress_of` waits for it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[int, dict[CallKey, asyncio.Future[Progress]]] = defaultdict(dict)
        self._is_asked = asyncio.Event()

    async def progress_of(self, cell: int, call: CallKey) -> Progress:
        """What the records say of the call; nothing, if they are slow. A call asks one thing at a time."""
        known: asyncio.Future[Progress] = asyncio.get_running_loop().create_future()
        self._waiting[cell][call] = known
        self._is_asked.set()
        return await known

    async def run(self) -> None:
        try:
            while True:
                await self._is_asked.wait()
                self._is_asked.clear()
                waiting = [(cell, self._taken(cell)) for cell in list(self._waiting)]
                # Cells do not wait for each other.
                async with asyncio.TaskGroup() as tasks:
                    for cell, asked in waiting:
                        tasks.create_task(self._ask(cell, asked))
        finally:
            # Whoever still waits goes by what this node knows.
            for asked in self._waiting.values():
                _tell(asked, {})

    def _taken(self, cell: int) -> dict[CallKey, asyncio.Future[Progress]]:
        asked = self._waiting.pop(cell)
        for call in list(asked)[CALLS_PER_STATEMENT_MAX:]:
            self._waiting[cell][call] = asked.pop(call)
            self._is_asked.set()
        return asked

    async def _ask(self, cell: int, asked: dict[CallKey, asyncio.Future[Progress]]) -> None:
        found: dict[CallKey, Progress] = {}
        try:
            async with asyncio.timeout(STATEMENT_TIMEOUT_S):
                found = await self._database.read(
                    lambda connection: outcomes.progress_of(connection, cell, asked)
                )
        except (TimeoutError, DatabaseAway):
            pass
        except Exception as error:  # A bug of ours: these hops are refused, and others still answered.
            for known in asked.values():
                if not known.done():
                    known.set_exception(error)
        finally:
            _tell(asked, found)


def _tell(asked: dict[CallKey, asyncio.Future[Progress]], found: dict[CallKey, Progress]) -> None:
    for call, known in asked.items():
        # Whoever gave up waiting has refused the call.
        if not known.done():
            known.set_result(found.get(call, NEW_CALL))
