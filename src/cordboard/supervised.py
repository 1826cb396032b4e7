"""A process under the supervisor: what it is told, what it says, and how it ends.

Its standard input is a socket to the supervisor. On it comes one line, the assignment, and later perhaps
`drain`; back go `waiting` and `ready`, or `failed` with the reason. When the supervisor is gone the socket
ends, and so does the process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import orjson
import structlog
import uvloop
from pydantic import SecretStr

from cordboard.clock import SystemClock
from cordboard.logs import configure_logging
from cordboard.node import (
    SHUTDOWN_S,
    allow_connections,
    logging_hops,
    running_board,
    running_worker,
    tame_collector,
)
from cordboard.postal_table import BadPostalTable
from cordboard.settings import Settings, admin_token
from cordboard.storage.database import Database, DatabaseAway
from cordboard.storage.sealing import DataKeyMissing
from cordboard.switchboard.keeper import told_now_and_then
from cordboard.tallies import leave
from cordboard.tracing import TracingUnavailable, tracing_of
from cordboard.web.app import KEEPALIVE_S, serving

# Whoever keeps the board; a successor has the other name.
BOARD_SLOTS: Final = ("node-0", "node-1")

WAITING: Final = b"waiting"
READY: Final = b"ready"
FAILED: Final = b"failed"
DRAIN: Final = b"drain"

# Connections of a process that is to end are closed by their clients, or after they were idle for that long.
DRAIN_S: Final = KEEPALIVE_S + 5.0
# A worker batches what it writes: the batches of some cells, and the API's reads beside them.
CONNECTIONS_OF_WORKER: Final = 8

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a process is to be."""

    slot: str
    settings: Settings
    # Of `Database`: how to reach it.
    database: dict[str, Any]
    # Descriptors that were inherited, of sockets that listen.
    listeners: tuple[int, ...] = ()

    def to_line(self) -> bytes:
        """Secrets among it: for the socket, never for a log."""
        said = {
            "slot": self.slot,
            "settings": dict(self.settings),
            "database": self.database,
            "listeners": self.listeners,
        }
        return orjson.dumps(said, default=_plain) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        said = orjson.loads(line)
        return cls(said["slot"], Settings(**said["settings"]), said["database"], tuple(said["listeners"]))


def _plain(value: object) -> object:
    match value:
        case SecretStr():
            return value.get_secret_value()
        case Path():
            return str(value)
        case _:
            raise TypeError(type(value).__name__)


class Supervisor:
    """The other end of the socket, as a process under it sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.stop = asyncio.Event()
        self.drain = asyncio.Event()

    @classmethod
    async def connect(cls) -> Self:
        end = socket.socket(fileno=os.dup(sys.stdin.fileno()))
        return cls(*await asyncio.open_unix_connection(sock=end))

    async def assignment(self) -> Assignment:
        return Assignment.from_line(await self._reader.readline())

    def say(self, word: bytes, text: str = "") -> None:
        # The first line of it: a line is a message.
        self._writer.write(b" ".join([word, *text.encode().splitlines()[:1]]) + b"\n")

    async def listen(self) -> None:
        """Until the supervisor is gone; then this process is to end."""
        while line := await self._reader.readline():
            if line.strip() == DRAIN:
                self.drain.set()
        self.stop.set()


async def run() -> int:
    """Be what the supervisor says until it, or SIGTERM, says to end; the exit code."""
    supervisor = await Supervisor.connect()
    assignment = await supervisor.assignment()
    configure_logging(assignment.settings.log_level, assignment.settings.log_format)
    structlog.contextvars.bind_contextvars(process=assignment.slot)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, supervisor.stop.set)
    code = 0
    try:
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(supervisor.listen())
            try:
                if assignment.slot in BOARD_SLOTS:
                    await _keep_board(assignment, supervisor)
                else:
                    await _answer(assignment, supervisor)
            finally:
                listening.cancel()
    except* (DatabaseAway, DataKeyMissing, BadPostalTable, TracingUnavailable, OSError) as failed:
        supervisor.say(FAILED, _sentence(failed.exceptions[0]))
        code = 1
    leave()
    return code


async def _keep_board(assignment: Assignment, supervisor: Supervisor) -> None:
    settings = assignment.settings
    async with AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(tracing_of(settings))
        database = Database(**assignment.database, tracing=tracing)
        await database.connect()
        stack.push_async_callback(database.close)
        await database.migrate()
        say_waiting = partial(supervisor.say, WAITING)
        await stack.enter_async_context(
            running_board(settings, database, SystemClock(), say_waiting, tracing, told_now_and_then())
        )
        tame_collector()
        supervisor.say(READY)
        _log.info("board.in_charge")
        await supervisor.stop.wait()


async def _answer(assignment: Assignment, supervisor: Supervisor) -> None:
    settings = assignment.settings
    # Each of them takes its share of the connections.
    connections_max = -(-settings.connections_max // settings.workers)
    settings = settings.model_copy(update={"connections_max": connections_max})
    allow_connections(connections_max)
    clock = SystemClock()
    token, _ = admin_token(settings)
    async with AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(tracing_of(settings))
        database = Database(**assignment.database, connections_max=CONNECTIONS_OF_WORKER, tracing=tracing)
        # It may be away just now, and calls are decided all the same.
        await database.connect(connections_min=0)
        stack.push_async_callback(database.close)
        switchboard = await stack.enter_async_context(
            running_worker(settings, database, clock, assignment.slot, tracing)
        )
        hops = await stack.enter_async_context(logging_hops(settings, clock))
        listeners = [socket.socket(fileno=descriptor) for descriptor in assignment.listeners]
        server = await stack.enter_async_context(
            serving(switchboard, token, SHUTDOWN_S, listeners, hops, tracing)
        )
        tame_collector()
        supervisor.say(READY)
        _log.info("worker.answering")
        await first_of(supervisor.stop.wait(), supervisor.drain.wait())
        if not supervisor.stop.is_set():
            _log.info("worker.leaving")
            await first_of(supervisor.stop.wait(), server.drained(DRAIN_S))


async def first_of(*waits: Awaitable[object]) -> None:
    """Return when one of them is done; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _sentence(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, DatabaseAway):
        return f"the database cannot be reached ({error})"
    return str(error)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(run()))
