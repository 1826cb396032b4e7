"""What goes to the spool, in which order it leaves it, and what becomes of what nobody can use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cordboard.routing.model import WrongPin
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.progress import digest_of
from cordboard.routing.tenant import DEFAULTS
from cordboard.storage.calls import CallType, NewEnd
from cordboard.storage.database import Database
from cordboard.storage.outcomes import CallKey, NewOutcome
from cordboard.storage.spool import Spool
from cordboard.storage.spooled import Spooled, to_bytes
from cordboard.switchboard.recording import Recording
from cordboard.switchboard.telling import Telling
from cordboard.telemetry import Metrics
from tests.storage.office import ANN, BEN, NOW_US, Office, opened_office

GIVE_UP_S = 30


class StandingClock:
    def now_us(self) -> int:
        return NOW_US


def nothing() -> None:
    pass


@pytest.fixture
async def office(database: Database) -> Office:
    return await opened_office(database)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@asynccontextmanager
async def recording(database: Database, directory: Path, *, runs: bool = True) -> AsyncIterator[Recording]:
    spool = Spool(directory, 1 << 20)
    spool.open()
    clock = StandingClock()
    telling = Telling(database, clock, nothing, lambda _: None)
    recording = Recording(database, spool, telling, Metrics(), clock, 1.0, nothing, nothing)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = (
                [tasks.create_task(recording.run()), tasks.create_task(database.watch())] if runs else []
            )
            yield recording
            for task in running:
                task.cancel()
    finally:
        spool.close()


def wrong(office: Office, call_sid: str, digits: str = "1111") -> NewOutcome:
    call = CallKey(office.tenant.id, call_sid, office.vn, ANN)
    return NewOutcome(call, WrongPin(digest_of(digits)), Pin(digits), None, DEFAULTS, NOW_US)


def end(office: Office, call_sid: str, dialled: E164 | None = BEN) -> NewEnd:
    return NewEnd(
        tenant_id=office.tenant.id,
        call_sid=call_sid,
        settings=DEFAULTS,
        call_type=CallType.COMPLETED,
        dial_call_status="completed",
        dialled=dialled,
        dial_call_duration_s=1,
        on_call_duration_s=1,
        recording_url=None,
        start_time=None,
        at_us=NOW_US,
    )


async def spooled(directory: Path, *bodies: bytes) -> None:
    """As an engine before us left it."""
    spool = Spool(directory, 1 << 20)
    spool.open()
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(spool.run())
        for body in bodies:
            await spool.append(body)
        writing.cancel()
    spool.close()


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(GIVE_UP_S):
        while not is_true():  # noqa: ASYNC110 - what is looked at tells nobody.
            await asyncio.sleep(0.001)


async def recorded(office: Office) -> tuple[int, int]:
    """Outcomes and ends."""

    async def read(connection: object) -> tuple[int, int]:
        counts = await connection.fetchrow(  # type: ignore[attr-defined]
            "SELECT (SELECT count(*) FROM verification WHERE tenant_id = $1),"
            " (SELECT count(*) FROM call_end WHERE tenant_id = $1)",
            office.tenant.id,
        )
        return counts[0], counts[1]

    return await office.database.read(read)


async def test_with_the_database_there_nothing_goes_to_the_spool(office: Office, directory: Path) -> None:
    async with recording(office.database, directory) as keeps:
        assert (found := await keeps.outcome(office.cell, wrong(office, "c1"))) is not None
        assert found.progress.failures == 1
        await keeps.end(office.cell, end(office, "c1"))
        assert keeps.spool.size_bytes == 0
    assert await recorded(office) == (1, 1)


async def test_while_it_is_suspected_everything_goes_to_the_spool_and_comes_back(
    office: Office, directory: Path
) -> None:
    async with recording(office.database, directory) as keeps:
        await until(lambda: office.database.is_up)
        office.database.suspect()
        results = await asyncio.gather(
            *(keeps.outcome(office.cell, wrong(office, f"c{n}")) for n in range(50)),
            *(keeps.end(office.cell, end(office, f"c{n}")) for n in range(50)),
        )
        assert results.count(None) >= 50
        await until(lambda: not keeps.spool.records)
        found = await keeps.outcome(office.cell, wrong(office, "c0", "2222"))
        assert found is not None
        assert found.progress.failures == 2, "what was in the spool is on record before"
        await keeps.telling.flush()
    assert await recorded(office) == (51, 50)
    assert len(await office.events("verification_failed")) == 51


async def test_what_is_drained_twice_is_recorded_and_told_once(office: Office, directory: Path) -> None:
    items: list[NewOutcome | NewEnd] = [wrong(office, "c1"), wrong(office, "c1", "2222")]
    items += [end(office, "c1"), wrong(office, "c2")]
    bodies = [to_bytes(Spooled(office.cell, item)) for item in items]
    for _ in range(2):
        # As after a crash between the commit and the position.
        await spooled(directory, *bodies)
        async with recording(office.database, directory, runs=False) as keeps:
            running = asyncio.gather(keeps.spool.run(), return_exceptions=True)
            await keeps.drain_at_start()
            running.cancel()
            assert (keeps.spool.records, keeps.spool.size_bytes) == (0, 0)
    assert await recorded(office) == (3, 1)
    failed = await office.events("verification_failed")
    assert len(failed) == 3


async def test_what_nobody_can_use_is_set_aside_and_holds_up_nothing(office: Office, directory: Path) -> None:
    unreadable = b'{"kind": "of a later version"}'
    # No text of PostgreSQL's has a NUL in it.
    refused = to_bytes(Spooled(office.cell, wrong(office, "c\0")))
    good = [to_bytes(Spooled(office.cell, item)) for item in (wrong(office, "c1"), end(office, "c1"))]
    await spooled(directory, good[0], unreadable, refused, good[1])
    async with recording(office.database, directory) as keeps:
        await until(lambda: not keeps.spool.records)
        assert keeps.spool.damaged == 2
    assert await recorded(office) == (1, 1)
    aside = {path.name.split("-")[1]: path.read_bytes() for path in directory.glob("aside-*")}
    assert aside == {"unreadable": unreadable, "refused": refused}
