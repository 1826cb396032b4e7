"""The real engine as a process of its own over a world of allocations, started and ended at will."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from benchmarks.cores import Cores, cpu_s, descendants, is_postgres, until_quiet
from benchmarks.generator import Load, Stream, drive, pace, run
from benchmarks.progress import say
from benchmarks.world import TENANT, World, check_room, fill
from cordboard.settings import SHARED_MEMORY, Settings
from cordboard.simulator.client import Client, Credentials
from cordboard.simulator.engine import READY_PREFIX
from cordboard.simulator.wire import basic
from cordboard.storage.embedded import (
    EmbeddedPostgres,
    EngineAlreadyRunning,
    PostgresUnavailable,
    ServerAddress,
    running_server,
)

CLIENTS: Final = 32
# Where receivers of events listen.
CALLS_BACK: Final = "127.0.0.1"
# An initdb and a slow machine; and for each allocation 25 times what is aimed at (ten million in 4 min).
START_TIMEOUT_S: Final = 90.0
START_TIMEOUT_S_AN_ALLOCATION: Final = 600e-6
STOP_TIMEOUT_S: Final = 120.0
# Twice what is aimed at: a board in shared memory must not meet its end.
BOARD_BYTES_AN_ALLOCATION: Final = 1_000
LOG_LINES_SHOWN: Final = 15


class EngineDidNotStart(Exception):
    """The engine ended, or did not listen in time; the message ends with its last log lines."""


@dataclass(frozen=True, slots=True)
class Measured:
    load: Load
    # CPU time of the engine for each request, what it does behind its replies among it.
    cpu_us: float


class Engine:
    """`cordboard serve` over a directory. `built` makes one; `start` and `stop` as often as wanted."""

    def __init__(
        self,
        directory: Path,
        board_dir: Path,
        world: World,
        cores: Cores,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.world = world
        self._environment = dict(environment or {})
        self.board_dir = board_dir
        self.credentials = Credentials(TENANT, "", "")
        # What `fill` put into PostgreSQL.
        self.database_bytes = 0
        self._cores = cores
        self._data_dir = directory / "data"
        self._log = directory / "engine.log"
        self._admin_token = secrets.token_urlsafe(24)
        self._process: asyncio.subprocess.Process | None = None
        self._base_url = ""

    @property
    def postgres_dir(self) -> Path:
        return self._data_dir / "postgres"

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None, "it runs"
        return self._process.pid

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self._base_url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    @property
    def database(self) -> ServerAddress:
        address = running_server(self.postgres_dir)
        assert address is not None, "the engine runs, so its database does"
        return address

    @property
    def own_pids(self) -> list[int]:
        """Its processes without PostgreSQL's, the one that was started first."""
        return [self.pid, *(pid for pid in descendants(self.pid) if not is_postgres(pid))]

    # ── start and end ────────────────────────────────────────────────────────

    async def start(self, environment: Mapping[str, str] | None = None) -> float:
        """Return when it listens, and how many seconds that took. Raises EngineDidNotStart."""
        assert self._process is None, "it runs already"
        inherited = {
            key: value
            for key, value in os.environ.items()
            # An installed engine finds its bytecode; compiling takes as long as the rest of a start.
            if not key.startswith("CORDBOARD_") and key != "PYTHONDONTWRITEBYTECODE"
        }
        own = {
            "CORDBOARD_ADMIN_TOKEN": self._admin_token,
            "CORDBOARD_BOARD_DIR": str(self.board_dir),
            "CORDBOARD_LOG_LEVEL": "info",
            "CORDBOARD_CALLBACK_ALLOW": CALLS_BACK,
        }
        started_s = time.perf_counter()
        with self._log.open("ab") as log, self._cores.starting_server():
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cordboard", "serve"),
                *("--host", "127.0.0.1", "--port", "0", "--data-dir", str(self._data_dir)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**inherited, **own, **self._environment, **(environment or {})},
                start_new_session=True,
            )
        timeout_s = START_TIMEOUT_S + START_TIMEOUT_S_AN_ALLOCATION * self.world.allocations
        try:
            async with asyncio.timeout(timeout_s):
                self._base_url = await self._announced()
        except TimeoutError as error:
            raise EngineDidNotStart(f"not ready after {timeout_s:g} s\n{self._last_log_lines()}") from error
        took_s = time.perf_counter() - started_s
        for pid in descendants(self.pid):
            if is_postgres(pid):
                self._cores.pin(pid, self._cores.other)
        return took_s

    async def _announced(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := (await self._process.stdout.readline()).decode().rstrip("\n"):
            if line.startswith(READY_PREFIX):
                return line.removeprefix(READY_PREFIX)
        raise EngineDidNotStart(f"it ended\n{self._last_log_lines()}")

    async def stop(self) -> None:
        """As an operator does; its database stops, too."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """As a crash does, of all its processes. The database goes on, for the next engine to adopt."""
        for pid in self.own_pids[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def clear_away(self) -> None:
        """Leave nothing running, whatever state things are in."""
        await self.stop()
        with suppress(PostgresUnavailable, EngineAlreadyRunning):
            if running_server(self.postgres_dir) is not None:
                orphan = EmbeddedPostgres(self.postgres_dir)
                await orphan.start()
                await orphan.stop()

    def forget_board(self) -> None:
        """So that the next start loads it from PostgreSQL."""
        for entry in self.board_dir.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def board_files(self) -> Path:
        """The directory of the LMDB environment that is in use."""
        [directory] = self.board_dir.glob("board-*")
        return directory

    # ── what is done with it ─────────────────────────────────────────────────

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with aiohttp.ClientSession() as session:
            yield Client(session, self._base_url, self._admin_token)

    async def measure(
        self,
        connections: int,
        requests: Iterator[bytes],
        seconds: float | None,
        *,
        ending: bytes = b"",
        warm_up_s: float = 0.0,
        replies: list[bytes] | None = None,
    ) -> Measured:
        """A closed loop, and all that it leaves to be done behind its replies."""
        return await self._measured(
            drive(
                self.address,
                connections,
                requests,
                seconds,
                ending=ending,
                warm_up_s=warm_up_s,
                replies=replies,
            )
        )

    async def measure_at(
        self,
        per_second: float,
        requests: Iterator[bytes],
        seconds: float,
        *,
        ending: bytes = b"",
        warm_up_s: float = 0.0,
    ) -> Measured:
        """The same in an open loop."""
        return await self._measured(
            pace(self.address, CLIENTS, requests, per_second, seconds, ending=ending, warm_up_s=warm_up_s)
        )

    async def run(self, streams: list[Stream], seconds: float, *, warm_up_s: float = 0.0) -> list[Load]:
        loads = await run(self.address, streams, seconds, warm_up_s=warm_up_s)
        await self.settle()
        return loads

    async def _measured(self, loading: Any) -> Measured:
        before_s = cpu_s(*self.own_pids)
        load: Load = await loading
        await self.settle()
        return Measured(load, (cpu_s(*self.own_pids) - before_s) / load.requests * 1e6)

    async def settle(self) -> None:
        """Wait until it has written what it owes."""
        await until_quiet(self.pid, *descendants(self.pid))

    def _last_log_lines(self) -> str:
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])


@asynccontextmanager
async def built(
    allocations: int, cores: Cores, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Engine]:
    """An engine that has stopped, over a database with the world in it and no board yet; all of it is removed
    afterwards. Raises NoRoom, EngineDidNotStart."""
    check_room(Path(tempfile.gettempdir()), allocations)
    directory = Path(tempfile.mkdtemp(prefix="cordboard-bench-"))
    board_dir = Path(tempfile.mkdtemp(prefix="cordboard-bench-", dir=_memory_for(allocations)))
    world = World(allocations)
    engine = Engine(directory, board_dir, world, cores, environment)
    try:
        await engine.start()
        async with engine.client() as client:
            # Those who are listed on A are connected without a PIN; on B they, and strangers, need it.
            engine.credentials = await client.add_tenant(TENANT, {"aparty_pin_enabled": "false"})
        await engine.stop()
        say(f"making {allocations:,} allocations")
        engine.database_bytes = await fill(engine.postgres_dir, world)
        engine.forget_board()
        yield engine
    finally:
        await asyncio.shield(engine.clear_away())
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(board_dir, ignore_errors=True)


def has_workers() -> bool:
    """Whether this engine can be told how many processes answer."""
    return "workers" in Settings.model_fields


def _memory_for(allocations: int) -> Path | None:
    """Shared memory, as `cordboard serve` does it by itself, where there is some and it has room."""
    wanted = allocations * BOARD_BYTES_AN_ALLOCATION
    has_room = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > wanted
    return SHARED_MEMORY if has_room else None


# ── requests of a tenant's software ──────────────────────────────────────────


def api_request(credentials: Credentials, method: str, path: str, body: object = None) -> bytes:
    """`/v1/tenants/{tenant}` and `path`."""
    content = b"" if body is None else orjson.dumps(body)
    head = (
        f"{method} /v1/tenants/{credentials.tenant_id}{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: {basic(credentials.tenant_id, credentials.api_token)}\r\n"
    )
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"\r\n" + content


def create_requests(engine: Engine, name: str, first_a: int, first_b: int) -> Iterator[bytes]:
    """Creates without end, each of other people, called `name`-0 and so on."""
    for n in count():
        wanted = order(f"{name}-{n}", first_a + n, first_b + n, engine.world.virtual_number(n))
        yield api_request(engine.credentials, "POST", "/greenpin", wanted)


def order(
    transaction_id: str, a: int, b: int, virtual_number: int, *, pin: str | None = None, duration: str = "2h"
) -> dict[str, object]:
    """The body of a create as the vendor's page has it. Without `pin` the engine draws one of six digits."""
    vns = [f"+91{virtual_number}"]
    given = {"pin_length": 6} if pin is None else {"pin": pin}
    return {
        "transaction_id": transaction_id,
        "a": {"vns": vns, "numbers": [f"+91{a}"]},
        "b": {"vns": vns, "numbers": [f"+91{b}"], **given},
        "usage": "twoway",
        "deallocation_policy": {"duration": duration},
    }
