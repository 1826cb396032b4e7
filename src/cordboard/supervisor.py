"""`cordboard serve --workers N`: one process that keeps the board, N that answer, and this one, which only
looks after them.

It binds the listening sockets, one for each worker's slot, and keeps them open: a worker inherits the
socket of its slot, and while it is replaced new connections wait there. It runs the embedded database, which
so outlives every other process, and holds the lock of the data directory.

SIGHUP replaces every process by one with the settings and the program as they are then, one slot after the
other, each when its successor is ready.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import structlog

from cordboard.node import Announced, held, keep_alive, worker_slot
from cordboard.settings import Settings, admin_token, make_private_directory
from cordboard.storage.embedded import EmbeddedPostgres
from cordboard.supervised import BOARD_SLOTS, DRAIN, FAILED, READY, WAITING, Assignment, first_of
from cordboard.tallies import begin_sharing, process_ended, sharing_environment
from cordboard.web.app import BACKLOG, listening_on, url_of

# Requests under way have 10 s, and what they recorded as much again.
STOP_TIMEOUT_S: Final = 25.0
# A process that dies at once is started ever more rarely, from 0.1 s to 5 s.
BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
# One that lived for so long did not die at once.
WELL_AFTER_S: Final = 10.0
# The bell, the watch and migrations beside the pools of the workers and of the node, and some for operators.
DATABASE_CONNECTIONS_BESIDE: Final = 30
DATABASE_CONNECTIONS_OF_WORKER: Final = 10

_log = structlog.get_logger(__name__)


class ProcessFailed(Exception):
    """A process did not start; the message says which, and why if it could tell."""


class Process:
    """One that was started for a slot."""

    def __init__(
        self,
        slot: str,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.slot = slot
        self._process = process
        self._reader = reader
        self._writer = writer
        # For the process before it to leave the board to it.
        self.is_waiting = False

    @classmethod
    async def start(cls, assignment: Assignment, environment: Mapping[str, str]) -> Process:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cordboard.supervised"),
                stdin=theirs.fileno(),
                pass_fds=assignment.listeners,
                env={**os.environ, **environment},
                # Ctrl-C is for the supervisor, which ends the others in their order.
                start_new_session=True,
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        writer.write(assignment.to_line())
        return cls(assignment.slot, process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def said(self, *words: bytes) -> None:
        """Return when it says one of these. Raises ProcessFailed."""
        while line := await self._reader.readline():
            word, _, text = line.strip().partition(b" ")
            if word in words:
                self.is_waiting = word == WAITING
                return
            if word == FAILED:
                await self.ended()
                raise ProcessFailed(text.decode())
        code = await self.ended()
        raise ProcessFailed(f"the process {self.slot} ended with code {code} before it was ready")

    def drain(self) -> None:
        self._writer.write(DRAIN + b"\n")

    async def ended(self) -> int:
        return await self._process.wait()

    async def stop(self) -> None:
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self.ended()
        except TimeoutError:
            _log.error("process.killed", slot=self.slot, pid=self.pid)
            with suppress(ProcessLookupError):
                self._process.kill()
            await self.ended()


class Slot:
    """The place of one process; whoever holds it is replaced when it dies, or when it is asked for.

    A successor counts under another name than the one before it, which still runs: they take turns.
    """

    def __init__(self, names: tuple[str, str], start: Callable[[str], Awaitable[Process]]) -> None:
        self._names = names
        self._start = start
        self._process: Process | None = None
        # Replaced, and still answering who is connected to it.
        self._leaving: Process | None = None
        self._replacing = asyncio.Lock()
        self._replaced = asyncio.Event()

    async def open(self) -> None:
        """Return when its first process is ready. Raises ProcessFailed."""
        self._process = await self._start(self._names[0])
        await self._process.said(READY)

    async def keep(self) -> None:
        """Start another process whenever one dies, until cancelled."""
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_MIN_S
        while True:
            process = self._process
            assert process is not None, "open() comes first"
            since_s = loop.time()
            self._replaced.clear()
            await first_of(process.ended(), self._replaced.wait())
            async with self._replacing:
                if process is not self._process:
                    continue
                code = await process.ended()
                _log.warning("process.died", slot=process.slot, pid=process.pid, code=code)
                if loop.time() - since_s >= WELL_AFTER_S:
                    backoff_s = BACKOFF_MIN_S
                else:
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
                self._process = await self._start(process.slot)
                try:
                    await self._process.said(READY)
                except ProcessFailed as failed:
                    _log.error("process.failed", slot=process.slot, reason=str(failed))
                else:
                    _log.info("process.replaced", slot=process.slot, pid=self._process.pid)

    async def replace(self) -> None:
        """Let another process take over. Raises ProcessFailed, and then the present one stays."""
        async with self._replacing:
            before = self._process
            assert before is not None, "open() comes first"
            if self._leaving is not None:
                # It has had its time since the last replacement, and its name is needed.
                await self._leaving.stop()
            fresh = await self._start(self._names[before.slot == self._names[0]])
            try:
                await fresh.said(WAITING, READY)
            except BaseException:
                await fresh.stop()
                raise
            self._process = fresh
            self._replaced.set()
            if fresh.is_waiting:
                # Only one process may write the board; this one stands ready to do it at once.
                await before.stop()
                await fresh.said(READY)
            else:
                before.drain()
                self._leaving = before
            _log.info("process.replaced", slot=fresh.slot, pid=fresh.pid)

    async def close(self) -> None:
        processes = (self._leaving, self._process)
        await asyncio.gather(*(process.stop() for process in processes if process is not None))


@dataclass(frozen=True, slots=True)
class _Place:
    """What all processes share."""

    database: dict[str, Any]
    # Of each worker.
    listeners: list[list[socket.socket]]
    counts_dir: Path


async def supervise(read_settings: Callable[[], Settings], announce: Callable[[Announced], None]) -> None:
    """Run a node of several processes until SIGINT or SIGTERM; `announce` is called when all of them answer.

    `read_settings` is called again at SIGHUP, and raises ValueError where they are no settings.

    Raises EngineAlreadyRunning, PostgresUnavailable, ProcessFailed, CannotListen.
    """
    settings = read_settings()
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    with held(settings.data_dir), _one_reason():
        async with _place(settings) as place:
            token, token_file = admin_token(settings)
            supervisor = _Supervisor(place, settings, read_settings)
            async with supervisor.running():
                url = url_of(place.listeners[0][0])
                announce(Announced(url=url, admin_token=token, admin_token_file=token_file))
                _log.info("node.answering", url=url, workers=settings.workers)
                while not stop.is_set():
                    await first_of(stop.wait(), reload.wait())
                    if reload.is_set() and not stop.is_set():
                        reload.clear()
                        await supervisor.replace_all(stop)
                _log.info("node.stopping")
    _log.info("node.stopped")


@contextmanager
def _one_reason() -> Iterator[None]:
    """Groups of tasks that end for one reason say it as it is."""
    try:
        yield
    except BaseExceptionGroup as group:
        reason: BaseException = group
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        raise reason from None


class _Supervisor:
    def __init__(self, place: _Place, settings: Settings, read_settings: Callable[[], Settings]) -> None:
        self._place = place
        self._settings = settings
        self._read_settings = read_settings
        self._board = Slot(BOARD_SLOTS, self._start_board)
        self._workers = [
            Slot((worker_slot(n), worker_slot(n + settings.workers)), partial(self._start_worker, n))
            for n in range(settings.workers)
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        slots = [self._board, *self._workers]
        try:
            # Workers find a board that stands.
            await self._board.open()
            async with asyncio.TaskGroup() as opening:
                for slot in self._workers:
                    opening.create_task(slot.open())
            async with asyncio.TaskGroup() as keeping:
                tasks = [keeping.create_task(slot.keep()) for slot in slots]
                try:
                    yield
                finally:
                    for task in tasks:
                        task.cancel()
        finally:
            # What workers record at their end may be told yet.
            await asyncio.gather(*(slot.close() for slot in self._workers))
            await self._board.close()

    async def replace_all(self, stop: asyncio.Event) -> None:
        """One after the other; where one does not start, it and those after it stay as they are."""
        try:
            fresh = self._read_settings()
        except ValueError as error:
            _log.error("settings.refused", reason=str(error).splitlines()[0])
            return
        self._settings = fresh.model_copy(
            # These belong to the supervisor itself.
            update={name: getattr(self._settings, name) for name in _OF_SUPERVISOR}
        )
        for slot in (self._board, *self._workers):
            if stop.is_set():
                return
            try:
                await slot.replace()
            except ProcessFailed as failed:
                _log.error("process.failed", reason=str(failed))
                return

    async def _start_board(self, slot: str) -> Process:
        return await self._start(Assignment(slot, self._settings, self._place.database))

    async def _start_worker(self, n: int, slot: str) -> Process:
        listeners = tuple(listener.fileno() for listener in self._place.listeners[n])
        return await self._start(Assignment(slot, self._settings, self._place.database, listeners))

    async def _start(self, assignment: Assignment) -> Process:
        counts_dir = self._place.counts_dir
        # What a process before it in this place had open or in memory is gone.
        process_ended(counts_dir, assignment.slot)
        return await Process.start(assignment, sharing_environment(counts_dir, assignment.slot))


_OF_SUPERVISOR: Final = ("data_dir", "board_dir", "database_url", "host", "port", "workers")


@asynccontextmanager
async def _place(settings: Settings) -> AsyncIterator[_Place]:
    """The sockets, the database and the directories. Raises CannotListen, PostgresUnavailable."""
    with listening_on(settings):
        listeners = _listening_sockets(settings)
    try:
        node_dir = settings.node_dir()
        make_private_directory(node_dir)
        counts_dir = node_dir / "counts"
        begin_sharing(counts_dir)
        if settings.database_url is not None:
            yield _Place({"dsn": settings.database_url.get_secret_value()}, listeners, counts_dir)
            return
        wanted = DATABASE_CONNECTIONS_BESIDE + DATABASE_CONNECTIONS_OF_WORKER * settings.workers
        postgres = EmbeddedPostgres(settings.postgres_dir, connections_min=wanted)
        await postgres.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(keep_alive(postgres))
                try:
                    yield _Place(dict(postgres.connect_kwargs), listeners, counts_dir)
                finally:
                    watching.cancel()
        finally:
            await postgres.stop()
    finally:
        for listener in chain(*listeners):
            listener.close()


def _listening_sockets(settings: Settings) -> list[list[socket.socket]]:
    """For each worker a socket on every address of the host; the kernel shares out what comes."""
    host, port = settings.host, settings.port
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # Sockets that share a port do so with any other engine of this user, which would take half of our calls.
    for family, *_, address in addresses:
        with socket.socket(family, socket.SOCK_STREAM) as alone:
            _bind(alone, address, port)
    listeners: list[list[socket.socket]] = []
    try:
        for _ in range(settings.workers):
            listeners.append([])
            for family, *_, address in addresses:
                listener = socket.socket(family, socket.SOCK_STREAM)
                listeners[-1].append(listener)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                _bind(listener, address, port)
                # With port 0 the first one finds a free one for all.
                port = listener.getsockname()[1]
                listener.listen(BACKLOG)
    except BaseException:
        for listener in chain(*listeners):
            listener.close()
        raise
    return listeners


def _bind(listener: socket.socket, address: tuple[Any, ...], port: int) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address[0], port, *address[2:]))
