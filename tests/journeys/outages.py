"""A database that an engine loses: stopped, hung, or refusing connections; and a proxy that hangs on cue."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

from cordboard.storage.embedded import DATABASE, PORT, USER, EmbeddedPostgres


class Outage(Protocol):
    """`dsn` is what the engine is told."""

    dsn: str

    async def begin(self) -> None: ...
    async def end(self) -> None: ...


def processes_of(postgres_dir: Path) -> list[int]:
    """The postmaster, first, and its children."""
    pid = int((postgres_dir / "data" / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def send_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


class Stopped:
    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self.dsn = postgres.dsn
        self._postgres = postgres

    async def begin(self) -> None:
        await self._postgres.stop()

    async def end(self) -> None:
        await self._postgres.start()


class Hung:
    """SIGSTOP: connections are taken, and nothing is ever said."""

    def __init__(self, postgres: EmbeddedPostgres, directory: Path) -> None:
        self.dsn = postgres.dsn
        self._directory = directory
        self._stopped: list[int] = []

    async def begin(self) -> None:
        self._stopped = processes_of(self._directory)
        send_all(self._stopped, signal.SIGSTOP)

    async def end(self) -> None:
        # The postmaster first would make it look after children that cannot answer.
        send_all(reversed(self._stopped), signal.SIGCONT)


class Refusing:
    """The server is well, and the way to it is not."""

    def __init__(self, proxy: Proxy) -> None:
        self.dsn = proxy.dsn
        self._proxy = proxy

    async def begin(self) -> None:
        await self._proxy.close()

    async def end(self) -> None:
        await self._proxy.open()


class Proxy:
    """Passes bytes between engine and server; can hang, and hang by itself before a certain commit."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._address = postgres.address
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._word: bytes | None = None
        self._commits_itself = False
        self.hanging = asyncio.Event()

    @property
    def dsn(self) -> str:
        return (
            f"postgresql://{USER}:{self._address.password}@127.0.0.1:{self._port}/{DATABASE}?sslmode=disable"
        )

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse connections, and cut those that there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    def hang(self) -> None:
        self._flowing.clear()

    def hang_before_commit_of(self, word: bytes, *, commits_itself: bool = False) -> None:
        """Let nothing through any more from the COMMIT of the transaction that has `word` in it; or from the
        statement itself, if that is its own transaction."""
        self._word = word
        self._commits_itself = commits_itself

    def flow(self) -> None:
        """Let everything through that was held back, also from those who have gone."""
        self._word = None
        self._flowing.set()
        self.hanging.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        socket = f"{self._address.socket_directory}/.s.PGSQL.{PORT}"
        with suppress(ConnectionError):
            server_reader, server_writer = await asyncio.open_unix_connection(socket)
            self._writers |= {writer, server_writer}
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._pass(reader, server_writer, is_asking=True))
                    tasks.create_task(self._pass(server_reader, writer, is_asking=False))
            finally:
                self._writers -= {writer, server_writer}
        writer.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_asking: bool
    ) -> None:
        is_meant = False
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if is_asking and self._word is not None:
                    is_meant |= self._word in data
                    if is_meant and (self._commits_itself or b"COMMIT" in data):
                        self.hang()
                        self.hanging.set()
                await self._flowing.wait()
                with suppress(ConnectionError):
                    writer.write(data)
                    await writer.drain()
        await self._flowing.wait()
        writer.close()


@asynccontextmanager
async def a_database(directory: Path) -> AsyncIterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(directory)
    await postgres.start()
    try:
        yield postgres
    finally:
        with suppress(FileNotFoundError):
            send_all(processes_of(directory), signal.SIGCONT)
        await postgres.stop()


@asynccontextmanager
async def a_proxy(postgres: EmbeddedPostgres) -> AsyncIterator[Proxy]:
    proxy = Proxy(postgres)
    await proxy.open()
    try:
        yield proxy
    finally:
        proxy.flow()
        await proxy.close()
