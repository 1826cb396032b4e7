"""The spool as a file: what was appended is there again, once, in order, whatever cut the file short."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordboard.storage.spool import BODY_BYTES_MAX, Spool, SpoolFull, SpoolUnusable

ROOM = 1 << 20
EVERYTHING = 1_000
# Magic, length and checksum before each body.
HEAD_BYTES = 12
BODIES = [b"first", b"second", b"", b"third" * 40]


@asynccontextmanager
async def opened(directory: Path, bytes_max: int = ROOM) -> AsyncIterator[Spool]:
    spool = Spool(directory, bytes_max)
    spool.open()
    try:
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(spool.run())
            yield spool
            writing.cancel()
    finally:
        spool.close()


async def fill(directory: Path, bodies: list[bytes]) -> None:
    async with opened(directory) as spool:
        for body in bodies:
            await spool.append(body)


def left(directory: Path) -> list[bytes]:
    """What the next engine finds."""
    spool = Spool(directory, ROOM)
    spool.open()
    try:
        bodies = spool.read(EVERYTHING).bodies
        assert spool.records == len(bodies)
        return bodies
    finally:
        spool.close()


def set_aside(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(directory.glob("aside-*"))]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool"


async def test_what_was_appended_is_there_again_in_order(directory: Path) -> None:
    await fill(directory, BODIES)
    await fill(directory, [b"later"])
    assert left(directory) == [*BODIES, b"later"]


async def test_appends_of_the_same_moment_are_all_kept(directory: Path) -> None:
    bodies = [b"%d" % n for n in range(200)]
    async with opened(directory) as spool:
        await asyncio.gather(*map(spool.append, bodies))
        assert spool.records == 200
    assert left(directory) == bodies


async def test_what_is_appended_while_others_are_written_is_written_after_them(directory: Path) -> None:
    """Each is answered for itself: nothing counts as written that is not on disk yet."""
    path = directory / "records"

    async def append(spool: Spool, number: int) -> None:
        body = b"<%d>" % number
        for _ in range(number % 23):
            await asyncio.sleep(0)
        await spool.append(body)
        assert body in path.read_bytes()

    async with opened(directory) as spool:
        for start in range(0, 1_000, 100):
            await asyncio.gather(*(append(spool, start + n) for n in range(100)))
        assert spool.records == 1_000
    assert sorted(left(directory)) == sorted(b"<%d>" % n for n in range(1_000))


async def test_nobody_else_may_read_it(directory: Path) -> None:
    await fill(directory, BODIES)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


async def test_what_is_drained_does_not_come_again(directory: Path) -> None:
    await fill(directory, BODIES)
    async with opened(directory) as spool:
        batch = spool.read(2)
        assert (batch.bodies, batch.is_all) == (BODIES[:2], False)
        await spool.forget(batch)
        assert spool.records == 2
    assert left(directory) == BODIES[2:]
    async with opened(directory) as spool:
        batch = spool.read(EVERYTHING)
        assert batch.is_all
        await spool.append(b"meanwhile")
        await spool.forget(batch)
        assert spool.records == 1
        await spool.forget(spool.read(EVERYTHING))
        assert (spool.records, spool.size_bytes) == (0, 0)
        await spool.append(b"anew")
    assert left(directory) == [b"anew"]


async def test_what_was_read_and_not_forgotten_comes_again(directory: Path) -> None:
    await fill(directory, BODIES)
    async with opened(directory) as spool:
        spool.read(EVERYTHING)
    assert left(directory) == BODIES


@pytest.mark.parametrize(
    "position", [b"", b"null", b'{"drained": 3}', b'{"drained": -1}', b'{"drained": 9999}']
)
async def test_a_position_that_means_nothing_drains_everything_again(
    directory: Path, position: bytes
) -> None:
    await fill(directory, BODIES)
    (directory / "position").write_bytes(position)
    assert left(directory) == BODIES


async def test_a_torn_tail_is_cut_off_wherever_it_was_torn(directory: Path) -> None:
    await fill(directory, BODIES)
    whole = (directory / "records").read_bytes()
    ends = [0]
    for body in BODIES:
        ends.append(ends[-1] + HEAD_BYTES + len(body))
    assert ends[-1] == len(whole)
    for size in range(len(whole)):
        (directory / "records").write_bytes(whole[:size])
        expected = sum(end <= size for end in ends[1:])
        assert left(directory) == BODIES[:expected]
        await fill(directory, [b"after"])
        assert left(directory) == [*BODIES[:expected], b"after"], "it goes on behind the last whole record"
    assert set_aside(directory) == []


@given(data=st.data())
def test_damage_costs_what_it_hit_and_is_kept(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bodies = data.draw(st.lists(st.binary(max_size=12), min_size=2, max_size=5))
    directory = tmp_path_factory.mktemp("damaged") / "spool"
    asyncio.run(fill(directory, bodies))
    whole = bytearray((directory / "records").read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    (directory / "records").write_bytes(whole)
    ends = [0]
    for body in bodies:
        ends.append(ends[-1] + HEAD_BYTES + len(body))
    hit = next(n for n, (start, end) in enumerate(pairwise(ends)) if start <= at < end)
    assert left(directory) == bodies[:hit] + bodies[hit + 1 :]
    is_tail = hit == len(bodies) - 1
    assert set_aside(directory) == ([] if is_tail else [bytes(whole[ends[hit] : ends[hit + 1]])])


async def test_it_takes_what_fits_and_not_a_byte_more(directory: Path) -> None:
    body = b"x" * 88
    async with opened(directory, bytes_max=3 * 100) as spool:
        for _ in range(3):
            await spool.append(body)
        assert spool.size_bytes == 300
        with pytest.raises(SpoolFull):
            await spool.append(b"")
        await spool.forget(spool.read(EVERYTHING))
        await spool.append(body)
    assert left(directory) == [body]


async def test_the_longest_body_is_read_again(directory: Path) -> None:
    longest = os.urandom(BODY_BYTES_MAX)
    await fill(directory, [longest])
    assert left(directory) == [longest]


async def test_what_a_disk_refused_is_not_there(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    async with opened(directory) as spool:
        await spool.append(b"before")
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", fails)
            with pytest.raises(SpoolUnusable):
                await spool.append(b"never")
        assert spool.records == 1
        await spool.append(b"after")
    assert left(directory) == [b"before", b"after"]


async def test_a_record_that_cannot_be_taken_back_is_the_last(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: int) -> None:
        raise OSError(5, "Input/output error")

    async with opened(directory) as spool:
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", fails)
            broken.setattr(os, "ftruncate", fails)
            with pytest.raises(SpoolUnusable):
                await spool.append(b"never")
        with pytest.raises(SpoolUnusable):
            await spool.append(b"after")
