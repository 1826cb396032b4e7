"""A database that is watched: nobody waits for it while it is away, and what hangs is cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from cordboard.storage.commits import CommitBatcher
from cordboard.storage.database import CommitUnknown, Connection, Database, DatabaseAway
from cordboard.storage.embedded import EmbeddedPostgres
from tests.journeys.outages import Proxy, a_proxy

# Two probes of a second each, a heartbeat, and what a busy machine adds.
NOTICED_S = 3.0 + 2.0


@asynccontextmanager
async def watched(database: Database) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(database.watch())
        yield
        watching.cancel()


@pytest.fixture
async def proxy(postgres: EmbeddedPostgres) -> AsyncIterator[Proxy]:
    async with a_proxy(postgres) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: Proxy) -> AsyncIterator[Database]:
    """The database behind the proxy, watched."""
    database = Database(proxy.dsn)
    await database.connect()
    async with watched(database):
        yield database
    proxy.flow()
    await database.close()


async def one(connection: Connection) -> object:
    return await connection.fetchval("SELECT 1")


async def until_away(database: Database) -> None:
    async with asyncio.timeout(NOTICED_S):
        while database.is_up:  # noqa: ASYNC110 - it tells only when it is up.
            await asyncio.sleep(0.01)


async def until_up(database: Database) -> None:
    async with asyncio.timeout(NOTICED_S):
        await database.wait_until_up()


async def test_who_waits_for_a_database_that_hangs_is_told_and_the_next_one_at_once(
    far: Database, proxy: Proxy
) -> None:
    assert await far.read(one) == 1
    proxy.hang()
    started_s = time.perf_counter()
    for work in (far.read(one), far.write(one), far.read_snapshot(one)):
        with pytest.raises(DatabaseAway):
            await work
    assert time.perf_counter() - started_s < NOTICED_S
    assert not far.is_up
    started_s = time.perf_counter()
    with pytest.raises(DatabaseAway):
        await far.write(one)
    assert time.perf_counter() - started_s < 0.1
    proxy.flow()
    await until_up(far)
    assert await far.read(one) == 1


async def test_a_commit_that_hangs_is_unknown(far: Database, proxy: Proxy) -> None:
    async def hangs(connection: Connection) -> None:
        await one(connection)
        proxy.hang()

    with pytest.raises(CommitUnknown):
        await far.write(hangs)


async def test_nobody_stays_stuck_when_all_connections_hang(far: Database, proxy: Proxy) -> None:
    proxy.hang()
    results = await asyncio.gather(*(far.write(one) for _ in range(30)), return_exceptions=True)
    assert {type(result) for result in results} == {DatabaseAway}
    proxy.flow()
    await until_up(far)
    assert await asyncio.gather(*(far.write(one) for _ in range(30))) == [1] * 30


async def test_a_lost_connection_alone_is_forgiven_at_once(far: Database) -> None:
    async def cut_itself(connection: Connection) -> None:
        await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(DatabaseAway):
        await far.write(cut_itself)
    await until_up(far)
    assert await far.read(one) == 1


async def test_refused_connections_are_tried_again_until_they_are_taken(far: Database, proxy: Proxy) -> None:
    await proxy.close()
    await until_away(far)
    with pytest.raises(DatabaseAway):
        await far.read(one)
    await proxy.open()
    await until_up(far)
    assert await far.read(one) == 1


async def test_what_is_suspected_and_well_is_up_again_at_once(far: Database) -> None:
    far.suspect()
    assert not far.is_up
    with pytest.raises(DatabaseAway):
        await far.read(one)
    await until_up(far)


async def test_without_a_watcher_every_read_finds_out_for_itself(proxy: Proxy) -> None:
    database = Database(proxy.dsn)
    await database.connect()
    database.suspect()
    assert await database.read(one) == 1
    await proxy.close()
    with pytest.raises(DatabaseAway):
        await database.read(one)
    await proxy.open()
    assert await database.read(one) == 1
    await database.close()


async def test_a_cancelled_write_leaves_nothing_behind(far: Database) -> None:
    """Neither a transaction nor a wait for a server that may hang."""

    async def forever(connection: Connection) -> None:
        await connection.execute("SELECT pg_sleep(60)")

    started_s = time.perf_counter()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await far.write(forever)
    assert time.perf_counter() - started_s < 2
    assert await asyncio.gather(*(far.read(one) for _ in range(12))) == [1] * 12


async def test_an_item_whose_submitter_gave_up_is_not_committed(database: Database) -> None:
    committed: list[str] = []
    first_is_in = asyncio.Event()
    may_go_on = asyncio.Event()

    async def run(_: Connection, __: int, items: object) -> list[None]:
        assert isinstance(items, list)
        committed.extend(items)
        first_is_in.set()
        await may_go_on.wait()
        return [None for _ in items]

    batcher: CommitBatcher[str, None] = CommitBatcher(database.write, run)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(batcher.serve())
        first = tasks.create_task(batcher.submit(0, "first"))
        await first_is_in.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await batcher.submit(0, "given up")
        second = tasks.create_task(batcher.submit(0, "second"))
        may_go_on.set()
        await asyncio.gather(first, second)
        serving.cancel()
    assert committed == ["first", "second"]


async def test_what_arrives_while_a_commit_is_under_way_shares_the_next(database: Database) -> None:
    first_is_in, may_go_on = asyncio.Event(), asyncio.Event()

    async def run(connection: Connection, _: int, items: Sequence[int]) -> list[str]:
        transaction: str = await connection.fetchval("SELECT pg_current_xact_id()::text")
        first_is_in.set()
        await may_go_on.wait()
        return [transaction for _ in items]

    batcher: CommitBatcher[int, str] = CommitBatcher(database.write, run)
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(batcher.serve())
        first = tasks.create_task(batcher.submit(0, 0))
        await first_is_in.wait()
        others = [tasks.create_task(batcher.submit(0, number)) for number in range(1, 40)]
        await asyncio.sleep(0)
        may_go_on.set()
        assert len({await other for other in others}) == 1
        assert await first != await others[0]
        serving.cancel()


async def test_a_full_disk_is_a_database_that_is_away(database: Database) -> None:
    async def fills_the_disk(_: Connection) -> None:
        raise asyncpg.DiskFullError

    with pytest.raises(DatabaseAway):
        await database.write(fills_the_disk)
