"""Many small changes in one commit: whatever arrived while the last one was under way (scale.md A.1).

A commit costs the same for one change as for a hundred, so under load this multiplies what the
database can take, and with one client it adds no wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeAlias, TypeVar

from cordboard.storage.database import CommitUnknown, Connection, DatabaseAway

Item = TypeVar("Item")
Result = TypeVar("Result")

# 100 changes are some 10 ms of a transaction; more would make the first of them wait for the last.
BATCH_ITEMS_MAX: Final = 100
# Batches of different cells at the same time; of one cell only where none of them tells the feed, which has
# one head.
LANES: Final = 4

RunBatch = Callable[[Connection, int, Sequence[Item]], Awaitable[Sequence[Result]]]
_Work: TypeAlias = Callable[[Connection], Awaitable[Sequence[Result]]]
Write: TypeAlias = Callable[[_Work[Result]], Awaitable[Sequence[Result]]]


class CommitBatcher(Generic[Item, Result]):
    """Commits items cell by cell. `serve` runs in a task of the owner; `submit` waits for the commit.

    `write` is one of a Database: in a transaction of several statements, or in one statement.
    """

    def __init__(
        self,
        write: Write[Result],
        run: RunBatch[Item, Result],
        lanes: int = LANES,
        batches_of_a_cell: int = 1,
    ) -> None:
        self._write = write
        self._run = run
        self._lanes = lanes
        self._batches_of_a_cell = batches_of_a_cell
        self._waiting: defaultdict[int, deque[tuple[Item, asyncio.Future[Result]]]] = defaultdict(deque)
        self._cells: asyncio.Queue[int] = asyncio.Queue()
        self._scheduled: Counter[int] = Counter()

    async def submit(self, cell: int, item: Item) -> Result:
        """What the batch made of the item, once it is durable.

        Raises DatabaseAway (nothing happened), CommitUnknown, or the item's own error.
        """
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[cell].append((item, done))
        self._schedule(cell)
        return await done

    async def serve(self) -> None:
        async with asyncio.TaskGroup() as lanes:
            for _ in range(self._lanes):
                lanes.create_task(self._serve_lane())

    def _schedule(self, cell: int) -> None:
        if self._scheduled[cell] < self._batches_of_a_cell:
            self._scheduled[cell] += 1
            self._cells.put_nowait(cell)

    async def _serve_lane(self) -> None:
        while True:
            cell = await self._cells.get()
            waiting = self._waiting[cell]
            taken = [waiting.popleft() for _ in range(min(len(waiting), BATCH_ITEMS_MAX))]
            # Whoever gave up waiting has made other arrangements, or told its client that nothing happened.
            batch = [(item, done) for item, done in taken if not done.done()]
            try:
                if batch:
                    await self._commit(cell, batch)
            finally:
                self._scheduled[cell] -= 1
                if waiting:
                    self._schedule(cell)
                for _, done in batch:
                    # Only a cancelled lane leaves anybody waiting: the engine stops.
                    if not done.done():
                        done.set_exception(DatabaseAway("the engine is stopping"))

    async def _commit(self, cell: int, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        items = [item for item, _ in batch]
        try:
            results = await self._write(lambda connection: self._run(connection, cell, items))
        except (DatabaseAway, CommitUnknown) as away:
            for _, done in batch:
                _fail(done, away)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch[0][1], error)
                return
            # One item spoils the batch and nothing says which: each gets a transaction of its own.
            for single in batch:
                await self._commit(cell, [single])
        else:
            for (_, done), result in zip(batch, results, strict=True):
                if not done.done():
                    done.set_result(result)


async def write_or_each(
    write: Callable[[Sequence[Item]], Awaitable[Result]],
    items: Sequence[Item],
    refuse: Callable[[Item, Exception], None],
) -> list[Result]:
    """What one write of all items says; where the database refuses that, what a write of each says.

    `refuse` gets what is refused by itself. Raises DatabaseAway, CommitUnknown, and what `refuse` raises.
    """
    try:
        return [await write(items)]
    except (DatabaseAway, CommitUnknown):
        raise
    except Exception as error:
        if len(items) == 1:
            refuse(items[0], error)
            return []
    # One item spoils the batch and nothing says which: each gets a transaction of its own.
    return [result for item in items for result in await write_or_each(write, [item], refuse)]


def _fail(done: asyncio.Future[Result], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
