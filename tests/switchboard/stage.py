"""Where stories are played: one real switchboard on a database of its own, and a clock moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg

from cordboard.clock import SECOND_US
from cordboard.node import running_switchboard
from cordboard.settings import Settings
from cordboard.storage.database import Database
from cordboard.storage.embedded import EmbeddedPostgres
from cordboard.switchboard.service import Switchboard

# 2026-01-01; the clock of the tests only moves when a rule moves it.
START_US: Final = 1_767_225_600 * SECOND_US
# Only there so that a broken test ends.
GIVE_UP_S: Final = 60

Result = TypeVar("Result")


class HandMovedClock:
    def __init__(self) -> None:
        self._now_us = START_US

    def now_us(self) -> int:
        return self._now_us

    def advance(self, us: int) -> None:
        self._now_us += us


@dataclass
class Stage:
    """What all stories share: a running switchboard, and the loop in which it runs."""

    runner: asyncio.Runner
    database: Database
    switchboard: Switchboard
    clock: HandMovedClock
    directory: Path
    numbers: Iterator[int]

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        async def limited() -> Result:
            async with asyncio.timeout(GIVE_UP_S):
                return await work

        return self.runner.run(limited())


@asynccontextmanager
async def _new_database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """Not the fixture: its pool lives in another loop."""
    maker = await asyncpg.connect(**postgres.connect_kwargs)
    await maker.execute("CREATE DATABASE stories")
    # No story loses power, and two thirds of its time went into waiting for the disk.
    await maker.execute("ALTER DATABASE stories SET synchronous_commit = off")
    await maker.close()
    how: dict[str, Any] = {**postgres.connect_kwargs, "database": "stories"}
    database = Database(**how)
    await database.connect()
    try:
        await database.migrate()
        yield database
    finally:
        await database.close()


@contextmanager
def standing_stage(postgres: EmbeddedPostgres, directory: Path) -> Iterator[Stage]:
    clock = HandMovedClock()
    with asyncio.Runner() as runner:
        stopped = asyncio.Event()
        loop = runner.get_loop()

        async def host(started: asyncio.Future[tuple[Database, Switchboard]]) -> None:
            async with _new_database(postgres) as database:
                node_settings = Settings(
                    data_dir=directory / "data",
                    board_dir=directory / "node",
                    propagation_timeout_s=GIVE_UP_S,
                )
                async with running_switchboard(node_settings, database, None, clock) as switchboard:
                    started.set_result((database, switchboard))
                    await stopped.wait()

        async def start() -> tuple[asyncio.Task[None], Database, Switchboard]:
            started: asyncio.Future[tuple[Database, Switchboard]] = loop.create_future()
            hosting = loop.create_task(host(started))
            waited: list[asyncio.Future[Any]] = [hosting, started]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if hosting.done():
                hosting.result()
            return hosting, *started.result()

        async def stop(hosting: asyncio.Task[None]) -> None:
            stopped.set()
            await hosting

        hosting, database, switchboard = runner.run(start())
        try:
            yield Stage(runner, database, switchboard, clock, directory, count(1))
        finally:
            runner.run(stop(hosting))
