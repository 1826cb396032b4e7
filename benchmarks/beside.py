"""The engine beside its peers: the same hops over the same data, in turns.

Every round measures each side once, one at a time and all on the server's core, as fast as it goes; a ratio
is the median over rounds. Then both sides get half of what the peer can do at most, in an open loop, and the
p99 of neighbouring rounds are compared.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import asyncpg

from benchmarks.cores import Cores, cpu_s
from benchmarks.engine import CLIENTS, Engine, Measured
from benchmarks.figures import Figure, measured_figure, ratio_figure, skipped
from benchmarks.generator import drive, pace
from benchmarks.hops import Requests, applet_requests
from benchmarks.peers.fastapi_redis import fill
from benchmarks.peers.lookup import Wiring
from benchmarks.progress import say
from benchmarks.servers import Server, served
from benchmarks.world import TENANT

PART: Final = "beside"
WARM_UP_S: Final = 0.3
REDIS_START_S: Final = 10.0
REDIS_POLL_S: Final = 0.02

BARE, FASTAPI_SQL, AIOHTTP_SQL, FASTAPI_REDIS = (
    "bare aiohttp",
    "FastAPI + SQL",
    "aiohttp + SQL",
    "FastAPI + Redis",
)
MODULES: Final = {
    BARE: "benchmarks.peers.bare",
    FASTAPI_SQL: "benchmarks.peers.fastapi_sql",
    AIOHTTP_SQL: "benchmarks.peers.aiohttp_sql",
    FASTAPI_REDIS: "benchmarks.peers.fastapi_redis",
}
HOPS: Final = ("passthru", "connect", "gather")


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is spent on it."""

    hops: tuple[str, ...]
    rounds: int
    seconds: float


async def beside(engine: Engine, cores: Cores, effort: Effort) -> AsyncIterator[Figure]:
    async with AsyncExitStack() as stack:
        redis_socket = await stack.enter_async_context(running_redis(cores))
        if redis_socket:
            say(f"beside: {await _copy(engine, redis_socket):,} keys in Redis")
        wiring = Wiring(engine.database.dsn, TENANT, engine.credentials.applet_key, redis_socket)
        peers: dict[str, Server] = {}
        for name, module in MODULES.items():
            if name == FASTAPI_REDIS and not redis_socket:
                yield skipped(PART, f"{name}: there is no redis-server on this machine")
                continue
            peers[name] = await stack.enter_async_context(served(module, cores, wiring.environment()))
        for hop in effort.hops:
            say(f"beside: {hop}")
            async for figure in _one_hop(engine, peers, hop, effort):
                yield figure


async def _copy(engine: Engine, redis_socket: str) -> int:
    connect_kwargs: dict[str, Any] = dict(engine.database.connect_kwargs)
    connection = await asyncpg.connect(**connect_kwargs)
    try:
        return await fill(connection, redis_socket)
    finally:
        await connection.close()


async def _one_hop(
    engine: Engine, peers: dict[str, Server], hop: str, effort: Effort
) -> AsyncIterator[Figure]:
    allocations = engine.world.allocations
    requests = applet_requests(engine, hop)
    ours: list[Measured] = []
    theirs: dict[str, list[Measured]] = {name: [] for name in peers}
    for _ in range(effort.rounds):
        # It waits until the engine has written what it owes, so that no round pays for another.
        ours.append(await engine.measure(CLIENTS, requests(), effort.seconds, warm_up_s=WARM_UP_S))
        for name, peer in peers.items():
            theirs[name].append(await _fastest(peer, requests, effort.seconds))
    yield measured_figure(PART, f"{hop}: cordboard", ours, allocations=allocations)
    for name, rounds in theirs.items():
        yield measured_figure(PART, f"{hop}: {name}", rounds, allocations=allocations)
        ratios = [
            mine.load.per_second / other.load.per_second for mine, other in zip(ours, rounds, strict=True)
        ]
        yield ratio_figure(PART, f"{hop}: requests/s against {name}", ratios, allocations=allocations)
    for name, rounds in theirs.items():
        half = median(one.load.per_second for one in rounds) / 2
        mine_at: list[Measured] = []
        their_at: list[Measured] = []
        for _ in range(effort.rounds):
            mine_at.append(await engine.measure_at(half, requests(), effort.seconds, warm_up_s=WARM_UP_S))
            their_at.append(await _paced(peers[name], requests, half, effort.seconds))
        rate = f"{half:,.0f}/s due, half of what {name} can do"
        yield measured_figure(
            PART, f"{hop}: cordboard at half of {name}", mine_at, allocations=allocations, note=rate
        )
        yield measured_figure(
            PART, f"{hop}: {name} at half of it", their_at, allocations=allocations, note=rate
        )
        ratios = [
            mine.load.latency.p99_us / other.load.latency.p99_us
            for mine, other in zip(mine_at, their_at, strict=True)
        ]
        yield ratio_figure(PART, f"{hop}: p99 against {name}", ratios, allocations=allocations, note=rate)


async def _fastest(peer: Server, requests: Requests, seconds: float) -> Measured:
    before_s = cpu_s(peer.pid)
    load = await drive(peer.address, CLIENTS, requests(), seconds, warm_up_s=WARM_UP_S)
    return Measured(load, (cpu_s(peer.pid) - before_s) / load.requests * 1e6)


async def _paced(peer: Server, requests: Requests, per_second: float, seconds: float) -> Measured:
    before_s = cpu_s(peer.pid)
    load = await pace(peer.address, CLIENTS, requests(), per_second, seconds, warm_up_s=WARM_UP_S)
    return Measured(load, (cpu_s(peer.pid) - before_s) / load.requests * 1e6)


@asynccontextmanager
async def running_redis(cores: Cores) -> AsyncIterator[str]:
    """The path of the socket of an empty Redis on the core of PostgreSQL; empty text where there is no server
    to start."""
    program = redis_program()
    if program is None:
        yield ""
        return
    directory = Path(tempfile.mkdtemp(prefix="cordboard-redis-"))
    path = directory / "redis.sock"
    process = await asyncio.create_subprocess_exec(
        *(program, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"),
        *("--dir", str(directory), "--logfile", str(directory / "log")),
    )
    cores.pin(process.pid, cores.other)
    try:
        async with asyncio.timeout(REDIS_START_S):
            while not path.exists():  # noqa: ASYNC110 - of another process.
                await asyncio.sleep(REDIS_POLL_S)
        yield str(path)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def redis_program() -> str | None:
    """The system's redis-server, or that of a wheel beside our Python."""
    beside_python = Path(sys.executable).with_name("redis-server")
    return shutil.which("redis-server") or (str(beside_python) if beside_python.exists() else None)
