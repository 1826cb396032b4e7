"""Hops of one moment are written together, and each knows when its own row is there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from cordboard.routing.model import NEW_CALL
from cordboard.routing.numbers import E164
from cordboard.switchboard.progress_writing import ProgressWriting
from cordboard.tables.progress import ProgressRow, ProgressTables

VN, CALLER = E164(918000000010), E164(919800000021)
NOW_US = 1_767_225_600_000_000


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[ProgressTables]:
    tables = ProgressTables(tmp_path / "progress")
    yield tables
    tables.close()


def row(n: int) -> ProgressRow:
    return ProgressRow(1, b"sid-%d" % n, VN, CALLER, NEW_CALL._replace(failures=n), NOW_US)


async def test_a_row_is_there_when_its_hop_goes_on(tables: ProgressTables) -> None:
    writing = ProgressWriting(tables)

    async def hop(n: int) -> int:
        await writing.put(row(n))
        progress = tables.get(1, b"sid-%d" % n, VN, CALLER)
        return -1 if progress is None else progress.failures

    assert await asyncio.gather(*map(hop, range(5))) == [0, 1, 2, 3, 4]


async def test_a_hop_that_gave_up_leaves_the_others_alone(tables: ProgressTables) -> None:
    writing = ProgressWriting(tables)
    is_waiting = asyncio.Event()

    async def leave() -> None:
        is_waiting.set()
        await writing.put(row(1))

    async with asyncio.TaskGroup() as tasks:
        leaving, staying = tasks.create_task(leave()), tasks.create_task(writing.put(row(2)))
        await is_waiting.wait()
        leaving.cancel()
    assert tables.get(1, b"sid-2", VN, CALLER) == NEW_CALL._replace(failures=2)
    assert staying.done()


async def test_each_hop_is_told_that_nothing_was_written(tables: ProgressTables) -> None:
    writing = ProgressWriting(tables)
    tables.close()
    failed = await asyncio.gather(*(writing.put(row(n)) for n in range(2)), return_exceptions=True)
    assert [isinstance(error, lmdb.Error) for error in failed] == [True, True]
