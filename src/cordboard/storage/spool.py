"""The spool: a local file that keeps what must be durable while the database is away.

    records     magic, length and CRC-32 before each body; only ever appended to, emptied when all is drained
    position    up to where `records` is drained; written after the database has committed what lies before it
    aside-…     what could not be read or written, for a person to look at; nothing is dropped unseen

A record counts from the moment that it and everything before it is on disk; appends of the same moment
share one fsync. A tail that was torn by a crash was never answered, and is cut off. Bodies hold numbers and
digits: the files are of mode 0600, and no body is logged.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple, TypeVar

import orjson
import structlog

_MAGIC: Final = b"\xc5SP1"
_HEAD: Final = Struct("<4sII")
# A request line has 8 kB at most, and a record little more than what came in one.
BODY_BYTES_MAX: Final = 64 << 10

Result = TypeVar("Result")

_log = structlog.get_logger(__name__)


class SpoolFull(Exception):
    """There is no room left: what cannot be recorded is refused."""


class SpoolUnusable(Exception):
    """The disk refused to keep a record."""


class SpoolHeld(Exception):
    """Another process has it open."""


class Batch(NamedTuple):
    """Records that are not drained yet, oldest first, and where the next one begins."""

    bodies: list[bytes]
    end: int
    # Nothing was waiting behind them.
    is_all: bool


class _Piece(NamedTuple):
    start: int
    end: int
    # None: bytes that are no record.
    body: bytes | None


class Spool:
    """`open` before use, `run` in a task of the owner, `close` at the end."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self.bytes_max = bytes_max
        self._records_fd = -1
        # Of the file: all before `_end` is durable, all before `_drained` is in the database.
        self._end = 0
        self._drained = 0
        self._records = 0
        self._is_broken = False
        self._queue: list[tuple[bytes, asyncio.Future[None]]] = []
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._has_records = asyncio.Event()
        # The file is written or emptied, never both.
        self._writing = asyncio.Lock()
        self.damaged = 0

    @property
    def records(self) -> int:
        """How many are not drained, those among them that are being written now."""
        return self._records + len(self._queue)

    @property
    def size_bytes(self) -> int:
        return self._end + self._queued_bytes

    def open(self) -> None:
        """Take up what an engine before us left. Raises SpoolHeld, OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / "records"
        self._records_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._records_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise SpoolHeld(self._directory.name) from None
        self._sync_directory()
        size = os.fstat(self._records_fd).st_size
        position = self._read_position()
        self._drained = position if position <= size else 0
        with _Mapped(self._records_fd, size) as buffer:
            pieces = list(_pieces(buffer, self._drained, size))
            if pieces and pieces[0].body is None and self._drained:
                # Not where a record begins: all of it once more, which changes nothing that is recorded.
                self._drained = 0
                pieces = list(_pieces(buffer, 0, size))
        self._end = pieces[-1].end if pieces else self._drained
        if self._end < size:
            _log.warning("spool.torn_tail", bytes=size - self._end)
            os.ftruncate(self._records_fd, self._end)
            os.fsync(self._records_fd)
        self._records = sum(piece.body is not None for piece in pieces)
        if pieces:
            _log.warning("spool.left", records=self._records, bytes=self._end - self._drained)
            self._has_records.set()

    def close(self) -> None:
        if self._records_fd >= 0:
            os.close(self._records_fd)
            self._records_fd = -1

    def clear_away(self) -> None:
        """Remove an empty one that nobody will open again; what was set aside stays. Raises OSError."""
        assert not self.records, "what is recorded is not thrown away"
        for name in ("records", "position", "position.new"):
            (self._directory / name).unlink(missing_ok=True)
        with suppress(OSError):
            self._directory.rmdir()

    async def append(self, body: bytes) -> None:
        """Return when it is durable. Raises SpoolFull, SpoolUnusable."""
        assert len(body) <= BODY_BYTES_MAX, "a request was let in that is too long"
        record = _HEAD.pack(_MAGIC, len(body), zlib.crc32(body)) + body
        if self._is_broken:
            raise SpoolUnusable("an earlier record could not be taken back")
        if self.size_bytes + len(record) > self.bytes_max:
            raise SpoolFull
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((record, done))
        self._queued_bytes += len(record)
        self._wake.set()
        await done

    async def run(self) -> None:
        """Write what is appended; all that came while one fsync was under way shares the next."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            async with self._writing:
                await self._write_queue()

    async def wait_for_records(self) -> None:
        await self._has_records.wait()

    def read(self, records_max: int) -> Batch:
        """The oldest records that are not drained."""
        bodies: list[bytes] = []
        end = self._drained
        with _Mapped(self._records_fd, self._end) as buffer:
            for piece in _pieces(buffer, self._drained, self._end):
                if len(bodies) == records_max:
                    break
                if piece.body is None:
                    self.set_aside("damaged", bytes(buffer[piece.start : piece.end]))
                else:
                    bodies.append(piece.body)
                end = piece.end
        return Batch(bodies, end, end == self._end and not self._queue)

    async def forget(self, batch: Batch) -> None:
        """The database has it. Raises OSError; then it is drained again, which changes nothing."""
        async with self._writing:
            is_empty = batch.end == self._end
            await _in_thread(partial(self._empty if is_empty else self._write_position, batch.end))
            self._drained = 0 if is_empty else batch.end
            self._end = 0 if is_empty else self._end
            self._records -= len(batch.bodies)
            if is_empty:
                self._has_records.clear()

    def set_aside(self, why: str, body: bytes) -> None:
        """Keep what nobody could use, under a name that the same bytes get again. Raises OSError."""
        self.damaged += 1
        name = f"aside-{why}-{zlib.crc32(body):08x}"
        _log.error("spool.set_aside", why=why, bytes=len(body), file=name)
        self._write_file(name, body)

    async def _write_queue(self) -> None:
        batch = list(self._queue)
        if not batch:
            return
        data = b"".join(record for record, _ in batch)
        try:
            self._end = await _in_thread(partial(self._write, data, self._end))
        except OSError as error:
            _log.error("spool.unusable", error=error.strerror)
            for _, done in batch:
                if not done.done():
                    done.set_exception(SpoolUnusable(error.strerror))
        else:
            self._records += len(batch)
            self._has_records.set()
            for _, done in batch:
                if not done.done():
                    done.set_result(None)
        finally:
            # What was appended meanwhile stands behind them.
            del self._queue[: len(batch)]
            self._queued_bytes -= len(data)

    # In a thread, one at a time. What is known of the file changes in the loop alone.

    def _write(self, data: bytes, start: int) -> int:
        """Where the next record begins, once these are on disk."""
        view, at = memoryview(data), start
        try:
            while view:
                written = os.pwrite(self._records_fd, view, at)
                view, at = view[written:], at + written
            os.fdatasync(self._records_fd)
        except OSError:
            try:
                os.ftruncate(self._records_fd, start)
            except OSError:
                self._is_broken = True
            raise
        return at

    def _empty(self, _: int) -> None:
        # In this order: between the two steps everything would merely be drained once more.
        self._write_position(0)
        os.ftruncate(self._records_fd, 0)
        os.fsync(self._records_fd)

    def _read_position(self) -> int:
        try:
            found = orjson.loads((self._directory / "position").read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return 0
        match found:
            case {"drained": int(drained)} if drained >= 0:
                return drained
            case _:
                return 0

    def _write_position(self, drained: int) -> None:
        self._write_file("position", orjson.dumps({"drained": drained}))

    def _write_file(self, name: str, content: bytes) -> None:
        fresh = self._directory / f"{name}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._directory / name)
        self._sync_directory()

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


async def _in_thread(work: Callable[[], Result]) -> Result:
    """Run to its end even when cancelled: the file must not be closed under a thread that writes."""
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


class _Mapped:
    """The first bytes of a file as a buffer; an empty file cannot be mapped."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._map = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) if size else None

    def __enter__(self) -> mmap.mmap | bytes:
        return b"" if self._map is None else self._map

    def __exit__(self, *_: object) -> None:
        if self._map is not None:
            self._map.close()


def _pieces(buffer: mmap.mmap | bytes, start: int, end: int) -> Iterator[_Piece]:
    """Records, and the gaps between them that are none; what follows the last record is left out."""
    at = start
    while (piece := _record_at(buffer, at, end)) is not None or at < end:
        if piece is None:
            gap_start = at
            while (at := buffer.find(_MAGIC, at + 1)) >= 0:
                if (piece := _record_at(buffer, at, end)) is not None:
                    break
            else:
                return
            assert piece is not None
            yield _Piece(gap_start, piece.start, None)
        yield piece
        at = piece.end


def _record_at(buffer: mmap.mmap | bytes, at: int, end: int) -> _Piece | None:
    body_at = at + _HEAD.size
    if body_at > end:
        return None
    magic, length, checksum = _HEAD.unpack_from(buffer, at)
    if magic != _MAGIC or length > BODY_BYTES_MAX or body_at + length > end:
        return None
    body = bytes(buffer[body_at : body_at + length])
    return _Piece(at, body_at + length, body) if zlib.crc32(body) == checksum else None
